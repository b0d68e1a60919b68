//! Secrets typed at a terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;

/// Shows `prompt` at the caller's terminal and reads a line that is not shown. Fails where there is no terminal.
pub fn ask(prompt: &str) -> io::Result<String> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let fd = terminal.as_raw_fd();
    let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `fd` is open, and `before` has room for what tcgetattr writes; it is read only when that succeeded.
    let before = unsafe {
        if libc::tcgetattr(fd, before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        before.assume_init()
    };
    let mut silent = before;
    silent.c_lflag &= !(libc::ECHO);
    silent.c_lflag |= libc::ECHONL;
    // SAFETY: `fd` is open and the settings are the terminal's own but for two flags.
    if unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &raw const silent) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut line = String::new();
    let read = terminal
        .write_all(prompt.as_bytes())
        .and_then(|()| terminal.flush())
        .and_then(|()| BufReader::new(&terminal).read_line(&mut line));
    // SAFETY: as above; the settings are those that were there before.
    unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &raw const before) };
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

//! Leaving the terminal and the parent.

use std::fs::OpenOptions;
use std::io;

use nix::unistd::{ForkResult, fork, setsid};

/// Goes on in a child process that leads its own session, with standard input, output and error on `/dev/null`; the
/// parent calls `parent` with the child's number and exits with the status it gives.
///
/// Must be called while the process has one thread.
pub fn daemonize(parent: impl FnOnce(u32) -> i32) -> io::Result<()> {
    // SAFETY: with one thread (the caller's promise) no lock is held by a thread that the child lacks.
    match unsafe { fork() }.map_err(crate::io)? {
        ForkResult::Parent { child } => std::process::exit(parent(child.as_raw().unsigned_abs())),
        ForkResult::Child => {
            setsid().map_err(crate::io)?;
            silence()
        }
    }
}

/// Puts standard input, output and error on `/dev/null`.
pub fn silence() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null).map_err(crate::io)?;
    nix::unistd::dup2_stdout(&null).map_err(crate::io)?;
    nix::unistd::dup2_stderr(&null).map_err(crate::io)
}

/// Leads a new session; without effect for a process that leads its group already.
pub fn new_session() {
    // Fails for a group leader only, which needs no new session.
    let _ = setsid();
}

/// Sets the file mode creation mask and gives the former one.
pub fn umask(mask: u32) -> u32 {
    use nix::sys::stat::{Mode, umask};
    umask(Mode::from_bits_truncate(mask as libc::mode_t)).bits() as u32
}

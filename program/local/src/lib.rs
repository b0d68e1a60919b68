//! One short-lived process under the recipient's uid: the worker of local delivery.
//!
//! The supervisor started it with the user's ID, an empty environment and one socket as standard input; the engine
//! speaks to it over that socket and closes it when there is nothing more to do. What it can reach if taken over is
//! what its user can reach.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid};

/// The engine has closed its end.
fn hung_up(socket: &UnixStream) -> bool {
    let mut looked = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    // Hanging up is told without being asked for.
    let _ = poll(&mut looked, PollTimeout::ZERO);
    looked[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// `--chroot DIRECTORY UID GID`: goes below its new root and gives up root's rights for good. Without it they were given
/// up before this program began.
fn settle(args: &[String]) -> std::io::Result<()> {
    let [option, directory, uid, gid] = args else {
        return if args.is_empty() { Ok(()) } else { Err(std::io::ErrorKind::InvalidInput.into()) };
    };
    let number = |text: &String| text.parse::<u32>().ok().filter(|id| *id > 0);
    let (Some(uid), Some(gid), "--chroot") = (number(uid), number(gid), option.as_str()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::chroot(directory.as_str())?;
    nix::unistd::chdir("/")?;
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    Ok(())
}

/// Serves jobs until the engine hangs up.
pub fn run(args: &[String]) -> ExitCode {
    yamabiko_sys::daemon::default_signals();
    if let Err(error) = settle(args) {
        // The engine sees a worker that is gone, and defers.
        eprintln!("yamabiko-local: {}: {error}", args.join(" "));
        return ExitCode::from(75);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let served = socket.and_then(|stream| {
        let mut input = std::io::BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut output = stream;
        // Commands that are run must not inherit the conversation.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            let _ = nix::unistd::dup2_stdin(null);
        }
        // Other processes of the user, the commands that are run here among them, have no business in the conversation.
        let _ = nix::sys::prctl::set_dumpable(false);
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let conversation = output.try_clone()?;
        yamabiko_deliver_local::worker::serve(&mut input, &mut output, &|| !hung_up(&conversation), waits)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // The engine went away in the middle: whatever was not answered is tried again.
        Err(_) => ExitCode::from(75),
    }
}

/// Another job, or a part of one, is there to be read.
fn waits(input: &mut std::io::BufReader<UnixStream>) -> bool {
    if !input.buffer().is_empty() {
        return true;
    }
    let mut socket = [PollFd::new(input.get_ref().as_fd(), PollFlags::POLLIN)];
    poll(&mut socket, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

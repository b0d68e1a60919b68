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

/// Closes every open file but standard input, output and error: what the caller of a daemon had open is none of its
/// business, and even less of the programs that it starts.
///
/// Must be called before this process has opened anything itself.
pub fn close_inherited() {
    // SAFETY: the caller promises that nothing here owns any of these descriptors. Old kernels do not know the call;
    // then they stay open.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Keeps every open file but standard input, output and error from the programs that this process starts.
pub fn keep_inherited_from_children() {
    // SAFETY: only marks descriptors, closes none. Old kernels do not know the flag; then nothing changes.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
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

/// Signals that somebody ignored (`nohup`, a supervisor) end this process again, and the programs that it starts.
pub fn default_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for one in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGALRM, Signal::SIGCHLD] {
        // SAFETY: no handler is installed, so nothing runs in a signal's context. It cannot fail for these.
        let _ = unsafe { signal(one, SigHandler::SigDfl) };
    }
}

/// The program that `command` starts gets all signals, whatever this thread holds back: a mask is inherited, and a process that
/// waits for its signals by a descriptor has them blocked.
pub fn give_all_signals(command: &mut std::process::Command) {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only one system call is made, on a value that is there already.
    unsafe {
        let none = SigSet::empty();
        command.pre_exec(move || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None)?));
    }
}

/// The program that `command` starts ignores SIGPIPE and SIGXFSZ, as the programs do that Postfix's delivery agents start: a
/// write to a pipe without a reader, or beyond a limit of the system, fails and can be told.
pub fn writes_may_fail(command: &mut std::process::Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only system calls are made, and no handler is installed.
    unsafe {
        command.pre_exec(|| {
            for one in [Signal::SIGPIPE, Signal::SIGXFSZ] {
                signal(one, SigHandler::SigIgn)?;
            }
            Ok(())
        });
    }
}

//! Becoming another user, and never being able to go back.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid};

/// Which supplementary groups to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups<'a> {
    /// None but the primary one.
    None,
    /// Those of this account, as at login.
    Of(&'a str),
}

/// Gives up all privileges for good: real, effective and saved ids, and supplementary groups. A process that does not
/// run as root can only confirm the ids it has. On any error the caller must end the process.
///
/// Fails with `PermissionDenied` when asked to become root, or when the old ids could be taken back.
pub fn drop_for_good(uid: u32, gid: u32, groups: Groups<'_>) -> io::Result<()> {
    if uid == 0 || gid == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "refusing to run as root"));
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if nix::unistd::geteuid().is_root() {
        match groups {
            Groups::None => setgroups(&[group]),
            Groups::Of(name) => {
                let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                initgroups(&name, group)
            }
        }
        .map_err(crate::io)?;
    }
    setresgid(group, group, group).map_err(crate::io)?;
    setresuid(user, user, user).map_err(crate::io)?;
    let (uids, gids) = (getresuid().map_err(crate::io)?, getresgid().map_err(crate::io)?);
    let changed = [uids.real, uids.effective, uids.saved].iter().all(|&id| id == user)
        && [gids.real, gids.effective, gids.saved].iter().all(|&id| id == group);
    // The kernel may be told to let a process regain what it had (capabilities kept): try it.
    if !changed || setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "privileges could not be dropped"));
    }
    Ok(())
}

/// A program that is installed setuid or setgid goes on with no more rights than its caller has. On any error the
/// caller must end the process.
pub fn give_up_set_id() -> io::Result<()> {
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    setresgid(group, group, group).map_err(crate::io)?;
    setresuid(user, user, user).map_err(crate::io)
}

/// Forgets the environment but for the search path. For programs with more rights than their caller, who wrote it. Must
/// be called before there is a second thread.
pub fn forget_environment() {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).filter(|name| name != "PATH").collect();
    for name in names {
        // SAFETY: the caller promises that there is no other thread that could read the environment now.
        unsafe { std::env::remove_var(name) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_root() {
        assert_eq!(drop_for_good(0, 5, Groups::None).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(drop_for_good(5, 0, Groups::None).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_child_that_dropped_cannot_return() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // Ids belong to the whole process: done in a child. It only makes system calls before it exits.
        // SAFETY: the child calls nothing that needs a lock another thread may hold.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let good = drop_for_good(65534, 65534, Groups::None).is_ok()
                    && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err();
                // SAFETY: ends the child at once, without the parent's exit handlers.
                unsafe { libc::_exit(if good { 0 } else { 1 }) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }
}

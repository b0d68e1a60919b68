//! Locks on mailboxes and other files: flock(2), fcntl(2) and the dot lock `file.lock`.
//!
//! `mailbox_delivery_lock` lists styles; all of them are taken, and given back when the lock is dropped.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};

/// One way of locking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// flock(2).
    Flock,
    /// fcntl(2).
    Fcntl,
    /// A file `name.lock` beside the file.
    Dotlock,
}

impl Style {
    /// Postfix's word for it: `flock`, `fcntl`, `dotlock`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "flock" => Some(Self::Flock),
            "fcntl" => Some(Self::Fcntl),
            "dotlock" => Some(Self::Dotlock),
            _ => None,
        }
    }
}

/// How long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `deliver_lock_attempts`, at least one.
    pub attempts: u32,
    /// `deliver_lock_delay`, between attempts.
    pub delay: Duration,
    /// `stale_lock_time`: a dot lock older than this is removed.
    pub stale: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 20, delay: Duration::from_secs(1), stale: Duration::from_secs(500) }
    }
}

/// Tries flock(2) once, exclusively. `false`: another process has it. The lock ends when the file is closed.
pub fn try_flock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Tries fcntl(2) once, exclusively, on the whole file. The lock ends when this process closes *any* descriptor of the
/// file, or with [`fcntl_unlock`].
pub fn try_fcntl(file: &File) -> io::Result<bool> {
    use nix::errno::Errno;
    match fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK as i16))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(crate::io(error)),
    }
}

/// Gives an fcntl lock back.
pub fn fcntl_unlock(file: &File) -> io::Result<()> {
    fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole_file(libc::F_UNLCK as i16))).map(drop).map_err(crate::io)
}

fn whole_file(kind: i16) -> libc::flock {
    libc::flock { l_type: kind, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// A dot lock; removed when dropped.
#[derive(Debug)]
pub struct DotLock {
    path: PathBuf,
}

impl DotLock {
    /// Tries once to create `path.lock`; `None`: another process has it. A lock file older than `stale` is removed
    /// first.
    pub fn try_take(path: &Path, stale: Duration) -> io::Result<Option<Self>> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).mode(0o444).open(&lock) {
                Ok(_) => return Ok(Some(Self { path: lock })),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) => {}
            }
            let age = match std::fs::symlink_metadata(&lock) {
                Ok(metadata) => SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default(),
                // Its owner has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if age <= stale {
                return Ok(None);
            }
            match std::fs::remove_file(&lock) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl Drop for DotLock {
    fn drop(&mut self) {
        // A lock file that cannot be removed becomes stale in time.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A locked file; the locks end when this is dropped.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
    _dotlock: Option<DotLock>,
}

impl LockedFile {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, for writing.
    pub fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

/// Takes all the locks of `styles` on an open file, waiting as `patience` says (this blocks).
///
/// Fails with `WouldBlock` when another process kept it; the message is Postfix's
/// (`unable to lock for exclusive access: ...` goes before it).
pub fn lock(file: File, path: &Path, styles: &[Style], patience: Patience) -> io::Result<LockedFile> {
    let mut dotlock = None;
    if styles.contains(&Style::Dotlock) {
        let mut tries = 0..patience.attempts.max(1);
        while tries.next().is_some() {
            dotlock = DotLock::try_take(path, patience.stale)?;
            if dotlock.is_some() {
                break;
            }
            if !tries.is_empty() {
                std::thread::sleep(patience.delay);
            }
        }
        if dotlock.is_none() {
            return Err(held(path));
        }
    }
    for style in styles {
        let take = match style {
            Style::Dotlock => continue,
            Style::Flock => try_flock,
            Style::Fcntl => try_fcntl,
        };
        let mut tries = 0..patience.attempts.max(1);
        loop {
            if tries.next().is_none() {
                return Err(held(path));
            }
            if take(&file)? {
                break;
            }
            if !tries.is_empty() {
                std::thread::sleep(patience.delay);
            }
        }
    }
    Ok(LockedFile { file, _dotlock: dotlock })
}

fn held(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, format!("{}: locked by another process", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_exclude() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let once = Patience { attempts: 1, ..Patience::default() };
        let first = lock(open(), &path, &[Style::Flock, Style::Dotlock, Style::Fcntl], once).unwrap();
        assert!(dir.path().join("box.lock").exists());
        for style in [Style::Flock, Style::Dotlock] {
            let error = lock(open(), &path, &[style], once).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        drop(first);
        assert!(!dir.path().join("box.lock").exists());
        lock(open(), &path, &[Style::Flock, Style::Dotlock], once).unwrap();
    }

    #[test]
    fn stale_dot_locks_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        std::fs::write(dir.path().join("box.lock"), "").unwrap();
        assert!(DotLock::try_take(&path, Duration::from_secs(500)).unwrap().is_none());
        assert!(DotLock::try_take(&path, Duration::ZERO).unwrap().is_some());
        assert!(DotLock::try_take(Path::new("/no/such/dir/box"), Duration::ZERO).is_err());
    }
}

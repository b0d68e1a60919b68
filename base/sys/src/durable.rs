//! Files that are there, whole, after a power failure: written aside, flushed, renamed, the directory flushed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Flushes a directory, so that names made or removed in it last.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?.sync_all()
}

/// Asks the kernel to begin writing what a file holds, without waiting. Several files that are then synced one after the
/// other share the waiting. Promises nothing; fails where the file system knows no such thing.
pub fn start_writing(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call takes no pointer.
    let code = unsafe { nix::libc::sync_file_range(file.as_raw_fd(), 0, 0, nix::libc::SYNC_FILE_RANGE_WRITE) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Renames within one file system and flushes the directory of the new name (and of the old one, if another).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    let (old, new) = (from.parent().unwrap_or(Path::new(".")), to.parent().unwrap_or(Path::new(".")));
    sync_dir(new)?;
    if old != new { sync_dir(old) } else { Ok(()) }
}

/// A new file that takes the place of `path` at once when it is complete. Dropped before [`Replacement::commit`], it
/// vanishes and `path` stays as it was.
#[derive(Debug)]
pub struct Replacement {
    file: Option<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Creates the temporary file beside `path` (`path.PID.tmp`), with exactly this mode whatever the umask.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = match open() {
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&temporary)?;
                open()?
            }
            other => other?,
        };
        let new = Self { file: Some(file), temporary, path: path.to_owned() };
        std::fs::set_permissions(&new.temporary, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(new)
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        // Only `commit` takes the file away, and it takes `self` too.
        self.file.as_mut().expect("the file is there until commit")
    }

    /// Gives the file to another owner.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(&self.temporary, Some(uid), Some(gid))
    }

    /// Flushes, renames, flushes the directory.
    pub fn commit(mut self) -> io::Result<()> {
        if let Some(file) = self.file.take()
            && let Err(error) = file.sync_all().and_then(|()| std::fs::rename(&self.temporary, &self.path))
        {
            self.file = Some(file);
            return Err(error);
        }
        sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole file in one durable step.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut new = Replacement::create(path, mode)?;
    new.file().write_all(content)?;
    new.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"one", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let mut half = Replacement::create(&path, 0o644).unwrap();
        half.file().write_all(b"ha").unwrap();
        drop(half);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        rename(&path, &dir.path().join("g")).unwrap();
        assert!(rename(&path, &dir.path().join("g")).is_err());
    }
}

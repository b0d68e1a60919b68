//! A new file in a maildir: written in `tmp`, synced, moved to `new`, the directory synced.
//!
//! In steps, so that files of jobs that waited together go to the disk together: all are written before the first is synced,
//! and the journal's commit for the first then holds the others as well; and all are synced before the first has its name,
//! because whoever is killed between a name and its answer leaves a mail that is delivered again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;
use yamabiko_sys::durable;

use super::{status_for, words};
use crate::job::Done;

fn failed(trouble: &str, what: &str, error: &io::Error) -> Done {
    Done::failed(status_for(error, trouble), format!("maildir delivery failed: {what}: {}", words(error)))
}

/// Status of what goes wrong when the message is written already.
const LATE: &str = "4.2.0";

/// Makes the names in a directory survive a power loss; what to say of the files put there when that fails.
pub(super) fn sync(directory: &Path) -> Option<Done> {
    let synced = File::open(directory).and_then(|open| open.sync_all());
    synced.err().map(|error| failed(LATE, &format!("sync {}", directory.display()), &error))
}

/// A message in `tmp`. Dropped before [`Written::publish`], it vanishes.
pub(super) struct Written {
    file: File,
    temporary: PathBuf,
    new: PathBuf,
    host: String,
    arrived: Duration,
    published: bool,
}

/// Writes one message below `path`, whose missing parts are made. `trouble` is the status of what goes wrong where the
/// system's error has none of its own.
pub(super) fn write(
    path: &str,
    limit: u64,
    trouble: &str,
    prepend: &[u8],
    message: &mut impl Read,
) -> Result<Written, Done> {
    let base = Path::new(path);
    let host = host_name();
    let arrived = now();
    let (file, temporary) = create(base, &host, arrived)
        .map_err(|(name, error)| failed(trouble, &format!("create maildir file {}", name.display()), &error))?;
    let written = Written { file, temporary, new: base.join("new"), host, arrived, published: false };
    copy(&written.file, prepend, message, limit).map_err(|error| failed(trouble, "error writing message", &error))?;
    // The disk may begin; who is not able to ask for that waits longer in `publish`.
    let _ = durable::start_writing(&written.file);
    Ok(written)
}

impl Written {
    /// Waits for the disk.
    pub(super) fn sync(&self) -> Result<(), Done> {
        // With the size, which is all that reading needs; the times of a file are not waited for.
        self.file.sync_data().map_err(|error| failed(LATE, "error writing message", &error))
    }

    /// Gives the file, which is synced, its name in `new`. It is there for good when that directory, which is returned, is
    /// synced.
    pub(super) fn publish(mut self) -> Result<PathBuf, Done> {
        let name = final_name(&self.file, &self.host, self.arrived).map_err(|error| failed(LATE, "fstat", &error))?;
        let place = self.new.join(name);
        let moved = rename_new(&self.temporary, &place).or_else(|error| match self.new.parent() {
            // Whoever made the maildir was stopped in the middle of it, or somebody removed a part (as in Postfix's maildir.c).
            Some(base) if error.kind() == io::ErrorKind::NotFound => {
                make(base)?;
                rename_new(&self.temporary, &place)
            }
            _ => Err(error),
        });
        moved.map_err(|error| failed(LATE, &format!("link to {}", place.display()), &error))?;
        self.published = true;
        Ok(std::mem::take(&mut self.new))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Names are unique because the inode is in them; a file that is there already is not replaced all the same.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems (or kernels) that know no such thing.
        Err(Errno::EINVAL | Errno::ENOSYS) => std::fs::rename(from, to),
        Err(errno) => Err(errno.into()),
    }
}

fn create(base: &Path, host: &str, now: Duration) -> Result<(File, PathBuf), (PathBuf, io::Error)> {
    // Several deliveries by one worker can fall into one second: a count keeps their temporary names apart.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let count = if count == 0 { String::new() } else { format!("_{count}") };
    let name = base.join("tmp").join(format!("{}.P{}{count}.{host}", now.as_secs(), std::process::id()));
    let open =
        || OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&name);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(base).map_err(|error| (name.clone(), error))?;
            open()
        }
        other => other,
    };
    match file {
        Ok(file) => Ok((file, name)),
        Err(error) => Err((name, error)),
    }
}

/// Makes those parts of a maildir that are missing.
fn make(base: &Path) -> io::Result<()> {
    for part in ["tmp", "new", "cur"] {
        DirBuilder::new().recursive(true).mode(0o700).create(base.join(part))?;
    }
    // The maildir itself may be new too.
    let _ = base.parent().and_then(|parent| File::open(parent).ok()).map(|dir| dir.sync_all());
    let _ = File::open(base).map(|dir| dir.sync_all());
    Ok(())
}

fn copy(file: &File, prepend: &[u8], message: &mut impl Read, limit: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 14, file);
    out.write_all(prepend)?;
    let mut size = prepend.len() as u64;
    let mut buffer = [0; 1 << 13];
    loop {
        let n = message.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if limit > 0 && size > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        out.write_all(&buffer[..n])?;
    }
    out.flush()
}

/// `TIME.V<device>I<inode>M<microseconds>.HOST`, as Postfix names them.
fn final_name(file: &File, host: &str, now: Duration) -> io::Result<String> {
    let metadata = file.metadata()?;
    Ok(format!("{}.V{:x}I{:x}M{}.{host}", now.as_secs(), metadata.dev(), metadata.ino(), now.subsec_micros()))
}

#[allow(clippy::disallowed_methods)]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The kernel's host name with what maildir names cannot hold escaped, as maildir(5) has it.
fn host_name() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|_| "localhost".to_owned()).replace('/', "\\057").replace(':', "\\072")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(written: Written) -> Result<PathBuf, Done> {
        written.sync()?;
        written.publish()
    }

    #[test]
    fn a_message_lands_in_new_and_nothing_stays_in_tmp() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("user/Maildir/");
        for _ in 0..3 {
            let written = write(base.to_str().unwrap(), 0, LATE, b"Delivered-To: a\n", &mut &b"\nFrom x\n"[..]);
            assert_eq!(written.and_then(synced), Ok(base.join("new")));
        }
        let files: Vec<_> = std::fs::read_dir(base.join("new")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 3);
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), "Delivered-To: a\n\nFrom x\n");
        assert_eq!(std::fs::read_dir(base.join("tmp")).unwrap().count(), 0);
        let name = files[0].file_name().unwrap().to_str().unwrap().to_owned();
        let parts: Vec<_> = name.splitn(3, '.').collect();
        assert!(parts[1].starts_with('V') && parts[1].contains('I') && parts[1].contains('M'), "{name}");
    }

    #[test]
    fn a_maildir_of_which_a_part_is_missing_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("box");
        for there in [&["tmp"][..], &["tmp", "cur"], &["tmp", "new"], &["new", "cur"], &[]] {
            let _ = std::fs::remove_dir_all(&base);
            there.iter().for_each(|part| std::fs::create_dir_all(base.join(part)).unwrap());
            let written = write(base.to_str().unwrap(), 0, LATE, b"", &mut &b"mail"[..]);
            assert_eq!(written.and_then(synced), Ok(base.join("new")), "{there:?}");
            assert_eq!(std::fs::read_dir(base.join("new")).unwrap().count(), 1, "{there:?}");
            assert_eq!(std::fs::read_dir(base.join("tmp")).unwrap().count(), 0, "{there:?}");
        }
    }

    #[test]
    fn too_large_and_not_possible_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("box");
        let done = write(base.to_str().unwrap(), 4, LATE, b"", &mut &b"12345"[..]).err();
        assert!(matches!(done, Some(Done::Failed { ref status, .. }) if status == "5.2.2"), "{done:?}");
        assert_eq!(std::fs::read_dir(base.join("tmp")).unwrap().count(), 0);
        drop(write(base.to_str().unwrap(), 0, LATE, b"", &mut &b"given up"[..]).unwrap());
        assert_eq!(std::fs::read_dir(base.join("tmp")).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let done = write(file.join("x").to_str().unwrap(), 0, LATE, b"", &mut &b"1"[..]).err();
        assert!(
            matches!(done, Some(Done::Failed { ref reason, .. }) if reason.contains("create maildir file")),
            "{done:?}"
        );
    }
}

//! Delivery into a maildir: written below `tmp`, flushed, renamed into `new` under a name nobody else can have.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A message being delivered; dropped before [`Delivery::commit`], it vanishes.
#[derive(Debug)]
pub struct Delivery {
    file: Option<File>,
    temporary: PathBuf,
    target: PathBuf,
}

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Delivery {
    /// Opens a file for one message in the maildir, which is made (mode 0700, with `tmp`, `new` and `cur`) when it is
    /// not there; its parent must be. `now` is seconds and microseconds since the epoch, `host` this machine's name.
    pub fn create(maildir: &Path, now: (i64, u32), host: &str) -> io::Result<Self> {
        let host = host.replace('/', "\\057").replace(':', "\\072");
        // Unique without the inode, which is not known before the file is.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.P{}Q{count}.{host}", now.0, std::process::id());
        let temporary = maildir.join("tmp").join(name);
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(maildir)?;
                open()?
            }
            other => other?,
        };
        let metadata = file.metadata()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        let target = maildir.join("new").join(format!("{}.V{device:x}I{inode:x}M{}.{host}", now.0, now.1));
        Ok(Self { file: Some(file), temporary, target })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        // Only `commit` takes the file away, and it takes `self` too.
        self.file.as_mut().expect("the file is there until commit")
    }

    /// Flushes the message and moves it into `new`, which is flushed too; gives its name.
    pub fn commit(mut self) -> io::Result<PathBuf> {
        if let Some(file) = self.file.take() {
            let done = file.sync_all().and_then(|()| match std::fs::rename(&self.temporary, &self.target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // `new` was missing.
                    make(self.target.parent().and_then(Path::parent).unwrap_or(Path::new(".")))?;
                    std::fs::rename(&self.temporary, &self.target)
                }
                other => other,
            });
            if let Err(error) = done {
                self.file = Some(file);
                return Err(error);
            }
        }
        crate::durable::sync_dir(self.target.parent().unwrap_or(Path::new(".")))?;
        Ok(self.target.clone())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn make(maildir: &Path) -> io::Result<()> {
    for dir in [maildir.to_owned(), maildir.join("tmp"), maildir.join("new"), maildir.join("cur")] {
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn delivered_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = dir.path().join("Maildir");
        for text in ["one", "two"] {
            let mut delivery = Delivery::create(&maildir, (1_700_000_000, 42), "mx.example.com").unwrap();
            delivery.file().write_all(text.as_bytes()).unwrap();
            let name = delivery.commit().unwrap();
            assert_eq!(std::fs::read_to_string(&name).unwrap(), text);
            assert!(name.file_name().unwrap().to_str().unwrap().ends_with("M42.mx.example.com"));
        }
        drop(Delivery::create(&maildir, (1, 2), "h").unwrap());
        let count = |sub: &str| std::fs::read_dir(maildir.join(sub)).unwrap().count();
        assert_eq!((count("new"), count("tmp"), count("cur")), (2, 0, 0));
        assert!(Delivery::create(&dir.path().join("no/such"), (1, 2), "h").is_err());
    }
}

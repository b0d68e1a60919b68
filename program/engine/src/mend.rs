//! A disk that fails, and then does not any more.
//!
//! After a write or a sync that failed nobody knows what the disk holds, so the queue takes nothing until it is opened
//! again: clients hear 451, and the log has an alarm. A disk that was read-only, or away, comes back one day, and nobody
//! should have to remember us then: once it takes what we write, the engine ends in good order, and the supervisor
//! starts another one, which reads what is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use yamabiko_queue::Queue;

/// How often the disk is tried while the queue cannot be written.
const EVERY: Duration = Duration::from_secs(5);

/// Ends when the queue has failed, and its disk is well again.
pub async fn is_well_again(queue: Arc<Queue>, directory: PathBuf) {
    loop {
        tokio::time::sleep(EVERY).await;
        if queue.failure().is_none() {
            continue;
        }
        let directory = directory.clone();
        let tried = tokio::task::spawn_blocking(move || try_out(&directory)).await;
        if matches!(tried, Ok(Ok(()))) {
            return;
        }
    }
}

/// Writes a file and makes it durable.
fn try_out(directory: &Path) -> io::Result<()> {
    let path = directory.join("try");
    let tried = write_durably(&path).and_then(|()| File::open(directory)?.sync_all());
    let removed = fs::remove_file(&path);
    tried.and(removed)?;
    // What the kernel remembers of a write that failed is not what the disk holds. The next engine reads the disk.
    for entry in fs::read_dir(directory.join("log"))? {
        let file = File::open(entry?.path())?;
        file.sync_data()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}

fn write_durably(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; 64 << 10])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_tried_out() {
        let dir = tempfile::tempdir().unwrap();
        assert!(try_out(dir.path()).is_err());
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("log/1.seg"), "x").unwrap();
        assert!(try_out(dir.path()).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(try_out(Path::new("/nowhere")).is_err());
    }
}

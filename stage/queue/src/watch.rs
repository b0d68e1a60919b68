//! A disk that hangs gives no error: calls that do not return (NFS without its server, a disk that is dying).
//!
//! [`Watched`] is a file system that notes when each call to the one below it began. [`Watch::oldest`] says how long the
//! oldest that has not returned has been under way; it takes no lock and asks no disk, so it can be asked at any time.

use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::fs::{FileSystem, Listed, StoredFile};

/// Calls that are noted at once; the queue has a handful of threads, and more than these go unnoted.
const CALLS: usize = 64;
/// How long an answer about free space is waited for, where the last one is at hand.
const SPACE_PATIENCE: Duration = Duration::from_millis(200);

/// When calls began that have not returned.
#[derive(Debug)]
pub struct Watch {
    start: Instant,
    /// Microseconds since `start`, one more than there were; 0 where there is no call.
    began: [AtomicU64; CALLS],
    space: Mutex<HashMap<PathBuf, Space>>,
}

/// Free space as it was when the disk was last heard of.
#[derive(Clone, Copy, Debug)]
enum Space {
    Known(u64),
    /// It is being asked for, since a while.
    Asked(Option<u64>),
}

impl Default for Watch {
    fn default() -> Self {
        Self { start: Instant::now(), began: [const { AtomicU64::new(0) }; CALLS], space: Mutex::default() }
    }
}

/// A call is under way.
struct Call<'a>(Option<&'a AtomicU64>);

/// Somebody else's call to the same disk is under way, until this is dropped.
#[derive(Debug)]
pub struct Noted(Arc<Watch>, Option<usize>);

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(began) = self.1.and_then(|slot| self.0.began.get(slot)) {
            began.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(began) = self.0 {
            began.store(0, Ordering::Relaxed);
        }
    }
}

impl Watch {
    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    fn slot(&self) -> Option<usize> {
        let now = self.micros() + 1;
        let free = |began: &AtomicU64| began.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.began.iter().position(free)
    }

    fn begin(&self) -> Call<'_> {
        Call(self.slot().and_then(|slot| self.began.get(slot)))
    }

    /// A call to the disk that is made elsewhere begins.
    pub fn note(self: &Arc<Self>) -> Noted {
        Noted(Arc::clone(self), self.slot())
    }

    /// How long the oldest call has been under way; `None` when there is none.
    pub fn oldest(&self) -> Option<Duration> {
        let began = self.began.iter().map(|began| began.load(Ordering::Relaxed)).filter(|began| *began != 0).min()?;
        Some(Duration::from_micros((self.micros() + 1).saturating_sub(began)))
    }

    /// What `ask` says of the space that is free below `dir`. Who asks does not wait long: when there is no answer in time
    /// it is the last one, as long as the question is open.
    ///
    /// # Errors
    /// Those of `ask`, and [`io::ErrorKind::TimedOut`] where nothing is known.
    pub fn free_space(
        self: &Arc<Self>,
        dir: &Path,
        ask: impl FnOnce(&Path) -> io::Result<u64> + Send + 'static,
    ) -> io::Result<u64> {
        let unknown = || io::Error::from(io::ErrorKind::TimedOut);
        let before = {
            let mut space = self.space();
            let before = match space.get(dir) {
                Some(Space::Asked(before)) => return before.ok_or_else(unknown),
                Some(Space::Known(known)) => Some(*known),
                None => None,
            };
            space.insert(dir.to_owned(), Space::Asked(before));
            before
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        let (watch, dir) = (Arc::clone(self), dir.to_owned());
        let asks = move || {
            let call = watch.begin();
            let answer = ask(&dir);
            drop(call);
            let mut space = watch.space();
            match &answer {
                Ok(free) => space.insert(dir, Space::Known(*free)),
                Err(_) => space.remove(&dir),
            };
            drop(space);
            let _ = sender.send(answer);
        };
        std::thread::Builder::new().name("disk-space".into()).spawn(asks)?;
        receiver.recv_timeout(SPACE_PATIENCE).unwrap_or_else(|_| before.ok_or_else(unknown))
    }

    fn space(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Space>> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file system whose calls are noted.
pub struct Watched {
    inner: Arc<dyn FileSystem>,
    watch: Arc<Watch>,
}

impl Watched {
    /// What lies above `inner`.
    pub fn new(inner: Arc<dyn FileSystem>, watch: Arc<Watch>) -> Self {
        Self { inner, watch }
    }

    fn file(&self, inner: Arc<dyn StoredFile>) -> Arc<dyn StoredFile> {
        Arc::new(WatchedFile { inner, watch: Arc::clone(&self.watch) })
    }
}

struct WatchedFile {
    inner: Arc<dyn StoredFile>,
    watch: Arc<Watch>,
}

impl StoredFile for WatchedFile {
    fn pwritev(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let _call = self.watch.begin();
        self.inner.pwritev(slices, offset)
    }
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let _call = self.watch.begin();
        self.inner.pread(buffer, offset)
    }
    fn fdatasync(&self) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.fdatasync()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.allocate(len)
    }
    fn len(&self) -> io::Result<u64> {
        let _call = self.watch.begin();
        self.inner.len()
    }
    fn shared(&self) -> Option<Arc<File>> {
        self.inner.shared()
    }
    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}

impl FileSystem for Watched {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let _call = self.watch.begin();
        self.inner.create(path).map(|file| self.file(file))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn StoredFile>> {
        let _call = self.watch.begin();
        self.inner.open(path, write).map(|file| self.file(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.unlink(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let _call = self.watch.begin();
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _call = self.watch.begin();
        self.inner.sync_dir(dir)
    }
    /// The queue asks with its lock held, so nobody must wait for a disk that does not answer.
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let inner = Arc::clone(&self.inner);
        self.watch.free_space(dir, move |dir| inner.free_space(dir))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let _call = self.watch.begin();
        self.inner.lock(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFileSystem;

    #[test]
    fn the_oldest_call_counts() {
        let watch = Watch::default();
        assert_eq!(watch.oldest(), None);
        let first = watch.begin();
        let before = watch.oldest().unwrap();
        let second = watch.begin();
        drop(first);
        assert!(watch.oldest().is_some_and(|oldest| oldest < before + Duration::from_secs(60)));
        drop(second);
        assert_eq!(watch.oldest(), None);
        let watch = Arc::new(watch);
        let elsewhere = watch.note();
        assert!(watch.oldest().is_some());
        drop(elsewhere);
        assert_eq!(watch.oldest(), None);
        // More than are noted do no harm.
        let calls: Vec<_> = (0..CALLS + 5).map(|_| watch.begin()).collect();
        assert_eq!(calls.iter().filter(|call| call.0.is_none()).count(), 5);
        drop(calls);
        assert_eq!(watch.oldest(), None);
    }

    #[test]
    fn a_question_about_space_is_not_waited_for() {
        let watch = Arc::new(Watch::default());
        let dir = Path::new("/queue");
        assert_eq!(watch.free_space(dir, |_| Ok(7)).unwrap(), 7);
        assert!(watch.free_space(dir, |_| Err(io::ErrorKind::NotFound.into())).is_err());
        assert_eq!(watch.free_space(dir, |_| Ok(8)).unwrap(), 8);
        let (release, hangs) = mpsc::channel::<()>();
        let hanging = move |_: &Path| {
            let _ = hangs.recv();
            Ok(9)
        };
        assert_eq!(watch.free_space(dir, hanging).unwrap(), 8);
        assert!(watch.oldest().is_some());
        // One question at a time.
        assert_eq!(watch.free_space(dir, |_| panic!("it is asked already")).unwrap(), 8);
        drop(release);
        while watch.oldest().is_some() {
            std::thread::yield_now();
        }
        while watch.free_space(dir, |_| Ok(10)).unwrap() != 10 {}
    }

    #[test]
    fn it_is_the_file_system_below() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Arc::new(Watch::default());
        let fs = Watched::new(Arc::new(RealFileSystem), Arc::clone(&watch));
        let path = dir.path().join("a");
        let file = fs.create(&path).unwrap();
        assert_eq!(file.pwritev(&[IoSlice::new(b"abc")], 0).unwrap(), 3);
        file.fdatasync().unwrap();
        let mut read = [0; 3];
        assert_eq!(fs.open(&path, false).unwrap().pread(&mut read, 0).unwrap(), 3);
        assert_eq!((&read, fs.list(dir.path()).unwrap().len()), (b"abc", 1));
        assert!(fs.free_space(dir.path()).unwrap() > 0);
        assert!(fs.open(Path::new("/nowhere/x"), false).is_err());
        assert_eq!(watch.oldest(), None);
    }
}

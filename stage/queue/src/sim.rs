//! A disk in memory that behaves as badly as a real one may, for tests of the queue and of whatever else writes
//! through [`FileSystem`].
//!
//! What was written is *cached* until [`StoredFile::fdatasync`], and names until [`FileSystem::sync_dir`]. A power
//! loss ([`SimulatedDisk::power_loss`]) keeps, of every 4096-byte block that was written and not synced, the old bytes,
//! the new ones, or the new ones up to some byte; a new length or not; and of the names a first part of the changes,
//! in order. It can also stop after any number of calls, fail writes or syncs, and be full.
//!
//! Random choices come from a seed, so that a failing test can be run again; the order in which the queue's threads
//! come by is the system's.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::{FileSystem, Listed, StoredFile};

const BLOCK: usize = 4096;

/// Small random numbers from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// A number below `limit`, or 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16).checked_rem(limit).unwrap_or(0)
    }
}

#[derive(Clone, Default)]
struct Inode {
    /// As programs see it.
    cached: Vec<u8>,
    /// As it is certain to be after a power loss.
    durable: Vec<u8>,
    /// Blocks written since the last sync.
    dirty: BTreeSet<usize>,
}

/// A change of names that is not durable yet.
#[derive(Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        let within = |path: &Path| path.parent() == Some(dir);
        match self {
            NameChange::Link(path, _) | NameChange::Unlink(path) => within(path),
            NameChange::Rename(from, to) => within(from) || within(to),
        }
    }
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    calls: u64,
    bytes_read: u64,
    /// From this call on the machine is off.
    off_at: Option<u64>,
    /// From this call on syncs, or writes, fail.
    syncs_fail_at: Option<u64>,
    /// Every change is refused, as on a disk that was mounted anew as read-only.
    read_only: bool,
    /// Each write and sync takes so long.
    pace: std::time::Duration,
    writes_fail_at: Option<u64>,
}

impl Disk {
    /// Counts a call that changes something; an error when the machine is off.
    fn call(&mut self) -> io::Result<u64> {
        self.calls += 1;
        match self.off_at {
            Some(at) if self.calls > at => Err(io::Error::other("the machine is off")),
            _ if self.read_only => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(self.calls),
        }
    }
    fn on(&self) -> io::Result<()> {
        match self.off_at {
            Some(at) if self.calls > at => Err(io::Error::other("the machine is off")),
            _ => Ok(()),
        }
    }
    fn used(&self) -> u64 {
        // A file without a name is not counted: it is gone with its last user, which is soon.
        self.names.values().map(|inode| self.inodes[*inode].cached.len() as u64).sum()
    }
    fn grow(&mut self, inode: usize, len: usize) -> io::Result<()> {
        let have = self.inodes[inode].cached.len();
        if len <= have {
            return Ok(());
        }
        if self.capacity.is_some_and(|most| self.used() + (len - have) as u64 > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inodes[inode].cached.resize(len, 0);
        Ok(())
    }
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

struct SimulatedFile {
    disk: SimulatedDisk,
    /// Position in the disk's list, which only grows.
    inode: usize,
}

impl SimulatedDisk {
    /// An empty disk without limit.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that changed something.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }
    /// Bytes that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.lock().bytes_read
    }
    /// The machine goes off after so many more calls that change something; the next one is half done.
    pub fn stop_after(&self, calls: u64) {
        let mut disk = self.lock();
        disk.off_at = Some(disk.calls + calls);
    }
    /// True when the machine has gone off.
    pub fn stopped(&self) -> bool {
        self.lock().on().is_err()
    }
    /// Syncs fail after so many more calls.
    pub fn fail_syncs_after(&self, calls: u64) {
        let mut disk = self.lock();
        disk.syncs_fail_at = Some(disk.calls + calls);
    }
    /// Writes fail after so many more calls.
    pub fn fail_writes_after(&self, calls: u64) {
        let mut disk = self.lock();
        disk.writes_fail_at = Some(disk.calls + calls);
    }
    /// From now on every change is refused.
    pub fn make_read_only(&self) {
        self.lock().read_only = true;
    }
    /// From now on each write and sync takes so long.
    pub fn slow_down(&self, pace: std::time::Duration) {
        self.lock().pace = pace;
    }
    /// Changes a byte of a file, on the disk and as programs see it.
    pub fn damage(&self, path: &Path, offset: usize, mask: u8) {
        let mut disk = self.lock();
        let Some(inode) = disk.names.get(path).copied() else { return };
        let inode = &mut disk.inodes[inode];
        for bytes in [&mut inode.cached, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }
    fn pause(&self) {
        let pace = self.lock().pace;
        if !pace.is_zero() {
            std::thread::sleep(pace);
        }
    }

    /// The disk holds so many bytes of files.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }
    /// Bytes of files.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// The disk as it is found after a power loss now. Those who still use this one find the machine off.
    pub fn power_loss(&self, seed: u64) -> SimulatedDisk {
        let mut dice = Dice::new(seed);
        let mut old = self.lock();
        old.off_at = Some(0);
        old.calls += 1;
        let mut names = old.durable_names.clone();
        let kept = dice.below(old.changes.len() as u64 + 1) as usize;
        old.changes[..kept].iter().for_each(|change| change.apply(&mut names));
        let inodes = old.inodes.iter().map(|inode| after_power_loss(inode, &mut dice)).collect();
        let disk = Disk {
            inodes,
            durable_names: names.clone(),
            names,
            dirs: old.dirs.clone(),
            capacity: old.capacity,
            ..Disk::default()
        };
        SimulatedDisk(Arc::new(Mutex::new(disk)))
    }

    /// The disk as programs see it now: after the process was killed and the machine was not.
    pub fn after_kill(&self) -> SimulatedDisk {
        let mut old = self.lock();
        old.off_at = Some(0);
        old.calls += 1;
        let disk = Disk {
            inodes: old.inodes.clone(),
            names: old.names.clone(),
            durable_names: old.durable_names.clone(),
            changes: old.changes.clone(),
            dirs: old.dirs.clone(),
            capacity: old.capacity,
            ..Disk::default()
        };
        SimulatedDisk(Arc::new(Mutex::new(disk)))
    }

    /// The bytes of a file as programs see it.
    pub fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.lock();
        disk.names.get(path).map(|inode| disk.inodes[*inode].cached.clone())
    }
    /// Puts a file with these bytes there, durably.
    pub fn write_file(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.lock();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode { cached: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        disk.names.insert(path.to_owned(), inode);
        disk.durable_names.insert(path.to_owned(), inode);
    }
    /// The paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }
}

fn after_power_loss(inode: &Inode, dice: &mut Dice) -> Inode {
    let mut bytes = inode.durable.clone();
    // A new length comes with the journal of the file system: all of it or nothing.
    if inode.cached.len() != bytes.len() && dice.below(2) == 0 {
        bytes.resize(inode.cached.len(), 0);
    }
    for block in &inode.dirty {
        let begin = block * BLOCK;
        let end = (begin + BLOCK).min(bytes.len()).min(inode.cached.len());
        let Some(len) = end.checked_sub(begin) else { continue };
        let new = match dice.below(3) {
            0 => 0,
            1 => len,
            _ => dice.below(len as u64 + 1) as usize,
        };
        bytes[begin..begin + new].copy_from_slice(&inode.cached[begin..begin + new]);
    }
    Inode { cached: bytes.clone(), durable: bytes, dirty: BTreeSet::new() }
}

impl StoredFile for SimulatedFile {
    fn pwritev(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.disk.pause();
        let mut disk = self.disk.lock();
        let call = disk.call();
        if call.as_ref().is_ok_and(|n| disk.writes_fail_at.is_some_and(|at| *n > at)) {
            return Err(io::Error::other("simulated failure of a write"));
        }
        // The call at which the machine goes off may have reached the disk in part.
        if call.is_err() && (disk.read_only || disk.off_at.is_none_or(|at| disk.calls > at + 1)) {
            call?;
            return Ok(0);
        }
        let total: usize = slices.iter().map(|s| s.len()).sum();
        let begin = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        disk.grow(self.inode, begin + total)?;
        let inode = &mut disk.inodes[self.inode];
        let mut at = begin;
        for slice in slices {
            inode.cached[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        if total > 0 {
            inode.dirty.extend(begin / BLOCK..=(at - 1) / BLOCK);
        }
        call?;
        Ok(total)
    }
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        disk.on()?;
        let bytes = &disk.inodes[self.inode].cached;
        let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        disk.bytes_read += n as u64;
        Ok(n)
    }
    fn fdatasync(&self) -> io::Result<()> {
        self.disk.pause();
        let mut disk = self.disk.lock();
        let call = disk.call()?;
        if disk.syncs_fail_at.is_some_and(|at| call > at) {
            return Err(io::Error::other("simulated failure of a sync"));
        }
        let inode = &mut disk.inodes[self.inode];
        inode.durable.clone_from(&inode.cached);
        inode.dirty.clear();
        Ok(())
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.call()?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        disk.grow(self.inode, len)
    }
    fn len(&self) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.on()?;
        Ok(disk.inodes[self.inode].cached.len() as u64)
    }
}

impl FileSystem for SimulatedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.call()?;
        disk.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let mut disk = self.lock();
        disk.call()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_none_or(|dir| !disk.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.change(NameChange::Link(path.to_owned(), inode));
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode }))
    }
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn StoredFile>> {
        let disk = self.lock();
        disk.on()?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.call()?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.call()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let disk = self.lock();
        disk.on()?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let within = disk.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let listed = within.filter_map(|(path, inode)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(Listed { name, len: disk.inodes[*inode].cached.len() as u64 })
        });
        Ok(listed.collect())
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let call = disk.call()?;
        if disk.syncs_fail_at.is_some_and(|at| call > at) {
            return Err(io::Error::other("simulated failure of a sync"));
        }
        let (now, later) = std::mem::take(&mut disk.changes).into_iter().partition(|change| change.touches(dir));
        disk.changes = later;
        let now: Vec<NameChange> = now;
        now.iter().for_each(|change| change.apply(&mut disk.durable_names));
        Ok(())
    }
    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.lock();
        disk.on()?;
        Ok(disk.capacity.map_or(u64::MAX, |most| most.saturating_sub(disk.used())))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut disk = SimulatedDisk::lock(self);
        disk.on()?;
        if !disk.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.path);
    }
}

//! The disk as the queue sees it: a few calls, so that a simulated disk can take its place in tests.
//!
//! Everything the queue does to a disk goes through [`FileSystem`] and [`StoredFile`]. [`RealFileSystem`] is the
//! kernel's; [`crate::sim::SimulatedDisk`] loses what was not synced, tears blocks, fails and stops where told.
//!
//! What the queue relies on: after [`StoredFile::fdatasync`] returned `Ok` the bytes and the length of the file
//! survive a power loss; after [`FileSystem::sync_dir`] the names in it do; [`FileSystem::rename`] is atomic.

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// An open file, used by position only. All methods take `&self` and may be called from several threads.
pub trait StoredFile: Send + Sync {
    /// Writes the slices one after the other from `offset`; returns how many bytes were written, which may be fewer.
    fn pwritev(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Reads from `offset`; 0 at the end of the file.
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes bytes and length durable. An error is final: nobody knows what is on the disk afterwards.
    fn fdatasync(&self) -> io::Result<()>;
    /// Reserves room for the first `len` bytes, so that writing them cannot run out of space. Does not write them.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when there is no byte in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// The file itself, for readers that want the kernel to move the bytes; none on a simulated disk.
    fn shared(&self) -> Option<Arc<File>> {
        None
    }
    /// Somebody else holds what [`StoredFile::shared`] returned.
    fn is_shared(&self) -> bool {
        false
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// File name. Names that are not UTF-8 are not ours and are left out.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// A file system. Paths are absolute or relative to the working directory, as for the kernel.
pub trait FileSystem: Send + Sync {
    /// Makes a directory, and its parents; no error when it is there. Mode 0700.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file (mode 0600), open for reading and writing; an error when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;
    /// Opens a file for reading, and for writing when `write`.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn StoredFile>>;
    /// Renames atomically, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// The regular files of a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that we may still use on the disk that holds `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Takes an exclusive lock by a file that is made when missing; `WouldBlock` when somebody has it. Held until
    /// the returned value is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// Writes all of `slices` at `offset`, however often the kernel takes only a part.
pub fn write_all_at(file: &dyn StoredFile, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    /// `IOV_MAX` of Linux.
    const MOST: usize = 1024;
    // Slices of length 0 at the front would make a write of 0 bytes look like a full disk.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = slices.len().min(MOST);
        match file.pwritev(&slices[..count], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                IoSlice::advance_slices(&mut slices, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Fills `buffer` from `offset`, or as much of it as the file has; returns how much.
pub fn read_at_most(file: &dyn StoredFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.pread(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Fills `buffer` from `offset`; `UnexpectedEof` when the file is shorter.
pub fn read_exact_at(file: &dyn StoredFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match read_at_most(file, buffer, offset)? {
        n if n == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The kernel's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

struct RealFile(Arc<File>);

impl StoredFile for RealFile {
    fn pwritev(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(nix::sys::uio::pwritev(&*self.0, slices, offset)?)
    }
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn fdatasync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        let size = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        match fallocate(&*self.0, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve: then the length is set, and a write may still find the disk full.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.0.set_len(len),
            Err(e) => Err(e.into()),
        }
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn shared(&self) -> Option<Arc<File>> {
        Some(Arc::clone(&self.0))
    }
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl FileSystem for RealFileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        Ok(Arc::new(RealFile(Arc::new(file))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                files.push(Listed { name, len: meta.len() });
            }
        }
        Ok(files)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        #[allow(clippy::useless_conversion)] // The types differ between platforms.
        let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
        Ok(blocks.saturating_mul(size))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

//! The beginning of a file as memory: what is written there is with the kernel, and so outlives the process, without a call
//! to the kernel.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};

/// A mapping of the first bytes of a file.
///
/// Nobody may make the file shorter than that while this lives: whoever writes to what is not there is ended by SIGBUS.
/// The same is so where a page that the kernel has dropped cannot be read again.
#[derive(Debug)]
pub struct Mapped {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: it is the only way to this mapping, and memory is no thread's own.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps the first `len` bytes of a file that is open for reading and writing. What the file does not have is filled
    /// with zeros, so that there is room on the disk for every byte.
    ///
    /// # Errors
    /// The file cannot be filled, or not be mapped; [`io::ErrorKind::Unsupported`] on file systems that write what is
    /// written again to another place (btrfs, ZFS; XFS and NFS at times): there a full disk would be met at every store.
    pub fn new(file: &File, len: NonZeroUsize) -> io::Result<Self> {
        let kind = fstatfs(file).map_err(crate::io)?.filesystem_type();
        if kind != EXT4_SUPER_MAGIC && kind != TMPFS_MAGIC {
            return Err(io::ErrorKind::Unsupported.into());
        }
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut filled = file.metadata()?.len();
        while filled < len.get() as u64 {
            // The remainder is at most the length of the zeros.
            let piece = (len.get() as u64 - filled).min(ZEROS.len() as u64);
            file.write_all_at(ZEROS.get(..piece as usize).unwrap_or(&ZEROS), filled)?;
            filled += piece;
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses where, so nothing else is there; the file has so many bytes.
        let start = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file, 0) }.map_err(crate::io)?;
        Ok(Self { start, len })
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes bytes. False, and nothing is written, where not all of them are within it.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        // SAFETY: all of it is within the mapping, which lives as long as this does and which nobody else writes to while
        // this is borrowed; a slice of this process cannot lie in it, as no reference to it is ever given out.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast::<u8>().as_ptr().add(at), bytes.len()) };
        true
    }

    /// Takes the pages out of this process's memory; they are the file's, and come back when they are used.
    pub fn let_go(&self) -> io::Result<()> {
        // SAFETY: the mapping is shared: what was written to it is in the file's pages, and stays there.
        unsafe { madvise(self.start, self.len(), MmapAdvise::MADV_DONTNEED) }.map_err(crate::io)
    }

    /// Writes zeros from `from` to before `to`, as far as that is within it.
    pub fn clear(&mut self, from: usize, to: usize) {
        let to = to.min(self.len());
        if from < to {
            // SAFETY: as above.
            unsafe { std::ptr::write_bytes(self.start.cast::<u8>().as_ptr().add(from), 0, to - from) };
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has an address within it any more. It cannot fail then.
        let _ = unsafe { munmap(self.start, self.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "there before").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let len = NonZeroUsize::new(200_000).unwrap();
        let mut mapped = match Mapped::new(&file, len) {
            Ok(mapped) => mapped,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                return eprintln!("SKIPPED: {} is on a file system of another kind", path.display());
            }
            Err(error) => panic!("{error}"),
        };
        assert!(mapped.write(6, b"BEFORE") && mapped.write(199_999, b"x"));
        assert!(!mapped.write(199_999, b"xy") && !mapped.write(usize::MAX, b"x"));
        // What is written to the file itself is seen too, and the other way round.
        file.write_all_at(b"beyond", 200_000).unwrap();
        let read = std::fs::read(&path).unwrap();
        assert!(read.starts_with(b"there BEFORE\0\0") && read.ends_with(b"\0\0xbeyond"));
        assert_eq!(read.len(), 200_006);
        mapped.clear(3, 12);
        mapped.clear(100_000, usize::MAX);
        mapped.clear(7, 7);
        drop(mapped);
        let read = std::fs::read(&path).unwrap();
        assert!(read.starts_with(b"the\0\0") && read.ends_with(b"\0\0\0beyond"));
    }
}

//! Memory that the program does not need any more.

use std::alloc::{GlobalAlloc, Layout};
use std::fs;
use std::io;

use nix::sys::mman::{MmapAdvise, madvise};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Duration;

/// A part of the address space, as smaps tells of it.
struct Mapping<'a> {
    start: usize,
    end: usize,
    /// Neither writable nor shared.
    constant: bool,
    file: &'a str,
    /// Kilobytes that are not the file's.
    own: usize,
}

/// Takes code and constants of this program out of its address space: what is used again comes back from the page cache by
/// itself. For the moment after a start, of which little is needed later. Says how many bytes of address space it was.
pub fn forget_code() -> io::Result<usize> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mappings = mappings(&smaps);
    let here = forget_code as *const () as usize;
    let Some(own) = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&here)) else { return Ok(0) };
    let mut bytes = 0;
    for mapping in mappings.iter().filter(|mapping| mapping.file == own.file && mapping.constant && mapping.own == 0) {
        let Some(start) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(mapping.start)) else {
            continue;
        };
        // SAFETY: the mapping is private, of a file, and has no page that differs from the file (constants that the loader has
        // filled in do): whoever reads it next reads the same bytes from the file again.
        unsafe { madvise(start, mapping.end - mapping.start, MmapAdvise::MADV_DONTNEED) }.map_err(crate::io)?;
        bytes += mapping.end - mapping.start;
    }
    Ok(bytes)
}

/// The program's allocator: mimalloc, asked so that it wastes nothing.
///
/// Asked for an alignment, any alignment, it takes the next larger size for what is just as large as one of its own: ten
/// kilobytes for eight, eighty for sixty-four. Its blocks are aligned to [`ALIGNED`] anyway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

/// What every block is aligned to that is not smaller than that.
const ALIGNED: usize = 16;

impl Allocator {
    fn is_plain(layout: Layout) -> bool {
        layout.align() <= ALIGNED && layout.align() <= layout.size()
    }
}

// SAFETY: mimalloc fulfils what is wanted of an allocator, and may be called by any thread at any time; blocks of all its
// functions are given back, and made larger or smaller, by any of the others. Without an alignment its blocks are aligned to
// `MI_MAX_ALIGN_SIZE` (16), or to 8 where they are smaller than 16 bytes.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Self::is_plain(layout) {
            // SAFETY: as above.
            true => unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast(),
            // SAFETY: as above; the alignment of a layout is a power of two.
            false => unsafe { libmimalloc_sys::mi_malloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Self::is_plain(layout) {
            // SAFETY: as above.
            true => unsafe { libmimalloc_sys::mi_zalloc(layout.size()) }.cast(),
            // SAFETY: as above.
            false => unsafe { libmimalloc_sys::mi_zalloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller says that it is one of these blocks.
        unsafe { libmimalloc_sys::mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match layout.align() <= ALIGNED && layout.align() <= size {
            // SAFETY: as above, and the caller says that it is one of these blocks.
            true => unsafe { libmimalloc_sys::mi_realloc(block.cast(), size) }.cast(),
            // SAFETY: as above.
            false => unsafe { libmimalloc_sys::mi_realloc_aligned(block.cast(), size, layout.align()) }.cast(),
        }
    }
}

/// Gives back what the calling thread's part of the allocator holds and nothing is in: pages that other threads have emptied,
/// and those kept for the next request. Only the thread that they belong to can do that, and it does so by itself only while
/// it goes on asking for memory. Takes a tenth of a millisecond, and what is asked for next takes longer.
pub fn give_back() {
    // SAFETY: it has no requirements; without a heap of this thread it does nothing.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Time that this process has used of the processors.
pub fn processor_time() -> io::Result<Duration> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).map_err(crate::io)
}

/// proc(5), `/proc/[pid]/smaps`: a line with addresses, permissions, offset, device, inode and path; then lines `Name: 12 kB`.
fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut found: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(name) = first.strip_suffix(':') {
            if let (Some(last), "Anonymous") = (found.last_mut(), name) {
                // What cannot be read is taken for pages of our own: they stay.
                last.own = words.next().and_then(|size| size.parse().ok()).unwrap_or(usize::MAX);
            }
            continue;
        }
        let Some((start, end)) = first.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else { continue };
        let permissions = words.next().unwrap_or_default().as_bytes();
        let constant = permissions.get(1) == Some(&b'-') && permissions.get(3) == Some(&b'p');
        let file = words.nth(3).map_or("", |word| &line[word.as_ptr() as usize - line.as_ptr() as usize..]);
        found.push(Mapping { start, end, constant, file, own: usize::MAX });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    /// Kilobytes of this process that are no file's.
    fn own() -> usize {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }

    /// Every size and alignment, zeroed or not, made larger and smaller.
    #[test]
    fn blocks_are_aligned_and_keep_what_is_in_them() {
        let sizes = (1..200).chain((8..=20).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1, 3 << n]));
        for size in sizes {
            for align in (0..=12).map(|n| 1 << n) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the layouts are those that the blocks were made with, and no size is zero.
                unsafe {
                    let zeros = ALLOCATOR.alloc_zeroed(layout);
                    assert!(std::slice::from_raw_parts(zeros, size).iter().all(|byte| *byte == 0));
                    let mut block = ALLOCATOR.alloc(layout);
                    assert!(zeros.addr().is_multiple_of(align) && block.addr().is_multiple_of(align), "{layout:?}");
                    ALLOCATOR.dealloc(zeros, layout);
                    block.write_bytes(7, size);
                    let mut layout = layout;
                    for to in [size * 2 + 1, size / 3 + 1, 5] {
                        block = ALLOCATOR.realloc(block, layout, to);
                        assert!(block.addr().is_multiple_of(align), "{layout:?} {to}");
                        let kept = to.min(layout.size()).min(size);
                        assert!(std::slice::from_raw_parts(block, kept).iter().all(|byte| *byte == 7));
                        block.write_bytes(7, to);
                        layout = Layout::from_size_align(to, align).unwrap();
                    }
                    ALLOCATOR.dealloc(block, layout);
                }
            }
        }
    }

    /// Rooms that are as large as one of the allocator's own sizes take no more than that.
    #[test]
    fn nothing_is_wasted() {
        for size in (10..=20).flat_map(|n| [1 << n, 5 << (n - 2), 3 << (n - 1), 7 << (n - 2)]) {
            let room: Vec<u64> = Vec::with_capacity(size / 8);
            // SAFETY: it is a block of this allocator.
            let taken = unsafe { libmimalloc_sys::mi_usable_size(room.as_ptr().cast()) };
            assert_eq!(taken, size);
        }
    }

    /// A thread that sleeps keeps what another one has emptied, until it is asked for it.
    #[test]
    fn what_others_have_freed_is_given_back() {
        const MANY: usize = 200_000;
        let (give, given) = std::sync::mpsc::channel();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let owner = std::thread::spawn(move || {
            let pieces: Vec<Vec<u8>> = (0..MANY).map(|n| vec![n as u8; 200]).collect();
            give.send(pieces).unwrap();
            asked.recv().unwrap();
            give_back();
            tell.send(()).unwrap();
            // It lives on: a thread that ends gives everything back.
            let _ = asked.recv();
        });
        drop(given.recv().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        let before = own();
        ask.send(()).unwrap();
        told.recv().unwrap();
        let after = own();
        assert!(after + MANY * 200 / 1024 / 2 < before, "{before} kB, then {after}");
        drop(ask);
        owner.join().unwrap();
    }

    #[test]
    fn time_is_used() {
        let before = processor_time().unwrap();
        let mut sum = 0_u64;
        while processor_time().unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(processor_time().unwrap() > before);
    }

    #[test]
    fn what_smaps_tells() {
        let text = "55d0-66d0 r-xp 0000a000 fe:00 1234   /opt/my bin/yamabiko\nSize:  12 kB\nAnonymous:   0 kB\nVmFlags: rd ex\n\
                    66d0-77d0 r--p 0000b000 fe:00 1234   /opt/my bin/yamabiko\nAnonymous:  568 kB\n\
                    77d0-88d0 rw-p 0000c000 fe:00 1234   /opt/my bin/yamabiko\nAnonymous:  0 kB\n\
                    88d0-99d0 r--s 00000000 fe:00 99   /data\nAnonymous:  x kB\n99d0-aad0 rw-p 00000000 00:00 0 \n";
        let found: Vec<_> = mappings(text).iter().map(|m| (m.start, m.constant, m.file.to_owned(), m.own)).collect();
        let program = || "/opt/my bin/yamabiko".to_owned();
        assert_eq!(
            found,
            [
                (0x55d0, true, program(), 0),
                (0x66d0, true, program(), 568),
                (0x77d0, false, program(), 0),
                (0x88d0, false, "/data".to_owned(), usize::MAX),
                (0x99d0, false, String::new(), usize::MAX),
            ]
        );
    }

    /// A constant that the loader fills in: its address is not known before.
    static FILLED_IN: [&str; 3] = ["one", "two", "three"];
    /// One that is the file's, and larger than what comes back with a page that is used.
    static LARGE: [u8; LENGTH] = [7; LENGTH];
    const LENGTH: usize = 4 << 20;

    /// Kilobytes of this program's constants and code that are mapped now.
    fn mapped() -> usize {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut counts, mut kilobytes) = (false, 0);
        for line in smaps.lines() {
            match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                ["Rss:", size, _] if counts => kilobytes += size.parse::<usize>().unwrap(),
                [addresses, permissions, .., file] if addresses.contains('-') => {
                    counts = permissions.starts_with("r-") && file.contains("yamabiko_sys");
                }
                _ => {}
            }
        }
        kilobytes
    }

    #[test]
    fn what_is_forgotten_comes_back() {
        let sum = || std::hint::black_box(&LARGE).iter().map(|byte| usize::from(*byte)).sum::<usize>();
        assert_eq!(sum(), 7 * LENGTH);
        let before = mapped();
        assert!(forget_code().unwrap() >= LENGTH);
        let after = mapped();
        assert!(after + LENGTH / 2048 < before, "{before} kB, then {after}");
        assert_eq!(std::hint::black_box(&FILLED_IN).concat(), "onetwothree");
        assert_eq!(sum(), 7 * LENGTH);
    }
}

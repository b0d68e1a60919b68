//! Memory that the program does not need any more.

use std::fs;
use std::io;

use nix::sys::mman::{MmapAdvise, madvise};
use std::ffi::c_void;
use std::ptr::NonNull;

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

//! Files of a log: opened whatever packs them, known again whatever their name became, in the order of time.

use std::cmp::Reverse;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yamabiko_envelope::Timestamp;
use yamabiko_maillog::head::{Head, Stamp};

/// A file is known by so many of its first bytes (unpacked).
pub const HEAD: usize = 1024;
/// And by so many before the place where reading stopped.
pub const TAIL: usize = 256;

/// What packs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// Nothing.
    Plain,
    /// gzip
    Gzip,
    /// xz
    Xz,
    /// zstd
    Zstd,
}

impl Packed {
    /// By the first bytes.
    pub fn of(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The bytes of a file as they were before it was packed.
pub fn unpack(packed: Packed, input: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let input = BufReader::with_capacity(1 << 16, input);
    Ok(match packed {
        Packed::Plain => Box::new(input),
        // Files that were put together from several are read to their end.
        Packed::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Packed::Xz => Box::new(lzma_rust2::XzReader::new(input, true)),
        Packed::Zstd => Box::new(Frames { decoder: None, input: Some(input) }),
    })
}

/// zstd frames one after the other.
struct Frames<R: Read> {
    decoder: Option<ruzstd::decoding::StreamingDecoder<BufReader<R>, ruzstd::decoding::FrameDecoder>>,
    input: Option<BufReader<R>>,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                let read = decoder.read(buffer)?;
                if read > 0 {
                    return Ok(read);
                }
            }
            if let Some(decoder) = self.decoder.take() {
                self.input = Some(decoder.into_inner());
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if io::BufRead::fill_buf(&mut input)?.is_empty() {
                return Ok(0);
            }
            let made = ruzstd::decoding::StreamingDecoder::new(input);
            self.decoder = Some(made.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?);
        }
    }
}

/// How far a file was read, kept from run to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The path it had.
    pub path: PathBuf,
    /// Device and inode it had.
    pub inode: (u64, u64),
    /// How many of its first bytes the hash is of.
    pub head_length: usize,
    /// Hash of these.
    pub head: u64,
    /// Bytes that were read, unpacked.
    pub offset: u64,
    /// Hash of the bytes before that place, at most [`TAIL`].
    pub tail: u64,
    /// Time of the last line, in microseconds.
    pub last: u64,
    /// Size of the packed file when it was read to its end; 0 while it was not, or for one that grows.
    pub done: u64,
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A file to be read.
#[derive(Debug)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// What packs it.
    pub packed: Packed,
    /// Its first bytes, unpacked; at most [`HEAD`].
    pub head: Vec<u8>,
    /// Size as it lies there.
    pub size: u64,
    /// When it was last written to.
    pub written: Timestamp,
    /// Device and inode.
    pub inode: (u64, u64),
    /// What its first line begins with, for the order; `None` where no line says.
    first: Option<Stamp>,
}

impl Source {
    /// Looks at a file.
    pub fn look(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let mut beginning = [0; 6];
        let length = fill(&mut file, &mut beginning)?;
        let packed = Packed::of(&beginning[..length]);
        file.seek(SeekFrom::Start(0))?;
        let mut head = vec![0; HEAD];
        let length = fill(&mut unpack(packed, file)?, &mut head)?;
        head.truncate(length);
        let text = String::from_utf8_lossy(&head);
        let first = text.lines().find_map(|line| Some(Head::parse(line)?.stamp));
        Ok(Self {
            path: path.to_owned(),
            packed,
            head,
            size: meta.len(),
            written: modified(&meta),
            inode: (meta.dev(), meta.ino()),
            first,
        })
    }

    /// Does it hold mail and not a log?
    pub fn is_mailbox(&self) -> bool {
        self.head.starts_with(b"From ")
    }

    /// When its first line was written, as far as that can be told.
    pub fn begins(&self, zone: &jiff::tz::TimeZone) -> Timestamp {
        let mut clock = yamabiko_maillog::clock::Clock::new(zone.clone(), self.written, None);
        self.first.map_or(self.written, |stamp| clock.resolve(stamp).0)
    }

    /// Is this the file that a mark is of?
    pub fn is(&self, mark: &Mark) -> bool {
        mark.head_length > 0
            && self.head.get(..mark.head_length).is_some_and(|head| hash(head) == mark.head)
            // One that grew beyond what was known of it is the same.
            && (mark.head_length == HEAD || mark.head_length <= self.head.len())
    }

    /// Opens it at a mark, or at its beginning. Gives where that is, and whether the mark was good.
    pub fn open_at(&self, mark: Option<&Mark>) -> io::Result<(Box<dyn Read>, u64)> {
        let file = File::open(&self.path)?;
        let Some(mark) = mark.filter(|mark| mark.offset > 0) else { return Ok((unpack(self.packed, file)?, 0)) };
        let before = mark.offset.min(TAIL as u64);
        let mut tail = vec![0; before as usize];
        let mut input = if self.packed == Packed::Plain {
            let mut file = file;
            file.seek(SeekFrom::Start(mark.offset - before))?;
            unpack(Packed::Plain, file)?
        } else {
            let mut input = unpack(self.packed, file)?;
            io::copy(&mut (&mut input).take(mark.offset - before), &mut io::sink())?;
            input
        };
        let read = fill(&mut input, &mut tail)?;
        if read as u64 == before && hash(&tail) == mark.tail {
            return Ok((input, mark.offset));
        }
        // Another file with the same beginning, or one that was cut and written anew.
        Ok((unpack(self.packed, File::open(&self.path)?)?, 0))
    }
}

/// When a file was last written to.
pub fn modified(meta: &Metadata) -> Timestamp {
    meta.modified().map(Timestamp::from).unwrap_or_default()
}

/// Reads until the buffer is full or the input ends.
pub fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// The place in a rotation that a name tells: `mail.log` 0, `mail.log.2.gz` 2, `mail.log-20261101` by its date (as large
/// as it is young). Greater is older.
pub fn rotation(path: &Path) -> Reverse<i64> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = [".gz", ".xz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name).to_owned();
    let number = name.rsplit(['.', '-']).next().and_then(|number| number.parse::<i64>().ok());
    match number {
        // A date: the younger the later.
        Some(date) if date > 19_700_000 => Reverse(i64::MAX / 2 - date),
        Some(number) => Reverse(number),
        None => Reverse(0),
    }
}

/// Logs as systems lay them down.
pub const USUAL: [&str; 8] = [
    "/var/log/mail.log",
    "/var/log/maillog",
    "/var/log/mail",
    "/var/log/mail.info",
    "/var/log/exim4/mainlog",
    "/var/log/exim/main.log",
    "/var/log/qmail/qmail-send",
    "/var/log/qmail",
];

/// The logs of this machine: of the usual places the first that is there, with its rotated files.
pub fn usual() -> Vec<PathBuf> {
    for usual in USUAL {
        let path = Path::new(usual);
        let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        if path.is_dir() {
            let found = inside(path);
            if !found.is_empty() {
                return found;
            }
            continue;
        }
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let mut found: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| {
                let text = entry.file_name().to_string_lossy().into_owned();
                text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
            })
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        found.sort();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Files of a directory, by name; hidden ones, locks and states of multilog left out.
pub fn inside(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            !name.starts_with('.') && !matches!(name.as_str(), "lock" | "state" | "newstate" | "status")
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations() {
        let mut names = ["mail.log", "mail.log.1", "mail.log.10.gz", "mail.log.2.gz"].map(PathBuf::from);
        names.sort_by_key(|name| rotation(name));
        assert_eq!(
            names.map(|name| name.to_string_lossy().into_owned()),
            ["mail.log.10.gz", "mail.log.2.gz", "mail.log.1", "mail.log"]
        );
        let mut names = ["mail.log", "mail.log-20261101", "mail.log-20260901.xz"].map(PathBuf::from);
        names.sort_by_key(|name| rotation(name));
        assert_eq!(
            names.map(|name| name.to_string_lossy().into_owned()),
            ["mail.log-20260901.xz", "mail.log-20261101", "mail.log"]
        );
    }

    #[test]
    fn a_file_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail.log");
        fs::write(&path, "Nov 21 10:00:00 mx postfix/qmgr[1]: x\n").unwrap();
        let source = Source::look(&path).unwrap();
        let text = fs::read(&path).unwrap();
        let mark = Mark {
            head_length: source.head.len(),
            head: hash(&source.head),
            offset: text.len() as u64,
            tail: hash(&text),
            ..Mark::default()
        };
        fs::write(&path, [&text[..], b"more\n"].concat()).unwrap();
        let grown = Source::look(&path).unwrap();
        assert!(grown.is(&mark));
        let (mut input, offset) = grown.open_at(Some(&mark)).unwrap();
        let mut rest = String::new();
        input.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), offset), ("more\n", text.len() as u64));
        fs::write(&path, "Nov 22 10:00:00 mx postfix/qmgr[1]: x\nmore\n").unwrap();
        assert!(!Source::look(&path).unwrap().is(&mark));
    }
}

//! The message itself: headers, empty line, body, with LF line ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// Where the bytes of a message lie. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory: every small message between acceptance and its first attempt.
    Memory(Bytes),
    /// In a file, from `offset` for `len` bytes: a queue segment, or a large message's own file.
    File {
        /// The open file; positioned reads only, so that clones do not disturb each other.
        file: Arc<File>,
        /// First byte of the message.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File { len, .. } => *len,
        }
    }
    /// True when there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes from `start` to `end`, not copied. What is beyond the end is not there.
    pub fn slice(&self, start: u64, end: u64) -> Self {
        match self {
            Content::Memory(bytes) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Content::Memory(bytes.slice(place(start)..place(end).max(place(start))))
            }
            Content::File { file, offset, len } => {
                let (start, end) = (start.min(*len), end.min(*len));
                Content::File { file: file.clone(), offset: offset + start, len: end.saturating_sub(start) }
            }
        }
    }
    /// A reader from the first byte. Each reader has its own position.
    pub fn reader(&self) -> ContentReader {
        ContentReader { content: self.clone(), at: 0 }
    }
    /// All bytes in memory. For messages known to be small.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        match self {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::File { file, offset, len } => {
                let len = usize::try_from(*len).map_err(|_| io::ErrorKind::OutOfMemory)?;
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, *offset)?;
                Ok(buffer.into())
            }
        }
    }
    /// Fills `buffer` from position `at`; returns how much, 0 at the end.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.len().saturating_sub(at);
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        match self {
            Content::Memory(bytes) => {
                // `at` is below the length, which is a usize.
                let at = at as usize;
                buffer[..want].copy_from_slice(&bytes[at..at + want]);
                Ok(want)
            }
            Content::File { file, offset, .. } => match file.read_at(&mut buffer[..want], offset + at)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                n => Ok(n),
            },
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Memory(bytes.into())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Content::Memory(bytes)
    }
}

/// Reads a [`Content`] from its first byte.
#[derive(Debug)]
pub struct ContentReader {
    content: Content,
    at: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

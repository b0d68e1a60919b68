//! A stream cut into lines in bounded memory.

use std::io::{self, Read};

/// A line is not longer; what follows is passed over and counted. Postfix cuts at 2,000 characters, rsyslog at 8,192.
pub const LONGEST: usize = 64 << 10;
const CHUNK: usize = 256 << 10;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'b> {
    /// Without its end; of a line that is too long the first [`LONGEST`] bytes.
    pub bytes: &'b [u8],
    /// Where it begins in the stream.
    pub offset: u64,
    /// Where the next one begins.
    pub next: u64,
    /// It was longer than [`LONGEST`].
    pub cut: bool,
    /// It has no line end: the stream ended in it. Somebody may still be writing it.
    pub unfinished: bool,
}

/// Cuts a stream into lines.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    window: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `window[start]` in the stream.
    offset: u64,
}

impl<R: Read> Lines<R> {
    /// Reads from here on; `offset` is where in the stream that is.
    pub fn new(input: R, offset: u64) -> Self {
        Self { input, window: vec![0; CHUNK + LONGEST], start: 0, end: 0, offset }
    }

    /// The next line; `None` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut seen = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.window[self.start + seen..self.end]) {
                let length = seen + at;
                return Ok(Some(self.give(length, 1)));
            }
            seen = self.end - self.start;
            if seen > LONGEST {
                return self.too_long().map(Some);
            }
            if self.fill()? == 0 {
                if seen == 0 {
                    return Ok(None);
                }
                let mut line = self.give(seen, 0);
                line.unfinished = true;
                return Ok(Some(line));
            }
        }
    }

    /// Where the next line begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream, to go on with after its end.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    fn give(&mut self, length: usize, end: usize) -> Line<'_> {
        let (from, offset) = (self.start, self.offset);
        self.start += length + end;
        self.offset += (length + end) as u64;
        let kept = length.min(LONGEST);
        let bytes = &self.window[from..from + kept];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        Line { bytes, offset, next: self.offset, cut: length > LONGEST, unfinished: false }
    }

    /// Keeps the first part of a line and reads over the rest of it.
    fn too_long(&mut self) -> io::Result<Line<'_>> {
        let offset = self.offset;
        let kept = self.window[self.start..self.start + LONGEST].to_vec();
        self.offset += (self.end - self.start) as u64;
        self.start = self.end;
        let mut unfinished = false;
        loop {
            if self.fill()? == 0 {
                unfinished = true;
                break;
            }
            if let Some(at) = memchr::memchr(b'\n', &self.window[self.start..self.end]) {
                self.start += at + 1;
                self.offset += at as u64 + 1;
                break;
            }
            self.offset += (self.end - self.start) as u64;
            self.start = self.end;
        }
        // The window is as long as a line and a chunk; the part that is kept goes before what is still unread.
        let rest = self.end - self.start;
        let mut window = Vec::with_capacity(LONGEST + CHUNK + LONGEST);
        window.extend_from_slice(&kept);
        window.extend_from_slice(&self.window[self.start..self.end]);
        window.resize((LONGEST + rest).max(CHUNK + LONGEST), 0);
        self.window = window;
        (self.start, self.end) = (LONGEST, LONGEST + rest);
        Ok(Line { bytes: &self.window[..LONGEST], offset, next: self.offset, cut: true, unfinished })
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.window.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.window.len() {
            self.window.resize(self.end + CHUNK, 0);
        }
        loop {
            match self.input.read(&mut self.window[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, or all at once.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(self.1).min(buffer.len());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    #[test]
    fn lines_and_where_they_are() {
        for step in [1, 3, 1 << 20] {
            let text = b"one\r\ntwo\n\nfour";
            let mut lines = Lines::new(Slow(text, step), 100);
            let mut seen = Vec::new();
            while let Some(line) = lines.next_line().unwrap() {
                assert!(!line.cut);
                seen.push((String::from_utf8(line.bytes.to_vec()).unwrap(), line.offset, line.next, line.unfinished));
            }
            let wanted =
                [("one", 100, 105, false), ("two", 105, 109, false), ("", 109, 110, false), ("four", 110, 114, true)];
            assert_eq!(seen, wanted.map(|(text, from, to, open)| (text.to_owned(), from, to, open)));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        for (length, step) in [(LONGEST + 1, 1000), (CHUNK * 3, 1 << 20), (CHUNK * 3 + 7, 999)] {
            let mut text = vec![b'x'; length];
            text.extend_from_slice(b"\nnext\n");
            text.extend_from_slice(&vec![b'y'; length]);
            let mut lines = Lines::new(Slow(&text, step), 0);
            let line = lines.next_line().unwrap().unwrap();
            assert_eq!((line.bytes.len(), line.cut, line.next), (LONGEST, true, length as u64 + 1));
            let line = lines.next_line().unwrap().unwrap();
            assert_eq!((line.bytes, line.offset, line.cut), (&b"next"[..], length as u64 + 1, false));
            let line = lines.next_line().unwrap().unwrap();
            assert_eq!((line.bytes.len(), line.cut, line.unfinished), (LONGEST, true, true));
            assert_eq!(lines.next_line().unwrap(), None);
        }
        let exact = [vec![b'x'; LONGEST], b"\n".to_vec()].concat();
        let mut lines = Lines::new(&exact[..], 0);
        let line = lines.next_line().unwrap().unwrap();
        assert_eq!((line.bytes.len(), line.cut, line.unfinished), (LONGEST, false, false));
    }
}

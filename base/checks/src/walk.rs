//! Going through a body: header fields of MIME parts and nested messages, and lines, each with its place.

use std::collections::VecDeque;
use std::io;

use yamabiko_envelope::Content;
use yamabiko_message::FieldName;
use yamabiko_message::mime::{Defect, HeaderClass, MimeState, Options, Sink};

/// How much of a file is read at a time.
const WINDOW: usize = 64 << 10;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A header field.
    Header {
        /// Of which kind of header section.
        class: HeaderClass,
        /// Its name, where it is a known one.
        name: Option<FieldName>,
    },
    /// A line of the body, or a piece of a long one.
    Line {
        /// Where it begins in its part, in bytes.
        offset: u64,
    },
}

impl What {
    pub(crate) const HEADER: Self = Self::Header { class: HeaderClass::Primary, name: None };
    pub(crate) const WHOLE_LINE: Self = Self::Line { offset: 0 };

    /// It is a header field.
    pub fn is_header(self) -> bool {
        matches!(self, Self::Header { .. })
    }
}

/// A header field or a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'w> {
    /// What it is.
    pub what: What,
    /// Where it begins in the body.
    pub start: u64,
    /// Where it ends, its line end included.
    pub end: u64,
    /// A line end stands at its end.
    pub ended: bool,
    /// Its text without the last line end.
    pub text: &'w [u8],
}

/// A walk through a body. Memory: a window of the file, a header section, an open header field.
pub struct Walk {
    machine: MimeState,
    content: Content,
    piece: usize,
    wants_lines: bool,
    /// Bytes of the content from `window_at` on.
    window: bytes::Bytes,
    window_at: u64,
    /// Where the next line begins.
    at: u64,
    /// Where the open header field begins.
    field_at: u64,
    found: VecDeque<Found>,
    text: Vec<u8>,
    finished: bool,
    /// The first of each kind, with the text they were found in.
    defects: Vec<(Defect, Vec<u8>)>,
}

struct Found {
    what: What,
    start: u64,
    end: u64,
    ended: bool,
    text: Vec<u8>,
}

/// Takes what the machine finds in one line.
struct Collector<'w> {
    header: Option<(HeaderClass, Option<FieldName>, Vec<u8>)>,
    bodies: usize,
    defects: &'w mut Vec<(Defect, Vec<u8>)>,
}

impl Sink for Collector<'_> {
    fn header(&mut self, class: HeaderClass, name: Option<FieldName>, header: &[u8]) {
        self.header = Some((class, name, header.to_vec()));
    }
    fn body(&mut self, _line: &[u8], _complete: bool) {
        self.bodies += 1;
    }
    fn defect(&mut self, defect: Defect, text: &[u8]) {
        self.defects.push((defect, text[..text.len().min(200)].to_vec()));
    }
}

impl Walk {
    pub(crate) fn new(options: Options, piece: usize, wants_lines: bool, fields: &[u8], content: Content) -> Self {
        let mut machine = MimeState::new(options);
        let mut defects = Vec::new();
        let mut collector = Collector { header: None, bodies: 0, defects: &mut defects };
        for line in fields.split_inclusive(|byte| *byte == b'\n') {
            machine.line(line.strip_suffix(b"\n").unwrap_or(line), true, &mut collector);
        }
        machine.line(b"", true, &mut collector);
        Self {
            machine,
            content,
            piece,
            wants_lines,
            window: bytes::Bytes::new(),
            window_at: 0,
            at: 0,
            field_at: 0,
            found: VecDeque::new(),
            text: Vec::new(),
            finished: false,
            defects,
        }
    }

    /// What is wrong with the message, as far as the walk has come.
    pub fn defects(&self) -> &[(Defect, Vec<u8>)] {
        &self.defects
    }

    /// The next piece. An error means that the content cannot be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        while self.found.is_empty() {
            if self.finished || (!self.wants_lines && self.machine.is_settled()) {
                return Ok(None);
            }
            self.line()?;
        }
        let Some(found) = self.found.pop_front() else { return Ok(None) };
        self.text = found.text;
        Ok(Some(Piece { what: found.what, start: found.start, end: found.end, ended: found.ended, text: &self.text }))
    }

    /// Gives the machine the next line, or a piece of it.
    fn line(&mut self) -> io::Result<()> {
        let rest = self.content.len() - self.at;
        let mut collector = Collector { header: None, bodies: 0, defects: &mut self.defects };
        if rest == 0 {
            self.finished = true;
            self.machine.finish(&mut collector);
            if let Some(header) = collector.header {
                let ended = self.at > 0 && byte_at(&self.content, self.at - 1)? == b'\n';
                self.put_header(header, self.at, ended);
            }
            return Ok(());
        }
        let need = usize::try_from(rest).unwrap_or(usize::MAX).min(self.piece + 1);
        let from = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        if self.window.len().saturating_sub(from) < need {
            self.window = window(&self.content, self.at)?;
            self.window_at = self.at;
        }
        let from = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let ahead = self.window.get(from..from.saturating_add(need)).unwrap_or_default();
        let (length, ended) = match memchr::memchr(b'\n', ahead) {
            Some(end) => (end, true),
            None => (ahead.len().min(self.piece), false),
        };
        let text = self.window.slice(from..from + length);
        let start = self.at;
        self.at += length as u64 + u64::from(ended);
        let complete = ended || self.at == self.content.len();
        self.machine.line(&text, complete, &mut collector);
        let Collector { header, bodies, .. } = collector;
        if let Some(header) = header {
            self.put_header(header, start, true);
            self.field_at = start;
        }
        if bodies > 0 {
            self.field_at = self.at;
            if self.wants_lines {
                let offset = self.machine.body_offset().saturating_sub(length as u64);
                let what = What::Line { offset };
                self.found.push_back(Found { what, start, end: self.at, ended, text: text.to_vec() });
            }
        }
        Ok(())
    }

    fn put_header(&mut self, header: (HeaderClass, Option<FieldName>, Vec<u8>), end: u64, ended: bool) {
        let (class, name, text) = header;
        let what = What::Header { class, name };
        self.found.push_back(Found { what, start: self.field_at, end, ended, text });
    }
}

/// Bytes from `at` on: all of them where they are in memory.
fn window(content: &Content, at: u64) -> io::Result<bytes::Bytes> {
    if let Content::Memory(bytes) = content {
        return Ok(bytes.slice(usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len())..));
    }
    let length = usize::try_from(content.len() - at).unwrap_or(usize::MAX).min(WINDOW);
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match content.read_at(&mut buffer[filled..], at + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(buffer.into())
}

fn byte_at(content: &Content, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    match content.read_at(&mut byte, at)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(byte[0]),
    }
}

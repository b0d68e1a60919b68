//! Finding the header section of a content, which may lie in a file and may be hostile.

use bytes::Bytes;
use yamabiko_envelope::Content;
use yamabiko_message::{Fields, Separator};

/// A header section longer than this is refused: nothing passes that header checks have not seen.
pub(crate) const LIMIT: usize = 8 << 20;
/// How much of a file is read at first.
const FIRST: usize = 64 << 10;

/// Why there is no section.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is longer than [`LIMIT`].
    TooLarge,
    /// The content cannot be read.
    Unreadable(std::io::Error),
}

impl From<std::io::Error> for Unusable {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// The beginning of a content, up to the end of its headers at least.
pub(crate) struct Section {
    /// Bytes from the first of the content.
    pub(crate) bytes: Bytes,
    /// mbox lines (`From `, `>From `) before the headers: where they end.
    pub(crate) fields_at: usize,
    /// Where the headers end.
    pub(crate) fields_end: usize,
    /// Where the body begins in the content.
    pub(crate) body_at: usize,
    /// What is between them.
    pub(crate) separator: Separator,
}

impl Section {
    /// Reads as much of `content` as it takes; `mailbox` says that mbox lines may stand in front.
    pub(crate) fn of(content: &Content, mailbox: bool) -> Result<Self, Unusable> {
        if let Content::Memory(bytes) = content {
            let whole = bytes.len() <= LIMIT;
            let bytes = if whole { bytes.clone() } else { bytes.slice(..LIMIT) };
            return Self::find(bytes, whole, true, mailbox).within_limit(whole);
        }
        let mut size = FIRST;
        loop {
            let mut buffer = vec![0; size.min(usize::try_from(content.len()).unwrap_or(size))];
            let mut filled = 0;
            while filled < buffer.len() {
                match content.read_at(&mut buffer[filled..], filled as u64)? {
                    0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                    n => filled += n,
                }
            }
            let whole = filled as u64 == content.len();
            let last = whole || size >= LIMIT;
            let section = Self::find(buffer.into(), whole, last, mailbox);
            if last || section.separator != Separator::End {
                return section.within_limit(whole);
            }
            size = (size * 4).min(LIMIT);
        }
    }

    fn within_limit(self, whole: bool) -> Result<Self, Unusable> {
        if whole || self.separator != Separator::End { Ok(self) } else { Err(Unusable::TooLarge) }
    }

    /// `last`: nothing more will be read.
    fn find(bytes: Bytes, whole: bool, last: bool, mailbox: bool) -> Self {
        // A line without its end could be anything; one that is cut off at the limit is a body if it begins like one.
        let known = if whole || last { bytes.len() } else { memchr::memrchr(b'\n', &bytes).map_or(0, |n| n + 1) };
        let mut fields_at = 0;
        while mailbox && let Some(length) = mailbox_line(&bytes[fields_at..known]) {
            fields_at += length;
        }
        let fields = Fields::of(&bytes[fields_at..known]);
        let (fields_end, body_at) = (fields_at + fields.bytes().len(), fields_at + fields.body_at());
        let separator = fields.separator();
        Self { fields_at, fields_end, body_at, separator, bytes }
    }

    pub(crate) fn mailbox_lines(&self) -> &[u8] {
        &self.bytes[..self.fields_at]
    }

    pub(crate) fn fields(&self) -> &[u8] {
        &self.bytes[self.fields_at..self.fields_end]
    }

    pub(crate) fn fields_bytes(&self) -> Bytes {
        self.bytes.slice(self.fields_at..self.fields_end)
    }
}

/// Length of the mbox line that `text` begins with, line end included.
fn mailbox_line(text: &[u8]) -> Option<usize> {
    let quotes = text.iter().take_while(|byte| **byte == b'>').count();
    text[quotes..].starts_with(b"From ").then(|| memchr::memchr(b'\n', text).map_or(text.len(), |n| n + 1))
}

/// The rest of a content from a position.
pub(crate) fn rest(content: &Content, from: usize) -> Content {
    content.slice(from as u64, content.len())
}

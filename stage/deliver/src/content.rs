//! The message as it goes over the wire: perhaps with a header of its own, perhaps converted to seven bits, dots doubled,
//! lines with CRLF. Read in pieces, so that a gigabyte does not come into memory.

use std::io;

use memchr::memchr_iter;
use yamabiko_envelope::Content;
use yamabiko_message::downgrade::Downgrade;
use yamabiko_smtp::data::DataEncoder;

/// Bytes read at once from a file, and about as many written at once.
pub(crate) const PIECE: usize = 64 * 1024;
/// Headers longer than this are not looked into.
pub(crate) const HEADER_LIMIT: usize = 1024 * 1024;

/// A message: as it is stored, or in parts because something in it is sent differently.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Stored(&'a Content),
    Parts(Vec<Content>),
}

impl Source<'_> {
    fn parts(&self) -> &[Content] {
        match self {
            Self::Stored(content) => std::slice::from_ref(*content),
            Self::Parts(parts) => parts,
        }
    }
}

/// A message with what replaces its beginning.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    source: Source<'a>,
    /// Sent in place of the first bytes.
    head: Option<Vec<u8>>,
    /// Where the rest begins.
    offset: u64,
}

impl<'a> Text<'a> {
    /// As it is.
    pub fn plain(source: Source<'a>) -> Self {
        Self { source, head: None, offset: 0 }
    }

    /// With `head` in place of the first `offset` bytes.
    pub fn with_head(self, head: Vec<u8>, offset: u64) -> Self {
        Self { head: Some(head), offset, ..self }
    }

    /// The first bytes, up to the empty line or [`HEADER_LIMIT`].
    pub fn beginning(&self) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        for part in self.source.parts() {
            if read_beginning(part, &mut found)? {
                break;
            }
        }
        Ok(found)
    }

    /// The size on the wire without dot-stuffing: every LF counts twice. Trouble with the file gives what was seen.
    pub fn wire_size(&self) -> u64 {
        let mut size = 0;
        let mut last = b'\n';
        let mut reader = Pieces::new(self);
        let mut buffer = Vec::new();
        while let Ok(Some(piece)) = reader.next(&mut buffer) {
            size += piece.len() as u64 + memchr_iter(b'\n', piece).count() as u64;
            last = piece.last().copied().unwrap_or(last);
        }
        if last == b'\n' { size } else { size + 2 }
    }
}

/// Reads on in `content` up to the empty line. True: `found` has all there is to have.
fn read_beginning(content: &Content, found: &mut Vec<u8>) -> io::Result<bool> {
    let mut at = 0u64;
    let mut piece = vec![0; 8192];
    while found.len() < HEADER_LIMIT {
        let n = content.read_at(&mut piece, at)?;
        if n == 0 {
            return Ok(false);
        }
        let from = found.len().saturating_sub(1);
        found.extend_from_slice(piece.get(..n).unwrap_or_default());
        at += n as u64;
        if found.starts_with(b"\n") || memchr::memmem::find(found.get(from..).unwrap_or_default(), b"\n\n").is_some() {
            break;
        }
    }
    Ok(true)
}

/// The pieces of a message in memory form, one after another.
struct Pieces<'a> {
    text: &'a Text<'a>,
    head: bool,
    /// Which part, and where in it.
    part: usize,
    at: u64,
}

impl<'a> Pieces<'a> {
    fn new(text: &'a Text<'a>) -> Self {
        let (mut part, mut at) = (0, text.offset);
        while let Some(content) = text.source.parts().get(part).filter(|content| content.len() <= at && at > 0) {
            at -= content.len();
            part += 1;
        }
        Self { text, head: text.head.is_some(), part, at }
    }

    fn next<'b>(&mut self, buffer: &'b mut Vec<u8>) -> io::Result<Option<&'b [u8]>>
    where
        'a: 'b,
    {
        if self.head {
            self.head = false;
            if let Some(head) = self.text.head.as_deref().filter(|head| !head.is_empty()) {
                return Ok(Some(head));
            }
        }
        while let Some(content) = self.text.source.parts().get(self.part) {
            if self.at >= content.len() {
                self.part += 1;
                self.at = 0;
                continue;
            }
            return match content {
                Content::Memory(bytes) => {
                    let rest = usize::try_from(self.at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                    let piece = &rest[..rest.len().min(PIECE)];
                    self.at += piece.len() as u64;
                    Ok(Some(piece))
                }
                content @ Content::File { .. } => {
                    buffer.resize(PIECE, 0);
                    let n = content.read_at(buffer, self.at)?;
                    self.at += n as u64;
                    Ok(buffer.get(..n))
                }
            };
        }
        Ok(None)
    }
}

/// Turns a message into bytes for the wire, piece by piece.
pub(crate) struct Wire<'a> {
    pieces: Pieces<'a>,
    buffer: Vec<u8>,
    converted: Vec<u8>,
    downgrade: Option<Downgrade>,
    encoder: DataEncoder,
    done: bool,
}

impl<'a> Wire<'a> {
    /// `line_limit`: longer lines are broken; 0 breaks none. `downgrade`: convert to seven bits.
    pub fn new(text: &'a Text<'a>, line_limit: usize, downgrade: bool) -> Self {
        Self {
            pieces: Pieces::new(text),
            buffer: Vec::new(),
            converted: Vec::new(),
            downgrade: downgrade.then(Downgrade::new),
            encoder: DataEncoder::new(line_limit),
            done: false,
        }
    }

    /// A CR within a line is sent as a blank.
    pub fn without_stray_cr(self) -> Self {
        Self { encoder: self.encoder.without_stray_cr(), ..self }
    }

    /// A line was broken because it was too long for the protocol.
    pub fn broke_a_line(&self) -> bool {
        self.encoder.broke_a_line()
    }

    /// Appends the next bytes to `out`. False when the message is complete, its final dot included.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        let piece = self.pieces.next(&mut self.buffer)?;
        match (&mut self.downgrade, piece) {
            (None, Some(piece)) => self.encoder.encode(piece, out),
            (Some(downgrade), Some(piece)) => {
                downgrade.push(piece, &mut self.converted);
                self.encoder.encode(&self.converted, out);
                self.converted.clear();
            }
            (_, None) => {
                if let Some(downgrade) = self.downgrade.take() {
                    downgrade.finish(&mut self.converted);
                    self.encoder.encode(&self.converted, out);
                }
                self.encoder.finish(out);
                self.done = true;
            }
        }
        Ok(!self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    fn wire(text: &Text<'_>, limit: usize, downgrade: bool) -> String {
        let mut out = Vec::new();
        let mut wire = Wire::new(text, limit, downgrade);
        while wire.fill(&mut out).unwrap() {}
        String::from_utf8(out).unwrap()
    }

    fn file(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before").unwrap();
        file.write_all(bytes).unwrap();
        file.write_all(b"after").unwrap();
        Content::File { file: Arc::new(file), offset: 6, len: bytes.len() as u64 }
    }

    #[test]
    fn memory_and_file_are_sent_alike() {
        let table: &[(&str, &str)] = &[
            ("", ".\r\n"),
            ("a: b\n\n.x\n..\n", "a: b\r\n\r\n..x\r\n...\r\n.\r\n"),
            ("no end", "no end\r\n.\r\n"),
            ("0123456789abcde\n", "0123456789\r\n abcde\r\n.\r\n"),
        ];
        for (content, wanted) in table {
            for content in [Content::from(content.as_bytes().to_vec()), file(content.as_bytes())] {
                assert_eq!(wire(&Text::plain(Source::Stored(&content)), 10, false), *wanted);
            }
        }
    }

    #[test]
    fn a_header_can_be_replaced() {
        let content = Content::from(b"From: a\n\nbody\n".to_vec());
        let text = Text::plain(Source::Stored(&content)).with_head(b"From: b\n".to_vec(), 8);
        assert_eq!(wire(&text, 998, false), "From: b\r\n\r\nbody\r\n.\r\n");
        assert_eq!(text.wire_size(), 17);
    }

    #[test]
    fn parts_are_sent_as_one() {
        let part = |text: &str| Content::from(text.as_bytes().to_vec());
        for (parts, beginning) in [
            (vec![part("A: 1\n"), file(b"B: 2\n\nbo"), part(""), part("dy\n")], "A: 1\nB: 2\n\nbo"),
            (vec![part("A: 1\nB: 2\n"), part("\nbody\n")], "A: 1\nB: 2\n\nbody\n"),
        ] {
            let text = Text::plain(Source::Parts(parts));
            assert_eq!(wire(&text, 998, false), "A: 1\r\nB: 2\r\n\r\nbody\r\n.\r\n");
            assert_eq!(text.beginning().unwrap(), beginning.as_bytes());
            let text = text.with_head(b"C: 3\n".to_vec(), 10);
            assert_eq!(wire(&text, 998, false), "C: 3\r\n\r\nbody\r\n.\r\n");
        }
    }

    #[test]
    fn large_messages_come_in_pieces() {
        let line = "x".repeat(60) + "\n";
        let content = file(line.repeat(20_000).as_bytes());
        let text = Text::plain(Source::Stored(&content));
        assert_eq!(text.wire_size(), 20_000 * 62);
        let mut wire = Wire::new(&text, 998, false);
        let (mut out, mut sum) = (Vec::new(), 0);
        loop {
            let more = wire.fill(&mut out).unwrap();
            assert!(out.len() <= 2 * PIECE);
            sum += out.len();
            out.clear();
            if !more {
                break;
            }
        }
        assert_eq!(sum, 20_000 * 62 + 3);
    }

    #[test]
    fn eight_bits_become_quoted_printable() {
        let message =
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\né = e\n";
        let content = Content::from(message.as_bytes().to_vec());
        let sent = wire(&Text::plain(Source::Stored(&content)), 998, true);
        assert!(sent.contains("Content-Transfer-Encoding: quoted-printable\r\n"), "{sent}");
        assert!(sent.ends_with("\r\n\r\n=C3=A9 =3D e\r\n.\r\n"), "{sent}");
    }
}

//! 8-bit parts of a message turned into quoted-printable, for a server that does not announce 8BITMIME (RFC 6152
//! section 3; Postfix's SMTP client). Parts that are not announced as 8bit or binary are left alone, 8-bit text in them
//! included: nothing says what it is.

use crate::FieldName;
use crate::mime::{HeaderClass, MimeState, Options, Sink};

/// Converts a message piece by piece. LF line ends in, LF line ends out.
#[derive(Clone, Debug)]
pub struct Downgrade {
    state: MimeState,
    /// The beginning of a line that did not end in the last piece.
    partial: Vec<u8>,
    /// A line whose beginning has been handed on already.
    mid_line: bool,
}

/// A longer line is handed on in pieces.
const PIECE: usize = 8192;

impl Default for Downgrade {
    fn default() -> Self {
        Self::new()
    }
}

impl Downgrade {
    /// At the beginning of a message.
    pub fn new() -> Self {
        let options = Options { downgrade: true, ..Options::default() };
        Self { state: MimeState::new(options), partial: Vec::new(), mid_line: false }
    }

    /// Takes a piece of the message, cut anywhere, and appends what comes of it to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                self.state.line(line, true, &mut Writer { out });
            } else {
                self.partial.extend_from_slice(line);
                self.state.line(&self.partial, true, &mut Writer { out });
                self.partial.clear();
            }
            self.mid_line = false;
            rest = tail;
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > PIECE {
            self.state.line(&self.partial, false, &mut Writer { out });
            self.partial.clear();
            self.mid_line = true;
        }
    }

    /// The end of the message. A last line without a line end gets one.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() || self.mid_line {
            self.state.line(&self.partial, true, &mut Writer { out });
        }
        self.state.finish(&mut Writer { out });
    }
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl Sink for Writer<'_> {
    fn header(&mut self, _: HeaderClass, _: Option<FieldName>, header: &[u8]) {
        self.body(header, true);
    }
    fn body(&mut self, line: &[u8], complete: bool) {
        self.out.extend_from_slice(line);
        if complete {
            self.out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(message: &[u8], step: usize) -> String {
        let (mut downgrade, mut out) = (Downgrade::new(), Vec::new());
        for piece in message.chunks(step) {
            downgrade.push(piece, &mut out);
        }
        downgrade.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// What Postfix makes of it.
    const MULTIPART: (&str, &str) = (
        "From: a@b.test\nMime-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b1\"\n\
         Content-Transfer-Encoding: 8bit\nSubject: 8bit \u{e9}\n\nprolog \u{e9}\n--b1\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding : 8bit\n\n\
         \u{e9} \u{e4} trailing \n\
         a long line of more than seventy-six characters that has to be broken somewhere = here \u{e9} and on\n\
         tab end\t\n--b1\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n\
         From: inner\nContent-Transfer-Encoding: 8bit\n\ninner \u{e9}\n--b1\n\
         Content-Type: application/x\nContent-Transfer-Encoding: binary\nnot a header\n\u{e9}\n--b1--\nepilog \u{e9}\n",
        "From: a@b.test\nMime-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b1\"\n\
         Subject: 8bit \u{e9}\nContent-Transfer-Encoding: 7bit\n\nprolog \u{e9}\n--b1\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n\
         =C3=A9 =C3=A4 trailing=20\n\
         a long line of more than seventy-six characters that has to be broken som=\n\
         ewhere =3D here =C3=A9 and on\n\
         tab end=09\n--b1\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\n\
         From: inner\nContent-Transfer-Encoding: quoted-printable\n\ninner =C3=A9\n--b1\n\
         Content-Type: application/x\nContent-Transfer-Encoding: quoted-printable\nnot a header\n=C3=A9\n--b1--\nepilog \u{e9}\n",
    );

    #[test]
    fn known_answers() {
        let table = [
            MULTIPART,
            ("Subject: \u{e9}\n\n\u{e9}\n", "Subject: \u{e9}\n\n\u{e9}\n"),
            ("Content-Transfer-Encoding: BINARY\n\nx", "Content-Transfer-Encoding: quoted-printable\n\nx\n"),
            ("Content-Transfer-Encoding: 8bit\nA: b", "A: b\nContent-Transfer-Encoding: quoted-printable\n"),
            (
                "Content-Transfer-Encoding: 8bit\n\n\u{7f}\r\n",
                "Content-Transfer-Encoding: quoted-printable\n\n=7F=0D\n",
            ),
        ];
        for (message, expected) in table {
            for step in [1, 2, 7, 10_000] {
                assert_eq!(converted(message.as_bytes(), step), expected, "step {step}");
            }
        }
    }

    #[test]
    fn a_line_without_end_stays_bounded_and_whole() {
        let body = "x".repeat(100_000);
        assert_eq!(converted(format!("A: b\n\n{body}").as_bytes(), 1000), format!("A: b\n\n{body}\n"));
    }
}

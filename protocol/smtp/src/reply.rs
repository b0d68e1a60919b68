//! Replies: `250-first line`, `250 last line` (RFC 5321 section 4.2.1).
//!
//! [`ReplyParser`] reads what a server says, in pieces of any size. It is as forgiving as Postfix's client: bare LF ends
//! a line, the code of the last line counts, text beyond [`MAX_TEXT`] is dropped, and a line without a code is
//! [`NotAReply`], because a client that pipelines must not guess.

use std::fmt;

use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

/// Bytes of one line that are kept; the rest of a longer line is dropped (Postfix: `line_length_limit`).
pub const MAX_LINE: usize = 2048;
/// Bytes of a whole reply that are kept.
pub const MAX_TEXT: usize = 20_480;

/// Bytes of a reply that Postfix's server writes at most when it refuses something.
pub const MAX_REJECT: usize = 510;

/// A complete reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The code of the last line.
    pub code: ReplyCode,
    /// All lines as they came, with their codes, joined by `\n`. Bytes that are not UTF-8 became `U+FFFD`.
    pub text: String,
}

impl Reply {
    /// The lines as they came, codes included.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('\n')
    }

    /// The lines without code and separator.
    pub fn texts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.lines().map(|line| line.get(4..).unwrap_or_default())
    }

    /// The enhanced status code of the last line, if there is one and it agrees with the reply code (RFC 2034). Codes
    /// out of step are ignored, as in Postfix.
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        let (status, _) = EnhancedStatus::split(self.texts().next_back()?.trim_start())?;
        let agrees = match status.class {
            Class::Success => self.code.is_success(),
            Class::Transient => self.code.is_transient(),
            Class::Permanent => self.code.is_permanent(),
        };
        agrees.then_some(status)
    }

    /// The enhanced status code, or the default for the reply code: `2.0.0`, `4.0.0`, `5.0.0`; `5.0.0` for anything
    /// else, such as a 3xx that nobody asked for.
    pub fn status(&self) -> EnhancedStatus {
        self.enhanced().unwrap_or(EnhancedStatus::permanent(0, 0).agreeing_with(self.code))
    }

    /// The text on one line, lines joined by blanks: as log lines and reports show it.
    pub fn one_line(&self) -> String {
        self.text.replace('\n', " ")
    }
}

/// What the server said is not a reply: the line, cut to 100 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAReply(pub String);

impl fmt::Display for NotAReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an SMTP reply: {}", self.0)
    }
}

impl std::error::Error for NotAReply {}

/// Reads one reply after another. Keeps at most [`MAX_TEXT`] plus [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub struct ReplyParser {
    line: Vec<u8>,
    text: Vec<u8>,
}

impl ReplyParser {
    /// A parser that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something of a reply was read, but not its end.
    pub fn is_within(&self) -> bool {
        !self.line.is_empty() || !self.text.is_empty()
    }

    /// Takes bytes from the front of `input` and advances it. `None`: the input is used up and the reply goes on.
    pub fn parse(&mut self, input: &mut &[u8]) -> Option<Result<Reply, NotAReply>> {
        while !input.is_empty() {
            let newline = memchr::memchr(b'\n', input);
            let piece = &input[..newline.unwrap_or(input.len())];
            let room = MAX_LINE.saturating_sub(self.line.len());
            let kept = &piece[..piece.len().min(room)];
            let Some(newline) = newline else {
                self.line.extend_from_slice(kept);
                *input = &[];
                return None;
            };
            *input = &input[newline + 1..];
            // Lines come whole nearly always, and are not copied for it.
            let result = if self.line.is_empty() {
                self.end_of_line(kept, input.len())
            } else {
                self.line.extend_from_slice(kept);
                let line = std::mem::take(&mut self.line);
                self.end_of_line(&line, input.len())
            };
            if result.is_some() {
                return result;
            }
        }
        None
    }

    /// A line without its LF, behind which so many bytes are at hand.
    fn end_of_line(&mut self, mut line: &[u8], more: usize) -> Option<Result<Reply, NotAReply>> {
        while let [before @ .., b'\r'] = line {
            line = before;
        }
        let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
        let last = match line.get(3) {
            _ if digits != 3 => None,
            Some(b'-') => Some(false),
            Some(b' ') | None => Some(true),
            _ => None,
        };
        let Some(last) = last else {
            self.text.clear();
            return Some(Err(NotAReply(String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned())));
        };
        if self.text.len() < MAX_TEXT {
            if self.text.is_empty() {
                self.text.reserve(line.len() + if last { 0 } else { more.min(MAX_LINE) });
            } else {
                self.text.push(b'\n');
            }
            self.text.extend_from_slice(line);
        } else if last {
            // The last line says what it was, so it takes the place of what does not fit.
            self.text.truncate(MAX_TEXT);
            self.text.push(b'\n');
            self.text.extend_from_slice(line);
        }
        if !last {
            return None;
        }
        // Three digits, seen above.
        let code = line[..3].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        let text = String::from_utf8(std::mem::take(&mut self.text));
        let text = text.unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned());
        Some(Ok(Reply { code: ReplyCode(code), text }))
    }
}

/// Appends a reply of one line, `text` beginning with its code. Line ends within the text would forge replies, so control
/// characters become `?`.
pub fn put(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in out.iter_mut().skip(start).filter(|byte| (**byte < 32 && **byte != b'\t') || **byte == 127) {
        *byte = b'?';
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a reply of several lines, each with the code and a hyphen but the last, which has a blank.
pub fn put_lines<'a>(code: u16, lines: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        let separator = if lines.peek().is_some() { '-' } else { ' ' };
        put(&format!("{code:03}{separator}{line}"), out);
    }
}

/// Cuts a text to `limit` bytes without cutting a character in two.
pub fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], step: usize) -> Vec<Result<Reply, NotAReply>> {
        let mut parser = ReplyParser::new();
        let mut found = Vec::new();
        for piece in input.chunks(step) {
            let mut rest = piece;
            while let Some(reply) = parser.parse(&mut rest) {
                found.push(reply);
            }
        }
        found
    }

    #[test]
    fn known_answers() {
        let cases: &[(&str, u16, &str, &str)] = &[
            ("250 2.1.0 Ok\r\n", 250, "250 2.1.0 Ok", "2.1.0"),
            ("250\r\n", 250, "250", "2.0.0"),
            ("250-mx.test\r\n250-SIZE 100\r\n250 DSN\n", 250, "250-mx.test\n250-SIZE 100\n250 DSN", "2.0.0"),
            ("550-5.1.1 no\r\n550 5.1.1 such user\r\n", 550, "550-5.1.1 no\n550 5.1.1 such user", "5.1.1"),
            ("450 5.1.1 out of step\r\n", 450, "450 5.1.1 out of step", "4.0.0"),
            ("554 5.7.1\r\n", 554, "554 5.7.1", "5.7.1"),
            ("354 go ahead\r\n", 354, "354 go ahead", "5.0.0"),
            ("421-a\r\n250 b\r\n", 250, "421-a\n250 b", "2.0.0"),
        ];
        for (input, code, text, status) in cases {
            for step in [1, 3, 1000] {
                let replies = all(input.as_bytes(), step);
                let [Ok(reply)] = &replies[..] else { panic!("{input:?}: {replies:?}") };
                assert_eq!((reply.code.0, reply.text.as_str()), (*code, *text));
                assert_eq!(reply.status().to_string(), *status, "{input:?}");
            }
        }
    }

    #[test]
    fn what_is_no_reply() {
        for input in ["hello\r\n", "\r\n", "25 x\r\n", "2500 x\r\n", "250_x\r\n", "HTTP/1.0 200 OK\r\n", "25\u{e9}\r\n"]
        {
            assert!(matches!(all(input.as_bytes(), 2)[..], [Err(_)]), "{input:?}");
        }
    }

    #[test]
    fn pipelined_replies_come_one_by_one() {
        let codes: Vec<u16> = all(b"250 a\r\n550 b\r\n354 c\r\n", 4).into_iter().map(|r| r.unwrap().code.0).collect();
        assert_eq!(codes, [250, 550, 354]);
    }

    #[test]
    fn endless_replies_stay_small() {
        let mut parser = ReplyParser::new();
        for _ in 0..1000 {
            assert_eq!(parser.parse(&mut &[b'2'; 1000][..]), None);
        }
        assert!(parser.line.len() <= MAX_LINE);
        let mut parser = ReplyParser::new();
        for _ in 0..10_000 {
            assert_eq!(parser.parse(&mut &b"250-some more text for you\r\n"[..]), None);
        }
        assert!(parser.text.len() <= MAX_TEXT + MAX_LINE);
        let reply = parser.parse(&mut &b"250 2.0.9 end\r\n"[..]).unwrap().unwrap();
        assert_eq!(reply.status().to_string(), "2.0.9");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut wire = Vec::new();
        put_lines(250, ["mx.test", "PIPELINING", "DSN"], &mut wire);
        put("550 5.7.1 a\r\n250 forged", &mut wire);
        let replies: Vec<_> = all(&wire, 5).into_iter().map(Result::unwrap).collect();
        assert_eq!(replies.len(), 2);
        assert_eq!(replies[0].texts().collect::<Vec<_>>(), ["mx.test", "PIPELINING", "DSN"]);
        assert_eq!(replies[1].text, "550 5.7.1 a??250 forged");
    }

    #[test]
    fn truncation_keeps_characters_whole() {
        let mut text = "山彦".to_owned();
        truncate(&mut text, 4);
        assert_eq!(text, "山");
    }
}

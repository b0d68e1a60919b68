//! mbox files of any size, read as a stream: one message after the other in bounded memory.
//!
//! The four dialects are told apart message by message, not file by file, because files are mixed: a `From ` line that
//! begins a message looks like one (sender and date, after a blank line); a `Content-Length` is believed only where it
//! leads to such a line or to the end of the file (mboxcl, mboxcl2), so that a wrong one costs nothing; `>From ` loses one
//! `>` (mboxrd; for mboxo it is the better guess). Line ends may be LF, CRLF or CR.

use std::io::{self, Read};

use memchr::memmem;

/// Of a message longer than [`HEAD`] + [`TAIL`] the middle is left out: what a bounce says stands at its beginning, and
/// the end is kept for the closing boundary and for notices that put the original message first.
pub const HEAD: usize = 2 << 20;
/// See [`HEAD`].
pub const TAIL: usize = 256 << 10;

/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// A `From ` line is not longer.
const LONGEST_FROM_LINE: usize = 1000;

/// Does a file that begins so hold an mbox?
pub fn is_mbox(beginning: &[u8]) -> bool {
    beginning.starts_with(b"From ")
}

/// One message of an mbox.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Where its `From ` line begins.
    pub offset: u64,
    /// It, without the `From ` line.
    pub bytes: Vec<u8>,
}

/// The messages of an mbox.
pub struct Mbox<R> {
    input: R,
    window: Vec<u8>,
    /// Where in the window the next message begins.
    start: usize,
    /// How many bytes of the input lie before the window.
    before: u64,
    ended: bool,
    /// Lines end in a bare CR.
    bare_cr: Option<bool>,
}

impl<R: Read> Mbox<R> {
    /// Reads from the beginning of an mbox.
    pub fn new(input: R) -> Self {
        Mbox { input, window: Vec::new(), start: 0, before: 0, ended: false, bare_cr: None }
    }

    /// The next message; `None` at the end. After an error the file cannot be read on.
    pub fn next_message(&mut self) -> io::Result<Option<Message>> {
        self.drop_front();
        while self.window.len() < self.start + LONGEST_FROM_LINE && self.fill()? {}
        if self.start >= self.window.len() {
            return Ok(None);
        }
        let offset = self.before + self.start as u64;
        let body = match line_end(&self.window, self.start) {
            Some(end) if is_mbox(&self.window[self.start..]) => end - self.start,
            // Text before the first `From ` line: a message all the same.
            _ => 0,
        };
        let mut cut = Cut { dropped: 0, head_end: 0 };
        let end = match self.by_content_length(self.start + body)? {
            Some(end) => end,
            None => self.next_from_line(body, &mut cut)?,
        };
        let bytes = unquote(&self.window[self.start + body..end]);
        self.start = end;
        // A blank line may stand between a message that was found by its length and the next `From ` line.
        for gap in [&b"\r\n"[..], b"\n"] {
            if self.window[self.start..].starts_with(gap) {
                self.start += gap.len();
                break;
            }
        }
        Ok(Some(Message { offset, bytes }))
    }

    /// How far the input has been read.
    pub fn position(&self) -> u64 {
        self.before + self.window.len() as u64
    }

    /// The end of the message whose header begins at `header` by its `Content-Length`, if that is to be believed.
    fn by_content_length(&mut self, header: usize) -> io::Result<Option<usize>> {
        let relative = header - self.start;
        while header_length(&self.window[header..]).is_none() && self.window.len() - header < CHUNK && self.fill()? {}
        let header = self.start + relative;
        let Some(length) = header_length(&self.window[header..]) else { return Ok(None) };
        let Some(claimed) = content_length(&self.window[header..header + length]) else { return Ok(None) };
        if claimed > HEAD {
            return Ok(None);
        }
        let end = header + length + claimed;
        while self.window.len() < end + LONGEST_FROM_LINE && self.fill()? {}
        if end > self.window.len() {
            return Ok(None);
        }
        let rest = &self.window[end..];
        let rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
        let on_line_start = claimed == 0 || self.window[end - 1] == b'\n' || rest.len() < self.window.len() - end;
        let fits =
            rest.is_empty() || (on_line_start && line_end(rest, 0).is_some_and(|line| is_from_line(&rest[..line])));
        Ok(fits.then_some(end))
    }

    /// The end of the message by the next `From ` line. `body` is how far after `start` its text begins.
    fn next_from_line(&mut self, body: usize, cut: &mut Cut) -> io::Result<usize> {
        let finder = memmem::Finder::new(b"\nFrom ");
        let mut at = self.start + body.saturating_sub(1);
        loop {
            while let Some(found) = finder.find(&self.window[at..]) {
                let from = at + found + 1;
                if self.window.len() < from + LONGEST_FROM_LINE && !self.ended {
                    // The line may not be there as a whole.
                    if line_end(&self.window, from).is_none() && self.fill()? {
                        continue;
                    }
                }
                let line = line_end(&self.window, from).map(|end| &self.window[from..end]);
                if line.is_some_and(|line| self.separates(from, line)) {
                    return Ok(from);
                }
                at = from;
            }
            at = self.window.len().saturating_sub(b"\nFrom".len()).max(at);
            self.shorten(&mut at, cut);
            if !self.fill()? {
                return Ok(self.window.len());
            }
        }
    }

    /// Does the `From ` line at `from` begin a message? After a blank line one that has a date does; without the blank
    /// line, which some programs forget, it must have a sender and a whole date.
    fn separates(&self, from: usize, line: &[u8]) -> bool {
        let before = &self.window[self.start..from];
        let after_blank = before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n");
        if after_blank { is_from_line(line) } else { is_strict_from_line(line) }
    }

    /// Leaves out the middle of a message that is too long to be kept.
    fn shorten(&mut self, at: &mut usize, cut: &mut Cut) {
        if cut.head_end == 0 {
            cut.head_end = HEAD;
        }
        let (from, to) = (self.start + cut.head_end, self.window.len().saturating_sub(TAIL));
        if to >= from + 4 * CHUNK {
            self.window.drain(from..to);
            cut.dropped += (to - from) as u64;
            self.before += (to - from) as u64;
            *at -= to - from;
        }
    }

    fn drop_front(&mut self) {
        if self.start >= 4 * CHUNK || self.start == self.window.len() {
            self.window.drain(..self.start);
            self.before += self.start as u64;
            self.start = 0;
            if self.window.capacity() > HEAD && self.window.len() < CHUNK {
                self.window.shrink_to(4 * CHUNK);
            }
        }
    }

    /// Reads on; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let old = self.window.len();
        self.window.resize(old + CHUNK, 0);
        let read = loop {
            match self.input.read(&mut self.window[old..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.window.truncate(old + *read.as_ref().unwrap_or(&0));
        if read? == 0 {
            self.ended = true;
            return Ok(false);
        }
        self.bare_cr_to_lf(old);
        Ok(true)
    }

    /// In a file whose first line ends in a bare CR every CR is a line end. `new` is where the window was added to.
    fn bare_cr_to_lf(&mut self, mut new: usize) {
        if self.bare_cr.is_none() {
            let Some(at) = memchr::memchr2(b'\r', b'\n', &self.window) else { return };
            self.bare_cr = match (self.window[at], self.window.get(at + 1)) {
                (b'\r', None) => return,
                (b'\r', Some(next)) => Some(*next != b'\n'),
                _ => Some(false),
            };
            new = at;
        }
        if self.bare_cr == Some(true) {
            self.window[new..].iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b'\n');
        }
    }
}

/// What was left out of the message that is being read.
struct Cut {
    dropped: u64,
    head_end: usize,
}

/// The place after the line that begins at `from`.
fn line_end(text: &[u8], from: usize) -> Option<usize> {
    let longest = text.len().min(from + LONGEST_FROM_LINE);
    memchr::memchr(b'\n', &text[from..longest]).map(|end| from + end + 1)
}

/// The length of a header with the blank line that ends it.
fn header_length(text: &[u8]) -> Option<usize> {
    if let Some(rest) = [&b"\n"[..], b"\r\n"].into_iter().find(|end| text.starts_with(end)) {
        return Some(rest.len());
    }
    let mut at = 0;
    loop {
        at += memchr::memchr(b'\n', &text[at..])? + 1;
        for end in [&b"\n"[..], b"\r\n"] {
            if text[at..].starts_with(end) {
                return Some(at + end.len());
            }
        }
    }
}

/// The number in a header's `Content-Length`.
fn content_length(header: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    header.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

/// `From sender date`, loosely: a month and a time of day.
fn is_from_line(line: &[u8]) -> bool {
    line.starts_with(b"From ") && words(line).skip(1).any(is_month) && words(line).skip(1).any(is_time)
}

/// `From sender Www Mmm dd hh:mm[:ss] ... yyyy`.
fn is_strict_from_line(line: &[u8]) -> bool {
    const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    let is_year = |word: &[u8]| word.len() == 4 && word.iter().all(u8::is_ascii_digit);
    is_from_line(line)
        && words(line).skip(2).any(|word| DAYS.contains(&word.strip_suffix(b",").unwrap_or(word)))
        && words(line).skip(4).any(is_year)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

fn is_month(word: &[u8]) -> bool {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    MONTHS.iter().any(|month| word.eq_ignore_ascii_case(month))
}

fn is_time(word: &[u8]) -> bool {
    let mut parts = word.split(|byte| *byte == b':');
    let two = |part: Option<&[u8]>| part.is_some_and(|p| matches!(p.len(), 1 | 2) && p.iter().all(u8::is_ascii_digit));
    two(parts.next()) && two(parts.next())
}

/// Takes one `>` from every line `>From `, `>>From `, ...
fn unquote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut search = 0;
    while let Some(found) = memmem::find(&rest[search..], b">From ") {
        let mark = search + found;
        let quotes = rest[..mark].iter().rev().take_while(|byte| **byte == b'>').count();
        let first = mark - quotes;
        if (first == 0 && rest.len() == text.len()) || (first > 0 && rest[first - 1] == b'\n') {
            out.extend_from_slice(&rest[..first]);
            rest = &rest[first + 1..];
            search = quotes + b"From ".len();
        } else {
            search = mark + 1;
        }
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn split(text: &[u8], step: usize) -> Vec<(u64, String)> {
        let mut mbox = Mbox::new(Drip(text, step));
        let mut all = Vec::new();
        while let Some(message) = mbox.next_message().unwrap() {
            all.push((message.offset, String::from_utf8_lossy(&message.bytes).into_owned()));
        }
        all
    }

    const FROM: &str = "From MAILER-DAEMON Thu Sep 18 17:54:04 2008\n";

    #[test]
    fn dialects() {
        for (name, text, wanted) in [
            ("one", format!("{FROM}A: b\n\nx\n"), vec!["A: b\n\nx\n"]),
            ("two", format!("{FROM}A: b\n\nx\n\n{FROM}C: d\n\ny\n"), vec!["A: b\n\nx\n\n", "C: d\n\ny\n"]),
            ("mboxo", format!("{FROM}A: b\n\n>From me\n"), vec!["A: b\n\nFrom me\n"]),
            ("mboxrd", format!("{FROM}A: b\n\n>>From me\n>From you\n"), vec!["A: b\n\n>From me\nFrom you\n"]),
            ("quote inside a line", format!("{FROM}A: b\n\nsee >From me\n"), vec!["A: b\n\nsee >From me\n"]),
            (
                "mboxo, a line that is no separator",
                format!("{FROM}A: b\n\nx\n\nFrom here to there\n"),
                vec!["A: b\n\nx\n\nFrom here to there\n"],
            ),
            (
                "mboxcl2",
                format!("{FROM}Content-Length: {}\n\nx\n\n{FROM}y\n\n{FROM}C: d\n\nz\n", 3 + FROM.len() + 2),
                vec![&*format!("Content-Length: 49\n\nx\n\n{FROM}y\n"), "C: d\n\nz\n"],
            ),
            (
                "a wrong length",
                format!("{FROM}Content-Length: 9\n\nx\n\n{FROM}C: d\n\nz\n"),
                vec!["Content-Length: 9\n\nx\n\n", "C: d\n\nz\n"],
            ),
            (
                "a length beyond the end",
                format!("{FROM}Content-Length: 900\n\nx\n\n{FROM}C: d\n\nz\n"),
                vec!["Content-Length: 900\n\nx\n\n", "C: d\n\nz\n"],
            ),
            ("no blank line before", format!("{FROM}A: b\n\nx\n{FROM}C: d\n\ny\n"), vec!["A: b\n\nx\n", "C: d\n\ny\n"]),
            ("no line end at the end", format!("{FROM}A: b\n\nx"), vec!["A: b\n\nx"]),
            ("nothing but a separator", FROM.to_owned(), vec![""]),
            ("empty", String::new(), vec![]),
        ] {
            for step in [1, 2, 7, 1 << 20] {
                let texts: Vec<String> = split(text.as_bytes(), step).into_iter().map(|(_, text)| text).collect();
                assert_eq!(texts, wanted, "{name}, {step} bytes at a time");
            }
        }
    }

    #[test]
    fn offsets_and_line_ends() {
        let text = format!("{FROM}A: b\n\nx\n\n{FROM}C: d\n\ny\n");
        let second = FROM.len() as u64 + 9;
        assert_eq!(split(text.as_bytes(), 5).iter().map(|m| m.0).collect::<Vec<_>>(), [0, second]);
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(split(crlf.as_bytes(), 3)[1].1, "C: d\r\n\r\ny\r\n");
        let cr = text.replace('\n', "\r");
        let messages = split(cr.as_bytes(), 1);
        assert_eq!(messages.iter().map(|m| m.0).collect::<Vec<_>>(), [0, second]);
        assert_eq!(messages[1].1, "C: d\n\ny\n");
    }

    #[test]
    fn separators() {
        for (line, loose, strict) in [
            ("From a@b  Thu Sep 18 17:54:04 2008\n", true, true),
            ("From a@b Thu Sep 18 17:54 2008\n", true, true),
            ("From a@b Thu Sep 18 17:54:04 JST 2008\r\n", true, true),
            ("From - Thu Sep 18 17:54:04 2008\n", true, true),
            ("From 12345@xxx Thu Jan 01 00:00:00 +0000 2020\n", true, true),
            ("From a@b Thu, 18 Sep 2008 17:54:04 +0900\n", true, true),
            ("From \"john doe\"@b Thu Sep 18 17:54:04 2008 remote from c\n", true, true),
            ("From Sep 18 at 17:54 on\n", true, false),
            ("From me to you\n", false, false),
            ("From: a@b Thu Sep 18 17:54:04 2008\n", false, false),
        ] {
            assert_eq!(is_from_line(line.as_bytes()), loose, "{line}");
            assert_eq!(is_strict_from_line(line.as_bytes()), strict, "{line}");
        }
    }

    #[test]
    fn of_a_very_long_message_the_middle_is_left_out() {
        let mut text = format!("{FROM}A: b\n\n").into_bytes();
        let long = HEAD * 3;
        while text.len() < long {
            text.extend_from_slice(b"0123456789012345678901234567890123456789012345678901234567890123456789012345\n");
        }
        text.extend_from_slice(b"the end\n\n");
        let second = text.len() as u64;
        text.extend_from_slice(format!("{FROM}C: d\n\ny\n").as_bytes());
        let mut mbox = Mbox::new(&text[..]);
        let first = mbox.next_message().unwrap().unwrap();
        assert!(first.bytes.starts_with(b"A: b\n\n0123") && first.bytes.ends_with(b"the end\n\n"));
        assert!(first.bytes.len() < HEAD + TAIL + 6 * CHUNK, "{}", first.bytes.len());
        assert!(mbox.window.capacity() < 3 * HEAD);
        let last = mbox.next_message().unwrap().unwrap();
        assert_eq!((last.offset, &last.bytes[..]), (second, &b"C: d\n\ny\n"[..]));
        assert_eq!(mbox.next_message().unwrap(), None);
    }
}

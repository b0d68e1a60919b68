//! Which line of a message is what: a state machine that reads it line by line (RFC 2045, 2046; Postfix: `mime_state`).
//!
//! The machine hands every logical header and every body line to a [`Sink`], in their order, so that what comes out can
//! be the message again, changed where the sink wants it. It understands multipart bodies and forwarded messages, knows
//! the transfer encoding of each part, and can turn 8-bit parts into quoted-printable on the way
//! ([`Options::downgrade`]). Memory is bounded: header length, nesting depth and boundary length have limits.
//!
//! Two things are normalised, as Postfix does: blanks before the colon of a header are dropped, and an empty line is
//! put between the headers of the message and a body that comes without one.

use crate::FieldName;
use crate::field::{field_name_len, is_blank};

/// Where a header stands; selects `header_checks`, `mime_header_checks` or `nested_header_checks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderClass {
    /// Headers of the message itself.
    Primary,
    /// Headers of a part of a multipart body.
    Multipart,
    /// Headers of a message within the message.
    Nested,
}

/// What is wrong with a message. The first of each kind is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// More nested parts than [`Options::nesting_limit`]. Postfix: `MIME nesting exceeds safety limit`.
    TooDeep,
    /// A header longer than [`Options::header_limit`] was cut. Postfix: `message header length exceeds safety limit`.
    HeaderTooLong,
    /// A header has 8-bit text: `improper use of 8-bit data in message header`.
    EightBitHeader,
    /// A body announced as 7-bit has 8-bit text: `improper use of 8-bit data in message body`.
    EightBitBody,
    /// `message/*` or `multipart/*` encoded as it must not be: `invalid message/* or multipart/* encoding domain`.
    BadEncoding,
}

impl Defect {
    /// Postfix's words and the enhanced status code's subject and detail (class 5) for it (`mime_state_detail`).
    pub fn detail(self) -> ((u16, u16), &'static str) {
        match self {
            Self::TooDeep => ((6, 0), "MIME nesting exceeds safety limit"),
            Self::HeaderTooLong => ((6, 0), "message header length exceeds safety limit"),
            Self::EightBitHeader => ((6, 0), "improper use of 8-bit data in message header"),
            Self::EightBitBody => ((6, 0), "improper use of 8-bit data in message body"),
            Self::BadEncoding => ((6, 0), "invalid message/* or multipart/* encoding domain"),
        }
    }
}

/// Takes what [`MimeState`] finds.
pub trait Sink {
    /// A logical header: `Name: value`, folded lines separated by LF, no line end at the end.
    fn header(&mut self, class: HeaderClass, name: Option<FieldName>, header: &[u8]);
    /// The end of a block of headers, before the line that ends it.
    fn header_end(&mut self, class: HeaderClass) {
        let _ = class;
    }
    /// A line of the body, or a piece of one when `complete` is false. Empty lines after headers are body lines.
    fn body(&mut self, line: &[u8], complete: bool);
    /// Something is wrong; `text` is what it was found in.
    fn defect(&mut self, defect: Defect, text: &[u8]) {
        let _ = (defect, text);
    }
}

/// How [`MimeState`] goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Look into multipart bodies and forwarded messages. False (`disable_mime_input_processing`): everything after
    /// the headers is body.
    pub parse_mime: bool,
    /// Turn parts that are not 7-bit into quoted-printable.
    pub downgrade: bool,
    /// Report 8-bit text in headers (`strict_7bit_headers`, `strict_8bitmime`).
    pub report_8bit_header: bool,
    /// Report 8-bit text in bodies that are announced as 7-bit (`strict_8bitmime_body`, `strict_8bitmime`).
    pub report_8bit_body: bool,
    /// Report `message/*` and `multipart/*` with a transfer encoding (`strict_mime_encoding_domain`).
    pub report_encoding: bool,
    /// Look for headers in `message/partial` and `message/external-body` too.
    pub recurse_all: bool,
    /// `header_size_limit`, bytes of one logical header.
    pub header_limit: usize,
    /// `mime_nesting_limit`
    pub nesting_limit: usize,
    /// `mime_boundary_length_limit`, bytes; longer boundaries are compared up to here.
    pub boundary_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parse_mime: true,
            downgrade: false,
            report_8bit_header: false,
            report_8bit_body: false,
            report_encoding: false,
            recurse_all: false,
            header_limit: 102_400,
            nesting_limit: 100,
            boundary_limit: 2048,
        }
    }
}

/// The transfer encoding of a part, as far as it matters: what bytes may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    SevenBit,
    EightBit,
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    QuotedPrintable,
    Base64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentType {
    Text,
    Multipart,
    Message,
    MessagePartial,
    MessageGlobal,
    MessageRfc822,
    Other,
}

impl ContentType {
    fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::MessagePartial | Self::MessageGlobal | Self::MessageRfc822)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Headers(HeaderClass),
    Body,
}

/// A multipart body that is open.
#[derive(Clone, Debug)]
struct Level {
    boundary: Vec<u8>,
    default_type: ContentType,
}

/// The machine. Feed it lines with [`line`](Self::line), then [`finish`](Self::finish).
#[derive(Clone, Debug)]
pub struct MimeState {
    options: Options,
    state: State,
    content: ContentType,
    encoding: Encoding,
    domain: Domain,
    levels: Vec<Level>,
    /// A header whose end has not been seen, or quoted-printable text that does not fill a line yet.
    saved: Vec<u8>,
    /// The piece to come continues the line of the one before.
    mid_line: bool,
    /// The last line seen belongs to a header.
    mid_header: bool,
    offset: u64,
    reported: u8,
}

impl MimeState {
    /// At the beginning of a message.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Headers(HeaderClass::Primary),
            content: ContentType::Text,
            encoding: Encoding::Identity,
            domain: Domain::SevenBit,
            levels: Vec::new(),
            saved: Vec::new(),
            mid_line: false,
            mid_header: false,
            offset: 0,
            reported: 0,
        }
    }

    /// True until the first line of the message's body has been seen.
    pub fn in_primary_headers(&self) -> bool {
        self.state == State::Headers(HeaderClass::Primary)
    }

    /// Nothing but body is to come, and no more of it has to be looked at: no open multipart body, no header section.
    pub fn is_settled(&self) -> bool {
        self.state == State::Body && self.levels.is_empty() && !self.options.report_8bit_body
    }

    /// How many bytes of the current part's body, line ends not counted, have been handed on: with a boundary line
    /// begins a part of its own.
    pub fn body_offset(&self) -> u64 {
        self.offset
    }

    /// The next line without its line end; or a piece of a long line, with `complete` false for all but its last
    /// piece.
    pub fn line(&mut self, text: &[u8], complete: bool, sink: &mut impl Sink) {
        let continues = std::mem::replace(&mut self.mid_line, !complete);
        if let State::Headers(class) = self.state {
            if continues {
                if self.mid_header {
                    self.extend_header(b"", text, sink);
                } else {
                    // The rest of a long line that was no header: of a boundary, perhaps.
                    sink.body(text, complete);
                }
                return;
            }
            self.mid_header = true;
            if !self.saved.is_empty() && text.first().is_some_and(|b| is_blank(*b)) {
                self.extend_header(b"\n", text, sink);
                return;
            }
            self.put_header(class, sink);
            if let Some(name_len) = field_name_len(text) {
                // A colon follows the name: `field_name_len` has seen it.
                let colon = name_len + text[name_len..].iter().position(|b| *b == b':').unwrap_or(0);
                self.saved.extend_from_slice(&text[..name_len]);
                self.extend_header(b"", &text[colon..], sink);
                return;
            }
            self.mid_header = false;
            self.end_headers(class, text, sink);
        }
        self.body_line(text, complete, continues, sink);
    }

    /// The end of the message.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        if let State::Headers(class) = self.state {
            self.put_header(class, sink);
            self.put_encoding(class, sink);
            sink.header_end(class);
            self.state = State::Body;
        } else if !self.saved.is_empty() {
            self.put_encoded(true, sink);
        }
    }

    /// Adds to the saved header, up to the limit.
    fn extend_header(&mut self, joint: &[u8], text: &[u8], sink: &mut impl Sink) {
        let room = self.options.header_limit.saturating_sub(self.saved.len() + joint.len());
        if room < text.len() {
            let saved = std::mem::take(&mut self.saved);
            self.report(Defect::HeaderTooLong, &saved, sink);
            self.saved = saved;
        }
        if room > 0 {
            self.saved.extend_from_slice(joint);
            self.saved.extend_from_slice(&text[..room.min(text.len())]);
        }
    }

    /// Hands on the saved header, if there is one, and learns from it.
    fn put_header(&mut self, class: HeaderClass, sink: &mut impl Sink) {
        if self.saved.is_empty() {
            return;
        }
        let header = std::mem::take(&mut self.saved);
        let name_len = field_name_len(&header).unwrap_or(0);
        let name = FieldName::find(&header[..name_len]);
        if self.options.parse_mime {
            // The colon follows at once: blanks before it were dropped.
            let value = header.get(name_len + 1..).unwrap_or_default();
            match name {
                Some(FieldName::ContentType) => self.learn_content_type(value, sink),
                Some(FieldName::ContentTransferEncoding) => self.learn_encoding(value),
                _ => {}
            }
        }
        if self.options.report_8bit_header && !header.is_ascii() {
            self.report(Defect::EightBitHeader, &header, sink);
        }
        // The encoding will be another one, written at the end of the headers.
        let replaced = self.options.downgrade
            && self.domain != Domain::SevenBit
            && name == Some(FieldName::ContentTransferEncoding);
        if !replaced {
            sink.header(class, name, &header);
        }
        self.saved = header;
        self.saved.clear();
    }

    /// The encoding that the downgrade makes, as a header.
    fn put_encoding(&mut self, class: HeaderClass, sink: &mut impl Sink) {
        if !self.options.downgrade || self.domain == Domain::SevenBit {
            return;
        }
        let nested = self.content == ContentType::Multipart
            || (self.content.is_message() && self.content != ContentType::MessageGlobal);
        let header: &[u8] =
            if nested { b"Content-Transfer-Encoding: 7bit" } else { b"Content-Transfer-Encoding: quoted-printable" };
        sink.header(class, Some(FieldName::ContentTransferEncoding), header);
    }

    /// `text` is not a header: leave the header state.
    fn end_headers(&mut self, class: HeaderClass, text: &[u8], sink: &mut impl Sink) {
        self.put_encoding(class, sink);
        if self.options.report_encoding {
            // RFC 2045 section 6.4: only identity encodings for these types; RFC 2046 section 5.2.2: partial is 7-bit.
            let composite = self.content == ContentType::Multipart || self.content.is_message();
            let bad = (composite && self.encoding != Encoding::Identity)
                || (self.content == ContentType::MessagePartial && self.domain != Domain::SevenBit);
            if bad && self.content != ContentType::MessageGlobal {
                // The encoding that the type does not allow, in Postfix's words.
                let name: &[u8] = match (self.encoding, self.domain) {
                    (Encoding::Base64, _) => b"base64",
                    (Encoding::QuotedPrintable, _) => b"quoted-printable",
                    (Encoding::Identity, Domain::SevenBit) => b"7bit",
                    (Encoding::Identity, Domain::EightBit) => b"8bit",
                    (Encoding::Identity, Domain::Binary) => b"binary",
                };
                self.report(Defect::BadEncoding, name, sink);
            }
        }
        sink.header_end(class);
        self.offset = 0;
        if !text.is_empty() {
            // Only the message's own headers get the empty line they lack: a change within a part would break its
            // signature.
            if class == HeaderClass::Primary {
                sink.body(b"", true);
            }
            self.state = State::Body;
            return;
        }
        let nested =
            self.content == ContentType::MessageRfc822 || (self.options.recurse_all && self.content.is_message());
        if self.options.parse_mime && nested {
            self.enter(State::Headers(HeaderClass::Nested), ContentType::Text);
        } else if self.content == ContentType::Multipart {
            // What comes before the first boundary is nobody's.
            self.enter(State::Body, ContentType::Other);
        } else {
            self.state = State::Body;
        }
    }

    fn enter(&mut self, state: State, content: ContentType) {
        self.state = state;
        self.offset = 0;
        self.content = content;
        self.encoding = Encoding::Identity;
        self.domain = Domain::SevenBit;
    }

    fn body_line(&mut self, text: &[u8], complete: bool, continues: bool, sink: &mut impl Sink) {
        if self.options.report_8bit_body
            && self.encoding == Encoding::Identity
            && self.domain == Domain::SevenBit
            && !text.is_ascii()
        {
            self.report(Defect::EightBitBody, text, sink);
        }
        if !continues && !self.levels.is_empty() && text.len() > 2 && text.starts_with(b"--") {
            self.boundary_line(&text[2..]);
        }
        self.offset += text.len() as u64;
        if self.options.downgrade && self.domain != Domain::SevenBit {
            self.encode(text, complete, sink);
        } else {
            sink.body(text, complete);
        }
    }

    /// `text` follows two hyphens: it may be a boundary of an open multipart body, the innermost first. What follows
    /// the boundary does not matter: our copy of it may have been cut.
    fn boundary_line(&mut self, text: &[u8]) {
        let Some(at) = self.levels.iter().rposition(|level| text.starts_with(&level.boundary)) else { return };
        // Bodies opened within it are ended by it.
        self.levels.truncate(at + 1);
        let Some(level) = self.levels.last() else { return };
        if text[level.boundary.len()..].starts_with(b"--") {
            self.levels.pop();
            self.enter(State::Body, ContentType::Other);
        } else {
            let content = level.default_type;
            self.enter(State::Headers(HeaderClass::Multipart), content);
        }
    }

    /// Quoted-printable (RFC 2045 section 6.7), broken as Postfix breaks it.
    fn encode(&mut self, text: &[u8], complete: bool, sink: &mut impl Sink) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        for &byte in text {
            if self.saved.len() > 72 {
                self.saved.push(b'=');
                self.put_encoded(true, sink);
            }
            if (byte < 32 && byte != b'\t') || byte == b'=' || byte > 126 {
                self.saved.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            } else {
                self.saved.push(byte);
            }
        }
        if complete {
            // A blank at the end of a line would get lost.
            match self.saved.last() {
                Some(b' ') => {
                    self.saved.pop();
                    self.saved.extend_from_slice(b"=20");
                }
                Some(b'\t') => {
                    self.saved.pop();
                    self.saved.extend_from_slice(b"=09");
                }
                _ => {}
            }
            self.put_encoded(true, sink);
        }
    }

    fn put_encoded(&mut self, complete: bool, sink: &mut impl Sink) {
        sink.body(&self.saved, complete);
        self.saved.clear();
    }

    fn report(&mut self, defect: Defect, text: &[u8], sink: &mut impl Sink) {
        let bit = 1 << defect as u8;
        if self.reported & bit == 0 {
            self.reported |= bit;
            sink.defect(defect, text);
        }
    }

    fn learn_content_type(&mut self, value: &[u8], sink: &mut impl Sink) {
        let mut parts = Parameters { rest: value };
        let Some(tokens) = parts.next() else {
            self.content = ContentType::Other;
            return;
        };
        let subtype = match tokens.as_slice() {
            [_, Item::Special(b'/'), Item::Word(subtype), ..] => subtype.as_slice(),
            _ => b"",
        };
        let is = |name: &str| matches!(tokens.first(), Some(Item::Word(w)) if w.eq_ignore_ascii_case(name.as_bytes()));
        let sub = |name: &str| subtype.eq_ignore_ascii_case(name.as_bytes());
        self.content = if is("text") {
            ContentType::Text
        } else if is("message") {
            match () {
                () if sub("rfc822") => ContentType::MessageRfc822,
                () if sub("partial") => ContentType::MessagePartial,
                () if sub("global") => ContentType::MessageGlobal,
                () => ContentType::Message,
            }
        } else if is("multipart") {
            ContentType::Multipart
        } else {
            ContentType::Other
        };
        if self.content != ContentType::Multipart {
            return;
        }
        let default_type = if sub("digest") { ContentType::MessageRfc822 } else { ContentType::Text };
        // Several boundaries are illegal, and a way to hide something: all are taken.
        for parameter in parts {
            let [Item::Word(name), Item::Special(b'='), Item::Word(boundary) | Item::Quoted(boundary), ..] =
                parameter.as_slice()
            else {
                continue;
            };
            if !name.eq_ignore_ascii_case(b"boundary") {
                continue;
            }
            if self.levels.len() > self.options.nesting_limit {
                self.report(Defect::TooDeep, value, sink);
            } else {
                let boundary = boundary[..boundary.len().min(self.options.boundary_limit)].to_vec();
                self.levels.push(Level { boundary, default_type });
            }
        }
    }

    fn learn_encoding(&mut self, value: &[u8]) {
        let tokens = Parameters { rest: value }.next().unwrap_or_default();
        let [Item::Word(word), ..] = tokens.as_slice() else { return };
        let known = [
            ("7bit", Encoding::Identity, Domain::SevenBit),
            ("8bit", Encoding::Identity, Domain::EightBit),
            ("binary", Encoding::Identity, Domain::Binary),
            ("quoted-printable", Encoding::QuotedPrintable, Domain::SevenBit),
            ("base64", Encoding::Base64, Domain::SevenBit),
        ];
        if let Some((_, encoding, domain)) = known.iter().find(|(name, ..)| word.eq_ignore_ascii_case(name.as_bytes()))
        {
            (self.encoding, self.domain) = (*encoding, *domain);
        }
    }
}

/// `type/subtype` of a `Content-Type:` value, in lower case; `None` when it is not one.
pub fn media_type(value: &[u8]) -> Option<String> {
    let tokens = Parameters { rest: value }.next()?;
    let [Item::Word(main), Item::Special(b'/'), Item::Word(sub), ..] = tokens.as_slice() else { return None };
    let text = [main.as_slice(), b"/", sub.as_slice()].concat().to_ascii_lowercase();
    String::from_utf8(text).ok()
}

/// A parameter of a structured value (`boundary` of `Content-Type:`), unquoted; the name in any case of letters.
pub fn parameter(value: &[u8], name: &str) -> Option<Vec<u8>> {
    Parameters { rest: value }.skip(1).find_map(|tokens| match tokens.as_slice() {
        [Item::Word(found), Item::Special(b'='), Item::Word(text) | Item::Quoted(text), ..]
            if found.eq_ignore_ascii_case(name.as_bytes()) =>
        {
            Some(text.clone())
        }
        _ => None,
    })
}

/// A token of a structured MIME header (RFC 2045 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Word(Vec<u8>),
    Quoted(Vec<u8>),
    Special(u8),
}

/// Parts of a structured header between semicolons, comments dropped, at most three tokens of each.
struct Parameters<'t> {
    rest: &'t [u8],
}

impl Iterator for Parameters<'_> {
    type Item = Vec<Item>;

    fn next(&mut self) -> Option<Vec<Item>> {
        let mut items = Vec::new();
        while let [first, tail @ ..] = self.rest {
            self.rest = tail;
            let item = match first {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b';' => return Some(items),
                b'(' => {
                    self.skip_comment();
                    continue;
                }
                b'"' => Item::Quoted(self.quoted()),
                byte if is_special(*byte) => Item::Special(*byte),
                byte => {
                    let end = tail.iter().position(|b| is_special(*b) || *b == b' ').unwrap_or(tail.len());
                    let mut word = vec![*byte];
                    word.extend_from_slice(&tail[..end]);
                    self.rest = &tail[end..];
                    Item::Word(word)
                }
            };
            if items.len() < 3 {
                items.push(item);
            }
        }
        (!items.is_empty()).then_some(items)
    }
}

impl Parameters<'_> {
    fn skip_comment(&mut self) {
        let mut level = 1;
        while let [first, tail @ ..] = self.rest {
            self.rest = tail;
            match first {
                b'(' => level += 1,
                b')' => level -= 1,
                b'\\' => self.rest = tail.get(1..).unwrap_or_default(),
                _ => {}
            }
            if level == 0 {
                return;
            }
        }
    }

    fn quoted(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let [first, tail @ ..] = self.rest {
            self.rest = tail;
            match first {
                b'"' => break,
                // Unfold: the line end and the blanks before it go.
                b'\n' => out.truncate(out.trim_ascii_end().len()),
                b'\\' => {
                    if let [escaped, tail @ ..] = tail {
                        out.push(*escaped);
                        self.rest = tail;
                    }
                }
                byte => out.push(*byte),
            }
        }
        out
    }
}

fn is_special(byte: u8) -> bool {
    byte.is_ascii_control()
        || matches!(
            byte,
            b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'"' | b'/' | b'[' | b']' | b'?' | b'='
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Trace(String);

    impl Sink for Trace {
        fn header(&mut self, class: HeaderClass, name: Option<FieldName>, header: &[u8]) {
            let letter = match class {
                HeaderClass::Primary => 'P',
                HeaderClass::Multipart => 'M',
                HeaderClass::Nested => 'N',
            };
            let known = if name.is_some() { "*" } else { "" };
            self.0 += &format!("{letter}{known} {}\n", String::from_utf8_lossy(header).escape_debug());
        }
        fn header_end(&mut self, _: HeaderClass) {
            self.0 += "--\n";
        }
        fn body(&mut self, line: &[u8], complete: bool) {
            self.0 += &format!("B {}{}\n", String::from_utf8_lossy(line), if complete { "" } else { "..." });
        }
        fn defect(&mut self, defect: Defect, text: &[u8]) {
            match defect {
                Defect::BadEncoding => self.0 += &format!("! {defect:?} {}\n", String::from_utf8_lossy(text)),
                _ => self.0 += &format!("! {defect:?}\n"),
            }
        }
    }

    fn trace(options: Options, message: &str) -> String {
        let mut state = MimeState::new(options);
        let mut trace = Trace::default();
        for line in message.lines() {
            state.line(line.as_bytes(), true, &mut trace);
        }
        state.finish(&mut trace);
        trace.0
    }

    #[test]
    fn classes_of_headers() {
        let message = "Subject : a\n b\nContent-Type: multipart/mixed; (x) boundary=\"b\n 1\"\n\nX: prolog\n--b 1 x\n\
                       Content-Type: message/rfc822\n\nFrom: inner\nno header\nX: body\n--b 1--\nX: epilog\n";
        assert_eq!(
            trace(Options::default(), message),
            "P Subject: a\\n b\nP* Content-Type: multipart/mixed; (x) boundary=\\\"b\\n 1\\\"\n--\nB \nB X: prolog\n\
             B --b 1 x\nM* Content-Type: message/rfc822\n--\nB \nN* From: inner\n--\nB no header\nB X: body\n\
             B --b 1--\nB X: epilog\n"
        );
        let flat = Options { parse_mime: false, ..Options::default() };
        assert!(!trace(flat, message).contains("\nM"));
    }

    #[test]
    fn headers_without_a_body_and_bodies_without_headers() {
        for (message, expected) in [
            ("", "--\n"),
            ("A: b", "P A: b\n--\n"),
            ("A: b\nbody", "P A: b\n--\nB \nB body\n"),
            (" x\n", "--\nB \nB  x\n"),
            ("\n", "--\nB \n"),
        ] {
            assert_eq!(trace(Options::default(), message), expected, "{message:?}");
        }
    }

    #[test]
    fn defects_are_reported_once() {
        let strict = Options {
            report_8bit_header: true,
            report_8bit_body: true,
            report_encoding: true,
            header_limit: 30,
            nesting_limit: 0,
            ..Options::default()
        };
        for (message, defects) in [
            ("A: \u{e9}\nB: \u{e9}\n\n\u{e9}\n\u{e9}\n", "EightBitHeader EightBitBody"),
            ("Content-Transfer-Encoding: 8bit\n\n\u{e9}\n", "HeaderTooLong EightBitBody"),
            ("A: b\nC: d\n\nplain\n", ""),
        ] {
            let found = trace(strict, message);
            let list: Vec<_> = found.lines().filter_map(|l| l.strip_prefix("! ")).collect();
            assert_eq!(list.join(" "), defects, "{message:?}");
        }
        let wide = Options { header_limit: 1000, ..strict };
        let nested = "Content-Type: multipart/mixed; boundary=a; boundary=b\nContent-Transfer-Encoding: base64\n\nx\n";
        assert!(trace(wide, nested).contains("! TooDeep"));
        assert!(trace(wide, nested).contains("! BadEncoding base64\n"));
    }

    #[test]
    fn types_and_parameters() {
        let value = b" Multipart/Report (c); report-type=delivery-status;\n\tBoundary=\"a;b/c\"; x";
        assert_eq!(media_type(value).as_deref(), Some("multipart/report"));
        assert_eq!(parameter(value, "boundary").as_deref(), Some(&b"a;b/c"[..]));
        assert_eq!(parameter(value, "report-type").as_deref(), Some(&b"delivery-status"[..]));
        assert_eq!(parameter(value, "x"), None);
        assert_eq!(media_type(b"text"), None);
        assert_eq!(media_type(b""), None);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let mut state = MimeState::new(Options::default());
        let mut trace = Trace::default();
        for (piece, complete) in [
            ("Subject: on", false),
            ("e", false),
            (" line", true),
            (" two", true),
            ("", true),
            ("A: ", false),
            ("b", true),
        ] {
            state.line(piece.as_bytes(), complete, &mut trace);
        }
        state.finish(&mut trace);
        assert_eq!(trace.0, "P Subject: one line\\n two\n--\nB \nB A: ...\nB b\n");
    }
}

//! What a message is made of, found in one walk: header fields and MIME parts, as ranges of the message.
//!
//! Made for mail from the wild. Nothing is refused: a multipart without its boundary is text, a part that was cut off
//! ends where the message ends, a header line that is no field is passed over. The walk is linear (the depth of nesting
//! and the number of parts and fields that are kept are limited), copies nothing and decodes nothing.

#[cfg(not(target_arch = "x86_64"))]
use memchr::arch::all::memchr::{One, Three};
#[cfg(target_arch = "x86_64")]
use memchr::arch::x86_64::sse2::memchr::{One, Three};
use memchr::{memchr, memmem};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Deeper parts are left inside their parent's body.
const MAX_DEPTH: usize = 12;
/// Parts beyond are not looked at.
const MAX_PARTS: usize = 200;
/// Fields of one header beyond are not kept.
const MAX_FIELDS: usize = 2000;

/// The first of these bytes in a text. For lines, which are short: no call is made, and nothing is asked of the processor that
/// not every one of its kind has.
#[inline(always)]
pub fn find_near(byte: u8, text: &[u8]) -> Option<usize> {
    #[cfg(not(target_arch = "x86_64"))]
    let one = One::new(byte);
    // There is always one: these instructions belong to the architecture.
    #[cfg(target_arch = "x86_64")]
    let one = One::new(byte)?;
    one.find(text)
}

/// The first of any of three bytes, as [`find_near`].
#[inline(always)]
pub fn find_near3(bytes: [u8; 3], text: &[u8]) -> Option<usize> {
    let [a, b, c] = bytes;
    #[cfg(not(target_arch = "x86_64"))]
    let three = Three::new(a, b, c);
    #[cfg(target_arch = "x86_64")]
    let three = Three::new(a, b, c)?;
    three.find(text)
}

/// The same name of a field, in any case of letters: mostly it is written as it is asked for.
#[inline]
pub fn same_name(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && (one == other || one.eq_ignore_ascii_case(other))
}

/// The message with LF line ends, whatever it had: CRLF, CR alone, or LF. Copies only where it must.
pub fn with_lf(message: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\r', message).is_none() {
        return Cow::Borrowed(message);
    }
    if memchr(b'\n', message).is_none() {
        return Cow::Owned(message.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect());
    }
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = find_near(b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        // A line end that stands there is copied with the line after it. Some transports double the CR.
        if !matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            out.push(b'\n');
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// One header field: name and value as they stand, the value with its folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderField<'m> {
    /// The name, without the colon and blanks before it.
    pub name: &'m [u8],
    /// The value, blanks around it left out.
    pub value: &'m [u8],
}

/// A header: fields in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header<'m> {
    /// The fields, at most some two thousand.
    pub fields: Vec<HeaderField<'m>>,
    /// Which names there are, as bits by [`name_bit`]: most fields that are asked for are not there.
    names: u64,
}

/// A bit for the name of a field, the same in any case of letters: what has no field with this bit has none of this name.
pub fn name_bit(name: &[u8]) -> u64 {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    let folded = |byte: &u8| usize::from(byte | 0x20);
    1 << ((folded(first) * 5 + folded(last) * 3 + name.len()) & 63)
}

impl<'m> Header<'m> {
    /// Reads the header at the beginning of `text`; what follows the empty line is returned beside it. An mbox `From `
    /// line and empty lines before it are passed over.
    pub fn parse(text: &'m [u8]) -> (Self, &'m [u8]) {
        let (mut fields, mut names) = (Vec::with_capacity(32), 0);
        let rest = walk(text, |field| {
            if fields.len() < MAX_FIELDS {
                names |= name_bit(field.name);
                fields.push(field);
            }
        });
        (Self { fields, names }, rest)
    }
    /// The value of the first field of this name, in any case of letters.
    pub fn get(&self, name: &str) -> Option<&'m [u8]> {
        self.all(name).next()
    }
    /// The values of all fields of this name.
    pub fn all<'h>(&'h self, name: &'h str) -> impl DoubleEndedIterator<Item = &'m [u8]> + 'h {
        let name = name.as_bytes();
        let fields = if self.names & name_bit(name) == 0 { &[] } else { self.fields.as_slice() };
        fields.iter().filter(move |f| same_name(f.name, name)).map(|f| f.value)
    }
}

/// Calls `each` for every field of the header at the beginning of `text` and returns what follows it. An mbox `From ` line and
/// empty lines before it are passed over.
pub fn walk<'m>(text: &'m [u8], mut each: impl FnMut(HeaderField<'m>)) -> &'m [u8] {
    let mut rest = text;
    while rest.first() == Some(&b'\n') {
        rest = &rest[1..];
    }
    if rest.starts_with(b"From ") || rest.starts_with(b">From ") {
        rest = &rest[line_end(rest)..];
    }
    while let Some(first) = rest.first()
        && *first != b'\n'
    {
        let mut end = line_end(rest);
        // A line of blanks alone ends a header that lost its empty line; it continues nothing.
        if first.is_ascii_whitespace() && rest[..end].trim_ascii().is_empty() {
            return &rest[end..];
        }
        while matches!(rest.get(end), Some(b' ' | b'\t')) {
            let next = end + line_end(&rest[end..]);
            if rest[end..next].trim_ascii().is_empty() {
                break;
            }
            end = next;
        }
        if let Some(field) = field(&rest[..end]) {
            each(field);
        } else if rest.starts_with(b"--") {
            // The boundary line already: the empty line is missing.
            return rest;
        }
        rest = &rest[end..];
    }
    rest.strip_prefix(b"\n").unwrap_or(rest)
}

/// Bytes of the names of fields (RFC 5322 section 3.6.8).
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 33;
    while byte < 127 {
        table[byte] = byte != b':' as usize;
        byte += 1;
    }
    table
};

/// A line, or several folded ones, as a field.
pub fn field(line: &[u8]) -> Option<HeaderField<'_>> {
    let limit = line.len().min(200);
    let head = &line[..limit];
    let end = head.iter().position(|byte| !IN_NAME[usize::from(*byte)])?;
    let colon = match head[end] {
        b':' => end,
        _ => end + head[end..].iter().position(|b| !b.is_ascii_whitespace())?,
    };
    (end > 0 && line[colon] == b':').then(|| HeaderField { name: &line[..end], value: line[colon + 1..].trim_ascii() })
}

fn line_end(text: &[u8]) -> usize {
    find_near(b'\n', text).map_or(text.len(), |n| n + 1)
}

/// Media types that mean something to a reader of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    /// `text/plain`, or none given, or one that cannot be read.
    Plain,
    /// `text/html`
    Html,
    /// `message/delivery-status`, `message/global-delivery-status` (RFC 3464, RFC 6533)
    DeliveryStatus,
    /// `message/disposition-notification` and its global form (RFC 8098)
    Disposition,
    /// `message/feedback-report` (RFC 5965)
    Feedback,
    /// `message/rfc822`, `message/global`, `message/partial`
    Message,
    /// `text/rfc822-headers`, `message/global-headers`
    Headers,
    /// `multipart/...` whose boundary is nowhere
    Multipart,
    /// `application/json`
    Json,
    /// Anything else.
    Other,
}

impl Media {
    /// Of the value of a Content-Type field.
    pub fn of(value: &[u8]) -> Self {
        let end = value.iter().position(|b| matches!(b, b';' | b' ' | b'\t' | b'\n')).unwrap_or(value.len());
        let kind = &value[..end];
        const KNOWN: [(&str, Media); 18] = [
            ("text/plain", Media::Plain),
            ("text", Media::Plain),
            ("text/html", Media::Html),
            ("message/delivery-status", Media::DeliveryStatus),
            ("message/global-delivery-status", Media::DeliveryStatus),
            ("message/disposition-notification", Media::Disposition),
            ("message/global-disposition-notification", Media::Disposition),
            ("message/feedback-report", Media::Feedback),
            ("message/xdelivery-status", Media::DeliveryStatus),
            ("message/rfc822", Media::Message),
            ("message/xrfc822", Media::Message),
            ("message/global", Media::Message),
            ("message/partial", Media::Message),
            ("text/rfc822-headers", Media::Headers),
            ("text/rfc822-header", Media::Headers),
            ("text/rfc822", Media::Headers),
            ("message/global-headers", Media::Headers),
            ("application/json", Media::Json),
        ];
        let known = KNOWN.iter().find(|(name, _)| kind.eq_ignore_ascii_case(name.as_bytes()));
        match known {
            Some((_, media)) => *media,
            None if starts_with(kind, "multipart/") => Media::Multipart,
            None if kind.is_empty() || !kind.contains(&b'/') => Media::Plain,
            None => Media::Other,
        }
    }
}

/// Content-Transfer-Encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// 7bit, 8bit, binary, none, or one that nobody knows.
    #[default]
    Identity,
    /// quoted-printable
    QuotedPrintable,
    /// base64
    Base64,
}

/// A leaf of the tree of parts: also a message in a message is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'m> {
    /// What it says it is.
    pub media: Media,
    /// How it is encoded.
    pub transfer: Transfer,
    /// `charset` of its Content-Type, as written.
    pub charset: Option<&'m [u8]>,
    /// Its body, encoded.
    pub body: &'m [u8],
}

/// A message, walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure<'m> {
    /// The header of the message.
    pub header: Header<'m>,
    /// Everything after it.
    pub body: &'m [u8],
    /// The leaves in their order.
    pub parts: Vec<Part<'m>>,
    /// Value of `report-type` of a multipart/report, as written.
    pub report_type: Option<&'m [u8]>,
}

impl<'m> Structure<'m> {
    /// Walks a message with LF line ends.
    pub fn of(message: &'m [u8]) -> Self {
        let (header, body) = Header::parse(message);
        let content_type = ContentType::of(header.get("Content-Type").unwrap_or_default());
        let report_type = content_type.report_type;
        let mut parts = Vec::with_capacity(4);
        leaves(&content_type, header.get("Content-Transfer-Encoding"), body, 0, &mut parts);
        Self { header, body, parts, report_type }
    }
}

/// A Content-Type field, read: what it says, and the parameters that matter here.
#[derive(Default)]
struct ContentType<'m> {
    value: &'m [u8],
    boundary: Option<&'m [u8]>,
    charset: Option<&'m [u8]>,
    report_type: Option<&'m [u8]>,
}

impl<'m> ContentType<'m> {
    fn of(value: &'m [u8]) -> Self {
        let mut read = Self { value, ..Self::default() };
        for (name, value) in parameters(value) {
            // By the length first: the first one of a name counts.
            let known = match name.len() {
                8 if name.eq_ignore_ascii_case(b"boundary") => &mut read.boundary,
                7 if name.eq_ignore_ascii_case(b"charset") => &mut read.charset,
                11 if name.eq_ignore_ascii_case(b"report-type") => &mut read.report_type,
                _ => continue,
            };
            known.get_or_insert(value);
        }
        read
    }
}

fn leaves<'m>(
    content_type: &ContentType<'m>,
    transfer: Option<&'m [u8]>,
    body: &'m [u8],
    depth: usize,
    parts: &mut Vec<Part<'m>>,
) {
    let media = Media::of(content_type.value);
    if media == Media::Multipart
        && depth < MAX_DEPTH
        && let Some(boundary) = content_type.boundary.filter(|b| !b.is_empty())
    {
        let before = parts.len();
        for part in multipart(body, boundary) {
            if parts.len() >= MAX_PARTS {
                return;
            }
            let (mut kind, mut encoding) = (&b""[..], None);
            let inner = if part.first() == Some(&b'\n') {
                &part[1..]
            } else {
                walk(part, |field| {
                    if field.name.eq_ignore_ascii_case(b"Content-Type") {
                        kind = field.value;
                    } else if field.name.eq_ignore_ascii_case(b"Content-Transfer-Encoding") {
                        encoding = Some(field.value);
                    }
                })
            };
            // A returned message that was put between the boundaries without a header of its own.
            let first = match part.first() {
                None | Some(b'\n') => b"",
                Some(_) => field(&part[..line_end(part)]).map(|f| f.name).unwrap_or_default(),
            };
            if [&b"Received"[..], b"Return-Path", b"DKIM-Signature"].iter().any(|name| first.eq_ignore_ascii_case(name))
            {
                parts.push(Part { media: Media::Message, transfer: Transfer::Identity, charset: None, body: part });
                continue;
            }
            // A part whose first line is no field has lost its header.
            let unheaded = kind.is_empty() && encoding.is_none() && !part.starts_with(b"\n");
            let inner = if unheaded && !starts_with(first, "content-") { part } else { inner };
            leaves(&ContentType::of(kind), encoding, inner, depth + 1, parts);
        }
        if parts.len() > before {
            return;
        }
    }
    let transfer = match transfer.map(<[u8]>::trim_ascii) {
        Some(value) if starts_with(value, "quoted-printable") => Transfer::QuotedPrintable,
        Some(value) if starts_with(value, "base64") => Transfer::Base64,
        _ => Transfer::Identity,
    };
    parts.push(Part { media, transfer, charset: content_type.charset, body });
}

/// The parts between boundary lines, without the line end before the next boundary (RFC 2046 section 5.1.1).
fn multipart<'m>(body: &'m [u8], boundary: &'m [u8]) -> impl Iterator<Item = &'m [u8]> + use<'m> {
    static DASHES: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\n--"));
    // Such a one would not be found: a boundary is within a line.
    let body = if memchr(b'\n', boundary).is_none() { body } else { b"" };
    // Where a line may begin with two dashes: looked for from the line end before it.
    let mut at = 0;
    let mut first = body.starts_with(b"--");
    let mut open: Option<usize> = None;
    std::iter::from_fn(move || {
        loop {
            let start = if std::mem::take(&mut first) {
                0
            } else if let Some(found) = body.get(at..).and_then(|rest| DASHES.find(rest)) {
                at + found + 1
            } else {
                break;
            };
            at = start + 2;
            if !body[start + 2..].starts_with(boundary) {
                continue;
            }
            let mut end = start + 2 + boundary.len();
            let last = body[end..].starts_with(b"--");
            if last {
                end += 2;
            }
            let stop = end + line_end(&body[end..]);
            // A longer boundary that begins alike is another one.
            if !body[end..stop].trim_ascii().is_empty() {
                continue;
            }
            // The line end is looked at again: the next line may be a boundary too.
            at = stop - usize::from(body[..stop].ends_with(b"\n"));
            let part = open.map(|from| {
                let part = &body[from.min(start)..start];
                part.strip_suffix(b"\n").unwrap_or(part)
            });
            open = (!last).then_some(stop);
            if part.is_some() {
                return part;
            }
        }
        // It was cut off: the last part is what there is of it.
        open.take().map(|from| &body[from..])
    })
}

/// The value of a parameter such as `boundary`, quotes left out.
pub fn parameter<'m>(value: &'m [u8], name: &str) -> Option<&'m [u8]> {
    parameters(value).find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Names and values of all parameters of a field's value, quotes left out.
fn parameters(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = value;
    std::iter::from_fn(move || {
        loop {
            let semicolon = find_near(b';', rest)?;
            rest = rest[semicolon + 1..].trim_ascii_start();
            let equals = rest.iter().position(|b| matches!(b, b'=' | b';'))?;
            if rest[equals] == b';' {
                continue;
            }
            let name = rest[..equals].trim_ascii_end();
            let after = rest[equals + 1..].trim_ascii_start();
            let (found, tail) = match after.strip_prefix(b"\"") {
                Some(quoted) => quoted.split_at(find_near(b'"', quoted).unwrap_or(quoted.len())),
                None => {
                    let end = after.iter().position(|b| matches!(b, b';' | b' ' | b'\t' | b'\n'));
                    after.split_at(end.unwrap_or(after.len()))
                }
            };
            rest = tail;
            return Some((name, found.trim_ascii_end()));
        }
    })
}

/// True when `text` begins with the ASCII text `prefix`, in any case of letters.
pub fn starts_with(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends() {
        for (message, expected) in [
            ("a\r\nbcdefgh\r\nijklmnopqrstuvwxyz\r\n", "a\nbcdefgh\nijklmnopqrstuvwxyz\n"),
            ("a\rb\nc\r", "a\nb\nc\n"),
            ("\r\r\n\r\r\nabcdefghijk\r\r\n", "\n\nabcdefghijk\n"),
            ("\r\r\r\n12345678\r9", "\n\n12345678\n9"),
            ("one\rtwo\rthree four five six", "one\ntwo\nthree four five six"),
            ("no\nthing", "no\nthing"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&with_lf(message.as_bytes())), expected, "{message:?}");
        }
    }

    #[test]
    fn names_of_fields() {
        let (header, _) = Header::parse(b"Subject: a\nX-Odd_Name!: b\nsubject: c\n\n");
        for (name, values) in
            [("SUBJECT", &["a", "c"][..]), ("x-odd_name!", &["b"]), ("subjecT", &["a", "c"]), ("To", &[]), ("", &[])]
        {
            assert_eq!(header.all(name).map(String::from_utf8_lossy).collect::<Vec<_>>(), values, "{name}");
        }
    }

    #[test]
    fn line_ends_of_all_kinds() {
        for text in ["a\r\nb\r\n\r\nc", "a\rb\r\rc", "a\nb\n\nc", "a\r\r\nb\r\r\n\r\r\nc", "a\nb\r\rc", "a\r\nb\r\n\rc"]
        {
            assert_eq!(&*with_lf(text.as_bytes()), b"a\nb\n\nc", "{text:?}");
        }
        assert_eq!(&*with_lf(b"a\r\r\r\nb\r"), b"a\n\nb\n");
    }

    #[test]
    fn values_of_parameters() {
        for (value, name, expected) in [
            ("a/b; boundary=x", "boundary", Some("x")),
            ("a/b; charset=\"u;v\";\n boundary=\"x y\"", "boundary", Some("x y")),
            ("a/b; x; BOUNDARY = y ; z=1", "boundary", Some("y")),
            ("a/b; boundary", "boundary", None),
            ("a/b", "boundary", None),
            ("a/b; boundary=\"x", "boundary", Some("x")),
        ] {
            assert_eq!(parameter(value.as_bytes(), name), expected.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn parts_of_reports() {
        let message = b"Content-Type: multipart/report; boundary=b;\n report-type=Delivery-Status\n\nprologue\n--b\n\ntext\n\n--b\n\
            Content-Type: message/delivery-status\n\nStatus: 5.1.1\n\n--b\nContent-Type: message/rfc822\n\nFrom: a\n\nc\n--b--\nend";
        let found = Structure::of(message);
        assert_eq!(found.report_type, Some(&b"Delivery-Status"[..]));
        let parts: Vec<_> = found.parts.iter().map(|p| (p.media, p.body)).collect();
        assert_eq!(
            parts,
            [
                (Media::Plain, &b"text\n"[..]),
                (Media::DeliveryStatus, b"Status: 5.1.1\n"),
                (Media::Message, b"From: a\n\nc"),
            ]
        );
    }

    #[test]
    fn odd_ones_are_read_somehow() {
        for (message, count) in [
            (&b""[..], 1),
            (b"Content-Type: multipart/mixed; boundary=b\n\nno boundary here", 1),
            (b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\ncut", 1),
            (b"Content-Type: multipart/mixed; boundary=b\n\n--bc\n\nx\n--b\n\ny\n--b--", 1),
            (b"Content-Type: multipart/mixed; boundary=b\n--b\n\nx\n--b--", 1),
        ] {
            assert_eq!(Structure::of(message).parts.len(), count, "{:?}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn deep_nesting_ends() {
        let mut message = String::new();
        for n in 0..500 {
            message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n"));
        }
        assert!(Structure::of(message.as_bytes()).parts.len() < 3);
    }
}

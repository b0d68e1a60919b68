//! Bytes of mail to text: transfer encodings, character sets, encoded words, HTML.
//!
//! Nothing fails: what cannot be decoded is replaced or left as it was. Results are bounded by a small multiple of what
//! comes in.

use crate::structure::{Media, Part, Transfer, find_near, find_near3};
use encoding_rs::Encoding;
use memchr::{memchr, memmem};
use std::borrow::Cow;

/// The text of a part: transfer encoding and character set undone, HTML turned to plain text. At most `limit` bytes of
/// the encoded body are looked at.
pub fn part_text<'m>(part: &Part<'m>, limit: usize) -> Cow<'m, str> {
    let body = &part.body[..part.body.len().min(limit)];
    let text = match transfer(body, part.transfer) {
        Cow::Borrowed(bytes) => charset(bytes, part.charset),
        Cow::Owned(bytes) => Cow::Owned(owned_text(bytes, part.charset)),
    };
    if part.media == Media::Html { Cow::Owned(html(&text)) } else { text }
}

/// A transfer encoding undone.
pub fn transfer(body: &[u8], transfer: Transfer) -> Cow<'_, [u8]> {
    match transfer {
        Transfer::Identity => Cow::Borrowed(body),
        Transfer::QuotedPrintable => Cow::Owned(quoted_printable(body)),
        Transfer::Base64 => Cow::Owned(base64(body)),
    }
}

/// Quoted-printable undone (RFC 2045 section 6.7); what is none is kept.
pub fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = find_near(b'=', rest) {
        out.extend_from_slice(&rest[..at]);
        let after = &rest[at + 1..];
        let blanks = after.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        rest = if after.get(blanks) == Some(&b'\n') {
            &after[blanks + 1..]
        } else if let Some((high, low)) =
            after.first().zip(after.get(1)).and_then(|(high, low)| hex(*high).zip(hex(*low)))
        {
            out.push(high << 4 | low);
            &after[2..]
        } else {
            out.push(b'=');
            after
        };
    }
    out.extend_from_slice(rest);
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

/// Base64 undone; other characters are passed over, the padding ends nothing (parts are sometimes put together).
pub fn base64(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() / 4 * 3 + 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in body {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => {
                (bits, held) = (0, 0);
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            // The mask keeps eight bits.
            out.push((bits >> held & 0xff) as u8);
        }
    }
    out
}

/// As [`charset`], without a copy of what is UTF-8.
fn owned_text(bytes: Vec<u8>, label: Option<&[u8]>) -> String {
    if shifts(&bytes) {
        return charset(&bytes, label).into_owned();
    }
    String::from_utf8(bytes).unwrap_or_else(|error| charset(error.as_bytes(), label).into_owned())
}

/// There is an escape sequence of ISO-2022.
fn shifts(bytes: &[u8]) -> bool {
    memchr::memchr_iter(0x1b, bytes).any(|at| matches!(bytes.get(at + 1), Some(b'$' | b'(')))
}

/// Without the escape sequences that another one follows at once. Every word of a header ends in ASCII and the next one begins
/// anew, so they stand at each seam; to a decoder for the web they are a trick, and it puts a U+FFFD there.
fn without_empty_shifts(bytes: &[u8]) -> Cow<'_, [u8]> {
    let shift = |at: usize| match bytes.get(at..at + 3) {
        Some([0x1b, b'(', _]) => Some(3),
        Some([0x1b, b'$', b'(']) => Some(4),
        Some([0x1b, b'$', _]) => Some(3),
        _ => None,
    };
    let empty = |at: usize| shift(at).filter(|long| shift(at + long).is_some());
    if !memchr::memchr_iter(0x1b, bytes).any(|at| empty(at).is_some()) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if let Some(long) = empty(at) {
            at += long;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Cow::Owned(out)
}

/// Bytes of a character set as text. Without a label, or with a wrong one, what the bytes look like decides: escape
/// sequences of ISO-2022-JP, UTF-8, and for what Japanese systems send without saying so EUC-JP and Shift_JIS.
pub fn charset<'b>(bytes: &'b [u8], label: Option<&[u8]>) -> Cow<'b, str> {
    if shifts(bytes) {
        // Labels lie more often than these sequences stand there for nothing.
        let korean = memmem::find(bytes, b"\x1b$)C").is_some();
        if !korean {
            return match without_empty_shifts(bytes) {
                Cow::Borrowed(bytes) => encoding_rs::ISO_2022_JP.decode_without_bom_handling(bytes).0,
                Cow::Owned(bytes) => encoding_rs::ISO_2022_JP.decode_without_bom_handling(&bytes).0.into_owned().into(),
            };
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let encoding = label.and_then(labelled);
    if let Some(encoding) = encoding
        && encoding != encoding_rs::UTF_8
        && encoding != encoding_rs::ISO_2022_JP
    {
        return encoding.decode_without_bom_handling(bytes).0;
    }
    for guess in [encoding_rs::EUC_JP, encoding_rs::SHIFT_JIS] {
        if let Some(text) = guess.decode_without_bom_handling_and_without_replacement(bytes) {
            return text;
        }
    }
    match encoding {
        Some(_) => String::from_utf8_lossy(bytes),
        None => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
    }
}

fn labelled(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label(label).or_else(|| {
        // Names that mail uses and the web never did.
        let label = String::from_utf8_lossy(label).to_ascii_lowercase();
        let known = match label.as_str() {
            "cp932" | "ms932" | "windows-932" | "sjis-win" => encoding_rs::SHIFT_JIS,
            "eucjp" | "eucjp-win" | "ujis" => encoding_rs::EUC_JP,
            "iso-2022-jp-1" | "iso-2022-jp-2" | "iso-2022-jp-3" | "iso-2022-jp-ms" | "cp50221" | "cp50220" => {
                encoding_rs::ISO_2022_JP
            }
            "cp936" | "gb18030-2000" => encoding_rs::GB18030,
            "cp949" | "ks_c_5601" | "uhc" => encoding_rs::EUC_KR,
            "cp950" => encoding_rs::BIG5,
            "cp1251" => encoding_rs::WINDOWS_1251,
            "cp1252" => encoding_rs::WINDOWS_1252,
            "koi8" | "koi8r" => encoding_rs::KOI8_R,
            _ => return None,
        };
        Some(known)
    })
}

/// The value of a header field as text: folds undone, encoded words decoded (RFC 2047), blanks between two of them left
/// out, raw bytes of a character set guessed.
pub fn header(value: &[u8]) -> String {
    header_text(value).into_owned()
}

/// As [`header`], without a copy where nothing is to be decoded.
pub fn header_text(value: &[u8]) -> Cow<'_, str> {
    // No fold, encoded word or escape sequence: as most values are.
    if find_near3([b'=', b'\n', 0x1b], value).is_none()
        && let Ok(text) = std::str::from_utf8(value)
    {
        // The blanks of a value are left out already, mostly.
        let bare = matches!(value, [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic());
        return Cow::Borrowed(if bare { text } else { text.trim() });
    }
    let plain = !memchr::memchr_iter(b'=', value).any(|at| value.get(at + 1) == Some(&b'?'));
    let folded = memchr(b'\n', value).is_some();
    if plain && !folded {
        return match charset(value, None) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        };
    }
    let unfolded: Cow<'_, [u8]> = if folded {
        // A fold is the line end; the blank after it stays.
        let mut out = Vec::with_capacity(value.len());
        for line in value.split(|b| *b == b'\n') {
            if out.is_empty() {
                out.extend_from_slice(line.trim_ascii_end());
            } else {
                out.push(b' ');
                out.extend_from_slice(line.trim_ascii());
            }
        }
        Cow::Owned(out)
    } else {
        Cow::Borrowed(value)
    };
    if plain {
        return Cow::Owned(charset(&unfolded, None).trim().to_owned());
    }
    Cow::Owned(encoded_words(&unfolded))
}

fn encoded_words(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    // Bytes of neighbouring words of one character set belong together: characters are cut in the middle in the wild.
    let mut held: Vec<u8> = Vec::new();
    let mut label: &[u8] = b"";
    let flush = |held: &mut Vec<u8>, label: &[u8], out: &mut String| {
        if !held.is_empty() {
            out.push_str(&charset(held, Some(label)));
            held.clear();
        }
    };
    while let Some(at) = memmem::find(rest, b"=?") {
        let Some((word_label, bytes, after)) = encoded_word(&rest[at..]) else {
            flush(&mut held, label, &mut out);
            out.push_str(&charset(&rest[..at + 2], None));
            rest = &rest[at + 2..];
            continue;
        };
        let between = &rest[..at];
        if !(between.trim_ascii().is_empty() && (!held.is_empty() || (out.is_empty() && between.is_empty()))) {
            flush(&mut held, label, &mut out);
            out.push_str(&charset(between, None));
        } else if !word_label.eq_ignore_ascii_case(label) {
            flush(&mut held, label, &mut out);
        }
        label = word_label;
        held.extend_from_slice(&bytes);
        rest = after;
    }
    flush(&mut held, label, &mut out);
    out.push_str(&charset(rest, None));
    out.trim().to_owned()
}

/// The word at the beginning of `text`: character set, bytes, what follows.
fn encoded_word(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let inner = text.strip_prefix(b"=?")?;
    let first = memchr(b'?', &inner[..inner.len().min(80)])?;
    let label = &inner[..first];
    // RFC 2231 allows a language after an asterisk.
    let label = memchr(b'*', label).map_or(label, |star| &label[..star]);
    let kind = inner.get(first + 1)?;
    let payload = inner.get(first + 2..)?.strip_prefix(b"?")?;
    // Bounded, so that a line of `=?a?b?` is read in linear time.
    let end = memmem::find(&payload[..payload.len().min(4000)], b"?=")?;
    let word = &payload[..end];
    let bytes = match kind {
        b'B' | b'b' => base64(word),
        b'Q' | b'q' => {
            let spaced: Vec<u8> = word.iter().map(|b| if *b == b'_' { b' ' } else { *b }).collect();
            quoted_printable(&spaced)
        }
        _ => return None,
    };
    Some((label, bytes, &payload[end + 2..]))
}

/// HTML as plain text: block elements and `<br>` end lines, styles and scripts vanish, entities are decoded.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() / 2);
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'<', b'&', rest.as_bytes()) {
        push_squeezed(&mut out, &rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('&') {
            let (decoded, after) = entity(rest);
            out.push(decoded);
            rest = after;
            continue;
        }
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let tag_end = memchr(b'>', rest.as_bytes()).map_or(rest.len(), |end| end + 1);
        let tag = &rest.as_bytes()[1.min(tag_end)..tag_end];
        let name_at = usize::from(tag.first() == Some(&b'/'));
        let name = &tag[name_at..];
        let name = &name[..name.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(name.len())];
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let looks_like_tag = !name.is_empty() || tag.first() == Some(&b'!');
        if !looks_like_tag || memchr(b'@', tag).is_some() && !is("a") && memchr(b'=', tag).is_none() {
            // An address in angle brackets that nobody escaped.
            out.push('<');
            rest = &rest[1..];
            continue;
        }
        rest = &rest[tag_end..];
        if name_at == 0 && (is("style") || is("script") || is("title")) {
            let close = format!("</{}", String::from_utf8_lossy(name).to_ascii_lowercase());
            rest = find_ignoring_case(rest, &close).map_or("", |end| &rest[end..]);
        } else {
            let block = ["br", "p", "div", "tr", "table", "li", "h1", "h2", "h3", "pre", "hr", "ul", "td"];
            // One line end for a block; each <br> and <p> makes its own.
            if is("br") || is("p") || (block.iter().any(|t| is(t)) && !out.ends_with('\n')) {
                out.push('\n');
            }
        }
    }
    push_squeezed(&mut out, rest);
    out
}

/// Adds text, its line ends kept (what is preformatted needs them).
fn push_squeezed(out: &mut String, text: &str) {
    out.push_str(text);
}

fn find_ignoring_case(text: &str, lower: &str) -> Option<usize> {
    let (text, wanted) = (text.as_bytes(), lower.as_bytes());
    memchr::memchr_iter(b'<', text)
        .find(|at| text.get(*at..at + wanted.len()).is_some_and(|here| here.eq_ignore_ascii_case(wanted)))
}

fn entity(text: &str) -> (char, &str) {
    let end = text.as_bytes().iter().take(12).position(|b| *b == b';');
    let Some(end) = end else { return ('&', &text[1..]) };
    let name = &text[1..end];
    let decoded = match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        "auml" => Some('ä'),
        "ouml" => Some('ö'),
        "uuml" => Some('ü'),
        "Auml" => Some('Ä'),
        "Ouml" => Some('Ö'),
        "Uuml" => Some('Ü'),
        "szlig" => Some('ß'),
        "eacute" => Some('é'),
        "egrave" => Some('è'),
        "agrave" => Some('à'),
        "aacute" => Some('á'),
        "iacute" => Some('í'),
        "oacute" => Some('ó'),
        "uacute" => Some('ú'),
        "ntilde" => Some('ñ'),
        "ccedil" => Some('ç'),
        "atilde" => Some('ã'),
        "otilde" => Some('õ'),
        "ecirc" => Some('ê'),
        "rsquo" | "lsquo" => Some('\''),
        _ => name
            .strip_prefix('#')
            .and_then(|n| match n.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok(),
                None => n.parse().ok(),
            })
            .and_then(char::from_u32)
            .map(|c| if c == '\u{a0}' { ' ' } else { c }),
    };
    match decoded {
        Some(c) => (c, &text[end + 1..]),
        None => ('&', &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_encodings() {
        assert_eq!(quoted_printable(b"a=3Db=\nc=E3=81=82 =zz ="), "a=bcあ =zz =".as_bytes());
        assert_eq!(base64(b"44GC\n44GE=="), "あい".as_bytes());
        assert_eq!(base64(b"!!"), b"");
    }

    #[test]
    fn character_sets() {
        for (bytes, label, expected) in [
            (&b"\x1b$B$\"\x1b(B"[..], Some("us-ascii"), "あ"),
            (b"\x1b$B$\"\x1b(B\x1b$B$$\x1b(B", Some("iso-2022-jp"), "あい"),
            (b"\x1b(J\x1b(B\x1b$Ba\x1b", Some("iso-2022-jp"), "\u{fffd}\u{fffd}"),
            (b"\x82\xa0", Some("Shift_JIS"), "あ"),
            (b"\x82\xa0", Some("cp932"), "あ"),
            (b"\xa4\xa2", Some("EUC-JP"), "あ"),
            (b"\xa4\xa2\xa4\xa4", Some("iso-2022-jp"), "あい"),
            (b"\xcf\xf0", Some("windows-1251"), "Пр"),
            (b"\xf0\xd2", Some("koi8-r"), "Пр"),
            (b"\xc4\xe3", Some("gb18030"), "你"),
            (b"\xa7A", Some("big5"), "你"),
            (b"\xbe\xc8", Some("euc-kr"), "안"),
            (b"\xfc", Some("iso-8859-1"), "ü"),
            (b"\xc3\xbc", Some("iso-8859-1"), "ü"),
            (b"a\xffb", Some("utf-8"), "a\u{fffd}b"),
        ] {
            assert_eq!(charset(bytes, label.map(str::as_bytes)), expected, "{label:?}");
        }
    }

    #[test]
    fn headers() {
        for (value, expected) in [
            ("plain", "plain"),
            ("a\n b", "a b"),
            ("=?utf-8?B?44GC?=\n =?utf-8?B?44GE?= x", "あい x"),
            ("=?utf-8?B?44E=?= =?utf-8?B?gg==?=", "あ"),
            ("=?ISO-2022-JP?B?GyRCJCIbKEI=?=", "あ"),
            ("=?ISO-2022-JP?B?GyRCJCIbKEI=?=\n =?ISO-2022-JP?B?GyRCJCIbKEI=?=", "ああ"),
            ("=?ISO-2022-JP?B?eBskQiQiGyhC?=\n =?iso-2022-jp?B?GyRCJCIbKEJ4?=", "xああx"),
            ("Re: =?iso-8859-1?q?gr=FC=DFe_x?=", "Re: grüße x"),
            ("=?broken", "=?broken"),
            ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
            ("=?utf-8*en?q?a?=", "a"),
        ] {
            assert_eq!(header(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn pages() {
        assert_eq!(html("<style>x{}</style><p>a&nbsp;b<br>c &lt;d@e&gt; <f@g></p>").trim(), "a b\nc <d@e> <f@g>");
        assert_eq!(html("&#x3042;&#12356;&unknown;"), "あい&unknown;");
        assert_eq!(html("a < b <"), "a < b <");
    }
}

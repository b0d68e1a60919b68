//! Small cutters: what every reader of log text needs.

use crate::entry::Client;

/// The part before `mark` and the part after it.
pub(crate) fn until<'a>(text: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    // `memmem` and not `split_once`: lines are short, but there are many.
    let at = memchr::memmem::find(text.as_bytes(), mark.as_bytes())?;
    // Both cuts are at the ends of a whole str.
    Some((&text[..at], &text[at + mark.len()..]))
}

/// An address that begins after its `<`: up to the `>` that ends it (a quoted local part may have one too), and what
/// follows. Of a line that was cut there is no end: all of it is the address.
pub(crate) fn bracketed(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    // Nearly always: no quote before the first bracket.
    match memchr::memchr2(b'>', b'"', bytes) {
        None => return (text, ""),
        Some(at) if bytes[at] == b'>' => return (&text[..at], &text[at + 1..]),
        Some(_) => {}
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    // A quote that never ends: the first bracket after all.
    match memchr::memchr(b'>', bytes) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

/// `name[address]:port`, `name[address]`, `[address]:port`, or a bare name.
pub(crate) fn client(text: &str) -> Client<'_> {
    match text.split_once('[') {
        Some((name, rest)) => Client { name: name.trim_end(), address: rest.split(']').next().unwrap_or_default() },
        None => Client { name: text.trim_end(), address: "" },
    }
}

/// Seconds with up to six decimals, in microseconds. `None` when it is no such number.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || whole.len() > 12 {
        return None;
    }
    let mut micros = digits(whole)?.checked_mul(1_000_000)?;
    let mut step = 100_000;
    for byte in fraction.bytes() {
        if !byte.is_ascii_digit() {
            return None;
        }
        micros += u64::from(byte - b'0') * step;
        step /= 10;
    }
    Some(micros)
}

/// A number of digits only.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.bytes().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// A number at the beginning, and what follows.
pub(crate) fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    Some((digits(&text[..end])?, &text[end..]))
}

/// Takes one word off the front, up to a blank.
pub(crate) fn word(text: &str) -> (&str, &str) {
    match memchr::memchr(b' ', text.as_bytes()) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets() {
        for (text, wanted) in [
            ("a@b>, x", ("a@b", ", x")),
            ("\"a>b\"@c>, x", ("\"a>b\"@c", ", x")),
            ("\"a\\\">b\"@c>, x", ("\"a\\\">b\"@c", ", x")),
            ("\"a@b>, x", ("\"a@b", ", x")),
            (">", ("", "")),
            ("a@b", ("a@b", "")),
            ("\"", ("\"", "")),
        ] {
            assert_eq!(bracketed(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(seconds("1.5"), Some(1_500_000));
        assert_eq!(seconds("0.026"), Some(26_000));
        assert_eq!(seconds("432001"), Some(432_001_000_000));
        assert_eq!(seconds("0.1234567"), Some(123_456));
        for bad in ["", ".", "-1", "1e9", "9999999999999", "1.x"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!(number("12 x"), Some((12, " x")));
        assert_eq!(number("x"), None);
        assert_eq!(client("mx.b.jp[192.0.2.1]:25"), Client { name: "mx.b.jp", address: "192.0.2.1" });
        assert_eq!(client("[::1]:25"), Client { name: "", address: "::1" });
        assert_eq!(client("mx [1.2.3.4] (may be forged)"), Client { name: "mx", address: "1.2.3.4" });
    }
}

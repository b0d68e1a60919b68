//! The local part in and out of quotes (RFC 5321 section 4.1.2, RFC 5322 section 3.4.1; Postfix: `quote_821_local`,
//! `quote_822_local`, `unquote_822_local`).

use std::borrow::Cow;

/// True when the local part may stand without quotes: atoms separated by single dots. Eight-bit text counts as atoms.
fn is_dot_string(local: &[u8]) -> bool {
    if local.is_empty() || local.starts_with(b".") || local.ends_with(b".") {
        return false;
    }
    let mut previous = 0;
    local.iter().all(|&byte| {
        let special = matches!(
            byte,
            0..=b' ' | 0x7f | b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'"' | b'[' | b']'
        );
        let fine = !special && (byte, previous) != (b'.', b'.');
        previous = byte;
        fine
    })
}

/// The external form of an internal address: the local part in quotes where RFC 5321 asks for it, eight-bit text left
/// alone. The null address stays empty; no angle brackets are added. A source route before the local part is kept.
///
/// `unquote(quote(a))` is `a` again, unless `a` begins with `@` or has no local part.
pub fn quote(internal: &str) -> Cow<'_, str> {
    match quoted(internal.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(internal),
        // ASCII was put between characters of UTF-8 text: never an error.
        Cow::Owned(bytes) => String::from_utf8(bytes).map_or(Cow::Borrowed(internal), Cow::Owned),
    }
}

/// [`quote`] for an address out of a header, whose bytes need not be UTF-8.
pub(crate) fn quoted(internal: &[u8]) -> Cow<'_, [u8]> {
    if internal.is_empty() {
        return Cow::Borrowed(internal);
    }
    let (head, rest) = internal.split_at(source_route(internal));
    let end = memchr::memrchr(b'@', rest).unwrap_or(rest.len());
    let (local, domain) = rest.split_at(end);
    if is_dot_string(local) {
        return Cow::Borrowed(internal);
    }
    let mut out = Vec::with_capacity(internal.len() + 4);
    out.extend_from_slice(head);
    out.push(b'"');
    for &byte in local {
        if matches!(byte, b'"' | b'\\' | b'\r') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    out.extend_from_slice(domain);
    Cow::Owned(out)
}

/// [`quote`] for SMTP commands: as there, and a line end within the local part is escaped too, so that it could not
/// be mistaken for the end of the command by a reader of logs. The caller must still refuse to send control characters.
pub fn quote_strictly(internal: &str) -> Cow<'_, str> {
    let quoted = quote(internal);
    if quoted.contains('\n') { Cow::Owned(quoted.replace('\n', "\\\n")) } else { quoted }
}

/// The internal form of an external address without angle brackets: quotes and backslashes of the local part removed.
/// Unbalanced quotes and a trailing backslash are taken as they come.
pub fn unquote(external: &str) -> Cow<'_, str> {
    if !external.bytes().any(|b| b == b'"' || b == b'\\') {
        return Cow::Borrowed(external);
    }
    // The route ends behind an ASCII colon, so on a character boundary.
    let (head, rest) = external.split_at(source_route(external.as_bytes()));
    let mut out = String::with_capacity(external.len());
    out.push_str(head);
    // Where the last @ outside quotes was written, and where it was read.
    let mut bare_at = None;
    let mut in_quotes = false;
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => in_quotes = !in_quotes,
            '\\' => {
                if let Some((_, escaped)) = chars.next() {
                    out.push(escaped);
                }
            }
            '@' if !in_quotes => {
                bare_at = Some((out.len(), at));
                out.push('@');
            }
            _ => out.push(c),
        }
    }
    // What follows the last @ is a domain: not ours to unquote.
    if let Some((written, read)) = bare_at {
        out.truncate(written);
        out.push_str(&rest[read..]);
    }
    Cow::Owned(out)
}

/// Length of a source route (`@a,@b:`) in front, colon included; 0 when there is none.
fn source_route(address: &[u8]) -> usize {
    if !address.starts_with(b"@") {
        return 0;
    }
    memchr::memchr(b':', address).map_or(0, |colon| colon + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let table = [
            ("", ""),
            ("a", "a"),
            ("a@b.test", "a@b.test"),
            ("a b@c.test", "\"a b\"@c.test"),
            ("..da.me.@docomo.ne.jp", "\"..da.me.\"@docomo.ne.jp"),
            ("a..b@ezweb.ne.jp", "\"a..b\"@ezweb.ne.jp"),
            ("a@b@c.test", "\"a@b\"@c.test"),
            ("a\"b@c", "\"a\\\"b\"@c"),
            ("a\\b@c", "\"a\\\\b\"@c"),
            ("送信@例え.test", "送信@例え.test"),
            ("a/b=c?d!e%f{g}|h~#$&'*+-^_`@c", "a/b=c?d!e%f{g}|h~#$&'*+-^_`@c"),
            ("[x]@c", "\"[x]\"@c"),
            (".@c", "\".\"@c"),
        ];
        for (internal, external) in table {
            assert_eq!(quote(internal), external);
            assert_eq!(unquote(external), internal);
        }
        // An empty local part is quoted, a source route is kept.
        assert_eq!(quote("@c"), "\"\"@c");
        assert_eq!(unquote("\"\"@c"), "@c");
        assert_eq!(quote("@a,@b:x y@c"), "@a,@b:\"x y\"@c");
        assert_eq!(quote_strictly("a\nb@c"), "\"a\\\nb\"@c");
    }

    #[test]
    fn unquoting_takes_what_comes() {
        for (external, internal) in [
            ("\"a b@c", "a b@c"),
            ("a\\", "a"),
            ("a\\@b@c", "a@b@c"),
            ("\"a@b\"@\"c", "a@b@\"c"),
            ("a@[\\x]", "a@[\\x]"),
            ("\"..dot.\"@docomo.ne.jp", "..dot.@docomo.ne.jp"),
        ] {
            assert_eq!(unquote(external), internal, "{external}");
        }
    }
}

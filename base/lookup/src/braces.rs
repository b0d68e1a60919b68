//! `{ ... }` as Postfix's parameters nest it: lists separated by comma or blank whose elements may be `{ text }`.

use crate::lines::is_blank;

/// A text that may be in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Braced<'a> {
    /// The text between the outer braces, without blanks at its ends.
    Inside(&'a str),
    /// It does not begin with a brace.
    Plain(&'a str),
    /// The closing brace is missing.
    Unclosed,
    /// Something follows the closing brace.
    Trailing,
}

/// Takes the outer braces off.
pub fn braced(text: &str) -> Braced<'_> {
    let text = crate::lines::trim_str(text);
    if !text.starts_with('{') {
        return Braced::Plain(text);
    }
    match closing(text.as_bytes(), 0) {
        None => Braced::Unclosed,
        Some(end) if end + 1 < text.len() => Braced::Trailing,
        // Both braces are one byte each.
        Some(end) => Braced::Inside(crate::lines::trim_str(text.get(1..end).unwrap_or_default())),
    }
}

/// Where the brace that opens at `open` closes.
fn closing(text: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in text.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The elements of a list separated by commas and blanks; an element that opens a brace reaches to its closing one
/// (or to the end, where that is missing).
pub fn split_list(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let separates = |byte: u8| byte == b',' || is_blank(byte);
    let mut elements = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        // `at` is inside, checked by the loop.
        if separates(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut depth = 0usize;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                byte if depth == 0 && separates(byte) => break,
                _ => {}
            }
            at += 1;
        }
        elements.extend(text.get(start..at));
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces() {
        for (text, expected) in [
            ("{ a b }", Braced::Inside("a b")),
            ("a", Braced::Plain("a")),
            ("{a", Braced::Unclosed),
            ("{a}b", Braced::Trailing),
            ("{{a}{b}}", Braced::Inside("{a}{b}")),
            ("", Braced::Plain("")),
        ] {
            assert_eq!(braced(text), expected, "{text}");
        }
    }

    #[test]
    fn lists() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" a, b\tc,,", &["a", "b", "c"]),
            ("{a, b} hash:{c d},e", &["{a, b}", "hash:{c d}", "e"]),
            ("a {b", &["a", "{b"]),
            ("a}} b", &["a}}", "b"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split_list(text), *expected, "{text}");
        }
        // Deep nesting costs no stack.
        let deep = "{".repeat(1_000_000);
        assert_eq!(split_list(&deep).len(), 1);
    }
}

//! The value of a header that holds addresses: read, addresses replaced, written back.
//!
//! Postfix rewrites such a header only if an address in it changes, and then writes the whole value anew: one space
//! after a comma, lines filled to 70 characters and continued with a tab, addresses quoted where they need it. Display
//! names, comments and groups are kept. [`AddressList`] does the same to the byte (`tok822_externalize`,
//! `cleanup_fold_header`).

use std::borrow::Cow;

use crate::token::{self, Parsed, Token};

/// A parsed header value. Costs a few allocations per address: parse only what may have to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList {
    tokens: Vec<Token>,
    odd: Vec<(usize, Vec<u8>)>,
}

/// A header as written by [`AddressList::to_header`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenHeader {
    /// `Name: value`, continuation lines after `\n\t`, no line end at the end.
    pub text: Vec<u8>,
    /// Display names or comments of more than 250 bytes were dropped. Postfix logs `stripping too many comments from
    /// address: ...`.
    pub stripped: bool,
}

impl AddressList {
    /// Reads the value of a header: what follows the colon, folded lines and all. Never fails: what makes no sense is
    /// kept as it is.
    pub fn parse(value: &[u8]) -> Self {
        let Parsed { tokens, odd } = token::parse(value);
        Self { tokens, odd }
    }

    /// As [`parse`](Self::parse), but what comes after so many tokens (words, operators, comments) is left out, as with
    /// Postfix's `header_address_token_limit`.
    pub fn parse_limited(value: &[u8], tokens: usize) -> Self {
        let Parsed { tokens, odd } = token::parse_limited(value, tokens);
        Self { tokens, odd }
    }

    /// The addresses in internal form. An address that is not UTF-8 is left out: nothing can look it up.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Address(text) => std::str::from_utf8(text).ok(),
            _ => None,
        })
    }

    /// As [`addresses`](Self::addresses), each with its external form as it stands in the header where that is not
    /// [`quote`](crate::quote)'s: `a..b@c`, `"x@y"`. Postfix rewrites such a header even when no address changes.
    pub fn addresses_as_written(&self) -> impl Iterator<Item = (&str, Option<Cow<'_, str>>)> {
        let mut odd = self.odd.iter().peekable();
        let all = self.tokens.iter().filter_map(|token| match token {
            Token::Address(text) => Some(text),
            _ => None,
        });
        all.enumerate().filter_map(move |(number, text)| {
            let written = odd.next_if(|(at, _)| *at == number).map(|(_, written)| String::from_utf8_lossy(written));
            Some((std::str::from_utf8(text).ok()?, written))
        })
    }

    /// Hands each address to `replace`, which may give another in its place. Returns true if any was replaced.
    pub fn replace(&mut self, mut replace: impl FnMut(&str) -> Option<String>) -> bool {
        let mut changed = false;
        for token in &mut self.tokens {
            if let Token::Address(text) = token
                && let Ok(address) = std::str::from_utf8(text)
                && let Some(new) = replace(address)
                && new.as_bytes() != text
            {
                *text = new.into_bytes();
                changed = true;
            }
        }
        changed
    }

    /// Puts `new` in the place of the addresses, in the order of [`addresses`](Self::addresses); for callers whose
    /// lookups are async. Missing ones leave the rest alone. Returns true if any differs.
    pub fn set_addresses<S: Into<String>>(&mut self, new: impl IntoIterator<Item = S>) -> bool {
        let mut new = new.into_iter();
        self.replace(|_| new.next().map(Into::into))
    }

    /// The header written as Postfix writes one that it has changed.
    pub fn to_header(&self, name: &str) -> WrittenHeader {
        let (value, stripped) = token::externalize(&self.tokens);
        let mut text = Vec::with_capacity(name.len() + value.len() + 8);
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(&value);
        WrittenHeader { text: fold(&text), stripped }
    }
}

/// One address per line comes in; as many as fit into 70 characters go onto one line (a tab counts as one).
fn fold(text: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len() + 8);
    let mut line_start = 0;
    let mut at = 0;
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let end = at + line.len();
        if number > 0 {
            if end - line_start < 70 {
                out.push(b' ');
            } else {
                line_start = at;
                out.push(b'\n');
                // A line that begins with a blank comes from a comment that was folded already.
                if !line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
                    out.push(b'\t');
                }
            }
        }
        out.extend_from_slice(line);
        at = end + 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, value: &str) -> String {
        String::from_utf8(AddressList::parse(value.as_bytes()).to_header(name).text).unwrap()
    }

    #[test]
    fn written_as_postfix_does() {
        let table = [
            (" a@b", "To: a@b"),
            ("a@b,c@d", "To: a@b, c@d"),
            (" Name\n  N. <a@b> (x), \"Quoted, Name\"<c@d>", "To: Name N. <a@b>(x), \"Quoted, Name\" <c@d>"),
            (" g: a , b ; , c", "To: g: a, b;, c"),
            (" undisclosed-recipients:;", "To: undisclosed-recipients: ;"),
            (" \"a b\"@c, a..b@d, <>", "To: \"a b\"@c, \"a..b\"@d, <>"),
            ("", "To: "),
        ];
        for (value, expected) in table {
            assert_eq!(written("To", value), expected, "{value}");
        }
    }

    /// Every address replaced: what Postfix wrote for the same header.
    #[test]
    fn rewritten_as_postfix_does() {
        let table = [
            ("From", "\"Display, Name\" <f@x.test> (comment)", "\"Display, Name\" <new@new.test>(comment)"),
            ("Sender", "(c1) f (c2) @ x.test (c3)", "new@new.test (c1) (c2) (c3)"),
            (
                "Reply-To",
                "Johnny B. Goode <f@x.test>, group name: a@b.test, \"c d\"@e.test;, <>",
                "Johnny B.Goode <new@new.test>, group name: new@new.test,\n\tnew@new.test;, <>",
            ),
            ("Cc", "undisclosed-recipients:; , z@z.test", "undisclosed-recipients: ;, new@new.test"),
            ("To", "z@z.test (folded\n comment), a@b.test", "new@new.test (folded  comment), new@new.test"),
            ("To", "\"q\\\\\"uo\\\\te\" <f@x.test>", "new@new.test, new@new.test, new@new.test"),
            ("To", "a b c <z@z.test>", "a b c <new@new.test>"),
            ("Cc", "z@z.test (unterminated", "new@new.test (unterminated"),
            ("Sender", "<f@x.test", "new@new.test"),
            ("Sender", "=?utf-8?q?abc?= <f@x.test>", "=?utf-8?q?abc?= <new@new.test>"),
        ];
        for (name, value, expected) in table {
            let mut list = AddressList::parse(value.as_bytes());
            list.replace(|_| Some("new@new.test".into()));
            let header = String::from_utf8(list.to_header(name).text).unwrap();
            assert_eq!(header, format!("{name}: {expected}"), "{value}");
        }
    }

    #[test]
    fn folded_at_seventy() {
        let value = (0..8).map(|n| format!("recipient{n}@example{n}.test")).collect::<Vec<_>>().join(",");
        assert_eq!(
            written("To", &value),
            "To: recipient0@example0.test, recipient1@example1.test,\n\
             \trecipient2@example2.test, recipient3@example3.test,\n\
             \trecipient4@example4.test, recipient5@example5.test,\n\
             \trecipient6@example6.test, recipient7@example7.test"
        );
    }

    #[test]
    fn addresses_are_replaced() {
        let mut list = AddressList::parse(b"One <a@b>, c (two), \xff@x, d@e");
        assert_eq!(list.addresses().collect::<Vec<_>>(), ["a@b", "c", "d@e"]);
        assert!(list.replace(|a| (!a.contains('@')).then(|| format!("{a}@lab.test"))));
        assert_eq!(list.to_header("Cc").text, b"Cc: One <a@b>, c@lab.test (two), \xff@x, d@e");
        assert!(!list.replace(|a| Some(a.to_owned())));
        assert!(list.set_addresses(["x y@z"]));
        assert_eq!(list.to_header("Cc").text, b"Cc: One <\"x y\"@z>, c@lab.test (two), \xff@x, d@e");
    }

    #[test]
    fn what_was_written_otherwise_is_told() {
        let list = AddressList::parse(b"\xff@x, a..b@c, x @ y, \"x@y\", \"a b\"@c, <e.@f> (z), a@b@c");
        let odd: Vec<_> = list.addresses_as_written().filter_map(|(address, odd)| Some((address, odd?))).collect();
        let expected = [("a..b@c", "a..b@c"), ("x@y", "\"x@y\""), ("e.@f", "e.@f"), ("a@b@c", "a@b@c")]
            .map(|(a, b)| (a, b.into()));
        assert_eq!(odd, expected);
    }

    #[test]
    fn what_is_beyond_the_limit_is_left_out() {
        for (limit, expected) in [(usize::MAX, "To: a@b, c@d, e@f"), (7, "To: a@b, c@d"), (3, "To: a@b"), (0, "To: ")] {
            let list = AddressList::parse_limited(b"a@b, c@d, e@f", limit);
            assert_eq!(String::from_utf8(list.to_header("To").text).unwrap(), expected, "{limit}");
        }
    }

    #[test]
    fn too_much_around_an_address_is_dropped() {
        let value = format!("{} <a@b>, \"{}\" <>, {} <c@d>", "x".repeat(300), "y".repeat(300), "z".repeat(200));
        let header = AddressList::parse(value.as_bytes()).to_header("From");
        assert!(header.stripped);
        let text = String::from_utf8(header.text).unwrap();
        assert!(text.starts_with("From: <a@b>, <>,"), "{text}");
        assert!(text.contains("zzz <c@d>"));
    }
}

//! The argument of `MAIL FROM:` and `RCPT TO:`, read as Postfix's SMTP server reads it (`smtpd_token`, `extract_addr`).
//!
//! Lenient: angle brackets may be missing, a display name may stand before them, comments are skipped, a source route
//! is dropped (RFC 5321 appendix C). Strict (`strict_rfc821_envelopes`): `<address>` and nothing else. In both cases
//! the local part and domain are taken as they are: whether the domain is one is for the resolver to say
//! (`crate::domain::valid_mail_domain`), after the rewriting that may add it.

use crate::token::{self, Token};

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No argument at all: `501 5.5.4 Syntax: MAIL FROM:<address>`.
    Missing,
    /// `501 5.1.7 Bad sender address syntax`, `501 5.1.3 Bad recipient address syntax`; the log says `Illegal address
    /// syntax from HOST[IP] in MAIL command: ...`.
    BadSyntax,
}

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "address missing",
            Self::BadSyntax => "bad address syntax",
        })
    }
}

impl std::error::Error for PathError {}

/// A reverse-path or forward-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// The address in internal form; `""` for `<>`. A caller that wants an address refuses the empty one (RCPT).
    pub address: String,
    /// The address as it was given, without the outer angle brackets: what a missing `ORCPT` is made from.
    pub external: &'a str,
    /// There was more than an address: a display name or comment. Harmless, but odd.
    pub decorated: bool,
    /// What follows, without blanks in front: the parameters.
    pub rest: &'a str,
}

/// Reads a path and leaves the parameters. `argument` is what follows the colon of `MAIL FROM:`.
pub fn parse(argument: &str, strict: bool) -> Result<Path<'_>, PathError> {
    let argument = argument.trim_start_matches(is_blank);
    let end = word_end(argument).ok_or(PathError::BadSyntax)?;
    let (word, rest) = argument.split_at(end);
    if word.is_empty() {
        return Err(PathError::Missing);
    }
    let external = word.strip_prefix('<').and_then(|w| w.strip_suffix('>')).unwrap_or(word);
    let parsed = extract(external)?;
    if strict && (parsed.decorated || !word.starts_with('<') || parsed.address.starts_with('@')) {
        return Err(PathError::BadSyntax);
    }
    let rest = rest.trim_start_matches(is_blank);
    Ok(Path { address: parsed.address, external, decorated: parsed.decorated, rest })
}

/// The one address in a text such as a VRFY argument or a path without its outer brackets, in internal form. No
/// address at all gives `""`; two are an error.
pub fn parse_address(text: &str) -> Result<String, PathError> {
    extract(text.strip_prefix('<').and_then(|w| w.strip_suffix('>')).unwrap_or(text)).map(|found| found.address)
}

#[derive(Debug, PartialEq, Eq)]
struct Extracted {
    address: String,
    decorated: bool,
}

fn extract(text: &str) -> Result<Extracted, PathError> {
    // A source route is obsolete: the last hop is all that counts.
    let text = match text.find(':') {
        Some(colon) if text.starts_with('@') => &text[colon + 1..],
        _ => text,
    };
    if !text.bytes().any(needs_tokens) {
        return Ok(Extracted { address: text.to_owned(), decorated: false });
    }
    gather(text)
}

/// The address in a text of whatever tokens.
fn gather(text: &str) -> Result<Extracted, PathError> {
    let mut address = None;
    let mut decorated = false;
    for token in token::parse(text.as_bytes()).tokens {
        match token {
            Token::Address(found) => {
                if address.replace(found).is_some() {
                    return Err(PathError::BadSyntax);
                }
            }
            Token::Operator(b'<' | b'>') => {}
            _ => decorated = true,
        }
    }
    // Tokens are cut at ASCII characters only, so UTF-8 stays UTF-8, but for a backslash before a character of several
    // bytes, which is dropped and leaves the character whole.
    let address = String::from_utf8(address.unwrap_or_default()).map_err(|_| PathError::BadSyntax)?;
    Ok(Extracted { address, decorated })
}

/// Text without any of these is one address, and its internal form is what stands there: atoms with dots, `@` and other
/// operators between them.
fn needs_tokens(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'\r' | b'\n' | b'\\' | b'"' | b'(' | b')' | b'<' | b'>' | b'[' | b']' | b',' | b';' | b':'
    )
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{b}' | '\u{c}')
}

/// Where the first word ends: at a blank outside of angle brackets and quotes. `None` when one of these is not closed.
fn word_end(text: &str) -> Option<usize> {
    // Brackets may stand within one another, and quotes within them; nothing opens within quotes.
    let (mut brackets, mut quoted) = (0usize, false);
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => quoted = !quoted,
            b'>' if !quoted && brackets > 0 => brackets -= 1,
            b'<' if !quoted => brackets += 1,
            _ if !quoted && brackets == 0 && is_blank(char::from(byte)) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    (brackets == 0 && !quoted).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_tokens_is_what_they_make_of_it() {
        let alphabet = ["a", ".", "@", "%", "!", "|", "'", "é", "\u{1}"];
        let mut texts = vec![String::new()];
        for _ in 0..5 {
            let longer = texts.iter().flat_map(|text| alphabet.map(|piece| format!("{text}{piece}")));
            texts = std::iter::once(String::new()).chain(longer).collect();
            for text in &texts {
                assert!(!text.bytes().any(needs_tokens));
                assert_eq!(extract(text), gather(text), "{text:?}");
            }
        }
    }

    type Answer = Result<(&'static str, &'static str), PathError>;
    const BAD: Answer = Err(PathError::BadSyntax);

    #[test]
    fn lenient() {
        let table: &[(&str, Answer)] = &[
            ("<a@b.test>", Ok(("a@b.test", ""))),
            (" <a@b.test>  SIZE=10 BODY=7BIT", Ok(("a@b.test", "SIZE=10 BODY=7BIT"))),
            ("a@b.test SIZE=10", Ok(("a@b.test", "SIZE=10"))),
            ("<>", Ok(("", ""))),
            ("<> RET=HDRS", Ok(("", "RET=HDRS"))),
            ("", Err(PathError::Missing)),
            ("  ", Err(PathError::Missing)),
            ("<a@b.test", BAD),
            ("<a@@b.test>", Ok(("a@@b.test", ""))),
            ("<@x.test,@y.test:a@b.test>", Ok(("a@b.test", ""))),
            ("<@b.test>", Ok(("@b.test", ""))),
            ("<\"a b\"@c.test>", Ok(("a b@c.test", ""))),
            ("<\"a>b\"@c.test> X", Ok(("a>b@c.test", "X"))),
            ("<Name Of <a@b.test>>", Ok(("a@b.test", ""))),
            ("<a (comment) @b.test>", Ok(("a@b.test", ""))),
            ("<a b@c.test>", BAD),
            ("<a@[192.0.2.1]>", Ok(("a@[192.0.2.1]", ""))),
            ("<a@[IPv6:2001:db8::1]>", Ok(("a@[IPv6:2001:db8::1]", ""))),
            ("..da.me.@docomo.ne.jp", Ok(("..da.me.@docomo.ne.jp", ""))),
            ("<\"..dot.\"@docomo.ne.jp>", Ok(("..dot.@docomo.ne.jp", ""))),
            ("<a..b@ezweb.ne.jp>", Ok(("a..b@ezweb.ne.jp", ""))),
            ("<user>", Ok(("user", ""))),
            ("<a@b>x", BAD),
            ("<a (x) y@c.test>", BAD),
            ("a\"b c\"@d.test SIZE=10", BAD),
            ("a (b c)", Ok(("a", "(b c)"))),
            ("a(b)", Ok(("a", ""))),
            ("<a(>)@c.test>", Ok(("a@c.test", ""))),
            ("<a\\>b@c.test>", Ok(("a>b@c.test", ""))),
            ("a@b.test<c@d.test>", Ok(("c@d.test", ""))),
            ("<a@b.test> <c@d.test>", Ok(("a@b.test", "<c@d.test>"))),
            ("\"<a@b.test\"", Ok(("<a@b.test", ""))),
            ("a>b@c.test", BAD),
            ("<a@b.test>>", Ok(("a@b.test", ""))),
            ("<a;b@c.test>", BAD),
            ("<g:a@c.test;>", Ok(("a@c.test", ""))),
            ("<a@b.test,c@d.test>", BAD),
            ("<a@b.test,>", Ok(("a@b.test", ""))),
            ("<a%b@c.test>", Ok(("a%b@c.test", ""))),
            ("<()>", Ok(("", ""))),
            ("\t<a@b.test>\tSIZE=1", Ok(("a@b.test", "SIZE=1"))),
            ("<送信@例え.test> SMTPUTF8", Ok(("送信@例え.test", "SMTPUTF8"))),
        ];
        for (argument, expected) in table {
            let found = parse(argument, false);
            assert_eq!(found.as_ref().map(|p| (&*p.address, p.rest)).map_err(|e| *e), *expected, "{argument}");
        }
    }

    #[test]
    fn strict() {
        for good in ["<a@b.test>", "<a>", "<>", "<@x.test:a@b.test>", "<\"a b\"@c.test>"] {
            assert!(parse(good, true).is_ok(), "{good}");
        }
        for bad in ["a@b.test", "<a (c) @b.test>", "<N <a@b.test>>", "<@b.test>", "\"a\"@b.test"] {
            assert_eq!(parse(bad, true), Err(PathError::BadSyntax), "{bad}");
        }
    }

    #[test]
    fn external_form_is_kept() {
        assert_eq!(parse("<\"A b\"@C.test> X", false).unwrap().external, "\"A b\"@C.test");
        assert!(parse("<N <a@b>>", false).unwrap().decorated);
        assert_eq!(parse_address("a@b").as_deref(), Ok("a@b"));
        assert_eq!(parse_address("a@b, c@d"), Err(PathError::BadSyntax));
    }
}

//! Lexical tokens of RFC 822 text and their grouping into addresses, by Postfix's rules (`tok822`).
//!
//! The tokeniser goes left to right and keeps everything it does not understand; the parser goes right to left, gathers
//! what makes an address, moves comments out of it and adds missing commas. Both are linear.

use std::borrow::Cow;

use crate::quoting::quoted;

/// A token of the flat list, or an address gathered from several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Text without specials.
    Atom(Vec<u8>),
    /// Text of a quoted string, unescaped.
    Quoted(Vec<u8>),
    /// A comment in external form, parentheses included.
    Comment(Vec<u8>),
    /// Text between square brackets, unescaped.
    Literal(Vec<u8>),
    /// The colon that opens a group.
    GroupStart,
    /// A single-character operator.
    Operator(u8),
    /// An address in internal form.
    Address(Vec<u8>),
}

/// RFC 822 specials and what other mail systems use in addresses. The backslash is not one: it begins an atom.
fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'|' | b'%' | b'!' | b'"' | b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'.' | b'[' | b']'
    )
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Collects text while `wanted` holds, backslashes removed, blanks and line ends turned to spaces. Returns the rest,
/// which begins with the byte that ended it.
fn collect(text: &[u8], wanted: impl Fn(u8) -> bool) -> (Vec<u8>, &[u8]) {
    let mut out = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'\\', []) => return (out, tail),
            (b'\\', [escaped, tail @ ..]) => (*escaped, tail),
            (byte, _) if !wanted(*byte) => break,
            (byte, tail) => (*byte, tail),
        };
        out.push(if is_blank(byte) { b' ' } else { byte });
        rest = tail;
    }
    (out, rest)
}

/// A comment in external form, from behind its opening parenthesis; comments nest. Without its end: up to the end.
fn comment(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut level = 1;
    let mut at = 0;
    while level > 0 && at < text.len() {
        match text[at] {
            b'(' => level += 1,
            b')' => level -= 1,
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
    // A trailing backslash moves one beyond the end.
    let (inside, rest) = text.split_at(at.min(text.len()));
    let mut out = Vec::with_capacity(inside.len() + 1);
    out.push(b'(');
    out.extend_from_slice(inside);
    (out, rest)
}

/// The flat list of tokens, up to so many: what comes after them is left out.
fn scan(text: &[u8], limit: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if tokens.len() >= limit {
            break;
        }
        let token;
        (token, rest) = match *first {
            byte if is_blank(byte) => {
                rest = tail;
                continue;
            }
            b'(' => {
                let (text, rest) = comment(tail);
                (Token::Comment(text), rest)
            }
            b'[' => {
                let (text, rest) = collect(tail, |b| b != b']');
                (Token::Literal(text), rest.get(1..).unwrap_or_default())
            }
            b'"' => {
                let (text, rest) = collect(tail, |b| b != b'"');
                (Token::Quoted(text), rest.get(1..).unwrap_or_default())
            }
            byte if byte != b'\\' && is_operator(byte) => (Token::Operator(byte), tail),
            _ => {
                let (text, rest) = collect(rest, |b| !is_blank(b) && !is_operator(b));
                // What needed a backslash is written back in quotes.
                let odd = text.iter().any(|&b| b == b' ' || b.is_ascii_control() || is_operator(b));
                (if odd { Token::Quoted(text) } else { Token::Atom(text) }, rest)
            }
        };
        tokens.push(token);
    }
    tokens
}

/// What was read: tokens, and addresses that were written otherwise than we would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// [`Token::Address`] where an address was, and all other tokens (display names, comments, brackets, commas) around
    /// them.
    pub(crate) tokens: Vec<Token>,
    /// By number of the address, ascending: its external form as it was written, where that is not its quoted form.
    pub(crate) odd: Vec<(usize, Vec<u8>)>,
}

/// Gathers addresses.
pub(crate) fn parse(text: &[u8]) -> Parsed {
    parse_limited(text, usize::MAX)
}

/// Gathers the addresses in the first so many tokens.
pub(crate) fn parse_limited(text: &[u8], limit: usize) -> Parsed {
    let mut parser = Parser { done: Vec::new(), pending: Vec::new(), addresses: 0, odd: Vec::new() };
    let mut tokens = scan(text, limit);
    // A word has been seen since the last operator; a semicolon has been seen, so a colon opens a group.
    let (mut after_word, mut in_group) = (false, false);
    // The token to come already stands in `done`'s place: what ended a display name or group name.
    let mut settled = false;
    while let Some(token) = tokens.pop() {
        let was_settled = std::mem::take(&mut settled);
        match token {
            Token::Comment(_) => parser.done.push(token),
            Token::Operator(b';') => {
                parser.close(true);
                parser.done.push(token);
                (after_word, in_group) = (false, true);
            }
            Token::Operator(b':') if in_group => {
                parser.close(false);
                parser.done.push(Token::GroupStart);
                // The group's name, up to the comma before it.
                while tokens.last().is_some_and(|t| *t != Token::Operator(b',')) {
                    parser.done.extend(tokens.pop());
                }
                settled = true;
            }
            Token::Operator(b'>') => {
                parser.close(true);
                parser.done.push(token);
                while tokens.last().is_some_and(|t| *t != Token::Operator(b'<')) {
                    match tokens.pop() {
                        Some(comment @ Token::Comment(_)) => parser.done.push(comment),
                        other => parser.pending.extend(other),
                    }
                }
                parser.close(false);
                // The opening bracket and the display name before it.
                while tokens.last().is_some_and(|t| !matches!(t, Token::Operator(b'>' | b';' | b',' | b':'))) {
                    parser.done.extend(tokens.pop());
                }
                after_word = false;
                settled = true;
            }
            Token::Operator(b',') => {
                parser.close(false);
                parser.done.push(token);
                after_word = false;
            }
            Token::Operator(_) | Token::GroupStart | Token::Address(_) => {
                if was_settled {
                    parser.done.push(token);
                } else {
                    parser.pending.push(token);
                }
                after_word = false;
            }
            Token::Atom(_) | Token::Quoted(_) | Token::Literal(_) => {
                if after_word {
                    // Two words in a row: two addresses with the comma forgotten.
                    parser.close(true);
                }
                after_word = true;
                parser.pending.push(token);
            }
        }
    }
    parser.close(false);
    parser.done.reverse();
    let mut odd = parser.odd;
    odd.reverse();
    // They were counted from the right.
    odd.iter_mut().for_each(|(number, _)| *number = parser.addresses - 1 - *number);
    Parsed { tokens: parser.done, odd }
}

/// All lists are written right to left.
struct Parser {
    done: Vec<Token>,
    pending: Vec<Token>,
    addresses: usize,
    odd: Vec<(usize, Vec<u8>)>,
}

impl Parser {
    /// Makes an address of what is pending; with a comma before it if asked.
    fn close(&mut self, comma: bool) {
        if self.pending.is_empty() {
            return;
        }
        self.pending.reverse();
        let address = internal(&self.pending);
        let (written, _) = externalize(&self.pending);
        if written != *external(&address) {
            self.odd.push((self.addresses, written));
        }
        self.addresses += 1;
        self.pending.clear();
        self.done.push(Token::Address(address));
        if comma {
            self.done.push(Token::Operator(b','));
        }
    }
}

/// The tokens of one address as one text, no space between them.
fn internal(tokens: &[Token]) -> Vec<u8> {
    let mut out = Vec::new();
    for token in tokens {
        put_internal(&mut out, token);
    }
    out
}

/// An address in external form. The empty one is an empty quoted string here, as `<>` is no address in a header.
fn external(address: &[u8]) -> Cow<'_, [u8]> {
    if address.is_empty() { Cow::Borrowed(b"\"\"") } else { quoted(address) }
}

fn put_internal(out: &mut Vec<u8>, token: &Token) {
    match token {
        Token::Atom(text) | Token::Quoted(text) | Token::Comment(text) | Token::Address(text) => {
            out.extend_from_slice(text);
        }
        Token::Literal(text) => {
            out.push(b'[');
            out.extend_from_slice(text);
            out.push(b']');
        }
        Token::GroupStart => out.push(b':'),
        Token::Operator(byte) => out.push(*byte),
    }
}

/// Text in external form; `escaped` characters get a backslash.
fn put_escaped(out: &mut Vec<u8>, text: &[u8], escaped: &[u8]) {
    for &byte in text {
        if escaped.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// More text than this around one address, and it is dropped: old Sendmail versions overflowed (CERT CA-2003-07), and
/// Postfix has protected them ever since.
const MAX_TEXT_AROUND_ADDRESS: usize = 250;

/// The list in external form, a line end after each comma. The second value is true when display names or comments
/// were dropped because they were too long.
pub(crate) fn externalize(tokens: &[Token]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut stripped = false;
    let mut entry = Entry::default();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Atom(text) | Token::Comment(text) => out.extend_from_slice(text),
            Token::Quoted(text) => {
                out.push(b'"');
                put_escaped(&mut out, text, b"\"\\\r\n");
                out.push(b'"');
            }
            Token::Literal(text) => {
                out.push(b'[');
                put_escaped(&mut out, text, b"\\\r\n");
                out.push(b']');
            }
            Token::Address(text) => {
                let external = external(text);
                out.extend_from_slice(&external);
                entry.address = Some(external);
            }
            Token::GroupStart => out.push(b':'),
            Token::Operator(b',') => {
                stripped |= entry.enforce(&mut out);
                out.extend_from_slice(b",\n");
                entry = Entry { start: out.len(), ..Entry::default() };
                continue;
            }
            Token::Operator(byte) => {
                if *byte == b'<' && tokens.get(at + 1) == Some(&Token::Operator(b'>')) {
                    entry.address = Some(Cow::Borrowed(b""));
                }
                out.push(*byte);
            }
        }
        if tokens.get(at + 1).is_some_and(|next| wants_space(token, next)) {
            out.push(b' ');
        }
    }
    stripped |= entry.enforce(&mut out);
    (out, stripped)
}

/// What lies between two commas.
#[derive(Default)]
struct Entry<'t> {
    start: usize,
    address: Option<Cow<'t, [u8]>>,
}

impl Entry<'_> {
    fn enforce(&self, out: &mut Vec<u8>) -> bool {
        let Some(address) = &self.address else { return false };
        if out.len() <= address.len() + self.start + MAX_TEXT_AROUND_ADDRESS {
            return false;
        }
        out.truncate(self.start);
        out.push(b'<');
        out.extend_from_slice(address);
        out.push(b'>');
        true
    }
}

fn wants_space(token: &Token, next: &Token) -> bool {
    let is_word = |token: &Token| !matches!(token, Token::Operator(_) | Token::GroupStart);
    *token == Token::GroupStart || *next == Token::Operator(b'<') || (is_word(token) && is_word(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        parse(text.as_bytes())
            .tokens
            .iter()
            .map(|token| match token {
                Token::Address(a) => format!("A[{}]", String::from_utf8_lossy(a)),
                other => String::from_utf8_lossy(&externalize(std::slice::from_ref(other)).0).trim_end().to_owned(),
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn addresses_are_found() {
        let table = [
            ("", ""),
            ("a@b", "A[a@b]"),
            ("a@b,c@d", "A[a@b] , A[c@d]"),
            ("a@b c@d", "A[a@b] , A[c@d]"),
            ("Name N. <a@b>", "Name N . < A[a@b] >"),
            ("a (c) @b", "A[a@b] (c)"),
            ("<a (c) @b> x", "< A[a@b] (c) > , A[x]"),
            ("\"q \\\" s\"@b", "A[q \" s@b]"),
            ("a@[1.2.3.4]", "A[a@[1.2.3.4]]"),
            ("g: a, b;", "g : A[a] , A[b] ;"),
            ("g:;", "g : ;"),
            ("x, g: a, <b>; , y", "A[x] , g : A[a] , < A[b] > ; , A[y]"),
            ("a\\ b@c", "A[a b@c]"),
            ("<>", "< >"),
            ("<a@b", "A[<a@b]"),
            ("a@b>", "A[a@b] >"),
            ("..da.me.@docomo.ne.jp", "A[..da.me.@docomo.ne.jp]"),
            ("(open", "(open"),
            ("\"open", "A[open]"),
            ("a\\", "A[a]"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}

//! The text form of lookup tables: `key whitespace value` (postmap) and `name: value` (postalias).
//!
//! Reads bytes, gives pairs with their line numbers, and the warnings Postfix's postmap and postalias give for lines they
//! pass over. The same reader serves `postmap`, `texthash:` and a `hash:` table whose index is out of date.

use crate::lines::{Lines, is_blank};
use crate::set::Format;

/// One pair of a text table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key as written (not folded); quotes stay, as in Postfix.
    pub key: String,
    /// The value without blanks at its ends.
    pub value: String,
    /// First line of the pair, from 1.
    pub line: u32,
}

/// One logical line of a text table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A pair.
    Pair(Pair),
    /// Something to warn about, without the file's name: `line 7: expected format: key whitespace value`.
    /// Whether a pair follows from the same line is said by a following [`Entry::Pair`].
    Warning {
        /// The line, 0 where Postfix names none.
        line: u32,
        /// The words of Postfix.
        text: String,
    },
}

impl Entry {
    fn warning(line: u32, text: impl Into<String>) -> Self {
        Self::Warning { line, text: text.into() }
    }
}

/// Reads the text of a table; `name` is the file's name and is put before each warning as Postfix does.
pub fn read(content: &[u8], format: Format, mut each: impl FnMut(Entry)) {
    for line in Lines::new(content) {
        if line.text.first().copied().is_some_and(is_blank) {
            each(Entry::warning(0, starts_blank(&line.text)));
            continue;
        }
        let Ok(text) = std::str::from_utf8(&line.text) else {
            each(Entry::warning(
                line.first,
                format!("non-UTF-8 input \"{}\" -- ignoring this line", printable(&line.text)),
            ));
            continue;
        };
        match format {
            Format::Map => map_line(text, line.first, &mut each),
            Format::Alias => alias_line(text, line.first, &mut each),
        }
    }
}

/// The warning about a logical line that begins with blank (there is no line before it to continue).
pub(crate) fn starts_blank(line: &[u8]) -> String {
    let cut = line.get(..30).unwrap_or(line);
    let more = if line.len() > 30 { "..." } else { "" };
    format!("logical line must not start with whitespace: \"{}{more}\"", printable(cut))
}

/// As Postfix's log shows bytes that are not printable ASCII.
pub(crate) fn printable(text: &[u8]) -> String {
    text.iter().map(|&byte| if (32..127).contains(&byte) { byte as char } else { '?' }).collect()
}

fn map_line(text: &str, line: u32, each: &mut impl FnMut(Entry)) {
    let bytes = text.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => quoted = !quoted,
            _ if is_blank(byte) && !quoted => break,
            _ => {}
        }
        at += 1;
    }
    if quoted {
        each(Entry::warning(line, format!("unbalanced '\"' in '{text}' -- ignoring this line")));
        return;
    }
    // `at` stands at an ASCII blank or at (one past, after a final backslash) the end: a character boundary.
    let (key, value) = text.split_at(at.min(text.len()));
    let value = crate::lines::trim_str(value);
    if key.is_empty() || value.is_empty() {
        each(Entry::warning(line, "expected format: key whitespace value"));
        return;
    }
    if key.ends_with(':') {
        each(Entry::warning(line, "record is in \"key: value\" format; is this an alias file?"));
    }
    each(Entry::Pair(Pair { key: key.to_owned(), value: value.to_owned(), line }));
}

fn alias_line(text: &str, line: u32, each: &mut impl FnMut(Entry)) {
    let tokens = tokens(text);
    let Some(colon) = tokens.iter().position(|token| matches!(token, Token::Special(':'))) else {
        each(Entry::warning(line, "need name:value pair"));
        return;
    };
    let (key, value) = tokens.split_at(colon);
    // `value` begins with the colon `position` found.
    let value = value.get(1..).unwrap_or_default();
    let broken = key.is_empty()
        || value.is_empty()
        || key.iter().any(|token| matches!(token, Token::Special(',') | Token::Unfinished));
    if broken {
        each(Entry::warning(line, "need name:value pair"));
    } else if key.iter().any(|token| matches!(token, Token::Special('@'))) {
        each(Entry::warning(line, "name must be local"));
    } else {
        each(Entry::Pair(Pair { key: write(key, false), value: write(value, true), line }));
    }
}

/// What an RFC 822 address field is made of, as far as aliases(5) cares.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Atom(String),
    Quoted(String),
    Comment(String),
    Literal(String),
    Special(char),
    /// A quoted string that does not end.
    Unfinished,
}

fn is_special(c: char) -> bool {
    "()<>@,;:\\\".[]".contains(c)
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => match until(&mut rest, '"') {
                Some(inner) => tokens.push(Token::Quoted(inner)),
                None => tokens.push(Token::Unfinished),
            },
            '[' => match until(&mut rest, ']') {
                Some(inner) => tokens.push(Token::Literal(inner)),
                None => tokens.push(Token::Unfinished),
            },
            '(' => tokens.push(Token::Comment(comment(&mut rest))),
            c if c.is_ascii() && is_blank(c as u8) => {}
            c if is_special(c) && c != '\\' => tokens.push(Token::Special(c)),
            c => {
                let mut atom = String::new();
                let mut next = Some(c);
                while let Some(c) = next {
                    match c {
                        '\\' => atom.extend(rest.next()),
                        c => atom.push(c),
                    }
                    next = rest.next_if(|&c| c == '\\' || !(is_special(c) || c.is_ascii() && is_blank(c as u8)));
                }
                tokens.push(Token::Atom(atom));
            }
        }
    }
    tokens
}

/// The text up to `end`, without backslashes that quote; `None` when it does not end.
fn until(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, end: char) -> Option<String> {
    let mut inner = String::new();
    loop {
        match rest.next()? {
            c if c == end => return Some(inner),
            '\\' => inner.push(rest.next()?),
            c => inner.push(c),
        }
    }
}

/// The rest of a comment, with its parentheses; what does not end is ended.
fn comment(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::from("(");
    let mut depth = 1u32;
    for c in rest.by_ref() {
        text.push(c);
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text;
        }
    }
    text.extend(std::iter::repeat_n(')', depth as usize));
    text
}

/// Writes tokens as Postfix's tok822_externalize (values) or tok822_internalize (names) does.
fn write(tokens: &[Token], external: bool) -> String {
    let mut out = String::new();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Atom(text) | Token::Comment(text) => out.push_str(text),
            Token::Quoted(text) if external => {
                out.push('"');
                for c in text.chars() {
                    if matches!(c, '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out.push('"');
            }
            Token::Quoted(text) => out.push_str(text),
            Token::Literal(text) => {
                out.push('[');
                out.push_str(text);
                out.push(']');
            }
            Token::Special(',') => {
                out.push_str(", ");
                continue;
            }
            Token::Special(c) => out.push(*c),
            Token::Unfinished => {}
        }
        let operator = |token: Option<&Token>| matches!(token, None | Some(Token::Special(_) | Token::Unfinished));
        if !operator(Some(token)) && !operator(tokens.get(index + 1)) {
            out.push(' ');
        }
    }
    // A list that ends in a comma leaves its blank.
    out.truncate(out.trim_end_matches(' ').len());
    out
}

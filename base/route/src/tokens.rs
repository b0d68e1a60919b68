//! The operators of an address in external form: where they stand outside quotes, literals and comments.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of the characters that mean something in an address.
    Operator(u8),
    /// `"..."`
    Quoted,
    /// `[...]`
    Literal,
    /// Text without operators, or a comment.
    Text,
}

/// One token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: Range<usize>,
}

fn is_operator(byte: u8) -> bool {
    matches!(byte, b'|' | b'%' | b'!' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'.' | b')' | b']')
}

/// Splits an external address into tokens; blanks between them are dropped. Linear, and never fails.
pub(crate) fn tokens(address: &str) -> Vec<Token> {
    let bytes = address.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let kind = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'"' => {
                at = closing(bytes, at + 1, b'"');
                Kind::Quoted
            }
            b'[' => {
                at = closing(bytes, at + 1, b']');
                Kind::Literal
            }
            b'(' => {
                at = closing(bytes, at + 1, b')');
                Kind::Text
            }
            _ if is_operator(byte) => {
                at += 1;
                Kind::Operator(byte)
            }
            _ => {
                while let Some(&next) = bytes.get(at) {
                    match next {
                        b'\\' => at += 1,
                        b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'[' | b'(' => break,
                        _ if is_operator(next) => break,
                        _ => {}
                    }
                    at += 1;
                }
                at = at.min(bytes.len());
                Kind::Text
            }
        };
        out.push(Token { kind, at: start..at });
    }
    out
}

/// Position behind the closing character, or the end.
fn closing(bytes: &[u8], mut at: usize, close: u8) -> usize {
    while let Some(&byte) = bytes.get(at) {
        at += if byte == b'\\' { 2 } else { 1 };
        if byte == close {
            return at.min(bytes.len());
        }
    }
    bytes.len()
}

/// Position of the first operator of this kind.
pub(crate) fn first(tokens: &[Token], operator: u8) -> Option<usize> {
    tokens.iter().find(|t| t.kind == Kind::Operator(operator)).map(|t| t.at.start)
}

/// Position of the last operator of this kind.
pub(crate) fn last(tokens: &[Token], operator: u8) -> Option<usize> {
    tokens.iter().rfind(|t| t.kind == Kind::Operator(operator)).map(|t| t.at.start)
}

/// The address without a trailing dot, if it has one that may go: behind a domain, not after `@` or another dot. It
/// only makes diagnostics better to leave the broken forms alone.
pub(crate) fn without_trailing_dot(address: &str, tokens: &[Token]) -> Option<usize> {
    let [.., before, dot] = tokens else { return None };
    let goes = dot.kind == Kind::Operator(b'.')
        && !matches!(before.kind, Kind::Operator(b'.' | b'@'))
        && last(tokens, b'@').is_some();
    (goes && dot.at.end <= address.len()).then_some(dot.at.start)
}

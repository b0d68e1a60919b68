//! The right-hand side of a pattern rule: text with `$1`, `${1}`, `$(1)` and `$$`.

use super::rules::{Group, Warning};

enum Part {
    Text(String),
    Group(usize),
}

/// A right-hand side, understood.
pub(crate) struct Replacement {
    parts: Vec<Part>,
    highest: usize,
}

impl Replacement {
    /// Reads a right-hand side. `None`: it is wrong, and the reason has been told.
    pub fn read(text: &str, warn: &mut dyn FnMut(Warning)) -> Option<Self> {
        let new = Self::parse(text, warn);
        if new.is_none() {
            warn(Warning::Placed("bad replacement syntax: skipping this rule".into()));
        }
        new
    }

    /// A right-hand side without `$`.
    pub fn literal(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.to_owned())], highest: 0 }
    }

    fn parse(text: &str, warn: &mut dyn FnMut(Warning)) -> Option<Self> {
        let mut new = Self { parts: Vec::new(), highest: 0 };
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let name;
            if let Some(open @ ('{' | '(')) = rest.chars().next() {
                let Some(end) = closing(rest, open) else {
                    warn(Warning::Bare(format!("truncated macro reference: \"{text}\"")));
                    return None;
                };
                name = &rest[1..end];
                rest = &rest[end + 1..];
            } else {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                (name, rest) = rest.split_at(end);
            }
            if name.is_empty() {
                warn(Warning::Bare(format!("empty macro name: \"{text}\"")));
                return None;
            }
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                warn(Warning::Placed(format!("non-numeric replacement index \"{name}\"")));
                return None;
            }
            let Some(index) = name.parse::<usize>().ok().filter(|index| (1..=1000).contains(index)) else {
                warn(Warning::Placed(format!("out of range replacement index \"{name}\"")));
                return None;
            };
            if !literal.is_empty() {
                new.parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            new.parts.push(Part::Group(index));
            new.highest = new.highest.max(index);
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            new.parts.push(Part::Text(literal));
        }
        Some(new)
    }

    /// It has `$n`.
    pub fn wants_groups(&self) -> bool {
        self.highest > 0
    }

    /// The highest `$n`, 0 without any.
    pub fn highest(&self) -> usize {
        self.highest
    }

    /// The value for a match; a group that took no part is empty. A group may cut a character: patterns match bytes.
    pub fn expand(&self, key: &[u8], groups: &[Group]) -> Vec<u8> {
        let mut value = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.extend_from_slice(text.as_bytes()),
                Part::Group(index) => {
                    if let Some((start, end)) = groups.get(*index).copied().flatten() {
                        value.extend_from_slice(key.get(start..end).unwrap_or_default());
                    }
                }
            }
        }
        value
    }

    /// As it was written, but for `$$`.
    pub fn text(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Group(index) => format!("${{{index}}}"),
        };
        self.parts.iter().map(part).collect()
    }
}

/// Where the bracket that opens at the start of `text` closes.
fn closing(text: &str, open: char) -> Option<usize> {
    let close = if open == '{' { '}' } else { ')' };
    let mut level = 0usize;
    for (at, c) in text.char_indices() {
        if c == open {
            level += 1;
        } else if c == close {
            level -= 1;
            if level == 0 {
                return Some(at);
            }
        }
    }
    None
}

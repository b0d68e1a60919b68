//! Header fields in memory: where they begin and end, by Postfix's rules (`is_header`, `mime_state`).

use std::borrow::Cow;

use crate::FieldName;

/// Length of the field name that `line` begins with, or `None` when it is no header line: a name of printable ASCII
/// without blanks, perhaps blanks (RFC 5322 section 4.5, obsolete), a colon.
pub fn field_name_len(line: &[u8]) -> Option<usize> {
    let end = line.iter().position(|b| !matches!(b, b'!'..=b'9' | b';'..=b'~'))?;
    let colon = end + line[end..].iter().position(|b| !is_blank(*b))?;
    (end > 0 && line[colon] == b':').then_some(end)
}

pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// One header field: its first line and its continuation lines, as they stand in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'m> {
    raw: &'m [u8],
    name_len: usize,
    value_at: usize,
}

impl<'m> Field<'m> {
    /// The field that `raw` is; `None` when it does not begin with a name and a colon. A line end at the end is not
    /// part of it.
    pub fn parse(raw: &'m [u8]) -> Option<Self> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let name_len = field_name_len(raw)?;
        // The name is followed by blanks and a colon: `field_name_len` has seen it.
        let value_at = name_len + memchr::memchr(b':', &raw[name_len..])? + 1;
        Some(Self { raw, name_len, value_at })
    }
    /// All of it, lines separated by LF, without the last line end.
    pub fn raw(&self) -> &'m [u8] {
        self.raw
    }
    /// The name as written.
    pub fn name(&self) -> &'m [u8] {
        &self.raw[..self.name_len]
    }
    /// What follows the colon: the leading blank and all folding still in it.
    pub fn value(&self) -> &'m [u8] {
        &self.raw[self.value_at..]
    }
    /// The value on one line, without blanks at either end.
    pub fn unfolded(&self) -> Cow<'m, [u8]> {
        unfold(self.value())
    }
    /// The name, if it is one that we know.
    pub fn known(&self) -> Option<FieldName> {
        FieldName::find(self.name())
    }
    /// True for this name, in any case of letters.
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }
    /// True when blanks stand between name and colon: Postfix writes such a field without them.
    pub fn has_obsolete_blank(&self) -> bool {
        self.value_at > self.name_len + 1
    }
}

/// Removes the line ends of a folded value, and blanks at both ends (RFC 5322 section 2.2.3). Blanks after a line end
/// stay.
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.trim_ascii();
    if memchr::memchr(b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|b| !matches!(b, b'\n' | b'\r')).collect())
}

/// How the headers of a message end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// An empty line, as it should be.
    EmptyLine,
    /// A line that is no header: the body begins there. Postfix inserts the empty line.
    Missing,
    /// The message ends.
    End,
}

/// The headers of a message, found in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'m> {
    headers: &'m [u8],
    body_at: usize,
    separator: Separator,
}

impl<'m> Fields<'m> {
    /// Finds the end of the headers at the beginning of `message`.
    pub fn of(message: &'m [u8]) -> Self {
        let mut at = 0;
        loop {
            let line_end = memchr::memchr(b'\n', &message[at..]).map_or(message.len(), |n| at + n + 1);
            let line = &message[at..line_end];
            let continued = at > 0 && line.first().is_some_and(|b| is_blank(*b));
            if line.is_empty() {
                return Self { headers: message, body_at: at, separator: Separator::End };
            }
            if line == b"\n" {
                return Self { headers: &message[..at], body_at: line_end, separator: Separator::EmptyLine };
            }
            if !continued && field_name_len(line).is_none() {
                return Self { headers: &message[..at], body_at: at, separator: Separator::Missing };
            }
            at = line_end;
        }
    }
    /// All header lines with their line ends, without the empty line after them.
    pub fn bytes(&self) -> &'m [u8] {
        self.headers
    }
    /// Where the body begins in the message.
    pub fn body_at(&self) -> usize {
        self.body_at
    }
    /// What is between headers and body.
    pub fn separator(&self) -> Separator {
        self.separator
    }
    /// The fields in their order.
    pub fn iter(&self) -> FieldIter<'m> {
        FieldIter { rest: self.headers }
    }
    /// The first field of this name, in any case of letters.
    pub fn get(&self, name: &str) -> Option<Field<'m>> {
        self.iter().find(|field| field.is(name))
    }
}

impl<'m> IntoIterator for &Fields<'m> {
    type Item = Field<'m>;
    type IntoIter = FieldIter<'m>;
    fn into_iter(self) -> FieldIter<'m> {
        self.iter()
    }
}

/// Iterates over the fields of a header block.
#[derive(Clone, Debug)]
pub struct FieldIter<'m> {
    rest: &'m [u8],
}

impl<'m> Iterator for FieldIter<'m> {
    type Item = Field<'m>;

    fn next(&mut self) -> Option<Field<'m>> {
        if self.rest.is_empty() {
            return None;
        }
        let mut end = 0;
        loop {
            match memchr::memchr(b'\n', &self.rest[end..]) {
                None => end = self.rest.len(),
                Some(n) => end += n + 1,
            }
            if !self.rest.get(end).is_some_and(|b| is_blank(*b)) {
                break;
            }
        }
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        // `Fields::of` let nothing else through.
        Field::parse(raw)
    }
}

/// The header lines at the beginning of `message`, line ends included, the empty line not: what `RET=HDRS` returns.
pub fn header_block(message: &[u8]) -> &[u8] {
    Fields::of(message).bytes()
}

/// How many `Received:` fields there are: hops so far (`hopcount_limit`).
pub fn count_received(fields: &Fields<'_>) -> usize {
    fields.iter().filter(|field| field.is("Received")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_header_line() {
        for (line, answer) in [
            ("Subject: x", Some(7)),
            ("Subject : x", Some(7)),
            ("X-Empty:", Some(7)),
            ("a!#$%:", Some(5)),
            ("Subject x: y", None),
            (": x", None),
            (" a: b", None),
            ("Sübject: x", None),
            ("no colon", None),
            ("", None),
            ("a\u{7f}:", None),
            ("tab\t :", Some(3)),
        ] {
            assert_eq!(field_name_len(line.as_bytes()), answer, "{line}");
        }
    }

    #[test]
    fn fields_of_messages() {
        type Expected = (&'static str, &'static [(&'static str, &'static str)], Separator, &'static str);
        let table: &[Expected] = &[
            ("", &[], Separator::End, ""),
            ("\n", &[], Separator::EmptyLine, ""),
            ("A: b", &[("A", "b")], Separator::End, ""),
            ("A: b\n c\nB :\n\nbody", &[("A", "b c"), ("B", "")], Separator::EmptyLine, "body"),
            ("A: b\nbody: \nbody\n", &[("A", "b"), ("body", "")], Separator::Missing, "body\n"),
            (" leading\nA: b\n\n", &[], Separator::Missing, " leading\nA: b\n\n"),
            ("A: \n \n\tx\n\nbody\n\n", &[("A", "x")], Separator::EmptyLine, "body\n\n"),
        ];
        for (message, fields, separator, body) in table {
            let found = Fields::of(message.as_bytes());
            let list: Vec<_> = found
                .iter()
                .map(|f| (String::from_utf8_lossy(f.name()).into_owned(), f.unfolded().into_owned()))
                .collect();
            let expected: Vec<_> = fields.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
            assert_eq!(list, expected, "{message:?}");
            assert_eq!(found.separator(), *separator, "{message:?}");
            assert_eq!(&message[found.body_at()..], *body, "{message:?}");
        }
    }

    #[test]
    fn nothing_is_lost() {
        let message = b"Received: a\n\tb\nreceived : c\nX: \xff\n\nbody";
        let fields = Fields::of(message);
        let again: Vec<u8> = fields.iter().flat_map(|f| [f.raw(), b"\n"].concat()).collect();
        assert_eq!(again, header_block(message));
        assert_eq!(count_received(&fields), 2);
        assert!(fields.iter().nth(1).unwrap().has_obsolete_blank());
        assert_eq!(fields.get("x").unwrap().value(), b" \xff");
    }
}

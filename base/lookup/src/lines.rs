//! Logical lines of Postfix's text files: a line that begins with blank continues the one before; empty lines and lines
//! whose first non-blank is `#` vanish and do not end a logical line.

/// One logical line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The text, without line ends; continuation lines keep their leading blanks.
    pub text: Vec<u8>,
    /// Number of its first physical line, from 1.
    pub first: u32,
    /// Number of its last physical line.
    pub last: u32,
}

/// Reads logical lines from the bytes of a file.
pub(crate) struct Lines<'a> {
    /// What has not been read; `None` at the end.
    rest: Option<&'a [u8]>,
    /// Number of the physical line that `rest` begins with.
    number: u32,
}

/// C's isspace, which is what Postfix means by whitespace.
pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Without blanks at both ends.
pub(crate) fn trim_str(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii() && is_blank(c as u8))
}

impl<'a> Lines<'a> {
    pub fn new(content: &'a [u8]) -> Self {
        Self { rest: Some(content), number: 1 }
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let mut line: Option<Line> = None;
        while let Some(rest) = self.rest {
            let (physical, after) = match memchr::memchr(b'\n', rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..)),
                None => (rest, None),
            };
            let first = physical.iter().copied().find(|&byte| !is_blank(byte));
            if !matches!(first, None | Some(b'#')) {
                let continues = physical.first().copied().is_some_and(is_blank);
                match &mut line {
                    None => line = Some(Line { text: physical.to_vec(), first: self.number, last: self.number }),
                    Some(line) if continues => {
                        line.text.extend_from_slice(physical);
                        line.last = self.number;
                    }
                    Some(_) => return line,
                }
            }
            self.rest = after;
            self.number = self.number.saturating_add(1);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u32, String)> {
        Lines::new(text.as_bytes()).map(|line| (line.first, String::from_utf8(line.text).unwrap())).collect()
    }

    #[test]
    fn logical_lines() {
        let cases: &[(&str, &[(u32, &str)])] = &[
            ("", &[]),
            ("\n\n", &[]),
            ("a b", &[(1, "a b")]),
            ("a\n b\nc\n", &[(1, "a b"), (3, "c")]),
            ("# c\na\n # comment in between\n\n  b\n", &[(2, "a  b")]),
            ("  a\nb", &[(1, "  a"), (2, "b")]),
            ("a\r\nb\n", &[(1, "a\r"), (2, "b")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<(u32, String)> = expected.iter().map(|(n, t)| (*n, t.to_string())).collect();
            assert_eq!(read(text), expected, "{text:?}");
        }
    }
}

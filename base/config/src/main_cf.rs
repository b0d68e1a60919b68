//! The grammar of main.cf: logical lines `name = value`, with the place of each.
//!
//! A line that begins with white space continues the logical line before it, across comments and blank lines too. There
//! are no comments behind a value. Of two entries for one name the last one counts.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Where something was written: file name as given, and the line where its logical line begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file's name as the reader was told.
    pub file: Arc<str>,
    /// Line, counted from 1.
    pub line: u32,
}

impl Place {
    /// A place in a file.
    pub fn new(file: &Arc<str>, line: u32) -> Place {
        Place { file: Arc::clone(file), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)
    }
}

/// One logical line: the text with its line ends taken out, and where it begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalLine<'a> {
    /// Line number of the first physical line, from 1.
    pub first: u32,
    /// Line number of the last physical line that belongs to it.
    pub last: u32,
    /// The text.
    pub text: std::borrow::Cow<'a, str>,
}

/// Splits a file into logical lines. A continuation with nothing to continue is returned as a line that begins with white space.
pub fn logical_lines(text: &str) -> Vec<LogicalLine<'_>> {
    let mut lines: Vec<LogicalLine<'_>> = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let content = line.trim_start_matches(is_blank);
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(open) if content.len() < line.len() => {
                open.text.to_mut().push_str(line);
                open.last = number;
            }
            _ => lines.push(LogicalLine { first: number, last: number, text: line.into() }),
        }
    }
    lines
}

/// White space as C's isspace has it.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\x0b' | '\x0c')
}

/// An entry of main.cf as written: nothing is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The parameter's name.
    pub name: String,
    /// The value with blanks at both ends removed.
    pub value: String,
    /// Where it is written.
    pub place: Place,
}

/// A fault of a file: what and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Where; `None` when no file is to blame.
    pub place: Option<Place>,
    /// What, in Postfix's words where it has words for it.
    pub text: String,
}

impl Fault {
    /// A fault at a place.
    pub fn at(place: &Place, text: impl Into<String>) -> Fault {
        Fault { place: Some(place.clone()), text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// main.cf as written.
#[derive(Debug, Clone, Default)]
pub struct MainCf {
    entries: Vec<Entry>,
    /// For each name the index of the entry that counts.
    last: HashMap<String, usize>,
    /// Remarks of the reader: overridden entries, lines that begin with white space.
    pub remarks: Vec<Fault>,
}

impl MainCf {
    /// Reads the text of a main.cf.
    ///
    /// # Errors
    /// A line without `=` or without a name, in Postfix's words.
    pub fn parse(file: &str, text: &str) -> Result<MainCf, Fault> {
        let file: Arc<str> = file.into();
        let mut main = MainCf::default();
        for line in logical_lines(text) {
            let place = Place::new(&file, line.first);
            if line.text.starts_with(is_blank) {
                let shown: String = line.text.chars().take(30).collect();
                main.remarks.push(Fault {
                    place: Some(place),
                    text: format!("logical line must not start with whitespace: \"{shown}\""),
                });
                continue;
            }
            let (name, value) = split_name_value(&line.text).map_err(|text| Fault::at(&place, text))?;
            main.set(Entry { name: name.to_string(), value: value.to_string(), place });
        }
        Ok(main)
    }

    /// Adds an entry, which counts from now on.
    pub fn set(&mut self, entry: Entry) {
        if let Some(earlier) = self.get(&entry.name) {
            let text = format!("overriding earlier entry: {}={}", earlier.name, earlier.value);
            self.remarks.push(Fault::at(&entry.place, text));
        }
        self.last.insert(entry.name.clone(), self.entries.len());
        self.entries.push(entry);
    }

    /// Sets a value over what the file says, without a remark: settings of a command line.
    pub fn set_over(&mut self, name: &str, value: &str, place: Place) {
        self.last.insert(name.to_string(), self.entries.len());
        self.entries.push(Entry { name: name.to_string(), value: value.to_string(), place });
    }

    /// The entry that counts for `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.last.get(name).and_then(|index| self.entries.get(*index))
    }

    /// The entries that count, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(index, entry)| self.last.get(&entry.name) == Some(index))
            .map(|(_, e)| e)
    }
}

/// `name = value`, blanks around both removed.
///
/// # Errors
/// Postfix's texts (split_nameval).
pub fn split_name_value(text: &str) -> Result<(&str, &str), String> {
    let trimmed = text.trim_start_matches(is_blank);
    let name_end = trimmed.find(|c: char| is_blank(c) || c == '=').unwrap_or(trimmed.len());
    let (name, rest) = trimmed.split_at(name_end);
    if name.is_empty() {
        return Err(format!("missing attribute name: \"{text}\""));
    }
    match rest.trim_start_matches(is_blank).strip_prefix('=') {
        Some(value) => Ok((name, value.trim_matches(is_blank))),
        None => Err(format!("missing '=' after attribute name: \"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String, u32)> {
        let main = MainCf::parse("main.cf", text).unwrap();
        main.entries().map(|e| (e.name.clone(), e.value.clone(), e.place.line)).collect()
    }

    #[test]
    fn lines() {
        for (text, expected) in [
            ("a = b # c\n", &[("a", "b # c", 1)][..]),
            ("a=b", &[("a", "b", 1)]),
            ("a\t=  b  \r\n", &[("a", "b", 1)]),
            ("#x\n\n  # y\na =\n", &[("a", "", 4)]),
            ("a = x\n# c\n\n  y\nb = 1", &[("a", "x  y", 1), ("b", "1", 5)]),
            ("a = 1\nb = 2\na = 3\n", &[("b", "2", 2), ("a", "3", 3)]),
            ("a = b = c\n", &[("a", "b = c", 1)]),
            ("a =\n b\n   #no\n\tc", &[("a", "b\tc", 1)]),
        ] {
            let read = read(text);
            let read: Vec<(&str, &str, u32)> = read.iter().map(|(n, v, l)| (n.as_str(), v.as_str(), *l)).collect();
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn faults() {
        for (text, expected) in [
            ("x = 1\nrel\n", "main.cf, line 2: missing '=' after attribute name: \"rel\""),
            ("= b\n", "main.cf, line 1: missing attribute name: \"= b\""),
            ("my x = 3\n", "main.cf, line 1: missing '=' after attribute name: \"my x = 3\""),
        ] {
            assert_eq!(MainCf::parse("main.cf", text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn remarks() {
        let main = MainCf::parse("/etc/main.cf", "  foo = bar\na = 1\na = 2\n").unwrap();
        let remarks: Vec<String> = main.remarks.iter().map(Fault::to_string).collect();
        assert_eq!(
            remarks,
            [
                "/etc/main.cf, line 1: logical line must not start with whitespace: \"  foo = bar\"",
                "/etc/main.cf, line 3: overriding earlier entry: a=1"
            ]
        );
        assert!(main.get("foo").is_none());
    }
}

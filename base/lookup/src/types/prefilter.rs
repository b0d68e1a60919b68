//! Which rules of a pattern table can match at all: one pass over the key for all of them together.
//!
//! Patterns are matched by the engines Postfix uses, one after the other, and most match nothing. So each pattern that
//! can be said in the language of an automaton for many patterns is said in it, in a way that matches wherever the
//! original does. Only candidates are then given to their own engine, which alone decides. A pattern that cannot be
//! translated for certain is always a candidate.

use regex::bytes::{RegexSet, RegexSetBuilder, SetMatches};

/// With fewer patterns than this the pass costs more than it saves.
const WORTHWHILE: usize = 4;
/// With more patterns than this a key that many of them match would cost more than it saves.
const PATTERNS: usize = 2000;
/// Bytes of a pattern that is worth the translation.
const PATTERN_LENGTH: usize = 2048;
/// Bytes of compiled automaton, and of states made on the way: beyond it there is no prefilter.
const SIZE_LIMIT: usize = 16 << 20;
const CACHE_LIMIT: usize = 4 << 20;

/// One automaton for the patterns of a table.
pub(crate) struct Prefilter {
    set: Option<RegexSet>,
    /// Place in the set of each rule's pattern.
    places: Vec<Option<usize>>,
}

/// The rules that may match a key.
pub(crate) struct Candidates<'a> {
    matches: Option<SetMatches>,
    places: &'a [Option<usize>],
}

impl Prefilter {
    /// Of the approximations of each rule's pattern, in order.
    pub fn new<'a>(patterns: impl Iterator<Item = Option<&'a str>>) -> Self {
        let mut texts = Vec::new();
        let places = patterns
            .map(|pattern| {
                texts.push(pattern?);
                Some(texts.len() - 1)
            })
            .collect();
        let set = (WORTHWHILE..=PATTERNS)
            .contains(&texts.len())
            .then(|| RegexSetBuilder::new(&texts).size_limit(SIZE_LIMIT).dfa_size_limit(CACHE_LIMIT).build().ok())
            .flatten();
        Self { set, places }
    }

    /// The rules that may match `key`. A null byte or a line end last makes engines differ: then all may.
    pub fn candidates(&self, key: &[u8]) -> Candidates<'_> {
        let plain = key.last() != Some(&b'\n') && memchr::memchr(0, key).is_none();
        let matches = self.set.as_ref().filter(|_| plain).map(|set| set.matches(key));
        Candidates { matches, places: &self.places }
    }
}

impl Candidates<'_> {
    /// The pattern of rule `index` may match.
    pub fn has(&self, index: usize) -> bool {
        match (&self.matches, self.places.get(index)) {
            (Some(matches), Some(Some(place))) => matches.matched(*place),
            _ => true,
        }
    }
}

/// A POSIX extended regular expression as glibc reads it in the C locale. `None`: no certain translation.
pub(crate) fn from_posix(text: &str, ignore_case: bool) -> Option<String> {
    Translator::new(text, Dialect::Posix).run(ignore_case, true)
}

/// A Perl-compatible regular expression, without options that change its syntax. `None`: no certain translation.
pub(crate) fn from_perl(text: &str, ignore_case: bool, dot_all: bool) -> Option<String> {
    Translator::new(text, Dialect::Perl).run(ignore_case, dot_all)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Posix,
    Perl,
}

struct Translator<'t> {
    length: usize,
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    dialect: Dialect,
    out: String,
}

impl<'t> Translator<'t> {
    fn new(text: &'t str, dialect: Dialect) -> Self {
        Self { length: text.len(), rest: text.chars().peekable(), dialect, out: String::new() }
    }

    fn run(mut self, ignore_case: bool, dot_all: bool) -> Option<String> {
        if self.length > PATTERN_LENGTH {
            return None;
        }
        let case = if ignore_case { "i" } else { "" };
        let dot = if dot_all { "s" } else { "" };
        self.out.push_str(&format!("(?{case}{dot}-u)"));
        let mut quantified = false;
        while let Some(c) = self.rest.next() {
            let quantifier = matches!(c, '*' | '+' | '?' | '{');
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '^' => self.out.push_str("\\A"),
                '$' => self.out.push_str("\\z"),
                '(' => self.group()?,
                // To POSIX the second of two quantifiers applies to the first; to Perl it changes its manner.
                '*' | '+' | '?' if quantified => match (self.dialect, c) {
                    (Dialect::Perl, '?') => self.out.push('?'),
                    _ => return None,
                },
                '*' | '+' | '?' | ')' | '|' | '.' => self.out.push(c),
                '{' if quantified => return None,
                '{' => self.interval()?,
                c => self.literal(c),
            }
            quantified = quantifier;
        }
        // What the engine took and the parser here refuses means something else in the two languages.
        regex_syntax::ParserBuilder::new().utf8(false).build().parse(&self.out).ok()?;
        Some(self.out)
    }

    fn literal(&mut self, c: char) {
        if c.is_ascii() {
            let mut text = [0; 4];
            self.out.push_str(&regex_syntax::escape(c.encode_utf8(&mut text)));
        } else {
            // Both engines see bytes.
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                self.out.push_str(&format!("\\x{byte:02X}"));
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let c = self.rest.next()?;
        match (self.dialect, c) {
            (_, 'w' | 'W' | 's' | 'S' | 'b' | 'B') => self.out.extend(['\\', c]),
            (Dialect::Posix, '<' | '>') => self.out.extend(['\\', c]),
            (Dialect::Posix, '`') => self.out.push_str("\\A"),
            (Dialect::Posix, '\'') => self.out.push_str("\\z"),
            (Dialect::Perl, 'd' | 'D' | 't' | 'n' | 'r' | 'f' | 'A' | 'z') => self.out.extend(['\\', c]),
            (Dialect::Perl, 'Z') => self.out.push_str("\\z"),
            (_, c) if c.is_ascii_punctuation() => self.literal(c),
            _ => return None,
        }
        Some(())
    }

    fn group(&mut self) -> Option<()> {
        self.out.push('(');
        match (self.rest.peek(), self.dialect) {
            (Some('?'), Dialect::Perl) => {
                self.rest.next();
                self.rest.next_if_eq(&':')?;
                self.out.push_str("?:");
            }
            (Some('?' | '*' | '+'), _) => return None,
            _ => {}
        }
        Some(())
    }

    /// What follows `{`, where it is a plain count.
    fn interval(&mut self) -> Option<()> {
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                '}' => break,
                c @ ('0'..='9' | ',') if text.len() < 8 => text.push(c),
                _ => return None,
            }
        }
        let (from, to) = text.split_once(',').unwrap_or((&text, "0"));
        let count = |text: &str| text.parse::<u32>().is_ok_and(|count| count <= 255);
        if !count(from) || !(to.is_empty() || count(to)) {
            return None;
        }
        self.out.push_str(&format!("{{{text}}}"));
        Some(())
    }

    /// A bracket expression. The automaton's own language has more special characters in it, so all are escaped.
    fn class(&mut self) -> Option<()> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let c = self.rest.next()?;
            match c {
                ']' if !first => break,
                '[' if matches!(self.rest.peek(), Some(':')) => self.named_class()?,
                '[' if matches!(self.rest.peek(), Some('.' | '=')) => return None,
                '\\' if self.dialect == Dialect::Perl => {
                    let c = self.rest.next()?;
                    match c {
                        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 't' | 'n' | 'r' | 'f' => self.out.extend(['\\', c]),
                        c if c.is_ascii_punctuation() => self.out.extend(['\\', c]),
                        _ => return None,
                    }
                    // An escape that begins a range is rare enough.
                    if self.rest.peek() == Some(&'-') {
                        self.rest.next();
                        if self.rest.peek() != Some(&']') {
                            return None;
                        }
                        self.out.push_str("\\-");
                    }
                }
                c => self.class_item(c)?,
            }
            first = false;
        }
        self.out.push(']');
        Some(())
    }

    /// A character in brackets, or the range that it begins.
    fn class_item(&mut self, c: char) -> Option<()> {
        self.class_literal(c);
        if self.rest.peek() == Some(&'-') {
            let mut ahead = self.rest.clone();
            ahead.next();
            match ahead.next()? {
                ']' => {}
                '\\' | '[' => return None,
                end if c.is_ascii() && end.is_ascii() => {
                    self.rest = ahead;
                    self.out.push('-');
                    self.class_literal(end);
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn class_literal(&mut self, c: char) {
        if c.is_ascii_punctuation() {
            self.out.push('\\');
            self.out.push(c);
        } else if c.is_ascii() {
            self.out.push(c);
        } else {
            self.literal(c);
        }
    }

    fn named_class(&mut self) -> Option<()> {
        let mut name = String::new();
        self.rest.next();
        loop {
            match self.rest.next()? {
                ':' => break,
                c if c.is_ascii_lowercase() && name.len() < 8 => name.push(c),
                _ => return None,
            }
        }
        self.rest.next_if_eq(&']')?;
        let known = [
            "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit",
        ];
        if !known.contains(&name.as_str()) {
            return None;
        }
        self.out.push_str(&format!("[:{name}:]"));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::bytes::Regex;
    use yamabiko_sys::regex::{Flags, Regex as Posix};

    /// Patterns as people write them, and such as are written differently in the two languages.
    const WRITTEN: &[&str] = &[
        r"^Subject: .*make money",
        r"^From:.*<#.*@.*>",
        r#"name="?.*\.(scr|exe|pif)"?"#,
        r"[\.]",
        r"[]x]+$",
        r"[^]x]",
        r"[a&&b]",
        r"[a--z]",
        r"[[]",
        r"[x[]",
        r"[~~]",
        r"^Received: (from|by) [[:alnum:].-]+",
        r"a{2,3}b",
        r"a{2}",
        r"(ab|cd)*e",
        r"\$[0-9]+",
        r"x\.y",
        r"^$",
        r"v[i1]agra|c[i1]al[i1]s",
        r"[0-9]{3}-[0-9]{4}",
        "件名",
        "[山彦]",
        r"\bword\b",
        r"\<word\>",
        r"a+?b",
        r"a*?b",
        r"a??b",
        r"(a)\1",
        r"#",
        r"x y",
        r"[a-]",
        r"[-a]",
        r"[+--]",
        r"a.c",
        r"()",
        r"(^a|b$)",
        r"a|",
        r"[\d]",
        r"\d{2}",
        r"(?i)x",
        r"(?:ab)+",
        r"a++b",
        r"[^\x00-\x7f]",
        r"\x41",
        r"\Qa.b\E",
    ];
    const KEYS: &[&str] = &[
        "",
        "a",
        "aa",
        "aab",
        "aaab",
        "b",
        "ab",
        "cab",
        "abe",
        "cde",
        "e",
        "Subject: make money fast",
        "\\",
        ".",
        "]",
        "x",
        "]x",
        "[",
        "x[",
        "&",
        "a&&b",
        "-",
        "a--z",
        "~",
        "From: <#a@b>",
        "Content-Type: x; name=\"run.exe\"",
        "a\nc",
        "a.c",
        "Received: from mail.example.com by x",
        "$100",
        "x.y",
        "xzy",
        "V1AGRA",
        "555-1234",
        "Subject: 件名",
        "山",
        "彦",
        "a word here",
        "sword",
        "#",
        "x y",
        "+",
        ",",
        "d",
        "5",
        "55",
        "A",
        "a.b",
        "\t",
        "abab",
        "é",
        "X",
    ];

    /// Wherever the engine matches, the translation does.
    #[test]
    fn never_misses_what_the_engine_finds() {
        let mut translated = 0;
        for pattern in WRITTEN {
            for ignore_case in [true, false] {
                let flags = Flags { extended: true, ignore_case, newline: false, groups: false };
                if let (Ok(engine), Some(text)) = (Posix::new(pattern, flags), from_posix(pattern, ignore_case)) {
                    translated += 1;
                    let filter = Regex::new(&text).unwrap();
                    for key in KEYS.iter().filter(|key| engine.is_match(key.as_bytes()).unwrap()) {
                        assert!(filter.is_match(key.as_bytes()), "regexp /{pattern}/ as {text} misses {key:?}");
                    }
                }
                let mut builder = pcre2::bytes::RegexBuilder::new();
                let engine = builder.caseless(ignore_case).dotall(true).build(pattern);
                if let (Ok(engine), Some(text)) = (engine, from_perl(pattern, ignore_case, true)) {
                    translated += 1;
                    let filter = Regex::new(&text).unwrap();
                    for key in KEYS.iter().filter(|key| engine.is_match(key.as_bytes()).unwrap()) {
                        assert!(filter.is_match(key.as_bytes()), "pcre /{pattern}/ as {text} misses {key:?}");
                    }
                }
            }
        }
        // Most are translated: a prefilter that gives everything up would pass too.
        assert!(translated > 120, "{translated}");
    }

    #[test]
    fn says_nothing_where_the_languages_differ() {
        for pattern in [r"a+?b", r"a**", r"(?=a)", r"(a)\1", r"[[.a.]]", r"[[=a=]]", r"a{,3}", r"(*a)"] {
            assert_eq!(from_posix(pattern, true), None, "{pattern}");
        }
        for pattern in [r"a++b", r"(?=a)", r"(?i)a", r"(a)\1", r"\Qa\E", r"[\x41]", r"a{,3}", r"\h"] {
            assert_eq!(from_perl(pattern, true, true), None, "{pattern}");
        }
    }

    #[test]
    fn candidates() {
        let patterns = ["^a", "b", "c$", "d"].map(|text| from_posix(text, true));
        let with_unknown = patterns.iter().map(Option::as_deref).chain([None]);
        let filter = Prefilter::new(with_unknown);
        let seen = |key: &[u8]| {
            let candidates = filter.candidates(key);
            (0..5).map(|index| candidates.has(index)).collect::<Vec<_>>()
        };
        assert_eq!(seen(b"xb"), [false, true, false, false, true]);
        assert_eq!(seen(b"A c"), [true, false, true, false, true]);
        assert_eq!(seen(b"x\n"), [true; 5]);
        assert_eq!(seen(b"x\0"), [true; 5]);
    }
}

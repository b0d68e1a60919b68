//! Expansion of `$name` in parameter values, the language of postconf(5).
//!
//! * `$name`, `${name}`, `$(name)`: the value of a parameter, itself expanded; an unknown name is empty. `$$` is one dollar.
//! * `${name?text}`, `${name:text}`, `${name?{a}:{b}}`: by whether the (unexpanded) value is empty.
//! * `${domain_to_ascii{text}}`, `${domain_to_utf8{text}}`: a domain name converted.
//! * `${{x} == {y} ? {a} : {b}}`: by comparison, numeric when both sides are numbers; `<level` and its kin compare
//!   compatibility levels.
//!
//! Guarantees: every text ends in a value or in an [`ExpandError`]; a name that needs itself is an error; nesting,
//! number of steps and length of the result are bounded, so that no file can make expansion slow or large.

use std::cmp::Ordering;
use std::fmt;

/// Nesting of references allowed: Postfix's limit is 100 calls.
const NESTING_MAX: usize = 100;
/// Longest result in bytes.
const LENGTH_MAX: usize = 4 * 1024 * 1024;
/// References followed for one value.
const STEPS_MAX: usize = 100_000;

/// Why a value cannot be expanded. The text is what Postfix says where it has a text for the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandError {
    text: String,
}

impl ExpandError {
    fn new(text: impl Into<String>) -> ExpandError {
        ExpandError { text: text.into() }
    }

    /// `...seen>>>rest`: the place of the error, as Postfix marks it.
    fn at(what: &str, whole: &str, position: usize) -> ExpandError {
        let seen = whole.get(..position).unwrap_or(whole);
        let rest = whole.get(position..).unwrap_or("");
        let before: String = seen
            .chars()
            .rev()
            .take(20)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<String>()
            .trim_end()
            .to_string();
        let after: String = rest.chars().take(20).collect();
        ExpandError::new(format!("{what} at: \"...{before}>>>{after}\""))
    }
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ExpandError {}

/// Expands `text`; `lookup` gives the unexpanded value of a name, or `None` when there is no such parameter.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    if !text.contains('$') {
        return Ok(text.to_string());
    }
    let mut expander = Expander { lookup, open: Vec::new(), steps: 0 };
    let mut out = String::with_capacity(text.len());
    expander.text(text, 0, &mut out)?;
    Ok(out)
}

/// The names that a text refers to, in conditions and branches too, in order of appearance. Malformed parts are skipped.
pub fn references(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_references(text, 0, &mut found);
    found
}

fn collect_references(text: &str, depth: usize, found: &mut Vec<String>) {
    if depth > NESTING_MAX {
        return;
    }
    let mut rest = text;
    while let Some(piece) = next_piece(&mut rest) {
        let Ok(Piece::Reference(body)) = piece else { continue };
        let name = body.trim_start();
        let end = name.find(|c: char| !is_name_char(c)).unwrap_or(name.len());
        let (name, tail) = name.split_at(end);
        // What stands before a brace is a function.
        if !name.is_empty() && !tail.starts_with('{') {
            found.push(name.to_string());
        }
        // Branches, and the two sides of a comparison, may hold references of their own.
        if tail.contains('$') {
            collect_references(tail, depth + 1, found);
        }
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

enum Piece<'a> {
    Literal(&'a str),
    Reference(&'a str),
}

/// Takes the next literal or reference off `rest`; `None` at the end.
fn next_piece<'a>(rest: &mut &'a str) -> Option<Result<Piece<'a>, ExpandError>> {
    let whole = *rest;
    if whole.is_empty() {
        return None;
    }
    let Some(after_dollar) = whole.strip_prefix('$') else {
        let end = whole.find('$').unwrap_or(whole.len());
        let (literal, tail) = whole.split_at(end);
        *rest = tail;
        return Some(Ok(Piece::Literal(literal)));
    };
    if let Some(tail) = after_dollar.strip_prefix('$') {
        *rest = tail;
        return Some(Ok(Piece::Literal("$")));
    }
    let (body, tail) = match after_dollar.as_bytes().first() {
        Some(b'{') => match balanced(after_dollar, b'{', b'}') {
            Some(end) => (after_dollar.get(1..end).unwrap_or(""), after_dollar.get(end + 1..).unwrap_or("")),
            None => {
                *rest = "";
                return Some(Err(ExpandError::new(format!("truncated macro reference: \"{whole}\""))));
            }
        },
        Some(b'(') => match balanced(after_dollar, b'(', b')') {
            Some(end) => (after_dollar.get(1..end).unwrap_or(""), after_dollar.get(end + 1..).unwrap_or("")),
            None => {
                *rest = "";
                return Some(Err(ExpandError::new(format!("truncated macro reference: \"{whole}\""))));
            }
        },
        _ => {
            let end = after_dollar.find(|c: char| !is_name_char(c)).unwrap_or(after_dollar.len());
            after_dollar.split_at(end)
        }
    };
    *rest = tail;
    if body.is_empty() {
        return Some(Err(ExpandError::new(format!("empty macro name: \"{whole}\""))));
    }
    Some(Ok(Piece::Reference(body)))
}

/// `text` begins with `open`: the byte position of the matching `close`.
fn balanced(text: &str, open: u8, close: u8) -> Option<usize> {
    let mut level = 0usize;
    for (position, byte) in text.bytes().enumerate() {
        if byte == open {
            level += 1;
        } else if byte == close {
            level -= 1;
            if level == 0 {
                return Some(position);
            }
        }
    }
    None
}

struct Expander<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Names being expanded, outermost first: a name that is already here needs itself.
    open: Vec<String>,
    steps: usize,
}

impl Expander<'_> {
    fn text(&mut self, text: &str, depth: usize, out: &mut String) -> Result<(), ExpandError> {
        if depth > NESTING_MAX {
            let shown: String = text.chars().take(40).collect();
            return Err(ExpandError::new(format!("unreasonable macro call nesting: \"{shown}\"")));
        }
        let mut rest = text;
        while let Some(piece) = next_piece(&mut rest) {
            match piece? {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Reference(body) => self.reference(body, depth, out)?,
            }
            if out.len() > LENGTH_MAX {
                return Err(ExpandError::new(format!("the expanded value is longer than {LENGTH_MAX} bytes")));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), ExpandError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(ExpandError::new(format!("expansion needs more than {STEPS_MAX} references")));
        }
        Ok(())
    }

    /// What stands between the braces of `${...}`, or the bare name after `$`.
    fn reference(&mut self, body: &str, depth: usize, out: &mut String) -> Result<(), ExpandError> {
        self.step()?;
        let mut cursor = Cursor { whole: body, position: 0 };
        cursor.skip_blanks();
        if cursor.rest().starts_with('{') {
            let truth = self.comparison(&mut cursor, depth)?;
            cursor.skip_blanks();
            if cursor.rest().is_empty() {
                if truth {
                    out.push_str("true");
                }
                return Ok(());
            }
            return self.branches(truth, &mut cursor, depth, out);
        }
        let start = cursor.position;
        let name_length = cursor.rest().find(|c: char| !is_name_char(c)).unwrap_or(cursor.rest().len());
        cursor.position += name_length;
        let name = body.get(start..cursor.position).unwrap_or("");
        if name.is_empty() {
            return Err(ExpandError::at("attribute name syntax error", body, cursor.position));
        }
        let name_end = cursor.position;
        cursor.skip_blanks();
        match cursor.rest().as_bytes().first() {
            None => self.value_of(name, depth, out),
            Some(b'{') if cursor.position == name_end => self.function(name, &mut cursor, depth, out),
            Some(b'?' | b':') => {
                let filled = (self.lookup)(name).is_some_and(|value| !value.is_empty());
                self.branches(filled, &mut cursor, depth, out)
            }
            Some(_) => Err(ExpandError::at("attribute name syntax error", body, name_end)),
        }
    }

    /// `name{argument}`: the conversions of domain names that Postfix 3.12 knows.
    fn function(
        &mut self,
        name: &str,
        cursor: &mut Cursor<'_>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), ExpandError> {
        let start = cursor.position;
        let argument = cursor.braced()?;
        cursor.skip_blanks();
        let mut domain = String::new();
        match name {
            _ if !cursor.rest().is_empty() => Err(ExpandError::at("unexpected input", cursor.whole, cursor.position)),
            "domain_to_ascii" => {
                self.text(argument, depth + 1, &mut domain)?;
                let ascii = yamabiko_address::domain::to_ascii(&domain)
                    .ok_or_else(|| ExpandError::new(format!("no domain name: \"{domain}\"")))?;
                out.push_str(&ascii);
                Ok(())
            }
            "domain_to_utf8" => {
                self.text(argument, depth + 1, &mut domain)?;
                out.push_str(&yamabiko_address::domain::to_utf8(&domain));
                Ok(())
            }
            _ => Err(ExpandError::at("attribute name syntax error", cursor.whole, start)),
        }
    }

    fn value_of(&mut self, name: &str, depth: usize, out: &mut String) -> Result<(), ExpandError> {
        let Some(value) = (self.lookup)(name) else { return Ok(()) };
        if !value.contains('$') {
            out.push_str(&value);
            return Ok(());
        }
        if self.open.iter().any(|open| open == name) {
            return Err(ExpandError::new(format!("unreasonable macro call nesting: \"{name}\" needs itself")));
        }
        self.open.push(name.to_string());
        let result = self.text(&value, depth + 1, out);
        self.open.pop();
        result
    }

    /// `? yes : no` after a name or a comparison: expands the branch that applies.
    fn branches(
        &mut self,
        truth: bool,
        cursor: &mut Cursor<'_>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), ExpandError> {
        let (if_true, if_false) = match cursor.rest().as_bytes().first() {
            Some(b'?') => {
                cursor.position += 1;
                cursor.skip_blanks();
                if cursor.rest().starts_with('{') {
                    let yes = cursor.braced()?;
                    cursor.skip_blanks();
                    match cursor.rest().as_bytes().first() {
                        None => (Some(yes), None),
                        Some(b':') => {
                            cursor.position += 1;
                            (Some(yes), Some(cursor.last_branch()?))
                        }
                        Some(_) => return Err(ExpandError::at("\":\" expected", cursor.whole, cursor.position)),
                    }
                } else {
                    (Some(cursor.rest()), None)
                }
            }
            Some(b':') => {
                cursor.position += 1;
                (None, Some(cursor.last_branch()?))
            }
            _ => return Err(ExpandError::at("\"?\" or \":\" expected", cursor.whole, cursor.position)),
        };
        match if truth { if_true } else { if_false } {
            Some(text) => self.text(text, depth + 1, out),
            None => Ok(()),
        }
    }

    /// `{x} operator {y}`
    fn comparison(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<bool, ExpandError> {
        let left = cursor.braced()?;
        cursor.skip_blanks();
        let operator = cursor.operator()?;
        cursor.skip_blanks();
        if !cursor.rest().starts_with('{') {
            return Err(ExpandError::at("\"{expression}\" expected", cursor.whole, cursor.position));
        }
        let right = cursor.braced()?;
        let mut expanded_left = String::new();
        self.text(left, depth + 1, &mut expanded_left)?;
        let mut expanded_right = String::new();
        self.text(right, depth + 1, &mut expanded_right)?;
        let order = if operator.level {
            level_of(&expanded_left)?.cmp(&level_of(&expanded_right)?)
        } else {
            compare(&expanded_left, &expanded_right)
        };
        Ok((operator.accepts)(order))
    }
}

/// Numbers are compared as numbers, other texts byte by byte.
fn compare(left: &str, right: &str) -> Ordering {
    fn digits(text: &str) -> Option<&str> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.trim_start_matches('0'))
    }
    match (digits(left), digits(right)) {
        // Without leading zeros the longer number is the larger one, so no size of number is too large.
        (Some(left), Some(right)) => left.len().cmp(&right.len()).then_with(|| left.cmp(right)),
        _ => left.as_bytes().cmp(right.as_bytes()),
    }
}

/// A compatibility level: `major`, `major.minor` or `major.minor.patch`, ordered.
///
/// # Errors
/// Text that is not one to three numbers separated by dots.
pub fn level_of(text: &str) -> Result<(u32, u32, u32), ExpandError> {
    let malformed = || ExpandError::new(format!("malformed compatibility level syntax: \"{text}\""));
    let mut parts = [0u32; 3];
    let mut fields = text.split('.');
    for (index, part) in parts.iter_mut().enumerate() {
        let Some(field) = fields.next() else { break };
        if field.is_empty() && index == 0 {
            return Err(malformed());
        }
        if field.is_empty() || !field.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        *part = field.parse().map_err(|_| malformed())?;
    }
    if fields.next().is_some() {
        return Err(malformed());
    }
    Ok((parts[0], parts[1], parts[2]))
}

struct Operator {
    level: bool,
    accepts: fn(Ordering) -> bool,
}

struct Cursor<'a> {
    whole: &'a str,
    position: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.whole.get(self.position..).unwrap_or("")
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']).len();
    }

    /// `{payload}`: blanks around the payload do not count.
    fn braced(&mut self) -> Result<&'a str, ExpandError> {
        match balanced(self.rest(), b'{', b'}') {
            Some(end) if self.rest().starts_with('{') => {
                let payload = self.rest().get(1..end).unwrap_or("").trim();
                self.position += end + 1;
                Ok(payload)
            }
            _ => Err(ExpandError::at("unbalanced {} in attribute expression", self.whole, self.position)),
        }
    }

    /// What follows `:`: braces are optional, and nothing may come behind them.
    fn last_branch(&mut self) -> Result<&'a str, ExpandError> {
        self.skip_blanks();
        if !self.rest().starts_with('{') {
            return Ok(self.rest());
        }
        let payload = self.braced()?;
        self.skip_blanks();
        if self.rest().is_empty() {
            Ok(payload)
        } else {
            Err(ExpandError::at("unexpected input", self.whole, self.position))
        }
    }

    fn operator(&mut self) -> Result<Operator, ExpandError> {
        let rest = self.rest();
        // Two characters before one, so that `<=` is not read as `<`.
        let (length, accepts): (usize, fn(Ordering) -> bool) = match rest.as_bytes() {
            [b'=', b'=', ..] => (2, |order| order == Ordering::Equal),
            [b'!', b'=', ..] => (2, |order| order != Ordering::Equal),
            [b'<', b'=', ..] => (2, |order| order != Ordering::Greater),
            [b'>', b'=', ..] => (2, |order| order != Ordering::Less),
            [b'<', ..] => (1, |order| order == Ordering::Less),
            [b'>', ..] => (1, |order| order == Ordering::Greater),
            _ => {
                return Err(ExpandError::at(
                    "\"==\" or \"!=\" or \"<\" or \"<=\" or \">=\" or \">\" expected",
                    self.whole,
                    self.position,
                ));
            }
        };
        self.position += length;
        let level = self.rest().starts_with("level");
        if level {
            self.position += "level".len();
        }
        Ok(Operator { level, accepts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[(&str, &str)], text: &str) -> Result<String, ExpandError> {
        expand(text, &|name| names.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn values() {
        let names = [("v", "3.7"), ("empty", ""), ("indirect", "<$v>"), ("nothing", "$empty"), ("lvl", "3.6")];
        for (text, expected) in [
            ("plain", "plain"),
            ("$$x", "$x"),
            ("a$v.b", "a3.7.b"),
            ("${v}$(v)", "3.73.7"),
            ("${ v }", "3.7"),
            ("$indirect", "<3.7>"),
            ("[$unknown]", "[]"),
            ("${v?a:b}", "a:b"),
            ("${v?{ a } : { b }}", "a"),
            ("${empty?{a}:{b}}", "b"),
            ("${empty?{a}:b c}", "b c"),
            ("${v:a}", ""),
            ("${empty:  a }|", "a |"),
            ("${empty: { a } }|", "a|"),
            ("${nothing?yes}", "yes"),
            ("${v?a${empty:x}c}", "axc"),
            ("${{a}=={a}}", "true"),
            ("${{a} == {b}}", ""),
            ("${{10}<{9}?{t}:{f}}", "f"),
            ("${{a10}<{a9}?{t}:{f}}", "t"),
            ("${{01}=={1}?{e}:{n}}", "e"),
            ("${{99999999999999999999}>{1}?{e}:{n}}", "e"),
            ("${{$lvl} <level {3.11} ? {t}:{f}}", "t"),
            ("${{$lvl} < {3.11} ? {t}:{f}}", "f"),
            ("${{3.11.2}<=level{3.12}?{t}:{f}}", "t"),
            ("${{1}!={2}:f}", ""),
            ("${{1}>={2}:f}", "f"),
            ("${domain_to_ascii{山彦.$v}}", "xn--rhts2e.3.7"),
            ("${domain_to_utf8{ xn--rhts2e.example }}", "山彦.example"),
        ] {
            assert_eq!(with(&names, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, part) in [
            ("$", "empty macro name: \"$\""),
            ("x$-y", "empty macro name: \"$-y\""),
            ("${}", "empty macro name"),
            ("${v", "truncated macro reference: \"${v\""),
            ("${v)", "truncated"),
            ("${v w}", "attribute name syntax error at: \"...v>>> w\""),
            ("${v{w}}", "attribute name syntax error"),
            ("${v-w}", "attribute name syntax error"),
            ("${v?{a} b}", "a}>>>b\""),
            ("${v?{a}:{b} c}", "b}>>>c\""),
            ("${{1} ~ {2}}", "1}>>>~ {2}\""),
            ("${{x} <level {1}}", "malformed compatibility level syntax: \"x\""),
            ("$loop", "needs itself"),
            ("$a", "needs itself"),
        ] {
            let error = with(&[("v", "1"), ("loop", "-$loop-"), ("a", "$b"), ("b", "$a")], text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_that_doubles_forty_times_is_refused() {
        let names: Vec<(String, String)> = (0..40)
            .map(|n| (format!("d{n}"), format!("$d{}$d{}", n + 1, n + 1)))
            .chain([("d40".into(), "x".into())])
            .collect();
        let error = expand("$d0", &|name| names.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[test]
    fn deep_braces_end() {
        let deep = format!("{}{}", "${v?".repeat(5000), "}".repeat(5000));
        assert!(with(&[("v", "1")], &deep).is_err());
        assert!(with(&[], &"${{".repeat(100_000)).is_err());
    }

    #[test]
    fn references_in_all_corners() {
        assert_eq!(references("$a ${b?$c} ${{$d} == {x} ? {$e} : {$(f)}} $$g"), ["a", "b", "c", "d", "e", "f"]);
    }
}

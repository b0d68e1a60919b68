//! `regexp:` and `pcre:`: `/pattern/flags result`.

use pcre2::bytes::RegexBuilder;
use yamabiko_sys::regex::{Flags, Regex};

use super::prefilter;
use super::replace::Replacement;
use super::rules::{Dialect, Group, Matcher, Statement, Warning};
use crate::lines::trim_str;

/// A `pcre:` pattern that needs more steps than this is given up: some 10 ms of work.
const MATCH_LIMIT: &str = "(*LIMIT_MATCH=1000000)";
/// The just-in-time compiler's matching stack, in bytes.
const JIT_STACK: usize = 1 << 20;

/// `regexp:`
pub(crate) struct Posix;
/// `pcre:`
pub(crate) struct Perl;

/// A pattern between delimiters, with its flags.
struct Pattern<'a> {
    positive: bool,
    text: &'a str,
    flags: &'a str,
    rest: &'a str,
}

/// What differs between the two.
trait Engine: Send + Sync + 'static {
    const KIND: &'static str;
    const UNCLOSED: &'static str;
    const FLAGS: &'static str;
    /// Compiles a pattern; gives the number of its groups too. The error is for the log.
    fn compile(
        text: &str,
        flags: &str,
        groups: bool,
        warn: &mut dyn FnMut(Warning),
    ) -> Option<(Box<dyn Matcher>, usize)>;
}

fn pattern<'a, E: Engine>(line: &'a str, warn: &mut dyn FnMut(Warning)) -> Option<Pattern<'a>> {
    let text = line.trim_start_matches(|c: char| c == '!' || c.is_ascii_whitespace());
    let negations = line[..line.len() - text.len()].bytes().filter(|&byte| byte == b'!').count();
    let mut chars = text.chars();
    let Some(delimiter) = chars.next() else {
        warn(Warning::Placed("no regexp: skipping this rule".into()));
        return None;
    };
    let body = chars.as_str();
    let mut escaped = false;
    let end = body.char_indices().find(|&(_, c)| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = c == '\\';
        c == delimiter && !escaped
    });
    let Some((end, _)) = end else {
        let what = E::UNCLOSED;
        warn(Warning::Placed(format!("no closing regexp delimiter \"{delimiter}\": {what} this rule")));
        return None;
    };
    let after = &body[end + delimiter.len_utf8()..];
    let flags = after.find(|c: char| c.is_ascii_whitespace() || c == '!').unwrap_or(after.len());
    let (flags, rest) = after.split_at(flags);
    if let Some(flag) = flags.chars().find(|&flag| !E::FLAGS.contains(flag)) {
        warn(Warning::Placed(format!("unknown regexp option \"{flag}\": skipping this rule")));
        return None;
    }
    Some(Pattern { positive: negations % 2 == 0, text: &body[..end], flags, rest: trim_str(rest) })
}

/// The word, when the line begins with it (any case) and no letter or digit follows.
fn keyword<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let start = line.get(..word.len())?;
    let rest = &line[word.len()..];
    let whole = !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    (start.eq_ignore_ascii_case(word) && whole).then(|| trim_str(rest))
}

fn statement<E: Engine>(line: &str, warn: &mut dyn FnMut(Warning)) -> Statement {
    let read = |line: &str, warn: &mut dyn FnMut(Warning)| -> Option<Statement> {
        if !line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            let pattern = pattern::<E>(line, warn)?;
            if pattern.rest.is_empty() {
                warn(Warning::Placed("no replacement text: using empty string".into()));
            }
            let replacement = Replacement::read(pattern.rest, warn)?;
            if replacement.wants_groups() && !pattern.positive {
                let text = "$number found in negative match replacement text: skipping this rule";
                warn(Warning::Placed(text.into()));
                return None;
            }
            let (matcher, groups) = E::compile(pattern.text, pattern.flags, replacement.wants_groups(), warn)?;
            if replacement.highest() > groups {
                let index = replacement.highest();
                warn(Warning::Placed(format!("out of range replacement index \"{index}\": skipping this rule")));
                return None;
            }
            Some(Statement::Rule { matcher, positive: pattern.positive, replacement })
        } else if let Some(rest) = keyword(line, "if") {
            let pattern = pattern::<E>(rest, warn)?;
            let (matcher, _) = E::compile(pattern.text, pattern.flags, false, warn)?;
            if !pattern.rest.is_empty() {
                warn(Warning::Placed(format!("ignoring extra text after IF statement: \"{}\"", pattern.rest)));
                let text = "do not prepend whitespace to statements between IF and ENDIF";
                warn(Warning::Placed(text.into()));
            }
            Some(Statement::If { matcher, positive: pattern.positive })
        } else if let Some(rest) = keyword(line, "endif") {
            if !rest.is_empty() {
                warn(Warning::Placed("ignoring extra text after ENDIF".into()));
            }
            Some(Statement::EndIf)
        } else {
            warn(Warning::Placed("ignoring unrecognized request".into()));
            None
        }
    };
    read(line, warn).unwrap_or(Statement::Skip)
}

impl Dialect for Posix {
    const KIND: &'static str = <Self as Engine>::KIND;
    const LONELY_ENDIF: &'static str = "ignoring ENDIF without matching IF";
    fn read(line: &str, warn: &mut dyn FnMut(Warning)) -> Statement {
        statement::<Self>(line, warn)
    }
}

impl Dialect for Perl {
    const KIND: &'static str = <Self as Engine>::KIND;
    const LONELY_ENDIF: &'static str = "ignoring ENDIF without matching IF";
    fn read(line: &str, warn: &mut dyn FnMut(Warning)) -> Statement {
        statement::<Self>(line, warn)
    }
}

impl Engine for Posix {
    const KIND: &'static str = "regexp";
    const UNCLOSED: &'static str = "skipping";
    const FLAGS: &'static str = "imx";

    fn compile(
        text: &str,
        flags: &str,
        groups: bool,
        warn: &mut dyn FnMut(Warning),
    ) -> Option<(Box<dyn Matcher>, usize)> {
        let mut options = Flags { extended: true, ignore_case: true, newline: false, groups };
        for flag in flags.chars() {
            match flag {
                'i' => options.ignore_case = !options.ignore_case,
                'm' => options.newline = !options.newline,
                'x' => options.extended = !options.extended,
                // Checked when the line was read.
                _ => {}
            }
        }
        match Regex::new(text, options) {
            Ok(regex) => {
                let groups = regex.group_count();
                let plain = options.extended && !options.newline;
                let approximation = plain.then(|| prefilter::from_posix(text, options.ignore_case)).flatten();
                Some((Box::new(PosixPattern { regex, approximation }), groups))
            }
            Err(why) => {
                warn(Warning::Placed(why));
                None
            }
        }
    }
}

struct PosixPattern {
    regex: Regex,
    approximation: Option<String>,
}

impl Matcher for PosixPattern {
    fn is_match(&self, key: &[u8]) -> Result<bool, String> {
        self.regex.is_match(key)
    }
    fn groups(&self, key: &[u8]) -> Result<Option<Vec<Group>>, String> {
        self.regex.groups(key)
    }
    fn approximation(&self) -> Option<&str> {
        self.approximation.as_deref()
    }
}

impl Engine for Perl {
    const KIND: &'static str = "pcre";
    const UNCLOSED: &'static str = "ignoring";
    const FLAGS: &'static str = "imsxAEUX";

    fn compile(
        text: &str,
        flags: &str,
        _groups: bool,
        warn: &mut dyn FnMut(Warning),
    ) -> Option<(Box<dyn Matcher>, usize)> {
        let (mut ignore_case, mut multi_line, mut dot_all, mut extended) = (true, false, true, false);
        let (mut anchored, mut end_only, mut ungreedy) = (false, false, false);
        for flag in flags.chars() {
            match flag {
                'i' => ignore_case = !ignore_case,
                'm' => multi_line = !multi_line,
                's' => dot_all = !dot_all,
                'x' => extended = !extended,
                'A' => anchored = !anchored,
                'E' => end_only = !end_only,
                'U' => ungreedy = !ungreedy,
                'X' => warn(Warning::Placed("ignoring obsolete regexp option \"X\"".into())),
                // Checked when the line was read.
                _ => {}
            }
        }
        // Verbs like (*UCP) count only at the very start.
        let verbs = verbs(text);
        let (verbs, body) = text.split_at(verbs);
        let body = if end_only && !multi_line { end_only_dollars(body) } else { body.to_owned() };
        let before = format!("{MATCH_LIMIT}{verbs}{}", if ungreedy { "(?U)" } else { "" });
        let whole = match anchored {
            // In an extended pattern a comment may reach to the end of the line.
            true => format!("{before}\\A(?:{body}{})", if extended { "\n" } else { "" }),
            false => format!("{before}{body}"),
        };
        let added = whole.len() - text.len();
        let mut builder = RegexBuilder::new();
        builder.caseless(ignore_case).multi_line(multi_line).dotall(dot_all).extended(extended);
        builder.jit_if_available(true).max_jit_stack_size(Some(JIT_STACK));
        match builder.build(&whole) {
            Ok(regex) => {
                let groups = regex.captures_len().saturating_sub(1);
                let plain = !multi_line && !extended && !anchored && !end_only && verbs.is_empty();
                let approximation = plain.then(|| prefilter::from_perl(text, ignore_case, dot_all)).flatten();
                Some((Box::new(PerlPattern { regex, approximation }), groups))
            }
            Err(error) => {
                let offset = error.offset().unwrap_or(0).saturating_sub(added);
                let why = error.to_string();
                let why = why.split_once(": ").map_or(&*why, |(_, rest)| rest);
                let why = why.split_once(": ").map_or(why, |(_, rest)| rest);
                warn(Warning::Placed(format!("error in regex at offset {offset}: {why}")));
                None
            }
        }
    }
}

/// Length of the verbs a pattern begins with.
fn verbs(text: &str) -> usize {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| rest.starts_with("(*")) {
        let Some(end) = rest.find(')') else { break };
        at += end + 1;
    }
    at
}

/// PCRE's DOLLAR_ENDONLY has no form inside a pattern: each `$` that means "end" is written `\z`.
fn end_only_dollars(body: &str) -> String {
    let mut out = String::with_capacity(body.len() + 8);
    let (mut class, mut quoted) = (false, false);
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                out.push(c);
                let Some(next) = chars.next() else { break };
                out.push(next);
                quoted = next == 'Q' || quoted && next != 'E';
            }
            _ if quoted => out.push(c),
            '[' if !class => {
                class = true;
                out.push(c);
                // A bracket first in a class is one of its characters.
                out.extend(chars.next_if_eq(&'^'));
                out.extend(chars.next_if_eq(&']'));
            }
            ']' => {
                class = false;
                out.push(c);
            }
            '$' if !class => out.push_str("\\z"),
            c => out.push(c),
        }
    }
    out
}

struct PerlPattern {
    regex: pcre2::bytes::Regex,
    approximation: Option<String>,
}

/// The library's words for an error while matching.
fn trouble(error: &pcre2::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(": ").map_or(&*text, |(_, words)| words).to_owned()
}

impl Matcher for PerlPattern {
    fn is_match(&self, key: &[u8]) -> Result<bool, String> {
        self.regex.is_match(key).map_err(|error| trouble(&error))
    }

    fn groups(&self, key: &[u8]) -> Result<Option<Vec<Group>>, String> {
        let mut places = self.regex.capture_locations();
        let found = self.regex.captures_read(&mut places, key).map_err(|error| trouble(&error))?;
        Ok(found.map(|_| (0..places.len()).map(|index| places.get(index)).collect()))
    }

    fn approximation(&self) -> Option<&str> {
        self.approximation.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perl_flags() {
        let cases = [
            ("a$", "", "a\n", true),
            ("a$", "E", "a\n", false),
            ("a$", "E", "a", true),
            ("[$]x\\$", "E", "$x$", true),
            ("b", "A", "ab", false),
            ("a|b", "A", "ab", true),
            ("a b # x", "xA", "ab", true),
            ("^b", "m", "a\nb", true),
            ("a.b", "", "a\nb", true),
            ("a.b", "s", "a\nb", false),
            ("A", "i", "a", false),
            ("(*UCP)\\w", "A", "a", true),
        ];
        for (text, flags, key, expected) in cases {
            let (matcher, _) = Perl::compile(text, flags, false, &mut |_| panic!("{text}")).unwrap();
            assert_eq!(matcher.is_match(key.as_bytes()), Ok(expected), "/{text}/{flags} {key:?}");
        }
        let (matcher, _) = Perl::compile("a+", "U", true, &mut |_| {}).unwrap();
        assert_eq!(matcher.groups(b"aaa").unwrap().unwrap(), [Some((0, 1))]);
    }
}

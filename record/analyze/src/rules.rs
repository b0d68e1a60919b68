//! Rules as data: phrases and what they mean.
//!
//! A rule file is text, a block for each group of phrases:
//!
//! ```text
//! language en
//! source   Postfix smtpd(8), local(8)
//!
//! reason   userunknown
//! weight   60
//! = user unknown
//! > 550 5.1.1 <a@example.com>: Recipient address rejected: User unknown in local recipient table
//! = recipient .. does not exist
//! ```
//!
//! * `language`, `source`, `provider` and `host` before the first `reason` hold for the whole file; within a block they hold for
//!   the block, as do `weight` (1 to 100), `stage` (CONN EHLO STARTTLS AUTH MAIL RCPT DATA QUIT), `status` (5.7.1, or 5.7.* for all details),
//!   `code` (550), `from` and `until` (2025-03-01: the day is the first of the rule, or the last).
//! * `host` names domains: the rule is for replies of hosts in them, or for recipients in them.
//! * `= phrase` is a rule: the phrase as it appears in a text in lower case with single blanks. ` .. ` stands for anything, up to
//!   160 bytes. `= *` needs no phrase, only what the block asks for.
//! * `> text` is an example of the rule above it: it must match, and lead to the rule's reason. Without one the phrase is its
//!   own example.
//! * `#` begins a comment line.

use crate::analyzer::Stage;
use crate::finding::Date;
use crate::{Reason, civil};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::fmt;
use yamabiko_status::EnhancedStatus;

/// Bytes between two fragments of a phrase, at most.
const MAX_GAP: usize = 160;

/// The files that come with the program: name and text.
const EMBEDDED: &[(&str, &str)] = &[
    ("status.rules", include_str!("../rules/status.rules")),
    ("english.rules", include_str!("../rules/english.rules")),
    ("languages.rules", include_str!("../rules/languages.rules")),
    ("japan.rules", include_str!("../rules/japan.rules")),
    ("providers.rules", include_str!("../rules/providers.rules")),
    ("systems.rules", include_str!("../rules/systems.rules")),
];

/// Phrases and provider tables, compiled.
#[derive(Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Rules without a phrase.
    bare: Vec<u32>,
    /// Of each pattern of the automaton: its rule and which fragment of it.
    fragments: Vec<(u32, u8)>,
    automaton: Option<AhoCorasick>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

/// One rule, for listings and tests.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `file:line`
    pub name: String,
    /// What it speaks for.
    pub reason: Reason,
    /// 1 to 100.
    pub weight: u8,
    /// Language of the phrase: `en`, `ja`, ...
    pub language: String,
    /// Whose words they are; empty for everybody's.
    pub provider: String,
    /// Where it was seen.
    pub source: String,
    /// The phrase as written.
    pub phrase: String,
    /// Texts that match it.
    pub examples: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) statuses: Vec<StatusPattern>,
    pub(crate) codes: Vec<u16>,
    pub(crate) from: Option<i64>,
    pub(crate) until: Option<i64>,
    fragments: u8,
}

/// `5.7.1`, or `5.7.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusPattern {
    pub class: u8,
    pub subject: u16,
    pub detail: Option<u16>,
}

impl StatusPattern {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let detail = if detail == "*" { None } else { Some(detail.parse().ok()?) };
        let class = class.parse().ok().filter(|c| [2, 4, 5].contains(c))?;
        parts.next().is_none().then_some(Self { class, subject: subject.parse().ok()?, detail })
    }
    fn fits(self, status: EnhancedStatus) -> bool {
        self.class == status.class.digit()
            && self.subject == status.subject
            && self.detail.is_none_or(|detail| detail == status.detail)
    }
}

/// What rules may ask for beside a phrase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circumstances<'a> {
    pub hosts: [&'a str; 3],
    pub stage: Option<Stage>,
    pub status: Option<EnhancedStatus>,
    pub code: Option<u16>,
    pub date: Option<Date>,
}

impl Rule {
    /// True when all that the rule asks for beside its phrase is so.
    pub(crate) fn fits(&self, at: &Circumstances<'_>) -> bool {
        (self.hosts.is_empty() || at.hosts.iter().any(|host| self.hosts.iter().any(|suffix| is_within(host, suffix))))
            && (self.stages.is_empty() || at.stage.is_some_and(|stage| self.stages.contains(&stage)))
            && (self.statuses.is_empty() || at.status.is_some_and(|s| self.statuses.iter().any(|p| p.fits(s))))
            && (self.codes.is_empty() || at.code.is_some_and(|code| self.codes.contains(&code)))
            && self.from.is_none_or(|from| at.date.is_none_or(|date| date.seconds >= from))
            && self.until.is_none_or(|until| at.date.is_some_and(|date| date.seconds < until))
    }
    /// True for rules of one provider or system.
    pub fn is_special(&self) -> bool {
        !self.provider.is_empty() || !self.hosts.is_empty()
    }
    /// A reply of these circumstances, for tests: host, stage, status, code, day.
    pub fn sample_circumstances(&self) -> (String, Option<Stage>, String, Option<Date>) {
        let host = self.hosts.first().map_or(String::new(), |h| format!("mx.{h}"));
        let status = self.statuses.first().map(|p| format!("{}.{}.{}", p.class, p.subject, p.detail.unwrap_or(9)));
        let code = self.codes.first().map(u16::to_string);
        let words = [code, status].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let day = self.until.map(|until| until - 86_400).or(self.from);
        (host, self.stages.first().copied(), words, day.map(|seconds| Date { seconds, offset_minutes: 0 }))
    }
}

/// True when `host` is `domain` or a host in it.
fn is_within(host: &str, domain: &str) -> bool {
    let host = host.as_bytes();
    host.len() >= domain.len()
        && host[host.len() - domain.len()..].eq_ignore_ascii_case(domain.as_bytes())
        && (host.len() == domain.len() || host[host.len() - domain.len() - 1] == b'.')
}

/// A rule file has a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for RuleError {}

impl Default for Rules {
    fn default() -> Self {
        // A test reads all embedded files; should one be wrong all the same, the others still serve.
        Self::with_files([]).unwrap_or_else(|_| Self::compile(Vec::new()))
    }
}

impl Rules {
    /// The rules that come with the program, and the user's own files (name and text of each). Of two rules of equal
    /// weight the later one wins.
    pub fn with_files<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for (name, text) in EMBEDDED.iter().copied().chain(files) {
            read(name, text, &mut rules)?;
        }
        Ok(Self::compile(rules))
    }

    /// Reads one rule file for its faults alone, without compiling it.
    pub fn check(name: &str, text: &str) -> Result<usize, RuleError> {
        let mut rules = Vec::new();
        read(name, text, &mut rules)?;
        Ok(rules.len())
    }

    /// All rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    fn compile(rules: Vec<Rule>) -> Self {
        let mut patterns: Vec<String> = Vec::new();
        let mut fragments = Vec::new();
        let mut bare = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            // More rules than u32 counts do not fit into memory.
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            if rule.fragments == 0 {
                bare.push(number);
                continue;
            }
            for (index, fragment) in split_phrase(&rule.phrase).enumerate() {
                patterns.push(fragment.to_owned());
                // `read` refuses phrases of more than eight fragments.
                fragments.push((number, u8::try_from(index).unwrap_or(u8::MAX)));
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&patterns)
            .ok();
        Self { rules, bare, fragments, automaton }
    }

    /// Rules whose phrases are in a folded text, with where the phrase begins and ends. Each rule once, in the order in
    /// which they are complete.
    pub(crate) fn matches(&self, folded: &str, mut each: impl FnMut(&Rule, usize, usize)) {
        let Some(automaton) = &self.automaton else { return };
        // Rules of several fragments that have begun: rule, next fragment, where it began, where the last one ended.
        let mut open: Vec<(u32, u8, usize, usize)> = Vec::new();
        let mut seen: Vec<u32> = Vec::new();
        for found in automaton.find_overlapping_iter(folded) {
            let (number, index) = self.fragments[found.pattern().as_usize()];
            let rule = &self.rules[number as usize];
            if !is_whole(folded, found.start(), found.end()) || seen.contains(&number) {
                continue;
            }
            if rule.fragments == 1 {
                seen.push(number);
                each(rule, found.start(), found.end());
                continue;
            }
            let state = open.iter().position(|(n, ..)| *n == number);
            match state {
                None if index == 0 && open.len() < 500 => open.push((number, 1, found.start(), found.end())),
                Some(at)
                    if open[at].1 == index && found.start() >= open[at].3 && found.start() - open[at].3 <= MAX_GAP =>
                {
                    open[at].1 += 1;
                    open[at].3 = found.end();
                    if open[at].1 == rule.fragments {
                        seen.push(number);
                        each(rule, open[at].2, found.end());
                    }
                }
                // A fresh beginning, when the first one has led nowhere yet.
                Some(at) if index == 0 && open[at].1 == 1 => open[at] = (number, 1, found.start(), found.end()),
                _ => {}
            }
        }
    }

    /// Rules that ask for no phrase.
    pub(crate) fn bare(&self) -> impl Iterator<Item = &Rule> {
        self.bare.iter().map(|n| &self.rules[*n as usize])
    }
}

/// True when a match is no piece of a longer word: `relay` is not in `relayed`, but `rbl` is in `rbl.example`.
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let word = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let before = start > 0 && word(start - 1) && word(start);
    let after = end > 0 && word(end) && word(end - 1);
    !before && !after
}

fn split_phrase(phrase: &str) -> impl Iterator<Item = &str> {
    phrase.split(" .. ").map(str::trim).filter(|f| !f.is_empty())
}

/// Text as phrases are compared with it: lower case, white space squeezed, typographic quotes made plain, line ends within
/// Japanese, Chinese or Korean text left out. At most `limit` bytes of it.
pub(crate) fn fold(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit) + 4);
    let mut blank = false;
    let mut wide_before = false;
    let mut broken = false;
    for c in text.chars() {
        if out.len() >= limit {
            break;
        }
        if c.is_ascii() {
            if c.is_ascii_whitespace() {
                blank = true;
                broken |= c == '\n';
                continue;
            }
            if blank && !out.is_empty() {
                out.push(' ');
            }
            (blank, wide_before, broken) = (false, false, false);
            out.push(c.to_ascii_lowercase());
            continue;
        }
        let c = match c {
            '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{b4}' => '\'',
            '\u{201c}' | '\u{201d}' | '\u{ab}' | '\u{bb}' => '"',
            '\u{a0}' | '\u{3000}' | '\u{2002}' | '\u{2003}' | '\u{2009}' => {
                blank = true;
                continue;
            }
            '\u{200b}' | '\u{feff}' => continue,
            c => c,
        };
        let wide = c >= '\u{1100}';
        if blank && !out.is_empty() && !(wide && wide_before && broken) {
            out.push(' ');
        }
        (blank, wide_before, broken) = (false, wide, false);
        if wide { out.push(c) } else { out.extend(c.to_lowercase()) }
    }
    out
}

/// What holds for the rules of a block.
#[derive(Clone, Default)]
struct Block {
    reason: Option<Reason>,
    weight: u8,
    language: String,
    provider: String,
    source: String,
    hosts: Vec<String>,
    stages: Vec<Stage>,
    statuses: Vec<StatusPattern>,
    codes: Vec<u16>,
    from: Option<i64>,
    until: Option<i64>,
}

fn read(file: &str, text: &str, rules: &mut Vec<Rule>) -> Result<(), RuleError> {
    let mut whole = Block { weight: 60, language: "en".to_owned(), ..Block::default() };
    let mut block = whole.clone();
    let first = rules.len();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let error = |what: String| RuleError { file: file.to_owned(), line: number + 1, what };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(phrase) = line.strip_prefix("= ") {
            let rule = rule(format!("{file}:{}", number + 1), phrase.trim(), &block).map_err(error)?;
            rules.push(rule);
            continue;
        }
        if let Some(example) = line.strip_prefix("> ") {
            let any = rules.len() > first;
            match rules.last_mut() {
                Some(rule) if any => rule.examples.push(example.trim().to_owned()),
                _ => return Err(error("an example stands before the first rule".to_owned())),
            }
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        if key == "reason" {
            let reason = value.parse::<Reason>().map_err(|e| error(e.to_string()))?;
            block = Block { reason: Some(reason), ..whole.clone() };
            continue;
        }
        attribute(&mut block, key, value).map_err(error)?;
        if block.reason.is_none() {
            whole = block.clone();
        }
    }
    Ok(())
}

fn rule(name: String, phrase: &str, block: &Block) -> Result<Rule, String> {
    let reason = block.reason.ok_or("a phrase stands before the first \"reason\" line")?;
    let fragments = if phrase == "*" { 0 } else { split_phrase(phrase).count() };
    if phrase != "*" && fragments == 0 || fragments > 8 {
        return Err("a phrase has one to eight fragments".to_owned());
    }
    if phrase != "*" && fold(phrase, usize::MAX) != phrase {
        return Err(format!("write the phrase as it is compared: \"{}\"", fold(phrase, usize::MAX)));
    }
    let asks_for_nothing =
        block.hosts.is_empty() && block.stages.is_empty() && block.statuses.is_empty() && block.codes.is_empty();
    if phrase == "*" && asks_for_nothing {
        return Err("\"= *\" needs a status, code, stage or host".to_owned());
    }
    Ok(Rule {
        name,
        reason,
        weight: block.weight,
        language: block.language.clone(),
        provider: block.provider.clone(),
        source: block.source.clone(),
        phrase: phrase.to_owned(),
        examples: Vec::new(),
        hosts: block.hosts.clone(),
        stages: block.stages.clone(),
        statuses: block.statuses.clone(),
        codes: block.codes.clone(),
        from: block.from,
        until: block.until,
        fragments: u8::try_from(fragments).unwrap_or(u8::MAX),
    })
}

fn attribute(block: &mut Block, key: &str, value: &str) -> Result<(), String> {
    let words = value.split_whitespace();
    match key {
        "language" => block.language = value.to_owned(),
        "provider" => block.provider = value.to_owned(),
        "source" => block.source = value.to_owned(),
        "weight" => {
            block.weight = value
                .parse()
                .ok()
                .filter(|w| (1..=100).contains(w))
                .ok_or_else(|| format!("a weight is a number from 1 to 100, not \"{value}\""))?;
        }
        "host" => block.hosts = words.map(|host| host.trim_start_matches('.').to_ascii_lowercase()).collect(),
        "stage" => {
            block.stages = words
                .map(|word| Stage::named(word).ok_or_else(|| format!("no stage is called \"{word}\"")))
                .collect::<Result<_, _>>()?;
        }
        "status" => {
            block.statuses = words
                .map(|word| StatusPattern::parse(word).ok_or_else(|| format!("\"{word}\" is no status code")))
                .collect::<Result<_, _>>()?;
        }
        "code" => {
            block.codes = words
                .map(|word| {
                    let code = word.parse().ok().filter(|c| (200..600).contains(c));
                    code.ok_or_else(|| format!("\"{word}\" is no reply code"))
                })
                .collect::<Result<_, _>>()?;
        }
        "from" | "until" => {
            let day = civil::parse_day(value).ok_or_else(|| format!("a day is written 2025-03-01, not \"{value}\""))?;
            if key == "from" { block.from = Some(day) } else { block.until = Some(day + 86_400) }
        }
        _ => return Err(format!("\"{key}\" is no keyword of rule files; a phrase begins with \"= \"")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rules: &Rules, text: &str) -> Vec<Reason> {
        let mut all = Vec::new();
        rules.matches(&fold(text, 10_000), |rule, _, _| all.push(rule.reason));
        all
    }

    #[test]
    fn the_embedded_files_are_sound() {
        let rules = Rules::with_files([]).unwrap();
        assert!(rules.iter().count() > 100);
    }

    #[test]
    fn faults_are_named() {
        for (text, line, word) in [
            ("reason nonsense", 1, "nonsense"),
            ("reason userunknown\n= User Unknown", 2, "user unknown"),
            ("= x", 1, "reason"),
            ("reason rejected\nweight 0", 2, "weight"),
            ("reason rejected\nfoo bar", 2, "foo"),
            ("reason rejected\n= *", 2, "needs"),
            ("reason rejected\nfrom yesterday", 2, "2025"),
            ("reason rejected\nstatus 9.1", 2, "9.1"),
        ] {
            let error = Rules::with_files([("own", text)]).unwrap_err();
            assert_eq!((error.file.as_str(), error.line), ("own", line), "{text}");
            assert!(error.what.contains(word), "{}", error.what);
        }
    }

    #[test]
    fn phrases_with_gaps_and_word_limits() {
        let mut list = Vec::new();
        read("t", "reason rejected\n= zzalpha .. zzbeta\nreason blocked\n= zzrbl", &mut list).unwrap();
        let rules = Rules::compile(list);
        assert_eq!(found(&rules, "a ZZalpha  and\n zzBETA"), [Reason::Rejected]);
        assert_eq!(found(&rules, "zzbeta zzalpha"), []);
        assert_eq!(found(&rules, "zzalphabet zzbeta"), []);
        assert_eq!(found(&rules, "see zzrbl.example"), [Reason::Blocked]);
        assert_eq!(found(&rules, "zzrblx"), []);
    }

    #[test]
    fn folding() {
        assert_eq!(fold("  A\u{a0}b \n Ç’ ", 100), "a b ç'");
        assert_eq!(fold("見つ\nかりません x\ny", 100), "見つかりません x y");
    }
}

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
//! * `language`, `source`, `provider`, `place` and `host` before the first `reason` hold for the whole file; within a block they hold for
//!   the block, as do `weight` (1 to 100), `stage` (CONN EHLO STARTTLS AUTH MAIL RCPT DATA QUIT), `status` (5.7.1, 5.7.606-649, or 5.7.* for all details),
//!   `code` (550), `from` and `until` (2025-03-01: the day is the first of the rule, or the last).
//! * `place reply`: the rule is for what the refusing host said, not for what stands around it in a notice.
//! * `host` names domains: the rule is for replies of hosts in them, or for recipients in them.
//! * `= phrase` is a rule: the phrase as it appears in a text in lower case with single blanks. ` .. ` stands for anything, up to
//!   160 bytes. `= *` needs no phrase, only what the block asks for.
//! * `> text` is an example of the rule above it: it must match, and lead to the rule's reason. Without one the phrase is its
//!   own example.
//! * `#` begins a comment line.

use crate::analyzer::Stage;
use crate::finding::Date;
use crate::needle::find_piece;
use crate::phrases::{Match, Phrases, within_word};
use crate::{Reason, civil, systems, text};
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
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
    ("words.rules", include_str!("../rules/words.rules")),
];

/// Phrases and provider tables, compiled.
#[derive(Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Rules without a phrase, by the kind of status that they may be for ([`kind_of`]).
    bare: [Vec<Bare>; KINDS],
    fragments: Vec<Fragment>,
    /// Fragments of rules by their numbers, then signs of notices, then words that tell a command.
    phrases: Phrases,
    /// The number of the first word that tells a command.
    commands: u32,
    /// Findings say what they rest on.
    pub(crate) explains: bool,
}

/// A fragment of a phrase.
#[derive(Clone, Copy)]
struct Fragment {
    rule: u32,
    /// Which one of the rule it is, and of how many.
    index: u8,
    of: u8,
}

/// A rule without a phrase.
#[derive(Clone, Copy)]
struct Bare {
    rule: u32,
    /// The details that it may be for, as bits by their last six bits.
    details: u64,
}

/// Bits of these details.
fn details_of((first, last): (u16, u16)) -> u64 {
    if last.saturating_sub(first) < 63 {
        (first..=last).fold(0, |all, detail| all | 1 << (detail & 63))
    } else {
        u64::MAX
    }
}

/// So many kinds of status there are.
const KINDS: usize = 4 * 8 + 1;

/// Class and subject of a status as one number; those that no rule asks for, and none at all, share the last.
fn kind_of(status: Option<(u8, u16)>) -> usize {
    match status {
        Some((class @ (2 | 4 | 5), subject @ 0..=7)) => usize::from(class - 2) * 8 + usize::from(subject),
        _ => KINDS - 1,
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

/// A folded text and every phrase that is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    folded: Vec<u8>,
    found: Vec<Match>,
}

impl Scan {
    /// The folded text from `start` to `end`, which a rule was found at.
    pub(crate) fn words(&self, start: usize, end: usize) -> &[u8] {
        self.folded.get(start..end).unwrap_or_default()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.folded.is_empty()
    }
    pub(crate) fn folded(&self) -> &[u8] {
        &self.folded
    }
    /// What is found in a folded text that stands in this one, nothing being looked for again. `None` where it does not stand
    /// here, or as a piece of longer words.
    fn piece(&self, folded: &[u8]) -> Option<Vec<Match>> {
        let start = find_piece(&self.folded, folded)?;
        let end = start + folded.len();
        if within_word(&self.folded, start) || within_word(&self.folded, end) {
            return None;
        }
        // Texts that are scanned are shorter than four gigabytes by far.
        let (start, end) = (start as u32, end as u32);
        // All that ends in the piece stands together.
        let (from, to) = (self.found.partition_point(|m| m.end <= start), self.found.partition_point(|m| m.end <= end));
        let mut found = Vec::with_capacity(to - from);
        found.extend(self.found[from..to].iter().filter(|m| m.start >= start).map(|m| m.moved_back(start)));
        Some(found)
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
    pub language: Arc<str>,
    /// Whose words they are; empty for everybody's.
    pub provider: Arc<str>,
    /// Where it was seen.
    pub source: Arc<str>,
    /// The phrase as written.
    pub phrase: String,
    /// Texts that match it.
    pub examples: Vec<String>,
    /// Shared by the rules of a block.
    pub(crate) asks: Arc<Asks>,
    fragments: u8,
    /// It asks for nothing beside its phrase, as most do.
    always: bool,
}

/// What a rule asks for beside its phrase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asks {
    pub hosts: Vec<String>,
    pub stages: Vec<Stage>,
    pub statuses: Vec<StatusPattern>,
    pub codes: Vec<u16>,
    pub from: Option<i64>,
    pub until: Option<i64>,
    /// Only in the refusing host's own words.
    pub reply_only: bool,
}

impl Asks {
    /// For nothing but perhaps a day.
    fn for_nothing(&self) -> bool {
        self.hosts.is_empty() && self.stages.is_empty() && self.statuses.is_empty() && self.codes.is_empty()
    }
}

/// `5.7.1`, `5.7.606-649`, or `5.7.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusPattern {
    pub class: u8,
    pub subject: u16,
    /// The first and the last detail.
    pub details: (u16, u16),
}

impl StatusPattern {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let details = match detail.split_once('-') {
            _ if detail == "*" => (0, u16::MAX),
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None => (detail.parse().ok()?, detail.parse().ok()?),
        };
        let class = class.parse().ok().filter(|c| [2, 4, 5].contains(c))?;
        parts.next().is_none().then_some(Self { class, subject: subject.parse().ok()?, details })
    }
    fn fits(self, status: EnhancedStatus) -> bool {
        self.class == status.class.digit()
            && self.subject == status.subject
            && (self.details.0..=self.details.1).contains(&status.detail)
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
        if self.always {
            return true;
        }
        let asks = &*self.asks;
        (asks.stages.is_empty() || at.stage.is_some_and(|stage| asks.stages.contains(&stage)))
            && (asks.statuses.is_empty() || at.status.is_some_and(|s| asks.statuses.iter().any(|p| p.fits(s))))
            && (asks.codes.is_empty() || at.code.is_some_and(|code| asks.codes.contains(&code)))
            && (asks.hosts.is_empty()
                || at
                    .hosts
                    .iter()
                    .filter(|host| !host.is_empty())
                    .any(|host| asks.hosts.iter().any(|suffix| is_within(host, suffix))))
            && asks.from.is_none_or(|from| at.date.is_none_or(|date| date.seconds >= from))
            && asks.until.is_none_or(|until| at.date.is_some_and(|date| date.seconds < until))
    }
    /// True for rules of one provider or system.
    pub fn is_special(&self) -> bool {
        !self.provider.is_empty() || !self.asks.hosts.is_empty()
    }
    /// A reply of these circumstances, for tests: host, stage, status, code, day.
    pub fn sample_circumstances(&self) -> (String, Option<Stage>, String, Option<Date>) {
        let host = self.asks.hosts.first().map_or(String::new(), |h| format!("mx.{h}"));
        let status =
            self.asks.statuses.first().map(|p| {
                format!("{}.{}.{}", p.class, p.subject, if p.details == (0, u16::MAX) { 9 } else { p.details.0 })
            });
        let code = self.asks.codes.first().map(u16::to_string);
        let words = [code, status].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let day = self.asks.until.map(|until| until - 86_400).or(self.asks.from);
        (host, self.asks.stages.first().copied(), words, day.map(Date::utc))
    }
}

/// True when `host` is `domain` or a host in it.
fn is_within(host: &str, domain: &str) -> bool {
    let (host, last) = (host.as_bytes(), domain.as_bytes().last());
    host.len() >= domain.len()
        && host.last().map(u8::to_ascii_lowercase).as_ref() == last
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

    /// Only those of the rules that are wanted, compiled anew.
    #[must_use]
    pub fn only(self, wanted: impl FnMut(&Rule) -> bool) -> Self {
        let mut rules = self.rules;
        rules.retain(wanted);
        Self::compile(rules)
    }

    /// All rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    fn compile(rules: Vec<Rule>) -> Self {
        let mut phrases: Vec<(&str, u32)> = Vec::new();
        let mut fragments = Vec::new();
        let mut bare = [const { Vec::new() }; KINDS];
        for (rule, number) in rules.iter().zip(0..) {
            if rule.fragments == 0 {
                let statuses = &rule.asks.statuses;
                let all = statuses.is_empty();
                let details = statuses.iter().fold(0, |all, pattern| all | details_of(pattern.details));
                let bare_rule = Bare { rule: number, details: if all { u64::MAX } else { details } };
                for (kind, rules) in bare.iter_mut().enumerate() {
                    if all || statuses.iter().any(|p| kind_of(Some((p.class, p.subject))) == kind) {
                        rules.push(bare_rule);
                    }
                }
                continue;
            }
            for (fragment, index) in split_phrase(&rule.phrase).zip(0..) {
                // More fragments than u32 counts do not fit into memory.
                phrases.push((fragment, u32::try_from(fragments.len()).unwrap_or(u32::MAX)));
                // `read` refuses phrases of more than eight fragments.
                fragments.push(Fragment { rule: number, index, of: rule.fragments });
            }
        }
        // The same walk looks for what notices are known by, and for what tells a command.
        let signs = u32::try_from(fragments.len()).unwrap_or(u32::MAX);
        phrases.extend(systems::signs().map(|words| -> &str { words }).zip(signs..));
        let commands = signs.saturating_add(u32::try_from(systems::signs().count()).unwrap_or(u32::MAX));
        phrases.extend(text::COMMANDS.iter().map(|(words, _)| *words).zip(commands..));
        let phrases = Phrases::of(phrases);
        Self { rules, bare, fragments, phrases, commands, explains: true }
    }

    /// Folds a text, up to `limit` bytes, and looks for all phrases.
    pub(crate) fn scan(&self, text: &str, limit: usize) -> Scan {
        self.scan_folded(fold(text, limit))
    }

    pub(crate) fn scan_folded(&self, folded: Vec<u8>) -> Scan {
        Scan { found: self.phrases.find(&folded), folded }
    }

    /// As [`Rules::scan`], for what is probably a piece of a text that has been scanned: what is known of that is not looked for
    /// again.
    pub(crate) fn scan_piece(&self, text: &str, limit: usize, whole: &Scan) -> Scan {
        let folded = fold(text, limit);
        match whole.piece(&folded) {
            Some(found) => Scan { folded, found },
            None => self.scan_folded(folded),
        }
    }

    /// Signs of notices in a scanned text (their place in [`systems::signs`]) and where they begin.
    pub(crate) fn signs<'s>(&'s self, scan: &'s Scan) -> impl Iterator<Item = (usize, usize)> + 's {
        // Ascending: fragments of rules come before them. The table of signs is shorter than what is below its end.
        let signs = self.fragments.len()..self.commands as usize;
        let of_one = move |m: &'s Match| {
            let from = signs.start;
            let numbers = self.phrases.numbers(m).iter().rev().map(|number| *number as usize);
            let (after, from_signs) = (signs.end, numbers.take_while(move |number| *number >= from));
            from_signs.filter(move |number| *number < after).map(move |number| (number - from, m.start as usize))
        };
        scan.found.iter().flat_map(of_one)
    }

    /// The command that a scanned text says was answered: by the first words that tell one, the longest where several begin there.
    pub(crate) fn stage(&self, scan: &Scan) -> Option<Stage> {
        let command = |m: &Match| {
            // Ascending: these come last.
            let place = self.phrases.numbers(m).last()?.checked_sub(self.commands)?;
            Some((m.start, Reverse(m.end), place))
        };
        let (.., place) = scan.found.iter().filter_map(command).min()?;
        text::COMMANDS.get(place as usize).map(|(_, stage)| *stage)
    }

    /// Rules whose phrases are in a scanned text, with where the phrase begins and ends. Each rule once, in the order in
    /// which they are complete.
    pub(crate) fn matches(&self, scan: &Scan, mut each: impl FnMut(&Rule, usize, usize)) {
        // Bits for each rule: those that were reported, and those of several fragments that have begun.
        let (mut few, mut many) = ([(0_u64, 0_u64); 64], Vec::new());
        let marks = if self.rules.len() < few.len() * 64 {
            few.as_mut_slice()
        } else {
            many.resize(self.rules.len() / 64 + 1, (0, 0));
            many.as_mut_slice()
        };
        let mut open: Vec<Begun> = Vec::new();
        for found in &scan.found {
            for number in self.phrases.numbers(found) {
                // Ascending: those of rules come first.
                let Some(fragment) = self.fragments.get(*number as usize) else { break };
                let ((reported, begun), bit) = (&mut marks[fragment.rule as usize / 64], 1 << (fragment.rule % 64));
                if *reported & bit != 0 {
                    continue;
                }
                let start = if fragment.of == 1 {
                    Some(found.start as usize)
                } else if *begun & bit != 0 {
                    let known = open.iter_mut().find(|known| known.rule == fragment.rule);
                    known.and_then(|known| known.goes_on(fragment, found))
                } else {
                    // A rule that begins, or a piece of a phrase that has no beginning.
                    if fragment.index == 0 && open.len() < 500 {
                        *begun |= bit;
                        if open.is_empty() {
                            open.reserve(16);
                        }
                        open.push(Begun::of(fragment, found));
                    }
                    None
                };
                if let Some(start) = start {
                    *reported |= bit;
                    each(&self.rules[fragment.rule as usize], start, found.end as usize);
                }
            }
        }
    }

    /// Rules that ask for no phrase and may fit a status.
    pub(crate) fn bare(&self, status: Option<EnhancedStatus>) -> impl Iterator<Item = &Rule> {
        let kind = kind_of(status.map(|s| (s.class.digit(), s.subject)));
        let detail = status.map_or(u64::MAX, |s| 1 << (s.detail & 63));
        let may_fit = move |bare: &&Bare| bare.details & detail != 0;
        self.bare[kind].iter().filter(may_fit).map(|bare| &self.rules[bare.rule as usize])
    }
}

/// A rule of several fragments that has begun.
struct Begun {
    rule: u32,
    next: u8,
    start: usize,
    /// Where the last fragment ended.
    end: usize,
}

impl Begun {
    fn of(fragment: &Fragment, found: &Match) -> Self {
        Self { rule: fragment.rule, next: 1, start: found.start as usize, end: found.end as usize }
    }

    /// A further fragment was found: where the phrase begins, if it was the last.
    fn goes_on(&mut self, fragment: &Fragment, found: &Match) -> Option<usize> {
        let start = found.start as usize;
        if self.next == fragment.index && start >= self.end && start - self.end <= MAX_GAP {
            self.next += 1;
            self.end = found.end as usize;
            return (self.next == fragment.of).then_some(self.start);
        }
        if fragment.index == 0 && self.next == 1 {
            // A fresh beginning: the first one has led nowhere yet.
            *self = Self::of(fragment, found);
        }
        None
    }
}

fn split_phrase(phrase: &str) -> impl Iterator<Item = &str> {
    phrase.split(" .. ").map(str::trim).filter(|f| !f.is_empty())
}

/// So many bytes are folded together; the compiler makes them a few vectors.
const BLOCK: usize = 32;

/// Bytes folded at once (`before` are the bytes before each), a line end as a blank, and how many of them that is all for: up to
/// the first other control character, byte that is no ASCII, or second blank.
fn folded_block(block: &[u8; BLOCK], before: &[u8; BLOCK]) -> ([u8; BLOCK], usize) {
    let blank = |byte: u8| (byte == b' ') | (byte == b'\n');
    let (mut folded, mut other) = ([0; BLOCK], [0; BLOCK]);
    for ((folded, other), (byte, before)) in folded.iter_mut().zip(&mut other).zip(block.iter().zip(before)) {
        let control = (*byte < b' ') & (*byte != b'\n');
        *other = u8::from(control | (*byte >= 128) | (blank(*byte) & blank(*before)));
        let byte = if *byte == b'\n' { b' ' } else { *byte };
        *folded = byte | u8::from(byte.wrapping_sub(b'A') < 26) << 5;
    }
    let mut plain = 0;
    for eight in other.as_chunks::<8>().0 {
        let other = u64::from_le_bytes(*eight);
        plain += (other.trailing_zeros() / 8) as usize;
        if other != 0 {
            break;
        }
    }
    (folded, plain)
}

/// Text as phrases are compared with it: lower case, white space squeezed, typographic quotes made plain, line ends within
/// Japanese, Chinese or Korean text left out. At most `limit` bytes of it (or a character more). It is UTF-8.
pub(crate) fn fold(text: &str, limit: usize) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(text.len().min(limit) + BLOCK);
    let mut blank = false;
    let mut wide_before = false;
    let mut broken = false;
    let mut at = 0;
    while at < bytes.len() && out.len() < limit {
        if bytes[at] < 128 {
            if bytes[at].is_ascii_whitespace() {
                blank = true;
                broken |= bytes[at] == b'\n';
                at += 1;
                continue;
            }
            if blank && !out.is_empty() {
                out.push(b' ');
            }
            (blank, wide_before, broken) = (false, false, false);
            let begun = at;
            while out.len() + BLOCK < limit {
                let mut padded;
                let both: &[u8; BLOCK + 1] =
                    match at.checked_sub(1).and_then(|before| bytes.get(before..)?.first_chunk()) {
                        Some(both) => both,
                        None => {
                            // A control character behind the text ends it; before it stands no blank.
                            padded = [1; BLOCK + 1];
                            let (from, to) = (at.saturating_sub(1), bytes.len().min(at + BLOCK));
                            padded[usize::from(at == 0)..][..to - from].copy_from_slice(&bytes[from..to]);
                            &padded
                        }
                    };
                let ([before @ .., _], [_, block @ ..]) = (both, both);
                let (folded, plain) = folded_block(block, before);
                let end = out.len() + plain;
                out.extend_from_slice(&folded);
                out.truncate(end);
                at += plain;
                if plain < BLOCK {
                    break;
                }
            }
            if at == begun {
                // A control character, or no room for a block.
                out.push(bytes[at].to_ascii_lowercase());
                at += 1;
            } else if out.last() == Some(&b' ') {
                // What comes after a last blank tells whether it is written.
                out.pop();
                blank = true;
            }
            continue;
        }
        let wide_end = at + plain_wide(&bytes[at..]);
        if at < wide_end {
            if blank && !out.is_empty() && !(wide_before && broken) {
                out.push(b' ');
            }
            (blank, wide_before, broken) = (false, true, false);
            // All of them, or those that begin before the limit, and one at least.
            let room = limit.saturating_sub(out.len()).clamp(1, bytes.len());
            let end = wide_end.min(at + room.div_ceil(3) * 3);
            out.extend_from_slice(&bytes[at..end]);
            at = end;
            continue;
        }
        // Not ASCII, so a character begins here: what was passed over were whole ones.
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
        at += c.len_utf8();
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
            out.push(b' ');
        }
        (blank, wide_before, broken) = (false, wide, false);
        let mut utf8 = [0; 4];
        if wide {
            out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        } else {
            c.to_lowercase().for_each(|c| out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes()));
        }
    }
    out
}

/// How many bytes at the beginning of a text are characters of three bytes that stay as they are: kana, Chinese characters,
/// syllables of Korean. (Those before them are signs as well, and the blank that is as wide.)
fn plain_wide(text: &[u8]) -> usize {
    let stays = |one: &&[u8; 3]| matches!(one[0], 0xe3..=0xed) && **one != *"\u{3000}".as_bytes();
    text.as_chunks::<3>().0.iter().take_while(stays).count() * 3
}

/// A folded text, or a piece of one, as text.
pub(crate) fn folded_text(folded: &[u8]) -> String {
    String::from_utf8_lossy(folded).into_owned()
}

/// What holds for the rules of a block.
#[derive(Clone, Default)]
struct Block {
    reason: Option<Reason>,
    weight: u8,
    language: Arc<str>,
    provider: Arc<str>,
    source: Arc<str>,
    asks: Arc<Asks>,
}

fn read(file: &str, text: &str, rules: &mut Vec<Rule>) -> Result<(), RuleError> {
    let mut whole = Block { weight: 60, language: Arc::from("en"), ..Block::default() };
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
    if phrase != "*" {
        let folded = fold(phrase, usize::MAX);
        if folded != phrase.as_bytes() {
            return Err(format!("write the phrase as it is compared: \"{}\"", folded_text(&folded)));
        }
    }
    if phrase == "*" && block.asks.for_nothing() {
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
        always: block.asks.for_nothing() && block.asks.from.is_none() && block.asks.until.is_none(),
        asks: block.asks.clone(),
        fragments: u8::try_from(fragments).unwrap_or(u8::MAX),
    })
}

fn attribute(block: &mut Block, key: &str, value: &str) -> Result<(), String> {
    let words = value.split_whitespace();
    // Shared with the rules above this line: from here on it is another one.
    let asks = Arc::make_mut(&mut block.asks);
    match key {
        "language" => block.language = Arc::from(value),
        "provider" => block.provider = Arc::from(value),
        "source" => block.source = Arc::from(value),
        "weight" => {
            block.weight = value
                .parse()
                .ok()
                .filter(|w| (1..=100).contains(w))
                .ok_or_else(|| format!("a weight is a number from 1 to 100, not \"{value}\""))?;
        }
        "host" => asks.hosts = words.map(|host| host.trim_start_matches('.').to_ascii_lowercase()).collect(),
        "stage" => {
            asks.stages = words
                .map(|word| Stage::named(word).ok_or_else(|| format!("no stage is called \"{word}\"")))
                .collect::<Result<_, _>>()?;
        }
        "status" => {
            asks.statuses = words
                .map(|word| StatusPattern::parse(word).ok_or_else(|| format!("\"{word}\" is no status code")))
                .collect::<Result<_, _>>()?;
        }
        "code" => {
            asks.codes = words
                .map(|word| {
                    let code = word.parse().ok().filter(|c| (200..600).contains(c));
                    code.ok_or_else(|| format!("\"{word}\" is no reply code"))
                })
                .collect::<Result<_, _>>()?;
        }
        "place" => {
            asks.reply_only = match value {
                "reply" => true,
                "any" => false,
                _ => return Err(format!("a place is \"reply\" or \"any\", not \"{value}\"")),
            };
        }
        "from" | "until" => {
            let day = civil::parse_day(value).ok_or_else(|| format!("a day is written 2025-03-01, not \"{value}\""))?;
            if key == "from" { asks.from = Some(day) } else { asks.until = Some(day + 86_400) }
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
        rules.matches(&rules.scan(text, 10_000), |rule, _, _| all.push(rule.reason));
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
    fn a_piece_has_what_a_search_of_its_own_finds() {
        let rules = Rules::default();
        let human = "This is the mail system at host mx.a.jp.\n\n<kim@a.jp>: host mx.b.jp[192.0.2.1] said: 550 5.1.1\n    \
            <kim@b.jp>: Recipient address rejected: User unknown (in reply to RCPT TO command)\n\n容量オーバーです; mailbox full";
        let whole = rules.scan(human, usize::MAX);
        let mut known = 0;
        for from in (0..human.len()).filter(|at| human.is_char_boundary(*at)) {
            for to in (from..=human.len()).step_by(5).filter(|at| human.is_char_boundary(*at)) {
                let own = rules.scan(&human[from..to], usize::MAX);
                known += usize::from(whole.piece(&own.folded).is_some());
                let piece = rules.scan_piece(&human[from..to], usize::MAX, &whole);
                assert_eq!((piece.folded, piece.found), (own.folded, own.found), "{}", &human[from..to]);
            }
        }
        assert!(known > 1000, "{known}");
    }

    /// [`fold`] as it reads, one character after the other.
    fn folded_slowly(text: &str, limit: usize) -> String {
        let mut out = String::new();
        let (mut blank, mut broken, mut wide_before) = (false, false, false);
        for c in text.chars() {
            if out.len() >= limit {
                break;
            }
            if c.is_ascii_whitespace() || c == '\u{a0}' || c == '\u{3000}' {
                blank = true;
                broken |= c == '\n';
                continue;
            }
            let c = if c == '\u{2019}' { '\'' } else { c };
            let wide = c >= '\u{1100}';
            if blank && !out.is_empty() && !(wide && wide_before && broken) {
                out.push(' ');
            }
            (blank, broken, wide_before) = (false, false, wide);
            if wide { out.push(c) } else { out.extend(c.to_lowercase()) }
        }
        out
    }

    #[test]
    fn folding_by_the_block_is_folding_by_the_character() {
        let pieces = [
            "a",
            "Bcd",
            "EFGHIJKLMNOP qrstu",
            " ",
            "  ",
            "\n",
            "\t",
            "\u{1}",
            "\u{7f}",
            "É",
            "ẞ",
            "容",
            "容量オーバー",
            "\u{3000}",
            "’",
            "\r\n",
        ];
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..5000 {
            let text: String = (0..random(40)).map(|_| pieces[random(pieces.len())]).collect();
            for limit in [usize::MAX, random(200)] {
                assert_eq!(folded_text(&fold(&text, limit)), folded_slowly(&text, limit), "{text:?} up to {limit}");
            }
        }
    }

    #[test]
    fn folding() {
        for (text, limit, expected) in [
            ("  A\u{a0}b \n Ç’ ", 100, "a b ç'"),
            ("見つ\nかりません x\ny", 100, "見つかりません x y"),
            ("Abcdef ghi", 4, "abcd"),
            ("ab\tcd\r\n", 100, "ab cd"),
        ] {
            assert_eq!(folded_text(&fold(text, limit)), expected, "{text}");
        }
    }
}

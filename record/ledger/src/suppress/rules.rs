//! Which failures suppress an address: a table that people read and write.
//!
//! A line has a reason, how many times, within which time, for how long, and a sender domain where it is for that one only:
//!
//! ```text
//! # reason      times  within  for      sender domain
//! userunknown   1      -       forever
//! mailboxfull   5      14d     14d
//! mailboxfull   3      7d      30d      news.example.jp
//! ```

use std::fmt;
use std::time::Duration;

use crate::{GUESS, SURE};

/// The rules where no file is named.
pub const BUILT_IN: &str = "\
# reason      times  within  for      sender domain
userunknown   1      -       forever
hasmoved      1      -       forever
hostunknown   3      14d     90d
suspend       2      30d     90d
mailboxfull   5      30d     30d
expired       3      60d     30d
notaccept     2      30d     180d
complaint     1      -       forever
";

/// Reasons that tell something of our mail, our host or their system, and nothing of the address.
pub const NEVER: [&str; 26] = [
    "filtered",
    "rejected",
    "blocked",
    "badreputation",
    "spamdetected",
    "virusdetected",
    "contenterror",
    "policyviolation",
    "securityerror",
    "authfailure",
    "requireptr",
    "norelaying",
    "notcompliantrfc",
    "mesgtoobig",
    "exceedlimit",
    "emailtoolarge",
    "syntaxerror",
    "systemerror",
    "systemfull",
    "networkerror",
    "mailererror",
    "toomanyconn",
    "speeding",
    "ratelimited",
    "failedstarttls",
    "vacation",
];

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Sisimai's name of the reason, or `complaint`.
    pub reason: String,
    /// So often.
    pub times: u32,
    /// Within so long; `None`: ever.
    pub within: Option<Duration>,
    /// The address is kept back for so long; `None`: for ever.
    pub lasts: Option<Duration>,
    /// For mail of this domain only, small letters; empty: of all.
    pub sender: String,
}

/// All lines of a file, and how sure a report must be to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    least: u8,
}

/// A line that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for RuleError {}

impl Default for Rules {
    fn default() -> Self {
        // The built-in text is well formed: a test reads it.
        Self::parse(BUILT_IN).unwrap_or(Self { rules: Vec::new(), least: SURE })
    }
}

impl Rules {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            if !line.is_empty() {
                rules.push(rule(line).map_err(|why| RuleError { line: number, why })?);
            }
        }
        Ok(Self { rules, least: SURE })
    }

    /// Reports count from wherever they come, if they name the message: then anybody who knows of one can have an address
    /// suppressed.
    #[must_use]
    pub fn believing_all(self) -> Self {
        Self { least: GUESS + 1, ..self }
    }

    /// A report that was joined by as much as that counts.
    pub fn counts(&self, confidence: u8) -> bool {
        confidence >= self.least
    }

    /// The rule for a reason and a sender's domain: its own before that of all.
    pub fn of(&self, reason: &str, sender: &str) -> Option<&Rule> {
        let same = |rule: &&Rule| rule.reason.eq_ignore_ascii_case(reason);
        let own = self
            .rules
            .iter()
            .filter(same)
            .find(|rule| !rule.sender.is_empty() && rule.sender.eq_ignore_ascii_case(sender));
        own.or_else(|| self.rules.iter().filter(same).find(|rule| rule.sender.is_empty()))
    }
}

fn rule(line: &str) -> Result<Rule, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (reason, times, within, lasts, sender) = match words.as_slice() {
        [reason, times, within, lasts] => (reason, times, within, lasts, ""),
        [reason, times, within, lasts, sender] => (reason, times, within, lasts, *sender),
        _ => {
            return Err(
                "a rule has four words: reason, times, within, for; and a sender domain where it is for that one"
                    .into(),
            );
        }
    };
    let reason = reason.to_ascii_lowercase();
    if NEVER.contains(&reason.as_str()) {
        return Err(format!("{reason} tells nothing of the address: it cannot suppress one; take the line out"));
    }
    if reason != "complaint" && reason.parse::<yamabiko_analyze::Reason>().is_err() {
        return Err(format!("{reason}: no such reason"));
    }
    let times: u32 = times
        .parse()
        .ok()
        .filter(|times| (1..=1000).contains(times))
        .ok_or(format!("{times}: how many times? 1 to 1000"))?;
    Ok(Rule {
        reason,
        times,
        within: time(within, "-")?,
        lasts: time(lasts, "forever")?,
        sender: sender.trim_start_matches('@').to_ascii_lowercase(),
    })
}

/// `14d`, `36h`, `2w`; the word for no end.
fn time(word: &str, none: &str) -> Result<Option<Duration>, String> {
    if word.eq_ignore_ascii_case(none) || word == "-" {
        return Ok(None);
    }
    let wrong = || format!("{word}: no time; write 36h, 14d, 4w or {none}");
    let at = word.char_indices().next_back().map_or(0, |(at, _)| at);
    let (number, unit) = word.split_at(at);
    let seconds: u64 = match unit {
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Some(Duration::from_secs(number.min(100_000) * seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_ones() {
        let rules = Rules::parse(BUILT_IN).unwrap();
        assert_eq!(rules, Rules::default());
        let rule = rules.of("mailboxfull", "a.test").unwrap();
        assert_eq!((rule.times, rule.within), (5, Some(Duration::from_secs(30 * 86_400))));
        for never in NEVER {
            assert_eq!(rules.of(never, ""), None, "{never}");
        }
    }

    #[test]
    fn own_rules_and_faults() {
        let rules = Rules::parse("mailboxfull 5 14d 14d # all\n\nmailboxfull 1 - forever @News.test\n").unwrap();
        assert_eq!(rules.of("mailboxfull", "news.TEST").map(|rule| rule.times), Some(1));
        assert_eq!(rules.of("mailboxfull", "x.test").map(|rule| rule.times), Some(5));
        for (text, line) in [
            ("filtered 1 - forever", 1),
            ("\nuserunknown 0 - forever", 2),
            ("userunknown 1 - sometimes", 1),
            ("nosuchreason 1 - forever", 1),
            ("userunknown", 1),
            ("userunknown 1 日 forever", 1),
        ] {
            assert_eq!(Rules::parse(text).map_err(|error| error.line), Err(line), "{text}");
        }
    }
}

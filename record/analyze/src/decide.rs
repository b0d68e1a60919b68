//! Evidence weighed: from everything that was seen to one reason.
//!
//! Each rule that fits adds evidence with its weight. What stands in the refusing host's own words (the diagnostic) counts
//! in full, what the reporting system wrote around it counts less when there are such words. A reason's score is its
//! heaviest evidence and a quarter of each other kind; the highest score wins. Where the words say "no such user", the stage of the
//! dialogue and the status code decide whether that can be believed ([`unknown_user`]).

use crate::analyzer::Stage;
use crate::finding::{Date, Evidence, EvidenceKind};
use crate::rules::{Circumstances, Rule, Scan};
use crate::{Reason, Rules};
use std::borrow::Cow;
use std::fmt;
use yamabiko_status::EnhancedStatus;

/// Rules of this weight and more are certain of themselves: the stage does not change them.
const CERTAIN: u8 = 75;

/// What is known of one failure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts<'a> {
    /// What the reporting system wrote for people, scanned up to [`LIMIT`].
    pub human: Option<&'a Scan>,
    pub status: Option<EnhancedStatus>,
    pub code: Option<u16>,
    pub stage: Option<Stage>,
    pub rhost: &'a str,
    pub lhost: &'a str,
    pub destination: &'a str,
    pub date: Option<Date>,
    /// The notice is about a delay.
    pub delayed: bool,
    /// Without a stage, "no such user" is believed (a bare reply) or not (a notice of another system).
    pub trusting: bool,
    /// What the system is known to mean: reason, weight and the name of the rule.
    pub hint: Option<(Reason, u8, &'static str)>,
    /// `X-UNIX` and other types of diagnostic that are no SMTP.
    pub local: bool,
    /// `X-UNIX`: what a program said.
    pub program: bool,
    /// The system that wrote the notice.
    pub system: &'a str,
}

/// A reason and what it rests on.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub reason: Reason,
    pub evidence: Vec<Evidence>,
    pub confidence: u8,
    /// More was seen than single words.
    pub more_than_words: bool,
}

/// Texts are folded up to this many bytes: a reply is never longer, a notice says it in the beginning.
pub(crate) const LIMIT: usize = 16 * 1024;

/// What the facts mean, and the words of the refusing host, scanned up to [`LIMIT`].
pub(crate) fn decide(rules: &Rules, said: &Scan, facts: &Facts<'_>) -> Decision {
    let mut facts = *facts;
    if facts.stage == Some(Stage::Data) && facts.status.is_some_and(|s| (s.subject, s.detail) == (1, 1)) {
        // Commands are pipelined: the last one that a transcript shows is DATA, but the code says that it was RCPT.
        facts.stage = Some(Stage::Rcpt);
    }
    let facts = &facts;
    let at = Circumstances {
        hosts: [facts.rhost, facts.destination, if facts.rhost.is_empty() { facts.lhost } else { "" }],
        stage: facts.stage,
        status: facts.status,
        code: facts.code,
        date: facts.date,
    };
    let mut scale =
        Scale { facts, found: Vec::with_capacity(24), told: rules.explains.then(Vec::new), more_than_words: false };
    if let Some((reason, weight, rule)) = facts.hint {
        scale.add(EvidenceKind::System, reason, rule, "system", weight, "");
    }
    let sentence;
    let diagnostic = if repeats_code(said.folded()) {
        let words = String::from_utf8_lossy(said.folded());
        sentence = rules.scan_folded(without_repeated_codes(&words).into_owned().into_bytes());
        &sentence
    } else {
        said
    };
    rules.matches(diagnostic, |rule, start, end| {
        if rule.fits(&at) {
            scale.phrase(rule, "diagnostic", rule.weight, diagnostic.words(start, end));
        }
    });
    let believed = scale.heaviest();
    if let Some(human) = facts.human {
        // The refusing host's status is about policy, the message or the protocol, not about an address.
        let of_something_else = !said.is_empty() && facts.status.is_some_and(|s| matches!(s.subject, 3 | 5 | 6 | 7));
        // Words around a diagnostic that speaks for itself are mostly boilerplate; those of a known system less so.
        let percent = |special: bool| -> u32 {
            if diagnostic.is_empty() {
                100
            } else if believed >= 40 && !special {
                20
            } else {
                80
            }
        };
        rules.matches(human, |rule, start, end| {
            if !rule.asks.reply_only && rule.fits(&at) {
                // "User unknown" is what sendmail makes of any 550, also of one that speaks of something else.
                let gloss = rule.reason == Reason::UserUnknown && of_something_else;
                let percent = if gloss {
                    20
                } else {
                    percent(
                        !rule.asks.hosts.is_empty() || (!rule.provider.is_empty() && *rule.provider == *facts.system),
                    )
                };
                let weight = u8::try_from(u32::from(rule.weight) * percent / 100).unwrap_or(rule.weight).max(1);
                scale.phrase(rule, "text", weight, human.words(start, end));
            }
        });
    }
    for rule in rules.bare(facts.status) {
        if rule.fits(&at) {
            scale.bare(rule, &at);
        }
    }
    if facts.program {
        scale.add(EvidenceKind::System, Reason::MailerError, "type:x-unix", "Diagnostic-Code", 34, "");
    }
    if facts.delayed {
        scale.add(EvidenceKind::Action, Reason::Expired, "action:delayed", "Action", 12, "delayed");
    }
    scale.verdict(said.is_empty())
}

/// The reply code at the beginning of a folded reply stands in it again.
fn repeats_code(folded: &[u8]) -> bool {
    let Some((code, rest)) = folded.split_at_checked(3) else { return false };
    code.iter().all(u8::is_ascii_digit)
        && memchr::memchr_iter(code[0], rest).any(|at| rest.get(at..at + 3).is_some_and(|again| again == code))
}

/// The code at the beginning of each further line of a reply is no part of the sentence: `550 5.7.1 not 550 5.7.1 wanted`.
pub(crate) fn without_repeated_codes(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let Some(code) = bytes.get(..3).filter(|c| c.iter().all(u8::is_ascii_digit)) else {
        return Cow::Borrowed(text);
    };
    if memchr::memmem::find(&bytes[3..], code).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut words = text.split(' ');
    out.push_str(words.next().unwrap_or(""));
    let mut dropped = false;
    for word in words {
        let tail = word.as_bytes().strip_prefix(code);
        // `550`, `550-5.7.1`, `550-text`
        if let Some(tail) = tail
            && (tail.is_empty() || tail[0] == b'-')
        {
            let tail = word.get(4..).unwrap_or("");
            dropped = true;
            if !tail.is_empty() && !is_status(tail) {
                out.push(' ');
                out.push_str(tail);
                dropped = false;
            }
            continue;
        }
        if dropped && is_status(word) {
            continue;
        }
        dropped = false;
        out.push(' ');
        out.push_str(word);
    }
    Cow::Owned(out)
}

fn is_status(word: &str) -> bool {
    word.parse::<EnhancedStatus>().is_ok()
}

struct Scale<'f, 'a> {
    facts: &'f Facts<'a>,
    found: Vec<Found>,
    /// Rule and words of each of them, where somebody wants to read them.
    told: Option<Vec<(String, String)>>,
    more_than_words: bool,
}

/// What an [`Evidence`] weighs, without what it says.
#[derive(Clone, Copy)]
struct Found {
    kind: EvidenceKind,
    reason: Reason,
    weight: u8,
    place: &'static str,
    /// Its place among [`Scale::told`].
    number: u8,
}

impl Scale<'_, '_> {
    fn add(&mut self, kind: EvidenceKind, reason: Reason, rule: &str, place: &'static str, weight: u8, text: &str) {
        if self.found.len() < 64 {
            self.more_than_words |= !rule.starts_with("words.rules:");
            if let Some(told) = &mut self.told {
                told.push((rule.to_owned(), text.to_owned()));
            }
            // Fewer than 64.
            self.found.push(Found { kind, reason, weight, place, number: self.found.len() as u8 });
        }
    }

    fn phrase(&mut self, rule: &Rule, place: &'static str, weight: u8, words: &[u8]) {
        let text = if self.told.is_some() { String::from_utf8_lossy(words) } else { Cow::Borrowed("") };
        let text = &*text;
        let kind = if rule.is_special() { EvidenceKind::Provider } else { EvidenceKind::Phrase };
        let mut reason = rule.reason;
        if self.facts.stage == Some(Stage::Mail)
            && matches!(reason, Reason::UserUnknown | Reason::HostUnknown | Reason::Filtered)
        {
            // At MAIL nothing has been said of the recipient yet: it is the sender who is unknown.
            reason = Reason::Rejected;
        }
        if rule.weight < CERTAIN
            && matches!(self.facts.stage, Some(Stage::Conn | Stage::Ehlo))
            && matches!(reason, Reason::UserUnknown | Reason::MailboxFull | Reason::Suspend | Reason::Filtered)
        {
            // Nor has anybody been named: it is the client that is not wanted.
            reason = Reason::Blocked;
        }
        // Words of another language are a system's own to its users, not a reply.
        if rule.weight < CERTAIN && &*rule.language == "en" && reason == Reason::UserUnknown {
            reason = unknown_user(self.facts);
        }
        if rule.weight < CERTAIN
            && reason == Reason::Filtered
            && rule.reason == Reason::Filtered
            && before_data(self.facts.stage)
        {
            // No content has been seen yet: whatever it says, no filter of the recipient has judged it.
            reason = if self.facts.stage == Some(Stage::Rcpt) { Reason::UserUnknown } else { Reason::Rejected };
            return self.add(kind, reason, &rule.name, place, weight / 2, text);
        }
        self.add(kind, reason, &rule.name, place, weight, text);
    }

    fn bare(&mut self, rule: &Rule, at: &Circumstances<'_>) {
        let kind = if rule.is_special() {
            EvidenceKind::Provider
        } else if !rule.asks.statuses.is_empty() {
            EvidenceKind::Status
        } else if !rule.asks.codes.is_empty() {
            EvidenceKind::ReplyCode
        } else {
            EvidenceKind::Stage
        };
        let explains = self.told.is_some();
        let written = |text: &dyn fmt::Display| if explains { text.to_string() } else { String::new() };
        let (place, text) = match (kind, at.status, at.code, at.stage) {
            (EvidenceKind::Status, Some(status), ..) => ("Status", written(&status)),
            (EvidenceKind::ReplyCode, _, Some(code), _) => ("reply code", written(&code)),
            (EvidenceKind::Stage, _, _, Some(stage)) => ("stage", written(&stage.name())),
            _ => ("host", at.hosts.iter().find(|h| !h.is_empty()).map_or(String::new(), |host| written(host))),
        };
        self.add(kind, rule.reason, &rule.name, place, rule.weight, &text);
    }

    fn heaviest(&self) -> u8 {
        self.found.iter().map(|e| e.weight).max().unwrap_or(0)
    }

    fn verdict(mut self, silent: bool) -> Decision {
        // Stable: of equal weights the one found first stays first.
        self.found.sort_by_key(|e| std::cmp::Reverse(e.weight));
        let mut scores = [None::<u32>; Reason::ALL.len()];
        for (number, evidence) in self.found.iter().enumerate() {
            let weight = u32::from(evidence.weight) * 4;
            // Words beside words are mostly pieces of the same words: only another kind of evidence makes it surer.
            let again = self.found[..number]
                .iter()
                .any(|e| e.reason == evidence.reason && (e.kind == evidence.kind || e.place == evidence.place));
            match &mut scores[evidence.reason as usize] {
                // The heaviest comes first; each further one adds a quarter, as far as 30 points.
                Some(score) if !again => *score += (weight / 4).min(30),
                Some(_) => {}
                first => *first = Some(weight),
            }
        }
        // Of equal scores the one whose evidence was found first.
        let Some(first) = self.found.iter().min_by_key(|e| std::cmp::Reverse(scores[e.reason as usize])) else {
            let reason = if silent { Reason::Undefined } else { Reason::OnHold };
            return Decision { reason, evidence: Vec::new(), confidence: 5, more_than_words: false };
        };
        let reason = first.reason;
        let best = scores[reason as usize].take().unwrap_or(0);
        let second = scores.iter().flatten().max().copied().unwrap_or(0);
        // Half of it is how heavy the evidence is, half by how far it leads.
        let lead = 100 * (best - second.min(best)) / best.max(1);
        let confidence = (best.min(400) / 8 + lead / 2).clamp(5, 99);
        let confidence = u8::try_from(confidence).unwrap_or(99);
        let more_than_words = self.more_than_words;
        Decision { reason, evidence: self.evidence(), confidence, more_than_words }
    }
}

impl Scale<'_, '_> {
    /// All that was found, with what it says: nothing where nobody wants to read it.
    fn evidence(self) -> Vec<Evidence> {
        let Some(mut told) = self.told else { return Vec::new() };
        let whole = |found: Found| {
            let (rule, text) = told.get_mut(usize::from(found.number)).map(std::mem::take).unwrap_or_default();
            Evidence { kind: found.kind, reason: found.reason, rule, place: found.place, weight: found.weight, text }
        };
        self.found.into_iter().map(whole).collect()
    }
}

fn before_data(stage: Option<Stage>) -> bool {
    stage.is_some_and(|stage| stage < Stage::Data)
}

/// "No such user": believed when said at RCPT, or when the status code says so too. Said after DATA, or by a system that
/// does not say when, it is what filters of the recipient answer: to say more would tell spammers which addresses exist.
fn unknown_user(facts: &Facts<'_>) -> Reason {
    let status = facts.status.map(|s| (s.subject, s.detail));
    let filtered = matches!(status, Some((2, 0 | 1 | 4) | (1, 4)));
    match facts.stage {
        Some(Stage::Rcpt) => Reason::UserUnknown,
        _ if matches!(status, Some((1, 0 | 1 | 3 | 10 | 351))) => Reason::UserUnknown,
        _ if facts.local => Reason::UserUnknown,
        // A gateway passes on what the customer's own server answered at RCPT.
        None if (facts.trusting || facts.system == "MessageLABS") && !filtered => Reason::UserUnknown,
        _ => Reason::Filtered,
    }
}

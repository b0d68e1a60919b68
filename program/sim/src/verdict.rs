//! What was sent beside what was seen: every recipient as its address said, nothing lost, nothing twice.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::behaviour::{Behaviour, Expected};
use crate::source::Sent;
use crate::tally::{Recipient, Report};

/// How many cases of each kind are named.
const NAMED: usize = 10;

/// What does not agree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages that a server took for a recipient.
    pub promised: u64,
    /// Of these, those that are where they should be, or nowhere where they should not be.
    pub right: u64,
    /// Taken by the server, and not seen (yet) though the recipient takes mail.
    pub missing: Vec<(String, String)>,
    /// Seen more than once though the client was told of the first.
    pub doubled: Vec<(String, String)>,
    /// Seen at recipients that never take mail, or that nobody can reach.
    pub impossible: Vec<(String, String)>,
}

/// Joins both reports.
pub fn join(sent: impl IntoIterator<Item = Sent>, report: &Report<serde_json::Value>) -> Verdict {
    let mut verdict = Verdict::default();
    let nothing = Recipient::default();
    for message in sent {
        for recipient in &message.taken {
            let key = recipient.to_ascii_lowercase();
            let domain = key.rsplit_once('@').map_or("", |(_, domain)| domain);
            let reachable = report.domains.get(domain).is_some_and(|site| !report.unreachable.contains(site));
            let of = report.recipients.get(&key).unwrap_or(&nothing);
            let seen = of.taken.get(&message.number).copied().unwrap_or(0);
            let unsaid = of.unsaid.get(&message.number).copied().unwrap_or(0);
            // The server that broke off after the dot may have kept it or not.
            let promised = message.outcome == "taken";
            let expected = if reachable { Behaviour::of(recipient).expected() } else { Expected::Never };
            let case = || (message.number.clone(), recipient.clone());
            verdict.promised += 1;
            match (expected, seen) {
                (Expected::Never, 0) | (Expected::Once, 1) => verdict.right += 1,
                (Expected::AtLeastOnce, 1..) => verdict.right += 1,
                (Expected::Once | Expected::AtLeastOnce, 0) if !promised => verdict.right += 1,
                (Expected::Once, _) if seen > 1 && seen - unsaid <= 1 => verdict.right += 1,
                (Expected::Never, _) => verdict.impossible.push(case()),
                (_, 0) => verdict.missing.push(case()),
                _ => verdict.doubled.push(case()),
            }
        }
    }
    verdict
}

/// Reads both files and prints what does not agree.
pub fn run(source: &Path, report: &Path) -> ExitCode {
    match read(source, report) {
        Err(why) => {
            eprintln!("yamabiko sim: {why}");
            ExitCode::from(66)
        }
        Ok(verdict) => {
            print!("{}", text(&verdict));
            let well = verdict.missing.is_empty() && verdict.doubled.is_empty() && verdict.impossible.is_empty();
            ExitCode::from(u8::from(!well))
        }
    }
}

fn read(source: &Path, report: &Path) -> Result<Verdict, String> {
    let load = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let lines = load(source)?;
    let sent: Result<Vec<Sent>, _> = lines.lines().map(serde_json::from_str).collect();
    let sent = sent.map_err(|error| format!("{}: {error}", source.display()))?;
    let report = serde_json::from_str(&load(report)?).map_err(|error| format!("{}: {error}", report.display()))?;
    Ok(join(sent, &report))
}

fn text(verdict: &Verdict) -> String {
    let mut out = format!("{} promised, {} right", verdict.promised, verdict.right);
    let kinds = [("doubled", &verdict.doubled), ("missing", &verdict.missing), ("impossible", &verdict.impossible)];
    // Writing to a String does not fail.
    for (word, cases) in kinds {
        let _ = write!(out, ", {} {word}", cases.len());
    }
    for (word, cases) in kinds {
        for (number, recipient) in cases.iter().take(NAMED) {
            let _ = write!(out, "\n  {word}: {number} to {recipient}");
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tally::Totals;

    #[test]
    fn every_recipient_as_its_address_says() {
        let mut recipients: BTreeMap<String, Recipient> = BTreeMap::new();
        let mut seen = |recipient: &str, taken: u32, unsaid: u32| {
            let of = recipients.entry(recipient.to_owned()).or_default();
            of.taken.insert("1".into(), taken);
            of.unsaid.insert("1".into(), unsaid);
        };
        seen("ok@a", 1, 0);
        seen("twice@a", 2, 0);
        seen("again@a", 2, 1);
        seen("lostreply@a", 3, 3);
        seen("unknown@a", 1, 0);
        let report = Report {
            version: 1,
            sites: BTreeMap::new(),
            domains: [("a", "plain"), ("d", "dead")].map(|(domain, site)| (domain.into(), site.into())).into(),
            unreachable: vec!["dead".into()],
            recipients,
            totals: Totals::default(),
        };
        // Recipient, whether the server said 250, and what is to be said of it.
        let cases = [
            ("Ok@A", true, "right"),
            ("missing@a", true, "missing"),
            ("missing@a", false, "right"),
            ("twice@a", true, "doubled"),
            ("again@a", true, "right"),
            ("lostreply@a", true, "right"),
            ("unknown@a", true, "impossible"),
            ("full@a", true, "right"),
            ("ok@d", true, "right"),
            ("ok@nowhere", true, "right"),
        ];
        for (recipient, taken, said) in cases {
            let sent = Sent {
                number: "1".into(),
                from: String::new(),
                taken: vec![recipient.into()],
                refused: Vec::new(),
                outcome: if taken { "taken" } else { "unknown" }.into(),
                reply: String::new(),
            };
            let verdict = join([sent], &report);
            let found = [
                ("missing", verdict.missing.len()),
                ("doubled", verdict.doubled.len()),
                ("impossible", verdict.impossible.len()),
                ("right", verdict.right as usize),
            ];
            let word = found.iter().find(|(_, number)| *number > 0).map_or("nothing", |(word, _)| word);
            assert_eq!(word, said, "{recipient}");
        }
    }
}

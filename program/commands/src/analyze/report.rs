//! What is written of each message, and what is counted.

use std::collections::BTreeMap;

use yamabiko_analyze::{Analysis, Finding, Kind, Reason};

use super::options::{Format, Keys};
use super::record::{self, Record};
use super::select::Selection;
use super::width::visible;

/// Destinations that are counted one by one; the rest is counted together, so that memory is bounded.
const DESTINATIONS: usize = 20_000;

/// Makes text of analyses.
pub struct Reporter {
    /// How it is written.
    pub format: Format,
    /// Names of fields.
    pub keys: Keys,
    /// What is wanted.
    pub selection: Selection,
    /// With the evidence.
    pub why: bool,
    /// Only what was not understood.
    pub not_decoded: bool,
    /// Newer names of reasons.
    pub merged: bool,
}

/// Text to write, troubles to tell, and counts.
#[derive(Debug, Default)]
pub struct Reported {
    /// Lines or objects. For a table: lines for [`super::table`].
    pub text: Vec<u8>,
    /// Lines for standard error.
    pub troubles: Vec<String>,
    /// What was counted.
    pub tally: Tally,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages read.
    pub messages: u64,
    /// Recipients (or undecoded messages) written.
    pub written: u64,
    /// Messages that look like a bounce and were not understood, and bounces without a reason.
    pub undecoded: u64,
    /// Inputs that could not be read.
    pub troubles: u64,
    /// Hard and other findings by reason.
    pub reasons: BTreeMap<&'static str, (u64, u64)>,
    /// Findings by destination.
    pub destinations: BTreeMap<String, u64>,
    /// Findings for destinations that are too many to be counted one by one.
    pub other_destinations: u64,
}

impl Tally {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.written += other.written;
        self.undecoded += other.undecoded;
        self.troubles += other.troubles;
        self.other_destinations += other.other_destinations;
        for (reason, (hard, soft)) in other.reasons {
            let sum = self.reasons.entry(reason).or_default();
            sum.0 += hard;
            sum.1 += soft;
        }
        for (destination, count) in other.destinations {
            self.destination(destination, count);
        }
    }

    fn destination(&mut self, destination: String, count: u64) {
        if let Some(sum) = self.destinations.get_mut(&destination) {
            *sum += count;
        } else if self.destinations.len() < DESTINATIONS {
            self.destinations.insert(destination, count);
        } else {
            self.other_destinations += count;
        }
    }
}

impl Reporter {
    /// One message.
    pub fn report(&self, origin: &str, offset: u64, analysis: &Analysis, out: &mut Reported) {
        out.tally.messages += 1;
        for why in not_understood(analysis) {
            out.tally.undecoded += 1;
            if self.not_decoded {
                out.tally.written += 1;
                self.not_decoded(origin, offset, &why, out);
            }
        }
        if self.not_decoded {
            return;
        }
        for finding in analysis.findings.iter().filter(|finding| self.selection.wants(finding)) {
            let record = Record { finding, origin, reason: Record::reason_name(finding, self.merged) };
            out.tally.written += 1;
            let sums = out.tally.reasons.entry(record.reason).or_default();
            *(if finding.hard_bounce { &mut sums.0 } else { &mut sums.1 }) += 1;
            if self.format == Format::Table {
                out.tally.destination(finding.destination.to_ascii_lowercase(), 1);
            }
            match self.format {
                Format::Table => super::table::row(&mut out.text, &record, self.why),
                Format::Jsonl => {
                    record.json(&mut out.text, self.keys, self.why);
                    out.text.push(b'\n');
                }
                Format::Json => {
                    record.json(&mut out.text, self.keys, self.why);
                    out.text.extend_from_slice(b",\n");
                }
                Format::Csv => record.csv(&mut out.text, self.keys, self.why),
            }
        }
    }

    /// Something that could not be read, or that brought a defect to light.
    pub fn trouble(&self, origin: &str, offset: u64, why: &str, out: &mut Reported) {
        out.tally.troubles += 1;
        let place = if offset == 0 { String::new() } else { format!(" at byte {offset}") };
        out.troubles.push(format!("{}{place}: {}", visible(origin), visible(why)));
    }

    fn not_decoded(&self, origin: &str, offset: u64, why: &str, out: &mut Reported) {
        match self.format {
            Format::Table | Format::Csv => {
                out.text.extend_from_slice(format!("{}:{offset}: {}\n", visible(origin), visible(why)).as_bytes());
            }
            Format::Json | Format::Jsonl => {
                out.text.extend_from_slice(b"{\"origin\": ");
                record::quoted(&mut out.text, origin);
                out.text.extend_from_slice(format!(", \"offset\": {offset}, \"why\": ").as_bytes());
                record::quoted(&mut out.text, why);
                out.text.extend_from_slice(if self.format == Format::Json { b"},\n" } else { b"}\n" });
            }
        }
    }
}

/// What of a message was not understood: all of it, or why a recipient was not reached.
fn not_understood(analysis: &Analysis) -> Vec<String> {
    let mut all: Vec<String> = analysis.undecoded.iter().cloned().collect();
    let reasonless = |finding: &&Finding| matches!(finding.reason, Reason::Undefined | Reason::OnHold);
    if analysis.kind == Kind::Bounce {
        all.extend(analysis.findings.iter().filter(reasonless).map(|finding| {
            let said = if finding.diagnostic.text.is_empty() { "nothing" } else { &finding.diagnostic.text };
            format!("no reason for {} ({}): {said}", finding.recipient, finding.reason)
        }));
    }
    all
}

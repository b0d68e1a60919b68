//! Bounce mailboxes beside the logs: every report joined to the message it is about, by the ledger's own ladder (queue ID,
//! Message-ID with recipient, queue ID at the next hop, recipient and time).

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use yamabiko_analyze::{Analyzer, Kind};
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::late::{Incoming, join};
use yamabiko_ledger::{Entry, Ledger, Trusted};

use super::Import;
use crate::analyze::files::{Piece, Walk, open, pieces};

/// Reports that are joined before their entries are written.
const BATCH: usize = 5000;

/// What came of the mailboxes.
#[derive(Debug, Default)]
pub struct Joined {
    /// Messages read.
    pub messages: u64,
    /// Of these, reports, complaints and automatic replies.
    pub reports: u64,
    /// Recipients that were joined to a message of the ledger.
    pub joined: u64,
    /// Recipients of messages that the ledger does not know.
    pub strangers: u64,
    /// Messages that look like a bounce and were not understood.
    pub undecoded: u64,
}

impl Joined {
    /// For people.
    pub fn words(&self, out: &mut String) {
        if self.messages > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "bounce mailboxes: {} messages, {} of them reports: {} recipients joined to messages of the ledger, {} of \
                 messages it does not know, {} reports not understood",
                self.messages, self.reports, self.joined, self.strangers, self.undecoded
            );
        }
    }

    /// As JSON.
    pub fn object(&self) -> Value {
        json!({
            "messages": self.messages,
            "reports": self.reports,
            "joined": self.joined,
            "strangers": self.strangers,
            "undecoded": self.undecoded,
        })
    }
}

/// Reads mailboxes. The entries of the logs must be in the ledger by then.
pub fn read(paths: &[PathBuf], import: &mut Import<'_>) -> Joined {
    import.save(false);
    let mut joined = Joined::default();
    let mut ledger = Ledger::open(&import.directory);
    let analyzer = import.analyzer;
    let mut batch: Vec<Entry> = Vec::new();
    for found in Walk::new(paths) {
        let path = match found {
            Ok(found) => found.path,
            Err((path, why)) => {
                import.troubles.push(format!("{}: {why}", path.display()));
                continue;
            }
        };
        let file = match open(&path) {
            Ok(file) => file,
            Err(error) => {
                import.troubles.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        let written = file.metadata().map(|meta| super::source::modified(&meta)).unwrap_or_default();
        let troubles = &mut import.troubles;
        pieces(file, &mut |offset, piece| {
            match piece {
                Piece::Message(message) => {
                    joined.messages += 1;
                    if let Err(error) = one(&message, written, analyzer, &mut ledger, &mut joined, &mut batch) {
                        troubles.push(error);
                        return false;
                    }
                }
                Piece::Events(_) => troubles.push(format!("{}: provider events are not joined yet", path.display())),
                Piece::Trouble(why) => troubles.push(format!("{} at byte {offset}: {why}", path.display())),
            }
            true
        });
        if batch.len() >= BATCH {
            batch.drain(..).for_each(|entry| import.fill.enter(&entry));
        }
    }
    batch.drain(..).for_each(|entry| import.fill.enter(&entry));
    joined
}

fn one(
    message: &[u8],
    written: Timestamp,
    analyzer: &Analyzer,
    ledger: &mut Ledger,
    joined: &mut Joined,
    batch: &mut Vec<Entry>,
) -> Result<(), String> {
    let analysis = analyzer.analyze(message);
    if analysis.undecoded.is_some() {
        joined.undecoded += 1;
    }
    if matches!(analysis.kind, Kind::NotABounce(_) | Kind::Receipt) || analysis.findings.is_empty() {
        return Ok(());
    }
    joined.reports += 1;
    // The report's own date; a mailbox's time is that of its last message.
    let at =
        analysis.findings.iter().find_map(|finding| finding.date).and_then(|date| u64::try_from(date.seconds).ok());
    let at = at.map_or(written, Timestamp::from_seconds);
    let (client, trusted) = (None, &Trusted::default());
    let incoming = Incoming { at, queue_id: "", recipients: &[], message, analysis: &analysis, client, trusted };
    let (entries, unknown) = join(ledger, &incoming, &|_| None).map_err(|error| error.to_string())?;
    joined.joined += entries.len() as u64;
    joined.strangers += unknown as u64;
    batch.extend(entries);
    Ok(())
}

//! What was seen, counted exactly: every message by its number or Message-ID, for every recipient.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The header field that `yamabiko source` numbers messages with.
pub const NUMBER: &str = "X-Source-Number";

/// What became of mail to one recipient, at the receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Messages that were taken, and how often each.
    pub taken: BTreeMap<String, u32>,
    /// Of these, those that the client was not told of.
    pub unsaid: BTreeMap<String, u32>,
    /// Refusals for good.
    pub refused: u32,
    /// Refusals for now.
    pub deferred: u32,
    /// Connections that were closed on it.
    pub dropped: u32,
    /// The last refusal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reply: String,
    /// Mail that was sent back later: bounces, complaints, automatic replies that were accepted.
    pub returned: u32,
}

/// A message that came and was taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Messages taken, copies counted.
    pub messages: u64,
    /// Messages by number that were taken more than once for a recipient.
    pub doubled: u64,
    /// Mail sent back that nobody took.
    pub not_returned: u64,
}

/// The report, as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report<S> {
    /// Version of this shape.
    pub version: u32,
    /// Site by name.
    pub sites: BTreeMap<String, S>,
    /// Domain to the name of its site.
    pub domains: BTreeMap<String, String>,
    /// Sites that cannot be delivered to.
    pub unreachable: Vec<String>,
    /// Recipient by address.
    pub recipients: BTreeMap<String, Recipient>,
    /// Sums.
    pub totals: Totals,
}

/// All counters of recipients.
#[derive(Debug, Default)]
pub struct Tally {
    state: Mutex<(BTreeMap<String, Recipient>, Totals)>,
}

impl Tally {
    fn state(&self) -> MutexGuard<'_, (BTreeMap<String, Recipient>, Totals)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of a recipient.
    pub fn of(&self, address: &str, change: impl FnOnce(&mut Recipient)) {
        change(self.state().0.entry(address.to_ascii_lowercase()).or_default());
    }

    /// A message was kept for these recipients; `said` tells whether its client heard so.
    pub fn took<'a>(&self, number: &str, recipients: impl IntoIterator<Item = &'a str>, said: bool) {
        let mut state = self.state();
        let (all, totals) = &mut *state;
        totals.messages += 1;
        for address in recipients {
            let of = all.entry(address.to_ascii_lowercase()).or_default();
            let times = of.taken.entry(number.to_owned()).or_default();
            *times += 1;
            totals.doubled += u64::from(*times == 2);
            if !said {
                *of.unsaid.entry(number.to_owned()).or_default() += 1;
            }
        }
    }

    /// Mail could not be sent back.
    pub fn not_returned(&self) {
        self.state().1.not_returned += 1;
    }

    /// Messages taken so far.
    pub fn messages(&self) -> u64 {
        self.state().1.messages
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> (BTreeMap<String, Recipient>, Totals) {
        self.state().clone()
    }
}

/// What a message is counted by: our number, else its Message-ID, else nothing better than its length.
pub fn number_of(message: &[u8]) -> String {
    let mut id = None;
    for line in message.split(|byte| *byte == b'\n') {
        if line.is_empty() || line == b"\r" {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], String::from_utf8_lossy(&line[colon + 1..]).trim().to_owned());
        if name.eq_ignore_ascii_case(NUMBER.as_bytes()) {
            return value;
        }
        if name.eq_ignore_ascii_case(b"Message-ID") {
            id = Some(value);
        }
    }
    id.unwrap_or_else(|| format!("without number, {} bytes", message.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_for_each_recipient() {
        let tally = Tally::default();
        tally.took("1", ["A@x", "b@x"], true);
        tally.took("1", ["a@X"], false);
        tally.took("2", ["a@x"], true);
        let (all, totals) = tally.snapshot();
        assert_eq!(all["a@x"].taken, BTreeMap::from([("1".into(), 2), ("2".into(), 1)]));
        assert_eq!(all["a@x"].unsaid, BTreeMap::from([("1".into(), 1)]));
        assert_eq!((totals.messages, totals.doubled, all.len()), (3, 1, 2));
    }

    #[test]
    fn numbers() {
        let cases = [
            (&b"Subject: a\nx-source-number: r.5 \n\n"[..], "r.5"),
            (b"Message-ID: <a@b>\r\nX-Source-Number: 7\r\n\r\n", "7"),
            (b"message-id:<a@b>\n\nX-Source-Number: 7\n", "<a@b>"),
            (b"\nbody", "without number, 5 bytes"),
            (b"", "without number, 0 bytes"),
        ];
        for (text, number) in cases {
            assert_eq!(number_of(text), number);
        }
    }
}

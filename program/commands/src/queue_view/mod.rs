//! How the queue is shown: `mailq` and `postqueue -p`, `postqueue -j`, `postcat`, `qshape`.
//!
//! Pure functions over [`Listed`] messages, which the commands fill from the engine's answer or, when it is down, from
//! the store itself. Scripts read these texts, so they are Postfix's to the letter.

pub mod mailq;
pub mod postcat;
pub mod qshape;
pub mod queue_json;

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;

pub use yamabiko_ipc::control::QueueName;

/// Why a recipient is still there, by the log it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind {
    /// It was deferred.
    Delay,
    /// It failed, and the notice about it is not sent yet.
    Bounce,
    /// Anything else.
    Other,
}

/// A recipient that is still to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRecipient {
    /// Internal form.
    pub address: String,
    /// As it was given; Postfix shows it from 3.12 on, this does not yet.
    pub original: String,
    /// What the last attempt said.
    pub reason: Option<(ReasonKind, String)>,
}

/// A message in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub queue: QueueName,
    /// Its queue ID; in `maildrop` the file's name.
    pub id: String,
    /// When it arrived.
    pub arrival: Timestamp,
    /// Bytes of content.
    pub size: u64,
    /// `postsuper -e` or `-f` was used on it.
    pub forced_expire: bool,
    /// Envelope sender, internal form; empty is the null reverse-path.
    pub sender: String,
    /// Those left.
    pub recipients: Vec<ListedRecipient>,
}

/// Puts messages in the order of the queues, by arrival within each.
pub fn sort(messages: &mut [Listed]) {
    messages.sort_by(|a, b| (a.queue, a.arrival, &a.id).cmp(&(b.queue, b.arrival, &b.id)));
}

/// The sender as listings show it.
fn shown_sender(sender: &str) -> String {
    if sender.is_empty() { "MAILER-DAEMON".into() } else { printable(&yamabiko_address::quote(sender)) }
}

/// Control characters of queued addresses and reasons must not reach a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `Sat Nov 21 16:53:54 2026`, as ctime(3) writes it.
fn ctime(at: Timestamp, zone: &TimeZone) -> String {
    let micros = i64::try_from(at.0).unwrap_or_default();
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three messages with what listings have to cope with.
    pub(super) fn sample() -> Vec<Listed> {
        let recipient = |address: &str, reason: Option<&str>| ListedRecipient {
            address: address.into(),
            original: address.into(),
            reason: reason.map(|text| (ReasonKind::Delay, text.into())),
        };
        let message = |queue, id: &str, sender: &str, size, recipients| Listed {
            queue,
            id: id.into(),
            arrival: Timestamp::from_seconds(1_795_280_034),
            size,
            forced_expire: false,
            sender: sender.into(),
            recipients,
        };
        let refused = Some("connect to x.example[192.0.2.1]:25: Connection refused");
        vec![
            message(
                QueueName::Deferred,
                "4Z0abcd1z1",
                "nobody@example.jp",
                335,
                vec![
                    recipient("a@x.example", refused),
                    recipient("b@x.example", refused),
                    recipient("c@x.example", None),
                ],
            ),
            message(QueueName::Active, "4Z0abcd2z1", "", 700, vec![recipient("two words@y.example", None)]),
            Listed {
                forced_expire: true,
                ..message(QueueName::Hold, "4Z0abcd3z1", "s@b", 1100, vec![recipient("e\u{1b}@z", Some("\"odd\"\n"))])
            },
        ]
    }

    #[test]
    fn order() {
        let mut messages = sample();
        sort(&mut messages);
        let queues: Vec<&str> = messages.iter().map(|m| m.queue.as_str()).collect();
        assert_eq!(queues, ["active", "deferred", "hold"]);
        for queue in QueueName::ALL {
            assert_eq!(QueueName::by_name(queue.as_str()), Some(queue));
        }
        assert_eq!(QueueName::by_name("corrupt"), None);
    }

    #[test]
    fn times() {
        assert_eq!(ctime(Timestamp::from_seconds(1_795_280_034), &TimeZone::UTC), "Sat Nov 21 16:53:54 2026");
        assert_eq!(ctime(Timestamp::from_seconds(1_772_672_523), &TimeZone::UTC), "Thu Mar  5 01:02:03 2026");
        assert_eq!(ctime(Timestamp(u64::MAX), &TimeZone::UTC), "Thu Jan  1 00:00:00 1970");
    }
}

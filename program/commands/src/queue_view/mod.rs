//! How the queue is shown: `mailq` and `postqueue -p`, `postqueue -j`, `postcat`, `qshape`.
//!
//! Pure functions over the messages of a listing ([`yamabiko_ipc::listing`]), which the commands have from the engine
//! or, when it is down, from the store itself, one at a time: a listing of a million is never in memory. Scripts read
//! these texts, so they are Postfix's to the letter.

pub mod clock;
pub mod mailq;
pub mod postcat;
pub mod qshape;
pub mod queue_json;

use std::borrow::Cow;
use std::io::Write;

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;
use yamabiko_ipc::listing::Name;

pub use yamabiko_ipc::control::QueueName;

/// The name of a message.
fn put_name(line: &mut Vec<u8>, name: Name<'_>) {
    match name {
        // Writing into memory cannot fail.
        Name::Id(id) => drop(write!(line, "{id}")),
        Name::File(name) => line.extend_from_slice(printable(name).as_bytes()),
    }
}

/// Blanks until what begins at `start` is so many columns wide.
fn put_padded(line: &mut Vec<u8>, start: usize, width: usize) {
    let end = line.len().max(start + width);
    line.resize(end, b' ');
}

/// The sender as listings show it.
fn put_sender(line: &mut Vec<u8>, sender: &str) {
    match sender {
        "" => line.extend_from_slice(b"MAILER-DAEMON"),
        sender => line.extend_from_slice(printable(&yamabiko_address::quote(sender)).as_bytes()),
    }
}

/// Control characters of queued addresses and reasons must not reach a terminal.
fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

/// `Sat Nov 21 16:53:54 2026`, as ctime(3) writes it.
fn ctime(at: Timestamp, zone: &TimeZone) -> String {
    clock::Clock::new(zone.clone()).ctime(at).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_ipc::listing::{Items, Left, Message, Recipients, Writer};

    /// A message of the tests. Recipients with whether they have bounced and why.
    pub(super) struct Sample {
        pub queue: QueueName,
        pub id: &'static str,
        pub sender: &'static str,
        pub size: u64,
        pub forced_expire: bool,
        pub recipients: Vec<(&'static str, Option<(bool, String)>)>,
    }

    /// Shows messages to a printer.
    pub(super) fn each(messages: &[Sample], mut show: impl FnMut(&Message<'_>, Recipients<'_>)) {
        let mut writer = Writer::new();
        for Sample { queue, id, sender, size, forced_expire, recipients } in messages {
            let message = Message {
                queue: *queue,
                name: Name::File(id),
                arrival: Timestamp::from_seconds(1_795_280_034),
                size: *size,
                forced_expire: *forced_expire,
                sender,
            };
            let left = recipients.iter().map(|(address, reason)| match reason {
                None => (*address, Left::Untried),
                Some((false, reason)) => (*address, Left::Delay(reason)),
                Some((true, reason)) => (*address, Left::Bounce(reason)),
            });
            writer.message(&message, left);
        }
        for item in Items::new(writer.payload()) {
            let (message, recipients) = item.unwrap();
            show(&message, recipients);
        }
    }

    /// Three messages with what listings have to cope with.
    pub(super) fn sample() -> Vec<Sample> {
        let refused = || Some((false, "connect to x.example[192.0.2.1]:25: Connection refused".to_owned()));
        vec![
            Sample {
                queue: QueueName::Deferred,
                id: "4Z0abcd1z1",
                sender: "nobody@example.jp",
                size: 335,
                forced_expire: false,
                recipients: vec![("a@x.example", refused()), ("b@x.example", refused()), ("c@x.example", None)],
            },
            Sample {
                queue: QueueName::Active,
                id: "4Z0abcd2z1",
                sender: "",
                size: 700,
                forced_expire: false,
                recipients: vec![("two words@y.example", None)],
            },
            Sample {
                queue: QueueName::Hold,
                id: "4Z0abcd3z1",
                sender: "s@b",
                size: 1100,
                forced_expire: true,
                recipients: vec![("e\u{1b}@z", Some((false, "\"odd\"\n".to_owned())))],
            },
        ]
    }

    #[test]
    fn order() {
        for queue in QueueName::ALL {
            assert_eq!(QueueName::by_name(queue.as_str()), Some(queue));
        }
        assert_eq!(QueueName::by_name("corrupt"), None);
    }
}

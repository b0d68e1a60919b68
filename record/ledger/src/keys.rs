//! Keys by which entries are found: 40 bits of a hash of what is asked for, and 24 bits of a row.
//!
//! A key is one number, so a run of them is sorted and written as it is. Two texts may share a key; whoever looks up
//! compares the text.

use crate::{Entry, What};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Field {
    /// A recipient's address, in any case of letters.
    Recipient = b'r',
    /// A recipient's domain.
    Domain = b'd',
    /// A queue ID, exact.
    QueueId = b'q',
    /// A Message-ID, with or without angle brackets.
    MessageId = b'm',
    /// A queue ID at a next hop, exact.
    RemoteId = b'x',
    /// An envelope sender.
    Sender = b's',
    /// An envelope ID, as the submitter gave it.
    EnvelopeId = b'e',
    /// Entries that tell of another message: its queue ID.
    Related = b'n',
}

/// FNV-1a with a mix at its end: stable for ever, since its results are on disk.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    /// With its length, so that two texts are not one.
    pub(crate) fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
        self.byte(0xff);
    }
    /// Eight bytes in one step.
    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        self.0 ^= self.0 >> 29;
    }
    pub(crate) fn number(&mut self, number: u64) {
        number.to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
    }
    pub(crate) fn end(self) -> u64 {
        let mut hash = self.0;
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// Bits of a key that are the row.
pub(crate) const ROW_BITS: u32 = 24;

/// The key of a text, with row 0.
pub(crate) fn key(field: Field, text: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.byte(field as u8);
    normal(field, text).bytes().for_each(|byte| hash.byte(byte.to_ascii_lowercase()));
    hash.end() << ROW_BITS
}

/// The part of a text that counts.
fn normal(field: Field, text: &str) -> &str {
    match field {
        Field::MessageId => text.trim().trim_start_matches('<').trim_end_matches('>'),
        _ => text,
    }
}

/// The entry by which a message is found that is asked for by its sender: the first, or the only one.
fn tells_sender(entry: &Entry) -> bool {
    matches!(entry.what, What::Queued | What::Rejected) || entry.size > 0
}

/// Whether an entry is an answer to a question. Addresses and domains are the same in any case of letters; names of messages
/// are exact.
pub fn matches(entry: &Entry, field: Field, text: &str) -> bool {
    let same = |other: &str| normal(field, other).eq_ignore_ascii_case(normal(field, text));
    match field {
        Field::Recipient => {
            (!entry.recipient.is_empty() && same(&entry.recipient))
                || (!entry.original.is_empty() && same(&entry.original))
                || entry
                    .recipients
                    .iter()
                    .any(|(address, original)| same(address) || (!original.is_empty() && same(original)))
        }
        Field::Domain => {
            let of = |address: &str| address.rsplit_once('@').is_some_and(|(_, domain)| same(domain));
            of(&entry.recipient) || entry.recipients.iter().any(|(address, _)| of(address))
        }
        // Names of messages are exact: two long queue IDs of the same second may differ by the case of one letter.
        Field::QueueId => entry.queue_id == text,
        Field::MessageId => !entry.message_id.is_empty() && same(&entry.message_id),
        Field::RemoteId => !entry.remote_id.is_empty() && entry.remote_id == text,
        Field::Sender => tells_sender(entry) && entry.sender.as_deref().is_some_and(same),
        Field::EnvelopeId => !entry.envelope_id.is_empty() && same(&entry.envelope_id),
        Field::Related => !entry.related.is_empty() && entry.related == text,
    }
}

/// Gives every key of an entry, with row 0.
pub(crate) fn of_entry(entry: &Entry, mut give: impl FnMut(u64)) {
    let mut some = |field: Field, text: &str| {
        if !text.is_empty() {
            give(key(field, text));
        }
    };
    some(Field::Recipient, &entry.recipient);
    some(Field::Recipient, &entry.original);
    if let Some((_, domain)) = entry.recipient.rsplit_once('@') {
        some(Field::Domain, domain);
    }
    some(Field::QueueId, &entry.queue_id);
    some(Field::MessageId, &entry.message_id);
    some(Field::RemoteId, &entry.remote_id);
    some(Field::EnvelopeId, &entry.envelope_id);
    some(Field::Related, &entry.related);
    let mut last = "";
    for (address, original) in &entry.recipients {
        some(Field::Recipient, address);
        some(Field::Recipient, original);
        // Neighbours often share a domain.
        if let Some((_, domain)) = address.rsplit_once('@')
            && domain != last
        {
            some(Field::Domain, domain);
            last = domain;
        }
    }
    // Others have it for whoever reads a single line; the message is found by these.
    if tells_sender(entry)
        && let Some(sender) = &entry.sender
    {
        give(key(Field::Sender, sender));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    #[test]
    fn keys_are_stable() {
        // They are on disk: a change here makes every ledger unreadable.
        assert_eq!(key(Field::Recipient, "a@example.com"), key(Field::Recipient, "A@EXAMPLE.com"));
        assert_eq!(key(Field::MessageId, "<a@b>"), key(Field::MessageId, "a@b"));
        assert_ne!(key(Field::Recipient, "a"), key(Field::QueueId, "a"));
        assert_eq!(key(Field::QueueId, "4XyZ") & ((1 << ROW_BITS) - 1), 0);
        let mut hash = Fnv::new();
        hash.text("a");
        assert_eq!(hash.end(), 0x3aec69d286fbd39b);
        assert_eq!(key(Field::QueueId, "a@example.com"), 0x8eb6dd668d000000);
    }

    #[test]
    fn every_key_of_an_entry_finds_it() {
        let mut entry = Entry::new(Timestamp(1), What::Queued, "4XyZ", "");
        entry.recipients = vec![("a@x.test".into(), String::new()), ("b@x.test".into(), "c@y.test".into())];
        entry.sender = Some(String::new());
        entry.message_id = "<m@x>".into();
        for (field, text) in [
            (Field::Recipient, "A@x.test"),
            (Field::Recipient, "c@y.test"),
            (Field::Domain, "X.test"),
            (Field::QueueId, "4XyZ"),
            (Field::MessageId, "m@x"),
            (Field::Sender, ""),
        ] {
            assert!(matches(&entry, field, text), "{field:?} {text}");
            let mut found = false;
            of_entry(&entry, |known| found |= known == key(field, text));
            assert!(found, "{field:?} {text}");
        }
        assert!(!matches(&entry, Field::Domain, "y.test"));
    }
}

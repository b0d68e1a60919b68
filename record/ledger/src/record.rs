//! An entry as bytes: on its way to the thread of the ledger, and in the journal.
//!
//! A record is a length, a checksum and fields; a field is a tag, a length and bytes, integers little-endian. What a stage says
//! is written down as one where it happens, and made into an [`Entry`] where it is entered: so what waits in between is some
//! hundred bytes in one piece, and not dozens of allocations that one processor makes and another one gives back.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::entry::{ReportAction, stage_from_number, stage_number};
use crate::keys::Fnv;
use crate::{Entry, What, remote_id};

/// A record is not longer.
const RECORD: usize = 16 << 20;
/// Length and checksum.
const HEAD: usize = 12;

/// What an entry is to the message that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// It stands for itself.
    #[default]
    Plain,
    /// A message with one recipient, which waits a moment for what becomes of it.
    Message,
    /// What became of a recipient. A remote queue ID is taken out of its text when it is read.
    Outcome,
    /// Something that a message which waits is needed before.
    About,
}

impl Role {
    const ALL: [Self; 4] = [Self::Plain, Self::Message, Self::Outcome, Self::About];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| *role as u8 == number)
    }
}

/// Fields by their tags. Tags never change their meaning.
pub(crate) mod tag {
    pub const AT: u8 = 1;
    pub const WHAT: u8 = 2;
    pub const HOST: u8 = 3;
    pub const QUEUE_ID: u8 = 4;
    pub const RECIPIENT: u8 = 5;
    pub const ORIGINAL: u8 = 6;
    pub const SENDER: u8 = 7;
    pub const MESSAGE_ID: u8 = 8;
    pub const ENVELOPE_ID: u8 = 9;
    pub const ONE_RECIPIENT: u8 = 10;
    pub const ITS_ORIGINAL: u8 = 11;
    pub const CLIENT: u8 = 12;
    pub const SIZE: u8 = 13;
    pub const PROGRAM: u8 = 14;
    pub const RELAY: u8 = 15;
    pub const STAGE: u8 = 16;
    pub const STATUS: u8 = 17;
    pub const REPLY: u8 = 18;
    pub const REASON: u8 = 19;
    pub const TEXT: u8 = 20;
    pub const REMOTE_ID: u8 = 21;
    pub const TLS: u8 = 22;
    pub const DELAY: u8 = 23;
    pub const RELATED: u8 = 24;
    pub const ACTION: u8 = 25;
    pub const CONFIDENCE: u8 = 26;
    pub const BY: u8 = 27;
    pub const ROLE: u8 = 28;
}

/// A record that is being written.
pub(crate) struct Record<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Record<'a> {
    /// Behind what is there.
    pub fn begin(out: &'a mut Vec<u8>, at: Timestamp, what: What) -> Self {
        let begin = out.len();
        out.extend_from_slice(&[0; HEAD]);
        let mut record = Self { out, begin };
        record.bytes(tag::AT, &at.0.to_le_bytes());
        record.bytes(tag::WHAT, &[what as u8]);
        record
    }

    pub fn role(&mut self, role: Role) {
        if role != Role::Plain {
            self.bytes(tag::ROLE, &[role as u8]);
        }
    }

    pub fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        // Texts of the ledger are bounded far below this by whoever makes them.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(bytes.get(..length as usize).unwrap_or_default());
    }

    /// Nothing for a text that is empty.
    pub fn text(&mut self, tag: u8, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }

    /// Several things in a row as one text.
    pub fn shown(&mut self, tag: u8, parts: &[&dyn Display]) {
        self.out.push(tag);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        let mut text = Bytes(self.out);
        for part in parts {
            // Bytes in memory take everything.
            let _ = write!(text, "{part}");
        }
        let length = u32::try_from(self.out.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Nothing for zero.
    pub fn number(&mut self, tag: u8, number: u64) {
        if number > 0 {
            self.bytes(tag, &number.to_le_bytes());
        }
    }

    pub fn stage(&mut self, stage: Option<SmtpStage>) {
        if let Some(stage) = stage {
            self.bytes(tag::STAGE, &[stage_number(stage)]);
        }
    }

    pub fn status(&mut self, status: Option<EnhancedStatus>) {
        if let Some(status) = status {
            self.shown(tag::STATUS, &[&status]);
        }
    }

    pub fn reply(&mut self, reply: Option<ReplyCode>) {
        if let Some(reply) = reply {
            self.bytes(tag::REPLY, &reply.0.to_le_bytes());
        }
    }

    pub fn delay(&mut self, delay: Duration) {
        self.bytes(tag::DELAY, &u64::try_from(delay.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
    }

    /// False for one that is too long: nothing of it is kept.
    pub fn end(self) -> bool {
        let payload = self.out.len() - self.begin - HEAD;
        if payload > RECORD {
            self.out.truncate(self.begin);
            return false;
        }
        let sum = sum(self.out.get(self.begin + HEAD..).unwrap_or_default());
        let head = self.out.get_mut(self.begin..self.begin + HEAD).unwrap_or_default();
        let (length, checksum) = head.split_at_mut(4);
        // At most RECORD, as was seen above.
        length.copy_from_slice(&(payload as u32).to_le_bytes());
        checksum.copy_from_slice(&sum.to_le_bytes());
        true
    }
}

/// Bytes that text is written to.
struct Bytes<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// An entry as a record, behind what is there. False for one that is too long.
pub(crate) fn record(entry: &Entry, out: &mut Vec<u8>) -> bool {
    let mut record = Record::begin(out, entry.at, entry.what);
    record.text(tag::HOST, &entry.host);
    record.text(tag::QUEUE_ID, &entry.queue_id);
    record.text(tag::RECIPIENT, &entry.recipient);
    record.text(tag::ORIGINAL, &entry.original);
    if let Some(sender) = &entry.sender {
        record.bytes(tag::SENDER, sender.as_bytes());
    }
    record.text(tag::MESSAGE_ID, &entry.message_id);
    record.text(tag::ENVELOPE_ID, &entry.envelope_id);
    for (address, original) in &entry.recipients {
        record.bytes(tag::ONE_RECIPIENT, address.as_bytes());
        record.text(tag::ITS_ORIGINAL, original);
    }
    record.text(tag::CLIENT, &entry.client);
    record.number(tag::SIZE, entry.size);
    record.text(tag::PROGRAM, &entry.program);
    record.text(tag::RELAY, &entry.relay);
    record.stage(entry.stage);
    record.status(entry.status);
    record.reply(entry.reply);
    record.text(tag::REASON, &entry.reason);
    record.text(tag::TEXT, &entry.text);
    record.text(tag::REMOTE_ID, &entry.remote_id);
    record.text(tag::TLS, &entry.tls);
    if let Some(delay) = entry.delay {
        record.delay(delay);
    }
    record.text(tag::RELATED, &entry.related);
    if let Some(action) = entry.action {
        record.bytes(tag::ACTION, &[action as u8]);
    }
    if entry.confidence > 0 {
        record.bytes(tag::CONFIDENCE, &[entry.confidence]);
    }
    record.text(tag::BY, &entry.by);
    record.end()
}

/// Eight bytes at a time: the journal is written where mail is delivered.
fn sum(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::new();
    let chunks = bytes.chunks_exact(8);
    chunks.remainder().iter().for_each(|byte| hash.byte(*byte));
    for chunk in chunks {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        hash.word(u64::from_le_bytes(eight));
    }
    hash.number(bytes.len() as u64);
    hash.end()
}

/// The entries of a file; reading ends at the first record that is not whole.
pub fn entries(bytes: &[u8], mut give: impl FnMut(Entry)) {
    each(bytes, true, |_, entry| give(entry));
}

/// What was written down in this process, without looking whether it is whole.
pub(crate) fn told(bytes: &[u8], give: impl FnMut(Role, Entry)) {
    each(bytes, false, give);
}

fn each(mut bytes: &[u8], verify: bool, mut give: impl FnMut(Role, Entry)) {
    while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
        let (length, checksum) = head.split_at(4);
        let length = number(length) as usize;
        if length > RECORD {
            return;
        }
        let Some((payload, after)) = rest.split_at_checked(length) else { return };
        if verify && sum(payload) != number(checksum) {
            return;
        }
        if let Some((role, entry)) = decode(payload) {
            give(role, entry);
        }
        bytes = after;
    }
}

/// Little-endian, at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn decode(mut bytes: &[u8]) -> Option<(Role, Entry)> {
    let mut role = Role::Plain;
    let mut entry = Entry::new(Timestamp(0), What::Note, "", "");
    while let [tag, rest @ ..] = bytes {
        let (length, rest) = rest.split_at_checked(4)?;
        let (value, rest) = rest.split_at_checked(number(length) as usize)?;
        bytes = rest;
        let text = || String::from_utf8_lossy(value).into_owned();
        match *tag {
            tag::AT => entry.at = Timestamp(number(value)),
            tag::WHAT => entry.what = What::from_number(*value.first()?)?,
            tag::HOST => entry.host = text(),
            tag::QUEUE_ID => entry.queue_id = text(),
            tag::RECIPIENT => entry.recipient = text(),
            tag::ORIGINAL => entry.original = text(),
            tag::SENDER => entry.sender = Some(text()),
            tag::MESSAGE_ID => entry.message_id = text(),
            tag::ENVELOPE_ID => entry.envelope_id = text(),
            tag::ONE_RECIPIENT => entry.recipients.push((text(), String::new())),
            tag::ITS_ORIGINAL => entry.recipients.last_mut()?.1 = text(),
            tag::CLIENT => entry.client = text(),
            tag::SIZE => entry.size = number(value),
            tag::PROGRAM => entry.program = text(),
            tag::RELAY => entry.relay = text(),
            tag::STAGE => entry.stage = stage_from_number(*value.first()?),
            tag::STATUS => entry.status = text().parse().ok(),
            tag::REPLY => entry.reply = u16::try_from(number(value)).ok().map(ReplyCode),
            tag::REASON => entry.reason = text(),
            tag::TEXT => entry.text = text(),
            tag::REMOTE_ID => entry.remote_id = text(),
            tag::TLS => entry.tls = text(),
            tag::DELAY => entry.delay = Some(Duration::from_micros(number(value))),
            tag::RELATED => entry.related = text(),
            tag::ACTION => entry.action = ReportAction::from_number(*value.first()?),
            tag::CONFIDENCE => entry.confidence = *value.first()?,
            tag::BY => entry.by = text(),
            tag::ROLE => role = Role::from_number(*value.first()?)?,
            // Of a newer program.
            _ => {}
        }
    }
    let taken = matches!(entry.what, What::Sent | What::Relayed | What::Delivered | What::Discarded);
    if role == Role::Outcome && taken {
        entry.remote_id = remote_id(&entry.text).to_owned();
    }
    Some((role, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    fn whole() -> Entry {
        let mut entry = Entry::new(Timestamp(77), What::Report, "Q1", "a@b.test");
        entry.host = "h".into();
        entry.original = "o@b.test".into();
        entry.sender = Some(String::new());
        entry.message_id = "<m@x>".into();
        entry.envelope_id = "env".into();
        entry.recipients = vec![("a@b.test".into(), String::new()), ("c@d.test".into(), "e@f.test".into())];
        entry.client = "c[192.0.2.1]".into();
        entry.size = 9;
        entry.program = "smtp".into();
        entry.relay = "r".into();
        entry.stage = Some(SmtpStage::Rcpt);
        entry.status = "5.1.1".parse().ok();
        entry.reply = Some(ReplyCode(550));
        entry.reason = "userunknown".into();
        entry.text = "山".into();
        entry.remote_id = "R".into();
        entry.tls = "TLSv1.3".into();
        entry.delay = Some(Duration::from_micros(5));
        entry.related = "N".into();
        entry.action = Some(ReportAction::Failed);
        entry.confidence = 92;
        entry.by = "x".into();
        entry
    }

    #[test]
    fn every_field_comes_back_and_a_torn_end_is_left_out() {
        let (one, two) = (whole(), Entry::new(Timestamp(1), What::Sent, "Q", "r@x"));
        let mut bytes = Vec::new();
        record(&one, &mut bytes);
        let first = bytes.len();
        record(&two, &mut bytes);
        for length in 0..=bytes.len() {
            let mut read = Vec::new();
            entries(&bytes[..length], |entry| read.push(entry));
            let expected = usize::from(length >= first) + usize::from(length == bytes.len());
            assert_eq!(read, [one.clone(), two.clone()][..expected], "{length}");
        }
        for at in 0..first {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            entries(&damaged, |entry| assert!(entry == one || entry == two));
        }
    }

    #[test]
    fn what_is_too_long_is_not_begun() {
        let mut bytes = vec![7];
        let mut entry = whole();
        entry.text = "x".repeat(RECORD);
        assert!(!record(&entry, &mut bytes));
        assert_eq!(bytes, [7]);
    }
}

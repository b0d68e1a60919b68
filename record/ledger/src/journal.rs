//! What is on its way into the ledger, so that a killed process takes nothing along.
//!
//! Events wait in memory for some hundred milliseconds before they are in the ledger. Until then each stands in a journal
//! too: three files beside the days (`live.journal.0` to `.2`), written without being synced, so that they are with the
//! kernel and not with the process. The files take turns: when the thread of the ledger takes what waits, the next one is
//! begun, and by then its old contents are in the ledger. Whoever opens the ledger after a kill reads the files and enters
//! what is not there yet. A power loss may take the last seconds of them.
//!
//! A record is a length, a checksum and fields; a field is a tag, a length and bytes, integers little-endian. What is not
//! a whole record ends the reading of its file: it was being written when the process died.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_status::ReplyCode;

use crate::entry::{ReportAction, stage_from_number, stage_number};
use crate::keys::Fnv;
use crate::{Entry, Error, What};

/// Files that take turns: one is written to, two hold what the last two rounds took and may not have written.
const FILES: usize = 3;
/// A file is not longer: what comes then is in memory only until the next round.
const LONGEST: u64 = 64 << 20;
/// A record is not longer.
const RECORD: usize = 16 << 20;
/// Length and checksum.
const HEAD: usize = 12;

/// The files.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: [File; FILES],
    at: usize,
    length: u64,
}

fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("live.journal.{number}"))
}

/// What makes two entries the same, whatever else one of them tells: what happened when to whom.
pub(crate) type Same = (u8, u64, String, String);

pub(crate) fn same(entry: &Entry) -> Same {
    // A message is taken once, at the time that its name says; it may be told together with its only recipient.
    match entry.what {
        What::Queued => (What::Queued as u8, 0, entry.queue_id.clone(), first(entry)),
        what => (what as u8, entry.at.0, entry.queue_id.clone(), entry.recipient.clone()),
    }
}

fn first(entry: &Entry) -> String {
    entry.recipients.first().map_or_else(|| entry.recipient.clone(), |(address, _)| address.clone())
}

impl Journal {
    /// Opens the files of a ledger. Gives what a process that died has left in them, in order and once; it stays there
    /// until two rounds after.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Entry>), Error> {
        let mut left = Vec::new();
        let mut seen = HashSet::new();
        for number in 0..FILES {
            let name = path(directory, number);
            let mut bytes = Vec::new();
            match File::open(&name) {
                Ok(file) => {
                    let read = file.take(LONGEST * 2).read_to_end(&mut bytes);
                    read.map_err(|error| Error::new(&name, error))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::new(&name, error)),
            }
            entries(&bytes, |entry| {
                if seen.insert((same(&entry), entry.digest())) {
                    left.push(entry);
                }
            });
        }
        left.sort_by_key(|entry| entry.at);
        // All of it in one file, before the others are emptied.
        let mut bytes = Vec::new();
        left.iter().for_each(|entry| record(entry, &mut bytes));
        let aside = directory.join("live.journal.new");
        let open = |name: &Path| {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(name);
            file.map_err(|error| Error::new(name, error))
        };
        fs::write(&aside, &bytes).map_err(|error| Error::new(&aside, error))?;
        fs::rename(&aside, path(directory, 0)).map_err(|error| Error::new(&aside, error))?;
        let files = [open(&path(directory, 0))?, open(&path(directory, 1))?, open(&path(directory, 2))?];
        for (number, file) in files.iter().enumerate().skip(1) {
            file.set_len(0).map_err(|error| Error::new(&path(directory, number), error))?;
        }
        let mut state = State { files, at: 0, length: bytes.len() as u64 };
        let end = state.files[0].seek(SeekFrom::End(0));
        end.map_err(|error| Error::new(&path(directory, 0), error))?;
        Ok((Self { directory: directory.to_owned(), state: Mutex::new(state) }, left))
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds records that [`record`] has made. What cannot be written is in memory only, as all was before.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { files, at, length } = &mut *state;
        if *length + bytes.len() as u64 > LONGEST {
            return;
        }
        let file = &mut files[*at % FILES];
        match file.write_all(bytes) {
            Ok(()) => *length += bytes.len() as u64,
            // A record of which a part is there would hide all that come after it.
            Err(_) => {
                let _ = file.set_len(*length).and_then(|()| file.seek(SeekFrom::Start(*length)));
            }
        }
    }

    /// Everything that was added is in the ledger.
    pub(crate) fn empty(&self) {
        (0..FILES).for_each(|_| self.turn());
    }

    /// A round begins: what was added before is being taken to the ledger now.
    pub(crate) fn turn(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (state.at + 1) % FILES;
        // The remainder is below the number of files.
        let file = &mut state.files[next];
        let emptied = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        // What could not be emptied is not written to: its records are those of the ledger.
        state.length = if emptied.is_ok() { 0 } else { LONGEST };
        state.at = next;
    }
}

/// Fields by their tags. Tags never change their meaning.
mod tag {
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
}

fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    // Texts of the ledger are bounded far below this by whoever makes them.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes.get(..length as usize).unwrap_or_default());
}

/// An entry as a record, behind what is there.
pub(crate) fn record(entry: &Entry, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    let text = |out: &mut Vec<u8>, tag: u8, text: &str| {
        if !text.is_empty() {
            field(out, tag, text.as_bytes());
        }
    };
    field(out, tag::AT, &entry.at.0.to_le_bytes());
    field(out, tag::WHAT, &[entry.what as u8]);
    text(out, tag::HOST, &entry.host);
    text(out, tag::QUEUE_ID, &entry.queue_id);
    text(out, tag::RECIPIENT, &entry.recipient);
    text(out, tag::ORIGINAL, &entry.original);
    if let Some(sender) = &entry.sender {
        field(out, tag::SENDER, sender.as_bytes());
    }
    text(out, tag::MESSAGE_ID, &entry.message_id);
    text(out, tag::ENVELOPE_ID, &entry.envelope_id);
    for (address, original) in &entry.recipients {
        field(out, tag::ONE_RECIPIENT, address.as_bytes());
        text(out, tag::ITS_ORIGINAL, original);
    }
    text(out, tag::CLIENT, &entry.client);
    field(out, tag::SIZE, &entry.size.to_le_bytes());
    text(out, tag::PROGRAM, &entry.program);
    text(out, tag::RELAY, &entry.relay);
    if let Some(stage) = entry.stage {
        field(out, tag::STAGE, &[stage_number(stage)]);
    }
    if let Some(status) = entry.status {
        field(out, tag::STATUS, status.to_string().as_bytes());
    }
    if let Some(reply) = entry.reply {
        field(out, tag::REPLY, &reply.0.to_le_bytes());
    }
    text(out, tag::REASON, &entry.reason);
    text(out, tag::TEXT, &entry.text);
    text(out, tag::REMOTE_ID, &entry.remote_id);
    text(out, tag::TLS, &entry.tls);
    if let Some(delay) = entry.delay {
        field(out, tag::DELAY, &u64::try_from(delay.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
    }
    text(out, tag::RELATED, &entry.related);
    if let Some(action) = entry.action {
        field(out, tag::ACTION, &[action as u8]);
    }
    if entry.confidence > 0 {
        field(out, tag::CONFIDENCE, &[entry.confidence]);
    }
    text(out, tag::BY, &entry.by);
    let payload = out.len() - begin - HEAD;
    if payload > RECORD {
        // Nothing that is read back: it is in memory only.
        out.truncate(begin);
        return;
    }
    let sum = sum(out.get(begin + HEAD..).unwrap_or_default());
    let head = out.get_mut(begin..begin + HEAD).unwrap_or_default();
    let (length, checksum) = head.split_at_mut(4);
    // At most RECORD, as was seen above.
    length.copy_from_slice(&(payload as u32).to_le_bytes());
    checksum.copy_from_slice(&sum.to_le_bytes());
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
pub fn entries(mut bytes: &[u8], mut give: impl FnMut(Entry)) {
    while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
        let (length, checksum) = head.split_at(4);
        let length = number(length) as usize;
        if length > RECORD {
            return;
        }
        let Some((payload, after)) = rest.split_at_checked(length) else { return };
        if sum(payload) != number(checksum) {
            return;
        }
        if let Some(entry) = decode(payload) {
            give(entry);
        }
        bytes = after;
    }
}

/// Little-endian, at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn decode(mut bytes: &[u8]) -> Option<Entry> {
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
            // Of a newer program.
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::SmtpStage;

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
    fn two_rounds_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let note = |n: u64| {
            let mut bytes = Vec::new();
            record(&Entry::new(Timestamp(n), What::Note, "Q", ""), &mut bytes);
            bytes
        };
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert!(left.is_empty());
        for n in 1..=5 {
            journal.add(&note(n));
            journal.turn();
        }
        journal.add(&note(6));
        journal.add(&note(6));
        drop(journal);
        let times = |left: Vec<Entry>| left.iter().map(|entry| entry.at.0).collect::<Vec<_>>();
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert_eq!(times(left), [4, 5, 6]);
        // Killed again at once: nothing is lost.
        journal.add(&note(7));
        drop(journal);
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert_eq!(times(left), [4, 5, 6, 7]);
        journal.turn();
        journal.turn();
        journal.turn();
        drop(journal);
        assert!(Journal::open(dir.path()).unwrap().1.is_empty());
    }
}

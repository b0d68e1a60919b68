//! Side indexes: what the records of a sealed segment say, without the mail in between.
//!
//! A queue of a million messages is opened by reading some tens of megabytes instead of all of it. A side index is a
//! file beside its segment, `00000017.idx`, written in the background when the log has gone on to the next segment. It
//! is a copy of what stands in the segment and nothing else: it is believed only when its checksum is right and it
//! names the epoch, the salt and the end of the segment as the segments' own headers do. In every other case the
//! segment is read. So it is never synced, and may be removed at any time.
//!
//! What is not looked at when a segment is opened this way is verified when it is read: every record has its checksums.
//!
//! | at | length | what |
//! | --- | --- | --- |
//! | 0 | 8 | `YmbkIdx\n` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | epoch |
//! | 16 | 8 | salt |
//! | 24 | 4 | where the segment's records end |
//! | 28 | 4 | count of entries |
//! | 32 | 4 | length of the entries |
//! | 36 | 4 | CRC-32C of bytes 0 to 35 and the entries |
//! | 40 | | entries: kind, flags, marks, 0; offset, length of the record; ID; for a message attempts, recipients, hashes of domains, next attempt, arrival, length of content, replaced ID; for a change attempts and next attempt |

use std::io::{self, IoSlice};

use yamabiko_envelope::{QueueId, Timestamp};

use crate::Flags;
use crate::codec::{self, Hints, Malformed, Standing, Survey};
use crate::fs::{FileSystem, StoredFile, read_at_most, read_exact_at, write_all_at};
use crate::record::{Found, HEAD, Head, RECORDS, RecordKind, Seal};

const MAGIC: [u8; 8] = *b"YmbkIdx\n";
const VERSION: u32 = 1;
const HEADER: usize = 40;
/// How much of a segment is read at once when its index is made.
const WINDOW: usize = 256 << 10;

/// What opening has to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it begins.
    pub offset: u32,
    /// Its length.
    pub len: u32,
    /// Whose it is; for reclaim, the epoch.
    pub id: QueueId,
    /// What it says.
    pub what: Says,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// A message.
    Message {
        /// Where it stands.
        standing: Standing,
        /// The message that is gone with it.
        replaces: Option<QueueId>,
        /// What the index keeps of its envelope.
        survey: Survey,
        /// Its content is in a file of its own, of this length.
        large: Option<u64>,
    },
    /// A change: where the message stands, and whether all recipients are named.
    Change(Standing, bool),
    /// A change that names no recipients: nobody has to read it again.
    Standing(Standing),
    /// Gone.
    Remove,
    /// Segments below the epoch in `id` are free.
    Reclaim,
    /// Nothing that matters here.
    Nothing,
}

impl Note {
    /// Of a record; an error when its payload cannot be read.
    pub fn of(record: &Found<'_>) -> Result<Self, Malformed> {
        let head = &record.head;
        let what = match head.kind {
            RecordKind::Message => {
                let (standing, replaces, envelope) = codec::message_outline(record.payload)?;
                let survey = codec::survey(envelope)?;
                Says::Message { standing, replaces, survey, large: head.large.then_some(head.content_len) }
            }
            RecordKind::State => Says::Change(codec::change_standing(record.payload)?, true),
            RecordKind::Settle => match codec::change_outline(record.payload)? {
                (standing, true) => Says::Change(standing, false),
                (standing, false) => Says::Standing(standing),
            },
            RecordKind::Remove => Says::Remove,
            RecordKind::Reclaim => Says::Reclaim,
            RecordKind::Mark | RecordKind::Other(_) => Says::Nothing,
        };
        Ok(Self { offset: record.offset, len: head.record_len().unwrap_or(0), id: head.id, what })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (kind, flags, marks) = match self.what {
            Says::Message { standing, replaces, large, .. } => {
                (1, u8::from(large.is_some()) | u8::from(replaces.is_some()) << 1, standing.flags.stored_bits())
            }
            Says::Change(standing, true) => (2, 0, standing.flags.stored_bits()),
            Says::Change(standing, false) => (3, 0, standing.flags.stored_bits()),
            // An earlier release takes an index with this in it for none, and reads the segment.
            Says::Standing(standing) => (6, 0, standing.flags.stored_bits()),
            Says::Remove => (4, 0, 0),
            Says::Reclaim => (5, 0, 0),
            Says::Nothing => return,
        };
        out.extend_from_slice(&[kind, flags, marks, 0]);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        put_id(out, self.id);
        match self.what {
            Says::Message { standing, replaces, survey, large } => {
                out.extend_from_slice(&standing.attempts.to_le_bytes());
                out.extend_from_slice(&u16::try_from(survey.recipients).unwrap_or(u16::MAX).to_le_bytes());
                out.extend_from_slice(&survey.hints.sender.to_le_bytes());
                out.extend_from_slice(&survey.hints.recipients.to_le_bytes());
                out.extend_from_slice(&standing.next_attempt.0.to_le_bytes());
                out.extend_from_slice(&survey.arrival.0.to_le_bytes());
                if let Some(len) = large {
                    out.extend_from_slice(&len.to_le_bytes());
                }
                if let Some(old) = replaces {
                    put_id(out, old);
                }
            }
            Says::Change(standing, _) | Says::Standing(standing) => {
                out.extend_from_slice(&standing.attempts.to_le_bytes());
                out.extend_from_slice(&standing.next_attempt.0.to_le_bytes());
            }
            Says::Remove | Says::Reclaim | Says::Nothing => {}
        }
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let [kind, flags, marks, _] = array::<4>(bytes)?;
        let offset = u32::from_le_bytes(array(bytes)?);
        let len = u32::from_le_bytes(array(bytes)?);
        let id = take_id(bytes)?;
        let marks = Flags::from_stored_bits(marks);
        let what = match kind {
            1 => {
                let attempts = u16::from_le_bytes(array(bytes)?);
                let recipients = usize::from(u16::from_le_bytes(array(bytes)?));
                let sender = u16::from_le_bytes(array(bytes)?);
                let hints = Hints { sender, recipients: u16::from_le_bytes(array(bytes)?) };
                let next_attempt = Timestamp(u64::from_le_bytes(array(bytes)?));
                let arrival = Timestamp(u64::from_le_bytes(array(bytes)?));
                let large = if flags & 1 == 1 { Some(u64::from_le_bytes(array(bytes)?)) } else { None };
                let replaces = if flags & 2 == 2 { Some(take_id(bytes)?) } else { None };
                Says::Message {
                    standing: Standing { next_attempt, attempts, flags: marks },
                    replaces,
                    survey: Survey { recipients, arrival, hints },
                    large,
                }
            }
            2 | 3 | 6 => {
                let attempts = u16::from_le_bytes(array(bytes)?);
                let next_attempt = Timestamp(u64::from_le_bytes(array(bytes)?));
                let standing = Standing { next_attempt, attempts, flags: marks };
                if kind == 6 { Says::Standing(standing) } else { Says::Change(standing, kind == 2) }
            }
            4 => Says::Remove,
            5 => Says::Reclaim,
            _ => return None,
        };
        Some(Self { offset, len, id, what })
    }
}

fn put_id(out: &mut Vec<u8>, id: QueueId) {
    out.extend_from_slice(&id.micros().to_le_bytes());
    out.extend_from_slice(&id.node().to_le_bytes());
}

fn take_id(bytes: &mut &[u8]) -> Option<QueueId> {
    let micros = u64::from_le_bytes(array(bytes)?);
    Some(QueueId::new(micros, u32::from_le_bytes(array(bytes)?)))
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// Writes notes as a side index.
pub fn to_bytes(seal: Seal, end: u32, notes: &[Note]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    notes.iter().for_each(|note| note.put(&mut bytes));
    let count = notes.iter().filter(|note| note.what != Says::Nothing).count();
    let len = bytes.len() - HEADER;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // Positions are below the header's length.
    put(0, &MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &seal.epoch.to_le_bytes());
    put(16, &seal.salt.to_le_bytes());
    put(24, &end.to_le_bytes());
    // A segment has at most 64 MB, and a note is shorter than twice the shortest record.
    put(28, &(count as u32).to_le_bytes());
    put(32, &(len as u32).to_le_bytes());
    let sum = sum(&bytes);
    bytes[36..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn sum(bytes: &[u8]) -> u32 {
    let entries = bytes.get(HEADER..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(bytes.get(..36).unwrap_or_default()), entries)
}

/// Reads a side index; none when it is not whole, or not that of this use of the segment.
pub fn from_bytes(bytes: &[u8], seal: Seal, end: u32) -> Option<Vec<Note>> {
    let mut head = bytes.get(..HEADER)?;
    let right = array::<8>(&mut head)? == MAGIC
        && u32::from_le_bytes(array(&mut head)?) == VERSION
        && u32::from_le_bytes(array(&mut head)?) == seal.epoch
        && u64::from_le_bytes(array(&mut head)?) == seal.salt
        && u32::from_le_bytes(array(&mut head)?) == end;
    let count = u32::from_le_bytes(array(&mut head)?);
    let len = u32::from_le_bytes(array(&mut head)?) as usize;
    let stored = u32::from_le_bytes(array(&mut head)?);
    // An earlier, longer index may stand behind it.
    let bytes = bytes.get(..HEADER.checked_add(len)?)?;
    if !right || sum(bytes) != stored {
        return None;
    }
    let mut rest = bytes.get(HEADER..)?;
    let mut notes = Vec::new();
    while !rest.is_empty() {
        notes.push(Note::take(&mut rest)?);
    }
    (notes.len() == count as usize).then_some(notes)
}

/// Reads the records of a sealed segment for its index, a window at a time. None when anything is not as it should be: then the segment is read when the queue is opened, and the damage told.
pub fn survey(file: &dyn StoredFile, seal: Seal, end: u32) -> io::Result<Option<Vec<Note>>> {
    let mut notes = Vec::new();
    let mut window = Vec::new();
    // Where the window begins in the segment.
    let mut base = 0;
    let mut at = RECORDS;
    while at < end {
        let head = {
            let bytes = view(file, &mut window, &mut base, at, HEAD, end)?;
            match bytes.and_then(|bytes| Head::from_bytes(bytes, seal, at)) {
                Some(head) => head,
                None => return Ok(None),
            }
        };
        let Some(len) = head.record_len().filter(|len| *len <= end - at) else { return Ok(None) };
        let payload = head.payload_len as usize;
        let Some(bytes) = view(file, &mut window, &mut base, at, HEAD + payload, end)? else { return Ok(None) };
        // As many bytes as were asked for.
        let payload = &bytes[HEAD..HEAD + payload];
        if crc32c::crc32c(payload) != head.payload_crc {
            return Ok(None);
        }
        match Note::of(&Found { offset: at, head, payload }) {
            Ok(note) => notes.push(note),
            Err(_) => return Ok(None),
        }
        // The content too: one that a crash has cut off, or a disk has changed, is no message.
        let (mut place, mut left, mut sum) = (at + (HEAD + head.payload_len as usize) as u32, head.inline_len(), 0);
        while left > 0 {
            let part = left.min(WINDOW as u64) as usize;
            let Some(bytes) = view(file, &mut window, &mut base, place, part, end)? else { return Ok(None) };
            sum = crc32c::crc32c_append(sum, bytes);
            // Within the record, whose end is within the segment.
            place += part as u32;
            left -= part as u64;
        }
        if !head.large && sum != head.content_crc {
            return Ok(None);
        }
        at += len;
    }
    Ok(Some(notes))
}

/// So many bytes at a position, read a window at a time; none when the segment ends before.
fn view<'a>(
    file: &dyn StoredFile,
    window: &'a mut Vec<u8>,
    base: &mut u32,
    at: u32,
    len: usize,
    end: u32,
) -> io::Result<Option<&'a [u8]>> {
    if len > (end - at) as usize {
        return Ok(None);
    }
    let have = at >= *base && (at - *base) as usize + len <= window.len();
    if !have {
        window.resize(len.max(WINDOW).min((end - at) as usize), 0);
        read_exact_at(file, window, u64::from(at))?;
        *base = at;
    }
    let from = (at - *base) as usize;
    Ok(window.get(from..from + len))
}

/// Reads a side index file; none when there is none that can be believed.
pub fn load(fs: &dyn FileSystem, path: &std::path::Path, seal: Seal, end: u32) -> Option<Vec<Note>> {
    let file = fs.open(path, false).ok()?;
    let len = usize::try_from(file.len().ok()?).ok()?;
    let mut bytes = vec![0; len];
    let got = read_at_most(&*file, &mut bytes, 0).ok()?;
    bytes.truncate(got);
    from_bytes(&bytes, seal, end)
}

/// Writes a side index file, over an earlier one of that name. Not synced: a torn one is not believed.
pub fn store(fs: &dyn FileSystem, path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let file = match fs.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs.open(path, true)?,
        other => other?,
    };
    write_all_at(&*file, &mut [IoSlice::new(bytes)], 0)
}

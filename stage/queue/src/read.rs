//! Reading messages back: the record of the message, then what changed since.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use yamabiko_envelope::{Content, Envelope, QueueId, RecipientState};

use crate::codec;
use crate::fs::{FileSystem, StoredFile, read_at_most, read_exact_at};
use crate::index::Index;
use crate::messages::Location;
use crate::record::{HEAD, Head, RecordKind, Seal};

/// Content up to this many bytes is read into memory; more is left in its file.
const IN_MEMORY: u64 = 64 << 10;
/// What is read at first: most records are smaller.
const FIRST_READ: usize = 8 << 10;

/// A record's place, with what is needed to read it.
#[derive(Clone)]
pub struct Place {
    file: Arc<dyn StoredFile>,
    seal: Seal,
    offset: u32,
}

/// A message's records.
pub struct Places {
    /// The message record.
    pub message: Place,
    /// State and settle records in order.
    pub changes: Vec<Place>,
    /// Payloads of changes that are not written yet.
    pub waiting: Vec<Bytes>,
}

/// Why a record cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The bytes are not what was written.
    Damaged(&'static str),
    /// The kernel says no.
    Io(std::io::Error),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ReadError::Damaged("the file is too short"),
            _ => ReadError::Io(error),
        }
    }
}

impl From<codec::Malformed> for ReadError {
    fn from(_: codec::Malformed) -> Self {
        ReadError::Damaged("the envelope cannot be read")
    }
}

impl Index {
    /// Where a location is; none when its segment is unknown.
    pub fn place(&self, at: Location) -> Option<Place> {
        let segment = self.segments.get(&at.epoch)?;
        Some(Place { file: Arc::clone(&segment.file), seal: segment.seal, offset: at.offset })
    }
    /// Where a message's records are.
    pub fn places(&self, id: QueueId) -> Option<Places> {
        let entry = self.messages.get(id)?;
        let message = self.place(entry.message)?;
        let changes = self.messages.changes(id).iter().map(|at| self.place(*at)).collect::<Option<_>>()?;
        Some(Places { message, changes, waiting: Vec::new() })
    }
}

/// A record that was read: header, payload, and as much of the content as came along.
struct Record {
    head: Head,
    bytes: Bytes,
}

impl Record {
    fn payload(&self) -> Bytes {
        self.bytes.slice(HEAD..HEAD + self.head.payload_len as usize)
    }
}

impl Place {
    /// Reads header and payload. `kinds` are those that may be here.
    fn read(&self, id: QueueId, kinds: &[RecordKind]) -> Result<Record, ReadError> {
        let mut bytes = vec![0; FIRST_READ];
        let got = read_at_most(&*self.file, &mut bytes, u64::from(self.offset))?;
        bytes.truncate(got);
        let head = Head::from_bytes(&bytes, self.seal, self.offset).ok_or(ReadError::Damaged("no record is there"))?;
        if head.id != id || !kinds.contains(&head.kind) {
            return Err(ReadError::Damaged("another record is there"));
        }
        let end = HEAD + head.payload_len as usize;
        if bytes.len() < end {
            // A header's checksum covers its lengths; still nothing is allocated that the file does not have.
            if u64::from(self.offset) + end as u64 > self.file.len()? {
                return Err(ReadError::Damaged("the record goes beyond its segment"));
            }
            let have = bytes.len();
            bytes.resize(end, 0);
            read_exact_at(&*self.file, &mut bytes[have..], u64::from(self.offset) + have as u64)?;
        }
        if crc32c::crc32c(&bytes[HEAD..end]) != head.payload_crc {
            return Err(ReadError::Damaged("wrong checksum of the envelope"));
        }
        Ok(Record { head, bytes: bytes.into() })
    }

    /// The content of a message whose content stands in the record.
    fn inline_content(&self, record: &Record) -> Result<Content, ReadError> {
        let head = &record.head;
        let begin = HEAD + head.payload_len as usize;
        let offset = u64::from(self.offset) + begin as u64;
        let wrong = ReadError::Damaged("wrong checksum of the content");
        if let Some(end) = usize::try_from(head.content_len).ok().and_then(|len| begin.checked_add(len))
            && end <= record.bytes.len()
        {
            let content = record.bytes.slice(begin..end);
            return if crc32c::crc32c(&content) == head.content_crc { Ok(content.into()) } else { Err(wrong) };
        }
        if offset.saturating_add(head.content_len) > self.file.len()? {
            return Err(ReadError::Damaged("the record goes beyond its segment"));
        }
        match self.file.shared() {
            Some(file) if head.content_len > IN_MEMORY => {
                if sum_of(&*self.file, offset, head.content_len)? != head.content_crc {
                    return Err(wrong);
                }
                Ok(Content::File { file, offset, len: head.content_len })
            }
            _ => {
                // Checked above to be within the segment, which is below 4 GB.
                let mut bytes = vec![0; head.content_len as usize];
                read_exact_at(&*self.file, &mut bytes, offset)?;
                if crc32c::crc32c(&bytes) == head.content_crc { Ok(bytes.into()) } else { Err(wrong) }
            }
        }
    }
}

fn sum_of(file: &dyn StoredFile, mut offset: u64, mut len: u64) -> Result<u32, ReadError> {
    let mut buffer = vec![0; 64 << 10];
    let mut sum = 0;
    while len > 0 {
        let part = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        read_exact_at(file, &mut buffer[..part], offset)?;
        sum = crc32c::crc32c_append(sum, &buffer[..part]);
        offset += part as u64;
        len -= part as u64;
    }
    Ok(sum)
}

/// Reads a message's envelope with the states of now. The content only when `large` says where those with files of
/// their own are.
pub fn read_message(
    fs: &dyn FileSystem,
    id: QueueId,
    places: &Places,
    large: Option<&Path>,
) -> Result<(Envelope, Option<Content>), ReadError> {
    let record = places.message.read(id, &[RecordKind::Message])?;
    let mut envelope = codec::message(id, &record.payload())?.envelope;
    for place in &places.changes {
        let change = place.read(id, &[RecordKind::State, RecordKind::Settle])?;
        apply(&mut envelope, &change.payload())?;
    }
    for payload in &places.waiting {
        apply(&mut envelope, payload)?;
    }
    let content = match large {
        None => None,
        Some(path) if record.head.large => Some(large_content(fs, path, &record.head)?),
        Some(_) => Some(places.message.inline_content(&record)?),
    };
    Ok((envelope, content))
}

/// Applies a change's payload to an envelope. Positions beyond the recipients are passed over: the queue refuses
/// them when they are told, unless there are more recipients than it counts.
pub fn apply(envelope: &mut Envelope, payload: &[u8]) -> Result<(), ReadError> {
    for (index, state) in codec::change(payload)?.recipients {
        if let Some(recipient) = envelope.recipients.get_mut(index as usize) {
            recipient.state = state;
        }
    }
    Ok(())
}

/// Applies changes given as values.
pub fn apply_states(envelope: &mut Envelope, changes: &[(u32, RecipientState)]) {
    for (index, state) in changes {
        if let Some(recipient) = envelope.recipients.get_mut(*index as usize) {
            recipient.state = state.clone();
        }
    }
}

/// The content of a message that has a file of its own: the end of that file, checked whole, because a disk that
/// changes bytes does so in large files too.
fn large_content(fs: &dyn FileSystem, path: &Path, head: &Head) -> Result<Content, ReadError> {
    let len = head.content_len;
    let file = match fs.open(path, false) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(ReadError::Damaged("the file of its content is missing"));
        }
        other => other?,
    };
    // In front of the content stand the envelope's fields.
    let Some(offset) = file.len()?.checked_sub(len) else {
        return Err(ReadError::Damaged("the file of its content is too short"));
    };
    if sum_of(&*file, offset, len)? != head.content_crc {
        return Err(ReadError::Damaged("wrong checksum of the content in its file"));
    }
    match file.shared() {
        Some(file) => Ok(Content::File { file, offset, len }),
        None => {
            let len = usize::try_from(len).map_err(|_| ReadError::Damaged("the content is too large for memory"))?;
            let mut bytes = vec![0; len];
            read_exact_at(&*file, &mut bytes, offset)?;
            Ok(bytes.into())
        }
    }
}

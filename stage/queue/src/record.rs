//! The log's form on disk: segments, and records in them.
//!
//! A segment is a file of fixed length. Its header stands twice, at byte 0 and at byte 4096; records begin at byte
//! 8192, each at a multiple of 16. All numbers are little-endian.
//!
//! A segment is used many times: each use has a new *epoch* (1, 2, 3, ... over the life of the queue) and a new random
//! *salt*, and both, with the record's position, go into every record's checksum. So bytes of an earlier use cannot be
//! read as records, and neither can a mail whose text looks like a record.
//!
//! A record is 48 bytes of header, a payload ([`crate::codec`]) and, for a message, its content. Header, payload and
//! content have a checksum each (CRC-32C): the header's covers the other two, so that a search for the next record
//! after damage costs 48 bytes per candidate, and a message whose content is damaged is still known by name.

use yamabiko_envelope::QueueId;

/// First byte of the records of a segment.
pub const RECORDS: u32 = 8192;
/// Where the header's copy is.
pub const HEADER_COPY: usize = 4096;
/// Length of a record's header.
pub const HEAD: usize = 48;
/// Records begin at multiples of this.
pub const ALIGN: usize = 16;

const SEGMENT_MAGIC: [u8; 8] = *b"YmbkSeg\n";
const RECORD_MAGIC: [u8; 4] = *b"\xf0yb\n";
const VERSION: u32 = 1;
const SEGMENT_HEADER: usize = 64;

/// What makes the records of one use of a segment readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Number of the use.
    pub epoch: u32,
    /// Random.
    pub salt: u64,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Epoch and salt.
    pub seal: Seal,
    /// Segments of earlier epochs hold nothing that counts.
    pub first_live: u32,
    /// Where the records of the epoch before this one end. All before is durable; what stands there is not a record.
    pub previous_end: u32,
    /// The newest queue ID that the log had seen.
    pub newest: QueueId,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl SegmentHeader {
    /// The first [`RECORDS`] bytes of the segment.
    pub fn to_block(self) -> Vec<u8> {
        let mut header = Vec::with_capacity(SEGMENT_HEADER);
        header.extend_from_slice(&SEGMENT_MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&self.seal.epoch.to_le_bytes());
        header.extend_from_slice(&self.seal.salt.to_le_bytes());
        header.extend_from_slice(&self.first_live.to_le_bytes());
        header.extend_from_slice(&self.previous_end.to_le_bytes());
        header.extend_from_slice(&self.newest.micros().to_le_bytes());
        header.extend_from_slice(&self.newest.node().to_le_bytes());
        header.resize(SEGMENT_HEADER - 4, 0);
        let sum = crc32c::crc32c(&header);
        header.extend_from_slice(&sum.to_le_bytes());
        let mut block = vec![0; RECORDS as usize];
        // The block is longer than both copies.
        block[..SEGMENT_HEADER].copy_from_slice(&header);
        block[HEADER_COPY..HEADER_COPY + SEGMENT_HEADER].copy_from_slice(&header);
        block
    }

    /// Reads either copy; none when neither is whole. When a power loss has left one of an earlier use, the newer.
    pub fn from_block(block: &[u8]) -> Option<Self> {
        let copies = [Self::from_bytes(block), block.get(HEADER_COPY..).and_then(Self::from_bytes)];
        copies.into_iter().flatten().max_by_key(|header| header.seal.epoch)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..SEGMENT_HEADER)?;
        let (body, sum) = header.split_at(SEGMENT_HEADER - 4);
        if !body.starts_with(&SEGMENT_MAGIC) || u32_at(body, 8) != VERSION || u32_at(sum, 0) != crc32c::crc32c(body) {
            return None;
        }
        Some(Self {
            seal: Seal { epoch: u32_at(body, 12), salt: u64_at(body, 16) },
            first_live: u32_at(body, 24),
            previous_end: u32_at(body, 28),
            newest: QueueId::new(u64_at(body, 32), u32_at(body, 40)),
        })
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A message: envelope, and content unless that has a file of its own. Supersedes every earlier record of its ID.
    Message,
    /// Where a message and all of its recipients stand. Supersedes earlier state and settle records.
    State,
    /// Where a message and some of its recipients stand.
    Settle,
    /// The message is gone.
    Remove,
    /// Segments below an epoch hold nothing that counts. The epoch is in the place of the queue ID.
    Reclaim,
    /// Nothing but the news of what is durable, written when the queue is closed.
    Mark,
    /// A kind of a newer version: passed over.
    Other(u8),
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::Message => 1,
            RecordKind::State => 2,
            RecordKind::Settle => 3,
            RecordKind::Remove => 4,
            RecordKind::Reclaim => 5,
            RecordKind::Mark => 6,
            RecordKind::Other(code) => code,
        }
    }
    fn from_code(code: u8) -> Self {
        match code {
            1 => RecordKind::Message,
            2 => RecordKind::State,
            3 => RecordKind::Settle,
            4 => RecordKind::Remove,
            5 => RecordKind::Reclaim,
            6 => RecordKind::Mark,
            other => RecordKind::Other(other),
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it says.
    pub kind: RecordKind,
    /// The content of the message is in a file of its own.
    pub large: bool,
    /// The record was written anew when its first segment was given back: the message has been here for long.
    pub copied: bool,
    /// This segment was durable up to here when the record was written. Tells damage from a torn tail.
    pub synced: u32,
    /// Whose record it is.
    pub id: QueueId,
    /// Bytes after the header.
    pub payload_len: u32,
    /// Checksum of those.
    pub payload_crc: u32,
    /// Length of the content, wherever it is.
    pub content_len: u64,
    /// Checksum of the content.
    pub content_crc: u32,
}

impl Head {
    /// Bytes of content inside the record.
    pub fn inline_len(&self) -> u64 {
        if self.large { 0 } else { self.content_len }
    }
    /// Length of the whole record with its padding; none when no segment could hold it.
    pub fn record_len(&self) -> Option<u32> {
        record_len(u64::from(self.payload_len), self.inline_len())
    }

    /// Header as bytes, for a record at `offset` of the segment with this seal.
    pub fn to_bytes(&self, seal: Seal, offset: u32) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        // Positions are constants below HEAD.
        put(0, &RECORD_MAGIC);
        put(8, &[self.kind.code(), u8::from(self.large) | u8::from(self.copied) << 1]);
        put(12, &self.synced.to_le_bytes());
        put(16, &self.id.micros().to_le_bytes());
        put(24, &self.id.node().to_le_bytes());
        put(28, &self.payload_len.to_le_bytes());
        put(32, &self.content_len.to_le_bytes());
        put(40, &self.content_crc.to_le_bytes());
        put(44, &self.payload_crc.to_le_bytes());
        let sum = head_sum(&bytes, seal, offset);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the header of a record at `offset`; none when it is not one of this segment's use.
    pub fn from_bytes(bytes: &[u8], seal: Seal, offset: u32) -> Option<Self> {
        let bytes = bytes.get(..HEAD)?;
        if !bytes.starts_with(&RECORD_MAGIC) || u32_at(bytes, 4) != head_sum(bytes, seal, offset) {
            return None;
        }
        Some(Self {
            kind: RecordKind::from_code(bytes[8]),
            large: bytes[9] & 1 == 1,
            copied: bytes[9] & 2 == 2,
            synced: u32_at(bytes, 12),
            id: QueueId::new(u64_at(bytes, 16), u32_at(bytes, 24)),
            payload_len: u32_at(bytes, 28),
            content_len: u64_at(bytes, 32),
            content_crc: u32_at(bytes, 40),
            payload_crc: u32_at(bytes, 44),
        })
    }
}

/// Whose record this may have been, going by a header whose seal is not known: for people who look at what is damaged.
pub fn likely_id(bytes: &[u8]) -> Option<QueueId> {
    let sound = bytes.len() >= HEAD && bytes.starts_with(&RECORD_MAGIC) && matches!(bytes.get(8), Some(1..=4));
    sound.then(|| QueueId::new(u64_at(bytes, 16), u32_at(bytes, 24)))
}

/// Over seal, position and the header but for its magic and the sum itself.
fn head_sum(bytes: &[u8], seal: Seal, offset: u32) -> u32 {
    let mut before = [0; 16];
    before[..8].copy_from_slice(&seal.salt.to_le_bytes());
    before[8..12].copy_from_slice(&seal.epoch.to_le_bytes());
    before[12..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&before), bytes.get(8..HEAD).unwrap_or_default())
}

/// Length of a record with its padding; none when no segment could hold it.
pub fn record_len(payload: u64, inline: u64) -> Option<u32> {
    let sum = payload.checked_add(inline)?.checked_add(HEAD as u64)?;
    u32::try_from(sum.checked_next_multiple_of(ALIGN as u64)?).ok()
}

/// A record found by [`scan`].
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Where it begins.
    pub offset: u32,
    /// Its header.
    pub head: Head,
    /// Its payload.
    pub payload: &'a [u8],
}

/// A stretch that should be records and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First byte.
    pub offset: u32,
    /// Length.
    pub len: u32,
    /// Whose record it was, where the header is whole.
    pub id: Option<QueueId>,
}

/// What a scan tells when it is through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanEnd {
    /// Where the last whole record ends.
    pub end: u32,
    /// Some record was written when the segment was durable up to here.
    pub synced: u32,
    /// Damaged stretches before `end`.
    pub holes: Vec<Hole>,
}

/// Reads the records of a segment's bytes one after the other, up to `limit`. After damage it looks for the next
/// record; the time is linear in the length. `bytes` begins with the segment's header.
pub fn scan<'a>(bytes: &'a [u8], seal: Seal, limit: u32, mut each: impl FnMut(Found<'a>)) -> ScanEnd {
    let limit = bytes.len().min(limit as usize);
    let bytes = &bytes[..limit];
    let mut result = ScanEnd { end: RECORDS, synced: 0, holes: Vec::new() };
    let mut at = RECORDS as usize;
    let mut hole_from = None;
    let finder = memchr::memmem::Finder::new(&RECORD_MAGIC);
    while at + HEAD <= limit {
        // Segments are shorter than 4 GB, so positions fit.
        let offset = at as u32;
        let Some((head, len, payload, content)) = parse(bytes, seal, at) else {
            hole_from.get_or_insert(offset);
            // The next multiple of the alignment that begins with the magic.
            let mut from = at + 1;
            at = loop {
                match bytes.get(from..).and_then(|rest| finder.find(rest)) {
                    Some(n) if (from + n).is_multiple_of(ALIGN) => break from + n,
                    Some(n) => from += n + 1,
                    None => break limit,
                }
            };
            continue;
        };
        if let Some(from) = hole_from.take() {
            result.holes.push(Hole { offset: from, len: offset - from, id: None });
        }
        if crc32c::crc32c(payload) == head.payload_crc && (head.large || crc32c::crc32c(content) == head.content_crc) {
            each(Found { offset, head, payload });
            result.synced = result.synced.max(head.synced);
            result.end = offset + len;
        } else {
            result.holes.push(Hole { offset, len, id: Some(head.id) });
            result.end = offset + len;
        }
        at += len as usize;
    }
    result
}

/// A record whose header is whole and whose length fits.
fn parse(bytes: &[u8], seal: Seal, at: usize) -> Option<(Head, u32, &[u8], &[u8])> {
    let rest = bytes.get(at..)?;
    let head = Head::from_bytes(rest, seal, u32::try_from(at).ok()?)?;
    let len = head.record_len()?;
    let record = rest.get(..len as usize)?;
    let (payload, rest) = record.get(HEAD..)?.split_at_checked(head.payload_len as usize)?;
    let content = rest.get(..usize::try_from(head.inline_len()).ok()?)?;
    Some((head, len, payload, content))
}

//! Messages as a listing shows them: the envelopes of many read at once, in the order of their IDs.
//!
//! A listing of a million messages is a million small reads; here their records are read a batch at a time, in the
//! order of the log, neighbours together, and taken apart without copying a text. Every checksum is verified as when
//! one message is read. What cannot be read this way (written anew meanwhile, damaged) is read again by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use yamabiko_envelope::{Envelope, QueueId, RecipientState, Timestamp};
use yamabiko_status::EnhancedStatus;

use crate::codec::{self, Malformed};
use crate::fs::{StoredFile, read_at_most};
use crate::index::Index;
use crate::messages::{Entry, Location};
use crate::record::{HEAD, Head, RecordKind, Seal};
use crate::{Meta, QueueError};

/// Messages in a batch, at most: with the content of small ones, which stands between them, half a megabyte.
const BATCH: usize = 256;
/// Recipients in a batch; one message may have more by itself.
const RECIPIENTS: u32 = 8192;
/// Messages looked at in one turn under the lock.
const LOOK: usize = 8192;
/// What is read of a record at first: most need no more.
const FIRST_READ: usize = 512;
/// Records so close to each other are read with one call.
const NEAR: usize = 1024;

/// A message in a listing.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// Its name, marks and times.
    pub meta: Meta,
    /// When it arrived.
    pub arrival: Timestamp,
    /// Bytes of content.
    pub size: u64,
    /// Envelope sender, internal form.
    pub sender: &'a str,
    /// All recipients, in the order of the envelope.
    pub recipients: &'a [OutlineRecipient<'a>],
}

/// A recipient in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlineRecipient<'a> {
    /// Internal form.
    pub address: &'a str,
    /// As it was given.
    pub original: &'a str,
    /// What is known of it.
    pub state: OutlineState<'a>,
    /// The status of the last attempt, where it deferred or failed.
    pub status: Option<EnhancedStatus>,
}

impl OutlineRecipient<'_> {
    /// Still to be delivered.
    pub fn is_open(&self) -> bool {
        matches!(self.state, OutlineState::Pending | OutlineState::Deferred(_))
    }
}

/// What is known of a recipient, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutlineState<'a> {
    /// Not tried yet.
    Pending,
    /// Deferred.
    Deferred(&'a str),
    /// Failed, not reported yet.
    Failed(&'a str),
    /// Nothing is left to be done.
    Done,
}

impl<'a> From<&'a RecipientState> for OutlineState<'a> {
    fn from(state: &'a RecipientState) -> Self {
        match state {
            RecipientState::Pending => Self::Pending,
            RecipientState::Deferred(failure) => Self::Deferred(&failure.reason),
            RecipientState::Failed(failure) => Self::Failed(&failure.reason),
            RecipientState::Done => Self::Done,
        }
    }
}

/// The records of one message, and what of it is in memory.
struct Job {
    meta: Meta,
    /// Its records: the message, then its changes.
    records: std::ops::Range<usize>,
    waiting: Vec<Bytes>,
    cached: Option<Arc<Envelope>>,
}

/// A batch of messages: what the index knows of them, to be read without the lock.
#[derive(Default)]
pub(crate) struct Batch {
    jobs: Vec<Job>,
    places: Vec<Location>,
    segments: BTreeMap<u32, (Arc<dyn StoredFile>, Seal)>,
    recipients: u32,
}

impl Batch {
    /// Takes the next messages after an ID. The last ID looked at, `None` at the end of the queue.
    pub(crate) fn collect(
        &mut self,
        index: &Index,
        after: Option<QueueId>,
        mut wanted: impl FnMut(&Meta) -> bool,
        waiting: impl Fn(QueueId) -> Vec<Bytes>,
    ) -> Option<QueueId> {
        let mut last = None;
        let mut take = |(id, entry): (QueueId, &Entry)| {
            last = Some(id);
            let meta = entry.meta(id);
            if wanted(&meta) {
                self.add(index, meta, entry, waiting(id));
            }
            self.jobs.len() < BATCH && self.recipients < RECIPIENTS
        };
        match after {
            None => index.messages.iter().take(LOOK).all(&mut take),
            Some(after) => index.messages.after(after).take(LOOK).all(&mut take),
        };
        last
    }

    fn add(&mut self, index: &Index, meta: Meta, entry: &Entry, waiting: Vec<Bytes>) {
        let cached = index.cached(meta.queue_id).map(|cached| Arc::clone(&cached.envelope));
        let from = self.places.len();
        if cached.is_none() {
            self.places.push(entry.message);
            self.places.extend_from_slice(index.messages.changes(meta.queue_id));
            for place in self.places.get(from..).unwrap_or_default() {
                if let (false, Some(segment)) =
                    (self.segments.contains_key(&place.epoch), index.segments.get(&place.epoch))
                {
                    self.segments.insert(place.epoch, (Arc::clone(&segment.file), segment.seal));
                }
            }
        }
        self.recipients = self.recipients.saturating_add(entry.recipients().unwrap_or(RECIPIENTS));
        self.jobs.push(Job { meta, records: from..self.places.len(), waiting, cached });
    }

    /// Reads the batch and shows each message. `single` reads a message by itself.
    pub(crate) fn show(
        &self,
        single: impl Fn(QueueId) -> Result<Arc<Envelope>, QueueError>,
        mut visit: impl FnMut(&Outline<'_>),
    ) {
        let (bytes, ranges) = self.read();
        let mut recipients = Vec::new();
        for job in &self.jobs {
            if let Some(envelope) = &job.cached {
                show_envelope(job.meta, envelope, &mut visit);
                continue;
            }
            recipients.clear();
            // `records` was made from the same list as `ranges`.
            match self.parse(job, &bytes, &ranges[job.records.clone()], &mut recipients) {
                Some((arrival, size, sender)) => {
                    visit(&Outline { meta: job.meta, arrival, size, sender, recipients: &recipients });
                }
                None => {
                    if let Ok(envelope) = single(job.meta.queue_id) {
                        show_envelope(job.meta, &envelope, &mut visit);
                    }
                }
            }
        }
    }

    /// Reads all records, in the order of the log. Their bytes, and where each stands among them; what cannot be read
    /// is empty.
    fn read(&self) -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
        let mut order: Vec<(Location, usize)> = self.places.iter().copied().zip(0..).collect();
        order.sort_unstable_by_key(|(place, _)| (place.epoch, place.offset));
        let mut bytes = Vec::with_capacity(order.len() * FIRST_READ);
        let mut ranges = vec![0..0; order.len()];
        let mut rest = order.as_slice();
        while let Some((first, _)) = rest.first() {
            let near = rest.windows(2).take_while(|pair| match pair {
                [(a, _), (b, _)] => a.epoch == b.epoch && (b.offset - a.offset) as usize <= FIRST_READ + NEAR,
                _ => false,
            });
            let (group, more) = rest.split_at(near.count() + 1);
            rest = more;
            let Some((file, seal)) = self.segments.get(&first.epoch) else { continue };
            let last = group.last().map_or(first.offset, |(place, _)| place.offset);
            let (start, len) = (bytes.len(), (last - first.offset) as usize + FIRST_READ);
            bytes.resize(start + len, 0);
            // The stretch was made by the line above.
            let got = read_at_most(&**file, &mut bytes[start..], u64::from(first.offset)).unwrap_or(0);
            bytes.truncate(start + got);
            for (place, n) in group {
                let from = (place.offset - first.offset) as usize;
                ranges[*n] = (start + from).min(bytes.len())..bytes.len();
            }
            for (place, n) in group {
                // A record that goes beyond what was read is read again as a whole.
                let head = Head::from_bytes(&bytes[ranges[*n].clone()], *seal, place.offset);
                let Some(len) = head.map(|head| HEAD + head.payload_len as usize).filter(|len| *len > ranges[*n].len())
                else {
                    continue;
                };
                // A header's checksum covers its lengths; still nothing is made room for that the file does not have.
                if file.len().is_ok_and(|all| u64::from(place.offset) + len as u64 <= all) {
                    let start = bytes.len();
                    bytes.resize(start + len, 0);
                    let got = read_at_most(&**file, &mut bytes[start..], u64::from(place.offset)).unwrap_or(0);
                    bytes.truncate(start + got);
                    ranges[*n] = start..start + got;
                }
            }
        }
        (bytes, ranges)
    }

    /// The payload of a record, if it is the one that should be there.
    fn payload<'b>(&self, id: QueueId, place: Location, bytes: &'b [u8], kinds: &[RecordKind]) -> Option<&'b [u8]> {
        let (_, seal) = self.segments.get(&place.epoch)?;
        let head = Head::from_bytes(bytes, *seal, place.offset)?;
        let payload = bytes.get(HEAD..HEAD.checked_add(head.payload_len as usize)?)?;
        let right = head.id == id && kinds.contains(&head.kind) && crc32c::crc32c(payload) == head.payload_crc;
        right.then_some(payload)
    }

    /// Takes a message's records apart: arrival, size, sender.
    fn parse<'b>(
        &self,
        job: &'b Job,
        bytes: &'b [u8],
        ranges: &[std::ops::Range<usize>],
        recipients: &mut Vec<OutlineRecipient<'b>>,
    ) -> Option<(Timestamp, u64, &'b str)> {
        let id = job.meta.queue_id;
        let places = self.places.get(job.records.clone())?;
        let mut records = places.iter().zip(ranges);
        let (place, range) = records.next()?;
        let payload = self.payload(id, *place, bytes.get(range.clone())?, &[RecordKind::Message])?;
        let head = codec::outline(payload, recipients).ok()?;
        for (place, range) in records {
            let kinds = [RecordKind::State, RecordKind::Settle];
            let payload = self.payload(id, *place, bytes.get(range.clone())?, &kinds)?;
            apply(payload, recipients).ok()?;
        }
        for payload in &job.waiting {
            apply(payload, recipients).ok()?;
        }
        Some(head)
    }
}

fn apply<'b>(payload: &'b [u8], recipients: &mut [OutlineRecipient<'b>]) -> Result<(), Malformed> {
    codec::outline_change(payload, |index, state| {
        if let Some(recipient) = recipients.get_mut(index as usize) {
            (recipient.state, recipient.status) = state;
        }
    })
}

pub(crate) fn show_envelope(meta: Meta, envelope: &Envelope, visit: &mut impl FnMut(&Outline<'_>)) {
    let recipients: Vec<OutlineRecipient<'_>> = envelope
        .recipients
        .iter()
        .map(|r| {
            let status = match &r.state {
                RecipientState::Deferred(failure) | RecipientState::Failed(failure) => Some(failure.status),
                RecipientState::Pending | RecipientState::Done => None,
            };
            OutlineRecipient { address: &r.address, original: &r.original, state: (&r.state).into(), status }
        })
        .collect();
    let (arrival, size, sender) = (envelope.arrival, envelope.size, envelope.sender.as_str());
    visit(&Outline { meta, arrival, size, sender, recipients: &recipients });
}

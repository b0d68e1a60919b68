//! What the queue keeps in memory: per message some hundred bytes and no text.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use yamabiko_envelope::{Envelope, QueueId, Timestamp};

use crate::codec::Standing;
use crate::fs::StoredFile;
use crate::record::Seal;
use crate::{Flags, Meta};

/// A queue ID in twelve bytes, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    high: u32,
    low: u32,
    node: u32,
}

impl From<QueueId> for Key {
    fn from(id: QueueId) -> Self {
        Self { high: (id.micros() >> 32) as u32, low: id.micros() as u32, node: id.node() }
    }
}

impl From<Key> for QueueId {
    fn from(key: Key) -> Self {
        QueueId::new(u64::from(key.high) << 32 | u64::from(key.low), key.node)
    }
}

/// Where a record is. Epoch 0 is none: epochs count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The segment.
    pub epoch: u32,
    /// The byte.
    pub offset: u32,
}

/// A message.
#[derive(Debug)]
pub struct Entry {
    /// Its message record.
    pub message: Location,
    /// Its newest state record, if there is one.
    state: Location,
    /// Settle records after that.
    settles: Option<Box<Vec<Location>>>,
    next_attempt: u64,
    /// Length of the message record.
    pub len: u32,
    attempts: u16,
    /// 65535 when there are more.
    recipients: u16,
    flags: Flags,
}

/// More recipients than are counted in memory.
const MANY: u16 = u16::MAX;

impl Entry {
    /// A message whose record is at `message`.
    pub fn new(message: Location, len: u32, recipients: usize, standing: Standing) -> Self {
        Self {
            message,
            state: Location::default(),
            settles: None,
            next_attempt: standing.next_attempt.0,
            len,
            attempts: standing.attempts,
            recipients: u16::try_from(recipients).unwrap_or(MANY),
            flags: standing.flags,
        }
    }
    /// Its content has a file of its own.
    pub fn set_large(&mut self, large: bool) {
        self.flags = self.flags.with_large(large);
    }
    /// True when its content has a file of its own.
    pub fn large(&self) -> bool {
        self.flags.large()
    }
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        Standing { next_attempt: Timestamp(self.next_attempt), attempts: self.attempts, flags: self.flags }
    }
    /// Sets where it stands. The active flag is not part of that.
    pub fn set_standing(&mut self, standing: Standing) {
        self.next_attempt = standing.next_attempt.0;
        self.attempts = standing.attempts;
        self.flags = standing.flags.keeping_local(self.flags);
    }
    /// Tells that the engine has it in work.
    pub fn set_active(&mut self, active: bool) {
        self.flags = self.flags.with_active(active);
    }
    /// How many recipients, unless there are too many to count.
    pub fn recipients(&self) -> Option<u32> {
        (self.recipients != MANY).then_some(u32::from(self.recipients))
    }
    /// A state record was written.
    pub fn set_state(&mut self, at: Location) {
        self.state = at;
        self.settles = None;
    }
    /// A settle record was written.
    pub fn add_settle(&mut self, at: Location) {
        self.settles.get_or_insert_default().push(at);
    }
    /// How many settle records stand after the newest state record.
    pub fn settles(&self) -> usize {
        self.settles.as_ref().map_or(0, |s| s.len())
    }
    /// State and settle records in the order in which they are to be read.
    pub fn changes(&self) -> impl Iterator<Item = Location> + '_ {
        let state = (self.state.epoch != 0).then_some(self.state);
        state.into_iter().chain(self.settles.iter().flat_map(|s| s.iter().copied()))
    }
    /// The record of the message was written anew, with its state in it.
    pub fn moved(&mut self, to: Location, len: u32) {
        self.message = to;
        self.len = len;
        self.state = Location::default();
        self.settles = None;
    }
    /// What callers see.
    pub fn meta(&self, key: Key) -> Meta {
        Meta {
            queue_id: key.into(),
            next_attempt: Timestamp(self.next_attempt),
            attempts: self.attempts,
            flags: self.flags,
        }
    }
}

/// A segment in use.
pub struct Segment {
    /// Its file.
    pub file: Arc<dyn StoredFile>,
    /// Number in its name.
    pub number: u32,
    /// What its records are sealed with.
    pub seal: Seal,
    /// Where its records end.
    pub end: u32,
    /// Bytes of message records that count.
    pub live: u64,
}

/// A small message between acceptance and its first attempt.
pub struct Cached {
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Its content.
    pub content: Bytes,
}

/// Messages and segments.
#[derive(Default)]
pub struct Index {
    /// Every message, oldest first.
    pub messages: BTreeMap<Key, Entry>,
    /// Segments in use by epoch.
    pub segments: BTreeMap<u32, Segment>,
    live: u64,
    cached: HashMap<QueueId, Cached>,
    cached_bytes: usize,
}

impl Index {
    /// Puts a message in, in place of an earlier record of the same ID.
    pub fn insert(&mut self, id: QueueId, entry: Entry) {
        self.add_live(entry.message.epoch, entry.len);
        if let Some(old) = self.messages.insert(id.into(), entry) {
            self.sub_live(old.message.epoch, old.len);
        }
    }
    /// Takes a message out.
    pub fn remove(&mut self, id: QueueId) -> Option<Entry> {
        self.uncache(id);
        let entry = self.messages.remove(&id.into())?;
        self.sub_live(entry.message.epoch, entry.len);
        Some(entry)
    }
    /// The message record was copied: false when the message is gone.
    pub fn moved(&mut self, id: QueueId, to: Location, len: u32) {
        let Some(entry) = self.messages.get_mut(&id.into()) else { return };
        let (epoch, old) = (entry.message.epoch, entry.len);
        entry.moved(to, len);
        self.sub_live(epoch, old);
        self.add_live(to.epoch, len);
    }
    fn add_live(&mut self, epoch: u32, len: u32) {
        if let Some(segment) = self.segments.get_mut(&epoch) {
            segment.live += u64::from(len);
            self.live += u64::from(len);
        }
    }
    fn sub_live(&mut self, epoch: u32, len: u32) {
        if let Some(segment) = self.segments.get_mut(&epoch) {
            segment.live = segment.live.saturating_sub(u64::from(len));
            self.live = self.live.saturating_sub(u64::from(len));
        }
    }

    /// Bytes of message records that count, in all segments.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Keeps a message in memory if `budget` bytes allow it.
    pub fn cache(&mut self, id: QueueId, envelope: Arc<Envelope>, content: Bytes, budget: usize) {
        let cost = cost(&content);
        if self.cached_bytes + cost <= budget {
            self.cached_bytes += cost;
            self.cached.insert(id, Cached { envelope, content });
        }
    }
    /// The message in memory, if it is there.
    pub fn cached(&self, id: QueueId) -> Option<&Cached> {
        self.cached.get(&id)
    }
    /// Forgets the copy in memory.
    pub fn uncache(&mut self, id: QueueId) {
        if let Some(cached) = self.cached.remove(&id) {
            self.cached_bytes = self.cached_bytes.saturating_sub(cost(&cached.content));
        }
    }
    /// Bytes of messages in memory.
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }
}

/// What a cached message costs: its content, and an envelope's worth.
fn cost(content: &Bytes) -> usize {
    content.len() + 1024
}

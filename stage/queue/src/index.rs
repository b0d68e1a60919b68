//! What the queue keeps in memory: its messages, its segments, and small messages as a whole until they are tried.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use yamabiko_envelope::{Envelope, QueueId};

use crate::fs::StoredFile;
use crate::messages::{Entry, Location, Messages};
use crate::record::Seal;
use crate::shared::shrink;

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
    /// It has a side index, or cannot have one.
    pub indexed: bool,
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
    pub messages: Messages,
    /// Segments in use by epoch.
    pub segments: BTreeMap<u32, Segment>,
    live: u64,
    cached: HashMap<QueueId, Cached>,
    cached_bytes: usize,
}

impl Index {
    /// Puts a message in, in place of an earlier record of the same ID.
    pub fn insert(&mut self, id: QueueId, entry: Entry) {
        self.add_live(entry.message.epoch, entry.record_len());
        if let Some(old) = self.messages.insert(id, entry) {
            self.sub_live(old.message.epoch, old.record_len());
        }
    }
    /// Takes a message out.
    pub fn remove(&mut self, id: QueueId) -> Option<Entry> {
        self.uncache(id);
        let entry = self.messages.remove(id)?;
        self.sub_live(entry.message.epoch, entry.record_len());
        Some(entry)
    }
    /// The message record was copied. Nothing happens when the message is gone.
    pub fn moved(&mut self, id: QueueId, to: Location, len: u32, large: bool) {
        if let Some((from, old)) = self.messages.moved(id, to, len, large) {
            self.sub_live(from.epoch, old);
            self.add_live(to.epoch, len);
        }
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
    /// Gives back the room of what is gone.
    pub fn give_room_back(&mut self) {
        shrink(&mut self.cached);
        self.messages.give_room_back();
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

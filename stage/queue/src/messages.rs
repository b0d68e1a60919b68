//! The messages in memory, oldest first: 48 bytes each, and no text.
//!
//! Messages come in the order of their IDs and mostly leave in it, so they stand in sorted chunks that are full but
//! for the newest, not in a tree whose nodes an ascending sequence leaves half empty. A hundred thousand deferred
//! messages take some 5 MB.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use yamabiko_envelope::{QueueId, Timestamp};

use crate::codec::Standing;
use crate::predicate::domain_of;
use crate::record::ALIGN;
use crate::shared::shrink;
use crate::{Flags, Meta};

/// Messages in a full chunk.
const CHUNK: usize = 128;

/// A queue ID in twelve bytes, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Where a record is. Epoch 0 is nowhere: epochs count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The segment.
    pub epoch: u32,
    /// The byte.
    pub offset: u32,
}

/// No change was recorded since the message was written.
const NONE: Location = Location { epoch: 0, offset: 0 };
/// Several were: they are in [`Messages::several`].
const SEVERAL: Location = Location { epoch: 0, offset: 1 };
/// More recipients than are counted in memory.
const MANY: u16 = u16::MAX;

/// A message.
#[derive(Debug)]
pub struct Entry {
    /// Its message record.
    pub message: Location,
    /// Length of that in units of the records' alignment, shifted by 8, and the flags.
    len_and_flags: u32,
    /// Its only state or settle record, or [`NONE`] or [`SEVERAL`].
    change: Location,
    /// High and low half, so that the whole needs no alignment beyond 4.
    next_attempt: [u32; 2],
    attempts: u16,
    /// [`MANY`] when there are more.
    recipients: u16,
    hints: Hints,
}

/// What is known of a message's domains without reading it: hashes, 0 where they do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Of the sender's domain.
    pub sender: u16,
    /// Of the domain that all recipients have.
    pub recipients: u16,
}

impl Hints {
    /// The hash of a domain, whatever its case. Never 0.
    pub fn of(domain: &str) -> u16 {
        let mut sum = 0;
        let mut part = [0; 32];
        for chunk in domain.as_bytes().chunks(part.len()) {
            for (to, from) in part.iter_mut().zip(chunk) {
                *to = from.to_ascii_lowercase();
            }
            // A chunk is not longer than the part.
            sum = crc32c::crc32c_append(sum, &part[..chunk.len()]);
        }
        (sum as u16).max(1)
    }
    /// Of a sender, and of the recipients' addresses.
    pub fn new<'a>(sender: &str, recipients: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hashes = recipients.into_iter().map(|address| Self::of(domain_of(address)));
        let first = hashes.next().unwrap_or(0);
        let recipients = if hashes.all(|hash| hash == first) { first } else { 0 };
        Self { sender: Self::of(domain_of(sender)), recipients }
    }
}

impl Entry {
    /// A message whose record is at `message`.
    pub fn new(message: Location, len: u32, recipients: usize, standing: Standing) -> Self {
        let recipients = u16::try_from(recipients).unwrap_or(MANY);
        let mut entry = Self {
            message,
            len_and_flags: 0,
            change: NONE,
            next_attempt: [0; 2],
            attempts: 0,
            recipients,
            hints: Hints::default(),
        };
        entry.set_record_len(len);
        entry.set_standing(standing);
        entry
    }
    /// The same, with what is known of its domains.
    pub fn with_hints(mut self, hints: Hints) -> Self {
        self.hints = hints;
        self
    }
    /// What is known of its domains.
    pub fn hints(&self) -> Hints {
        self.hints
    }
    /// It arrived at another time than its name says.
    pub fn set_renamed(&mut self, renamed: bool) {
        self.set_flags(self.flags().with_renamed(renamed));
    }
    /// Length of the message record.
    pub fn record_len(&self) -> u32 {
        (self.len_and_flags >> 8) * ALIGN as u32
    }
    /// Records are shorter than segments, which have at most 64 MB, so 24 bits are enough.
    fn set_record_len(&mut self, len: u32) {
        self.len_and_flags = len.div_ceil(ALIGN as u32) << 8 | self.len_and_flags & 0xff;
    }
    fn flags(&self) -> Flags {
        Flags(self.len_and_flags as u8)
    }
    fn set_flags(&mut self, flags: Flags) {
        self.len_and_flags = self.len_and_flags & !0xff | u32::from(flags.0);
    }
    fn next_attempt(&self) -> Timestamp {
        let [high, low] = self.next_attempt;
        Timestamp(u64::from(high) << 32 | u64::from(low))
    }
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        Standing { next_attempt: self.next_attempt(), attempts: self.attempts, flags: self.flags() }
    }
    /// Sets where it stands. What is not stored, the active flag among it, stays.
    pub fn set_standing(&mut self, standing: Standing) {
        let at = standing.next_attempt.0;
        self.next_attempt = [(at >> 32) as u32, at as u32];
        self.attempts = standing.attempts;
        self.set_flags(standing.flags.keeping_local(self.flags()));
    }
    /// Tells that the engine has it in work.
    pub fn set_active(&mut self, active: bool) {
        self.set_flags(self.flags().with_active(active));
    }
    /// Its content has a file of its own.
    pub fn set_large(&mut self, large: bool) {
        self.set_flags(self.flags().with_large(large));
    }
    /// True when its content has a file of its own.
    pub fn large(&self) -> bool {
        self.flags().large()
    }
    /// How many recipients, unless there are too many to count.
    pub fn recipients(&self) -> Option<u32> {
        (self.recipients != MANY).then_some(u32::from(self.recipients))
    }
    /// What callers see.
    pub fn meta(&self, id: QueueId) -> Meta {
        Meta { queue_id: id, next_attempt: self.next_attempt(), attempts: self.attempts, flags: self.flags() }
    }
}

/// A row of messages with ascending keys.
type Chunk = Vec<(Key, Entry)>;

/// Every message of the queue.
#[derive(Default)]
pub struct Messages {
    /// By a key that is not above the first of the chunk and above all of the chunk before. None is empty.
    chunks: BTreeMap<Key, Chunk>,
    /// State and settle records of messages that have more than one, in the order in which they are to be read.
    several: HashMap<Key, Vec<Location>>,
    len: usize,
}

impl Messages {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The chunk in which a key is, if it is anywhere, and its place there.
    fn find(&self, key: Key) -> Option<(&Chunk, Result<usize, usize>)> {
        let (_, chunk) = self.chunks.range(..=key).next_back()?;
        Some((chunk, chunk.binary_search_by_key(&key, |(key, _)| *key)))
    }

    /// A message.
    pub fn get(&self, id: QueueId) -> Option<&Entry> {
        let (chunk, place) = self.find(id.into())?;
        chunk.get(place.ok()?).map(|(_, entry)| entry)
    }
    /// A message, to be changed.
    pub fn get_mut(&mut self, id: QueueId) -> Option<&mut Entry> {
        let key = Key::from(id);
        let (_, chunk) = self.chunks.range_mut(..=key).next_back()?;
        let place = chunk.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        chunk.get_mut(place).map(|(_, entry)| entry)
    }
    /// True when it is there.
    pub fn contains(&self, id: QueueId) -> bool {
        self.get(id).is_some()
    }

    /// Puts a message in; returns the one that had the name.
    pub fn insert(&mut self, id: QueueId, entry: Entry) -> Option<Entry> {
        let key = Key::from(id);
        self.several.remove(&key);
        let Some((&name, chunk)) = self.chunks.range_mut(..=key).next_back() else {
            self.len += 1;
            // Before all others: with the first chunk, under a lower name, if that has room.
            let first = self.chunks.pop_first();
            let mut chunk = vec![(key, entry)];
            match first {
                Some((_, rest)) if rest.len() < CHUNK => chunk.extend(rest),
                Some((name, rest)) => {
                    self.chunks.insert(name, rest);
                }
                None => {}
            }
            self.chunks.insert(key, chunk);
            return None;
        };
        let place = match chunk.binary_search_by_key(&key, |(key, _)| *key) {
            // Found there, so the place exists.
            Ok(place) => return Some(std::mem::replace(&mut chunk[place].1, entry)),
            Err(place) => place,
        };
        self.len += 1;
        if chunk.len() < CHUNK {
            chunk.insert(place, (key, entry));
            return None;
        }
        // The chunk is full, and stays so: its last message, mostly the one that has just come, goes on to the next chunk. Many
        // sessions bring theirs nearly in order, and chunks that are split in the middle for those would stay half empty.
        let over = match chunk.pop_if(|_| place < CHUNK) {
            Some(last) => {
                chunk.insert(place, (key, entry));
                last
            }
            None => (key, entry),
        };
        let behind = (Bound::Excluded(name), Bound::Unbounded);
        let next = self.chunks.range(behind).next().filter(|(_, next)| next.len() < CHUNK).map(|(next, _)| *next);
        let mut next = next.and_then(|next| self.chunks.remove(&next)).unwrap_or_default();
        let first = over.0;
        next.insert(0, over);
        self.chunks.insert(first, next);
        None
    }

    /// Takes a message out.
    pub fn remove(&mut self, id: QueueId) -> Option<Entry> {
        let key = Key::from(id);
        let (&name, chunk) = self.chunks.range_mut(..=key).next_back()?;
        let place = chunk.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let (_, entry) = chunk.remove(place);
        self.len -= 1;
        if entry.change == SEVERAL {
            self.several.remove(&key);
        }
        if chunk.is_empty() {
            self.chunks.remove(&name);
        } else if chunk.len() < CHUNK / 4 && chunk.capacity() > CHUNK / 2 {
            self.merge(name);
        }
        Some(entry)
    }

    /// Joins a chunk that has become small with the next one, or gives its room back.
    fn merge(&mut self, name: Key) {
        let mut after = self.chunks.range(name..).map(|(name, chunk)| (*name, chunk.len()));
        let (Some((_, len)), next) = (after.next(), after.next()) else { return };
        let rest = match next {
            Some((next, more)) if len + more <= CHUNK => self.chunks.remove(&next),
            _ => None,
        };
        if let Some(chunk) = self.chunks.get_mut(&name) {
            chunk.extend(rest.unwrap_or_default());
            chunk.shrink_to_fit();
        }
    }

    /// Gives back the room of what is gone. Chunks do so by themselves.
    pub fn give_room_back(&mut self) {
        shrink(&mut self.several);
    }

    /// Every message, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (QueueId, &Entry)> + '_ {
        self.chunks.values().flatten().map(|(key, entry)| ((*key).into(), entry))
    }

    /// The messages after an ID, oldest first.
    pub fn after(&self, id: QueueId) -> impl Iterator<Item = (QueueId, &Entry)> + '_ {
        let key = Key::from(id);
        let from = self.chunks.range(..=key).next_back().map_or(key, |(name, _)| *name);
        let chunks = self.chunks.range(from..).map(|(_, chunk)| chunk);
        // Only the first of these chunks holds messages that are not after it.
        let later = chunks.flat_map(move |chunk| &chunk[chunk.partition_point(|(other, _)| *other <= key)..]);
        later.map(|(key, entry)| ((*key).into(), entry))
    }

    /// Shows the next messages after an ID, oldest first, at most `count`; the last ID, none at the end.
    pub fn visit(
        &self,
        after: Option<QueueId>,
        count: usize,
        each: &mut dyn FnMut(QueueId, &Entry),
    ) -> Option<QueueId> {
        let mut last = None;
        let mut show = |(id, entry): (QueueId, &Entry)| {
            last = Some(id);
            each(id, entry);
        };
        match after {
            None => self.iter().take(count).for_each(&mut show),
            Some(after) => self.after(after).take(count).for_each(&mut show),
        }
        last
    }

    /// A state record was written: it stands for all changes before it.
    pub fn set_state(&mut self, id: QueueId, at: Location) {
        let Some(entry) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut entry.change, at);
        if before == SEVERAL {
            self.several.remove(&id.into());
        }
    }
    /// A settle record was written.
    pub fn add_settle(&mut self, id: QueueId, at: Location) {
        let Some(entry) = self.get_mut(id) else { return };
        match entry.change {
            NONE => entry.change = at,
            SEVERAL => self.several.entry(id.into()).or_default().push(at),
            one => {
                entry.change = SEVERAL;
                self.several.insert(id.into(), vec![one, at]);
            }
        }
    }
    /// State and settle records in the order in which they are to be read.
    pub fn changes(&self, id: QueueId) -> &[Location] {
        let Some(entry) = self.get(id) else { return &[] };
        match &entry.change {
            &NONE => &[],
            &SEVERAL => self.several.get(&id.into()).map_or(&[], Vec::as_slice),
            one => std::slice::from_ref(one),
        }
    }
    /// A checksum of where a message's records are, `waiting` of them not written yet: another one as soon as anything is
    /// recorded of its recipients, since no record is written where another one is.
    pub fn print(&self, id: QueueId, entry: &Entry, waiting: usize) -> u32 {
        let last = match entry.change {
            SEVERAL => self.several.get(&id.into()).and_then(|places| places.last()).copied().unwrap_or(SEVERAL),
            one => one,
        };
        let words = [entry.message.epoch, entry.message.offset, last.epoch, last.offset, waiting as u32];
        words.iter().fold(0, |sum, word| crc32c::crc32c_append(sum, &word.to_le_bytes()))
    }
    /// The record of a message was written anew, with its state in it. Returns where it was, and its length.
    pub fn moved(&mut self, id: QueueId, to: Location, len: u32, large: bool) -> Option<(Location, u32)> {
        let entry = self.get_mut(id)?;
        let before = (entry.message, entry.record_len());
        entry.message = to;
        entry.set_record_len(len);
        entry.set_large(large);
        if std::mem::replace(&mut entry.change, NONE) == SEVERAL {
            self.several.remove(&id.into());
        }
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Dice;

    fn at(n: u64) -> Location {
        Location { epoch: 1 + (n >> 16) as u32, offset: n as u32 }
    }

    fn entry(n: u64) -> Entry {
        Entry::new(at(n), 16, 1, Standing { next_attempt: Timestamp(n << 20), ..Standing::default() })
    }

    #[test]
    fn a_message_takes_48_bytes() {
        assert_eq!(std::mem::size_of::<(Key, Entry)>(), 48);
        let mut messages = Messages::default();
        for n in 0..10_000 {
            messages.insert(QueueId::new(n, 1), entry(n));
        }
        let room: usize = messages.chunks.values().map(Vec::capacity).sum();
        assert!(room < 10_200, "{room}");
    }

    /// Many sessions get their IDs and store their messages side by side.
    #[test]
    fn what_comes_nearly_in_order_fills_its_chunks() {
        let mut dice = Dice::new(1);
        let mut messages = Messages::default();
        let mut waiting: Vec<u64> = Vec::new();
        for n in 0..50_000 {
            waiting.push(n);
            if waiting.len() > 100 {
                let next = waiting.swap_remove(dice.below(100) as usize);
                messages.insert(QueueId::new(next << 10, 1), entry(next));
            }
        }
        assert_eq!(messages.len(), 49_900);
        let room: usize = messages.chunks.values().map(Vec::capacity).sum();
        assert!(room < 51_500, "{room}");
    }

    #[test]
    fn it_does_what_a_map_does() {
        for (seed, span) in [(1, 300), (2, 3000), (3, 100_000)] {
            let mut dice = Dice::new(seed);
            let mut messages = Messages::default();
            let mut model = BTreeMap::new();
            for step in 0..12_000u64 {
                let n = match dice.below(3) {
                    // Mostly ascending, as real ones.
                    0 => span + step,
                    _ => dice.below(span),
                };
                let id = QueueId::new(n << 30, n as u32);
                let grow = step % 4000 < 2000;
                if dice.below(10) < if grow { 7 } else { 2 } {
                    let old = messages.insert(id, entry(step)).map(|e| e.message);
                    assert_eq!(old, model.insert(id, (at(step), Vec::new())).map(|(at, _)| at));
                } else if dice.below(3) == 0 {
                    messages.add_settle(id, at(step));
                    if let Some((_, changes)) = model.get_mut(&id) {
                        changes.push(at(step));
                    }
                } else if dice.below(8) == 0 {
                    messages.set_state(id, at(step));
                    if let Some((_, changes)) = model.get_mut(&id) {
                        *changes = vec![at(step)];
                    }
                } else {
                    let oldest = model.keys().next().copied().unwrap_or(id);
                    let id = if dice.below(2) == 0 { oldest } else { id };
                    assert_eq!(messages.remove(id).map(|e| e.message), model.remove(&id).map(|(at, _)| at));
                }
                assert_eq!(messages.len(), model.len());
                assert_eq!(messages.get(id).map(|e| e.message), model.get(&id).map(|(at, _)| *at));
                assert_eq!(messages.changes(id), model.get(&id).map_or(&[][..], |(_, changes)| changes));
                if step % 500 == 0 {
                    assert!(messages.iter().map(|(id, e)| (id, e.message)).eq(model.iter().map(|(id, m)| (*id, m.0))));
                    let after = model.range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded));
                    assert!(messages.after(id).map(|(id, _)| id).eq(after.map(|(id, _)| *id)));
                    assert!(messages.chunks.values().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK + 1));
                }
            }
        }
    }
}

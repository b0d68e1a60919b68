//! Messages that wait: new ones for their turn, deferred ones for their time. Some 60 bytes each, a million of them at
//! hand: a slab of 40-byte slots in chunks, a table of slot numbers to find one by its queue ID, and a heap of slot
//! numbers per line, ordered by time.

use std::collections::HashMap;

use yamabiko_envelope::{QueueId, Timestamp};

/// Names the domain of a recipient for [`flush_site`](crate::Schedule::flush_site). Case does not matter.
pub fn site_hash(domain: &str) -> u64 {
    // FNV-1a. Nobody gains by making two domains meet: the worst is a message tried too early.
    let hash = domain
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3));
    hash.clamp(1, MANY - 1)
}

const NONE: u32 = u32::MAX;
/// In [`Slot::site`]: no site is known.
const NO_SITE: u64 = 0;
/// In [`Slot::site`]: several, kept apart.
const MANY: u64 = u64::MAX;
const CHUNK: usize = 1024;

/// Which line a message waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Never tried.
    Incoming,
    /// Tried before.
    Deferred,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: QueueId,
    due: Timestamp,
    site: u64,
    /// Place in the heap; in a free slot the next free one.
    place: u32,
    line: Line,
    flushed: bool,
}

/// A message taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub id: QueueId,
    pub line: Line,
    /// Somebody asked for this attempt.
    pub flushed: bool,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    chunks: Vec<Box<[Slot]>>,
    /// Head of the chain of free slots.
    free: u32,
    len: usize,
    /// Open addressing, linear probing; slot numbers or `NONE`.
    table: Vec<u32>,
    heaps: [Vec<u32>; 2],
    many: HashMap<u32, Box<[u64]>>,
}

fn hash(id: QueueId) -> usize {
    let mut x = id.micros() ^ (u64::from(id.node()) << 40);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as usize
}

// Indexing below: slot numbers come from `allocate` and are below `chunks.len() * CHUNK`; places in a heap are kept by
// `put`; positions in the table are masked by its length, a power of two.
impl Waiting {
    pub(crate) fn new() -> Self {
        Self { chunks: vec![], free: NONE, len: 0, table: vec![], heaps: [vec![], vec![]], many: HashMap::new() }
    }

    pub(crate) fn len(&self, line: Line) -> usize {
        self.heaps[line as usize].len()
    }

    fn slot(&self, n: u32) -> &Slot {
        &self.chunks[n as usize / CHUNK][n as usize % CHUNK]
    }

    fn slot_mut(&mut self, n: u32) -> &mut Slot {
        &mut self.chunks[n as usize / CHUNK][n as usize % CHUNK]
    }

    /// Adds a message, or moves one that is there.
    pub(crate) fn insert(&mut self, id: QueueId, due: Timestamp, line: Line, sites: &[u64]) {
        self.remove(id);
        let n = self.allocate();
        let site = match sites {
            [] => NO_SITE,
            [one] => *one,
            several => {
                let mut several = several.to_vec();
                several.sort_unstable();
                several.dedup();
                self.many.insert(n, several.into());
                MANY
            }
        };
        let heap = &mut self.heaps[line as usize];
        let place = heap.len();
        heap.push(n);
        *self.slot_mut(n) = Slot { id, due, site, place: place as u32, line, flushed: false };
        self.up(line, place);
        self.len += 1;
        if self.table.len() * 3 < self.len * 4 {
            self.rebuild_table((self.len * 2).next_power_of_two().max(64));
        } else {
            self.enter(n);
        }
    }

    fn allocate(&mut self) -> u32 {
        if self.free == NONE {
            // Four thousand million messages of 40 bytes are more than any machine holds.
            let first = (self.chunks.len() * CHUNK) as u32;
            let last = first + CHUNK as u32 - 1;
            let blank = |n: u32| Slot {
                id: QueueId::new(0, 0),
                due: Timestamp(0),
                site: NO_SITE,
                place: if n == last { NONE } else { n + 1 },
                line: Line::Incoming,
                flushed: false,
            };
            self.chunks.push((first..=last).map(blank).collect());
            self.free = first;
        }
        let n = self.free;
        self.free = self.slot(n).place;
        n
    }

    fn enter(&mut self, n: u32) {
        let mask = self.table.len() - 1;
        let mut at = hash(self.slot(n).id) & mask;
        while self.table[at] != NONE {
            at = (at + 1) & mask;
        }
        self.table[at] = n;
    }

    fn rebuild_table(&mut self, size: usize) {
        self.table = vec![NONE; size];
        for line in 0..self.heaps.len() {
            for place in 0..self.heaps[line].len() {
                self.enter(self.heaps[line][place]);
            }
        }
    }

    fn find(&self, id: QueueId) -> Option<(usize, u32)> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = hash(id) & mask;
        // Ends: a quarter of the table is empty.
        while self.table[at] != NONE {
            let n = self.table[at];
            if self.slot(n).id == id {
                return Some((at, n));
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Which line a message is in.
    pub(crate) fn line_of(&self, id: QueueId) -> Option<Line> {
        self.find(id).map(|(_, n)| self.slot(n).line)
    }

    /// Takes a message out, wherever it is.
    pub(crate) fn remove(&mut self, id: QueueId) -> Option<Taken> {
        let (at, n) = self.find(id)?;
        self.leave_table(at);
        let Slot { line, place, site, flushed, .. } = *self.slot(n);
        if site == MANY {
            self.many.remove(&n);
        }
        self.leave_heap(line, place as usize);
        self.slot_mut(n).place = self.free;
        self.free = n;
        self.len -= 1;
        if self.len == 0 {
            // A backlog that is gone gives its memory back.
            *self = Self::new();
        }
        Some(Taken { id, line, flushed })
    }

    /// Closes the gap, so that probing never stops too early.
    fn leave_table(&mut self, mut gap: usize) {
        let mask = self.table.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let n = self.table[at];
            if n == NONE {
                break;
            }
            let home = hash(self.slot(n).id) & mask;
            // Can it move to the gap? Only if its home is not between the gap and here.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.table[gap] = n;
                gap = at;
            }
        }
        self.table[gap] = NONE;
    }

    fn leave_heap(&mut self, line: Line, place: usize) {
        let heap = &mut self.heaps[line as usize];
        heap.swap_remove(place);
        if place < heap.len() {
            let n = heap[place];
            self.slot_mut(n).place = place as u32;
            let place = self.up(line, place);
            self.down(line, place);
        }
    }

    fn before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.slot(a), self.slot(b));
        (a.due, a.id) < (b.due, b.id)
    }

    fn put(&mut self, line: Line, place: usize, n: u32) {
        self.heaps[line as usize][place] = n;
        self.slot_mut(n).place = place as u32;
    }

    fn up(&mut self, line: Line, mut place: usize) -> usize {
        let n = self.heaps[line as usize][place];
        while place > 0 {
            let parent = (place - 1) / 2;
            let above = self.heaps[line as usize][parent];
            if !self.before(n, above) {
                break;
            }
            self.put(line, place, above);
            place = parent;
        }
        self.put(line, place, n);
        place
    }

    fn down(&mut self, line: Line, mut place: usize) {
        let n = self.heaps[line as usize][place];
        let len = self.heaps[line as usize].len();
        loop {
            let mut child = 2 * place + 1;
            if child >= len {
                break;
            }
            let heap = &self.heaps[line as usize];
            if child + 1 < len && self.before(heap[child + 1], heap[child]) {
                child += 1;
            }
            let below = self.heaps[line as usize][child];
            if !self.before(below, n) {
                break;
            }
            self.put(line, place, below);
            place = child;
        }
        self.put(line, place, n);
    }

    /// When the first of a line is due.
    pub(crate) fn first_due(&self, line: Line) -> Option<Timestamp> {
        self.heaps[line as usize].first().map(|n| self.slot(*n).due)
    }

    /// Takes the first of a line, if its time has come.
    pub(crate) fn pop(&mut self, line: Line, now: Timestamp) -> Option<Taken> {
        let slot = self.slot(*self.heaps[line as usize].first()?);
        let (id, due) = (slot.id, slot.due);
        if due > now { None } else { self.remove(id) }
    }

    /// Makes one message due. False when it does not wait.
    pub(crate) fn flush(&mut self, id: QueueId, now: Timestamp) -> bool {
        let Some((_, n)) = self.find(id) else { return false };
        self.flush_slot(n, now);
        true
    }

    fn flush_slot(&mut self, n: u32, now: Timestamp) {
        let slot = self.slot_mut(n);
        slot.flushed = true;
        if slot.due > now {
            slot.due = now;
            let (line, place) = (slot.line, slot.place as usize);
            self.up(line, place);
        }
    }

    /// Makes all messages due. Linear.
    pub(crate) fn flush_all(&mut self, now: Timestamp) {
        for line in [Line::Incoming, Line::Deferred] {
            for place in 0..self.len(line) {
                let n = self.heaps[line as usize][place];
                let slot = self.slot_mut(n);
                slot.flushed = true;
                slot.due = slot.due.min(now);
            }
            // Ties are broken by ID, so the order may have changed everywhere.
            for place in (0..self.len(line) / 2).rev() {
                self.down(line, place);
            }
        }
    }

    /// Makes the messages due that have a recipient at a site. Linear.
    pub(crate) fn flush_site(&mut self, site: u64, now: Timestamp) -> usize {
        let there = |n: &u32| {
            let slot = self.slot(*n);
            match slot.site {
                MANY => self.many.get(n).is_some_and(|sites| sites.binary_search(&site).is_ok()),
                one => one == site,
            }
        };
        let found: Vec<u32> = self.heaps[Line::Deferred as usize].iter().copied().filter(there).collect();
        found.iter().for_each(|n| self.flush_slot(*n, now));
        found.len()
    }

    /// Bytes held, as far as they grow with the number of messages.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let chunks = self.chunks.len() * CHUNK * size_of::<Slot>();
        chunks + (self.table.capacity() + self.heaps.iter().map(Vec::capacity).sum::<usize>()) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn sixty_bytes_each() {
        let mut waiting = Waiting::new();
        for n in 0..1_000_000u64 {
            waiting.insert(
                QueueId::new(n * 7919, 1),
                Timestamp(n * 31 % 4000),
                Line::Deferred,
                &[site_hash("a.example")],
            );
        }
        let each = waiting.memory() / 1_000_000;
        assert!(each <= 60, "{each} bytes");
    }

    /// The same as a plain sorted map, through many random steps.
    #[test]
    fn a_model_agrees() {
        let mut waiting = Waiting::new();
        let mut model: BTreeMap<QueueId, (Timestamp, Line, bool, u64)> = BTreeMap::new();
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for step in 0..60_000u64 {
            let id = QueueId::new(random(3000), random(2) as u32);
            let now = Timestamp(step);
            let line = if random(2) == 0 { Line::Incoming } else { Line::Deferred };
            match random(10) {
                0..=4 => {
                    let (due, site) = (Timestamp(step + random(5000)), 1 + random(20));
                    let sites: &[u64] = if random(3) == 0 { &[site, 100, 101] } else { &[site] };
                    waiting.insert(id, due, line, sites);
                    model.insert(id, (due, line, false, site));
                }
                5 => {
                    let taken = waiting.remove(id).map(|t| (t.line, t.flushed));
                    assert_eq!(taken, model.remove(&id).map(|(_, line, flushed, _)| (line, flushed)));
                }
                6 => {
                    let there = model.get_mut(&id).map(|m| *m = (m.0.min(now), m.1, true, m.3)).is_some();
                    assert_eq!(waiting.flush(id, now), there);
                }
                7 if step % 50 == 0 => {
                    waiting.flush_all(now);
                    model.values_mut().for_each(|m| *m = (m.0.min(now), m.1, true, m.3));
                }
                8 if step % 20 == 0 => {
                    let site = 1 + random(20);
                    let mut count = 0;
                    for m in model.values_mut().filter(|m| m.1 == Line::Deferred && m.3 == site) {
                        *m = (m.0.min(now), m.1, true, m.3);
                        count += 1;
                    }
                    assert_eq!(waiting.flush_site(site, now), count);
                }
                _ => {
                    let first = model.iter().filter(|(_, m)| m.1 == line).map(|(id, m)| (m.0, *id, m.2)).min();
                    assert_eq!(waiting.first_due(line), first.map(|f| f.0));
                    let wanted = first.filter(|f| f.0 <= now).map(|f| (f.1, f.2));
                    assert_eq!(waiting.pop(line, now).map(|t| (t.id, t.flushed)), wanted);
                    if let Some((id, _)) = wanted {
                        model.remove(&id);
                    }
                }
            }
            assert_eq!(waiting.len(Line::Incoming) + waiting.len(Line::Deferred), model.len());
        }
        assert!(model.len() > 100);
        for id in model.keys() {
            assert!(waiting.line_of(*id).is_some());
        }
    }

    #[test]
    fn sites() {
        assert_eq!(site_hash("Example.JP"), site_hash("example.jp"));
        assert_ne!(site_hash("example.jp"), site_hash("example.com"));
    }
}

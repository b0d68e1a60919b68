//! Messages that wait: new ones for their turn, deferred ones for their time. Some 50 bytes each, a million of them at
//! hand: a slab of 40-byte slots in chunks and a table of slot numbers to find one by its queue ID.
//!
//! New messages stand in one line per client and envelope sender. Clients are served in turn, and of each its senders: one
//! that gives each of its messages another sender gets no more turns for it. Deferred messages stand on a
//! [`Wheel`]; those whose second has come stand in a small heap, so that they come out in the order of their times.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use yamabiko_envelope::{QueueId, Timestamp};

use crate::wheel::{Spot, Wheel, tick};

/// Names the domain of a recipient for [`flush_site`](crate::Schedule::flush_site). Case does not matter.
pub fn site_hash(domain: &str) -> u64 {
    // FNV-1a. Nobody gains by making two domains meet: the worst is a message tried too early.
    let hash = domain
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3));
    hash.clamp(1, MANY - 1)
}

/// Names an envelope sender for [`message_arrived`](crate::Schedule::message_arrived).
pub fn sender_hash(sender: &str) -> u64 {
    site_hash(sender)
}

/// A key that nobody outside knows: who may choose a sender's name must not be able to get into another client's line.
static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Whom a new message is from. A hash of a sender alone is one of this machine's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    client: u64,
    sender: u64,
}

impl Origin {
    /// By the login, else by the address (of IPv6 the network, which is one customer's), else this machine; and by the envelope
    /// sender.
    pub fn of(login: Option<&str>, address: Option<IpAddr>, sender: &str) -> Self {
        let client = match (login, address.map(|address| address.to_canonical())) {
            (Some(login), _) => SECRET.hash_one(login),
            (None, Some(IpAddr::V4(address))) => u64::from(address.to_bits()) | 1 << 32,
            (None, Some(IpAddr::V6(address))) => (address.to_bits() >> 64) as u64,
            (None, None) => 0,
        };
        Self { client, sender: sender_hash(sender) }
    }

    /// Names its line.
    fn line(self) -> u64 {
        SECRET.hash_one((self.client, self.sender))
    }
}

impl From<u64> for Origin {
    fn from(sender: u64) -> Self {
        Self { client: 0, sender }
    }
}

/// No slot.
const NONE: u32 = u32::MAX;
/// In [`Slot::mark`] of a deferred message: no site is known.
const NO_SITE: u64 = 0;
/// In [`Slot::mark`] of a deferred message: several, kept apart.
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

/// Where a slot is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// In the chain of free slots, by `next`.
    Free,
    /// In its sender's line, by `previous` and `next`; `mark` names the line.
    Incoming,
    /// In the heap; `previous` is the place there.
    Near,
    /// On the wheel, by `previous` and `next`.
    Wheel(Spot),
}

/// In 40 bytes, and that is why the queue ID and the whereabouts are taken apart.
#[derive(Clone, Copy, Debug)]
struct Slot {
    micros: u64,
    due: Timestamp,
    /// The line of a new message, the hash of the site of a deferred one.
    mark: u64,
    node: u32,
    previous: u32,
    next: u32,
    /// A spot of the wheel, or one of the three numbers that are none.
    linked: u16,
    flushed: bool,
}

const FREE: u16 = u16::MAX;
const INCOMING: u16 = u16::MAX - 1;
const NEAR: u16 = u16::MAX - 2;

impl Slot {
    fn id(&self) -> QueueId {
        QueueId::new(self.micros, self.node)
    }

    fn whereabouts(&self) -> Whereabouts {
        match self.linked {
            FREE => Whereabouts::Free,
            INCOMING => Whereabouts::Incoming,
            NEAR => Whereabouts::Near,
            spot => Whereabouts::Wheel(Spot::from_index(spot)),
        }
    }

    fn is_free(&self) -> bool {
        self.linked == FREE
    }

    fn line(&self) -> Line {
        if self.linked == INCOMING { Line::Incoming } else { Line::Deferred }
    }
}

/// A message taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub id: QueueId,
    pub line: Line,
    /// Somebody asked for this attempt.
    pub flushed: bool,
}

/// The new messages of one sender, oldest first. One that has become empty stays until its turn comes, so that a
/// sender is never in its client's round twice.
#[derive(Clone, Copy, Debug)]
struct SenderLine {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    chunks: Vec<Box<[Slot]>>,
    /// Head of the chain of free slots.
    free: u32,
    len: usize,
    /// Open addressing, linear probing; slot numbers or `NONE`.
    table: Vec<u32>,
    /// By [`Origin::line`].
    senders: HashMap<u64, SenderLine>,
    /// The lines of each client in the order of their turns. None is empty: a client without lines is not there.
    clients: HashMap<u64, VecDeque<u64>>,
    /// The clients in the order of their turns.
    round: VecDeque<u64>,
    /// Room for the turns of the next client: most have one line for one message.
    spare: VecDeque<u64>,
    incoming: usize,
    wheel: Wheel,
    /// Heads of the wheel's lists, by spot.
    heads: Box<[u32]>,
    /// Deferred messages whose second has come, ordered by time.
    near: Vec<u32>,
    many: HashMap<u32, Box<[u64]>>,
}

fn hash(id: QueueId) -> usize {
    let mut x = id.micros() ^ (u64::from(id.node()) << 40);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as usize
}

// Indexing below: slot numbers come from `allocate` and are below `chunks.len() * CHUNK`; places in the heap are kept
// by `put`; spots come from the wheel, which has as many as there are heads; positions in the table are masked by its
// length, a power of two.
impl Waiting {
    pub(crate) fn new() -> Self {
        Self {
            chunks: vec![],
            free: NONE,
            len: 0,
            table: vec![],
            senders: HashMap::new(),
            clients: HashMap::new(),
            round: VecDeque::new(),
            spare: VecDeque::new(),
            incoming: 0,
            wheel: Wheel::new(),
            heads: vec![NONE; Wheel::SPOTS].into(),
            near: vec![],
            many: HashMap::new(),
        }
    }

    pub(crate) fn len(&self, line: Line) -> usize {
        match line {
            Line::Incoming => self.incoming,
            Line::Deferred => self.len - self.incoming,
        }
    }

    fn slot(&self, n: u32) -> &Slot {
        &self.chunks[n as usize / CHUNK][n as usize % CHUNK]
    }

    fn slot_mut(&mut self, n: u32) -> &mut Slot {
        &mut self.chunks[n as usize / CHUNK][n as usize % CHUNK]
    }

    /// Numbers of all slots in use.
    fn used(&self) -> impl Iterator<Item = u32> + '_ {
        let all = self.chunks.iter().flatten().zip(0u32..);
        all.filter(|(slot, _)| !slot.is_free()).map(|(_, n)| n)
    }

    /// Adds a new message, or moves one that is there: it is due when its client's turn comes, and its sender's among those
    /// of the client.
    pub(crate) fn insert_incoming(&mut self, id: QueueId, origin: impl Into<Origin>) {
        let origin = origin.into();
        let name = origin.line();
        let n = self.take_slot(id, Timestamp(0), name);
        if !self.senders.contains_key(&name) {
            self.line_up(origin.client, name);
        }
        self.append(name, n);
    }

    /// A new line at the end of its client's.
    fn line_up(&mut self, client: u64, name: u64) {
        let spare = &mut self.spare;
        let turns = self.clients.entry(client).or_insert_with(|| std::mem::take(spare));
        if turns.is_empty() {
            self.round.push_back(client);
        }
        turns.push_back(name);
        self.senders.insert(name, SenderLine { first: NONE, last: NONE });
    }

    /// Puts a slot at the end of a line that is there.
    fn append(&mut self, name: u64, n: u32) {
        let line = self.senders.entry(name).or_insert(SenderLine { first: NONE, last: NONE });
        let last = std::mem::replace(&mut line.last, n);
        if line.first == NONE {
            line.first = n;
        }
        self.incoming += 1;
        let slot = self.slot_mut(n);
        slot.linked = INCOMING;
        slot.previous = last;
        slot.next = NONE;
        if last != NONE {
            self.slot_mut(last).next = n;
        }
    }

    /// Adds a message that is due at a time, or moves one that is there.
    pub(crate) fn insert_deferred(&mut self, id: QueueId, due: Timestamp, sites: &[u64]) {
        let (mark, many) = match sites {
            [] => (NO_SITE, None),
            [one] => (*one, None),
            several => {
                let mut several = several.to_vec();
                several.sort_unstable();
                several.dedup();
                (MANY, Some(several))
            }
        };
        let n = self.take_slot(id, due, mark);
        if let Some(several) = many {
            self.many.insert(n, several.into());
        }
        self.place(n);
    }

    /// A slot for a message, entered in the table and linked nowhere yet.
    fn take_slot(&mut self, id: QueueId, due: Timestamp, mark: u64) -> u32 {
        self.remove(id);
        if self.free == NONE {
            self.more_slots();
        }
        let n = self.free;
        let slot = self.slot_mut(n);
        let next_free = slot.next;
        *slot = Slot { micros: id.micros(), node: id.node(), due, mark, ..BLANK };
        self.free = next_free;
        self.len += 1;
        if self.table.len() * 3 < self.len * 4 {
            // It counts as used from here on.
            self.slot_mut(n).linked = NEAR;
            self.rebuild_table((self.len * 2).next_power_of_two().max(64));
        } else {
            self.enter(n);
        }
        n
    }

    /// After a backlog that is mostly gone: those that are left are put together anew, in as much room as they need.
    pub(crate) fn tidy(&mut self) {
        if self.chunks.len() < 2 || self.len > self.chunks.len() * CHUNK / 4 {
            return;
        }
        let mut before = std::mem::replace(self, Self { wheel: self.wheel.emptied(), ..Self::new() });
        let mut many = std::mem::take(&mut before.many);
        let put = |this: &mut Self, n: u32, many: Option<Box<[u64]>>| {
            let slot = before.slot(n);
            match (slot.line(), many) {
                (Line::Incoming, _) => {
                    let n = this.take_slot(slot.id(), Timestamp(0), slot.mark);
                    this.append(slot.mark, n);
                }
                (Line::Deferred, Some(sites)) => this.insert_deferred(slot.id(), slot.due, &sites),
                (Line::Deferred, None) if slot.mark == NO_SITE => this.insert_deferred(slot.id(), slot.due, &[]),
                (Line::Deferred, None) => this.insert_deferred(slot.id(), slot.due, &[slot.mark]),
            }
            if slot.flushed
                && let Some((_, n)) = this.find(slot.id())
            {
                this.slot_mut(n).flushed = true;
            }
        };
        // Clients and senders keep their turns, those without messages too, and each one's messages their order.
        for client in &before.round {
            for name in before.clients.get(client).into_iter().flatten() {
                self.line_up(*client, *name);
                let mut n = before.senders.get(name).map_or(NONE, |line| line.first);
                while n != NONE {
                    put(self, n, None);
                    n = before.slot(n).next;
                }
            }
        }
        for n in before.used().filter(|n| before.slot(*n).line() == Line::Deferred) {
            put(self, n, many.remove(&n));
        }
    }

    fn more_slots(&mut self) {
        // Four thousand million messages of 40 bytes are more than any machine holds.
        let first = (self.chunks.len() * CHUNK) as u32;
        let last = first + CHUNK as u32 - 1;
        let blank = |n: u32| Slot { next: if n == last { NONE } else { n + 1 }, ..BLANK };
        self.chunks.push((first..=last).map(blank).collect());
        self.free = first;
    }

    fn enter(&mut self, n: u32) {
        let mask = self.table.len() - 1;
        let mut at = hash(self.slot(n).id()) & mask;
        while self.table[at] != NONE {
            at = (at + 1) & mask;
        }
        self.table[at] = n;
    }

    fn rebuild_table(&mut self, size: usize) {
        self.table = vec![NONE; size];
        for chunk in 0..self.chunks.len() {
            for place in 0..CHUNK {
                if !self.chunks[chunk][place].is_free() {
                    self.enter((chunk * CHUNK + place) as u32);
                }
            }
        }
    }

    fn find(&self, id: QueueId) -> Option<(usize, u32)> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = hash(id) & mask;
        // Ends: a quarter of the table is empty.
        while self.table[at] != NONE {
            let n = self.table[at];
            if self.slot(n).id() == id {
                return Some((at, n));
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Which line a message is in.
    pub(crate) fn line_of(&self, id: QueueId) -> Option<Line> {
        self.find(id).map(|(_, n)| self.slot(n).line())
    }

    /// Takes a message out, wherever it is.
    pub(crate) fn remove(&mut self, id: QueueId) -> Option<Taken> {
        let (at, n) = self.find(id)?;
        self.leave_table(at);
        self.unlink(n);
        let Slot { flushed, mark, .. } = *self.slot(n);
        let line = self.slot(n).line();
        match line {
            Line::Incoming => self.incoming -= 1,
            Line::Deferred if mark == MANY => {
                self.many.remove(&n);
            }
            Line::Deferred => {}
        }
        let next_free = self.free;
        let slot = self.slot_mut(n);
        slot.linked = FREE;
        slot.next = next_free;
        self.free = n;
        self.len -= 1;
        if self.len == 0 {
            self.settle();
        }
        Some(Taken { id, line, flushed })
    }

    /// Nothing waits any more. A backlog that is gone gives its memory back. What one chunk holds stays as it is: mail that
    /// goes out as it comes in would have it made anew for every message.
    fn settle(&mut self) {
        if self.chunks.len() > 1 {
            *self = Self { wheel: self.wheel.emptied(), ..Self::new() };
            return;
        }
        // All slots are free by now, and nothing is in the table, in the heap or on the wheel. Lines may be left whose turn
        // has not come since they became empty.
        debug_assert!(self.near.is_empty() && self.many.is_empty() && self.heads.iter().all(|head| *head == NONE));
        self.senders.clear();
        self.clients.clear();
        self.round.clear();
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
            let home = hash(self.slot(n).id()) & mask;
            // Can it move to the gap? Only if its home is not between the gap and here.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.table[gap] = n;
                gap = at;
            }
        }
        self.table[gap] = NONE;
    }

    // ---- where a slot is linked

    /// Puts a deferred message on the wheel, or into the heap if its second has come.
    fn place(&mut self, n: u32) {
        let due = self.slot(n).due;
        match self.wheel.spot(due) {
            None => {
                let place = self.near.len();
                self.near.push(n);
                self.slot_mut(n).linked = NEAR;
                self.up(place);
            }
            Some(spot) => {
                self.wheel.enter(spot, due);
                let next = std::mem::replace(&mut self.heads[spot.index()], n);
                let slot = self.slot_mut(n);
                slot.linked = spot.as_index();
                slot.previous = NONE;
                slot.next = next;
                if next != NONE {
                    self.slot_mut(next).previous = n;
                }
            }
        }
    }

    fn unlink(&mut self, n: u32) {
        let Slot { previous, next, mark, .. } = *self.slot(n);
        match self.slot(n).whereabouts() {
            Whereabouts::Free => {}
            Whereabouts::Near => self.leave_heap(previous as usize),
            Whereabouts::Incoming => {
                let line = self.senders.get_mut(&mark);
                if let Some(line) = line {
                    line.first = if previous == NONE { next } else { line.first };
                    line.last = if next == NONE { previous } else { line.last };
                }
                self.bridge(previous, next);
            }
            Whereabouts::Wheel(spot) => {
                if previous == NONE {
                    self.heads[spot.index()] = next;
                    if next == NONE {
                        self.wheel.leave(spot);
                    }
                }
                self.bridge(previous, next);
            }
        }
    }

    fn bridge(&mut self, previous: u32, next: u32) {
        if previous != NONE {
            self.slot_mut(previous).next = next;
        }
        if next != NONE {
            self.slot_mut(next).previous = previous;
        }
    }

    fn leave_heap(&mut self, place: usize) {
        self.near.swap_remove(place);
        if place < self.near.len() {
            let n = self.near[place];
            self.slot_mut(n).previous = place as u32;
            let place = self.up(place);
            self.down(place);
        }
        if self.near.capacity() > 4096 && self.near.len() < self.near.capacity() / 4 {
            self.near.shrink_to(self.near.len() * 2);
        }
    }

    fn before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.slot(a), self.slot(b));
        (a.due, a.id()) < (b.due, b.id())
    }

    fn put(&mut self, place: usize, n: u32) {
        self.near[place] = n;
        self.slot_mut(n).previous = place as u32;
    }

    fn up(&mut self, mut place: usize) -> usize {
        let n = self.near[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            let above = self.near[parent];
            if !self.before(n, above) {
                break;
            }
            self.put(place, above);
            place = parent;
        }
        self.put(place, n);
        place
    }

    fn down(&mut self, mut place: usize) {
        let n = self.near[place];
        let len = self.near.len();
        loop {
            let mut child = 2 * place + 1;
            if child >= len {
                break;
            }
            if child + 1 < len && self.before(self.near[child + 1], self.near[child]) {
                child += 1;
            }
            let below = self.near[child];
            if !self.before(below, n) {
                break;
            }
            self.put(place, below);
            place = child;
        }
        self.put(place, n);
    }

    // ---- time

    /// Time has come to `now`: what is due this second goes into the heap.
    fn advance(&mut self, now: Timestamp) {
        let Some(reached) = self.wheel.advance(tick(now)) else { return };
        for spot in reached {
            let mut n = std::mem::replace(&mut self.heads[spot.index()], NONE);
            while n != NONE {
                let next = self.slot(n).next;
                self.place(n);
                n = next;
            }
        }
    }

    /// When the first of a line is due, or a little earlier when that one was taken out. A new message is due at once.
    pub(crate) fn first_due(&self, line: Line) -> Option<Timestamp> {
        match line {
            Line::Incoming => (self.incoming > 0).then_some(Timestamp(0)),
            Line::Deferred => match self.near.first() {
                Some(n) => Some(self.slot(*n).due),
                None => self.wheel.first_due(),
            },
        }
    }

    /// Takes the first of a line, if its time has come.
    pub(crate) fn pop(&mut self, line: Line, now: Timestamp) -> Option<Taken> {
        let id = match line {
            Line::Incoming => self.next_incoming()?,
            Line::Deferred => {
                self.advance(now);
                let slot = self.slot(*self.near.first()?);
                (slot.due <= now).then(|| slot.id())?
            }
        };
        self.remove(id)
    }

    /// The oldest new message of the sender whose turn it is, of the client whose turn it is. Both go to the end of their
    /// rounds.
    fn next_incoming(&mut self) -> Option<QueueId> {
        loop {
            let client = self.round.pop_front()?;
            let Some(turns) = self.clients.get_mut(&client) else { continue };
            // Lines that have become empty meanwhile use up no turn.
            let found = loop {
                let Some(name) = turns.pop_front() else { break None };
                match self.senders.get(&name) {
                    Some(line) if line.first != NONE => break Some((name, *line)),
                    _ => drop(self.senders.remove(&name)),
                }
            };
            if let Some((name, line)) = found {
                if line.first == line.last {
                    // Its only one: the sender leaves the round now, not a round later.
                    self.senders.remove(&name);
                } else {
                    turns.push_back(name);
                }
            }
            if turns.is_empty() {
                // That of a client that had many lines gives its memory back.
                self.spare = self.clients.remove(&client).filter(|turns| turns.capacity() <= 64).unwrap_or_default();
            } else {
                self.round.push_back(client);
            }
            if let Some((_, line)) = found {
                return Some(self.slot(line.first).id());
            }
        }
    }

    // ---- operators

    /// Makes one message due. False when it does not wait.
    pub(crate) fn flush(&mut self, id: QueueId, now: Timestamp) -> bool {
        let Some((_, n)) = self.find(id) else { return false };
        self.flush_slot(n, now);
        true
    }

    fn flush_slot(&mut self, n: u32, now: Timestamp) {
        let slot = self.slot_mut(n);
        slot.flushed = true;
        if slot.line() == Line::Deferred && slot.due > now {
            self.unlink(n);
            self.slot_mut(n).due = now;
            self.place(n);
        }
    }

    /// Makes all messages due. Linear.
    pub(crate) fn flush_all(&mut self, now: Timestamp) {
        self.wheel = self.wheel.emptied();
        self.heads.fill(NONE);
        self.near.clear();
        for n in self.used().collect::<Vec<u32>>() {
            let place = self.near.len() as u32;
            let slot = self.slot_mut(n);
            slot.flushed = true;
            if slot.line() == Line::Deferred {
                slot.due = slot.due.min(now);
                slot.linked = NEAR;
                slot.previous = place;
                self.near.push(n);
            }
        }
        for place in (0..self.near.len() / 2).rev() {
            self.down(place);
        }
    }

    /// Makes the messages due that have a recipient at a site. Linear.
    pub(crate) fn flush_site(&mut self, site: u64, now: Timestamp) -> usize {
        let there = |n: &u32| {
            let slot = self.slot(*n);
            slot.line() == Line::Deferred
                && match slot.mark {
                    MANY => self.many.get(n).is_some_and(|sites| sites.binary_search(&site).is_ok()),
                    one => one == site,
                }
        };
        let found: Vec<u32> = self.used().filter(there).collect();
        found.iter().for_each(|n| self.flush_slot(*n, now));
        found.len()
    }

    /// Bytes held, as far as they grow with the number of messages.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let chunks = self.chunks.len() * CHUNK * size_of::<Slot>();
        chunks + (self.table.capacity() + self.near.capacity()) * 4 + self.senders.capacity() * 18
    }
}

const BLANK: Slot = Slot {
    micros: 0,
    due: Timestamp(0),
    mark: NO_SITE,
    node: 0,
    previous: NONE,
    next: NONE,
    linked: FREE,
    flushed: false,
};

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;

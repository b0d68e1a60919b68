//! The log's thread: the only one that writes records.
//!
//! It takes all that waits, writes it in one call, syncs once if anybody waits for it, tells them, and looks again.
//! A lone writer is served at once; many share a sync, because they gather while the one before is under way. There
//! is no timer for commits. Changes that nobody waits for are written a little later and synced with the next commit.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use yamabiko_envelope::QueueId;

use crate::fs::{StoredFile, write_all_at};
use crate::index::Segment;
use crate::messages::{Entry, Location};
use crate::record::{ALIGN, HEAD, Head, RECORDS, Seal, SegmentHeader};
use crate::shared::{Free, Op, OpKind, Shared, is_full};
use crate::{Done, QueueError};

/// How long to wait before trying again to write changes for which there was no space.
const RETRY: Duration = Duration::from_millis(500);

/// The segment that is being written.
struct Current {
    file: Arc<dyn StoredFile>,
    seal: Seal,
    size: u32,
    /// Where the next record goes.
    at: u32,
    /// Durable up to here.
    synced: u32,
    /// The header, until it is written with the first records.
    header: Option<Vec<u8>>,
}

/// The log's thread.
pub struct Log {
    shared: Arc<Shared>,
    current: Option<Current>,
    /// Where the records of the segment before the current one end.
    previous_end: u32,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// To be told after the next sync.
    after_sync: Vec<Done>,
    /// Not before this is anything tried again that found no space.
    retry_at: Option<Instant>,
}

/// Why a step failed.
enum Failure {
    /// For want of space: only what adds to the queue is refused.
    Full,
    /// For good.
    Fatal,
}

/// A record with its place.
struct Placed {
    op: Op,
    at: Location,
    len: u32,
}

impl Log {
    /// A log that goes on in a new segment; the records of the last one end at `previous_end`.
    pub fn new(shared: Arc<Shared>, previous_end: u32) -> Self {
        Self { shared, current: None, previous_end, unsynced_since: None, after_sync: Vec::new(), retry_at: None }
    }

    /// Works until the queue is closed.
    pub fn run(mut self) {
        while let Some((ops, sync)) = self.wait() {
            self.commit(ops, sync);
        }
        if self.shared.lock().fatal.is_none() && self.current.as_ref().is_some_and(|c| c.synced > RECORDS) {
            // Says that all before it is durable, so that whatever is damaged there later is not taken for a tail
            // that was torn by a crash.
            self.commit(vec![Op::new(OpKind::Mark, QueueId::new(0, 0), Vec::new())], true);
        }
        self.tell_synced();
    }

    /// Waits for work: records, and whether they must be synced. None when the queue is closed and all is written.
    fn wait(&mut self) -> Option<(Vec<Op>, bool)> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            let retry = self.retry_at.filter(|at| *at > now);
            if state.closing && state.pending.is_empty() && self.unsynced_since.is_none() {
                return None;
            }
            let flush_at = self.unsynced_since.map(|since| since + shared.options.flush_after);
            let flush = flush_at.is_some_and(|at| at <= now) || state.closing;
            let write_at = match state.pending_since {
                Some(since) if retry.is_none() => Some(since + shared.options.write_after),
                Some(_) => retry,
                None => None,
            };
            if state.pending_sync
                || flush
                || state.fatal.is_some() && !state.pending.is_empty()
                || write_at.is_some_and(|at| at <= now)
            {
                let sync = state.pending_sync || flush;
                state.pending_sync = false;
                state.pending_since = None;
                return Some((std::mem::take(&mut state.pending), sync));
            }
            let until = [flush_at, write_at].into_iter().flatten().min();
            state = match until {
                None => shared.wake_log.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(at) => {
                    let time = at.saturating_duration_since(now);
                    shared.wake_log.wait_timeout(state, time).unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
            };
        }
    }

    /// Writes records in order, in as many segments as they take.
    fn commit(&mut self, ops: Vec<Op>, sync: bool) {
        if let Some(why) = self.fatal() {
            return self.refuse(ops, &why);
        }
        let mut left = VecDeque::from(ops);
        let mut part: Vec<Placed> = Vec::new();
        while let Some(op) = left.pop_front() {
            let len = if op.record_kind().is_none() { 0 } else { op.record_len().unwrap_or(u32::MAX) };
            let (epoch, at, size) = match &self.current {
                Some(c) => (c.seal.epoch, part.last().map_or(c.at, |p| p.at.offset + p.len), c.size),
                None => (0, 0, 0),
            };
            if size - at >= len && epoch != 0 || len == 0 {
                part.push(Placed { op, at: Location { epoch, offset: at }, len });
                continue;
            }
            // Nothing may be acknowledged of a segment before the one in front of it is durable, and the helper may
            // reuse any segment that is not the current one: so this part ends here, with all that belongs to it.
            left.push_front(op);
            if let Err((failure, ops)) = self.write(part.split_off(0), true) {
                return self.give_up(failure, ops.chain(left));
            }
            let Some(op) = left.pop_front() else { break };
            match self.next_segment(len, op.is_append()) {
                Ok(()) => left.push_front(op),
                Err(Failure::Full) if op.is_append() => {
                    self.shared.refuse(vec![op], &QueueError::NoSpace);
                }
                Err(failure) => {
                    left.push_front(op);
                    return self.give_up(failure, left.into_iter());
                }
            }
        }
        if let Err((failure, ops)) = self.write(part, sync) {
            self.give_up(failure, ops);
        }
    }

    /// The reason why nothing is written any more.
    fn fatal(&self) -> Option<Arc<str>> {
        self.shared.lock().fatal.clone()
    }

    fn refuse(&mut self, ops: impl IntoIterator<Item = Op>, why: &Arc<str>) {
        self.unsynced_since = None;
        let error = QueueError::ReadOnly(Arc::clone(why));
        self.shared.refuse(ops.into_iter().collect(), &error);
        self.after_sync.drain(..).for_each(|done| done(Err(error.clone())));
    }

    /// What is left of a commit that failed: refused, or kept for later.
    fn give_up(&mut self, failure: Failure, ops: impl Iterator<Item = Op>) {
        match failure {
            Failure::Fatal => {
                if let Some(why) = self.fatal() {
                    self.refuse(ops, &why);
                }
            }
            Failure::Full => self.keep(ops),
        }
    }

    /// Refuses what adds to the queue and puts the rest back, in front of what has come since.
    fn keep(&mut self, ops: impl Iterator<Item = Op>) {
        self.retry_at = Some(Instant::now() + RETRY);
        let mut refused = Vec::new();
        let mut kept = Vec::new();
        for op in ops {
            if op.is_append() { refused.push(op) } else { kept.push(op) }
        }
        {
            let mut state = self.shared.lock();
            if state.closing {
                // Nobody can wait any longer: these changes are lost, as after a crash.
                refused.append(&mut kept);
                self.unsynced_since = None;
            }
            if !kept.is_empty() {
                state.pending_since.get_or_insert_with(Instant::now);
                // Whoever waits for one of these waits on: it would otherwise be tried again at once.
                kept.append(&mut state.pending);
                state.pending = kept;
            }
        }
        self.shared.refuse(refused, &QueueError::NoSpace);
    }

    /// Stops everything for good.
    fn stop(&mut self, what: &str, error: &io::Error) -> Failure {
        let why: Arc<str> = format!("{what}: {error}").into();
        let mut state = self.shared.lock();
        state.fatal.get_or_insert(why);
        state.stats.read_only = true;
        Failure::Fatal
    }

    /// Writes records into the current segment, syncs if asked, and makes them count. When that fails none of them
    /// counts, and they come back.
    fn write(&mut self, part: Vec<Placed>, sync: bool) -> Result<(), (Failure, std::vec::IntoIter<Op>)> {
        let give_back = |part: Vec<Placed>| part.into_iter().map(|p| p.op).collect::<Vec<_>>().into_iter();
        let written = match self.write_records(&part) {
            Ok(written) => written,
            Err(e) if is_full(&e) => {
                // Part of it may be on the disk. What follows goes to another segment, whose header says where this
                // one ends, so that none of it is ever read. What was written before is synced first, as always.
                let failure = self.sync().err().unwrap_or(Failure::Full);
                self.abandon();
                return Err((failure, give_back(part)));
            }
            Err(e) => return Err((self.stop("writing the queue's log", &e), give_back(part))),
        };
        if written > 0 {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        if sync && let Err(failure) = self.sync() {
            return Err((failure, give_back(part)));
        }
        self.count(part, written, sync);
        Ok(())
    }

    /// Makes durable what is written.
    fn sync(&mut self) -> Result<(), Failure> {
        let Some(current) = self.current.as_mut().filter(|_| self.unsynced_since.is_some()) else { return Ok(()) };
        if let Err(e) = current.file.fdatasync() {
            return Err(self.stop("syncing the queue's log", &e));
        }
        current.synced = current.at;
        self.unsynced_since = None;
        self.shared.lock().stats.syncs += 1;
        Ok(())
    }

    fn write_records(&mut self, part: &[Placed]) -> io::Result<u64> {
        const PADDING: [u8; ALIGN] = [0; ALIGN];
        let Some(current) = &mut self.current else { return Ok(0) };
        let records = || part.iter().filter(|p| p.len > 0);
        let heads: Vec<[u8; HEAD]> =
            records().map(|p| head(&p.op, current.synced).to_bytes(current.seal, p.at.offset)).collect();
        if heads.is_empty() {
            return Ok(0);
        }
        let mut slices = Vec::with_capacity(heads.len() * 4 + 1);
        let begin = match &current.header {
            Some(header) => {
                slices.push(IoSlice::new(header));
                0
            }
            None => current.at,
        };
        let mut end = current.at;
        for (placed, head) in records().zip(&heads) {
            slices.push(IoSlice::new(head));
            slices.push(IoSlice::new(&placed.op.payload));
            slices.extend(placed.op.content.iter().map(|bytes| IoSlice::new(bytes)));
            let inline = if placed.op.large() { 0 } else { placed.op.content_len };
            let filled = HEAD as u64 + placed.op.payload.len() as u64 + inline;
            // Below the alignment: the record's length is the next multiple of it.
            let padding = (u64::from(placed.len) - filled) as usize;
            slices.push(IoSlice::new(&PADDING[..padding.min(ALIGN)]));
            end = placed.at.offset + placed.len;
        }
        write_all_at(&*current.file, &mut slices, u64::from(begin))?;
        current.at = end;
        current.header = None;
        Ok(u64::from(end - begin))
    }

    /// Makes written records count, and tells those who wait for them.
    fn count(&mut self, part: Vec<Placed>, written: u64, durable: bool) {
        let mut dones = Vec::new();
        let shared = Arc::clone(&self.shared);
        let mut guard = shared.lock();
        let state = &mut *guard;
        state.stats.bytes_written += written;
        if let Some(current) = &self.current
            && let Some(segment) = state.index.segments.get_mut(&current.seal.epoch)
        {
            segment.end = current.at;
        }
        for Placed { mut op, at, len } in part {
            state.stats.records += u64::from(len > 0);
            dones.extend(op.done.take());
            match op.kind {
                OpKind::Append { large, standing, recipients, replaces, envelope } => {
                    state.stats.appended += 1;
                    state.newest = state.newest.max(op.id);
                    let mut entry = Entry::new(at, len, recipients, standing);
                    entry.set_large(large);
                    state.index.insert(op.id, entry);
                    if let Some(old) = replaces {
                        state.leaving.remove(&old);
                        if state.index.remove(old).is_some_and(|entry| entry.large()) {
                            state.unlink.push(shared.paths.content(old));
                            shared.wake_helper.notify_one();
                        }
                    }
                    if let (Some(envelope), false) = (envelope, large) {
                        let content = match <[_; 1]>::try_from(op.content) {
                            Ok([one]) => one,
                            Err(parts) => parts.concat().into(),
                        };
                        state.index.cache(op.id, envelope, content, shared.options.memory);
                    }
                }
                OpKind::Copy { .. } => {
                    state.stats.copied += 1;
                    state.index.moved(op.id, at, len);
                }
                OpKind::State | OpKind::Settle => {
                    let full = matches!(op.kind, OpKind::State);
                    if let Some(waiting) = state.waiting.get_mut(&op.id) {
                        if !waiting.is_empty() {
                            waiting.remove(0);
                        }
                        if waiting.is_empty() {
                            state.waiting.remove(&op.id);
                        }
                    }
                    if full {
                        state.index.messages.set_state(op.id, at);
                    } else {
                        state.index.messages.add_settle(op.id, at);
                    }
                }
                OpKind::Remove | OpKind::Reclaim | OpKind::Mark | OpKind::Flush => {}
            }
        }
        if crate::pool::worth_reclaiming(state, &shared.options) {
            shared.wake_helper.notify_one();
        }
        drop(guard);
        self.after_sync.append(&mut dones);
        if durable {
            self.tell_synced();
        }
    }

    fn tell_synced(&mut self) {
        for done in self.after_sync.drain(..) {
            done(Ok(()));
        }
    }

    /// Leaves the current segment for good.
    fn abandon(&mut self) {
        if let Some(current) = self.current.take() {
            self.previous_end = current.at;
        }
    }

    /// Goes on in a new segment, in which a record of `len` bytes has room. What adds to the queue does not get the
    /// last one that is ready.
    fn next_segment(&mut self, len: u32, append: bool) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        if len > shared.options.segment_size - RECORDS {
            // Refused where it came in; a segment size that was made smaller since does not lose what is there.
            return Err(Failure::Full);
        }
        let free = {
            let mut state = shared.lock();
            // The last one is for changes, and for the copies that set other segments free.
            let spare = state.ready.len() > usize::from(append);
            let free = spare.then(|| state.ready.pop()).flatten();
            if free.is_none() {
                state.ready_wanted = (state.ready_wanted * 2).min(shared.options.segments_ready.1);
            }
            shared.wake_helper.notify_one();
            free
        };
        let free = match free {
            Some(free) => free,
            None => crate::pool::cold_segment(&shared).map_err(|e| match is_full(&e) {
                true => Failure::Full,
                false => self.stop("making a segment of the queue's log", &e),
            })?,
        };
        self.abandon();
        let Free { number, file } = free;
        let mut state = shared.lock();
        let seal = Seal { epoch: state.next_epoch, salt: random() };
        state.next_epoch += 1;
        let header = SegmentHeader {
            seal,
            first_live: state.first_live.max(1),
            previous_end: self.previous_end,
            newest: state.newest,
        };
        let segment = Segment { file: Arc::clone(&file), number, seal, end: RECORDS, live: 0 };
        state.index.segments.insert(seal.epoch, segment);
        let size = shared.options.segment_size;
        let header = Some(header.to_block());
        self.current = Some(Current { file, seal, size, at: RECORDS, synced: RECORDS, header });
        Ok(())
    }
}

fn head(op: &Op, synced: u32) -> Head {
    Head {
        // Records without a kind have no length, and are not written.
        kind: op.record_kind().unwrap_or(crate::record::RecordKind::Mark),
        large: op.large(),
        synced,
        id: op.id,
        // The length of the whole record fits 32 bits.
        payload_len: op.payload.len() as u32,
        payload_crc: crc32c::crc32c(&op.payload),
        content_len: op.content_len,
        content_crc: op.content_crc,
    }
}

/// A number that nobody can guess, from the keys that the standard library draws for its hash tables.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

//! The log: what writes records, and the thread that mostly does it.
//!
//! [`Log::commit`] writes all that waits in one call, syncs once if anybody waits for it, and tells them. There is one
//! [`Log`] and it is in the hands of whoever took it out of the [`crate::line::Line`]: the log's thread, or a caller
//! that is alone and would only wait for that thread. Many share a sync, because they gather while the one before is
//! under way. There is no timer for commits. Changes that nobody waits for are written a little later and synced with
//! the next commit.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use yamabiko_envelope::QueueId;

use crate::fs::{StoredFile, write_all_at};
use crate::index::Segment;
use crate::messages::{Entry, Location};
use crate::record::{ALIGN, HEAD, Head, RECORDS, Seal, SegmentHeader};
use crate::shared::{Free, Op, OpKind, Shared, State, Waiting, is_full};
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

/// A caller does not wait for a disk that takes longer than this for a sync: it has better things to do.
const LEADING_AT_MOST: Duration = Duration::from_micros(1500);

/// What writes.
pub struct Log {
    current: Option<Current>,
    /// Where the records of the segment before the current one end.
    previous_end: u32,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// To be told after the next sync.
    after_sync: Vec<Done>,
    /// Not before this is anything tried again that found no space.
    retry_at: Option<Instant>,
    /// How long a sync takes, lately.
    sync_time: Duration,
}

/// Room at the end of a segment that is for a reclaim record only.
pub const RESERVE: u32 = (HEAD + ALIGN) as u32;

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

/// The log's thread: works until the queue is closed.
pub fn run(shared: &Shared) {
    while let Some((mut log, ops, sync)) = wait(shared) {
        log.commit(shared, ops, sync);
        put_back(shared, log);
    }
    // Nobody leads any more: the queue is closed.
    let taken = shared.lock().line.take();
    let Some((mut log, _)) = taken else { return };
    if shared.lock().fatal.is_none() && log.current.as_ref().is_some_and(|c| c.synced > RECORDS) {
        // Says that all before it is durable, so that whatever is damaged there later is not taken for a tail
        // that was torn by a crash.
        log.commit(shared, vec![Op::new(OpKind::Mark, QueueId::new(0, 0), Vec::new())], true);
    }
    log.tell_synced();
    put_back(shared, log);
}

/// Waits for work: records, and whether they must be synced. None when the queue is closed and all is written.
fn wait(shared: &Shared) -> Option<(Log, Vec<Op>, bool)> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let until = match state.line.writer() {
            // A caller leads, and wakes us if there is more.
            None => None,
            Some(_) if state.errands.log.is_some() && state.line.is_empty() => {
                let errand = state.errands.log.take();
                drop(state);
                errand.inspect(|errand| errand());
                state = shared.lock();
                continue;
            }
            Some(log) => {
                let retry = log.retry_at.filter(|at| *at > now);
                if state.closing && state.line.is_empty() && log.unsynced_since.is_none() {
                    return None;
                }
                let flush_at = log.unsynced_since.map(|since| since + shared.options.flush_after);
                let flush = flush_at.is_some_and(|at| at <= now) || state.closing;
                let write_at = match (state.line.due(), retry) {
                    (Some(_), Some(retry)) => Some(retry),
                    (due, _) => due,
                };
                if state.line.is_wanted()
                    || flush
                    || state.fatal.is_some() && !state.line.is_empty()
                    || write_at.is_some_and(|at| at <= now)
                {
                    let (log, batch) = state.line.take()?;
                    return Some((log, batch.items, batch.wanted || flush));
                }
                [flush_at, write_at].into_iter().flatten().min()
            }
        };
        state.line.sleeps(until);
        state = match until {
            None => shared.wake_log.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            Some(at) => {
                let time = at.saturating_duration_since(now);
                shared.wake_log.wait_timeout(state, time).unwrap_or_else(std::sync::PoisonError::into_inner).0
            }
        };
        state.line.wakes();
    }
}

/// Gives the writer back.
fn put_back(shared: &Shared, log: Log) {
    let mut state = shared.lock();
    if state.line.put_back(log) || state.closing {
        shared.wake_log.notify_one();
    }
}

/// The writer in the hands of a caller.
struct Leading<'a> {
    shared: &'a Shared,
    log: Option<Log>,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let Some(log) = self.log.take() else { return };
        if std::thread::panicking() {
            // Nobody knows what was written: as after a sync that failed. Those in line are refused by the log's thread.
            let mut state = self.shared.lock();
            state.fatal.get_or_insert("a thread failed while it was writing the log".into());
            state.stats.read_only = true;
        }
        put_back(self.shared, log);
    }
}

/// A caller that is alone commits on its own thread what it has put in line, with all that waits. Otherwise the lock
/// comes back, and the log's thread is to be woken.
pub fn lead<'a>(shared: &Shared, mut state: MutexGuard<'a, State>) -> Result<(), MutexGuard<'a, State>> {
    if state.closing || state.fatal.is_some() {
        return Err(state);
    }
    let Some((log, batch)) = state.line.lead(Log::is_quick) else { return Err(state) };
    state.stats.led += 1;
    drop(state);
    let mut leading = Leading { shared, log: Some(log) };
    if let Some(log) = &mut leading.log {
        log.commit(shared, batch.items, true);
    }
    Ok(())
}

impl Log {
    /// A log that goes on in a new segment; the records of the last one end at `previous_end`.
    pub fn new(previous_end: u32) -> Self {
        Self {
            current: None,
            previous_end,
            unsynced_since: None,
            after_sync: Vec::new(),
            retry_at: None,
            sync_time: Duration::ZERO,
        }
    }

    /// So many bytes can be committed without anything but a write and a sync, and the sync will not take long.
    fn is_quick(&self, bytes: u64) -> bool {
        let room = self.current.as_ref().map_or(0, |current| (current.size - current.at).saturating_sub(RESERVE));
        self.retry_at.is_none() && u64::from(room) >= bytes && self.sync_time <= LEADING_AT_MOST
    }

    /// Writes records in order, in as many segments as they take.
    fn commit(&mut self, shared: &Shared, ops: Vec<Op>, sync: bool) {
        if let Some(why) = Self::fatal(shared) {
            return self.refuse(shared, ops, &why);
        }
        let mut left = VecDeque::from(ops);
        let mut part: Vec<Placed> = Vec::new();
        while let Some(op) = left.pop_front() {
            let len = if op.record_kind().is_none() { 0 } else { op.record_len().unwrap_or(u32::MAX) };
            let (epoch, at, size) = match &self.current {
                Some(c) => (c.seal.epoch, part.last().map_or(c.at, |p| p.at.offset + p.len), c.size),
                None => (0, 0, 0),
            };
            // What sets other segments free must always find room, or a full disk would stay full.
            let kept = if matches!(op.kind, OpKind::Reclaim) { 0 } else { RESERVE };
            if size.saturating_sub(at + kept) >= len && epoch != 0 || len == 0 {
                part.push(Placed { op, at: Location { epoch, offset: at }, len });
                continue;
            }
            // Nothing may be acknowledged of a segment before the one in front of it is durable, and the helper may
            // reuse any segment that is not the current one: so this part ends here, with all that belongs to it.
            left.push_front(op);
            if let Err((failure, ops)) = self.write(shared, part.split_off(0), true) {
                return self.give_up(shared, failure, ops.chain(left));
            }
            let Some(op) = left.pop_front() else { break };
            match self.next_segment(shared, len, op.is_append()) {
                Ok(()) => left.push_front(op),
                Err(Failure::Full) if op.is_append() => {
                    shared.refuse(vec![op], &QueueError::NoSpace);
                }
                Err(failure) => {
                    left.push_front(op);
                    return self.give_up(shared, failure, left.into_iter());
                }
            }
        }
        if let Err((failure, ops)) = self.write(shared, part, sync) {
            self.give_up(shared, failure, ops);
        }
    }

    /// The reason why nothing is written any more.
    fn fatal(shared: &Shared) -> Option<Arc<str>> {
        shared.lock().fatal.clone()
    }

    fn refuse(&mut self, shared: &Shared, ops: impl IntoIterator<Item = Op>, why: &Arc<str>) {
        self.unsynced_since = None;
        let error = QueueError::ReadOnly(Arc::clone(why));
        shared.refuse(ops.into_iter().collect(), &error);
        self.after_sync.drain(..).for_each(|done| done(Err(error.clone())));
    }

    /// What is left of a commit that failed: refused, or kept for later.
    fn give_up(&mut self, shared: &Shared, failure: Failure, ops: impl Iterator<Item = Op>) {
        match failure {
            Failure::Fatal => {
                if let Some(why) = Self::fatal(shared) {
                    self.refuse(shared, ops, &why);
                }
            }
            Failure::Full => self.keep(shared, ops),
        }
    }

    /// Refuses what adds to the queue and puts the rest back, in front of what has come since.
    fn keep(&mut self, shared: &Shared, ops: impl Iterator<Item = Op>) {
        self.retry_at = Some(Instant::now() + RETRY);
        let mut refused = Vec::new();
        let mut kept = Vec::new();
        for op in ops {
            // Copies are made again when there is room: the message is still where it was.
            let refuse = op.is_append() || matches!(op.kind, OpKind::Copy { .. });
            if refuse { refused.push(op) } else { kept.push(op) }
        }
        // It may go before the others: what it names is gone from memory, whether or not their records are written.
        kept.sort_by_key(|op| !matches!(op.kind, OpKind::Reclaim));
        {
            let mut state = shared.lock();
            if state.closing {
                // Nobody can wait any longer: these changes are lost, as after a crash.
                refused.append(&mut kept);
                self.unsynced_since = None;
            }
            // Whoever waits for one of these waits on: it would otherwise be tried again at once.
            let bytes = kept.iter().map(|op| u64::from(op.record_len().unwrap_or(0))).sum();
            state.line.put_first(kept, bytes);
        }
        shared.refuse(refused, &QueueError::NoSpace);
    }

    /// Stops everything for good.
    fn stop(&mut self, shared: &Shared, what: &str, error: &io::Error) -> Failure {
        let why: Arc<str> = format!("{what}: {error}").into();
        let mut state = shared.lock();
        state.fatal.get_or_insert(why);
        state.stats.read_only = true;
        Failure::Fatal
    }

    /// Writes records into the current segment, syncs if asked, and makes them count. When that fails none of them
    /// counts, and they come back.
    fn write(
        &mut self,
        shared: &Shared,
        part: Vec<Placed>,
        sync: bool,
    ) -> Result<(), (Failure, std::vec::IntoIter<Op>)> {
        let give_back = |part: Vec<Placed>| part.into_iter().map(|p| p.op).collect::<Vec<_>>().into_iter();
        let written = match self.write_records(&part) {
            Ok(written) => written,
            Err(e) if is_full(&e) => {
                // Part of it may be on the disk. What follows goes to another segment, whose header says where this
                // one ends, so that none of it is ever read. What was written before is synced first, as always.
                let failure = self.sync(shared).err().unwrap_or(Failure::Full);
                self.abandon();
                return Err((failure, give_back(part)));
            }
            Err(e) => return Err((self.stop(shared, "writing the queue's log", &e), give_back(part))),
        };
        if written > 0 {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        if sync && let Err(failure) = self.sync(shared) {
            return Err((failure, give_back(part)));
        }
        self.count(shared, part, written, sync);
        Ok(())
    }

    /// Makes durable what is written.
    fn sync(&mut self, shared: &Shared) -> Result<(), Failure> {
        let Some(current) = self.current.as_mut().filter(|_| self.unsynced_since.is_some()) else { return Ok(()) };
        let began = Instant::now();
        if let Err(e) = current.file.fdatasync() {
            return Err(self.stop(shared, "syncing the queue's log", &e));
        }
        current.synced = current.at;
        self.unsynced_since = None;
        self.sync_time = (self.sync_time * 7 + began.elapsed()) / 8;
        shared.lock().stats.syncs += 1;
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
    fn count(&mut self, shared: &Shared, part: Vec<Placed>, written: u64, durable: bool) {
        let mut dones = Vec::new();
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
                OpKind::Append { large, standing, survey, replaces, envelope } => {
                    let soon = !large && !standing.flags.hold();
                    let cached = if soon { op.content.pop() } else { None };
                    state.stats.appended += 1;
                    state.newest = state.newest.max(op.id);
                    let mut entry = Entry::new(at, len, survey.recipients, standing).with_hints(survey.hints);
                    entry.set_renamed(crate::recover::is_renamed(op.id, survey.arrival));
                    entry.set_large(large);
                    state.index.insert(op.id, entry);
                    if let Some(old) = replaces {
                        state.leaving.remove(&old);
                        if state.index.remove(old).is_some_and(|entry| entry.large()) {
                            state.unlink.push(shared.paths.content(old));
                            shared.wake_helper.notify_one();
                        }
                    }
                    // In one piece when it was handed in: what waits for an operator, or is large, is not kept here.
                    if let (Some(envelope), Some(content)) = (envelope, cached) {
                        state.index.cache(op.id, envelope, content, shared.options.memory);
                    }
                }
                OpKind::Copy { large } => {
                    state.stats.copied += 1;
                    state.stats.spilled += u64::from(state.spilling.remove(&op.id));
                    state.index.moved(op.id, at, len, large);
                }
                OpKind::State | OpKind::Settle => {
                    let full = matches!(op.kind, OpKind::State);
                    if state.waiting.get_mut(&op.id).is_some_and(Waiting::written) {
                        state.waiting.remove(&op.id);
                    }
                    if full {
                        state.index.messages.set_state(op.id, at);
                    } else {
                        state.index.messages.add_settle(op.id, at);
                    }
                }
                OpKind::Standing | OpKind::Remove | OpKind::Reclaim | OpKind::Mark | OpKind::Flush => {}
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
    fn next_segment(&mut self, shared: &Shared, len: u32, append: bool) -> Result<(), Failure> {
        if len > shared.options.segment_size - RECORDS - RESERVE {
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
            None => crate::pool::cold_segment(shared).map_err(|e| match is_full(&e) {
                true => Failure::Full,
                false => self.stop(shared, "making a segment of the queue's log", &e),
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
        let segment = Segment { file: Arc::clone(&file), number, seal, end: RECORDS, live: 0, indexed: false };
        state.index.segments.insert(seal.epoch, segment);
        shared.wake_helper.notify_one();
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
        copied: matches!(op.kind, OpKind::Copy { .. }),
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

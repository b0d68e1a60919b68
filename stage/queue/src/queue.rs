//! The queue of a running engine.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use yamabiko_envelope::{Content, Envelope, QueueId, RecipientState, Timestamp};

use crate::codec::{self, Hints, Standing, Survey};
use crate::fs::{FileSystem, write_all_at};
use crate::line::Line;
use crate::log::{self, Log, RESERVE};
use crate::messages::Entry;
use crate::outline::{Batch, Outline};
use crate::pool::{Helper, save};
use crate::read::{self, ReadError, read_message};
use crate::readable;
use crate::record::{RECORDS, record_len};
use crate::recover::recover;
use crate::shared::{Errand, Errands, Op, OpKind, Paths, Shared, State, Waiting, io_error, is_full};
use crate::{Counts, Damage, Done, Flags, Meta, NewMessage, Options, QueueError, Recovered, Stats, Store, Stored};

/// How long the free space that was found is believed.
const FREE_SPACE_AGE: Duration = Duration::from_secs(1);
/// Settle records after which all recipients are written in one record at the soonest.
const SETTLES: usize = 8;
/// While a message is being delivered, one settle record for so many recipients at the most: whoever records all recipients at once
/// reads all of them, and would do that again and again for each few of a large mailing.
const RECIPIENTS_PER_SETTLE: usize = 4;
/// How long each message is made to wait while space is short.
const SLOWER: Duration = Duration::from_millis(100);
/// What a message in the queue costs in memory, the schedule's entry with it, in bytes.
const MESSAGE_COST: u64 = 300;
/// Messages looked at in one turn under the lock.
const PAGE: usize = 1000;
/// Whoever waits for the helper looks so often whether it can still come to its end.
const LOOKED_AT: Duration = Duration::from_millis(50);

/// The store of a running engine. See the crate's documentation.
pub struct Queue {
    shared: Arc<Shared>,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// The thread that writes large contents, once there is one.
    large: std::sync::Mutex<Option<(mpsc::Sender<LargeJob>, JoinHandle<()>)>>,
    /// Held as long as the queue is open.
    _lock: Box<dyn Any + Send + Sync>,
}

struct LargeJob {
    parts: Vec<Content>,
    op: Op,
}

/// A change to a message: recipients, and where it stands.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    next_attempt: Option<Timestamp>,
    deferred: bool,
    hold: Option<bool>,
    expire: Option<bool>,
    warned: Option<bool>,
}

impl Change {
    fn to(self, standing: Standing) -> Standing {
        let flags = standing.flags;
        Standing {
            next_attempt: self.next_attempt.unwrap_or(standing.next_attempt),
            attempts: standing.attempts.saturating_add(u16::from(self.deferred)),
            flags: flags
                .with_hold(self.hold.unwrap_or(flags.hold()))
                .with_expire(self.expire.unwrap_or(flags.expire()))
                .with_warned(self.warned.unwrap_or(flags.warned())),
        }
    }
}

impl Queue {
    /// Opens the queue in a directory, which is made when missing, and reads what is in it. Only one process can
    /// have it open ([`QueueError::Locked`]).
    pub fn open(fs: Arc<dyn FileSystem>, dir: &Path, options: Options) -> Result<(Arc<Queue>, Recovered), QueueError> {
        options.check()?;
        let paths = Paths::new(dir);
        for path in [&paths.dir, &paths.log, &paths.large, &paths.corrupt] {
            fs.create_dir(path).map_err(|e| io_error("making the directory", path, &e))?;
        }
        let lock = fs.lock(&paths.lock).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => QueueError::Locked(paths.lock.clone()),
            _ => io_error("locking", &paths.lock, &e),
        })?;
        fs.sync_dir(&paths.dir).map_err(|e| io_error("syncing the directory", &paths.dir, &e))?;
        let recovery = recover(&*fs, &paths, false, options.thorough)?;
        let ready_wanted = options.segments_ready.0;
        let state = State {
            index: recovery.index,
            line: Line::new(Log::new(recovery.previous_end), options.write_after),
            waiting: Default::default(),
            merging: Default::default(),
            leaving: Default::default(),
            spilling: Default::default(),
            ready: Vec::new(),
            ready_wanted,
            draining: recovery.free,
            unlink: recovery.unlink,
            next_number: recovery.next_number,
            next_epoch: recovery.next_epoch,
            first_live: recovery.first_live,
            newest: recovery.newest.unwrap_or(QueueId::new(0, 0)),
            reclaiming: false,
            copying: false,
            helper_rests: false,
            no_space: None,
            space_is_short: false,
            free_checked: None,
            fatal: None,
            errands: Errands::default(),
            closing: false,
            damaged: Vec::new(),
            stats: Stats::default(),
        };
        let shared = Arc::new(Shared::new(fs, paths, options, state));
        let log = Arc::clone(&shared);
        let helper = Helper::new(Arc::clone(&shared));
        // Free segments that were found are at hand before the first message comes.
        helper.take_back();
        let threads = vec![start("queue-log", move || log::run(&log))?, start("queue-pool", || helper.run())?];
        let queue = Queue { shared, threads: threads.into(), large: None.into(), _lock: lock };
        Ok((Arc::new(queue), recovery.recovered))
    }

    /// Stores a message; `done` when content and envelope are durable, or with the reason why they are not.
    pub fn append(&self, message: NewMessage, done: Done) {
        self.store(message, None, done, false);
    }

    /// Takes back a message that was exported, with its name, its attempts and its marks; `done` as for
    /// [`Queue::append`]. [`QueueError::Duplicate`] when a message of that name is here. Not for one that was removed
    /// since the queue was opened: its file may be about to vanish.
    pub fn import(&self, envelope: Envelope, standing: Standing, content: Content, done: Done) {
        let message = NewMessage::new(envelope, content);
        match self.prepare(message, None, Some(standing)) {
            Ok((op, parts)) => self.store_prepared(op.sync(done), parts, false),
            Err(e) => done(Err(e)),
        }
    }

    /// As [`Queue::append`], or as [`Queue::replace`] where `old` is given, for a caller that has nothing else to do
    /// until the message is durable: when nobody else writes, and the disk has been quick lately, the calling thread
    /// itself writes and syncs, for a millisecond at most on a disk that goes on as it did, and `done` is called before
    /// this returns. That saves two wake-ups of other threads. In every other case it is as the others are.
    pub fn append_leading(&self, message: NewMessage, old: Option<QueueId>, done: Done) {
        self.store(message, old, done, true);
    }

    /// Stores a message in place of another: there is no moment, and no crash, at which both or neither are there.
    /// If `old` is gone already the new one is stored all the same.
    pub fn replace(&self, old: QueueId, message: NewMessage, done: Done) {
        self.store(message, Some(old), done, false);
    }

    fn store(&self, message: NewMessage, replaces: Option<QueueId>, done: Done, lead: bool) {
        match self.prepare(message, replaces, None) {
            Ok((op, parts)) => self.store_prepared(op.sync(done), parts, lead),
            Err(e) => done(Err(e)),
        }
    }

    fn store_prepared(&self, op: Op, parts: Vec<Content>, lead: bool) {
        if op.large() {
            return self.store_large(LargeJob { parts, op });
        }
        let shared = &*self.shared;
        let mut state = shared.lock();
        if let Err(e) = state.writable() {
            drop(state);
            return refuse(op, e);
        }
        Shared::line_up(&mut state, op);
        if lead {
            match log::lead(shared, state) {
                Ok(()) => return,
                Err(back) => state = back,
            }
        }
        shared.wake(&mut state);
    }

    /// Everything that can be done for a message before the log's turn: its bytes, its checksums.
    fn prepare(
        &self,
        message: NewMessage,
        replaces: Option<QueueId>,
        standing: Option<Standing>,
    ) -> Result<(Op, Vec<Content>), QueueError> {
        let NewMessage { envelope, parts, checksum, hold, next_attempt } = message;
        let id = envelope.queue_id;
        let options = &self.shared.options;
        {
            let mut state = self.shared.lock();
            state.writable()?;
            if state.index.messages.contains(id) {
                return Err(QueueError::Duplicate(id));
            }
            self.enough_space(&mut state)?;
        }
        let new = Standing { next_attempt, attempts: 0, flags: Flags::default().with_hold(hold) };
        let standing = standing.unwrap_or(new);
        let mut payload = Vec::with_capacity(512);
        codec::put_message(&mut payload, &standing, replaces, &envelope);
        let content_len = parts.iter().map(Content::len).sum::<u64>();
        let large = content_len > options.inline_limit();
        let inline = if large { 0 } else { content_len };
        record_len(payload.len() as u64, inline)
            .filter(|len| *len <= options.segment_size - RECORDS - RESERVE)
            .ok_or(QueueError::TooLarge)?;
        let addresses = envelope.recipients.iter().map(|recipient| recipient.address.as_str());
        let survey = Survey {
            recipients: envelope.recipients.len(),
            arrival: envelope.arrival,
            hints: Hints::new(&envelope.sender, addresses),
        };
        let kind = OpKind::Append { large, standing, survey, replaces, envelope: Some(envelope) };
        let mut op = Op::new(kind, id, payload);
        op.content_len = content_len;
        if large {
            return Ok((op, parts));
        }
        for part in &parts {
            op.content.push(part.to_bytes().map_err(|e| QueueError::Io(format!("reading content: {e}").into()))?);
        }
        if op.content.len() > 1 && !hold {
            // As it is kept in memory until the first attempt; copied here, where nobody waits for a lock.
            op.content = vec![op.content.concat().into()];
        }
        let sum = || op.content.iter().fold(0, |sum, bytes| crc32c::crc32c_append(sum, bytes));
        debug_assert!(checksum.is_none_or(|given| given == sum()), "a wrong checksum was handed in");
        op.content_crc = checksum.unwrap_or_else(sum);
        Ok((op, Vec::new()))
    }

    fn enough_space(&self, state: &mut State) -> Result<(), QueueError> {
        let shared = &self.shared;
        if self.memory_used(state) > shared.options.max_memory {
            return Err(QueueError::NoSpace);
        }
        let enough = match state.free_checked {
            Some((at, enough)) if at.elapsed() < FREE_SPACE_AGE => enough,
            _ => {
                // A system call without disk access; the answer serves for a second.
                let free = shared.fs.free_space(&shared.paths.dir);
                let enough = free.as_ref().map_or(true, |free| *free >= shared.options.min_free);
                let comfort = shared.options.min_free.saturating_mul(2).max(2 * u64::from(shared.options.segment_size));
                state.space_is_short = free.is_ok_and(|free| free < comfort);
                state.free_checked = Some((Instant::now(), enough));
                enough
            }
        };
        if enough { Ok(()) } else { Err(QueueError::NoSpace) }
    }

    fn store_large(&self, job: LargeJob) {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        if large.is_none() {
            if let Err(e) = self.shared.lock().writable() {
                return refuse(job.op, e);
            }
            let (tx, rx) = mpsc::channel::<LargeJob>();
            let shared = Arc::clone(&self.shared);
            match start("queue-large", move || rx.into_iter().for_each(|job| write_large(&shared, job))) {
                Ok(thread) => *large = Some((tx, thread)),
                Err(e) => return refuse(job.op, e),
            }
        }
        let Some((tx, _)) = &*large else { return };
        if let Err(mpsc::SendError(job)) = tx.send(job) {
            refuse(job.op, QueueError::Closed);
        }
    }

    /// Reads a message: envelope with the states of now, and content. From memory before the first attempt.
    pub fn load(&self, id: QueueId) -> Result<Stored, QueueError> {
        let (envelope, content, meta) = self.read(id, true)?;
        // Read with its content, so it has one.
        let content = content.unwrap_or_else(|| Bytes::new().into());
        Ok(Stored { envelope, content, meta })
    }

    /// Reads a message's envelope, with the states of now.
    pub fn envelope(&self, id: QueueId) -> Result<(Arc<Envelope>, Meta), QueueError> {
        let (envelope, _, meta) = self.read(id, false)?;
        Ok((envelope, meta))
    }

    fn read(&self, id: QueueId, content: bool) -> Result<(Arc<Envelope>, Option<Content>, Meta), QueueError> {
        let shared = &self.shared;
        let mut before = None;
        loop {
            let (places, meta, now) = {
                let state = shared.lock();
                let entry = state.index.messages.get(id).ok_or(QueueError::NotFound(id))?;
                let meta = entry.meta(id);
                if let Some(cached) = state.index.cached(id) {
                    return Ok((Arc::clone(&cached.envelope), Some(cached.content.clone().into()), meta));
                }
                // Every message's segment is known, or it would not be in the index.
                let mut places = state.index.places(id).ok_or(QueueError::NotFound(id))?;
                places.waiting = state.waiting.get(&id).map_or_else(Vec::new, Waiting::payloads);
                (places, meta, (entry.message, state.index.messages.changes(id).to_vec()))
            };
            let path = shared.paths.content(id);
            match read_message(&*shared.fs, id, &places, content.then_some(&*path)) {
                Ok((envelope, content)) => return Ok((Arc::new(envelope), content, meta)),
                // It was written anew, or removed, while it was being read: what was read is a segment's next use.
                Err(_) if before.as_ref().is_some_and(|b| *b != now) || before.is_none() => before = Some(now),
                Err(ReadError::Damaged(what)) => return Err(QueueError::Damaged(id, what)),
                Err(ReadError::Io(e)) => return Err(QueueError::Io(format!("reading message {id}: {e}").into())),
            }
        }
    }

    /// Records new states of recipients, by their position in the envelope.
    pub fn settle(&self, id: QueueId, changes: &[(u32, RecipientState)]) -> Result<(), QueueError> {
        self.change(id, Change::default(), changes)
    }

    /// The message was tried and is to be tried again: one attempt more, when next, what became of its recipients,
    /// and whether the sender has been told of the delay (`warned` only ever turns the mark on).
    pub fn defer(
        &self,
        id: QueueId,
        next_attempt: Timestamp,
        changes: &[(u32, RecipientState)],
        warned: bool,
    ) -> Result<(), QueueError> {
        let change = Change {
            next_attempt: Some(next_attempt),
            deferred: true,
            warned: warned.then_some(true),
            ..Change::default()
        };
        self.change(id, change, changes)
    }

    /// Sets when the message is to be tried next, without counting an attempt (`postqueue -f`).
    pub fn schedule(&self, id: QueueId, next_attempt: Timestamp) -> Result<(), QueueError> {
        self.change(id, Change { next_attempt: Some(next_attempt), ..Change::default() }, &[])
    }

    /// The sender has been told of the delay.
    pub fn set_warned(&self, id: QueueId) -> Result<(), QueueError> {
        self.change(id, Change { warned: Some(true), ..Change::default() }, &[])
    }

    /// The message is not to be tried until released.
    pub fn hold(&self, id: QueueId) -> Result<(), QueueError> {
        self.change(id, Change { hold: Some(true), ..Change::default() }, &[])
    }

    /// Ends [`Queue::hold`]; to be tried at `next_attempt`.
    pub fn release(&self, id: QueueId, next_attempt: Timestamp) -> Result<(), QueueError> {
        self.change(id, Change { hold: Some(false), next_attempt: Some(next_attempt), ..Change::default() }, &[])
    }

    /// The message is to be returned at its next attempt as if it were too old. Held mail stays held (`postsuper -e`);
    /// for `postsuper -f` it is to be released too.
    pub fn expire(&self, id: QueueId, next_attempt: Timestamp) -> Result<(), QueueError> {
        self.change(id, Change { expire: Some(true), next_attempt: Some(next_attempt), ..Change::default() }, &[])
    }

    /// The message is finished, or deleted by an operator.
    pub fn remove(&self, id: QueueId) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        state.writable()?;
        let entry = state.index.remove(id).ok_or(QueueError::NotFound(id))?;
        let mut op = Op::new(OpKind::Remove, id, Bytes::new());
        if entry.large() || state.spilling.contains(&id) {
            // The file may go when the record is durable: until then a crash would bring the message back without it.
            let shared = Arc::downgrade(&self.shared);
            op.done = Some(Box::new(move |result| {
                if let (Ok(()), Some(shared)) = (result, shared.upgrade()) {
                    shared.lock().unlink.push(shared.paths.content(id));
                    shared.wake_helper.notify_one();
                }
            }));
        }
        self.shared.push(&mut state, op);
        Ok(())
    }

    /// The engine takes a message into work, or is done with it. Not written anywhere.
    pub fn set_active(&self, id: QueueId, active: bool) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        let entry = state.index.messages.get_mut(id).ok_or(QueueError::NotFound(id))?;
        entry.set_active(active);
        Ok(())
    }

    /// Saves the record of a message that cannot be read in `corrupt/` and removes the message. For those that
    /// [`Queue::load`] says [`QueueError::Damaged`] of.
    pub fn set_aside(&self, id: QueueId, what: &'static str) -> Result<Damage, QueueError> {
        let shared = &self.shared;
        let (file, number, at, len, large) = {
            let state = shared.lock();
            let entry = state.index.messages.get(id).ok_or(QueueError::NotFound(id))?;
            let segment = state.index.segments.get(&entry.message.epoch).ok_or(QueueError::NotFound(id))?;
            (Arc::clone(&segment.file), segment.number, entry.message, entry.record_len(), entry.large())
        };
        let path = shared.paths.segment(number);
        let mut bytes = vec![0; len as usize];
        let got = crate::fs::read_at_most(&*file, &mut bytes, u64::from(at.offset));
        bytes.truncate(got.map_err(|e| io_error("reading", &path, &e))?);
        let saved = save(shared, at.epoch, at.offset, &bytes);
        if saved.is_none() {
            return Err(QueueError::Io(
                format!("cannot save message {id} in {}", shared.paths.corrupt.display()).into(),
            ));
        }
        if large {
            let aside = shared.paths.corrupt.join(format!("{id}.message"));
            let moved = shared.fs.rename(&shared.paths.content(id), &aside);
            let kept = moved.and_then(|()| shared.fs.sync_dir(&shared.paths.corrupt));
            // When the file is gone there is nothing to keep of it.
            if let Err(e) = kept
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(io_error("saving", &aside, &e));
            }
        }
        self.remove(id)?;
        let (offset, len) = (u64::from(at.offset), u64::from(len));
        Ok(Damage { file: path, offset, len, queue_id: Some(id), saved, torn: false, what })
    }

    /// Changes a message in memory and hands the record to the log.
    fn change(&self, id: QueueId, change: Change, changes: &[(u32, RecipientState)]) -> Result<(), QueueError> {
        let shared = &self.shared;
        let mut state = shared.lock();
        state.writable()?;
        if let Some(changed) = state.merging.get_mut(&id) {
            *changed = true;
        }
        let entry = state.index.messages.get(id).ok_or(QueueError::NotFound(id))?;
        let mut kind = OpKind::Settle;
        let mut merged = None;
        if covers_all(entry, changes)? {
            kind = OpKind::State;
        } else if changes.is_empty() {
            kind = OpKind::Standing;
        } else if worth_merging(&state, id, change.deferred) {
            state.merging.insert(id, false);
            drop(state);
            let whole = self.read(id, false);
            state = shared.lock();
            let alone = state.merging.remove(&id) == Some(false);
            state.writable()?;
            // If somebody else changed the message meanwhile, or it cannot be read, this change goes on its own.
            if let (Ok((envelope, _, _)), true) = (whole, alone) {
                let mut envelope = Arc::unwrap_or_clone(envelope);
                read::apply_states(&mut envelope, changes);
                merged = Some(envelope);
                kind = OpKind::State;
            }
        }
        let entry = state.index.messages.get_mut(id).ok_or(QueueError::NotFound(id))?;
        let standing = change.to(entry.standing());
        entry.set_standing(standing);
        if !changes.is_empty() || change.deferred {
            state.index.uncache(id);
        }
        let limit = shared.options.segment_size - RECORDS - RESERVE;
        let payload = match &merged {
            Some(envelope) => codec::change_payload(&standing, (0..).zip(envelope.recipients.iter().map(|r| &r.state))),
            None => codec::change_payload(&standing, changes.iter().map(|(n, state)| (*n, state))),
        };
        if record_len(payload.len() as u64, 0).is_some_and(|len| len <= limit) {
            shared.push_change(&mut state, kind, id, payload);
            return Ok(());
        }
        for payload in codec::change_payloads(&standing, changes.iter().map(|(n, state)| (*n, state)), limit / 4) {
            shared.push_change(&mut state, OpKind::Settle, id, payload);
        }
        Ok(())
    }

    /// Calls back when everything that was told before is durable.
    pub fn flush(&self, done: Done) {
        let op = Op::new(OpKind::Flush, QueueId::new(0, 0), Bytes::new()).sync(done);
        let mut state = self.shared.lock();
        match state.writable() {
            Ok(()) => self.shared.push(&mut state, op),
            Err(e) => {
                drop(state);
                refuse(op, e);
            }
        }
    }

    /// Waits until everything that was told before is durable. Not for the threads of an async runtime.
    pub fn sync(&self) -> Result<(), QueueError> {
        wait_for(|done| self.flush(done))
    }

    /// Waits until the helper has done what there is to do: segments that are used up taken back, others made ready, side
    /// indexes written. For whoever counts files or measures. False when that takes longer than `patience`, or when
    /// nothing is written any more.
    pub fn rest(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        // It may sleep on what was true before: it is to look once more.
        state.helper_rests = false;
        self.shared.wake_helper.notify_one();
        while !state.helper_rests {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.writable().is_err() {
                return false;
            }
            // Looked at now and then all the same: whoever makes the queue read-only has no word for those who wait here.
            let left = left.min(LOOKED_AT);
            state = self.shared.rested.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Gives back the room that the queue's tables took when more was under way, and has its threads do `errand`, each once,
    /// as soon as they have nothing else to do. For whoever sees that the server has come to rest.
    pub fn tidy(&self, errand: Errand) {
        let mut state = self.shared.lock();
        state.give_room_back();
        state.errands = Errands { log: Some(errand), helper: Some(errand) };
        self.shared.wake_log.notify_all();
        self.shared.wake_helper.notify_all();
    }

    /// Stores a message and waits. Not for the threads of an async runtime.
    pub fn append_and_wait(&self, message: NewMessage) -> Result<(), QueueError> {
        wait_for(|done| self.append_leading(message, None, done))
    }

    /// What is known of a message.
    pub fn meta(&self, id: QueueId) -> Option<Meta> {
        self.shared.lock().index.messages.get(id).map(|entry| entry.meta(id))
    }

    /// Every message that `wanted` says yes to, oldest first. The lock is taken for a thousand messages at a time, so
    /// what comes and goes meanwhile may or may not be among them.
    pub fn list(&self, mut wanted: impl FnMut(&Meta) -> bool) -> Vec<Meta> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(after, PAGE);
            let Some(last) = page.last() else { return found };
            after = Some(last.queue_id);
            found.extend(page.into_iter().filter(|meta| wanted(meta)));
        }
    }

    /// The next messages after an ID, oldest first, at most `count`.
    pub fn page(&self, after: Option<QueueId>, count: usize) -> Vec<Meta> {
        let state = self.shared.lock();
        let messages = &state.index.messages;
        match after {
            None => messages.iter().take(count).map(|(id, entry)| entry.meta(id)).collect(),
            Some(after) => messages.after(after).take(count).map(|(id, entry)| entry.meta(id)).collect(),
        }
    }

    /// Shows the next messages after an ID that `wanted` says yes to, oldest first, a batch of them (at most a few hundred,
    /// or a few thousand recipients; one message may have more). The last ID looked at; `None` when there are no more.
    /// Much quicker than [`Queue::envelope`] for each.
    pub fn outline(
        &self,
        after: Option<QueueId>,
        wanted: impl FnMut(&Meta) -> bool,
        visit: impl FnMut(&Outline<'_>),
    ) -> Option<QueueId> {
        let mut batch = Batch::default();
        let last = {
            let state = self.shared.lock();
            let waiting = |id| state.waiting.get(&id).map_or_else(Vec::new, Waiting::payloads);
            batch.collect(&state.index, after, wanted, waiting)
        };
        batch.show(|id| self.envelope(id).map(|(envelope, _)| envelope), visit);
        last
    }

    /// How many messages are in each state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.list(|meta| {
            *match meta.state() {
                crate::State::Incoming => &mut counts.incoming,
                crate::State::Active => &mut counts.active,
                crate::State::Deferred => &mut counts.deferred,
                crate::State::Hold => &mut counts.hold,
            } += 1;
            false
        });
        counts
    }

    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.lock())
    }

    /// Messages in the queue.
    pub fn len(&self) -> usize {
        self.shared.lock().index.messages.len()
    }

    /// True when there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.shared.paths.dir
    }

    /// How long a caller should wait before it brings the next message: nothing while all is well. Space that runs
    /// out, in memory or on the disk, slows acceptance down before it ends it ([`QueueError::NoSpace`]).
    pub fn pressure(&self) -> Duration {
        let state = self.shared.lock();
        let memory = self.memory_used(&state);
        let most = self.shared.options.max_memory;
        if state.no_space.is_some() || state.space_is_short || memory >= most / 4 * 3 { SLOWER } else { Duration::ZERO }
    }

    /// Bytes that the queue's messages take in memory, and those that wait to be written.
    fn memory_used(&self, state: &State) -> u64 {
        state.index.messages.len() as u64 * MESSAGE_COST + state.index.cached_bytes() as u64 + state.line.bytes()
    }

    /// Numbers about the store.
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            messages: state.index.messages.len(),
            segments: state.index.segments.len(),
            segments_ready: state.ready.len(),
            live_bytes: state.index.live(),
            memory_bytes: state.index.cached_bytes(),
            read_only: state.fatal.is_some(),
            short_of_space: state.no_space.is_some() || state.space_is_short,
            ..state.stats
        }
    }

    /// Why nothing is accepted any more, if that is so.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.lock().fatal.clone()
    }

    /// Damage that was found since the queue was opened or this was last asked.
    pub fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut self.shared.lock().damaged)
    }

    /// Makes everything durable and ends the threads. What is called afterwards fails with [`QueueError::Closed`].
    /// Dropping the queue does the same. Must not be called from a [`Done`].
    pub fn close(&self) {
        // The thread for large messages first: it hands records to the log. While its place is locked no other starts.
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((jobs, thread)) = large.take() {
            drop(jobs);
            // A thread that panicked has left nothing that could be waited for.
            let _ = thread.join();
        }
        self.shared.lock().closing = true;
        drop(large);
        self.shared.wake_log.notify_all();
        self.shared.wake_helper.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A callback may have dropped the last handle, and then this is one of them.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Queue {
    fn append(&self, message: NewMessage, done: Done) {
        Queue::append(self, message, done);
    }
    fn settle(&self, id: QueueId, changes: &[(u32, RecipientState)]) -> Result<(), QueueError> {
        Queue::settle(self, id, changes)
    }
    fn adopt(&self, message: NewMessage, done: Done) {
        let done: Done = Box::new(move |result| {
            done(match result {
                Err(QueueError::Duplicate(_)) => Ok(()),
                other => other,
            });
        });
        Queue::append(self, message, done);
    }
    fn remove(&self, id: QueueId) -> Result<(), QueueError> {
        Queue::remove(self, id)
    }
}

/// So much was settled since all recipients were last recorded at once that it is to be done again. While the message is being delivered
/// that is after as many changes as make reading all of it worth while, and after as many more if it could not be done; `at_rest`, between two
/// attempts, sooner, because it may stay like that for long.
fn worth_merging(state: &State, id: QueueId, at_rest: bool) -> bool {
    let settles = state.settles(id);
    if settles < SETTLES || state.merging.contains_key(&id) {
        return false;
    }
    let recipients =
        state.index.messages.get(id).and_then(Entry::recipients).map_or(usize::from(u16::MAX), |n| n as usize);
    let most = (recipients / RECIPIENTS_PER_SETTLE).max(SETTLES);
    at_rest || settles.is_multiple_of(most)
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, QueueError> {
    let thread = std::thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(work);
    thread.map_err(|e| QueueError::Io(format!("starting thread {name}: {e}").into()))
}

fn refuse(mut op: Op, error: QueueError) {
    if let Some(done) = op.done.take() {
        done(Err(error));
    }
}

fn wait_for(call: impl FnOnce(Done)) -> Result<(), QueueError> {
    let (tell, told) = mpsc::channel();
    call(Box::new(move |result| {
        // The receiver waits below.
        let _ = tell.send(result);
    }));
    told.recv().unwrap_or(Err(QueueError::Closed))
}

/// The changes name every recipient, so that what was known of them before does not matter.
fn covers_all(entry: &Entry, changes: &[(u32, RecipientState)]) -> Result<bool, QueueError> {
    let Some(count) = entry.recipients() else { return Ok(false) };
    if changes.iter().any(|(index, _)| *index >= count) {
        return Err(QueueError::Option("a change names a recipient that the message does not have"));
    }
    if changes.len() < count as usize {
        return Ok(false);
    }
    let mut seen = vec![false; count as usize];
    // Positions were checked above.
    changes.iter().for_each(|(index, _)| seen[*index as usize] = true);
    Ok(seen.into_iter().all(|seen| seen))
}

/// Writes a large content to a file of its own, durably, and then hands the record that names it to the log.
fn write_large(shared: &Shared, job: LargeJob) {
    let LargeJob { parts, mut op } = job;
    let path = shared.paths.content(op.id);
    let head = match &op.kind {
        OpKind::Append { standing, envelope: Some(envelope), .. } => Some((&**envelope, standing)),
        _ => None,
    };
    match write_own_file(shared, &path, head, &parts).and_then(|sum| {
        shared.fs.sync_dir(&shared.paths.large).map_err(Trouble::Sync)?;
        Ok(sum)
    }) {
        Ok(sum) => op.content_crc = sum,
        Err(e) => {
            let error = match e {
                // Another message of that name, or what is left of one: not ours to touch.
                Trouble::Other(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let id = op.id;
                    return refuse(op, QueueError::Duplicate(id));
                }
                Trouble::Sync(e) => {
                    let why: Arc<str> = format!("syncing {}: {e}", path.display()).into();
                    let mut state = shared.lock();
                    state.stats.read_only = true;
                    QueueError::ReadOnly(Arc::clone(state.fatal.get_or_insert(why)))
                }
                Trouble::Other(e) if is_full(&e) => QueueError::NoSpace,
                Trouble::Other(e) => io_error("writing", &path, &e),
            };
            let _ = shared.fs.unlink(&path);
            return refuse(op, error);
        }
    }
    let done = op.done.take();
    let id = op.id;
    let unlink = {
        let path = path.clone();
        let fs = Arc::clone(&shared.fs);
        move || {
            // If this fails the next opening finds a file without a message and removes it.
            let _ = fs.unlink(&path);
        }
    };
    let op = op.sync(Box::new(move |result| {
        // After a sync that failed the record may be on the disk all the same, and then it wants its file: the next
        // opening sees which of the two it is. Otherwise there is no record.
        if matches!(result, Err(QueueError::NoSpace)) {
            unlink();
        }
        if let Some(done) = done {
            done(result);
        }
    }));
    let mut state = shared.lock();
    let refused = match state.writable() {
        Ok(()) if state.index.messages.contains(id) => Some((op, QueueError::Duplicate(id))),
        Ok(()) => {
            shared.push(&mut state, op);
            None
        }
        Err(e) => Some((op, e)),
    };
    drop(state);
    if let Some((op, e)) = refused {
        refuse(op, e);
    }
}

/// Why a file could not be written.
pub enum Trouble {
    /// A sync failed. Final, if the file counts.
    Sync(io::Error),
    /// Anything else.
    Other(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Other(error)
    }
}

/// Writes a message's own file durably: the fields of its envelope, then its content. Its name is not durable yet.
/// Returns the content's checksum.
pub fn write_own_file(
    shared: &Shared,
    path: &Path,
    head: Option<(&Envelope, &Standing)>,
    parts: &[Content],
) -> Result<u32, Trouble> {
    let file = shared.fs.create(path)?;
    let len = parts.iter().map(Content::len).sum();
    let fields = |sum| head.map_or(String::new(), |(envelope, standing)| readable::head(envelope, standing, len, sum));
    let begin = fields(0).len() as u64;
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX).clamp(1, 256 << 10)];
    let mut sum = 0;
    let mut offset = begin;
    for part in parts {
        let mut at = 0;
        loop {
            let got = part.read_at(&mut buffer, at)?;
            if got == 0 {
                break;
            }
            // Never more than the buffer.
            let bytes = &buffer[..got];
            write_all_at(&*file, &mut [IoSlice::new(bytes)], offset)?;
            sum = crc32c::crc32c_append(sum, bytes);
            at += got as u64;
            offset += got as u64;
        }
    }
    // Of the same length as those that were counted.
    write_all_at(&*file, &mut [IoSlice::new(fields(sum).as_bytes())], 0)?;
    file.fdatasync().map_err(Trouble::Sync)?;
    Ok(sum)
}

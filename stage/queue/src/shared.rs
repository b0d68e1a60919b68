//! What the callers, the log's thread and the helper's thread have in common.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use yamabiko_envelope::{Envelope, QueueId};

use crate::codec::{Standing, Survey};
use crate::fs::{FileSystem, StoredFile};
use crate::index::Index;
use crate::line::Line;
use crate::log::Log;
use crate::messages::Entry;
use crate::record::{self, RecordKind};
use crate::{Damage, Done, Options, QueueError, Stats};

/// A queue's directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The whole.
    pub dir: PathBuf,
    /// Segments.
    pub log: PathBuf,
    /// Contents with files of their own, by queue ID.
    pub large: PathBuf,
    /// What was damaged.
    pub corrupt: PathBuf,
    /// Taken by whoever has the queue open.
    pub lock: PathBuf,
}

impl Paths {
    /// Below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            log: dir.join("log"),
            large: dir.join("large"),
            corrupt: dir.join("corrupt"),
            lock: dir.join("lock"),
        }
    }
    /// A segment in use or ready.
    pub fn segment(&self, number: u32) -> PathBuf {
        self.log.join(format!("{number:08}.seg"))
    }
    /// A segment that is being filled with zeros.
    pub fn new_segment(&self, number: u32) -> PathBuf {
        self.log.join(format!("{number:08}.new"))
    }
    /// The side index of a segment.
    pub fn side_index(&self, number: u32) -> PathBuf {
        self.log.join(format!("{number:08}.idx"))
    }
    /// The content of a large message.
    pub fn content(&self, id: QueueId) -> PathBuf {
        self.large.join(id.to_string())
    }
}

/// A record to be written.
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// Whose it is.
    pub id: QueueId,
    /// Its payload.
    pub payload: Bytes,
    /// Its content, where that stands in the record.
    pub content: Vec<Bytes>,
    /// Length of the content, wherever it is.
    pub content_len: u64,
    /// Checksum of the content.
    pub content_crc: u32,
    /// Somebody waits for it.
    pub sync: bool,
    /// Told when it is durable.
    pub done: Option<Done>,
}

/// What a record does.
pub enum OpKind {
    /// A new message.
    Append {
        /// The content has a file of its own.
        large: bool,
        /// Where it stands.
        standing: Standing,
        /// What the index keeps of the envelope.
        survey: Survey,
        /// The message that is gone once this one is there.
        replaces: Option<QueueId>,
        /// Kept in memory with the content.
        envelope: Option<Arc<Envelope>>,
    },
    /// A message written anew.
    Copy {
        /// The content has a file of its own.
        large: bool,
    },
    /// All recipients.
    State,
    /// Some recipients.
    Settle,
    /// No recipients: only where the message stands, which the index knows. Written as a settle record; nobody has to
    /// read it again but the next opening.
    Standing,
    /// A message is gone.
    Remove,
    /// Segments below the epoch in `id` are free.
    Reclaim,
    /// Nothing.
    Mark,
    /// No record: only wait until all before is durable.
    Flush,
}

impl Op {
    /// A record without content.
    pub fn new(kind: OpKind, id: QueueId, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        Self { kind, id, payload, content: Vec::new(), content_len: 0, content_crc: 0, sync: false, done: None }
    }
    /// The same, waited for.
    pub fn sync(mut self, done: Done) -> Self {
        self.sync = true;
        self.done = Some(done);
        self
    }
    /// The kind of its record; none when it writes none.
    pub fn record_kind(&self) -> Option<RecordKind> {
        Some(match self.kind {
            OpKind::Append { .. } | OpKind::Copy { .. } => RecordKind::Message,
            OpKind::State => RecordKind::State,
            OpKind::Settle | OpKind::Standing => RecordKind::Settle,
            OpKind::Remove => RecordKind::Remove,
            OpKind::Reclaim => RecordKind::Reclaim,
            OpKind::Mark => RecordKind::Mark,
            OpKind::Flush => return None,
        })
    }
    /// The content has a file of its own.
    pub fn large(&self) -> bool {
        matches!(self.kind, OpKind::Append { large: true, .. } | OpKind::Copy { large: true })
    }
    /// Length of its record; none when it has none or it is beyond all measure.
    pub fn record_len(&self) -> Option<u32> {
        let inline = if self.large() { 0 } else { self.content_len };
        record::record_len(self.payload.len() as u64, inline)
    }
    /// It adds to the queue, so it is refused when space is short; everything else must get through.
    pub fn is_append(&self) -> bool {
        matches!(self.kind, OpKind::Append { .. })
    }
}

/// Changes of one message that are not written yet, oldest first.
#[derive(Default)]
pub struct Waiting {
    payloads: VecDeque<Bytes>,
    /// Of these, how many of the newest are not told by a change to all recipients that waits with them.
    since_whole: Option<usize>,
}

impl Waiting {
    /// One more, which tells of all recipients where `whole`.
    fn push(&mut self, payload: Bytes, whole: bool) {
        self.payloads.push_back(payload);
        self.since_whole = if whole { Some(0) } else { self.since_whole.map(|n| n + 1) };
    }
    /// The oldest was written. True when it was the last.
    pub fn written(&mut self) -> bool {
        self.payloads.pop_front();
        if self.since_whole.is_some_and(|n| n >= self.payloads.len()) {
            // The change to all recipients was written too: the index knows it now.
            self.since_whole = None;
        }
        self.payloads.is_empty()
    }
    /// The payloads of their records.
    pub fn payloads(&self) -> Vec<Bytes> {
        self.payloads.iter().cloned().collect()
    }
}

/// A segment that can be used.
pub struct Free {
    /// Number in its name.
    pub number: u32,
    /// Its file.
    pub file: Arc<dyn StoredFile>,
}

/// Something that a thread is to do on its own.
pub type Errand = fn();

/// For each of the threads, once.
#[derive(Default)]
pub struct Errands {
    /// The log's.
    pub log: Option<Errand>,
    /// The helper's.
    pub helper: Option<Errand>,
}

/// Under the lock.
pub struct State {
    /// Messages and segments.
    pub index: Index,
    /// Records to be written, in the order in which they are to stand in the log, and what writes them.
    pub line: Line<Log, Op>,
    /// Changes that the line, or whoever writes, still holds, by message, oldest first.
    pub waiting: HashMap<QueueId, Waiting>,
    /// Messages that somebody reads to record all their recipients at once, and whether they were changed meanwhile.
    pub merging: HashMap<QueueId, bool>,
    /// Messages that a record in line, or in the hands of whoever writes, replaces: they must not be copied
    /// behind it.
    pub leaving: HashSet<QueueId>,
    /// Messages that a record in line, or in the hands of whoever writes, gives a file of their own.
    pub spilling: HashSet<QueueId>,
    /// Segments ready.
    pub ready: Vec<Free>,
    /// How many the helper should keep ready.
    pub ready_wanted: usize,
    /// Segments that nothing in the log needs, but perhaps somebody reads.
    pub draining: Vec<Free>,
    /// Files to unlink, when there is time.
    pub unlink: Vec<PathBuf>,
    /// The number of the next new segment file.
    pub next_number: u32,
    /// The epoch of the next segment.
    pub next_epoch: u32,
    /// Below this epoch nothing counts, durably.
    pub first_live: u32,
    /// The newest ID seen.
    pub newest: QueueId,
    /// A reclaim record is on its way.
    pub reclaiming: bool,
    /// Messages of the oldest segment are on their way to the end of the log.
    pub copying: bool,
    /// The helper has looked and found nothing to do.
    pub helper_rests: bool,
    /// The helper could not make a segment, at that time.
    pub no_space: Option<Instant>,
    /// Less is free on the disk than would let everybody sleep well.
    pub space_is_short: bool,
    /// When the free space was last looked at, and whether it was enough.
    pub free_checked: Option<(Instant, bool)>,
    /// A write or sync failed.
    pub fatal: Option<Arc<str>>,
    /// What the log's thread and the helper's are to do once, when they have nothing else to do.
    pub errands: Errands,
    /// No more calls; threads finish.
    pub closing: bool,
    /// Found while running.
    pub damaged: Vec<Damage>,
    /// Counters.
    pub stats: Stats,
}

/// The queue's parts in common.
pub struct Shared {
    /// The disk.
    pub fs: Arc<dyn FileSystem>,
    /// Where.
    pub paths: Paths,
    /// Sizes and limits.
    pub options: Options,
    state: Mutex<State>,
    /// The log's thread waits here.
    pub wake_log: Condvar,
    /// The helper's thread waits here.
    pub wake_helper: Condvar,
    /// The helper has nothing to do, or nothing is written any more.
    pub rested: Condvar,
}

impl Shared {
    /// All parts.
    pub fn new(fs: Arc<dyn FileSystem>, paths: Paths, options: Options, state: State) -> Self {
        let state = Mutex::new(state);
        Self {
            fs,
            paths,
            options,
            state,
            wake_log: Condvar::new(),
            wake_helper: Condvar::new(),
            rested: Condvar::new(),
        }
    }

    /// The lock. A thread that panicked while it had it left the state as any of its steps leave it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a state or settle record to the log's thread. Until it is written, readers take it from memory.
    pub fn push_change(&self, state: &mut State, kind: OpKind, id: QueueId, payload: Vec<u8>) {
        let payload = Bytes::from(payload);
        if matches!(kind, OpKind::Standing) {
            return self.push(state, Op::new(kind, id, payload));
        }
        state.waiting.entry(id).or_default().push(payload.clone(), matches!(kind, OpKind::State));
        self.push(state, Op::new(kind, id, payload));
    }

    /// Hands a record to the log's thread.
    pub fn push(&self, state: &mut State, op: Op) {
        Self::line_up(state, op);
        self.wake(state);
    }

    /// Puts a record in line. The log's thread is not woken for it yet.
    pub fn line_up(state: &mut State, op: Op) {
        if let OpKind::Append { replaces: Some(old), .. } = op.kind {
            state.leaving.insert(old);
        }
        let (bytes, wanted) = (u64::from(op.record_len().unwrap_or(0)), op.sync);
        state.line.push(op, bytes, wanted);
    }

    /// Wakes the log's thread if it sleeps over what is in line.
    pub fn wake(&self, state: &mut State) {
        if state.line.wake() {
            self.wake_log.notify_one();
        }
    }
}

impl Shared {
    /// Tells that records will not be written.
    pub fn refuse(&self, ops: Vec<Op>, error: &QueueError) {
        let mut state = self.lock();
        for op in &ops {
            match op.kind {
                OpKind::Append { replaces: Some(old), .. } => {
                    state.leaving.remove(&old);
                }
                OpKind::Copy { .. } if state.spilling.remove(&op.id) => {
                    // No record names its file.
                    let path = self.paths.content(op.id);
                    state.unlink.push(path);
                    self.wake_helper.notify_one();
                }
                _ => {}
            }
        }
        drop(state);
        ops.into_iter().filter_map(|op| op.done).for_each(|done| done(Err(error.clone())));
    }
}

impl State {
    /// How a message is now: see [`crate::messages::Messages::print`].
    pub fn print(&self, id: QueueId, entry: &Entry) -> u32 {
        let waiting = self.waiting.get(&id).map_or(0, |waiting| waiting.payloads.len());
        self.index.messages.print(id, entry, waiting)
    }

    /// Changes to a message since all its recipients were last recorded at once.
    pub fn settles(&self, id: QueueId) -> usize {
        match self.waiting.get(&id) {
            None => self.index.messages.changes(id).len(),
            Some(Waiting { since_whole: Some(settles), .. }) => *settles,
            Some(waiting) => self.index.messages.changes(id).len() + waiting.payloads.len(),
        }
    }

    /// Tables that have grown for what is gone become as small as what is left.
    pub fn give_room_back(&mut self) {
        shrink(&mut self.waiting);
        self.index.give_room_back();
        for ids in [&mut self.leaving, &mut self.spilling] {
            if ids.capacity() > SMALL && ids.capacity() / 4 > ids.len() {
                ids.shrink_to(2 * ids.len());
            }
        }
    }

    /// An error when nothing may be changed any more.
    pub fn writable(&self) -> Result<(), QueueError> {
        if let Some(why) = &self.fatal {
            return Err(QueueError::ReadOnly(Arc::clone(why)));
        }
        if self.closing { Err(QueueError::Closed) } else { Ok(()) }
    }
}

/// Tables with less room than this stay as they are.
const SMALL: usize = 64;

/// Makes a table that is mostly empty as small as what is in it: one that is full takes time, and gives nothing.
pub fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > SMALL && map.capacity() / 4 > map.len() {
        map.shrink_to(2 * map.len());
    }
}

/// An error with what was being done.
pub fn io_error(what: &str, path: &Path, error: &std::io::Error) -> QueueError {
    QueueError::Io(format!("{what} {}: {error}", path.display()).into())
}

/// The disk is full, or our share of it.
pub fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

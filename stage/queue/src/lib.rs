//! Store messages durably: a segmented log with group commit, in preallocated, recycled segments.
//!
//! * [`Queue`] is the store of a running engine. [`Queue::append`] calls back when content and envelope are on stable
//!   storage; that moment is what `250` after DATA means.
//! * [`NewMessage`] goes in; [`Stored`] comes out; [`Meta`] is what is known of a message without touching the disk.
//! * A message is *settled* recipient by recipient ([`Queue::settle`], [`Queue::defer`]) and then removed.
//! * [`Inspection`] reads the same directory when no engine runs.
//! * [`Store`] is the narrow part of all this that a cluster can stand behind later.
//! * [`fs::FileSystem`] is the disk, [`sim::SimulatedDisk`] one that fails as told, [`watch::Watched`] notes calls
//!   that do not return.
//!
//! Guarantees: what was acknowledged comes back after `kill -9` or a power loss at any point. Changes after that
//! (settle, defer, hold, remove) are on the disk with the next commit, or a second later when there is none; until
//! then a power loss forgets them, and at worst a recipient is tried once more. Damaged records are set aside in
//! `corrupt/` and reported, never silently skipped. A failed write or sync is final: from then on nothing is accepted.
//! States, steps, the form on disk and what a crash costs at each step: `docs/queue.md`.
//!
//! All methods take `&self` and may be called from any thread. None waits for the disk but those that read a message
//! and those that say so.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Content, Envelope, QueueId, RecipientState, Timestamp};

pub mod codec;
mod dump;
mod found;
pub mod fs;
mod index;
mod inspect;
#[doc(hidden)]
pub mod line;
mod log;
mod messages;
mod outline;
mod pool;
mod predicate;
mod queue;
mod read;
pub mod readable;
pub mod record;
mod recover;
mod shared;
pub mod sidecar;
pub mod sim;
pub mod watch;

pub use dump::dump;
pub use found::{Found, Seen};
pub use inspect::{Inspection, SetAside, set_aside_files};
pub use outline::{Outline, OutlineRecipient, OutlineState};
pub use predicate::Predicate;
pub use queue::Queue;

/// CRC-32C of bytes that follow those of which `before` is the checksum; 0 before the first. What records and exported
/// files carry.
pub fn checksum(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}

/// Called once when a step is durable or has failed: from a thread of the queue, or from the caller's own before its call
/// returns. Must not wait, and the caller must not hold a lock that it takes.
pub type Done = Box<dyn FnOnce(Result<(), QueueError>) + Send>;

/// The write-ahead part of the queue: what a cluster's replicated journal has to be told, and nothing else.
pub trait Store: Send + Sync {
    /// Stores a message; `done` when it is durable.
    fn append(&self, message: NewMessage, done: Done);
    /// Records what became of recipients. Durable with the next commit.
    fn settle(&self, id: QueueId, changes: &[(u32, RecipientState)]) -> Result<(), QueueError>;
    /// Takes over a message that another node had accepted, under its own ID and with its recipients' states. Having
    /// it already is success.
    fn adopt(&self, message: NewMessage, done: Done);
    /// The message is finished. Durable with the next commit.
    fn remove(&self, id: QueueId) -> Result<(), QueueError>;
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The envelope, with a queue ID that was never used before.
    pub envelope: Arc<Envelope>,
    /// The content: these, one after the other.
    pub parts: Vec<Content>,
    /// CRC-32C of the whole content, if it was computed while it came in.
    pub checksum: Option<u32>,
    /// Not to be tried until released.
    pub hold: bool,
    /// Not to be tried before.
    pub next_attempt: Timestamp,
}

impl NewMessage {
    /// A message to be tried at once, in one part.
    pub fn new(envelope: impl Into<Arc<Envelope>>, content: impl Into<Content>) -> Self {
        let envelope = envelope.into();
        let next_attempt = envelope.arrival;
        Self { envelope, parts: vec![content.into()], checksum: None, hold: false, next_attempt }
    }
}

/// Marks of a message that outlive a restart, and whether the engine has it in work, which does not.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    const HOLD: u8 = 1;
    const EXPIRE: u8 = 2;
    const WARNED: u8 = 4;
    const RENAMED: u8 = 0x20;
    const ACTIVE: u8 = 0x40;
    const LARGE: u8 = 0x80;

    /// Not to be tried until released (`postsuper -h`, HOLD action).
    pub fn hold(self) -> bool {
        self.0 & Self::HOLD != 0
    }
    /// To be returned at the next attempt as if it were too old (`postsuper -e`).
    pub fn expire(self) -> bool {
        self.0 & Self::EXPIRE != 0
    }
    /// The sender was told of the delay (`delay_warning_time`).
    pub fn warned(self) -> bool {
        self.0 & Self::WARNED != 0
    }
    /// The engine has it in work ([`Queue::set_active`]).
    pub fn active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }
    /// The same with the hold mark as given.
    #[must_use]
    pub fn with_hold(self, on: bool) -> Self {
        self.with(Self::HOLD, on)
    }
    /// The same with the expire mark as given.
    #[must_use]
    pub fn with_expire(self, on: bool) -> Self {
        self.with(Self::EXPIRE, on)
    }
    /// The same with the warned mark as given.
    #[must_use]
    pub fn with_warned(self, on: bool) -> Self {
        self.with(Self::WARNED, on)
    }
    fn with(self, bit: u8, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
    pub(crate) fn with_active(self, on: bool) -> Self {
        self.with(Self::ACTIVE, on)
    }
    /// The content has a file of its own.
    pub(crate) fn large(self) -> bool {
        self.0 & Self::LARGE != 0
    }
    pub(crate) fn with_large(self, on: bool) -> Self {
        self.with(Self::LARGE, on)
    }
    /// It arrived at another time than its name says.
    pub(crate) fn renamed(self) -> bool {
        self.0 & Self::RENAMED != 0
    }
    pub(crate) fn with_renamed(self, on: bool) -> Self {
        self.with(Self::RENAMED, on)
    }
    pub(crate) fn stored_bits(self) -> u8 {
        self.0 & (Self::HOLD | Self::EXPIRE | Self::WARNED)
    }
    pub(crate) fn from_stored_bits(bits: u8) -> Self {
        Self(Self(bits).stored_bits())
    }
    /// These marks on a message that has `local` ones.
    pub(crate) fn keeping_local(self, local: Self) -> Self {
        Self(self.stored_bits() | local.0 & (Self::RENAMED | Self::ACTIVE | Self::LARGE))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::HOLD, "hold"),
            (Self::EXPIRE, "expire"),
            (Self::WARNED, "warned"),
            (Self::RENAMED, "renamed"),
            (Self::ACTIVE, "active"),
            (Self::LARGE, "large"),
        ];
        f.debug_set().entries(names.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| name)).finish()
    }
}

/// Where a message is, in the words of Postfix's queue directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Never tried, not in work.
    Incoming,
    /// In work.
    Active,
    /// Tried, waiting.
    Deferred,
    /// Held.
    Hold,
}

/// What is known of a message without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub queue_id: QueueId,
    /// Not before this moment.
    pub next_attempt: Timestamp,
    /// Times it was deferred, up to 65535.
    pub attempts: u16,
    /// Its marks.
    pub flags: Flags,
}

impl Meta {
    /// The part of it that is stored with the message.
    pub fn standing(&self) -> codec::Standing {
        codec::Standing { next_attempt: self.next_attempt, attempts: self.attempts, flags: self.flags }
    }
    /// Which of Postfix's queues it would be in.
    pub fn state(&self) -> State {
        if self.flags.hold() {
            State::Hold
        } else if self.flags.active() {
            State::Active
        } else if self.attempts > 0 {
            State::Deferred
        } else {
            State::Incoming
        }
    }
}

/// A message as it is read back.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The envelope; recipients with the states they have now.
    pub envelope: Arc<Envelope>,
    /// The content. While this or a clone lives, the bytes stay, even if the message is removed.
    pub content: Content,
    /// Attempts, next attempt, marks.
    pub meta: Meta,
}

/// How many messages are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`State::Incoming`]
    pub incoming: usize,
    /// [`State::Active`]
    pub active: usize,
    /// [`State::Deferred`]
    pub deferred: usize,
    /// [`State::Hold`]
    pub hold: usize,
}

/// Numbers about the store itself, since it was opened where they count events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages in the queue.
    pub messages: usize,
    /// Messages made durable.
    pub appended: u64,
    /// Records written, of all kinds.
    pub records: u64,
    /// Times the log was synced.
    pub syncs: u64,
    /// Commits made by the thread of the caller that waited for them ([`Queue::append_leading`]).
    pub led: u64,
    /// Bytes written to the log.
    pub bytes_written: u64,
    /// Messages copied forward so that their segment could be used again.
    pub copied: u64,
    /// Side indexes of segments written.
    pub indexed: u64,
    /// Messages that were given files of their own because they had stayed long.
    pub spilled: u64,
    /// Segments in use.
    pub segments: usize,
    /// Segments ready to be used.
    pub segments_ready: usize,
    /// Bytes of message records that count, in the log.
    pub live_bytes: u64,
    /// Bytes of messages held in memory between acceptance and first attempt.
    pub memory_bytes: usize,
    /// Nothing is accepted any more because a write or sync failed.
    pub read_only: bool,
    /// No new segment could be made lately, or little free space is left: see [`Queue::pressure`].
    pub short_of_space: bool,
}

/// A stretch of the log that was not what had been written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The message, if its name can still be read.
    pub queue_id: Option<QueueId>,
    /// Where the bytes were saved; none when they could not be, or when only reading.
    pub saved: Option<PathBuf>,
    /// It lies behind the last known commit: the write was under way when the power failed and nothing acknowledged
    /// is lost by it. Otherwise it is real damage.
    pub torn: bool,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes at {}: {}", self.file.display(), self.len, self.offset, self.what)?;
        if let Some(id) = self.queue_id {
            write!(f, " (message {id})")?;
        }
        if let Some(saved) = &self.saved {
            write!(f, "; saved as {}", saved.display())?;
        }
        Ok(())
    }
}

/// What was found when the queue was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Messages.
    pub messages: usize,
    /// The newest queue ID that was ever stored here: give it to `QueueIdSource::new`.
    pub newest: Option<QueueId>,
    /// Records read.
    pub records: u64,
    /// Segments read.
    pub segments: usize,
    /// Those of them of which only the side index was read.
    pub indexed: usize,
    /// What could not be read, unless an earlier opening had already reported and saved it.
    pub damaged: Vec<Damage>,
}

/// Why a step could not be taken. Each of these is our own trouble: the peer is told to try again later.
#[derive(Clone, Debug)]
pub enum QueueError {
    /// A write or sync failed; nothing is accepted until the queue is opened again. With the reason.
    ReadOnly(Arc<str>),
    /// The disk, or what we may use of it, is full.
    NoSpace,
    /// There is no such message.
    NotFound(QueueId),
    /// The ID is taken.
    Duplicate(QueueId),
    /// The envelope is larger than a segment.
    TooLarge,
    /// The message was stored and cannot be read back.
    Damaged(QueueId, &'static str),
    /// Another process has the queue open.
    Locked(PathBuf),
    /// An option is out of its range.
    Option(&'static str),
    /// A call to the system failed: what was done, and why it failed.
    Io(Arc<str>),
    /// The queue was closed.
    Closed,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::ReadOnly(why) => write!(f, "queue is read-only after a failed write: {why}"),
            QueueError::NoSpace => f.write_str("no space left for the queue"),
            QueueError::NotFound(id) => write!(f, "no message {id} in the queue"),
            QueueError::Duplicate(id) => write!(f, "message {id} is already in the queue"),
            QueueError::TooLarge => f.write_str("envelope is larger than a queue segment"),
            QueueError::Damaged(id, what) => write!(f, "message {id} cannot be read back: {what}"),
            QueueError::Locked(path) => write!(f, "{}: another process has the queue open", path.display()),
            QueueError::Option(what) => f.write_str(what),
            QueueError::Io(what) => f.write_str(what),
            QueueError::Closed => f.write_str("queue is closed"),
        }
    }
}

impl std::error::Error for QueueError {}

/// Sizes and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of a segment in bytes, 64 KB to 64 MB, a multiple of 4096. Segments of another length that are found
    /// are used up and not used again.
    pub segment_size: u32,
    /// How many zero-filled segments to keep ready: at least, and at most when the log is fast.
    pub segments_ready: (usize, usize),
    /// Content above this many bytes gets a file of its own.
    pub large: u64,
    /// Content of at least so many bytes gets a file of its own when its message has been copied forward once and would
    /// be copied again. Shorter ones are copied on: what has to stay in the log is as long.
    pub spill: u64,
    /// Bytes of small messages to keep in memory between acceptance and first attempt.
    pub memory: usize,
    /// Free bytes that must be left on the disk for a message to be accepted (`queue_minfree`).
    pub min_free: u64,
    /// The most bytes of memory that messages may take, 300 for each in the queue: beyond it nothing is accepted, and
    /// from three quarters of it on acceptance is slower.
    pub max_memory: u64,
    /// The most bytes that segments may take; none for no limit but the disk's.
    pub max_log: Option<u64>,
    /// Opening reads every record, also where a side index would do.
    pub thorough: bool,
    /// How long a change may wait for a commit before it is synced on its own.
    pub flush_after: Duration,
    /// How long a change may wait to be written at all, so that many go in one call. What is written survives the
    /// process, what is synced survives the machine.
    pub write_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: 16 << 20,
            segments_ready: (2, 8),
            large: 1 << 20,
            spill: 4 << 10,
            memory: 8 << 20,
            min_free: 0,
            max_memory: 4 << 30,
            max_log: None,
            thorough: false,
            flush_after: Duration::from_secs(1),
            write_after: Duration::from_millis(5),
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), QueueError> {
        if !(64 << 10..=64 << 20).contains(&self.segment_size) || !self.segment_size.is_multiple_of(4096) {
            return Err(QueueError::Option("segment_size must be 64 KB to 64 MB and a multiple of 4096"));
        }
        if self.segments_ready.0 == 0 || self.segments_ready.1 < self.segments_ready.0 {
            return Err(QueueError::Option("segments_ready must be at least 1, and not more at least than at most"));
        }
        Ok(())
    }
    /// Content above this many bytes does not fit beside a usual envelope, whatever `large` says.
    fn inline_limit(&self) -> u64 {
        self.large.min(u64::from(self.segment_size) / 4)
    }
}

#[cfg(test)]
mod tests;

//! Who writes: the records that wait in line, and the one writer.
//!
//! The writer is a value. Whoever takes it out of the line, the log's thread or a caller (the *leader*), is the only
//! one that writes until it puts it back, and takes with it all that waits, in order. A caller leads only when it is
//! alone: handing one record to another thread and waiting for it costs two wake-ups, more than half of what a good
//! disk takes. When several callers come by, the log's thread is the better one, because they go on while it waits
//! for the disk, and what they bring meanwhile shares the next sync.
//!
//! This is the state alone, to be kept under a lock; nothing here waits. Each step says whether the log's thread has
//! to be woken. `tests/line.rs` runs it through every interleaving.

use std::time::{Duration, Instant};

/// After so many commits in a row that one caller waited for, it may lead the next.
pub const ALONE: u32 = 3;

/// What the log's thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// It works, or looks at the line before it next sleeps.
    Awake,
    /// It looks at the line by itself at this moment.
    Until(Instant),
    /// It waits to be woken.
    Deep,
}

/// The line: `W` writes, `T` waits to be written.
#[derive(Debug)]
pub struct Line<W, T> {
    writer: Option<W>,
    waiting: Vec<T>,
    /// Length of all that waits.
    bytes: u64,
    /// How many of them somebody waits for.
    wanted: usize,
    /// Since when the oldest waits.
    since: Option<Instant>,
    /// How long those may wait that nobody waits for.
    patience: Duration,
    sleep: Sleep,
    /// Commits in a row that one caller waited for.
    alone: u32,
}

/// What was taken out of the line.
#[derive(Debug)]
pub struct Batch<T> {
    /// In order.
    pub items: Vec<T>,
    /// Somebody waits for one of them.
    pub wanted: bool,
}

impl<W, T> Line<W, T> {
    /// An empty line.
    pub fn new(writer: W, patience: Duration) -> Self {
        Self {
            writer: Some(writer),
            waiting: Vec::new(),
            bytes: 0,
            wanted: 0,
            since: None,
            patience,
            sleep: Sleep::Awake,
            alone: 0,
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
    /// Length of all that waits.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Somebody waits for something in it.
    pub fn is_wanted(&self) -> bool {
        self.wanted > 0
    }
    /// When all that waits is to be written although nobody waits for it.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }
    /// The writer, while nobody writes.
    pub fn writer(&self) -> Option<&W> {
        self.writer.as_ref()
    }

    /// Puts something at the end. `wanted`: somebody waits for it. Follow it with [`Line::lead`] or [`Line::wake`].
    pub fn push(&mut self, item: T, bytes: u64, wanted: bool) {
        if wanted {
            self.wanted += 1;
            if self.writer.is_none() {
                // It came while another was being written for somebody else.
                self.alone = 0;
            }
        }
        self.bytes += bytes;
        self.since.get_or_insert_with(Instant::now);
        self.waiting.push(item);
    }

    /// Puts back what could not be written, before all else; nobody is told that somebody waits for it.
    pub fn put_first(&mut self, mut items: Vec<T>, bytes: u64) {
        if items.is_empty() {
            return;
        }
        self.bytes += bytes;
        self.since.get_or_insert_with(Instant::now);
        items.append(&mut self.waiting);
        self.waiting = items;
    }

    /// True when the log's thread has to be woken for what is in line. It counts as awake from then on.
    pub fn wake(&mut self) -> bool {
        if self.writer.is_none() || self.waiting.is_empty() {
            // Whoever writes looks when it puts the writer back.
            return false;
        }
        let asleep = match self.sleep {
            Sleep::Awake => false,
            Sleep::Deep => true,
            Sleep::Until(at) => self.wanted > 0 || self.due().is_some_and(|due| due < at),
        };
        if asleep {
            self.sleep = Sleep::Awake;
        }
        asleep
    }

    /// The log's thread goes to sleep, until `at` at most, or wakes (`Err`).
    pub fn sleeps(&mut self, until: Option<Instant>) {
        self.sleep = until.map_or(Sleep::Deep, Sleep::Until);
    }
    /// It is awake again.
    pub fn wakes(&mut self) {
        self.sleep = Sleep::Awake;
    }

    /// The writer and all that waits, for the log's thread; none while somebody else writes.
    pub fn take(&mut self) -> Option<(W, Batch<T>)> {
        let writer = self.writer.take()?;
        match self.wanted {
            0 => {}
            1 => self.alone = self.alone.saturating_add(1),
            _ => self.alone = 0,
        }
        let batch = Batch { items: std::mem::take(&mut self.waiting), wanted: self.wanted > 0 };
        (self.bytes, self.wanted, self.since) = (0, 0, None);
        Some((writer, batch))
    }

    /// The same for a caller that has just pushed what it waits for: only if it is alone, and `may` says of the
    /// writer that so many bytes will not take long.
    pub fn lead(&mut self, may: impl FnOnce(&W, u64) -> bool) -> Option<(W, Batch<T>)> {
        let alone = self.wanted == 1 && self.alone >= ALONE;
        if alone && self.writer.as_ref().is_some_and(|writer| may(writer, self.bytes)) { self.take() } else { None }
    }

    /// Gives the writer back. True when the log's thread has to be woken, because more has come.
    #[must_use]
    pub fn put_back(&mut self, writer: W) -> bool {
        self.writer = Some(writer);
        self.wake()
    }
}

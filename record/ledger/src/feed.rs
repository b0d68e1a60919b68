//! The way from those who deliver mail to the ledger: a bounded line that nobody waits in.
//!
//! [`Feed::push`] only queues. One thread gathers for [`GATHER`], makes entries, classifies, writes them in one transaction
//! and shows them to those who listen. What does not fit is counted and not written; whoever owns the queue of messages is
//! told then, and writes what is missing again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::recorder::{Input, Recorder, Told};
use crate::{Entry, Error, Journal, Writer, day_of, journal};

/// How long inputs gather: so much of the ledger is lost with the process, and made again from the queue.
pub const GATHER: Duration = Duration::from_millis(400);
/// So many are enough for one transaction.
const ENOUGH: usize = 20_000;
/// Counts are written so often.
const COUNTS: Duration = Duration::from_secs(15);
/// Trouble with the disk is said so often.
const SAID_AGAIN: Duration = Duration::from_secs(600);

/// Sees entries.
pub type Listener = Box<dyn FnMut(&Entry) + Send>;

/// Who hears of entries on their way into the ledger.
pub struct Surroundings {
    /// Gives the reason of an entry that has none: its reply read.
    pub classify: Box<dyn FnMut(&Entry) -> String + Send>,
    /// Sees every entry, in order.
    pub listeners: Vec<Listener>,
    /// Hears of trouble, in words for the log.
    pub complain: Box<dyn FnMut(&str) + Send>,
    /// Is told after inputs were lost, once there is room again.
    pub lost: Box<dyn FnMut(u64) + Send>,
    /// Keeps what is on its way.
    pub journal: Option<Journal>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            classify: Box::new(|_| String::new()),
            listeners: Vec::new(),
            complain: Box::new(|_| {}),
            lost: Box::new(|_| {}),
            journal: None,
        }
    }
}

/// The line.
pub struct Feed {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    progress: Condvar,
    capacity: usize,
    dropped: AtomicU64,
    written: AtomicU64,
    journal: Option<Journal>,
}

#[derive(Default)]
struct State {
    inputs: VecDeque<Told>,
    lost: u64,
    waits: bool,
    stop: bool,
    /// Times that somebody wanted everything written, and how many of them that was done for.
    asked: u64,
    served: u64,
}

impl State {
    fn hurries(&self) -> bool {
        self.asked > self.served
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Starts the thread. At most `capacity` inputs wait.
    pub fn start(writer: Writer, capacity: usize, mut surroundings: Surroundings) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            capacity: capacity.max(1),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            journal: surroundings.journal.take(),
        });
        let mut work = Work {
            shared: Arc::clone(&shared),
            writer,
            surroundings,
            recorder: Recorder::default(),
            counted: Instant::now(),
            said: None,
            day: 0,
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || work.run())?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Takes an input. Never waits for the disk: what does not fit is counted.
    pub fn push(&self, input: Input) {
        let Some(told) = input.told() else { return };
        let Some(journal) = &self.shared.journal else { return self.line_up(told) };
        let mut bytes = Vec::with_capacity(512);
        told.entries().iter().for_each(|entry| journal::record(entry, &mut bytes));
        // In the journal after it is in the line: so a round that takes the line never empties a file too early.
        self.line_up(told);
        journal.add(&bytes);
    }

    /// Takes what the journal has kept already.
    pub fn push_again(&self, entries: Vec<Entry>) {
        entries.into_iter().for_each(|entry| self.line_up(Told::Entry(Box::new(entry))));
    }

    fn line_up(&self, told: Told) {
        let mut state = self.shared.lock();
        if state.inputs.len() >= self.shared.capacity {
            state.lost += 1;
            drop(state);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.inputs.push_back(told);
        if std::mem::take(&mut state.waits) {
            self.shared.work.notify_one();
        }
    }

    /// Inputs that did not fit.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Entries written.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Inputs that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().inputs.len()
    }

    /// Waits until everything pushed before is written, at most so long.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        // A round of its own, even when nothing waits in the line: some entries wait behind it for what follows them.
        state.asked += 1;
        let ticket = state.asked;
        self.shared.work.notify_one();
        while state.served < ticket {
            if state.stop {
                // The last round may be over.
                return false;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.shared.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes what is left and ends.
    pub fn close(&self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            self.shared.work.notify_one();
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.close();
    }
}

/// What one round writes.
struct Round {
    inputs: VecDeque<Told>,
    lost: u64,
    stop: bool,
    /// Requests to write everything that this round serves.
    asked: u64,
    /// There is one among them that was not served before.
    hurry: bool,
}

struct Work {
    shared: Arc<Shared>,
    writer: Writer,
    surroundings: Surroundings,
    recorder: Recorder,
    counted: Instant,
    said: Option<Instant>,
    day: u64,
}

impl Work {
    fn run(&mut self) {
        loop {
            let Round { inputs, lost, stop, asked, hurry } = self.gather();
            let mut entries = Vec::with_capacity(inputs.len());
            for told in inputs {
                self.recorder.enter(told, &mut |entry| entries.push(entry));
            }
            self.recorder.end(&mut |entry| entries.push(entry));
            if stop || hurry {
                self.recorder.end(&mut |entry| entries.push(entry));
            }
            self.write(entries, stop || hurry);
            {
                let mut state = self.shared.lock();
                state.served = asked;
                self.shared.progress.notify_all();
            }
            if lost > 0 {
                (self.surroundings.complain)(&format!("{lost} events were not written: the disk is too slow for them"));
                (self.surroundings.lost)(lost);
            }
            if stop {
                // Everything is in the ledger, or else the next one to open it finds it here.
                self.shared.journal.iter().filter(|_| !self.writer.owes()).for_each(Journal::empty);
                return;
            }
        }
    }

    fn gather(&mut self) -> Round {
        let mut state = self.shared.lock();
        while state.inputs.is_empty() && state.lost == 0 && !state.stop && !state.hurries() {
            state.waits = true;
            if self.recorder.is_waiting() {
                // A message that nothing follows is written all the same.
                state = self.shared.work.wait_timeout(state, GATHER).unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
            let wait = self.shared.work.wait_timeout(state, COUNTS).unwrap_or_else(PoisonError::into_inner);
            state = wait.0;
            if wait.1.timed_out() {
                break;
            }
        }
        state.waits = false;
        let more = |state: &mut State| !state.stop && !state.hurries() && state.inputs.len() < ENOUGH;
        if more(&mut state) && !state.inputs.is_empty() {
            let napped = self.shared.work.wait_timeout_while(state, GATHER, more);
            state = napped.unwrap_or_else(PoisonError::into_inner).0;
        }
        // What the ledger cannot take now is in the journal, and it stays there.
        if let Some(journal) = &self.shared.journal
            && !self.writer.owes()
            && (!state.inputs.is_empty() || self.recorder.is_waiting() || state.stop)
        {
            journal.turn();
        }
        Round {
            inputs: std::mem::take(&mut state.inputs),
            lost: std::mem::take(&mut state.lost),
            stop: state.stop,
            asked: state.asked,
            hurry: state.hurries(),
        }
    }

    fn write(&mut self, entries: Vec<Box<Entry>>, all: bool) {
        let (mut failed, mut written) = (None, 0u64);
        for mut entry in entries {
            if entry.reason.is_empty() {
                entry.reason = (self.surroundings.classify)(&entry);
            }
            for listener in &mut self.surroundings.listeners {
                listener(&entry);
            }
            self.day = self.day.max(day_of(entry.at.seconds()));
            match self.writer.take(entry) {
                Ok(_) => written += 1,
                Err(error) => failed = Some(error),
            }
        }
        let due = all || self.counted.elapsed() >= COUNTS;
        let committed = if due { self.writer.commit_all() } else { self.writer.commit() };
        if due {
            self.counted = Instant::now();
            // Yesterday's file gets late news only.
            let _ = self.writer.close_before(self.day.saturating_sub(1));
        }
        self.shared.written.fetch_add(written, Ordering::Relaxed);
        if let Some(error) = committed.err().or(failed) {
            self.trouble(&error);
        }
    }

    fn trouble(&mut self, error: &Error) {
        if self.said.is_none_or(|said| said.elapsed() >= SAID_AGAIN) {
            self.said = Some(Instant::now());
            (self.surroundings.complain)(&format!("{error}: what happens now waits in memory until it can be written"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, Ledger, Options, Query, Source, State, What};
    use yamabiko_envelope::Timestamp;

    fn note(n: u64) -> Input {
        let entry = Entry::new(Timestamp::from_seconds(n), What::Bounced, "Q", format!("a{n}@b.test"));
        Input::Entry(Box::new(entry))
    }

    #[test]
    fn what_is_pushed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let surroundings = Surroundings { classify: Box::new(|_| "userunknown".into()), ..Surroundings::default() };
        let feed = Feed::start(writer, 1000, surroundings).unwrap();
        (0..100).for_each(|n| feed.push(note(n)));
        assert!(feed.flush(Duration::from_secs(60)));
        let mut ledger = Ledger::open(dir.path());
        let found = ledger.histories(&Query::new(Field::Recipient, "A7@b.test")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].entries[0].reason, "userunknown");
        assert_eq!(found[0].verdict(Timestamp::from_seconds(8), Duration::from_secs(1)).state, State::Bounced);
        let mut tallied = 0;
        ledger.tallies(None, None, |_, tally| tallied += tally.count).unwrap();
        assert_eq!(tallied, 100);
    }

    #[test]
    fn a_message_that_waits_for_what_becomes_of_it_is_written_too() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let feed = Feed::start(writer, 1000, Surroundings::default()).unwrap();
        for n in 1..=5 {
            let id = yamabiko_envelope::QueueId::new(1_795_280_034_000_000 + n, 1);
            let mut envelope = yamabiko_envelope::Envelope::new(id, Timestamp(id.micros()), "s@a.test");
            envelope.recipients =
                vec![yamabiko_envelope::Recipient { address: "r@b.test".into(), ..Default::default() }];
            feed.push(Input::Queued { envelope: Arc::new(envelope), hold: false });
            while feed.waiting() > 0 {
                std::thread::yield_now();
            }
            assert!(feed.flush(Duration::from_secs(60)));
            let found = Ledger::open(dir.path()).entries(Field::QueueId, &id.to_string(), None).unwrap();
            assert_eq!(found.len(), 1);
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let teller = Arc::clone(&told);
        let surroundings = Surroundings {
            lost: Box::new(move |lost| {
                teller.fetch_add(lost, Ordering::Relaxed);
            }),
            ..Surroundings::default()
        };
        let feed = Feed::start(writer, 10, surroundings).unwrap();
        (0..1000).for_each(|n| feed.push(note(n)));
        feed.close();
        assert!(feed.dropped() > 0);
        assert_eq!(told.load(Ordering::Relaxed), feed.dropped());
        assert_eq!(feed.written() + feed.dropped(), 1000);
    }

    /// A process that is killed while its ledger cannot be written leaves all of it in the journal.
    #[test]
    fn what_cannot_be_written_stays_in_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let in_the_way = dir.path().join(crate::writer::file_name(0, Source::Live));
        std::fs::create_dir(&in_the_way).unwrap();
        let start = || {
            let (journal, left) = Journal::open(dir.path()).unwrap();
            let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
            let surroundings = Surroundings { journal: Some(journal), ..Surroundings::default() };
            (Feed::start(writer, 1000, surroundings).unwrap(), left)
        };
        let (feed, _) = start();
        for n in 0..5 {
            feed.push(note(n));
            assert!(feed.flush(Duration::from_secs(60)));
        }
        drop(feed);
        std::fs::remove_dir(&in_the_way).unwrap();
        let (feed, left) = start();
        assert_eq!(left.len(), 5);
        feed.push_again(left);
        drop(feed);
        let found = Ledger::open(dir.path()).entries(Field::QueueId, "Q", None).unwrap();
        assert_eq!(found.len(), 5);
        assert!(Journal::open(dir.path()).unwrap().1.is_empty());
    }
}

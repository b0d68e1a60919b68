//! The way from those who deliver mail to the ledger: a bounded line that nobody waits in.
//!
//! [`Feed::push`] only writes down what it is told, as [records](crate::record). One thread gathers for [`GATHER`], makes
//! entries, classifies, writes them in one transaction and shows them to those who listen. What does not fit is counted
//! and not written; whoever owns the queue of messages is told then, and writes what is missing again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::recorder::{Input, Recorder};
use crate::{Entry, Error, Journal, Writer, day_of, record};

/// How long inputs gather: so much of the ledger is lost with the process, and made again from the queue.
pub const GATHER: Duration = Duration::from_millis(400);
/// So many are enough for one transaction.
const ENOUGH: usize = 20_000;
/// What waits is kept in pieces of so many bytes, or of one input that is larger.
const PIECE: usize = 64 << 10;
/// So many pieces are kept for what comes next.
const SPARE: usize = 16;
/// Room for the records of an input: few need more.
const USUAL: usize = 768;
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

/// Records that wait, in their order.
#[derive(Default)]
struct Line {
    pieces: VecDeque<Vec<u8>>,
    /// Inputs they are of, and their bytes.
    inputs: usize,
    size: usize,
    spare: Vec<Vec<u8>>,
}

impl Line {
    /// Whether there is room for these where so many inputs may wait: some are far larger than others.
    fn fits(&self, records: &[u8], capacity: usize) -> bool {
        self.inputs == 0
            || self.inputs < capacity && self.size.saturating_add(records.len()) <= capacity.saturating_mul(USUAL)
    }

    /// A quarter of what may wait does.
    fn is_behind(&self, capacity: usize) -> bool {
        let quarter = capacity / 4;
        self.inputs > quarter || self.size > quarter.saturating_mul(USUAL)
    }

    fn push(&mut self, records: &[u8]) {
        self.inputs += 1;
        self.size += records.len();
        let room = |piece: &&mut Vec<u8>| piece.capacity() - piece.len() >= records.len();
        if let Some(last) = self.pieces.back_mut().filter(room) {
            last.extend_from_slice(records);
            return;
        }
        let mut piece = match records.len() > PIECE {
            true => Vec::new(),
            false => self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PIECE)),
        };
        piece.extend_from_slice(records);
        self.pieces.push_back(piece);
    }

    /// All of it: the line is empty then.
    fn take(&mut self) -> VecDeque<Vec<u8>> {
        (self.inputs, self.size) = (0, 0);
        std::mem::take(&mut self.pieces)
    }

    /// These have been read.
    fn give_back(&mut self, pieces: VecDeque<Vec<u8>>) {
        let fits = pieces.into_iter().filter(|piece| piece.capacity() == PIECE);
        self.spare.extend(fits.take(SPARE.saturating_sub(self.spare.len())).map(|mut piece| {
            piece.clear();
            piece
        }));
    }
}

#[derive(Default)]
struct State {
    line: Line,
    lost: u64,
    waits: bool,
    stop: bool,
    /// What the thread is to do once, when all is written.
    errand: Option<fn()>,
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
    /// Starts the thread. At most `capacity` inputs wait, or as many bytes as so many usual ones have.
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
        let entering = Entering { writer, surroundings, counted: Instant::now(), said: None, day: 0 };
        let mut work = Work { shared: Arc::clone(&shared), entering, recorder: Recorder::default() };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || work.run())?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Takes an input. Never waits for the disk: what does not fit is counted.
    pub fn push(&self, input: Input<'_>) {
        let mut records = Vec::with_capacity(USUAL);
        if !input.write(&mut records) {
            self.lose();
        }
        if records.is_empty() {
            return;
        }
        // In the journal after it is in the line: so a round that takes the line never empties a file too early.
        self.line_up(&records);
        if let Some(journal) = &self.shared.journal {
            journal.add(&records);
        }
    }

    /// Takes what the journal has kept already.
    pub fn push_again(&self, entries: Vec<Entry>) {
        let mut records = Vec::with_capacity(USUAL);
        for entry in entries {
            records.clear();
            record::record(&entry, &mut records);
            self.line_up(&records);
        }
    }

    fn line_up(&self, records: &[u8]) {
        let mut state = self.shared.lock();
        if !state.line.fits(records, self.shared.capacity) {
            drop(state);
            return self.lose();
        }
        state.line.push(records);
        if std::mem::take(&mut state.waits) {
            self.shared.work.notify_one();
        }
    }

    fn lose(&self) {
        self.shared.lock().lost += 1;
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
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
        self.shared.lock().line.inputs
    }

    /// A quarter of what may wait does. Whoever brings very many at once, and can wait, goes on when that is no longer so: then none
    /// of them is lost, and what others bring meanwhile finds room.
    pub fn is_behind(&self) -> bool {
        self.shared.lock().line.is_behind(self.shared.capacity)
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

    /// Gives back what only a burst needs, and has the thread do `errand`, once, when all that is in line is written. For
    /// whoever sees that nothing happens.
    pub fn tidy(&self, errand: fn()) {
        let mut state = self.shared.lock();
        state.line.spare = Vec::new();
        state.errand = Some(errand);
        self.shared.work.notify_one();
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
    pieces: VecDeque<Vec<u8>>,
    lost: u64,
    stop: bool,
    /// Requests to write everything that this round serves.
    asked: u64,
    /// There is one among them that was not served before.
    hurry: bool,
    /// Nothing has come for [`COUNTS`].
    quiet: bool,
}

struct Work {
    shared: Arc<Shared>,
    recorder: Recorder,
    entering: Entering,
}

/// Entries on their last step.
struct Entering {
    writer: Writer,
    surroundings: Surroundings,
    counted: Instant,
    said: Option<Instant>,
    day: u64,
}

impl Work {
    fn run(&mut self) {
        loop {
            let Round { pieces, lost, stop, asked, hurry, quiet } = self.gather();
            let (written, failed) = self.enter(&pieces, stop || hurry);
            self.shared.written.fetch_add(written, Ordering::Relaxed);
            if let Some(error) = self.entering.commit(stop || hurry, quiet).err().or(failed) {
                self.entering.trouble(&error);
            }
            {
                let mut state = self.shared.lock();
                state.line.give_back(pieces);
                state.served = asked;
                self.shared.progress.notify_all();
            }
            let Surroundings { complain, lost: tell_lost, .. } = &mut self.entering.surroundings;
            if lost > 0 {
                complain(&format!("{lost} events were not written: the disk is too slow for them"));
                tell_lost(lost);
            }
            if stop {
                // Everything is in the ledger, or else the next one to open it finds it here.
                self.shared.journal.iter().filter(|_| !self.entering.writer.owes()).for_each(Journal::empty);
                return;
            }
        }
    }

    /// How many entries were entered, and what went wrong last.
    fn enter(&mut self, pieces: &VecDeque<Vec<u8>>, all: bool) -> (u64, Option<Error>) {
        let (mut written, mut failed) = (0, None);
        let Self { recorder, entering, .. } = self;
        let mut give = |entry| match entering.take(entry) {
            Ok(()) => written += 1,
            Err(error) => failed = Some(error),
        };
        for piece in pieces {
            record::told(piece, |role, entry| recorder.enter(role, Box::new(entry), &mut give));
        }
        recorder.end(&mut give);
        if all {
            recorder.end(&mut give);
        }
        (written, failed)
    }

    /// Nothing is to be written.
    fn tidy(&mut self) {
        self.recorder = Recorder::default();
        self.entering.writer.tidy();
        if let Some(journal) = &self.shared.journal {
            journal.tidy();
        }
    }

    fn gather(&mut self) -> Round {
        let mut quiet = false;
        let mut state = self.shared.lock();
        while state.line.pieces.is_empty() && state.lost == 0 && !state.stop && !state.hurries() {
            if let Some(errand) = state.errand.take_if(|_| !self.recorder.is_waiting()) {
                drop(state);
                self.tidy();
                errand();
                state = self.shared.lock();
                continue;
            }
            state.waits = true;
            if self.recorder.is_waiting() {
                // A message that nothing follows is written all the same.
                state = self.shared.work.wait_timeout(state, GATHER).unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
            let wait = self.shared.work.wait_timeout(state, COUNTS).unwrap_or_else(PoisonError::into_inner);
            state = wait.0;
            if wait.1.timed_out() {
                quiet = state.line.pieces.is_empty();
                state.line.spare = Vec::new();
                break;
            }
        }
        state.waits = false;
        let more = |state: &mut State| !state.stop && !state.hurries() && state.line.inputs < ENOUGH;
        if more(&mut state) && !state.line.pieces.is_empty() {
            let napped = self.shared.work.wait_timeout_while(state, GATHER, more);
            state = napped.unwrap_or_else(PoisonError::into_inner).0;
        }
        // What the ledger cannot take now is in the journal, and it stays there.
        if let Some(journal) = &self.shared.journal
            && !self.entering.writer.owes()
            && (!state.line.pieces.is_empty() || self.recorder.is_waiting() || state.stop)
        {
            journal.turn();
        }
        Round {
            pieces: state.line.take(),
            lost: std::mem::take(&mut state.lost),
            stop: state.stop,
            asked: state.asked,
            hurry: state.hurries(),
            quiet,
        }
    }
}

impl Entering {
    fn take(&mut self, mut entry: Box<Entry>) -> Result<(), Error> {
        if entry.reason.is_empty() {
            entry.reason = (self.surroundings.classify)(&entry);
        }
        for listener in &mut self.surroundings.listeners {
            listener(&entry);
        }
        self.day = self.day.max(day_of(entry.at.seconds()));
        self.writer.take(entry).map(|_| ())
    }

    fn commit(&mut self, all: bool, quiet: bool) -> Result<(), Error> {
        if !all && self.counted.elapsed() < COUNTS {
            return self.writer.commit();
        }
        let mut committed = self.writer.commit_all();
        if quiet {
            committed = committed.and_then(|()| self.writer.is_quiet());
        }
        self.counted = Instant::now();
        // Yesterday's file gets late news only.
        let _ = self.writer.close_before(self.day.saturating_sub(1));
        committed
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

    fn note(n: u64) -> Entry {
        Entry::new(Timestamp::from_seconds(n), What::Bounced, "Q", format!("a{n}@b.test"))
    }

    #[test]
    fn what_is_pushed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let surroundings = Surroundings { classify: Box::new(|_| "userunknown".into()), ..Surroundings::default() };
        let feed = Feed::start(writer, 1000, surroundings).unwrap();
        (0..100).for_each(|n| feed.push(Input::Entry(&note(n))));
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

    /// Also with a journal, whose pages are let go of; what is entered afterwards is there.
    #[test]
    fn the_thread_does_an_errand_when_all_is_written() {
        static DONE: AtomicU64 = AtomicU64::new(0);
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        let feed =
            Feed::start(writer, 1000, Surroundings { journal: Some(journal), ..Surroundings::default() }).unwrap();
        for round in 1..4 {
            (0..100).for_each(|n| feed.push(Input::Entry(&note(n))));
            feed.tidy(|| {
                DONE.fetch_add(1, Ordering::Relaxed);
            });
            let begin = Instant::now();
            while DONE.load(Ordering::Relaxed) < round && begin.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            assert_eq!((DONE.load(Ordering::Relaxed), feed.waiting()), (round, 0));
        }
        feed.close();
        assert_eq!((feed.written(), feed.dropped()), (300, 0));
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
            feed.push(Input::Queued { envelope: &envelope, hold: false });
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
        (0..1000).for_each(|n| feed.push(Input::Entry(&note(n))));
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
            feed.push(Input::Entry(&note(n)));
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

    #[test]
    fn the_line_is_whole_whatever_the_pieces_are() {
        let mut line = Line::default();
        for round in 0..3 {
            let sizes = [1, PIECE - 1, 1, PIECE, PIECE + 1, 7, 3 * PIECE, 5, PIECE / 2, PIECE / 2, 1];
            let mut expected = Vec::new();
            for (n, size) in (0u8..).zip(sizes) {
                let records = vec![n; size];
                line.push(&records);
                expected.extend(records);
            }
            assert_eq!((line.inputs, line.size), (sizes.len(), expected.len()), "round {round}");
            let pieces = line.take();
            assert_eq!(pieces.iter().flatten().copied().collect::<Vec<u8>>(), expected);
            line.give_back(pieces);
            assert!(line.spare.len() <= SPARE && line.spare.iter().all(|piece| piece.is_empty()));
        }
        (0..SPARE + 9).for_each(|_| line.push(&[0; PIECE]));
        let pieces = line.take();
        line.give_back(pieces);
        assert_eq!(line.spare.len(), SPARE);
    }

    #[test]
    fn the_line_is_bounded_by_size_too() {
        let mut line = Line::default();
        // One always fits, or it could never be written.
        let large = vec![0; 11 * USUAL];
        assert!(line.fits(&large, 10));
        line.push(&large);
        assert!(!line.fits(&[0], 10));
        line.take();
        let usual = vec![0; USUAL];
        for n in 0..9 {
            assert!(line.fits(&usual, 10));
            assert_eq!((line.is_behind(10), line.is_behind(40)), (n > 2, false));
            line.push(&usual);
        }
        assert!(line.fits(&usual, 10) && !line.fits(&large, 10));
        line.push(&[0]);
        assert!(!line.fits(&[0], 10));
    }
}

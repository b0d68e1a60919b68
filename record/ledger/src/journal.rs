//! What is on its way into the ledger, so that a killed process takes nothing along.
//!
//! Events wait in memory for some hundred milliseconds before they are in the ledger. Until then each stands in a journal
//! too: three files beside the days (`live.journal.0` to `.2`), written without being synced, so that they are with the
//! kernel and not with the process. The files take turns: when the thread of the ledger takes what waits, the next one is
//! begun, and by then its old contents are in the ledger. Whoever opens the ledger after a kill reads the files and enters
//! what is not there yet. A power loss may take the last seconds of them.
//!
//! Whoever delivers mail writes here, so the beginning of each file is [memory](Mapped): a call to write in its place
//! would wait whenever the file system commits, which it does for the queue's syncs. What comes behind that beginning, and
//! everything where a file cannot be mapped, is written as to any file.
//!
//! What is not a whole [record](crate::record) ends the reading of its file: zeros, or what was being written when the
//! process died.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use yamabiko_sys::mapped::Mapped;

use crate::record::{entries, record};
use crate::{Entry, Error, What};

/// Files that take turns: one is written to, two hold what the last two rounds took and may not have written.
const FILES: usize = 3;
/// A file is not longer: what comes then is in memory only until the next round.
const LONGEST: u64 = 64 << 20;
/// So much of each is memory: 2,500 messages a round, which are 6,000 a second.
const MAPPED: NonZeroUsize = NonZeroUsize::new(2 << 20).expect("not zero");

/// The files.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    turns: [Turn; FILES],
    at: usize,
}

/// One of the files.
#[derive(Debug)]
struct Turn {
    file: File,
    /// Its beginning, where that is memory.
    mapped: Option<Mapped>,
    /// Bytes that count.
    length: u64,
}

impl Turn {
    /// Begins a file with what it has.
    fn new(file: File, length: u64, mapped: Option<NonZeroUsize>) -> Self {
        // Without it all is as it is, and slower.
        let mapped = mapped.and_then(|len| Mapped::new(&file, len).ok());
        if mapped.is_none() {
            // Of what was to be memory there may be a part.
            let _ = file.set_len(length);
        }
        Self { file, mapped, length }
    }

    /// Bytes that are memory.
    fn in_memory(&self) -> u64 {
        self.mapped.as_ref().map_or(0, |mapped| mapped.len() as u64)
    }

    fn add(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len() as u64;
        if end > LONGEST {
            return;
        }
        // Offsets are below LONGEST.
        let written = self.mapped.as_mut().is_some_and(|mapped| mapped.write(self.length as usize, bytes))
            || self.file.write_all_at(bytes, self.length).is_ok();
        match written {
            true => self.length = end,
            // A record of which a part is there would hide all that come after it.
            false => {
                let _ = self.cut();
            }
        }
    }

    /// Nothing is behind what counts.
    fn cut(&mut self) -> io::Result<()> {
        let (length, kept) = (self.length, self.in_memory());
        if let Some(mapped) = &mut self.mapped {
            // Below LONGEST.
            mapped.clear(length as usize, usize::MAX);
        }
        self.file.set_len(length.max(kept))
    }

    /// Nothing counts any more. What could not be emptied is not written to: its records are those of the ledger.
    fn empty(&mut self) {
        let (used, kept) = (self.length, self.in_memory());
        if let Some(mapped) = &mut self.mapped {
            // At most LONGEST.
            mapped.clear(0, used as usize);
        }
        let emptied = if used > kept { self.file.set_len(kept) } else { Ok(()) };
        self.length = if emptied.is_ok() { 0 } else { LONGEST };
    }
}

fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("live.journal.{number}"))
}

/// What makes two entries the same, whatever else one of them tells: what happened when to whom.
pub(crate) type Same = (u8, u64, String, String);

pub(crate) fn same(entry: &Entry) -> Same {
    // A message is taken once, at the time that its name says; it may be told together with its only recipient.
    match entry.what {
        What::Queued => (What::Queued as u8, 0, entry.queue_id.clone(), first(entry)),
        what => (what as u8, entry.at.0, entry.queue_id.clone(), entry.recipient.clone()),
    }
}

fn first(entry: &Entry) -> String {
    entry.recipients.first().map_or_else(|| entry.recipient.clone(), |(address, _)| address.clone())
}

impl Journal {
    /// Opens the files of a ledger. Gives what a process that died has left in them, in order and once; it stays there
    /// until two rounds after.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Entry>), Error> {
        Self::with(directory, Some(MAPPED))
    }

    fn with(directory: &Path, mapped: Option<NonZeroUsize>) -> Result<(Self, Vec<Entry>), Error> {
        let mut left = Vec::new();
        let mut seen = HashSet::new();
        for number in 0..FILES {
            let name = path(directory, number);
            let mut bytes = Vec::new();
            match File::open(&name) {
                Ok(file) => {
                    let read = file.take(LONGEST * 2).read_to_end(&mut bytes);
                    read.map_err(|error| Error::new(&name, error))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::new(&name, error)),
            }
            entries(&bytes, |entry| {
                if seen.insert((same(&entry), entry.digest())) {
                    left.push(entry);
                }
            });
        }
        left.sort_by_key(|entry| entry.at);
        // All of it in one file, before the others are emptied.
        let mut bytes = Vec::new();
        for entry in &left {
            record(entry, &mut bytes);
        }
        let aside = directory.join("live.journal.new");
        let open = |name: &Path| {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(name);
            file.map_err(|error| Error::new(name, error))
        };
        fs::write(&aside, &bytes).map_err(|error| Error::new(&aside, error))?;
        fs::rename(&aside, path(directory, 0)).map_err(|error| Error::new(&aside, error))?;
        let files = [open(&path(directory, 0))?, open(&path(directory, 1))?, open(&path(directory, 2))?];
        for (number, file) in files.iter().enumerate().skip(1) {
            file.set_len(0).map_err(|error| Error::new(&path(directory, number), error))?;
        }
        let [first, second, third] = files;
        let turn = |file, length| Turn::new(file, length, mapped);
        let turns = [turn(first, bytes.len() as u64), turn(second, 0), turn(third, 0)];
        Ok((Self { directory: directory.to_owned(), state: Mutex::new(State { turns, at: 0 }) }, left))
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds records that [`record`] has made. What cannot be written is in memory only, as all was before.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let State { turns, at } = &mut *self.lock();
        turns[*at % FILES].add(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody writes to it for some time.
    pub(crate) fn tidy(&self) {
        let state = self.lock();
        // What could not be let go of stays in memory.
        state.turns.iter().filter_map(|turn| turn.mapped.as_ref()).for_each(|mapped| drop(mapped.let_go()));
    }

    /// Everything that was added is in the ledger.
    pub(crate) fn empty(&self) {
        (0..FILES).for_each(|_| self.turn());
    }

    /// A round begins: what was added before is being taken to the ledger now.
    pub(crate) fn turn(&self) {
        let State { turns, at } = &mut *self.lock();
        *at = (*at + 1) % FILES;
        // The remainder is below the number of files.
        turns[*at].empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    /// Not memory at all, less of it than a record, and as in use.
    fn ways() -> [Option<NonZeroUsize>; 4] {
        [None, NonZeroUsize::new(10), NonZeroUsize::new(200), Some(MAPPED)]
    }

    fn note(n: u64, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        record(&Entry { text: text.to_owned(), ..Entry::new(Timestamp(n), What::Note, "Q", "") }, &mut bytes);
        bytes
    }

    fn times(left: Vec<Entry>) -> Vec<u64> {
        left.iter().map(|entry| entry.at.0).collect()
    }

    #[test]
    fn two_rounds_are_kept() {
        for way in ways() {
            let dir = tempfile::tempdir().unwrap();
            let open = || Journal::with(dir.path(), way).unwrap();
            let (journal, left) = open();
            assert!(left.is_empty());
            for n in 1..=5 {
                journal.add(&note(n, ""));
                journal.turn();
            }
            journal.add(&note(6, ""));
            journal.add(&note(6, ""));
            drop(journal);
            let (journal, left) = open();
            assert_eq!(times(left), [4, 5, 6]);
            // Killed again at once: nothing is lost.
            journal.add(&note(7, ""));
            drop(journal);
            let (journal, left) = open();
            assert_eq!(times(left), [4, 5, 6, 7]);
            journal.empty();
            drop(journal);
            assert!(open().1.is_empty());
        }
    }

    /// Rounds of any size follow one another in the same files, read and not.
    #[test]
    fn nothing_old_shows_behind_what_is_new() {
        for way in ways() {
            let dir = tempfile::tempdir().unwrap();
            let mut journal = Journal::with(dir.path(), way).unwrap().0;
            let mut n = 0;
            let mut rounds: Vec<Vec<u64>> = vec![Vec::new(); FILES];
            for round in 0..60_u64 {
                let mut own = Vec::new();
                for _ in 0..(round * 7) % 11 {
                    n += 1;
                    let text = "x".repeat((n * 37 % 400) as usize);
                    journal.add(&note(n, &text));
                    own.push(n);
                }
                rounds.push(own);
                if round % 13 == 12 {
                    // What is there is what was added in the last rounds.
                    let expected = rounds[rounds.len() - FILES..].concat();
                    drop(journal);
                    let (again, left) = Journal::with(dir.path(), way).unwrap();
                    assert_eq!(times(left), expected, "{way:?}, round {round}");
                    journal = again;
                    rounds = vec![Vec::new(), Vec::new(), expected];
                }
                journal.turn();
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_zero_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let whole = [note(1, "a"), note(2, "b")].concat();
        for cut in 0..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(whole.len() + 100, 0);
            fs::write(path(dir.path(), 1), &bytes).unwrap();
            let left = Journal::open(dir.path()).unwrap().1;
            assert_eq!(left.len(), usize::from(cut >= note(1, "a").len()), "{cut}");
            fs::remove_file(path(dir.path(), 0)).unwrap();
        }
    }
}

//! What is on its way into the ledger, so that a killed process takes nothing along.
//!
//! Events wait in memory for some hundred milliseconds before they are in the ledger. Until then each stands in a journal
//! too: three files beside the days (`live.journal.0` to `.2`), written without being synced, so that they are with the
//! kernel and not with the process. The files take turns: when the thread of the ledger takes what waits, the next one is
//! begun, and by then its old contents are in the ledger. Whoever opens the ledger after a kill reads the files and enters
//! what is not there yet. A power loss may take the last seconds of them.
//!
//! What is not a whole [record](crate::record) ends the reading of its file: it was being written when the process died.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::record::{entries, record};
use crate::{Entry, Error, What};

/// Files that take turns: one is written to, two hold what the last two rounds took and may not have written.
const FILES: usize = 3;
/// A file is not longer: what comes then is in memory only until the next round.
const LONGEST: u64 = 64 << 20;

/// The files.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: [File; FILES],
    at: usize,
    length: u64,
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
        let mut state = State { files, at: 0, length: bytes.len() as u64 };
        let end = state.files[0].seek(SeekFrom::End(0));
        end.map_err(|error| Error::new(&path(directory, 0), error))?;
        Ok((Self { directory: directory.to_owned(), state: Mutex::new(state) }, left))
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds records that [`record`] has made. What cannot be written is in memory only, as all was before.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let State { files, at, length } = &mut *state;
        if *length + bytes.len() as u64 > LONGEST {
            return;
        }
        let file = &mut files[*at % FILES];
        match file.write_all(bytes) {
            Ok(()) => *length += bytes.len() as u64,
            // A record of which a part is there would hide all that come after it.
            Err(_) => {
                let _ = file.set_len(*length).and_then(|()| file.seek(SeekFrom::Start(*length)));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was added is in the ledger.
    pub(crate) fn empty(&self) {
        (0..FILES).for_each(|_| self.turn());
    }

    /// A round begins: what was added before is being taken to the ledger now.
    pub(crate) fn turn(&self) {
        let mut state = self.lock();
        let next = (state.at + 1) % FILES;
        // The remainder is below the number of files.
        let file = &mut state.files[next];
        let emptied = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        // What could not be emptied is not written to: its records are those of the ledger.
        state.length = if emptied.is_ok() { 0 } else { LONGEST };
        state.at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    #[test]
    fn two_rounds_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let note = |n: u64| {
            let mut bytes = Vec::new();
            record(&Entry::new(Timestamp(n), What::Note, "Q", ""), &mut bytes);
            bytes
        };
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert!(left.is_empty());
        for n in 1..=5 {
            journal.add(&note(n));
            journal.turn();
        }
        journal.add(&note(6));
        journal.add(&note(6));
        drop(journal);
        let times = |left: Vec<Entry>| left.iter().map(|entry| entry.at.0).collect::<Vec<_>>();
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert_eq!(times(left), [4, 5, 6]);
        // Killed again at once: nothing is lost.
        journal.add(&note(7));
        drop(journal);
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert_eq!(times(left), [4, 5, 6, 7]);
        journal.turn();
        journal.turn();
        journal.turn();
        drop(journal);
        assert!(Journal::open(dir.path()).unwrap().1.is_empty());
    }
}

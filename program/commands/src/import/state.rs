//! What is remembered from one import to the next, beside the ledger: how far each file was read, and which messages
//! were under way then.
//!
//! It is written after the ledger. When it is lost, or older than the ledger, lines are read again, and the ledger leaves
//! out what it has.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yamabiko_maillog::join::{Join, State as Open};

use super::source::{Mark, Source};

/// Files that are remembered; the oldest are forgotten.
const FILES: usize = 2000;
const NAME: &str = "import.state";
/// Pairs of a hash (8 bytes) and a time in seconds (4 bytes), little-endian.
const IDS: &str = "import.ids";

/// The state of imports into one ledger.
#[derive(Default)]
pub struct State {
    /// Files that were read, the latest last.
    pub marks: Vec<Mark>,
    /// Messages that are followed.
    pub join: Join,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    marks: Vec<Mark>,
    open: Open,
}

impl State {
    /// The state beside a ledger; an empty one where there is none yet. One that cannot be read is an empty one too, with a
    /// remark: nothing but time is lost.
    pub fn load(directory: &Path) -> (Self, Option<String>) {
        let path = directory.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => {
                return (Self::default(), Some(format!("{}: {error}; everything is read again", path.display())));
            }
        };
        let stored: Stored = match serde_json::from_slice(&bytes) {
            Ok(stored) => stored,
            Err(error) => {
                return (Self::default(), Some(format!("{}: {error}; everything is read again", path.display())));
            }
        };
        let ids = fs::read(directory.join(IDS)).unwrap_or_default();
        let first = ids.chunks_exact(12).filter_map(|pair| {
            let (key, second) = pair.split_at(8);
            Some((u64::from_le_bytes(key.try_into().ok()?), u32::from_le_bytes(second.try_into().ok()?)))
        });
        (Self { marks: stored.marks, join: Join::with(stored.open, first) }, None)
    }

    /// Writes it.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let mut ids = Vec::new();
        for (key, second) in self.join.first_uses() {
            ids.extend_from_slice(&key.to_le_bytes());
            ids.extend_from_slice(&second.to_le_bytes());
        }
        replace(&directory.join(IDS), &ids)?;
        let from = self.marks.len().saturating_sub(FILES);
        let stored = Stored { version: 1, marks: self.marks[from..].to_vec(), open: self.join.state() };
        replace(&directory.join(NAME), &serde_json::to_vec(&stored)?)
    }

    /// The mark of a file: the one of its inode, else of any file that begins like it.
    pub fn mark_of(&self, source: &Source) -> Option<usize> {
        let fits = |mark: &Mark| source.is(mark);
        let by_inode = self.marks.iter().rposition(|mark| mark.inode == source.inode && fits(mark));
        by_inode.or_else(|| self.marks.iter().rposition(fits))
    }
}

/// Puts a file in the place of another in one step.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

//! What can go wrong with a ledger: always which file, and what about it.

use std::fmt;
use std::path::Path;

/// A ledger could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whole, for people.
    text: String,
}

impl Error {
    pub(crate) fn new(path: &Path, why: impl fmt::Display) -> Self {
        Self { text: format!("ledger {}: {why}", path.display()) }
    }
    pub(crate) fn at(path: &Path, error: rusqlite::Error) -> Self {
        Self::new(path, error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

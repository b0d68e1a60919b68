//! What can go wrong with a ledger: always which file, and what about it.

use std::fmt;
use std::path::Path;

/// A ledger could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whole, for people.
    text: String,
    /// The file is not what it should be, and will not be by itself.
    damage: bool,
}

impl Error {
    pub(crate) fn new(path: &Path, why: impl fmt::Display) -> Self {
        Self { text: format!("ledger {}: {why}", path.display()), damage: false }
    }
    pub(crate) fn at(path: &Path, error: rusqlite::Error) -> Self {
        let damage = matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
        );
        Self { damage, ..Self::new(path, error) }
    }
    /// A file of another form than this program writes.
    pub(crate) fn form(path: &Path, why: impl fmt::Display) -> Self {
        Self { damage: true, ..Self::new(path, why) }
    }
    /// The file cannot be read, now or later: it is no database, it is damaged, or of another form.
    pub fn is_damage(&self) -> bool {
        self.damage
    }
    /// With what was done about it.
    pub(crate) fn and(self, done: &str) -> Self {
        Self { text: format!("{}: {done}", self.text), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

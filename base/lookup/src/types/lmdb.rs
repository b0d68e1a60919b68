//! `lmdb:x` as content of `x.lmdb`.

use std::path::Path;

use yamabiko_sys::lmdb::Lmdb;

use super::file::Content;
use super::keyed::to_text;

/// An open LMDB file.
pub(crate) struct LmdbContent(Lmdb);

impl LmdbContent {
    pub fn open(path: &Path) -> Result<Self, String> {
        Lmdb::open(path).map(Self)
    }
}

impl Content for LmdbContent {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        let mut found = self.0.get(key.as_bytes())?;
        if found.is_none() {
            // Files made with the terminating null byte of C strings.
            found = self.0.get(&[key.as_bytes(), b"\0"].concat())?;
        }
        Ok(found.map(to_text))
    }

    fn entries(&self) -> Option<Result<Vec<(String, String)>, String>> {
        let entries = self.0.entries();
        Some(entries.map(|entries| entries.into_iter().map(|(key, value)| (to_text(key), to_text(value))).collect()))
    }
}

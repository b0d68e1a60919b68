//! The cache's file: a line per result, the last of a client counts. Losing it costs new tests, so it is written without
//! waiting for the disk.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::cache::Cache;

/// Bytes of the file that are read at most.
const MOST_BYTES: u64 = 256 << 20;
/// The file is written anew when it has so many lines beyond the clients it is about.
const MOST_LINES: usize = 50_000;

/// A cache and its file.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) cache: Cache,
    path: Option<PathBuf>,
    /// Lines that are to be added.
    pending: String,
    /// Lines in the file.
    lines: usize,
}

impl Store {
    /// Reads the file, if there is one. A fault is said, and the cache begins empty.
    pub(super) fn open(path: Option<&Path>) -> (Self, Option<String>) {
        let mut store = Self { path: path.map(Path::to_owned), ..Self::default() };
        let Some(path) = path else { return (store, None) };
        let fault = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("open {}: {error}; postscreen begins with an empty cache", path.display())),
            Ok(file) => store.read(file).err().map(|error| format!("read {}: {error}", path.display())),
        };
        (store, fault)
    }

    fn read(&mut self, file: File) -> io::Result<()> {
        let mut reader = BufReader::new(file.take(MOST_BYTES));
        let mut line = Vec::new();
        while reader.by_ref().take(200).read_until(b'\n', &mut line)? > 0 {
            // A torn last line, or what somebody else wrote: passed over.
            if let Ok(text) = std::str::from_utf8(&line) {
                self.cache.read(text.trim_end());
            }
            self.lines += 1;
            line.clear();
        }
        Ok(())
    }

    /// The file for the results.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn put(&mut self, client: std::net::IpAddr, stamps: super::Stamps) {
        if let Some(line) = self.cache.put(client, stamps)
            && self.path.is_some()
        {
            self.pending.push_str(&line);
        }
    }

    /// What is to be written now: lines to add, or with `true` the whole file.
    pub(super) fn due(&mut self, cleaned: bool) -> Option<(PathBuf, String, bool)> {
        let path = self.path.clone()?;
        if cleaned || self.lines > self.cache.len() + MOST_LINES {
            self.pending.clear();
            self.lines = self.cache.len();
            return Some((path, self.cache.lines().collect(), true));
        }
        if self.pending.is_empty() {
            return None;
        }
        self.lines += self.pending.lines().count();
        Some((path, std::mem::take(&mut self.pending), false))
    }
}

/// Writes what [`Store::due`] gave.
pub(super) fn write(path: &Path, text: &str, whole: bool) -> io::Result<()> {
    if !whole {
        return File::options().append(true).create(true).mode(0o600).open(path)?.write_all(text.as_bytes());
    }
    let new = path.with_extension("new");
    let mut file = BufWriter::new(File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?);
    file.write_all(text.as_bytes())?;
    file.flush()?;
    fs::rename(&new, path)
}

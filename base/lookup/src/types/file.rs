//! What all tables in files share: the content is read into memory (or opened), and read again by itself when one of
//! the files it came from has changed, without any restart. A content that cannot be read any more is kept as it was.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::set::{OpenError, Options};
use crate::{Answer, LookupError, Table};

/// A text table larger than this is refused: it would not fit in memory on the machines we are made for.
const TEXT_LIMIT: u64 = 1 << 30;

/// What is in a table's files.
pub(crate) trait Content: Send + Sync {
    /// Looks up a key that is folded as the table wants it.
    fn get(&self, key: &str) -> Result<Option<String>, String>;
    /// Line of the text file that gives the answer to `key`.
    fn line_of(&self, _key: &str) -> Option<(PathBuf, u32)> {
        None
    }
    /// As [`Content::get`] for a key that is not text; only pattern tables know what to do with one.
    fn get_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.get(&String::from_utf8_lossy(key))?.map(String::into_bytes))
    }
    /// The right-hand sides of rules with their places, as [`Table::results`] says.
    fn results(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    /// All pairs, where that makes sense.
    fn entries(&self) -> Option<Result<Vec<(String, String)>, String>> {
        None
    }
}

/// State of a file that tells whether it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl Stamp {
    /// `None` for a file that is not there.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }

    /// Not older than the other file.
    pub fn at_least_as_new_as(&self, other: &Self) -> bool {
        self.modified >= other.modified
    }
}

/// Content and the files it depends on, as they were before it was read.
pub(crate) struct Loaded {
    pub content: Box<dyn Content>,
    pub files: Vec<(PathBuf, Option<Stamp>)>,
}

/// Reads the content; called again after each change.
pub(crate) type Loader = Box<dyn Fn(&Options) -> Result<Loaded, OpenError> + Send + Sync>;

/// What kind of keys a file table takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Fixed strings, folded to lower case.
    Folded,
    /// The full key, as it is.
    Pattern,
}

/// A table in files.
pub(crate) struct FileTable {
    name: Arc<str>,
    keys: Keys,
    options: Options,
    load: Loader,
    content: RwLock<Arc<dyn Content>>,
    files: Mutex<Vec<(PathBuf, Option<Stamp>)>>,
    opened: Instant,
    /// Milliseconds after `opened` before which no file is looked at.
    next_check: AtomicU64,
}

impl FileTable {
    pub fn open(name: &str, keys: Keys, options: &Options, load: Loader) -> Result<Arc<dyn Table>, OpenError> {
        let loaded = load(options)?;
        Ok(Arc::new(Self {
            name: name.into(),
            keys,
            options: options.clone(),
            load,
            content: RwLock::new(Arc::from(loaded.content)),
            files: Mutex::new(loaded.files),
            opened: Instant::now(),
            next_check: AtomicU64::new(millis(options.check_every)),
        }))
    }

    fn current(&self) -> Arc<dyn Content> {
        let now = millis(self.opened.elapsed());
        let next = self.next_check.load(Ordering::Relaxed);
        if now >= next {
            let later = now + millis(self.options.check_every);
            // One thread checks; the others go on with what there is.
            if self.next_check.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.check();
            }
        }
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.iter().all(|(path, stamp)| Stamp::of(path) == *stamp) {
            return;
        }
        match (self.load)(&self.options) {
            Ok(loaded) => {
                *files = loaded.files;
                *self.content.write().unwrap_or_else(PoisonError::into_inner) = Arc::from(loaded.content);
            }
            Err(error) => {
                for (path, stamp) in files.iter_mut() {
                    *stamp = Stamp::of(path);
                }
                self.options.warn(format!("{}: {error}; its former content stays in use", self.name));
            }
        }
    }

    fn folded<'a>(&self, key: &'a str) -> std::borrow::Cow<'a, str> {
        match self.keys {
            Keys::Folded => self.options.fold(key),
            Keys::Pattern => key.into(),
        }
    }

    fn failed(&self, why: String) -> LookupError {
        LookupError { table: Arc::clone(&self.name), why }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

impl Table for FileTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(self.current().get(&self.folded(key)).map_err(|why| self.failed(why)))
    }

    fn lookup_bytes<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Vec<u8>>> {
        let folded = match self.keys {
            Keys::Folded => {
                std::borrow::Cow::Owned(self.folded(&String::from_utf8_lossy(key)).into_owned().into_bytes())
            }
            Keys::Pattern => std::borrow::Cow::Borrowed(key),
        };
        Answer::Ready(self.current().get_bytes(&folded).map_err(|why| self.failed(why)))
    }

    fn source_of(&self, key: &str) -> Option<String> {
        let (path, line) = self.current().line_of(&self.folded(key))?;
        Some(format!("{}:{line}", path.display()))
    }

    fn results(&self) -> Vec<(String, String)> {
        self.current().results()
    }

    fn folds_case(&self) -> bool {
        self.keys == Keys::Folded
    }

    fn is_pattern(&self) -> bool {
        self.keys == Keys::Pattern
    }

    fn entries(&self) -> Option<Result<Vec<(String, String)>, LookupError>> {
        let entries = self.current().entries()?;
        Some(entries.map_err(|why| self.failed(why)))
    }
}

/// The whole of a text file.
pub(crate) fn read_text(options: &Options, path: &Path) -> io::Result<Vec<u8>> {
    let file = (options.open_file)(path)?;
    let mut content = Vec::new();
    file.take(TEXT_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > TEXT_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a text table cannot exceed 1 GB; use cdb or lmdb"));
    }
    Ok(content)
}

/// The words of the C library for an error, as Postfix prints them: without Rust's `(os error 2)`.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(cut) => text.get(..cut).unwrap_or(&text).to_owned(),
        None => text,
    }
}

//! Reading a queue that no engine has open, without changing anything: for commands.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yamabiko_envelope::{Content, Envelope, QueueId};

use crate::fs::FileSystem;
use crate::index::Index;
use crate::outline::{Batch, Outline};
use crate::read::{ReadError, read_message};
use crate::record;
use crate::recover::recover;
use crate::shared::Paths;
use crate::{Meta, QueueError, Recovered, Stored};

/// A queue directory as it was when it was read. Takes no lock and writes nothing; when an engine works in the
/// directory meanwhile, messages may turn out to be gone.
pub struct Inspection {
    fs: Arc<dyn FileSystem>,
    paths: Paths,
    index: Index,
    recovered: Recovered,
}

impl Inspection {
    /// Reads the queue in a directory.
    pub fn open(fs: Arc<dyn FileSystem>, dir: &Path) -> Result<Self, QueueError> {
        Self::read_all(fs, dir, false)
    }

    /// The same, and every record is read and checked, also where a side index would do.
    pub fn open_thorough(fs: Arc<dyn FileSystem>, dir: &Path) -> Result<Self, QueueError> {
        Self::read_all(fs, dir, true)
    }

    fn read_all(fs: Arc<dyn FileSystem>, dir: &Path, thorough: bool) -> Result<Self, QueueError> {
        let paths = Paths::new(dir);
        let recovery = recover(&*fs, &paths, true, thorough)?;
        Ok(Self { fs, paths, index: recovery.index, recovered: recovery.recovered })
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What was found.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Every message, oldest first.
    pub fn list(&self) -> impl Iterator<Item = Meta> + '_ {
        self.index.messages.iter().map(|(id, entry)| entry.meta(id))
    }

    /// Shows the next messages after an ID: see [`Queue::outline`](crate::Queue::outline).
    pub fn outline(
        &self,
        after: Option<QueueId>,
        wanted: impl FnMut(&Meta) -> bool,
        visit: impl FnMut(&Outline<'_>),
    ) -> Option<QueueId> {
        let mut batch = Batch::default();
        let last = batch.collect(&self.index, after, wanted, |_| Vec::new());
        batch.show(|id| self.envelope(id).map(|(envelope, _)| envelope), visit);
        last
    }

    /// What is known of a message.
    pub fn meta(&self, id: QueueId) -> Option<Meta> {
        self.index.messages.get(id).map(|entry| entry.meta(id))
    }

    /// Reads a message's envelope, with the states of now.
    pub fn envelope(&self, id: QueueId) -> Result<(Arc<Envelope>, Meta), QueueError> {
        let (envelope, _, meta) = self.read(id, false)?;
        Ok((envelope, meta))
    }

    /// Reads a message.
    pub fn load(&self, id: QueueId) -> Result<Stored, QueueError> {
        let (envelope, content, meta) = self.read(id, true)?;
        // Read with its content, so it has one.
        let content = content.unwrap_or_else(|| Vec::new().into());
        Ok(Stored { envelope, content, meta })
    }

    fn read(&self, id: QueueId, content: bool) -> Result<(Arc<Envelope>, Option<Content>, Meta), QueueError> {
        let meta = self.meta(id).ok_or(QueueError::NotFound(id))?;
        let places = self.index.places(id).ok_or(QueueError::NotFound(id))?;
        let path = self.paths.content(id);
        match read_message(&*self.fs, id, &places, content.then_some(&*path)) {
            Ok((envelope, content)) => Ok((Arc::new(envelope), content, meta)),
            Err(ReadError::Damaged(what)) => Err(QueueError::Damaged(id, what)),
            Err(ReadError::Io(e)) => Err(QueueError::Io(format!("reading message {id}: {e}").into())),
        }
    }
}

/// A file in `corrupt/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The file.
    pub path: PathBuf,
    /// The message that it was, where that can still be read.
    pub queue_id: Option<QueueId>,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queue_id {
            Some(id) => write!(f, "{}: damaged, of message {id}", self.path.display()),
            None => write!(f, "{}: damaged", self.path.display()),
        }
    }
}

/// What was damaged and set aside in a queue's directory, by name. Empty when there is nothing, or nothing to be seen.
pub fn set_aside_files(dir: &Path) -> Vec<SetAside> {
    let entries = std::fs::read_dir(Paths::new(dir).corrupt).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<SetAside> = entries
        .map(|entry| {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let named = name.strip_suffix(".message").and_then(|id| id.parse().ok());
            let queue_id = named.or_else(|| {
                let mut head = [0; record::HEAD];
                let file = File::open(&path).ok()?;
                file.read_exact_at(&mut head, 0).ok()?;
                record::likely_id(&head)
            });
            SetAside { path, queue_id }
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

//! `--follow`: on with a file that grows, through its rotation, until a signal comes.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_maillog::lines::Lines;
use yamabiko_maillog::reader::Reader;

use super::source::{Packed, Source};
use super::{Import, Log, Reading};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// A file that is followed.
struct Followed {
    path: PathBuf,
    /// Open as it was found; `None` while there is nothing under the name.
    file: Option<Open>,
}

struct Open {
    source: Source,
    file: File,
    reader: Reader,
    offset: u64,
    last: u64,
    at: Option<usize>,
}

/// Follows every plain file that was named. Packed ones do not grow.
pub fn run(import: &mut Import<'_>, logs: &[Log]) {
    let mut followed: Vec<Followed> = logs
        .iter()
        .filter_map(|log| match log {
            Log::File(source) if source.packed == Packed::Plain => Some(source.path.clone()),
            Log::Bad(path, _) => Some(path.clone()),
            _ => None,
        })
        .map(|path| Followed { path, file: None })
        .collect();
    if followed.is_empty() {
        eprintln!("yamabiko import: there is no file to follow");
        return;
    }
    for follow in &mut followed {
        follow.open(import, true);
    }
    loop {
        let mut moved = false;
        for follow in &mut followed {
            moved |= follow.look(import);
            if let Some(error) = &import.fill.error {
                eprintln!("yamabiko import: {error}");
                return;
            }
        }
        for trouble in import.troubles.drain(..) {
            eprintln!("yamabiko import: {trouble}");
        }
        if moved {
            // What was read is seen by others at once, and remembered: a signal may come at any time.
            import.save(true);
        }
        std::thread::sleep(PAUSE);
    }
}

impl Followed {
    /// Opens the file under the name. The first time it is gone on with where the import stopped.
    fn open(&mut self, import: &mut Import<'_>, first: bool) {
        let Ok(source) = Source::look(&self.path) else { return };
        // An empty file has nothing by which it could be known.
        if source.head.is_empty() && !first {
            return;
        }
        let Ok(mut file) = File::open(&self.path) else { return };
        let at = import.state.mark_of(&source);
        let mark = at.and_then(|at| import.state.marks.get(at)).cloned().unwrap_or_default();
        let offset = mark.offset.min(source.size);
        if file.seek(SeekFrom::Start(offset)).is_err() {
            return;
        }
        let mut reader = Reader::new(import.zone.clone(), Timestamp::now(), import.options.year, &import.options.host);
        if mark.last > 0 && offset > 0 {
            reader.go_on_after(Timestamp(mark.last));
        }
        self.file = Some(Open { source, file, reader, offset, last: mark.last, at });
    }

    /// Reads what is new. True when there was something.
    fn look(&mut self, import: &mut Import<'_>) -> bool {
        let Some(open) = &mut self.file else {
            self.open(import, false);
            return false;
        };
        let mut moved = open.read(import);
        let now = fs::metadata(&self.path).ok();
        let inode = now.as_ref().map(|meta| (meta.dev(), meta.ino()));
        let cut = now.as_ref().is_some_and(|meta| meta.len() < open.offset);
        if inode != Some(open.source.inode) || cut {
            // Whoever writes may have gone on with the old file until a moment ago.
            moved |= open.read(import);
            self.file = None;
            self.open(import, false);
            if let Some(open) = &mut self.file {
                moved |= open.read(import);
            }
        }
        moved
    }
}

impl Open {
    fn read(&mut self, import: &mut Import<'_>) -> bool {
        let Ok(meta) = self.file.metadata() else { return false };
        if meta.len() <= self.offset {
            return false;
        }
        if self.source.head.len() < super::HEAD
            && let Ok(again) = Source::look(&self.source.path)
            && again.inode == self.source.inode
        {
            // More of its beginning is known by now.
            self.source = again;
        }
        self.reader.ends(Timestamp::now());
        let Ok(file) = self.file.try_clone() else { return false };
        if self.file.seek(SeekFrom::Start(self.offset)).is_err() {
            return false;
        }
        let mut reading = Reading { source: Some(&self.source), at: self.at, last: self.last, ..Reading::default() };
        let mut lines = Lines::new(file, self.offset);
        let name = self.source.path.display().to_string();
        import.lines(&name, &mut lines, &mut self.reader, &mut reading, true);
        let moved = reading.offset > self.offset;
        (self.offset, self.last) = (reading.offset, reading.last);
        if moved {
            import.keep(&mut reading, false);
            self.at = reading.at;
        }
        moved
    }
}

//! What arrived where and when: Maildirs, mbox files, the next hop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::message::read;

/// One copy of one message at one place.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub word: String,
    pub place: &'static str,
    pub at: SystemTime,
    /// All of it, byte for byte.
    pub whole: bool,
}

/// The mails of a Maildir, which are removed. What lies in `tmp` was never delivered.
pub fn of_maildir(path: &Path, place: &'static str, found: &mut Vec<Arrival>) {
    for name in ["new", "tmp"] {
        for entry in fs::read_dir(path.join(name)).into_iter().flatten().flatten() {
            let file = entry.path();
            if name == "new" {
                let metadata = entry.metadata().expect("a mail can be looked at");
                let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
                let since = Duration::new(u64::try_from(metadata.ctime()).unwrap_or(0), nanoseconds);
                let mail = String::from_utf8_lossy(&fs::read(&file).expect("a mail can be read")).into_owned();
                let mail = read(&mail, false);
                let place = if mail.notice { "notice" } else { place };
                found.push(Arrival { word: mail.word, place, at: SystemTime::UNIX_EPOCH + since, whole: mail.whole });
            }
            fs::remove_file(file).expect("a mail can be removed");
        }
    }
}

/// The mails of an mbox file, which is then emptied. `grown` says when it had which length.
pub fn of_mbox(path: &Path, place: &'static str, grown: &[(SystemTime, u64)], found: &mut Vec<Arrival>) {
    let Ok(bytes) = fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let mut starts: Vec<usize> = text.match_indices("\nFrom ").map(|(at, _)| at + 1).collect();
    if text.starts_with("From ") {
        starts.insert(0, 0);
    }
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(text.len());
        let at = grown.iter().find(|(_, length)| *length >= end as u64).map_or(SystemTime::now(), |(at, _)| *at);
        let mail = read(&text[*start..end], true);
        found.push(Arrival { word: mail.word, place, at, whole: mail.whole });
    }
    fs::File::options().write(true).truncate(true).open(path).expect("an mbox can be emptied");
}

/// When a file had which length.
type Lengths = Vec<(SystemTime, u64)>;

/// Looks at the lengths of files a few hundred times a second.
pub struct Watch {
    files: Vec<PathBuf>,
    seen: Arc<Mutex<Vec<Lengths>>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    pub fn start(files: Vec<PathBuf>) -> Self {
        let seen = Arc::new(Mutex::new(vec![Lengths::new(); files.len()]));
        let over = Arc::new(AtomicBool::new(false));
        let (theirs, ends, names) = (Arc::clone(&seen), Arc::clone(&over), files.clone());
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for (number, name) in names.iter().enumerate() {
                    let length = fs::metadata(name).map_or(0, |metadata| metadata.len());
                    let lengths = &mut theirs.lock().expect("nothing panics with it")[number];
                    let last = lengths.last().map_or(0, |(_, last)| *last);
                    if length < last {
                        lengths.clear();
                    }
                    if length != last {
                        lengths.push((SystemTime::now(), length));
                    }
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        Self { files, seen, over }
    }

    /// How the files have grown; from now on they are watched as if they were new.
    pub fn lengths(&self, file: &Path) -> Lengths {
        let number = self.files.iter().position(|known| known == file).expect("the file is watched");
        std::mem::take(&mut self.seen.lock().expect("nothing panics with it")[number])
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

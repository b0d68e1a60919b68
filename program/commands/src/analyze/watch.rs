//! A Maildir that fills: every message is reported once, also across restarts.
//!
//! What has been seen is kept by the unique part of the file name (`:2,` and what follows are flags), so that a message
//! which moves from `new` to `cur` is not new again. The kernel says when a directory changes (inotify); a look from time
//! to time finds what it does not say: network file systems tell nothing of other machines. The state file is written after the reports of a round: a crash in
//! between reports that round again rather than never. It holds only names that are still in the Maildir.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use yamabiko_analyze::Analyzer;

use super::Writer;
use super::files::Found;
use super::options::{Format, Options};
use super::pipeline::{self, Progress};
use super::report::{Reporter, Tally};

/// First line of a state file.
const MARK: &str = "yamabiko analyze: messages that have been reported";

/// Reports what is new in a Maildir, again and again.
pub fn run(directory: &Path, options: &Options, analyzer: &Analyzer, reporter: &Reporter) -> io::Result<Tally> {
    if !options.watch.once && matches!(reporter.format, Format::Table | Format::Json) {
        return Err(io::Error::other(
            "a Maildir that is watched has no end: choose --format jsonl or csv, or add --once",
        ));
    }
    let maildir = Maildir::open(directory)?;
    let state = options.watch.state.clone().unwrap_or_else(|| directory.join(".yamabiko-analyze"));
    let mut seen = read_state(&state)?;
    let mut writer = Writer::new(reporter)?;
    writer.flush()?;
    let jobs = options.jobs.unwrap_or(1);
    let mut listed = None;
    // Watched before the first look, so that nothing comes unseen between the two.
    let bell = Bell::of(&maildir, options.watch.interval);
    loop {
        let times = maildir.times()?;
        // A directory whose time has not changed has no new file; one that changed within the time's resolution may have
        // been changed again, and is read again.
        if listed != Some(times) || maildir.may_have_changed_unseen(&times) {
            listed = Some(times);
            let present = maildir.list()?;
            let new: Vec<&Entry> = present.iter().filter(|entry| !seen.contains(&entry.key)).collect();
            let gone = seen.len() + new.len() > present.len();
            if !new.is_empty() {
                let found = new.iter().map(|entry| Ok(Found { path: entry.path.clone(), size: entry.size }));
                let mut failed = None;
                pipeline::run(found, analyzer, reporter, jobs, &Progress::default(), |reported| {
                    failed = writer.take(reported, options.quiet).err();
                    failed.is_none()
                });
                if let Some(error) = failed {
                    return Err(error);
                }
                writer.flush()?;
            }
            if gone || !new.is_empty() {
                seen = present.into_iter().map(|entry| entry.key).collect();
                write_state(&state, &seen)?;
            }
        }
        if options.watch.once {
            return writer.end();
        }
        bell.wait();
    }
}

/// Seconds between two looks where the kernel tells of changes, and where it does not.
const SELDOM: u64 = 60;
const OFTEN: u64 = 2;

/// Rings when something came into the directories.
struct Bell {
    inotify: Option<Inotify>,
    interval: Duration,
}

impl Bell {
    fn of(maildir: &Maildir, interval: Option<u64>) -> Self {
        let wanted = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        // Without it (the user's limit is reached, a file system that knows no such thing) looking often does as well.
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .ok()
            .filter(|inotify| maildir.folders.iter().all(|folder| inotify.add_watch(folder, wanted).is_ok()));
        let interval = interval.unwrap_or(if inotify.is_some() { SELDOM } else { OFTEN });
        Self { inotify, interval: Duration::from_secs(interval) }
    }

    /// Until it rings, the interval is over, or what rang a moment ago may not be all of it.
    fn wait(&self) {
        let Some(inotify) = &self.inotify else { return std::thread::sleep(self.interval) };
        let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(self.interval).unwrap_or(PollTimeout::MAX);
        let rang = matches!(poll(&mut descriptors, timeout), Ok(number) if number > 0);
        // Emptied; who knows which names were told looks at the directory all the same.
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        if rang {
            // Mail comes in bursts: one round for what comes within a moment.
            std::thread::sleep(Duration::from_millis(50));
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }
}

struct Maildir {
    folders: [PathBuf; 2],
}

struct Entry {
    key: OsString,
    path: PathBuf,
    size: u64,
}

impl Maildir {
    fn open(directory: &Path) -> io::Result<Self> {
        let folders = [directory.join("new"), directory.join("cur")];
        for folder in &folders {
            if !folder.is_dir() {
                let why = format!("{}: no Maildir: there is no directory {}", directory.display(), folder.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
        }
        Ok(Self { folders })
    }

    fn times(&self) -> io::Result<[SystemTime; 2]> {
        let time = |folder: &PathBuf| {
            let time = fs::metadata(folder).and_then(|meta| meta.modified());
            time.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
        };
        Ok([time(&self.folders[0])?, time(&self.folders[1])?])
    }

    fn may_have_changed_unseen(&self, times: &[SystemTime; 2]) -> bool {
        let recent = |time: &SystemTime| time.elapsed().is_ok_and(|age| age < Duration::from_secs(3));
        times.iter().any(recent)
    }

    /// All messages, oldest name first. `new` is read before `cur`: a message that moves in between is seen twice rather
    /// than not at all, and counts once.
    fn list(&self) -> io::Result<Vec<Entry>> {
        let (mut entries, mut keys) = (Vec::new(), HashSet::new());
        for folder in &self.folders {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
            for entry in fs::read_dir(folder).map_err(named)? {
                let entry = entry.map_err(named)?;
                let name = entry.file_name();
                if name.as_bytes().starts_with(b".") {
                    continue;
                }
                // Moved or deleted since: it comes again, or is gone.
                let Ok(meta) = fs::metadata(entry.path()) else { continue };
                let key = key(&name);
                if meta.is_file() && keys.insert(key.clone()) {
                    entries.push(Entry { key, path: entry.path(), size: meta.len() });
                }
            }
        }
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }
}

/// The part of a name that stays when flags change.
fn key(name: &OsString) -> OsString {
    let bytes = name.as_bytes();
    let end = memchr::memmem::find(bytes, b":2,").unwrap_or(bytes.len());
    OsString::from_vec(bytes[..end].to_vec())
}

fn read_state(file: &Path) -> io::Result<HashSet<OsString>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    if lines.next() != Some(MARK.as_bytes()) {
        let why =
            format!("{}: not a state file of this command; choose another with --state, or remove it", file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(lines.filter(|line| !line.is_empty()).map(|line| OsString::from_vec(line.to_vec())).collect())
}

/// Written beside and renamed, so that there is always a whole one.
fn write_state(file: &Path, seen: &HashSet<OsString>) -> io::Result<()> {
    let mut names: Vec<&OsString> = seen.iter().filter(|name| !name.as_bytes().contains(&b'\n')).collect();
    names.sort_unstable();
    let mut text = format!("{MARK}\n").into_bytes();
    for name in names {
        text.extend_from_slice(name.as_bytes());
        text.push(b'\n');
    }
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = (|| {
        let mut out = fs::File::create(&new)?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&new, file)
    })();
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        assert!(read_state(&file).unwrap().is_empty());
        let seen: HashSet<OsString> = ["1.a.host", "2.b.host"].map(OsString::from).into();
        write_state(&file, &seen).unwrap();
        assert_eq!(read_state(&file).unwrap(), seen);
        fs::write(&file, "something else").unwrap();
        assert!(read_state(&file).unwrap_err().to_string().contains("--state"));
    }

    #[test]
    fn new_mail_rings() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["new", "cur", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let bell = Bell::of(&Maildir::open(dir.path()).unwrap(), Some(3600));
        if bell.inotify.is_none() {
            return crate::say!("skipped: no inotify here");
        }
        // It would wait for an hour otherwise.
        fs::write(dir.path().join("tmp/1.a"), "").unwrap();
        fs::rename(dir.path().join("tmp/1.a"), dir.path().join("new/1.a")).unwrap();
        bell.wait();
    }

    #[test]
    fn a_message_is_the_same_after_it_was_read() {
        assert_eq!(key(&"1.a.host:2,S".into()), key(&"1.a.host".into()));
        let dir = tempfile::tempdir().unwrap();
        for name in ["new", "cur"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("new/2.b"), "").unwrap();
        fs::write(dir.path().join("cur/1.a:2,S"), "").unwrap();
        fs::write(dir.path().join("cur/2.b:2,"), "").unwrap();
        let maildir = Maildir::open(dir.path()).unwrap();
        let keys: Vec<OsString> = maildir.list().unwrap().into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["1.a", "2.b"]);
        assert!(Maildir::open(&dir.path().join("new")).is_err());
    }
}

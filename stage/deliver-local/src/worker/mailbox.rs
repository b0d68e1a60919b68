//! Appending to an mbox file: lock, check, append, sync, or put it back as it was.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

use super::{status_for, words};
use crate::job::{Done, Lock, Locking};

/// A mailbox to append to.
pub(super) struct Mailbox<'a> {
    pub path: &'a str,
    pub from_line: &'a str,
    pub locking: &'a Locking,
    pub limit: u64,
    pub strict_owner: bool,
    /// Status where the system's error has none of its own.
    pub trouble: &'a str,
}

/// What is held while the mailbox is written; everything is let go when it is dropped.
enum Held {
    File(File),
    Flocked(Flock<File>),
}

impl Held {
    fn file(&mut self) -> &mut File {
        match self {
            Held::File(file) => file,
            Held::Flocked(file) => file,
        }
    }
}

/// `path.lock`, removed on drop.
struct Dotlock(PathBuf);

impl Drop for Dotlock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Trouble {
    status: String,
    reason: String,
}

impl Mailbox<'_> {
    /// Appends one message, or leaves the file as it was and says why.
    pub(super) fn append(&self, prepend: &[u8], message: &mut impl Read) -> Done {
        match self.try_append(prepend, message) {
            Ok(()) => Done::Delivered(String::new()),
            Err(Trouble { status, reason }) => Done::failed(status, reason),
        }
    }

    fn try_append(&self, prepend: &[u8], message: &mut impl Read) -> Result<(), Trouble> {
        let path = Path::new(self.path);
        let _dotlock = self.dotlock(path)?;
        let mut held = self.open(path)?;
        let file = held.file();
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if !regular {
            // A device such as /dev/null: nothing to cut off, nothing to sync.
            let written = write_message(file, "", self.from_line, prepend, message, 0, 0);
            return written.map_err(|error| self.trouble("error writing message", &error));
        }
        let before = file.seek(SeekFrom::End(0)).map_err(|error| self.trouble("cannot seek", &error))?;
        let written = unfinished(file, before)
            .and_then(|gap| write_message(file, gap, self.from_line, prepend, message, before, self.limit))
            .and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a message is worse than none. A file that cannot be cut either stays damaged: say so.
            let cut = file.set_len(before).and_then(|()| file.sync_all());
            let reason = match cut {
                Ok(()) => format!("error writing message: {}", words(&error)),
                Err(again) => format!("error writing message: {}; and truncating: {}", words(&error), words(&again)),
            };
            return Err(Trouble { status: status_for(&error, self.trouble), reason });
        }
        Ok(())
    }

    fn trouble(&self, what: &str, error: &io::Error) -> Trouble {
        Trouble { status: status_for(error, self.trouble), reason: format!("{what}: {}", words(error)) }
    }

    fn cannot_open(&self, path: &Path, error: &io::Error) -> Trouble {
        if error.raw_os_error() == Some(libc::ELOOP) {
            return Trouble { status: self.trouble.to_owned(), reason: "file is a symbolic link".to_owned() };
        }
        let what = if path.symlink_metadata().is_ok() { "cannot open file" } else { "cannot create file exclusively" };
        self.trouble(what, error)
    }

    fn dotlock(&self, path: &Path) -> Result<Option<Dotlock>, Trouble> {
        if !self.locking.styles.contains(&Lock::Dotlock) {
            return Ok(None);
        }
        let name = PathBuf::from(format!("{}.lock", path.display()));
        for attempt in 0..self.locking.attempts.max(1) {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name) {
                Ok(mut file) => {
                    let _ = write!(file, "{}", std::process::id());
                    return Ok(Some(Dotlock(name)));
                }
                // Where the directory is not ours to write, the other locks must do (as Postfix has it).
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                // The file itself will say it better.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let stale = name
                        .symlink_metadata()
                        .and_then(|m| m.modified())
                        .ok()
                        .is_some_and(|time| age_of(time) > Duration::from_secs(self.locking.stale_s));
                    if stale {
                        let _ = std::fs::remove_file(&name);
                    } else if attempt + 1 < self.locking.attempts {
                        std::thread::sleep(Duration::from_millis(self.locking.delay_ms));
                    }
                }
                Err(error) => return Err(self.trouble("cannot create lock file", &error)),
            }
        }
        Err(Trouble {
            status: "4.2.0".to_owned(),
            reason: format!("unable to create lock file {}: File exists", name.display()),
        })
    }

    /// Opens (or makes) the file, refuses what is not an ordinary file of this user, and locks it.
    fn open(&self, path: &Path) -> Result<Held, Trouble> {
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path);
        let file = match opened {
            // Symbolic links are followed only for /file/name destinations that their owner wrote.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) && !self.strict_owner => OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(libc::O_NONBLOCK)
                .open(path),
            other => other,
        };
        let file = file.map_err(|error| self.cannot_open(path, &error))?;
        let metadata = file.metadata().map_err(|error| self.trouble("cannot examine file", &error))?;
        self.check(&metadata)?;
        if !metadata.is_file() {
            // A device such as /dev/null: written, never locked.
            return Ok(Held::File(file));
        }
        self.lock(file)
    }

    fn check(&self, metadata: &Metadata) -> Result<(), Trouble> {
        let refuse = |status: &str, why: &str| {
            Err(Trouble { status: status.to_owned(), reason: format!("destination {} {why}", self.path) })
        };
        if metadata.is_dir() {
            return refuse("5.2.0", "is a directory");
        }
        if metadata.file_type().is_fifo() {
            // Open for reading as well, it would take mail that nobody reads; for writing alone, it could be waited for.
            return refuse("5.2.0", "is a named pipe");
        }
        if !self.strict_owner {
            return Ok(());
        }
        if !metadata.is_file() {
            return refuse("5.2.0", "is not a regular file");
        }
        if metadata.nlink() > 1 {
            return refuse("5.2.0", "has multiple links");
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return refuse("4.2.0", "is not owned by recipient");
        }
        Ok(())
    }

    fn lock(&self, file: File) -> Result<Held, Trouble> {
        let busy = || Trouble {
            status: "4.2.0".to_owned(),
            reason: format!("unable to lock for exclusive access: {}: Resource temporarily unavailable", self.path),
        };
        let pause = || std::thread::sleep(Duration::from_millis(self.locking.delay_ms));
        if self.locking.styles.contains(&Lock::Fcntl) {
            let mut got = false;
            for attempt in 0..self.locking.attempts.max(1) {
                let mut whole = libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
                whole.l_type = libc::F_WRLCK as libc::c_short;
                match fcntl(&file, FcntlArg::F_SETLK(&whole)) {
                    Ok(_) => {
                        got = true;
                        break;
                    }
                    Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
                        if attempt + 1 < self.locking.attempts {
                            pause();
                        }
                    }
                    Err(errno) => {
                        return Err(self.trouble("unable to lock for exclusive access", &io::Error::from(errno)));
                    }
                }
            }
            if !got {
                return Err(busy());
            }
        }
        if self.locking.styles.contains(&Lock::Flock) {
            let mut file = file;
            for attempt in 0..self.locking.attempts.max(1) {
                match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(held) => return Ok(Held::Flocked(held)),
                    Err((back, nix::errno::Errno::EWOULDBLOCK)) => {
                        file = back;
                        if attempt + 1 < self.locking.attempts {
                            pause();
                        }
                    }
                    Err((_, errno)) => {
                        return Err(self.trouble("unable to lock for exclusive access", &io::Error::from(errno)));
                    }
                }
            }
            return Err(busy());
        }
        Ok(Held::File(file))
    }
}

#[allow(clippy::disallowed_methods)]
fn age_of(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// What is missing at the end of a file before a `From ` line is one: a worker that was killed, or a machine that lost
/// power, may have left half a mail there, which must not swallow this one.
fn unfinished(file: &File, len: u64) -> io::Result<&'static str> {
    let mut end = [b'\n'; 2];
    let known = usize::try_from(len).unwrap_or(end.len()).min(end.len());
    let from = end.len() - known;
    file.read_exact_at(&mut end[from..], len - known as u64)?;
    Ok(match end {
        [b'\n', b'\n'] => "",
        [_, b'\n'] => "\n",
        [_, _] => "\n\n",
    })
}

/// `gap`, `From ` line, fields, message with `From ` lines quoted, empty line. Fails before the limit is passed.
fn write_message(
    file: &mut File,
    gap: &str,
    from_line: &str,
    prepend: &[u8],
    message: &mut impl Read,
    before: u64,
    limit: u64,
) -> io::Result<()> {
    let mut out = Quoted { out: BufWriter::with_capacity(1 << 16, file), size: before, limit, start: true, held: 0 };
    out.raw(gap.as_bytes())?;
    out.raw(from_line.as_bytes())?;
    out.raw(b"\n")?;
    out.raw(prepend)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match message.read(&mut buffer)? {
            0 => break,
            n => out.message(&buffer[..n])?,
        }
    }
    out.finish()
}

/// Writes message lines with `>` before those that begin with `From `, across any chunking.
struct Quoted<W> {
    out: W,
    size: u64,
    limit: u64,
    start: bool,
    /// How many bytes of `From ` have been seen at the start of this line and are held back.
    held: usize,
}

const FROM: &[u8] = b"From ";

impl<W: Write> Quoted<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.limit > 0 && self.size > self.limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.out.write_all(bytes)
    }

    fn message(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(&first) = bytes.first() {
            if self.start {
                if first == FROM[self.held] {
                    self.held += 1;
                    bytes = &bytes[1..];
                    if self.held == FROM.len() {
                        self.raw(b">From ")?;
                        (self.start, self.held) = (false, 0);
                    }
                    continue;
                }
                let held = std::mem::take(&mut self.held);
                self.raw(&FROM[..held])?;
                self.start = false;
            }
            let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
            self.raw(&bytes[..end])?;
            self.start = bytes[end - 1] == b'\n';
            bytes = &bytes[end..];
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.raw(&FROM[..held])?;
        if !self.start || held > 0 {
            self.raw(b"\n")?;
        }
        self.raw(b"\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8], chunk: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut quoted = Quoted { out: &mut out, size: 0, limit: 0, start: true, held: 0 };
        for piece in text.chunks(chunk) {
            quoted.message(piece).unwrap();
        }
        quoted.finish().unwrap();
        out
    }

    #[test]
    fn from_lines_are_quoted_in_any_chunking() {
        for (text, expected) in [
            (&b"a\nFrom b\n>From c\nFromage\n"[..], &b"a\n>From b\n>From c\nFromage\n\n"[..]),
            (b"From x", b">From x\n\n"),
            (b"Fro", b"Fro\n\n"),
            (b"", b"\n"),
            (b"x\nFrom", b"x\nFrom\n\n"),
            (b"no end", b"no end\n\n"),
        ] {
            for chunk in 1..8 {
                assert_eq!(quoted(text, chunk), expected, "{:?} by {chunk}", String::from_utf8_lossy(text));
            }
        }
    }

    fn locking() -> Locking {
        Locking { styles: vec![Lock::Fcntl, Lock::Flock, Lock::Dotlock], attempts: 1, delay_ms: 1, stale_s: 500 }
    }

    #[test]
    fn a_full_mailbox_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user");
        std::fs::write(&path, "From a\nold\n\n").unwrap();
        let path = path.to_str().unwrap();
        let locking = locking();
        let mut mailbox =
            Mailbox { path, from_line: "From b", locking: &locking, limit: 40, strict_owner: true, trouble: "4.2.0" };
        let done = mailbox.append(b"X: y\n", &mut &b"a message that is too long for the limit of the box\n"[..]);
        assert!(matches!(done, Done::Failed { ref status, .. } if status == "5.2.2"), "{done:?}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "From a\nold\n\n");
        mailbox.limit = 0;
        assert_eq!(mailbox.append(b"X: y\n", &mut &b"\nFrom me\n"[..]), Done::Delivered(String::new()));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "From a\nold\n\nFrom b\nX: y\n\n>From me\n\n");
        assert!(!dir.path().join("user.lock").exists());
    }

    #[test]
    fn half_a_mail_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user");
        let locking = locking();
        let mailbox = Mailbox {
            path: path.to_str().unwrap(),
            from_line: "From b",
            locking: &locking,
            limit: 0,
            strict_owner: true,
            trouble: "4.2.0",
        };
        for (old, gap) in [
            ("", ""),
            ("\n", ""),
            ("x", "\n\n"),
            ("From a\nold\n\n", ""),
            ("From a\nold\n", "\n"),
            ("From a\nol", "\n\n"),
        ] {
            std::fs::write(&path, old).unwrap();
            assert_eq!(mailbox.append(b"X: y\n", &mut &b"\nnew\n"[..]), Done::Delivered(String::new()));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{old}{gap}From b\nX: y\n\nnew\n\n"));
        }
    }

    #[test]
    fn links_directories_and_locked_boxes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "secret").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        std::fs::write(dir.path().join("busy"), "").unwrap();
        std::fs::write(dir.path().join("busy.lock"), "").unwrap();
        let locking = locking();
        for name in ["link", "dir", "busy"] {
            let path = dir.path().join(name);
            let path = path.to_str().unwrap();
            let mailbox = Mailbox {
                path,
                from_line: "From b",
                locking: &locking,
                limit: 0,
                strict_owner: true,
                trouble: "4.2.0",
            };
            assert!(matches!(mailbox.append(b"", &mut &b"x\n"[..]), Done::Failed { .. }), "{name}");
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "secret");
    }
}

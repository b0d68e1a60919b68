//! The worker's loop: one job after the other over one socket, until the engine closes it. Where several jobs wait,
//! their answers are held back until what they wrote to directories is synced: once for all of them.
//!
//! Privileges were dropped for good before the program was started, so nothing here can do more than its user could at
//! a shell prompt. The message is never held in memory whole.

mod command;
mod exits;
mod mailbox;
mod maildir;
mod output;
mod user_file;

use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::job::{Done, Job, Place};

pub use exits::exit_status;

/// Payload kind of a typed message; the same letters as everywhere between our processes.
pub const MESSAGE: u8 = b'J';
/// Payload kind of message content.
pub const BYTES: u8 = b'B';
/// No frame is longer than this.
pub const FRAME_LIMIT: usize = 8 << 20;

/// Reads one frame; `None` at a clean end.
pub fn read_frame(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match input.read(&mut head[got..])? {
            0 if got == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    let [a, b, c, d, kind] = head;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is too long"));
    }
    let mut payload = vec![0; len];
    input.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// A frame ready to be written; the payload is within [`FRAME_LIMIT`] or this is an error.
pub fn frame(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(5 + payload.len());
    put_frame(&mut all, kind, payload)?;
    Ok(all)
}

/// Appends a frame to what is to be written; nothing is appended when the payload is longer than [`FRAME_LIMIT`].
pub fn put_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) -> io::Result<()> {
    if payload.len() > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame is too long"));
    }
    // Within the limit, so within 32 bits.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    Ok(())
}

/// Whether the engine is still there to hear what became of a job.
pub type Heard<'a> = &'a dyn Fn() -> bool;

/// The message as it comes over the socket: byte frames up to an empty one.
///
/// It only ends well while the engine is there. A worker may have waited long for the lock of a mailbox; when the engine
/// was killed meanwhile another one delivers the message, and ours must not be there as well.
pub(crate) struct Incoming<'a, R> {
    input: &'a mut R,
    heard: Heard<'a>,
    frame: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, R: Read> Incoming<'a, R> {
    fn new(input: &'a mut R, heard: Heard<'a>) -> Self {
        Self { input, heard, frame: Vec::new(), at: 0, ended: false }
    }

    /// Takes what the job did not want, so that the next job begins at its own first byte.
    fn drain(&mut self) -> io::Result<()> {
        let mut scratch = [0; 4096];
        while self.read(&mut scratch)? > 0 {}
        Ok(())
    }
}

impl<R: Read> Read for Incoming<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.frame.len() {
            if self.ended {
                if (self.heard)() {
                    return Ok(0);
                }
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the mail system has gone away"));
            }
            match read_frame(self.input)? {
                Some((BYTES, payload)) => {
                    self.ended = payload.is_empty();
                    self.frame = payload;
                    self.at = 0;
                }
                Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "content expected")),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = buffer.len().min(self.frame.len() - self.at);
        buffer[..n].copy_from_slice(&self.frame[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Answers that are held back until directories are synced: jobs and bytes.
const HELD: (usize, usize) = (32, 1 << 20);

/// Serves jobs until the other side closes; `heard` says whether it has not. `more` says whether another job is there to
/// be read without waiting. An error means that the conversation itself is broken.
pub fn serve<R: Read>(
    input: &mut R,
    output: &mut impl Write,
    heard: Heard<'_>,
    mut more: impl FnMut(&mut R) -> bool,
) -> io::Result<()> {
    let mut held = Held::default();
    while let Some((kind, payload)) = read_frame(input)? {
        if kind != MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a job expected"));
        }
        let job: Job = serde_json::from_slice(&payload)?;
        // Locks and commands are waited for: not by those whose jobs are done. And what they have done is done: were it not
        // told at once, a kill while others are synced would have it done again.
        let alone = job.stands_alone();
        if alone {
            held.answer(output)?;
        }
        let done = match job {
            Job::Deliver { place, prepend } => {
                let mut message = Incoming::new(input, heard);
                let done = deliver(&place, prepend.as_bytes(), &mut message);
                message.drain()?;
                done
            }
            Job::DeliverUnless { files, place, prepend } => {
                let mut message = Incoming::new(input, heard);
                let done = match user_file::may_be_there(&files) {
                    true => Done::Withheld.into(),
                    false => deliver(&place, prepend.as_bytes(), &mut message),
                };
                message.drain()?;
                done
            }
            Job::Forward { paths, limit } => user_file::forward(&paths, limit).into(),
            Job::DotQmail { home, candidates, base, limit } => {
                user_file::qmail(&home, &candidates, &base, limit).into()
            }
            Job::Home { path } => user_file::home(&path).into(),
            Job::Include { path, limit } => user_file::include(&path, limit).into(),
        };
        held.put(done);
        if alone || held.is_enough() || !more(input) {
            held.answer(output)?;
        }
    }
    held.answer(output)
}

/// A job that needs nothing more from the engine.
enum Ended {
    Done(Done),
    /// Done when it is on the disk.
    Written(maildir::Written),
}

impl From<Done> for Ended {
    fn from(done: Done) -> Self {
        Self::Done(done)
    }
}

impl Ended {
    /// A file that was written is on the disk, without a name yet.
    fn synced(self) -> Self {
        match self {
            Self::Written(file) => match file.sync() {
                Ok(()) => Self::Written(file),
                Err(done) => Self::Done(done),
            },
            done => done,
        }
    }
}

/// Jobs that have ended, to be answered together.
#[derive(Default)]
struct Held {
    jobs: Vec<Ended>,
    bytes: usize,
}

impl Held {
    fn put(&mut self, ended: Ended) {
        self.bytes += match &ended {
            Ended::Done(Done::Delivered(text) | Done::Enough(text)) => text.len(),
            Ended::Done(Done::Text(Some((text, _)))) => text.len(),
            Ended::Done(Done::Qmail(Some(file))) => file.text.len(),
            _ => 0,
        };
        self.jobs.push(ended);
    }

    fn is_enough(&self) -> bool {
        self.jobs.len() >= HELD.0 || self.bytes >= HELD.1
    }

    /// Makes files and then their names survive a power loss, then answers.
    fn answer(&mut self, output: &mut impl Write) -> io::Result<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let mut directories = Directories::default();
        let synced: Vec<Ended> = self.jobs.drain(..).map(Ended::synced).collect();
        let done: Vec<(Done, Option<usize>)> = synced.into_iter().map(|job| directories.publish(job)).collect();
        let synced = directories.sync();
        let mut all = Vec::new();
        for (done, directory) in done {
            let trouble = directory.and_then(|at| synced.get(at)?.clone());
            put_frame(&mut all, MESSAGE, &serde_json::to_vec(&trouble.unwrap_or(done))?)?;
        }
        self.bytes = 0;
        output.write_all(&all)
    }
}

/// Directories that have new names in them.
#[derive(Default)]
struct Directories(Vec<PathBuf>);

impl Directories {
    /// What came of a job, and which directory must be synced before it may be said.
    fn publish(&mut self, job: Ended) -> (Done, Option<usize>) {
        match job {
            Ended::Done(done) => (done, None),
            Ended::Written(file) => match file.publish() {
                Ok(directory) => (Done::Delivered(String::new()), Some(self.changed(directory))),
                Err(done) => (done, None),
            },
        }
    }

    fn changed(&mut self, directory: PathBuf) -> usize {
        self.0.iter().position(|known| *known == directory).unwrap_or_else(|| {
            self.0.push(directory);
            self.0.len() - 1
        })
    }

    /// For each directory what is to be said of the jobs that changed it when it could not be synced.
    fn sync(&self) -> Vec<Option<Done>> {
        self.0.iter().map(|directory| maildir::sync(directory)).collect()
    }
}

fn deliver(place: &Place, prepend: &[u8], message: &mut impl Read) -> Ended {
    match place {
        Place::Mailbox { path, from_line, locking, limit, strict_owner, trouble } => {
            let (limit, strict_owner) = (*limit, *strict_owner);
            let mailbox = mailbox::Mailbox { path, from_line, locking, limit, strict_owner, trouble };
            mailbox.append(prepend, message).into()
        }
        Place::Maildir { path, limit, trouble } => match maildir::write(path, *limit, trouble, prepend, message) {
            Ok(written) => Ended::Written(written),
            Err(done) => done.into(),
        },
        Place::Command { command, shell, argv, environment, directory, time_limit_s, form, exits, agent } => {
            let (time_limit_s, exits) = (*time_limit_s, *exits);
            let spec = command::Spec { command, shell, argv, environment, directory, time_limit_s, form, exits, agent };
            command::run(&spec, prepend, message).into()
        }
    }
}

/// Status for a system error while a mailbox is opened or written (Postfix: `mbox_dsn`).
pub(crate) fn status_for(error: &io::Error, default: &str) -> String {
    use nix::errno::Errno;
    let status = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::ESTALE) => "4.2.0",
        Some(Errno::ENOSPC | Errno::EIO | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => "4.3.0",
        Some(Errno::EDQUOT | Errno::EFBIG) => "5.2.2",
        _ => default,
    };
    status.to_owned()
}

/// What went wrong, in the system's words without Rust's addition.
pub(crate) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(path: &str, message: &[u8]) -> Vec<u8> {
        let place = Place::Maildir { path: path.to_owned(), limit: 20, trouble: String::new() };
        let job = Job::Deliver { place, prepend: "A: b\n".to_owned() };
        let parts = [(MESSAGE, serde_json::to_vec(&job).unwrap()), (BYTES, message.to_vec()), (BYTES, Vec::new())];
        parts.iter().flat_map(|(kind, payload)| frame(*kind, payload).unwrap()).collect()
    }

    fn answers(mut bytes: &[u8]) -> Vec<Done> {
        let mut all = Vec::new();
        while let Some((_, payload)) = read_frame(&mut bytes).unwrap() {
            all.push(serde_json::from_slice(&payload).unwrap());
        }
        all
    }

    /// Counts writes.
    struct Writes(Vec<u8>, usize);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            self.1 += 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn jobs_that_wait_are_answered_together_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one/", "two/"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
        let long = [b'x'; 30];
        let jobs = [job(&one, b"1\n"), job(&two, &long), job(&two, b"2\n"), job(&one, b"3\n")].concat();
        for (together, writes) in [(true, 1), (false, 4)] {
            let mut output = Writes(Vec::new(), 0);
            serve(&mut &jobs[..], &mut output, &|| true, |rest: &mut &[u8]| together && !rest.is_empty()).unwrap();
            let answers = answers(&output.0);
            let good: Vec<bool> = answers.iter().map(|done| matches!(done, Done::Delivered(_))).collect();
            assert_eq!((good, output.1), (vec![true, false, true, true], writes));
        }
        for (name, files) in [("one/new", 4), ("two/new", 2), ("two/tmp", 0)] {
            assert_eq!(std::fs::read_dir(dir.path().join(name)).unwrap().count(), files, "{name}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_synced_fails_the_jobs_that_changed_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("box/");
        let written =
            |base: &std::path::Path| maildir::write(base.to_str().unwrap(), 0, "4.2.0", b"", &mut &b"\n"[..]).unwrap();
        let mut held = Held::default();
        let lost = written(&base);
        held.put(Ended::Written(lost));
        held.put(Done::Text(None).into());
        held.put(Ended::Written(written(&dir.path().join("other/"))));
        std::fs::remove_dir_all(base.join("new")).unwrap();
        std::fs::write(base.join("new"), "no directory").unwrap();
        let mut output = Vec::new();
        held.answer(&mut output).unwrap();
        let answers = answers(&output);
        assert!(matches!(&answers[0], Done::Failed { reason, .. } if reason.contains("link to")), "{answers:?}");
        assert_eq!(answers[1..], [Done::Text(None), Done::Delivered(String::new())]);

        let mut directories = Directories::default();
        assert_eq!([directories.changed("/nowhere/new".into()), directories.changed("/nowhere/new".into())], [0, 0]);
        let said = directories.sync();
        assert!(
            matches!(&said[..], [Some(Done::Failed { reason, .. })] if reason.contains("sync /nowhere/new")),
            "{said:?}"
        );
    }

    /// A kill while the files of others are synced must not have a mailbox written again.
    #[test]
    fn what_is_in_a_mailbox_is_told_before_other_jobs_are_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let mailbox = Place::Mailbox {
            path: path("mbox"),
            from_line: "From b".to_owned(),
            locking: crate::job::Locking { styles: Vec::new(), attempts: 1, delay_ms: 1, stale_s: 500 },
            limit: 0,
            strict_owner: true,
            trouble: "4.2.0".to_owned(),
        };
        let maildir = || Place::Maildir { path: path("maildir/"), limit: 0, trouble: "4.2.0".to_owned() };
        let unless = Job::DeliverUnless { files: Vec::new(), place: mailbox.clone(), prepend: String::new() };
        for first in [Job::Deliver { place: mailbox, prepend: String::new() }, unless] {
            let mut jobs = put_message(&first);
            jobs.extend([maildir(), maildir()].map(job_for).concat());
            let mut output = Writes(Vec::new(), 0);
            serve(&mut &jobs[..], &mut output, &|| true, |rest: &mut &[u8]| !rest.is_empty()).unwrap();
            let answers = answers(&output.0);
            assert!(answers.iter().all(|done| matches!(done, Done::Delivered(_))), "{answers:?}");
            assert_eq!((answers.len(), output.1), (3, 2));
        }
    }

    /// A job with a message, as the engine sends it.
    fn job_for(place: Place) -> Vec<u8> {
        put_message(&Job::Deliver { place, prepend: "X: y\n".to_owned() })
    }

    fn put_message(job: &Job) -> Vec<u8> {
        let mut all = frame(MESSAGE, &serde_json::to_vec(job).unwrap()).unwrap();
        all.extend(frame(BYTES, b"\nbody\n").unwrap());
        all.extend(frame(BYTES, b"").unwrap());
        all
    }

    #[test]
    fn nothing_is_delivered_for_an_engine_that_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mbox = dir.path().join("mbox");
        std::fs::write(&mbox, "From a\nold\n\n").unwrap();
        let maildir = dir.path().join("maildir/");
        let locking = crate::job::Locking { styles: Vec::new(), attempts: 1, delay_ms: 1, stale_s: 500 };
        let places = [
            Place::Mailbox {
                path: mbox.to_str().unwrap().to_owned(),
                from_line: "From b".to_owned(),
                locking,
                limit: 0,
                strict_owner: true,
                trouble: "4.2.0".to_owned(),
            },
            Place::Maildir { path: maildir.to_str().unwrap().to_owned(), limit: 0, trouble: "4.2.0".to_owned() },
        ];
        let files = |part: &str| std::fs::read_dir(maildir.join(part)).unwrap().count();
        for (there, new, old) in [(false, 0, true), (true, 1, false)] {
            for place in places.clone() {
                let mut said = Vec::new();
                let served = serve(&mut &job_for(place)[..], &mut said, &|| there, |_| false);
                assert_eq!(served.is_ok(), there, "{served:?}");
            }
            assert_eq!(std::fs::read_to_string(&mbox).unwrap() == "From a\nold\n\n", old);
            assert_eq!((files("new"), files("tmp")), (new, 0));
        }
    }
}

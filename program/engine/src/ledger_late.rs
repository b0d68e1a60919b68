//! Mail that comes back: read beside the delivery of it, and entered where it belongs.
//!
//! What comes in from the null sender, and what looks like a report or an automatic reply by its header, is shown to a
//! thread of its own, before it is accepted: what a report says is kept before nobody else keeps it. When more comes than can
//! be read, or the disk is slow, the rest is delivered unread and counted.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use yamabiko_analyze::{Analyzer, Kind};
use yamabiko_config::View;
use yamabiko_envelope::{Content, Envelope, Source, Timestamp};
use yamabiko_ledger::late::{Incoming, Token, join};
use yamabiko_ledger::{Entry, Feed, Input, Ledger, Origin, SURE, Trusted, What, analyzer};

/// Messages that may wait to be read.
const WAITING: usize = 2000;
/// So much of a message is read.
const READ: u64 = 512 << 10;
/// So long a message waits to be read before it is accepted; it is read all the same.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is pushed must be found before it is looked for: after a crash, what was kept of it is written first.
const CATCHING_UP: Duration = Duration::from_secs(60);
/// A ledger that does not answer is asked again, after so long each time.
const ASKED_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// Takes a verified token out of an address.
pub type Tokens = Box<dyn Fn(&str) -> Option<Token> + Send + Sync>;

/// Says in the log what is wrong.
pub type Complain = Box<dyn Fn(&str) + Send>;

/// Reads what comes back.
pub struct Reader {
    jobs: Mutex<VecDeque<Job>>,
    work: Condvar,
    skipped: AtomicU64,
    read: AtomicU64,
    /// Reports that are known to belong to a message of ours are not delivered.
    pub discards: bool,
    trusted: Trusted,
    tokens: std::sync::OnceLock<Tokens>,
}

struct Job {
    at: Timestamp,
    envelope: Arc<Envelope>,
    parts: Vec<Content>,
    /// Told whether it belongs to a message of ours.
    answer: tokio::sync::oneshot::Sender<bool>,
}

impl Reader {
    /// Starts the thread. What keeps it from reading a report, and words of `late_bounce_trusted_hosts` that mean nothing, are
    /// said through `complain`.
    pub fn start(main: &View, directory: &Path, feed: Arc<Feed>, complain: Complain) -> io::Result<Arc<Self>> {
        let words = main.list("late_bounce_trusted_hosts");
        let (trusted, faults) = Trusted::parse(words.iter().map(String::as_str));
        faults.iter().for_each(|why| complain(&format!("late_bounce_trusted_hosts: {why}")));
        let reader = Arc::new(Self {
            jobs: Mutex::default(),
            work: Condvar::new(),
            skipped: AtomicU64::new(0),
            read: AtomicU64::new(0),
            discards: main.text("late_bounce_disposition") == "discard",
            trusted,
            tokens: std::sync::OnceLock::new(),
        });
        let (shared, mut ledger) = (Arc::clone(&reader), Ledger::open(directory));
        let run = move || {
            loop {
                let jobs = shared.wait();
                if !feed.flush(CATCHING_UP) {
                    complain("the ledger is behind: reports that come in now may not find the message they are about");
                }
                for job in jobs {
                    let ours = shared.one(analyzer(), &mut ledger, &feed, &job).unwrap_or_else(|error| {
                        shared.skipped.fetch_add(1, Ordering::Relaxed);
                        complain(&format!(
                            "{}: delivered without being read for the ledger: {error}",
                            job.envelope.queue_id
                        ));
                        false
                    });
                    // Whoever asked may have gone on.
                    let _ = job.answer.send(ours);
                }
            }
        };
        std::thread::Builder::new().name("late-bounces".into()).spawn(run)?;
        Ok(reader)
    }

    /// What reads tokens in addresses, once it is known.
    pub fn reads_tokens(&self, tokens: Tokens) {
        let _ = self.tokens.set(tokens);
    }

    /// Messages that were read, and that there was no time to read.
    pub fn counts(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.skipped.load(Ordering::Relaxed))
    }

    /// Whether a message is one to be read.
    pub fn wants(envelope: &Envelope, parts: &[Content], source: Source) -> bool {
        if !matches!(source, Source::Smtp | Source::Local { .. }) {
            return false;
        }
        envelope.sender.is_empty() || looks_like_a_report(parts)
    }

    /// Has a message read, and says whether it is a report that surely belongs to a message of ours.
    pub async fn is_ours(&self, envelope: Arc<Envelope>, parts: Vec<Content>) -> bool {
        let (answer, heard) = tokio::sync::oneshot::channel();
        self.push(Job { at: Timestamp::now(), envelope, parts, answer });
        let patience = if self.discards { PATIENCE * 3 } else { PATIENCE };
        matches!(tokio::time::timeout(patience, heard).await, Ok(Ok(true)))
    }

    fn push(&self, job: Job) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= WAITING {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        jobs.push_back(job);
        self.work.notify_one();
    }

    fn wait(&self) -> VecDeque<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while jobs.is_empty() {
            jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut *jobs)
    }

    fn one(&self, analyzer: &Analyzer, ledger: &mut Ledger, feed: &Feed, job: &Job) -> io::Result<bool> {
        let mut message = Vec::new();
        for part in &job.parts {
            let room = READ.saturating_sub(message.len() as u64);
            message.extend_from_slice(&part.slice(0, room.min(part.len())).to_bytes()?);
        }
        self.read.fetch_add(1, Ordering::Relaxed);
        let analysis = analyzer.analyze(&message);
        if matches!(analysis.kind, Kind::NotABounce(_) | Kind::Receipt) || analysis.findings.is_empty() {
            return Ok(false);
        }
        let recipients: Vec<String> = job
            .envelope
            .recipients
            .iter()
            .flat_map(|known| [known.address.clone(), known.original.clone()])
            .filter(|address| !address.is_empty())
            .collect();
        let id = job.envelope.queue_id.to_string();
        let client = &job.envelope.client;
        let incoming = Incoming {
            at: job.at,
            queue_id: &id,
            recipients: &recipients,
            message: &message,
            analysis: &analysis,
            client: client.address.map(|address| Origin::new(&client.name, address)),
            trusted: &self.trusted,
        };
        let token = |address: &str| self.tokens.get().and_then(|read| read(address));
        let mut again = ASKED_AGAIN.iter();
        let entries: Vec<Entry> = loop {
            match (join(ledger, &incoming, &token), again.next()) {
                (Ok((entries, _)), _) => break entries,
                (Err(_), Some(pause)) => std::thread::sleep(*pause),
                (Err(error), None) => return Err(io::Error::other(error.to_string())),
            }
        };
        // Automatic replies are for people, and nothing of them is kept here.
        let told = |entry: &Entry| entry.confidence >= SURE && matches!(entry.what, What::Report | What::Complaint);
        let ours = !entries.is_empty() && entries.iter().all(told);
        let lost = feed.dropped();
        entries.into_iter().for_each(|entry| feed.push(Input::Entry(Box::new(entry))));
        // Where there was no room for it the mail is what is left of it.
        Ok(ours && feed.dropped() == lost)
    }
}

/// So much of a message is looked at to see whether it is one that comes back.
const HEAD: u64 = 32 << 10;

/// The header says so. It may be in several parts: the trace fields that were put in front, and the message as it came.
fn looks_like_a_report(parts: &[Content]) -> bool {
    const SIGNS: [&str; 4] = ["multipart/report", "auto-submitted: auto-", "x-failed-recipients:", "x-autoreply:"];
    let mut left = HEAD;
    for part in parts {
        // What cannot be read now is delivered unread.
        let Ok(bytes) = part.slice(0, left.min(part.len())).to_bytes() else { return false };
        let end = memchr::memmem::find(&bytes, b"\n\n");
        let header = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default().to_ascii_lowercase();
        if SIGNS.iter().any(|sign| memchr::memmem::find(&header, sign.as_bytes()).is_some()) {
            return true;
        }
        left = left.saturating_sub(part.len());
        if end.is_some() || left == 0 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        let parts =
            |texts: &[&str]| texts.iter().map(|text| Content::from(text.to_string().into_bytes())).collect::<Vec<_>>();
        for (texts, expected) in [
            (&["Content-Type: Multipart/Report; report-type=delivery-status\n\nx"][..], true),
            (&["Received: from x\n\tby y\n", "Content-Type: multipart/report\n\nx"], true),
            (&["Received: from x\n", "Auto-Submitted: auto-replied\n"], true),
            (&["Received: from x\n", "Auto-Submitted: no\nSubject: hello\n\n", "multipart/report"], false),
            (&["Subject: hello\n\nContent-Type: multipart/report"], false),
            (&[], false),
        ] {
            assert_eq!(looks_like_a_report(&parts(texts)), expected, "{texts:?}");
        }
    }
}

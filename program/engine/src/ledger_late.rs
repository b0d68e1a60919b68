//! Mail that comes back: read beside the delivery of it, and entered where it belongs.
//!
//! What comes in from the null sender, and what looks like a report or an automatic reply by its header, is shown to a
//! thread of its own, before it is accepted: what a report says is kept before nobody else keeps it. When more comes than can
//! be read, or the disk is slow, the rest is delivered unread and counted.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
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
/// So long a message waits to be read before it is accepted, while nothing at all is read or written; it is read all the same.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long it waits while others are read before it: whoever sent it waits for ten minutes (RFC 5321 section 4.5.3.2.6), and
/// what is accepted unread is lost to the ledger when the process is killed.
const LONGEST: Duration = Duration::from_secs(60);
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
    /// Where what is read goes.
    feed: Arc<Feed>,
    manners: RwLock<Arc<Manners>>,
    tokens: std::sync::OnceLock<Tokens>,
}

/// What main.cf says.
struct Manners {
    /// Reports that are known to belong to a message of ours are not delivered.
    discards: bool,
    trusted: Trusted,
}

impl Manners {
    /// And words that mean nothing.
    fn of(main: &View) -> (Self, Vec<String>) {
        let words = main.list("late_bounce_trusted_hosts");
        let (trusted, faults) = Trusted::parse(words.iter().map(String::as_str));
        let discards = main.text("late_bounce_disposition") == "discard";
        (Self { discards, trusted }, faults.iter().map(|why| format!("late_bounce_trusted_hosts: {why}")).collect())
    }
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
        let (manners, faults) = Manners::of(main);
        faults.iter().for_each(|why| complain(why));
        let reader = Arc::new(Self {
            jobs: Mutex::default(),
            work: Condvar::new(),
            skipped: AtomicU64::new(0),
            read: AtomicU64::new(0),
            feed: Arc::clone(&feed),
            manners: RwLock::new(Arc::new(manners)),
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

    /// Another configuration, and what is wrong with it.
    pub fn reconfigure(&self, main: &View) -> Vec<String> {
        let (manners, faults) = Manners::of(main);
        *self.manners.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manners);
        faults
    }

    fn manners(&self) -> Arc<Manners> {
        Arc::clone(&self.manners.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports that are known to belong to a message of ours are not delivered.
    pub fn discards(&self) -> bool {
        self.manners().discards
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
        let patience = if self.discards() { PATIENCE * 3 } else { PATIENCE };
        let steps = || self.read.load(Ordering::Relaxed).wrapping_add(self.feed.written());
        answer_of(heard, steps, patience, LONGEST).await.unwrap_or(false)
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
        let manners = self.manners();
        let incoming = Incoming {
            at: job.at,
            queue_id: &id,
            recipients: &recipients,
            message: &message,
            analysis: &analysis,
            client: client.address.map(|address| Origin::new(&client.name, address)),
            trusted: &manners.trusted,
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
        entries.iter().for_each(|entry| feed.push(Input::Entry(entry)));
        // Where there was no room for it the mail is what is left of it.
        Ok(ours && feed.dropped() == lost)
    }
}

/// Waits for an answer as long as there is work done that it waits for: `steps` changes at least once in `patience`. Not longer
/// than `longest`.
async fn answer_of<T>(
    mut heard: tokio::sync::oneshot::Receiver<T>,
    steps: impl Fn() -> u64,
    patience: Duration,
    longest: Duration,
) -> Option<T> {
    let begun = tokio::time::Instant::now();
    let mut before = steps();
    loop {
        if let Ok(answer) = tokio::time::timeout(patience, &mut heard).await {
            return answer.ok();
        }
        let now = steps();
        if now == before || begun.elapsed() >= longest {
            return None;
        }
        before = now;
    }
}

/// So much of a message is looked at to see whether it is one that comes back.
const HEAD: u64 = 32 << 10;

/// The header says so. It may be in several parts: the trace fields that were put in front, and the message as it came.
fn looks_like_a_report(parts: &[Content]) -> bool {
    let mut left = HEAD;
    for part in parts {
        // What cannot be read now is delivered unread.
        let Ok(bytes) = part.slice(0, left.min(part.len())).to_bytes() else { return false };
        let mut line = 0;
        for end in memchr::memchr_iter(b'\n', &bytes) {
            match bytes.get(line..end) {
                Some([]) => return false,
                Some(field) if is_sign(field) => return true,
                _ => line = end + 1,
            }
        }
        if bytes.get(line..).is_some_and(is_sign) {
            return true;
        }
        left = left.saturating_sub(part.len());
        if left == 0 {
            return false;
        }
    }
    false
}

/// A line of a header that reports and automatic replies have. Of a field in several lines each may be the one.
fn is_sign(line: &[u8]) -> bool {
    const SIGNS: [&str; 4] = ["multipart/report", "auto-submitted: auto-", "x-failed-recipients:", "x-autoreply:"];
    let has = |sign: &str| line.windows(sign.len()).any(|window| window.eq_ignore_ascii_case(sign.as_bytes()));
    match line.first().map(u8::to_ascii_lowercase) {
        Some(b'c' | b' ' | b'\t') => has(SIGNS[0]),
        Some(b'a') => has(SIGNS[1]),
        Some(b'x') => has(SIGNS[2]) || has(SIGNS[3]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer is waited for as long as others before it are read, and not for a ledger that hangs.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer() {
        let seconds = Duration::from_secs;
        // A step each so many seconds; the answer after so many; how long it is waited for, and whether it is heard.
        for (step, answer, waited, heard) in [
            (1, 0, 0, true),
            (1, 2, 2, true),
            (1, 20, 20, true),
            (1, 100, 60, false),
            (2, 59, 59, true),
            (1000, 2, 2, true),
            (1000, 4, 3, false),
        ] {
            let begun = tokio::time::Instant::now();
            let (sender, receiver) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                tokio::time::sleep(seconds(answer)).await;
                let _ = sender.send(true);
            });
            let steps = || begun.elapsed().as_secs() / step;
            let got = answer_of(receiver, steps, PATIENCE, LONGEST).await;
            assert_eq!((got.is_some(), begun.elapsed().as_secs()), (heard, waited), "{step} {answer}");
        }
    }

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

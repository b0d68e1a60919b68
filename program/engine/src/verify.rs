//! Address verification (Postfix: verify(8)): what was learned of addresses, and the probes that learn it.
//!
//! A probe is a message that exists in memory only: it is made complete by cleanup, scheduled and routed as mail is, and
//! its delivery agent goes as far as the answer to RCPT (`smtp_address_verify_target`). What came of it is remembered in
//! [`Cache`], and in a file beside the one that `address_verify_map` names, a line per answer. Losing that file costs
//! new probes, so it is written without waiting for the disk.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yamabiko_cleanup::Verdict;
use yamabiko_config::View;
use yamabiko_envelope::{
    Content, Envelope, Event, Kind, Origin, Outcome, Recipient, Result as Ended, Severity, Source, Submission,
    Timestamp, Trace,
};
use yamabiko_receive::verification::{Cache, Known, Times, Verification, sender};

use crate::accept::Acceptance;
use crate::blocking::where_it_may_block;
use crate::orders::Order;

/// Bytes of the file that are read at most.
const MOST_BYTES: u64 = 256 << 20;
/// The file is written anew when so many lines were added to it beyond the addresses that it is about.
const MOST_LINES: usize = 50_000;
/// How often it is looked whether something is to be forgotten.
const ROUND: Duration = Duration::from_secs(60);

/// `address_verify_...` of one configuration.
pub struct Settings {
    times: Times,
    /// The file of answers; none: they are kept in memory only.
    path: Option<PathBuf>,
    /// What is to be said of `address_verify_map`.
    pub remark: Option<String>,
    cleanup_interval: Duration,
    sender: String,
    sender_ttl: u64,
    pending_limit: usize,
}

impl Settings {
    /// From main.cf.
    pub fn from_view(view: &View) -> Self {
        let seconds = |name: &str| view.duration(name).as_secs();
        let (path, remark) = file_of(&view.text("address_verify_map"));
        Self {
            times: Times {
                positive_refresh: seconds("address_verify_positive_refresh_time"),
                positive_expire: seconds("address_verify_positive_expire_time"),
                negative_refresh: seconds("address_verify_negative_refresh_time"),
                negative_expire: seconds("address_verify_negative_expire_time"),
                keep_negative: view.bool("address_verify_negative_cache"),
            },
            path,
            remark,
            cleanup_interval: view.duration("address_verify_cache_cleanup_interval"),
            sender: view.text("address_verify_sender"),
            sender_ttl: seconds("address_verify_sender_ttl"),
            pending_limit: usize::try_from(view.int("address_verify_pending_request_limit")).unwrap_or(1),
        }
    }

    /// `local` is the local part of the address that probes come from.
    pub fn is_sender(&self, local: &str, now: Timestamp) -> bool {
        yamabiko_receive::verification::is_sender(local, &self.sender, self.sender_ttl, now)
    }
}

/// The file for a table: our own form of it lies beside Postfix's.
fn file_of(map: &str) -> (Option<PathBuf>, Option<String>) {
    if map.is_empty() {
        return (None, None);
    }
    let spec = map.strip_prefix("proxy:").unwrap_or(map);
    match spec.split_once(':') {
        Some(("btree" | "hash" | "lmdb" | "dbm" | "sdbm" | "cdb", path)) if path.starts_with('/') => {
            (Some(PathBuf::from(format!("{path}.txt"))), None)
        }
        _ => {
            let remark = format!("address_verify_map = {map}: answers cannot be kept there; they are kept in memory");
            (None, Some(remark))
        }
    }
}

#[derive(Default)]
struct State {
    cache: Cache,
    path: Option<PathBuf>,
    file: Option<File>,
    added: usize,
    cleaned: Option<Timestamp>,
}

/// What is known of addresses.
#[derive(Default)]
pub struct Verifier {
    state: Mutex<State>,
    pending: AtomicUsize,
}

impl Verifier {
    fn state(&self) -> MutexGuard<'_, State> {
        // The cache is whole whatever a thread was doing when it panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, and whether a probe is to be sent.
    fn ask(&self, address: &str, settings: &Settings, now: Timestamp) -> (Verification, bool) {
        let mut state = self.state();
        if self.pending.load(Ordering::Relaxed) >= settings.pending_limit {
            // Asking must not be remembered as a probe that was sent: a look is enough.
            let (answer, _) = state.cache.look(address, &settings.times, now);
            return (answer, false);
        }
        state.cache.ask(address, &settings.times, now)
    }

    /// Takes the file of a configuration up, if it is another one than before.
    fn follow(&self, settings: &Settings) -> io::Result<()> {
        let mut state = self.state();
        if state.path == settings.path {
            return Ok(());
        }
        state.path.clone_from(&settings.path);
        state.file = None;
        let Some(path) = settings.path.clone() else { return Ok(()) };
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file.take(MOST_BYTES)).lines().map_while(Result::ok) {
                    // What makes no sense was cut when we last ended.
                    let _ = state.cache.read(&line);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        state.rewrite(&path)
    }

    fn learn(&self, address: &str, found: Verification, settings: &Settings, now: Timestamp) -> io::Result<()> {
        let mut state = self.state();
        let Some(mut line) = state.cache.learn(address, found, &settings.times, now) else { return Ok(()) };
        let Some(path) = state.path.clone() else { return Ok(()) };
        if state.file.is_none() || state.added > state.cache.len() + MOST_LINES {
            return state.rewrite(&path);
        }
        line.push('\n');
        state.added += 1;
        match &mut state.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }

    /// Forgets what has expired, when it is time for that; the line for the log.
    fn clean(&self, settings: &Settings, now: Timestamp) -> io::Result<Option<String>> {
        let mut state = self.state();
        state.cache.forget_unwanted(&settings.times, now);
        let begun = *state.cleaned.get_or_insert(now);
        if settings.cleanup_interval.is_zero() || now.since(begun) < settings.cleanup_interval {
            return Ok(None);
        }
        state.cleaned = Some(now);
        let (retained, dropped) = state.cache.clean(&settings.times, now);
        let Some(path) = state.path.clone() else { return Ok(None) };
        state.rewrite(&path)?;
        Ok(Some(format!("cache {} full cleanup: retained={retained} dropped={dropped} entries", path.display())))
    }
}

impl State {
    /// The file with what is known now, and open for what is learned next.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let new = PathBuf::from(format!("{}.new", path.display()));
        let mut text = String::new();
        for line in self.cache.lines() {
            text.push_str(&line);
            text.push('\n');
        }
        fs::write(&new, text)?;
        fs::rename(&new, path)?;
        self.added = 0;
        self.file = Some(File::options().append(true).open(path)?);
        Ok(())
    }
}

/// Says what the verifier has to say.
fn say(engine: &Acceptance, severity: Severity, text: String) {
    let origin = Origin::new(&engine.current().get().syslog_name, "verify");
    engine.current().events().emit(Event::text(Timestamp::now(), origin, severity, text));
}

/// Reads the file, and cleans it from time to time; for as long as the engine runs.
pub async fn keep(engine: Acceptance) {
    let mut failed = false;
    loop {
        let worker = engine.clone();
        let done = tokio::task::spawn_blocking(move || {
            let generation = worker.current().get();
            worker.verifier().follow(&generation.verify)?;
            worker.verifier().clean(&generation.verify, Timestamp::now())
        });
        match done.await {
            Ok(Ok(line)) => {
                failed = false;
                if let Some(line) = line {
                    say(&engine, Severity::Info, line);
                }
            }
            Ok(Err(error)) if !failed => {
                failed = true;
                let text = format!("address_verify_map: {error}; what is learned of addresses is kept in memory");
                say(&engine, Severity::Warning, text);
            }
            _ => {}
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// What is known of an address. A probe is sent beside when it is time for one.
pub fn verify(engine: &Acceptance, address: &str) -> Verification {
    let generation = engine.current().get();
    let verifier = engine.verifier();
    let (answer, wanted) = verifier.ask(address, &generation.verify, Timestamp::now());
    if wanted {
        verifier.pending.fetch_add(1, Ordering::Relaxed);
        let (engine, address) = (engine.clone(), address.to_owned());
        tokio::spawn(async move {
            let found = probe(&engine, &address).await;
            engine.verifier().pending.fetch_sub(1, Ordering::Relaxed);
            let worker = engine.clone();
            let stored = tokio::task::spawn_blocking(move || {
                let generation = worker.current().get();
                worker.verifier().learn(&address, found, &generation.verify, Timestamp::now())
            });
            if let Ok(Err(error)) = stored.await {
                say(&engine, Severity::Warning, format!("address_verify_map: {error}"));
            }
        });
    }
    answer
}

/// Sends a probe and waits for what comes of it.
async fn probe(engine: &Acceptance, address: &str) -> Verification {
    let uncertain = |why: &str| Verification { known: Known::Uncertain, why: why.to_owned() };
    let generation = engine.current().get();
    let (id, now) = (engine.next_id(), Timestamp::now());
    let settings = &generation.verify;
    let mut envelope = Envelope::new(id, now, sender(&settings.sender, settings.sender_ttl, now));
    envelope.trace = Trace::Probe;
    envelope.recipients.push(Recipient {
        address: address.to_owned(),
        original: address.to_owned(),
        ..Recipient::default()
    });
    let mut submission = Submission::new(envelope, Content::from(Vec::new()), Source::Notice);
    submission.trace_fields =
        format!("Received: by {} ({})\n\tid {id}; {}\n", generation.myhostname, generation.mail_name, engine.date(now))
            .into_bytes();
    let cleanup = &generation.cleanup;
    let process = cleanup.process(submission, now, engine.zone());
    let (envelope, head) = match where_it_may_block(cleanup.is_remote(), Box::pin(process)).await {
        Verdict::Accept(accepted) => (accepted.envelope, accepted.head),
        Verdict::Discard => return Verification { known: Known::Deliverable, why: "discarded".to_owned() },
        Verdict::Refuse(refusal) | Verdict::Return(_, refusal) => return uncertain(&refusal.reply_text()),
    };
    drop(generation);
    let (done, outcomes) = tokio::sync::oneshot::channel();
    let probe = Probe { envelope: Arc::new(envelope), content: Content::from(head.to_vec()), done };
    engine.manager().send(Order::Probe(Box::new(probe)));
    match outcomes.await {
        Ok(outcomes) => summary(&outcomes),
        Err(_) => uncertain("address verification was interrupted"),
    }
}

/// A message that asks, and who waits for the answer.
pub struct Probe {
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Its header.
    pub content: Content,
    /// Takes what came of it.
    pub done: tokio::sync::oneshot::Sender<Vec<Outcome>>,
}

/// One address may have become several: one that takes mail is enough.
fn summary(outcomes: &[Outcome]) -> Verification {
    let find = |wanted: &dyn Fn(&Ended) -> bool| outcomes.iter().find(|outcome| wanted(&outcome.result));
    let (known, outcome) = if let Some(outcome) = find(&|result| matches!(result, Ended::Sent(_))) {
        (Known::Deliverable, Some(outcome))
    } else if let Some(outcome) = find(&|result| *result == Ended::Deferred) {
        (Known::Uncertain, Some(outcome))
    } else {
        match outcomes.first() {
            Some(outcome) => (Known::Undeliverable, Some(outcome)),
            None => (Known::Uncertain, None),
        }
    };
    Verification { known, why: outcome.map_or_else(String::new, |outcome| outcome.reason.clone()) }
}

/// The probe is over: there is nothing on disk to be removed, and the log says the same as of any message.
pub fn finish(engine: &Acceptance, probe: Probe, outcomes: Vec<Outcome>, now: Timestamp) {
    engine.current().emit("qmgr", now, Kind::Removed { queue_id: probe.envelope.queue_id });
    // Who waited may be gone.
    let _ = probe.done.send(outcomes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_status::EnhancedStatus;

    #[test]
    fn one_good_answer_is_enough() {
        let now = Timestamp::default();
        let outcome = |result| Outcome::of_our_own(0, result, EnhancedStatus::transient(3, 0), "why", now);
        let sent = Ended::Sent(yamabiko_envelope::Action::Delivered);
        for (results, expected) in [
            (vec![], Known::Uncertain),
            (vec![sent], Known::Deliverable),
            (vec![Ended::Failed, sent], Known::Deliverable),
            (vec![Ended::Failed, Ended::Deferred], Known::Uncertain),
            (vec![Ended::Failed, Ended::Failed], Known::Undeliverable),
        ] {
            let outcomes: Vec<_> = results.iter().map(|result| outcome(*result)).collect();
            assert_eq!(summary(&outcomes).known, expected, "{results:?}");
        }
    }

    #[test]
    fn answers_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let map = format!("btree:{}/verify_cache", directory.path().display());
        let settings = |map: &str| Settings {
            times: Times {
                positive_refresh: 100,
                positive_expire: 1000,
                negative_refresh: 100,
                negative_expire: 1000,
                keep_negative: true,
            },
            path: file_of(map).0,
            remark: None,
            cleanup_interval: Duration::from_secs(500),
            sender: "double-bounce".to_owned(),
            sender_ttl: 0,
            pending_limit: 5,
        };
        let at = |seconds: u64| Timestamp::from_seconds(1_000_000 + seconds);
        let settings = settings(&map);
        let bad = Verification { known: Known::Undeliverable, why: "no such mailbox".to_owned() };
        let first = Verifier::default();
        first.follow(&settings).unwrap();
        assert!(first.ask("a@x.test", &settings, at(0)).1);
        first.learn("a@x.test", bad.clone(), &settings, at(1)).unwrap();
        first.learn("b@x.test", bad.clone(), &settings, at(2)).unwrap();
        // It ended in the middle of a line.
        let mut file = File::options().append(true).open(settings.path.as_ref().unwrap()).unwrap();
        file.write_all(b"c@x.test\t2:0").unwrap();
        let second = Verifier::default();
        second.follow(&settings).unwrap();
        assert_eq!(second.ask("A@x.test", &settings, at(3)), (bad, false));
        assert_eq!(second.clean(&settings, at(4)).unwrap(), None);
        let line = second.clean(&settings, at(5000)).unwrap().unwrap();
        assert!(line.ends_with("verify_cache.txt full cleanup: retained=0 dropped=2 entries"), "{line}");
        assert_eq!(fs::read_to_string(settings.path.as_ref().unwrap()).unwrap(), "");
    }

    #[test]
    fn files_of_maps() {
        let path = |map: &str| file_of(map).0.map(|path| path.display().to_string());
        assert_eq!(path("btree:/var/lib/postfix/verify_cache").as_deref(), Some("/var/lib/postfix/verify_cache.txt"));
        assert_eq!(path("proxy:btree:/x/y").as_deref(), Some("/x/y.txt"));
        assert_eq!((path(""), path("memcache:/x"), path("btree:verify")), (None, None, None));
        assert!(file_of("memcache:/x").1.is_some() && file_of("").1.is_none());
    }
}

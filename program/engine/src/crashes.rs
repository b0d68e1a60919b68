//! Bugs of ours that showed: processes that crashed, as the supervisor tells, and panics that this process survived. Whoever
//! hears of `software` hears of them, by mail and the second way: each kind at once, then at growing intervals while it goes
//! on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use yamabiko_envelope::{Timestamp, TroubleClass};
use yamabiko_ipc::boss::{Crash, Crashes};
use yamabiko_supervisor::{Untold, place_of};

use crate::accept::Acceptance;

/// Panics that wait to be told; more are counted only.
const WAITING: usize = 16;
/// Characters of what a program says of its own bug.
const WORDS: usize = 500;
/// How long telling is waited for before whatever comes next is done; it goes on all the same.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells of crashes; the supervisor is to hear when that is done.
pub async fn tell(engine: &Acceptance, crashes: &Crashes) {
    let (subject, text) = words_of(crashes, engine.queue().stats().messages, |at| engine.date(at));
    let told = engine.desk().trouble(engine, TroubleClass::Software, &subject, text);
    // A disk that hangs hangs for all.
    let _ = tokio::time::timeout(PATIENCE, told).await;
}

fn words_of(crashes: &Crashes, queued: usize, date: impl Fn(Timestamp) -> String) -> (String, String) {
    let subject = match crashes.samples.first() {
        Some(crash) if crashes.count == 1 => crash.what.clone(),
        Some(crash) => format!("{} crashes, the first: {}", crashes.count, crash.what),
        None => format!("{} crashes", crashes.count),
    };
    let mut text = String::from(
        "A program of this mail system ended as it never should. That is a bug of ours, or of this machine. Whatever was \
         needed was started again.\n\n",
    );
    for crash in &crashes.samples {
        text.push_str(&format!("{}: {}\n", date(Timestamp::from_seconds(crash.at)), crash.what));
        if !crash.last_words.is_empty() {
            text.push_str(&format!("    It said: {}\n", crash.last_words));
        }
        if !crash.log.is_empty() {
            text.push_str("    Its last lines in the log say what it was doing, as far as they had been written:\n");
        }
        crash.log.iter().for_each(|line| text.push_str(&format!("        {line}\n")));
        text.push('\n');
    }
    let more = crashes.count as usize - crashes.samples.len().min(crashes.count as usize);
    if more > 0 {
        text.push_str(&format!("{more} more of them are in the log only.\n\n"));
    }
    text.push_str(&format!(
        "{queued} messages are in the queue. Nothing that was accepted is lost; what was just being delivered may arrive twice.\n"
    ));
    (subject, text)
}

/// For the hook of panics, which must not wait.
#[derive(Clone)]
pub struct Mouth(mpsc::Sender<String>);

/// For the task that tells.
pub struct Ear(mpsc::Receiver<String>);

/// Panics that were survived and have not been told yet.
#[derive(Clone, Default)]
pub struct Bugs(Arc<Mutex<Untold>>);

/// Panics that found no place in the line.
static MISSED: AtomicU32 = AtomicU32::new(0);

/// Both ends.
pub fn line() -> (Mouth, Ear) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Mouth(sender), Ear(receiver))
}

/// What a program says of its own bug, in one line.
pub fn clipped(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect()
}

impl Mouth {
    /// A panic was survived.
    pub fn say(&self, text: &str) {
        if self.0.try_send(clipped(text)).is_err() {
            MISSED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Ear {
    /// Tells, as long as the engine runs.
    pub async fn run(mut self, engine: Acceptance, bugs: Bugs) {
        let mut telling = None;
        loop {
            let now = Instant::now();
            if let Some(taken) = bugs.untold().take(now, false) {
                let engine = engine.clone();
                telling = Some(tokio::spawn(async move { tell_bugs(&engine, &taken).await }));
            }
            let next = bugs.untold().next(now);
            tokio::select! {
                text = self.0.recv() => match text {
                    Some(text) => bugs.add(text),
                    None => return,
                },
                () = ended(&mut telling) => bugs.untold().told(Instant::now()),
                () = tokio::time::sleep_until(next.unwrap_or(now).into()), if next.is_some() => {}
            }
        }
    }
}

/// The end of a task, where there is one.
async fn ended(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(running) => drop(running.await),
        None => std::future::pending().await,
    }
    *task = None;
}

impl Bugs {
    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, text: String) {
        let (at, kind) = (Timestamp::now().seconds(), place_of(&text).to_owned());
        // Where the line was full, it was full of these.
        let unseen = MISSED.swap(0, Ordering::Relaxed);
        self.untold().add(&kind, Crash { at, what: text, ..Crash::default() }, unseen, Instant::now());
    }

    /// Before the end nothing is kept back.
    pub async fn tell_rest(&self, engine: &Acceptance) {
        let rest = self.untold().take(Instant::now(), true);
        if let Some(rest) = rest {
            tell_bugs(engine, &rest).await;
        }
    }
}

/// Tells of panics.
async fn tell_bugs(engine: &Acceptance, bugs: &Crashes) {
    let (subject, text) = words_of_bugs(bugs);
    let told = engine.desk().trouble(engine, TroubleClass::Software, &subject, text);
    let _ = tokio::time::timeout(PATIENCE, told).await;
}

fn words_of_bugs(bugs: &Crashes) -> (String, String) {
    let subject = match (bugs.count, bugs.samples.first()) {
        (1, Some(bug)) => format!("a bug was survived: {}", bug.what).chars().take(150).collect(),
        (count, _) => format!("{count} bugs were survived"),
    };
    let mut different: Vec<&str> = bugs.samples.iter().map(|bug| bug.what.as_str()).collect();
    different.dedup();
    let text = format!(
        "A part of this mail system failed as it never should. That is a bug of ours. The mail that it was working on \
         waits and is tried again; the log has a line with \"panic:\" each time, and those near it say which mail that \
         was.\n\n{}\n",
        different.join("\n\n")
    );
    (subject, text)
}

#[cfg(test)]
mod tests {
    use yamabiko_ipc::boss::Crash;

    use super::*;

    #[test]
    fn words() {
        let crash = |what: &str| Crash {
            at: 1,
            what: what.to_owned(),
            last_words: "thread queue-log: oops".to_owned(),
            log: vec!["mx postfix/qmgr[7]: A1: removed".to_owned()],
        };
        let one =
            Crashes { count: 1, samples: vec![crash("the engine (process 7) was killed by signal 11 (SIGSEGV)")] };
        let (subject, text) = words_of(&one, 5, |at| format!("T{}", at.seconds()));
        assert_eq!(subject, "the engine (process 7) was killed by signal 11 (SIGSEGV)");
        for part in [
            "T1: the engine (process 7) was killed by signal 11 (SIGSEGV)\n",
            "It said: thread queue-log: oops\n",
            "mx postfix/qmgr[7]: A1: removed\n",
            "5 messages are in the queue",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let many = Crashes { count: 60, samples: vec![crash("a"), crash("b"), crash("c")] };
        let (subject, text) = words_of(&many, 0, |_| String::new());
        assert_eq!(subject, "60 crashes, the first: a");
        assert!(text.contains("57 more of them"), "{text}");
        assert_eq!(clipped("a\nb\u{7}").as_str(), "a b ");
        assert_eq!(clipped(&"x".repeat(9000)).len(), WORDS);
    }

    #[test]
    fn words_of_what_was_survived() {
        let bug = |what: &str| Crash { what: what.to_owned(), ..Crash::default() };
        let one = "thread a: panicked at src/x.rs:1:2: oops";
        let (subject, text) = words_of_bugs(&Crashes { count: 1, samples: vec![bug(one)] });
        assert_eq!(subject, format!("a bug was survived: {one}"));
        assert!(text.ends_with(&format!("\n\n{one}\n")), "{text}");
        let samples = vec![bug(one), bug(one), bug("two")];
        let (subject, text) = words_of_bugs(&Crashes { count: 60, samples });
        assert_eq!(subject, "60 bugs were survived");
        assert!(text.ends_with(&format!("\n\n{one}\n\ntwo\n")), "{text}");
    }
}

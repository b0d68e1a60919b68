//! A queue's disk that hangs without an error: it is told once by the second way, and told when it is over. Meanwhile
//! mail is refused for now instead of keeping its senders waiting.
//!
//! The watch has a thread and an event loop of its own: those of the rest may be what hangs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use yamabiko_envelope::{QueueId, Severity, TroubleClass};
use yamabiko_queue::Queue;
use yamabiko_queue::watch::Watch;

use crate::accept::Acceptance;

/// How often the disk's calls are looked at, at most and at least.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);
/// It is over when all has gone well for so long; for `queue_stall_warn_time`, where that is shorter.
const SETTLED: Duration = Duration::from_secs(10);

/// What is known of the disk. One for the life of the engine.
#[derive(Default)]
pub struct Stall {
    /// The disk's calls.
    pub watch: Arc<Watch>,
    hangs: AtomicBool,
    changed: Notify,
    /// Messages that were refused while they were being written: if they are stored after all, they are not kept.
    refused: Mutex<HashSet<QueueId>>,
    queue: OnceLock<Weak<Queue>>,
}

/// Ways the watch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It hangs, since so long.
    Hangs(Duration),
    /// It is over, and lasted so long.
    Over(Duration),
}

/// The state of the watch.
#[derive(Debug, Default)]
struct Seen {
    /// When it began, and when it was last seen hanging.
    hanging: Option<(Instant, Instant)>,
}

impl Seen {
    /// What the oldest call means now. `limit` is not zero.
    fn look(&mut self, oldest: Option<Duration>, limit: Duration, now: Instant) -> Option<News> {
        let hangs = oldest.filter(|oldest| *oldest >= limit);
        match (hangs, self.hanging) {
            (Some(since), None) => {
                self.hanging = Some((now.checked_sub(since).unwrap_or(now), now));
                Some(News::Hangs(since))
            }
            (Some(_), Some((began, _))) => {
                self.hanging = Some((began, now));
                None
            }
            (None, Some((began, last))) if now.duration_since(last) >= SETTLED.min(limit) => {
                self.hanging = None;
                Some(News::Over(last.duration_since(began)))
            }
            (None, _) => None,
        }
    }
}

impl Stall {
    /// The disk hangs: nothing is to be given to it.
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// Ends when the disk hangs.
    pub async fn begins(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.hangs() {
                return;
            }
            changed.await;
        }
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, HashSet<QueueId>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for this message any more: whoever sent it is told to send it again.
    pub fn refuse(&self, id: QueueId) {
        self.refused().insert(id);
    }

    /// It was stored or refused in the last moment: who waits for it hears that.
    pub fn heard(&self, id: QueueId) {
        self.refused().remove(&id);
    }

    /// The end of a message for which nobody waits. True when it had been refused: then it is taken back.
    pub fn take_back(&self, id: QueueId, stored: bool) -> bool {
        let refused = self.refused().remove(&id);
        if refused
            && stored
            && let Some(queue) = self.queue.get().and_then(Weak::upgrade)
        {
            // It fails where the queue has failed, and then it will be sent once more.
            let _ = queue.remove(id);
        }
        refused
    }

    /// Begins to watch.
    pub fn watch_over(self: &Arc<Self>, engine: &Acceptance) -> std::io::Result<()> {
        let _ = self.queue.set(Arc::downgrade(engine.queue()));
        let (stall, engine) = (Arc::clone(self), engine.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || runtime.block_on(stall.look(&engine));
        std::thread::Builder::new().name("disk-watch".into()).spawn(body).map(drop)
    }

    async fn look(&self, engine: &Acceptance) {
        let mut seen = Seen::default();
        loop {
            let limit = engine.current().get().config.main().duration("queue_stall_warn_time");
            tokio::time::sleep((limit / 4).clamp(OFTEN, SELDOM)).await;
            if limit.is_zero() && seen.hanging.is_none() {
                continue;
            }
            let oldest = self.watch.oldest();
            let hangs = !limit.is_zero() && oldest.is_some_and(|oldest| oldest >= limit);
            if self.hangs.swap(hangs, Ordering::Relaxed) != hangs {
                self.changed.notify_waiters();
            }
            let (severity, text) = match seen.look(oldest.filter(|_| hangs), limit, Instant::now()) {
                None => continue,
                Some(News::Hangs(since)) => (
                    Severity::Fatal,
                    format!(
                        "the queue's disk does not answer: a call has not returned for {} s; mail is told to come later",
                        since.as_secs()
                    ),
                ),
                Some(News::Over(lasted)) => (
                    Severity::Warning,
                    format!("the queue's disk answers again, it did not for {} s", lasted.as_secs()),
                ),
            };
            engine.current().say(severity, None, &text);
            let _told = engine.desk().alarm(TroubleClass::Resource, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_when_it_is_over() {
        let limit = Duration::from_secs(30);
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let s = |second| Some(Duration::from_secs(second));
        let mut seen = Seen::default();
        for (now, oldest, expected) in [
            (0, None, None),
            (100, s(29), None),
            (101, s(30), Some(News::Hangs(Duration::from_secs(30)))),
            (102, s(31), None),
            (200, s(129), None),
            // It comes and goes.
            (201, s(1), None),
            (209, None, None),
            (240, s(31), None),
            (241, None, None),
            (249, s(29), None),
            (250, None, Some(News::Over(Duration::from_secs(240 - 71)))),
            (251, None, None),
            (300, s(30), Some(News::Hangs(Duration::from_secs(30)))),
        ] {
            assert_eq!(seen.look(oldest, limit, at(now)), expected, "{now}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_it() {
        let stall = Arc::new(Stall::default());
        let waiting = tokio::spawn({
            let stall = Arc::clone(&stall);
            async move { stall.begins().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && !stall.hangs());
        stall.hangs.store(true, Ordering::Relaxed);
        stall.changed.notify_waiters();
        waiting.await.unwrap();
        stall.begins().await;
        let id = QueueId::new(1, 1);
        stall.refuse(id);
        stall.heard(id);
        assert!(!stall.take_back(id, true));
        stall.refuse(id);
        assert!(stall.take_back(id, true) && !stall.take_back(id, true));
    }
}

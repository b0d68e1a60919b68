//! What a burst of mail has left in memory is given back when the server has come to rest.
//!
//! An allocator keeps what a thread has used for that thread's next request, and a thread that sleeps makes none; what one
//! thread has taken and another one given back, which is the way of everything that goes from a session over the queue to a
//! delivery, stays with the first. So after a burst each thread is asked to give back what is its own. All of that is done
//! when there is nothing else to do, and nothing of it while mail goes through: no request is slower for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use yamabiko_log::Logger;
use yamabiko_sys::memory::{forget_code, give_back, processor_time};

use crate::accept::Acceptance;
use crate::orders::Order;

/// How often it is looked whether there is work, while there is some and while there is none.
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(1);
/// At rest is who uses less than this part of one processor.
const AT_REST: u32 = 25;
/// So much work is worth tidying up after at once, and so little after some time.
const MUCH: Duration = Duration::from_millis(100);
const LITTLE: Duration = Duration::from_millis(20);
const SOME_TIME: Duration = Duration::from_secs(10);
/// Threads that nobody needs end after so long, and with them goes what they hold.
pub const IDLE_THREADS: Duration = Duration::from_secs(1);
/// How long the threads of the runtime wait for one another, at most.
const TOGETHER: Duration = Duration::from_millis(20);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing; look again after this time.
    Again(Duration),
    /// The server has come to rest.
    Tidy,
    /// What ended since then has left something.
    Late,
}

/// Sees from the processor time that is used when there is rest.
#[derive(Debug)]
struct Watch {
    looked: Instant,
    /// Used until then.
    used: Duration,
    /// Used until everything was last tidied up, and when that was; nothing while it never was.
    tidied: Option<(Duration, Instant)>,
    /// When threads have ended that were needed before.
    late: Option<Instant>,
}

impl Watch {
    fn new(used: Duration, now: Instant) -> Self {
        Self { looked: now, used, tidied: None, late: None }
    }

    /// `used`: processor time of the process, ever.
    fn look(&mut self, used: Duration, now: Instant) -> Look {
        let (since, lately) = (now.duration_since(self.looked), used.saturating_sub(self.used));
        (self.looked, self.used) = (now, used);
        if lately > since / AT_REST {
            return Look::Again(OFTEN);
        }
        let enough = self.tidied.is_none_or(|(until, at)| {
            let work = used.saturating_sub(until);
            work >= MUCH || work >= LITTLE && now.duration_since(at) >= SOME_TIME
        });
        if enough {
            return Look::Tidy;
        }
        match self.late {
            Some(at) if at <= now => {
                self.late = None;
                Look::Late
            }
            Some(_) => Look::Again(OFTEN),
            None => Look::Again(SELDOM),
        }
    }

    /// It was done, and has itself used time.
    fn tidied(&mut self, used: Duration, now: Instant) {
        (self.looked, self.used) = (now, used);
        self.tidied = Some((used, now));
        self.late = Some(now + 2 * IDLE_THREADS);
    }
}

/// Keeps the engine tidy. For the thread that is not one of the runtime's: it has started everything, and owns what was made
/// then.
pub async fn keep(engine: &Acceptance, logger: &Arc<Logger>) {
    // Without a clock nothing is tidied.
    let Ok(used) = processor_time() else { return std::future::pending().await };
    let mut watch = Watch::new(used, Instant::now());
    let mut wait = SELDOM;
    loop {
        tokio::time::sleep(wait).await;
        let Ok(used) = processor_time() else { continue };
        wait = match watch.look(used, Instant::now()) {
            Look::Again(wait) => wait,
            Look::Tidy => {
                tidy(engine, logger).await;
                watch.tidied(processor_time().unwrap_or(used), Instant::now());
                OFTEN
            }
            Look::Late => {
                give_back();
                SELDOM
            }
        };
    }
}

async fn tidy(engine: &Acceptance, logger: &Arc<Logger>) {
    engine.manager().send(Order::Tidy);
    engine.queue().tidy(give_back);
    logger.tidy(give_back);
    engine.current().remembered().tidy(give_back);
    each_thread(give_back).await;
    // Nobody can do anything about it, and nothing is lost but tidiness.
    let _ = forget_code();
    // Last: with its own it gives back what the others have let go of.
    give_back();
}

/// Has every thread of the runtime do something. Each waits for the others for a moment: one that is not there by then is
/// busy, and has no need of it.
async fn each_thread(errand: fn()) {
    let count = tokio::runtime::Handle::current().metrics().num_workers();
    let met = Arc::new((Mutex::new(0), Condvar::new()));
    let there = (0..count).map(|_| {
        let met = Arc::clone(&met);
        tokio::spawn(async move {
            let (there, all) = &*met;
            let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
            *there += 1;
            all.notify_all();
            // While it waits this thread does nothing else, so that the next of these is done by another one.
            drop(all.wait_timeout_while(there, TOGETHER, |there| *there < count));
            errand();
        })
    });
    for one in there.collect::<Vec<_>>() {
        // It does not fail; and if it did, nothing is lost.
        let _ = one.await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::ThreadId;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn after_much_work_at_once_after_little_later_without_any_never() {
        let begin = Instant::now();
        let (mut now, mut used) = (begin, 5 * MILLI);
        let mut watch = Watch::new(used, now);
        let mut step = |watch: &mut Watch, wait: Duration, work: Duration| {
            now += wait;
            used += work;
            let look = watch.look(used, now);
            if look == Look::Tidy {
                used += 3 * MILLI;
                watch.tidied(used, now);
            }
            look
        };
        // It has started.
        assert_eq!(step(&mut watch, SELDOM, 300 * MILLI), Look::Again(OFTEN));
        assert_eq!(step(&mut watch, OFTEN, MILLI), Look::Tidy);
        while step(&mut watch, OFTEN, MILLI / 10) != Look::Late {}
        // A server without mail.
        for _ in 0..100 {
            assert_eq!(step(&mut watch, SELDOM, MILLI / 10), Look::Again(SELDOM));
        }
        // A burst, and its end.
        for _ in 0..100 {
            assert_eq!(step(&mut watch, OFTEN, 100 * MILLI), Look::Again(OFTEN));
        }
        assert_eq!(step(&mut watch, OFTEN, 9 * MILLI), Look::Tidy);
        let mut looks = Vec::new();
        while step(&mut watch, OFTEN, MILLI / 10) == Look::Again(OFTEN) {
            looks.push(());
        }
        // Late, when threads have ended; once.
        assert_eq!(looks.len(), 7);
        for _ in 0..100 {
            assert_eq!(step(&mut watch, SELDOM, MILLI / 10), Look::Again(SELDOM));
        }
        // A mail now and then: not after each.
        let tidied = (0..600).filter(|_| step(&mut watch, SELDOM, MILLI) == Look::Tidy).count();
        assert!((20..=35).contains(&tidied), "{tidied}");
    }

    #[test]
    fn every_thread_of_the_runtime_does_it() {
        static SEEN: Mutex<Option<HashSet<ThreadId>>> = Mutex::new(None);
        fn seen() {
            SEEN.lock().unwrap().get_or_insert_default().insert(std::thread::current().id());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        // A machine that is busy may keep one of them from being there in time.
        for _ in 0..100 {
            runtime.block_on(each_thread(seen));
            if SEEN.lock().unwrap().as_ref().is_some_and(|seen| seen.len() == 4) {
                return;
            }
        }
        panic!("{:?}", SEEN.lock().unwrap());
    }
}

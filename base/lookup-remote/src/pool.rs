//! Connections to the servers of one table: how many there are, which server is down, who is asked.
//!
//! Servers over UNIX sockets are tried before those over TCP, otherwise in an order that changes. A server that fails is
//! left alone for a second, then two, then four, up to the limit; when none is left, lookups fail at once.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections of one table.
const MOST: usize = 8;

/// What a conversation gave.
pub(crate) enum Trouble {
    /// The connection is of no use any more; another may do.
    Lost(String),
    /// The server answers, but not this question.
    Refused(String),
}

/// A kind of server.
pub(crate) trait Backend: Send + Sync + 'static {
    /// A connection.
    type Link: Send + 'static;
    /// A question.
    type Question: Send + Sync + 'static;
    /// An answer.
    type Reply: Send + 'static;
    /// How many servers there are.
    fn servers(&self) -> usize;
    /// What a server is called in messages; no password in it.
    fn shown(&self, server: usize) -> String;
    /// Reached over a UNIX socket.
    fn is_local(&self, server: usize) -> bool;
    /// Connects and authenticates.
    fn connect(&self, server: usize) -> impl Future<Output = Result<Self::Link, String>> + Send;
    /// Asks.
    fn ask(
        &self,
        link: &mut Self::Link,
        question: &Self::Question,
    ) -> impl Future<Output = Result<Self::Reply, Trouble>> + Send;
}

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a connection to be ready.
    pub(crate) connect: Duration,
    /// For a question.
    pub(crate) ask: Duration,
    /// After it a connection that is not used is closed.
    pub(crate) idle: Duration,
    /// The longest that a server is left alone.
    pub(crate) retry: Duration,
}

#[derive(Clone, Default)]
struct Health {
    failures: u32,
    until: Option<Instant>,
    why: String,
}

struct Kept<L> {
    server: usize,
    link: L,
    since: Instant,
}

struct Inner<B: Backend> {
    backend: B,
    limits: Limits,
    permits: Semaphore,
    kept: Mutex<VecDeque<Kept<B::Link>>>,
    health: Mutex<Vec<Health>>,
    turn: AtomicUsize,
    warn: Box<dyn Fn(String) + Send + Sync>,
}

/// The connections of one table. Cloning shares.
pub(crate) struct Pool<B: Backend>(Arc<Inner<B>>);

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        // Clients may say goodbye when they are dropped, which wants their event loop.
        let _inside = crate::runtime().ok().map(|runtime| runtime.enter());
        self.kept.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Pool<B> {
    /// No connection is made yet. `warn` is told when a server fails.
    pub(crate) fn new(backend: B, limits: Limits, warn: Box<dyn Fn(String) + Send + Sync>) -> Self {
        let health = Mutex::new(vec![Health::default(); backend.servers()]);
        // Another start for each process: they should not all go to the same server.
        let turn = AtomicUsize::new(std::process::id() as usize);
        let (permits, kept) = (Semaphore::new(MOST), Mutex::default());
        Self(Arc::new(Inner { backend, limits, permits, kept, health, turn, warn }))
    }

    /// The servers that may be asked now, in order.
    fn order(&self) -> Vec<usize> {
        let inner = &self.0;
        let count = inner.backend.servers();
        let start = inner.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let health = lock(&inner.health);
        let usable = (0..count).map(|step| start.wrapping_add(step) % count);
        let mut order: Vec<usize> = usable
            .filter(|server| health.get(*server).is_none_or(|health| health.until.is_none_or(|until| until <= now)))
            .collect();
        // Servers that failed last come last.
        order.sort_by_key(|server| {
            (health.get(*server).map_or(0, |health| health.failures.min(1)), !inner.backend.is_local(*server))
        });
        order
    }

    fn down(&self, server: usize, why: &str) {
        let mut all = lock(&self.0.health);
        let Some(health) = all.get_mut(server) else { return };
        let pause = Duration::from_secs(1 << health.failures.min(16)).min(self.0.limits.retry);
        health.failures = health.failures.saturating_add(1);
        health.until = Instant::now().checked_add(pause);
        why.clone_into(&mut health.why);
        drop(all);
        (self.0.warn)(format!("server {}: {why}", self.0.backend.shown(server)));
    }

    fn up(&self, server: usize) {
        if let Some(health) = lock(&self.0.health).get_mut(server) {
            *health = Health::default();
        }
    }

    fn keep(&self, server: usize, link: B::Link) {
        let mut kept = lock(&self.0.kept);
        let first = kept.is_empty();
        kept.push_back(Kept { server, link, since: Instant::now() });
        drop(kept);
        if first {
            self.reap();
        }
    }

    /// Closes connections that nobody uses, as long as there are any.
    fn reap(&self) {
        let (weak, idle) = (Arc::downgrade(&self.0), self.0.limits.idle);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(idle).await;
                let Some(inner) = weak.upgrade() else { return };
                let mut kept = lock(&inner.kept);
                kept.retain(|link| link.since.elapsed() < idle);
                if kept.is_empty() {
                    return;
                }
            }
        });
    }

    async fn try_link(&self, link: &mut B::Link, question: &B::Question) -> Result<B::Reply, Trouble> {
        let limit = self.0.limits.ask;
        match timeout(limit, self.0.backend.ask(link, question)).await {
            Ok(result) => result,
            // What is still on its way would be taken for the answer to the next question.
            Err(_) => Err(Trouble::Lost(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Asks one of the servers. Must be called inside a runtime of tokio.
    pub(crate) async fn ask(&self, question: &B::Question) -> Result<B::Reply, String> {
        let inner = &self.0;
        let wait = inner.limits.connect.saturating_add(inner.limits.ask);
        let Ok(Ok(_permit)) = timeout(wait, inner.permits.acquire()).await else {
            return Err(format!("all {MOST} connections were busy for {} s", wait.as_secs()));
        };
        // A connection that was kept may have been closed by its server meanwhile: that is no failure.
        loop {
            let kept = lock(&inner.kept).pop_back();
            let Some(Kept { server, mut link, since }) = kept else { break };
            if since.elapsed() >= inner.limits.idle {
                continue;
            }
            match self.try_link(&mut link, question).await {
                Ok(reply) => {
                    self.keep(server, link);
                    return Ok(reply);
                }
                Err(Trouble::Refused(why)) => {
                    self.keep(server, link);
                    return Err(why);
                }
                Err(Trouble::Lost(_)) => {}
            }
        }
        let mut last = None;
        for server in self.order() {
            let connected = timeout(inner.limits.connect, inner.backend.connect(server)).await;
            let mut link = match connected {
                Ok(Ok(link)) => link,
                Ok(Err(why)) => {
                    self.down(server, &why);
                    last = Some(why);
                    continue;
                }
                Err(_) => {
                    let why = format!("no connection within {} s", inner.limits.connect.as_secs());
                    self.down(server, &why);
                    last = Some(why);
                    continue;
                }
            };
            match self.try_link(&mut link, question).await {
                Ok(reply) => {
                    self.up(server);
                    self.keep(server, link);
                    return Ok(reply);
                }
                Err(Trouble::Refused(why)) => {
                    self.up(server);
                    self.keep(server, link);
                    return Err(why);
                }
                Err(Trouble::Lost(why)) => {
                    self.down(server, &why);
                    last = Some(why);
                }
            }
        }
        let earlier = || lock(&inner.health).iter().map(|health| health.why.clone()).find(|why| !why.is_empty());
        let why = last.or_else(earlier).unwrap_or_default();
        Err(format!("no server can be used now: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Two servers; the first is down while `broken`.
    struct Two {
        broken: Arc<AtomicBool>,
        connections: Arc<AtomicUsize>,
    }

    impl Backend for Two {
        type Link = usize;
        type Question = &'static str;
        type Reply = usize;
        fn servers(&self) -> usize {
            2
        }
        fn shown(&self, server: usize) -> String {
            format!("s{server}")
        }
        fn is_local(&self, server: usize) -> bool {
            server == 0
        }
        async fn connect(&self, server: usize) -> Result<usize, String> {
            self.connections.fetch_add(1, Ordering::Relaxed);
            if server == 0 && self.broken.load(Ordering::Relaxed) { Err("refused".to_owned()) } else { Ok(server) }
        }
        async fn ask(&self, link: &mut usize, question: &&'static str) -> Result<usize, Trouble> {
            match *question {
                "bad" => Err(Trouble::Refused("syntax".to_owned())),
                "slow" => std::future::pending().await,
                "lost" => Err(Trouble::Lost("gone".to_owned())),
                _ if *link == 0 && self.broken.load(Ordering::Relaxed) => Err(Trouble::Lost("gone".to_owned())),
                _ => Ok(*link),
            }
        }
    }

    #[test]
    fn fail_over_and_back() {
        let (broken, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let second = Duration::from_millis(300);
        let limits = Limits { connect: second, ask: second, idle: Duration::from_secs(60), retry: second };
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = Arc::clone(&said);
        let backend = Two { broken: Arc::clone(&broken), connections: Arc::clone(&connections) };
        let pool = Pool::new(backend, limits, Box::new(move |text| lock(&hear).push(text)));
        crate::runtime().unwrap().block_on(async {
            // The local one first, and its connection again.
            assert_eq!(pool.ask(&"x").await, Ok(0));
            assert_eq!(pool.ask(&"x").await, Ok(0));
            assert_eq!(connections.load(Ordering::Relaxed), 1);
            // A question that is refused does not make a server bad.
            assert_eq!(pool.ask(&"bad").await, Err("syntax".to_owned()));
            assert_eq!(pool.ask(&"x").await, Ok(0));
            assert_eq!(connections.load(Ordering::Relaxed), 1);
            // Gone: the other one answers, and the first is left alone for a while.
            broken.store(true, Ordering::Relaxed);
            assert_eq!(pool.ask(&"x").await, Ok(1));
            assert_eq!(*lock(&said), ["server s0: refused"]);
            assert_eq!(pool.ask(&"x").await, Ok(1));
            // Nobody answers: an error, and at once the next time.
            assert!(pool.ask(&"slow").await.is_err());
            let before = connections.load(Ordering::Relaxed);
            assert!(pool.ask(&"x").await.unwrap_err().contains("no server can be used now"));
            assert_eq!(connections.load(Ordering::Relaxed), before);
            // Back after the pause.
            broken.store(false, Ordering::Relaxed);
            tokio::time::sleep(second * 2).await;
            assert_eq!(pool.ask(&"x").await, Ok(0));
        });
    }
}

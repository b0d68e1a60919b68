//! Connections that wait for the next message.
//!
//! A connection is kept under its endpoint (host, address, port). Besides, a destination remembers the endpoint that
//! last took its mail, so that the next message need not go by the hosts that did not answer. What has been idle for
//! too long is closed, as Postfix does, without a word; but where sessions are counted the server is told and its end is
//! waited for, and a new session waits for that too ([`Pool::none_leaves`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::connection::Connection;
use crate::conversation::Peer;
use crate::policy::Terms;

#[derive(Default)]
struct Idle {
    by_endpoint: HashMap<String, Vec<Kept>>,
    by_destination: HashMap<String, (Instant, Peer)>,
    /// Connections to receiving sites that are being closed.
    leaving: HashMap<Arc<str>, usize>,
    sweeping: bool,
}

/// How long a session counts that the other side does not close.
const LINGER: Duration = Duration::from_secs(10);

struct Kept {
    end: Instant,
    connection: Connection,
    /// The receiving site, where sessions are counted.
    receiver: Option<Arc<str>>,
}

/// The idle connections of one transport.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    limit: Duration,
    /// Rings when a connection has been closed.
    bell: Notify,
    source: Source,
}

/// `smtp_bind_address` and `smtp_bind_address6`: receiving sites count sessions by where they come from.
pub(crate) type Source = (Option<IpAddr>, Option<IpAddr>);

/// The pools of all transports, those of configurations before the last reload among them.
#[derive(Default)]
pub(crate) struct Pools(Mutex<Vec<Weak<Pool>>>);

impl Pools {
    /// One more. Those that are gone are forgotten.
    pub fn join(&self, pool: &Arc<Pool>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(pool));
    }

    /// Those whose connections come from where this one's do.
    pub fn beside(&self, pool: &Pool) -> Vec<Arc<Pool>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).filter(|known| known.source == pool.source).collect()
    }
}

/// A connection to a receiving site that is being closed; it counts until this is dropped.
pub(crate) struct Leaving {
    pool: Arc<Pool>,
    receiver: Arc<str>,
    connection: Connection,
}

impl Leaving {
    /// Says so, and sees the other side close.
    async fn say_farewell(mut self) {
        self.connection.socket.farewell(LINGER).await;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut idle = self.pool.lock();
        if let Some(count) = idle.leaving.get_mut(&self.receiver) {
            *count -= 1;
            if *count == 0 {
                idle.leaving.remove(&self.receiver);
            }
        }
        drop(idle);
        self.pool.bell.notify_waiters();
    }
}

/// The name of an endpoint.
pub(crate) fn endpoint(peer: &Peer) -> String {
    format!("{}[{}]:{}", peer.host, peer.address, peer.port)
}

impl Pool {
    /// Keeps connections from that source for so long.
    pub fn new(limit: Duration, source: Source) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limit, bell: Notify::new(), source })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection to this endpoint that was made under terms like these.
    pub fn take(&self, endpoint: &str, terms: &Terms) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.lock();
        let list = idle.by_endpoint.get_mut(endpoint)?;
        // The youngest is the likeliest to be alive.
        let at = list.iter().rposition(|kept| kept.end > now && kept.connection.session.terms.are_as(terms));
        let found = at.map(|at| list.remove(at).connection);
        if list.is_empty() {
            idle.by_endpoint.remove(endpoint);
        }
        found
    }

    /// Ends all idle sessions with a receiving site. They count until the other side has closed them.
    pub fn end_all(self: &Arc<Self>, receiver: &str) {
        let mut found = Vec::new();
        let mut idle = self.lock();
        idle.by_endpoint.retain(|_, list| {
            found.extend(list.extract_if(.., |kept| kept.receiver.as_deref() == Some(receiver)));
            !list.is_empty()
        });
        for one in self.leave(&mut idle, found) {
            tokio::spawn(one.say_farewell());
        }
    }

    /// These are being closed from now on. Those of no receiving site are closed at once.
    fn leave(self: &Arc<Self>, idle: &mut Idle, kept: Vec<Kept>) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        for Kept { connection, receiver, .. } in kept {
            let Some(receiver) = receiver else { continue };
            *idle.leaving.entry(Arc::clone(&receiver)).or_default() += 1;
            leaving.push(Leaving { pool: Arc::clone(self), receiver, connection });
        }
        leaving
    }

    /// A session with a receiving site is over for us, but the other side has not closed it: it counts for a while yet.
    pub fn linger(self: &Arc<Self>, connection: Connection, receiver: &Arc<str>) {
        let kept = Kept { end: Instant::now(), connection, receiver: Some(Arc::clone(receiver)) };
        let leaving = self.leave(&mut self.lock(), vec![kept]);
        tokio::spawn(async move {
            for mut one in leaving {
                one.connection.socket.ended(LINGER).await;
            }
        });
    }

    /// Waits until no connection to a receiving site is being closed. Each takes a few seconds at most.
    pub async fn none_leaves(&self, receiver: &str) {
        loop {
            let bell = self.bell.notified();
            if !self.lock().leaving.contains_key(receiver) {
                return;
            }
            bell.await;
        }
    }

    /// There may be a connection to this endpoint.
    pub fn has(&self, endpoint: &str) -> bool {
        self.lock().by_endpoint.contains_key(endpoint)
    }

    /// Who last took mail for this destination.
    pub fn last_for(&self, destination: &str) -> Option<Peer> {
        let idle = self.lock();
        let (end, peer) = idle.by_destination.get(destination)?;
        (*end > Instant::now()).then(|| peer.clone())
    }

    /// Keeps a connection; for this destination, when it is the first good one of a delivery.
    pub fn put(self: &Arc<Self>, connection: Connection, destination: Option<&str>, receiver: Option<&Arc<str>>) {
        let end = Instant::now() + self.limit;
        let name = endpoint(&connection.session.peer);
        let mut idle = self.lock();
        if let Some(destination) = destination {
            idle.by_destination.insert(destination.to_owned(), (end, connection.session.peer.clone()));
        }
        idle.by_endpoint.entry(name).or_default().push(Kept { end, connection, receiver: receiver.cloned() });
        if !idle.sweeping {
            idle.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.limit));
        }
    }

    /// Removes what is too old. False when nothing is left.
    fn prune(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.by_destination.retain(|_, (end, _)| *end > now);
        let mut old = Vec::new();
        idle.by_endpoint.retain(|_, list| {
            old.extend(list.extract_if(.., |kept| kept.end <= now));
            !list.is_empty()
        });
        for one in self.leave(&mut idle, old) {
            tokio::spawn(one.say_farewell());
        }
        let left = !idle.by_endpoint.is_empty() || !idle.by_destination.is_empty();
        idle.sweeping = left;
        left
    }
}

async fn sweep(pool: Weak<Pool>, limit: Duration) {
    let pause = (limit / 2).clamp(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        sleep(pause).await;
        match pool.upgrade() {
            Some(pool) if pool.prune() => {}
            _ => return,
        }
    }
}

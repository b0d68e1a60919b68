//! Connections that wait for the next message.
//!
//! A connection is kept under its endpoint (host, address, port). Besides, a destination remembers the endpoint that
//! last took its mail, so that the next message need not go by the hosts that did not answer. What has been idle for
//! too long is closed, as Postfix does, without a word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::connection::Connection;
use crate::conversation::Peer;
use crate::policy::Terms;

#[derive(Default)]
struct Idle {
    by_endpoint: HashMap<String, Vec<Kept>>,
    by_destination: HashMap<String, (Instant, Peer)>,
    sweeping: bool,
}

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
}

/// The name of an endpoint.
pub(crate) fn endpoint(peer: &Peer) -> String {
    format!("{}[{}]:{}", peer.host, peer.address, peer.port)
}

impl Pool {
    /// Keeps connections for so long.
    pub fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limit })
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

    /// Takes all connections to a receiving site.
    pub fn take_all(&self, receiver: &str) -> Vec<Connection> {
        let mut found = Vec::new();
        let mut idle = self.lock();
        idle.by_endpoint.retain(|_, list| {
            let its = |kept: &mut Kept| kept.receiver.as_deref() == Some(receiver);
            found.extend(list.extract_if(.., its).map(|kept| kept.connection));
            !list.is_empty()
        });
        found
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
    fn prune(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.by_destination.retain(|_, (end, _)| *end > now);
        idle.by_endpoint.retain(|_, list| {
            list.retain(|kept| kept.end > now);
            !list.is_empty()
        });
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

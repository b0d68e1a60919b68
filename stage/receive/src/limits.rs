//! Counters per service and client address: connections open, and connections, messages, recipients in the current
//! interval of `anvil_rate_time_unit` (Postfix: anvil(8)).
//!
//! The table is sharded, so that sessions of different clients seldom meet at a lock, and swept, so that it holds no
//! more clients than were seen within the last interval or are still connected. The greatest values since the last
//! report are kept for the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yamabiko_envelope::Timestamp;

const SHARDS: usize = 16;
/// A shard is swept when it has grown by this many clients since it was last swept.
const SWEEP_EVERY: usize = 256;

type Key = (Arc<str>, IpAddr);

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    open: u32,
    started: Timestamp,
    connections: u32,
    messages: u32,
    recipients: u32,
    new_tls: u32,
    auth: u32,
}

impl Counters {
    fn settle(&mut self, now: Timestamp, unit: Duration) {
        if now.since(self.started) > unit {
            *self = Self { open: self.open, started: now, ..Self::default() };
        }
    }
}

#[derive(Default)]
struct Shard {
    clients: HashMap<Key, Counters>,
    swept_at: usize,
}

/// A greatest value for the report: which service and client, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peak {
    /// How many.
    pub value: u32,
    /// `service:address`
    pub who: String,
    /// When.
    pub at: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct Peaks {
    connection_rate: Option<Peak>,
    connection_count: Option<Peak>,
    message_rate: Option<Peak>,
    recipient_rate: Option<Peak>,
    new_tls_rate: Option<Peak>,
    auth_rate: Option<Peak>,
    cache_size: Option<(usize, Timestamp)>,
}

/// The counters of all services.
pub struct Limits {
    unit: Duration,
    shards: [Mutex<Shard>; SHARDS],
    size: AtomicUsize,
    open: AtomicUsize,
    last_seen: AtomicU64,
    peaks: Mutex<Peaks>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters are right whatever a thread was doing with others when it panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// MAIL commands.
    Messages,
    /// RCPT commands.
    Recipients,
    /// Handshakes that did not resume an earlier session.
    NewTls,
    /// AUTH commands.
    Auth,
}

impl Limits {
    /// Empty counters; rates are per `unit` (`anvil_rate_time_unit`).
    pub fn new(unit: Duration) -> Arc<Self> {
        Arc::new(Self {
            unit,
            shards: Default::default(),
            size: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            last_seen: AtomicU64::new(0),
            peaks: Mutex::default(),
        })
    }

    fn shard(&self, address: IpAddr) -> &Mutex<Shard> {
        let mix = match address {
            IpAddr::V4(a) => u64::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a) as u64 ^ (u128::from(a) >> 64) as u64,
        };
        // The remainder is below SHARDS.
        &self.shards[(mix.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % SHARDS]
    }

    /// A connection begins: how many are open now, this one included, and how many began in this interval. The ticket
    /// ends it when it is dropped.
    pub fn connect(self: &Arc<Self>, service: &Arc<str>, address: IpAddr, now: Timestamp) -> (Ticket, u32, u32) {
        let mut shard = lock(self.shard(address));
        let key = (Arc::clone(service), address);
        let before = shard.clients.len();
        if before >= shard.swept_at + SWEEP_EVERY {
            let unit = self.unit;
            shard.clients.retain(|_, c| c.open > 0 || now.since(c.started) <= unit);
            shard.swept_at = shard.clients.len();
        }
        let counters = shard.clients.entry(key).or_insert_with(|| Counters { started: now, ..Counters::default() });
        counters.settle(now, self.unit);
        counters.open += 1;
        counters.connections += 1;
        let (open, rate) = (counters.open, counters.connections);
        let after = shard.clients.len();
        drop(shard);
        let size = if after >= before {
            self.size.fetch_add(after - before, Ordering::Relaxed) + after - before
        } else {
            self.size.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        };
        let mut peaks = lock(&self.peaks);
        let who = || format!("{service}:{address}");
        raise(&mut peaks.connection_count, open, now, who);
        raise(&mut peaks.connection_rate, rate, now, who);
        if peaks.cache_size.is_none_or(|(n, _)| size > n) {
            peaks.cache_size = Some((size, now));
        }
        drop(peaks);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_seen.fetch_max(now.0, Ordering::Relaxed);
        (Ticket { limits: Arc::clone(self), service: Arc::clone(service), address }, open, rate)
    }

    /// One more of these in this interval; returns how many.
    pub fn count(&self, what: Counted, service: &Arc<str>, address: IpAddr, now: Timestamp) -> u32 {
        let mut shard = lock(self.shard(address));
        let key = (Arc::clone(service), address);
        let counters = shard.clients.entry(key).or_insert_with(|| Counters { started: now, ..Counters::default() });
        counters.settle(now, self.unit);
        let counter = match what {
            Counted::Messages => &mut counters.messages,
            Counted::Recipients => &mut counters.recipients,
            Counted::NewTls => &mut counters.new_tls,
            Counted::Auth => &mut counters.auth,
        };
        *counter += 1;
        let value = *counter;
        drop(shard);
        let mut peaks = lock(&self.peaks);
        let who = || format!("{service}:{address}");
        match what {
            Counted::Messages => raise(&mut peaks.message_rate, value, now, who),
            Counted::Recipients => raise(&mut peaks.recipient_rate, value, now, who),
            Counted::NewTls => raise(&mut peaks.new_tls_rate, value, now, who),
            Counted::Auth => raise(&mut peaks.auth_rate, value, now, who),
        }
        value
    }

    /// How many in this interval so far.
    pub fn current(&self, what: Counted, service: &Arc<str>, address: IpAddr, now: Timestamp) -> u32 {
        let mut shard = lock(self.shard(address));
        let Some(counters) = shard.clients.get_mut(&(Arc::clone(service), address)) else { return 0 };
        counters.settle(now, self.unit);
        match what {
            Counted::Messages => counters.messages,
            Counted::Recipients => counters.recipients,
            Counted::NewTls => counters.new_tls,
            Counted::Auth => counters.auth,
        }
    }

    /// No client is connected, and the last one came before `since`: anvil would have ended and reported.
    pub fn idle_since(&self, since: Timestamp) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.last_seen.load(Ordering::Relaxed) <= since.0
    }

    /// The lines of anvil's report since the last one, each with the time of the greatest value, which the log writes
    /// after ` at `. Empty when there were no connections.
    pub fn report(&self) -> Vec<(String, Timestamp)> {
        let peaks = std::mem::take(&mut *lock(&self.peaks));
        let unit = format!("{}s", self.unit.as_secs());
        let mut lines = Vec::new();
        let rates = [
            ("connection rate", peaks.connection_rate, Some(&unit)),
            ("connection count", peaks.connection_count, None),
            ("message rate", peaks.message_rate, Some(&unit)),
            ("recipient rate", peaks.recipient_rate, Some(&unit)),
            ("newtls rate", peaks.new_tls_rate, Some(&unit)),
            ("auth rate", peaks.auth_rate, Some(&unit)),
        ];
        for (what, peak, unit) in rates {
            let Some(peak) = peak else { continue };
            let per = unit.map(|unit| format!("/{unit}")).unwrap_or_default();
            lines.push((format!("statistics: max {what} {}{per} for ({})", peak.value, peak.who), peak.at));
        }
        if let Some((size, at)) = peaks.cache_size {
            lines.push((format!("statistics: max cache size {size}"), at));
        }
        lines
    }
}

fn raise(peak: &mut Option<Peak>, value: u32, at: Timestamp, who: impl FnOnce() -> String) {
    if peak.as_ref().is_none_or(|p| value > p.value) {
        *peak = Some(Peak { value, who: who(), at });
    }
}

/// An open connection in the counters.
pub struct Ticket {
    limits: Arc<Limits>,
    service: Arc<str>,
    address: IpAddr,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        let mut shard = lock(self.limits.shard(self.address));
        if let Some(counters) = shard.clients.get_mut(&(Arc::clone(&self.service), self.address)) {
            counters.open = counters.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1000 + seconds)
    }

    #[test]
    fn connections_are_counted_and_released() {
        let limits = Limits::new(UNIT);
        let service: Arc<str> = "smtp".into();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (one, open, rate) = limits.connect(&service, a, at(0));
        assert_eq!((open, rate), (1, 1));
        let (_two, open, rate) = limits.connect(&service, a, at(1));
        assert_eq!((open, rate), (2, 2));
        drop(one);
        let (_three, open, rate) = limits.connect(&service, a, at(2));
        assert_eq!((open, rate), (2, 3));
        assert_eq!(limits.connect(&service, b, at(2)).1, 1);
        assert_eq!(limits.connect(&"other".into(), a, at(2)).1, 1);
        // A new interval: the rate begins again, what is open stays.
        let (_four, open, rate) = limits.connect(&service, a, at(90));
        assert_eq!((open, rate), (3, 1));
        let report: Vec<_> = limits.report().into_iter().map(|(line, _)| line).collect();
        assert_eq!(
            report,
            [
                "statistics: max connection rate 3/60s for (smtp:192.0.2.1)",
                "statistics: max connection count 3 for (smtp:192.0.2.1)",
                "statistics: max cache size 3",
            ]
        );
        assert!(limits.report().is_empty());
    }

    #[test]
    fn rates_start_again_after_the_unit() {
        let limits = Limits::new(UNIT);
        let service: Arc<str> = "smtp".into();
        let a = IpAddr::from([192, 0, 2, 1]);
        for n in 1..=3 {
            assert_eq!(limits.count(Counted::Messages, &service, a, at(0)), n);
        }
        assert_eq!(limits.count(Counted::Recipients, &service, a, at(0)), 1);
        assert_eq!(limits.count(Counted::Messages, &service, a, at(61)), 1);
    }

    #[test]
    fn the_table_does_not_grow_without_bound() {
        let limits = Limits::new(UNIT);
        let service: Arc<str> = "smtp".into();
        for n in 0..200_000u32 {
            drop(limits.connect(&service, IpAddr::from(n.to_be_bytes()), at(u64::from(n) / 100)));
        }
        let kept: usize = limits.shards.iter().map(|s| lock(s).clients.len()).sum();
        assert!(kept < 20_000, "{kept}");
    }
}

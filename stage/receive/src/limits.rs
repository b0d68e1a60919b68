//! Counters per service and client: connections open, and connections, messages, recipients, logins and new TLS sessions
//! in the current interval of `anvil_rate_time_unit` (Postfix: anvil(8)).
//!
//! A client is a [`Range`]: an address, or the network that stands for it (`smtpd_client_ipv6_prefix_length`). The table
//! is sharded, so that sessions of different clients seldom meet at a lock, and swept, so that it holds no more clients
//! than were seen within the last interval or are still connected, and never more than [`MOST_CLIENTS`] that are not
//! connected. The greatest values since the last report are kept for the log.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yamabiko_envelope::Timestamp;

const SHARDS: usize = 16;
/// A shard is swept when it has grown by this many clients since it was last swept.
const SWEEP_EVERY: usize = 256;
/// Clients that are not connected are forgotten beyond this many, those with the least to their account first.
pub const MOST_CLIENTS: usize = 131_072;

/// A client as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    address: IpAddr,
    bits: u8,
}

impl Range {
    /// The network of so many bits that `address` is in.
    pub fn new(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let bits = ipv4_bits.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Self { address: Ipv4Addr::from(u32::from(address) & mask).into(), bits }
            }
            IpAddr::V6(address) => {
                let bits = ipv6_bits.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Self { address: Ipv6Addr::from(u128::from(address) & mask).into(), bits }
            }
        }
    }
}

impl From<IpAddr> for Range {
    fn from(address: IpAddr) -> Self {
        Self::new(address, 32, 128)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == whole { Ok(()) } else { write!(f, "/{}", self.bits) }
    }
}

type Key = (Arc<str>, Range);

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    open: u32,
    started: Timestamp,
    connections: u32,
    counted: [u32; KINDS],
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

impl Shard {
    /// Makes room: what an interval has passed for is forgotten, and when that is not enough, those who did least.
    fn sweep(&mut self, now: Timestamp, unit: Duration) {
        let clients = &mut self.clients;
        if clients.len() >= self.swept_at + SWEEP_EVERY {
            clients.retain(|_, c| c.open > 0 || now.since(c.started) <= unit);
            for least in [2, u32::MAX] {
                if clients.len() >= MOST_CLIENTS / SHARDS {
                    clients.retain(|_, c| c.open > 0 || c.connections >= least);
                }
            }
            self.swept_at = clients.len();
        }
    }
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
    counted: [Option<Peak>; KINDS],
    cache_size: Option<(usize, Timestamp)>,
}

/// The counters of all services.
pub struct Limits {
    /// `anvil_rate_time_unit`, `anvil_status_update_time` and `max_idle`, in microseconds.
    unit: AtomicU64,
    update: AtomicU64,
    max_idle: AtomicU64,
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What is counted besides connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// MAIL commands.
    Messages,
    /// RCPT commands.
    Recipients,
    /// TLS sessions that were not resumed.
    NewTls,
    /// AUTH commands.
    Auth,
}

const KINDS: usize = 4;
/// In the order of [`Counted`], which is that of anvil's report.
const NAMES: [&str; KINDS] = ["message rate", "recipient rate", "newtls rate", "auth rate"];

impl Limits {
    /// Empty counters; rates are per `unit` (`anvil_rate_time_unit`).
    pub fn new(unit: Duration) -> Arc<Self> {
        Arc::new(Self {
            unit: AtomicU64::new(micros(unit)),
            update: AtomicU64::new(micros(Duration::from_secs(600))),
            max_idle: AtomicU64::new(micros(Duration::from_secs(100))),
            shards: Default::default(),
            size: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            last_seen: AtomicU64::new(0),
            peaks: Mutex::default(),
        })
    }

    /// The times of a new configuration: `anvil_rate_time_unit`, `anvil_status_update_time`, and `max_idle` as the
    /// service anvil has it.
    pub fn configure(&self, unit: Duration, update: Duration, max_idle: Duration) {
        self.unit.store(micros(unit), Ordering::Relaxed);
        self.update.store(micros(update), Ordering::Relaxed);
        self.max_idle.store(micros(max_idle), Ordering::Relaxed);
    }

    fn unit(&self) -> Duration {
        Duration::from_micros(self.unit.load(Ordering::Relaxed))
    }

    /// How often a report is due, and after how much idleness.
    pub fn intervals(&self) -> (Duration, Duration) {
        let read = |value: &AtomicU64| Duration::from_micros(value.load(Ordering::Relaxed));
        (read(&self.update), read(&self.max_idle))
    }

    fn shard(&self, range: Range) -> &Mutex<Shard> {
        let mix = match range.address {
            IpAddr::V4(a) => u64::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a) as u64 ^ (u128::from(a) >> 64) as u64,
        };
        // The remainder is below SHARDS.
        &self.shards[(mix.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % SHARDS]
    }

    /// A connection begins: how many are open now, this one included, and how many began in this interval. The ticket
    /// ends it when it is dropped.
    pub fn connect(
        self: &Arc<Self>,
        service: &Arc<str>,
        client: impl Into<Range>,
        now: Timestamp,
    ) -> (Ticket, u32, u32) {
        let (client, unit) = (client.into(), self.unit());
        let mut shard = lock(self.shard(client));
        let before = shard.clients.len();
        shard.sweep(now, unit);
        let counters = shard.clients.entry((Arc::clone(service), client));
        let counters = counters.or_insert_with(|| Counters { started: now, ..Counters::default() });
        counters.settle(now, unit);
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
        let who = || format!("{service}:{client}");
        raise(&mut peaks.connection_count, open, now, who);
        raise(&mut peaks.connection_rate, rate, now, who);
        if peaks.cache_size.is_none_or(|(n, _)| size > n) {
            peaks.cache_size = Some((size, now));
        }
        drop(peaks);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_seen.fetch_max(now.0, Ordering::Relaxed);
        (Ticket { limits: Arc::clone(self), service: Arc::clone(service), client }, open, rate)
    }

    /// One more of these in this interval; returns how many.
    pub fn count(&self, what: Counted, service: &Arc<str>, client: impl Into<Range>, now: Timestamp) -> u32 {
        let client = client.into();
        let mut shard = lock(self.shard(client));
        let counters = shard.clients.entry((Arc::clone(service), client));
        let counters = counters.or_insert_with(|| Counters { started: now, ..Counters::default() });
        counters.settle(now, self.unit());
        // As many as there are kinds.
        let counter = &mut counters.counted[what as usize];
        *counter = counter.saturating_add(1);
        let value = *counter;
        drop(shard);
        let mut peaks = lock(&self.peaks);
        raise(&mut peaks.counted[what as usize], value, now, || format!("{service}:{client}"));
        value
    }

    /// How many in this interval so far.
    pub fn current(&self, what: Counted, service: &Arc<str>, client: impl Into<Range>, now: Timestamp) -> u32 {
        let client = client.into();
        let shard = lock(self.shard(client));
        match shard.clients.get(&(Arc::clone(service), client)) {
            // As many as there are kinds.
            Some(counters) if now.since(counters.started) <= self.unit() => counters.counted[what as usize],
            _ => 0,
        }
    }

    /// No client is connected, and the last one came before `since`: anvil would have ended and reported.
    pub fn idle_since(&self, since: Timestamp) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.last_seen.load(Ordering::Relaxed) <= since.0
    }

    /// The lines of anvil's report since the last one, each with the time of the greatest value, which the log writes
    /// after ` at `. Empty when there were no connections.
    pub fn report(&self) -> Vec<(String, Timestamp)> {
        let Peaks { connection_rate, connection_count, counted, cache_size } = std::mem::take(&mut *lock(&self.peaks));
        let per = format!("/{}s", self.unit().as_secs());
        let rates = NAMES.into_iter().zip(counted).map(|(name, peak)| (name, peak, per.as_str()));
        let connections =
            [("connection rate", connection_rate, per.as_str()), ("connection count", connection_count, "")];
        let mut lines: Vec<_> = connections
            .into_iter()
            .chain(rates)
            .filter_map(|(what, peak, per)| {
                let Peak { value, who, at } = peak?;
                Some((format!("statistics: max {what} {value}{per} for ({who})"), at))
            })
            .collect();
        if let Some((size, at)) = cache_size {
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
    client: Range,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        let mut shard = lock(self.limits.shard(self.client));
        if let Some(counters) = shard.clients.get_mut(&(Arc::clone(&self.service), self.client)) {
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

    #[test]
    fn everything_that_is_counted_is_reported_in_anvils_order() {
        let limits = Limits::new(UNIT);
        let service: Arc<str> = "submission".into();
        let a = IpAddr::from([192, 0, 2, 1]);
        for what in [Counted::Auth, Counted::NewTls, Counted::Recipients, Counted::Messages] {
            assert_eq!(limits.count(what, &service, a, at(0)), 1);
        }
        let report: Vec<_> = limits.report().into_iter().map(|(line, _)| line).collect();
        assert_eq!(
            report,
            [
                "statistics: max message rate 1/60s for (submission:192.0.2.1)",
                "statistics: max recipient rate 1/60s for (submission:192.0.2.1)",
                "statistics: max newtls rate 1/60s for (submission:192.0.2.1)",
                "statistics: max auth rate 1/60s for (submission:192.0.2.1)",
            ]
        );
    }

    #[test]
    fn clients_of_a_network_are_one() {
        for (address, v4, v6, expected) in [
            ("192.0.2.77", 32, 84, "192.0.2.77"),
            ("192.0.2.77", 24, 84, "192.0.2.0/24"),
            ("192.0.2.77", 0, 84, "0.0.0.0/0"),
            ("2001:db8::1:2", 32, 64, "2001:db8::/64"),
            ("2001:db8::1:2", 32, 128, "2001:db8::1:2"),
            ("2001:db8:0:1:ffff:ffff::1", 32, 84, "2001:db8:0:1:ffff:f000::/84"),
            ("2001:db8::1:2", 32, 0, "::/0"),
        ] {
            let range = Range::new(address.parse().unwrap(), v4, v6);
            assert_eq!(range.to_string(), expected);
        }
    }

    #[test]
    fn a_hundred_thousand_clients_at_once_cost_little() {
        let limits = Limits::new(UNIT);
        let service: Arc<str> = "smtp".into();
        let mut worst = Vec::new();
        // Within one interval; one of them does more than the others.
        for n in 0..1_000_000u32 {
            drop(limits.connect(&service, IpAddr::from(n.to_be_bytes()), at(0)));
            if n % 1000 == 0 {
                worst.push(limits.connect(&service, IpAddr::from([192, 0, 2, 1]), at(0)).2);
            }
        }
        let kept: usize = limits.shards.iter().map(|s| lock(s).clients.len()).sum();
        let room: usize = limits.shards.iter().map(|s| lock(s).clients.capacity()).sum();
        assert!((100_000..=MOST_CLIENTS + SHARDS * SWEEP_EVERY).contains(&kept) || kept < MOST_CLIENTS, "{kept}");
        let bytes = room * (size_of::<(Key, Counters)>() + 1);
        assert!(bytes < 32 << 20, "{bytes}");
        // It was not forgotten among them.
        assert_eq!(worst.last(), Some(&1000));
    }
}

//! Counters for Prometheus, made from the entries of the ledger (`metrics_listen_address`).
//!
//! A request gets the whole page, whatever its path, in the text format of OpenMetrics, or in the older one of Prometheus where
//! OpenMetrics is not asked for; nothing can be changed here. Listen on an address that only the collector reaches.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use yamabiko_ledger::{Entry, UNPROVEN, What, is_doubtful};

use crate::accept::Acceptance;

/// Upper bounds of delays, in seconds.
const BOUNDS: [u64; 9] = [1, 5, 30, 60, 300, 1800, 3600, 21_600, 86_400];
/// Different reasons that are counted by name; reasons are ours, so this is never reached.
const REASONS: usize = 100;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Collectors at once.
const AT_ONCE: usize = 8;

/// What is counted.
#[derive(Debug)]
pub struct Counters {
    by_what: [AtomicU64; 32],
    reasons: Mutex<BTreeMap<(What, String), u64>>,
    delays: [AtomicU64; BOUNDS.len() + 1],
    delay_sum: AtomicU64,
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self {
            by_what: [const { AtomicU64::new(0) }; 32],
            reasons: Mutex::default(),
            delays: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            delay_sum: AtomicU64::new(0),
        }
    }

    /// Counts an entry.
    pub fn count(&self, entry: &Entry) {
        if let Some(counter) = self.by_what.get(entry.what as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // A message that was settled at once is one entry and was queued too.
        if entry.what != What::Queued && entry.size > 0 {
            self.by_what[What::Queued as usize].fetch_add(1, Ordering::Relaxed); // below 32
        }
        let reason = if is_doubtful(entry) { UNPROVEN } else { &entry.reason };
        if !reason.is_empty() {
            let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (entry.what, reason.to_owned());
            if reasons.len() < REASONS || reasons.contains_key(&key) {
                *reasons.entry(key).or_default() += 1;
            }
        }
        if let (What::Sent | What::Relayed | What::Delivered, Some(delay)) = (entry.what, entry.delay) {
            let bucket = BOUNDS.iter().position(|bound| delay <= Duration::from_secs(*bound)).unwrap_or(BOUNDS.len());
            self.delays[bucket].fetch_add(1, Ordering::Relaxed); // at most BOUNDS.len()
            let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
            self.delay_sum.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// The page.
    pub fn page(&self, gauges: &Gauges) -> String {
        let mut out = String::with_capacity(4096);
        let mut family = |name: &str, kind: &str, help: &str, samples: &mut dyn FnMut(&mut String)| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            samples(&mut out);
        };
        family("yamabiko_events", "counter", "What happened to recipients, by kind of event.", &mut |out| {
            for what in What::ALL {
                let count = self.by_what.get(what as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
                let _ = writeln!(out, "yamabiko_events_total{{event=\"{}\"}} {count}", what.word());
            }
        });
        family("yamabiko_reasons", "counter", "Failures, delays and reports, by reason.", &mut |out| {
            for ((what, reason), count) in &*self.reasons.lock().unwrap_or_else(PoisonError::into_inner) {
                let word = what.word();
                let _ =
                    writeln!(out, "yamabiko_reasons_total{{event=\"{word}\",reason=\"{}\"}} {count}", label(reason));
            }
        });
        family("yamabiko_delay_seconds", "histogram", "From acceptance to the next hop or the mailbox.", &mut |out| {
            let mut sum = 0;
            for (bucket, counter) in self.delays.iter().enumerate() {
                sum += counter.load(Ordering::Relaxed);
                let bound = BOUNDS.get(bucket).map_or_else(|| "+Inf".to_owned(), u64::to_string);
                let _ = writeln!(out, "yamabiko_delay_seconds_bucket{{le=\"{bound}\"}} {sum}");
            }
            let seconds = self.delay_sum.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(out, "yamabiko_delay_seconds_sum {seconds}\nyamabiko_delay_seconds_count {sum}");
        });
        family("yamabiko_queue_messages", "gauge", "Messages in the queue.", &mut |out| {
            for (queue, count) in &gauges.queue {
                let _ = writeln!(out, "yamabiko_queue_messages{{queue=\"{queue}\"}} {count}");
            }
        });
        for (name, kind, help, value) in [
            ("yamabiko_ledger_dropped", "counter", "Events that did not fit into the ledger's line.", gauges.dropped),
            ("yamabiko_ledger_waiting", "gauge", "Events that wait for the ledger.", gauges.waiting),
            ("yamabiko_returned_read", "counter", "Mail that came back and was read.", gauges.read),
            (
                "yamabiko_returned_skipped",
                "counter",
                "Mail that came back and was not read for want of time.",
                gauges.skipped,
            ),
        ] {
            family(name, kind, help, &mut |out| {
                let total = if kind == "counter" { "_total" } else { "" };
                let _ = writeln!(out, "{name}{total} {value}");
            });
        }
        out.push_str("# EOF\n");
        out
    }
}

/// What a collector is told that it gets.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// The page for those who read only Prometheus' older format: there a counter is called as its samples are.
fn plain(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let counters: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "# {what} {name}_total {rest}");
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

/// What is asked for at the moment of the request.
#[derive(Debug, Default)]
pub struct Gauges {
    queue: Vec<(&'static str, usize)>,
    dropped: u64,
    waiting: u64,
    read: u64,
    skipped: u64,
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

fn gauges(engine: &Acceptance) -> Gauges {
    let counts = engine.queue().counts();
    let remembered = engine.current().remembered();
    let (dropped, waiting) = remembered.counters().map_or((0, 0), |(_, dropped, waiting)| (dropped, waiting as u64));
    let (read, skipped) = remembered.late().map_or((0, 0), |late| late.counts());
    Gauges {
        queue: vec![
            ("incoming", counts.incoming),
            ("active", counts.active),
            ("deferred", counts.deferred),
            ("hold", counts.hold),
        ],
        dropped,
        waiting,
        read,
        skipped,
    }
}

/// Answers collectors for as long as the engine lives.
pub async fn serve(listener: TcpListener, engine: Acceptance) {
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            let answer = async {
                // The request says nothing that matters; it is read to its end so that the answer is not a reset.
                let (mut buffer, mut got) = ([0u8; 4096], 0);
                while got < buffer.len()
                    && memchr::memmem::find(buffer.get(..got).unwrap_or_default(), b"\r\n\r\n").is_none()
                {
                    match stream.read(buffer.get_mut(got..).unwrap_or_default()).await {
                        Ok(0) | Err(_) => return,
                        Ok(more) => got += more,
                    }
                }
                let mut page = match engine.current().remembered().counters() {
                    Some((counters, ..)) => counters.page(&gauges(&engine)),
                    None => Counters::new().page(&gauges(&engine)),
                };
                let wanted =
                    memchr::memmem::find(buffer.get(..got).unwrap_or_default(), b"application/openmetrics-text");
                let kind = if wanted.is_some() { OPEN_METRICS } else { "text/plain; version=0.0.4" };
                if wanted.is_none() {
                    page = plain(&page);
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    page.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(page.as_bytes()).await;
                let _ = stream.shutdown().await;
            };
            let _ = tokio::time::timeout(PATIENCE, answer).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    #[test]
    fn a_page() {
        let counters = Counters::new();
        let mut entry = Entry::new(Timestamp(1), What::Bounced, "Q", "a@b");
        entry.reason = "userunknown".into();
        counters.count(&entry);
        let mut entry = Entry::new(Timestamp(1), What::Sent, "Q", "a@b");
        (entry.size, entry.delay) = (9, Some(Duration::from_secs(2)));
        counters.count(&entry);
        let page = counters.page(&Gauges { queue: vec![("deferred", 3)], ..Gauges::default() });
        for line in [
            "yamabiko_events_total{event=\"queued\"} 1",
            "yamabiko_events_total{event=\"bounced\"} 1",
            "yamabiko_reasons_total{event=\"bounced\",reason=\"userunknown\"} 1",
            "yamabiko_delay_seconds_bucket{le=\"1\"} 0",
            "yamabiko_delay_seconds_bucket{le=\"5\"} 1",
            "yamabiko_delay_seconds_bucket{le=\"+Inf\"} 1",
            "yamabiko_delay_seconds_sum 2",
            "yamabiko_queue_messages{queue=\"deferred\"} 3",
            "yamabiko_ledger_dropped_total 0",
        ] {
            assert!(page.lines().any(|known| known == line), "{line} in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
        let plain = plain(&page);
        for line in ["# TYPE yamabiko_events_total counter", "# TYPE yamabiko_queue_messages gauge"] {
            assert!(plain.lines().any(|known| known == line), "{line} in\n{plain}");
        }
        assert!(plain.contains("# HELP yamabiko_events_total What happened to recipients, ") && !plain.contains("EOF"));
    }
}

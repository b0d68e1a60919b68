//! How many messages a second become durable: `append DIR [WRITERS [SECONDS [BYTES [keep|hand-over]]]]`.
//!
//! Each writer stores a message, waits until it is durable, and removes the one it stored before, as a relay does
//! whose mail goes out at once. With `keep` nothing is removed. With `hand-over` the log's thread writes also when
//! there is one writer only.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use yamabiko_envelope::{Envelope, QueueIdSource, Recipient, Timestamp};
use yamabiko_queue::fs::RealFileSystem;
use yamabiko_queue::{NewMessage, Options, Queue};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: append DIR [WRITERS [SECONDS [BYTES [keep|hand-over]]]]")?);
    let mut number = |default: u64| args.next().map_or(Ok(default), |a| a.parse());
    let (writers, seconds, bytes) = (number(20)?, number(2)?, number(4096)?);
    let how = args.next().unwrap_or_default();
    let (keep, hand_over) = (how == "keep", how == "hand-over");
    let begin = Instant::now();
    let (queue, recovered) = Queue::open(Arc::new(RealFileSystem), &dir, Options::default())?;
    println!("opened with {} messages in {:.1} ms", recovered.messages, begin.elapsed().as_secs_f64() * 1e3);
    let ids = QueueIdSource::new(1, recovered.newest);
    let content = bytes::Bytes::from(vec![b'x'; bytes as usize]);
    // The helper's segments are there before the clock starts.
    std::thread::sleep(Duration::from_millis(500));
    let before = queue.stats();
    let cpu = cpu_time();
    let total = AtomicU64::new(0);
    let mut delays = Vec::new();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let writer = || {
            let mut delays = Vec::new();
            let mut last = None;
            while begin.elapsed() < Duration::from_secs(seconds) {
                let now = Timestamp::now();
                let id = ids.next(now);
                let mut envelope = Envelope::new(id, now, "sender@example.com");
                envelope.size = bytes;
                envelope.recipients.push(Recipient { address: "recipient@example.net".into(), ..Recipient::default() });
                let started = Instant::now();
                let message = NewMessage::new(envelope, content.clone());
                let (tell, told) = std::sync::mpsc::channel();
                // The receiver waits just below.
                let done = Box::new(move |result| drop(tell.send(result)));
                if hand_over {
                    queue.append(message, done)
                } else {
                    queue.append_leading(message, None, done)
                }
                if let Ok(Err(e)) = told.recv() {
                    eprintln!("{e}");
                    break;
                }
                delays.push(started.elapsed().as_micros() as u64);
                total.fetch_add(1, Ordering::Relaxed);
                if let Some(last) = last.replace(id).filter(|_| !keep) {
                    // It was stored above and nobody else removes it.
                    let _ = queue.remove(last);
                }
            }
            delays
        };
        let threads: Vec<_> = (0..writers).map(|_| scope.spawn(writer)).collect();
        for thread in threads {
            delays.extend(thread.join().unwrap_or_default());
        }
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let (after, total) = (queue.stats(), total.into_inner());
    delays.sort_unstable();
    let at = |part: f64| delays.get((delays.len() as f64 * part) as usize).copied().unwrap_or(0);
    println!(
        "{writers} writers, {bytes} bytes: {:.0} messages/s, {:.3} syncs each, {:.1} us CPU each, p50 {} us, p99 {} us",
        total as f64 / elapsed,
        (after.syncs - before.syncs) as f64 / total.max(1) as f64,
        (cpu_time() - cpu) * 1e6 / total.max(1) as f64,
        at(0.5),
        at(0.99),
    );
    println!("{after:?}");
    let begin = Instant::now();
    queue.close();
    println!("closed in {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Seconds of CPU this process has used; 0 where the system does not tell.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = after_name.split(' ').skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}

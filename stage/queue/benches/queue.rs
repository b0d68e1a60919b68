//! What a message costs in the queue: `cargo bench -p yamabiko-queue`, in `QUEUE_BENCH_DIR` or the system's temporary
//! directory. The figures are as good as the disk below is quiet; the spread says how quiet it was.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::fs::RealFileSystem;
use yamabiko_queue::{NewMessage, Options, Queue};
use yamabiko_status::EnhancedStatus;

/// A queue in a directory of its own, and names for its messages.
struct Bench {
    queue: Arc<Queue>,
    next: AtomicU64,
    content: bytes::Bytes,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(bytes: usize) -> Self {
        let base = std::env::var_os("QUEUE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(base).unwrap();
        let (queue, _) = Queue::open(Arc::new(RealFileSystem), dir.path(), Options::default()).unwrap();
        // The helper's segments are there before the clock starts.
        std::thread::sleep(Duration::from_millis(300));
        Self { queue, next: AtomicU64::new(1), content: vec![b'x'; bytes].into(), _dir: dir }
    }

    fn message(&self) -> NewMessage {
        let id = QueueId::new(1_795_280_034_000_000 + self.next.fetch_add(1, Ordering::Relaxed), 1);
        let mut envelope = Envelope::new(id, Timestamp(id.micros()), "sender@example.com");
        envelope.size = self.content.len() as u64;
        envelope.recipients.push(Recipient { address: "recipient@example.net".into(), ..Recipient::default() });
        NewMessage::new(envelope, self.content.clone())
    }

    /// `count` messages through the queue by so many writers, each of which removes the one before: a relay that keeps
    /// up. Returns the time for all of them.
    fn append(&self, writers: u64, count: u64) -> Duration {
        let began = Instant::now();
        let left = AtomicU64::new(count);
        std::thread::scope(|scope| {
            for _ in 0..writers {
                scope.spawn(|| {
                    let mut before: Option<QueueId> = None;
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                        let message = self.message();
                        let id = message.envelope.queue_id;
                        self.queue.append_and_wait(message).unwrap();
                        if let Some(before) = before.replace(id) {
                            self.queue.remove(before).unwrap();
                        }
                    }
                    if let Some(last) = before {
                        self.queue.remove(last).unwrap();
                    }
                });
            }
        });
        began.elapsed()
    }
}

fn append(c: &mut Criterion) {
    for bytes in [4 << 10, 64 << 10] {
        let mut group = c.benchmark_group(format!("append {} KB", bytes >> 10));
        group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(2));
        for writers in [1, 20, 100] {
            let bench = Bench::new(bytes);
            group.bench_function(format!("{writers} writers"), |b| b.iter_custom(|count| bench.append(writers, count)));
        }
        group.finish();
    }
}

/// What a change costs the caller: nobody waits for it.
fn settle(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    let bench = Bench::new(4 << 10);
    let ids: Vec<QueueId> = (0..10_000)
        .map(|_| {
            let message = bench.message();
            let id = message.envelope.queue_id;
            bench.queue.append(message, Box::new(|stored| stored.unwrap()));
            id
        })
        .collect();
    bench.queue.sync().unwrap();
    let failure = Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: "connect to mx.example.net[192.0.2.1]:25: Connection timed out".into(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".into(),
        settled: Vec::new(),
    };
    let mut n = 0;
    let mut next = || {
        n += 1;
        ids[n % ids.len()]
    };
    group.bench_function("settle", |b| {
        b.iter(|| bench.queue.settle(next(), &[(0, RecipientState::Deferred(Box::new(failure.clone())))]).unwrap());
    });
    group.bench_function("hold", |b| b.iter(|| bench.queue.hold(next()).unwrap()));
    group.bench_function("envelope", |b| b.iter(|| bench.queue.envelope(next()).unwrap()));
    group.finish();
}

criterion_group!(benches, append, settle);
criterion_main!(benches);

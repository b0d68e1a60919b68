//! What a step of the schedule costs: `cargo bench -p yamabiko-schedule`.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_schedule::{
    Action, Delivery, Feedback, Route, Schedule, Settings, TransportSettings, destination_name, sender_hash, site_hash,
};

const BEGIN: Timestamp = Timestamp(1_795_000_000_000_000);

fn id(n: u64) -> QueueId {
    QueueId::new(BEGIN.0 + n, 1)
}

fn settings() -> Settings {
    Settings {
        active_limit: 50_000,
        recipient_limit: 50_000,
        default_transport: TransportSettings { process_limit: 100, ..TransportSettings::default() },
        ..Settings::default()
    }
}

/// Answers everything; deliveries are put into `running`.
fn work(schedule: &mut Schedule, now: Timestamp, destinations: u64, running: &mut Vec<Delivery>) {
    while let Some(action) = schedule.poll(now) {
        match action {
            Action::Activate { message, .. } => {
                let nexthop = format!("d{}.example", message.micros() % destinations);
                let destination = destination_name(&nexthop, None).into();
                let route = Route { recipient: 0, transport: "smtp".into(), nexthop: nexthop.into(), destination };
                schedule.activated(message, "sender@example.jp", vec![route], false, now);
            }
            Action::Deliver(delivery) => running.push(delivery),
            Action::Defer(_)
            | Action::Finished(_)
            | Action::Clogged(_)
            | Action::Learned(_)
            | Action::Feedbacks(_)
            | Action::Window(_) => {}
        }
    }
}

/// The next delivery out of a long active queue: a slot comes free and is given to the next in turn.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for (active, destinations) in [(100u64, 10u64), (20_000, 1000), (20_000, 1)] {
        let mut schedule = Schedule::new(settings());
        let mut running = Vec::new();
        let mut next = 0;
        let sender = |n: u64| sender_hash(&format!("s{}@example.jp", n % 50));
        for _ in 0..active {
            schedule.message_arrived(id(next), sender(next));
            next += 1;
        }
        work(&mut schedule, BEGIN, destinations, &mut running);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{active} active, {destinations} destinations"), |bencher| {
            bencher.iter(|| {
                // One ends, one comes in, one is picked.
                if let Some(delivery) = running.pop() {
                    schedule.delivery_done(delivery.id, Feedback::Answered, BEGIN);
                }
                schedule.message_arrived(id(next), sender(next));
                next += 1;
                work(&mut schedule, BEGIN, destinations, &mut running);
            });
        });
    }
    group.finish();
}

/// A million deferred messages: one becomes due and waits again.
fn wheel(criterion: &mut Criterion) {
    let mut schedule = Schedule::new(settings());
    let sites = [site_hash("example.jp")];
    let mut now = BEGIN;
    for n in 0..1_000_000u64 {
        // Evenly over 4000 seconds.
        schedule.message_deferred(id(n), BEGIN + Duration::from_micros(4000 * n), &sites);
    }
    let mut running = Vec::new();
    criterion.bench_function("a million deferred: due, tried, deferred again", |bencher| {
        bencher.iter(|| {
            now = schedule.next_deadline().unwrap_or(now).max(now);
            work(&mut schedule, now, 1000, &mut running);
            for delivery in running.drain(..) {
                let message = delivery.message;
                schedule.delivery_done(delivery.id, Feedback::Answered, now);
                while schedule.poll(now).is_some() {}
                schedule.message_deferred(message, now + Duration::from_secs(4000), &sites);
            }
        });
    });
    criterion.bench_function("a million deferred: flush all", |bencher| {
        bencher.iter_batched(|| (), |()| schedule.flush_all(now), BatchSize::PerIteration);
    });
}

/// The start: what the queue holds is taken up.
fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start");
    group.throughput(Throughput::Elements(100_000)).sample_size(10);
    group.bench_function("100,000 deferred messages taken up", |bencher| {
        bencher.iter(|| {
            let mut schedule = Schedule::new(settings());
            for n in 0..100_000u64 {
                schedule.message_deferred(id(n), BEGIN + Duration::from_secs(n % 4000), &[]);
            }
            schedule
        });
    });
    group.finish();
}

criterion_group!(benches, pick, wheel, start);
criterion_main!(benches);

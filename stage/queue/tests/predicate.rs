//! Which messages a predicate means, in a running queue and in one that is read; and words that are none.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::SimulatedDisk;
use yamabiko_queue::{Found, Inspection, NewMessage, Options, Predicate, Queue};
use yamabiko_status::EnhancedStatus;

const NOW: u64 = 1_795_280_034;

/// Number, seconds since its arrival, sender, recipients, bytes.
const MAIL: [(u64, u64, &str, &[&str], usize); 7] = [
    (1, 8 * 86_400, "news@lists.example.com", &["a@docomo.ne.jp"], 100),
    (2, 3 * 86_400, "", &["..b..@Docomo.ne.jp", "c@docomo.ne.jp"], 5000),
    (3, 86_400, "me@example.com", &["a@docomo.ne.jp", "d@example.net"], 20_000),
    (4, 3600, "me@EXAMPLE.com", &["d@mx.example.net"], 200_000),
    (5, 60, "you@example.org", &["postmaster"], 300),
    (6, 30, "you@example.org", &["x@example.net"], 300),
    (7, 1, "you@example.org", &["a@docomo.ne.jp"], 300),
];

fn id(n: u64) -> QueueId {
    let age = MAIL.iter().find(|mail| mail.0 == n).unwrap().1;
    QueueId::new((NOW - age) * 1_000_000 + n, 1)
}

fn failure(status: EnhancedStatus, reason: &str) -> RecipientState {
    let text = String::new;
    RecipientState::Deferred(Box::new(Failure {
        status,
        reason: reason.into(),
        diagnostic: text(),
        remote_mta: text(),
        relay: text(),
        settled: Vec::new(),
    }))
}

fn fill(queue: &Queue) {
    for (n, age, sender, recipients, len) in MAIL {
        // Number 6 was requeued: it is older than its name.
        let age = if n == 6 { 9 * 86_400 } else { age };
        let mut envelope = Envelope::new(id(n), Timestamp::from_seconds(NOW - age), sender);
        envelope.size = len as u64;
        let of = |address: &&str| Recipient { address: (*address).into(), ..Recipient::default() };
        envelope.recipients = recipients.iter().map(of).collect();
        queue.append_and_wait(NewMessage::new(envelope, vec![b'x'; len])).unwrap();
    }
    let busy = failure(EnhancedStatus::transient(4, 1), "connect to mx[192.0.2.1]:25: Connection timed out");
    let full = failure(EnhancedStatus::transient(2, 2), "host said: 452 4.2.2 Mailbox FULL");
    queue.defer(id(1), Timestamp(5), &[(0, busy.clone())], false).unwrap();
    queue.defer(id(2), Timestamp(5), &[(0, busy), (1, full.clone())], false).unwrap();
    queue.defer(id(3), Timestamp(5), &[(0, RecipientState::Done), (1, full)], false).unwrap();
    queue.hold(id(5)).unwrap();
    queue.sync().unwrap();
}

const CASES: &[(&str, &[u64])] = &[
    ("all", &[1, 2, 3, 4, 5, 6, 7]),
    ("", &[1, 2, 3, 4, 5, 6, 7]),
    ("queue=deferred", &[1, 2, 3]),
    ("queue=hold queue=incoming", &[4, 5, 6, 7]),
    ("queue=active", &[]),
    ("sender=me@example.com", &[3, 4]),
    ("sender=<>", &[2]),
    ("sender-domain=example.com", &[3, 4]),
    ("sender-domain=.example.com", &[1]),
    ("sender-domain=.example.com sender-domain=Example.com", &[1, 3, 4]),
    ("recipient=A@docomo.ne.jp", &[1, 7]),
    ("recipient=<..b..@docomo.ne.jp>", &[2]),
    ("recipient=postmaster", &[5]),
    // The third one's is delivered.
    ("recipient-domain=docomo.ne.jp", &[1, 2, 7]),
    ("recipient-domain=.example.net", &[4]),
    ("recipient-domain=example.net", &[3, 6]),
    ("older=2d", &[1, 2, 6]),
    ("older=2d newer=1w", &[2]),
    ("newer=2h", &[4, 5, 7]),
    ("newer=2h queue=hold", &[5]),
    ("reason=timed_out", &[1, 2]),
    ("reason=mailbox_full", &[2, 3]),
    ("status=4.2", &[2, 3]),
    ("status=4.4.1", &[1, 2]),
    ("status=4", &[1, 2, 3]),
    ("status=5", &[]),
    // One and the same recipient.
    ("recipient=c@docomo.ne.jp status=4.4.1", &[]),
    ("recipient=c@docomo.ne.jp status=4.2.2", &[2]),
    ("recipient=c@docomo.ne.jp reason=timed_out", &[]),
    ("larger=5000", &[3, 4]),
    ("larger=10K", &[3, 4]),
    ("smaller=300", &[1]),
    ("smaller=301 larger=299", &[5, 6, 7]),
    ("recipient-domain=docomo.ne.jp older=1d queue=deferred", &[1, 2]),
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| word.replace('_', " ")).collect()
}

#[test]
fn what_is_meant() {
    let disk = SimulatedDisk::new();
    let options = Options { large: 100_000, memory: 0, ..Options::default() };
    let (queue, _) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options.clone()).unwrap();
    fill(&queue);
    let now = Timestamp::from_seconds(NOW);
    let numbers = |found: Found| -> Vec<u64> {
        let number = |id_of: QueueId| MAIL.iter().find(|mail| id(mail.0) == id_of).unwrap().0;
        assert_eq!(found.len(), found.iter().count());
        found.iter().map(|seen| number(seen.queue_id)).collect()
    };
    let check = |select: &dyn Fn(&Predicate) -> Found, how: &str| {
        for (text, expected) in CASES {
            let predicate = Predicate::parse(&words(text)).unwrap();
            assert_eq!(numbers(select(&predicate)), *expected, "{how}: {text}");
        }
        let both = format!("id={} id={}", id(3), id(5));
        assert_eq!(numbers(select(&Predicate::parse(&words(&both)).unwrap())), [3, 5]);
    };
    check(&|predicate| queue.select(predicate, now), "running");
    queue.close();
    let inspection = Inspection::open(Arc::new(disk.clone()), Path::new("/q")).unwrap();
    check(&|predicate| inspection.select(predicate, now), "read");
    let disk = disk.after_kill();
    let (queue, _) = Queue::open(Arc::new(disk), Path::new("/q"), options).unwrap();
    check(&|predicate| queue.select(predicate, now), "opened again");
}

/// As `what_is_meant`, with so many that they are read in batches.
#[test]
fn many_are_read_in_batches() {
    let disk = SimulatedDisk::new();
    let options = Options { memory: 0, write_after: Duration::ZERO, ..Options::default() };
    let (queue, _) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options).unwrap();
    let name = |n: u64| QueueId::new(NOW * 1_000_000 + n, 1);
    for n in 0..3000 {
        let mut envelope = Envelope::new(name(n), Timestamp::from_seconds(NOW), format!("s@d{}.example", n % 7));
        envelope.recipients.push(Recipient { address: format!("r{n}@e{}.example", n % 3), ..Recipient::default() });
        queue.append(NewMessage::new(envelope, vec![b'x'; 10]), Box::new(|stored| stored.unwrap()));
    }
    queue.sync().unwrap();
    let failed = |n: u64| n.is_multiple_of(2) && !n.is_multiple_of(13);
    for n in (0..3000).filter(|n| failed(*n)) {
        let status = EnhancedStatus::transient((n % 5) as u16, (n % 11) as u16);
        let state = failure(status, &format!("no {}", n % 3));
        queue.defer(name(n), Timestamp(1), &[(0, state)], false).unwrap();
    }
    queue.sync().unwrap();
    for (text, fits) in [
        ("status=4", &failed as &dyn Fn(u64) -> bool),
        ("status=4.3", &|n| failed(n) && n % 5 == 3),
        ("status=4.3.1", &|n| failed(n) && n % 5 == 3 && n % 11 == 1),
        ("status=4.3.1 status=4.4 reason=no_2", &|n| {
            failed(n) && n % 3 == 2 && (n % 5 == 3 && n % 11 == 1 || n % 5 == 4)
        }),
        ("status=4.3 recipient-domain=e1.example", &|n| failed(n) && n % 5 == 3 && n % 3 == 1),
        ("sender-domain=d3.example recipient-domain=e1.example", &|n| n % 7 == 3 && n % 3 == 1),
        ("sender-domain=.example recipient-domain=e1.example", &|n| n % 3 == 1),
        ("sender-domain=.example", &|_| true),
        ("recipient=r77@e2.example", &|n| n == 77),
    ] {
        let predicate = Predicate::parse(&words(text)).unwrap();
        let found: Vec<QueueId> = queue.select(&predicate, Timestamp(0)).iter().map(|m| m.queue_id).collect();
        let expected: Vec<QueueId> = (0..3000).filter(|n| fits(*n)).map(name).collect();
        assert!(found == expected, "{text}: {} of {}", found.len(), expected.len());
    }
}

#[test]
fn words_that_are_none() {
    for (text, what) in [
        ("deferred", "deferred: key=value is due"),
        ("queue=", "queue=: a value is due"),
        ("queue=corrupt", "queue=corrupt: a queue is"),
        ("id=x", "id=x: a queue ID is due"),
        ("older=2y", "older=2y: a time is"),
        ("older=d", "older=d: a time is"),
        ("older=1d older=2d", "older=2d: this was said already"),
        ("older=99999999999999999w", "older=99999999999999999w: a time is"),
        ("larger=1.5M", "larger=1.5M: a size is"),
        ("status=4.x", "status=4.x: a status is"),
        ("status=4.", "status=4.: a status is"),
        ("colour=red", "colour=red: keys are id, queue,"),
    ] {
        let error = Predicate::parse(&words(text)).unwrap_err();
        assert!(error.starts_with(what), "{error}");
    }
}

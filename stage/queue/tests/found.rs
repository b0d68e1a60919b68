//! From a count to the change that follows it: no envelope is read twice, and what changed in between is not touched.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::SimulatedDisk;
use yamabiko_queue::{Found, Inspection, Meta, NewMessage, Options, Predicate, Queue, Seen};
use yamabiko_status::EnhancedStatus;

const NOW: Timestamp = Timestamp(1_795_280_034_000_000);
const COUNT: u64 = 20_000;

fn id(n: u64) -> QueueId {
    QueueId::new(NOW.0 - 3_600_000_000 + n * 1000, 1 + (n % 3) as u32)
}

fn deferred(reason: &str) -> RecipientState {
    RecipientState::Deferred(Box::new(Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: reason.into(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".into(),
        settled: Vec::new(),
    }))
}

/// Messages that wait: each third is `busy`, the others are `down`; the first half is larger than 1000 bytes.
fn filled(disk: &SimulatedDisk, count: u64) -> Arc<Queue> {
    let options = Options {
        memory: 0,
        write_after: Duration::ZERO,
        flush_after: Duration::from_millis(10),
        ..Options::default()
    };
    let (queue, _) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options).unwrap();
    for n in 0..count {
        let mut envelope = Envelope::new(id(n), Timestamp(id(n).micros()), format!("s@d{}.example", n % 7));
        let bytes = if n < count / 2 { 1001 } else { 900 };
        envelope.size = bytes as u64;
        let recipient = |r| Recipient { address: format!("r{n}.{r}@e{}.example", n % 5), ..Recipient::default() };
        envelope.recipients = (0..2).map(recipient).collect();
        queue.append(NewMessage::new(envelope, vec![b'x'; bytes]), Box::new(|stored| stored.unwrap()));
    }
    queue.sync().unwrap();
    for n in 0..count {
        let state = deferred(if n.is_multiple_of(3) { "host is busy" } else { "host is down" });
        queue.defer(id(n), NOW, &[(0, state.clone()), (1, state)], false).unwrap();
    }
    queue.sync().unwrap();
    queue.rest(Duration::from_secs(60));
    queue
}

fn predicate(text: &str) -> Predicate {
    Predicate::parse(&text.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>()).unwrap()
}

fn names(metas: &[Meta]) -> Vec<QueueId> {
    metas.iter().map(|meta| meta.queue_id).collect()
}

/// What is still meant, asked for a page at a time as an operation does.
fn still(queue: &Queue, predicate: &Predicate, found: &Found) -> Vec<QueueId> {
    let seen: Vec<Seen> = found.iter().collect();
    seen.chunks(1000).flat_map(|part| names(&queue.still(predicate, NOW, part))).collect()
}

#[test]
fn a_change_reads_nothing_that_its_count_has_read() {
    let disk = SimulatedDisk::new();
    let queue = filled(&disk, COUNT);
    for (text, expected, reads) in [
        ("reason=busy", COUNT.div_ceil(3), true),
        ("status=4.4", COUNT, true),
        ("larger=1000", COUNT / 2, true),
        ("sender-domain=d1.example", (COUNT - 1).div_ceil(7), true),
        ("recipient-domain=e1.example", COUNT / 5, true),
        ("older=30m", COUNT, false),
        ("queue=deferred", COUNT, false),
        ("all", COUNT, false),
    ] {
        let predicate = predicate(text);
        let before = disk.bytes_read();
        let found = queue.select(&predicate, NOW);
        let counted = disk.bytes_read() - before;
        assert_eq!(found.len() as u64, expected, "{text}");
        assert_eq!(counted > 0, reads, "{text}: {counted} bytes read");
        assert!(found.bytes() <= found.len() * 10 + 16, "{text}: {} bytes for {}", found.bytes(), found.len());
        let before = disk.bytes_read();
        let still = still(&queue, &predicate, &found);
        assert_eq!(still, found.iter().map(|seen| seen.queue_id).collect::<Vec<_>>(), "{text}");
        assert_eq!(disk.bytes_read(), before, "{text}: bytes read after the count");
    }
}

/// After the count, and before the change: each of these ends otherwise than it was counted, or as it was.
#[test]
fn what_changed_in_between_is_looked_at_again() {
    let disk = SimulatedDisk::new();
    let queue = filled(&disk, 900);
    let busy = predicate("reason=busy queue=deferred");
    let found = queue.select(&busy, NOW);
    assert_eq!(found.len(), 300);
    // Tried again: another reason; the same; of one recipient another, of one the same.
    let (down, same) = (deferred("host is down"), deferred("host is busy"));
    queue.defer(id(0), NOW, &[(0, down.clone()), (1, down.clone())], false).unwrap();
    queue.defer(id(3), NOW, &[(0, same.clone()), (1, same.clone())], false).unwrap();
    queue.settle(id(6), &[(0, down.clone())]).unwrap();
    // One delivered, the other not; then both.
    queue.settle(id(9), &[(0, RecipientState::Done)]).unwrap();
    queue.settle(id(12), &[(0, RecipientState::Done)]).unwrap();
    queue.settle(id(12), &[(1, RecipientState::Done)]).unwrap();
    // Gone; held; being tried; and one that was not meant became so, which nobody was told of.
    queue.remove(id(15)).unwrap();
    queue.hold(id(18)).unwrap();
    queue.set_active(id(21), true).unwrap();
    queue.settle(id(1), &[(0, same.clone()), (1, same)]).unwrap();
    let gone = [0, 12, 15, 18, 21].map(id);
    let expected: Vec<QueueId> = found.iter().map(|seen| seen.queue_id).filter(|id| !gone.contains(id)).collect();
    let before = disk.bytes_read();
    assert_eq!(still(&queue, &busy, &found), expected, "not written yet");
    queue.sync().unwrap();
    assert_eq!(still(&queue, &busy, &found), expected, "written");
    // Seven were touched: two readings of the message's records each, and no more.
    assert!(disk.bytes_read() - before <= 2 * 7 * (6 * 8192), "{}", disk.bytes_read() - before);
    // The same once more, so that places of changes are taken by newer ones.
    for n in (0..900).step_by(3).map(id).filter(|id| !gone.contains(id)) {
        for _ in 0..3 {
            queue.settle(n, &[(0, down.clone())]).unwrap();
            queue.settle(n, &[(1, down.clone())]).unwrap();
        }
    }
    assert_eq!(still(&queue, &busy, &found), []);
    queue.sync().unwrap();
    assert_eq!(still(&queue, &busy, &found), []);
}

/// Counted on a stopped queue, changed after it was opened: by what was found in its files, and a server that ran in between.
#[test]
fn what_was_counted_in_the_files_is_known_to_the_queue() {
    let disk = SimulatedDisk::new();
    drop(filled(&disk, 3000));
    let busy = predicate("reason=busy");
    let inspection = Inspection::open(Arc::new(disk.clone()), Path::new("/q")).unwrap();
    let found = inspection.select(&busy, NOW);
    assert_eq!(found.len(), 1000);
    let open = || Queue::open(Arc::new(disk.clone()), Path::new("/q"), Options::default()).unwrap().0;
    let queue = open();
    let before = disk.bytes_read();
    assert_eq!(still(&queue, &busy, &found).len(), 1000);
    assert_eq!(disk.bytes_read(), before);
    queue.defer(id(3), NOW, &[(0, deferred("down")), (1, deferred("down"))], false).unwrap();
    drop(queue);
    let left = still(&open(), &busy, &found);
    assert!(left.len() == 999 && !left.contains(&id(3)));
}

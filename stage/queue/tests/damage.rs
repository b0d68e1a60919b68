//! What happens to stored mail when the disk is full, fails, or has changed bytes of its own accord.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Content, Envelope, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::{Dice, SimulatedDisk};
use yamabiko_queue::{Inspection, NewMessage, Options, Queue, QueueError};

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        flush_after: Duration::from_millis(10),
        write_after: Duration::ZERO,
        ..Options::default()
    }
}

fn open(disk: &SimulatedDisk, options: Options) -> Arc<Queue> {
    Queue::open(Arc::new(disk.clone()), Path::new("/q"), options).unwrap().0
}

fn id(n: u64) -> QueueId {
    QueueId::new(1_000_000 + n, 3)
}

fn content(n: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(n);
    (0..len).map(|_| dice.below(256) as u8).collect()
}

fn message(n: u64, len: usize) -> NewMessage {
    let mut envelope = Envelope::new(id(n), Timestamp(n), format!("sender{n}@example.com"));
    envelope.recipients.push(Recipient { address: "r@example.net".into(), ..Recipient::default() });
    NewMessage::new(envelope, content(n, len))
}

/// A queue with a few messages, closed or killed, and the segment that they are in.
fn some_messages(count: u64, len: usize, closed: bool) -> (SimulatedDisk, PathBuf, Vec<u8>) {
    let disk = SimulatedDisk::new();
    let queue = open(&disk, options());
    for n in 0..count {
        queue.append_and_wait(message(n, len)).unwrap();
    }
    if closed {
        queue.close();
    }
    let disk = disk.after_kill();
    drop(queue);
    let path = first_segment(&disk);
    let bytes = disk.read_file(&path).unwrap();
    (disk, path, bytes)
}

/// The segment that was used first: which file that is depends on the helper's speed.
fn first_segment(disk: &SimulatedDisk) -> PathBuf {
    let first = |path: &PathBuf| {
        let bytes = disk.read_file(path).unwrap_or_default();
        bytes.starts_with(b"YmbkSeg") && bytes[12..16] == [1, 0, 0, 0]
    };
    disk.files().into_iter().find(first).unwrap()
}

/// The end of the last record.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).unwrap() + 1
}

fn inspect(disk: &SimulatedDisk) -> Inspection {
    Inspection::open(Arc::new(disk.clone()), Path::new("/q")).unwrap()
}

#[test]
fn a_tail_cut_at_any_byte_costs_only_what_was_cut() {
    let (disk, path, bytes) = some_messages(4, 150, false);
    let end = end_of(&bytes);
    let mut whole = 0;
    for cut in 8192..end {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        disk.write_file(&path, torn);
        let inspection = inspect(&disk);
        let found = inspection.list().count();
        assert!((whole..=whole + 1).contains(&found), "cut at {cut}: {found} messages, {whole} before");
        whole = found;
        for meta in inspection.list() {
            let n = meta.queue_id.micros() - 1_000_000;
            assert_eq!(inspection.load(meta.queue_id).unwrap().content.to_bytes().unwrap(), content(n, 150));
        }
        assert!(inspection.recovered().damaged.iter().all(|d| d.torn), "cut at {cut}");
    }
    assert_eq!(whole, 3);
}

#[test]
fn a_queue_goes_on_after_a_torn_tail() {
    let (disk, path, bytes) = some_messages(4, 150, false);
    for cut in (8192..end_of(&bytes)).step_by(37) {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        let disk = disk.after_kill();
        disk.write_file(&path, torn);
        let queue = open(&disk, options());
        let before = queue.len();
        queue.append_and_wait(message(9, 10)).unwrap();
        drop(queue);
        let queue = open(&disk, options());
        assert_eq!(queue.len(), before + 1, "cut at {cut}");
        assert_eq!(queue.load(id(9)).unwrap().content.to_bytes().unwrap(), content(9, 10));
    }
}

#[test]
fn a_changed_byte_costs_one_message_and_is_reported() {
    let (disk, path, bytes) = some_messages(5, 100, true);
    let end = end_of(&bytes);
    for at in (0..64).chain(4096..4160).chain(8192..end) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        disk.write_file(&path, flipped);
        let inspection = inspect(&disk);
        let found = inspection.list().count();
        assert!(found >= 4, "byte {at}: {found} messages");
        for meta in inspection.list() {
            let n = meta.queue_id.micros() - 1_000_000;
            let stored = inspection.load(meta.queue_id).unwrap();
            assert_eq!(stored.content.to_bytes().unwrap(), content(n, 100));
            assert_eq!(stored.envelope.sender, format!("sender{n}@example.com"));
        }
        let damaged = &inspection.recovered().damaged;
        assert_eq!(found == 5, damaged.iter().all(|d| d.torn), "byte {at}: {damaged:?}");
    }
}

#[test]
fn damage_is_saved_and_reported_once() {
    let (disk, path, mut bytes) = some_messages(5, 3000, true);
    bytes[8192 + 4000] ^= 0x10;
    disk.write_file(&path, bytes);
    for opening in 0..3 {
        let (queue, recovered) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options()).unwrap();
        assert_eq!(queue.len(), 4);
        queue.append_and_wait(message(100 + opening, 10)).unwrap();
        queue.remove(id(100 + opening)).unwrap();
        if opening > 0 {
            assert_eq!(recovered.damaged, []);
            continue;
        }
        let [damage] = &recovered.damaged[..] else { panic!("{:?}", recovered.damaged) };
        assert!(!damage.torn && damage.queue_id == Some(id(1)), "{damage}");
        let saved = disk.read_file(damage.saved.as_ref().unwrap()).unwrap();
        assert_eq!(saved.len() as u64, damage.len);
    }
}

#[test]
fn a_lost_header_is_reported_and_its_segment_kept() {
    let disk = SimulatedDisk::new();
    let queue = open(&disk, options());
    for n in 0..40 {
        queue.append_and_wait(message(n, 4000)).unwrap();
    }
    drop(queue);
    let path = first_segment(&disk);
    let mut bytes = disk.read_file(&path).unwrap();
    bytes[20] ^= 1;
    disk.write_file(&path, bytes.clone());
    assert_eq!(inspect(&disk).list().count(), 40, "the copy of the header serves");
    bytes[4096 + 20] ^= 1;
    disk.write_file(&path, bytes.clone());
    let (queue, recovered) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options()).unwrap();
    assert!(queue.len() < 40 && queue.len() > 20);
    let saved: Vec<_> = recovered.damaged.iter().filter_map(|d| d.saved.clone()).collect();
    assert_eq!(disk.read_file(&saved[0]).unwrap(), bytes);
}

#[test]
fn a_mail_that_looks_like_records_is_mail() {
    // The whole segment of another queue, and of an earlier use of this one, as content; and the content before it
    // damaged, so that the search for the next record goes through it.
    let (_, _, other) = some_messages(3, 100, true);
    let disk = SimulatedDisk::new();
    let queue = open(&disk, options());
    queue.append_and_wait(message(50, 10)).unwrap();
    let mut evil = message(51, 0);
    evil.parts = vec![Content::from(other[8192..8192 + 1500].to_vec())];
    queue.append_and_wait(evil).unwrap();
    queue.append_and_wait(message(52, 10)).unwrap();
    drop(queue);
    let path = first_segment(&disk);
    let bytes = disk.read_file(&path).unwrap();
    for at in (8192..end_of(&bytes)).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x80;
        disk.write_file(&path, flipped);
        for meta in inspect(&disk).list() {
            assert!((50..=52).contains(&(meta.queue_id.micros() - 1_000_000)), "byte {at}: {meta:?}");
        }
    }
}

#[test]
fn a_full_disk_refuses_mail_and_still_takes_changes() {
    let disk = SimulatedDisk::new();
    // Six segments, and some room for side indexes.
    disk.set_capacity(Some(6 * (64 << 10) + 20_000));
    let queue = open(&disk, options());
    let mut stored = Vec::new();
    let refused = (0..1000).find_map(|n| match queue.append_and_wait(message(n, 3000)) {
        Ok(()) => {
            stored.push(n);
            None
        }
        Err(e) => Some(e),
    });
    assert!(matches!(refused, Some(QueueError::NoSpace)), "{refused:?}");
    assert!(stored.len() > 60, "{}", stored.len());
    // A large message does not get in either, and leaves nothing behind.
    assert!(matches!(queue.append_and_wait(message(2000, 100_000)), Err(QueueError::NoSpace)));
    assert!(!disk.files().iter().any(|f| f.starts_with("/q/large")));
    queue.settle(id(1), &[(0, RecipientState::Done)]).unwrap();
    for n in &stored[5..] {
        queue.remove(id(*n)).unwrap();
    }
    queue.sync().unwrap();
    // Segments come back in the background.
    let again = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        queue.append_and_wait(message(3000, 3000)).is_ok()
    });
    assert!(again, "{:?}", queue.stats());
    drop(queue);
    let (queue, recovered) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options()).unwrap();
    assert_eq!(recovered.damaged, []);
    assert_eq!(queue.len(), 6);
    assert_eq!(queue.envelope(id(1)).unwrap().0.recipients[0].state, RecipientState::Done);
}

#[test]
fn little_free_space_refuses_mail() {
    let disk = SimulatedDisk::new();
    disk.set_capacity(Some(1 << 20));
    let queue = open(&disk, Options { min_free: 2 << 20, ..options() });
    assert!(matches!(queue.append_and_wait(message(1, 10)), Err(QueueError::NoSpace)));
    let limited = open(&SimulatedDisk::new(), Options { max_log: Some(3 * (64 << 10)), ..options() });
    let refused = (0..100).find_map(|n| limited.append_and_wait(message(n, 3000)).err());
    assert!(matches!(refused, Some(QueueError::NoSpace)), "{refused:?}");
}

#[test]
fn a_failed_sync_is_final() {
    for writes in [false, true] {
        let disk = SimulatedDisk::new();
        let queue = open(&disk, options());
        queue.append_and_wait(message(1, 100)).unwrap();
        if writes {
            disk.fail_writes_after(0)
        } else {
            disk.fail_syncs_after(0)
        }
        assert!(matches!(queue.append_and_wait(message(2, 100)), Err(QueueError::ReadOnly(_))));
        assert!(matches!(queue.append_and_wait(message(3, 100)), Err(QueueError::ReadOnly(_))));
        assert!(matches!(queue.remove(id(1)), Err(QueueError::ReadOnly(_))));
        assert!(matches!(queue.sync(), Err(QueueError::ReadOnly(_))));
        assert!(queue.failure().is_some() && queue.stats().read_only);
        // What is there can still be read, and nothing that was refused is there.
        assert_eq!(queue.load(id(1)).unwrap().content.to_bytes().unwrap(), content(1, 100));
        assert!(matches!(queue.load(id(2)), Err(QueueError::NotFound(_))));
    }
}

#[test]
fn what_goes_bad_after_opening_is_set_aside_when_told() {
    let (disk, path, mut bytes) = some_messages(3, 3000, true);
    let queue = open(&disk, options());
    // The second message's content, behind the queue's back: the file is the same one, so write through it.
    let at = bytes.windows(8).position(|w| w == &content(1, 3000)[..8]).unwrap();
    bytes[at] ^= 1;
    use yamabiko_queue::fs::FileSystem;
    let file = disk.open(&path, true).unwrap();
    file.pwritev(&[std::io::IoSlice::new(&bytes)], 0).unwrap();
    let Err(QueueError::Damaged(_, what)) = queue.load(id(1)) else { panic!() };
    let damage = queue.set_aside(id(1), what).unwrap();
    assert!(disk.read_file(&damage.saved.unwrap()).unwrap().len() > 3000);
    assert!(matches!(queue.load(id(1)), Err(QueueError::NotFound(_))));
    assert!(queue.load(id(2)).is_ok());
}

#[test]
fn a_segment_that_was_cut_off_is_reported() {
    let disk = SimulatedDisk::new();
    let queue = open(&disk, options());
    for n in 0..40 {
        queue.append_and_wait(message(n, 4000)).unwrap();
    }
    drop(queue);
    let path = first_segment(&disk);
    let bytes = disk.read_file(&path).unwrap();
    for len in [0, 100, 8192, 20_000, end_of(&bytes) - 1] {
        disk.write_file(&path, bytes[..len].to_vec());
        let inspection = inspect(&disk);
        assert!(inspection.list().count() < 40);
        assert!(inspection.recovered().damaged.iter().any(|d| !d.torn), "cut to {len}");
    }
}

/// Reasons of so many recipients that no record can hold them all, neither when they are told nor when the message is
/// copied.
#[test]
fn reasons_beyond_a_segment_are_kept() {
    let reason = |n: u32| {
        RecipientState::Deferred(Box::new(yamabiko_envelope::Failure {
            status: yamabiko_status::EnhancedStatus::transient(4, 1),
            reason: format!("recipient {n}: {}", "because ".repeat(40)),
            diagnostic: String::new(),
            remote_mta: String::new(),
            relay: "none".into(),
            settled: Vec::new(),
        }))
    };
    let disk = SimulatedDisk::new();
    let queue = open(&disk, options());
    let mut new = message(1, 500);
    let envelope = Arc::make_mut(&mut new.envelope);
    envelope.recipients = vec![Recipient { address: "r@example.net".into(), ..Recipient::default() }; 300];
    queue.append_and_wait(new).unwrap();
    let changes: Vec<_> = (0..300).map(|n| (n, reason(n))).collect();
    queue.defer(id(1), Timestamp(9), &changes, false).unwrap();
    for n in 100..300 {
        queue.append_and_wait(message(n, 4000)).unwrap();
        queue.remove(id(n)).unwrap();
    }
    let check = |queue: &Queue| {
        let envelope = queue.envelope(id(1)).unwrap().0;
        assert!((0..).zip(&envelope.recipients).all(|(n, r)| r.state == reason(n)));
    };
    check(&queue);
    // The helper copies in the background.
    let copied = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        queue.stats().copied > 0
    });
    assert!(copied, "{:?}", queue.stats());
    check(&queue);
    drop(queue);
    check(&open(&disk, options()));
}

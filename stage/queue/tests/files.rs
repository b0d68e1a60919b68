//! Messages with files of their own: large ones, and those that stay long; and what is exported and taken back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use yamabiko_envelope::{Content, Envelope, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::{Dice, SimulatedDisk};
use yamabiko_queue::{NewMessage, Options, Queue, QueueError, Stored, readable};

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        flush_after: Duration::from_millis(10),
        write_after: Duration::ZERO,
        spill: 1000,
        ..Options::default()
    }
}

fn open(disk: &SimulatedDisk) -> Arc<Queue> {
    Queue::open(Arc::new(disk.clone()), Path::new("/q"), options()).unwrap().0
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

/// The file of a message, as it is and taken apart.
fn file_of(disk: &SimulatedDisk, n: u64) -> Option<(PathBuf, Vec<u8>, readable::Head)> {
    let path = PathBuf::from(format!("/q/large/{}", id(n)));
    let bytes = disk.read_file(&path)?;
    let head = readable::parse(&bytes).unwrap();
    Some((path, bytes, head))
}

/// Mail comes and goes until the log has turned round often enough for `enough`.
fn turn(queue: &Queue, from: u64, enough: impl Fn() -> bool) {
    for n in from..from + 20_000 {
        if enough() {
            return;
        }
        queue.append_and_wait(message(n, 3000)).unwrap();
        queue.remove(id(n)).unwrap();
    }
    panic!("{:?}", queue.stats());
}

#[test]
fn what_stays_long_gets_a_file_that_people_can_read() {
    let disk = SimulatedDisk::new();
    let queue = open(&disk);
    queue.append_and_wait(message(1, 2000)).unwrap();
    queue.append_and_wait(message(2, 500)).unwrap();
    queue.settle(id(1), &[(0, RecipientState::Done)]).unwrap();
    queue.hold(id(1)).unwrap();
    turn(&queue, 1000, || queue.stats().spilled > 0);
    let (path, bytes, head) = file_of(&disk, 1).unwrap();
    assert_eq!(head.envelope.recipients[0].state, RecipientState::Done);
    assert_eq!(head.envelope.sender, "sender1@example.com");
    assert_eq!(bytes[head.len..], content(1, 2000));
    assert!(head.standing.flags.hold());
    assert!(file_of(&disk, 2).is_none(), "too short for a file");
    // It is copied on, without its content; and is there after a restart.
    let copied = queue.stats().copied;
    turn(&queue, 40_000, || queue.stats().copied > copied + 1);
    drop(queue);
    let queue = open(&disk);
    for (n, len) in [(1, 2000), (2, 500)] {
        assert_eq!(queue.load(id(n)).unwrap().content.to_bytes().unwrap(), content(n, len));
    }
    assert_eq!(queue.envelope(id(1)).unwrap().0.recipients[0].state, RecipientState::Done);
    queue.remove(id(1)).unwrap();
    queue.sync().unwrap();
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        disk.read_file(&path).is_none()
    });
    assert!(gone);
}

#[test]
fn a_damaged_file_is_noticed_and_set_aside() {
    let len = 100_000;
    let disk = SimulatedDisk::new();
    let queue = open(&disk);
    for n in 1..4 {
        queue.append_and_wait(message(n, len)).unwrap();
    }
    let (path, mut bytes, head) = file_of(&disk, 1).unwrap();
    assert_eq!((head.content_len, head.content_crc), (len as u64, crc32c::crc32c(&content(1, len))));
    bytes[head.len + 50_000] ^= 4;
    disk.write_file(&path, bytes.clone());
    let (second, whole, _) = file_of(&disk, 2).unwrap();
    disk.write_file(&second, whole[..whole.len() - 1].to_vec());
    for (n, expected) in
        [(1, "wrong checksum of the content in its file"), (2, "wrong checksum of the content in its file")]
    {
        let Err(QueueError::Damaged(_, what)) = queue.load(id(n)) else { panic!("{n}") };
        assert_eq!(what, expected);
        // The envelope can still be read: the sender can be told.
        assert_eq!(queue.envelope(id(n)).unwrap().0.sender, format!("sender{n}@example.com"));
        queue.set_aside(id(n), what).unwrap();
    }
    let aside = PathBuf::from(format!("/q/corrupt/{}.message", id(1)));
    assert_eq!(disk.read_file(&aside).unwrap(), bytes);
    drop(queue);
    let (queue, recovered) = Queue::open(Arc::new(disk.clone()), Path::new("/q"), options()).unwrap();
    assert_eq!((queue.len(), recovered.damaged.len()), (1, 0), "{:?}", recovered.damaged);
    assert_eq!(queue.load(id(3)).unwrap().content.to_bytes().unwrap(), content(3, len));
}

fn exported(stored: &Stored) -> Vec<u8> {
    let content = stored.content.to_bytes().unwrap();
    let sum = crc32c::crc32c(&content);
    let head = readable::head(&stored.envelope, &stored.meta.standing(), content.len() as u64, sum);
    [head.as_bytes(), &content].concat()
}

#[test]
fn what_is_exported_can_be_taken_back() {
    let disk = SimulatedDisk::new();
    let queue = open(&disk);
    for (n, len) in [(1, 100), (2, 50_000), (3, 0)] {
        queue.append_and_wait(message(n, len)).unwrap();
    }
    queue.defer(id(1), Timestamp(77), &[(0, RecipientState::Pending)], true).unwrap();
    queue.hold(id(2)).unwrap();
    queue.expire(id(3), Timestamp(8)).unwrap();
    let files: Vec<Vec<u8>> = (1..4).map(|n| exported(&queue.load(id(n)).unwrap())).collect();
    let other = SimulatedDisk::new();
    let taken = open(&other);
    for round in 0..2 {
        for file in &files {
            let head = readable::parse(file).unwrap();
            let (tell, told) = mpsc::channel();
            let content = Content::from(file[head.len..].to_vec());
            let done = Box::new(move |result| tell.send(result).unwrap());
            taken.import(head.envelope, head.standing, content, done);
            let result = told.recv().unwrap();
            assert!(if round == 0 { result.is_ok() } else { matches!(result, Err(QueueError::Duplicate(_))) });
        }
    }
    drop(taken);
    let taken = open(&other);
    let back: Vec<Vec<u8>> = (1..4).map(|n| exported(&taken.load(id(n)).unwrap())).collect();
    assert!(files == back);
    let meta = taken.meta(id(1)).unwrap();
    assert_eq!((meta.attempts, meta.next_attempt, meta.flags.warned()), (1, Timestamp(77), true));
}

//! Recipients that are settled one after the other: all that was told is there, and a large mailing is not read again for each of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::SimulatedDisk;
use yamabiko_queue::{NewMessage, Options, Queue};
use yamabiko_status::EnhancedStatus;

const ID: QueueId = QueueId::new(1_000_000, 3);

fn open(disk: &SimulatedDisk, write_after: Duration) -> Arc<Queue> {
    let options =
        Options { segment_size: 4 << 20, flush_after: Duration::from_millis(10), write_after, ..Options::default() };
    Queue::open(Arc::new(disk.clone()), Path::new("/q"), options).unwrap().0
}

fn mailing(recipients: u32) -> NewMessage {
    let mut envelope = Envelope::new(ID, Timestamp(1), "news@example.com");
    let recipient = |n| Recipient { address: format!("reader{n}@site{}.example.net", n % 97), ..Recipient::default() };
    envelope.recipients = (0..recipients).map(recipient).collect();
    NewMessage::new(envelope, b"Subject: news\r\n\r\nnone\r\n".to_vec())
}

fn deferred(n: u32) -> RecipientState {
    RecipientState::Deferred(Box::new(Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: format!("connect to site{n}: Connection timed out"),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".into(),
        settled: Vec::new(),
    }))
}

/// What becomes of a recipient in these tests.
fn state(n: u32) -> RecipientState {
    if n.is_multiple_of(3) { deferred(n) } else { RecipientState::Done }
}

fn all_are_settled(queue: &Queue, recipients: u32) {
    let (envelope, _) = queue.envelope(ID).unwrap();
    assert_eq!(envelope.recipients.len(), recipients as usize);
    for (n, recipient) in (0..).zip(&envelope.recipients) {
        assert_eq!(recipient.state, state(n), "recipient {n} of {recipients}");
    }
}

#[test]
fn what_was_settled_one_by_one_is_there_now_and_later() {
    for write_after in [Duration::ZERO, Duration::from_millis(5), Duration::from_secs(60)] {
        for recipients in [2, 7, 8, 9, 17, 64, 500, 3000] {
            let disk = SimulatedDisk::new();
            let queue = open(&disk, write_after);
            queue.append_and_wait(mailing(recipients)).unwrap();
            for n in 0..recipients {
                queue.settle(ID, &[(n, state(n))]).unwrap();
            }
            all_are_settled(&queue, recipients);
            queue.defer(ID, Timestamp(5), &[(0, state(0))], false).unwrap();
            all_are_settled(&queue, recipients);
            queue.sync().unwrap();
            all_are_settled(&queue, recipients);
            drop(queue);
            all_are_settled(&open(&disk, write_after), recipients);
        }
    }
}

#[test]
fn several_may_settle_one_message() {
    let disk = SimulatedDisk::new();
    let queue = open(&disk, Duration::from_millis(1));
    let (threads, recipients) = (4, 4000);
    queue.append_and_wait(mailing(recipients)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let queue = &queue;
            scope.spawn(move || {
                for n in (thread..recipients).step_by(threads as usize) {
                    queue.settle(ID, &[(n, state(n))]).unwrap();
                }
            });
        }
    });
    all_are_settled(&queue, recipients);
    queue.sync().unwrap();
    drop(queue);
    all_are_settled(&open(&disk, Duration::ZERO), recipients);
}

#[test]
fn a_large_mailing_is_read_a_few_times_and_not_for_each_recipient() {
    // Records that wait for the next commit for long, for a while, and not at all.
    for write_after in [Duration::from_secs(60), Duration::from_millis(5), Duration::ZERO] {
        for recipients in [1000, 4000, 16_000] {
            let disk = SimulatedDisk::new();
            let queue = open(&disk, write_after);
            queue.append_and_wait(mailing(recipients)).unwrap();
            queue.settle(ID, &[(0, state(0))]).unwrap();
            let once = {
                let before = disk.bytes_read();
                queue.envelope(ID).unwrap();
                disk.bytes_read() - before
            };
            let before = disk.bytes_read();
            for n in 1..recipients {
                queue.settle(ID, &[(n, state(n))]).unwrap();
            }
            // Each settle record that is on the disk is looked at once besides, with up to 8 KB around it.
            let (read, most) = (disk.bytes_read() - before, 8 * once + u64::from(recipients) * (8 << 10));
            assert!(
                read <= most,
                "{recipients} recipients, {write_after:?}: {read} bytes read, {once} are the message"
            );
        }
    }
}

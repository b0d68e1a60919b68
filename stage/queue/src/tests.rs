//! Tests of the whole on a real disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_status::EnhancedStatus;

use crate::fs::RealFileSystem;
use crate::{Inspection, NewMessage, Options, Queue, QueueError, Recovered, State};

/// Small, so that a test uses many.
const SEGMENT: u32 = 64 << 10;

fn small() -> Options {
    Options { segment_size: SEGMENT, ..Options::default() }
}

fn open(dir: &Path) -> (Arc<Queue>, Recovered) {
    Queue::open(Arc::new(RealFileSystem), dir, small()).unwrap()
}

fn id(n: u64) -> QueueId {
    QueueId::new(1_795_280_034_000_000 + n, 1)
}

fn message(n: u64, recipients: usize, content: &str) -> NewMessage {
    let mut envelope = Envelope::new(id(n), Timestamp(id(n).micros()), "sender@example.com");
    for r in 0..recipients {
        envelope.recipients.push(Recipient { address: format!("r{r}@example.net"), ..Recipient::default() });
    }
    NewMessage::new(envelope, content.as_bytes().to_vec())
}

fn failure(reason: &str) -> Box<Failure> {
    Box::new(Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: reason.into(),
        diagnostic: String::new(),
        remote_mta: "mx.example.net".into(),
        relay: "none".into(),
        settled: Vec::new(),
    })
}

fn states(queue: &Queue, n: u64) -> Vec<RecipientState> {
    queue.load(id(n)).unwrap().envelope.recipients.iter().map(|r| r.state.clone()).collect()
}

#[test]
fn what_is_stored_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (queue, recovered) = open(dir.path());
        assert_eq!(recovered, Recovered::default());
        for n in 0..5 {
            queue.append_and_wait(message(n, 2, &format!("Subject: {n}\n\nbody\n"))).unwrap();
        }
        assert!(matches!(queue.append_and_wait(message(0, 1, "")), Err(QueueError::Duplicate(_))));
        queue.settle(id(1), &[(1, RecipientState::Done)]).unwrap();
        queue.defer(id(2), Timestamp(99), &[(0, RecipientState::Deferred(failure("busy")))], true).unwrap();
        queue.remove(id(3)).unwrap();
        queue.hold(id(4)).unwrap();
        assert_eq!(states(&queue, 1), [RecipientState::Pending, RecipientState::Done]);
    }
    for _ in 0..3 {
        let (queue, recovered) = open(dir.path());
        assert_eq!((recovered.messages, recovered.newest), (4, Some(id(4))));
        assert!(recovered.damaged.is_empty(), "{:?}", recovered.damaged);
        assert_eq!(queue.load(id(0)).unwrap().content.to_bytes().unwrap(), "Subject: 0\n\nbody\n");
        assert_eq!(states(&queue, 1), [RecipientState::Pending, RecipientState::Done]);
        assert_eq!(states(&queue, 2)[0], RecipientState::Deferred(failure("busy")));
        let meta = queue.meta(id(2)).unwrap();
        assert_eq!((meta.attempts, meta.next_attempt, meta.state()), (1, Timestamp(99), State::Deferred));
        assert!(meta.flags.warned());
        assert_eq!(queue.meta(id(4)).unwrap().state(), State::Hold);
        assert!(matches!(queue.load(id(3)), Err(QueueError::NotFound(_))));
        assert!(matches!(Queue::open(Arc::new(RealFileSystem), dir.path(), small()), Err(QueueError::Locked(_))));
        let inspection = Inspection::open(Arc::new(RealFileSystem), dir.path()).unwrap();
        assert_eq!(inspection.list().count(), 4);
        assert_eq!(inspection.load(id(4)).unwrap().content.to_bytes().unwrap(), "Subject: 4\n\nbody\n");
    }
}

/// What is recorded of a message without a word about its recipients costs nothing after the next start, either: a list of
/// such records for each message of a long queue would be larger than all else.
#[test]
fn where_a_message_stands_is_no_record_to_be_read_again() {
    for indexed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let records = |queue: &Queue| {
            (0..100).map(|n| queue.with_state(|state| state.index.messages.changes(id(n)).len())).collect::<Vec<_>>()
        };
        let before = {
            let (queue, _) = open(dir.path());
            for n in 0..100 {
                queue.append_and_wait(message(n, 1, &"text\n".repeat(400))).unwrap();
                queue.settle(id(n), &[(0, RecipientState::Deferred(failure("no")))]).unwrap();
                queue.defer(id(n), Timestamp(7 + n), &[], false).unwrap();
                queue.sync().unwrap();
            }
            assert!(queue.rest(Duration::from_secs(20)));
            records(&queue)
        };
        assert_eq!(before, [1; 100]);
        if !indexed {
            for file in std::fs::read_dir(dir.path().join("log")).unwrap().flatten() {
                if file.path().extension().is_some_and(|kind| kind == "idx") {
                    std::fs::remove_file(file.path()).unwrap();
                }
            }
        }
        let (queue, recovered) = open(dir.path());
        assert_eq!(recovered.indexed > 0, indexed);
        assert_eq!(records(&queue), before);
        for n in 0..100 {
            assert_eq!(queue.meta(id(n)).unwrap().next_attempt, Timestamp(7 + n));
            assert_eq!(states(&queue, n), [RecipientState::Deferred(failure("no"))]);
        }
    }
}

/// Each of the queue's threads, once, also when there is nothing to do; and mail goes on.
#[test]
fn its_threads_do_what_they_are_asked_to() {
    static DONE: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    fn errand() {
        DONE.lock().unwrap().push(std::thread::current().name().unwrap().to_owned());
    }
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = open(dir.path());
    for n in 0..3 {
        assert!(queue.rest(Duration::from_secs(20)));
        queue.tidy(errand);
        let begin = std::time::Instant::now();
        while DONE.lock().unwrap().len() < 2 && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut done = std::mem::take(&mut *DONE.lock().unwrap());
        done.sort();
        assert_eq!(done, ["queue-log", "queue-pool"]);
        queue.append_and_wait(message(n, 1, "Subject: mail\n\n")).unwrap();
    }
    queue.close();
    assert_eq!(*DONE.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn large_messages_have_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let body = "x".repeat(100_000);
    {
        let (queue, _) = open(dir.path());
        queue.append_and_wait(message(1, 1, &body)).unwrap();
        queue.append_and_wait(message(2, 1, &body)).unwrap();
        assert_eq!(queue.load(id(1)).unwrap().content.to_bytes().unwrap(), body);
        queue.remove(id(2)).unwrap();
    }
    let (queue, recovered) = open(dir.path());
    assert_eq!(recovered.messages, 1);
    assert!(recovered.damaged.is_empty());
    assert_eq!(queue.load(id(1)).unwrap().content.to_bytes().unwrap(), body);
    queue.close();
    let files: Vec<_> = std::fs::read_dir(dir.path().join("large")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(files.contains(&id(1).to_string().into()), "{files:?}");
}

#[test]
fn segments_are_used_again_and_old_mail_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let body = "y".repeat(4000);
    {
        let (queue, _) = open(dir.path());
        // Every hundredth stays.
        for n in 0..2000 {
            queue.append_and_wait(message(n, 1, &body)).unwrap();
            if n % 100 == 5 {
                queue.defer(id(n), Timestamp(7), &[(0, RecipientState::Deferred(failure("x")))], false).unwrap();
            } else {
                queue.remove(id(n)).unwrap();
            }
            if n % 50 == 49 {
                // However busy the machine is: what is counted below is what remains when the helper has done its work.
                queue.sync().unwrap();
                assert!(queue.rest(Duration::from_secs(60)), "{:?}", queue.stats());
            }
        }
        let stats = queue.stats();
        // What counts, fourfold, and four more: the promise of the helper. And the one that is written to.
        let most = 4 * stats.live_bytes / u64::from(SEGMENT) + 5;
        assert!(stats.copied > 0 && stats.segments as u64 <= most, "{stats:?}");
        let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
        // Each used one may have a side index, those that are ready may have an old one.
        let few = 2 * (stats.segments + stats.segments_ready);
        assert!(files <= few && files < 80, "{files} files, {few} at most: {stats:?}");
    }
    let (queue, recovered) = open(dir.path());
    assert_eq!(recovered.messages, 20);
    assert!(recovered.damaged.is_empty(), "{:?}", recovered.damaged);
    for n in (5..2000).step_by(100) {
        assert_eq!(states(&queue, n), [RecipientState::Deferred(failure("x"))]);
        assert_eq!(queue.load(id(n)).unwrap().content.to_bytes().unwrap(), body);
        assert_eq!(queue.meta(id(n)).unwrap().attempts, 1);
    }
}

#[test]
fn replacing_is_one_step() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (queue, _) = open(dir.path());
        queue.append_and_wait(message(1, 1, "old\n")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        queue.replace(id(1), message(2, 1, "new\n"), Box::new(move |r| tell.send(r.is_ok()).unwrap()));
        assert_eq!(told.recv(), Ok(true));
        assert_eq!(queue.len(), 1);
    }
    let (queue, recovered) = open(dir.path());
    assert_eq!(recovered.messages, 1);
    assert_eq!(queue.load(id(2)).unwrap().content.to_bytes().unwrap(), "new\n");
}

#[test]
fn many_small_settlements_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (queue, _) = open(dir.path());
        queue.append_and_wait(message(1, 100, "m\n")).unwrap();
        for r in 0..90 {
            queue.settle(id(1), &[(r, RecipientState::Done)]).unwrap();
            if r % 7 == 0 {
                queue.sync().unwrap();
            }
        }
        assert!(matches!(queue.settle(id(1), &[(100, RecipientState::Done)]), Err(QueueError::Option(_))));
    }
    let (queue, _) = open(dir.path());
    let states = states(&queue, 1);
    assert_eq!(states.iter().filter(|s| **s == RecipientState::Done).count(), 90);
    assert_eq!(states[90], RecipientState::Pending);
}

#[test]
fn many_threads_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = open(dir.path());
    std::thread::scope(|scope| {
        for t in 0..8 {
            let queue = &queue;
            scope.spawn(move || {
                for n in 0..100 {
                    queue.append_and_wait(message(t * 1000 + n, 1, "hello\n")).unwrap();
                }
            });
        }
    });
    assert_eq!(queue.len(), 800);
    let stats = queue.stats();
    assert!(stats.syncs < stats.appended, "{stats:?}");
}

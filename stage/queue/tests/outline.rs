//! A listing shows what reading each message by itself shows.

use std::path::Path;
use std::sync::Arc;

use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::fs::RealFileSystem;
use yamabiko_queue::{Inspection, NewMessage, Options, OutlineState, Queue};
use yamabiko_status::EnhancedStatus;

fn failure(reason: String) -> Box<Failure> {
    Box::new(Failure {
        status: EnhancedStatus::transient(4, 1),
        reason,
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".to_owned(),
        settled: Vec::new(),
    })
}

fn id(n: u64) -> QueueId {
    QueueId::new(1_795_000_000_000_000 + n, 1)
}

/// A message as text: everything that a listing shows.
type Shown = (QueueId, bool, u64, u64, String, Vec<(String, String, String)>);

fn by_itself(queue: &Queue, id: QueueId) -> Shown {
    let (envelope, meta) = queue.envelope(id).unwrap();
    let recipients = envelope.recipients.iter().map(|r| {
        let state = match &r.state {
            RecipientState::Pending => "pending".to_owned(),
            RecipientState::Deferred(failure) => format!("deferred {}", failure.reason),
            RecipientState::Failed(failure) => format!("failed {}", failure.reason),
            RecipientState::Done => "done".to_owned(),
        };
        (r.address.clone(), r.original.clone(), state)
    });
    (id, meta.flags.hold(), envelope.arrival.0, envelope.size, envelope.sender.clone(), recipients.collect())
}

fn shown(outline: &yamabiko_queue::Outline<'_>) -> Shown {
    let recipients = outline.recipients.iter().map(|r| {
        let state = match r.state {
            OutlineState::Pending => "pending".to_owned(),
            OutlineState::Deferred(reason) => format!("deferred {reason}"),
            OutlineState::Failed(reason) => format!("failed {reason}"),
            OutlineState::Done => "done".to_owned(),
        };
        (r.address.to_owned(), r.original.to_owned(), state)
    });
    let meta = outline.meta;
    let sender = outline.sender.to_owned();
    (meta.queue_id, meta.flags.hold(), outline.arrival.0, outline.size, sender, recipients.collect())
}

fn listed(queue: &Queue) -> Vec<Shown> {
    let (mut all, mut after) = (Vec::new(), None);
    while let Some(last) = queue.outline(after, |_| true, |outline| all.push(shown(outline))) {
        after = Some(last);
    }
    all
}

/// Few and many recipients, short and long reasons, small and large contents, changes that wait to be written.
fn fill(queue: &Queue, count: u64) {
    for n in 0..count {
        let recipients = match n % 97 {
            0 => 3000,
            n if n % 5 == 0 => 7,
            _ => 1,
        };
        let mut envelope = Envelope::new(id(n), Timestamp(1_795_000_000_000_000 + n), "");
        envelope.sender = if n % 7 == 0 { String::new() } else { format!("sender{n}@example.jp") };
        envelope.recipients = (0..recipients)
            .map(|r| Recipient {
                address: format!("r{r}@d{}.example", n % 13),
                original: if r % 2 == 0 { format!("given{r}@x.example") } else { String::new() },
                ..Recipient::default()
            })
            .collect();
        let content = vec![b'x'; if n % 11 == 0 { 70_000 } else { 1000 }];
        envelope.size = content.len() as u64;
        queue.append(NewMessage::new(envelope, content), Box::new(|result| result.unwrap()));
    }
    queue.sync().unwrap();
    for n in 0..count {
        let reason = format!("connect to mx.d{}.example: {}", n % 13, "refused ".repeat((n % 300) as usize));
        let state = RecipientState::Deferred(failure(reason));
        match n % 6 {
            0 => queue.defer(id(n), Timestamp(9), &[(0, state)], false).unwrap(),
            1 => {
                queue.settle(id(n), &[(0, RecipientState::Failed(failure("user unknown".into())))]).unwrap();
                queue.defer(id(n), Timestamp(9), &[(0, state)], true).unwrap();
            }
            2 => queue.hold(id(n)).unwrap(),
            3 => queue.remove(id(n)).unwrap(),
            4 => queue.settle(id(n), &[(0, RecipientState::Done)]).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_listing_is_what_reading_each_shows() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_size: 1 << 20, memory: 200_000, ..Options::default() };
    let open = |path: &Path| Queue::open(Arc::new(RealFileSystem), path, options.clone()).unwrap().0;
    let queue = open(dir.path());
    fill(&queue, 1500);
    // Some changes are not written yet.
    let all = listed(&queue);
    assert_eq!(all.len(), queue.len());
    for message in &all {
        assert_eq!(*message, by_itself(&queue, message.0));
    }
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    // Only some are wanted.
    let (mut held, mut after) = (Vec::new(), None);
    while let Some(last) = queue.outline(after, |meta| meta.flags.hold(), |outline| held.push(shown(outline))) {
        after = Some(last);
    }
    assert_eq!(held, all.iter().filter(|message| message.1).cloned().collect::<Vec<_>>());
    queue.close();
    drop(queue);
    // After a restart nothing is in memory; and without an engine.
    let queue = open(dir.path());
    assert_eq!(listed(&queue), all);
    queue.close();
    let inspection = Inspection::open(Arc::new(RealFileSystem), dir.path()).unwrap();
    let (mut offline, mut after) = (Vec::new(), None);
    while let Some(last) = inspection.outline(after, |_| true, |outline| offline.push(shown(outline))) {
        after = Some(last);
    }
    assert_eq!(offline, all);
}

#[test]
fn an_empty_queue_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(Arc::new(RealFileSystem), dir.path(), Options::default()).unwrap().0;
    assert_eq!(queue.outline(None, |_| true, |_| panic!("there is nothing")), None);
}

//! Many messages at once, by what they are: `yamabiko queue list`, `count`, `hold`, `delete`, ... on a running engine,
//! and how the queue itself is.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use yamabiko_envelope::Timestamp;
use yamabiko_ipc::control::{Go, Reply, What};
use yamabiko_ipc::frame;
use yamabiko_ipc::listing::Writer;
use yamabiko_queue::{Found, Meta, Predicate, Queue, Seen, State, Stats};

use crate::control::{Control, PATIENCE, named, receive, reply, write};
use crate::listing::put_selected;
use crate::orders::Order;

/// Entries that are written at once.
const BATCH: usize = 1000;
/// Kilobytes of lists that wait for a word: some eight million messages.
pub(crate) const KEPT: usize = 64 << 10;
/// Bytes of that word, at most.
const WORD: usize = 1 << 10;

/// What was asked for, and when.
pub(crate) struct Meant {
    predicate: Predicate,
    then: Timestamp,
}

impl Meant {
    /// Of a part of those that were found, those that are still meant. What happens to them between this and a change is as
    /// if it happened after the change: a delivery that is under way when its message is held or deleted does the same.
    pub(crate) async fn still(self: &Arc<Self>, queue: &Arc<Queue>, part: Vec<Seen>) -> Vec<Meta> {
        let (meant, queue) = (Arc::clone(self), Arc::clone(queue));
        let looked = tokio::task::spawn_blocking(move || queue.still(&meant.predicate, meant.then, &part));
        looked.await.unwrap_or_default()
    }
}

/// What a list takes; none if it is beyond all measure.
fn kilobytes(found: &Found) -> Option<u32> {
    u32::try_from(found.bytes().div_ceil(1024)).ok()
}

impl Control {
    /// Answers [`yamabiko_ipc::control::Request::Select`]; a listing is written here, and then there is no answer left.
    pub(crate) async fn select(
        &self,
        stream: &mut UnixStream,
        what: What,
        words: Vec<String>,
        uid: u32,
    ) -> io::Result<Option<Reply>> {
        let refused = |doing: &str| Ok(Some(Reply::Refused(format!("User {} is not allowed to {doing}", named(uid)))));
        match what {
            What::List | What::Count if self.may(uid, "authorized_mailq_users").await.is_err() => {
                return refused("view the mail queue");
            }
            What::Flush if self.may(uid, "authorized_flush_users").await.is_err() => {
                return refused("flush the mail queue");
            }
            What::Operate(_) if !self.is_master(uid) => return refused("change the mail queue"),
            _ => {}
        }
        let predicate = match Predicate::parse(&words) {
            Ok(predicate) => predicate,
            Err(why) => return Ok(Some(Reply::Refused(why))),
        };
        let meant = Arc::new(Meant { predicate, then: Timestamp::now() });
        let found = self.find(&meant).await;
        let count = Reply::Count(found.len() as u64);
        match what {
            What::Count => return Ok(Some(count)),
            What::List => {
                self.show(stream, &meant, &found).await?;
                return Ok(None);
            }
            What::Flush | What::Operate(_) if found.is_empty() => return Ok(Some(count)),
            What::Flush | What::Operate(_) => {}
        }
        reply(stream, &count).await?;
        // Kept while somebody thinks about it; if there are too many such lists, looked for again.
        let kept = kilobytes(&found).and_then(|n| Arc::clone(&self.kept).try_acquire_many_owned(n).ok());
        let found = kept.is_some().then_some(found);
        match receive(stream, WORD).await {
            Ok(Some((kind, payload))) => {
                if let Err(error) = frame::decode::<Go>(kind, &payload) {
                    return Ok(Some(Reply::Refused(format!("not understood: {error}"))));
                }
            }
            // Somebody thought better of it.
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let seconds = PATIENCE.as_secs();
                let why = format!("nothing was changed: no word came for {seconds} seconds after the count");
                return Ok(Some(Reply::Refused(why)));
            }
            Err(error) => return Err(error),
        }
        let found = match found {
            Some(found) => found,
            None => self.find(&meant).await,
        };
        Ok(Some(Reply::Count(match what {
            What::Operate(operation) => crate::operate::selected(&self.engine, operation, &meant, &found).await,
            _ => self.try_now(&meant, &found).await,
        })))
    }

    async fn find(&self, meant: &Arc<Meant>) -> Found {
        let (queue, meant) = (Arc::clone(self.engine.queue()), Arc::clone(meant));
        let found = tokio::task::spawn_blocking(move || queue.select(&meant.predicate, meant.then));
        // It does not panic; if it did, there would be nothing to be done to anything.
        found.await.unwrap_or_default()
    }

    async fn show(&self, stream: &mut UnixStream, meant: &Arc<Meant>, found: &Found) -> io::Result<()> {
        let mut rest = found.iter();
        loop {
            let batch: Vec<Seen> = rest.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let (queue, meant) = (Arc::clone(self.engine.queue()), Arc::clone(meant));
            let bytes = tokio::task::spawn_blocking(move || {
                let mut writer = Writer::new();
                let batch = queue.still(&meant.predicate, meant.then, &batch);
                put_selected(&mut writer, &batch, |after, wanted, show| queue.outline(after, wanted, show));
                if writer.is_empty() { Ok(Vec::new()) } else { writer.into_frame() }
            });
            let bytes = bytes.await.unwrap_or_else(|_| Err(io::Error::other("the listing broke off")))?;
            write(stream, &bytes).await?;
        }
        write(stream, &frame::encode(&Reply::End)?).await
    }

    /// Has messages tried now that wait for their time; held mail stays held. How many there were.
    async fn try_now(&self, meant: &Arc<Meant>, found: &Found) -> u64 {
        let (mut tried, mut rest) = (0, found.iter());
        loop {
            let part: Vec<Seen> = rest.by_ref().take(BATCH).collect();
            if part.is_empty() {
                return tried;
            }
            let waits = |meta: &Meta| matches!(meta.state(), State::Deferred | State::Incoming);
            for meta in meant.still(self.engine.queue(), part).await.into_iter().filter(waits) {
                let (answer, heard) = oneshot::channel();
                self.engine.manager().send(Order::FlushMessage(meta.queue_id, answer));
                tried += u64::from(heard.await.unwrap_or(false));
            }
        }
    }

    /// How the queue is, for people: lines of `name: value`.
    pub(crate) async fn queue_status(&self) -> String {
        let queue = Arc::clone(self.engine.queue());
        let looked = tokio::task::spawn_blocking(move || {
            (queue.counts(), queue.stats(), queue.failure(), yamabiko_queue::set_aside_files(queue.directory()))
        });
        let Ok((counts, stats, failure, aside)) = looked.await else { return "state: unknown".to_owned() };
        let state = match &failure {
            Some(why) => format!("READ-ONLY, nothing is accepted or delivered until the next start: {why}"),
            None if stats.short_of_space => "short of space, acceptance is slowed down".to_owned(),
            None => "well".to_owned(),
        };
        let mut text = format!("state: {state}\n");
        let Stats { segments, segments_ready, live_bytes, memory_bytes, appended, syncs, copied, spilled, .. } = stats;
        let yamabiko_queue::Counts { incoming, active, deferred, hold } = counts;
        let _ = writeln!(text, "messages: {incoming} incoming, {active} active, {deferred} deferred, {hold} hold");
        let _ =
            writeln!(text, "log: {segments} segments in use, {segments_ready} ready, {live_bytes} bytes that count");
        let _ = writeln!(text, "memory: {memory_bytes} bytes of messages before their first attempt");
        let _ = writeln!(
            text,
            "since the start: {appended} stored with {syncs} syncs, {copied} copied forward, {spilled} given their own file"
        );
        let _ = write!(text, "set aside: {}", aside.len());
        for file in aside {
            let _ = write!(text, "\n  {file}");
        }
        text
    }
}

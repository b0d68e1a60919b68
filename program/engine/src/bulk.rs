//! Many messages at once, by what they are: `yamabiko queue list`, `count`, `hold`, `delete`, ... on a running engine,
//! and how the queue itself is.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use yamabiko_envelope::Timestamp;
use yamabiko_ipc::control::{Reply, What};
use yamabiko_ipc::frame;
use yamabiko_ipc::listing::Writer;
use yamabiko_queue::{Meta, Predicate, State, Stats};

use crate::control::{Control, named, write};
use crate::listing::put_selected;
use crate::orders::Order;

/// Entries that are written at once.
const BATCH: usize = 1000;

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
        let queue = Arc::clone(self.engine.queue());
        let found = tokio::task::spawn_blocking(move || queue.select(&predicate, Timestamp::now())).await;
        let found = found.unwrap_or_default();
        Ok(Some(match what {
            What::Count => Reply::Count(found.len() as u64),
            What::List => {
                self.show(stream, found).await?;
                return Ok(None);
            }
            What::Flush => Reply::Count(self.try_now(found).await),
            What::Operate(operation) => Reply::Count(crate::operate::selected(&self.engine, operation, found).await),
        }))
    }

    async fn show(&self, stream: &mut UnixStream, found: Vec<Meta>) -> io::Result<()> {
        for batch in found.chunks(BATCH) {
            let (batch, queue) = (batch.to_vec(), Arc::clone(self.engine.queue()));
            let bytes = tokio::task::spawn_blocking(move || {
                let mut writer = Writer::new();
                put_selected(&mut writer, &batch, |after, wanted, show| queue.outline(after, wanted, show));
                if writer.is_empty() { Ok(Vec::new()) } else { writer.into_frame() }
            });
            let bytes = bytes.await.unwrap_or_else(|_| Err(io::Error::other("the listing broke off")))?;
            write(stream, &bytes).await?;
        }
        write(stream, &frame::encode(&Reply::End)?).await
    }

    /// Has messages tried now that wait for their time; held mail stays held. How many there were.
    async fn try_now(&self, found: Vec<Meta>) -> u64 {
        let mut tried = 0;
        for meta in found.into_iter().filter(|meta| matches!(meta.state(), State::Deferred | State::Incoming)) {
            let (answer, heard) = oneshot::channel();
            self.engine.manager().send(Order::FlushMessage(meta.queue_id, answer));
            tried += u64::from(heard.await.unwrap_or(false));
        }
        tried
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

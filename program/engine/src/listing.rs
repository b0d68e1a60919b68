//! The queue as `mailq` shows it, out of the store onto the wire.
//!
//! A page at a time: while one is being written to the caller the next is read, and no more than these two are ever in
//! memory, however slowly the caller reads and however long the queue is.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use yamabiko_envelope::QueueId;
use yamabiko_ipc::control::{QueueName, Reply};
use yamabiko_ipc::frame;
use yamabiko_ipc::listing::{Left, Message, Name, Writer};
use yamabiko_queue::{Meta, Outline, OutlineState, Queue, State};

pub use crate::pickup::Waiting;

/// Bytes of a page, about.
const PAGE: usize = 128 << 10;

/// Postfix's queue for a state.
pub fn name_of(state: State) -> QueueName {
    match state {
        State::Incoming => QueueName::Incoming,
        State::Active => QueueName::Active,
        State::Deferred => QueueName::Deferred,
        State::Hold => QueueName::Hold,
    }
}

/// Adds a message with the recipients that are left.
pub fn put(writer: &mut Writer, outline: &Outline<'_>) {
    let Outline { meta, arrival, size, sender, recipients } = *outline;
    let (queue, forced_expire) = (name_of(meta.state()), meta.flags.expire());
    let message = Message { queue, name: Name::Id(meta.queue_id), arrival, size, forced_expire, sender };
    let left = recipients.iter().filter_map(|recipient| {
        let left = match recipient.state {
            OutlineState::Pending => Left::Untried,
            OutlineState::Deferred(reason) => Left::Delay(reason),
            OutlineState::Failed(reason) => Left::Bounce(reason),
            OutlineState::Done => return None,
        };
        Some((recipient.address, left))
    });
    writer.message(&message, left);
}

/// Adds these messages, which are in the order of their IDs. `outline` shows the next ones after an ID, as
/// [`Queue::outline`] does.
pub fn put_selected(
    writer: &mut Writer,
    selected: &[Meta],
    mut outline: impl FnMut(Option<QueueId>, &mut dyn FnMut(&Meta) -> bool, &mut dyn FnMut(&Outline<'_>)) -> Option<QueueId>,
) {
    let (Some(first), Some(end)) = (selected.first(), selected.last()) else { return };
    let mut after = first.queue_id.micros().checked_sub(1).map(|before| QueueId::new(before, u32::MAX));
    let mut wanted = |meta: &Meta| selected.binary_search_by_key(&meta.queue_id, |known| known.queue_id).is_ok();
    while let Some(last) = outline(after, &mut wanted, &mut |outline| put(writer, outline)) {
        after = Some(last);
        if last >= end.queue_id {
            return;
        }
    }
}

/// Adds what waits in `maildrop/`.
pub fn put_dropped(writer: &mut Writer, dropped: &Waiting) {
    let message = Message {
        queue: QueueName::Maildrop,
        name: Name::File(&dropped.name),
        arrival: dropped.time,
        size: dropped.size,
        forced_expire: false,
        sender: &dropped.sender,
    };
    writer.message(&message, dropped.recipients.iter().map(|address| (address.as_str(), Left::Untried)));
}

/// What waits in a `maildrop` directory.
pub fn dropped_files(maildrop: &Path) -> impl Iterator<Item = Waiting> {
    crate::pickup::listing(maildrop)
}

/// A part of the listing, ready to be written, and after which message the next one begins.
struct Page {
    bytes: Vec<u8>,
    next: Option<QueueId>,
}

/// What is written, and what is being read meanwhile.
pub struct Listing {
    queue: Arc<Queue>,
    /// States that are wanted and not shown yet, the next one last.
    states: Vec<State>,
    state: State,
}

impl Listing {
    /// Of these queues; all of them if none is named.
    pub fn new(queue: Arc<Queue>, queues: &[QueueName]) -> Self {
        // Active and incoming first, as showq goes through its directories.
        let order = [State::Hold, State::Deferred, State::Incoming, State::Active];
        let wanted = |state: &State| queues.is_empty() || queues.contains(&name_of(*state));
        Self { queue, states: order.into_iter().filter(wanted).collect(), state: State::Active }
    }

    /// Writes all of it, `maildrop` first. A caller that reads nothing for `patience` is given up.
    pub async fn write(
        mut self,
        stream: &mut UnixStream,
        maildrop: Option<&Path>,
        patience: Duration,
    ) -> io::Result<()> {
        if let Some(maildrop) = maildrop {
            let maildrop = maildrop.to_path_buf();
            for bytes in tokio::task::spawn_blocking(move || dropped(&maildrop)).await.unwrap_or_default() {
                send(stream, &bytes, patience).await?;
            }
        }
        let mut coming = self.next_state();
        while let Some(page) = coming.take() {
            let page = page.await.unwrap_or_else(|_| Err(io::Error::other("the listing broke off")))?;
            coming = match page.next {
                Some(after) => Some(self.read(Some(after))),
                None => self.next_state(),
            };
            if !page.bytes.is_empty() {
                send(stream, &page.bytes, patience).await?;
            }
        }
        send(stream, &frame::encode(&Reply::End)?, patience).await
    }

    fn next_state(&mut self) -> Option<JoinHandle<io::Result<Page>>> {
        self.state = self.states.pop()?;
        Some(self.read(None))
    }

    fn read(&self, after: Option<QueueId>) -> JoinHandle<io::Result<Page>> {
        let (queue, state) = (Arc::clone(&self.queue), self.state);
        tokio::task::spawn_blocking(move || page(&queue, state, after))
    }
}

/// Messages of a state, one page of them.
fn page(queue: &Queue, state: State, mut after: Option<QueueId>) -> io::Result<Page> {
    let mut writer = Writer::with_capacity(PAGE + PAGE / 2);
    let wanted = |meta: &Meta| meta.state() == state;
    loop {
        match queue.outline(after, wanted, |outline| put(&mut writer, outline)) {
            None => return Ok(Page { bytes: framed(writer)?, next: None }),
            Some(last) if writer.len() >= PAGE => return Ok(Page { bytes: framed(writer)?, next: Some(last) }),
            Some(last) => after = Some(last),
        }
    }
}

/// A frame of what was written; nothing if there is none of it.
fn framed(writer: Writer) -> io::Result<Vec<u8>> {
    if writer.is_empty() { Ok(Vec::new()) } else { writer.into_frame() }
}

/// What waits in `maildrop/`, in frames.
fn dropped(maildrop: &Path) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut writer = Writer::new();
    for dropped in crate::pickup::listing(maildrop) {
        put_dropped(&mut writer, &dropped);
        if writer.len() >= PAGE {
            frames.extend(framed(std::mem::take(&mut writer)));
        }
    }
    frames.extend(framed(writer));
    frames.retain(|frame| !frame.is_empty());
    frames
}

async fn send(stream: &mut UnixStream, bytes: &[u8], patience: Duration) -> io::Result<()> {
    tokio::time::timeout(patience, stream.write_all(bytes)).await?
}

//! Reading a message and finding out where its recipients go, a portion of them at a time.

use std::sync::Arc;

use yamabiko_envelope::{Content, Envelope, QueueId, Severity};
use yamabiko_queue::{Queue, QueueError};
use yamabiko_schedule::Route;

use crate::generation::Current;
use crate::outcome::is_open;

/// A message that was read, and where its recipients go.
pub struct Routing {
    /// What was read; `None` where it could not be.
    pub found: Option<(Arc<Envelope>, Option<Content>, bool)>,
    /// Where they go.
    pub routes: Vec<Route>,
    /// Addresses as resolved, where they differ from the envelope's.
    pub addresses: Vec<(u32, String)>,
    /// Recipients that could not be routed for now.
    pub troubled: Vec<u32>,
    /// There are more recipients than this portion.
    pub more: bool,
    /// The position up to which the recipients were looked at.
    pub next: usize,
    /// It is the first portion.
    pub first: bool,
}

impl Routing {
    /// Nothing was found.
    pub fn none(next: usize, first: bool) -> Self {
        let (routes, addresses, troubled) = (Vec::new(), Vec::new(), Vec::new());
        Self { found: None, routes, addresses, troubled, more: false, next, first }
    }
}

/// A message with more recipients than this goes out in many deliveries, which share what was read.
const MANY: usize = 10;

/// What is needed to route a message, and its content where many deliveries will want it.
fn envelope_of(queue: &Queue, current: &Current, message: QueueId) -> Option<(Arc<Envelope>, Option<Content>, bool)> {
    let (envelope, meta) = queue.envelope(message).map_err(|error| unreadable(queue, current, message, error)).ok()?;
    let shared = (envelope.recipients.len() > MANY).then(|| content_of(queue, current, message)).flatten();
    Some((envelope, shared, meta.flags.expire()))
}

/// The content of a message; none when it is gone or cannot be read, which was said then.
pub fn content_of(queue: &Queue, current: &Current, message: QueueId) -> Option<Content> {
    let stored = queue.load(message).map_err(|error| unreadable(queue, current, message, error)).ok()?;
    Some(stored.content)
}

/// Says why a message cannot be read, where it is still there; damage is set aside.
fn unreadable(queue: &Queue, current: &Current, message: QueueId, error: QueueError) {
    match error {
        QueueError::NotFound(_) => {}
        QueueError::Damaged(id, what) => {
            current.say(Severity::Error, Some(id), &format!("damaged message is set aside in corrupt/: {what}"));
            let _ = queue.set_aside(id, what);
        }
        error => current.complain(Some(message), &error),
    }
}

/// Reads a message if need be and finds out where the next of its recipients go: at most `limit`, from the position `from` on.
pub async fn route(
    queue: Arc<Queue>,
    current: Current,
    message: QueueId,
    known: Option<(Arc<Envelope>, Option<Content>, bool)>,
    from: usize,
    limit: usize,
    first: bool,
) -> Routing {
    let mut routing = Routing::none(from, first);
    let found = match known {
        Some(known) => Some(known),
        None => envelope_of(&queue, &current, message),
    };
    let Some((envelope, content, expire)) = found else { return routing };
    if expire {
        // It is returned without another attempt.
        routing.found = Some((envelope, content, expire));
        return routing;
    }
    let generation = current.get();
    let mut left = limit;
    for (index, recipient) in (0u32..).zip(&envelope.recipients).skip(from) {
        if !is_open(&recipient.state) {
            continue;
        }
        if left == 0 {
            routing.more = true;
            break;
        }
        left -= 1;
        routing.next = index as usize + 1;
        match generation.route(&envelope, recipient, current.events()).await {
            Ok((route, address)) => {
                if address != recipient.address {
                    routing.addresses.push((index, address));
                }
                routing.routes.push(Route { recipient: index, ..route });
            }
            Err(why) => {
                current.say(Severity::Warning, Some(message), &why);
                routing.troubled.push(index);
            }
        }
    }
    routing.found = Some((envelope, content, expire));
    routing
}

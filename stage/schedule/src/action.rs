//! What the schedule and the engine say to each other.

use std::borrow::Cow;
use std::sync::Arc;

use yamabiko_envelope::{QueueId, Reuse};
use yamabiko_status::EnhancedStatus;

#[cfg(doc)]
use crate::Schedule;
use crate::learned::Lesson;

/// Names one delivery in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub(crate) u64);

/// Where one recipient is to go, as the router said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Position in the envelope's recipients.
    pub recipient: u32,
    /// Name of the transport.
    pub transport: Arc<str>,
    /// Next hop as the delivery agent wants it.
    pub nexthop: Arc<str>,
    /// Name of the destination, for concurrency: see [`destination_name`].
    pub destination: Arc<str>,
}

/// The name of a destination: the next hop in lower case; where the transport takes one recipient at a time
/// ([`Schedule::one_recipient`]) that recipient's local part, without address extension, at the next hop.
pub fn destination_name<'a>(nexthop: &'a str, local_part: Option<&str>) -> Cow<'a, str> {
    match local_part {
        Some(local) => format!("{local}@{nexthop}").to_lowercase().into(),
        // Nearly always a next hop is its own name.
        None if nexthop.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) => nexthop.into(),
        None => nexthop.to_lowercase().into(),
    }
}

/// Something for a delivery agent to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To be given back to [`Schedule::delivery_done`].
    pub id: DeliveryId,
    /// The message.
    pub message: QueueId,
    /// By which transport.
    pub transport: Arc<str>,
    /// Where to.
    pub nexthop: Arc<str>,
    /// For whom: positions in the envelope's recipients. Never empty.
    pub recipients: Vec<u32>,
    /// What is wanted of connections to the destination.
    pub reuse: Reuse,
}

/// Recipients that need no attempt to be deferred. Postfix has the error(8) agent log these, with `relay=none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// The message.
    pub message: QueueId,
    /// Positions in the envelope's recipients. Never empty.
    pub recipients: Vec<u32>,
    /// Enhanced status code, of class 4.
    pub status: EnhancedStatus,
    /// `delivery temporarily suspended: ...`, `mail transport unavailable`, `deferred transport`.
    pub reason: Arc<str>,
}

/// What the engine is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the message (the first time), route at most `limit` of its recipients that are still to be delivered and
    /// were not handed in since it became active, and call [`Schedule::activated`].
    Activate {
        /// The message.
        message: QueueId,
        /// Recipients wanted, at least 1.
        limit: usize,
        /// False when it is active already and this is its next portion.
        first: bool,
    },
    /// Start a delivery; report its end to [`Schedule::delivery_done`].
    Deliver(Delivery),
    /// Record that these recipients are deferred. No answer is expected.
    Defer(Deferral),
    /// Nothing of this message is in progress any more and the schedule has forgotten it: remove it from the queue,
    /// return it, or call [`Schedule::message_deferred`].
    Finished(QueueId),
    /// A site has taught something: worth a line in the log, and keeping ([`Schedule::known_sites`]).
    Learned(Lesson),
    /// Tell of a transport's feedback: it is used for the first time (`destination_concurrency_feedback_debug`).
    Feedbacks(Arc<str>),
    /// Tell of a destination's window (`destination_concurrency_feedback_debug`).
    Window(WindowStep),
    /// Warn of a destination that takes up more than a fifth of what may be active (`qmgr_clog_warn_time`).
    Clogged(Clogged),
}

/// What a delivery, or the end of its time as dead, did to a destination's window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowStep {
    /// The destination was there, or may be tried again; else it could not be reached.
    pub answered: bool,
    /// Its name.
    pub destination: Arc<str>,
    /// The feedback that was counted, where one was.
    pub feedback: Option<f64>,
    /// The widest that the window may become; 0 is no limit.
    pub limit: u32,
    /// The window now; 0 when the destination is dead.
    pub window: u32,
    /// Feedback on the way to the next wider window.
    pub success: f64,
    /// What is left on the way to the next narrower one.
    pub failure: f64,
    /// Whole windows that failed.
    pub failed_cohorts: f64,
}

/// A destination whose mail takes up much of what may be active, so that other mail waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clogged {
    /// The transport.
    pub transport: Arc<str>,
    /// The next hop.
    pub nexthop: Arc<str>,
    /// Active messages for it.
    pub messages: usize,
    /// Active messages altogether.
    pub active: usize,
    /// What holds it up.
    pub limit: ClogLimit,
}

/// What an administrator can do about a clogged destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClogLimit {
    /// `destination_concurrency_limit`, which is this, is used up.
    Concurrency(u32),
    /// Its window is wider than its share of `qmgr_message_active_limit`, which is this.
    Active(usize),
    /// It shares its transport with others.
    Shared,
    /// It is slow.
    Slow,
}

/// What a delivery has shown about its destination and transport. What became of recipients is the engine's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The destination was there; perhaps it refused some or all recipients.
    Answered,
    /// The destination could not be reached, or refused to talk.
    DestinationFailure {
        /// Enhanced status code for mail that waits behind it.
        status: EnhancedStatus,
        /// The agent's reason, without `delivery temporarily suspended: `.
        reason: String,
    },
    /// There is no such transport, or its process broke: 4.3.0 `mail transport unavailable`,
    /// `unknown mail transport error`.
    TransportFailure {
        /// Enhanced status code for mail that waits for it.
        status: EnhancedStatus,
        /// Reason, as it is to be shown.
        reason: String,
    },
    /// Nothing about either (the delivery was given up for reasons of our own).
    Nothing,
    /// Its site had no room ([`Schedule::enter`]): nothing was done for any recipient, and they wait as if it had never
    /// begun.
    Postponed,
}

impl From<Option<(EnhancedStatus, String)>> for Feedback {
    /// From the `destination_failure` of a delivery agent's attempt.
    fn from(destination_failure: Option<(EnhancedStatus, String)>) -> Self {
        match destination_failure {
            Some((status, reason)) => Self::DestinationFailure { status, reason },
            None => Self::Answered,
        }
    }
}

/// Where a message is, as `mailq` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// New, not yet tried.
    Incoming,
    /// Being tried: `*`.
    Active,
    /// Waits for its next attempt.
    Deferred,
}

/// How many there are, for metrics and for tests of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that wait for their first attempt.
    pub incoming: usize,
    /// Messages that wait for another attempt.
    pub deferred: usize,
    /// Active messages.
    pub active: usize,
    /// Recipients of active messages in memory.
    pub recipients: usize,
    /// Deliveries in progress.
    pub deliveries: usize,
    /// Destinations known, dead ones included.
    pub destinations: usize,
    /// Destinations that are left alone for now.
    pub dead_destinations: usize,
    /// Receiving sites known.
    pub sites: usize,
}

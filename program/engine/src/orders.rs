//! What the rest of the engine says to the queue manager, and the line it says it over.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use yamabiko_envelope::{Attempt, DeliveryRequest, QueueId, Timestamp};
use yamabiko_schedule::{Delivery, DeliveryId, Entry, Feedback, Origin, Settings};

use crate::routing::Routing;
use crate::verify::Probe;
use crate::visit::Visited;

/// What others want of the manager.
pub enum Order {
    /// A message became durable and is to be tried at once; whom it is from.
    Arrived(QueueId, Origin),
    /// A message that is in memory only asks what would become of it.
    Probe(Box<Probe>),
    /// A delivery ended; what it taught of its receiving site, where that is of interest.
    Attempted(Box<Delivery>, Arc<DeliveryRequest>, Attempt, Feedback, Option<Visited>),
    /// A delivery is about to connect to this receiving site.
    Enter(DeliveryId, String, oneshot::Sender<Entry>),
    /// `yamabiko limits`, with its words.
    Limits(Vec<String>, oneshot::Sender<Result<String, String>>),
    /// A message that is not in memory any more was read and routed; which of its routings this is.
    Routed(QueueId, u64, Box<Routing>),
    /// The end of a message was dealt with: try again then, or it is gone.
    Ended(QueueId, Option<(Timestamp, Vec<u64>)>),
    /// `postqueue -f`
    FlushAll,
    /// `postqueue -i`; the answer says whether the message was there.
    FlushMessage(QueueId, oneshot::Sender<bool>),
    /// `postqueue -s`, ETRN
    FlushSite(String),
    /// The message was held or deleted by an operator, or is to be: it is not worked on any more. The answer, where
    /// one is wanted, comes when nothing of it is in progress and what became of it is recorded.
    Withdraw(QueueId, Option<oneshot::Sender<()>>),
    /// The same for many; the answer comes at once.
    WithdrawAll(Vec<QueueId>, oneshot::Sender<()>),
    /// Many messages are to be tried at a time; the answer comes when that is known.
    OfferAll(Vec<QueueId>, Timestamp, oneshot::Sender<()>),
    /// The message was released, expired or put back by an operator; with the hashes of its sites.
    Offer(QueueId, Timestamp, Vec<u64>),
    /// The envelopes of deferred mail were looked through for sites: these messages go there.
    Found(Vec<QueueId>),
    /// A new configuration.
    Reconfigure(Box<Settings>),
    /// The server has come to rest: what a burst of mail has left may go.
    Tidy,
    /// The queue may have failed: look at it.
    Look,
    /// Begin nothing more; the answer comes when all that was begun has ended and is recorded.
    Drain(oneshot::Sender<()>),
}

/// The handle that others hold.
#[derive(Clone)]
pub struct Manager {
    orders: mpsc::UnboundedSender<Order>,
}

impl Manager {
    /// Sends an order. A manager that is gone means that we are stopping: the queue keeps what it has.
    pub fn send(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// A handle and the line it speaks into.
    pub fn line() -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, receiver) = mpsc::unbounded_channel();
        (Self { orders }, receiver)
    }
}

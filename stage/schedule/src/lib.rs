//! Decides who is tried next, where and when. A state machine in memory: it is told the time, does no I/O and draws no
//! random numbers, so five days of retrying run in a millisecond of test.
//!
//! The nouns:
//! * A *message* waits (new, or deferred until its next attempt) or is active. Waiting ones cost some 60 bytes; active
//!   ones are bounded by `qmgr_message_active_limit`.
//! * A *transport* is a service in master.cf; its process limit is the number of deliveries it runs at once.
//! * A *destination* is a next hop of a transport (one recipient of it where `destination_recipient_limit` is 1), with
//!   the concurrency window that Postfix's qmgr gives it. A destination whose window has failed is dead for
//!   `minimal_backoff_time`: its mail is deferred at once and costs nothing while it waits.
//! * A *receiving site* is the mail exchangers that destinations share, seen from one of our source addresses. It is known
//!   from the first delivery that has looked them up and asks to [`enter`](Schedule::enter). Limits of a site hold over all
//!   its destinations and transports; some are learned from its replies ([`Learned`]).
//! * A *job* is what a message has for a transport, a *peer* what it has for one destination of it. A *delivery* is a
//!   slice of a peer, at most `destination_recipient_limit` recipients.
//!
//! Fairness: a free process of a transport goes to its jobs in turn, first by envelope sender, then by message, one
//! delivery at a time. A job whose destination has no room waits there; a slot that comes free is offered to those that
//! wait, again in turn by sender and message. So neither a message with 50,000 recipients nor a sender with 50,000 messages can
//! make a small one wait for more than one round.
//!
//! The engine's part: it calls [`Schedule::poll`] until that gives `None`, does what each [`Action`] says, reports back
//! ([`Schedule::activated`], [`Schedule::delivery_done`], [`Schedule::message_deferred`]) and polls again at
//! [`Schedule::next_deadline`]. It owns the results per recipient; when a message is [`Action::Finished`] it asks
//! [`Settings::expired`], [`Settings::warn_due`] and [`Settings::retry_at`] what to do with what is left.
//!
//! Promises: every recipient handed in is either in exactly one delivery or deferred exactly once before its message is
//! finished; no limit is ever exceeded; each step takes logarithmic time (operator's flushes: linear in what waits).

#![warn(missing_docs)]

mod action;
mod destination;
mod learned;
pub mod profiles;
mod rotation;
mod schedule;
mod settings;
pub mod sheet;
mod site;
mod sites;
mod slab;
mod slots;
mod waiting;
mod wheel;

pub use action::{
    Action, ClogLimit, Clogged, Counts, Deferral, Delivery, DeliveryId, Feedback, Place, Route, WindowStep,
    destination_name,
};
pub use learned::{Learned, Lesson, MEMORY, Signal};
pub use schedule::Schedule;
pub use settings::{ConcurrencyFeedback, NotAFeedback, Settings, TransportSettings};
pub use site::{Entry, SiteLimits, SiteRule, organisation, site_name};
pub use sites::Known;
pub use slots::Slots;
pub use waiting::{Origin, sender_hash, site_hash};

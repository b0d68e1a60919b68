//! The words that all stages share: what a message's envelope is, what was asked for a recipient, what became of it.
//!
//! * [`QueueId`] names a message for its whole life.
//! * [`Envelope`] and [`Recipient`] are what is stored beside the content.
//! * [`Content`] is the message itself: bytes with LF line ends, exactly as they will be delivered.
//! * [`DeliveryRequest`] is one piece of work for a delivery agent; [`Outcome`] is what came of it for one recipient.
//! * [`Event`] is anything that happened. Log line, ledger row, counter and report field are all made from it.
//!
//! Nothing here does I/O or reads a clock.

mod content;
mod delivery;
mod event;
mod message;
mod queue_id;
mod submission;
mod time;

pub use content::{Content, ContentReader};
pub use delivery::{
    Action, Attempt, Delays, DeliveryRecipient, DeliveryRequest, DiagnosticType, Outcome, Result, Reuse, SmtpStage,
};
pub use event::{
    Client, CommandCount, ContentAction, Decision, DecisionStep, Delivery, DeliveryStatus, Event, EventSink, Events,
    Kind, NoticeKind, Origin, SessionEnd, Severity,
};
pub use message::{
    BodyType, ClientAttributes, Envelope, Failure, Notify, Recipient, RecipientState, Ret, RewriteContext,
    SaslIdentity, TlsWish, Trace, VerpDelimiters,
};
pub use queue_id::{NotAQueueId, QueueId, QueueIdSource};
pub use submission::{DmarcDemand, Source, Submission, Trouble, TroubleClass};
pub use time::Timestamp;

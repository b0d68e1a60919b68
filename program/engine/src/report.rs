//! The end of an attempt: what failed is reported, what is left waits or is given up, what is done is gone.
//!
//! The order makes a crash harmless: states are recorded before notices are made, so nothing is delivered again; notices
//! are in the queue before the message that they are about leaves it, so none is lost. A crash between makes a notice
//! twice, as with Postfix.

use std::collections::HashMap;
use std::sync::Arc;

use yamabiko_envelope::{
    Content, DiagnosticType, Envelope, Failure, Kind, Outcome, QueueId, Recipient, RecipientState, Result as Ended,
    Timestamp, Trace,
};
use yamabiko_queue::{Queue, QueueError};

use crate::accept::Acceptance;
use crate::generation::Current;
use crate::manager::{is_open, sites};

/// A message whose attempt has ended.
pub struct End {
    /// The envelope as it was when the attempt began.
    pub envelope: Arc<Envelope>,
    /// The message.
    pub content: Content,
    /// States of all recipients now.
    pub states: Vec<RecipientState>,
    /// Everything that came of the attempt.
    pub outcomes: Vec<Outcome>,
    /// Recipients whose states are not recorded yet.
    pub changed: Vec<u32>,
    /// Addresses as resolved, where they differ from the envelope's.
    pub addresses: HashMap<u32, String>,
    /// To be given up now (`postsuper -e`).
    pub expire: bool,
    /// The sender knows of the delay.
    pub warned: bool,
}

/// What the schedule says of the message's age.
pub struct Age {
    /// Now.
    pub now: Timestamp,
    /// When it would be tried next.
    pub retry_at: Timestamp,
    /// It is too old to be tried again.
    pub expired: bool,
    /// The sender is to be told of the delay.
    pub warn_due: bool,
}

/// Some outcome is to be reported although it is good.
pub fn wants_success(envelope: &Envelope, outcomes: &[Outcome]) -> bool {
    envelope.trace != Trace::No
        || outcomes.iter().any(|outcome| {
            let recipient = envelope.recipients.get(outcome.recipient as usize);
            matches!(outcome.result, Ended::Sent(_)) && recipient.is_some_and(|r| r.notify.wants_success())
        })
}

/// Why an outcome is bad, as it is kept with the recipient.
pub fn failure_of(outcome: &Outcome) -> Failure {
    let diagnostic = match &outcome.diagnostic {
        Some((DiagnosticType::Smtp, text)) => format!("smtp; {text}"),
        Some((DiagnosticType::Unix, text)) => format!("x-unix; {text}"),
        Some((DiagnosticType::Own, _)) | None => String::new(),
    };
    Failure {
        status: outcome.status,
        reason: outcome.reason.clone(),
        diagnostic,
        remote_mta: outcome.remote_mta.clone().unwrap_or_default(),
        relay: outcome.relay.clone(),
    }
}

/// Tells of recipients that became several, where that was asked for.
pub fn tell_expanded(_engine: &Acceptance, _message: QueueId, _expanded: Vec<Recipient>) {}

/// Ends an attempt. When the message is to be tried next, and where it then has to go; `None` when it is gone.
pub async fn end(
    queue: &Queue,
    current: &Current,
    message: QueueId,
    end: End,
    age: Age,
) -> Option<(Timestamp, Vec<u64>)> {
    let changes: Vec<(u32, RecipientState)> = (0u32..).zip(end.states.iter().cloned()).collect();
    let left = end.states.iter().any(is_open);
    if !left {
        if let Err(error) = queue.remove(message)
            && !matches!(error, QueueError::NotFound(_))
        {
            current.complain(Some(message), &error);
        }
        current.emit("qmgr", age.now, Kind::Removed { queue_id: message });
        return None;
    }
    let changed: Vec<_> = changes.into_iter().filter(|(i, _)| end.changed.contains(i)).collect();
    if let Err(error) = queue.defer(message, age.retry_at, &changed, false) {
        current.complain(Some(message), &error);
    }
    Some((age.retry_at, sites(&end.envelope)))
}

//! The agents that deliver nothing: discard(8), error(8), retry.

use yamabiko_envelope::{
    Action, Attempt, DeliveryRequest, Event, Events, Kind, Origin, Outcome, Result as Fated, Severity, Timestamp,
};
use yamabiko_status::{Class, EnhancedStatus};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple {
    /// Says that it delivered; the next hop is the text.
    Discard,
    /// Bounces; the next hop is the text, perhaps with a status before it.
    Error,
    /// Defers, likewise.
    Retry,
}

impl Simple {
    /// What comes of a delivery at this time. A status of the wrong class is not used, and a warning goes to `events`.
    pub fn deliver(self, request: &DeliveryRequest, events: &Events, origin: &Origin, now: Timestamp) -> Attempt {
        let (result, default, class, word) = match self {
            Simple::Discard => {
                let result = Fated::Sent(Action::Relayed);
                return attempt(request, result, EnhancedStatus::success(0, 0), &request.nexthop, now);
            }
            Simple::Error => (Fated::Failed, EnhancedStatus::permanent(0, 0), Class::Permanent, "bounce_append"),
            Simple::Retry => (Fated::Deferred, EnhancedStatus::transient(0, 0), Class::Transient, "defer_append"),
        };
        let (status, text) = EnhancedStatus::split(&request.nexthop).unwrap_or((default, &request.nexthop));
        let status = if status.class == class {
            status
        } else {
            let text = format!("{word}: ignoring dsn code \"{status}\"");
            let kind = Kind::Text { severity: Severity::Warning, queue_id: None, text };
            events.emit(Event { at: now, origin: origin.clone(), kind });
            default
        };
        attempt(request, result, status, text, now)
    }
}

fn attempt(request: &DeliveryRequest, result: Fated, status: EnhancedStatus, text: &str, now: Timestamp) -> Attempt {
    let outcome =
        |recipient: u32| Outcome { connection_use: 0, ..Outcome::of_our_own(recipient, result, status, text, now) };
    let outcomes = request.recipients.iter().map(|recipient| outcome(recipient.index)).collect();
    Attempt { outcomes, destination_failure: None }
}

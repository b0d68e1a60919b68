//! What outcomes mean: for the state of a recipient, for the schedule, for the next attempt.

use std::collections::HashMap;

use yamabiko_bounce::failure_of;
use yamabiko_envelope::{
    Attempt, DeliveryRequest, Envelope, Failure, Outcome, QueueId, Recipient, RecipientState, Result as Ended,
    Timestamp, Trace,
};
use yamabiko_queue::Queue;
use yamabiko_schedule::{Feedback, site_hash};
use yamabiko_status::{Class, EnhancedStatus};

/// Names of settled members that are remembered with a recipient, in bytes: a list of 40,000 addresses. Members beyond it may get the
/// message again with the list's next attempt, as in Postfix; the record of a message stays one that is quick to write.
const SETTLED_MAX: usize = 1 << 20;

/// The message asks what would become of it, and is over when that is known.
pub fn is_probe(envelope: &Envelope) -> bool {
    matches!(envelope.trace, Trace::ProbeReport | Trace::Probe)
}

/// Still to be delivered.
pub fn is_open(state: &RecipientState) -> bool {
    matches!(state, RecipientState::Pending | RecipientState::Deferred(_))
}

/// Hashes of the domains of recipients.
pub fn sites<'a>(recipients: impl Iterator<Item = &'a Recipient>) -> Vec<u64> {
    let domains = recipients.filter_map(|r| yamabiko_address::split_domain(&r.address).1);
    let mut found: Vec<u64> = domains.map(site_hash).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The sites of a message in the queue, of recipients that are still to be delivered.
pub fn sites_of(queue: &Queue, id: QueueId) -> Vec<u64> {
    queue
        .envelope(id)
        .map_or_else(|_| Vec::new(), |(envelope, _)| sites(envelope.recipients.iter().filter(|r| is_open(&r.state))))
}

/// A reason of our own, without a remote server in it.
pub fn plain(status: EnhancedStatus, reason: &str) -> Failure {
    Failure {
        status,
        reason: reason.to_owned(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".to_owned(),
        settled: Vec::new(),
    }
}

/// The outcome of a recipient that was deferred without an attempt.
pub fn deferred_outcome(recipient: u32, failure: &Failure, now: Timestamp) -> Outcome {
    Outcome::of_our_own(recipient, Ended::Deferred, failure.status, failure.reason.clone(), now)
}

/// The state of a recipient after one more of its outcomes: deferred if any is, failed only if all that ended did.
fn merge(state: &mut RecipientState, outcome: &Outcome, mail_name: &str) {
    let next = match outcome.result {
        Ended::Deferred => RecipientState::Deferred(Box::new(failure_of(outcome, mail_name))),
        Ended::Failed if outcome.expanded.is_none() => RecipientState::Failed(Box::new(failure_of(outcome, mail_name))),
        // A leaf of an expansion that failed is reported for itself; the recipient as such is done.
        Ended::Failed | Ended::Sent(_) => RecipientState::Done,
    };
    let rank = |state: &RecipientState| match state {
        RecipientState::Pending => 0,
        RecipientState::Done => 1,
        RecipientState::Failed(_) => 2,
        RecipientState::Deferred(_) => 3,
    };
    if rank(&next) >= rank(state) {
        *state = next;
    }
}

/// What the recipients of an attempt are after it. Of a list that waits, the members that have the message are remembered;
/// those that failed are too when the sender has been told of them.
pub fn states_after(envelope: &Envelope, outcomes: &[Outcome], mail_name: &str) -> HashMap<u32, RecipientState> {
    let mut states: HashMap<u32, RecipientState> = HashMap::new();
    for outcome in outcomes {
        merge(states.entry(outcome.recipient).or_default(), outcome, mail_name);
    }
    for (index, state) in &mut states {
        keep_settled(envelope, *index, state);
    }
    let sent = outcomes.iter().filter(|outcome| matches!(outcome.result, Ended::Sent(_)));
    for (recipient, members) in members_of(sent) {
        if let Some(state) = states.get_mut(&recipient) {
            settle_members(state, &members);
        }
    }
    states
}

/// A recipient that waits once more: members of its list that were settled before still are.
pub fn keep_settled(envelope: &Envelope, recipient: u32, state: &mut RecipientState) {
    if let RecipientState::Deferred(next) = state
        && let Some(RecipientState::Deferred(before)) = envelope.recipients.get(recipient as usize).map(|r| &r.state)
    {
        next.settled.clone_from(&before.settled);
    }
}

/// The members that outcomes are about, by recipient.
pub fn members_of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> HashMap<u32, Vec<&'a String>> {
    let mut members: HashMap<u32, Vec<&String>> = HashMap::new();
    for outcome in outcomes.filter(|outcome| !outcome.members.is_empty()) {
        members.entry(outcome.recipient).or_default().extend(&outcome.members);
    }
    members
}

/// These members of a recipient are settled. False where that makes no difference to the recipient.
pub fn settle_members(state: &mut RecipientState, members: &[&String]) -> bool {
    let RecipientState::Deferred(failure) = state else { return false };
    let mut size: usize = failure.settled.iter().map(String::len).sum();
    let before = failure.settled.len();
    let fits = members.iter().take_while(|member| {
        size += member.len();
        size <= SETTLED_MAX
    });
    failure.settled.extend(fits.map(|member| (*member).clone()));
    failure.settled.len() > before
}

/// `soft_bounce`: what failed is tried again.
pub fn soften(outcome: &mut Outcome) {
    if outcome.result == Ended::Failed {
        outcome.result = Ended::Deferred;
        outcome.status = EnhancedStatus { class: Class::Transient, ..outcome.status };
        outcome.soft = true;
    }
}

/// All recipients of a request deferred for one reason.
pub fn deferred(request: &DeliveryRequest, status: EnhancedStatus, reason: &str) -> Attempt {
    let (now, result) = (Timestamp::now(), Outcome::result_of(status, yamabiko_envelope::Action::Delivered));
    let outcome = |recipient| Outcome::of_our_own(recipient, result, status, reason, now);
    Attempt { outcomes: request.recipients.iter().map(|r| outcome(r.index)).collect(), destination_failure: None }
}

/// The class of feedback for an attempt that an agent made.
pub fn feedback_of(attempt: &Attempt) -> Feedback {
    match &attempt.destination_failure {
        Some((status, reason)) => {
            let status = if status.class == Class::Permanent {
                EnhancedStatus { class: Class::Transient, ..*status }
            } else {
                *status
            };
            Feedback::DestinationFailure { status, reason: reason.clone() }
        }
        None => Feedback::Answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deferred_state() -> RecipientState {
        RecipientState::Deferred(Box::new(plain(EnhancedStatus::transient(4, 1), "later")))
    }

    #[test]
    fn members_are_remembered_up_to_a_size() {
        let member = |n: usize| format!("{n:06}{}", "x".repeat(994));
        let mut state = deferred_state();
        for attempt in 0..3 {
            let members: Vec<String> = (attempt * 500..attempt * 500 + 500).map(member).collect();
            settle_members(&mut state, &members.iter().collect::<Vec<_>>());
        }
        let RecipientState::Deferred(failure) = &state else { panic!("{state:?}") };
        assert_eq!(failure.settled.len(), SETTLED_MAX / 1000);
        assert!(!settle_members(&mut state, &[&member(2000)]), "nothing changed");
        assert!(settle_members(&mut state, &[&"short".to_owned()]), "what fits is still remembered");
    }

    #[test]
    fn only_who_waits_remembers() {
        assert!(!settle_members(&mut RecipientState::Done, &[&"member".to_owned()]));
        assert!(!settle_members(&mut deferred_state(), &[]));
    }
}

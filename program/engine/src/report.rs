//! The end of an attempt: what failed is reported, what is left waits or is given up, what is done is gone.
//!
//! The order makes a crash harmless: states are recorded before notices are made, so nothing is delivered again; notices
//! are in the queue before the message that they are about leaves it, so none is lost. A crash between makes a notice
//! twice, as with Postfix.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use yamabiko_bounce::{Bouncer, Job, Plan, Planned, Reported, Wanted, failure_of, read_original};
use yamabiko_envelope::{
    Action, Content, Envelope, Kind, NoticeKind, Outcome, QueueId, Recipient, RecipientState, Result as Ended, Ret,
    Severity, Source, Submission, Timestamp, Trace,
};
use yamabiko_queue::QueueError;
use yamabiko_receive::Refusal;
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::accept::{Acceptance, Taken};
use crate::generation::returned_event;
use crate::outcome::{is_open, is_probe, members_of, plain, settle_members, sites};
use crate::routing::content_of;
use crate::trip::trip;

/// A message whose attempt has ended.
pub struct End {
    /// The envelope as it was when the attempt began.
    pub envelope: Arc<Envelope>,
    /// The message, where it is in memory; it is read when a notice is to be written.
    pub content: Option<Content>,
    /// States of all recipients now.
    pub states: Vec<RecipientState>,
    /// Everything that came of the attempt.
    pub outcomes: Vec<Outcome>,
    /// Recipients whose states are not recorded yet.
    pub changed: Vec<u32>,
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

/// Some outcome is to be reported although all recipients are settled: a good one that was asked for, or a member of a list
/// that failed.
pub fn is_worth_a_notice(envelope: &Envelope, outcomes: &[Outcome]) -> bool {
    failed_leaves(outcomes).next().is_some() || wants_success(envelope, outcomes)
}

/// Members of lists that failed; their recipients are none that failed.
fn failed_leaves(outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(|outcome| outcome.result == Ended::Failed && outcome.expanded.is_some())
}

/// Some outcome is to be reported although it is good.
fn wants_success(envelope: &Envelope, outcomes: &[Outcome]) -> bool {
    envelope.trace != Trace::No
        || outcomes.iter().any(|outcome| {
            let recipient = envelope.recipients.get(outcome.recipient as usize);
            matches!(outcome.result, Ended::Sent(_)) && recipient.is_some_and(|r| r.notify.wants_success())
        })
}

/// Outcomes as a sender who asked for success hears of them: a recipient that became several is `expanded`, and what
/// became of the several is not told (RFC 3461 section 5.2.7.3).
fn worth_telling(outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    let expanded = |outcome: &&Outcome| outcome.result == Ended::Sent(Action::Expanded);
    let lists: HashSet<u32> = outcomes.iter().filter(expanded).map(|outcome| outcome.recipient).collect();
    outcomes.iter().filter(move |outcome| match outcome.result {
        Ended::Sent(Action::Expanded) => true,
        Ended::Sent(_) => !lists.contains(&outcome.recipient),
        _ => true,
    })
}

/// Ends an attempt. When the message is to be tried next, and where it then has to go; `None` when it is gone.
pub async fn end(engine: &Acceptance, end: End, age: Age) -> Option<(Timestamp, Vec<u64>)> {
    let mut ending = Ending { engine, message: end.envelope.queue_id, end, age };
    ending.run().await
}

/// Leaves of expansions that failed and that nobody has been told of yet: their recipients stay failed, and the notice is
/// made at the next attempt.
pub fn keep_failed_leaves(states: &mut [(u32, RecipientState)], outcomes: &[Outcome], mail_name: &str) {
    let mut leaves: HashMap<u32, &Outcome> = HashMap::new();
    for outcome in failed_leaves(outcomes) {
        leaves.entry(outcome.recipient).or_insert(outcome);
    }
    if leaves.is_empty() {
        return;
    }
    for (index, state) in states {
        if let (RecipientState::Done, Some(outcome)) = (&*state, leaves.get(index)) {
            *state = RecipientState::Failed(Box::new(failure_of(outcome, mail_name)));
        }
    }
}

/// The work of [`end`].
struct Ending<'a> {
    engine: &'a Acceptance,
    message: QueueId,
    end: End,
    age: Age,
}

impl Ending<'_> {
    async fn run(&mut self) -> Option<(Timestamp, Vec<u64>)> {
        let expired = self.give_up_if_old();
        self.record();
        trip("report");
        let generation = self.engine.current().get();
        let bouncer = &generation.bounce;
        let failed = self.failed(bouncer, &generation.mail_name);
        let settled: Vec<Reported> = worth_telling(&self.end.outcomes)
            .filter_map(|outcome| bouncer.report_outcome(&self.end.envelope, outcome))
            .collect();
        let waiting = self.waiting(bouncer);
        let warn = !waiting.is_empty() && self.age.warn_due && !self.end.warned && !expired;
        let wants_success = wants_success(&self.end.envelope, &self.end.outcomes);
        let cleared: Vec<Reported> = match self.end.warned && bouncer.confirms_delay_cleared() && !wants_success {
            true => worth_telling(&self.end.outcomes)
                .filter_map(|outcome| bouncer.report_cleared(&self.end.envelope, outcome))
                .collect(),
            false => Vec::new(),
        };
        let shrinks = is_too_large_a_notice(&self.end.envelope, &failed);
        let wanted = match failed.is_empty() {
            true => Wanted::Headers,
            false if shrinks => Wanted::Full,
            false => bouncer.wanted(&self.end.envelope),
        };
        let original = match failed.is_empty() && !wants_success && !warn && cleared.is_empty() {
            true => None,
            false => self.content().and_then(|content| read_original(&content, wanted).ok()),
        };
        let languages = generation.languages_for(&self.end.envelope.sender).await;
        let job = Job {
            envelope: &self.end.envelope,
            original: original.as_deref(),
            now: self.age.now,
            zone: self.engine.zone(),
            languages: &languages,
        };
        let mut next_id = || self.engine.next_id();
        let mut plans = Vec::new();
        let smaller = match shrinks {
            true => smaller_notice(&self.end, original.as_deref(), self.age.now, &mut next_id),
            false => None,
        };
        match smaller {
            Some(plan) => plans.push(plan),
            None if !failed.is_empty() => plans.push(bouncer.failed(&job, &failed, &mut next_id)),
            None => {}
        }
        if !cleared.is_empty() {
            plans.push(bouncer.cleared(&job, &cleared, &mut next_id));
        }
        if wants_success {
            plans.push(bouncer.settled(&job, &settled, &mut next_id));
        }
        if warn {
            plans.push(bouncer.delayed(&job, &waiting, &mut next_id));
        }
        drop(generation);
        let mut told = true;
        let about = (!shrinks).then_some((&*self.end.envelope, original.as_deref()));
        for plan in plans {
            told &= send(self.engine, plan, about).await;
        }
        if told {
            for state in &mut self.end.states {
                if matches!(state, RecipientState::Failed(_)) {
                    *state = RecipientState::Done;
                }
            }
            self.settle_leaves();
        } else {
            self.keep_leaves();
        }
        self.leave(told, warn && told)
    }

    fn content(&self) -> Option<Content> {
        let known = self.end.content.clone();
        known.or_else(|| content_of(self.engine.queue(), self.engine.current(), self.message))
    }

    /// The sender has been told of the leaves that failed: where others of the list wait, these are not tried again.
    fn settle_leaves(&mut self) {
        for (recipient, members) in members_of(failed_leaves(&self.end.outcomes)) {
            if let Some(state) = self.end.states.get_mut(recipient as usize)
                && settle_members(state, &members)
            {
                self.end.changed.push(recipient);
            }
        }
    }

    /// The sender could not be told of leaves that failed: that is remembered with their recipients.
    fn keep_leaves(&mut self) {
        let mail_name = self.engine.current().get().mail_name.clone();
        let mut states: Vec<_> = (0u32..).zip(self.end.states.iter().cloned()).collect();
        keep_failed_leaves(&mut states, &self.end.outcomes, &mail_name);
        for (index, state) in states {
            let known = &mut self.end.states[index as usize];
            if *known != state {
                *known = state;
                self.end.changed.push(index);
            }
        }
        self.record();
    }

    /// Mail that is too old, or was told to expire, fails with what it was deferred for.
    fn give_up_if_old(&mut self) -> bool {
        let waiting = self.end.states.iter().any(is_open);
        let expired = waiting && (self.age.expired || self.end.expire);
        if expired {
            let sender = self.end.envelope.sender.clone();
            let kind = Kind::Expired { queue_id: self.message, sender, forced: self.end.expire };
            self.engine.current().emit("qmgr", self.age.now, kind);
            for (index, state) in (0u32..).zip(&mut self.end.states) {
                let failure = match state {
                    RecipientState::Deferred(failure) => failure.clone(),
                    // It was told to expire before it was tried, so there is no reason but that.
                    RecipientState::Pending => {
                        Box::new(plain(EnhancedStatus::transient(7, 0), "message is administratively expired"))
                    }
                    RecipientState::Done | RecipientState::Failed(_) => continue,
                };
                *state = RecipientState::Failed(failure);
                self.end.changed.push(index);
            }
        }
        expired
    }

    /// What became of recipients is on its way to the disk before anybody is told of it.
    fn record(&mut self) {
        let changed = std::mem::take(&mut self.end.changed);
        let mut changes: Vec<_> = changed
            .into_iter()
            .filter_map(|index| self.end.states.get(index as usize).map(|state| (index, state.clone())))
            .collect();
        if changes.is_empty() {
            return;
        }
        keep_failed_leaves(&mut changes, &self.end.outcomes, &self.engine.current().get().mail_name);
        match self.engine.queue().settle(self.message, &changes) {
            Ok(()) | Err(QueueError::NotFound(_)) => {}
            Err(error) => self.engine.current().complain(Some(self.message), &error),
        }
    }

    /// Recipients that failed, and leaves of expansions that did.
    fn failed(&self, bouncer: &Bouncer, mail_name: &str) -> Vec<Reported> {
        let recipients = self.end.envelope.recipients.iter().zip(&self.end.states);
        let whole = recipients.filter_map(|(recipient, state)| match state {
            RecipientState::Failed(failure) => Some(bouncer.report_failure(recipient, failure, false)),
            _ => None,
        });
        let probe = is_probe(&self.end.envelope);
        let leaves = failed_leaves(&self.end.outcomes).filter(|_| !probe).filter_map(|outcome| {
            let leaf = outcome.expanded.as_ref()?;
            let known = self.end.envelope.recipients.get(outcome.recipient as usize)?;
            let recipient = Recipient { address: leaf.clone(), ..known.clone() };
            Some(bouncer.report_failure(&recipient, &failure_of(outcome, mail_name), false))
        });
        whole.chain(leaves).collect()
    }

    fn waiting(&self, bouncer: &Bouncer) -> Vec<Reported> {
        let recipients = self.end.envelope.recipients.iter().zip(&self.end.states);
        let waiting = recipients.filter_map(|(recipient, state)| match state {
            RecipientState::Deferred(failure) => Some(bouncer.report_failure(recipient, failure, true)),
            _ => None,
        });
        waiting.collect()
    }

    /// Removes the message, or lets it wait.
    fn leave(&self, told: bool, warned: bool) -> Option<(Timestamp, Vec<u64>)> {
        let (queue, current) = (self.engine.queue(), self.engine.current());
        if told && self.end.states.iter().all(|state| *state == RecipientState::Done) {
            match queue.remove(self.message) {
                Ok(()) => current.emit("qmgr", self.age.now, Kind::Removed { queue_id: self.message }),
                Err(QueueError::NotFound(_)) => {}
                Err(error) => current.complain(Some(self.message), &error),
            }
            return None;
        }
        // Failed recipients whose notice is out are done; those whose notice could not be queued stay as they are, and
        // the notice is made again at the next attempt.
        let changed: HashSet<u32> = self.end.changed.iter().copied().collect();
        let changes: Vec<_> = (0u32..)
            .zip(&self.end.states)
            .filter(|(index, state)| **state == RecipientState::Done || changed.contains(index))
            .map(|(i, s)| (i, s.clone()))
            .collect();
        match queue.defer(self.message, self.age.retry_at, &changes, warned) {
            Ok(()) => {}
            // Deleted or held by an operator meanwhile.
            Err(QueueError::NotFound(_)) => return None,
            Err(error) => current.complain(Some(self.message), &error),
        }
        if queue.meta(self.message).is_none_or(|meta| meta.flags.hold()) {
            return None;
        }
        let open = self.end.envelope.recipients.iter().zip(&self.end.states).filter(|(_, state)| is_open(state));
        Some((self.age.retry_at, sites(open.map(|(recipient, _)| recipient))))
    }
}

/// A notice of ours, as far as can be seen, that was too large for whoever was to get it.
fn is_too_large_a_notice(envelope: &Envelope, failed: &[Reported]) -> bool {
    let too_large = |one: &Reported| {
        let status = one.report.status;
        // What has no room for all of it (mailbox_size_limit, a quota) may have some for the headers.
        let by_status = matches!((status.subject, status.detail), (3, 4) | (2, 2 | 3));
        by_status || one.report.diagnostic.starts_with("smtp; 552")
    };
    let ours = envelope.sender.is_empty() && envelope.client.address.is_none() && envelope.sasl.is_none();
    ours && !failed.is_empty() && failed.iter().all(too_large)
}

/// The same notice with only the headers of what it returned; none where that makes it no smaller.
fn smaller_notice(
    end: &End,
    original: Option<&[u8]>,
    now: Timestamp,
    next_id: &mut dyn FnMut() -> QueueId,
) -> Option<Plan> {
    let envelope = &end.envelope;
    let small = yamabiko_report::headers_only(original?)?;
    let id = next_id();
    let mut again = Envelope::new(id, now, "");
    again.size = small.len() as u64;
    again.smtputf8 = envelope.smtputf8;
    again.body = envelope.body;
    again.message_id.clone_from(&envelope.message_id);
    again.recipients = end
        .envelope
        .recipients
        .iter()
        .zip(&end.states)
        .filter(|(_, state)| matches!(state, RecipientState::Failed(_)))
        .map(|(recipient, _)| Recipient { state: RecipientState::Pending, ..recipient.clone() })
        .collect();
    let text = "too large for its recipient: sent again with the headers of the message only".to_owned();
    let event = Kind::Text { severity: Severity::Info, queue_id: Some(envelope.queue_id), text };
    let submission = Submission::new(again, Content::from(small), Source::Notice);
    let planned = Planned { kind: NoticeKind::SenderNonDelivery, about: envelope.queue_id, submission };
    Some(Plan { notices: vec![planned], events: vec![event] })
}

/// Queues the notices of a plan. False when one could not be queued: then the recipients are not settled.
///
/// `about` is the message that they are about with its beginning, for notices to senders that pass the governor.
pub async fn send(engine: &Acceptance, plan: Plan, about: Option<(&Envelope, Option<&[u8]>)>) -> bool {
    let current = engine.current();
    for event in plan.events {
        current.emit("bounce", Timestamp::now(), event);
    }
    let mut all = true;
    for planned in plan.notices {
        let event = planned.event();
        let id = planned.about;
        let submission = match about {
            Some((envelope, original)) if planned.submission.envelope.sender.is_empty() => {
                match engine.desk().govern(engine, planned.submission, envelope, original).await {
                    Some(submission) => submission,
                    None => continue,
                }
            }
            _ => planned.submission,
        };
        // Larger than any message may be here: the headers are better than nothing.
        let small = match &submission.content {
            Content::Memory(content) if submission.envelope.size > engine.current().get().message_size_limit => {
                yamabiko_report::headers_only(content)
            }
            _ => None,
        };
        let submission = match small {
            Some(small) => {
                let text = "larger than message_size_limit: sent with the headers of the message only".to_owned();
                let kind = Kind::Text { severity: Severity::Info, queue_id: Some(id), text };
                current.emit("bounce", Timestamp::now(), kind);
                Submission { content: Content::from(small), ..submission }
            }
            None => submission,
        };
        match engine.accept(submission, None).await {
            Ok(Taken::Counted(_)) => {
                let text = "postmaster notification: counted for a summary".to_owned();
                let kind = Kind::Text { severity: Severity::Info, queue_id: Some(id), text };
                current.emit("bounce", Timestamp::now(), kind);
            }
            Ok(_) => current.emit("bounce", Timestamp::now(), event),
            Err(refusal) => {
                current.say(Severity::Warning, Some(id), &format!("notice could not be queued: {}", refusal.text));
                all = false;
            }
        }
    }
    all
}

/// How much of a message is read for a notice that returns its headers only.
const HEADERS: u64 = 256 << 10;

/// Returns a local submission whose content was refused to its sender. An error means that the notice could not be
/// queued: the submission is to be tried again.
pub fn send_back<'a>(
    engine: &'a Acceptance,
    refused: yamabiko_cleanup::Accepted,
    refusal: yamabiko_cleanup::Refusal,
) -> Pin<Box<dyn Future<Output = Result<Taken, Refusal>> + Send + 'a>> {
    Box::pin(async move {
        let yamabiko_cleanup::Accepted { mut envelope, head, body, .. } = refused;
        // The content is what was refused, so that only the headers go back, as with Postfix.
        envelope.ret = Some(Ret::Headers);
        let (id, now) = (envelope.queue_id, Timestamp::now());
        let generation = engine.current().get();
        let bouncer = &generation.bounce;
        let mut failed = Vec::with_capacity(envelope.recipients.len());
        for (index, known) in (0u32..).zip(&envelope.recipients) {
            let outcome = Outcome::of_our_own(index, Ended::Failed, refusal.status, refusal.reason.clone(), now);
            engine.current().emit("cleanup", now, returned_event(&envelope, known, &outcome));
            failed.push(bouncer.report_failure(known, &failure_of(&outcome, &generation.mail_name), false));
        }
        let mut start = head.to_vec();
        for part in &body {
            let room = HEADERS.saturating_sub(start.len() as u64);
            match part.slice(0, room).to_bytes() {
                Ok(bytes) => start.extend_from_slice(&bytes),
                Err(error) => {
                    engine.current().say(Severity::Error, Some(id), &format!("cannot read the message: {error}"));
                }
            }
        }
        let original = read_original(&Content::from(start), Wanted::Headers).ok();
        let languages = generation.languages_for(&envelope.sender).await;
        let job =
            Job { envelope: &envelope, original: original.as_deref(), now, zone: engine.zone(), languages: &languages };
        let plan = bouncer.failed(&job, &failed, &mut || engine.next_id());
        drop(generation);
        if send(engine, plan, None).await {
            Ok(Taken::Returned(id))
        } else {
            let (code, status) = (ReplyCode(451), EnhancedStatus::transient(3, 0));
            Err(Refusal { code, status, text: "Error: the notice could not be queued".to_owned() })
        }
    })
}

/// Tells of recipients that became several on their way in, where that was asked for (RFC 3461 section 5.2.7.3).
pub fn tell_expanded(engine: &Acceptance, envelope: Arc<Envelope>, head: Bytes, expanded: Vec<Recipient>) {
    if expanded.is_empty() {
        return;
    }
    let engine = engine.clone();
    tokio::spawn(async move {
        let generation = engine.current().get();
        let now = Timestamp::now();
        let mut about = (*envelope).clone();
        about.recipients = expanded;
        let (result, status) = (Ended::Sent(Action::Expanded), EnhancedStatus::success(0, 0));
        let outcomes = (0u32..)
            .take(about.recipients.len())
            .map(|recipient| Outcome::of_our_own(recipient, result, status, "alias expanded", now));
        let reported: Vec<Reported> =
            outcomes.filter_map(|outcome| generation.bounce.report_outcome(&about, &outcome)).collect();
        let languages = generation.languages_for(&about.sender).await;
        let job = Job { envelope: &about, original: Some(&head), now, zone: engine.zone(), languages: &languages };
        let plan = generation.bounce.settled(&job, &reported, &mut || engine.next_id());
        drop(generation);
        send(&engine, plan, None).await;
    });
}

//! What becomes of things when deliveries have ended: windows, dead destinations and transports, messages that are done, what
//! is forgotten.

use std::sync::Arc;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_status::EnhancedStatus;

use super::{InFlight, LINGER, LINGERING, Peer, Schedule, Standing, Then, Timer};
use crate::action::{Action, Deferral, DeliveryId, Feedback, Route};
use crate::destination::{Dead, Failed};

impl Schedule {
    /// A delivery has ended; the engine has recorded what became of each of its recipients. Unknown ones are ignored.
    pub fn delivery_done(&mut self, delivery: DeliveryId, feedback: Feedback, now: Timestamp) {
        let Some(flight) = self.in_flight.remove(&delivery) else { return };
        self.latest = now;
        let InFlight { message, destination: d, nexthop, recipients, site, .. } = flight;
        let t = self.destinations[d].transport;
        if feedback == Feedback::Postponed {
            self.postponed(d, message, &nexthop, recipients);
            return;
        }
        let recipients = recipients.len();
        self.recipients -= recipients;
        self.transports[t].recipients -= recipients;
        match feedback {
            Feedback::Answered => {
                if let Some(dead) = &self.destinations[d].dead {
                    self.timers.remove(&(dead.until, Timer::Revive(d)));
                    self.dead_destinations -= 1;
                }
                let feedback = self.destinations[d].succeeded(&self.transports[t].settings);
                self.tell_window(d, true, feedback);
            }
            Feedback::DestinationFailure { status, reason } => self.destination_failed(d, status, &reason, now),
            Feedback::TransportFailure { status, reason } => self.transport_failed(t, status, &reason, now),
            Feedback::Nothing | Feedback::Postponed => {}
        }
        self.destinations[d].ended(now);
        if let Some(site) = site {
            self.site_left(site);
        }
        self.transports[t].busy -= 1;
        let pause = self.transports[t].settings.destination_rate_delay;
        if !pause.is_zero() {
            let until = now + pause;
            if let Some(old) = self.destinations[d].paused.replace(until) {
                self.timers.remove(&(old, Timer::Resume(d)));
            }
            self.timers.insert((until, Timer::Resume(d)));
        }
        if let Some(entry) = self.active.get_mut(&message) {
            entry.flying -= 1;
            entry.recipients -= recipients;
        }
        self.offer(d);
        self.wake(t);
        self.finish_if_done(message);
        self.drop_destination_if_idle(d);
        if let Some(site) = site {
            self.drop_site_if_idle(site);
        }
    }

    /// A delivery that did nothing: its recipients are where they were before it.
    pub(super) fn postponed(&mut self, d: u32, message: QueueId, nexthop: &Arc<str>, recipients: Vec<u32>) {
        let t = self.destinations[d].transport;
        self.destinations[d].busy -= 1;
        self.transports[t].busy -= 1;
        let count = recipients.len();
        let wanted = match self.active.get_mut(&message) {
            Some(entry) => {
                entry.flying -= 1;
                matches!(entry.then, Then::Finish).then_some(entry.sender)
            }
            None => None,
        };
        match wanted {
            Some(sender) => {
                let (transport, destination) =
                    (Arc::clone(&self.transports[t].name), Arc::clone(&self.destinations[d].name));
                let route = Route { recipient: 0, transport, nexthop: Arc::clone(nexthop), destination };
                let p = self.peer_for(message, sender, &route);
                let before = self.peers[p].recipients.len();
                for recipient in recipients.into_iter().rev() {
                    self.peers[p].recipients.push_front(recipient);
                }
                self.recount(p, before);
                if let Some(entry) = self.active.get_mut(&message) {
                    entry.held += count;
                }
                if self.peers[p].standing == Standing::Loose {
                    self.ready_peer(p, Standing::Ready);
                }
            }
            None => {
                self.recipients -= count;
                self.transports[t].recipients -= count;
                if let Some(entry) = self.active.get_mut(&message) {
                    entry.recipients -= count;
                }
            }
        }
        self.offer(d);
        self.wake(t);
        self.finish_if_done(message);
        self.drop_destination_if_idle(d);
    }

    pub(super) fn destination_failed(&mut self, d: u32, status: EnhancedStatus, reason: &str, now: Timestamp) {
        let destination = &mut self.destinations[d];
        match destination.failed(&self.transports[destination.transport].settings) {
            Failed::Nothing => return,
            Failed::By(feedback) => return self.tell_window(d, false, Some(feedback)),
            Failed::Dies => {}
        }
        let reason = format!("delivery temporarily suspended: {reason}");
        let dead = Dead { until: now + self.settings.minimal_backoff_time, status, reason: reason.into() };
        destination.dead = Some(dead.clone());
        self.dead_destinations += 1;
        self.timers.insert((dead.until, Timer::Revive(d)));
        self.tell_window(d, false, None);
        // Peers that are ready are deferred when their turn comes.
        self.defer_waiting(d, &dead);
    }

    /// `destination_concurrency_feedback_debug`
    pub(super) fn tell_window(&mut self, d: u32, answered: bool, feedback: Option<f64>) {
        if self.settings.feedback_debug {
            let destination = &self.destinations[d];
            let step = destination.step(&self.transports[destination.transport].settings, answered, feedback);
            self.outbox.push_back(Action::Window(step));
        }
    }

    /// All peers that wait for a slot of a destination are deferred.
    pub(crate) fn defer_waiting(&mut self, d: u32, dead: &Dead) {
        // Dropping the last peer may drop the destination.
        while let Some(p) = self.destinations.get_mut(d).and_then(|destination| destination.waiting.pop()) {
            self.peers[p].standing = Standing::Loose;
            self.defer_peer(p, dead);
        }
    }

    pub(super) fn transport_failed(&mut self, t: usize, status: EnhancedStatus, reason: &str, now: Timestamp) {
        if self.transports[t].dead.is_some() {
            return;
        }
        let dead = Dead { until: now + self.settings.transport_retry_time, status, reason: reason.into() };
        self.transports[t].dead = Some(dead.clone());
        self.timers.insert((dead.until, Timer::RetryTransport(t)));
        while let Some(j) = self.transports[t].jobs.pop() {
            self.jobs[j].queued = false;
            for p in std::mem::take(&mut self.jobs[j].ready) {
                self.take_offer(p);
                self.defer_peer(p, &dead);
            }
        }
        let destinations: Vec<u32> = self.transports[t].destinations.values().copied().collect();
        for d in destinations {
            self.defer_waiting(d, &dead);
        }
        self.offer_all_sites();
    }

    /// All that a peer has left is deferred.
    pub(super) fn defer_peer(&mut self, p: u32, dead: &Dead) {
        let recipients: Vec<u32> = std::mem::take(&mut self.peers[p].recipients).into();
        let id = self.jobs[self.peers[p].job].message;
        let count = recipients.len();
        self.recount(p, count);
        if count > 0 {
            self.recipients -= count;
            self.transports[self.destinations[self.peers[p].destination].transport].recipients -= count;
            if let Some(entry) = self.active.get_mut(&id) {
                entry.held -= count;
                entry.recipients -= count;
            }
            let Dead { status, reason, .. } = dead.clone();
            self.outbox.push_back(Action::Defer(Deferral { message: id, recipients, status, reason }));
        }
        self.drop_peer_if_done(p);
        if count > 0 {
            self.refill(id);
            self.finish_if_done(id);
        }
    }

    // ---- ends

    pub(super) fn drop_peer_if_done(&mut self, p: u32) {
        let Peer { job: j, destination: d, standing, ref recipients, .. } = self.peers[p];
        if standing != Standing::Loose || !recipients.is_empty() {
            return;
        }
        self.peers.remove(p);
        let job = &mut self.jobs[j];
        job.peers.remove(&d);
        if job.peers.is_empty() {
            let id = job.message;
            self.release(self.destinations[d].transport, j);
            self.jobs.remove(j);
            if let Some(message) = self.active.get_mut(&id) {
                message.jobs.retain(|(_, job)| *job != j);
            }
        }
        self.destinations[d].peers -= 1;
        self.site_counts(d, false);
        self.drop_destination_if_idle(d);
    }

    /// A destination without mail is as one nothing is known of, but for the time of its last delivery, and goes when that does
    /// not matter any more.
    pub(super) fn drop_destination_if_idle(&mut self, d: u32) {
        let Some(destination) = self.destinations.get_mut(d).filter(|d| d.is_idle() && !d.idle) else { return };
        if let Some(dead) = &destination.dead {
            // A dead one is remembered, but not so many that memory suffers.
            if self.dead_destinations <= self.settings.recipient_limit.saturating_mul(2) {
                return;
            }
            self.timers.remove(&(dead.until, Timer::Revive(d)));
            self.dead_destinations -= 1;
        }
        destination.rest(&self.transports[destination.transport].settings, self.latest);
        self.idle_destinations += 1;
        if !std::mem::replace(&mut destination.lingers, true) {
            self.lingering.push_back((self.latest, d));
        }
        self.leave_site(d);
    }

    /// Forgets destinations that have been without mail for long.
    pub(super) fn forget_idle(&mut self, now: Timestamp) {
        while let Some((looked, d)) = self.lingering.front().copied() {
            let full = self.lingering.len() > LINGERING;
            if !full && now.since(looked) < LINGER && looked <= now {
                break;
            }
            self.lingering.pop_front();
            let destination = &mut self.destinations[d];
            if !destination.idle {
                destination.lingers = false;
            } else if !full && now.since(destination.idle_since) < LINGER && looked < destination.idle_since {
                self.lingering.push_back((destination.idle_since, d));
            } else {
                self.idle_destinations -= 1;
                self.transports[destination.transport].destinations.remove(&destination.name);
                self.destinations.remove(d);
            }
        }
    }

    pub(super) fn finish_if_done(&mut self, id: QueueId) {
        self.refill(id);
        let Some(message) = self.active.get(&id) else { return };
        if message.activating || message.held > 0 || message.flying > 0 {
            return;
        }
        let Some(message) = self.active.remove(&id) else { return };
        self.active_deferred -= usize::from(message.was_deferred);
        match message.then {
            Then::Finish => self.outbox.push_back(Action::Finished(id)),
            Then::Forget => {}
            Then::Wait(how) => self.wait(id, how),
        }
    }
}

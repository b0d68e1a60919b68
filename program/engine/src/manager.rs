//! The queue manager: the one task that owns the schedule, and what it remembers of active messages.
//!
//! Everybody else sends it [`Order`]s. It asks the schedule what to do and starts it: reading and routing a message,
//! a delivery, the end of a message. Results come back as orders. So the schedule needs no lock, and what is decided
//! about a message is decided in one place.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use yamabiko_deliver::visit::{self, Visitor};
use yamabiko_envelope::{
    Attempt, Content, DeliveryRecipient, DeliveryRequest, Envelope, Kind, Outcome, QueueId, RecipientState, Severity,
    Timestamp, TroubleClass,
};
use yamabiko_queue::{Meta, Outline, Queue, QueueError};
use yamabiko_schedule::{
    Action, Deferral, Delivery, Feedback, Lesson, Origin, Place, Schedule, Settings, Signal, site_hash,
};
use yamabiko_status::EnhancedStatus;

use crate::accept::Acceptance;
use crate::blocking::where_it_may_block;
use crate::generation::Current;
use crate::limits;
use crate::orders::{Manager, Order};
use crate::outcome::{deferred_outcome, is_open, is_probe, keep_settled, plain, states_after};
use crate::report;
use crate::routing::{Routing, content_of, route};
use crate::trip::trip;
use crate::verify::{self, Probe};
use crate::visit::{Visit, Visited};

/// What is remembered of a message while it is active.
struct Active {
    envelope: Arc<Envelope>,
    /// Only where many deliveries want it; otherwise each gets it from the queue, which keeps what is new in memory as far
    /// as its budget goes. Thousands of active messages would be much memory.
    content: Option<Content>,
    activated: Timestamp,
    /// Recipients that were still to be delivered when it became active.
    open: usize,
    /// New states of recipients, as far as anything has become of them; by position.
    changed: HashMap<u32, RecipientState>,
    /// Successes to report to the sender, and leaves of expansions that failed.
    outcomes: Vec<Outcome>,
    /// Addresses as resolved.
    addresses: HashMap<u32, String>,
    /// Up to this position the recipients were handed to the schedule.
    routed: usize,
    /// `postsuper -e`
    expire: bool,
    /// Nothing but what `changed` says of them is recorded on disk yet.
    unsettled: Vec<u32>,
}

/// The task.
pub struct Task {
    schedule: Schedule,
    active: HashMap<QueueId, Active>,
    /// Messages that are nowhere but here.
    probes: HashMap<QueueId, Probe>,
    engine: Acceptance,
    queue: Arc<Queue>,
    current: Current,
    manager: Manager,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Deliveries and ends of messages that others work on.
    begun: usize,
    /// Who waits for their end; then nothing more is begun.
    drain: Option<oneshot::Sender<()>>,
    draining: bool,
    /// Routings made beside: what belongs to an earlier life of a message is not heard.
    routing: HashMap<QueueId, u64>,
    routings: u64,
    /// Messages whose attempt is being ended beside, and when an operator wants them tried again.
    ending: HashMap<QueueId, Option<Timestamp>>,
    /// Who waits until nothing of a message is in progress.
    waiters: HashMap<QueueId, Vec<oneshot::Sender<()>>>,
    /// Sites that envelopes are still to be looked through for, and whether that is being done.
    sites: HashSet<u64>,
    searching: bool,
    /// It was said that nothing can be recorded any more.
    stuck: bool,
    /// Sites have taught something that is not in the file.
    unwritten: bool,
    /// When that file was last written.
    written: Timestamp,
}

impl Task {
    /// Everything that the queue holds waits for its time.
    pub fn new(settings: Settings, engine: Acceptance, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        let (queue, current) = (Arc::clone(engine.queue()), engine.current().clone());
        let manager = engine.manager().clone();
        let mut schedule = Schedule::new(settings);
        take_up(&mut schedule, &queue);
        limits::take_up(&mut schedule, &current);
        Self {
            schedule,
            active: HashMap::new(),
            probes: HashMap::new(),
            engine,
            queue,
            current,
            manager,
            orders,
            begun: 0,
            drain: None,
            draining: false,
            routing: HashMap::new(),
            routings: 0,
            ending: HashMap::new(),
            waiters: HashMap::new(),
            sites: HashSet::new(),
            searching: false,
            stuck: false,
            unwritten: false,
            written: Timestamp(0),
        }
    }

    /// Works until nobody is left to send orders.
    pub async fn run(mut self) {
        // Moved, not made anew for each order; it may ring early.
        let mut nap = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            let wake = tokio::time::Instant::now() + self.work();
            if nap.is_elapsed() || nap.deadline() > wake {
                nap.as_mut().reset(wake);
            }
            if self.begun == 0
                && let Some(drained) = self.drain.take()
            {
                self.write_limits(Timestamp::now(), true);
                let _ = drained.send(());
            }
            let order = tokio::select! {
                biased;
                order = self.orders.recv() => order,
                () = &mut nap => continue,
            };
            let Some(order) = order else { return };
            self.take(order);
            // Take what has piled up before looking at the schedule again, but not for ever.
            for _ in 0..1000 {
                match self.orders.try_recv() {
                    Ok(order) => self.take(order),
                    Err(_) => break,
                }
            }
        }
    }

    /// Does all that is to be done now; the time until there is more.
    fn work(&mut self) -> Duration {
        let mut now = Timestamp::now();
        let mut count = 0u32;
        trip("manager");
        self.look_at_queue();
        let idle = self.draining || self.stuck;
        while let Some(action) = self.schedule.poll(now) {
            match action {
                // What is not begun is found again at the next start.
                Action::Activate { .. } | Action::Deliver(_) if idle => {}
                Action::Activate { message, limit, first } => self.activate(message, limit, first, now),
                Action::Deliver(delivery) => self.deliver(delivery, now),
                Action::Defer(deferral) => self.defer(&deferral, now),
                Action::Finished(message) => self.finish(message, now),
                Action::Learned(lesson) => self.learned(&lesson),
                Action::Feedbacks(transport) => {
                    for line in crate::feedback_debug::feedbacks(&transport, &self.engine.current().get().config) {
                        self.current.say(Severity::Info, None, &line);
                    }
                }
                Action::Window(step) => {
                    for line in crate::feedback_debug::window(&step) {
                        self.current.say(Severity::Info, None, &line);
                    }
                }
                Action::Clogged(clogged) => {
                    for line in crate::clog::lines(&clogged, &self.engine.current().get().config) {
                        self.current.say(Severity::Warning, None, &line);
                    }
                }
            }
            count += 1;
            if count.is_multiple_of(64) {
                now = Timestamp::now();
            }
        }
        self.write_limits(now, false);
        match self.schedule.next_deadline() {
            _ if self.unwritten => Duration::from_secs(1),
            Some(at) => at.since(Timestamp::now()).min(Duration::from_secs(3600)) + Duration::from_millis(1),
            None => Duration::from_secs(3600),
        }
    }

    /// A site has taught something.
    fn learned(&mut self, lesson: &Lesson) {
        self.unwritten = true;
        let Lesson { source, site, change, blocked, reply } = lesson;
        let from = if source.is_empty() { String::new() } else { format!(" from {source}") };
        let why = if reply.is_empty() { String::new() } else { format!(" ({reply})") };
        let text = format!("limits for {site}{from}: {change}{why}");
        self.current.say(if *blocked { Severity::Warning } else { Severity::Info }, None, &text);
        if *blocked {
            let _told = self.engine.desk().alarm(TroubleClass::Policy, &text);
        }
    }

    /// Keeps what sites have taught, at most every ten seconds.
    fn write_limits(&mut self, now: Timestamp, at_once: bool) {
        if !self.unwritten || (!at_once && now.since(self.written) < Duration::from_secs(10)) {
            return;
        }
        (self.unwritten, self.written) = (false, now);
        let (path, sheet, current) =
            (limits::path_of(&self.current), limits::sheet(&self.schedule), self.current.clone());
        let write = move || {
            if let Err(error) = limits::write(&path, &sheet) {
                current.say(Severity::Warning, None, &format!("{}: {error}", path.display()));
            }
        };
        if at_once { write() } else { drop(tokio::task::spawn_blocking(write)) }
    }

    /// What a delivery has taught of its site. The feedback for its destination; `None` when nothing was done.
    fn visited(
        &mut self,
        delivery: &Delivery,
        attempt: &Attempt,
        feedback: Feedback,
        visited: Option<Visited>,
        now: Timestamp,
    ) -> Option<Feedback> {
        let Some(visited) = visited else { return Some(feedback) };
        if visited.postponed && attempt.outcomes.is_empty() {
            self.schedule.delivery_done(delivery.id, Feedback::Postponed, now);
            self.answer_waiters(delivery.message);
            return None;
        }
        if visited.ended {
            self.schedule.session_ended(delivery.id, now);
        }
        let reached = matches!(feedback, Feedback::Answered | Feedback::DestinationFailure { .. });
        let blamed = reached
            && (visited.signal != Signal::Success || feedback == Feedback::Answered)
            && self.schedule.heard(delivery.id, &visited.signal, now);
        Some(if blamed { Feedback::Nothing } else { feedback })
    }

    /// What cannot be recorded is not begun: it would be delivered again with every attempt.
    fn look_at_queue(&mut self) {
        for damage in self.queue.take_damage() {
            self.current.say(Severity::Error, damage.queue_id, &format!("damaged record set aside: {damage}"));
        }
        if !self.stuck
            && let Some(why) = self.queue.failure()
        {
            self.stuck = true;
            let text = format!("the queue cannot be written, no mail is delivered until the next start: {why}");
            self.current.say(Severity::Fatal, None, &text);
            let _told = self.engine.desk().alarm(TroubleClass::Resource, &text);
        }
    }

    fn take(&mut self, order: Order) {
        let now = Timestamp::now();
        match order {
            Order::Arrived(id, origin) => self.schedule.message_arrived(id, origin),
            Order::Probe(probe) => {
                let id = probe.envelope.queue_id;
                let sender = yamabiko_schedule::sender_hash(&probe.envelope.sender);
                self.probes.insert(id, *probe);
                self.schedule.message_arrived(id, sender);
            }
            Order::Attempted(delivery, request, attempt, feedback, visited) => {
                self.begun -= 1;
                if let Some(feedback) = self.visited(&delivery, &attempt, feedback, visited, now) {
                    self.attempted(&delivery, &request, attempt, feedback, now);
                }
            }
            Order::Enter(delivery, site, answer) => {
                let _ = answer.send(self.schedule.enter(delivery, &site, now));
            }
            Order::Limits(words, answer) => {
                let said = limits::operate(&mut self.schedule, &words, now);
                self.unwritten |= words.first().is_some_and(|word| word != "list");
                let _ = answer.send(said);
            }
            Order::Routed(id, number, routing) => {
                if self.routing.get(&id) == Some(&number) {
                    self.routing.remove(&id);
                    self.routed(id, *routing, now);
                }
            }
            Order::Ended(id, next) => {
                self.begun -= 1;
                self.ended(id, next);
            }
            Order::FlushAll => self.schedule.flush_all(now),
            Order::FlushMessage(id, answer) => {
                let _ = answer.send(self.schedule.flush_message(id, now));
            }
            Order::FlushSite(site) => self.flush_site(&site, now),
            Order::Withdraw(id, answer) => {
                self.schedule.remove(id);
                self.let_go(id);
                if let Some(answer) = answer {
                    self.waiters.entry(id).or_default().push(answer);
                    self.answer_waiters(id);
                }
            }
            Order::WithdrawAll(ids, done) => {
                for id in ids {
                    self.schedule.remove(id);
                    self.let_go(id);
                }
                let _ = done.send(());
            }
            Order::Offer(id, due, sites) => self.offer(id, due, &sites),
            Order::OfferAll(ids, due, done) => {
                ids.into_iter().for_each(|id| self.offer(id, due, &[]));
                let _ = done.send(());
            }
            Order::Found(ids) => {
                self.searching = false;
                for id in ids {
                    self.schedule.flush_message(id, now);
                }
                self.search();
            }
            Order::Tidy => self.tidy(),
            Order::Reconfigure(settings) => self.schedule.reconfigure(*settings),
            // Whoever takes an order looks at the queue next.
            Order::Look => {}
            Order::Drain(drained) => {
                self.draining = true;
                self.drain = Some(drained);
            }
        }
    }

    /// Mail that was not looked at since the start has no sites in the schedule: those envelopes are read now.
    fn flush_site(&mut self, site: &str, now: Timestamp) {
        self.schedule.flush_site(site, now);
        // Whoever asks for more names than that waits for the schedule.
        if self.sites.len() < 1000 {
            self.sites.insert(site_hash(site));
        }
        self.search();
    }

    /// Looks through deferred mail beside, for all sites that are asked for by now.
    fn search(&mut self) {
        if self.searching || self.sites.is_empty() {
            return;
        }
        self.searching = true;
        let wanted = std::mem::take(&mut self.sites);
        let (queue, manager) = (Arc::clone(&self.queue), self.manager.clone());
        tokio::task::spawn_blocking(move || {
            let waits = |meta: &Meta| !meta.flags.hold() && !meta.flags.active() && meta.attempts > 0;
            let (mut found, mut after) = (Vec::new(), None);
            let mut look = |outline: &Outline<'_>| {
                let open = outline.recipients.iter().filter(|recipient| recipient.is_open());
                let mut domains = open.filter_map(|recipient| yamabiko_address::split_domain(recipient.address).1);
                if domains.any(|domain| wanted.contains(&site_hash(domain))) {
                    found.push(outline.meta.queue_id);
                }
            };
            while let Some(last) = queue.outline(after, waits, &mut look) {
                after = Some(last);
            }
            manager.send(Order::Found(found));
        });
    }

    // ---- operators

    fn offer(&mut self, id: QueueId, due: Timestamp, sites: &[u64]) {
        match self.ending.get_mut(&id) {
            // Two lives at once would deliver twice: the end of this one comes first.
            Some(wanted) => *wanted = Some(wanted.map_or(due, |other| other.min(due))),
            None => {
                self.let_go(id);
                self.schedule.message_deferred(id, due, sites);
            }
        }
    }

    /// The message is not ours any more, whatever is still in progress; what has become of it so far is recorded.
    fn let_go(&mut self, id: QueueId) {
        self.routing.remove(&id);
        self.probes.remove(&id);
        if let Some(active) = self.active.remove(&id) {
            let mut changed = active.changed;
            let mut changes: Vec<_> = active
                .unsettled
                .into_iter()
                .filter_map(|index| changed.remove(&index).map(|state| (index, state)))
                .collect();
            let mail_name = self.engine.current().get().mail_name.clone();
            report::keep_failed_leaves(&mut changes, &active.outcomes, &mail_name);
            self.record(id, &changes);
        }
        let _ = self.queue.set_active(id, false);
    }

    /// Records states of a message that an operator may have removed meanwhile.
    fn record(&self, id: QueueId, changes: &[(u32, RecipientState)]) {
        if changes.is_empty() {
            return;
        }
        match self.queue.settle(id, changes) {
            Ok(()) | Err(QueueError::NotFound(_)) => {}
            Err(error) => self.current.complain(Some(id), &error),
        }
    }

    fn answer_waiters(&mut self, id: QueueId) {
        if self.waiters.is_empty() || self.ending.contains_key(&id) || self.schedule.place(id) == Some(Place::Active) {
            return;
        }
        for waiter in self.waiters.remove(&id).unwrap_or_default() {
            let _ = waiter.send(());
        }
    }

    // ---- a message becomes active

    fn activate(&mut self, message: QueueId, limit: usize, first: bool, now: Timestamp) {
        if first && self.queue.meta(message).is_some_and(|meta| meta.flags.hold()) {
            // An operator was quicker than the order that made it wait here.
            self.schedule.remove(message);
            return;
        }
        let known = match (first, self.active.get(&message)) {
            (false, Some(active)) => Some((Arc::clone(&active.envelope), None, active.expire)),
            _ => {
                let probe = self.probes.get(&message);
                probe.map(|probe| (Arc::clone(&probe.envelope), Some(probe.content.clone()), false))
            }
        };
        let from = if first { 0 } else { self.active.get(&message).map_or(0, |active| active.routed) };
        let queue = Arc::clone(&self.queue);
        let current = self.current.clone();
        let fresh = known.is_some() || self.queue.meta(message).is_some_and(|meta| meta.attempts == 0);
        let routing = route(queue, current, message, known, from, limit, first);
        let waits = self.engine.current().get().router.is_remote();
        if (fresh || !first) && !waits {
            // What has just come in lies in memory, and file tables answer at once: no task for that.
            let mut routing = Box::pin(routing);
            match catch_unwind(AssertUnwindSafe(|| routing.as_mut().now_or_never())) {
                Ok(Some(routing)) => self.routed(message, routing, now),
                Ok(None) => self.route_aside(message, routing, from, first),
                Err(_) => {
                    self.current.say(Severity::Panic, Some(message), "routing failed; the message waits");
                    self.routed(message, Routing::none(from, first), now);
                }
            }
        } else {
            self.route_aside(message, Box::pin(routing), from, first);
        }
    }

    fn route_aside(
        &mut self,
        message: QueueId,
        routing: std::pin::Pin<Box<impl Future<Output = Routing> + Send + 'static>>,
        from: usize,
        first: bool,
    ) {
        self.routings += 1;
        let number = self.routings;
        self.routing.insert(message, number);
        let (manager, current) = (self.manager.clone(), self.current.clone());
        tokio::spawn(async move {
            // A panic is a bug of ours: the message waits for its next attempt.
            let remote = current.get().router.is_remote();
            let routing = where_it_may_block(remote, AssertUnwindSafe(routing).catch_unwind());
            let routing = routing.await.unwrap_or_else(|_| {
                current.say(Severity::Panic, Some(message), "routing failed; the message waits");
                Routing::none(from, first)
            });
            manager.send(Order::Routed(message, number, Box::new(routing)));
        });
    }

    fn routed(&mut self, message: QueueId, routing: Routing, now: Timestamp) {
        let Routing { found, routes, addresses, troubled, more, next, first } = routing;
        if first {
            let Some((envelope, content, expire)) = found else {
                // It was removed meanwhile, or cannot be read: said where that was found out. Later, perhaps.
                self.schedule.remove(message);
                self.probes.remove(&message);
                if self.queue.meta(message).is_some_and(|meta| !meta.flags.hold()) {
                    self.schedule.message_deferred(message, now + Duration::from_secs(300), &[]);
                }
                return;
            };
            if !self.probes.contains_key(&message) && self.queue.set_active(message, true).is_err() {
                self.schedule.remove(message);
                return;
            }
            let open = envelope.recipients.iter().filter(|r| is_open(&r.state)).count();
            let kind = Kind::Activated {
                queue_id: message,
                sender: envelope.sender.clone(),
                size: envelope.size,
                recipients: open,
            };
            self.current.emit("qmgr", now, kind);
            let active = Active {
                envelope,
                content,
                activated: now,
                open,
                changed: HashMap::new(),
                outcomes: Vec::new(),
                addresses: HashMap::new(),
                routed: 0,
                expire,
                unsettled: Vec::new(),
            };
            self.active.insert(message, active);
        }
        let Some(active) = self.active.get_mut(&message) else {
            self.schedule.remove(message);
            return;
        };
        active.routed = next;
        active.addresses.extend(addresses);
        let sender = active.envelope.sender.clone();
        if !troubled.is_empty() {
            let deferral = Deferral {
                message,
                recipients: troubled,
                status: EnhancedStatus::transient(3, 0),
                reason: "address resolver failure".into(),
            };
            self.defer(&deferral, now);
        }
        self.schedule.activated(message, &sender, routes, more, now);
    }

    /// Tables that are mostly empty become as small as what is in them.
    fn tidy(&mut self) {
        self.active.shrink_to(2 * self.active.len());
        self.probes.shrink_to(2 * self.probes.len());
        self.routing.shrink_to(2 * self.routing.len());
        self.ending.shrink_to(2 * self.ending.len());
        self.waiters.shrink_to(2 * self.waiters.len());
        self.schedule.tidy();
    }

    // ---- deliveries

    fn deliver(&mut self, delivery: Delivery, now: Timestamp) {
        let Some(active) = self.active.get(&delivery.message) else {
            self.schedule.delivery_done(delivery.id, Feedback::Nothing, now);
            return;
        };
        let recipients = delivery.recipients.iter().filter_map(|&index| {
            let known = active.envelope.recipients.get(index as usize)?;
            let address = active.addresses.get(&index).unwrap_or(&known.address).clone();
            Some(DeliveryRecipient { index, address })
        });
        let request = DeliveryRequest {
            envelope: Arc::clone(&active.envelope),
            content: Content::Memory(Bytes::new()),
            transport: Arc::clone(&delivery.transport),
            nexthop: Arc::clone(&delivery.nexthop),
            recipients: recipients.collect(),
            sender: active.envelope.sender.as_str().into(),
            activated: active.activated,
            started: now,
            reuse: delivery.reuse,
        };
        let content = active.content.clone();
        let settings = self.schedule.settings().transport(&delivery.transport);
        let shaped = settings.shapes_sites() || settings.one_session;
        let visit = shaped.then(|| Arc::new(Visit::new(self.manager.clone(), delivery.id)));
        let (manager, current, queue) = (self.manager.clone(), self.current.clone(), Arc::clone(&self.queue));
        // One `Attempted` for each.
        self.begun += 1;
        tokio::spawn(async move {
            let read = || content.or_else(|| content_of(&queue, &current, delivery.message));
            let content = catch_unwind(AssertUnwindSafe(read)).unwrap_or(None);
            let readable = content.is_some();
            let request = Arc::new(match content {
                Some(content) => DeliveryRequest { content, ..request },
                None => request,
            });
            let work = async {
                let (attempt, feedback) = match readable {
                    true => match &visit {
                        Some(visit) => {
                            let visitor: Arc<dyn Visitor> = Arc::clone(visit) as _;
                            visit::within(visitor, crate::reverse_path::deliver(&current, &request)).await
                        }
                        None => crate::reverse_path::deliver(&current, &request).await,
                    },
                    // Gone, or it was said what is wrong with it: no result defers.
                    false => (Attempt { outcomes: Vec::new(), destination_failure: None }, Feedback::Nothing),
                };
                for outcome in &attempt.outcomes {
                    current.emit_outcome(&request, outcome);
                }
                trip("delivery");
                (attempt, feedback)
            };
            // A panic is a bug of ours, and bugs of ours defer mail.
            let (attempt, feedback) = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                current.say(Severity::Panic, Some(delivery.message), "delivery failed; the recipients wait");
                let reason = "unknown mail transport error";
                let attempt = crate::outcome::deferred(&request, EnhancedStatus::transient(3, 0), reason);
                (attempt, Feedback::Nothing)
            });
            let visited = visit.map(|visit| visit.visited());
            manager.send(Order::Attempted(Box::new(delivery), request, attempt, feedback, visited));
        });
    }

    fn attempted(
        &mut self,
        delivery: &Delivery,
        request: &DeliveryRequest,
        attempt: Attempt,
        feedback: Feedback,
        now: Timestamp,
    ) {
        let generation = self.engine.current().get();
        let mail_name = &generation.mail_name;
        let mut results = states_after(&request.envelope, &attempt.outcomes, mail_name);
        let probe = is_probe(&request.envelope);
        let states = request.recipients.iter().map(|recipient| {
            if probe {
                // An answer is all that is wanted, whatever it is.
                return (recipient.index, RecipientState::Done);
            }
            // An agent that says nothing about a recipient has not delivered to it.
            let state = results.remove(&recipient.index).unwrap_or_else(|| {
                let failure = plain(EnhancedStatus::transient(3, 0), "delivery agent gave no result");
                let mut state = RecipientState::Deferred(Box::new(failure));
                keep_settled(&request.envelope, recipient.index, &mut state);
                state
            });
            (recipient.index, state)
        });
        let mut states: Vec<_> = states.collect();
        if let Some(active) = self.active.get_mut(&delivery.message) {
            let first = active.outcomes.len();
            active.outcomes.extend(attempt.outcomes);
            for (index, state) in states {
                active.changed.insert(index, state);
                active.unsettled.push(index);
            }
            // With more of the message still to come, what is done is recorded now: a crash then repeats less.
            if active.changed.len() < active.open {
                let mut changes: Vec<_> = std::mem::take(&mut active.unsettled)
                    .into_iter()
                    .filter_map(|index| active.changed.get(&index).map(|state| (index, state.clone())))
                    .collect();
                // Not over all that has become of the message so far: that would be again and again for each of its deliveries.
                let of_this = active.outcomes.get(first..).unwrap_or_default();
                report::keep_failed_leaves(&mut changes, of_this, mail_name);
                self.record(delivery.message, &changes);
            }
        } else {
            // An operator took the message away while it was being delivered. It may come back: what was delivered
            // must not be delivered again then, and what failed is told of.
            report::keep_failed_leaves(&mut states, &attempt.outcomes, mail_name);
            self.record(delivery.message, &states);
        }
        self.schedule.delivery_done(delivery.id, feedback, now);
        self.answer_waiters(delivery.message);
    }

    fn defer(&mut self, deferral: &Deferral, now: Timestamp) {
        let Some(active) = self.active.get_mut(&deferral.message) else { return };
        for &index in &deferral.recipients {
            let Some(recipient) = active.envelope.recipients.get(index as usize) else { continue };
            let address = active.addresses.get(&index).unwrap_or(&recipient.address);
            let failure = plain(deferral.status, &deferral.reason);
            let outcome = deferred_outcome(index, &failure, now);
            self.current.emit_suspended(&active.envelope, recipient, address, active.activated, &outcome);
            let mut state = match is_probe(&active.envelope) {
                true => RecipientState::Done,
                false => RecipientState::Deferred(Box::new(failure)),
            };
            keep_settled(&active.envelope, index, &mut state);
            active.changed.insert(index, state);
            active.unsettled.push(index);
            active.outcomes.push(outcome);
        }
    }

    // ---- the end of an attempt

    /// Nothing of the message is in progress. All well: it is gone. Otherwise reports and the next attempt are made
    /// beside, because they take time.
    fn finish(&mut self, message: QueueId, now: Timestamp) {
        let Some(active) = self.active.remove(&message) else { return };
        if let Some(probe) = self.probes.remove(&message) {
            return verify::finish(&self.engine, probe, active.outcomes, now);
        }
        let states = |index: usize| {
            // Positions are 32 bits wide everywhere.
            let changed = active.changed.get(&(index as u32));
            changed.unwrap_or(&active.envelope.recipients[index].state)
        };
        let warned = self.queue.meta(message).is_some_and(|meta| meta.flags.warned());
        let all_done = (0..active.envelope.recipients.len()).all(|index| *states(index) == RecipientState::Done);
        let cleared = warned && self.engine.current().get().bounce.confirms_delay_cleared();
        let quiet = !cleared && !report::is_worth_a_notice(&active.envelope, &active.outcomes);
        if all_done && quiet {
            self.remove(message, now);
            return;
        }
        let end = report::End {
            envelope: Arc::clone(&active.envelope),
            content: active.content,
            states: (0..active.envelope.recipients.len()).map(|index| states(index).clone()).collect(),
            outcomes: active.outcomes,
            changed: active.unsettled,
            expire: active.expire || self.queue.meta(message).is_some_and(|meta| meta.flags.expire()),
            warned,
        };
        let settings = self.schedule.settings();
        let age = report::Age {
            now,
            retry_at: settings.retry_at(end.envelope.arrival, now),
            expired: settings.expired(end.envelope.arrival, now, end.envelope.sender.is_empty()),
            warn_due: settings.warn_due(end.envelope.arrival, now),
        };
        let (engine, manager) = (self.engine.clone(), self.manager.clone());
        // One `Ended` for each.
        self.begun += 1;
        self.ending.insert(message, None);
        let retry_at = age.retry_at;
        tokio::spawn(async move {
            let end = AssertUnwindSafe(report::end(&engine, end, age));
            let next = end.catch_unwind().await.unwrap_or_else(|_| {
                // What had been recorded stays; the rest is done again at the next attempt.
                let text = "the end of an attempt failed; the message waits";
                engine.current().say(Severity::Panic, Some(message), text);
                Some((retry_at, Vec::new()))
            });
            let _ = engine.queue().set_active(message, false);
            manager.send(Order::Ended(message, next));
        });
    }

    /// An attempt is over and dealt with: the message is gone, or waits for the next one.
    fn ended(&mut self, message: QueueId, next: Option<(Timestamp, Vec<u64>)>) {
        let wanted = self.ending.remove(&message).flatten();
        let next = match (next, wanted) {
            (Some((due, sites)), Some(wanted)) => Some((due.min(wanted), sites)),
            (None, Some(wanted)) => Some((wanted, Vec::new())),
            (next, None) => next,
        };
        if let Some((due, sites)) = next
            && self.queue.meta(message).is_some_and(|meta| !meta.flags.hold())
        {
            self.schedule.message_deferred(message, due, &sites);
        }
        self.answer_waiters(message);
    }

    fn remove(&self, message: QueueId, now: Timestamp) {
        match self.queue.remove(message) {
            Ok(()) => self.current.emit("qmgr", now, Kind::Removed { queue_id: message }),
            Err(QueueError::NotFound(_)) => {}
            Err(error) => self.current.complain(Some(message), &error),
        }
    }
}

/// Everything that the queue holds waits for its time, as it did before the restart.
pub fn take_up(schedule: &mut Schedule, queue: &Queue) {
    let mut after = None;
    loop {
        let page = queue.page(after, 1000);
        let Some(last) = page.last() else { return };
        after = Some(last.queue_id);
        for meta in page.into_iter().filter(|meta| !meta.flags.hold()) {
            // Senders and sites are learnt when the message is next tried: reading every envelope now would make the
            // start slow. Until then new mail that a crash has left is one line among those of the senders to come.
            if meta.attempts == 0 {
                schedule.message_arrived(meta.queue_id, Origin::default());
            } else {
                schedule.message_deferred(meta.queue_id, meta.next_attempt, &[]);
            }
        }
    }
}

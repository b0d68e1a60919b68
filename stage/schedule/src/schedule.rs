//! The state machine itself.

mod reports;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_status::EnhancedStatus;

use crate::action::{Action, ClogLimit, Clogged, Counts, Deferral, Delivery, DeliveryId, Place, Route};
use crate::destination::{Dead, Destination};
use crate::settings::{Settings, TransportSettings};
use crate::sites::Sites;
use crate::slab::Slab;
use crate::slots::{Earned, Turns};
use crate::waiting::{Line, Origin, Taken, Waiting, sender_hash, site_hash};

/// How long a destination without mail is remembered, for the connections to it: Postfix, slower, hardly ever sees the moment
/// between two messages of a stream.
const LINGER: Duration = Duration::from_secs(2);
/// Destinations without mail that are remembered.
const LINGERING: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A dead destination may be tried again.
    Revive(u32),
    /// A destination's rate delay is over.
    Resume(u32),
    /// A dead transport may be tried again.
    RetryTransport(usize),
    /// A transport's rate delay is over.
    UnlockTransport(usize),
    /// A receiving site may have room again.
    SiteResume(u32),
    /// What began at a receiving site may be longer ago than is counted.
    SiteFades(u32),
    /// The last recipients of a message came in long ago: the next are wanted although few have gone.
    Refill(QueueId),
}

#[derive(Debug)]
pub(crate) struct Transport {
    name: Arc<str>,
    pub(crate) settings: TransportSettings,
    destinations: HashMap<Arc<str>, u32>,
    /// Jobs with a peer that is ready.
    pub(crate) jobs: Turns,
    busy: usize,
    /// Recipients in memory, in peers and in flight.
    recipients: usize,
    dead: Option<Dead>,
    locked: bool,
    /// It is in [`Schedule::ready`].
    ready: bool,
}

impl Transport {
    fn may_start(&self) -> bool {
        let free = self.settings.process_limit == 0 || self.busy < self.settings.process_limit;
        free && !self.locked && self.dead.is_none() && !self.jobs.is_empty()
    }
}

/// Room for more recipients of a message.
struct Room {
    /// So many may come in.
    fits: usize,
    /// So many are worth asking for.
    enough: usize,
}

/// The transport, or the destination of it, that cannot be tried.
type ObstacleKey = (usize, Option<u32>);

/// What becomes of an active message when nothing of it is in progress any more.
#[derive(Debug)]
enum Then {
    Finish,
    Forget,
    /// It came back while deliveries of its former life were still running.
    Wait(Comeback),
}

/// How a message is to wait.
#[derive(Debug)]
enum Comeback {
    Incoming { origin: Origin },
    Deferred { due: Timestamp, sites: Vec<u64> },
}

#[derive(Debug)]
struct Message {
    sender: u64,
    /// Of all that became active, from 1 on, and when it did.
    number: u64,
    since: Timestamp,
    flushed: bool,
    was_deferred: bool,
    /// The engine is reading or routing it.
    activating: bool,
    /// It has recipients that were not handed in yet.
    more: bool,
    /// Recipients in peers.
    held: usize,
    /// Recipients in peers and in deliveries.
    recipients: usize,
    /// Deliveries in progress.
    flying: usize,
    /// By transport.
    jobs: Vec<(usize, u32)>,
    /// While it has more recipients: the transports of those that came last.
    last: Vec<usize>,
    /// While it has more recipients: when they are wanted even if few of the last have gone.
    refill_at: Option<Timestamp>,
    then: Then,
}

impl Message {
    /// Where it goes: where those go that wait, or the last ones if none does.
    fn transports(&self) -> impl Iterator<Item = usize> {
        let last = if self.jobs.is_empty() { &self.last[..] } else { &[] };
        self.jobs.iter().map(|(t, _)| *t).chain(last.iter().copied())
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) message: QueueId,
    pub(crate) sender: u64,
    /// By destination.
    pub(crate) peers: HashMap<u32, u32>,
    /// Peers that may be tried when it is this job's turn.
    ready: VecDeque<u32>,
    /// It is in its transport's `jobs`.
    queued: bool,
    /// Deliveries of the recipients in its peers.
    pub(crate) needs: usize,
    /// Where its transport has delivery slots.
    pub(crate) earned: Option<Box<Earned>>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) job: u32,
    pub(crate) destination: u32,
    nexthop: Arc<str>,
    pub(crate) recipients: VecDeque<u32>,
    pub(crate) standing: Standing,
}

/// Where a peer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nowhere.
    Loose,
    /// In its job's `ready`: it will see whether its destination has room.
    Ready,
    /// The same, and a slot of its destination is reserved for it because it waited for one.
    Offered,
    /// In its destination's `waiting`: there was no room.
    Waiting,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    pub message: QueueId,
    pub destination: u32,
    pub nexthop: Arc<str>,
    pub recipients: Vec<u32>,
    /// It counts at this receiving site.
    pub site: Option<u32>,
    pub began: Timestamp,
    /// How many ran at its site when it began, itself included.
    pub alongside: u32,
}

/// Who is tried next, where and when. See the head of the crate.
#[derive(Debug)]
pub struct Schedule {
    pub(crate) settings: Settings,
    waiting: Waiting,
    active: HashMap<QueueId, Message>,
    pub(crate) transports: Vec<Transport>,
    transport_names: HashMap<Arc<str>, usize>,
    pub(crate) destinations: Slab<Destination>,
    pub(crate) jobs: Slab<Job>,
    pub(crate) peers: Slab<Peer>,
    pub(crate) sites: Sites,
    pub(crate) in_flight: HashMap<DeliveryId, InFlight>,
    last_delivery: u64,
    /// Transports that may start a delivery, in turn.
    ready: VecDeque<usize>,
    pub(crate) timers: BTreeSet<(Timestamp, Timer)>,
    pub(crate) outbox: VecDeque<Action>,
    activating: usize,
    active_deferred: usize,
    /// [`Settings::first_portion`]
    first_portion: usize,
    recipients: usize,
    dead_destinations: usize,
    /// Destinations that were without mail, each once, with the time when it was last looked at.
    lingering: VecDeque<(Timestamp, u32)>,
    /// Of them, those that still are.
    idle_destinations: usize,
    deferred_turn: bool,
    /// Messages that became active.
    activations: u64,
    /// Jobs that were looked at to find one that preempts another.
    pub(crate) looks: u64,
    /// The last time that was told.
    pub(crate) latest: Timestamp,
}

impl Schedule {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            first_portion: settings.first_portion(),
            settings,
            waiting: Waiting::new(),
            active: HashMap::new(),
            transports: Vec::new(),
            transport_names: HashMap::new(),
            destinations: Slab::new(),
            jobs: Slab::new(),
            peers: Slab::new(),
            sites: Sites::default(),
            in_flight: HashMap::new(),
            last_delivery: 0,
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            outbox: VecDeque::new(),
            activating: 0,
            active_deferred: 0,
            recipients: 0,
            dead_destinations: 0,
            lingering: VecDeque::new(),
            idle_destinations: 0,
            deferred_turn: false,
            activations: 0,
            looks: 0,
            latest: Timestamp(0),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// New settings: they hold from the next decision on. Deliveries that run beyond a lowered limit are left to end.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.first_portion = settings.first_portion();
        self.settings = settings;
        for transport in &mut self.transports {
            transport.settings = self.settings.transport(&transport.name).clone();
        }
        self.recount_all();
        (0..self.transports.len()).for_each(|t| self.change_order(t, self.transports[t].settings.slots));
        self.revive_all();
        for d in self.destinations.keys() {
            let destination = &mut self.destinations[d];
            destination.reconfigure(&self.transports[destination.transport].settings);
            self.offer(d);
        }
        self.offer_all_sites();
        for t in 0..self.transports.len() {
            self.tell_feedbacks(t);
            self.wake(t);
        }
    }

    /// Tables that are mostly empty become as small as what is in them. For whoever sees that little happens: it takes time.
    pub fn tidy(&mut self) {
        self.waiting.tidy();
        self.active.shrink_to(2 * self.active.len());
        self.in_flight.shrink_to(2 * self.in_flight.len());
        for transport in &mut self.transports {
            transport.destinations.shrink_to(2 * transport.destinations.len());
        }
        self.outbox.shrink_to(2 * self.outbox.len());
        self.lingering.shrink_to(2 * self.lingering.len());
    }

    /// Whether the transport takes one recipient per delivery, so that each recipient is a destination.
    pub fn one_recipient(&self, transport: &str) -> bool {
        self.settings.transport(transport).destination_recipient_limit == 1
    }

    /// A new message and whom it is from. It is due at once, or when it is their turn if more is waiting than may be active.
    pub fn message_arrived(&mut self, message: QueueId, origin: impl Into<Origin>) {
        self.wait(message, Comeback::Incoming { origin: origin.into() });
    }

    /// A message to be tried (again) at `due`: after [`Action::Finished`], when it could not be read after
    /// [`Action::Activate`], and for what a restart found in the queue. `sites` are the [`site_hash`]es of the domains
    /// of its recipients, for [`Schedule::flush_site`].
    pub fn message_deferred(&mut self, message: QueueId, due: Timestamp, sites: &[u64]) {
        if self.active.contains_key(&message) {
            self.wait(message, Comeback::Deferred { due, sites: sites.to_vec() });
        } else {
            self.waiting.insert_deferred(message, due, sites);
        }
    }

    fn wait(&mut self, id: QueueId, how: Comeback) {
        if self.active.contains_key(&id) {
            // Deliveries of it may still be running: two lives at once would deliver twice.
            self.abandon(id, Then::Wait(how));
            return;
        }
        match how {
            Comeback::Incoming { origin } => self.waiting.insert_incoming(id, origin),
            Comeback::Deferred { due, sites } => self.waiting.insert_deferred(id, due, &sites),
        }
    }

    /// The message was deleted or held: nothing new is started for it, and it is never [`Action::Finished`]. Deliveries
    /// in progress end as they will. False when it is not known.
    pub fn remove(&mut self, message: QueueId) -> bool {
        if self.active.contains_key(&message) {
            self.abandon(message, Then::Forget);
            return true;
        }
        self.waiting.remove(message).is_some()
    }

    fn abandon(&mut self, id: QueueId, then: Then) {
        let Some(message) = self.active.get_mut(&id) else { return };
        message.then = then;
        message.more = false;
        let refill_at = message.refill_at.take();
        let taken = std::mem::take(&mut message.held);
        message.recipients -= taken;
        let activating = std::mem::replace(&mut message.activating, false);
        let jobs: Vec<u32> = message.jobs.iter().map(|(_, job)| *job).collect();
        self.recipients -= taken;
        self.activating -= usize::from(activating);
        if let Some(at) = refill_at {
            self.timers.remove(&(at, Timer::Refill(id)));
        }
        // Peers that stand somewhere are found empty when their turn comes.
        for job in jobs {
            let peers: Vec<u32> = self.jobs[job].peers.values().copied().collect();
            for peer in peers {
                let d = self.peers[peer].destination;
                let before = self.peers[peer].recipients.len();
                self.transports[self.destinations[d].transport].recipients -= before;
                self.peers[peer].recipients.clear();
                self.recount(peer, before);
                self.drop_peer_if_done(peer);
            }
        }
        self.outbox.retain(|action| !matches!(action, Action::Activate { message, .. } if *message == id));
        self.finish_if_done(id);
    }

    /// `postqueue -f`: everything is due, nothing is dead, `defer_transports` is ignored this once.
    pub fn flush_all(&mut self, now: Timestamp) {
        self.revive_all();
        self.waiting.flush_all(now);
    }

    /// `postqueue -i`: one message is due. False when it does not wait.
    pub fn flush_message(&mut self, message: QueueId, now: Timestamp) -> bool {
        self.revive_all();
        self.waiting.flush(message, now)
    }

    /// `postqueue -s`, ETRN: deferred mail with a recipient at `domain` is due. Returns how many messages.
    pub fn flush_site(&mut self, domain: &str, now: Timestamp) -> usize {
        self.revive_all();
        self.waiting.flush_site(site_hash(domain), now)
    }

    /// Forgets who is dead.
    fn revive_all(&mut self) {
        let timers: Vec<_> = self.timers.iter().copied().collect();
        for (at, timer) in timers {
            if matches!(timer, Timer::Revive(_) | Timer::RetryTransport(_)) {
                self.timers.remove(&(at, timer));
                self.fire(timer, at);
            }
        }
    }

    /// Where a message is; `None` when the schedule does not know it.
    pub fn place(&self, message: QueueId) -> Option<Place> {
        if self.active.contains_key(&message) {
            return Some(Place::Active);
        }
        self.waiting.line_of(message).map(|line| match line {
            Line::Incoming => Place::Incoming,
            Line::Deferred => Place::Deferred,
        })
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        Counts {
            incoming: self.waiting.len(Line::Incoming),
            deferred: self.waiting.len(Line::Deferred),
            active: self.active.len(),
            recipients: self.recipients,
            deliveries: self.in_flight.len(),
            destinations: self.destinations.len() - self.idle_destinations,
            dead_destinations: self.dead_destinations,
            sites: self.sites.len(),
        }
    }

    /// When to poll again if nothing else happens before. `None`: only when something happens.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let may = |line| if self.may_activate(line) { self.waiting.first_due(line) } else { None };
        [timer, may(Line::Incoming), may(Line::Deferred)].into_iter().flatten().min()
    }

    /// The next thing to do; `None` when there is nothing until the next report or [`Schedule::next_deadline`].
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        self.latest = now;
        self.forget_idle(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            self.fire(timer, now);
        }
        loop {
            if let Some(action) = self.outbox.pop_front() {
                return Some(action);
            }
            let Some(t) = self.ready.pop_front() else { break };
            self.transports[t].ready = false;
            let delivery = self.start_delivery(t, now);
            self.wake(t);
            if let Some(delivery) = delivery {
                return Some(Action::Deliver(delivery));
            }
        }
        self.activate(now)
    }

    fn fire(&mut self, timer: Timer, now: Timestamp) {
        match timer {
            Timer::Revive(d) => {
                let destination = &mut self.destinations[d];
                self.dead_destinations -= usize::from(destination.dead.is_some());
                destination.restart(&self.transports[destination.transport].settings);
                self.tell_window(d, true, None);
                self.offer(d);
                self.drop_destination_if_idle(d);
            }
            Timer::Resume(d) => {
                self.destinations[d].paused = None;
                self.offer(d);
                self.drop_destination_if_idle(d);
            }
            Timer::RetryTransport(t) => {
                self.transports[t].dead = None;
                let destinations: Vec<u32> = self.transports[t].destinations.values().copied().collect();
                destinations.into_iter().for_each(|d| self.offer(d));
                self.wake(t);
            }
            Timer::UnlockTransport(t) => {
                self.transports[t].locked = false;
                self.wake(t);
            }
            Timer::SiteResume(site) => self.site_resumes(site, now),
            Timer::SiteFades(site) => self.site_fades(site),
            Timer::Refill(id) => {
                self.refill(id);
                self.refill_later(id, now);
            }
        }
    }

    // ---- activation

    fn may_activate(&self, line: Line) -> bool {
        let limit = self.settings.active_limit.max(1);
        if self.active.len() >= limit || self.activating >= self.settings.activation_limit.max(1) {
            return false;
        }
        // Old mail leaves a fifth of the places to new mail, which has not shown yet that it is trouble.
        line == Line::Incoming || self.active_deferred < (limit - limit / 5)
    }

    /// New and deferred messages take turns.
    fn activate(&mut self, now: Timestamp) -> Option<Action> {
        let order =
            if self.deferred_turn { [Line::Deferred, Line::Incoming] } else { [Line::Incoming, Line::Deferred] };
        let taken = order
            .into_iter()
            .find_map(|line| if self.may_activate(line) { self.waiting.pop(line, now) } else { None })?;
        let Taken { id, line, flushed } = taken;
        self.deferred_turn = line == Line::Incoming;
        let was_deferred = line == Line::Deferred;
        self.active_deferred += usize::from(was_deferred);
        self.activating += 1;
        self.activations += 1;
        let message = Message {
            sender: 0,
            number: self.activations,
            since: now,
            flushed,
            was_deferred,
            activating: true,
            more: false,
            held: 0,
            recipients: 0,
            flying: 0,
            jobs: Vec::new(),
            last: Vec::new(),
            refill_at: None,
            then: Then::Finish,
        };
        let limit = self.room(&message).fits;
        self.active.insert(id, message);
        Some(Action::Activate { message: id, limit, first: true })
    }

    /// How many recipients a message may get next: so many that its own part of the memory, its transports' and everybody's are
    /// not exceeded; what every message may have in any case.
    fn room(&self, message: &Message) -> Room {
        let all = self.settings.recipient_limit;
        let mut left = all.saturating_sub(self.recipients);
        let (mut part, mut batch, mut extra) = (usize::MAX, usize::MAX, usize::MAX);
        for t in message.transports() {
            let Transport { settings, recipients, .. } = &self.transports[t];
            let of_it = settings.recipient_limit.saturating_sub(*recipients);
            let there = if of_it < left { *recipients } else { self.recipients };
            let beyond = recipients.saturating_sub(settings.recipient_limit).max(self.recipients.saturating_sub(all));
            // It is for those who find no room because others have it.
            let free = if message.recipients * 2 <= there { settings.extra_recipient_limit } else { 0 };
            extra = extra.min(free.saturating_sub(beyond));
            part = part.min(settings.extra_recipient_limit);
            batch = batch.min(settings.recipient_refill_limit);
            left = left.min(of_it);
        }
        if message.transports().next().is_none() {
            (part, extra) = (self.first_portion, 0);
        }
        if message.held < batch && left < batch {
            // Next to nothing of it is in memory. It does not go out ten by ten because others were there before.
            left = left.max(extra);
        }
        let least = self.settings.recipient_minimum.max(1);
        let fits = left.min(part.max(least).saturating_sub(message.held));
        // What is under way counts as well: no limit of processes may stand between the queue and as many recipients as it has.
        let fits = fits.max(least.saturating_sub(message.recipients));
        // Where it may not have many at all, half of them.
        Room { fits, enough: batch.min((message.held + fits).div_ceil(2)).max(1) }
    }

    /// The answer to [`Action::Activate`]: where the recipients of this portion go, and whether there are `more`. A
    /// message without any recipient left is finished at once. `sender` is the envelope sender, for fairness. Nothing
    /// happens when the message was removed meanwhile.
    pub fn activated(&mut self, message: QueueId, sender: &str, routes: Vec<Route>, more: bool, now: Timestamp) {
        self.latest = now;
        let Some(entry) = self.active.get_mut(&message).filter(|entry| entry.activating) else { return };
        entry.activating = false;
        entry.sender = sender_hash(sender);
        entry.more = more && !routes.is_empty();
        entry.last.clear();
        let more = entry.more;
        let (sender, flushed) = (entry.sender, entry.flushed);
        self.activating -= 1;
        let mut deferrals: Vec<Deferral> = Vec::new();
        let mut known: HashMap<ObstacleKey, usize> = HashMap::new();
        let mut touched: Vec<u32> = Vec::new();
        let mut last: Vec<usize> = Vec::new();
        for route in routes {
            match self.obstacle(&route, flushed) {
                Some((key, status, reason)) => {
                    let n = *known.entry(key).or_insert_with(|| {
                        deferrals.push(Deferral { message, recipients: Vec::new(), status, reason });
                        deferrals.len() - 1
                    });
                    // `n` is a position in `deferrals`, by the line above.
                    deferrals[n].recipients.push(route.recipient);
                }
                None => {
                    let peer = self.peer_for(message, sender, &route);
                    let before = self.peers[peer].recipients.len();
                    self.peers[peer].recipients.push_back(route.recipient);
                    self.recount(peer, before);
                    self.recipients += 1;
                    self.transports[self.destinations[self.peers[peer].destination].transport].recipients += 1;
                    if let Some(entry) = self.active.get_mut(&message) {
                        entry.held += 1;
                        entry.recipients += 1;
                    }
                    if touched.last() != Some(&peer) {
                        touched.push(peer);
                        let t = self.destinations[self.peers[peer].destination].transport;
                        if more && !last.contains(&t) {
                            last.push(t);
                        }
                    }
                }
            }
        }
        self.outbox.extend(deferrals.into_iter().map(Action::Defer));
        touched.sort_unstable();
        touched.dedup();
        for peer in touched {
            if self.peers[peer].standing == Standing::Loose {
                self.ready_peer(peer, Standing::Ready);
            }
            self.warn_if_clogged(peer, now);
        }
        if let Some(entry) = self.active.get_mut(&message) {
            entry.last = last;
        }
        self.refill_later(message, now);
        self.finish_if_done(message);
    }

    /// Rings when the next recipients of a message are wanted in any case, if it has more and they are not asked for yet.
    fn refill_later(&mut self, id: QueueId, now: Timestamp) {
        let Some(message) = self.active.get(&id).filter(|message| message.more && !message.activating) else { return };
        let delay = message.transports().map(|t| self.transports[t].settings.recipient_refill_delay).min();
        // A clock that stands still between two rings would ring for ever.
        let at = now + delay.unwrap_or(TransportSettings::default().recipient_refill_delay).max(Duration::from_secs(1));
        let Some(message) = self.active.get_mut(&id) else { return };
        if let Some(before) = message.refill_at.replace(at) {
            self.timers.remove(&(before, Timer::Refill(id)));
        }
        self.timers.insert((at, Timer::Refill(id)));
    }

    /// One destination's mail that piles up in what may be active keeps other mail waiting: Postfix's
    /// `qmgr_entry_create` in values, the advice included.
    fn warn_if_clogged(&mut self, peer: u32, now: Timestamp) {
        let Peer { destination: d, ref nexthop, .. } = self.peers[peer];
        let limit = self.settings.active_limit.max(1);
        let destination = &mut self.destinations[d];
        let messages = destination.peers as usize + destination.busy as usize;
        let often = self.settings.clog_warn_time;
        if messages <= limit / 5 || often.is_zero() || now < destination.quiet_until {
            return;
        }
        destination.quiet_until = now + often;
        let transport = &self.transports[destination.transport];
        let (concurrency, active) = (transport.settings.destination_concurrency_limit, self.active.len());
        // The window beside this destination's part of the limit, without the rounding of a division.
        let wide = destination.window() as usize * active > limit * messages;
        let hint = if concurrency > 0 && concurrency <= destination.busy + 1 {
            ClogLimit::Concurrency(concurrency)
        } else if wide {
            ClogLimit::Active(limit)
        } else if transport.destinations.len() > 1 {
            ClogLimit::Shared
        } else {
            ClogLimit::Slow
        };
        let (transport, nexthop) = (Arc::clone(&transport.name), Arc::clone(nexthop));
        self.outbox.push_back(Action::Clogged(Clogged { transport, nexthop, messages, active, limit: hint }));
    }

    /// Why a recipient cannot be tried now; the key is equal for recipients with the same reason.
    fn obstacle(&self, route: &Route, flushed: bool) -> Option<(ObstacleKey, EnhancedStatus, Arc<str>)> {
        let t = self.transport_names.get(&route.transport).copied();
        if !flushed && self.settings.defer_transports.contains(&*route.transport) {
            // A transport that was never used has no number yet; deferring does not give it one.
            let key = (t.unwrap_or(usize::MAX), None);
            return Some((key, EnhancedStatus::transient(3, 2), "deferred transport".into()));
        }
        let t = t?;
        if let Some(dead) = &self.transports[t].dead {
            return Some(((t, None), dead.status, Arc::clone(&dead.reason)));
        }
        if let Some((site, dead)) = self.obstructed_site(t, &route.nexthop) {
            return Some(((usize::MAX - 1, Some(site)), dead.status, dead.reason));
        }
        let d = *self.transports[t].destinations.get(&route.destination)?;
        let dead = self.destinations[d].dead.as_ref()?;
        Some(((t, Some(d)), dead.status, Arc::clone(&dead.reason)))
    }

    fn peer_for(&mut self, message: QueueId, sender: u64, route: &Route) -> u32 {
        let t = self.transport_for(&route.transport);
        let d = self.destination_for(t, &route.destination);
        self.recall_site(t, d, &route.nexthop);
        let job = match self.job_of(message, t) {
            Some(job) => job,
            None => {
                let (peers, ready) = (HashMap::new(), VecDeque::new());
                let earned = self.transports[t].settings.slots.and_then(|_| self.earned_by(message));
                let job = self.jobs.insert(Job { message, sender, peers, ready, queued: false, needs: 0, earned });
                if let Some(entry) = self.active.get_mut(&message) {
                    entry.jobs.push((t, job));
                }
                job
            }
        };
        if let Some(peer) = self.jobs[job].peers.get(&d) {
            return *peer;
        }
        let nexthop = Arc::clone(&route.nexthop);
        let peer = Peer { job, destination: d, nexthop, recipients: VecDeque::new(), standing: Standing::Loose };
        let peer = self.peers.insert(peer);
        self.jobs[job].peers.insert(d, peer);
        self.destinations[d].peers += 1;
        self.site_counts(d, true);
        peer
    }

    /// The job that a transport has of an active message.
    pub(crate) fn job_of(&self, message: QueueId, t: usize) -> Option<u32> {
        let jobs = &self.active.get(&message)?.jobs;
        jobs.iter().find(|(owner, _)| *owner == t).map(|(_, job)| *job)
    }

    /// What a new job of an active message has earned: nothing yet.
    pub(crate) fn earned_by(&self, message: QueueId) -> Option<Box<Earned>> {
        self.active.get(&message).map(|entry| Box::new(Earned::new(entry.number, entry.since)))
    }

    /// Not all recipients of an active message were handed in.
    pub(crate) fn has_more(&self, message: QueueId) -> bool {
        self.active.get(&message).is_some_and(|entry| entry.more || entry.activating)
    }

    fn transport_for(&mut self, name: &Arc<str>) -> usize {
        if let Some(t) = self.transport_names.get(name) {
            return *t;
        }
        let settings = self.settings.transport(name).clone();
        self.transports.push(Transport {
            name: Arc::clone(name),
            destinations: HashMap::new(),
            jobs: Turns::new(settings.slots),
            settings,
            busy: 0,
            recipients: 0,
            dead: None,
            locked: false,
            ready: false,
        });
        let t = self.transports.len() - 1;
        self.transport_names.insert(Arc::clone(name), t);
        self.tell_feedbacks(t);
        t
    }

    /// `destination_concurrency_feedback_debug`
    fn tell_feedbacks(&mut self, t: usize) {
        if self.settings.feedback_debug {
            self.outbox.push_back(Action::Feedbacks(Arc::clone(&self.transports[t].name)));
        }
    }

    fn destination_for(&mut self, t: usize, name: &Arc<str>) -> u32 {
        let transport = &mut self.transports[t];
        if let Some(d) = transport.destinations.get(name) {
            let destination = &mut self.destinations[*d];
            if std::mem::take(&mut destination.idle) {
                self.idle_destinations -= 1;
                destination.resume(self.latest);
            }
            return *d;
        }
        let d = self.destinations.insert(Destination::new(Arc::clone(name), t, &transport.settings));
        transport.destinations.insert(Arc::clone(name), d);
        d
    }

    // ---- turns

    /// A peer with recipients goes to the end of its job's queue, its job into the transport's rotation.
    fn ready_peer(&mut self, p: u32, standing: Standing) {
        let peer = &mut self.peers[p];
        peer.standing = standing;
        let t = self.destinations[peer.destination].transport;
        let job = &mut self.jobs[peer.job];
        job.ready.push_back(p);
        let (j, sender) = (peer.job, job.sender);
        if !std::mem::replace(&mut job.queued, true) {
            let rank = self.rank(j);
            self.transports[t].jobs.push(sender, rank, j);
        }
        self.wake(t);
    }

    /// Reserves free slots of a destination for the peers that wait there, in turn.
    pub(crate) fn offer(&mut self, d: u32) {
        // Dropping a peer that has nothing left may drop its destination.
        while self.destinations.get(d).is_some_and(Destination::has_room) {
            if !self.offer_one(d) {
                break;
            }
        }
    }

    /// One slot for the next of those that wait at a destination that has room. False when nobody waits, or its site has no
    /// room: then it stands in the site's line.
    pub(crate) fn offer_one(&mut self, d: u32) -> bool {
        if !self.site_has_room(d) {
            if !self.destinations[d].waiting.is_empty() {
                self.stand_in_line(d);
            }
            return false;
        }
        while let Some(p) = self.next_waiting(d) {
            if !self.peers[p].recipients.is_empty() {
                self.destinations[d].offered += 1;
                self.site_offered(d);
                self.ready_peer(p, Standing::Offered);
                return true;
            }
            self.peers[p].standing = Standing::Loose;
            self.drop_peer_if_done(p);
        }
        false
    }

    /// A peer gives back the slot that is reserved for it, if one is. True if one was.
    fn take_offer(&mut self, p: u32) -> bool {
        let peer = &mut self.peers[p];
        let (d, offered) = (peer.destination, peer.standing == Standing::Offered);
        peer.standing = Standing::Loose;
        if offered {
            self.destinations[d].offered -= 1;
            self.site_unoffered(d);
        }
        offered
    }

    /// What was reserved at a site and is not used goes to the next in its line.
    fn give_back_offer(&mut self, offered: bool, site: Option<u32>) {
        if let Some(site) = site.filter(|_| offered) {
            self.offer_site(site);
        }
    }

    fn wake(&mut self, t: usize) {
        let transport = &mut self.transports[t];
        if !transport.ready && transport.may_start() {
            transport.ready = true;
            self.ready.push_back(t);
        }
    }

    /// One delivery of the transport's next job. `None` when none of the peers at hand can be tried.
    fn start_delivery(&mut self, t: usize, now: Timestamp) -> Option<Delivery> {
        while self.transports[t].may_start() {
            let j = self.next_job(t)?;
            let rank = self.rank(j);
            let job = &mut self.jobs[j];
            job.queued = false;
            let Some(p) = job.ready.pop_front() else { continue };
            let (id, sender) = (job.message, job.sender);
            if !job.ready.is_empty() {
                job.queued = true;
                self.transports[t].jobs.push(sender, rank, j);
            }
            let d = self.peers[p].destination;
            let (offered, site) = (self.take_offer(p), self.destinations[d].site);
            if let Some(dead) = self.destinations[d].dead.clone().or_else(|| self.dead_site(d)) {
                self.defer_peer(p, &dead);
                self.give_back_offer(offered, site);
                continue;
            }
            if self.peers[p].recipients.is_empty() {
                self.drop_peer_if_done(p);
                self.offer(d);
                self.give_back_offer(offered, site);
                continue;
            }
            let slice = self.transports[t].settings.slice().min(self.site_slice(d));
            let in_turn = offered || self.site_line_is_empty(d);
            let at_site = self.site_has_room(d) && in_turn;
            let (peer, destination) = (&mut self.peers[p], &mut self.destinations[d]);
            // Who comes later does not push in before those that wait.
            if !at_site || !destination.has_room() || (!offered && !destination.waiting.is_empty()) {
                peer.standing = Standing::Waiting;
                destination.waiting.push(sender, rank, p);
                match self.destinations[d].site {
                    Some(site) if !at_site => {
                        self.stand_in_line(d);
                        self.offer_site(site);
                    }
                    _ => self.offer(d),
                }
                continue;
            }
            let before = peer.recipients.len();
            let count = before.min(slice);
            let recipients: Vec<u32> = peer.recipients.drain(..count).collect();
            let nexthop = Arc::clone(&peer.nexthop);
            destination.busy += 1;
            let all = peer.recipients.is_empty();
            self.recount(p, before);
            self.count_slot(j);
            if all {
                self.drop_peer_if_done(p);
            } else {
                self.ready_peer(p, Standing::Ready);
            }
            return Some(self.launch(t, d, id, nexthop, recipients, now));
        }
        None
    }

    fn launch(
        &mut self,
        t: usize,
        d: u32,
        message: QueueId,
        nexthop: Arc<str>,
        recipients: Vec<u32>,
        now: Timestamp,
    ) -> Delivery {
        let transport = &mut self.transports[t];
        transport.busy += 1;
        if !transport.settings.transport_rate_delay.is_zero() {
            transport.locked = true;
            self.timers.insert((now + transport.settings.transport_rate_delay, Timer::UnlockTransport(t)));
        }
        self.last_delivery += 1;
        let id = DeliveryId(self.last_delivery);
        let site = self.destinations[d].site;
        if let Some(site) = site {
            self.site_started(site, t, now);
        }
        let flight = InFlight {
            message,
            destination: d,
            nexthop: Arc::clone(&nexthop),
            recipients: recipients.clone(),
            site,
            began: now,
            alongside: site.map_or(0, |site| self.sites.busy(site)),
        };
        self.in_flight.insert(id, flight);
        if let Some(entry) = self.active.get_mut(&message) {
            entry.held -= recipients.len();
            entry.flying += 1;
        }
        self.refill(message);
        let mut reuse = self.destinations[d].reuse(now);
        // After a pause nothing follows anything, and who asks for one wants more than a message in each session.
        reuse.store |= self.destinations[d].peers > 0 && self.pauses_between_sessions(t, site);
        Delivery { id, message, transport: Arc::clone(&self.transports[t].name), nexthop, recipients, reuse }
    }

    /// Asks for the next of a message's recipients when enough fit, nothing is left, or the last came in long ago.
    fn refill(&mut self, id: QueueId) {
        let Some(message) = self.active.get(&id).filter(|message| message.more && !message.activating) else { return };
        let Room { fits, enough } = self.room(message);
        let due = message.refill_at.is_some_and(|at| at <= self.latest);
        if fits == 0 || !(fits >= enough || message.held == 0 || due) {
            return;
        }
        let Some(message) = self.active.get_mut(&id) else { return };
        message.activating = true;
        message.more = false;
        self.activating += 1;
        if let Some(at) = message.refill_at.take() {
            self.timers.remove(&(at, Timer::Refill(id)));
        }
        self.outbox.push_back(Action::Activate { message: id, limit: fits, first: false });
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

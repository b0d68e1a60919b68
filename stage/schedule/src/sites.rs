//! Receiving sites in the schedule: who waits for one, and what they have taught.
//!
//! The parts of [`Schedule`] that know of sites. A destination belongs to at most one site for its transport's source address.
//! A peer whose destination has room and whose site has none stays with its destination, and the destination stands in the
//! site's line; what comes free goes to the destinations of the line in turn, a delivery at a time. Whatever is a matter of
//! time (rate delays, pauses, suspensions) is the site's `alarm`: while one is set nothing starts there.

use std::collections::HashMap;
use std::sync::Arc;

use yamabiko_envelope::Timestamp;
use yamabiko_status::EnhancedStatus;

use crate::action::{Action, DeliveryId};
use crate::destination::Dead;
use crate::learned::{Circumstances, Learned, Lesson, Signal};
use crate::schedule::{Schedule, Timer};
use crate::site::{Entry, Site};
use crate::slab::Slab;

/// Next hops whose sites are remembered; beyond that all are learnt anew.
const KNOWN: usize = 50_000;
/// Sites that are remembered without mail for them.
const REMEMBERED: usize = 10_000;

/// All sites.
#[derive(Debug)]
pub(crate) struct Sites {
    all: Slab<Site>,
    by_name: HashMap<(Arc<str>, Arc<str>), u32>,
    /// Next hop to the name of its site.
    known: HashMap<Arc<str>, Arc<str>>,
}

impl Default for Sites {
    fn default() -> Self {
        Self { all: Slab::new(), by_name: HashMap::new(), known: HashMap::new() }
    }
}

impl Sites {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn busy(&self, site: u32) -> u32 {
        self.all[site].busy
    }
}

/// A site and what it has taught, for operators and for keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Source address; empty is the system's choice.
    pub source: String,
    /// Name of the site ([`site_name`](crate::site_name)).
    pub site: String,
    /// What it has taught.
    pub learned: Learned,
    /// Deliveries that run.
    pub busy: u32,
}

impl Schedule {
    /// A delivery has found out which hosts it is about to connect to. It counts there from now on, until it is done. With
    /// an answer of no nothing may be done for its recipients: report [`Feedback::Postponed`](crate::Feedback::Postponed).
    pub fn enter(&mut self, delivery: DeliveryId, name: &str, now: Timestamp) -> Entry {
        let Some(flight) = self.in_flight.get(&delivery) else { return Entry { go: false, session_messages: 0 } };
        let (d, before, nexthop) = (flight.destination, flight.site, Arc::clone(&flight.nexthop));
        let t = self.destinations[d].transport;
        if !self.transports[t].settings.shapes_sites() || name.is_empty() {
            return Entry { go: true, session_messages: self.transports[t].settings.session_message_limit };
        }
        let name: Arc<str> = name.into();
        if self.sites.known.len() >= KNOWN {
            self.sites.known.clear();
        }
        self.sites.known.insert(nexthop, Arc::clone(&name));
        let source = Arc::clone(&self.transports[t].settings.source);
        let site = self.site_for(source, name);
        let session_messages = self.sites.all[site].limits(&self.transports[t].settings).session_messages;
        if before == Some(site) {
            return Entry { go: true, session_messages };
        }
        if self.destinations[d].site != Some(site) {
            self.leave_site(d);
            self.join_site(d, site);
        }
        let go = self.sites.all[site].line.is_empty() && self.site_has_room(d);
        if go {
            self.site_started(site, t, now);
        }
        if let Some(flight) = self.in_flight.get_mut(&delivery) {
            flight.site = go.then_some(site);
            flight.began = now;
            flight.alongside = self.sites.all[site].busy;
        }
        if let Some(before) = before {
            self.site_left(before);
            self.drop_site_if_idle(before);
        }
        Entry { go, session_messages }
    }

    /// What the replies to a delivery mean for its site. To be told before [`Schedule::delivery_done`]. True when the site
    /// is to blame for what happened, and not the destination: then its feedback is [`Nothing`](crate::Feedback::Nothing).
    pub fn heard(&mut self, delivery: DeliveryId, signal: &Signal, now: Timestamp) -> bool {
        let Some(flight) = self.in_flight.get(&delivery) else { return false };
        let (Some(s), began, alongside) = (flight.site, flight.began, flight.alongside) else { return false };
        let t = self.destinations[flight.destination].transport;
        if !self.transports[t].settings.site_adaptive {
            return false;
        }
        let site = &mut self.sites.all[s];
        let recent = site.recent(now);
        let circumstances = Circumstances { busy: site.busy, alongside: alongside.max(site.busy), began, recent, now };
        let before = site.learned.suspended_until;
        let limits_itself = site.learned.blames_itself(circumstances.alongside);
        let change = site.learned.take(signal, circumstances);
        let until = site.learned.suspended_until.filter(|until| *until > now && before != Some(*until));
        let blocked = site.learned.blocked;
        let reply = match signal {
            Signal::Success => String::new(),
            _ => site.learned.reply.clone(),
        };
        if !change.is_empty() {
            let (source, site) = (site.source.to_string(), site.name.to_string());
            self.outbox.push_back(Action::Learned(Lesson { source, site, change, blocked, reply }));
        }
        if let Some(until) = until {
            self.suspend_site(s, until, now);
        } else if *signal == Signal::Success {
            self.offer_site(s);
        }
        match signal {
            Signal::Success => false,
            Signal::RefusedConnection { .. } => limits_itself,
            _ => true,
        }
    }

    /// A session with the site of this delivery has ended: the pause between sessions begins. To be told before
    /// [`Schedule::delivery_done`].
    pub fn session_ended(&mut self, delivery: DeliveryId, now: Timestamp) {
        let Some(flight) = self.in_flight.get(&delivery) else { return };
        let Some(s) = flight.site else { return };
        let t = self.destinations[flight.destination].transport;
        let pause = self.sites.all[s].limits(&self.transports[t].settings).session_pause;
        if !pause.is_zero() {
            self.site_waits(s, now + pause, now);
        }
    }

    // ---- operators

    /// Everything that sites have taught.
    pub fn known_sites(&self) -> Vec<Known> {
        let sites = self.sites.all.keys().into_iter().filter_map(|s| self.sites.all.get(s));
        let taught = sites.filter(|site| !site.learned.is_nothing());
        let known = taught.map(|site| Known {
            source: site.source.to_string(),
            site: site.name.to_string(),
            learned: site.learned.clone(),
            busy: site.busy,
        });
        known.collect()
    }

    /// What is known of a site is this, from now on: after a restart, or because an operator says so.
    pub fn teach(&mut self, source: &str, site: &str, learned: Learned, now: Timestamp) {
        if self.sites.len() >= REMEMBERED && !self.sites.by_name.contains_key(&(source.into(), site.into())) {
            return;
        }
        let s = self.site_for(source.into(), site.into());
        let until = learned.suspended_until;
        self.sites.all[s].learned = learned;
        match until.filter(|until| *until > now) {
            Some(until) => self.suspend_site(s, until, now),
            None => self.site_resumes(s, now),
        }
        self.drop_site_if_idle(s);
    }

    /// A site (for all source addresses) is as if nothing had been learned. Returns how many were changed.
    pub fn forget_site(&mut self, site: &str, now: Timestamp) -> usize {
        let named: Vec<u32> = self.sites_named(site);
        for s in &named {
            self.sites.all[*s].learned = Learned::default();
            self.site_resumes(*s, now);
            self.drop_site_if_idle(*s);
        }
        named.len()
    }

    /// What was learned of a site stays as it is, or may change again. Returns how many were changed.
    pub fn freeze_site(&mut self, site: &str, frozen: bool) -> usize {
        let named = self.sites_named(site);
        for s in &named {
            self.sites.all[*s].learned.frozen = frozen;
            self.drop_site_if_idle(*s);
        }
        named.len()
    }

    fn sites_named(&self, name: &str) -> Vec<u32> {
        let keys = self.sites.all.keys().into_iter();
        keys.filter(|s| self.sites.all.get(*s).is_some_and(|site| *site.name == *name)).collect()
    }

    // ---- belonging

    fn site_for(&mut self, source: Arc<str>, name: Arc<str>) -> u32 {
        let key = (source, name);
        if let Some(s) = self.sites.by_name.get(&key) {
            return *s;
        }
        let s = self.sites.all.insert(Site::new(Arc::clone(&key.0), Arc::clone(&key.1)));
        self.sites.by_name.insert(key, s);
        s
    }

    fn join_site(&mut self, d: u32, s: u32) {
        self.destinations[d].site = Some(s);
        let (peers, site) = (self.destinations[d].peers, &mut self.sites.all[s]);
        site.destinations.insert(d);
        site.peers += peers;
    }

    /// The destination belongs to no site any more.
    pub(crate) fn leave_site(&mut self, d: u32) {
        let destination = &mut self.destinations[d];
        let Some(s) = destination.site.take() else { return };
        let (peers, offered) = (destination.peers, destination.offered);
        let site = &mut self.sites.all[s];
        site.destinations.remove(&d);
        site.peers -= peers;
        // What was reserved there is given back where it was taken.
        site.offered -= offered.min(site.offered);
        if std::mem::replace(&mut self.destinations[d].in_line, false) {
            site.line.retain(|other| *other != d);
        }
        self.drop_site_if_idle(s);
    }

    /// A destination of a next hop whose site is known belongs there from the beginning.
    pub(crate) fn recall_site(&mut self, t: usize, d: u32, nexthop: &Arc<str>) {
        let settings = &self.transports[t].settings;
        if self.destinations[d].site.is_some() || self.sites.known.is_empty() || !settings.shapes_sites() {
            return;
        }
        let Some(name) = self.sites.known.get(nexthop) else { return };
        let s = self.site_for(Arc::clone(&settings.source), Arc::clone(name));
        // Slots reserved before it was known count nowhere.
        if self.destinations[d].offered == 0 {
            self.join_site(d, s);
        } else {
            self.drop_site_if_idle(s);
        }
    }

    pub(crate) fn drop_site_if_idle(&mut self, s: u32) {
        let Some(site) = self.sites.all.get(s) else { return };
        let worth = !site.learned.is_nothing() || site.alarm.is_some();
        let keep = site.learned.frozen || (worth && self.sites.len() <= REMEMBERED);
        if site.busy > 0 || !site.destinations.is_empty() || keep {
            return;
        }
        // Between two messages there may be a moment without mail: a refusal after it is about all that began before, too.
        if let Some(faded) = site.faded().filter(|faded| *faded > self.latest && self.sites.len() <= REMEMBERED) {
            if let Some(site) = self.sites.all.get_mut(s).filter(|site| !site.fades) {
                site.fades = true;
                self.timers.insert((faded, Timer::SiteFades(s)));
            }
            return;
        }
        if let Some(alarm) = site.alarm {
            self.timers.remove(&(alarm, Timer::SiteResume(s)));
        }
        self.sites.by_name.remove(&(Arc::clone(&site.source), Arc::clone(&site.name)));
        self.sites.all.remove(s);
    }

    /// A minute may have passed since the last start at a site. Its number may be another site's by now.
    pub(crate) fn site_fades(&mut self, s: u32) {
        if let Some(site) = self.sites.all.get_mut(s) {
            site.fades = false;
            self.drop_site_if_idle(s);
        }
    }

    // ---- room

    /// One more delivery of this destination may start at its site. True where there is none.
    pub(crate) fn site_has_room(&self, d: u32) -> bool {
        let destination = &self.destinations[d];
        let Some(s) = destination.site else { return true };
        let settings = &self.transports[destination.transport].settings;
        let site = &self.sites.all[s];
        if !settings.shapes_sites() {
            return true;
        }
        let limits = site.limits(settings);
        let free = limits.concurrency == 0 || site.busy + site.offered < limits.concurrency;
        // With a time between starts only one can be the next.
        let next = limits.rate_delay.is_zero() || site.offered == 0;
        site.alarm.is_none() && free && next
    }

    /// The next session with a site has to wait for a while when this one has ended; what holds before the site is known is
    /// what the transport says.
    pub(crate) fn pauses_between_sessions(&self, t: usize, site: Option<u32>) -> bool {
        let settings = &self.transports[t].settings;
        let of_site = site.map_or(settings.site_session_pause, |s| self.sites.all[s].limits(settings).session_pause);
        !of_site.is_zero()
    }

    /// Nobody waits at its site.
    pub(crate) fn site_line_is_empty(&self, d: u32) -> bool {
        self.destinations[d].site.is_none_or(|s| self.sites.all[s].line.is_empty())
    }

    /// Recipients in one delivery there.
    pub(crate) fn site_slice(&self, d: u32) -> usize {
        let destination = &self.destinations[d];
        let settings = &self.transports[destination.transport].settings;
        let limit = destination.site.map_or(0, |s| self.sites.all[s].limits(settings).recipients);
        if limit == 0 { usize::MAX } else { limit }
    }

    /// The destination waits for its site.
    pub(crate) fn stand_in_line(&mut self, d: u32) {
        if let Some(s) = self.destinations[d].site
            && !std::mem::replace(&mut self.destinations[d].in_line, true)
        {
            self.sites.all[s].line.push_back(d);
        }
    }

    pub(crate) fn site_offered(&mut self, d: u32) {
        if let Some(s) = self.destinations[d].site {
            self.sites.all[s].offered += 1;
        }
    }

    pub(crate) fn site_unoffered(&mut self, d: u32) {
        if let Some(s) = self.destinations[d].site {
            // One that was reserved before the site was known is not counted there.
            let site = &mut self.sites.all[s];
            site.offered = site.offered.saturating_sub(1);
        }
    }

    /// A destination has one peer more or less.
    pub(crate) fn site_counts(&mut self, d: u32, more: bool) {
        if let Some(s) = self.destinations[d].site {
            let site = &mut self.sites.all[s];
            site.peers = if more { site.peers + 1 } else { site.peers - 1 };
        }
    }

    /// A delivery starts at a site.
    pub(crate) fn site_started(&mut self, s: u32, t: usize, now: Timestamp) {
        let site = &mut self.sites.all[s];
        site.started(now);
        let delay = site.limits(&self.transports[t].settings).rate_delay;
        if !delay.is_zero() {
            self.site_waits(s, now + delay, now);
        }
    }

    /// A delivery at a site has ended.
    pub(crate) fn site_left(&mut self, s: u32) {
        self.sites.all[s].busy -= 1;
        self.offer_site(s);
    }

    pub(crate) fn offer_all_sites(&mut self) {
        self.sites.all.keys().into_iter().for_each(|s| self.offer_site(s));
    }

    /// What is free at a site goes to the destinations that stand in its line, in turn.
    pub(crate) fn offer_site(&mut self, s: u32) {
        while let Some(d) = self.sites.all.get_mut(s).and_then(|site| site.line.pop_front()) {
            if !self.site_has_room(d) {
                self.sites.all[s].line.push_front(d);
                return;
            }
            self.destinations[d].in_line = false;
            if !self.destinations[d].has_room() {
                // It comes back when it has room of its own.
                continue;
            }
            self.offer_one(d);
            if self
                .destinations
                .get(d)
                .is_some_and(|destination| destination.site == Some(s) && !destination.waiting.is_empty())
            {
                self.stand_in_line(d);
            }
        }
    }

    // ---- time

    /// Nothing starts at a site before this.
    fn site_waits(&mut self, s: u32, until: Timestamp, now: Timestamp) {
        let site = &mut self.sites.all[s];
        if until <= now || site.alarm.is_some_and(|alarm| alarm >= until) {
            return;
        }
        if let Some(old) = site.alarm.replace(until) {
            self.timers.remove(&(old, Timer::SiteResume(s)));
        }
        self.timers.insert((until, Timer::SiteResume(s)));
    }

    /// The time of a site's alarm has come, or is not waited for.
    pub(crate) fn site_resumes(&mut self, s: u32, now: Timestamp) {
        let site = &mut self.sites.all[s];
        if let Some(alarm) = site.alarm.take() {
            self.timers.remove(&(alarm, Timer::SiteResume(s)));
        }
        site.dead = None;
        if site.learned.suspended_until.is_some_and(|until| until <= now) {
            (site.learned.suspended_until, site.learned.blocked) = (None, false);
        }
        self.offer_site(s);
        self.drop_site_if_idle(s);
    }

    /// A site is left alone. Mail waits in memory for a moment; for longer it is deferred, with the reply as the reason.
    fn suspend_site(&mut self, s: u32, until: Timestamp, now: Timestamp) {
        self.site_waits(s, until, now);
        if until.since(now) < self.settings.minimal_backoff_time {
            return;
        }
        let site = &mut self.sites.all[s];
        let reason = format!("delivery temporarily suspended: {} said: {}", site.name, site.learned.reply);
        let dead = Dead { until, status: EnhancedStatus::transient(4, 5), reason: reason.into() };
        site.dead = Some(dead.clone());
        let mut destinations: Vec<u32> = site.destinations.iter().copied().collect();
        destinations.sort_unstable();
        for d in destinations {
            self.defer_waiting(d, &dead);
        }
    }

    /// The site of a destination is left alone for long.
    pub(crate) fn dead_site(&self, d: u32) -> Option<Dead> {
        let destination = &self.destinations[d];
        let adaptive = self.transports[destination.transport].settings.site_adaptive;
        destination.site.filter(|_| adaptive).and_then(|s| self.sites.all[s].dead.clone())
    }

    /// Mail for this next hop need not be tried: its site is left alone, or has more waiting than a fifth of what may be
    /// active, which would be in the way of everybody else.
    pub(crate) fn obstructed_site(&self, t: usize, nexthop: &Arc<str>) -> Option<(u32, Dead)> {
        let settings = &self.transports[t].settings;
        if self.sites.known.is_empty() || !settings.shapes_sites() {
            return None;
        }
        let name = self.sites.known.get(nexthop)?;
        let s = *self.sites.by_name.get(&(Arc::clone(&settings.source), Arc::clone(name)))?;
        let site = self.sites.all.get(s)?;
        if settings.site_adaptive
            && let Some(dead) = &site.dead
        {
            return Some((s, dead.clone()));
        }
        let crowd = (self.settings.active_limit / 5).max(1);
        if site.line.is_empty() || (site.peers as usize) < crowd {
            return None;
        }
        let reason = format!("delivery temporarily suspended: more mail is waiting for {} than it takes", site.name);
        Some((s, Dead { until: Timestamp(0), status: EnhancedStatus::transient(4, 5), reason: reason.into() }))
    }
}

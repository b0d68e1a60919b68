//! Delivery slots: who of a transport comes next where the administrator asks for Postfix's order instead of taking turns.
//!
//! The jobs of a transport (what it has of one message each) stand in a line in the order of their messages, and the first that
//! can be worked on gets everything. Each delivery of it earns a slot; for `cost` slots that were earned, a job behind it that
//! needs no more deliveries than that may be put in front of it: it *preempts*. `loan` and `discount` let that happen before all
//! slots are earned; what was lent is earned before it can happen again. A job that can never earn `minimum` slots is not
//! preempted, nor is any with a cost below 2. This is `qmgr_job.c` of Postfix (SCHEDULER_README) in values.

use std::collections::BTreeSet;

use yamabiko_envelope::Timestamp;

use crate::rotation::Rotation;
use crate::schedule::{Schedule, Standing};

/// Jobs behind the first that are looked at for one that may preempt it.
const LOOK: usize = 1000;
/// Deliveries that a message whose recipients are not all known has besides those that are: more than a slot is given for.
const UNKNOWN: usize = 1000;

/// `delivery_slot_cost` and its companions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// `delivery_slot_cost`: deliveries of a job that earn one slot; below 2 nothing is preempted.
    pub cost: u32,
    /// `delivery_slot_discount`: how much of what is needed may be earned later, percent.
    pub discount: u32,
    /// `delivery_slot_loan`: slots that may be earned later.
    pub loan: u32,
    /// `minimum_delivery_slots`: who cannot earn so many is not preempted.
    pub minimum: u32,
}

impl Default for Slots {
    /// Postfix's.
    fn default() -> Self {
        Self { cost: 5, discount: 50, loan: 3, minimum: 3 }
    }
}

impl Slots {
    fn cost(self) -> i64 {
        i64::from(self.cost)
    }

    /// Enough is earned for so many deliveries of another job.
    fn suffice(self, earned: i64, needed: i64) -> bool {
        let percent = i64::from(100 - self.discount.min(100));
        (earned / self.cost() + i64::from(self.loan)) * 100 >= needed * percent
    }
}

/// A place in the line of jobs; between those of two messages there is room for the jobs that preempt the second.
pub(crate) type Rank = u128;

/// The rank of a message's jobs, by the number of its activation (from 1 on).
fn rank_of(number: u64) -> Rank {
    Rank::from(number) << 64
}

/// What a job has earned, and where it stands.
#[derive(Debug)]
pub(crate) struct Earned {
    rank: Rank,
    /// Who preempts it stands after this rank.
    front: Rank,
    /// `front` while nobody preempts it.
    base: Rank,
    /// When its message became active.
    since: Timestamp,
    /// Deliveries begun.
    begun: usize,
    /// What it has earned and not yet given, in deliveries; negative while it owes.
    available: i64,
    /// Deliveries begun besides those that its preemption was to take.
    used: i64,
    /// The job that it preempts, or that took that one's place.
    parent: Option<u32>,
    /// `parent` is the one that it preempted itself, which gets back what was not used.
    own_parent: bool,
    /// Jobs that preempt it.
    children: Vec<u32>,
}

impl Earned {
    pub(crate) fn new(number: u64, since: Timestamp) -> Self {
        let rank = rank_of(number);
        let base = rank_of(number.saturating_sub(1));
        let (begun, available, used, parent, children) = (0, 0, 0, None, Vec::new());
        Self { rank, front: base, base, since, begun, available, used, parent, own_parent: false, children }
    }

    fn count(&mut self) {
        self.begun += 1;
        self.available += 1;
        self.used += 1;
    }
}

/// Jobs or peers, and whose turn it is.
#[derive(Debug)]
pub(crate) enum Turns {
    /// By sender and message in turn.
    Round(Rotation),
    /// In the order of the line.
    Line(BTreeSet<(Rank, u32)>),
}

impl Turns {
    pub(crate) fn new(slots: Option<Slots>) -> Self {
        if slots.is_some() { Self::Line(BTreeSet::new()) } else { Self::Round(Rotation::new()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Round(round) => round.is_empty(),
            Self::Line(line) => line.is_empty(),
        }
    }

    /// `sender` counts in a round, `rank` in a line.
    pub(crate) fn push(&mut self, sender: u64, rank: Rank, item: u32) {
        match self {
            Self::Round(round) => round.push(sender, item),
            Self::Line(line) => drop(line.insert((rank, item))),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        match self {
            Self::Round(round) => round.pop(),
            Self::Line(line) => line.pop_first().map(|(_, item)| item),
        }
    }

    /// The first of a line; a round has none that could be preempted.
    fn first(&self) -> Option<u32> {
        let Self::Line(line) = self else { return None };
        line.first().map(|(_, item)| *item)
    }

    /// Those behind the first of a line.
    fn behind(&self) -> impl Iterator<Item = u32> {
        let line = if let Self::Line(line) = self { Some(line) } else { None };
        line.into_iter().flatten().skip(1).take(LOOK).map(|(_, item)| *item)
    }

    fn moves(&mut self, item: u32, from: Rank, to: Rank) {
        if let Self::Line(line) = self
            && line.remove(&(from, item))
        {
            line.insert((to, item));
        }
    }
}

impl Schedule {
    /// Where a job stands in its transport's line.
    pub(crate) fn rank(&self, j: u32) -> Rank {
        self.jobs[j].earned.as_ref().map_or(0, |earned| earned.rank)
    }

    /// The job whose turn it is at a transport.
    pub(crate) fn next_job(&mut self, t: usize) -> Option<u32> {
        if let Some(first) = self.transports[t].jobs.first()
            && self.may_be_preempted(t, first)
        {
            let behind: Vec<u32> = self.transports[t].jobs.behind().collect();
            self.preempt(t, first, &behind);
        }
        self.transports[t].jobs.pop()
    }

    /// The peer that gets a slot of a destination.
    pub(crate) fn next_waiting(&mut self, d: u32) -> Option<u32> {
        let destination = self.destinations.get(d)?;
        let t = destination.transport;
        if let Some(first) = destination.waiting.first().map(|p| self.peers[p].job)
            && self.may_be_preempted(t, first)
        {
            let behind: Vec<u32> = destination.waiting.behind().map(|p| self.peers[p].job).collect();
            self.preempt(t, first, &behind);
        }
        self.destinations.get_mut(d)?.waiting.pop()
    }

    /// A delivery of the job begins.
    pub(crate) fn count_slot(&mut self, j: u32) {
        if let Some(earned) = &mut self.jobs[j].earned {
            earned.count();
        }
    }

    /// Deliveries that the job still needs, as far as its recipients are known; for very many destinations at least so many.
    fn needs(&self, t: usize, j: u32) -> usize {
        let (job, slice) = (&self.jobs[j], self.transports[t].settings.slice());
        if job.peers.len() > LOOK {
            return job.peers.len();
        }
        job.peers.values().map(|p| self.peers[*p].recipients.len().div_ceil(slice)).sum()
    }

    /// Deliveries of recipients that are not known yet.
    fn unread(&self, j: u32) -> usize {
        if self.has_more(self.jobs[j].message) { UNKNOWN } else { 0 }
    }

    /// It has earned something, and is large enough.
    fn may_be_preempted(&self, t: usize, j: u32) -> bool {
        let (Some(slots), Some(earned)) = (self.transports[t].settings.slots, &self.jobs[j].earned) else {
            return false;
        };
        let enough = slots.minimum as usize * slots.cost as usize;
        slots.cost >= 2
            && earned.available > 0
            && earned.begun + self.needs(t, j).saturating_add(self.unread(j)) >= enough
    }

    /// The best of those behind a job, if there is one that it can ever earn enough for, goes in front of it as soon as it has.
    fn preempt(&mut self, t: usize, j: u32, behind: &[u32]) {
        let Some(slots) = self.transports[t].settings.slots else { return };
        let Some((other, needed)) = self.candidate(t, slots, j, behind) else { return };
        let Some(earned) = &mut self.jobs[j].earned else { return };
        // The line never moves those in it, so between two ranks there may be no room for a third: then it stays as it is.
        let rank = earned.front + (earned.rank - earned.front) / 2;
        if !slots.suffice(earned.available, needed) || rank == earned.front {
            return;
        }
        let front = std::mem::replace(&mut earned.front, rank);
        earned.available -= needed * slots.cost();
        self.release(t, other);
        if let Some(earned) = &mut self.jobs[j].earned {
            earned.children.push(other);
        }
        self.move_to(t, other, rank);
        if let Some(earned) = &mut self.jobs[other].earned {
            (earned.front, earned.base) = (front, front);
            (earned.parent, earned.own_parent) = (Some(j), true);
            earned.used = -needed;
        }
    }

    /// The one that has waited longest for its size, and how many deliveries it needs.
    fn candidate(&self, t: usize, slots: Slots, j: u32, behind: &[u32]) -> Option<(u32, i64)> {
        let available = self.jobs[j].earned.as_ref()?.available;
        let most = (self.needs(t, j) as i64 + available) / slots.cost();
        let mut best = None;
        let mut best_score = 0.0;
        if most <= 0 {
            return None;
        }
        for other in behind {
            let Some(earned) = &self.jobs[*other].earned else { continue };
            // Who is preempted waits for those that preempt it, `j` among them.
            if !earned.children.is_empty() || self.unread(*other) > 0 {
                continue;
            }
            let waited = (self.latest.since(earned.since).as_secs() + 1) as f64;
            let needed = self.needs(t, *other) as i64;
            if needed > 0 && needed <= most {
                let score = waited / (earned.begun as f64 + needed as f64);
                if score > best_score {
                    (best, best_score) = (Some((*other, needed)), score);
                }
            }
            // Those behind have waited less.
            if waited <= best_score && earned.parent.is_none() {
                break;
            }
        }
        best
    }

    /// It preempts nobody any more; who preempts it preempts whom it did.
    pub(crate) fn release(&mut self, t: usize, j: u32) {
        let Some(earned) = &mut self.jobs[j].earned else { return };
        let (parent, own, used) = (earned.parent.take(), earned.own_parent, earned.used);
        let children = std::mem::take(&mut earned.children);
        for child in &children {
            if let Some(earned) = self.jobs.get_mut(*child).and_then(|job| job.earned.as_mut()) {
                (earned.parent, earned.own_parent) = (parent, false);
            }
        }
        let cost = self.transports[t].settings.slots.map_or(0, Slots::cost);
        let Some(earned) = parent.and_then(|parent| self.jobs.get_mut(parent)).and_then(|job| job.earned.as_mut())
        else {
            return;
        };
        if own {
            // What it was to use and did not is given back; what it used besides was not earned yet.
            earned.available -= used * cost;
        }
        earned.children.retain(|child| *child != j);
        earned.children.extend(children);
        if earned.children.is_empty() {
            earned.front = earned.base;
        }
    }

    /// It stands at another place of the line, and all of it that waits does.
    fn move_to(&mut self, t: usize, j: u32, rank: Rank) {
        let Some(earned) = &mut self.jobs[j].earned else { return };
        let before = std::mem::replace(&mut earned.rank, rank);
        self.transports[t].jobs.moves(j, before, rank);
        let peers: Vec<u32> = self.jobs[j].peers.values().copied().collect();
        for p in peers {
            if self.peers[p].standing == Standing::Waiting {
                let d = self.peers[p].destination;
                self.destinations[d].waiting.moves(p, before, rank);
            }
        }
    }

    /// After a reload: a transport whose jobs took turns has slots now, or the other way round.
    pub(crate) fn change_order(&mut self, t: usize, slots: Option<Slots>) {
        if slots.is_some() == matches!(self.transports[t].jobs, Turns::Line(_)) {
            return;
        }
        for j in self.jobs.keys() {
            let id = self.jobs[j].message;
            if self.job_of(id, t) == Some(j) {
                self.jobs[j].earned = slots.and_then(|_| self.earned_by(id));
            }
        }
        let mut before = std::mem::replace(&mut self.transports[t].jobs, Turns::new(slots));
        while let Some(j) = before.pop() {
            let (sender, rank) = (self.jobs[j].sender, self.rank(j));
            self.transports[t].jobs.push(sender, rank, j);
        }
        for d in
            self.destinations.keys().into_iter().filter(|d| self.destinations[*d].transport == t).collect::<Vec<_>>()
        {
            let mut before = std::mem::replace(&mut self.destinations[d].waiting, Turns::new(slots));
            while let Some(p) = before.pop() {
                let j = self.peers[p].job;
                let (sender, rank) = (self.jobs[j].sender, self.rank(j));
                self.destinations[d].waiting.push(sender, rank, p);
            }
        }
    }
}

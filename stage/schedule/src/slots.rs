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

/// Who of a line may preempt its first, and how many were looked at to find it.
struct Best {
    item: Option<u32>,
    looks: u64,
}

/// Jobs or peers, and whose turn it is.
#[derive(Debug)]
pub(crate) enum Turns {
    /// By sender and message in turn.
    Round(Rotation),
    /// In the order of the line.
    Line(Line),
}

/// Jobs or peers in their order, and what was found when they were last looked through: with a thousand behind a mailing of
/// ten thousand deliveries nobody wants to look at all of them before each.
#[derive(Debug, Default)]
pub(crate) struct Line {
    order: BTreeSet<(Rank, u32)>,
    looked: Option<Looked>,
}

/// The best of those behind `first`, as it was in that second. It holds while nobody comes, moves or is taken but `first`:
/// what `first` needs becomes one less with each delivery, and what it has earned one more.
#[derive(Clone, Copy, Debug)]
struct Looked {
    first: u32,
    second: u64,
    best: Option<u32>,
}

impl Line {
    fn insert(&mut self, rank: Rank, item: u32) {
        self.order.insert((rank, item));
        self.others_changed(item);
    }

    fn pop(&mut self) -> Option<u32> {
        let (_, item) = self.order.pop_first()?;
        self.others_changed(item);
        Some(item)
    }

    fn others_changed(&mut self, item: u32) {
        self.looked = self.looked.filter(|looked| looked.first == item);
    }
}

impl Turns {
    pub(crate) fn new(slots: Option<Slots>) -> Self {
        if slots.is_some() { Self::Line(Line::default()) } else { Self::Round(Rotation::new()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Round(round) => round.is_empty(),
            Self::Line(line) => line.order.is_empty(),
        }
    }

    /// `sender` counts in a round, `rank` in a line.
    pub(crate) fn push(&mut self, sender: u64, rank: Rank, item: u32) {
        match self {
            Self::Round(round) => round.push(sender, item),
            Self::Line(line) => line.insert(rank, item),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        match self {
            Self::Round(round) => round.pop(),
            Self::Line(line) => line.pop(),
        }
    }

    /// The first of a line; a round has none that could be preempted.
    fn first(&self) -> Option<u32> {
        let Self::Line(line) = self else { return None };
        line.order.first().map(|(_, item)| *item)
    }

    /// Those behind the first of a line.
    fn behind(&self) -> impl Iterator<Item = u32> {
        let line = if let Self::Line(line) = self { Some(&line.order) } else { None };
        line.into_iter().flatten().skip(1).take(LOOK).map(|(_, item)| *item)
    }

    /// What was found behind `first` in this second; `Some(None)` when there was nobody.
    fn looked(&self, first: u32, second: u64) -> Option<Option<u32>> {
        let Self::Line(line) = self else { return None };
        let looked = line.looked.filter(|looked| looked.first == first && looked.second == second)?;
        Some(looked.best)
    }

    fn remember(&mut self, first: u32, second: u64, best: Option<u32>) {
        if let Self::Line(line) = self {
            line.looked = Some(Looked { first, second, best });
        }
    }

    fn moves(&mut self, item: u32, from: Rank, to: Rank) {
        if let Self::Line(line) = self
            && line.order.remove(&(from, item))
        {
            line.order.insert((to, item));
            line.looked = None;
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
            && let Some(slots) = self.may_be_preempted(t, first)
        {
            let (best, second) = (self.best(slots, &self.transports[t].jobs, |j| j), self.second());
            self.transports[t].jobs.remember(first, second, best.item);
            self.looks += best.looks;
            if let Some(other) = best.item {
                self.preempt(slots, t, first, other);
            }
        }
        self.transports[t].jobs.pop()
    }

    /// The peer that gets a slot of a destination.
    pub(crate) fn next_waiting(&mut self, d: u32) -> Option<u32> {
        let destination = self.destinations.get(d)?;
        let t = destination.transport;
        if let Some(first) = destination.waiting.first()
            && let Some(slots) = self.may_be_preempted(t, self.peers[first].job)
        {
            let (best, second) = (self.best(slots, &destination.waiting, |p| self.peers[p].job), self.second());
            self.destinations[d].waiting.remember(first, second, best.item);
            self.looks += best.looks;
            if let Some(other) = best.item {
                self.preempt(slots, t, self.peers[first].job, self.peers[other].job);
            }
        }
        self.destinations.get_mut(d)?.waiting.pop()
    }

    fn second(&self) -> u64 {
        self.latest.0 / 1_000_000
    }

    /// A delivery of the job begins.
    pub(crate) fn count_slot(&mut self, j: u32) {
        if let Some(earned) = &mut self.jobs[j].earned {
            earned.count();
        }
    }

    /// The recipients of a peer were `before`: what its job needs changes with them.
    pub(crate) fn recount(&mut self, p: u32, before: usize) {
        let peer = &self.peers[p];
        let slice = self.transports[self.destinations[peer.destination].transport].settings.slice();
        let (job, now) = (peer.job, peer.recipients.len().div_ceil(slice));
        let needs = &mut self.jobs[job].needs;
        *needs = (*needs + now).saturating_sub(before.div_ceil(slice));
    }

    /// After a reload: deliveries may be for more or fewer recipients.
    pub(crate) fn recount_all(&mut self) {
        self.jobs.keys().into_iter().for_each(|j| self.jobs[j].needs = 0);
        self.peers.keys().into_iter().for_each(|p| self.recount(p, 0));
    }

    /// Deliveries of recipients that are not known yet.
    fn unread(&self, j: u32) -> usize {
        if self.has_more(self.jobs[j].message) { UNKNOWN } else { 0 }
    }

    /// The slots that count for it if it has earned something and is large enough.
    fn may_be_preempted(&self, t: usize, j: u32) -> Option<Slots> {
        let (slots, job) = (self.transports[t].settings.slots?, &self.jobs[j]);
        let earned = job.earned.as_ref()?;
        let enough = slots.minimum as usize * slots.cost as usize;
        let large = earned.begun + job.needs.saturating_add(self.unread(j)) >= enough;
        (slots.cost >= 2 && earned.available > 0 && large).then_some(slots)
    }

    /// A job goes in front of the one that it preempts, as soon as that has earned enough for it.
    fn preempt(&mut self, slots: Slots, t: usize, j: u32, other: u32) {
        let needed = self.jobs[other].needs as i64;
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

    /// Deliveries of a job that may be begun for what `j` has earned and can still earn.
    fn most(&self, slots: Slots, j: u32) -> i64 {
        let job = &self.jobs[j];
        job.earned.as_ref().map_or(0, |earned| (job.needs as i64 + earned.available) / slots.cost())
    }

    /// Whether a job can preempt one that can pay for `most` deliveries. Who is preempted itself waits for those that do.
    fn can_preempt(&self, other: u32, most: i64) -> bool {
        let job = &self.jobs[other];
        job.earned.as_ref().is_some_and(|earned| earned.children.is_empty())
            && self.unread(other) == 0
            && (1..=most).contains(&(job.needs as i64))
    }

    /// The one of a line that has waited longest for its size, of those that the first can ever earn enough for. `job` is the
    /// job of something in the line.
    fn best(&self, slots: Slots, line: &Turns, job: impl Fn(u32) -> u32) -> Best {
        let mut best = Best { item: None, looks: 0 };
        let Some(first) = line.first() else { return best };
        let most = self.most(slots, job(first));
        match line.looked(first, self.second()) {
            Some(None) => return best,
            Some(Some(item)) if self.can_preempt(job(item), most) => return Best { item: Some(item), looks: 1 },
            _ if most <= 0 => return best,
            _ => {}
        }
        let mut best_score = 0.0;
        for item in line.behind() {
            best.looks += 1;
            let other = &self.jobs[job(item)];
            let Some(earned) = &other.earned else { continue };
            let waited = (self.latest.since(earned.since).as_secs() + 1) as f64;
            if self.can_preempt(job(item), most) {
                let score = waited / (earned.begun as f64 + other.needs as f64);
                if score > best_score {
                    (best.item, best_score) = (Some(item), score);
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

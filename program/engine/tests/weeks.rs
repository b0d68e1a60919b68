//! Weeks of retrying in seconds: the schedule and the real queue on a simulated disk, with the clock in hand.
//!
//! Hundreds of messages with several recipients go to destinations that are down for hours and days; recipients refuse,
//! greylist, or are never there. Now and then the process is killed, or the machine loses its power, in the middle of it, and
//! everything goes on from what the queue holds. Checked all along: every message is tried when it is due, waits between
//! attempts are within the backoff times, mail is given up when it is too old and not before, the sender is warned once, what
//! a restart must keep is kept, and in the end every recipient has had exactly one outcome.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_engine::manager::take_up;
use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, RecipientState, Timestamp};
use yamabiko_queue::sim::{Dice, SimulatedDisk};
use yamabiko_queue::{Meta, NewMessage, Options, Queue};
use yamabiko_schedule::{
    Action, Delivery, DeliveryId, Feedback, Route, Schedule, Settings, TransportSettings, destination_name,
    sender_hash, site_hash,
};
use yamabiko_status::EnhancedStatus;

const DESTINATIONS: u64 = 12;
const BEGIN: u64 = 1_795_000_000;

/// What becomes of a recipient when its destination is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Takes,
    Refuses,
    /// Takes mail that is older than this.
    Greylists(Duration),
    /// Its mailbox is full for ever.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Refused,
    TooOld,
}

struct Person {
    nature: Nature,
    destination: u64,
    fate: Option<Fate>,
}

/// A message as the test knows it.
struct Known {
    arrival: Timestamp,
    null_sender: bool,
    people: Vec<Person>,
    /// When it is to be tried next.
    due: Timestamp,
    attempts: u16,
    /// Age at the end of the last attempt.
    last_age: Duration,
    warnings: u32,
    /// The sender had to be warned.
    warning_due: bool,
    active: bool,
}

struct World {
    seed: u64,
    dice: Dice,
    disk: SimulatedDisk,
    queue: Arc<Queue>,
    schedule: Schedule,
    settings: Settings,
    now: Timestamp,
    restarted: Timestamp,
    known: BTreeMap<QueueId, Known>,
    running: HashMap<DeliveryId, (Timestamp, Delivery)>,
    /// When a destination is down.
    outages: Vec<Vec<(u64, u64)>>,
    gone: usize,
    restarts: u32,
}

fn options() -> Options {
    Options { segment_size: 256 << 10, memory: 20_000, ..Options::default() }
}

fn open(disk: &SimulatedDisk) -> Arc<Queue> {
    Queue::open(Arc::new(disk.clone()), Path::new("/queue"), options()).unwrap().0
}

fn failure(reason: &str) -> Box<Failure> {
    Box::new(Failure {
        status: EnhancedStatus::transient(4, 1),
        reason: reason.to_owned(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: "none".to_owned(),
        settled: Vec::new(),
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut between = |from: u64, to: u64| Duration::from_secs(from + dice.below(to - from + 1));
        let settings = Settings {
            minimal_backoff_time: between(200, 900),
            maximal_backoff_time: between(3000, 8000),
            queue_run_delay: between(60, 400),
            maximal_queue_lifetime: between(2 * 86_400, 6 * 86_400),
            bounce_queue_lifetime: between(86_400, 3 * 86_400),
            delay_warning_time: between(3600, 40_000),
            default_transport: TransportSettings { process_limit: 0, ..TransportSettings::default() },
            ..Settings::default()
        };
        let outage = |dice: &mut Dice| {
            let from = BEGIN + dice.below(14 * 86_400);
            let long = if dice.below(4) == 0 { 4 * 86_400 } else { 40_000 };
            (from, from + dice.below(long))
        };
        let outages = (0..DESTINATIONS).map(|_| (0..5).map(|_| outage(&mut dice)).collect()).collect();
        let disk = SimulatedDisk::default();
        let queue = open(&disk);
        let now = Timestamp::from_seconds(BEGIN);
        Self {
            seed,
            dice,
            disk,
            queue,
            schedule: Schedule::new(settings.clone()),
            settings,
            now,
            restarted: now,
            known: BTreeMap::new(),
            running: HashMap::new(),
            outages,
            gone: 0,
            restarts: 0,
        }
    }

    fn is_down(&self, destination: u64) -> bool {
        let now = self.now.seconds();
        self.outages[destination as usize].iter().any(|(from, to)| (*from..*to).contains(&now))
    }

    fn arrive(&mut self) {
        let id = QueueId::new(self.now.0, 1);
        let null_sender = self.dice.below(5) == 0;
        let mut envelope = Envelope::new(id, self.now, "");
        if !null_sender {
            envelope.sender = format!("sender{}@example.jp", self.dice.below(20));
        }
        let mut people = Vec::new();
        for _ in 0..1 + self.dice.below(4) {
            let nature = match self.dice.below(10) {
                0 => Nature::Refuses,
                1 | 2 => Nature::Greylists(Duration::from_secs(self.dice.below(30_000))),
                3 => Nature::Never,
                _ => Nature::Takes,
            };
            let destination = self.dice.below(DESTINATIONS);
            let address = format!("r{}@d{destination}.example", people.len());
            envelope.recipients.push(Recipient { address, ..Recipient::default() });
            people.push(Person { nature, destination, fate: None });
        }
        let sender = sender_hash(&envelope.sender);
        self.queue.append_and_wait(NewMessage::new(envelope, vec![b'x'; 200])).unwrap();
        let known = Known {
            arrival: self.now,
            null_sender,
            people,
            due: self.now,
            attempts: 0,
            last_age: Duration::ZERO,
            warnings: 0,
            warning_due: false,
            active: false,
        };
        self.known.insert(id, known);
        self.schedule.message_arrived(id, sender);
    }

    /// Does what is to be done now.
    fn work(&mut self) {
        loop {
            let ended: Vec<DeliveryId> =
                self.running.iter().filter(|(_, (end, _))| *end <= self.now).map(|(id, _)| *id).collect();
            for id in ended {
                self.delivered(id);
            }
            let Some(action) = self.schedule.poll(self.now) else { return };
            match action {
                Action::Activate { message, limit, first } => self.activate(message, limit, first),
                Action::Deliver(delivery) => {
                    let end = self.now + Duration::from_secs(self.dice.below(40));
                    self.running.insert(delivery.id, (end, delivery));
                }
                Action::Defer(deferral) => {
                    assert!(deferral.reason.starts_with("delivery temporarily suspended: "));
                    let state = RecipientState::Deferred(failure(&deferral.reason));
                    let changes: Vec<_> = deferral.recipients.iter().map(|r| (*r, state.clone())).collect();
                    self.queue.settle(deferral.message, &changes).unwrap();
                }
                Action::Finished(message) => self.finished(message),
                Action::Learned(lesson) => panic!("seed {}: {lesson:?}", self.seed),
                Action::Clogged(clogged) => panic!("seed {}: {clogged:?}", self.seed),
                action @ (Action::Feedbacks(_) | Action::Window(_)) => panic!("seed {}: {action:?}", self.seed),
            }
        }
    }

    fn activate(&mut self, message: QueueId, limit: usize, first: bool) {
        assert!(first && limit >= 4);
        let known = self.known.get_mut(&message).unwrap();
        // Nothing limits how much is active here: it is tried when it is due, or when the process is there again.
        let on_time = self.now == known.due || self.now == self.restarted && known.due <= self.now;
        assert!(on_time, "seed {}: {message} is due {:?} and tried {:?}", self.seed, known.due, self.now);
        known.active = true;
        self.queue.set_active(message, true).unwrap();
        let (envelope, _) = self.queue.envelope(message).unwrap();
        let mut routes = Vec::new();
        for (recipient, (entry, person)) in (0u32..).zip(envelope.recipients.iter().zip(&known.people)) {
            let open = matches!(entry.state, RecipientState::Pending | RecipientState::Deferred(_));
            assert_eq!(open, person.fate.is_none(), "seed {}: {message} recipient {recipient}", self.seed);
            if open {
                let nexthop = format!("d{}.example", person.destination);
                let destination = destination_name(&nexthop, None).into();
                routes.push(Route { recipient, transport: "smtp".into(), nexthop: nexthop.into(), destination });
            }
        }
        self.schedule.activated(message, &envelope.sender, routes, false, self.now);
    }

    fn delivered(&mut self, id: DeliveryId) {
        let (_, delivery) = self.running.remove(&id).unwrap();
        let known = &self.known[&delivery.message];
        let destination = known.people[delivery.recipients[0] as usize].destination;
        let down = self.is_down(destination);
        let age = self.now.since(known.arrival);
        let mut changes = Vec::new();
        for recipient in &delivery.recipients {
            let person = &mut self.known.get_mut(&delivery.message).unwrap().people[*recipient as usize];
            assert_eq!(person.destination, destination);
            assert_eq!(person.fate, None, "seed {}: delivered again", self.seed);
            let state = match person.nature {
                _ if down => RecipientState::Deferred(failure("connection refused")),
                Nature::Takes => RecipientState::Done,
                Nature::Greylists(until) if age >= until => RecipientState::Done,
                Nature::Refuses => RecipientState::Failed(failure("user unknown")),
                Nature::Greylists(_) | Nature::Never => RecipientState::Deferred(failure("try again")),
            };
            person.fate = match state {
                RecipientState::Done => Some(Fate::Delivered),
                RecipientState::Failed(_) => Some(Fate::Refused),
                _ => None,
            };
            changes.push((*recipient, state));
        }
        self.queue.settle(delivery.message, &changes).unwrap();
        let feedback = match down {
            true => Feedback::DestinationFailure {
                status: EnhancedStatus::transient(4, 1),
                reason: "connection refused".to_owned(),
            },
            false => Feedback::Answered,
        };
        self.schedule.delivery_done(id, feedback, self.now);
    }

    /// The end of an attempt, as the engine does it, and what must be true of it.
    fn finished(&mut self, message: QueueId) {
        let (seed, now) = (self.seed, self.now);
        let known = self.known.get_mut(&message).unwrap();
        known.active = false;
        let age = now.since(known.arrival);
        let lifetime = match known.null_sender {
            true => self.settings.bounce_queue_lifetime,
            false => self.settings.maximal_queue_lifetime,
        };
        let expired = self.settings.expired(known.arrival, now, known.null_sender);
        assert_eq!(expired, age >= lifetime);
        let (envelope, meta) = self.queue.envelope(message).unwrap();
        assert_eq!(meta.attempts, known.attempts, "seed {seed}: {message}");
        let open = |state: &RecipientState| matches!(state, RecipientState::Pending | RecipientState::Deferred(_));
        if known.people.iter().all(|person| person.fate.is_some()) || expired {
            for (recipient, person) in envelope.recipients.iter().zip(&mut known.people) {
                if open(&recipient.state) {
                    // Not a moment earlier than it may, and at the first attempt after that.
                    assert!(age >= lifetime && known.last_age < lifetime, "seed {seed}: {message} at {age:?}");
                    assert_eq!(person.fate.replace(Fate::TooOld), None);
                }
            }
            self.queue.remove(message).unwrap();
            self.gone += 1;
            return;
        }
        let longest = self.settings.maximal_backoff_time.max(self.settings.minimal_backoff_time);
        assert!(known.last_age < lifetime);
        let warn = self.settings.warn_due(known.arrival, now);
        assert_eq!(warn, age >= self.settings.delay_warning_time);
        known.warning_due |= warn;
        let tell = warn && !meta.flags.warned();
        known.warnings += u32::from(tell);
        let next = self.settings.retry_at(known.arrival, now);
        let wait = next.since(now);
        let shortest = self.settings.minimal_backoff_time.max(self.settings.queue_run_delay);
        assert!(wait >= shortest && wait <= longest.max(shortest), "seed {seed}: waits {wait:?}");
        known.due = next;
        known.attempts += 1;
        known.last_age = age;
        let sites: Vec<u64> = known.people.iter().map(|p| site_hash(&format!("d{}.example", p.destination))).collect();
        self.queue.defer(message, next, &[], tell).unwrap();
        self.queue.set_active(message, false).unwrap();
        self.schedule.message_deferred(message, next, &sites);
    }

    /// The process is killed, or the machine goes off; what was recorded is there afterwards.
    fn restart(&mut self) {
        self.restarts += 1;
        // What a power loss may forget is another test's business.
        self.queue.sync().unwrap();
        let before = self.kept();
        self.running.clear();
        self.disk = match self.dice.below(2) {
            0 => self.disk.after_kill(),
            _ => self.disk.power_loss(self.seed + u64::from(self.restarts)),
        };
        self.queue = open(&self.disk);
        self.known.values_mut().for_each(|known| known.active = false);
        let after = self.kept();
        assert_eq!(before.len(), after.len(), "seed {}", self.seed);
        for (id, kept) in &before {
            assert_eq!(Some(kept), after.get(id), "seed {}: {id}", self.seed);
        }
        self.schedule = Schedule::new(self.settings.clone());
        take_up(&mut self.schedule, &self.queue);
        self.restarted = self.now;
    }

    /// What must survive: attempts, next time, warned, and each recipient's state.
    fn kept(&self) -> BTreeMap<QueueId, (u16, Timestamp, bool, Vec<RecipientState>)> {
        let all = self.queue.list(|_: &Meta| true);
        all.into_iter()
            .map(|meta| {
                let (envelope, _) = self.queue.envelope(meta.queue_id).unwrap();
                let states = envelope.recipients.iter().map(|r| r.state.clone()).collect();
                (meta.queue_id, (meta.attempts, meta.next_attempt, meta.flags.warned(), states))
            })
            .collect()
    }

    fn run(&mut self, messages: u64) {
        let mut arrivals: Vec<Timestamp> =
            (0..messages).map(|_| Timestamp::from_seconds(BEGIN + self.dice.below(14 * 86_400))).collect();
        // Two at one microsecond would have one name.
        arrivals.sort();
        arrivals.dedup();
        let mut restarts: Vec<Timestamp> =
            (0..8).map(|_| Timestamp::from_seconds(BEGIN + self.dice.below(18 * 86_400))).collect();
        restarts.sort();
        arrivals.reverse();
        restarts.reverse();
        let total = arrivals.len();
        loop {
            self.work();
            let ends = self.running.values().map(|(end, _)| *end).min();
            let deadline = self.schedule.next_deadline();
            let next = [arrivals.last().copied(), restarts.last().copied(), ends, deadline].into_iter().flatten().min();
            let Some(next) = next else { break };
            assert!(self.now.since(Timestamp::from_seconds(BEGIN)) < Duration::from_secs(40 * 86_400), "it never ends");
            self.now = self.now.max(next);
            if restarts.last().is_some_and(|at| *at <= self.now) {
                restarts.pop();
                self.restart();
            }
            if arrivals.last().is_some_and(|at| *at <= self.now) {
                arrivals.pop();
                self.arrive();
            }
        }
        assert_eq!(self.gone, total, "seed {}", self.seed);
        assert!(self.queue.is_empty());
        for (id, known) in &self.known {
            assert_eq!(known.warnings, u32::from(known.warning_due), "seed {}: {id}", self.seed);
            for person in &known.people {
                let fits = match person.fate {
                    Some(Fate::Delivered) => !matches!(person.nature, Nature::Never | Nature::Refuses),
                    Some(Fate::Refused) => person.nature == Nature::Refuses,
                    // Its destination may have been down all the time.
                    Some(Fate::TooOld) => true,
                    None => false,
                };
                assert!(fits, "seed {}: {id} {:?} {:?}", self.seed, person.nature, person.fate);
            }
        }
        self.queue.close();
    }
}

#[test]
fn weeks_of_retrying_with_restarts() {
    let (mut attempts, mut warnings, mut old) = (0u64, 0u32, 0usize);
    for seed in 1..=4 {
        let mut world = World::new(seed);
        world.run(300);
        attempts += world.known.values().map(|known| u64::from(known.attempts) + 1).sum::<u64>();
        warnings += world.known.values().map(|known| known.warnings).sum::<u32>();
        let fates = world.known.values().flat_map(|known| &known.people);
        old += fates.filter(|person| person.fate == Some(Fate::TooOld)).count();
        assert_eq!(world.restarts, 8);
    }
    println!("{attempts} attempts, {warnings} warnings, {old} recipients given up");
    assert!(attempts > 5000 && warnings > 50 && old > 50, "{attempts} {warnings} {old}");
}

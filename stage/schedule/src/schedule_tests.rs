//! The schedule with a small engine around it and a clock that is a number.

use super::*;
use crate::action::Feedback;
use crate::destination_name;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

const REFUSED: EnhancedStatus = EnhancedStatus::transient(4, 1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn id(n: u64) -> QueueId {
    QueueId::new(n, 1)
}

/// A message of the tests: its sender and where its recipients go (`transport:nexthop`), and which are settled.
#[derive(Default)]
struct Mail {
    sender: String,
    routes: Vec<String>,
    settled: HashSet<u32>,
    /// Recipients handed in since it became active.
    handed: usize,
    /// Of these, those that have come back.
    resolved: HashSet<u32>,
}

struct World {
    schedule: Schedule,
    now: Timestamp,
    mail: BTreeMap<QueueId, Mail>,
    running: Vec<Delivery>,
    deferrals: Vec<Deferral>,
    finished: Vec<QueueId>,
    clogged: Vec<Clogged>,
    /// Answer [`Action::Activate`] at once.
    activates: bool,
    /// Every delivery asks to enter a site, and is postponed when it may not: see [`site_of`].
    sites: bool,
    /// Starts at each site.
    starts: BTreeMap<String, Vec<Timestamp>>,
    learned: Vec<crate::Lesson>,
    feedbacks: Vec<String>,
    steps: Vec<crate::WindowStep>,
    /// Portions that were asked for.
    asked: Vec<(QueueId, usize)>,
    postponed: usize,
}

/// The test's domains share mail exchangers.
fn site_of(nexthop: &str) -> String {
    match nexthop.as_bytes().first() {
        Some(digit) => format!("mx{}.test", digit % 3),
        None => String::new(),
    }
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            schedule: Schedule::new(settings),
            now: Timestamp::from_seconds(1_000_000),
            mail: BTreeMap::new(),
            running: vec![],
            deferrals: vec![],
            finished: vec![],
            clogged: vec![],
            activates: true,
            sites: false,
            starts: BTreeMap::new(),
            learned: vec![],
            feedbacks: vec![],
            steps: vec![],
            asked: vec![],
            postponed: 0,
        }
    }

    fn with(transport: TransportSettings) -> Self {
        Self::new(Settings { default_transport: transport, ..Settings::default() })
    }

    fn arrive(&mut self, n: u64, sender: &str, routes: impl IntoIterator<Item = impl Into<String>>) {
        let routes = routes.into_iter().map(Into::into).collect();
        self.mail.insert(id(n), Mail { sender: sender.into(), routes, ..Mail::default() });
        self.schedule.message_arrived(id(n), sender_hash(sender));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Polls until nothing is left to do now. Returns the deliveries started.
    fn run(&mut self) -> Vec<Delivery> {
        let mut started = vec![];
        while let Some(action) = self.schedule.poll(self.now) {
            match action {
                Action::Activate { message, limit, first } if self.activates => self.answer(message, limit, first),
                Action::Activate { .. } => {}
                Action::Deliver(delivery) if self.sites && !self.enters(&delivery) => {
                    self.postponed += 1;
                    self.schedule.delivery_done(delivery.id, Feedback::Postponed, self.now);
                }
                Action::Deliver(delivery) => {
                    self.running.push(delivery.clone());
                    started.push(delivery);
                }
                Action::Defer(deferral) => {
                    self.resolve(deferral.message, &deferral.recipients);
                    self.deferrals.push(deferral);
                }
                Action::Finished(message) => self.finished.push(message),
                Action::Clogged(clogged) => self.clogged.push(clogged),
                Action::Learned(lesson) => self.learned.push(lesson),
                Action::Feedbacks(transport) => self.feedbacks.push(transport.to_string()),
                Action::Window(step) => self.steps.push(step),
            }
        }
        started
    }

    fn enters(&mut self, delivery: &Delivery) -> bool {
        let site = site_of(&delivery.nexthop);
        let entry = self.schedule.enter(delivery.id, &site, self.now);
        if entry.go {
            self.starts.entry(site).or_default().push(self.now);
        }
        entry.go
    }

    fn answer(&mut self, message: QueueId, limit: usize, first: bool) {
        assert!(limit > 0);
        self.asked.push((message, limit));
        let mail = self.mail.get_mut(&message).unwrap();
        if first {
            mail.handed = 0;
            mail.resolved.clear();
        }
        let open: Vec<u32> = (0..mail.routes.len() as u32).filter(|r| !mail.settled.contains(r)).collect();
        let open: &[u32] = if first { &open } else { &open[mail.handed.min(open.len())..] };
        let part = &open[..limit.min(open.len())];
        let routes = part.iter().map(|r| route(*r, &mail.routes[*r as usize])).collect();
        mail.handed += part.len();
        let sender = mail.sender.clone();
        self.schedule.activated(message, &sender, routes, part.len() < open.len(), self.now);
    }

    fn resolve(&mut self, message: QueueId, recipients: &[u32]) {
        let mail = self.mail.get_mut(&message).unwrap();
        for r in recipients {
            assert!(mail.resolved.insert(*r), "recipient {r} of {message} came back twice");
        }
    }

    fn done(&mut self, delivery: &Delivery, feedback: Feedback) {
        self.running.retain(|d| d.id != delivery.id);
        self.resolve(delivery.message, &delivery.recipients);
        self.schedule.delivery_done(delivery.id, feedback, self.now);
    }

    fn fail(&mut self, delivery: &Delivery) {
        self.done(delivery, Feedback::DestinationFailure { status: REFUSED, reason: "connect to x: refused".into() });
    }
}

fn route(recipient: u32, text: &str) -> Route {
    let (transport, nexthop) = text.split_once(':').unwrap();
    Route {
        recipient,
        transport: transport.into(),
        nexthop: nexthop.into(),
        destination: destination_name(nexthop, None).into(),
    }
}

fn sizes(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(|d| d.recipients.len()).collect()
}

#[test]
fn five_days_of_retrying() {
    let settings = Settings { delay_warning_time: seconds(4 * 3600), ..Settings::default() };
    let mut world = World::new(settings);
    let arrival = world.now;
    world.arrive(1, "a@b", ["smtp:remote.example"]);
    let (mut attempts, mut warned) = (vec![], None);
    loop {
        for delivery in world.run() {
            attempts.push(world.now.since(arrival).as_secs());
            world.done(&delivery, Feedback::Answered);
        }
        world.run();
        assert_eq!(world.finished.pop(), Some(id(1)));
        let settings = world.schedule.settings();
        if warned.is_none() && settings.warn_due(arrival, world.now) {
            warned = Some(world.now.since(arrival).as_secs());
        }
        if settings.expired(arrival, world.now, false) {
            break;
        }
        let due = settings.retry_at(arrival, world.now);
        world.schedule.message_deferred(id(1), due, &[]);
        assert_eq!(world.run().len(), 0);
        assert_eq!(world.schedule.next_deadline(), Some(due));
        world.now = due;
    }
    assert_eq!(attempts[..8], [0, 300, 600, 1200, 2400, 4800, 8800, 12_800]);
    assert_eq!((attempts.len(), attempts.last()), (113, Some(&432_800)));
    assert_eq!(warned, Some(16_800));
    assert_eq!(world.schedule.counts(), Counts::default());
}

/// Each step: seconds that pass, deliveries that end, messages that arrive; then what those that begin are to do with
/// connections: `-` nothing, `l` take one, `ls` take and keep one.
#[test]
fn connections_are_kept_while_deliveries_follow_each_other() {
    type Step = (u64, usize, usize, &'static str);
    // The window, and seconds between two deliveries of the transport.
    let table: [(u32, u64, &[Step]); 8] = [
        // A burst that fits the window, and one more when all of it is over.
        (5, 0, &[(0, 0, 5, "-----"), (9, 5, 1, "-")]),
        // A few messages one after the other, then so many that they are a stream, then a pause.
        (
            5,
            0,
            &[
                (0, 0, 1, "-"),
                (0, 1, 1, "-"),
                (1, 1, 1, "-"),
                (0, 1, 0, ""),
                (1, 0, 1, "-"),
                (1, 1, 1, "ls"),
                (0, 1, 1, "ls"),
                (1, 1, 0, ""),
                (1, 0, 2, "lsls"),
                (0, 2, 0, ""),
                (3, 0, 1, "-"),
                (0, 1, 1, "-"),
            ],
        ),
        // It is not forgotten because it was looked at while it had mail again.
        (
            5,
            0,
            &[
                (0, 0, 1, "-"),
                (0, 1, 1, "-"),
                (0, 1, 1, "-"),
                (0, 1, 1, "-"),
                (1, 1, 1, "ls"),
                (4, 0, 0, ""),
                (0, 1, 0, ""),
                (1, 0, 1, "ls"),
            ],
        ),
        (5, 0, &[(0, 0, 7, "-----"), (0, 1, 0, "ls"), (1, 1, 0, "ls"), (9, 5, 0, "")]),
        // One at a time: the second follows the first.
        (1, 0, &[(0, 0, 3, "-"), (7, 1, 0, "ls"), (7, 1, 0, "ls"), (0, 1, 1, "-")]),
        // Deliveries that overlap keep connections, however slow they are.
        (2, 0, &[(0, 0, 3, "--"), (0, 1, 0, "ls"), (5, 0, 0, ""), (0, 1, 0, ""), (5, 0, 1, "ls")]),
        (2, 0, &[(0, 0, 3, "--"), (0, 2, 0, "ls"), (5, 0, 1, "ls")]),
        // Nothing has ended for a while and nothing else runs: what is there is used up.
        (5, 3, &[(0, 0, 3, "-"), (2, 1, 0, ""), (1, 0, 0, "ls"), (0, 1, 0, ""), (3, 0, 0, "l")]),
    ];
    for (window, pause, steps) in table {
        let limits = TransportSettings {
            transport_rate_delay: seconds(pause),
            destination_concurrency_limit: window,
            initial_destination_concurrency: window,
            ..TransportSettings::default()
        };
        let mut world = World::with(limits);
        let (mut next, mut running) = (1, std::collections::VecDeque::new());
        for (at, (seconds, ends, arrive, expected)) in steps.iter().enumerate() {
            world.now = world.now + Duration::from_secs(*seconds);
            for delivery in running.drain(..*ends).collect::<Vec<_>>() {
                world.done(&delivery, Feedback::Answered);
            }
            for _ in 0..*arrive {
                world.arrive(next, "a@b", vec!["smtp:x.example"]);
                next += 1;
            }
            let begun = world.run();
            let words = begun.iter().map(|delivery| match (delivery.reuse.load, delivery.reuse.store) {
                (true, true) => "ls",
                (true, false) => "l",
                (false, false) => "-",
                (false, true) => "s",
            });
            assert_eq!(words.collect::<String>(), *expected, "window {window}, step {at}");
            running.extend(begun);
        }
    }
}

/// Two messages in a session, then five seconds: the second one of a session follows nothing at once, and has to find it open.
#[test]
fn a_session_before_a_pause_is_kept_for_what_waits() {
    let mut world = World::with(TransportSettings {
        site_session_pause: seconds(5),
        session_message_limit: 2,
        destination_concurrency_limit: 1,
        ..TransportSettings::default()
    });
    (1..5).for_each(|n| world.arrive(n, "a@b", vec!["smtp:x.example"]));
    let mut kept = Vec::new();
    loop {
        world.run();
        let Some(delivery) = world.running.first().cloned() else { break };
        kept.push(delivery.reuse.store);
        assert!(world.schedule.enter(delivery.id, "x.example", world.now).go);
        world.schedule.session_ended(delivery.id, world.now);
        world.done(&delivery, Feedback::Answered);
        world.pass(seconds(5));
    }
    // The first is alone when it comes, and the last when it goes.
    assert_eq!(kept, [false, true, true, false]);
}

#[test]
fn destinations_without_mail_are_forgotten() {
    let mut world = World::with(TransportSettings::default());
    for round in 0..3 {
        for n in 0..LINGERING as u64 + 50 {
            world.arrive(round * 10_000 + n, "a@b", vec![format!("smtp:{n}.example")]);
            for delivery in world.run() {
                world.done(&delivery, Feedback::Answered);
            }
            world.run();
            let known = world.schedule.destinations.len();
            assert!(known <= LINGERING + 1 && known == world.schedule.lingering.len(), "{known}");
        }
        assert_eq!(world.schedule.counts(), Counts::default());
    }
    world.pass(LINGER);
    world.run();
    assert_eq!((world.schedule.destinations.len(), world.schedule.lingering.len()), (0, 0));
}

#[test]
fn a_message_is_cut_into_slices_within_the_window() {
    let mut world = World::with(TransportSettings { destination_recipient_limit: 3, ..TransportSettings::default() });
    world.arrive(1, "a@b", vec!["smtp:x.example"; 20]);
    let started = world.run();
    assert_eq!(sizes(&started), [3; 5]);
    for delivery in started {
        world.done(&delivery, Feedback::Answered);
    }
    let rest = world.run();
    assert_eq!(sizes(&rest), [3, 2]);
    for delivery in rest {
        world.done(&delivery, Feedback::Answered);
    }
    world.run();
    assert_eq!(world.finished, [id(1)]);
    assert_eq!(world.schedule.counts(), Counts::default());
}

#[test]
fn a_dead_destination_defers_its_mail_and_comes_back() {
    let mut world = World::with(TransportSettings::default());
    (1..=10).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
    let started = world.run();
    assert_eq!(started.len(), 5);
    // Three failures are 1/5 + 1/3 + 1/2 of a cohort.
    started[..2].iter().for_each(|d| world.fail(d));
    assert_eq!(world.schedule.counts().dead_destinations, 0);
    started[2..4].iter().for_each(|d| world.fail(d));
    assert!(world.run().is_empty());
    assert_eq!(world.deferrals.len(), 5);
    assert_eq!(&*world.deferrals[0].reason, "delivery temporarily suspended: connect to x: refused");
    assert_eq!(world.deferrals[0].status, REFUSED);
    assert_eq!(world.finished.len(), 9);
    assert_eq!(world.schedule.counts().dead_destinations, 1);
    // New mail does not try it, other mail is not disturbed.
    world.arrive(11, "a@b", ["smtp:x.example", "smtp:y.example"]);
    let started_now = world.run();
    assert_eq!(started_now.len(), 1);
    assert_eq!(&*started_now[0].nexthop, "y.example");
    assert_eq!(world.deferrals.len(), 6);
    world.fail(&started[4]);
    world.done(&started_now[0], Feedback::Answered);
    world.run();
    // It costs nothing until its time has come.
    assert_eq!(world.schedule.next_deadline(), Some(world.now + seconds(300)));
    world.pass(seconds(300));
    world.run();
    assert_eq!(world.schedule.counts(), Counts::default());
    world.arrive(12, "a@b", ["smtp:x.example"]);
    assert_eq!(world.run().len(), 1);
}

#[test]
fn a_late_answer_revives() {
    let mut world = World::with(TransportSettings::default());
    (1..=5).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
    let started = world.run();
    started[..4].iter().for_each(|d| world.fail(d));
    assert_eq!(world.schedule.counts().dead_destinations, 1);
    world.done(&started[4], Feedback::Answered);
    assert_eq!(world.schedule.counts().dead_destinations, 0);
    world.run();
    assert_eq!(world.schedule.next_deadline(), None);
}

#[test]
fn flushing() {
    let mut settings = Settings::default();
    settings.defer_transports.insert("slow".into());
    let mut world = World::new(settings);
    world.arrive(1, "a@b", ["slow:x.example"]);
    world.run();
    assert_eq!(world.finished, [id(1)]);
    assert_eq!(&*world.deferrals[0].reason, "deferred transport");
    assert_eq!(world.deferrals[0].status, EnhancedStatus::transient(3, 2));
    world.schedule.message_deferred(id(1), world.now + seconds(300), &[site_hash("X.example")]);
    assert!(world.run().is_empty());
    assert_eq!(world.schedule.flush_site("other.example", world.now), 0);
    assert!(!world.schedule.flush_message(id(2), world.now));
    assert_eq!(world.schedule.flush_site("x.EXAMPLE", world.now), 1);
    let started = world.run();
    assert_eq!(started.len(), 1);
    world.done(&started[0], Feedback::Answered);
    world.run();
    for all in [true, false] {
        world.schedule.message_deferred(id(1), world.now + seconds(300), &[]);
        if all {
            world.schedule.flush_all(world.now);
        } else {
            assert!(world.schedule.flush_message(id(1), world.now));
        }
        let started = world.run();
        assert_eq!(started.len(), 1);
        world.done(&started[0], Feedback::Answered);
        world.run();
    }
}

#[test]
fn flushing_forgets_who_is_dead() {
    let mut world = World::with(TransportSettings::default());
    (1..=4).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
    world.run().iter().for_each(|d| world.fail(d));
    world.run();
    assert_eq!(world.schedule.counts().dead_destinations, 1);
    world.schedule.flush_all(world.now);
    world.arrive(9, "a@b", ["smtp:x.example"]);
    assert_eq!(world.run().len(), 1);
    assert_eq!(world.schedule.counts().dead_destinations, 0);
}

#[test]
fn a_dead_transport() {
    let mut world = World::with(TransportSettings { process_limit: 2, ..TransportSettings::default() });
    (1..=30).for_each(|n| world.arrive(n, "a@b", [format!("smtp:{}.example", n % 3)]));
    world.arrive(31, "a@b", ["other:x.example"]);
    let started = world.run();
    assert_eq!(started.len(), 3);
    let smtp: Vec<_> = started.iter().filter(|d| &*d.transport == "smtp").collect();
    let status = EnhancedStatus::transient(3, 0);
    world.done(smtp[0], Feedback::TransportFailure { status, reason: "mail transport unavailable".into() });
    world.run();
    assert_eq!(world.deferrals.len(), 28);
    assert!(world.deferrals.iter().all(|d| &*d.reason == "mail transport unavailable" && d.status == status));
    world.arrive(32, "a@b", ["smtp:new.example"]);
    world.run();
    assert_eq!(world.deferrals.len(), 29);
    world.done(smtp[1], Feedback::Answered);
    world.run();
    world.pass(seconds(59));
    world.arrive(33, "a@b", ["smtp:new.example"]);
    assert!(world.run().is_empty());
    world.pass(seconds(1));
    world.arrive(34, "a@b", ["smtp:new.example"]);
    assert_eq!(world.run().len(), 1);
}

/// What an administrator has mended counts for the next message: as after a reload of Postfix, whose qmgr(8) begins anew.
#[test]
fn a_reload_forgets_who_is_dead() {
    let mut world = World::with(TransportSettings::default());
    world.arrive(1, "a@b", ["broken:x.example"]);
    let started = world.run();
    let status = EnhancedStatus::transient(3, 0);
    world.done(&started[0], Feedback::TransportFailure { status, reason: "mail transport unavailable".into() });
    (2..=4).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
    world.run().iter().for_each(|d| world.fail(d));
    world.run();
    assert_eq!(world.schedule.counts().dead_destinations, 1);
    world.schedule.reconfigure(world.schedule.settings().clone());
    world.arrive(5, "a@b", ["broken:x.example", "smtp:x.example"]);
    assert_eq!(world.run().len(), 2);
}

#[test]
fn rate_delays() {
    let per_destination = TransportSettings { destination_rate_delay: seconds(2), ..TransportSettings::default() };
    let mut world = World::with(per_destination);
    for n in 1..=3 {
        world.arrive(n, "a@b", ["smtp:x.example"]);
        world.arrive(n + 10, "a@b", ["smtp:y.example"]);
    }
    for round in 0..3 {
        let started = world.run();
        assert_eq!(started.len(), 2, "one per destination in round {round}");
        world.pass(seconds(1));
        started.iter().for_each(|d| world.done(d, Feedback::Answered));
        assert!(world.run().is_empty());
        // From the end of a delivery to the start of the next.
        assert_eq!(world.schedule.next_deadline(), Some(world.now + seconds(2)));
        world.pass(seconds(2));
    }
    world.run();
    assert_eq!(world.schedule.counts(), Counts::default());

    let per_transport = TransportSettings { transport_rate_delay: seconds(2), ..TransportSettings::default() };
    let mut world = World::with(per_transport);
    (1..=4).for_each(|n| world.arrive(n, "a@b", [format!("smtp:{n}.example")]));
    for _ in 0..4 {
        assert_eq!(world.run().len(), 1);
        assert!(world.run().is_empty());
        world.pass(seconds(2));
    }
    assert_eq!(world.running.len(), 4, "from start to start: none has ended");
}

#[test]
fn a_big_message_lets_small_ones_pass() {
    // Many destinations on few processes, and one destination.
    for spread in [true, false] {
        let mut world = World::with(TransportSettings {
            process_limit: 4,
            destination_recipient_limit: 2,
            ..TransportSettings::default()
        });
        let big = (0..50_000).map(|n| if spread { format!("smtp:{n}.example") } else { "smtp:x.example".into() });
        world.arrive(1, "list@b", big);
        let mut running = world.run();
        world.arrive(2, "list@b", ["smtp:x.example"]);
        world.arrive(3, "person@b", ["smtp:x.example"]);
        running.extend(world.run());
        let mut started_after = BTreeMap::new();
        for n in 0..40 {
            let delivery = running.remove(0);
            world.done(&delivery, Feedback::Answered);
            running.extend(world.run());
            for delivery in &running {
                started_after.entry(delivery.message).or_insert(n);
            }
        }
        assert!(started_after[&id(3)] <= 3, "{started_after:?}");
        assert!(started_after[&id(2)] <= 6, "{started_after:?}");
    }
}

#[test]
fn senders_take_turns() {
    let mut world = World::with(TransportSettings { process_limit: 1, ..TransportSettings::default() });
    (1..=100).for_each(|n| world.arrive(n, "loud@b", [format!("smtp:{}.example", n % 7)]));
    let mut running = world.run();
    world.arrive(200, "quiet@b", ["smtp:1.example"]);
    running.extend(world.run());
    let mut order = vec![];
    for _ in 0..4 {
        let delivery = running.remove(0);
        order.push(delivery.message);
        world.done(&delivery, Feedback::Answered);
        running.extend(world.run());
    }
    let turn = order.iter().position(|message| *message == id(200));
    assert!(turn.is_some_and(|turn| turn <= 2), "{order:?}");
}

#[test]
fn limits_of_what_is_active() {
    let settings = Settings { active_limit: 10, activation_limit: 4, ..Settings::default() };
    let mut world = World::new(settings);
    world.activates = false;
    for n in 1..=30 {
        world.arrive(n, "a@b", ["smtp:x.example"]);
        world.schedule.message_deferred(id(100 + n), world.now, &[]);
    }
    world.run();
    assert_eq!(world.schedule.counts().active, 4, "being read");
    let active = |world: &World, from: u64| {
        (from..from + 30).filter(|n| world.schedule.place(id(*n)) == Some(Place::Active)).count()
    };
    assert_eq!((active(&world, 1), active(&world, 101)), (2, 2), "new and old in turn");
    assert_eq!(world.schedule.next_deadline(), None);

    let settings = Settings { active_limit: 10, ..Settings::default() };
    let mut world = World::new(settings);
    (1..=30).for_each(|n| world.schedule.message_deferred(id(100 + n), world.now, &[]));
    world.activates = false;
    world.run();
    assert_eq!(active(&world, 101), 8, "old mail leaves places for new");
    (1..=30).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
    world.run();
    assert_eq!(active(&world, 1), 2);
}

#[test]
fn recipients_come_in_portions() {
    let mut world = World::with(TransportSettings { process_limit: 0, ..TransportSettings::default() });
    world.arrive(1, "a@b", (0..5000).map(|n| format!("smtp:{n}.example")));
    let mut total = 0;
    let mut running = world.run();
    while let Some(delivery) = running.pop() {
        assert!(world.schedule.counts().recipients <= 5000);
        total += delivery.recipients.len();
        world.done(&delivery, Feedback::Answered);
        running.extend(world.run());
    }
    assert_eq!((total, world.finished.len()), (5000, 1));
}

#[test]
fn a_transport_has_its_own_limit_of_recipients() {
    let transport = TransportSettings { recipient_limit: 300, process_limit: 1, ..TransportSettings::default() };
    let mut world = World::with(transport);
    world.arrive(1, "a@b", (0..5000).map(|n| format!("smtp:{n}.example")));
    let mut running = world.run();
    let mut total = 0;
    while let Some(delivery) = running.pop() {
        total += delivery.recipients.len();
        world.done(&delivery, Feedback::Answered);
        running.extend(world.run());
        // The first portion is taken before anybody knows where it goes.
        assert!(world.schedule.counts().recipients <= if total < 1000 { 1000 } else { 310 }, "{total}");
    }
    assert_eq!((total, world.finished.len()), (5000, 1));
    assert_eq!(world.schedule.transports[0].recipients, 0);
}

/// `extra_recipient_limit` and `recipient_refill_limit`: how many wait in memory, and when the next come.
#[test]
fn the_next_recipients_come_as_soon_as_enough_fit() {
    // Recipients of a message in memory, a batch, processes, the portions asked for while nothing comes to an end, and while
    // those of the first deliveries do, ten at most.
    type Case = (usize, usize, usize, &'static [usize], &'static [usize]);
    const TABLE: &[Case] = &[
        (1000, 100, 100, &[1000, 100], &[]),
        (1000, 100, 99, &[1000], &[100]),
        (1000, 10, 100, &[1000, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10], &[10]),
        (1000, 1000, 400, &[1000], &[]),
        (1000, 1000, 495, &[1000], &[500]),
        (50, 20, 20, &[50, 20], &[]),
        (5000, 100, 100, &[5000, 100], &[]),
        // Half of what may be there is enough; `qmgr_message_recipient_minimum` is there in any case.
        (20, 100, 9, &[20], &[10]),
        (0, 100, 4, &[10], &[5]),
    ];
    for (extra, batch, processes, first, then) in TABLE {
        let transport = TransportSettings {
            extra_recipient_limit: *extra,
            recipient_refill_limit: *batch,
            process_limit: *processes,
            ..TransportSettings::default()
        };
        let mut world = World::with(transport);
        world.arrive(1, "a@b", (0..5001).map(|n| format!("smtp:{n}.example")));
        let running = world.run();
        let portions = |world: &World| world.asked.iter().map(|(_, limit)| *limit).collect::<Vec<_>>();
        assert_eq!(portions(&world), *first, "{extra} {batch} {processes}");
        world.asked.clear();
        let ending: Vec<Delivery> = running.iter().take(10).cloned().collect();
        for delivery in &ending {
            world.done(delivery, Feedback::Answered);
            world.run();
        }
        assert_eq!(portions(&world), *then, "{extra} {batch} {processes}, then");
    }
}

/// `recipient_refill_delay`: those that wait for a slow destination do not hold up the rest of their message.
#[test]
fn few_that_go_do_not_hold_up_the_rest() {
    let transport = TransportSettings {
        recipient_refill_limit: 1000,
        recipient_refill_delay: seconds(7),
        process_limit: 0,
        ..TransportSettings::default()
    };
    let mut world = World::with(transport);
    let slow = vec!["smtp:slow.example".to_owned(); 1000];
    world.arrive(1, "a@b", slow.into_iter().chain((0..100).map(|n| format!("smtp:{n}.example"))));
    // Five deliveries of fifty.
    assert_eq!(world.run().len(), 5);
    assert_eq!(world.schedule.next_deadline(), Some(world.now + seconds(7)));
    world.pass(seconds(6));
    assert_eq!(world.run().len(), 0);
    world.pass(seconds(1));
    assert_eq!(world.run().len(), 100);
    assert_eq!(world.asked, [(id(1), 1000), (id(1), 250)]);
    // All is there: nothing rings any more.
    assert_eq!(world.schedule.next_deadline(), None);
    assert!(world.schedule.remove(id(1)));
}

/// What rings for a message is forgotten with it.
#[test]
fn a_message_that_goes_rings_no_more() {
    let transport = TransportSettings { process_limit: 1, ..TransportSettings::default() };
    let mut world = World::with(transport);
    world.arrive(1, "a@b", (0..5000).map(|n| format!("smtp:{n}.example")));
    world.run();
    assert_eq!(world.schedule.next_deadline(), Some(world.now + seconds(5)));
    // There is no room: it rings again.
    world.pass(seconds(5));
    world.run();
    assert!(world.schedule.next_deadline() > Some(world.now));
    assert!(world.schedule.remove(id(1)));
    assert_eq!(world.schedule.next_deadline(), None);
}

/// `extra_recipient_limit`, the other half: who comes when others have used up the limits does not go out ten by ten.
#[test]
fn there_is_room_for_those_who_overtake() {
    // Limits of all and of the transport.
    for (all, of_transport) in [(2000, 20_000), (20_000, 2000), (2000, 2000)] {
        let transport =
            TransportSettings { process_limit: 3, recipient_limit: of_transport, ..TransportSettings::default() };
        let mut world =
            World::new(Settings { recipient_limit: all, default_transport: transport, ..Settings::default() });
        let far = |n: u64| (0..5000).map(move |r| format!("smtp:{n}-{r}.example"));
        (1..=2).for_each(|n| world.arrive(n, &format!("{n}@b"), far(n)));
        world.run();
        assert_eq!(world.schedule.counts().recipients, 2000);
        (3..=8).for_each(|n| world.arrive(n, &format!("{n}@b"), far(n).take(400)));
        let mut most = 0;
        for _ in 0..60 {
            world.run();
            most = most.max(world.schedule.counts().recipients);
            let delivery = world.running[0].clone();
            world.done(&delivery, Feedback::Answered);
        }
        let of = |n: u64| world.asked.iter().filter(move |(message, _)| *message == id(n)).map(|(_, limit)| *limit);
        if all == 2000 {
            assert_eq!(of(3).next(), Some(10));
        }
        // All of the first ones at once; the last ones have what every message may have.
        let large = (3..=8).filter(|n| of(*n).any(|limit| limit >= 390)).count();
        assert!((2..=6).contains(&large), "{all} {of_transport}: {:?}", world.asked);
        let first_portions = if all == 2000 { 0 } else { 6 * 400 };
        assert!(most <= 2000 + 1000 + 8 * 10 + first_portions, "{all} {of_transport}: {most}");
    }
}

/// `destination_concurrency_feedback_debug`
#[test]
fn windows_are_told_of() {
    let transport = TransportSettings { destination_concurrency_limit: 7, ..TransportSettings::default() };
    let run = |debug: bool| {
        let settings = Settings { feedback_debug: debug, default_transport: transport.clone(), ..Settings::default() };
        let mut world = World::new(settings);
        (1..=12).for_each(|n| world.arrive(n, "a@b", ["smtp:x.example"]));
        let started = world.run();
        started.iter().take(3).for_each(|delivery| world.done(delivery, Feedback::Answered));
        world.run();
        let failure = Feedback::DestinationFailure { status: REFUSED, reason: "x".into() };
        for _ in 0..7 {
            let delivery = world.running[0].clone();
            world.done(&delivery, failure.clone());
            world.run();
        }
        world.pass(seconds(300));
        world.run();
        world
    };
    let world = run(true);
    assert_eq!(world.feedbacks, ["smtp"]);
    let told: Vec<_> = world.steps.iter().map(|step| (step.answered, step.feedback.is_some(), step.window)).collect();
    let expected = [
        // The third is at the limit: nothing is counted.
        (true, true, 6),
        (true, true, 7),
        (true, false, 7),
        (false, true, 5),
        (false, true, 4),
        (false, true, 3),
        (false, true, 2),
        // Dead: failures that still come in say nothing new.
        (false, false, 0),
        (true, false, 5),
    ];
    assert_eq!(told, expected);
    assert!(world.steps.iter().all(|step| &*step.destination == "x.example" && step.limit == 7));
    let quiet = run(false);
    assert!(quiet.steps.is_empty() && quiet.feedbacks.is_empty());
    let mut world = quiet;
    world.schedule.reconfigure(Settings { feedback_debug: true, ..Settings::default() });
    world.run();
    assert_eq!(world.feedbacks, ["smtp"], "it is switched on while it runs");
}

#[test]
fn removed_while_active() {
    let mut world = World::with(TransportSettings { destination_recipient_limit: 1, ..TransportSettings::default() });
    world.arrive(1, "a@b", vec!["smtp:x.example"; 8]);
    let started = world.run();
    assert_eq!(started.len(), 5);
    assert!(world.schedule.remove(id(1)));
    // It comes back (postsuper -H) while five deliveries still run: they end first.
    world.schedule.message_arrived(id(1), 0_u64);
    assert!(world.run().is_empty());
    assert_eq!(world.schedule.place(id(1)), Some(Place::Active));
    for delivery in &started {
        world.done(delivery, Feedback::Answered);
        world.mail.get_mut(&id(1)).unwrap().settled.extend(&delivery.recipients);
    }
    let again = world.run();
    assert_eq!(again.iter().map(|d| d.recipients[0]).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(world.schedule.remove(id(1)));
    again.iter().for_each(|d| world.done(d, Feedback::Answered));
    world.run();
    assert_eq!(world.finished, []);
    assert_eq!(world.schedule.counts(), Counts::default());
    assert!(!world.schedule.remove(id(1)));
    // Unreadable after Activate.
    world.activates = false;
    world.schedule.message_arrived(id(2), 0_u64);
    world.run();
    world.schedule.message_deferred(id(2), world.now + seconds(60), &[]);
    assert_eq!(world.schedule.place(id(2)), Some(Place::Deferred));
    assert_eq!(world.schedule.next_deadline(), Some(world.now + seconds(60)));
}

#[test]
fn a_destination_that_clogs_what_is_active_is_told_of_once_in_a_while() {
    let settings = |limit| Settings {
        active_limit: 100,
        default_transport: TransportSettings { destination_concurrency_limit: limit, ..TransportSettings::default() },
        ..Settings::default()
    };
    // Concurrency limit, other destinations, what is advised.
    for (limit, others, hint) in
        [(5, 0, ClogLimit::Concurrency(5)), (20, 3, ClogLimit::Shared), (20, 0, ClogLimit::Slow)]
    {
        let mut world = World::new(settings(limit));
        (1..=others).for_each(|n| world.arrive(1000 + n, "c@d", [format!("smtp:other{n}.example")]));
        world.run();
        for n in 1..=30 {
            world.arrive(n, "a@b", ["smtp:Slow.example"]);
            world.run();
        }
        assert_eq!(world.clogged.len(), 1, "{hint:?}");
        let clogged = world.clogged.remove(0);
        assert_eq!((&*clogged.nexthop, &*clogged.transport, clogged.limit), ("Slow.example", "smtp", hint));
        // More than a fifth of what may be active.
        assert_eq!((clogged.messages, clogged.active), (21, 21 + others as usize));
        world.pass(seconds(299));
        world.arrive(31, "a@b", ["smtp:Slow.example"]);
        world.run();
        assert_eq!(world.clogged.len(), 0);
        world.pass(seconds(1));
        world.arrive(32, "a@b", ["smtp:Slow.example"]);
        world.run();
        assert_eq!(world.clogged.len(), 1);
    }
    let mut world = World::new(Settings { clog_warn_time: Duration::ZERO, ..settings(20) });
    (1..=90).for_each(|n| world.arrive(n, "a@b", ["smtp:slow.example"]));
    world.run();
    assert_eq!(world.clogged, []);
}

#[test]
fn a_flood_of_new_mail_leaves_room_for_other_senders() {
    // All places are taken by a sender whose mail goes slowly; of the next two that come free one is somebody else's.
    let mut world = World::new(Settings { active_limit: 10, ..Settings::default() });
    (1..=1000).for_each(|n| world.arrive(n, "loud@b", ["smtp:slow.example"]));
    let started = world.run();
    world.arrive(2000, "quiet@b", ["smtp:quick.example"]);
    assert!(world.run().is_empty());
    started[..2].iter().for_each(|delivery| world.done(delivery, Feedback::Answered));
    let next = world.run();
    assert!(next.iter().any(|delivery| delivery.message == id(2000)), "{next:?}");
}

#[test]
fn feedback_of_an_attempt() {
    assert_eq!(Feedback::from(None), Feedback::Answered);
    let failure = Feedback::DestinationFailure { status: REFUSED, reason: "x".into() };
    assert_eq!(Feedback::from(Some((REFUSED, "x".into()))), failure);
}

#[test]
fn names_of_destinations() {
    assert_eq!(destination_name("Example.JP", None), "example.jp");
    assert_eq!(destination_name("mx.example.jp", Some("Bob")), "bob@mx.example.jp");
    let mut settings = Settings::default();
    let one = TransportSettings { destination_recipient_limit: 1, ..TransportSettings::default() };
    settings.transports.insert("local".into(), one);
    let schedule = Schedule::new(settings);
    assert!(schedule.one_recipient("local") && !schedule.one_recipient("smtp"));
}

/// Random mail, outcomes, operators and reloads: no recipient lost, none twice, no limit exceeded, everything ends.
#[test]
fn a_random_world_keeps_its_promises() {
    for seed in 1..=10 {
        random_world(seed, false);
        random_world(seed, true);
    }
}

fn random_settings(random: &mut impl FnMut(u64) -> u64) -> Settings {
    let mut settings = Settings {
        active_limit: 1 + random(30) as usize,
        activation_limit: 1 + random(5) as usize,
        recipient_limit: 20 + random(200) as usize,
        minimal_backoff_time: seconds(3),
        transport_retry_time: seconds(2),
        ..Settings::default()
    };
    let feedbacks = ["1", "1/8", "1/concurrency", "0.5/sqrt_concurrency"];
    // The same for all transports, so that what holds at a site is one number.
    let site_concurrency_limit = [0, 0, 1, 2, 4][random(5) as usize];
    let site_rate_delay = [seconds(0), seconds(0), Duration::from_millis(300)][random(3) as usize];
    let site_session_pause = [seconds(0), seconds(0), Duration::from_millis(500)][random(3) as usize];
    let site_adaptive = random(3) == 0;
    for transport in ["smtp", "relay", "local"] {
        let delay = |on: bool| if on { seconds(1) } else { Duration::ZERO };
        settings.transports.insert(
            transport.into(),
            TransportSettings {
                process_limit: random(6) as usize,
                destination_concurrency_limit: random(4) as u32,
                destination_recipient_limit: random(4) as usize,
                initial_destination_concurrency: 1 + random(3) as u32,
                failed_cohort_limit: random(3) as u32,
                recipient_limit: 10 + random(100) as usize,
                extra_recipient_limit: random(100) as usize,
                recipient_refill_limit: 1 + random(50) as usize,
                recipient_refill_delay: seconds(1 + random(5)),
                positive_feedback: feedbacks[random(4) as usize].parse().unwrap(),
                negative_feedback: feedbacks[random(4) as usize].parse().unwrap(),
                destination_rate_delay: delay(random(5) == 0),
                transport_rate_delay: delay(random(7) == 0),
                site_concurrency_limit,
                site_rate_delay,
                site_session_pause,
                site_adaptive,
                slots: (random(2) == 0).then(|| crate::Slots {
                    cost: random(4) as u32,
                    discount: random(101) as u32,
                    loan: random(4) as u32,
                    minimum: random(4) as u32,
                }),
                ..TransportSettings::default()
            },
        );
    }
    settings
}

/// What a job needs is counted as its recipients come and go.
fn check_needs(schedule: &Schedule) {
    for j in schedule.jobs.keys() {
        let peers = schedule.jobs[j].peers.values().map(|p| &schedule.peers[*p]);
        let needs: usize = peers
            .map(|p| {
                let slice = schedule.transports[schedule.destinations[p.destination].transport].settings.slice();
                p.recipients.len().div_ceil(slice)
            })
            .sum();
        assert_eq!(schedule.jobs[j].needs, needs, "deliveries that a job needs");
    }
}

fn check_limits(world: &World, settings: &Settings) {
    let counts = world.schedule.counts();
    assert!(counts.active <= settings.active_limit);
    assert_eq!(counts.deliveries, world.running.len());
    let extra = settings.transports.values().map(|transport| transport.extra_recipient_limit).max().unwrap_or(0);
    let bound = settings.recipient_limit + extra + settings.recipient_minimum * settings.active_limit;
    assert!(counts.recipients <= bound, "{} recipients, more than {bound}", counts.recipients);
    for (name, limits) in &settings.transports {
        let mine: Vec<_> = world.running.iter().filter(|d| &*d.transport == name).collect();
        assert!(limits.process_limit == 0 || mine.len() <= limits.process_limit, "{name}");
        let mut busy: BTreeMap<&str, u32> = BTreeMap::new();
        mine.iter().for_each(|d| *busy.entry(&d.nexthop).or_default() += 1);
        let window = limits.window_limit().unwrap_or(u32::MAX);
        assert!(busy.values().all(|n| *n <= window), "{name}");
        assert!(mine.iter().all(|d| !d.recipients.is_empty() && d.recipients.len() <= limits.slice()), "{name}");
    }
    let limits = &settings.transports["smtp"];
    let mut busy: BTreeMap<String, u32> = BTreeMap::new();
    world.running.iter().for_each(|d| *busy.entry(site_of(&d.nexthop)).or_default() += 1);
    let most = limits.site_concurrency_limit;
    assert!(!world.sites || most == 0 || busy.values().all(|n| *n <= most), "{busy:?} at once, and not {most}");
    for (site, starts) in &world.starts {
        let Some((last, before)) = starts.split_last().map(|(last, rest)| (last, rest.last())) else { continue };
        let waited = before.map_or(Duration::MAX, |before| last.since(*before));
        assert!(waited >= limits.site_rate_delay, "{site}: {waited:?} between two starts");
    }
}

fn random_signal(random: &mut impl FnMut(u64) -> u64) -> crate::Signal {
    use crate::Signal;
    let reply = "421 x".to_owned();
    let wait = [None, Some(seconds(1)), Some(seconds(10))][random(3) as usize];
    match random(20) {
        0 => Signal::Slower { wait, reply },
        1 => Signal::TooManySessions { wait, reply },
        2 => Signal::SessionFull { after: 3, reply },
        3 => Signal::Blocked { sure: random(2) == 0, reply },
        _ => Signal::Success,
    }
}

/// With `changing`, the settings are others after each reload; what runs then may exceed a new limit until it ends.
fn random_world(seed: u64, changing: bool) {
    println!("seed {seed}, settings change: {changing}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let settings = random_settings(&mut random);
    let limits = if changing { None } else { Some(&settings) };
    let mut world = World::new(settings.clone());
    world.sites = random(3) > 0;
    let (mut next, mut removed) = (1, HashSet::new());
    for step in 0..1500 {
        world.pass(Duration::from_millis(random(400)));
        let arriving = step < 1000;
        match random(12) {
            0..=2 if arriving => {
                let most = if random(10) == 0 { 150 } else { 5 };
                let count = 1 + random(most);
                let routes: Vec<String> = (0..count)
                    .map(|_| format!("{}:{}.example", ["smtp", "relay", "local"][random(3) as usize], random(6)))
                    .collect();
                world.arrive(next, ["a@b", "b@b", ""][random(3) as usize], routes);
                next += 1;
            }
            3 if arriving && random(8) == 0 => {
                let victim = id(1 + random(next));
                if world.schedule.remove(victim) {
                    removed.insert(victim);
                }
            }
            4 if random(40) == 0 => world.schedule.flush_all(world.now),
            5 if random(20) == 0 => {
                let new = if changing { random_settings(&mut random) } else { settings.clone() };
                world.schedule.reconfigure(new);
            }
            _ if !world.running.is_empty() => {
                let delivery = world.running[random(world.running.len() as u64) as usize].clone();
                let feedback = match random(if arriving { 10 } else { 100 }) {
                    0 | 1 => Feedback::DestinationFailure { status: REFUSED, reason: "x".into() },
                    2 if random(4) == 0 => Feedback::TransportFailure { status: REFUSED, reason: "y".into() },
                    3 => Feedback::Nothing,
                    _ => Feedback::Answered,
                };
                if world.sites {
                    world.schedule.heard(delivery.id, &random_signal(&mut random), world.now);
                    if random(2) == 0 {
                        world.schedule.session_ended(delivery.id, world.now);
                    }
                }
                world.done(&delivery, feedback.clone());
                if matches!(feedback, Feedback::Answered) {
                    let mail = world.mail.get_mut(&delivery.message).unwrap();
                    mail.settled.extend(delivery.recipients.iter().filter(|_| random(4) > 0));
                }
            }
            _ => {}
        }
        step_world(&mut world, limits, &removed);
    }
    // Time goes on, everything gets an answer: all of it has to end.
    for known in world.schedule.known_sites() {
        world.schedule.forget_site(&known.site, world.now);
    }
    for _ in 0..20_000 {
        while let Some(delivery) = world.running.first().cloned() {
            world.done(&delivery, Feedback::Answered);
            world.mail.get_mut(&delivery.message).unwrap().settled.extend(&delivery.recipients);
        }
        step_world(&mut world, limits, &removed);
        if world.running.is_empty() {
            match world.schedule.next_deadline() {
                Some(at) => world.now = world.now.max(at),
                None => break,
            }
        }
    }
    assert_eq!(world.schedule.counts(), Counts::default(), "seed {seed}");
    for (message, mail) in world.mail {
        let all = mail.settled.len() == mail.routes.len();
        assert!(all || removed.contains(&message), "seed {seed}: {message} is not settled");
    }
    assert!(world.schedule.transports.iter().all(|transport| transport.recipients == 0));
    assert!(world.schedule.timers.is_empty() && world.schedule.peers.len() == 0 && world.schedule.jobs.len() == 0);
}

fn step_world(world: &mut World, limits: Option<&Settings>, removed: &HashSet<QueueId>) {
    // A look at everything, now and then.
    if (world.now.0 / 1000).is_multiple_of(64) {
        check_needs(&world.schedule);
    }
    world.run();
    if let Some(limits) = limits {
        check_limits(world, limits);
    }
    for message in std::mem::take(&mut world.finished) {
        assert!(!removed.contains(&message));
        let mail = &world.mail[&message];
        assert_eq!(mail.resolved.len(), mail.handed, "{message} finished with recipients in progress");
        if mail.settled.len() < mail.routes.len() {
            let due = world.now + Duration::from_millis(500);
            world.schedule.message_deferred(message, due, &[]);
        }
    }
    // What was deferred at once may be due at once as well.
    world.run();
}

/// Ten thousand messages behind a mailing, and none that could overtake it at once: they are looked through now and then, not
/// before each delivery.
#[test]
fn a_long_line_is_not_looked_through_for_each_delivery() {
    // Messages, recipients of the first and of the others; looks for each delivery at most.
    let table = [(10_001, 20_000, 3, 50), (2001, 100, 20, 100), (10_001, 20_000, 1, 2)];
    for (messages, first, others, bound) in table {
        let transport = TransportSettings {
            slots: Some(crate::Slots::default()),
            process_limit: 10,
            destination_recipient_limit: 1,
            ..TransportSettings::default()
        };
        let settings = Settings {
            default_transport: transport,
            active_limit: 20_000,
            activation_limit: 20_000,
            recipient_limit: 1_000_000,
            ..Settings::default()
        };
        let mut schedule = Schedule::new(settings);
        let mut now = Timestamp::from_seconds(1_000_000);
        for n in 0..messages {
            schedule.message_arrived(QueueId::new(n + 1, 1), n);
        }
        let (mut deliveries, mut running) = (0, VecDeque::new());
        loop {
            while let Some(action) = schedule.poll(now) {
                match action {
                    Action::Activate { message, .. } => {
                        let n = message.micros();
                        let recipients = if n == 1 { first } else { others };
                        let routes = (0..recipients).map(|recipient| {
                            let name: Arc<str> = format!("d{}.example", (n + u64::from(recipient) * 7) % 1000).into();
                            Route { recipient, transport: "smtp".into(), nexthop: name.clone(), destination: name }
                        });
                        let routes = routes.collect();
                        schedule.activated(message, "", routes, false, now);
                    }
                    Action::Deliver(delivery) => {
                        deliveries += 1;
                        running.push_back(delivery.id);
                    }
                    _ => {}
                }
            }
            now = now + Duration::from_millis(10);
            let Some(done) = running.pop_front() else { break };
            schedule.delivery_done(done, crate::Feedback::Answered, now);
        }
        assert_eq!(deliveries, u64::from(first + others * (messages as u32 - 1)), "{first} and {others}");
        let each = schedule.looks / deliveries;
        assert!(each <= bound, "{first} and {others}: {each} looks for each of {deliveries} deliveries");
        println!("{messages}: {first} and {others}: {} looks, {deliveries} deliveries", schedule.looks);
    }
}

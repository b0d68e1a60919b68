//! Receiving sites on a clock that is a number: limits that are set are never exceeded, limits that are learned are
//! found, kept, and given up again when the receiver allows more. The last test draws docs/learned-limits.svg.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_schedule::{
    Action, Delivery, Feedback, Route, Schedule, Settings, Signal, SiteLimits, SiteRule, TransportSettings,
    destination_name, sender_hash,
};
use yamabiko_status::EnhancedStatus;

/// A receiver that counts.
#[derive(Clone, Default)]
struct Receiver {
    /// Sessions at once; 0 is any number.
    sessions: u32,
    /// Messages in a time.
    rate: Option<(usize, Duration)>,
    /// Nobody is there.
    dead: bool,
    open: u32,
    taken: VecDeque<Timestamp>,
    most: u32,
    refused_sessions: u32,
    refused_rate: u32,
    /// Refusals by the second.
    refusals: Vec<Timestamp>,
}

enum Answer {
    Taken,
    TooManySessions,
    TooFast,
    Nobody,
}

impl Receiver {
    fn begin(&mut self, now: Timestamp) -> Answer {
        if self.dead {
            return Answer::Nobody;
        }
        self.open += 1;
        self.most = self.most.max(self.open);
        if self.sessions > 0 && self.open > self.sessions {
            self.refused_sessions += 1;
            self.refusals.push(now);
            return Answer::TooManySessions;
        }
        if let Some((number, period)) = self.rate {
            while self.taken.front().is_some_and(|at| now.since(*at) >= period) {
                self.taken.pop_front();
            }
            if self.taken.len() >= number {
                self.refused_rate += 1;
                self.refusals.push(now);
                return Answer::TooFast;
            }
            self.taken.push_back(now);
        }
        Answer::Taken
    }
}

struct World {
    schedule: Schedule,
    now: Timestamp,
    receivers: BTreeMap<&'static str, Receiver>,
    mail: HashMap<QueueId, (String, Timestamp)>,
    running: BTreeMap<(Timestamp, u64), (Delivery, &'static str, Answer)>,
    started: u64,
    next: u64,
    delivered: HashMap<QueueId, Timestamp>,
    /// How long each message waited, by site.
    waits: BTreeMap<&'static str, Vec<Duration>>,
    open: HashMap<QueueId, bool>,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Domains of a site share its name.
fn site_of(nexthop: &str) -> &'static str {
    match nexthop.split('.').nth(1) {
        Some("docomo") => "docomo.ne.jp",
        Some("au") => "au.com",
        Some("dead") => "dead.example",
        _ => "plain.example",
    }
}

impl World {
    fn new(transport: TransportSettings) -> Self {
        let settings = Settings { default_transport: transport, ..Settings::default() };
        Self {
            schedule: Schedule::new(settings),
            now: Timestamp::from_seconds(1_000_000),
            receivers: BTreeMap::new(),
            mail: HashMap::new(),
            running: BTreeMap::new(),
            started: 0,
            next: 0,
            delivered: HashMap::new(),
            waits: BTreeMap::new(),
            open: HashMap::new(),
        }
    }

    fn arrive(&mut self, nexthop: &str) {
        self.next += 1;
        let id = QueueId::new(self.next, 1);
        self.mail.insert(id, (nexthop.to_owned(), self.now));
        self.schedule.message_arrived(id, sender_hash(&format!("s{}@x", self.next % 7)));
    }

    fn work(&mut self) {
        while let Some(action) = self.schedule.poll(self.now) {
            match action {
                Action::Activate { message, first, .. } => {
                    let nexthop = self.mail[&message].0.clone();
                    let destination = destination_name(&nexthop, None).into();
                    let route = Route { recipient: 0, transport: "smtp".into(), nexthop: nexthop.into(), destination };
                    let routes = if first { vec![route] } else { vec![] };
                    self.open.insert(message, true);
                    self.schedule.activated(message, "s@x", routes, false, self.now);
                }
                Action::Deliver(delivery) => self.deliver(delivery),
                Action::Defer(_)
                | Action::Clogged(_)
                | Action::Learned(_)
                | Action::Feedbacks(_)
                | Action::Window(_) => {}
                Action::Finished(message) => {
                    let (_, arrived) = self.mail[&message];
                    if !self.delivered.contains_key(&message) {
                        let due = self.schedule.settings().retry_at(arrived, self.now);
                        self.schedule.message_deferred(message, due, &[]);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let site = site_of(&delivery.nexthop);
        if !self.schedule.enter(delivery.id, site, self.now).go {
            self.schedule.delivery_done(delivery.id, Feedback::Postponed, self.now);
            return;
        }
        let answer = self.receivers.entry(site).or_default().begin(self.now);
        let time = match answer {
            Answer::Taken => Duration::from_millis(900 + 17 * (self.started % 13)),
            Answer::TooManySessions | Answer::TooFast => Duration::from_millis(100),
            Answer::Nobody => seconds(30),
        };
        self.started += 1;
        self.running.insert((self.now + time, self.started), (delivery, site, answer));
    }

    fn end(&mut self, delivery: &Delivery, site: &'static str, answer: Answer) {
        let receiver = self.receivers.entry(site).or_default();
        if !matches!(answer, Answer::Nobody) {
            receiver.open -= 1;
        }
        let signal = match answer {
            Answer::Taken => Signal::Success,
            Answer::TooManySessions => Signal::TooManySessions { wait: None, reply: "421 too many".into() },
            Answer::TooFast => Signal::Slower { wait: None, reply: "451 slow down".into() },
            Answer::Nobody => Signal::Success,
        };
        let failure =
            Feedback::DestinationFailure { status: EnhancedStatus::transient(4, 1), reason: "no answer".into() };
        if matches!(answer, Answer::Nobody) {
            self.schedule.delivery_done(delivery.id, failure, self.now);
            return;
        }
        if matches!(answer, Answer::Taken) {
            self.delivered.insert(delivery.message, self.now);
            let waited = self.now.since(self.mail[&delivery.message].1);
            self.waits.entry(site).or_default().push(waited);
        }
        let blamed = self.schedule.heard(delivery.id, &signal, self.now);
        let feedback = match signal {
            Signal::Success => Feedback::Answered,
            _ if blamed => Feedback::Nothing,
            _ => failure,
        };
        self.schedule.delivery_done(delivery.id, feedback, self.now);
    }

    fn until(&mut self, at: Timestamp) {
        loop {
            self.work();
            let ends = self.running.first_key_value().map(|((end, _), _)| *end);
            let next = [ends, self.schedule.next_deadline()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= at) else { break };
            self.now = self.now.max(next);
            while let Some(first) = self.running.first_entry().filter(|first| first.key().0 <= self.now) {
                let (delivery, site, answer) = first.remove();
                self.end(&delivery, site, answer);
            }
        }
        self.now = self.now.max(at);
    }

    fn pass(&mut self, time: Duration) {
        self.until(self.now + time);
    }
}

fn docomo() -> Receiver {
    Receiver { sessions: 1, ..Receiver::default() }
}

#[test]
fn one_session_for_all_domains_of_a_site() {
    let transport = TransportSettings { site_concurrency_limit: 1, ..TransportSettings::default() };
    let mut world = World::new(transport);
    world.receivers.insert("docomo.ne.jp", docomo());
    (0..500).for_each(|n| world.arrive(&format!("d{}.docomo.example", n % 40)));
    world.pass(seconds(2000));
    let receiver = &world.receivers["docomo.ne.jp"];
    assert_eq!((world.delivered.len(), receiver.most, receiver.refused_sessions), (500, 1, 0));
}

#[test]
fn profiles_hold_for_their_sites_only() {
    let limits = SiteLimits { concurrency: 1, rate_delay: seconds(2), ..SiteLimits::default() };
    let rule = SiteRule { name: "docomo".into(), sites: vec!["docomo.ne.jp".into()], limits };
    let mut world = World::new(TransportSettings { site_rules: [rule].into(), ..TransportSettings::default() });
    world.receivers.insert("docomo.ne.jp", docomo());
    for n in 0..200 {
        world.arrive(&format!("d{}.docomo.example", n % 40));
        world.arrive(&format!("d{}.other.example", n % 40));
    }
    world.pass(seconds(100));
    let taken = |world: &World, site| world.waits.get(site).map_or(0, Vec::len);
    assert_eq!(taken(&world, "plain.example"), 200);
    assert_eq!(taken(&world, "docomo.ne.jp"), 50, "one each two seconds");
    assert!(world.receivers["plain.example"].most > 20);
    world.pass(seconds(400));
    assert_eq!((taken(&world, "docomo.ne.jp"), world.receivers["docomo.ne.jp"].most), (200, 1));
}

#[test]
fn a_session_limit_is_learned_and_not_exceeded_again() {
    let mut world = World::new(TransportSettings { site_adaptive: true, ..TransportSettings::default() });
    world.receivers.insert("docomo.ne.jp", docomo());
    (0..3000).for_each(|n| world.arrive(&format!("d{}.docomo.example", n % 40)));
    world.pass(seconds(5));
    let learnt = world.receivers["docomo.ne.jp"].refused_sessions;
    assert!(learnt > 0 && learnt < 300, "{learnt} refusals taught it");
    let known = world.schedule.known_sites();
    assert_eq!((known[0].site.as_str(), known[0].learned.concurrency), ("docomo.ne.jp", 1));
    // For the rest of the day, whatever comes.
    for minute in 0..23 * 60 {
        if minute % 3 == 0 {
            (0..50).for_each(|n| world.arrive(&format!("d{}.docomo.example", n % 40)));
        }
        world.pass(seconds(60));
    }
    assert_eq!(world.receivers["docomo.ne.jp"].refused_sessions, learnt, "refused again after it was learned");
    assert_eq!(world.delivered.len(), 3000 + 460 * 50);
}

#[test]
fn a_rate_is_learned_and_not_exceeded_again() {
    let mut world = World::new(TransportSettings { site_adaptive: true, ..TransportSettings::default() });
    let limited = Receiver { rate: Some((300, seconds(60))), ..Receiver::default() };
    world.receivers.insert("au.com", limited);
    (0..20_000).for_each(|n| world.arrive(&format!("d{}.au.example", n % 200)));
    world.pass(seconds(600));
    let learnt = world.receivers["au.com"].refused_rate;
    assert!(learnt > 0 && learnt < 400, "{learnt} refusals taught it");
    let before = world.delivered.len();
    for _ in 0..5 * 60 {
        (0..300).for_each(|n| world.arrive(&format!("d{}.au.example", n % 200)));
        world.pass(seconds(60));
    }
    assert_eq!(world.receivers["au.com"].refused_rate, learnt, "refused again after it was learned");
    let rate = (world.delivered.len() - before) / 300;
    assert!((250..=300).contains(&rate), "{rate} a minute of 300 that are allowed");
}

/// Mail that comes one by one and is gone before the next comes counts too when a receiver says that it is too much.
#[test]
fn a_rate_is_learned_from_mail_with_pauses_between() {
    let mut world = World::new(TransportSettings { site_adaptive: true, ..TransportSettings::default() });
    let limited = Receiver { rate: Some((300, seconds(60))), ..Receiver::default() };
    world.receivers.insert("au.com", limited);
    while world.receivers["au.com"].refused_rate == 0 {
        world.arrive(&format!("d{}.au.example", world.next % 200));
        world.pass(Duration::from_millis(150));
    }
    // The pause that it makes first.
    world.pass(seconds(60));
    (0..5000).for_each(|n| world.arrive(&format!("d{}.au.example", n % 200)));
    let before = world.delivered.len();
    world.pass(seconds(600));
    let rate = (world.delivered.len() - before) / 10;
    assert!((200..=300).contains(&rate), "{rate} a minute of 300 that are allowed");
}

#[test]
fn who_is_dead_or_slow_delays_nobody_else() {
    let mut world = World::new(TransportSettings { site_adaptive: true, ..TransportSettings::default() });
    world.receivers.insert("dead.example", Receiver { dead: true, ..Receiver::default() });
    world.receivers.insert("docomo.ne.jp", docomo());
    for n in 0..5000 {
        world.arrive(&format!("d{}.dead.example", n % 10));
        world.arrive(&format!("d{}.docomo.example", n % 50));
    }
    world.pass(seconds(60));
    let mut longest = Duration::ZERO;
    for n in 0..600 {
        world.arrive(&format!("d{}.other.example", n % 50));
        world.pass(seconds(1));
    }
    for waited in &world.waits["plain.example"] {
        longest = longest.max(*waited);
    }
    assert!(world.waits["plain.example"].len() >= 599, "the last may be on its way");
    // A dead host keeps a process for thirty seconds, five of them each; there are a hundred.
    assert!(longest < seconds(3), "{longest:?}");
}

/// Three days with a receiver that changes its mind: what was learned, minute by minute.
fn days() -> (World, Vec<(u64, u32, f64, u32)>) {
    let mut world = World::new(TransportSettings { site_adaptive: true, ..TransportSettings::default() });
    let mut samples = Vec::new();
    for minute in 0..72 * 60_u64 {
        let (sessions, rate) = allowed(minute);
        let receiver = world.receivers.entry("au.com").or_default();
        (receiver.sessions, receiver.rate) = (sessions, Some((rate, seconds(60))));
        (0..25).for_each(|n| world.arrive(&format!("d{n}.au.example")));
        world.pass(seconds(60));
        let known = world.schedule.known_sites();
        let learned = known.first().map(|known| known.learned.clone()).unwrap_or_default();
        let per_minute = if learned.rate_delay.is_zero() { 0.0 } else { 60.0 / learned.rate_delay.as_secs_f64() };
        let refused = world.receivers["au.com"].refusals.len() as u32;
        samples.push((minute, learned.concurrency, per_minute, refused));
    }
    (world, samples)
}

/// Sessions and messages a minute that the receiver of the plot allows.
fn allowed(minute: u64) -> (u32, usize) {
    match minute / 60 {
        0..8 => (8, 60),
        8..20 => (3, 15),
        _ => (8, 60),
    }
}

#[test]
fn the_way_down_and_up() {
    let (world, samples) = days();
    let at = |hour: usize| samples[hour * 60 - 1];
    // The first burst finds the number of sessions; it goes down when the receiver wants less, and up a day later.
    assert_eq!((at(8).1, at(8).2), (8, 0.0));
    assert!(at(19).2 > 5.0 && at(19).2 <= 15.0, "{} a minute", at(19).2);
    assert!(at(72).2 == 0.0 || at(72).2 > 25.0, "{} a minute", at(72).2);
    let refused = at(72).3;
    assert!(refused < 100, "{refused} refusals in three days");
    let text = draw(&samples, refused, world.delivered.len());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/learned-limits.svg");
    if std::env::var_os("WRITE_PLOT").is_some() {
        std::fs::write(&path, &text).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/learned-limits.svg is not what this test draws: WRITE_PLOT=1 writes it");
}

fn draw(samples: &[(u64, u32, f64, u32)], refused: u32, delivered: usize) -> String {
    let (width, height, left, top) = (960.0, 150.0, 60.0, 40.0);
    let x = |minute: u64| left + minute as f64 / (72.0 * 60.0) * width;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1060 460\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"1060\" height=\"460\" fill=\"white\"/>\n",
    );
    // Writing to a String does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"60\" y=\"22\">A receiver that allows less from hour 8 to 20. {delivered} messages delivered, {refused} refusals.</text>"
    );
    let mut panel =
        |at: f64, title: &str, most: f64, learned: &dyn Fn(usize) -> f64, allowed: &dyn Fn(usize) -> f64| {
            let y = |value: f64| at + height - (value.min(most) / most) * height;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{at}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
            );
            let _ = writeln!(svg, "<text x=\"68\" y=\"{}\">{title}</text>", at + 16.0);
            for part in [0.0, 0.5, 1.0] {
                let _ = writeln!(
                    svg,
                    "<text x=\"52\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
                    y(most * part) + 4.0,
                    most * part
                );
            }
            for (colour, value) in [("#bbb", allowed), ("#c33", learned)] {
                let mut line = String::new();
                let mut last = f64::NAN;
                for n in 0..samples.len() {
                    let value = value(n);
                    if value != last || n + 1 == samples.len() {
                        if n > 0 {
                            let _ = write!(line, "{:.1},{:.1} ", x(samples[n].0), y(last));
                        }
                        let _ = write!(line, "{:.1},{:.1} ", x(samples[n].0), y(value));
                        last = value;
                    }
                }
                let _ = writeln!(
                    svg,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                    line.trim()
                );
            }
        };
    let unlimited = |value: f64, most: f64| if value == 0.0 { most } else { value };
    panel(
        top,
        "deliveries at once: learned (red; at the top: no limit) and allowed (grey)",
        10.0,
        &|n| unlimited(f64::from(samples[n].1), 10.0),
        &|n| f64::from(allowed(samples[n].0).0),
    );
    panel(
        top + 180.0,
        "messages a minute: learned (red; at the top: no limit) and allowed (grey)",
        80.0,
        &|n| unlimited(samples[n].2, 80.0),
        &|n| allowed(samples[n].0).1 as f64,
    );
    for hour in (0..=72).step_by(12) {
        let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"390\" text-anchor=\"middle\">{hour} h</text>", x(hour * 60));
    }
    // Refusals as ticks below.
    let mut before = 0;
    for (minute, _, _, refused) in samples {
        if *refused > before {
            let _ = writeln!(svg, "<path d=\"M{:.1} 402v14\" stroke=\"#c33\"/>", x(*minute));
        }
        before = *refused;
    }
    svg.push_str("<text x=\"60\" y=\"436\">Ticks: minutes with refusals</text>\n</svg>\n");
    svg
}

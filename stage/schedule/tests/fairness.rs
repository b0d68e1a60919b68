//! How long ordinary mail waits beside what is large, much or slow: a table of situations. Every second a message with
//! one recipient comes in; the table says how long it may take until its delivery begins.

mod common;

use std::time::Duration;

use common::{World, id};
use yamabiko_envelope::Timestamp;
use yamabiko_schedule::{Delivery, Settings, TransportSettings};

/// Ordinary mail has numbers from here on.
const ORDINARY: u64 = 1_000_000;

struct Situation {
    name: &'static str,
    processes: usize,
    active_limit: usize,
    /// Puts the burden into the schedule.
    burden: fn(&mut World),
    /// How long a delivery takes.
    takes: fn(&Delivery) -> Duration,
    /// Empty: each has a sender of its own.
    sender: &'static str,
    /// Where ordinary mail goes, by its number.
    to: fn(u64) -> String,
    /// The longest and the mean wait, in seconds.
    longest: f64,
    mean: f64,
}

fn one_mailing(world: &mut World, spread: u32) {
    world.arrive(1, "list@big.example", 50_000, move |recipient| format!("d{}.example", recipient % spread));
}

fn a_second(_: &Delivery) -> Duration {
    Duration::from_secs(1)
}

const SITUATIONS: &[Situation] = &[
    Situation {
        name: "one mailing of 50,000 to one destination; ones elsewhere",
        processes: 100,
        active_limit: 20_000,
        burden: |world| one_mailing(world, 1),
        takes: a_second,
        sender: "person@small.example",
        to: |n| format!("other{n}.example"),
        longest: 0.0,
        mean: 0.0,
    },
    Situation {
        name: "one mailing of 50,000 to one destination; ones to the same",
        processes: 100,
        active_limit: 20_000,
        burden: |world| one_mailing(world, 1),
        takes: a_second,
        sender: "person@small.example",
        to: |_| "d0.example".into(),
        longest: 1.0,
        mean: 1.0,
    },
    Situation {
        name: "one mailing of 50,000 to 10,000 destinations; 10 processes",
        processes: 10,
        active_limit: 20_000,
        burden: |world| one_mailing(world, 10_000),
        takes: a_second,
        sender: "person@small.example",
        to: |n| format!("other{n}.example"),
        longest: 1.0,
        mean: 1.0,
    },
    Situation {
        name: "the same; ones of the mailing's own sender",
        processes: 10,
        active_limit: 20_000,
        burden: |world| one_mailing(world, 10_000),
        takes: a_second,
        sender: "list@big.example",
        to: |n| format!("other{n}.example"),
        longest: 1.0,
        mean: 1.0,
    },
    Situation {
        name: "20 mailings of 50,000 from one sender; 10 processes",
        processes: 10,
        active_limit: 20_000,
        burden: |world| {
            for n in 1..=20 {
                world.arrive(n, "list@big.example", 50_000, |recipient| format!("d{}.example", recipient % 5000));
            }
        },
        takes: a_second,
        sender: "person@small.example",
        to: |n| format!("other{n}.example"),
        longest: 1.0,
        mean: 1.0,
    },
    Situation {
        name: "50,000 messages of one sender, more than may be active; 10 processes",
        processes: 10,
        active_limit: 1000,
        burden: |world| {
            for n in 1..=50_000 {
                world.arrive(n, "flood@big.example", 1, move |_| format!("d{}.example", n % 500));
            }
        },
        takes: a_second,
        sender: "person@small.example",
        to: |n| format!("other{n}.example"),
        longest: 2.0,
        mean: 1.5,
    },
    Situation {
        name: "5,000 messages for a destination that takes 100 s each; 10 processes",
        processes: 10,
        active_limit: 20_000,
        burden: |world| {
            for n in 1..=5000 {
                world.arrive(n, "flood@big.example", 1, |_| "slow.example".into());
            }
        },
        takes: |delivery| Duration::from_secs(if &*delivery.nexthop == "slow.example" { 100 } else { 1 }),
        sender: "person@small.example",
        to: |n| format!("other{n}.example"),
        longest: 0.0,
        mean: 0.0,
    },
    Situation {
        name: "100 senders with 1,000 messages each; 10 processes",
        processes: 10,
        active_limit: 20_000,
        burden: |world| {
            for n in 1..=100_000u64 {
                world
                    .arrive(n, &format!("sender{}@big.example", n % 100), 1, move |_| format!("d{}.example", n % 5000));
            }
        },
        takes: a_second,
        sender: "",
        to: |n| format!("other{n}.example"),
        // A round of some hundred senders on 10 processes, once to become active and once to be delivered.
        longest: 25.0,
        mean: 25.0,
    },
];

#[test]
fn ordinary_mail_beside_a_burden() {
    let mut complaints = Vec::new();
    for situation in SITUATIONS {
        let settings = Settings {
            active_limit: situation.active_limit,
            default_transport: TransportSettings { process_limit: situation.processes, ..TransportSettings::default() },
            ..Settings::default()
        };
        let mut world = World::new(settings);
        let takes = situation.takes;
        world.delivery = Box::new(move |delivery| (takes(delivery), true));
        (situation.burden)(&mut world);
        let begin = world.now;
        world.until(begin + Duration::from_secs(10));
        for n in 0..60 {
            let to = situation.to;
            let own = format!("person{n}@small.example");
            let sender = if situation.sender.is_empty() { &own } else { situation.sender };
            world.arrive(ORDINARY + n, sender, 1, move |_| to(n));
            world.until(begin + Duration::from_millis(11_000 + 1000 * n));
        }
        world.until(begin + Duration::from_secs(120));
        let waits: Vec<f64> = (0..60)
            .map(|n| {
                let mail = &world.mail[&id(ORDINARY + n)];
                mail.began.map_or(f64::INFINITY, |at: Timestamp| at.since(mail.arrived).as_secs_f64())
            })
            .collect();
        let longest = waits.iter().copied().fold(0.0, f64::max);
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        println!("| {} | {mean:.2} | {longest:.2} | {} |", situation.name, world.deliveries);
        if longest > situation.longest || mean > situation.mean {
            complaints.push(format!("{}: {mean:.2} s on average, {longest:.2} s at most", situation.name));
        }
        // The burden is worked on meanwhile: no process stands idle.
        assert!(world.deliveries > 60, "{}", situation.name);
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

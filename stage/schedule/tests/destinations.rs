//! A hundred thousand destinations: each is known while it matters, and what is down costs nothing while it waits.

mod common;

use std::time::Duration;

use common::{World, id};
use yamabiko_schedule::{Counts, Place, Settings, TransportSettings};

const MANY: u64 = 100_000;

fn settings() -> Settings {
    Settings {
        active_limit: 200_000,
        recipient_limit: 200_000,
        default_transport: TransportSettings { process_limit: 1000, ..TransportSettings::default() },
        ..Settings::default()
    }
}

#[test]
fn a_hundred_thousand_destinations() {
    let mut world = World::new(settings());
    for n in 0..MANY {
        world.arrive(n, "a@b.example", 1, move |_| format!("d{n}.example"));
    }
    world.work();
    assert_eq!(world.schedule.counts().destinations, MANY as usize);
    while world.step() {
        assert!(world.schedule.counts().deliveries <= 1000);
    }
    assert!(world.mail.values().all(|mail| mail.finished.is_some() && mail.deferred == 0));
    // Nothing is known any more of destinations that answered.
    assert_eq!(world.schedule.counts(), Counts::default());
    // A thousand at a time, a second each.
    assert_eq!(world.now.seconds(), 1_000_000 + MANY / 1000);
}

#[test]
fn what_is_down_costs_nothing_while_it_waits() {
    let mut world = World::new(settings());
    world.delivery = Box::new(|_| (Duration::from_secs(1), false));
    // Five for each: three failures are a cohort, the others are deferred without an attempt.
    for n in 0..MANY {
        world.arrive(n, "a@b.example", 1, move |_| format!("d{}.example", n % (MANY / 5)));
    }
    while world.step() {}
    let dead = world.schedule.counts().dead_destinations;
    assert_eq!(dead, (MANY / 5) as usize);
    assert_eq!(world.schedule.counts().active, 0);
    let tried = world.deliveries;
    for n in 0..MANY {
        assert!(world.mail[&id(n)].finished.is_some());
        world.schedule.message_deferred(id(n), world.now + Duration::from_secs(600 + n / 1000), &[]);
    }
    // Five minutes in which nothing happens, and nothing is asked for.
    let actions = world.actions;
    let deadline = world.schedule.next_deadline();
    assert!(deadline.is_some_and(|at| at.since(world.now) > Duration::from_secs(150)), "{deadline:?}");
    world.until(world.now + Duration::from_secs(599));
    assert_eq!((world.actions, world.deliveries), (actions, tried));
    // By then they may be tried again, and are forgotten.
    assert_eq!(world.schedule.counts().destinations, 0);
    assert_eq!(world.schedule.place(id(7)), Some(Place::Deferred));
}

#[test]
fn more_dead_destinations_than_are_remembered() {
    let mut world = World::new(Settings { recipient_limit: 1000, ..settings() });
    world.delivery = Box::new(|_| (Duration::from_secs(1), false));
    for n in 0..30_000 {
        world.arrive(n, "a@b.example", 1, move |_| format!("d{}.example", n / 3));
    }
    while world.step() {
        assert!(world.schedule.counts().dead_destinations <= 2001);
    }
    assert_eq!(world.schedule.counts().active, 0);
}

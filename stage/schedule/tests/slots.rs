//! Delivery slots: the order in which one process works on messages, with the sequences that Postfix's SCHEDULER_README has as
//! examples among them. One digit is one delivery, by the number of its message.

use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_schedule::{Action, Feedback, Route, Schedule, Settings, Slots, TransportSettings, sender_hash};

/// Postfix's example: nothing is lent.
const STRICT: Slots = Slots { cost: 2, discount: 0, loan: 0, minimum: 3 };

fn settings(slots: Option<Slots>, processes: usize, at_destination: u32) -> Settings {
    let transport = TransportSettings {
        slots,
        process_limit: processes,
        destination_concurrency_limit: at_destination,
        destination_recipient_limit: 1,
        ..TransportSettings::default()
    };
    Settings { default_transport: transport, ..Settings::default() }
}

/// Messages with so many recipients, each at a destination of its own (`spread`) or all at one, worked on one delivery after the
/// other.
fn order(settings: Settings, sizes: &[u32], spread: bool) -> String {
    let mut schedule = Schedule::new(settings);
    let mut now = Timestamp::from_seconds(1_000_000);
    for n in 1..=sizes.len() {
        schedule.message_arrived(QueueId::new(n as u64, 1), sender_hash(&format!("sender{n}")));
    }
    let mut order = String::new();
    let mut running = Vec::new();
    loop {
        while let Some(action) = schedule.poll(now) {
            match action {
                Action::Activate { message, .. } => {
                    let n = message.micros() as usize;
                    let routes = (0..sizes[n - 1]).map(|recipient| {
                        let name = if spread { format!("d{n}-{recipient}.example") } else { "d.example".to_owned() };
                        Route {
                            recipient,
                            transport: "smtp".into(),
                            nexthop: name.as_str().into(),
                            destination: name.into(),
                        }
                    });
                    let routes = routes.collect();
                    schedule.activated(message, &format!("sender{n}"), routes, false, now);
                }
                Action::Deliver(delivery) => {
                    order.push_str(&delivery.message.micros().to_string());
                    running.push(delivery.id);
                }
                Action::Finished(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if running.is_empty() {
            return order;
        }
        now = now + Duration::from_millis(10);
        schedule.delivery_done(running.remove(0), Feedback::Answered, now);
    }
}

#[test]
fn who_overtakes_whom() {
    let slots = |cost, discount, loan, minimum| Some(Slots { cost, discount, loan, minimum });
    let table: &[(Option<Slots>, &[u32], &str, &str)] = &[
        (Some(STRICT), &[10, 2, 2], "11112211113311", "SCHEDULER_README, slots earned first"),
        (slots(2, 50, 0, 3), &[10, 2, 2], "11221111331111", "SCHEDULER_README, half of them lent"),
        (
            Some(Slots::default()),
            &[20, 1, 1, 1, 1, 1],
            "1211111311111411111511116",
            "one for each five deliveries, the first at once, as slots are lent",
        ),
        (slots(0, 50, 3, 3), &[10, 1, 1], "111111111123", "a cost of 0: nothing overtakes"),
        (slots(1, 50, 3, 3), &[10, 1, 1], "111111111123", "nor with 1"),
        (slots(5, 50, 3, 3), &[14, 1], "111111111111112", "14 deliveries never earn 3 slots"),
        (slots(5, 50, 3, 3), &[15, 1], "1211111111111111", "15 do"),
        (slots(5, 50, 3, 0), &[14, 1], "121111111111111", "a minimum of 0"),
        (slots(5, 50, 3, 1000), &[50, 1], "111111111111111111111111111111111111111111111111112", "a large one"),
        (slots(2, 0, 0, 3), &[10, 6, 1], "11311111111222222", "what can never be earned is no candidate"),
        (slots(5, 0, 0, 3), &[20, 1], "111112111111111111111", "without loan and discount"),
        (slots(5, 100, 0, 3), &[20, 3], "12221111111111111111111", "a discount of all"),
        (slots(2, 0, 0, 1), &[16, 4, 2], "1111331111111122221111", "the better one for its size first"),
        (None, &[3, 2, 1], "112312", "in turns (the first is there alone)"),
    ];
    let mut complaints = Vec::new();
    for (slots, sizes, expected, why) in table {
        for (spread, at_destination) in [(true, 0), (false, 0)] {
            let found = order(settings(*slots, 1, at_destination), sizes, spread);
            if found != *expected {
                complaints.push(format!("{slots:?} {sizes:?} {spread}: {found}, not {expected} ({why})"));
            }
        }
        // Not the processes but the destination is what all wait for.
        let found = order(settings(*slots, 10, 1), sizes, false);
        if found != *expected {
            complaints.push(format!("{slots:?} {sizes:?} at one destination: {found}, not {expected} ({why})"));
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

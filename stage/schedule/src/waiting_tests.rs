//! The waiting messages beside a plain model of them.

use super::*;
use std::collections::BTreeMap;

#[test]
fn sixty_bytes_each() {
    let mut waiting = Waiting::new();
    for n in 0..1_000_000u64 {
        waiting.insert_deferred(QueueId::new(n * 7919, 1), Timestamp((n * 31 % 4000) << 20), &[site_hash("a.example")]);
    }
    let each = waiting.memory() / 1_000_000;
    assert_eq!(size_of::<Slot>(), 40);
    assert!(each <= 60, "{each} bytes");
    // Also when somebody asks for all of them now.
    waiting.flush_all(Timestamp(1));
    let each = waiting.memory() / 1_000_000;
    assert!(each <= 60, "{each} bytes");
}

#[derive(Clone, Copy, Debug)]
struct Known {
    due: Timestamp,
    line: Line,
    flushed: bool,
    site: u64,
    /// Order of arrival.
    number: u64,
}

/// New messages of the model, in the order in which they must come out: one of each sender in turn.
#[derive(Default)]
struct Round {
    senders: VecDeque<u64>,
}

/// The same as a plain sorted map, through many random steps, with ticks that pass slowly and in leaps.
#[test]
fn a_model_agrees() {
    for (seed, speed) in [(1u64, 1u64), (2, 1 << 19), (3, 1 << 24), (4, 1 << 30)] {
        let mut waiting = Waiting::new();
        let mut model: BTreeMap<QueueId, Known> = BTreeMap::new();
        let mut round = Round::default();
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..20_000u64 {
            let id = QueueId::new(random(1000), random(2) as u32);
            let now = Timestamp(step * speed);
            match random(10) {
                0..=2 => {
                    let (due, site) = (Timestamp(now.0 + random(5000) * speed), 1 + random(20));
                    let sites: &[u64] = if random(3) == 0 { &[site, 100, 101] } else { &[site] };
                    waiting.insert_deferred(id, due, sites);
                    model.insert(id, Known { due, line: Line::Deferred, flushed: false, site, number: step });
                }
                3 | 4 => {
                    let sender = random(40);
                    waiting.insert_incoming(id, sender);
                    let due = Timestamp(0);
                    model.insert(id, Known { due, line: Line::Incoming, flushed: false, site: sender, number: step });
                    if !round.senders.contains(&sender) {
                        round.senders.push_back(sender);
                    }
                }
                5 => {
                    let taken = waiting.remove(id).map(|t| (t.line, t.flushed));
                    assert_eq!(taken, model.remove(&id).map(|known| (known.line, known.flushed)));
                }
                6 => {
                    let known = model.get_mut(&id);
                    assert_eq!(waiting.flush(id, now), known.is_some());
                    if let Some(known) = known {
                        (known.due, known.flushed) = (known.due.min(now), true);
                    }
                }
                7 if step % 500 == 0 => {
                    waiting.flush_all(now);
                    model.values_mut().for_each(|m| (m.due, m.flushed) = (m.due.min(now), true));
                }
                8 if step % 7 == 0 => {
                    // A backlog that comes and goes leaves no trace.
                    let many = || (0..6 * CHUNK as u64).map(|n| QueueId::new(1_000_000 + n, 2));
                    many().for_each(|id| waiting.insert_deferred(id, Timestamp(now.0 + speed), &[200]));
                    many().for_each(|id| assert!(waiting.remove(id).is_some()));
                    waiting.tidy();
                    assert!(waiting.chunks.len() <= 1 + model.len() / CHUNK, "{}", model.len());
                }
                8 if step % 20 == 0 => {
                    let site = 1 + random(20);
                    let mut count = 0;
                    for m in model.values_mut().filter(|m| m.line == Line::Deferred && m.site == site) {
                        (m.due, m.flushed) = (m.due.min(now), true);
                        count += 1;
                    }
                    assert_eq!(waiting.flush_site(site, now), count);
                }
                7 => {
                    // Senders without anything leave the round when their turn comes.
                    let mut wanted = None;
                    while let Some(sender) = round.senders.pop_front() {
                        let mine = model.iter().filter(|(_, m)| m.line == Line::Incoming && m.site == sender);
                        let mine: Vec<_> = mine.map(|(id, m)| (m.number, *id, m.flushed)).collect();
                        let Some((_, first, flushed)) = mine.iter().min() else { continue };
                        if mine.len() > 1 {
                            round.senders.push_back(sender);
                        }
                        wanted = Some((*first, *flushed));
                        break;
                    }
                    assert_eq!(waiting.pop(Line::Incoming, now).map(|t| (t.id, t.flushed)), wanted, "seed {seed}");
                    if let Some((id, _)) = wanted {
                        model.remove(&id);
                    }
                }
                _ => {
                    let deferred = model.iter().filter(|(_, m)| m.line == Line::Deferred);
                    let first = deferred.map(|(id, m)| (m.due, *id, m.flushed)).min();
                    let promised = waiting.first_due(Line::Deferred);
                    assert!(promised <= first.map(|f| f.0) || first.is_none(), "{promised:?} {first:?}");
                    assert_eq!(promised.is_some(), first.is_some());
                    let wanted = first.filter(|f| f.0 <= now).map(|f| (f.1, f.2));
                    assert_eq!(waiting.pop(Line::Deferred, now).map(|t| (t.id, t.flushed)), wanted, "seed {seed}");
                    if let Some((id, _)) = wanted {
                        model.remove(&id);
                    } else if let Some(promised) = waiting.first_due(Line::Deferred) {
                        assert!(promised > now, "a promise that is over would be polled for ever");
                    }
                }
            }
            assert_eq!(waiting.len(Line::Incoming) + waiting.len(Line::Deferred), model.len());
            if model.is_empty() {
                round.senders.clear();
            }
        }
        assert!(model.len() > 100);
        for (id, known) in &model {
            assert_eq!(waiting.line_of(*id), Some(known.line));
        }
        let ids: Vec<QueueId> = model.keys().copied().collect();
        for id in ids {
            assert!(waiting.remove(id).is_some());
        }
        assert_eq!(waiting.first_due(Line::Deferred), None);
        assert!(waiting.chunks.len() <= 1 && waiting.senders.is_empty() && waiting.clients.is_empty());
    }
}

/// A storm: one client with another sender for each of its messages, while others send one message after the other.
#[test]
fn a_client_with_many_senders_gets_no_more_turns() {
    let mut waiting = Waiting::new();
    let from = |client: &str, sender: &str| Origin::of(None, client.parse().ok(), sender);
    for n in 0..100_000 {
        waiting.insert_incoming(QueueId::new(n, 1), from("192.0.2.9", &format!("victim{n}@d{n}.example")));
    }
    let next = |waiting: &mut Waiting| waiting.pop(Line::Incoming, Timestamp(0)).unwrap().id.micros();
    for round in 0..1000 {
        let mine = 1_000_000 + round * 10;
        // The storm goes on.
        waiting.insert_incoming(QueueId::new(200_000 + round, 1), from("192.0.2.9", &format!("more{round}@e.example")));
        waiting.insert_incoming(QueueId::new(mine, 1), from("", "taro@here.example"));
        waiting.insert_incoming(QueueId::new(mine + 1, 1), from("192.0.2.10", "friend@b.example"));
        waiting.insert_incoming(QueueId::new(mine + 2, 1), Origin::of(Some("taro"), "192.0.2.9".parse().ok(), "t@c"));
        let soon: Vec<u64> = (0..4).map(|_| next(&mut waiting)).collect();
        assert!((mine..mine + 3).all(|id| soon.contains(&id)), "{round}: {soon:?}");
        waiting.tidy();
    }
    // The storm comes in the order of its messages, all of it; and then nothing is left of it.
    let rest: Vec<u64> = (0..100_000)
        .map(|n| {
            if n % 1000 == 0 {
                waiting.tidy();
            }
            next(&mut waiting)
        })
        .collect();
    assert!(rest.is_sorted());
    assert!(waiting.pop(Line::Incoming, Timestamp(0)).is_none());
    assert!(waiting.senders.is_empty() && waiting.clients.is_empty() && waiting.round.is_empty());
}

/// Names of senders can be chosen so that their hashes are whatever one likes.
#[test]
fn no_sender_gets_into_the_line_of_another_client() {
    let (victim, storm) = (Origin { client: 1 << 32 | 7, sender: 5 }, 1 << 32 | 9);
    let known = [1, 0x9e37_79b9_7f4a_7c15, 0x100_0000_01b3_u64];
    for factor in known {
        let sender = victim.sender ^ victim.client.wrapping_mul(factor) ^ u64::wrapping_mul(storm, factor);
        assert_ne!(Origin { client: storm, sender }.line(), victim.line());
    }
}

#[test]
fn who_a_message_is_from() {
    let of = |login: Option<&str>, address: &str| Origin::of(login, address.parse().ok(), "s@x");
    for (a, b, same) in [
        (of(None, "192.0.2.9"), of(None, "192.0.2.9"), true),
        (of(None, "192.0.2.9"), of(None, "::ffff:192.0.2.9"), true),
        (of(None, "192.0.2.9"), of(None, "192.0.2.10"), false),
        (of(None, "0.0.0.0"), of(None, ""), false),
        (of(None, "2001:db8:1:2::3"), of(None, "2001:db8:1:2:ffff::4"), true),
        (of(None, "2001:db8:1:2::3"), of(None, "2001:db8:1:3::3"), false),
        (of(Some("taro"), "192.0.2.9"), of(Some("taro"), "192.0.2.10"), true),
        (of(Some("taro"), "192.0.2.9"), of(Some("jiro"), "192.0.2.9"), false),
        (of(Some("taro"), "192.0.2.9"), of(None, "192.0.2.9"), false),
        (of(None, ""), Origin::from(sender_hash("s@x")), true),
    ] {
        assert_eq!(a == b, same, "{a:?} {b:?}");
        assert_eq!(a.line() == b.line(), same, "{a:?} {b:?}");
    }
}

#[test]
fn senders_take_turns() {
    let mut waiting = Waiting::new();
    for n in 0..1000 {
        waiting.insert_incoming(QueueId::new(n, 1), site_hash("loud@a.example"));
    }
    waiting.insert_incoming(QueueId::new(5000, 1), site_hash("quiet@b.example"));
    waiting.insert_incoming(QueueId::new(5001, 1), site_hash(""));
    let order: Vec<u64> =
        std::iter::from_fn(|| waiting.pop(Line::Incoming, Timestamp(0))).take(6).map(|t| t.id.micros()).collect();
    assert_eq!(order, [0, 5000, 5001, 1, 2, 3]);
}

#[test]
fn sites() {
    assert_eq!(site_hash("Example.JP"), site_hash("example.jp"));
    assert_ne!(site_hash("example.jp"), site_hash("example.com"));
}

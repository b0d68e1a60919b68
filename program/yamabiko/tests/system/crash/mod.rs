//! Killed, reloaded and stopped at random moments under load: what was acknowledged is accounted for, message by message.
//!
//! Sessions and `sendmail` send messages, each with a word of its own, small ones and some of more than a megabyte, to
//! every kind of recipient: files and Maildirs under several user IDs, aliases, a next hop that takes, puts off and
//! refuses. Meanwhile the engine, the supervisor, workers or all of them are killed, or the whole is reloaded, stopped
//! and started. At the end of a chapter (some rounds) everything comes to rest, and each message is looked for:
//!
//! * acknowledged: it arrived whole at every recipient, or came back as a notice, or is still in the queue;
//! * refused: it is nowhere; unanswered: it is everywhere where it should be, or nowhere;
//! * twice: only when a kill came between the delivery and its record, see [`account`]; never without a kill.
//!
//! A loss names the message, its queue IDs and all lines of the log about them, and keeps the directory.
//!
//! `cargo xtask crash` makes the runs long; `CRASH_ROUNDS`, `CRASH_SEED`, `CRASH_MINUTES` are its words for us.

pub mod account;
mod arrivals;
mod hop;
mod message;
pub mod random;
pub mod world;

use std::collections::HashSet;
use std::io::Write;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use account::{Act, Verdict, gather, history, judge};
use random::Random;
use world::{Load, World};

use crate::harness::{Client, PATIENCE};

/// Rounds of a chapter.
const CHAPTER: usize = 20;
/// What is printed of faults.
const FAULTS: usize = 10;

/// How long and from where.
pub struct Run {
    rounds: usize,
    seed: u64,
    end: Option<Instant>,
}

impl Run {
    pub fn new(rounds: usize) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let minutes = number("CRASH_MINUTES").map(|minutes| Duration::from_secs(minutes * 60));
        Self {
            rounds: number("CRASH_ROUNDS").map_or(rounds, |rounds| usize::try_from(rounds).unwrap_or(rounds_max())),
            seed: number("CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1),
            end: minutes.map(|minutes| Instant::now() + minutes),
        }
    }
}

fn rounds_max() -> usize {
    usize::MAX
}

/// Sums over chapters.
#[derive(Default)]
struct Sum {
    rounds: usize,
    acknowledged: usize,
    refused: usize,
    unanswered: usize,
    arrived: usize,
    queued: usize,
    torn: usize,
    twice: usize,
    longest: (Duration, Duration),
    dismissed: usize,
}

/// What is done to the mail system in a round.
pub type Deed = fn(&World, &mut Random) -> Act;

/// What clients may see besides what they want: `421`, or the end of a connection too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Whatever it is.
    Any,
    /// These replies and exit codes; no connection ends without a word.
    Only(&'static [&'static str]),
}

impl Manners {
    fn breaches(self, seen: Vec<String>) -> Vec<String> {
        match self {
            Self::Any => Vec::new(),
            Self::Only(allowed) => {
                let allows = |seen: &String| allowed.iter().any(|allowed| seen.contains(allowed));
                seen.into_iter().filter(|seen| !allows(seen)).collect()
            }
        }
    }
}

/// Chapter after chapter.
pub fn run(name: &str, run: &Run, world: World, deed: Deed, manners: Manners) {
    println!("{name}: seed {}", run.seed);
    let mut cut_off = false;
    let mut random = Random::new(run.seed, 0);
    let mut sum = Sum::default();
    let mut chapter = 0;
    while sum.rounds < run.rounds && run.end.is_none_or(|end| Instant::now() < end) {
        chapter += 1;
        let rounds = CHAPTER.min(run.rounds - sum.rounds);
        let load = Load::default();
        let mut acts = Vec::new();
        std::thread::scope(|scope| {
            load.run(scope, &world, run.seed, chapter);
            for _ in 0..rounds {
                std::thread::sleep(Duration::from_millis(50 + random.below(650)));
                let act = deed(&world, &mut random);
                mark(&world, &act.what);
                cut_off |= act.kills;
                acts.push(act);
                if random.below(5) != 0 {
                    until_up(&world);
                }
            }
            until_up(&world);
            load.over.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let sent = load.sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        let queued = rest(&world);
        let verdict = judge(&sent, gather(&world), &queued, &acts);
        report(name, sum.rounds, &acts, &sent, &verdict);
        let rude = load.rude.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rude = manners.breaches(rude);
        if !verdict.faults.is_empty() || !rude.is_empty() {
            fail(&world, name, run.seed, chapter, &verdict, &rude);
        }
        sum.rounds += rounds;
        sum.acknowledged += verdict.acknowledged;
        sum.refused += verdict.refused;
        sum.unanswered += verdict.unanswered;
        sum.arrived += verdict.arrived;
        sum.queued += verdict.queued;
        sum.torn += verdict.torn;
        sum.twice += verdict.twice();
        sum.longest = (sum.longest.0.max(verdict.longest.0), sum.longest.1.max(verdict.longest.1));
        sum.dismissed += load.dismissed.into_inner();
        clear(&world);
    }
    println!(
        "{name}: seed {}: {} rounds: {} acknowledged, {} refused, {} unanswered, {} sessions dismissed with 421; {} copies \
         arrived, {} recipients still queued, 0 lost, {} copies made again (at most {} ms before the kill, or by a worker {} ms after it), {} torn mails in \
         mbox files",
        run.seed,
        sum.rounds,
        sum.acknowledged,
        sum.refused,
        sum.unanswered,
        sum.dismissed,
        sum.arrived,
        sum.queued,
        sum.twice,
        sum.longest.0.as_millis(),
        sum.longest.1.as_millis(),
        sum.torn
    );
    assert!(sum.acknowledged > 5 * sum.rounds, "hardly anything was acknowledged");
    assert!(cut_off || sum.twice == 0, "delivered twice without a kill");
    world.instance.stop();
}

/// A line in the mail log, so that a history shows what was done when.
fn mark(world: &World, what: &str) {
    if let Ok(mut log) = std::fs::File::options().append(true).open(world.instance.log_file()) {
        let _ = log.write_all(format!("-- crash[0]: {what}\n").as_bytes());
    }
}

/// Somebody greets.
pub fn until_up(world: &World) {
    let greets = || Client::connect(world.instance.smtp).is_ok_and(|client| client.greeting.code == 220);
    world.instance.until("a greeting", greets);
}

/// Nothing is left to do but what is put off for ever: the recipients of that.
fn rest(world: &World) -> HashSet<String> {
    let instance = &world.instance;
    let end = Instant::now() + PATIENCE * 4;
    loop {
        let listed = instance.run("postqueue", &["-j"]);
        if listed.code == 0 {
            let queue = instance.queue();
            let all: Vec<&String> = queue.iter().flat_map(|entry| &entry.recipients).collect();
            let active = queue.iter().any(|entry| entry.queue != "deferred");
            if !active && all.iter().all(|recipient| recipient.starts_with("never-")) {
                // A listing may pass over what changes its place meanwhile, and these are tried all the time.
                let again = (0..3).flat_map(|_| instance.queue()).flat_map(|entry| entry.recipients);
                return all.into_iter().cloned().chain(again).collect();
            }
            assert!(
                Instant::now() < end,
                "the queue does not come to rest: {queue:#?}\n{}",
                instance.log().lines().rev().take(200).collect::<Vec<_>>().join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn report(name: &str, before: usize, acts: &[Act], sent: &[world::Sent], verdict: &Verdict) {
    let mut since = SystemTime::UNIX_EPOCH;
    for (number, act) in acts.iter().enumerate() {
        let within = |sent: &&world::Sent| {
            sent.said == world::Said::Acknowledged && sent.between.1 > since && sent.between.1 <= act.ended
        };
        let acknowledged = sent.iter().filter(within).count();
        let again = verdict.again.get(&number).copied().unwrap_or(0);
        println!(
            "{name}: round {}: {acknowledged} acknowledged, then {}; {again} copies made again",
            before + number + 1,
            act.what
        );
        since = act.ended;
    }
    println!(
        "{name}: rounds {} to {}: {} acknowledged, {} refused, {} unanswered; {} copies arrived, {} recipients queued, {} \
         torn, {} made again, {} faults",
        before + 1,
        before + acts.len(),
        verdict.acknowledged,
        verdict.refused,
        verdict.unanswered,
        verdict.arrived,
        verdict.queued,
        verdict.torn,
        verdict.twice(),
        verdict.faults.len()
    );
}

fn fail(world: &World, name: &str, seed: u64, chapter: u64, verdict: &Verdict, rude: &[String]) -> ! {
    let log = world.instance.log();
    for (word, fault) in verdict.faults.iter().take(FAULTS) {
        eprintln!("{name}: {word}: {fault}\n{}", history(&log, word));
    }
    for rude in rude.iter().take(FAULTS) {
        eprintln!("{name}: a client saw: {rude}");
    }
    let kept = world.instance.keep();
    panic!(
        "{name}: seed {seed}, chapter {chapter}: {} faults, {} rude answers; everything is kept in {}",
        verdict.faults.len(),
        rude.len(),
        kept.display()
    );
}

/// What is put off for ever has been counted: the next chapter begins with an empty queue.
fn clear(world: &World) {
    world.instance.ok("postsuper", &["-d", "ALL"]);
    world.instance.until_empty();
    let log = world.instance.log_file();
    std::fs::File::options().write(true).truncate(true).open(log).expect("the log can be emptied");
}

/// Kills something.
fn kill(world: &World, random: &mut Random) -> Act {
    let instance = &world.instance;
    let began = SystemTime::now();
    let what = match random.below(20) {
        0..=6 => {
            instance.kill_engine();
            "the engine was killed".to_owned()
        }
        7..=8 => {
            // Once more while it comes up.
            instance.kill_engine();
            std::thread::sleep(Duration::from_millis(1000 + random.below(300)));
            let again = instance.kill_engine().is_some();
            format!("the engine was killed{}", if again { ", and again as it came up" } else { "" })
        }
        9..=12 => {
            let workers = instance.workers();
            let some = if random.below(2) == 0 { workers.len() } else { workers.len().min(1) };
            workers.iter().take(some).for_each(|pid| crate::harness::slay(*pid));
            format!("{some} workers were killed")
        }
        13..=14 => {
            if let Some(pid) = instance.supervisor() {
                crate::harness::slay(pid);
            }
            instance.until("the end of the supervisor", || instance.supervisor().is_none());
            let tries = start_again(world);
            format!("the supervisor was killed, started after {tries} tries")
        }
        15 => {
            let said = instance.postfix("abort");
            let tries = start_again(world);
            format!("it was aborted (exit code {}), started after {tries} tries", said.code)
        }
        _ => {
            instance.kill_all();
            let tries = start_again(world);
            format!("everything was killed, started after {tries} tries")
        }
    };
    Act { what, began, ended: SystemTime::now(), kills: true }
}

/// `postfix start` until it is there; how often it was tried.
fn start_again(world: &World) -> usize {
    let end = Instant::now() + PATIENCE;
    let mut tries = 1;
    loop {
        let said = world.instance.postfix("start");
        if said.code == 0 {
            return tries;
        }
        assert!(Instant::now() < end, "does not start any more: {said:?}\n{}", world.instance.log());
        tries += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    run("kills", &Run::new(8), World::new(), kill, Manners::Any);
}

/// Reloads, or stops and starts.
fn disturb(world: &World, random: &mut Random) -> Act {
    let instance = &world.instance;
    let began = SystemTime::now();
    let what = match random.below(10) {
        0..=2 => {
            instance.reload();
            "a reload".to_owned()
        }
        3..=5 => {
            let number = 2 + random.below(5);
            for _ in 0..number {
                let said = instance.postfix("reload");
                assert_eq!(said.code, 0, "reload: {said:?}");
                std::thread::sleep(Duration::from_millis(random.below(30)));
            }
            format!("{number} reloads at once")
        }
        6 => {
            let said = instance.postfix("reload");
            assert_eq!(said.code, 0, "reload: {said:?}");
            instance.stop();
            instance.start();
            "a reload, a stop and a start".to_owned()
        }
        _ => {
            let at = Instant::now();
            instance.stop();
            let took = at.elapsed();
            std::thread::sleep(Duration::from_millis(random.below(200)));
            instance.start();
            format!("a stop ({} ms) and a start", took.as_millis())
        }
    };
    Act { what, began, ended: SystemTime::now(), kills: false }
}

#[test]
fn reloads_and_stops_hurt_nobody() {
    run("storms", &Run::new(8), World::new(), disturb, Manners::Only(&[]));
}

/// Parts of the engine that a test may make panic (`engine/src/trip.rs`), and whether the engine survives it.
const PLACES: [(&str, bool); 5] =
    [("session", true), ("cleanup", true), ("delivery", true), ("report", true), ("manager", false)];

fn panic_somewhere(world: &World, random: &mut Random) -> Act {
    let instance = &world.instance;
    // Below any number of places the remainder fits.
    let (place, survived) = PLACES[random.below(PLACES.len() as u64) as usize];
    let (began, engine) = (SystemTime::now(), instance.engine());
    let file = instance.path().join("queue/trip").join(place);
    std::fs::write(&file, "").unwrap();
    instance.until(&format!("a panic in the {place}"), || !file.exists());
    if !survived {
        instance.until("another engine", || instance.engine().is_some_and(|pid| Some(pid) != engine));
    } else {
        assert_eq!(instance.engine(), engine, "the engine goes on after a panic in the {place}");
    }
    let told = format!("a test wanted a panic in the {place}");
    instance.until("a line in the log", || instance.log().contains(&told));
    Act { what: format!("a panic in the {place}"), began, ended: SystemTime::now(), kills: true }
}

/// A bug in one session, message or delivery is the trouble of that one; one in the manager starts the engine anew.
#[test]
fn panics_cost_nobody_their_mail() {
    let world = World::prepared(|instance| {
        // Where the engine may write.
        let trip = instance.path().join("queue/trip");
        std::fs::create_dir_all(&trip).unwrap();
        std::fs::set_permissions(&trip, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        instance.set("import_environment", &format!("TZ YAMABIKO_TRIP={}", trip.display()));
    });
    run("panics", &Run::new(6), world, panic_somewhere, Manners::Any);
}

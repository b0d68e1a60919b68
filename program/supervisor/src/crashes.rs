//! Processes of ours that ended as none should: what is known of them, and when that is told.
//!
//! The supervisor outlives them, so the count is kept here; the engine, once it runs, makes the notice (`notify_classes =
//! software`). Each kind of them is told of at once, then counted and told at growing intervals until it is quiet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use yamabiko_ipc::boss::{Crash, Crashes};

/// The first pause after something was told.
const PAUSE: Duration = Duration::from_secs(600);
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);
/// Bytes at the end of the log that are looked through.
const TAIL: u64 = 64 << 10;
/// Lines of a process that are told, and characters of each.
const LINES: usize = 10;
const LINE: usize = 300;
/// What a Rust program ends with after a panic.
const PANICKED: i32 = 101;

/// Different kinds of trouble that are known at once; what comes beyond is one kind more.
const KINDS: usize = 8;
/// The name of what has no place among the kinds.
const OTHERS: &str = "others";
/// Bytes of log lines in what is told at once: the message to the engine has an end.
const LOG_ROOM: usize = 16 << 10;

/// When trouble that may come again and again is told: the first at once, what follows after 10 minutes, then after twice
/// that, up to a day, until it was quiet for as long.
#[derive(Clone, Copy, Debug)]
struct Storm {
    /// Nothing is told before that.
    until: Instant,
    /// How long the pause was.
    pause: Duration,
}

impl Storm {
    /// It was told.
    fn told(before: Option<Self>, now: Instant) -> Self {
        let pause = match before {
            Some(Self { until, pause }) if now < until + pause => (pause * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        Self { until: now + pause, pause }
    }

    /// It has been quiet for so long that the next is the first of another one.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until + self.pause
    }
}

/// What has not been told yet, by kind: whatever is new is told at once, what comes again is counted.
#[derive(Debug, Default)]
pub struct Untold {
    kinds: BTreeMap<String, Crashes>,
    storms: BTreeMap<String, Storm>,
    /// Somebody has been asked to tell: of which kinds, and how many of each.
    asked: Option<Vec<(String, u32)>>,
}

impl Untold {
    /// One more, and so many like it of which nothing else is known. `kind` is the same for what has the same cause: which
    /// program, how it ended, at which place.
    pub fn add(&mut self, kind: &str, crash: Crash, unseen: u32, now: Instant) {
        self.storms.retain(|kind, storm| !storm.is_over(now) || self.kinds.contains_key(kind));
        let known = self.storms.contains_key(kind) || self.kinds.contains_key(kind);
        let many = self.storms.keys().chain(self.kinds.keys()).collect::<BTreeSet<_>>().len();
        let kind = if known || many < KINDS { kind } else { OTHERS };
        let crashes = self.kinds.entry(kind.to_owned()).or_default();
        crashes.count = crashes.count.saturating_add(1).saturating_add(unseen);
        if crashes.samples.len() < Crashes::SAMPLES {
            crashes.samples.push(crash);
        }
    }

    /// Whoever was asked is gone; another one will be.
    pub fn ask_again(&mut self) {
        self.asked = None;
    }

    /// When there is something to be told, if somebody is there to do it.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let due = |kind: &String| self.storms.get(kind).map_or(now, |storm| storm.until);
        self.kinds.keys().map(due).min().filter(|_| self.asked.is_none())
    }

    /// What is to be told now; before the end of the mail system (`last`) without regard to pauses.
    pub fn take(&mut self, now: Instant, last: bool) -> Option<Crashes> {
        if self.asked.is_some() {
            return None;
        }
        let due = |kind: &str| last || self.storms.get(kind).is_none_or(|storm| now >= storm.until);
        let due: Vec<_> = self.kinds.iter().filter(|(kind, _)| due(kind)).collect();
        // Each kind is described; one alone a little more.
        let samples = if due.len() > 1 { 1 } else { Crashes::SAMPLES };
        let mut all = Crashes::default();
        for (_, crashes) in &due {
            all.count = all.count.saturating_add(crashes.count);
            all.samples.extend(crashes.samples.iter().take(samples).cloned());
        }
        all.samples.sort_by_key(|crash| crash.at);
        let mut room = LOG_ROOM;
        for crash in &mut all.samples {
            match room.checked_sub(crash.log.iter().map(String::len).sum()) {
                Some(left) => room = left,
                None => crash.log.clear(),
            }
        }
        let asked: Vec<_> = due.into_iter().map(|(kind, crashes)| (kind.clone(), crashes.count)).collect();
        self.asked = Some(asked).filter(|asked| !asked.is_empty());
        self.asked.is_some().then_some(all)
    }

    /// What was taken last was told.
    pub fn told(&mut self, now: Instant) {
        for (kind, count) in self.asked.take().unwrap_or_default() {
            if let Some(crashes) = self.kinds.get_mut(&kind) {
                // Those that came meanwhile are counted with the next.
                crashes.count = crashes.count.saturating_sub(count);
                crashes.samples.clear();
            }
            self.kinds.retain(|_, crashes| crashes.count > 0);
            let storm = Storm::told(self.storms.get(&kind).copied(), now);
            self.storms.insert(kind, storm);
        }
    }
}

/// Where a panic was, by its own words; empty where they do not say.
pub fn place_of(words: &str) -> &str {
    let place = words.split_once("panicked at ").map_or("", |(_, rest)| rest);
    place.split_whitespace().next().unwrap_or_default().trim_end_matches(':')
}

/// How a process ended, where none should end so: by a signal that nobody stops programs with, or by a panic.
pub fn is_crash(status: WaitStatus) -> Option<String> {
    match status {
        WaitStatus::Signaled(_, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP, _) => None,
        WaitStatus::Signaled(_, signal, _) => Some(format!("was killed by signal {} ({signal})", signal as i32)),
        WaitStatus::Exited(_, PANICKED) => Some("ended by a panic".to_owned()),
        _ => None,
    }
}

/// The last lines of a process in a log file. Nothing where it cannot be read: they are an extra.
pub fn last_lines(log: &Path, pid: u32) -> Vec<String> {
    // Not through a link: whoever can write beside the log must not be told by root what is elsewhere.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(log);
    let Ok(mut file) = opened else { return Vec::new() };
    let Some(len) = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len()) else {
        return Vec::new();
    };
    let mut tail = Vec::new();
    if file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).is_err() || file.take(TAIL).read_to_end(&mut tail).is_err()
    {
        return Vec::new();
    }
    lines_of(&tail, pid)
}

fn lines_of(log: &[u8], pid: u32) -> Vec<String> {
    let mark = format!("[{pid}]: ");
    let mut kept = VecDeque::new();
    for line in log.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if !line.contains(&mark) {
            continue;
        }
        if kept.len() == LINES {
            kept.pop_front();
        }
        kept.push_back(line.chars().map(|c| if c.is_control() { '?' } else { c }).take(LINE).collect());
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(what: &str) -> Crash {
        Crash { what: what.to_owned(), ..Crash::default() }
    }

    #[test]
    fn a_storm_is_told_at_growing_intervals() {
        let start = Instant::now();
        let mut untold = Untold::default();
        let mut told = Vec::new();
        // One crash a second, for three days.
        for second in 0..3 * 86_400_u64 {
            let now = start + Duration::from_secs(second);
            untold.add("x", crash("x"), 0, now);
            if let Some(crashes) = untold.take(now, false) {
                assert!(crashes.samples.len() <= Crashes::SAMPLES);
                untold.told(now);
                told.push((second, crashes.count));
            }
        }
        let minutes: Vec<u64> = told.iter().map(|(second, _)| second / 60).collect();
        assert_eq!(minutes[..6], [0, 10, 30, 70, 150, 310], "{told:?}");
        assert!(told.len() <= 12, "{told:?}");
        assert_eq!(told[1].1, 600);
        // Quiet for long: the next is told at once, and so is the pause the first one.
        let later = start + Duration::from_secs(30 * 86_400);
        assert!(untold.take(later, false).is_some());
        untold.told(later);
        untold.add("x", crash("y"), 0, later);
        assert!(untold.take(later + Duration::from_secs(599), false).is_none());
        assert!(untold.take(later + Duration::from_secs(600), false).is_some());
    }

    /// Trouble of another kind is told in the midst of a storm, and does not begin that one anew.
    #[test]
    fn what_is_new_is_told_at_once() {
        let start = Instant::now();
        let mut untold = Untold::default();
        let mut told = Vec::new();
        for moment in 0..120_000_u64 {
            // A hundred a second, for 20 minutes.
            let now = start + Duration::from_millis(10 * moment);
            untold.add("the same", crash("the same"), 0, now);
            if moment % 1000 == 500 {
                untold.add("another", crash("another"), 0, now);
            }
            if moment == 777 {
                untold.add("a third", crash("a third"), 0, now);
            }
            if let Some(crashes) = untold.take(now, false) {
                untold.told(now);
                told.push((moment / 100, crashes.count, crashes.samples[0].what.clone()));
            }
        }
        let words = |what: &str| what.to_owned();
        assert_eq!(
            told,
            [
                (0, 1, words("the same")),
                (5, 1, words("another")),
                (7, 1, words("a third")),
                (600, 60_000, words("the same")),
                (605, 60, words("another")),
            ]
        );
    }

    /// However many kinds there are: bounded, none forgotten, and all of it fits into a message to the engine.
    #[test]
    fn kinds_without_end_are_bounded() {
        let now = Instant::now();
        let mut untold = Untold::default();
        let log = vec!["\u{3042}".repeat(LINE); LINES];
        let mut told = (0, 0);
        for number in 0..1000 {
            let last_words = "x".repeat(500);
            let crash = Crash { at: 1, what: format!("{number}"), last_words, log: log.clone() };
            untold.add(&format!("{number}"), crash, 0, now);
            if number % 7 == 6
                && let Some(crashes) = untold.take(now, false)
            {
                assert!(serde_json::to_vec(&crashes).unwrap().len() < 48 << 10);
                untold.told(now);
                told = (told.0 + 1, told.1 + crashes.count);
            }
        }
        assert!(untold.kinds.len() <= KINDS + 1 && untold.storms.len() <= KINDS + 1);
        assert!(told.0 <= 3, "{told:?}");
        assert_eq!(untold.take(now, true).map(|crashes| crashes.count), Some(1000 - told.1));
        untold.told(now);
        // When all is quiet, what is new has a place again.
        let later = now + Duration::from_secs(86_400);
        untold.add("new", crash("new"), 0, later);
        assert_eq!(untold.storms.len() + untold.kinds.len(), 1);
    }

    #[test]
    fn what_was_not_told_is_told_by_the_next_engine() {
        let now = Instant::now();
        let mut untold = Untold::default();
        assert_eq!((untold.next(now), untold.take(now, true)), (None, None));
        untold.add("x", crash("a"), 0, now);
        assert_eq!(untold.next(now), Some(now));
        assert_eq!(untold.take(now, false).map(|crashes| crashes.count), Some(1));
        // It is under way.
        assert_eq!((untold.next(now), untold.take(now, false)), (None, None));
        untold.add("x", crash("b"), 0, now);
        untold.ask_again();
        let crashes = untold.take(now, false).unwrap();
        assert_eq!((crashes.count, crashes.samples.len()), (2, 2));
        untold.told(now);
        assert_eq!(untold.next(now), None);
        // Before the end nothing is kept back.
        untold.add("x", crash("c"), 0, now);
        assert!(untold.take(now, false).is_none());
        assert!(untold.take(now, true).is_some());
    }

    #[test]
    fn places() {
        for (words, place) in [
            ("thread qmgr: panicked at program/engine/src/trip.rs:20:9: a test", "program/engine/src/trip.rs:20:9"),
            ("thread a b: panicked at src/x.rs:1:2:", "src/x.rs:1:2"),
            ("killed", ""),
            ("", ""),
        ] {
            assert_eq!(place_of(words), place);
        }
    }

    #[test]
    fn ways_to_end() {
        let pid = nix::unistd::Pid::from_raw(7);
        for (status, expected) in [
            (WaitStatus::Signaled(pid, Signal::SIGSEGV, true), Some("was killed by signal 11 (SIGSEGV)")),
            (WaitStatus::Signaled(pid, Signal::SIGABRT, false), Some("was killed by signal 6 (SIGABRT)")),
            (WaitStatus::Signaled(pid, Signal::SIGKILL, false), Some("was killed by signal 9 (SIGKILL)")),
            (WaitStatus::Signaled(pid, Signal::SIGTERM, false), None),
            (WaitStatus::Exited(pid, 101), Some("ended by a panic")),
            (WaitStatus::Exited(pid, 0), None),
            (WaitStatus::Exited(pid, 1), None),
            (WaitStatus::Exited(pid, 75), None),
        ] {
            assert_eq!(is_crash(status).as_deref(), expected, "{status:?}");
        }
    }

    #[test]
    fn its_own_lines_only() {
        let mut log = b"cut off [12]: here\nmx postfix/smtp[123]: not mine\n".to_vec();
        for number in 0..20 {
            log.extend_from_slice(format!("mx postfix/qmgr[12]: line {number}\n").as_bytes());
        }
        log.extend_from_slice(b"mx postfix/qmgr[12]: bad \xff\x07\n");
        let lines = lines_of(&log, 12);
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "mx postfix/qmgr[12]: line 11");
        assert_eq!(lines[LINES - 1], "mx postfix/qmgr[12]: bad \u{fffd}?");
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("log"), dir.path().join("link"));
        std::fs::write(&real, &log).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(last_lines(&real, 12), lines);
        assert!(last_lines(&link, 12).is_empty());
        assert!(last_lines(dir.path(), 12).is_empty());
    }
}

//! Processes of ours that ended as none should: what is known of them, and when that is told.
//!
//! The supervisor outlives them, so the count is kept here; the engine, once it runs, makes the notice (`notify_classes =
//! software`). A [`Storm`] is told of at once, then at growing intervals until it is quiet.

use std::collections::VecDeque;
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

/// When trouble that may come again and again is told: the first at once, what follows after 10 minutes, then after twice
/// that, up to a day, until it was quiet for as long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Storm {
    /// Nothing is told before that, and how long the pause was.
    quiet: Option<(Instant, Duration)>,
}

impl Storm {
    /// From when on something may be told; `None`: at once.
    pub fn not_before(&self) -> Option<Instant> {
        self.quiet.map(|(until, _)| until)
    }

    /// It may be told now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.not_before().is_none_or(|until| now >= until)
    }

    /// It was told.
    pub fn told(&mut self, now: Instant) {
        let pause = match self.quiet {
            Some((until, pause)) if now < until + pause => (pause * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        self.quiet = Some((now + pause, pause));
    }
}

/// What has not been told yet.
#[derive(Debug, Default)]
pub struct Untold {
    crashes: Crashes,
    storm: Storm,
    /// An engine has been asked to tell.
    asked: bool,
}

impl Untold {
    /// One more.
    pub fn add(&mut self, crash: Crash) {
        self.crashes.count = self.crashes.count.saturating_add(1);
        if self.crashes.samples.len() < Crashes::SAMPLES {
            self.crashes.samples.push(crash);
        }
    }

    /// The engine that was asked is gone; another one will be.
    pub fn ask_again(&mut self) {
        self.asked = false;
    }

    /// When there is something to be told, if an engine is there to do it.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let some = self.crashes.count > 0 && !self.asked;
        some.then(|| self.storm.not_before().unwrap_or(now))
    }

    /// What is to be told now; before the end of the mail system (`last`) without regard to pauses.
    pub fn take(&mut self, now: Instant, last: bool) -> Option<Crashes> {
        if self.crashes.count == 0 || self.asked || !(last || self.storm.is_due(now)) {
            return None;
        }
        self.asked = true;
        Some(self.crashes.clone())
    }

    /// So many were told.
    pub fn told(&mut self, count: u32, now: Instant) {
        self.asked = false;
        self.crashes.count = self.crashes.count.saturating_sub(count);
        // Those that came meanwhile are counted with the next.
        self.crashes.samples.clear();
        self.storm.told(now);
    }
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
            untold.add(crash("x"));
            if let Some(crashes) = untold.take(now, false) {
                assert!(crashes.samples.len() <= Crashes::SAMPLES);
                untold.told(crashes.count, now);
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
        untold.told(u32::MAX, later);
        untold.add(crash("y"));
        assert!(untold.take(later + Duration::from_secs(599), false).is_none());
        assert!(untold.take(later + Duration::from_secs(600), false).is_some());
    }

    #[test]
    fn what_was_not_told_is_told_by_the_next_engine() {
        let now = Instant::now();
        let mut untold = Untold::default();
        assert_eq!((untold.next(now), untold.take(now, true)), (None, None));
        untold.add(crash("a"));
        assert_eq!(untold.next(now), Some(now));
        assert_eq!(untold.take(now, false).map(|crashes| crashes.count), Some(1));
        // It is under way.
        assert_eq!((untold.next(now), untold.take(now, false)), (None, None));
        untold.add(crash("b"));
        untold.ask_again();
        let crashes = untold.take(now, false).unwrap();
        assert_eq!((crashes.count, crashes.samples.len()), (2, 2));
        untold.told(2, now);
        assert_eq!(untold.next(now), None);
        // Before the end nothing is kept back.
        untold.add(crash("c"));
        assert!(untold.take(now, false).is_none());
        assert!(untold.take(now, true).is_some());
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

//! Limits that a site teaches by its replies.
//!
//! What a reply means is somebody else's judgement; it comes here as a [`Signal`]. *Slower* lengthens the time between
//! starts and halves what runs at once; *too many sessions* leaves as many as were open beside the refused one; success
//! takes both back step by step. What a limit was refused at is remembered: for [`MEMORY`] growth stops short of
//! it, so that a limit that was found is kept and is not run into every few minutes; after that it is probed, a step at a
//! time. Waits that a reply asks for are obeyed to the letter.
//!
//! Pure arithmetic over times that are given; nothing here grows.

use std::time::Duration;

use yamabiko_envelope::Timestamp;

use crate::site::SiteLimits;

/// What a site's replies to one delivery mean. The strongest of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It took the message.
    Success,
    /// Too fast, or too busy: with the wait that the reply asks for, if it does.
    Slower {
        /// How long to wait.
        wait: Option<Duration>,
        /// The reply.
        reply: String,
    },
    /// The connection was refused: too many sessions if others are open, otherwise nothing about limits.
    RefusedConnection {
        /// Why there is no connection.
        reply: String,
    },
    /// Too many sessions at once, said in so many words.
    TooManySessions {
        /// How long to wait.
        wait: Option<Duration>,
        /// The reply.
        reply: String,
    },
    /// A session may not have more messages than these.
    SessionFull {
        /// Messages that it had.
        after: u32,
        /// The reply.
        reply: String,
    },
    /// The client's address is blocked. `sure`: said to the client, not about a message; otherwise it counts when it
    /// is said three times without a success between.
    Blocked {
        /// It needs no repetition.
        sure: bool,
        /// The reply.
        reply: String,
    },
}

/// What changed, for the log and for who keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Source address of ours; empty is the system's choice.
    pub source: String,
    /// The site.
    pub site: String,
    /// In words: `concurrency 5 -> 2`, `suspended for 300s`.
    pub change: String,
    /// The site has blocked us.
    pub blocked: bool,
    /// The reply that taught it; empty for growth.
    pub reply: String,
}

/// For so long what was refused is not tried again.
pub const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Between two steps of growth.
const STEP: Duration = Duration::from_secs(60);
/// The first wait of an episode that names none; doubled with each that follows without a success.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest wait, whoever asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(4 * 3600);
/// How long a site that blocks us is left alone.
const BLOCK: Duration = Duration::from_secs(3600);
/// The longest time between starts.
const SLOWEST: Duration = Duration::from_secs(600);
/// Less than this between starts is no limit.
const NO_DELAY: Duration = Duration::from_millis(5);
/// Longest reply that is kept, in bytes.
const REPLY: usize = 300;

/// What a site has taught. Zero is "nothing" throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Deliveries at once.
    pub concurrency: u32,
    /// So many at once were refused, and when last.
    pub refused_concurrency: Option<(u32, Timestamp)>,
    /// From start to start.
    pub rate_delay: Duration,
    /// Starts at this distance were refused, and when last.
    pub refused_delay: Option<(Duration, Timestamp)>,
    /// Messages in one session.
    pub session_messages: u32,
    /// Nothing before that.
    pub suspended_until: Option<Timestamp>,
    /// It is suspended because it blocks us.
    pub blocked: bool,
    /// The reply that taught the last of it.
    pub reply: String,
    /// When.
    pub at: Option<Timestamp>,
    /// An operator wants it to stay as it is; it holds whether the transport learns or not.
    pub frozen: bool,
    /// Episodes without a success between.
    strikes: u32,
    /// Blocks without a success between.
    blocks: u32,
    /// It has taken mail since we know it: somebody is there.
    answered: bool,
    /// Deliveries begun by then belong to an episode that was dealt with.
    episode: Timestamp,
    /// The last step of growth or change.
    stepped: Timestamp,
}

/// What is known when a signal comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// Deliveries to the site that run, this one included.
    pub busy: u32,
    /// How many ran when this one began, or run now.
    pub alongside: u32,
    /// When this one began.
    pub began: Timestamp,
    /// Deliveries begun in the last minute.
    pub recent: u32,
    /// Now.
    pub now: Timestamp,
}

impl Learned {
    /// Whether a refused connection, with so many alongside, is about limits.
    pub(crate) fn blames_itself(&self, alongside: u32) -> bool {
        self.answered && alongside > 1
    }

    /// As limits.
    pub fn limits(&self) -> SiteLimits {
        SiteLimits {
            concurrency: self.concurrency,
            rate_delay: self.rate_delay,
            session_messages: self.session_messages,
            ..SiteLimits::default()
        }
    }

    /// Nothing that is worth keeping.
    pub fn is_nothing(&self) -> bool {
        self.concurrency == 0
            && self.rate_delay.is_zero()
            && self.session_messages == 0
            && self.suspended_until.is_none()
            && !self.frozen
    }

    /// Takes a signal. What changed, in words: empty when nothing did.
    pub(crate) fn take(&mut self, signal: &Signal, circumstances: Circumstances) -> String {
        if self.frozen {
            return String::new();
        }
        let Circumstances { busy, alongside, began, recent, now } = circumstances;
        // Those that were open beside it may have ended before the refusal is heard.
        let crowd = match busy {
            2.. => busy,
            _ if alongside > 1 && self.concurrency > 1 => self.concurrency.min(alongside),
            _ => alongside,
        };
        let mut changes: Vec<String> = Vec::new();
        match signal {
            Signal::Success => {
                self.answered = true;
                (self.strikes, self.blocks) = (0, 0);
                self.grow(busy, now, &mut changes);
            }
            Signal::SessionFull { after, reply } => {
                let after = (*after).max(1);
                if self.session_messages == 0 || after < self.session_messages {
                    changes.push(format!("messages per session {} -> {after}", shown(self.session_messages)));
                    self.session_messages = after;
                    self.remember(reply, now);
                }
            }
            Signal::RefusedConnection { .. } if crowd <= 1 || !self.answered => {}
            Signal::RefusedConnection { reply } => self.take_less(crowd, reply, now, &mut changes),
            Signal::TooManySessions { wait, reply } if crowd > 1 => {
                self.take_less(crowd, reply, now, &mut changes);
                if let Some(wait) = wait {
                    self.suspend(*wait, now, &mut changes);
                }
            }
            Signal::Slower { wait, reply } | Signal::TooManySessions { wait, reply } => {
                if began > self.episode {
                    self.slow_down(busy, recent, now, &mut changes);
                    self.strikes = self.strikes.saturating_add(1);
                    self.episode = now;
                }
                let wait = wait.unwrap_or_else(|| FIRST_WAIT * (1 << (self.strikes.clamp(1, 7) - 1)));
                self.suspend(wait, now, &mut changes);
                self.remember(reply, now);
            }
            Signal::Blocked { sure, reply } => {
                self.blocks += 1;
                if *sure || self.blocks >= 3 {
                    self.remember(reply, now);
                    self.blocked = true;
                    self.suspend(BLOCK, now, &mut changes);
                }
            }
        }
        changes.join(", ")
    }

    /// One of so many sessions was refused.
    fn take_less(&mut self, busy: u32, reply: &str, now: Timestamp, changes: &mut Vec<String>) {
        // Those that were refused in the same moment end one by one, and each leaves one less.
        let limit = busy - 1;
        if self.concurrency == 0 || limit < self.concurrency {
            changes.push(format!("concurrency {} -> {limit}", shown(self.concurrency)));
            self.concurrency = limit;
        }
        let refused = self.refused_concurrency.map_or(busy, |(before, _)| before.min(busy));
        self.refused_concurrency = Some((refused.max(self.concurrency + 1), now));
        self.remember(reply, now);
    }

    fn remember(&mut self, reply: &str, now: Timestamp) {
        let mut end = reply.len().min(REPLY);
        while !reply.is_char_boundary(end) {
            end -= 1;
        }
        // `end` is a boundary.
        self.reply = reply.get(..end).unwrap_or_default().to_owned();
        self.at = Some(now);
        self.stepped = now;
    }

    fn suspend(&mut self, wait: Duration, now: Timestamp, changes: &mut Vec<String>) {
        let until = now + wait.min(LONGEST_WAIT);
        if self.suspended_until.is_none_or(|before| before < until) {
            // Many deliveries of one moment say the same: it is told once.
            if self.suspended_until.is_none_or(|before| before + Duration::from_secs(1) < until) {
                let word = if self.blocked { "blocked; suspended" } else { "suspended" };
                changes.push(format!("{word} for {}s", until.since(now).as_secs()));
            }
            self.suspended_until = Some(until);
        }
    }

    fn slow_down(&mut self, busy: u32, recent: u32, now: Timestamp, changes: &mut Vec<String>) {
        // As many in the last minute as came through are too many.
        let measured = Duration::from_secs(60) / recent.max(1);
        let refused = if self.rate_delay.is_zero() { measured } else { self.rate_delay.max(measured.min(SLOWEST)) };
        let factor = if self.strikes == 0 { 1.25 } else { 1.5 };
        let delay = refused.mul_f64(factor).min(SLOWEST);
        if recent > 1 && delay > self.rate_delay {
            changes.push(format!("rate delay {} -> {}", shown_delay(self.rate_delay), shown_delay(delay)));
            self.rate_delay = delay;
            self.refused_delay = Some((refused, now));
        } else if let Some((_, at)) = &mut self.refused_delay {
            *at = now;
        }
        if busy > 1 {
            let half = busy / 2;
            if self.concurrency == 0 || half < self.concurrency {
                changes.push(format!("concurrency {} -> {half}", shown(self.concurrency)));
                self.concurrency = half;
            }
        }
    }

    /// A step towards no limit, when the last is long enough ago.
    fn grow(&mut self, busy: u32, now: Timestamp, changes: &mut Vec<String>) {
        if let Some(until) = self.suspended_until
            && until <= now
        {
            (self.suspended_until, self.blocked) = (None, false);
        }
        if now.since(self.stepped) < STEP || (self.concurrency == 0 && self.rate_delay.is_zero()) {
            return;
        }
        let fresh = |at: Timestamp| now.since(at) < MEMORY;
        let mut grew = false;
        // Only what is used up grows.
        if self.concurrency > 0 && busy >= self.concurrency {
            let ceiling = self.refused_concurrency.filter(|(_, at)| fresh(*at)).map(|(refused, _)| refused);
            if ceiling.is_none_or(|refused| self.concurrency + 1 < refused) {
                changes.push(format!("concurrency {} -> {}", self.concurrency, self.concurrency + 1));
                self.concurrency += 1;
                grew = true;
            }
        }
        if !self.rate_delay.is_zero() {
            let floor = self.refused_delay.filter(|(_, at)| fresh(*at)).map(|(refused, _)| refused.mul_f64(1.1));
            let wanted = self.rate_delay.mul_f64(0.8).max(floor.unwrap_or(Duration::ZERO));
            let wanted = if wanted < NO_DELAY { Duration::ZERO } else { wanted };
            if wanted < self.rate_delay {
                changes.push(format!("rate delay {} -> {}", shown_delay(self.rate_delay), shown_delay(wanted)));
                self.rate_delay = wanted;
                grew = true;
            }
        }
        if grew {
            self.stepped = now;
        }
        // Wide open is no limit: what was never refused at more than fifty is forgotten.
        if self.concurrency > 50 {
            (self.concurrency, self.refused_concurrency) = (0, None);
        }
    }
}

fn shown(limit: u32) -> String {
    if limit == 0 { "unlimited".to_owned() } else { limit.to_string() }
}

fn shown_delay(delay: Duration) -> String {
    if delay.is_zero() { "none".to_owned() } else { format!("{:.3}s", delay.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_000_000 + seconds)
    }

    fn with(busy: u32, recent: u32, now: u64) -> Circumstances {
        Circumstances { busy, alongside: busy, began: at(now), recent, now: at(now) }
    }

    fn too_many() -> Signal {
        Signal::TooManySessions { wait: None, reply: "421 too many connections".into() }
    }

    fn slower(wait: Option<u64>) -> Signal {
        Signal::Slower { wait: wait.map(Duration::from_secs), reply: "451 slow down".into() }
    }

    #[test]
    fn refused_sessions_leave_as_many_as_are_open() {
        let mut learned = Learned::default();
        for busy in [5, 4, 3, 2] {
            learned.take(&too_many(), with(busy, busy, 0));
        }
        assert_eq!((learned.concurrency, learned.refused_concurrency), (1, Some((2, at(0)))));
        // The last is heard of when the others have ended.
        let mut late = Learned::default();
        for (busy, alongside) in [(4, 4), (3, 4), (1, 4)] {
            late.take(&too_many(), Circumstances { alongside, ..with(busy, 4, 0) });
        }
        assert_eq!((late.concurrency, late.refused_concurrency), (1, Some((2, at(0)))));
        assert_eq!(learned.suspended_until, None);
        // A day of success does not try the second session again; the day after does.
        for minute in 1..24 * 60 {
            learned.take(&Signal::Success, with(1, 5, minute * 60));
        }
        assert_eq!(learned.concurrency, 1);
        let change = learned.take(&Signal::Success, with(1, 5, 24 * 3600));
        assert_eq!((learned.concurrency, change.as_str()), (2, "concurrency 1 -> 2"));
    }

    #[test]
    fn a_rate_is_found_and_kept() {
        let mut learned = Learned::default();
        // A burst of 300, refused; others of the same burst say so too.
        let change = learned.take(&slower(None), with(10, 300, 5));
        assert_eq!(change, "rate delay none -> 0.250s, concurrency unlimited -> 5, suspended for 60s");
        learned.take(&slower(None), Circumstances { began: at(3), ..with(9, 300, 6) });
        assert_eq!((learned.rate_delay, learned.concurrency), (Duration::from_millis(250), 5));
        // Growth comes back to a tenth more than what was refused, and stays there for a day.
        for minute in 2..600 {
            learned.take(&Signal::Success, with(20, 240, minute * 60));
        }
        assert_eq!(learned.rate_delay, Duration::from_millis(220));
        assert!(learned.concurrency >= 20 || learned.concurrency == 0, "{}", learned.concurrency);
        for minute in 24 * 60 + 2..24 * 60 + 40 {
            learned.take(&Signal::Success, with(20, 240, minute * 60));
        }
        assert_eq!(learned.rate_delay, Duration::ZERO);
    }

    #[test]
    fn waits_are_obeyed_and_grow_where_none_is_named() {
        let mut learned = Learned::default();
        learned.take(&slower(Some(300)), with(1, 1, 0));
        assert_eq!(learned.suspended_until, Some(at(300)));
        assert_eq!(learned.rate_delay, Duration::ZERO, "one message in a minute was not too fast");
        let mut learned = Learned::default();
        for (now, until) in [(0, 60), (100, 220), (300, 540), (9000, 9480)] {
            learned.take(&slower(None), with(1, 1, now));
            assert_eq!(learned.suspended_until, Some(at(until)));
        }
        learned.take(&Signal::Success, with(1, 1, 10_000));
        assert_eq!(learned.suspended_until, None);
        learned.take(&slower(None), with(1, 1, 10_100));
        assert_eq!(learned.suspended_until, Some(at(10_160)));
        learned.take(&slower(Some(1_000_000)), with(1, 1, 10_200));
        assert_eq!(learned.suspended_until, Some(at(10_200 + 4 * 3600)));
    }

    #[test]
    fn blocks_suspend() {
        let blocked = |sure| Signal::Blocked { sure, reply: "554 blocked".into() };
        let mut learned = Learned::default();
        assert_eq!(learned.take(&blocked(true), with(1, 1, 0)), "blocked; suspended for 3600s");
        let mut learned = Learned::default();
        for expected in ["", "", "blocked; suspended for 3600s"] {
            assert_eq!(learned.take(&blocked(false), with(1, 1, 0)), expected);
        }
        let mut learned = Learned::default();
        for _ in 0..9 {
            learned.take(&blocked(false), with(1, 1, 0));
            learned.take(&Signal::Success, with(1, 1, 0));
        }
        assert!(learned.is_nothing());
    }

    #[test]
    fn sessions_and_frost() {
        let mut learned = Learned::default();
        let full = |after| Signal::SessionFull { after, reply: "421 session limit".into() };
        assert_eq!(learned.take(&full(20), with(1, 20, 0)), "messages per session unlimited -> 20");
        assert_eq!(learned.take(&full(30), with(1, 20, 0)), "");
        learned.frozen = true;
        assert_eq!(learned.take(&full(3), with(1, 20, 0)), "");
        assert_eq!(learned.take(&too_many(), with(5, 20, 0)), "");
        assert_eq!(learned.limits(), SiteLimits { session_messages: 20, ..SiteLimits::default() });
    }
}

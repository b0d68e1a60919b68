//! What the schedule is configured with, and the three questions about a message's age.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::Timestamp;

use crate::site::{SiteLimits, SiteRule};
use crate::slots::Slots;

/// Everything from main.cf and master.cf that scheduling depends on. The defaults are Postfix's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `queue_run_delay`: no message is retried sooner than this after an attempt.
    pub queue_run_delay: Duration,
    /// `minimal_backoff_time`: shortest wait between attempts, and how long a dead destination is left alone.
    pub minimal_backoff_time: Duration,
    /// `maximal_backoff_time`: longest wait between attempts.
    pub maximal_backoff_time: Duration,
    /// `maximal_queue_lifetime`: mail older than this after an attempt is returned; zero: after the first attempt.
    pub maximal_queue_lifetime: Duration,
    /// `bounce_queue_lifetime`: the same for mail with the null reverse-path.
    pub bounce_queue_lifetime: Duration,
    /// `delay_warning_time`: zero is never.
    pub delay_warning_time: Duration,
    /// `transport_retry_time`: how long a transport that could not be had is left alone.
    pub transport_retry_time: Duration,
    /// `qmgr_message_active_limit`: active messages at once.
    pub active_limit: usize,
    /// `qmgr_message_recipient_limit`: recipients of active messages at once, but for `recipient_minimum` each.
    pub recipient_limit: usize,
    /// `qmgr_message_recipient_minimum`: recipients that every active message may have.
    pub recipient_minimum: usize,
    /// Messages that the engine reads and routes at once.
    pub activation_limit: usize,
    /// `qmgr_clog_warn_time`: shortest time between warnings about one destination; zero is never.
    pub clog_warn_time: Duration,
    /// `destination_concurrency_feedback_debug`: tell of every step of a window ([`Action::Window`](crate::Action::Window)).
    pub feedback_debug: bool,
    /// `defer_transports`: their mail waits until somebody flushes the queue.
    pub defer_transports: HashSet<String>,
    /// For transports that `transports` does not name.
    pub default_transport: TransportSettings,
    /// By name in master.cf.
    pub transports: HashMap<String, TransportSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_run_delay: Duration::from_secs(300),
            minimal_backoff_time: Duration::from_secs(300),
            maximal_backoff_time: Duration::from_secs(4000),
            maximal_queue_lifetime: Duration::from_secs(5 * 86400),
            bounce_queue_lifetime: Duration::from_secs(5 * 86400),
            delay_warning_time: Duration::ZERO,
            transport_retry_time: Duration::from_secs(60),
            active_limit: 20_000,
            recipient_limit: 20_000,
            recipient_minimum: 10,
            activation_limit: 64,
            clog_warn_time: Duration::from_secs(300),
            feedback_debug: false,
            defer_transports: HashSet::new(),
            default_transport: TransportSettings::default(),
            transports: HashMap::new(),
        }
    }
}

impl Settings {
    /// The settings of a transport.
    pub fn transport(&self, name: &str) -> &TransportSettings {
        self.transports.get(name).unwrap_or(&self.default_transport)
    }

    /// Recipients of a message that may be in memory while nobody knows where they go: what every transport allows.
    pub(crate) fn first_portion(&self) -> usize {
        let least = self.transports.values().map(|transport| transport.extra_recipient_limit).min();
        least.unwrap_or(self.default_transport.extra_recipient_limit)
    }

    /// When a message whose attempt has just ended is due again: its age, but neither less than the minimal nor more
    /// than the maximal backoff time. So the waits double until they are as long as allowed. Postfix looks at its
    /// deferred queue every `queue_run_delay` and comes up to that much later; we come when it is time.
    pub fn retry_at(&self, arrival: Timestamp, now: Timestamp) -> Timestamp {
        // Postfix's order of the two: where they contradict each other the minimum wins.
        let wait = now.since(arrival).min(self.maximal_backoff_time).max(self.minimal_backoff_time);
        now + wait.max(self.queue_run_delay)
    }

    /// Whether a message that was tried just now and still has recipients is too old to be kept. Asked after an
    /// attempt only: mail is never returned untried.
    pub fn expired(&self, arrival: Timestamp, now: Timestamp, null_sender: bool) -> bool {
        let lifetime = if null_sender { self.bounce_queue_lifetime } else { self.maximal_queue_lifetime };
        now.since(arrival) >= lifetime
    }

    /// Whether the sender is to be told of the delay now. The engine remembers that it was, and asks no more.
    pub fn warn_due(&self, arrival: Timestamp, now: Timestamp) -> bool {
        !self.delay_warning_time.is_zero() && now.since(arrival) >= self.delay_warning_time
    }
}

/// What may be set per transport (`smtp_destination_concurrency_limit`, ...).
#[derive(Clone, Debug, PartialEq)]
pub struct TransportSettings {
    /// Process limit in master.cf (or `default_process_limit`): deliveries at once; 0 is no limit.
    pub process_limit: usize,
    /// `destination_concurrency_limit`: deliveries to one destination at once; 0 is no limit.
    pub destination_concurrency_limit: u32,
    /// `destination_recipient_limit`: recipients per delivery; 0 is no limit. 1 makes every recipient a destination.
    pub destination_recipient_limit: usize,
    /// `recipient_limit`: recipients of active messages at once; beyond it a message gets `recipient_minimum` more.
    pub recipient_limit: usize,
    /// `extra_recipient_limit`: recipients of one message that may wait in memory; also so many of all messages together
    /// beyond `recipient_limit`, for messages of which next to nothing is there.
    pub extra_recipient_limit: usize,
    /// `recipient_refill_limit`: as soon as so many fit, the next recipients of a message are asked for.
    pub recipient_refill_limit: usize,
    /// `recipient_refill_delay`: after this long fewer are enough.
    pub recipient_refill_delay: Duration,
    /// `initial_destination_concurrency`, at least 1.
    pub initial_destination_concurrency: u32,
    /// `destination_concurrency_positive_feedback`
    pub positive_feedback: ConcurrencyFeedback,
    /// `destination_concurrency_negative_feedback`
    pub negative_feedback: ConcurrencyFeedback,
    /// `destination_concurrency_failed_cohort_limit`: 0 is never dead.
    pub failed_cohort_limit: u32,
    /// `destination_rate_delay`: pause between deliveries to one destination, which then happen one at a time.
    pub destination_rate_delay: Duration,
    /// `transport_rate_delay`: at least this much between the starts of any two deliveries.
    pub transport_rate_delay: Duration,
    /// A client of one process: who writes that means one session at a time, so sessions are counted as if its receivers had
    /// such a limit (a visitor goes with each delivery), though nothing else of a receiving site holds.
    pub one_session: bool,
    /// `delivery_slot_cost` and its companions; `None`: messages take turns by sender.
    pub slots: Option<Slots>,
    /// `site_concurrency_limit`: deliveries to one receiving site at once; 0 is no limit.
    pub site_concurrency_limit: u32,
    /// `site_rate_delay`: at least this much between the starts of two deliveries to one receiving site.
    pub site_rate_delay: Duration,
    /// `site_session_pause`: from the end of a session with a receiving site to the start of the next.
    pub site_session_pause: Duration,
    /// `session_message_limit`: messages in one session; 0 is no limit.
    pub session_message_limit: u32,
    /// `site_adaptive_limits`: obey what the replies of receiving sites teach.
    pub site_adaptive: bool,
    /// `sending_profiles`: limits of receiving sites that are known.
    pub site_rules: Arc<[SiteRule]>,
    /// The address that deliveries come from, as far as it is set; sites count by it.
    pub source: Arc<str>,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            process_limit: 100,
            destination_concurrency_limit: 20,
            destination_recipient_limit: 50,
            recipient_limit: 20_000,
            extra_recipient_limit: 1000,
            recipient_refill_limit: 100,
            recipient_refill_delay: Duration::from_secs(5),
            initial_destination_concurrency: 5,
            positive_feedback: ConcurrencyFeedback::ONE,
            negative_feedback: ConcurrencyFeedback::ONE,
            failed_cohort_limit: 1,
            destination_rate_delay: Duration::ZERO,
            transport_rate_delay: Duration::ZERO,
            one_session: false,
            slots: None,
            site_concurrency_limit: 0,
            site_rate_delay: Duration::ZERO,
            site_session_pause: Duration::ZERO,
            session_message_limit: 0,
            site_adaptive: false,
            site_rules: Arc::new([]),
            source: "".into(),
        }
    }
}

impl TransportSettings {
    /// What holds at a site, without what was learned.
    pub fn limits_of(&self, site: &str) -> SiteLimits {
        let own = SiteLimits {
            concurrency: self.site_concurrency_limit,
            rate_delay: self.site_rate_delay,
            session_messages: self.session_message_limit,
            session_pause: self.site_session_pause,
            recipients: 0,
        };
        let rules = self.site_rules.iter().filter(|rule| rule.covers(site));
        rules.fold(own, |limits, rule| limits.and(rule.limits))
    }

    /// Sites matter at all: deliveries ask before they connect ([`Schedule::enter`](crate::Schedule::enter)).
    pub fn shapes_sites(&self) -> bool {
        self.site_adaptive || !self.site_rules.is_empty() || !self.limits_of("").is_none()
    }

    /// Deliveries to one destination at once; `None` is no limit. A rate delay leaves one.
    pub(crate) fn window_limit(&self) -> Option<u32> {
        match self.destination_concurrency_limit {
            _ if !self.destination_rate_delay.is_zero() => Some(1),
            0 => None,
            limit => Some(limit),
        }
    }

    /// The window of a destination nothing is known of.
    pub(crate) fn initial_window(&self) -> u32 {
        let initial = self.initial_destination_concurrency.max(1);
        self.window_limit().map_or(initial, |limit| initial.min(limit))
    }

    /// Recipients per delivery.
    pub(crate) fn slice(&self) -> usize {
        match self.destination_recipient_limit {
            0 => usize::MAX,
            limit => limit,
        }
    }
}

/// How much one delivery moves a concurrency window: `1`, `0.5`, `1/5`, `1/concurrency`, `1/sqrt_concurrency`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConcurrencyFeedback {
    base: f64,
    divisor: Divisor,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Divisor {
    One,
    Window,
    RootOfWindow,
}

impl ConcurrencyFeedback {
    /// Postfix's default: one step per delivery.
    pub const ONE: Self = Self { base: 1.0, divisor: Divisor::One };

    /// Postfix's number for what it depends on: nothing, the window, or the square root of that.
    pub fn kind(self) -> u8 {
        match self.divisor {
            Divisor::One => 0,
            Divisor::Window => 1,
            Divisor::RootOfWindow => 2,
        }
    }

    /// The step at a window.
    pub fn at(self, window: u32) -> f64 {
        match self.divisor {
            Divisor::One => self.base,
            Divisor::Window => self.base / f64::from(window.max(1)),
            Divisor::RootOfWindow => self.base / f64::from(window.max(1)).sqrt(),
        }
    }
}

/// The text is not a concurrency feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFeedback;

impl fmt::Display for NotAFeedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a number from 0 to 1, number/number, number/concurrency or number/sqrt_concurrency")
    }
}

impl std::error::Error for NotAFeedback {}

impl FromStr for ConcurrencyFeedback {
    type Err = NotAFeedback;

    fn from_str(text: &str) -> Result<Self, NotAFeedback> {
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
            _ => Err(NotAFeedback),
        };
        let feedback = match text.split_once('/') {
            None => Self { base: number(text)?, divisor: Divisor::One },
            Some((base, divisor)) => match divisor.trim() {
                "concurrency" => Self { base: number(base)?, divisor: Divisor::Window },
                "sqrt_concurrency" => Self { base: number(base)?, divisor: Divisor::RootOfWindow },
                divisor => Self { base: number(base)? / number(divisor)?, divisor: Divisor::One },
            },
        };
        // More than a whole window at once would be no feedback but a switch; 0/0 is not a number at all.
        if (0.0..=1.0).contains(&feedback.base) { Ok(feedback) } else { Err(NotAFeedback) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_times() {
        let lab = Settings {
            queue_run_delay: Duration::from_secs(2),
            minimal_backoff_time: Duration::from_secs(2),
            maximal_backoff_time: Duration::from_secs(3),
            ..Settings::default()
        };
        let slow = Settings { queue_run_delay: Duration::from_secs(3600), ..Settings::default() };
        let odd = Settings { maximal_backoff_time: Duration::from_secs(100), ..Settings::default() };
        // Settings, age at the end of the attempt, seconds until the next.
        let table = [
            (&Settings::default(), 0, 300),
            (&Settings::default(), 299, 300),
            (&Settings::default(), 300, 300),
            (&Settings::default(), 700, 700),
            (&Settings::default(), 3999, 3999),
            (&Settings::default(), 4001, 4000),
            (&Settings::default(), 400_000, 4000),
            (&lab, 0, 2),
            (&lab, 100, 3),
            (&slow, 0, 3600),
            (&slow, 10_000, 4000),
            (&odd, 200, 300),
        ];
        for (settings, age, wait) in table {
            let arrival = Timestamp::from_seconds(1_000_000);
            let now = Timestamp::from_seconds(1_000_000 + age);
            assert_eq!(settings.retry_at(arrival, now).since(now).as_secs(), wait, "age {age}");
        }
        let back = Settings::default().retry_at(Timestamp::from_seconds(500), Timestamp::from_seconds(100));
        assert_eq!(back, Timestamp::from_seconds(400), "a clock that was set back");
    }

    #[test]
    fn ages() {
        let day = Duration::from_secs(86400);
        let settings = Settings { bounce_queue_lifetime: day, delay_warning_time: day / 6, ..Settings::default() };
        let at = Timestamp::from_seconds;
        for (age, null_sender, expired, warn) in [
            (0, false, false, false),
            (86400 / 6 - 1, false, false, false),
            (86400 / 6, false, false, true),
            (86399, true, false, true),
            (86400, true, true, true),
            (5 * 86400 - 1, false, false, true),
            (5 * 86400, false, true, true),
        ] {
            assert_eq!(settings.expired(at(9), at(9 + age), null_sender), expired, "{age}");
            assert_eq!(settings.warn_due(at(9), at(9 + age)), warn, "{age}");
        }
        let once = Settings { maximal_queue_lifetime: Duration::ZERO, ..Settings::default() };
        assert!(once.expired(at(9), at(9), false));
        assert!(!once.warn_due(at(9), at(9_999_999)));
    }

    #[test]
    fn feedback() {
        for (text, window, step) in [
            ("1", 5, 1.0),
            ("0.5", 5, 0.5),
            ("0", 5, 0.0),
            ("1/8", 5, 0.125),
            (" 1 / concurrency", 5, 0.2),
            ("1/concurrency", 0, 1.0),
            ("0.5/sqrt_concurrency", 4, 0.25),
        ] {
            assert_eq!(text.parse::<ConcurrencyFeedback>().map(|f| f.at(window)), Ok(step), "{text}");
        }
        for text in ["", "x", "-1", "2", "1/0", "0/0", "1/x", "1/concurrency/2", "nan", "inf", "/"] {
            assert_eq!(text.parse::<ConcurrencyFeedback>(), Err(NotAFeedback), "{text}");
        }
    }
}

//! A destination and its concurrency window: Postfix's `qmgr_queue.c` in values.
//!
//! The window is how many deliveries may go there at once. Answers widen it, failures to reach the destination narrow
//! it, and failures worth as many whole windows as `destination_concurrency_failed_cohort_limit` make it dead.

use std::sync::Arc;

use yamabiko_envelope::{Reuse, Timestamp};
use yamabiko_status::EnhancedStatus;

use crate::action::WindowStep;
use crate::settings::TransportSettings;
use crate::slots::Turns;

/// Why something is left alone, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub until: Timestamp,
    pub status: EnhancedStatus,
    pub reason: Arc<str>,
}

/// What a failure to reach a destination did to its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Failed {
    /// It was dead before.
    Nothing,
    /// This feedback was counted.
    By(f64),
    /// It is dead now; the caller says for how long.
    Dies,
}

#[derive(Debug)]
pub(crate) struct Destination {
    pub name: Arc<str>,
    pub transport: usize,
    /// Deliveries that run.
    pub busy: u32,
    /// Slots reserved for peers that waited for one and now wait for the transport.
    pub offered: u32,
    /// Peers that wait for a slot.
    pub waiting: Turns,
    /// Peers that exist.
    pub peers: u32,
    pub dead: Option<Dead>,
    /// The receiving site, where it is known and of interest.
    pub site: Option<u32>,
    /// It stands in its site's line.
    pub in_line: bool,
    /// Pausing for `destination_rate_delay` until then.
    pub paused: Option<Timestamp>,
    /// It is without mail since then, and counts as forgotten but for what connections to it want.
    pub idle: bool,
    pub idle_since: Timestamp,
    /// It stands among those that may be forgotten.
    pub lingers: bool,
    /// No warning of a clogged queue before.
    pub quiet_until: Timestamp,
    /// When a delivery ended last.
    last_done: Option<Timestamp>,
    /// Of the delivery that began last.
    reuse: Reuse,
    /// How often in a row it had mail again as soon as it had none.
    stream: u32,
    window: u32,
    success: f64,
    failure: f64,
    failed_cohorts: f64,
}

impl Destination {
    pub(crate) fn new(name: Arc<str>, transport: usize, settings: &TransportSettings) -> Self {
        Self {
            name,
            transport,
            busy: 0,
            offered: 0,
            waiting: Turns::new(settings.slots),
            peers: 0,
            dead: None,
            site: None,
            in_line: false,
            paused: None,
            idle: false,
            idle_since: Timestamp(0),
            lingers: false,
            quiet_until: Timestamp(0),
            last_done: None,
            reuse: Reuse::default(),
            stream: 0,
            window: settings.initial_window(),
            success: 0.0,
            failure: 0.0,
            failed_cohorts: 0.0,
        }
    }

    /// One more delivery may go there.
    pub(crate) fn has_room(&self) -> bool {
        self.dead.is_none() && self.paused.is_none() && self.busy + self.offered < self.window
    }

    /// Nothing is known of it that is worth keeping.
    pub(crate) fn is_idle(&self) -> bool {
        self.peers == 0 && self.busy == 0 && self.paused.is_none()
    }

    /// It has no mail any more.
    pub(crate) fn rest(&mut self, settings: &TransportSettings, now: Timestamp) {
        self.restart(settings);
        self.quiet_until = Timestamp(0);
        (self.idle, self.idle_since) = (true, now);
    }

    /// It has mail again. Where that goes on and on it is a stream that goes out as fast as it comes in, and a delivery follows
    /// the last one as if there had been no moment between them; else it is as new.
    pub(crate) fn resume(&mut self, now: Timestamp) {
        let soon = self.last_done.is_some_and(|done| now.seconds() <= done.seconds() + 1);
        self.stream = if soon { self.stream.saturating_add(1) } else { 0 };
        if self.stream < STREAM {
            (self.last_done, self.reuse) = (None, Reuse::default());
        }
    }

    /// A delivery that counts in `busy` has ended.
    pub(crate) fn ended(&mut self, now: Timestamp) {
        self.busy -= 1;
        self.last_done = Some(now);
    }

    /// What a delivery that begins now, and counts in `busy`, is to do with connections: `qmgr_entry_select` of Postfix. They are
    /// kept from the second delivery on that follows another at once, and not for a burst that fits the window; when others no
    /// longer follow, those that are there are still used.
    pub(crate) fn reuse(&mut self, now: Timestamp) -> Reuse {
        // Postfix's clock ticks once a second.
        let follows = self.last_done.is_some_and(|done| now.seconds() <= done.seconds() + 1);
        if follows {
            self.reuse = Reuse { load: true, store: true };
        } else if self.busy <= 1 {
            self.reuse.store = false;
        }
        self.reuse
    }

    /// How many deliveries may go there at once.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// New limits, after a reload.
    pub(crate) fn reconfigure(&mut self, settings: &TransportSettings) {
        if let Some(limit) = settings.window_limit() {
            self.window = self.window.min(limit);
        }
    }

    /// How its window is now.
    pub(crate) fn step(&self, settings: &TransportSettings, answered: bool, feedback: Option<f64>) -> WindowStep {
        WindowStep {
            answered,
            destination: Arc::clone(&self.name),
            feedback,
            limit: settings.window_limit().unwrap_or(0),
            window: if self.dead.is_some() { 0 } else { self.window },
            success: self.success,
            failure: self.failure,
            failed_cohorts: self.failed_cohorts,
        }
    }

    /// A delivery that still counts in `busy` got an answer, whatever the answer was. The feedback that was counted.
    pub(crate) fn succeeded(&mut self, settings: &TransportSettings) -> Option<f64> {
        self.failed_cohorts = 0.0;
        if self.dead.take().is_some() {
            self.restart(settings);
            return None;
        }
        let limit = settings.window_limit();
        // The window stays near what is used, or narrowing it would take effect too late.
        let near = self.busy.saturating_add(settings.initial_window());
        if limit.is_some_and(|limit| self.window >= limit) || self.window >= near {
            return None;
        }
        let step = settings.positive_feedback.at(self.window);
        self.success += step;
        while self.success + step / 2.0 >= 1.0 {
            self.window += 1;
            self.success -= 1.0;
            self.failure = 0.0;
        }
        if let Some(limit) = limit {
            self.window = self.window.min(limit);
        }
        Some(step)
    }

    /// A delivery could not reach the destination.
    #[must_use]
    pub(crate) fn failed(&mut self, settings: &TransportSettings) -> Failed {
        if self.dead.is_some() {
            return Failed::Nothing;
        }
        self.failed_cohorts += 1.0 / f64::from(self.window.max(1));
        if settings.failed_cohort_limit > 0 && self.failed_cohorts + EPSILON >= f64::from(settings.failed_cohort_limit)
        {
            return Failed::Dies;
        }
        // Negative feedback takes effect at the start of its cycle, positive at the end.
        // Half a step for rounding, as Postfix has it; with whole steps the first failure narrows by two.
        let step = settings.negative_feedback.at(self.window);
        self.failure -= step;
        while self.failure - step / 2.0 < 0.0 {
            self.window = self.window.saturating_sub(1).max(1);
            self.success = 0.0;
            self.failure += 1.0;
        }
        Failed::By(step)
    }

    /// Back from the almost grave: the best window is anyone's guess.
    pub(crate) fn restart(&mut self, settings: &TransportSettings) {
        self.dead = None;
        self.window = if self.busy > 0 { self.busy } else { settings.initial_window() };
        self.success = 0.0;
        self.failure = 0.0;
        self.failed_cohorts = 0.0;
    }
}

/// So many moments without mail, one soon after the other, make a stream: fewer are a few messages, or one that is tried again
/// by hand.
const STREAM: u32 = 4;

/// Sums of fractions such as 1/6 are to reach 1.
const EPSILON: f64 = 0.000_5;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(negative: &str, positive: &str, cohorts: u32) -> TransportSettings {
        TransportSettings {
            negative_feedback: negative.parse().unwrap(),
            positive_feedback: positive.parse().unwrap(),
            failed_cohort_limit: cohorts,
            ..TransportSettings::default()
        }
    }

    /// `+` an answer, `-` a failure; all slots of the window busy; the window after each, 0 when dead.
    fn trace(settings: &TransportSettings, steps: &str) -> Vec<u32> {
        let mut destination = Destination::new("d".into(), 0, settings);
        let mut windows = Vec::new();
        for step in steps.chars() {
            destination.busy = destination.window;
            if step == '+' {
                destination.succeeded(settings);
            } else if destination.failed(settings) == Failed::Dies {
                windows.push(0);
                continue;
            }
            windows.push(destination.window());
        }
        windows
    }

    #[test]
    fn windows() {
        // Negative, positive, cohort limit, steps, windows.
        type Case = (&'static str, &'static str, u32, &'static str, &'static [u32]);
        const TABLE: &[Case] = &[
            ("1", "1", 1, "+++", &[6, 7, 8]),
            ("1", "1", 1, "++++++++++++++++", &[6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 20]),
            // 1/5 + 1/3 + 1/2 of a cohort.
            ("1", "1", 1, "---", &[3, 2, 0]),
            ("1", "1", 10, "-----", &[3, 2, 1, 1, 1]),
            ("1", "1", 0, "------", &[3, 2, 1, 1, 1, 1]),
            ("0", "1", 1, "-----", &[5, 5, 5, 5, 0]),
            ("1/concurrency", "1/concurrency", 10, "-", &[4]),
            ("1/concurrency", "1/concurrency", 10, "+++++++", &[5, 5, 5, 5, 6, 6, 6]),
            // 0.45 of a window at 5, 0.41 at 6; 0.5 at 4, 0.58 at 3.
            ("1/sqrt_concurrency", "1/sqrt_concurrency", 10, "+++++", &[5, 6, 6, 6, 7]),
            ("1/sqrt_concurrency", "1/sqrt_concurrency", 10, "----", &[4, 3, 3, 2]),
            ("1/8", "1/8", 10, "++++++++", &[5, 5, 5, 5, 5, 5, 5, 6]),
            ("1/8", "1/8", 10, "--------", &[4, 4, 4, 4, 4, 4, 4, 3]),
            // An answer forgives all failed cohorts.
            ("1", "1", 1, "--+--", &[3, 2, 3, 1, 0]),
        ];
        for (negative, positive, cohorts, steps, windows) in TABLE {
            let settings = settings(negative, positive, *cohorts);
            assert_eq!(trace(&settings, steps), *windows, "{negative} {positive} {cohorts} {steps}");
        }
    }

    /// What Postfix 3.7.11 logged with `destination_concurrency_feedback_debug`, rounded.
    #[test]
    fn steps() {
        // Negative feedback, cohort limit, then for each failure: feedback, window, failure, failed cohorts.
        type Case = (&'static str, u32, &'static [(Option<f64>, u32, f64, f64)]);
        const TABLE: &[Case] = &[
            ("1", 1, &[(Some(1.0), 3, 1.0, 0.2), (Some(1.0), 2, 1.0, 0.533_333), (None, 0, 1.0, 1.033_33)]),
            (
                "1/concurrency",
                2,
                &[
                    (Some(0.2), 4, 0.8, 0.2),
                    (Some(0.25), 4, 0.55, 0.45),
                    (Some(0.25), 4, 0.3, 0.7),
                    (Some(0.25), 3, 1.05, 0.95),
                    (Some(0.333_333), 3, 0.716_667, 1.283_33),
                    (Some(0.333_333), 3, 0.383_333, 1.616_67),
                ],
            ),
            (
                "0.25",
                0,
                &[
                    (Some(0.25), 4, 0.75, 0.2),
                    (Some(0.25), 4, 0.5, 0.45),
                    (Some(0.25), 4, 0.25, 0.7),
                    (Some(0.25), 3, 1.0, 0.95),
                    (Some(0.25), 3, 0.75, 1.283_33),
                    (Some(0.25), 3, 0.5, 1.616_67),
                ],
            ),
        ];
        let near = |a: f64, b: f64| (a - b).abs() < 1e-5;
        for (negative, cohorts, failures) in TABLE {
            let settings = TransportSettings { destination_concurrency_limit: 7, ..settings(negative, "1", *cohorts) };
            let mut destination = Destination::new("d".into(), 0, &settings);
            for expected in *failures {
                let feedback = match destination.failed(&settings) {
                    Failed::By(feedback) => Some(feedback),
                    Failed::Dies => {
                        let (status, reason) = (EnhancedStatus::transient(4, 1), "".into());
                        destination.dead = Some(Dead { until: Timestamp(0), status, reason });
                        None
                    }
                    Failed::Nothing => panic!("it was alive"),
                };
                let step = destination.step(&settings, false, feedback);
                let same = step.feedback.zip(expected.0).is_none_or(|(found, expected)| near(found, expected))
                    && step.feedback.is_some() == expected.0.is_some()
                    && (step.window, step.limit, step.success) == (expected.1, 7, 0.0)
                    && near(step.failure, expected.2)
                    && near(step.failed_cohorts, expected.3);
                assert!(same, "{negative}: {step:?}, not {expected:?}");
            }
            let feedback = destination.succeeded(&settings);
            let step = destination.step(&settings, true, feedback);
            assert_eq!((step.failed_cohorts, step.window > 0), (0.0, true), "{negative}");
        }
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let settings = TransportSettings::default();
        let mut destination = Destination::new("d".into(), 0, &settings);
        destination.busy = 1;
        (0..10).for_each(|_| {
            let _ = destination.succeeded(&settings);
        });
        assert_eq!(destination.window(), 6);
    }

    #[test]
    fn limits() {
        let one = TransportSettings { destination_concurrency_limit: 2, ..TransportSettings::default() };
        assert_eq!(Destination::new("d".into(), 0, &one).window(), 2);
        let rate = std::time::Duration::from_secs(1);
        let rate = TransportSettings { destination_rate_delay: rate, ..TransportSettings::default() };
        assert_eq!(trace(&rate, "+++"), [1, 1, 1]);
        let free = TransportSettings { destination_concurrency_limit: 0, ..TransportSettings::default() };
        assert_eq!(trace(&free, &"+".repeat(100)).last(), Some(&105));
    }
}

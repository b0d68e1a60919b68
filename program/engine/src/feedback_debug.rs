//! `destination_concurrency_feedback_debug`: what the log says of windows and the feedback that moves them. The lines are those of
//! Postfix's queue manager, names of its functions included: people have scripts that plot them.

use std::str::FromStr;

use yamabiko_config::Config;
use yamabiko_schedule::{ConcurrencyFeedback, WindowStep};

/// The lines about a transport that is used for the first time.
pub fn feedbacks(transport: &str, config: &Config) -> Vec<String> {
    let Some(service) = config.services().iter().find(|service| service.name == transport) else { return Vec::new() };
    let view = config.service_view(service);
    let at = u32::try_from(view.transport_int(transport, "initial_destination_concurrency")).unwrap_or(1);
    let line = |sign: &str| {
        let suffix = format!("destination_concurrency_{sign}_feedback");
        let text = view.transport_text(transport, &suffix);
        let feedback = ConcurrencyFeedback::from_str(&text).unwrap_or(ConcurrencyFeedback::ONE);
        // Postfix names the parameter that counts.
        let common = format!("default_{suffix}");
        let own = view.transport_is_set(transport, &suffix) && text != view.text(&common);
        let name = if own { format!("{transport}_{suffix}") } else { common };
        format!("{transport}: {name} feedback type {} value at {at}: {}", feedback.kind(), short(feedback.at(at)))
    };
    vec![line("positive"), line("negative")]
}

/// The lines about a window.
pub fn window(step: &WindowStep) -> Vec<String> {
    let WindowStep { answered, destination, feedback, limit, window, success, failure, failed_cohorts } = step;
    let who = if *answered { "qmgr_queue_unthrottle" } else { "qmgr_queue_throttle" };
    let mut lines: Vec<String> =
        feedback.iter().map(|feedback| format!("{who}: feedback {}", short(*feedback))).collect();
    lines.push(format!(
        "{who}: queue {destination}: limit {limit} window {window} success {} failure {} fail_cohorts {}",
        short(*success),
        short(*failure),
        short(*failed_cohorts)
    ));
    lines
}

/// A number as `%g` of printf(3) writes it.
fn short(value: f64) -> String {
    // Six digits; the exponent is the one after rounding to them.
    let text = format!("{value:.5e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let Ok(exponent) = exponent.parse::<i32>() else { return text };
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        // From 0 to 9 by the line above.
        let places = usize::try_from(5 - exponent).unwrap_or(0);
        return trimmed(&format!("{value:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_printf_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.2, "0.2"),
            (1.0 / 3.0, "0.333333"),
            (0.8 - 1.0 / 12.0, "0.716667"),
            (1.283_333_33, "1.28333"),
            (10.0, "10"),
            (100_000.0, "100000"),
            (999_999.5, "1e+06"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_1, "0.0001"),
            (0.000_01, "1e-05"),
            (-1.110_223_024_625_156_5e-16, "-1.11022e-16"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    /// What Postfix 3.7.11 wrote with the same settings.
    #[test]
    fn words() {
        let names = ("main.cf", "master.cf");
        let main = "relay_destination_concurrency_negative_feedback = 1/concurrency\n\
                    slow_destination_concurrency_negative_feedback = 0.25\n";
        let master = "smtp unix - - n - - smtp\nrelay unix - - n - - smtp\nslow unix - - n - - smtp\n\
                      own unix - - n - - smtp\n  -o own_destination_concurrency_positive_feedback=1/4\n";
        let config = Config::from_texts(main, master, names, &yamabiko_config::Host::default()).unwrap();
        for (transport, expected) in [
            (
                "smtp",
                [
                    "smtp: default_destination_concurrency_positive_feedback feedback type 0 value at 5: 1",
                    "smtp: default_destination_concurrency_negative_feedback feedback type 0 value at 5: 1",
                ],
            ),
            (
                "relay",
                [
                    "relay: default_destination_concurrency_positive_feedback feedback type 0 value at 5: 1",
                    "relay: relay_destination_concurrency_negative_feedback feedback type 1 value at 5: 0.2",
                ],
            ),
            (
                "slow",
                [
                    "slow: default_destination_concurrency_positive_feedback feedback type 0 value at 5: 1",
                    "slow: slow_destination_concurrency_negative_feedback feedback type 0 value at 5: 0.25",
                ],
            ),
            (
                "own",
                [
                    "own: own_destination_concurrency_positive_feedback feedback type 0 value at 5: 0.25",
                    "own: default_destination_concurrency_negative_feedback feedback type 0 value at 5: 1",
                ],
            ),
        ] {
            assert_eq!(feedbacks(transport, &config), expected);
        }
        let mut step = WindowStep {
            answered: true,
            destination: "u1@[127.0.0.1]:2525".into(),
            feedback: Some(1.0),
            limit: 20,
            window: 6,
            success: 0.0,
            failure: 0.0,
            failed_cohorts: 0.0,
        };
        assert_eq!(
            window(&step),
            [
                "qmgr_queue_unthrottle: feedback 1",
                "qmgr_queue_unthrottle: queue u1@[127.0.0.1]:2525: limit 20 window 6 success 0 failure 0 fail_cohorts 0",
            ]
        );
        step = WindowStep {
            answered: false,
            feedback: None,
            window: 0,
            failure: 1.0,
            failed_cohorts: 31.0 / 30.0,
            ..step
        };
        assert_eq!(
            window(&step),
            [
                "qmgr_queue_throttle: queue u1@[127.0.0.1]:2525: limit 20 window 0 success 0 failure 1 fail_cohorts 1.03333"
            ]
        );
    }
}

//! The numbers of `delay=` and `delays=`.

use std::fmt::Write;
use std::time::Duration;

const MILLION: u64 = 1_000_000;

/// Appends a delay as Postfix's `format_tv` writes it: at most two significant digits below 100 seconds, at most
/// `resolution` decimals (`delay_logging_resolution_limit`, 0 to 6), whole seconds above, no trailing zeros.
pub fn push_delay(out: &mut String, delay: Duration, resolution: u32) {
    let mut seconds = delay.as_secs();
    let mut micros = u64::from(delay.subsec_micros());
    // The finest step that is shown, in microseconds.
    let mut step = MILLION / 10u64.pow(resolution.min(6));
    if seconds > 0 {
        let significant = match seconds {
            1..=9 => MILLION / 10,
            _ => MILLION,
        };
        step = step.max(significant);
    } else {
        while step < MILLION && micros >= 100 * step {
            step *= 10;
        }
    }
    if step > 1 {
        micros += step / 2;
        if micros >= MILLION {
            seconds += 1;
            micros -= MILLION;
        }
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "{seconds}");
    if micros >= step {
        out.push('.');
        let mut digit = MILLION / 10;
        while micros >= step && digit > 0 {
            // Below ten: `micros` is below ten times `digit`.
            out.push(char::from(b'0' + (micros / digit) as u8));
            micros %= digit;
            digit /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, microseconds, and the text with resolution 0, 1, 2, 3.
    const TABLE: &[(u64, u32, [&str; 4])] = &[
        (0, 0, ["0", "0", "0", "0"]),
        (0, 1_000, ["0", "0", "0", "0.001"]),
        (0, 4_999, ["0", "0", "0", "0.005"]),
        (0, 5_000, ["0", "0", "0.01", "0.005"]),
        (0, 12_345, ["0", "0", "0.01", "0.012"]),
        (0, 15_000, ["0", "0", "0.02", "0.015"]),
        (0, 96_000, ["0", "0.1", "0.1", "0.096"]),
        (0, 264_999, ["0", "0.3", "0.26", "0.26"]),
        (0, 265_000, ["0", "0.3", "0.27", "0.27"]),
        (0, 994_999, ["1", "1", "0.99", "0.99"]),
        (0, 999_999, ["1", "1", "1", "1"]),
        (1, 0, ["1", "1", "1", "1"]),
        (1, 49_999, ["1", "1", "1", "1"]),
        (1, 50_000, ["1", "1.1", "1.1", "1.1"]),
        (1, 540_000, ["2", "1.5", "1.5", "1.5"]),
        (9, 949_999, ["10", "9.9", "9.9", "9.9"]),
        (9, 950_000, ["10", "10", "10", "10"]),
        (10, 499_999, ["10", "10", "10", "10"]),
        (15, 600_000, ["16", "16", "16", "16"]),
        (99, 499_999, ["99", "99", "99", "99"]),
        (99, 500_000, ["100", "100", "100", "100"]),
        (150, 0, ["150", "150", "150", "150"]),
        (999, 999_999, ["1000", "1000", "1000", "1000"]),
        (432_000, 700_000, ["432001", "432001", "432001", "432001"]),
    ];

    #[test]
    fn two_significant_digits() {
        for (seconds, micros, texts) in TABLE {
            for (resolution, text) in texts.iter().enumerate() {
                let mut out = String::new();
                push_delay(&mut out, Duration::new(*seconds, micros * 1000), resolution as u32);
                assert_eq!(out, *text, "{seconds}.{micros:06} at resolution {resolution}");
            }
        }
    }
}

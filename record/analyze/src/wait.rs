//! The wait that a reply asks for, in words.

use std::time::Duration;

/// The wait that a reply asks for: `try again in 300 seconds`, `retry after 5 minutes`, `please wait 1 hour`.
pub fn hinted_wait(reply: &str) -> Option<Duration> {
    let lower = reply.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    for (at, word) in words.iter().enumerate() {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        // Split behind digits: they are single bytes.
        let (number, unit) = word.split_at(digits);
        let Ok(number) = number.parse::<u64>() else { continue };
        let unit = if unit.is_empty() { words.get(at + 1).copied().unwrap_or("") } else { unit };
        let seconds = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
            _ => continue,
        };
        let before = words.get(at.saturating_sub(5)..at).unwrap_or_default();
        let after = words.get(at + 1..(at + 5).min(words.len())).unwrap_or_default();
        let asks = |word: &&str| {
            matches!(*word, "again" | "retry" | "retries" | "wait" | "later" | "after" | "back" | "resend" | "delay")
        };
        if before.iter().any(asks) || after.iter().any(asks) {
            return Some(Duration::from_secs(number.saturating_mul(seconds).min(86_400)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits() {
        for (reply, seconds) in [
            ("451 4.7.1 try again in 300 seconds", Some(300)),
            ("450 4.2.0 Greylisted, please try again after 5 minutes", Some(300)),
            ("421 Please wait 1 hour", Some(3600)),
            ("451 retry in 90s", Some(90)),
            ("421 try again 10min later", Some(600)),
            ("421 4.7.0 [TSS04] Messages temporarily deferred - 4.16.55.1", None),
            ("451 300 messages in 60 seconds are too many", None),
            ("450 try again in 99999999999999999999 seconds", None),
            ("450 try again in 9999999999999999 hours", Some(86_400)),
            ("", None),
        ] {
            assert_eq!(hinted_wait(reply), seconds.map(Duration::from_secs), "{reply}");
        }
    }
}

//! Dates as Postfix writes them into headers: `Sat, 21 Nov 2026 16:53:54 +0000 (UTC)` (RFC 5322 section 3.3).

use std::cell::RefCell;
use std::thread::LocalKey;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

pub use jiff::tz::TimeZone as Zone;

/// The last answer of a thread: a busy server asks thousands of times within a second.
type Last = RefCell<Option<(u64, TimeZone, String)>>;

fn remembered(
    last: &'static LocalKey<Last>,
    seconds: u64,
    zone: &TimeZone,
    write: impl FnOnce(Zoned) -> String,
) -> String {
    last.with_borrow_mut(|last| match last {
        Some((second, there, text)) if *second == seconds && there == zone => text.clone(),
        _ => {
            let text = write(zoned(seconds, zone));
            *last = Some((seconds, zone.clone(), text.clone()));
            text
        }
    })
}

/// Seconds beyond the year 9999 are taken for its end.
fn zoned(seconds: u64, zone: &TimeZone) -> Zoned {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}

/// The date of a second since the epoch in a zone. The day of the month takes two columns, a blank before a single
/// digit, and the zone's abbreviation follows in parentheses. Seconds beyond the year 9999 are taken for its end.
pub fn rfc5322(seconds: u64, zone: &TimeZone) -> String {
    thread_local!(static LAST: Last = const { RefCell::new(None) });
    remembered(&LAST, seconds, zone, |time| time.strftime("%a, %e %b %Y %H:%M:%S %z (%Z)").to_string())
}

/// The date of a second as mbox `From ` lines have it: `Sat Nov 21 16:53:54 2026`.
pub fn ctime(seconds: u64, zone: &TimeZone) -> String {
    zoned(seconds, zone).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// The digits of a Message-Id that we make: `20261121165354`, in UTC as Postfix writes them.
pub fn message_id_digits(seconds: u64) -> String {
    thread_local!(static LAST: Last = const { RefCell::new(None) });
    remembered(&LAST, seconds, &TimeZone::UTC, |time| time.strftime("%Y%m%d%H%M%S").to_string())
}

/// The same digits in a zone.
pub fn compact(seconds: u64, zone: &TimeZone) -> String {
    zoned(seconds, zone).strftime("%Y%m%d%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let tokyo = TimeZone::posix("JST-9").unwrap();
        let newfoundland = TimeZone::posix("NST3:30NDT,M3.2.0,M11.1.0").unwrap();
        for (seconds, zone, text) in [
            (1_795_280_034, &TimeZone::UTC, "Sat, 21 Nov 2026 16:53:54 +0000 (UTC)"),
            (1_795_280_034, &tokyo, "Sun, 22 Nov 2026 01:53:54 +0900 (JST)"),
            (1_795_280_034, &newfoundland, "Sat, 21 Nov 2026 13:23:54 -0330 (NST)"),
            (0, &TimeZone::UTC, "Thu,  1 Jan 1970 00:00:00 +0000 (UTC)"),
        ] {
            // The second answer to the same question is remembered.
            assert_eq!([rfc5322(seconds, zone), rfc5322(seconds, zone)], [text, text]);
        }
        assert_eq!(ctime(0, &TimeZone::UTC), "Thu Jan  1 00:00:00 1970");
        assert_eq!(message_id_digits(1_795_280_034), "20261121165354");
        assert!(rfc5322(u64::MAX, &TimeZone::UTC).contains("9999"));
    }
}

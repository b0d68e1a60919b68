//! Moments made of times that have no year and no zone.
//!
//! A log is written forward: a time belongs to the year that puts it closest to the one before it. So December 31 is
//! followed by January 1 of the next year, and a clock that is set back an hour stays in its year. The first time of a
//! log belongs to the latest year that does not put it after the end of the log (the file's modification time), unless
//! the year is given. 29 February chooses a year that has one.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;

use crate::head::{Civil, Stamp};

/// More than this backwards is counted: less comes from programs that log through several ways.
const BACKWARDS: i64 = 60 * 1_000_000;
const DAY: i64 = 86_400;

/// Resolves the times of one host's lines.
#[derive(Clone, Debug)]
pub struct Clock {
    zone: TimeZone,
    /// The year of the first line, if it was given.
    year: Option<i16>,
    /// Seconds since the epoch that no line lies after, but for a day.
    latest: i64,
    /// Of the line before, as if it were UTC: seconds.
    last_civil: Option<i64>,
    last: Option<i64>,
    /// The hour that the offset below is for, as if it were UTC, in hours.
    hour: i64,
    offset: i64,
    /// How often the clock went backwards by more than a minute.
    pub backwards: u64,
    /// By how much at most, in seconds.
    pub furthest_back: u64,
}

impl Clock {
    /// For lines in this zone. `latest` is when the log ended (its modification time, or now), `year` that of its first
    /// line where that is known.
    pub fn new(zone: TimeZone, latest: Timestamp, year: Option<i16>) -> Self {
        let latest = i64::try_from(latest.seconds()).unwrap_or(i64::MAX / 4);
        Self {
            zone,
            year,
            latest,
            last_civil: None,
            last: None,
            hour: i64::MIN,
            offset: 0,
            backwards: 0,
            furthest_back: 0,
        }
    }

    /// The zone that times without an offset are in.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Reading goes on in the middle of a log, behind a line of this time.
    pub fn go_on_after(&mut self, last: Timestamp) {
        let seconds = i64::try_from(last.seconds()).unwrap_or(0);
        self.last_civil = Some(seconds + self.offset_at_utc(seconds));
        self.last = Some(seconds * 1_000_000);
    }

    /// When it was, and how it reads in the zone of the log.
    pub fn resolve(&mut self, stamp: Stamp) -> (Timestamp, Civil) {
        let (micros, civil) = match stamp {
            Stamp::Epoch(micros) => {
                let seconds = micros.div_euclid(1_000_000);
                let offset = self.offset_at_utc(seconds);
                (micros, Civil::from_utc(seconds + offset))
            }
            Stamp::Civil { mut civil, micros, offset } => {
                if civil.year == 0 {
                    civil.year = self.year_of(civil);
                    self.last_civil = Some(civil.as_utc());
                }
                let local = civil.as_utc();
                let offset = offset.map_or_else(|| self.offset_at_local(civil, local), i64::from);
                ((local - offset) * 1_000_000 + i64::from(micros), civil)
            }
        };
        if let Some(last) = self.last
            && micros + BACKWARDS < last
        {
            self.backwards += 1;
            self.furthest_back = self.furthest_back.max(((last - micros) / 1_000_000).unsigned_abs());
        }
        self.last = Some(micros);
        (Timestamp(u64::try_from(micros).unwrap_or(0)), civil)
    }

    fn year_of(&self, civil: Civil) -> i16 {
        let at = |year: i16| {
            let fits = civil.month != 2 || civil.day != 29 || is_leap(year);
            fits.then(|| Civil { year, ..civil }.as_utc())
        };
        if let Some(last) = self.last_civil {
            let near = Civil::from_utc(last).year;
            let distance = |year: i16| at(year).map_or(i64::MAX, |seconds| (seconds - last).abs());
            // Of two that are equally far the later one.
            let best = [near + 1, near, near - 1, near + 4, near - 4].into_iter().min_by_key(|year| distance(*year));
            return best.unwrap_or(near);
        }
        if let Some(year) = self.year {
            return year;
        }
        let newest = Civil::from_utc(self.latest + DAY).year;
        (0..9)
            .map(|back| newest - back)
            .find(|year| at(*year).is_some_and(|at| at <= self.latest + DAY))
            .unwrap_or(newest)
    }

    fn offset_at_local(&mut self, civil: Civil, local: i64) -> i64 {
        let hour = local.div_euclid(3600);
        if hour == self.hour {
            return self.offset;
        }
        let day = civil.day.min(days_in(civil.month, civil.year));
        // Fields were checked by the parser; a date that no calendar has falls back on UTC.
        let offset = DateTime::new(
            civil.year,
            civil.month as i8,
            day as i8,
            civil.hour as i8,
            civil.minute as i8,
            i8::try_from(civil.second.min(59)).unwrap_or(0),
            0,
        )
        .ok()
        .and_then(|when| self.zone.to_ambiguous_zoned(when).compatible().ok())
        .map_or(0, |zoned| i64::from(zoned.offset().seconds()));
        // An hour in which the offset changes is asked for line by line.
        let same = |minute: i64| {
            let at = hour * 3600 + minute * 60 - offset;
            self.offset_at_utc(at) == offset
        };
        if same(0) && same(59) {
            (self.hour, self.offset) = (hour, offset);
        }
        offset
    }

    fn offset_at_utc(&self, seconds: i64) -> i64 {
        jiff::Timestamp::from_second(seconds).map_or(0, |at| i64::from(self.zone.to_offset(at).seconds()))
    }
}

fn is_leap(year: i16) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(month: u8, year: i16) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_seconds(text.parse::<jiff::Timestamp>().unwrap().as_second() as u64)
    }

    fn stamp(line: &str) -> Stamp {
        crate::head::Head::parse(&format!("{line} mx a[1]: x")).unwrap().stamp
    }

    fn show(at: Timestamp) -> String {
        jiff::Timestamp::from_second(at.seconds() as i64).unwrap().to_string()
    }

    #[test]
    fn years() {
        // End of the log, given year, times, moments.
        type Case = (&'static str, Option<i16>, &'static [&'static str], &'static [&'static str]);
        let cases: &[Case] = &[
            ("2026-03-01T00:00:00Z", None, &["Feb 28 23:59:59"], &["2026-02-28T23:59:59Z"]),
            ("2026-03-01T00:00:00Z", None, &["Mar  1 12:00:00"], &["2026-03-01T12:00:00Z"]),
            ("2026-03-01T00:00:00Z", None, &["Mar  3 12:00:00"], &["2025-03-03T12:00:00Z"]),
            (
                "2026-01-02T00:00:00Z",
                None,
                &["Dec 30 10:00:00", "Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:58", "Jan  2 00:00:00"],
                &[
                    "2025-12-30T10:00:00Z",
                    "2025-12-31T23:59:59Z",
                    "2026-01-01T00:00:00Z",
                    "2025-12-31T23:59:58Z",
                    "2026-01-02T00:00:00Z",
                ],
            ),
            (
                "2026-01-02T00:00:00Z",
                Some(2009),
                &["Dec 31 10:00:00", "Jan  1 00:00:00"],
                &["2009-12-31T10:00:00Z", "2010-01-01T00:00:00Z"],
            ),
            ("2026-06-01T00:00:00Z", None, &["Feb 29 10:00:00"], &["2024-02-29T10:00:00Z"]),
            // Over a year month by month.
            (
                "2026-06-01T00:00:00Z",
                Some(2024),
                &["Mar  1 00:00:00", "Jul  1 00:00:00", "Nov  1 00:00:00", "Mar  1 00:00:00", "Aug  1 00:00:00"],
                &[
                    "2024-03-01T00:00:00Z",
                    "2024-07-01T00:00:00Z",
                    "2024-11-01T00:00:00Z",
                    "2025-03-01T00:00:00Z",
                    "2025-08-01T00:00:00Z",
                ],
            ),
        ];
        for (end, year, times, wanted) in cases {
            let mut clock = Clock::new(TimeZone::UTC, at(end), *year);
            let seen: Vec<String> = times.iter().map(|time| show(clock.resolve(stamp(time)).0)).collect();
            assert_eq!(seen, *wanted, "{times:?}");
        }
    }

    #[test]
    fn zones() {
        // A zone with a summer time, written out: no zone database is needed.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let mut clock = Clock::new(zone, at("2026-12-01T00:00:00Z"), None);
        for (time, wanted) in [
            ("Mar 29 01:59:59", "2026-03-29T00:59:59Z"),
            ("Mar 29 03:00:00", "2026-03-29T01:00:00Z"),
            ("Jul  1 12:00:00", "2026-07-01T10:00:00Z"),
            ("Oct 25 01:30:00", "2026-10-24T23:30:00Z"),
            ("Oct 25 03:30:00", "2026-10-25T02:30:00Z"),
            ("Nov  1 00:00:00", "2026-10-31T23:00:00Z"),
        ] {
            assert_eq!(show(clock.resolve(stamp(time)).0), wanted, "{time}");
        }
        let (moment, civil) = clock.resolve(Stamp::Epoch(1_782_900_000_000_000));
        assert_eq!((show(moment).as_str(), civil.hour), ("2026-07-01T10:00:00Z", 12));
        let (moment, civil) = clock.resolve(stamp("2026-11-21T16:42:26.123456+09:00"));
        assert_eq!((moment.0, civil.hour), (1_795_246_946_123_456, 16));
        assert!(clock.backwards >= 1);
    }

    #[test]
    fn a_clock_that_goes_backwards_is_counted() {
        let mut clock = Clock::new(TimeZone::UTC, at("2026-12-01T00:00:00Z"), None);
        for time in ["Nov 21 10:00:00", "Nov 21 09:59:50", "Nov 21 08:00:00", "Nov 21 12:00:00", "Feb 31 10:00:00"] {
            clock.resolve(stamp(time));
        }
        assert_eq!((clock.backwards, clock.furthest_back > 7000), (1, true));
    }
}

//! Dates of mail read without a calendar library's cost: RFC 5322 and what passes for it, ISO 8601.

use crate::finding::Date;

/// Days since 1970-01-01 of a day of the Gregorian calendar.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of a year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `2025-03-01` as seconds.
pub(crate) fn parse_day(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day): (i64, i64, i64) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let fits = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    (fits && parts.next().is_none()).then(|| days(year, month, day) * 86_400)
}

/// `2016-10-21T00:06:40.502Z`, with or without fraction, blank for the T.
pub(crate) fn parse_iso(text: &str) -> Option<Date> {
    let text = text.trim();
    let day = parse_day(text.get(..10)?)?;
    let rest = text.get(11..)?;
    let (clock, tail) = (rest.get(..8)?, rest.get(8..)?);
    let seconds = clock_seconds(clock)?;
    let zone = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).trim();
    let offset_minutes = zone_minutes(zone).unwrap_or(0);
    Some(Date { seconds: day + seconds - i64::from(offset_minutes) * 60, offset_minutes, zone_unknown: false })
}

fn clock_seconds(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let hour: i64 = parts.next()?.trim().parse().ok()?;
    let minute: i64 = parts.next()?.parse().ok()?;
    let second: i64 = match parts.next() {
        Some(text) => text.split('.').next()?.parse().ok()?,
        None => 0,
    };
    let fits = (0..=24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    fits.then_some(hour * 3600 + minute * 60 + second)
}

/// Minutes east of Greenwich of `+0900`, `+09:00`, `GMT+9`, `JST`, `Z`.
fn zone_minutes(zone: &str) -> Option<i32> {
    const NAMED: [(&str, i32); 24] = [
        ("Z", 0),
        ("UT", 0),
        ("UTC", 0),
        ("GMT", 0),
        ("JST", 540),
        ("KST", 540),
        ("EST", -300),
        ("EDT", -240),
        ("CST", -360),
        ("CDT", -300),
        ("MST", -420),
        ("MDT", -360),
        ("PST", -480),
        ("PDT", -420),
        ("CET", 60),
        ("CEST", 120),
        ("MET", 60),
        ("MEST", 120),
        ("EET", 120),
        ("EEST", 180),
        ("MSK", 180),
        ("WET", 0),
        ("BST", 60),
        ("IST", 330),
    ];
    let zone = zone.trim_matches(['(', ')']);
    if let Some((_, minutes)) = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(zone)) {
        return Some(*minutes);
    }
    let zone = zone.strip_prefix("GMT").or_else(|| zone.strip_prefix("UTC")).unwrap_or(zone);
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String =
        zone[1..].chars().take_while(|c| c.is_ascii_digit() || *c == ':').filter(|c| *c != ':').collect();
    let number: i32 = digits.parse().ok()?;
    let minutes = match digits.len() {
        4 => number / 100 * 60 + number % 100,
        1 | 2 => number * 60,
        3 => number / 100 * 60 + number % 100,
        _ => return None,
    };
    (minutes < 24 * 60).then_some(sign * minutes)
}

fn month(word: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let head = word.get(..3)?;
    let at = MONTHS.iter().position(|name| head.eq_ignore_ascii_case(name))?;
    i64::try_from(at + 1).ok()
}

/// The usual form, `Thu, 29 Apr 2010 23:34:45 +0900 (JST)`, the day of the week and the comment perhaps left out. `None` for
/// all that is not plainly this.
fn parse_common(text: &[u8]) -> Option<Date> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let two = |a: &u8, b: &u8| Some(digit(a)? * 10 + digit(b)?);
    let text = match text {
        [a, b, c, b',', b' ', rest @ ..] if [a, b, c].iter().all(|letter| letter.is_ascii_alphabetic()) => rest,
        _ => text,
    };
    let (day, text) = match text {
        [a, b' ', rest @ ..] => (digit(a)?, rest),
        [a, b, b' ', rest @ ..] => (two(a, b)?, rest),
        _ => return None,
    };
    let [m1, m2, m3, b' ', y1, y2, y3, y4, b' ', h1, h2, b':', i1, i2, b':', s1, s2, b' ', sign, rest @ ..] = text
    else {
        return None;
    };
    const MONTHS: [[u8; 3]; 12] =
        [*b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct", *b"Nov", *b"Dec"];
    let month = MONTHS.iter().position(|name| *name == [*m1, *m2, *m3])?;
    let month = i64::try_from(month + 1).ok()?;
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (hour, minute, second) = (two(h1, h2)?, two(i1, i2)?, two(s1, s2)?);
    let [z1, z2, z3, z4, comment @ ..] = rest else { return None };
    let zone = i32::try_from(two(z1, z2)? * 60 + two(z3, z4)?).ok()?;
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let plain = match comment {
        [] => true,
        [b' ', b'(', name @ .., b')'] => name.len() <= 5 && name.iter().all(u8::is_ascii_uppercase),
        _ => false,
    };
    let fits = plain
        && (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hour <= 24
        && minute < 60
        && second <= 60
        && zone < 24 * 60;
    let offset_minutes = sign * zone;
    let zone_unknown = sign < 0 && zone == 0;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - i64::from(offset_minutes) * 60;
    fits.then_some(Date { seconds, offset_minutes, zone_unknown })
}

/// A Date field and what passes for one: day of the week or none, commas or none, two-digit years, month before the day,
/// a time with AM or PM, a zone in letters, ISO 8601. `None` when day, month, year and time cannot all be found.
pub(crate) fn parse(text: &str) -> Option<Date> {
    let text = crate::text::trim(text);
    if let Some(date) = parse_common(text.as_bytes()) {
        return Some(date);
    }
    if text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && let Some(date) = parse_iso(text)
    {
        return Some(date);
    }
    let (mut day, mut mon, mut year, mut clock, mut zone) = (None, None, None, None, None);
    let mut afternoon = None;
    // No zone that RFC 5322 section 4.3 knows: it says no more than -0000.
    let mut utc = false;
    for word in text.split([' ', ',', '\t', '\n']).filter(|w| !w.is_empty()).take(14) {
        let word = word.trim_matches(['(', ')', '.']);
        if word.is_empty() {
            continue;
        }
        if word.contains(':') && clock.is_none() && word.as_bytes()[0].is_ascii_digit() {
            // A zone may stick to the time.
            let cut = word.find(['+', '-']).unwrap_or(word.len());
            clock = clock_seconds(&word[..cut]);
            if cut < word.len() {
                zone = zone_minutes(&word[cut..]);
            }
        } else if word.bytes().all(|b| b.is_ascii_digit()) {
            let number: i64 = word.parse().ok()?;
            if day.is_none() && word.len() <= 2 && (1..=31).contains(&number) {
                day = Some(number);
            } else if year.is_none() {
                year = match word.len() {
                    4 => Some(number),
                    1..=3 if number < 70 => Some(2000 + number),
                    2 => Some(1900 + number),
                    // A program that counted from 1900.
                    3 => Some(1900 + number),
                    _ => None,
                };
            }
        } else if let Some(found) =
            month(word).filter(|_| mon.is_none() && word.bytes().all(|b| b.is_ascii_alphabetic()))
        {
            mon = Some(found);
        } else if word.eq_ignore_ascii_case("am") || word.eq_ignore_ascii_case("pm") {
            afternoon = Some(word.eq_ignore_ascii_case("pm"));
        } else if zone.is_none() && clock.is_some() {
            zone = zone_minutes(word);
            utc = word.eq_ignore_ascii_case("UTC");
        } else if let Some((d, rest)) = word.split_once(['-', '/'])
            && let Some((m, y)) = rest.split_once(['-', '/'])
        {
            // 09-May-2009, 2009/05/09, 04/29/2010
            let (a, b, c) = (d.parse::<i64>().ok(), month(m).or_else(|| m.parse().ok()), y.parse::<i64>().ok());
            if let (Some(a), Some(b), Some(c)) = (a, b, c) {
                (year, mon, day) = if a > 31 {
                    (Some(a), Some(b), Some(c))
                } else if month(m).is_none() && b > 12 {
                    (Some(c), Some(a), Some(b))
                } else {
                    (
                        Some(if c < 70 {
                            2000 + c
                        } else if c < 100 {
                            1900 + c
                        } else {
                            c
                        }),
                        Some(b),
                        Some(a),
                    )
                };
            }
        }
    }
    let (day, mon, year, mut clock) = (day?, mon?, year?, clock?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&mon) || !(1..=31).contains(&day) {
        return None;
    }
    match afternoon {
        Some(true) if clock < 12 * 3600 => clock += 12 * 3600,
        Some(false) if clock >= 12 * 3600 => clock -= 12 * 3600,
        _ => {}
    }
    let offset_minutes = zone.unwrap_or(0);
    let seconds = days(year, mon, day) * 86_400 + clock - i64::from(offset_minutes) * 60;
    Some(Date { seconds, offset_minutes, zone_unknown: zone == Some(0) && (utc || text.contains("-0000")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, seconds, offset) in [
            ("Thu, 1 Jan 1970 00:00:00 +0000", 0, 0),
            ("1 Jan 1970 00:00:00 UTC", 0, 0),
            ("Thu, 29 Apr 2010 23:34:45 +0900 (JST)", 1_272_551_685, 540),
            ("29 Apr 2010 14:34:45 -0000", 1_272_551_685, 0),
            ("Thu, 29 Apr 2010 06:34:45 PST", 1_272_551_685, -480),
            ("Thu Apr 29 14:34:45 2010", 1_272_551_685, 0),
            ("Thu,29 Apr 2010 23:34:45 +0900", 1_272_551_685, 540),
            ("Thu 29 Apr 2010 23:34:45 +0900", 1_272_551_685, 540),
            ("2010-04-29T14:34:45.123Z", 1_272_551_685, 0),
            ("2010-04-29T23:34:45+09:00", 1_272_551_685, 540),
            ("29-Apr-10 14:34:45 GMT", 1_272_551_685, 0),
            ("Thursday, Apr 29, 2010 2:34:45 PM", 1_272_551_685, 0),
        ] {
            let zone_unknown = text.ends_with("-0000") || text.ends_with("UTC");
            assert_eq!(parse(text), Some(Date { seconds, offset_minutes: offset, zone_unknown }), "{text}");
        }
        for (text, offset) in [
            ("29 Apr 2010 14:34:45 -0000", "-0000"),
            ("Thu Apr 29 14:34:45 2010 -0000", "-0000"),
            ("29 Apr 2010 14:34:45 +0000", "+0000"),
            ("29 Apr 2010 14:34:45 GMT", "+0000"),
            ("Thu, 29 Apr 10 14:34:45 UTC", "-0000"),
            ("Thu, 29 Apr 10 14:34:45 UT", "+0000"),
            ("Thu, 29 Apr 2010 14:34:45 +0000 (UTC)", "+0000"),
            ("29 Apr 2010 14:34:45 -0330", "-0330"),
        ] {
            assert_eq!(parse(text).map(|date| date.offset()).as_deref(), Some(offset), "{text}");
        }
        for text in ["", "yesterday", "Thu, 29 Apr", "99 99 9999 99:99:99", "1 Jan 1970"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse_day("2025-03-01"), Some(1_740_787_200));
        assert_eq!(parse_day("2025-13-01"), None);
    }
}

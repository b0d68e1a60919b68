//! What stands before the text of a line: time, host, program, process.
//!
//! | form | looks like |
//! | --- | --- |
//! | RFC 3164 | `Nov 21 16:42:26 mx postfix/smtpd[123]: text`, with `<22>` before it or without, with a year or without |
//! | RFC 5424 | `<22>1 2026-11-21T16:42:26.123456+09:00 mx postfix/smtpd 123 - - text` |
//! | ISO 8601 | `2026-11-21T16:42:26.123456+09:00 mx postfix/smtpd[123]: text` (rsyslog, journalctl -o short-iso) |
//! | Exim | `2026-11-21 16:42:26 text`, with `+0900` or `[pid]` after the time or without |
//! | multilog | `@400000003b4a39c23294b13c text`, or the same through tai64nlocal |

use crate::take::{digits, until, word};

/// A time as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Civil {
    /// 0 when it was not written.
    pub year: i16,
    /// 1 to 12
    pub month: u8,
    /// 1 to 31
    pub day: u8,
    /// 0 to 23
    pub hour: u8,
    /// 0 to 59
    pub minute: u8,
    /// 0 to 60
    pub second: u8,
}

impl Civil {
    /// Seconds since the epoch if this were UTC.
    pub fn as_utc(self) -> i64 {
        let (year, month, day) = (i64::from(self.year), i64::from(self.month), i64::from(self.day));
        // Days from civil, with years that begin in March.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// The time of day and date that so many seconds since the epoch are in UTC.
    pub fn from_utc(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march = (5 * of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        // All but the year are small by their computation.
        Self {
            year: i16::try_from(year).unwrap_or(i16::MAX),
            month: month as u8,
            day: (of_year - (153 * march + 2) / 5 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

/// When, as far as the line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// A date and time.
    Civil {
        /// Date and time.
        civil: Civil,
        /// 0 to 999,999
        micros: u32,
        /// Seconds east of Greenwich; `None`: in the zone of the machine.
        offset: Option<i32>,
    },
    /// Microseconds since the epoch.
    Epoch(i64),
}

/// A line taken apart up to its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// When.
    pub stamp: Stamp,
    /// Host as written; empty where the form has none.
    pub host: &'a str,
    /// `postfix/smtpd`, `sm-mta`, `qmail`; empty where the form has none (multilog, Exim's own file).
    pub tag: &'a str,
    /// Process ID, 0 when there is none.
    pub pid: u32,
    /// The rest.
    pub text: &'a str,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl<'a> Head<'a> {
    /// Takes a line apart. `None` when it has none of the forms.
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        match line.as_bytes().first()? {
            b'0'..=b'9' => iso(line),
            b'@' => tai(line),
            b'<' => {
                let (priority, rest) = until(&line[1..], ">")?;
                if priority.len() > 3 || digits(priority).is_none() {
                    return None;
                }
                match rest.strip_prefix("1 ") {
                    Some(rest) => rfc5424(rest),
                    None if rest.as_bytes().first()?.is_ascii_digit() => iso(rest),
                    None => rfc3164(rest),
                }
            }
            _ => rfc3164(line),
        }
    }
}

fn two(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [a @ (b'0'..=b'9' | b' '), b @ b'0'..=b'9'] => Some((a & 0xf) * 10 + (b - b'0')),
        _ => None,
    }
}

/// `16:42:26`
fn clock(bytes: &[u8]) -> Option<(u8, u8, u8)> {
    if bytes.len() < 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(&bytes[..2])?, two(&bytes[3..5])?, two(&bytes[6..8])?);
    (hour < 24 && minute < 60 && second <= 60).then_some((hour, minute, second))
}

/// `.123456` at the beginning, in microseconds, and how long it is.
fn fraction(bytes: &[u8]) -> (u32, usize) {
    if !matches!(bytes.first(), Some(b'.' | b',')) {
        return (0, 0);
    }
    let (mut micros, mut step, mut length) = (0, 100_000, 1);
    while let Some(digit) = bytes.get(length).filter(|byte| byte.is_ascii_digit()) {
        micros += u32::from(digit - b'0') * step;
        step /= 10;
        length += 1;
    }
    (micros, length)
}

/// `Nov 21 16:42:26 `, also with a year before or after the day.
fn rfc3164(line: &str) -> Option<Head<'_>> {
    let bytes = line.as_bytes();
    let name = bytes.get(..4)?;
    if name[3] != b' ' {
        return None;
    }
    let month = MONTHS.iter().position(|month| **month == name[..3])? as u8 + 1;
    let day = two(bytes.get(4..6)?)?;
    if day == 0 || day > 31 || bytes.get(6) != Some(&b' ') {
        return None;
    }
    let (mut year, mut at) = (0, 7);
    // Cisco's and some BSDs' form: `Nov 21 2026 16:42:26`.
    if bytes.get(11) == Some(&b' ')
        && let Some(number) = line.get(7..11).and_then(digits)
    {
        (year, at) = (number as i16, 12);
    }
    let (hour, minute, second) = clock(bytes.get(at..at + 8)?)?;
    let (micros, length) = fraction(&bytes[at + 8..]);
    // Only ASCII so far, so this is the boundary of a character.
    let rest = line.get(at + 8 + length..)?.trim_start_matches(':');
    let rest = rest.strip_prefix(' ')?;
    let civil = Civil { year, month, day, hour, minute, second };
    tagged(Stamp::Civil { civil, micros, offset: None }, rest)
}

/// `host tag[pid]: text`; syslogs that are told so leave the host out.
fn tagged(stamp: Stamp, rest: &str) -> Option<Head<'_>> {
    let (first, after) = word(rest);
    if let Some(tag) = first.strip_suffix(':') {
        let (tag, pid) = tag_and_pid(tag);
        return Some(Head { stamp, host: "", tag, pid, text: solaris(after) });
    }
    if let Some((tag, text)) = until(after, ": ")
        && tag.len() <= 128
        && !tag.contains(' ')
    {
        let (tag, pid) = tag_and_pid(tag);
        return Some(Head { stamp, host: first, tag, pid, text: solaris(text) });
    }
    // `last message repeated 3 times`, `host tag: ` without a text.
    let (tag, pid) = match after.strip_suffix(':') {
        Some(tag) if !tag.contains(' ') => tag_and_pid(tag),
        _ => ("", 0),
    };
    Some(Head { stamp, host: first, tag, pid, text: if tag.is_empty() { after } else { "" } })
}

fn tag_and_pid(tag: &str) -> (&str, u32) {
    match tag.strip_suffix(']').and_then(|tag| tag.rsplit_once('[')) {
        Some((tag, pid)) => (tag, digits(pid).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)),
        None => (tag, 0),
    }
}

/// Solaris puts `[ID 197553 mail.info] ` before the text.
fn solaris(text: &str) -> &str {
    match text.strip_prefix("[ID ").and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => text,
    }
}

/// Offset after an ISO time: `Z`, `+09:00`, `+0900`, `+09`. Seconds, and how long it is.
fn offset(bytes: &[u8]) -> (Option<i32>, usize) {
    let sign = match bytes.first() {
        Some(b'Z' | b'z') => return (Some(0), 1),
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return (None, 0),
    };
    let Some(hours) = bytes.get(1..3).and_then(two) else { return (None, 0) };
    let (minutes, length) = match bytes.get(3) {
        Some(b':') => (bytes.get(4..6).and_then(two), 6),
        Some(b'0'..=b'9') => (bytes.get(3..5).and_then(two), 5),
        _ => (Some(0), 3),
    };
    match minutes {
        Some(minutes) if hours <= 23 && minutes < 60 => {
            (Some(sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60)), length)
        }
        _ => (None, 0),
    }
}

/// `2026-11-21T16:42:26.123456+09:00`: the stamp and what follows.
fn iso_stamp(line: &str) -> Option<(Stamp, &str)> {
    let bytes = line.as_bytes();
    if bytes.len() < 19 || bytes[4] != b'-' || bytes[7] != b'-' || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let year = line.get(..4).and_then(digits)? as i16;
    let (month, day) = (two(&bytes[5..7])?, two(&bytes[8..10])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let (hour, minute, second) = clock(&bytes[11..])?;
    let (micros, length) = fraction(&bytes[19..]);
    let mut at = 19 + length;
    let (mut zone, length) = offset(&bytes[at..]);
    at += length;
    // Exim's `log_timezone`: a blank between.
    if zone.is_none() && bytes[10] == b' ' && matches!(bytes.get(at + 1), Some(b'+' | b'-')) {
        let (found, length) = offset(&bytes[at + 1..]);
        if found.is_some() {
            zone = found;
            at += 1 + length;
        }
    }
    let civil = Civil { year, month, day, hour, minute, second };
    let rest = line.get(at..)?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(' ')? };
    Some((Stamp::Civil { civil, micros, offset: zone }, rest))
}

fn iso(line: &str) -> Option<Head<'_>> {
    let blank = line.as_bytes().get(10) == Some(&b' ');
    let (stamp, rest) = iso_stamp(line)?;
    if !blank {
        return tagged(stamp, rest);
    }
    // Exim, or multilog through tai64nlocal: no host, no tag. Some rsyslog templates write a blank too: then there is a tag.
    let (first, after) = word(rest);
    if let Some(pid) = first.strip_prefix('[').and_then(|pid| pid.strip_suffix(']')).and_then(digits) {
        return Some(Head { stamp, host: "", tag: "", pid: pid as u32, text: after });
    }
    let tag = word(after).0;
    if tag.ends_with(':') && (tag.contains('[') || tag.contains('/')) && !first.contains('-') && !first.contains('=') {
        return tagged(stamp, rest);
    }
    Some(Head { stamp, host: "", tag: "", pid: 0, text: rest })
}

/// `2026-11-21T16:42:26.123456+09:00 mx postfix/smtpd 123 - - text`
fn rfc5424(rest: &str) -> Option<Head<'_>> {
    let (stamp, rest) = iso_stamp(rest)?;
    let (host, rest) = word(rest);
    let (tag, rest) = word(rest);
    let (pid, rest) = word(rest);
    let (_message, rest) = word(rest);
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix("- ") {
        rest = after;
    } else if rest == "-" {
        rest = "";
    } else {
        // Structured data: elements in brackets, with quoted values in which a bracket may stand escaped.
        let (mut quoted, mut escaped, mut end) = (false, false, rest.len());
        for (at, byte) in rest.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b' ' if !quoted && at > 0 && rest.as_bytes()[at - 1] == b']' => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        rest = rest.get(end..)?.trim_start();
    }
    let nil = |text: &'_ str| text == "-";
    Some(Head {
        stamp,
        host: if nil(host) { "" } else { host },
        tag: if nil(tag) { "" } else { tag },
        pid: digits(pid).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        text: rest.strip_prefix('\u{feff}').unwrap_or(rest),
    })
}

/// `@400000003b4a39c23294b13c text`: seconds since 1970 TAI plus 2^62, nanoseconds.
fn tai(line: &str) -> Option<Head<'_>> {
    let label = line.get(1..25)?;
    let seconds = u64::from_str_radix(label.get(..16)?, 16).ok()?.checked_sub(1 << 62)?;
    let nanos = u32::from_str_radix(label.get(16..)?, 16).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    // multilog does not know leap seconds: its TAI is UTC plus 10 s.
    let seconds = i64::try_from(seconds).ok()?.checked_sub(10).filter(|seconds| *seconds < 1 << 40)?;
    let text = line.get(25..)?;
    let text = if text.is_empty() { text } else { text.strip_prefix(' ')? };
    Some(Head { stamp: Stamp::Epoch(seconds * 1_000_000 + i64::from(nanos / 1000)), host: "", tag: "", pid: 0, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, time as `Y-M-D h:m:s.micros offset`, host, tag, pid, text.
    const TABLE: &[(&str, &str, &str, &str, u32, &str)] = &[
        (
            "Nov  1 16:42:06 mx postfix/smtpd[123]: connect from a: b",
            "0-11-1 16:42:6.0 -",
            "mx",
            "postfix/smtpd",
            123,
            "connect from a: b",
        ),
        ("<22>Nov 21 16:42:06 mx postfix/smtpd[1]: x", "0-11-21 16:42:6.0 -", "mx", "postfix/smtpd", 1, "x"),
        ("<22>Nov 21 16:42:06 postfix/smtpd[1]: x y", "0-11-21 16:42:6.0 -", "", "postfix/smtpd", 1, "x y"),
        ("Nov 21 2026 16:42:06 mx postfix/smtpd[1]: x", "2026-11-21 16:42:6.0 -", "mx", "postfix/smtpd", 1, "x"),
        ("Nov 21 16:42:06.123 mx postfix/smtpd[1]: x", "0-11-21 16:42:6.123000 -", "mx", "postfix/smtpd", 1, "x"),
        (
            "Nov 21 16:42:06 mx postfix/qmgr[9]: [ID 197553 mail.info] 9C5: removed",
            "0-11-21 16:42:6.0 -",
            "mx",
            "postfix/qmgr",
            9,
            "9C5: removed",
        ),
        (
            "Nov 21 16:42:06 mx last message repeated 3 times",
            "0-11-21 16:42:6.0 -",
            "mx",
            "",
            0,
            "last message repeated 3 times",
        ),
        (
            "Nov 21 16:42:06 mx qmail: 1795280034.5 new msg 1",
            "0-11-21 16:42:6.0 -",
            "mx",
            "qmail",
            0,
            "1795280034.5 new msg 1",
        ),
        (
            "2026-11-21T16:42:26.123456+09:00 mx postfix/qmgr[1]: 4X: removed",
            "2026-11-21 16:42:26.123456 32400",
            "mx",
            "postfix/qmgr",
            1,
            "4X: removed",
        ),
        (
            "2026-11-21T16:42:26+0900 mx postfix/qmgr[1]: 4X: removed",
            "2026-11-21 16:42:26.0 32400",
            "mx",
            "postfix/qmgr",
            1,
            "4X: removed",
        ),
        ("2026-11-21T16:42:26Z mx postfix/qmgr[1]: x", "2026-11-21 16:42:26.0 0", "mx", "postfix/qmgr", 1, "x"),
        (
            "<22>1 2026-11-21T16:42:26.5-01:30 mx postfix/smtp 77 - - 4X: to=<a>",
            "2026-11-21 16:42:26.500000 -5400",
            "mx",
            "postfix/smtp",
            77,
            "4X: to=<a>",
        ),
        (
            "<22>1 2026-11-21T16:42:26Z mx postfix/smtp - ID7 [a b=\"c\\\"] d\"][e] text",
            "2026-11-21 16:42:26.0 0",
            "mx",
            "postfix/smtp",
            0,
            "text",
        ),
        (
            "2026-11-21 16:42:26 1wABCD-0001ab-Cd <= a@b",
            "2026-11-21 16:42:26.0 -",
            "",
            "",
            0,
            "1wABCD-0001ab-Cd <= a@b",
        ),
        (
            "2026-11-21 16:42:26.123 +0900 [55] 1wABCD-0001ab-Cd Completed",
            "2026-11-21 16:42:26.123000 32400",
            "",
            "",
            55,
            "1wABCD-0001ab-Cd Completed",
        ),
        ("2026-11-21 16:42:26.123456789 new msg 5", "2026-11-21 16:42:26.123456 -", "", "", 0, "new msg 5"),
        (
            "2026-11-21 16:42:26 mx postfix/smtpd[3]: connect from x",
            "2026-11-21 16:42:26.0 -",
            "mx",
            "postfix/smtpd",
            3,
            "connect from x",
        ),
        ("@400000003b4a39c23294b13c new msg 5", "994720184.848605", "", "", 0, "new msg 5"),
    ];

    #[test]
    fn forms() {
        for (line, stamp, host, tag, pid, text) in TABLE {
            let head = Head::parse(line).unwrap_or_else(|| panic!("{line}"));
            let shown = match head.stamp {
                Stamp::Epoch(micros) => format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000),
                Stamp::Civil { civil: c, micros, offset } => {
                    let micros = if micros > 0 { format!("{micros:06}") } else { "0".to_owned() };
                    let offset = offset.map_or("-".to_owned(), |offset| offset.to_string());
                    format!("{}-{}-{} {}:{}:{}.{micros} {offset}", c.year, c.month, c.day, c.hour, c.minute, c.second)
                }
            };
            assert_eq!(shown, *stamp, "{line}");
            assert_eq!((head.host, head.tag, head.pid, head.text), (*host, *tag, *pid, *text), "{line}");
        }
    }

    #[test]
    fn no_heads() {
        for line in [
            "",
            "x",
            "Nov",
            "Nov 21",
            "Nov 32 16:42:06 mx a[1]: b",
            "Nov 21 25:42:06 mx a[1]: b",
            "Nov 21 16:42:06",
            "山山山山山山山山山山",
            "Nov 21 16:42:0山 mx a: b",
            "2026-11-21",
            "2026-13-21T16:42:26Z mx a[1]: b",
            "2026-11-21T16:42:26+09:00mx a[1]: b",
            "<22>",
            "<2222>Nov 21 16:42:06 mx a[1]: b",
            "<22>1 x",
            "@4000",
            "@zz0000003b4a39c23294b13c x",
            "@400000003b4a39c2ffffffff x",
            "@ffffffffffffffff3294b13c x",
            "\u{feff}",
        ] {
            assert_eq!(Head::parse(line), None, "{line}");
        }
    }

    #[test]
    fn calendar() {
        for seconds in [0, 951_782_400, 951_868_799, 1_795_280_034, 4_102_444_799, -86_400] {
            assert_eq!(Civil::from_utc(seconds).as_utc(), seconds);
        }
        let civil = Civil { year: 2024, month: 2, day: 29, hour: 12, minute: 0, second: 1 };
        assert_eq!(civil.as_utc(), 1_709_208_001);
    }
}

//! Log lines taken apart: our own and those of Postfix since 2.3.
//!
//! A reader of the wild never fails loudly: a line that is not what was asked for is `None`.

use std::time::Duration;

use yamabiko_envelope::DeliveryStatus;
use yamabiko_status::EnhancedStatus;

use crate::header::MONTHS;

/// A line of a mail log: what stands before the text, and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When, as written: syslog's form has no year.
    pub time: Time<'a>,
    /// Host, as written.
    pub host: &'a str,
    /// `postfix`, or what `syslog_name` was; may have slashes in it.
    pub syslog_name: &'a str,
    /// The program: `smtpd`, `qmgr`, ...
    pub program: &'a str,
    /// Process ID.
    pub pid: Option<u32>,
    /// The rest.
    pub text: &'a str,
}

/// The time of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time<'a> {
    /// `Nov 21 16:42:26`: month 1 to 12, day, hour, minute, second, in the zone of the machine.
    Syslog {
        /// 1 to 12
        month: u8,
        /// 1 to 31
        day: u8,
        /// 0 to 23
        hour: u8,
        /// 0 to 59
        minute: u8,
        /// 0 to 60
        second: u8,
    },
    /// `2026-11-21T16:42:26.123456+09:00` (rsyslog's high-precision form), as written.
    Rfc3339(&'a str),
}

impl<'a> Line<'a> {
    /// Takes a line apart. `None` when it is not a syslog line of a `name/program[pid]:` kind.
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim_end_matches(['\n', '\r']);
        let (time, rest) = if line.as_bytes().first()?.is_ascii_digit() {
            let (time, rest) = line.split_once(' ')?;
            (Time::Rfc3339(time), rest)
        } else {
            syslog_time(line)?
        };
        let (host, rest) = rest.split_once(' ')?;
        let (tag, text) = rest.split_once(": ")?;
        let (tag, pid) = match tag.strip_suffix(']').and_then(|tag| tag.rsplit_once('[')) {
            Some((tag, pid)) => (tag, Some(pid.parse().ok()?)),
            None => (tag, None),
        };
        let (syslog_name, program) = tag.rsplit_once('/')?;
        Some(Self { time, host, syslog_name, program, pid, text })
    }
}

fn syslog_time(line: &str) -> Option<(Time<'_>, &str)> {
    // Month, day and time have fixed places: "Nov  1 16:42:26 ".
    let (head, rest) = line.split_at_checked(16)?;
    let number = |from: usize| head.get(from..from + 2)?.trim_start().parse::<u8>().ok();
    let month = MONTHS.iter().position(|m| head.starts_with(m))?;
    let time =
        // The table has 12 entries.
        Time::Syslog { month: month as u8 + 1, day: number(4)?, hour: number(7)?, minute: number(10)?, second: number(13)? };
    Some((time, rest))
}

/// A delivery line: one recipient, one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryLine<'a> {
    /// As written; Postfix's short form is no [`QueueId`](yamabiko_envelope::QueueId).
    pub queue_id: &'a str,
    /// `to=`, external form.
    pub recipient: &'a str,
    /// `orig_to=`, external form.
    pub original: Option<&'a str>,
    /// `relay=`
    pub relay: &'a str,
    /// `conn_use=`, 1 when absent.
    pub connection_use: u32,
    /// `delay=`
    pub delay: Duration,
    /// `delays=`; absent before 2.3.
    pub delays: Option<[Duration; 4]>,
    /// `tls=`, from 3.11 on.
    pub tls: Option<&'a str>,
    /// `dsn=`; absent before 2.3.
    pub dsn: Option<EnhancedStatus>,
    /// `status=`
    pub status: DeliveryStatus,
    /// The text in parentheses.
    pub reason: &'a str,
}

impl<'a> DeliveryLine<'a> {
    /// From the text of a line. `None` when it is another kind of line.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (queue_id, rest) = text.split_once(": to=<")?;
        if queue_id.is_empty() || !queue_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (recipient, mut rest) = bracketed(rest)?;
        let mut original = None;
        if let Some(after) = rest.strip_prefix("orig_to=<") {
            let (address, after) = bracketed(after)?;
            original = Some(address);
            rest = after;
        }
        let (mut relay, mut connection_use, mut delay, mut delays, mut tls, mut dsn) = ("", 1, None, None, None, None);
        // `status=` is the last one: what follows is the peer's text and may contain anything.
        loop {
            let (name, after) = rest.split_once('=')?;
            if name == "status" {
                let (word, reason) = after.split_once(" (")?;
                // A line that was cut has no closing parenthesis.
                let reason = reason.strip_suffix(')').unwrap_or(reason);
                let (delay, status) = (delay?, status(word)?);
                let line = Self {
                    queue_id,
                    recipient,
                    original,
                    relay,
                    connection_use,
                    delay,
                    delays,
                    tls,
                    dsn,
                    status,
                    reason,
                };
                return Some(line);
            }
            let (value, after) = after.split_once(", ")?;
            match name {
                "relay" => relay = value,
                "conn_use" => connection_use = value.parse().ok()?,
                "delay" => delay = Some(seconds(value)?),
                "delays" => delays = Some(four(value)?),
                "tls" => tls = Some(value),
                "dsn" => dsn = Some(value.parse().ok()?),
                _ => return None,
            }
            rest = after;
        }
    }
}

/// An address up to the `>, ` that ends it; a quoted local part may contain that too.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            // Both ends are ASCII, so the cuts are at character boundaries.
            b'>' if !quoted => return Some((&text[..at], text[at + 1..].strip_prefix(", ")?)),
            _ => {}
        }
    }
    None
}

fn status(word: &str) -> Option<DeliveryStatus> {
    use DeliveryStatus::{Bounced, Deferred, Deliverable, Sent, SoftBounce, Undeliverable};
    [Sent, Deferred, Bounced, SoftBounce, Deliverable, Undeliverable]
        .into_iter()
        .find(|status| crate::line::status_word(*status) == word)
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

fn four(text: &str) -> Option<[Duration; 4]> {
    let mut parts = text.split('/').map(seconds);
    let four = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(four)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::{Style, text};
    use yamabiko_envelope::Kind;

    #[test]
    fn what_is_written_can_be_read() {
        let mut seen = 0;
        for (event, _) in crate::line::tests::table() {
            let line = text(&event, Style::default());
            let read = DeliveryLine::parse(&line);
            let Kind::Delivered(delivery) = &event.kind else {
                assert_eq!(read, None, "{line}");
                continue;
            };
            seen += 1;
            let read = read.unwrap();
            assert_eq!(read.queue_id, delivery.queue_id.to_string());
            assert_eq!(read.recipient, crate::line::external(&delivery.recipient));
            assert_eq!(read.relay, delivery.relay);
            assert_eq!(read.connection_use.max(1), delivery.connection_use.max(1));
            assert_eq!(read.dsn, Some(delivery.dsn));
            assert_eq!(read.status, delivery.status);
            assert_eq!(read.reason, delivery.reason);
            let differs = !delivery.original.is_empty() && delivery.original != delivery.recipient;
            assert_eq!(read.original.is_some(), differs);
            let off = read.delay.as_secs_f64() - delivery.delays.total().as_secs_f64();
            assert!(off.abs() <= 0.5, "{line}");
        }
        assert!(seen >= 3);
    }

    #[test]
    fn whole_lines() {
        let line = Line::parse("Nov  1 16:42:06 mx postfix/submission/smtpd[123]: connect from a: b\n").unwrap();
        assert_eq!(line.time, Time::Syslog { month: 11, day: 1, hour: 16, minute: 42, second: 6 });
        assert_eq!((line.host, line.syslog_name, line.program), ("mx", "postfix/submission", "smtpd"));
        assert_eq!((line.pid, line.text), (Some(123), "connect from a: b"));
        let line = Line::parse("2026-11-21T16:42:26.123456+09:00 mx postfix/qmgr[1]: 4X: removed").unwrap();
        assert_eq!(line.time, Time::Rfc3339("2026-11-21T16:42:26.123456+09:00"));
        assert_eq!(line.text, "4X: removed");
    }

    #[test]
    fn other_ages_of_postfix() {
        let old = "9C5269BCFE4: to=<a@b.jp>, relay=mx.b.jp[192.0.2.1], delay=95, status=sent (250 ok)";
        let read = DeliveryLine::parse(old).unwrap();
        assert_eq!((read.delays, read.dsn, read.delay), (None, None, Duration::from_secs(95)));
        let new = "9C5269BCFE4: to=<a@b.jp>, relay=mx.b.jp[192.0.2.1]:25, delay=1, delays=0/0/1/0, tls=may:none, \
                   dsn=5.1.1, status=bounced (host said: 550 x, status=sent (ha))";
        let read = DeliveryLine::parse(new).unwrap();
        assert_eq!((read.tls, read.status), (Some("may:none"), DeliveryStatus::Bounced));
        assert_eq!(read.reason, "host said: 550 x, status=sent (ha)");
    }

    #[test]
    fn hostile_lines() {
        for line in [
            "",
            "x",
            "Nov",
            "Nov  1 16:42:06",
            "山山山山山山山山山山",
            "Nov 21 16:42:26 mx",
            "Nov xx 16:42:26 mx a/b[1]: c",
            "Nov 21 16:42:26 mx a/b[99999999999]: c",
            "Nov 21 16:42:26 mx ab[1]: c",
        ] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
        for text in [
            "",
            ": to=<",
            "Q: to=<",
            "Q: to=<a",
            "Q: to=<a>",
            "Q: to=<a>, ",
            "Q: to=<a>, relay=x, delay=-1, status=sent (x)",
            "Q: to=<a>, relay=x, delay=1e999, status=sent (x)",
            "Q: to=<a>, relay=x, delay=1, delays=1/2/3, status=sent (x)",
            "Q: to=<a>, relay=x, delay=1, delays=1/2/3/4/5, status=sent (x)",
            "Q: to=<a>, relay=x, status=sent (x)",
            "Q: to=<a>, relay=x, delay=1, status=odd (x)",
            "NO QUEUE: to=<a>, relay=x, delay=1, status=sent (x)",
            "Q: to=<\"a>, relay=x, delay=1, status=sent (x)",
        ] {
            assert_eq!(DeliveryLine::parse(text), None, "{text}");
        }
        let quoted = "Q: to=<\"a>, \\\"b\"@c>, orig_to=<d>, relay=x, delay=1, status=sent (x";
        let read = DeliveryLine::parse(quoted).unwrap();
        assert_eq!((read.recipient, read.original, read.reason), ("\"a>, \\\"b\"@c", Some("d"), "x"));
    }
}

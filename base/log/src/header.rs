//! What stands before the text of a line: time, host, service and process.

use std::fmt::Write;

use jiff::tz::TimeZone;
use yamabiko_envelope::{Origin, Timestamp};

/// The part of the header that is the same for every line of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host name up to the first dot, as syslog writes it.
    pub name: String,
    /// The process.
    pub pid: u32,
}

impl Host {
    /// From the machine's host name, of which only the part before the first dot is shown.
    pub fn new(hostname: &str, pid: u32) -> Self {
        let name = hostname.split('.').next().unwrap_or_default();
        Self { name: if name.is_empty() { "localhost".into() } else { name.into() }, pid }
    }
}

/// Which header a target wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `Nov 21 16:42:26 mx postfix/smtpd[123]: `: files and stdout.
    File,
    /// `<22>Nov 21 16:42:26 postfix/smtpd[123]: `: the local syslog socket, with facility and severity in the number
    /// and without a host, as the C library writes it. The facility (0 to 23) is given.
    Syslog(u8),
}

/// Writes headers; remembers the text of the last second, as lines come many per second.
#[derive(Debug)]
pub struct Header {
    host: Host,
    zone: TimeZone,
    second: Option<u64>,
    text: String,
}

impl Header {
    /// For this host and process, in the given time zone.
    pub fn new(host: Host, zone: TimeZone) -> Self {
        Self { host, zone, second: None, text: String::new() }
    }

    /// The host and process it was made for.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Appends the header of a line. `severity` is syslog's number (3 error, 4 warning, 6 info).
    pub fn push(&mut self, out: &mut String, prefix: Prefix, at: Timestamp, origin: &Origin, severity: u8) {
        if self.second != Some(at.seconds()) {
            self.text.clear();
            let when = zoned(at, &self.zone);
            // Writing to a String cannot fail.
            let _ = write!(
                self.text,
                "{} {:2} {:02}:{:02}:{:02} ",
                MONTHS[usize::from(when.month().unsigned_abs().clamp(1, 12)) - 1],
                when.day(),
                when.hour(),
                when.minute(),
                when.second()
            );
            self.second = Some(at.seconds());
        }
        let _ = match prefix {
            Prefix::File => write!(out, "{}{} ", self.text, self.host.name),
            Prefix::Syslog(facility) => write!(out, "<{}>{}", u32::from(facility) * 8 + u32::from(severity), self.text),
        };
        let _ = write!(out, "{origin}[{}]: ", self.host.pid);
    }

    /// The time with date, microseconds and offset, as RFC 3339 writes it.
    pub fn iso(&self, at: Timestamp) -> String {
        zoned(at, &self.zone).strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string()
    }
}

/// English month names as `%b` gives them in the C locale.
pub(crate) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn zoned(at: Timestamp, zone: &TimeZone) -> jiff::Zoned {
    // A time beyond the calendar (year 9999) is nobody's; show the epoch rather than fail.
    let micros = i64::try_from(at.0).unwrap_or_default();
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn headers() {
        let mut header = Header::new(Host::new("mx.lab.test", 123), TimeZone::UTC);
        let origin = Origin::new(&Arc::from("postfix/submission"), "smtpd");
        // 2026-11-21 16:42:26 and 2026-03-05 01:02:03, UTC.
        let cases = [
            (1_795_279_346_000_000, Prefix::File, 6, "Nov 21 16:42:26 mx postfix/submission/smtpd[123]: "),
            (1_772_672_523_999_999, Prefix::File, 6, "Mar  5 01:02:03 mx postfix/submission/smtpd[123]: "),
            (1_795_279_346_000_000, Prefix::Syslog(2), 4, "<20>Nov 21 16:42:26 postfix/submission/smtpd[123]: "),
            (1_795_279_346_000_000, Prefix::Syslog(2), 6, "<22>Nov 21 16:42:26 postfix/submission/smtpd[123]: "),
        ];
        for (at, prefix, severity, text) in cases {
            let mut out = String::new();
            header.push(&mut out, prefix, Timestamp(at), &origin, severity);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        let tagged = Origin::new(&Arc::from(""), "backup");
        header.push(&mut out, Prefix::Syslog(2), Timestamp(1_795_279_346_000_000), &tagged, 6);
        assert_eq!(out, "<22>Nov 21 16:42:26 backup[123]: ");
        let mut out = String::new();
        header.push(&mut out, Prefix::File, Timestamp(u64::MAX), &origin, 6);
        assert!(out.starts_with("Jan  1 "), "{out}");
        assert_eq!(header.iso(Timestamp(1_795_279_346_000_012)), "2026-11-21T16:42:26.000012+00:00");
    }

    #[test]
    fn host_names() {
        for (given, name) in [("mx.lab.test", "mx"), ("mx", "mx"), ("", "localhost"), (".", "localhost")] {
            assert_eq!(Host::new(given, 1).name, name);
        }
    }
}

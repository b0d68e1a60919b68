//! Lines to entries, and the count of everything that was read.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;

use crate::clock::Clock;
use crate::entry::{Entry, System, What};
use crate::head::Head;
use crate::lines::Line;
use crate::{exim, json, postfix, qmail, sendmail};

/// So many examples of each kind of trouble are kept.
const SAMPLES: usize = 5;
/// An example is cut to so many characters.
const SAMPLE: usize = 160;
/// So many hosts have a clock of their own, and so many other programs a count.
const NAMES: usize = 1000;

/// A line that was not understood, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it begins in its file.
    pub offset: u64,
    /// Its beginning, printable.
    pub text: String,
}

/// A kind of trouble: how often, and a few examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// The first few.
    pub samples: Vec<Sample>,
}

impl Tally {
    fn add(&mut self, line: &Line<'_>) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            let text = String::from_utf8_lossy(&line.bytes[..line.bytes.len().min(SAMPLE * 4)]);
            let text = text.chars().take(SAMPLE).map(|c| if c.is_control() { '?' } else { c }).collect();
            self.samples.push(Sample { offset: line.offset, text });
        }
    }

    fn take(&mut self, other: Self) {
        self.count += other.count;
        self.samples.extend(other.samples.into_iter().take(SAMPLES.saturating_sub(self.samples.len())));
    }
}

/// What was read, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Lines.
    pub lines: u64,
    /// Bytes, line ends included.
    pub bytes: u64,
    /// Lines of each mail system.
    pub systems: [u64; 4],
    /// Empty lines.
    pub blank: u64,
    /// Lines of other programs, by name.
    pub others: HashMap<String, u64>,
    /// Of a mail program, in words that are not known.
    pub unknown: Tally,
    /// No line of a log at all.
    pub unreadable: Tally,
    /// Longer than [`crate::lines::LONGEST`]; the first part was read.
    pub too_long: Tally,
    /// Not UTF-8; read with marks in the place of what was not.
    pub not_utf8: Tally,
    /// With zero bytes in it.
    pub binary: Tally,
    /// `last message repeated N times`: the sum of N.
    pub repeated: u64,
    /// The clock went backwards by more than a minute.
    pub backwards: u64,
    /// By how much at most, in seconds.
    pub furthest_back: u64,
    /// Times more than a day after the end of the log: its year is probably wrong.
    pub future: u64,
    /// The first and the last moment.
    pub span: Option<(Timestamp, Timestamp)>,
}

impl Counts {
    /// Adds what another reader has counted.
    pub fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        for (sum, more) in self.systems.iter_mut().zip(other.systems) {
            *sum += more;
        }
        self.blank += other.blank;
        for (name, count) in other.others {
            *self.others.entry(name).or_default() += count;
        }
        self.unknown.take(other.unknown);
        self.unreadable.take(other.unreadable);
        self.too_long.take(other.too_long);
        self.not_utf8.take(other.not_utf8);
        self.binary.take(other.binary);
        self.repeated += other.repeated;
        self.backwards += other.backwards;
        self.furthest_back = self.furthest_back.max(other.furthest_back);
        self.future += other.future;
        self.span = match (self.span, other.span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }

    /// Lines of mail systems.
    pub fn mail(&self) -> u64 {
        self.systems.iter().sum()
    }
}

/// Reads the lines of a log, or of several that belong together.
#[derive(Debug)]
pub struct Reader {
    zone: TimeZone,
    latest: Timestamp,
    year: Option<i16>,
    clocks: Vec<(String, Clock)>,
    /// The clock of the line before.
    at: usize,
    /// Reading goes on behind this time.
    after: Option<Timestamp>,
    /// The host of lines that have none.
    host: String,
    /// What a file without tags holds, once a line has shown it.
    tagless: Option<System>,
    counts: Counts,
}

impl Reader {
    /// For lines in this zone. `latest`, `year`: see [`Clock::new`]. `host` stands for hosts that lines don't say.
    pub fn new(zone: TimeZone, latest: Timestamp, year: Option<i16>, host: &str) -> Self {
        Self {
            zone,
            latest,
            year,
            clocks: Vec::new(),
            at: 0,
            after: None,
            host: host.to_owned(),
            tagless: None,
            counts: Counts::default(),
        }
    }

    /// Reading goes on in the middle of a log, behind a line of this time.
    pub fn go_on_after(&mut self, last: Timestamp) {
        self.after = Some(last);
    }

    /// The log that is read now ends here, or was still written to by then.
    pub fn ends(&mut self, latest: Timestamp) {
        self.latest = latest;
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        for (_, clock) in &self.clocks {
            counts.backwards += clock.backwards;
            counts.furthest_back = counts.furthest_back.max(clock.furthest_back);
        }
        counts
    }

    /// Reads a line and gives what it says: nothing, one entry, or one for each recipient (sendmail).
    pub fn line(&mut self, line: &Line<'_>, give: &mut dyn FnMut(&Entry<'_>)) {
        self.counts.lines += 1;
        self.counts.bytes += line.next - line.offset;
        if line.cut {
            self.counts.too_long.add(line);
        }
        if line.bytes.is_empty() {
            self.counts.blank += 1;
            return;
        }
        match std::str::from_utf8(line.bytes) {
            Ok(text) => self.text(text, line, give),
            Err(_) => {
                self.counts.not_utf8.add(line);
                let text = String::from_utf8_lossy(line.bytes);
                self.text(&text, line, give);
            }
        }
    }

    fn text(&mut self, text: &str, line: &Line<'_>, give: &mut dyn FnMut(&Entry<'_>)) {
        if memchr::memchr(0, line.bytes).is_some() {
            self.counts.binary.add(line);
        }
        if text.starts_with('{') {
            match json::parse(text) {
                Some(object) => self.head(&object.head(), line, give),
                None => self.counts.unreadable.add(line),
            }
            return;
        }
        match Head::parse(text) {
            Some(head) => self.head(&head, line, give),
            None => self.counts.unreadable.add(line),
        }
    }

    fn head(&mut self, head: &Head<'_>, line: &Line<'_>, give: &mut dyn FnMut(&Entry<'_>)) {
        let (syslog_name, program) = head.tag.rsplit_once('/').unwrap_or(("", head.tag));
        let of_postfix = postfix::is_program(program) && (head.tag.len() > program.len() || program != "sendmail");
        let system = if of_postfix || head.tag == "postfix" {
            System::Postfix
        } else if sendmail::is_program(head.tag) {
            System::Sendmail
        } else if head.tag.starts_with("qmail") {
            System::Qmail
        } else if head.tag.starts_with("exim") {
            System::Exim
        } else if head.tag.is_empty() {
            match self.untagged(head, line) {
                Some(system) => system,
                None => return,
            }
        } else {
            match self.counts.others.get_mut(head.tag) {
                Some(count) => *count += 1,
                None => {
                    let name = if self.counts.others.len() < NAMES { head.tag } else { "(more)" };
                    *self.counts.others.entry(name.to_owned()).or_default() += 1;
                }
            }
            return;
        };
        self.counts.systems[system as usize] += 1;
        let (at, civil) = self.clock(head.host).resolve(head.stamp);
        self.counts.span = Some(match self.counts.span {
            Some((first, last)) => (first.min(at), last.max(at)),
            None => (at, at),
        });
        if at.seconds() > self.latest.seconds().saturating_add(86_400) {
            self.counts.future += 1;
        }
        let mut entry = Entry {
            at,
            civil,
            host: if head.host.is_empty() { "" } else { head.host },
            system,
            syslog_name,
            program: if program.is_empty() { system_program(system) } else { program },
            pid: head.pid,
            text: head.text,
            what: What::Unknown,
        };
        let host = std::mem::take(&mut self.host);
        if entry.host.is_empty() {
            entry.host = &host;
        }
        let counts = &mut self.counts;
        let mut tell = |what: What<'_>| {
            if what == What::Unknown {
                counts.unknown.add(line);
            }
            give(&Entry { what, ..entry });
        };
        match system {
            System::Postfix => tell(postfix::parse(program, head.text)),
            System::Sendmail => sendmail::parse(head.text, &mut tell),
            System::Qmail => tell(qmail::parse(head.text)),
            System::Exim => tell(exim::parse(head.text)),
        }
        self.host = host;
    }

    /// Lines without a tag: Exim's own file, multilog, or a remark of the syslog itself.
    fn untagged(&mut self, head: &Head<'_>, line: &Line<'_>) -> Option<System> {
        if let Some(rest) = head.text.strip_prefix("last message repeated ") {
            self.counts.repeated += crate::take::number(rest).map_or(1, |(times, _)| times);
            return None;
        }
        if exim::is_text(head.text) {
            self.tagless = Some(System::Exim);
        } else if qmail::is_text(head.text) {
            self.tagless = Some(System::Qmail);
        }
        if self.tagless.is_none() {
            self.counts.unreadable.add(line);
        }
        self.tagless
    }

    fn clock(&mut self, host: &str) -> &mut Clock {
        let here = self.clocks.get(self.at).is_some_and(|(name, _)| name == host);
        if !here {
            self.at = match self.clocks.iter().position(|(name, _)| name == host) {
                Some(at) => at,
                // Rubbish can name many hosts; those that come late share a clock.
                None if self.clocks.len() >= NAMES => 0,
                None => {
                    let mut clock = Clock::new(self.zone.clone(), self.latest, self.year);
                    if let Some(last) = self.after {
                        clock.go_on_after(last);
                    }
                    self.clocks.push((host.to_owned(), clock));
                    self.clocks.len() - 1
                }
            };
        }
        // `at` is the place of a clock: found, or just pushed.
        &mut self.clocks[self.at].1
    }
}

fn system_program(system: System) -> &'static str {
    match system {
        System::Postfix => "postfix",
        System::Sendmail => "sendmail",
        System::Qmail => "qmail",
        System::Exim => "exim",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Lines;

    /// The second line of each is what Debug shows of `what`, up to its first brace.
    fn read(text: &[u8]) -> (Vec<String>, Counts) {
        let latest = Timestamp::from_seconds(1_796_000_000);
        let mut reader = Reader::new(TimeZone::UTC, latest, None, "here");
        let mut lines = Lines::new(text, 0);
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            reader.line(&line, &mut |entry| {
                let what = format!("{:?}", entry.what);
                let what = what.split([' ', '(']).next().unwrap_or_default().to_owned();
                seen.push(format!("{} {} {} {what}", entry.host, entry.system.name(), entry.program));
            });
        }
        (seen, reader.counts())
    }

    #[test]
    fn a_file_with_everything() {
        let mut text = b"Nov 21 16:42:26 mx postfix/qmgr[1]: 9C5269BCFE4: removed\n\
            Nov 21 16:42:26 mx postfix/submission/smtpd[1]: connect from a[192.0.2.1]\n\
            Nov 21 16:42:26 mx sm-mta[1]: 4AL7gQ1x012345: to=<a@b>,<c@d>, delay=00:00:01, stat=Sent (ok)\n\
            Nov 21 16:42:26 mx sendmail[1]: 4AL7gQ1x012345: from=<a@b>, size=1\n\
            Nov 21 16:42:26 mx postfix/sendmail[1]: fatal: x\n\
            Nov 21 16:42:26 mx qmail: 1795280034.5 end msg 5\n\
            @400000003b4a39c23294b13c new msg 5\n\
            2026-11-21 16:42:26 1wABCD-0001ab-Cd Completed\n\
            Nov 21 16:42:27 mx last message repeated 3 times\n\
            Nov 21 16:42:27 mx sshd[5]: session opened\n\
            Nov 21 16:42:27 mx postfix/smtpd[1]: strange\n\
            \n\
            rubbish\n\
            {\"a\":1}\n"
            .to_vec();
        text.extend_from_slice(b"Nov 21 16:42:27 mx postfix/smtpd[1]: warning: \xff\xfe\n");
        text.extend_from_slice(b"Nov 21 16:42:27 mx postfix/smtpd[1]: warning: \0\n");
        text.extend_from_slice(
            &[b"Nov 21 16:42:27 mx postfix/smtpd[1]: warning: ".to_vec(), vec![b'x'; 100_000], b"\n".to_vec()].concat(),
        );
        let (seen, counts) = read(&text);
        assert_eq!(
            seen,
            [
                "mx Postfix qmgr Removed",
                "mx Postfix smtpd Connected",
                "mx sendmail sm-mta Attempt",
                "mx sendmail sm-mta Attempt",
                "mx sendmail sendmail Queued",
                "mx Postfix sendmail Trouble",
                "mx qmail qmail Removed",
                "here qmail qmail Accepted",
                "here Exim exim Removed",
                "mx Postfix smtpd Unknown",
                "mx Postfix smtpd Trouble",
                "mx Postfix smtpd Trouble",
                "mx Postfix smtpd Trouble",
            ]
        );
        assert_eq!((counts.lines, counts.bytes, counts.blank), (17, text.len() as u64, 1));
        assert_eq!((counts.systems, counts.repeated), ([7, 2, 2, 1], 3));
        assert_eq!(counts.others, HashMap::from([("sshd".to_owned(), 1)]));
        assert_eq!((counts.unknown.count, counts.unreadable.count), (1, 2));
        assert_eq!((counts.too_long.count, counts.not_utf8.count, counts.binary.count), (1, 1, 1));
        assert!(counts.unreadable.samples[0].text == "rubbish");
        // Every line is somewhere.
        let other: u64 = counts.others.values().sum();
        assert_eq!(counts.mail() + other + counts.blank + counts.unreadable.count + 1, counts.lines);
    }
}

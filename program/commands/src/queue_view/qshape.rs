//! `qshape`: how much mail there is per domain and age.

use std::collections::HashMap;
use std::io::{self, Write};

use yamabiko_envelope::Timestamp;

/// The options of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `-s`: count sender domains.
    pub senders: bool,
    /// `-p`: count for parent domains too.
    pub parents: bool,
    /// `-m`: show parents with at least so many subdomains.
    pub minimum_subdomains: usize,
    /// `-b`: number of age buckets, at least 1.
    pub buckets: usize,
    /// `-t`: width of the first bucket in minutes, at least 1.
    pub minutes: u64,
    /// `-l`: all buckets have the same width; else each is as wide as all before it.
    pub linear: bool,
    /// `-w`: width of the output; below 80 it is 80.
    pub width: usize,
    /// `-n`: so many lines at most.
    pub top: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            senders: false,
            parents: false,
            minimum_subdomains: 5,
            buckets: 10,
            minutes: 5,
            linear: false,
            width: 80,
            top: None,
        }
    }
}

/// Width of the domain column at least.
const DOMAIN_WIDTH: usize = 18;

/// Counts messages as they are found.
#[derive(Debug)]
pub struct Shape {
    options: Options,
    now: Timestamp,
    /// By domain: all, then one per bucket.
    counts: HashMap<String, Vec<u64>>,
    /// Subdomains counted, by parent with its leading dot.
    subdomains: HashMap<String, usize>,
}

impl Shape {
    /// Nothing counted yet; ages are those at `now`.
    pub fn new(options: Options, now: Timestamp) -> Self {
        let options = Options { buckets: options.buckets.max(1), minutes: options.minutes.max(1), ..options };
        let total = (String::from("TOTAL"), vec![0; options.buckets + 1]);
        Self { options, now, counts: HashMap::from([total]), subdomains: HashMap::new() }
    }

    /// Counts a message: its recipients, or its sender.
    pub fn add<'a>(&mut self, arrival: Timestamp, sender: &str, recipients: impl IntoIterator<Item = &'a str>) {
        let bucket = self.bucket(arrival);
        if self.options.senders {
            self.count(bucket, sender);
        } else {
            recipients.into_iter().for_each(|recipient| self.count(bucket, recipient));
        }
    }

    fn bucket(&self, arrival: Timestamp) -> usize {
        let ticks = self.now.seconds().saturating_sub(arrival.seconds()) / (60 * self.options.minutes);
        let bucket = match ticks {
            0 => 1,
            ticks if self.options.linear => usize::try_from(ticks).unwrap_or(usize::MAX).saturating_add(1),
            ticks => 2 + ticks.ilog2() as usize,
        };
        bucket.min(self.options.buckets)
    }

    fn count(&mut self, bucket: usize, address: &str) {
        self.bump("TOTAL", bucket);
        let mut domain = domain_of(address);
        let mut new_child = self.bump(&domain, bucket);
        while self.options.parents {
            // `.b.c` for `a.b.c` and `.a.b.c`, as long as there is a dot within.
            let Some((_, rest)) = domain.trim_start_matches('.').split_once('.') else { break };
            if !rest.contains('.') {
                break;
            }
            let parent = format!(".{rest}");
            let new = self.bump(&parent, bucket);
            if new_child {
                *self.subdomains.entry(parent.clone()).or_default() += 1;
            }
            (domain, new_child) = (parent, new);
        }
    }

    /// True when it is the first of its domain.
    fn bump(&mut self, domain: &str, bucket: usize) -> bool {
        let buckets = self.options.buckets;
        if !self.counts.contains_key(domain) {
            self.counts.insert(domain.to_owned(), vec![0; buckets + 1]);
        }
        let Some(counts) = self.counts.get_mut(domain) else { return false };
        // There is a place for all and one for each of the buckets, which are numbered from 1.
        counts[0] += 1;
        counts[bucket] += 1;
        counts[0] == 1
    }

    /// Writes the table.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Options { buckets, minutes, linear, width, .. } = self.options;
        let mut heads = vec![String::from("T")];
        let mut age = 0u64;
        for bucket in 1..=buckets {
            if bucket == buckets {
                heads.push(format!("{age}+"));
            } else {
                age = age.saturating_add(if age > 0 && !linear { age } else { minutes });
                heads.push(age.to_string());
            }
        }
        let total = &self.counts["TOTAL"];
        let widths: Vec<usize> = heads
            .iter()
            .zip(total)
            .map(|(head, count)| match head.len().max(count.to_string().len()) {
                longest if longest > 2 => longest + 1,
                _ => 3,
            })
            .collect();
        let room = width.max(80).saturating_sub(widths.iter().sum()).max(DOMAIN_WIDTH);
        let mut line = |name: &str, cells: &[String]| {
            write!(out, "{}", fitted(name, room))?;
            cells.iter().zip(&widths).try_for_each(|(cell, width)| write!(out, "{cell:>width$}"))?;
            writeln!(out)
        };
        line("", &heads)?;
        let few = |name: &str| self.subdomains.get(name).copied().unwrap_or(0) < self.options.minimum_subdomains;
        let mut rows: Vec<(&String, &Vec<u64>)> =
            self.counts.iter().filter(|(name, _)| !(name.starts_with('.') && few(name))).collect();
        rows.sort_by(|a, b| (b.1[0], a.0.len(), a.0).cmp(&(a.1[0], b.0.len(), b.0)));
        for (name, counts) in rows.into_iter().take(self.options.top.unwrap_or(usize::MAX)) {
            line(name, &counts.iter().map(u64::to_string).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn domain_of(address: &str) -> String {
    if address.is_empty() {
        return "MAILER-DAEMON".into();
    }
    let domain = address.rsplit_once('@').map_or(address, |(_, domain)| domain).to_lowercase().replace("..", ".");
    let inner = domain.strip_prefix('.').filter(|rest| !rest.is_empty()).unwrap_or(&domain);
    let inner = inner.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(inner);
    // Control characters have no business on a terminal.
    super::printable(inner).into_owned()
}

/// To the right of its column; the front of what is too long is cut off and marked with `+`.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return format!("{name:>width$}");
    }
    let (mark, keep) = if name.starts_with('.') { (".+", width - 2) } else { ("+", width - 1) };
    let tail: String = name.chars().skip(length - keep).collect();
    format!("{mark}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 10_000_000;

    fn shape(options: Options, mail: &[(u64, &str, &[&str])]) -> String {
        let mut shape = Shape::new(options, Timestamp::from_seconds(NOW));
        for (age, sender, recipients) in mail {
            shape.add(Timestamp::from_seconds(NOW - age), sender, recipients.iter().copied());
        }
        let mut out = Vec::new();
        shape.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn default_table() {
        let mail: &[(u64, &str, &[&str])] = &[
            (10, "a@b.example", &["x@remote.example", "y@Remote.example", "z@other.example"]),
            (301, "", &["x@remote.example"]),
            (200_000, "a@b.example", &["x@remote.example."]),
        ];
        let wanted = "                                         T  5 10 20 40 80 160 320 640 1280 1280+
                                  TOTAL  5  3  1  0  0  0   0   0   0    0     1
                         remote.example  4  2  1  0  0  0   0   0   0    0     1
                          other.example  1  1  0  0  0  0   0   0   0    0     0
";
        assert_eq!(shape(Options::default(), mail), wanted);
        let senders = Options { senders: true, ..Options::default() };
        let wanted = "                                         T  5 10 20 40 80 160 320 640 1280 1280+
                                  TOTAL  3  1  1  0  0  0   0   0   0    0     1
                              b.example  2  1  0  0  0  0   0   0   0    0     1
                          MAILER-DAEMON  1  0  1  0  0  0   0   0   0    0     0
";
        assert_eq!(shape(senders, mail), wanted);
        let top = Options { top: Some(1), ..Options::default() };
        assert_eq!(shape(top, mail).lines().count(), 2);
        assert_eq!(shape(Options::default(), &[]).lines().count(), 2);
    }

    #[test]
    fn buckets() {
        let bucket = |linear, minutes, buckets, age| {
            let options = Options { linear, minutes, buckets, ..Options::default() };
            Shape::new(options, Timestamp::from_seconds(NOW)).bucket(Timestamp::from_seconds(NOW - age))
        };
        for (age, wanted) in [(0, 1), (299, 1), (300, 2), (599, 2), (600, 3), (1199, 3), (1200, 4), (9_999_999, 10)] {
            assert_eq!(bucket(false, 5, 10, age), wanted, "{age}");
        }
        for (age, wanted) in [(0, 1), (59, 1), (60, 2), (120, 3), (239, 4), (240, 4)] {
            assert_eq!(bucket(true, 1, 4, age), wanted, "{age}");
        }
        assert_eq!(bucket(false, 0, 0, 10_000), 1);
    }

    #[test]
    fn parents() {
        let recipients: Vec<String> = (0..6).map(|n| format!("x@h{n}.sub.example.jp")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let options = Options { parents: true, ..Options::default() };
        let out = shape(options, &[(0, "", &recipients), (0, "", &["x@h1.sub.example.jp"])]);
        let names: Vec<&str> = out.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(names[..3], ["TOTAL", ".sub.example.jp", "h1.sub.example.jp"]);
        assert!(!names.contains(&".example.jp"), "one subdomain only");
        let all = Options { parents: true, minimum_subdomains: 1, ..Options::default() };
        let out = shape(all, &[(0, "", &["x@a.b.example.jp"])]);
        assert!(out.contains(" .b.example.jp ") && out.contains(" .example.jp ") && !out.contains(" .jp "), "{out}");
    }

    #[test]
    fn names() {
        for (address, domain) in [
            ("a@B.example", "b.example"),
            ("\"a@x\"@b", "b"),
            ("local", "local"),
            ("a@.b..c.", "b.c"),
            ("a@.", "."),
            ("", "MAILER-DAEMON"),
        ] {
            assert_eq!(domain_of(address), domain, "{address}");
        }
        assert_eq!(fitted("abcdefgh", 5), "+efgh");
        assert_eq!(fitted(".abcdefg", 5), ".+efg");
        assert_eq!(fitted("ab", 5), "   ab");
    }
}

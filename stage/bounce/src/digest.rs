//! A few mails instead of a flood: the first notice of a class goes out, what follows is counted, and comes as a summary after
//! a while, then at growing intervals while there is more (`notify_digest_classes`). `notify_hourly_limit` bounds what the
//! postmaster gets in an hour, whatever the class.
//!
//! * [`Digest::take`] decides about one notice: it goes out, or it was counted.
//! * [`Digest::due`] gives the summaries that are due; [`Digest::next`] says when the next will be; [`Digest::flush`] gives all
//!   that was counted, for the end of the program.
//!
//! Nothing is lost from the counts: what a summary says and what went out at once is together all that was taken. Tables of
//! reasons, destinations, senders and clients are bounded; what has no place in them is counted as others. `resource` and
//! `software` always go out at once. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_envelope::{Timestamp, Trouble, TroubleClass};
use yamabiko_message::date::{Zone, rfc5322};

/// Lines of a table in a summary.
const SHOWN: usize = 10;
/// Different values that are counted by name.
const NAMES: usize = 1000;
/// Samples in a summary.
const SAMPLES: usize = 3;
/// Bytes of a value.
const VALUE: usize = 200;
const HOUR: Duration = Duration::from_secs(3600);

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestSettings {
    /// `notify_digest_classes`
    pub classes: HashSet<TroubleClass>,
    /// `notify_digest_interval`
    pub interval: Duration,
    /// `notify_digest_maximal_interval`
    pub maximal_interval: Duration,
    /// `notify_hourly_limit`; 0 for none.
    pub hourly_limit: usize,
}

impl DigestSettings {
    /// From main.cf. Words that are no class are told.
    pub fn from_view(view: &View) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut classes = HashSet::new();
        for word in view.list("notify_digest_classes") {
            match TroubleClass::of(&word) {
                Some(TroubleClass::Resource | TroubleClass::Software) => {
                    warnings.push(format!("notify_digest_classes: {word} is always told at once"));
                }
                Some(class) => drop(classes.insert(class)),
                None => warnings.push(format!("notify_digest_classes: unknown class: {word}")),
            }
        }
        let interval = view.duration("notify_digest_interval");
        let settings = Self {
            classes,
            interval,
            maximal_interval: view.duration("notify_digest_maximal_interval").max(interval),
            hourly_limit: usize::try_from(view.int("notify_hourly_limit")).unwrap_or(0),
        };
        (settings, warnings)
    }

    /// Anything is counted at all.
    pub fn is_on(&self) -> bool {
        !self.classes.is_empty() || self.hourly_limit > 0
    }
}

/// What becomes of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes out.
    Send,
    /// It was counted and stands in a summary later.
    Counted,
}

/// How often which values were seen.
#[derive(Clone, Debug, Default)]
struct Tally {
    counts: HashMap<String, u64>,
    others: u64,
}

impl Tally {
    fn add(&mut self, value: &str) {
        if value.is_empty() {
            return;
        }
        let end = (0..=VALUE.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        let value = &value[..end];
        if let Some(count) = self.counts.get_mut(value) {
            *count += 1;
        } else if self.counts.len() < NAMES {
            self.counts.insert(value.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    /// The most frequent ones.
    fn top(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(value, count)| (value.as_str(), *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all
    }
}

/// What was counted since a moment.
#[derive(Clone, Debug)]
struct Window {
    since: Timestamp,
    due: Timestamp,
    interval: Duration,
    count: u64,
    /// Reasons, destinations, senders, clients.
    tallies: [Tally; 4],
    samples: Vec<String>,
    previous: Option<Previous>,
}

/// What the summary before said.
#[derive(Clone, Debug)]
struct Previous {
    count: u64,
    lasted: Duration,
    names: [HashSet<String>; 4],
}

const TITLES: [&str; 4] = ["Reasons", "Destinations", "Senders", "Clients"];

/// A summary to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of which class.
    pub class: TroubleClass,
    /// How many notices it stands for.
    pub count: u64,
    /// From when on.
    pub since: Timestamp,
    /// `Subject:` without the name of the mail system.
    pub subject: String,
    /// The text, lines with their line ends.
    pub text: String,
}

/// Counts notices.
#[derive(Debug)]
pub struct Digest {
    settings: DigestSettings,
    windows: BTreeMap<TroubleClass, Window>,
    /// When mails went out, within the last hour.
    sent: VecDeque<Timestamp>,
}

/// A reason without what differs each time: queue IDs, numbers, addresses.
pub fn normal_reason(reason: &str) -> String {
    let mut words = Vec::new();
    for word in reason.split_whitespace() {
        let bare = word.trim_matches(|c: char| "<>()[]:;,.\"'".contains(c));
        let digits = bare.bytes().filter(u8::is_ascii_digit).count();
        let code = bare.len() <= 7 && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        // Queue IDs: ours, and the long ones of Postfix.
        let name = bare.len() >= 10
            && digits > 0
            && bare.bytes().all(|b| b.is_ascii_alphanumeric())
            && bare.bytes().any(|b| b.is_ascii_lowercase())
            && bare.bytes().any(|b| b.is_ascii_uppercase());
        let changes = name
            || bare.contains('@')
            || (digits > 3 && !code)
            || (digits > 0 && bare.contains('[') && bare.contains(']'));
        words.push(if changes { "*" } else { word });
        if words.len() >= 24 {
            break;
        }
    }
    words.join(" ")
}

impl Digest {
    /// Nothing counted yet.
    pub fn new(settings: DigestSettings) -> Self {
        Self { settings, windows: BTreeMap::new(), sent: VecDeque::new() }
    }

    /// Other settings; what was counted stays.
    pub fn reconfigure(&mut self, settings: DigestSettings) {
        self.settings = settings;
    }

    fn forget(&mut self, now: Timestamp) {
        while self.sent.front().is_some_and(|at| now.since(*at) >= HOUR) {
            self.sent.pop_front();
        }
    }

    fn has_room(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.settings.hourly_limit == 0 || self.sent.len() < self.settings.hourly_limit
    }

    fn went_out(&mut self, now: Timestamp) {
        if self.settings.hourly_limit > 0 {
            self.sent.push_back(now);
        }
    }

    /// Decides about a notice. `sample` is a line that says which it was.
    pub fn take(&mut self, trouble: &Trouble, sample: &str, now: Timestamp) -> Fate {
        let Some(class) = trouble.classes.iter().copied().max() else { return Fate::Send };
        if matches!(class, TroubleClass::Resource | TroubleClass::Software) {
            return Fate::Send;
        }
        let digested = self.settings.classes.contains(&class);
        let counting = self.windows.contains_key(&class);
        let room = self.has_room(now);
        if room && !(digested && counting) {
            self.went_out(now);
            if digested {
                self.windows.insert(class, Window::new(now, self.settings.interval, None));
            }
            return Fate::Send;
        }
        let interval = self.settings.interval;
        let window = self.windows.entry(class).or_insert_with(|| Window::new(now, interval, None));
        window.add(trouble, sample);
        Fate::Counted
    }

    /// When [`Digest::due`] has something to do.
    pub fn next(&self) -> Option<Timestamp> {
        self.windows.values().map(|window| window.due).min()
    }

    /// The summaries that are due.
    pub fn due(&mut self, now: Timestamp, zone: &Zone) -> Vec<Summary> {
        let mut out = Vec::new();
        let due: Vec<TroubleClass> =
            self.windows.iter().filter(|(_, window)| window.due <= now).map(|(class, _)| *class).collect();
        for class in due {
            let room = self.has_room(now);
            let free_at = self.sent.front().map_or(now, |first| *first + HOUR);
            let Some(window) = self.windows.get_mut(&class) else { continue };
            if window.count == 0 {
                // It is quiet again: the next one goes out at once.
                self.windows.remove(&class);
            } else if !room {
                window.due = free_at;
            } else {
                out.push(window.summary(class, now, zone));
                let interval = (window.interval * 2).min(self.settings.maximal_interval);
                *window = Window::new(now, interval, Some(window.as_previous(now)));
                self.went_out(now);
            }
        }
        out
    }

    /// All that was counted, due or not.
    pub fn flush(&mut self, now: Timestamp, zone: &Zone) -> Vec<Summary> {
        let windows = std::mem::take(&mut self.windows);
        let counted = windows.into_iter().filter(|(_, window)| window.count > 0);
        counted.map(|(class, window)| window.summary(class, now, zone)).collect()
    }
}

impl Window {
    fn new(now: Timestamp, interval: Duration, previous: Option<Previous>) -> Self {
        let (tallies, samples) = (<[Tally; 4]>::default(), Vec::new());
        Self { since: now, due: now + interval, interval, count: 0, tallies, samples, previous }
    }

    fn add(&mut self, trouble: &Trouble, sample: &str) {
        self.count += 1;
        let reason = normal_reason(&trouble.reason);
        let new = !self.tallies[0].counts.contains_key(&reason);
        for (tally, value) in
            self.tallies.iter_mut().zip([&reason, &trouble.destination, &trouble.sender, &trouble.client])
        {
            tally.add(value);
        }
        if self.samples.len() < SAMPLES && (new || self.samples.is_empty() || self.count > 100) {
            self.samples.push(sample.to_owned());
        }
    }

    fn as_previous(&self, now: Timestamp) -> Previous {
        let names = |tally: &Tally| tally.top().into_iter().take(SHOWN).map(|(value, _)| value.to_owned()).collect();
        Previous {
            count: self.count,
            lasted: now.since(self.since),
            names: [0, 1, 2, 3].map(|at| names(&self.tallies[at])),
        }
    }

    fn summary(&self, class: TroubleClass, now: Timestamp, zone: &Zone) -> Summary {
        let lasted = now.since(self.since);
        let count = self.count;
        let subject = format!("{count} notices of class {} in {}", class.name(), words_of(lasted));
        let mut text = format!(
            "{count} notices of class {} were not sent one by one.\nSince {}\nuntil {}\n\n",
            class.name(),
            rfc5322(self.since.seconds(), zone),
            rfc5322(now.seconds(), zone)
        );
        text.push_str(&self.trend(lasted));
        for (tally, title) in self.tallies.iter().zip(TITLES) {
            put_table(&mut text, title, tally);
        }
        self.put_changes(&mut text);
        if !self.samples.is_empty() {
            text.push_str("\nSamples\n");
            for sample in &self.samples {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {sample}");
            }
        }
        text.push_str("\nThe mail log has a line for each of them.\n");
        Summary { class, count, since: self.since, subject, text }
    }

    fn trend(&self, lasted: Duration) -> String {
        let rate = per_hour(self.count, lasted);
        match &self.previous {
            None => format!("Trend: {rate} an hour\n"),
            Some(previous) => {
                let before = per_hour(previous.count, previous.lasted);
                let word = match rate {
                    _ if rate > before + before / 5 => "more than before",
                    _ if rate + before / 5 < before => "less than before",
                    _ => "as before",
                };
                format!("Trend: {rate} an hour, {word} ({before} an hour)\n")
            }
        }
    }

    fn put_changes(&self, text: &mut String) {
        let Some(previous) = &self.previous else { return };
        text.push_str("\nWhat changed\n");
        let mut any = false;
        for ((tally, title), before) in self.tallies.iter().zip(TITLES).zip(&previous.names) {
            let now: Vec<&str> = tally.top().into_iter().take(SHOWN).map(|(value, _)| value).collect();
            for value in now.iter().filter(|value| !before.contains(**value)) {
                any = true;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  new in {}: {value}", title.to_lowercase());
            }
            let mut gone: Vec<_> = before.iter().filter(|value| !tally.counts.contains_key(*value)).collect();
            gone.sort();
            for value in gone {
                any = true;
                let _ = writeln!(text, "  no more in {}: {value}", title.to_lowercase());
            }
        }
        if !any {
            text.push_str("  nothing\n");
        }
    }
}

fn put_table(text: &mut String, title: &str, tally: &Tally) {
    let top = tally.top();
    if top.is_empty() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{title}");
    for (value, count) in top.iter().take(SHOWN) {
        let _ = writeln!(text, "{count:9}  {value}");
    }
    let rest: u64 = top.iter().skip(SHOWN).map(|(_, count)| count).sum::<u64>() + tally.others;
    if rest > 0 {
        let _ = writeln!(text, "{rest:9}  others");
    }
}

fn per_hour(count: u64, lasted: Duration) -> u64 {
    let milliseconds = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(3_600_000) / milliseconds
}

fn words_of(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds @ 7200..172_800 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_795_280_034_000_000);

    fn settings(classes: &[TroubleClass], limit: usize) -> DigestSettings {
        DigestSettings {
            classes: classes.iter().copied().collect(),
            interval: Duration::from_secs(600),
            maximal_interval: Duration::from_secs(86_400),
            hourly_limit: limit,
        }
    }

    fn trouble(class: TroubleClass, reason: &str, client: &str) -> Trouble {
        Trouble {
            classes: vec![class],
            reason: reason.into(),
            destination: "b.test".into(),
            sender: "s@x.test".into(),
            client: client.into(),
        }
    }

    /// Ten thousand in some hours: every one is in a count, and few are mails.
    #[test]
    fn ten_thousand() {
        for limit in [0, 3] {
            let mut digest = Digest::new(settings(&[TroubleClass::Protocol], limit));
            let (mut mails, mut told, mut sent) = (0, 0, Vec::new());
            for number in 0..10_000u64 {
                let now = START + Duration::from_secs(number);
                for summary in digest.due(now, &Zone::UTC) {
                    mails += 1;
                    told += summary.count;
                    sent.push(now);
                }
                let one = trouble(
                    TroubleClass::Protocol,
                    "502 5.5.2 Error: command not recognized",
                    &format!("c{}", number % 7),
                );
                if digest.take(&one, &format!("sample {number}"), now) == Fate::Send {
                    mails += 1;
                    told += 1;
                    sent.push(now);
                }
            }
            let end = START + Duration::from_secs(10_000);
            told += digest.flush(end, &Zone::UTC).iter().map(|summary| summary.count).sum::<u64>();
            assert_eq!(told, 10_000, "limit {limit}");
            assert!(mails <= 6, "{mails}");
            if limit > 0 {
                let crowded =
                    |at: &Timestamp| sent.iter().filter(|other| **other >= *at && other.since(*at) < HOUR).count();
                assert!(sent.iter().all(|at| crowded(at) <= limit), "{sent:?}");
            }
        }
    }

    #[test]
    fn quiet_begins_anew() {
        let mut digest = Digest::new(settings(&[TroubleClass::Policy], 0));
        let one = trouble(TroubleClass::Policy, "554 5.7.1 <a@b>: Relay access denied", "c");
        assert_eq!(digest.take(&one, "s", START), Fate::Send);
        assert_eq!(digest.next(), Some(START + Duration::from_secs(600)));
        let later = START + Duration::from_secs(700);
        assert_eq!(digest.due(later, &Zone::UTC), []);
        assert_eq!(digest.next(), None);
        assert_eq!(digest.take(&one, "s", later), Fate::Send);
        assert_eq!(digest.take(&one, "s", later), Fate::Counted);
        let summaries = digest.due(later + Duration::from_secs(600), &Zone::UTC);
        assert_eq!(summaries[0].subject, "1 notices of class policy in 10 minutes");
        // Twice as long until the next.
        assert_eq!(digest.next(), Some(later + Duration::from_secs(600 + 1200)));
    }

    #[test]
    fn what_is_always_told() {
        let mut digest = Digest::new(settings(&[TroubleClass::Policy], 1));
        for _ in 0..10 {
            for class in [TroubleClass::Resource, TroubleClass::Software] {
                assert_eq!(digest.take(&trouble(class, "r", "c"), "s", START), Fate::Send);
            }
        }
        // Not digested, but the hour is full after one.
        assert_eq!(digest.take(&trouble(TroubleClass::Bounce, "r", "c"), "s", START), Fate::Send);
        assert_eq!(digest.take(&trouble(TroubleClass::Bounce, "r", "c"), "s", START), Fate::Counted);
        assert_eq!(digest.due(START + Duration::from_secs(600), &Zone::UTC), []);
        let summaries = digest.due(START + HOUR, &Zone::UTC);
        assert_eq!((summaries.len(), summaries[0].count), (1, 1));
    }

    #[test]
    fn what_a_summary_says() {
        let mut digest = Digest::new(settings(&[TroubleClass::Protocol], 0));
        let take = |digest: &mut Digest, reason: &str, client: &str, at: u64| {
            digest.take(
                &trouble(TroubleClass::Protocol, reason, client),
                &format!("at {at}"),
                START + Duration::from_secs(at),
            )
        };
        take(&mut digest, "502 a", "one[192.0.2.1]", 0);
        take(&mut digest, "502 a", "one[192.0.2.1]", 1);
        take(&mut digest, "502 a", "one[192.0.2.1]", 2);
        take(&mut digest, "503 b", "two[192.0.2.2]", 3);
        let first = digest.due(START + Duration::from_secs(600), &Zone::UTC).remove(0);
        assert!(first.text.contains("\nReasons\n        2  502 a\n        1  503 b\n"), "{}", first.text);
        assert!(first.text.contains("\nClients\n        2  one[192.0.2.1]\n"), "{}", first.text);
        assert!(first.text.contains("\nSamples\n  at 1\n  at 3\n"), "{}", first.text);
        assert!(first.text.contains("Trend: 18 an hour\n"), "{}", first.text);
        take(&mut digest, "504 c", "one[192.0.2.1]", 700);
        let second = digest.due(START + Duration::from_secs(1800), &Zone::UTC).remove(0);
        assert!(second.text.contains("less than before (18 an hour)"), "{}", second.text);
        assert!(
            second.text.contains("\n  new in reasons: 504 c\n")
                && second.text.contains("\n  no more in clients: two[192.0.2.2]\n")
        );
    }

    #[test]
    fn a_million_names_are_bounded() {
        let mut digest = Digest::new(settings(&[TroubleClass::Policy], 0));
        for number in 0..20_000 {
            digest.take(&trouble(TroubleClass::Policy, &"x".repeat(number % 5000), &format!("c{number}")), "s", START);
        }
        let window = &digest.windows[&TroubleClass::Policy];
        assert!(
            window.tallies.iter().all(|tally| tally.counts.len() <= NAMES)
                && window.tallies[3].others == 20_000 - 1 - 1000
        );
        let summary = digest.flush(START, &Zone::UTC).remove(0);
        assert!(summary.count == 19_999 && summary.text.len() < 20_000);
    }

    #[test]
    fn reasons_that_are_the_same() {
        for (reason, expected) in [
            (
                "550 5.1.1 <a@b.test>: Recipient address rejected: User unknown",
                "550 5.1.1 * Recipient address rejected: User unknown",
            ),
            ("host mx[192.0.2.1] said: 451 4.3.0 4jX3YN3lcMz1 try later", "host * said: 451 4.3.0 * try later"),
            ("", ""),
            ("on the list (userunknown: 4jXdtj5F7Kz1 said no)", "on the list (userunknown: * said no)"),
            ("Too many Connections from mailHost", "Too many Connections from mailHost"),
        ] {
            assert_eq!(normal_reason(reason), expected);
        }
    }
}

//! What is known of addresses by asking where they would be delivered (Postfix: verify(8)).
//!
//! [`Cache`] remembers answers and says when to ask again. It has no clock and no file; who owns it stores
//! `Cache::line` after each change and reads the lines back with [`Cache::read`]. [`sender`] is the address that
//! probes come from.

use std::collections::HashMap;

use yamabiko_envelope::Timestamp;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Mail for it would be delivered.
    Deliverable,
    /// The other side could not say.
    Uncertain,
    /// Mail for it would come back.
    Undeliverable,
    /// Nothing yet.
    Pending,
}

impl Known {
    /// Postfix's number for it.
    fn number(self) -> u8 {
        match self {
            Self::Deliverable => 0,
            Self::Uncertain => 1,
            Self::Undeliverable => 2,
            Self::Pending => 3,
        }
    }
}

/// What is known of an address, and the words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// What.
    pub known: Known,
    /// What the other side said.
    pub why: String,
}

/// How long answers are good (`address_verify_...`), in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Times {
    pub positive_refresh: u64,
    pub positive_expire: u64,
    pub negative_refresh: u64,
    pub negative_expire: u64,
    /// `address_verify_negative_cache`: bad answers are remembered too.
    pub keep_negative: bool,
}

/// A probe that was sent is waited for so long before another one is sent, in seconds.
const PROBE_LASTS: u64 = 1000;
/// Addresses that are remembered at most; the oldest are forgotten first.
const MOST_ENTRIES: usize = 100_000;
/// Bytes of a reason that are kept.
const MOST_WHY: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    known: Known,
    /// When the last probe was sent.
    probed: u64,
    /// When the last answer came; 0: never.
    updated: u64,
    why: String,
}

impl Entry {
    fn expired(&self, times: &Times, now: u64) -> bool {
        let lasts = if self.known == Known::Deliverable { times.positive_expire } else { times.negative_expire };
        self.updated.saturating_add(lasts) < now
    }
    fn stale(&self, times: &Times, now: u64) -> bool {
        let lasts = if self.known == Known::Deliverable { times.positive_refresh } else { times.negative_refresh };
        self.updated.saturating_add(lasts) < now
    }
}

/// What was learned of addresses.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<String, Entry>,
}

impl Cache {
    /// What is known of `address` (any case), and whether it should be asked about (again) now; the answer to that is
    /// remembered as a probe that was sent.
    pub fn ask(&mut self, address: &str, times: &Times, now: Timestamp) -> (Verification, bool) {
        let (answer, wanted) = self.look(address, times, now);
        if !wanted {
            return (answer, false);
        }
        let (key, now) = (address.to_lowercase(), now.seconds());
        let entry = self.entries.entry(key).or_insert(Entry {
            known: Known::Pending,
            probed: now,
            updated: 0,
            why: String::new(),
        });
        entry.probed = now;
        self.bound();
        (answer, true)
    }

    /// What is known of `address`, and whether it should be asked about now; that it was looked at is not remembered.
    pub fn look(&self, address: &str, times: &Times, now: Timestamp) -> (Verification, bool) {
        let now = now.seconds();
        let known = self.entries.get(&address.to_lowercase());
        let valid = known.filter(|entry| entry.updated > 0 && !entry.expired(times, now));
        let answer = match valid {
            Some(entry) => Verification { known: entry.known, why: entry.why.clone() },
            None => Verification { known: Known::Pending, why: "Address verification in progress".to_owned() },
        };
        let stale = valid.is_none_or(|entry| entry.stale(times, now));
        let on_its_way = known.is_some_and(|entry| now.saturating_sub(entry.probed) <= PROBE_LASTS);
        (answer, stale && !on_its_way)
    }

    /// A probe came back. The line to be stored, if that changes what is known: a good answer is not replaced by a bad
    /// one before it expires, and bad ones may not be wanted.
    pub fn learn(&mut self, address: &str, found: Verification, times: &Times, now: Timestamp) -> Option<String> {
        let now = now.seconds();
        let key = address.to_lowercase();
        let old = self.entries.get(&key);
        let good = old.filter(|e| e.updated > 0 && e.known == Known::Deliverable && !e.expired(times, now));
        if found.known != Known::Deliverable && good.is_some() {
            return None;
        }
        let mut why: String = found.why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some((at, _)) = why.char_indices().find(|(at, c)| at + c.len_utf8() > MOST_WHY) {
            why.truncate(at);
        }
        let keep = found.known == Known::Deliverable || times.keep_negative;
        let entry = Entry { known: found.known, probed: old.map_or(0, |e| e.probed), updated: now, why };
        let line = keep.then(|| line(&key, &entry));
        // What is not to be remembered is still the answer to those who wait for it now.
        self.entries.insert(key, entry);
        self.bound();
        line
    }

    /// Forgets what has expired: how many were kept, and how many were not.
    pub fn clean(&mut self, times: &Times, now: Timestamp) -> (usize, usize) {
        let now = now.seconds();
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            let waits = now.saturating_sub(entry.probed) <= PROBE_LASTS;
            waits || (entry.updated > 0 && !entry.expired(times, now))
        });
        (self.entries.len(), before - self.entries.len())
    }

    /// A bad answer that is not to be remembered has been given to all who waited.
    pub fn forget_unwanted(&mut self, times: &Times, now: Timestamp) {
        if !times.keep_negative {
            let now = now.seconds();
            self.entries
                .retain(|_, e| e.known == Known::Deliverable || now.saturating_sub(e.updated.max(e.probed)) < 60);
        }
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry as a line, without line end.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.entries.iter().filter(|(_, entry)| entry.updated > 0).map(|(address, entry)| line(address, entry))
    }

    /// Takes a line that [`Cache::learn`] or [`Cache::lines`] gave. Of several for an address the last one counts; a
    /// line that makes no sense, such as one that was cut, is nothing.
    pub fn read(&mut self, line: &str) -> Option<()> {
        let (address, entry) = line.split_once('\t')?;
        let mut parts = entry.splitn(4, ':');
        let known = match parts.next()? {
            "0" => Known::Deliverable,
            "1" => Known::Uncertain,
            "2" => Known::Undeliverable,
            _ => return None,
        };
        let (probed, updated) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let why = parts.next()?.to_owned();
        self.entries.insert(address.to_owned(), Entry { known, probed, updated, why });
        self.bound();
        Some(())
    }

    /// Room for as many as there may be: the older half goes.
    fn bound(&mut self) {
        if self.entries.len() <= MOST_ENTRIES {
            return;
        }
        let mut ages: Vec<u64> = self.entries.values().map(|entry| entry.updated.max(entry.probed)).collect();
        let middle = ages.len() / 2;
        let (_, median, _) = ages.select_nth_unstable(middle);
        let median = *median;
        let mut spare = MOST_ENTRIES / 2;
        self.entries.retain(|_, entry| {
            let keep = entry.updated.max(entry.probed) >= median && spare > 0;
            spare -= usize::from(keep);
            keep
        });
    }
}

fn line(address: &str, entry: &Entry) -> String {
    let Entry { known, probed, updated, why } = entry;
    format!("{address}\t{}:{probed}:{updated}:{why}", known.number())
}

/// The address that probes come from (`address_verify_sender`), internal form; with a time to live its local part ends
/// in letters that change with it, so that nobody learns it once and for all.
pub fn sender(configured: &str, ttl: u64, now: Timestamp) -> String {
    if configured.is_empty() || configured == "<>" {
        return String::new();
    }
    let (local, domain) = yamabiko_address::split_domain(configured);
    let suffix = now.seconds().checked_div(ttl).map(in_letters).unwrap_or_default();
    match domain {
        Some(domain) => format!("{local}{suffix}@{domain}"),
        None => format!("{local}{suffix}"),
    }
}

/// `local` is, or was a moment ago, the local part of the address that probes come from.
pub fn is_sender(local: &str, configured: &str, ttl: u64, now: Timestamp) -> bool {
    if configured.is_empty() || configured == "<>" {
        return false;
    }
    let before = Timestamp::from_seconds(now.seconds().saturating_sub(ttl));
    [now, before].into_iter().any(|at| {
        let address = sender(configured, ttl, at);
        yamabiko_address::split_domain(&address).0.eq_ignore_ascii_case(local)
    })
}

/// A number in base 31, in Postfix's digits without vowels that could make words.
fn in_letters(mut number: u64) -> String {
    const DIGITS: &[u8; 31] = b"0123456789BCDFGHJKLMNPQRSTVWXYZ";
    let mut out = Vec::new();
    while out.is_empty() || number > 0 {
        // Below 31.
        out.push(DIGITS[(number % 31) as usize]);
        number /= 31;
    }
    out.reverse();
    out.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        positive_refresh: 7 * 86_400,
        positive_expire: 31 * 86_400,
        negative_refresh: 3 * 3600,
        negative_expire: 3 * 86_400,
        keep_negative: true,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_000_000_000 + seconds)
    }

    fn found(known: Known) -> Verification {
        Verification { known, why: format!("{known:?}") }
    }

    #[test]
    fn one_probe_until_it_is_answered() {
        let mut cache = Cache::default();
        let (answer, probe) = cache.ask("A@x.test", &TIMES, at(0));
        assert_eq!(
            (answer.known, answer.why.as_str(), probe),
            (Known::Pending, "Address verification in progress", true)
        );
        assert!(!cache.ask("a@X.test", &TIMES, at(1)).1);
        assert!(!cache.ask("a@x.test", &TIMES, at(1000)).1);
        assert!(cache.ask("a@x.test", &TIMES, at(1001)).1, "the probe was lost");
        cache.learn("a@x.test", found(Known::Deliverable), &TIMES, at(1002)).unwrap();
        assert_eq!(cache.ask("a@x.test", &TIMES, at(1003)), (found(Known::Deliverable), false));
    }

    #[test]
    fn answers_age() {
        for (known, refresh, expire) in [
            (Known::Deliverable, TIMES.positive_refresh, TIMES.positive_expire),
            (Known::Undeliverable, TIMES.negative_refresh, TIMES.negative_expire),
            (Known::Uncertain, TIMES.negative_refresh, TIMES.negative_expire),
        ] {
            let mut cache = Cache::default();
            cache.learn("a@x.test", found(known), &TIMES, at(0)).unwrap();
            assert_eq!(cache.ask("a@x.test", &TIMES, at(refresh)), (found(known), false));
            // Still good, and asked about again.
            assert_eq!(cache.ask("a@x.test", &TIMES, at(refresh + 1)), (found(known), true));
            assert_eq!(cache.ask("a@x.test", &TIMES, at(refresh + 2)), (found(known), false));
            let (answer, probe) = cache.ask("a@x.test", &TIMES, at(expire + 1));
            assert_eq!((answer.known, probe), (Known::Pending, true));
        }
    }

    #[test]
    fn a_bad_answer_does_not_replace_a_good_one_before_it_expires() {
        let mut cache = Cache::default();
        cache.learn("a@x.test", found(Known::Deliverable), &TIMES, at(0)).unwrap();
        assert_eq!(cache.learn("a@x.test", found(Known::Undeliverable), &TIMES, at(9)), None);
        assert_eq!(cache.ask("a@x.test", &TIMES, at(10)).0.known, Known::Deliverable);
        let late = at(TIMES.positive_expire + 1);
        assert!(cache.learn("a@x.test", found(Known::Undeliverable), &TIMES, late).is_some());
        // But a good one a bad one, at once.
        assert!(cache.learn("a@x.test", found(Known::Deliverable), &TIMES, late).is_some());
    }

    #[test]
    fn bad_answers_that_are_not_wanted_are_given_once() {
        let times = Times { keep_negative: false, ..TIMES };
        let mut cache = Cache::default();
        cache.ask("a@x.test", &times, at(0));
        assert_eq!(cache.learn("a@x.test", found(Known::Undeliverable), &times, at(1)), None);
        assert_eq!(cache.ask("a@x.test", &times, at(2)).0.known, Known::Undeliverable);
        cache.forget_unwanted(&times, at(100));
        assert_eq!(cache.ask("a@x.test", &times, at(100)).0.known, Known::Pending);
    }

    #[test]
    fn lines_are_read_back() {
        let mut cache = Cache::default();
        let line = cache.learn(
            "Ä+b@x.test",
            Verification { known: Known::Undeliverable, why: "a: b\n\tc".into() },
            &TIMES,
            at(5),
        );
        assert_eq!(line.as_deref(), Some("ä+b@x.test\t2:0:1000000005:a: b  c"));
        let mut copy = Cache::default();
        for line in cache.lines() {
            copy.read(&line).unwrap();
        }
        assert_eq!(copy.entries, cache.entries);
        for bad in ["", "a", "a\t", "a\t9:1:2:x", "a\t0:x:2:y", "a\t0:1", "a\t0:1:2"] {
            assert_eq!(copy.read(bad), None, "{bad}");
        }
    }

    #[test]
    fn expired_answers_are_cleaned_away_and_memory_is_bounded() {
        let mut cache = Cache::default();
        cache.learn("old@x.test", found(Known::Undeliverable), &TIMES, at(0));
        cache.learn("new@x.test", found(Known::Undeliverable), &TIMES, at(TIMES.negative_expire));
        assert_eq!(cache.clean(&TIMES, at(TIMES.negative_expire + 2000)), (1, 1));
        for n in 0..250_000u64 {
            cache.ask(&format!("{n}@x.test"), &TIMES, at(n));
        }
        assert!(cache.len() <= MOST_ENTRIES, "{}", cache.len());
    }

    #[test]
    fn senders_change_with_time() {
        assert_eq!(sender("", 0, at(0)), "");
        assert_eq!(sender("<>", 3600, at(0)), "");
        assert_eq!(sender("double-bounce", 0, at(0)), "double-bounce");
        let now = sender("double-bounce@x.test", 3600, at(0));
        assert!(now.starts_with("double-bounce") && now.ends_with("@x.test") && now.len() > 22, "{now}");
        assert_ne!(now, sender("double-bounce@x.test", 3600, at(3600)));
        let local = now.split_once('@').unwrap().0;
        assert!(is_sender(local, "double-bounce", 3600, at(0)) && is_sender(local, "double-bounce", 3600, at(3599)));
        assert!(!is_sender(local, "double-bounce", 3600, at(2 * 3600 + 3600)));
        assert!(!is_sender("double-bounce", "double-bounce", 3600, at(0)));
        assert!(is_sender("Double-Bounce", "double-bounce", 0, at(0)));
    }
}

//! Watches a list in DNS: one that is dead, refuses us, or lists everything must not decide about mail.
//!
//! A [`Guard`] is told what came of questions and says whether the next one is worth asking. It has no clock. A list
//! that gives no answers, or answers that no list gives, is not asked for a while; the log hears when that begins, at
//! most once an hour for as long as it lasts, and when it is over.
//!
//! What no list gives (RFC 5782): an address outside 127.0.0.0/8, as parked domains and catching name servers answer; a
//! listing of 127.0.0.1, or of the name `invalid`, which are never listed (section 5). Two more answers are refusals by
//! long custom: 127.255.255.0/24 and, alone, 127.0.0.1.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use yamabiko_envelope::Timestamp;

/// So many questions without answer in a row, and the list is taken for dead.
const FAILURES: u32 = 5;
/// A dead list is asked again after this; each time it is still dead, after twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);
/// A list that answers nonsense is asked again after this.
const NONSENSE_PAUSE: Duration = Duration::from_secs(600);
/// A list that passed its test is believed for so long.
const TEST_HOLDS: Duration = Duration::from_secs(3600);
/// A test that could not be made is made again after this.
const TEST_AGAIN: Duration = Duration::from_secs(60);
/// The same trouble is told of again after this.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    pause: Duration,
    /// Not asked before this.
    until: Timestamp,
    /// Believed until this.
    tested: Timestamp,
    told: Option<Timestamp>,
    not_asked: u64,
}

/// How a list behaves.
#[derive(Debug)]
pub(crate) struct Guard {
    domain: String,
    health: Mutex<Health>,
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonsense {
    /// Outside 127.0.0.0/8.
    Foreign(Ipv4Addr),
    /// The list says that it does not serve us.
    Refused(Ipv4Addr),
    /// It lists what is never listed.
    ListsAll,
}

/// What a list's addresses mean.
pub(crate) fn judge(addresses: &[Ipv4Addr]) -> Result<(), Nonsense> {
    let refusal = |a: &Ipv4Addr| matches!(a.octets(), [127, 255, 255, _]) || *a == Ipv4Addr::LOCALHOST;
    if addresses.iter().any(|a| a.is_loopback() && !refusal(a)) {
        return Ok(());
    }
    match addresses.iter().find(|a| refusal(a)).or(addresses.first()) {
        Some(a) if refusal(a) => Err(Nonsense::Refused(*a)),
        Some(a) => Err(Nonsense::Foreign(*a)),
        None => Ok(()),
    }
}

impl Guard {
    pub(crate) fn new(domain: &str) -> Self {
        Self { domain: domain.to_owned(), health: Mutex::default() }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        // Whatever a thread was doing when it panicked, numbers are numbers.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list is worth a question.
    pub(crate) fn may_ask(&self, now: Timestamp) -> bool {
        let mut health = self.health();
        let may = now >= health.until;
        health.not_asked += u64::from(!may);
        may
    }

    /// It was asked and said nothing. The line for the log when that makes it a dead one; `None` when it is not taken
    /// for dead yet, and the inner `None` when that was said already.
    pub(crate) fn failed(&self, why: &str, now: Timestamp) -> Option<Option<String>> {
        let mut health = self.health();
        health.failures += 1;
        if health.failures < FAILURES {
            return None;
        }
        health.pause = (health.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let pause = health.pause;
        health.until = now + pause;
        let text = format!(
            "DNS list {} gives no answers ({} in a row, the last: {why}): it is not asked, and nobody is refused by it, \
             for {} seconds",
            self.domain,
            health.failures,
            pause.as_secs()
        );
        Some(tell(&mut health, now, text))
    }

    /// It answers. The line for the log when it did not before.
    pub(crate) fn answered(&self) -> Option<String> {
        let mut health = self.health();
        health.failures = 0;
        health.pause = Duration::ZERO;
        health.told.take()?;
        let mut text = format!("DNS list {} answers again", self.domain);
        // Writing to a String cannot fail.
        let _ = write!(text, "; {} questions were not asked meanwhile", std::mem::take(&mut health.not_asked));
        Some(text)
    }

    /// It answered what no list answers.
    pub(crate) fn nonsense(&self, what: Nonsense, query: &str, now: Timestamp) -> Option<String> {
        let mut health = self.health();
        health.until = now + NONSENSE_PAUSE;
        health.tested = Timestamp::default();
        let domain = &self.domain;
        let why = match what {
            Nonsense::Foreign(address) => {
                format!("answers {address} to {query}, which is not in 127.0.0.0/8: nothing is served there any more")
            }
            Nonsense::Refused(address) => {
                let meaning = match address.octets() {
                    [127, 255, 255, 252] => "there is a typing error in its name",
                    [127, 255, 255, 254] => "it does not serve public resolvers: use one of your own",
                    [127, 255, 255, 255] => "it was asked too often from here",
                    _ => "it does not serve this resolver",
                };
                format!("answers {address} to {query}: {meaning}")
            }
            Nonsense::ListsAll => format!("lists {query}, which is never listed: it lists everything"),
        };
        let text = format!("DNS list {domain} {why}; it is not asked, and nobody is refused by it, for some time");
        tell(&mut health, now, text)
    }

    /// Before a listing counts, the list has to show that it does not list everything.
    pub(crate) fn wants_test(&self, now: Timestamp) -> bool {
        now >= self.health().tested
    }

    /// The test went well, or could not be made.
    pub(crate) fn passed(&self, certain: bool, now: Timestamp) {
        self.health().tested = now + if certain { TEST_HOLDS } else { TEST_AGAIN };
    }
}

fn tell(health: &mut Health, now: Timestamp, text: String) -> Option<String> {
    if health.told.is_some_and(|told| now.since(told) < TELL_AGAIN) {
        return None;
    }
    health.told = Some(now);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_000_000 + seconds)
    }

    #[test]
    fn addresses_that_mean_listed_and_those_that_do_not() {
        let a = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        for (addresses, expected) in [
            (vec!["127.0.0.2"], Ok(())),
            (vec!["127.0.0.1", "127.0.0.4"], Ok(())),
            (vec!["127.0.0.1"], Err(Nonsense::Refused(a("127.0.0.1")))),
            (vec!["127.255.255.254"], Err(Nonsense::Refused(a("127.255.255.254")))),
            (vec!["203.0.113.9"], Err(Nonsense::Foreign(a("203.0.113.9")))),
            (vec!["203.0.113.9", "127.0.0.2"], Ok(())),
        ] {
            let addresses: Vec<_> = addresses.into_iter().map(a).collect();
            assert_eq!(judge(&addresses), expected, "{addresses:?}");
        }
    }

    #[test]
    fn a_dead_list_is_asked_less_and_less_and_told_of_once_an_hour() {
        let guard = Guard::new("dead.test");
        let (mut asked, mut lines, mut now) = (0, Vec::new(), 0);
        // A day with a message a second.
        while now < 86_400 {
            if guard.may_ask(at(now)) {
                asked += 1;
                lines.extend(guard.failed("timed out", at(now)).flatten());
            }
            now += 1;
        }
        assert!(asked < 110, "{asked}");
        assert!(lines.len() <= 24, "{}", lines.len());
        assert!(
            lines[0].starts_with("DNS list dead.test gives no answers (5 in a row, the last: timed out)"),
            "{lines:?}"
        );
        // It comes back: one line, and it is asked at once.
        while !guard.may_ask(at(now)) {
            now += 1;
        }
        assert!(guard.answered().is_some_and(|line| line.starts_with("DNS list dead.test answers again; ")));
        assert_eq!(guard.answered(), None);
        assert!(guard.may_ask(at(now)));
    }

    #[test]
    fn a_few_failures_are_nothing() {
        let guard = Guard::new("list.test");
        for n in 0..100 {
            assert_eq!(guard.failed("timed out", at(n)), None);
            if n % 3 == 0 {
                assert_eq!(guard.answered(), None);
            }
        }
    }

    #[test]
    fn a_list_that_lists_everything_is_left_alone() {
        let guard = Guard::new("all.test");
        assert!(guard.wants_test(at(0)));
        let line = guard.nonsense(Nonsense::ListsAll, "1.0.0.127.all.test", at(0));
        assert!(line.is_some_and(|line| line.contains("lists 1.0.0.127.all.test, which is never listed")));
        assert!(!guard.may_ask(at(599)));
        assert!(guard.may_ask(at(600)));
        // Within the hour nothing is said again.
        assert_eq!(guard.nonsense(Nonsense::ListsAll, "1.0.0.127.all.test", at(600)), None);
        assert!(guard.nonsense(Nonsense::ListsAll, "1.0.0.127.all.test", at(3601)).is_some());
        assert!(guard.wants_test(at(9999)));
    }

    #[test]
    fn a_test_holds_for_an_hour() {
        let guard = Guard::new("good.test");
        guard.passed(true, at(0));
        assert!(!guard.wants_test(at(3599)) && guard.wants_test(at(3600)));
        guard.passed(false, at(4000));
        assert!(!guard.wants_test(at(4059)) && guard.wants_test(at(4060)));
    }
}

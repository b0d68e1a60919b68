//! Budgets of notices: how many one domain gets and how many the mail of one client may cause, within a time
//! (`bounce_rate_domain_limit`, `bounce_rate_client_limit`). A client that forges senders makes us write to people who sent
//! nothing; beyond a budget notices are kept on hold, then only counted. And which mail is worth a notice at all
//! (`bounce_requires`). Pure: time is an argument. Bounded: what is counted for is forgotten with its time.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use yamabiko_address::domain::fold_case;
use yamabiko_address::split_domain;
use yamabiko_config::View;
use yamabiko_envelope::{Envelope, Timestamp};
use yamabiko_message::Fields;

/// Domains that are counted for at once, and clients; with more the budgets that were used least begin anew.
const KEYS: usize = 100_000;

/// Mail that is worth a notice (`bounce_requires`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requires {
    any: bool,
    authenticated: bool,
    local: bool,
    aligned: bool,
}

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GovernorSettings {
    domain_limit: u64,
    client_limit: u64,
    unit: Duration,
    hold_limit: u64,
    requires: Requires,
    /// Whose word counts in `Authentication-Results:`.
    host: String,
    /// Such fields are ours: anybody can write our name.
    believes: bool,
}

impl GovernorSettings {
    /// From main.cf. Words that mean nothing are told.
    pub fn from_view(view: &View) -> (Self, Vec<String>) {
        let number = |name: &str| u64::try_from(view.int(name)).unwrap_or(0);
        let mut warnings = Vec::new();
        let mut requires = Requires::default();
        for word in view.list("bounce_requires") {
            match word.as_str() {
                "authenticated" => requires.authenticated = true,
                "local" => requires.local = true,
                "aligned" => requires.aligned = true,
                _ => {
                    warnings.push(format!(
                        "bounce_requires: unknown word: {word} (authenticated, local, aligned are known)"
                    ));
                    continue;
                }
            }
            requires.any = true;
        }
        let settings = Self {
            domain_limit: number("bounce_rate_domain_limit"),
            client_limit: number("bounce_rate_client_limit"),
            unit: view.duration("bounce_rate_time_unit"),
            hold_limit: number("bounce_hold_limit"),
            requires,
            host: view.text("authentication_results_hostname"),
            // Whoever writes these fields takes those out that came with the mail (RFC 8601 section 5).
            believes: ["smtpd_sender_authentication", "smtpd_milters"].iter().any(|name| !view.list(name).is_empty()),
        };
        if requires.aligned && !settings.believes {
            warnings.push(
                "bounce_requires = aligned: nobody finds out about SPF and DKIM here, so that no mail is aligned: set \
                 smtpd_sender_authentication = spf dkim"
                    .to_owned(),
            );
        }
        (settings, warnings)
    }

    /// Whether it matters that a client is one of `mynetworks`.
    pub fn asks_for_networks(&self) -> bool {
        self.requires.local
    }

    /// The mail may be told of. `original` is its content or the beginning of it; `ours`: its client is one of `mynetworks`.
    pub fn is_worth_a_notice(&self, envelope: &Envelope, original: Option<&[u8]>, ours: bool) -> bool {
        let requires = self.requires;
        !requires.any
            || (requires.authenticated && envelope.sasl.is_some())
            || (requires.local && (ours || envelope.client.address.is_none_or(|address| address.is_loopback())))
            || (requires.aligned
                && self.believes
                && original.is_some_and(|original| is_aligned(original, &envelope.sender, &self.host)))
    }
}

/// Somebody whom we trust found that the sender's domain had a part in the mail: `Authentication-Results:` with our name says
/// that SPF passed for the envelope sender's domain, or DKIM for it or a domain above it (RFC 8601).
fn is_aligned(original: &[u8], sender: &str, host: &str) -> bool {
    let Some(domain) = split_domain(sender).1.map(|domain| fold_case(domain).into_owned()) else { return false };
    Fields::of(original).iter().filter(|field| field.is("Authentication-Results")).any(|field| {
        let value = String::from_utf8_lossy(&field.unfolded()).to_lowercase();
        let mut results = value.split(';');
        let by = results.next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
        by == host.to_lowercase()
            && results.any(|result| {
                let mut words = result.split_whitespace();
                let method = words.next().unwrap_or_default();
                let of =
                    |name: &str| result.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
                match method {
                    "spf=pass" => of("smtp.mailfrom=").is_some_and(|from| from.rsplit('@').next() == Some(&*domain)),
                    "dkim=pass" => of("header.d=")
                        .or_else(|| {
                            of("header.i=").map(|identity| identity.rsplit('@').next().unwrap_or_default().to_owned())
                        })
                        .is_some_and(|signer| domain == signer || domain.ends_with(&format!(".{signer}"))),
                    _ => false,
                }
            })
    })
}

/// What becomes of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Budget {
    /// It goes out.
    Send,
    /// It is kept on hold: why.
    Hold(String),
    /// It is only counted and listed: why.
    Count(String),
}

#[derive(Clone, Copy, Debug)]
struct Account {
    since: Timestamp,
    used: u64,
}

/// Counts by a key within a time. Bounded.
#[derive(Debug, Default)]
pub struct Rates {
    accounts: HashMap<String, Account>,
}

impl Rates {
    /// Counts one more; true when it is more than `limit` within `unit` from the first.
    pub fn is_over(&mut self, key: String, limit: u64, unit: Duration, now: Timestamp) -> bool {
        if self.accounts.len() >= KEYS && !self.accounts.contains_key(&key) {
            self.make_room(unit, now);
        }
        let account = self.accounts.entry(key).or_insert(Account { since: now, used: 0 });
        if now.since(account.since) >= unit {
            *account = Account { since: now, used: 0 };
        }
        account.used += 1;
        account.used > limit
    }

    /// Half of the places at least are free then. Those who used up most are remembered: nobody gets a new budget by having
    /// so many others counted for.
    fn make_room(&mut self, unit: Duration, now: Timestamp) {
        self.accounts.retain(|_, account| now.since(account.since) < unit);
        let Some(mut surplus) = self.accounts.len().checked_sub(KEYS / 2).filter(|surplus| *surplus > 0) else {
            return;
        };
        let mut used: Vec<u64> = self.accounts.values().map(|account| account.used).collect();
        // The most that any of those has used that go; there are more accounts than `surplus`, which is not 0.
        let (less, most, _) = used.select_nth_unstable(surplus - 1);
        let most = *most;
        surplus -= less.iter().filter(|used| **used < most).count();
        self.accounts.retain(|_, account| match account.used.cmp(&most) {
            Ordering::Less => false,
            Ordering::Equal if surplus > 0 => {
                surplus -= 1;
                false
            }
            _ => true,
        });
    }
}

/// Counts notices.
#[derive(Debug, Default)]
pub struct Governor {
    domains: Rates,
    clients: Rates,
    held: Option<Account>,
}

impl Governor {
    /// Decides about a notice to `recipient` about `envelope`, and counts it.
    pub fn take(
        &mut self,
        settings: &GovernorSettings,
        recipient: &str,
        envelope: &Envelope,
        now: Timestamp,
    ) -> Budget {
        let mut over = None;
        if settings.domain_limit > 0 {
            let domain = fold_case(split_domain(recipient).1.unwrap_or_default()).into_owned();
            if self.domains.is_over(domain.clone(), settings.domain_limit, settings.unit, now) {
                over = Some(format!(
                    "more than {} notices for {domain} (bounce_rate_domain_limit)",
                    settings.domain_limit
                ));
            }
        }
        if settings.client_limit > 0
            && let Some(address) = envelope.client.address
            && self.clients.is_over(network_of(address), settings.client_limit, settings.unit, now)
        {
            let limit = settings.client_limit;
            over = Some(format!("more than {limit} notices about mail of {address} (bounce_rate_client_limit)"));
        }
        let Some(why) = over else { return Budget::Send };
        let held = self.held.get_or_insert(Account { since: now, used: 0 });
        if now.since(held.since) >= settings.unit {
            *held = Account { since: now, used: 0 };
        }
        if held.used < settings.hold_limit {
            held.used += 1;
            Budget::Hold(why)
        } else {
            Budget::Count(why)
        }
    }
}

/// One customer's network, as far as can be told: the address, or a /64.
fn network_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::{QueueId, SaslIdentity};

    const NOW: Timestamp = Timestamp(1_795_280_034_000_000);

    fn settings(domain: u64, client: u64, hold: u64) -> GovernorSettings {
        GovernorSettings {
            domain_limit: domain,
            client_limit: client,
            unit: Duration::from_secs(3600),
            hold_limit: hold,
            requires: Requires::default(),
            host: "mx.me.test".into(),
            believes: true,
        }
    }

    fn envelope(client: &str) -> Envelope {
        let mut envelope = Envelope::new(QueueId::new(1, 1), NOW, "s@x.test");
        envelope.client.address = client.parse().ok();
        envelope
    }

    /// 100,000 forged senders of one client.
    #[test]
    fn a_storm() {
        let (mut governor, settings) = (Governor::default(), settings(0, 50, 100));
        let (mut sent, mut held, mut counted) = (0, 0, 0);
        for number in 0..100_000u64 {
            let now = NOW + Duration::from_millis(number);
            match governor.take(&settings, &format!("u@d{number}.test"), &envelope("192.0.2.9"), now) {
                Budget::Send => sent += 1,
                Budget::Hold(_) => held += 1,
                Budget::Count(_) => counted += 1,
            }
            // Others are not in the way of it.
            if number % 10_000 == 0 {
                assert_eq!(
                    governor.take(&settings, "u@d.test", &envelope(&format!("192.0.3.{}", number / 10_000)), now),
                    Budget::Send
                );
            }
        }
        assert_eq!((sent, held, counted), (50, 100, 99_850));
        let later = NOW + Duration::from_secs(4000);
        assert_eq!(governor.take(&settings, "u@d.test", &envelope("192.0.2.9"), later), Budget::Send);
    }

    #[test]
    fn domains_and_networks() {
        let (mut governor, limits) = (Governor::default(), settings(2, 0, 10));
        let to = ["a@X.test", "b@x.test", "c@x.TEST", "a@y.test"]
            .map(|to| governor.take(&limits, to, &envelope("::1"), NOW));
        assert!(matches!(to, [Budget::Send, Budget::Send, Budget::Hold(_), Budget::Send]));
        let (mut governor, limits) = (Governor::default(), settings(0, 1, 0));
        assert_eq!(governor.take(&limits, "a@b", &envelope("2001:db8:1:2::3"), NOW), Budget::Send);
        assert!(matches!(governor.take(&limits, "a@b", &envelope("2001:db8:1:2:3::4"), NOW), Budget::Count(_)));
        // Mail of our own has no client.
        assert_eq!(governor.take(&limits, "a@b", &envelope(""), NOW), Budget::Send);
    }

    #[test]
    fn many_keys() {
        let (mut governor, limits) = (Governor::default(), settings(1, 0, 0));
        for number in 0..KEYS + 10 {
            governor.take(&limits, &format!("u@d{number}"), &envelope(""), NOW);
        }
        assert!(governor.domains.accounts.len() <= KEYS);
    }

    /// More domains than are counted for: neither the client that wrote in their names nor a domain that got what it may get
    /// begins anew; and the time to count does not grow with them.
    #[test]
    fn more_keys_than_places() {
        let (mut governor, limits) = (Governor::default(), settings(500, 100, 1000));
        let mut sent = 0;
        for _ in 0..600 {
            governor.take(&limits, "u@beaten.test", &envelope(""), NOW);
        }
        for number in 0..3 * KEYS {
            let budget = governor.take(&limits, &format!("u@d{number}.test"), &envelope("192.0.2.9"), NOW);
            sent += usize::from(budget == Budget::Send);
            assert!(governor.domains.accounts.len() <= KEYS);
        }
        assert_eq!(sent, 100);
        assert_ne!(governor.take(&limits, "u@beaten.test", &envelope(""), NOW), Budget::Send);
        // As many clients, each with less than it may: the first one stays known too.
        let mut rates = Rates::default();
        let over = |rates: &mut Rates, key: &str| rates.is_over(key.to_owned(), 2, limits.unit, NOW);
        assert_eq!([0; 3].map(|_: i32| over(&mut rates, "first")), [false, false, true]);
        for number in 0..3 * KEYS {
            over(&mut rates, &format!("n{number}"));
            over(&mut rates, &format!("n{number}"));
        }
        assert!(over(&mut rates, "first"));
        // All alike: half of them go, not all; what has run out goes first.
        let mut rates = Rates::default();
        for number in 0..=KEYS {
            over(&mut rates, &format!("n{number}"));
        }
        assert_eq!(rates.accounts.len(), KEYS / 2 + 1);
        rates.accounts.values_mut().for_each(|account| account.since = Timestamp(0));
        for number in 0..KEYS {
            over(&mut rates, &format!("later{number}"));
        }
        assert_eq!(rates.accounts.len(), KEYS);
        assert!(rates.accounts.values().all(|account| account.since == NOW));
    }

    #[test]
    fn which_mail_is_worth_it() {
        let header = |text: &str| format!("Authentication-Results: {text}\nSubject: s\n\nbody\n");
        for (words, client, login, original, worth) in [
            ((false, false, false), "192.0.2.1", false, "", true),
            ((true, false, false), "192.0.2.1", false, "", false),
            ((true, false, false), "192.0.2.1", true, "", true),
            ((false, true, false), "192.0.2.1", true, "", false),
            ((false, true, false), "127.0.0.1", false, "", true),
            ((false, true, false), "", false, "", true),
            ((false, false, true), "192.0.2.1", false, "", false),
            ((false, false, true), "192.0.2.1", false, &header("mx.me.test;\n\tspf=pass smtp.mailfrom=s@x.test"), true),
            (
                (false, false, true),
                "192.0.2.1",
                false,
                &header("mx.me.test; spf=pass smtp.mailfrom=x.test; dkim=none"),
                true,
            ),
            ((false, false, true), "192.0.2.1", false, &header("mx.me.test; spf=pass smtp.mailfrom=y.test"), false),
            ((false, false, true), "192.0.2.1", false, &header("evil.test; spf=pass smtp.mailfrom=x.test"), false),
            (
                (false, false, true),
                "192.0.2.1",
                false,
                &header("mx.me.test; spf=fail; dkim=pass header.d=X.test"),
                true,
            ),
            ((false, false, true), "192.0.2.1", false, &header("mx.me.test; dkim=pass header.i=@test"), true),
            ((false, false, true), "192.0.2.1", false, &header("mx.me.test; dkim=fail header.d=x.test"), false),
        ] {
            let (authenticated, local, aligned) = words;
            let any = authenticated || local || aligned;
            let settings =
                GovernorSettings { requires: Requires { any, authenticated, local, aligned }, ..settings(0, 0, 0) };
            let mut envelope = envelope(client);
            envelope.sasl = login.then(SaslIdentity::default);
            let said = (!original.is_empty()).then_some(original.as_bytes());
            assert_eq!(settings.is_worth_a_notice(&envelope, said, false), worth, "{words:?} {original}");
            // A client of mynetworks is local, and that alone.
            assert_eq!(settings.asks_for_networks(), local);
            assert_eq!(settings.is_worth_a_notice(&envelope, said, true), worth || local, "{words:?} {original}");
            // Where nobody takes such fields out, everybody can write them.
            let credulous = GovernorSettings { believes: false, ..settings };
            assert_eq!(credulous.is_worth_a_notice(&envelope, said, false), worth && !aligned, "{words:?} {original}");
        }
    }
}

//! A receiving site: the mail exchangers that destinations share, as they see one of our source addresses.
//!
//! Receivers count by client address over all domains that they take mail for, and not by domain. So the limits of a
//! site hold over all its destinations and over all transports that send from the same address. What a site is limited
//! to comes from three places, and the strictest counts: the transport's own settings, the [`SiteRule`]s (profiles of known
//! receivers), and what was [`Learned`] from the site's replies.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::Timestamp;

use crate::destination::Dead;
use crate::learned::Learned;
use crate::settings::TransportSettings;

/// Limits of one kind of site. Zero is "none" throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLimits {
    /// Deliveries at once.
    pub concurrency: u32,
    /// At least so long from the start of a delivery to the start of the next.
    pub rate_delay: Duration,
    /// Messages in one session.
    pub session_messages: u32,
    /// Between the end of a session and the next start.
    pub session_pause: Duration,
    /// Recipients of one delivery.
    pub recipients: usize,
}

fn strictest<T: Ord + Default>(a: T, b: T) -> T {
    let none = T::default();
    if a == none {
        b
    } else if b == none {
        a
    } else {
        a.min(b)
    }
}

impl SiteLimits {
    /// Both at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            concurrency: strictest(self.concurrency, other.concurrency),
            rate_delay: self.rate_delay.max(other.rate_delay),
            session_messages: strictest(self.session_messages, other.session_messages),
            session_pause: self.session_pause.max(other.session_pause),
            recipients: strictest(self.recipients, other.recipients),
        }
    }

    /// Nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits for sites that are known by name: a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteRule {
    /// Name of the profile.
    pub name: String,
    /// Names of sites ([`site_name`]), in lower case.
    pub sites: Vec<String>,
    /// What holds for them.
    pub limits: SiteLimits,
}

impl SiteRule {
    /// Whether it is for this site.
    pub fn covers(&self, site: &str) -> bool {
        site.split(',').any(|part| self.sites.iter().any(|known| known == part))
    }
}

/// Second-level names under which countries register organisations.
const SECOND_LEVEL: [&str; 18] = [
    "ac", "ad", "co", "com", "ed", "edu", "go", "gob", "gov", "gr", "gv", "lg", "mil", "ne", "net", "or", "org", "nom",
];

/// The organisation of a host name: `mx1.mail.example.co.jp` is of `example.co.jp`. A rule of thumb instead of the public
/// suffix list, which is out of date the day it is shipped: two labels, three below a country's second-level name. Wrong
/// for some; then two sites are taken for one (and are slower), never one for two.
pub fn organisation(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok() {
        return host;
    }
    let labels: Vec<&str> = host.split('.').collect();
    let country = labels.last().is_some_and(|last| last.len() == 2);
    let second = labels.len().checked_sub(2).and_then(|at| labels.get(at));
    let keep = if country && second.is_some_and(|second| SECOND_LEVEL.contains(second)) { 3 } else { 2 };
    labels.get(labels.len().saturating_sub(keep)..).unwrap_or_default().join(".")
}

/// The name of the site that these hosts are: their organisations, sorted, with commas between. At most four, so that a name
/// is no longer than a line.
pub fn site_name<'a>(hosts: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = hosts.into_iter().map(organisation).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(4);
    names.join(",")
}

/// What an agent is told when it asks to enter a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// It may connect. If not, the delivery is to be given up with nothing done ([`Feedback::Postponed`]).
    ///
    /// [`Feedback::Postponed`]: crate::Feedback::Postponed
    pub go: bool,
    /// Messages in one session; 0 is any number.
    pub session_messages: u32,
}

/// One site, for one source address.
#[derive(Debug)]
pub(crate) struct Site {
    pub name: Arc<str>,
    pub source: Arc<str>,
    /// Deliveries that run.
    pub busy: u32,
    /// Slots reserved for peers that wait for their transport.
    pub offered: u32,
    /// Destinations with peers that wait for this site, in turn.
    pub line: VecDeque<u32>,
    /// Destinations that belong here.
    pub destinations: HashSet<u32>,
    /// Nothing starts before then; a timer is set.
    pub alarm: Option<Timestamp>,
    /// Starts of the last minute, as far as they are of interest.
    pub starts: VecDeque<Timestamp>,
    /// It has no mail, but what began in the last minute is still of interest; a timer is set.
    pub fades: bool,
    /// Peers of its destinations.
    pub peers: u32,
    /// It is left alone for so long that its mail is deferred.
    pub dead: Option<Dead>,
    pub learned: Learned,
}

/// How far back starts are counted: receivers that limit by time mostly do so by the minute or by longer.
const WINDOW: Duration = Duration::from_secs(60);
/// More starts than this in a minute are not told apart.
const STARTS: usize = 6000;

impl Site {
    pub(crate) fn new(source: Arc<str>, name: Arc<str>) -> Self {
        Self {
            name,
            source,
            busy: 0,
            offered: 0,
            line: VecDeque::new(),
            destinations: HashSet::new(),
            alarm: None,
            starts: VecDeque::new(),
            fades: false,
            peers: 0,
            dead: None,
            learned: Learned::default(),
        }
    }

    /// What holds here for a transport, learned limits included.
    pub(crate) fn limits(&self, settings: &TransportSettings) -> SiteLimits {
        let limits = settings.limits_of(&self.name);
        if settings.site_adaptive || self.learned.frozen { limits.and(self.learned.limits()) } else { limits }
    }

    /// A delivery starts.
    pub(crate) fn started(&mut self, now: Timestamp) {
        self.busy += 1;
        self.forget_old(now);
        if self.starts.len() < STARTS {
            self.starts.push_back(now);
        }
    }

    /// Deliveries started in the last minute.
    pub(crate) fn recent(&mut self, now: Timestamp) -> u32 {
        self.forget_old(now);
        self.starts.len() as u32
    }

    /// When nothing of what began is counted any more.
    pub(crate) fn faded(&self) -> Option<Timestamp> {
        self.starts.back().map(|last| *last + WINDOW)
    }

    fn forget_old(&mut self, now: Timestamp) {
        while self.starts.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.starts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (hosts, name) in [
            (&["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"][..], "google.com"),
            (&["ASPMX.L.Google.com."], "google.com"),
            (&["mfsmax.docomo.ne.jp"], "docomo.ne.jp"),
            (&["mx1.mail.yahoo.co.jp", "mx2.mail.yahoo.co.jp"], "yahoo.co.jp"),
            (&["outlook-com.olc.protection.outlook.com"], "outlook.com"),
            (&["mx.b.example", "mx.a.example"], "a.example,b.example"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["[192.0.2.1]"], "[192.0.2.1]"),
            (&["localhost"], "localhost"),
            (&["mx.example.jp"], "example.jp"),
            (&[""], ""),
        ] {
            assert_eq!(site_name(hosts.iter().copied()), name);
        }
    }

    #[test]
    fn the_strictest_counts() {
        let second = Duration::from_secs(1);
        let a = SiteLimits { concurrency: 3, rate_delay: second, recipients: 1, ..SiteLimits::default() };
        let b = SiteLimits { concurrency: 0, session_messages: 9, recipients: 5, ..SiteLimits::default() };
        let both = SiteLimits { concurrency: 3, rate_delay: second, session_messages: 9, recipients: 1, ..b };
        assert_eq!(a.and(b), both);
        assert_eq!(b.and(a), both);
        assert!(SiteLimits::default().and(SiteLimits::default()).is_none());
    }

    #[test]
    fn rules() {
        let rule = SiteRule { sites: vec!["google.com".into()], ..SiteRule::default() };
        assert!(rule.covers("google.com") && rule.covers("example.net,google.com"));
        assert!(!rule.covers("notgoogle.com"));
    }
}

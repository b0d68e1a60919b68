//! The questions mail asks of DNS, and of the hosts file.
//!
//! * [`Resolver`] answers for MX, A, AAAA, PTR, TXT and NS records. [`HickoryResolver`] asks the servers of
//!   `/etc/resolv.conf` and remembers answers for as long as their TTL says; [`FakeResolver`] answers from a text.
//! * [`Answer`] is what came of a question. Five things can, and mail treats each differently.
//! * [`Resolver::security`] and [`Resolver::tlsa`] are for DANE: what is authentic by DNSSEC.
//! * [`Filtered`] leaves out records that a table names; [`Searching`] completes names.
//! * [`error_text`] says it in Postfix's words.
//! * [`Hosts`] is the hosts file; [`Native`] asks it first and DNS then, as the system's own lookups do.
//!
//! A name is always taken as complete: no search list is applied. A CNAME is followed. Trouble of ours (no server, no
//! `resolv.conf`) is [`Answer::TryAgain`], so it defers mail and never bounces it.

mod authentic;
mod blocking;
mod fake;
mod filter;
mod hickory;
mod hosts;
mod search;

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

pub use authentic::{Security, Tlsa};
pub use blocking::Blocking;
pub use fake::{BadZoneLine, FakeResolver};
pub use filter::{Filtered, Told};
pub use hickory::HickoryResolver;
pub use hosts::{Hosts, Native, NativeError};
pub use search::{Completion, Searching};

/// A record type that mail asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Mail exchanger.
    Mx,
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Name of an address.
    Ptr,
    /// Text.
    Txt,
    /// Name server.
    Ns,
    /// Service.
    Srv,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mx => "MX",
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Ptr => "PTR",
            Self::Txt => "TXT",
            Self::Ns => "NS",
            Self::Srv => "SRV",
        })
    }
}

/// A mail exchanger (RFC 1035 section 3.3.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// Host name without the last dot; `""` is the root, which as a mail exchanger says "no mail here" (RFC 7505).
    pub exchange: String,
}

impl Mx {
    /// The null MX of RFC 7505: the domain accepts no mail.
    pub fn is_null(&self) -> bool {
        self.exchange.is_empty()
    }
}

/// Where a service is (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower is tried first.
    pub priority: u16,
    /// Among equals, higher is chosen more often.
    pub weight: u16,
    /// TCP port.
    pub port: u16,
    /// Host name without the last dot; `""` is the root, which says that the service is not there.
    pub target: String,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Records, at least one, in the order of the server's answer.
    Found {
        /// What they say.
        records: Vec<T>,
        /// The least of their times to live.
        ttl: Duration,
    },
    /// There is no such name (NXDOMAIN).
    NotFound,
    /// The name exists, but has no record of this type.
    NoData,
    /// No answer now: time-out, SERVFAIL, no name server. Why, for the log.
    TryAgain(String),
    /// The answer is an error that asking again will not change. Why, for the log.
    Fail(String),
}

impl<T> Answer<T> {
    /// The records; none where there are none for whatever reason.
    pub fn records(&self) -> &[T] {
        match self {
            Answer::Found { records, .. } => records,
            _ => &[],
        }
    }
    /// Other records for the same answer; those for which `convert` gives `None` are dropped. An answer of which
    /// nothing is left becomes [`Answer::NoData`].
    pub fn filter_map<U>(self, convert: impl FnMut(T) -> Option<U>) -> Answer<U> {
        match self {
            Answer::Found { records, ttl } => {
                let records: Vec<U> = records.into_iter().filter_map(convert).collect();
                if records.is_empty() { Answer::NoData } else { Answer::Found { records, ttl } }
            }
            Answer::NotFound => Answer::NotFound,
            Answer::NoData => Answer::NoData,
            Answer::TryAgain(why) => Answer::TryAgain(why),
            Answer::Fail(why) => Answer::Fail(why),
        }
    }
}

/// Says what is wrong with an answer as Postfix's log does; the empty string for [`Answer::Found`].
pub fn error_text<T>(name: &str, kind: RecordType, answer: &Answer<T>) -> String {
    let what = match answer {
        Answer::Found { .. } => return String::new(),
        Answer::NotFound => "Host not found",
        Answer::NoData => "Host found but no data record of requested type",
        Answer::TryAgain(why) if why == MALFORMED => {
            return format!("Name service error for name={name} type={kind}: {MALFORMED}");
        }
        Answer::TryAgain(why) if why == ALL_DROPPED => {
            return format!("Error looking up name={name} type={kind}: {ALL_DROPPED}");
        }
        Answer::TryAgain(_) => "Host not found, try again",
        Answer::Fail(_) => "Non-recoverable error",
    };
    format!("Host or domain name not found. Name service error for name={name} type={kind}: {what}")
}

/// [`Answer::TryAgain`] with this reason is a reply that makes no sense.
pub const MALFORMED: &str = "Malformed or unexpected name server reply";

/// [`Answer::TryAgain`] with this reason is an answer of which a filter has left nothing ([`Filtered`]).
pub const ALL_DROPPED: &str = "DNS reply filter drops all results";

/// An answer that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'a>>;

/// What is known of a name's security, later.
pub type PendingSecurity<'a> = Pin<Box<dyn Future<Output = Security> + Send + 'a>>;

/// Answers questions. Names are in ASCII, without a last dot.
pub trait Resolver: Send + Sync {
    /// Mail exchangers of a domain, in the server's order (not sorted by preference).
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx>;
    /// IPv4 addresses of a host.
    fn a<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv4Addr>;
    /// IPv6 addresses of a host.
    fn aaaa<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv6Addr>;
    /// Names of an address.
    fn ptr(&self, address: IpAddr) -> Pending<'_, String>;
    /// Texts of a name; the strings of one record are joined. Bytes that are not UTF-8 are replaced.
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String>;
    /// Name servers of a zone; a name that is no zone of its own has none.
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String>;
    /// Hosts of a service, `_submission._tcp.example.com`, in the server's order.
    fn srv<'a>(&'a self, _name: &'a str) -> Pending<'a, Srv> {
        Box::pin(std::future::ready(Answer::NotFound))
    }
    /// Whether the records of a name are authentic (DNSSEC). Who cannot tell says that nothing is.
    fn security<'a>(&'a self, name: &'a str, _kind: RecordType) -> PendingSecurity<'a> {
        Box::pin(std::future::ready(Security { canonical: name.to_ascii_lowercase(), ..Security::default() }))
    }
    /// TLSA records, authentic ones only; others are as if they were not there.
    fn tlsa<'a>(&'a self, _name: &'a str) -> Pending<'a, Tlsa> {
        Box::pin(std::future::ready(Answer::NotFound))
    }
    /// Domains that incomplete names may belong to, best first ([`Searching`]).
    fn search_list(&self) -> Vec<String> {
        Vec::new()
    }
    /// Reads its configuration again, for those who have one.
    fn reload(&self) {}
    /// What is wrong with its configuration, for the log; every answer is [`Answer::TryAgain`] as long as it is.
    fn trouble(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_postfix() {
        let table: &[(Answer<Mx>, &str)] = &[
            (
                Answer::NotFound,
                "Host or domain name not found. Name service error for name=x.test type=MX: Host not found",
            ),
            (
                Answer::TryAgain("timed out".into()),
                "Host or domain name not found. Name service error for name=x.test type=MX: Host not found, try again",
            ),
            (
                Answer::NoData,
                "Host or domain name not found. Name service error for name=x.test type=MX: \
                 Host found but no data record of requested type",
            ),
            (
                Answer::Fail("FORMERR".into()),
                "Host or domain name not found. Name service error for name=x.test type=MX: Non-recoverable error",
            ),
            (
                Answer::TryAgain(MALFORMED.into()),
                "Name service error for name=x.test type=MX: Malformed or unexpected name server reply",
            ),
        ];
        for (answer, text) in table {
            assert_eq!(error_text("x.test", RecordType::Mx, answer), *text);
        }
    }
}

//! A resolver for tests: answers from a text, one record a line.
//!
//! ```text
//! remote.test MX 10 mx1.remote.test
//! mx1.remote.test A 192.0.2.25
//! mx1.remote.test AAAA 2001:db8::25
//! 192.0.2.25 PTR mx1.remote.test
//! alias.test CNAME remote.test
//! remote.test TXT "v=spf1 -all"
//! _submission._tcp.remote.test SRV 10 0 587 mx1.remote.test
//! _25._tcp.mx1.remote.test TLSA 3 1 1 abcd      # usage, selector, matching type, hexadecimal digits
//! remote.test SECURE            # this name, and those below it, are authentic (DNSSEC)
//! broken.test SERVFAIL          # also TIMEOUT, REFUSED
//! search a.test b.test          # the search list
//! bare.test EMPTY               # exists, has no records
//! ```
//!
//! Names that are not in the text do not exist. Case does not matter. `#` begins a comment.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::{Answer, Mx, Pending, PendingSecurity, RecordType, Resolver, Security, Srv, Tlsa};

/// A line of the text makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadZoneLine {
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl fmt::Display for BadZoneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: not a record: {}", self.line, self.text)
    }
}

impl std::error::Error for BadZoneLine {}

/// Answers from a text.
#[derive(Clone, Debug, Default)]
pub struct FakeResolver {
    exists: HashSet<String>,
    broken: HashMap<String, &'static str>,
    mx: HashMap<String, Vec<Mx>>,
    a: HashMap<String, Vec<Ipv4Addr>>,
    aaaa: HashMap<String, Vec<Ipv6Addr>>,
    ptr: HashMap<IpAddr, Vec<String>>,
    txt: HashMap<String, Vec<String>>,
    ns: HashMap<String, Vec<String>>,
    cname: HashMap<String, String>,
    srv: HashMap<String, Vec<Srv>>,
    tlsa: HashMap<String, Vec<Tlsa>>,
    secure: HashSet<String>,
    search: Vec<String>,
}

/// How many CNAMEs are followed, as in Postfix's resolver library.
const CNAME_LIMIT: usize = 10;

impl FakeResolver {
    /// Reads the text.
    pub fn parse(zone: &str) -> Result<Self, BadZoneLine> {
        let mut fake = Self::default();
        for (at, line) in zone.lines().enumerate() {
            let record = line.split_once('#').map_or(line, |(record, _)| record).trim();
            if !record.is_empty() && fake.add(record).is_none() {
                return Err(BadZoneLine { line: at + 1, text: line.to_owned() });
            }
        }
        Ok(fake)
    }

    fn add(&mut self, record: &str) -> Option<()> {
        let (name, rest) = record.split_once(char::is_whitespace)?;
        let rest = rest.trim();
        if name == "search" {
            self.search = rest.split_ascii_whitespace().map(fold).collect();
            return Some(());
        }
        let (kind, value) = rest.split_once(char::is_whitespace).map_or((rest, ""), |(k, v)| (k, v.trim()));
        let name = fold(name);
        match kind {
            "MX" => {
                let (preference, exchange) = value.split_once(char::is_whitespace)?;
                let mx = Mx { preference: preference.parse().ok()?, exchange: fold(exchange.trim()) };
                self.mx.entry(name.clone()).or_default().push(mx);
            }
            "A" => self.a.entry(name.clone()).or_default().push(value.parse().ok()?),
            "AAAA" => self.aaaa.entry(name.clone()).or_default().push(value.parse().ok()?),
            "PTR" => {
                self.ptr.entry(name.parse().ok()?).or_default().push(fold(value));
                return Some(());
            }
            "TXT" => self.txt.entry(name.clone()).or_default().push(value.trim_matches('"').to_owned()),
            "NS" if !value.is_empty() => self.ns.entry(name.clone()).or_default().push(fold(value)),
            "CNAME" if !value.is_empty() => {
                self.cname.insert(name.clone(), fold(value));
            }
            "SERVFAIL" => {
                self.broken.insert(name.clone(), "SERVFAIL");
            }
            "REFUSED" => {
                self.broken.insert(name.clone(), "REFUSED");
            }
            "TIMEOUT" => {
                self.broken.insert(name.clone(), "request timed out");
            }
            "SRV" => {
                let mut words = value.split_ascii_whitespace();
                let mut number = || words.next()?.parse().ok();
                let (priority, weight, port) = (number()?, number()?, number()?);
                let srv = Srv { priority, weight, port, target: fold(words.next()?) };
                self.srv.entry(name.clone()).or_default().push(srv);
            }
            "TLSA" => self.tlsa.entry(name.clone()).or_default().push(tlsa(value)?),
            "SECURE" => {
                self.secure.insert(name.clone());
            }
            // Types that nobody asks this resolver for make the name exist all the same.
            "EMPTY" | "SOA" => {}
            _ => return None,
        }
        self.exists.insert(name);
        Some(())
    }

    fn is_secure(&self, name: &str) -> bool {
        let below =
            |zone: &String| name.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.secure.iter().any(below)
    }

    fn find<T: Clone>(&self, name: &str, records: &HashMap<String, Vec<T>>) -> Answer<T> {
        let mut name = fold(name);
        for _ in 0..=CNAME_LIMIT {
            if let Some(why) = self.broken.get(&name) {
                return Answer::TryAgain((*why).to_owned());
            }
            if let Some(found) = records.get(&name) {
                return Answer::Found { records: found.clone(), ttl: TTL };
            }
            match self.cname.get(&name) {
                Some(target) => name = target.clone(),
                None if self.exists.contains(&name) => return Answer::NoData,
                None => return Answer::NotFound,
            }
        }
        Answer::Fail("CNAME loop".to_owned())
    }
}

fn tlsa(value: &str) -> Option<Tlsa> {
    let mut words = value.split_ascii_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (usage, selector, matching) = (number()?, number()?, number()?);
    let digits: String = words.collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let data = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some(Tlsa { usage, selector, matching, data })
}

const TTL: Duration = Duration::from_secs(60);

fn fold(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn ready<'a, T: Send + 'a>(answer: Answer<T>) -> Pending<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl Resolver for FakeResolver {
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx> {
        ready(self.find(domain, &self.mx))
    }
    fn a<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv4Addr> {
        ready(self.find(host, &self.a))
    }
    fn aaaa<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv6Addr> {
        ready(self.find(host, &self.aaaa))
    }
    fn ptr(&self, address: IpAddr) -> Pending<'_, String> {
        let key = address.to_string();
        ready(match (self.broken.get(&key), self.ptr.get(&address)) {
            (Some(why), _) => Answer::TryAgain((*why).to_owned()),
            (None, Some(names)) => Answer::Found { records: names.clone(), ttl: TTL },
            (None, None) => Answer::NotFound,
        })
    }
    fn srv<'a>(&'a self, name: &'a str) -> Pending<'a, Srv> {
        ready(self.find(name, &self.srv))
    }
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String> {
        ready(self.find(name, &self.txt))
    }
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String> {
        ready(self.find(zone, &self.ns))
    }
    fn security<'a>(&'a self, name: &'a str, kind: RecordType) -> PendingSecurity<'a> {
        let mut canonical = fold(name);
        while let Some(target) = self.cname.get(&canonical).filter(|target| **target != canonical) {
            canonical.clone_from(target);
        }
        let mx = self.find(name, &self.mx);
        let found = match kind {
            RecordType::Mx => !mx.records().is_empty(),
            RecordType::A => self.a.contains_key(&canonical),
            RecordType::Aaaa => self.aaaa.contains_key(&canonical),
            _ => false,
        };
        let security = Security {
            secure: self.is_secure(&fold(name)) && self.is_secure(&canonical),
            found,
            exchangers: mx.records().iter().map(|mx| mx.exchange.clone()).filter(|_| kind == RecordType::Mx).collect(),
            failed: self.broken.get(&canonical).map(|why| (*why).to_owned()),
            canonical,
        };
        Box::pin(std::future::ready(security))
    }
    fn search_list(&self) -> Vec<String> {
        self.search.clone()
    }
    fn tlsa<'a>(&'a self, name: &'a str) -> Pending<'a, Tlsa> {
        let found = self.find(name, &self.tlsa);
        let secure = self.is_secure(&fold(name));
        ready(if secure || found.records().is_empty() { found } else { Answer::NotFound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;

    const ZONE: &str = "
        remote.test MX 10 mx1.remote.test
        remote.test MX 20 mx2.remote.test.   # a comment
        MX1.remote.test A 192.0.2.25
        192.0.2.25 PTR mx1.remote.test
        alias.test CNAME remote.test
        loop.test CNAME loop.test
        gone.test CNAME nowhere.test
        remote.test TXT \"v=spf1 -all\"
        broken.test SERVFAIL
        slow.test TIMEOUT
        bare.test EMPTY
        null.test MX 0 .
    ";

    #[test]
    fn answers_from_the_text() {
        let fake = FakeResolver::parse(ZONE).unwrap();
        let mx = |name: &str| block_on(fake.mx(name));
        let both = vec![
            Mx { preference: 10, exchange: "mx1.remote.test".into() },
            Mx { preference: 20, exchange: "mx2.remote.test".into() },
        ];
        assert_eq!(mx("remote.test").records(), both);
        assert_eq!(mx("Alias.Test").records(), both);
        assert!(mx("null.test").records()[0].is_null());
        assert_eq!(mx("nowhere.test"), Answer::NotFound);
        assert_eq!(mx("gone.test"), Answer::NotFound);
        assert_eq!(mx("bare.test"), Answer::NoData);
        assert_eq!(mx("mx1.remote.test"), Answer::NoData);
        assert!(matches!(mx("broken.test"), Answer::TryAgain(_)));
        assert!(matches!(mx("slow.test"), Answer::TryAgain(_)));
        assert!(matches!(mx("loop.test"), Answer::Fail(_)));
        assert_eq!(block_on(fake.a("mx1.remote.test")).records(), [Ipv4Addr::new(192, 0, 2, 25)]);
        assert_eq!(block_on(fake.aaaa("mx1.remote.test")), Answer::NoData);
        assert_eq!(block_on(fake.ptr("192.0.2.25".parse().unwrap())).records(), ["mx1.remote.test"]);
        assert_eq!(block_on(fake.ptr("192.0.2.26".parse().unwrap())), Answer::NotFound);
        assert_eq!(block_on(fake.txt("alias.test")).records(), ["v=spf1 -all"]);
    }

    #[test]
    fn lines_that_are_no_records() {
        for bad in ["remote.test", "a.test A", "a.test A 1.2.3", "a.test MX ten b.test", "a.test MX 10", "x.test PTR y"]
        {
            let zone = format!("\n{bad}");
            let error = FakeResolver::parse(&zone).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (2, bad));
        }
    }
}

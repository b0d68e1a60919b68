//! `smtpd_dns_reply_filter`, `smtp_dns_reply_filter`: records of DNS that count for nothing.
//!
//! A table is asked about each record as a zone file would have it (`example.com. 3600 IN AAAA 2001:db8::1`); `IGNORE` takes
//! the record away. An answer of which nothing is left is [`ALL_DROPPED`]: neither "no" nor the server's fault.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use yamabiko_lookup::Maps;

use crate::{ALL_DROPPED, Answer, Mx, Pending, PendingSecurity, RecordType, Resolver, Srv, Tlsa};

/// What the log should know of a filter's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A record was left out.
    Ignored(String),
    /// The table says something that is no action; the record stays.
    Unknown(String),
}

/// A resolver of which a table takes some answers away. Resolver and table may be borrowed or shared.
pub struct Filtered<R, M, T> {
    inner: R,
    maps: M,
    tell: T,
}

impl<R, M: Deref<Target = Maps>, T: Fn(Told)> Filtered<R, M, T> {
    /// `tell` hears of each record that is left out.
    pub fn new(inner: R, maps: M, tell: T) -> Self {
        Self { inner, maps, tell }
    }

    /// Leaves out what the table says `IGNORE` for; `text` is the data of a record.
    async fn filter<V>(&self, name: &str, kind: &str, answer: Answer<V>, text: impl Fn(&V) -> String) -> Answer<V> {
        let (records, ttl) = match answer {
            Answer::Found { records, ttl } => (records, ttl),
            other => return other,
        };
        let mut kept = Vec::with_capacity(records.len());
        for record in records {
            let line = format!("{name}. {} IN {kind} {}", ttl.as_secs(), text(&record));
            match self.maps.find(&line).await {
                Ok(None) => kept.push(record),
                Ok(Some(action)) => match action.split_ascii_whitespace().next().unwrap_or_default() {
                    word if word.eq_ignore_ascii_case("IGNORE") => {
                        (self.tell)(Told::Ignored(format!("ignoring DNS RR: {line}")));
                    }
                    word => {
                        let title = self.maps.title();
                        (self.tell)(Told::Unknown(format!("{title}: unknown DNS filter action: \"{word:.100}\"")));
                        kept.push(record);
                    }
                },
                Err(error) => return Answer::TryAgain(error.to_string()),
            }
        }
        if kept.is_empty() {
            return Answer::TryAgain(ALL_DROPPED.to_owned());
        }
        Answer::Found { records: kept, ttl }
    }
}

fn plain(value: &impl Display) -> String {
    value.to_string()
}

fn tlsa(record: &Tlsa) -> String {
    let data: String = record.data.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("{} {} {} {data}", record.usage, record.selector, record.matching)
}

impl<R, M, T> Resolver for Filtered<R, M, T>
where
    R: Deref<Target: Resolver> + Send + Sync,
    M: Deref<Target = Maps> + Send + Sync,
    T: Fn(Told) + Send + Sync,
{
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx> {
        Box::pin(async move {
            let text = |mx: &Mx| format!("{} {}.", mx.preference, mx.exchange);
            self.filter(domain, "MX", self.inner.mx(domain).await, text).await
        })
    }
    fn a<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv4Addr> {
        Box::pin(async move { self.filter(host, "A", self.inner.a(host).await, plain).await })
    }
    fn aaaa<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv6Addr> {
        Box::pin(async move { self.filter(host, "AAAA", self.inner.aaaa(host).await, plain).await })
    }
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String> {
        Box::pin(async move { self.filter(name, "TXT", self.inner.txt(name).await, String::clone).await })
    }
    fn srv<'a>(&'a self, name: &'a str) -> Pending<'a, Srv> {
        Box::pin(async move {
            let text = |srv: &Srv| format!("{} {} {} {}.", srv.priority, srv.weight, srv.port, srv.target);
            self.filter(name, "SRV", self.inner.srv(name).await, text).await
        })
    }
    fn tlsa<'a>(&'a self, name: &'a str) -> Pending<'a, Tlsa> {
        Box::pin(async move { self.filter(name, "TLSA", self.inner.tlsa(name).await, tlsa).await })
    }
    // Postfix does not filter these.
    fn ptr(&self, address: IpAddr) -> Pending<'_, String> {
        self.inner.ptr(address)
    }
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String> {
        self.inner.ns(zone)
    }
    fn security<'a>(&'a self, name: &'a str, kind: RecordType) -> PendingSecurity<'a> {
        self.inner.security(name, kind)
    }
    fn search_list(&self) -> Vec<String> {
        self.inner.search_list()
    }
    fn reload(&self) {
        self.inner.reload();
    }
    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FakeResolver, error_text};
    use pollster::block_on;
    use std::sync::{Arc, Mutex};
    use yamabiko_lookup::TableSet;

    #[test]
    fn records_that_a_table_takes_away() {
        let zone = "x.test MX 10 mx.x.test\nx.test MX 20 old.x.test\nmx.x.test A 192.0.2.1\nmx.x.test AAAA 2001:db8::1\n\
                    _25._tcp.mx.x.test TLSA 3 1 1 abcd\n_25._tcp.mx.x.test SECURE\n_s._tcp.x.test SRV 1 2 25 mx.x.test";
        let inner: Arc<dyn Resolver> = Arc::new(FakeResolver::parse(zone).unwrap());
        let table = "regexp:{{/ AAAA / IGNORE all} {/^x.test. [0-9]+ IN MX 20 old.x.test.$/ ignore} {/ SRV 1 2 25 mx/ IGNORE} \
                     {/ TLSA 3 1 1 ABCD$/ DROP it}}";
        let maps = Maps::open(&TableSet::default(), "smtp_dns_reply_filter", table);
        let told = Mutex::new(Vec::new());
        let filtered = Filtered::new(inner, &maps, |line| told.lock().unwrap().push(line));
        assert_eq!(block_on(filtered.mx("x.test")).records().len(), 1);
        assert_eq!(block_on(filtered.a("mx.x.test")).records().len(), 1);
        let none = block_on(filtered.aaaa("mx.x.test"));
        assert_eq!(none, Answer::TryAgain(ALL_DROPPED.to_owned()));
        assert_eq!(
            error_text("mx.x.test", RecordType::Aaaa, &none),
            "Error looking up name=mx.x.test type=AAAA: DNS reply filter drops all results"
        );
        assert_eq!(block_on(filtered.srv("_s._tcp.x.test")).records().len(), 0);
        assert_eq!(block_on(filtered.tlsa("_25._tcp.mx.x.test")).records().len(), 1);
        assert_eq!(block_on(filtered.a("nobody.test")), Answer::NotFound);
        let told = told.into_inner().unwrap();
        assert_eq!(told[0], Told::Ignored("ignoring DNS RR: x.test. 60 IN MX 20 old.x.test.".to_owned()));
        let last = Told::Unknown("smtp_dns_reply_filter: unknown DNS filter action: \"DROP\"".to_owned());
        assert_eq!(told.last(), Some(&last));
    }
}

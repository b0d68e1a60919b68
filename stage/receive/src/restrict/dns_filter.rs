//! `smtpd_dns_reply_filter`: records of DNS that count for nothing.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use yamabiko_dns::{Answer, Mx, Pending, RecordType, Resolver};
use yamabiko_lookup::Maps;

use super::Record;

/// Why there is no answer when the filter has left nothing of it. Such a question is neither answered with "no" nor the
/// server's fault.
pub(super) const ALL_DROPPED: &str = "DNS reply filter drops all results";
/// Lines for the log of one check.
const TOLD: usize = 100;

/// A resolver of which a table takes some answers away.
pub(super) struct Filtered<'a> {
    inner: &'a dyn Resolver,
    maps: &'a Maps,
    told: Mutex<Vec<Record>>,
}

impl<'a> Filtered<'a> {
    pub(super) fn new(inner: &'a dyn Resolver, maps: &'a Maps) -> Self {
        Self { inner, maps, told: Mutex::default() }
    }

    /// What the log should know.
    pub(super) fn into_told(self) -> Vec<Record> {
        self.told.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, record: Record) {
        // Only ever added to: it is whole whatever happened elsewhere.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD {
            told.push(record);
        }
    }

    /// Leaves out what the table says `IGNORE` for; `text` is the data of a record.
    async fn filter<T>(
        &self,
        name: &str,
        kind: RecordType,
        answer: Answer<T>,
        text: impl Fn(&T) -> String,
    ) -> Answer<T> {
        let (records, ttl) = match answer {
            Answer::Found { records, ttl } => (records, ttl),
            other => return other,
        };
        let mut kept = Vec::with_capacity(records.len());
        for record in records {
            let line = format!("{name}. {} IN {kind} {}", ttl.as_secs(), text(&record));
            match self.maps.find(&line).await {
                Ok(None) => kept.push(record),
                Ok(Some(action)) if action.trim().eq_ignore_ascii_case("IGNORE") => {
                    self.tell(Record::Info(format!("ignoring DNS RR: {line}")));
                }
                Ok(Some(action)) => {
                    self.tell(Record::Warning(format!(
                        "{}: unknown DNS filter action: \"{action:.100}\"",
                        self.maps.title()
                    )));
                    kept.push(record);
                }
                Err(error) => return Answer::TryAgain(error.to_string()),
            }
        }
        if kept.is_empty() {
            return Answer::TryAgain(ALL_DROPPED.to_owned());
        }
        Answer::Found { records: kept, ttl }
    }
}

fn host(name: &str) -> String {
    format!("{name}.")
}

fn plain(value: &impl Display) -> String {
    value.to_string()
}

impl Resolver for Filtered<'_> {
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx> {
        Box::pin(async move {
            let answer = self.inner.mx(domain).await;
            let text = |mx: &Mx| format!("{} {}", mx.preference, host(&mx.exchange));
            self.filter(domain, RecordType::Mx, answer, text).await
        })
    }
    fn a<'a>(&'a self, name: &'a str) -> Pending<'a, Ipv4Addr> {
        Box::pin(async move { self.filter(name, RecordType::A, self.inner.a(name).await, plain).await })
    }
    fn aaaa<'a>(&'a self, name: &'a str) -> Pending<'a, Ipv6Addr> {
        Box::pin(async move { self.filter(name, RecordType::Aaaa, self.inner.aaaa(name).await, plain).await })
    }
    // Postfix does not filter these.
    fn ptr(&self, address: IpAddr) -> Pending<'_, String> {
        self.inner.ptr(address)
    }
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String> {
        Box::pin(async move {
            let answer = self.inner.txt(name).await;
            self.filter(name, RecordType::Txt, answer, |text: &String| text.clone()).await
        })
    }
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String> {
        self.inner.ns(zone)
    }
}

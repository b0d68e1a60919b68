//! From a destination to the addresses to connect to, in the order to try them: mail exchangers, their preferences,
//! ourselves among them, address families, limits. Follows Postfix's `smtp_addr`.
//!
//! [`Lookup::find`] asks the resolver and decides; randomness is an argument. What goes wrong is a [`Trouble`] with the status
//! and reason that the mail gets when no other destination takes it.

use std::net::IpAddr;

use yamabiko_address::domain;
use yamabiko_dns::{Answer, Mx, Native, NativeError, RecordType, Resolver, error_text};
use yamabiko_status::{Class, EnhancedStatus};

use crate::settings::{Preference, Settings};

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the host, as texts and logs show it.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// Preference of the mail exchanger; 0 for all addresses of a host.
    pub preference: u16,
    /// Its port, where the destination's is not the one (SRV records).
    pub port: Option<u16>,
}

/// Why there is no address to connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Status and reason; `None` when nothing was wrong (there was just nothing).
    pub why: Option<(EnhancedStatus, String)>,
    /// Lines for the log, as warnings.
    pub warnings: Vec<String>,
    /// We are among the mail exchangers.
    pub ours: bool,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Best first; at least one.
    pub candidates: Vec<Candidate>,
    /// We are among the mail exchangers ourselves; those that are no better than we are have been left out.
    pub ours: bool,
}

impl Trouble {
    fn is_soft(&self) -> bool {
        matches!(&self.why, Some((status, _)) if status.class == Class::Transient)
    }
    /// Mail loops back: no other destination may be tried.
    pub fn is_loop(&self) -> bool {
        matches!(&self.why, Some((status, _)) if status.subject == 4 && status.detail == 6)
    }
    fn set(&mut self, status: EnhancedStatus, reason: String) {
        self.why = Some((status, reason));
    }
    /// A soft error dominates hard ones before and after it.
    fn add(&mut self, status: EnhancedStatus, reason: String) {
        if !self.is_soft() {
            self.set(status, reason);
        }
    }
}

/// A source of randomness: anything that gives evenly distributed numbers.
pub type Random<'a> = &'a mut (dyn FnMut() -> u64 + Send);

/// Who is asked.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// DNS.
    pub resolver: &'a dyn Resolver,
    /// The hosts file, for `smtp_host_lookup = native`.
    pub native: &'a Native,
    /// The settings.
    pub settings: &'a Settings,
}

/// What to find.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Domain or host.
    pub name: &'a str,
    /// Its mail exchangers, not its addresses.
    pub mail_exchangers: bool,
    /// The hosts of this service (`use_srv_lookup`), by its name.
    pub service: Option<&'a str>,
    /// We must not be among them.
    pub detect_loops: bool,
}

impl Lookup<'_> {
    /// The addresses to try, best first.
    pub async fn find(&self, wanted: Wanted<'_>, random: Random<'_>) -> Result<Found, Trouble> {
        let mut trouble = Trouble::default();
        let Some(name) = domain::to_ascii(wanted.name) else {
            let reason = format!("Name service error for {}: invalid host or domain name", wanted.name);
            trouble.set(EnhancedStatus::permanent(4, 4), reason);
            return Err(trouble);
        };
        let by_service = match wanted.service {
            Some(service) => self.service(service, &name, &mut trouble).await,
            None => None,
        };
        let found = if let Some(found) = by_service {
            found
        } else if wanted.mail_exchangers {
            self.exchangers(&name, wanted, &mut trouble).await
        } else {
            self.host(&name, wanted, &mut trouble).await
        };
        if found.is_empty() {
            return Err(trouble);
        }
        Ok(Found { candidates: self.arrange(found, random), ours: trouble.ours })
    }

    /// Hosts of a service by its SRV records (RFC 2782); `None`: as if nobody had asked. Postfix's `smtp_service_addr`.
    async fn service(&self, service: &str, name: &str, trouble: &mut Trouble) -> Option<Vec<Candidate>> {
        let settings = self.settings;
        let full = format!("_{service}._tcp.{name}");
        let answer = self.resolver.srv(&full).await;
        let reason = error_text(&full, RecordType::Srv, &answer);
        let status = match answer {
            Answer::Found { mut records, .. } => {
                if records.iter().any(|srv| srv.target.is_empty()) {
                    let why = format!("Service {service} is not available for {name}");
                    trouble.set(EnhancedStatus::permanent(1, 0), why);
                    return Some(Vec::new());
                }
                records.sort_by_key(|srv| (srv.priority, std::cmp::Reverse(srv.weight)));
                let mut found = Vec::new();
                for srv in records.iter().filter(|srv| domain::valid_hostname(&srv.target)) {
                    let before = found.len();
                    self.addresses(&srv.target, srv.priority, &mut found, trouble).await;
                    for candidate in found.iter_mut().skip(before) {
                        candidate.port = Some(srv.port);
                    }
                }
                if found.is_empty() {
                    trouble.warnings.push(format!("no SRV host for {full} has a valid address record"));
                }
                return Some(found);
            }
            Answer::NotFound | Answer::NoData if settings.srv_fallback => return None,
            Answer::NotFound | Answer::NoData => EnhancedStatus::permanent(4, 4),
            Answer::TryAgain(_) if settings.ignore_srv_lookup_error => return None,
            Answer::TryAgain(_) => EnhancedStatus::transient(4, 3),
            Answer::Fail(_) => EnhancedStatus::permanent(4, 3),
        };
        trouble.set(status, reason);
        Some(Vec::new())
    }

    /// Addresses of a host; mail for ourselves loops.
    async fn host(&self, name: &str, wanted: Wanted<'_>, trouble: &mut Trouble) -> Vec<Candidate> {
        let mut found = Vec::new();
        self.addresses(name, 0, &mut found, trouble).await;
        if wanted.detect_loops && found.iter().any(|one| self.is_ours(one)) {
            trouble.set(EnhancedStatus::permanent(4, 6), format!("mail for {} loops back to myself", wanted.name));
            return Vec::new();
        }
        found
    }

    /// Addresses of the mail exchangers of a domain; of the domain itself where it has none.
    async fn exchangers(&self, name: &str, wanted: Wanted<'_>, trouble: &mut Trouble) -> Vec<Candidate> {
        if name.parse::<IpAddr>().is_ok() {
            // Without the brackets that would keep from asking for mail exchangers: an address has none.
            return self.host(name, wanted, trouble).await;
        }
        if !domain::valid_hostname(name) {
            let reason = format!("Name service error for {name}: invalid host or domain name");
            trouble.set(EnhancedStatus::permanent(4, 4), reason);
            return Vec::new();
        }
        let answer = self.resolver.mx(name).await;
        let reason = error_text(name, RecordType::Mx, &answer);
        let filtered = is_filtered(&answer);
        let (status, fatal) = match answer {
            Answer::Found { records, .. } => return self.addresses_of(records, name, wanted, trouble).await,
            Answer::NotFound | Answer::NoData => return self.host(name, wanted, trouble).await,
            Answer::TryAgain(_) if filtered => (FILTERED, true),
            Answer::TryAgain(_) => (EnhancedStatus::transient(4, 3), false),
            Answer::Fail(_) => (EnhancedStatus::permanent(4, 3), false),
        };
        trouble.set(status, reason);
        if self.settings.ignore_mx_lookup_error && !fatal {
            *trouble = Trouble::default();
            return self.host(name, wanted, trouble).await;
        }
        Vec::new()
    }

    async fn addresses_of(
        &self,
        mut records: Vec<Mx>,
        name: &str,
        wanted: Wanted<'_>,
        trouble: &mut Trouble,
    ) -> Vec<Candidate> {
        // RFC 7505 section 3
        if records.iter().any(Mx::is_null) {
            let reason = format!("Domain {name} does not accept mail (nullMX)");
            trouble.set(EnhancedStatus::permanent(1, 0), reason);
            return Vec::new();
        }
        // A name of digits is an address by mistake; the others are no names at all. They cannot be looked up.
        records.retain(|mx| domain::valid_hostname(&mx.exchange));
        if records.is_empty() {
            let reason =
                format!("Name service error for name={name} type=MX: Malformed or unexpected name server reply");
            trouble.set(EnhancedStatus::permanent(4, 4), reason);
            return Vec::new();
        }
        records.sort_by_key(|mx| mx.preference);
        let best = records.first().map(|mx| mx.preference);
        let mut found = Vec::new();
        for mx in &records {
            self.addresses(&mx.exchange, mx.preference, &mut found, trouble).await;
        }
        if found.is_empty() {
            if self.settings.defer_if_no_mx_address_found
                && let Some((status, _)) = &mut trouble.why
            {
                status.class = Class::Transient;
            }
            trouble.warnings.push(format!("no MX host for {name} has a valid address record"));
            return found;
        }
        if !wanted.detect_loops {
            return found;
        }
        let best_found = found.first().map(|one| one.preference);
        if let Some(ours) = found.iter().find(|one| self.is_ours(one)).map(|one| one.preference) {
            trouble.ours = true;
            found.retain(|one| one.preference < ours);
            if found.is_empty() && best == best_found {
                trouble.set(EnhancedStatus::permanent(4, 6), format!("mail for {} loops back to myself", wanted.name));
            } else if found.is_empty() {
                let reason = format!("unable to find primary relay for {}", wanted.name);
                trouble.set(EnhancedStatus::transient(4, 4), reason);
            }
        }
        found
    }

    fn is_ours(&self, one: &Candidate) -> bool {
        self.settings.own_addresses.contains(&one.address)
    }

    /// Adds the addresses of one host.
    async fn addresses(&self, host: &str, preference: u16, found: &mut Vec<Candidate>, trouble: &mut Trouble) {
        let settings = self.settings;
        let candidate = |address: IpAddr| Candidate { host: host.to_owned(), address, preference, port: None };
        if let Ok(address) = host.parse::<IpAddr>() {
            if if address.is_ipv4() { settings.ipv4 } else { settings.ipv6 } {
                found.push(candidate(address));
            }
            return;
        }
        if settings.lookup_dns {
            match self.dns_addresses(host).await {
                Ok(addresses) => {
                    let called = if settings.canonical_names { self.canonical(host).await } else { None };
                    let called = called.as_deref().unwrap_or(host);
                    let candidate = |address| Candidate { host: called.to_owned(), ..candidate(address) };
                    return found.extend(addresses.into_iter().map(candidate));
                }
                Err((status, reason)) => {
                    let not_found = status.subject == 4 && status.detail == 4;
                    trouble.add(status, reason);
                    if !not_found {
                        return;
                    }
                }
            }
        }
        if settings.lookup_native {
            match self.native.addresses(host, settings.ipv4, settings.ipv6).await {
                Ok(addresses) => found.extend(addresses.into_iter().map(candidate)),
                Err(error) => {
                    let soft = error == NativeError::Again;
                    let status = if soft { EnhancedStatus::transient(4, 4) } else { EnhancedStatus::permanent(4, 4) };
                    trouble.add(status, format!("unable to look up host {host}: {error}"));
                }
            }
        }
    }

    /// The name at the end of a host's CNAMEs.
    async fn canonical(&self, host: &str) -> Option<String> {
        let four = self.resolver.security(host, RecordType::A).await;
        let known = if four.found { four } else { self.resolver.security(host, RecordType::Aaaa).await };
        (known.failed.is_none() && !known.canonical.is_empty()).then_some(known.canonical)
    }

    /// A and AAAA records. The reason is that of the last question, but a soft one comes before a hard one.
    async fn dns_addresses(&self, host: &str) -> Result<Vec<IpAddr>, (EnhancedStatus, String)> {
        if !domain::valid_hostname(host) {
            let reason = format!("Name service error for {host}: invalid host or domain name");
            return Err((EnhancedStatus::permanent(4, 4), reason));
        }
        let mut found = Vec::new();
        let mut worst: Option<(EnhancedStatus, String)> = None;
        let mut worse = |status: EnhancedStatus, reason: String| {
            if !matches!(&worst, Some((before, _)) if before.class == Class::Transient) {
                worst = Some((status, reason));
            }
        };
        if self.settings.ipv4 {
            let answer = self.resolver.a(host).await;
            match status_of(&answer) {
                None => found.extend(answer.records().iter().copied().map(IpAddr::V4)),
                Some(status) => worse(status, error_text(host, RecordType::A, &answer)),
            }
        }
        if self.settings.ipv6 {
            let answer = self.resolver.aaaa(host).await;
            match status_of(&answer) {
                None => found.extend(answer.records().iter().copied().map(IpAddr::V6)),
                Some(status) => worse(status, error_text(host, RecordType::Aaaa, &answer)),
            }
        }
        match worst {
            Some(worst) if found.is_empty() => Err(worst),
            _ => Ok(found),
        }
    }

    /// Families balanced within the limit; random order within a preference; the preferred family first.
    fn arrange(&self, mut found: Vec<Candidate>, random: Random<'_>) -> Vec<Candidate> {
        let settings = self.settings;
        if found.len() > 1 && settings.mx_address_limit > 0 && settings.balance_inet_protocols {
            balance(&mut found, settings.mx_address_limit);
        }
        if found.len() > 1 && settings.randomize_addresses {
            for last in (1..found.len()).rev() {
                let other = usize::try_from(random() % (last as u64 + 1)).unwrap_or(0);
                found.swap(last, other);
            }
        }
        // Stable: what compares equal stays in the order of chance.
        found.sort_by_key(|one| {
            let second = match settings.address_preference {
                Preference::Any => false,
                Preference::Ipv4 => one.address.is_ipv6(),
                Preference::Ipv6 => one.address.is_ipv4(),
            };
            (one.preference, second)
        });
        found
    }
}

/// The status when `smtp_dns_reply_filter` leaves nothing of an answer.
const FILTERED: EnhancedStatus = EnhancedStatus::transient(7, 0);

fn is_filtered<T>(answer: &Answer<T>) -> bool {
    matches!(answer, Answer::TryAgain(why) if why == yamabiko_dns::ALL_DROPPED)
}

fn status_of<T>(answer: &Answer<T>) -> Option<EnhancedStatus> {
    match answer {
        filtered if is_filtered(filtered) => Some(FILTERED),
        Answer::Found { .. } => None,
        Answer::NotFound | Answer::NoData => Some(EnhancedStatus::permanent(4, 4)),
        Answer::TryAgain(_) => Some(EnhancedStatus::transient(4, 3)),
        Answer::Fail(_) => Some(EnhancedStatus::permanent(4, 3)),
    }
}

/// Removes addresses beyond `limit` so that neither family crowds the other out. The order is kept.
fn balance(found: &mut Vec<Candidate>, limit: usize) {
    let v4 = found.iter().filter(|one| one.address.is_ipv4()).count();
    let v6 = found.len() - v4;
    if v4 == 0 || v6 == 0 || found.len() <= limit {
        return;
    }
    let half = limit / 2;
    let (mut keep4, mut keep6) = if v6 <= half {
        (limit - v6, v6)
    } else if v4 <= half {
        (v4, limit - v4)
    } else if found.first().is_some_and(|one| one.address.is_ipv4()) {
        (limit - half, half)
    } else {
        (half, limit - half)
    };
    found.retain(|one| {
        let left = if one.address.is_ipv4() { &mut keep4 } else { &mut keep6 };
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;

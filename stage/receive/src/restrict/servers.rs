//! Restrictions about the servers of a domain: `check_..._mx_access`, `check_..._ns_access`, `check_..._a_access`, and
//! `permit_mx_backup` (Postfix: `check_server_access`, `permit_mx_backup` in smtpd_check).
//!
//! What DNS cannot say now never refuses: it is a line in the log, or a deferral if mail would else be permitted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use yamabiko_address::domain;
use yamabiko_dns::{Answer, Mx, NativeError};
use yamabiko_lookup::{Hit, LookupError, Maps};
use yamabiko_route::{Class, Party};

use super::eval::{About, Evaluation, RECIPIENT, Ruled};
use super::rule::{Node, Subject};
use super::{Record, Said};

/// Which servers of a domain are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Mx,
    Ns,
    /// The host itself.
    A,
}

/// Servers that are looked at for one domain at most: a domain of somebody's making must not keep us busy.
const MOST_SERVERS: usize = 30;

/// What is wrong with an answer, as the system's library says it.
fn why<T>(answer: &Answer<T>) -> &'static str {
    match answer {
        Answer::Found { .. } => "",
        Answer::NotFound => "Host not found",
        Answer::NoData => "Host found but no data record of requested type",
        Answer::TryAgain(_) => "Host not found, try again",
        Answer::Fail(_) => "Non-recoverable error",
    }
}

impl<'a> Evaluation<'a> {
    /// `check_SUBJECT_SERVER_access`
    pub(super) async fn server_access(
        &mut self,
        node: &Node,
        subject: Subject,
        server: Server,
        maps: &Maps,
    ) -> Ruled<'a> {
        let Some((about, name)) = self.subject_name(subject) else { return Said::Dunno.into() };
        match self.server_entry(name, server, maps, about).await {
            Ok(None) => Said::Dunno.into(),
            Err(error) => self.access_failed(about, &error).into(),
            Ok(Some(hit)) => self.obey(node, hit, about),
        }
    }

    /// The entry of the first server, by name or by address, that has one.
    async fn server_entry(
        &mut self,
        name: &str,
        server: Server,
        maps: &Maps,
        about: About<'a>,
    ) -> Result<Option<Hit>, LookupError> {
        let domain = name.rsplit_once('@').map_or(name, |(_, domain)| domain);
        if let Some(literal) = domain.strip_prefix('[') {
            let inside = literal.strip_suffix(']').filter(|_| server != Server::Ns);
            let address = inside.and_then(|inside| domain::parse_address_literal(&format!("[{inside}]")));
            return match address {
                Some(address) => maps.find_network(&address.to_string()).await,
                None => Ok(None),
            };
        }
        let Some(hosts) = self.servers(name, domain, server).await else { return Ok(None) };
        for host in hosts {
            if let Ok(address) = host.parse::<IpAddr>() {
                if let Some(hit) = maps.find_network(&address.to_string()).await? {
                    return Ok(Some(hit));
                }
                continue;
            }
            if server != Server::A
                && let Some(hit) = maps.find_domain(&host, self.policy.parents).await?
            {
                return Ok(Some(hit));
            }
            match self.host_addresses(&host).await {
                Ok(addresses) => {
                    for address in addresses {
                        if let Some(hit) = maps.find_network(&address.to_string()).await? {
                            return Ok(Some(hit));
                        }
                    }
                }
                Err(_) if server == Server::A => {}
                Err(error) => {
                    let kind = if server == Server::Mx { "MX" } else { "NS" };
                    let (class, of) = (about.class, about.name);
                    let text = format!("Unable to look up {kind} host {host} for {class} {of}: {error}");
                    self.state.records.push(Record::Warning(text));
                }
            }
        }
        Ok(None)
    }

    /// Names of the servers. A domain without MX is its own; one without name servers has those of the zone above it.
    async fn servers(&mut self, name: &str, domain: &str, server: Server) -> Option<Vec<String>> {
        let ascii = domain::to_ascii(domain).unwrap_or_default().into_owned();
        let (failure, kind, asked) = match server {
            Server::A => return Some(vec![ascii]),
            Server::Mx => match self.resolver.mx(&ascii).await {
                Answer::Found { mut records, .. } => {
                    if records.iter().any(Mx::is_null) {
                        return None;
                    }
                    records.truncate(MOST_SERVERS);
                    return Some(records.into_iter().map(|mx| mx.exchange).collect());
                }
                Answer::NotFound | Answer::NoData => return Some(vec![ascii]),
                answer => (why(&answer), "MX", Some(domain)),
            },
            Server::Ns => {
                let mut zone = ascii.as_str();
                loop {
                    match self.resolver.ns(zone).await {
                        Answer::Found { mut records, .. } => {
                            records.truncate(MOST_SERVERS);
                            return Some(records);
                        }
                        answer @ (Answer::NotFound | Answer::NoData) => match zone.split_once('.') {
                            Some((_, above)) if !above.is_empty() => zone = above,
                            _ => break (why(&answer), "NS", None),
                        },
                        answer => break (why(&answer), "NS", Some(domain)),
                    }
                }
            }
        };
        let text = format!("Unable to look up {kind} host for {}: {failure}", asked.unwrap_or(name));
        self.state.records.push(Record::Warning(text));
        None
    }

    /// Addresses of a host, of both families.
    async fn host_addresses(&self, host: &str) -> Result<Vec<IpAddr>, NativeError> {
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let v4 = self.resolver.a(host).await;
        let v6 = self.resolver.aaaa(host).await;
        let found: Vec<IpAddr> = (v4.records().iter().map(|a| IpAddr::V4(*a)))
            .chain(v6.records().iter().map(|a| IpAddr::V6(*a)))
            .take(MOST_SERVERS)
            .collect();
        match (&v4, &v6) {
            _ if !found.is_empty() => Ok(found),
            (Answer::TryAgain(_), _) | (_, Answer::TryAgain(_)) => Err(NativeError::Again),
            (Answer::Fail(_), _) | (_, Answer::Fail(_)) => Err(NativeError::Fail),
            (Answer::NoData, _) | (_, Answer::NoData) if v4 != Answer::NotFound => Err(NativeError::NoData),
            _ => Err(NativeError::NoName),
        }
    }

    /// We are one of the recipient domain's mail exchangers, and its first ones are where `permit_mx_backup_networks`
    /// wants them.
    pub(super) async fn mx_backup(&mut self) -> Said {
        let recipient = self.facts.recipient.unwrap_or_default();
        let policy = self.policy;
        let resolved = match self.resolve(Party::Recipient).await {
            Ok(resolved) => resolved,
            Err(error) => return self.lookup_failed(recipient, &error),
        };
        let Some((_, name)) = resolved.recipient.rsplit_once('@') else { return Said::Permit };
        let (name, routed, class) = (name.to_owned(), resolved.routed, resolved.class);
        if routed && !policy.allow_untrusted_routing {
            return Said::Dunno;
        }
        if matches!(class, Class::Local | Class::VirtualAlias | Class::VirtualMailbox | Class::Relay) {
            return Said::Permit;
        }
        if name.starts_with('[') && name.ends_with(']') {
            return Said::Dunno;
        }
        let about = About { name: recipient, class: RECIPIENT };
        let ascii = domain::to_ascii(&name).unwrap_or_default();
        let mut exchangers = match self.resolver.mx(&ascii).await {
            Answer::Found { records, .. } if records.iter().any(Mx::is_null) => return Said::Dunno,
            Answer::Found { records, .. } => records,
            Answer::NotFound | Answer::NoData => {
                let ours = self.is_ours(&ascii, about).await;
                return if ours { Said::Permit } else { Said::Dunno };
            }
            Answer::TryAgain(_) | Answer::Fail(_) => {
                self.mx_trouble(about, "Unable to look up mail exchanger information");
                return Said::Dunno;
            }
        };
        exchangers.truncate(MOST_SERVERS);
        let mut ours = false;
        for mx in &exchangers {
            ours = ours || self.is_ours(&mx.exchange, about).await;
        }
        if !ours || !self.primary_is_near(&exchangers, about).await {
            return Said::Dunno;
        }
        Said::Permit
    }

    fn mx_trouble(&mut self, about: About<'_>, text: &str) {
        self.defer_if(true, 450, "4.4.4", about, text);
    }

    /// A host of ours: in `mydestination`, or at an address of this machine or of its proxy.
    async fn is_ours(&mut self, host: &str, about: About<'_>) -> bool {
        if self.policy.router.local().contains(host).await.unwrap_or(false) {
            return true;
        }
        match self.host_addresses(host).await {
            Ok(addresses) => addresses.iter().any(|address| self.policy.own_addresses.contains(address)),
            Err(error) => {
                if error == NativeError::Again {
                    self.mx_trouble(about, &format!("Unable to look up host {host} as mail exchanger: {error}"));
                }
                false
            }
        }
    }

    /// `permit_mx_backup_networks`
    async fn primary_is_near(&mut self, exchangers: &[Mx], about: About<'_>) -> bool {
        let policy = self.policy;
        if policy.mx_backup_networks.is_empty() {
            return true;
        }
        let best = exchangers.iter().map(|mx| mx.preference).min();
        for mx in exchangers.iter().filter(|mx| Some(mx.preference) == best) {
            match self.host_addresses(&mx.exchange).await {
                Ok(addresses) => {
                    for address in addresses {
                        if policy.mx_backup_networks.contains(&mx.exchange, address).await.unwrap_or(false) {
                            return true;
                        }
                    }
                }
                Err(error) if error == NativeError::Again => {
                    let host = &mx.exchange;
                    self.mx_trouble(about, &format!("Unable to look up host {host} as mail exchanger: {error}"));
                }
                Err(_) => {}
            }
        }
        false
    }
}

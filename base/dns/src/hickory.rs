//! The real resolver: the servers of `/etc/resolv.conf`, with a cache that keeps to the TTLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType as Type};
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::{Answer, MALFORMED, Mx, Pending, PendingSecurity, RecordType, Resolver, Security, Srv, Tlsa, authentic};

/// Asks the name servers of a `resolv.conf`. Construction never fails: as long as the file cannot be used, every
/// answer is [`Answer::TryAgain`] and [`Resolver::trouble`] says why. Questions must be asked inside a tokio runtime.
pub struct HickoryResolver {
    path: PathBuf,
    /// Instead of those of a file.
    given: Vec<SocketAddr>,
    state: RwLock<Result<Arc<TokioResolver>, String>>,
}

impl HickoryResolver {
    /// With `/etc/resolv.conf`.
    pub fn system() -> Self {
        Self::at("/etc/resolv.conf")
    }

    /// With another `resolv.conf`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let state = RwLock::new(build(&path).map(Arc::new));
        Self { path, given: Vec::new(), state }
    }

    /// These servers, no file (parameter `dns_servers`; tests and tools).
    pub fn with_servers(servers: &[SocketAddr]) -> Self {
        let named = servers.iter().map(|server| {
            let mut one = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut one.connections {
                connection.port = server.port();
            }
            one
        });
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        options.attempts = 1;
        options.timeout = Duration::from_secs(1);
        let config = ResolverConfig::from_name_servers(named.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let state = builder.build().map(Arc::new).map_err(|error| error.to_string());
        Self { path: PathBuf::new(), given: servers.to_vec(), state: RwLock::new(state) }
    }

    /// Servers, and how long to wait for one.
    fn servers(&self) -> Result<(Vec<SocketAddr>, Duration), String> {
        if !self.given.is_empty() {
            return Ok((self.given.clone(), Duration::from_secs(1)));
        }
        let (config, options) = read(&self.path)?;
        let servers = config.name_servers().iter().map(|server| {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            SocketAddr::new(server.ip, port)
        });
        Ok((servers.collect(), options.timeout))
    }

    async fn ask<T>(&self, name: Result<Name, String>, kind: Type, pick: impl FnMut(&RData) -> Option<T>) -> Answer<T> {
        let resolver = match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            Ok(resolver) => Arc::clone(resolver),
            Err(why) => return Answer::TryAgain(why.clone()),
        };
        let name = match name {
            Ok(name) => name,
            // A text that is no domain name names nothing.
            Err(_) => return Answer::NotFound,
        };
        match resolver.lookup(name, kind).await {
            Ok(lookup) => {
                let records: Vec<T> = lookup.answers().iter().map(|record| &record.data).filter_map(pick).collect();
                let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
                if records.is_empty() { Answer::NoData } else { Answer::Found { records, ttl } }
            }
            Err(error) => failure(&error),
        }
    }
}

/// What an error of the library means for mail.
fn failure<T>(error: &NetError) -> Answer<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(no_records)) => match no_records.response_code {
            ResponseCode::NXDomain => Answer::NotFound,
            _ => Answer::NoData,
        },
        // The system's library takes these three as "ask another server", and at the end as "try again".
        NetError::Dns(DnsError::ResponseCode(
            code @ (ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp),
        )) => Answer::TryAgain(code.to_string()),
        NetError::Dns(DnsError::ResponseCode(code)) => Answer::Fail(code.to_string()),
        NetError::Proto(_) => Answer::TryAgain(MALFORMED.to_owned()),
        other => Answer::TryAgain(other.to_string()),
    }
}

/// What a `resolv.conf` says.
fn read(path: &Path) -> Result<(ResolverConfig, ResolverOpts), String> {
    let say = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let (config, mut options) = match std::fs::read(path) {
        Ok(text) if has_name_server(&text) => parse_resolv_conf(&text).map_err(|error| say(&error))?,
        // resolv.conf(5): "If no nameserver entries are present, the default is to use the name server on the local
        // machine"; the same goes for a missing file.
        Ok(_) => (local_server(), ResolverOpts::default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (local_server(), ResolverOpts::default()),
        Err(error) => return Err(say(&error)),
    };
    options.use_hosts_file = ResolveHosts::Never;
    options.attempts = options.attempts.max(1);
    options.timeout = options.timeout.clamp(Duration::from_secs(1), Duration::from_secs(30));
    Ok((config, options))
}

fn build(path: &Path) -> Result<TokioResolver, String> {
    let (config, options) = read(path)?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| format!("{}: {error}", path.display()))
}

fn has_name_server(text: &[u8]) -> bool {
    text.split(|&b| b == b'\n').any(|line| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next() == Some(b"nameserver") && words.next().is_some()
    })
}

fn local_server() -> ResolverConfig {
    ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))])
}

/// A name as it is: complete, so that no search list is applied.
fn absolute(name: &str) -> Result<Name, String> {
    let mut parsed = Name::from_ascii(name).map_err(|error| error.to_string())?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

fn text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

impl Resolver for HickoryResolver {
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx> {
        Box::pin(self.ask(absolute(domain), Type::MX, |data| match data {
            RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: text(&mx.exchange) }),
            _ => None,
        }))
    }
    fn a<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv4Addr> {
        Box::pin(self.ask(absolute(host), Type::A, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        }))
    }
    fn aaaa<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv6Addr> {
        Box::pin(self.ask(absolute(host), Type::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(aaaa.0),
            _ => None,
        }))
    }
    fn ptr(&self, address: IpAddr) -> Pending<'_, String> {
        Box::pin(self.ask(Ok(address.into()), Type::PTR, |data| match data {
            RData::PTR(ptr) => Some(text(&ptr.0)),
            _ => None,
        }))
    }
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String> {
        Box::pin(self.ask(absolute(name), Type::TXT, |data| match data {
            RData::TXT(txt) => {
                let bytes: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => None,
        }))
    }
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String> {
        Box::pin(self.ask(absolute(zone), Type::NS, |data| match data {
            RData::NS(ns) => Some(text(&ns.0)),
            _ => None,
        }))
    }
    fn srv<'a>(&'a self, name: &'a str) -> Pending<'a, Srv> {
        Box::pin(self.ask(absolute(name), Type::SRV, |data| match data {
            RData::SRV(srv) => {
                Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: text(&srv.target) })
            }
            _ => None,
        }))
    }
    fn security<'a>(&'a self, name: &'a str, kind: RecordType) -> PendingSecurity<'a> {
        Box::pin(async move {
            let kind = match kind {
                RecordType::Mx => Type::MX,
                RecordType::A => Type::A,
                RecordType::Aaaa => Type::AAAA,
                RecordType::Ptr => Type::PTR,
                RecordType::Txt => Type::TXT,
                RecordType::Ns => Type::NS,
                RecordType::Srv => Type::SRV,
            };
            let failed = |why| Security { failed: Some(why), ..Security::default() };
            match (absolute(name), self.servers()) {
                (Ok(name), Ok((servers, patience))) => match authentic::ask(&servers, patience, &name, kind).await {
                    Ok(reply) => authentic::security(&name, kind, &reply),
                    Err(why) => failed(why),
                },
                (Err(why), _) | (_, Err(why)) => failed(why),
            }
        })
    }
    fn tlsa<'a>(&'a self, name: &'a str) -> Pending<'a, Tlsa> {
        Box::pin(async move {
            let (Ok(name), Ok((servers, patience))) = (absolute(name), self.servers()) else {
                return Answer::TryAgain("no name server".to_owned());
            };
            match authentic::ask(&servers, patience, &name, Type::TLSA).await {
                Ok(reply) if !reply.metadata.authentic_data => Answer::NotFound,
                Ok(reply) => match authentic::tlsa(&reply) {
                    records if records.is_empty() => Answer::NoData,
                    records => Answer::Found { records, ttl: Duration::ZERO },
                },
                Err(why) => Answer::TryAgain(why),
            }
        })
    }
    fn search_list(&self) -> Vec<String> {
        // What is given is given instead of the file.
        let Some((config, _)) = self.given.is_empty().then(|| read(&self.path).ok()).flatten() else {
            return Vec::new();
        };
        let searched = config.search().iter().map(text);
        let own = config.domain().filter(|_| config.search().is_empty()).map(text);
        searched.chain(own).filter(|domain| !domain.is_empty()).collect()
    }
    fn reload(&self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        let new = build(&self.path).map(Arc::new);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
    fn trouble(&self) -> Option<String> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref().err().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    /// A name server that answers every question by the first label of its name.
    async fn server() -> std::net::SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut question = [0u8; 512];
            while let Ok((len, client)) = socket.recv_from(&mut question).await {
                let _ = socket.send_to(&reply(&question[..len]), client).await;
            }
        });
        address
    }

    fn reply(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|&b| b == 0).unwrap() + 5;
        let label = &query[13..13 + usize::from(query[12])];
        let (code, records): (u8, &[&[u8]]) = match label {
            b"none" => (3, &[]),
            b"bare" => (0, &[]),
            b"soft" => (2, &[]),
            b"refused" => (5, &[]),
            b"mx" => (0, &[b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x07\x00\x0a\x02mx\xc0\x0f"]),
            b"null" => (0, &[b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x03\x00\x00\x00"]),
            _ => (0, &[b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x19"]),
        };
        let mut out = query[..2].to_vec();
        out.extend([0x85, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        out.extend(&query[12..end]);
        out.extend(records.concat());
        out
    }

    #[tokio::test]
    async fn asks_a_name_server() {
        let resolver = HickoryResolver::with_servers(&[server().await]);
        assert_eq!(resolver.a("host.test").await.records(), [Ipv4Addr::new(192, 0, 2, 25)]);
        let answer = resolver.mx("mx.test").await;
        assert_eq!(answer.records().len(), 1, "{answer:?}");
        assert_eq!(answer.records()[0].preference, 10);
        assert!(resolver.mx("null.test").await.records()[0].is_null());
        assert_eq!(resolver.mx("none.test").await, Answer::NotFound);
        assert_eq!(resolver.mx("bare.test").await, Answer::NoData);
        assert!(matches!(resolver.mx("soft.test").await, Answer::TryAgain(_)));
        assert!(matches!(resolver.mx("refused.test").await, Answer::TryAgain(_)));
        assert_eq!(resolver.mx("no..name").await, Answer::NotFound);
    }

    #[test]
    fn a_file_that_cannot_be_read_defers() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = HickoryResolver::at(dir.path());
        assert!(resolver.trouble().is_some());
        assert!(matches!(pollster::block_on(resolver.mx("a.test")), Answer::TryAgain(_)));
        let resolver = HickoryResolver::at(dir.path().join("resolv.conf"));
        assert_eq!(resolver.trouble(), None);
    }
}

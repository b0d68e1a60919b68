//! The hosts file, and lookups that ask it before DNS, as the system's own do with `hosts: files dns`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::{Answer, Resolver};

#[derive(Debug, Default)]
struct Entries {
    addresses: HashMap<String, Vec<IpAddr>>,
    /// The first name of an address is its canonical one.
    names: HashMap<IpAddr, String>,
}

impl Entries {
    fn parse(text: &str) -> Self {
        let mut entries = Self::default();
        for line in text.lines() {
            let line = line.split_once('#').map_or(line, |(before, _)| before);
            let mut words = line.split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                entries.names.entry(address).or_insert_with(|| name.to_owned());
                let addresses = entries.addresses.entry(name.to_ascii_lowercase()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        entries
    }
}

/// The hosts file. It is read again when it has changed; a file that cannot be read is empty. Lines that make no sense
/// are skipped, as the system's library does.
#[derive(Debug)]
pub struct Hosts {
    path: Option<PathBuf>,
    state: RwLock<(Option<SystemTime>, Arc<Entries>)>,
}

impl Hosts {
    /// `/etc/hosts`
    pub fn system() -> Self {
        Self::at("/etc/hosts")
    }
    /// Another file.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: Some(path.as_ref().to_owned()), state: RwLock::default() }
    }
    /// From a text, for tests.
    pub fn from_text(text: &str) -> Self {
        Self { path: None, state: RwLock::new((None, Arc::new(Entries::parse(text)))) }
    }

    fn entries(&self) -> Arc<Entries> {
        let changed = self.path.as_deref().and_then(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.0 == changed {
                return Arc::clone(&state.1);
            }
        }
        let text = self.path.as_deref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let entries = Arc::new(Entries::parse(&String::from_utf8_lossy(&text)));
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = (changed, Arc::clone(&entries));
        entries
    }

    /// Addresses of a name, in the file's order; case does not matter.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.entries().addresses.get(&name).cloned().unwrap_or_default()
    }
    /// The first name of an address.
    pub fn name(&self, address: IpAddr) -> Option<String> {
        self.entries().names.get(&address).cloned()
    }
}

/// Why a native lookup found nothing; the texts are those of the system's library (`gai_strerror`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeError {
    /// `EAI_NONAME`
    NoName,
    /// `EAI_NODATA`
    NoData,
    /// `EAI_AGAIN`
    Again,
    /// `EAI_FAIL`
    Fail,
}

impl fmt::Display for NativeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoName => "Name or service not known",
            Self::NoData => "No address associated with hostname",
            Self::Again => "Temporary failure in name resolution",
            Self::Fail => "Non-recoverable failure in name resolution",
        })
    }
}

impl std::error::Error for NativeError {}

impl<T> From<&Answer<T>> for NativeError {
    fn from(answer: &Answer<T>) -> Self {
        match answer {
            Answer::NotFound => Self::NoName,
            Answer::Found { .. } | Answer::NoData => Self::NoData,
            Answer::TryAgain(_) => Self::Again,
            Answer::Fail(_) => Self::Fail,
        }
    }
}

/// Hosts file first, DNS then: Postfix's `native` lookups, and the ones behind smtpd's client names.
#[derive(Clone)]
pub struct Native {
    hosts: Arc<Hosts>,
    resolver: Arc<dyn Resolver>,
}

impl Native {
    /// Asks these two.
    pub fn new(hosts: Arc<Hosts>, resolver: Arc<dyn Resolver>) -> Self {
        Self { hosts, resolver }
    }

    /// Addresses of a host, IPv4 first where both come from DNS, limited to the families asked for. A soft error in
    /// one family counts only when the other has nothing (as `getaddrinfo` does).
    pub async fn addresses(&self, host: &str, ipv4: bool, ipv6: bool) -> Result<Vec<IpAddr>, NativeError> {
        let wanted = |address: &IpAddr| if address.is_ipv4() { ipv4 } else { ipv6 };
        if let Ok(literal) = host.parse::<IpAddr>() {
            return if wanted(&literal) { Ok(vec![literal]) } else { Err(NativeError::NoName) };
        }
        let mut found = self.hosts.addresses(host);
        if !found.is_empty() {
            found.retain(wanted);
            return if found.is_empty() { Err(NativeError::NoData) } else { Ok(found) };
        }
        let mut error: Option<NativeError> = None;
        let mut worse = |new: NativeError| {
            if error.is_none() || new == NativeError::Again {
                error = Some(new);
            }
        };
        if ipv4 {
            match self.resolver.a(host).await {
                Answer::Found { records, .. } => found.extend(records.into_iter().map(IpAddr::V4)),
                other => worse(NativeError::from(&other)),
            }
        }
        if ipv6 {
            match self.resolver.aaaa(host).await {
                Answer::Found { records, .. } => found.extend(records.into_iter().map(IpAddr::V6)),
                other => worse(NativeError::from(&other)),
            }
        }
        if found.is_empty() { Err(error.unwrap_or(NativeError::NoName)) } else { Ok(found) }
    }

    /// The name of an address (`getnameinfo` with `NI_NAMEREQD`): the first one.
    pub async fn name(&self, address: IpAddr) -> Result<String, NativeError> {
        if let Some(name) = self.hosts.name(address) {
            return Ok(name);
        }
        match self.resolver.ptr(address).await {
            Answer::Found { records, .. } => records.into_iter().next().ok_or(NativeError::NoName),
            // The library reports a missing PTR record as a missing name in both cases.
            Answer::NotFound | Answer::NoData => Err(NativeError::NoName),
            other => Err(NativeError::from(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeResolver;
    use pollster::block_on;

    fn native() -> Native {
        let hosts =
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n# comment\n192.0.2.9 Nine.test nine # x\nbad line\n";
        let zone = "both.test A 192.0.2.1\nboth.test AAAA 2001:db8::1\nhalf.test A 192.0.2.2\nsoft.test SERVFAIL\n\
                    bare.test EMPTY\n192.0.2.1 PTR both.test\n";
        Native::new(Arc::new(Hosts::from_text(hosts)), Arc::new(FakeResolver::parse(zone).unwrap()))
    }

    #[test]
    fn addresses_of_names() {
        use NativeError::*;
        type Wanted = Result<&'static [&'static str], NativeError>;
        let table: &[(&str, bool, bool, Wanted)] = &[
            ("localhost", true, true, Ok(&["127.0.0.1", "::1"])),
            ("LOCALHOST", true, false, Ok(&["127.0.0.1"])),
            ("ip6-localhost", true, false, Err(NoData)),
            ("nine", true, true, Ok(&["192.0.2.9"])),
            ("both.test", true, true, Ok(&["192.0.2.1", "2001:db8::1"])),
            ("both.test", false, true, Ok(&["2001:db8::1"])),
            ("half.test", true, true, Ok(&["192.0.2.2"])),
            ("half.test", false, true, Err(NoData)),
            ("bare.test", true, true, Err(NoData)),
            ("none.test", true, true, Err(NoName)),
            ("soft.test", true, true, Err(Again)),
            ("192.0.2.77", true, true, Ok(&["192.0.2.77"])),
            ("192.0.2.77", false, true, Err(NoName)),
        ];
        for (name, v4, v6, wanted) in table {
            let wanted =
                wanted.map(|list| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>());
            assert_eq!(block_on(native().addresses(name, *v4, *v6)), wanted, "{name} {v4} {v6}");
        }
    }

    #[test]
    fn names_of_addresses() {
        let name = |address: &str| block_on(native().name(address.parse().unwrap()));
        assert_eq!(name("127.0.0.1").as_deref(), Ok("localhost"));
        assert_eq!(name("192.0.2.9").as_deref(), Ok("Nine.test"));
        assert_eq!(name("192.0.2.1").as_deref(), Ok("both.test"));
        assert_eq!(name("192.0.2.200"), Err(NativeError::NoName));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let hosts = Hosts::at(&path);
        assert!(hosts.addresses("a.test").is_empty());
        fs::write(&path, "192.0.2.1 a.test\n").unwrap();
        assert_eq!(hosts.addresses("a.test").len(), 1);
        fs::remove_file(&path).unwrap();
        assert!(hosts.addresses("a.test").is_empty());
    }
}

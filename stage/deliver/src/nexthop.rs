//! Next-hop destinations as smtp(8) and lmtp(8) understand them.
//!
//! `domain`, `domain:service`, `[host]`, `[host]:service`, several of them separated by commas or blanks; for LMTP also
//! `inet:` before any of these, and `unix:path` alone. Brackets mean "no MX lookup".

use std::fmt;

/// One place to deliver to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As written, without `inet:`.
    pub text: String,
    /// Domain, host or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The port as it was written, or the default: a number or the name of a service.
    pub service: String,
    /// Written in brackets: addresses of the host are wanted, not its mail exchangers.
    pub bracketed: bool,
}

/// A next-hop destination that cannot be used: the text and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNexthop {
    /// The destination as written.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadNexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in server description: {}", self.why, self.text)
    }
}

impl std::error::Error for BadNexthop {}

/// Separates a list of destinations.
pub fn split_list(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty())
}

impl Destination {
    /// Reads one destination; `default_service` is a port number or the name of a service, `known` (`known_tcp_ports`) has
    /// services that need not be looked up.
    pub fn parse(text: &str, default_service: &str, known: &[(String, u16)]) -> Result<Self, BadNexthop> {
        let bad = |why: &str| BadNexthop { text: text.to_owned(), why: why.to_owned() };
        let (host, service, bracketed) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| bad("missing \"]\""))?;
                let service = match after.strip_prefix(':') {
                    None if after.is_empty() => "",
                    None => return Err(bad("garbage after \"]\"")),
                    Some(service) => service,
                };
                (host, service, true)
            }
            None => {
                let (host, service) = text.rsplit_once(':').unwrap_or((text, ""));
                (host, service, false)
            }
        };
        let host = match host.get(..5) {
            // The first five bytes are ASCII then.
            Some(tag) if bracketed && tag.eq_ignore_ascii_case("IPv6:") => &host[5..],
            _ => host,
        };
        if host.is_empty() {
            return Err(bad("missing host information"));
        }
        if host.bytes().any(|b| b <= b' ' || b == 127 || b == b'[' || b == b']') {
            return Err(bad("valid hostname or network address required"));
        }
        let service = if service.is_empty() { default_service } else { service };
        let port = port_of(service, known).ok_or_else(|| bad(&format!("unknown service: {service}/tcp")))?;
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port, service: service.to_owned(), bracketed })
    }
}

/// A number from 1 to 65535, or a name: the few that mail uses, then `/etc/services`.
fn port_of(service: &str, known: &[(String, u16)]) -> Option<u16> {
    if service.bytes().all(|b| b.is_ascii_digit()) {
        return service.parse().ok().filter(|port| *port != 0);
    }
    if let Some((_, port)) = known.iter().find(|(name, _)| name == service) {
        return Some(*port);
    }
    match service {
        "smtp" => Some(25),
        "lmtp" => Some(24),
        "submission" => Some(587),
        "smtps" | "submissions" => Some(465),
        _ => {
            let text = std::fs::read("/etc/services").ok()?;
            String::from_utf8_lossy(&text).lines().find_map(|line| {
                let line = line.split_once('#').map_or(line, |(before, _)| before);
                let mut words = line.split_ascii_whitespace();
                let name = words.next()?;
                let port = words.next()?.strip_suffix("/tcp")?.parse().ok()?;
                (name == service || words.any(|alias| alias == service)).then_some(port)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let table: &[(&str, &str, u16, bool)] = &[
            ("remote.test", "remote.test", 25, false),
            ("remote.test:2525", "remote.test", 2525, false),
            ("remote.test:submission", "remote.test", 587, false),
            ("remote.test:", "remote.test", 25, false),
            ("remote.test:mail-in", "remote.test", 2525, false),
            ("[mx.remote.test]", "mx.remote.test", 25, true),
            ("[mx.remote.test]:587", "mx.remote.test", 587, true),
            ("[192.0.2.1]:smtp", "192.0.2.1", 25, true),
            ("[2001:db8::1]", "2001:db8::1", 25, true),
            ("[IPv6:2001:db8::1]:26", "2001:db8::1", 26, true),
        ];
        for (text, host, port, bracketed) in table {
            let found = Destination::parse(text, "smtp", &[("mail-in".to_owned(), 2525)]).unwrap();
            assert_eq!((found.host.as_str(), found.port, found.bracketed), (*host, *port, *bracketed), "{text}");
        }
        for (text, why) in [
            ("[remote.test", "missing \"]\""),
            ("[remote.test]x", "garbage after \"]\""),
            ("[]", "missing host information"),
            (":25", "missing host information"),
            ("remote.test:99999", "unknown service: 99999/tcp"),
            ("remote.test:0", "unknown service: 0/tcp"),
            ("remote.test:no-such-service", "unknown service: no-such-service/tcp"),
            ("a b", "valid hostname or network address required"),
        ] {
            assert_eq!(Destination::parse(text, "25", &[]).unwrap_err().why, why, "{text}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(split_list("a:25, [b]:26  c,,").collect::<Vec<_>>(), ["a:25", "[b]:26", "c"]);
        assert_eq!(split_list(" , ").count(), 0);
    }
}

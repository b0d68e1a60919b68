//! Where a report came from, and whether that host has anything to do with the message that it speaks of.
//!
//! Queue ID, Message-ID and envelope ID join a report to its message, and everybody who got a copy of it knows them, or reads
//! them in an archive: anybody can write a report with them. The hosts that took the message, and those of the recipient's
//! domain, are others' than the forger's. So a report from elsewhere is joined and told of, and not believed to the end.

use std::net::{IpAddr, Ipv6Addr};

use yamabiko_lookup::Network;
use yamabiko_message::Fields;

use crate::{Entry, History, What, domain_of};

/// A host that handed a report in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in small letters, where name and address agree; otherwise empty.
    name: String,
    address: IpAddr,
}

/// Hosts whose reports are believed whatever they are about (`late_bounce_trusted_hosts`).
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    networks: Vec<Network>,
    domains: Vec<String>,
}

impl Trusted {
    /// Of addresses, networks and domains (which stand for the names below them too); and what is none of these.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> (Self, Vec<String>) {
        let (mut trusted, mut faults) = (Self::default(), Vec::new());
        for word in words {
            match Network::parse(word) {
                Ok(network) => trusted.networks.push(network),
                Err(why) if word.contains(['/', ':', '[']) || word.parse::<IpAddr>().is_ok() => faults.push(why),
                Err(_) => trusted.domains.push(word.trim_start_matches('.').to_ascii_lowercase()),
            }
        }
        (trusted, faults)
    }

    fn has(&self, origin: &Origin) -> bool {
        self.networks.iter().any(|network| network.contains(origin.address))
            || self.domains.iter().any(|domain| is_below(&origin.name, domain))
    }
}

impl Origin {
    /// A client, as the server knows it.
    pub fn new(name: &str, address: IpAddr) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let name = if name == "unknown" || is_made_of(&name, address) { String::new() } else { name };
        Self { name, address: address.to_canonical() }
    }

    /// Who brought a message: `client`, or where that is a host of a private network (or nobody knows it) the first other one
    /// that the `Received:` fields name from the top. `None` where there is no such field either.
    pub fn of(header: &[u8], client: Option<Self>) -> Option<Self> {
        if client.as_ref().is_some_and(|client| is_public(client.address)) {
            return client;
        }
        let mut inside = client;
        for field in Fields::of(header).iter().filter(|field| field.is("Received")).take(FIELDS) {
            let Some(found) = received(&String::from_utf8_lossy(&field.unfolded())) else { continue };
            if is_public(found.address) {
                return Some(found);
            }
            inside.get_or_insert(found);
        }
        inside
    }

    /// It is one of those that took the message or belong to its recipient, or is believed anyway.
    pub fn is_near(&self, history: &History, trusted: &Trusted) -> bool {
        if trusted.has(self) {
            return true;
        }
        let own = site(&self.name);
        let same_site = |name: &str| own.is_some() && own == site(name);
        same_site(&domain_of(&history.recipient))
            || same_site(&domain_of(&history.original))
            || history.entries.iter().filter(|entry| is_attempt(entry)).any(|entry| {
                let (name, address) = relay(&entry.relay);
                same_site(&name) || address.is_some_and(|address| is_neighbour(address, self.address))
            })
    }
}

/// `Received:` fields that are looked at: those of the hosts inside come first.
const FIELDS: usize = 10;

/// Said by us about who we spoke with; reports say what they like.
fn is_attempt(entry: &Entry) -> bool {
    matches!(entry.what, What::Sent | What::Relayed | What::Delivered | What::Deferred | What::Bounced)
}

/// `mx.b.test[192.0.2.1]:25`, `mx.b.test. [192.0.2.1]`: name and address.
fn relay(text: &str) -> (String, Option<IpAddr>) {
    let (name, rest) = text.split_once('[').unwrap_or((text, ""));
    let name = name.split([':', ' ']).next().unwrap_or_default().trim_end_matches('.');
    (name.to_ascii_lowercase(), rest.split(']').next().and_then(literal))
}

fn literal(text: &str) -> Option<IpAddr> {
    let text = text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map_or(text, |tag| &text[tag.len()..]);
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The host that a `Received:` field names: `from helo (name [address]) by ...` of Postfix, sendmail and ours,
/// `from name ([address] helo=...) by ...` of Exim, `from unknown (HELO helo) (address) by ...` of qmail.
fn received(value: &str) -> Option<Origin> {
    let from = value.get(..5).filter(|word| word.eq_ignore_ascii_case("from ")).and_then(|_| value.get(5..))?;
    let from = from.split(" by ").next().unwrap_or_default();
    // What the client said of itself stands before what is known of it.
    if let Some((before, rest)) = from.rsplit_once('[')
        && let Some((address, after)) = rest.split_once(']')
        && let Some(address) = literal(address)
    {
        let word = before.trim_end().rsplit([' ', '(']).next().unwrap_or_default();
        let exim = before.ends_with('(').then(|| from.split(' ').next().unwrap_or_default());
        let sure = !after.contains("may be forged") && !exim.is_some_and(|name| name.starts_with('['));
        let name = exim.unwrap_or(word);
        return Some(Origin::new(if sure && name.contains('.') { name } else { "" }, address));
    }
    let (_, rest) = from.rsplit_once('(')?;
    Some(Origin::new("", literal(rest.split(')').next()?.rsplit('@').next()?)?))
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            let inside = |address: Ipv6Addr| matches!(address.segments()[0], 0xfc00..=0xfdff | 0xfe80..=0xfebf);
            !(address.is_loopback() || address.is_unspecified() || inside(address))
        }
    }
}

/// Of one network of the size that one operator has; all addresses of this machine are.
fn is_neighbour(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (one.is_loopback() && other.is_loopback()) || one.octets()[..3] == other.octets()[..3]
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
        _ => false,
    }
}

/// Whose name it is: the domain that was registered, as far as that can be told without a list of all registries. Rather a
/// longer one than one of many customers: `example.co.jp`, and `mx.t.co` for itself.
fn site(name: &str) -> Option<String> {
    let labels: Vec<&str> = name.rsplit('.').collect();
    let wanted = match labels.as_slice() {
        [country, below, ..] if country.len() == 2 && below.len() <= 3 => 3,
        _ => 2,
    };
    let own = labels.get(..wanted).filter(|own| own.iter().all(|label| !label.is_empty()))?;
    Some(own.iter().rev().copied().collect::<Vec<_>>().join("."))
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| !domain.is_empty() && (rest.is_empty() || rest.ends_with('.')))
}

/// A provider's name for whoever has the address today says nothing of who that is: `ec2-192-0-2-1.compute.example`.
fn is_made_of(name: &str, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address.to_canonical() else { return false };
    let numbers: Vec<u32> =
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let octets = address.octets();
    octets.iter().all(|octet| numbers.contains(&u32::from(*octet)))
        || name.contains(&octets.map(|octet| format!("{octet:02x}")).concat())
        || name.contains(&octets.map(|octet| format!("{octet:03}")).concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    fn origin(name: &str, address: &str) -> Origin {
        Origin::new(name, address.parse().unwrap())
    }

    #[test]
    fn who_brought_it() {
        let ours =
            "Received: from helo.example (mx.b.test [192.0.2.7])\n\tby mail.a.test (Postfix) with ESMTP id 1;\n\tx\n";
        for (header, client, expected) in [
            ("", Some(("out.b.test", "192.0.2.9")), Some(("out.b.test", "192.0.2.9"))),
            ("", Some(("localhost", "127.0.0.1")), Some(("localhost", "127.0.0.1"))),
            ("", None, None),
            (ours, None, Some(("mx.b.test", "192.0.2.7"))),
            (ours, Some(("gateway.a.test", "10.0.0.2")), Some(("mx.b.test", "192.0.2.7"))),
            (ours, Some(("evil.test", "203.0.113.6")), Some(("evil.test", "203.0.113.6"))),
            (
                "Received: by a (x, from userid 0)\n\tid 1; x\nReceived: from mx.b.test (unknown [192.0.2.7])\n",
                None,
                Some(("", "192.0.2.7")),
            ),
            (
                "Received: from x (localhost [127.0.0.1]) by a with LMTP\nReceived: from h (m.b.test [IPv6:2001:db8::1]) by a\n",
                None,
                Some(("m.b.test", "2001:db8::1")),
            ),
            // Whom they trust is told of itself: HELO.
            (
                "Received: from [198.51.100.1] (evil.test [203.0.113.6]) by a\n",
                None,
                Some(("evil.test", "203.0.113.6")),
            ),
            ("Received: from mx.b.test (x [203.0.113.6] (may be forged)) by a\n", None, Some(("", "203.0.113.6"))),
            (
                "Received: from out.b.test ([192.0.2.7] helo=liar.test) by a with esmtp (Exim 4.96) id 1\n",
                None,
                Some(("out.b.test", "192.0.2.7")),
            ),
            (
                "Received: from [192.0.2.7] (helo=mx.b.test) by a with esmtp (Exim 4.96)\n",
                None,
                Some(("", "192.0.2.7")),
            ),
            (
                "Received: from unknown (HELO mx.b.test) (192.0.2.7)\n  by a with SMTP; x\n",
                None,
                Some(("", "192.0.2.7")),
            ),
            (
                "Received: from unknown (HELO mx.b.test) (user@192.0.2.7)\n  by a with SMTP; x\n",
                None,
                Some(("", "192.0.2.7")),
            ),
            (
                "Received: from\nReceived: nonsense [\nReceived: from ( by ]\nReceived: from 日本 [\u{3042}] by\n",
                None,
                None,
            ),
        ] {
            let client = client.map(|(name, address)| origin(name, address));
            let expected = expected.map(|(name, address)| origin(name, address));
            assert_eq!(Origin::of(header.as_bytes(), client), expected, "{header}");
        }
    }

    #[test]
    fn who_has_to_do_with_it() {
        let mut sent = Entry::new(Timestamp(1), What::Sent, "Q", "x@example.co.jp");
        sent.relay = "mx1.hosting.example[192.0.2.7]:25".into();
        let claimed = Entry {
            relay: "evil.test[203.0.113.6]".into(),
            ..Entry::new(Timestamp(2), What::Report, "Q", "x@example.co.jp")
        };
        let history = History {
            host: String::new(),
            queue_id: "Q".into(),
            recipient: "x@example.co.jp".into(),
            original: "x@old.example.net".into(),
            entries: vec![sent, claimed],
        };
        let (trusted, faults) =
            Trusted::parse(["fbl.test", ".below.test", "198.51.100.0/24", "198.51.100.1/24", "[::1"]);
        assert_eq!(faults.len(), 2, "{faults:?}");
        for (name, address, near) in [
            ("out9.hosting.example", "198.18.0.1", true),
            ("unknown", "192.0.2.200", true),
            ("unknown", "192.0.3.7", false),
            ("mail.example.co.jp", "198.18.0.1", true),
            ("mail.another.co.jp", "198.18.0.1", false),
            ("example.net", "198.18.0.1", true),
            ("evil.test", "203.0.113.6", false),
            ("h-198-18-0-1.pool.hosting.example", "198.18.0.1", false),
            ("c6120001.pool.hosting.example", "198.18.0.1", false),
            ("a.fbl.test", "198.18.0.1", true),
            ("notfbl.test", "198.18.0.1", false),
            ("below.test", "198.18.0.1", true),
            ("unknown", "198.51.100.77", true),
            ("example", "198.18.0.1", false),
            ("co.jp", "198.18.0.1", false),
            ("", "198.18.0.1", false),
        ] {
            assert_eq!(origin(name, address).is_near(&history, &trusted), near, "{name} {address}");
        }
        // Both are this machine.
        let here = History {
            entries: vec![Entry { relay: "127.3.2.1[127.3.2.1]:2525".into(), ..history.entries[0].clone() }],
            ..history
        };
        assert!(origin("localhost", "127.0.0.1").is_near(&here, &trusted));
    }
}

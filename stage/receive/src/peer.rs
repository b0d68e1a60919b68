//! Who is at the other end: address, verified name, reverse name, and what the configuration thinks of it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use yamabiko_dns::{Native, NativeError};
use yamabiko_envelope::{Client, ClientAttributes};

/// What came of a name lookup (the codes of XCLIENT and of the policy protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameStatus {
    /// Found, and for the verified name: it leads back to the address.
    Ok,
    /// No answer now.
    Temporary,
    /// There is none.
    Permanent,
    /// The name does not lead back to the address.
    Forged,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Verified name, or `unknown`.
    pub name: Arc<str>,
    /// Name by PTR record alone, or `unknown`.
    pub reverse_name: Arc<str>,
    /// Address; `None` when XCLIENT says it is not known.
    pub address: Option<IpAddr>,
    /// Port; 0 when not known.
    pub port: u16,
    /// About `name`.
    pub name_status: NameStatus,
    /// About `reverse_name`.
    pub reverse_status: NameStatus,
    /// `name[address]`, as log lines and replies show it.
    pub name_and_address: Arc<str>,
    /// Our end of the connection.
    pub server: Option<SocketAddr>,
}

impl Peer {
    /// A client whose name is not known.
    pub fn unnamed(address: IpAddr, port: u16) -> Self {
        Self::new("unknown", "unknown", Some(address), port)
    }

    /// A client on this machine without a network address: `sendmail -bs`.
    pub fn local() -> Self {
        let mut peer = Self::new("localhost", "localhost", Some(IpAddr::from([127, 0, 0, 1])), 0);
        peer.name_status = NameStatus::Ok;
        peer.reverse_status = NameStatus::Ok;
        peer
    }

    fn new(name: &str, reverse_name: &str, address: Option<IpAddr>, port: u16) -> Self {
        let mut peer = Self {
            name: name.into(),
            reverse_name: reverse_name.into(),
            address,
            port,
            name_status: NameStatus::Permanent,
            reverse_status: NameStatus::Permanent,
            name_and_address: Arc::from(""),
            server: None,
        };
        peer.renamed();
        peer
    }

    /// The address as text, `unknown` when there is none.
    pub fn address_text(&self) -> String {
        let mut text = String::with_capacity(15);
        self.put_address(&mut text);
        text
    }

    fn put_address(&self, text: &mut String) {
        match self.address {
            // Writing to a string does not fail.
            Some(address) => drop(write!(text, "{address}")),
            None => text.push_str("unknown"),
        }
    }

    /// As in an address literal: `IPv6:` before an IPv6 address.
    pub fn literal_text(&self) -> String {
        match self.address {
            Some(IpAddr::V6(address)) => format!("IPv6:{address}"),
            _ => self.address_text(),
        }
    }

    /// Makes `name_and_address` anew after a change.
    pub(crate) fn renamed(&mut self) {
        let mut text = String::with_capacity(self.name.len() + 17);
        text.push_str(&self.name);
        text.push('[');
        self.put_address(&mut text);
        text.push(']');
        self.name_and_address = text.into();
    }

    /// As events name it.
    pub fn client(&self, with_port: bool) -> Client {
        Client { name: Arc::clone(&self.name), address: self.address, port: with_port.then_some(self.port) }
    }

    /// As the envelope keeps it.
    pub(crate) fn attributes(&self, helo: &str, protocol: &str) -> ClientAttributes {
        ClientAttributes {
            name: self.name.to_string(),
            reverse_name: self.reverse_name.to_string(),
            address: self.address,
            port: self.port,
            helo: helo.to_owned(),
            protocol: protocol.to_owned(),
            ident: String::new(),
            server: self.server,
        }
    }
}

/// An IPv4 address that came over an IPv6 socket is an IPv4 address.
pub(crate) fn unmapped(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Looks the client's name up and checks that it leads back to the address. The second value is what the log should
/// warn of.
pub async fn look_up(native: &Native, address: IpAddr, port: u16) -> (Peer, Option<String>) {
    let mut peer = Peer::unnamed(address, port);
    let name = match native.name(address).await {
        Ok(name) => name,
        Err(error) => {
            let status = status_of(error);
            peer.name_status = status;
            peer.reverse_status = status;
            return (peer, None);
        }
    };
    if !yamabiko_address::domain::valid_hostname(&name) {
        return (peer, None);
    }
    peer.reverse_name = name.as_str().into();
    peer.reverse_status = NameStatus::Ok;
    let warning = match native.addresses(&name, address.is_ipv4(), address.is_ipv6()).await {
        Ok(addresses) if addresses.contains(&address) => {
            peer.name = Arc::clone(&peer.reverse_name);
            peer.name_status = NameStatus::Ok;
            peer.renamed();
            None
        }
        Ok(_) => {
            peer.name_status = NameStatus::Forged;
            Some(format!("hostname {name} does not resolve to address {address}"))
        }
        Err(error) => {
            let temporary = status_of(error) == NameStatus::Temporary;
            peer.name_status = if temporary { NameStatus::Temporary } else { NameStatus::Forged };
            Some(format!("hostname {name} does not resolve to address {address}: {error}"))
        }
    };
    (peer, warning)
}

fn status_of(error: NativeError) -> NameStatus {
    match error {
        NativeError::Again => NameStatus::Temporary,
        _ => NameStatus::Permanent,
    }
}

/// What match lists say about a client; asked once per connection, and again after XCLIENT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `smtpd_authorized_xclient_hosts`
    pub xclient: bool,
    /// `smtpd_authorized_xforward_hosts`
    pub xforward: bool,
    /// `smtpd_authorized_verp_clients`
    pub verp: bool,
    /// `smtpd_client_event_limit_exceptions`
    pub unlimited: bool,
    /// `smtpd_forbid_bare_newline_exclusions`
    pub bare_newline_excluded: bool,
    /// `smtpd_sasl_exceptions_networks`: AUTH is not offered.
    pub no_auth: bool,
    /// `debug_peer_list`
    pub verbose: bool,
    /// `local_header_rewrite_clients`
    pub local_rewrite: bool,
    /// EHLO keywords not to be offered: `smtpd_discard_ehlo_keywords` or the entry of
    /// `smtpd_discard_ehlo_keyword_address_maps`.
    pub discard: Discard,
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// EHLO keywords that are not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Discard {
    pub eight_bit_mime: bool,
    pub auth: bool,
    pub chunking: bool,
    pub dsn: bool,
    pub enhanced_status_codes: bool,
    pub etrn: bool,
    pub pipelining: bool,
    pub requiretls: bool,
    pub size: bool,
    pub smtputf8: bool,
    pub starttls: bool,
    pub verp: bool,
    pub vrfy: bool,
    pub xclient: bool,
    pub xforward: bool,
    /// `silent-discard`: without a line in the log.
    pub silent: bool,
}

impl Discard {
    /// Reads a list of keywords; unknown ones are returned.
    pub fn parse(list: &str) -> (Self, Vec<String>) {
        let mut found = Self::default();
        let mut unknown = Vec::new();
        for word in list.split([' ', ',', '\t', '\r', '\n']).filter(|w| !w.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "8bitmime" => found.eight_bit_mime = true,
                "auth" => found.auth = true,
                "chunking" => found.chunking = true,
                "dsn" => found.dsn = true,
                "enhancedstatuscodes" => found.enhanced_status_codes = true,
                "etrn" => found.etrn = true,
                "pipelining" => found.pipelining = true,
                "requiretls" => found.requiretls = true,
                "size" => found.size = true,
                "smtputf8" => found.smtputf8 = true,
                "starttls" => found.starttls = true,
                "verp" | "xverp" => found.verp = true,
                "vrfy" => found.vrfy = true,
                "xclient" => found.xclient = true,
                "xforward" => found.xforward = true,
                "silent-discard" => found.silent = true,
                _ => unknown.push(word.to_owned()),
            }
        }
        (found, unknown)
    }

    /// The keywords, for the log.
    pub fn words(self) -> String {
        let words = [
            (self.eight_bit_mime, "8BITMIME"),
            (self.auth, "AUTH"),
            (self.chunking, "CHUNKING"),
            (self.dsn, "DSN"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.etrn, "ETRN"),
            (self.pipelining, "PIPELINING"),
            (self.requiretls, "REQUIRETLS"),
            (self.size, "SIZE"),
            (self.smtputf8, "SMTPUTF8"),
            (self.starttls, "STARTTLS"),
            (self.verp, "VERP"),
            (self.vrfy, "VRFY"),
            (self.xclient, "XCLIENT"),
            (self.xforward, "XFORWARD"),
        ];
        words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    }
}

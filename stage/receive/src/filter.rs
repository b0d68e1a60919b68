//! Mail filters (milters) in a session: which step they are asked about, what they are told beside it, and the
//! conversation handed on with the message.

use std::net::IpAddr;
use std::sync::Arc;

use yamabiko_milter::{Client, Macros, Milters};

use crate::peer::NameStatus;
use crate::restrict::Facts;

/// A step of the dialogue that filters are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterStep {
    /// The client has connected; nothing was said yet.
    Connect,
    /// HELO or EHLO with this name.
    Helo(String),
    /// MAIL: the address and parameters as written.
    Mail(Vec<String>),
    /// RCPT: the address and parameters as written, and the reply if it is refused already.
    Rcpt(Vec<String>, Option<String>),
    /// DATA, or the first BDAT.
    Data,
    /// A command that is none.
    Unknown(String),
}

/// The conversation with the filters, for whoever takes the message: they see it when it is complete.
pub struct Filtering<'a> {
    /// The conversation.
    pub session: &'a mut yamabiko_milter::Session,
    /// What they are told beside the message.
    pub macros: &'a (dyn Macros + Sync),
}

/// Values of macros in a session (Postfix: `smtpd_milter.c`).
pub(crate) struct SessionMacros<'a> {
    pub(crate) facts: Facts<'a>,
    pub(crate) milters: Arc<Milters>,
    pub(crate) myhostname: &'a str,
    /// `HOST [ADDRESS]`
    pub(crate) server: Option<std::net::SocketAddr>,
    /// The reply to a recipient that is refused already.
    pub(crate) refused: Option<&'a str>,
    /// Where the address of MAIL or RCPT is delivered.
    pub(crate) route: Option<AddressRoute>,
    /// Connections that the client has; 0 where it is not counted.
    pub(crate) connections: u32,
}

/// Where an address is delivered, for macros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressRoute {
    pub(crate) transport: String,
    pub(crate) nexthop: String,
}

impl Macros for SessionMacros<'_> {
    fn value(&self, name: &str) -> Option<String> {
        let facts = &self.facts;
        let peer = facts.peer;
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
        let words = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        match name {
            "i" => facts.queue_id.map(|id| id.to_string()),
            "j" => Some(self.myhostname.to_owned()),
            "v" => Some(self.milters.version.clone()),
            "_" => {
                let forged = if peer.name_status == NameStatus::Forged { " (may be forged)" } else { "" };
                Some(format!("{} [{}]{forged}", peer.reverse_name, peer.address_text()))
            }
            "daemon_name" => Some(self.milters.daemon_name.clone()),
            "daemon_addr" => self.server.map(|server| server.ip().to_string()),
            "daemon_port" => self.server.map(|server| server.port().to_string()),
            "client_addr" => Some(peer.address_text().to_owned()),
            "client_name" => Some(peer.name.to_string()),
            "client_ptr" => Some(peer.reverse_name.to_string()),
            "client_connections" => Some(self.connections.to_string()),
            "client_port" => Some(peer.port.to_string()),
            "client_resolve" => Some(
                match peer.name_status {
                    NameStatus::Ok => "OK",
                    NameStatus::Forged => "FORGED",
                    NameStatus::Temporary => "TEMP",
                    NameStatus::Permanent => "FAIL",
                }
                .to_owned(),
            ),
            "auth_authen" => facts.sasl.map(|sasl| sasl.username.clone()),
            "auth_type" => facts.sasl.map(|sasl| sasl.method.clone()),
            "auth_author" => facts.sasl.and_then(|sasl| words(Some(&sasl.sender))),
            "tls_version" => facts.tls.map(|tls| tls.protocol.clone()),
            "cipher" => facts.tls.map(|tls| tls.cipher.clone()),
            "cipher_bits" => facts.tls.map(|tls| tls.key_size.to_string()),
            "cert_subject" => facts.tls.and_then(|tls| words(Some(&tls.subject))),
            "cert_issuer" => facts.tls.and_then(|tls| words(Some(&tls.issuer))),
            "mail_addr" => facts.sender.map(yamabiko_address::quote).map(std::borrow::Cow::into_owned),
            "mail_mailer" => self.route.as_ref().map(|route| route.transport.clone()),
            "mail_host" => self.route.as_ref().map(|route| route.nexthop.clone()),
            "tls_sni" => facts.tls.and_then(|tls| words(Some(&tls.server_name))),
            "rcpt_mailer" => match self.refused {
                Some(_) => Some("error".to_owned()),
                None => self.route.as_ref().map(|route| route.transport.clone()),
            },
            // Of a refused recipient: status and text of the reply.
            "rcpt_host" => match self.refused {
                Some(reply) => words(reply.split(' ').nth(1)),
                None => self.route.as_ref().map(|route| route.nexthop.clone()),
            },
            "rcpt_addr" => match self.refused {
                Some(reply) => Some(reply.splitn(3, ' ').nth(2).unwrap_or_default().to_owned()),
                None => facts.recipient.map(yamabiko_address::quote).map(std::borrow::Cow::into_owned),
            },
            _ => None,
        }
    }
}

/// Who connects, as filters are told. `bracketed`: the address in brackets, which stands for a name that is not known.
pub(crate) fn client<'f>(facts: &'f Facts<'_>, bracketed: &'f str) -> Client<'f> {
    let name = match facts.peer.name.as_ref() {
        "unknown" => bracketed,
        name => name,
    };
    let address: Option<IpAddr> = facts.peer.address;
    Client { name, address, port: facts.peer.port }
}

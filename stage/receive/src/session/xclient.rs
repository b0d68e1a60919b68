//! XCLIENT and XFORWARD: a proxy or test tool says on whose behalf it speaks.
//!
//! XCLIENT replaces what the server itself knows of the client, restarts the dialogue at the greeting, and takes effect on
//! every check; XFORWARD only says what is to be logged and passed on with the message.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use yamabiko_address::domain;
use yamabiko_envelope::{Client, ClientAttributes, SaslIdentity};
use yamabiko_smtp::command::Tokens;
use yamabiko_smtp::xtext;

use super::commands::neuter;
use super::{Session, Waiting};
use crate::peer::{NameStatus, Peer};

/// Longest value, as in Postfix.
const MAX_VALUE: usize = 255;

/// What XFORWARD said; empty texts where it said nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarded {
    name: Option<String>,
    address: Option<Option<IpAddr>>,
    port: Option<u16>,
    proto: Option<String>,
    helo: Option<String>,
    ident: Option<String>,
    /// `SOURCE`: whether the headers are completed as those of local mail.
    local: Option<bool>,
}

impl Forwarded {
    /// Whether `SOURCE` made the message a local one; `None` when it said nothing.
    pub(super) fn local(&self) -> Option<bool> {
        self.local
    }

    pub(super) fn apply(&self, attributes: &mut ClientAttributes) {
        if let Some(name) = &self.name {
            attributes.name.clone_from(name);
            attributes.reverse_name.clone_from(name);
        }
        if let Some(address) = self.address {
            attributes.address = address;
        }
        if let Some(port) = self.port {
            attributes.port = port;
        }
        if let Some(proto) = &self.proto {
            attributes.protocol.clone_from(proto);
        }
        if let Some(helo) = &self.helo {
            attributes.helo.clone_from(helo);
        }
        if let Some(ident) = &self.ident {
            attributes.ident.clone_from(ident);
        }
    }

    /// `orig_queue_id=` and `orig_client=`.
    pub(super) fn for_log(&self, with_port: bool) -> (String, Option<Client>) {
        let client = (self.name.is_some() || self.address.is_some()).then(|| Client {
            name: self.name.as_deref().unwrap_or("unknown").into(),
            address: self.address.flatten(),
            port: self.port.filter(|_| with_port),
        });
        (self.ident.clone().unwrap_or_default(), client)
    }
}

/// The reply to an attribute that cannot be used.
type Refused = String;

fn bad(what: &str, name: &str, value: &str) -> Refused {
    format!("501 5.5.4 Bad {name} {what}: {value}").replace("  ", " ")
}

/// `NAME=value`, the value decoded and made printable.
fn attribute(word: &str) -> Result<(String, String), Refused> {
    let Some((name, raw)) = word.split_once('=').filter(|(_, raw)| !raw.is_empty()) else {
        return Err("501 5.5.4 Error: attribute=value expected".to_owned());
    };
    if raw.len() > MAX_VALUE {
        return Err("501 5.5.4 Error: attribute value too long".to_owned());
    }
    // Before Postfix 2.3 values were not encoded.
    let value = xtext::decode(raw).unwrap_or_else(|_| raw.to_owned());
    let value = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Ok((name.to_ascii_uppercase(), value))
}

fn unavailable(value: &str) -> Option<NameStatus> {
    match value.to_ascii_uppercase().as_str() {
        "[UNAVAILABLE]" => Some(NameStatus::Permanent),
        "[TEMPUNAVAIL]" => Some(NameStatus::Temporary),
        _ => None,
    }
}

fn address(value: &str) -> Option<IpAddr> {
    domain::parse_address_literal(&format!("[{value}]")).or_else(|| value.parse().ok())
}

/// What XCLIENT changes.
struct Changes {
    peer: Peer,
    helo: Option<Option<String>>,
    protocol: Option<&'static str>,
    login: Option<Option<String>>,
}

impl Changes {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        match name {
            "NAME" | "REVERSE_NAME" => {
                let status = unavailable(value);
                if status.is_none() && !domain::valid_hostname(value) {
                    return Err(bad("hostname syntax", name, value));
                }
                let text: Arc<str> = if status.is_none() { value.into() } else { "unknown".into() };
                let status = status.unwrap_or(NameStatus::Ok);
                if name == "NAME" {
                    self.peer.name = Arc::clone(&text);
                    self.peer.name_status = status;
                }
                if name == "REVERSE_NAME" || status == NameStatus::Ok {
                    self.peer.reverse_name = text;
                    self.peer.reverse_status = status;
                }
            }
            "ADDR" => {
                self.peer.address = match unavailable(value) {
                    Some(_) => None,
                    None => Some(address(value).ok_or_else(|| bad("syntax", name, value))?),
                };
            }
            "PORT" => {
                self.peer.port = match unavailable(value) {
                    Some(_) => 0,
                    None => value.parse().map_err(|_| bad("syntax", name, value))?,
                };
            }
            "HELO" => self.helo = Some(unavailable(value).is_none().then(|| neuter(value))),
            "PROTO" => {
                self.protocol = Some(match value.to_ascii_uppercase().as_str() {
                    "SMTP" => "SMTP",
                    "ESMTP" => "ESMTP",
                    _ => return Err(bad("syntax", name, value)),
                });
            }
            "LOGIN" => self.login = Some(unavailable(value).is_none().then(|| neuter(value))),
            // For policy servers and mail filters.
            "DESTADDR" => {
                let port = self.peer.server.map_or(0, |server| server.port());
                self.peer.server = match unavailable(value) {
                    Some(_) => None,
                    None => {
                        let address = address(value).ok_or_else(|| bad("address syntax", name, value))?;
                        Some(SocketAddr::new(address, port))
                    }
                };
            }
            "DESTPORT" => {
                let port = match unavailable(value) {
                    Some(_) => 0,
                    None => value.parse().map_err(|_| bad("syntax", name, value))?,
                };
                if let Some(server) = &mut self.peer.server {
                    server.set_port(port);
                }
            }
            _ => return Err(format!("501 5.5.4 Bad XCLIENT attribute name: {name}")),
        }
        Ok(())
    }
}

impl Session {
    pub(super) fn xclient(&mut self, words: Tokens<'_>) {
        if self.transaction.is_some() {
            return self.protocol_error("503 5.5.1 Error: MAIL transaction in progress");
        }
        if words.left() == 0 {
            return self.protocol_error("501 5.5.4 Syntax: XCLIENT attribute=value...");
        }
        if !self.standing.xclient {
            return self.policy_error("550 5.7.0 Error: insufficient authorization");
        }
        let mut changes = Changes { peer: self.peer.clone(), helo: None, protocol: None, login: None };
        for word in words {
            let taken = attribute(word.text).and_then(|(name, value)| changes.take(&name, &value));
            if let Err(reply) = taken {
                return self.protocol_error(&reply);
            }
        }
        changes.peer.renamed();
        self.peer = changes.peer;
        self.client = self.peer.client(self.settings.port_logging);
        self.helo = changes.helo.flatten();
        self.protocol = changes.protocol.unwrap_or("SMTP");
        self.access_denied = false;
        if let Some(login) = changes.login {
            let identity = |username| SaslIdentity { method: "XCLIENT".to_owned(), username, sender: String::new() };
            self.sasl = login.map(|username| Box::new(identity(username)));
        }
        self.end_transaction();
        self.end_transcript(None);
        // The dialogue begins again, and so XCLIENT never counts as a success.
        self.wait(Waiting::Classify);
    }

    pub(super) fn xforward(&mut self, words: Tokens<'_>) {
        if self.transaction.is_some() {
            return self.protocol_error("503 5.5.1 Error: MAIL transaction in progress");
        }
        if words.left() == 0 {
            return self.protocol_error("501 5.5.4 Syntax: XFORWARD attribute=value...");
        }
        if !self.standing.xforward {
            return self.policy_error("550 5.7.0 Error: insufficient authorization");
        }
        let mut forwarded = self.forwarded.take().unwrap_or_default();
        let mut taken = words.map(|word| {
            let (name, value) = attribute(word.text)?;
            forward(&mut forwarded, &name, &value)
        });
        let bad = taken.find_map(Result::err);
        // What was said before the mistake stays said, as in Postfix.
        self.forwarded = Some(forwarded);
        if let Some(reply) = bad {
            return self.protocol_error(&reply);
        }
        self.reply_ok("250 2.0.0 Ok");
    }
}

fn forward(forwarded: &mut Forwarded, name: &str, value: &str) -> Result<(), Refused> {
    let known = unavailable(value).is_none();
    match name {
        "NAME" if known && !domain::valid_hostname(&neuter(value)) => return Err(bad("hostname syntax", name, value)),
        "NAME" => forwarded.name = Some(if known { neuter(value) } else { "unknown".to_owned() }),
        "ADDR" if known => {
            forwarded.address = Some(Some(address(value).ok_or_else(|| bad("syntax", name, value))?));
        }
        "ADDR" => forwarded.address = Some(None),
        "PORT" if known => match value.parse::<u32>() {
            // No port, but Postfix takes every number of five digits.
            Ok(number) if value.len() <= 5 => forwarded.port = Some(u16::try_from(number).unwrap_or(0)),
            _ => return Err(bad("syntax", name, value)),
        },
        "PORT" => forwarded.port = Some(0),
        "HELO" => forwarded.helo = Some(if known { neuter(value) } else { String::new() }),
        "PROTO" | "IDENT" if value.len() > 64 => return Err(bad("syntax", name, value)),
        "PROTO" => forwarded.proto = Some(if known { neuter(value) } else { String::new() }),
        "IDENT" => forwarded.ident = Some(if known { neuter(value) } else { String::new() }),
        "SOURCE" if value.eq_ignore_ascii_case("LOCAL") => forwarded.local = Some(true),
        "SOURCE" if !known || value.eq_ignore_ascii_case("REMOTE") => forwarded.local = Some(false),
        "SOURCE" => return Err(bad("syntax", name, value)),
        _ => return Err(format!("501 5.5.4 Bad XFORWARD attribute name: {name}")),
    }
    Ok(())
}

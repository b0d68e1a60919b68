//! What TLS with the servers of a domain is like, and what would become of mail for it: `yamabiko verify --tls`.
//!
//! The same code that delivers decides here; only the message is missing. Nothing is sent, nothing is remembered.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use yamabiko_config::View;
use yamabiko_dns::{Answer, Hosts, Native, RecordType, Resolver};
use yamabiko_lookup::TableSet;
use yamabiko_smtp::capability::Capabilities;
use yamabiko_status::Class;
use yamabiko_tls::{Client, ClientLevel, ClientOptions, Demand, Disk, Failure, Presented, Proof, Secured};

use crate::connection::{ConnectError, Connection, connect_tcp, error_text};
use crate::hosts::{Candidate, Lookup, Wanted};
use crate::names;
use crate::nexthop::Destination;
use crate::policy::{Policy, Site, Terms, Tls, Wish};
use crate::secure::{Memory, now};
use crate::session::{Peer, Session};
use crate::settings::{Protocol, Settings};
use crate::sts::{self, Mode};

/// For one reply, and for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it stands, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Mail goes, encrypted, to whoever it is meant for.
    Good,
    /// Mail goes, but in the clear or to nobody knows whom.
    Open,
    /// Mail would wait or come back.
    Refused,
    /// It could not be found out now.
    Unknown,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it stands.
    pub standing: Standing,
    /// Lines for people.
    pub text: String,
}

/// Asks, and waits for it.
///
/// # Errors
/// There is no runtime to wait with.
pub fn ask(view: &View, tables: &TableSet, resolver: &Arc<dyn Resolver>, destination: &str) -> std::io::Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(finger(view, tables, resolver, destination)))
}

struct Finger<'a> {
    settings: Settings,
    policy: Policy,
    resolver: &'a Arc<dyn Resolver>,
    text: String,
}

/// Asks.
pub async fn finger(view: &View, tables: &TableSet, resolver: &Arc<dyn Resolver>, destination: &str) -> Found {
    let mut notices = Vec::new();
    let resolver = &names::resolver(view, "smtp_", tables, Arc::clone(resolver), |_| {}, &mut notices);
    let mut policy = Policy { tls: Tls::read(view, Protocol::Smtp, tables, &Disk, &mut notices), ..Policy::default() };
    policy.remember_in(Arc::new(Memory::in_memory()));
    let mut settings = Settings::from_view(view, Protocol::Smtp);
    settings.timeouts.connect = settings.timeouts.connect.min(PATIENCE);
    let mut finger = Finger { settings, policy, resolver, text: String::new() };
    for notice in notices {
        finger.line(0, &format!("warning: {notice}"));
    }
    let standing = finger.destination(view, destination).await;
    Found { standing, text: finger.text }
}

fn date(seconds: u64) -> String {
    crate::tlsrpt::date_of(seconds / (24 * 3600))
}

impl Finger<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        // Names and replies come from elsewhere.
        let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(self.text, "{:depth$}{text}", "", depth = depth * 2);
    }

    async fn destination(&mut self, view: &View, text: &str) -> Standing {
        let destination = match Destination::parse(text, &self.settings.tcp_port, &self.settings.known_ports) {
            Ok(destination) => destination,
            Err(error) => {
                self.line(0, &format!("{text}: {error}"));
                return Standing::Refused;
            }
        };
        self.line(0, &destination.text);
        let mut notes = Vec::new();
        let site = self.policy.site(&destination, &**self.resolver, &mut notes).await;
        for note in notes {
            self.line(1, note.strip_prefix("info: ").unwrap_or(&note));
        }
        let site = match site {
            Ok(site) => site,
            Err((_, why)) => {
                self.line(1, &format!("mail would wait: {why}"));
                return Standing::Refused;
            }
        };
        let level = self.policy.usual_level();
        let origin = if site.is_from_table() { "smtp_tls_policy_maps" } else { "smtp_tls_security_level" };
        self.line(1, &format!("policy: {} = {}", origin, self.level_of(&site, level)));
        self.announced(view, &destination).await;
        let native = Native::new(Arc::new(Hosts::system()), Arc::clone(self.resolver));
        let lookup = Lookup { resolver: &**self.resolver, native: &native, settings: &self.settings };
        let mail_exchangers = !self.settings.dns_disabled && !destination.bracketed;
        let wanted = Wanted { name: &destination.host, mail_exchangers, service: None, detect_loops: false };
        // The order is that of the preferences; chance has no part in it.
        let found = lookup.find(wanted, &mut || 0).await;
        let candidates = match found {
            Ok(found) => found.candidates,
            Err(trouble) => {
                let (standing, why) = match trouble.why {
                    Some((status, why)) if status.class == Class::Transient => (Standing::Unknown, why),
                    Some((_, why)) => (Standing::Refused, why),
                    None => (Standing::Unknown, "no host found".to_owned()),
                };
                self.line(1, &why);
                return standing;
            }
        };
        let mut worst = None;
        for candidate in candidates {
            let standing = self.host(&site, &destination, &candidate).await;
            worst = worst.max(Some(standing));
        }
        worst.unwrap_or(Standing::Unknown)
    }

    fn level_of(&self, site: &Site, usual: ClientLevel) -> &'static str {
        if site.is_from_table() { "(its entry)" } else { usual.word() }
    }

    /// What the domain publishes, whether we heed it or not.
    async fn announced(&mut self, view: &View, destination: &Destination) {
        let domain = destination.host.to_ascii_lowercase();
        if destination.bracketed {
            return;
        }
        let answer = self.resolver.txt(&format!("_mta-sts.{domain}")).await;
        match sts::record_id(answer.records().iter().map(String::as_str)) {
            None => self.line(1, "MTA-STS: none announced"),
            Some(id) => {
                let heeded = view.bool("smtp_tls_mta_sts");
                let how = crate::policy::fetching(view, &Disk, &mut Vec::new());
                let fetched = match &how {
                    Some(how) => sts::fetch(&domain, &**self.resolver, how).await.map_err(|failure| failure.why),
                    None => Err("the settings of TLS cannot be used".to_owned()),
                };
                match fetched {
                    Ok(policy) => {
                        let mode = policy.mode.word();
                        let until = date(now().saturating_add(policy.max_age));
                        let patterns = policy.patterns.join(", ");
                        self.line(1, &format!("MTA-STS: mode={mode}, id={id}, mx={patterns}, until {until}"));
                        if !heeded && policy.mode != Mode::None {
                            self.line(2, "not heeded: smtp_tls_mta_sts = no");
                        }
                    }
                    Err(why) => self.line(1, &format!("MTA-STS: announced (id={id}), but {why}")),
                }
            }
        }
        let answer = self.resolver.txt(&format!("_smtp._tls.{domain}")).await;
        let wanted = crate::tlsrpt::read_record(answer.records().iter().map(String::as_str));
        self.line(1, if wanted.is_some() { "TLS reports: wanted" } else { "TLS reports: not wanted" });
    }

    async fn host(&mut self, site: &Site, destination: &Destination, candidate: &Candidate) -> Standing {
        let peer =
            Peer { host: candidate.host.clone(), address: candidate.address.to_string(), port: destination.port };
        self.line(1, &format!("{} (preference {})", peer.relay(), candidate.preference));
        self.tlsa(&peer).await;
        let mut notes = Vec::new();
        let terms = self.policy.terms(site, &peer, ("", Wish::Policy), &**self.resolver, &mut notes).await;
        for note in notes {
            self.line(2, &note);
        }
        let terms = match terms {
            Ok(terms) => terms,
            Err((_, why)) => {
                self.line(2, &format!("mail would wait: {why}"));
                return Standing::Refused;
            }
        };
        let by = if terms.policy.is_empty() { String::new() } else { format!(" by the {}", terms.policy) };
        self.line(2, &format!("level: {}{by}", terms.level.word()));
        let to = SocketAddr::new(candidate.address, destination.port);
        match timeout(PATIENCE * 3, self.talk(&terms, peer, to)).await {
            Ok(standing) => standing,
            Err(_) => {
                self.line(2, "timed out");
                Standing::Unknown
            }
        }
    }

    async fn tlsa(&mut self, peer: &Peer) {
        let host = peer.host.to_ascii_lowercase();
        if host.parse::<std::net::IpAddr>().is_ok() {
            return;
        }
        let address = self.resolver.security(&host, RecordType::A).await;
        let signed = if address.secure { "signed" } else { "not signed (or the resolver does not validate)" };
        let text = match self.resolver.tlsa(&format!("_{}._tcp.{host}", peer.port)).await {
            Answer::Found { records, .. } => {
                let one = |record: &yamabiko_dns::Tlsa| {
                    let hex: String = record.data.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                    format!("{} {} {} {hex}...", record.usage, record.selector, record.matching)
                };
                records.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Answer::NotFound | Answer::NoData => "none".to_owned(),
            Answer::TryAgain(why) | Answer::Fail(why) => format!("not to be had: {why}"),
        };
        self.line(2, &format!("DNSSEC: {signed}; TLSA: {text}"));
    }

    async fn talk(&mut self, terms: &Arc<Terms>, peer: Peer, to: SocketAddr) -> Standing {
        let session = Session::new(peer.clone(), false, false);
        let mut warnings = Vec::new();
        let connected = connect_tcp(to, &self.settings, session, |text| warnings.push(text)).await;
        for warning in warnings {
            self.line(2, &warning);
        }
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(ConnectError::System(error)) => {
                self.line(2, &format!("connect: {}", error_text(&error)));
                return Standing::Unknown;
            }
            Err(ConnectError::Source) => {
                self.line(2, "connect: the source address cannot be used");
                return Standing::Unknown;
            }
        };
        let talked = self.dialogue(&mut connection, terms, &peer).await;
        let _ = connection.socket.write(b"QUIT\r\n", Duration::from_secs(5)).await;
        connection.socket.close().await;
        talked.unwrap_or_else(|why| {
            self.line(2, &why);
            Standing::Unknown
        })
    }

    /// A reply; anything but success is a reason to go.
    async fn reply(&self, connection: &mut Connection) -> Result<yamabiko_smtp::reply::Reply, String> {
        match connection.socket.reply(PATIENCE, None).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(garbage)) => Err(format!("this is not SMTP: {}", garbage.0)),
            Err(how) => Err(format!("the connection broke: {how:?}")),
        }
    }

    async fn ehlo(&self, connection: &mut Connection) -> Result<Capabilities, String> {
        let line = format!("EHLO {}\r\n", self.settings.helo_name);
        connection.socket.write(line.as_bytes(), PATIENCE).await.map_err(|how| format!("{how:?}"))?;
        let reply = self.reply(connection).await?;
        if !reply.code.is_success() {
            return Err(format!("EHLO is answered with {}", reply.one_line()));
        }
        Ok(Capabilities::parse(&reply, &self.settings.discard.keywords))
    }

    async fn dialogue(
        &mut self,
        connection: &mut Connection,
        terms: &Arc<Terms>,
        peer: &Peer,
    ) -> Result<Standing, String> {
        if !self.settings.wrappermode {
            let greeting = self.reply(connection).await?;
            if !greeting.code.is_success() {
                return Err(format!("it refuses to talk: {}", greeting.one_line()));
            }
            let offered = self.ehlo(connection).await?;
            if !offered.starttls {
                self.line(2, "STARTTLS: not offered");
                return Ok(self.without(terms));
            }
            connection.socket.write(b"STARTTLS\r\n", PATIENCE).await.map_err(|how| format!("{how:?}"))?;
            let reply = self.reply(connection).await?;
            if !reply.code.is_success() {
                self.line(2, &format!("STARTTLS: {}", reply.one_line()));
                return Ok(self.without(terms));
            }
        }
        let (client, demand) = self.demand(terms, peer)?;
        let secured = match connection.socket.secure(&client, &demand, PATIENCE).await {
            Ok(secured) => secured,
            Err(failure) => {
                let why = match failure {
                    Failure::Lost => "lost connection".to_owned(),
                    Failure::Broken(why) | Failure::Protocol(why) => why,
                };
                self.line(2, &format!("handshake failed: {why}"));
                return Ok(self.without(terms));
            }
        };
        self.describe(&secured);
        if self.settings.wrappermode {
            self.reply(connection).await?;
        }
        let offered = self.ehlo(connection).await?;
        self.line(2, if offered.requiretls { "REQUIRETLS: offered" } else { "REQUIRETLS: not offered" });
        Ok(self.conclusion(terms, &secured))
    }

    /// What is asked of the server: what its policy says, or else what the strictest would say, to tell of it.
    fn demand(&self, terms: &Arc<Terms>, peer: &Peer) -> Result<(Arc<Client>, Demand), String> {
        let mut demand = terms.demand.clone();
        demand.describe = true;
        if !demand.proof.is_demanded() {
            demand.proof = Proof::Names { names: vec![peer.host.clone()], anchors: None };
        }
        if let Some(client) = terms.client.clone().filter(|_| terms.level.must_match()) {
            return Ok((client, demand));
        }
        // Without a demand of the configuration the authorities of the system tell most.
        let options = ClientOptions { prefix: "smtp_", digest: "sha256".to_owned(), ..ClientOptions::default() };
        if demand.server_name.is_empty() {
            demand.server_name.clone_from(&peer.host);
        }
        let client = Client::new(options.for_the_web(), &Disk).map_err(|fault| fault.0)?;
        let client = terms.client.clone().filter(|_| demand_has_anchors(&demand)).unwrap_or(Arc::new(client));
        Ok((client, demand))
    }

    fn describe(&mut self, secured: &Secured) {
        let session = &secured.session;
        let exchange = &session.key_exchange;
        let by = if exchange.is_empty() { String::new() } else { format!(", key exchange {exchange}") };
        self.line(2, &format!("TLS: {} with {}{by}", session.protocol, session.cipher.name));
        if let Some(certificate) = &session.peer {
            self.line(2, &format!("fingerprint: {}", certificate.fingerprint));
        }
        for (at, Presented { subject, issuer, names, until }) in secured.chain.iter().enumerate() {
            let until = until.map_or_else(|| "unknown".to_owned(), date);
            self.line(2, &format!("certificate {at}: {subject}, issued by {issuer}, valid until {until}"));
            if at == 0 && !names.is_empty() {
                self.line(3, &format!("names: {}", names.iter().take(20).cloned().collect::<Vec<_>>().join(", ")));
            }
        }
        match &secured.objection {
            None => self.line(2, "certificate: proved"),
            Some(why) => self.line(2, &format!("certificate: not proved: {why}")),
        }
    }

    fn without(&mut self, terms: &Arc<Terms>) -> Standing {
        if terms.level.is_mandatory() {
            self.line(2, "mail would wait: TLS is demanded");
            return Standing::Refused;
        }
        self.line(2, "mail would go out in the clear");
        Standing::Open
    }

    fn conclusion(&mut self, terms: &Arc<Terms>, secured: &Secured) -> Standing {
        if terms.level.must_match() {
            let (text, standing) = match secured.proved {
                true => ("mail would go: verified", Standing::Good),
                false => ("mail would wait: Server certificate not verified", Standing::Refused),
            };
            self.line(2, text);
            return standing;
        }
        if terms.level == ClientLevel::None {
            self.line(2, "mail would go out in the clear: smtp_tls_security_level is none");
            return Standing::Open;
        }
        self.line(2, "mail would go: encrypted, but nothing demands that the server proves who it is");
        Standing::Open
    }
}

fn demand_has_anchors(demand: &Demand) -> bool {
    matches!(&demand.proof, Proof::Names { anchors: Some(_), .. })
}

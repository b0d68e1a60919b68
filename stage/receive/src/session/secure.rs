//! STARTTLS (RFC 3207) and the handshake, as far as the dialogue is concerned.
//!
//! Whatever the client sent in the clear after STARTTLS is thrown away by the driver before the handshake, and with
//! `smtpd_forbid_unauth_pipelining` refused: an attacker in the middle must not put commands into the encrypted session.

use yamabiko_smtp::command::Tokens;
use yamabiko_tls::Failure;

use super::verb::Verb;
use super::{Phase, Session, Waiting, escaped};
use crate::limits::Counted;
use crate::restrict::TlsFacts;
use crate::settings::ErrorClasses;

/// An encrypted connection.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) session: yamabiko_tls::Session,
    pub(super) facts: TlsFacts,
}

impl Session {
    pub(super) fn starttls(&mut self, mut words: Tokens<'_>, ahead: &[u8]) {
        if words.next().is_some() {
            return self.protocol_error("501 5.5.4 Syntax: STARTTLS");
        }
        if self.filters_object() {
            return;
        }
        if self.tls.is_some() {
            return self.protocol_error("554 5.5.1 Error: TLS already active");
        }
        if !self.settings.tls.is_wanted() || self.user.is_some() || self.standing.discard.starttls {
            return self.protocol_error("502 5.5.1 Error: command not implemented");
        }
        if self.settings.tls.server.is_none() {
            self.seen.add(ErrorClasses::RESOURCE);
            return self.reply_error("454 4.7.0 TLS not available due to local problem");
        }
        if !ahead.is_empty() {
            self.bad_pipelining = true;
            self.info(format!(
                "improper command pipelining after STARTTLS from {}: {}",
                self.peer.name_and_address,
                escaped(ahead)
            ));
            if self.settings.forbid_unauth_pipelining {
                self.seen.add(ErrorClasses::PROTOCOL);
                self.reply_error("554 5.5.0 Error: SMTP protocol synchronization");
                self.hang_up = true;
                return;
            }
        }
        if self.too_many_new_sessions() {
            return;
        }
        self.reply("220 2.0.0 Ready to start TLS");
        self.wait(Waiting::Handshake { wrapper: false });
    }

    /// Who has made too many new sessions lately is not let into another handshake.
    fn too_many_new_sessions(&mut self) -> bool {
        let limit = self.settings.tls.new_session_rate;
        let Some(address) = self.limited_address(limit) else { return false };
        if self.around.limits.current(Counted::NewTls, &self.settings.service, self.settings.range(address), self.now)
            <= limit
        {
            return false;
        }
        let who = self.peer.name_and_address.clone();
        self.warn(format!("Refusing STARTTLS request from {who} for service {}", self.settings.service));
        self.policy_error(&format!("454 4.7.0 Error: too many new TLS sessions from {who}"));
        true
    }

    /// `smtpd_tls_wrappermode`: the handshake comes first. `false`: it cannot, and the connection is dropped.
    pub(super) fn wrap(&mut self) -> bool {
        if self.settings.tls.server.is_none() {
            self.warn(format!(
                "Wrapper-mode request dropped from {} for service {}. TLS context initialization failed. For details see \
                 earlier warnings in your logs.",
                self.peer.name_and_address, self.settings.service
            ));
            self.phase = Phase::Closed;
            return false;
        }
        self.wait(Waiting::Handshake { wrapper: true });
        true
    }

    /// How long the handshake may take.
    pub fn handshake_timeout(&self) -> std::time::Duration {
        let (normal, stressed) = self.settings.tls.timeout;
        if self.stressed { stressed } else { normal }
    }

    /// The answer to [`super::Action::Handshake`]; `None`: it took too long.
    pub fn secured(&mut self, result: Option<Result<yamabiko_tls::Session, Failure>>) {
        let Phase::Waiting(Waiting::Handshake { wrapper }, _) = self.phase else { return };
        self.phase = if wrapper { Phase::Greeting } else { Phase::Command };
        match result {
            Some(Ok(session)) => self.encrypted(session, wrapper),
            failed => {
                let who = self.peer.name_and_address.clone();
                let (text, more) = match failed {
                    None => ("Connection timed out".to_owned(), None),
                    Some(Err(Failure::Broken(why))) => (why, None),
                    Some(Err(Failure::Protocol(why))) => ("-1".to_owned(), Some(why)),
                    Some(Err(Failure::Lost) | Ok(_)) => ("lost connection".to_owned(), None),
                };
                self.info(format!("SSL_accept error from {who}: {text}"));
                if let Some(why) = more {
                    self.warn(format!("TLS library problem: {why}"));
                }
                self.lost();
            }
        }
    }

    fn encrypted(&mut self, session: yamabiko_tls::Session, wrapper: bool) {
        self.log_handshake(&session);
        // RFC 3207 section 4.2: what the client said before is forgotten.
        self.end_transaction();
        self.helo = None;
        self.protocol = "SMTP";
        self.sasl = None;
        self.mechanisms = None;
        self.forwarded = None;
        if !wrapper {
            self.verb = Verb::Starttls;
            self.succeed();
        }
        let options = &self.settings.tls.options;
        if options.require_certificate && !session.is_trusted() {
            let why = match session.peer {
                Some(_) => "Client certificate not trusted",
                None => "No client certificate presented",
            };
            self.info(format!("NOQUEUE: abort: TLS from {}: {why}", self.peer.name_and_address));
            self.refusal = Some(format!("421 4.7.1 {} Error: {why}", self.settings.myhostname));
        }
        let limit = self.settings.tls.new_session_rate;
        if let Some(address) = self.limited_address(limit).filter(|_| !session.resumed) {
            let rate = self.around.limits.count(
                Counted::NewTls,
                &self.settings.service,
                self.settings.range(address),
                self.now,
            );
            if rate > limit {
                let who = self.peer.name_and_address.clone();
                let service = &self.settings.service;
                self.warn(format!("New TLS session rate limit exceeded: {rate} from {who} for service {service}"));
                let host = &self.settings.myhostname;
                self.refusal = Some(format!("421 4.7.0 {host} Error: too many new TLS sessions from {who}"));
            }
        }
        let facts = TlsFacts::of(&session);
        self.tls = Some(Box::new(Secured { session, facts }));
    }

    fn log_handshake(&self, session: &yamabiko_tls::Session) {
        let options = &self.settings.tls.options;
        let log = self.settings.tls.log_mask(&self.peer.name, self.peer.address);
        let client = &self.peer.name_and_address;
        if log.verbose {
            self.info(format!("setting up TLS connection from {client}"));
        }
        if let Some(name) = session.unmatched_name.as_ref().filter(|_| log.summary) {
            self.info(format!("TLS SNI {name} from {client} not matched, using default chain"));
        }
        if session.resumed && (log.cache || log.verbose) {
            self.info(format!("{client}: Reusing old session (RFC 5077 session ticket)"));
        }
        if let Some(peer) = &session.peer {
            if log.verbose {
                self.info(format!("subject={}", peer.subject));
                self.info(format!("issuer={}", peer.issuer));
            }
            if log.verbose || log.peer_certificate {
                self.info(format!(
                    "{client}: subject_CN={}, issuer={}, fingerprint={}, pkey_fingerprint={}",
                    peer.subject_cn, peer.issuer_cn, peer.fingerprint, peer.key_fingerprint
                ));
            }
            if let Some(why) = peer.untrusted.as_ref().filter(|_| log.untrusted || options.require_certificate) {
                self.info(format!("certificate verification failed for {client}: {why}"));
            }
        }
        if log.summary {
            self.info(session.summary(client));
        }
    }

    /// The connection is not to be used: said in answer to whatever comes first.
    pub(super) fn refuse_session(&mut self, reply: &str) {
        self.seen.add(ErrorClasses::POLICY);
        self.reply(reply);
        self.hang_up = true;
    }
}

//! AUTH in a conversation (RFC 4954). Follows Postfix's `smtp_sasl_helo_login` and `smtp_sasl_authenticate`.

use std::sync::Arc;

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_sasl::base64;
use yamabiko_sasl::client::{Client, choose};
use yamabiko_sasl::passwords::random;
use yamabiko_smtp::reply::Reply;
use yamabiko_status::{Class, EnhancedStatus};

use crate::conversation::Conversation;
use crate::expect::Expect;
use crate::report::Verdict;

/// Challenges after which a server is not serious.
const MANY: u32 = 100;
/// Longest AUTH command with a first response in it (RFC 4954 section 4, as Postfix counts).
const LONGEST: usize = 512;

/// How far a login is.
#[derive(Debug, Default)]
pub(crate) struct LoginState {
    exchange: Option<Client>,
    /// A first response that was too long for the command.
    held_back: Option<String>,
    challenges: u32,
}

impl Conversation<'_> {
    /// Logs in where there is a login for this server and the server offers it.
    pub(crate) fn authenticate(&mut self, now: Timestamp) {
        let terms = Arc::clone(&self.session.terms);
        let Some(login) = terms.login.as_ref().filter(|_| !self.session.capabilities.auth.is_empty()) else {
            return self.ready(now);
        };
        let sasl = &self.settings.sasl;
        let named = self.session.peer.named();
        let offered = &self.session.capabilities.auth;
        let left: Vec<String> = offered.iter().filter(|word| sasl.lets(word)).cloned().collect();
        if left.is_empty() {
            let relay = self.session.peer.relay();
            let words = offered.join(" ");
            self.report.warnings.push(format!("{relay} offered no supported AUTH mechanisms: '{words}'"));
            let reason = format!(
                "SASL authentication failed: server {named} offered no compatible authentication mechanisms for this type of connection security"
            );
            return self.give_up(EnhancedStatus::transient(7, 0), reason, now);
        }
        if let Some((status, reply)) = &terms.login_refused {
            let status = self.softened(*status);
            let reason = format!("SASL [CACHED] authentication failed; server {named} said: {reply}");
            return self.give_up(status, reason, now);
        }
        let options = match &self.session.tls {
            None => sasl.plain,
            Some(tls) if tls.proved && terms.level.must_match() => sasl.verified,
            Some(_) => sasl.encrypted,
        };
        let Some(kind) = choose(&left, options, |name| sasl.names(name)) else {
            self.report.warnings.push("SASL authentication failure: No worthy mechs found".to_owned());
            return self.cannot("no mechanism available", now);
        };
        let Ok(random) = random() else { return self.cannot("generic failure", now) };
        let server = (&*self.session.peer.host, self.session.peer.port);
        let mut exchange = Client::new(kind, login.clone(), random, server).with_authzid(sasl.authzid);
        let initial = match exchange.initial() {
            Ok(initial) => initial.map(|bytes| base64::encode(&bytes)),
            Err(why) => return self.cannot(&why, now),
        };
        let name = kind.name();
        self.login = LoginState { exchange: Some(exchange), held_back: None, challenges: 0 };
        match initial {
            Some(text) if name.len() + text.len() + 8 <= LONGEST => {
                self.command(Expect::Auth, &format!("AUTH {name} {text}"));
            }
            held_back => {
                self.login.held_back = held_back;
                self.command(Expect::Auth, &format!("AUTH {name}"));
            }
        }
    }

    pub(crate) fn take_auth(&mut self, reply: &Reply, now: Timestamp) {
        if reply.code.is_intermediate() {
            return self.take_challenge(reply, now);
        }
        if reply.code.is_success() {
            self.session.authenticated = true;
            self.login = LoginState::default();
            return self.ready(now);
        }
        let (named, line) = (self.session.peer.named(), reply.one_line());
        if reply.code.is_permanent() {
            self.report.login_refused = Some((reply.status(), line.clone()));
        }
        let text = format!("SASL authentication failed; server {named} said: {line}");
        let mut verdict = self.verdict(Expect::Auth, text, reply, now);
        verdict.status = self.softened(verdict.status);
        self.fail_all(verdict, true);
        self.say_quit();
    }

    fn take_challenge(&mut self, reply: &Reply, now: Timestamp) {
        let named = self.session.peer.named();
        self.login.challenges += 1;
        if self.login.challenges > MANY {
            let reason = format!("SASL authentication failed; authentication protocol loop with server {named}");
            return self.give_up(EnhancedStatus::transient(3, 0), reason, now);
        }
        let text = reply.texts().next_back().unwrap_or_default().trim().to_owned();
        let held_back = self.login.held_back.take();
        let Some(exchange) = &mut self.login.exchange else { return self.cannot("generic failure", now) };
        let answer = match held_back {
            Some(_) if !text.is_empty() => {
                let name = exchange.kind().name();
                let reason = format!(
                    "SASL authentication failed; non-empty initial {name} challenge from server {named}: {text}"
                );
                return self.give_up(EnhancedStatus::transient(7, 0), reason, now);
            }
            Some(answer) => Ok(answer),
            None => match base64::decode(&text) {
                Some(challenge) => exchange.respond(&challenge).map(|bytes| base64::encode(&bytes)),
                None => Err("bad protocol / cancel".to_owned()),
            },
        };
        match answer {
            Ok(answer) => self.command(Expect::Auth, &answer),
            Err(why) => self.cannot(&why, now),
        }
    }

    /// `smtp_sasl_auth_soft_bounce`: a password that is wrong today is no reason to return mail.
    fn softened(&self, mut status: EnhancedStatus) -> EnhancedStatus {
        if self.settings.sasl.soft_bounce && status.class == Class::Permanent {
            status.class = Class::Transient;
        }
        status
    }

    fn cannot(&mut self, why: &str, now: Timestamp) {
        let named = self.session.peer.named();
        let reason = format!("SASL authentication failed; cannot authenticate to server {named}: {why}");
        self.give_up(EnhancedStatus::transient(7, 0), reason, now);
    }

    fn give_up(&mut self, status: EnhancedStatus, reason: String, now: Timestamp) {
        let stage = SmtpStage::Auth;
        self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, true);
        self.say_quit();
    }
}

//! AUTH (RFC 4954).

use futures_util::FutureExt;
use std::sync::Arc;
use yamabiko_envelope::SaslIdentity;
use yamabiko_sasl::mechanisms::Mechanism;
use yamabiko_smtp::command::Tokens;

use super::{Phase, Session, Waiting};
use crate::limits::Counted;
use crate::sasl::{Client, Verdict};

/// What the driver is to ask whoever decides about logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// A client begins.
    Begin {
        /// As the client wrote it.
        mechanism: String,
        /// Initial response, in base64.
        initial: Option<String>,
    },
    /// A client answers a challenge, in base64.
    Respond(String),
}

/// Longest name and reason in the log.
const SHOWN: usize = 100;

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Session {
    /// Clients can authenticate themselves here and now.
    pub(super) fn takes_logins(&self) -> bool {
        self.settings.sasl.enabled
            && self.user.is_none()
            && !self.standing.discard.auth
            && (self.tls.is_some() || !self.settings.tls.auth_only)
    }

    /// AUTH is to be in the answer to EHLO.
    pub(super) fn offers_logins(&self) -> bool {
        self.takes_logins() && !self.standing.no_auth
    }

    /// The mechanisms that this client may use.
    pub(super) fn offered(&self) -> Vec<&str> {
        let sasl = &self.settings.sasl;
        let options = if self.tls.is_some() { sasl.tls_security } else { sasl.security };
        let listed = |mechanism: &Mechanism| {
            // A list of names; a table that does not answer at once is not waited for.
            sasl.filter.is_empty() || matches!(sasl.filter.contains(&mechanism.name).now_or_never(), Some(Ok(true)))
        };
        let all = self.mechanisms.iter().flat_map(|all| all.iter());
        all.filter(|m| options.allow(m) && listed(m)).map(|m| m.name.as_str()).collect()
    }

    pub(super) fn auth(&mut self, mut words: Tokens<'_>) {
        if self.settings.helo_required && self.helo.is_none() {
            return self.policy_error("503 5.5.1 Error: send HELO/EHLO first");
        }
        if !self.takes_logins() {
            return self.protocol_error("503 5.5.1 Error: authentication not enabled");
        }
        if self.filters_object() {
            return;
        }
        if self.transaction.is_some() {
            return self.protocol_error("503 5.5.1 Error: MAIL transaction in progress");
        }
        if self.sasl.is_some() {
            return self.protocol_error("503 5.5.1 Error: already authenticated");
        }
        let (mechanism, initial, more) = (words.next(), words.next(), words.next());
        let (Some(mechanism), None) = (mechanism, more) else {
            return self.protocol_error("501 5.5.4 Syntax: AUTH mechanism");
        };
        let step =
            AuthStep::Begin { mechanism: mechanism.text.to_owned(), initial: initial.map(|word| word.text.to_owned()) };
        if self.over_rate(Counted::Auth) {
            return;
        }
        match self.mechanisms {
            Some(_) => self.begin_login(step),
            None => self.wait(Waiting::Mechanisms(Some(step))),
        }
    }

    fn begin_login(&mut self, step: AuthStep) {
        let AuthStep::Begin { mechanism, .. } = &step else { return };
        self.mechanism.clone_from(mechanism);
        if self.offered().iter().any(|known| known.eq_ignore_ascii_case(mechanism)) {
            return self.wait(Waiting::Login(step));
        }
        let reason = Some("Invalid authentication mechanism".to_owned());
        self.login_failed(None, reason, false);
    }

    /// The answer to [`super::Action::Mechanisms`].
    pub fn mechanisms(&mut self, answer: Result<Arc<[Mechanism]>, String>) {
        let Phase::Waiting(Waiting::Mechanisms(step), _) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        let failed = answer.is_err();
        match answer {
            Ok(all) => {
                self.mechanisms = Some(all);
                if self.offered().is_empty() {
                    self.warn("no SASL authentication mechanisms");
                }
            }
            Err(why) => self.warn(why),
        }
        match step {
            None => self.ehlo_reply(),
            Some(_) if failed => {
                self.reply_error("454 4.7.0 Temporary authentication failure: Connection lost to authentication server")
            }
            Some(step) => self.begin_login(step),
        }
    }

    /// Who the client is, for whoever decides.
    pub(crate) fn login_client(&self) -> Client {
        let remote = self.peer.address.map(|address| (address, self.peer.port).into());
        Client {
            service: self.settings.sasl.service.clone(),
            local: self.peer.server,
            remote,
            secured: self.tls.is_some(),
        }
    }

    /// A login is under way.
    pub fn is_authenticating(&self) -> bool {
        matches!(self.phase, Phase::Response { .. } | Phase::Waiting(Waiting::Login(_), _))
    }

    /// The answer to [`super::Action::Authenticate`].
    pub fn judged(&mut self, verdict: Verdict) {
        let Phase::Waiting(Waiting::Login(_), _) = self.phase else { return };
        self.phase = Phase::Command;
        match verdict {
            Verdict::Challenge(text) => {
                self.reply(&format!("334 {text}"));
                self.phase = Phase::Response { too_long: false };
            }
            Verdict::Done(user) => {
                let username: String = user.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                let method = shown(&std::mem::take(&mut self.mechanism));
                self.sasl = Some(Box::new(SaslIdentity { method, username, sender: String::new() }));
                self.after_login = false;
                self.reply_ok("235 2.7.0 Authentication successful");
            }
            Verdict::Failed { user, reason, temporary } => self.login_failed(user, reason, temporary),
            Verdict::Trouble(why) => {
                self.warn(why);
                self.login_failed(None, Some("Connection lost to authentication server".to_owned()), true);
            }
        }
    }

    fn login_failed(&mut self, user: Option<String>, reason: Option<String>, temporary: bool) {
        let reason = reason.filter(|reason| !reason.is_empty()).map(|reason| shown(&reason));
        let reason = reason.unwrap_or_else(|| "(reason unavailable)".to_owned());
        self.warn(format!(
            "{}: SASL {} authentication failed: {reason}, sasl_username={}",
            self.peer.name_and_address,
            shown(&self.mechanism),
            user.as_deref().map_or_else(|| "(unavailable)".to_owned(), shown)
        ));
        self.mechanism.clear();
        match temporary {
            true => self.reply_error(&format!("454 4.7.0 Temporary authentication failure: {reason}")),
            false => self.policy_error(&format!("535 5.7.8 Error: authentication failed: {reason}")),
        }
    }

    /// A line that answers a challenge.
    pub(super) fn response(&mut self, line: &[u8]) {
        self.heard_secret();
        let end = line.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
        // `end` is at most the length; what is not UTF-8 is no base64 either.
        let text = String::from_utf8_lossy(&line[..end]).into_owned();
        if text == "*" {
            self.phase = Phase::Command;
            self.warn(format!(
                "{}: SASL {} authentication aborted",
                self.peer.name_and_address,
                shown(&self.mechanism)
            ));
            self.mechanism.clear();
            return self.protocol_error("501 5.7.0 Authentication aborted");
        }
        self.wait(Waiting::Login(AuthStep::Respond(text)));
    }

    pub(super) fn response_too_long(&mut self) {
        self.phase = Phase::Command;
        self.heard_secret();
        self.protocol_error("500 5.5.6 SASL response limit exceeded");
    }
}

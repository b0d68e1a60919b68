//! STARTTLS in a conversation: whether to ask for it, what to make of the answer and of the handshake.
//!
//! The rule that everything here serves: where TLS is demanded, nothing of a message goes out without it.

use std::sync::Arc;

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_smtp::capability::Capabilities;
use yamabiko_smtp::reply::Reply;
use yamabiko_status::EnhancedStatus;
use yamabiko_tls::{ClientLevel, Failure, Secured};

use crate::conversation::Conversation;
use crate::expect::Expect;
use crate::report::{TlsEnd, Verdict};
use crate::settings::Protocol;

impl Conversation<'_> {
    /// `smtp_tls_wrappermode`: the handshake comes first.
    pub(crate) fn begin_wrapped(&mut self, now: Timestamp) {
        let terms = Arc::clone(&self.session.terms);
        if !terms.level.is_mandatory() || terms.client.is_none() {
            let reason = "TLS is required, but our TLS engine is unavailable".to_owned();
            self.no_tls(EnhancedStatus::transient(7, 5), reason, Expect::Greeting, now);
            return self.finish();
        }
        self.handshake = true;
    }

    /// After the reply to EHLO: goes over to TLS where that is wanted and can be.
    pub(crate) fn encrypt(&mut self, now: Timestamp) {
        if self.session.tls.is_some() {
            return self.authenticate(now);
        }
        let terms = Arc::clone(&self.session.terms);
        let offered = self.session.capabilities.starttls;
        if offered && terms.level == ClientLevel::None && self.settings.note_starttls_offer {
            let note = format!("Host offered STARTTLS: [{}]", self.session.peer.host);
            self.report.notes.push(note);
        }
        if offered && terms.level > ClientLevel::None && terms.client.is_some() {
            return self.command(Expect::StartTls, "STARTTLS");
        }
        if terms.level > ClientLevel::None && !offered {
            let why = format!("{} does not offer STARTTLS", self.session.peer.named());
            self.tls_ended(TlsEnd::Failed("starttls-not-supported", why));
        }
        if terms.level.is_mandatory() {
            let named = self.session.peer.named();
            let (status, reason) = if offered {
                (EnhancedStatus::transient(7, 5), "TLS is required, but our TLS engine is unavailable".to_owned())
            } else {
                (EnhancedStatus::transient(7, 4), format!("TLS is required, but was not offered by host {named}"))
            };
            self.no_tls(status, reason, Expect::Ehlo, now);
            return self.say_quit();
        }
        self.authenticate(now);
    }

    pub(crate) fn take_starttls(&mut self, reply: &Reply, now: Timestamp) {
        if reply.code.is_success() {
            self.handshake = true;
            return;
        }
        let why = format!("STARTTLS refused: {}", reply.one_line());
        self.tls_ended(TlsEnd::Failed("starttls-not-supported", why));
        if self.session.terms.level.is_mandatory() {
            let (named, line) = (self.session.peer.named(), reply.one_line());
            let text = format!("TLS is required, but host {named} refused to start TLS: {line}");
            let verdict = self.verdict(Expect::StartTls, text, reply, now);
            self.fail_all(verdict, true);
            return self.say_quit();
        }
        self.authenticate(now);
    }

    /// What came of the handshake that [`Step::Handshake`](crate::conversation::Step::Handshake) asked for.
    pub fn secured(&mut self, done: Result<Secured, Failure>, now: Timestamp) {
        self.handshake = false;
        let terms = Arc::clone(&self.session.terms);
        let secured = match done {
            Ok(secured) => secured,
            Err(failure) => return self.handshake_failed(&failure, now),
        };
        self.report.notes.extend(secured.lines.iter().cloned());
        let proved = secured.proved;
        let objection = secured.objection.clone().unwrap_or_default();
        self.session.tls = Some(Arc::new(secured));
        self.tls_ended(match proved {
            true => TlsEnd::Good,
            false => TlsEnd::Failed(kind_of(&objection), objection.clone()),
        });
        if !terms.policy.is_empty() {
            let relay = self.session.peer.relay();
            let end = if proved { "is met".to_owned() } else { format!("is not met: {objection}") };
            self.report.notes.push(format!("{relay}: {}: {end}", terms.policy));
        }
        if terms.level.must_match() && !proved {
            let reason = match terms.policy.as_str() {
                "" => "Server certificate not verified".to_owned(),
                policy => format!("Server certificate not verified ({policy}: {objection})"),
            };
            self.no_tls(EnhancedStatus::transient(7, 5), reason, Expect::StartTls, now);
            return self.say_quit();
        }
        // What was said in the clear may have been said by anybody. RFC 3207 section 4.2
        self.session.capabilities = Capabilities::default();
        if self.settings.wrappermode {
            return self.expected.push_back(Expect::Greeting);
        }
        let name = &self.settings.helo_name;
        match self.settings.protocol {
            Protocol::Smtp => self.command(Expect::Ehlo, &format!("EHLO {name}")),
            Protocol::Lmtp => self.command(Expect::Lhlo, &format!("LHLO {name}")),
        }
    }

    fn handshake_failed(&mut self, failure: &Failure, now: Timestamp) {
        let relay = self.session.peer.relay();
        match failure {
            Failure::Lost => self.report.notes.push(format!("SSL_connect error to {relay}: lost connection")),
            Failure::Broken(why) => self.report.notes.push(format!("SSL_connect error to {relay}: {why}")),
            Failure::Protocol(why) => {
                self.report.notes.push(format!("SSL_connect error to {relay}: -1"));
                self.report.warnings.push(format!("TLS library problem: {why}"));
            }
        }
        let why = match failure {
            Failure::Lost => "lost connection in the handshake",
            Failure::Broken(why) | Failure::Protocol(why) => why,
        };
        self.tls_ended(TlsEnd::Failed("validation-failure", why.to_owned()));
        self.session.reusable = false;
        let reason = "Cannot start TLS: handshake failure".to_owned();
        self.no_tls(EnhancedStatus::transient(7, 5), reason, Expect::StartTls, now);
        self.consider_plaintext();
        // Nobody knows what the other side takes the connection for: not even QUIT.
        self.output.clear();
        self.finish();
    }

    /// The first thing that is said of it counts.
    fn tls_ended(&mut self, end: TlsEnd) {
        self.report.tls.get_or_insert(end);
    }

    fn no_tls(&mut self, status: EnhancedStatus, reason: String, expect: Expect, now: Timestamp) {
        let mut status = status;
        if self.session.terms.require == Some(true) && !reason.starts_with("Cannot start TLS") {
            // RFC 8689 section 4.2.1: who cannot keep it secret does not get it later either.
            status = EnhancedStatus::permanent(7, 10);
        }
        let stage = if expect == Expect::StartTls { SmtpStage::StartTls } else { expect.stage() };
        let verdict = Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now };
        // One server that cannot do what is optional says nothing about the destination.
        let throttle = self.session.terms.level != ClientLevel::May;
        self.fail_all(verdict, throttle);
    }

    /// TLS that is optional and does not work is done without, for mail that has waited for a while: a first attempt
    /// goes elsewhere or waits, so that a passing trouble does not uncover mail. Where there is a login, no: it would
    /// not be sent in the clear, and the server would refuse the mail.
    pub(crate) fn consider_plaintext(&mut self) {
        let terms = &self.session.terms;
        self.report.retry_plain =
            terms.level == ClientLevel::May && self.job.delayed && terms.login.is_none() && !self.settings.wrappermode;
    }
}

/// The kind of failure for reports (RFC 8460 section 4.3.1) of what was said about a certificate.
fn kind_of(objection: &str) -> &'static str {
    if objection.contains("hostname mismatch") {
        "certificate-host-mismatch"
    } else if objection.contains("expired") || objection.contains("not yet valid") {
        "certificate-expired"
    } else if objection.contains("self-signed") || objection.contains("untrusted issuer") {
        "certificate-not-trusted"
    } else {
        "validation-failure"
    }
}

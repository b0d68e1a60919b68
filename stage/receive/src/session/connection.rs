//! The connection: who is greeted and who is not, limits per client.

use yamabiko_envelope::ClientAttributes;

use super::{Phase, Session, Step, Waiting, escaped};
use crate::limits::Counted;
use crate::restrict::Outcome;
use crate::settings::ErrorClasses;

impl Session {
    pub(super) fn greet(&mut self, ahead: &[u8]) {
        self.stage = "CONNECT";
        if let Some((what, value)) = self.beyond.take() {
            return self.refuse_beyond(what, value);
        }
        // A client of an encrypted service waits for a greeting, so it is told there.
        if let Some(refusal) = self.refusal.take() {
            return self.refuse_session(&refusal);
        }
        if !ahead.is_empty() && self.user.is_none() && self.settings.forbid_unauth_pipelining {
            self.info(format!(
                "improper command pipelining after CONNECT from {}: {}",
                self.peer.name_and_address,
                escaped(ahead)
            ));
            self.seen.add(ErrorClasses::PROTOCOL);
            self.reply("554 5.5.0 Error: SMTP protocol synchronization");
            self.hang_up = true;
            return;
        }
        for warning in std::mem::take(&mut self.standing.warnings) {
            self.warn(warning);
        }
        if self.user.is_some() || self.settings.delay_reject {
            return self.connect_checked(Outcome::Pass);
        }
        self.wait(Waiting::Connect);
    }

    pub(super) fn connect_checked(&mut self, outcome: Outcome) {
        self.phase = Phase::Command;
        match outcome {
            Outcome::Refused(reply) => {
                self.access_denied = true;
                self.seen.add(ErrorClasses::POLICY);
                self.reply_error(&reply);
            }
            _ if self.filters => self.wait(Waiting::Filter(Box::new(Step::Connect))),
            _ => self.welcome(),
        }
    }

    pub(super) fn welcome(&mut self) {
        let banner = format!("220 {}", self.settings.banner);
        self.reply(&banner);
    }

    /// The connection is refused before the greeting because of the client's counters.
    pub fn over_limit(&mut self, what: &'static str, value: u32) {
        self.beyond = Some((what, value));
    }

    pub(super) fn refuse_beyond(&mut self, what: &str, value: u32) {
        self.seen.add(ErrorClasses::POLICY);
        let text = format!("Error: too many connections from {}", self.peer.address_text());
        self.reply_own("421 4.7.0", &text);
        self.warn(format!(
            "{what} limit exceeded: {value} from {} for service {}",
            self.peer.name_and_address, self.settings.service
        ));
        self.phase = Phase::Closed;
    }

    /// A rate limit is passed. Clients that may say XCLIENT and those in the exceptions have none.
    pub(super) fn over_rate(&mut self, what: Counted) -> bool {
        let (limit, name) = match what {
            Counted::Messages => (self.settings.message_rate, "Message delivery request rate"),
            Counted::Recipients => (self.settings.recipient_rate, "Recipient address rate"),
            Counted::Auth => (self.settings.sasl.rate, "AUTH command rate"),
            Counted::NewTls => (self.settings.tls.new_session_rate, "New TLS session rate"),
        };
        let Some(address) = self.limited_address(limit) else { return false };
        let range = self.settings.range(address);
        let rate = self.around.limits.count(what, &self.settings.service, range, self.now);
        if rate <= limit {
            return false;
        }
        let subject = match what {
            Counted::Messages => "too much mail",
            Counted::Recipients => "too many recipients",
            Counted::Auth => "too many AUTH commands",
            Counted::NewTls => "too many new TLS sessions",
        };
        let text = format!("450 4.7.1 Error: {subject} from {}", self.peer.address_text());
        self.policy_error(&text);
        self.warn(format!(
            "{name} limit exceeded: {rate} from {} for service {}",
            self.peer.name_and_address, self.settings.service
        ));
        true
    }

    /// The address that a limit counts for. Clients that may say XCLIENT and those in the exceptions have none.
    pub(super) fn limited_address(&self, limit: u32) -> Option<std::net::IpAddr> {
        let counted = limit > 0 && self.user.is_none() && !self.standing.unlimited && !self.standing.xclient;
        self.peer.address.filter(|_| counted)
    }

    /// The envelope's attributes of the client: what XFORWARD said, where it said something.
    pub(super) fn client_attributes(&self) -> ClientAttributes {
        let mut attributes = self.peer.attributes(self.helo.as_deref().unwrap_or_default(), self.protocol);
        if let Some(forwarded) = &self.forwarded {
            forwarded.apply(&mut attributes);
        }
        attributes
    }
}

//! What a check is told about the session, and where its answer and those of others come back.

use yamabiko_envelope::Submission;
use yamabiko_smtp::reply::Reply;

#[cfg(doc)]
use super::Action;
use super::{Chunks, Phase, Session, Step, Waiting, push};
use crate::admission::{Accepted, Etrn, Refusal};
use crate::peer::Standing;
use crate::restrict::{CheckState, Facts, Outcome};
use crate::settings::ErrorClasses;

impl Session {
    /// What the session knows, for a check.
    pub fn facts(&self) -> Facts<'_> {
        let transaction = self.transaction.as_ref();
        let mut facts = Facts {
            stage: self.stage,
            peer: &self.peer,
            helo: self.helo.as_deref(),
            sender: transaction.map(|t| t.sender.as_str()),
            recipient: None,
            etrn: None,
            recipients: transaction.map_or(0, |t| t.recipients.len()),
            smtputf8: transaction.is_some_and(|t| t.parameters.smtputf8),
            bad_pipelining: self.bad_pipelining,
            now: self.now,
            protocol: self.protocol,
            queue_id: transaction.and_then(|t| t.queue_id),
            began: self.began,
            transaction: self.transactions,
            size: self.size(),
            stressed: self.stressed,
            sasl: self.sasl.as_deref(),
            tls: self.tls.as_ref().map(|tls| &tls.facts),
        };
        match &self.phase {
            Phase::Waiting(Waiting::Helo { name, .. }, _) => facts.helo = Some(name),
            Phase::Waiting(Waiting::Mail(request), _) => {
                facts.sender = Some(&request.sender);
                facts.size = request.parameters.size;
                facts.smtputf8 = request.parameters.smtputf8;
            }
            Phase::Waiting(Waiting::Rcpt(request), _) => facts.recipient = Some(&request.recipient.address),
            Phase::Waiting(Waiting::Filter(step), _) => match &**step {
                Step::Helo { name, .. } => facts.helo = Some(name),
                Step::Rcpt(recipient) | Step::RefusedRcpt(recipient, _) => facts.recipient = Some(&recipient.address),
                _ => {}
            },
            Phase::Waiting(Waiting::Vrfy { address, smtputf8, .. }, _) => {
                facts.recipient = Some(address);
                facts.smtputf8 = *smtputf8;
            }
            Phase::Waiting(Waiting::EtrnCheck(domain) | Waiting::Etrn(domain), _) => facts.etrn = Some(domain),
            _ => facts.recipient = self.only_recipient(),
        }
        facts
    }

    /// For what is about all recipients alike: naming one of several would mislead.
    pub(super) fn only_recipient(&self) -> Option<&str> {
        match &self.transaction.as_ref()?.recipients[..] {
            [only] => Some(&only.address),
            _ => None,
        }
    }

    /// Bytes of the message as far as they are known: received, or announced.
    pub(super) fn size(&self) -> u64 {
        match &self.incoming {
            // As it came, without the dot at its end.
            Some(incoming) if self.transaction.as_ref().is_some_and(|t| t.chunks == Chunks::None) => {
                incoming.wire_bytes.saturating_sub(3)
            }
            Some(incoming) => incoming.wire_bytes,
            None => self.transaction.as_ref().map_or(0, |t| t.parameters.size),
        }
    }

    /// Takes the state that checks change; it comes back with [`Session::checked`].
    pub fn take_checks(&mut self) -> CheckState {
        std::mem::take(&mut self.checks)
    }

    /// The answer to [`Action::Check`].
    pub fn checked(&mut self, state: CheckState, outcome: Outcome) {
        self.checks = state;
        self.flush_records();
        // Decisions that no restriction makes are not theirs.
        self.checks.steps.clear();
        self.seen.add(std::mem::take(&mut self.checks.errors));
        let Phase::Waiting(waiting, _) = std::mem::replace(&mut self.phase, Phase::Command) else { return };
        match waiting {
            Waiting::Connect => self.connect_checked(outcome),
            Waiting::Helo { name, extended } => self.helo_checked(name, extended, outcome),
            Waiting::Mail(request) => self.mail_checked(*request, outcome),
            Waiting::Rcpt(request) => self.rcpt_checked(*request, outcome),
            Waiting::Vrfy { shown, .. } => self.vrfy_checked(&shown, outcome),
            Waiting::Data => self.data_checked(outcome),
            Waiting::Bdat(bdat) => self.bdat_checked(bdat, outcome),
            Waiting::EndOfData { bdat } => self.end_of_data_checked(bdat, outcome),
            Waiting::EtrnCheck(domain) => self.etrn_checked(domain, outcome),
            waiting @ (Waiting::Classify
            | Waiting::Etrn(_)
            | Waiting::Submit { .. }
            | Waiting::Handshake { .. }
            | Waiting::Mechanisms(_)
            | Waiting::Filter(_)
            | Waiting::Login(_)) => {
                self.phase = Phase::Waiting(waiting, true);
            }
        }
    }

    /// The answer to [`Action::Classify`].
    pub fn stands(&mut self, standing: Standing) {
        // Whose headers are completed, and who may use XFORWARD, is decided by who connected, as Postfix does, not by whom
        // XCLIENT names.
        let Standing { local_rewrite, xforward, .. } = self.standing;
        self.standing = Standing { local_rewrite, xforward, ..standing };
        self.filters_refused = None;
        self.phase = Phase::Greeting;
    }

    /// The answer to [`Action::Etrn`].
    pub fn etrn_done(&mut self, result: Etrn) {
        if let Phase::Waiting(Waiting::Etrn(domain), _) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.etrn_answered(&domain, result);
        }
    }

    /// The answer to [`Action::Submit`] where a filter before the queue has it: what the filter said is what the client
    /// hears.
    pub fn proxied(&mut self, submission: &Submission, reply: &Reply) {
        let Phase::Waiting(Waiting::Submit { .. }, _) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        let accepted = reply.code.0 / 100 == 2;
        let word = if accepted { "proxy-accept" } else { "proxy-reject" };
        let envelope = &submission.envelope;
        let mut line = format!("{word}: END-OF-MESSAGE: {}; from=<{}>", reply.one_line(), envelope.sender);
        if let [only] = &envelope.recipients[..] {
            push(&mut line, format_args!(" to=<{}>", only.address));
        }
        push(&mut line, format_args!(" proto={}", self.protocol));
        if let Some(helo) = &self.helo {
            push(&mut line, format_args!(" helo=<{helo}>"));
        }
        self.info(line);
        if accepted {
            self.errors = 0;
            self.junk = 0;
            self.seen = ErrorClasses::default();
        } else {
            self.seen.add(ErrorClasses::POLICY);
        }
        let mut lines = reply.lines();
        let last = lines.next_back().unwrap_or_default().to_owned();
        for line in lines {
            self.say(line);
        }
        if accepted {
            self.reply_ok(&last)
        } else {
            self.reply_error(&last)
        }
        self.end_transaction();
        self.trim_transcript();
    }

    /// The answer to [`Action::Submit`].
    pub fn submitted(&mut self, result: Result<Accepted, Refusal>) {
        if let Phase::Waiting(Waiting::Submit { bdat }, _) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.message_done(bdat, result);
        }
    }
}

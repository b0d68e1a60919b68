//! What became of a recipient, as a notice tells it.

use yamabiko_envelope::{Action, DiagnosticType, Envelope, Failure, Notify, Outcome, Recipient, Result, Trace};
use yamabiko_report::RecipientReport;

use crate::Bouncer;

/// One recipient of a notice's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What stands in the notice.
    pub report: RecipientReport,
    /// What the sender asked to hear.
    pub notify: Notify,
    /// The address a VERP sender is made from: as it was given.
    pub(crate) given: String,
}

/// What is kept of an outcome that was not success. `mail_name` is the setting.
pub fn failure_of(outcome: &Outcome, mail_name: &str) -> Failure {
    Failure {
        status: outcome.status,
        // The log has what a command said as it said it, with a blank for its last line end; the record has not.
        reason: outcome.reason.trim_end().to_owned(),
        diagnostic: diagnostic(outcome, mail_name),
        remote_mta: outcome.remote_mta.clone().unwrap_or_default(),
        relay: outcome.relay.clone(),
        settled: Vec::new(),
    }
}

fn diagnostic(outcome: &Outcome, mail_name: &str) -> String {
    match &outcome.diagnostic {
        None => String::new(),
        Some((DiagnosticType::Smtp, text)) => format!("smtp; {text}"),
        Some((DiagnosticType::Unix, text)) => format!("x-unix; {text}"),
        // Our own reason is written with our own name by the report.
        Some((DiagnosticType::Own, text)) if *text == outcome.reason => String::new(),
        Some((DiagnosticType::Own, text)) => format!("X-{mail_name}; {text}"),
    }
}

impl Bouncer {
    /// A recipient that failed or waits, from what is stored of it.
    pub fn report_failure(&self, recipient: &Recipient, failure: &Failure, waits: bool) -> Reported {
        self.reported(recipient, None, failure, if waits { "delayed" } else { "failed" })
    }

    /// A recipient with an outcome. `None` when there is nothing to tell of it: it was handed to a server that will
    /// report itself, and no trace was asked for. Call it for [`Bouncer::settled`] with every outcome of an attempt.
    ///
    /// The outcome's index must be one of the envelope.
    pub fn report_outcome(&self, envelope: &Envelope, outcome: &Outcome) -> Option<Reported> {
        self.report_any(envelope, outcome, envelope.trace != Trace::No)
    }

    /// The same for [`Bouncer::cleared`]: also of recipients that another server reports on.
    pub fn report_cleared(&self, envelope: &Envelope, outcome: &Outcome) -> Option<Reported> {
        self.report_any(envelope, outcome, true)
    }

    fn report_any(&self, envelope: &Envelope, outcome: &Outcome, traced: bool) -> Option<Reported> {
        let recipient = envelope.recipients.get(usize::try_from(outcome.recipient).ok()?)?;
        let action = match (envelope.trace, outcome.result) {
            (Trace::ProbeReport | Trace::Probe, Result::Sent(_)) => "deliverable",
            (Trace::ProbeReport | Trace::Probe, _) => "undeliverable",
            (_, Result::Sent(Action::HandedOn)) if !traced => return None,
            (_, Result::Sent(Action::Delivered)) => "delivered",
            (_, Result::Sent(Action::Relayed | Action::HandedOn)) => "relayed",
            (_, Result::Sent(Action::Expanded)) => "expanded",
            (_, Result::Deferred) => "delayed",
            (_, Result::Failed) => "failed",
        };
        let mut failure = failure_of(outcome, &self.mail_name);
        if outcome.relay != "none" {
            failure.reason = format!("delivery via {}: {}", outcome.relay, failure.reason);
        }
        Some(self.reported(recipient, outcome.expanded.as_deref(), &failure, action))
    }

    fn reported(&self, recipient: &Recipient, leaf: Option<&str>, failure: &Failure, action: &'static str) -> Reported {
        let given = if recipient.original.is_empty() { &recipient.address } else { &recipient.original };
        let address = leaf.unwrap_or(&recipient.address);
        let orcpt = if recipient.orcpt.is_empty() {
            format!("rfc822;{}", yamabiko_address::quote(&self.qualified(given)))
        } else {
            recipient.orcpt.clone()
        };
        Reported {
            report: RecipientReport {
                address: address.to_owned(),
                original: if given == address { String::new() } else { given.clone() },
                orcpt,
                action,
                status: failure.status,
                reason: failure.reason.clone(),
                remote_mta: failure.remote_mta.clone(),
                diagnostic: failure.diagnostic.clone(),
            },
            notify: recipient.notify,
            given: given.clone(),
        }
    }

    /// With a domain, if it has none.
    pub(crate) fn qualified(&self, address: &str) -> String {
        match &self.append_domain {
            Some(domain) if !address.is_empty() && !address.contains('@') => format!("{address}@{domain}"),
            _ => address.to_owned(),
        }
    }
}

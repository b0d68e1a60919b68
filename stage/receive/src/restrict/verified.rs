//! `reject_unverified_recipient`, `reject_unverified_sender` (Postfix: `reject_unverified_address` in smtpd_check).

use std::time::Duration;

use yamabiko_config::View;
use yamabiko_route::Party;

use super::eval::{About, Evaluation, RECIPIENT, SENDER};
use super::{Record, Said, TempfailAction};
use crate::settings::{ErrorClasses, under_stress};
use crate::verification::{Known, Verification};

/// What to do about one kind of address (`unverified_recipient_...`, `unverified_sender_...`).
#[derive(Clone, Debug)]
pub(crate) struct Unverified {
    /// Not known yet: 2xx lets the address pass.
    pub(crate) defer_code: u16,
    /// Known to be undeliverable.
    pub(crate) reject_code: u16,
    /// In place of the reason that was found; empty: that one.
    pub(crate) reason: String,
    pub(crate) tempfail: TempfailAction,
}

impl Unverified {
    /// `prefix`: `unverified_sender` or `unverified_recipient`.
    pub(crate) fn read(view: &View, prefix: &str) -> Self {
        let code = |what: &str| super::reply_code(view, &format!("{prefix}_{what}_code"));
        Self {
            defer_code: code("defer"),
            reject_code: code("reject"),
            reason: view.text(&format!("{prefix}_reject_reason")),
            tempfail: TempfailAction::read(view, &format!("{prefix}_tempfail_action")),
        }
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polling {
    /// `address_verify_poll_count`
    pub(crate) count: u32,
    /// The same under stress.
    pub(crate) count_stressed: u32,
    /// `address_verify_poll_delay`
    pub(crate) delay: Duration,
}

impl Polling {
    pub(crate) fn read(view: &View) -> Self {
        Self {
            count: u32::try_from(view.int("address_verify_poll_count")).unwrap_or(1).max(1),
            count_stressed: under_stress(view, "address_verify_poll_count").parse().unwrap_or(1),
            delay: view.duration("address_verify_poll_delay"),
        }
    }
}

/// Bytes of a reason that a client is told.
const MOST_REASON: usize = 250;

impl Evaluation<'_> {
    pub(super) async fn unverified(&mut self, party: Party) -> Said {
        let (address, class, settings) = match party {
            Party::Sender => (self.facts.sender.unwrap_or_default(), SENDER, &self.policy.unverified_sender),
            Party::Recipient => {
                (self.facts.recipient.unwrap_or_default(), RECIPIENT, &self.policy.unverified_recipient)
            }
        };
        // Notices have no sender whom one could ask about.
        if address.is_empty() {
            return Said::Dunno;
        }
        let status = if party == Party::Sender { "4.1.7" } else { "4.1.1" };
        let about = About { name: address, class };
        // The address as it is delivered to: completed, routes taken out.
        let resolved = match self.resolve(party).await {
            Ok(resolved) => resolved.recipient.clone(),
            Err(error) => return self.lookup_failed(address, &error),
        };
        let polling = self.policy.polling;
        let count = if self.facts.stressed { polling.count_stressed } else { polling.count };
        let mut asked = 0;
        let found = loop {
            let found = match self.engine {
                Some(engine) => engine.verify(&resolved).await,
                None => None,
            };
            asked += 1;
            match &found {
                Some(Verification { known: Known::Pending, .. }) if asked < count => {
                    tokio::time::sleep(polling.delay).await;
                }
                _ => break found,
            }
        };
        let Some(Verification { known, why }) = found else {
            self.state.records.push(Record::Warning("verify service failure".to_owned()));
            return self.not_verified(settings.tempfail, 450, status, about, "address verification problem");
        };
        let code = match known {
            Known::Deliverable => return Said::Dunno,
            Known::Pending | Known::Uncertain => settings.defer_code,
            Known::Undeliverable => settings.reject_code,
        };
        let mut why = if settings.reason.is_empty() { why } else { settings.reason.clone() };
        yamabiko_smtp::reply::truncate(&mut why, MOST_REASON);
        match code / 100 {
            2 => Said::Dunno,
            4 => self.not_verified(settings.tempfail, code, status, about, &format!("unverified address: {why}")),
            _ => {
                let text = format!("<{address}>: {class} rejected: undeliverable address: {why}");
                self.reject(ErrorClasses::POLICY, code, status, &text)
            }
        }
    }

    fn not_verified(&mut self, action: TempfailAction, code: u16, status: &str, about: About<'_>, text: &str) -> Said {
        match action {
            TempfailAction::Defer => self.rejected(code, status, about, text),
            TempfailAction::DeferIfPermit => {
                self.defer_if(true, code, status, about, text);
                Said::Dunno
            }
        }
    }
}

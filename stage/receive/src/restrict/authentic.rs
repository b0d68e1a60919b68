//! Restrictions about what a sender can prove: `reject_spf_fail` and its kin ask at once, `reject_dmarc_policy` and
//! `hold_dmarc_policy` note what is to be done when the message is there.
//!
//! Trouble with DNS is no failure: nothing here refuses because of it.

use super::eval::{About, Evaluation, HELO, SENDER};
use super::{Record, Said};
use crate::admission::SpfVerdict;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    SpfFail,
    SpfSoftFail,
    SpfPermError,
    RejectDmarc,
    HoldDmarc,
}

impl Demand {
    /// The demand of a restriction's name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "reject_spf_fail" => Self::SpfFail,
            "reject_spf_softfail" => Self::SpfSoftFail,
            "reject_spf_permerror" => Self::SpfPermError,
            "reject_dmarc_policy" => Self::RejectDmarc,
            "hold_dmarc_policy" => Self::HoldDmarc,
            _ => return None,
        })
    }
}

impl Evaluation<'_> {
    pub(super) async fn authentic(&mut self, demand: Demand) -> Said {
        let effects = &mut self.state.effects.dmarc;
        match demand {
            Demand::RejectDmarc if self.warn_if_reject != 0 => effects.warn = true,
            Demand::RejectDmarc => effects.reject = true,
            Demand::HoldDmarc => effects.hold = true,
            Demand::SpfFail | Demand::SpfSoftFail | Demand::SpfPermError => return self.spf(demand).await,
        }
        Said::Dunno
    }

    async fn spf(&mut self, demand: Demand) -> Said {
        let (Some(sender), Some(address), Some(engine)) = (self.facts.sender, self.facts.peer.address, self.engine)
        else {
            return Said::Dunno;
        };
        let helo = self.facts.helo.unwrap_or_default();
        let Some(spf) = engine.spf(address, helo, sender).await else {
            self.state.records.push(Record::Warning("SPF cannot be asked here".to_owned()));
            return Said::Dunno;
        };
        let about =
            if sender.is_empty() { About { name: helo, class: HELO } } else { About { name: sender, class: SENDER } };
        let (status, text) = match (spf.verdict, demand) {
            (SpfVerdict::Fail, Demand::SpfFail | Demand::SpfSoftFail) => ("5.7.23", "fail"),
            (SpfVerdict::SoftFail, Demand::SpfSoftFail) => ("5.7.23", "softfail"),
            (SpfVerdict::PermError, Demand::SpfPermError) => ("5.7.24", "permerror"),
            _ => return Said::Dunno,
        };
        let why = if spf.explanation.is_empty() { String::new() } else { format!("; {}", spf.explanation) };
        let text = format!("SPF {text} for {} from {}{why}", spf.domain, self.facts.peer.address_text());
        self.rejected(550, status, about, text)
    }
}

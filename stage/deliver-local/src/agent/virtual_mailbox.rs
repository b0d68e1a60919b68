//! virtual(8): mailboxes of domains whose users are no system users. No aliases, no `.forward`, no commands.

use std::sync::Arc;

use yamabiko_envelope::{Attempt, DeliveryRequest};
use yamabiko_lookup::{AddressForms, LookupError, Maps};
use yamabiko_status::EnhancedStatus;

use super::deliver::{Trail, Verdict, fields, from_line, is_probe, outcome};
use super::{As, Surroundings, VirtualSettings};
use crate::job::{Job, Place};

/// Delivers to virtual mailboxes.
pub struct VirtualAgent {
    settings: VirtualSettings,
    around: Arc<dyn Surroundings>,
}

impl VirtualAgent {
    /// With these settings.
    pub fn new(settings: VirtualSettings, around: Arc<dyn Surroundings>) -> Self {
        Self { settings, around }
    }

    /// Delivers to every recipient of the request.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        let mut outcomes = Vec::with_capacity(request.recipients.len());
        for position in 0..request.recipients.len() {
            let verdict = self.recipient(request, position).await;
            outcomes.push(outcome(request, position, None, verdict, &self.settings.transport, self.around.now()));
        }
        Attempt { outcomes, destination_failure: None }
    }

    async fn recipient(&self, request: &DeliveryRequest, position: usize) -> Verdict {
        let address = request.recipients[position].address.as_str();
        match Trail::of(request).map(|trail| trail.has(address)) {
            Ok(true) => {
                let reason = format!("mail forwarding loop for {address}");
                return Verdict::new(EnhancedStatus::permanent(4, 6), reason);
            }
            Ok(false) => {}
            Err(error) => return Verdict::trouble(format!("cannot read the message: {error}")),
        }
        let found = match self.find(&self.settings.mailbox_maps, address).await {
            Ok(Some(mailbox)) => mailbox,
            Ok(None) => {
                return Verdict::new(EnhancedStatus::permanent(1, 1), format!("unknown user: \"{address}\""));
            }
            Err(error) => {
                self.around.warn(format!("table {error}"));
                return Verdict::trouble("mailbox lookup failure");
            }
        };
        let ids = match self.ids(address).await {
            Ok(ids) => ids,
            Err(verdict) => return verdict,
        };
        let path = match self.settings.base.as_str() {
            "" => found,
            base => format!("{base}/{found}"),
        };
        let maildir = path.ends_with('/');
        if is_probe(request) {
            return Verdict::sent(if maildir { "delivers to maildir" } else { "delivers to mailbox" });
        }
        let known = &request.recipients[position];
        // The index was made from this envelope.
        let original = request.envelope.recipients.get(known.index as usize).map(|r| r.original.as_str());
        let original = original.filter(|o| !o.is_empty()).unwrap_or(address);
        let prepend = fields(request, self.settings.original_recipient.then_some(original), Some(address));
        let place = if maildir {
            Place::Maildir { path: path.clone(), limit: self.settings.limit, trouble: "4.2.0".to_owned() }
        } else {
            Place::Mailbox {
                path: path.clone(),
                from_line: from_line(&request.sender, self.around.now()),
                locking: self.settings.locking.clone(),
                limit: self.settings.limit,
                strict_owner: self.settings.strict_owner,
                trouble: "4.2.0".to_owned(),
            }
        };
        let job = Job::Deliver { place, prepend };
        let done = self.around.work(ids, job, Some(&request.content)).await;
        let kind = if maildir { "maildir" } else { "mailbox" };
        let mut verdict = Verdict::of(done, |_| format!("delivered to {kind}"));
        if verdict.of_worker && !maildir {
            verdict.reason = format!("delivery failed to mailbox {path}: {}", verdict.reason);
        }
        verdict
    }

    async fn ids(&self, address: &str) -> Result<As, Verdict> {
        let uid = self.number(&self.settings.uid_maps, "virtual_uid_maps", address).await?;
        if uid < self.settings.minimum_uid {
            self.around.warn(format!("recipient {address}: bad uid {uid} in virtual_uid_maps"));
            return Err(Verdict::new(EnhancedStatus::transient(3, 5), "mail system configuration error"));
        }
        let gid = self.number(&self.settings.gid_maps, "virtual_gid_maps", address).await?;
        Ok(As::Ids { uid, gid })
    }

    async fn number(&self, maps: &Maps, parameter: &str, address: &str) -> Result<u32, Verdict> {
        match self.find(maps, address).await {
            Ok(Some(text)) => text.trim().parse().ok().filter(|id| *id > 0).ok_or_else(|| {
                self.around.warn(format!("recipient {address}: bad number \"{text}\" in {parameter}"));
                Verdict::new(EnhancedStatus::transient(3, 5), "mail system configuration error")
            }),
            Ok(None) => {
                self.around.warn(format!("recipient {address}: not found in {parameter}"));
                Err(Verdict::new(EnhancedStatus::transient(3, 5), "mail system configuration error"))
            }
            Err(error) => {
                self.around.warn(format!("table {error}"));
                Err(Verdict::trouble("mailbox lookup failure"))
            }
        }
    }

    /// `user+ext@domain`, `user@domain`, `@domain`.
    async fn find(&self, maps: &Maps, address: &str) -> Result<Option<String>, LookupError> {
        let forms = AddressForms::mailbox(&self.settings.recipient_delimiter);
        Ok(maps.find_address(address, &forms).await?.map(|hit| hit.value))
    }
}

//! Envelope sender and recipients: rewritten, mapped, copied, expanded, each once.

use std::collections::HashSet;

use yamabiko_envelope::{Notify, Recipient, RewriteContext, Source};
use yamabiko_lookup::{Maps, fold_case};
use yamabiko_status::EnhancedStatus;

use crate::settings::Place;
use crate::{Cleanup, Job, Refusal};

/// The reverse-path that bounces of old software carry; it means the null one.
const DAEMON: &str = "MAILER-DAEMON";

/// An automatic copy is nobody's business: no report about it goes to the sender.
const NEVER: Notify = Notify { never: true, success: false, failure: false, delay: false };

/// The final recipients.
#[derive(Default)]
pub(crate) struct Recipients {
    pub(crate) list: Vec<Recipient>,
    pub(crate) expanded: Vec<Recipient>,
    /// What has been added; made when there is a second recipient.
    seen: Option<HashSet<String>>,
}

impl Recipients {
    /// Those that a message has already.
    pub(crate) fn of(list: Vec<Recipient>) -> Self {
        Self { list, ..Self::default() }
    }

    /// All recipients become one. It keeps the first one's original address.
    pub(crate) fn redirect(&mut self, address: &str) {
        self.list.truncate(1);
        if let Some(first) = self.list.first_mut() {
            address.clone_into(&mut first.address);
        }
    }

    /// Adds one unless it is there. Recipients that differ in what is asked for them are different, unless original
    /// recipients are not to be told apart.
    fn add(&mut self, recipient: Recipient, limit: usize, originals: bool) {
        let key = |recipient: &Recipient| {
            let Recipient { address, original, orcpt, notify, .. } = recipient;
            let text = if originals { format!("{orcpt}\n{notify:?}\n{original}\n{address}") } else { address.clone() };
            fold_case(&text).into_owned()
        };
        if let Some(first) = self.list.first() {
            let seen = self.seen.get_or_insert_with(|| HashSet::from([key(first)]));
            let key = key(&recipient);
            if seen.contains(&key) {
                return;
            }
            if limit == 0 || seen.len() < limit {
                seen.insert(key);
            }
        }
        self.list.push(recipient);
    }
}

impl Cleanup {
    /// Sender and recipients, in Postfix's order: the sender's automatic copy, each recipient and its copy, the copies
    /// that access rules asked for, the copy of everything.
    pub(crate) async fn recipients(
        &self,
        job: &Job<'_>,
        sender: &mut String,
        given: Vec<Recipient>,
        bcc: &[String],
    ) -> Result<Recipients, Refusal> {
        let settings = &self.settings;
        if given.is_empty() {
            return Err(Refusal::ours(550, EnhancedStatus::permanent(1, 0), "no recipients specified"));
        }
        let mut out = Recipients::default();
        self.sender(job, sender).await?;
        if job.bcc && !sender.is_empty() {
            self.automatic_copy(job, &settings.sender_bcc_maps, sender, &mut out).await?;
        }
        for recipient in given {
            let address = self.recipient(job, recipient, &mut out).await?;
            if job.bcc {
                self.automatic_copy(job, &settings.recipient_bcc_maps, &address, &mut out).await?;
            }
        }
        for address in bcc {
            self.copy(job, address, &mut out).await?;
        }
        if job.bcc && !settings.always_bcc.is_empty() {
            self.copy(job, &settings.always_bcc, &mut out).await?;
        }
        Ok(out)
    }

    pub(crate) async fn sender(&self, job: &Job<'_>, sender: &mut String) -> Result<(), Refusal> {
        let rewriter = self.mapper.rewriter();
        if sender.get(..DAEMON.len()).is_some_and(|start| start.eq_ignore_ascii_case(DAEMON)) {
            let daemon = rewriter.rewrite(RewriteContext::Local, DAEMON);
            if rewriter.rewrite(RewriteContext::Local, sender).eq_ignore_ascii_case(&daemon) {
                sender.clear();
            }
        }
        if sender.is_empty() {
            return Ok(());
        }
        if let Some(new) = self.canonical(job, RewriteContext::Local, Place::EnvelopeSender, sender).await? {
            *sender = new;
        }
        Ok(())
    }

    /// Adds what a recipient stands for, and returns its canonical form.
    async fn recipient(
        &self,
        job: &Job<'_>,
        mut recipient: Recipient,
        out: &mut Recipients,
    ) -> Result<String, Refusal> {
        let settings = &self.settings;
        if recipient.orcpt.is_empty() {
            // RFC 3461 section 4.2 allows it: the address as it was given to us, made complete where a user typed it.
            match job.source {
                Source::Smtp => recipient.orcpt = format!("rfc822;{}", recipient.address),
                Source::Local { .. } => {
                    let complete = self.mapper.rewriter().rewrite(RewriteContext::Local, &recipient.address);
                    recipient.orcpt = format!("rfc822;{complete}");
                }
                _ => {}
            }
        }
        if !settings.original_recipient {
            recipient.original.clear();
        } else if recipient.original.is_empty() {
            recipient.original.clone_from(&recipient.address);
        }
        if recipient.address.is_empty() {
            recipient.address.clone_from(&settings.empty_address_recipient);
        }
        if let Some(new) =
            self.canonical(job, RewriteContext::Local, Place::EnvelopeRecipient, &recipient.address).await?
        {
            recipient.address = new;
        }
        let address = recipient.address.clone();
        self.expand(job, recipient, out).await?;
        Ok(address)
    }

    async fn expand(&self, job: &Job<'_>, mut recipient: Recipient, out: &mut Recipients) -> Result<(), Refusal> {
        let settings = &self.settings;
        let (limit, originals) = (settings.duplicate_limit, settings.original_recipient);
        if !job.maps || settings.virtual_alias_maps.is_empty() {
            out.add(recipient, limit, originals);
            return Ok(());
        }
        let list = self.expand_aliases(job, &recipient.address).await?;
        if list.len() > 1 && recipient.notify.success {
            // Option (b) of RFC 3461 section 5.2.7.3: the alias itself is reported, its members ask for the rest.
            out.expanded.push(recipient.clone());
            recipient.notify.success = false;
            if recipient.notify.is_unset() {
                recipient.notify.never = true;
            }
        }
        for address in list {
            out.add(Recipient { address, ..recipient.clone() }, limit, originals);
        }
        Ok(())
    }

    /// The copy that `maps` ask for, if any.
    async fn automatic_copy(
        &self,
        job: &Job<'_>,
        maps: &Maps,
        address: &str,
        out: &mut Recipients,
    ) -> Result<(), Refusal> {
        match self.mapper.find(maps, address).await {
            Ok(None) => Ok(()),
            Ok(Some(hit)) => self.copy(job, &hit.value, out).await,
            Err(_) => {
                let title = maps.title();
                self.warn(job, format!("{title} map lookup problem -- message not accepted, try again later"));
                Err(Refusal::trouble())
            }
        }
    }

    /// Adds a recipient to those of a message that is complete.
    pub(crate) async fn add_late(
        &self,
        job: &Job<'_>,
        address: &str,
        notify: Notify,
        out: &mut Recipients,
    ) -> Result<(), Refusal> {
        let (limit, originals) = (self.settings.duplicate_limit, self.settings.original_recipient);
        // Whoever is there already is not added again.
        for known in std::mem::take(&mut out.list) {
            out.add(known, limit, originals);
        }
        let new = self.canonical(job, RewriteContext::Local, Place::EnvelopeRecipient, address).await?;
        let address = new.unwrap_or_else(|| address.to_owned());
        let original = if originals { address.clone() } else { String::new() };
        let recipient = Recipient { address, original, notify, ..Recipient::default() };
        self.expand(job, recipient, out).await
    }

    /// Adds a copy for `address`.
    pub(crate) async fn copy(&self, job: &Job<'_>, address: &str, out: &mut Recipients) -> Result<(), Refusal> {
        let new = self.canonical(job, RewriteContext::Local, Place::EnvelopeRecipient, address).await?;
        let address = new.unwrap_or_else(|| address.to_owned());
        let original = if self.settings.original_recipient { address.clone() } else { String::new() };
        let recipient = Recipient { address, original, notify: NEVER, ..Recipient::default() };
        self.expand(job, recipient, out).await
    }
}

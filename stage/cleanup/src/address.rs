//! One address through canonical maps and masquerading.

use std::borrow::Cow;

use yamabiko_address::quote;
use yamabiko_envelope::RewriteContext;
use yamabiko_lookup::{Maps, fold_case};

use crate::settings::Place;
use crate::{Cleanup, Job, Refusal};

/// How often a canonical mapping is applied to its own result.
const RECURSION: usize = 10;

impl Cleanup {
    /// Rewrites an address (internal form) and maps it as its place asks. Returns `None` when it stays as it is.
    pub(crate) async fn canonical(
        &self,
        job: &Job<'_>,
        context: RewriteContext,
        place: Place,
        given: &str,
    ) -> Result<Option<String>, Refusal> {
        let rewritten = self.mapper.rewriter().rewrite(context, given);
        let address = if !job.maps || self.settings.leaves_alone(place) {
            rewritten
        } else {
            Cow::Owned(self.map(job, place, rewritten.into_owned()).await?)
        };
        Ok((address != given).then(|| address.into_owned()))
    }

    /// Puts a complete address through the maps of its place.
    pub(crate) async fn map(&self, job: &Job<'_>, place: Place, mut address: String) -> Result<String, Refusal> {
        let settings = &self.settings;
        if !job.maps || address.is_empty() {
            return Ok(address);
        }
        let (own, classes) = if place.is_sender() {
            (&settings.sender_canonical_maps, settings.sender_canonical_classes)
        } else {
            (&settings.recipient_canonical_maps, settings.recipient_canonical_classes)
        };
        for (maps, classes) in [(own, classes), (&settings.canonical_maps, settings.canonical_classes)] {
            if classes.has(place) && !maps.is_empty() {
                self.map_one(job, maps, &mut address).await?;
            }
        }
        if settings.masquerade_classes.has(place) {
            self.masquerade(job, &mut address).await?;
        }
        Ok(address)
    }

    /// One address to one address, again and again until nothing is found or it maps to itself (Postfix:
    /// `cleanup_map11`).
    async fn map_one(&self, job: &Job<'_>, maps: &Maps, address: &mut String) -> Result<(), Refusal> {
        for _ in 0..RECURSION {
            match self.mapper.map_address(maps, address, self.settings.propagate_canonical).await {
                Err(_) => return Err(self.map_trouble(job, maps, address)),
                Ok(None) => return Ok(()),
                Ok(Some(found)) => {
                    if found.len() > 1 {
                        self.warn(job, format!("multi-valued {} entry for {address}", maps.title()));
                    }
                    let Some(new) = found.into_iter().next() else { return Ok(()) };
                    let itself = fold_case(&new) == fold_case(address);
                    *address = new;
                    if itself {
                        return Ok(());
                    }
                }
            }
        }
        let title = maps.title();
        self.warn(
            job,
            format!("unreasonable {title} map nesting for {address} -- message not accepted, try again later"),
        );
        // The words are Postfix's, and so is this: the message is accepted, with the address as far as it came.
        Ok(())
    }

    pub(crate) fn map_trouble(&self, job: &Job<'_>, maps: &Maps, address: &str) -> Refusal {
        let title = maps.title();
        self.warn(job, format!("{title} map lookup problem for {address} -- message not accepted, try again later"));
        Refusal::trouble()
    }

    /// Takes subdomains off where a parent domain is in `masquerade_domains`. The first domain that matches decides.
    async fn masquerade(&self, job: &Job<'_>, address: &mut String) -> Result<(), Refusal> {
        let settings = &self.settings;
        let Some(at) = address.rfind('@').filter(|_| !settings.masquerade.is_empty()) else { return Ok(()) };
        let domain = fold_case(&address[at + 1..]).into_owned();
        let Some(chosen) = settings.masquerade.iter().find(|parent| {
            domain.strip_suffix(&*parent.domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }) else {
            return Ok(());
        };
        if !chosen.strip || chosen.domain.len() == domain.len() {
            return Ok(());
        }
        if !settings.masquerade_exceptions.is_empty() {
            let quoted = quote(address);
            let name = &quoted[..quoted.rfind('@').unwrap_or(quoted.len())];
            match settings.masquerade_exceptions.contains(name).await {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(_) => {
                    self.warn(job, "masquerade_exceptions lookup error -- deferring delivery".into());
                    return Err(Refusal::trouble());
                }
            }
        }
        address.truncate(at + 1);
        address.push_str(&chosen.domain);
        Ok(())
    }
}

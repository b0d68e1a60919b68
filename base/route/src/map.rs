//! One address through one set of maps (Postfix: `mail_addr_map`): canonical, virtual alias and generic maps.

use yamabiko_address::header::AddressList;
use yamabiko_address::{join_extension, quote};
use yamabiko_envelope::RewriteContext;
use yamabiko_lookup::{AddressForms, Hit, Locality, LookupError, Maps};

use crate::{LocalDomains, Rewriter};

/// What address maps need beside their tables: how addresses are completed, which domains are local, what separates an
/// extension. Cloning shares.
#[derive(Clone)]
pub struct Mapper {
    pub(crate) rewriter: Rewriter,
    pub(crate) local: LocalDomains,
    pub(crate) delimiters: String,
}

impl Mapper {
    /// `delimiters` is `recipient_delimiter`.
    pub fn new(rewriter: Rewriter, local: LocalDomains, delimiters: String) -> Self {
        Self { rewriter, local, delimiters }
    }

    /// How addresses are completed.
    pub fn rewriter(&self) -> &Rewriter {
        &self.rewriter
    }

    /// Which domains are local.
    pub fn local(&self) -> &LocalDomains {
        &self.local
    }

    /// `recipient_delimiter`
    pub fn delimiters(&self) -> &str {
        &self.delimiters
    }

    /// Looks an address (internal form) up in the order of canonical(5), virtual(5), generic(5) and relocated(5):
    /// `user+ext@domain`, `user@domain`, `user+ext` and `user` for local domains, `@domain`.
    pub async fn find(&self, maps: &Maps, address: &str) -> Result<Option<Hit>, LookupError> {
        if maps.is_empty() {
            return Ok(None);
        }
        maps.find_address(address, &AddressForms::mapping(&self.delimiters, Locality::Ask(&self.local))).await
    }

    /// Maps an address (internal form) to the addresses of its entry, each completed in local context; `None` when
    /// there is no entry. `@other` as a value keeps the user; `propagate` puts an extension that did not match onto
    /// each result. A value without any address is trouble, as in Postfix.
    pub async fn map_address(
        &self,
        maps: &Maps,
        address: &str,
        propagate: bool,
    ) -> Result<Option<Vec<String>>, LookupError> {
        let Some(hit) = self.find(maps, address).await? else { return Ok(None) };
        let extension = hit.extension.as_deref();
        let mut text = hit.value.trim();
        let joined;
        if text.starts_with('@') {
            let at = address.rfind('@').unwrap_or(address.len());
            let user = &address[..at];
            let user = extension.and_then(|extension| user.strip_suffix(extension)).unwrap_or(user);
            joined = format!("{}{text}", quote(user));
            text = &joined;
        }
        let mut out = Vec::new();
        let mut take = |address: &str| {
            let full = self.rewriter.rewrite(RewriteContext::Local, address);
            out.push(match extension {
                Some(extension) if propagate && !full.is_empty() => join_extension(&full, extension),
                _ => full.into_owned(),
            });
        };
        if text == "<>" || text.is_empty() || text == "\"\"" {
            take("");
        } else if is_plain(text) {
            take(text);
        } else {
            AddressList::parse(text.as_bytes()).addresses().for_each(take);
        }
        if out.is_empty() {
            let why = format!("{} lookup of {address} returns non-address result \"{}\"", maps.title(), hit.value);
            return Err(LookupError { table: hit.table.name().into(), why });
        }
        Ok(Some(out))
    }
}

/// A single address that reads the same in every form.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'=' | b'.' | b'@'))
        && bytes.iter().filter(|b| **b == b'@').count() <= 1
        && !text.starts_with(['.', '@'])
        && !text.contains("..")
        && !text.contains(".@")
}

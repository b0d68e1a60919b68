//! Which domains are local: `mydestination`, and address literals of our interfaces (Postfix: `resolve_local`).

use std::net::IpAddr;
use std::sync::Arc;

use yamabiko_address::domain::parse_address_literal;
use yamabiko_config::View;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Answer, IsLocal, LookupError, TableSet};

/// The local domains of one configuration. Cloning shares.
#[derive(Clone)]
pub struct LocalDomains {
    mydestination: StringList,
    addresses: Arc<[IpAddr]>,
    myorigin: Arc<str>,
}

impl LocalDomains {
    /// Reads `mydestination`, `inet_interfaces`, `proxy_interfaces` and `myorigin`.
    pub fn new(view: &View, tables: &TableSet) -> Self {
        let proxies = view.list("proxy_interfaces");
        let addresses = view.own_addresses().chain(proxies.iter().filter_map(|text| address(text))).collect();
        Self {
            mydestination: StringList::new(tables, "mydestination", &view.text("mydestination"), false),
            addresses,
            myorigin: view.text("myorigin").into(),
        }
    }

    /// True when mail for the domain ends here. One trailing dot is ignored.
    pub async fn contains(&self, domain: &str) -> Result<bool, LookupError> {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if domain.is_empty() || domain.ends_with('.') {
            return Ok(false);
        }
        if self.mydestination.contains(domain).await? {
            return Ok(true);
        }
        Ok(parse_address_literal(domain).is_some_and(|address| self.addresses.contains(&address.to_canonical())))
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.trim_matches(['[', ']']).parse().ok()
}

/// A user of `$myorigin` may stand in a table without domain too.
impl IsLocal for LocalDomains {
    fn is_local<'a>(&'a self, domain: &'a str) -> Answer<'a, bool> {
        if domain.eq_ignore_ascii_case(&self.myorigin) {
            return Answer::Ready(Ok(true));
        }
        Answer::Later(Box::pin(self.contains(domain)))
    }
}

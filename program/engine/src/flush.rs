//! Which destinations may be flushed by name (`fast_flush_domains`).

use yamabiko_lookup::LookupError;
use yamabiko_lookup::matchlist::DomainList;

use crate::generation::Generation;

/// Whether mail for a domain may be flushed by name.
pub async fn is_listed(generation: &Generation, domain: &str) -> Result<bool, LookupError> {
    let main = generation.config.main();
    let parents = main.list("parent_domain_matches_subdomains").iter().any(|word| word == "fast_flush_domains");
    let list = DomainList::new(&generation.tables, "fast_flush_domains", &main.text("fast_flush_domains"), parents);
    list.contains(domain).await
}

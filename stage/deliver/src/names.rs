//! The names that a client asks DNS for, as `smtp_dns_resolver_options` and `smtp_dns_reply_filter` have it.

use std::sync::Arc;

use yamabiko_config::View;
use yamabiko_dns::{Completion, Filtered, Resolver, Searching, Told};
use yamabiko_lookup::{Maps, TableSet};

/// A resolver for a client whose parameters begin with `prefix`. `tell` hears of records that are left out, `notices` gets
/// what is set and cannot be obeyed.
pub(crate) fn resolver(
    view: &View,
    prefix: &str,
    tables: &TableSet,
    inner: Arc<dyn Resolver>,
    tell: impl Fn(Told) + Send + Sync + 'static,
    notices: &mut Vec<String>,
) -> Arc<dyn Resolver> {
    let name = format!("{prefix}dns_reply_filter");
    let maps = Maps::open(tables, &name, &view.text(&name));
    let filtered: Arc<dyn Resolver> =
        if maps.is_empty() { inner } else { Arc::new(Filtered::new(inner, Arc::new(maps), tell)) };
    let name = format!("{prefix}dns_resolver_options");
    let words = view.list(&name);
    let (how, unknown) = Completion::parse(&words);
    if let Some(word) = unknown {
        notices.push(format!("{name}: \"{word}\" is none of res_defnames, res_dnsrch"));
    }
    if how.is_none() { filtered } else { Arc::new(Searching::new(filtered, how)) }
}

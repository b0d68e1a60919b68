//! Addresses into the `user@domain` form (Postfix: trivial-rewrite, the rewriting half).
//!
//! The rules, in order: a source route goes; `site!user` becomes `user@site`, `user%domain` becomes `user@domain` and
//! `user` becomes `user@$myorigin`, each only where there is no `@`; `user@host` becomes `user@host.$mydomain`; a dot
//! at the end goes. An address that is complete already is returned as it is, without a copy.

use std::borrow::Cow;

use yamabiko_address::{quote, unquote};
use yamabiko_config::View;
use yamabiko_envelope::RewriteContext;

use crate::tokens::{Kind, first, last, tokens, without_trailing_dot};

/// The rewriting rules of one configuration.
#[derive(Clone, Debug, Default)]
pub struct Rewriter {
    pub(crate) swap_bangpath: bool,
    pub(crate) percent_hack: bool,
    append_at_myorigin: bool,
    append_dot_mydomain: bool,
    pub(crate) myorigin: String,
    mydomain: String,
    remote_domain: String,
}

impl Rewriter {
    /// Reads `swap_bangpath`, `allow_percent_hack`, `append_at_myorigin`, `append_dot_mydomain`, `myorigin`,
    /// `mydomain` and `remote_header_rewrite_domain`.
    pub fn new(view: &View) -> Self {
        Self {
            swap_bangpath: view.bool("swap_bangpath"),
            percent_hack: view.bool("allow_percent_hack"),
            append_at_myorigin: view.bool("append_at_myorigin"),
            append_dot_mydomain: view.bool("append_dot_mydomain"),
            myorigin: view.text("myorigin"),
            mydomain: view.text("mydomain"),
            remote_domain: view.text("remote_header_rewrite_domain"),
        }
    }

    /// `remote_header_rewrite_domain` is set: headers of remote clients are completed with it.
    pub fn rewrites_remote(&self) -> bool {
        !self.remote_domain.is_empty()
    }

    /// Rewrites an address in internal form. The null address stays null.
    pub fn rewrite<'a>(&self, context: RewriteContext, internal: &'a str) -> Cow<'a, str> {
        if is_complete(internal) {
            return Cow::Borrowed(internal);
        }
        let external = quote(internal);
        match self.rewrite_external(context, &external) {
            Cow::Borrowed(_) => Cow::Borrowed(internal),
            Cow::Owned(new) => Cow::Owned(unquote(&new).into_owned()),
        }
    }

    /// Rewrites an address in external form, as it stands in a header without angle brackets and comments.
    pub fn rewrite_external<'a>(&self, context: RewriteContext, external: &'a str) -> Cow<'a, str> {
        if is_complete(external) || external.is_empty() || external == "\"\"" {
            return Cow::Borrowed(external);
        }
        if external == "@" {
            return Cow::Owned("\"\"".to_owned());
        }
        let (origin, domain) = match context {
            RewriteContext::Local => (&self.myorigin, &self.mydomain),
            RewriteContext::Remote => (&self.remote_domain, &self.remote_domain),
        };
        let mut address = Cow::Borrowed(external);
        let mut parts = tokens(&address);

        // `@a,@b:user@c`; a route that leads nowhere stays.
        if parts.first().is_some_and(|t| t.kind == Kind::Operator(b'@'))
            && let Some(colon) = first(&parts, b':')
            && parts.last().is_some_and(|t| t.at.start != colon)
        {
            address = Cow::Owned(address[colon + 1..].to_owned());
            parts = tokens(&address);
        }

        if last(&parts, b'@').is_none() {
            if self.swap_bangpath
                && let Some(bang) = first(&parts, b'!')
            {
                let (site, user) = (&address[..bang], &address[bang + 1..]);
                address = Cow::Owned(format!("{user}@{site}"));
            } else if self.percent_hack
                && let Some(percent) = last(&parts, b'%')
            {
                address.to_mut().replace_range(percent..=percent, "@");
            } else if self.append_at_myorigin && !origin.is_empty() {
                address.to_mut().push('@');
                address.to_mut().push_str(origin);
            }
            parts = tokens(&address);
        }

        if self.append_dot_mydomain
            && !domain.is_empty()
            && let Some(at) = last(&parts, b'@')
            && parts.last().is_some_and(|t| t.at.start != at)
            && parts
                .iter()
                .filter(|t| t.at.start > at)
                .all(|t| t.kind != Kind::Literal && t.kind != Kind::Operator(b'.'))
        {
            address.to_mut().push('.');
            address.to_mut().push_str(domain);
            parts = tokens(&address);
        }

        if let Some(dot) = without_trailing_dot(&address, &parts) {
            address.to_mut().truncate(dot);
        }
        address
    }
}

/// True for what no rule can change: a local part that does not begin a route, and a plain domain of two labels or more.
fn is_complete(address: &str) -> bool {
    let bytes = address.as_bytes();
    let Some(at) = address.rfind('@') else { return false };
    let domain = &bytes[at + 1..];
    at > 0
        && bytes[0] != b'@'
        && domain.contains(&b'.')
        && domain.last() != Some(&b'.')
        && domain.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || *b >= 0x80)
}

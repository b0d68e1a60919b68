//! `smtp_dns_resolver_options`: names that are completed with the domains of `resolv.conf`, as the system's own library
//! does it (resolver(3)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::{Answer, Mx, Pending, PendingSecurity, RecordType, Resolver, Srv, Tlsa};

/// Which names are completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// `res_defnames`: a name without a dot gets the default domain.
    pub single: bool,
    /// `res_dnsrch`: every name is looked for in all domains of the search list, after it was as it is.
    pub search: bool,
}

impl Completion {
    /// Reads a list of options; the second value is the first word that is none of them.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a String>) -> (Self, Option<&'a str>) {
        let (mut found, mut unknown) = (Self::default(), None);
        for word in words {
            match word.to_ascii_lowercase().as_str() {
                "res_defnames" => found.single = true,
                "res_dnsrch" => found.search = true,
                _ => unknown = unknown.or(Some(word.as_str())),
            }
        }
        (found, unknown)
    }

    /// Nothing is completed.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The names to ask for, in turn.
    fn names(self, name: &str, domains: &[String]) -> Vec<String> {
        let dotted = name.contains('.');
        let most = match (dotted, self) {
            (_, Self { search: true, .. }) => domains.len(),
            (false, Self { single: true, .. }) => 1,
            _ => 0,
        };
        let completed = domains.iter().take(most).map(|domain| format!("{name}.{domain}"));
        let as_it_is = std::iter::once(name.to_owned());
        if dotted { as_it_is.chain(completed).collect() } else { completed.chain(as_it_is).collect() }
    }
}

/// Asks a resolver about a name.
type Question<T> = for<'a> fn(&'a dyn Resolver, &'a str) -> Pending<'a, T>;

/// A resolver that completes names.
pub struct Searching {
    inner: Arc<dyn Resolver>,
    how: Completion,
}

impl Searching {
    /// Completes names as `how` says, with the domains of `inner`'s own list.
    pub fn new(inner: Arc<dyn Resolver>, how: Completion) -> Self {
        Self { inner, how }
    }

    /// The first answer that is one. Where there is none: that the name exists, if it does as it is or completed.
    async fn first<T>(&self, name: &str, ask: Question<T>) -> Answer<T> {
        let mut worst = Answer::NotFound;
        for name in self.how.names(name, &self.inner.search_list()) {
            match ask(&*self.inner, &name).await {
                Answer::NotFound => {}
                Answer::NoData => worst = Answer::NoData,
                other => return other,
            }
        }
        worst
    }
}

impl Resolver for Searching {
    fn mx<'a>(&'a self, domain: &'a str) -> Pending<'a, Mx> {
        Box::pin(self.first(domain, |inner, name| inner.mx(name)))
    }
    fn a<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv4Addr> {
        Box::pin(self.first(host, |inner, name| inner.a(name)))
    }
    fn aaaa<'a>(&'a self, host: &'a str) -> Pending<'a, Ipv6Addr> {
        Box::pin(self.first(host, |inner, name| inner.aaaa(name)))
    }
    // What follows is asked for by complete names.
    fn ptr(&self, address: IpAddr) -> Pending<'_, String> {
        self.inner.ptr(address)
    }
    fn txt<'a>(&'a self, name: &'a str) -> Pending<'a, String> {
        self.inner.txt(name)
    }
    fn ns<'a>(&'a self, zone: &'a str) -> Pending<'a, String> {
        self.inner.ns(zone)
    }
    fn srv<'a>(&'a self, name: &'a str) -> Pending<'a, Srv> {
        self.inner.srv(name)
    }
    fn security<'a>(&'a self, name: &'a str, kind: RecordType) -> PendingSecurity<'a> {
        self.inner.security(name, kind)
    }
    fn tlsa<'a>(&'a self, name: &'a str) -> Pending<'a, Tlsa> {
        self.inner.tlsa(name)
    }
    fn search_list(&self) -> Vec<String> {
        self.inner.search_list()
    }
    fn reload(&self) {
        self.inner.reload();
    }
    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_the_options_say() {
        let domains = ["a.test".to_owned(), "b.test".to_owned()];
        let table: &[(&str, &str, &[&str])] = &[
            ("", "host", &["host"]),
            ("", "host.sub", &["host.sub"]),
            ("res_defnames", "host", &["host.a.test", "host"]),
            ("res_defnames", "host.sub", &["host.sub"]),
            ("res_dnsrch", "host", &["host.a.test", "host.b.test", "host"]),
            ("RES_DNSRCH res_defnames", "host.sub", &["host.sub", "host.sub.a.test", "host.sub.b.test"]),
        ];
        for (options, name, wanted) in table {
            let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
            let (how, unknown) = Completion::parse(&words);
            assert_eq!((how.names(name, &domains), unknown), (wanted.iter().map(ToString::to_string).collect(), None));
        }
        let words = ["res_dnsrch".to_owned(), "res_debug".to_owned()];
        assert_eq!(Completion::parse(&words).1, Some("res_debug"));
    }

    #[test]
    fn the_first_answer_counts() {
        let zone = "search a.test b.test\nmail.b.test A 192.0.2.1\nmail.b.test MX 1 x.test\nonly.a.test EMPTY\nup.test A 192.0.2.2";
        let inner: Arc<dyn Resolver> = Arc::new(crate::FakeResolver::parse(zone).unwrap());
        let resolver = Searching::new(inner, Completion { single: true, search: true });
        let a = |name: &str| pollster::block_on(resolver.a(name));
        assert_eq!(a("mail").records().len(), 1);
        assert_eq!(a("up.test").records().len(), 1);
        assert_eq!(a("only"), Answer::NoData);
        assert_eq!(a("nobody"), Answer::NotFound);
        assert_eq!(pollster::block_on(resolver.mx("mail")).records().len(), 1);
    }
}

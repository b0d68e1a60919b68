//! Match lists: ordered lists of patterns, files of patterns and tables; the first that matches decides, `!` negates.
//!
//! * [`DomainList`]: `example.com`, `.example.com`, tables asked for the name and its parents (`relay_domains`,
//!   `mydestination`, `fast_flush_domains`).
//! * [`AddressList`]: a client by name and address: names as above, `1.2.3.4`, `1.2.3.0/24`, `[::1]/128`
//!   (`mynetworks`, `debug_peer_list`, `smtpd_authorized_xclient_hosts`).
//! * [`StringList`]: whole strings without regard to case (`authorized_submit_users`, ETRN and key word lists).
//!
//! `/file/name` stands for the patterns in that file, `type:table` for a table whose keys are patterns.

mod pattern;

use std::net::IpAddr;
use std::sync::Arc;

use crate::{LookupError, TableSet};
use pattern::{Kind, List, Subject};

/// Which element of a list decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The subject is in the list: the element has no `!`.
    pub listed: bool,
    /// The element as written, with its `!`.
    pub element: String,
    /// `file:line` for an element of a `/file/name`; the parameter's name for others.
    pub source: String,
}

macro_rules! common {
    ($name:ident, $kind:expr) => {
        impl $name {
            /// Reads the list; `title` is the parameter's name. With `parents`, `example.com` also matches its
            /// subdomains (`parent_domain_matches_subdomains` names the parameter); else `.example.com` does.
            /// Trouble with an element makes lookups that reach it fail.
            pub fn new(set: &TableSet, title: &str, list: &str, parents: bool) -> Self {
                Self { list: Arc::new(List::new(set, title, list, $kind, parents)) }
            }

            /// No elements: nothing is in it.
            pub fn is_empty(&self) -> bool {
                self.list.is_empty()
            }

            /// An element is a table that answers from a socket with blocking calls.
            pub fn is_remote(&self) -> bool {
                self.list.is_remote()
            }
        }
    };
}

/// A list of domains.
#[derive(Clone)]
pub struct DomainList {
    list: Arc<List>,
}

common!(DomainList, Kind::Domain);

impl DomainList {
    /// Whether the domain is in the list.
    pub async fn contains(&self, domain: &str) -> Result<bool, LookupError> {
        self.list.contains(&Subject { name: domain, address: None }).await
    }

    /// The element that decides, `None` when none matches.
    pub async fn explain(&self, domain: &str) -> Result<Option<Match>, LookupError> {
        self.list.explain(&Subject { name: domain, address: None }).await
    }
}

/// A list of hosts, by name and address.
#[derive(Clone)]
pub struct AddressList {
    list: Arc<List>,
}

common!(AddressList, Kind::Host);

impl AddressList {
    /// Whether the host is in the list; `name` is its verified name or `unknown`.
    pub async fn contains(&self, name: &str, address: IpAddr) -> Result<bool, LookupError> {
        self.list.contains(&Subject { name, address: Some(address) }).await
    }

    /// The element that decides, `None` when none matches.
    pub async fn explain(&self, name: &str, address: IpAddr) -> Result<Option<Match>, LookupError> {
        self.list.explain(&Subject { name, address: Some(address) }).await
    }
}

/// A list of strings.
#[derive(Clone)]
pub struct StringList {
    list: Arc<List>,
}

common!(StringList, Kind::String);

impl StringList {
    /// Whether the string is in the list.
    pub async fn contains(&self, text: &str) -> Result<bool, LookupError> {
        self.list.contains(&Subject { name: text, address: None }).await
    }

    /// The element that decides, `None` when none matches.
    pub async fn explain(&self, text: &str) -> Result<Option<Match>, LookupError> {
        self.list.explain(&Subject { name: text, address: None }).await
    }
}

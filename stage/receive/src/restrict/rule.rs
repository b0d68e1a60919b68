//! Restriction lists compiled: each element of `smtpd_recipient_restrictions` and its kin becomes a [`Rule`] with the
//! place it came from. Compiling never fails: what cannot be obeyed becomes a rule that says so and answers
//! `451 4.3.5 Server configuration error`, which is what Postfix does when a client reaches it.

use std::sync::Arc;

use yamabiko_config::{Place, View};
use yamabiko_lookup::{Braced, Maps, TableSet, braced, split_list};
use yamabiko_route::Party;

use super::delegate::{PolicyService, PolicyServices};
use super::dnsbl::{DnsList, DnsLists};
use super::identity::{CertificateKey, LoginMismatch};
use super::servers::Server;

/// What a `check_..._access` looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Client,
    ReverseClient,
    Helo,
    Sender,
    Recipient,
    Etrn,
}

/// What a list in DNS is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The client's address.
    Address,
    /// A name: the client's, its reverse one, HELO's, a sender's or recipient's domain.
    Name(Subject),
}

/// What all lists of a configuration share; access tables can name restrictions while mail comes in.
pub(crate) struct Shared {
    pub(crate) tables: TableSet,
    /// `smtpd_restriction_classes`
    pub(crate) classes: Vec<String>,
    pub(crate) dns_lists: DnsLists,
    /// `maps_rbl_domains`
    pub(crate) maps_rbl_domains: Vec<String>,
    pub(crate) policy_services: PolicyServices,
}

/// One restriction.
#[derive(Clone)]
pub(crate) enum Rule {
    WarnIfReject,
    Permit,
    Reject,
    Defer,
    DeferIfPermit,
    DeferIfReject,
    Sleep(u64),
    RejectPlaintextSession,
    RejectUnauthPipelining,
    RejectUnknownClientHostname,
    RejectUnknownReverseClientHostname,
    PermitInetInterfaces,
    PermitMynetworks,
    PermitSaslAuthenticated,
    /// `permit_tls_clientcerts`; `true`: `permit_tls_all_clientcerts`.
    PermitCertificate(bool),
    /// `reject_sender_login_mismatch` and its kin.
    RejectLoginMismatch(LoginMismatch),
    Access(Subject, Maps),
    /// `check_sasl_access`
    LoginAccess(Maps),
    /// `check_ccert_access`
    CertificateAccess(Arc<[CertificateKey]>, Maps),
    /// `check_..._mx_access` and its kin.
    ServerAccess(Subject, Server, Maps),
    /// `reject_rbl_client` and its kin.
    RejectListed(Listed, Arc<DnsList>),
    /// `permit_dnswl_client`, `permit_rhswl_client`
    PermitListed(Listed, Arc<DnsList>),
    /// `reject_maps_rbl`: the lists of `maps_rbl_domains`.
    RejectMapsRbl(Arc<[Arc<DnsList>]>),
    /// `check_policy_service`
    Policy(Arc<PolicyService>),
    PermitMxBackup,
    RejectUnverified(Party),
    /// `reject_spf_fail` and its kin.
    Authentic(super::authentic::Demand),
    RejectInvalidHeloHostname,
    RejectNonFqdnHeloHostname,
    RejectUnknownHeloHostname,
    PermitNakedIpAddress,
    RejectNonFqdnSender,
    RejectNonFqdnRecipient,
    RejectUnknownSenderDomain,
    RejectUnknownRecipientDomain,
    RejectUnlistedSender,
    RejectUnlistedRecipient,
    PermitAuthDestination,
    RejectUnauthDestination,
    DeferUnauthDestination,
    CheckRelayDomains,
    RejectMultiRecipientBounce,
    /// A name in `smtpd_restriction_classes`.
    Class(Arc<str>),
    /// Cannot be obeyed; the text is the warning for the log.
    Unusable(String),
}

/// A restriction and where it is written.
pub(crate) struct Node {
    pub(crate) rule: Rule,
    /// As written, with its argument.
    pub(crate) element: Arc<str>,
    /// The parameter that holds it, or the table in whose entry it was found.
    pub(crate) parameter: Arc<str>,
    pub(crate) place: Option<Place>,
}

pub(crate) type List = Arc<[Node]>;

/// Compiles lists of one configuration.
pub(crate) struct Compiler<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) warnings: Vec<String>,
    /// What works and is worth changing all the same.
    pub(crate) remarks: Vec<String>,
}

impl Compiler<'_> {
    /// The list of a parameter. `default` is what a bare `type:table` means there.
    pub(crate) fn parameter(&mut self, view: &View, name: &str, default: Option<Subject>) -> List {
        let text = view.find(name).unwrap_or_default();
        self.list(&text, name, view.place(name), default)
    }

    /// A list from a text.
    pub(crate) fn list(&mut self, text: &str, parameter: &str, place: Option<Place>, default: Option<Subject>) -> List {
        let parameter: Arc<str> = parameter.into();
        let words = split_list(text);
        let mut nodes = Vec::new();
        let mut rest = words.as_slice();
        while let Some((word, tail)) = rest.split_first() {
            let argument = tail.first().copied();
            let (rule, takes_argument) = self.rule(word, argument, default);
            let used = if takes_argument && argument.is_some() { 2 } else { 1 };
            let element: Arc<str> = rest[..used].join(" ").into();
            rest = &rest[used..];
            if let Some((_, instead)) = REMOVED.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) {
                let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
                self.remarks.push(format!(
                    "{place}{parameter}: {word} was removed from Postfix 3.9 and works here as before; better {instead}"
                ));
            }
            if let Rule::Unusable(why) = &rule {
                let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
                let what = "clients that get there are told 451 4.3.5";
                self.warnings.push(format!("{place}{parameter}: {why}; {what}"));
            }
            if let (Rule::Permit | Rule::Reject | Rule::Defer | Rule::CheckRelayDomains, Some(next)) =
                (&rule, rest.first())
                && !matches!(nodes.last(), Some(Node { rule: Rule::WarnIfReject, .. }))
            {
                self.warnings.push(format!("restriction `{next}' after `{word}' is ignored"));
            }
            nodes.push(Node { rule, element, parameter: Arc::clone(&parameter), place: place.clone() });
        }
        nodes.into()
    }

    /// The rule of a word, and whether the word after it belongs to it.
    fn rule(&mut self, word: &str, argument: Option<&str>, default: Option<Subject>) -> (Rule, bool) {
        if word.contains(':') {
            return (self.bare_table(word, default), false);
        }
        let name = word.to_ascii_lowercase();
        if let Some(rule) = plain(&name) {
            return (rule, false);
        }
        if let Some(rule) = access_rule(&name) {
            let rule = match (rule, argument.filter(|a| a.contains(':'))) {
                (_, None) => Rule::Unusable(format!(
                    "restriction {word}: bad argument \"{}\": need maptype:mapname",
                    argument.unwrap_or_default()
                )),
                (AccessRule::Of(subject), Some(table)) => Rule::Access(subject, self.maps(word, table)),
                (AccessRule::Server(subject, server), Some(table)) => {
                    Rule::ServerAccess(subject, server, self.maps(word, table))
                }
                (AccessRule::Login, Some(table)) => Rule::LoginAccess(self.maps(word, table)),
                (AccessRule::Certificate, Some(argument)) => self.certificate_access(word, argument),
            };
            return (rule, true);
        }
        if let Some(listed) = listed_rule(&name) {
            return (self.dns_list(word, argument, listed), true);
        }
        if name == "check_policy_service" {
            return (self.policy_service(word, argument), true);
        }
        if name == "reject_maps_rbl" {
            return (self.maps_rbl(), false);
        }
        if name == "sleep" {
            let rule = match argument.and_then(|a| a.parse().ok()) {
                Some(seconds) => Rule::Sleep(seconds),
                None => Rule::Unusable(format!("restriction {word} must be followed by number")),
            };
            return (rule, true);
        }
        match self.shared.classes.iter().find(|class| class.eq_ignore_ascii_case(word)) {
            Some(class) => (Rule::Class(class.as_str().into()), false),
            None => (Rule::Unusable(format!("unknown smtpd restriction: \"{word}\"")), false),
        }
    }

    fn bare_table(&self, word: &str, default: Option<Subject>) -> Rule {
        match default {
            Some(subject) => Rule::Access(subject, self.maps("", word)),
            None => Rule::Unusable(format!(
                "specify one of (check_client_access, check_reverse_client_hostname_access, check_helo_access, \
                 check_sender_access, check_recipient_access, check_etrn_access) before restriction \"{word}\""
            )),
        }
    }

    /// `type:table`, or `{ type:table { search_order = cert_fingerprint, pubkey_fingerprint } }`.
    fn certificate_access(&self, word: &str, argument: &str) -> Rule {
        let wrong = |why: &str| Rule::Unusable(format!("restriction {word}: {why} in \"{argument}\""));
        let inside = match braced(argument) {
            Braced::Plain(table) => {
                return Rule::CertificateAccess(CertificateKey::USUAL.into(), self.maps(word, table));
            }
            Braced::Inside(inside) => inside,
            Braced::Unclosed => return wrong("missing }"),
            Braced::Trailing => return wrong("text after }"),
        };
        let mut order = CertificateKey::USUAL.to_vec();
        let words = split_list(inside);
        let Some((table, settings)) = words.split_first() else { return wrong("need maptype:mapname") };
        for setting in settings {
            let bare = setting.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(setting);
            let Some(("search_order", list)) = bare.split_once('=').map(|(key, list)| (key.trim(), list)) else {
                return wrong("unknown setting");
            };
            let keys: Option<Vec<_>> = split_list(list).into_iter().map(CertificateKey::of).collect();
            match keys.filter(|keys| !keys.is_empty()) {
                Some(keys) => order = keys,
                None => return wrong("unknown search_order"),
            }
        }
        Rule::CertificateAccess(order.into(), self.maps(word, table))
    }

    fn maps(&self, title: &str, table: &str) -> Maps {
        Maps::open(&self.shared.tables, title, table)
    }

    fn dns_list(&self, word: &str, argument: Option<&str>, (listed, permits): (Listed, bool)) -> Rule {
        let Some(text) = argument else {
            return Rule::Unusable(format!("restriction {word} requires domain name argument"));
        };
        match self.shared.dns_lists.open(text, listed == Listed::Address) {
            Ok(list) if permits => Rule::PermitListed(listed, list),
            Ok(list) => Rule::RejectListed(listed, list),
            Err(why) => Rule::Unusable(format!("restriction {word}: {why}")),
        }
    }

    fn maps_rbl(&mut self) -> Rule {
        let domains = &self.shared.maps_rbl_domains;
        let lists: Result<Vec<_>, String> = domains.iter().map(|text| self.shared.dns_lists.open(text, true)).collect();
        match lists {
            Ok(lists) => Rule::RejectMapsRbl(lists.into()),
            Err(why) => Rule::Unusable(format!("parameter maps_rbl_domains: {why}")),
        }
    }

    fn policy_service(&self, word: &str, argument: Option<&str>) -> Rule {
        // In braces: the endpoint, and settings that differ from `smtpd_policy_service_...`.
        let text = argument.unwrap_or_default();
        let opened = match braced(text) {
            Braced::Plain(text) => self.shared.policy_services.open(text, &[]),
            Braced::Inside(inside) => match split_list(inside).split_first() {
                Some((endpoint, options)) => self.shared.policy_services.open(endpoint, options),
                None => Err("an endpoint is missing in { }".to_owned()),
            },
            Braced::Unclosed => Err(format!("missing }} in \"{text}\"")),
            Braced::Trailing => Err(format!("text after }} in \"{text}\"")),
        };
        match opened {
            Ok(service) => Rule::Policy(service),
            Err(why) => Rule::Unusable(format!("restriction {word}: {why}")),
        }
    }
}

enum AccessRule {
    Of(Subject),
    Server(Subject, Server),
    Login,
    Certificate,
}

fn access_rule(name: &str) -> Option<AccessRule> {
    let middle = name.strip_prefix("check_")?.strip_suffix("_access")?;
    match middle {
        "sasl" => return Some(AccessRule::Login),
        "ccert" => return Some(AccessRule::Certificate),
        _ => {}
    }
    if let Some(subject) = subject(middle) {
        return Some(AccessRule::Of(subject));
    }
    let (of, server) = middle.rsplit_once('_')?;
    let server = match server {
        "mx" => Server::Mx,
        "ns" => Server::Ns,
        "a" => Server::A,
        _ => return None,
    };
    Some(AccessRule::Server(subject(of).filter(|subject| *subject != Subject::Etrn)?, server))
}

fn subject(name: &str) -> Option<Subject> {
    Some(match name {
        "client" => Subject::Client,
        "reverse_client_hostname" => Subject::ReverseClient,
        "helo" => Subject::Helo,
        "sender" => Subject::Sender,
        "recipient" => Subject::Recipient,
        "etrn" => Subject::Etrn,
        _ => return None,
    })
}

/// Restrictions that ask a list in DNS; `true` where being listed permits.
fn listed_rule(name: &str) -> Option<(Listed, bool)> {
    Some(match name {
        "reject_rbl_client" | "reject_rbl" => (Listed::Address, false),
        "reject_rhsbl_client" => (Listed::Name(Subject::Client), false),
        "reject_rhsbl_reverse_client" => (Listed::Name(Subject::ReverseClient), false),
        "reject_rhsbl_helo" => (Listed::Name(Subject::Helo), false),
        "reject_rhsbl_sender" => (Listed::Name(Subject::Sender), false),
        "reject_rhsbl_recipient" => (Listed::Name(Subject::Recipient), false),
        "permit_dnswl_client" => (Listed::Address, true),
        "permit_rhswl_client" => (Listed::Name(Subject::Client), true),
        _ => return None,
    })
}

fn plain(name: &str) -> Option<Rule> {
    if let Some(demand) = super::authentic::Demand::of(name) {
        return Some(Rule::Authentic(demand));
    }
    Some(match name {
        "warn_if_reject" => Rule::WarnIfReject,
        "permit" => Rule::Permit,
        "reject" => Rule::Reject,
        "defer" => Rule::Defer,
        "defer_if_permit" => Rule::DeferIfPermit,
        "defer_if_reject" => Rule::DeferIfReject,
        "reject_plaintext_session" => Rule::RejectPlaintextSession,
        "reject_unauth_pipelining" => Rule::RejectUnauthPipelining,
        "reject_unknown_client_hostname" | "reject_unknown_client" => Rule::RejectUnknownClientHostname,
        "reject_unknown_reverse_client_hostname" => Rule::RejectUnknownReverseClientHostname,
        "permit_inet_interfaces" => Rule::PermitInetInterfaces,
        "permit_mynetworks" => Rule::PermitMynetworks,
        "permit_sasl_authenticated" => Rule::PermitSaslAuthenticated,
        "permit_tls_clientcerts" => Rule::PermitCertificate(false),
        "permit_tls_all_clientcerts" => Rule::PermitCertificate(true),
        "reject_invalid_helo_hostname" | "reject_invalid_hostname" => Rule::RejectInvalidHeloHostname,
        "reject_non_fqdn_helo_hostname" | "reject_non_fqdn_hostname" => Rule::RejectNonFqdnHeloHostname,
        "reject_unknown_helo_hostname" | "reject_unknown_hostname" => Rule::RejectUnknownHeloHostname,
        "permit_naked_ip_address" => Rule::PermitNakedIpAddress,
        "reject_non_fqdn_sender" => Rule::RejectNonFqdnSender,
        "reject_non_fqdn_recipient" => Rule::RejectNonFqdnRecipient,
        "reject_unknown_sender_domain" | "reject_unknown_address" => Rule::RejectUnknownSenderDomain,
        "reject_unknown_recipient_domain" => Rule::RejectUnknownRecipientDomain,
        "reject_unlisted_sender" => Rule::RejectUnlistedSender,
        "reject_unlisted_recipient" | "check_recipient_maps" => Rule::RejectUnlistedRecipient,
        "permit_mx_backup" => Rule::PermitMxBackup,
        "reject_unverified_recipient" => Rule::RejectUnverified(Party::Recipient),
        "reject_unverified_sender" => Rule::RejectUnverified(Party::Sender),
        "permit_auth_destination" => Rule::PermitAuthDestination,
        "reject_unauth_destination" => Rule::RejectUnauthDestination,
        "defer_unauth_destination" => Rule::DeferUnauthDestination,
        "check_relay_domains" => Rule::CheckRelayDomains,
        "reject_multi_recipient_bounce" => Rule::RejectMultiRecipientBounce,
        _ => return LoginMismatch::of(name).map(Rule::RejectLoginMismatch),
    })
}

/// Restrictions that Postfix 3.9 removed, and what says the same today.
const REMOVED: [(&str, &str); 3] = [
    ("check_relay_domains", "\"permit_mynetworks, reject_unauth_destination\""),
    ("reject_maps_rbl", "\"reject_rbl_client\" with each domain of maps_rbl_domains"),
    ("permit_naked_ip_address", "\"permit_mynetworks\" or \"permit_sasl_authenticated\""),
];

/// Whether a list can refuse strangers (Postfix: `has_required`). Classes count.
pub(crate) fn refuses(list: &[Node], class: &dyn Fn(&str) -> Option<List>, depth: usize) -> bool {
    let mut skip = false;
    for node in list {
        if std::mem::take(&mut skip) {
            continue;
        }
        match &node.rule {
            // What comes next only warns.
            Rule::WarnIfReject => skip = true,
            Rule::Permit => return false,
            Rule::RejectUnauthDestination
            | Rule::DeferUnauthDestination
            | Rule::Reject
            | Rule::Defer
            | Rule::DeferIfPermit
            | Rule::CheckRelayDomains => return true,
            Rule::Class(name) if depth < 10 && class(name).is_some_and(|list| refuses(&list, class, depth + 1)) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

//! Restriction lists compiled: each element of `smtpd_recipient_restrictions` and its kin becomes a [`Rule`] with the
//! place it came from. Compiling never fails: what cannot be obeyed becomes a rule that says so and answers
//! `451 4.3.5 Server configuration error`, which is what Postfix does when a client reaches it.

use std::sync::Arc;

use yamabiko_config::{Place, View};
use yamabiko_lookup::{Maps, TableSet, split_list};

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
    /// Without SASL and TLS these never match.
    Never,
    Access(Subject, Maps),
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
    pub(crate) tables: &'a TableSet,
    pub(crate) classes: &'a [String],
    pub(crate) warnings: Vec<String>,
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
                (AccessRule::Never, Some(_)) => Rule::Never,
                (AccessRule::NotYet, Some(_)) => not_yet(word),
            };
            return (rule, true);
        }
        if name == "sleep" {
            let rule = match argument.and_then(|a| a.parse().ok()) {
                Some(seconds) => Rule::Sleep(seconds),
                None => Rule::Unusable(format!("restriction {word} must be followed by number")),
            };
            return (rule, true);
        }
        if TAKES_ARGUMENT.contains(&name.as_str()) {
            return (not_yet(word), true);
        }
        if NOT_YET.contains(&name.as_str()) {
            return (not_yet(word), false);
        }
        match self.classes.iter().find(|class| class.eq_ignore_ascii_case(word)) {
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

    fn maps(&self, title: &str, table: &str) -> Maps {
        Maps::open(self.tables, title, table)
    }
}

fn not_yet(word: &str) -> Rule {
    Rule::Unusable(format!("restriction {word} is not there yet"))
}

enum AccessRule {
    Of(Subject),
    /// About a login or a certificate, which no client has.
    Never,
    NotYet,
}

fn access_rule(name: &str) -> Option<AccessRule> {
    Some(match name {
        "check_client_access" => AccessRule::Of(Subject::Client),
        "check_reverse_client_hostname_access" => AccessRule::Of(Subject::ReverseClient),
        "check_helo_access" => AccessRule::Of(Subject::Helo),
        "check_sender_access" => AccessRule::Of(Subject::Sender),
        "check_recipient_access" => AccessRule::Of(Subject::Recipient),
        "check_etrn_access" => AccessRule::Of(Subject::Etrn),
        "check_sasl_access" | "check_ccert_access" => AccessRule::Never,
        _ => {
            let middle = name.strip_prefix("check_")?.strip_suffix("_access")?;
            let (subject, record) = middle.rsplit_once('_')?;
            let known = ["client", "reverse_client_hostname", "helo", "sender", "recipient"].contains(&subject)
                && ["mx", "ns", "a"].contains(&record);
            known.then_some(AccessRule::NotYet)?
        }
    })
}

fn plain(name: &str) -> Option<Rule> {
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
        "permit_sasl_authenticated" | "permit_tls_clientcerts" | "permit_tls_all_clientcerts" => Rule::Never,
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
        "permit_auth_destination" => Rule::PermitAuthDestination,
        "reject_unauth_destination" => Rule::RejectUnauthDestination,
        "defer_unauth_destination" => Rule::DeferUnauthDestination,
        "check_relay_domains" => Rule::CheckRelayDomains,
        "reject_multi_recipient_bounce" => Rule::RejectMultiRecipientBounce,
        _ => return None,
    })
}

/// Known to Postfix, with an argument, and not there yet.
const TAKES_ARGUMENT: [&str; 10] = [
    "check_policy_service",
    "reject_rbl_client",
    "reject_rbl",
    "reject_rhsbl_client",
    "reject_rhsbl_reverse_client",
    "reject_rhsbl_helo",
    "reject_rhsbl_sender",
    "reject_rhsbl_recipient",
    "permit_dnswl_client",
    "permit_rhswl_client",
];

/// Known to Postfix, and not there yet.
const NOT_YET: [&str; 8] = [
    "reject_maps_rbl",
    "permit_mx_backup",
    "reject_unverified_recipient",
    "reject_unverified_sender",
    "reject_sender_login_mismatch",
    "reject_authenticated_sender_login_mismatch",
    "reject_known_sender_login_mismatch",
    "reject_unauthenticated_sender_login_mismatch",
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

//! Restrictions: who may send what to whom (Postfix: smtpd_check).
//!
//! * [`Policy`] is the restriction lists of one service, compiled once per configuration, with the address checks and
//!   match lists they need.
//! * [`Facts`] is what a session knows when it asks.
//! * [`CheckState`] is what the answers leave behind in a session: HOLD and its kin, deferrals to be remembered, and the
//!   log of what was decided and by which element of which parameter.
//! * [`Outcome`] is the answer.
//!
//! The order of evaluation, the texts and the codes are Postfix's. A lookup that fails answers `451 4.3.0`, a
//! configuration that cannot be obeyed `451 4.3.5`: our trouble never refuses mail for good, and never lets it relay.

mod access;
mod authentic;
mod delegate;
mod dns_filter;
mod dnsbl;
mod eval;
mod guard;
mod identity;
mod lookup;
mod plain;
mod rule;
mod servers;
mod verified;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use yamabiko_config::{Place, View};
use yamabiko_dns::{Filtered, Resolver};
use yamabiko_envelope::{QueueId, SaslIdentity, Timestamp};
use yamabiko_lookup::matchlist::{AddressList, DomainList, StringList};
use yamabiko_lookup::{Hit, Maps, ParentStyle, TableSet};
use yamabiko_route::{Lists, Router};

use crate::admission::Admission;
use crate::peer::{Discard, Peer, Standing};
use crate::settings::{ErrorClasses, SettingsError, unescaped};
use delegate::PolicyServices;
pub use delegate::parse as policy_action;
pub use dnsbl::Answers as ListAnswers;
pub(crate) use dnsbl::reversed;
pub(crate) use eval::soften;
pub(crate) use guard::{Guard, judge};
use rule::{Compiler, List, Node, Rule, Shared, Subject};
use verified::{Polling, Unverified};

/// What is to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The client, before the greeting.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// The syntax of the address of MAIL, nothing else.
    MailAddress,
    /// RCPT, or VRFY.
    Rcpt,
    /// The syntax of the address of RCPT or VRFY, nothing else.
    RcptAddress,
    /// DATA, or the first BDAT.
    Data,
    /// The whole message.
    EndOfData,
    /// ETRN.
    Etrn,
}

/// What a session knows.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The command as the log names it: `CONNECT`, `RCPT`, `END-OF-MESSAGE`.
    pub stage: &'static str,
    /// The client.
    pub peer: &'a Peer,
    /// HELO argument.
    pub helo: Option<&'a str>,
    /// Envelope sender, internal form.
    pub sender: Option<&'a str>,
    /// Envelope recipient in question.
    pub recipient: Option<&'a str>,
    /// ETRN argument.
    pub etrn: Option<&'a str>,
    /// Recipients accepted so far.
    pub recipients: usize,
    /// The transaction, or the command, asked for SMTPUTF8.
    pub smtputf8: bool,
    /// The client spoke out of turn.
    pub bad_pipelining: bool,
    /// Now.
    pub now: Timestamp,
    /// `SMTP` or `ESMTP`
    pub protocol: &'a str,
    /// The message's name, once a recipient was accepted.
    pub queue_id: Option<QueueId>,
    /// When the connection began, and which of its transactions this is: together with the process they name an
    /// attempt to send a message, for policy servers.
    pub began: Timestamp,
    /// Number of the transaction in its session.
    pub transaction: u32,
    /// Bytes of the message, when it is there; before, what MAIL announced.
    pub size: u64,
    /// All sessions of the service are in use.
    pub stressed: bool,
    /// The client's login.
    pub sasl: Option<&'a SaslIdentity>,
    /// The encryption of the connection.
    pub tls: Option<&'a TlsFacts>,
}

impl<'a> Facts<'a> {
    /// Of a client that has said nothing yet.
    pub fn new(stage: &'static str, peer: &'a Peer, now: Timestamp) -> Self {
        Self {
            stage,
            peer,
            helo: None,
            sender: None,
            recipient: None,
            etrn: None,
            recipients: 0,
            smtputf8: false,
            bad_pipelining: false,
            now,
            protocol: "SMTP",
            queue_id: None,
            began: now,
            transaction: 0,
            size: 0,
            stressed: false,
            sasl: None,
            tls: None,
        }
    }
}

/// What is known of the encryption of a connection. Empty texts: not known, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub protocol: String,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: String,
    /// Bits of the key in use.
    pub key_size: u32,
    /// Common name of the client certificate's subject, if the certificate is trusted.
    pub subject: String,
    /// Common name of its issuer, if the certificate is trusted.
    pub issuer: String,
    /// Fingerprint of the client certificate.
    pub fingerprint: String,
    /// Fingerprint of its public key.
    pub public_key_fingerprint: String,
    /// The client certificate is trusted.
    pub trusted: bool,
    /// The name that the client asked for (SNI), where there are keys for it.
    pub server_name: String,
}

/// What becomes of the message because of access(5) actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// HOLD
    pub hold: bool,
    /// DISCARD
    pub discard: bool,
    /// FILTER
    pub filter: Option<String>,
    /// REDIRECT
    pub redirect: Option<String>,
    /// BCC
    pub bcc: Vec<String>,
    /// PREPEND, a header each
    pub prepend: Vec<String>,
    /// `reject_dmarc_policy` and its kin: decided when the message is there.
    pub dmarc: yamabiko_envelope::DmarcDemand,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `reject: RCPT from ...: TEXT; from=...`: its word and text.
    Decided(&'static str, String),
    /// `warning: TEXT`
    Warning(String),
    /// A text.
    Info(String),
}

/// What matched.
#[derive(Clone, Debug)]
pub enum Matched {
    /// An entry of a table.
    Entry(Hit),
    /// What DNS or a policy server answered, in words.
    Answer(String),
}

impl std::fmt::Display for Matched {
    /// `file:line: key value`, or the answer. Finding the line may read the table's file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Entry(hit) => write!(f, "{}: {} {}", hit.source(), hit.key, hit.value),
            Self::Answer(text) => f.write_str(text),
        }
    }
}

/// One element that had a say.
#[derive(Clone, Debug)]
pub struct Step {
    /// The parameter, or the table whose entry named the restriction.
    pub parameter: Arc<str>,
    /// The element as written.
    pub element: Arc<str>,
    /// Where it is written; `None` for a default.
    pub place: Option<Place>,
    /// What matched.
    pub matched: Option<Matched>,
    /// What it said.
    pub verdict: Said,
}

/// What an element said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: the next one decides.
    Dunno,
    /// Permitted: ends the list.
    Permit,
    /// Refused.
    Reject,
}

impl Said {
    /// `dunno`, `permit` or `reject`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dunno => "dunno",
            Self::Permit => "permit",
            Self::Reject => "reject",
        }
    }
}

/// A refusal to be given if mail would else be permitted, or in place of a permanent refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deferral {
    class: ErrorClasses,
    code: u16,
    status: String,
    text: String,
}

/// What checks leave behind in a session.
#[derive(Clone, Debug, Default)]
pub struct CheckState {
    /// For the message.
    pub effects: Effects,
    /// For the log, in order; the session takes them.
    pub records: Vec<Record>,
    /// Elements that permitted, refused or acted in the last check, in order; with `explain` all that were evaluated.
    pub steps: Vec<Step>,
    /// Keep all steps.
    pub explain: bool,
    /// Kinds of trouble seen.
    pub errors: ErrorClasses,
    /// What lists in DNS have said in this session; `None`: nothing.
    lists_asked: Vec<(String, Option<Vec<Ipv4Addr>>)>,
    after_client: Option<Deferral>,
    after_helo: Option<Deferral>,
    after_sender: Option<Deferral>,
}

/// Answers of lists that a session remembers.
const LISTS_REMEMBERED: usize = 100;

impl CheckState {
    /// Remembers what a list said.
    fn list_asked(&mut self, query: String, answer: Option<Vec<Ipv4Addr>>) {
        if self.lists_asked.len() >= LISTS_REMEMBERED {
            self.lists_asked.clear();
        }
        self.lists_asked.push((query, answer));
    }

    /// A transaction ends: what was decided about its message is forgotten.
    pub fn reset(&mut self) {
        self.effects = Effects::default();
        self.after_sender = None;
        self.steps.clear();
    }
}

/// The answer to a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No objection.
    Pass,
    /// The address is none.
    BadAddress,
    /// Refused, with the whole reply.
    Refused(String),
}

/// Reply codes.
struct Codes {
    reject: u16,
    defer: u16,
    map_reject: u16,
    map_defer: u16,
    relay: u16,
    unknown_client: u16,
    invalid_hostname: u16,
    non_fqdn: u16,
    unknown_address: u16,
    unknown_hostname: u16,
    multi_recipient_bounce: u16,
    plaintext: u16,
    maps_rbl: u16,
}

impl Codes {
    fn read(view: &View) -> Self {
        let code = |name: &str| reply_code(view, name);
        Self {
            reject: code("reject_code"),
            defer: code("defer_code"),
            map_reject: code("access_map_reject_code"),
            map_defer: code("access_map_defer_code"),
            relay: code("relay_domains_reject_code"),
            unknown_client: code("unknown_client_reject_code"),
            invalid_hostname: code("invalid_hostname_reject_code"),
            non_fqdn: code("non_fqdn_reject_code"),
            unknown_address: code("unknown_address_reject_code"),
            unknown_hostname: code("unknown_hostname_reject_code"),
            multi_recipient_bounce: code("multi_recipient_bounce_reject_code"),
            plaintext: code("plaintext_reject_code"),
            maps_rbl: code("maps_rbl_reject_code"),
        }
    }
}

fn reply_code(view: &View, name: &str) -> u16 {
    u16::try_from(view.int(name)).unwrap_or(450)
}

/// What a failed DNS question means (`unknown_address_tempfail_action` and its kin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TempfailAction {
    DeferIfPermit,
    Defer,
}

impl TempfailAction {
    fn read(view: &View, name: &str) -> Self {
        match view.text(name).to_ascii_lowercase().as_str() {
            "defer" => Self::Defer,
            _ => Self::DeferIfPermit,
        }
    }
}

/// The restriction lists.
struct Compiled {
    client: List,
    helo: List,
    sender: List,
    relay: List,
    recipient: List,
    data: List,
    end_of_data: List,
    etrn: List,
    classes: HashMap<String, List>,
}

const RECIPIENT: &str = "smtpd_recipient_restrictions";
/// What that was when nothing was set.
const BEFORE_2_10: &str = "permit_mynetworks, reject_unauth_destination";

impl Compiled {
    fn of(compiler: &mut Compiler<'_>, view: &View, class_names: &[String]) -> Result<Self, SettingsError> {
        let mut classes = HashMap::new();
        for name in class_names {
            if view.find(name).is_none_or(|text| text.trim().is_empty()) {
                return Err(SettingsError(format!("restriction class `{name}' needs a definition")));
            }
            classes.insert(name.to_ascii_lowercase(), compiler.parameter(view, name, None));
        }
        let mut list = |name: &str, subject| compiler.parameter(view, name, subject);
        let mut compiled = Self {
            client: list("smtpd_client_restrictions", Some(Subject::Client)),
            helo: list("smtpd_helo_restrictions", Some(Subject::Helo)),
            sender: list("smtpd_sender_restrictions", Some(Subject::Sender)),
            relay: list("smtpd_relay_restrictions", Some(Subject::Recipient)),
            recipient: list("smtpd_recipient_restrictions", Some(Subject::Recipient)),
            data: list("smtpd_data_restrictions", None),
            end_of_data: list("smtpd_end_of_data_restrictions", None),
            etrn: list("smtpd_etrn_restrictions", Some(Subject::Etrn)),
            classes,
        };
        // Who runs `sendmail -bs` may relay in any case.
        let serves_strangers = view.service().is_some();
        // A file of Postfix before 2.10 that leaves it to the program.
        let unset = ["smtpd_relay_restrictions", RECIPIENT].iter().all(|name| !view.is_set(name));
        if serves_strangers && unset && compiled.relay.is_empty() {
            compiled.recipient = compiler.list(BEFORE_2_10, RECIPIENT, None, Some(Subject::Recipient));
            compiler.remarks.push(format!(
                "neither smtpd_relay_restrictions nor {RECIPIENT} is set: {RECIPIENT} = {BEFORE_2_10}, as in Postfix before \
                 2.10; write that line, or a compatibility_level"
            ));
        }
        let class = |name: &str| compiled.classes.get(&name.to_ascii_lowercase()).map(Arc::clone);
        let refuses = |list| rule::refuses(list, &class, 0);
        if serves_strangers && !refuses(&compiled.relay) && !refuses(&compiled.recipient) {
            return Err(SettingsError(
                "in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working \
                 instance of: reject_unauth_destination, defer_unauth_destination, reject, defer, defer_if_permit or \
                 check_relay_domains"
                    .to_owned(),
            ));
        }
        Ok(compiled)
    }
}

/// The restrictions of a service.
pub struct Policy {
    compiled: Compiled,
    delay_reject: bool,
    relay_first: bool,
    soft_bounce: bool,
    unlisted_recipient: bool,
    unlisted_sender: bool,
    no_unknown_recipient_checks: bool,
    allow_untrusted_routing: bool,
    codes: Codes,
    unknown_address_tempfail: TempfailAction,
    unknown_helo_tempfail: TempfailAction,
    router: Router,
    lists: Lists,
    mynetworks: AddressList,
    relay_domains: DomainList,
    own_addresses: Vec<IpAddr>,
    null_key: String,
    delimiters: String,
    parents: ParentStyle,
    log_permit_actions: StringList,
    mail_name: String,
    myhostname: String,
    expansion_filter: String,
    default_rbl_reply: String,
    rbl_reply_maps: Maps,
    mx_backup_networks: AddressList,
    unverified_sender: Unverified,
    unverified_recipient: Unverified,
    polling: Polling,
    /// Where probes come from, with the seconds after which that changes.
    verify_sender: String,
    verify_sender_ttl: u64,
    shared: Shared,
    xclient: AddressList,
    xforward: AddressList,
    verp: AddressList,
    unlimited: AddressList,
    bare_newline_exclusions: AddressList,
    debug_peers: AddressList,
    local_rewrite: Vec<LocalRewrite>,
    sasl_enabled: bool,
    /// `smtpd_sasl_exceptions_networks`
    no_auth: AddressList,
    sender_login: Maps,
    relay_clientcerts: Maps,
    discard: Discard,
    discard_maps: Maps,
    /// `smtpd_dns_reply_filter`
    dns_filter: Maps,
    remote_tables: bool,
    /// `check_relay_domains` has been complained about.
    relay_domains_told: AtomicBool,
    /// The same of `reject_maps_rbl`.
    maps_rbl_told: AtomicBool,
    notices: Vec<String>,
    remarks: Vec<String>,
}

/// An element of `local_header_rewrite_clients`.
enum LocalRewrite {
    Login,
    /// `true`: any that is trusted.
    Certificate(bool),
    InetInterfaces,
    Mynetworks,
    Table(Maps),
}

impl Policy {
    /// Compiles the restrictions as `view` has them.
    ///
    /// # Errors
    /// Neither the relay nor the recipient restrictions can refuse a stranger.
    pub fn compile(view: &View, tables: &TableSet) -> Result<Self, SettingsError> {
        let class_names = view.list("smtpd_restriction_classes");
        let shared = Shared {
            tables: tables.clone(),
            classes: class_names.clone(),
            dns_lists: dnsbl::DnsLists::default(),
            maps_rbl_domains: view.list("maps_rbl_domains"),
            policy_services: PolicyServices::new(view),
        };
        let mut compiler = Compiler { shared: &shared, warnings: Vec::new(), remarks: Vec::new() };
        let compiled = Compiled::of(&mut compiler, view, &class_names)?;
        let (notices, remarks) = (compiler.warnings, compiler.remarks);
        let parents_of = |feature: &str| {
            let list = view.list("parent_domain_matches_subdomains");
            list.iter().any(|word| word.eq_ignore_ascii_case(feature))
        };
        let hosts = |name: &str| AddressList::new(tables, name, &view.text(name), parents_of(name));
        let router = Router::new(view, tables);
        let lists = Lists::new(view, tables, router.mapper().clone());
        let overrides = view.list("receive_override_options");
        let mut policy = Self {
            compiled,
            delay_reject: view.bool("smtpd_delay_reject"),
            relay_first: view.bool("smtpd_relay_before_recipient_restrictions"),
            soft_bounce: view.bool("soft_bounce"),
            unlisted_recipient: view.bool("smtpd_reject_unlisted_recipient"),
            unlisted_sender: view.bool("smtpd_reject_unlisted_sender"),
            no_unknown_recipient_checks: overrides
                .iter()
                .any(|word| word.eq_ignore_ascii_case("no_unknown_recipient_checks")),
            allow_untrusted_routing: view.bool("allow_untrusted_routing"),
            codes: Codes::read(view),
            unknown_address_tempfail: TempfailAction::read(view, "unknown_address_tempfail_action"),
            unknown_helo_tempfail: TempfailAction::read(view, "unknown_helo_hostname_tempfail_action"),
            router,
            lists,
            mynetworks: hosts("mynetworks"),
            relay_domains: DomainList::new(
                tables,
                "relay_domains",
                &view.text("relay_domains"),
                parents_of("relay_domains"),
            ),
            own_addresses: view.own_addresses().collect(),
            null_key: view.text("smtpd_null_access_lookup_key"),
            delimiters: view.text("recipient_delimiter"),
            parents: if parents_of("smtpd_access_maps") { ParentStyle::Plain } else { ParentStyle::Dot },
            log_permit_actions: StringList::new(
                tables,
                "smtpd_log_access_permit_actions",
                &view.text("smtpd_log_access_permit_actions"),
                false,
            ),
            mail_name: view.text("mail_name"),
            myhostname: view.text("myhostname"),
            expansion_filter: unescaped(&view.raw("smtpd_expansion_filter")),
            default_rbl_reply: view.raw("default_rbl_reply"),
            dns_filter: Maps::open(tables, "smtpd_dns_reply_filter", &view.text("smtpd_dns_reply_filter")),
            rbl_reply_maps: Maps::open(tables, "rbl_reply_maps", &view.text("rbl_reply_maps")),
            mx_backup_networks: hosts("permit_mx_backup_networks"),
            unverified_sender: Unverified::read(view, "unverified_sender"),
            unverified_recipient: Unverified::read(view, "unverified_recipient"),
            polling: Polling::read(view),
            verify_sender: view.text("address_verify_sender"),
            verify_sender_ttl: view.duration("address_verify_sender_ttl").as_secs(),
            shared,
            xclient: hosts("smtpd_authorized_xclient_hosts"),
            xforward: hosts("smtpd_authorized_xforward_hosts"),
            verp: hosts("smtpd_authorized_verp_clients"),
            unlimited: hosts("smtpd_client_event_limit_exceptions"),
            bare_newline_exclusions: hosts("smtpd_forbid_bare_newline_exclusions"),
            debug_peers: hosts("debug_peer_list"),
            local_rewrite: Vec::new(),
            sasl_enabled: view.bool("smtpd_sasl_auth_enable"),
            no_auth: hosts("smtpd_sasl_exceptions_networks"),
            sender_login: Maps::open(tables, "smtpd_sender_login_maps", &view.text("smtpd_sender_login_maps")),
            relay_clientcerts: Maps::open(tables, "relay_clientcerts", &view.text("relay_clientcerts")),
            discard: Discard::parse(&view.text("smtpd_discard_ehlo_keywords")).0,
            discard_maps: Maps::open(
                tables,
                "smtpd_discard_ehlo_keyword_address_maps",
                &view.text("smtpd_discard_ehlo_keyword_address_maps"),
            ),
            remote_tables: false,
            relay_domains_told: AtomicBool::new(false),
            maps_rbl_told: AtomicBool::new(false),
            notices,
            remarks,
        };
        policy.read_local_rewrite(view);
        policy.remote_tables = policy.asks_remote_tables(view);
        Ok(policy)
    }

    fn read_local_rewrite(&mut self, view: &View) {
        const NAME: &str = "local_header_rewrite_clients";
        let text = view.text(NAME);
        for word in yamabiko_lookup::split_list(&text) {
            match word.to_ascii_lowercase().as_str() {
                "permit_inet_interfaces" => self.local_rewrite.push(LocalRewrite::InetInterfaces),
                "permit_mynetworks" => self.local_rewrite.push(LocalRewrite::Mynetworks),
                "permit_sasl_authenticated" => self.local_rewrite.push(LocalRewrite::Login),
                "permit_tls_clientcerts" => self.local_rewrite.push(LocalRewrite::Certificate(false)),
                "permit_tls_all_clientcerts" => self.local_rewrite.push(LocalRewrite::Certificate(true)),
                "check_address_map" => {}
                _ if word.contains(':') => {
                    self.local_rewrite.push(LocalRewrite::Table(Maps::open(&self.shared.tables, NAME, word)));
                }
                _ => self.notices.push(format!("parameter {NAME}: invalid request: {word}")),
            }
        }
    }

    /// `local_header_rewrite_clients`, as far as it is about logins and certificates. A table that does not answer at
    /// once is not waited for.
    pub(crate) fn rewrites_for(&self, logged_in: bool, tls: Option<&TlsFacts>) -> bool {
        self.local_rewrite.iter().any(|element| match (element, tls) {
            (LocalRewrite::Login, _) => logged_in,
            (LocalRewrite::Certificate(true), Some(tls)) if tls.trusted => true,
            (LocalRewrite::Certificate(_), Some(tls)) => {
                matches!(self.knows_certificate(tls).now_or_never(), Some(Ok(true)))
            }
            _ => false,
        })
    }

    /// There are restrictions at the end of data.
    pub fn checks_end_of_data(&self) -> bool {
        !self.compiled.end_of_data.is_empty()
    }

    /// For the log, once.
    pub(crate) fn notices(&self) -> Vec<String> {
        self.notices.clone()
    }

    /// For whoever looks at a configuration: what works and is worth changing all the same.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// A table answers from a socket, waited for with blocking calls.
    pub fn is_remote(&self) -> bool {
        self.remote_tables
    }

    fn asks_remote_tables(&self, view: &View) -> bool {
        let lists = [
            "local_recipient_maps",
            "virtual_mailbox_maps",
            "relay_recipient_maps",
            "virtual_alias_maps",
            "canonical_maps",
            "recipient_canonical_maps",
            "sender_canonical_maps",
        ];
        if self.dns_filter.is_remote() || self.sender_login.is_remote() || self.relay_clientcerts.is_remote() {
            return true;
        }
        if lists.iter().any(|name| Maps::open(&self.shared.tables, name, &view.text(name)).is_remote()) {
            return true;
        }
        let of_list = |list: &[Node]| {
            list.iter().any(
                |node| matches!(&node.rule, Rule::Access(_, maps) | Rule::ServerAccess(_, _, maps) if maps.is_remote()),
            )
        };
        let lists = [
            &self.compiled.client,
            &self.compiled.helo,
            &self.compiled.sender,
            &self.compiled.relay,
            &self.compiled.recipient,
            &self.compiled.data,
            &self.compiled.end_of_data,
            &self.compiled.etrn,
        ];
        lists.into_iter().chain(self.compiled.classes.values()).any(|list| of_list(list))
            || self.router.is_remote()
            || self.mynetworks.is_remote()
            || self.relay_domains.is_remote()
            || [&self.xclient, &self.xforward, &self.verp, &self.unlimited].iter().any(|list| list.is_remote())
    }

    /// What the match lists say about a client. A list that cannot be asked gives no privilege.
    pub async fn standing(&self, peer: &Peer) -> Standing {
        let mut standing = Standing { discard: self.discard, ..Standing::default() };
        let Some(address) = peer.address else { return standing };
        let mut warnings = Vec::new();
        let mut asked = |found: Result<bool, yamabiko_lookup::LookupError>| {
            found.unwrap_or_else(|error| {
                warnings.push(error.to_string());
                false
            })
        };
        standing.xclient = asked(self.xclient.contains(&peer.name, address).await);
        standing.xforward = asked(self.xforward.contains(&peer.name, address).await);
        standing.verp = asked(self.verp.contains(&peer.name, address).await);
        standing.unlimited = asked(self.unlimited.contains(&peer.name, address).await);
        standing.bare_newline_excluded = asked(self.bare_newline_exclusions.contains(&peer.name, address).await);
        standing.no_auth = !self.no_auth.is_empty() && asked(self.no_auth.contains(&peer.name, address).await);
        standing.verbose = !self.debug_peers.is_empty() && asked(self.debug_peers.contains(&peer.name, address).await);
        for element in &self.local_rewrite {
            standing.local_rewrite |= match element {
                // Known later.
                LocalRewrite::Login | LocalRewrite::Certificate(_) => false,
                LocalRewrite::InetInterfaces => self.own_addresses.contains(&address),
                LocalRewrite::Mynetworks => asked(self.mynetworks.contains(&peer.name, address).await),
                LocalRewrite::Table(maps) => {
                    asked(lookup::client_entry(maps, &peer.name, address, self.parents).await.map(|hit| hit.is_some()))
                }
            };
        }
        if !self.discard_maps.is_empty() {
            match self.discard_maps.find(&address.to_string()).await {
                Ok(Some(list)) => standing.discard = Discard::parse(&list).0,
                Ok(None) => {}
                Err(error) => warnings.push(error.to_string()),
            }
        }
        standing.warnings = warnings;
        standing
    }

    /// Where the sender or recipient is delivered, for mail filters. `None`: not known now, or it is no address.
    pub(crate) async fn delivery_of(&self, address: &str, other: &str) -> Option<crate::filter::AddressRoute> {
        if address.is_empty() {
            return Some(crate::filter::AddressRoute::default());
        }
        let resolved = self.router.resolve(other, address).await.ok().filter(|resolved| !resolved.bad_syntax)?;
        Some(crate::filter::AddressRoute { transport: resolved.transport, nexthop: resolved.nexthop })
    }

    /// Answers a check. `state` is the session's, in which decisions about the message accumulate. `engine` verifies
    /// addresses and starts policy servers; without it neither is done.
    pub async fn check(
        &self,
        check: Check,
        facts: &Facts<'_>,
        state: &mut CheckState,
        resolver: &dyn Resolver,
        engine: Option<&dyn Admission>,
    ) -> Outcome {
        if self.dns_filter.is_empty() {
            return eval::Evaluation::new(self, facts, state, resolver, engine).run(check).await;
        }
        let ear = dns_filter::Ear::default();
        let filtered = Filtered::new(resolver, &self.dns_filter, |told| ear.hear(told));
        let outcome = eval::Evaluation::new(self, facts, state, &filtered, engine).run(check).await;
        // They were seen before anything was decided by them.
        state.records.splice(0..0, ear.into_told());
        outcome
    }
}

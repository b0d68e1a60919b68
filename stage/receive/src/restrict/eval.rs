//! Evaluates compiled restriction lists (Postfix: `generic_checks` and what it calls).

use std::fmt::Display;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use yamabiko_address::domain;
use yamabiko_dns::{Answer, Resolver};
use yamabiko_lookup::{AddressForms, Hit, LookupError, Maps, ParentStyle};
use yamabiko_route::{Class, Listing, Party, Resolved};
use yamabiko_smtp::reply::{MAX_REJECT, truncate};
use yamabiko_status::EnhancedStatus;

use super::rule::{List, Node, Rule, Subject};
use super::{Check, CheckState, Deferral, Facts, Outcome, Policy, Record, Said, Step, TempfailAction};
use crate::peer::NameStatus;
use crate::settings::ErrorClasses;

/// How deep classes and access tables may name each other. Postfix allows 100; each level costs stack here, and nobody
/// needs more.
pub(super) const MAX_DEPTH: u32 = 20;

/// What is being asked about: the thing in `<...>` and its class in replies.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'static str,
}

pub(super) const CLIENT: &str = "Client host";
pub(super) const REVERSE_CLIENT: &str = "Unverified Client host";
pub(super) const HELO: &str = "Helo command";
pub(super) const SENDER: &str = "Sender address";
pub(super) const RECIPIENT: &str = "Recipient address";
const DATA: &str = "Data command";
const END_OF_DATA: &str = "End-of-data";
const ETRN: &str = "Etrn command";

/// What came of a restriction: an answer, or another list to be asked. Lists within lists are evaluated by
/// [`Evaluation::list`] alone, so that nesting costs little stack.
pub(super) enum Ruled<'a> {
    Said(Said),
    List {
        list: List,
        about: About<'a>,
        /// The entry that named it.
        matched: Option<String>,
    },
}

impl From<Said> for Ruled<'_> {
    fn from(said: Said) -> Self {
        Self::Said(said)
    }
}

/// One check in progress.
pub(super) struct Evaluation<'a> {
    pub(super) policy: &'a Policy,
    pub(super) facts: &'a Facts<'a>,
    pub(super) state: &'a mut CheckState,
    resolver: &'a dyn Resolver,
    /// Depth at which `warn_if_reject` stood; 0 when it does not.
    warn_if_reject: u32,
    pub(super) depth: u32,
    defer_if_reject: Option<Deferral>,
    defer_if_permit: Option<Deferral>,
    /// The reply, once something was refused.
    reply: String,
    recipient_listed: bool,
    sender_listed: bool,
    resolved_sender: Option<Resolved>,
    resolved_recipient: Option<Resolved>,
}

type Recursion<'f> = Pin<Box<dyn Future<Output = Said> + Send + 'f>>;

impl<'a> Evaluation<'a> {
    pub(super) fn new(
        policy: &'a Policy,
        facts: &'a Facts<'a>,
        state: &'a mut CheckState,
        resolver: &'a dyn Resolver,
    ) -> Self {
        Self {
            policy,
            facts,
            state,
            resolver,
            warn_if_reject: 0,
            depth: 0,
            defer_if_reject: None,
            defer_if_permit: None,
            reply: String::new(),
            recipient_listed: false,
            sender_listed: false,
            resolved_sender: None,
            resolved_recipient: None,
        }
    }

    pub(super) async fn run(mut self, check: Check) -> Outcome {
        let policy = self.policy;
        let said = match check {
            Check::Connect => self.client().await,
            Check::Helo => self.helo().await,
            Check::MailAddress => return self.address_is_one(Party::Sender).await,
            Check::RcptAddress => return self.address_is_one(Party::Recipient).await,
            Check::Mail => {
                if self.address_is_one(Party::Sender).await == Outcome::BadAddress {
                    return Outcome::BadAddress;
                }
                if policy.delay_reject { Said::Dunno } else { self.sender().await }
            }
            Check::Rcpt => {
                if self.address_is_one(Party::Recipient).await == Outcome::BadAddress {
                    return Outcome::BadAddress;
                }
                self.rcpt().await
            }
            Check::Data => self.stage(&policy.data, About { name: "DATA", class: DATA }).await,
            Check::EndOfData => {
                self.stage(&policy.end_of_data, About { name: "END-OF-MESSAGE", class: END_OF_DATA }).await
            }
            Check::Etrn => self.etrn().await,
        };
        match said {
            Said::Reject => Outcome::Refused(self.reply),
            _ => Outcome::Pass,
        }
    }

    /// The check that Postfix makes while it reads an address: does it resolve to one? Trouble with tables is for the
    /// restrictions to meet.
    async fn address_is_one(&mut self, party: Party) -> Outcome {
        if party == Party::Sender && self.facts.sender.is_none_or(str::is_empty) {
            return Outcome::Pass;
        }
        let smtputf8 = self.facts.smtputf8;
        match self.resolve(party).await {
            Ok(resolved) if resolved.bad_syntax => Outcome::BadAddress,
            // A domain in UTF-8 must be announced; a local part, by long tradition, need not.
            Ok(resolved) if !smtputf8 && !domain_of(&resolved.recipient).is_ascii() => Outcome::BadAddress,
            _ => Outcome::Pass,
        }
    }

    async fn resolve(&mut self, party: Party) -> Result<&Resolved, LookupError> {
        let (sender, recipient) = (self.facts.sender.unwrap_or_default(), self.facts.recipient.unwrap_or_default());
        let router = &self.policy.router;
        let (cached, from, address) = match party {
            Party::Sender => (&mut self.resolved_sender, recipient, sender),
            Party::Recipient => (&mut self.resolved_recipient, sender, recipient),
        };
        let resolved = match cached.take() {
            Some(resolved) => resolved,
            None => router.resolve(from, address).await?,
        };
        for warning in &resolved.warnings {
            self.state.records.push(Record::Warning(warning.clone()));
        }
        Ok(cached.insert(Resolved { warnings: Vec::new(), ..resolved }))
    }

    fn begin(&mut self) {
        self.depth = 0;
        self.warn_if_reject = 0;
        self.defer_if_reject = None;
    }

    async fn client(&mut self) -> Said {
        self.begin();
        self.defer_if_permit = None;
        let peer = self.facts.peer;
        let policy = self.policy;
        let said = self.list(&policy.client, About { name: &peer.name_and_address, class: CLIENT }).await;
        self.state.after_client = self.defer_if_permit.clone();
        said
    }

    async fn helo(&mut self) -> Said {
        let Some(helo) = self.facts.helo else {
            self.state.after_helo = self.state.after_client.clone();
            return Said::Dunno;
        };
        self.begin();
        self.defer_if_permit = self.state.after_client.clone();
        let policy = self.policy;
        let said = self.list(&policy.helo, About { name: helo, class: HELO }).await;
        self.state.after_helo = self.defer_if_permit.clone();
        said
    }

    async fn sender(&mut self) -> Said {
        let Some(sender) = self.facts.sender else {
            self.state.after_sender = self.state.after_helo.clone();
            return Said::Dunno;
        };
        self.begin();
        self.defer_if_permit = self.state.after_helo.clone();
        let policy = self.policy;
        let mut said = self.list(&policy.sender, About { name: sender, class: SENDER }).await;
        if said != Said::Reject && policy.unlisted_sender && !sender.is_empty() && !self.sender_listed {
            said = self.unlisted(Party::Sender).await;
        }
        self.state.after_sender = self.defer_if_permit.clone();
        said
    }

    /// RCPT and VRFY: the delayed restrictions first, then relay and recipient restrictions.
    async fn rcpt(&mut self) -> Said {
        let Some(recipient) = self.facts.recipient else { return Said::Dunno };
        // RFC 5321 section 4.5.1: postmaster without a domain is always accepted.
        if recipient.eq_ignore_ascii_case("postmaster") {
            return Said::Dunno;
        }
        let policy = self.policy;
        if policy.delay_reject && self.delayed().await == Said::Reject {
            return Said::Reject;
        }
        let lists: [&List; 2] =
            if policy.relay_first { [&policy.relay, &policy.recipient] } else { [&policy.recipient, &policy.relay] };
        self.defer_if_permit = self.state.after_sender.clone();
        for list in lists {
            self.begin();
            if self.list(list, About { name: recipient, class: RECIPIENT }).await == Said::Reject {
                return Said::Reject;
            }
        }
        if self.permit_or_defer() == Said::Reject {
            return Said::Reject;
        }
        if policy.unlisted_recipient && !self.recipient_listed {
            return self.unlisted(Party::Recipient).await;
        }
        Said::Dunno
    }

    async fn delayed(&mut self) -> Said {
        if self.client().await == Said::Reject || self.helo().await == Said::Reject {
            return Said::Reject;
        }
        self.sender().await
    }

    async fn etrn(&mut self) -> Said {
        let Some(domain) = self.facts.etrn else { return Said::Dunno };
        let policy = self.policy;
        if policy.delay_reject && (self.client().await == Said::Reject || self.helo().await == Said::Reject) {
            return Said::Reject;
        }
        self.begin();
        self.defer_if_permit = self.state.after_helo.clone();
        if self.list(&policy.etrn, About { name: domain, class: ETRN }).await == Said::Reject {
            return Said::Reject;
        }
        self.permit_or_defer()
    }

    async fn stage(&mut self, list: &List, about: About<'a>) -> Said {
        self.begin();
        // Left over from a recipient that was refused while others were accepted.
        self.defer_if_permit = None;
        if self.list(list, about).await == Said::Reject {
            return Said::Reject;
        }
        self.permit_or_defer()
    }

    /// Permission becomes deferral when an earlier temporary error may have kept us from refusing.
    fn permit_or_defer(&mut self) -> Said {
        match self.defer_if_permit.take() {
            Some(Deferral { class, code, status, text }) => self.reject(class, code, &status, &text),
            None => Said::Dunno,
        }
    }

    /// A list within a list.
    fn nested<'f>(&'f mut self, list: &'f [Node], about: About<'a>) -> Recursion<'f>
    where
        'a: 'f,
    {
        Box::pin(self.list(list, about))
    }

    async fn list(&mut self, list: &[Node], about: About<'a>) -> Said {
        self.depth += 1;
        let mut said = Said::Dunno;
        for node in list {
            if self.state.effects.discard {
                break;
            }
            if matches!(node.rule, Rule::WarnIfReject) {
                if self.warn_if_reject == 0 {
                    self.warn_if_reject = self.depth;
                }
                continue;
            }
            let steps = self.state.steps.len();
            said = match self.rule(node, about).await {
                Ruled::Said(said) => said,
                Ruled::List { list, about, matched } => {
                    let said = self.nested(&list, about).await;
                    if matched.is_some() {
                        self.step(node, matched, said, steps);
                    }
                    self.unless_suspicious(node, said)
                }
            };
            if said != Said::Dunno || self.state.explain {
                self.step(node, None, said, steps);
            }
            if self.warn_if_reject >= self.depth {
                self.warn_if_reject = 0;
            }
            if said != Said::Dunno || (self.defer_if_permit.is_some() && self.defer_if_reject.is_some()) {
                break;
            }
        }
        if self.warn_if_reject >= self.depth {
            self.warn_if_reject = 0;
        }
        self.depth -= 1;
        said
    }

    /// Notes that an element had a say, unless an inner one at the same element has noted it (`since`).
    pub(super) fn step(&mut self, node: &Node, matched: Option<String>, verdict: Said, since: usize) {
        let noted = self.state.steps.get(since..).is_some_and(|steps| {
            steps.iter().any(|step| step.element == node.element && step.parameter == node.parameter)
        });
        if !noted {
            self.state.steps.push(Step {
                parameter: node.parameter.clone(),
                element: node.element.clone(),
                place: node.place.clone(),
                matched,
                verdict,
            });
        }
    }

    async fn rule(&mut self, node: &Node, about: About<'a>) -> Ruled<'a> {
        match &node.rule {
            Rule::Class(name) => self.class(name, about),
            Rule::Access(subject, maps) => self.access(node, *subject, maps).await,
            _ => Ruled::Said(self.simple_rule(node, about).await),
        }
    }

    fn class(&mut self, name: &str, about: About<'a>) -> Ruled<'a> {
        if self.depth > MAX_DEPTH {
            return self.server_error(format!("restriction class {name} causes unreasonable recursion")).into();
        }
        match self.policy.classes.get(&name.to_ascii_lowercase()) {
            Some(list) => Ruled::List { list: List::clone(list), about, matched: None },
            None => self.server_error(format!("unknown smtpd restriction: \"{name}\"")).into(),
        }
    }

    async fn simple_rule(&mut self, node: &Node, about: About<'a>) -> Said {
        let codes = &self.policy.codes;
        let peer = self.facts.peer;
        let sender = self.facts.sender.filter(|s| !s.is_empty());
        let recipient = self.facts.recipient.filter(|r| !r.is_empty());
        match &node.rule {
            Rule::WarnIfReject | Rule::Never => Said::Dunno,
            Rule::Permit => self.permit(node, about).await,
            Rule::Reject => self.rejected(codes.reject, "5.7.1", about, "Access denied"),
            Rule::Defer => self.rejected(codes.defer, "4.3.2", about, "Try again later"),
            Rule::DeferIfPermit => {
                self.defer_if(true, 450, "4.7.0", about, "defer_if_permit requested");
                Said::Dunno
            }
            Rule::DeferIfReject => {
                self.defer_if(false, 450, "4.7.0", about, "defer_if_reject requested");
                Said::Dunno
            }
            Rule::Sleep(seconds) => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                Said::Dunno
            }
            Rule::RejectPlaintextSession => {
                self.reject(ErrorClasses::POLICY, codes.plaintext, "4.7.1", "Session encryption is required")
            }
            Rule::RejectUnauthPipelining if self.facts.bad_pipelining => {
                self.rejected(503, "5.5.0", about, "Improper use of SMTP command pipelining")
            }
            Rule::RejectUnauthPipelining => Said::Dunno,
            Rule::RejectUnknownClientHostname => {
                let code = match peer.name_status {
                    NameStatus::Ok => return Said::Dunno,
                    NameStatus::Temporary => 450,
                    NameStatus::Permanent | NameStatus::Forged => codes.unknown_client,
                };
                let text = format!("Client host rejected: cannot find your hostname, [{}]", peer.address_text());
                self.reject(ErrorClasses::POLICY, code, "4.7.25", &text)
            }
            Rule::RejectUnknownReverseClientHostname => {
                let code = match peer.reverse_status {
                    NameStatus::Ok => return Said::Dunno,
                    NameStatus::Temporary => 450,
                    NameStatus::Permanent | NameStatus::Forged => codes.unknown_client,
                };
                let text =
                    format!("Client host rejected: cannot find your reverse hostname, [{}]", peer.address_text());
                self.reject(ErrorClasses::POLICY, code, "4.7.1", &text)
            }
            Rule::PermitInetInterfaces => match peer.address {
                Some(address) if self.policy.own_addresses.contains(&address) => self.permit(node, about).await,
                _ => Said::Dunno,
            },
            Rule::PermitMynetworks => {
                let Some(address) = peer.address else { return Said::Dunno };
                match self.policy.mynetworks.contains(&peer.name, address).await {
                    Ok(true) => self.permit(node, about).await,
                    Ok(false) => Said::Dunno,
                    Err(error) => self.lookup_failed(about.name, &error),
                }
            }
            Rule::RejectInvalidHeloHostname | Rule::RejectNonFqdnHeloHostname => {
                self.helo_syntax(matches!(node.rule, Rule::RejectNonFqdnHeloHostname))
            }
            Rule::RejectUnknownHeloHostname => self.unknown_helo().await,
            Rule::PermitNakedIpAddress => self.naked_address(node).await,
            Rule::RejectNonFqdnSender => sender.map_or(Said::Dunno, |s| self.non_fqdn_address(s, SENDER)),
            Rule::RejectNonFqdnRecipient => recipient.map_or(Said::Dunno, |r| self.non_fqdn_address(r, RECIPIENT)),
            Rule::RejectUnknownSenderDomain if sender.is_some() => self.unknown_domain(Party::Sender).await,
            Rule::RejectUnknownRecipientDomain if recipient.is_some() => self.unknown_domain(Party::Recipient).await,
            Rule::RejectUnlistedSender if sender.is_some() => self.unlisted(Party::Sender).await,
            Rule::RejectUnlistedRecipient if recipient.is_some() => self.unlisted(Party::Recipient).await,
            Rule::PermitAuthDestination if recipient.is_some() => match self.authorized().await {
                Ok(true) => self.permit(node, about).await,
                Ok(false) => Said::Dunno,
                Err(said) => said,
            },
            Rule::RejectUnauthDestination if recipient.is_some() => self.relay(codes.relay, "5.7.1").await,
            Rule::DeferUnauthDestination if recipient.is_some() => {
                self.relay(codes.relay.saturating_sub(100), "4.7.1").await
            }
            Rule::CheckRelayDomains if recipient.is_some() => self.check_relay_domains(node, about).await,
            Rule::RejectMultiRecipientBounce => {
                let accepted = if self.facts.stage == "DATA" { 1 } else { 0 };
                if self.facts.sender == Some("") && self.facts.recipients > accepted {
                    self.rejected(codes.multi_recipient_bounce, "5.5.3", about, "Multi-recipient bounce")
                } else {
                    Said::Dunno
                }
            }
            Rule::Unusable(warning) => self.server_error(warning.clone()),
            // About a sender or recipient that is not there.
            _ => Said::Dunno,
        }
    }

    /// OK, which is logged where `smtpd_log_access_permit_actions` says so.
    async fn permit(&mut self, node: &Node, about: About<'_>) -> Said {
        let list = &self.policy.log_permit_actions;
        if !list.is_empty() {
            let word = node.element.split_whitespace().next().unwrap_or_default();
            if list.contains(word).await.unwrap_or(false) {
                let text = format!("action={word} for {}={}", about.class, about.name);
                self.state.records.push(Record::Decided("permit", text));
            }
        }
        Said::Permit
    }

    /// `<NAME>: CLASS rejected: TEXT`
    pub(super) fn rejected(&mut self, code: u16, status: &str, about: About<'_>, text: impl Display) -> Said {
        let text = format!("<{}>: {} rejected: {text}", about.name, about.class);
        self.reject(ErrorClasses::POLICY, code, status, &text)
    }

    /// Refuses, or only says so under `warn_if_reject`.
    pub(super) fn reject(&mut self, class: ErrorClasses, code: u16, status: &str, text: &str) -> Said {
        let own = ErrorClasses::SOFTWARE.meets(class)
            || ErrorClasses::RESOURCE.meets(class)
            || ErrorClasses::DATA.meets(class);
        let warn_only = self.warn_if_reject != 0 && !own;
        self.state.errors.add(class);
        let reply = compose(code, status, text);
        let mut reply = match reply {
            Ok(reply) => reply,
            Err(warning) => {
                self.state.records.push(Record::Warning(warning));
                "450 4.7.1 Service unavailable".to_owned()
            }
        };
        if !warn_only && reply.starts_with('5') && self.defer_if_reject.is_some() {
            // An earlier temporary error may have kept us from permitting.
            self.warn_if_reject = 0;
            if let Some(Deferral { class, code, status, text }) = self.defer_if_reject.take() {
                return self.reject(class, code, &status, &text);
            }
        }
        if self.policy.soft_bounce {
            soften(&mut reply);
        }
        let word = if warn_only { "reject_warning" } else { "reject" };
        self.state.records.push(Record::Decided(word, reply.clone()));
        if warn_only {
            return Said::Dunno;
        }
        self.reply = reply;
        Said::Reject
    }

    /// Remembers the first reason to defer: if mail would else be permitted (`permit`), or in place of a refusal.
    pub(super) fn defer_if(&mut self, permit: bool, code: u16, status: &str, about: About<'_>, text: impl Display) {
        if permit && self.warn_if_reject != 0 {
            return;
        }
        let slot = if permit { &mut self.defer_if_permit } else { &mut self.defer_if_reject };
        slot.get_or_insert_with(|| Deferral {
            class: ErrorClasses::POLICY,
            code,
            status: status.to_owned(),
            text: format!("<{}>: {} rejected: {text}", about.name, about.class),
        });
    }

    /// The configuration cannot be obeyed.
    pub(super) fn server_error(&mut self, warning: String) -> Said {
        self.state.records.push(Record::Warning(warning));
        self.reject(ErrorClasses::SOFTWARE, 451, "4.3.5", "Server configuration error")
    }

    pub(super) fn lookup_failed(&mut self, name: &str, error: &LookupError) -> Said {
        self.state.records.push(Record::Warning(error.to_string()));
        self.reject(ErrorClasses::DATA, 451, "4.3.0", &format!("<{name}>: Temporary lookup failure"))
    }

    fn helo_syntax(&mut self, fully_qualified: bool) -> Said {
        let Some(helo) = self.facts.helo else { return Said::Dunno };
        let about = About { name: helo, class: HELO };
        let codes = &self.policy.codes;
        if helo.starts_with('[') {
            return self.helo_literal(helo, about);
        }
        let name = without_last_dot(helo);
        let valid = domain::valid_hostname(name);
        if fully_qualified {
            return match valid && name.contains('.') {
                true => Said::Dunno,
                false => self.rejected(codes.non_fqdn, "5.5.2", about, "need fully-qualified hostname"),
            };
        }
        match valid || name.parse::<IpAddr>().is_ok() {
            true => Said::Dunno,
            false => self.rejected(codes.invalid_hostname, "5.5.2", about, "Invalid name"),
        }
    }

    fn helo_literal(&mut self, helo: &str, about: About<'_>) -> Said {
        let inside = helo.strip_prefix('[').and_then(|h| h.strip_suffix(']')).filter(|h| !h.is_empty());
        let valid = inside.is_some_and(|h| domain::valid_address_literal(&format!("[{h}]")));
        match valid {
            true => Said::Dunno,
            false => self.rejected(self.policy.codes.invalid_hostname, "5.5.2", about, "invalid ip address"),
        }
    }

    /// An address without brackets as HELO argument; only for very old configurations.
    async fn naked_address(&mut self, node: &Node) -> Said {
        let Some(helo) = self.facts.helo else { return Said::Dunno };
        self.state.records.push(Record::Warning(
            "restriction permit_naked_ip_address is deprecated. Use permit_mynetworks or permit_sasl_authenticated \
             instead"
                .to_owned(),
        ));
        let about = About { name: helo, class: HELO };
        if !helo.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b':') {
            return Said::Dunno;
        }
        match helo.parse::<IpAddr>() {
            Ok(_) => self.permit(node, about).await,
            Err(_) => self.rejected(self.policy.codes.invalid_hostname, "5.5.2", about, "invalid ip address"),
        }
    }

    async fn unknown_helo(&mut self) -> Said {
        let Some(helo) = self.facts.helo else { return Said::Dunno };
        let about = About { name: helo, class: HELO };
        if helo.starts_with('[') {
            return self.helo_literal(helo, about);
        }
        match self.host_exists(helo).await {
            Existence::Yes | Existence::NullMx => Said::Dunno,
            Existence::No => self.rejected(self.policy.codes.unknown_hostname, "4.7.1", about, "Host not found"),
            Existence::Unknown => self.dns_trouble(self.policy.unknown_helo_tempfail, "4.7.1", about, "Host not found"),
        }
    }

    fn dns_trouble(&mut self, action: TempfailAction, status: &str, about: About<'_>, text: &str) -> Said {
        match action {
            TempfailAction::Defer => self.rejected(450, status, about, text),
            TempfailAction::DeferIfPermit => {
                self.defer_if(true, 450, status, about, text);
                Said::Dunno
            }
        }
    }

    fn non_fqdn_address(&mut self, address: &str, class: &'static str) -> Said {
        let domain = domain_of(address);
        if domain.starts_with('[') && domain.ends_with(']') {
            return Said::Dunno;
        }
        let domain = without_last_dot(domain);
        if domain.contains('.') && domain::valid_utf8_hostname(domain) {
            return Said::Dunno;
        }
        let about = About { name: address, class };
        self.rejected(self.policy.codes.non_fqdn, "5.5.2", about, "need fully-qualified address")
    }

    async fn unknown_domain(&mut self, party: Party) -> Said {
        let (address, class, status) = match party {
            Party::Sender => (self.facts.sender.unwrap_or_default(), SENDER, "4.1.8"),
            Party::Recipient => (self.facts.recipient.unwrap_or_default(), RECIPIENT, "4.1.2"),
        };
        let about = About { name: address, class };
        let name = match self.resolve(party).await {
            Err(error) => return self.lookup_failed(address, &error),
            Ok(Resolved { class: Class::Local | Class::VirtualAlias | Class::VirtualMailbox, .. }) => {
                return Said::Dunno;
            }
            Ok(resolved) => resolved.recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned()),
        };
        let Some(name) = name.filter(|n| !(n.starts_with('[') && n.ends_with(']'))) else { return Said::Dunno };
        match self.host_exists(&name).await {
            Existence::Yes => Said::Dunno,
            Existence::NullMx => {
                let (code, status) = if party == Party::Sender { (550, "5.7.27") } else { (556, "5.1.10") };
                self.rejected(code, status, about, format_args!("Domain {name} does not accept mail (nullMX)"))
            }
            Existence::No => self.rejected(self.policy.codes.unknown_address, status, about, "Domain not found"),
            Existence::Unknown => {
                self.dns_trouble(self.policy.unknown_address_tempfail, status, about, "Domain not found")
            }
        }
    }

    /// MX, then A, then AAAA records: any will do.
    async fn host_exists(&self, name: &str) -> Existence {
        let Some(name) = domain::to_ascii(without_last_dot(name)) else { return Existence::No };
        let mut unknown = false;
        match self.resolver.mx(&name).await {
            Answer::Found { records, .. } if records.iter().any(|mx| mx.is_null()) => return Existence::NullMx,
            Answer::Found { .. } => return Existence::Yes,
            Answer::NotFound => return Existence::No,
            Answer::NoData => {}
            Answer::TryAgain(_) | Answer::Fail(_) => unknown = true,
        }
        let mut tally = |found: bool, failed: bool| {
            unknown |= failed;
            found
        };
        let a = self.resolver.a(&name).await;
        if tally(!a.records().is_empty(), matches!(a, Answer::TryAgain(_) | Answer::Fail(_))) {
            return Existence::Yes;
        }
        let aaaa = self.resolver.aaaa(&name).await;
        if tally(!aaaa.records().is_empty(), matches!(aaaa, Answer::TryAgain(_) | Answer::Fail(_))) {
            return Existence::Yes;
        }
        if unknown { Existence::Unknown } else { Existence::No }
    }

    /// `reject_unlisted_recipient` and `_sender`, explicit or implied.
    async fn unlisted(&mut self, party: Party) -> Said {
        let (address, class, done) = match party {
            Party::Sender => (self.facts.sender.unwrap_or_default(), SENDER, &mut self.sender_listed),
            Party::Recipient => (self.facts.recipient.unwrap_or_default(), RECIPIENT, &mut self.recipient_listed),
        };
        if *done || (party == Party::Recipient && self.policy.no_unknown_recipient_checks) {
            return Said::Dunno;
        }
        if self.warn_if_reject == 0 {
            *done = true;
        }
        let policy = self.policy;
        let listing = match self.resolve(party).await {
            Ok(resolved) => policy.lists.check(party, resolved).await,
            Err(error) => Err(error),
        };
        match listing {
            Ok(Listing::Listed) => Said::Dunno,
            Ok(Listing::Unlisted { code, status, text, .. }) => {
                let text = format!("<{address}>: {class} rejected: {text}");
                self.reject(ErrorClasses::BOUNCE, code, &status.to_string(), &text)
            }
            Err(error) => self.lookup_failed(address, &error),
        }
    }

    /// Whether the recipient is ours to take: a final destination or a relay domain, without routing in its local part.
    async fn authorized(&mut self) -> Result<bool, Said> {
        let recipient = self.facts.recipient.unwrap_or_default();
        let lenient = self.policy.allow_untrusted_routing;
        match self.resolve(Party::Recipient).await {
            Ok(resolved) => Ok(resolved.class != Class::Default && (lenient || !resolved.routed)),
            Err(error) => Err(self.lookup_failed(recipient, &error)),
        }
    }

    async fn relay(&mut self, code: u16, status: &str) -> Said {
        match self.authorized().await {
            Ok(true) => Said::Dunno,
            Ok(false) => {
                let text = format!("<{}>: Relay access denied", self.facts.recipient.unwrap_or_default());
                self.reject(ErrorClasses::POLICY, code, status, &text)
            }
            Err(said) => said,
        }
    }

    /// Obsolete, but found at the end of many old lists.
    async fn check_relay_domains(&mut self, node: &Node, about: About<'_>) -> Said {
        if !self.policy.relay_domains_told.swap(true, Ordering::Relaxed) {
            self.state.records.push(Record::Warning(format!(
                "support for restriction \"check_relay_domains\" will be removed from {}; use \
                 \"reject_unauth_destination\" instead",
                self.policy.mail_name
            )));
        }
        let peer = self.facts.peer;
        match self.policy.relay_domains.contains(&peer.name).await {
            Ok(true) => return self.permit(node, about).await,
            Ok(false) => {}
            Err(error) => return self.lookup_failed(about.name, &error),
        }
        match self.authorized().await {
            Ok(true) => self.permit(node, about).await,
            Ok(false) => {
                let text = format!("<{}>: {} rejected: Relay access denied", about.name, about.class);
                self.reject(ErrorClasses::POLICY, self.policy.codes.relay, "5.7.1", &text)
            }
            Err(said) => said,
        }
    }

    async fn access(&mut self, node: &Node, subject: Subject, maps: &Maps) -> Ruled<'a> {
        let policy = self.policy;
        let peer = self.facts.peer;
        let (found, about) = match subject {
            Subject::Client => {
                let about = About { name: &peer.name_and_address, class: CLIENT };
                (self.client_entry(maps, &peer.name).await, about)
            }
            Subject::ReverseClient => {
                let about = About { name: &peer.reverse_name, class: REVERSE_CLIENT };
                (maps.find_domain(&peer.reverse_name, policy.parents).await, about)
            }
            Subject::Helo => {
                let Some(helo) = self.facts.helo else { return Said::Dunno.into() };
                (maps.find_domain(helo, policy.parents).await, About { name: helo, class: HELO })
            }
            Subject::Etrn => {
                let Some(domain) = self.facts.etrn else { return Said::Dunno.into() };
                (maps.find_domain(domain, policy.parents).await, About { name: domain, class: ETRN })
            }
            Subject::Sender => {
                let Some(sender) = self.facts.sender else { return Said::Dunno.into() };
                let found = match sender {
                    "" => maps.find_hit(&policy.null_key).await,
                    _ => self.address_entry(Party::Sender, maps).await,
                };
                (found, About { name: sender, class: SENDER })
            }
            Subject::Recipient => {
                let Some(recipient) = self.facts.recipient.filter(|r| !r.is_empty()) else { return Said::Dunno.into() };
                (self.address_entry(Party::Recipient, maps).await, About { name: recipient, class: RECIPIENT })
            }
        };
        match found {
            Ok(None) => Said::Dunno.into(),
            Err(error) => self.lookup_failed(about.name, &error).into(),
            Ok(Some(hit)) => {
                let steps = self.state.steps.len();
                let matched = Some(format!("{}: {} {}", hit.source(), hit.key, hit.value));
                match self.act(node, &hit, about) {
                    Ruled::Said(said) => {
                        self.step(node, matched, said, steps);
                        self.unless_suspicious(node, said).into()
                    }
                    Ruled::List { list, about, .. } => Ruled::List { list, about, matched },
                }
            }
        }
    }

    /// A source route makes the destination uncertain: a table entry for a recipient does not permit then.
    fn unless_suspicious(&self, node: &Node, said: Said) -> Said {
        let suspicious = matches!(node.rule, Rule::Access(Subject::Recipient, _))
            && !self.policy.allow_untrusted_routing
            && self.resolved_recipient.as_ref().is_some_and(|resolved| resolved.routed);
        if said == Said::Permit && suspicious { Said::Dunno } else { said }
    }

    async fn client_entry(&self, maps: &Maps, name: &str) -> Result<Option<Hit>, LookupError> {
        match self.facts.peer.address {
            Some(address) => client_entry(maps, name, address, self.policy.parents).await,
            None => maps.find_domain(name, self.policy.parents).await,
        }
    }

    async fn address_entry(&mut self, party: Party, maps: &Maps) -> Result<Option<Hit>, LookupError> {
        let policy = self.policy;
        let forms = AddressForms::access(&policy.delimiters, policy.parents);
        let resolved = self.resolve(party).await?;
        maps.find_address(&resolved.recipient, &forms).await
    }
}

/// Name with its parents, then address with its networks.
pub(super) async fn client_entry(
    maps: &Maps,
    name: &str,
    address: IpAddr,
    parents: ParentStyle,
) -> Result<Option<Hit>, LookupError> {
    match maps.find_domain(name, parents).await? {
        Some(hit) => Ok(Some(hit)),
        None => maps.find_network(&address.to_string()).await,
    }
}

enum Existence {
    Yes,
    No,
    NullMx,
    Unknown,
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// One dot at the end is dropped, two are left for the syntax check to find.
fn without_last_dot(name: &str) -> &str {
    match name.strip_suffix('.') {
        Some(rest) if !rest.ends_with('.') => rest,
        _ => name,
    }
}

/// `CODE STATUS TEXT`, the status in the class of the code, cut to what Postfix allows. The error is a warning.
fn compose(code: u16, status: &str, text: &str) -> Result<String, String> {
    let mut reply = format!("{code:03} {status} {text}");
    truncate(&mut reply, MAX_REJECT);
    // Whatever a client or a table put in: one line of printable text.
    if reply.bytes().any(|b| b < 32 || b == 127) {
        reply = reply.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    if !(400..600).contains(&code) {
        return Err(format!("SMTP reply code configuration error: {reply}"));
    }
    if status.parse::<EnhancedStatus>().is_err() {
        return Err(format!("DSN detail code configuration error: {reply}"));
    }
    // Both digits are ASCII: the code was checked above, the status parsed.
    let class = if code >= 500 { "5" } else { "4" };
    reply.replace_range(4..5, class);
    Ok(reply)
}

/// 5xx 5.x.x becomes 4xx 4.x.x.
pub(crate) fn soften(reply: &mut String) {
    for at in [0, 4] {
        if reply.as_bytes().get(at) == Some(&b'5') {
            // An ASCII byte is a character of its own.
            reply.replace_range(at..=at, "4");
        }
    }
}

//! Evaluates compiled restriction lists (Postfix: `generic_checks` and what it calls).

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use yamabiko_dns::Resolver;
use yamabiko_lookup::LookupError;
use yamabiko_route::{Party, Resolved};
use yamabiko_smtp::reply::{MAX_REJECT, truncate};
use yamabiko_status::EnhancedStatus;

use super::rule::{List, Node, Rule};
use super::{Check, CheckState, Deferral, Facts, Matched, Outcome, Policy, Record, Said, Step};
use crate::admission::Admission;
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
pub(super) const ETRN: &str = "Etrn command";

/// What came of a restriction: an answer, or another list to be asked. Lists within lists are evaluated by
/// [`Evaluation::list`] alone, so that nesting costs little stack.
pub(super) enum Ruled<'a> {
    Said(Said),
    List {
        list: List,
        about: About<'a>,
        /// The entry that named it.
        matched: Option<Matched>,
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
    pub(super) resolver: &'a dyn Resolver,
    /// Starts probes and programs; `None` where nothing is to happen.
    pub(super) engine: Option<&'a dyn Admission>,
    /// Depth at which `warn_if_reject` stood; 0 when it does not.
    pub(super) warn_if_reject: u32,
    pub(super) depth: u32,
    defer_if_reject: Option<Deferral>,
    defer_if_permit: Option<Deferral>,
    /// The reply, once something was refused.
    reply: String,
    pub(super) recipient_listed: bool,
    pub(super) sender_listed: bool,
    resolved_sender: Option<Resolved>,
    pub(super) resolved_recipient: Option<Resolved>,
}

type Recursion<'f> = Pin<Box<dyn Future<Output = Said> + Send + 'f>>;

impl<'a> Evaluation<'a> {
    pub(super) fn new(
        policy: &'a Policy,
        facts: &'a Facts<'a>,
        state: &'a mut CheckState,
        resolver: &'a dyn Resolver,
        engine: Option<&'a dyn Admission>,
    ) -> Self {
        Self {
            policy,
            facts,
            state,
            resolver,
            engine,
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
        // Of one check, not of all that the session has asked for.
        self.state.steps.clear();
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
            Check::Data => self.stage(&policy.compiled.data, About { name: "DATA", class: DATA }).await,
            Check::EndOfData => {
                self.stage(&policy.compiled.end_of_data, About { name: "END-OF-MESSAGE", class: END_OF_DATA }).await
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

    pub(super) async fn resolve(&mut self, party: Party) -> Result<&Resolved, LookupError> {
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
        let said = self.list(&policy.compiled.client, About { name: &peer.name_and_address, class: CLIENT }).await;
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
        let said = self.list(&policy.compiled.helo, About { name: helo, class: HELO }).await;
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
        let mut said = self.list(&policy.compiled.sender, About { name: sender, class: SENDER }).await;
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
        let lists: [&List; 2] = if policy.relay_first {
            [&policy.compiled.relay, &policy.compiled.recipient]
        } else {
            [&policy.compiled.recipient, &policy.compiled.relay]
        };
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
        // What is thrown away is nobody's.
        let ask = policy.unlisted_recipient && !self.recipient_listed && !self.state.effects.discard;
        if ask && self.unlisted(Party::Recipient).await == Said::Reject {
            return Said::Reject;
        }
        let sender = self.facts.sender.unwrap_or_default();
        match self.engine.and_then(|engine| engine.suppressed(sender, recipient)) {
            Some(why) => {
                let text = format!("<{recipient}>: Recipient address rejected: {why}");
                self.reject(ErrorClasses::POLICY, 550, "5.1.1", &text)
            }
            None => Said::Dunno,
        }
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
        if self.list(&policy.compiled.etrn, About { name: domain, class: ETRN }).await == Said::Reject {
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
                    self.settle(node, about, said)
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
    pub(super) fn step(&mut self, node: &Node, matched: Option<Matched>, verdict: Said, since: usize) {
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
            Rule::LoginAccess(maps) => Box::pin(self.login_access(node, maps)).await,
            Rule::CertificateAccess(order, maps) => Box::pin(self.certificate_access(node, order, maps)).await,
            // In boxes: these are rare, and what they need would be carried by every session.
            Rule::ServerAccess(subject, server, maps) => {
                Box::pin(self.server_access(node, *subject, *server, maps)).await
            }
            Rule::RejectListed(listed, list) => Box::pin(self.reject_listed(node, *listed, list)).await.into(),
            Rule::PermitListed(listed, list) => Box::pin(self.permit_listed(node, *listed, list, about)).await.into(),
            Rule::RejectMapsRbl(lists) => Box::pin(self.maps_rbl(node, lists)).await.into(),
            Rule::Policy(service) => Box::pin(self.delegate(node, service, about)).await,
            Rule::PermitMxBackup if self.facts.recipient.is_some_and(|r| !r.is_empty()) => {
                match Box::pin(self.mx_backup()).await {
                    Said::Permit => self.permit(node, about).await.into(),
                    said => said.into(),
                }
            }
            Rule::Authentic(demand) => Box::pin(self.authentic(*demand)).await.into(),
            Rule::RejectUnverified(party) => Box::pin(self.unverified(*party)).await.into(),
            _ => Ruled::Said(self.simple_rule(node, about).await),
        }
    }

    fn class(&mut self, name: &str, about: About<'a>) -> Ruled<'a> {
        if self.depth > MAX_DEPTH {
            return self.server_error(format!("restriction class {name} causes unreasonable recursion")).into();
        }
        match self.policy.compiled.classes.get(&name.to_ascii_lowercase()) {
            Some(list) => Ruled::List { list: List::clone(list), about, matched: None },
            None => self.server_error(format!("unknown smtpd restriction: \"{name}\"")).into(),
        }
    }

    /// OK, which is logged where `smtpd_log_access_permit_actions` says so.
    pub(super) async fn permit(&mut self, node: &Node, about: About<'_>) -> Said {
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

    /// An access table that does not answer: the entry would have been `451 4.3.5 Server configuration error`.
    pub(super) fn access_failed(&mut self, about: About<'_>, error: &LookupError) -> Said {
        self.state.records.push(Record::Warning(error.to_string()));
        let text = format!("<{}>: {} rejected: Server configuration error", about.name, about.class);
        self.reject(ErrorClasses::DATA, 451, "4.3.5", &text)
    }

    pub(super) fn lookup_failed(&mut self, name: &str, error: &LookupError) -> Said {
        self.state.records.push(Record::Warning(error.to_string()));
        self.reject(ErrorClasses::DATA, 451, "4.3.0", &format!("<{name}>: Temporary lookup failure"))
    }
}

pub(super) fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
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

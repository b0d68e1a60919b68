//! From a recipient to its class, transport and next hop (Postfix: trivial-rewrite, the resolving half).

use std::borrow::Cow;

use yamabiko_address::domain::{valid_address_literal, valid_hostname, valid_utf8_hostname};
use yamabiko_address::{quote, unquote};
use yamabiko_envelope::RewriteContext;
use yamabiko_lookup::matchlist::Match;
use yamabiko_lookup::{AddressForms, Hit, LookupError};
use yamabiko_status::EnhancedStatus;

use crate::Router;
use crate::tokens::{Kind, last, tokens, without_trailing_dot};
use crate::transport::Way;

/// The address class of a recipient's domain (ADDRESS_CLASS_README).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `mydestination`, `inet_interfaces` and `proxy_interfaces`.
    Local,
    /// `virtual_alias_domains`
    VirtualAlias,
    /// `virtual_mailbox_domains`
    VirtualMailbox,
    /// `relay_domains`
    Relay,
    /// Everything else.
    Default,
}

impl Class {
    /// The parameter that lists the domains of the class.
    pub fn parameter(self) -> &'static str {
        match self {
            Class::Local => "mydestination",
            Class::VirtualAlias => "virtual_alias_domains",
            Class::VirtualMailbox => "virtual_mailbox_domains",
            Class::Relay => "relay_domains",
            Class::Default => "default_transport",
        }
    }
}

/// The setting that decided something: a parameter, and what was found in it.
#[derive(Clone, Debug, Default)]
pub struct Because {
    /// Name of the parameter; empty when it is the recipient's domain itself, or no setting was asked (a bad address).
    pub parameter: &'static str,
    /// The entry that was found, when the parameter names tables; [`Hit::source`] says in which line.
    pub entry: Option<Hit>,
    /// The element that matched, when the parameter is a list.
    pub element: Option<Match>,
}

impl Because {
    fn parameter(parameter: &'static str) -> Self {
        Self { parameter, ..Self::default() }
    }
    fn entry(parameter: &'static str, hit: Hit) -> Self {
        Self { parameter, entry: Some(hit), element: None }
    }
    fn element(parameter: &'static str, element: Match) -> Self {
        Self { parameter, entry: None, element: Some(element) }
    }
}

/// Where a recipient goes, and by which settings.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Class of the domain.
    pub class: Class,
    /// Name of the transport, a service of master.cf.
    pub transport: String,
    /// Next-hop destination; for `error` and `retry` the text, with its status code in front if it has one.
    pub nexthop: String,
    /// The recipient in `user@domain` form.
    pub recipient: String,
    /// The local part holds another `@`, `%` or `!`: whoever gets it may send it on to anywhere.
    pub routed: bool,
    /// The address is no good: syntax, or it begins with `-`. Transport and next hop say so too.
    pub bad_syntax: bool,
    /// What put the domain into its class.
    pub class_by: Because,
    /// What chose the transport.
    pub transport_by: Because,
    /// What chose the next hop.
    pub nexthop_by: Because,
    /// Faults of the configuration that this address has shown; for the log.
    pub warnings: Vec<String>,
}

/// What an `error` or `retry` transport says to a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// `error`, not `retry`.
    pub permanent: bool,
    /// Its status code; 5.0.0 or 4.0.0 when the text has none.
    pub status: EnhancedStatus,
    /// The text after the code.
    pub text: &'a str,
}

impl Resolved {
    /// What the `error` or `retry` transport would say; `None` for all other transports.
    pub fn refusal(&self) -> Option<Refusal<'_>> {
        let (permanent, status) = match &*self.transport {
            "error" => (true, EnhancedStatus::permanent(0, 0)),
            "retry" => (false, EnhancedStatus::transient(0, 0)),
            _ => return None,
        };
        let (status, text) = EnhancedStatus::split(&self.nexthop).unwrap_or((status, &self.nexthop));
        Some(Refusal { permanent, status, text })
    }

    fn bad(recipient: String) -> Self {
        Self {
            class: Class::Default,
            transport: "error".into(),
            nexthop: "5.1.3 bad address syntax".into(),
            recipient,
            routed: false,
            bad_syntax: true,
            class_by: Because::default(),
            transport_by: Because::default(),
            nexthop_by: Because::default(),
            warnings: Vec::new(),
        }
    }
}

/// A recipient whose local domains have been taken off as far as they go.
struct Stripped {
    recipient: String,
    local: bool,
}

impl Router {
    /// Resolves `recipient` (internal form) of a message from `sender` (internal form, `""` is the null reverse-path).
    ///
    /// A bad address is an answer ([`Resolved::bad_syntax`]), trouble with a table is an error: try again later.
    pub async fn resolve(&self, sender: &str, recipient: &str) -> Result<Resolved, LookupError> {
        let Stripped { mut recipient, local } = self.strip_local_domains(recipient).await?;
        let mut local = local;
        if !self.valid_domain_of(&mut recipient, &mut local).await? {
            return Ok(Resolved::bad(recipient));
        }
        // `valid_domain_of` has found a domain.
        let at = recipient.rfind('@').unwrap_or(0);
        let domain = &recipient[at + 1..];
        // What the local swap_bangpath and allow_percent_hack say does not matter: the next host may see it otherwise.
        let routed = recipient.find(['@', '!', '%']).is_some_and(|first| first != at);

        let mut resolved = self.by_class(sender, domain, local).await?;
        resolved.routed = routed;
        if resolved.transport.is_empty() {
            let parameter = resolved.transport_by.parameter;
            return Err(LookupError {
                table: parameter.into(),
                why: format!("parameter {parameter}: null transport is not allowed"),
            });
        }
        if resolved.class != Class::VirtualAlias {
            self.by_transport_maps(&mut resolved, &recipient, domain).await?;
        }
        if let Some(hit) = self.find_mapping(&self.relocated_maps, &recipient).await? {
            resolved.transport = "error".into();
            resolved.nexthop = if self.relocated_prefix {
                format!("5.1.6 User has moved to {}", hit.value)
            } else {
                hit.value.clone()
            };
            resolved.nexthop_by = Because::parameter("relocated_maps");
            resolved.transport_by = Because::entry("relocated_maps", hit);
        }
        // A command could take it for an option.
        if !self.allow_min_user && recipient.starts_with('-') {
            return Ok(Resolved { warnings: resolved.warnings, ..Resolved::bad(recipient) });
        }
        resolved.recipient = recipient;
        Ok(resolved)
    }

    /// Takes local domains off the end, opens up what routing is left in the local part, and goes on until the domain
    /// is somebody else's or none is left.
    async fn strip_local_domains(&self, recipient: &str) -> Result<Stripped, LookupError> {
        if let Some(domain) = plain_domain(recipient) {
            let local = self.local().contains(domain).await?;
            return Ok(Stripped { recipient: recipient.to_owned(), local });
        }
        let mut address = quote(recipient).into_owned();
        let mut saved_domain = None;
        // Each round takes an operator away; the limit is for what nobody has thought of.
        for _ in 0..recipient.len() + 100 {
            let mut parts = tokens(&address);
            if let Some(dot) = without_trailing_dot(&address, &parts) {
                address.truncate(dot);
                parts.pop();
            }
            if self.resolve_null_domain && parts.last().is_some_and(|t| t.kind == Kind::Operator(b'@')) {
                address.truncate(parts.last().map_or(address.len(), |t| t.at.start));
                parts.pop();
            }
            if let Some(at) = last(&parts, b'@') {
                let domain = address[at + 1..].trim();
                if !domain.is_empty() && !self.local().contains(domain).await? {
                    return Ok(Stripped { recipient: unquote(&address).into_owned(), local: false });
                }
                saved_domain = Some(address.split_off(at));
                parts = tokens(&address);
            }
            if last(&parts, b'@').is_some()
                || (self.rewriter().swap_bangpath && last(&parts, b'!').is_some())
                || (self.rewriter().percent_hack && last(&parts, b'%').is_some())
            {
                address = self.rewriter().rewrite_external(RewriteContext::Local, &address).into_owned();
                continue;
            }
            if self.resolve_dequoted
                && let [only] = &*parts
                && only.kind == Kind::Quoted
                && let Some(opened) = self.crack_open(&address)
            {
                address = self.rewriter().rewrite_external(RewriteContext::Local, &opened).into_owned();
                continue;
            }
            if parts.is_empty() || address.trim() == "\"\"" {
                address.clone_from(&self.empty_address_recipient);
            }
            break;
        }
        match saved_domain {
            Some(domain) => address.push_str(&domain),
            None => {
                address.push('@');
                address.push_str(&self.myhostname);
            }
        }
        Ok(Stripped { recipient: unquote(&address).into_owned(), local: true })
    }

    /// A quoted local part without its quotes, if it hides routing. Not what the standard says, but what keeps
    /// `"user@elsewhere"@here` from being relayed by the next host.
    fn crack_open(&self, quoted: &str) -> Option<String> {
        let mut local = unquote(quoted.trim()).into_owned();
        let percent = || local.rfind('%').filter(|_| self.rewriter().percent_hack);
        if local.contains('@') {
            return Some(quote(&local).into_owned());
        }
        if let Some(percent) = percent() {
            local.replace_range(percent..=percent, "@");
            return Some(quote(&local).into_owned());
        }
        (self.rewriter().swap_bangpath && local.contains('!')).then_some(local)
    }

    /// True when the domain of the recipient is a host name or an address literal. With `resolve_numeric_domain` an
    /// address without brackets gets them.
    async fn valid_domain_of(&self, recipient: &mut String, local: &mut bool) -> Result<bool, LookupError> {
        let Some(at) = recipient.rfind('@') else { return Ok(false) };
        let domain = &recipient[at + 1..];
        if domain.starts_with('[') {
            return Ok(valid_address_literal(domain));
        }
        if self.resolve_numeric_domain && domain.parse::<std::net::IpAddr>().is_ok() {
            let literal = if domain.contains(':') { format!("[IPv6:{domain}]") } else { format!("[{domain}]") };
            recipient.truncate(at + 1);
            recipient.push_str(&literal);
            *local = *local || self.local().contains(&literal).await?;
            return Ok(true);
        }
        Ok(if self.smtputf8 { valid_utf8_hostname(domain) } else { valid_hostname(domain) })
    }

    /// Class, and the transport and next hop that the parameters of the class give.
    async fn by_class(&self, sender: &str, domain: &str, local: bool) -> Result<Resolved, LookupError> {
        let names = self.purpose.names();
        if local {
            let by = Because::parameter(Class::Local.parameter());
            let mut resolved = new(Class::Local, by, names.local_transport, &self.local_transport, domain);
            resolved.warnings = self.twins(Class::Local, domain).await?;
            return Ok(resolved);
        }
        if let Some(element) = listed(self.virtual_alias_domains.explain(domain).await?) {
            let by = Because::element(Class::VirtualAlias.parameter(), element);
            let text = if self.show_table_name { "User unknown in virtual alias table" } else { "User unknown" };
            let mut resolved = new(Class::VirtualAlias, by, Class::VirtualAlias.parameter(), "error", "");
            resolved.nexthop = format!("5.1.1 {text}");
            resolved.warnings = self.twins(Class::VirtualAlias, domain).await?;
            return Ok(resolved);
        }
        if let Some(element) = listed(self.virtual_mailbox_domains.explain(domain).await?) {
            let by = Because::element(Class::VirtualMailbox.parameter(), element);
            let mut resolved = new(Class::VirtualMailbox, by, names.virtual_transport, &self.virtual_transport, domain);
            resolved.warnings = self.twins(Class::VirtualMailbox, domain).await?;
            return Ok(resolved);
        }
        let (nexthop, nexthop_by) = self.relayhost_for(sender, domain).await?;
        let mut resolved = if let Some(element) = listed(self.relay_domains.explain(domain).await?) {
            let by = Because::element(Class::Relay.parameter(), element);
            new(Class::Relay, by, names.relay_transport, &self.relay_transport, &nexthop)
        } else {
            self.default_class(sender, &nexthop).await?
        };
        if resolved.nexthop_by.parameter.is_empty() {
            resolved.nexthop_by = nexthop_by;
        }
        Ok(resolved)
    }

    /// `sender_dependent_default_transport_maps`, else `default_transport`.
    async fn default_class(&self, sender: &str, nexthop: &str) -> Result<Resolved, LookupError> {
        let names = self.purpose.names();
        let key = if sender.is_empty() { &self.null_sender_transport_key } else { sender };
        let maps = &self.sender_dependent_default_transport_maps;
        let by = Because::default();
        match self.find_mapping(maps, key).await? {
            Some(hit) if !hit.value.eq_ignore_ascii_case("DUNNO") => {
                let parameter = names.sender_dependent_default_transport_maps;
                let mut resolved = new(Class::Default, by, parameter, &hit.value, nexthop);
                if !resolved.nexthop_by.parameter.is_empty() {
                    resolved.nexthop_by.entry = Some(hit.clone());
                }
                resolved.transport_by.entry = Some(hit);
                Ok(resolved)
            }
            _ => Ok(new(Class::Default, by, names.default_transport, &self.default_transport, nexthop)),
        }
    }

    /// `sender_dependent_relayhost_maps`, else `relayhost`, else the domain itself.
    async fn relayhost_for<'a>(
        &'a self,
        sender: &str,
        domain: &'a str,
    ) -> Result<(Cow<'a, str>, Because), LookupError> {
        let names = self.purpose.names();
        let key = if sender.is_empty() { &self.null_sender_relayhost_key } else { sender };
        match self.find_mapping(&self.sender_dependent_relayhost_maps, key).await? {
            Some(hit) if !hit.value.eq_ignore_ascii_case("DUNNO") => {
                Ok((hit.value.clone().into(), Because::entry(names.sender_dependent_relayhost_maps, hit)))
            }
            _ if self.relayhost.is_empty() => Ok((domain.into(), Because::default())),
            _ => Ok((self.relayhost.as_str().into(), Because::parameter(names.relayhost))),
        }
    }

    /// `transport_maps`: address, address without extension, domain, parent domains, `*`.
    async fn by_transport_maps(
        &self,
        resolved: &mut Resolved,
        recipient: &str,
        domain: &str,
    ) -> Result<(), LookupError> {
        let forms = AddressForms::transport(self.mapper.delimiters(), self.transport_parents);
        let Some(hit) = self.transport_maps.find_address(recipient, &forms).await? else { return Ok(()) };
        let parameter = self.purpose.names().transport_maps;
        let (transport, nexthop) = (std::mem::take(&mut resolved.transport), std::mem::take(&mut resolved.nexthop));
        let mut way = Way { transport, nexthop: nexthop.clone() };
        way.update(&hit.value, domain);
        if way.nexthop != nexthop {
            resolved.nexthop_by = Because::entry(parameter, hit.clone());
        }
        if !hit.value.is_empty() && !hit.value.starts_with(':') {
            resolved.transport_by = Because::entry(parameter, hit);
        }
        resolved.transport = way.transport;
        resolved.nexthop = way.nexthop;
        Ok(())
    }

    /// A domain in two classes works by accident only: says so.
    async fn twins(&self, class: Class, domain: &str) -> Result<Vec<String>, LookupError> {
        let mut out = Vec::new();
        if !self.helpful_warnings {
            return Ok(out);
        }
        let others = match class {
            Class::Local => &[Class::VirtualAlias, Class::VirtualMailbox][..],
            Class::VirtualAlias => &[Class::VirtualMailbox, Class::Relay],
            Class::VirtualMailbox => &[Class::Relay],
            Class::Relay | Class::Default => &[],
        };
        for &other in others {
            let also = match other {
                Class::VirtualAlias => self.virtual_alias_domains.contains(domain).await?,
                Class::VirtualMailbox => self.virtual_mailbox_domains.contains(domain).await?,
                _ => self.relay_domains.contains(domain).await?,
            };
            if also {
                let (one, two) = (class.parameter(), other.parameter());
                out.push(format!("do not list domain {domain} in BOTH {one} and {two}"));
            }
        }
        Ok(out)
    }
}

/// The element of a list that matched, unless it is one with `!`.
fn listed(found: Option<Match>) -> Option<Match> {
    found.filter(|found| found.listed)
}

/// A way by a setting of the form `transport:nexthop`; `nexthop` where it names none.
fn new(class: Class, class_by: Because, parameter: &'static str, setting: &str, nexthop: &str) -> Resolved {
    let way = Way::from_setting(setting, nexthop);
    let explicit = way.nexthop != nexthop;
    Resolved {
        class,
        transport: way.transport,
        nexthop: way.nexthop,
        recipient: String::new(),
        routed: false,
        bad_syntax: false,
        class_by,
        transport_by: Because::parameter(parameter),
        nexthop_by: Because::parameter(if explicit { parameter } else { "" }),
        warnings: Vec::new(),
    }
}

/// The domain of an address in which nothing needs a second look: `user@host.example`, no routing in the local part.
fn plain_domain(address: &str) -> Option<&str> {
    let (local, domain) = address.split_once('@')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fine = !local.is_empty()
        && local.bytes().all(|b| plain(b) || matches!(b, b'+' | b'=' | b'/' | b'#' | b'~'))
        && !domain.is_empty()
        && !domain.ends_with('.')
        && domain.bytes().all(plain);
    fine.then_some(domain)
}

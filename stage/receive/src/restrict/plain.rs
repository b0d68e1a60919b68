//! The restrictions that ask no table of their own: names, domains, addresses that must be known, relaying (Postfix:
//! smtpd_check).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use yamabiko_address::domain;
use yamabiko_dns::Answer;
use yamabiko_route::{Class, Listing, Party, Resolved};

use super::eval::{About, Evaluation, HELO, RECIPIENT, SENDER, domain_of};
use super::rule::{Node, Rule};
use super::{Record, Said, TempfailAction};
use crate::peer::NameStatus;
use crate::settings::ErrorClasses;
use crate::verification::is_sender;

impl<'a> Evaluation<'a> {
    pub(super) async fn simple_rule(&mut self, node: &Node, about: About<'a>) -> Said {
        let codes = &self.policy.codes;
        let peer = self.facts.peer;
        let sender = self.facts.sender.filter(|s| !s.is_empty());
        let recipient = self.facts.recipient.filter(|r| !r.is_empty());
        match &node.rule {
            Rule::WarnIfReject => Said::Dunno,
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
            Rule::RejectPlaintextSession if self.facts.tls.is_some() => Said::Dunno,
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
            // A login that XCLIENT tells of counts only where logins do.
            Rule::PermitSaslAuthenticated if self.facts.sasl.is_some() && self.policy.sasl_enabled => {
                self.permit(node, about).await
            }
            Rule::PermitSaslAuthenticated => Said::Dunno,
            Rule::PermitCertificate(all) => Box::pin(self.permit_certificate(node, about, *all)).await,
            Rule::RejectLoginMismatch(rule) => Box::pin(self.login_mismatch(node, *rule)).await,
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
    pub(super) async fn unlisted(&mut self, party: Party) -> Said {
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
        let now = self.facts.now;
        let listing = match self.resolve(party).await {
            // Where probes come from is an address of ours, whatever the lists say.
            Ok(Resolved { class: Class::Local, recipient, .. })
                if is_sender(local_part(recipient), &policy.verify_sender, policy.verify_sender_ttl, now) =>
            {
                Ok(Listing::Listed)
            }
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
    pub(super) async fn authorized(&mut self) -> Result<bool, Said> {
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

    /// A restriction that newer Postfix removed works as it did, and is complained about once.
    pub(super) fn obsolete_once(&mut self, told: &AtomicBool, old: &str, new: &str) {
        if !told.swap(true, Ordering::Relaxed) {
            self.state.records.push(Record::Warning(format!(
                "support for restriction \"{old}\" will be removed from {}; use \"{new}\" instead",
                self.policy.mail_name
            )));
        }
    }

    /// Obsolete, but found at the end of many old lists.
    async fn check_relay_domains(&mut self, node: &Node, about: About<'_>) -> Said {
        self.obsolete_once(&self.policy.relay_domains_told, "check_relay_domains", "reject_unauth_destination");
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
}

enum Existence {
    Yes,
    No,
    NullMx,
    Unknown,
}

/// One dot at the end is dropped, two are left for the syntax check to find.
fn without_last_dot(name: &str) -> &str {
    match name.strip_suffix('.') {
        Some(rest) if !rest.ends_with('.') => rest,
        _ => name,
    }
}

fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

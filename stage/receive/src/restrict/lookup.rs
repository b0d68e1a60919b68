//! `check_..._access`: what is looked up, and how (Postfix: smtpd_check).

use std::net::IpAddr;

use yamabiko_lookup::{AddressForms, Hit, LookupError, Maps, ParentStyle};
use yamabiko_route::Party;

use super::access::Entry;
use super::eval::{About, CLIENT, ETRN, Evaluation, HELO, RECIPIENT, REVERSE_CLIENT, Ruled, SENDER};
use super::rule::{Node, Rule, Subject};
use super::{Matched, Record, Said};

impl<'a> Evaluation<'a> {
    /// What a subject is called in replies, and the name that it is looked up by; `None` when there is none.
    pub(super) fn subject_name(&self, subject: Subject) -> Option<(About<'a>, &'a str)> {
        let peer = self.facts.peer;
        let known = |name: &'a str| (!name.eq_ignore_ascii_case("unknown")).then_some(name);
        Some(match subject {
            Subject::Client => (About { name: &peer.name_and_address, class: CLIENT }, known(&peer.name)?),
            Subject::ReverseClient => {
                (About { name: &peer.reverse_name, class: REVERSE_CLIENT }, known(&peer.reverse_name)?)
            }
            Subject::Helo => (About { name: self.facts.helo?, class: HELO }, self.facts.helo?),
            Subject::Etrn => (About { name: self.facts.etrn?, class: ETRN }, self.facts.etrn?),
            Subject::Sender => {
                let sender = self.facts.sender.filter(|s| !s.is_empty())?;
                (About { name: sender, class: SENDER }, sender)
            }
            Subject::Recipient => {
                let recipient = self.facts.recipient.filter(|r| !r.is_empty())?;
                (About { name: recipient, class: RECIPIENT }, recipient)
            }
        })
    }

    pub(super) async fn access(&mut self, node: &Node, subject: Subject, maps: &Maps) -> Ruled<'a> {
        let policy = self.policy;
        let peer = self.facts.peer;
        let (found, about) = match subject {
            // Clients are looked up by address too, with and without a name.
            Subject::Client => {
                let about = About { name: &peer.name_and_address, class: CLIENT };
                (self.client_entry(maps, &peer.name).await, about)
            }
            Subject::ReverseClient => {
                let about = About { name: &peer.reverse_name, class: REVERSE_CLIENT };
                (self.client_entry(maps, &peer.reverse_name).await, about)
            }
            Subject::Sender if self.facts.sender == Some("") => {
                (maps.find_hit(&policy.null_key).await, About { name: "", class: SENDER })
            }
            _ => {
                let Some((about, name)) = self.subject_name(subject) else { return Said::Dunno.into() };
                let found = match subject {
                    Subject::Sender => self.address_entry(Party::Sender, maps).await,
                    Subject::Recipient => self.address_entry(Party::Recipient, maps).await,
                    _ => maps.find_domain(name, policy.parents).await,
                };
                (found, about)
            }
        };
        match found {
            Ok(None) => Said::Dunno.into(),
            Err(error) => self.access_failed(about, &error).into(),
            Ok(Some(hit)) => self.obey(node, hit, about),
        }
    }

    /// Does what a table entry says.
    pub(super) fn obey(&mut self, node: &Node, hit: Hit, about: About<'a>) -> Ruled<'a> {
        let entry = Entry { table: hit.table.name(), key: &hit.key, value: &hit.value };
        let steps = self.state.steps.len();
        match self.act(node, entry, about) {
            Ruled::Said(said) => {
                self.step(node, Some(Matched::Entry(hit)), said, steps);
                self.settle(node, about, said).into()
            }
            Ruled::List { list, about, .. } => Ruled::List { list, about, matched: Some(Matched::Entry(hit)) },
        }
    }

    /// Does what a policy server says.
    pub(super) fn obey_text(&mut self, node: &Node, server: &str, action: &str, about: About<'a>) -> Ruled<'a> {
        let entry = Entry { table: server, key: "policy query", value: action };
        let matched = Some(Matched::Answer(format!("{server} answered {action}")));
        let steps = self.state.steps.len();
        match self.act(node, entry, about) {
            Ruled::Said(said) => {
                self.step(node, matched, said, steps);
                said.into()
            }
            Ruled::List { list, about, .. } => Ruled::List { list, about, matched },
        }
    }

    /// Whether an entry may permit. A source route makes the destination uncertain: an entry for a recipient does not
    /// permit then. Whoever owns a domain decides about its servers, and about names of addresses: such entries never
    /// permit (Postfix: `forbid_allowlist`).
    pub(super) fn settle(&mut self, node: &Node, about: About<'_>, said: Said) -> Said {
        if said != Said::Permit {
            return said;
        }
        match &node.rule {
            Rule::Access(Subject::Recipient, _) => {
                let routed = self.resolved_recipient.as_ref().is_some_and(|resolved| resolved.routed);
                if routed && !self.policy.allow_untrusted_routing { Said::Dunno } else { said }
            }
            Rule::Access(Subject::ReverseClient, _) | Rule::ServerAccess(..) if !self.state.effects.discard => {
                let restriction = node.element.split_whitespace().next().unwrap_or_default();
                let name = if about.class == CLIENT { &self.facts.peer.name } else { about.name };
                for warning in [
                    format!("restriction {restriction} returns OK for {name}"),
                    "this is not allowed for security reasons".to_owned(),
                ] {
                    self.state.records.push(Record::Warning(warning));
                }
                self.server_error("use DUNNO instead of OK if you want to make an exception".to_owned())
            }
            _ => said,
        }
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

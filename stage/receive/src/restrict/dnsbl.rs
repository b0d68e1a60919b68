//! Lists in DNS: `reject_rbl_client` and its kin, `permit_dnswl_client`, and the reply they give (RFC 5782; Postfix:
//! smtpd_check, ip_match, smtpd_expand).
//!
//! * [`DnsList`] is a list with the answers that count (`example.org=127.0.0.[2;4..9]`). Lists of one domain share a
//!   [`Guard`], which keeps one that is dead or mad from deciding about mail.
//! * [`DnsLists`] opens them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use yamabiko_address::domain;
use yamabiko_config::expand;
use yamabiko_dns::{Answer, RecordType, error_text};
use yamabiko_status::EnhancedStatus;

use super::eval::{About, CLIENT, Evaluation, HELO, RECIPIENT, REVERSE_CLIENT, SENDER};
use super::guard::{Guard, Nonsense, judge};
use super::rule::{Listed, Node, Subject};
use super::{Matched, Record, Said};
use crate::settings::ErrorClasses;

/// Domains that are watched at most; only what administrators write gets here.
const MOST_GUARDS: usize = 1000;
/// Bytes of a list's text that are told to clients.
const MOST_TEXT: usize = 500;

/// The lists that a configuration names.
#[derive(Default)]
pub(crate) struct DnsLists {
    guards: Mutex<HashMap<String, Arc<Guard>>>,
}

/// One list, as it is written in a restriction.
pub(crate) struct DnsList {
    /// As written, with the answers that count.
    text: String,
    domain: String,
    answers: Option<Answers>,
    /// What is never listed there.
    never: String,
    guard: Arc<Guard>,
}

impl DnsLists {
    /// `domain` or `domain=d.d.d.d`. `addresses`: it lists addresses, not names.
    pub(crate) fn open(&self, text: &str, addresses: bool) -> Result<Arc<DnsList>, String> {
        let (name, answers) = match text.split_once('=') {
            Some((name, pattern)) => (name, Some(Answers::parse(pattern)?)),
            None => (text, None),
        };
        let ascii = domain::to_ascii(name.strip_suffix('.').unwrap_or(name)).unwrap_or_default().to_lowercase();
        if !domain::valid_hostname(&ascii) {
            return Err(format!("bad domain name \"{name}\""));
        }
        let never = format!("{}.{ascii}", if addresses { "1.0.0.127" } else { "invalid" });
        // Poisoned by a panic elsewhere: what is in it is whole all the same.
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        if guards.len() >= MOST_GUARDS && !guards.contains_key(&never) {
            guards.clear();
        }
        let guard = guards.entry(never.clone()).or_insert_with(|| Arc::new(Guard::new(&ascii)));
        Ok(Arc::new(DnsList { text: text.to_owned(), domain: ascii, answers, never, guard: Arc::clone(guard) }))
    }
}

impl DnsList {
    /// The address says "listed" here.
    fn counts(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() && self.answers.as_ref().is_none_or(|answers| answers.contain(address))
    }
}

/// Which answers of a list in DNS count (`example.org=127.0.0.[2;4..9]`): one set of numbers for each of the four.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers([[u64; 4]; 4]);

impl Answers {
    /// `127.0.0.[2;4..9]`
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("bad answer pattern \"{pattern}\": {why}");
        let mut sets = [[0u64; 4]; 4];
        let mut rest = pattern;
        for (at, set) in sets.iter_mut().enumerate() {
            let octet;
            if let Some(inside) = rest.strip_prefix('[') {
                let (list, after) = inside.split_once(']').ok_or_else(|| bad("missing ]"))?;
                (octet, rest) = (list, after);
            } else {
                let end = rest.find('.').unwrap_or(rest.len());
                (octet, rest) = rest.split_at(end);
            }
            for item in octet.split(';') {
                let (low, high) = item.split_once("..").unwrap_or((item, item));
                let number = |text: &str| {
                    let digits = !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit());
                    text.parse::<u8>().ok().filter(|_| digits).ok_or_else(|| bad("a number from 0 to 255 is wanted"))
                };
                let (low, high) = (number(low)?, number(high)?);
                if low > high {
                    return Err(bad("a range must go up"));
                }
                for n in low..=high {
                    // Four words of 64 bits hold 256.
                    set[usize::from(n) / 64] |= 1 << (n % 64);
                }
            }
            rest = match (at, rest.strip_prefix('.')) {
                (3, _) if rest.is_empty() => rest,
                (0..3, Some(rest)) => rest,
                _ => return Err(bad("four numbers with dots between are wanted")),
            };
        }
        Ok(Self(sets))
    }

    /// The address is one of them.
    pub fn contain(&self, address: Ipv4Addr) -> bool {
        self.0.iter().zip(address.octets()).all(|(set, n)| set[usize::from(n) / 64] & (1 << (n % 64)) != 0)
    }
}

/// The name under which a list has an address.
pub(crate) fn reversed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    }
}

/// What a list says.
enum Found {
    Listed(Listing),
    Not,
    /// It does not answer now.
    Unknown,
}

pub(super) struct Listing {
    query: String,
    address: Ipv4Addr,
}

impl<'a> Evaluation<'a> {
    /// Asks a list about a name in its own terms.
    async fn ask_list(&mut self, list: &DnsList, subject: &str) -> Found {
        let now = self.facts.now;
        if !list.guard.may_ask(now) {
            return Found::Not;
        }
        let query = format!("{subject}.{}", list.domain);
        if let Some((_, answer)) = self.state.lists_asked.iter().find(|(asked, _)| *asked == query) {
            // Each recipient asks again: once in a session is enough, above all for a list that does not answer.
            let counts = |a: &&Ipv4Addr| list.counts(**a);
            return match answer {
                None => Found::Unknown,
                Some(addresses) => match addresses.iter().find(counts).copied() {
                    Some(address) => Found::Listed(Listing { query, address }),
                    None => Found::Not,
                },
            };
        }
        let answer = self.resolver.a(&query).await;
        let records = match &answer {
            Answer::Found { records, .. } => records,
            Answer::NotFound | Answer::NoData => {
                self.inform(list.guard.answered());
                self.state.list_asked(query, Some(Vec::new()));
                return Found::Not;
            }
            Answer::TryAgain(why) | Answer::Fail(why) => {
                // What a filter of ours took away is not the list's fault.
                let judged = (why != yamabiko_dns::ALL_DROPPED).then(|| list.guard.failed(why, now)).flatten();
                let line = match judged {
                    Some(line) => line,
                    None if why == yamabiko_dns::ALL_DROPPED => Some(format!("{query}: RBL lookup error: {why}")),
                    None => Some(format!("{query}: RBL lookup error: {}", error_text(&query, RecordType::A, &answer))),
                };
                self.inform(line);
                self.state.list_asked(query, None);
                return Found::Unknown;
            }
        };
        if let Err(nonsense) = judge(records) {
            self.inform(list.guard.nonsense(nonsense, &query, now));
            return Found::Not;
        }
        let Some(address) = records.iter().find(|a| list.counts(**a)).copied() else {
            self.inform(list.guard.answered());
            self.state.list_asked(query, Some(records.clone()));
            return Found::Not;
        };
        if list.guard.wants_test(now) {
            match self.resolver.a(&list.never).await {
                Answer::Found { .. } => {
                    self.inform(list.guard.nonsense(Nonsense::ListsAll, &list.never, now));
                    return Found::Not;
                }
                Answer::NotFound | Answer::NoData => list.guard.passed(true, now),
                Answer::TryAgain(_) | Answer::Fail(_) => list.guard.passed(false, now),
            }
        }
        self.inform(list.guard.answered());
        self.state.list_asked(query.clone(), Some(records.clone()));
        Found::Listed(Listing { query, address })
    }

    fn inform(&mut self, line: Option<String>) {
        self.state.records.extend(line.map(Record::Warning));
    }

    /// What a restriction asks about: as it is shown, and as the list has it.
    fn listed_subject(&self, listed: Listed) -> Option<(About<'a>, String)> {
        let peer = self.facts.peer;
        let name = |class: &'static str, shown: &'a str| {
            let domain = shown.rsplit_once('@').map_or(shown, |(_, domain)| domain);
            let ascii = domain::to_ascii(domain.strip_suffix('.').unwrap_or(domain))?;
            let known = !ascii.eq_ignore_ascii_case("unknown") || matches!(class, SENDER | RECIPIENT | HELO);
            (known && domain::valid_hostname(&ascii)).then_some((About { name: shown, class }, ascii.into_owned()))
        };
        match listed {
            Listed::Address => {
                // Shown as an address, without the name.
                let address = peer.address?;
                Some((About { name: &peer.name_and_address, class: CLIENT }, reversed(address)))
            }
            Listed::Name(Subject::Client) => name(CLIENT, &peer.name),
            Listed::Name(Subject::ReverseClient) => name(REVERSE_CLIENT, &peer.reverse_name),
            Listed::Name(Subject::Helo) => name(HELO, self.facts.helo?),
            Listed::Name(Subject::Sender) => name(SENDER, self.facts.sender.filter(|s| !s.is_empty())?),
            Listed::Name(Subject::Recipient) => name(RECIPIENT, self.facts.recipient.filter(|r| !r.is_empty())?),
            Listed::Name(Subject::Etrn) => None,
        }
    }

    /// `reject_rbl_client`, `reject_rhsbl_...`
    pub(super) async fn reject_listed(&mut self, node: &Node, listed: Listed, list: &DnsList) -> Said {
        let Some((about, subject)) = self.listed_subject(listed) else { return Said::Dunno };
        match self.ask_list(list, &subject).await {
            Found::Listed(listing) => {
                let steps = self.state.steps.len();
                let said = self.listed_reply(listed, list, about, &listing).await;
                let text = format!("{} has {}", listing.query, listing.address);
                self.step(node, Some(Matched::Answer(text)), said, steps);
                said
            }
            Found::Not | Found::Unknown => Said::Dunno,
        }
    }

    /// `reject_maps_rbl`, which Postfix 3.9 removed: `reject_rbl_client` with each list of `maps_rbl_domains`.
    pub(super) async fn maps_rbl(&mut self, node: &Node, lists: &[Arc<DnsList>]) -> Said {
        self.obsolete_once(&self.policy.maps_rbl_told, "reject_maps_rbl", "reject_rbl_client domain-name");
        for list in lists {
            let said = self.reject_listed(node, Listed::Address, list).await;
            if said != Said::Dunno {
                return said;
            }
        }
        Said::Dunno
    }

    /// `permit_dnswl_client`, `permit_rhswl_client`. Never makes a relay of us.
    pub(super) async fn permit_listed(
        &mut self,
        node: &Node,
        listed: Listed,
        list: &DnsList,
        about: About<'_>,
    ) -> Said {
        if self.facts.stage == "RCPT" && self.facts.recipient.is_some() {
            match self.authorized().await {
                Ok(true) => {}
                Ok(false) => return Said::Dunno,
                Err(said) => return said,
            }
        }
        let Some((shown, subject)) = self.listed_subject(listed) else { return Said::Dunno };
        match self.ask_list(list, &subject).await {
            Found::Listed(listing) => {
                let steps = self.state.steps.len();
                let said = self.permit(node, about).await;
                let text = format!("{} has {}", listing.query, listing.address);
                self.step(node, Some(Matched::Answer(text)), said, steps);
                said
            }
            Found::Not => Said::Dunno,
            Found::Unknown => {
                let address = self.facts.peer.address_text();
                let name = if listed == Listed::Address { &address } else { shown.name };
                self.defer_if(false, 450, "4.7.1", About { name, class: CLIENT }, "Service unavailable");
                Said::Dunno
            }
        }
    }

    /// The reply of the list's template, or of the default one.
    async fn listed_reply(&mut self, listed: Listed, list: &DnsList, about: About<'a>, listing: &Listing) -> Said {
        let policy = self.policy;
        let mut template = None;
        if !policy.rbl_reply_maps.is_empty() {
            for key in [&list.text, &list.domain] {
                match policy.rbl_reply_maps.find(key).await {
                    Ok(Some(found)) => template = Some(found),
                    Ok(None) => continue,
                    Err(error) => return self.server_error(error.to_string()),
                }
                break;
            }
        }
        let reason = self.list_text(&listing.query).await;
        let address = self.facts.peer.address_text();
        let what = if listed == Listed::Address { address.as_str() } else { about.name };
        let mut from_template = None;
        if let Some(template) = &template {
            let unknown = RefCell::new(None);
            let lookup = |name: &str| {
                let value = self.template_value(name, list, &reason, what, about.class);
                if value.is_none() {
                    unknown.borrow_mut().get_or_insert_with(|| name.to_owned());
                }
                value.or_else(|| Some(String::new()))
            };
            let expanded = expand::expand(template, &lookup);
            let unknown = unknown.into_inner();
            match (expanded, &unknown) {
                (Ok(text), None) => from_template = Some(text),
                _ => {
                    let text = format!("rbl_reject_reply: bad rbl reply template for domain {}: {template}", list.text);
                    let unknown = unknown.map(|name| format!("unknown macro name \"{name}\" in expansion request"));
                    self.state.records.extend(unknown.into_iter().chain([text]).map(Record::Warning));
                }
            }
        }
        let expanded = from_template.unwrap_or_else(|| self.default_reply(list, &reason, what, about.class));
        let code = expanded
            .get(..3)
            .filter(|code| matches!(code.as_bytes(), [b'4' | b'5', b, c] if b.is_ascii_digit() && c.is_ascii_digit()));
        let separated = expanded.as_bytes().get(3).is_none_or(|b| *b == b' ');
        let (Some(code), true) = (code.and_then(|code| code.parse().ok()), separated) else {
            let text = format!("rbl response code configuration error: {expanded}");
            self.state.records.push(Record::Warning(text));
            return self.reject(ErrorClasses::POLICY, 450, "4.7.1", "Service unavailable");
        };
        let text = expanded.get(4..).unwrap_or_default().trim_start();
        let (status, text) = EnhancedStatus::split(text)
            .map_or_else(|| ("4.7.1".to_owned(), text), |(status, text)| (status.to_string(), text));
        let text = if text.is_empty() { "Service unavailable" } else { text };
        self.reject(ErrorClasses::POLICY, code, &status, text)
    }

    fn default_reply(&self, list: &DnsList, reason: &str, what: &str, class: &str) -> String {
        let policy = self.policy;
        let lookup = |name: &str| self.template_value(name, list, reason, what, class).or_else(|| Some(String::new()));
        expand::expand(&policy.default_rbl_reply, &lookup)
            .unwrap_or_else(|_| format!("{} Service unavailable", policy.codes.maps_rbl))
    }

    /// The TXT records of what is listed, joined as Postfix does.
    async fn list_text(&self, query: &str) -> String {
        let mut text = self.resolver.txt(query).await.records().join(" / ");
        text.retain(|c| !c.is_control());
        yamabiko_smtp::reply::truncate(&mut text, MOST_TEXT);
        text
    }

    /// What `$name` stands for in a template; `None` for a name that means nothing.
    fn template_value(&self, name: &str, list: &DnsList, reason: &str, what: &str, class: &str) -> Option<String> {
        let facts = self.facts;
        let peer = facts.peer;
        let part = |address: Option<&str>, part: &str| match (address, part) {
            (None, _) => String::new(),
            (Some(""), "_domain") => String::new(),
            (Some(""), _) => "<>".to_owned(),
            (Some(address), "_name") => address.rsplit_once('@').map_or(address, |(local, _)| local).to_owned(),
            (Some(address), "_domain") => address.rsplit_once('@').map_or("", |(_, domain)| domain).to_owned(),
            (Some(address), _) => address.to_owned(),
        };
        let text = match name {
            "rbl_code" => self.policy.codes.maps_rbl.to_string(),
            "rbl_domain" => list.text.split('=').next().unwrap_or_default().to_owned(),
            "rbl_reason" | "rbl_txt" => reason.to_owned(),
            "rbl_what" => what.to_owned(),
            "rbl_class" => class.to_owned(),
            "client" => peer.name_and_address.to_string(),
            "client_name" => peer.name.to_string(),
            "client_address" => peer.address_text(),
            "client_port" => peer.port.to_string(),
            "reverse_client_name" => peer.reverse_name.to_string(),
            "helo_name" => facts.helo.unwrap_or_default().to_owned(),
            "sender" | "sender_name" | "sender_domain" => part(facts.sender, &name["sender".len()..]),
            "recipient" | "recipient_name" | "recipient_domain" => part(facts.recipient, &name["recipient".len()..]),
            "myhostname" | "server_name" => self.policy.myhostname.clone(),
            "mail_name" => self.policy.mail_name.clone(),
            _ => return None,
        };
        let filter = &self.policy.expansion_filter;
        let fine = text.chars().map(|c| if filter.contains(c) { c } else { '_' });
        // What a client or a list put in is not expanded again.
        Some(fine.collect::<String>().replace('$', "$$"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_count() {
        for (pattern, inside, outside) in [
            ("127.0.0.2", vec!["127.0.0.2"], vec!["127.0.0.3", "127.0.1.2"]),
            ("127.0.0.[2;4..9]", vec!["127.0.0.2", "127.0.0.4", "127.0.0.9"], vec!["127.0.0.3", "127.0.0.10"]),
            ("127.[0..2].[0;5].[0..255]", vec!["127.2.5.77"], vec!["127.3.5.77", "127.1.1.1"]),
        ] {
            let answers = Answers::parse(pattern).unwrap();
            for address in inside {
                assert!(answers.contain(address.parse().unwrap()), "{pattern} {address}");
            }
            for address in outside {
                assert!(!answers.contain(address.parse().unwrap()), "{pattern} {address}");
            }
        }
        for bad in [
            "",
            "127",
            "127.0.0",
            "127.0.0.",
            "127.0.0.2.3",
            "127.0.0.256",
            "127.0.0.[",
            "127.0.0.[]",
            "127.0.0.[4..2]",
            "127.0.0.[2",
            "127.0.0.2]",
            "a.b.c.d",
            "127.0.0.[2;]",
            "127.0.0.+2",
            "127.0.0.[2]x",
            "127.0.0.0002",
        ] {
            assert!(Answers::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_addresses() {
        assert_eq!(reversed("198.51.100.8".parse().unwrap()), "8.100.51.198");
        assert_eq!(
            reversed("2001:db8::1".parse().unwrap()),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
        );
    }

    #[test]
    fn lists_of_one_domain_share_their_guard() {
        let lists = DnsLists::default();
        let (a, b) = (lists.open("rbl.test", true).unwrap(), lists.open("RBL.test.=127.0.0.2", true).unwrap());
        assert!(Arc::ptr_eq(&a.guard, &b.guard));
        assert!(!Arc::ptr_eq(&a.guard, &lists.open("rbl.test", false).unwrap().guard));
        assert!(lists.open("rbl test", true).is_err() && lists.open("rbl.test=1.2", true).is_err());
    }
}

//! What holds for one server: how much TLS (`smtp_tls_policy_maps`, `smtp_tls_per_site`, `smtp_tls_security_level`) and
//! which login (`smtp_sasl_password_maps`).
//!
//! [`Policy`] is the tables and settings of a service. [`Policy::site`] says what holds for a destination, and
//! [`Policy::terms`] for one host of it: [`Terms`] stay with the connection as long as it lives. A connection is used for
//! other mail only under the same terms.
//!
//! A policy that cannot be read or obeyed defers mail; it never makes a connection weaker.

mod terms;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use yamabiko_address::domain;
use yamabiko_config::View;
use yamabiko_dns::{Answer, RecordType, Resolver};
use yamabiko_lookup::{AddressForms, Locality, LookupError, Maps, TableSet};
use yamabiko_sasl::client::Login;
use yamabiko_status::EnhancedStatus;
use yamabiko_tls::{Anchors, Client, ClientLevel, ClientOptions, Disk, Fault, Files, Proof, Tlsa};

use crate::nexthop::Destination;
use crate::secure::Memory;
use crate::settings::Protocol;
use crate::sts::{Fetching, Finding, Known, Mode};
use crate::tlsrpt::{self, Applied, Failed};

pub use terms::{Terms, Wish};

/// A status and a reason for which mail waits.
pub(crate) type Refusal = (EnhancedStatus, String);

/// How a server's name is to be matched (`smtp_tls_secure_cert_match`).
#[derive(Clone, Debug, Default)]
struct Lists {
    protocols: (String, Vec<String>),
    mandatory_protocols: (String, Vec<String>),
    exclude: Vec<String>,
    mandatory_exclude: Vec<String>,
    verify_match: Vec<String>,
    secure_match: Vec<String>,
    fingerprints: Vec<String>,
}

/// What a service of master.cf has for TLS.
#[derive(Default)]
pub struct Tls {
    level: ClientLevel,
    /// `smtp_tls_security_level` is a word that nobody knows.
    bad_level: Option<String>,
    lists: Arc<Lists>,
    servername: String,
    anchors: Option<Anchors>,
    /// `smtp_tls_policy_maps`
    maps: Option<Maps>,
    /// `smtp_tls_per_site`
    per_site: Option<Maps>,
    /// `smtp_tls_loglevel_maps`
    log_maps: Option<Maps>,
    /// `smtp_tls_connection_reuse`
    reuse: bool,
    dane: DaneSettings,
    /// `smtp_tls_mta_sts`: how policies are fetched.
    sts: Option<Fetching>,
    /// `smtp_tls_enforce_sts_mx_patterns`
    enforce_patterns: bool,
    /// `smtp_tlsrpt_enable`
    reports: bool,
    /// What outlives configurations: policies of MTA-STS, counts for reports.
    memory: Option<Arc<Memory>>,
    /// Does handshakes. `None` when TLS is not wanted anywhere, or not available.
    client: Option<Arc<Client>>,
}

/// What is set for levels `dane` and `dane-only`.
#[derive(Default)]
struct DaneSettings {
    /// Why TLSA records cannot be looked up.
    impossible: Option<&'static str>,
    /// `smtp_tls_dane_insecure_mx_policy`: what holds for hosts whose names did not come authentically.
    insecure_mx: ClientLevel,
    /// `smtp_tls_force_insecure_host_tlsa_lookup`
    force: bool,
    /// `tls_dane_digests`
    digests: Vec<String>,
    /// `dnssec_probe`: a question whose answer is authentic everywhere, until it was asked.
    probe: Mutex<Option<(RecordType, String)>>,
}

/// What a service of master.cf has for logins.
#[derive(Default)]
pub struct Logins {
    /// `smtp_sasl_password_maps`; `None` when `smtp_sasl_auth_enable` is off.
    pub passwords: Option<Maps>,
    /// `smtp_sender_dependent_authentication`, `lmtp_`
    pub sender_dependent: bool,
    /// `recipient_delimiter`, for addresses that are looked up.
    pub delimiter: String,
    /// `smtp_sasl_password_result_delimiter`; NUL for a colon.
    pub separator: char,
    /// `smtp_sasl_auth_cache_time`, where refusals are remembered (`smtp_sasl_auth_cache_name`).
    pub remember: Option<Duration>,
    pub(crate) refusals: Mutex<HashMap<(String, String), Refused>>,
}

/// A login that was refused.
pub(crate) struct Refused {
    until: Instant,
    password: String,
    status: EnhancedStatus,
    reply: String,
}

/// Refusals that are remembered.
const MOST_REFUSALS: usize = 10_000;

/// Tables and settings that decide about TLS and logins.
#[derive(Default)]
pub struct Policy {
    /// For TLS.
    pub tls: Tls,
    /// For logins.
    pub logins: Logins,
}

/// What holds for a destination, whichever of its hosts is talked to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    level: ClientLevel,
    lists: Arc<Lists>,
    patterns: Vec<String>,
    anchors: Option<Anchors>,
    servername: String,
    reuse: bool,
    destination: String,
    nexthop: String,
    /// Its own policy was found in `smtp_tls_policy_maps`.
    found: bool,
    /// Its addresses are wanted, not its mail exchangers.
    bracketed: bool,
    /// Its MTA-STS policy.
    sts: Option<Arc<Known>>,
    /// The policy as whoever filled the policy table knows it (Postfix 3.10), for reports.
    given: Applied,
    /// The domain that reports are about; empty when none are made.
    reported: String,
}

fn trouble(error: &LookupError, notes: &mut Vec<String>) -> Refusal {
    notes.push(error.to_string());
    (EnhancedStatus::transient(3, 0), "Temporary lookup error".to_owned())
}

fn misconfigured() -> Refusal {
    (EnhancedStatus::transient(7, 5), "client TLS configuration problem".to_owned())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty())
}

impl Tls {
    /// Reads the settings; `notices` gets what is set and cannot be obeyed. Keys come from `files`.
    pub fn read(
        view: &View,
        protocol: Protocol,
        tables: &TableSet,
        files: &dyn Files,
        notices: &mut Vec<String>,
    ) -> Self {
        let prefix = match protocol {
            Protocol::Smtp => "smtp_",
            Protocol::Lmtp => "lmtp_",
        };
        let name = |suffix: &str| format!("{prefix}tls_{suffix}");
        let text = |suffix: &str| view.text(&name(suffix)).trim().to_owned();
        let list = |suffix: &str| view.list(&name(suffix));
        let named = |suffix: &str| (name(suffix), list(suffix));
        let colons =
            |suffix: &str| list(suffix).iter().flat_map(|word| word.split(':')).map(str::to_owned).collect::<Vec<_>>();
        let maps = |suffix: &str| {
            let maps = Maps::open(tables, &name(suffix), &view.text(&name(suffix)));
            (!maps.is_empty()).then_some(maps)
        };
        let (level, bad_level) = level(view, prefix, &text("security_level"));
        let anchors = match text("trust_anchor_file").as_str() {
            "" => None,
            path => match Client::anchors(path, files) {
                Ok(anchors) => Some(anchors),
                Err(Fault(why)) => {
                    notices.push(format!("{}: {why}", name("trust_anchor_file")));
                    None
                }
            },
        };
        let mut tls = Self {
            level,
            bad_level,
            lists: Arc::new(Lists {
                protocols: named("protocols"),
                mandatory_protocols: named("mandatory_protocols"),
                exclude: list("exclude_ciphers"),
                mandatory_exclude: list("mandatory_exclude_ciphers"),
                verify_match: colons("verify_cert_match"),
                secure_match: colons("secure_cert_match"),
                fingerprints: list("fingerprint_cert_match"),
            }),
            servername: text("servername"),
            anchors,
            maps: maps("policy_maps"),
            per_site: maps("per_site"),
            log_maps: maps("loglevel_maps"),
            reuse: view.bool(&name("connection_reuse")),
            dane: DaneSettings::read(view, prefix),
            sts: None,
            enforce_patterns: view.bool(&name("enforce_sts_mx_patterns")),
            reports: view.bool(&format!("{prefix}tlsrpt_enable")),
            memory: None,
            client: None,
        };
        if protocol == Protocol::Smtp && view.bool("smtp_tls_mta_sts") {
            tls.sts = fetching(view, files, notices);
        }
        if tls.is_wanted() {
            match Client::new(ClientOptions::read(view, prefix), files) {
                Ok(client) => {
                    notices.extend(client.notices().iter().cloned());
                    tls.client = Some(Arc::new(client));
                }
                Err(Fault(why)) => notices.push(why),
            }
        }
        tls
    }

    fn is_wanted(&self) -> bool {
        self.level > ClientLevel::None || self.maps.is_some() || self.per_site.is_some() || self.sts.is_some()
    }

    /// What holds for a destination. `notes` gets lines for the log.
    async fn site(
        &self,
        destination: &Destination,
        dns: &dyn Resolver,
        notes: &mut Vec<String>,
    ) -> Result<Site, Refusal> {
        if let Some(word) = &self.bad_level {
            notes.push(format!("invalid tls security level: \"{word}\""));
            return Err(misconfigured());
        }
        let mut site = Site {
            level: self.level,
            lists: Arc::clone(&self.lists),
            anchors: self.anchors.clone(),
            servername: self.servername.clone(),
            reuse: self.reuse,
            destination: destination.text.clone(),
            nexthop: destination.host.clone(),
            bracketed: destination.bracketed,
            ..Site::default()
        };
        if let Some(maps) = &self.maps {
            let mut name = destination.text.as_str();
            // Only domains have parents; `[host]` and `domain:port` are looked up as they are.
            let has_parents = !destination.bracketed && domain::valid_hostname(name);
            loop {
                if let Some(value) = maps.find(name).await.map_err(|error| trouble(&error, notes))? {
                    let title = format!("{}, next-hop destination \"{name}\"", maps.title());
                    site.take(&value, &title, notes)?;
                    break;
                }
                match name.get(1..).and_then(|tail| tail.find('.')) {
                    // One past the first byte, so within the name; the dot is of the key.
                    Some(dot) if has_parents => name = &name[dot + 1..],
                    _ => break,
                }
            }
        }
        if self.reports && !site.bracketed && destination.port != 0 {
            site.reported = match site.given.domain.as_str() {
                "" => domain::to_ascii(&site.nexthop).map(|name| name.to_ascii_lowercase()).unwrap_or_default(),
                given => given.to_ascii_lowercase(),
            };
        }
        self.strict_transport(&mut site, destination, dns, notes).await;
        Ok(site)
    }

    /// The MTA-STS policy of a destination, where one is looked for: the table and stronger levels come first.
    async fn strict_transport(
        &self,
        site: &mut Site,
        destination: &Destination,
        dns: &dyn Resolver,
        notes: &mut Vec<String>,
    ) {
        let (Some(how), Some(memory)) = (&self.sts, &self.memory) else { return };
        let ours =
            matches!(site.level, ClientLevel::None | ClientLevel::May | ClientLevel::Encrypt | ClientLevel::Dane);
        if site.found || site.bracketed || !ours {
            return;
        }
        let Some(name) = domain::to_ascii(&destination.host).map(|name| name.to_ascii_lowercase()) else { return };
        if !domain::valid_hostname(&name) {
            return;
        }
        let Finding { known, failure, fresh } = memory.sts.find(&name, dns, how, crate::secure::now()).await;
        let failed = failure.is_some();
        if let Some(failure) = failure {
            if fresh {
                notes.push(format!("MTA-STS policy of {name}: {}", failure.why));
            }
            let applied = Applied { kind: "sts".to_owned(), domain: name.clone(), ..Applied::default() };
            self.count(
                site,
                applied,
                Failed { kind: failure.kind.to_owned(), reason: failure.why, ..Failed::default() },
            );
        }
        if let Some(known) = &known
            && fresh
            && !failed
        {
            let (mode, age) = (known.policy.mode.word(), known.policy.max_age);
            notes.push(format!("info: MTA-STS policy of {name} fetched: mode={mode}, id={}, max_age={age}", known.id));
        }
        site.sts = known.filter(|known| known.policy.mode != Mode::None);
    }

    /// Counts what failed before there was a session.
    fn count(&self, site: &Site, policy: Applied, failed: Failed) {
        if let Some(memory) = &self.memory
            && !site.reported.is_empty()
        {
            let session = tlsrpt::Session { domain: site.reported.clone(), policy, failure: Some(failed) };
            memory.reports.count(session, crate::secure::now());
        }
    }

    /// `smtp_tls_per_site`, which only counts without policy maps. Postfix's `tls_site_lookup`.
    async fn per_site(&self, site: &Site, host: &str, notes: &mut Vec<String>) -> Result<ClientLevel, Refusal> {
        let Some(maps) = self.per_site.as_ref().filter(|_| self.maps.is_none()) else { return Ok(site.level) };
        let mut level: Option<ClientLevel> = None;
        let names = [("next-hop destination", site.destination.as_str()), ("server hostname", host)];
        for (at, (what, name)) in names.into_iter().enumerate() {
            if at == 1 && name.eq_ignore_ascii_case(&site.destination) {
                continue;
            }
            let Some(word) = maps.find(name).await.map_err(|error| trouble(&error, notes))? else { continue };
            level = match (word.trim().to_ascii_uppercase().as_str(), level) {
                ("NONE", None | Some(ClientLevel::None | ClientLevel::May)) => Some(ClientLevel::None),
                ("MAY", None) => Some(ClientLevel::May),
                ("MUST_NOPEERMATCH", before) => before.max(Some(ClientLevel::Encrypt)),
                ("MUST", before) => before.max(Some(ClientLevel::Verify)),
                ("NONE" | "MAY", before) => before,
                (other, _) => {
                    notes.push(format!("{}: unknown TLS policy '{other}' for {what} {name}", maps.title()));
                    return Err(misconfigured());
                }
            };
        }
        // A table can make things stronger or switch them off; a mere "may" gives way to what holds for all.
        Ok(match level {
            None => site.level,
            Some(ClientLevel::May) if site.level > ClientLevel::May => site.level,
            Some(level) => level,
        })
    }
}

/// How policies are fetched and reports are posted, by the settings of smtp(8). `None`: the settings cannot be used, which
/// `notices` says.
pub fn fetching(view: &View, files: &dyn Files, notices: &mut Vec<String>) -> Option<Fetching> {
    let client = match Client::new(ClientOptions::read(view, "smtp_").for_the_web(), files) {
        Ok(client) => Arc::new(client),
        Err(Fault(why)) => {
            notices.push(format!("smtp_tls_mta_sts: {why}"));
            return None;
        }
    };
    let port = u16::try_from(view.int("smtp_tls_mta_sts_port")).unwrap_or(443);
    Some(Fetching { client, port, limit: view.duration("smtp_tls_mta_sts_timeout") })
}

fn level(view: &View, prefix: &str, word: &str) -> (ClientLevel, Option<String>) {
    let flag = |suffix: &str| view.bool(&format!("{prefix}{suffix}"));
    match ClientLevel::parse(word) {
        Some(level) => (level, None),
        None if !word.is_empty() => (ClientLevel::Secure, Some(word.to_owned())),
        None if flag("enforce_tls") && flag("tls_enforce_peername") => (ClientLevel::Verify, None),
        None if flag("enforce_tls") => (ClientLevel::Encrypt, None),
        None if flag("use_tls") => (ClientLevel::May, None),
        None => (ClientLevel::None, None),
    }
}

impl Site {
    /// Its own policy was found in the table.
    pub(crate) fn is_from_table(&self) -> bool {
        self.found
    }

    /// Takes an entry of `smtp_tls_policy_maps`: a level and attributes. Postfix's `tls_policy_lookup_one`.
    fn take(&mut self, policy: &str, title: &str, notes: &mut Vec<String>) -> Result<(), Refusal> {
        let bad = |notes: &mut Vec<String>, why: String| {
            notes.push(format!("{title}: {why}"));
            Err(misconfigured())
        };
        let mut rest = words(policy);
        let Some(word) = rest.next() else { return bad(notes, "invalid empty policy".to_owned()) };
        let Some(level) = ClientLevel::parse(word) else {
            return bad(notes, format!("invalid security level \"{word}\""));
        };
        self.level = level;
        self.found = true;
        let (mut ciphers, mut protocols, mut exclude) = (false, false, false);
        for word in rest {
            if level == ClientLevel::None {
                notes.push(format!("{title}: ignoring attribute \"{word}\" with TLS disabled"));
                continue;
            }
            let Some((name, value)) = word.split_once('=') else {
                return bad(
                    notes,
                    format!("malformed attribute/value pair \"{word}\": missing '=' after attribute name"),
                );
            };
            let name = name.to_ascii_lowercase();
            let seen = match name.as_str() {
                "ciphers" => Some(&mut ciphers),
                "protocols" => Some(&mut protocols),
                "exclude" => Some(&mut exclude),
                _ => None,
            };
            if seen.is_some_and(|seen| std::mem::replace(seen, true)) {
                return bad(notes, format!("attribute \"{name}\" is specified multiple times"));
            }
            let needs_value = matches!(name.as_str(), "ciphers" | "match" | "tafile");
            if needs_value && value.is_empty() {
                return bad(notes, format!("attribute \"{name}\" has empty value"));
            }
            let misplaced = |what: &str| format!("attribute \"{what}\" invalid at security level \"{}\"", level.word());
            let by_authority = matches!(level, ClientLevel::Verify | ClientLevel::Secure);
            match name.as_str() {
                // All grades are the same here: what is there is of high grade.
                "ciphers" if matches!(value.to_ascii_lowercase().as_str(), "export" | "low" | "medium" | "high") => {}
                "ciphers" => return bad(notes, format!("invalid cipher grade \"{value}\"")),
                "protocols" => {
                    let list: Vec<String> = value.split(':').filter(|w| !w.is_empty()).map(str::to_owned).collect();
                    let lists = Arc::make_mut(&mut self.lists);
                    (lists.protocols, lists.mandatory_protocols) =
                        ((title.to_owned(), list.clone()), (title.to_owned(), list));
                }
                "exclude" => {
                    let lists = Arc::make_mut(&mut self.lists);
                    lists.exclude = value.split(':').map(str::to_owned).collect();
                    lists.mandatory_exclude = Vec::new();
                }
                "servername" if domain::valid_hostname(value) || matches!(value, "hostname" | "nexthop") => {
                    value.clone_into(&mut self.servername);
                }
                "servername" => return bad(notes, format!("\"{name}={value}\" specifies an invalid hostname")),
                "match" if level == ClientLevel::Fingerprint => {
                    self.patterns.extend(value.split('|').map(str::to_owned));
                }
                "match" if by_authority => self.patterns.extend(value.split(':').map(str::to_owned)),
                "match" => return bad(notes, misplaced("match")),
                "tafile" if by_authority => match Client::anchors(value, &Disk) {
                    Ok(anchors) => self.anchors = Some(anchors),
                    Err(Fault(why)) => return bad(notes, why),
                },
                "tafile" => return bad(notes, misplaced("tafile")),
                "connection_reuse" if value.eq_ignore_ascii_case("yes") => self.reuse = true,
                "connection_reuse" if value.eq_ignore_ascii_case("no") => self.reuse = false,
                "connection_reuse" => {
                    return bad(notes, format!("attribute \"{name}\" has bad value: \"{value}\""));
                }
                // A raw public key is a way to authenticate with less; certificates go on being used.
                "enable_rpk" if value.eq_ignore_ascii_case("no") => {}
                "enable_rpk" => {
                    notes.push(format!("{title}: {name}={value}: raw public keys are not there, using certificates"));
                }
                // For TLS reports of plugins that fetch policies (`policy_type`, `policy_domain`, `mx_host_pattern` ...).
                other if is_report_attribute(other) => self.given(other, value),
                other => return bad(notes, format!("invalid attribute name: \"{other}\"")),
            }
        }
        Ok(())
    }

    fn reported_or_nexthop(&self) -> &str {
        if self.given.domain.is_empty() { &self.nexthop } else { &self.given.domain }
    }

    fn given(&mut self, name: &str, value: &str) {
        let given = &mut self.given;
        let value = value.to_owned();
        match name {
            "policy_type" => given.kind = value,
            "policy_domain" => given.domain = value,
            "policy_string" => given.strings.push(value),
            "mx_host_pattern" => given.patterns.push(value.to_ascii_lowercase()),
            _ => {}
        }
    }

    /// Names in a certificate that are good for a host: `nexthop`, `dot-nexthop`, `hostname` or a name.
    fn names(&self, patterns: &[String], host: &str) -> Vec<String> {
        let name = |pattern: &String| match pattern.to_ascii_lowercase().as_str() {
            "nexthop" => self.nexthop.clone(),
            "dot-nexthop" => format!(".{}", self.nexthop),
            "hostname" => host.to_owned(),
            _ => pattern.clone(),
        };
        patterns.iter().filter(|pattern| !pattern.is_empty()).map(name).collect()
    }
}

impl DaneSettings {
    fn read(view: &View, prefix: &str) -> Self {
        let dnssec = view.text(&format!("{prefix}dns_support_level")).trim() == "dnssec";
        let by_dns = view.list(&format!("{prefix}host_lookup")).iter().any(|word| word == "dns");
        let impossible = if !dnssec || !by_dns {
            Some("configured with dnssec lookups disabled")
        } else if prefix == "smtp_" && view.bool("ignore_mx_lookup_error") {
            Some("configured with MX lookup errors ignored")
        } else {
            None
        };
        Self {
            impossible,
            insecure_mx: ClientLevel::parse(view.text("smtp_tls_dane_insecure_mx_policy").trim())
                .unwrap_or(ClientLevel::May),
            force: view.bool(&format!("{prefix}tls_force_insecure_host_tlsa_lookup")),
            digests: view.list("tls_dane_digests"),
            probe: Mutex::new(probe_of(&view.text("dnssec_probe"))),
        }
    }

    /// An answer was not authentic. That is so with most domains, and with all of them where the resolver does not
    /// validate: which of the two it is, is asked once.
    async fn doubt(&self, dns: &dyn Resolver, notes: &mut Vec<String>) {
        let Some((kind, name)) = self.probe.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let word = format!("{}:{name}", kind.to_string().to_ascii_lowercase());
        let answer = dns.security(&name, kind).await;
        let why = match answer.failed {
            Some(why) => format!("received no response: {why}"),
            None if answer.secure => return,
            None => "received a response that is not DNSSEC validated".to_owned(),
        };
        notes.push("DNSSEC validation may be unavailable".to_owned());
        notes.push(format!("reason: dnssec_probe '{word}' {why}"));
    }

    /// What DANE makes of a level (RFC 7672 section 2.2; Postfix's `dane_init`): the level that holds, what has to be
    /// proved, and the name to ask for. Whatever cannot be found out defers.
    async fn apply(
        &self,
        wanted: ClientLevel,
        site: &Site,
        (host, port): (&str, u16),
        dns: &dyn Resolver,
        notes: &mut Vec<String>,
    ) -> Result<(ClientLevel, Proof, String), Refusal> {
        let only = wanted == ClientLevel::DaneOnly;
        let refusal = |why: String| (EnhancedStatus::transient(7, 5), why);
        let without = |level: ClientLevel, why: String| match only {
            true => Err(refusal(why)),
            false => Ok((level, Proof::None, String::new())),
        };
        if let Some(why) = self.impossible {
            notes.push(format!("{}: {} {why}", site.destination, wanted.word()));
            return without(ClientLevel::May, "client TLS configuration problem".to_owned());
        }
        if port == 0 {
            notes.push(format!(
                "{}: the \"dane\" security level is invalid for delivery via unix-domain sockets",
                site.destination
            ));
            return Err(misconfigured());
        }
        let failed = || refusal(format!("TLSA lookup error for {host}:{port}"));
        let host_name = domain::to_ascii(host).unwrap_or_else(|| host.into()).to_ascii_lowercase();
        let mut secure_mx = true;
        if !site.bracketed {
            let nexthop = domain::to_ascii(&site.nexthop).unwrap_or_else(|| site.nexthop.as_str().into());
            let mx = dns.security(&nexthop, RecordType::Mx).await;
            if mx.failed.is_some() {
                return Err(failed());
            }
            // That there are none has to be authentic too only where names are: the host is then the destination itself.
            secure_mx = !mx.found || (mx.secure && mx.exchangers.contains(&host_name));
        }
        if !secure_mx {
            self.doubt(dns, notes).await;
        }
        if !secure_mx && (only || self.insecure_mx <= ClientLevel::May) {
            return without(ClientLevel::May, "non DNSSEC destination".to_owned());
        }
        let mut address = dns.security(&host_name, RecordType::A).await;
        if address.failed.is_none() && !address.found {
            address = dns.security(&host_name, RecordType::Aaaa).await;
        }
        if address.failed.is_some() {
            return Err(failed());
        }
        if !address.secure {
            self.doubt(dns, notes).await;
        }
        if !address.secure && !self.force {
            return without(ClientLevel::May, "no TLSA records found".to_owned());
        }
        let mut bases = vec![host_name.clone()];
        if address.secure && address.canonical != host_name && !address.canonical.is_empty() {
            bases.insert(0, address.canonical);
        }
        for base in bases {
            let records = match dns.tlsa(&format!("_{port}._tcp.{base}")).await {
                Answer::Found { records, .. } => records,
                Answer::NotFound | Answer::NoData => continue,
                Answer::TryAgain(_) | Answer::Fail(_) => return Err(failed()),
            };
            let records = records.into_iter().map(|record| Tlsa {
                usage: record.usage,
                selector: record.selector,
                matching: record.matching,
                data: record.data,
            });
            let records: Vec<Tlsa> = records.filter(|record| record.is_usable(&self.digests)).collect();
            if records.is_empty() {
                return without(ClientLevel::Encrypt, "TLSA records unusable".to_owned());
            }
            if !secure_mx && self.insecure_mx == ClientLevel::Encrypt {
                return Ok((ClientLevel::Encrypt, Proof::None, base));
            }
            let level = if secure_mx { wanted } else { ClientLevel::HalfDane };
            let names = vec![base.clone(), site.nexthop.clone()];
            return Ok((level, Proof::Dane { records, names }, base));
        }
        without(ClientLevel::May, "no TLSA records found".to_owned())
    }
}

/// `ns:.`: a type of record and a name; anything else asks nothing.
fn probe_of(text: &str) -> Option<(RecordType, String)> {
    let (kind, name) = text.trim().split_once(':')?;
    let kinds = [RecordType::Ns, RecordType::Mx, RecordType::A, RecordType::Aaaa, RecordType::Txt];
    let kind = kinds.into_iter().find(|known| known.to_string().eq_ignore_ascii_case(kind))?;
    (!name.is_empty()).then(|| (kind, name.to_owned()))
}

/// Attributes that Postfix 3.10 takes from plugins that look up MTA-STS policies.
fn is_report_attribute(name: &str) -> bool {
    matches!(
        name,
        "policy_type" | "policy_domain" | "policy_string" | "mx_host_pattern" | "policy_ttl" | "policy_failure"
    )
}

impl Policy {
    /// What holds for a destination.
    pub(crate) async fn site(
        &self,
        destination: &Destination,
        dns: &dyn Resolver,
        notes: &mut Vec<String>,
    ) -> Result<Site, Refusal> {
        self.tls.site(destination, dns, notes).await
    }

    /// The level that main.cf has for all destinations.
    pub(crate) fn usual_level(&self) -> ClientLevel {
        self.tls.level
    }

    /// With what outlives configurations.
    pub(crate) fn remember_in(&mut self, memory: Arc<Memory>) {
        self.tls.memory = Some(memory);
    }

    /// Counts what came of a session under these terms.
    pub(crate) fn count(&self, terms: &Terms, failure: Option<Failed>) {
        if let Some(memory) = &self.tls.memory
            && !terms.reported.is_empty()
        {
            let (domain, policy) = (terms.reported.clone(), terms.applied.clone());
            memory.reports.count(tlsrpt::Session { domain, policy, failure }, crate::secure::now());
        }
    }
}

impl Logins {
    /// Remembers that a server refused a login, if that is wanted.
    pub(crate) fn remember(&self, host: &str, login: &Login, (status, reply): (EnhancedStatus, String)) {
        let Some(time) = self.remember else { return };
        let now = Instant::now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= MOST_REFUSALS {
            refusals.retain(|_, refused| refused.until > now);
        }
        if refusals.len() < MOST_REFUSALS {
            let refused = Refused { until: now + time, password: login.password.clone(), status, reply };
            refusals.insert((host.to_owned(), login.user.clone()), refused);
        }
    }

    /// The refusal that is remembered; another password is another chance.
    fn refused(&self, host: &str, login: &Login) -> Option<(EnhancedStatus, String)> {
        self.remember?;
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), login.user.clone());
        let found = refusals.get(&key)?;
        if found.until > Instant::now() && found.password == login.password {
            return Some((found.status, found.reply.clone()));
        }
        refusals.remove(&key);
        None
    }

    /// Name and password for a server: by sender where that is on, by host, by destination. Postfix's
    /// `smtp_sasl_passwd_lookup`.
    async fn find(
        &self,
        site: &Site,
        host: &str,
        sender: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<Login>, Refusal> {
        let Some(maps) = &self.passwords else { return Ok(None) };
        let failed = |error: LookupError, notes: &mut Vec<String>| {
            notes.push(error.to_string());
            (EnhancedStatus::transient(3, 0), format!("{} lookup error", maps.title()))
        };
        let mut value = None;
        if self.sender_dependent && !sender.is_empty() {
            let forms = AddressForms::mapping(&self.delimiter, Locality::Known(false));
            value = maps.find_address(sender, &forms).await.map_err(|e| failed(e, notes))?.map(|hit| hit.value);
        }
        for key in [host, &site.destination] {
            if value.is_none() {
                value = maps.find(key).await.map_err(|error| failed(error, notes))?;
            }
        }
        let separator = if self.separator == '\0' { ':' } else { self.separator };
        Ok(value.map(|value| {
            let (user, password) = value.split_once(separator).unwrap_or((&value, ""));
            Login { user: user.to_owned(), password: password.to_owned() }
        }))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

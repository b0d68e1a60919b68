//! What holds for one host of a destination: [`Terms`], put together from the destination's policy, TLSA records, an MTA-STS
//! policy, what the message wants, and a login.

use std::sync::Arc;

use yamabiko_address::domain;
use yamabiko_dns::{RecordType, Resolver};
use yamabiko_sasl::client::Login;
use yamabiko_status::EnhancedStatus;
use yamabiko_tls::{Client, ClientLevel, Demand, Fault, LogMask, Proof, Tlsa};

use super::{Policy, Refusal, Site, Tls, misconfigured};
use crate::session::Peer;
use crate::sts::{Known, Mode};
use crate::tlsrpt::{Applied, Failed};

/// What a message wants of TLS (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// What the destination's policy says.
    #[default]
    Policy,
    /// REQUIRETLS: TLS that is proved, all the way. `strict`: the next hop has to promise it too.
    Required {
        /// `smtp_requiretls_policy` is `enforce` for this destination.
        strict: bool,
    },
    /// `TLS-Required: No`: it may go out in the clear, whatever the policy.
    NotRequired,
}

/// What holds for one server.
#[derive(Clone, Default)]
pub struct Terms {
    /// How much TLS.
    pub level: ClientLevel,
    /// How much was wanted before anything was found to be impossible.
    pub wanted: ClientLevel,
    /// What a handshake has to bring.
    pub demand: Demand,
    /// A connection with TLS is kept for other mail.
    pub reuse: bool,
    /// Does handshakes.
    pub client: Option<Arc<Client>>,
    /// Name and password.
    pub login: Option<Login>,
    /// The server refused that login not long ago, with this status and reply.
    pub login_refused: Option<(EnhancedStatus, String)>,
    /// The policy that was found in the world, in words; empty when what holds is our own configuration's.
    pub policy: String,
    /// That policy is only being tested: what fails is told and nothing more.
    pub testing: bool,
    /// The same for reports.
    pub applied: Applied,
    /// The domain that reports are about; empty when none are made.
    pub reported: String,
    /// REQUIRETLS is wanted of the server (RFC 8689), and it has to offer it.
    pub require: Option<bool>,
}

impl Terms {
    /// A connection that was made under these is as good as one made under those.
    pub fn are_as(&self, those: &Self) -> bool {
        fn who(terms: &Terms) -> Option<(&str, &str)> {
            terms.login.as_ref().map(|login| (login.user.as_str(), login.password.as_str()))
        }
        (self.level, self.require) == (those.level, those.require)
            && self.demand == those.demand
            && who(self) == who(those)
    }

    /// The same without TLS.
    #[must_use]
    pub fn in_the_clear(&self) -> Self {
        Self { level: ClientLevel::None, ..self.clone() }
    }
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("level", &self.level).field("login", &self.login).finish_non_exhaustive()
    }
}

impl Policy {
    /// What holds for one host of a destination, for mail of `sender`.
    pub(crate) async fn terms(
        &self,
        site: &Site,
        peer: &Peer,
        (sender, wish): (&str, Wish),
        dns: &dyn Resolver,
        notes: &mut Vec<String>,
    ) -> Result<Arc<Terms>, Refusal> {
        let level = self.tls.per_site(site, &peer.host, notes).await?;
        let (dane, sts) = (None, Strict::default());
        let mut making = Making { policy: self, site, peer, wish, wanted: level, level, dane, sts };
        if wish == Wish::NotRequired && level > ClientLevel::None {
            making.level = ClientLevel::May;
            making.wanted = ClientLevel::May;
        }
        making.records(dns, notes).await?;
        // An entry of the old table is the administrator's own word, as one of the new table is.
        let open = level == site.level && wish != Wish::NotRequired && making.level <= ClientLevel::Encrypt;
        if let Some(known) = site.sts.as_ref().filter(|_| open) {
            making.sts = making.strict(known)?;
            making.level = making.sts.level;
        }
        making.required(dns).await?;
        let login = self.logins.find(site, &peer.host, sender, notes).await?;
        let log = self.tls.log_of(peer, notes).await;
        making.terms(login, log, notes)
    }
}

impl Tls {
    /// `smtp_tls_loglevel_maps`: what is logged for a server, by its name or address. A table that does not answer changes
    /// nothing: how much is logged is no reason not to deliver.
    async fn log_of(&self, peer: &Peer, notes: &mut Vec<String>) -> Option<LogMask> {
        let maps = self.log_maps.as_ref()?;
        for key in [&peer.host, &peer.address] {
            match maps.find(key).await {
                Ok(Some(level)) => return Some(LogMask::parse(&level)),
                Ok(None) => {}
                Err(error) => notes.push(error.to_string()),
            }
        }
        None
    }
}

/// Terms that are being put together.
struct Making<'a> {
    policy: &'a Policy,
    site: &'a Site,
    peer: &'a Peer,
    wish: Wish,
    /// What the administrator asks for, and the message.
    wanted: ClientLevel,
    /// What holds by what is known so far.
    level: ClientLevel,
    /// What TLSA records prove, and the name that they are for.
    dane: Option<(Proof, String)>,
    sts: Strict,
}

impl Making<'_> {
    /// TLSA records, where they count.
    async fn records(&mut self, dns: &dyn Resolver, notes: &mut Vec<String>) -> Result<(), Refusal> {
        let (site, peer, host) = (self.site, self.peer, self.peer.host.as_str());
        let dane = &self.policy.tls.dane;
        // Under REQUIRETLS every way to prove a server is good, and one of them has to work.
        let asked = match self.wish {
            Wish::Required { strict: true } if !self.level.must_match() && dane.impossible.is_none() => {
                ClientLevel::Dane
            }
            _ => self.level,
        };
        if !asked.is_dane() || peer.port == 0 {
            return Ok(());
        }
        match dane.apply(asked, site, (host, peer.port), dns, notes).await {
            Ok((found, proof, base)) => {
                if self.level.is_dane() || found.must_match() {
                    self.level = found;
                    self.dane = Some((proof, base));
                }
                Ok(())
            }
            Err((status, why)) => {
                let kind = if why.starts_with("TLSA records") { "tlsa-invalid" } else { "dnssec-invalid" };
                let applied = Applied { kind: "tlsa".into(), domain: host.to_owned(), ..Applied::default() };
                let failed = Failed {
                    kind: kind.to_owned(),
                    host: host.to_owned(),
                    address: peer.address.clone(),
                    reason: why.clone(),
                    ..Failed::default()
                };
                self.policy.tls.count(site, applied, failed);
                Err((status, why))
            }
        }
    }

    /// What an MTA-STS policy makes of a host of its domain (RFC 8461 section 5).
    fn strict(&self, known: &Arc<Known>) -> Result<Strict, Refusal> {
        let (site, peer, level) = (self.site, self.peer, self.level);
        let host = peer.host.as_str();
        let domain = domain::to_ascii(&site.nexthop).map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        let mode = known.policy.mode;
        let words = format!("MTA-STS policy of {domain}, mode={}, id={}", mode.word(), known.id);
        let name = domain::to_ascii(host).unwrap_or_else(|| host.into()).to_ascii_lowercase();
        let covered = known.policy.covers(&name);
        let mut found = Strict {
            known: true,
            enforced: mode == Mode::Enforce,
            testing: mode == Mode::Testing,
            level: if mode == Mode::Enforce { ClientLevel::Secure } else { level.max(ClientLevel::May) },
            proof: None,
            words,
            policy: Some(Arc::clone(known)),
            domain,
        };
        if !covered {
            let why = format!("host {} is not named by the {}", peer.named(), found.words);
            let failed = Failed {
                kind: "validation-failure".to_owned(),
                host: host.to_owned(),
                address: peer.address.clone(),
                reason: "mx-mismatch".to_owned(),
                ..Failed::default()
            };
            self.policy.tls.count(site, found.applied(), failed);
            if mode == Mode::Enforce {
                return Err((EnhancedStatus::transient(7, 5), why));
            }
        }
        let anchors = self.policy.tls.sts.as_ref().map(|how| how.client.authorities());
        found.proof = Some(Proof::Names { names: vec![name], anchors });
        Ok(found)
    }

    /// What REQUIRETLS makes of it.
    async fn required(&mut self, dns: &dyn Resolver) -> Result<(), Refusal> {
        match self.wish {
            Wish::Required { strict: true } if !self.level.must_match() => {}
            Wish::Required { .. } => {
                self.level = self.level.max(ClientLevel::May);
                return Ok(());
            }
            _ => return Ok(()),
        }
        // RFC 8689 section 4.2.1: the certificate is good for the name of the host, whose name is known for sure
        // where it is written in brackets.
        let site = self.site;
        let nexthop = domain::to_ascii(&site.nexthop).unwrap_or_else(|| site.nexthop.as_str().into());
        let signed = async || {
            let mx = dns.security(&nexthop, RecordType::Mx).await;
            self.policy.tls.dane.impossible.is_none() && mx.secure && mx.failed.is_none()
        };
        if !site.bracketed && !self.sts.enforced && !signed().await {
            let why = format!(
                "REQUIRETLS: the name of host {} is not known for sure: no DNSSEC, no MTA-STS",
                self.peer.named()
            );
            return Err((EnhancedStatus::permanent(7, 10), why));
        }
        self.level = ClientLevel::Verify;
        Ok(())
    }

    /// What the certificate has to prove by the level alone.
    fn proof(&self, notes: &mut Vec<String>) -> Result<Proof, Refusal> {
        let (site, lists) = (self.site, &self.site.lists);
        match self.level {
            ClientLevel::Fingerprint => {
                let wanted: Vec<String> = site.patterns.iter().chain(&lists.fingerprints).cloned().collect();
                if wanted.iter().all(|print| print.trim().is_empty()) {
                    let domain = &site.destination;
                    notes.push(format!(
                        "nexthop domain {domain}: configured at fingerprint security level, but with no fingerprints to match."
                    ));
                    return Err(misconfigured());
                }
                Ok(Proof::Fingerprint(wanted))
            }
            ClientLevel::Verify | ClientLevel::Secure => {
                let usual = if self.level == ClientLevel::Verify { &lists.verify_match } else { &lists.secure_match };
                let patterns = if site.patterns.is_empty() { usual } else { &site.patterns };
                Ok(Proof::Names { names: site.names(patterns, &self.peer.host), anchors: site.anchors.clone() })
            }
            _ => Ok(Proof::None),
        }
    }

    /// The proof, the name that the server is asked for, and what reports call the policy: the last word is that of
    /// MTA-STS, before it that of TLSA records.
    fn proof_and_name(&mut self, notes: &mut Vec<String>) -> Result<(Proof, String, Applied), Refusal> {
        let (site, host) = (self.site, &self.peer.host);
        let proof = self.proof(notes)?;
        if self.sts.known {
            let applied = self.sts.applied();
            return Ok((self.sts.proof.take().unwrap_or(proof), host.clone(), applied));
        }
        let applied = match &site.given {
            given if !given.kind.is_empty() => given.clone(),
            _ => Applied { kind: "no-policy-found".to_owned(), domain: site.reported.clone(), ..Applied::default() },
        };
        match self.dane.take() {
            Some((proof, base)) if !base.is_empty() => {
                let applied = match &proof {
                    Proof::Dane { records, .. } => {
                        let strings = records.iter().map(tlsa_words).collect();
                        Applied { kind: "tlsa".into(), strings, domain: base.clone(), ..Applied::default() }
                    }
                    _ => applied,
                };
                Ok((proof, base, applied))
            }
            _ => {
                let name = match site.servername.as_str() {
                    "hostname" => host.clone(),
                    "nexthop" => site.nexthop.clone(),
                    other => other.to_owned(),
                };
                Ok((proof, name, applied))
            }
        }
    }

    /// `smtp_tls_enforce_sts_mx_patterns`: the policy table knows which hosts are named.
    fn is_given(&self) -> Result<(), Refusal> {
        let (site, host) = (self.site, &self.peer.host);
        let given = &site.given;
        let counts = self.policy.tls.enforce_patterns && given.kind == "sts" && self.level.must_match();
        if !counts || given.patterns.is_empty() {
            return Ok(());
        }
        let policy = crate::sts::StsPolicy { patterns: given.patterns.clone(), ..Default::default() };
        if policy.covers(host) {
            return Ok(());
        }
        let why = format!("MTA-STS policy of {} does not name host {host}", site.reported_or_nexthop());
        Err((EnhancedStatus::transient(7, 5), why))
    }

    /// All of it.
    fn terms(
        mut self,
        login: Option<Login>,
        log: Option<LogMask>,
        notes: &mut Vec<String>,
    ) -> Result<Arc<Terms>, Refusal> {
        let (proof, server_name, applied) = self.proof_and_name(notes)?;
        self.is_given()?;
        let Self { policy, site, peer, wish, wanted, level, sts, .. } = self;
        let lists = &site.lists;
        let mut exclude = lists.exclude.clone();
        let (named, protocols) = if level.is_mandatory() { &lists.mandatory_protocols } else { &lists.protocols };
        if level.is_mandatory() {
            exclude.extend(lists.mandatory_exclude.iter().cloned());
        }
        let demand = Demand {
            protocols_named: named.clone(),
            protocols: protocols.clone(),
            exclude,
            server_name,
            peer: peer.relay(),
            proof,
            explain: level.must_match() || sts.testing,
            describe: false,
            log,
        };
        let client = policy.tls.client.clone();
        if level > ClientLevel::None
            && let Some(client) = &client
            && let Err(Fault(why)) = client.check(&demand)
        {
            notes.push(why);
            return Err(misconfigured());
        }
        let login_refused = login.as_ref().and_then(|login| policy.logins.refused(&peer.host, login));
        Ok(Arc::new(Terms {
            level,
            wanted: wanted.max(level),
            demand,
            reuse: site.reuse,
            client,
            login,
            login_refused,
            policy: sts.words,
            testing: sts.testing,
            applied,
            reported: if level > ClientLevel::None { site.reported.clone() } else { String::new() },
            require: match wish {
                Wish::Required { strict } => Some(strict),
                _ => None,
            },
        }))
    }
}

/// What MTA-STS makes of a host.
#[derive(Default)]
struct Strict {
    known: bool,
    enforced: bool,
    testing: bool,
    level: ClientLevel,
    proof: Option<Proof>,
    words: String,
    policy: Option<Arc<Known>>,
    domain: String,
}

impl Strict {
    fn applied(&self) -> Applied {
        let Some(known) = &self.policy else { return Applied::default() };
        Applied {
            kind: "sts".to_owned(),
            strings: known.policy.to_text().lines().map(str::to_owned).collect(),
            domain: self.domain.clone(),
            patterns: known.policy.patterns.clone(),
        }
    }
}

fn tlsa_words(record: &Tlsa) -> String {
    let hex: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {} {} {hex}", record.usage, record.selector, record.matching)
}

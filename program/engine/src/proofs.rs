//! What senders prove and what we sign: SPF, DKIM, DMARC and ARC of mail from strangers, `Authentication-Results:`, and
//! signatures on mail of our own users.
//!
//! *Strangers* are clients that did not authenticate and are not in `mynetworks`. *Our own* mail is that of all others, of
//! `sendmail`, and our notices. Mail that comes back from a content filter (through a service with
//! `receive_override_options`) is neither: it was looked at, or signed, when it came first.
//!
//! Trouble is never a refusal for good: a result that DNS does not give is *temperror*, a key that cannot be used leaves mail
//! unsigned, with a warning.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use yamabiko_cleanup::Accepted;
use yamabiko_config::View;
use yamabiko_envelope::{
    ClientAttributes, Content, DmarcDemand, Kind, QueueId, Severity, Source, Submission, Timestamp,
};
use yamabiko_ipc::boss::Keys;
use yamabiko_lookup::matchlist::AddressList;
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_mailauth::{
    Authenticator, Client, Findings, Identity, Key, Policy, Sealer, Signer, Verdict, Wants, parse_identities,
    with_crlf, without_our_results,
};
use yamabiko_receive::{Refusal, Spf, SpfVerdict};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::blocking::where_it_may_block;
use crate::generation::Current;

/// A message of so many bytes takes long enough to look at that others should go on meanwhile.
const LARGE: u64 = 256 << 10;

/// Settings and keys of one configuration.
pub struct Proofs {
    wants: Wants,
    name: String,
    myhostname: String,
    trusted_sealers: Vec<String>,
    mynetworks: AddressList,
    signing: Maps,
    sealing: String,
    /// Texts of keys that only root may read, by file.
    handed: HashMap<String, Result<String, String>>,
    signers: Mutex<HashMap<String, Arc<Signer>>>,
    sealer: OnceLock<Option<Sealer>>,
    /// `dns_servers`
    servers: Vec<String>,
    authenticator: OnceLock<Result<Authenticator, String>>,
}

/// What was found out about a message, until it is complete.
pub struct Proven {
    findings: Findings,
    /// It goes into the hold queue.
    pub hold: bool,
}

impl Proofs {
    /// Reads the settings.
    pub fn new(main: &View, tables: &TableSet) -> Self {
        let words = main.list("smtpd_sender_authentication");
        let has = |word: &str| words.iter().any(|known| known.eq_ignore_ascii_case(word));
        Self {
            wants: Wants { spf: has("spf"), dkim: has("dkim"), dmarc: has("dmarc"), arc: has("arc") },
            name: main.text("authentication_results_hostname"),
            myhostname: main.text("myhostname"),
            trusted_sealers: main.list("arc_trusted_sealers").iter().map(|name| name.to_ascii_lowercase()).collect(),
            mynetworks: AddressList::new(tables, "mynetworks", &main.text("mynetworks"), false),
            signing: Maps::open(tables, "dkim_signing_table", &main.text("dkim_signing_table")),
            sealing: main.text("arc_sealing_identity"),
            handed: HashMap::new(),
            signers: Mutex::default(),
            sealer: OnceLock::new(),
            servers: main.list("dns_servers"),
            authenticator: OnceLock::new(),
        }
    }

    /// Takes the keys that came with the configuration.
    pub fn hand(&mut self, keys: &Keys) {
        if !self.signing.is_empty() || !self.sealing.is_empty() {
            self.handed.clone_from(&keys.files);
        }
    }

    fn authenticator(&self) -> Result<&Authenticator, &str> {
        let make = || match self.servers.as_slice() {
            [] => Authenticator::system(),
            named => {
                let servers: Result<Vec<_>, _> = named.iter().map(|name| crate::server_address(name)).collect();
                Authenticator::with_servers(&servers?)
            }
        };
        self.authenticator.get_or_init(make).as_ref().map_err(String::as_str)
    }

    /// SPF for a restriction.
    pub async fn spf(&self, address: IpAddr, helo: &str, sender: &str) -> Option<Spf> {
        let client = Client { address, helo, myhostname: &self.myhostname };
        let spf = self.authenticator().ok()?.spf(client, sender).await;
        let verdict = match spf.verdict {
            Verdict::Fail => SpfVerdict::Fail,
            Verdict::SoftFail => SpfVerdict::SoftFail,
            Verdict::PermError => SpfVerdict::PermError,
            Verdict::Pass | Verdict::Neutral | Verdict::None | Verdict::TempError => SpfVerdict::Other,
        };
        Some(Spf { verdict, domain: spf.domain, explanation: spf.explanation })
    }

    /// From a client that we know nothing good of.
    async fn is_strange(&self, submission: &Submission) -> bool {
        let client = &submission.envelope.client;
        client.address.is_some()
            && submission.source == Source::Smtp
            && submission.envelope.sasl.is_none()
            && !self.is_of_mynetworks(client).await
    }

    /// `mynetworks`, as far as it can be told.
    pub async fn is_of_mynetworks(&self, client: &ClientAttributes) -> bool {
        let Some(address) = client.address else { return false };
        matches!(self.mynetworks.contains(&client.name, address).await, Ok(true))
    }

    /// What is to be found out about a message; `None`: nothing.
    pub async fn wants(&self, submission: &Submission) -> Option<Wants> {
        let mut wants = self.wants;
        wants.dmarc |= !submission.dmarc.is_empty();
        wants.arc |= wants.dmarc && !self.trusted_sealers.is_empty();
        (!wants.is_empty() && self.is_strange(submission).await).then_some(wants)
    }

    /// Finds out, and does what restrictions want.
    pub async fn examine(&self, current: &Current, submission: &Submission, wants: Wants) -> Result<Proven, Refusal> {
        let id = submission.envelope.queue_id;
        let again = |text: &str| Refusal {
            code: ReplyCode(451),
            status: EnhancedStatus::transient(3, 0),
            text: text.to_owned(),
        };
        let authenticator = match self.authenticator() {
            Ok(authenticator) => authenticator,
            Err(why) => {
                say(current, Severity::Warning, id, format!("sender authentication: no name servers: {why}"));
                return Ok(Proven { findings: Findings::default(), hold: false });
            }
        };
        let Some(address) = submission.envelope.client.address else {
            return Ok(Proven { findings: Findings::default(), hold: false });
        };
        let content = submission.content.to_bytes().map_err(|error| {
            say(current, Severity::Warning, id, format!("cannot read the message: {error}"));
            again("Error: queue file read error")
        })?;
        let large = content.len() as u64 > LARGE;
        let client = Client { address, helo: &submission.envelope.client.helo, myhostname: &self.myhostname };
        let sender = &submission.envelope.sender;
        let work = async {
            let message = with_crlf(&[&content]);
            authenticator.verify(&message, client, sender, &self.name, wants).await
        };
        let mut findings = where_it_may_block(large, Box::pin(work)).await;
        let mut hold = false;
        if let Some(text) = self.disowned(&findings, submission.dmarc) {
            let DmarcDemand { reject, warn, hold: holds } = submission.dmarc;
            let who = format!("from {}[{address}]", submission.envelope.client.name);
            let policy = findings.dmarc.as_ref().map(|dmarc| dmarc.policy);
            let last = submission.envelope.recipients.last().map(|recipient| recipient.address.as_str());
            let about = format!("from=<{sender}> to=<{}>", last.unwrap_or_default());
            match policy {
                Some(Policy::Reject) if reject => {
                    say(current, Severity::Info, id, format!("reject: END-OF-MESSAGE {who}: 5.7.1 {text}; {about}"));
                    return Err(Refusal { code: ReplyCode(550), status: EnhancedStatus::permanent(7, 1), text });
                }
                Some(Policy::Reject | Policy::Quarantine) if holds => {
                    hold = true;
                    say(current, Severity::Info, id, format!("hold: END-OF-MESSAGE {who}: {text}; {about}"));
                }
                Some(Policy::Reject) if warn => {
                    let text = format!("reject_warning: END-OF-MESSAGE {who}: 5.7.1 {text}; {about}");
                    say(current, Severity::Info, id, text);
                }
                _ => {}
            }
        }
        // Found out for a restriction only: no field.
        if self.wants.is_empty() {
            findings.results.clear();
        }
        Ok(Proven { findings, hold })
    }

    /// Why a message is disowned by its author's domain; `None`: it is not, or somebody trusted has vouched for it, or nobody
    /// wants to know.
    fn disowned(&self, findings: &Findings, demand: DmarcDemand) -> Option<String> {
        let dmarc = findings.dmarc.as_ref().filter(|dmarc| dmarc.failed && dmarc.policy != Policy::None)?;
        let vouched = findings.sealed_by.as_ref().is_some_and(|domain| self.trusted_sealers.contains(domain));
        if demand.is_empty() || vouched {
            return None;
        }
        let wish = if dmarc.policy == Policy::Reject { "reject" } else { "quarantine" };
        Some(format!("Message rejected: DMARC policy of {} is {wish}, and neither SPF nor DKIM passed", dmarc.domain))
    }

    /// Mail of our own users that is to be signed.
    pub async fn signs(&self, submission: &Submission) -> bool {
        if self.signing.is_empty() || submission.no_header_body_checks || submission.no_address_mappings {
            return false;
        }
        match submission.source {
            Source::Local { .. } | Source::Notice => true,
            Source::Smtp => !self.is_strange(submission).await,
            Source::Forwarded | Source::Requeued => false,
        }
    }

    /// Puts our fields in front of a message that is complete.
    pub async fn attest(&self, current: &Current, accepted: &mut Accepted, proven: Option<Proven>, signed: bool) {
        let id = accepted.envelope.queue_id;
        let warn = |text: String| say(current, Severity::Warning, id, text);
        let mut fields = String::new();
        if proven.is_some() && !self.wants.is_empty() {
            // Nobody else speaks in our name, whatever we found out ourselves. Fields that came with the message are in the
            // head when it was changed, else at the start of the body.
            self.remove_forged(accepted).unwrap_or_else(|error| warn(format!("cannot read the message: {error}")));
        }
        let results = proven.map(|proven| proven.findings.results).filter(|results| !results.is_empty());
        if let Some(results) = results {
            fields = format!("Authentication-Results: {results}\n");
            if let Some(sealer) = self.sealer(&warn) {
                match self.sealed(accepted, &fields, &results, sealer).await {
                    Ok(Some(set)) => fields.insert_str(0, &set),
                    Ok(None) => {}
                    Err(why) => warn(format!("ARC: not sealed: {why}")),
                }
            }
        }
        if signed {
            match self.signatures(accepted).await {
                Ok(signatures) => fields.insert_str(0, &signatures),
                Err(why) => warn(format!("DKIM: not signed: {why}")),
            }
        }
        if !fields.is_empty() {
            let mut head = fields.into_bytes();
            head.extend_from_slice(&accepted.head);
            accepted.head = head.into();
        }
    }

    fn remove_forged(&self, accepted: &mut Accepted) -> std::io::Result<()> {
        if let Some(head) = without_our_results(&accepted.head, &self.name) {
            accepted.head = head.into();
        }
        if ends_header(&accepted.head) {
            return Ok(());
        }
        let Some(first) = accepted.body.first() else { return Ok(()) };
        let bytes = first.to_bytes()?;
        if let Some(rest) = without_our_results(&bytes, &self.name) {
            // There is a first: it was read.
            accepted.body[0] = Content::from(rest);
        }
        Ok(())
    }

    /// The message as it is now, with CRLF line ends.
    fn whole(accepted: &Accepted, before: &str) -> Result<Vec<u8>, String> {
        let mut parts = vec![bytes::Bytes::copy_from_slice(before.as_bytes()), accepted.head.clone()];
        for content in &accepted.body {
            parts.push(content.to_bytes().map_err(|error| error.to_string())?);
        }
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        Ok(with_crlf(&parts))
    }

    async fn sealed(
        &self,
        accepted: &Accepted,
        fields: &str,
        results: &str,
        sealer: &Sealer,
    ) -> Result<Option<String>, String> {
        let authenticator = self.authenticator().map_err(str::to_owned)?;
        let large = accepted.envelope.size > LARGE;
        let work = async {
            let message = Self::whole(accepted, fields)?;
            sealer.seal(authenticator, &message, results).await
        };
        where_it_may_block(large, Box::pin(work)).await
    }

    fn key(&self, file: &str) -> Result<Key, String> {
        let text = match self.handed.get(file) {
            Some(text) => text.clone(),
            None => std::fs::read_to_string(file).map_err(|error| error.to_string()),
        };
        text.and_then(|text| Key::from_pem(&text)).map_err(|why| format!("{file}: {why}"))
    }

    fn sealer(&self, warn: &dyn Fn(String)) -> Option<&Sealer> {
        let made = self.sealer.get_or_init(|| {
            let identity = match parse_identities(&self.sealing) {
                Ok(identities) => identities.into_iter().next()?,
                Err(why) => {
                    warn(format!("arc_sealing_identity: {why}: mail is not sealed"));
                    return None;
                }
            };
            match self.key(&identity.file).and_then(|key| Sealer::new(&identity, &key)) {
                Ok(sealer) => Some(sealer),
                Err(why) => {
                    warn(format!("arc_sealing_identity: {why}: mail is not sealed"));
                    None
                }
            }
        });
        made.as_ref()
    }

    fn signer(&self, identity: &Identity) -> Result<Arc<Signer>, String> {
        let name = format!("{} {} {}", identity.selector, identity.domain, identity.file);
        let mut signers = self.signers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = signers.get(&name) {
            return Ok(Arc::clone(signer));
        }
        let signer = Arc::new(Signer::new(identity, &self.key(&identity.file)?)?);
        signers.insert(name, Arc::clone(&signer));
        Ok(signer)
    }

    /// `DKIM-Signature:` fields by the domain of the author, or of the envelope sender where there is none.
    async fn signatures(&self, accepted: &Accepted) -> Result<String, String> {
        let message = Self::whole(accepted, "")?;
        let domain = author_domain(&message)
            .or_else(|| accepted.envelope.sender.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase()));
        let Some(domain) = domain else { return Ok(String::new()) };
        let mut fields = String::new();
        for identity in self.identities(&domain).await? {
            let signer = self.signer(&identity)?;
            fields.push_str(
                &where_it_may_block(message.len() as u64 > LARGE, Box::pin(async { signer.sign(&message) })).await?,
            );
        }
        Ok(fields)
    }

    /// Who signs for a domain: its own entry, or that of the nearest parent, written with a dot before it.
    async fn identities(&self, domain: &str) -> Result<Vec<Identity>, String> {
        let mut key = domain.to_owned();
        loop {
            let found = where_it_may_block(self.signing.is_remote(), Box::pin(self.signing.find(&key))).await;
            if let Some(hit) = found.map_err(|error| error.to_string())? {
                return parse_identities(&hit).map_err(|why| format!("dkim_signing_table: {key}: {why}"));
            }
            let bare = key.strip_prefix('.').unwrap_or(&key);
            match bare.split_once('.') {
                Some((_, parent)) if parent.contains('.') => key = format!(".{parent}"),
                _ => return Ok(Vec::new()),
            }
        }
    }
}

/// A line for the log, from the program that does this work in Postfix: cleanup, which runs the milters.
fn say(current: &Current, severity: Severity, id: QueueId, text: String) {
    current.emit("cleanup", Timestamp::now(), Kind::Text { severity, queue_id: Some(id), text });
}

/// Settings that cannot be obeyed.
pub fn remarks(main: &View) -> Vec<String> {
    let mut remarks = Vec::new();
    for word in main.list("smtpd_sender_authentication") {
        if !["spf", "dkim", "dmarc", "arc"].contains(&word.to_ascii_lowercase().as_str()) {
            remarks.push(format!("smtpd_sender_authentication: \"{word}\" is none of spf, dkim, dmarc, arc"));
        }
    }
    if let Err(why) = parse_identities(&main.text("arc_sealing_identity")) {
        remarks.push(format!("arc_sealing_identity: {why}"));
    }
    remarks
}

/// The head of a message has the empty line in it.
fn ends_header(head: &[u8]) -> bool {
    head.starts_with(b"\n") || head.windows(2).any(|pair| pair == b"\n\n")
}

/// The domain of the first address of `From:`.
fn author_domain(message: &[u8]) -> Option<String> {
    let mut lines = message.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut value: Option<Vec<u8>> = None;
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        match &mut value {
            Some(value) if line.starts_with(b" ") || line.starts_with(b"\t") => value.extend_from_slice(line),
            Some(_) => break,
            None if line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"from:")) => {
                value = line.get(5..).map(<[u8]>::to_vec);
            }
            None => {}
        }
    }
    let value = String::from_utf8(value?).ok()?;
    // The last @ outside of quotes and comments, in <> if there are any.
    let inside = value.rsplit_once('<').map_or(value.as_str(), |(_, rest)| rest.split('>').next().unwrap_or_default());
    let (_, domain) = inside.rsplit_once('@')?;
    let end = domain.find(|char: char| !(char.is_alphanumeric() || matches!(char, '.' | '-' | '_')));
    let domain = domain.get(..end.unwrap_or(domain.len()))?.to_ascii_lowercase();
    (!domain.is_empty()).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authors() {
        for (message, expected) in [
            ("From: a@X.test\r\n\r\n", Some("x.test")),
            ("To: b@y.test\r\nfrom: \"a@z\" <a@x.test>\r\n\r\n", Some("x.test")),
            ("From: A\r\n <a@x.test> (c)\r\nTo: x\r\n\r\n", Some("x.test")),
            ("From: a@x.test (comment)\r\n\r\n", Some("x.test")),
            ("From: nobody\r\n\r\n", None),
            ("To: x\r\n\r\nFrom: a@x.test\r\n", None),
            ("", None),
        ] {
            assert_eq!(author_domain(message.as_bytes()).as_deref(), expected, "{message}");
        }
    }
}

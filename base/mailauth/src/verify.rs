//! SPF, DKIM, DMARC and ARC of mail that comes in, and the field that says so.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::hickory_resolver::proto::rr::{Name, RData};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    ArcOutput, AuthenticatedMessage, AuthenticationResults, DkimResult, DmarcResult, Error, MessageAuthenticator,
    SpfOutput, SpfResult, dmarc,
};

/// All questions about one message take no longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Signatures that are looked at in one message.
const SIGNATURES: usize = 20;

/// Who brings a message.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub address: IpAddr,
    /// What it said in HELO; empty where it said nothing.
    pub helo: &'a str,
    /// Our own name.
    pub myhostname: &'a str,
}

/// What to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// SPF of the reverse-path, or of HELO for the null one.
    pub spf: bool,
    /// DKIM signatures.
    pub dkim: bool,
    /// DMARC of the author's domain; SPF and DKIM are found out for it.
    pub dmarc: bool,
    /// The ARC chain.
    pub arc: bool,
}

impl Wants {
    /// Nothing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A result of SPF (RFC 7208 section 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `pass`
    Pass,
    /// `fail`
    Fail,
    /// `softfail`
    SoftFail,
    /// `neutral`
    Neutral,
    /// `none`
    None,
    /// `temperror`
    TempError,
    /// `permerror`
    PermError,
}

/// SPF of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spf {
    /// What came of it.
    pub verdict: Verdict,
    /// The domain that was asked about.
    pub domain: String,
    /// The explanation that the domain wants to be shown, printable ASCII; empty without one.
    pub explanation: String,
}

/// What a domain's owner wants done with mail that fails DMARC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    None,
    /// `quarantine`
    Quarantine,
    /// `reject`
    Reject,
}

/// DMARC of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmarc {
    /// Neither SPF nor DKIM speaks for the author's domain, and no trouble with DNS left that open.
    pub failed: bool,
    /// Trouble with DNS left it open.
    pub unknown: bool,
    /// What the owner wants then.
    pub policy: Policy,
    /// The author's domain.
    pub domain: String,
}

/// What was found out about a message.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The value of the `Authentication-Results:` field, folded with LF; empty when nothing was asked.
    pub results: String,
    /// DMARC.
    pub dmarc: Option<Dmarc>,
    /// The chain is whole, and the last to seal was this domain.
    pub sealed_by: Option<String>,
}

/// Asks DNS.
#[derive(Clone)]
pub struct Authenticator {
    library: MessageAuthenticator,
}

/// Printable ASCII only: what goes into a reply or a field.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' }).take(300).collect()
}

impl Authenticator {
    /// With the name servers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// There are none.
    pub fn system() -> Result<Self, String> {
        let (config, options) =
            mail_auth::hickory_resolver::system_conf::read_system_conf().map_err(|e| e.to_string())?;
        Self::with(config, options)
    }

    /// With these name servers.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, String> {
        let named = servers.iter().map(|server| {
            let mut named = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut named.connections {
                connection.port = server.port();
            }
            named
        });
        Self::with(ResolverConfig::from_parts(None, Vec::new(), named.collect()), ResolverOpts::default())
    }

    fn with(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, String> {
        options.timeout = options.timeout.min(PATIENCE / 4);
        options.attempts = options.attempts.min(2);
        let library = MessageAuthenticator::new(config, options).map_err(|error| error.to_string())?;
        Ok(Self { library })
    }

    /// The first text of a name; `None`: there is none.
    pub(crate) async fn text(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.texts(name).await?.into_iter().next())
    }

    /// The texts of a name, the strings of each joined.
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let parsed = Name::from_str_relaxed(name).map_err(|error| error.to_string())?;
        let asked = tokio::time::timeout(PATIENCE, self.library.resolver().txt_lookup(parsed)).await;
        match asked.map_err(|_| "no answer in time".to_owned())? {
            Ok(found) => {
                let texts = found.answers().iter().filter_map(|record| match &record.data {
                    RData::TXT(text) => {
                        Some(text.txt_data.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>())
                    }
                    _ => None,
                });
                Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
            }
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the library passes over and RFC 7208 does not: several records (section 4.5), mechanisms that do not exist
    /// (section 4.6).
    async fn is_malformed(&self, domain: &str) -> bool {
        let Ok(texts) = self.texts(&format!("{}.", domain.trim_end_matches('.'))).await else { return false };
        let mut records = texts
            .iter()
            .filter(|text| text.split(' ').next().is_some_and(|version| version.eq_ignore_ascii_case("v=spf1")));
        match (records.next(), records.next()) {
            (Some(_), Some(_)) => true,
            (Some(record), None) => !record.split(' ').skip(1).all(is_term),
            _ => false,
        }
    }

    async fn spf_output(&self, client: Client<'_>, sender: &str, until: Instant) -> SpfOutput {
        let asked = async {
            let output = self.library_spf(client, sender).await;
            let decided = matches!(output.result(), SpfResult::Fail | SpfResult::SoftFail | SpfResult::Pass);
            if decided && self.is_malformed(output.domain()).await {
                return output.with_result(SpfResult::PermError);
            }
            output
        };
        match timeout_at(until, asked).await {
            Ok(output) => output,
            Err(_) => SpfOutput::default().with_result(SpfResult::TempError),
        }
    }

    async fn library_spf(&self, client: Client<'_>, sender: &str) -> SpfOutput {
        let parameters = if sender.is_empty() {
            SpfParameters::verify_ehlo(client.address, client.helo, client.myhostname)
        } else {
            SpfParameters::verify_mail_from(client.address, client.helo, client.myhostname, sender)
        };
        self.library.verify_spf(parameters).await
    }

    /// SPF of a reverse-path; of HELO for the null one.
    pub async fn spf(&self, client: Client<'_>, sender: &str) -> Spf {
        let output = self.spf_output(client, sender, Instant::now() + PATIENCE).await;
        let verdict = match output.result() {
            SpfResult::Pass => Verdict::Pass,
            SpfResult::Fail => Verdict::Fail,
            SpfResult::SoftFail => Verdict::SoftFail,
            SpfResult::Neutral => Verdict::Neutral,
            SpfResult::TempError => Verdict::TempError,
            SpfResult::PermError => Verdict::PermError,
            SpfResult::None => Verdict::None,
        };
        let explanation = printable(output.explanation().unwrap_or_default());
        Spf { verdict, domain: printable(output.domain()), explanation }
    }

    /// The ARC chain of a message.
    pub(crate) async fn chain<'a>(&self, message: &'a AuthenticatedMessage<'a>, until: Instant) -> ArcOutput<'a> {
        match timeout_at(until, self.library.verify_arc(message)).await {
            Ok(output) => output,
            Err(_) => ArcOutput::default()
                .with_result(DkimResult::TempError(Error::Dns(mail_auth::DnsError::Resolver(String::new())))),
        }
    }

    /// Finds out what is wanted about a message with CRLF line ends; `name` is our name in the results.
    pub async fn verify(&self, message: &[u8], client: Client<'_>, sender: &str, name: &str, wants: Wants) -> Findings {
        let mut findings = Findings::default();
        if wants.is_empty() {
            return findings;
        }
        let parsed = AuthenticatedMessage::parse_with_opts(message, None, true).map(|mut parsed| {
            parsed.dkim_headers.truncate(SIGNATURES);
            parsed.errors.truncate(SIGNATURES);
            parsed
        });
        let until = Instant::now() + PATIENCE;
        let mut results = AuthenticationResults::new(name);
        let spf = match wants.spf || wants.dmarc {
            true => self.spf_output(client, sender, until).await,
            false => SpfOutput::default(),
        };
        let dkim = match &parsed {
            Some(parsed) if wants.dkim || wants.dmarc => timeout_at(until, self.library.verify_dkim(parsed)).await.ok(),
            _ => Some(Vec::new()),
        };
        let mut unsigned = false;
        if wants.dkim {
            match &dkim {
                // The library has no words for this.
                Some(outputs) if outputs.is_empty() => unsigned = true,
                Some(outputs) => {
                    let from = parsed.as_ref().map(AuthenticatedMessage::from).unwrap_or_default();
                    results = results.with_dkim_results(outputs, from);
                }
                None => results = results.with_dkim_result(&mail_auth::DkimOutput::temp_err(no_answer()), ""),
            }
        }
        if wants.spf {
            results = match sender {
                "" => results.with_spf_ehlo_result(&spf, client.address, client.helo),
                _ => results.with_spf_mailfrom_result(&spf, client.address, sender, client.helo),
            };
        }
        if let Some(parsed) = &parsed {
            if wants.dmarc {
                let domain = sender.rsplit_once('@').map_or(client.helo, |(_, domain)| domain);
                let outputs = dkim.as_deref().unwrap_or_default();
                let parameters = dmarc::verify::DmarcParameters::new(parsed, outputs, domain, &spf);
                let output = timeout_at(until, self.library.verify_dmarc(parameters)).await;
                let output = output.unwrap_or_else(|_| {
                    let open = DmarcResult::TempError(no_answer());
                    mail_auth::DmarcOutput::default().with_dkim_result(open.clone()).with_spf_result(open)
                });
                results = results.with_dmarc_result(&output);
                findings.dmarc = Some(read_dmarc(&output, dkim.is_none()));
            }
            if wants.arc {
                let chain = self.chain(parsed, until).await;
                results = results.with_arc_result(&chain, client.address);
                if *chain.result() == DkimResult::Pass {
                    findings.sealed_by = chain.sets().last().map(|set| set.seal.header.d.to_ascii_lowercase());
                }
            }
        }
        let text = results.to_string().replace("\r\n", "\n");
        let others = text.strip_prefix(name).unwrap_or_default();
        findings.results = format!("{name}{}{others}", if unsigned { ";\n\tdkim=none" } else { "" });
        findings
    }
}

/// A word of an SPF record that exists: a mechanism or a modifier.
fn is_term(term: &str) -> bool {
    const MECHANISMS: [&str; 8] = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
    let bare = term.strip_prefix(['+', '-', '~', '?']).unwrap_or(term);
    let end = bare.find([':', '/', '=']).unwrap_or(bare.len());
    let (name, rest) = bare.split_at(end);
    term.is_empty() || rest.starts_with('=') || MECHANISMS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn no_answer() -> Error {
    Error::Dns(mail_auth::DnsError::Resolver("no answer in time".to_owned()))
}

fn read_dmarc(output: &mail_auth::DmarcOutput, dkim_unknown: bool) -> Dmarc {
    let troubled = |result: &DmarcResult| matches!(result, DmarcResult::TempError(_));
    let passed = *output.spf_result() == DmarcResult::Pass || *output.dkim_result() == DmarcResult::Pass;
    let unknown = !passed && (dkim_unknown || troubled(output.spf_result()) || troubled(output.dkim_result()));
    // Without a record there is nothing to fail.
    let failed = output.dmarc_record().is_some() && !passed && !unknown;
    let policy = match output.policy() {
        dmarc::Policy::Reject => Policy::Reject,
        dmarc::Policy::Quarantine => Policy::Quarantine,
        dmarc::Policy::None | dmarc::Policy::Unspecified => Policy::None,
    };
    Dmarc { failed, unknown, policy, domain: printable(output.domain()) }
}

/// A header section (LF line ends) without `Authentication-Results:` fields that claim to be from `name` (RFC 8601
/// section 5); `None` when there is nothing to take out.
pub fn without_our_results(head: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut dropping, mut dropped, mut ended) = (false, false, false);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if line == b"\n" || line == b"\r\n" {
            ended = true;
        }
        if !ended && !line.starts_with(b" ") && !line.starts_with(b"\t") {
            dropping = false;
        }
        if !ended && !dropping && starts_field(line) {
            // The name may stand in a folded line.
            let at = line.as_ptr() as usize - head.as_ptr() as usize;
            dropping = head.get(at..).is_some_and(|rest| claims(rest, name));
            dropped |= dropping;
        }
        if ended || !dropping {
            out.extend_from_slice(line);
        }
    }
    dropped.then_some(out)
}

fn starts_field(line: &[u8]) -> bool {
    const NAME: &[u8] = b"authentication-results";
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    line.get(..colon).is_some_and(|name| name.trim_ascii_end().eq_ignore_ascii_case(NAME))
}

/// The authserv-id of the field at the start of `text` is `name`.
fn claims(text: &[u8], name: &str) -> bool {
    let Some(colon) = text.iter().position(|byte| *byte == b':') else { return false };
    let mut value: &[u8] = text.get(colon + 1..).unwrap_or_default();
    // Comments and folding may stand before it.
    loop {
        value = value.trim_ascii_start();
        if value.first() != Some(&b'(') {
            break;
        }
        let mut depth = 0_u32;
        let end = value.iter().position(|byte| {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some(end) = end else { return false };
        value = value.get(end + 1..).unwrap_or_default();
    }
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let end = value.iter().position(|byte| matches!(byte, b';' | b'"' | b'(') || byte.is_ascii_whitespace());
    value.get(..end.unwrap_or(value.len())).is_some_and(|id| id.eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_results_go() {
        for (head, expected) in [
            ("A: b\nAuthentication-Results: mx.test; spf=pass\n smtp.mailfrom=x\nC: d\n", Some("A: b\nC: d\n")),
            ("authentication-results :\n (c(x)) MX.test 1; x\nC: d\n", Some("C: d\n")),
            ("Authentication-Results: \"mx.test\"; x\n", Some("")),
            ("Authentication-Results: other.test; x\n", None),
            ("Authentication-Results: mx.test.example; x\n", None),
            ("X: y\n\nAuthentication-Results: mx.test; x\n", None),
            ("Authentication-Results: (((\n", None),
            ("", None),
        ] {
            let got = without_our_results(head.as_bytes(), "mx.test");
            assert_eq!(got.as_deref(), expected.map(str::as_bytes), "{head}");
        }
    }
}

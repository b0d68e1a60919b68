//! `yamabiko verify`: addresses looked at before mail is sent to them.
//!
//! Syntax, the domain's mail servers, likely typing errors ([`typing`]), what the ledger remembers, and, only if asked,
//! the server itself ([`probe`]). Lists come in and go out as tables ([`rows`]).

mod probe;
mod rows;
mod tls;
mod typing;

use std::collections::HashMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use yamabiko_config::Config;
use yamabiko_dns::{Answer, Blocking};
use yamabiko_engine::Ours;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::suppress::{FILE, List};
use yamabiko_ledger::{Field, Ledger, Query, State};

use crate::ledger_place::ledger_directory;
use probe::{Probe, Said};

const USAGE: u8 = 64;
/// At least one address is bad.
const BAD: u8 = 1;
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);
/// Domains that are remembered.
const DOMAINS: usize = 100_000;

/// Looks at addresses before mail is sent to them: syntax, domain, typing errors, history.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko verify",
    bin_name = "yamabiko verify",
    after_help = "\"-\" reads a list from standard input: an address in a line, or a table (CSV) of which one column has it; then the \
                  table comes out with columns added.\n\n\
                  Verdicts: ok; doubt (it may work, look at it); bad (do not send); unknown (it could not be found out now).\n\n\
                  Exit status: 0 none is bad; 1 at least one is; 64 wrong usage."
)]
pub struct Options {
    /// Addresses, or "-".
    #[arg(required = true)]
    pub addresses: Vec<String>,
    /// The ledger's directory, instead of that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// A configuration directory, of which the place of the ledger and the name servers are taken.
    #[arg(short = 'c', value_name = "DIR")]
    pub config: Option<String>,
    /// Do not ask DNS.
    #[arg(long)]
    pub no_dns: bool,
    /// Ask the mail server whether it would take the address (nothing is sent). Do this for a few addresses, not for a list:
    /// servers take it for the harvesting of addresses.
    #[arg(long, conflicts_with = "no_dns")]
    pub probe: bool,
    /// With --probe: the sender to ask for; empty is the null sender.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub from: String,
    /// With --probe: the name to say hello with [default: this machine's].
    #[arg(long, value_name = "HOST")]
    pub helo: Option<String>,
    /// With --probe: seconds between two questions to one domain or one server.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub pause: u64,
    /// With --probe: the port of the servers.
    #[arg(long, default_value_t = 25, hide = true)]
    pub port: u16,
    /// The words are domains: ask their mail servers for TLS, and say whether mail would go to them by the configuration (-c),
    /// and why not. Nothing is sent. Exit status: 0 it would, well proved; 1 it would, but nobody knows to whom, or in the
    /// clear; 2 it would not; 3 it could not be found out now.
    #[arg(long, conflicts_with_all = ["no_dns", "probe", "csv", "column"])]
    pub tls: bool,
    /// Name or number (from 1) of the column that has the address.
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// A table, also for addresses of the command line.
    #[arg(long)]
    pub csv: bool,
    /// No progress.
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// How it stands with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Doubt,
    Bad,
    Unknown,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Doubt => "doubt",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    verdict: Verdict,
    /// In words, the gravest first.
    why: Vec<String>,
    /// What was probably meant; empty where nothing is.
    meant: String,
    /// What the ledger has of it last: a state, and the reason.
    history: String,
}

/// What is known of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Domain {
    /// It takes mail at these hosts (addresses are looked up only for probes).
    Hosts(Vec<String>),
    /// It says that it takes none.
    Null,
    /// It has no mail server and no address.
    Nothing,
    /// There is no such domain.
    Missing,
    /// It could not be found out now.
    Later(String),
    /// The configuration takes mail for it here, by this parameter.
    Ours(&'static str),
}

/// Looks at addresses.
struct Verifier {
    ours: Option<Ours>,
    dns: Option<Blocking>,
    ledger: Option<Ledger>,
    suppression: Option<List>,
    probe: Option<Probe>,
    domains: HashMap<String, Domain>,
}

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let words = std::iter::once("yamabiko verify".to_owned()).chain(args.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            // To standard output for help, to standard error otherwise; nothing can be done where that fails.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    if options.tls {
        return tls::run(options.config.as_deref(), &options.addresses);
    }
    match verified(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(BAD),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yamabiko verify: {error}");
            ExitCode::from(if error.kind() == io::ErrorKind::InvalidInput { USAGE } else { BAD })
        }
    }
}

/// The name servers of the configuration, where there is one: mail goes where they say.
fn dns(config: Option<&Config>) -> io::Result<Blocking> {
    match config {
        Some(config) => {
            let resolver = yamabiko_engine::resolver(config);
            Blocking::with(Arc::new(resolver.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?))
        }
        None => Blocking::system(),
    }
}

/// How many are bad.
fn verified(options: &Options) -> io::Result<u64> {
    let directory = ledger_directory(options.ledger.as_deref(), options.config.as_deref());
    let name = || {
        nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let config = crate::context::instance(options.config.as_deref(), true).load().ok();
    let mut verifier = Verifier {
        ours: config.as_deref().and_then(Ours::of),
        dns: if options.no_dns { None } else { Some(dns(config.as_deref())?) },
        ledger: directory.is_dir().then(|| Ledger::open(&directory)),
        suppression: match directory.join(FILE) {
            list if list.is_file() => {
                Some(List::open_for_reading(&list).map_err(|error| io::Error::other(error.to_string()))?)
            }
            _ => None,
        },
        probe: options.probe.then(|| {
            let helo = options.helo.clone().unwrap_or_else(name);
            Probe::new(helo, options.from.clone(), Duration::from_secs(options.pause), options.port)
        }),
        domains: HashMap::new(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    if options.addresses.iter().any(|address| address == "-") {
        return list(options, &mut verifier, &mut io::stdin().lock(), &mut out);
    }
    let mut bad = 0;
    if options.csv {
        out.write_all(b"address,verdict,meant,why,history\r\n")?;
    }
    for address in &options.addresses {
        let found = verifier.look(address);
        bad += u64::from(found.verdict == Verdict::Bad);
        if options.csv {
            row(&mut out, std::slice::from_ref(address), &found)?;
        } else {
            words(&mut out, address, &found)?;
        }
        out.flush()?;
    }
    Ok(bad)
}

fn words(out: &mut impl Write, address: &str, found: &Found) -> io::Result<()> {
    writeln!(out, "{:8}{address}", found.verdict.word())?;
    if !found.meant.is_empty() {
        writeln!(out, "        did you mean {}?", found.meant)?;
    }
    for why in &found.why {
        writeln!(out, "        {why}")?;
    }
    if !found.history.is_empty() {
        writeln!(out, "        history: {}", found.history)?;
    }
    Ok(())
}

fn row(out: &mut impl Write, fields: &[String], found: &Found) -> io::Result<()> {
    let added = [found.verdict.word(), &found.meant, &found.why.join("; "), &found.history];
    let mut line = Vec::new();
    for (at, field) in fields.iter().map(String::as_str).chain(added).enumerate() {
        if at > 0 {
            line.push(b',');
        }
        crate::analyze::record::csv_value(&mut line, field);
    }
    line.extend_from_slice(b"\r\n");
    out.write_all(&line)
}

/// A list from standard input.
fn list(options: &Options, verifier: &mut Verifier, input: &mut impl BufRead, out: &mut impl Write) -> io::Result<u64> {
    let shows = !options.quiet && io::stderr().is_terminal();
    let (mut bad, mut seen, mut column) = (0, 0_u64, None);
    let mut line = Vec::new();
    let mut told = Instant::now();
    loop {
        line.clear();
        // A value with line ends in it: bounded, as nobody has such addresses.
        while io::Read::take(&mut *input, 1 << 16).read_until(b'\n', &mut line)? > 0 {
            if line.len() >= 1 << 16 || !rows::is_open(&String::from_utf8_lossy(&line)) {
                break;
            }
        }
        if line.is_empty() {
            break;
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        let fields = rows::split(text);
        let at = match column {
            Some(at) => at,
            None => {
                let (at, heading) = chosen(options, &fields)?;
                column = Some(at);
                let mut names: Vec<String> = if heading {
                    fields.clone()
                } else {
                    (1..=fields.len())
                        .map(|n| if n == at + 1 { "address".to_owned() } else { format!("column{n}") })
                        .collect()
                };
                names.extend(["verdict", "meant", "why", "history"].map(str::to_owned));
                let mut head = Vec::new();
                for (at, name) in names.iter().enumerate() {
                    if at > 0 {
                        head.push(b',');
                    }
                    crate::analyze::record::csv_value(&mut head, name);
                }
                head.extend_from_slice(b"\r\n");
                out.write_all(&head)?;
                if heading {
                    continue;
                }
                at
            }
        };
        let found = verifier.look(fields.get(at).map_or("", String::as_str));
        bad += u64::from(found.verdict == Verdict::Bad);
        row(out, &fields, &found)?;
        if options.probe {
            // A question takes seconds: what was found out is not to be lost with whoever has no more patience.
            out.flush()?;
        }
        seen += 1;
        if shows && told.elapsed() >= PROGRESS {
            told = Instant::now();
            eprint!("\r{seen} addresses, {bad} bad ");
        }
    }
    if shows {
        eprintln!("\r{seen} addresses, {bad} bad ");
    }
    out.flush()?;
    Ok(bad)
}

fn chosen(options: &Options, first: &[String]) -> io::Result<(usize, bool)> {
    let Some(wanted) = &options.column else { return Ok(rows::column(first)) };
    if let Ok(number) = wanted.parse::<usize>()
        && number > 0
    {
        return Ok((number - 1, !first.get(number - 1).is_some_and(|field| field.contains('@'))));
    }
    match first.iter().position(|field| field.trim().eq_ignore_ascii_case(wanted)) {
        Some(at) => Ok((at, true)),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no column {wanted} in the first line")))
        }
    }
}

/// Local part and domain, or what is wrong.
fn parts(address: &str) -> Result<(&str, &str), String> {
    let Some((local, domain)) = address.rsplit_once('@') else { return Err("it has no @".to_owned()) };
    if local.is_empty() {
        return Err("nothing stands before the @".to_owned());
    }
    if domain.is_empty() {
        return Err("nothing stands behind the @".to_owned());
    }
    if local.len() > 64 || address.len() > 254 {
        return Err("it is too long".to_owned());
    }
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    if !quoted && let Some(bad) = local.chars().find(|c| c.is_control() || " \"(),:;<>@[\\]".contains(*c)) {
        return Err(format!("{bad:?} cannot stand before the @"));
    }
    let ascii = yamabiko_address::domain::to_ascii(domain);
    if !ascii.as_deref().is_some_and(yamabiko_address::domain::valid_mail_domain) {
        return Err(format!("{domain} is no domain name"));
    }
    if !domain.contains('.') && !domain.starts_with('[') {
        return Err(format!("{domain} has no dot"));
    }
    Ok((local, domain))
}

impl Verifier {
    fn look(&mut self, typed: &str) -> Found {
        let mut found = Found { verdict: Verdict::Ok, why: Vec::new(), meant: String::new(), history: String::new() };
        let tidy = typing::tidied(typed);
        if tidy != typed.trim() {
            found.meant.clone_from(&tidy);
            found.verdict = Verdict::Doubt;
            found.why.push("it has signs that do not belong to an address".to_owned());
        }
        let (local, domain) = match parts(&tidy) {
            Ok(parts) => parts,
            Err(why) => {
                found.verdict = Verdict::Bad;
                found.why.insert(0, why);
                return found;
            }
        };
        let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        if dots && !local.starts_with('"') {
            let real = matches!(domain.to_ascii_lowercase().as_str(), "docomo.ne.jp" | "ezweb.ne.jp" | "au.com");
            found.why.push(if real {
                "dots in places where only old mobile addresses have them; such addresses exist".to_owned()
            } else {
                found.verdict = Verdict::Doubt;
                "a dot at the edge of the local part, or two together: RFC 5321 does not know that".to_owned()
            });
        }
        let meant = typing::meant(domain);
        let known = self.domain(domain);
        self.judge_domain(&mut found, local, domain, meant, known.as_ref());
        self.judge_history(&mut found, &tidy);
        self.judge_suppression(&mut found, &tidy);
        if found.verdict != Verdict::Bad
            && let Some(Domain::Hosts(hosts)) = known
        {
            self.ask(&mut found, domain, &hosts, &tidy);
        }
        found
    }

    fn judge_domain(&self, found: &mut Found, local: &str, domain: &str, meant: Option<&str>, known: Option<&Domain>) {
        if let Some(meant) = meant {
            found.meant = format!("{local}@{meant}");
        }
        let bad = |found: &mut Found, why: String| {
            found.verdict = Verdict::Bad;
            found.why.insert(0, why);
        };
        match known {
            Some(Domain::Missing) => bad(found, format!("there is no domain {domain}")),
            Some(Domain::Nothing) => bad(found, format!("{domain} has no mail server")),
            Some(Domain::Null) => bad(found, format!("{domain} takes no mail at all (null MX)")),
            Some(Domain::Later(why)) => {
                if found.verdict == Verdict::Ok {
                    found.verdict = Verdict::Unknown;
                }
                found.why.push(format!("DNS gives no answer now: {why}"));
            }
            Some(Domain::Ours(parameter)) => found.why.push(format!("mail for {domain} is taken here ({parameter})")),
            Some(Domain::Hosts(_)) | None => {}
        }
        if meant.is_some() && found.verdict != Verdict::Bad {
            found.verdict = Verdict::Doubt;
            found.why.insert(0, "it looks like a typing error".to_owned());
        }
    }

    /// What the configuration and DNS say of a domain; `None` where neither is asked.
    fn domain(&mut self, domain: &str) -> Option<Domain> {
        let name = yamabiko_address::domain::to_ascii(domain)?.to_ascii_lowercase();
        if name.starts_with('[') {
            return Some(Domain::Hosts(Vec::new()));
        }
        if let Some(known) = self.domains.get(&name) {
            return Some(known.clone());
        }
        let taken = self.ours.as_ref().and_then(|ours| ours.taken_by(&format!("postmaster@{name}")));
        let known = match (taken, &self.dns) {
            (Some(parameter), _) => Domain::Ours(parameter),
            (None, Some(dns)) => Self::in_dns(dns, &name),
            (None, None) => return None,
        };
        if self.domains.len() >= DOMAINS {
            self.domains.clear();
        }
        self.domains.insert(name, known.clone());
        Some(known)
    }

    fn in_dns(dns: &Blocking, name: &str) -> Domain {
        match dns.mx(name) {
            Answer::Found { mut records, .. } => {
                records.sort_by_key(|mx| mx.preference);
                if records.iter().all(|mx| mx.is_null()) {
                    Domain::Null
                } else {
                    Domain::Hosts(records.into_iter().map(|mx| mx.exchange).collect())
                }
            }
            Answer::NotFound => Domain::Missing,
            // Without MX the address of the domain itself is its mail server.
            Answer::NoData => match dns.addresses(name) {
                Answer::Found { .. } => Domain::Hosts(vec![name.to_owned()]),
                Answer::NoData | Answer::NotFound => Domain::Nothing,
                Answer::TryAgain(why) | Answer::Fail(why) => Domain::Later(why),
            },
            Answer::TryAgain(why) | Answer::Fail(why) => Domain::Later(why),
        }
    }

    fn judge_history(&mut self, found: &mut Found, address: &str) {
        let Some(ledger) = &mut self.ledger else { return };
        let query =
            Query { limit: 20, ..Query::new(Field::Recipient, yamabiko_address::unquote(address).into_owned()) };
        let histories = match ledger.histories(&query) {
            Ok(histories) => histories,
            Err(error) => {
                found.why.push(format!("the ledger cannot be read: {error}"));
                return;
            }
        };
        let now = Timestamp::now();
        let mut verdicts = histories.iter().map(|history| {
            let verdict = history.verdict(now, Duration::from_secs(7 * 86_400));
            let decided = verdict.decided_by.and_then(|at| history.entries.get(at));
            (
                verdict.state,
                decided.map_or("", |entry| entry.reason.as_str()),
                decided.map_or(history.ended(), |entry| entry.at),
            )
        });
        // The newest that says something.
        let Some((state, reason, at)) = verdicts.find(|(state, ..)| state.is_good() || state.is_failure()) else {
            return;
        };
        let day = jiff::Timestamp::from_second(i64::try_from(at.seconds()).unwrap_or(0)).unwrap_or_default();
        found.history = format!("{} {} {}", day.strftime("%Y-%m-%d"), state.word(), reason).trim_end().to_owned();
        let hard = reason.parse::<yamabiko_analyze::Reason>().is_ok_and(|reason| reason.is_hard(5));
        match state {
            State::Suppressed => {
                found.verdict = Verdict::Bad;
                found.why.insert(0, "it is on the suppression list".to_owned());
            }
            State::Complained => {
                found.verdict = Verdict::Bad;
                found.why.insert(0, "the recipient complained".to_owned());
            }
            state if state.is_failure() && hard => {
                found.verdict = Verdict::Bad;
                found.why.insert(0, "mail to it came back last time, for good".to_owned());
            }
            state if state.is_failure() && found.verdict == Verdict::Ok => {
                found.verdict = Verdict::Doubt;
                found.why.insert(0, "mail to it did not arrive last time".to_owned());
            }
            _ => {}
        }
    }

    fn judge_suppression(&self, found: &mut Found, address: &str) {
        let Some(list) = &self.suppression else { return };
        match list.find(&yamabiko_address::unquote(address), "", Timestamp::now()) {
            Ok(Some(entry)) => {
                found.verdict = Verdict::Bad;
                let why = format!("it is on the suppression list ({})", entry.reason);
                if !found.why.iter().any(|known| known.starts_with("it is on the suppression list")) {
                    found.why.insert(0, why);
                }
            }
            Ok(None) => {}
            Err(error) => found.why.push(format!("the suppression list cannot be read: {error}")),
        }
    }

    fn ask(&mut self, found: &mut Found, domain: &str, hosts: &[String], address: &str) {
        let (Some(probe), Some(dns)) = (&mut self.probe, &self.dns) else { return };
        let Some(name) = yamabiko_address::domain::to_ascii(domain) else { return };
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let addresses: Vec<IpAddr> = match literal {
            Some(literal) => literal.strip_prefix("IPv6:").unwrap_or(literal).parse().into_iter().collect(),
            None => hosts.iter().take(3).flat_map(|host| dns.addresses(host).records().to_vec()).collect(),
        };
        let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
        let nobody = format!("yamabiko-verify-{:x}@{name}", Timestamp::now().0);
        match probe.ask(&name.to_ascii_lowercase(), &addresses, &format!("{local}@{name}"), &nobody) {
            Said::Yes => found.why.push("its server would take it".to_owned()),
            Said::All => found.why.push("its server takes every address: that says nothing".to_owned()),
            Said::Unwilling(text) => {
                if matches!(found.verdict, Verdict::Ok | Verdict::Unknown) {
                    found.verdict = Verdict::Doubt;
                }
                found.why.insert(0, format!("its server would refuse it now: {text}"));
            }
            Said::No(text) => {
                found.verdict = Verdict::Bad;
                found.why.insert(0, format!("its server refuses it: {text}"));
            }
            Said::Later(text) => {
                if found.verdict == Verdict::Ok {
                    found.verdict = Verdict::Unknown;
                }
                found.why.push(format!("its server did not say: {text}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_dns::FakeResolver;

    fn verifier() -> Verifier {
        let zone = "good.example MX 10 mx.good.example\nnull.example MX 0 .\nonly.example A 192.0.2.1\n\
                    empty.example TXT x\nicliud.com MX 10 mx.good.example\n";
        let fake = FakeResolver::parse(zone).unwrap();
        Verifier {
            ours: None,
            dns: Some(Blocking::with(Arc::new(fake)).unwrap()),
            ledger: None,
            suppression: None,
            probe: None,
            domains: HashMap::new(),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn verdicts() {
        let mut verifier = verifier();
        for (address, verdict, meant) in [
            ("a@good.example", Verdict::Ok, ""),
            ("a@only.example", Verdict::Ok, ""),
            ("a@null.example", Verdict::Bad, ""),
            ("a@empty.example", Verdict::Bad, ""),
            ("a@nowhere.example", Verdict::Bad, ""),
            ("a@gmial.com", Verdict::Bad, "a@gmail.com"),
            ("a@icliud.com", Verdict::Doubt, "a@icloud.com"),
            ("a..b@good.example", Verdict::Doubt, ""),
            ("ａ@good.example", Verdict::Doubt, "a@good.example"),
            ("good.example", Verdict::Bad, ""),
            ("@good.example", Verdict::Bad, ""),
            ("a@", Verdict::Bad, ""),
            ("a@b@good.example", Verdict::Bad, ""),
            ("a@-x.example", Verdict::Bad, ""),
            ("a@example", Verdict::Bad, ""),
            ("", Verdict::Bad, ""),
        ] {
            let found = verifier.look(address);
            assert_eq!((found.verdict, found.meant.as_str()), (verdict, meant), "{address}: {found:?}");
        }
    }

    #[test]
    fn tables_keep_their_columns() {
        let options = Options::try_parse_from(["verify", "-", "-q"]).unwrap();
        let mut out = Vec::new();
        let mut input = "id,mail,note\n1,a@good.example,\"x, y\"\n2,b@gmial.com,\n\n".as_bytes();
        assert_eq!(list(&options, &mut verifier(), &mut input, &mut out).unwrap(), 1);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "id,mail,note,verdict,meant,why,history");
        assert_eq!(lines[1], "1,a@good.example,\"x, y\",ok,,,");
        assert_eq!(lines[2], "2,b@gmial.com,,bad,b@gmail.com,there is no domain gmial.com,");
    }
}

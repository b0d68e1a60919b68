//! `yamabiko suppress`: the list of addresses that are not mailed, for people, scripts and Postfix.

mod serve;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::suppress::{BUILT_IN, FILE, List, Rules, Suppressed, foreign};
use yamabiko_ledger::{Error, Ledger, json};

use crate::context::exit;
use crate::fate::{ask, place, quoted};
use crate::ledger_place::hand_to_owner;

/// Addresses that are not mailed: why, since when, until when.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko suppress",
    bin_name = "yamabiko suppress",
    after_help = "Exit status: 0 done, or `check` found nobody; 1 `check` found somebody, or nothing was there to be done; \
                  64 wrong usage; 65 a rules file has a fault; 66 the list could not be read."
)]
struct Options {
    /// The configuration directory of the mail system.
    #[arg(short = 'c', long = "config", value_name = "DIR", global = true)]
    config: Option<String>,
    /// The ledger's directory, instead of that of the configuration.
    #[arg(long, value_name = "DIR", global = true)]
    ledger: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Everybody on the list.
    List {
        /// One JSON object for each.
        #[arg(long)]
        json: bool,
    },
    /// Puts an address (or @domain) onto the list.
    Add {
        /// The address.
        address: String,
        /// Why, in a word.
        #[arg(long, default_value = "manual")]
        reason: String,
        /// A note.
        #[arg(long, default_value = "")]
        note: String,
        /// Until when: 2026-12-31 [default: for ever].
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// For mail of this sender domain only.
        #[arg(long, value_name = "DOMAIN", default_value = "")]
        sender: String,
    },
    /// Takes addresses off, and forgets what spoke against them.
    Remove {
        /// The addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Whether addresses are on the list; `-` reads them from standard input.
    Check {
        /// The addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
        /// Of mail of this sender.
        #[arg(long, default_value = "")]
        sender: String,
    },
    /// Why an address is on the list, or what speaks against it so far.
    Why {
        /// The address.
        address: String,
    },
    /// Reads a list of Amazon SES, SendGrid, Mailgun, Postal, bounceHammer, or plain addresses; `-` is standard input.
    Import {
        /// The file.
        file: String,
        /// Whose list it is, for the records.
        #[arg(long, default_value = "a file")]
        from: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// The list as CSV, or as a table for postmap.
    Export {
        /// As a text table for check_recipient_access.
        #[arg(long)]
        access: bool,
    },
    /// Goes through the ledger and puts onto the list whoever belongs there by the rules.
    Learn {
        /// Only what happened since: 30d.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// The rules, instead of suppression_rules_file.
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// Reports count too that anybody can have written: from hosts that have nothing to do with the message.
        #[arg(long)]
        unproven: bool,
    },
    /// Shows the rules in force, or checks a file of rules.
    Rules {
        /// The file.
        file: Option<PathBuf>,
    },
    /// Answers Postfix: `check_recipient_access tcp:127.0.0.1:10030`, `socketmap:inet:127.0.0.1:10030:suppress`.
    Serve {
        /// Where to listen: an address and port, or a path for a UNIX-domain socket.
        #[arg(default_value = "127.0.0.1:10030")]
        listen: String,
        /// Speak socketmap_table(5) instead of tcp_table(5).
        #[arg(long)]
        socketmap: bool,
        /// Speak the protocol of `check_policy_service`, which says who sends: entries for one sender domain count then.
        #[arg(long, conflicts_with = "socketmap")]
        policy: bool,
    },
}

/// What went wrong.
enum Trouble {
    Usage(String),
    Rules(String),
    Input(String),
    Output(io::Error),
}

impl Action {
    fn writes(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Remove { .. } | Self::Import { .. } | Self::Learn { .. })
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Input(error.to_string())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the command.
pub fn run(args: &[String]) -> ExitCode {
    let words = std::iter::once("yamabiko suppress".to_owned()).chain(args.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let (code, text) = match act(&options) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::from(1),
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Trouble::Usage(text)) => (exit::USAGE, text),
        Err(Trouble::Rules(text)) => (65, text),
        Err(Trouble::Input(text)) => (66, text),
        Err(Trouble::Output(error)) => (exit::OSERR, error.to_string()),
    };
    eprintln!("yamabiko suppress: {text}");
    ExitCode::from(code)
}

fn act(options: &Options) -> Result<bool, Trouble> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let out: &mut dyn Write = &mut out;
    if let Action::Rules { file: Some(file) } = &options.action {
        rules_of(file)?;
        writeln!(out, "{}: the rules are well", file.display())?;
        return Ok(true);
    }
    let directory = place(options.ledger.clone(), options.config.as_deref()).map_err(Trouble::Usage)?.directory;
    let shelf = Shelf { path: directory.join(FILE), directory, now: Timestamp::now() };
    let done = on_the_shelf(options, &shelf, out);
    if options.action.writes() {
        hand_to_owner(&shelf.directory, options.config.as_deref());
    }
    done
}

fn on_the_shelf(options: &Options, shelf: &Shelf, out: &mut dyn Write) -> Result<bool, Trouble> {
    match &options.action {
        Action::List { json } => {
            let all = shelf.all()?;
            for entry in &all {
                match json {
                    true => writeln!(out, "{}", object(entry))?,
                    false => writeln!(out, "{}", line(entry))?,
                }
            }
            Ok(true)
        }
        Action::Add { address, reason, note, until, sender } => {
            shelf.add(address, reason, note, until.as_deref(), sender, out)
        }
        Action::Remove { addresses } => shelf.remove(addresses, out),
        Action::Check { addresses, sender } => shelf.check(addresses, sender, out),
        Action::Why { address } => why(&shelf.open()?, address.trim_matches(['<', '>']), shelf.now, out),
        Action::Import { file, from, dry_run } => shelf.import(file, from, *dry_run, out),
        Action::Export { access } => {
            export(&shelf.all()?, *access, out)?;
            Ok(true)
        }
        Action::Learn { since, rules, unproven } => {
            let rules = match rules {
                Some(file) => rules_of(file)?,
                None => in_force(options)?.1,
            };
            let rules = if *unproven { rules.believing_all() } else { rules };
            let new = shelf.learn(since.as_deref(), &rules)?;
            writeln!(out, "{new} addresses were put onto the list")?;
            Ok(true)
        }
        Action::Rules { .. } => {
            let (text, _) = in_force(options)?;
            write!(out, "{text}")?;
            Ok(true)
        }
        Action::Serve { listen, socketmap, policy } => {
            let protocol = match (socketmap, policy) {
                (true, _) => serve::Protocol::Socketmap,
                (_, true) => serve::Protocol::Policy,
                _ => serve::Protocol::Table,
            };
            serve::run(&shelf.path, listen, protocol).map_err(|error| Trouble::Input(format!("{listen}: {error}")))?;
            Ok(true)
        }
    }
}

/// Where the list is, and when it is looked at.
struct Shelf {
    directory: PathBuf,
    path: PathBuf,
    now: Timestamp,
}

impl Shelf {
    /// The list, made if it is not there.
    fn open(&self) -> Result<List, Trouble> {
        std::fs::create_dir_all(&self.directory)
            .map_err(|error| Trouble::Input(format!("{}: {error}", self.directory.display())))?;
        Ok(List::open(&self.path)?)
    }

    /// Everybody who is kept back now; nobody where there is no list.
    fn all(&self) -> Result<Vec<Suppressed>, Trouble> {
        let mut all = Vec::new();
        if self.path.exists() {
            List::open_for_reading(&self.path)?.each(self.now, |entry| all.push(entry))?;
        }
        Ok(all)
    }

    fn moment(&self, text: Option<&str>) -> Result<Option<Timestamp>, Trouble> {
        text.map(|text| ask::moment(text, self.now)).transpose().map_err(Trouble::Usage)
    }

    fn add(
        &self,
        address: &str,
        reason: &str,
        note: &str,
        until: Option<&str>,
        sender: &str,
        out: &mut dyn Write,
    ) -> Result<bool, Trouble> {
        let until = self.moment(until)?;
        if until.is_some_and(|until| until <= self.now) {
            return Err(Trouble::Usage("--until: that is over already".to_owned()));
        }
        let address = address.trim_matches(['<', '>']);
        if !address.contains('@') {
            return Err(Trouble::Usage(format!("{address}: neither an address nor @domain")));
        }
        let entry = Suppressed {
            address: address.to_owned(),
            sender: sender.trim_start_matches('@').to_ascii_lowercase(),
            reason: reason.to_owned(),
            evidence: note.to_owned(),
            since: self.now,
            until,
            source: format!("operator {}", crate::context::caller()),
        };
        let new = self.open()?.add(&entry)?;
        writeln!(out, "{address}: {}", if new { "added" } else { "is there already, and for longer" })?;
        Ok(new)
    }

    fn remove(&self, addresses: &[String], out: &mut dyn Write) -> Result<bool, Trouble> {
        let list = self.open()?;
        let mut any = false;
        for address in addresses {
            let gone = list.remove(address.trim_matches(['<', '>']), None)?;
            any |= gone;
            writeln!(out, "{address}: {}", if gone { "removed" } else { "is not there" })?;
        }
        Ok(any)
    }

    fn check(&self, addresses: &[String], sender: &str, out: &mut dyn Write) -> Result<bool, Trouble> {
        let mut addresses = addresses.to_owned();
        if addresses == ["-"] {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text)?;
            addresses = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        }
        if !self.path.exists() {
            return Ok(true);
        }
        let list = List::open_for_reading(&self.path)?;
        let mut nobody = true;
        for address in addresses {
            if let Some(entry) = list.find(address.trim_matches(['<', '>']), sender, self.now)? {
                nobody = false;
                writeln!(out, "{}", line(&Suppressed { address, ..entry }))?;
            }
        }
        Ok(nobody)
    }

    fn import(&self, file: &str, from: &str, dry_run: bool, out: &mut dyn Write) -> Result<bool, Trouble> {
        let mut bytes = Vec::new();
        match file {
            "-" => {
                io::stdin().lock().read_to_end(&mut bytes)?;
            }
            file => bytes = std::fs::read(file).map_err(|error| Trouble::Input(format!("{file}: {error}")))?,
        }
        let found = foreign::read(&String::from_utf8_lossy(&bytes), from, self.now);
        let mut new = 0usize;
        if !dry_run {
            let list = self.open()?;
            for entry in &found.entries {
                new += usize::from(list.add(entry)?);
            }
        }
        let (all, passed) = (found.entries.len(), found.passed_over);
        writeln!(
            out,
            "{all} addresses, {new} of them new; {passed} passed over (no fault of the address); {} not read",
            found.unread.len()
        )?;
        if let Some(first) = found.unread.first() {
            writeln!(out, "the first that was not read is number {first}")?;
        }
        Ok(all > 0)
    }

    /// How many addresses of the ledger are new on the list.
    fn learn(&self, since: Option<&str>, rules: &Rules) -> Result<u64, Trouble> {
        let since = self.moment(since)?;
        let list = self.open()?;
        let mut ledger = Ledger::open(&self.directory);
        let (mut new, mut failed) = (0u64, None);
        ledger.each(since, None, |entry| match list.judge(rules, &entry) {
            Ok(found) => {
                new += u64::from(found.is_some());
                true
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        })?;
        failed.map_or(Ok(new), |error| Err(error.into()))
    }
}

fn export(all: &[Suppressed], access: bool, out: &mut dyn Write) -> io::Result<()> {
    if !access {
        writeln!(out, "address,sender,reason,evidence,since,until,source")?;
    }
    for entry in all {
        match access {
            // A table is not told who sends.
            true if entry.sender.is_empty() => {
                let key = entry.address.strip_prefix('@').unwrap_or(&entry.address);
                writeln!(out, "{key} {}", yamabiko_ledger::suppress::table::action(entry))?;
            }
            true => {}
            false => {
                let until = entry.until.map(json::time).unwrap_or_default();
                let since = json::time(entry.since);
                let fields =
                    [&entry.address, &entry.sender, &entry.reason, &entry.evidence, &since, &until, &entry.source];
                writeln!(out, "{}", fields.map(|field| quoted(field)).join(","))?;
            }
        }
    }
    Ok(())
}

fn rules_of(file: &std::path::Path) -> Result<Rules, Trouble> {
    let text = std::fs::read_to_string(file).map_err(|error| Trouble::Input(format!("{}: {error}", file.display())))?;
    Rules::parse(&text).map_err(|error| Trouble::Rules(format!("{}, {error}", file.display())))
}

/// The text of the rules in force, and the rules.
fn in_force(options: &Options) -> Result<(String, Rules), Trouble> {
    let mail_system = crate::context::instance(options.config.as_deref(), true);
    let config = mail_system.load().ok().or_else(|| mail_system.load_unchecked());
    let main = config.as_ref().map(|config| config.main());
    let checks = main.as_ref().is_none_or(|main| main.bool("suppression_report_checks"));
    let judging = |rules: Rules| if checks { rules } else { rules.believing_all() };
    let file = main.map(|main| main.text("suppression_rules_file")).unwrap_or_default();
    if file.is_empty() {
        return Ok((BUILT_IN.to_owned(), judging(Rules::default())));
    }
    let path = std::path::Path::new(&file);
    let text = std::fs::read_to_string(path).map_err(|error| Trouble::Input(format!("{file}: {error}")))?;
    Ok((text, judging(rules_of(path)?)))
}

fn why(list: &List, address: &str, now: Timestamp, out: &mut dyn Write) -> Result<bool, Trouble> {
    let entries = list.about(address)?;
    let strikes = list.strikes(address)?;
    let in_force = list.find(address, "", now)?;
    match &in_force {
        Some(entry) => writeln!(out, "{address} is on the list: {}", line(entry))?,
        None if entries.is_empty() => writeln!(out, "{address} is not on the list")?,
        None => writeln!(out, "{address} is not kept back for everybody now; there is:")?,
    }
    for entry in entries.iter().filter(|entry| in_force.as_ref() != Some(entry)) {
        writeln!(out, "  {}", line(entry))?;
    }
    for (reason, at, evidence) in &strikes {
        writeln!(out, "  {}  {reason}  {evidence}", json::time(*at))?;
    }
    Ok(in_force.is_some() || !entries.is_empty() || !strikes.is_empty())
}

fn line(entry: &Suppressed) -> String {
    let day = |at: Timestamp| json::time(at).get(..10).unwrap_or_default().to_owned();
    let until = entry.until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", day(until)));
    let sender = if entry.sender.is_empty() { String::new() } else { format!("  for mail of {}", entry.sender) };
    let text = format!(
        "{}  {}  since {} {until}{sender}  {}  ({})",
        entry.address,
        entry.reason,
        day(entry.since),
        entry.evidence,
        entry.source
    );
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn object(entry: &Suppressed) -> serde_json::Value {
    serde_json::json!({
        "address": entry.address,
        "sender_domain": entry.sender,
        "reason": entry.reason,
        "evidence": entry.evidence,
        "since": json::time(entry.since),
        "until": entry.until.map(json::time),
        "source": entry.source,
    })
}

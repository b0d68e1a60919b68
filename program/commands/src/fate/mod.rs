//! `yamabiko fate`: what became of a message, in words first, then the whole history.
//!
//! It reads the ledger's files and nothing else: a running engine is not needed, and not asked. A ledger that only
//! `yamabiko import` has written serves as well.

pub(crate) mod ask;
mod follow;
mod show;
mod summary;
mod words;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Field, History, Ledger, Query, State, json};

use crate::context::{exit, instance};
pub(crate) use show::quoted;
use words::Language;

/// What became of it: for an address, a domain, a queue ID, a Message-ID, the ID at the next hop, a pasted bounce or log line.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko fate",
    bin_name = "yamabiko fate",
    after_help = "Exit status: 0 something was found; 1 nothing was; 64 wrong usage; 66 the ledger could not be read."
)]
pub struct Options {
    /// What to ask for; `-` reads a bounce or a log line from standard input.
    pub query: Vec<String>,
    /// The configuration directory of the mail system.
    #[arg(short = 'c', long = "config", value_name = "DIR")]
    pub config: Option<String>,
    /// The ledger's directory, instead of that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// Messages of this envelope sender.
    #[arg(long, value_name = "ADDRESS")]
    pub sender: Option<String>,
    /// Only where something happened since: 2026-11-01, 2026-11-01T09:00, 36h, 7d.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what began before.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only these states, separated by commas: bounced, late-bounced, deferred, sent, ...
    #[arg(long, value_delimiter = ',', value_parser = state)]
    pub state: Vec<State>,
    /// Only these reasons, separated by commas: userunknown, mailboxfull, ...
    #[arg(long, value_delimiter = ',')]
    pub reason: Vec<String>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
    /// One JSON object for each recipient.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// A table with one line for each recipient, for spreadsheets.
    #[arg(long)]
    pub csv: bool,
    /// Counts by destination, reason, sender or day.
    #[arg(long, value_enum)]
    pub summary: Option<By>,
    /// Show what happens from now on, until interrupted.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Every history whole, however many there are.
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Language of sentences: en or ja [default: that of the locale].
    #[arg(long, value_enum)]
    pub lang: Option<Language>,
    /// Look at every file of the ledger for damage.
    #[arg(long)]
    pub check: bool,
    /// Copy the ledger into a directory, while it is written to.
    #[arg(long, value_name = "DIR")]
    pub backup: Option<PathBuf>,
}

/// What counts are put together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Domain of the recipient.
    Destination,
    /// Why.
    Reason,
    /// Domain of the sender.
    Sender,
    /// Day.
    Day,
}

/// The ledger could not be read.
const NO_INPUT: u8 = 66;
/// Histories that are shown whole where there are more.
const WHOLE: usize = 5;

fn state(word: &str) -> Result<State, String> {
    State::named(word).ok_or_else(|| {
        let known: Vec<&str> = State::ALL.iter().map(|state| state.word()).collect();
        format!("no such state; there are {}", known.join(", "))
    })
}

/// Where a ledger is, and after how long silence counts as success.
pub struct Place {
    /// Its directory.
    pub directory: PathBuf,
    /// `ledger_quiet_time`
    pub quiet: Duration,
}

/// The ledger that is meant: the directory named, or that of the configuration, or the user's own.
pub fn place(ledger: Option<PathBuf>, config: Option<&str>) -> Result<Place, String> {
    let mail_system = instance(config, true);
    let loaded = mail_system.load().ok().or_else(|| mail_system.load_unchecked());
    let quiet =
        loaded.as_ref().map_or(Duration::from_secs(7 * 86_400), |config| config.main().duration("ledger_quiet_time"));
    if let Some(directory) = ledger {
        return Ok(Place { directory, quiet });
    }
    Ok(Place { directory: crate::ledger_place::ledger_directory(None, config), quiet })
}

/// Runs the command.
pub fn run(args: &[String]) -> ExitCode {
    let options = match Options::try_parse_from(std::iter::once("yamabiko fate".to_owned()).chain(args.iter().cloned()))
    {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match answer(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Trouble::Usage(text)) => {
            eprintln!("yamabiko fate: {text}");
            ExitCode::from(exit::USAGE)
        }
        Err(Trouble::Ledger(text)) => {
            eprintln!("yamabiko fate: {text}");
            ExitCode::from(NO_INPUT)
        }
        // Whoever reads has had enough.
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Trouble::Output(error)) => {
            eprintln!("yamabiko fate: {error}");
            ExitCode::from(exit::OSERR)
        }
    }
}

enum Trouble {
    Usage(String),
    Ledger(String),
    Output(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<yamabiko_ledger::Error> for Trouble {
    fn from(error: yamabiko_ledger::Error) -> Self {
        Self::Ledger(error.to_string())
    }
}

fn answer(options: &Options) -> Result<bool, Trouble> {
    let place = place(options.ledger.clone(), options.config.as_deref()).map_err(Trouble::Usage)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let language = options.lang.unwrap_or_else(Language::of_locale);
    if options.check {
        return check(&place, &mut out);
    }
    if let Some(to) = &options.backup {
        let copied = yamabiko_ledger::backup(&place.directory, to)?;
        writeln!(out, "{copied} files copied to {}", to.display())?;
        return Ok(true);
    }
    let now = Timestamp::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| ask::moment(text, now)).transpose();
    let since = moment(&options.since).map_err(Trouble::Usage)?;
    let until = moment(&options.until).map_err(Trouble::Usage)?;
    let mut ledger = Ledger::open(&place.directory);
    if ledger.parts()?.is_empty() && !options.follow {
        let why = match place.directory.exists() {
            true => "it is empty",
            false => {
                "it is not there: ledger_enable = yes makes the engine keep one, `yamabiko import` makes one of a mail log"
            }
        };
        return Err(Trouble::Ledger(format!("ledger {}: {why}", place.directory.display())));
    }
    if options.follow {
        drop(out);
        return follow::run(&mut ledger, options, language).map(|()| true);
    }
    let words = options.query.join(" ");
    if let Some(by) = options.summary {
        summary::write(&mut ledger, by, since, until, options.csv, language, &mut out)?;
        told_of_damage(&ledger);
        return Ok(true);
    }
    let text = if words == "-" { piped()? } else { words };
    let mut asked: Vec<(Field, String)> = Vec::new();
    if let Some(sender) = &options.sender {
        asked.push((Field::Sender, sender.trim_matches(['<', '>']).to_owned()));
    }
    if !text.trim().is_empty() {
        asked = ask::understand(&text);
    }
    if asked.is_empty() {
        return Err(Trouble::Usage(
            "what shall be asked for? An address, a domain, a queue ID, a Message-ID, or --summary, --follow; --help says more"
                .to_owned(),
        ));
    }
    let mut found: Vec<History> = Vec::new();
    for (field, text) in &asked {
        let query = Query { since, until, limit: options.limit, ..Query::new(*field, text.clone()) };
        found = ledger.histories(&query)?;
        if !found.is_empty() {
            break;
        }
    }
    told_of_damage(&ledger);
    if let Some(sender) = &options.sender {
        found.retain(|history| history.sender().is_some_and(|known| known.eq_ignore_ascii_case(sender)));
    }
    found.retain(|history| {
        let verdict = history.verdict(now, place.quiet);
        (options.state.is_empty() || options.state.contains(&verdict.state))
            && (options.reason.is_empty()
                || history
                    .entries
                    .iter()
                    .any(|entry| options.reason.iter().any(|r| entry.reason.eq_ignore_ascii_case(r))))
    });
    if options.csv {
        show::csv(&found, now, place.quiet, &mut out)?;
        return Ok(!found.is_empty());
    }
    if options.json {
        for history in &found {
            let mut object = json::history(history, &history.verdict(now, place.quiet));
            object.insert("sentence".to_owned(), words::sentence(history, now, place.quiet, language).into());
            writeln!(out, "{}", serde_json::Value::Object(object))?;
        }
        return Ok(!found.is_empty());
    }
    let asked = asked.first().map_or("", |(_, text)| text.as_str());
    tell(&found, asked, options.verbose, (now, place.quiet), language, &mut out)
}

/// What is missing from an answer.
fn told_of_damage(ledger: &Ledger) {
    for text in ledger.unreadable() {
        eprintln!("yamabiko fate: {text}: what is in it is not in this answer");
    }
}

/// For people: the sentence and the history of the newest ones, a line for each of the others.
fn tell(
    found: &[History],
    asked: &str,
    verbose: bool,
    (now, quiet): (Timestamp, Duration),
    language: Language,
    out: &mut dyn Write,
) -> Result<bool, Trouble> {
    if found.is_empty() {
        writeln!(out, "{}", words::nothing(asked, language))?;
        return Ok(false);
    }
    let bold = io::stdout().is_terminal();
    if found.len() > 1 {
        let states = count(found, now, quiet);
        let unproven = found.iter().filter(|history| history.verdict(now, quiet).unproven.is_some()).count();
        writeln!(out, "{}\n", words::several(asked, &states, unproven, language))?;
    }
    let shown = if verbose { found.len() } else { WHOLE.min(found.len()) };
    for history in found.iter().take(shown) {
        show::history(history, now, quiet, language, bold, out)?;
    }
    for history in found.iter().skip(shown) {
        show::line(history, now, quiet, out)?;
    }
    Ok(true)
}

fn count(found: &[History], now: Timestamp, quiet: Duration) -> BTreeMap<State, u64> {
    yamabiko_ledger::by_state(found, now, quiet)
}

fn check(place: &Place, out: &mut dyn Write) -> Result<bool, Trouble> {
    let parts = Ledger::open(&place.directory).parts()?.len();
    let wrong = yamabiko_ledger::check(&place.directory)?;
    for text in &wrong {
        writeln!(out, "{text}")?;
    }
    if wrong.is_empty() {
        writeln!(out, "{parts} files are well")?;
    }
    Ok(wrong.is_empty())
}

/// How much is read of what is pasted.
const PASTED: u64 = 4 << 20;

fn piped() -> Result<String, Trouble> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(PASTED).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

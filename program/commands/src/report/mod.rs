//! `yamabiko report`: what pflogsumm makes, from mail logs or from the ledger, and the sheet for people who send mailings.

mod gather;
mod print;
mod sheet;
mod words;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::Ledger;

use crate::import::zone;
use crate::ledger_place::ledger_directory;
pub use words::Language;

/// A log or the ledger could not be read.
const TROUBLE: u8 = 1;
const USAGE: u8 = 64;

/// Totals of a mail log or of the ledger, as pflogsumm writes them; or a sheet for senders: which addresses are dead, and why.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko report",
    bin_name = "yamabiko report",
    after_help = "With LOG the log files are read (packed or not, in the order of time; \"-\" is standard input); without, the ledger is.\n\n\
                  Exit status: 0; 1 something could not be read; 64 wrong usage."
)]
pub struct Options {
    /// Mail logs.
    pub logs: Vec<PathBuf>,
    /// The ledger's directory, instead of that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// A configuration directory, of which the place of the ledger is taken.
    #[arg(short = 'c', value_name = "DIR")]
    pub config: Option<String>,
    /// Only this day.
    #[arg(short = 'd', value_enum)]
    pub day: Option<Day>,
    /// From the ledger: only what happened since: 2026-11-01, 36h, 7d [default: 7d].
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// At most so many lines in each table; 0 leaves the tables out.
    #[arg(long, value_name = "N")]
    pub detail: Option<usize>,
    /// Problems before the tables of domains and addresses.
    #[arg(long)]
    pub problems_first: bool,
    /// Connections to the SMTP server too.
    #[arg(long)]
    pub smtpd_stats: bool,
    /// Dates as 2026-11-22.
    #[arg(long)]
    pub iso_date_time: bool,
    /// No headings of empty tables, no remarks.
    #[arg(short = 'q')]
    pub quiet: bool,
    /// Year of the first line, for logs without years.
    #[arg(long, value_parser = clap::value_parser!(i16).range(1970..=9998))]
    pub year: Option<i16>,
    /// Time zone of lines without one [default: this machine's].
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// The sheet for people who send: which addresses are dead, and why, in plain words. From the ledger.
    #[arg(long, conflicts_with = "logs")]
    pub sheet: bool,
    /// With --sheet: only mail of this sender, an address or a domain.
    #[arg(long, value_name = "SENDER", requires = "sheet")]
    pub sender: Option<String>,
    /// With --sheet: for spreadsheets.
    #[arg(long, requires = "sheet")]
    pub csv: bool,
    /// With --sheet: en or ja [default: that of the locale].
    #[arg(long, value_enum)]
    pub lang: Option<Language>,
}

/// `-d`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Day {
    /// This day.
    Today,
    /// The day before.
    Yesterday,
}

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let words = std::iter::once("yamabiko report".to_owned()).chain(args.iter().cloned());
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
    match made(&options) {
        Ok((text, troubles)) => {
            for trouble in &troubles {
                eprintln!("yamabiko report: {trouble}");
            }
            match io::stdout().write_all(text.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(TROUBLE),
                _ if troubles.is_empty() => ExitCode::SUCCESS,
                _ => ExitCode::from(TROUBLE),
            }
        }
        Err((code, why)) => {
            eprintln!("yamabiko report: {why}");
            ExitCode::from(code)
        }
    }
}

/// The text, and what could not be read.
fn made(options: &Options) -> Result<(String, Vec<String>), (u8, String)> {
    let zone = zone(options.zone.as_deref()).map_err(|why| (USAGE, why))?;
    let now = Timestamp::now();
    let day = options.day.map(|day| {
        let seconds = i64::try_from(now.seconds()).unwrap_or(0) - if day == Day::Yesterday { 86_400 } else { 0 };
        let at = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_zoned(zone.clone());
        (at.year(), at.month().unsigned_abs(), at.day().unsigned_abs())
    });
    if !options.logs.is_empty() {
        let (summary, troubles) = gather::logs(options, &zone, day);
        return Ok((print::summary(&summary, options, day), troubles));
    }
    let directory = ledger_directory(options.ledger.as_deref(), options.config.as_deref());
    let mut ledger = Ledger::open(&directory);
    let since = match &options.since {
        Some(text) => crate::analyze::select::moment(text, i64::try_from(now.seconds()).unwrap_or(0))
            .map_err(|why| (USAGE, why))
            .map(|seconds| Timestamp::from_seconds(u64::try_from(seconds).unwrap_or(0)))?,
        None => Timestamp::from_seconds(now.seconds().saturating_sub(7 * 86_400)),
    };
    let unreadable = |error: yamabiko_ledger::Error| (TROUBLE, error.to_string());
    if ledger.parts().map_err(unreadable)?.is_empty() {
        let why =
            format!("{}: there is no ledger yet; yamabiko import makes one from the mail log", directory.display());
        return Err((TROUBLE, why));
    }
    if options.sheet {
        let sheet = sheet::gather(&mut ledger, since, options.sender.as_deref()).map_err(unreadable)?;
        let language = options.lang.unwrap_or_else(Language::of_locale);
        let text = if options.csv { sheet.csv(language, &zone) } else { sheet.text(language, &zone, since, now) };
        return Ok((text, Vec::new()));
    }
    let since =
        if options.day.is_some() { Timestamp::from_seconds(now.seconds().saturating_sub(3 * 86_400)) } else { since };
    let summary = gather::ledger(&mut ledger, since, &zone, day).map_err(unreadable)?;
    Ok((print::summary(&summary, options, day), Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}

//! What was asked for on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use yamabiko_analyze::{Reason, Stage};

/// Reads bounces, automatic replies and complaints: who was not reached, and why.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko analyze",
    bin_name = "yamabiko analyze",
    after_help = "PATH is a message, an mbox, a Maildir, a directory (searched to its ground), provider events as JSON, or any of \
                  these compressed (.gz .bz2 .xz .zst); \"-\" or none is standard input.\n\n\
                  Exit status: 0 all was read; 1 with --exit-code, nothing was found; 2 something could not be read; 64 wrong usage; \
                  65 a rules file has a fault."
)]
pub struct Options {
    /// What to read.
    pub paths: Vec<PathBuf>,
    /// How to write what was found: table on a terminal, jsonl otherwise.
    #[arg(long, short = 'f', value_enum)]
    pub format: Option<Format>,
    /// Names of the fields of json, jsonl and csv.
    #[arg(long, value_enum, default_value_t = Keys::Both)]
    pub keys: Keys,
    /// Report successful deliveries too.
    #[arg(long)]
    pub delivered: bool,
    /// Report automatic replies too.
    #[arg(long)]
    pub vacation: bool,
    /// Report complaints of feedback loops: they are, unless --no-feedback is given.
    #[arg(long, overrides_with = "no_feedback")]
    pub feedback: bool,
    /// Leave complaints out.
    #[arg(long)]
    pub no_feedback: bool,
    /// Only these reasons, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = reason)]
    pub reason: Vec<String>,
    /// Only what happened since: 2026-11-01, 2026-11-01T09:00, 36h, 7d.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only hard bounces (trying again is pointless), or only soft ones.
    #[arg(long, value_enum)]
    pub only: Option<Hardness>,
    /// Say on what evidence each reason was decided.
    #[arg(long)]
    pub why: bool,
    /// Say which messages look like a bounce but were not understood, and why, instead of what was found.
    #[arg(long)]
    pub not_decoded: bool,
    /// Use the fewer names of reasons that later versions of Sisimai have.
    #[arg(long)]
    pub merged_reasons: bool,
    /// Phrases of your own, in addition to the built-in ones; may be given more than once.
    #[arg(long, value_name = "FILE")]
    pub rules: Vec<PathBuf>,
    /// How many messages are read at the same time [default: one for each processor].
    #[arg(long, short = 'j', value_name = "N")]
    pub jobs: Option<usize>,
    /// Exit with status 1 when nothing was found.
    #[arg(long, short = 'e')]
    pub exit_code: bool,
    /// No progress bar and no message about what could not be read.
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Go on with a Maildir that fills: what is new is reported as it comes.
    #[command(flatten)]
    pub watch: Watch,
}

/// Options of `--watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Report what comes into this Maildir, each message once.
    #[arg(long, value_name = "DIR", conflicts_with = "paths")]
    pub watch: Option<PathBuf>,
    /// Where to remember what has been seen [default: DIR/.yamabiko-analyze].
    #[arg(long, value_name = "FILE", requires = "watch")]
    pub state: Option<PathBuf>,
    /// Seconds between two looks beside those when the kernel tells of new mail [default: 60; 2 where it does not].
    #[arg(long, value_name = "SECONDS", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub interval: Option<u64>,
    /// Report what is new and end.
    #[arg(long, requires = "watch")]
    pub once: bool,
}

/// Ways to write what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: counts first, then a line for each recipient.
    Table,
    /// One array.
    Json,
    /// One object in a line.
    Jsonl,
    /// A line with the names, then a line for each recipient.
    Csv,
}

/// Names of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Keys {
    /// Those of both.
    Both,
    /// Those of Sisimai 5, exactly.
    #[value(name = "5", alias = "sisimai5")]
    Five,
    /// Those of Sisimai 4, exactly.
    #[value(name = "4", alias = "sisimai4")]
    Four,
}

/// `--only`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hardness {
    /// Trying again is pointless.
    Hard,
    /// It may work later.
    Soft,
}

/// A reason by its old or its merged name, which must not become the other: a merged name stands for several.
fn reason(text: &str) -> Result<String, String> {
    match text.parse::<Reason>() {
        Ok(_) => Ok(text.trim().to_ascii_lowercase()),
        Err(error) => {
            let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            Err(format!("{error}; there are: {}", names.join(" ")))
        }
    }
}

/// Says what a single reply means.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko classify",
    bin_name = "yamabiko classify",
    after_help = "Exit status: 0; 2 standard input could not be read; 64 wrong usage; 65 a rules file has a fault."
)]
pub struct Classify {
    /// The reply: "550 5.1.1 No such user". Without it every line of standard input is one.
    pub text: Vec<String>,
    /// The command that was answered: conn ehlo starttls auth mail rcpt data quit.
    #[arg(long, value_parser = stage)]
    pub stage: Option<Stage>,
    /// Name of the host that answered.
    #[arg(long, default_value = "")]
    pub host: String,
    /// The recipient.
    #[arg(long, default_value = "")]
    pub recipient: String,
    /// When it was said: 2026-11-01 or 2026-11-01T09:00; some providers changed their words.
    #[arg(long, value_name = "TIME")]
    pub date: Option<String>,
    /// One JSON object for each reply.
    #[arg(long)]
    pub json: bool,
    /// Say on what evidence.
    #[arg(long)]
    pub why: bool,
    /// Use the fewer names of reasons that later versions of Sisimai have.
    #[arg(long)]
    pub merged_reasons: bool,
    /// Phrases of your own, in addition to the built-in ones; may be given more than once.
    #[arg(long, value_name = "FILE")]
    pub rules: Vec<PathBuf>,
}

fn stage(text: &str) -> Result<Stage, String> {
    const STAGES: [(&str, Stage); 13] = [
        ("conn", Stage::Conn),
        ("connect", Stage::Conn),
        ("ehlo", Stage::Ehlo),
        ("helo", Stage::Ehlo),
        ("lhlo", Stage::Ehlo),
        ("starttls", Stage::StartTls),
        ("auth", Stage::Auth),
        ("mail", Stage::Mail),
        ("rcpt", Stage::Rcpt),
        ("data", Stage::Data),
        ("bdat", Stage::Data),
        ("eod", Stage::Data),
        ("quit", Stage::Quit),
    ];
    let word = text.split_whitespace().next().unwrap_or_default();
    STAGES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word))
        .map(|(_, stage)| *stage)
        .ok_or_else(|| "there are: conn ehlo starttls auth mail rcpt data quit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages() {
        for (text, wanted) in [("RCPT TO", Some(Stage::Rcpt)), ("eod", Some(Stage::Data)), ("", None), ("x", None)] {
            assert_eq!(stage(text).ok(), wanted);
        }
    }

    #[test]
    fn the_command_lines_are_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        Classify::command().debug_assert();
    }
}

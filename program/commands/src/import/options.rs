//! What was asked for on the command line.

use std::path::PathBuf;

use clap::Parser;

/// Fills the ledger from mail logs and bounce mailboxes of the past; needs no server of ours.
#[derive(Debug, Parser)]
#[command(
    name = "yamabiko import",
    bin_name = "yamabiko import",
    after_help = "PATH is a mail log (Postfix, sendmail, qmail, Exim; plain, .gz, .xz, .zst; syslog of any form, journalctl -o json), \
                  a directory with such files, an mbox or a Maildir with bounces, or \"-\" for standard input. \
                  Without one the logs that lie in /var/log are read. Rotated files are read in the order of time, whatever \
                  their names. What was read before is not read again: import as often as you like.\n\n\
                  Exit status: 0 all was read; 1 a file could not be read (the others were); 64 wrong usage; \
                  73 the ledger cannot be written."
)]
pub struct Options {
    /// What to read.
    pub paths: Vec<PathBuf>,
    /// Where the ledger is [default: that of the configuration, else ~/.local/state/yamabiko/ledger].
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// A configuration directory, of which the place of the ledger is taken.
    #[arg(short = 'c', value_name = "DIR")]
    pub config: Option<String>,
    /// An mbox, a Maildir or a directory with bounces; may be given more than once.
    #[arg(long, value_name = "PATH")]
    pub bounces: Vec<PathBuf>,
    /// Year of the first line, for logs without years whose files are not as old as their lines.
    #[arg(long, value_parser = clap::value_parser!(i16).range(1970..=9998))]
    pub year: Option<i16>,
    /// Time zone of lines without one: Asia/Tokyo, UTC [default: this machine's].
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Host of lines without one (multilog, Exim's own files).
    #[arg(long, value_name = "NAME", default_value = "")]
    pub host: String,
    /// Go on with what is appended, also when the file is rotated; end with a signal.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Read everything again from its beginning. Nothing is entered twice.
    #[arg(long)]
    pub again: bool,
    /// Only say what would be read: enter nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// No progress, no summary; only what could not be read.
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// The summary as a JSON object.
    #[arg(long)]
    pub json: bool,
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

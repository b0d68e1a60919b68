//! `yamabiko analyze` and `yamabiko classify`: bounces read beside any mail server.
//!
//! [`files`] finds what there is to read and cuts it into messages ([`mbox`] for the files of many), [`pipeline`] has them
//! analysed by several threads without changing their order, [`report`] writes and counts what was found ([`record`] under
//! Sisimai's names, [`table`] for people), [`watch`] goes on with a Maildir that fills. What a bounce means is decided in
//! `yamabiko-analyze` alone.

mod classify;
pub(crate) mod files;
mod mbox;
mod options;
mod pipeline;
pub(crate) mod record;
mod report;
pub(crate) mod select;
mod table;
mod token;
mod watch;
pub(crate) mod width;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use yamabiko_analyze::{Analyzer, Rules};

use options::{Format, Options};
use pipeline::Progress;
use report::{Reported, Reporter, Tally};
use select::Selection;

pub use classify::run as classify;

/// Exit codes: see the help text.
mod exit {
    /// `--exit-code`, and nothing was found.
    pub const NOTHING: u8 = 1;
    /// Something could not be read or written.
    pub const TROUBLE: u8 = 2;
    /// Wrong usage.
    pub const USAGE: u8 = 64;
    /// A rules file has a fault.
    pub const DATA: u8 = 65;
}

/// Runs `yamabiko analyze`.
pub fn run(args: &[String]) -> ExitCode {
    // The allocator asks for pages of 2 MB, of which a reader of streams fills a small part: without them it needs a third of
    // the memory. Where the kernel does not know this, all is as before.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let options: Options = match parsed("yamabiko analyze", args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let (analyzer, reporter) = match prepared(&options) {
        Ok(both) => both,
        Err(code) => return code,
    };
    let outcome = match &options.watch.watch {
        Some(directory) => watch::run(directory, &options, &analyzer, &reporter),
        None => read_all(&options, &analyzer, &reporter),
    };
    match outcome {
        Ok(tally) if tally.troubles > 0 => ExitCode::from(exit::TROUBLE),
        Ok(tally) if options.exit_code && tally.written == 0 => ExitCode::from(exit::NOTHING),
        Ok(_) => ExitCode::SUCCESS,
        // Whoever read the output has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yamabiko analyze: {error}");
            ExitCode::from(exit::TROUBLE)
        }
    }
}

/// Options, or the exit code after help and complaint.
fn parsed<O: Parser>(name: &str, args: &[String]) -> Result<O, ExitCode> {
    let words = std::iter::once(name.to_owned()).chain(args.iter().cloned());
    O::try_parse_from(words).map_err(|error| {
        // To standard output for help, to standard error otherwise; nothing can be done where that fails.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::from(exit::USAGE),
        }
    })
}

fn prepared(options: &Options) -> Result<(Analyzer, Reporter), ExitCode> {
    let selection = Selection::new(options, now()).map_err(|why| {
        eprintln!("yamabiko analyze: {why}");
        ExitCode::from(exit::USAGE)
    })?;
    let table = io::stdout().is_terminal() && options.watch.watch.is_none();
    let reporter = Reporter {
        format: options.format.unwrap_or(if table { Format::Table } else { Format::Jsonl }),
        keys: options.keys,
        selection,
        why: options.why,
        not_decoded: options.not_decoded,
        merged: options.merged_reasons,
    };
    let analyzer = analyzer("yamabiko analyze", &options.rules)?;
    Ok((if options.why { analyzer } else { analyzer.without_evidence() }, reporter))
}

/// An analyzer with the user's own rules.
fn analyzer(program: &str, files: &[PathBuf]) -> Result<Analyzer, ExitCode> {
    let mut texts = Vec::new();
    for file in files {
        match std::fs::read_to_string(file) {
            Ok(text) => texts.push((file.to_string_lossy().into_owned(), text)),
            Err(error) => {
                eprintln!("{program}: {}: {error}", file.display());
                return Err(ExitCode::from(exit::DATA));
            }
        }
    }
    if texts.is_empty() {
        return Ok(Analyzer::embedded());
    }
    let rules =
        Rules::with_files(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).map_err(|error| {
            eprintln!("{program}: {error}");
            ExitCode::from(exit::DATA)
        })?;
    Ok(Analyzer::new(rules))
}

/// Seconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn read_all(options: &Options, analyzer: &Analyzer, reporter: &Reporter) -> io::Result<Tally> {
    let stdin = [PathBuf::from("-")];
    let paths: &[PathBuf] = if options.paths.is_empty() { &stdin } else { &options.paths };
    if options.paths.is_empty() && io::stdin().is_terminal() {
        eprintln!("yamabiko analyze: reading a message from standard input; end it with Ctrl-D");
    }
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut writer = Writer::new(reporter)?;
    let (progress, ended) = (Progress::default(), AtomicBool::new(false));
    let mut failed = None;
    std::thread::scope(|scope| {
        if !options.quiet && io::stderr().is_terminal() {
            scope.spawn(|| show(&progress, total(paths), &ended));
        }
        pipeline::run(files::Walk::new(paths), analyzer, reporter, jobs, &progress, |reported| {
            match writer.take(reported, options.quiet) {
                Ok(()) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        ended.store(true, Ordering::Relaxed);
    });
    match failed {
        Some(error) => Err(error),
        None => writer.end(),
    }
}

/// Standard output in one of the formats.
struct Writer<'r> {
    reporter: &'r Reporter,
    out: io::BufWriter<io::StdoutLock<'static>>,
    table: table::Table,
    tally: Tally,
    /// The last object's comma, of which it is not known yet whether another object follows.
    comma: bool,
}

impl<'r> Writer<'r> {
    fn new(reporter: &'r Reporter) -> io::Result<Self> {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        match reporter.format {
            Format::Json => out.write_all(b"[\n")?,
            Format::Csv if !reporter.not_decoded => {
                out.write_all(record::csv_head(reporter.keys, reporter.why).as_bytes())?
            }
            _ => {}
        }
        Ok(Self { reporter, out, table: table::Table::default(), tally: Tally::default(), comma: false })
    }

    fn take(&mut self, reported: Reported, quiet: bool) -> io::Result<()> {
        if !quiet {
            for trouble in &reported.troubles {
                eprintln!("yamabiko analyze: {trouble}");
            }
        }
        self.tally.add(reported.tally);
        let text = &reported.text[..];
        match self.reporter.format {
            Format::Table if !self.reporter.not_decoded => self.table.add(text),
            Format::Json if !text.is_empty() => {
                if std::mem::replace(&mut self.comma, true) {
                    self.out.write_all(b",\n")?;
                }
                self.out.write_all(text.strip_suffix(b",\n").unwrap_or(text))
            }
            _ => self.out.write_all(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(mut self) -> io::Result<Tally> {
        match self.reporter.format {
            Format::Json => self.out.write_all(if self.comma { b"\n]\n" } else { b"]\n" })?,
            Format::Table if !self.reporter.not_decoded => {
                let width = if io::stdout().is_terminal() { usize::from(console::Term::stdout().size().1) } else { 0 };
                std::mem::take(&mut self.table).write(&self.tally, width, &mut self.out)?;
            }
            _ => {}
        }
        self.out.flush()?;
        Ok(self.tally)
    }
}

/// How many bytes there are to read, where that is known without looking for it.
fn total(paths: &[PathBuf]) -> Option<u64> {
    paths.iter().map(|path| Path::metadata(path).ok().filter(|meta| meta.is_file()).map(|meta| meta.len())).sum()
}

/// Shows how far it is, after the first second.
fn show(progress: &Progress, total: Option<u64>, ended: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(100);
    let pause = |steps: u32| {
        (0..steps).any(|_| {
            ended.load(Ordering::Relaxed) || {
                std::thread::sleep(STEP);
                false
            }
        })
    };
    if pause(10) {
        return;
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "{bytes}/{total_bytes} [{bar:30}] {bytes_per_sec}, {eta} left",
        None => "{spinner} {msg} files, {bytes}, {bytes_per_sec}",
    };
    // Both templates are constants of the right form; the default style would do as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    while !pause(1) {
        bar.set_message(progress.files.load(Ordering::Relaxed).to_string());
        bar.set_position(progress.bytes.load(Ordering::Relaxed));
        bar.tick();
    }
    bar.finish_and_clear();
}

//! `yamabiko import`: the ledger filled from old mail logs and bounce mailboxes, and kept up with a log that grows.
//!
//! [`source`] finds files and knows them again, [`run`] reads them in the order of time, [`fill`] makes entries of what
//! `yamabiko-maillog` understood, [`bounces`] joins reports from mailboxes, [`follow`] goes on with a file that grows,
//! [`state`] is what is remembered from run to run, [`told`] says what was read and what was not.

mod bounces;
mod fill;
mod follow;
mod options;
pub mod source;
mod state;
mod told;

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::tz::TimeZone;
use yamabiko_analyze::Analyzer;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::Writer;
use yamabiko_maillog::lines::Lines;
use yamabiko_maillog::reader::{Counts, Reader};

use crate::ledger_place::{hand_to_owner, ledger_directory};
use fill::Fill;
use options::Options;
use source::{HEAD, Mark, Source, TAIL, hash};
use state::State;

/// A file could not be read.
const TROUBLE: u8 = 1;
const USAGE: u8 = 64;
/// The ledger cannot be written.
const CANNOT_CREATE: u8 = 73;
/// The ledger is made safe this often.
const COMMIT: Duration = Duration::from_secs(5);
/// What is remembered is written this often.
const SAVE: Duration = Duration::from_secs(60);
/// The clock is looked at after so many lines.
const LOOK: u64 = 16_384;

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let words = std::iter::once("yamabiko import".to_owned()).chain(args.iter().cloned());
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
    match prepared(&options) {
        Ok(code) => code,
        Err((code, why)) => {
            eprintln!("yamabiko import: {why}");
            ExitCode::from(code)
        }
    }
}

/// The zone of a name, or of this machine.
pub fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        None => Ok(TimeZone::system()),
        Some("UTC") => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|error| format!("--zone {name}: {error}")),
    }
}

fn prepared(options: &Options) -> Result<ExitCode, (u8, String)> {
    let zone = zone(options.zone.as_deref()).map_err(|why| (USAGE, why))?;
    let (logs, mut mailboxes) = sorted_out(options, &zone)?;
    mailboxes.extend(options.bounces.iter().cloned());
    let directory = ledger_directory(options.ledger.as_deref(), options.config.as_deref());
    let cannot = |error: &dyn std::fmt::Display| (CANNOT_CREATE, error.to_string());
    let mut writer = if options.dry_run {
        None
    } else {
        let how = yamabiko_ledger::Options { source: yamabiko_ledger::Source::Import, once: true };
        Some(Writer::open(&directory, how).map_err(|error| cannot(&error))?)
    };
    let (mut state, remark) = if options.dry_run { (State::default(), None) } else { State::load(&directory) };
    if let Some(remark) = remark {
        eprintln!("yamabiko import: warning: {remark}");
    }
    if options.again {
        state = State {
            marks: Vec::new(),
            join: yamabiko_maillog::join::Join::with(
                yamabiko_maillog::join::State::default(),
                state.join.first_uses().collect::<Vec<_>>(),
            ),
        };
    }
    let analyzer = Analyzer::embedded();
    let mut import = Import {
        options,
        zone,
        directory,
        state,
        analyzer: &analyzer,
        fill: Fill::new(&analyzer, writer.as_mut()),
        counts: Counts::default(),
        troubles: Vec::new(),
        files: 0,
        skipped: 0,
        left: 0,
        began: Instant::now(),
        committed: Instant::now(),
        saved: Instant::now(),
        bar: None,
    };
    import.progress(&logs);
    for log in &logs {
        import.log(log);
        if import.fill.error.is_some() {
            break;
        }
    }
    import.end_of_logs();
    let joined = if mailboxes.is_empty() { bounces::Joined::default() } else { bounces::read(&mailboxes, &mut import) };
    import.save(true);
    if let Some(bar) = import.bar.take() {
        bar.finish_and_clear();
    }
    if let Some(error) = import.fill.error.take() {
        return Err(cannot(&error));
    }
    for trouble in &import.troubles {
        eprintln!("yamabiko import: {trouble}");
    }
    if !options.quiet || options.json {
        told::tell(&import, &joined);
    }
    if !options.dry_run {
        hand_to_owner(&import.directory, options.config.as_deref());
    }
    if options.follow {
        follow::run(&mut import, &logs);
    }
    Ok(if import.troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

/// What is to be read as a log, in the order of time, and what are mailboxes.
fn sorted_out(options: &Options, zone: &TimeZone) -> Result<(Vec<Log>, Vec<PathBuf>), (u8, String)> {
    let mut paths = options.paths.clone();
    if paths.is_empty() && options.bounces.is_empty() {
        paths = source::usual();
        if paths.is_empty() {
            let why = format!(
                "no log was named, and there is none at {}; with systemd's journal alone: \
                 journalctl -o json -t postfix/smtp -t postfix/qmgr ... | yamabiko import -",
                source::USUAL[..2].join(", ")
            );
            return Err((USAGE, why));
        }
    }
    let mut logs = Vec::new();
    let mut mailboxes = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            logs.push(Log::Stdin);
        } else if path.is_dir() {
            if path.join("cur").is_dir() && path.join("new").is_dir() {
                mailboxes.push(path);
                continue;
            }
            let found = source::inside(&path);
            if found.is_empty() {
                return Err((USAGE, format!("{}: no files in it", path.display())));
            }
            found.iter().for_each(|path| looked_at(path, &mut logs, &mut mailboxes));
        } else {
            looked_at(&path, &mut logs, &mut mailboxes);
        }
    }
    if options.year.is_some() {
        // Files do not tell their time then: the order is that of the rotation.
        logs.sort_by_key(|log| match log {
            Log::File(source) => (false, source::rotation(&source.path)),
            Log::Bad(path, _) => (false, source::rotation(path)),
            Log::Stdin => (true, std::cmp::Reverse(0)),
        });
    } else {
        logs.sort_by_cached_key(|log| match log {
            Log::File(source) => (false, source.begins(zone), source::rotation(&source.path)),
            Log::Bad(path, _) => (false, Timestamp::default(), source::rotation(path)),
            Log::Stdin => (true, Timestamp::default(), std::cmp::Reverse(0)),
        });
    }
    Ok((logs, mailboxes))
}

fn looked_at(path: &Path, logs: &mut Vec<Log>, mailboxes: &mut Vec<PathBuf>) {
    match Source::look(path) {
        Ok(source) if source.is_mailbox() => mailboxes.push(path.to_owned()),
        Ok(source) => logs.push(Log::File(Box::new(source))),
        Err(error) => logs.push(Log::Bad(path.to_owned(), error.to_string())),
    }
}

/// Something to be read.
pub enum Log {
    /// A file.
    File(Box<Source>),
    /// Standard input.
    Stdin,
    /// A file that cannot be read, and why.
    Bad(PathBuf, String),
}

/// An import under way.
pub struct Import<'a> {
    options: &'a Options,
    zone: TimeZone,
    directory: PathBuf,
    state: State,
    analyzer: &'a Analyzer,
    fill: Fill<'a>,
    counts: Counts,
    troubles: Vec<String>,
    files: u64,
    /// Files that were read before and have not changed.
    skipped: u64,
    /// Lines without an end that were left for the next time.
    left: u64,
    began: Instant,
    committed: Instant,
    saved: Instant,
    bar: Option<ProgressBar>,
}

impl Import<'_> {
    fn progress(&mut self, logs: &[Log]) {
        if self.options.quiet || !io::stderr().is_terminal() {
            return;
        }
        let total = logs.iter().map(|log| if let Log::File(source) = log { source.size } else { 0 }).sum();
        let bar = ProgressBar::new(total);
        bar.set_draw_target(ProgressDrawTarget::stderr());
        // The template is a constant of the right form; the default style would do as well.
        if let Ok(style) = ProgressStyle::with_template("{bytes}/{total_bytes} [{bar:30}] {msg}, {eta} left") {
            bar.set_style(style);
        }
        self.bar = Some(bar);
    }

    /// Reads one log.
    fn log(&mut self, log: &Log) {
        match log {
            Log::Bad(path, why) => self.troubles.push(format!("{}: {why}", path.display())),
            Log::Stdin => {
                let now = Timestamp::now();
                let mut reader = Reader::new(self.zone.clone(), now, self.options.year, &self.options.host);
                let mut lines = Lines::new(io::stdin().lock(), 0);
                self.files += 1;
                self.lines("-", &mut lines, &mut reader, &mut Reading::default(), false);
                self.counts.add(reader.counts());
            }
            Log::File(source) => self.file(source),
        }
    }

    fn file(&mut self, source: &Source) {
        let known = self.state.mark_of(source);
        let mark = known.and_then(|at| self.state.marks.get(at)).cloned();
        let plain = source.packed == source::Packed::Plain;
        let unchanged = mark.as_ref().is_some_and(|mark| {
            let whole = if plain { mark.offset == source.size } else { mark.done == source.size };
            whole && mark.offset > 0
        });
        if unchanged || source.head.is_empty() {
            self.skipped += 1;
            self.advance(source.size);
            return;
        }
        let (input, offset) = match source.open_at(mark.as_ref()) {
            Ok(opened) => opened,
            Err(error) => {
                self.troubles.push(format!("{}: {error}", source.path.display()));
                return;
            }
        };
        self.files += 1;
        let mut reader = Reader::new(self.zone.clone(), source.written, self.options.year, &self.options.host);
        let mut reading = Reading { at: known.filter(|_| offset > 0), ..Reading::default() };
        if let Some(mark) = mark.filter(|_| offset > 0) {
            reader.go_on_after(Timestamp(mark.last));
            reading.last = mark.last;
        }
        let mut lines = Lines::new(input, offset);
        let name = source.path.display().to_string();
        reading.source = Some(source);
        let whole = self.lines(&name, &mut lines, &mut reader, &mut reading, plain);
        self.counts.add(reader.counts());
        self.keep(&mut reading, whole);
    }

    /// Reads lines to the end. Gives whether that was reached. `growing`: the last line may not be finished.
    fn lines(
        &mut self,
        name: &str,
        lines: &mut Lines<impl Read>,
        reader: &mut Reader,
        reading: &mut Reading<'_>,
        growing: bool,
    ) -> bool {
        reading.offset = lines.offset();
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return true,
                Err(error) => {
                    self.troubles.push(format!("{name}: {error} (after byte {} of its text)", reading.offset));
                    return false;
                }
            };
            if line.unfinished && growing {
                self.left += 1;
                return true;
            }
            let (join, fill) = (&mut self.state.join, &mut self.fill);
            reader.line(&line, &mut |entry| {
                reading.last = entry.at.0;
                join.entry(entry, &mut |fact, line| fill.fact(fact, line));
            });
            reading.tail(line.bytes);
            reading.offset = line.next;
            reading.lines += 1;
            if reading.lines.is_multiple_of(LOOK) {
                self.look(reading);
                if self.fill.error.is_some() {
                    return false;
                }
            }
        }
    }

    /// Now and then: progress, and what was read made safe.
    fn look(&mut self, reading: &mut Reading<'_>) {
        if let (Some(bar), Some(source)) = (&self.bar, reading.source) {
            let seconds = self.began.elapsed().as_secs_f64().max(0.001);
            let lines = self.counts.lines + reading.lines;
            bar.set_message(format!("{lines} lines, {:.0}/s", lines as f64 / seconds));
            if source.packed == source::Packed::Plain {
                bar.set_position(reading.advanced + reading.offset);
            }
        }
        if self.committed.elapsed() >= COMMIT {
            self.commit();
            if self.saved.elapsed() >= SAVE {
                self.keep(reading, false);
                self.save(false);
            }
        }
    }

    fn commit(&mut self) {
        self.committed = Instant::now();
        if let Some(Err(error)) = self.fill.writer().map(Writer::commit) {
            self.fill.error.get_or_insert(error);
        }
    }

    fn advance(&mut self, size: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(size);
        }
    }

    /// Remembers how far a file was read.
    fn keep(&mut self, reading: &mut Reading<'_>, whole: bool) {
        let Some(source) = reading.source else { return };
        let mark = Mark {
            path: source.path.clone(),
            inode: source.inode,
            head_length: source.head.len().min(HEAD),
            head: hash(&source.head),
            offset: reading.offset,
            tail: self.tail_hash(source, reading),
            last: reading.last,
            done: if whole { source.size } else { 0 },
        };
        match reading.at.and_then(|at| self.state.marks.get_mut(at)) {
            Some(known) => *known = mark,
            None => {
                self.state.marks.push(mark);
                reading.at = Some(self.state.marks.len() - 1);
            }
        }
    }

    /// Hash of the bytes before the place where reading stopped.
    fn tail_hash(&self, source: &Source, reading: &Reading<'_>) -> u64 {
        use std::io::{Seek, SeekFrom};
        let before = reading.offset.min(TAIL as u64);
        let mut tail = vec![0; before as usize];
        if source.packed == source::Packed::Plain {
            let read = std::fs::File::open(&source.path).and_then(|mut file| {
                file.seek(SeekFrom::Start(reading.offset - before))?;
                source::fill(&mut file, &mut tail)
            });
            tail.truncate(read.unwrap_or(0));
            return hash(&tail);
        }
        // Line ends were taken off; a file with CR LF is only read again.
        let from = reading.tail.len().saturating_sub(before as usize);
        hash(&reading.tail[from..])
    }

    fn end_of_logs(&mut self) {
        let (join, fill) = (&mut self.state.join, &mut self.fill);
        if self.options.follow {
            return;
        }
        let mut told = Vec::new();
        join.finish(&mut |message| told.push(message.clone()));
        for message in told {
            fill.queued(&message, Timestamp(message.began));
        }
    }

    /// Makes everything safe, the ledger first. `all`: with its counts.
    fn save(&mut self, all: bool) {
        let done = self.fill.writer().map(|writer| if all { writer.commit_all() } else { writer.commit() });
        if let Some(Err(error)) = done {
            self.fill.error.get_or_insert(error);
            return;
        }
        (self.committed, self.saved) = (Instant::now(), Instant::now());
        if !self.options.dry_run
            && self.fill.error.is_none()
            && let Err(error) = self.state.save(&self.directory)
        {
            self.troubles.push(format!("{}: {error}", self.directory.display()));
        }
    }
}

/// How far the file that is read now was read.
#[derive(Default)]
struct Reading<'s> {
    source: Option<&'s Source>,
    /// Its mark, if it has one.
    at: Option<usize>,
    offset: u64,
    last: u64,
    lines: u64,
    advanced: u64,
    /// The end of what was read of a packed file.
    tail: Vec<u8>,
}

impl Reading<'_> {
    fn tail(&mut self, line: &[u8]) {
        if self.source.is_none_or(|source| source.packed == source::Packed::Plain) {
            return;
        }
        if self.tail.len() > 16 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
        self.tail.extend_from_slice(&line[line.len().saturating_sub(TAIL)..]);
        self.tail.push(b'\n');
    }
}

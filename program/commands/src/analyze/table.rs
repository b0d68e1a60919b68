//! The table for people: counts by reason and destination first, then a line for each recipient.
//!
//! The lines are known before the counts, and there may be many: beyond some megabytes they wait in a file without name.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::record::{Record, sentence};
use super::report::Tally;
use super::width::{column, columns, visible};

/// Lines kept in memory.
const IN_MEMORY: usize = 4 << 20;
/// Destinations shown.
const DESTINATIONS: usize = 15;
/// Columns of a line, without the last one, which takes the rest.
const COLUMNS: usize = 6;
const HEADS: [&str; COLUMNS] = ["recipient", "reason", "", "status", "reply", "host"];
/// No column is wider.
const WIDEST: [usize; COLUMNS] = [44, 16, 4, 7, 5, 32];

/// Appends a line for [`Table`]: values between tabs, line feeds only at its end.
pub fn row(out: &mut Vec<u8>, record: &Record<'_>, why: bool) {
    let finding = record.finding;
    let status = finding.status.map(|status| status.to_string()).unwrap_or_default();
    let reply = finding.reply_code.map(|code| code.to_string()).unwrap_or_default();
    let hard = if finding.hard_bounce { "hard" } else { "" };
    let said = match &finding.diagnostic.text {
        text if text.is_empty() => &finding.subject,
        text => text,
    };
    for value in [&finding.recipient, record.reason, hard, &status, &reply, &finding.rhost, said] {
        out.extend_from_slice(visible(value).as_bytes());
        out.push(b'\t');
    }
    if why {
        out.extend_from_slice(format!("{} % sure, {}", finding.confidence, visible(record.origin)).as_bytes());
        for piece in &finding.evidence {
            out.push(b'\t');
            out.extend_from_slice(visible(&sentence(piece)).as_bytes());
        }
    }
    out.push(b'\n');
}

/// Lines that wait for the counts.
#[derive(Default)]
pub struct Table {
    lines: Vec<u8>,
    file: Option<File>,
    widths: [usize; COLUMNS],
}

impl Table {
    /// Takes lines.
    pub fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        // What `row` wrote is valid UTF-8.
        for line in lines.split(|byte| *byte == b'\n') {
            for (width, value) in self.widths.iter_mut().zip(line.split(|byte| *byte == b'\t')) {
                *width = (*width).max(columns(&String::from_utf8_lossy(value)));
            }
        }
        self.lines.extend_from_slice(lines);
        if self.lines.len() > IN_MEMORY {
            if self.file.is_none() {
                self.file = Some(nameless()?);
            }
            if let Some(file) = &mut self.file {
                file.write_all(&self.lines)?;
                self.lines.clear();
            }
        }
        Ok(())
    }

    /// Writes counts and lines. `width` is the terminal's, 0 for as wide as it takes.
    pub fn write(mut self, tally: &Tally, width: usize, out: &mut impl Write) -> io::Result<()> {
        counts(tally, out)?;
        if tally.written == 0 {
            return Ok(());
        }
        for ((width, widest), head) in self.widths.iter_mut().zip(WIDEST).zip(HEADS) {
            *width = (*width).clamp(columns(head), widest);
        }
        writeln!(out)?;
        let widths = self.widths;
        line(&HEADS.into_iter().chain(["what was said"]).collect::<Vec<_>>(), &widths, width, out)?;
        if let Some(mut file) = self.file.take() {
            file.rewind()?;
            for text in BufReader::with_capacity(1 << 16, file).lines() {
                line(&text?.split('\t').collect::<Vec<_>>(), &widths, width, out)?;
            }
        }
        for text in String::from_utf8_lossy(&self.lines).lines() {
            line(&text.split('\t').collect::<Vec<_>>(), &widths, width, out)?;
        }
        Ok(())
    }
}

fn line(values: &[&str], widths: &[usize; COLUMNS], width: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = String::new();
    for (value, width) in values.iter().zip(widths) {
        column(&mut text, value, *width);
        text.push_str("  ");
    }
    let used = columns(&text);
    if let Some(said) = values.get(COLUMNS) {
        let room = width.saturating_sub(used).max(20);
        if width == 0 || columns(said) <= room { text.push_str(said) } else { column(&mut text, said, room) }
    }
    writeln!(out, "{}", text.trim_end())?;
    for why in values.iter().skip(COLUMNS + 1).filter(|why| !why.is_empty()) {
        writeln!(out, "    {why}")?;
    }
    Ok(())
}

fn counts(tally: &Tally, out: &mut impl Write) -> io::Result<()> {
    let of = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    write!(
        out,
        "{}, {}",
        of(tally.messages, "message", "messages"),
        of(tally.written, "recipient reported", "recipients reported")
    )?;
    if tally.undecoded > 0 {
        write!(out, "; {} not understood (--not-decoded says which)", tally.undecoded)?;
    }
    writeln!(out)?;
    if tally.written == 0 {
        return Ok(());
    }
    let mut reasons: Vec<_> = tally.reasons.iter().collect();
    reasons.sort_by_key(|(name, (hard, soft))| (std::cmp::Reverse(hard + soft), **name));
    writeln!(out, "\n{:<16} {:>8} {:>8}", "reason", "hard", "soft")?;
    for (name, (hard, soft)) in reasons {
        let number = |count: u64| if count == 0 { "-".to_owned() } else { count.to_string() };
        writeln!(out, "{name:<16} {:>8} {:>8}", number(*hard), number(*soft))?;
    }
    let mut destinations: Vec<_> = tally.destinations.iter().collect();
    destinations.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
    writeln!(out, "\n{:<32} {:>8}", "destination", "")?;
    for (name, count) in destinations.iter().take(DESTINATIONS) {
        let mut text = String::new();
        column(&mut text, if name.is_empty() { "(unknown)" } else { name }, 32);
        writeln!(out, "{text} {count:>8}")?;
    }
    let rest = destinations.len().saturating_sub(DESTINATIONS);
    if rest > 0 {
        let count: u64 =
            destinations.iter().skip(DESTINATIONS).map(|(_, count)| **count).sum::<u64>() + tally.other_destinations;
        let and_more = if tally.other_destinations > 0 { " or more" } else { "" };
        writeln!(out, "{:<32} {count:>8}", format!("({rest}{and_more} others)"))?;
    }
    Ok(())
}

/// A file in the directory for temporary files that has no name any more.
fn nameless() -> io::Result<File> {
    let directory = std::env::temp_dir();
    for number in 0..1000 {
        let path = directory.join(format!("yamabiko-analyze.{}.{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Err(io::Error::other(format!("no free name for a temporary file in {}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_memory_wait_in_a_file() {
        let mut table = Table::default();
        let lines = "宛先@example.jp\tuserunknown\thard\t5.1.1\t550\tmx.example.jp\t宛先不明\t\n".repeat(1000);
        let rounds = IN_MEMORY / lines.len() + 2;
        for _ in 0..rounds {
            table.add(lines.as_bytes()).unwrap();
        }
        assert!(table.file.is_some());
        let tally = Tally { messages: 1, written: 1, ..Tally::default() };
        let mut out = Vec::new();
        table.write(&tally, 0, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("宛先@")).collect();
        assert_eq!(rows.len(), rounds * 1000);
        assert_eq!(rows[0], "宛先@example.jp  userunknown  hard  5.1.1   550    mx.example.jp  宛先不明");
        assert!(rows.iter().all(|row| *row == rows[0]));
        assert!(text.contains("recipient        reason             "), "{text}", text = &text[..400]);
    }
}

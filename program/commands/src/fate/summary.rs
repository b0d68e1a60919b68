//! Counts by destination, reason, sender or day.

use std::collections::BTreeMap;
use std::io::Write;

use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Ledger, Tally, UNPROVEN, What, civil};

use super::show::quoted;
use super::words::Language;
use super::{By, Trouble};

/// A line of the table.
#[derive(Default)]
struct Line {
    counts: [u64; COLUMNS.len()],
    delay: Tally,
}

/// What the columns count. The last has what is reported and may be forged; it is in no other.
const COLUMNS: [(&str, &str, &[What]); 9] = [
    ("sent", "送信", &[What::Sent, What::Relayed]),
    ("delivered", "配達", &[What::Delivered]),
    ("bounced", "不達", &[What::Bounced, What::Expired]),
    ("reports", "後日の報告", &[What::Report]),
    ("complaints", "苦情", &[What::Complaint]),
    ("deferrals", "延期", &[What::Deferred]),
    ("suppressed", "抑止", &[What::Suppressed]),
    ("rejected", "拒否", &[What::Rejected, What::Discarded]),
    (UNPROVEN, "未確認", &[]),
];

/// Destinations and senders that are told one by one; the rest is one line.
const LINES: usize = 50;

/// Writes the table.
pub fn write(
    ledger: &mut Ledger,
    by: By,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    csv: bool,
    language: Language,
    out: &mut dyn Write,
) -> Result<(), Trouble> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    ledger.tallies(since, until, |key, tally| {
        let reason = key.reason;
        let name = match by {
            By::Destination => key.domain,
            By::Sender => key.sender,
            By::Reason if reason.is_empty() => return,
            By::Reason => reason.clone(),
            By::Day => {
                let (year, month, day) = civil(key.hour / 24);
                format!("{year:04}-{month:02}-{day:02}")
            }
        };
        // Messages have no destination and no reason of their own.
        let unproven = matches!(key.what, What::Report | What::Complaint) && reason == UNPROVEN;
        let is_its = |(name, _, whats): &(&str, &str, &[What])| match unproven {
            true => *name == UNPROVEN,
            false => whats.contains(&key.what),
        };
        let Some(column) = COLUMNS.iter().position(is_its) else { return };
        let line = lines.entry(name).or_default();
        line.counts[column] += tally.count; // a position in COLUMNS
        if matches!(key.what, What::Sent | What::Relayed | What::Delivered) {
            line.delay.add(tally);
        }
    })?;
    let total = |line: &Line| line.counts.iter().sum::<u64>();
    let mut sorted: Vec<(String, Line)> = lines.into_iter().collect();
    if by != By::Day {
        sorted.sort_by_key(|(_, line)| std::cmp::Reverse(total(line)));
    }
    if !csv && by != By::Day && sorted.len() > LINES {
        let rest = sorted.split_off(LINES);
        let mut others = Line::default();
        for (_, line) in &rest {
            others.counts.iter_mut().zip(line.counts).for_each(|(sum, more)| *sum += more);
            others.delay.add(line.delay);
        }
        sorted.push((format!("({} others)", rest.len()), others));
    }
    let head = COLUMNS.iter().map(|(en, ja, _)| if language == Language::Ja && !csv { *ja } else { *en });
    let average = |line: &Line| {
        let count = u32::try_from(line.delay.count).unwrap_or(u32::MAX);
        line.delay.delay.checked_div(count).map_or_else(String::new, |mean| format!("{:.1}", mean.as_secs_f64()))
    };
    let rows = std::iter::once(head.map(str::to_owned).chain(["delay_avg".to_owned()]).collect::<Vec<_>>());
    let rows = rows
        .chain(sorted.iter().map(|(_, line)| line.counts.iter().map(u64::to_string).chain([average(line)]).collect()));
    let names =
        std::iter::once("").chain(sorted.iter().map(|(name, _)| if name.is_empty() { "-" } else { name.as_str() }));
    if csv {
        for (name, row) in names.zip(rows) {
            writeln!(out, "{},{}", quoted(name), row.join(","))?;
        }
        return Ok(());
    }
    let width = sorted.iter().map(|(name, _)| name.len()).max().unwrap_or(0).clamp(10, 60);
    for (name, row) in names.zip(rows) {
        let cells: Vec<String> = row.iter().map(|cell| right(cell, 10)).collect();
        writeln!(out, "{name:<width$} {}", cells.join(" "))?;
    }
    Ok(())
}

/// Japanese characters are two columns wide.
fn right(cell: &str, width: usize) -> String {
    let wide = unicode_width::UnicodeWidthStr::width(cell);
    format!("{}{cell}", " ".repeat(width.saturating_sub(wide)))
}

//! What was read, and what was not: for people, or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;
use yamabiko_maillog::reader::Tally;

use super::Import;
use super::bounces::Joined;

/// Writes the summary to standard output.
pub fn tell(import: &Import<'_>, joined: &Joined) {
    let text = if import.options.json { format!("{}\n", object(import, joined)) } else { words(import, joined) };
    // Whoever reads it may have enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

const SYSTEMS: [&str; 4] = ["Postfix", "sendmail", "qmail", "Exim"];

fn moment(at: yamabiko_envelope::Timestamp, import: &Import<'_>) -> String {
    jiff::Timestamp::from_second(i64::try_from(at.seconds()).unwrap_or(0))
        .map(|at| at.to_zoned(import.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

fn words(import: &Import<'_>, joined: &Joined) -> String {
    let counts = &import.counts;
    let mut out = String::new();
    let seconds = import.began.elapsed().as_secs_f64();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} lines of {} files read in {seconds:.1} s ({:.0} lines/s); {} files had nothing new",
        counts.lines,
        import.files,
        counts.lines as f64 / seconds.max(0.001),
        import.skipped
    );
    if let Some((first, last)) = counts.span {
        let _ = writeln!(out, "from {} to {}", moment(first, import), moment(last, import));
    }
    let systems: Vec<String> = SYSTEMS
        .iter()
        .zip(counts.systems)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let _ = writeln!(
        out,
        "lines of mail systems: {}",
        if systems.is_empty() { "none".to_owned() } else { systems.join(", ") }
    );
    let [sent, deferred, bounced] = import.fill.attempts;
    let _ = writeln!(out, "attempts: {sent} sent, {deferred} deferred, {bounced} bounced");
    let mut failures: Vec<_> = import.fill.failures.iter().collect();
    failures.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    if !failures.is_empty() {
        let failures: Vec<String> = failures.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = writeln!(out, "why they bounced: {}", failures.join(", "));
    }
    joined.words(&mut out);
    let verb = if import.options.dry_run { "would be entered" } else { "entered" };
    let _ = writeln!(out, "{} entries {verb}, {} were there already", import.fill.entered, import.fill.known);
    if !import.options.dry_run {
        let _ = writeln!(out, "ledger: {}", import.directory.display());
    }
    not_read(&mut out, import);
    out
}

/// Everything that was passed over, with examples.
fn not_read(out: &mut String, import: &Import<'_>) {
    let counts = &import.counts;
    let other: u64 = counts.others.values().sum();
    if other > 0 {
        let mut names: Vec<_> = counts.others.iter().collect();
        names.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let names: Vec<String> = names.iter().take(5).map(|(name, count)| format!("{name} {count}")).collect();
        let _ = writeln!(out, "{other} lines of other programs passed over: {}", names.join(", "));
    }
    for (tally, what) in troubles(counts) {
        if tally.count > 0 {
            let _ = writeln!(out, "{} {what}", tally.count);
            for sample in &tally.samples {
                let _ = writeln!(out, "    at byte {}: {}", sample.offset, sample.text);
            }
        }
    }
    if counts.repeated > 0 {
        let _ =
            writeln!(out, "{} lines were left out by the syslog itself (\"last message repeated\")", counts.repeated);
    }
    if counts.backwards > 0 {
        let _ =
            writeln!(out, "the clock went backwards {} times, by up to {} s", counts.backwards, counts.furthest_back);
    }
    if counts.future > 0 {
        let _ = writeln!(
            out,
            "{} lines are younger than their file: their year is probably wrong; say it with --year",
            counts.future
        );
    }
    if import.left > 0 {
        let _ = writeln!(out, "{} unfinished lines were left for the next time", import.left);
    }
}

fn troubles(counts: &yamabiko_maillog::reader::Counts) -> [(&Tally, &'static str); 5] {
    [
        (&counts.unreadable, "lines are of no log that is known:"),
        (&counts.unknown, "lines of mail programs have words that are not known:"),
        (&counts.too_long, "lines were too long; their first 64 KB were read:"),
        (&counts.not_utf8, "lines are not UTF-8; the rest of them was read:"),
        (&counts.binary, "lines have zero bytes in them:"),
    ]
}

fn object(import: &Import<'_>, joined: &Joined) -> serde_json::Value {
    let counts = &import.counts;
    let tally = |tally: &Tally| {
        let samples: Vec<_> = tally.samples.iter().map(|s| json!({"offset": s.offset, "text": s.text})).collect();
        json!({"count": tally.count, "samples": samples})
    };
    let [sent, deferred, bounced] = import.fill.attempts;
    json!({
        "files": import.files,
        "files_unchanged": import.skipped,
        "lines": counts.lines,
        "bytes": counts.bytes,
        "seconds": import.began.elapsed().as_secs_f64(),
        "first": counts.span.map(|(first, _)| first.seconds()),
        "last": counts.span.map(|(_, last)| last.seconds()),
        "systems": SYSTEMS.iter().zip(counts.systems).collect::<std::collections::BTreeMap<_, _>>(),
        "attempts": {"sent": sent, "deferred": deferred, "bounced": bounced},
        "failures": import.fill.failures,
        "entered": import.fill.entered,
        "known": import.fill.known,
        "bounces": joined.object(),
        "other_programs": counts.others,
        "unreadable": tally(&counts.unreadable),
        "unknown": tally(&counts.unknown),
        "too_long": tally(&counts.too_long),
        "not_utf8": tally(&counts.not_utf8),
        "binary": tally(&counts.binary),
        "blank": counts.blank,
        "repeated": counts.repeated,
        "clock_backwards": counts.backwards,
        "future": counts.future,
        "unfinished": import.left,
        "ledger": import.directory.to_string_lossy(),
    })
}

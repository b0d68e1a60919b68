//! Totals as pflogsumm lays them out: programs and people know where to look.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use yamabiko_maillog::summary::{Delivered, Details, Sessions, Summary, Volume};

use super::Options;
use super::gather::Date;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The whole report. Writing to a String cannot fail, so results of `write!` are not looked at.
pub fn summary(totals: &Summary, options: &Options, day: Option<Date>) -> String {
    let mut out = String::new();
    if let Some((_, month, date)) = day {
        let month = MONTHS.get(usize::from(month).wrapping_sub(1)).copied().unwrap_or_default();
        let _ = writeln!(out, "Postfix log summaries for {month} {date:2}");
    }
    totals_of(&mut out, totals, options);
    out.push('\n');
    if options.problems_first {
        problems(&mut out, totals, options);
    }
    traffic(&mut out, totals, options);
    let limit = options.detail.unwrap_or(usize::MAX);
    let top = options.detail.map(|count| format!("(top {count})")).unwrap_or_default();
    if limit > 0 {
        recipient_domains(&mut out, &totals.recipient_domains, limit, &top);
        sender_domains(&mut out, &totals.sender_domains, limit, &top);
    }
    if options.smtpd_stats {
        connections(&mut out, totals, options, limit, &top);
    }
    if limit > 0 {
        for (table, title, by_size) in [
            (&totals.senders, "Senders by message count", false),
            (&totals.recipients, "Recipients by message count", false),
            (&totals.senders, "Senders by message size", true),
            (&totals.recipients, "Recipients by message size", true),
        ] {
            users(&mut out, table, title, by_size, options);
        }
    }
    sizeless(&mut out, &totals.sizeless);
    if !options.problems_first {
        problems(&mut out, totals, options);
    }
    out
}

/// `  1234k`: from 512 k on in k, from 512 m on in m.
fn units(value: u64) -> String {
    match value {
        0..=524_288 => format!("{value:6} "),
        524_289..=536_870_912 => format!("{:6}k", value / 1024),
        _ => format!("{:6}m", value / 1_048_576),
    }
}

/// Seconds of microseconds, above a minute in m, above an hour in h.
fn time(micros: f64) -> String {
    let seconds = micros / 1e6;
    match seconds {
        s if s > 3600.0 => format!("{:5.1} h", s / 3600.0),
        s if s > 60.0 => format!("{:5.1} m", s / 60.0),
        s => format!("{s:5.1} s"),
    }
}

fn heading(out: &mut String, title: &str) {
    let _ = write!(out, "\n{title}\n{}\n", "-".repeat(title.len()));
}

fn totals_of(out: &mut String, totals: &Summary, options: &Options) {
    heading(out, "Grand Totals");
    out.push_str("messages\n\n");
    let all = totals.delivered + totals.rejected + totals.discarded;
    let percent = |part: u64| (part * 100).checked_div(all).unwrap_or(0);
    let _ = writeln!(out, " {}  received", units(totals.received));
    let _ = writeln!(out, " {}  delivered", units(totals.delivered));
    let _ = writeln!(out, " {}  forwarded", units(totals.forwarded));
    let _ = write!(out, " {}  deferred", units(totals.deferred));
    if totals.deferrals > 0 {
        let _ = write!(out, "  ({} deferrals)", units(totals.deferrals).trim_start());
    }
    out.push('\n');
    let _ = writeln!(out, " {}  bounced", units(totals.bounced));
    let _ = writeln!(out, " {}  rejected ({}%)", units(totals.rejected), percent(totals.rejected));
    let _ = writeln!(out, " {}  reject warnings", units(totals.warned));
    let _ = writeln!(out, " {}  held", units(totals.held));
    let _ = writeln!(out, " {}  discarded ({}%)\n", units(totals.discarded), percent(totals.discarded));
    let _ = writeln!(out, " {}  bytes received", units(totals.bytes.0));
    let _ = writeln!(out, " {}  bytes delivered", units(totals.bytes.1));
    let recipient_domains = totals.recipient_domains.values().filter(|domain| domain.sent.count > 0).count();
    for (count, words) in [
        (totals.senders.len(), "senders"),
        (totals.sender_domains.len(), "sending hosts/domains"),
        (totals.recipients.len(), "recipients"),
        (recipient_domains, "recipient hosts/domains"),
    ] {
        let _ = writeln!(out, " {}  {words}", units(count as u64));
    }
    if options.smtpd_stats {
        let Sessions { count, seconds, .. } = totals.sessions;
        let average = (seconds * 2 + count).checked_div(count * 2).unwrap_or(0);
        let _ = write!(out, "\nsmtpd\n\n  {}  connections\n", units(count));
        let _ = writeln!(out, "  {}  hosts/domains", units(totals.session_domains.len() as u64));
        let _ = writeln!(out, "  {average:6}   avg. connect time (seconds)");
        let _ = writeln!(out, " {}  total connect time", clock(seconds));
    }
}

fn clock(seconds: u64) -> String {
    format!("{:2}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn date(day: &Date, options: &Options) -> String {
    let (year, month, date) = day;
    if options.iso_date_time {
        return format!("{year:04}-{month:02}-{date:02} ");
    }
    let month = MONTHS.get(usize::from(*month).wrapping_sub(1)).copied().unwrap_or_default();
    format!("{month} {date:2} {year}")
}

fn hours(hour: usize, options: &Options) -> String {
    if options.iso_date_time {
        format!("    {hour:02}:00-{:02}:00", hour + 1)
    } else {
        format!("    {hour:02}00-{:02}00  ", hour + 1)
    }
}

const COLUMNS: &str = "received  delivered   deferred    bounced     rejected";
const RULE: &str = "    --------------------------------------------------------------------";

fn traffic(out: &mut String, totals: &Summary, options: &Options) {
    let days = totals.seen_days.len().max(usize::from(!totals.days.is_empty())) as u64;
    if days > 1 {
        heading(out, "Per-Day Traffic Summary");
        let _ = writeln!(out, "    date          {COLUMNS}\n{RULE}");
        for (day, five) in &totals.days {
            let _ = write!(out, "    {}", date(day, options));
            // As many columns as the last one that has something.
            let last = five.iter().rposition(|value| *value > 0).map_or(0, |last| last + 1);
            for value in &five[..last] {
                let _ = write!(out, "    {}", units(*value));
            }
            out.push('\n');
        }
    }
    heading(out, if days > 1 { "Per-Hour Traffic Daily Average" } else { "Per-Hour Traffic Summary" });
    let _ = writeln!(out, "    time          {COLUMNS}\n{RULE}");
    for (hour, five) in totals.hours.iter().enumerate() {
        out.push_str(&hours(hour, options));
        for value in five {
            // Rounded to the nearest.
            let value = if days > 1 { (value * 2 + days) / (days * 2) } else { *value };
            let _ = write!(out, "    {}", units(value));
        }
        out.push('\n');
    }
}

fn recipient_domains(out: &mut String, table: &HashMap<String, Delivered>, limit: usize, top: &str) {
    heading(out, &format!("Host/Domain Summary: Message Delivery {top}"));
    out.push_str(" sent cnt  bytes   defers   avg dly max dly host/domain\n");
    out.push_str(" -------- -------  -------  ------- ------- -----------\n");
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(name, row)| (Reverse((row.sent.count, row.sent.bytes)), *name));
    for (name, row) in rows.into_iter().take(limit) {
        let average = if row.sent.count > 0 { row.delay as f64 / row.sent.count as f64 } else { 0.0 };
        let _ = writeln!(
            out,
            " {}  {}  {}  {}  {}  {name}",
            units(row.sent.count),
            units(row.sent.bytes),
            units(row.deferred),
            time(average),
            time(row.longest as f64)
        );
    }
}

fn sender_domains(out: &mut String, table: &HashMap<String, Volume>, limit: usize, top: &str) {
    heading(out, &format!("Host/Domain Summary: Messages Received {top}"));
    out.push_str(" msg cnt   bytes   host/domain\n -------- -------  -----------\n");
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(name, row)| (Reverse((row.count, row.bytes)), *name));
    for (name, row) in rows.into_iter().take(limit) {
        let _ = writeln!(out, " {}  {}  {name}", units(row.count), units(row.bytes));
    }
}

fn users(out: &mut String, table: &HashMap<String, Volume>, title: &str, by_size: bool, options: &Options) {
    let title = options.detail.map_or(title.to_owned(), |count| format!("top {count} {title}"));
    if !listed(out, &title, table.is_empty(), options) {
        return;
    }
    let value = |row: &Volume| if by_size { row.bytes } else { row.count };
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_cached_key(|(name, row)| (Reverse(value(row)), by_domain(name)));
    for (name, row) in rows.into_iter().take(options.detail.unwrap_or(usize::MAX)) {
        let _ = writeln!(out, " {}  {name}", units(value(row)));
    }
}

/// `a@b.example` sorts as `exampleba`: domains stay together.
fn by_domain(name: &str) -> String {
    let first = name.split_whitespace().next().unwrap_or_default();
    first.rsplit(['.', '@']).map(str::to_lowercase).collect()
}

/// A title, and `: none` where nothing follows. False when nothing does.
fn listed(out: &mut String, title: &str, empty: bool, options: &Options) -> bool {
    if empty {
        if !options.quiet {
            let _ = writeln!(out, "\n{title}: none");
        }
        return false;
    }
    let _ = writeln!(out, "\n{title}\n{}", "-".repeat(title.len()));
    true
}

fn sizeless(out: &mut String, table: &BTreeMap<String, String>) {
    if table.is_empty() {
        return;
    }
    let title = "Messages with no size data";
    let _ = writeln!(out, "\n{title}\n{}", "-".repeat(title.len()));
    for (id, address) in table {
        let _ = writeln!(out, " {id}  {address}");
    }
}

fn problems(out: &mut String, totals: &Summary, options: &Options) {
    let limit = options.detail.unwrap_or(usize::MAX);
    if limit > 0 {
        grouped(out, &totals.deferral_texts, "message deferral detail", 2, options, true);
        grouped(out, &totals.bounce_texts, "message bounce detail (by relay)", 2, options, true);
        for (table, title) in [
            (&totals.reject_texts, "message reject detail"),
            (&totals.warn_texts, "message reject warning detail"),
            (&totals.hold_texts, "message hold detail"),
            (&totals.discard_texts, "message discard detail"),
        ] {
            if listed(out, title, table.is_empty(), options) {
                for (stage, texts) in table {
                    let _ = writeln!(out, "  {stage}");
                    grouped(out, texts, "", 4, options, true);
                }
            }
        }
        grouped(out, &totals.connect_failures, "smtp delivery failures", 2, options, true);
        grouped(out, &totals.warnings, "Warnings", 2, options, true);
    }
    grouped(out, &totals.fatals, "Fatal Errors", 2, options, false);
    grouped(out, &totals.panics, "Panics", 2, options, false);
    if listed(out, "Master daemon messages", totals.master.is_empty(), options) {
        counted(out, &totals.master, 1, usize::MAX);
    }
}

/// Texts under their groups. Without a title the groups are part of a table that has one.
fn grouped(out: &mut String, table: &Details, title: &str, indent: usize, options: &Options, limited: bool) {
    if !title.is_empty() && !listed(out, title, table.is_empty(), options) {
        return;
    }
    let top = options.detail.filter(|_| limited).map(|count| format!(" (top {count})")).unwrap_or_default();
    for (group, texts) in table {
        let total: u64 = texts.values().sum();
        let _ = writeln!(out, "{:indent$}{group}{top} (total: {total})", "");
        counted(out, texts, indent + 2, if limited { options.detail.unwrap_or(usize::MAX) } else { usize::MAX });
    }
}

fn counted(out: &mut String, texts: &HashMap<String, u64>, indent: usize, limit: usize) {
    let mut rows: Vec<_> = texts.iter().collect();
    rows.sort_by_cached_key(|(text, count)| (Reverse(**count), by_domain(text), (*text).clone()));
    for (text, count) in rows.into_iter().take(limit) {
        let _ = writeln!(out, "{:indent$}{}  {text}", "", units(*count));
    }
}

fn connections(out: &mut String, totals: &Summary, options: &Options, limit: usize, top: &str) {
    let days = totals.seen_days.len() as u64;
    let average =
        |sessions: &Sessions| (sessions.seconds * 2 + sessions.count).checked_div(sessions.count * 2).unwrap_or(0);
    let rule = "    --------------------------------------------------------------------";
    if days > 1 {
        heading(out, "Per-Day SMTPD Connection Summary");
        let _ = writeln!(out, "    date        connections    time conn.    avg./conn.   max. time\n{rule}");
        for (day, row) in &totals.session_days {
            let (count, time) = (units(row.count), clock(row.seconds));
            let _ = writeln!(
                out,
                "    {}   {count}       {time}      {:6}s      {:6}s",
                date(day, options),
                average(row),
                row.longest
            );
        }
        heading(out, "Per-Hour SMTPD Connection Daily Average");
        out.push_str("    hour        connections    time conn.\n    -------------------------------------\n");
    } else {
        heading(out, "Per-Hour SMTPD Connection Summary");
        let _ = writeln!(out, "    hour        connections    time conn.    avg./conn.   max. time\n{rule}");
    }
    for (hour, row) in totals.session_hours.iter().enumerate().filter(|(_, row)| row.count > 0) {
        let per_day = |value: u64| if days > 1 { (value * 2 + days) / (days * 2) } else { value };
        let _ = write!(
            out,
            "{}   {}       {}",
            hours(hour, options),
            units(per_day(row.count)),
            clock(per_day(row.seconds))
        );
        if days < 2 {
            let _ = write!(out, "      {:6}s      {:6}s", average(row), row.longest);
        }
        out.push('\n');
    }
    if limit > 0 {
        heading(out, &format!("Host/Domain Summary: SMTPD Connections {top}"));
        out.push_str(" connections  time conn.  avg./conn.  max. time  host/domain\n");
        out.push_str(" -----------  ----------  ----------  ---------  -----------\n");
        let mut rows: Vec<_> = totals.session_domains.iter().collect();
        rows.sort_by_key(|(name, row)| (Reverse((row.count, row.seconds)), *name));
        for (name, row) in rows.into_iter().take(limit) {
            let _ = writeln!(
                out,
                "  {}      {}     {:6}s    {:6}s   {name}",
                units(row.count),
                clock(row.seconds),
                average(row),
                row.longest
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(units(12), "    12 ");
        assert_eq!(units(524_289), "   512k");
        assert_eq!(units(536_870_913), "   512m");
        assert_eq!(time(1_500_000.0), "  1.5 s");
        assert_eq!(time(90_000_000.0), "  1.5 m");
        assert_eq!(clock(3_725), " 1:02:05");
        assert_eq!(by_domain("a@B.example"), "exampleba");
    }
}

//! Histories as text and as tables.

use std::io::{self, Write};
use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Entry, History, State, Verdict, What, stage_word};

use super::words::{self, Language};

/// A moment in the local zone, to the second.
pub fn when(at: Timestamp) -> String {
    let stamp = i64::try_from(at.0).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    match stamp {
        Some(stamp) => stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => at.0.to_string(),
    }
}

/// Control characters of peers are not for terminals.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A sentence, and the history below it.
pub fn history(
    history: &History,
    now: Timestamp,
    quiet: Duration,
    language: Language,
    bold: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let sentence = clean(&words::sentence(history, now, quiet, language));
    match bold {
        true => writeln!(out, "\x1b[1m{sentence}\x1b[0m")?,
        false => writeln!(out, "{sentence}")?,
    }
    for known in &history.entries {
        entry(known, false, out)?;
    }
    writeln!(out)
}

/// One line for an entry. `whole` names message and recipient too.
pub fn entry(entry: &Entry, whole: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |part: String| {
        if !part.is_empty() {
            parts.push(part);
        }
    };
    if whole {
        add(entry.queue_id.clone());
        let to = if entry.recipient.is_empty() && entry.recipients.len() == 1 {
            entry.recipients.first().map(|(address, _)| address.as_str()).unwrap_or_default()
        } else {
            &entry.recipient
        };
        add(if to.is_empty() { String::new() } else { format!("to=<{to}>") });
    } else if entry.what == What::Queued {
        add(entry.queue_id.clone());
    }
    if entry.what == What::Queued {
        add(entry.sender.as_deref().map(|sender| format!("from=<{sender}>")).unwrap_or_default());
        add(if entry.client.is_empty() { String::new() } else { format!("client={}", entry.client) });
        add(if entry.size > 0 { format!("size={}", entry.size) } else { String::new() });
        add(if entry.message_id.is_empty() { String::new() } else { format!("message-id={}", entry.message_id) });
    }
    add(entry.action.map(|action| action.word().to_owned()).unwrap_or_default());
    add(entry.relay.clone());
    let said = entry.stage.is_some() && entry.what != What::Queued;
    add(if said {
        entry.stage.map(|stage| format!("at {}", stage_word(stage))).unwrap_or_default()
    } else {
        String::new()
    });
    add(entry.status.map(|status| status.to_string()).unwrap_or_default());
    add(if entry.reason.is_empty() { String::new() } else { format!("[{}]", entry.reason) });
    add(entry.text.clone());
    add(entry.tls.clone());
    add(if entry.related.is_empty() { String::new() } else { format!("-> {}", entry.related) });
    add(if entry.by.is_empty() { String::new() } else { format!("({})", entry.by) });
    add(if entry.confidence > 0 { format!("{} %", entry.confidence) } else { String::new() });
    let host = if entry.host.is_empty() { String::new() } else { format!("{} ", entry.host) };
    writeln!(out, "  {}  {host}{:<10}  {}", when(entry.at), entry.what.word(), clean(&parts.join("  ")))
}

/// The entry that says otherwise and proves nothing, and what it says.
pub fn unproven<'a>(history: &'a History, verdict: &Verdict) -> Option<(&'a Entry, State)> {
    let known = verdict.unproven.and_then(|position| history.entries.get(position))?;
    Some((known, yamabiko_ledger::claim(known)?))
}

/// A history in one line.
pub fn line(history: &History, now: Timestamp, quiet: Duration, out: &mut dyn Write) -> io::Result<()> {
    let verdict = history.verdict(now, quiet);
    let decisive = verdict.decided_by.and_then(|position| history.entries.get(position));
    let reason = decisive.map_or("", |entry| entry.reason.as_str());
    let doubt = unproven(history, &verdict)
        .map(|(known, claimed)| format!("  ({}? {} %)", claimed.word(), known.confidence))
        .unwrap_or_default();
    let at = decisive.map_or_else(|| history.began(), |entry| entry.at);
    writeln!(
        out,
        "{}  {:<18}  {}  {}  {}{doubt}",
        when(at),
        verdict.state.word(),
        history.queue_id,
        clean(&history.recipient),
        reason
    )
}

/// Names of the columns of CSV.
const COLUMNS: &str = "recipient,state,reason,since,dsn,reply_code,text,host,attempts,sent_at,sender,message_id,queue_id,remote_queue_id,confidence,unproven,unproven_confidence";

/// One line for each recipient, as RFC 4180 has it, behind a line of names.
pub fn csv(histories: &[History], now: Timestamp, quiet: Duration, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for history in histories {
        let verdict = history.verdict(now, quiet);
        let decisive = verdict.decided_by.and_then(|position| history.entries.get(position));
        let doubt = unproven(history, &verdict);
        let of = |get: fn(&Entry) -> String| decisive.map(get).unwrap_or_default();
        let remote = history.entries.iter().rev().find(|entry| !entry.remote_id.is_empty());
        let fields = [
            history.recipient.clone(),
            verdict.state.word().to_owned(),
            of(|entry| entry.reason.clone()),
            of(|entry| when(entry.at)),
            of(|entry| entry.status.map(|status| status.to_string()).unwrap_or_default()),
            of(|entry| entry.reply.map(|reply| reply.0.to_string()).unwrap_or_default()),
            of(|entry| entry.text.clone()),
            of(|entry| entry.relay.clone()),
            verdict.attempts.to_string(),
            when(history.began()),
            history.sender().unwrap_or_default().to_owned(),
            history.message_id().to_owned(),
            history.queue_id.clone(),
            remote.map(|entry| entry.remote_id.clone()).unwrap_or_default(),
            verdict.confidence.to_string(),
            doubt.map(|(_, claimed)| claimed.word().to_owned()).unwrap_or_default(),
            doubt.map(|(known, _)| known.confidence.to_string()).unwrap_or_default(),
        ];
        let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
        writeln!(out, "{}", line.join(","))?;
    }
    Ok(())
}

/// A field for spreadsheets: what they would take for a formula is text.
pub fn quoted(field: &str) -> String {
    let field = clean(field);
    let guard = if field.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    match field.contains([',', '"', ';']) || !guard.is_empty() {
        true => format!("\"{guard}{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_tables() {
        for (field, expected) in [
            ("a@b.test", "a@b.test"),
            ("said: no, \"never\"", "\"said: no, \"\"never\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("a\nb", "a?b"),
        ] {
            assert_eq!(quoted(field), expected);
        }
    }
}

//! Totals gathered from logs, or from the ledger.

use std::collections::HashMap;
use std::io::{self, Read};

use jiff::tz::TimeZone;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Entry, Error, Ledger, What};
use yamabiko_maillog::lines::Lines;
use yamabiko_maillog::reader::Reader;
use yamabiko_maillog::summary::{Summary, said};

use super::Options;
use crate::import::source::{Source, rotation, unpack};

/// A date: year, month, day.
pub type Date = (i16, u8, u8);

/// Reads logs. With a day only its lines count.
pub fn logs(options: &Options, zone: &TimeZone, day: Option<Date>) -> (Summary, Vec<String>) {
    let (mut summary, mut troubles) = (Summary::default(), Vec::new());
    let mut sources = Vec::new();
    for path in &options.logs {
        if path.as_os_str() == "-" {
            sources.push(None);
            continue;
        }
        match Source::look(path) {
            Ok(source) => sources.push(Some(source)),
            Err(error) => troubles.push(format!("{}: {error}", path.display())),
        }
    }
    // Standard input comes last: it goes on for as long as it likes.
    sources.sort_by_cached_key(|source| match source {
        Some(source) => (false, source.begins(zone), rotation(&source.path)),
        None => (true, Timestamp::default(), std::cmp::Reverse(0)),
    });
    for source in sources {
        let (name, written) = match &source {
            Some(source) => (source.path.display().to_string(), source.written),
            None => ("-".to_owned(), Timestamp::now()),
        };
        let input: io::Result<Box<dyn Read>> = match &source {
            Some(source) => std::fs::File::open(&source.path).and_then(|file| unpack(source.packed, file)),
            None => Ok(Box::new(io::stdin())),
        };
        let mut reader = Reader::new(zone.clone(), written, options.year, "");
        let mut lines = match input {
            Ok(input) => Lines::new(input, 0),
            Err(error) => {
                troubles.push(format!("{name}: {error}"));
                continue;
            }
        };
        loop {
            match lines.next_line() {
                Ok(Some(line)) => reader.line(&line, &mut |entry| {
                    let civil = entry.civil;
                    if day.is_none_or(|day| day == (civil.year, civil.month, civil.day)) {
                        summary.entry(entry);
                    }
                }),
                Ok(None) => break,
                Err(error) => {
                    troubles.push(format!("{name}: {error}"));
                    break;
                }
            }
        }
        let counts = reader.counts();
        let unread = counts.unreadable.count + counts.unknown.count;
        if unread > 0 && !options.quiet {
            troubles.push(format!(
                "{name}: {} lines are of no log that is known, {} have words that are not known (yamabiko import -n shows them)",
                counts.unreadable.count, counts.unknown.count
            ));
        }
    }
    (summary, troubles)
}

/// What the ledger has of each message.
#[derive(Clone, Default)]
struct Message {
    size: u64,
    deferred: bool,
}

/// Messages whose size is remembered; with more those that come later have none.
const MESSAGES: usize = 4_000_000;

/// Counts the ledger's entries.
pub fn ledger(ledger: &mut Ledger, since: Timestamp, zone: &TimeZone, day: Option<Date>) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut messages: HashMap<u64, Message> = HashMap::new();
    ledger.each(Some(since), None, |entry| {
        let at = jiff::Timestamp::from_microsecond(i64::try_from(entry.at.0).unwrap_or(0)).unwrap_or_default();
        let at = at.to_zoned(zone.clone());
        let date = (at.year(), at.month().unsigned_abs(), at.day().unsigned_abs());
        if day.is_none_or(|day| day == date) {
            count(&mut summary, &mut messages, &entry, date, usize::from(at.hour().unsigned_abs()));
        }
        true
    })?;
    Ok(summary)
}

fn count(summary: &mut Summary, messages: &mut HashMap<u64, Message>, entry: &Entry, date: Date, hour: usize) {
    summary.seen_days.insert(date);
    let five = |column: usize, summary: &mut Summary| {
        summary.days.entry(date).or_default()[column] += 1;
        if let Some(hour) = summary.hours.get_mut(hour) {
            hour[column] += 1;
        }
    };
    let key = crate::import::source::hash(format!("{}\0{}", entry.host, entry.queue_id).as_bytes());
    // A message that was settled at once is one entry.
    let whole = entry.what != What::Rejected && entry.size > 0 && !entry.client.is_empty();
    if (entry.what == What::Queued && !entry.client.is_empty()) || (entry.what != What::Queued && whole) {
        summary.received += 1;
        five(0, summary);
        summary.bytes.0 += entry.size;
        let sender = entry.sender.clone().filter(|sender| !sender.is_empty()).unwrap_or_else(|| "from=<>".to_owned());
        let domain = match sender.split_once('@') {
            Some((_, domain)) => domain.to_ascii_lowercase(),
            None => entry.client.split([' ', '[']).next().unwrap_or_default().to_owned(),
        };
        for (table, name) in [(&mut summary.sender_domains, domain), (&mut summary.senders, sender)] {
            let volume = table.entry(name).or_default();
            volume.count += 1;
            volume.bytes += entry.size;
        }
    }
    if entry.size > 0 && messages.len() < MESSAGES {
        messages.entry(key).or_default().size = entry.size;
    }
    let address = entry.recipient.clone();
    let domain = yamabiko_ledger::domain_of(&address);
    let delay = entry.delay.map_or(0, |delay| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    match entry.what {
        What::Expanded => summary.forwarded += 1,
        What::Sent | What::Relayed | What::Delivered => {
            summary.delivered += 1;
            five(1, summary);
            let size = messages.get(&key).map_or(0, |message| message.size);
            summary.bytes.1 += size;
            let of_domain = summary.recipient_domains.entry(domain).or_default();
            of_domain.sent.count += 1;
            of_domain.sent.bytes += size;
            of_domain.delay += delay;
            of_domain.longest = of_domain.longest.max(delay);
            let volume = summary.recipients.entry(address).or_default();
            volume.count += 1;
            volume.bytes += size;
        }
        What::Deferred => {
            summary.deferrals += 1;
            five(2, summary);
            if messages.len() < MESSAGES {
                let message = messages.entry(key).or_default();
                if !std::mem::replace(&mut message.deferred, true) {
                    summary.deferred += 1;
                }
            }
            let of_domain = summary.recipient_domains.entry(domain).or_default();
            of_domain.deferred += 1;
            of_domain.longest = of_domain.longest.max(delay);
            note(summary.deferral_texts.entry(entry.program.clone()).or_default(), &entry.text, 65);
        }
        What::Bounced => {
            summary.bounced += 1;
            five(3, summary);
            let relay = if entry.relay.is_empty() { "none" } else { &entry.relay };
            note(summary.bounce_texts.entry(relay.to_owned()).or_default(), &entry.text, 66);
        }
        What::Rejected => {
            summary.rejected += 1;
            five(4, summary);
            let stage = entry.stage.map_or("reject", yamabiko_ledger::stage_word).to_ascii_uppercase();
            let texts = summary.reject_texts.entry(stage).or_default();
            *texts.entry(said(&entry.text, 66)).or_default().entry(entry.recipient.clone()).or_default() += 1;
        }
        What::Held => summary.held += 1,
        What::Discarded => summary.discarded += 1,
        _ => {}
    }
}

fn note(texts: &mut HashMap<String, u64>, text: &str, longest: usize) {
    *texts.entry(said(text, longest)).or_default() += 1;
}

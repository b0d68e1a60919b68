//! Lists of others: Amazon SES, SendGrid, Mailgun, Postal, bounceHammer, and plain ones.
//!
//! CSV with a line of names, JSON (an array, an object around one, or an object per line, also as bounceHammer's YAML has it,
//! behind a hyphen), or one address per line: what a list is in is seen from its beginning, and the members are found by any
//! of the names that these services use. What is no failure, and what is over by now, is passed over and counted. What
//! `yamabiko suppress export` writes comes back as it was.

use serde_json::Value;
use yamabiko_analyze::{Analyzer, Reason, Reply};
use yamabiko_envelope::Timestamp;

use super::{NEVER, Suppressed};

/// What a list had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Addresses to keep back.
    pub entries: Vec<Suppressed>,
    /// Items that tell of something that suppresses nobody: blocked, filtered, delivered.
    pub passed_over: usize,
    /// Items that could not be read, by line or number from 1.
    pub unread: Vec<usize>,
}

const ADDRESS: [&str; 8] =
    ["email", "emailaddress", "address", "recipient", "emailaddresses", "to", "mail", "bouncedrecipients"];
const REASON: [&str; 8] =
    ["reason", "type", "bouncetype", "event", "error", "status_reason", "suppressionreason", "code"];
const TEXT: [&str; 7] = ["evidence", "diagnosticcode", "deliverystatus", "description", "error", "reason", "message"];
const TIME: [&str; 9] =
    ["created", "created_at", "lastupdatetime", "timestamp", "bounced", "date", "time", "updated_at", "since"];
/// Postal keeps an address for a time only; `until` is our own.
const UNTIL: [&str; 5] = ["keep_until", "until", "expires", "expires_at", "expiration"];
/// In our own lists: for mail of this domain only.
const SENDER: [&str; 1] = ["sender"];

/// Reads a list. `source` is who it is of, for the records.
pub fn read(text: &str, source: &str, now: Timestamp) -> Foreign {
    let mut out = Foreign::default();
    let analyzer = crate::analyzer();
    let text = text.trim_start_matches('\u{feff}');
    let beginning = text.trim_start();
    let yaml = |line: &str| line.trim_start().strip_prefix('-').is_some_and(|rest| rest.trim_start().starts_with('{'));
    let hyphens = text.lines().find(|line| !line.trim().is_empty() && line.trim() != "---").is_some_and(yaml);
    let objects: String = match hyphens {
        true => {
            let lines = text.lines().filter(|line| line.trim() != "---");
            lines.flat_map(|line| [line.trim_start().trim_start_matches('-'), "\n"]).collect()
        }
        false => String::new(),
    };
    let beginning = if hyphens { objects.trim_start() } else { beginning };
    if beginning.starts_with(['{', '[']) {
        let items = json_items(beginning);
        for (number, item) in (1..).zip(items) {
            match item {
                Some(item) => take(&mut out, analyzer, number, &|names| member(&item, names), source, now),
                None => out.unread.push(number),
            }
        }
        return out;
    }
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((_, first)) = lines.clone().next() else { return out };
    let separator = [',', '\t', ';'].into_iter().find(|separator| first.contains(*separator)).unwrap_or(',');
    let names: Vec<String> = fields(first, separator).iter().map(|name| plain(name)).collect();
    let has_names = names.iter().any(|name| ADDRESS.contains(&name.as_str()));
    if has_names {
        lines.next();
    }
    for (number, line) in lines {
        let values = fields(line, separator);
        let get = |wanted: &[&str]| -> Option<String> {
            if !has_names {
                // Address, then perhaps a reason.
                return match wanted == ADDRESS.as_slice() {
                    true => values.iter().find(|value| value.contains('@')).cloned(),
                    false => (wanted == REASON.as_slice()).then(|| values.get(1).cloned()).flatten(),
                };
            }
            wanted.iter().find_map(|name| {
                let at = names.iter().position(|known| known == name)?;
                values.get(at).filter(|value| !value.is_empty()).cloned()
            })
        };
        take(&mut out, analyzer, number, &get, source, now);
    }
    out
}

type Get<'a> = &'a dyn Fn(&[&str]) -> Option<String>;

fn take(out: &mut Foreign, analyzer: &Analyzer, number: usize, get: Get<'_>, source: &str, now: Timestamp) {
    let address = get(&ADDRESS).unwrap_or_default();
    let address = address.trim().trim_matches(['<', '>', '"']);
    if !is_address(address) {
        out.unread.push(number);
        return;
    }
    let said = get(&REASON).unwrap_or_default();
    let text = get(&TEXT).unwrap_or_default();
    let until = get(&UNTIL).and_then(|text| time(&text));
    let over = until.is_some_and(|until| until <= now);
    match meaning(analyzer, &said, &text, address).filter(|_| !over) {
        Some(reason) => {
            // The word of which the reason was made tells no more.
            let evidence = if said == text || plain(&said) == reason { text } else { format!("{said} {text}") };
            out.entries.push(Suppressed {
                address: address.to_owned(),
                // In events of others it is the address that one message was from.
                sender: get(&SENDER).filter(|sender| !sender.contains('@')).unwrap_or_default(),
                reason,
                evidence: evidence.trim().chars().filter(|c| !c.is_control()).take(300).collect(),
                since: get(&TIME).and_then(|text| time(&text)).unwrap_or(now),
                until,
                source: format!("import: {source}"),
            });
        }
        None => out.passed_over += 1,
    }
}

/// An address, or all of a domain (`@domain`, as our own lists have it).
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    let strange = |c: char| c.is_whitespace() || c.is_control() || ",:;<>()[]{}\"".contains(c);
    text.len() <= 320 && domain.contains('.') && !domain.contains(strange) && (is_quoted || !local.contains(strange))
}

/// The reason in our words; `None` where it does not speak against the address.
fn meaning(analyzer: &Analyzer, said: &str, text: &str, address: &str) -> Option<String> {
    let word = plain(said);
    if ["complaint", "complained", "spamreport", "spam report", "spam"].contains(&word.as_str()) {
        return Some("complaint".to_owned());
    }
    if ["unsubscribe", "unsubscribed", "groupunsubscribe", "manual"].contains(&word.as_str()) {
        return Some("manual".to_owned());
    }
    if ["delivered", "delivery", "open", "click", "deferred", "transient", "softbounce", "softfail", "blocked", "block"]
        .contains(&word.as_str())
    {
        return None;
    }
    if let Ok(reason) = word.parse::<Reason>() {
        return (!NEVER.contains(&reason.name())).then(|| reason.name().to_owned());
    }
    let verdict = analyzer.classify(&Reply {
        text: if text.is_empty() { said } else { text },
        recipient: address,
        ..Reply::default()
    });
    match verdict.reason {
        Reason::Undefined | Reason::OnHold => Some("imported".to_owned()),
        reason if NEVER.contains(&reason.name()) => None,
        reason => Some(reason.name().to_owned()),
    }
}

/// Small letters without blanks and hyphens.
fn plain(name: &str) -> String {
    name.trim().trim_matches('"').to_ascii_lowercase().replace([' ', '-'], "")
}

/// A line of CSV.
fn fields(line: &str, separator: char) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            c if c == separator && !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    out.push(field.trim().to_owned());
    out
}

/// The items of a JSON text: `None` where a line is none.
fn json_items(text: &str) -> Vec<Option<Value>> {
    const LISTS: [&str; 6] = ["items", "SuppressedDestinationSummaries", "suppressions", "bounces", "data", "results"];
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(items)) => items.into_iter().map(Some).collect(),
        Ok(value) => match LISTS.iter().find_map(|name| value.get(*name).and_then(Value::as_array)) {
            Some(items) => items.iter().cloned().map(Some).collect(),
            None => vec![Some(value)],
        },
        Err(_) => {
            text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).ok()).collect()
        }
    }
}

/// A member by any of its names, in an object or one level below.
fn member(item: &Value, names: &[&str]) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    if let Value::String(address) = item {
        return (names == ADDRESS.as_slice()).then(|| address.clone());
    }
    let object = item.as_object()?;
    for name in names {
        if let Some(found) = object.iter().find(|(key, _)| plain(key) == *name).and_then(|(_, value)| text(value)) {
            return Some(found);
        }
    }
    object.values().filter(|value| value.is_object()).find_map(|inner| {
        let inner = inner.as_object()?;
        names
            .iter()
            .find_map(|name| inner.iter().find(|(key, _)| plain(key) == *name).and_then(|(_, value)| text(value)))
    })
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// `Fri, 21 Oct 2011 11:02:55 GMT`: the day of it.
fn mail_date(text: &str) -> Option<Timestamp> {
    let text = text.split_once(',').map_or(text, |(_, rest)| rest).trim().to_ascii_lowercase();
    let mut words = text.split_whitespace();
    let day = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = (1..).zip(MONTHS).find(|(_, month)| name.starts_with(month))?.0;
    crate::days_from(words.next()?.parse().ok()?, month, day).map(|day| Timestamp::from_seconds(day * 86_400))
}

/// Seconds since the epoch, or the date in front of a time.
fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>()
        && number > 0.0
    {
        // Milliseconds are later than the year 5000 in seconds.
        let seconds = if number > 1e11 { number / 1000.0 } else { number };
        return Some(Timestamp::from_seconds(seconds as u64));
    }
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return mail_date(text);
    }
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split(['-', '/']).map(str::parse::<u64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let day = crate::days_from(year, month, day)?;
    // The time of our own lists, which are in UTC; of others the day is enough.
    let clock = rest.strip_prefix('T').and_then(|clock| clock.strip_suffix('Z')).unwrap_or("0");
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().ok().filter(|part| (0.0..61.0).contains(part)));
    let (hour, minute, second) = (parts.next().flatten(), parts.next().flatten(), parts.next().flatten());
    let micros = (hour.unwrap_or(0.0) * 3600.0 + minute.unwrap_or(0.0) * 60.0 + second.unwrap_or(0.0)) * 1e6;
    Some(Timestamp(day * 86_400_000_000 + micros.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_others() {
        let ses = r#"{"SuppressedDestinationSummaries":[{"EmailAddress":"a@b.test","Reason":"BOUNCE","LastUpdateTime":"2026-11-01T00:00:00Z"},{"EmailAddress":"c@b.test","Reason":"COMPLAINT","LastUpdateTime":1790000000.5}]}"#;
        let sendgrid = r#"[{"created":1790000000,"email":"a@b.test","reason":"550 5.1.1 The email account that you tried to reach does not exist","status":"5.1.1"},{"created":1790000000,"email":"f@b.test","reason":"550 5.7.1 blocked using spamhaus","status":"5.7.1"}]"#;
        let mailgun = "{\"items\":[{\"address\":\"a@b.test\",\"code\":\"550\",\"error\":\"No such mailbox\",\"created_at\":\"Fri, 21 Oct 2011 11:02:55 UTC\"}]}";
        let postal = "address,type,reason,timestamp\na@b.test,recipient,too many hard fails,2026-11-01 10:00\n";
        let hammer = "{\"recipient\":\"a@b.test\",\"reason\":\"userunknown\",\"bounced\":1790000000}\n{\"recipient\":\"c@b.test\",\"reason\":\"filtered\",\"bounced\":1790000000}\nrubbish\n";
        let plain = "# ours\na@b.test\nc@b.test, userunknown\nnobody\n";
        let yaml = "---\n- { \"bounced\": 1314857021, \"recipient\": \"a@b.test\", \"reason\": \"userunknown\", \"description\": { \"deliverystatus\": 511 } }\n- { \"recipient\": \"c@b.test\", \"reason\": \"filtered\" }\n- rubbish\n";
        let ends = r#"[{"address":"a@b.test","reason":"too many soft fails","timestamp":1.5,"keep_until":1796000000.5},{"address":"c@b.test","reason":"too many soft fails","keep_until":4}]"#;
        for (name, text, expected, passed, unread) in [
            ("SES", ses, vec![("a@b.test", "imported"), ("c@b.test", "complaint")], 0, 0),
            ("SendGrid", sendgrid, vec![("a@b.test", "userunknown")], 1, 0),
            ("Mailgun", mailgun, vec![("a@b.test", "userunknown")], 0, 0),
            ("Postal", postal, vec![("a@b.test", "imported")], 0, 0),
            ("bounceHammer", hammer, vec![("a@b.test", "userunknown")], 1, 1),
            ("plain", plain, vec![("a@b.test", "imported"), ("c@b.test", "userunknown")], 0, 1),
            ("bounceHammer's YAML", yaml, vec![("a@b.test", "userunknown")], 1, 1),
            ("with an end", ends, vec![("a@b.test", "imported")], 1, 0),
            ("no addresses", "name: a@b.test\nx y@b.test\n", vec![], 0, 2),
            ("empty", "", vec![], 0, 0),
        ] {
            let found = read(text, name, Timestamp::from_seconds(5));
            let entries: Vec<(&str, &str)> =
                found.entries.iter().map(|entry| (entry.address.as_str(), entry.reason.as_str())).collect();
            assert_eq!(entries, expected, "{name}");
            assert_eq!((found.passed_over, found.unread.len()), (passed, unread), "{name}");
        }
        let found = read(ses, "SES", Timestamp::from_seconds(5));
        assert_eq!(found.entries[0].since, Timestamp::from_seconds(20_758 * 86_400));
        let found = read(mailgun, "Mailgun", Timestamp::from_seconds(5));
        assert_eq!(found.entries[0].since, Timestamp::from_seconds(15_268 * 86_400));
        assert_eq!(found.entries[0].evidence, "No such mailbox");
        let found = read(ends, "Postal", Timestamp::from_seconds(5));
        assert_eq!(found.entries[0].until, Some(Timestamp::from_seconds(1_796_000_000)));
        assert_eq!(found.entries[0].evidence, "too many soft fails");
    }

    #[test]
    fn our_own_lists_come_back() {
        let text = "address,sender,reason,evidence,since,until,source\n\
                    a@b.test,news.example.jp,mailboxfull,\"Q1 552, full\",2026-11-22T15:27:56.804086Z,2026-12-22T00:00:00.000000Z,rules\n\
                    @c.test,,manual,,2026-11-22T15:27:56.000000Z,,operator\n";
        let found = read(text, "ours", Timestamp::from_seconds(5));
        assert_eq!((found.passed_over, found.unread.len()), (0, 0));
        let [full, domain] = found.entries.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (full.sender.as_str(), full.reason.as_str(), full.evidence.as_str()),
            ("news.example.jp", "mailboxfull", "Q1 552, full")
        );
        assert_eq!(crate::json::time(full.since), "2026-11-22T15:27:56.804086Z");
        assert_eq!(full.until.map(crate::json::time).as_deref(), Some("2026-12-22T00:00:00.000000Z"));
        assert_eq!((domain.address.as_str(), domain.reason.as_str()), ("@c.test", "manual"));
    }
}

//! What somebody means who pastes something: what to look for, the likeliest first.

use yamabiko_analyze::Analyzer;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::Field;

/// No address, Message-ID or queue ID is longer, in bytes: a line of a message (RFC 5322 section 2.1.1).
const LONGEST: usize = 998;

/// What to look for, in this order until something is found.
pub fn understand(text: &str) -> Vec<(Field, String)> {
    let mut found = meanings(text.trim());
    found.retain(|(_, name)| name.len() <= LONGEST);
    found
}

fn meanings(text: &str) -> Vec<(Field, String)> {
    if text.contains('\n') {
        return pasted(text);
    }
    if let Some(found) = log_line(text) {
        return found;
    }
    if text.contains(char::is_whitespace) {
        let words = text.split_whitespace().map(|word| word.trim_matches([',', ';', '.', '"', '\'', '(', ')']));
        return words.filter(|word| is_telling(word)).flat_map(one).collect();
    }
    one(text)
}

/// Worth looking up, out of a sentence.
fn is_telling(word: &str) -> bool {
    word.contains('@') || (word.len() >= 8 && word.bytes().any(|byte| byte.is_ascii_digit()))
}

fn one(text: &str) -> Vec<(Field, String)> {
    let bare = text.trim_start_matches('<').trim_end_matches('>');
    let bare = bare.strip_prefix("mailto:").unwrap_or(bare);
    let all = |fields: &[Field]| fields.iter().map(|field| (*field, bare.to_owned())).collect();
    match bare.split_once('@') {
        Some(("", domain)) => vec![(Field::Domain, domain.to_owned())],
        // Both look alike; a Message-ID is never anybody's address.
        Some(_) => all(&[Field::Recipient, Field::MessageId, Field::Sender]),
        None if bare.contains('.') && !bare.contains(['-', '=']) && bare.bytes().any(|b| b.is_ascii_alphabetic()) => {
            all(&[Field::Domain, Field::RemoteId, Field::QueueId, Field::EnvelopeId])
        }
        None if bare.is_empty() => Vec::new(),
        None => all(&[Field::QueueId, Field::RemoteId, Field::EnvelopeId, Field::Domain, Field::MessageId]),
    }
}

/// `... postfix/smtp[123]: QUEUEID: to=<a@b>, ...`
fn log_line(text: &str) -> Option<Vec<(Field, String)>> {
    let (_, rest) = text.split_once("]: ")?;
    let (id, rest) = rest.split_once(": ")?;
    if !(6..=20).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let mut found = vec![(Field::QueueId, id.to_owned())];
    if let Some(rest) = rest.strip_prefix("to=<")
        && let Some((address, _)) = rest.split_once('>')
    {
        found.push((Field::Recipient, address.to_owned()));
    }
    Some(found)
}

/// A whole bounce, or lines of one.
fn pasted(text: &str) -> Vec<(Field, String)> {
    let mut found = Vec::new();
    let mut add = |field, text: &str| {
        if !text.is_empty() && !found.iter().any(|(known, value)| *known == field && value == text) {
            found.push((field, text.to_owned()));
        }
    };
    let analysis = Analyzer::embedded().analyze(text.as_bytes());
    for finding in &analysis.findings {
        add(Field::EnvelopeId, &finding.envelope_id);
        add(Field::MessageId, &finding.message_id);
    }
    for line in text.lines() {
        let line = line.trim();
        if let Some((Field::QueueId, id)) = log_line(line).and_then(|found| found.into_iter().next()) {
            add(Field::QueueId, &id);
        }
        for marker in ["queue-id:", "Queue-ID:", "Queue-Id:"] {
            if let Some((_, id)) = line.split_once(marker) {
                add(Field::QueueId, id.trim());
            }
        }
        if let Some((name, id)) = line.split_once(':')
            && name.eq_ignore_ascii_case("message-id")
        {
            add(Field::MessageId, id.trim().trim_matches(['<', '>']));
        }
    }
    for finding in &analysis.findings {
        add(Field::Recipient, &finding.recipient);
        add(Field::Recipient, &finding.alias);
    }
    if found.is_empty() {
        let words = text.split_whitespace().filter(|word| is_telling(word)).take(20);
        found = words.flat_map(|word| one(word.trim_matches([',', ';', '.', '"', '(', ')']))).collect();
    }
    found
}

/// A moment: `2026-11-01`, `2026-11-01T09:00`, or so long ago: `90m`, `36h`, `7d`, `2w`.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || format!("{text}: no time; write 2026-11-01, 2026-11-01T09:00, or 36h, 7d for so long ago");
    if let Some((at, unit)) = text.char_indices().next_back()
        && let Ok(number) = text.get(..at).unwrap_or_default().parse::<u64>()
    {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(wrong()),
        };
        return Ok(Timestamp(now.0.saturating_sub(number.saturating_mul(seconds).saturating_mul(1_000_000))));
    }
    let zone = jiff::tz::TimeZone::system();
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.to_datetime(jiff::civil::Time::midnight())));
    let stamp = civil.ok().and_then(|civil| civil.to_zoned(zone).ok()).map(|zoned| zoned.timestamp().as_microsecond());
    stamp.and_then(|micros| u64::try_from(micros).ok()).map(Timestamp).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_long_has_a_name() {
        for (length, expected) in [(LONGEST, true), (LONGEST + 1, false), (100_000, false)] {
            let text = format!("a@{}", "b".repeat(length - 2));
            assert_eq!(!understand(&text).is_empty(), expected, "{length}");
        }
    }

    #[test]
    fn what_is_meant() {
        for (text, field, value) in [
            ("a@b.test", Field::Recipient, "a@b.test"),
            ("<a@b.test>", Field::Recipient, "a@b.test"),
            ("@b.test", Field::Domain, "b.test"),
            ("docomo.ne.jp", Field::Domain, "docomo.ne.jp"),
            ("9C5269BCFE4", Field::QueueId, "9C5269BCFE4"),
            ("1abcDE-0001xy-Z9", Field::QueueId, "1abcDE-0001xy-Z9"),
            (
                "Nov 22 10:00:01 mx postfix/smtp[12]: 9C5269BCFE4: to=<a@b.test>, relay=none, delay=1, status=deferred (x)",
                Field::QueueId,
                "9C5269BCFE4",
            ),
            ("what about a@b.test, please?", Field::Recipient, "a@b.test"),
            ("Subject: Undelivered\nX-Postfix-Queue-ID: 9C5269BCFE4\n", Field::QueueId, "9C5269BCFE4"),
            ("From: x\nMessage-ID: <m@a.test>\n", Field::MessageId, "m@a.test"),
        ] {
            let found = understand(text);
            assert_eq!(found.first().map(|(f, v)| (*f, v.as_str())), Some((field, value)), "{text}");
        }
        assert!(understand("  ").is_empty());
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_seconds(1_000_000);
        assert_eq!(moment("1d", now), Ok(Timestamp::from_seconds(1_000_000 - 86_400)));
        assert_eq!(moment("90m", now), Ok(Timestamp::from_seconds(1_000_000 - 5400)));
        assert!(moment("2026-11-01", now).is_ok_and(|at| at > now));
        assert!(moment("2026-11-01T09:00", now).is_ok());
        for bad in ["", "x", "12", "12y", "2026-13-01", "d", "日"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }
}

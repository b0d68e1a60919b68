//! Entries and histories as JSON: what `yamabiko fate --json`, the stream and scripts read.
//!
//! The schema has a number, [`SCHEMA`]; it is raised when a member changes its meaning or goes. New members may come at any
//! time. Members that are empty or not known are left out.

use serde_json::{Map, Value, json};
use yamabiko_envelope::Timestamp;

use crate::writer::civil;
use crate::{Entry, History, Verdict, What, claim, day_of, stage_word};

/// The version of the form.
pub const SCHEMA: u32 = 1;

/// `2026-11-22T01:02:03.000004Z`
pub fn time(at: Timestamp) -> String {
    let (year, month, day) = civil(day_of(at.seconds()));
    let second = at.seconds() % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        at.0 % 1_000_000
    )
}

/// An entry as an object: `schema`, `time`, `event` always; what else there is to say.
pub fn entry(entry: &Entry) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("schema".to_owned(), SCHEMA.into());
    out.insert("time".to_owned(), time(entry.at).into());
    out.insert("event".to_owned(), entry.what.word().into());
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(name.to_owned(), value.into());
        }
    };
    text("host", &entry.host);
    text("queue_id", &entry.queue_id);
    text("recipient", &entry.recipient);
    text("orig_recipient", &entry.original);
    text("message_id", &entry.message_id);
    text("envelope_id", &entry.envelope_id);
    text("client", &entry.client);
    text("program", &entry.program);
    text("relay", &entry.relay);
    text("stage", entry.stage.map_or("", stage_word));
    text("dsn", &entry.status.map(|status| status.to_string()).unwrap_or_default());
    text("reason", &entry.reason);
    text("text", &entry.text);
    text("remote_queue_id", &entry.remote_id);
    text("tls", &entry.tls);
    text("related_queue_id", &entry.related);
    text("action", entry.action.map_or("", |action| action.word()));
    text("by", &entry.by);
    if let Some(sender) = &entry.sender {
        out.insert("sender".to_owned(), sender.as_str().into());
    }
    if let Some(reply) = entry.reply {
        out.insert("reply_code".to_owned(), reply.0.into());
    }
    if let Some(delay) = entry.delay {
        out.insert("delay".to_owned(), delay.as_secs_f64().into());
    }
    if entry.size > 0 {
        out.insert("size".to_owned(), entry.size.into());
    }
    if entry.confidence > 0 {
        out.insert("confidence".to_owned(), entry.confidence.into());
    }
    if !entry.recipients.is_empty() {
        let list = entry.recipients.iter().map(|(address, _)| address.as_str());
        out.insert("recipients".to_owned(), list.collect::<Vec<_>>().into());
    }
    out
}

/// A history with its verdict.
pub fn history(history: &History, verdict: &Verdict) -> Map<String, Value> {
    let decisive = verdict.decided_by.and_then(|position| history.entries.get(position));
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !matches!(&value, Value::String(text) if text.is_empty()) && !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("schema", SCHEMA.into());
    put("host", history.host.as_str().into());
    put("queue_id", history.queue_id.as_str().into());
    put("recipient", history.recipient.as_str().into());
    put("orig_recipient", history.original.as_str().into());
    put("message_id", history.message_id().into());
    if let Some(sender) = history.sender() {
        out.insert("sender".to_owned(), sender.into());
    }
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    put("state", verdict.state.word().into());
    put("confidence", verdict.confidence.into());
    put("attempts", verdict.attempts.into());
    put("maybe_twice", verdict.maybe_twice.into());
    put("since", decisive.map_or(Value::Null, |entry| time(entry.at).into()));
    put("reason", decisive.map_or("", |entry| &entry.reason).into());
    let unproven = verdict.unproven.and_then(|position| history.entries.get(position));
    if let Some((known, claimed)) = unproven.and_then(|known| Some((known, claim(known)?))) {
        put(
            "unproven",
            json!({
                "state": claimed.word(), "confidence": known.confidence, "since": time(known.at),
                "reason": known.reason, "by": known.by,
            }),
        );
    }
    // The recipients of a message are not told with each of them.
    let bare = |known: &Entry| {
        let mut object = entry(known);
        if known.what == What::Queued {
            object.remove("recipients");
        }
        Value::Object(object)
    };
    put("events", history.entries.iter().map(bare).collect::<Vec<_>>().into());
    out
}

/// An entry as a line of the stream.
pub fn line(known: &Entry) -> String {
    json!(entry(known)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_and_its_time() {
        let mut known = Entry::new(Timestamp(1_795_309_323_000_004), What::Bounced, "Q", "a@b.test");
        known.reason = "userunknown".into();
        known.status = "5.1.1".parse().ok();
        assert_eq!(
            line(&known),
            "{\"dsn\":\"5.1.1\",\"event\":\"bounced\",\"queue_id\":\"Q\",\"reason\":\"userunknown\",\"recipient\":\"a@b.test\",\
             \"schema\":1,\"time\":\"2026-11-22T01:02:03.000004Z\"}"
        );
    }
}

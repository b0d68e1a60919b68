//! Lines that are JSON objects: journald's export, and our own log with `log_format = json`.
//!
//! Our own objects become the text line they stand for, so that there is one reader for both.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::head::{Head, Stamp};

/// What a line turned out to be.
pub(crate) struct Object {
    pub stamp: Stamp,
    pub host: String,
    pub tag: String,
    pub pid: u32,
    pub text: String,
}

impl Object {
    pub fn head(&self) -> Head<'_> {
        Head { stamp: self.stamp, host: &self.host, tag: &self.tag, pid: self.pid, text: &self.text }
    }
}

#[derive(Deserialize)]
struct Journal<'a> {
    #[serde(rename = "__REALTIME_TIMESTAMP", borrow)]
    at: Cow<'a, str>,
    #[serde(rename = "_SOURCE_REALTIME_TIMESTAMP", borrow, default)]
    source_at: Option<Cow<'a, str>>,
    #[serde(rename = "_HOSTNAME", borrow, default)]
    host: Option<Cow<'a, str>>,
    #[serde(rename = "SYSLOG_IDENTIFIER", borrow, default)]
    tag: Option<Cow<'a, str>>,
    #[serde(rename = "SYSLOG_PID", borrow, default)]
    syslog_pid: Option<Cow<'a, str>>,
    #[serde(rename = "_PID", borrow, default)]
    pid: Option<Cow<'a, str>>,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

/// Reads an object. `None` when it is none, or nobody's we know.
pub(crate) fn parse(line: &str) -> Option<Object> {
    if line.contains("\"__REALTIME_TIMESTAMP\"") {
        return journal(line);
    }
    ours(&serde_json::from_str(line).ok()?)
}

fn journal(line: &str) -> Option<Object> {
    let entry: Journal<'_> = serde_json::from_str(line).ok()?;
    let at: i64 = entry.source_at.as_deref().and_then(|at| at.parse().ok()).or_else(|| entry.at.parse().ok())?;
    let text = match entry.message {
        Value::String(text) => text,
        // What is not UTF-8 or has control characters comes as an array of bytes.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    };
    let pid = entry.syslog_pid.or(entry.pid).and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let own = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
    Some(Object { stamp: Stamp::Epoch(at), host: own(entry.host), tag: own(entry.tag), pid, text })
}

/// Our own: an event with its fields.
fn ours(object: &Map<String, Value>) -> Option<Object> {
    let get = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let event = get("event");
    // The time is that of the text log with all its digits; the reader of heads knows it.
    let stamp = Head::parse(&format!("{} h t: x", get("time"))).map(|head| head.stamp)?;
    let mut text = String::new();
    line(&mut text, event, object)?;
    let pid = object.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Some(Object { stamp, host: get("host").to_owned(), tag: get("service").to_owned(), pid, text })
}

/// The text line of an event.
fn line(out: &mut String, event: &str, object: &Map<String, Value>) -> Option<()> {
    let get = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| object.get(name).and_then(Value::as_u64).unwrap_or_default();
    let client = || {
        let port = object.get("client_port").and_then(Value::as_u64).map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}[{}]{port}", get("client_name"), get("client_address"))
    };
    let id = get("queue_id");
    let flag = |name: &str| object.get(name).and_then(Value::as_bool).unwrap_or(false);
    // Writing to a String cannot fail.
    let _ = match event {
        "connected" => write!(out, "connect from {}", client()),
        "accepted" => {
            let _ = write!(out, "{id}: client={}", client());
            for name in ["sasl_method", "sasl_username", "sasl_sender", "orig_queue_id"] {
                if !get(name).is_empty() {
                    let _ = write!(out, ", {name}={}", get(name));
                }
            }
            Ok(())
        }
        "session_ended" => write!(
            out,
            "{}: {} after {} from {}",
            if id.is_empty() { "NOQUEUE" } else { id },
            get("how"),
            get("after"),
            client()
        ),
        "disconnected" => write!(out, "disconnect from {}", client()),
        "picked_up" => write!(out, "{id}: uid={} from=<{}>", number("uid"), get("sender")),
        "identified" if flag("resent") => write!(out, "{id}: resent-message-id={}", get("message_id")),
        "identified" => write!(out, "{id}: message-id={}", get("message_id")),
        "abandoned" => write!(out, "{id}: removed ({})", get("why")),
        "activated" => {
            write!(
                out,
                "{id}: from=<{}>, size={}, nrcpt={} (queue active)",
                get("sender"),
                number("size"),
                number("recipients")
            )
        }
        "removed" => write!(out, "{id}: removed"),
        "expired" => {
            let word = if flag("forced") { "force-expired" } else { "expired" };
            write!(out, "{id}: from=<{}>, status={word}, returned to sender", get("sender"))
        }
        "noticed" => write!(out, "{id}: {}: {}", get("kind"), get("notice")),
        "decided" | "content_checked" => {
            decision(out, event, object, &client());
            Ok(())
        }
        "delivered" => {
            delivery(out, object);
            Ok(())
        }
        "text" => {
            let severity = get("severity");
            if !matches!(severity, "" | "info") {
                let _ = write!(out, "{severity}: ");
            }
            if !id.is_empty() {
                let _ = write!(out, "{id}: ");
            }
            write!(out, "{}", get("text"))
        }
        _ => return None,
    };
    Some(())
}

fn decision(out: &mut String, event: &str, object: &Map<String, Value>, client: &str) {
    let get = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let id = if get("queue_id").is_empty() { "NOQUEUE" } else { get("queue_id") };
    let content = event == "content_checked";
    let _ = if content {
        let from = if get("client_name").is_empty() { "local" } else { client };
        write!(out, "{id}: {}: {} {} from {from};", get("action"), get("class"), get("content"))
    } else {
        write!(out, "{id}: {}: {} from {client}: {};", get("action"), get("stage"), get("text"))
    };
    for (name, field) in [("from", "sender"), ("to", "recipient")] {
        if let Some(address) = object.get(field).and_then(Value::as_str) {
            let _ = write!(out, " {name}=<{address}>");
        }
    }
    if !get("protocol").is_empty() {
        let _ = write!(out, " proto={}", get("protocol"));
    }
    if !get("helo").is_empty() {
        let _ = write!(out, " helo=<{}>", get("helo"));
    }
    if content && !get("text").is_empty() {
        let _ = write!(out, ": {}", get("text"));
    }
}

fn delivery(out: &mut String, object: &Map<String, Value>) {
    let get = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let seconds =
        |name: &str| object.get(name).and_then(Value::as_f64).filter(|value| *value >= 0.0).unwrap_or_default();
    let _ = write!(out, "{}: to=<{}>", get("queue_id"), get("recipient"));
    if !get("orig_recipient").is_empty() {
        let _ = write!(out, ", orig_to=<{}>", get("orig_recipient"));
    }
    let _ = write!(out, ", relay={}", get("relay"));
    let uses = object.get("connection_use").and_then(Value::as_u64).unwrap_or(1);
    if uses > 1 {
        let _ = write!(out, ", conn_use={uses}");
    }
    let _ = write!(
        out,
        ", delay={:.6}, delays={:.6}/{:.6}/{:.6}/{:.6}, dsn={}, status={} ({})",
        seconds("delay"),
        seconds("delay_before_queue"),
        seconds("delay_in_queue"),
        seconds("delay_setup"),
        seconds("delay_transmission"),
        get("dsn"),
        get("status"),
        get("reason")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects() {
        let journal = r#"{"__REALTIME_TIMESTAMP":"1795280034000001","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"postfix/qmgr","_PID":"7","MESSAGE":"9C5: removed","X":null}"#;
        let object = parse(journal).unwrap();
        assert_eq!(object.stamp, Stamp::Epoch(1_795_280_034_000_001));
        assert_eq!((&*object.host, &*object.tag, object.pid, &*object.text), ("mx", "postfix/qmgr", 7, "9C5: removed"));
        let bytes = r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":[97,98,300,255]}"#;
        assert_eq!(parse(bytes).unwrap().text, "ab\u{fffd}");
        let ours = r#"{"time":"2026-11-21T16:42:26.123456+09:00","host":"mx","service":"postfix/smtp","pid":5,"event":"delivered","queue_id":"4XyZ0123456z1","sender":"s@x","recipient":"a@b","relay":"mx.b[192.0.2.1]:25","connection_use":2,"delay":1.504000,"dsn":"2.0.0","status":"sent","reason":"250 ok"}"#;
        let object = parse(ours).unwrap();
        assert_eq!(
            object.text,
            "4XyZ0123456z1: to=<a@b>, relay=mx.b[192.0.2.1]:25, conn_use=2, delay=1.504000, delays=0.000000/0.000000/0.000000/0.000000, dsn=2.0.0, status=sent (250 ok)"
        );
        for bad in [
            "{",
            "{}",
            "[]",
            "{\"event\":\"delivered\"}",
            "{\"__REALTIME_TIMESTAMP\":1}",
            "{\"time\":\"x\",\"event\":\"removed\"}",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}

//! An event as one JSON object: typed fields instead of a text to take apart.
//!
//! Every object has `time` (RFC 3339 with microseconds and offset), `host`, `service` (`postfix/smtp`), `pid` and
//! `event`; the other members depend on the event. Absent means not known. Delays are seconds, sizes bytes, addresses
//! external form as in the text log.

use std::time::Duration;

use yamabiko_envelope::{
    Client, ContentAction, Decision, Delivery, Event, Kind, QueueId, SaslIdentity, Severity, SmtpStage,
};

use crate::Header;
use crate::line::{external, notice_words, session_end_words, status_word};

/// Appends the object of an event, without line end.
pub fn push_object(out: &mut String, event: &Event, header: &Header) {
    out.push('{');
    let mut object = Object { out, first: true };
    object.text("time", &header.iso(event.at));
    object.text("host", &header.host().name);
    object.text("service", &event.origin.to_string());
    object.number("pid", header.host().pid);
    push_kind(&mut object, &event.kind);
    out.push('}');
}

struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl Object<'_> {
    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        // Names are our own words and need no escapes.
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
    }
    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        push_string(self.out, value);
    }
    /// Left out when empty.
    fn some_text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }
    fn address(&mut self, name: &str, value: &str) {
        self.text(name, &external(value));
    }
    fn number(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        self.out.push_str(&value.to_string());
    }
    fn seconds(&mut self, name: &str, value: Duration) {
        self.number(name, format_args!("{}.{:06}", value.as_secs(), value.subsec_micros()));
    }
    fn flag(&mut self, name: &str, value: bool) {
        self.number(name, value);
    }
    fn queue_id(&mut self, id: QueueId) {
        self.text("queue_id", &id.to_string());
    }
    fn client(&mut self, client: &Client) {
        self.text("client_name", &client.name);
        if let Some(address) = client.address {
            self.text("client_address", &address.to_canonical().to_string());
        }
        if let Some(port) = client.port {
            self.number("client_port", port);
        }
    }
    fn sasl(&mut self, sasl: &SaslIdentity) {
        self.some_text("sasl_method", &sasl.method);
        self.some_text("sasl_username", &sasl.username);
        self.some_text("sasl_sender", &sasl.sender);
    }
}

fn push_string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_kind(object: &mut Object<'_>, kind: &Kind) {
    match kind {
        Kind::Connected { client } => {
            object.text("event", "connected");
            object.client(client);
        }
        Kind::Accepted { queue_id, client, sasl, forwarded } => {
            object.text("event", "accepted");
            object.queue_id(*queue_id);
            object.client(client);
            if let Some(sasl) = sasl {
                object.sasl(sasl);
            }
            if let Some((id, origin)) = forwarded {
                object.some_text("orig_queue_id", id);
                if let Some(origin) = origin {
                    object.text("orig_client_name", &origin.name);
                    if let Some(address) = origin.address {
                        object.text("orig_client_address", &address.to_canonical().to_string());
                    }
                }
            }
        }
        Kind::SessionEnded { how, after, client, queue_id } => {
            object.text("event", "session_ended");
            object.text("how", session_end_words(*how));
            object.text("after", after);
            object.client(client);
            if let Some(id) = queue_id {
                object.queue_id(*id);
            }
        }
        Kind::Disconnected { client, counts, notes } => {
            object.text("event", "disconnected");
            object.client(client);
            object.name("commands");
            object.out.push('{');
            for (n, count) in counts.iter().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let text = format!("{comma}\"{}\":{{\"ok\":{},\"total\":{}}}", count.name, count.ok, count.total);
                object.out.push_str(&text);
            }
            object.out.push('}');
            object.some_text("notes", &notes.join(","));
        }
        Kind::Decided(decision) => push_decision(object, decision),
        Kind::PickedUp { queue_id, uid, sender } => {
            object.text("event", "picked_up");
            object.queue_id(*queue_id);
            object.number("uid", uid);
            object.address("sender", sender);
        }
        Kind::Identified { queue_id, message_id, resent } => {
            object.text("event", "identified");
            object.queue_id(*queue_id);
            object.text("message_id", message_id);
            object.flag("resent", *resent);
        }
        Kind::ContentChecked(action) => push_content_action(object, action),
        Kind::Abandoned { queue_id, why } => {
            object.text("event", "abandoned");
            object.queue_id(*queue_id);
            object.text("why", why);
        }
        Kind::Activated { queue_id, sender, size, recipients } => {
            object.text("event", "activated");
            object.queue_id(*queue_id);
            object.address("sender", sender);
            object.number("size", size);
            object.number("recipients", recipients);
        }
        Kind::Removed { queue_id } => {
            object.text("event", "removed");
            object.queue_id(*queue_id);
        }
        Kind::Expired { queue_id, sender, forced } => {
            object.text("event", "expired");
            object.queue_id(*queue_id);
            object.address("sender", sender);
            object.flag("forced", *forced);
        }
        Kind::Delivered(delivery) => push_delivery(object, delivery),
        Kind::Noticed { queue_id, kind, notice } => {
            object.text("event", "noticed");
            object.queue_id(*queue_id);
            object.text("kind", notice_words(*kind));
            object.text("notice", &notice.to_string());
        }
        Kind::Text { severity, queue_id, text } => {
            object.text("event", "text");
            object.text(
                "severity",
                match severity {
                    Severity::Info => "info",
                    Severity::Warning => "warning",
                    Severity::Error => "error",
                    Severity::Fatal => "fatal",
                    Severity::Panic => "panic",
                },
            );
            if let Some(id) = queue_id {
                object.queue_id(*id);
            }
            object.text("text", text);
        }
    }
}

fn push_decision(object: &mut Object<'_>, decision: &Decision) {
    object.text("event", "decided");
    object.text("action", decision.word);
    if let Some(id) = decision.queue_id {
        object.queue_id(id);
    }
    object.text("stage", &decision.stage);
    object.client(&decision.client);
    object.text("text", &decision.text);
    if let Some(sender) = &decision.sender {
        object.address("sender", sender);
    }
    if let Some(recipient) = &decision.recipient {
        object.address("recipient", recipient);
    }
    object.some_text("protocol", &decision.protocol);
    object.some_text("helo", decision.helo.as_deref().unwrap_or_default());
    if !decision.steps.is_empty() {
        object.name("decided_by");
        for (at, step) in decision.steps.iter().enumerate() {
            object.out.push_str(if at == 0 { "[{" } else { ",{" });
            let mut inner = Object { out: object.out, first: true };
            inner.text("parameter", &step.parameter);
            inner.text("element", &step.element);
            inner.some_text("place", &step.place);
            inner.some_text("matched", &step.matched);
            inner.text("verdict", step.verdict);
            object.out.push('}');
        }
        object.out.push(']');
    }
}

fn push_content_action(object: &mut Object<'_>, action: &ContentAction) {
    object.text("event", "content_checked");
    object.text("action", action.word);
    object.queue_id(action.queue_id);
    object.text("class", action.class);
    object.text("content", &action.content);
    if let Some(client) = &action.client {
        object.client(client);
    }
    object.address("sender", &action.sender);
    if let Some(recipient) = &action.recipient {
        object.address("recipient", recipient);
    }
    object.some_text("protocol", &action.protocol);
    object.some_text("helo", &action.helo);
    object.some_text("text", &action.text);
}

fn push_delivery(object: &mut Object<'_>, delivery: &Delivery) {
    object.text("event", "delivered");
    object.queue_id(delivery.queue_id);
    object.address("sender", &delivery.sender);
    object.address("recipient", &delivery.recipient);
    if !delivery.original.is_empty() && delivery.original != delivery.recipient {
        object.address("orig_recipient", &delivery.original);
    }
    object.text("relay", &delivery.relay);
    object.number("connection_use", delivery.connection_use);
    object.seconds("delay", delivery.delays.total());
    object.seconds("delay_before_queue", delivery.delays.before_queue);
    object.seconds("delay_in_queue", delivery.delays.in_queue);
    object.seconds("delay_setup", delivery.delays.setup);
    object.seconds("delay_transmission", delivery.delays.transmission);
    if let Some(tls) = &delivery.tls_status {
        object.text("tls", tls);
    }
    object.text("dsn", &delivery.dsn.to_string());
    object.text("status", status_word(delivery.status));
    object.text("reason", &delivery.reason);
    if let Some(stage) = delivery.stage {
        object.text("stage", stage_word(stage));
    }
    if let Some(reply) = delivery.reply {
        object.number("reply_code", reply.0);
    }
    if let Some(mta) = &delivery.remote_mta {
        object.text("remote_mta", mta);
    }
}

fn stage_word(stage: SmtpStage) -> &'static str {
    match stage {
        SmtpStage::Lookup => "lookup",
        SmtpStage::Connect => "connect",
        SmtpStage::Greeting => "greeting",
        SmtpStage::Ehlo => "ehlo",
        SmtpStage::Helo => "helo",
        SmtpStage::StartTls => "starttls",
        SmtpStage::Auth => "auth",
        SmtpStage::Xforward => "xforward",
        SmtpStage::Mail => "mail",
        SmtpStage::Rcpt => "rcpt",
        SmtpStage::Data => "data",
        SmtpStage::Body => "body",
        SmtpStage::EndOfData => "end_of_data",
        SmtpStage::Rset => "rset",
        SmtpStage::Quit => "quit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, line};

    #[test]
    fn every_kind_is_an_object_with_its_fields() {
        let header = Header::new(Host::new("mx.lab.test", 7), jiff::tz::TimeZone::UTC);
        for (event, _) in line::tests::table() {
            let mut out = String::new();
            push_object(&mut out, &event, &header);
            assert!(!out.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(&out).unwrap();
            for name in ["time", "host", "service", "pid", "event"] {
                assert!(value.get(name).is_some(), "{name} in {out}");
            }
        }
    }

    #[test]
    fn a_delivery() {
        let header = Header::new(Host::new("mx.lab.test", 7), jiff::tz::TimeZone::UTC);
        let event = line::tests::table()
            .into_iter()
            .map(|(event, _)| event)
            .find(|event| matches!(event.kind, Kind::Delivered(_)))
            .unwrap();
        let mut out = String::new();
        push_object(&mut out, &event, &header);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["event"], "delivered");
        assert_eq!(value["status"], "sent");
        assert_eq!(value["dsn"], "2.0.0");
        assert_eq!(value["delay"], 1.504);
        assert_eq!(value["reply_code"], 250);
    }

    #[test]
    fn a_refusal_says_how_it_came_about() {
        let header = Header::new(Host::new("mx.lab.test", 7), jiff::tz::TimeZone::UTC);
        let (mut event, _) =
            line::tests::table().into_iter().find(|(event, _)| matches!(event.kind, Kind::Decided(_))).unwrap();
        let Kind::Decided(decision) = &mut event.kind else { unreachable!() };
        for (element, matched, verdict) in
            [("permit_mynetworks", "", "dunno"), ("check_x hash:\"a\"", "/etc/a:3: k REJECT", "reject")]
        {
            decision.steps.push(yamabiko_envelope::DecisionStep {
                parameter: "smtpd_recipient_restrictions".into(),
                element: element.into(),
                place: "/etc/postfix/main.cf:12".to_owned(),
                matched: matched.to_owned(),
                verdict,
            });
        }
        let mut out = String::new();
        push_object(&mut out, &event, &header);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["decided_by"][0]["element"], "permit_mynetworks");
        assert!(value["decided_by"][0].get("matched").is_none());
        assert_eq!(value["decided_by"][1]["matched"], "/etc/a:3: k REJECT");
        assert_eq!(value["decided_by"][1]["verdict"], "reject");
    }

    #[test]
    fn strings() {
        let mut out = String::new();
        push_string(&mut out, "a\"b\\c\n\r\t\u{1}\u{85}山");
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u0085山\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"b\\c\n\r\t\u{1}\u{85}山");
    }
}

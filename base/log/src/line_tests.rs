//! The table of lines. Kept beside `line.rs` because it is as long.

use super::*;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Origin, SmtpStage, Timestamp};
use yamabiko_status::{EnhancedStatus, ReplyCode};

const ID: QueueId = QueueId::new(1_795_279_346_000_000, 7);
const OTHER: QueueId = QueueId::new(1_795_279_347_000_001, 7);

fn client(name: &str, address: &str, port: Option<u16>) -> Client {
    Client { name: name.into(), address: address.parse::<IpAddr>().ok(), port }
}

fn outside() -> Client {
    client("client.example", "198.51.100.7", None)
}

pub(crate) fn delivery() -> Delivery {
    let ms = Duration::from_millis;
    Delivery {
        queue_id: ID,
        recipient: "b@remote.example".into(),
        original: String::new(),
        sender: "a@here.example".into(),
        relay: "mx1.remote.example[192.0.2.25]:25".into(),
        connection_use: 1,
        tls: None,
        tls_status: None,
        delays: Delays { before_queue: ms(20), in_queue: ms(4), setup: ms(1240), transmission: ms(240) },
        dsn: EnhancedStatus::success(0, 0),
        status: DeliveryStatus::Sent,
        reason: "250 2.0.0 Ok: queued as 4X".into(),
        stage: Some(SmtpStage::EndOfData),
        reply: Some(ReplyCode(250)),
        remote_mta: Some("mx1.remote.example".into()),
        action: None,
    }
}

fn decision() -> Decision {
    Decision {
        queue_id: None,
        word: "reject",
        stage: "RCPT".into(),
        client: outside(),
        text: "454 4.7.1 <b@other.example>: Relay access denied".into(),
        sender: Some("a@out.example".into()),
        recipient: Some("b@other.example".into()),
        protocol: "ESMTP".into(),
        helo: Some("c.example".into()),
        steps: Vec::new(),
    }
}

fn content() -> ContentAction {
    ContentAction {
        queue_id: ID,
        word: "warning",
        class: "header",
        content: "Subject: x".into(),
        client: Some(outside()),
        sender: "a@b".into(),
        recipient: Some("c@d".into()),
        protocol: "ESMTP".into(),
        helo: "h".into(),
        text: "see".into(),
    }
}

fn deferred() -> Delivery {
    Delivery {
        original: "info@here.example".into(),
        recipient: "two words@remote.example".into(),
        relay: "none".into(),
        connection_use: 3,
        tls: None,
        delays: Delays { before_queue: Duration::from_secs(301), ..Delays::default() },
        dsn: EnhancedStatus::transient(4, 1),
        status: DeliveryStatus::Deferred,
        reason: "connect to x.example[192.0.2.1]:25: Connection refused".into(),
        ..delivery()
    }
}

/// Every kind, and what the log says of it (`QID` and `NEW` stand for the queue IDs).
pub(crate) fn table() -> Vec<(Event, &'static str)> {
    let mut table = sessions();
    table.extend(messages());
    let origin = Origin::new(&Arc::from("postfix"), "smtpd");
    table
        .into_iter()
        .map(|(kind, text)| (Event { at: Timestamp(1_795_279_346_000_000), origin: origin.clone(), kind }, text))
        .collect()
}

fn count(name: &'static str, ok: u32, total: u32) -> CommandCount {
    CommandCount { name, total, ok }
}

fn sessions() -> Vec<(Kind, &'static str)> {
    let sasl = SaslIdentity { method: "PLAIN".into(), username: "bob".into(), sender: String::new() };
    vec![
        (Kind::Connected { client: outside() }, "connect from client.example[198.51.100.7]"),
        (Kind::Connected { client: client("unknown", "2001:db8::7", None) }, "connect from unknown[2001:db8::7]"),
        (
            Kind::Connected { client: client("localhost", "::ffff:127.0.0.1", Some(99)) },
            "connect from localhost[127.0.0.1]:99",
        ),
        (
            Kind::Accepted { queue_id: ID, client: outside(), sasl: None, forwarded: None },
            "QID: client=client.example[198.51.100.7]",
        ),
        (
            Kind::Accepted {
                queue_id: ID,
                client: outside(),
                sasl: Some(sasl),
                forwarded: Some(("4XQ".into(), Some(client("o.example", "192.0.2.9", None)))),
            },
            "QID: client=client.example[198.51.100.7], sasl_method=PLAIN, sasl_username=bob, orig_queue_id=4XQ, \
             orig_client=o.example[192.0.2.9]",
        ),
        (
            Kind::SessionEnded { how: SessionEnd::Lost, after: "EHLO".into(), client: outside(), queue_id: None },
            "lost connection after EHLO from client.example[198.51.100.7]",
        ),
        (
            Kind::SessionEnded {
                how: SessionEnd::Timeout,
                after: "DATA (1234 bytes)".into(),
                client: outside(),
                queue_id: Some(ID),
            },
            "timeout after DATA (1234 bytes) from client.example[198.51.100.7]",
        ),
        (
            Kind::SessionEnded {
                how: SessionEnd::TooManyErrors,
                after: "UNKNOWN".into(),
                client: outside(),
                queue_id: None,
            },
            "too many errors after UNKNOWN from client.example[198.51.100.7]",
        ),
        (
            Kind::Disconnected {
                client: outside(),
                counts: vec![count("ehlo", 1, 1), count("rcpt", 2, 4), count("quit", 1, 1)],
                notes: vec![],
            },
            "disconnect from client.example[198.51.100.7] ehlo=1 rcpt=2/4 quit=1 commands=4/6",
        ),
        (
            Kind::Disconnected { client: outside(), counts: vec![count("quit", 1, 1)], notes: vec!["bare_lf"] },
            "disconnect from client.example[198.51.100.7] quit=1 commands=1 notes=bare_lf",
        ),
        (
            Kind::Disconnected { client: outside(), counts: vec![], notes: vec![] },
            "disconnect from client.example[198.51.100.7] commands=0/0",
        ),
        (
            Kind::Decided(Box::new(decision())),
            "NOQUEUE: reject: RCPT from client.example[198.51.100.7]: 454 4.7.1 <b@other.example>: Relay access denied; \
             from=<a@out.example> to=<b@other.example> proto=ESMTP helo=<c.example>",
        ),
        (
            Kind::Decided(Box::new(Decision {
                stage: "CONNECT".into(),
                text: "554 5.7.1 <x[1.2.3.4]>: Client host rejected: go away".into(),
                sender: None,
                recipient: None,
                protocol: "SMTP".into(),
                helo: None,
                ..decision()
            })),
            "NOQUEUE: reject: CONNECT from client.example[198.51.100.7]: 554 5.7.1 <x[1.2.3.4]>: Client host rejected: \
             go away; proto=SMTP",
        ),
        (
            Kind::Decided(Box::new(Decision { queue_id: Some(ID), sender: Some(String::new()), ..decision() })),
            "QID: reject: RCPT from client.example[198.51.100.7]: 454 4.7.1 <b@other.example>: Relay access denied; \
             from=<> to=<b@other.example> proto=ESMTP helo=<c.example>",
        ),
    ]
}

fn messages() -> Vec<(Kind, &'static str)> {
    let notice = |kind| Kind::Noticed { queue_id: ID, kind, notice: OTHER };
    let said = |severity, queue_id, text: &str| Kind::Text { severity, queue_id, text: text.into() };
    vec![
        (Kind::PickedUp { queue_id: ID, uid: 1000, sender: "bob".into() }, "QID: uid=1000 from=<bob>"),
        (Kind::Identified { queue_id: ID, message_id: "<1@x>".into(), resent: false }, "QID: message-id=<1@x>"),
        (Kind::Identified { queue_id: ID, message_id: String::new(), resent: false }, "QID: message-id=<>"),
        (Kind::Identified { queue_id: ID, message_id: "<1@x>".into(), resent: true }, "QID: resent-message-id=<1@x>"),
        (
            Kind::ContentChecked(Box::new(content())),
            "QID: warning: header Subject: x from client.example[198.51.100.7]; from=<a@b> to=<c@d> proto=ESMTP \
             helo=<h>: see",
        ),
        (
            Kind::ContentChecked(Box::new(ContentAction {
                word: "discard",
                class: "body",
                client: None,
                protocol: String::new(),
                helo: String::new(),
                text: String::new(),
                content: "folded\n\tline".into(),
                ..content()
            })),
            "QID: discard: body folded??line from local; from=<a@b> to=<c@d>",
        ),
        (Kind::Abandoned { queue_id: ID, why: "canceled" }, "QID: removed (canceled)"),
        (
            Kind::Activated { queue_id: ID, sender: String::new(), size: 335, recipients: 2 },
            "QID: from=<>, size=335, nrcpt=2 (queue active)",
        ),
        (Kind::Removed { queue_id: ID }, "QID: removed"),
        (
            Kind::Expired { queue_id: ID, sender: "a@b".into(), forced: false },
            "QID: from=<a@b>, status=expired, returned to sender",
        ),
        (
            Kind::Expired { queue_id: ID, sender: "a@b".into(), forced: true },
            "QID: from=<a@b>, status=force-expired, returned to sender",
        ),
        (
            Kind::Delivered(Box::new(delivery())),
            "QID: to=<b@remote.example>, relay=mx1.remote.example[192.0.2.25]:25, delay=1.5, delays=0.02/0/1.2/0.24, \
             dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4X)",
        ),
        (
            Kind::Delivered(Box::new(deferred())),
            "QID: to=<\"two words\"@remote.example>, orig_to=<info@here.example>, relay=none, conn_use=3, delay=301, \
             delays=301/0/0/0, dsn=4.4.1, status=deferred (connect to x.example[192.0.2.1]:25: Connection refused)",
        ),
        (
            Kind::Delivered(Box::new(Delivery { tls_status: Some("may:none".into()), ..delivery() })),
            "QID: to=<b@remote.example>, relay=mx1.remote.example[192.0.2.25]:25, delay=1.5, delays=0.02/0/1.2/0.24, \
             tls=may:none, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4X)",
        ),
        (
            Kind::Delivered(Box::new(Delivery {
                original: "b@remote.example".into(),
                delays: Delays::default(),
                status: DeliveryStatus::SoftBounce,
                relay: "local".into(),
                reason: "unknown user: \"x\"".into(),
                ..delivery()
            })),
            "QID: to=<b@remote.example>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, status=SOFTBOUNCE (unknown \
             user: \"x\")",
        ),
        (notice(NoticeKind::SenderNonDelivery), "QID: sender non-delivery notification: NEW"),
        (notice(NoticeKind::PostmasterNonDelivery), "QID: postmaster non-delivery notification: NEW"),
        (notice(NoticeKind::SenderDelay), "QID: sender delay notification: NEW"),
        (notice(NoticeKind::PostmasterDelay), "QID: postmaster delay notification: NEW"),
        (notice(NoticeKind::SenderSuccess), "QID: sender delivery status notification: NEW"),
        (said(Severity::Info, None, "Deleted: 1 message"), "Deleted: 1 message"),
        (
            said(Severity::Warning, Some(ID), "queue file size limit exceeded"),
            "warning: QID: queue file size limit exceeded",
        ),
        (said(Severity::Error, None, "e\u{1b}[2J\u{7f}\u{9b}é山"), "error: e?[2J??é山"),
        (said(Severity::Fatal, None, "no"), "fatal: no"),
        (said(Severity::Panic, None, "no"), "panic: no"),
    ]
}

#[test]
fn lines() {
    for (event, wanted) in table() {
        let wanted = wanted.replace("QID", &ID.to_string()).replace("NEW", &OTHER.to_string());
        assert_eq!(text(&event, Style::default()), wanted);
    }
}

#[test]
fn addresses_as_they_are_inside() {
    let event = |recipient: &str| Event {
        at: Timestamp(0),
        origin: Origin::new(&Arc::from("postfix"), "smtp"),
        kind: Kind::Delivered(Box::new(Delivery { recipient: recipient.into(), ..delivery() })),
    };
    let inside = Style { internal_addresses: true, ..Style::default() };
    for (recipient, external, internal) in
        [("a b@c.test", "to=<\"a b\"@c.test>", "to=<a b@c.test>"), ("a@c.test", "to=<a@c.test>", "to=<a@c.test>")]
    {
        assert!(text(&event(recipient), Style::default()).contains(external));
        assert!(text(&event(recipient), inside).contains(internal));
        assert!(text(&event(recipient), Style::default()).contains(external), "only where it is set");
    }
}

#[test]
fn severities() {
    let numbers: Vec<u8> = table().iter().rev().take(6).map(|(event, _)| severity_number(event)).collect();
    assert_eq!(numbers, [2, 2, 3, 4, 6, 6]);
}

#[test]
fn a_line_has_an_end() {
    let origin = Origin::new(&Arc::from("postfix"), "smtpd");
    let event = Event::text(Timestamp(0), origin, Severity::Info, format!("x{}", "山".repeat(10_000)));
    let line = text(&event, Style::default());
    assert!(line.len() <= MAX_TEXT && line.len() > MAX_TEXT - 4, "{}", line.len());
}

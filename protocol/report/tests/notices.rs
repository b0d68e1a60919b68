//! Notices written, compared line by line, and read back.

use yamabiko_report::{BodyEncoding, Kind, Notice, Original, RecipientReport, TemplateKind, Templates, parse};
use yamabiko_status::EnhancedStatus;

const MESSAGE: &[u8] = b"Received: from a\n\tby b\nSubject: s\n\nbody\n\n";

fn recipient() -> RecipientReport {
    RecipientReport {
        address: "x@nodomain.test".into(),
        original: String::new(),
        orcpt: "rfc822;x@nodomain.test".into(),
        action: "failed",
        status: EnhancedStatus::permanent(4, 4),
        reason: "Host or domain name not found. Name service error for name=nodomain.test type=A: Host not found"
            .into(),
        remote_mta: String::new(),
        diagnostic: String::new(),
    }
}

fn composed(change: impl FnOnce(&mut Notice)) -> String {
    composed_for(&[recipient()], change)
}

fn composed_for(recipients: &[RecipientReport], change: impl FnOnce(&mut Notice)) -> String {
    let mut templates = Templates::built_in(false);
    templates.failure.text = b"The text.\n".to_vec();
    let mut notice = Notice {
        kind: Kind::Failed,
        template: templates.get(TemplateKind::Failure),
        postmaster_copy: false,
        date: "Sat, 21 Nov 2026 16:53:54 +0000 (UTC)",
        to: "sender@lab.test",
        append_domain: Some("lab.test"),
        thread: None,
        message_id: "<20261121165354.NEW@mx.lab.test>",
        boundary: "OLD.1795280034/mx.lab.test",
        reporting_mta: "mx.lab.test",
        mail_name: "Postfix",
        queue_id: "OLD",
        sender: "sender@lab.test",
        envid: "",
        arrival_date: "Sat, 21 Nov 2026 16:53:53 +0000 (UTC)",
        retry_until: "Thu, 26 Nov 2026 16:53:53 +0000 (UTC)",
        encoding: BodyEncoding::EightBit,
        smtputf8: false,
        recipients,
        original: Original::Full(MESSAGE),
    };
    change(&mut notice);
    String::from_utf8(notice.compose()).unwrap()
}

const FAILED: &str = "\
Date: Sat, 21 Nov 2026 16:53:54 +0000 (UTC)
From: Mail Delivery System <MAILER-DAEMON@lab.test>
Subject: Undelivered Mail Returned to Sender
To: sender@lab.test
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"OLD.1795280034/mx.lab.test\"
Content-Transfer-Encoding: 8bit
Message-Id: <20261121165354.NEW@mx.lab.test>

This is a MIME-encapsulated message.

--OLD.1795280034/mx.lab.test
Content-Description: Notification
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

The text.

<x@nodomain.test>: Host or domain name not found. Name service error for
    name=nodomain.test type=A: Host not found

--OLD.1795280034/mx.lab.test
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.lab.test
X-Postfix-Queue-ID: OLD
X-Postfix-Sender: rfc822; sender@lab.test
Arrival-Date: Sat, 21 Nov 2026 16:53:53 +0000 (UTC)

Final-Recipient: rfc822; x@nodomain.test
Original-Recipient: rfc822;x@nodomain.test
Action: failed
Status: 5.4.4
Diagnostic-Code: X-Postfix; Host or domain name not found. Name service error
    for name=nodomain.test type=A: Host not found

--OLD.1795280034/mx.lab.test
Content-Description: Undelivered Message
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

Return-Path: <sender@lab.test>
Received: from a
\tby b
Subject: s

body


--OLD.1795280034/mx.lab.test--
";

#[test]
fn a_failure_notice_to_the_byte() {
    assert_eq!(composed(|_| ()), FAILED);
}

/// What a setting changes: lines that must be there, and lines that must not.
#[test]
fn variants() {
    type Change = fn(&mut Notice);
    let table: &[(&str, Change, &[&str], &[&str])] = &[
        (
            "postmaster's copy",
            |n| n.postmaster_copy = true,
            &["Subject: Postmaster Copy: Undelivered Mail\n", "Auto-Submitted: auto-generated\n", "8bit\n\n\n<x@no"],
            &["The text."],
        ),
        (
            "delay",
            |n| n.kind = Kind::Delayed,
            &[
                "    for name=nodomain.test type=A: Host not found\nWill-Retry-Until: Thu, 26 Nov 2026 16:53:53 +0000 (UTC)\n\n--",
            ],
            &[],
        ),
        (
            "headers only",
            |n| n.original = Original::HeadersOf(MESSAGE),
            &["Description: Undelivered Message Headers\nContent-Type: text/rfc822-headers\n", "Subject: s\n\n--OLD"],
            &["body"],
        ),
        ("settled", |n| n.kind = Kind::Settled, &["Content-Description: Message\n"], &["Undelivered Message"]),
        (
            "no encoding known",
            |n| n.encoding = BodyEncoding::Unknown,
            &["charset=us-ascii\n\nThe text"],
            &["Transfer-Encoding"],
        ),
        (
            "7bit",
            |n| n.encoding = BodyEncoding::SevenBit,
            &["test\"\nContent-Transfer-Encoding: 7bit\nMessage-Id", "charset=us-ascii\n\n", "message/rfc822\n\n"],
            &[],
        ),
        (
            "SMTPUTF8",
            |n| n.smtputf8 = true,
            &[
                "Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: 8bit\n\n",
                "Content-Type: message/global\n",
                "report-type=delivery-status;",
            ],
            &["message/rfc822"],
        ),
        (
            "envelope ID and thread",
            |n| (n.envid, n.thread) = ("a+b", Some("<orig@c.test>")),
            &[
                "Reporting-MTA: dns; mx.lab.test\nOriginal-Envelope-Id: a+b\nX-Postfix",
                "To: sender@lab.test\nReferences: <orig@c.test>\nIn-Reply-To: <orig@c.test>\nAuto",
            ],
            &[],
        ),
        (
            "mail name with blanks, recipient without domain",
            |n| (n.mail_name, n.to) = ("My Mail+x", "a b"),
            &["X-My-Mail+x-Queue-ID: OLD\n", "Diagnostic-Code: X-My-Mail+x; Host", "To: \"a b\"@lab.test\n"],
            &[],
        ),
        (
            "lost message",
            |n| n.original = Original::Unavailable,
            &["Return-Path: <sender@lab.test>\n\t--- Undelivered message unavailable ---\n\n--"],
            &[],
        ),
        (
            "no line end at the end",
            |n| n.original = Original::Full(b"A: b\n\nx"),
            &["\nx\n\n--OLD.1795280034/mx.lab.test--\n"],
            &[],
        ),
        (
            "line ends within",
            |n| (n.envid, n.to) = ("a\nBcc: x", "a\nBcc: y@z"),
            &["Original-Envelope-Id: a?Bcc: x\n", "To: \"a?Bcc: y\"@z\n"],
            &["\nBcc"],
        ),
    ];
    for (name, change, there, not_there) in table {
        let text = composed(change);
        for line in *there {
            assert!(text.contains(line), "{name}: {line:?} is missing in\n{text}");
        }
        for line in *not_there {
            assert!(!text.contains(line), "{name}: {line:?} is in\n{text}");
        }
    }
}

#[test]
fn recipients() {
    let table: [(RecipientReport, &[&str]); 4] = [
        (
            RecipientReport { original: "list".into(), orcpt: String::new(), ..recipient() },
            &["<x@nodomain.test> (expanded from <list>): Host or", "\nOriginal-Recipient: rfc822; list\n"],
        ),
        (
            RecipientReport { address: "..a@b.test".into(), ..recipient() },
            &["\n<\"..a\"@b.test>: ", "Final-Recipient: rfc822; \"..a\"@b.test\n"],
        ),
        (
            RecipientReport { address: "受信@b.test".into(), ..recipient() },
            &["\n<受信@b.test>: ", "Final-Recipient: utf-8; 受信@b.test\n"],
        ),
        (
            RecipientReport {
                remote_mta: "mx1.b.test".into(),
                diagnostic: "smtp; 550 5.1.1 no".into(),
                reason: "host mx1.b.test[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command)".into(),
                ..recipient()
            },
            &[
                "said: 550 5.1.1 no (in reply to\n    RCPT TO command)\n",
                "Status: 5.4.4\nRemote-MTA: dns; mx1.b.test\nDiagnostic-Code: smtp; 550 5.1.1 no\n\n--",
            ],
        ),
    ];
    for (recipient, there) in table {
        let text = composed_for(&[recipient], |_| ());
        for line in there {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }
}

#[test]
fn what_is_written_can_be_read() {
    let recipients = [
        recipient(),
        RecipientReport {
            address: "..a b@docomo.test".into(),
            orcpt: "utf-8;受信@x.test".into(),
            status: EnhancedStatus::permanent(1, 1),
            remote_mta: "mx.docomo.test".into(),
            diagnostic: "smtp; 550 5.1.1 Unknown user, and a long text that is folded because it is too long".into(),
            ..recipient()
        },
    ];
    let message = composed_for(&recipients, |n| n.envid = "e1");
    let parsed = parse::parse(message.as_bytes()).unwrap();
    assert!(parsed.text.starts_with(b"The text.\n\n<x@nodomain.test>: "));
    assert_eq!(parsed.message.typed("reporting-mta"), Some(("dns", "mx.lab.test")));
    assert_eq!(parsed.message.get("Original-Envelope-Id"), Some("e1"));
    assert_eq!(parsed.message.get("X-Postfix-Queue-ID"), Some("OLD"));
    assert_eq!(parsed.recipients.len(), 2);
    for (found, given) in parsed.recipients.iter().zip(&recipients) {
        assert_eq!(found.final_recipient().as_deref(), Some(&*given.address));
        assert_eq!(found.get("Original-Recipient"), Some(&*given.orcpt));
        assert_eq!(found.status(), Some(given.status));
        assert_eq!(found.action().as_deref(), Some("failed"));
        assert_eq!(found.typed("Remote-MTA").map_or("", |(_, name)| name), given.remote_mta);
    }
    let (kind, text) = parsed.recipients[0].typed("Diagnostic-Code").unwrap();
    assert_eq!((kind, text), ("X-Postfix", &*recipients[0].reason));
    assert_eq!(parsed.recipients[1].get("Diagnostic-Code"), Some(&*recipients[1].diagnostic));
    assert_eq!(parsed.original, [b"Return-Path: <sender@lab.test>\n", MESSAGE].concat());
}

#[test]
fn other_mail_is_not_read() {
    for message in [
        "",
        "Subject: x\n\nbody",
        "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\n\ntext\n--b--\n",
        "Content-Type: multipart/report\n\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nA: b\n--b--",
    ] {
        assert_eq!(parse::parse(message.as_bytes()), None, "{message}");
    }
    let cut = "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n\nReporting-MTA: dns; x\n  \nno field\nAction: Failed\n and on";
    let parsed = parse::parse(cut.as_bytes()).unwrap();
    assert_eq!(parsed.recipients[0].action().as_deref(), Some("failed and on"));
}

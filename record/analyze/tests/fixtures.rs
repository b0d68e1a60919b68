//! Bounces of real mail servers (`fixtures/make` makes them), mail that is no bounce, and our own notices read back.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use yamabiko_analyze::{Analysis, Analyzer, Finding, Kind, Reason};
use yamabiko_report as report;
use yamabiko_status::EnhancedStatus;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One expected finding: recipient, reasons, hardness, status, reply, action.
type Expected = [String; 6];

/// `expected.tsv` by message.
fn expected() -> BTreeMap<String, Vec<Expected>> {
    let mut all: BTreeMap<String, Vec<Expected>> = BTreeMap::new();
    for line in String::from_utf8(read("expected.tsv")).unwrap().lines().filter(|line| !line.starts_with('#')) {
        let mut values = line.split('\t').map(str::to_owned);
        let name = values.next().unwrap();
        let rest: Vec<String> = values.collect();
        all.entry(name).or_default().push(rest.try_into().unwrap_or_else(|_| panic!("seven columns: {line}")));
    }
    all
}

fn differences(finding: &Finding, expected: &Expected) -> Vec<String> {
    let status = finding.status.map(|status| status.to_string()).unwrap_or_default();
    let reply = finding.reply_code.map(|code| code.to_string()).unwrap_or_default();
    let action = finding.action.map(|action| action.name()).unwrap_or_default();
    let hard = if finding.hard_bounce { "hard" } else { "soft" };
    let found = [&finding.recipient, finding.reason.name(), hard, &status, &reply, action];
    let names = ["recipient", "reason", "hard", "status", "reply", "action"];
    let mut wrong = Vec::new();
    for ((name, found), wanted) in names.iter().zip(found).zip(expected) {
        if !wanted.is_empty() && !wanted.split('|').any(|wanted| wanted == found) {
            wrong.push(format!("{name} {found}, wanted {wanted}"));
        }
    }
    wrong
}

#[test]
fn bounces_of_real_systems() {
    let analyzer = Analyzer::embedded();
    let (mut wrong, mut messages) = (Vec::new(), 0);
    for (name, wanted) in expected() {
        messages += 1;
        let analysis = analyzer.analyze(&read(&name));
        if analysis.findings.len() != wanted.len() {
            wrong.push(format!("{name}: {} findings, wanted {}: {analysis:?}", analysis.findings.len(), wanted.len()));
            continue;
        }
        for (finding, wanted) in analysis.findings.iter().zip(&wanted) {
            for difference in differences(finding, wanted) {
                wrong.push(format!("{name}: {difference} ({})", finding.diagnostic.text));
            }
        }
        for finding in &analysis.findings {
            let system = name.split('/').next().unwrap_or_default();
            for (field, found, wanted) in [
                ("addresser", finding.addresser.clone(), "hanako@example.com".to_owned()),
                ("senderdomain", finding.sender_domain.clone(), "example.com".to_owned()),
                ("subject", finding.subject.clone(), format!("Greetings from {system}")),
            ] {
                if found != wanted {
                    wrong.push(format!("{name}: {field} {found}, wanted {wanted}"));
                }
            }
            if !finding.message_id.starts_with(&format!("{system}.")) {
                wrong.push(format!("{name}: messageid {}", finding.message_id));
            }
            // All of them were made on this day.
            if !finding.date.is_some_and(|date| (1_795_219_200..1_795_392_000).contains(&date.seconds)) {
                wrong.push(format!("{name}: date {:?}", finding.date));
            }
        }
    }
    assert!(messages > 70, "only {messages} messages");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Everything in the folders is in the table.
#[test]
fn no_fixture_is_forgotten() {
    let table = expected();
    for system in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap()) {
        let system_name = system.file_name().into_string().unwrap();
        // Those have a table of their own, or none.
        if !system.file_type().unwrap().is_dir() || ["negatives", "by-hand"].contains(&system_name.as_str()) {
            continue;
        }
        for file in fs::read_dir(system.path()).unwrap().map(|entry| entry.unwrap()) {
            let name = format!("{system_name}/{}", file.file_name().into_string().unwrap());
            assert!(table.contains_key(&name), "{name} is not in expected.tsv");
        }
    }
}

#[test]
fn what_is_no_bounce_is_not_reported() {
    let analyzer = Analyzer::embedded();
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(folder().join("negatives")).unwrap() {
        let path = entry.unwrap().path();
        count += 1;
        let analysis = analyzer.analyze(&fs::read(&path).unwrap());
        let reported = |finding: &&Finding| !matches!(finding.reason, Reason::Vacation | Reason::Delivered);
        for finding in analysis.findings.iter().filter(reported) {
            wrong.push(format!(
                "{}: {} for {}: {:?}",
                path.display(),
                finding.reason,
                finding.recipient,
                finding.evidence
            ));
        }
        if let Some(why) = &analysis.undecoded {
            wrong.push(format!("{}: taken for a bounce that is not understood: {why}", path.display()));
        }
    }
    assert!(count >= 30);
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn receipts_are_told_apart() {
    let analyzer = Analyzer::embedded();
    for name in ["read-receipt-en", "read-receipt-deleted-ja"] {
        let analysis = analyzer.analyze(&read(&format!("negatives/{name}.eml")));
        assert_eq!(analysis.kind, Kind::Receipt, "{name}");
    }
}

/// The same message with every kind of line end says the same.
#[test]
fn line_ends_do_not_matter() {
    let analyzer = Analyzer::embedded();
    let said = |analysis: &Analysis| -> Vec<String> {
        let one = |f: &Finding| {
            format!("{} {} {:?} {:?} {} {}", f.recipient, f.reason, f.status, f.date, f.diagnostic.text, f.subject)
        };
        analysis.findings.iter().map(one).collect()
    };
    for name in expected().keys() {
        let lf = read(name);
        let text = String::from_utf8_lossy(&lf).into_owned();
        let wanted = said(&analyzer.analyze(&lf));
        assert_eq!(said(&analyzer.analyze(text.replace('\n', "\r\n").as_bytes())), wanted, "{name} with CRLF");
        assert_eq!(said(&analyzer.analyze(text.replace('\n', "\r").as_bytes())), wanted, "{name} with CR");
    }
}

struct Own {
    kind: report::Kind,
    status: EnhancedStatus,
    action: &'static str,
    remote: &'static str,
    text: &'static str,
    wanted: Reason,
    hard: bool,
}

/// What `stage/bounce` writes by way of `yamabiko-report`, this crate reads.
#[test]
fn our_own_notices() {
    let analyzer = Analyzer::embedded();
    let failed = |status, remote, text, wanted, hard| Own {
        kind: report::Kind::Failed,
        status,
        action: "failed",
        remote,
        text,
        wanted,
        hard,
    };
    let (user, host) = ("550 5.1.1 <x@example.net>: Recipient address rejected: User unknown", "mx.example.net");
    for own in [
        failed(EnhancedStatus::permanent(1, 1), host, user, Reason::UserUnknown, true),
        failed(EnhancedStatus::permanent(2, 2), host, "552 5.2.2 Mailbox full", Reason::MailboxFull, false),
        failed(EnhancedStatus::permanent(1, 1), "", "unknown user: \"x\"", Reason::UserUnknown, true),
        failed(
            EnhancedStatus::permanent(4, 4),
            "",
            "Host or domain name not found. Name service error for name=example.net type=A: Host not found",
            Reason::HostUnknown,
            true,
        ),
        failed(
            EnhancedStatus::permanent(4, 6),
            "",
            "mail for example.net loops back to myself",
            Reason::NetworkError,
            false,
        ),
        Own {
            kind: report::Kind::Delayed,
            status: EnhancedStatus::transient(4, 1),
            action: "delayed",
            remote: "",
            text: "connect to mx.example.net[192.0.2.1]:25: Connection timed out",
            wanted: Reason::Expired,
            hard: false,
        },
        Own {
            kind: report::Kind::Settled,
            status: EnhancedStatus::success(0, 0),
            action: "relayed",
            remote: host,
            text: "250 2.0.0 Ok: queued as 12345",
            wanted: Reason::Delivered,
            hard: false,
        },
    ] {
        let template = match own.kind {
            report::Kind::Failed => report::TemplateKind::Failure,
            report::Kind::Delayed => report::TemplateKind::Delay,
            _ => report::TemplateKind::Success,
        };
        for obsolete_from in [false, true] {
            let templates = report::Templates::built_in(obsolete_from);
            let recipients = [report::RecipientReport {
                address: "x@example.net".into(),
                original: String::new(),
                orcpt: "rfc822;x@example.net".into(),
                action: own.action,
                status: own.status,
                reason: if own.remote.is_empty() {
                    own.text.into()
                } else {
                    format!("host {0}[192.0.2.1] said: {1} (in reply to RCPT TO command)", own.remote, own.text)
                },
                remote_mta: if own.remote.is_empty() { String::new() } else { own.remote.into() },
                diagnostic: if own.remote.is_empty() { String::new() } else { format!("smtp; {}", own.text) },
            }];
            let notice = report::Notice {
                kind: own.kind,
                template: templates.get(template),
                postmaster_copy: false,
                date: "Sat, 21 Nov 2026 16:53:54 +0900 (JST)",
                to: "hanako@example.com",
                append_domain: Some("example.org"),
                thread: None,
                message_id: "<20261121165354.4jX3YN3lcMz1@mx.example.org>",
                boundary: "4jX3YN3lcMz1.1795280034/mx.example.org",
                reporting_mta: "mx.example.org",
                mail_name: "Yamabiko",
                queue_id: "4jX3YN3lcMz1",
                sender: "hanako@example.com",
                envid: "",
                arrival_date: "Sat, 21 Nov 2026 16:53:53 +0900 (JST)",
                retry_until: "Thu, 26 Nov 2026 16:53:53 +0900 (JST)",
                encoding: report::BodyEncoding::EightBit,
                smtputf8: false,
                recipients: &recipients,
                original: report::Original::Full(
                    b"From: hanako@example.com\nTo: x@example.net\nSubject: =?UTF-8?B?5bGx5b2m?=\nMessage-ID: <1@example.com>\n\nx\n",
                ),
            };
            let composed = notice.compose();
            let analysis = analyzer.analyze(&composed);
            let [finding] = &analysis.findings[..] else {
                panic!("{}: {analysis:?}", String::from_utf8_lossy(&composed))
            };
            assert_eq!(finding.reason, own.wanted, "{}: {:?}", own.text, finding.evidence);
            assert_eq!(finding.recipient, "x@example.net");
            assert_eq!(finding.hard_bounce, own.hard, "{}", own.text);
            assert_eq!(finding.status, Some(own.status), "{}", own.text);
            assert_eq!(finding.action.map(|action| action.name()), Some(own.action));
            assert_eq!((finding.subject.as_str(), finding.message_id.as_str()), ("山彦", "1@example.com"));
            assert_eq!(finding.addresser, "hanako@example.com");
            assert_eq!(finding.lhost, "mx.example.org");
            if !own.remote.is_empty() {
                assert_eq!(finding.rhost, own.remote);
            }
        }
    }
}

//! Which notices there are, for whom, and what stands in them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use yamabiko_bounce::{Bouncer, Job, Plan, Reported, Wanted, read_original, show_expanded, show_templates};
use yamabiko_config::{Config, Host, Interface};
use yamabiko_envelope::{
    Action, BodyType, Content, DiagnosticType, Envelope, Failure, Kind, NoticeKind, Notify, Outcome, QueueId,
    Recipient, Result, Ret, Source, Timestamp, Trace, VerpDelimiters,
};
use yamabiko_message::date::Zone;
use yamabiko_report::parse;
use yamabiko_status::EnhancedStatus;

const MESSAGE: &[u8] = b"Subject: s\nMessage-Id: <orig@c.test>\n\nthe body\n";
static UTC: Zone = Zone::UTC;
const NOW: Timestamp = Timestamp(1_795_280_034_000_000);

fn config(main: &str) -> std::sync::Arc<Config> {
    let host = Host {
        hostname: "mx.lab.test".into(),
        interfaces: vec![Interface { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 }],
        process_id: 1,
        process_name: "bounce".into(),
        resolve: |_| Vec::new(),
    };
    let main = format!("compatibility_level = 3.6\nmail_name = Postfix\nmyorigin = lab.test\n{main}");
    Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap()
}

fn bouncer(main: &str) -> Bouncer {
    let (bouncer, warnings) = Bouncer::new(&config(main).main(), None);
    assert_eq!(warnings, [""; 0]);
    bouncer
}

/// `address[:original][ NOTIFY words]`
fn recipient(text: &str) -> Recipient {
    let (addresses, words) = text.split_once(' ').unwrap_or((text, ""));
    let (address, original) = addresses.split_once(':').unwrap_or((addresses, ""));
    let notify = Notify {
        never: words.contains("NEVER"),
        success: words.contains("SUCCESS"),
        failure: words.contains("FAILURE"),
        delay: words.contains("DELAY"),
    };
    Recipient { address: address.into(), original: original.into(), notify, ..Recipient::default() }
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let arrival = Timestamp(NOW.0 - 60_000_000);
    let mut envelope = Envelope::new(QueueId::new(arrival.0, 1), arrival, sender);
    envelope.recipients = recipients.iter().map(|text| recipient(text)).collect();
    envelope.size = MESSAGE.len() as u64;
    envelope.message_id = "<orig@c.test>".into();
    envelope
}

fn failure() -> Failure {
    Failure {
        status: EnhancedStatus::permanent(1, 1),
        reason: "host mx[192.0.2.1] said: 550 5.1.1 no".into(),
        diagnostic: "smtp; 550 5.1.1 no".into(),
        remote_mta: "mx".into(),
        relay: "mx[192.0.2.1]:25".into(),
        settled: Vec::new(),
    }
}

fn reported(bouncer: &Bouncer, envelope: &Envelope, waits: bool) -> Vec<Reported> {
    envelope.recipients.iter().map(|r| bouncer.report_failure(r, &failure(), waits)).collect()
}

fn job(envelope: &Envelope) -> Job<'_> {
    Job { envelope, original: Some(MESSAGE), now: NOW, zone: &UTC, languages: &[] }
}

fn ids() -> impl FnMut() -> QueueId {
    let mut last = NOW.0;
    move || {
        last += 1;
        QueueId::new(last, 1)
    }
}

/// One word per notice: kind, from, to, recipients in it, `full` or `headers`. Warnings follow after `!`.
fn outline(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for planned in &plan.notices {
        let submission = &planned.submission;
        assert_eq!(submission.source, Source::Notice);
        let kind = match planned.kind {
            NoticeKind::SenderNonDelivery => "failed",
            NoticeKind::PostmasterNonDelivery => "postmaster-failed",
            NoticeKind::SenderDelay => "delayed",
            NoticeKind::PostmasterDelay => "postmaster-delayed",
            NoticeKind::SenderSuccess => "report",
        };
        let content = submission.content.to_bytes().unwrap();
        let parsed = parse::parse(&content).unwrap();
        let recipients: Vec<_> = parsed.recipients.iter().map(|r| r.final_recipient().unwrap()).collect();
        let to: Vec<_> = submission.envelope.recipients.iter().map(|r| r.address.as_str()).collect();
        let returned = if parsed.original.ends_with(b"the body\n") { "full" } else { "headers" };
        let from = &submission.envelope.sender;
        lines.push(format!("{kind} <{from}> {} {} {returned}", to.join(","), recipients.join(",")));
    }
    for event in &plan.events {
        let Kind::Text { queue_id, text, .. } = event else { panic!("{event:?}") };
        lines.push(format!("! {}{text}", if queue_id.is_some() { "QID: " } else { "" }));
    }
    lines
}

#[test]
fn failures() {
    type Case = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);
    let table: &[Case] = &[
        ("plain", "", "s@x.test", &["a@b.test", "c@d.test"], &["failed <> s@x.test a@b.test,c@d.test full"]),
        ("nobody", "", "s@x.test", &[], &[]),
        (
            "NOTIFY",
            "",
            "s@x.test",
            &["a@b NEVER", "c@d FAILURE", "e@f SUCCESS,DELAY"],
            &["failed <> s@x.test c@d full"],
        ),
        ("NEVER", "", "s@x.test", &["a@b NEVER"], &[]),
        (
            "class bounce",
            "notify_classes = bounce",
            "s@x.test",
            &["a@b", "c@d NEVER"],
            &[
                "failed <> s@x.test a@b full",
                "postmaster-failed <double-bounce@mx.lab.test> postmaster a@b,c@d headers",
            ],
        ),
        (
            "class bounce, NEVER",
            "notify_classes = bounce\nbounce_notice_recipient = pm@y",
            "s@x.test",
            &["c@d NEVER"],
            &["postmaster-failed <double-bounce@mx.lab.test> pm@y c@d headers"],
        ),
        ("null sender, no class", "", "", &["a@b"], &[]),
        (
            "null sender",
            "notify_classes = 2bounce\n2bounce_notice_recipient = pm@y",
            "",
            &["a@b NEVER"],
            &["postmaster-failed <double-bounce@mx.lab.test> pm@y a@b full"],
        ),
        (
            "null sender, class bounce",
            "notify_classes = bounce",
            "",
            &["a@b"],
            &["postmaster-failed <double-bounce@mx.lab.test> postmaster a@b full"],
        ),
        (
            "double bounce failed",
            "notify_classes = bounce, 2bounce",
            "Double-Bounce@MX.lab.test",
            &["a@b"],
            &["! QID: undeliverable postmaster notification discarded"],
        ),
        (
            "double bounce of another name",
            "double_bounce_sender = db\nnotify_classes = bounce, 2bounce",
            "db@mx.lab.test",
            &["a@b"],
            &["! QID: undeliverable postmaster notification discarded"],
        ),
        ("size limit", "bounce_size_limit = 10", "s@x.test", &["a@b"], &["failed <> s@x.test a@b headers"]),
    ];
    for (name, main, sender, recipients, expected) in table {
        let bouncer = bouncer(main);
        let envelope = envelope(sender, recipients);
        let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
        assert_eq!(outline(&plan), *expected, "{name}");
    }
}

#[test]
fn ret_and_size_decide_what_is_returned() {
    let bouncer = bouncer("");
    let mut envelope = envelope("s@x.test", &["a@b"]);
    assert_eq!(bouncer.wanted(&envelope), Wanted::Full);
    envelope.ret = Some(Ret::Headers);
    assert_eq!(bouncer.wanted(&envelope), Wanted::Headers);
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    assert_eq!(outline(&plan), ["failed <> s@x.test a@b headers"]);
    envelope.ret = Some(Ret::Full);
    assert_eq!(bouncer.wanted(&envelope), Wanted::Full);
    envelope.size = 50_001;
    assert_eq!(bouncer.wanted(&envelope), Wanted::Headers);
    let lost = Job { original: None, ..job(&envelope) };
    let plan = bouncer.failed(&lost, &reported(&bouncer, &envelope, false), &mut ids());
    let content = plan.notices[0].submission.content.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&content).contains("\t--- Undelivered message unavailable ---\n"));
}

#[test]
fn verp_makes_a_notice_for_each() {
    let mut envelope = envelope("list@x.test", &["a@b:alias@b", "c@d NEVER"]);
    envelope.verp = Some(VerpDelimiters { first: '+', second: '=' });
    for (main, expected) in [
        (
            "notify_classes = bounce",
            &[
                "failed <> list+alias=b@x.test a@b full",
                "postmaster-failed <double-bounce@mx.lab.test> postmaster a@b headers",
                "postmaster-failed <double-bounce@mx.lab.test> postmaster c@d headers",
            ][..],
        ),
        ("disable_verp_bounces = yes", &["failed <> list@x.test a@b full"][..]),
    ] {
        let bouncer = bouncer(main);
        let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
        assert_eq!(outline(&plan), expected, "{main}");
        // The notice speaks of the sender as it is.
        let content = plan.notices[0].submission.content.to_bytes().unwrap();
        let parsed = parse::parse(&content).unwrap();
        assert_eq!(parsed.message.get("X-Postfix-Sender"), Some("rfc822; list@x.test"));
    }
}

#[test]
fn delays() {
    type Case = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);
    let table: &[Case] = &[
        (
            "plain",
            "delay_warning_time = 4h",
            "s@x.test",
            &["a@b", "c@d NEVER", "e@f DELAY", "g@h FAILURE"],
            &["delayed <> s@x.test a@b,e@f headers"],
        ),
        (
            "class delay",
            "delay_warning_time = 4h\nnotify_classes = delay\ndelay_notice_recipient = pm",
            "s@x.test",
            &["g@h FAILURE"],
            &["postmaster-delayed <double-bounce@mx.lab.test> pm g@h headers"],
        ),
        ("null sender", "notify_classes = delay", "", &["a@b"], &[]),
        (
            "double bounce",
            "notify_classes = delay",
            "double-bounce@mx.lab.test",
            &["a@b"],
            &["! QID: undeliverable postmaster notification discarded"],
        ),
        (
            "less than an hour",
            "delay_warning_time = 10m",
            "s@x.test",
            &["a@b"],
            &[
                "delayed <> s@x.test a@b headers",
                "! [built-in]: zero result in delay template conversion of parameter \"delay_warning_time_hours\"",
                "! please reduce time unit \"hours\" of \"delay_warning_time_hours\" in delay template",
                "! for instructions see the bounce(5) manual",
            ],
        ),
    ];
    for (name, main, sender, recipients, expected) in table {
        let bouncer = bouncer(main);
        let envelope = envelope(sender, recipients);
        let plan = bouncer.delayed(&job(&envelope), &reported(&bouncer, &envelope, true), &mut ids());
        assert_eq!(outline(&plan), *expected, "{name}");
    }
}

fn outcome(recipient: u32, result: Result) -> Outcome {
    let status = match result {
        Result::Sent(_) => EnhancedStatus::success(0, 0),
        Result::Deferred => EnhancedStatus::transient(4, 1),
        Result::Failed => EnhancedStatus::permanent(1, 1),
    };
    Outcome {
        recipient,
        expanded: None,
        result,
        status,
        reason: "250 2.0.0 Ok".into(),
        diagnostic: Some((DiagnosticType::Smtp, "250 2.0.0 Ok".into())),
        remote_mta: Some("mx.b.test".into()),
        relay: "mx.b.test[192.0.2.1]:25".into(),
        stage: None,
        reply: None,
        connection_use: 0,
        tls: None,
        tls_status: None,
        connected: None,
        ended: NOW,
        soft: false,
        logged: false,
        members: Vec::new(),
    }
}

#[test]
fn reports_of_success_and_traces() {
    use Result::{Deferred, Failed, Sent};
    let results = [Sent(Action::Delivered), Sent(Action::Relayed), Sent(Action::HandedOn), Deferred, Failed];
    type Case = (&'static str, &'static str, Trace, &'static str, &'static [&'static str], &'static str);
    let table: &[Case] = &[
        ("nobody asked", "s@x.test", Trace::No, "", &[], ""),
        ("success", "s@x.test", Trace::No, " SUCCESS", &["report <> s@x.test a0@b,a1@b headers"], "delivered relayed"),
        ("null sender", "", Trace::No, " SUCCESS", &[], ""),
        ("double bounce", "double-bounce@mx.lab.test", Trace::No, " SUCCESS", &[], ""),
        (
            "-v",
            "s@x.test",
            Trace::Record,
            " NEVER",
            &["report <> s@x.test a0@b,a1@b,a2@b,a3@b,a4@b headers"],
            "delivered relayed relayed delayed failed",
        ),
        (
            "-bv",
            "s@x.test",
            Trace::ProbeReport,
            "",
            &["report <> s@x.test a0@b,a1@b,a2@b,a3@b,a4@b headers"],
            "deliverable deliverable deliverable undeliverable undeliverable",
        ),
        ("probe", "s@x.test", Trace::Probe, "", &[], ""),
    ];
    let bouncer = bouncer("");
    for (name, sender, trace, notify, expected, actions) in table {
        let recipients: Vec<_> = (0..results.len()).map(|n| format!("a{n}@b{notify}")).collect();
        let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
        let mut envelope = envelope(sender, &recipients);
        envelope.trace = *trace;
        let outcomes: Vec<_> = (0..)
            .zip(results)
            .filter_map(|(n, result)| bouncer.report_outcome(&envelope, &outcome(n, result)))
            .collect();
        let plan = bouncer.settled(&job(&envelope), &outcomes, &mut ids());
        assert_eq!(outline(&plan), *expected, "{name}");
        if let Some(planned) = plan.notices.first() {
            let content = planned.submission.content.to_bytes().unwrap();
            let parsed = parse::parse(&content).unwrap();
            let found: Vec<_> = parsed.recipients.iter().map(|r| r.action().unwrap()).collect();
            assert_eq!(found.join(" "), *actions, "{name}");
            let text = String::from_utf8_lossy(parsed.text);
            assert!(text.contains("<a0@b>: delivery via mx.b.test[192.0.2.1]:25: 250 2.0.0 Ok\n"), "{text}");
            assert_eq!(parsed.recipients[0].get("Diagnostic-Code"), Some("smtp; 250 2.0.0 Ok"));
        }
    }
}

#[test]
fn leaves_of_an_alias() {
    let bouncer = bouncer("");
    let envelope = envelope("s@x.test", &["list@lab.test:list", "plain@lab.test"]);
    let leaf = Outcome { expanded: Some("leaf@lab.test".into()), relay: "none".into(), ..outcome(0, Result::Failed) };
    let reported = bouncer.report_outcome(&envelope, &leaf).unwrap().report;
    assert_eq!((&*reported.address, &*reported.original), ("leaf@lab.test", "list"));
    assert_eq!(reported.orcpt, "rfc822;list@lab.test");
    assert_eq!(reported.reason, "250 2.0.0 Ok");
    let plain = bouncer.report_outcome(&envelope, &outcome(1, Result::Failed)).unwrap().report;
    assert_eq!((&*plain.original, &*plain.orcpt), ("", "rfc822;plain@lab.test"));
    assert_eq!(bouncer.report_outcome(&envelope, &outcome(2, Result::Failed)), None);
}

#[test]
fn a_notice_and_its_envelope() {
    let bouncer = bouncer("enable_threaded_bounces = yes");
    let mut envelope = envelope("..s@docomo.test", &["a@b.test"]);
    envelope.envid = "e1".into();
    envelope.smtputf8 = true;
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    let planned = &plan.notices[0];
    let notice = &planned.submission.envelope;
    let id = notice.queue_id;
    assert_eq!(notice.recipients[0].address, "..s@docomo.test");
    assert_eq!((notice.smtputf8, notice.body), (true, BodyType::EightBitMime));
    assert_eq!(notice.message_id, format!("<20261121165354.{id}@mx.lab.test>"));
    assert_eq!(
        planned.event(),
        Kind::Noticed { queue_id: envelope.queue_id, kind: NoticeKind::SenderNonDelivery, notice: id }
    );
    assert_eq!(
        String::from_utf8_lossy(&planned.submission.trace_fields),
        format!("Received: by mx.lab.test (Postfix)\n\tid {id}; Sat, 21 Nov 2026 16:53:54 +0000 (UTC)\n")
    );
    let content = planned.submission.content.to_bytes().unwrap();
    let text = String::from_utf8(content.to_vec()).unwrap();
    let boundary = format!("{}.1795280034/mx.lab.test", envelope.queue_id);
    for part in [
        "Date: Sat, 21 Nov 2026 16:53:54 +0000 (UTC)\nFrom: Mail Delivery System <MAILER-DAEMON@lab.test>\n".to_owned(),
        "To: \"..s\"@docomo.test\nReferences: <orig@c.test>\nIn-Reply-To: <orig@c.test>\nAuto-Submitted: ".to_owned(),
        format!("\tboundary=\"{boundary}\"\nContent-Transfer-Encoding: 8bit\nMessage-Id: {}\n", notice.message_id),
        "\nThis is the mail system at host mx.lab.test.\n".to_owned(),
        "Reporting-MTA: dns; mx.lab.test\nOriginal-Envelope-Id: e1\n".to_owned(),
        "Arrival-Date: Sat, 21 Nov 2026 16:52:54 +0000 (UTC)\n".to_owned(),
        "Remote-MTA: dns; mx\nDiagnostic-Code: smtp; 550 5.1.1 no\n".to_owned(),
        "Return-Path: <\"..s\"@docomo.test>\nSubject: s\n".to_owned(),
        format!("the body\n\n--{boundary}--\n"),
    ] {
        assert!(text.contains(&part), "{part:?} is missing in\n{text}");
    }
    envelope.message_id = "orig".into();
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    assert!(outline(&plan).contains(&"! QID: ignoring malformed Message-ID".to_owned()));
}

#[test]
fn mail_of_the_null_sender_is_called_mailer_daemons() {
    let bouncer = bouncer("notify_classes = 2bounce");
    let envelope = envelope("", &["a@b"]);
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    let content = plan.notices[0].submission.content.to_bytes().unwrap();
    let text = String::from_utf8_lossy(&content);
    for line in [
        "\nTo: postmaster@lab.test\n",
        "\nX-Postfix-Sender: rfc822; MAILER-DAEMON@mx.lab.test\n",
        "\nReturn-Path: <MAILER-DAEMON@mx.lab.test>\n",
        "\nSubject: Postmaster Copy: Undelivered Mail\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
}

#[test]
fn templates_of_a_file() {
    let file = "failure_template = <<EOF\nCharset: iso-8859-1\nFrom: \"A, B\" <robot>\nSubject: Sub\n\n\
                \u{1}$$x $mail_name ${myhostname}|$(mydomain)|$nosuch|$maximal_queue_lifetime_weeks|$maximal_queue_lifetime_foo\nEOF\n";
    // A byte that is no UTF-8.
    let file: Vec<u8> = file.bytes().map(|b| if b == 1 { 0xe9 } else { b }).collect();
    let (bouncer, warnings) = Bouncer::new(&config("").main(), Some(("b.cf", &file)));
    assert_eq!(warnings, [""; 0]);
    let envelope = envelope("s@x.test", &["a@b"]);
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    let content = plan.notices[0].submission.content.to_bytes().unwrap();
    let text: String = content.iter().copied().map(char::from).collect();
    assert!(text.contains("From: \"A, B\" <robot@lab.test>\nSubject: Sub\n"), "{text}");
    assert!(text.contains("charset=iso-8859-1\n"));
    assert!(text.contains("\n\u{e9}$x Postfix mx.lab.test|lab.test||0|\n"), "{text}");
    assert_eq!(
        outline(&plan)[1..],
        [
            "! b.cf: undefined $nosuch in failure template",
            "! b.cf: zero result in failure template conversion of parameter \"maximal_queue_lifetime_weeks\"",
            "! please reduce time unit \"weeks\" of \"maximal_queue_lifetime_weeks\" in failure template",
            "! for instructions see the bounce(5) manual",
            "! b.cf: unrecognized suffix \"foo\" in parameter \"maximal_queue_lifetime_foo\"",
        ]
    );
}

#[test]
fn bad_templates_do_not_stop_notices() {
    let envelope = envelope("s@x.test", &["a@b"]);
    let broken = b"failure_template = <<EOF\nSubject: x\n\n$mail_name ${x\nEOF\n";
    let (bouncer, warnings) = Bouncer::new(&config("").main(), Some(("b.cf", broken)));
    assert_eq!(warnings, [""; 0]);
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    let lines = outline(&plan);
    assert!(lines[1].starts_with("! b.cf: bad $name syntax in failure template: "), "{lines:?}");
    let content = plan.notices[0].submission.content.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&content).contains("\nThis is the mail system at host mx.lab.test.\n"));
    let (_, warnings) = Bouncer::new(&config("").main(), Some(("b.cf", b"what is this")));
    assert_eq!(
        warnings,
        ["b.cf, line 1: missing '=' after attribute name: \"what is this\" -- using the built-in templates"]
    );
}

#[test]
fn what_postconf_shows() {
    let view = config("delay_warning_time = 4h\nheader_from_format = obsolete").main();
    let shown = String::from_utf8(show_templates(&view, None).text).unwrap();
    assert!(shown.starts_with(
        "failure_template = <<EOF\nCharset: us-ascii\nFrom: MAILER-DAEMON (Mail Delivery System)\n\
         Subject: Undelivered Mail Returned to Sender\nPostmaster-Subject: Postmaster Copy: Undelivered Mail\n\n\
         This is the mail system at host $myhostname.\n"
    ));
    let shown = show_expanded(&view, None);
    assert_eq!(shown.warnings, [""; 0]);
    let shown = String::from_utf8(shown.text).unwrap();
    assert!(shown.starts_with("expanded_failure_text = <<EOF\nThis is the mail system at host mx.lab.test.\n"));
    assert!(shown.contains("EOF\n\nexpanded_delay_text = <<EOF\n"));
    assert!(shown.contains("more than 4 hour(s)") && shown.contains("5 day(s)"));
}

#[test]
fn only_the_beginning_of_a_large_message_is_read() {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    let headers = format!("Subject: s\nX-Long: {}\n", "x".repeat(40_000));
    write!(file, "{headers}\n{}", "body\n".repeat(100_000)).unwrap();
    let content = Content::File { file: std::sync::Arc::new(file), offset: 0, len: headers.len() as u64 + 500_001 };
    let read = read_original(&content, Wanted::Headers).unwrap();
    assert!(read.len() < 100_000);
    assert_eq!(yamabiko_message::header_block(&read), headers.as_bytes());
    assert_eq!(read_original(&content, Wanted::Full).unwrap().len() as u64, content.len());
    let small = Content::from(MESSAGE.to_vec());
    assert_eq!(&read_original(&small, Wanted::Headers).unwrap()[..], MESSAGE);
}

#[test]
fn the_time_of_giving_up_is_in_the_warning() {
    let bouncer = bouncer("maximal_queue_lifetime = 2d\ndelay_warning_time = 1h");
    let envelope = envelope("s@x.test", &["a@b"]);
    let plan = bouncer.delayed(&job(&envelope), &reported(&bouncer, &envelope, true), &mut ids());
    let content = plan.notices[0].submission.content.to_bytes().unwrap();
    let parsed = parse::parse(&content).unwrap();
    let until = envelope.arrival + Duration::from_secs(2 * 86_400);
    let until = yamabiko_message::date::rfc5322(until.seconds(), &Zone::UTC);
    assert_eq!(parsed.recipients[0].get("Will-Retry-Until"), Some(&*until));
    assert_eq!(parsed.recipients[0].action().as_deref(), Some("delayed"));
}

#[test]
fn qmail_form() {
    let cases: [(&str, &str, &[&str]); 5] = [
        ("bounce_style = qmail", "s@x.test", &["<> s@x.test MAILER-DAEMON@mx.lab.test mx.lab.test"]),
        (
            "bounce_style = qmail\nbounce_from_user = robot\nbounce_from_domain = example.com",
            "s@x.test",
            &["<> s@x.test robot@example.com example.com"],
        ),
        // Always, whatever the classes.
        (
            "bounce_style = qmail\nnotify_classes =\n2bounce_notice_recipient = pm@y.test",
            "",
            &["<#@[]> pm@y.test MAILER-DAEMON@mx.lab.test mx.lab.test"],
        ),
        ("bounce_style = qmail", "list-@x.test-@[]", &["<> list-@x.test MAILER-DAEMON@mx.lab.test mx.lab.test"]),
        ("bounce_style = qmail", "#@[]", &[]),
    ];
    for (main, sender, expected) in cases {
        let bouncer = bouncer(main);
        let envelope = envelope(sender, &["a@b.test"]);
        let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
        let lines: Vec<_> = plan
            .notices
            .iter()
            .map(|planned| {
                let notice = &planned.submission;
                let text = String::from_utf8(notice.content.to_bytes().unwrap().to_vec()).unwrap();
                let after = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin)).unwrap().to_owned();
                let first = after("Hi. This is the qmail-send program at ");
                assert!(text.ends_with("Subject: s\nMessage-Id: <orig@c.test>\n\nthe body\n"), "{text}");
                assert!(text.starts_with("Date: 21 Nov 2026 16:53:54 -0000\nFrom: "), "{text}");
                assert_eq!(text.contains("but the bounce bounced!"), sender.is_empty());
                let to = &notice.envelope.recipients[0].address;
                format!("<{}> {to} {} {}", notice.envelope.sender, after("From: "), first.trim_end_matches('.'))
            })
            .collect();
        assert_eq!(lines, expected, "{main}");
    }
    let bouncer = bouncer("");
    let envelope = envelope("#@[]", &["a@b.test"]);
    let plan = bouncer.failed(&job(&envelope), &reported(&bouncer, &envelope, false), &mut ids());
    assert_eq!(outline(&plan), [format!("! QID: triple bounce: discarding bounce/{}", envelope.queue_id)]);
}

/// Who failed, the header of the message, and whether there is a notice.
#[test]
fn answers_to_notices_are_not_told_of_and_marks_are_kept() {
    let auto = "Auto-Submitted: auto-replied\n";
    for (main, to, header, notice) in [
        ("", "MAILER-DAEMON@lab.test", auto, false),
        ("", "mailer-daemon@MX.lab.test", auto, false),
        ("", "MAILER-DAEMON@lab.test", "X-Loop: r@x.test\n", false),
        ("", "MAILER-DAEMON@lab.test", "", true),
        ("", "MAILER-DAEMON@elsewhere.test", auto, true),
        ("", "a@lab.test", auto, true),
        ("bounce_from_user = robot\nbounce_from_domain = y.test", "robot@y.test", auto, false),
        ("", "a@lab.test", "X-Loop: r@x.test\n", true),
    ] {
        let bouncer = bouncer(main);
        let envelope = envelope("s@x.test", &[to]);
        let original = format!("{header}Subject: s\n\nbody\n");
        let job = Job { original: Some(original.as_bytes()), ..job(&envelope) };
        for waits in [false, true] {
            let reported = reported(&bouncer, &envelope, waits);
            let plan = match waits {
                false => bouncer.failed(&job, &reported, &mut ids()),
                true => bouncer.delayed(&job, &reported, &mut ids()),
            };
            assert_eq!(plan.notices.len(), usize::from(notice), "{to} {header}");
            assert_eq!(plan.events.len(), usize::from(!notice), "{to} {header}");
            if let Some(planned) = plan.notices.first() {
                let trace = String::from_utf8_lossy(&planned.submission.trace_fields).into_owned();
                assert_eq!(trace.contains("\nX-Loop: r@x.test\n"), header.starts_with("X-Loop"), "{trace}");
            }
        }
    }
}

#[test]
fn control_files() {
    let files: Vec<(String, Vec<u8>)> = [
        ("bouncefrom", "postmaster\n"),
        ("bouncehost", "example.com\n"),
        ("doublebounceto", "boss\n"),
        ("doublebouncehost", "example.net\n"),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .into();
    let (controls, warnings) = yamabiko_bounce::Controls::read(&files);
    assert_eq!(warnings, [""; 0]);
    let (with, warnings) = bouncer("").with_controls(&controls);
    assert_eq!(warnings, [""; 0]);
    let single = envelope("s@x.test", &["a@b.test"]);
    let plan = with.failed(&job(&single), &reported(&with, &single, false), &mut ids());
    let text = plan.notices[0].submission.content.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&text).contains("\nFrom: Mail Delivery System <postmaster@example.com>\n"));
    // A double bounce is always told of.
    let double = envelope("", &["a@b.test"]);
    let plan = with.failed(&job(&double), &reported(&with, &double, false), &mut ids());
    assert_eq!(outline(&plan), ["postmaster-failed <double-bounce@mx.lab.test> boss@example.net a@b.test full"]);
    // main.cf counts before the files, and says so.
    let (with, warnings) =
        bouncer("bounce_from_user = robot\n2bounce_notice_recipient = pm@y").with_controls(&controls);
    assert_eq!(
        warnings,
        [
            "bouncefrom: it is not used, because main.cf has bounce_from_user",
            "doublebounceto: it is not used, because main.cf has 2bounce_notice_recipient"
        ]
    );
    let plan = with.failed(&job(&double), &reported(&with, &double, false), &mut ids());
    assert_eq!(outline(&plan), ["postmaster-failed <double-bounce@mx.lab.test> pm@y a@b.test full"]);
}

#[test]
fn languages() {
    let japanese = "Subject: =?ISO-2022-JP?B?GyRCJCIbKEI=?=\nMessage-Id: <orig@c.test>\n\nthe body\n";
    let cases: [(&str, &str, &[&str], &[&str]); 7] = [
        ("", "", &["It will not be tried again."], &["NOT delivered", "\u{5c4a}"]),
        ("bounce_language = en", "", &["NOT delivered to:\n\n    a$b@b.test\n", "does not exist there"], &["\u{5c4a}"]),
        (
            "bounce_language = ja",
            "",
            &["届きませんでした。\n\n    a$b@b.test\n\nこれで終わりです", "先方にありません"],
            &["NOT delivered"],
        ),
        ("bounce_language = ja en", "", &["届きませんでした", "NOT delivered"], &[]),
        ("bounce_language = original en", "", &["NOT delivered"], &["\u{5c4a}"]),
        ("bounce_language = original en", japanese, &["届きませんでした"], &["NOT delivered"]),
        ("bounce_language = ja\nbounce_japanese_charset = iso-2022-jp", "", &["届きませんでした"], &["NOT delivered"]),
    ];
    for (main, original, has, has_not) in cases {
        let bouncer = bouncer(main);
        let envelope = envelope("s@x.test", &["a$b@b.test"]);
        let original = if original.is_empty() { MESSAGE } else { original.as_bytes() };
        let job = Job { original: Some(original), ..job(&envelope) };
        let plan = bouncer.failed(&job, &reported(&bouncer, &envelope, false), &mut ids());
        assert_eq!(plan.events, []);
        let bytes = plan.notices[0].submission.content.to_bytes().unwrap();
        let jis = main.contains("iso-2022-jp");
        assert_eq!(String::from_utf8_lossy(&bytes).contains("Content-Type: text/plain; charset=iso-2022-jp\n"), jis);
        let text = yamabiko_report::decode::charset(&bytes, None);
        assert!(has.iter().all(|words| text.contains(words)), "{main}: {text}");
        assert!(has_not.iter().all(|words| !text.contains(words)), "{main}: {text}");
        // The words of the other server, and what programs look for.
        assert!(text.contains("said: 550 5.1.1 no") && text.contains("This is the mail system at host mx.lab.test.\n"));
        let parsed = parse::parse(&bytes).unwrap();
        assert_eq!(parsed.recipients[0].final_recipient().unwrap(), "a$b@b.test");
    }
    let wanted = [String::from("ja")];
    let bouncer = bouncer("");
    let envelope = envelope("s@x.test", &["a@b.test"]);
    let job = Job { languages: &wanted, ..job(&envelope) };
    let plan = bouncer.failed(&job, &reported(&bouncer, &envelope, false), &mut ids());
    let text = plan.notices[0].submission.content.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&text).contains("届きませんでした"));
}

//! Reports that people ask for: `NOTIFY`, `RET`, `ENVID`, `sendmail -v`, a delay and its end, XVERP, UTF-8 addresses.

use crate::harness::{Instance, Sink};

use super::new_mail;

const MESSAGE: &str = "Subject: s\n\nthe body\n";

/// What is asked for, and what comes of it: the recipient, the parameters of RCPT, words of the one report that comes
/// back, or none.
const ASKED: [(&str, &str, &[&str]); 11] = [
    (
        "one@box.example",
        "NOTIFY=SUCCESS",
        &["Subject: Successful Mail Delivery Report", "Action: delivered\nStatus: 2.0.0\n"],
    ),
    ("x@plain.example", "NOTIFY=SUCCESS", &["Action: relayed\n", "Remote-MTA: dns; "]),
    ("many@alias.example", "NOTIFY=SUCCESS", &["Action: expanded\n", "Final-Recipient: rfc822; many@alias.example\n"]),
    ("one@box.example", "NOTIFY=FAILURE", &[]),
    ("one@box.example", "", &[]),
    ("x@gone.example", "NOTIFY=NEVER", &[]),
    ("x@gone.example", "NOTIFY=SUCCESS", &[]),
    ("x@gone.example", "NOTIFY=DELAY", &[]),
    ("x@gone.example", "NOTIFY=FAILURE", &["Action: failed\n", "Original-Envelope-Id: id=1\n", "\nthe body\n"]),
    (
        "x@gone.example",
        "NOTIFY=FAILURE,DELAY ORCPT=rfc822;who+40was.example",
        &["Original-Recipient: rfc822;who@was.example\n"],
    ),
    ("x@gone.example", "", &["Action: failed\n", "Diagnostic-Code: smtp; 550 5.1.1 nobody is here\n"]),
];

fn prepared() -> (Instance, Sink) {
    let mut instance = Instance::new();
    instance.set("virtual_alias_domains", "alias.example");
    instance.set("virtual_alias_maps", "inline:{ {many@alias.example=one@box.example, two@box.example} }");
    let sink = Sink::start(instance.next_hop);
    sink.rule("EHLO", "", "250-sink.example\r\n250 8BITMIME");
    sink.rule("RCPT", "@gone.example", "550 5.1.1 nobody is here");
    (instance, sink)
}

#[test]
fn who_asks_is_told_and_nobody_else() {
    let (instance, _sink) = prepared();
    instance.start();
    for (recipient, parameters, words) in ASKED {
        let before = instance.mails("me");
        let mut client = instance.client();
        client.transaction(
            &[
                "EHLO x.example",
                "MAIL FROM:<me@box.example> RET=FULL ENVID=id+3D1",
                &format!("RCPT TO:<{recipient}> {parameters}"),
            ],
            b"Subject: s\r\n\r\nthe body\r\n.\r\n",
            250,
        );
        instance.until_empty();
        let mails = instance.until_mails("me", before.len() + usize::from(!words.is_empty()));
        let report = mails.iter().find(|mail| !before.contains(mail)).cloned().unwrap_or_default();
        for word in words {
            assert!(report.contains(word), "{recipient} {parameters}: {word}\n{report}");
        }
    }
    // Headers only.
    let before = instance.mails("me");
    let mut client = instance.client();
    client.transaction(
        &["EHLO x.example", "MAIL FROM:<me@box.example> RET=HDRS", "RCPT TO:<x@gone.example>"],
        b"Subject: s\r\n\r\nthe body\r\n.\r\n",
        250,
    );
    let notice = new_mail(&instance, "me", &before);
    assert!(notice.contains("text/rfc822-headers") && !notice.contains("the body"), "{notice}");
    // The report of a whole attempt.
    let recipients = ["one@box.example", "x@gone.example", "x@plain.example"];
    let said = instance.run_with("sendmail", &[&["-v", "-f", "two@box.example"], &recipients[..]].concat(), MESSAGE);
    assert_eq!(said.code, 0, "{said:?}");
    let mails = instance.until_mails("two", 3);
    let report = mails.iter().find(|mail| mail.contains("Subject: Mail Delivery Status Report")).expect("a report");
    for word in ["Action: delivered\n", "Action: failed\n", "Action: relayed\n"] {
        assert!(report.contains(word), "{word}: {report}");
    }
}

#[test]
fn a_delay_is_told_and_its_end() {
    let (mut instance, sink) = prepared();
    sink.rule("RCPT", "@later.example", "450 4.2.0 not now");
    for (name, value) in [
        ("delay_warning_time", "1s"),
        ("confirm_delay_cleared", "yes"),
        ("notify_classes", "delay"),
        ("delay_notice_recipient", "one@box.example"),
        ("minimal_backoff_time", "1s"),
        ("maximal_backoff_time", "1s"),
        ("queue_run_delay", "1s"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    instance.client().mail("me@box.example", &["x@later.example"], MESSAGE).unwrap();
    let warning = instance.until_mails("me", 1).remove(0);
    for word in
        ["Subject: Delayed Mail (still being retried)", "Action: delayed\n", "Will-Retry-Until: ", "450 4.2.0 not now"]
    {
        assert!(warning.contains(word), "{word}: {warning}");
    }
    let copy = instance.until_mails("one", 1).remove(0);
    assert!(copy.contains("Subject: Postmaster Warning: Delayed Mail"), "{copy}");
    sink.accept_all();
    instance.until_empty();
    let mails = instance.until_mails("me", 2);
    assert!(
        mails.iter().any(|mail| mail.contains("Action: relayed\n") || mail.contains("Action: delivered\n")),
        "{mails:?}"
    );
}

#[test]
fn verp_over_smtp() {
    let (mut instance, sink) = prepared();
    instance.set("smtpd_authorized_verp_clients", "127.0.0.0/8");
    instance.set("recipient_delimiter", "+");
    instance.start();
    let mut client = instance.client();
    let said = client.expect("EHLO x.example", 250);
    assert!(said.lines.iter().any(|line| line.contains("XVERP")), "{said:?}");
    client.transaction(
        &["MAIL FROM:<me@box.example> XVERP", "RCPT TO:<joe@far.example>", "RCPT TO:<x@gone.example>"],
        b"Subject: s\r\n\r\nthe body\r\n.\r\n",
        250,
    );
    instance.until("the message", || sink.count() == 1);
    assert!(sink.taken()[0].sender.starts_with("<me+joe=far.example@box.example>"), "{}", sink.taken()[0].text());
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(
        notice.contains("X-Original-To: me+x=gone.example@box.example\n")
            || notice.contains("To: me+x=gone.example@box.example\n"),
        "{notice}"
    );
    // Odd delimiters are refused.
    client.expect("MAIL FROM:<me@box.example> XVERP=aa", 501);
}

#[test]
fn reports_about_addresses_in_utf8() {
    let (mut instance, sink) = prepared();
    instance.set("smtputf8_enable", "yes");
    sink.accept_all();
    sink.rule("EHLO", "", "250-sink.example\r\n250-8BITMIME\r\n250 SMTPUTF8");
    sink.rule("RCPT", "山@例え.example", "550 5.1.1 知りません");
    instance.start();
    let mut client = instance.client();
    client.expect("EHLO x.example", 250);
    client.expect("MAIL FROM:<me@box.example> SMTPUTF8", 250);
    client.expect("RCPT TO:<山@例え.example>", 250);
    client.expect("DATA", 354);
    client.send("Subject: 題\r\n\r\nthe body\r\n.\r\n".as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    let notice = instance.until_mails("me", 1).remove(0);
    for word in [
        "Content-Type: message/global-delivery-status\n",
        "Final-Recipient: utf-8; 山@例え.example\n",
        "550 5.1.1 知りません",
        "Content-Type: message/global\n",
        "Subject: 題\n",
    ] {
        assert!(notice.contains(word), "{word}: {notice}");
    }
}

/// Parameters that have nothing to do here are read and cause no alarm.
#[test]
fn old_formats_of_files_that_do_not_exist() {
    let mut instance = Instance::new();
    instance.set("backwards_bounce_logfile_compatibility", "no");
    let said = instance.postfix("check");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(instance.ok("postconf", &["-h", "backwards_bounce_logfile_compatibility"]), "no\n");
}

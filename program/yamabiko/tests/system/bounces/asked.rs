//! What people ask for, with the lines of docs/bounces.md.

use crate::harness::{Instance, Sink};

use super::new_mail;

const MESSAGE: &str = "Subject: s\n\nthe body\n";

/// A system with these lines; `x@gone.example` is refused by the next hop, `x@later.example` for now.
fn with(lines: &[(&str, &str)]) -> (Instance, Sink) {
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "@gone.example", "550 5.1.1 nobody is here");
    sink.rule("RCPT", "@later.example", "450 4.2.0 not now");
    for (name, value) in lines {
        instance.set(name, value);
    }
    instance.start();
    (instance, sink)
}

fn send(instance: &Instance, sender: &str, recipient: &str) {
    let said = instance.client().mail(sender, &[recipient], MESSAGE).unwrap();
    assert_eq!(said.code, 250, "{said:?}");
}

fn nonsense(instance: &Instance) {
    let mut client = instance.client();
    client.expect("EHLO x.example", 250);
    client.expect("NONSENSE", 500);
    client.expect("QUIT", 221);
}

#[test]
fn copies_of_bounces() {
    let (mut instance, _sink) =
        with(&[("notify_classes", "bounce, resource, software"), ("bounce_notice_recipient", "one@box.example")]);
    send(&instance, "me@box.example", "x@gone.example");
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("\nthe body\n"), "{notice}");
    let copy = instance.until_mails("one", 1).remove(0);
    for line in [
        "Return-Path: <double-bounce@mx.test.example>\n",
        "\nSubject: Postmaster Copy: Undelivered Mail\n",
        "\nSubject: s\n",
    ] {
        assert!(copy.contains(line), "{line}: {copy}");
    }
    assert!(!copy.contains("the body"), "{copy}");
    // Only bounces: nothing of other trouble.
    instance.set("notify_classes", "bounce");
    instance.set("error_notice_recipient", "two@box.example");
    instance.reload();
    nonsense(&instance);
    send(&instance, "me@box.example", "x@gone.example");
    instance.until_mails("one", 2);
    instance.until_empty();
    assert!(instance.mails("two").is_empty());
}

#[test]
fn name_and_domain_of_the_sender() {
    let (instance, _sink) = with(&[("bounce_from_user", "postmaster"), ("bounce_from_domain", "example.jp")]);
    send(&instance, "me@box.example", "x@gone.example");
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.starts_with("Return-Path: <>\n"), "{notice}");
    assert!(notice.contains("\nFrom: Mail Delivery System <postmaster@example.jp>\n"), "{notice}");
}

#[test]
fn where_double_bounces_go() {
    for classes in ["bounce", "2bounce"] {
        let (mut instance, _sink) =
            with(&[("notify_classes", classes), ("2bounce_notice_recipient", "two@box.example")]);
        send(&instance, "", "x@gone.example");
        let notice = instance.until_mails("two", 1).remove(0);
        assert!(
            notice.contains("\nSubject: Postmaster Copy: Undelivered Mail\n") && notice.contains("\nthe body\n"),
            "{notice}"
        );
        instance.set("2bounce_notice_recipient", "x@gone.example");
        instance.reload();
        send(&instance, "", "x@gone.example");
        instance.until("the end", || instance.log().contains("undeliverable postmaster notification discarded"));
        instance.until_empty();
    }
}

#[test]
fn at_once_without_another_attempt() {
    let (instance, sink) = with(&[("maximal_queue_lifetime", "0"), ("bounce_queue_lifetime", "0")]);
    send(&instance, "me@box.example", "x@later.example");
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("Status: 4.2.0\n") && notice.contains("450 4.2.0 not now"), "{notice}");
    // Notices too: one attempt.
    send(&instance, "y@later.example", "x@gone.example");
    instance.until_empty();
    assert_eq!(sink.count(), 0);
}

#[test]
fn who_is_not_there_is_refused_and_not_told_of() {
    let (mut instance, sink) = with(&[("unknown_virtual_mailbox_reject_code", "550")]);
    instance
        .client()
        .mail("x@far.example", &["nobody@box.example"], MESSAGE)
        .map(|said| assert_eq!(said.code, 550))
        .unwrap();
    instance.set("soft_bounce", "yes");
    instance.reload();
    instance
        .client()
        .mail("x@far.example", &["nobody@box.example"], MESSAGE)
        .map(|said| assert_eq!(said.code, 450))
        .unwrap();
    send(&instance, "me@box.example", "x@gone.example");
    instance.until_queued("deferred", 1);
    assert!(sink.taken().is_empty() && instance.mails("me").is_empty());
}

#[test]
fn notices_that_are_too_large() {
    let (mut instance, sink) = with(&[("bounce_size_limit", "50000")]);
    let large = format!("Subject: s\n\nthe body\n{}", "a line of it\n".repeat(500));
    // The receiver of the notice wants less than that, or has room for a little yet.
    for (number, reply) in
        ["552 5.3.4 Message too big", "550 5.2.3 Message too big", "550 5.2.2 over quota"].iter().enumerate()
    {
        sink.accept_all();
        sink.rule("RCPT", "@gone.example", "550 5.1.1 nobody is here");
        sink.rule("EOD", "the body", reply);
        assert_eq!(instance.client().mail("me@far.example", &["x@gone.example"], &large).unwrap().code, 250);
        instance.until("the smaller notice", || sink.count() == number + 1);
        let notice = sink.taken()[number].content.clone();
        assert!(notice.contains("Content-Type: text/rfc822-headers") && notice.contains("\nSubject: s\n"), "{notice}");
        let told = "too large for its recipient: sent again with the headers of the message only";
        instance.until("the log", || instance.log().matches(told).count() == number + 1);
    }
    sink.accept_all();
    sink.rule("RCPT", "@gone.example", "550 5.1.1 nobody is here");
    instance.set("bounce_size_limit", "100");
    instance.reload();
    let before = instance.mails("me");
    send(&instance, "me@box.example", "x@gone.example");
    let notice = new_mail(&instance, "me", &before);
    assert!(notice.contains("text/rfc822-headers") && !notice.contains("the body"), "{notice}");
    // A message that just fits makes a notice that does not.
    instance.set("bounce_size_limit", "50000");
    instance.set("message_size_limit", "8000");
    instance.reload();
    let before = instance.mails("me");
    assert_eq!(instance.client().mail("me@box.example", &["x@gone.example"], &large).unwrap().code, 250);
    let notice = new_mail(&instance, "me", &before);
    assert!(notice.contains("text/rfc822-headers") && !notice.contains("the body"), "{notice}");
    assert!(instance.log().contains("larger than message_size_limit: sent with the headers of the message only"));
}

/// As in notes from Japan: `TZ`, if the machine itself has another zone.
#[test]
fn dates_are_those_of_the_zone() {
    let (instance, _sink) = with(&[("import_environment", "TZ=Asia/Tokyo")]);
    send(&instance, "me@box.example", "x@gone.example");
    let notice = instance.until_mails("me", 1).remove(0);
    for field in ["\nDate: ", "\nArrival-Date: "] {
        let value = notice.split_once(field).and_then(|(_, rest)| rest.lines().next()).unwrap_or_default();
        assert!(value.ends_with(" +0900 (JST)"), "{field}{value}");
    }
}

/// Notices come from nobody: there is nobody to ask about.
#[test]
fn unverified_senders_are_not_the_senders_of_notices() {
    let (instance, sink) = with(&[("smtpd_sender_restrictions", "reject_unverified_sender")]);
    sink.rule("RCPT", "forged@", "550 5.1.1 never heard of");
    send(&instance, "", "me@box.example");
    instance.until_mails("me", 1);
    instance.until("an answer about the other", || {
        instance.client().mail("forged@far.example", &["me@box.example"], MESSAGE).unwrap().code == 450
            && instance.log().contains("never heard of")
    });
}

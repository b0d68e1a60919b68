//! Operators who change a message while it is being delivered: nothing is delivered twice, nothing is lost.

use std::time::Duration;

use crate::harness::{Instance, Sink, fits};

const MESSAGE: &str = "Subject: hello\n\nbody\n";

fn send(instance: &Instance, sender: &str, recipients: &[&str]) -> String {
    let reply = instance.client().mail(sender, recipients, MESSAGE).unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    reply.lines[0].rsplit(' ').next().unwrap().to_owned()
}

/// With a next hop that takes its time, and a message on its way there.
fn on_its_way() -> (Instance, Sink, String) {
    let instance = Instance::started();
    let sink = Sink::start(instance.next_hop);
    sink.slow(Duration::from_secs(3));
    let id = send(&instance, "me@box.example", &["one@far.example"]);
    instance.until_queued("active", 1);
    (instance, sink, id)
}

#[test]
fn held_while_it_is_delivered_it_is_not_delivered_again() {
    let (instance, sink, id) = on_its_way();
    instance.ok("postsuper", &["-h", &id]);
    assert_eq!(instance.queue()[0].queue, "hold");
    instance.until("the delivery", || sink.count() == 1);
    instance.until("its log line", || instance.log().contains("status=sent"));
    instance.ok("postsuper", &["-H", &id]);
    instance.until_empty();
    assert_eq!(sink.count(), 1);
}

#[test]
fn released_at_once_it_is_not_delivered_again() {
    let (instance, sink, id) = on_its_way();
    instance.ok("postsuper", &["-h", &id]);
    instance.ok("postsuper", &["-H", &id]);
    instance.until_empty();
    assert_eq!(sink.count(), 1);
}

#[test]
fn requeued_while_it_is_delivered_it_is_not_delivered_again() {
    let (instance, sink, id) = on_its_way();
    instance.ok("postsuper", &["-r", &id]);
    instance.until_empty();
    assert_eq!(sink.count(), 1, "{}", instance.log());
}

#[test]
fn expired_while_it_is_delivered_it_is_not_returned() {
    let (instance, sink, id) = on_its_way();
    instance.ok("postsuper", &["-f", &id]);
    instance.until_empty();
    assert_eq!(sink.count(), 1);
    assert!(instance.mails("me").is_empty(), "{}", instance.log());
}

#[test]
fn deleted_while_it_is_delivered_it_is_gone() {
    let (instance, sink, id) = on_its_way();
    instance.ok("postsuper", &["-d", &id]);
    instance.until_empty();
    instance.until("the delivery", || sink.count() == 1);
    instance.ok("postqueue", &["-f"]);
    instance.until_empty();
}

#[test]
fn expired_mail_goes_back_without_another_attempt() {
    let mut instance = Instance::new();
    instance.set("smtpd_recipient_restrictions", "check_recipient_access inline:{kept@far.example=HOLD}");
    instance.start();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "late@", "451 4.2.0 come back later");
    send(&instance, "one@box.example", &["late@far.example"]);
    let kept = send(&instance, "two@box.example", &["kept@far.example"]);
    instance.until_queued("deferred", 1);
    instance.until_queued("hold", 1);
    sink.accept_all();
    // `-e` leaves held mail where it is.
    instance.ok("postsuper", &["-e", &kept]);
    instance.ok("postqueue", &["-f"]);
    instance.until("the one that was flushed", || sink.count() == 1);
    sink.rule("RCPT", "late@", "451 4.2.0 come back later");
    let late = send(&instance, "one@box.example", &["late@far.example"]);
    instance.until_queued("deferred", 1);
    sink.accept_all();
    let before = sink.count();
    assert_eq!(instance.queue().iter().filter(|entry| entry.queue == "hold").count(), 1);
    instance.ok("postsuper", &["-f", &late]);
    let notice = instance.until_mails("one", 1).remove(0);
    assert!(fits("*Action: failed\n*", &notice) && notice.contains("come back later"), "{notice}");
    instance.ok("postsuper", &["-f", &kept]);
    let notice = instance.until_mails("two", 1).remove(0);
    assert!(notice.contains("message is administratively expired"), "{notice}");
    instance.until_empty();
    assert_eq!(sink.count(), before);
    assert!(instance.log().contains("status=force-expired, returned to sender"), "{}", instance.log());
}

#[test]
fn a_probe_delivers_nothing_and_is_answered_once() {
    let instance = Instance::started();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "gone@", "550 5.1.1 no such user here");
    sink.rule("RCPT", "late@", "451 4.2.0 come back later");
    let recipients = ["one@box.example", "there@far.example", "gone@far.example", "late@far.example"];
    instance.ok("sendmail", &[&["-f", "me@box.example", "-bv"], &recipients[..]].concat());
    instance.until_empty();
    let mails = instance.until_mails("me", 1);
    assert_eq!(mails.len(), 1, "{mails:?}");
    for recipient in recipients {
        assert!(mails[0].contains(&format!("Final-Recipient: rfc822; {recipient}\n")), "{recipient}: {}", mails[0]);
    }
    assert_eq!(mails[0].matches("Action: deliverable\n").count(), 2, "{}", mails[0]);
    assert_eq!(mails[0].matches("Action: undeliverable\n").count(), 2, "{}", mails[0]);
    assert!(instance.mails("one").is_empty());
    assert_eq!(sink.count(), 0);
}

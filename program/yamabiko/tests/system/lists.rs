//! Aliases whose members fare differently: each gets the mail once, whatever becomes of the others, over attempts and
//! restarts; whoever wrote hears of each that failed once.

use crate::harness::{Instance, Sink};

/// Kept from a list's members: a file, a command that asks for patience, nobody, and an address elsewhere.
fn with_list() -> Instance {
    let mut instance = Instance::new();
    let dir = instance.path().display().to_string();
    // A command of its own for each attempt: nothing is held back by the schedule of the list.
    let patient = format!("|cat >/dev/null; test -e {dir}/box/ready || exit 75; echo came >>{dir}/box/command");
    instance
        .file("aliases", &format!("list: {dir}/box/file, \"{patient}\", nobody-here@local.example, one@far.example\n"));
    for (name, value) in [
        ("mydestination", "local.example"),
        ("alias_maps", &format!("texthash:{dir}/etc/aliases")),
        ("local_recipient_maps", ""),
        ("mail_spool_directory", &format!("{dir}/box")),
        ("minimal_backoff_time", "1h"),
        ("notify_classes", ""),
    ] {
        instance.set(name, value);
    }
    instance
}

/// How often the message is in the file.
fn copies(instance: &Instance) -> usize {
    std::fs::read_to_string(instance.path().join("box/file")).unwrap_or_default().matches("Subject: news").count()
}

fn attempts(instance: &Instance) -> usize {
    instance.log().matches("status=deferred").count()
}

#[test]
fn members_that_have_the_mail_do_not_get_it_again() {
    let instance = with_list();
    instance.start();
    let sink = Sink::start(instance.next_hop);
    let sent = instance.client().mail("me@box.example", &["list@local.example"], "Subject: news\n\ntext\n").unwrap();
    assert_eq!(sent.code, 250);
    instance.until("the first attempt", || attempts(&instance) == 1);
    instance.until_queued("deferred", 1);
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("<nobody-here@local.example>") && notice.contains("unknown user"), "{notice}");
    for attempt in 2..4 {
        instance.stop();
        instance.start();
        instance.ok("postqueue", &["-f"]);
        instance.until("another attempt", || attempts(&instance) == attempt);
        instance.until_queued("deferred", 1);
    }
    assert_eq!((copies(&instance), sink.count(), instance.mails("me").len()), (1, 0, 1), "{}", instance.log());
    std::fs::write(instance.path().join("box/ready"), "").unwrap();
    instance.ok("postqueue", &["-f"]);
    instance.until("what is sent on", || sink.count() == 1);
    instance.until_empty();
    let command = std::fs::read_to_string(instance.path().join("box/command")).unwrap();
    assert_eq!((copies(&instance), command.as_str(), sink.count()), (1, "came\n", 1), "{}", instance.log());
    assert_eq!(instance.mails("me").len(), 1, "{}", instance.log());
}

#[test]
fn the_sender_hears_of_a_member_that_is_nobody() {
    let instance = with_list();
    std::fs::write(instance.path().join("box/ready"), "").unwrap();
    instance.start();
    let _sink = Sink::start(instance.next_hop);
    instance.client().mail("me@box.example", &["list@local.example"], "Subject: news\n\ntext\n").unwrap();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("<nobody-here@local.example>") && notice.contains("unknown user"), "{notice}");
    instance.until_empty();
}

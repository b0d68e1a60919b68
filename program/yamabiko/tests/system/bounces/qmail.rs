//! qmail's ways in the running program: control files, QSBMF, double and triple bounces, VERP, and what the commands of
//! `.qmail` files answer.

use std::fs;

use crate::disk::in_own_mounts;
use crate::harness::{Instance, Sink};

use super::{at_home, new_mail, users};

/// A message to somebody who is not there; the notice in the mailbox of its sender.
fn bounced(instance: &Instance) -> String {
    let before = instance.mails("me");
    let said = instance.client().mail("me@box.example", &["x@gone.example"], "Subject: s\n\nbody\n").unwrap();
    assert_eq!(said.code, 250, "{said:?}");
    new_mail(instance, "me", &before)
}

fn with_controls() -> Instance {
    let mut instance = Instance::new();
    let control = instance.etc().join("control");
    fs::create_dir(&control).unwrap();
    instance.set("qmail_control_directory", control.to_str().unwrap());
    instance.set("bounce_style", "qmail");
    instance.set("smtpd_reject_unlisted_recipient", "no");
    instance.set(
        "transport_maps",
        "inline:{ {gone.example=error:5.1.1 nobody is here} {later.example=retry:4.3.2 later} }",
    );
    instance
}

/// Files of the control directory, and the lines that a notice then has.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

const SINGLE: [Case; 7] = [
    (&[], &["\nFrom: MAILER-DAEMON@mx.test.example\n", "\nHi. This is the qmail-send program at mx.test.example.\n"]),
    (
        &[("bouncefrom", "postmaster\n")],
        &["\nFrom: postmaster@mx.test.example\n", "\nHi. This is the qmail-send program at mx.test.example.\n"],
    ),
    (
        &[("bouncehost", "example.com\n")],
        &["\nFrom: MAILER-DAEMON@example.com\n", "\nHi. This is the qmail-send program at example.com.\n"],
    ),
    (
        &[("bouncefrom", "postmaster \t\nnot this\n"), ("bouncehost", "example.com")],
        &["\nFrom: postmaster@example.com\n", "\nHi. This is the qmail-send program at example.com.\n"],
    ),
    (
        &[("me", "me.example\n")],
        &["\nFrom: MAILER-DAEMON@me.example\n", "\nHi. This is the qmail-send program at me.example.\n"],
    ),
    (&[("me", "me.example\n"), ("bouncehost", "example.com\n")], &["\nFrom: MAILER-DAEMON@example.com\n"]),
    // As in a note: the host is written into the wrong file.
    (
        &[("bouncefrom", "example.com\n")],
        &[
            "\nFrom: example.com@mx.test.example\n",
            "\nTo: me@box.example\n",
            "\nSubject: failure notice\n",
            "\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\n",
            "\n<x@gone.example>:\n",
            "\n--- Below this line is a copy of the message.\n\nReturn-Path: <me@box.example>\n",
            "\nSubject: s\n\nbody\n",
        ],
    ),
];

fn put(instance: &Instance, files: &[(&str, &str)]) {
    let control = instance.etc().join("control");
    for entry in fs::read_dir(&control).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    for (name, text) in files {
        fs::write(control.join(name), text).unwrap();
    }
}

#[test]
fn single_bounces_are_as_the_control_files_say() {
    let instance = with_controls();
    instance.start();
    for (files, lines) in SINGLE {
        put(&instance, files);
        instance.reload();
        let notice = bounced(&instance);
        assert!(notice.starts_with("Return-Path: <>\n"), "{notice}");
        for line in lines {
            assert!(notice.contains(line), "{files:?}: {line:?}\n{notice}");
        }
    }
    instance.until_empty();
}

/// Files, and whose mailbox the double bounce is in.
const DOUBLE: [(&[(&str, &str)], &str); 5] = [
    (&[("doublebounceto", "one\n"), ("doublebouncehost", "box.example\n")], "one"),
    (&[("doublebounceto", "two\n"), ("me", "box.example\n")], "two"),
    (&[("doublebouncehost", "box.example\n")], "postmaster"),
    (&[("bouncehost", "example.com\n"), ("doublebounceto", "four"), ("doublebouncehost", "BOX.example")], "four"),
    // Neither file: 2bounce_notice_recipient.
    (&[], "three"),
];

#[test]
fn double_bounces_go_where_the_control_files_say_and_triple_ones_nowhere() {
    let mut instance = with_controls();
    instance.file(
        "boxes",
        "me@box.example me/\none@box.example one/\ntwo@box.example two/\nthree@box.example three/\nfour@box.example \
         four/\npostmaster@box.example postmaster/\n",
    );
    // What main.cf says counts before the files, so that only the case without files has it.
    instance.start();
    for (files, to) in DOUBLE {
        if files.is_empty() {
            instance.set("2bounce_notice_recipient", "three@box.example");
        }
        put(&instance, files);
        instance.reload();
        let said = instance.client().mail("", &["x@gone.example"], "Subject: bounce\n\nthe first notice\n").unwrap();
        assert_eq!(said.code, 250, "{said:?}");
        let notice = instance.until_mails(to, 1).remove(0);
        for line in [
            "Return-Path: <#@[]>\n",
            "\nI tried to deliver a bounce message to this address, but the bounce bounced!\n",
            "\n--- Below this line is the original bounce.\n\nReturn-Path: <>\n",
            "\nthe first notice\n",
        ] {
            assert!(notice.contains(line), "{files:?}: {line:?}\n{notice}");
        }
        if files.is_empty() {
            let log = instance.log();
            instance.set("bounce_from_user", "somebody");
            put(&instance, &[("bouncefrom", "else\n"), ("doublebounceto", "one\n")]);
            instance.reload();
            let log = instance.log()[log.len()..].to_owned();
            for line in [
                "bouncefrom: it is not used, because main.cf has bounce_from_user",
                "doublebounceto: it is not used, because main.cf has 2bounce_notice_recipient",
            ] {
                assert!(log.contains(line), "{line}: {log}");
            }
            assert!(bounced(&instance).contains("\nFrom: somebody@mx.test.example\n"));
            triple(&mut instance);
        }
    }
}

/// A double bounce that bounces, and mail from its sender.
fn triple(instance: &mut Instance) {
    instance.set("2bounce_notice_recipient", "x@gone.example");
    instance.reload();
    instance.client().mail("", &["x@gone.example"], "Subject: bounce\n\nthe first notice\n").unwrap();
    let dropped = |instance: &Instance| instance.log().matches("triple bounce: discarding bounce/").count();
    instance.until("the end of the double bounce", || dropped(instance) == 1);
    let said = instance.run_with("sendmail", &["-f", "#@[]", "x@gone.example"], "Subject: x\n\nx\n");
    assert_eq!(said.code, 0, "{said:?}");
    instance.until("the end of the triple bounce", || dropped(instance) == 2);
    instance.until_empty();
}

/// `queuelifetime`: when mail that waits fails.
#[test]
fn mail_waits_as_long_as_the_control_file_says() {
    let mut instance = with_controls();
    instance.start();
    let send = |instance: &Instance| {
        instance.client().mail("me@box.example", &["x@later.example"], "Subject: s\n\nbody\n").unwrap();
    };
    send(&instance);
    instance.until_queued("deferred", 1);
    instance.ok("postsuper", &["-d", "ALL"]);
    put(&instance, &[("queuelifetime", "0\n")]);
    instance.reload();
    send(&instance);
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("\n<x@later.example>:\n"), "{notice}");
    assert!(instance.log().contains("status=expired, returned to sender"), "{}", instance.log());
    // For notices too.
    instance.client().mail("", &["x@later.example"], "Subject: s\n\nbody\n").unwrap();
    instance.until_empty();
    instance.set("maximal_queue_lifetime", "1d");
    instance.reload();
    assert!(instance.log().contains("queuelifetime: it is not used, because main.cf has maximal_queue_lifetime"));
    send(&instance);
    instance.until_queued("deferred", 1);
}

#[test]
fn odd_files_of_the_control_directory_are_named() {
    let instance = with_controls();
    let files = [
        ("\"doublebounceto", "root\n"),
        ("BounceHost", "x\n"),
        ("bouncefrom.bak", "x\n"),
        ("bouncehost", "a@b.example\n"),
        ("queuelifetime", "a week\n"),
        ("smtproutes", ":relay.example\n"),
        ("locals", "x.example\n"),
    ];
    put(&instance, &files);
    fs::create_dir(instance.etc().join("control/directory")).unwrap();
    fs::create_dir(instance.etc().join("control/doublebounceto")).unwrap();
    std::os::unix::fs::symlink("/no/such/file", instance.etc().join("control/doublebouncehost")).unwrap();
    let said = instance.postfix("check").err;
    instance.start();
    let log = instance.log();
    for line in [
        r#""\"doublebounceto": odd file name, it is not read: rename it to doublebounceto if that is meant"#,
        r#""BounceHost": odd file name, it is not read: rename it to bouncehost if that is meant"#,
        r#""bouncefrom.bak": not a control file of qmail's, it is not read"#,
        r#"bouncehost: "a@b.example" is no user or host name"#,
        "queuelifetime: a number of seconds is expected; it has no effect",
        "control/doublebounceto: it is not a file and has no effect",
        "control/doublebouncehost: it is not a file and has no effect",
        "these files are not read, what stands for them in main.cf is in parentheses: locals (mydestination), smtproutes \
         (transport_maps)",
    ] {
        assert!(said.contains(line), "check: {line}\n{said}");
        assert!(log.contains(line), "log: {line}\n{log}");
    }
}

/// `prefix-@host-@[]`: each recipient has a sender of its own.
#[test]
fn verp_as_qmail_writes_it() {
    let mut instance = with_controls();
    let sink = Sink::start(instance.next_hop);
    instance.start();
    let args = ["-f", "list-@box.example-@[]", "joe@far.example", "ann@else.example"];
    let said = instance.run_with("sendmail", &args, "Subject: x\n\nx\n");
    assert_eq!(said.code, 0, "{said:?}");
    instance.until("both", || sink.count() == 2);
    let mut senders: Vec<String> = sink.taken().iter().map(|mail| mail.sender.clone()).collect();
    senders.sort();
    let expected = ["<list-ann=else.example@box.example>", "<list-joe=far.example@box.example>"];
    assert!(senders.iter().zip(expected).all(|(is, should)| is.starts_with(should)), "{senders:?}");
    // A bounce comes back to the address that says whom it is about; a notice of ours goes there too.
    instance.set("virtual_mailbox_maps", "");
    instance.set("virtual_mailbox_domains", "");
    instance.reload();
    let said = instance.run_with("sendmail", &["-f", "list-@back.example-@[]", "x@gone.example"], "Subject: x\n\nx\n");
    assert_eq!(said.code, 0, "{said:?}");
    instance.until("the notice", || sink.count() == 3);
    let to = &sink.taken()[2].recipients[0];
    assert!(to.starts_with("<list-x=gone.example@back.example>"), "{to}");
    instance.until_empty();
}

#[test]
fn a_qmqp_service_is_refused_by_name() {
    let mut instance = Instance::new();
    instance.services.push("628 inet n - n - - qmqpd".to_owned());
    instance.write();
    let said = instance.postfix("check");
    assert!(said.err.contains("qmqpd"), "{said:?}");
}

enum End {
    /// With this in the reason.
    Bounced(&'static str),
    Deferred(&'static str),
    /// And what ended up in the mailbox: this many mails.
    Sent(usize),
}
use End::{Bounced, Deferred, Sent};

const BODY: &str = "From: x@spam.com\nSubject: s\n\nthis is the text\n";

/// A `.qmail` file, and what becomes of a message. `./MailBox` is the last line of each.
const LINES: [(&str, &str, End); 42] = [
    ("alone", "|bouncesaying 'go away'", Bounced("go away")),
    ("zero", "|bouncesaying 'go away' true", Bounced("go away")),
    ("one", "|bouncesaying 'go away' false", Sent(1)),
    ("temp", "|bouncesaying 'go away' sh -c 'exit 111'", Deferred("bouncesaying: fatal: temporary child error")),
    ("hundred", "|bouncesaying 'go away' sh -c 'exit 100'", Sent(1)),
    ("nnine", "|bouncesaying 'go away' sh -c 'exit 99'", Sent(1)),
    ("crash", "|bouncesaying 'go away' sh -c 'kill -9 $$'", Deferred("bouncesaying: fatal: child crashed")),
    ("nocmd", "|bouncesaying 'go away' /does/not/exist", Sent(1)),
    ("usage", "|bouncesaying", Bounced("usage: bouncesaying error [ program [ arg ... ] ]")),
    ("grep", "|bouncesaying 'no spam' grep '^From.*spam.com'", Bounced("no spam")),
    ("nogrep", "|bouncesaying 'no spam' grep '^From.*ham.com'", Sent(1)),
    ("grepbad", "|bouncesaying 'no spam' grep '['", Sent(1)),
    ("japanese", "|bouncesaying '受け取りを拒否します' true", Bounced("受け取りを拒否します")),
    ("status", "|bouncesaying 'Not wanted (#5.7.1)'", Bounced("dsn=5.7.1")),
    ("twice", "|bouncesaying 'first' false\n|bouncesaying 'second' true", Bounced("second")),
    ("except", "|except grep '^From.*spam.com'", Bounced("")),
    ("except1", "|except grep '^From.*ham.com'", Sent(1)),
    ("except111", "|except sh -c 'exit 111'", Deferred("")),
    ("redirect", "|condredirect me@box.example true", Sent(0)),
    ("redirect1", "|condredirect me@box.example false", Sent(1)),
    ("redirect111", "|condredirect me@box.example sh -c 'exit 111'", Deferred("")),
    ("forward", "|forward me@box.example", Sent(1)),
    ("preline", "|preline grep -q '^Delivered-To: alice-preline@here.example'", Sent(1)),
    ("exit0", "|exit 0", Sent(1)),
    ("exit99", "|exit 99", Sent(0)),
    ("exit100", "|echo sorry; exit 100", Bounced("sorry")),
    ("exit64", "|exit 64", Bounced("")),
    ("exit65", "|exit 65", Bounced("")),
    ("exit70", "|exit 70", Bounced("")),
    ("exit76", "|exit 76", Bounced("")),
    ("exit77", "|exit 77", Bounced("")),
    ("exit78", "|exit 78", Bounced("")),
    ("exit112", "|exit 112", Bounced("")),
    ("exit1", "|exit 1", Deferred("")),
    ("exit67", "|exit 67", Deferred("")),
    ("exit69", "|exit 69", Deferred("")),
    ("exit75", "|exit 75", Deferred("")),
    ("exit111", "|echo later; exit 111", Deferred("later")),
    ("killed", "|kill -9 $$", Deferred("")),
    ("both", "./MailBox", Sent(2)),
    ("blank", "", Deferred("Uh-oh: first line of .qmail file is blank. (#4.2.1)")),
    ("order", "./MailBox\n|exit 100", Bounced("")),
];

#[test]
fn every_answer_of_a_command_in_dot_qmail() {
    if !in_own_mounts("bounces::qmail::every_answer_of_a_command_in_dot_qmail") {
        return;
    }
    let mut instance = with_controls();
    users(&instance, &["alice"]);
    for (name, value) in [
        ("mydestination", "here.example"),
        ("local_recipient_maps", ""),
        ("local_delivery_style", "qmail"),
        ("recipient_delimiter", "-"),
        ("bounce_style", "postfix"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    let home = instance.path().join("homes/alice");
    let bin = instance.path().join("bin");
    // Ours before those of a Postfix that is installed here too.
    let surrounded = format!("|export MAIL_CONFIG={} PATH={}:$PATH; ", instance.etc().display(), bin.display());
    for (name, lines, _) in &LINES {
        let text = format!("{lines}\n./MailBox\n").replace("./MailBox\n", &format!("./MailBox-{name}\n"));
        at_home(&instance, "alice", &format!(".qmail-{name}"), &text.replace('|', &surrounded));
        let to = format!("alice-{name}@here.example");
        let said = instance.client().mail("sender@box.example", &[&to], BODY).unwrap();
        assert_eq!(said.code, 250, "{name}: {said:?}");
    }
    for (name, lines, end) in &LINES {
        let to = format!("to=<alice-{name}@here.example>,");
        let mut line = String::new();
        instance.until(name, || {
            line = instance.log().lines().find(|line| line.contains(&to)).unwrap_or_default().to_owned();
            !line.is_empty()
        });
        let (status, why, mails) = match end {
            Bounced(why) => ("status=bounced", *why, usize::from(*name == "order")),
            Deferred(why) => ("status=deferred", *why, 0),
            Sent(mails) => ("status=sent", "", *mails),
        };
        assert!(line.contains(status) && line.contains(why), "{lines}: {line}");
        let mailbox = fs::read_to_string(home.join(format!("MailBox-{name}"))).unwrap_or_default();
        assert_eq!(mailbox.matches("From sender@box.example ").count(), mails, "{lines}: {mailbox}");
    }
    // Where the names of our commands were laid they are found without a path.
    instance.set("command_directory", bin.to_str().unwrap());
    instance.reload();
    at_home(&instance, "alice", ".qmail-found", "|bouncesaying 'not wanted here'\n");
    instance.client().mail("sender@box.example", &["alice-found@here.example"], BODY).unwrap();
    instance.until("a refusal", || instance.log().contains("status=bounced (not wanted here"));
    // condredirect and forward sent theirs on.
    let on = instance.until_mails("me", 2);
    assert!(on.iter().all(|mail| mail.contains("this is the text")), "{on:?}");
}

/// `.qmail-list-owner` and `.qmail-list-owner-default`: whose name mail of a list goes on in, and who hears of failures.
#[test]
fn lists_of_dot_qmail_have_owners() {
    if !in_own_mounts("bounces::qmail::lists_of_dot_qmail_have_owners") {
        return;
    }
    let mut instance = with_controls();
    let sink = Sink::start(instance.next_hop);
    users(&instance, &["alice"]);
    for (name, value) in [
        ("mydestination", "here.example"),
        ("local_recipient_maps", ""),
        ("local_delivery_style", "qmail"),
        ("recipient_delimiter", "-"),
    ] {
        instance.set(name, value);
    }
    at_home(&instance, "alice", ".qmail-list", "&joe@far.example\n&x@gone.example\n");
    at_home(&instance, "alice", ".qmail-list-owner", "./owner\n");
    at_home(&instance, "alice", ".qmail-verp", "&joe@far.example\n&x@gone.example\n");
    at_home(&instance, "alice", ".qmail-verp-owner", "./verp-owner\n");
    at_home(&instance, "alice", ".qmail-verp-owner-default", "|cat >verp-$DEFAULT\n");
    instance.start();
    let home = instance.path().join("homes/alice");
    instance.client().mail("me@box.example", &["alice-list@here.example"], BODY).unwrap();
    instance.until("the owner's notice", || {
        fs::read_to_string(home.join("owner")).is_ok_and(|text| text.contains("<x@gone.example>:"))
    });
    instance.until("the member's copy", || sink.count() == 1);
    assert!(sink.taken()[0].sender.starts_with("<alice-list-owner@here.example>"), "{}", sink.taken()[0].text());
    instance.client().mail("me@box.example", &["alice-verp@here.example"], BODY).unwrap();
    let told = home.join("verp-x=gone.example");
    instance.until("the notice about one member", || {
        fs::read_to_string(&told).is_ok_and(|text| text.contains("<x@gone.example>:"))
    });
    instance.until("the member's copy", || sink.count() == 2);
    let sender = &sink.taken()[1].sender;
    assert!(sender.starts_with("<alice-verp-owner-joe=far.example@here.example>"), "{sender}");
    instance.until_empty();
    assert!(instance.mails("me").is_empty());
}

//! What an operator does with the queue, and what the commands show of it.

use std::time::Duration;

use yamabiko_ipc::control::{Caller, Operation, Reply, Request, What};

use crate::harness::{Instance, Sink, as_root, fits};

const MESSAGE: &str = "Subject: hello\n\nbody\n";

/// With a next hop that puts everything off.
fn unlucky() -> (Instance, Sink) {
    let instance = Instance::started();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "", "451 4.2.0 come back later");
    (instance, sink)
}

fn send(instance: &Instance, recipients: &[&str]) -> String {
    let reply = instance.client().mail("me@test.example", recipients, MESSAGE).unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    reply.lines[0].rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn deferred_mail_is_shown_and_flushed() {
    let (instance, sink) = unlucky();
    let id = send(&instance, &["one@far.example", "two@far.example"]);
    instance.until_queued("deferred", 1);
    let entry = &instance.queue()[0];
    assert_eq!((entry.id.as_str(), entry.sender.as_str()), (id.as_str(), "me@test.example"));
    assert_eq!(entry.recipients, ["one@far.example", "two@far.example"]);
    let shown = instance.ok("mailq", &[]);
    let lines: Vec<&str> = shown.lines().collect();
    for (line, pattern) in lines.iter().zip([
        "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------",
        &format!("{id}  * me@test.example"),
        "(host *said: 451 4.2.0 come back later (in reply to RCPT TO command))",
        "* one@far.example",
        "* two@far.example",
        "",
        "-- * Kbytes in 1 Request.",
    ]) {
        assert!(fits(pattern, line), "{pattern:?} {line:?}\n{shown}");
    }
    sink.accept_all();
    // One message, then one site, then all.
    instance.ok("postqueue", &["-i", &id]);
    instance.until_empty();
    assert_eq!(sink.taken()[0].recipients.len(), 2);
    sink.rule("RCPT", "", "451 4.2.0 come back later");
    send(&instance, &["three@far.example"]);
    send(&instance, &["four@near.example"]);
    instance.until_queued("deferred", 2);
    sink.accept_all();
    instance.ok("postqueue", &["-f"]);
    instance.until_empty();
    assert_eq!(sink.count(), 3);
    assert_eq!(instance.ok("mailq", &[]), "Mail queue is empty\n");
}

#[test]
fn hold_release_requeue_delete() {
    let (instance, sink) = unlucky();
    let first = send(&instance, &["one@far.example"]);
    let second = send(&instance, &["two@far.example"]);
    send(&instance, &["three@far.example"]);
    instance.until_queued("deferred", 3);
    sink.accept_all();
    let said = instance.run("postsuper", &["-h", &first]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (0, &*format!("postsuper: {first}: placed on hold\npostsuper: Placed on hold: 1 message\n"))
    );
    assert!(instance.ok("mailq", &[]).contains(&format!("{first}!")));
    instance.ok("postqueue", &["-f"]);
    instance.until("the others", || sink.count() == 2);
    instance.until("only the held one", || instance.queue().len() == 1);
    assert_eq!(instance.queue()[0].queue, "hold");
    instance.ok("postsuper", &["-H", &first]);
    instance.ok("postqueue", &["-f"]);
    instance.until("all three", || sink.count() == 3);
    instance.until_empty();

    sink.rule("RCPT", "", "451 4.2.0 come back later");
    let fourth = send(&instance, &["four@far.example"]);
    let fifth = send(&instance, &["five@far.example"]);
    instance.until_queued("deferred", 2);
    let said = instance.run("postsuper", &["-d", &fourth]);
    assert!(said.err.contains("Deleted: 1 message"), "{said:?}");
    let ids: Vec<String> = instance.queue().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, std::slice::from_ref(&fifth));
    sink.accept_all();
    let said = instance.run("postsuper", &["-r", &fifth]);
    assert!(said.err.contains("Requeued: 1 message"), "{said:?}");
    instance.until_empty();
    instance.until("the requeued one", || sink.count() == 4);
    let last = sink.taken().pop().unwrap();
    assert!(last.recipients[0].starts_with("<five@far.example>"), "{last:?}");
    assert!(
        !last.content.contains(&format!("id {fifth};")) || last.content.matches("Received:").count() == 2,
        "{}",
        last.content
    );
    // What is not there is not an error.
    let said = instance.run("postsuper", &["-d", &second]);
    assert_eq!((said.code, said.err.as_str()), (0, "postsuper: Deleted: 0 messages\n"), "{said:?}");
    let said = instance.run("postsuper", &["-d", "../../etc"]);
    assert!(said.err.contains("../../etc"), "{said:?}");
}

#[test]
fn every_state_has_its_mark() {
    let mut instance = Instance::new();
    instance.set("smtpd_recipient_restrictions", "check_recipient_access inline:{kept@far.example=HOLD}");
    instance.start();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "late@", "451 4.2.0 come back later");
    send(&instance, &["late@far.example"]);
    let reply = instance.client().mail("me@test.example", &["kept@far.example"], "Subject: keep\n\nx\n").unwrap();
    assert_eq!(reply.code, 250);
    sink.slow(Duration::from_secs(30));
    send(&instance, &["slow@far.example"]);
    instance.until_queued("active", 1);
    instance.until_queued("deferred", 1);
    let shown = instance.ok("postqueue", &["-p"]);
    for (who, mark) in [("late@", ' '), ("kept@", '!'), ("slow@", '*')] {
        let entry = shown.split("\n\n").find(|entry| entry.contains(who)).unwrap_or_else(|| panic!("{who}: {shown}"));
        let line = entry.lines().find(|line| line.contains("me@test.example")).unwrap();
        let id = line.split([' ', '*', '!']).next().unwrap();
        assert_eq!(line[id.len()..].chars().next(), Some(mark), "{shown}");
    }
    assert!(shown.trim_end().ends_with("Kbytes in 3 Requests."), "{shown}");
    instance.kill_all();
    // Down, what was active waits for the next start.
    let shown = instance.ok("mailq", &[]);
    assert!(shown.contains("slow@far.example") && shown.contains("kept@far.example"), "{shown}");
}

#[test]
fn mail_submitted_while_down_goes_out_after_the_start() {
    let instance = Instance::new();
    instance.start();
    instance.stop();
    let said = instance.run_with("sendmail", &["-f", "me@test.example", "one@box.example"], MESSAGE);
    assert_eq!(said.code, 0, "{said:?}");
    let shown = instance.ok("mailq", &[]);
    assert!(shown.contains("me@test.example"), "{shown}");
    assert!(instance.mails("one").is_empty());
    instance.start();
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("Subject: hello") && mails[0].ends_with("\n\nbody\n"), "{mails:?}");
    instance.until_empty();
}

#[test]
fn the_queue_is_worked_on_while_down() {
    let (instance, sink) = unlucky();
    let first = send(&instance, &["one@far.example"]);
    let second = send(&instance, &["two@far.example"]);
    let third = send(&instance, &["three@far.example"]);
    instance.until_queued("deferred", 3);
    instance.stop();
    assert_eq!(instance.queue().len(), 3);
    let said = instance.run("postsuper", &["-d", &first]);
    assert!(said.code == 0 && said.err.contains("Deleted: 1 message"), "{said:?}");
    let said = instance.run("postsuper", &["-h", &second]);
    assert!(said.code == 0 && said.err.contains("Placed on hold: 1 message"), "{said:?}");
    if as_root() {
        // Whatever root did, the files are the engine's.
        let foreign = instance.shell("find queue/queue -user root");
        assert_eq!(foreign.out, "", "{foreign:?}");
    }
    sink.accept_all();
    instance.start();
    instance.ok("postqueue", &["-f"]);
    instance.until("the third", || sink.count() == 1);
    let taken = sink.taken().remove(0);
    assert!(taken.recipients[0].starts_with("<three@far.example>"), "{third}: {taken:?}");
    instance.until("the held one", || instance.queue().len() == 1);
    assert_eq!((instance.queue()[0].queue.as_str(), instance.queue()[0].id.as_str()), ("hold", second.as_str()));
}

#[test]
fn postcat_shows_what_is_stored() {
    let (instance, _sink) = unlucky();
    let id = send(&instance, &["one@far.example"]);
    instance.until_queued("deferred", 1);
    for down in [false, true] {
        if down {
            instance.stop();
        }
        let shown = instance.ok("postcat", &["-q", &id]);
        for pattern in [
            "*ENVELOPE RECORDS*",
            "*sender: me@test.example*",
            "*recipient: one@far.example*",
            "*Subject: hello*",
            "*body*",
        ] {
            assert!(fits(pattern, &shown), "{pattern}: {shown}");
        }
        assert_eq!(instance.ok("postcat", &["-bhq", &id]).lines().last(), Some("body"));
    }
}

#[test]
fn mail_comes_back_when_it_cannot_be_delivered() {
    let instance = Instance::started();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "gone@", "550 5.1.1 no such user here");
    let reply = instance.client().mail("me@box.example", &["gone@far.example", "here@far.example"], MESSAGE).unwrap();
    assert_eq!(reply.code, 250);
    let notice = instance.until_mails("me", 1).remove(0);
    for pattern in [
        "*From: *MAILER-DAEMON@*",
        "*Subject: Undelivered Mail Returned to Sender\n*",
        "*Content-Type: multipart/report; report-type=delivery-status;*",
        "*Final-Recipient: rfc822; gone@far.example\n*",
        "*Action: failed\n*",
        "*Status: 5.1.1\n*",
        "*Diagnostic-Code: smtp; 550 5.1.1 no such user here\n*",
        "*Subject: hello\n*",
    ] {
        assert!(fits(pattern, &notice), "{pattern:?}\n{notice}");
    }
    assert!(!notice.contains("here@far.example\n"), "{notice}");
    instance.until_empty();
    assert!(sink.taken()[0].recipients[0].starts_with("<here@far.example>"));
    // A notice that cannot be delivered makes no notice.
    let reply = instance.client().mail("", &["gone@far.example"], MESSAGE).unwrap();
    assert_eq!(reply.code, 250);
    instance.until_empty();
    assert_eq!(instance.mails("me").len(), 1);
}

/// Somebody who may not.
#[test]
fn the_control_socket_knows_who_calls() {
    if !as_root() {
        // There is nobody else to call as.
        return;
    }
    let mut instance = Instance::new();
    instance.set("authorized_mailq_users", "!daemon, static:anyone");
    instance.set("authorized_flush_users", "!daemon, static:anyone");
    instance.set("authorized_submit_users", "!daemon, static:anyone");
    instance.start();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "", "451 4.2.0 come back later");
    let id = send(&instance, &["one@far.example"]);
    instance.until_queued("deferred", 1);
    let call = |user: &str, line: &str| {
        instance.shell(&format!("exec setpriv --reuid {user} --regid {user} --clear-groups {line}"))
    };
    for (line, words) in [
        ("mailq", "is not allowed to view the mail queue"),
        ("postqueue -f", "is not allowed to flush the mail queue"),
        (&format!("postsuper -d {id}"), "reserved for the superuser"),
        (&format!("postsuper -h {id}"), "reserved for the superuser"),
        ("sendmail x@far.example </dev/null", "is not allowed to submit mail"),
        (&format!("postcat -q {id}"), ""),
    ] {
        let said = call("daemon", line);
        assert!(said.code != 0 && said.err.contains(words), "{line}: {said:?}");
    }
    // `bin` may look and submit, and change nothing.
    let said = call("bin", "mailq");
    assert!(said.code == 0 && said.out.contains(&id), "{said:?}");
    let said = call("bin", &format!("postsuper -d {id}"));
    assert!(said.code != 0, "{said:?}");
    assert_eq!(instance.queue().len(), 1);
}

#[test]
fn mail_submitted_while_down_that_is_refused_goes_back() {
    let mut instance = Instance::new();
    instance.start();
    instance.stop();
    let text = format!("Subject: large\n\n{}", "0123456789\n".repeat(2000));
    let said = instance.run_with("sendmail", &["-f", "me@box.example", "one@box.example"], &text);
    assert_eq!(said.code, 0, "{said:?}");
    // Meanwhile somebody thinks otherwise of such mail.
    instance.set("message_size_limit", "10000");
    instance.start();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("too big") && notice.contains("one@box.example"), "{notice}");
    instance.until_empty();
    assert!(instance.mails("one").is_empty());
    assert_eq!(instance.shell("ls queue/maildrop").out, "");
}

/// Between the count of a change and the word that has it done messages are tried again, deleted, and come in: those that
/// were counted and are still meant are changed, each once, and no other.
#[test]
fn a_change_is_made_to_what_was_counted() {
    let (instance, sink) = unlucky();
    let ids: Vec<String> =
        ["one", "two", "three"].iter().map(|who| send(&instance, &[&format!("{who}@far.example")])).collect();
    instance.until_queued("deferred", 3);
    let words = vec!["reason=come back later".to_owned()];
    let ask = || {
        let request = Request::Select(What::Operate(Operation::Hold), words.clone());
        let mut caller = Caller::ask(&instance.path().join("queue"), request).unwrap();
        assert_eq!(caller.reply().unwrap(), Reply::Count(3));
        caller
    };
    // Somebody counts, and thinks better of it.
    drop(ask());
    let mut caller = ask();
    // The first rule that fits counts.
    sink.accept_all();
    sink.rule("RCPT", "two@", "452 4.2.2 mailbox full");
    sink.rule("RCPT", "", "451 4.2.0 come back later");
    instance.ok("postqueue", &["-i", &ids[1]]);
    instance.until("another reason", || instance.ok("mailq", &[]).contains("mailbox full"));
    instance.ok("postsuper", &["-d", &ids[2]]);
    send(&instance, &["four@far.example"]);
    instance.until_queued("deferred", 3);
    caller.go().unwrap();
    assert_eq!(caller.reply().unwrap(), Reply::Count(1));
    let held: Vec<String> =
        instance.queue().into_iter().filter(|entry| entry.queue == "hold").map(|entry| entry.id).collect();
    assert_eq!(held, std::slice::from_ref(&ids[0]));
    // The command does both, running and stopped.
    let queue = |words: &[&str]| instance.run("yamabiko", &[&["queue"], words].concat());
    let said = queue(&["release", "--yes", "reason=come back"]);
    assert_eq!((said.code, said.out.as_str()), (0, "2 messages match\nReleased from hold: 1 message\n"), "{said:?}");
    instance.until_queued("deferred", 3);
    let said = queue(&["delete", "reason=come back"]);
    assert_eq!((said.code, said.out.as_str()), (1, "2 messages match\n"), "{said:?}");
    instance.stop();
    let said = queue(&["delete", "--yes", "reason=come back"]);
    assert_eq!((said.code, said.out.as_str()), (0, "2 messages match\nDeleted: 2 messages\n"), "{said:?}");
    assert_eq!(instance.queue().len(), 1);
}

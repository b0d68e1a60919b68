//! What became of mail, as `yamabiko fate` says it: sent, refused, delivered, come back later, suppressed.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Instance, PATIENCE, Sink};

/// Histories of an address, once there are some in this state.
fn fate(instance: &Instance, query: &str, state: &str) -> Vec<Value> {
    fate_until(instance, query, state, |history| history["state"] == state)
}

/// Histories of an address, once one is as is wanted.
fn fate_until(instance: &Instance, query: &str, wanted: &str, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = instance.run("yamabiko", &["fate", "--json", query]);
        let found: Vec<Value> = said.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if found.iter().any(&is_it) {
            return found;
        }
        assert!(Instant::now() < deadline, "{query} is not {wanted}: {} {}", said.out, said.err);
        std::thread::sleep(Duration::from_millis(100));
    }
}

const REPORT: &str = "From: MAILER-DAEMON@far.example\nTo: me@box.example\nSubject: Undelivered Mail Returned to Sender\n\
    MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\n\nSorry.\n\n--b\n\
    Content-Type: message/delivery-status\n\nReporting-MTA: dns; far.example\n\nFinal-Recipient: rfc822; late@far.example\n\
    Action: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n\n--b\n\
    Content-Type: text/rfc822-headers\n\nMessage-ID: <late-1@box.example>\nSubject: hello\n\n--b--\n";

#[test]
fn sent_and_then_it_comes_back() {
    let mut instance = Instance::new();
    instance.set("suppression_enable", "yes");
    instance.set("suppression_act_at", "submission, delivery");
    let _sink = Sink::start(instance.next_hop);
    instance.write();
    instance.start();
    let mail = "Message-ID: <late-1@box.example>\nSubject: hello\n\nhello\n";
    let send = |sender: &str, recipient: &str, mail: &str| {
        instance.client().mail(sender, &[recipient], mail).expect("the session goes on").code
    };
    assert_eq!(send("me@box.example", "late@far.example", mail), 250);
    // The next hop offers DSN, so it is asked to report.
    let sent = fate(&instance, "late@far.example", "relayed");
    assert_eq!(sent[0]["message_id"], "<late-1@box.example>");
    assert!(sent[0]["sentence"].as_str().is_some_and(|text| text.contains("late@far.example")));
    // The bounce comes in from the null sender, and reaches its mailbox all the same.
    assert_eq!(send("", "me@box.example", REPORT), 250);
    instance.until_mails("me", 1);
    let late = fate(&instance, "late@far.example", "late-bounced");
    assert_eq!(late[0]["reason"], "userunknown");
    assert_eq!(late[0]["confidence"], 92);
    // By the built-in rules the address is dead now.
    let said = instance.run("yamabiko", &["suppress", "check", "late@far.example"]);
    assert_eq!(said.code, 1, "{} {}", said.out, said.err);
    let said = instance.run("yamabiko", &["suppress", "why", "late@far.example"]);
    assert!(said.out.contains("userunknown"), "{}", said.out);
    // Within a second the engine knows.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(send("me@box.example", "LATE@far.example", "Subject: again\n\nhello\n"), 550);
    assert_eq!(send("me@box.example", "other@far.example", "Subject: again\n\nhello\n"), 250);
    // The reply stands at RCPT, in Postfix's form.
    let mut client = instance.client();
    client.expect("EHLO client.example", 250);
    client.expect("MAIL FROM:<me@box.example>", 250);
    let refused = client.expect("RCPT TO:<late@far.example>", 550).lines.concat();
    let words = "550 5.1.1 <late@far.example>: Recipient address rejected: recipient is on the suppression list since ";
    assert!(refused.starts_with(words), "{refused}");
    // At delivery it is that recipient alone who gets nothing.
    instance.set("suppression_act_at", "delivery");
    instance.reload();
    let both =
        instance.client().mail("me@box.example", &["late@far.example", "third@far.example"], "Subject: b\n\nb\n");
    assert_eq!(both.expect("the session goes on").code, 250);
    fate(&instance, "third@far.example", "relayed");
    fate(&instance, "late@far.example", "suppressed");
    instance.stop();
}

/// A report as [`REPORT`], about somebody else.
fn report(recipient: &str, message_id: &str) -> String {
    REPORT.replace("late@far.example", recipient).replace("<late-1@box.example>", message_id)
}

/// Bounces and automatic replies of a host that took the message, and of one that only knows of it.
#[test]
fn a_forged_bounce_kills_no_address() {
    let mut instance = Instance::new();
    for (name, value) in [
        ("suppression_enable", "yes"),
        ("late_bounce_disposition", "discard"),
        ("smtpd_authorized_xclient_hosts", "127.0.0.0/8"),
        (
            "smtpd_recipient_restrictions",
            "check_recipient_access suppression:, permit_mynetworks, reject_unauth_destination",
        ),
        ("late_bounce_trusted_hosts", "198.51.100.0/24"),
    ] {
        instance.set(name, value);
    }
    let _sink = Sink::start(instance.next_hop);
    instance.start();
    let from = |address: &str, mail: &str| {
        let mut client = instance.client();
        client.expect("EHLO proxy.example", 250);
        client.expect(&format!("XCLIENT ADDR={address} NAME=host.elsewhere.example"), 220);
        client.mail("", &["me@box.example"], mail).unwrap().code
    };
    let victims = ["victim@far.example", "dead@far.example", "fbl@far.example"];
    let mail = "Message-ID: <to-all@box.example>\nSubject: hello\n\nhello\n";
    let recipients = [&victims[..], &["attacker@evil.example"]].concat();
    assert_eq!(instance.client().mail("me@box.example", &recipients, mail).unwrap().code, 250);
    victims.iter().for_each(|victim| drop(fate(&instance, victim, "relayed")));
    // Whoever got a copy knows its names. It is told of, with what it is worth; it does nothing, and its reader may judge.
    assert_eq!(from("192.0.2.66", &report(victims[0], "<to-all@box.example>")), 250);
    let found = fate_until(&instance, victims[0], "told", |history| history["unproven"]["confidence"] == 60);
    assert_eq!((&found[0]["state"], &found[0]["unproven"]["state"]), (&"relayed".into(), &"late-bounced".into()));
    let said = instance.run("yamabiko", &["fate", "--lang", "en", victims[0]]).out;
    let sentence = said.lines().next().unwrap_or_default();
    assert!(sentence.contains("nothing to do with the message: confidence 60 %"), "{sentence}");
    assert!(!sentence.contains("Came back"), "{sentence}");
    instance.until_mails("me", 1);
    // One of those that took it, and one that is believed.
    assert_eq!(from("127.0.0.9", &report(victims[1], "<to-all@box.example>")), 250);
    assert_eq!(from("198.51.100.7", &report(victims[2], "<to-all@box.example>")), 250);
    for victim in &victims[1..] {
        assert_eq!(fate(&instance, victim, "late-bounced")[0]["confidence"], 92);
        instance.until("suppression", || instance.run("yamabiko", &["suppress", "check", victim]).code == 1);
    }
    assert_eq!(instance.run("yamabiko", &["suppress", "check", victims[0]]).code, 0);
    // Automatic replies are for people, whoever sends them.
    let reply = "From: fbl@far.example\nTo: me@box.example\nSubject: Out of office\nAuto-Submitted: auto-replied\n\
        In-Reply-To: <to-all@box.example>\n\nI am away.\n";
    assert_eq!(from("127.0.0.9", reply), 250);
    let mails = instance.until_mails("me", 2);
    assert!(mails.iter().any(|mail| mail.contains("I am away.")) && mails.len() == 2, "{mails:?}");
    assert_eq!(instance.log().matches("discard: a bounce of a message of ours").count(), 2);
    std::thread::sleep(Duration::from_millis(1100));
    let mut client = instance.client();
    client.expect("EHLO client.example", 250);
    client.expect("MAIL FROM:<me@box.example>", 250);
    client.expect("RCPT TO:<victim@far.example>", 250);
    client.expect("RCPT TO:<dead@far.example>", 554);
    // Without the checks any name will do.
    instance.set("suppression_report_checks", "no");
    instance.stop();
    instance.start();
    let from_afar = "192.0.2.66";
    let mut client = instance.client();
    client.expect("EHLO proxy.example", 250);
    client.expect(&format!("XCLIENT ADDR={from_afar} NAME=host.elsewhere.example"), 220);
    assert_eq!(client.mail("", &["me@box.example"], &report(victims[0], "<to-all@box.example>")).unwrap().code, 250);
    instance.until("suppression", || instance.run("yamabiko", &["suppress", "check", victims[0]]).code == 1);
}

#[test]
fn what_a_killed_engine_has_not_written_is_made_again() {
    let instance = Instance::new();
    instance.start();
    // Nobody listens at the next hop: it waits in the queue.
    let reply = instance.client().mail("me@box.example", &["waits@far.example"], "Subject: x\n\nx\n");
    assert_eq!(reply.expect("the session goes on").code, 250);
    instance.kill_engine();
    let found = fate(&instance, "waits@far.example", "deferred");
    assert_eq!(found.len(), 1);
    instance.stop();
}

/// A line of a log, so many days ago.
fn day(ago: u32) -> String {
    let out = Command::new("date").args(["-u", "-d", &format!("-{ago} days"), "+%FT10:00:0"]).output();
    String::from_utf8(out.expect("date runs").stdout).expect("digits").trim().to_owned()
}

/// Root imports old logs before the first start; then the engine keeps its ledger in the same place, lets old days go, and
/// goes on from a copy when everything is lost.
#[test]
fn a_ledger_that_root_began_is_kept_retired_and_restored() {
    let mut instance = Instance::new();
    instance.set("ledger_retention_time", "90d");
    instance.set("ledger_success_retention_time", "30d");
    instance.write();
    let mut log = String::new();
    for (ago, id) in [(100, "AAAAAAAAA"), (45, "BBBBBBBBB"), (5, "CCCCCCCCC")] {
        let day = day(ago);
        for (n, (who, dsn, end)) in [
            ("ok", "2.0.0", "sent (250 2.0.0 Ok: queued as X1)"),
            ("gone", "5.1.1", "bounced (host mx.far.example[192.0.2.1] said: 550 5.1.1 User unknown)"),
        ]
        .into_iter()
        .enumerate()
        {
            log += &format!(
                "{day}1.000000+00:00 h postfix/qmgr[1]: {id}{n}: from=<s@a.test>, size=500, nrcpt=1 (queue active)\n\
                 {day}2.000000+00:00 h postfix/smtp[2]: {id}{n}: to=<{who}@far.example>, \
                 relay=mx.far.example[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn={dsn}, status={end}\n\
                 {day}3.000000+00:00 h postfix/qmgr[1]: {id}{n}: removed\n"
            );
        }
    }
    instance.file("old.log", &log);
    instance.ok("yamabiko", &["import", &instance.etc().join("old.log").display().to_string()]);
    instance.ok("yamabiko", &["suppress", "add", "dead@far.example"]);
    let known_to = |instance: &Instance, who: &str| {
        let said = instance.run("yamabiko", &["fate", "--json", &format!("{who}@far.example")]);
        let of =
            |line: &str| serde_json::from_str::<Value>(line).ok()?["queue_id"].as_str().map(|id| id[..1].to_owned());
        let mut known: Vec<String> = said.out.lines().filter_map(of).collect();
        known.sort();
        known.concat()
    };
    assert_eq!((known_to(&instance, "ok"), known_to(&instance, "gone")), ("ABC".to_owned(), "ABC".to_owned()));
    instance.start();
    instance.until("old days are gone", || known_to(&instance, "ok") == "C" && known_to(&instance, "gone") == "BC");
    instance.until("it is said", || instance.log().contains("days are older than ledger_retention_time"));
    assert!(!instance.log().contains("no ledger is kept"), "{}", instance.log());
    assert_eq!(instance.client().mail("me@box.example", &["one@box.example"], "Subject: x\n\nx\n").unwrap().code, 250);
    fate(&instance, "one@box.example", "delivered");

    let copy = instance.path().join("copy");
    instance.ok("yamabiko", &["fate", "--backup", &copy.display().to_string()]);
    instance.stop();
    let ledger = instance.path().join("lib/ledger");
    for file in fs::read_dir(&ledger).expect("a ledger") {
        fs::remove_file(file.expect("a file").path()).expect("it can be removed");
    }
    for file in fs::read_dir(&copy).expect("a copy") {
        let file = file.expect("a file").path();
        fs::copy(&file, ledger.join(file.file_name().expect("a name"))).expect("it can be copied");
    }
    instance.start();
    assert_eq!((known_to(&instance, "ok"), known_to(&instance, "gone")), ("C".to_owned(), "BC".to_owned()));
    fate(&instance, "one@box.example", "delivered");
    assert_eq!(instance.client().mail("me@box.example", &["me@box.example"], "Subject: y\n\ny\n").unwrap().code, 250);
    fate(&instance, "me@box.example", "delivered");
    // Whoever copies them back is root, and leaves them to root.
    for words in ["no ledger is kept", "readonly database"] {
        assert!(!instance.log().contains(words), "{}", instance.log());
    }
    instance.ok("yamabiko", &["fate", "--check"]);
    // A reload puts other ages in force, and says what it cannot.
    instance.set("ledger_retention_time", "3d");
    instance.set("ledger_queue_limit", "5000");
    instance.reload();
    instance
        .until("old days are gone", || known_to(&instance, "ok").is_empty() && known_to(&instance, "gone").is_empty());
    instance.until("it is said", || instance.log().contains("ledger_queue_limit = 5000 counts from the next start on"));
    fate(&instance, "me@box.example", "delivered");
    instance.stop();
}

/// `suppression_enable` and the rest of it by a reload.
#[test]
fn a_list_that_is_wanted_later_is_kept_from_then_on() {
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "<gone", "550 5.1.1 no such user");
    instance.start();
    let list = |instance: &Instance| instance.run("yamabiko", &["suppress", "list"]).out;
    let send = |instance: &Instance, to: &str| {
        assert_eq!(instance.client().mail("me@box.example", &[to], "Subject: x\n\nx\n").unwrap().code, 250);
        fate(instance, to, "bounced");
    };
    send(&instance, "gone1@far.example");
    assert_eq!(list(&instance), "");
    instance.set("suppression_enable", "yes");
    instance.reload();
    send(&instance, "gone2@far.example");
    instance.until("the list", || list(&instance).starts_with("gone2@far.example  userunknown"));
    instance.set("suppression_enable", "no");
    instance.reload();
    send(&instance, "gone3@far.example");
    instance.until_empty();
    assert_eq!(list(&instance).lines().count(), 1);
}

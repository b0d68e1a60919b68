//! A client that sends undeliverable mail in the names of others, as much as it can, while others send theirs.
//!
//! 500 messages here; `YAMABIKO_STORM=100000` makes it a real one and prints the figures of docs/bounces.md.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Client, Instance, Sink};

/// Sessions of the client at once.
const SESSIONS: usize = 5;
/// What is configured.
const SENT: usize = 50;
const HELD: usize = 100;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One session's part of the storm: messages in the names of people whom nobody knows.
fn rage(instance: &Instance, session: usize, messages: usize) {
    let mut client = instance.client();
    client.expect("EHLO spam.example", 250);
    for at in 0..messages {
        let sender = format!("victim{at}@d{}.victims.example", at * SESSIONS + session);
        let said = client.mail(&sender, &["nobody@gone.example"], "Subject: buy\n\nthis\n").unwrap();
        assert_eq!(said.code, 250, "{said:?}");
    }
}

/// The others, one message after the other, from another address; how many.
fn others(instance: &Instance, over: &AtomicBool) -> usize {
    let mut sent = 0;
    while !over.load(Ordering::SeqCst) || sent < 20 {
        let mut client = Client::connect(instance.smtp).unwrap();
        client.expect("EHLO friend.example", 250);
        let message = format!("Subject: other {sent}\nMessage-ID: <other.{sent}@friend.example>\n\nx\n");
        let said = client.mail(&format!("friend{sent}@friend.example"), &["one@box.example"], &message).unwrap();
        assert_eq!(said.code, 250, "{said:?}");
        sent += 1;
        instance.until("mail of others", || instance.mails("one").len() >= sent);
    }
    sent
}

/// How many messages of the storm came in between the arrival of a message of the others and its delivery, at most.
fn overtaken(log: &str) -> usize {
    let mut most = 0;
    // Queue ID of each message of the others that is on its way, and how many came after it.
    let mut under_way: Vec<(&str, usize)> = Vec::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once("]: ") else { continue };
        let Some((id, what)) = rest.split_once(": ") else { continue };
        if what.starts_with("message-id=<other.") {
            under_way.push((id, 0));
        } else if what.starts_with("message-id=") {
            under_way.iter_mut().for_each(|(_, after)| *after += 1);
        } else if what.contains("status=sent")
            && let Some(at) = under_way.iter().position(|(known, _)| *known == id)
        {
            most = most.max(under_way.swap_remove(at).1);
        }
    }
    assert!(under_way.is_empty(), "not delivered: {under_way:?}");
    most
}

#[test]
fn a_storm_is_bounded_and_others_are_served() {
    let messages = number("YAMABIKO_STORM", 500);
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    for (name, value) in [
        ("transport_maps", "inline:{ {gone.example=error:5.1.1 nobody is here} }".to_owned()),
        ("smtpd_reject_unlisted_recipient", "no".to_owned()),
        ("bounce_rate_client_limit", SENT.to_string()),
        ("bounce_hold_limit", HELD.to_string()),
        ("notify_classes", "resource, software".to_owned()),
        ("bounce_notice_recipient", "me@box.example".to_owned()),
        ("notify_digest_interval", "2s".to_owned()),
        // Each budget is for the whole storm.
        ("bounce_rate_time_unit", "10h".to_owned()),
    ] {
        instance.set(name, &value);
    }
    instance.start();
    let over = AtomicBool::new(false);
    let mut longest = 0;
    let of_others = std::thread::scope(|scope| {
        let friend = scope.spawn(|| others(&instance, &over));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|at| {
                scope.spawn({
                    let instance = &instance;
                    move || rage(instance, at, messages / SESSIONS)
                })
            })
            .collect();
        while sessions.iter().any(|session| !session.is_finished()) {
            longest = longest.max(instance.queue().len());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        over.store(true, Ordering::SeqCst);
        friend.join().unwrap()
    });
    instance.until("the end of the storm", || instance.queue().iter().all(|entry| entry.queue == "hold"));
    let stormed = messages / SESSIONS * SESSIONS;
    assert_eq!(sink.count(), SENT, "notices to strangers");
    assert_eq!(instance.queue().len(), HELD, "on hold");
    let listed = fs::read_dir(instance.path().join("lib")).unwrap().flatten();
    let listed: usize = listed
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("notices-not-sent.jsonl"))
        .map(|entry| fs::read_to_string(entry.path()).unwrap().lines().count())
        .sum();
    if listed < 20_000 {
        assert_eq!(listed, stormed - SENT - HELD, "listed");
    }
    // What is counted is told when the program ends, to whom it may concern; then it is started to deliver that.
    instance.stop();
    instance.start();
    let told = |text: &str| instance.mails("me").iter().filter(|mail| mail.contains(text)).count();
    instance.until("the summary", || told("more notices of failure were kept back") >= 1);
    instance.until("an empty queue", || instance.queue().iter().all(|entry| entry.queue == "hold"));
    assert_eq!(told("notices of failure are kept on hold"), 1);
    let summaries: Vec<String> =
        instance.mails("me").into_iter().filter(|mail| mail.contains("were kept back")).collect();
    let counted: usize = summaries
        .iter()
        .filter_map(|mail| mail.split_once("Subject: Yamabiko: ")?.1.split(' ').next()?.parse::<usize>().ok())
        .sum();
    // The first one is the mail that says that it began.
    assert_eq!(counted, stormed - SENT - 1, "{summaries:#?}");
    let log = instance.log();
    let overtaken = overtaken(&log);
    println!(
        "{stormed} messages: {SENT} notices to strangers, {HELD} on hold, {listed} listed, {} mails to the postmaster, at most \
         {longest} messages in the queue (with those on hold); {of_others} messages of others, none overtaken by more than \
         {overtaken}",
        1 + summaries.len()
    );
    // Held ones, and what five sessions can have under way.
    assert!(longest <= HELD + 400, "{longest} messages in the queue");
    assert!(overtaken <= 200, "{overtaken} messages of the storm came before a message of others");
}

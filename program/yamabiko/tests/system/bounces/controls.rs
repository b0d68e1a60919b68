//! What main.cf has for calm, a second way, words and languages, and against backscatter, in the running program.

use std::fs;
use std::sync::{Arc, Mutex};

use crate::harness::world::names;
use crate::harness::{Client, Instance, Sink, address};

use super::{new_mail, pager, web};

/// A session with a nonsense command: trouble of class `protocol`.
fn nonsense(instance: &Instance) {
    let mut client = instance.client();
    client.expect("EHLO x.example", 250);
    client.expect("NONSENSE", 500);
    client.expect("QUIT", 221);
}

/// A session that seems to come from far away.
fn from_afar(instance: &Instance) -> Client {
    seeming(instance, "192.0.2.9")
}

/// A session that seems to come from an address.
fn seeming(instance: &Instance, address: &str) -> Client {
    let mut client = instance.client();
    client.expect("EHLO proxy.example", 250);
    client.expect(&format!("XCLIENT ADDR={address} NAME=far.example"), 220);
    client.expect("EHLO far.example", 250);
    client
}

#[test]
fn trouble_is_told_a_second_way() {
    let mut instance = Instance::new();
    let (url, posted) = web();
    let lib = instance.path().join("lib");
    let by_service = pager(&mut instance);
    let file = lib.join("trouble.jsonl");
    for (name, value) in [
        ("notify_classes", "protocol, bounce"),
        ("error_notice_recipient", "me@box.example"),
        ("bounce_notice_recipient", "me@box.example"),
        ("notify_channel_classes", "protocol"),
        ("notify_channel_file", file.to_str().unwrap()),
        ("notify_channel_url", &url),
        ("notify_channel_service", "pager"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    nonsense(&instance);
    instance.until("the file", || fs::read_to_string(&file).is_ok_and(|text| !text.is_empty()));
    instance.until("the service", || fs::read_to_string(&by_service).is_ok_and(|text| text.ends_with('\n')));
    instance.until("the web server", || posted.lock().unwrap().len() == 1);
    instance.until_mails("me", 1);
    let told = fs::read_to_string(&file).unwrap();
    let object: serde_json::Value = serde_json::from_str(told.trim()).expect("one JSON object");
    assert_eq!((object["class"].as_str(), object["count"].as_u64()), (Some("protocol"), Some(1)));
    assert_eq!(object["reason"], "500 5.5.2 Error: command not recognized");
    assert_eq!(object["host"], "mx.test.example");
    assert_eq!(fs::read_to_string(&by_service).unwrap(), told);
    let post = posted.lock().unwrap()[0].clone();
    assert!(post.starts_with("POST /hook HTTP/1.1\r\n") && post.ends_with(told.trim()), "{post}");
    // Another class goes the usual way only.
    let mut client = instance.client();
    client.expect("EHLO x.example", 250);
    client.expect("MAIL FROM:<a@b.example>", 250);
    client.expect("RCPT TO:<nobody@box.example>", 550);
    client.expect("QUIT", 221);
    instance.until_mails("me", 2);
    assert_eq!(fs::read_to_string(&file).unwrap(), told);
}

/// What is said in a session with a login, in base64 where it is a response; and what the transcript has of it.
#[test]
fn transcripts_have_no_passwords() {
    const USER: &str = "YWxpY2U=";
    const PASSWORD: &str = "dmVyeXNlY3JldA==";
    const BOTH: &str = "AGFsaWNlAHZlcnlzZWNyZXQ=";
    let mut instance = Instance::new();
    let users = instance.path().join("etc/users");
    for (name, value) in [
        ("notify_classes", "protocol, policy"),
        ("error_notice_recipient", "me@box.example"),
        ("smtpd_sasl_auth_enable", "yes"),
        ("smtpd_sasl_type", "yamabiko"),
        ("smtpd_sasl_path", users.to_str().unwrap()),
    ] {
        instance.set(name, value);
    }
    let said = instance.run_with("yamabiko", &["passwd", "alice"], "verysecret\nverysecret\n");
    assert_eq!(said.code, 0, "{said:?}");
    instance.start();
    let (plain, lower) = (format!("AUTH PLAIN {BOTH}"), format!("auth  plain {BOTH} x"));
    let sessions: [&[&str]; 8] = [
        &[&plain],
        &[&lower],
        &["AUTH PLAIN", BOTH],
        &["AUTH LOGIN", USER, PASSWORD],
        // Refused at once, or before the password; it comes all the same.
        &["AUTH LOGIN", "!", PASSWORD],
        &["AUTH FOO", USER, PASSWORD],
        &[&plain, "AUTH LOGIN", PASSWORD],
        &["MAIL FROM:<a@b.example>", &plain, BOTH],
    ];
    for (before, lines) in sessions.iter().enumerate() {
        let mut client = instance.client();
        client.expect("EHLO x.example", 250);
        for line in *lines {
            client.command(line).unwrap();
        }
        client.expect("NOOP", 250);
        client.expect("NONSENSE", 500);
        client.expect("QUIT", 221);
        instance.until_mails("me", before + 1);
    }
    for mail in instance.mails("me") {
        assert!(mail.contains("(response)") && mail.contains(" In:  NONSENSE\n"), "{mail}");
        assert!(![PASSWORD, BOTH].iter().any(|secret| mail.contains(secret)), "{mail}");
    }
    let log = instance.log();
    assert!(![PASSWORD, BOTH].iter().any(|secret| log.contains(secret)), "{log}");
}

#[test]
fn a_second_way_that_is_shut_is_said_and_stops_nothing() {
    let mut instance = Instance::new();
    for (name, value) in [
        ("notify_classes", "protocol"),
        ("error_notice_recipient", "me@box.example"),
        ("notify_channel_classes", "protocol"),
        ("notify_channel_file", "/nowhere/at/all"),
        ("notify_channel_url", &*format!("http://{}/", address())),
        ("notify_channel_service", "nobody"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    nonsense(&instance);
    instance.until_mails("me", 1);
    for way in ["file", "url", "service"] {
        instance.until(way, || instance.log().contains(&format!("notify_channel_{way}: ")));
    }
    instance.set("notify_channel_url", "https://x.example/");
    let said = instance.postfix("check").err;
    assert!(said.contains("notify_channel_url: https://x.example/: only http:// addresses are there"), "{said}");
}

#[test]
fn an_hour_has_a_limit_and_nothing_is_miscounted() {
    let mut instance = Instance::new();
    for (name, value) in
        [("notify_classes", "protocol"), ("error_notice_recipient", "me@box.example"), ("notify_hourly_limit", "3")]
    {
        instance.set(name, value);
    }
    instance.start();
    for _ in 0..20 {
        nonsense(&instance);
    }
    instance.until_mails("me", 3);
    instance.stop();
    instance.start();
    // What was counted when the program ended was told then.
    let mails = instance.until_mails("me", 4);
    let summary = mails.iter().find(|mail| mail.contains("Subject: Yamabiko: 17 notices of class protocol")).unwrap();
    for line in ["       17  500 5.5.2 Error: command not recognized\n", "Auto-Submitted: auto-generated\n"] {
        assert!(summary.contains(line), "{line}: {summary}");
    }
}

/// 10,000 protocol errors in the issue; fewer here, `YAMABIKO_STORM` makes it as many.
#[test]
fn a_digest_counts_right() {
    let errors: usize = std::env::var("YAMABIKO_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(300) / 10;
    let mut instance = Instance::new();
    for (name, value) in [
        ("notify_classes", "protocol, policy"),
        ("error_notice_recipient", "me@box.example"),
        ("notify_digest_classes", "protocol"),
        ("notify_hourly_limit", "5"),
        ("notify_digest_interval", "1s"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    for _ in 0..errors {
        nonsense(&instance);
    }
    instance.stop();
    instance.start();
    let count = |mail: &String| -> usize {
        let subject = mail.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
        match subject.strip_prefix("Yamabiko: ") {
            Some(text) => text.split(' ').next().unwrap().parse().unwrap(),
            None => 1,
        }
    };
    instance.until("all of them", || instance.mails("me").iter().map(count).sum::<usize>() == errors);
    // The one at the end is beyond the limit of the hour: nothing is kept for a program that is not there.
    assert!(instance.mails("me").len() <= 6, "{}", instance.mails("me").len());
    println!("{errors} errors, {} mails", instance.mails("me").len());
}

#[test]
fn bounces_of_mail_that_is_not_ours_are_told() {
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    for (name, value) in [
        ("smtpd_authorized_xclient_hosts", "127.0.0.0/8"),
        ("recipient_delimiter", "+"),
        ("signed_sender_domains", "box.example"),
        ("unsigned_bounce_action", "accept"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    // Ours goes out signed, and what comes back to the signed address arrives, whatever is done with the rest.
    instance.client().mail("me@box.example", &["x@far.example"], "Subject: s\n\nx\n").unwrap();
    instance.until("the message", || sink.count() == 1);
    let taken = sink.taken().remove(0);
    let signed = taken.sender.trim_start_matches('<').split('>').next().unwrap().to_owned();
    assert!(signed.starts_with("me+yb") && signed.ends_with("@box.example"), "{signed}");
    let mut real = 0;
    let forged = format!("me+yb{}@box.example", "a".repeat(signed.len() - "me+yb@box.example".len()));
    for (action, of_plain, held, marked) in
        [("accept", 250, 0, false), ("tag", 250, 0, true), ("hold", 250, 1, false), ("reject", 550, 1, false)]
    {
        instance.set("unsigned_bounce_action", action);
        instance.reload();
        let before = instance.mails("me").len();
        assert_eq!(from_afar(&instance).mail("", &[&signed], "Subject: real\n\nx\n").unwrap().code, 250, "{action}");
        real += 1;
        for to in ["me@box.example", &forged] {
            let said = from_afar(&instance).mail("", &[to], &format!("Subject: {action}\n\nx\n")).unwrap();
            assert_eq!(said.code, of_plain, "{action} {to}: {said:?}");
        }
        // Other mail is not touched.
        let said = from_afar(&instance).mail("a@far.example", &["me@box.example"], "Subject: other\n\nx\n").unwrap();
        assert_eq!(said.code, 250, "{action}: {said:?}");
        let here = if matches!(action, "accept" | "tag") { 2 } else { 0 };
        let mails = instance.until_mails("me", before + 2 + here);
        let of_now: Vec<_> = mails.iter().filter(|mail| mail.contains(&format!("Subject: {action}\n"))).collect();
        assert!(of_now.len() == here && of_now.iter().all(|mail| mail.contains("X-Unsigned-Bounce: yes") == marked));
        assert_eq!(mails.iter().filter(|mail| mail.contains("Subject: real\n")).count(), real);
        let waiting = instance.queue().iter().filter(|entry| entry.queue == "hold").count();
        assert_eq!(waiting, held * 2, "{action}");
    }
    // Another key signs from now on; what was signed by the old one still counts, until that is taken out.
    let file = instance.path().join("lib/signed_sender.keys");
    let old = fs::read_to_string(&file).unwrap();
    for (keys, code) in
        [(format!("2 anothersecretanothersecret\n{old}"), 250), ("2 anothersecretanothersecret\n".to_owned(), 550)]
    {
        fs::write(&file, keys).unwrap();
        instance.reload();
        let said = from_afar(&instance).mail("", &[&signed], "Subject: late\n\nx\n").unwrap();
        assert_eq!(said.code, code, "{said:?}");
        let before = sink.count();
        instance.client().mail("me@box.example", &["x@far.example"], "Subject: s\n\nx\n").unwrap();
        instance.until("the message", || sink.count() > before);
        let sender = sink.taken().pop().unwrap().sender;
        assert!(sender.starts_with("<me+yb2"), "{sender}");
    }
    // A probe, which ends before the message, is answered.
    let mut client = from_afar(&instance);
    client.expect("MAIL FROM:<>", 250);
    client.expect("RCPT TO:<me@box.example>", 250);
}

#[test]
fn a_mailbox_that_is_flooded_is_protected() {
    let mut instance = Instance::new();
    instance.set("smtpd_authorized_xclient_hosts", "127.0.0.0/8");
    instance.set("backscatter_recipient_limit", "3");
    instance.start();
    for at in 0..6 {
        let said = from_afar(&instance).mail("", &["me@box.example"], "Subject: s\n\nx\n").unwrap();
        assert_eq!(said.code, if at < 3 { 250 } else { 450 }, "{said:?}");
    }
    assert_eq!(from_afar(&instance).mail("", &["one@box.example"], "Subject: s\n\nx\n").unwrap().code, 250);
    assert_eq!(from_afar(&instance).mail("a@b.example", &["me@box.example"], "Subject: s\n\nx\n").unwrap().code, 250);
    instance.until_mails("me", 4);
}

/// Who is told of mail that cannot be delivered: whom SPF vouches for, and who is here. Not whoever writes our name into a field.
#[test]
fn notices_only_about_mail_that_can_be_theirs() {
    const FORGED: &str = "Authentication-Results: mx.test.example; spf=pass smtp.mailfrom=forged@far.example\n";
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    let records = "proven.example TXT v=spf1 ip4:192.0.2.9 -all\nfar.example TXT v=spf1 -all\n".to_owned();
    let names = names(&Arc::new(Mutex::new(records))).to_string();
    for (name, value) in [
        ("smtpd_authorized_xclient_hosts", "127.0.0.0/8"),
        ("smtpd_reject_unlisted_recipient", "no"),
        ("transport_maps", "inline:{ {gone.box.example=error:5.1.1 nobody is here} }"),
        ("relay_domains", "gone.box.example"),
        ("dns_servers", &names),
        ("smtpd_sender_authentication", "spf"),
        ("bounce_requires", "local, aligned"),
        ("mynetworks", "127.0.0.0/8, 192.0.2.44"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    for (sender, header) in [("plain@far.example", ""), ("forged@far.example", FORGED), ("proven@proven.example", "")] {
        let message = format!("{header}Subject: s\n\nx\n");
        let said = from_afar(&instance).mail(sender, &["x@gone.box.example"], &message).unwrap();
        assert_eq!(said.code, 250, "{said:?}");
    }
    instance.client().mail("local@far.example", &["x@gone.box.example"], "Subject: s\n\nx\n").unwrap();
    // A machine of the house, about which nobody asks DNS.
    let mut of_the_house = seeming(&instance, "192.0.2.44");
    of_the_house.mail("house@far.example", &["x@gone.box.example"], "Subject: s\n\nx\n").unwrap();
    instance.until_empty();
    let mut told: Vec<String> = sink.taken().iter().map(|mail| mail.recipients.join(" ")).collect();
    told.sort();
    let expected = ["<house@", "<local@", "<proven@"];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    assert!(told.iter().zip(expected).all(|(told, begin)| told.starts_with(begin)), "{told:?}");
    let log = instance.log();
    let why = "no notification to <forged@far.example>: the message was not authenticated, local or aligned";
    assert!(log.contains(why), "{log}");
    let list = fs::read_to_string(instance.path().join("lib/notices-not-sent.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    assert_eq!((line["notice_to"].as_str(), line["client"].as_str()), (Some("plain@far.example"), Some("192.0.2.9")));
    assert_eq!(list.lines().count(), 2, "{list}");
    // Nobody finds out, so nobody is believed.
    instance.set("smtpd_sender_authentication", "");
    let said = instance.postfix("check").err;
    assert!(said.contains("bounce_requires = aligned: nobody finds out about SPF and DKIM here"), "{said}");
    instance.reload();
    let said =
        from_afar(&instance).mail("forged@far.example", &["x@gone.box.example"], &format!("{FORGED}Subject: s\n\nx\n"));
    assert_eq!(said.unwrap().code, 250);
    instance.until_empty();
    assert_eq!(sink.count(), 3);
}

/// A message with these fields from a sender, and words that the notice then has.
const LANGUAGES: [(&str, &str, &[&str]); 7] = [
    ("me@box.example", "Subject: s\n", &["Your message was NOT delivered to:"]),
    ("me@box.example", "Subject: s\nContent-Language: ja\n", &["届きませんでした"]),
    ("me@box.example", "Subject: =?ISO-2022-JP?B?GyRCJCIbKEI=?=\n", &["届きませんでした"]),
    ("me@box.example", "Subject: s\nContent-Language: de-AT\n", &["Nicht zugestellt an:\n    x@gone.example"]),
    ("one@box.example", "Subject: s\n", &["届きませんでした", "Your message was NOT delivered to:"]),
    ("two@box.example", "Subject: s\nContent-Language: ja\n", &["Nicht zugestellt an:\n    x@gone.example"]),
    ("three@box.example", "Subject: s\nContent-Language: xx\n", &["Your message was NOT delivered to:"]),
];

const GERMAN: &str = "failure_template = <<EOF\nCharset: utf-8\nFrom: MAILER-DAEMON (Mail Delivery System)\n\
    Subject: Undelivered Mail Returned to Sender (nicht zugestellt)\nPostmaster-Subject: Postmaster Copy: Undelivered Mail\n\n\
    Schöne Grüße von $myhostname.\n\nNicht zugestellt an:\n$notice_recipients\nEOF\n";

#[test]
fn notices_speak_the_language_of_their_readers() {
    let mut instance = Instance::new();
    let languages = instance.etc().join("languages");
    fs::create_dir(&languages).unwrap();
    fs::write(languages.join("de.cf"), GERMAN).unwrap();
    for (name, value) in [
        ("smtpd_reject_unlisted_recipient", "no"),
        ("transport_maps", "inline:{ {gone.example=error:5.1.1 nobody is here} }"),
        ("bounce_language", "original en"),
        ("bounce_language_directory", languages.to_str().unwrap()),
        ("bounce_language_maps", "inline:{ {one@box.example=ja en} {two@box.example=de} }"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    for (sender, header, words) in LANGUAGES {
        let name = sender.split('@').next().unwrap();
        let before = instance.mails(name);
        let said = instance.client().mail(sender, &["x@gone.example"], &format!("{header}\nbody\n")).unwrap();
        assert_eq!(said.code, 250, "{said:?}");
        let notice = new_mail(&instance, name, &before);
        for word in words.iter().chain(&["Status: 5.1.1\n", "nobody is here", "Subject: Undelivered Mail"]) {
            // The subject may be encoded.
            let there = notice.contains(word) || (word.starts_with("Subject") && notice.contains("Subject: =?"));
            assert!(there, "{sender} {header}: {word}\n{notice}");
        }
        assert!(notice.contains("Content-Type: text/plain; charset=utf-8\n"), "{sender} {header}\n{notice}");
    }
}

/// `bounce_template_file` in ISO-2022-JP, as old files have it: `$` of the escapes is written twice (bounce(5)).
#[test]
fn a_template_in_iso_2022_jp() {
    let mut instance = Instance::new();
    let text = "\u{1b}$B<u$1<h$j$r5qH]$7$^$9\u{1b}(B";
    instance.file(
        "bounce.cf",
        &format!(
            "failure_template = <<EOF\nCharset: iso-2022-jp\nFrom: MAILER-DAEMON (Mail Delivery System)\n\
             Subject: Undelivered Mail Returned to Sender\nPostmaster-Subject: Postmaster Copy: Undelivered Mail\n\n\
             $myhostname: {}\nEOF\n",
            text.replace('$', "$$")
        ),
    );
    let file = instance.etc().join("bounce.cf");
    instance.set("bounce_template_file", file.to_str().unwrap());
    instance.set("smtpd_reject_unlisted_recipient", "no");
    instance.set("transport_maps", "inline:{ {gone.example=error:5.1.1 nobody is here} }");
    instance.start();
    instance.client().mail("me@box.example", &["x@gone.example"], "Subject: s\n\nx\n").unwrap();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("Content-Type: text/plain; charset=iso-2022-jp\n"), "{notice}");
    assert!(notice.contains(&format!("\nmx.test.example: {text}\n")), "{notice}");
    // And our own Japanese text for those who can read nothing else.
    instance.set("bounce_template_file", "");
    instance.set("bounce_language", "ja");
    instance.set("bounce_japanese_charset", "iso-2022-jp");
    instance.reload();
    instance.client().mail("one@box.example", &["x@gone.example"], "Subject: s\n\nx\n").unwrap();
    let notice = instance.until_mails("one", 1).remove(0);
    assert!(notice.contains("charset=iso-2022-jp\n") && notice.contains("\u{1b}$B"), "{notice}");
    // Whoever reads nothing else sees the subject first.
    assert!(notice.contains("Subject: Undelivered Mail Returned to Sender /\n =?ISO-2022-JP?B?"), "{notice}");
}

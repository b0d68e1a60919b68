//! Strangers who want to send through us, put a message into another one, or talk into somebody else's encrypted session.
//! Tables against the running program: a line per trick.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::harness::{Client, Instance};

/// Recipients that relay testers try, for `far.example`, which is nothing of ours.
const TRICKS: &[&str] = &[
    "user@far.example",
    "user@far.example.",
    "user@FAR.example",
    "user%far.example",
    "user%far.example@box.example",
    "user%far.example@mx.test.example",
    "user%far.example@test.example",
    "user%far.example@localhost",
    "user%far.example@[LITERAL]",
    "user%far.example%box.example@box.example",
    "\"user%far.example\"",
    "\"user%far.example\"@box.example",
    "\"user%far.example\"@[LITERAL]",
    "\"user@far.example\"",
    "\"user@far.example\"@box.example",
    "\"user@far.example\"@[LITERAL]",
    "\"one\"@far.example",
    "user@far.example@box.example",
    "user@far.example@[LITERAL]",
    "one@box.example@far.example",
    "one%box.example@far.example",
    "@box.example:user@far.example",
    "@[LITERAL]:user@far.example",
    "@mx.test.example:user@far.example",
    "@box.example,@mx.test.example:user@far.example",
    "@far.example:user@far.example",
    "@box.example:user%far.example@box.example",
    "far.example!user",
    "far.example!user@box.example",
    "far.example!user@[LITERAL]",
    "far.example!user@mx.test.example",
    "box.example!far.example!user",
    "box.example!user%far.example",
    "\"far.example!user\"@box.example",
    "user@[192.0.2.99]",
    "user@[IPv6:2001:db8::99]",
    "user@192.0.2.99",
    "user@box.example.far.example",
    "user@box.example%far.example",
    "user@far.example(@box.example)",
    "(@box.example)user@far.example",
    "x@box.example <user@far.example>",
    "user\\@far.example@box.example",
    "one@box.example,user@far.example",
    "one@box.example user@far.example",
    "one@box.example\tuser@far.example",
    "one@box.example;user@far.example",
    "postmaster@far.example",
    "postmaster%far.example@box.example",
    "one@b\u{43e}x.example",
    "one@\u{ff42}\u{ff4f}\u{ff58}.example.far.example",
    "one@box\u{3002}example\u{3002}far\u{3002}example",
    "user\u{ff20}far.example",
    "user\u{ff20}far.example@box.example",
    "user\u{ff05}far.example@box.example",
    "user\u{fe6b}far.example",
];

/// With a host that nobody may send through, and settings; the next hop is the world.
fn strict(settings: &[(&str, &str)]) -> Instance {
    let mut instance = Instance::new();
    instance.set("mynetworks", "192.0.2.0/24");
    instance.set("smtpd_hard_error_limit", "100000");
    instance.set("smtpd_error_sleep_time", "0");
    instance.set("mydestination", "$myhostname, localhost");
    instance.set("local_recipient_maps", "inline:{postmaster=x}");
    for (name, value) in settings {
        instance.set(name, value);
    }
    instance.start();
    instance
}

#[test]
fn no_trick_of_relay_testers_is_accepted() {
    for settings in [
        &[][..],
        &[("allow_percent_hack", "no"), ("swap_bangpath", "no"), ("recipient_delimiter", "+")],
        &[("smtpd_relay_restrictions", ""), ("smtpd_recipient_restrictions", "permit_mynetworks, check_relay_domains")],
    ] {
        let instance = strict(settings);
        let literal = instance.smtp.ip().to_string();
        for sender in ["", "spam@far.example", "spam@box.example", "spam", "spam@localhost", "\"spam@far.example\""] {
            for options in ["", " SMTPUTF8"] {
                let mut client = instance.client();
                client.expect("EHLO relaytest.example", 250);
                client.expect(&format!("MAIL FROM:<{sender}>{options}"), 250);
                for trick in TRICKS {
                    let trick = trick.replace("LITERAL", &literal);
                    for command in [format!("RCPT TO:<{trick}>"), format!("RCPT TO: {trick}")] {
                        let reply = client.command(&command).unwrap();
                        assert!(matches!(reply.code, 400..=599), "{settings:?} {sender:?} {command}: {reply:?}");
                    }
                }
                client.expect("DATA", 554);
                // As the testers do between their tests.
                client.expect("RSET", 250);
                client.expect("MAIL FROM:<x@far.example>", 250);
                client.expect("RCPT TO:<one@box.example>", 250);
                client.expect("QUIT", 221);
            }
        }
        assert!(instance.queue().is_empty(), "{:?}", instance.queue());
    }
}

/// What stands where only CR LF . CR LF ends a message.
const ENDS: &[&str] =
    &["\r\n", "\n", "\r", "\n\r", "\r\r\n", "\r\n\r", "\0\r\n", "\x0b", "\x0c\n", "\u{85}", "\u{2028}"];

#[test]
fn no_message_is_smuggled_in_another() {
    let instance = strict(&[("smtpd_forbid_bare_newline_exclusions", "")]);
    let mut taken = 0;
    for before in ENDS {
        for after in ENDS {
            // This one ends the message, and what follows is commands: they are refused as such below.
            let ends = before.ends_with("\r\n") && *after == "\r\n";
            if ends {
                continue;
            }
            let mut client = instance.client();
            client.expect("EHLO c.example", 250);
            client.expect("MAIL FROM:<outer@far.example>", 250);
            client.expect("RCPT TO:<one@box.example>", 250);
            client.expect("DATA", 354);
            let hidden =
                "MAIL FROM:<smuggled@box.example>\r\nRCPT TO:<two@box.example>\r\nDATA\r\nSubject: hidden\r\n\r\nx";
            let text = format!("Subject: outer\r\n\r\nouter{before}.{after}{hidden}\r\n.\r\n");
            client.send(text.as_bytes()).unwrap();
            let reply = client.reply().unwrap();
            assert!(reply.code == 250 || (500..600).contains(&reply.code), "{before:?} {after:?}: {reply:?}");
            taken += usize::from(reply.code == 250);
            // Nothing else was answered: the next reply is to QUIT.
            client.expect("QUIT", 221);
        }
    }
    assert!(taken > 0);
    let outer = instance.until_mails("one", taken);
    assert!(outer.iter().all(|mail| mail.starts_with("Return-Path: <outer@far.example>")), "{:?}", outer.first());
    assert!(instance.mails("two").is_empty());
    assert!(!instance.log().contains("from=<smuggled@box.example>"));
}

/// A key of its own.
fn encrypted(instance: &mut Instance) {
    let made = rcgen::generate_simple_self_signed(vec!["mx.test.example".to_owned()]).unwrap();
    let path = instance.etc().join("key.pem");
    fs::write(&path, format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    instance.set("smtpd_tls_chain_files", path.to_str().unwrap());
    instance.set("smtpd_tls_security_level", "may");
}

/// A handshake by `openssl s_client -starttls smtp`, which says these lines; what it heard.
fn over_tls(instance: &Instance, options: &str, lines: &[&str]) -> String {
    let mut said = String::new();
    for line in lines {
        said.push_str(&format!("sleep 0.4; printf '{line}\\r\\n';"));
    }
    let at = instance.smtp;
    let script =
        format!("({said} sleep 1) | openssl s_client -quiet -starttls smtp -connect {at} {options} 2>/dev/null");
    let done = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn nothing_is_injected_before_the_handshake() {
    for (forbid, heard) in [("yes", 554), ("no", 220)] {
        let mut instance = Instance::new();
        encrypted(&mut instance);
        instance.set("smtpd_forbid_unauth_pipelining", forbid);
        instance.start();
        for injected in [
            "RSET\r\n",
            "EHLO attacker.example\r\nMAIL FROM:<attacker@far.example>\r\n",
            "MAIL FROM:<attacker@far.example>\r\nRCPT TO:<one@box.example>\r\nDATA\r\nSubject: injected\r\n\r\nx\r\n.\r\n",
            "\r\n",
            "x",
        ] {
            let mut client: Client = instance.client();
            client.expect("EHLO c.example", 250);
            client.send(format!("STARTTLS\r\n{injected}").as_bytes()).unwrap();
            assert_eq!(client.reply().unwrap().code, heard, "{injected:?}");
            // No reply in the clear to what came with it: a handshake or the end of the connection comes next.
            client.send(b"\x16\x03\x01\x00\x00").unwrap();
            let next = client.line();
            let spoken = next.as_ref().is_ok_and(|line| line.starts_with(['2', '3', '5']) && line.len() > 3);
            assert!(!spoken, "{injected:?}: {next:?}");
        }
        assert!(instance.queue().is_empty() && instance.mails("one").is_empty());
        // They stand in the log as what came too early, and nowhere as a sender.
        assert!(!instance.log().contains("from=<attacker@far.example>"), "{}", instance.log());
        // And a login or a greeting from before the handshake is forgotten after it.
        let heard = over_tls(&instance, "", &["MAIL FROM:<a@far.example>", "QUIT"]);
        assert!(heard.contains("250 2.1.0 Ok") || heard.contains("503 5.5.1"), "{heard}");
    }
}

/// A CA, and a client's certificate from it, in files.
fn certificates(instance: &Instance) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Our own CA");
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["laptop.example".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "laptop.example");
    let pem = key.serialize_pem() + &params.signed_by(&key, &issuer).unwrap().pem();
    let foreign = rcgen::generate_simple_self_signed(vec!["laptop.example".to_owned()]).unwrap();
    fs::create_dir(instance.etc().join("authorities")).unwrap();
    fs::set_permissions(instance.etc().join("authorities"), fs::Permissions::from_mode(0o755)).unwrap();
    instance.file("authorities/ours.pem", &authority);
    instance.file("known.pem", &pem);
    instance.file("foreign.pem", &(foreign.signing_key.serialize_pem() + &foreign.cert.pem()));
    let path = |name: &str| instance.etc().join(name).display().to_string();
    (format!("-cert {0} -key {0}", path("known.pem")), format!("-cert {0} -key {0}", path("foreign.pem")))
}

#[test]
fn certificates_of_clients_open_doors() {
    if !Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let mut instance = Instance::new();
    encrypted(&mut instance);
    let (known, foreign) = certificates(&instance);
    instance.set("mynetworks", "192.0.2.0/24");
    instance.set("smtpd_tls_ask_ccert", "yes");
    // A directory of authorities, without hashed names.
    instance.set("smtpd_tls_CApath", instance.etc().join("authorities").to_str().unwrap());
    instance.set("smtpd_relay_restrictions", "permit_tls_all_clientcerts, reject_unauth_destination");
    instance.set("local_header_rewrite_clients", "permit_tls_all_clientcerts");
    instance.set("smtpd_tls_loglevel", "1");
    instance.set("smtpd_tls_loglevel_maps", &format!("inline:{{{}=2}}", instance.smtp.ip()));
    instance.start();
    let relay = ["EHLO c.example", "MAIL FROM:<a@far.example>", "RCPT TO:<x@far.example>", "QUIT"];
    let heard = over_tls(&instance, &known, &relay);
    assert!(heard.contains("250 2.1.5 Ok"), "{heard}\n{}", instance.log());
    for options in ["", &foreign] {
        let heard = over_tls(&instance, options, &relay);
        assert!(heard.contains("554 5.7.1 <x@far.example>: Relay access denied"), "{options}: {heard}");
    }
    assert!(instance.log().contains("Trusted TLS connection established from "), "{}", instance.log());
    // What such a client writes is completed as a user's of ours: a From: without domain gets one.
    let mail = [
        "EHLO c.example",
        "MAIL FROM:<a@far.example>",
        "RCPT TO:<one@box.example>",
        "DATA",
        "From: bare\\r\\nSubject: s\\r\\n\\r\\nx\\r\\n.",
        "QUIT",
    ];
    over_tls(&instance, &known, &mail);
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nFrom: bare@test.example\n"), "{}", mails[0]);
    over_tls(
        &instance,
        "",
        &mail.map(|line| line.replace("one@", "two@")).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mails = instance.until_mails("two", 1);
    assert!(mails[0].contains("\nFrom: bare\n"), "{}", mails[0]);
}

#[test]
fn slow_clients_are_cut_off_by_the_deadline_of_a_request() {
    let mut instance = Instance::new();
    instance.set("smtpd_timeout", "2s");
    instance.set("smtpd_per_request_deadline", "yes");
    instance.set("smtpd_min_data_rate", "100000");
    instance.start();
    // A byte in a quarter of a second would keep a timeout of two seconds alive for ever.
    let drip = |client: &mut Client, text: &str| {
        for byte in text.bytes().cycle() {
            if client.send(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
            if instance.log().contains("timeout after") {
                return;
            }
        }
    };
    for (begin, place) in [
        (&[][..], "CONNECT"),
        (&["EHLO c.example", "MAIL FROM:<a@far.example>", "RCPT TO:<one@box.example>", "DATA"], "DATA"),
    ] {
        let mut client = instance.client();
        for line in begin {
            client.send(format!("{line}\r\n").as_bytes()).unwrap();
            client.reply().unwrap();
        }
        drip(&mut client, "abcdefgh");
        let log = instance.log();
        assert!(log.contains(&format!("timeout after {place}")), "{place}: {log}");
        fs::write(instance.log_file(), "").unwrap();
    }
}

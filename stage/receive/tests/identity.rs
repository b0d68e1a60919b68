//! STARTTLS and AUTH: replies, log lines, `Received:` fields, restrictions about logins and certificates.

mod common;

use common::{World, encrypted};
use yamabiko_sasl::base64;
use yamabiko_tls::{Failure, PeerCertificate, Session};

const TLS: &str = "smtpd_tls_security_level = may\nsmtpd_tls_chain_files = /made/key.pem\nsmtpd_tls_loglevel = 1\n";
const SASL: &str = "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\n";
const STRANGER: &str = "198.51.100.7";

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", base64::encode(format!("\0{user}\0{password}").as_bytes()))
}

/// Says lines, one after another; the reply to each must be as beside it.
fn dialogue(world: &World, lines: &[(&str, &str)]) {
    let mut talk = world.connect(STRANGER);
    talk.say(b"");
    for (line, reply) in lines {
        assert_eq!(talk.line(line), *reply, "after {line}");
    }
    if !talk.closed {
        talk.session.lost();
    }
    talk.session.finish(common::NOW);
}

#[test]
fn what_ehlo_offers() {
    let main = |more: &str| format!("{TLS}{SASL}{more}");
    for (main, clear, secure) in [
        (main(""), "STARTTLS|AUTH PLAIN LOGIN CRAM-MD5", "AUTH PLAIN LOGIN CRAM-MD5"),
        (main("smtpd_tls_auth_only = yes\n"), "STARTTLS", "AUTH PLAIN LOGIN CRAM-MD5"),
        (
            main("smtpd_sasl_security_options = noplaintext\nsmtpd_sasl_tls_security_options = noanonymous\n"),
            "STARTTLS|AUTH CRAM-MD5",
            "AUTH PLAIN LOGIN CRAM-MD5",
        ),
        (main("smtpd_sasl_mechanism_filter = plain, login\n"), "STARTTLS|AUTH PLAIN LOGIN", "AUTH PLAIN LOGIN"),
        (main("smtpd_sasl_exceptions_networks = 198.51.100.0/24\n"), "STARTTLS", ""),
        (
            main("smtpd_sasl_exceptions_networks = !198.51.100.7, 198.51.100.0/24\nbroken_sasl_auth_clients = yes\n"),
            "STARTTLS|AUTH PLAIN LOGIN CRAM-MD5|AUTH=PLAIN LOGIN CRAM-MD5",
            "AUTH PLAIN LOGIN CRAM-MD5|AUTH=PLAIN LOGIN CRAM-MD5",
        ),
        (main("smtpd_discard_ehlo_keywords = starttls, auth, silent-discard\n"), "", "-"),
        (main("smtpd_sasl_security_options = noplaintext, noactive, nodictionary, mutual_auth\n"), "STARTTLS", ""),
        ("smtpd_use_tls = yes\nsmtpd_tls_cert_file = /made/key.pem\n".to_owned(), "STARTTLS", ""),
        (SASL.to_owned(), "AUTH PLAIN LOGIN CRAM-MD5", "-"),
        (String::new(), "", "-"),
    ] {
        let world = World::new(&main);
        let mut talk = world.connect(STRANGER);
        talk.say(b"");
        let offered = |talk: &mut common::Talk<'_>| {
            let reply = talk.line("EHLO client.test");
            let words = reply.lines().filter_map(|line| line.get(4..));
            words.filter(|word| word.starts_with("AUTH") || *word == "STARTTLS").collect::<Vec<_>>().join("|")
        };
        assert_eq!(offered(&mut talk), clear, "{main}");
        if secure == "-" {
            assert!(talk.line("STARTTLS").starts_with("502 5.5.1 "), "{main}");
            continue;
        }
        assert_eq!(talk.line("STARTTLS"), "220 2.0.0 Ready to start TLS");
        assert_eq!(offered(&mut talk), secure, "{main}");
    }
}

#[test]
fn authentication() {
    let world = World::new(SASL);
    let (good, bad, later, broken) =
        (plain("alice", "secret"), plain("alice", "wrong"), plain("later", "x"), plain("broken", "x"));
    dialogue(
        &world,
        &[
            ("AUTH", "501 5.5.4 Syntax: AUTH mechanism"),
            ("AUTH PLAIN a b", "501 5.5.4 Syntax: AUTH mechanism"),
            ("AUTH FOO", "535 5.7.8 Error: authentication failed: Invalid authentication mechanism"),
            ("AUTH EXTERNAL", "535 5.7.8 Error: authentication failed: Invalid authentication mechanism"),
            ("AUTH PLAIN !!!", "535 5.7.8 Error: authentication failed: Invalid base64 data in initial response"),
            (&bad, "535 5.7.8 Error: authentication failed: (reason unavailable)"),
            (&later, "454 4.7.0 Temporary authentication failure: come again"),
            (&broken, "454 4.7.0 Temporary authentication failure: Connection lost to authentication server"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("*", "501 5.7.0 Authentication aborted"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("YWxpY2U=", "334 UGFzc3dvcmQ6"),
            ("bm9wZQ==", "535 5.7.8 Error: authentication failed: (reason unavailable)"),
            ("AUTH PLAIN", "334"),
            (&"x".repeat(20_000), "500 5.5.6 SASL response limit exceeded"),
            ("MAIL FROM:<a@remote.test>", "250 2.1.0 Ok"),
            (&good, "503 5.5.1 Error: MAIL transaction in progress"),
            ("RSET", "250 2.0.0 Ok"),
            (&good, "235 2.7.0 Authentication successful"),
            (&good, "503 5.5.1 Error: already authenticated"),
            ("AUTH", "503 5.5.1 Error: already authenticated"),
            ("QUIT", "221 2.0.0 Bye"),
        ],
    );
    let log = world.log.lines();
    let who = "warning: client.outside.test[198.51.100.7]: SASL";
    for line in [
        format!("{who} PLAIN authentication failed: (reason unavailable), sasl_username=alice"),
        format!("{who} LOGIN authentication failed: (reason unavailable), sasl_username=alice"),
        format!("{who} LOGIN authentication aborted"),
        format!("{who} FOO authentication failed: Invalid authentication mechanism, sasl_username=(unavailable)"),
        "warning: the table is gone".to_owned(),
    ] {
        assert!(log.contains(&line), "{line} in {log:#?}");
    }
    assert!(!log.iter().any(|line| line.contains("bm9wZQ")), "{log:#?}");
}

#[test]
fn authentication_that_is_not_to_be_had() {
    let good = plain("alice", "secret");
    let off = "503 5.5.1 Error: authentication not enabled";
    dialogue(&World::new(""), &[(&good, off)]);
    dialogue(&World::new(&format!("{TLS}{SASL}smtpd_tls_auth_only = yes\n")), &[(&good, off)]);
    dialogue(
        &World::new(&format!("{TLS}{SASL}smtpd_tls_security_level = encrypt\n")),
        &[
            (&good, "530 5.7.0 Must issue a STARTTLS command first"),
            ("STARTTLS", "220 2.0.0 Ready to start TLS"),
            (&good, "235 2.7.0 Authentication successful"),
        ],
    );
    dialogue(
        &World::new(&format!("{SASL}smtpd_helo_required = yes\n")),
        &[
            (&good, "503 5.5.1 Error: send HELO/EHLO first"),
            ("HELO x", "250 mx.lab.test"),
            (&good, "235 2.7.0 Authentication successful"),
        ],
    );
    let mut world = World::new(SASL);
    world.deaf = true;
    let lost = "454 4.7.0 Temporary authentication failure: Connection lost to authentication server";
    dialogue(&world, &[(&good, lost), (&good, lost)]);
    assert!(world.log.lines().contains(&"warning: nobody there".to_owned()));
}

#[test]
fn starttls() {
    let world = World::new(&format!("{TLS}{SASL}"));
    dialogue(
        &world,
        &[
            ("STARTTLS now", "501 5.5.4 Syntax: STARTTLS"),
            ("HELO client.test", "250 mx.lab.test"),
            (&plain("alice", "secret"), "235 2.7.0 Authentication successful"),
            ("MAIL FROM:<a@remote.test>", "250 2.1.0 Ok"),
            ("STARTTLS", "220 2.0.0 Ready to start TLS"),
            // What was said and agreed in the clear is forgotten.
            ("RCPT TO:<user1@lab.test>", "503 5.5.1 Error: need MAIL command"),
            ("STARTTLS x", "501 5.5.4 Syntax: STARTTLS"),
            ("STARTTLS", "554 5.5.1 Error: TLS already active"),
            (&plain("alice", "secret"), "235 2.7.0 Authentication successful"),
            ("QUIT", "221 2.0.0 Bye"),
        ],
    );
    let log = world.log.lines();
    let summary = "Anonymous TLS connection established from client.outside.test[198.51.100.7]: TLSv1.3 with cipher \
                   TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature ECDSA (prime256v1) server-digest \
                   SHA256";
    assert!(log.iter().any(|line| line == summary), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("starttls=1/4")), "{log:#?}");
}

#[test]
fn handshakes_that_fail() {
    for (failure, lines) in [
        (Failure::Lost, vec!["SSL_accept error from client.outside.test[198.51.100.7]: lost connection"]),
        (
            Failure::Protocol("no shared cipher".into()),
            vec![
                "SSL_accept error from client.outside.test[198.51.100.7]: -1",
                "warning: TLS library problem: no shared cipher",
            ],
        ),
        (
            Failure::Broken("Connection reset by peer".into()),
            vec!["SSL_accept error from client.outside.test[198.51.100.7]: Connection reset by peer"],
        ),
    ] {
        for wrapper in [false, true] {
            let more = if wrapper { "smtpd_tls_wrappermode = yes\n" } else { "" };
            let mut world = World::new(&format!("{TLS}{more}"));
            world.handshake = Err(failure.clone());
            let mut talk = world.connect(STRANGER);
            let first = talk.say(b"");
            assert_eq!(first.is_empty(), wrapper, "{first}");
            if !wrapper {
                assert_eq!(talk.line("STARTTLS"), "220 2.0.0 Ready to start TLS");
            }
            assert!(talk.closed);
            talk.session.finish(common::NOW);
            let log = world.log.lines();
            let after = if wrapper { "Lost after CONNECT" } else { "Lost after STARTTLS" };
            for line in lines.iter().copied().chain([after]) {
                assert!(log.iter().any(|known| known == line), "{line} in {log:#?}");
            }
        }
    }
}

#[test]
fn nothing_from_the_clear_comes_into_the_encrypted_session() {
    // What follows STARTTLS in the same segment, with pipelining forbidden (the default) and allowed.
    for injected in [
        "RSET\r\n",
        "MAIL FROM:<evil@remote.test>\r\n",
        "EHLO evil.test\r\nMAIL FROM:<evil@remote.test>\r\nRCPT TO:<user1@lab.test>\r\n",
        "NOOP",
        "\r\n",
        "\n",
        "\0",
        "DATA\r\nSubject: x\r\n\r\n.\r\n",
        "STARTTLS\r\n",
        "\x16\x03\x01",
    ] {
        for (forbid, starttls) in
            [("yes", "STARTTLS\r\n"), ("no", "STARTTLS\r\n"), ("yes", "STARTTLS\n"), ("no", "starttls \r\n")]
        {
            let main = format!("{TLS}smtpd_forbid_unauth_pipelining = {forbid}\nsmtpd_forbid_bare_newline = no\n");
            let world = World::new(&main);
            let mut talk = world.connect(STRANGER);
            talk.say(b"");
            talk.line("EHLO client.test");
            let reply = talk.say(format!("{starttls}{injected}").as_bytes());
            if forbid == "yes" {
                assert_eq!(reply, "554 5.5.0 Error: SMTP protocol synchronization\r\n", "{injected:?}");
                assert!(talk.closed);
            } else {
                // One reply, and it was said in the clear.
                assert_eq!(reply, "220 2.0.0 Ready to start TLS\r\n", "{injected:?}");
                assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "503 5.5.1 Error: need MAIL command");
            }
            let log = world.log.lines();
            let line = "improper command pipelining after STARTTLS from client.outside.test[198.51.100.7]: ";
            assert!(log.iter().any(|known| known.starts_with(line)), "{log:#?}");
        }
    }
}

#[test]
fn limits_for_handshakes_and_logins() {
    let main = format!(
        "{TLS}{SASL}smtpd_client_new_tls_session_rate_limit = 2\nsmtpd_client_auth_rate_limit = 2\n\
         smtpd_client_event_limit_exceptions =\n"
    );
    let world = World::new(&main);
    let many = "too many new TLS sessions from client.outside.test[198.51.100.7]";
    for (handshake, then) in [
        ("220 2.0.0 Ready to start TLS", "250 mx.lab.test".to_owned()),
        ("220 2.0.0 Ready to start TLS", "250 mx.lab.test".to_owned()),
        ("220 2.0.0 Ready to start TLS", format!("421 4.7.0 mx.lab.test Error: {many}")),
    ] {
        dialogue(&world, &[("STARTTLS", handshake), ("HELO x", &then)]);
    }
    let refused = format!("454 4.7.0 Error: {many}");
    dialogue(&world, &[("STARTTLS", &refused)]);
    let bad = plain("alice", "wrong");
    let failed = "535 5.7.8 Error: authentication failed: (reason unavailable)";
    let too_many = "450 4.7.1 Error: too many AUTH commands from 198.51.100.7";
    dialogue(&world, &[(&bad, failed), (&bad, failed), (&bad, too_many)]);
    let log = world.log.lines();
    for line in [
        "warning: New TLS session rate limit exceeded: 3 from client.outside.test[198.51.100.7] for service smtp",
        "warning: Refusing STARTTLS request from client.outside.test[198.51.100.7] for service smtp",
        "warning: AUTH command rate limit exceeded: 3 from client.outside.test[198.51.100.7] for service smtp",
    ] {
        assert!(log.contains(&line.to_owned()), "{line} in {log:#?}");
    }
    let report: Vec<_> = world.limits.report().into_iter().map(|(line, _)| line).collect();
    assert!(report.contains(&"statistics: max newtls rate 3/60s for (smtp:198.51.100.7)".to_owned()), "{report:#?}");
    assert!(report.contains(&"statistics: max auth rate 3/60s for (smtp:198.51.100.7)".to_owned()), "{report:#?}");
}

fn certified(untrusted: Option<&str>) -> Session {
    let peer = PeerCertificate {
        subject_cn: "client.test".to_owned(),
        issuer_cn: "Our CA".to_owned(),
        subject: "/CN=client.test".to_owned(),
        issuer: "/CN=Our CA".to_owned(),
        fingerprint: "AA:BB".to_owned(),
        key_fingerprint: "CC:DD".to_owned(),
        untrusted: untrusted.map(str::to_owned),
    };
    Session { peer: Some(peer), ..encrypted() }
}

#[test]
fn required_certificates() {
    let main = format!("{TLS}smtpd_tls_security_level = encrypt\nsmtpd_tls_req_ccert = yes\n");
    for (handshake, reply) in [
        (encrypted(), "421 4.7.1 mx.lab.test Error: No client certificate presented"),
        (certified(Some("self-signed certificate")), "421 4.7.1 mx.lab.test Error: Client certificate not trusted"),
        (certified(None), "250 mx.lab.test"),
    ] {
        let mut world = World::new(&main);
        world.handshake = Ok(handshake);
        dialogue(&world, &[("STARTTLS", "220 2.0.0 Ready to start TLS"), ("HELO x", reply)]);
    }
    let mut world = World::new(&format!("{main}smtpd_tls_wrappermode = yes\n"));
    assert!(world.connect(STRANGER).say(b"").starts_with("421 4.7.1 "));
    world.handshake = Ok(certified(None));
    assert!(world.connect(STRANGER).say(b"").starts_with("220 mx.lab.test "));
}

#[test]
fn restrictions_about_certificates() {
    let refused = |what: &str| format!("554 5.7.1 <{what}>: Client certificate rejected: no");
    let relay = "554 5.7.1 <x@remote.test>: Relay access denied".to_owned();
    let ok = "250 2.1.5 Ok".to_owned();
    for (restrictions, handshake, expected) in [
        ("permit_tls_clientcerts, reject_unauth_destination", certified(Some("x")), relay.clone()),
        ("permit_tls_all_clientcerts, reject_unauth_destination", certified(None), ok.clone()),
        ("permit_tls_all_clientcerts, reject_unauth_destination", certified(Some("x")), relay.clone()),
        ("permit_tls_all_clientcerts, reject_unauth_destination", encrypted(), relay.clone()),
        ("check_ccert_access inline:{{AA:BB=REJECT no}}, reject", certified(Some("x")), refused("AA:BB")),
        ("check_ccert_access inline:{{CC:DD=REJECT no}}, reject", certified(Some("x")), refused("CC:DD")),
        ("check_ccert_access inline:{{CC:DD=REJECT no}, {AA:BB=OK}}, reject", certified(Some("x")), ok.clone()),
        (
            "check_ccert_access {inline:{{CC:DD=REJECT no}, {AA:BB=OK}} {search_order = pubkey_fingerprint}}, reject",
            certified(None),
            refused("CC:DD"),
        ),
        (
            "check_ccert_access {inline:{{AA:BB=OK}} {search_order = nothing}}, reject",
            certified(None),
            "451 4.3.5 Server configuration error".to_owned(),
        ),
        ("reject_plaintext_session, permit_tls_all_clientcerts, reject", certified(None), ok.clone()),
    ] {
        let main = format!("{TLS}smtpd_relay_restrictions = {restrictions}\nsmtpd_recipient_restrictions =\n");
        let mut world = World::new(&format!("{main}smtpd_tls_ask_ccert = yes\n"));
        world.handshake = Ok(handshake);
        dialogue(
            &world,
            &[
                ("STARTTLS", "220 2.0.0 Ready to start TLS"),
                ("MAIL FROM:<a@remote.test>", "250 2.1.0 Ok"),
                ("RCPT TO:<x@remote.test>", &expected),
            ],
        );
    }
    for listed in ["AA:BB", "CC:DD"] {
        let main = format!(
            "{TLS}smtpd_relay_restrictions = permit_tls_clientcerts, reject_unauth_destination\nrelay_clientcerts = \
             inline:{{{{{listed}=x}}}}\nsmtpd_tls_ask_ccert = yes\n"
        );
        let mut world = World::new(&main);
        world.handshake = Ok(certified(Some("self-signed certificate")));
        dialogue(
            &world,
            &[
                ("STARTTLS", "220 2.0.0 Ready to start TLS"),
                ("MAIL FROM:<a@remote.test>", "250 2.1.0 Ok"),
                ("RCPT TO:<x@remote.test>", "250 2.1.5 Ok"),
            ],
        );
    }
}

#[test]
fn restrictions_about_logins() {
    const MAPS: &str = "smtpd_sender_login_maps = inline:{{alice@lab.test=alice}, {shared@lab.test=Alice, bob}, \
                        {bob@lab.test=bob}, {@owned.test=bob}}\n";
    let ok = "250 2.1.5 Ok".to_owned();
    let not_owned = |sender: &str| format!("553 5.7.1 <{sender}>: Sender address rejected: not owned by user alice");
    let not_logged_in = |sender: &str| format!("553 5.7.1 <{sender}>: Sender address rejected: not logged in");
    for (restriction, login, sender, expected) in [
        ("reject_sender_login_mismatch", false, "alice@lab.test", not_logged_in("alice@lab.test")),
        ("reject_sender_login_mismatch", false, "free@lab.test", ok.clone()),
        ("reject_sender_login_mismatch", true, "alice@lab.test", ok.clone()),
        ("reject_sender_login_mismatch", true, "alice+x@lab.test", ok.clone()),
        ("reject_sender_login_mismatch", true, "shared@lab.test", ok.clone()),
        ("reject_sender_login_mismatch", true, "bob@lab.test", not_owned("bob@lab.test")),
        ("reject_sender_login_mismatch", true, "free@lab.test", not_owned("free@lab.test")),
        ("reject_sender_login_mismatch", true, "x@owned.test", not_owned("x@owned.test")),
        ("reject_sender_login_mismatch", true, "", ok.clone()),
        ("reject_authenticated_sender_login_mismatch", false, "bob@lab.test", ok.clone()),
        ("reject_authenticated_sender_login_mismatch", true, "free@lab.test", not_owned("free@lab.test")),
        ("reject_unauthenticated_sender_login_mismatch", false, "bob@lab.test", not_logged_in("bob@lab.test")),
        ("reject_unauthenticated_sender_login_mismatch", true, "bob@lab.test", ok.clone()),
        ("reject_known_sender_login_mismatch", false, "bob@lab.test", not_logged_in("bob@lab.test")),
        ("reject_known_sender_login_mismatch", true, "free@lab.test", ok.clone()),
        ("reject_known_sender_login_mismatch", true, "bob@lab.test", not_owned("bob@lab.test")),
        ("permit_sasl_authenticated, reject", true, "free@lab.test", ok.clone()),
        (
            "permit_sasl_authenticated, reject",
            false,
            "free@lab.test",
            "554 5.7.1 <free@lab.test>: Sender address rejected: Access denied".to_owned(),
        ),
        (
            "check_sasl_access inline:{{alice=REJECT no}}",
            true,
            "free@lab.test",
            "554 5.7.1 <alice>: SASL login name rejected: no".to_owned(),
        ),
        ("check_sasl_access inline:{{alice=REJECT no}}", false, "free@lab.test", ok.clone()),
    ] {
        let main = format!("{SASL}{MAPS}recipient_delimiter = +\nsmtpd_sender_restrictions = {restriction}\n");
        let world = World::new(&main);
        let mut talk = world.connect(STRANGER);
        talk.say(b"");
        if login {
            assert_eq!(talk.line(&plain("alice", "secret")), "235 2.7.0 Authentication successful");
        }
        assert_eq!(talk.line(&format!("MAIL FROM:<{sender}>")), "250 2.1.0 Ok");
        assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), expected, "{restriction} {login} {sender}");
    }
}

#[test]
fn what_the_message_says_of_its_client() {
    let using = "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\n\t key-exchange X25519 server-signature \
                 ECDSA (prime256v1) server-digest SHA256)\n";
    for (more, tls, login, lines, with) in [
        ("", true, true, String::new(), "ESMTPSA"),
        ("", true, false, String::new(), "ESMTPS"),
        ("", false, true, String::new(), "ESMTPA"),
        ("", false, false, String::new(), "ESMTP"),
        (
            "smtpd_tls_received_header = yes\nsmtpd_sasl_authenticated_header = yes\n",
            true,
            true,
            format!("{using}\t(No client certificate requested)\n\t(Authenticated sender: alice)\n"),
            "ESMTPSA",
        ),
        (
            "smtpd_tls_received_header = yes\nsmtpd_tls_ask_ccert = yes\n",
            true,
            false,
            format!("{using}\t(Client did not present a certificate)\n"),
            "ESMTPS",
        ),
    ] {
        let world = World::new(&format!("{TLS}{SASL}{more}"));
        let mut talk = world.connect(STRANGER);
        talk.say(b"");
        if tls {
            talk.line("STARTTLS");
        }
        talk.line("EHLO client.test");
        if login {
            talk.line(&plain("alice", "secret"));
        }
        assert_eq!(talk.line("MAIL FROM:<a@remote.test> AUTH=e+3Dmc2@example.com"), "250 2.1.0 Ok");
        assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "250 2.1.5 Ok");
        talk.line("DATA");
        assert!(talk.line("Subject: x\r\n\r\nx\r\n.").starts_with("250 2.0.0 Ok: queued as "));
        let submissions = world.engine.submissions.lock().unwrap();
        let fields = String::from_utf8(submissions[0].trace_fields.clone()).unwrap();
        let start = format!(
            "Received: from client.test (client.outside.test [198.51.100.7])\n{lines}\tby mx.lab.test (Postfix) with {with} id "
        );
        assert!(fields.starts_with(&start), "{fields}\n{start}");
        let identity = submissions[0].envelope.sasl.clone();
        assert_eq!(identity.is_some(), login);
        if let Some(identity) = identity {
            assert_eq!((identity.method.as_str(), identity.username.as_str()), ("PLAIN", "alice"));
            assert_eq!(identity.sender, "e+3Dmc2@example.com");
        }
    }
}

//! What a submission holds: content, envelope, header fields; and what the postmaster is told.

mod common;

use common::World;
use yamabiko_envelope::{BodyType, Ret, RewriteContext, Source, Submission};
use yamabiko_receive::{BareNewline, Refusal};
use yamabiko_status::{EnhancedStatus, ReplyCode};

/// Sends one message to a server with this configuration and returns its submission.
fn send(main: &str, client: &str, mail: &str, recipients: &[&str], content: &str) -> Submission {
    let world = World::new(main);
    let mut talk = world.connect(client);
    talk.say(b"");
    talk.line("EHLO client.test");
    assert_eq!(talk.line(mail), "250 2.1.0 Ok");
    for recipient in recipients {
        assert_eq!(talk.line(recipient), "250 2.1.5 Ok", "{recipient}");
    }
    assert!(talk.line("DATA").starts_with("354"));
    let reply = talk.say(content.as_bytes());
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    world.engine.submissions.lock().unwrap().pop().expect("a submission")
}

fn content(submission: &Submission) -> String {
    String::from_utf8(submission.content.to_bytes().unwrap().to_vec()).unwrap()
}

#[test]
fn content_is_stored_with_lf() {
    for (sent, stored) in [
        ("Subject: x\r\n\r\nbody\r\n.\r\n", "Subject: x\n\nbody\n"),
        (".\r\n", ""),
        ("..\r\n...\r\n.a\r\n.\r\n", ".\n..\na\n"),
        ("a\rb\r\n.\r\n", "a b\n"),
        ("bare\nline\r\n.\r\n", "bare\nline\n"),
        // An mbox line is no header; content that begins with a blank has none.
        ("From x Mon\r\nSubject: y\r\n.\r\n", "X-Mailbox-Line: From x Mon\nSubject: y\n"),
        (">From x\r\n>>From y\r\nA: b\r\n.\r\n", "X-Mailbox-Line: >From x\nX-Mailbox-Line: >>From y\nA: b\n"),
        (" folded?\r\n.\r\n", "\n folded?\n"),
        ("From x\r\n\tfolded?\r\n.\r\n", "X-Mailbox-Line: From x\n\n\tfolded?\n"),
        ("From:x\r\n.\r\n", "From:x\n"),
    ] {
        let submission = send("", "127.0.0.1", "MAIL FROM:<a@remote.test>", &["RCPT TO:<user1@lab.test>"], sent);
        assert_eq!(content(&submission), stored, "{sent:?}");
    }
}

#[test]
fn received_field_for_one_and_for_several() {
    let one = send("", "198.51.100.7", "MAIL FROM:<a@remote.test>", &["RCPT TO:<user1@lab.test>"], "x\r\n.\r\n");
    let id = one.envelope.queue_id;
    let date = yamabiko_message::date::rfc5322(common::NOW.seconds(), &yamabiko_message::date::Zone::system());
    assert_eq!(
        String::from_utf8(one.trace_fields).unwrap(),
        format!(
            "Received: from client.test (client.outside.test [198.51.100.7])\n\tby mx.lab.test (Postfix) with ESMTP id \
             {id}\n\tfor <user1@lab.test>; {date}\n"
        )
    );
    let several = send(
        "",
        "::1",
        "MAIL FROM:<a@remote.test>",
        &["RCPT TO:<user1@lab.test>", "RCPT TO:<user2@lab.test>"],
        "x\r\n.\r\n",
    );
    let id = several.envelope.queue_id;
    assert_eq!(
        String::from_utf8(several.trace_fields).unwrap(),
        format!(
            "Received: from client.test (localhost [IPv6:::1])\n\tby mx.lab.test (Postfix) with ESMTP id \
             {id};\n\t{date}\n"
        )
    );
}

#[test]
fn envelope_holds_what_was_said() {
    let submission = send(
        "local_header_rewrite_clients = permit_mynetworks\ncontent_filter = scan:[127.0.0.1]:10025\n\
         receive_override_options = no_address_mappings\n",
        "127.0.0.1",
        "MAIL FROM:<a@remote.test> BODY=8BITMIME RET=HDRS ENVID=e+2B1 SMTPUTF8",
        &["RCPT TO:<user1@lab.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o+2Bx@y", "RCPT TO:<\"user2\"@lab.test>"],
        "x\r\n.\r\n",
    );
    let e = &submission.envelope;
    assert_eq!((e.sender.as_str(), e.envid.as_str(), e.ret), ("a@remote.test", "e+1", Some(Ret::Headers)));
    assert_eq!((e.body, e.smtputf8, e.context), (BodyType::EightBitMime, true, RewriteContext::Local));
    assert_eq!(e.filter, "scan:[127.0.0.1]:10025");
    assert!(submission.no_address_mappings && !submission.no_header_body_checks);
    assert_eq!(submission.source, Source::Smtp);
    assert_eq!((e.client.helo.as_str(), e.client.protocol.as_str()), ("client.test", "ESMTP"));
    assert_eq!((e.client.name.as_str(), e.client.port), ("localhost", 4711));
    let [first, second] = &e.recipients[..] else { panic!("{:?}", e.recipients) };
    assert_eq!((first.address.as_str(), first.orcpt.as_str()), ("user1@lab.test", "rfc822;o+x@y"));
    assert!(first.notify.success && first.notify.delay && !first.notify.failure && !first.notify.never);
    assert_eq!((second.address.as_str(), second.original.as_str()), ("user2@lab.test", "user2@lab.test"));
    assert!(second.notify.is_unset());
    assert!(String::from_utf8_lossy(&submission.trace_fields).contains("with UTF8SMTP id"));
    let stranger = send("", "198.51.100.7", "MAIL FROM:<>", &["RCPT TO:<user1@lab.test>"], "x\r\n.\r\n").envelope;
    assert_eq!((stranger.sender.as_str(), stranger.context), ("", RewriteContext::Remote));
}

#[test]
fn xforward_is_about_one_message() {
    use RewriteContext::{Local, Remote};
    let main = "smtpd_authorized_xforward_hosts = 127.0.0.1, 198.51.100.7\n\
                local_header_rewrite_clients = permit_mynetworks\n";
    for (client, own, said, context, name) in [
        ("127.0.0.1", Local, "NAME=n.test ADDR=192.0.2.9 PORT=99 IDENT=ABC SOURCE=REMOTE", Remote, "n.test"),
        ("127.0.0.1", Local, "NAME=n.test HELO=h.test", Local, "n.test"),
        ("198.51.100.7", Remote, "SOURCE=local", Local, "client.outside.test"),
        ("198.51.100.7", Remote, "NAME=[UNAVAILABLE] SOURCE=[UNAVAILABLE]", Remote, "unknown"),
    ] {
        let world = World::new(main);
        let mut talk = world.connect(client);
        talk.say(b"");
        talk.line("EHLO client.test");
        assert_eq!(talk.line(&format!("XFORWARD {said}")), "250 2.0.0 Ok");
        assert_eq!(talk.line("XFORWARD PORT=no"), "501 5.5.4 Bad PORT syntax: no");
        let mut send = || {
            for line in ["MAIL FROM:<a@remote.test>", "RCPT TO:<user1@lab.test>", "DATA"] {
                talk.line(line);
            }
            talk.say(b"x\r\n.\r\n");
            world.engine.submissions.lock().unwrap().pop().expect("a submission").envelope
        };
        let first = send();
        assert_eq!((first.context, first.client.name.as_str()), (context, name), "{said}");
        // The next message is that of whoever is connected.
        let second = send();
        assert_eq!(second.context, own, "{said}");
        assert_ne!(second.client.name, "n.test", "{said}");
    }
}

#[test]
fn access_actions_reach_the_submission() {
    let table = "smtpd_sender_restrictions = check_sender_access inline:{{a@remote.test=%}}\n";
    let act = |action: &str| {
        send(
            &table.replace('%', action),
            "127.0.0.1",
            "MAIL FROM:<a@remote.test>",
            &["RCPT TO:<user1@lab.test>", "RCPT TO:<user2@lab.test>"],
            "x\r\n.\r\n",
        )
    };
    assert!(act("HOLD").hold);
    assert!(act("DISCARD gone").discard);
    assert_eq!(act("FILTER smtp:[192.0.2.27]").envelope.filter, "smtp:[192.0.2.27]");
    assert_eq!(act("REDIRECT z@lab.test").redirect.as_deref(), Some("z@lab.test"));
    assert_eq!(act("BCC z@lab.test").bcc, ["z@lab.test"]);
    let prepended = act("PREPEND X-Checked: yes");
    let fields = String::from_utf8(prepended.trace_fields).unwrap();
    assert!(fields.starts_with("X-Checked: yes\nReceived: from"), "{fields}");
    let nothing = act("INFO seen");
    assert!(!nothing.hold && !nothing.discard && nothing.redirect.is_none() && nothing.bcc.is_empty());
}

#[test]
fn what_was_decided_about_a_message_is_forgotten_with_it() {
    let world = World::new("smtpd_sender_restrictions = check_sender_access inline:{{h@remote.test=HOLD}}\n");
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    for (sender, after) in [("h@remote.test", "RSET"), ("a@remote.test", "NOOP"), ("h@remote.test", "NOOP")] {
        talk.line(&format!("MAIL FROM:<{sender}>"));
        talk.line("RCPT TO:<user1@lab.test>");
        if after == "RSET" {
            talk.line("RSET");
            continue;
        }
        talk.line("DATA");
        talk.line("x\r\n.");
    }
    let held: Vec<bool> = world.engine.submissions.lock().unwrap().iter().map(|s| s.hold).collect();
    assert_eq!(held, [false, true]);
}

#[test]
fn chunks_become_one_message() {
    let world = World::new("");
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    talk.line("EHLO c.test");
    talk.say(b"MAIL FROM:<a@remote.test>\r\nRCPT TO:<user1@lab.test>\r\n");
    talk.say(b"BDAT 2\r\na\rBDAT 5\r\n\n.\r\nbBDAT 0 LAST\r\n");
    let submissions = world.engine.submissions.lock().unwrap();
    assert_eq!(content(&submissions[0]), "a\n.\nb\n");
}

#[test]
fn a_refused_message_is_answered_with_the_refusal() {
    let world = World::new("");
    *world.engine.refuse.lock().unwrap() = Some(Refusal {
        code: ReplyCode(451),
        status: EnhancedStatus::permanent(3, 0),
        text: "Error: queue file write error".into(),
    });
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    talk.line("MAIL FROM:<a@remote.test>");
    talk.line("RCPT TO:<user1@lab.test>");
    talk.line("DATA");
    assert_eq!(talk.line("x\r\n."), "451 4.3.0 Error: queue file write error");
    assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "503 5.5.1 Error: need MAIL command");
}

#[test]
fn no_room_on_the_disk() {
    let world = World::new("");
    *world.engine.free.lock().unwrap() = Some(10_240_000);
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    assert_eq!(talk.line("MAIL FROM:<a@remote.test>"), "452 4.3.1 Insufficient system storage");
    *world.engine.free.lock().unwrap() = Some(1 << 40);
    assert_eq!(talk.line("MAIL FROM:<a@remote.test>"), "250 2.1.0 Ok");
}

#[test]
fn content_can_be_taken_away_while_it_grows() {
    let world = World::new("");
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    for command in ["MAIL FROM:<a@remote.test>", "RCPT TO:<user1@lab.test>", "DATA"] {
        talk.line(command);
    }
    talk.say(b"From x\r\nA: b\r\n");
    assert_eq!(talk.session.take_content(), b"X-Mailbox-Line: From x\nA: b\n");
    assert!(talk.session.content_taken() > 0);
    talk.say(b"From y\r\n.\r\n");
    assert_eq!(content(&world.engine.submissions.lock().unwrap()[0]), "From y\n");
    assert_eq!(talk.session.content_taken(), 0);
}

#[test]
fn the_postmaster_hears_of_trouble_of_ours() {
    let world = World::new("smtpd_recipient_restrictions = check_nonsense, reject\n");
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    talk.line("MAIL FROM:<a@remote.test>");
    assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "451 4.3.5 Server configuration error");
    talk.line("QUIT");
    let notices = talk.session.finish(common::NOW);
    let [notice] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((notice.envelope.sender.as_str(), notice.source), ("double-bounce", Source::Notice));
    assert_eq!(notice.envelope.recipients[0].address, "postmaster");
    let text = content(notice);
    assert!(text.contains("Subject: Postfix SMTP server: errors from localhost[127.0.0.1]\n"), "{text}");
    assert!(text.contains("\n In:  RCPT TO:<user1@lab.test>\n Out: 451 4.3.5 Server configuration error\n"), "{text}");
    assert!(world.log.lines().iter().any(|l| l.contains("check_nonsense")));

    let quiet = World::new("");
    let mut talk = quiet.connect("127.0.0.1");
    talk.say(b"");
    talk.line("NONSENSE");
    assert!(talk.session.finish(common::NOW).is_empty());
}

/// Of Postfix before 2.10 there are files that set neither: what was the default then is in force, and nobody can relay.
#[test]
fn files_that_leave_relaying_to_the_program() {
    let world = World::new("compatibility_level = 0\n");
    for (client, code) in [("198.51.100.7", "554 5.7.1 "), ("127.0.0.1", "250 2.1.5 ")] {
        let mut talk = world.connect(client);
        talk.say(b"");
        talk.line("EHLO client.test");
        talk.line("MAIL FROM:<a@remote.test>");
        let said = talk.line("RCPT TO:<b@elsewhere.test>");
        assert!(said.starts_with(code), "{client}: {said}");
        assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "250 2.1.5 Ok");
    }
}

#[test]
fn open_relays_and_undefined_classes_are_not_started() {
    let why = |main: &str| common::settings(main).map(|_| ()).unwrap_err().to_string();
    assert!(
        why("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks\n")
            .starts_with("in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one")
    );
    assert!(!why("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit, reject\n").is_empty());
    assert!(!why("smtpd_relay_restrictions = warn_if_reject reject\nsmtpd_recipient_restrictions =\n").is_empty());
    assert_eq!(
        why("smtpd_restriction_classes = nothing\nnothing =\n"),
        "restriction class `nothing' needs a definition"
    );
    let class = "smtpd_restriction_classes = a\na = reject_unauth_destination\nsmtpd_relay_restrictions = a\n";
    assert!(common::settings(class).is_ok());
}

#[test]
fn settings_are_read() {
    let settings = common::settings(
        "smtpd_timeout = ${stress?{10}:{300}}s\nsmtpd_hard_error_limit = ${stress?{1}:{20}}\n\
         smtpd_forbid_bare_newline = note\nsmtpd_tls_security_level = may\nsmtpd_sasl_auth_enable = yes\n",
    )
    .unwrap();
    assert_eq!((settings.normal.timeout.as_secs(), settings.stressed.timeout.as_secs()), (300, 10));
    assert_eq!((settings.normal.hard_error_limit, settings.stressed.hard_error_limit), (20, 1));
    assert_eq!(settings.bare_newline, BareNewline::Note);
}

#[test]
fn a_client_that_makes_errors_waits() {
    let world = World::new("smtpd_error_sleep_time = 1s\nsmtpd_soft_error_limit = 2\n");
    let mut talk = world.connect("127.0.0.1");
    talk.say(b"");
    for _ in 0..2 {
        talk.line("NONSENSE");
    }
    assert_eq!(talk.pauses, 0);
    talk.line("NONSENSE");
    assert_eq!(talk.pauses, 1);
}

#[test]
fn rates_are_limited_but_for_exceptions() {
    let limits = "smtpd_client_message_rate_limit = 1\nsmtpd_client_recipient_rate_limit = 1\n";
    let world = World::new(limits);
    let mut talk = world.connect("198.51.100.7");
    talk.say(b"");
    talk.line("MAIL FROM:<a@remote.test>");
    talk.line("RCPT TO:<user1@lab.test>");
    assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "450 4.7.1 Error: too many recipients from 198.51.100.7");
    talk.line("RSET");
    assert_eq!(talk.line("MAIL FROM:<a@remote.test>"), "450 4.7.1 Error: too much mail from 198.51.100.7");
    assert!(world.log.lines().contains(
        &"warning: Message delivery request rate limit exceeded: 2 from client.outside.test[198.51.100.7] for service smtp"
            .to_owned()
    ));
    let mut friend = world.connect("127.0.0.1");
    friend.say(b"");
    for _ in 0..3 {
        assert_eq!(friend.line("MAIL FROM:<a@remote.test>"), "250 2.1.0 Ok");
        friend.line("RSET");
    }
}

#[test]
fn decisions_can_be_explained() {
    use yamabiko_receive::{Check, CheckState, Facts, Said};
    let world = World::new(
        "smtpd_recipient_restrictions = check_recipient_access inline:{{user1@lab.test=REJECT no}}, permit\n",
    );
    let peer = yamabiko_receive::Peer::unnamed([198, 51, 100, 7].into(), 0);
    let facts = Facts {
        helo: Some("c.test"),
        sender: Some("a@remote.test"),
        recipient: Some("user1@lab.test"),
        ..Facts::new("RCPT", &peer, common::NOW)
    };
    let mut state = CheckState::default();
    state.explain = true;
    let asked = world.settings.policy.check(Check::Rcpt, &facts, &mut state, &*world.resolver, None);
    assert!(matches!(pollster::block_on(asked), yamabiko_receive::Outcome::Refused(_)));
    let steps: Vec<_> = state.steps.iter().map(|s| (&*s.parameter, &*s.element, s.verdict)).collect();
    assert_eq!(
        steps,
        [
            ("smtpd_relay_restrictions", "permit_mynetworks", Said::Dunno),
            ("smtpd_relay_restrictions", "permit_sasl_authenticated", Said::Dunno),
            ("smtpd_relay_restrictions", "defer_unauth_destination", Said::Dunno),
            (
                "smtpd_recipient_restrictions",
                "check_recipient_access inline:{{user1@lab.test=REJECT no}}",
                Said::Reject
            ),
        ]
    );
    let last = state.steps.last().unwrap();
    assert!(last.matched.as_ref().unwrap().to_string().contains("user1@lab.test"), "{last:?}");
    assert_eq!(last.place.as_ref().map(|p| p.to_string().starts_with("main.cf")), Some(true));
}

//! Header section in, header section out, byte for byte. Most expectations were seen from Postfix 3.7.

mod common;

use common::{Bench, message, text};
use yamabiko_envelope::{BodyType, Content, RewriteContext, Source};

const DATE: &str = "Date: Sat, 21 Nov 2026 16:53:54 +0000 (UTC)\n";

/// With `{ID}` for the queue ID's Message-Id and `{DATE}` for the date line; all without the `Received:` line.
fn check(lines: &str, table: &[(&str, &str)]) {
    let bench = Bench::new(lines);
    for (given, expected) in table {
        let submission = message("s@lab.test", &["x@remote.test"], *given);
        let id = format!("<20261121165354.{}@mx.lab.test>", submission.envelope.queue_id);
        let accepted = bench.accept(submission);
        let expected = expected.replace("{ID}", &id).replace("{DATE}", DATE);
        assert_eq!(text(&accepted), format!("Received: by mx\n{expected}"), "{given:?} with {lines:?}");
    }
}

const DONE: &str = "Message-Id: <1@c>\nDate: x\nFrom: a@b.test\n";

fn done(text: &str) -> String {
    format!("{DONE}{text}")
}

#[test]
fn rewriting() {
    let check_done = |lines: &str, table: &[(&str, &str)]| {
        let table: Vec<(String, String)> =
            table.iter().map(|(a, b)| (done(a) + "\nbody\n", done(b) + "\nbody\n")).collect();
        check(lines, &table.iter().map(|(a, b)| (&**a, &**b)).collect::<Vec<_>>());
    };
    check_done(
        "",
        &[
            ("To: x@remote.test\n", "To: x@remote.test\n"),
            ("To:x@remote.test\n", "To:x@remote.test\n"),
            ("To:   Some   Name   <x@remote.test>  (note)\n", "To:   Some   Name   <x@remote.test>  (note)\n"),
            ("To: labuser\n", "To: labuser@mx.lab.test\n"),
            ("tO:labuser\n", "tO: labuser@mx.lab.test\n"),
            ("Reply-To: a, b\n", "Reply-To: a@mx.lab.test, b@mx.lab.test\n"),
            ("Cc: Name <site!user>\n", "Cc: Name <user@site>\n"),
            ("Cc: grp: c, d;\n", "Cc: grp: c@mx.lab.test, d@mx.lab.test;\n"),
            ("Subject : obsolete blank\n", "Subject: obsolete blank\n"),
            ("X-Long  :keep\n", "X-Long:keep\n"),
            ("To: x@host.test,\n  y@host.test\n", "To: x@host.test,\n  y@host.test\n"),
            ("Bcc: x\nSubject: s\n", "Subject: s\n"),
            ("Return-Path: <x>\nContent-Length: 5\nTo: a@b.test\n", "To: a@b.test\n"),
            ("To: <>\n", "To: <>\n"),
            ("To: \"a b\"@host\n", "To: \"a b\"@host\n"),
            ("To: \"a b\"\n", "To: \"a b\"@mx.lab.test\n"),
            ("Subject: user\nX-To: user\n", "Subject: user\nX-To: user\n"),
            // What is written otherwise than in quotes where quotes belong is rewritten, though nothing else changes.
            ("To:..da.me.@docomo.ne.jp\n", "To: \"..da.me.\"@docomo.ne.jp\n"),
            ("To:\"..da.me.\"@docomo.ne.jp\n", "To:\"..da.me.\"@docomo.ne.jp\n"),
            ("To:a@b@c.test\n", "To: \"a@b\"@c.test\n"),
            ("To: \"x@y\"\n", "To: \"x@y\"@mx.lab.test\n"),
            ("To: a@[1.2.3.4], @\n", "To: a@[1.2.3.4], \"\"\n"),
            ("To:  x @ y.test\n", "To:  x @ y.test\n"),
        ],
    );
    check_done("append_dot_mydomain = yes", &[("To: a@host, b@x.test\n", "To: a@host.lab.test, b@x.test\n")]);
    check_done(
        "canonical_maps = inline:{ old@lab.test=new@lab.test, @olddomain.test=@newdomain.test }",
        &[
            ("Cc: old@lab.test\n", "Cc: new@lab.test\n"),
            ("To: x@olddomain.test, \"Catch\" <c@r.test>\n", "To: x@newdomain.test, \"Catch\" <c@r.test>\n"),
        ],
    );
    check_done(
        "sender_canonical_maps = inline:{ a@x.test=s@x.test }\nrecipient_canonical_maps = inline:{ a@x.test=r@x.test }",
        &[
            ("Sender: a@x.test\nTo: a@x.test\n", "Sender: s@x.test\nTo: r@x.test\n"),
            ("Reply-To: a@x.test\nCc: a@x.test\n", "Reply-To: s@x.test\nCc: r@x.test\n"),
        ],
    );
    check_done(
        "canonical_maps = inline:{ a@x.test=c@x.test }\ncanonical_classes = header_recipient",
        &[("Sender: a@x.test\nTo: a@x.test\n", "Sender: a@x.test\nTo: c@x.test\n")],
    );
    check_done(
        "masquerade_domains = !keep.lab.test, lab.test\nmasquerade_exceptions = root",
        &[
            ("To: u@a.b.LAB.test, u@lab.test\n", "To: u@lab.test, u@lab.test\n"),
            ("To: root@a.lab.test\n", "To: root@a.lab.test\n"),
            ("To: u@h.keep.lab.test\n", "To: u@h.keep.lab.test\n"),
            ("To: u@xlab.test\n", "To: u@xlab.test\n"),
        ],
    );
    check_done(
        "message_drop_headers = x-secret, subject",
        &[("X-SECRET: 1\nSubject: s\nBcc: x@y.test\n", "Bcc: x@y.test\n")],
    );
}

#[test]
fn completion() {
    check(
        "",
        &[
            ("Subject: x\n\nbody\n", "Subject: x\nMessage-Id: {ID}\n{DATE}From: s@lab.test\n\nbody\n"),
            ("", "Message-Id: {ID}\n{DATE}From: s@lab.test\n"),
            ("Subject: x\n", "Subject: x\nMessage-Id: {ID}\n{DATE}From: s@lab.test\n"),
            ("Subject: x", "Subject: x\nMessage-Id: {ID}\n{DATE}From: s@lab.test\n"),
            ("\nbody\n", "Message-Id: {ID}\n{DATE}From: s@lab.test\n\nbody\n"),
            ("no header\nSubject: x\n", "Message-Id: {ID}\n{DATE}From: s@lab.test\n\nno header\nSubject: x\n"),
            (" lead\nTo: x\n", "Message-Id: {ID}\n{DATE}From: s@lab.test\n\n lead\nTo: x\n"),
            (
                "Resent-To: bob@x.test\n\nb\n",
                "Resent-To: bob@x.test\nResent-Message-Id: {ID}\nResent-{DATE}Resent-From: s@lab.test\n\nb\n",
            ),
            (
                "From one Thu\n>From two\nSubject: x\n\nb\n",
                "X-Mailbox-Line: From one Thu\nX-Mailbox-Line: >From two\nSubject: x\nMessage-Id: {ID}\n{DATE}From: s@lab.test\n\nb\n",
            ),
        ],
    );
    let to = "undisclosed_recipients_header = To: undisclosed-recipients:;";
    for (given, expected) in [
        ("Bcc: x\n\n", "To: undisclosed-recipients:;\n\n"),
        ("Cc: a@b.test\n\n", "Cc: a@b.test\n\n"),
        ("Resent-To: a@b.test\nResent-Message-Id: <2@c>\nResent-Date: x\nResent-From: a@b.test\n\n", ""),
    ] {
        let expected = if expected.is_empty() { done(given) } else { done(expected) };
        check(to, &[(&done(given), &expected)]);
    }
}

#[test]
fn full_names() {
    let bench = Bench::new("");
    for (name, from) in [
        ("Plain Name", "Plain Name <root@lab.test>"),
        ("O, Brien", "\"O, Brien\" <root@lab.test>"),
        ("quo\"te", "\"quo\\\"te\" <root@lab.test>"),
        ("back\\slash", "\"back\\\\slash\" <root@lab.test>"),
        ("a.b", "\"a.b\" <root@lab.test>"),
        ("José X", "José X <root@lab.test>"),
        ("it's", "it's <root@lab.test>"),
        ("", "root@lab.test"),
        ("two\r\nlines", "two  lines <root@lab.test>"),
    ] {
        let mut submission = message("root@lab.test", &["x@remote.test"], "To: a@b.test\n\n");
        submission.source = Source::Local { uid: 0 };
        submission.full_name = name.into();
        let accepted = bench.accept(submission);
        assert!(text(&accepted).contains(&format!("\nFrom: {from}\n")), "{name}: {}", text(&accepted));
        assert_eq!(accepted.envelope.smtputf8, !name.is_ascii());
    }
    let accepted = bench.accept(message("", &["x@remote.test"], "To: a@b.test\n\n"));
    assert!(text(&accepted).contains("\nFrom: MAILER-DAEMON\n"));
}

#[test]
fn remote_clients_are_left_alone() {
    let given = "Subject : x\nBcc: y\nFrom: foo\nTo: a,b\n\n";
    let remote = |lines: &str, given: &str| {
        let bench = Bench::new(lines);
        let mut submission = message("s@lab.test", &["x@remote.test"], given);
        submission.envelope.context = RewriteContext::Remote;
        (text(&bench.accept(submission)), bench.events())
    };
    let (out, events) = remote("undisclosed_recipients_header = To: u:;", given);
    assert_eq!(out, "Received: by mx\nSubject: x\nFrom: foo\nTo: a,b\n\n");
    assert_eq!(events, ["message-id="]);
    let (out, _) =
        remote("remote_header_rewrite_domain = domain.invalid\nalways_add_missing_headers = no", "From: foo\n\n");
    assert!(out.starts_with("Received: by mx\nFrom: foo@domain.invalid\nMessage-Id: <"), "{out}");
    let (out, _) = remote("always_add_missing_headers = yes", "From: foo\n\n");
    assert!(out.starts_with("Received: by mx\nFrom: foo\nMessage-Id: <"), "{out}");
}

#[test]
fn an_unchanged_message_is_not_copied() {
    let bench = Bench::new("");
    let given = done("To: x@y.test\n\nbody without end");
    let submission = message("s@lab.test", &["x@remote.test"], given.clone());
    let Content::Memory(before) = submission.content.clone() else { panic!() };
    let accepted = bench.accept(submission);
    assert_eq!(accepted.head, "Received: by mx\n");
    let [Content::Memory(after)] = accepted.body.as_slice() else { panic!() };
    assert_eq!((after.as_ptr(), after.len()), (before.as_ptr(), before.len()));
    assert_eq!(bench.events(), ["message-id=<1@c>"]);
    assert_eq!(accepted.envelope.message_id, "<1@c>");
}

#[test]
fn message_ids_are_told() {
    let bench = Bench::new("enable_long_queue_ids = yes");
    let id = message("", &["x@y.test"], "").envelope.queue_id;
    for (given, expected) in [
        ("Message-Id:\n <folded@id>\n\n", "message-id=<folded@id>".to_owned()),
        ("Subject: x\n\n", format!("message-id=<{id}@mx.lab.test>")),
        ("Resent-Message-Id: <r@x>\n\n", "resent-message-id=<r@x> message-id=".to_owned()),
    ] {
        bench.accept(message("s@lab.test", &["x@remote.test"], given));
        assert_eq!(bench.events().join(" "), expected);
    }
}

#[test]
fn long_headers_are_cut() {
    let digits = |n: usize| "0123456789".repeat(30)[..n].to_owned();
    let rows = |lines: &[usize]| {
        let mut out = format!("Y-Long: {}", digits(lines[0] - 8));
        lines[1..].iter().for_each(|n| out += &format!("\n {}", digits(n - 1)));
        out + "\n"
    };
    let cases = [
        (rows(&[215]), rows(&[200])),
        // Cut within a line when a tenth of the limit or more would go unused, else at the line end.
        (rows(&[69, 61, 80, 5]), rows(&[69, 61, 68])),
        (rows(&[69, 61, 60, 60]), rows(&[69, 61, 60])),
        (rows(&[69, 61]), rows(&[69, 61])),
    ];
    let table: Vec<_> = cases.iter().map(|(a, b)| (done(a) + "\n", done(b) + "\n")).collect();
    check("header_size_limit = 200", &table.iter().map(|(a, b)| (&**a, &**b)).collect::<Vec<_>>());
    let names: Vec<String> =
        [(32, 'a'), (44, 'b'), (47, 'c'), (37, 'd')].iter().map(|(n, c)| c.to_string().repeat(*n)).collect();
    let at = |n: usize| format!("{}@mx.lab.test", names[n]);
    check(
        "header_size_limit = 200",
        &[(
            &done(&format!("To: {}\n\n", names.join(", "))),
            &done(&format!("To: {},\n\t{},\n\t{},\n\t{}\n\n", at(0), at(1), at(2), &names[3][..31])),
        )],
    );
}

#[test]
fn hops_and_size() {
    let bench = Bench::new("hopcount_limit = 4");
    let refusal = bench.refuse(message("s@lab.test", &["x@r.test"], "Received: 1\nReceived: 2\nReceived: 3\n\n"));
    assert_eq!((refusal.code.0, &*refusal.reply_text()), (554, "5.4.0 Error: too many hops"));
    assert_eq!(bench.events(), ["warning: message rejected: hopcount exceeded"]);
    bench.accept(message("s@lab.test", &["x@r.test"], "Received: 1\nReceived: 2\n\n"));
    let bench = Bench::new("message_size_limit = 1000");
    let refusal = bench.refuse(message("s@lab.test", &["x@r.test"], "x".repeat(1001)));
    assert_eq!((refusal.code.0, &*refusal.reply_text()), (552, "5.3.4 Error: message file too big"));
}

#[test]
fn eight_bit_announced() {
    let bench = Bench::new("");
    for (value, body) in [("8BIT", BodyType::EightBitMime), ("7bit", BodyType::Unspecified)] {
        let given = format!("Content-Transfer-Encoding: {value}\n\n");
        assert_eq!(bench.accept(message("s@lab.test", &["x@r.test"], given)).envelope.body, body);
    }
}

#[test]
fn characters() {
    let bench = Bench::new("message_reject_characters = \\0\nmessage_strip_characters = \\001\\n");
    let refusal = bench.refuse(message("s@lab.test", &["x@r.test"], &b"Subject: x\n\nfine\na\x01b\0c\n"[..]));
    assert_eq!((refusal.code.0, &*refusal.reply_text()), (550, "5.7.1 disallowed character"));
    assert_eq!(bench.events().last().unwrap(), "reject content a\u{1}b");
    let accepted = bench.accept(message("s@lab.test", &["x@r.test"], done("Subject: s\u{1}t\nTo: a@b.c\n\nx\u{1}y\n")));
    assert_eq!(text(&accepted), format!("Received: by mx\n{DONE}Subject: st\nTo: a@b.c\n\nxy\n"));
    let mut submission = message("s@lab.test", &["x@r.test"], done("To: a@b.c\n\nx\u{1}y\0\n"));
    submission.no_header_body_checks = true;
    assert!(text(&bench.accept(submission)).ends_with("x\u{1}y\0\n"));
}

#[test]
fn a_stray_cr_is_a_blank() {
    let bench = Bench::new("");
    let given = done("Subject: a\rb\nTo: a@b.c\n\nx\r.\ry\n\r.\n");
    let accepted = bench.accept(message("s@lab.test", &["x@r.test"], given));
    assert_eq!(text(&accepted), format!("Received: by mx\n{DONE}Subject: a b\nTo: a@b.c\n\nx . y\n .\n"));
}

#[test]
fn hostile_headers_end_and_keep_the_body() {
    let bench = Bench::new("cleanup_replace_stray_cr_lf = no\n");
    let body = "\n.body\r\0\u{fffd} \n\n";
    for head in [
        format!("X: {}\n", "y".repeat(1 << 20)),
        format!("To: {}\n", "a,".repeat(1 << 19)),
        format!("To: {}\n", "(".repeat(1 << 20)),
        format!("From: {}\n", "<\"".repeat(1 << 19)),
        "X: y\n".repeat(100_000),
        "To: a@b.test\n".repeat(20_000),
        format!("X:\n{}", " z\n".repeat(100_000)),
        "X: a\0b\0\n\0: x\n".into(),
        "\u{1}\n".into(),
        String::new(),
        ":\n::\n".into(),
        format!("{}\n", "z".repeat(1 << 20)),
        ">".repeat(1 << 16) + "From x\n",
        "From \n".repeat(50_000),
    ] {
        let accepted = bench.accept(message("s@lab.test", &["x@r.test"], format!("{head}{body}")));
        assert!(accepted.body[0].to_bytes().unwrap().ends_with(&body.as_bytes()[1..]), "{:.40}", head);
    }
}

#[test]
fn content_in_a_file() {
    use std::io::Write;
    let bench = Bench::new("");
    for size in [0usize, 10, 70_000, 300_000] {
        for head in [done("To: a@b.test\n\n"), format!("To: user\nX: {}\n\n", "x\n ".repeat(size / 4)), String::new()] {
            let given = format!("{head}{}", "line\n".repeat(size / 5));
            let in_memory = text(&bench.accept(message("s@lab.test", &["x@r.test"], given.clone())));
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "before{given}after").unwrap();
            let mut submission = message("s@lab.test", &["x@r.test"], "");
            submission.content = Content::File { file: std::sync::Arc::new(file), offset: 6, len: given.len() as u64 };
            assert_eq!(text(&bench.accept(submission)), in_memory);
        }
    }
}

/// What header checks cannot see does not get in.
#[test]
fn header_sections_beyond_the_limit() {
    let bench = Bench::new("header_checks = pcre:{{/^Subject: bad/ REJECT}}");
    let filler = format!("X: {}\n", "x".repeat(994)).repeat((8 << 20) / 998 + 1);
    let long = "x".repeat(9 << 20);
    let in_file = |text: &str| {
        let mut made = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut made, text.as_bytes()).unwrap();
        Content::File { file: std::sync::Arc::new(made), offset: 0, len: text.len() as u64 }
    };
    let cases = [
        (format!("{filler}Subject: bad\n\ntext\n"), false),
        (format!("{filler}Subject: good\n\ntext\n"), false),
        (format!("Subject: {long}\n\ntext\n"), false),
        (format!("Subject: good\n {long}"), false),
        // A long body is none of it, however its lines are cut.
        (format!("Subject: good\n\n{filler}"), true),
        (format!("Subject: good\n\n{long}"), true),
        (format!("Subject: good\n{long}"), true),
        (long.clone(), true),
    ];
    for (text, taken) in cases {
        for content in [Content::from(text.clone().into_bytes()), in_file(&text)] {
            let mut submission = message("s@lab.test", &["x@remote.test"], "");
            submission.content = content;
            let shown = &text[..40];
            if taken {
                bench.accept(submission);
            } else {
                let refusal = bench.refuse(submission);
                assert_eq!(refusal.code.0, 552, "{shown}");
                assert_eq!(refusal.reply_text(), "5.3.4 Error: message header section too large", "{shown}");
            }
        }
    }
}

#[test]
fn headers_that_end_without_an_empty_line() {
    for (setting, expected) in [
        ("", "Subject: s\n\nbody of text\n"),
        ("non_empty_end_of_header_action = fix_quietly", "Subject: s\n\nbody of text\n"),
        (
            "non_empty_end_of_header_action = add_header",
            "Subject: s\nMIME-Error: message header was not terminated by empty line\n\nbody of text\n",
        ),
    ] {
        check(setting, &[(&done("To: a@b.c\nSubject: s\nbody of text\n"), &done(&format!("To: a@b.c\n{expected}")))]);
        check(setting, &[(&done("To: a@b.c\n\nbody\n"), &done("To: a@b.c\n\nbody\n"))]);
    }
    let bench = Bench::new("non_empty_end_of_header_action = reject");
    let refusal = bench.refuse(message("s@lab.test", &["x@r.test"], "Subject: s\nbody of text\n"));
    let reply = (refusal.code.0, &*refusal.reply_text());
    assert_eq!(reply, (550, "5.6.0 message header was not terminated by empty line"));
    let told = "reject mime-error message header was not terminated by empty line: body of text";
    assert_eq!(bench.events().last().unwrap(), told);
    bench.accept(message("s@lab.test", &["x@r.test"], "Subject: s\n\nbody of text\n"));
}

#[test]
fn eight_bits_become_seven_on_wish() {
    let eight = done("To: a@b.c\nMime-Version: 1.0\nContent-Transfer-Encoding: 8bit\n\n\u{e9}\n");
    let unnamed = done("To: a@b.c\n\n\u{e9}\n");
    check("", &[(&eight, &eight), (&unnamed, &unnamed)]);
    let seven = done("To: a@b.c\nMime-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9\n");
    check("force_mime_input_conversion = yes", &[(&eight, &seven), (&unnamed, &unnamed)]);
    check("force_mime_input_conversion = yes\ndisable_mime_input_processing = yes", &[(&eight, &eight)]);
}

#[test]
fn only_so_many_tokens_of_addresses() {
    let many = done("To: a@b.c, user, other, more\n\nx\n");
    check("header_address_token_limit = 7", &[(&many, &done("To: a@b.c, user@mx.lab.test\n\nx\n"))]);
}

#[test]
fn requiretls_is_recorded_in_the_header_and_read_from_it() {
    use yamabiko_envelope::TlsWish::{NotRequired, Policy, Required};
    let field = "Require-TLS-ESMTP: yes\n";
    // Settings, the envelope's wish, fields of the message; the wish then, and whether our field is put in front.
    let table = [
        ("", Policy, "", Policy, false),
        ("", Required, "", Required, true),
        ("", Required, field, Required, false),
        ("", Policy, field, Required, false),
        ("", Policy, "require-tls-esmtp : Yes\n", Required, false),
        ("", Policy, "Require-TLS-ESMTP: no\n", Policy, false),
        ("", Policy, "TLS-Required: No\nRequire-TLS-ESMTP: yes\n", Required, false),
        ("", Policy, "TLS-Required: No\n", NotRequired, false),
        ("", Required, "TLS-Required: No\n", Required, true),
        ("requiretls_esmtp_header = no", Required, "", Required, false),
        ("requiretls_esmtp_header = no", Policy, field, Policy, false),
        ("requiretls_enable = no", Policy, field, Policy, false),
    ];
    for (settings, wish, fields, wanted, added) in table {
        let mut submission = message("s@lab.test", &["x@remote.test"], format!("{DONE}{fields}\nbody\n"));
        submission.envelope.tls = wish;
        let accepted = Bench::new(settings).accept(submission);
        assert_eq!(accepted.envelope.tls, wanted, "{settings} {wish:?} {fields}");
        let text = text(&accepted);
        assert_eq!(text.starts_with(&format!("{field}Received: by mx\n")), added, "{text}");
    }
}

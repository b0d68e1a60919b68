//! header_checks and its kin: one table of rules, messages through it, and what came of them.

mod common;

use common::{Bench, message, recipients, text};
use yamabiko_cleanup::{Accepted, Verdict};
use yamabiko_envelope::Source;

const RULES: &str = "\
if /^X-/
/^X-Drop:/ IGNORE
/^X-Strip:/ strip why
/^X-Warn:/ WARN look here
/^X-Info:/ INFO
endif
/^Subject: reject$/ REJECT
/^Subject: refuse (.*)/ REJECT 5.7.9 no $1
/^Subject: later/ REJECT 4.7.1 not now
/^Subject: success/ REJECT 2.0.0 odd
/^Subject: discard/ DISCARD away
/^Subject: hold/ HOLD
/^Subject: replace (.*)/ REPLACE Subject: [$1]
/^Subject: no header/ REPLACE nothing
/^Subject: prepend/ PREPEND X-New: 1
/^Subject: redirect/ REDIRECT other@lab.test
/^Subject: nowhere/ REDIRECT nobody
/^Subject: bcc/ BCC copy@lab.test
/^Subject: filter/ FILTER smtp:[192.0.2.1]:10025
/^Subject: unfiltered/ FILTER smtp
/^Subject: pass/ PASS trusted
/^Subject: typo/ REJEC
/^Subject: number/ 450 4.7.1 later
/^Subject: dunno/ DUNNO
/^To: drop/ REPLACE To: nobody
/^To: expand/ REPLACE To: user
/^Received: / WARN seen
/^Subject: (.*)/ WARN any
/^Late:/ REJECT
";

fn bench(lines: &str, rules: &str) -> (Bench, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules");
    std::fs::write(&path, rules).unwrap();
    let lines = lines.replace("RULES", &format!("regexp:{}", path.display()));
    (Bench::new(&lines), dir)
}

fn mail(fields: &str, body: &str) -> yamabiko_envelope::Submission {
    message("s@remote.test", &["r@lab.test"], format!("From: f@remote.test\nMessage-Id: <1@x>\n{fields}\n{body}"))
}

/// What of the events is about checks.
fn said(bench: &Bench) -> Vec<String> {
    bench.events().into_iter().filter(|event| !event.contains("message-id=") && !event.contains("Received: ")).collect()
}

fn accepted(verdict: Verdict) -> Accepted {
    match verdict {
        Verdict::Accept(accepted) => *accepted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn actions_on_headers() {
    let (bench, _dir) = bench("header_checks = RULES", RULES);
    // Field, what is stored for it, what is said.
    let cases: &[(&str, &str, &[&str])] = &[
        ("Subject: dunno", "Subject: dunno", &[]),
        ("X-Drop: 1", "", &[]),
        ("X-Strip: 1", "", &["strip header X-Strip: 1"]),
        ("X-Warn: 1", "X-Warn: 1", &["warning header X-Warn: 1"]),
        ("X-Info: a\n b", "X-Info: a\n b", &["info header X-Info: a\n b"]),
        ("X-Other: 1", "X-Other: 1", &[]),
        ("Subject: replace me", "Subject: [me]", &["replace header Subject: replace me"]),
        ("Subject: prepend", "X-New: 1\nSubject: prepend", &["prepend header Subject: prepend"]),
        ("Subject: something", "Subject: something", &["warning header Subject: something"]),
        // A replaced field is rewritten as if it had come so.
        ("To: expand", "To: user@mx.lab.test", &["replace header To: expand"]),
        (
            "Subject: no header",
            "Subject: no header",
            &["warning: bad REPLACE header text \"nothing\" in header_checks map -- need \"headername: headervalue\""],
        ),
        (
            "Subject: nowhere",
            "Subject: nowhere",
            &["warning: bad REDIRECT target \"nobody\" in header_checks map -- need user@domain"],
        ),
        (
            "Subject: unfiltered",
            "Subject: unfiltered",
            &["warning: bad FILTER command smtp in header_checks -- need transport:destination"],
        ),
        ("Subject: typo", "Subject: typo", &["warning: unknown command in header_checks map: REJEC"]),
        ("Subject: number", "Subject: number", &["warning: unknown command in header_checks map: 450 4.7.1 later"]),
        // No more checks after PASS.
        ("Subject: pass\nLate: 1", "Subject: pass\nLate: 1", &["pass header Subject: pass"]),
    ];
    for (field, stored, events) in cases {
        let accepted = accepted(bench.process(mail(&format!("{field}\n"), "body\n")));
        let all = text(&accepted);
        let rest = all.split_once("Message-Id: <1@x>\n").unwrap().1;
        let rest = rest.split("\n\n").next().unwrap().split("\nDate:").next().unwrap();
        let rest = rest.split("To: undisclosed-recipients").next().unwrap().trim_end();
        let rest = if rest.starts_with("Date:") { "" } else { rest };
        assert_eq!(rest, *stored, "{field}");
        assert_eq!(said(&bench), *events, "{field}");
        assert!(!accepted.hold);
    }
}

#[test]
fn the_header_that_we_add_is_checked_too() {
    let (bench, _dir) = bench("header_checks = RULES", RULES);
    bench.accept(mail("", "x\n"));
    assert!(bench.events().contains(&"warning header Received: by mx".to_owned()));
}

#[test]
fn refusals() {
    let (bench, _dir) = bench("header_checks = RULES", RULES);
    for (subject, reply) in [
        ("reject", "550 5.7.1 message content rejected"),
        ("refuse you", "550 5.7.9 no you"),
        ("later", "451 4.7.1 not now"),
        ("success", "451 4.0.0 odd"),
    ] {
        let refusal = bench.refuse(mail(&format!("Subject: {subject}\n"), "x\n"));
        assert_eq!(format!("{} {}", refusal.code, refusal.reply_text()), reply);
        assert_eq!(said(&bench), [format!("reject header Subject: {subject}")]);
    }
    assert!(matches!(bench.process(mail("Subject: discard\n", "x\n")), Verdict::Discard));
    assert_eq!(said(&bench), ["discard header Subject: discard"]);
}

#[test]
fn what_becomes_of_the_envelope() {
    let (bench, _dir) = bench("header_checks = RULES", RULES);
    assert!(bench.accept(mail("Subject: hold\n", "x\n")).hold);
    let redirected = bench.accept(mail("Subject: redirect\nLate: 1\n", "x\n"));
    assert_eq!(recipients(&redirected), ["other@lab.test (r@lab.test)"]);
    let copied = bench.accept(mail("Subject: bcc\n", "x\n"));
    assert_eq!(recipients(&copied), ["r@lab.test", "copy@lab.test never"]);
    assert_eq!(bench.accept(mail("Subject: filter\n", "x\n")).envelope.filter, "smtp:[192.0.2.1]:10025");
}

#[test]
fn only_mail_from_outside_is_checked() {
    let (bench, _dir) = bench("header_checks = RULES", RULES);
    for source in [Source::Notice, Source::Forwarded, Source::Requeued] {
        let mut submission = mail("Subject: reject\n", "x\n");
        submission.source = source;
        bench.accept(submission);
    }
    let mut submission = mail("Subject: reject\n", "x\n");
    submission.no_header_body_checks = true;
    bench.accept(submission);
    let mut submission = mail("Subject: reject\n", "x\n");
    submission.source = Source::Local { uid: 1 };
    // Its submitter has gone: it is made ready to be returned.
    match bench.process(submission) {
        Verdict::Return(accepted, refusal) => {
            assert_eq!(refusal.reply_text(), "5.7.1 message content rejected");
            assert!(text(&accepted).contains("\nDate: "));
        }
        other => panic!("{other:?}"),
    }
}

const BODY_RULES: &str = "\
/^drop/ IGNORE
/^change (.*)/ REPLACE changed $1
/^before/ PREPEND new line
/^bad/ REJECT
/^long x*$/ WARN piece
";

/// A content in memory and the same in a file.
fn both(fields: &str, body: &str) -> Vec<yamabiko_envelope::Submission> {
    let in_memory = mail(fields, body);
    let mut in_file = in_memory.clone();
    let bytes = in_memory.content.to_bytes().unwrap();
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    in_file.content =
        yamabiko_envelope::Content::File { file: std::sync::Arc::new(file), offset: 0, len: bytes.len() as u64 };
    vec![in_memory, in_file]
}

#[test]
fn lines_of_the_body() {
    let (bench, _dir) = bench("body_checks = RULES", BODY_RULES);
    for (body, stored) in [
        ("one\ndrop\ntwo\n", "one\ntwo\n"),
        ("drop\n", ""),
        ("change it\nx\n", "changed it\nx\n"),
        ("x\nchange it", "x\nchanged it"),
        ("before\n", "new line\nbefore\n"),
        ("a\n\nb\n", "a\n\nb\n"),
        ("", ""),
    ] {
        for submission in both("Subject: x\nDate: x\nTo: t@lab.test\n", body) {
            let accepted = bench.accept(submission);
            let all = text(&accepted);
            assert_eq!(all.split_once("\n\n").unwrap().1, stored, "{body:?}");
        }
    }
    assert_eq!(bench.refuse(mail("", "x\nbad\n")).reply_text(), "5.7.1 message content rejected");
    // Only so much of each part is looked at; a long line is looked at in pieces.
    let (bench, _dir) =
        self::bench("body_checks = RULES\nbody_checks_size_limit = 10\nline_length_limit = 512", BODY_RULES);
    bench.accept(mail("", "123456789\n1\nbad\n"));
    bench.refuse(mail("", "12345678\n1\nbad\n"));
    let parts = "Content-Type: multipart/mixed; boundary=b\n";
    bench.refuse(mail(parts, "--b\n\n123456789012345\n--b\n\nbad\n--b--\n"));
    bench.events();
    bench.accept(mail("", &format!("long {}\n", "x".repeat(600))));
    // Said is what fits.
    assert_eq!(said(&bench), [format!("warning body long {}", "x".repeat(195))]);
}

#[test]
fn parts_and_nested_messages() {
    let rules = "/^Content-Type: .*exe/ REJECT attachment\n/^Subject: nested/ WARN inner\n/^X-Part:/ IGNORE\n\
                 /^X-More:/ PREPEND X-Before: 1\n/^X-Last:/ REPLACE X-Last: 2\n";
    let (bench, _dir) = bench("header_checks = RULES", rules);
    let body = "--b\nContent-Type: text/plain\nX-Part: 1\nX-More:\n folded\n\nhello\n--b\nContent-Type: message/rfc822\n\n\
                Subject: nested\n\ninner\n--b\nX-Last: 1\n--b--\nX-Part: body\n";
    let stored = "--b\nContent-Type: text/plain\nX-Before: 1\nX-More:\n folded\n\nhello\n--b\n\
                  Content-Type: message/rfc822\n\nSubject: nested\n\ninner\n--b\nX-Last: 2\n--b--\nX-Part: body\n";
    let fields = "Subject: x\nDate: x\nTo: t@lab.test\nContent-Type: multipart/mixed; boundary=b\n";
    for submission in both(fields, body) {
        let accepted = bench.accept(submission);
        assert_eq!(text(&accepted).split_once("\n\n").unwrap().1, stored);
        assert!(said(&bench).contains(&"warning header Subject: nested".to_owned()));
    }
    let exe = "--b\nContent-Type: application/x;\n name=run.exe\n\nx\n--b--\n";
    assert_eq!(bench.refuse(mail(fields, exe)).reply_text(), "5.7.1 attachment");
    // MIME's own fields in the header of the message belong to mime_header_checks.
    let (bench, _dir) = self::bench("header_checks = RULES\nmime_header_checks =", rules);
    bench.accept(mail("Content-Type: application/exe\n", exe));
    // Without MIME all of it is body.
    let (bench, _dir) = self::bench("header_checks = RULES\ndisable_mime_input_processing = yes", rules);
    bench.accept(mail(fields, exe));
}

#[test]
fn strict_settings_and_nesting() {
    let deep = |levels: usize| {
        let mut body = String::new();
        for level in 0..levels {
            body.push_str(&format!("--b{level}\nContent-Type: multipart/mixed; boundary=b{}\n\n", level + 1));
        }
        body
    };
    let fields = "Content-Type: multipart/mixed; boundary=b0\n";
    let bench = Bench::new("mime_nesting_limit = 20");
    bench.accept(mail(fields, &deep(10)));
    assert_eq!(bench.refuse(mail(fields, &deep(30))).reply_text(), "5.6.0 MIME nesting exceeds safety limit");
    for (setting, fields, body, reply) in [
        ("strict_7bit_headers", "X: \u{e9}\n", "x\n", "5.6.0 improper use of 8-bit data in message header"),
        ("strict_8bitmime_body", "", "\u{e9}\n", "5.6.0 improper use of 8-bit data in message body"),
        ("strict_8bitmime", "", "\u{e9}\n", "5.6.0 improper use of 8-bit data in message body"),
        (
            "strict_mime_encoding_domain",
            "Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n",
            "x\n",
            "5.6.0 invalid message/* or multipart/* encoding domain",
        ),
    ] {
        Bench::new("").accept(mail(fields, body));
        let bench = Bench::new(&format!("{setting} = yes"));
        let refusal = bench.refuse(mail(fields, body));
        assert_eq!(format!("{} {}", refusal.code, refusal.reply_text()), format!("550 {reply}"), "{setting}");
        assert!(bench.events().iter().any(|event| event.starts_with("reject mime-error ")), "{setting}");
    }
    Bench::new("strict_8bitmime_body = yes").accept(mail("Content-Transfer-Encoding: 8bit\n", "\u{e9}\n"));
}

#[test]
fn bytes_that_are_no_text_survive() {
    let (bench, _dir) = bench("header_checks = RULES", "/^Subject: (.*)/ REPLACE Subject: [x] $1\n");
    let mut submission = mail("", "x\n");
    let mut bytes = b"Subject: \x93\xfa\x96\x7b\nDate: x\nTo: t@lab.test\nFrom: f@x\nMessage-Id: <1@x>\n\nx\n".to_vec();
    submission.content = bytes.clone().into();
    let accepted = bench.accept(submission);
    bytes.splice(9..9, b"[x] ".iter().copied());
    let mut stored = accepted.head.to_vec();
    stored.extend_from_slice(&accepted.body[0].to_bytes().unwrap());
    assert!(stored.ends_with(&bytes));
}

#[test]
fn a_table_that_cannot_be_read_makes_mail_wait() {
    let bench = Bench::new("header_checks = regexp:/nonexistent/rules");
    let refusal = bench.refuse(mail("Subject: x\n", "x\n"));
    assert_eq!(format!("{} {}", refusal.code, refusal.reply_text()), "451 4.3.0 Error: queue file write error");
}

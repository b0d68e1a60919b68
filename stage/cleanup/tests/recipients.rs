//! Sender and recipients in, final recipients out. Most expectations were seen from Postfix 3.7.

mod common;

use common::{Bench, message, recipients};
use yamabiko_envelope::{Notify, Source, Submission};

const MAPS: &str =
    "virtual_alias_maps = inline:{ {list@lab.test=labuser2, labuser3}, archive=vault, @map.test=@lab.test,
  chain@v.test=one@v.test, one@v.test=labuser1, {loop@v.test=loop@v.test, labuser3}, {mutual@v.test=list@lab.test, one@v.test} }
recipient_delimiter = +
";

fn submit(recipients: &[&str]) -> Submission {
    message("s@lab.test", recipients, "To: x@y.test\n\n")
}

fn check(lines: &str, table: &[(&[&str], &[&str])]) {
    let bench = Bench::new(lines);
    for (given, expected) in table {
        assert_eq!(recipients(&bench.accept(submit(given))), *expected, "{given:?} with {lines}");
    }
}

#[test]
fn aliases() {
    check(
        MAPS,
        &[
            (&["x@remote.test"], &["x@remote.test"]),
            (&["labuser2"], &["labuser2@mx.lab.test (labuser2)"]),
            (
                &["list+x@lab.test"],
                &["labuser2+x@mx.lab.test (list+x@lab.test)", "labuser3+x@mx.lab.test (list+x@lab.test)"],
            ),
            (&["any+y@map.test"], &["any+y@lab.test (any+y@map.test)"]),
            (&["chain@v.test"], &["labuser1@mx.lab.test (chain@v.test)"]),
            (&["loop@v.test"], &["loop@v.test", "labuser3@mx.lab.test (loop@v.test)"]),
            (
                &["mutual@v.test"],
                &[
                    "labuser2@mx.lab.test (mutual@v.test)",
                    "labuser1@mx.lab.test (mutual@v.test)",
                    "labuser3@mx.lab.test (mutual@v.test)",
                ],
            ),
            (&[""], &["MAILER-DAEMON@mx.lab.test ()"]),
        ],
    );
}

#[test]
fn duplicates() {
    check(
        MAPS,
        &[
            (&["a@b.test", "A@B.test", "c@b.test", "a@b.test"], &["a@b.test", "c@b.test"]),
            (
                &["labuser2@mx.lab.test", "list@lab.test"],
                &[
                    "labuser2@mx.lab.test",
                    "labuser2@mx.lab.test (list@lab.test)",
                    "labuser3@mx.lab.test (list@lab.test)",
                ],
            ),
        ],
    );
    check(
        &format!("{MAPS}enable_original_recipient = no"),
        &[
            (&["a@b.test", "A@B.test", "c@b.test"], &["a@b.test ()", "c@b.test ()"]),
            (&["labuser2@mx.lab.test", "list@lab.test"], &["labuser2@mx.lab.test ()", "labuser3@mx.lab.test ()"]),
        ],
    );
    check(
        "duplicate_filter_limit = 1\nenable_original_recipient = no",
        &[(&["a@b.test", "c@b.test", "c@b.test", "a@b.test"], &["a@b.test ()", "c@b.test ()", "c@b.test ()"])],
    );
}

#[test]
fn copies() {
    let lines = format!(
        "{MAPS}always_bcc = archive\nsender_bcc_maps = inline:{{ s@lab.test=sbcc }}
recipient_bcc_maps = inline:{{ labuser1@lab.test=rbcc }}"
    );
    let expected = [
        "sbcc@mx.lab.test never",
        "labuser1@lab.test",
        "rbcc@mx.lab.test never",
        "x@y.test",
        "vault@mx.lab.test (archive@mx.lab.test) never",
    ];
    check(&lines, &[(&["labuser1@lab.test", "x@y.test"], &expected)]);
    let bench = Bench::new(&lines);
    let mut submission = submit(&["x@y.test"]);
    submission.bcc = vec!["by-access".into()];
    assert_eq!(
        recipients(&bench.accept(submission)),
        ["sbcc@mx.lab.test never", "x@y.test", "by-access@mx.lab.test never", expected[4]]
    );
    for source in [Source::Notice, Source::Forwarded, Source::Requeued] {
        let mut submission = submit(&["labuser1@lab.test"]);
        submission.source = source;
        assert_eq!(recipients(&bench.accept(submission)), ["labuser1@lab.test"], "{source:?}");
    }
    let mut submission = submit(&["labuser1@lab.test", "list@lab.test"]);
    submission.no_address_mappings = true;
    assert_eq!(recipients(&bench.accept(submission)), ["labuser1@lab.test", "list@lab.test"]);
}

#[test]
fn canonical_and_masquerade_in_order() {
    let lines = "recipient_canonical_maps = inline:{ a@h.lab.test=b@h.lab.test }
canonical_maps = inline:{ b@h.lab.test=c@h.lab.test, s@h.lab.test=t@h.lab.test }
sender_canonical_maps = inline:{ r@h.lab.test=s@h.lab.test }
masquerade_domains = lab.test
masquerade_classes = envelope_sender, envelope_recipient
virtual_alias_maps = inline:{ c@lab.test=last@x.test, c@h.lab.test=wrong@x.test }";
    let bench = Bench::new(lines);
    let mut submission = submit(&["a@h.lab.test"]);
    submission.envelope.sender = "r@h.lab.test".into();
    let accepted = bench.accept(submission);
    assert_eq!(recipients(&accepted), ["last@x.test (a@h.lab.test)"]);
    assert_eq!(accepted.envelope.sender, "t@lab.test");
}

#[test]
fn senders() {
    let bench = Bench::new("canonical_maps = inline:{ labuser1=First.User }");
    for (sender, expected) in [
        ("", ""),
        ("MAILER-DAEMON", ""),
        ("mailer-daemon@mx.lab.test", ""),
        ("MAILER-DAEMON@remote.test", "MAILER-DAEMON@remote.test"),
        ("labuser1", "First.User@mx.lab.test"),
        ("labuser1@lab.test", "First.User@mx.lab.test"),
        ("..da.me.@docomo.ne.jp", "..da.me.@docomo.ne.jp"),
    ] {
        let mut submission = submit(&["x@y.test"]);
        submission.envelope.sender = sender.into();
        assert_eq!(bench.accept(submission).envelope.sender, expected);
    }
}

#[test]
fn dsn_wishes() {
    let bench = Bench::new(MAPS);
    let mut submission = submit(&["list@lab.test", "one@v.test"]);
    let success = Notify { success: true, ..Notify::default() };
    submission.envelope.recipients[0].notify = success;
    submission.envelope.recipients[1].notify = Notify { failure: true, ..success };
    submission.envelope.recipients[1].orcpt = "rfc822;orig@x.test".into();
    let accepted = bench.accept(submission);
    let got: Vec<_> = accepted
        .envelope
        .recipients
        .iter()
        .map(|r| (&*r.address, &*r.orcpt, r.notify.never, r.notify.success))
        .collect();
    assert_eq!(
        got,
        [
            ("labuser2@mx.lab.test", "rfc822;list@lab.test", true, false),
            ("labuser3@mx.lab.test", "rfc822;list@lab.test", true, false),
            ("labuser1@mx.lab.test", "rfc822;orig@x.test", false, true),
        ]
    );
    assert_eq!(accepted.expanded.len(), 1);
    assert_eq!((&*accepted.expanded[0].address, accepted.expanded[0].notify), ("list@lab.test", success));
    let mut local = submit(&["x@y.test"]);
    local.source = Source::Local { uid: 0 };
    assert_eq!(bench.accept(local).envelope.recipients[0].orcpt, "rfc822;x@y.test");
}

#[test]
fn canonical_chains_end() {
    let chain: Vec<String> = (1..14).map(|n| format!("c{n}@x.test=c{}@x.test", n + 1)).collect();
    let bench = Bench::new(&format!("canonical_maps = inline:{{ {}, self@x.test=SELF@x.test }}", chain.join(", ")));
    assert_eq!(recipients(&bench.accept(submit(&["c1@x.test"]))), ["c11@x.test (c1@x.test)"]);
    assert!(bench.events()[0].starts_with("warning: unreasonable canonical_maps map nesting for c11@x.test"));
    assert_eq!(recipients(&bench.accept(submit(&["self@x.test"]))), ["SELF@x.test (self@x.test)"]);
}

#[test]
fn redirect_replaces_all() {
    let bench = Bench::new(MAPS);
    let mut submission = submit(&["one@v.test", "x@y.test"]);
    submission.redirect = Some("labuser3".into());
    assert_eq!(recipients(&bench.accept(submission)), ["labuser3@mx.lab.test (one@v.test)"]);
}

#[test]
fn limits_and_trouble_say_try_again() {
    let lines =
        "virtual_alias_maps = inline:{ {big@lab.test=a1, a2, a3, a4, a5, a6}, l1=l2, l2=l3, l3=l4, l4=l5, l5=l6,
  long@lab.test=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@x.test, a@x.test=b@x.test, b@x.test=a@x.test }
virtual_alias_expansion_limit = 4
virtual_alias_recursion_limit = 3
virtual_alias_address_length_limit = 50
recipient_canonical_maps = fail:now
recipient_canonical_classes = header_recipient";
    let bench = Bench::new(lines);
    let tail = "-- message not accepted, try again later";
    for (recipient, warning) in [
        ("big@lab.test", "unreasonable virtual_alias_maps map expansion size for big@lab.test"),
        ("l1@lab.test", "unreasonable virtual_alias_maps map nesting for l1@lab.test"),
        ("a@x.test", "unreasonable virtual_alias_maps map nesting for a@x.test"),
        ("long@lab.test", "unreasonable virtual_alias_maps result aaaaaaaa"),
    ] {
        let refusal = bench.refuse(submit(&[recipient]));
        assert_eq!((refusal.code.0, &*refusal.reply_text()), (451, "4.6.0 Alias expansion error"), "{recipient}");
        let events = bench.events();
        assert!(events[0].starts_with(&format!("warning: {warning}")) && events[0].ends_with(tail), "{events:?}");
    }
    let refusal = bench.refuse(submit(&["x@y.test"]));
    assert_eq!((refusal.code.0, &*refusal.reply_text()), (451, "4.3.0 Error: queue file write error"));
    assert!(
        bench.events().iter().any(|event| event.contains("recipient_canonical_maps map lookup problem for x@y.test"))
    );
    for name in ["virtual_alias_maps", "sender_bcc_maps", "recipient_bcc_maps", "canonical_maps"] {
        let refusal = Bench::new(&format!("{name} = fail:now")).refuse(submit(&["x@y.test"]));
        assert!(refusal.is_transient(), "{name}");
    }
    assert_eq!(Bench::new("").refuse(submit(&[])).reply_text(), "5.1.0 Error: no recipients specified");
    let bench = Bench::new("canonical_maps = inline:{ {m@lab.test=m1, m2} }");
    assert_eq!(recipients(&bench.accept(submit(&["m@lab.test"]))), ["m1@mx.lab.test (m@lab.test)"]);
    assert_eq!(bench.events()[0], "warning: multi-valued canonical_maps entry for m@lab.test");
}

//! `postfix check` and the start say whose mail nobody will get.

use crate::harness::{Instance, Sink};

/// Settings, and what is said of postmaster: part of a line, or nothing.
const CASES: [(&[(&str, &str)], &str); 12] = [
    (&[("alias_maps", "")], "there is no alias and no user postmaster; write an alias, postmaster: you"),
    (&[("alias_maps", "inline:{ {postmaster=daemon} }")], ""),
    (&[("alias_maps", "inline:{ {postmaster=someone-gone} }")], "there is no alias and no user someone-gone"),
    (&[("alias_maps", "inline:{ {postmaster=root} }")], "is root in the end, and root gets no mail of its own"),
    (&[("alias_maps", "inline:{ {postmaster=root} {root=daemon} }")], ""),
    (&[("alias_maps", "inline:{ {postmaster=you@far.example} }")], ""),
    (&[("alias_maps", "inline:{ {postmaster=a} {a=b} {b=a} }")], "lead in a circle"),
    (&[("alias_maps", "inline:{ {postmaster=postmaster} }")], "there is no alias and no user postmaster"),
    (&[("alias_maps", ""), ("luser_relay", "you@far.example")], ""),
    (&[("alias_maps", ""), ("virtual_alias_maps", "inline:{ {postmaster@test.example=you@far.example} }")], ""),
    (&[("mydestination", ""), ("myorigin", "test.example")], "which is not delivered here but sent to"),
    (
        &[("alias_maps", "inline:{ {postmaster=daemon} }"), ("error_notice_recipient", "nobody-here@box.example")],
        "nobody-here@box.example (error_notice_recipient): ",
    ),
];

#[test]
fn whether_anybody_reads_it_is_said() {
    for (settings, said) in CASES {
        let mut instance = Instance::new();
        instance.set("mydestination", "test.example");
        for (name, value) in settings {
            instance.set(name, value);
        }
        let checked = instance.postfix("check");
        let about: Vec<&str> = checked.err.lines().filter(|line| line.contains("nobody gets the mail")).collect();
        if said.is_empty() {
            assert!(about.is_empty(), "{settings:?}: {checked:?}");
        } else {
            assert!(about.iter().any(|line| line.contains(said)), "{settings:?}: {checked:?}");
        }
    }
}

/// At the start too; and what is promised is so: the mail of the good cases arrives.
#[test]
fn the_start_says_it_too() {
    let mut instance = Instance::new();
    instance.set("mydestination", "test.example");
    instance.set("notify_classes", "protocol");
    instance.write();
    // To whoever looks on as well: `yamabiko start` always does, `postfix start` for a terminal.
    let said = instance.run("yamabiko", &["start", "-c", instance.etc().to_str().unwrap()]);
    assert_eq!(
        (said.code, said.err.matches("warning: nobody gets the mail for postmaster").count()),
        (0, 1),
        "{said:?}"
    );
    instance.until("the warning", || instance.log().contains("nobody gets the mail for postmaster"));
    let sink = Sink::start(instance.next_hop);
    instance.set("alias_maps", "inline:{ {postmaster=you@far.example} }");
    instance.reload();
    assert_eq!(instance.log().matches("nobody gets the mail for postmaster").count(), 1, "{}", instance.log());
    let mut client = instance.client();
    client.expect("EHLO x.example", 250);
    client.expect("NONSENSE", 500);
    client.expect("QUIT", 221);
    instance.until("the transcript", || sink.count() == 1);
    assert!(sink.taken()[0].text().contains("RCPT <you@far.example>"), "{}", sink.taken()[0].text());
    instance.until_empty();
}

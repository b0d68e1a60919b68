//! Mail about a dead queue dies in the queue: who is told all the same (`notify_channel_...`).

use std::fs;
use std::path::PathBuf;

use crate::disk::{fault_library, fill, free, in_own_mounts, mount};
use crate::harness::Instance;

/// What was told, in the words of `reason`.
fn told(file: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let reason = |line: &str| -> String {
        let object: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        assert_eq!(object["class"], "resource", "{line}");
        object["reason"].as_str().unwrap_or_default().to_owned()
    };
    text.lines().map(reason).collect()
}

/// No mail is asked for, nor could any be written.
fn prepared(instance: &mut Instance) -> PathBuf {
    let file = instance.path().join("lib/trouble.jsonl");
    for (name, value) in [
        ("notify_classes", ""),
        ("notify_channel_classes", "resource"),
        ("notify_channel_file", file.to_str().unwrap()),
        ("message_size_limit", "2000000"),
    ] {
        instance.set(name, value);
    }
    file
}

#[test]
fn a_full_queue_is_told_by_the_second_way() {
    if !in_own_mounts("bounces::dead_queue::a_full_queue_is_told_by_the_second_way") {
        return;
    }
    let mut instance = Instance::new();
    let file = prepared(&mut instance);
    let queue = instance.path().join("queue");
    mount(&queue, 150);
    instance.start();
    let send = || instance.client().mail("me@test.example", &["one@box.example"], "Subject: s\n\nx\n").unwrap().code;
    assert_eq!(send(), 250);
    assert_eq!(told(&file), [""; 0]);
    fill(&queue);
    let refused = || instance.client().command("MAIL FROM:<me@test.example>").unwrap().code == 452;
    instance.until("a refusal", refused);
    instance.until("an alarm", || told(&file).iter().any(|reason| reason.starts_with("no mail is taken: ")));
    // Once, however many hear it.
    (0..5).for_each(|_| assert!(refused()));
    assert_eq!(told(&file).len(), 1, "{:?}", told(&file));
    free(&queue);
    instance.until("room", || send() == 250);
}

#[test]
fn a_queue_that_cannot_be_written_is_told_by_the_second_way() {
    let mut instance = Instance::new();
    let file = prepared(&mut instance);
    let Some(control) = fault_library(&mut instance) else { return };
    instance.start();
    let send = || instance.client().mail("me@test.example", &["one@box.example"], "Subject: s\n\nx\n").unwrap().code;
    assert_eq!(send(), 250);
    // As a disk that was remounted read-only says it.
    fs::write(&control, "pwritev /queue/queue/ 30\nwrite /queue/queue/ 30\nfdatasync /queue/queue/ 30\n").unwrap();
    assert_eq!(send(), 451);
    instance.until("an alarm", || told(&file).iter().any(|reason| reason.starts_with("the queue cannot be written")));
    fs::write(&control, "").unwrap();
    instance.until("acceptance", || {
        let reply = instance.client().mail("me@test.example", &["one@box.example"], "Subject: s\n\nx\n");
        reply.is_ok_and(|reply| reply.code == 250)
    });
}

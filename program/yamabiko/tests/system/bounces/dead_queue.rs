//! Mail about a dead queue dies in the queue: who is told all the same (`notify_channel_...`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{fault_library, fill, free, in_own_mounts, mount};
use crate::harness::{Client, Instance, address};

use super::{pager, web};

/// The three ways to tell.
struct Ways {
    file: PathBuf,
    service: PathBuf,
    posted: Arc<Mutex<Vec<String>>>,
}

fn reason(line: &str) -> String {
    let object: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
    assert_eq!(object["class"], "resource", "{line}");
    object["reason"].as_str().unwrap_or_default().to_owned()
}

impl Ways {
    /// All three are configured. No mail is asked for, nor could any be written.
    fn prepared(instance: &mut Instance) -> Self {
        let file = instance.path().join("lib/trouble.jsonl");
        let (url, posted) = web();
        let service = pager(instance);
        for (name, value) in [
            ("notify_classes", ""),
            ("notify_channel_classes", "resource"),
            ("notify_channel_file", file.to_str().unwrap()),
            ("notify_channel_url", &url),
            ("notify_channel_service", "pager"),
            ("message_size_limit", "2000000"),
        ] {
            instance.set(name, value);
        }
        Self { file, service, posted }
    }

    /// What each way was told, in the words of `reason`.
    fn told(&self) -> [Vec<String>; 3] {
        let lines = |file: &PathBuf| -> Vec<String> {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(reason).collect()
        };
        let posted = self.posted.lock().unwrap();
        let posted = posted.iter().map(|post| reason(post.split("\r\n").last().unwrap_or_default())).collect();
        [lines(&self.file), lines(&self.service), posted]
    }

    /// Waits until each way was told of this, as often as it should be.
    #[track_caller]
    fn until_told(&self, instance: &Instance, what: &str, times: usize) {
        let heard = |way: &Vec<String>| way.iter().filter(|reason| reason.starts_with(what)).count();
        instance.until(what, || self.told().iter().all(|way| heard(way) >= times));
        assert!(self.told().iter().all(|way| heard(way) == times), "{what}: {:#?}", self.told());
    }
}

/// The reply to a message; 0 when there was none, as when the engine begins anew.
fn reply(instance: &Instance) -> u16 {
    let sent = Client::connect(instance.smtp)
        .and_then(|mut client| client.mail("me@test.example", &["one@box.example"], "Subject: s\n\nx\n"));
    sent.map_or(0, |reply| reply.code)
}

#[test]
fn a_full_queue_is_told_by_the_second_way() {
    if !in_own_mounts("bounces::dead_queue::a_full_queue_is_told_by_the_second_way") {
        return;
    }
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    let queue = instance.path().join("queue");
    mount(&queue, 150);
    instance.start();
    assert_eq!(reply(&instance), 250);
    assert_eq!(ways.told(), [[""; 0]; 3]);
    fill(&queue);
    let refused = || instance.client().command("MAIL FROM:<me@test.example>").unwrap().code == 452;
    instance.until("a refusal", refused);
    ways.until_told(&instance, "no mail is taken: ", 1);
    // Once, however many hear it.
    (0..5).for_each(|_| assert!(refused()));
    ways.until_told(&instance, "no mail is taken: ", 1);
    free(&queue);
    // Though nobody comes to ask.
    let begin = Instant::now();
    while ways.told()[0].len() < 2 && begin.elapsed() < Duration::from_secs(100) {
        thread::sleep(Duration::from_millis(500));
    }
    ways.until_told(&instance, "there is room for mail again", 1);
    assert_eq!(reply(&instance), 250);
}

/// As a disk says it that was remounted read-only, that fails when it is written, and that fails only when all has to be there.
#[test]
fn a_queue_that_cannot_be_written_is_told_by_the_second_way() {
    const DEAD: &str = "the queue cannot be written";
    const WELL: &str = "the queue's disk can be written again";
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    let Some(control) = fault_library(&mut instance) else { return };
    instance.start();
    for (before, faults) in [
        "pwritev /queue/queue/ 30\nwrite /queue/queue/ 30\nfdatasync /queue/queue/ 30\nfsync /queue/queue 30\n",
        "pwritev /queue/queue/ 5\nwrite /queue/queue/ 5\n",
        "fdatasync /queue/queue/ 5\nfsync /queue/queue 5\n",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(reply(&instance), 250);
        instance.until_empty();
        fs::write(&control, faults).unwrap();
        assert_eq!(reply(&instance), 451, "{faults}");
        ways.until_told(&instance, DEAD, before + 1);
        fs::write(&control, "").unwrap();
        instance.until("acceptance", || reply(&instance) == 250);
        ways.until_told(&instance, WELL, before + 1);
    }
}

/// A disk that hangs without an error: whoever waits for it, and whoever comes, is told to come later; what was refused so is
/// not kept when it is written after all.
#[test]
fn a_disk_that_hangs_is_told_by_the_second_way() {
    const HANGS: &str = "the queue's disk does not answer: a call has not returned for ";
    const WELL: &str = "the queue's disk answers again, ";
    // In memory: the disk of a busy machine may hang by itself.
    if !in_own_mounts("bounces::dead_queue::a_disk_that_hangs_is_told_by_the_second_way") {
        return;
    }
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    mount(&instance.path().join("queue"), 150);
    instance.set("queue_stall_warn_time", "2s");
    let Some(control) = fault_library(&mut instance) else { return };
    instance.start();
    let smtp = instance.smtp;
    let send = move |word: &str| {
        let message = format!("Subject: {word}\n\nx\n");
        let mut client = Client::connect(smtp).unwrap();
        client.mail("me@test.example", &["one@box.example"], &message).unwrap().code
    };
    let mut kept = vec![("before".to_owned(), send("before"))];
    assert_eq!(kept[0].1, 250);
    for (round, faults) in ["fdatasync /queue/queue/ h\n", "pwritev /queue/queue/ h\n"].into_iter().enumerate() {
        instance.until("deliveries", || instance.queue().iter().all(|entry| entry.queue == "maildrop"));
        fs::write(&control, faults).unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|number| {
                let word = format!("meanwhile {round} {number}");
                std::thread::spawn(move || (send(&word), word))
            })
            .collect();
        ways.until_told(&instance, HANGS, round + 1);
        // Only whoever was writing when it began has to wait.
        instance.until("refusals", || waiting.iter().filter(|sender| sender.is_finished()).count() >= 4);
        let mut late = instance.client();
        late.expect("EHLO x.example", 250);
        assert_eq!(late.expect("MAIL FROM:<me@test.example>", 451).lines, ["451 4.3.0 Error: queue file write error"]);
        // What users hand in waits in `maildrop/`, as behind Postfix's pickup.
        let said =
            instance.run_with("sendmail", &["-f", "me@test.example", "one@box.example"], "Subject: by hand\n\nx\n");
        assert_eq!(said.code, 0, "{said:?}");
        kept.push(("by hand".to_owned(), 250));
        fs::write(&control, "").unwrap();
        kept.extend(waiting.into_iter().map(|sender| sender.join().unwrap()).map(|(code, word)| (word, code)));
        ways.until_told(&instance, WELL, round + 1);
        instance.until("acceptance", || send("refused once") == 250);
        kept.push(("refused once".to_owned(), 250));
    }
    // It is looked for there now and then, and at the start.
    instance.stop();
    instance.start();
    let by_hand = || instance.mails("one").iter().filter(|mail| mail.contains("Subject: by hand\n")).count();
    instance.until("what was handed in", || by_hand() >= 2);
    instance.until_empty();
    let mails = instance.mails("one");
    for (word, code) in &kept {
        let found = mails.iter().filter(|mail| mail.contains(&format!("Subject: {word}\n"))).count();
        let expected = match (word.as_str(), code) {
            ("refused once" | "by hand", _) => 2,
            (_, 250) => 1,
            _ => 0,
        };
        assert_eq!(found, expected, "{word} {code}\n{}", instance.log());
    }
    assert!(kept.iter().filter(|(_, code)| *code == 451).count() >= 8, "{kept:?}");
}

/// Large messages go into a file while they come in: whoever sends one hears the same, and the server goes on for all others.
#[test]
fn large_messages_do_not_wait_for_a_disk_that_hangs() {
    const HANGS: &str = "the queue's disk does not answer: a call has not returned for ";
    const WELL: &str = "the queue's disk answers again, ";
    if !in_own_mounts("bounces::dead_queue::large_messages_do_not_wait_for_a_disk_that_hangs") {
        return;
    }
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    mount(&instance.path().join("queue"), 150);
    instance.set("queue_stall_warn_time", "2s");
    instance.set("message_size_limit", "20000000");
    let Some(control) = fault_library(&mut instance) else { return };
    instance.start();
    let smtp = instance.smtp;
    let text = |word: &str| format!("Subject: {word}\n\n{}", "a line of a large message\n".repeat(200_000));
    let send = move |word: &str| {
        let mut client = Client::connect(smtp).unwrap();
        // Who is refused while it still sends may find the connection closed before the reply is read.
        client.mail("me@test.example", &["one@box.example"], &text(word)).map_or(451, |reply| reply.code)
    };
    assert_eq!(send("before"), 250);
    instance.until_mails("one", 1);
    fs::write(&control, "write /queue/spool/ h\n").unwrap();
    let waiting: Vec<_> =
        (0..5).map(|number| std::thread::spawn(move || send(&format!("meanwhile {number}")))).collect();
    let said = instance.run_with("sendmail", &["-f", "me@test.example", "two@box.example"], &text("by hand"));
    assert_eq!(said.code, 0, "{said:?}");
    ways.until_told(&instance, HANGS, 1);
    assert!(waiting.into_iter().all(|sender| sender.join().unwrap() == 451));
    let mut late = instance.client();
    late.expect("EHLO x.example", 250);
    late.expect("MAIL FROM:<me@test.example>", 451);
    fs::write(&control, "").unwrap();
    ways.until_told(&instance, WELL, 1);
    instance.until("acceptance", || send("afterwards") == 250);
    // It is looked for there now and then, and at the start.
    instance.stop();
    instance.start();
    instance.until_mails("two", 1);
    instance.until_empty();
    let mut subjects: Vec<String> = instance
        .mails("one")
        .iter()
        .map(|mail| mail.lines().find(|line| line.starts_with("Subject: ")).unwrap().to_owned())
        .collect();
    subjects.sort();
    assert_eq!(subjects, ["Subject: afterwards", "Subject: before"]);
}

/// One way that hangs or is shut keeps no other waiting.
#[test]
fn a_way_that_is_shut_keeps_no_other_waiting() {
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    let Some(control) = fault_library(&mut instance) else { return };
    let silent = std::net::TcpListener::bind(address()).unwrap();
    instance.set("notify_channel_url", &format!("http://{}/", silent.local_addr().unwrap()));
    instance.start();
    // The file is on the disk that hangs.
    fs::write(&control, "write trouble.jsonl s60000\npwritev /queue/queue/ 5\n").unwrap();
    assert_eq!(reply(&instance), 451);
    instance.until("the service", || ways.told()[1].len() == 1);
    for way in ["file", "url"] {
        instance.until(way, || instance.log().contains(&format!("notify_channel_{way}: no answer in time")));
    }
}

/// Whoever starts the mail system sees that; nobody sees it who sleeps while it starts itself again.
#[test]
fn a_queue_that_cannot_be_opened_any_more_is_told_by_the_second_way() {
    let mut instance = Instance::new();
    let ways = Ways::prepared(&mut instance);
    instance.start();
    assert_eq!(reply(&instance), 250);
    instance.until_empty();
    let queue = instance.path().join("queue/queue");
    let usual = fs::metadata(&queue).unwrap().permissions();
    fs::set_permissions(&queue, fs::Permissions::from_mode(0o0)).unwrap();
    instance.kill_engine();
    ways.until_told(&instance, "the mail system cannot be started: cannot open the queue", 1);
    let attempts = || instance.log().matches("the engine cannot be started: cannot open the queue").count();
    instance.until("further attempts", || attempts() >= 3);
    ways.until_told(&instance, "the mail system cannot be started: ", 1);
    fs::set_permissions(&queue, usual).unwrap();
    instance.until("acceptance", || reply(&instance) == 250);
}

//! Disks that are full, read-only, slow or failing under the real engine: right replies, nothing lost, mail that was
//! accepted goes on, and all is well again by itself when the disk is.
//!
//! The load and the reckoning are those of [`crate::crash`]. Full disks are small tmpfs of a mount name space of
//! our own, so they want root; slow, failing and read-only ones are made by `faults.c`, preloaded through
//! `import_environment`, which wants a C compiler. What is missing is said, and the test is skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::crash::account::Act;
use crate::crash::random::Random;
use crate::crash::world::World;
use crate::crash::{Manners, Run, run};
use crate::harness::{Instance, Sink, as_root};

/// Says that we are inside.
const INSIDE: &str = "YAMABIKO_OWN_MOUNTS";

/// True inside of a mount name space of our own; outside, the test of that name is run inside one.
pub fn in_own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !as_root() {
        println!("{test}: SKIPPED, mounting wants root");
        return false;
    }
    let program = std::env::current_exe().expect("tests are programs");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(program).args(["--exact", test, "--nocapture"]);
    let output = match command.env(INSIDE, "yes").output() {
        Ok(output) => output,
        Err(error) => {
            println!("{test}: SKIPPED, unshare: {error}");
            return false;
        }
    };
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

pub fn shell(line: &str) {
    let status = Command::new("/bin/sh").args(["-c", line]).status().expect("a shell");
    assert!(status.success(), "{line}");
}

/// Puts a small disk on a directory; what was in it is not seen any more.
pub fn mount(path: &Path, megabytes: usize) {
    let mode =
        fs::metadata(path).map_or(0o755, |meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777);
    fs::create_dir_all(path).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    shell(&format!("mount -t tmpfs -o size={megabytes}m,mode={mode:o},uid={owner} tmpfs {}", path.display()));
}

/// Nothing more fits, not even a block.
pub fn fill(path: &Path) {
    let mut file = fs::File::create(path.join("filler")).expect("a file name fits");
    let mut piece = vec![1; 1 << 20];
    while !piece.is_empty() {
        if file.write_all(&piece).is_err() {
            let half = piece.len() / 2;
            piece.truncate(if half < 512 { 0 } else { half });
        }
    }
}

pub fn free(path: &Path) {
    fs::remove_file(path.join("filler")).unwrap();
}

fn act(what: &str, began: SystemTime) -> Act {
    Act { what: what.to_owned(), began, ended: SystemTime::now(), kills: false }
}

/// Full for a while under load.
fn full_for_a_while(path: &Path, what: &str, random: &mut Random) -> Act {
    let began = SystemTime::now();
    fill(path);
    std::thread::sleep(Duration::from_millis(100 + random.below(700)));
    free(path);
    act(what, began)
}

fn fill_queue(world: &World, random: &mut Random) -> Act {
    full_for_a_while(&world.instance.path().join("queue"), "the queue's disk was full for a while", random)
}

/// Replies of a server that has no room, and what the commands say of it.
const NO_ROOM: Manners = Manners::Only(&[": 452 ", "greeting: 421 ", ": 451 4.3.0 ", "code: 75"]);

#[test]
fn a_full_queue_disk_refuses_and_loses_nothing() {
    if !in_own_mounts("disk::a_full_queue_disk_refuses_and_loses_nothing") {
        return;
    }
    let world = World::prepared(|instance| {
        instance.set("message_size_limit", "2000000");
        mount(&instance.path().join("queue"), 200);
    });
    run("full queue disk", &Run::new(3), world, fill_queue, NO_ROOM);
}

fn fill_mailboxes(world: &World, random: &mut Random) -> Act {
    let began = SystemTime::now();
    let dirs = ["box", "mail", "mails", "shared"].map(|name| world.instance.path().join(name));
    dirs.iter().for_each(|dir| fill(dir));
    std::thread::sleep(Duration::from_millis(100 + random.below(700)));
    dirs.iter().for_each(|dir| free(dir));
    act("the mailboxes' disks were full for a while", began)
}

#[test]
fn full_mailbox_disks_defer_and_leave_no_half_mail() {
    if !in_own_mounts("disk::full_mailbox_disks_defer_and_leave_no_half_mail") {
        return;
    }
    let world = World::prepared(|instance| {
        for name in ["box", "mail", "mails", "shared"] {
            mount(&instance.path().join(name), 100);
        }
    });
    run("full mailbox disks", &Run::new(3), world, fill_mailboxes, Manners::Only(&[]));
}

fn fill_log(world: &World, random: &mut Random) -> Act {
    full_for_a_while(&world.instance.path().join("log"), "the log's disk was full for a while", random)
}

#[test]
fn a_full_log_disk_stops_no_mail() {
    if !in_own_mounts("disk::a_full_log_disk_stops_no_mail") {
        return;
    }
    let world = World::prepared(|instance| {
        let log = instance.path().join("log");
        mount(&log, 20);
        instance.set("maillog_file", &log.join("mail.log").display().to_string());
    });
    run("full log disk", &Run::new(3), world, fill_log, Manners::Only(&[]));
}

/// While the mail system is down `sendmail` itself meets the disk.
#[test]
fn a_full_maildrop_is_said_to_the_submitter() {
    if !in_own_mounts("disk::a_full_maildrop_is_said_to_the_submitter") {
        return;
    }
    let instance = Instance::new();
    let queue = instance.path().join("queue");
    mount(&queue, 100);
    instance.start();
    instance.stop();
    fill(&queue);
    let large = format!("Subject: no\n\n{}", "no room for this\n".repeat(10_000));
    let said = instance.run_with("sendmail", &["-f", "me@test.example", "one@box.example"], &large);
    assert!(said.code == 75 && said.err.contains("No space left"), "{said:?}");
    free(&queue);
    let said = instance.run_with("sendmail", &["-f", "me@test.example", "one@box.example"], "Subject: yes\n\nx\n");
    assert_eq!(said.code, 0, "{said:?}");
    instance.start();
    assert!(instance.until_mails("one", 1)[0].contains("Subject: yes"));
    instance.until_empty();
    assert_eq!(instance.shell("ls queue/maildrop").out, "");
}

/// What is in the queue goes out although nothing can be added.
#[test]
fn mail_leaves_a_full_queue() {
    if !in_own_mounts("disk::mail_leaves_a_full_queue") {
        return;
    }
    let mut instance = Instance::new();
    // The refusal would be told to the postmaster, through the same next hop.
    instance.set("notify_classes", "");
    let queue = instance.path().join("queue");
    mount(&queue, 150);
    instance.start();
    let sink = Sink::start(instance.next_hop);
    sink.rule("RCPT", "", "451 4.2.0 come back later");
    for number in 0..20 {
        let message = format!("Subject: {number}\n\n{}", "text\n".repeat(if number % 5 == 0 { 300_000 } else { 10 }));
        assert_eq!(instance.client().mail("me@test.example", &["one@far.example"], &message).unwrap().code, 250);
    }
    instance.until_queued("deferred", 20);
    fill(&queue);
    let refused =
        || instance.client().command("MAIL FROM:<me@test.example>").unwrap().lines[0].starts_with("452 4.3.1 ");
    // The free space is not asked for with every message.
    instance.until("a refusal", refused);
    sink.accept_all();
    instance.ok("postqueue", &["-f"]);
    instance.until("all mail", || sink.count() == 20);
    instance.until_empty();
    // A start on a full disk brings the server up too.
    instance.stop();
    instance.start();
    instance.until("a refusal", refused);
    free(&queue);
    instance.until("room", || {
        instance.client().mail("me@test.example", &["one@box.example"], "Subject: again\n\nx\n").unwrap().code == 250
    });
    instance.until_mails("one", 1);
}

/// The library that makes disks fail, and the file that says how. `None` where there is no C compiler.
pub fn fault_library(instance: &mut Instance) -> Option<PathBuf> {
    let (library, control) = (instance.path().join("bin/faults.so"), instance.path().join("faults"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/disk/faults.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    match built {
        Ok(output) if output.status.success() => {}
        other => {
            println!("SKIPPED, no C compiler: {other:?}");
            return None;
        }
    }
    fs::write(&control, "").unwrap();
    let value = format!("TZ LD_PRELOAD={} FAULTS={}", library.display(), control.display());
    instance.set("import_environment", &value);
    Some(control)
}

fn slow(world: &World, random: &mut Random) -> Act {
    let began = SystemTime::now();
    let control = world.instance.path().join("faults");
    let pause = 20 + random.below(300);
    fs::write(&control, format!("fdatasync /queue/ s{pause}\nfsync / s{pause}\npwritev /queue/ s{}\n", pause / 4))
        .unwrap();
    std::thread::sleep(Duration::from_millis(500 + random.below(1000)));
    fs::write(&control, "").unwrap();
    act(&format!("disks took {pause} ms for each sync"), began)
}

#[test]
fn a_slow_disk_is_waited_for() {
    let mut there = false;
    let world = World::prepared(|instance| there = fault_library(instance).is_some());
    if there {
        run("slow disk", &Run::new(3), world, slow, Manners::Only(&[]));
    }
}

/// After a sync that failed nobody knows what the disk holds: nothing is accepted, nothing is delivered, and the next
/// start finds all that was acknowledged.
#[test]
fn a_disk_that_fails_stops_acceptance_and_loses_nothing() {
    for fault in ["fdatasync /queue/queue/log 5\n", "pwritev /queue/queue/ 5\nwrite /queue/queue/ 5\n"] {
        let mut instance = Instance::new();
        let Some(control) = fault_library(&mut instance) else { return };
        instance.start();
        let sink = Sink::start(instance.next_hop);
        sink.rule("RCPT", "", "451 4.2.0 come back later");
        let mut client = instance.client();
        let mut send = |word: &str| {
            let message = format!("Subject: {word}\n\nx\n");
            client.mail("me@test.example", &["one@far.example"], &message).unwrap()
        };
        (0..5).for_each(|number| assert_eq!(send(&format!("before {number}")).code, 250));
        instance.until_queued("deferred", 5);
        fs::write(&control, fault).unwrap();
        for number in 0..5 {
            let reply = send(&format!("refused {number}"));
            assert!(reply.lines[0].starts_with("451 4.3.0 "), "{fault}: {reply:?}");
        }
        let told = |log: &str| log.contains("fatal: the queue cannot be written");
        instance.until("an alarm", || told(&instance.log()));
        // The server itself stays, and says what to its clients is temporary.
        assert_eq!(instance.client().command("EHLO c.example").unwrap().code, 250);
        assert_eq!(instance.queue().len(), 5, "{fault}");
        fs::write(&control, "").unwrap();
        instance.stop();
        sink.accept_all();
        instance.start();
        instance.ok("postqueue", &["-f"]);
        instance.until_empty();
        let mut words: Vec<String> = sink
            .taken()
            .iter()
            .filter_map(|mail| mail.content.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)))
            .filter(|word| word.starts_with("before"))
            .collect();
        words.sort();
        assert_eq!(words, ["before 0", "before 1", "before 2", "before 3", "before 4"], "{fault}");
    }
}

/// The disk became read-only, as disks that fail do, and is mended: nobody has to do anything.
#[test]
fn a_disk_that_can_be_written_again_is_written() {
    const FAULT: &str = "pwritev /queue/queue/ 30\nwrite /queue/queue/ 30\nfdatasync /queue/queue/ 30\n";
    let mut instance = Instance::new();
    let Some(control) = fault_library(&mut instance) else { return };
    instance.start();
    let send = |word: &str| {
        let message = format!("Subject: {word}\n\nx\n");
        instance.client().mail("me@test.example", &["one@far.example"], &message)
    };
    assert_eq!(send("before").unwrap().code, 250);
    instance.until_queued("deferred", 1);
    fs::write(&control, FAULT).unwrap();
    let reply = send("meanwhile").unwrap();
    assert!(reply.lines[0].starts_with("451 4.3.0 "), "{reply:?}");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(send("meanwhile").unwrap().code, 451);
    fs::write(&control, "").unwrap();
    let sink = Sink::start(instance.next_hop);
    instance.until("acceptance", || send("after").is_ok_and(|reply| reply.code == 250));
    assert!(instance.log().contains("can be written again"));
    instance.ok("postqueue", &["-f"]);
    instance.until_empty();
    let words: Vec<String> = sink.taken().into_iter().map(|mail| mail.content).collect();
    for word in ["before", "after"] {
        assert_eq!(words.iter().filter(|text| text.contains(&format!("Subject: {word}\n"))).count(), 1, "{word}");
    }
}

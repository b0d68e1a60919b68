//! `notify_classes = software`: processes of ours that crash, and bugs that are survived.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::Instance;

/// Whoever hears of software problems is `one@box.example`, and a file.
fn prepared(classes: &str) -> (Instance, PathBuf) {
    let mut instance = Instance::new();
    let file = instance.path().join("lib/trouble.jsonl");
    for (name, value) in [
        ("error_notice_recipient", "one@box.example"),
        ("notify_classes", classes),
        ("notify_channel_classes", "software"),
        ("notify_channel_file", file.to_str().unwrap()),
    ] {
        instance.set(name, value);
    }
    (instance, file)
}

/// Reasons that were told the second way.
fn told(file: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let reason = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        assert_eq!(object["class"], "software", "{line}");
        object["reason"].as_str().unwrap_or_default().to_owned()
    };
    whole.map(reason).collect()
}

/// Waits until so many different mails are there, and gives them. One may be there twice: a delivery that is not recorded when
/// the engine crashes is made again.
#[track_caller]
fn until_different(instance: &Instance, number: usize) -> Vec<String> {
    let different = || {
        let mut found = BTreeMap::new();
        for mail in instance.mails("one") {
            let name = mail.lines().find(|line| line.starts_with("Message-Id: ")).unwrap_or_default().to_owned();
            found.insert(name, mail);
        }
        found
    };
    instance.until(&format!("{number} notices"), || different().len() >= number);
    let found = different();
    assert_eq!(found.len(), number, "{found:#?}");
    found.into_values().collect()
}

/// Until it is gone: Rust's own handler of SIGSEGV lets the first pass that no access to memory has caused.
#[track_caller]
fn end_by(instance: &Instance, signal: Signal, pid: i32) {
    instance.until("its end", || kill(Pid::from_raw(pid), signal).is_err());
}

/// Ends the engine by a signal, and waits for another one that serves.
#[track_caller]
fn crash(instance: &Instance, signal: Signal) {
    end_by(instance, signal, instance.engine().expect("an engine"));
    instance.until("another engine", || {
        instance.engine().is_some() && instance.client().command("NOOP").is_ok_and(|reply| reply.code == 250)
    });
    // It serves a moment before its supervisor hears of it, and one that ends in between has not come up.
    instance.reload();
}

#[test]
fn a_crash_of_the_engine_is_told_once_of_its_kind() {
    let (instance, file) = prepared("resource, software");
    instance.start();
    assert_eq!(instance.client().mail("me@test.example", &["two@box.example"], "Subject: s\n\nx\n").unwrap().code, 250);
    instance.until("its delivery in the log", || instance.log().contains("status=sent"));
    let pid = instance.engine().unwrap();
    crash(&instance, Signal::SIGSEGV);
    let what = format!("the engine (process {pid}) was killed by signal 11 (SIGSEGV)");
    let mail = until_different(&instance, 1).remove(0);
    for part in [
        &format!("Subject: Yamabiko: {what}\n"),
        "To: Postmaster <one@box.example>\n",
        "Auto-Submitted: auto-generated\n",
        &format!(": {what}\n"),
        // What it was doing.
        &format!("[{pid}]: "),
        "to=<two@box.example>",
    ] {
        assert!(mail.contains(part), "{part}\n{mail}");
    }
    instance.until("the second way", || told(&file) == [what.clone()]);
    // A delivery that is not recorded is made again.
    instance.until_empty();
    // An engine that ends before it could say that it has told leaves that to the next. It answers in turn.
    instance.reload();
    // The same once more is counted, another one is told at once, and the rest before the end.
    crash(&instance, Signal::SIGSEGV);
    instance.until("their lines", || instance.log().matches("; it is started again").count() == 2);
    assert_eq!((until_different(&instance, 1).len(), told(&file).len()), (1, 1));
    for (others, signal) in [Signal::SIGABRT, Signal::SIGKILL].into_iter().enumerate() {
        let pid = instance.engine().unwrap();
        crash(&instance, signal);
        let mails = until_different(&instance, others + 2);
        let what = format!("Yamabiko: the engine (process {pid}) was killed by signal {} ({signal})\n", signal as i32);
        assert!(mails.iter().any(|mail| mail.contains(&what)), "{what}: {mails:#?}");
        instance.reload();
        crash(&instance, signal);
    }
    instance.until("their lines", || instance.log().matches("; it is started again").count() == 6);
    assert_eq!((until_different(&instance, 3).len(), told(&file).len()), (3, 3));
    instance.stop();
    instance.start();
    let mails = until_different(&instance, 4);
    let rest = mails.iter().find(|mail| mail.contains("Yamabiko: 3 crashes, the first: the engine (process ")).unwrap();
    for signal in ["11 (SIGSEGV)", "6 (SIGABRT)", "9 (SIGKILL)"] {
        assert!(rest.contains(&format!("was killed by signal {signal}\n")), "{rest}");
    }
    assert_eq!(told(&file).len(), 4, "{:#?}", told(&file));
}

#[test]
fn who_did_not_ask_for_it_gets_no_mail() {
    let (instance, file) = prepared("bounce, resource");
    instance.start();
    crash(&instance, Signal::SIGABRT);
    instance.until("the second way", || told(&file).len() == 1);
    instance.until_empty();
    assert!(instance.mails("one").is_empty());
}

/// Its supervisor may hear of it only after its end.
#[test]
fn an_engine_that_has_served_did_come_up() {
    let (instance, file) = prepared("software");
    instance.start();
    let supervisor = instance.supervisor().unwrap();
    let first = instance.engine().unwrap();
    end_by(&instance, Signal::SIGKILL, first);
    // It hands over a configuration and ports, and then hears nothing.
    while instance.engine().is_none_or(|pid| pid == first) {}
    let mut greeting = TcpStream::connect(instance.smtp).unwrap();
    greeting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let is_stopped = |stopped: bool| {
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(supervisor), signal).unwrap();
    };
    is_stopped(true);
    while greeting.read(&mut [0]).is_err() {
        is_stopped(false);
        std::thread::sleep(Duration::from_millis(1));
        is_stopped(true);
    }
    // It serves a moment before it says so, and is gone a moment after it is killed.
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(instance.engine().unwrap()), Signal::SIGABRT).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    is_stopped(false);
    let mail = until_different(&instance, 1).remove(0);
    assert!(mail.contains("Subject: Yamabiko: 2 crashes, the first: the engine (process "), "{mail}");
    instance.until("the second way", || !told(&file).is_empty());
    assert!(!told(&file)[0].contains("cannot be started"), "{:?}", told(&file));
}

#[test]
fn a_crash_of_a_worker_is_told() {
    let (instance, file) = prepared("software");
    instance.start();
    assert_eq!(instance.client().mail("me@test.example", &["two@box.example"], "Subject: s\n\nx\n").unwrap().code, 250);
    instance.until_mails("two", 1);
    // It waits for more for some seconds.
    let pid = instance.workers()[0];
    end_by(&instance, Signal::SIGABRT, pid);
    let mail = instance.until_mails("one", 1).remove(0);
    assert!(mail.contains("Subject: Yamabiko: a process of local delivery for user"), "{mail}");
    assert!(mail.contains(&format!("({pid}) was killed by signal 6 (SIGABRT)")), "{mail}");
    instance.until("the second way", || told(&file).len() == 1);
}

/// In debug builds a file makes this program panic (`YAMABIKO_TRIP`).
#[test]
fn a_panic_is_told_and_so_is_an_engine_that_cannot_come_up() {
    let (mut instance, file) = prepared("software");
    // Where the engine may write.
    let trips = instance.path().join("queue/trip");
    fs::create_dir_all(&trips).unwrap();
    fs::set_permissions(&trips, fs::Permissions::from_mode(0o777)).unwrap();
    instance.set("import_environment", &format!("TZ YAMABIKO_TRIP={}", trips.display()));
    instance.start();
    let reply = || instance.client().mail("me@test.example", &["two@box.example"], "Subject: s\n\nx\n").unwrap().code;
    fs::write(trips.join("cleanup"), "").unwrap();
    assert_eq!(reply(), 451);
    let mail = instance.until_mails("one", 1).remove(0);
    assert!(mail.contains("Subject: Yamabiko: a bug was survived: thread "), "{mail}");
    assert!(mail.contains("a test wanted a panic in the cleanup"), "{mail}");
    instance.until("the second way", || told(&file).len() == 1);
    for _ in 0..3 {
        fs::write(trips.join("cleanup"), "").unwrap();
        assert_eq!(reply(), 451);
    }
    assert_eq!(reply(), 250);
    assert_eq!((instance.mails("one").len(), told(&file).len()), (1, 1));
    // Another bug is told in the midst of it.
    fs::write(trips.join("session"), "").unwrap();
    let _ = instance.client().mail("me@test.example", &["two@box.example"], "Subject: s\n\nx\n");
    let mails = until_different(&instance, 2);
    assert!(mails.iter().any(|mail| mail.contains("a test wanted a panic in the session")), "{mails:#?}");
    fs::write(trips.join("start"), "").unwrap();
    crash(&instance, Signal::SIGABRT);
    let heard = |what: &str| told(&file).iter().any(|reason| reason.contains(what));
    instance.until("the second way", || heard("the mail system cannot be started: the engine (process "));
    instance.until("the notice", || heard("2 crashes, the first: "));
    until_different(&instance, 3);
}

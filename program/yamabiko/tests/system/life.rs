//! Starting, reloading, stopping, and being killed in between.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Client, Instance, Sink, address};

const MESSAGE: &str = "Subject: hello\n\nfirst\n.second\n";

#[test]
fn a_second_start_is_refused_and_harms_nothing() {
    let instance = Instance::started();
    let mut client = instance.client();
    let said = instance.postfix("start");
    assert_ne!(said.code, 0);
    assert!(said.err.contains("already running"), "{said:?}");
    assert_eq!(client.mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].ends_with("\n\nfirst\n.second\n"), "{mails:?}");
    assert_eq!(instance.postfix("status").code, 0);
    instance.stop();
    assert_ne!(instance.postfix("status").code, 0);
    let said = instance.postfix("stop");
    assert!(said.code != 0 && said.err.contains("not running"), "{said:?}");
}

#[test]
fn a_wrong_configuration_does_not_start_and_says_where() {
    let mut instance = Instance::new();
    let told = |instance: &Instance, place: &str, word: &str| {
        let said = instance.postfix("start");
        let told = format!("{}{}", said.err, instance.log());
        assert_ne!(said.code, 0, "{word}: {told}");
        assert!(told.contains(word), "{word}: {told}");
        assert!(told.contains(place) || told.contains(&place.replace("cf:", "cf, line ")), "{place}: {told}");
        assert!(instance.supervisor().is_none(), "nothing stays behind");
    };
    for (name, wrong, right) in [
        ("message_size_limit", "large", "10240000"),
        ("queue_run_delay", "300 parsecs", "300s"),
        ("queue_directory", "relative/path", &format!("{}/queue", instance.path().display())),
    ] {
        instance.set(name, wrong);
        told(&instance, &format!("main.cf:{}", instance.line_of(name)), name);
        instance.set(name, right);
    }
    for wrong in ["127.0.0.1:http-ish inet n - n - - smtpd", "odd strange n - n - - smtpd", "short inet n"] {
        instance.services = vec![wrong.to_owned()];
        instance.write();
        told(&instance, "master.cf:2", "");
    }
    instance.services.clear();
    instance.write();
    instance.start();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let instance = Instance::new();
    let taken = TcpListener::bind(instance.smtp).unwrap();
    let said = instance.postfix("start");
    assert_ne!(said.code, 0);
    let told = format!("{}{}", said.err, instance.log());
    assert!(told.contains(&instance.smtp.port().to_string()) && told.contains("in use"), "{told}");
    assert!(instance.supervisor().is_none(), "nothing stays behind");
    drop(taken);
    instance.start();
}

#[test]
fn a_reload_changes_what_is_new_and_keeps_sessions() {
    let mut instance = Instance::new();
    let (leaving, coming) = (address(), address());
    instance.services.push(format!("{leaving} inet n - n - - smtpd"));
    instance.write();
    instance.start();
    let mut old = instance.client();
    old.expect("EHLO old.example", 250);
    old.expect("MAIL FROM:<a@test.example>", 250);
    let mut on_leaving = Client::connect(leaving).unwrap();
    instance.set("smtpd_banner", "$myhostname ESMTP changed");
    instance.set("message_size_limit", "4000");
    instance.services = vec![format!("{coming} inet n - n - - smtpd")];
    instance.write();
    instance.reload();
    let mut new = instance.client();
    assert!(new.greeting.lines[0].ends_with("ESMTP changed"), "{:?}", new.greeting);
    let said = new.expect("EHLO new.example", 250);
    assert!(said.lines.iter().any(|line| line.ends_with("SIZE 4000")), "{said:?}");
    assert!(Client::connect(coming).is_ok(), "the new service is there");
    assert!(TcpStream::connect(leaving).is_err(), "the old service is gone");
    // Sessions that were there before go on where they were.
    old.expect("RCPT TO:<one@box.example>", 250);
    old.expect("DATA", 354);
    old.send(b"Subject: through a reload\r\n\r\nx\r\n.\r\n").unwrap();
    assert_eq!(old.reply().unwrap().code, 250);
    assert_eq!(on_leaving.mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
    instance.until_mails("one", 2);
}

#[test]
fn a_wrong_reload_keeps_the_old_configuration() {
    let mut instance = Instance::started();
    let supervisor = instance.supervisor().unwrap();
    instance.set("smtpd_banner", "$myhostname ESMTP changed");
    instance.set("default_process_limit", "many");
    let place = format!("main.cf:{}", instance.line_of("default_process_limit"));
    let said = instance.postfix("reload");
    let told = format!("{}{}", said.err, instance.log());
    assert!(said.code != 0 && told.contains("default_process_limit"), "{told}");
    assert!(told.contains(&place) || told.contains(&place.replace("cf:", "cf, line ")), "{place}: {told}");
    // Who signals the process itself reads it in the log.
    kill(Pid::from_raw(supervisor), Signal::SIGHUP).unwrap();
    instance.until("a refused reload", || instance.log().contains("reload refused"));
    assert!(instance.client().greeting.lines[0].ends_with("ESMTP Yamabiko"), "{:?}", instance.client().greeting);
    // The fault keeps nobody from looking at what runs, nor from stopping it.
    assert_eq!(instance.postfix("status").code, 0);
    let stopped = instance.postfix("stop");
    assert!(stopped.code == 0 && stopped.err.contains("default_process_limit"), "{}", stopped.err);
    assert!(instance.postfix("start").code != 0);
    instance.set("default_process_limit", "100");
    instance.start();
    let supervisor = instance.supervisor().unwrap();
    instance.set("smtpd_banner", "$myhostname ESMTP changed again");
    instance.reload();
    assert!(instance.client().greeting.lines[0].ends_with("ESMTP changed again"));
    assert_eq!(instance.supervisor(), Some(supervisor));
}

#[test]
fn stop_is_polite_and_bounded() {
    let instance = Instance::started();
    let mut idle = instance.client();
    idle.expect("EHLO idle.example", 250);
    let mut half = instance.client();
    half.expect("EHLO half.example", 250);
    half.expect("MAIL FROM:<a@test.example>", 250);
    half.expect("RCPT TO:<one@box.example>", 250);
    half.expect("DATA", 354);
    half.send(b"Subject: half\r\n\r\nfirst\r\n").unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| instance.stop());
        let reply = idle.reply().expect("an idle session hears about the end");
        assert_eq!(reply.code, 421, "{reply:?}");
        // A message that is on its way may arrive.
        half.send(b"last\r\n.\r\n").unwrap();
        assert_eq!(half.reply().expect("an answer to the message").code, 250);
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(TcpStream::connect(instance.smtp).is_err(), "nobody listens");
    assert!(instance.supervisor().is_none());
    instance.start();
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].ends_with("first\nlast\n"), "{mails:?}");
}

#[test]
fn stop_does_not_wait_for_ever() {
    let instance = Instance::started();
    let mut half = instance.client();
    half.expect("EHLO half.example", 250);
    half.expect("MAIL FROM:<a@test.example>", 250);
    half.expect("RCPT TO:<one@box.example>", 250);
    half.expect("DATA", 354);
    half.send(b"Subject: never whole\r\n\r\nfirst\r\n").unwrap();
    // A next hop that never answers.
    let silent = TcpListener::bind(instance.next_hop).unwrap();
    instance.client().mail("a@test.example", &["x@far.example"], MESSAGE).unwrap();
    let (held, _) = silent.accept().unwrap();
    let began = Instant::now();
    instance.stop();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop((held, silent));
    instance.start();
    let _sink = Sink::start(instance.next_hop);
    instance.ok("postqueue", &["-f"]);
    instance.until_empty();
    assert!(instance.mails("one").is_empty(), "what was never acknowledged is not delivered");
}

#[test]
fn a_dead_engine_is_replaced() {
    let instance = Instance::started();
    let first = instance.kill_engine().expect("an engine");
    instance.until("another engine", || instance.engine().is_some_and(|pid| pid != first));
    // The socket was open all the time: a client waits, it is not refused.
    assert_eq!(instance.client().mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
    instance.until_mails("one", 1);
    assert!(instance.log().contains("the engine (process"), "it is told");
    instance.stop();
}

#[test]
fn nothing_stays_when_the_supervisor_dies() {
    let instance = Instance::started();
    let (supervisor, engine) = (instance.supervisor().unwrap(), instance.engine().unwrap());
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    instance.until("the end of the engine", || kill(Pid::from_raw(engine), None).is_err());
    instance.start();
    assert_eq!(instance.client().mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
}

#[test]
fn the_log_is_rotated_under_a_running_system() {
    let instance = Instance::started();
    instance.client().mail("a@test.example", &["one@box.example"], MESSAGE).unwrap();
    instance.until("the first delivery", || instance.log().contains("status=sent"));
    instance.ok("postfix", &["logrotate"]);
    let names = || std::fs::read_dir(instance.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let old = names().filter(|name| name.to_string_lossy().starts_with("mail.log.")).count();
    assert_eq!(old, 1);
    instance.until("the new log", || {
        let _ = instance.client().mail("a@test.example", &["two@box.example"], MESSAGE);
        instance.log().contains("status=sent")
    });
}

#[test]
fn nonsense_on_the_control_socket_is_answered_or_dropped() {
    let instance = Instance::started();
    let socket = instance.path().join("queue/public/control");
    let frame = |length: u32, kind: u8, payload: &[u8]| [&length.to_be_bytes()[..], &[kind], payload].concat();
    for bytes in [
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        frame(u32::MAX, b'J', b""),
        frame(2, b'J', b"{}"),
        frame(4, b'B', b"\0\0\0\0"),
        frame(9, b'J', b"[[[[[[[[["),
        frame(40, b'J', br#"{"version":999999,"request":"List"}     "#),
        vec![0xff; 4096],
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}"),
        }
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.contains("efused"), "{text}");
    }
    // A caller that promises and stays silent holds nobody up.
    let mut stalled = UnixStream::connect(&socket).unwrap();
    stalled.write_all(&frame(1000, b'J', b"{")).unwrap();
    assert!(instance.queue().is_empty());
}

#[test]
fn an_abort_is_for_all_of_it() {
    let instance = Instance::started();
    // A session in the middle of a message would keep the engine for a while.
    let mut half = instance.client();
    half.expect("MAIL FROM:<a@test.example>", 250);
    half.expect("RCPT TO:<one@box.example>", 250);
    half.expect("DATA", 354);
    let said = instance.postfix("abort");
    assert_eq!(said.code, 0, "{said:?}");
    // The ports and the queue are free at once.
    instance.start();
    instance.stop();
}

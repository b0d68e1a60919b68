//! Others who have a say in what is taken: policy servers, the servers that recipients live on; and how a refusal is
//! explained.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Instance, PATIENCE, Sink, address, as_root};

const MESSAGE: &str = "Subject: hello\n\nx\n";

/// A policy server whose answers are those of a function; it keeps what it was asked.
struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Double {
    fn start(answer: fn(&str) -> Option<&'static str>) -> Self {
        let address = address();
        let listener = TcpListener::bind(address).unwrap();
        let (asked, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (log, count) = (Arc::clone(&asked), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                *count.lock().unwrap() += 1;
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(&stream, answer, &log));
            }
        });
        Self { address, asked, connections }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, answer: fn(&str) -> Option<&'static str>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        while !request.ends_with("\n\n") && request != "\n" {
            match reader.read_line(&mut request) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        log.lock().unwrap().push(request.clone());
        let Some(action) = answer(&request) else { return };
        if (&mut &*stream).write_all(format!("action={action}\n\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn value<'a>(request: &'a str, name: &str) -> &'a str {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("(missing)")
}

#[test]
fn a_policy_server_is_asked_and_obeyed() {
    let server = Double::start(|request| match value(request, "recipient") {
        "one@box.example" => Some("PREPEND X-Policy: seen"),
        "two@box.example" => Some("REJECT policy says no"),
        "three@box.example" => Some("DEFER_IF_PERMIT greylisted"),
        "four@box.example" => None,
        _ => Some("DUNNO"),
    });
    let mut instance = Instance::new();
    instance.set("smtpd_policy_service_retry_delay", "1s");
    let policy = format!("check_policy_service inet:{}", server.address);
    instance.set("smtpd_recipient_restrictions", &policy);
    instance.set("smtpd_end_of_data_restrictions", &policy);
    instance.start();
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example> SIZE=77", 250);
    client.expect("RCPT TO:<one@box.example>", 250);
    let said = client.expect("RCPT TO:<two@box.example>", 554);
    assert_eq!(said.lines[0], "554 5.7.1 <two@box.example>: Recipient address rejected: policy says no");
    let said = client.expect("RCPT TO:<three@box.example>", 450);
    assert_eq!(said.lines[0], "450 4.7.1 <three@box.example>: Recipient address rejected: greylisted");
    // It hangs up, twice: the default is "later".
    let said = client.expect("RCPT TO:<four@box.example>", 451);
    assert_eq!(said.lines[0], "451 4.3.5 <four@box.example>: Recipient address rejected: Server configuration problem");
    client.transaction(&["RCPT TO:<both@box.example>"], b"Subject: hello\r\n\r\nx\r\n.\r\n", 250);
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nX-Policy: seen\n"), "{mails:?}");
    let asked = server.asked();
    let end = asked.last().unwrap();
    let names: Vec<&str> = end.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "request",
            "protocol_state",
            "protocol_name",
            "client_address",
            "client_name",
            "client_port",
            "reverse_client_name",
            "server_address",
            "server_port",
            "helo_name",
            "sender",
            "recipient",
            "recipient_count",
            "queue_id",
            "instance",
            "size",
            "etrn_domain",
            "stress",
            "sasl_method",
            "sasl_username",
            "sasl_sender",
            "ccert_subject",
            "ccert_issuer",
            "ccert_fingerprint",
            "ccert_pubkey_fingerprint",
            "encryption_protocol",
            "encryption_cipher",
            "encryption_keysize",
            "policy_context",
        ]
    );
    for (name, expected) in [
        ("protocol_state", "END-OF-MESSAGE"),
        ("protocol_name", "ESMTP"),
        ("helo_name", "c.example"),
        ("sender", "a@test.example"),
        ("recipient", ""),
        ("recipient_count", "2"),
    ] {
        assert_eq!(value(end, name), expected, "{name}");
    }
    assert_eq!(value(end, "server_port"), instance.smtp.port().to_string());
    assert_eq!((value(&asked[0], "size"), value(&asked[0], "queue_id")), ("77", ""));
    assert_ne!(value(end, "queue_id"), "");
    assert_eq!(value(end, "instance"), value(&asked[0], "instance"), "one message, one instance");
    // One connection for all of it, but for the three that the server itself ended.
    assert_eq!(*server.connections.lock().unwrap(), 4);
    instance.until("the warning", || instance.log().contains("warning: problem talking to server"));
}

#[test]
fn a_policy_server_that_is_not_there_has_a_default_of_its_own() {
    let nowhere = address();
    let mut instance = Instance::new();
    instance.set("smtpd_policy_service_try_limit", "1");
    instance.set(
        "smtpd_recipient_restrictions",
        &format!("check_policy_service {{ inet:{nowhere}, timeout=2s, default_action=DUNNO }}"),
    );
    instance.start();
    assert_eq!(instance.client().mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
    let told = format!("warning: connect to {nowhere}: Connection refused");
    instance.until("the warning", || instance.log().contains(&told));
}

/// A program that is only there where its package is.
fn installed(program: &str, package: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        eprintln!("SKIPPED: {program} is not there (Debian package {package})");
    }
    there
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn postgrey_lets_in_whoever_comes_again() {
    if !installed("/usr/sbin/postgrey", "postgrey") {
        return;
    }
    let mut instance = Instance::new();
    let database = instance.path().join("postgrey");
    std::fs::create_dir(&database).unwrap();
    let (user, group) = if as_root() { ("nobody", "nogroup") } else { ("", "") };
    if as_root() {
        std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o700)).unwrap();
        chown(&database, Some(65534), Some(65534)).unwrap();
    }
    let server = address();
    let mut command = Command::new("/usr/sbin/postgrey");
    command.arg(format!("--inet={server}")).arg(format!("--dbdir={}", database.display())).arg("--delay=2");
    if as_root() {
        command.arg(format!("--user={user}")).arg(format!("--group={group}"));
    } else {
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        let group = nix::unistd::Group::from_gid(me.gid).unwrap().unwrap();
        command.arg(format!("--user={}", me.name)).arg(format!("--group={}", group.name));
    }
    let _postgrey = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(server).is_err() {
        assert!(Instant::now() < end, "postgrey does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    instance.set("smtpd_recipient_restrictions", &format!("check_policy_service inet:{server}"));
    instance.start();
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example>", 250);
    let said = client.expect("RCPT TO:<one@box.example>", 450);
    assert!(
        said.lines[0].starts_with("450 4.2.0 <one@box.example>: Recipient address rejected: Greylisted"),
        "{said:?}"
    );
    client.expect("RSET", 250);
    std::thread::sleep(Duration::from_secs(3));
    let mut client = instance.client();
    assert_eq!(client.mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nX-Greylist: delayed "), "{mails:?}");
}

#[test]
fn policyd_spf_is_started_for_us() {
    if !installed("/usr/bin/policyd-spf", "postfix-policyd-spf-python") {
        return;
    }
    let mut instance = Instance::new();
    instance.services.push("policyd-spf unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf".to_owned());
    instance.set("policyd-spf_time_limit", "3600");
    instance.set("smtpd_recipient_restrictions", "check_policy_service unix:private/policyd-spf");
    instance.start();
    let mut client = instance.client();
    for number in 1..=3 {
        assert_eq!(client.mail("a@test.example", &["one@box.example"], MESSAGE).unwrap().code, 250);
        let mails = instance.until_mails("one", number);
        // What it says of clients on this machine.
        assert!(mails[number - 1].contains("\nX-Comment: SPF"), "{mails:?}\n{}", instance.log());
    }
}

#[test]
fn a_program_of_root_is_not_started() {
    let mut instance = Instance::new();
    instance.services.push("policy unix - n n - 0 spawn user=root argv=/bin/cat".to_owned());
    instance.set("smtpd_policy_service_try_limit", "1");
    instance.set("smtpd_recipient_restrictions", "check_policy_service unix:private/policy");
    instance.start();
    if !as_root() {
        return;
    }
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example>", 250);
    client.expect("RCPT TO:<one@box.example>", 451);
    instance.until("the reason", || instance.log().contains("user= attribute specifies root privileges"));
}

#[test]
fn recipients_are_asked_for_where_they_live() {
    let mut instance = Instance::new();
    let home = address();
    instance.set("relay_domains", "relay.example");
    instance.set("relay_transport", &format!("smtp:[{}]:{}", home.ip(), home.port()));
    instance.set("smtpd_recipient_restrictions", "reject_unverified_recipient");
    instance.set("unverified_recipient_reject_code", "550");
    instance.set("address_verify_poll_delay", "1s");
    instance.set("address_verify_poll_count", "20");
    let sink = Sink::start(home);
    sink.rule("RCPT", "bad@", "550 5.1.1 no such mailbox");
    instance.start();
    let ask = |instance: &Instance| {
        let mut client = instance.client();
        client.expect("EHLO c.example", 250);
        client.expect("MAIL FROM:<a@test.example>", 250);
        client.expect("RCPT TO:<good@relay.example>", 250);
        let said = client.expect("RCPT TO:<bad@relay.example>", 550);
        let text = &said.lines[0];
        assert!(
            text.starts_with("550 5.1.1 <bad@relay.example>: Recipient address rejected: undeliverable address: host ")
                && text.contains("said: 550 5.1.1 no such mailbox (in reply to RCPT TO command)"),
            "{text}"
        );
        client.expect("QUIT", 221);
    };
    ask(&instance);
    let log = instance.log();
    assert!(log.contains("status=deliverable (250 "), "{log}");
    assert!(log.contains("status=undeliverable (host "), "{log}");
    assert!(sink.taken().is_empty() && instance.queue().is_empty(), "probes are no mail");
    drop(sink);
    // Nobody is there to be asked any more: what was learned is known after a restart.
    instance.stop();
    instance.start();
    ask(&instance);
    let log = instance.log();
    assert_eq!(log.matches("status=deliverable").count(), 1, "{log}");
}

#[test]
fn a_refusal_is_explained_by_file_and_line() {
    let mut instance = Instance::new();
    instance.file("people", "# who\nfour@box.example REJECT gone\n");
    instance.set("log_format", "json");
    let table = format!("check_recipient_access texthash:{}", instance.etc().join("people").display());
    instance.set("smtpd_recipient_restrictions", &format!("permit_inet_interfaces, {table}"));
    instance.set("smtpd_client_restrictions", "");
    instance.start();
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example>", 250);
    let refused = client.expect("RCPT TO:<four@box.example>", 554);
    assert_eq!(refused.lines[0], "554 5.7.1 <four@box.example>: Recipient address rejected: gone");
    instance.until("the line", || instance.log().contains("\"decided_by\""));
    let log = instance.log();
    let line = log.lines().find(|line| line.contains("\"decided_by\"")).unwrap();
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    let step = value["decided_by"].as_array().and_then(|steps| steps.last()).unwrap();
    assert_eq!(step["parameter"], "smtpd_recipient_restrictions");
    assert_eq!(step["element"], table.as_str());
    assert_eq!(step["verdict"], "reject");
    let place = format!("main.cf:{}", instance.line_of("smtpd_recipient_restrictions"));
    let place = step["place"].as_str().unwrap().replace("cf, line ", "cf:").contains(&place);
    assert!(place, "{step}");
    assert!(step["matched"].as_str().unwrap().contains("people:2: four@box.example REJECT gone"), "{step}");
}

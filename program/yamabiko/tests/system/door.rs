//! What stands before a session: postscreen, and a load balancer that says who the client is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Client, Instance, PATIENCE, address};

/// An instance with postscreen on an address of its own.
fn screened(lines: &[(&str, &str)]) -> (Instance, SocketAddr) {
    let mut instance = Instance::new();
    let door = address();
    instance.services.push(format!("{door} inet n - n - 1 postscreen"));
    instance.services.push("smtpd pass - - n - - smtpd\n  -o smtpd_banner=behind_the_door".to_owned());
    // Who connects from this machine is to be looked at here.
    instance.set("postscreen_access_list", "");
    instance.set("postscreen_greet_wait", "1s");
    for (name, value) in lines {
        instance.set(name, value);
    }
    instance.start();
    (instance, door)
}

fn send(client: &mut Client, recipient: &str) {
    client.transaction(
        &["EHLO c.example", "MAIL FROM:<a@test.example>", &format!("RCPT TO:<{recipient}>")],
        b"Subject: a\r\n\r\ntext\r\n.\r\n",
        250,
    );
}

#[test]
fn postscreen_lets_in_who_waits_and_remembers() {
    let (instance, door) = screened(&[]);
    let mut client = Client::unheard(door).unwrap();
    assert!(client.line().unwrap().starts_with("220-mx.test.example"));
    assert_eq!(client.line().unwrap().trim_end(), "220 behind_the_door");
    send(&mut client, "one@box.example");
    instance.until_mails("one", 1);
    let log = instance.log();
    assert!(log.contains("/postscreen[") && log.contains(": CONNECT from [127."), "{log}");
    assert!(log.contains(": PASS NEW [127."), "{log}");
    // Remembered when everything starts again.
    instance.until("the cache", || instance.path().join("lib/postscreen_cache.txt").exists());
    instance.stop();
    instance.start();
    let mut client = Client::unheard(door).unwrap();
    assert_eq!(client.line().unwrap().trim_end(), "220 behind_the_door");
    send(&mut client, "two@box.example");
    assert!(instance.log().contains(": PASS OLD [127."), "{}", instance.log());
}

#[test]
fn postscreen_turns_away_who_talks_first() {
    let (instance, door) = screened(&[("postscreen_greet_action", "drop")]);
    let mut stream = TcpStream::connect(door).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"EHLO spammer\r\nMAIL FROM:<>\r\n").unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap_or_default();
    assert!(all.ends_with("521 5.5.1 Protocol error\r\n"), "{all}");
    let line = "EHLO spammer\\r\\nMAIL FROM:<>\\r\\n";
    instance.until("the log", || instance.log().contains(line) && instance.log().contains(": PREGREET 28 after "));
    // Who is allowed is not looked at.
    let (_instance, door) = screened(&[("postscreen_access_list", "permit_mynetworks")]);
    let mut client = Client::unheard(door).unwrap();
    assert_eq!(client.line().unwrap().trim_end(), "220 behind_the_door");
}

/// HAProxy, which ends with the test.
struct Balancer {
    child: Child,
    _home: tempfile::TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Balancer {
    /// From each first address to the second, with this word about the protocol. `None` where it is not installed.
    fn start(ways: &[(SocketAddr, SocketAddr, &str)]) -> Option<Self> {
        let program = Path::new("/usr/sbin/haproxy");
        if !program.exists() {
            println!("SKIPPED: haproxy is not installed");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let mut text =
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n".to_owned();
        for (number, (from, to, word)) in ways.iter().enumerate() {
            text.push_str(&format!("listen l{number}\n bind {from}\n server s{number} {to} {word}\n"));
        }
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let child = Command::new(program).arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(ways[0].0).is_err() {
            assert!(began.elapsed() < PATIENCE, "haproxy does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { child, _home: home })
    }
}

/// A client with another address than the balancer's.
fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{source}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn first_lines(stream: &mut TcpStream, until: &str) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 512];
    while !String::from_utf8_lossy(&said).contains(until) {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            n => said.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn haproxy_says_who_the_client_is() {
    let (one, two, three) = (address(), address(), address());
    let (behind, door) = (address(), address());
    let mut instance = Instance::new();
    instance.services.push(format!("{behind} inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy"));
    instance
        .services
        .push(format!("{door} inet n - n - 1 postscreen\n  -o postscreen_upstream_proxy_protocol=haproxy"));
    instance.services.push("smtpd pass - - n - - smtpd".to_owned());
    instance.set("postscreen_access_list", "");
    instance.set("postscreen_greet_wait", "1s");
    instance.set("smtpd_peername_lookup", "no");
    instance.start();
    let ways = [(one, behind, "send-proxy"), (two, behind, "send-proxy-v2"), (three, door, "send-proxy-v2")];
    let Some(_balancer) = Balancer::start(&ways) else { return };
    for (source, to) in [("127.9.9.1", one), ("127.9.9.2", two), ("127.9.9.3", three)] {
        let mut stream = from(source, to);
        let said = first_lines(&mut stream, "220 ");
        assert!(said.contains("220 mx.test.example"), "{said}");
        let line = format!(": connect from unknown[{source}]");
        instance.until("the client's address", || instance.log().contains(&line));
    }
    let log = instance.log();
    assert!(
        log.contains(": CONNECT from [127.9.9.3]:") && log.contains(&format!(" to [{}]:{}", three.ip(), three.port()))
    );
    // Who comes without a proxy is nobody.
    let mut stream = from("127.9.9.4", behind);
    stream.write_all(b"EHLO c.example\r\n\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "421 4.3.0 mx.test.example Server local error\r\n");
    instance.until("a warning", || instance.log().contains("warning: haproxy read: unrecognized protocol header"));
}

/// A filter before the queue: here our own second service, which takes over who the client was, and refuses some.
#[test]
fn a_filter_before_the_queue_has_the_last_word() {
    let filter = address();
    let mut instance = Instance::new();
    let place = format!("{}:{}", filter.ip(), filter.port());
    let own = [
        "smtpd_proxy_filter =",
        "smtpd_authorized_xforward_hosts = 127.0.0.0/8",
        "smtpd_recipient_restrictions = check_recipient_access inline:{{four@box.example=REJECT from the filter}}, \
         permit_mynetworks, reject",
    ];
    let own: String = own.iter().map(|line| format!("\n  -o {{ {line} }}")).collect();
    instance.services.push(format!("{filter} inet n - n - - smtpd{own}"));
    instance.set("smtpd_proxy_filter", &place);
    instance.set("smtpd_proxy_options", "speed_adjust");
    instance.start();
    let mut client = instance.client();
    send(&mut client, "one@box.example");
    let mails = instance.until_mails("one", 1);
    // One trace of each of the two, the outer one without a queue ID that nobody could look up.
    assert_eq!(mails[0].matches("\nReceived: ").count(), 2, "{mails:?}");
    assert!(mails[0].contains("with ESMTP\n\tfor <one@box.example>"), "{mails:?}");
    instance.until("the log", || instance.log().contains(": proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as "));
    let log = instance.log();
    assert!(log.contains(": NOQUEUE: client=") && log.contains(", orig_client="), "{log}");
    // The filter's refusal is what the client hears.
    client.expect("MAIL FROM:<a@test.example>", 250);
    client.expect("RCPT TO:<four@box.example>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: a\r\n\r\n..text\r\n.\r\n").unwrap();
    let said = client.reply().unwrap();
    assert!(said.code == 554 && said.lines.concat().contains("from the filter"), "{said:?}");
    instance.until("the log", || instance.log().contains(": proxy-reject: END-OF-MESSAGE: 554 5.7.1 "));
    let warned = format!("warning: proxy {place} rejected \"RCPT TO:<four@box.example>\": \"554 5.7.1 ");
    assert!(instance.log().contains(&warned), "{}", instance.log());
    // Nobody there: mail waits at the client.
    let nobody = address();
    instance.set("smtpd_proxy_filter", &format!("{}:{}", nobody.ip(), nobody.port()));
    instance.stop();
    instance.start();
    let mut client = instance.client();
    client.transaction(
        &["EHLO c.example", "MAIL FROM:<a@test.example>", "RCPT TO:<one@box.example>"],
        b"Subject: a\r\n\r\ntext\r\n.\r\n",
        451,
    );
    instance.until("the log", || instance.log().contains("warning: connect to proxy filter "));
}

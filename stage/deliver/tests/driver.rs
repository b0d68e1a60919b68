//! The agent against servers in the process: routing, outcomes, kept connections, hostile peers.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use yamabiko_config::{Config, Host};
use yamabiko_deliver::{Around, Generic, Protocol, Settings, Simple, SmtpAgent};
use yamabiko_dns::{FakeResolver, Hosts, Resolver};
use yamabiko_envelope::{
    Action, Attempt, Content, DeliveryRequest, DiagnosticType, Envelope, Event, EventSink, Events, Kind, Origin,
    Outcome, QueueId, Recipient, Result as Fated, Reuse, Severity, SmtpStage, Timestamp,
};
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_route::{LocalDomains, Mapper, Rewriter};

/// What a server saw and said.
#[derive(Default)]
struct Seen {
    /// The commands of each session.
    sessions: Vec<Vec<String>>,
    /// The messages, as they came, without the final dot.
    messages: Vec<String>,
}

/// A server that accepts everything but what its rules say: `(command prefix, text within, reply)`. The reply `drop`
/// closes the connection, `silence` says nothing. `banner` and `EHLO` are commands too, `EOD` is the end of a message.
#[derive(Clone, Default)]
struct Server {
    rules: Arc<Vec<(&'static str, &'static str, &'static str)>>,
    lmtp: bool,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn new(rules: &[(&'static str, &'static str, &'static str)]) -> Self {
        Self { rules: Arc::new(rules.to_vec()), ..Self::default() }
    }

    async fn listen(&self, address: &str) -> u16 {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        port
    }

    fn listen_unix(&self, path: &std::path::Path) {
        let listener = UnixListener::bind(path).unwrap();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
    }

    fn rule(&self, command: &str, line: &str) -> Option<&'static str> {
        let found = self.rules.iter().find(|(on, within, _)| *on == command && line.contains(within));
        found.map(|(_, _, reply)| *reply)
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let (read, mut write) = tokio::io::split(stream);
        let mut read = BufReader::new(read);
        let session = {
            let mut seen = self.seen.lock().unwrap();
            seen.sessions.push(Vec::new());
            seen.sessions.len() - 1
        };
        self.say(&mut write, self.rule("banner", "").unwrap_or("220 fake.test ESMTP")).await?;
        let mut accepted = Vec::new();
        loop {
            let mut line = String::new();
            if read.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_owned();
            self.seen.lock().unwrap().sessions[session].push(line.clone());
            let command = line.split(' ').next().unwrap_or_default().to_owned();
            let default = match command.as_str() {
                "EHLO" | "LHLO" => "250-fake.test\r\n250-PIPELINING\r\n250-SIZE\r\n250 8BITMIME",
                "DATA" if accepted.is_empty() => "554 5.5.1 no valid recipients",
                "DATA" => "354 go on",
                "QUIT" => "221 2.0.0 bye",
                _ => "250 2.0.0 ok",
            };
            let reply = self.rule(&command, &line).unwrap_or(default);
            if command == "RSET" || command == "MAIL" {
                accepted.clear();
            }
            if command == "RCPT" && reply.starts_with("250") {
                accepted.push(line.clone());
            }
            self.say(&mut write, reply).await?;
            if command == "QUIT" {
                return None;
            }
            if reply.starts_with("354") {
                self.message(&mut read, &mut write, &accepted).await?;
            }
        }
    }

    async fn message(
        &self,
        read: &mut (impl AsyncBufReadExt + Unpin),
        write: &mut (impl AsyncWrite + Unpin),
        accepted: &[String],
    ) -> Option<()> {
        let mut message = Vec::new();
        loop {
            let from = message.len();
            if read.read_until(b'\n', &mut message).await.ok()? == 0 {
                return None;
            }
            if &message[from..] == b".\r\n" {
                message.truncate(from);
                break;
            }
            if self.rule("within", "").is_some() && message.len() > 100_000 {
                self.say(write, self.rule("within", "")?).await?;
                return None;
            }
        }
        self.seen.lock().unwrap().messages.push(String::from_utf8_lossy(&message).into_owned());
        if self.lmtp {
            for recipient in accepted {
                self.say(write, self.rule("EOD", recipient).unwrap_or("250 2.0.0 delivered")).await?;
            }
            return Some(());
        }
        self.say(write, self.rule("EOD", "").unwrap_or("250 2.0.0 Ok: queued as FAKE")).await
    }

    async fn say(&self, write: &mut (impl AsyncWrite + Unpin), reply: &str) -> Option<()> {
        match reply {
            "drop" => None,
            "silence" => std::future::pending().await,
            "endless" => loop {
                write.write_all(b"250-and more of it\r\n").await.ok()?;
            },
            reply => write.write_all(format!("{reply}\r\n").as_bytes()).await.ok(),
        }
    }

    fn sessions(&self) -> Vec<Vec<String>> {
        self.seen.lock().unwrap().sessions.clone()
    }
    fn messages(&self) -> Vec<String> {
        self.seen.lock().unwrap().messages.clone()
    }
}

/// Keeps the lines of the log.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        if let Kind::Text { severity, queue_id, text } = event.kind {
            let word = if severity == Severity::Warning { "warning: " } else { "" };
            let id = if queue_id.is_some() { "QID: " } else { "" };
            self.0.lock().unwrap().push(format!("{word}{id}{text}"));
        }
    }
}

struct Bench {
    agent: SmtpAgent,
    log: Arc<Log>,
}

fn settings() -> Settings {
    Settings {
        myhostname: "mx.lab.test".into(),
        helo_name: "mx.lab.test".into(),
        randomize_addresses: false,
        ..Settings::default()
    }
}

fn bench_with(settings: Settings, zone: &str, finish: impl FnOnce(SmtpAgent) -> SmtpAgent) -> Bench {
    let log = Arc::new(Log::default());
    let events: Events = log.clone();
    let resolver: Arc<dyn Resolver> = Arc::new(FakeResolver::parse(zone).unwrap());
    let origin = Origin::new(&"postfix".into(), "smtp");
    let hosts = Arc::new(Hosts::from_text("127.0.0.1 localhost\n"));
    Bench { agent: finish(SmtpAgent::new(settings, resolver, hosts, events, origin)), log }
}

fn bench(settings: Settings, zone: &str) -> Bench {
    bench_with(settings, zone, |agent| agent)
}

impl Bench {
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.0.lock().unwrap())
    }
}

fn request(nexthop: &str, recipients: &[&str]) -> DeliveryRequest {
    let now = Timestamp::now();
    let mut envelope = Envelope::new(QueueId::new(1_795_280_034_000_001, 1), now, "a@lab.test");
    envelope.recipients =
        recipients.iter().map(|to| Recipient { address: (*to).to_owned(), ..Recipient::default() }).collect();
    let text = b"From: a@lab.test\nSubject: x\n\n.text\n";
    DeliveryRequest::whole(envelope, Content::from(text.to_vec()), "smtp", nexthop, now)
}

fn told(outcome: &Outcome) -> String {
    let word = match outcome.result {
        Fated::Sent(_) => "sent",
        Fated::Deferred => "deferred",
        Fated::Failed => "bounced",
    };
    format!("relay={}, dsn={}, status={word} ({})", outcome.relay, outcome.status, outcome.reason)
}

/// In the order of the recipients.
fn all(attempt: &Attempt) -> Vec<String> {
    let mut outcomes: Vec<&Outcome> = attempt.outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.recipient);
    outcomes.into_iter().map(told).collect()
}

#[tokio::test]
async fn each_recipient_has_its_outcome() {
    let server = Server::new(&[("RCPT", "gone@", "550 5.1.1 no such user"), ("RCPT", "later@", "450 4.2.0 grey")]);
    let port = server.listen("127.0.0.1:0").await;
    let bench = bench(settings(), "");
    let nexthop = format!("[127.0.0.1]:{port}");
    let attempt =
        bench.agent.deliver(&request(&nexthop, &["ok@remote.test", "gone@remote.test", "later@remote.test"])).await;
    let named = "127.0.0.1[127.0.0.1]";
    assert_eq!(
        all(&attempt),
        [
            format!("relay={named}:{port}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as FAKE)"),
            format!(
                "relay={named}:{port}, dsn=5.1.1, status=bounced \
                 (host {named} said: 550 5.1.1 no such user (in reply to RCPT TO command))"
            ),
            format!(
                "relay={named}:{port}, dsn=4.2.0, status=deferred \
                 (host {named} said: 450 4.2.0 grey (in reply to RCPT TO command))"
            ),
        ]
    );
    assert_eq!(attempt.destination_failure, None);
    let by_recipient = |index| attempt.outcomes.iter().find(|outcome| outcome.recipient == index).unwrap();
    let gone = by_recipient(1);
    assert_eq!(gone.diagnostic, Some((DiagnosticType::Smtp, "550 5.1.1 no such user".into())));
    assert_eq!(gone.remote_mta.as_deref(), Some("127.0.0.1"));
    assert_eq!((gone.stage, gone.recipient, gone.connection_use), (Some(SmtpStage::Rcpt), 1, 1));
    assert_eq!(by_recipient(0).result, Fated::Sent(Action::Relayed));
    assert_eq!(by_recipient(0).stage, Some(SmtpStage::EndOfData));
    let named: Vec<String> = server.sessions()[0].iter().filter(|line| line.starts_with("RCPT")).cloned().collect();
    assert_eq!(named, ["RCPT TO:<gone@remote.test>", "RCPT TO:<later@remote.test>", "RCPT TO:<ok@remote.test>"]);
    assert_eq!(server.messages(), ["From: a@lab.test\r\nSubject: x\r\n\r\n..text\r\n"]);
    assert_eq!(server.sessions()[0][0], "EHLO mx.lab.test");
    assert_eq!(bench.log(), Vec::<String>::new());
}

const MULTI: &str = "
    multi.test MX 10 one.multi.test
    multi.test MX 20 two.multi.test
    one.multi.test A 127.0.0.1
    two.multi.test A 127.0.0.2
";

/// The second server listens on the same port of another address.
async fn pair(one: Option<&Server>, two: Option<&Server>) -> u16 {
    for _ in 0..50 {
        let Some(server) = one else {
            // A port that nobody listens on at the first address.
            return match two {
                Some(two) => two.listen("127.0.0.2:0").await,
                None => TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port(),
            };
        };
        let port = server.listen("127.0.0.1:0").await;
        let Some(two) = two else { return port };
        if let Ok(free) = TcpListener::bind(("127.0.0.2", port)).await {
            drop(free);
            two.listen(&format!("127.0.0.2:{port}")).await;
            return port;
        }
    }
    panic!("no port is free at both addresses");
}

#[tokio::test]
async fn the_next_host_is_tried() {
    let refused = "connect to one.multi.test[127.0.0.1]:PORT: Connection refused";
    let table: &[(Option<&[_]>, &str)] = &[
        (None, refused),
        (
            Some(&[("banner", "", "421 4.3.2 too busy")]),
            "QID: host one.multi.test[127.0.0.1] refused to talk to me: 421 4.3.2 too busy",
        ),
        (
            Some(&[("banner", "", "554 5.7.1 no")]),
            "QID: host one.multi.test[127.0.0.1] refused to talk to me: 554 5.7.1 no",
        ),
        (
            Some(&[("banner", "", "drop")]),
            "QID: lost connection with one.multi.test[127.0.0.1] while receiving the initial server greeting",
        ),
        (
            Some(&[("RCPT", "", "451 4.7.1 grey")]),
            "QID: host one.multi.test[127.0.0.1] said: 451 4.7.1 grey (in reply to RCPT TO command)",
        ),
        (
            Some(&[("EOD", "", "452 4.3.1 full")]),
            "QID: host one.multi.test[127.0.0.1] said: 452 4.3.1 full (in reply to end of DATA command)",
        ),
        (
            Some(&[("DATA", "", "drop")]),
            "QID: lost connection with one.multi.test[127.0.0.1] while sending DATA command",
        ),
    ];
    for (first, line) in table {
        let (one, two) = (first.map(Server::new), Server::default());
        let port = pair(one.as_ref(), Some(&two)).await;
        let bench = bench(settings(), MULTI);
        let attempt = bench.agent.deliver(&request(&format!("multi.test:{port}"), &["x@multi.test"])).await;
        let sent =
            format!("relay=two.multi.test[127.0.0.2]:{port}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as FAKE)");
        assert_eq!(all(&attempt), [sent]);
        assert_eq!(bench.log(), [line.replace("PORT", &port.to_string())]);
        assert_eq!(attempt.destination_failure, None);
    }
}

#[tokio::test]
async fn a_permanent_refusal_ends_it_at_the_first_host() {
    let (one, two) = (Server::new(&[("RCPT", "", "550 5.1.1 no")]), Server::default());
    let port = pair(Some(&one), Some(&two)).await;
    let bench = bench(settings(), MULTI);
    let attempt = bench.agent.deliver(&request(&format!("multi.test:{port}"), &["x@multi.test"])).await;
    assert!(matches!(attempt.outcomes[0].result, Fated::Failed));
    assert!(two.sessions().is_empty());
}

#[tokio::test]
async fn an_unreachable_destination_is_reported_as_such() {
    let port = pair(None, None).await;
    let bench = bench(settings(), MULTI);
    let attempt = bench.agent.deliver(&request(&format!("multi.test:{port}"), &["x@multi.test", "y@multi.test"])).await;
    let reason = format!("connect to two.multi.test[127.0.0.2]:{port}: Connection refused");
    let wanted = format!("relay=none, dsn=4.4.1, status=deferred ({reason})");
    assert_eq!(all(&attempt), [wanted.clone(), wanted]);
    assert_eq!(
        attempt.destination_failure.map(|(status, reason)| (status.to_string(), reason)),
        Some(("4.4.1".into(), reason))
    );
    assert_eq!(bench.log().len(), 2);
}

#[tokio::test]
async fn name_service_errors() {
    let zone = "soft.test SERVFAIL\nnull.test MX 0 .\n";
    let bench = bench(settings(), zone);
    let table = [
        (
            "nowhere.test",
            "5.4.4, status=bounced (Host or domain name not found. Name service error for name=nowhere.test \
             type=AAAA: Host not found)",
            false,
        ),
        (
            "soft.test",
            "4.4.3, status=deferred (Host or domain name not found. Name service error for name=soft.test type=MX: \
             Host not found, try again)",
            true,
        ),
        ("null.test", "5.1.0, status=bounced (Domain null.test does not accept mail (nullMX))", false),
    ];
    for (nexthop, wanted, throttles) in &table {
        let attempt = bench.agent.deliver(&request(nexthop, &["x@y.test"])).await;
        assert_eq!(all(&attempt), [format!("relay=none, dsn={wanted}")]);
        assert_eq!(attempt.destination_failure.is_some(), *throttles, "{nexthop}");
        assert_eq!(attempt.outcomes[0].stage, Some(SmtpStage::Lookup));
    }
    let attempt = bench.agent.deliver(&request("[x", &["x@y.test"])).await;
    assert_eq!(
        all(&attempt),
        ["relay=none, dsn=4.3.5, status=deferred (mail system configuration error: missing \"]\" in server \
          description: [x)"]
    );
}

#[tokio::test]
async fn the_relayhost_is_never_wrong_for_good() {
    let mut settings = settings();
    settings.relayhost = "nowhere.test".into();
    let bench = bench(settings, "");
    let attempt = bench.agent.deliver(&request("nowhere.test", &["x@y.test"])).await;
    assert_eq!(
        all(&attempt),
        ["relay=none, dsn=4.3.5, status=deferred (Host or domain name not found. Name service error for \
          name=nowhere.test type=AAAA: Host not found)"]
    );
    assert_eq!(bench.log(), ["warning: relayhost configuration problem"]);
}

#[tokio::test]
async fn fallback_relays_take_what_others_cannot() {
    let fallback = Server::default();
    let port = fallback.listen("127.0.0.1:0").await;
    let mut settings = settings();
    settings.fallback_relay = vec![format!("[127.0.0.1]:{port}")];
    let bench = bench(settings, "");
    let attempt = bench.agent.deliver(&request("nowhere.test", &["x@nowhere.test"])).await;
    assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", all(&attempt));
}

#[tokio::test]
async fn a_mail_exchanger_does_not_send_to_fallback_relays() {
    let fallback = Server::default();
    let port = fallback.listen("127.0.0.1:0").await;
    let mut settings = settings();
    settings.fallback_relay = vec![format!("[127.0.0.1]:{port}")];
    settings.own_addresses = vec!["192.0.2.1".parse().unwrap()];
    let zone = "
        lame.test MX 10 nowhere.test
        lame.test MX 20 mx.lab.test
        ours.test MX 10 mx.lab.test
        mx.lab.test A 192.0.2.1
    ";
    let bench = bench(settings, zone);
    for (domain, wanted) in [
        ("lame.test", "relay=none, dsn=4.4.4, status=deferred (unable to find primary relay for lame.test)"),
        ("ours.test", "relay=none, dsn=5.4.6, status=bounced (mail for ours.test loops back to myself)"),
    ] {
        assert_eq!(all(&bench.agent.deliver(&request(domain, &["x@y.test"])).await), [wanted]);
    }
    assert!(fallback.sessions().is_empty());
}

#[tokio::test]
async fn long_lines_are_broken_and_said_so() {
    let server = Server::default();
    let port = server.listen("127.0.0.1:0").await;
    let bench = bench(Settings { line_length_limit: 10, ..settings() }, "");
    let mut wanted = request(&format!("[127.0.0.1]:{port}"), &["x@y.test"]);
    wanted.content = Content::from(b"\n0123456789abcdefghijklmnopqrst\n".to_vec());
    bench.agent.deliver(&wanted).await;
    assert_eq!(server.messages(), ["\r\n0123456789\r\n abcdefghi\r\n jklmnopqr\r\n st\r\n"]);
    assert_eq!(bench.log(), ["QID: breaking line > 10 bytes with <CR><LF>SPACE"]);
}

#[tokio::test]
async fn a_list_of_destinations_is_tried_in_order() {
    let server = Server::default();
    let port = server.listen("127.0.0.1:0").await;
    let bench = bench(settings(), "");
    let attempt = bench.agent.deliver(&request(&format!("nowhere.test, [127.0.0.1]:{port}"), &["x@y.test"])).await;
    assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", all(&attempt));
}

#[tokio::test]
async fn connections_are_kept_while_mail_waits() {
    let server = Server::default();
    let port = server.listen("127.0.0.1:0").await;
    let bench = bench(settings(), "");
    let nexthop = format!("[127.0.0.1]:{port}");
    let mut wanted = request(&nexthop, &["x@y.test"]);
    wanted.reuse = Reuse { load: true, store: true };
    for round in 1..=3 {
        let attempt = bench.agent.deliver(&wanted).await;
        assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)));
        assert_eq!(attempt.outcomes[0].connection_use, round);
    }
    let last = request(&nexthop, &["x@y.test"]);
    // Where none is wanted, a connection of its own.
    let attempt = bench.agent.deliver(&last).await;
    assert_eq!(attempt.outcomes[0].connection_use, 1);
    let sessions = server.sessions();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0].iter().filter(|line| *line == "RSET").count(), 2);
    assert!(!sessions[0].contains(&"QUIT".to_owned()));
    assert_eq!(sessions[1].last().unwrap(), "QUIT");
}

#[tokio::test]
async fn a_dead_kept_connection_costs_nothing() {
    let server = Server::new(&[("RSET", "", "drop")]);
    let port = server.listen("127.0.0.1:0").await;
    let bench = bench(settings(), "");
    let mut wanted = request(&format!("[127.0.0.1]:{port}"), &["x@y.test"]);
    wanted.reuse = Reuse { load: true, store: true };
    for _ in 0..3 {
        let attempt = bench.agent.deliver(&wanted).await;
        assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", all(&attempt));
        assert_eq!(attempt.outcomes[0].connection_use, 1);
    }
    assert_eq!(server.sessions().len(), 3);
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[tokio::test]
async fn limits_of_reuse() {
    let server = Server::default();
    let port = server.listen("127.0.0.1:0").await;
    let mut settings = settings();
    settings.cache.count_limit = 2;
    let bench = bench(settings, "");
    let mut wanted = request(&format!("[127.0.0.1]:{port}"), &["x@y.test"]);
    wanted.reuse = Reuse { load: true, store: true };
    // The first use is no reuse.
    for expected in [1, 2, 3, 1] {
        assert_eq!(bench.agent.deliver(&wanted).await.outcomes[0].connection_use, expected);
    }
}

#[tokio::test]
async fn lmtp_over_a_socket_in_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lmtp.sock");
    let server = Server {
        rules: Arc::new(vec![("EOD", "full@", "452 4.2.2 full"), ("RCPT", "none@", "550 5.1.1 none")]),
        lmtp: true,
        ..Server::default()
    };
    server.listen_unix(&path);
    let settings = Settings { protocol: Protocol::Lmtp, queue_directory: dir.path().to_owned(), ..settings() };
    let bench = bench(settings, "");
    let attempt = bench.agent.deliver(&request("unix:lmtp.sock", &["ok@l.test", "full@l.test", "none@l.test"])).await;
    let named = "mx.lab.test[lmtp.sock]";
    assert_eq!(
        all(&attempt),
        [
            format!("relay={named}, dsn=2.0.0, status=sent (250 2.0.0 delivered)"),
            format!(
                "relay={named}, dsn=4.2.2, status=deferred (host {named} said: 452 4.2.2 full (in reply to end of \
                 DATA command))"
            ),
            format!(
                "relay={named}, dsn=5.1.1, status=bounced (host {named} said: 550 5.1.1 none (in reply to RCPT TO \
                 command))"
            ),
        ]
    );
    assert_eq!(server.sessions()[0][0], "LHLO mx.lab.test");
    let attempt = bench.agent.deliver(&request("unix:missing.sock", &["ok@l.test"])).await;
    assert_eq!(
        all(&attempt),
        ["relay=none, dsn=4.4.1, status=deferred (connect to mx.lab.test[missing.sock]: No such file or directory)"]
    );
}

#[tokio::test]
async fn servers_that_misbehave() {
    let lost = "lost connection with 127.0.0.1[127.0.0.1] while";
    let slow = "conversation with 127.0.0.1[127.0.0.1] timed out while";
    let table: &[(&[_], String)] = &[
        (&[("EHLO", "", "drop")], format!("4.4.2 {lost} performing the EHLO handshake")),
        (&[("MAIL", "", "drop")], format!("4.4.2 {lost} sending MAIL FROM")),
        (&[("RCPT", "", "drop")], format!("4.4.2 {lost} sending RCPT TO")),
        (&[("EOD", "", "drop")], format!("4.4.2 {lost} sending end of data -- message may be sent more than once")),
        (&[("banner", "", "silence")], format!("4.4.2 {slow} receiving the initial server greeting")),
        (&[("MAIL", "", "silence")], format!("4.4.2 {slow} sending MAIL FROM")),
        (&[("EHLO", "", "endless")], format!("4.4.2 {slow} performing the EHLO handshake")),
    ];
    for (rules, wanted) in table {
        let server = Server::new(rules);
        let port = server.listen("127.0.0.1:0").await;
        let mut settings = settings();
        settings.timeouts.helo = Duration::from_millis(300);
        settings.timeouts.mail = Duration::from_millis(300);
        let bench = bench(settings, "");
        let attempt = bench.agent.deliver(&request(&format!("[127.0.0.1]:{port}"), &["x@y.test"])).await;
        let outcome = &attempt.outcomes[0];
        assert_eq!(format!("{} {}", outcome.status, outcome.reason), *wanted);
        assert!(matches!(outcome.result, Fated::Deferred));
        assert!(attempt.destination_failure.is_some());
        assert_eq!((outcome.remote_mta.as_deref(), &outcome.diagnostic), (None, &None));
    }
}

#[tokio::test]
async fn a_large_message_comes_from_a_file_and_may_be_refused_in_the_middle() {
    let mut file = tempfile::tempfile().unwrap();
    let line = "0123456789 0123456789 0123456789 0123456789\n".repeat(200_000);
    file.write_all(b"Subject: large\n\n").unwrap();
    file.write_all(line.as_bytes()).unwrap();
    let len = 16 + line.len() as u64;
    let content = Content::File { file: Arc::new(file), offset: 0, len };
    for rules in [&[][..], &[("within", "", "552 5.3.4 too large")][..]] {
        let server = Server::new(rules);
        let port = server.listen("127.0.0.1:0").await;
        let bench = bench(settings(), "");
        let mut wanted = request(&format!("[127.0.0.1]:{port}"), &["x@y.test"]);
        wanted.content = content.clone();
        let attempt = bench.agent.deliver(&wanted).await;
        if rules.is_empty() {
            assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", all(&attempt));
            assert_eq!(server.messages()[0].len() as u64, len + 200_002);
            let size = format!("SIZE={}", len + 200_002);
            assert!(server.sessions()[0][1].contains(&size), "{:?}", server.sessions()[0]);
        } else {
            // Whether the reason arrives before the reset is the network's affair.
            let reason = &attempt.outcomes[0].reason;
            assert!(
                reason.contains("552 5.3.4 too large") || reason.contains("while sending message body"),
                "{reason}"
            );
        }
    }
}

#[tokio::test]
async fn generic_maps_rewrite_what_goes_out() {
    let server = Server::default();
    let port = server.listen("127.0.0.1:0").await;
    let config = Config::from_texts("myhostname = mx.lab.test\n", "", ("main.cf", "master.cf"), &Host::default());
    let view = config.unwrap().main();
    let tables = TableSet::default();
    let maps = Maps::open(&tables, "smtp_generic_maps", "inline:{ { a@lab.test = me@isp.test } }");
    let mapper = Mapper::new(Rewriter::new(&view), LocalDomains::new(&view, &tables), String::new());
    let generic = Generic::new(maps, mapper, false).unwrap();
    let bench = bench_with(settings(), "", |agent| agent.with_generic(generic));
    let attempt = bench.agent.deliver(&request(&format!("[127.0.0.1]:{port}"), &["x@y.test"])).await;
    assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)));
    assert_eq!(server.messages(), ["From: me@isp.test\r\nSubject: x\r\n\r\n..text\r\n"]);
    assert!(server.sessions()[0][1].starts_with("MAIL FROM:<me@isp.test>"));
}

#[test]
fn every_setting_is_in_the_table_of_parameters() {
    let main = "
        smtp_bind_address = 192.0.2.1
        smtp_bind_address6 = [2001:db8::1]
        smtp_discard_ehlo_keywords = silent-discard, dsn
        smtp_generic_maps = inline:{ a@b=c@d }
        smtp_per_request_deadline = yes
        smtp_min_data_rate = 20
        tcp_windowsize = 65535
        known_tcp_ports = lmtp=24, smtps=submissions=465
        inet_protocols = ipv4
        lmtp_lhlo_name = lmtp.test
    ";
    // A line that begins with a blank would belong to the one before.
    let main: String = main.lines().map(|line| format!("{}\n", line.trim())).collect();
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
    let view = config.main();
    let settings = Settings::from_view(&view, Protocol::Smtp);
    assert_eq!(settings.bind_address, "192.0.2.1".parse().ok());
    assert_eq!(settings.bind_address6, "2001:db8::1".parse().ok());
    assert_eq!((settings.discard.silently, settings.discard.keywords), (true, vec!["dsn".to_owned()]));
    assert_eq!((settings.ipv4, settings.ipv6, settings.lookup_dns), (true, false, true));
    assert_eq!(settings.timeouts.connect, Duration::from_secs(30));
    assert_eq!(Settings::from_view(&view, Protocol::Lmtp).helo_name, "lmtp.test");
    assert_eq!((settings.deadline, settings.window), (Some(20), 65535));
    let ports = [("lmtp", 24), ("smtps", 465), ("submissions", 465)].map(|(name, port)| (name.to_owned(), port));
    assert_eq!(settings.known_ports, ports);
    assert_eq!(Settings::from_view(&view, Protocol::Lmtp).deadline, None);
    let log: Events = Arc::new(Log::default());
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        let resolver: Arc<dyn Resolver> = Arc::new(FakeResolver::default());
        let (hosts, origin) = (Arc::new(Hosts::from_text("")), Origin::new(&"postfix".into(), "smtp"));
        SmtpAgent::from_view(
            &view,
            protocol,
            &TableSet::default(),
            &yamabiko_tls::Disk,
            Around { resolver, hosts, events: log.clone(), origin },
        );
    }
}

#[test]
fn agents_that_deliver_nothing() {
    let log = Arc::new(Log::default());
    let events: Events = log.clone();
    let origin = Origin::new(&"postfix".into(), "error");
    let now = Timestamp::now();
    let table: &[(Simple, &str, &str, &str)] = &[
        (Simple::Discard, "drop.test", "relay=none, dsn=2.0.0, status=sent (drop.test)", ""),
        (Simple::Error, "5.4.4 no mail from here", "relay=none, dsn=5.4.4, status=bounced (no mail from here)", ""),
        (Simple::Error, "no", "relay=none, dsn=5.0.0, status=bounced (no)", ""),
        (
            Simple::Error,
            "4.1.1 soft",
            "relay=none, dsn=5.0.0, status=bounced (soft)",
            "warning: bounce_append: ignoring dsn code \"4.1.1\"",
        ),
        (Simple::Retry, "4.7.0 closed", "relay=none, dsn=4.7.0, status=deferred (closed)", ""),
        (
            Simple::Retry,
            "5.7.0 closed",
            "relay=none, dsn=4.0.0, status=deferred (closed)",
            "warning: defer_append: ignoring dsn code \"5.7.0\"",
        ),
    ];
    for (agent, nexthop, wanted, line) in table {
        let attempt = agent.deliver(&request(nexthop, &["x@y.test"]), &events, &origin, now);
        assert_eq!(all(&attempt), [*wanted]);
        assert_eq!(std::mem::take(&mut *log.0.lock().unwrap()).join("\n"), *line);
    }
}

#[test]
fn deliveries_can_move_between_threads() {
    fn moves<T: Send>(_: &T) {}
    let bench = bench(settings(), "");
    let request = request("x.test", &["x@y.test"]);
    moves(&bench.agent.deliver(&request));
}

//! The agent against servers with TLS in the process: MTA-STS, counts for reports, REQUIRETLS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use yamabiko_config::{Config, Host};
use yamabiko_deliver::{Around, Memory, Protocol, SmtpAgent};
use yamabiko_dns::{FakeResolver, Hosts};
use yamabiko_envelope::{
    Content, DeliveryRequest, Envelope, Event, EventSink, Kind, Origin, Outcome, QueueId, Recipient, Result as Fated,
    Timestamp, TlsWish,
};
use yamabiko_lookup::TableSet;
use yamabiko_tls::{Handed, Server, ServerOptions, Stream};

/// A private authority with certificates of these names: files for client and servers.
struct World {
    files: Handed,
    servers: HashMap<String, Arc<Server>>,
}

fn world(names: &[&str]) -> World {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut files = Handed::default();
    files.0.insert("/ca.pem".to_owned(), Ok(authority.pem().into_bytes()));
    let mut servers = HashMap::new();
    for name in names {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec![(*name).to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let path = format!("/{name}.pem");
        files.0.insert(path.clone(), Ok((key.serialize_pem() + &own.pem()).into_bytes()));
        let options = ServerOptions { chain_files: vec![path], digest: "sha256".into(), ..ServerOptions::default() };
        servers.insert((*name).to_owned(), Arc::new(Server::new(options, &[], &files).unwrap()));
    }
    World { files, servers }
}

type Said = Arc<Mutex<Vec<String>>>;

/// An SMTP server; `tls`: what STARTTLS is done with, `more`: keywords that are offered within.
async fn smtp(address: &str, tls: Option<Arc<Server>>, more: &'static str) -> (SocketAddr, Said) {
    let listener = TcpListener::bind(address).await.unwrap();
    let bound = listener.local_addr().unwrap();
    let said = Said::default();
    let heard = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, tls.clone(), more, Arc::clone(&heard)));
        }
    });
    (bound, said)
}

async fn serve(stream: TcpStream, tls: Option<Arc<Server>>, more: &'static str, said: Said) -> Option<()> {
    let mut stream = BufReader::new(Stream::Plain(stream));
    stream.write_all(b"220 peer.test ESMTP\r\n").await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let encrypted = stream.get_ref().is_encrypted();
        said.lock().unwrap().push(line.trim_end().to_owned());
        let reply = match line.split([' ', '\r']).next().unwrap_or_default() {
            "EHLO" if tls.is_some() && !encrypted => "250-peer.test\r\n250 STARTTLS\r\n".to_owned(),
            "EHLO" if !more.is_empty() && encrypted => format!("250-peer.test\r\n250 {more}\r\n"),
            "EHLO" => "250 peer.test\r\n".to_owned(),
            "LHLO" => "250-peer.test\r\n250 AUTH PLAIN\r\n".to_owned(),
            "AUTH" => "235 2.7.0 welcome\r\n".to_owned(),
            "STARTTLS" => {
                stream.write_all(b"220 go\r\n").await.ok()?;
                let plain = stream.get_mut().take_plain()?;
                let (encrypted, _) = tls.as_ref()?.accept(plain).await.ok()?;
                stream = BufReader::new(encrypted);
                continue;
            }
            "DATA" => {
                stream.write_all(b"354 go\r\n").await.ok()?;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.ok()? == 0 || line == ".\r\n" {
                        break;
                    }
                }
                "250 2.0.0 taken\r\n".to_owned()
            }
            _ => "250 2.0.0 ok\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

/// A web server with this policy.
async fn web(tls: Arc<Server>, policy: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok((mut stream, _)) = tls.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 2048]).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("{head}{policy}").as_bytes()).await;
            let _ = stream.flush().await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        if let Kind::Text { text, .. } = event.kind {
            self.0.lock().unwrap().push(text);
        }
    }
}

struct Bench {
    agent: SmtpAgent,
    log: Arc<Log>,
    memory: Arc<Memory>,
}

fn bench(world: &World, main: &str, zone: &str) -> Bench {
    bench_of(Protocol::Smtp, world, main, zone)
}

fn bench_of(protocol: Protocol, world: &World, main: &str, zone: &str) -> Bench {
    let main = format!(
        "myhostname = us.test\nmydomain = us.test\nsmtp_tls_CAfile = /ca.pem\nsmtp_tls_loglevel = 1\nsmtp_tlsrpt_enable = yes\ninet_protocols = ipv4\n{main}"
    );
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
    let log = Arc::new(Log::default());
    let around = Around {
        resolver: Arc::new(FakeResolver::parse(zone).unwrap()),
        hosts: Arc::new(Hosts::from_text("")),
        events: log.clone(),
        origin: Origin::new(&"postfix".into(), "smtp"),
    };
    let memory = Arc::new(Memory::in_memory());
    let agent = SmtpAgent::from_view(&config.main(), protocol, &TableSet::default(), &world.files, around);
    Bench { agent: agent.with_memory(Arc::clone(&memory)), log, memory }
}

async fn send(bench: &Bench, nexthop: &str, tls: TlsWish) -> Outcome {
    let now = Timestamp::now();
    let mut envelope = Envelope::new(QueueId::new(1_795_280_034_000_001, 1), now, "a@us.test");
    envelope.tls = tls;
    envelope.recipients = vec![Recipient { address: "b@a.test".into(), ..Recipient::default() }];
    let content = Content::from(b"Subject: x\n\ntext\n".to_vec());
    let request = DeliveryRequest::whole(envelope, content, "smtp", nexthop, now);
    bench.agent.deliver(&request).await.outcomes.remove(0)
}

fn told(outcome: &Outcome) -> String {
    let word = match outcome.result {
        Fated::Sent(_) => "sent",
        Fated::Deferred => "deferred",
        Fated::Failed => "bounced",
    };
    format!("{} {word} {}", outcome.status, outcome.reason)
}

/// Kinds of failures that were counted, `ok` for what went well, with the kind of policy.
fn counted(memory: &Memory) -> Vec<String> {
    let later = Timestamp::now().seconds() + 2 * 24 * 3600;
    let mut found = Vec::new();
    for (_, domain, policies) in memory.reports.due(later, 0) {
        for counted in policies {
            let kind = &counted.policy.kind;
            found.extend((counted.successes > 0).then(|| format!("{domain} {kind} ok")));
            found.extend(counted.failures.iter().map(|failed| format!("{domain} {kind} {}", failed.kind)));
        }
    }
    found
}

fn zone(mx: &str) -> String {
    format!("a.test MX 10 {mx}\n{mx} A 127.0.0.1\n_mta-sts.a.test TXT \"v=STSv1; id=77\"\nmta-sts.a.test A 127.0.0.1\n")
}

#[tokio::test]
async fn policies_of_mta_sts_hold() {
    let world = world(&["mta-sts.a.test", "mx1.a.test", "other.test"]);
    let web_server = &world.servers["mta-sts.a.test"];
    let policy = |mode: &str, mx: &str| format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
    // mode, mx of the policy, certificate of the server (none: no STARTTLS), more of main.cf: what comes of it, what is counted
    let table = [
        ("enforce", "mx1.a.test", Some("mx1.a.test"), "", "2.0.0 sent", "a.test sts ok"),
        ("enforce", "*.a.test", Some("mx1.a.test"), "smtp_tls_security_level = may\n", "2.0.0 sent", "a.test sts ok"),
        (
            "enforce",
            "mx1.a.test",
            Some("other.test"),
            "",
            "4.7.5 deferred Server certificate not verified (MTA-STS policy of a.test, mode=enforce, id=77",
            "a.test sts certificate-host-mismatch",
        ),
        (
            "enforce",
            "mx1.a.test",
            None,
            "",
            "4.7.4 deferred TLS is required, but was not offered",
            "a.test sts starttls-not-supported",
        ),
        (
            "enforce",
            "mx2.a.test",
            Some("mx1.a.test"),
            "",
            "4.7.5 deferred host mx1.a.test[127.0.0.1] is not named by the MTA-STS policy of a.test",
            "a.test sts validation-failure",
        ),
        ("testing", "mx1.a.test", Some("other.test"), "", "2.0.0 sent", "a.test sts certificate-host-mismatch"),
        ("testing", "mx2.a.test", None, "", "2.0.0 sent", "a.test sts validation-failure"),
        (
            "none",
            "mx1.a.test",
            Some("other.test"),
            "smtp_tls_security_level = may\n",
            "2.0.0 sent",
            "a.test no-policy-found ok",
        ),
        (
            "enforce",
            "mx2.a.test",
            Some("other.test"),
            "smtp_tls_policy_maps = inline:{a.test=may, .test=may}\n",
            "2.0.0 sent",
            "",
        ),
    ];
    for (mode, mx, certificate, more, wanted, counts) in table {
        let web_port = web(Arc::clone(web_server), policy(mode, mx)).await;
        let tls = certificate.map(|name| Arc::clone(&world.servers[name]));
        let (address, said) = smtp("127.0.0.1:0", tls, "").await;
        let more = more.replace("a.test=may", &format!("a.test:{}=may", address.port()));
        let main = format!("smtp_tls_mta_sts = yes\nsmtp_tls_mta_sts_port = {web_port}\n{more}");
        let bench = bench(&world, &main, &zone("mx1.a.test"));
        let outcome = send(&bench, &format!("a.test:{}", address.port()), TlsWish::Policy).await;
        let case = format!("{mode} {mx} {certificate:?} {more}");
        assert!(told(&outcome).starts_with(wanted), "{case}: {}\n{:?}\n{:?}", told(&outcome), bench.log.0, said);
        if !counts.is_empty() {
            assert!(counted(&bench.memory).contains(&counts.to_owned()), "{case}: {:?}", counted(&bench.memory));
        }
        if mode == "enforce" && wanted.starts_with("4.7") {
            assert!(!said.lock().unwrap().iter().any(|line| line.starts_with("MAIL")), "{case}");
        }
        if wanted.starts_with("2.0.0") && counts == "a.test sts ok" {
            let log = bench.log.0.lock().unwrap().join("\n");
            for part in [
                "policy of a.test fetched: mode=enforce, id=77",
                "mode=enforce, id=77: is met",
                "Verified TLS connection",
            ] {
                assert!(log.contains(part), "{case}: {log}");
            }
        }
    }
}

#[tokio::test]
async fn requiretls_goes_to_those_only_who_promise_it() {
    let world = world(&["mx1.a.test", "other.test"]);
    let table = [
        (Some("mx1.a.test"), "REQUIRETLS", "secure", TlsWish::Required, "2.0.0 sent", true),
        (
            Some("mx1.a.test"),
            "SIZE",
            "secure",
            TlsWish::Required,
            "5.7.30 bounced REQUIRETLS is required, but was not offered",
            false,
        ),
        (
            Some("other.test"),
            "REQUIRETLS",
            "may",
            TlsWish::Required,
            "5.7.10 bounced Server certificate not verified",
            false,
        ),
        (None, "", "may", TlsWish::Required, "5.7.10 bounced TLS is required, but was not offered", false),
        (Some("mx1.a.test"), "REQUIRETLS", "may", TlsWish::Policy, "2.0.0 sent", false),
        (None, "", "encrypt", TlsWish::NotRequired, "2.0.0 sent", false),
        (Some("other.test"), "", "secure", TlsWish::NotRequired, "2.0.0 sent", false),
    ];
    for (certificate, more, level, wish, wanted, said_so) in table {
        let tls = certificate.map(|name| Arc::clone(&world.servers[name]));
        let (address, said) = smtp("127.0.0.1:0", tls, more).await;
        let main = format!("smtp_tls_security_level = {level}\n");
        let bench = bench(&world, &main, "mx1.a.test A 127.0.0.1\n");
        let main = format!("[mx1.a.test]:{}", address.port());
        let outcome = send(&bench, &main, wish).await;
        let case = format!("{certificate:?} {more} {level} {wish:?}");
        assert!(told(&outcome).starts_with(wanted), "{case}: {}\n{:?}", told(&outcome), bench.log.0);
        let said = said.lock().unwrap();
        assert_eq!(
            said.iter().any(|line| line.starts_with("MAIL") && line.ends_with(" REQUIRETLS")),
            said_so,
            "{case}"
        );
        assert_eq!(said.iter().any(|line| line.starts_with("MAIL")), wanted.starts_with('2'), "{case}: {said:?}");
    }
}

/// `smtp_log_tls_feature_status`: the level that was wanted, and what came of it.
#[tokio::test]
async fn the_log_says_what_tls_there_was() {
    let world = world(&["mx1.a.test", "other.test"]);
    let (right, wrong) = (Some("mx1.a.test"), Some("other.test"));
    let written = "smtp_log_tls_feature_status = yes\n";
    let table = [
        // The server's certificate, what is written, what the message wants, whether it goes, and the field.
        (None, "none", written, TlsWish::Policy, true, Some("none")),
        (right, "none", written, TlsWish::Policy, true, Some("none")),
        (None, "may", written, TlsWish::Policy, true, Some("may:none")),
        (wrong, "may", written, TlsWish::Policy, true, Some("may")),
        (None, "encrypt", written, TlsWish::Policy, false, Some("!encrypt")),
        (wrong, "encrypt", written, TlsWish::Policy, true, Some("encrypt")),
        (wrong, "secure", written, TlsWish::Policy, false, Some("!secure")),
        (right, "secure", written, TlsWish::Policy, true, Some("secure")),
        (None, "verify", written, TlsWish::Policy, false, Some("!verify")),
        (None, "dane", written, TlsWish::Policy, true, Some("dane:none")),
        (wrong, "dane", written, TlsWish::Policy, true, Some("dane:encrypt")),
        // The message decides: TLS-Required: No, and REQUIRETLS, which the server does not offer.
        (None, "encrypt", written, TlsWish::NotRequired, true, Some("may:none")),
        (right, "may", written, TlsWish::Required, false, Some("!verify")),
        // Not written, written as no.
        (None, "may", "", TlsWish::Policy, true, None),
        (None, "may", "smtp_log_tls_feature_status = no\n", TlsWish::Policy, true, None),
        (None, "may", "lmtp_log_tls_feature_status = yes\n", TlsWish::Policy, true, None),
    ];
    for (certificate, level, more, wish, sent, field) in table {
        let tls = certificate.map(|name| Arc::clone(&world.servers[name]));
        let (address, _) = smtp("127.0.0.1:0", tls, "").await;
        let bench = bench(&world, &format!("smtp_tls_security_level = {level}\n{more}"), "mx1.a.test A 127.0.0.1\n");
        let outcome = send(&bench, &format!("[mx1.a.test]:{}", address.port()), wish).await;
        let case = format!("{certificate:?} {level} {wish:?} {more}: {}", told(&outcome));
        assert_eq!(matches!(outcome.result, Fated::Sent(_)), sent, "{case}");
        assert_eq!(outcome.tls_status.as_deref(), field, "{case}");
    }
    // Nobody is there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = bench(&world, &format!("smtp_tls_security_level = may\n{written}"), "mx1.a.test A 127.0.0.1\n");
    let outcome = send(&bench, &format!("[mx1.a.test]:{}", gone.port()), TlsWish::Policy).await;
    assert_eq!(outcome.tls_status.as_deref(), Some("may?"), "{}", told(&outcome));
    let outcome = send(&bench, "[nowhere.test]:25", TlsWish::Policy).await;
    assert_eq!(outcome.tls_status.as_deref(), None, "{}", told(&outcome));
}

/// `lmtp_sender_dependent_authentication`: the sender's login counts for more than the host's; `send_cyrus_sasl_authzid`.
#[tokio::test]
async fn lmtp_servers_may_be_logged_in_to_by_sender() {
    let world = world(&[]);
    for (more, login) in [
        ("", "AGhvc3QAeA=="),
        ("send_cyrus_sasl_authzid = yes\n", "aG9zdABob3N0AHg="),
        ("lmtp_sender_dependent_authentication = yes\n", "AHNlbmRlcgB4"),
    ] {
        let (address, said) = smtp("127.0.0.1:0", None, "").await;
        let main = format!(
            "lmtp_sasl_auth_enable = yes\nlmtp_sasl_security_options =\n\
             lmtp_sasl_password_maps = inline:{{a@us.test=sender:x, mx1.a.test=host:x}}\n{more}"
        );
        let bench = bench_of(Protocol::Lmtp, &world, &main, "mx1.a.test A 127.0.0.1\n");
        let outcome = send(&bench, &format!("inet:mx1.a.test:{}", address.port()), TlsWish::Policy).await;
        assert!(matches!(outcome.result, Fated::Sent(_)), "{}", told(&outcome));
        let said = said.lock().unwrap();
        assert!(said.contains(&format!("AUTH PLAIN {login}")), "{said:?}");
    }
}

#[tokio::test]
async fn requiretls_wants_to_know_the_name_for_sure() {
    let world = world(&["mx1.a.test"]);
    let tls = Some(Arc::clone(&world.servers["mx1.a.test"]));
    let (address, said) = smtp("127.0.0.1:0", tls, "REQUIRETLS").await;
    let bench = bench(&world, "smtp_tls_security_level = may\n", &zone("mx1.a.test"));
    let outcome = send(&bench, &format!("a.test:{}", address.port()), TlsWish::Required).await;
    assert!(told(&outcome).starts_with("5.7.10 bounced REQUIRETLS: the name of host mx1.a.test"), "{}", told(&outcome));
    assert!(said.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_logged_of_a_handshake_is_a_matter_of_the_server() {
    let world = world(&["mx1.a.test"]);
    // The table, and how many lines there are about certificates and connections.
    for (table, lines) in [("", 1), ("mx1.a.test=0", 0), ("127.0.0.1=0", 0), ("mx1.a.test=2", 2), ("other.test=0", 1)] {
        let (address, _) = smtp("127.0.0.1:0", Some(Arc::clone(&world.servers["mx1.a.test"])), "").await;
        let main = format!(
            "smtp_tls_security_level = may\nsmtp_tcp_port = {}\nsmtp_tls_loglevel_maps = inline:{{{{{table}}}}}\n",
            address.port()
        );
        let main = if table.is_empty() { main.replace("inline:{{}}", "") } else { main };
        let bench = bench(&world, &main, "a.test MX 10 mx1.a.test\nmx1.a.test A 127.0.0.1");
        assert!(told(&send(&bench, "a.test", TlsWish::Policy).await).starts_with("2.0.0 sent"));
        let log = bench.log.0.lock().unwrap();
        let found =
            log.iter().filter(|line| line.contains("subject_CN=") || line.contains("TLS connection established"));
        assert_eq!(found.count(), lines, "{table}: {log:?}");
    }
}

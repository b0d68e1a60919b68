//! What is set for single servers and names, with the agent as a configuration makes it: tables of addresses, filters of DNS
//! records, completed names, deadlines, mail that comes back to us.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use yamabiko_config::{Config, Host};
use yamabiko_deliver::visit::{Heard, Pass, Visitor, within};
use yamabiko_deliver::{Around, PassOn, Protocol, SmtpAgent};
use yamabiko_dns::{FakeResolver, Hosts};
use yamabiko_envelope::{
    Attempt, Content, DeliveryRequest, Envelope, Event, EventSink, Events, Kind, Origin, QueueId, Recipient,
    Result as Fated, Timestamp,
};
use yamabiko_lookup::TableSet;
use yamabiko_tls::Disk;

/// A server that takes everything, greets with `greeting`, and answers MAIL bit by bit without end when `trickles`. What it
/// was told is kept.
async fn server(address: &str, greeting: &'static str, trickles: bool) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(format!("{address}:0")).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ears = Arc::clone(&ears);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                write.write_all(format!("{greeting}\r\n").as_bytes()).await.ok()?;
                while let Ok(Some(line)) = lines.next_line().await {
                    let reply = match line.split(' ').next().unwrap_or_default() {
                        "EHLO" => "250-fake.test\r\n250-PIPELINING\r\n250 SIZE\r\n",
                        "DATA" => "354 go on\r\n",
                        "MAIL" if trickles => loop {
                            write.write_all(b"250-and\r\n").await.ok()?;
                            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        },
                        "Subject:" | "" => continue,
                        _ => "250 2.0.0 ok\r\n",
                    };
                    ears.lock().unwrap().push(line);
                    write.write_all(reply.as_bytes()).await.ok()?;
                }
                Some(())
            });
        }
    });
    (port, heard)
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

/// An agent for a main.cf and a zone, and its log.
fn agent(main: &str, zone: &str) -> (SmtpAgent, Arc<Log>) {
    let main = format!("myhostname = mx.lab.test\nsmtp_randomize_addresses = no\n{main}\n");
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
    let log = Arc::new(Log::default());
    let events: Events = log.clone();
    let around = Around {
        resolver: Arc::new(FakeResolver::parse(zone).unwrap()),
        hosts: Arc::new(Hosts::from_text("")),
        events,
        origin: Origin::new(&"postfix".into(), "smtp"),
    };
    (SmtpAgent::from_view(&config.main(), Protocol::Smtp, &TableSet::default(), &Disk, around), log)
}

async fn deliver(agent: &SmtpAgent, nexthop: &str) -> Attempt {
    let now = Timestamp::now();
    let mut envelope = Envelope::new(QueueId::new(1_795_280_034_000_001, 1), now, "a@lab.test");
    envelope.recipients = vec![Recipient { address: "x@y.test".to_owned(), ..Recipient::default() }];
    let request = DeliveryRequest::whole(envelope, Content::from(b"Subject: x\n\n".to_vec()), "smtp", nexthop, now);
    agent.deliver(&request).await
}

#[tokio::test]
async fn tables_ask_by_the_address_of_the_server() {
    // The address; is EHLO said, is PIPELINING discarded.
    let table = [("127.0.0.1", true, true), ("127.0.0.2", false, false), ("127.0.0.3", true, false)];
    for (address, ehlo, discards) in table {
        let greeting = if ehlo && !discards { "220 fake.test ESMTP" } else { "220 ***************0*2*0*" };
        let (port, heard) = server(address, greeting, false).await;
        let (agent, log) = agent(
            "smtp_discard_ehlo_keyword_address_maps = inline:{{127.0.0.1 = pipelining}}\n\
             smtp_pix_workaround_maps = inline:{{127.0.0.1 = delay_dotcrlf}}",
            "",
        );
        let attempt = deliver(&agent, &format!("[{address}]:{port}")).await;
        assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", attempt.outcomes);
        let first = heard.lock().unwrap()[0].clone();
        assert_eq!(first.starts_with("EHLO"), ehlo, "{address}: {first}");
        let log = log.0.lock().unwrap().join("\n");
        assert_eq!(log.contains("discarding EHLO keywords: PIPELINING"), discards, "{log}");
        assert_eq!(log.contains("enabling PIX workarounds: delay_dotcrlf for"), discards, "{log}");
        let both = "enabling PIX workarounds: disable_esmtp delay_dotcrlf for";
        assert_eq!(log.contains(both), !ehlo, "{log}");
    }
}

#[tokio::test]
async fn a_table_that_does_not_answer_defers() {
    let (port, heard) = server("127.0.0.1", "220 fake.test ESMTP", false).await;
    let (agent, log) = agent("smtp_discard_ehlo_keyword_address_maps = fail:the database is down", "");
    let attempt = deliver(&agent, &format!("[127.0.0.1]:{port}")).await;
    let outcome = &attempt.outcomes[0];
    assert_eq!(
        (outcome.status.to_string().as_str(), outcome.reason.as_str()),
        ("4.3.0", "local data error while talking to 127.0.0.1[127.0.0.1]")
    );
    assert_eq!(heard.lock().unwrap().len(), 0);
    assert!(log.0.lock().unwrap().join("\n").contains("map lookup error for 127.0.0.1"), "{:?}", log.0);
}

#[tokio::test]
async fn records_and_names_as_the_settings_have_them() {
    let (port, _) = server("127.0.0.1", "220 fake.test ESMTP", false).await;
    let zone = "search near.test\nmail.near.test A 127.0.0.1\nfar.test MX 10 bad.far.test\nfar.test MX 20 good.far.test\n\
                bad.far.test A 127.0.0.9\ngood.far.test A 127.0.0.1\nmuted.test A 127.0.0.1\n\
                web.test CNAME real.host.test\nreal.host.test A 127.0.0.1\n";
    let filter =
        "smtp_dns_reply_filter = regexp:{{/^far.test. [0-9]+ IN MX 10 bad/ IGNORE} {/^muted.test. .* A / IGNORE}}";
    let search = "smtp_dns_resolver_options = res_defnames";
    let called = "smtp_cname_overrides_servername = yes";
    // Settings, next hop, what comes of it: a relay when it was sent, else status and reason.
    let table = [
        (filter, "far.test", "good.far.test[127.0.0.1]"),
        (filter, "[muted.test]", "4.7.0 Error looking up name=muted.test type=A: DNS reply filter drops all results"),
        (search, "[mail]", "mail[127.0.0.1]"),
        ("", "[mail]", "5.4.4 Host or domain name not found. Name service error for name=mail type=A: Host not found"),
        (called, "[web.test]", "real.host.test[127.0.0.1]"),
        ("", "[web.test]", "web.test[127.0.0.1]"),
    ];
    for (settings, nexthop, wanted) in table {
        let (agent, log) = agent(&format!("{settings}\ninet_protocols = ipv4"), zone);
        let attempt = deliver(&agent, &format!("{nexthop}:{port}")).await;
        let outcome = &attempt.outcomes[0];
        if matches!(outcome.result, Fated::Sent(_)) {
            assert_eq!(outcome.relay, format!("{wanted}:{port}"));
        } else {
            assert_eq!(format!("{} {}", outcome.status, outcome.reason), wanted);
        }
        let told = log.0.lock().unwrap().iter().any(|line| line.starts_with("ignoring DNS RR: "));
        assert_eq!(told, settings == filter);
    }
}

#[tokio::test]
async fn with_deadlines_a_reply_that_trickles_is_no_reply() {
    let (port, _) = server("127.0.0.1", "220 fake.test ESMTP", true).await;
    let (agent, _) = agent("smtp_per_request_deadline = yes\nsmtp_mail_timeout = 1s", "");
    let attempt = deliver(&agent, &format!("[127.0.0.1]:{port}")).await;
    let reason = &attempt.outcomes[0].reason;
    assert_eq!(reason, "conversation with 127.0.0.1[127.0.0.1] timed out while sending MAIL FROM");
}

#[tokio::test]
async fn mail_that_comes_back_to_us_goes_to_best_mx_transport() {
    let zone = "ours.test MX 10 mx.ours.test\nmx.ours.test A 192.0.2.99";
    // The setting, and where the mail goes then; without one it comes back.
    let table = [("", ""), ("local", "local for ours.test"), ("lmtp:unix:private/x", "lmtp for unix:private/x")];
    for (setting, wanted) in table {
        let (agent, _) = agent(
            &format!("best_mx_transport = {setting}\nproxy_interfaces = 192.0.2.99\ninet_protocols = ipv4"),
            zone,
        );
        let passed = Arc::new(Mutex::new(String::new()));
        let note = Arc::clone(&passed);
        let pass: PassOn = Arc::new(move |request, recipient, transport, nexthop| {
            assert_eq!(request.recipients[recipient].address, "x@y.test");
            *note.lock().unwrap() = format!("{transport} for {nexthop}");
            Box::pin(std::future::ready(Vec::new()))
        });
        let attempt = deliver(&agent.with_other_transports(pass), "ours.test").await;
        assert_eq!(*passed.lock().unwrap(), wanted);
        assert_eq!(attempt.outcomes.len(), usize::from(setting.is_empty()));
    }
}

/// Lets everybody in.
struct Open;

impl Visitor for Open {
    fn enter(&self, _: Vec<String>) -> Pin<Box<dyn Future<Output = Pass> + Send + '_>> {
        Box::pin(std::future::ready(Pass { go: true, session_messages: 0, site: "site.test".into() }))
    }
    fn heard(&self, _: Heard) {}
    fn session_ended(&self) {}
}

#[tokio::test]
async fn where_sessions_are_counted_an_idle_one_ends_with_a_word() {
    let (port, heard) = server("127.0.0.1", "220 fake.test ESMTP", false).await;
    let (agent, _) =
        agent("smtp_connection_cache_destinations = static:all\nsmtp_connection_cache_time_limit = 1s", "");
    let attempt = within(Arc::new(Open), deliver(&agent, &format!("[127.0.0.1]:{port}"))).await;
    assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", attempt.outcomes);
    assert!(!heard.lock().unwrap().contains(&"QUIT".to_owned()), "the session is kept");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !heard.lock().unwrap().contains(&"QUIT".to_owned()) {
        assert!(std::time::Instant::now() < end, "{:?}", heard.lock().unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Servers at four addresses with one port that take everything, are slow to close after QUIT, and count sessions together.
/// Gives the port and the most that there were at once.
async fn slow_to_close() -> (u16, Arc<AtomicUsize>) {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut port = 0;
    for last in 1..=4 {
        let listener = TcpListener::bind(format!("127.0.9.{last}:{port}")).await.unwrap();
        port = listener.local_addr().unwrap().port();
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let now = Arc::clone(&now);
                tokio::spawn(async move {
                    let (read, mut write) = stream.into_split();
                    let mut lines = BufReader::new(read).lines();
                    let _ = write.write_all(b"220 fake.test ESMTP\r\n").await;
                    while let Ok(Some(line)) = lines.next_line().await {
                        let reply = match line.split(' ').next().unwrap_or_default() {
                            "DATA" => "354 go on\r\n",
                            "QUIT" => break,
                            "Subject:" | "" => continue,
                            _ => "250 2.0.0 ok\r\n",
                        };
                        let _ = write.write_all(reply.as_bytes()).await;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }
    (port, most)
}

/// Two at once is what this receiver is let in for, at whichever of its hosts: sessions that somebody else is ending count.
#[tokio::test]
async fn what_is_being_closed_counts_for_everybody() {
    let (port, most) = slow_to_close().await;
    let (agent, _) = agent("smtp_connection_cache_destinations = static:all", "");
    let two = async |hosts: [u8; 2]| {
        let one = async |host: u8| {
            let attempt = within(Arc::new(Open), deliver(&agent, &format!("[127.0.9.{host}]:{port}"))).await;
            assert!(matches!(attempt.outcomes[0].result, Fated::Sent(_)), "{:?}", attempt.outcomes);
        };
        let [a, b] = hosts;
        tokio::join!(one(a), one(b));
    };
    two([1, 2]).await;
    two([3, 4]).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

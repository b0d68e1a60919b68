//! The server over real sockets: accept loop, limits, large messages, reload, end.

mod common;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use yamabiko_dns::Hosts;
use yamabiko_envelope::{Content, EventSink, Source};
use yamabiko_receive::{Admission, Service, ServiceParts, converse, serve};

use common::World;

struct Running {
    world: World,
    service: Arc<Service>,
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

async fn start(main: &str) -> Running {
    let world = World::new(main);
    let directory = tempfile::tempdir().unwrap();
    let service = Service::new(ServiceParts {
        settings: Arc::clone(&world.settings),
        admission: Arc::clone(&world.engine) as Arc<dyn Admission>,
        events: Arc::clone(&world.log) as Arc<dyn EventSink>,
        limits: Arc::clone(&world.limits),
        resolver: Arc::clone(&world.resolver) as Arc<dyn yamabiko_dns::Resolver>,
        hosts: Arc::new(Hosts::from_text("127.0.0.1 localhost\n")),
        spill_directory: directory.path().to_owned(),
        spill_threshold: 1,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(serve(listener, Arc::clone(&service), stopped));
    Running { world, service, address, stop, task, _directory: directory }
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_line(&mut line)).await.unwrap().unwrap();
    line.trim_end().to_owned()
}

async fn connect(running: &Running) -> BufReader<TcpStream> {
    BufReader::new(TcpStream::connect(running.address).await.unwrap())
}

/// The end of the connection comes while the client still talks; it hears why all the same.
#[tokio::test]
async fn last_words_are_heard_by_clients_that_talk() {
    let running = start("smtpd_error_sleep_time = 0\nsmtpd_hard_error_limit = 2\n").await;
    let mut client = connect(&running).await;
    assert_eq!(line(&mut client).await, "220 mx.lab.test ESMTP Postfix");
    client.write_all("NONSENSE\r\n".repeat(4000).as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert!(line(&mut client).await.starts_with("50"));
    }
    assert_eq!(line(&mut client).await, "421 4.7.0 mx.lab.test Error: too many errors");
}

#[tokio::test]
async fn a_large_message_goes_through_a_file() {
    let running = start("").await;
    let mut client = connect(&running).await;
    assert_eq!(line(&mut client).await, "220 mx.lab.test ESMTP Postfix");
    client.write_all(b"HELO c.test\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "250 mx.lab.test");
    let body: String = (0..40_000).map(|n| format!("line {n}\r\n")).collect();
    // The second message is small: nothing of the first may be in it.
    for (round, body) in [body.as_str(), "small\r\n"].into_iter().enumerate() {
        for command in ["MAIL FROM:<a@remote.test>\r\n", "RCPT TO:<user1@lab.test>\r\n", "DATA\r\n"] {
            client.write_all(command.as_bytes()).await.unwrap();
            line(&mut client).await;
        }
        client.write_all(body.as_bytes()).await.unwrap();
        client.write_all(b".\r\n").await.unwrap();
        assert!(line(&mut client).await.starts_with("250 2.0.0 Ok: queued as "));
        let submissions = running.world.engine.submissions.lock().unwrap();
        let content = &submissions[round].content;
        assert_eq!(matches!(content, Content::File { .. }), round == 0);
        assert_eq!(content.to_bytes().unwrap(), body.replace("\r\n", "\n").as_bytes());
    }
    client.write_all(b"QUIT\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "221 2.0.0 Bye");
    assert_eq!(line(&mut client).await, "");
}

#[tokio::test]
async fn too_many_connections_from_one_client() {
    let running = start("smtpd_client_connection_count_limit = 1\nsmtpd_client_event_limit_exceptions =\n").await;
    let mut first = connect(&running).await;
    assert!(line(&mut first).await.starts_with("220"));
    let mut second = connect(&running).await;
    assert_eq!(line(&mut second).await, "421 4.7.0 mx.lab.test Error: too many connections from 127.0.0.1");
    assert_eq!(line(&mut second).await, "");
    drop(first);
    while running.service.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(line(&mut connect(&running).await).await.starts_with("220"));
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_one_segment() {
    let running = start("").await;
    let mut client = connect(&running).await;
    line(&mut client).await;
    client.write_all(b"EHLO c.test\r\n").await.unwrap();
    while !line(&mut client).await.starts_with("250 ") {}
    client
        .write_all(b"MAIL FROM:<a@remote.test>\r\nRCPT TO:<user1@lab.test>\r\nRCPT TO:<user2@lab.test>\r\nDATA\r\n")
        .await
        .unwrap();
    let mut replies = [0; 1000];
    let read = client.read(&mut replies).await.unwrap();
    assert_eq!(
        std::str::from_utf8(&replies[..read]).unwrap(),
        "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    );
}

#[tokio::test]
async fn idle_clients_time_out() {
    let running = start("smtpd_timeout = 1s\n").await;
    let mut client = connect(&running).await;
    assert!(line(&mut client).await.starts_with("220"));
    assert_eq!(line(&mut client).await, "421 4.4.2 mx.lab.test Error: timeout exceeded");
    assert_eq!(line(&mut client).await, "");
}

const TO_DATA: [&str; 4] = ["HELO c.test", "MAIL FROM:<a@remote.test>", "RCPT TO:<user1@lab.test>", "DATA"];

/// One byte now and then keeps a session alive, unless the whole request has to come in time.
#[tokio::test]
async fn slow_clients_are_cut_off() {
    let running = start("smtpd_timeout = 1s\nsmtpd_per_request_deadline = yes\nsmtpd_min_data_rate = 100\n").await;
    for (before, piece) in [(&[][..], &b"x"[..]), (&[][..], &[b'x'; 300]), (&TO_DATA, b"x\r\n")] {
        let mut client = connect(&running).await;
        line(&mut client).await;
        for command in before {
            client.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            line(&mut client).await;
        }
        let (reader, mut writer) = tokio::io::split(client);
        let feed = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if writer.write_all(piece).await.is_err() {
                    return;
                }
            }
        });
        let mut reader = BufReader::new(reader);
        let mut said = String::new();
        let heard = tokio::time::timeout(Duration::from_secs(20), reader.read_line(&mut said)).await;
        feed.abort();
        heard.expect("it is cut off").unwrap();
        assert_eq!(said.trim_end(), "421 4.4.2 mx.lab.test Error: timeout exceeded", "{before:?} {piece:?}");
    }
}

#[tokio::test]
async fn the_end_lets_messages_be_finished() {
    let running = start("").await;
    let mut idle = connect(&running).await;
    let mut busy = connect(&running).await;
    line(&mut idle).await;
    line(&mut busy).await;
    for command in ["MAIL FROM:<a@remote.test>\r\n", "RCPT TO:<user1@lab.test>\r\n", "DATA\r\n"] {
        busy.write_all(command.as_bytes()).await.unwrap();
        line(&mut busy).await;
    }
    running.stop.send(true).unwrap();
    assert_eq!(line(&mut idle).await, "421 4.3.2 mx.lab.test Service shutting down");
    busy.write_all(b"x\r\n.\r\n").await.unwrap();
    assert!(line(&mut busy).await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(line(&mut busy).await, "421 4.3.2 mx.lab.test Service shutting down");
    tokio::time::timeout(Duration::from_secs(20), running.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn new_sessions_get_new_settings() {
    let running = start("").await;
    let mut old = connect(&running).await;
    line(&mut old).await;
    running.service.reload(common::settings("myhostname = new.lab.test\n").unwrap());
    old.write_all(b"HELO c.test\r\n").await.unwrap();
    assert_eq!(line(&mut old).await, "250 mx.lab.test");
    assert_eq!(line(&mut connect(&running).await).await, "220 new.lab.test ESMTP Postfix");
}

#[tokio::test]
async fn a_session_over_a_pipe_has_no_restrictions() {
    let running = start("smtpd_recipient_restrictions = reject\n").await;
    let (ours, theirs) = tokio::io::duplex(4096);
    let service = Arc::clone(&running.service);
    let stopped = running.stop.subscribe();
    let session = tokio::spawn(async move { converse(theirs, &service, 1000, stopped).await });
    let (read, mut write) = tokio::io::split(ours);
    write
        .write_all(b"HELO me\r\nMAIL FROM:<a>\r\nRCPT TO:<x@other.test>\r\nDATA\r\nSubject: x\r\n.\r\nQUIT\r\n")
        .await
        .unwrap();
    let mut said = String::new();
    BufReader::new(read).read_to_string(&mut said).await.unwrap();
    assert!(said.contains("250 2.0.0 Ok: queued as ") && said.ends_with("221 2.0.0 Bye\r\n"), "{said}");
    session.await.unwrap();
    let submissions = running.world.engine.submissions.lock().unwrap();
    let submission = &submissions[0];
    assert_eq!(submission.envelope.recipients[0].address, "x@other.test");
    assert_eq!(submission.source, Source::Local { uid: 1000 });
    let fields = String::from_utf8_lossy(&submission.trace_fields).into_owned();
    assert!(fields.starts_with("Received: by mx.lab.test (Postfix, from userid 1000)\n\tid "), "{fields}");
}

//! Sessions with scripted filters over real sockets: each filter is a list of answers, and writes down what it was told.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use yamabiko_config::{Config, Host};
use yamabiko_envelope::Content;
use yamabiko_milter::packet::{actions, protocol};
use yamabiko_milter::{Change, Client, Macros, Message, Milters, Session, Verdict};

/// What a filter is: the negotiation, and answers by command.
#[derive(Clone, Default)]
struct Script {
    actions: u32,
    protocol: u32,
    /// Command letter and the packets to answer with, in order of use; others get `c`.
    answers: Vec<(u8, Vec<Vec<u8>>)>,
    /// It hangs up at this command.
    hangs_up: Option<u8>,
    /// It says nothing at this command.
    sleeps: Option<u8>,
}

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u32 + 1).to_be_bytes().to_vec();
    out.push(command);
    out.extend_from_slice(data);
    out
}

/// Commands that this script does not answer, as it said.
fn silent(script: &Script, command: u8) -> bool {
    let flag = match command {
        b'C' => protocol::NO_REPLY_CONNECT,
        b'H' => protocol::NO_REPLY_HELO,
        b'M' => protocol::NO_REPLY_MAIL,
        b'R' => protocol::NO_REPLY_RCPT,
        b'T' => protocol::NO_REPLY_DATA,
        b'L' => protocol::NO_REPLY_HEADER,
        b'N' => protocol::NO_REPLY_END_OF_HEADERS,
        b'B' => protocol::NO_REPLY_BODY,
        _ => 0,
    };
    matches!(command, b'A' | b'Q' | b'D') || script.protocol & flag != 0
}

/// A filter: its port and what it heard.
async fn filter(script: Script) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let ears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut script, ears) = (script.clone(), Arc::clone(&ears));
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u32().await {
                    let mut data = vec![0; length as usize];
                    stream.read_exact(&mut data).await.unwrap();
                    let (command, data) = (data[0], &data[1..]);
                    let text: String = data.iter().map(|b| if *b == 0 { '|' } else { char::from(*b) }).collect();
                    ears.lock().unwrap().push(format!("{}{}", char::from(command), text.escape_default()));
                    if script.hangs_up == Some(command) {
                        return;
                    }
                    if script.sleeps == Some(command) {
                        std::future::pending::<()>().await;
                    }
                    if command == b'O' {
                        let mut reply = 6u32.to_be_bytes().to_vec();
                        reply.extend_from_slice(&script.actions.to_be_bytes());
                        reply.extend_from_slice(&script.protocol.to_be_bytes());
                        stream.write_all(&packet(b'O', &reply)).await.unwrap();
                    } else if !silent(&script, command) {
                        let own = script.answers.iter().position(|(c, _)| *c == command);
                        let answers = own.map_or_else(|| vec![packet(b'c', b"")], |at| script.answers.remove(at).1);
                        for answer in answers {
                            stream.write_all(&answer).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (port, heard)
}

struct Values;

impl Macros for Values {
    fn value(&self, name: &str) -> Option<String> {
        match name {
            "i" => Some("QUEUEID".to_owned()),
            "j" => Some("mx.example".to_owned()),
            _ => None,
        }
    }
}

fn session(ports: &[u16], lines: &str) -> (Session, Vec<String>) {
    let list: Vec<String> = ports.iter().map(|port| format!("inet:127.0.0.1:{port}")).collect();
    let main = format!("compatibility_level = 3.6\nsmtpd_milters = {}\n{lines}\n", list.join(", "));
    let host = Host::default();
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap_or_else(|e| panic!("{e}"));
    let mut warnings = Vec::new();
    let milters = Milters::new(&config.main(), "smtpd_milters", &mut |text| warnings.push(text)).unwrap();
    (Session::new(Arc::new(milters), 1000), warnings)
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn client() -> Client<'static> {
    Client { name: "client.example", address: Some("192.0.2.7".parse().unwrap()), port: 25 }
}

/// Everything up to and with the message. The verdicts that are not "go on", by step.
async fn whole(session: &mut Session, message: &mut Message) -> Vec<(&'static str, Verdict)> {
    let mut verdicts = Vec::new();
    let mut note = |step, verdict| {
        if verdict != Verdict::Continue {
            verdicts.push((step, verdict));
        }
    };
    note("connect", session.connect(client(), &Values).await);
    note("helo", session.helo("client.example", &Values).await);
    note("mail", session.mail(&words("<s@example> SIZE=10"), &Values).await);
    note("rcpt", session.rcpt(&words("<r@example>"), false, &Values).await);
    note("data", session.data(&Values).await);
    note("content", session.content(message, &Values).await);
    verdicts
}

fn message() -> Message {
    Message::new(b"Received: ours\nSubject: a\n\n", vec![Content::from(b"one\ntwo\n".to_vec())])
}

fn text(message: Message) -> String {
    let (mut head, body) = message.into_parts();
    for part in body {
        head.extend_from_slice(&part.to_bytes().unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn everything_is_told_in_order() {
    let (port, heard) = filter(Script { actions: actions::ALL, ..Script::default() }).await;
    let (mut session, warnings) =
        session(&[port], "milter_macro_defaults = { {x}=y }\nmilter_data_macros = i {x} {none}");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(whole(&mut session, &mut message()).await, []);
    session.quit().await;
    while !heard.lock().unwrap().iter().any(|line| line == "Q") {
        tokio::task::yield_now().await;
    }
    let heard = heard.lock().unwrap().clone();
    let expected = [
        "O\\u{0}\\u{0}\\u{0}\\u{6}",
        "DCj|mx.example|",
        "Cclient.example|4\\u{0}\\u{19}192.0.2.7|",
        "DH",
        "Hclient.example|",
        "DMi|QUEUEID|",
        "M<s@example>|SIZE=10|",
        "DRi|QUEUEID|",
        "R<r@example>|",
        "DTi|QUEUEID|{x}|y|",
        "T",
        "LSubject|a|",
        "DNi|QUEUEID|",
        "N",
        "Bone\\r\\ntwo\\r\\n",
        "DEi|QUEUEID|",
        "E",
        "Q",
    ];
    assert_eq!(heard.len(), expected.len(), "{heard:#?}");
    for (heard, expected) in heard.iter().zip(expected).skip(1) {
        // The port's bytes are control characters, shown as such.
        let expected = expected.replace("\\u{0}\\u{19}", "|\\u{19}");
        assert_eq!(*heard, expected);
    }
}

#[tokio::test]
async fn what_a_filter_does_not_want_is_not_told() {
    let protocol = protocol::NO_CONNECT
        | protocol::NO_HELO
        | protocol::NO_MAIL
        | protocol::NO_REPLY_RCPT
        | protocol::NO_DATA
        | protocol::NO_REPLY_HEADER
        | protocol::NO_END_OF_HEADERS
        | protocol::NO_BODY;
    let (port, heard) = filter(Script { protocol, ..Script::default() }).await;
    let (mut session, _) = session(&[port], "");
    assert_eq!(whole(&mut session, &mut message()).await, []);
    let heard: Vec<char> = heard.lock().unwrap().iter().filter_map(|line| line.chars().next()).collect();
    assert_eq!(heard, ['O', 'D', 'R', 'L', 'D', 'E']);
}

#[tokio::test]
async fn verdicts() {
    let reply = |text: &str| Verdict::Reply(text.to_owned());
    let rejected = || reply("550 5.7.1 Command rejected");
    let later = || reply("451 4.7.1 Service unavailable - try again later");
    let cases: Vec<(u8, Vec<Vec<u8>>, &'static str, Verdict)> = vec![
        (b'C', vec![packet(b'r', b"")], "connect", rejected()),
        (b'H', vec![packet(b't', b"")], "helo", later()),
        (b'M', vec![packet(b'y', b"550 5.7.1 no\0")], "mail", reply("550 5.7.1 no")),
        (b'R', vec![packet(b'p', b""), packet(b'r', b"")], "rcpt", rejected()),
        (b'T', vec![packet(b'4', b"")], "data", reply("421 4.7.0 Server closing connection")),
        (b'L', vec![packet(b'd', b"")], "content", Verdict::Discard),
        (b'B', vec![packet(b'r', b"")], "content", rejected()),
        (b'E', vec![packet(b't', b"")], "content", later()),
        // Nonsense is a failure.
        (b'M', vec![packet(b'h', b"X\0y\0")], "mail", later()),
        (b'M', vec![packet(b'?', b"")], "mail", later()),
        (b'M', vec![packet(b'y', b"250 ok\0")], "mail", later()),
        (b'M', vec![b"\xff\xff\xff\xffx".to_vec()], "mail", later()),
        (b'E', vec![packet(b'+', b"<a@b>\0"), packet(b'c', b"")], "content", later()),
    ];
    for (command, answers, step, expected) in cases {
        let script = Script { answers: vec![(command, answers.clone())], ..Script::default() };
        let (port, _) = filter(script).await;
        let (mut session, _) = session(&[port], "milter_default_action = tempfail");
        let verdicts = whole(&mut session, &mut message()).await;
        assert_eq!(verdicts.first(), Some(&(step, expected)), "{} {answers:?}", char::from(command));
    }
}

#[tokio::test]
async fn a_filter_that_accepts_hears_no_more() {
    for (command, next_message_is_told) in [(b'H', false), (b'M', true)] {
        let script = Script { answers: vec![(command, vec![packet(b'a', b"")])], ..Script::default() };
        let (port, heard) = filter(script).await;
        let (mut session, _) = session(&[port], "");
        assert_eq!(whole(&mut session, &mut message()).await, []);
        assert!(!heard.lock().unwrap().iter().any(|line| line.starts_with('E')));
        session.abort().await;
        heard.lock().unwrap().clear();
        session.mail(&words("<t@example>"), &Values).await;
        assert_eq!(heard.lock().unwrap().iter().any(|line| line == "M<t@example>|"), next_message_is_told);
    }
}

#[tokio::test]
async fn changes_are_seen_by_the_next_filter() {
    let first = Script {
        actions: actions::ALL,
        answers: vec![(
            b'E',
            vec![
                packet(b'h', b"X-Last\x001\0"),
                packet(b'i', b"\0\0\0\0X-First\x002\0"),
                packet(b'm', b"\0\0\0\x01SUBJECT\0b\0"),
                packet(b'+', b"<new@example>\0"),
                packet(b'2', b"<other@example>\0NOTIFY=NEVER\0"),
                packet(b'-', b"<r@example>\0"),
                packet(b'e', b"<sender@example>\0"),
                packet(b'b', b"new\r\nbo"),
                packet(b'p', b""),
                packet(b'b', b"dy"),
                packet(b'q', b"look\0"),
                packet(b'c', b""),
            ],
        )],
        ..Script::default()
    };
    let (one, _) = filter(first).await;
    let (two, heard) = filter(Script::default()).await;
    let (mut session, _) = session(&[one, two], "");
    let mut message = message();
    assert_eq!(whole(&mut session, &mut message).await, []);
    assert_eq!(
        message.changes(),
        [
            Change::AddRecipient("<new@example>".into(), String::new()),
            Change::AddRecipient("<other@example>".into(), "NOTIFY=NEVER".into()),
            Change::DeleteRecipient("<r@example>".into()),
            Change::Sender("<sender@example>".into(), String::new()),
            Change::Hold("look".into()),
        ]
    );
    assert!(message.is_changed());
    assert_eq!(text(message), "X-First: 2\nReceived: ours\nSUBJECT: b\nX-Last: 1\n\nnew\nbody\n");
    let heard = heard.lock().unwrap();
    for line in ["LSUBJECT|b|", "LX-Last|1|", "Bnew\\r\\nbody\\r\\n"] {
        assert!(heard.iter().any(|heard| heard == line), "{line}: {heard:?}");
    }
}

#[tokio::test]
async fn what_a_failure_means() {
    let later = Verdict::Reply("451 4.7.1 Service unavailable - try again later".to_owned());
    let refused = Verdict::Reply("550 5.5.0 Service unavailable".to_owned());
    let closing = Verdict::Reply("421 4.7.0 Server closing connection".to_owned());
    for (action, expected) in [
        ("accept", None),
        ("tempfail", Some(later)),
        ("reject", Some(refused)),
        ("quarantine", Some(Verdict::Hold)),
        ("shutdown", Some(closing)),
    ] {
        let lines =
            format!("milter_default_action = {action}\nmilter_command_timeout = 1s\nmilter_content_timeout = 1s");
        // Not there, gone, and silent.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (gone, _) = filter(Script { hangs_up: Some(b'M'), ..Script::default() }).await;
        let (silent, _) = filter(Script { sleeps: Some(b'M'), ..Script::default() }).await;
        for (port, step) in [(nobody, "connect"), (gone, "mail"), (silent, "mail")] {
            let (mut session, _) = session(&[port], &lines);
            let verdicts = whole(&mut session, &mut message()).await;
            let first = verdicts.first().cloned();
            assert_eq!(first, expected.clone().map(|verdict| (step, verdict)), "{action}");
            assert_eq!(session.take_warnings().len(), 1, "{action} {step}");
        }
    }
}

#[tokio::test]
async fn large_bodies_go_in_chunks_and_may_be_skipped() {
    let body = vec![Content::from("0123456789abcde\n".repeat(20_000).into_bytes())];
    let (port, heard) = filter(Script::default()).await;
    let (mut plain, _) = session(&[port], "");
    whole(&mut plain, &mut Message::new(b"A: b\n\n", body.clone())).await;
    let sizes: Vec<usize> = heard
        .lock()
        .unwrap()
        .iter()
        .filter(|l| l.starts_with('B'))
        .map(|l| l.replace("\\r\\n", "..").len() - 1)
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 20_000 * 17);
    assert!(sizes.iter().rev().skip(1).all(|size| *size == 65_535), "{sizes:?}");
    let script =
        Script { protocol: protocol::SKIP, answers: vec![(b'B', vec![packet(b's', b"")])], ..Script::default() };
    let (port, heard) = filter(script).await;
    let (mut skipping, _) = session(&[port], "");
    assert_eq!(whole(&mut skipping, &mut Message::new(b"A: b\n\n", body)).await, []);
    assert_eq!(heard.lock().unwrap().iter().filter(|l| l.starts_with('B')).count(), 1);
}

#[test]
fn settings() {
    let ask = |list: &str| {
        let main = format!("compatibility_level = 3.6\nsmtpd_milters = {list}\n");
        let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
        let mut warnings = Vec::new();
        let found = Milters::new(&config.main(), "smtpd_milters", &mut |text| warnings.push(text)).is_some();
        (found, warnings)
    };
    for list in [
        "inet:localhost:8891",
        "inet:[::1]:8891, unix:/run/x",
        "unix:private/opendkim",
        "{ inet:h:1, connect_timeout=5s, default_action=accept }",
        "{ unix:/x, protocol=4, { command_timeout = 10 }, content_timeout=2m }",
    ] {
        assert_eq!(ask(list), (true, vec![]), "{list}");
    }
    assert_eq!(ask(""), (false, vec![]));
    for list in ["nothing", "tcp:h:1", "inet:h:port", "unix:", "{ inet:h:1, timeout=1 }", "{ inet:h:1, protocol=5 }"] {
        let (found, warnings) = ask(list);
        assert!(found && warnings.len() == 1, "{list}: {warnings:?}");
    }
}

/// What we cannot read is our trouble: a filter that may be left out is not left out for it.
#[tokio::test]
async fn unreadable_content_waits_whatever_the_default_action() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = std::fs::File::options().read(true).write(true).open(file.path()).unwrap();
    let content = Content::File { file: Arc::new(file), offset: 0, len: 600 };
    for action in ["accept", "reject", "quarantine"] {
        let (port, _) = filter(Script { actions: actions::ALL, ..Script::default() }).await;
        let (mut session, _) = session(&[port], &format!("milter_default_action = {action}"));
        let mut message = Message::new(b"Subject: a\n\n", vec![content.clone()]);
        let expected = [("content", Verdict::Reply("451 4.3.0 Error: queue file read error".to_owned()))];
        assert_eq!(whole(&mut session, &mut message).await, expected, "{action}");
        assert_eq!(session.take_warnings().len(), 1, "{action}");
    }
}

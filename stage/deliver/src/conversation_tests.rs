//! Conversations as scripts: `S:` what the server says, `C:` what the client must say, `(message)` in place of the
//! message, `(lost)` and `(timeout)` in place of a reply. At the end what must have come of it.

use yamabiko_envelope::{BodyType, ClientAttributes, Notify, QueueId, Ret, RewriteContext};
use yamabiko_smtp::reply::ReplyParser;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn settings() -> Settings {
    Settings { helo_name: "mx.lab.test".into(), myhostname: "mx.lab.test".into(), ..Settings::default() }
}

fn lmtp() -> Settings {
    Settings { protocol: Protocol::Lmtp, skip_quit_response: false, ..settings() }
}

fn session() -> Session {
    let peer = Peer { host: "mx1.remote.test".into(), address: "192.0.2.25".into(), port: 25 };
    Session::new(peer, true, true)
}

static NOBODY: std::sync::LazyLock<ClientAttributes> = std::sync::LazyLock::new(ClientAttributes::default);

fn job(recipients: &[&str]) -> Job<'static> {
    let to = |address: &&str| Addressee {
        address: (*address).to_owned(),
        original: "",
        orcpt: "",
        notify: Notify::default(),
    };
    Job {
        queue_id: QueueId::new(1_795_280_034_000_001, 1),
        nexthop: "remote.test",
        sender: "a@lab.test".into(),
        recipients: recipients.iter().map(to).collect(),
        size: 300,
        body: BodyType::SevenBit,
        smtputf8: false,
        needs_smtputf8: false,
        envid: "",
        ret: None,
        client: &NOBODY,
        context: RewriteContext::Local,
        probe: false,
        delayed: false,
        waits_for_pix: false,
    }
}

struct Play {
    settings: Settings,
    session: Session,
    job: Job<'static>,
    keep: bool,
}

impl Play {
    fn new(recipients: &[&str]) -> Self {
        Self { settings: settings(), session: session(), job: job(recipients), keep: false }
    }

    /// Plays a script. What the client says is compared in the order in which it is said.
    fn play(&mut self, script: &str) -> Report {
        let mut talk = Conversation::new(&self.settings, &mut self.session, &self.job, self.keep, Vec::new(), NOW);
        let mut parser = ReplyParser::new();
        let mut said = Vec::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            said.append(&mut talk.output);
            let (side, text) = line.split_once(": ").unwrap_or((line, ""));
            match (side, text) {
                ("C", "(message)") => {
                    assert_eq!(talk.next(), Step::Send, "{line}\n{script}");
                    assert!(said.is_empty(), "{:?}\n{script}", String::from_utf8_lossy(&said));
                    talk.sent(NOW);
                }
                ("C", text) => {
                    let end = said.iter().position(|b| *b == b'\n').map_or(0, |end| end + 1);
                    let first: Vec<u8> = said.drain(..end).collect();
                    assert_eq!(String::from_utf8_lossy(&first), format!("{text}\r\n"), "\n{script}");
                }
                ("S", text) => {
                    assert!(matches!(talk.next(), Step::Read(_)), "{line}: {:?}\n{script}", talk.next());
                    match text {
                        "(lost)" => talk.broken(Broken::Lost, false, NOW),
                        "(timeout)" => talk.broken(Broken::TimedOut, false, NOW),
                        text => {
                            let wire = format!("{text}\r\n");
                            let mut rest = wire.as_bytes();
                            match parser.parse(&mut rest) {
                                Some(Ok(reply)) => talk.take(&reply, NOW),
                                Some(Err(garbage)) => talk.take_garbage(&garbage.0, NOW),
                                None => {}
                            }
                        }
                    }
                }
                _ => panic!("not a line of a script: {line}"),
            }
        }
        said.append(&mut talk.output);
        assert!(said.is_empty(), "left unsaid in the script: {:?}\n{script}", String::from_utf8_lossy(&said));
        assert_eq!(talk.next(), Step::Done, "\n{script}");
        talk.finish_report().0
    }
}

/// One line per recipient, then the reason for the rest: `sent 250 2.0.0 Ok`, `5.1.1 host ...`, `open`.
fn summary(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report
        .fates
        .iter()
        .map(|fate| match fate {
            Fate::Open => "open".to_owned(),
            Fate::Accepted => "accepted".to_owned(),
            Fate::Sent { reply, .. } => format!("sent {reply}"),
            Fate::Refused(verdict) => format!("{} {}", verdict.status, verdict.reason),
        })
        .collect();
    if let Some(bulk) = &report.bulk {
        lines.push(format!(
            "{}{} {}",
            if bulk.throttle { "all! " } else { "all " },
            bulk.verdict.status,
            bulk.verdict.reason
        ));
    }
    lines
}

const HELLO: &str = "
    S: 220 mx1.remote.test ESMTP
    C: EHLO mx.lab.test
    S: 250-mx1.remote.test
    S: 250-PIPELINING
    S: 250-SIZE 10000
    S: 250 8BITMIME
";

fn check(play: &mut Play, script: &str, wanted: &[&str]) -> Report {
    let report = play.play(script);
    assert_eq!(summary(&report), wanted, "\n{script}");
    report
}

#[test]
fn a_message_with_pipelining_takes_four_turns() {
    let script = format!(
        "{HELLO}
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<b@remote.test>
        C: RCPT TO:<c@remote.test>
        C: DATA
        S: 250 2.1.0 Ok
        S: 250 2.1.5 Ok
        S: 550 5.1.1 no
        S: 354 go on
        C: (message)
        C: QUIT
        S: 250 2.0.0 Ok: queued as X"
    );
    let report = check(
        &mut Play::new(&["b@remote.test", "c@remote.test"]),
        &script,
        &[
            "sent 250 2.0.0 Ok: queued as X",
            "5.1.1 host mx1.remote.test[192.0.2.25] said: 550 5.1.1 no (in reply to RCPT TO command)",
        ],
    );
    assert!(report.complete && !report.keep);
    let Fate::Refused(verdict) = &report.fates[1] else { panic!() };
    assert_eq!((verdict.stage, verdict.code, verdict.remote), (SmtpStage::Rcpt, Some(ReplyCode(550)), true));
    assert_eq!(verdict.reply.as_deref(), Some("550 5.1.1 no"));
}

#[test]
fn without_pipelining_every_reply_is_awaited() {
    let script = "
        S: 220 old.test
        C: EHLO mx.lab.test
        S: 500 what
        C: HELO mx.lab.test
        S: 250 old.test
        C: MAIL FROM:<a@lab.test>
        S: 250 ok
        C: RCPT TO:<b@remote.test>
        S: 250 ok
        C: DATA
        S: 354 ok
        C: (message)
        S: 250 done
        C: QUIT
    ";
    check(&mut Play::new(&["b@remote.test"]), script, &["sent 250 done"]);
}

/// Recipients, the script after [`HELLO`], what comes of it.
type Case = (&'static [&'static str], &'static str, &'static [&'static str]);
const AFTER_HELLO: &[Case] = &[
    // The sender is refused: recipients and DATA have been said already.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 451 4.7.1 later
         S: 503 5.5.1 no sender
         S: 503 5.5.1 no recipient
         C: RSET
         C: QUIT
         S: 250 ok",
        &["open", "all 4.7.1 host mx1.remote.test[192.0.2.25] said: 451 4.7.1 later (in reply to MAIL FROM command)"],
    ),
    // All recipients are refused.
    (
        &["b@remote.test", "c@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: RCPT TO:<c@remote.test>
         C: DATA
         S: 250 ok
         S: 450 4.2.0 grey
         S: 550 no
         S: 554 no recipients
         C: RSET
         C: QUIT
         S: 250 ok",
        &[
            "4.2.0 host mx1.remote.test[192.0.2.25] said: 450 4.2.0 grey (in reply to RCPT TO command)",
            "5.0.0 host mx1.remote.test[192.0.2.25] said: 550 no (in reply to RCPT TO command)",
        ],
    ),
    // All recipients are refused, but DATA is accepted.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 550 5.1.1 no
         S: 354 go on
         C: .
         C: QUIT
         S: 554 5.5.1 no recipients",
        &["5.1.1 host mx1.remote.test[192.0.2.25] said: 550 5.1.1 no (in reply to RCPT TO command)"],
    ),
    // DATA is refused.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 451 4.3.0 disk
         C: RSET
         C: QUIT
         S: 250 ok",
        &["accepted", "all 4.3.0 host mx1.remote.test[192.0.2.25] said: 451 4.3.0 disk (in reply to DATA command)"],
    ),
    // The message is refused.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 ok
         C: (message)
         C: QUIT
         S: 554-5.7.1 spam
         S: 554 5.7.1 go away",
        &[
            "accepted",
            "all 5.7.1 host mx1.remote.test[192.0.2.25] said: 554-5.7.1 spam 554 5.7.1 go away \
             (in reply to end of DATA command)",
        ],
    ),
    // A reply that belongs elsewhere.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 354 already
         S: 503 no
         C: RSET
         C: QUIT
         S: 250 ok",
        &["5.5.0 host mx1.remote.test[192.0.2.25] said: 354 already (in reply to RCPT TO command)"],
    ),
    // 1xx is no answer to anything.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 100 wait
         S: 250 ok
         S: 354 ok
         C: .
         C: QUIT
         S: 250 ok",
        &["open", "all 5.5.0 host mx1.remote.test[192.0.2.25] said: 100 wait (in reply to MAIL FROM command)"],
    ),
    // Success, but not of the kind that was asked for.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 2.0.0 ok
         C: RSET
         C: QUIT
         S: 250 ok",
        &[
            "accepted",
            "all 5.5.0 Protocol error: host mx1.remote.test[192.0.2.25] said: 250 2.0.0 ok (in reply to DATA command)",
        ],
    ),
    // Losses.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: (lost)",
        &["open", "all! 4.4.2 lost connection with mx1.remote.test[192.0.2.25] while sending MAIL FROM"],
    ),
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: (timeout)",
        &["open", "all! 4.4.2 conversation with mx1.remote.test[192.0.2.25] timed out while sending RCPT TO"],
    ),
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 ok
         C: (message)
         C: QUIT
         S: (lost)",
        &[
            "accepted",
            "all! 4.4.2 lost connection with mx1.remote.test[192.0.2.25] while sending end of data -- \
             message may be sent more than once",
        ],
    ),
    // What is no reply between pipelined commands ends it at once: nobody knows what a later 250 would be for.
    (
        &["b@remote.test"],
        "C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
         C: RCPT TO:<b@remote.test>
         C: DATA
         S: 250 ok
         S: hello there",
        &[
            "open",
            "all! 4.5.0 Protocol error: host mx1.remote.test[192.0.2.25] said: hello there \
             (in reply to RCPT TO command)",
        ],
    ),
];

#[test]
fn what_replies_make_of_a_transaction() {
    for (recipients, script, wanted) in AFTER_HELLO {
        check(&mut Play::new(recipients), &format!("{HELLO}\n{script}"), wanted);
    }
}

#[test]
fn greetings_that_go_wrong() {
    let table: &[(&str, &str)] = &[
        (
            "S: 421 4.3.2 busy\nC: QUIT",
            "all! 4.3.2 host mx1.remote.test[192.0.2.25] refused to talk to me: 421 4.3.2 busy",
        ),
        // smtp_skip_5xx_greeting
        (
            "S: 554-5.7.1 go\nS: 554 5.7.1 away\nC: QUIT",
            "all! 4.7.1 host mx1.remote.test[192.0.2.25] refused to talk to me: 554-5.7.1 go 554 5.7.1 away",
        ),
        ("S: 354 what\nC: QUIT", "all! 5.5.0 host mx1.remote.test[192.0.2.25] refused to talk to me: 354 what"),
        (
            "S: (lost)",
            "all! 4.4.2 lost connection with mx1.remote.test[192.0.2.25] while receiving the initial server greeting",
        ),
        (
            "S: 220 x\nC: EHLO mx.lab.test\nS: 421 4.4.2 bye\nC: QUIT",
            "all! 4.4.2 host mx1.remote.test[192.0.2.25] refused to talk to me: 421 4.4.2 bye",
        ),
        (
            "S: 220 x\nC: EHLO mx.lab.test\nS: 502 no\nC: HELO mx.lab.test\nS: 550 5.7.1 no\nC: QUIT",
            "all! 5.7.1 host mx1.remote.test[192.0.2.25] refused to talk to me: 550 5.7.1 no",
        ),
        (
            "S: 220 x\nC: EHLO mx.lab.test\nS: (timeout)",
            "all! 4.4.2 conversation with mx1.remote.test[192.0.2.25] timed out while performing the EHLO handshake",
        ),
        (
            "S: 220 x\nC: EHLO mx.lab.test\nS: 250 MX.lab.test\nC: QUIT",
            "all! 5.4.6 mail for remote.test loops back to myself",
        ),
    ];
    for (script, wanted) in table {
        check(&mut Play::new(&["b@remote.test"]), script, &["open", wanted]);
    }
    let mut strict = Play::new(&["b@remote.test"]);
    strict.settings.skip_5xx_greeting = false;
    let wanted = "all! 5.7.1 host mx1.remote.test[192.0.2.25] refused to talk to me: 554 5.7.1 no";
    check(&mut strict, "S: 554 5.7.1 no\nC: QUIT", &["open", wanted]);
    let mut backup = Play::new(&["b@remote.test"]);
    backup.session.best_mx = false;
    let script = "S: 220 x\nC: EHLO mx.lab.test\nS: 250 mx.lab.test\nC: QUIT";
    check(&mut backup, script, &["open", "all! 4.4.4 unable to find primary relay for remote.test"]);
}

#[test]
fn which_greeting_command() {
    let rest = "\nS: (lost)";
    for (always, never, banner, command) in [
        (true, false, "220 x", "EHLO"),
        (false, false, "220 x ready", "HELO"),
        (false, false, "220 x ESMTP ready", "EHLO"),
        (false, false, "220-x\nS: 220 esmtp here", "EHLO"),
        (true, true, "220 x ESMTP", "HELO"),
    ] {
        let mut play = Play::new(&["b@remote.test"]);
        play.settings.always_send_ehlo = always;
        play.settings.never_send_ehlo = never;
        play.play(&format!("S: {banner}\nC: {command} mx.lab.test{rest}"));
    }
}

#[test]
fn extensions_in_mail_and_rcpt() {
    static CLIENT: std::sync::LazyLock<ClientAttributes> = std::sync::LazyLock::new(|| ClientAttributes {
        name: "client.test".into(),
        address: Some("2001:db8::7".parse().unwrap()),
        port: 2525,
        helo: "he lo".into(),
        protocol: "ESMTP".into(),
        ..ClientAttributes::default()
    });
    let mut play = Play::new(&["b@remote.test", "bare@remote.test", "山@remote.test"]);
    play.settings.send_xforward = true;
    play.job.client = &CLIENT;
    play.job.sender = "john doe@lab.test".into();
    play.job.envid = "env+id=1";
    play.job.ret = Some(Ret::Headers);
    play.job.body = BodyType::EightBitMime;
    play.job.smtputf8 = true;
    play.job.needs_smtputf8 = true;
    play.job.recipients[0].orcpt = "rfc822;o+x@lab.test";
    play.job.recipients[0].notify = Notify { success: true, failure: true, ..Notify::default() };
    play.job.recipients[1].original = "bare@lab.test";
    play.job.recipients[1].notify = Notify { never: true, ..Notify::default() };
    play.job.recipients[2].original = "山@remote.test";
    let id = play.job.queue_id;
    let script = format!(
        "S: 220 x ESMTP
        C: EHLO mx.lab.test
        S: 250-x
        S: 250-PIPELINING
        S: 250-SIZE
        S: 250-DSN
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE
        C: XFORWARD NAME=client.test ADDR=IPv6:2001:db8::7 PORT=2525
        C: XFORWARD PROTO=ESMTP HELO=he+20lo IDENT={id} SOURCE=LOCAL
        C: MAIL FROM:<\"john doe\"@lab.test> SIZE=300 BODY=8BITMIME ENVID=env+2Bid+3D1 RET=HDRS SMTPUTF8
        C: RCPT TO:<b@remote.test> ORCPT=rfc822;o+2Bx@lab.test NOTIFY=SUCCESS,FAILURE
        C: RCPT TO:<bare@remote.test> ORCPT=rfc822;bare@lab.test NOTIFY=NEVER
        C: RCPT TO:<山@remote.test> ORCPT=utf-8;\\x{{5C71}}@remote.test
        C: DATA
        S: 250 ok
        S: 550 5.7.0 no
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 354 ok
        C: (message)
        C: QUIT
        S: 250 ok"
    );
    let report = check(&mut play, &script, &["sent 250 ok", "sent 250 ok", "sent 250 ok"]);
    assert_eq!(report.warnings.len(), 1);
    assert!(report.warnings[0].ends_with("(in reply to XFORWARD helo/protocol command)"), "{:?}", report.warnings);
}

#[test]
fn a_line_end_in_an_address_is_not_a_command() {
    let mut play = Play::new(&["b@remote.test\r\nDATA"]);
    play.job.sender = "a\r\nRSET@lab.test".into();
    let mut seen = Conversation::new(&play.settings, &mut play.session, &play.job, false, Vec::new(), NOW);
    for reply in ["220 x\r\n", "250 x\r\n"] {
        let reply = ReplyParser::new().parse(&mut reply.as_bytes()).unwrap().unwrap();
        seen.take(&reply, NOW);
    }
    let text = String::from_utf8(seen.output.clone()).unwrap();
    assert_eq!(text.lines().count(), 2, "{text:?}");
}

#[test]
fn what_the_server_must_offer() {
    let mut utf8 = Play::new(&["b@remote.test"]);
    utf8.job.smtputf8 = true;
    utf8.job.needs_smtputf8 = true;
    let wanted = "all 5.6.7 SMTPUTF8 is required, but was not offered by host mx1.remote.test[192.0.2.25]";
    check(&mut utf8, &format!("{HELLO}\nC: QUIT"), &["open", wanted]);
    let mut large = Play::new(&["b@remote.test"]);
    large.job.size = 10_001;
    let wanted = "all 5.3.4 message size 10001 exceeds size limit 10000 of server mx1.remote.test[192.0.2.25]";
    check(&mut large, &format!("{HELLO}\nC: QUIT"), &["open", wanted]);
    // Eight-bit text that will be converted has no size yet.
    let mut eight = Play::new(&["b@remote.test"]);
    eight.job.body = BodyType::EightBitMime;
    let script = "
        S: 220 x
        C: EHLO mx.lab.test
        S: 250-x
        S: 250 SIZE 1000
        C: MAIL FROM:<a@lab.test>
        S: (lost)";
    eight.play(script);
}

#[test]
fn discarded_keywords() {
    let mut play = Play::new(&["b@remote.test"]);
    play.settings.discard.keywords = vec!["pipelining".into(), "size".into()];
    let report = play.play(&format!("{HELLO}\nC: MAIL FROM:<a@lab.test> BODY=7BIT\nS: (lost)"));
    assert_eq!(report.notes, ["discarding EHLO keywords: PIPELINING SIZE"]);
}

#[test]
fn a_kept_connection_begins_with_a_probe() {
    let mut play = Play::new(&["b@remote.test"]);
    play.keep = true;
    let first = format!(
        "{HELLO}
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<b@remote.test>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 ok
        C: (message)
        S: 250 one"
    );
    assert!(check(&mut play, &first, &["sent 250 one"]).keep);
    let second = "
        C: RSET
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<b@remote.test>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 354 ok
        C: (message)
        S: 250 two";
    assert!(check(&mut play, second, &["sent 250 two"]).keep);
    assert_eq!(play.session.uses, 2);
    for dead in ["S: (lost)", "S: 421 4.4.2 timeout"] {
        let mut again = Play { session: play.session.clone(), settings: settings(), job: job(&["b@x"]), keep: true };
        let script = "
            C: RSET
            C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
            C: RCPT TO:<b@x>
            C: DATA\n";
        let report = again.play(&format!("{script}{dead}"));
        assert!(report.stale && !report.keep && report.bulk.is_none(), "{dead}");
    }
}

#[test]
fn a_protocol_error_is_not_kept() {
    let mut play = Play::new(&["b@remote.test"]);
    play.keep = true;
    let script = format!(
        "{HELLO}
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<b@remote.test>
        C: DATA
        S: 250 ok
        S: 501 5.5.4 syntax
        S: 503 no
        C: RSET
        C: QUIT
        S: 250 ok"
    );
    assert!(!play.play(&script).keep);
}

#[test]
fn lmtp_has_a_reply_for_every_recipient() {
    let mut play = Play::new(&["ok@lm.test", "full@lm.test", "none@lm.test", "bad@lm.test"]);
    play.settings = lmtp();
    let hello = HELLO.replace("EHLO", "LHLO");
    let transaction = "
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<ok@lm.test>
        C: RCPT TO:<full@lm.test>
        C: RCPT TO:<none@lm.test>
        C: RCPT TO:<bad@lm.test>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 550 5.1.1 none
        S: 250 ok
        S: 354 ok
        C: (message)
        C: QUIT
        S: 250 2.0.0 delivered
        S: 452 4.2.2 full";
    let named = "host mx1.remote.test[192.0.2.25] said:";
    let script = format!("{hello}{transaction}\nS: 550 5.2.0 bad\nS: 221 bye");
    check(
        &mut play,
        &script,
        &[
            "sent 250 2.0.0 delivered",
            &format!("4.2.2 {named} 452 4.2.2 full (in reply to end of DATA command)"),
            &format!("5.1.1 {named} 550 5.1.1 none (in reply to RCPT TO command)"),
            &format!("5.2.0 {named} 550 5.2.0 bad (in reply to end of DATA command)"),
        ],
    );
    // Those whose reply never came.
    let mut play = Play { session: session(), ..play };
    let report = play.play(&format!("{hello}{transaction}\nS: (lost)"));
    assert_eq!(report.fates[3], Fate::Accepted);
    assert!(report.bulk.unwrap().verdict.reason.contains("message may be sent more than once"));
}

#[test]
fn probes_deliver_nothing() {
    let mut play = Play::new(&["b@remote.test", "c@remote.test"]);
    play.job.probe = true;
    let script = format!(
        "{HELLO}
        C: MAIL FROM:<a@lab.test> SIZE=300 BODY=7BIT
        C: RCPT TO:<b@remote.test>
        C: RCPT TO:<c@remote.test>
        C: RSET
        C: QUIT
        S: 250 ok
        S: 250 2.1.5 fine
        S: 550 5.1.1 no
        S: 250 ok"
    );
    let refused = "5.1.1 host mx1.remote.test[192.0.2.25] said: 550 5.1.1 no (in reply to RCPT TO command)";
    check(&mut play, &script, &["sent 250 2.1.5 fine", refused]);
}

#[test]
fn a_loss_within_the_message_waits_for_the_reason() {
    for (reply, wanted) in [
        (
            Some("552 5.3.4 too big"),
            "all 5.3.4 host mx1.remote.test[192.0.2.25] said: 552 5.3.4 too big (in reply to end of DATA command)",
        ),
        (Some("250 fine"), "all! 4.4.2 lost connection with mx1.remote.test[192.0.2.25] while sending message body"),
        (None, "all! 4.4.2 lost connection with mx1.remote.test[192.0.2.25] while sending message body"),
    ] {
        let mut play = Play::new(&["b@remote.test"]);
        let mut talk = Conversation::new(&play.settings, &mut play.session, &play.job, true, Vec::new(), NOW);
        for reply in ["220 x", "250 x", "250 ok", "250 ok", "354 ok"] {
            let wire = format!("{reply}\r\n");
            talk.take(&ReplyParser::new().parse(&mut wire.as_bytes()).unwrap().unwrap(), NOW);
        }
        assert_eq!(talk.next(), Step::Send);
        talk.broken(Broken::Lost, true, NOW);
        assert!(matches!(talk.next(), Step::Read(_)));
        match reply {
            Some(reply) => {
                let wire = format!("{reply}\r\n");
                talk.take(&ReplyParser::new().parse(&mut wire.as_bytes()).unwrap().unwrap(), NOW);
            }
            None => talk.broken(Broken::Lost, false, NOW),
        }
        assert_eq!(talk.next(), Step::Done);
        let report = talk.finish_report().0;
        assert_eq!(summary(&report), ["accepted", wanted]);
        assert!(!report.keep);
    }
}

#[test]
fn many_recipients_go_out_in_groups() {
    let addresses: Vec<String> = (0..2000).map(|n| format!("recipient-{n}@remote.test")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut play = Play::new(&addresses);
    let mut talk = Conversation::new(&play.settings, &mut play.session, &play.job, false, Vec::new(), NOW);
    let mut most = 0;
    let mut replies = 0;
    let take = |talk: &mut Conversation<'_>, text: &str| {
        let reply = ReplyParser::new().parse(&mut text.as_bytes()).unwrap().unwrap();
        talk.take(&reply, NOW);
    };
    take(&mut talk, "220 x\r\n");
    take(&mut talk, "250-x\r\n250 PIPELINING\r\n");
    while matches!(talk.next(), Step::Read(_)) {
        most = most.max(talk.output.len());
        talk.output.clear();
        let answer = if talk.expects() == Some(Expect::Data) { "354 ok\r\n" } else { "250 ok\r\n" };
        take(&mut talk, answer);
        replies += 1;
    }
    assert_eq!(talk.next(), Step::Send);
    assert_eq!(replies, 2002);
    assert!(most < GROUP_LIMIT + 1000, "{most}");
}

/// Whatever a server says in whatever order: no panic, and an end.
#[test]
fn nonsense_ends() {
    let words = [
        "220 x",
        "250 ok",
        "250-x",
        "250 PIPELINING",
        "354 go",
        "421 bye",
        "450 x",
        "550 x",
        "100 x",
        "999 x",
        "000 x",
        "hello",
        "",
        "250-8BITMIME\r\n250 SIZE 5",
        "\u{0}\u{1}",
        "221 x",
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..4000 {
        let mut play = Play::new(&["b@remote.test", "c@remote.test"]);
        if round % 2 == 1 {
            play.settings = lmtp();
        }
        play.keep = round % 3 == 0;
        play.session.greeted = round % 5 == 0;
        play.session.capabilities.pipelining = round % 10 == 0;
        let mut talk = Conversation::new(&play.settings, &mut play.session, &play.job, play.keep, Vec::new(), NOW);
        let mut parser = ReplyParser::new();
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 2000, "no end");
            talk.output.clear();
            match talk.next() {
                Step::Done => break,
                Step::Send => talk.sent(NOW),
                Step::Handshake => talk.secured(Err(yamabiko_tls::Failure::Lost), NOW),
                Step::Read(_) => {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let wire = format!("{}\r\n", words[(seed >> 33) as usize % words.len()]);
                    let mut rest = wire.as_bytes();
                    match parser.parse(&mut rest) {
                        Some(Ok(reply)) => talk.take(&reply, NOW),
                        Some(Err(garbage)) => talk.take_garbage(&garbage.0, NOW),
                        None => {}
                    }
                }
            }
        }
        let (report, _) = talk.finish_report();
        let explained = |fate: &Fate| matches!(fate, Fate::Sent { .. } | Fate::Refused(_));
        assert!(report.stale || report.bulk.is_some() || report.fates.iter().all(explained), "{report:?}");
    }
}

fn with_login(filter: &str, options: &str) -> Play {
    let login = yamabiko_sasl::client::Login { user: "user".into(), password: "secret".into() };
    let mut play = Play::new(&["x@remote.test"]);
    play.session.terms = std::sync::Arc::new(crate::Terms { login: Some(login), ..crate::Terms::default() });
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    play.settings.sasl.filter = words(filter);
    play.settings.sasl.plain = yamabiko_sasl::mechanisms::SecurityOptions::parse(&words(options)).0;
    play.settings.sasl.soft_bounce = true;
    play
}

#[test]
fn logins() {
    let refused = "all! 4.7.8 SASL authentication failed; server mx1.remote.test[192.0.2.25] said: 535 5.7.8 no";
    let none = "all! 4.7.0 SASL authentication failed: server mx1.remote.test[192.0.2.25] offered no compatible \
                authentication mechanisms for this type of connection security";
    let worthless = "all! 4.7.0 SASL authentication failed; cannot authenticate to server mx1.remote.test[192.0.2.25]: no \
                     mechanism available";
    let rest = "C: MAIL FROM:<a@lab.test>\nS: 250 ok\nC: RCPT TO:<x@remote.test>\nS: 250 ok\nC: DATA\nS: 354 go\nC: (message)\n\
                S: 250 2.0.0 taken\nC: QUIT\n";
    for (filter, options, offered, script, expected) in [
        (
            "",
            "noanonymous",
            "PLAIN LOGIN",
            format!("C: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 ok\n{rest}"),
            "sent 250 2.0.0 taken",
        ),
        (
            "!plain login",
            "",
            "PLAIN LOGIN",
            format!(
                "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: dXNlcg==\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 235 ok\n{rest}"
            ),
            "sent 250 2.0.0 taken",
        ),
        ("", "", "PLAIN", "C: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 535 5.7.8 no\nC: QUIT\n".to_owned(), refused),
        ("cram-md5", "", "PLAIN LOGIN", "C: QUIT\n".to_owned(), none),
        ("", "noplaintext", "PLAIN LOGIN", "C: QUIT\n".to_owned(), worthless),
    ] {
        let mut play = with_login(filter, options);
        let report = play.play(&format!(
            "S: 220 mx1.remote.test ESMTP\nC: EHLO mx.lab.test\nS: 250-mx1.remote.test\nS: 250 AUTH {offered}\n{script}"
        ));
        assert_eq!(summary(&report).last().map(String::as_str), Some(expected), "{filter} {options}");
        assert_eq!(report.login_refused.is_some(), expected == refused);
    }
}

#[test]
fn tls_that_is_demanded() {
    let mut play = Play::new(&["x@remote.test"]);
    let level = yamabiko_tls::ClientLevel::Encrypt;
    play.session.terms = std::sync::Arc::new(crate::Terms { level, ..crate::Terms::default() });
    let report = play.play("S: 220 mx1.remote.test ESMTP\nC: EHLO mx.lab.test\nS: 250 mx1.remote.test\nC: QUIT\n");
    let expected = "all! 4.7.4 TLS is required, but was not offered by host mx1.remote.test[192.0.2.25]";
    assert_eq!(summary(&report).last().map(String::as_str), Some(expected));
    // Offered, and our own keys are of no use.
    let mut play = Play::new(&["x@remote.test"]);
    play.session.terms = std::sync::Arc::new(crate::Terms { level, ..crate::Terms::default() });
    let hello = "S: 220 mx1.remote.test ESMTP\nC: EHLO mx.lab.test\nS: 250-mx1.remote.test\nS: 250 STARTTLS\nC: QUIT\n";
    let expected = "all! 4.7.5 TLS is required, but our TLS engine is unavailable";
    assert_eq!(summary(&play.play(hello)).last().map(String::as_str), Some(expected));
}

#[test]
fn a_greeting_of_asterisks_is_a_pix_firewall() {
    let mut play = Play::new(&["x@y.test"]);
    play.settings.pix = crate::settings::Pix { helo: true, dot: true, ..crate::settings::Pix::default() };
    let report = play.play(
        "S: 220 ****************************2**************0****\nC: HELO mx.lab.test\nS: 250 fw\n\
         C: MAIL FROM:<a@lab.test>\nS: 250 ok\nC: RCPT TO:<x@y.test>\nS: 250 ok\nC: DATA\nS: 354 go\nC: (message)\n\
         S: 250 ok\nC: QUIT",
    );
    assert!(play.session.pix.is_some());
    assert_eq!(
        report.message_notes,
        ["enabling PIX workarounds: disable_esmtp delay_dotcrlf for mx1.remote.test[192.0.2.25]"]
    );
}

//! Notices are read back: what they say is what caused them. By our own analyzer, by `protocol/report`, and by Python's email
//! package. Outcomes, kinds, styles and languages are generated.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use yamabiko_analyze::{Analyzer, Kind, Reason, Reply};
use yamabiko_bounce::{Bouncer, Job, Reported};
use yamabiko_config::{Config, Host};
use yamabiko_envelope::{Action, DiagnosticType, Envelope, Failure, Notify, Outcome, QueueId, Recipient, Timestamp};
use yamabiko_message::date::Zone;
use yamabiko_report::parse;
use yamabiko_status::{Class, EnhancedStatus};

const NOW: Timestamp = Timestamp(1_795_280_034_000_000);
const ROUNDS: usize = 240;

/// Status, reply of a server, command that it answered; no command where the trouble is our own.
const REPLIES: [(&str, &str, &str); 24] = [
    ("5.1.1", "550 5.1.1 <R>: Recipient address rejected: User unknown in local recipient table", "RCPT TO command"),
    ("5.2.2", "552 5.2.2 mailbox full", "RCPT TO command"),
    ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example", "RCPT TO command"),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "MAIL FROM command"),
    ("5.0.0", "550 Unknown user R", "end of DATA command"),
    ("5.7.26", "550 5.7.26 Unauthenticated email is not accepted due to domain's DMARC policy", "end of DATA command"),
    ("4.2.2", "452 4.2.2 The recipient's inbox is out of storage space", "RCPT TO command"),
    ("4.7.0", "421 4.7.0 Try again later", "initial server greeting"),
    ("5.1.2", "550 5.1.2 受け取りを拒否します", "RCPT TO command"),
    (
        "5.2.1",
        "550-5.2.1 The account is disabled. 550 5.2.1 Learn more at https://help.example/?p=Disabled a1-2 - gsmtp",
        "RCPT TO command",
    ),
    (
        "5.7.1",
        "554 5.7.1 \"quoted\" (in brackets) <with@addresses.test>; said: host; and --boundary",
        "end of DATA command",
    ),
    ("5.1.1", "unknown user: \"R\"", ""),
    ("5.4.4", "Host or domain name not found. Name service error for name=r.test type=AAAA: Host not found", ""),
    ("4.4.1", "connect to mx.r.test[192.0.2.9]:25: Connection timed out", ""),
    ("5.4.6", "mail for r.test loops back to myself", ""),
    // Nothing but the status says why; what we say around it must say nothing else.
    ("5.1.6", "550 5.1.6 sorry", "RCPT TO command"),
    ("5.1.10", "556 5.1.10 sorry", "RCPT TO command"),
    ("5.1.0", "550 5.1.0 sorry", "RCPT TO command"),
    ("5.2.1", "550 5.2.1 sorry", "RCPT TO command"),
    ("5.2.3", "552 5.2.3 sorry", "end of DATA command"),
    ("5.4.4", "554 5.4.4 sorry", "RCPT TO command"),
    ("5.4.6", "554 5.4.6 sorry", "end of DATA command"),
    ("5.7.1", "554 5.7.1 sorry", "end of DATA command"),
    ("5.6.0", "554 5.6.0 sorry", "end of DATA command"),
];
/// Said of success.
const THANKS: [(&str, Action); 3] = [
    ("250 2.0.0 Ok: queued as 4XyZ", Action::Relayed),
    ("delivered to maildir", Action::Delivered),
    ("mailing list", Action::Expanded),
];
const ADDRESSES: [&str; 6] = [
    "a@b.test",
    "..da.me.@docomo.ne.jp",
    "\"a b\"@c.test",
    "very.long.local.part+with=extension@sub.domain.example.org",
    "山@例え.test",
    "a'b&c@d.test",
];
const STYLES: [&str; 8] = [
    "",
    "bounce_language = en",
    "bounce_language = ja",
    "bounce_language = ja en",
    "bounce_language = en ja\nbounce_japanese_charset = iso-2022-jp",
    "bounce_language = ja\nbounce_japanese_charset = iso-2022-jp",
    "bounce_style = qmail",
    "bounce_style = qmail\nbounce_language = ja\nbounce_from_user = postmaster\nbounce_from_domain = lab.test",
];

/// Which notice.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Failed,
    Delayed,
    Settled,
    /// About a notice that could not be delivered.
    Double,
    /// The postmaster's copy.
    Copy,
}

const WHATS: [What; 5] = [What::Failed, What::Delayed, What::Settled, What::Double, What::Copy];

impl What {
    /// qmail's form has no other notices.
    fn is_qmails(self, style: &str) -> bool {
        style.contains("qmail") && matches!(self, What::Failed | What::Double)
    }

    fn action(self) -> &'static str {
        match self {
            What::Delayed => "delayed",
            What::Failed | What::Double | What::Copy => "failed",
            What::Settled => "settled",
        }
    }

    fn subject(self, style: &str) -> &'static str {
        match self {
            _ if self.is_qmails(style) => "failure notice",
            What::Failed => "Undelivered Mail Returned to Sender",
            What::Delayed => "Delayed Mail (still being retried)",
            What::Settled => "Successful Mail Delivery Report",
            What::Double => "Postmaster Copy: Undelivered Mail",
            What::Copy => "Postmaster Copy: Undelivered Mail",
        }
    }
}

/// Numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

fn bouncer(main: &str) -> Bouncer {
    let main = format!(
        "compatibility_level = 3.6\nmail_name = Postfix\nmyhostname = mx.lab.test\nmyorigin = lab.test\n\
         notify_classes = bounce, 2bounce\n{main}\n"
    );
    let host = Host::of_this_machine("bounce");
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap();
    let (bouncer, warnings) = Bouncer::new(&config.main(), None);
    assert_eq!(warnings, [""; 0]);
    bouncer
}

/// What a notice has to say of a recipient.
#[derive(Debug)]
struct Expected {
    address: String,
    status: EnhancedStatus,
    action: &'static str,
    /// What was said, by the server or by us.
    reply: String,
    /// A server said it.
    remote: bool,
    command: &'static str,
}

impl Expected {
    /// The reply code; codes of success are not read.
    fn digits(&self) -> String {
        let read = self.remote && self.status.class != Class::Success;
        if read { self.reply.chars().take(3).collect() } else { String::new() }
    }
}

/// An event as the delivery tells it, and what has to be found of it in the notice.
fn event(
    numbers: &mut Numbers,
    bouncer: &Bouncer,
    envelope: &mut Envelope,
    what: What,
    address: &str,
) -> (Reported, Expected) {
    let at = u32::try_from(envelope.recipients.len()).unwrap();
    let notify = Notify { success: what == What::Settled, ..Notify::default() };
    let recipient = Recipient { address: address.to_owned(), notify, ..Recipient::default() };
    envelope.recipients.push(recipient.clone());
    let (host, relay) = ("mx.r.test".to_owned(), "mx.r.test[192.0.2.9]:25".to_owned());
    if what == What::Settled {
        let (reply, action) = THANKS[numbers.below(THANKS.len())];
        let status: EnhancedStatus = "2.0.0".parse().unwrap();
        let remote = action == Action::Relayed;
        let mut outcome = Outcome::of_our_own(at, Outcome::result_of(status, action), status, reply, NOW);
        if remote {
            outcome.diagnostic = Some((DiagnosticType::Smtp, reply.to_owned()));
            (outcome.remote_mta, outcome.relay) = (Some(host), relay);
        }
        let action = match action {
            Action::Relayed => "relayed",
            Action::Delivered => "delivered",
            _ => "expanded",
        };
        let expected =
            Expected { address: address.to_owned(), status, action, reply: reply.to_owned(), remote, command: "" };
        return (bouncer.report_outcome(envelope, &outcome).expect("there is something to tell"), expected);
    }
    let (status, reply, command) = REPLIES[numbers.below(REPLIES.len())];
    let (status, remote) = (status.parse().unwrap(), !command.is_empty());
    let reply = reply.replace('R', address);
    let failure = if remote {
        Failure {
            status,
            reason: format!("host mx.r.test[192.0.2.9] said: {reply} (in reply to {command})"),
            diagnostic: format!("smtp; {reply}"),
            remote_mta: host,
            relay,
            settled: Vec::new(),
        }
    } else {
        let (reason, none) = (reply.clone(), String::new());
        Failure {
            status,
            reason,
            diagnostic: none.clone(),
            remote_mta: none,
            relay: "none".into(),
            settled: Vec::new(),
        }
    };
    envelope.smtputf8 |= !reply.is_ascii();
    let reported = bouncer.report_failure(&recipient, &failure, what == What::Delayed);
    (reported, Expected { address: address.to_owned(), status, action: what.action(), reply, remote, command })
}

/// A notice about some generated events.
fn notice(numbers: &mut Numbers, style: &str, what: What) -> (Vec<u8>, Vec<Expected>) {
    let bouncer = bouncer(style);
    let sender = if what == What::Double { "" } else { "s@x.test" };
    let mut envelope = Envelope::new(QueueId::new(NOW.0 - 5_000_000, 1), Timestamp(NOW.0 - 5_000_000), sender);
    let mut expected: Vec<Expected> = Vec::new();
    let mut reported: Vec<Reported> = Vec::new();
    for at in 0..1 + numbers.below(3) {
        // Internal form.
        let address = ADDRESSES[(numbers.below(ADDRESSES.len()) + at) % ADDRESSES.len()].replace('"', "");
        if expected.iter().all(|known| known.address != address) {
            envelope.smtputf8 |= !address.is_ascii();
            let (report, one) = event(numbers, &bouncer, &mut envelope, what, &address);
            reported.push(report);
            expected.push(one);
        }
    }
    let original = b"Subject: about the original\nMessage-Id: <orig@c.test>\nFrom: s@x.test\n\nthe body\n";
    envelope.size = original.len() as u64;
    let (zone, languages) = (Zone::UTC, []);
    let job = Job { envelope: &envelope, original: Some(original), now: NOW, zone: &zone, languages: &languages };
    let mut next = NOW.0;
    let mut next_id = || {
        next += 1;
        QueueId::new(next, 1)
    };
    let plan = match what {
        What::Delayed => bouncer.delayed(&job, &reported, &mut next_id),
        What::Settled => bouncer.settled(&job, &reported, &mut next_id),
        What::Failed | What::Double | What::Copy => bouncer.failed(&job, &reported, &mut next_id),
    };
    let copies = matches!(what, What::Failed | What::Copy);
    assert_eq!(plan.notices.len(), if copies { 2 } else { 1 }, "{what:?}");
    let submission = &plan.notices[usize::from(what == What::Copy)].submission;
    let from = match what {
        What::Double if what.is_qmails(style) => "#@[]",
        What::Double | What::Copy => "double-bounce@mx.lab.test",
        _ => "",
    };
    assert_eq!(submission.envelope.sender, from, "{what:?} {style}");
    let mut text = submission.trace_fields.clone();
    text.extend_from_slice(&submission.content.to_bytes().unwrap());
    (text, expected)
}

fn without_quotes(address: &str) -> String {
    address.replace('"', "")
}

/// The reason of the event itself.
fn reason(analyzer: &Analyzer, what: What, expected: &Expected) -> Reason {
    if what == What::Settled {
        return Reason::Delivered;
    }
    let text = match expected.command {
        "" => expected.reply.clone(),
        command => format!("{} (in reply to {command})", expected.reply),
    };
    let remote_host = if expected.remote { "mx.r.test" } else { "" };
    analyzer.classify(&Reply { text: &text, remote_host, recipient: &expected.address, ..Reply::default() }).reason
}

/// What our analyzer reads that is not so.
fn misread(analyzer: &Analyzer, what: What, style: &str, text: &[u8], all: &[Expected]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |name: &str, got: String, wanted: String| {
        if got != wanted {
            wrong.push(format!("{name}: {got}, wanted {wanted}"));
        }
    };
    let analysis = analyzer.analyze(text);
    check("kind", format!("{:?}", analysis.kind), format!("{:?}", Kind::Bounce));
    check("findings", analysis.findings.len().to_string(), all.len().to_string());
    for (finding, expected) in analysis.findings.iter().zip(all) {
        let qmail = what.is_qmails(style);
        let mut reason = reason(analyzer, what, expected);
        if qmail && expected.status.class == Class::Transient && finding.reason == Reason::Expired {
            // qmail's form says that it waited for too long, too.
            reason = Reason::Expired;
        }
        check("reason", finding.reason.to_string(), reason.to_string());
        check("recipient", without_quotes(&finding.recipient), expected.address.to_lowercase());
        check("reply code", finding.reply_code.map_or_else(String::new, |code| code.0.to_string()), expected.digits());
        check("Message-ID", finding.message_id.clone(), "orig@c.test".to_owned());
        if !finding.diagnostic.text.contains(&expected.reply) {
            check("reply", finding.diagnostic.text.clone(), expected.reply.clone());
        }
        // qmail's form has the address of the host, and no status but that of the reply.
        if expected.remote {
            check("host", finding.rhost.clone(), if qmail { "192.0.2.9" } else { "mx.r.test" }.to_owned());
        }
        if !qmail || expected.status.to_string() != "5.0.0" {
            check("status", finding.status.map_or_else(String::new, |s| s.to_string()), expected.status.to_string());
        }
        // Sisimai's word for what has expired; `protocol/report` reads what is written.
        let action = if reason == Reason::Expired { "delayed" } else { expected.action };
        check("action", finding.action.map_or("", |action| action.name()).to_owned(), action.to_owned());
    }
    wrong
}

/// What `protocol/report` reads that is not so.
fn misparsed(text: &[u8], all: &[Expected]) -> Vec<String> {
    let Some(parsed) = parse::parse(text) else { return vec!["it is no report".to_owned()] };
    let mut wrong = Vec::new();
    let mut check = |name: &str, got: Option<String>, wanted: Option<String>| {
        if got != wanted {
            wrong.push(format!("{name}: {got:?}, wanted {wanted:?}"));
        }
    };
    check("recipients", Some(parsed.recipients.len().to_string()), Some(all.len().to_string()));
    for (one, expected) in parsed.recipients.iter().zip(all) {
        check("Final-Recipient", one.final_recipient().map(|to| without_quotes(&to)), Some(expected.address.clone()));
        check("Status", one.status().map(|status| status.to_string()), Some(expected.status.to_string()));
        check("Action", one.action(), Some(expected.action.to_owned()));
        let remote = one.typed("Remote-MTA").map(|(_, host)| host.to_owned());
        check("Remote-MTA", remote, expected.remote.then(|| "mx.r.test".to_owned()));
        let said = one.typed("Diagnostic-Code").map(|(_, said)| said.split_whitespace().collect::<Vec<_>>().join(" "));
        check("Diagnostic-Code", said, Some(expected.reply.clone()));
    }
    wrong
}

#[test]
fn every_notice_says_what_caused_it() {
    let analyzer = Analyzer::embedded();
    let mut numbers = Numbers(20_261_122);
    let mut report = String::new();
    for round in 0..ROUNDS {
        let (style, what) = (STYLES[round % STYLES.len()], WHATS[numbers.below(WHATS.len())]);
        let (text, expected) = notice(&mut numbers, style, what);
        let mut wrong = misread(&analyzer, what, style, &text, &expected);
        if !what.is_qmails(style) {
            wrong.extend(misparsed(&text, &expected));
        }
        if !wrong.is_empty() {
            let text = String::from_utf8_lossy(&text);
            report.push_str(&format!("---- {what:?} {style}\n{}\n{text}\n", wrong.join("\n")));
        }
    }
    assert!(report.is_empty(), "{report}");
}

const READER: &str = r#"
import sys, json, email, email.policy
policy = email.policy.SMTP.clone(utf8=True)

def squeezed(text):
    return " ".join(text.split())

def groups_of(status):
    """The groups of fields; the package takes only the older of the two types apart."""
    if status.get_content_type() == "message/delivery-status":
        return status.get_payload()
    assert status.get_content_type() == "message/global-delivery-status"
    text = status.get_payload(0).as_bytes(policy=policy).decode()
    return [email.message_from_string(group, policy=policy) for group in text.replace("\r\n", "\n").strip().split("\n\n")]

for line in sys.stdin:
    want = json.loads(line)
    m = email.message_from_bytes(want["text"].encode("latin-1"), policy=policy)
    try:
        assert not m.defects, m.defects
        assert str(m["Subject"]).startswith(want["subject"]), m["Subject"]
        assert m["Auto-Submitted"] == want["automatic"], m["Auto-Submitted"]
        assert m["Date"].datetime is not None and m["Message-Id"] is not None
        if want["qmail"]:
            assert m.get_content_type() == "text/plain"
            words = m.get_payload(decode=True).decode(m.get_content_charset() or "ascii")
            assert words.startswith("Hi. This is the qmail-send program at ")
            for reply, recipient in zip(want["replies"], want["recipients"]):
                assert reply in words, reply
                assert "\n<" + recipient + ">:\n" in words.replace('"', ""), recipient
            assert "\nSubject: about the original\n" in words
            continue
        assert m.get_content_type() == "multipart/report", m.get_content_type()
        assert m.get_param("report-type") == "delivery-status"
        parts = m.get_payload()
        assert len(parts) == 3, len(parts)
        human, status, original = parts
        words = squeezed(human.get_payload(decode=True).decode(human.get_content_charset()))
        assert human.get_content_type() == "text/plain"
        if want["charset"]:
            assert human.get_content_charset() == want["charset"], human.get_content_charset()
        for reply in want["replies"] if want["told"] else []:
            assert squeezed(reply) in words, (reply, words)
        groups = groups_of(status)
        got = [g["Final-Recipient"].split(";", 1)[1].strip().replace('"', "") for g in groups[1:]]
        assert got == want["recipients"], (got, want["recipients"])
        assert [g["Status"] for g in groups[1:]] == want["statuses"]
        assert [g["Action"] for g in groups[1:]] == want["actions"]
        assert groups[0]["Reporting-MTA"] == "dns; mx.lab.test"
        for g, reply in zip(groups[1:], want["replies"]):
            assert squeezed(reply) in squeezed(g["Diagnostic-Code"]), (reply, g["Diagnostic-Code"])
        kind = original.get_content_type()
        if kind in ("text/rfc822-headers", "message/global-headers"):
            payload = original.get_payload()
            text = payload if isinstance(payload, str) else payload[0].as_string()
            assert "Subject: about the original" in text and "the body" not in text
        else:
            assert kind in ("message/rfc822", "message/global"), kind
            inner = original.get_payload(0)
            assert inner["Subject"] == "about the original" and inner.get_payload() == "the body\n"
    except Exception as error:
        sys.exit(f"{type(error).__name__} {error}\n{want['text']}")
print("ok")
"#;

#[test]
fn python_reads_the_structure() {
    let mut numbers = Numbers(7);
    let mut lines = Vec::new();
    for round in 0..ROUNDS {
        let (style, what) = (STYLES[round % STYLES.len()], WHATS[numbers.below(WHATS.len())]);
        let (text, expected) = notice(&mut numbers, style, what);
        let plain = expected.iter().all(|one| one.address.is_ascii() && one.reply.is_ascii());
        // What is told in Japanese alone, or in both; copies for the postmaster have no words.
        let own_words = matches!(what, What::Failed | What::Delayed | What::Settled) && style.contains("ja");
        let charset = match own_words && !what.is_qmails(style) {
            true if style.contains("iso-2022-jp") && plain => "iso-2022-jp",
            true => "utf-8",
            false => "",
        };
        let every =
            |one: fn(&Expected) -> String| -> serde_json::Value { expected.iter().map(one).collect::<Vec<_>>().into() };
        let line: BTreeMap<&str, serde_json::Value> = [
            ("text", text.iter().copied().map(char::from).collect::<String>().into()),
            ("qmail", what.is_qmails(style).into()),
            ("subject", what.subject(style).into()),
            ("charset", charset.into()),
            (
                "automatic",
                if matches!(what, What::Double | What::Copy) { "auto-generated" } else { "auto-replied" }.into(),
            ),
            ("told", (what != What::Settled).into()),
            ("recipients", every(|one| one.address.clone())),
            ("statuses", every(|one| one.status.to_string())),
            ("actions", every(|one| one.action.to_owned())),
            ("replies", every(|one| one.reply.clone())),
        ]
        .into();
        lines.push(serde_json::to_string(&line).unwrap());
    }
    let child = Command::new("python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: there is no python3");
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    // One that gives up early says why.
    let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == b"ok\n", "{}", String::from_utf8_lossy(&output.stderr));
}

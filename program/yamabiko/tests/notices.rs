//! Notices are read back: what they say is what caused them. By our own analyzer, by `protocol/report`, and by Python's email
//! package for their structure. Outcomes, styles and languages are generated.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use yamabiko_analyze::{Action, Analyzer, Kind};
use yamabiko_bounce::{Bouncer, Job, Reported};
use yamabiko_config::{Config, Host};
use yamabiko_envelope::{Envelope, Failure, QueueId, Recipient, Timestamp};
use yamabiko_message::date::Zone;
use yamabiko_report::parse;
use yamabiko_status::EnhancedStatus;

const NOW: Timestamp = Timestamp(1_795_280_034_000_000);

/// Status, reply of a server, command that it answered.
const REPLIES: [(&str, &str, &str); 9] = [
    ("5.1.1", "550 5.1.1 <R>: Recipient address rejected: User unknown in local recipient table", "RCPT TO command"),
    ("5.2.2", "552 5.2.2 mailbox full", "RCPT TO command"),
    ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example", "RCPT TO command"),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "MAIL FROM command"),
    ("5.0.0", "550 Unknown user R", "end of DATA command"),
    ("5.7.26", "550 5.7.26 Unauthenticated email is not accepted due to domain's DMARC policy", "end of DATA command"),
    ("4.2.2", "452 4.2.2 The recipient's inbox is out of storage space", "RCPT TO command"),
    ("4.7.0", "421 4.7.0 Try again later", "initial server greeting"),
    ("5.1.2", "550 5.1.2 受け取りを拒否します", "RCPT TO command"),
];
const ADDRESSES: [&str; 6] = [
    "a@b.test",
    "..da.me.@docomo.ne.jp",
    "\"a b\"@c.test",
    "very.long.local.part+with=extension@sub.domain.example.org",
    "山@例え.test",
    "a'b&c@d.test",
];
const STYLES: [&str; 6] = [
    "",
    "bounce_language = en",
    "bounce_language = ja",
    "bounce_language = ja en",
    "bounce_language = ja\nbounce_japanese_charset = iso-2022-jp",
    "bounce_style = qmail",
];

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
        "compatibility_level = 3.6\nmail_name = Postfix\nmyhostname = mx.lab.test\nmyorigin = lab.test\n{main}\n"
    );
    let host = Host::of_this_machine("bounce");
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap();
    let (bouncer, warnings) = Bouncer::new(&config.main(), None);
    assert_eq!(warnings, [""; 0]);
    bouncer
}

/// What a notice has to say of a recipient.
struct Expected {
    address: String,
    status: EnhancedStatus,
    reply: String,
}

/// A notice about some generated failures.
fn notice(numbers: &mut Numbers, style: &str, delayed: bool) -> (Vec<u8>, Vec<Expected>) {
    let bouncer = bouncer(style);
    let mut envelope = Envelope::new(QueueId::new(NOW.0 - 5_000_000, 1), Timestamp(NOW.0 - 5_000_000), "s@x.test");
    let mut expected = Vec::new();
    let mut reported: Vec<Reported> = Vec::new();
    for at in 0..1 + numbers.below(3) {
        let address = ADDRESSES[(numbers.below(ADDRESSES.len()) + at) % ADDRESSES.len()];
        // Internal form.
        let internal = address.replace('"', "");
        let (status, reply, command) = REPLIES[numbers.below(REPLIES.len())];
        let reply = reply.replace('R', &internal);
        if expected.iter().any(|known: &Expected| known.address == internal) {
            continue;
        }
        let status: EnhancedStatus = status.parse().unwrap();
        let failure = Failure {
            status,
            reason: format!("host mx.r.test[192.0.2.9] said: {reply} (in reply to {command})"),
            diagnostic: format!("smtp; {reply}"),
            remote_mta: "mx.r.test".into(),
            relay: "mx.r.test[192.0.2.9]:25".into(),
        };
        let recipient = Recipient { address: internal.clone(), ..Recipient::default() };
        envelope.smtputf8 |= !internal.is_ascii() || !reply.is_ascii();
        reported.push(bouncer.report_failure(&recipient, &failure, delayed));
        envelope.recipients.push(recipient);
        expected.push(Expected { address: internal, status, reply });
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
    let plan = match delayed {
        true => bouncer.delayed(&job, &reported, &mut next_id),
        false => bouncer.failed(&job, &reported, &mut next_id),
    };
    let submission = &plan.notices[0].submission;
    assert_eq!((plan.notices.len(), submission.envelope.sender.as_str()), (1, ""));
    let mut text = submission.trace_fields.clone();
    text.extend_from_slice(&submission.content.to_bytes().unwrap());
    (text, expected)
}

#[test]
fn every_notice_says_what_caused_it() {
    let analyzer = Analyzer::embedded();
    let mut numbers = Numbers(20_261_122);
    for round in 0..300 {
        let style = STYLES[round % STYLES.len()];
        let qmail = style.contains("qmail");
        let delayed = !qmail && numbers.below(3) == 0;
        let (text, expected) = notice(&mut numbers, style, delayed);
        let shown = || String::from_utf8_lossy(&text).into_owned();
        let analysis = analyzer.analyze(&text);
        assert_eq!(analysis.kind, Kind::Bounce, "{}", shown());
        assert_eq!(analysis.findings.len(), expected.len(), "{style}\n{}", shown());
        for (finding, expected) in analysis.findings.iter().zip(&expected) {
            let plain = |address: &str| address.replace('"', "").to_lowercase();
            assert_eq!(plain(&finding.recipient), plain(&expected.address), "{style}\n{}", shown());
            let digits: String = expected.reply.split(' ').next().unwrap().to_owned();
            assert_eq!(finding.reply_code.map(|code| code.0.to_string()), Some(digits), "{style}\n{}", shown());
            assert!(finding.diagnostic.text.contains(&expected.reply[4..9]), "{style} {:?}", finding.diagnostic);
            if qmail {
                continue;
            }
            assert_eq!(finding.status, Some(expected.status), "{style}\n{}", shown());
            assert_eq!(finding.rhost, "mx.r.test", "{style}\n{}", shown());
            assert_eq!(finding.action, Some(if delayed { Action::Delayed } else { Action::Failed }));
            assert_eq!(finding.message_id, "orig@c.test");
        }
        if !qmail {
            let parsed = parse::parse(&text).unwrap_or_else(|| panic!("{}", shown()));
            assert_eq!(parsed.recipients.len(), expected.len());
            for (one, expected) in parsed.recipients.iter().zip(&expected) {
                assert_eq!(one.final_recipient().unwrap().replace('"', ""), expected.address);
            }
        }
    }
}

const READER: &str = r#"
import sys, json, email, email.policy
for line in sys.stdin:
    want = json.loads(line)
    raw = want["text"].encode("latin-1")
    m = email.message_from_bytes(raw, policy=email.policy.SMTP.clone(utf8=True))
    assert not m.defects, m.defects
    assert m.get_content_type() == "multipart/report", m.get_content_type()
    assert m.get_param("report-type") == "delivery-status"
    assert m["Auto-Submitted"] == "auto-replied"
    parts = m.get_payload()
    assert len(parts) == 3, len(parts)
    human, status, original = parts
    words = human.get_payload(decode=True).decode(human.get_content_charset())
    assert human.get_content_type() == "text/plain"
    for reply in want["replies"]:
        assert reply[:20] in " ".join(words.split()), (reply, words)
    assert status.get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    # Only the older of the two types is taken apart by the package.
    if status.get_content_type() == "message/delivery-status":
        groups = status.get_payload()
        got = [g["Final-Recipient"].split(";", 1)[1].strip().replace('"', "") for g in groups[1:]]
        assert got == want["recipients"], (got, want["recipients"])
        assert [g["Status"] for g in groups[1:]] == want["statuses"]
        assert groups[0]["Reporting-MTA"] == "dns; mx.lab.test"
    subject = str(m["Subject"])
    assert subject.startswith("Undelivered Mail Returned to Sender") or subject.startswith("Delayed Mail"), subject
print("ok")
"#;

#[test]
fn python_reads_the_structure() {
    let mut numbers = Numbers(7);
    let mut lines = Vec::new();
    for round in 0..100 {
        let style = STYLES[round % (STYLES.len() - 1)];
        let delayed = numbers.below(3) == 0;
        let (text, expected) = notice(&mut numbers, style, delayed);
        let mut line: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
        line.insert("text", text.iter().copied().map(char::from).collect::<String>().into());
        line.insert("recipients", expected.iter().map(|one| one.address.as_str()).collect::<Vec<_>>().into());
        line.insert("statuses", expected.iter().map(|one| one.status.to_string()).collect::<Vec<_>>().into());
        line.insert("replies", expected.iter().map(|one| one.reply.clone()).collect::<Vec<_>>().into());
        lines.push(serde_json::to_string(&line).unwrap());
    }
    let child = Command::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        println!("skipped: there is no python3");
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == b"ok\n");
}

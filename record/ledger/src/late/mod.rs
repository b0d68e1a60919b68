//! Reports that come back later, joined to the message they are about.
//!
//! The ladder, each rung with what it is worth: a signed token in the address the report came to; the envelope ID; our own
//! queue ID in the returned header or in the report; Message-ID with recipient; the next hop's queue ID; recipient and time
//! alone. The last is a guess and says so; where two messages could be meant it says nothing.
//!
//! But for a token that one recipient alone was given, all these are known to more than one: a report from a host that has
//! nothing to do with the message is worth less ([`Origin`]), and where it names nothing it is worth nothing.

use yamabiko_analyze::{Action, Analysis, Finding, Kind, Reason};
use yamabiko_envelope::Timestamp;

use crate::{Entry, Error, GUESS, Ledger, Origin, ReportAction, Trusted, What};

mod ladder;
mod names;

use ladder::{Found, Ladder};
use names::{header, is_notice_of};

/// A report as it came in.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    /// When.
    pub at: Timestamp,
    /// Its own queue ID; empty for a file.
    pub queue_id: &'a str,
    /// The addresses it came to: a signed token stands there.
    pub recipients: &'a [String],
    /// The message, as much of it as was read.
    pub message: &'a [u8],
    /// What the analyzer found.
    pub analysis: &'a Analysis,
    /// Who brought it, where that is known; otherwise its header tells.
    pub client: Option<Origin>,
    /// Whose reports are believed.
    pub trusted: &'a Trusted,
}

/// What a verified token in an address says.
pub struct Token {
    /// The message.
    pub queue_id: String,
    /// Whether it is about a recipient; `None` when it is about all of them.
    pub fits: Option<Fits>,
}

/// Whether something is about a recipient.
pub type Fits = Box<dyn Fn(&str) -> bool>;

/// Takes a token out of an address, if there is a good one.
pub type ReadToken<'a> = &'a dyn Fn(&str) -> Option<Token>;

/// Recipients of one report that are looked for: more than a message has.
const FINDINGS: usize = 1000;

/// The entries that follow from a report. Findings that belong to no message of the ledger are left out, and counted in the
/// second number.
pub fn join(ledger: &mut Ledger, incoming: &Incoming<'_>, token: ReadToken<'_>) -> Result<(Vec<Entry>, usize), Error> {
    let mut out = Vec::new();
    let findings = &incoming.analysis.findings;
    let mut unknown = findings.len().saturating_sub(FINDINGS);
    let named = incoming.recipients.iter().find_map(|address| token(address));
    let origin = Origin::of(header(incoming.message), incoming.client.clone());
    let mut ladder = Ladder::new(ledger, incoming, named.as_ref(), origin.as_ref());
    for finding in findings.iter().take(FINDINGS) {
        match ladder.climb(finding)? {
            Some(found) => out.extend(entry_of(incoming, finding, found)),
            None => unknown += 1,
        }
    }
    Ok((out, unknown))
}

fn entry_of(incoming: &Incoming<'_>, finding: &Finding, found: Found) -> Option<Entry> {
    let (what, action) = match &incoming.analysis.kind {
        // Filters and DMARC write in this form too; only what a person says of the mail is a complaint.
        Kind::Feedback if !is_complaint(&finding.feedback_type) => (What::Note, None),
        Kind::Feedback => (What::Complaint, None),
        Kind::AutoReply => (What::AutoReply, None),
        Kind::Bounce => match (finding.action, finding.reason) {
            (_, Reason::Feedback) => (What::Complaint, None),
            (_, Reason::Vacation) => (What::AutoReply, None),
            (Some(Action::Delivered), _) | (None, Reason::Delivered) => (What::Report, Some(ReportAction::Delivered)),
            (Some(Action::Delayed), _) => (What::Report, Some(ReportAction::Delayed)),
            (Some(Action::Relayed), _) => (What::Report, Some(ReportAction::Relayed)),
            (Some(Action::Expanded), _) => (What::Report, Some(ReportAction::Expanded)),
            (Some(Action::Failed), _) if is_the_bounce_itself(incoming, &found) => (What::Bounced, None),
            (Some(Action::Failed), _) | (None, _) => (What::Report, Some(ReportAction::Failed)),
        },
        Kind::Receipt | Kind::NotABounce(_) => return None,
    };
    // Subjects and texts of automatic replies are nobody's business here.
    let text = if what == What::AutoReply { String::new() } else { finding.diagnostic.text.clone() };
    let reason = match finding.reason {
        Reason::Undefined => "",
        reason => reason.name(),
    };
    Some(Entry {
        host: found.host,
        // For the sums: a mailing's complaints stand beside its deliveries.
        sender: found.sender,
        // A report may name others as whom it was for: that is not to be found under their names.
        original: found.original,
        relay: if finding.rhost.is_empty() { finding.lhost.clone() } else { finding.rhost.clone() },
        status: finding.status,
        reply: finding.reply_code,
        reason: match what {
            What::Complaint | What::Note if !finding.feedback_type.is_empty() => {
                known_feedback(&finding.feedback_type).to_owned()
            }
            _ => reason.to_owned(),
        },
        text,
        related: incoming.queue_id.to_owned(),
        action,
        confidence: found.confidence,
        by: found.by,
        program: finding.decoded_by.to_owned(),
        ..Entry::new(incoming.at, what, found.queue_id, found.recipient)
    })
}

/// Kinds of feedback reports (RFC 5965, RFC 6591, RFC 6650). A report may say any word; there are not to be more than these.
const FEEDBACK: [&str; 7] = ["abuse", "fraud", "opt-out", "not-spam", "virus", "auth-failure", "other"];

fn known_feedback(kind: &str) -> &'static str {
    FEEDBACK.into_iter().find(|known| *known == kind).unwrap_or("other")
}

fn is_complaint(kind: &str) -> bool {
    kind.is_empty() || matches!(known_feedback(kind), "abuse" | "fraud" | "opt-out" | "other")
}

/// The notice of the machine that had the message, which a mailbox has and the log beside it not: it never went further. What
/// comes in by SMTP is nobody's own notice.
fn is_the_bounce_itself(incoming: &Incoming<'_>, found: &Found) -> bool {
    incoming.queue_id.is_empty()
        && !found.settled
        && found.confidence > GUESS
        && is_notice_of(incoming.message, &found.queue_id)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{Field, Options, Query, Source, Writer};
    use yamabiko_analyze::Analyzer;

    const SENT: u64 = 1_790_000_000;

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        for (n, recipient) in ["gone@b.test", "other@b.test"].into_iter().enumerate() {
            let at = Timestamp::from_seconds(SENT);
            let id = format!("AB12CD34EF{n}");
            writer
                .append(&Entry {
                    sender: Some("s@a.test".into()),
                    message_id: format!("<m{n}@a.test>"),
                    envelope_id: format!("env{n}"),
                    recipients: vec![(recipient.into(), String::new())],
                    ..Entry::new(at, What::Queued, id.clone(), "")
                })
                .unwrap();
            writer
                .append(&Entry { remote_id: format!("4REMOTE{n}"), ..Entry::new(at, What::Sent, id, recipient) })
                .unwrap();
        }
        writer.commit_all().unwrap();
        let ledger = Ledger::open(dir.path());
        (dir, ledger)
    }

    fn report(fields: &str, returned: &str, recipient: &str, action: &str) -> String {
        format!(
            "From: MAILER-DAEMON@b.test\nTo: s@a.test\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"x\"\n\n--x\n\nIt failed.\n\n--x\n\
             Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.b.test\n{fields}\n\
             Final-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: 5.1.1\n\
             Diagnostic-Code: smtp; 550 5.1.1 User unknown\n\n--x\nContent-Type: text/rfc822-headers\n\n{returned}\n--x--\n"
        )
    }

    /// A report that somebody has brought an hour later.
    fn incoming<'a>(mail: &'a str, analysis: &'a Analysis) -> Incoming<'a> {
        static NOBODY: LazyLock<Trusted> = LazyLock::new(Trusted::default);
        Incoming {
            at: Timestamp::from_seconds(SENT + 3600),
            queue_id: "R",
            recipients: &[],
            message: mail.as_bytes(),
            analysis,
            client: None,
            trusted: &NOBODY,
        }
    }

    #[test]
    fn the_ladder() {
        let (_dir, mut ledger) = ledger();
        let analyzer = Analyzer::embedded();
        for (name, fields, returned, recipient, action, expected) in [
            ("envelope ID", "Original-Envelope-Id: env0\n", "Subject: x\n", "gone@b.test", "failed", Some((0, 98))),
            (
                "queue ID",
                "",
                "Received: by mail.a.test (Postfix)\n\tid AB12CD34EF1; Mon, 21 Sep 2026 00:00:00 +0000\nSubject: x\n",
                "other@b.test",
                "failed",
                Some((1, 95)),
            ),
            (
                "queue ID in a field",
                "X-Postfix-Queue-ID: AB12CD34EF0\n",
                "Subject: x\n",
                "gone@b.test",
                "failed",
                Some((0, 95)),
            ),
            ("Message-ID", "", "Message-ID: <m0@a.test>\n", "GONE@b.test", "failed", Some((0, 92))),
            ("Message-ID, forwarded", "", "Message-ID: <m0@a.test>\n", "new@c.test", "failed", Some((0, 92))),
            ("next hop", "", "Received: from a by mx.b.test id 4REMOTE1; x\n", "other@b.test", "failed", Some((1, 85))),
            ("guess", "", "Subject: x\n", "gone@b.test", "failed", Some((0, 40))),
            ("nobody", "", "Subject: x\n", "never@c.test", "failed", None),
        ] {
            let mail = report(fields, returned, recipient, action);
            let analysis = analyzer.analyze(mail.as_bytes());
            let incoming = incoming(&mail, &analysis);
            let (entries, unknown) = join(&mut ledger, &incoming, &|_| None).unwrap();
            let found = entries.first().map(|entry| (entry.queue_id.as_str(), entry.confidence));
            let expected = expected.map(|(n, confidence)| (["AB12CD34EF0", "AB12CD34EF1"][n], confidence));
            assert_eq!(found, expected, "{name}");
            assert_eq!(unknown, usize::from(expected.is_none()), "{name}");
            if let Some(entry) = entries.first() {
                assert_eq!(entry.sender.as_deref(), Some("s@a.test"), "{name}");
                assert_eq!(
                    (entry.what, entry.action, entry.reason.as_str()),
                    (What::Report, Some(ReportAction::Failed), "userunknown")
                );
            }
        }
    }

    #[test]
    fn a_token_is_the_surest_and_a_delay_is_no_failure() {
        let (_dir, mut ledger) = ledger();
        let analyzer = Analyzer::embedded();
        let mail = report("", "Subject: x\n", "unheard@of.test", "delayed");
        let analysis = analyzer.analyze(mail.as_bytes());
        let incoming = Incoming { recipients: &["s+token@a.test".to_owned()], ..incoming(&mail, &analysis) };
        let token = |address: &str| {
            address.contains("+token").then(|| Token {
                queue_id: "AB12CD34EF0".into(),
                fits: Some(Box::new(|recipient| recipient == "gone@b.test")),
            })
        };
        let (entries, _) = join(&mut ledger, &incoming, &token).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].confidence, entries[0].action), (100, Some(ReportAction::Delayed)));
        assert_eq!(entries[0].recipient, "gone@b.test");
    }

    /// Everybody who was sent the message, or read it in an archive, knows its names.
    #[test]
    fn a_report_that_anybody_can_have_written() {
        let (dir, _) = ledger();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let (at, id) = (Timestamp::from_seconds(SENT), "AB12CD34EF7");
        let to = ["victim@b.test", "attacker@evil.test"].map(|address| (address.to_owned(), String::new()));
        let queued =
            Entry { recipients: to.to_vec(), message_id: "<m7@a.test>".into(), ..Entry::new(at, What::Queued, id, "") };
        writer.append(&queued).unwrap();
        for (recipient, relay, remote_id) in [
            ("victim@b.test", "mx.b.test[192.0.2.7]:25", "4REMOTE7"),
            ("attacker@evil.test", "mx.evil.test[203.0.113.6]:25", ""),
        ] {
            let sent =
                Entry { relay: relay.into(), remote_id: remote_id.into(), ..Entry::new(at, What::Sent, id, recipient) };
            writer.append(&sent).unwrap();
        }
        writer.commit_all().unwrap();
        let mut ledger = Ledger::open(dir.path());
        let evil = || Some(Origin::new("mx.evil.test", "203.0.113.6".parse().unwrap()));
        let theirs = || Some(Origin::new("out.b.test", "198.51.100.1".parse().unwrap()));
        let token: ReadToken<'_> = &|address| {
            let fits: Option<Fits> = match address {
                "all" => None,
                "victim" => Some(Box::new(|recipient| recipient == "victim@b.test")),
                _ => return None,
            };
            Some(Token { queue_id: id.into(), fits })
        };
        for (name, to, returned, client, expected) in [
            ("queue ID", "", format!("X-Postfix-Queue-ID: {id}\n"), evil(), Some(60)),
            ("Message-ID", "", "Message-ID: <m7@a.test>\n".into(), evil(), Some(60)),
            ("next hop", "", "Received: from a by mx.b.test id 4REMOTE7; x\n".into(), evil(), Some(60)),
            ("nothing", "", "Subject: x\n".into(), evil(), None),
            ("a token of all", "all", "Subject: x\n".into(), evil(), Some(60)),
            ("the victim's token", "victim", "Subject: x\n".into(), evil(), Some(100)),
            ("queue ID", "", format!("X-Postfix-Queue-ID: {id}\n"), theirs(), Some(95)),
            ("Message-ID", "", "Message-ID: <m7@a.test>\n".into(), theirs(), Some(92)),
            ("a token of all", "all", "Subject: x\n".into(), theirs(), Some(100)),
            ("nothing", "", "Subject: x\n".into(), theirs(), Some(40)),
        ] {
            let mail = report("", &returned, "victim@b.test", "failed");
            let analysis = Analyzer::embedded().analyze(mail.as_bytes());
            let incoming =
                Incoming { recipients: &[to.to_owned()], client: client.clone(), ..incoming(&mail, &analysis) };
            let (entries, _) = join(&mut ledger, &incoming, token).unwrap();
            assert_eq!(entries.first().map(|entry| entry.confidence), expected, "{name} from {client:?}");
            assert!(entries.iter().all(|entry| entry.recipient == "victim@b.test"), "{name}");
            let far = entries.first().is_some_and(|entry| entry.by.ends_with(crate::FAR));
            assert_eq!(far, expected == Some(60), "{name}");
        }
        // Of oneself one may say what one likes, but not under the name of another.
        let mail = report("X-Postfix-Queue-ID: AB12CD34EF7\n", "Subject: x\n", "attacker@evil.test", "failed")
            .replace("Action:", "Original-Recipient: rfc822; victim@b.test\nAction:");
        let analysis = Analyzer::embedded().analyze(mail.as_bytes());
        let incoming = Incoming { client: evil(), ..incoming(&mail, &analysis) };
        let (entries, _) = join(&mut ledger, &incoming, token).unwrap();
        assert!(entries.iter().all(|entry| entry.original.is_empty()), "{entries:?}");
    }

    #[test]
    fn a_report_is_not_about_itself() {
        let (dir, _) = ledger();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let at = Timestamp::from_seconds(SENT + 3599);
        let own = "AB12CD34EF9";
        let to = vec![("s@a.test".to_owned(), String::new())];
        writer.append(&Entry { recipients: to, ..Entry::new(at, What::Queued, own, "") }).unwrap();
        writer.commit_all().unwrap();
        let mut ledger = Ledger::open(dir.path());
        let received = format!("Received: from mx.b.test\n\tby mail.a.test with ESMTP id {own}\n\tfor <s@a.test>; x\n");
        let mail = received + &report("", "Message-ID: <m0@a.test>\n", "gone@b.test", "failed");
        let analysis = Analyzer::embedded().analyze(mail.as_bytes());
        // As it comes in, and as a mailbox has it.
        for queue_id in [own, ""] {
            let incoming = Incoming { queue_id, recipients: &["s@a.test".to_owned()], ..incoming(&mail, &analysis) };
            let (entries, unknown) = join(&mut ledger, &incoming, &|_| None).unwrap();
            assert_eq!((entries.len(), unknown), (1, 0));
            assert_eq!((entries[0].queue_id.as_str(), entries[0].confidence), ("AB12CD34EF0", 92));
        }
    }

    #[test]
    fn feedback_is_not_always_a_complaint() {
        let (_dir, mut ledger) = ledger();
        for (kind, what, reason) in [
            ("abuse", What::Complaint, "abuse"),
            ("Opt-Out", What::Complaint, "opt-out"),
            ("made-up-by-somebody", What::Complaint, "other"),
            ("not-spam", What::Note, "not-spam"),
            ("auth-failure", What::Note, "auth-failure"),
        ] {
            let mail = format!(
                "From: fbl@b.test\nTo: s@a.test\nSubject: FW: hello\nMIME-Version: 1.0\nContent-Type: multipart/report; \
                 report-type=feedback-report; boundary=\"x\"\n\n--x\n\nA report.\n\n--x\nContent-Type: \
                 message/feedback-report\n\nFeedback-Type: {kind}\nUser-Agent: x/1\nVersion: 1\nOriginal-Rcpt-To: \
                 <gone@b.test>\n\n--x\nContent-Type: message/rfc822\n\nFrom: s@a.test\nTo: gone@b.test\nMessage-ID: \
                 <m0@a.test>\nSubject: hello\n\nx\n--x--\n"
            );
            let analysis = Analyzer::embedded().analyze(mail.as_bytes());
            let incoming = incoming(&mail, &analysis);
            let (entries, _) = join(&mut ledger, &incoming, &|_| None).unwrap();
            let found: Vec<_> = entries.iter().map(|entry| (entry.what, entry.reason.as_str())).collect();
            assert_eq!(found, [(what, reason)], "{kind}");
        }
    }

    #[test]
    fn the_notice_of_the_machine_that_had_it_is_the_bounce_itself() {
        let (dir, _) = ledger();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let recipients = vec![("gone@b.test".to_owned(), String::new())];
        let queued = Entry::new(Timestamp::from_seconds(SENT), What::Queued, "AB12CD34EF7", "");
        writer.append(&Entry { recipients, ..queued }).unwrap();
        writer.commit_all().unwrap();
        let mut ledger = Ledger::open(dir.path());
        let mail = report("X-Postfix-Queue-ID: AB12CD34EF7\n", "Subject: x\n", "gone@b.test", "failed");
        let analysis = Analyzer::embedded().analyze(mail.as_bytes());
        let at = Timestamp::from_seconds(SENT + 60);
        let incoming = Incoming { at, queue_id: "", ..incoming(&mail, &analysis) };
        let (entries, _) = join(&mut ledger, &incoming, &|_| None).unwrap();
        assert_eq!((entries[0].what, entries[0].action), (What::Bounced, None));
        // What is known to have failed is not said twice.
        entries.iter().for_each(|entry| assert!(writer.append(entry).unwrap()));
        writer.commit_all().unwrap();
        let (entries, _) = join(&mut ledger, &incoming, &|_| None).unwrap();
        assert_eq!((entries[0].what, entries[0].action), (What::Report, Some(ReportAction::Failed)));
    }

    #[test]
    fn names_that_differ_in_the_case_of_a_letter_are_two_messages() {
        let (dir, _) = ledger();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let at = Timestamp("4jXMkC3M0zz1".parse::<yamabiko_envelope::QueueId>().unwrap().micros());
        let mut queued = |id: &str, sender: &str, recipient: &str| {
            let recipients = vec![(recipient.to_owned(), String::new())];
            let entry = Entry { sender: Some(sender.into()), recipients, ..Entry::new(at, What::Queued, id, "") };
            writer.append(&entry).unwrap();
        };
        queued("4jXMkC3M0zz1", "s@a.test", "sent@b.test");
        // Another report of the same moment, a message of another sender, and one that differs from the report's own name.
        for (id, sender) in [("4jXMkJ3Hhjz1", ""), ("4jXMkc3M0zz1", "t@a.test"), ("4jXMkj3HHjz1", "t@a.test")] {
            queued(id, sender, "elsewhere@a.test");
        }
        writer.commit_all().unwrap();
        let mut ledger = Ledger::open(dir.path());
        let own = "4jXMkJ3HHjz1";
        let received = format!("Received: from mx.b.test\n\tby mail.a.test with ESMTP id {own}\n\tfor <s@a.test>; x\n");
        let returned = "Received: from c by mail.a.test with ESMTP id 4jXMkC3M0zz1; x\nSubject: y\n";
        for (recipient, expected) in [("sent@b.test", "sent@b.test"), ("forwarded@c.test", "sent@b.test")] {
            let mail = received.clone() + &report("", returned, recipient, "failed");
            let analysis = Analyzer::embedded().analyze(mail.as_bytes());
            // As it comes in, and as a mailbox has it.
            for queue_id in [own, ""] {
                let incoming = Incoming { at: Timestamp(at.0 + 2_000_000), queue_id, ..incoming(&mail, &analysis) };
                let (entries, _) = join(&mut ledger, &incoming, &|_| None).unwrap();
                let found: Vec<_> = entries.iter().map(|e| (e.queue_id.as_str(), e.recipient.as_str())).collect();
                assert_eq!(found, [("4jXMkC3M0zz1", expected)], "{recipient} {queue_id}");
            }
        }
        // Asked for by one of the two names, a message is that one.
        let asked = ledger.histories(&Query::new(Field::QueueId, "4jXMkc3M0zz1")).unwrap();
        assert_eq!(asked.iter().map(|history| history.queue_id.as_str()).collect::<Vec<_>>(), ["4jXMkc3M0zz1"]);
        assert_eq!(ledger.entries(Field::QueueId, "4jXMkc3M0zz1", None).unwrap().len(), 1);
    }

    /// Each is found by its own name among many, and what happened to the message as a whole is known of each.
    #[test]
    fn one_of_thousands_of_recipients() {
        let (dir, _) = ledger();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let (at, id) = (Timestamp::from_seconds(SENT), "AB12CD34EF8");
        let all: Vec<(String, String)> = (0..3000).map(|n| (format!("r{n}@b.test"), String::new())).collect();
        for list in all.chunks(crate::LISTED) {
            let queued = Entry::new(at, What::Queued, id, "");
            let message_id = "<m8@a.test>".to_owned();
            writer.append(&Entry { recipients: list.to_vec(), message_id, ..queued }).unwrap();
        }
        for (recipient, _) in all.iter().step_by(2) {
            writer.append(&Entry::new(at, What::Sent, id, recipient)).unwrap();
        }
        writer.append(&Entry::new(Timestamp::from_seconds(SENT + 60), What::Expired, id, "")).unwrap();
        writer.commit_all().unwrap();
        let mut ledger = Ledger::open(dir.path());
        for (name, fields, returned, confidence) in [
            ("queue ID", "X-Postfix-Queue-ID: AB12CD34EF8\n", "Subject: x\n", 95),
            ("Message-ID", "", "Message-ID: <m8@a.test>\n", 92),
        ] {
            for n in [0, 1, 1500, 2999] {
                let recipient = format!("r{n}@b.test");
                let mail = report(fields, returned, &recipient, "failed");
                let analysis = Analyzer::embedded().analyze(mail.as_bytes());
                // A file, so that a notice of the machine itself could be the bounce: but this message has expired.
                let incoming = Incoming { queue_id: "", ..incoming(&mail, &analysis) };
                let (entries, unknown) = join(&mut ledger, &incoming, &|_| None).unwrap();
                let found: Vec<_> = entries.iter().map(|e| (e.recipient.as_str(), e.confidence, e.what)).collect();
                assert_eq!(
                    (found.as_slice(), unknown),
                    ([(&*recipient, confidence, What::Report)].as_slice(), 0),
                    "{name}"
                );
            }
        }
        // It can be any of them.
        let mail = report("X-Postfix-Queue-ID: AB12CD34EF8\n", "Subject: x\n", "forwarded@c.test", "failed");
        let analysis = Analyzer::embedded().analyze(mail.as_bytes());
        assert_eq!(join(&mut ledger, &incoming(&mail, &analysis), &|_| None).unwrap(), (Vec::new(), 1));
    }
}

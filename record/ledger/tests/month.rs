//! A simulated month: the truth of every recipient is known, and the ledger's verdict is equal to it wherever there is
//! evidence, and claims nothing where there is none.
//!
//! Small here; `YAMABIKO_MONTH=100000 cargo test --release -p yamabiko-ledger --test month` runs it whole.

use std::sync::Arc;
use std::time::Duration;

use yamabiko_analyze::Analyzer;
use yamabiko_envelope::{
    Delays, Delivery, DeliveryStatus, Envelope, Event, Kind, Origin, QueueId, Recipient, SmtpStage, Timestamp,
};
use yamabiko_ledger::late::{Incoming, join};
use yamabiko_ledger::{
    Entry, Field, Input, Ledger, Options, Query, Recorder, Source, State, Trusted, Writer, reason_of,
};
use yamabiko_status::{EnhancedStatus, ReplyCode};

const BEGIN: u64 = 1_790_000_000;
const DAY: u64 = 86_400;
const QUIET: Duration = Duration::from_secs(7 * DAY);

/// What really happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Arrived,
    Refused,
    DeferredThenArrived,
    LostAfterDotThenTaken,
    StillUncertain,
    CameBack(Form),
    Complained,
    DelayedReport,
    /// It vanished at the other side: nobody can know.
    Vanished,
    StillWaiting,
}

/// How a late bounce looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Standard,
    StandardWithoutHeader,
    Qmail,
    Exim,
}

const TRUTHS: [Truth; 13] = [
    Truth::Arrived,
    Truth::Refused,
    Truth::DeferredThenArrived,
    Truth::LostAfterDotThenTaken,
    Truth::StillUncertain,
    Truth::CameBack(Form::Standard),
    Truth::CameBack(Form::StandardWithoutHeader),
    Truth::CameBack(Form::Qmail),
    Truth::CameBack(Form::Exim),
    Truth::Complained,
    Truth::DelayedReport,
    Truth::Vanished,
    Truth::StillWaiting,
];

struct Message {
    id: QueueId,
    at: u64,
    sender: &'static str,
    recipient: String,
    truth: Truth,
}

impl Message {
    fn new(n: u64) -> Self {
        let at = BEGIN + n * 20 * DAY / count();
        let truth = TRUTHS[(n * 7919 % 13) as usize];
        let sender = ["news@shop.example", "staff@school.example"][(n % 2) as usize];
        // Every address once a month, but for some.
        let user = if n % 10 == 3 { n / 100 } else { n };
        Self {
            id: QueueId::new(at * 1_000_000 + n, 1),
            at,
            sender,
            recipient: format!("u{user}@d{}.example", user % 300),
            truth,
        }
    }

    fn message_id(&self) -> String {
        format!("<{}@{}>", self.id, self.sender.split_once('@').map_or("", |(_, domain)| domain))
    }

    fn envelope(&self) -> Arc<Envelope> {
        let mut envelope = Envelope::new(self.id, Timestamp::from_seconds(self.at), self.sender);
        envelope.message_id = self.message_id();
        envelope.size = 1000;
        envelope.recipients = vec![Recipient { address: self.recipient.clone(), ..Recipient::default() }];
        Arc::new(envelope)
    }

    fn delivery(&self, after: u64, status: DeliveryStatus, text: &str, stage: SmtpStage, reply: Option<u16>) -> Event {
        let dsn = match status {
            DeliveryStatus::Sent => EnhancedStatus::success(0, 0),
            DeliveryStatus::Bounced => EnhancedStatus::permanent(1, 1),
            _ => EnhancedStatus::transient(4, 2),
        };
        let delivery = Delivery {
            queue_id: self.id,
            recipient: self.recipient.clone(),
            original: String::new(),
            sender: self.sender.to_owned(),
            relay: "mx.far.example[192.0.2.1]:25".to_owned(),
            connection_use: 1,
            tls: None,
            tls_status: None,
            delays: Delays::default(),
            dsn,
            status,
            reason: text.to_owned(),
            stage: Some(stage),
            reply: reply.map(ReplyCode),
            remote_mta: None,
            action: None,
        };
        Event {
            at: Timestamp::from_seconds(self.at + after),
            origin: Origin::new(&Arc::from("postfix"), "smtp"),
            kind: Kind::Delivered(Box::new(delivery)),
        }
    }

    /// What our own stages say once it is in the queue.
    fn events(&self) -> Vec<Event> {
        let taken = |after| {
            let text = format!("250 2.0.0 Ok: queued as R{}", self.id);
            self.delivery(after, DeliveryStatus::Sent, &text, SmtpStage::EndOfData, Some(250))
        };
        let lost = || {
            let text = "lost connection with mx.far.example[192.0.2.1] while sending end of data -- message may be sent more than once";
            self.delivery(1, DeliveryStatus::Deferred, text, SmtpStage::EndOfData, None)
        };
        let later = || {
            let text = "host mx.far.example[192.0.2.1] said: 451 4.3.0 try again later (in reply to RCPT TO command)";
            self.delivery(2, DeliveryStatus::Deferred, text, SmtpStage::Rcpt, Some(451))
        };
        match self.truth {
            Truth::Refused => {
                let text = "host mx.far.example[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)";
                vec![self.delivery(1, DeliveryStatus::Bounced, text, SmtpStage::Rcpt, Some(550))]
            }
            Truth::DeferredThenArrived => vec![later(), taken(4000)],
            Truth::LostAfterDotThenTaken => vec![lost(), taken(4000)],
            Truth::StillUncertain => vec![lost()],
            Truth::StillWaiting => vec![later()],
            _ => vec![taken(1)],
        }
    }

    /// What comes back from elsewhere, hours later.
    fn report(&self) -> Option<String> {
        let header = format!(
            "Message-ID: {}\nFrom: {}\nTo: {}\nSubject: hello\n",
            self.message_id(),
            self.sender,
            self.recipient
        );
        let received =
            format!("Received: by mail.shop.example (Postfix)\n\tid {}; Mon, 21 Sep 2026 00:00:00 +0000\n", self.id);
        let standard = |action: &str, returned: &str| {
            format!(
                "From: MAILER-DAEMON@far.example\nTo: {}\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
                 Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\n\nIt failed.\n\n--b\n\
                 Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.far.example\n\n\
                 Final-Recipient: rfc822; {}\nAction: {action}\nStatus: 5.1.1\n\
                 Diagnostic-Code: smtp; 550 5.1.1 User unknown\n\n--b\nContent-Type: text/rfc822-headers\n\n{returned}\n--b--\n",
                self.sender, self.recipient
            )
        };
        Some(match self.truth {
            Truth::CameBack(Form::Standard) => standard("failed", &header),
            Truth::CameBack(Form::StandardWithoutHeader) => standard("failed", &received),
            Truth::DelayedReport => standard("delayed", &header),
            Truth::CameBack(Form::Qmail) => format!(
                "From: MAILER-DAEMON@far.example\nTo: {}\nSubject: failure notice\n\nHi. This is the qmail-send program at far.example.\n\
                 I'm afraid I wasn't able to deliver your message to the following addresses.\n\
                 This is a permanent error; I've given up. Sorry it didn't work out.\n\n<{}>:\n\
                 Sorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n\
                 Return-Path: <{}>\n{header}\nhello\n",
                self.sender, self.recipient, self.sender
            ),
            Truth::CameBack(Form::Exim) => format!(
                "X-Failed-Recipients: {}\nAuto-Submitted: auto-replied\nFrom: Mail Delivery System <Mailer-Daemon@far.example>\nTo: {}\n\
                 Subject: Mail delivery failed: returning message to sender\n\n\
                 This message was created automatically by mail delivery software.\n\n\
                 A message that you sent could not be delivered to one or more of its\n\
                 recipients. This is a permanent error. The following address(es) failed:\n\n  {}\n    Unrouteable address\n\n\
                 ------ This is a copy of the message, including all the headers. ------\n\nReturn-path: <{}>\n{header}\nhello\n",
                self.recipient, self.sender, self.recipient, self.sender
            ),
            Truth::Complained => format!(
                "From: fbl@far.example\nTo: abuse@shop.example\nSubject: FW: complaint\nMIME-Version: 1.0\n\
                 Content-Type: multipart/report; report-type=feedback-report; boundary=\"b\"\n\n--b\nContent-Type: text/plain\n\n\
                 This is an abuse report.\n\n--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n\
                 User-Agent: far/1.0\nVersion: 1\nOriginal-Rcpt-To: <{}>\n\n--b\nContent-Type: message/rfc822\n\n{header}\nhello\n--b--\n",
                self.recipient
            ),
            _ => return None,
        })
    }

    /// What can be known of it at the end of the month.
    fn expected(&self) -> State {
        match self.truth {
            Truth::Refused => State::Bounced,
            Truth::StillUncertain => State::Uncertain,
            Truth::StillWaiting => State::Deferred,
            Truth::CameBack(_) => State::LateBounced,
            Truth::Complained => State::Complained,
            // Nobody heard a bad word: of what arrived, and of what vanished.
            Truth::Arrived
            | Truth::DeferredThenArrived
            | Truth::LostAfterDotThenTaken
            | Truth::DelayedReport
            | Truth::Vanished => State::PresumedDelivered,
        }
    }
}

fn count() -> u64 {
    std::env::var("YAMABIKO_MONTH").ok().and_then(|text| text.parse().ok()).unwrap_or(1300)
}

#[test]
fn the_verdict_is_the_truth_where_there_is_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { source: Source::Live, once: false };
    let mut writer = Writer::open(dir.path(), options).unwrap();
    let mut recorder = Recorder::default();
    let analyzer = Analyzer::embedded();
    let mut ledger = Ledger::open(dir.path());
    let (mut reports, mut unknown) = (0usize, 0usize);
    let mut waiting: Vec<(u64, String)> = Vec::new();
    let append = |writer: &mut Writer, mut entry: Entry| {
        if entry.reason.is_empty() {
            entry.reason = reason_of(&analyzer, &entry);
        }
        writer.append(&entry).unwrap();
    };
    let mut read = |writer: &mut Writer, at: u64, mail: &str| {
        writer.commit().unwrap();
        let analysis = analyzer.analyze(mail.as_bytes());
        let incoming = Incoming {
            at: Timestamp::from_seconds(at),
            queue_id: "",
            recipients: &[],
            message: mail.as_bytes(),
            analysis: &analysis,
            client: None,
            trusted: &Trusted::default(),
        };
        let (entries, left) = join(&mut ledger, &incoming, &|_| None).unwrap();
        assert!(!entries.is_empty(), "nothing was joined:\n{mail}\n{analysis:?}");
        reports += entries.len();
        unknown += left;
        entries.into_iter().for_each(|entry| append(writer, entry));
    };
    for n in 0..count() {
        let message = Message::new(n);
        let mut entries = Vec::new();
        let mut give = |entry| entries.push(entry);
        recorder.take(Input::Queued { envelope: &message.envelope(), hold: false }, &mut give);
        message.events().iter().for_each(|event| recorder.take(Input::Event(event), &mut give));
        recorder.end_round(&mut |entry| entries.push(entry));
        entries.into_iter().for_each(|entry| append(&mut writer, entry));
        if let Some(mail) = message.report() {
            waiting.push((message.at + 5 * 3600, mail));
        }
        while waiting.first().is_some_and(|(at, _)| *at <= message.at) {
            let (at, mail) = waiting.remove(0);
            read(&mut writer, at, &mail);
        }
        if n % 400 == 399 {
            // The engine ends and begins again.
            recorder.end_round(&mut |entry| append(&mut writer, entry));
            drop(writer);
            writer = Writer::open(dir.path(), options).unwrap();
        }
    }
    waiting.into_iter().for_each(|(at, mail)| read(&mut writer, at, &mail));
    writer.commit_all().unwrap();
    drop(writer);
    assert_eq!(unknown, 0, "of {reports} reports");
    let now = Timestamp::from_seconds(BEGIN + 30 * DAY);
    let mut ledger = Ledger::open(dir.path());
    for n in 0..count() {
        let message = Message::new(n);
        let found = ledger.histories(&Query::new(Field::QueueId, message.id.to_string())).unwrap();
        assert_eq!(found.len(), 1, "{} {:?}", message.id, message.truth);
        assert_eq!(found[0].recipient, message.recipient);
        let verdict = found[0].verdict(now, QUIET);
        assert_eq!(verdict.state, message.expected(), "{:?}: {:#?}", message.truth, found[0].entries);
        assert_eq!(verdict.maybe_twice, matches!(message.truth, Truth::LostAfterDotThenTaken | Truth::StillUncertain));
    }
}

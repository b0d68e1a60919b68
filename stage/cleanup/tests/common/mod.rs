//! A cleanup from a text configuration, and messages through it.
#![allow(dead_code)]

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use pollster::block_on;
use yamabiko_cleanup::{Accepted, Cleanup, Refusal, Verdict};
use yamabiko_config::{Config, Host, Interface};
use yamabiko_envelope::{
    Content, Envelope, Event, EventSink, Kind, QueueId, Recipient, RewriteContext, Severity, Source, Submission,
    Timestamp,
};
use yamabiko_lookup::TableSet;
use yamabiko_message::date::Zone;
use yamabiko_route::Router;

#[derive(Default)]
pub struct Seen(Mutex<Vec<String>>);

impl EventSink for Seen {
    fn emit(&self, event: Event) {
        assert_eq!(event.origin.program, "cleanup");
        let text = match event.kind {
            Kind::Identified { message_id, resent, .. } => {
                format!("{}message-id={message_id}", if resent { "resent-" } else { "" })
            }
            Kind::Text { severity: Severity::Warning, text, .. } => format!("warning: {text}"),
            Kind::ContentChecked(action) => format!("{} {} {}", action.word, action.class, action.content),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

pub struct Bench {
    cleanup: Cleanup,
    seen: Arc<Seen>,
}

pub const ARRIVAL: Timestamp = Timestamp(1_795_280_034_000_000);

impl Bench {
    /// main.cf of a host `mx.lab.test` with these lines more.
    pub fn new(lines: &str) -> Self {
        let main = format!(
            "compatibility_level = 3.6\nmyhostname = mx.lab.test\nmydestination = $myhostname, localhost, lab.test\n{lines}\n"
        );
        let interfaces = ["127.0.0.1", "192.0.2.1"].iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let host = Host {
            interfaces: interfaces.map(|address| Interface { address, prefix: 24 }).collect(),
            ..Host::default()
        };
        let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap_or_else(|e| panic!("{e}"));
        let (view, tables, seen) = (config.main(), TableSet::default(), Arc::new(Seen::default()));
        let mapper = Router::new(&view, &tables).mapper().clone();
        Self { cleanup: Cleanup::new(&view, &tables, mapper, seen.clone()), seen }
    }

    pub fn process(&self, submission: Submission) -> Verdict {
        let zone = Zone::UTC;
        let verdict = self.cleanup.process(submission, ARRIVAL, &zone);
        // The engine runs it on any thread.
        fn sendable<T: Send>(it: T) -> T {
            it
        }
        block_on(sendable(verdict))
    }

    pub fn accept(&self, submission: Submission) -> Accepted {
        match self.process(submission) {
            Verdict::Accept(accepted) => *accepted,
            other => panic!("{other:?}"),
        }
    }

    pub fn refuse(&self, submission: Submission) -> Refusal {
        match self.process(submission) {
            Verdict::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// What was said since the last question.
    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.0.lock().unwrap())
    }
}

/// A message by SMTP from a client whose headers are rewritten.
pub fn message(sender: &str, recipients: &[&str], text: impl Into<Vec<u8>>) -> Submission {
    let mut envelope = Envelope::new(QueueId::new(ARRIVAL.0, 1), ARRIVAL, sender);
    envelope.context = RewriteContext::Local;
    envelope.recipients =
        recipients.iter().map(|address| Recipient { address: (*address).into(), ..Recipient::default() }).collect();
    let mut submission = Submission::new(envelope, Content::from(text.into()), Source::Smtp);
    submission.trace_fields = b"Received: by mx\n".to_vec();
    submission
}

/// The stored message.
pub fn text(accepted: &Accepted) -> String {
    let mut out = accepted.head.to_vec();
    for part in &accepted.body {
        out.extend_from_slice(&part.to_bytes().unwrap());
    }
    assert_eq!(accepted.envelope.size, out.len() as u64);
    String::from_utf8_lossy(&out).into_owned()
}

/// Final recipients, with their original address where it differs.
pub fn recipients(accepted: &Accepted) -> Vec<String> {
    let one = |r: &Recipient| {
        let original = if r.original == r.address { String::new() } else { format!(" ({})", r.original) };
        format!("{}{original}{}", r.address, if r.notify.never { " never" } else { "" })
    };
    accepted.envelope.recipients.iter().map(one).collect()
}

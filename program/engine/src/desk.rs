//! The postmaster's desk: notices about trouble are made here where the stage that saw it cannot make them.

use std::sync::{Arc, OnceLock};

use yamabiko_deliver::{ClientTrouble, TellTrouble};
use yamabiko_envelope::{
    Content, Envelope, Notify, Recipient, Severity, Source, Submission, Timestamp, Trouble, TroubleClass,
};
use yamabiko_report::SessionNotice;

use crate::accept::Acceptance;

/// Made before the rest of the engine is, so the rest is put in later.
#[derive(Default)]
pub struct Desk {
    acceptance: OnceLock<Acceptance>,
}

impl Desk {
    /// Without the rest of the engine as yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The rest of the engine.
    pub fn complete(&self, acceptance: Acceptance) {
        let _ = self.acceptance.set(acceptance);
    }

    /// For the client: who hears of servers that do not understand us.
    pub fn ear(self: &Arc<Self>) -> TellTrouble {
        let desk = Arc::downgrade(self);
        Arc::new(move |trouble| {
            if let Some(desk) = desk.upgrade() {
                desk.tell_of_server(trouble);
            }
        })
    }

    /// `notify_classes = protocol` of the client.
    fn tell_of_server(&self, trouble: ClientTrouble) {
        let Some(engine) = self.acceptance.get().cloned() else { return };
        let (id, now) = (engine.next_id(), Timestamp::now());
        let generation = engine.current().get();
        let main = generation.config.main();
        let (host, name) = (&generation.myhostname, &generation.mail_name);
        let (date, to) = (engine.date(now), main.text("error_notice_recipient"));
        let text = SessionNotice {
            date: &date,
            postmaster: &to,
            subject: &format!("{name} {} client: errors from {}", trouble.protocol, trouble.peer),
            opening: &format!("Unexpected response from {}.", trouble.peer),
            transcript: &trouble.transcript,
            reason: None,
            of_server: false,
        }
        .compose();
        let sender = generation.bounce.double_bounce_address();
        let mut submission = own_notice(Envelope::new(id, now, sender), &to, text);
        submission.trace_fields = format!("Received: by {host} ({name})\n\tid {id}; {date}\n").into_bytes();
        submission.trouble = Some(Box::new(Trouble {
            classes: vec![TroubleClass::Protocol],
            reason: trouble.reply,
            destination: trouble.destination,
            sender: trouble.sender,
            client: trouble.peer,
        }));
        drop(generation);
        tokio::spawn(async move {
            if let Err(refusal) = engine.accept(submission, None).await {
                let text = format!("notice could not be queued: {}", refusal.text);
                engine.current().say(Severity::Warning, None, &text);
            }
        });
    }
}

/// A notice of ours for one recipient, about which nobody is told anything.
pub fn own_notice(mut envelope: Envelope, to: &str, text: Vec<u8>) -> Submission {
    envelope.recipients.push(Recipient {
        address: to.to_owned(),
        original: to.to_owned(),
        notify: Notify { never: true, ..Notify::default() },
        ..Recipient::default()
    });
    Submission::new(envelope, Content::from(text), Source::Notice)
}

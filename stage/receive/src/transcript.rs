//! What was said in a session, for the notice to the postmaster that `notify_classes` asks for.

use yamabiko_envelope::{Content, Envelope, QueueId, Recipient, Source, Submission, Timestamp, Trouble};
use yamabiko_report::SessionNotice;

use crate::peer::Peer;
use crate::settings::{ErrorClasses, Settings};

/// Bytes kept at most.
const MAX_BYTES: usize = 64 * 1024;

/// Room that is made at once.
const USUAL: usize = 512;

/// The lines of both sides since the last reset.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    text: String,
    lines: usize,
    wanted: bool,
}

impl Transcript {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }
    pub(crate) fn out(&mut self, line: &str) {
        self.add("Out: ", line);
    }
    pub(crate) fn heard(&mut self, line: &str) {
        self.add("In:  ", line);
    }
    fn add(&mut self, who: &str, line: &str) {
        if self.wanted && self.text.len() < MAX_BYTES {
            // Greeting and HELO; and later in steps that are worth it.
            if self.text.capacity() - self.text.len() < who.len() + line.len() + 1 {
                self.text.reserve(USUAL);
            }
            self.text.push_str(who);
            self.text.push_str(line);
            self.text.push('\n');
            self.lines += 1;
        }
    }
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }
    /// What was said; begins again.
    pub(crate) fn take(&mut self) -> String {
        self.lines = 0;
        std::mem::take(&mut self.text)
    }
}

/// What the notice is about: the last refusal in a transcript. Trouble of our own (`4.3.x`) comes before what the client did
/// wrong afterwards.
fn reason(transcript: &str, seen: ErrorClasses) -> String {
    let refusals = || {
        let said = transcript.lines().rev().filter_map(|line| line.strip_prefix("Out: "));
        said.filter(|line| line.starts_with(['4', '5']))
    };
    let ours = [ErrorClasses::RESOURCE, ErrorClasses::SOFTWARE, ErrorClasses::DATA];
    let own = ours
        .into_iter()
        .any(|class| seen.meets(class))
        .then(|| refusals().find(|line| line.get(3..).is_some_and(|rest| rest.starts_with(" 4.3."))));
    own.flatten().or_else(|| refusals().next()).unwrap_or_default().to_owned()
}

/// The notice about what was `seen`, in a session from which it is known who the sender is.
pub(crate) fn notice(
    settings: &Settings,
    peer: &Peer,
    transcript: &str,
    ended: Option<&str>,
    seen: ErrorClasses,
    (sender, queue_id, now): (&str, QueueId, Timestamp),
) -> Submission {
    let date = yamabiko_message::date::rfc5322(now.seconds(), &settings.zone);
    let (host, name) = (&settings.myhostname, &settings.mail_name);
    let text = SessionNotice {
        date: &date,
        postmaster: &settings.error_notice_recipient,
        subject: &format!("{name} SMTP server: errors from {}", peer.name_and_address),
        opening: "",
        transcript,
        reason: ended,
        of_server: true,
    }
    .compose();
    // As Postfix does it: the class counts although it may not be one that was asked for.
    let bounced = seen.meets(ErrorClasses::BOUNCE);
    let to = if bounced { &settings.bounce_notice_recipient } else { &settings.error_notice_recipient };
    let mut envelope = Envelope::new(queue_id, now, settings.double_bounce_sender.clone());
    envelope.recipients.push(Recipient {
        address: to.clone(),
        original: to.clone(),
        notify: yamabiko_envelope::Notify { never: true, ..Default::default() },
        ..Recipient::default()
    });
    let mut submission = Submission::new(envelope, Content::from(text), Source::Notice);
    submission.trace_fields = format!("Received: by {host} ({name})\n\tid {queue_id}; {date}\n").into_bytes();
    submission.trouble = Some(Box::new(Trouble {
        classes: seen.and(settings.notify_classes).classes(),
        reason: reason(transcript, seen),
        destination: String::new(),
        sender: sender.to_owned(),
        client: peer.name_and_address.to_string(),
    }));
    submission
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_about() {
        let said = "In:  MAIL FROM:<a@b>\nOut: 452 4.3.1 Insufficient system storage\nIn:  RCPT TO:<c@d>\nOut: 503 5.5.1 Error: need MAIL command\nOut: 221 2.0.0 Bye\n";
        for (seen, expected) in [
            (ErrorClasses::RESOURCE, "452 4.3.1 Insufficient system storage"),
            (ErrorClasses::PROTOCOL, "503 5.5.1 Error: need MAIL command"),
        ] {
            assert_eq!(reason(said, seen), expected);
        }
        assert_eq!(reason("Out: 503 5.5.1 x\n", ErrorClasses::RESOURCE), "503 5.5.1 x");
        assert_eq!(reason("In:  500 x\nOut: 22\n", ErrorClasses::RESOURCE), "");
    }

    #[test]
    fn a_transcript_stays_bounded() {
        let mut transcript = Transcript::new(true);
        for _ in 0..100_000 {
            transcript.heard("NOOP");
        }
        assert!(transcript.take().len() < MAX_BYTES + 100);
    }
}

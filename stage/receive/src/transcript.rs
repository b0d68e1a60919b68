//! What was said in a session, for the notice to the postmaster that `notify_classes` asks for.

use yamabiko_envelope::{Content, Envelope, QueueId, Recipient, Source, Submission, Timestamp};

use crate::peer::Peer;
use crate::settings::Settings;

/// Bytes kept at most.
const MAX_BYTES: usize = 64 * 1024;
/// Longer lines are folded in the notice.
const FOLD_AT: usize = 79;

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

/// A line in pieces of at most [`FOLD_AT`] columns, cut at blanks where there are any; later pieces are indented.
fn fold(line: &str, out: &mut String) {
    let mut rest = line;
    let mut indent = " ";
    loop {
        let room = FOLD_AT - indent.len();
        out.push_str(indent);
        if rest.len() <= room {
            out.push_str(rest);
            out.push('\n');
            return;
        }
        let hard = (0..=room).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        // A word may end just where the room does.
        let within = if rest[hard..].starts_with(' ') { &rest[..=hard] } else { &rest[..hard] };
        let (now, later) = match within.rfind(' ').filter(|at| *at > "Out: ".len()) {
            Some(blank) => (&rest[..blank], &rest[blank + 1..]),
            None => rest.split_at(hard),
        };
        out.push_str(now);
        out.push('\n');
        rest = later;
        indent = "     ";
    }
}

/// The notice.
pub(crate) fn notice(
    settings: &Settings,
    peer: &Peer,
    transcript: &str,
    reason: Option<&str>,
    queue_id: QueueId,
    now: Timestamp,
) -> Submission {
    let date = yamabiko_message::date::rfc5322(now.seconds(), &settings.zone);
    let (host, name) = (&settings.myhostname, &settings.mail_name);
    let to = &settings.error_notice_recipient;
    let mut text = format!(
        "Date: {date}\nFrom: Mail Delivery System <MAILER-DAEMON>\nTo: Postmaster <{to}>\n\
         Subject: {name} SMTP server: errors from {}\n\nTranscript of session follows.\n\n",
        peer.name_and_address
    );
    for line in transcript.lines() {
        let printable: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        fold(&printable, &mut text);
    }
    text.push('\n');
    if let Some(reason) = reason {
        text.push_str(&format!("Session aborted, reason: {reason}\n"));
    }
    text.push_str("\nFor other details, see the local mail logfile\n");
    let mut envelope = Envelope::new(queue_id, now, settings.double_bounce_sender.clone());
    envelope.recipients.push(Recipient {
        address: to.clone(),
        original: to.clone(),
        notify: yamabiko_envelope::Notify { never: true, ..Default::default() },
        ..Recipient::default()
    });
    let mut submission = Submission::new(envelope, Content::from(text.into_bytes()), Source::Notice);
    submission.trace_fields = format!("Received: by {host} ({name})\n\tid {queue_id}; {date}\n").into_bytes();
    submission
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_at_blanks() {
        let mut out = String::new();
        fold(
            "Out: 550 5.1.1 <dunno@lab.test>: Recipient address rejected: User unknown in local recipient table",
            &mut out,
        );
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("User unknown in") && lines[1] == "     local recipient table");
        let mut out = String::new();
        fold(&"x".repeat(300), &mut out);
        assert!(out.lines().all(|l| l.len() <= FOLD_AT) && out.bytes().filter(|b| *b == b'x').count() == 300);
        let mut out = String::new();
        fold(&"山".repeat(100), &mut out);
        assert_eq!(out.chars().filter(|c| *c == '山').count(), 100);
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

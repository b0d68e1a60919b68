//! How a session ends, and what is written about it then: the last events, notices to the postmaster.

use yamabiko_envelope::{CommandCount, Kind, SessionEnd, Submission, Timestamp};

use super::verb::{VERBS, Verb};
use super::{Phase, Session};
use crate::settings::BareNewline;

impl Session {
    /// The client sent nothing for too long.
    pub fn timed_out(&mut self) {
        self.end = Some(SessionEnd::Timeout);
        self.reply_own("421 4.4.2", "Error: timeout exceeded");
        self.phase = Phase::Closed;
    }

    /// The connection broke.
    pub fn lost(&mut self) {
        self.end = Some(SessionEnd::Lost);
        self.phase = Phase::Closed;
    }

    /// The client itself has ended the conversation: it has nothing more to say.
    pub fn said_goodbye(&self) -> bool {
        self.hang_up && self.verb == Verb::Quit
    }

    /// The server stops.
    pub fn shut_down(&mut self) {
        if !matches!(self.phase, Phase::Closed) {
            self.reply_own("421 4.3.2", "Service shutting down");
            self.phase = Phase::Closed;
        }
    }

    /// Notices to the postmaster to be submitted, as `notify_classes` asks for them; the client need not wait.
    pub fn take_notices(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.notices)
    }

    /// The session is over, output written or not. Emits its last events and returns the last notices.
    pub fn finish(mut self, now: Timestamp) -> Vec<Submission> {
        self.now = now;
        if let Some(how) = self.end {
            let in_content = matches!(self.stage, "DATA content" | "BDAT content");
            let bytes = self.incoming.as_ref().map_or(0, |incoming| incoming.wire_bytes);
            let after = match self.stage {
                "DATA content" => format!("DATA ({bytes} bytes)"),
                "BDAT content" => format!("BDAT ({bytes} bytes)"),
                stage => stage.to_owned(),
            };
            if in_content || self.stage != "END-OF-MESSAGE" || how != SessionEnd::Lost {
                let client = self.client.clone();
                let queue_id = self.queue_id();
                self.emit(Kind::SessionEnded { how, after, client, queue_id });
            }
        }
        let counts = VERBS
            .iter()
            .zip(self.counts)
            .filter(|(_, (total, _))| *total > 0)
            .map(|((_, _, name), (total, ok))| CommandCount { name, total, ok })
            .collect();
        let notes = if self.bare_newline_seen && self.bare_newline_policy() == BareNewline::Note {
            vec!["bare_lf"]
        } else {
            vec![]
        };
        let client = self.client.clone();
        let reason = match self.end {
            None => None,
            Some(SessionEnd::Lost) => Some("lost connection"),
            Some(SessionEnd::Timeout) => Some("timeout"),
            Some(SessionEnd::TooManyErrors) => Some("too many errors"),
        };
        self.end_transcript(reason);
        self.emit(Kind::Disconnected { client, counts, notes });
        self.notices
    }

    /// The transcript starts again. A notice is written if there was trouble of a kind that `notify_classes` names.
    pub(super) fn end_transcript(&mut self, reason: Option<&str>) {
        let wanted = self.seen.meets(self.settings.notify_classes);
        let transcript = self.transcript.take();
        if wanted && !transcript.is_empty() {
            let seen = std::mem::take(&mut self.seen);
            let queue_id = self.around.admission.next_queue_id();
            let sender = self.facts().sender.unwrap_or_default().to_owned();
            let about = (sender.as_str(), queue_id, self.now);
            self.notices.push(crate::transcript::notice(&self.settings, &self.peer, &transcript, reason, seen, about));
        }
    }

    /// Long transcripts start again where a new transaction does.
    pub(super) fn trim_transcript(&mut self) {
        if self.transcript.lines() > self.settings.history_threshold {
            self.end_transcript(None);
        }
    }
}

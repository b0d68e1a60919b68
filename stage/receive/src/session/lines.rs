//! Command lines before anybody looks at the command: their ends, their characters, whether they come in turn.

use futures_util::FutureExt;

use super::verb::Verb;
use super::{Session, escaped};
use crate::settings::{BareNewline, ErrorClasses};

impl Session {
    /// What is done about bare newlines from this client.
    pub(super) fn bare_newline_policy(&self) -> BareNewline {
        if self.standing.bare_newline_excluded || self.user.is_some() {
            BareNewline::Accept
        } else {
            self.settings.bare_newline
        }
    }

    /// A line without its LF; `ahead` is what the client has already sent of what follows.
    pub(super) fn line(&mut self, line: &[u8], ahead: &[u8]) {
        let end = line.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
        if end == line.len() {
            self.bare_newline_seen = true;
            if self.bare_newline_policy() == BareNewline::Reject {
                let code = self.settings.bare_newline_reply();
                self.seen.add(ErrorClasses::PROTOCOL);
                self.reply_own(&format!("{code} 5.5.2"), "Error: bare <LF> received");
                self.hang_up = true;
                return;
            }
        }
        // `end` is at most the length of the line.
        let Ok(line) = std::str::from_utf8(&line[..end]) else {
            self.heard(&String::from_utf8_lossy(&line[..end]));
            return self.protocol_error("500 5.5.2 Error: bad UTF-8 syntax");
        };
        self.heard(line);
        if let Some(refusal) = self.refusal.take() {
            return self.refuse_session(&refusal);
        }
        if line.contains('\0') {
            return self.protocol_error("500 5.5.2 Error: bad syntax");
        }
        // A table that does not answer at once is not waited for.
        let filter = &self.settings.command_filter;
        match (!filter.is_empty()).then(|| filter.find(line).now_or_never()?.ok()?).flatten() {
            Some(instead) => self.command(&instead, ahead),
            None => self.command(line, ahead),
        }
    }

    /// A line of a login: nobody is to read it in a notice or in the log.
    pub(super) fn heard_secret(&mut self) {
        self.after_login = true;
        self.heard_line("(response)");
    }

    pub(super) fn heard(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let verb = Verb::of(words.next().unwrap_or_default());
        // Clients send the rest of a login although it was refused, those that do not wait for answers.
        if self.after_login && verb == Verb::Unknown && words.next().is_none() {
            return self.heard_secret();
        }
        self.after_login = verb == Verb::Auth;
        let mut words = line.split_ascii_whitespace();
        if let (Some(verb), Some(mechanism), Some(_)) = (words.next(), words.next(), words.next())
            && verb.eq_ignore_ascii_case("AUTH")
        {
            let shown = format!("{verb} {mechanism} (response)");
            return self.heard_line(&shown);
        }
        self.heard_line(line);
    }

    pub(super) fn heard_line(&mut self, line: &str) {
        self.transcript.heard(line);
        if self.verbose() {
            self.info(format!("< {}: {line}", self.peer.name_and_address));
        }
    }

    /// A client that sends on where it had to wait for the answer.
    pub(super) fn talks_out_of_turn(&mut self, verb: Verb, ahead: &[u8]) -> bool {
        let out_of_turn = !ahead.is_empty()
            && self.user.is_none()
            && (self.protocol == "SMTP" || verb.is_last_of_group())
            && !self.bad_pipelining;
        if !out_of_turn {
            return false;
        }
        self.bad_pipelining = true;
        self.info(format!(
            "improper command pipelining after {} from {}: {}",
            verb.upper(),
            self.peer.name_and_address,
            escaped(ahead)
        ));
        self.settings.forbid_unauth_pipelining
    }
}

//! What a session says: replies with their footers and pauses, and events.

use std::sync::Arc;

use futures_util::FutureExt;
use yamabiko_envelope::{Decision, DecisionStep, Event, Kind, QueueId, Severity};
use yamabiko_smtp::reply;

use super::Session;
use crate::restrict::Record;
use crate::settings::ErrorClasses;

impl Session {
    pub(super) fn emit(&self, kind: Kind) {
        self.around.events.emit(Event { at: self.now, origin: self.origin.clone(), kind });
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.emit(Kind::Text { severity: Severity::Warning, queue_id: None, text: text.into() });
    }

    pub(super) fn info(&self, text: impl Into<String>) {
        self.emit(Kind::Text { severity: Severity::Info, queue_id: None, text: text.into() });
    }

    pub(super) fn queue_id(&self) -> Option<QueueId> {
        self.transaction.as_ref().and_then(|t| t.queue_id)
    }

    pub(super) fn verbose(&self) -> bool {
        self.settings.verbose || self.standing.verbose
    }

    /// Emits what checks have noted.
    pub(super) fn flush_records(&mut self) {
        for record in std::mem::take(&mut self.checks.records) {
            match record {
                Record::Warning(text) => self.warn(text),
                Record::Info(text) => self.info(text),
                Record::Decided(word, text) => self.decided(word, text),
            }
        }
    }

    /// How the last check was decided, in words.
    pub(super) fn steps(&self) -> Vec<DecisionStep> {
        let steps = self.checks.steps.iter().map(|step| DecisionStep {
            parameter: Arc::clone(&step.parameter),
            element: Arc::clone(&step.element),
            place: step.place.as_ref().map(ToString::to_string).unwrap_or_default(),
            matched: step.matched.as_ref().map(ToString::to_string).unwrap_or_default(),
            verdict: step.verdict.word(),
        });
        steps.collect()
    }

    pub(super) fn decided(&self, word: &'static str, text: String) {
        let facts = self.facts();
        let at_data = matches!(self.stage, "DATA" | "BDAT");
        let recipient = facts.recipient.or_else(|| self.only_recipient().filter(|_| at_data));
        let decision = Decision {
            queue_id: self.queue_id(),
            word,
            stage: self.stage.into(),
            client: self.client.clone(),
            text,
            sender: facts.sender.map(str::to_owned),
            recipient: recipient.map(str::to_owned),
            protocol: self.protocol.to_owned(),
            helo: facts.helo.map(str::to_owned),
            steps: if self.settings.log_steps && word.starts_with("reject") { self.steps() } else { Vec::new() },
        };
        self.emit(Kind::Decided(Box::new(decision)));
    }

    /// Says one line. Refusals get the footer, `soft_bounce` and the pause of a client that makes errors.
    pub(super) fn reply(&mut self, text: &str) {
        if self.errors >= self.settings.soft_error_limit && !self.settings.error_sleep.is_zero() {
            let pause = self.pause.get_or_insert_default();
            *pause = pause.saturating_add(self.settings.error_sleep);
        }
        let refusal = matches!(text.as_bytes().first(), Some(b'4' | b'5'));
        if refusal {
            let mut text = self.filtered_reply(text);
            if self.settings.soft_bounce {
                crate::restrict::soften(&mut text);
            }
            match self.footer(&text) {
                None => self.say(&text),
                Some(footer) => {
                    for line in crate::footer::append(&text, &footer, &self.settings.footer, &self.footer_facts()) {
                        self.say(&line);
                    }
                }
            }
            if text.starts_with("421") || text.starts_with("521") {
                self.hang_up = true;
            }
        } else {
            self.say(text);
        }
    }

    /// A refusal as `smtpd_reject_filter_maps` has it. A table that does not answer at once is not waited for, and what is
    /// no refusal of the same kind is not said.
    fn filtered_reply(&self, text: &str) -> String {
        let maps = &self.settings.reject_filter_maps;
        let found = (!maps.is_empty()).then(|| maps.find(text).now_or_never()?.ok()?).flatten();
        match found {
            None => text.to_owned(),
            Some(new) if matches!(new.as_bytes(), [b'4' | b'5', b'0'..=b'5', b'0'..=b'9', b' ', ..]) => new,
            Some(new) => {
                self.warn(format!("{}: \"{new:.100}\" is no reply that refuses", maps.title()));
                text.to_owned()
            }
        }
    }

    /// The footer for a refusal. A table that does not answer at once is not waited for.
    pub(super) fn footer(&self, reply: &str) -> Option<String> {
        let maps = &self.settings.reject_footer_maps;
        let special = (!maps.is_empty()).then(|| maps.find(reply).now_or_never()?.ok()?).flatten();
        special.or_else(|| (!self.settings.reject_footer.is_empty()).then(|| self.settings.reject_footer.clone()))
    }

    pub(super) fn footer_facts(&self) -> crate::footer::FooterFacts<'_> {
        let facts = self.facts();
        crate::footer::FooterFacts {
            client: self.peer.name_and_address.as_ref(),
            client_name: self.peer.name.as_ref(),
            client_address: self.peer.address_text(),
            client_port: self.peer.port,
            helo_name: facts.helo.unwrap_or_default(),
            sender: facts.sender.unwrap_or_default(),
            recipient: facts.recipient.unwrap_or_default(),
            now: self.now,
        }
    }

    /// One line as it is.
    pub(super) fn say(&mut self, line: &str) {
        reply::put(line, &mut self.output);
        self.transcript.out(line);
        if self.verbose() {
            self.info(format!("> {}: {line}", self.peer.name_and_address));
        }
    }

    /// A reply with our name in it: `421 4.7.0 HOST Error: ...`.
    pub(super) fn reply_own(&mut self, code: &str, text: &str) {
        let line = format!("{code} {} {text}", self.settings.myhostname);
        self.reply(&line);
    }

    /// A reply to a command that failed.
    pub(super) fn reply_error(&mut self, text: &str) {
        self.reply(text);
        self.errors += 1;
    }

    /// The client broke the protocol.
    pub(super) fn protocol_error(&mut self, text: &str) {
        self.seen.add(ErrorClasses::PROTOCOL);
        self.reply_error(text);
    }

    /// The client broke a rule of ours.
    pub(super) fn policy_error(&mut self, text: &str) {
        self.seen.add(ErrorClasses::POLICY);
        self.reply_error(text);
    }

    /// A command went well.
    pub(super) fn succeed(&mut self) {
        // The array has an entry per verb.
        self.counts[self.verb as usize].1 += 1;
    }

    pub(super) fn reply_ok(&mut self, text: &str) {
        self.reply(text);
        self.succeed();
    }
}

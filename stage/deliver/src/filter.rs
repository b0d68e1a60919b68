//! `smtp_header_checks`, `smtp_mime_header_checks`, `smtp_nested_header_checks` and `smtp_body_checks`: what is changed in
//! a message as it leaves. The message in the queue stays as it is.

use std::io;

use yamabiko_checks::{Action, Checks, Edits, Match, What, joined};
use yamabiko_envelope::{Content, Event, Events, Kind, Origin, QueueId, Severity, Timestamp};
use yamabiko_lookup::LookupError;
use yamabiko_message::Fields;
use yamabiko_message::mime::HeaderClass;

use crate::content::{Source, Text};

/// Why a message could not be checked. It waits then.
#[derive(Debug)]
pub(crate) enum Trouble {
    Table(LookupError),
    Content(io::Error),
}

/// The checks of one client, and where it tells what it did.
pub(crate) struct Filter {
    pub(crate) checks: Checks,
}

/// What happens to a header field or a line.
enum Fate {
    Keep,
    Drop,
    Replace(Vec<u8>),
    Prepend(Vec<u8>),
}

/// The ear of the log, for one message.
pub(crate) struct Log<'a> {
    pub(crate) events: &'a Events,
    pub(crate) origin: &'a Origin,
    pub(crate) queue_id: QueueId,
}

impl Log<'_> {
    fn say(&self, severity: Severity, queue_id: Option<QueueId>, text: String) {
        let kind = Kind::Text { severity, queue_id, text };
        self.events.emit(Event { at: Timestamp::now(), origin: self.origin.clone(), kind });
    }

    /// `replace: header Subject: x: Subject: y`
    fn action(&self, word: &str, place: &str, content: &[u8], text: &[u8]) {
        let shown = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
        let mut line = format!("{word}: {place} {}", shown(content));
        if !text.is_empty() {
            line.push_str(": ");
            line.push_str(&String::from_utf8_lossy(text));
        }
        self.say(Severity::Info, Some(self.queue_id), line);
    }
}

impl Filter {
    /// The message as it is to be sent; `None`: as it is stored.
    pub(crate) async fn apply(&self, content: &Content, log: &Log<'_>) -> Result<Option<Vec<Content>>, Trouble> {
        let start = Text::plain(Source::Stored(content)).beginning().map_err(Trouble::Content)?;
        let fields = Fields::of(&start);
        let mut edits = Edits::new(content.clone());
        let mut changed = false;
        let mut change = |what: What, start: u64, end: u64, ended: bool, text: &[u8], found: Option<Match<'_>>| {
            let Some(found) = found else { return };
            let place = if what.is_header() { "header" } else { "body" };
            let line = |mut text: Vec<u8>, ended: bool| {
                if ended {
                    text.push(b'\n');
                }
                text
            };
            match act(found, place, text, log) {
                Fate::Keep => return,
                Fate::Drop => edits.replace(start, end, b""),
                Fate::Replace(new) => edits.replace(start, end, &line(new, ended)),
                Fate::Prepend(new) => edits.replace(start, start, &line(new, true)),
            }
            changed = true;
        };
        let mut at = 0;
        for field in &fields {
            let (start, raw) = (at, field.raw());
            at += raw.len() as u64 + 1;
            let what = What::Header { class: HeaderClass::Primary, name: field.known() };
            let found = self.checks.header(HeaderClass::Primary, field.known(), raw).await.map_err(Trouble::Table)?;
            change(what, start, at.min(content.len()), at <= content.len(), raw, found);
        }
        if !self.checks.ends_with_headers() {
            let body_at = fields.body_at() as u64;
            let mut walk = self.checks.walk(fields.bytes(), content.slice(body_at, content.len()));
            while let Some(piece) = walk.next().map_err(Trouble::Content)? {
                let found = match piece.what {
                    What::Header { class, name } => self.checks.header(class, name, piece.text).await,
                    What::Line { offset } => self.checks.line(piece.text, offset).await,
                };
                let (start, end) = (body_at + piece.start, body_at + piece.end);
                change(piece.what, start, end, piece.ended, piece.text, found.map_err(Trouble::Table)?);
            }
        }
        Ok(changed.then(|| joined(edits.finish())))
    }
}

/// Only what changes or reports makes sense here; the rest is said to be unsupported, as Postfix does.
fn act(found: Match<'_>, place: &str, text: &[u8], log: &Log<'_>) -> Fate {
    let parameter = found.parameter;
    match found.action {
        Ok(Action::Dunno) => Fate::Keep,
        Ok(Action::Ignore) => Fate::Drop,
        Ok(Action::Warn(why)) => {
            log.action("warning", place, text, &why);
            Fate::Keep
        }
        Ok(Action::Info(why)) => {
            log.action("info", place, text, &why);
            Fate::Keep
        }
        Ok(Action::Strip(why)) => {
            log.action("strip", place, text, &why);
            Fate::Drop
        }
        Ok(Action::Replace(new)) => {
            log.action("replace", place, text, &new);
            Fate::Replace(new)
        }
        Ok(Action::Prepend(new)) => {
            log.action("prepend", place, text, &new);
            Fate::Prepend(new)
        }
        Ok(_) | Err(yamabiko_checks::Fault::Unknown(_)) => {
            let value = String::from_utf8_lossy(&found.value);
            log.say(Severity::Warning, None, format!("unsupported command in {parameter} map: {value}"));
            Fate::Keep
        }
        Err(fault) => {
            log.say(Severity::Warning, None, fault.text(parameter));
            Fate::Keep
        }
    }
}

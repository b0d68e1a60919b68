//! Checks of content: what `header_checks` and its kin say about a message, and what comes of it (header_checks(5)).

use yamabiko_checks::{Action, Edits, Match, What, joined};
use yamabiko_envelope::{Client, Content, ContentAction, Envelope, Kind, Recipient, Severity, Source};
use yamabiko_lookup::LookupError;
use yamabiko_message::FieldName;
use yamabiko_message::mime::{Defect, HeaderClass};
use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::header::NewHead;
use crate::{Cleanup, Job, Refusal};

/// Why a message goes no further.
#[derive(Debug)]
pub(crate) enum Stop {
    Refuse(Refusal),
    Discard,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// What happens to a header field or a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    Drop,
    Replace(Vec<u8>),
    /// This is put before it.
    Prepend(Vec<u8>),
}

/// The checks of one message, and what they decided so far.
pub(crate) struct Checking<'a> {
    pub(crate) cleanup: &'a Cleanup,
    pub(crate) job: &'a Job<'a>,
    pub(crate) envelope: &'a Envelope,
    recipients: &'a [Recipient],
    /// Nothing has ended the checks yet.
    active: bool,
    pub(crate) decided: Decided,
}

/// What is to be done with a message beyond its content.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) hold: bool,
    pub(crate) redirect: Option<String>,
    pub(crate) bcc: Vec<String>,
    pub(crate) filter: Option<String>,
    /// Mail handed in on this machine is read to its end, so that it can be returned.
    pub(crate) refusal: Option<Refusal>,
}

impl<'a> Checking<'a> {
    pub(crate) fn new(
        cleanup: &'a Cleanup,
        job: &'a Job<'a>,
        envelope: &'a Envelope,
        recipients: &'a [Recipient],
        hold: bool,
    ) -> Self {
        let decided = Decided { hold, ..Decided::default() };
        let active = job.checks && !cleanup.settings.checks.is_empty();
        Self { cleanup, job, envelope, recipients, active, decided }
    }

    /// What is said about a header field.
    pub(crate) async fn header(
        &mut self,
        class: HeaderClass,
        name: Option<FieldName>,
        field: &[u8],
    ) -> Result<Fate, Stop> {
        if !self.active {
            return Ok(Fate::Keep);
        }
        let found = self.cleanup.settings.checks.header(class, name, field).await;
        self.act(found, "header", field)
    }

    async fn line(&mut self, line: &[u8], offset: u64) -> Result<Fate, Stop> {
        if !self.active {
            return Ok(Fate::Keep);
        }
        let found = self.cleanup.settings.checks.line(line, offset).await;
        self.act(found, "body", line)
    }

    fn act(
        &mut self,
        found: Result<Option<Match<'_>>, LookupError>,
        place: &'static str,
        text: &[u8],
    ) -> Result<Fate, Stop> {
        let found = match found {
            Ok(None) => return Ok(Fate::Keep),
            Ok(Some(found)) => found,
            Err(error) => {
                let text = format!("{} map lookup problem -- message not accepted, try again later", error.table);
                self.cleanup.warn(self.job, text);
                return Err(Refusal::trouble().into());
            }
        };
        let action = match found.action {
            Ok(action) => action,
            Err(fault) => {
                let text = fault.text(found.parameter);
                let kind = Kind::Text { severity: Severity::Warning, queue_id: None, text };
                self.cleanup.emit(self.job, kind);
                return Ok(Fate::Keep);
            }
        };
        let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let log = |word: &'static str, why: &str| self.log(word, place, text, why);
        match action {
            Action::Dunno => {}
            Action::Ignore => return Ok(Fate::Drop),
            Action::Strip(why) => {
                log("strip", &shown(&why));
                return Ok(Fate::Drop);
            }
            Action::Replace(new) => {
                log("replace", &shown(&new));
                return Ok(Fate::Replace(new));
            }
            Action::Prepend(new) => {
                log("prepend", &shown(&new));
                return Ok(Fate::Prepend(new));
            }
            Action::Reject(status, why) => {
                log("reject", &format!("{status} {why}"));
                let code = if status.class.digit() == 4 { 451 } else { 550 };
                self.refuse(Refusal { code: ReplyCode(code), status, reason: why, specific: true })?;
            }
            Action::Discard(why) => {
                log("discard", &shown(&why));
                return Err(Stop::Discard);
            }
            Action::Hold(why) => {
                if !self.decided.hold {
                    log("hold", &shown(&why));
                    self.decided.hold = true;
                }
            }
            Action::Warn(why) => log("warning", &shown(&why)),
            Action::Info(why) => log("info", &shown(&why)),
            Action::Pass(why) => {
                log("pass", &shown(&why));
                self.active = false;
            }
            Action::Redirect(address) => {
                log("redirect", &address);
                self.decided.redirect = Some(address);
                self.active = false;
            }
            Action::Bcc(address) => {
                log("bcc", &address);
                self.decided.bcc.push(address);
            }
            Action::Filter(destination) => {
                log("filter", &destination);
                self.decided.filter = Some(destination);
            }
        }
        Ok(Fate::Keep)
    }

    /// A client hears it at once. A local submitter has gone away believing that all is well, and gets a notice with
    /// the whole message, so that is made ready to the end.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), Stop> {
        if refusal.is_transient() || !matches!(self.job.source, Source::Local { .. }) {
            return Err(refusal.into());
        }
        self.active = false;
        self.decided.refusal.get_or_insert(refusal);
        Ok(())
    }

    fn log(&self, word: &'static str, class: &'static str, content: &[u8], text: &str) {
        let client = &self.envelope.client;
        let action = ContentAction {
            protocol: client.protocol.clone(),
            helo: client.helo.clone(),
            text: text.to_owned(),
            ..content_action(self.job, self.envelope, self.recipients, word, class, content)
        };
        self.cleanup.emit(self.job, Kind::ContentChecked(Box::new(action)));
    }

    /// Checks what is behind the header section `fields`: `message` from `body_at` on.
    pub(crate) async fn body(&mut self, head: &NewHead) -> Result<Vec<Content>, Stop> {
        let (message, body_at) = (head.body.clone(), head.body_at);
        let checks = &self.cleanup.settings.checks;
        let tables = self.active && !checks.ends_with_headers();
        let body = crate::section::rest(&message, body_at);
        if !self.job.checks || !(tables || self.needs_a_walk(head, &body)) {
            return Ok(vec![message]);
        }
        let mut edits = Edits::new(message);
        let mut reported = 0;
        let mut walk = checks.walk(&head.fields, body);
        loop {
            let piece = walk.next().map_err(|_| Refusal::trouble())?;
            let Some(piece) = piece else { break };
            let fate = match piece.what {
                What::Header { class, name } => self.header(class, name, piece.text).await?,
                What::Line { offset } => self.line(piece.text, offset).await?,
            };
            let at = |place: u64| place + body_at as u64;
            let (start, end) = (at(piece.start), at(piece.end));
            match fate {
                Fate::Keep => {}
                Fate::Drop => edits.replace(start, end, b""),
                Fate::Replace(mut new) => {
                    if piece.ended {
                        new.push(b'\n');
                    }
                    edits.replace(start, end, &new);
                }
                Fate::Prepend(mut new) => {
                    new.push(b'\n');
                    edits.replace(start, start, &new);
                }
            }
            reported = self.report(walk.defects(), reported);
        }
        self.report(walk.defects(), reported);
        let defect = walk.defects().iter().map(|(defect, _)| *defect).find(|defect| *defect != Defect::HeaderTooLong);
        if let Some(defect) = defect {
            let ((subject, detail), reason) = defect.detail();
            let status = EnhancedStatus::permanent(subject, detail);
            self.refuse(Refusal { code: ReplyCode(550), status, reason: reason.into(), specific: true })?;
        }
        Ok(joined(edits.finish()))
    }

    /// The headers end in a line of the body, and that is a reason to refuse.
    pub(crate) fn unended(&mut self, why: &str, body: &[u8]) -> Result<(), Stop> {
        let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let content = format!("{why}: {}", String::from_utf8_lossy(&line[..line.len().min(100)]));
        let action =
            content_action(self.job, self.envelope, self.recipients, "reject", "mime-error", content.as_bytes());
        self.cleanup.emit(self.job, Kind::ContentChecked(Box::new(action)));
        let status = EnhancedStatus::permanent(6, 0);
        self.refuse(Refusal { code: ReplyCode(550), status, reason: why.into(), specific: true })
    }

    /// Strict settings, or more parts than may be nested, make a walk necessary without any table.
    fn needs_a_walk(&self, head: &NewHead, body: &Content) -> bool {
        let options = self.cleanup.settings.checks.options();
        if options.report_8bit_body || options.report_8bit_header || options.report_encoding {
            return true;
        }
        if !options.parse_mime || !head.composite {
            return false;
        }
        // Each level of nesting needs the word once. What cannot be read is found out by the walk.
        let limit = options.nesting_limit.saturating_sub(1);
        occurrences(body, b"boundary", limit).map_or(true, |found| found > limit)
    }

    /// Says what is wrong that has not been said; a header that is too long is cut in silence.
    fn report(&self, defects: &[(Defect, Vec<u8>)], reported: usize) -> usize {
        for (defect, text) in defects.iter().skip(reported).filter(|(defect, _)| *defect != Defect::HeaderTooLong) {
            let (_, words) = defect.detail();
            let content = format!("{words}: {}", String::from_utf8_lossy(&text[..text.len().min(100)]));
            let action =
                content_action(self.job, self.envelope, self.recipients, "reject", "mime-error", content.as_bytes());
            self.cleanup.emit(self.job, Kind::ContentChecked(Box::new(action)));
        }
        defects.len()
    }
}

/// How much of a content is in memory at once while a word is looked for.
const WINDOW: usize = 64 << 10;

/// How often `word` (lower case) stands in `content` in any mixture of case. Stops counting beyond `enough`.
pub(crate) fn occurrences(content: &Content, word: &[u8], enough: usize) -> std::io::Result<usize> {
    let Some((&last, front)) = word.split_last() else { return Ok(0) };
    let mut window = match content {
        Content::Memory(bytes) => return Ok(count(bytes, last, front, enough)),
        Content::File { .. } => vec![0; WINDOW],
    };
    let (mut at, mut carried, mut found) = (0, 0, 0);
    loop {
        let read = content.read_at(&mut window[carried..], at)?;
        if read == 0 || found > enough {
            return Ok(found);
        }
        let filled = carried + read;
        found += count(&window[..filled], last, front, enough);
        // The end of this window may be the beginning of the word.
        carried = filled.min(front.len());
        window.copy_within(filled - carried..filled, 0);
        at += read as u64;
    }
}

fn count(text: &[u8], last: u8, front: &[u8], enough: usize) -> usize {
    memchr::memchr2_iter(last, last.to_ascii_uppercase(), text)
        .filter(|&at| at >= front.len() && text[at - front.len()..at].eq_ignore_ascii_case(front))
        .take(enough + 1)
        .count()
}

/// What was done about a piece of content, without the action's text.
pub(crate) fn content_action(
    job: &Job<'_>,
    envelope: &Envelope,
    recipients: &[Recipient],
    word: &'static str,
    class: &'static str,
    content: &[u8],
) -> ContentAction {
    let client = &envelope.client;
    let content = &content[..memchr::memchr(0, content).unwrap_or(content.len()).min(200)];
    ContentAction {
        queue_id: job.id,
        word,
        class,
        content: String::from_utf8_lossy(content).into_owned(),
        client: (job.source == Source::Smtp).then(|| Client {
            name: client.name.as_str().into(),
            address: client.address,
            port: None,
        }),
        sender: envelope.sender.clone(),
        recipient: recipients.last().map(|recipient| recipient.address.clone()),
        protocol: String::new(),
        helo: String::new(),
        text: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use yamabiko_envelope::Content;

    use super::{WINDOW, occurrences};

    /// The word at every place around the edges of a window, in memory and in a file.
    #[test]
    fn words_are_found_wherever_they_stand() {
        for place in (0..20).chain(WINDOW - 20..WINDOW + 20).chain(2 * WINDOW - 30..2 * WINDOW + 20) {
            let mut text = vec![b'x'; 3 * WINDOW];
            text[place..place + 8].copy_from_slice(if place % 2 == 0 { b"boundary" } else { b"BouNDarY" });
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&text).expect("written");
            let len = text.len() as u64;
            let contents = [Content::from(text), Content::File { file: Arc::new(file), offset: 0, len }];
            for content in contents {
                assert_eq!(occurrences(&content, b"boundary", 9).expect("read"), 1, "at {place}");
            }
        }
    }

    #[test]
    fn counting_ends_when_it_is_enough() {
        let content = Content::from(b"boundary ".repeat(1000));
        assert_eq!(occurrences(&content, b"boundary", 99).expect("read"), 100);
        assert_eq!(occurrences(&Content::from(Vec::new()), b"boundary", 0).expect("read"), 0);
    }
}

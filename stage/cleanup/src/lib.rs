//! Complete, rewrite and check a message: from a [`Submission`] to what is stored (Postfix: cleanup).
//!
//! * [`Cleanup`] holds the settings and tables of one configuration; [`Cleanup::process`] takes one message through:
//!   sender, recipients (canonical, masquerade, automatic BCC, virtual aliases, duplicates), headers (rewriting, removal,
//!   completion), limits.
//! * [`Verdict`] is what came of it. An accepted message is its envelope, a new head and the untouched rest.
//!
//! What can be relied on: bytes of the body are never changed and never copied (but by `message_strip_characters`, and a CR
//! within a line becomes a blank: `cleanup_replace_stray_cr_lf`); a
//! header field that needs no change keeps its bytes; trouble with a table is a refusal with a 4xx code. There is no
//! clock and no I/O here: the time is an argument, tables answer.
//!
//! Where Postfix differs, on purpose: a NUL does not cut a header field short, mail that is requeued gets no second
//! automatic copy, a header section beyond eight megabytes is refused, and the transfer encoding of inner MIME parts is not
//! looked for.
//!
//! A message whose headers need no change costs one pass over them: the head is then the trace fields alone, and the
//! body the whole content.

mod address;
mod alias;
mod characters;
mod checks;
mod header;
mod recipients;
mod section;
mod settings;

use bytes::Bytes;
use yamabiko_config::View;
use yamabiko_envelope::{
    BodyType, Content, Envelope, Event, Events, Kind, Notify, Origin, QueueId, Recipient, RewriteContext, Severity,
    Source, Submission, Timestamp, TlsWish,
};
use yamabiko_lookup::TableSet;
use yamabiko_message::date::Zone;
use yamabiko_route::Mapper;
use yamabiko_status::{EnhancedStatus, ReplyCode};

use checks::{Checking, Decided, Stop};
use recipients::Recipients;
use settings::Settings;

/// A message that is to be queued.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The envelope, with final recipients, size and Message-ID.
    pub envelope: Envelope,
    /// The first part of the message: trace fields, and all header fields when any of them had to change.
    pub head: Bytes,
    /// The rest of the message: as it came, or in parts where checks changed something in it.
    pub body: Vec<Content>,
    /// It goes into the hold queue.
    pub hold: bool,
    /// Recipients with `NOTIFY=SUCCESS` that became several: they are owed a report that says `expanded`, now
    /// (RFC 3461 section 5.2.7.3). Their state is of no meaning.
    pub expanded: Vec<Recipient>,
}

/// A message that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// SMTP reply code.
    pub code: ReplyCode,
    /// Enhanced status code.
    pub status: EnhancedStatus,
    /// Why, as a log line or notice says it.
    pub reason: String,
    /// The reason was chosen for this message; one of ours has `Error: ` before it in the SMTP reply.
    pub specific: bool,
}

impl Refusal {
    fn ours(code: u16, status: EnhancedStatus, reason: &str) -> Self {
        Self { code: ReplyCode(code), status, reason: reason.into(), specific: false }
    }
    /// A table did not answer, as Postfix's cleanup tells it.
    fn trouble() -> Self {
        Self::ours(451, EnhancedStatus::transient(3, 0), "queue file write error")
    }
    /// The text of the SMTP reply after both codes: `Error: too many hops`.
    pub fn text(&self) -> String {
        format!("{}{}", if self.specific { "" } else { "Error: " }, self.reason)
    }
    /// The SMTP reply without its code: `5.4.0 Error: too many hops`.
    pub fn reply_text(&self) -> String {
        format!("{} {}", self.status, self.text())
    }
    /// Trying again later may help.
    pub fn is_transient(&self) -> bool {
        self.code.is_transient()
    }
}

/// What came of a message.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Queue it.
    Accept(Box<Accepted>),
    /// Claim success, keep nothing.
    Discard,
    /// Refuse it; a local submission that is refused for good is returned to its sender.
    Refuse(Refusal),
    /// A local submission whose content is refused: it goes back to its sender as it would have been queued.
    Return(Box<Accepted>, Refusal),
}

/// Takes messages through by one configuration.
#[derive(Clone)]
pub struct Cleanup {
    settings: std::sync::Arc<Settings>,
    mapper: Mapper,
    origin: Origin,
    events: Events,
}

/// What holds for the message at hand.
#[derive(Clone, Copy)]
struct Job<'s> {
    id: QueueId,
    now: Timestamp,
    source: Source,
    /// Canonical, masquerade and alias maps.
    maps: bool,
    /// Automatic BCC.
    bcc: bool,
    /// Checks of the content.
    checks: bool,
    /// Context in which headers are rewritten; `None`: their addresses are left alone and nothing is added.
    headers: Option<RewriteContext>,
    full_name: &'s str,
}

impl Job<'_> {
    /// For what is decided about a message after its content was seen.
    fn late(envelope: &Envelope, source: Source) -> Self {
        Self {
            id: envelope.queue_id,
            now: envelope.arrival,
            source,
            maps: true,
            bcc: false,
            checks: false,
            headers: None,
            full_name: "",
        }
    }
}

impl Cleanup {
    /// Reads the settings of the cleanup service. Tables that cannot be opened make messages that need them wait.
    pub fn new(view: &View, tables: &TableSet, mapper: Mapper, events: Events) -> Self {
        let origin = Origin::new(&view.text("syslog_name").into(), "cleanup");
        Self { settings: std::sync::Arc::new(Settings::new(view, tables)), mapper, origin, events }
    }

    /// The address that a mail filter wants as the envelope sender of a message that has been accepted, in its final form.
    pub async fn sender_of_filter(
        &self,
        envelope: &Envelope,
        source: Source,
        address: &str,
    ) -> Result<String, Refusal> {
        let mut sender = address.to_owned();
        self.sender(&Job::late(envelope, source), &mut sender).await?;
        Ok(sender)
    }

    /// Adds a recipient that a mail filter wants for a message that has been accepted; aliases and mappings apply.
    pub async fn recipient_of_filter(
        &self,
        envelope: &mut Envelope,
        source: Source,
        address: &str,
        notify: Notify,
    ) -> Result<(), Refusal> {
        let mut recipients = Recipients::of(std::mem::take(&mut envelope.recipients));
        let added = self.add_late(&Job::late(envelope, source), address, notify, &mut recipients).await;
        envelope.recipients = recipients.list;
        added
    }

    /// What is wrong with the rules of content checks, one line each, for `postfix check`.
    pub fn faults(&self) -> Vec<String> {
        self.settings.checks.faults()
    }

    /// A table answers from a socket, waited for with blocking calls: an event loop must call [`Cleanup::process`] on a
    /// thread that may block.
    pub fn is_remote(&self) -> bool {
        self.settings.is_remote()
    }

    /// Takes one message through. `now` is for events; dates in headers are the envelope's time of arrival, in `zone`.
    pub async fn process(&self, submission: Submission, now: Timestamp, zone: &Zone) -> Verdict {
        if submission.discard {
            return Verdict::Discard;
        }
        match self.accept(submission, now, zone).await {
            Ok((accepted, None)) => Verdict::Accept(Box::new(accepted)),
            Ok((accepted, Some(refusal))) => Verdict::Return(Box::new(accepted), refusal),
            Err(Stop::Discard) => Verdict::Discard,
            Err(Stop::Refuse(refusal)) => Verdict::Refuse(refusal),
        }
    }

    async fn accept(
        &self,
        submission: Submission,
        now: Timestamp,
        zone: &Zone,
    ) -> Result<(Accepted, Option<Refusal>), Stop> {
        let Submission { mut envelope, mut trace_fields, content, source, hold, redirect, bcc, full_name, .. } =
            submission;
        // Notices, forwarded and requeued mail had their checks and copies, or never get any.
        let from_outside = matches!(source, Source::Smtp | Source::Local { .. });
        let job = Job {
            id: envelope.queue_id,
            now,
            source,
            maps: !submission.no_address_mappings,
            bcc: from_outside && !submission.no_address_mappings,
            checks: from_outside && !submission.no_header_body_checks,
            headers: match envelope.context {
                RewriteContext::Remote if !self.mapper.rewriter().rewrites_remote() => None,
                context => Some(context),
            },
            full_name: &full_name,
        };
        let limit = self.settings.message_size_limit;
        if from_outside && limit > 0 && content.len() > limit {
            return Err(Refusal::ours(552, EnhancedStatus::permanent(3, 4), "message file too big").into());
        }

        let given = std::mem::take(&mut envelope.recipients);
        let mut recipients = self.recipients(&job, &mut envelope.sender, given, &bcc).await?;

        let content = if self.settings.replace_stray_cr {
            // What tables and policy servers prepend, too.
            trace_fields.iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b' ');
            characters::without_stray_cr(content)?
        } else {
            content
        };
        let content = if self.settings.to_seven_bits && from_outside { seven_bits(content)? } else { content };
        let mut checking = Checking::new(self, &job, &envelope, &recipients.list, hold);
        let head = self.head(&mut checking, trace_fields, &content, zone).await?;
        let body = checking.body(&head).await?;
        let decided = checking.decided;
        let (bytes, body) = if job.checks && self.settings.characters.any() {
            self.filter_characters(&job, &envelope, &recipients.list, head.bytes, body)?
        } else {
            (head.bytes, body)
        };
        let Decided { bcc, redirect: redirected, filter, refusal, hold } = decided;
        for address in &bcc {
            self.copy(&job, address, &mut recipients).await?;
        }
        if let Some(redirect) = redirected.or(redirect) {
            recipients.redirect(&self.mapper.rewriter().rewrite(RewriteContext::Local, &redirect));
        }
        if let Some(filter) = filter {
            envelope.filter = filter;
        }
        // A header that nothing changes is stored with the body.
        let header = if head.body_at > 0 { &head.fields } else { &bytes };
        let bytes = match self.tls_wish(&mut envelope, header) {
            Some(field) => [field.as_bytes(), &bytes].concat().into(),
            None => bytes,
        };
        envelope.size = bytes.len() as u64 + body.iter().map(Content::len).sum::<u64>();
        envelope.message_id = head.message_id;
        if head.eight_bit && envelope.body == BodyType::Unspecified {
            envelope.body = BodyType::EightBitMime;
        }
        if matches!(source, Source::Local { .. }) && self.settings.smtputf8_for_sendmail {
            let plain = head.ascii
                && envelope.sender.is_ascii()
                && recipients.list.iter().all(|recipient| recipient.address.is_ascii());
            envelope.smtputf8 |= !plain;
        }
        envelope.recipients = recipients.list;
        let accepted = Accepted { envelope, head: bytes, body, hold, expanded: recipients.expanded };
        Ok((accepted, refusal))
    }

    /// Takes over what the header says of TLS. The result is the field that says there what the envelope says: with it
    /// REQUIRETLS survives where there is no envelope, in a filter that is run as a command (`requiretls_esmtp_header`).
    fn tls_wish(&self, envelope: &mut Envelope, header: &[u8]) -> Option<&'static str> {
        let recorded = self.settings.requiretls_header && says(header, b"Require-TLS-ESMTP", b"yes");
        match envelope.tls {
            TlsWish::Required if self.settings.requiretls_header && !recorded => {
                return Some("Require-TLS-ESMTP: yes\n");
            }
            // RFC 8689 section 4.1: REQUIRETLS counts for more than the other field.
            TlsWish::Policy if recorded => envelope.tls = TlsWish::Required,
            TlsWish::Policy if self.settings.tls_required && says(header, b"TLS-Required", b"no") => {
                envelope.tls = TlsWish::NotRequired;
            }
            _ => {}
        }
        None
    }

    fn emit(&self, job: &Job<'_>, kind: Kind) {
        self.events.emit(Event { at: job.now, origin: self.origin.clone(), kind });
    }

    fn warn(&self, job: &Job<'_>, text: String) {
        self.emit(job, Kind::Text { severity: Severity::Warning, queue_id: Some(job.id), text });
    }
}
/// The header has a field with this value.
fn says(header: &[u8], wanted: &[u8], word: &[u8]) -> bool {
    let said = |line: &[u8]| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default();
        name.trim_ascii_end().eq_ignore_ascii_case(wanted) && value.trim_ascii().eq_ignore_ascii_case(word)
    };
    header.split(|byte| *byte == b'\n').any(said)
}

/// `force_mime_input_conversion`: parts that say that they are 8bit become quoted-printable. Others are not copied.
fn seven_bits(content: Content) -> Result<Content, Refusal> {
    let found = |word: &[u8]| checks::occurrences(&content, word, 0).map_err(|_| Refusal::trouble());
    if found(b"8bit")? == 0 && found(b"binary")? == 0 {
        return Ok(content);
    }
    let bytes = content.to_bytes().map_err(|_| Refusal::trouble())?;
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    let mut downgrade = yamabiko_message::downgrade::Downgrade::new();
    downgrade.push(&bytes, &mut out);
    downgrade.finish(&mut out);
    Ok(if out == bytes { content } else { out.into() })
}

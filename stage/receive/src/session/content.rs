//! Message content: DATA and BDAT, from `354` to the reply after the message.

use yamabiko_envelope::{
    ClientAttributes, Content, Envelope, Event, Kind, Origin, QueueId, RewriteContext, Severity, Source, Submission,
};
use yamabiko_smtp::command::{Bdat, Ret};
use yamabiko_smtp::data::{DataDecoder, Progress};

use super::{Chunks, Incoming, Phase, Session, Step, Waiting, body_type, commands};
use crate::admission::{Accepted, Refusal};
use crate::restrict::Outcome;
use crate::settings::{BareNewline, ErrorClasses};

/// Room made at most for the size that a client announces: it need not be true.
const MOST_ROOM: u64 = 64 * 1024;
/// The subject of RFC 3463 that is about the mail system.
const MAIL_SYSTEM: u16 = 3;

impl Session {
    pub(super) fn begin_incoming(&mut self, decoder: DataDecoder) {
        let decoder = if self.settings.replace_stray_cr { decoder.without_stray_cr() } else { decoder };
        let announced = self.transaction.as_ref().map_or(0, |t| t.parameters.size).min(MOST_ROOM);
        // At most 64 KB, so it fits.
        self.content = Vec::with_capacity(announced as usize);
        self.incoming = Some(Incoming { decoder, wire_bytes: 0, taken: 0, too_big: false, begun: false });
    }

    /// Content after DATA; returns how much of `input` belonged to it.
    pub(super) fn data(&mut self, input: &[u8]) -> usize {
        let limit = self.settings.message_size_limit;
        let Some(incoming) = &mut self.incoming else {
            // Never without: DATA makes one.
            self.phase = Phase::Command;
            return 0;
        };
        let (used, ended) = match incoming.decoder.decode(input, &mut self.content) {
            Progress::More => (input.len(), false),
            Progress::End(used) => (used, true),
        };
        incoming.wire_bytes += used as u64;
        // The final dot and its line end are not part of the message.
        let size = incoming.wire_bytes - if ended { 3.min(incoming.wire_bytes) } else { 0 };
        let passed = limit > 0 && size > limit && !incoming.too_big;
        incoming.too_big |= passed;
        if incoming.too_big {
            self.content.clear();
        }
        if passed {
            self.size_exceeded();
        }
        if ended {
            self.end_of_data(false);
        }
        used
    }

    fn size_exceeded(&mut self) {
        let id = self.queue_id().map_or_else(|| "NOQUEUE".to_owned(), |id| id.to_string());
        self.warn(format!("{id}: queue file size limit exceeded"));
        let origin = Origin::new(&self.settings.syslog_name, "cleanup");
        for text in [format!("{id}: queue file size limit exceeded"), "mail_stream_cleanup: close error".to_owned()] {
            let kind = Kind::Text { severity: Severity::Warning, queue_id: None, text };
            self.around.events.emit(Event { at: self.now, origin: origin.clone(), kind });
        }
    }

    /// Looks at the first lines: an mbox `From ` line is no header and becomes one, and content that begins with a blank
    /// has no header.
    pub(super) fn begin_content(&mut self) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| !incoming.begun && incoming.taken == 0) else {
            return;
        };
        incoming.begun = true;
        if !matches!(self.content.first(), Some(b'F' | b'>' | b' ' | b'\t')) {
            return;
        }
        let mut fixed = Vec::new();
        let mut rest = &self.content[..];
        while let Some(end) = memchr::memchr(b'\n', rest)
            && is_mbox_line(rest)
        {
            let (line, after) = rest.split_at(end + 1);
            fixed.extend_from_slice(b"X-Mailbox-Line: ");
            fixed.extend_from_slice(line);
            rest = after;
        }
        if matches!(rest.first(), Some(b' ' | b'\t')) {
            fixed.push(b'\n');
        }
        fixed.extend_from_slice(rest);
        self.content = fixed;
    }

    // --- BDAT

    pub(super) fn bdat_checked(&mut self, bdat: Bdat, outcome: Outcome) {
        if let Outcome::Refused(reply) = outcome {
            return self.skip_chunk(bdat, &reply);
        }
        if self.filters && self.incoming.is_none() {
            return self.wait(Waiting::Filter(Box::new(Step::Bdat(bdat))));
        }
        self.bdat_accepted(bdat);
    }

    pub(super) fn bdat_accepted(&mut self, bdat: Bdat) {
        if self.incoming.is_none() {
            self.begin_incoming(DataDecoder::chunks());
        }
        let so_far = self.incoming.as_ref().map_or(0, |incoming| incoming.wire_bytes);
        let limit = self.settings.message_size_limit;
        if limit > 0 && so_far.saturating_add(bdat.count) > limit {
            let id = self.queue_id().map_or_else(|| "NOQUEUE".to_owned(), |id| id.to_string());
            self.warn(format!("{id}: BDAT request from {} exceeds message size limit", self.peer.name_and_address));
            self.seen.add(ErrorClasses::POLICY);
            return self.skip_chunk(bdat, "552 5.3.4 Chunk exceeds message size limit");
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Chunks::Open;
        }
        self.stage = "BDAT content";
        self.phase = Phase::Chunk { left: bdat.count, keep: true, bdat };
    }

    /// Reads the chunk, so that what follows is understood, and then refuses it.
    pub(super) fn skip_chunk(&mut self, bdat: Bdat, reply: &str) {
        self.seen.add(ErrorClasses::PROTOCOL);
        reply.clone_into(&mut self.chunk_refusal);
        self.phase = Phase::Chunk { left: bdat.count, keep: false, bdat };
    }

    /// Bytes of a chunk; returns how many of `input` belonged to it.
    pub(super) fn chunk(&mut self, input: &[u8]) -> usize {
        let Phase::Chunk { left, keep, .. } = &mut self.phase else { return 0 };
        let used = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
        *left -= used as u64;
        if let Some(incoming) = self.incoming.as_mut().filter(|_| *keep) {
            incoming.wire_bytes += used as u64;
            // `used` is at most the length of the input.
            incoming.decoder.decode(&input[..used], &mut self.content);
        }
        used
    }

    pub(super) fn end_of_chunk(&mut self) {
        let Phase::Chunk { keep, bdat, .. } = self.phase else { return };
        self.phase = Phase::Command;
        self.stage = "BDAT";
        if !keep {
            let reply = std::mem::take(&mut self.chunk_refusal);
            self.reply_error(&reply);
            match &mut self.transaction {
                Some(_) if bdat.last => self.end_transaction(),
                Some(transaction) => {
                    transaction.chunks = Chunks::Failed;
                    self.content = Vec::new();
                    self.incoming = None;
                }
                None => self.chunks_astray = !bdat.last,
            }
            return;
        }
        if !bdat.last {
            return self.reply_ok(&format!("250 2.0.0 Ok: {} bytes", bdat.count));
        }
        if let Some(incoming) = &mut self.incoming {
            if !incoming.decoder.at_line_start() {
                // The line end that is added counts, as in Postfix.
                incoming.wire_bytes += 2;
            }
            incoming.decoder.finish(&mut self.content);
        }
        self.end_of_data(true);
    }

    // --- the end of the message

    fn end_of_data(&mut self, bdat: bool) {
        self.stage = "END-OF-MESSAGE";
        self.phase = Phase::Command;
        let (too_big, bare) = self.incoming.as_ref().map_or((false, false), |i| (i.too_big, i.decoder.bare_newline()));
        self.bare_newline_seen |= bare && !bdat;
        if too_big {
            self.seen.add(ErrorClasses::POLICY);
            return self.refuse_message("552 5.3.4 Error: message file too big");
        }
        if bare && self.bare_newline_policy() == BareNewline::Reject {
            self.seen.add(ErrorClasses::PROTOCOL);
            let code = self.settings.bare_newline_reply();
            let reply = format!("{code} 5.5.2 {} Error: bare <LF> received", self.settings.myhostname);
            self.decided("reject", reply.clone());
            return self.refuse_message(&reply);
        }
        if self.settings.policy.checks_end_of_data() && self.user.is_none() {
            self.wait(Waiting::EndOfData { bdat });
        } else {
            self.wait(Waiting::Submit { bdat });
        }
    }

    fn refuse_message(&mut self, reply: &str) {
        self.reply_error(reply);
        self.end_transaction();
        self.trim_transcript();
    }

    pub(super) fn end_of_data_checked(&mut self, bdat: bool, outcome: Outcome) {
        match outcome {
            Outcome::Refused(reply) => self.refuse_message(&reply),
            _ => self.wait(Waiting::Submit { bdat }),
        }
    }

    /// The message with its envelope. The transaction keeps its queue ID for the reply.
    pub(super) fn submission(&mut self) -> Option<Submission> {
        self.begin_content();
        let date = yamabiko_message::date::rfc5322(
            self.transaction.as_ref().map_or(0, |t| t.arrival.seconds()),
            &self.settings.zone,
        );
        let trace_fields = self.trace_fields(&date);
        let client = if self.user.is_some() { ClientAttributes::default() } else { self.client_attributes() };
        let sasl = self.identity();
        let facts = self.tls.as_ref().map(|tls| &tls.facts);
        let local = self.standing.local_rewrite
            || self.user.is_some()
            || self.settings.policy.rewrites_for(sasl.is_some(), facts);
        // A filter that hands mail back says where it came from: what is remote stays so.
        let local = self.forwarded.as_ref().and_then(|forwarded| forwarded.local()).unwrap_or(local);
        let effects = std::mem::take(&mut self.checks.effects);
        if self.settings.before_queue.is_some() {
            let unavailable = [
                (effects.hold, "HOLD"),
                (effects.discard, "DISCARD"),
                (effects.redirect.is_some(), "REDIRECT"),
                (!effects.bcc.is_empty(), "BCC"),
                (effects.filter.is_some(), "FILTER"),
            ];
            for (_, action) in unavailable.into_iter().filter(|(set, _)| *set) {
                self.warn(format!("with smtpd_proxy_filter specified, action {action} is unavailable"));
            }
        }
        let transaction = self.transaction.as_mut()?;
        let queue_id = transaction.queue_id?;
        let mut envelope = Envelope::new(queue_id, transaction.arrival, std::mem::take(&mut transaction.sender));
        envelope.envid = std::mem::take(&mut transaction.parameters.envid);
        envelope.ret = transaction.parameters.ret.map(|ret| match ret {
            Ret::Full => yamabiko_envelope::Ret::Full,
            Ret::Hdrs => yamabiko_envelope::Ret::Headers,
        });
        envelope.body = body_type(&transaction.parameters);
        envelope.smtputf8 = transaction.parameters.smtputf8;
        if transaction.parameters.requiretls {
            envelope.tls = yamabiko_envelope::TlsWish::Required;
        }
        envelope.verp = commands::verp(&transaction.parameters);
        envelope.context = if local { RewriteContext::Local } else { RewriteContext::Remote };
        envelope.client = client;
        envelope.sasl = sasl;
        envelope.filter = effects.filter.unwrap_or_else(|| self.settings.content_filter.clone());
        envelope.recipients = std::mem::take(&mut transaction.recipients);
        let content = Content::from(std::mem::take(&mut self.content));
        let source = self.user.map_or(Source::Smtp, |uid| Source::Local { uid });
        let mut submission = Submission::new(envelope, content, source);
        submission.trace_fields = trace_fields;
        submission.hold = effects.hold;
        submission.discard = effects.discard;
        submission.redirect = effects.redirect;
        submission.bcc = effects.bcc;
        submission.dmarc = effects.dmarc;
        submission.no_address_mappings = self.settings.no_address_mappings;
        submission.no_header_body_checks = self.settings.no_header_body_checks;
        if let Some(uid) = self.user {
            let origin = Origin::new(&self.settings.syslog_name, "pickup");
            let sender = submission.envelope.sender.clone();
            let kind = Kind::PickedUp { queue_id, uid, sender };
            self.around.events.emit(Event { at: self.now, origin, kind });
        }
        Some(submission)
    }

    /// PREPEND fields, then `Received:`.
    fn trace_fields(&self, date: &str) -> Vec<u8> {
        let mut fields = Vec::new();
        for field in &self.checks.effects.prepend {
            fields.extend_from_slice(field.as_bytes());
            fields.push(b'\n');
        }
        // One that only passes on what another filter has seen leaves no trace.
        let silent = self.settings.before_queue.is_some() && self.forwarded.is_some();
        if let Some(transaction) = self.transaction.as_ref().filter(|_| !silent) {
            fields.extend_from_slice(commands::received(self, transaction, date).as_bytes());
        }
        fields
    }

    pub(super) fn message_done(&mut self, bdat: bool, result: Result<Accepted, Refusal>) {
        match result {
            Ok(accepted) => {
                let id: Option<QueueId> = accepted.queue_id.or(self.queue_id());
                let id = id.map(|id| id.to_string()).unwrap_or_default();
                let bytes = self.incoming.as_ref().map_or(0, |incoming| incoming.wire_bytes);
                self.errors = 0;
                self.junk = 0;
                self.seen = ErrorClasses::default();
                if bdat {
                    self.reply_ok(&format!("250 2.0.0 Ok: {bytes} bytes queued as {id}"));
                } else {
                    self.reply_ok(&format!("250 2.0.0 Ok: queued as {id}"));
                }
            }
            Err(Refusal { code, status, text }) => {
                // Whoever lets mail wait on purpose, as filters do, has trouble with its policy, not with our resources.
                let ours = !code.is_permanent() && status.subject == MAIL_SYSTEM;
                self.seen.add(if ours { ErrorClasses::RESOURCE } else { ErrorClasses::POLICY });
                let status = status.agreeing_with(code);
                // A filter's reply may have several lines.
                let (first, last) = text.rsplit_once('\n').map_or((None, text.as_str()), |(f, l)| (Some(f), l));
                for line in first.into_iter().flat_map(|first| first.split('\n')) {
                    self.say(&format!("{code}-{status} {line}"));
                }
                self.reply_error(&format!("{code} {status} {last}"));
            }
        }
        self.end_transaction();
        self.trim_transcript();
    }
}

/// `From `, or the same after any number of `>`.
fn is_mbox_line(line: &[u8]) -> bool {
    let start = line.iter().position(|b| *b != b'>').unwrap_or(line.len());
    // `start` is at most the length.
    line[start..].starts_with(b"From ")
}

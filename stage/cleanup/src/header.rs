//! The header section: one pass that checks, rewrites, removes, counts and completes.

use bytes::Bytes;
use yamabiko_address::header::AddressList;
use yamabiko_address::{quote, unquote};
use yamabiko_envelope::{Content, Envelope, Kind, Source};
use yamabiko_message::date::{Zone, message_id_digits, rfc5322};
use yamabiko_message::mime::{HeaderClass, media_type};
use yamabiko_message::{AddressRole, Field, FieldName, Fields, Separator, field_name_len};
use yamabiko_status::EnhancedStatus;

use crate::checks::{self, Checking, Stop};
use crate::section::{LIMIT, Section, Unusable, rest};
use crate::settings::{Place, UnendedHeader, bit};
use crate::{Cleanup, Job, Refusal};

const UNENDED: &str = "message header was not terminated by empty line";

/// What came of the headers.
pub(crate) struct NewHead {
    pub(crate) bytes: Bytes,
    /// What stands behind `bytes`: the body, or the whole message as it came.
    pub(crate) body: Content,
    /// Where the body begins in `body`.
    pub(crate) body_at: usize,
    /// The message's header fields as they came.
    pub(crate) fields: Bytes,
    /// It says that it has parts or is a message itself.
    pub(crate) composite: bool,
    pub(crate) message_id: String,
    /// A `Content-Transfer-Encoding:` of the message says 8bit or binary.
    pub(crate) eight_bit: bool,
    /// No header has other than ASCII text.
    pub(crate) ascii: bool,
}

/// A section that is copied only from its first change on.
struct Output<'m> {
    source: &'m [u8],
    /// Up to here, the source is in `out` or left out.
    done: usize,
    out: Vec<u8>,
    changed: bool,
}

impl<'m> Output<'m> {
    fn new(source: &'m [u8]) -> Self {
        Self { source, done: 0, out: Vec::new(), changed: false }
    }
    /// Puts `new` in the place of the source's bytes from `start` to `end`.
    fn replace(&mut self, start: usize, end: usize, new: &[u8]) {
        self.changed = true;
        self.out.extend_from_slice(&self.source[self.done..start]);
        self.out.extend_from_slice(new);
        self.done = end;
    }
    /// All of it, lines ended.
    fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&self.source[self.done..]);
        if self.out.last().is_some_and(|last| *last != b'\n') {
            self.out.push(b'\n');
        }
        self.out
    }
}

/// The pass.
struct Head<'h, 'a> {
    cleanup: &'a Cleanup,
    job: &'a Job<'a>,
    checking: &'h mut Checking<'a>,
    seen: u64,
    resent: bool,
    hops: usize,
    message_id: String,
    eight_bit: bool,
    ascii: bool,
    composite: bool,
}

/// What becomes of a field.
enum Fate {
    Keep,
    Drop,
    Replace(Vec<u8>),
}

impl Cleanup {
    pub(crate) async fn head(
        &self,
        checking: &mut Checking<'_>,
        trace_fields: Vec<u8>,
        content: &Content,
        zone: &Zone,
    ) -> Result<NewHead, Stop> {
        let (job, envelope) = (checking.job, checking.envelope);
        // Lines that a mailbox had before the message are taken for that only where mail comes in.
        let from_outside = matches!(job.source, Source::Smtp | Source::Local { .. });
        let section = Section::of(content, from_outside).map_err(|why| checking.cleanup.unusable(job, &why))?;
        let mut head = Head {
            cleanup: checking.cleanup,
            job,
            checking,
            seen: 0,
            resent: false,
            hops: 0,
            message_id: String::new(),
            eight_bit: false,
            ascii: true,
            composite: false,
        };
        let trace = head.section(&trace_fields).await?;
        let trace = if trace.changed { trace.finish() } else { trace_fields };

        let mut fields = head.section(section.fields()).await?;
        if section.fields_at > 0 {
            let mut lines = Vec::new();
            for line in section.mailbox_lines().split_inclusive(|byte| *byte == b'\n') {
                lines.extend_from_slice(b"X-Mailbox-Line: ");
                lines.extend_from_slice(line);
            }
            lines.append(&mut fields.out);
            fields.out = lines;
            fields.changed = true;
        }
        let mut added = head.complete(envelope, zone);
        if section.separator == Separator::Missing && from_outside {
            match self.settings.unended_header {
                UnendedHeader::Mend => {}
                UnendedHeader::Tell => added.extend_from_slice(format!("MIME-Error: {UNENDED}\n").as_bytes()),
                UnendedHeader::Refuse => head.checking.unended(UNENDED, &section.bytes[section.body_at..])?,
            }
        }
        let untouched = !fields.changed && added.is_empty();
        // The empty line that ends the headers is missing before a body that begins at once.
        let ended = section.separator != Separator::Missing;
        let bytes_known = section.fields_at == 0 && (section.fields_end == 0 || section.fields().ends_with(b"\n"));
        if untouched && ended && bytes_known {
            return Ok(NewHead {
                bytes: trace.into(),
                body: content.clone(),
                body_at: section.body_at,
                fields: section.fields_bytes(),
                composite: head.composite,
                message_id: head.message_id,
                eight_bit: head.eight_bit,
                ascii: head.ascii,
            });
        }
        let mut bytes = trace;
        bytes.append(&mut fields.finish());
        bytes.extend_from_slice(&added);
        if section.separator != Separator::End {
            bytes.push(b'\n');
        }
        Ok(NewHead {
            bytes: bytes.into(),
            body: rest(content, section.body_at),
            body_at: 0,
            fields: section.fields_bytes(),
            composite: head.composite,
            message_id: head.message_id,
            eight_bit: head.eight_bit,
            ascii: head.ascii,
        })
    }

    /// A message whose header section cannot be looked at does not get in.
    fn unusable(&self, job: &Job<'_>, why: &Unusable) -> Refusal {
        match why {
            Unusable::TooLarge => {
                self.warn(job, format!("header section of more than {LIMIT} bytes: message refused"));
                Refusal::ours(552, EnhancedStatus::permanent(3, 4), "message header section too large")
            }
            Unusable::Unreadable(error) => {
                self.warn(job, format!("cannot read message content: {error}"));
                Refusal::trouble()
            }
        }
    }

    /// Rewrites the addresses of a field; `None` when nothing changes.
    async fn rewrite_field(
        &self,
        job: &Job<'_>,
        field: &Field<'_>,
        role: AddressRole,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(context) = job.headers else { return Ok(None) };
        let place = Place::Header(role);
        if is_one_complete_address(field.value()) && (!job.maps || self.settings.leaves_alone(place)) {
            return Ok(None);
        }
        let mut list = AddressList::parse_limited(field.value(), self.settings.token_limit);
        let mut changed = false;
        let mut addresses = Vec::new();
        for (address, written) in list.addresses_as_written() {
            let new = match written {
                None => self.canonical(job, context, place, address).await?,
                // Rewriting sees the text, and what it leaves alone comes back in quotes where it needs them.
                Some(written) => {
                    let rewritten = self.mapper.rewriter().rewrite_external(context, &written);
                    Some(self.map(job, place, unquote(&rewritten).into_owned()).await?)
                }
            };
            changed |= new.is_some();
            addresses.push(new.unwrap_or_else(|| address.to_owned()));
        }
        if !changed {
            return Ok(None);
        }
        list.set_addresses(addresses);
        let written = list.to_header(std::str::from_utf8(field.name()).unwrap_or_default());
        if written.stripped {
            let value = String::from_utf8_lossy(field.value().trim_ascii_start()).into_owned();
            let end = value.floor_char_boundary(100);
            self.warn(job, format!("stripping too many comments from address: {}...", &value[..end]));
        }
        Ok(Some(written.text))
    }
}

impl Head<'_, '_> {
    async fn section<'m>(&mut self, section: &'m [u8]) -> Result<Output<'m>, Stop> {
        let limit = self.cleanup.settings.header_size_limit;
        let mut output = Output::new(section);
        self.ascii &= section.is_ascii();
        // What stands before the first field, or is none, is left as it is: the trace fields are ours.
        let fields = Fields::of(section);
        let mut start = 0;
        for field in &fields {
            let raw = field.raw();
            let end = start + raw.len() + 1;
            let fate = if raw.len() > limit {
                // Reading stops somewhat beyond the limit, writing at it.
                let readable = &raw[..raw.len().min(limit.saturating_add(2048))];
                match Field::parse(readable) {
                    Some(field) => match self.field(&field).await? {
                        Fate::Keep => Fate::Replace(cut(readable, limit, false)),
                        fate => fate,
                    },
                    None => Fate::Replace(cut(readable, limit, false)),
                }
            } else {
                self.field(&field).await?
            };
            let fate = match fate {
                Fate::Replace(new) if new.len() > limit => Fate::Replace(cut(&new, limit, true)),
                fate => fate,
            };
            let end = end.min(section.len());
            match fate {
                Fate::Keep => {}
                Fate::Drop => output.replace(start, end, b""),
                Fate::Replace(mut new) => {
                    new.push(b'\n');
                    output.replace(start, end, &new);
                }
            }
            start = end;
        }
        Ok(output)
    }

    /// Checks a field, then does with it what there is to do.
    async fn field(&mut self, field: &Field<'_>) -> Result<Fate, Stop> {
        let known = field.known();
        if known == Some(FieldName::Received) {
            self.count_hop()?;
        }
        match self.checking.header(HeaderClass::Primary, known, field.raw()).await? {
            checks::Fate::Keep => self.checked(field).await,
            checks::Fate::Drop => Ok(Fate::Drop),
            checks::Fate::Replace(new) => match Field::parse(&new) {
                Some(field) => match self.checked(&field).await? {
                    Fate::Keep => Ok(Fate::Replace(new)),
                    fate => Ok(fate),
                },
                None => Ok(Fate::Replace(new)),
            },
            checks::Fate::Prepend(mut new) => {
                match self.checked(field).await? {
                    Fate::Drop => return Ok(Fate::Replace(new)),
                    Fate::Keep => {
                        new.push(b'\n');
                        new.extend_from_slice(field.raw());
                    }
                    Fate::Replace(text) => {
                        new.push(b'\n');
                        new.extend_from_slice(&text);
                    }
                }
                Ok(Fate::Replace(new))
            }
        }
    }

    async fn checked(&mut self, field: &Field<'_>) -> Result<Fate, Stop> {
        let settings = &self.cleanup.settings;
        let known = field.known();
        let dropped = match known {
            Some(name) => settings.dropped & bit(name) != 0,
            None => settings.dropped_other.iter().any(|name| field.is(name)),
        };
        if let Some(name) = known {
            self.note(name, field);
            // A dropped field's addresses are of no use to anybody.
            if let Some(role) = name.role().filter(|_| !dropped)
                && let Some(new) = self.cleanup.rewrite_field(self.job, field, role).await?
            {
                return Ok(Fate::Replace(new));
            }
        }
        if dropped {
            Ok(Fate::Drop)
        } else if field.has_obsolete_blank() {
            let mut new = field.name().to_vec();
            new.push(b':');
            new.extend_from_slice(field.value());
            Ok(Fate::Replace(new))
        } else {
            Ok(Fate::Keep)
        }
    }

    /// Remembers that a known field was there.
    fn note(&mut self, name: FieldName, field: &Field<'_>) {
        self.seen |= bit(name);
        self.resent |= name.is_resent();
        match name {
            FieldName::MessageId | FieldName::ResentMessageId => {
                let message_id = String::from_utf8_lossy(&field.unfolded()).into_owned();
                if name == FieldName::MessageId {
                    self.message_id.clone_from(&message_id);
                }
                self.identified(message_id, name == FieldName::ResentMessageId);
            }
            FieldName::ContentType => {
                let kind = media_type(field.value()).unwrap_or_default();
                self.composite |= kind.starts_with("multipart/") || kind.starts_with("message/");
            }
            FieldName::ContentTransferEncoding if self.cleanup.settings.detect_8bit => {
                let value = field.unfolded();
                self.eight_bit |= value.eq_ignore_ascii_case(b"8bit") || value.eq_ignore_ascii_case(b"binary");
            }
            _ => {}
        }
    }

    fn count_hop(&mut self) -> Result<(), Refusal> {
        self.hops += 1;
        if self.hops >= self.cleanup.settings.hopcount_limit {
            self.cleanup.warn(self.job, "message rejected: hopcount exceeded".into());
            return Err(Refusal::ours(554, EnhancedStatus::permanent(4, 0), "too many hops"));
        }
        Ok(())
    }

    fn identified(&self, message_id: String, resent: bool) {
        self.cleanup.emit(self.job, Kind::Identified { queue_id: self.job.id, message_id, resent });
    }

    fn has(&self, name: FieldName) -> bool {
        self.seen & bit(name) != 0
    }

    /// The fields that are missing (RFC 5322 section 3.6), for mail of our own users.
    fn complete(&mut self, envelope: &Envelope, zone: &Zone) -> Vec<u8> {
        let settings = &self.cleanup.settings;
        let adds = self.job.headers.is_some() || settings.always_add_missing_headers;
        let mut out = Vec::new();
        let prefix = if self.resent { "Resent-" } else { "" };
        let lacks = |head: &Self, plain: FieldName, resent: FieldName| {
            adds && !head.has(if head.resent { resent } else { plain })
        };
        let mut line = |text: String| {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        };
        let seconds = envelope.arrival.seconds();
        if lacks(self, FieldName::MessageId, FieldName::ResentMessageId) {
            let (id, host) = (self.job.id, &settings.myhostname);
            let message_id = if settings.long_queue_ids {
                format!("<{id}@{host}>")
            } else {
                format!("<{}.{id}@{host}>", message_id_digits(seconds))
            };
            line(format!("{prefix}Message-Id: {message_id}"));
            if !self.resent {
                self.message_id.clone_from(&message_id);
                self.seen |= bit(FieldName::MessageId);
            }
            self.identified(message_id, self.resent);
        }
        if !self.has(FieldName::MessageId) {
            self.identified(String::new(), false);
        }
        if lacks(self, FieldName::Date, FieldName::ResentDate) {
            line(format!("{prefix}Date: {}", rfc5322(seconds, zone)));
        }
        if lacks(self, FieldName::From, FieldName::ResentFrom) {
            let from = self.originator(&envelope.sender);
            line(format!("{prefix}From: {from}"));
            self.ascii &= from.is_ascii();
        }
        let visible = [FieldName::To, FieldName::ResentTo, FieldName::Cc, FieldName::ResentCc];
        if adds && !visible.iter().any(|name| self.has(*name)) && !settings.undisclosed_recipients_header.is_empty() {
            let text = &settings.undisclosed_recipients_header;
            if field_name_len(text.as_bytes()).is_some() {
                line(text.clone());
            } else {
                self.cleanup.warn(
                    self.job,
                    format!(
                        "bad undisclosed_recipients_header header text \"{text}\" -- need \"headername: headervalue\""
                    ),
                );
            }
        }
        out
    }

    /// The value of a `From:` that we write: the envelope sender, with the submitter's name.
    fn originator(&self, sender: &str) -> String {
        if sender.is_empty() {
            return "MAILER-DAEMON".into();
        }
        let address = quote(sender);
        let name = self.job.full_name.replace(['\r', '\n'], " ");
        if name.is_empty() {
            address.into_owned()
        } else if self.cleanup.settings.name_in_comment {
            format!("{address} ({})", name.replace(['(', ')'], "\""))
        } else {
            format!("{} <{address}>", phrase(&name))
        }
    }
}

/// A display name, in quotes where it needs them.
fn phrase(name: &str) -> String {
    let special = |c: char| matches!(c, '(' | ')' | '<' | '>' | '@' | ',' | ';' | ':' | '\\' | '"' | '.' | '[' | ']');
    if !name.contains(special) && !name.contains(|c: char| c.is_ascii_control()) {
        return name.to_owned();
    }
    let mut out = String::from("\"");
    for c in name.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// True for `user@host.example`, alone or behind a name as `Name <user@host.example>`: what rewriting leaves alone.
fn is_one_complete_address(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let address = match value.strip_suffix(b">") {
        None => value,
        Some(rest) => {
            let Some(open) = memchr::memchr(b'<', rest) else { return false };
            let name = &rest[..open];
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'-' | b'_' | b'\'');
            if !name.iter().all(plain) {
                return false;
            }
            &rest[open + 1..]
        }
    };
    let Some(at) = memchr::memchr(b'@', address) else { return false };
    let (local, domain) = (&address[..at], &address[at + 1..]);
    let atom = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'=' | b'.');
    !local.is_empty()
        && local.iter().all(atom)
        && !local.starts_with(b".")
        && !local.ends_with(b".")
        && !local.windows(2).any(|pair| pair == b"..")
        && domain.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && domain.contains(&b'.')
        && !domain.ends_with(b".")
}

/// Cuts a field at `limit` bytes: at a line end, unless more than a tenth of the limit would go unused. The tabs that
/// our own folding has put in (`folded`) do not count.
fn cut(raw: &[u8], limit: usize, folded: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut counted = 0;
    for (number, line) in raw.split(|byte| *byte == b'\n').enumerate() {
        let bare = if folded && number > 0 { line.strip_prefix(b"\t").unwrap_or(line) } else { line };
        if number > 0 {
            counted += 1;
        }
        if counted + bare.len() > limit {
            // More than 9/10 of the limit is used already.
            if counted * 10 > limit * 9 {
                break;
            }
            if number > 0 {
                out.push(b'\n');
            }
            let extra = line.len() - bare.len();
            out.extend_from_slice(&line[..extra + limit.saturating_sub(counted)]);
            break;
        }
        if number > 0 {
            out.push(b'\n');
        }
        out.extend_from_slice(line);
        counted += bare.len();
    }
    out
}

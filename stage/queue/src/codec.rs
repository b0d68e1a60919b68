//! What is inside a record: envelopes and changes as bytes.
//!
//! A value is a row of fields: tag, length, bytes, with tag and length as varints (seven bits a byte, low ones
//! first). A reader skips tags that it does not know, so that an older program can read what a newer one wrote;
//! empty and default fields are not written. Every length is checked against what is there before it is believed,
//! and nothing is allocated by a number that the bytes claim.

use std::fmt;
use std::net::IpAddr;

use yamabiko_envelope::{
    BodyType, ClientAttributes, Envelope, Failure, Notify, QueueId, Recipient, RecipientState, Ret, RewriteContext,
    SaslIdentity, Timestamp, TlsWish, Trace, VerpDelimiters,
};
use yamabiko_status::{Class, EnhancedStatus};

use crate::Flags;
pub use crate::messages::Hints;
use crate::outline::{OutlineRecipient, OutlineState};
use crate::predicate::domain_of;

/// The bytes are not what this program or a compatible one writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A length goes beyond the end.
    Truncated,
    /// A number has more than 64 bits, or more than its place allows.
    Number,
    /// A text is not UTF-8.
    Text,
    /// A value outside its choices.
    Choice,
    /// A field that must be there is missing.
    Missing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "a field goes beyond the end of its record",
            Malformed::Number => "a number is out of range",
            Malformed::Text => "a text is not UTF-8",
            Malformed::Choice => "a field holds a value that this version does not know",
            Malformed::Missing => "a field that must be there is missing",
        })
    }
}

impl std::error::Error for Malformed {}

/// The parts of a message record beside the content.
#[derive(Clone, Debug, PartialEq)]
pub struct MessagePart {
    /// Next attempt, attempts so far, flags.
    pub standing: Standing,
    /// The message that this one replaces: gone in the same moment.
    pub replaces: Option<QueueId>,
    /// The envelope, states of the recipients included.
    pub envelope: Envelope,
}

/// What the queue keeps in memory about where a message stands. Part of every record that changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Not before this moment.
    pub next_attempt: Timestamp,
    /// Attempts so far, up to 65535.
    pub attempts: u16,
    /// Held, to be expired, delay warned.
    pub flags: Flags,
}

/// The parts of a state or settle record.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangePart {
    /// Where the message stands after the change.
    pub standing: Standing,
    /// Recipients by their position, with their new states.
    pub recipients: Vec<(u32, RecipientState)>,
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_number(out, tag);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, tag: u64, text: &str) {
    if !text.is_empty() {
        put_bytes(out, tag, text.as_bytes());
    }
}

fn put_count(out: &mut Vec<u8>, tag: u64, value: u64) {
    if value != 0 {
        put_group(out, tag, |out| put_number(out, value));
    }
}

/// A field whose bytes are written by `inner`. The length is put before them afterwards.
fn put_group(out: &mut Vec<u8>, tag: u64, inner: impl FnOnce(&mut Vec<u8>)) {
    put_number(out, tag);
    let at = out.len();
    out.push(0);
    inner(out);
    let len = out.len() - at - 1;
    if len < 0x80 {
        // `at` is the byte pushed above.
        out[at] = len as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_number(&mut prefix, len as u64);
    out.splice(at..=at, prefix);
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

pub(crate) fn number(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(Malformed::Number);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Number)
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, &'a [u8])>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = number(&mut self.0)?;
        let len = usize::try_from(number(&mut self.0)?).map_err(|_| Malformed::Truncated)?;
        let (field, rest) = self.0.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(Some((tag, field)))
    }
}

fn whole_number(mut field: &[u8]) -> Result<u64, Malformed> {
    let value = number(&mut field)?;
    if field.is_empty() { Ok(value) } else { Err(Malformed::Number) }
}

fn small<T: TryFrom<u64>>(field: &[u8]) -> Result<T, Malformed> {
    T::try_from(whole_number(field)?).map_err(|_| Malformed::Number)
}

fn text(field: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(field).map(str::to_owned).map_err(|_| Malformed::Text)
}

fn put_id(out: &mut Vec<u8>, tag: u64, id: QueueId) {
    put_group(out, tag, |out| {
        put_number(out, id.micros());
        put_number(out, u64::from(id.node()));
    });
}

fn queue_id(mut field: &[u8]) -> Result<QueueId, Malformed> {
    let micros = number(&mut field)?;
    Ok(QueueId::new(micros, small(field)?))
}

fn put_failure(out: &mut Vec<u8>, failure: &Failure) {
    let Failure { status, reason, diagnostic, remote_mta, relay, settled } = failure;
    put_group(out, 1, |out| {
        put_number(out, u64::from(status.class.digit()));
        put_number(out, u64::from(status.subject));
        put_number(out, u64::from(status.detail));
    });
    put_text(out, 2, reason);
    put_text(out, 3, diagnostic);
    put_text(out, 4, remote_mta);
    put_text(out, 5, relay);
    settled.iter().for_each(|member| put_text(out, 6, member));
}

fn failure(bytes: &[u8]) -> Result<Box<Failure>, Malformed> {
    let mut failure = Failure {
        status: EnhancedStatus::transient(0, 0),
        reason: String::new(),
        diagnostic: String::new(),
        remote_mta: String::new(),
        relay: String::new(),
        settled: Vec::new(),
    };
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => failure.status = status(field)?,
            2 => failure.reason = text(field)?,
            3 => failure.diagnostic = text(field)?,
            4 => failure.remote_mta = text(field)?,
            5 => failure.relay = text(field)?,
            6 => failure.settled.extend(Some(text(field)?).filter(|member| !member.is_empty())),
            _ => {}
        }
    }
    Ok(Box::new(failure))
}

fn status(mut field: &[u8]) -> Result<EnhancedStatus, Malformed> {
    let class = match number(&mut field)? {
        2 => Class::Success,
        4 => Class::Transient,
        5 => Class::Permanent,
        _ => return Err(Malformed::Choice),
    };
    let subject = number(&mut field)?;
    let detail = number(&mut field)?;
    let part = |n: u64| u16::try_from(n).ok().filter(|n| *n <= 999).ok_or(Malformed::Number);
    Ok(EnhancedStatus { class, subject: part(subject)?, detail: part(detail)? })
}

/// A state: a byte for which, then the failure's fields.
fn put_state(out: &mut Vec<u8>, state: &RecipientState) {
    match state {
        RecipientState::Pending => out.push(0),
        RecipientState::Deferred(failure) => {
            out.push(1);
            put_failure(out, failure);
        }
        RecipientState::Failed(failure) => {
            out.push(2);
            put_failure(out, failure);
        }
        RecipientState::Done => out.push(3),
    }
}

fn state(field: &[u8]) -> Result<RecipientState, Malformed> {
    let (kind, rest) = field.split_first().ok_or(Malformed::Truncated)?;
    Ok(match kind {
        0 => RecipientState::Pending,
        1 => RecipientState::Deferred(failure(rest)?),
        2 => RecipientState::Failed(failure(rest)?),
        3 => RecipientState::Done,
        _ => return Err(Malformed::Choice),
    })
}

fn put_recipient(out: &mut Vec<u8>, recipient: &Recipient) {
    let Recipient { address, original, orcpt, notify, state } = recipient;
    put_text(out, 1, address);
    put_text(out, 2, original);
    put_text(out, 3, orcpt);
    let Notify { never, success, failure, delay } = *notify;
    let bits = u64::from(never) | u64::from(success) << 1 | u64::from(failure) << 2 | u64::from(delay) << 3;
    put_count(out, 4, bits);
    if *state != RecipientState::Pending {
        put_group(out, 5, |out| put_state(out, state));
    }
}

fn recipient(bytes: &[u8]) -> Result<Recipient, Malformed> {
    let mut recipient = Recipient::default();
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => recipient.address = text(field)?,
            2 => recipient.original = text(field)?,
            3 => recipient.orcpt = text(field)?,
            4 => {
                let bits = whole_number(field)?;
                let bit = |n: u64| bits >> n & 1 == 1;
                recipient.notify = Notify { never: bit(0), success: bit(1), failure: bit(2), delay: bit(3) };
            }
            5 => recipient.state = state(field)?,
            _ => {}
        }
    }
    Ok(recipient)
}

fn put_client(out: &mut Vec<u8>, client: &ClientAttributes) {
    let ClientAttributes { name, reverse_name, address, port, helo, protocol, ident, server } = client;
    put_text(out, 1, name);
    put_text(out, 2, reverse_name);
    match address {
        Some(IpAddr::V4(a)) => put_bytes(out, 3, &a.octets()),
        Some(IpAddr::V6(a)) => put_bytes(out, 3, &a.octets()),
        None => {}
    }
    put_count(out, 4, u64::from(*port));
    put_text(out, 5, helo);
    put_text(out, 6, protocol);
    put_text(out, 7, ident);
    if let Some(server) = server {
        put_text(out, 8, &server.to_string());
    }
}

fn client(bytes: &[u8]) -> Result<ClientAttributes, Malformed> {
    let mut client = ClientAttributes::default();
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => client.name = text(field)?,
            2 => client.reverse_name = text(field)?,
            3 => {
                let v4 = <[u8; 4]>::try_from(field).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(field).map(IpAddr::from);
                client.address = Some(v4.or(v6).map_err(|_| Malformed::Choice)?);
            }
            4 => client.port = small(field)?,
            5 => client.helo = text(field)?,
            6 => client.protocol = text(field)?,
            7 => client.ident = text(field)?,
            8 => client.server = Some(text(field)?.parse().map_err(|_| Malformed::Choice)?),
            _ => {}
        }
    }
    Ok(client)
}

/// Tags of an envelope's fields.
mod tag {
    pub const ARRIVAL: u64 = 1;
    pub const SENDER: u64 = 2;
    pub const ENVID: u64 = 3;
    pub const RET: u64 = 4;
    pub const BODY: u64 = 5;
    pub const SMTPUTF8: u64 = 6;
    pub const CONTEXT: u64 = 7;
    pub const CLIENT: u64 = 8;
    pub const SASL: u64 = 9;
    pub const FILTER: u64 = 10;
    pub const VERP: u64 = 11;
    pub const TRACE: u64 = 12;
    pub const SIZE: u64 = 13;
    pub const MESSAGE_ID: u64 = 14;
    pub const RECIPIENT: u64 = 15;
    pub const TLS: u64 = 16;
}

/// Appends an envelope's fields. The queue ID is not among them: it stands in the record's header.
pub fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    // Taken apart by name, so that a field added to the envelope cannot be forgotten here.
    let Envelope {
        queue_id: _,
        arrival,
        sender,
        envid,
        ret,
        body,
        smtputf8,
        tls,
        context,
        client,
        sasl,
        filter,
        verp,
        trace,
        size,
        message_id,
        recipients,
    } = envelope;
    put_count(out, tag::ARRIVAL, arrival.0);
    put_text(out, tag::SENDER, sender);
    put_text(out, tag::ENVID, envid);
    let choice = match ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    };
    put_count(out, tag::RET, choice);
    let choice = match body {
        BodyType::Unspecified => 0,
        BodyType::SevenBit => 1,
        BodyType::EightBitMime => 2,
    };
    put_count(out, tag::BODY, choice);
    put_count(out, tag::SMTPUTF8, u64::from(*smtputf8));
    let choice = match tls {
        TlsWish::Policy => 0,
        TlsWish::Required => 1,
        TlsWish::NotRequired => 2,
    };
    put_count(out, tag::TLS, choice);
    let choice = match context {
        RewriteContext::Local => 0,
        RewriteContext::Remote => 1,
    };
    put_count(out, tag::CONTEXT, choice);
    if *client != ClientAttributes::default() {
        put_group(out, tag::CLIENT, |out| put_client(out, client));
    }
    if let Some(SaslIdentity { method, username, sender }) = sasl {
        put_group(out, tag::SASL, |out| {
            put_text(out, 1, method);
            put_text(out, 2, username);
            put_text(out, 3, sender);
        });
    }
    put_text(out, tag::FILTER, filter);
    if let Some(VerpDelimiters { first, second }) = verp {
        put_group(out, tag::VERP, |out| {
            put_number(out, u64::from(u32::from(*first)));
            put_number(out, u64::from(u32::from(*second)));
        });
    }
    let choice = match trace {
        Trace::No => 0,
        Trace::Record => 1,
        Trace::ProbeReport => 2,
        Trace::Probe => 3,
    };
    put_count(out, tag::TRACE, choice);
    put_count(out, tag::SIZE, *size);
    put_text(out, tag::MESSAGE_ID, message_id);
    for recipient in recipients {
        put_group(out, tag::RECIPIENT, |out| put_recipient(out, recipient));
    }
}

/// Reads what [`put_envelope`] wrote, or what a newer version wrote with more fields.
pub fn envelope(id: QueueId, bytes: &[u8]) -> Result<Envelope, Malformed> {
    let mut envelope = Envelope::new(id, Timestamp(0), "");
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            tag::ARRIVAL => envelope.arrival = Timestamp(whole_number(field)?),
            tag::SENDER => envelope.sender = text(field)?,
            tag::ENVID => envelope.envid = text(field)?,
            tag::RET => envelope.ret = Some(pick(field, &[(1, Ret::Full), (2, Ret::Headers)])?),
            tag::BODY => envelope.body = pick(field, &[(1, BodyType::SevenBit), (2, BodyType::EightBitMime)])?,
            tag::SMTPUTF8 => envelope.smtputf8 = whole_number(field)? != 0,
            tag::TLS => envelope.tls = pick(field, &[(1, TlsWish::Required), (2, TlsWish::NotRequired)])?,
            tag::CONTEXT => envelope.context = pick(field, &[(1, RewriteContext::Remote)])?,
            tag::CLIENT => envelope.client = client(field)?,
            tag::SASL => envelope.sasl = Some(sasl(field)?),
            tag::FILTER => envelope.filter = text(field)?,
            tag::VERP => envelope.verp = Some(verp(field)?),
            tag::TRACE => {
                let choices = [(1, Trace::Record), (2, Trace::ProbeReport), (3, Trace::Probe)];
                envelope.trace = pick(field, &choices)?;
            }
            tag::SIZE => envelope.size = whole_number(field)?,
            tag::MESSAGE_ID => envelope.message_id = text(field)?,
            tag::RECIPIENT => envelope.recipients.push(recipient(field)?),
            _ => {}
        }
    }
    Ok(envelope)
}

fn pick<T: Copy>(field: &[u8], choices: &[(u64, T)]) -> Result<T, Malformed> {
    let value = whole_number(field)?;
    choices.iter().find(|(n, _)| *n == value).map(|(_, choice)| *choice).ok_or(Malformed::Choice)
}

fn sasl(bytes: &[u8]) -> Result<SaslIdentity, Malformed> {
    let mut sasl = SaslIdentity::default();
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => sasl.method = text(field)?,
            2 => sasl.username = text(field)?,
            3 => sasl.sender = text(field)?,
            _ => {}
        }
    }
    Ok(sasl)
}

fn verp(mut field: &[u8]) -> Result<VerpDelimiters, Malformed> {
    let character = |n: u64| u32::try_from(n).ok().and_then(char::from_u32).ok_or(Malformed::Choice);
    let first = number(&mut field)?;
    let second = whole_number(field)?;
    Ok(VerpDelimiters { first: character(first)?, second: character(second)? })
}

fn put_standing(out: &mut Vec<u8>, standing: &Standing) {
    put_count(out, 1, standing.next_attempt.0);
    put_count(out, 2, u64::from(standing.attempts));
    put_count(out, 3, u64::from(standing.flags.stored_bits()));
}

/// Takes a field of a standing; false when the tag is none of its.
fn take_standing(standing: &mut Standing, tag: u64, field: &[u8]) -> Result<bool, Malformed> {
    match tag {
        1 => standing.next_attempt = Timestamp(whole_number(field)?),
        2 => standing.attempts = small(field)?,
        // Flags of a newer version are dropped: the low bits are those that we know.
        3 => standing.flags = Flags::from_stored_bits(whole_number(field)? as u8),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The payload of a message record.
pub fn put_message(out: &mut Vec<u8>, standing: &Standing, replaces: Option<QueueId>, envelope: &Envelope) {
    put_standing(out, standing);
    if let Some(id) = replaces {
        put_id(out, 4, id);
    }
    put_group(out, 5, |out| put_envelope(out, envelope));
}

/// Reads a message record's payload.
pub fn message(id: QueueId, bytes: &[u8]) -> Result<MessagePart, Malformed> {
    let (standing, replaces, inner) = message_outline(bytes)?;
    Ok(MessagePart { standing, replaces, envelope: envelope(id, inner)? })
}

/// Reads a message record's payload without taking the envelope apart: its bytes are the last value.
pub fn message_outline(bytes: &[u8]) -> Result<(Standing, Option<QueueId>, &[u8]), Malformed> {
    let mut standing = Standing::default();
    let mut replaces = None;
    let mut inner = None;
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            4 => replaces = Some(queue_id(field)?),
            5 => inner = Some(field),
            _ => {
                take_standing(&mut standing, tag, field)?;
            }
        }
    }
    Ok((standing, replaces, inner.ok_or(Malformed::Missing)?))
}

fn borrowed(field: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(field).map_err(|_| Malformed::Text)
}

/// What a listing shows of a message record's payload, without copying: arrival, size, sender; the recipients are
/// appended.
pub fn outline<'a>(
    bytes: &'a [u8],
    recipients: &mut Vec<OutlineRecipient<'a>>,
) -> Result<(Timestamp, u64, &'a str), Malformed> {
    let (_, _, inner) = message_outline(bytes)?;
    let (mut arrival, mut size, mut sender) = (Timestamp(0), 0, "");
    let mut fields = Fields(inner);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            tag::ARRIVAL => arrival = Timestamp(whole_number(field)?),
            tag::SIZE => size = whole_number(field)?,
            tag::SENDER => sender = borrowed(field)?,
            tag::RECIPIENT => {
                let (state, status) = (OutlineState::Pending, None);
                let mut recipient = OutlineRecipient { address: "", original: "", state, status };
                let mut fields = Fields(field);
                while let Some((tag, field)) = fields.next()? {
                    match tag {
                        1 => recipient.address = borrowed(field)?,
                        2 => recipient.original = borrowed(field)?,
                        5 => (recipient.state, recipient.status) = outline_state(field)?,
                        _ => {}
                    }
                }
                recipients.push(recipient);
            }
            _ => {}
        }
    }
    Ok((arrival, size, sender))
}

/// What a listing shows of a state or settle record's payload: new states and statuses by position.
pub fn outline_change<'a>(
    bytes: &'a [u8],
    mut set: impl FnMut(u32, (OutlineState<'a>, Option<EnhancedStatus>)),
) -> Result<(), Malformed> {
    let mut fields = Fields(bytes);
    while let Some((tag, mut field)) = fields.next()? {
        if tag == 4 {
            let index = u32::try_from(number(&mut field)?).map_err(|_| Malformed::Number)?;
            set(index, outline_state(field)?);
        }
    }
    Ok(())
}

fn outline_state(field: &[u8]) -> Result<(OutlineState<'_>, Option<EnhancedStatus>), Malformed> {
    let (kind, rest) = field.split_first().ok_or(Malformed::Truncated)?;
    let (mut reason, mut said) = ("", EnhancedStatus::transient(0, 0));
    let mut fields = Fields(if matches!(kind, 1 | 2) { rest } else { &[] });
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => said = status(field)?,
            2 => reason = borrowed(field)?,
            _ => {}
        }
    }
    Ok(match kind {
        0 => (OutlineState::Pending, None),
        1 => (OutlineState::Deferred(reason), Some(said)),
        2 => (OutlineState::Failed(reason), Some(said)),
        3 => (OutlineState::Done, None),
        _ => return Err(Malformed::Choice),
    })
}

/// What the index keeps of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How many recipients.
    pub recipients: usize,
    /// When it arrived.
    pub arrival: Timestamp,
    /// Hashes of domains.
    pub hints: Hints,
}

/// Looks through an encoded envelope for what the index keeps of it.
pub fn survey(bytes: &[u8]) -> Result<Survey, Malformed> {
    let (mut count, mut arrival, mut sender) = (0, Timestamp(0), &[][..]);
    // The one hash of all recipients' domains; none before the first.
    let mut same = None;
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            tag::ARRIVAL => arrival = Timestamp(whole_number(field)?),
            tag::SENDER => sender = field,
            tag::RECIPIENT => {
                count += 1;
                let mut address = &[][..];
                let mut fields = Fields(field);
                while let Some((tag, field)) = fields.next()? {
                    if tag == 1 {
                        address = field;
                    }
                }
                let hash = Hints::of(domain_of(borrowed(address)?));
                same = Some(if same.is_none_or(|other| other == hash) { hash } else { 0 });
            }
            _ => {}
        }
    }
    let hints = Hints { sender: Hints::of(domain_of(borrowed(sender)?)), recipients: same.unwrap_or(0) };
    Ok(Survey { recipients: count, arrival, hints })
}

/// The payload of a state or settle record.
pub fn put_change<'a>(
    out: &mut Vec<u8>,
    standing: &Standing,
    recipients: impl Iterator<Item = (u32, &'a RecipientState)>,
) {
    put_standing(out, standing);
    recipients.for_each(|recipient| put_change_of(out, recipient));
}

fn put_change_of(out: &mut Vec<u8>, (index, state): (u32, &RecipientState)) {
    put_group(out, 4, |out| {
        put_number(out, u64::from(index));
        put_state(out, state);
    });
}

/// The payload of a state or settle record, by itself.
pub fn change_payload<'a>(standing: &Standing, recipients: impl Iterator<Item = (u32, &'a RecipientState)>) -> Vec<u8> {
    let mut payload = Vec::new();
    put_change(&mut payload, standing, recipients);
    payload
}

/// The payloads of as many settle records as it takes for each to be not much longer than `limit` bytes.
pub fn change_payloads<'a>(
    standing: &Standing,
    recipients: impl Iterator<Item = (u32, &'a RecipientState)>,
    limit: u32,
) -> Vec<Vec<u8>> {
    let mut payloads = vec![change_payload(standing, [].into_iter())];
    for recipient in recipients {
        let mut field = Vec::new();
        put_change_of(&mut field, recipient);
        match payloads.last_mut() {
            Some(last) if last.len() + field.len() <= limit as usize => last.extend(field),
            _ => payloads.push(change_payload(standing, [recipient].into_iter())),
        }
    }
    payloads
}

/// Reads a state or settle record's payload.
pub fn change(bytes: &[u8]) -> Result<ChangePart, Malformed> {
    let mut part = ChangePart { standing: Standing::default(), recipients: Vec::new() };
    let mut fields = Fields(bytes);
    while let Some((tag, mut field)) = fields.next()? {
        if tag == 4 {
            let index = u32::try_from(number(&mut field)?).map_err(|_| Malformed::Number)?;
            part.recipients.push((index, state(field)?));
        } else {
            take_standing(&mut part.standing, tag, field)?;
        }
    }
    Ok(part)
}

/// Reads only where the message stands after a change.
pub fn change_standing(bytes: &[u8]) -> Result<Standing, Malformed> {
    change_outline(bytes).map(|(standing, _)| standing)
}

/// The same, and whether the change names any recipients.
pub fn change_outline(bytes: &[u8]) -> Result<(Standing, bool), Malformed> {
    let (mut standing, mut recipients) = (Standing::default(), false);
    let mut fields = Fields(bytes);
    while let Some((tag, field)) = fields.next()? {
        recipients |= !take_standing(&mut standing, tag, field)? && tag == 4;
    }
    Ok((standing, recipients))
}

//! An event as one line of Postfix's mail log, without its header.
//!
//! The texts are the interface that pflogsumm, fail2ban and logwatch read, so they are Postfix 3.7's to the letter.
//! Addresses are shown in external form unless `info_log_address_format` is `internal`; whatever is not printable becomes `?`.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Write};

use yamabiko_envelope::{
    Client, CommandCount, ContentAction, Decision, Delays, Delivery, DeliveryStatus, Event, Kind, NoticeKind, QueueId,
    SaslIdentity, SessionEnd, Severity,
};

use crate::push_delay;

/// Longest text of a line in bytes, header not counted. Longer ones are cut.
pub const MAX_TEXT: usize = 8192;

/// What may be set about the text of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// `delay_logging_resolution_limit`: decimals of delays, 0 to 6.
    pub delay_resolution: u32,
    /// `info_log_address_format = internal`: local parts are not quoted.
    pub internal_addresses: bool,
}

thread_local! {
    /// [`Style::internal_addresses`] of the line that is being written.
    static INTERNAL: Cell<bool> = const { Cell::new(false) };
}

impl Style {
    /// Addresses are shown so in what this thread formats next.
    pub(crate) fn apply(self) {
        INTERNAL.set(self.internal_addresses);
    }
}

impl Default for Style {
    fn default() -> Self {
        Self { delay_resolution: 2, internal_addresses: false }
    }
}

/// Appends the text of an event: printable, one line, without line end.
pub fn push_text(out: &mut String, event: &Event, style: Style) {
    let start = out.len();
    style.apply();
    // Writing to a String cannot fail.
    let _ = write_text(out, event, style);
    make_printable(out, start);
}

/// The text of an event alone.
pub fn text(event: &Event, style: Style) -> String {
    let mut out = String::new();
    push_text(&mut out, event, style);
    out
}

/// Syslog's number for the severity of an event (RFC 5424 table 2).
pub fn severity_number(event: &Event) -> u8 {
    match &event.kind {
        Kind::Text { severity, .. } => match severity {
            Severity::Info => 6,
            Severity::Warning => 4,
            Severity::Error => 3,
            Severity::Fatal | Severity::Panic => 2,
        },
        _ => 6,
    }
}

/// Cuts what is too long and replaces control characters, from byte `start` on. Nearly every line is clean, so look
/// before copying.
fn make_printable(out: &mut String, start: usize) {
    if out.len() - start > MAX_TEXT {
        let mut end = start + MAX_TEXT;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
    }
    // C1 controls are in it: a terminal may act on them.
    if out[start..].chars().any(char::is_control) {
        let clean: String = out[start..].chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        out.truncate(start);
        out.push_str(&clean);
    }
}

/// An internal address in external form. Nearly every local part is a plain dot-string, so look before copying.
pub(crate) fn external(address: &str) -> Cow<'_, str> {
    let local = address.rfind('@').map_or(address, |at| &address[..at]);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    let is_plain = local.bytes().all(plain) && !dots && (address.is_empty() || !local.is_empty());
    if is_plain || INTERNAL.get() {
        return Cow::Borrowed(address);
    }
    yamabiko_address::quote(address)
}

struct Address<'a>(&'a str);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", external(self.0))
    }
}

pub(crate) struct ClientName<'a>(pub &'a Client);

impl fmt::Display for ClientName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client { name, address, port } = self.0;
        match address {
            Some(address) => write!(f, "{name}[{}]", address.to_canonical())?,
            None => write!(f, "{name}[unknown]")?,
        }
        match port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// `QID` or `NOQUEUE`
struct Subject(Option<QueueId>);

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("NOQUEUE"),
        }
    }
}

/// The word before a text of this severity.
pub(crate) fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "",
        Severity::Warning => "warning: ",
        Severity::Error => "error: ",
        Severity::Fatal => "fatal: ",
        Severity::Panic => "panic: ",
    }
}

/// How a status is written after `status=`.
pub fn status_word(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Sent => "sent",
        DeliveryStatus::Deferred => "deferred",
        DeliveryStatus::Bounced => "bounced",
        DeliveryStatus::SoftBounce => "SOFTBOUNCE",
        DeliveryStatus::Deliverable => "deliverable",
        DeliveryStatus::Undeliverable => "undeliverable",
    }
}

/// How a notice is named.
pub fn notice_words(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::SenderNonDelivery => "sender non-delivery notification",
        NoticeKind::PostmasterNonDelivery => "postmaster non-delivery notification",
        NoticeKind::SenderDelay => "sender delay notification",
        NoticeKind::PostmasterDelay => "postmaster delay notification",
        NoticeKind::SenderSuccess => "sender delivery status notification",
    }
}

pub(crate) fn session_end_words(how: SessionEnd) -> &'static str {
    match how {
        SessionEnd::Lost => "lost connection",
        SessionEnd::Timeout => "timeout",
        SessionEnd::TooManyErrors => "too many errors",
    }
}

fn write_text(out: &mut String, event: &Event, style: Style) -> fmt::Result {
    match &event.kind {
        Kind::Connected { client } => write!(out, "connect from {}", ClientName(client)),
        Kind::Accepted { queue_id, client, sasl, forwarded } => {
            write!(out, "{queue_id}: client={}", ClientName(client))?;
            write_accepted(out, sasl.as_ref(), forwarded.as_ref())
        }
        // Postfix names the message in progress here only from 3.10 on.
        Kind::SessionEnded { how, after, client, queue_id: _ } => {
            write!(out, "{} after {after} from {}", session_end_words(*how), ClientName(client))
        }
        Kind::Disconnected { client, counts, notes } => {
            write!(out, "disconnect from {}", ClientName(client))?;
            write_counts(out, counts)?;
            if !notes.is_empty() {
                write!(out, " notes={}", notes.join(","))?;
            }
            Ok(())
        }
        Kind::Decided(decision) => write_decision(out, decision),
        Kind::PickedUp { queue_id, uid, sender } => write!(out, "{queue_id}: uid={uid} from={}", Address(sender)),
        Kind::Identified { queue_id, message_id, resent } => {
            let name = if *resent { "resent-message-id" } else { "message-id" };
            let value = if message_id.is_empty() { "<>" } else { message_id };
            write!(out, "{queue_id}: {name}={value}")
        }
        Kind::ContentChecked(action) => write_content_action(out, action),
        Kind::Abandoned { queue_id, why } => write!(out, "{queue_id}: removed ({why})"),
        Kind::Activated { queue_id, sender, size, recipients } => {
            write!(out, "{queue_id}: from={}, size={size}, nrcpt={recipients} (queue active)", Address(sender))
        }
        Kind::Removed { queue_id } => write!(out, "{queue_id}: removed"),
        Kind::Expired { queue_id, sender, forced } => {
            let word = if *forced { "force-expired" } else { "expired" };
            write!(out, "{queue_id}: from={}, status={word}, returned to sender", Address(sender))
        }
        Kind::Delivered(delivery) => write_delivery(out, delivery, style),
        Kind::Noticed { queue_id, kind, notice } => write!(out, "{queue_id}: {}: {notice}", notice_words(*kind)),
        Kind::Text { severity, queue_id, text } => {
            out.push_str(severity_word(*severity));
            if let Some(id) = queue_id {
                write!(out, "{id}: ")?;
            }
            out.write_str(text)
        }
    }
}

fn write_accepted(
    out: &mut String,
    sasl: Option<&SaslIdentity>,
    forwarded: Option<&(String, Option<Client>)>,
) -> fmt::Result {
    if let Some(sasl) = sasl {
        for (name, value) in
            [("sasl_method", &sasl.method), ("sasl_username", &sasl.username), ("sasl_sender", &sasl.sender)]
        {
            if !value.is_empty() {
                write!(out, ", {name}={value}")?;
            }
        }
    }
    if let Some((queue_id, client)) = forwarded {
        if !queue_id.is_empty() {
            write!(out, ", orig_queue_id={queue_id}")?;
        }
        if let Some(client) = client {
            write!(out, ", orig_client={}", ClientName(client))?;
        }
    }
    Ok(())
}

/// ` ehlo=1 rcpt=2/4 commands=3/5`: successes, and all of them after a slash where they are more.
fn write_counts(out: &mut String, counts: &[CommandCount]) -> fmt::Result {
    let mut sum = (0u64, 0u64);
    for CommandCount { name, total, ok } in counts {
        write!(out, " {name}={ok}")?;
        if ok != total {
            write!(out, "/{total}")?;
        }
        sum = (sum.0 + u64::from(*ok), sum.1 + u64::from(*total));
    }
    write!(out, " commands={}", sum.0)?;
    if sum.0 != sum.1 || sum.1 == 0 {
        write!(out, "/{}", sum.1)?;
    }
    Ok(())
}

fn write_decision(out: &mut String, decision: &Decision) -> fmt::Result {
    let Decision { queue_id, word, stage, client, text, .. } = decision;
    write!(out, "{}: {word}: {stage} from {}: {text};", Subject(*queue_id), ClientName(client))?;
    if let Some(sender) = &decision.sender {
        write!(out, " from={}", Address(sender))?;
    }
    if let Some(recipient) = &decision.recipient {
        write!(out, " to={}", Address(recipient))?;
    }
    write_protocol(out, &decision.protocol, decision.helo.as_deref().unwrap_or_default())
}

fn write_protocol(out: &mut String, protocol: &str, helo: &str) -> fmt::Result {
    if !protocol.is_empty() {
        write!(out, " proto={protocol}")?;
    }
    if !helo.is_empty() {
        write!(out, " helo=<{helo}>")?;
    }
    Ok(())
}

fn write_content_action(out: &mut String, action: &ContentAction) -> fmt::Result {
    let ContentAction { queue_id, word, class, content, .. } = action;
    write!(out, "{queue_id}: {word}: {class} {content} from ")?;
    match &action.client {
        Some(client) => write!(out, "{};", ClientName(client))?,
        None => out.push_str("local;"),
    }
    write!(out, " from={}", Address(&action.sender))?;
    if let Some(recipient) = &action.recipient {
        write!(out, " to={}", Address(recipient))?;
    }
    write_protocol(out, &action.protocol, &action.helo)?;
    if !action.text.is_empty() {
        write!(out, ": {}", action.text)?;
    }
    Ok(())
}

fn write_delivery(out: &mut String, delivery: &Delivery, style: Style) -> fmt::Result {
    let Delivery {
        queue_id, recipient, original, relay, connection_use, delays, tls_status, dsn, status, reason, ..
    } = delivery;
    write!(out, "{queue_id}: to={}", Address(recipient))?;
    if !original.is_empty() && original != recipient {
        write!(out, ", orig_to={}", Address(original))?;
    }
    write!(out, ", relay={relay}")?;
    if *connection_use > 1 {
        write!(out, ", conn_use={connection_use}")?;
    }
    out.push_str(", delay=");
    push_delay(out, delays.total(), style.delay_resolution);
    let Delays { before_queue, in_queue, setup, transmission } = *delays;
    for (before, delay) in [(", delays=", before_queue), ("/", in_queue), ("/", setup), ("/", transmission)] {
        out.push_str(before);
        push_delay(out, delay, style.delay_resolution);
    }
    if let Some(tls) = tls_status {
        write!(out, ", tls={tls}")?;
    }
    write!(out, ", dsn={dsn}, status={} ({reason})", status_word(*status))
}

#[cfg(test)]
#[path = "line_tests.rs"]
pub(crate) mod tests;

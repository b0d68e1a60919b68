//! One piece of work for a delivery agent, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

use crate::{Content, Envelope, Timestamp};

/// One recipient of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecipient {
    /// Position in [`Envelope::recipients`].
    pub index: u32,
    /// The address as resolved for this delivery (internal form); usually the envelope's.
    pub address: String,
}

/// One piece of work: this message, these recipients, that way. All recipients share transport and next hop.
#[derive(Clone, Debug)]
pub struct DeliveryRequest {
    /// The envelope; recipients beyond those of this delivery are in it too.
    pub envelope: Arc<Envelope>,
    /// The message.
    pub content: Content,
    /// Name of the transport: a service in master.cf (`smtp`, `local`, `docomo-smtp`).
    pub transport: Arc<str>,
    /// Next-hop destination: domain, `[host]:port`, or what the transport understands.
    pub nexthop: Arc<str>,
    /// Who is to get it.
    pub recipients: Vec<DeliveryRecipient>,
    /// Envelope sender for this delivery: the envelope's, or its VERP form.
    pub sender: Arc<str>,
    /// When the message became active, for `delays=`.
    pub activated: Timestamp,
    /// When this delivery was handed to the agent, for `delays=`.
    pub started: Timestamp,
    /// What is wanted of connections where they are kept on demand.
    pub reuse: Reuse,
}

/// Use of connections that are kept while a destination is busy (`smtp_connection_cache_on_demand`): the flags CONN_LOAD and
/// CONN_STORE of Postfix's delivery requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// An idle connection may be taken.
    pub load: bool,
    /// The connection may be kept for the next delivery.
    pub store: bool,
}

impl DeliveryRequest {
    /// A message for all of its recipients, by one way and at once.
    pub fn whole(envelope: Envelope, content: Content, transport: &str, nexthop: &str, now: Timestamp) -> Self {
        let numbered = (0u32..).zip(&envelope.recipients);
        Self {
            recipients: numbered
                .map(|(index, recipient)| DeliveryRecipient { index, address: recipient.address.clone() })
                .collect(),
            sender: envelope.sender.as_str().into(),
            envelope: Arc::new(envelope),
            content,
            transport: transport.into(),
            nexthop: nexthop.into(),
            activated: now,
            started: now,
            reuse: Reuse::default(),
        }
    }
}

/// What a recipient's report says became of the message (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// In its mailbox.
    Delivered,
    /// Handed to a server that will not report further.
    Relayed,
    /// Handed to a server that offers DSN and was told what to report: a success notice is its business, not ours
    /// (RFC 3461 section 5.2.2).
    HandedOn,
    /// Turned into several addresses.
    Expanded,
}

/// Where in an SMTP conversation a reply came or a connection broke. The same words mean different things at
/// different stages, so the stage stays with the outcome for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmtpStage {
    /// Name lookup, before any connection.
    Lookup,
    /// Making the connection.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO or LHLO.
    Ehlo,
    /// HELO
    Helo,
    /// STARTTLS
    StartTls,
    /// AUTH
    Auth,
    /// XFORWARD
    Xforward,
    /// MAIL FROM
    Mail,
    /// RCPT TO
    Rcpt,
    /// DATA, before the message
    Data,
    /// The message itself.
    Body,
    /// After the final dot.
    EndOfData,
    /// RSET between messages, or probing a reused connection.
    Rset,
    /// QUIT
    Quit,
}

/// The type before `;` in a `Diagnostic-Code:` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagnosticType {
    /// `smtp`: the text is a remote reply.
    Smtp,
    /// `x-unix`: the text is a command's output or a system error.
    Unix,
    /// `X-Postfix` (by mail_name): our own reason.
    Own,
}

/// What came of a delivery for one recipient. A value, never an error: our own trouble is `Deferred` here.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which recipient: its position in [`Envelope::recipients`]. Several outcomes may be for the same one, when
    /// `local` expanded it by alias or `.forward`: it is done when none of them is deferred.
    pub recipient: u32,
    /// The final address where it is not the request's: a leaf of such an expansion. `None` otherwise.
    pub expanded: Option<String>,
    /// Sent, deferred or failed.
    pub result: Result,
    /// Enhanced status code; its class agrees with `result`.
    pub status: EnhancedStatus,
    /// The text in parentheses of the log line, and the reason in `mailq` and in the notice.
    pub reason: String,
    /// `Diagnostic-Code:` text where it is not the reason itself (the remote's reply verbatim).
    pub diagnostic: Option<(DiagnosticType, String)>,
    /// `Remote-MTA:` host name.
    pub remote_mta: Option<String>,
    /// The relay field of the log line: `host[addr]:port`, `none`, `local`, ...
    pub relay: String,
    /// Stage of the conversation, for SMTP and LMTP.
    pub stage: Option<SmtpStage>,
    /// Reply code, where a remote server gave one.
    pub reply: Option<ReplyCode>,
    /// Uses of the connection so far, this one included; logged from 2 on.
    pub connection_use: u32,
    /// How the connection was encrypted: `TLSv1.3 with cipher NAME (256 bits)`; `None` in the clear.
    pub tls: Option<std::sync::Arc<str>>,
    /// `tls=` of the log line: the level that was wanted, and what came of it; `None` where that is not logged.
    pub tls_status: Option<std::sync::Arc<str>>,
    /// When the transmission began, for `delays=`; the time between `started` and this is connection setup.
    pub connected: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// It failed, and `soft_bounce` made it wait instead.
    pub soft: bool,
    /// Its line was written already: another agent, to which the recipient was passed, has spoken for itself.
    pub logged: bool,
    /// Members of the recipient's list (alias, `.forward`) that it is about, under names that the agent knows again at the
    /// next attempt. Empty where it is about the recipient itself.
    pub members: Vec<String>,
}

/// The three things that can come of a delivery for a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// It is settled, well.
    Sent(Action),
    /// Try again later.
    Deferred,
    /// It is settled, badly.
    Failed,
}

impl Outcome {
    /// An outcome without a remote server in it: no diagnostic, no stage, `relay=none`.
    pub fn of_our_own(
        recipient: u32,
        result: Result,
        status: EnhancedStatus,
        reason: impl Into<String>,
        ended: Timestamp,
    ) -> Self {
        Self {
            recipient,
            expanded: None,
            result,
            status,
            reason: reason.into(),
            diagnostic: None,
            remote_mta: None,
            relay: "none".to_owned(),
            stage: None,
            reply: None,
            connection_use: 1,
            tls: None,
            tls_status: None,
            connected: None,
            ended,
            soft: false,
            logged: false,
            members: Vec::new(),
        }
    }

    /// The result for a status: class 2 is `sent`, 4 deferred, 5 failed.
    pub fn result_of(status: EnhancedStatus, action: Action) -> Result {
        match status.class {
            Class::Success => Result::Sent(action),
            Class::Transient => Result::Deferred,
            Class::Permanent => Result::Failed,
        }
    }
}

/// What a delivery says about its destination, for the concurrency window of the schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// One per recipient of the request.
    pub outcomes: Vec<Outcome>,
    /// The destination (not a single recipient) could not be reached or refused everything: negative feedback, with
    /// the reason for mail that waits behind it. (Postfix: `DSN` in the delivery status, "site unavailable".)
    pub destination_failure: Option<(EnhancedStatus, String)>,
}

/// The four numbers of `delays=`: before the queue manager, in it, connection setup, transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// a
    pub before_queue: Duration,
    /// b
    pub in_queue: Duration,
    /// c
    pub setup: Duration,
    /// d
    pub transmission: Duration,
}

impl Delays {
    /// From the times of a request and an outcome.
    pub fn of(request: &DeliveryRequest, outcome: &Outcome) -> Self {
        let connected = outcome.connected.unwrap_or(outcome.ended);
        Self {
            before_queue: request.activated.since(request.envelope.arrival),
            in_queue: request.started.since(request.activated),
            setup: connected.since(request.started),
            transmission: outcome.ended.since(connected),
        }
    }
    /// `delay=`
    pub fn total(self) -> Duration {
        self.before_queue + self.in_queue + self.setup + self.transmission
    }
}

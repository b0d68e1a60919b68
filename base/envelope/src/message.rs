//! The envelope: everything that is stored about a message beside its content.
//!
//! Addresses are in *internal* form: local part unquoted, no angle brackets, `""` for the null reverse-path.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{QueueId, Timestamp};
use yamabiko_status::EnhancedStatus;

/// `BODY=` of the MAIL command (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyType {
    /// Not said.
    #[default]
    Unspecified,
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// `RET=` of the MAIL command (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// Return the full message with a failure report.
    Full,
    /// Return the headers only.
    Headers,
}

/// `NOTIFY=` of the RCPT command (RFC 3461 section 4.1). All false means that nothing was asked, which is not `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// `NEVER`
    pub never: bool,
    /// `SUCCESS`
    pub success: bool,
    /// `FAILURE`
    pub failure: bool,
    /// `DELAY`
    pub delay: bool,
}

impl Notify {
    /// Nothing was asked: report failures and delays, as RFC 3461 section 4.1 leaves to the server.
    pub fn is_unset(self) -> bool {
        self == Self::default()
    }
    /// A failure is to be reported.
    pub fn wants_failure(self) -> bool {
        self.is_unset() || self.failure
    }
    /// A delay is to be reported.
    pub fn wants_delay(self) -> bool {
        self.is_unset() || self.delay
    }
    /// Success is to be reported.
    pub fn wants_success(self) -> bool {
        self.success
    }
}

/// Whose headers may be completed with our domain (Postfix: `rewrite_context`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RewriteContext {
    /// A local submission or a client in `local_header_rewrite_clients`.
    #[default]
    Local,
    /// Anyone else: header addresses are left alone unless `remote_header_rewrite_domain` is set.
    Remote,
}

/// What a message wants of TLS (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsWish {
    /// What each destination's policy says.
    #[default]
    Policy,
    /// `REQUIRETLS` in MAIL: nothing of it goes anywhere without TLS that is proved.
    Required,
    /// `TLS-Required: No` in the header: delivery counts for more than TLS.
    NotRequired,
}

/// Who spoke to us: what the `Received:` field, XFORWARD, log lines and pipe macros say of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAttributes {
    /// Verified name, `unknown` when there is none; empty for local submissions.
    pub name: String,
    /// Name by PTR record alone.
    pub reverse_name: String,
    /// Address; none for local submissions.
    pub address: Option<IpAddr>,
    /// Client port; 0 when not known.
    pub port: u16,
    /// Argument of HELO or EHLO.
    pub helo: String,
    /// `SMTP`, `ESMTP`, `ESMTPS`, ...
    pub protocol: String,
    /// Queue ID at the client, by XFORWARD IDENT.
    pub ident: String,
    /// Our end of the connection; none for local submissions.
    pub server: Option<SocketAddr>,
}

/// An authenticated client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaslIdentity {
    /// Mechanism.
    pub method: String,
    /// Login name.
    pub username: String,
    /// `AUTH=` of the MAIL command.
    pub sender: String,
}

/// The two characters of VERP (Postfix: `default_verp_delimiters`, usually `+=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerpDelimiters {
    /// Between the sender's local part and the recipient's.
    pub first: char,
    /// In place of the recipient's `@`.
    pub second: char,
}

/// A report the submitter asked for beyond RFC 3461.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trace {
    /// None.
    #[default]
    No,
    /// `sendmail -v`: deliver and report.
    Record,
    /// `sendmail -bv`: report what would be done, deliver nothing.
    ProbeReport,
    /// An address verification probe of our own: deliver nothing, tell the verifier.
    Probe,
}

/// Why the last attempt for a recipient did not end it. Shown by `mailq` and by reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Enhanced status code.
    #[serde(with = "status_text")]
    pub status: EnhancedStatus,
    /// The reason as `mailq` and the log show it.
    pub reason: String,
    /// `Diagnostic-Code:` with its type, as in a report; empty when the reason itself is the diagnostic.
    pub diagnostic: String,
    /// `Remote-MTA:` name; empty when there is none.
    pub remote_mta: String,
    /// The relay field of the log line.
    pub relay: String,
    /// Members of the recipient's list (alias, `.forward`) that are settled although others wait, by
    /// [`Outcome::members`](crate::Outcome::members): the next attempt passes over them. Postfix does not remember this and
    /// delivers to files and commands of a list again (local(8), BUGS).
    #[serde(default)]
    pub settled: Vec<String>,
}

/// Where a recipient stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientState {
    /// Still to be delivered, never tried yet.
    #[default]
    Pending,
    /// Tried and deferred.
    Deferred(Box<Failure>),
    /// Failed for good; the notice that says so is not written yet.
    Failed(Box<Failure>),
    /// Settled: delivered, reported, or taken over by another message.
    Done,
}

/// One envelope recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Final recipient after rewriting and virtual aliases, internal form.
    pub address: String,
    /// As it was given (`orig_to=`, `X-Original-To:`); equal to `address` or empty when nothing changed it.
    pub original: String,
    /// `ORCPT=`, as `type;xtext-decoded address`; empty when none.
    pub orcpt: String,
    /// `NOTIFY=`
    pub notify: Notify,
    /// Where it stands.
    pub state: RecipientState,
}

/// Everything stored about a message beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Its name.
    pub queue_id: QueueId,
    /// When it arrived.
    pub arrival: Timestamp,
    /// Envelope sender, internal form; `""` is the null reverse-path.
    pub sender: String,
    /// `ENVID=`, xtext-decoded; empty when none.
    pub envid: String,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `BODY=`
    pub body: BodyType,
    /// The transaction needs SMTPUTF8 onward (RFC 6531).
    pub smtputf8: bool,
    /// What is wanted of TLS on its way (RFC 8689).
    #[serde(default)]
    pub tls: TlsWish,
    /// Header rewriting context.
    pub context: RewriteContext,
    /// The client that brought it.
    pub client: ClientAttributes,
    /// Its login, if it had one.
    pub sasl: Option<SaslIdentity>,
    /// `content_filter` or FILTER action: `transport:nexthop`; empty when none.
    pub filter: String,
    /// One envelope sender per recipient.
    pub verp: Option<VerpDelimiters>,
    /// Report asked for with `-v` or `-bv`.
    pub trace: Trace,
    /// Size of the content in bytes, LF line ends.
    pub size: u64,
    /// The Message-ID header's value with its angle brackets; empty when none.
    pub message_id: String,
    /// Recipients in the order in which they were accepted.
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// An envelope with nothing but a name, a time and a sender.
    pub fn new(queue_id: QueueId, arrival: Timestamp, sender: impl Into<String>) -> Self {
        Self {
            queue_id,
            arrival,
            sender: sender.into(),
            envid: String::new(),
            ret: None,
            body: BodyType::Unspecified,
            smtputf8: false,
            tls: TlsWish::default(),
            context: RewriteContext::Local,
            client: ClientAttributes::default(),
            sasl: None,
            filter: String::new(),
            verp: None,
            trace: Trace::No,
            size: 0,
            message_id: String::new(),
            recipients: Vec::new(),
        }
    }
}

mod status_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use yamabiko_status::EnhancedStatus;

    pub fn serialize<S: Serializer>(status: &EnhancedStatus, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(status)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<EnhancedStatus, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

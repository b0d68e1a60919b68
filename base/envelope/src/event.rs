//! One event, many readers: log line, ledger row, counter, report field and live stream are all made from these.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use yamabiko_status::{EnhancedStatus, ReplyCode};

use crate::{Action, Delays, QueueId, SaslIdentity, SmtpStage, Timestamp};

/// Which service speaks: `postfix/smtpd` in the log is `syslog_name` and `program`. Without a `syslog_name` the program is all
/// of it, as with `postlog -t TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `syslog_name` of the service, `postfix` unless set.
    pub syslog_name: Arc<str>,
    /// Postfix's name of the program: `smtpd`, `cleanup`, `qmgr`, `smtp`, `local`, `postsuper`, ...
    pub program: Cow<'static, str>,
}

impl Origin {
    /// The usual one: `syslog_name` as given, a program known at build time.
    pub fn new(syslog_name: &Arc<str>, program: &'static str) -> Self {
        Self { syslog_name: Arc::clone(syslog_name), program: Cow::Borrowed(program) }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.syslog_name.is_empty() {
            f.write_str(&self.syslog_name)?;
            f.write_str("/")?;
        }
        f.write_str(&self.program)
    }
}

/// A client as log lines name it: `name[address]`, with `:port` where `smtpd_client_port_logging` is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Verified name, or `unknown`.
    pub name: Arc<str>,
    /// Address; `None` for local submissions.
    pub address: Option<IpAddr>,
    /// Port, if it is to be logged.
    pub port: Option<u16>,
}

/// How a session ended that did not end with QUIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// `lost connection after`
    Lost,
    /// `timeout after`
    Timeout,
    /// `too many errors after`
    TooManyErrors,
}

/// A counter of the disconnect line: `rcpt=2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandCount {
    /// Lower-case command name, `unknown` for the rest.
    pub name: &'static str,
    /// Given.
    pub total: u32,
    /// Of these, answered with success.
    pub ok: u32,
}

/// Severity words of Postfix's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No word.
    Info,
    /// `warning: `
    Warning,
    /// `error: `
    Error,
    /// `fatal: `
    Fatal,
    /// `panic: `
    Panic,
}

/// An element of a restriction list that had a say in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionStep {
    /// The parameter that holds it, or the table whose entry named it.
    pub parameter: Arc<str>,
    /// As written, with its argument.
    pub element: Arc<str>,
    /// `file:line` of the parameter; empty for a default.
    pub place: String,
    /// What matched: `file:line: key value`, or what was answered; empty where nothing is looked up.
    pub matched: String,
    /// `permit`, `reject` or `dunno`.
    pub verdict: &'static str,
}

/// A decision about a client, sender, recipient or message: `reject:`, `hold:`, `warn:` and their kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The message, once there is one; `NOQUEUE` else.
    pub queue_id: Option<QueueId>,
    /// `reject`, `reject_warning`, `discard`, `hold`, `filter`, `redirect`, `info`, `warn`, `prepend`, `bcc`, `permit`...
    pub word: &'static str,
    /// `CONNECT`, `HELO`, `MAIL`, `RCPT`, `DATA`, `END-OF-MESSAGE`, `VRFY`, `ETRN`, ...
    pub stage: Cow<'static, str>,
    /// Who.
    pub client: Client,
    /// The reply or the action's text.
    pub text: String,
    /// Envelope sender, once MAIL was given.
    pub sender: Option<String>,
    /// Envelope recipient in question.
    pub recipient: Option<String>,
    /// `SMTP` or `ESMTP`...
    pub protocol: String,
    /// HELO argument, if it was given.
    pub helo: Option<String>,
    /// How it was come to, in order: for refusals by restrictions, where the log has room for it (`log_format = json`).
    pub steps: Vec<DecisionStep>,
}

/// A content check that matched in cleanup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentAction {
    /// The message.
    pub queue_id: QueueId,
    /// `reject`, `warning`, `discard`, `hold`, ...
    pub word: &'static str,
    /// `header` or `body`...
    pub class: &'static str,
    /// The line that matched, cut as Postfix cuts it.
    pub content: String,
    /// `from name[addr]` or `from local`.
    pub client: Option<Client>,
    /// Envelope sender.
    pub sender: String,
    /// Recipient, where there is exactly one known.
    pub recipient: Option<String>,
    /// Protocol, empty for local.
    pub protocol: String,
    /// HELO, empty for local.
    pub helo: String,
    /// The action's text; empty when none.
    pub text: String,
}

/// Status word of a delivery line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// `sent`
    Sent,
    /// `deferred`
    Deferred,
    /// `bounced`
    Bounced,
    /// `SOFTBOUNCE`
    SoftBounce,
    /// `deliverable`
    Deliverable,
    /// `undeliverable`
    Undeliverable,
}

/// What became of one recipient in one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The message.
    pub queue_id: QueueId,
    /// `to=`
    pub recipient: String,
    /// `orig_to=`; empty when equal.
    pub original: String,
    /// Envelope sender; not in the log line, wanted by the ledger.
    pub sender: String,
    /// `relay=`
    pub relay: String,
    /// `conn_use=`, logged from 2 on.
    pub connection_use: u32,
    /// How the connection was encrypted; `None` in the clear. Not in the log line, wanted by the ledger.
    pub tls: Option<std::sync::Arc<str>>,
    /// `tls=`, logged where there is one (`smtp_log_tls_feature_status`).
    pub tls_status: Option<std::sync::Arc<str>>,
    /// `delay=` and `delays=`
    pub delays: Delays,
    /// `dsn=`
    pub dsn: EnhancedStatus,
    /// `status=`
    pub status: DeliveryStatus,
    /// The text in parentheses.
    pub reason: String,
    /// Stage of the SMTP conversation that decided.
    pub stage: Option<SmtpStage>,
    /// Remote reply code.
    pub reply: Option<ReplyCode>,
    /// Remote host.
    pub remote_mta: Option<String>,
    /// What its report would say, where it was sent; not in the log line, wanted by the ledger.
    pub action: Option<Action>,
}

/// Kinds of notices as the log names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// `sender non-delivery notification`
    SenderNonDelivery,
    /// `postmaster non-delivery notification`
    PostmasterNonDelivery,
    /// `sender delay notification`
    SenderDelay,
    /// `postmaster delay notification`
    PostmasterDelay,
    /// `sender delivery status notification`
    SenderSuccess,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// smtpd: `connect from`
    Connected {
        /// Who.
        client: Client,
    },
    /// smtpd: `QID: client=`
    Accepted {
        /// The message.
        queue_id: QueueId,
        /// Who.
        client: Client,
        /// Login, if any.
        sasl: Option<SaslIdentity>,
        /// XFORWARD: queue ID and client before the last hop.
        forwarded: Option<(String, Option<Client>)>,
    },
    /// smtpd: `lost connection after` and kin
    SessionEnded {
        /// How.
        how: SessionEnd,
        /// After which command, with `(N bytes)` in DATA.
        after: String,
        /// Who.
        client: Client,
        /// The message in progress, if any.
        queue_id: Option<QueueId>,
    },
    /// smtpd: `disconnect from`
    Disconnected {
        /// Who.
        client: Client,
        /// In the order of the command table, used ones only.
        counts: Vec<CommandCount>,
        /// `notes=`, empty when none.
        notes: Vec<&'static str>,
    },
    /// smtpd: `reject:` and kin
    Decided(Box<Decision>),
    /// pickup: `QID: uid=0 from=<root>`
    PickedUp {
        /// The message.
        queue_id: QueueId,
        /// Who submitted it.
        uid: u32,
        /// Envelope sender.
        sender: String,
    },
    /// cleanup: `QID: message-id=<..>`
    Identified {
        /// The message.
        queue_id: QueueId,
        /// With its angle brackets; empty when there is none.
        message_id: String,
        /// It was a `Resent-Message-Id:`.
        resent: bool,
    },
    /// cleanup: header and body checks
    ContentChecked(Box<ContentAction>),
    /// cleanup: `QID: removed (canceled)`, `QID: removed (discarded)`
    Abandoned {
        /// The message.
        queue_id: QueueId,
        /// `canceled` or `discarded`
        why: &'static str,
    },
    /// qmgr: `QID: from=<s>, size=N, nrcpt=N (queue active)`
    Activated {
        /// The message.
        queue_id: QueueId,
        /// Envelope sender.
        sender: String,
        /// Bytes.
        size: u64,
        /// Recipients still to be tried.
        recipients: usize,
    },
    /// qmgr: `QID: removed`
    Removed {
        /// The message.
        queue_id: QueueId,
    },
    /// qmgr: `QID: from=<s>, status=expired, returned to sender`
    Expired {
        /// The message.
        queue_id: QueueId,
        /// Envelope sender.
        sender: String,
        /// By `postsuper -e` or `-f`.
        forced: bool,
    },
    /// smtp, local, virtual, pipe, error, discard: one recipient, one attempt
    Delivered(Box<Delivery>),
    /// bounce: `QID: sender non-delivery notification: NEWQID`
    Noticed {
        /// The message reported about.
        queue_id: QueueId,
        /// Which.
        kind: NoticeKind,
        /// The notice.
        notice: QueueId,
    },
    /// Any other line: warnings, service messages, lines of operator commands.
    Text {
        /// Its severity word.
        severity: Severity,
        /// `QID: ` before the text.
        queue_id: Option<QueueId>,
        /// One line, without the severity word.
        text: String,
    },
}

/// One thing that happened, when, and who saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Who says so.
    pub origin: Origin,
    /// What.
    pub kind: Kind,
}

impl Event {
    /// A line of text for the log.
    pub fn text(at: Timestamp, origin: Origin, severity: Severity, text: impl Into<String>) -> Self {
        Self { at, origin, kind: Kind::Text { severity, queue_id: None, text: text.into() } }
    }
}

/// Takes events. Never blocks and never fails towards the caller: a reader that cannot keep up is the reader's trouble.
pub trait EventSink: Send + Sync {
    /// Takes one.
    fn emit(&self, event: Event);
}

/// The sink as stages hold it.
pub type Events = Arc<dyn EventSink>;

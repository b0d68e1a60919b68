//! One line understood.

use yamabiko_envelope::Timestamp;

use crate::head::Civil;

/// The mail system that wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// Postfix, and Yamabiko, which writes the same.
    Postfix,
    /// sendmail 8.
    Sendmail,
    /// qmail, netqmail, notqmail.
    Qmail,
    /// Exim 4.
    Exim,
}

impl System {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            System::Postfix => "Postfix",
            System::Sendmail => "sendmail",
            System::Qmail => "qmail",
            System::Exim => "Exim",
        }
    }
}

/// A line of a mail log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// When.
    pub at: Timestamp,
    /// The same as it was written, in the zone of the log.
    pub civil: Civil,
    /// The host as written; empty where the form has none (multilog, Exim's own file).
    pub host: &'a str,
    /// Who wrote it.
    pub system: System,
    /// What stood before the last slash of the tag: `postfix`, `postfix/submission`; empty for other systems.
    pub syslog_name: &'a str,
    /// The program: `smtpd`, `qmgr`, `sm-mta`, ...
    pub program: &'a str,
    /// Process ID, 0 when there is none.
    pub pid: u32,
    /// The text after the tag.
    pub text: &'a str,
    /// What it says.
    pub what: What<'a>,
}

/// A client or server as written: `name[address]:port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client<'a> {
    /// Name; `unknown` or empty when it was not.
    pub name: &'a str,
    /// Address without brackets; empty when unknown.
    pub address: &'a str,
}

/// What became of a recipient in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The next hop or the mailbox has it.
    Sent,
    /// It is tried again.
    Deferred,
    /// It failed for good.
    Bounced,
    /// It failed for good, but `soft_bounce` keeps it.
    SoftBounce,
    /// A probe: it would be taken.
    Deliverable,
    /// A probe: it would not.
    Undeliverable,
    /// It was still in the queue when its time was over. (Exim says so in the line of the failure.)
    Expired,
    /// It was put into another message for the same system (an alias, a `.forward`): `forwarded as`, `redirected`.
    Forwarded,
}

/// One recipient, one attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt<'a> {
    /// The message.
    pub id: &'a str,
    /// The recipient, external form.
    pub recipient: &'a str,
    /// The recipient before aliases, external form; empty when equal.
    pub original: &'a str,
    /// The sender where the line has it (Exim with `sender_on_delivery`, sendmail's `ctladdr`); empty otherwise.
    pub sender: &'a str,
    /// Where to: `host[address]:port`, `local`, `none`, as written.
    pub relay: &'a str,
    /// Use of the connection, from 1.
    pub connection_use: u32,
    /// Microseconds since arrival; `None` where the line does not say.
    pub delay: Option<u64>,
    /// `delays=`: before the queue, in the queue, connecting, sending; microseconds.
    pub delays: Option<[u64; 4]>,
    /// The TLS level (`tls=`) or Exim's `X=`; empty when unknown.
    pub tls: &'a str,
    /// Status code as written; empty when the line has none.
    pub dsn: &'a str,
    /// What became of it.
    pub outcome: Outcome,
    /// The text: the reply, or why.
    pub reason: &'a str,
}

/// A refusal or another decision about a client, sender, recipient or message, at the door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The message; empty for `NOQUEUE`.
    pub id: &'a str,
    /// `reject`, `reject_warning`, `hold`, `discard`, `milter-reject`, ...
    pub word: &'a str,
    /// `CONNECT`, `RCPT`, `END-OF-MESSAGE`, ...
    pub stage: &'a str,
    /// Who.
    pub client: Client<'a>,
    /// The reply.
    pub text: &'a str,
    /// Envelope sender, once there was one.
    pub sender: Option<&'a str>,
    /// The recipient, once there was one.
    pub recipient: Option<&'a str>,
    /// HELO argument.
    pub helo: &'a str,
}

/// A content check that matched (cleanup).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content<'a> {
    /// The message.
    pub id: &'a str,
    /// `reject`, `warning`, `hold`, `discard`, ...
    pub word: &'a str,
    /// `header`, `body`, `mime header`, ...
    pub class: &'a str,
    /// The line that matched.
    pub content: &'a str,
    /// Who; empty for local mail.
    pub client: Client<'a>,
    /// Envelope sender.
    pub sender: Option<&'a str>,
    /// Recipient, where the line has one.
    pub recipient: Option<&'a str>,
    /// The action's text.
    pub text: &'a str,
}

/// Notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// To the sender: it failed.
    Failure,
    /// To the sender: it is late.
    Delay,
    /// To the sender: it was delivered.
    Success,
    /// To the postmaster.
    Postmaster,
}

/// Severity words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// `warning: `
    Warning,
    /// `error: `
    Error,
    /// `fatal: `
    Fatal,
    /// `panic: `
    Panic,
}

/// An encrypted connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tls<'a> {
    /// `Anonymous`, `Untrusted`, `Trusted`, `Verified`.
    pub level: &'a str,
    /// We are the client.
    pub outgoing: bool,
    /// The other side.
    pub peer: Client<'a>,
    /// `TLSv1.3`
    pub protocol: &'a str,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: &'a str,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What<'a> {
    /// A client came.
    Connected(Client<'a>),
    /// A client went.
    Disconnected(Client<'a>),
    /// A session ended before its time: `lost connection`, `timeout`, `too many errors`; after which command.
    SessionEnded {
        /// How.
        how: &'a str,
        /// After what.
        after: &'a str,
        /// Who.
        client: Client<'a>,
    },
    /// A message has begun to come in over the network.
    Accepted {
        /// The message.
        id: &'a str,
        /// Who brings it.
        client: Client<'a>,
        /// The login name; empty without.
        sasl_username: &'a str,
    },
    /// A message was handed in by a local user.
    PickedUp {
        /// The message.
        id: &'a str,
        /// Who.
        uid: &'a str,
        /// As given.
        sender: &'a str,
    },
    /// Its Message-ID, with angle brackets if it has them; empty when it has none.
    Identified {
        /// The message.
        id: &'a str,
        /// Message-ID
        message_id: &'a str,
        /// It was a `Resent-Message-Id:`.
        resent: bool,
    },
    /// A message is in the queue: sender, size, recipients still to be tried. sendmail and Exim say all of it in one line.
    Queued {
        /// The message.
        id: &'a str,
        /// Envelope sender; empty is the null sender.
        sender: &'a str,
        /// Bytes, where known.
        size: Option<u64>,
        /// Recipients, where known.
        recipients: Option<u32>,
        /// Message-ID, where the line has it; empty otherwise.
        message_id: &'a str,
        /// Who brought it, where the line has it.
        client: Client<'a>,
        /// The login name, where the line has it.
        sasl_username: &'a str,
        /// The message that this one is a notice about (Exim's `R=`); empty otherwise.
        about: &'a str,
        /// This line begins the message (sendmail, qmail, Exim); Postfix repeats it at every attempt.
        begins: bool,
    },
    /// One recipient, one attempt.
    Attempt(Attempt<'a>),
    /// qmail begins a delivery.
    QmailStart {
        /// Number of the delivery.
        delivery: u64,
        /// The message.
        id: &'a str,
        /// To a remote host.
        remote: bool,
        /// The recipient.
        recipient: &'a str,
    },
    /// qmail ends a delivery.
    QmailEnd {
        /// Number of the delivery.
        delivery: u64,
        /// How.
        outcome: Outcome,
        /// The text, with `_` for blanks and `/` for line ends as written.
        text: &'a str,
    },
    /// A notice about a message was written.
    Noticed {
        /// The message reported about.
        id: &'a str,
        /// Which.
        notice: Notice,
        /// The notice's own ID; empty where the system does not say it.
        notice_id: &'a str,
    },
    /// Refused at the door, or held, discarded, redirected there.
    Refused(Refusal<'a>),
    /// A content check had a say.
    Content(Content<'a>),
    /// A message is gone from the queue. `why` is empty, `canceled` or `discarded`.
    Removed {
        /// The message.
        id: &'a str,
        /// Why, where it is said.
        why: &'a str,
    },
    /// The message was too old: back to the sender.
    Expired {
        /// The message.
        id: &'a str,
        /// Envelope sender.
        sender: &'a str,
        /// By an operator.
        forced: bool,
    },
    /// Something an operator did to a message: `removed`, `requeued`, `placed on hold`, `released from hold`, `expired`.
    Operated {
        /// The message.
        id: &'a str,
        /// What, in these words.
        what: &'a str,
    },
    /// An encrypted connection.
    Tls(Tls<'a>),
    /// A warning or worse.
    Trouble {
        /// How bad.
        severity: Severity,
        /// The text without the severity word.
        text: &'a str,
    },
    /// A connection to a host failed; Postfix tries the next one.
    ConnectFailed {
        /// The host.
        peer: Client<'a>,
        /// Why.
        why: &'a str,
    },
    /// Known, and nothing that concerns a message's fate: statistics, starts and stops, remarks about a message.
    Remark {
        /// The message it is about; empty otherwise.
        id: &'a str,
    },
    /// Of a mail program, but in words that are not known.
    Unknown,
}

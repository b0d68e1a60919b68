//! What is found in a message: a [`Finding`] for each recipient, and the [`Evidence`] it rests on.

use crate::Reason;
use yamabiko_status::{EnhancedStatus, ReplyCode};

/// What a message turned out to be, and what it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Analysis {
    /// What the message is.
    pub kind: Kind,
    /// One for each recipient that is reported on, in the order of the message. Automatic replies, complaints and reports
    /// of success are here too; their [`Finding::reason`] says so.
    pub findings: Vec<Finding>,
    /// Set when the message looks like a bounce but nothing could be made of it: why.
    pub undecoded: Option<String>,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A report on the delivery of another message.
    Bounce,
    /// A report of a feedback loop (RFC 5965).
    Feedback,
    /// An automatic reply (RFC 3834).
    AutoReply,
    /// A disposition notification (RFC 8098): it was read, or deleted. Nothing is reported for it.
    Receipt,
    /// None of these, and what tells so.
    NotABounce(&'static str),
}

impl Default for Kind {
    fn default() -> Self {
        Kind::NotABounce("empty")
    }
}

/// What a message says of one recipient. Fields have Sisimai's names; what is not known is empty or `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The address that failed, unquoted, without angle brackets.
    pub recipient: String,
    /// The address as the sender wrote it, when it differs from [`Finding::recipient`].
    pub alias: String,
    /// Why.
    pub reason: Reason,
    /// The enhanced status code: the one of the message, or one made from the reason when
    /// [`Finding::status_is_made_up`].
    pub status: Option<EnhancedStatus>,
    /// True when the message has no status code that can be believed and [`Finding::status`] was made from the reason.
    pub status_is_made_up: bool,
    /// The SMTP reply code.
    pub reply_code: Option<ReplyCode>,
    /// What the reporting system did.
    pub action: Option<Action>,
    /// True where trying the same address again is pointless.
    pub hard_bounce: bool,
    /// The sender of the message that came back.
    pub addresser: String,
    /// The domain of [`Finding::addresser`].
    pub sender_domain: String,
    /// The domain of [`Finding::recipient`].
    pub destination: String,
    /// The host that refused the message.
    pub rhost: String,
    /// The host that reports.
    pub lhost: String,
    /// What the refusing host said.
    pub diagnostic: Diagnostic,
    /// The SMTP command that was answered with the error: `RCPT`, `DATA`, `CONN`, ... Empty when unknown.
    pub command: &'static str,
    /// Name of the system whose notice it is: `Postfix`, `qmail`, `RFC3464`, ...
    pub decoded_by: &'static str,
    /// Message-ID of the message that came back, without angle brackets.
    pub message_id: String,
    /// Subject of the message that came back, decoded.
    pub subject: String,
    /// List-Id of the message that came back, without angle brackets.
    pub list_id: String,
    /// When it failed.
    pub date: Option<Date>,
    /// Kind of feedback (`abuse`, `opt-out`, ...) when the reason is [`Reason::Feedback`].
    pub feedback_type: String,
    /// Feedback-ID of the message that came back.
    pub feedback_id: String,
    /// Original-Envelope-Id, when the notice has one.
    pub envelope_id: String,
    /// What the decision rests on, heaviest first.
    pub evidence: Vec<Evidence>,
    /// How sure the reason is, in percent.
    pub confidence: u8,
}

/// `Action:` of a delivery status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It failed for good.
    Failed,
    /// It is still being tried.
    Delayed,
    /// It is in the mailbox.
    Delivered,
    /// It went to a system that gives no reports.
    Relayed,
    /// It was delivered to a list of addresses.
    Expanded,
}

impl Action {
    /// The word of RFC 3464 section 2.3.3.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }
}

/// An error text and its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// `SMTP`, `X-UNIX`, ...; empty when unknown.
    pub kind: String,
    /// The text, white space squeezed.
    pub text: String,
}

/// A moment, with the offset it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Minutes east of Greenwich, -1439 to 1439.
    pub offset_minutes: i32,
    /// It was written as `-0000`: universal time, and nothing is said of where the writer is (RFC 5322 section 3.3).
    pub zone_unknown: bool,
}

impl Date {
    /// A moment in universal time, in seconds since 1970-01-01.
    pub const fn utc(seconds: i64) -> Self {
        Self { seconds, offset_minutes: 0, zone_unknown: false }
    }
    /// The offset as headers have it: `+0900`.
    pub fn offset(&self) -> String {
        let sign = if self.offset_minutes < 0 || self.zone_unknown { '-' } else { '+' };
        let minutes = self.offset_minutes.unsigned_abs();
        format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
    }
}

/// One thing that speaks for a reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// What kind of thing.
    pub kind: EvidenceKind,
    /// The reason it speaks for.
    pub reason: Reason,
    /// The rule: `file:line` of a phrase, or the name of a built-in one.
    pub rule: String,
    /// Where it was seen: `Diagnostic-Code`, `Status`, `text`, `transcript`, `Subject`, ...
    pub place: &'static str,
    /// How heavy it weighs, 1 to 100.
    pub weight: u8,
    /// The words that were seen.
    pub text: String,
}

/// Kinds of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EvidenceKind {
    /// A phrase of a rule file.
    Phrase,
    /// A phrase that is known of this provider or host.
    Provider,
    /// An enhanced status code.
    Status,
    /// An SMTP reply code.
    ReplyCode,
    /// The command that was answered, or the stage of the dialogue.
    Stage,
    /// What the reporting system is known to mean.
    System,
    /// `Action:`, or that the notice speaks of a delay.
    Action,
}

impl EvidenceKind {
    /// A word for people.
    pub const fn name(self) -> &'static str {
        match self {
            EvidenceKind::Phrase => "phrase",
            EvidenceKind::Provider => "provider",
            EvidenceKind::Status => "status",
            EvidenceKind::ReplyCode => "reply code",
            EvidenceKind::Stage => "stage",
            EvidenceKind::System => "system",
            EvidenceKind::Action => "action",
        }
    }
}

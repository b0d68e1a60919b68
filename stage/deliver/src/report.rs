//! What comes of a conversation: for each recipient, for all of them, for the connection.

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

/// How a connection ended that was still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Closed, reset or cut.
    Lost,
    /// No answer in time.
    TimedOut,
    /// Trouble of our own with the message.
    LocalData,
}

/// Why something was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Status; class 4 means "another time or another host".
    pub status: EnhancedStatus,
    /// The reason, as the log has it.
    pub reason: String,
    /// The reply, on one line, where the peer gave one.
    pub reply: Option<String>,
    /// Its code.
    pub code: Option<ReplyCode>,
    /// The reason is the peer's, not ours: it is named as `Remote-MTA`.
    pub remote: bool,
    /// Where in the conversation.
    pub stage: SmtpStage,
    /// When.
    pub at: Timestamp,
}

impl Verdict {
    /// We are the best mail exchanger of the destination ourselves.
    pub fn is_loop(&self) -> bool {
        let EnhancedStatus { class, subject, detail } = self.status;
        (class, subject, detail) == (Class::Permanent, 4, 6) && !self.remote
    }
}

/// What came of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of its own: [`Report::bulk`] says why.
    Open,
    /// The server has taken it, but the message is not through.
    Accepted,
    /// The message is through.
    Sent {
        /// The reply, on one line.
        reply: String,
        /// Its code.
        code: ReplyCode,
        /// Its enhanced status code.
        status: EnhancedStatus,
        /// When.
        at: Timestamp,
    },
    /// Refused, by itself.
    Refused(Verdict),
}

/// A reason that is everybody's who has none of his own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// The reason.
    pub verdict: Verdict,
    /// It is the destination's, not the message's: other mail for it need not try.
    pub throttle: bool,
}

/// What came of TLS in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsEnd {
    /// As the policy wants it.
    Good,
    /// Not so: the kind of failure (RFC 8460 section 4.3), and words.
    Failed(&'static str, String),
}

/// What came of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One per recipient of the job.
    pub fates: Vec<Fate>,
    /// For those that are [`Fate::Open`] or [`Fate::Accepted`].
    pub bulk: Option<Bulk>,
    /// The destination can be talked to: it went through all the commands, or refused a single recipient.
    pub complete: bool,
    /// The connection was found dead before anything came of it: nothing has happened, use another.
    pub stale: bool,
    /// TLS did not work and need not: the same server is tried again without (Postfix's `RETRY_AS_PLAINTEXT`).
    pub retry_plain: bool,
    /// The server refused the login for good, with this reply.
    pub login_refused: Option<(EnhancedStatus, String)>,
    /// What came of TLS, where it was wanted and this session was new.
    pub tls: Option<TlsEnd>,
    /// The connection may be kept.
    pub keep: bool,
    /// When MAIL was sent.
    pub began: Option<Timestamp>,
    /// Things worth a warning in the log.
    pub warnings: Vec<String>,
    /// Lines for the log.
    pub notes: Vec<String>,
    /// Lines for the log, with the message's name.
    pub message_notes: Vec<String>,
    /// What was said, and the reply that makes it worth telling the postmaster.
    pub trouble: Option<(String, String)>,
}

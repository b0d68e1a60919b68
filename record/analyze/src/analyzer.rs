//! The way in: messages, replies and provider events.

use crate::decide::{Facts, LIMIT, decide};
use crate::{Analysis, Date, Evidence, Reason, Rules, event, reading, text};
use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

/// Reads messages and replies. Made once, shared between threads.
#[derive(Clone, Debug)]
pub struct Analyzer {
    rules: Rules,
}

/// The command that was answered, or the stage of the dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Connecting, up to the greeting.
    Conn,
    /// HELO, EHLO, LHLO.
    Ehlo,
    /// STARTTLS and the handshake after it.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA or BDAT, or the end of the content.
    Data,
    /// QUIT.
    Quit,
}

impl Stage {
    /// The name as in Sisimai's field `command`.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Conn => "CONN",
            Stage::Ehlo => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Auth => "AUTH",
            Stage::Mail => "MAIL",
            Stage::Rcpt => "RCPT",
            Stage::Data => "DATA",
            Stage::Quit => "QUIT",
        }
    }
    /// The stage of this name, in any case of letters; `HELO`, `LHLO` and `BDAT` are taken too.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Stage::Conn,
            Stage::Ehlo,
            Stage::StartTls,
            Stage::Auth,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Quit,
        ];
        all.into_iter().find(|stage| stage.name().eq_ignore_ascii_case(name)).or_else(|| {
            match name.to_ascii_uppercase().as_str() {
                "HELO" | "LHLO" => Some(Stage::Ehlo),
                "BDAT" | "EOM" | "." => Some(Stage::Data),
                "CONNECT" => Some(Stage::Conn),
                _ => None,
            }
        })
    }
}

/// An SMTP reply and where it was heard. Only `text` is needed; more makes the verdict surer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The reply: code, enhanced status code and text, one line or more.
    pub text: &'a str,
    /// The command that was answered.
    pub stage: Option<Stage>,
    /// Name of the host that answered; empty when unknown.
    pub remote_host: &'a str,
    /// The recipient; empty when unknown.
    pub recipient: &'a str,
    /// When it was said. Rules that are valid from a day, or until one, look at it; without it the newest are taken.
    pub date: Option<Date>,
}

/// What a reply means.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// The status code: the one of the text, or one made from the reason.
    pub status: Option<EnhancedStatus>,
    /// True when [`Verdict::status`] was made from the reason.
    pub status_is_made_up: bool,
    /// The reply code of the text.
    pub reply_code: Option<ReplyCode>,
    /// True where trying the same address again is pointless.
    pub hard_bounce: bool,
    /// What the verdict rests on, heaviest first.
    pub evidence: Vec<Evidence>,
    /// How sure it is, in percent.
    pub confidence: u8,
}

impl Default for Analyzer {
    fn default() -> Self {
        Self::embedded()
    }
}

impl Analyzer {
    /// With these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }
    /// With the rules that come with the program.
    pub fn embedded() -> Self {
        Self::new(Rules::default())
    }
    /// The same, but findings and verdicts come without their evidence: for whoever does not show it. Nothing else changes.
    #[must_use]
    pub fn without_evidence(mut self) -> Self {
        self.rules.explains = false;
        self
    }
    /// The rules in use.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
    /// Reads one message: header and body, lines ending in LF, CRLF or CR. Never fails; what is missing is empty.
    pub fn analyze(&self, message: &[u8]) -> Analysis {
        reading::message(&self.rules, message)
    }
    /// Reads what a provider posts: one JSON object, an array of them, or one per line. `None` when it is no JSON or of no
    /// known provider.
    pub fn analyze_event(&self, json: &[u8]) -> Option<Vec<Analysis>> {
        event::analyze(&self.rules, json)
    }
    /// What a single reply means.
    pub fn classify(&self, reply: &Reply<'_>) -> Verdict {
        let words = text::squeeze(reply.text, 8192);
        let status = text::statuses(&words).next();
        let code = text::reply_code(&words, status.map(|s| s.class.digit()));
        let said = self.rules.scan(&words, LIMIT);
        let stage = reply.stage.or_else(|| self.rules.stage(&said));
        // Where nobody says who it was: what answers to a recipient and names an address names that one.
        let unnamed = reply.recipient.is_empty() && reply.remote_host.is_empty();
        let recipient = match text::address(&words) {
            Some(named) if unnamed && matches!(stage, Some(Stage::Rcpt | Stage::Data)) => named.address,
            _ => reply.recipient,
        };
        let decision = decide(
            &self.rules,
            &said,
            &Facts {
                status,
                code,
                stage,
                rhost: reply.remote_host,
                destination: text::domain(recipient),
                date: reply.date,
                trusting: true,
                ..Facts::default()
            },
        );
        let class = match (status, code) {
            (Some(status), _) => status.class,
            (None, Some(code)) if code < 500 => Class::Transient,
            _ => Class::Permanent,
        };
        Verdict {
            reason: decision.reason,
            status: Some(status.unwrap_or_else(|| decision.reason.made_up_status(class))),
            status_is_made_up: status.is_none(),
            reply_code: code.map(ReplyCode),
            hard_bounce: decision.reason.is_hard(class.digit()),
            evidence: decision.evidence,
            confidence: decision.confidence,
        }
    }
}

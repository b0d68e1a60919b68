//! One line of a recipient's history.

use std::time::Duration;

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_status::{EnhancedStatus, ReplyCode};

/// What an entry tells. The numbers are what is stored and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum What {
    /// A message was taken: sender, Message-ID, client, size and its recipients. About the whole message.
    Queued = 1,
    /// The next hop took it, and nothing more is known.
    Sent = 2,
    /// A next hop took it that was told what to report (RFC 3461), so that it will be heard of again.
    Relayed = 3,
    /// It is in a mailbox here.
    Delivered = 4,
    /// It is tried again.
    Deferred = 5,
    /// It failed for good.
    Bounced = 6,
    /// It was given up because of its age, or because an operator said so.
    Expired = 7,
    /// A notice was sent to somebody; [`Entry::related`] is its queue ID, [`Entry::by`] its kind.
    Noticed = 8,
    /// A report came in after the recipient was settled: [`Entry::action`] says what it reports.
    Report = 9,
    /// The recipient complained (feedback loop).
    Complaint = 10,
    /// A program answered for the recipient; no failure.
    AutoReply = 11,
    /// Not tried: the address is on the suppression list.
    Suppressed = 12,
    /// An operator or a rule keeps it.
    Held = 13,
    /// It is not kept any longer.
    Released = 14,
    /// It was made to vanish; [`Entry::by`] names the rule.
    Discarded = 15,
    /// Refused while it was handed in: it was never ours.
    Rejected = 16,
    /// An operator removed it.
    Deleted = 17,
    /// It goes on under another queue ID, [`Entry::related`].
    Requeued = 18,
    /// It became other addresses (alias, list, `.forward`); what became of those is told under their names.
    Expanded = 19,
    /// Something worth knowing that changes nothing.
    Note = 20,
    /// It left the queue: nothing more will be tried.
    Removed = 21,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Queued,
        Self::Sent,
        Self::Relayed,
        Self::Delivered,
        Self::Deferred,
        Self::Bounced,
        Self::Expired,
        Self::Noticed,
        Self::Report,
        Self::Complaint,
        Self::AutoReply,
        Self::Suppressed,
        Self::Held,
        Self::Released,
        Self::Discarded,
        Self::Rejected,
        Self::Deleted,
        Self::Requeued,
        Self::Expanded,
        Self::Note,
        Self::Removed,
    ];
    /// By its number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|what| *what as u8 == number)
    }
    /// The word in JSON and in streams.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Noticed => "noticed",
            Self::Report => "report",
            Self::Complaint => "complaint",
            Self::AutoReply => "auto_reply",
            Self::Suppressed => "suppressed",
            Self::Held => "held",
            Self::Released => "released",
            Self::Discarded => "discarded",
            Self::Rejected => "rejected",
            Self::Deleted => "deleted",
            Self::Requeued => "requeued",
            Self::Expanded => "expanded",
            Self::Note => "note",
            Self::Removed => "removed",
        }
    }
}

/// `Action:` of a report (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReportAction {
    /// It failed for good.
    Failed = 1,
    /// It is still being tried: no failure.
    Delayed = 2,
    /// It is in the mailbox.
    Delivered = 3,
    /// It went on to a system that does not report: no failure.
    Relayed = 4,
    /// It was given to a list of addresses: no failure.
    Expanded = 5,
}

impl ReportAction {
    /// By its number.
    pub fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Failed, Self::Delayed, Self::Delivered, Self::Relayed, Self::Expanded];
        all.into_iter().find(|action| *action as u8 == number)
    }
    /// The word of the RFC.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }
}

/// One thing that happened to a recipient, or to a message. What is not known or does not apply is empty, zero or
/// `None`. Addresses are in internal form.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
    /// The machine it happened on, where that is another one (imported logs); empty for this one.
    pub host: String,
    /// The message's queue ID in any form; empty where it never had one.
    pub queue_id: String,
    /// Whom it is about, after rewriting; empty when it is about the whole message.
    pub recipient: String,
    /// The recipient as it was given, where that differs.
    pub original: String,
    /// Envelope sender: of [`What::Queued`], [`What::Rejected`] and whoever else knows it; `Some("")` is the null
    /// reverse-path.
    pub sender: Option<String>,
    /// Message-ID with its angle brackets.
    pub message_id: String,
    /// `ENVID=`, as the submitter gave it.
    pub envelope_id: String,
    /// Recipients of [`What::Queued`]: address, and how it was given (empty where equal).
    pub recipients: Vec<(String, String)>,
    /// Who handed it in: `name[address]`, `local`, with ` user=login` behind it.
    pub client: String,
    /// Bytes.
    pub size: u64,
    /// Which program spoke: `smtp`, `local`, `cleanup`, ...
    pub program: String,
    /// `relay=` of the log line; the reporting host of a report.
    pub relay: String,
    /// Stage of the SMTP conversation that decided.
    pub stage: Option<SmtpStage>,
    /// Enhanced status code.
    pub status: Option<EnhancedStatus>,
    /// Reply code.
    pub reply: Option<ReplyCode>,
    /// Sisimai's name of the reason, in small letters; empty where none was made out.
    pub reason: String,
    /// The reply or the text in parentheses.
    pub text: String,
    /// The queue ID at the next hop, taken out of its reply.
    pub remote_id: String,
    /// How the connection was encrypted: `TLSv1.3 with cipher ...`; empty for plaintext or unknown.
    pub tls: String,
    /// `delay=`
    pub delay: Option<Duration>,
    /// Another message that belongs to it: a notice, a report, the new name of a requeued one.
    pub related: String,
    /// What a report says was done.
    pub action: Option<ReportAction>,
    /// How sure the connection between a report and this recipient is, in percent; 0 where there is nothing to doubt.
    pub confidence: u8,
    /// By what: the kind of a notice, the rung of the ladder that joined a report, the rule of a discard.
    pub by: String,
}

impl Entry {
    /// An entry that says nothing yet but what, when and about which message and recipient.
    pub fn new(at: Timestamp, what: What, queue_id: impl Into<String>, recipient: impl Into<String>) -> Self {
        Self {
            at,
            what,
            host: String::new(),
            queue_id: queue_id.into(),
            recipient: recipient.into(),
            original: String::new(),
            sender: None,
            message_id: String::new(),
            envelope_id: String::new(),
            recipients: Vec::new(),
            client: String::new(),
            size: 0,
            program: String::new(),
            relay: String::new(),
            stage: None,
            status: None,
            reply: None,
            reason: String::new(),
            text: String::new(),
            remote_id: String::new(),
            tls: String::new(),
            delay: None,
            related: String::new(),
            action: None,
            confidence: 0,
            by: String::new(),
        }
    }

    /// The domain of the recipient in small letters; empty without one.
    pub fn domain(&self) -> String {
        domain_of(&self.recipient)
    }

    /// A number for what the entry says, the same for the same entry: what a second import of a log is known by.
    pub fn digest(&self) -> u64 {
        let mut hash = crate::keys::Fnv::new();
        hash.number(self.at.0);
        hash.number(self.what as u64);
        for text in [&self.host, &self.queue_id, &self.recipient, &self.relay, &self.text, &self.related] {
            hash.text(text);
        }
        // Lines about a message come one by one and each tells another part.
        hash.text(&self.message_id);
        hash.text(self.sender.as_deref().unwrap_or("\u{1}"));
        hash.text(&self.client);
        // Two attempts within the second that a log knows differ by nothing else.
        hash.number(self.delay.map_or(u64::MAX, |delay| u64::try_from(delay.as_micros()).unwrap_or(0)));
        hash.end()
    }
}

/// The domain of an address in small letters; empty without one.
pub fn domain_of(address: &str) -> String {
    address.rsplit_once('@').map_or_else(String::new, |(_, domain)| domain.to_ascii_lowercase())
}

/// Every stage with its stored number and its word.
const STAGES: [(SmtpStage, u8, &str); 15] = [
    (SmtpStage::Lookup, 1, "lookup"),
    (SmtpStage::Connect, 2, "connect"),
    (SmtpStage::Greeting, 3, "greeting"),
    (SmtpStage::Ehlo, 4, "ehlo"),
    (SmtpStage::Helo, 5, "helo"),
    (SmtpStage::StartTls, 6, "starttls"),
    (SmtpStage::Auth, 7, "auth"),
    (SmtpStage::Xforward, 8, "xforward"),
    (SmtpStage::Mail, 9, "mail"),
    (SmtpStage::Rcpt, 10, "rcpt"),
    (SmtpStage::Data, 11, "data"),
    (SmtpStage::Body, 12, "body"),
    (SmtpStage::EndOfData, 13, "end_of_data"),
    (SmtpStage::Rset, 14, "rset"),
    (SmtpStage::Quit, 15, "quit"),
];

/// The word for a stage, as in the JSON log.
pub fn stage_word(stage: SmtpStage) -> &'static str {
    STAGES.iter().find(|(known, ..)| *known == stage).map_or("", |(.., word)| word)
}

pub(crate) fn stage_number(stage: SmtpStage) -> u8 {
    STAGES.iter().find(|(known, ..)| *known == stage).map_or(0, |(_, number, _)| *number)
}

pub(crate) fn stage_from_number(number: u8) -> Option<SmtpStage> {
    STAGES.iter().find(|(_, known, _)| *known == number).map(|(stage, ..)| *stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for what in What::ALL {
            assert_eq!(What::from_number(what as u8), Some(what));
            assert!(!what.word().is_empty());
        }
        for (stage, number, _) in STAGES {
            assert_eq!(stage_from_number(stage_number(stage)), Some(stage));
            assert_eq!(stage_number(stage), number);
        }
        for number in 1..=5 {
            assert_eq!(ReportAction::from_number(number).map(|action| action as u8), Some(number));
        }
        assert_eq!(What::from_number(0), None);
    }
}

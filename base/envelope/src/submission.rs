//! A message on its way in, between the stage that took it and cleanup.

use crate::{Content, Envelope};

/// Where a submission comes from; cleanup treats them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// smtpd
    Smtp,
    /// pickup: `sendmail`, with the submitter's user ID
    Local {
        /// The submitter.
        uid: u32,
    },
    /// A notice of our own: no checks and no BCC; addresses and headers are rewritten as any other's.
    Notice,
    /// `local` forwards a message by alias, `.forward` or `:include:`: no checks and no BCC.
    Forwarded,
    /// `postsuper -r`: addresses are rewritten again; checks and BCC are not repeated.
    Requeued,
}

/// A class of trouble that the postmaster can be told of (`notify_classes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TroubleClass {
    /// `bounce`
    Bounce,
    /// `2bounce`
    DoubleBounce,
    /// `data`
    Data,
    /// `delay`
    Delay,
    /// `policy`
    Policy,
    /// `protocol`
    Protocol,
    /// `resource`
    Resource,
    /// `software`
    Software,
}

impl TroubleClass {
    /// All of them, in the order of the alphabet.
    pub const ALL: [Self; 8] = [
        Self::DoubleBounce,
        Self::Bounce,
        Self::Data,
        Self::Delay,
        Self::Policy,
        Self::Protocol,
        Self::Resource,
        Self::Software,
    ];

    /// The word in `notify_classes`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::DoubleBounce => "2bounce",
            Self::Data => "data",
            Self::Delay => "delay",
            Self::Policy => "policy",
            Self::Protocol => "protocol",
            Self::Resource => "resource",
            Self::Software => "software",
        }
    }

    /// The class of a word, in any case of letters.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(word))
    }
}

/// What a notice to the postmaster is about: for those who count notices before they are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Classes, the gravest last; never empty in a notice.
    pub classes: Vec<TroubleClass>,
    /// Why, in one line: a reply, a reason.
    pub reason: String,
    /// Domain or host that mail was for.
    pub destination: String,
    /// Envelope sender of the mail in question; empty where there is none.
    pub sender: String,
    /// Who brought it, `name[address]`; empty for mail of our own.
    pub client: String,
}

/// What restrictions want done with a message for which nothing speaks in the name of its author's domain (DMARC). Only
/// known when the message is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmarcDemand {
    /// `reject_dmarc_policy`: refuse what the domain wants rejected.
    pub reject: bool,
    /// The same behind `warn_if_reject`: only say so.
    pub warn: bool,
    /// `hold_dmarc_policy`: put what the domain wants rejected or quarantined into the hold queue.
    pub hold: bool,
}

impl DmarcDemand {
    /// Nothing is wanted.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A message that a stage took from outside, and what was decided about it on the way.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The envelope as it was given: recipients before rewriting and aliases, in order.
    pub envelope: Envelope,
    /// Header fields to stand before the message (`Received:`, PREPEND), each line LF-terminated.
    pub trace_fields: Vec<u8>,
    /// The message as it came, LF line ends.
    pub content: Content,
    /// Where from.
    pub source: Source,
    /// HOLD: goes into the hold queue, with the text logged.
    pub hold: bool,
    /// DISCARD: claims success, keeps nothing.
    pub discard: bool,
    /// REDIRECT: replaces all recipients.
    pub redirect: Option<String>,
    /// BCC actions.
    pub bcc: Vec<String>,
    /// `-F` of sendmail or the submitter's full name, for a missing `From:`; empty when not known.
    pub full_name: String,
    /// `receive_override_options = no_address_mappings` of the service that took it: no canonical, masquerade and alias
    /// maps, no automatic BCC.
    pub no_address_mappings: bool,
    /// `receive_override_options = no_header_body_checks` of the service that took it.
    pub no_header_body_checks: bool,
    /// It tells the postmaster of trouble.
    pub trouble: Option<Box<Trouble>>,
    /// What restrictions want done when its author's domain disowns it.
    pub dmarc: DmarcDemand,
}

impl Submission {
    /// A submission without trace fields, and with nothing decided about it yet.
    pub fn new(envelope: Envelope, content: Content, source: Source) -> Self {
        Self {
            envelope,
            trace_fields: Vec::new(),
            content,
            source,
            hold: false,
            discard: false,
            redirect: None,
            bcc: Vec::new(),
            full_name: String::new(),
            no_address_mappings: false,
            no_header_body_checks: false,
            trouble: None,
            dmarc: DmarcDemand::default(),
        }
    }
}

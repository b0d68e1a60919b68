//! Why a message came back: the reasons, under the names Sisimai gave them.

use std::fmt;
use std::str::FromStr;
use yamabiko_status::{Class, EnhancedStatus};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal / $merged:literal),* $(,)?) => {
        /// Why a message came back. The names are Sisimai's (5.1 and 5.2), so that programs which read its output go on
        /// working; [`Reason::merged_name`] gives the fewer names of its later versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant),* }

        impl Reason {
            /// All reasons, in the order of their declaration.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// The name, in lower case without blanks: `userunknown`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),* }
            }
            /// The name in later versions of Sisimai, where some reasons were merged: `mesgtoobig` and `exceedlimit` are
            /// `emailtoolarge`, `speeding` and `toomanyconn` are `ratelimited`; all others are as [`Reason::name`] says.
            pub const fn merged_name(self) -> &'static str {
                match self { $(Reason::$variant => $merged),* }
            }
        }
    };
}

reasons! {
    /// There is no such mailbox.
    UserUnknown = "userunknown" / "userunknown",
    /// There is no such domain, or it has no mail server.
    HostUnknown = "hostunknown" / "hostunknown",
    /// The mailbox has moved and its mail is not forwarded.
    HasMoved = "hasmoved" / "hasmoved",
    /// The domain takes no mail at all (null MX, 521).
    NotAccept = "notaccept" / "notaccept",
    /// The mailbox is full.
    MailboxFull = "mailboxfull" / "mailboxfull",
    /// The mailbox exists but is suspended or not paid for.
    Suspend = "suspend" / "suspend",
    /// The recipient's own filter refused it, after DATA or by a setting of the subscriber.
    Filtered = "filtered" / "filtered",
    /// It could not be delivered before its time was over.
    Expired = "expired" / "expired",
    /// DNS or routing failed, or mail loops.
    NetworkError = "networkerror" / "networkerror",
    /// The receiving system has a defect.
    SystemError = "systemerror" / "systemerror",
    /// The receiving system has no room.
    SystemFull = "systemfull" / "systemfull",
    /// The program that should deliver it failed.
    MailerError = "mailererror" / "mailererror",
    /// The message is too large for the mailbox or the server.
    MesgTooBig = "mesgtoobig" / "emailtoolarge",
    /// The message exceeds a limit of the recipient.
    ExceedLimit = "exceedlimit" / "emailtoolarge",
    /// The server does not relay for this sender to this recipient.
    NoRelaying = "norelaying" / "norelaying",
    /// The sender's address was refused.
    Rejected = "rejected" / "rejected",
    /// SPF, DKIM or DMARC failed.
    AuthFailure = "authfailure" / "authfailure",
    /// The client's or the sender's reputation is too bad.
    BadReputation = "badreputation" / "badreputation",
    /// The client's address or host name is blocked.
    Blocked = "blocked" / "blocked",
    /// The client has no (fitting) PTR record.
    RequirePtr = "requireptr" / "requireptr",
    /// Too much mail in too short a time.
    Speeding = "speeding" / "ratelimited",
    /// Too many connections at once, or from this client.
    TooManyConn = "toomanyconn" / "ratelimited",
    /// The content was taken for spam.
    SpamDetected = "spamdetected" / "spamdetected",
    /// The content was taken for a virus.
    VirusDetected = "virusdetected" / "virusdetected",
    /// The content is malformed or of a kind that is not taken.
    ContentError = "contenterror" / "contenterror",
    /// The message breaks RFC 5322 or a related standard.
    NotCompliantRfc = "notcompliantrfc" / "notcompliantrfc",
    /// A policy of the receiving side forbids it.
    PolicyViolation = "policyviolation" / "policyviolation",
    /// Authentication, TLS or another matter of security.
    SecurityError = "securityerror" / "securityerror",
    /// The dialogue had a syntax error.
    SyntaxError = "syntaxerror" / "syntaxerror",
    /// STARTTLS failed or is needed.
    FailedStartTls = "failedstarttls" / "failedstarttls",
    /// The address is on the sending service's suppression list; nothing was tried.
    Suppressed = "suppressed" / "suppressed",
    /// There is not enough to say why.
    OnHold = "onhold" / "onhold",
    /// There is nothing that says why.
    Undefined = "undefined" / "undefined",
    /// It was delivered: no failure.
    Delivered = "delivered" / "delivered",
    /// A complaint or another report of a feedback loop.
    Feedback = "feedback" / "feedback",
    /// An automatic reply.
    Vacation = "vacation" / "vacation",
}

impl Reason {
    /// True where trying the same address again is pointless. `status_class` is the first digit of the status code, which
    /// decides for [`Reason::NotAccept`].
    pub fn is_hard(self, status_class: u8) -> bool {
        match self {
            Reason::UserUnknown | Reason::HostUnknown | Reason::HasMoved => true,
            Reason::NotAccept => status_class == 5,
            _ => false,
        }
    }
    /// A status code for a message that has none, made from the reason: `5.0.911` and its like, which no system gives.
    /// Sisimai's numbers.
    pub fn made_up_status(self, class: Class) -> EnhancedStatus {
        let detail = match self {
            Reason::UserUnknown => 911,
            Reason::HostUnknown => 912,
            Reason::HasMoved => 916,
            Reason::NotAccept => 932,
            Reason::MailboxFull => 922,
            Reason::Suspend => 921,
            Reason::Filtered => 910,
            Reason::Expired => 947,
            Reason::NetworkError => 944,
            Reason::SystemError => 930,
            Reason::SystemFull => 931,
            Reason::MailerError => 939,
            Reason::MesgTooBig => 934,
            Reason::ExceedLimit => 923,
            Reason::NoRelaying => 909,
            Reason::Rejected => 918,
            Reason::AuthFailure => 973,
            Reason::BadReputation => 975,
            Reason::Blocked => 971,
            Reason::RequirePtr => 974,
            Reason::Speeding | Reason::TooManyConn => 945,
            Reason::SpamDetected => 980,
            Reason::VirusDetected => 976,
            Reason::ContentError => 960,
            Reason::NotCompliantRfc => 951,
            Reason::PolicyViolation => 972,
            Reason::SecurityError => 970,
            Reason::SyntaxError => 902,
            Reason::FailedStartTls => 977,
            Reason::Suppressed => 978,
            Reason::OnHold => 901,
            Reason::Undefined | Reason::Delivered | Reason::Feedback | Reason::Vacation => 900,
        };
        EnhancedStatus { class, subject: 0, detail }
    }
    /// True for reports that tell of no failure: delivered, feedback, vacation.
    pub fn is_no_failure(self) -> bool {
        matches!(self, Reason::Delivered | Reason::Feedback | Reason::Vacation)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text was not the name of a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownReason(pub String);

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no reason is called \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownReason {}

impl FromStr for Reason {
    type Err = UnknownReason;

    /// Reads a name in any case of letters; a merged name gives the first reason that bears it.
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let text = text.trim();
        let all = || Reason::ALL.iter().copied();
        all()
            .find(|reason| reason.name().eq_ignore_ascii_case(text))
            .or_else(|| all().find(|reason| reason.merged_name().eq_ignore_ascii_case(text)))
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.name().parse::<Reason>().unwrap(), *reason);
            assert!(reason.merged_name().parse::<Reason>().is_ok());
        }
        assert_eq!("RateLimited".parse::<Reason>().unwrap(), Reason::Speeding);
        assert!("bounced".parse::<Reason>().is_err());
    }

    #[test]
    fn hard_bounces() {
        assert!(Reason::UserUnknown.is_hard(4) && Reason::NotAccept.is_hard(5));
        assert!(!Reason::NotAccept.is_hard(4) && !Reason::MailboxFull.is_hard(5));
    }
}

//! The commands by name.

/// Commands in the order of the disconnect line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Helo,
    Ehlo,
    Xclient,
    Xforward,
    Starttls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Etrn,
    Quit,
    Unknown,
}

pub(super) const VERBS: [(Verb, &str, &str); 16] = [
    (Verb::Helo, "HELO", "helo"),
    (Verb::Ehlo, "EHLO", "ehlo"),
    (Verb::Xclient, "XCLIENT", "xclient"),
    (Verb::Xforward, "XFORWARD", "xforward"),
    (Verb::Starttls, "STARTTLS", "starttls"),
    (Verb::Auth, "AUTH", "auth"),
    (Verb::Mail, "MAIL", "mail"),
    (Verb::Rcpt, "RCPT", "rcpt"),
    (Verb::Data, "DATA", "data"),
    (Verb::Bdat, "BDAT", "bdat"),
    (Verb::Rset, "RSET", "rset"),
    (Verb::Noop, "NOOP", "noop"),
    (Verb::Vrfy, "VRFY", "vrfy"),
    (Verb::Etrn, "ETRN", "etrn"),
    (Verb::Quit, "QUIT", "quit"),
    (Verb::Unknown, "UNKNOWN", "unknown"),
];

impl Verb {
    pub(super) fn of(word: &str) -> Self {
        VERBS.iter().find(|(_, upper, _)| upper.eq_ignore_ascii_case(word)).map_or(Verb::Unknown, |(verb, _, _)| *verb)
    }
    pub(super) fn upper(self) -> &'static str {
        // The table is in the order of the enum.
        VERBS[self as usize].1
    }
    /// May be said before STARTTLS where encryption is demanded.
    pub(super) fn is_before_tls(self) -> bool {
        matches!(self, Verb::Helo | Verb::Ehlo | Verb::Xclient | Verb::Starttls | Verb::Noop | Verb::Quit)
    }
    /// Counts as a junk command.
    pub(super) fn is_junk(self) -> bool {
        matches!(self, Verb::Helo | Verb::Ehlo | Verb::Rset | Verb::Noop | Verb::Vrfy | Verb::Etrn)
    }
    /// RFC 2920: must be the last of a group of pipelined commands.
    pub(super) fn is_last_of_group(self) -> bool {
        matches!(self, Verb::Helo | Verb::Ehlo | Verb::Data | Verb::Noop | Verb::Vrfy)
    }
}

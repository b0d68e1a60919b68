//! What a recipient does with mail. The local part says it: the words up to the first `-`, `+`, `.` or digit.

/// The stages of a conversation at which a receiver may hang up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// After MAIL. As a recipient's behaviour: at the next message of the session.
    Mail,
    /// After RCPT.
    Rcpt,
    /// After DATA, instead of 354.
    Data,
    /// In the middle of the content.
    Content,
    /// After the final dot; the message is not kept.
    Dot,
}

/// The systems whose bounces can be sent later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    /// RFC 3464 as Postfix writes it.
    Postfix,
    /// Plain text and `X-Failed-Recipients`.
    Exim,
    /// RFC 3464 with sendmail's transcript.
    Sendmail,
    /// QSBMF.
    Qmail,
    /// RFC 3464 with Exchange's diagnostic information.
    Exchange,
    /// RFC 3464 as Gmail writes it.
    Gmail,
    /// RFC 3464 as Courier writes it.
    Courier,
    /// Plain Japanese text in ISO-2022-JP.
    Japanese,
    /// RFC 3464 with docomo's reply, which has no status code.
    Docomo,
    /// Plain text as au (KDDI, ezweb.ne.jp) writes it: the subscriber's filter.
    Kddi,
    /// RFC 3464 as Domino writes it.
    Domino,
}

/// All of them, for `later-`, which takes them in turns.
pub const SYSTEMS: [System; 11] = [
    System::Postfix,
    System::Exim,
    System::Sendmail,
    System::Qmail,
    System::Exchange,
    System::Gmail,
    System::Courier,
    System::Japanese,
    System::Docomo,
    System::Kddi,
    System::Domino,
];

/// What becomes of a message to a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behaviour {
    /// Taken and kept.
    Ok,
    /// Refused in the profile's words, for good or for now, where the profile says: the name of the reply.
    Refused(&'static str),
    /// Refused for now until the greylisting time is over.
    Grey,
    /// Every reply takes some seconds.
    Slow,
    /// Every reply comes a byte at a time.
    Tarpit,
    /// The receiver hangs up.
    Drop(Stage),
    /// Kept, but the receiver hangs up instead of saying so.
    LostReply,
    /// Taken, and never seen again.
    Lost,
    /// Taken, and returned later; `None` takes the systems in turns.
    Later(Option<System>),
    /// Taken, and complained about later (RFC 5965).
    Complaint,
    /// Taken, and answered automatically later (RFC 3834).
    Vacation,
}

/// Replies that profiles may word, and the words without a profile's: stage, reply.
pub const REPLIES: [(&str, &str); 10] = [
    ("unknown", "RCPT 550 5.1.1 <${recipient}>: Recipient address rejected: User unknown"),
    ("suspended", "RCPT 550 5.2.1 <${recipient}>: The account is disabled"),
    ("full", "RCPT 452 4.2.2 <${recipient}>: Mailbox full"),
    ("overquota", "RCPT 552 5.2.2 <${recipient}>: Mailbox is over quota"),
    ("filtered", "DOT 550 5.7.1 The recipient does not take mail from this sender"),
    ("spam", "DOT 554 5.7.1 Message looks like spam"),
    ("toolarge", "DOT 552 5.3.4 Message is too large"),
    ("policy", "MAIL 550 5.7.1 Sender refused by local policy"),
    ("defer", "RCPT 450 4.2.1 <${recipient}>: Try again later"),
    ("deferdata", "DOT 451 4.3.0 Try again later"),
];

const WORDS: [(&str, Behaviour); 27] = [
    ("grey", Behaviour::Grey),
    ("slow", Behaviour::Slow),
    ("tarpit", Behaviour::Tarpit),
    ("dropmail", Behaviour::Drop(Stage::Mail)),
    ("droprcpt", Behaviour::Drop(Stage::Rcpt)),
    ("dropdata", Behaviour::Drop(Stage::Data)),
    ("dropcontent", Behaviour::Drop(Stage::Content)),
    ("dropdot", Behaviour::Drop(Stage::Dot)),
    ("lostreply", Behaviour::LostReply),
    ("lost", Behaviour::Lost),
    ("later", Behaviour::Later(None)),
    ("laterpostfix", Behaviour::Later(Some(System::Postfix))),
    ("laterexim", Behaviour::Later(Some(System::Exim))),
    ("latersendmail", Behaviour::Later(Some(System::Sendmail))),
    ("laterqmail", Behaviour::Later(Some(System::Qmail))),
    ("laterexchange", Behaviour::Later(Some(System::Exchange))),
    ("latergmail", Behaviour::Later(Some(System::Gmail))),
    ("latercourier", Behaviour::Later(Some(System::Courier))),
    ("laterjapanese", Behaviour::Later(Some(System::Japanese))),
    ("laterdocomo", Behaviour::Later(Some(System::Docomo))),
    ("laterkddi", Behaviour::Later(Some(System::Kddi))),
    ("laterdomino", Behaviour::Later(Some(System::Domino))),
    ("complaint", Behaviour::Complaint),
    ("complains", Behaviour::Complaint),
    ("vacation", Behaviour::Vacation),
    ("ok", Behaviour::Ok),
    ("user", Behaviour::Ok),
];

/// What a mail system that does everything right ends with for a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Here once.
    Once,
    /// Never here.
    Never,
    /// Here at least once: the sender cannot know that it was.
    AtLeastOnce,
}

impl Behaviour {
    /// What the recipient `address` does. Whoever is not told otherwise takes mail.
    pub fn of(address: &str) -> Self {
        let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
        let end = local.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(local.len());
        let word = local[..end].to_ascii_lowercase();
        if let Some((name, _)) = REPLIES.iter().find(|(name, _)| *name == word) {
            return Self::Refused(name);
        }
        WORDS.iter().find(|(name, _)| *name == word).map_or(Self::Ok, |(_, behaviour)| *behaviour)
    }

    /// What must have been seen in the end of a message to such a recipient, where the receiver can be reached at all.
    pub fn expected(self) -> Expected {
        match self {
            Self::Refused(_) | Self::Drop(_) => Expected::Never,
            Self::LostReply => Expected::AtLeastOnce,
            _ => Expected::Once,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_part_says_it() {
        let cases = [
            ("unknown-17@docomo.ne.jp", Behaviour::Refused("unknown")),
            ("Full@x", Behaviour::Refused("full")),
            ("fuller@x", Behaviour::Ok),
            ("grey+1@x", Behaviour::Grey),
            ("later.5@x", Behaviour::Later(None)),
            ("laterqmail5@x", Behaviour::Later(Some(System::Qmail))),
            ("dropdot-1@x", Behaviour::Drop(Stage::Dot)),
            ("hanako@x", Behaviour::Ok),
            ("", Behaviour::Ok),
            ("山田@x", Behaviour::Ok),
        ];
        for (address, behaviour) in cases {
            assert_eq!(Behaviour::of(address), behaviour, "{address}");
        }
    }

    #[test]
    fn no_word_stands_for_two_things() {
        let words: std::collections::BTreeSet<_> =
            WORDS.iter().map(|(word, _)| *word).chain(REPLIES.iter().map(|(word, _)| *word)).collect();
        assert_eq!(words.len(), WORDS.len() + REPLIES.len());
    }
}

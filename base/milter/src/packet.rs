//! Packets: four bytes of length, a command letter, data. What the filter may say, read into [`Answer`]s.

/// What the server can do for a filter, and what a filter wants to do (`SMFIF_*`).
pub mod actions {
    /// Add header fields.
    pub const ADD_HEADERS: u32 = 0x1;
    /// Replace the body.
    pub const CHANGE_BODY: u32 = 0x2;
    /// Add recipients.
    pub const ADD_RECIPIENTS: u32 = 0x4;
    /// Delete recipients.
    pub const DELETE_RECIPIENTS: u32 = 0x8;
    /// Change or delete header fields.
    pub const CHANGE_HEADERS: u32 = 0x10;
    /// Quarantine the message.
    pub const QUARANTINE: u32 = 0x20;
    /// Change the envelope sender.
    pub const CHANGE_SENDER: u32 = 0x40;
    /// Add recipients with ESMTP parameters.
    pub const ADD_RECIPIENTS_WITH_PARAMETERS: u32 = 0x80;
    /// Say which macros it wants.
    pub const SET_MACROS: u32 = 0x100;
    /// Everything above.
    pub const ALL: u32 = 0x1ff;
}

/// What a filter does not want to hear, or not to answer (`SMFIP_*`).
pub mod protocol {
    /// No connection event.
    pub const NO_CONNECT: u32 = 0x1;
    /// No HELO event.
    pub const NO_HELO: u32 = 0x2;
    /// No MAIL event.
    pub const NO_MAIL: u32 = 0x4;
    /// No RCPT event.
    pub const NO_RCPT: u32 = 0x8;
    /// No body.
    pub const NO_BODY: u32 = 0x10;
    /// No header fields.
    pub const NO_HEADERS: u32 = 0x20;
    /// No end of headers.
    pub const NO_END_OF_HEADERS: u32 = 0x40;
    /// Header fields are not answered.
    pub const NO_REPLY_HEADER: u32 = 0x80;
    /// No unknown commands.
    pub const NO_UNKNOWN: u32 = 0x100;
    /// No DATA event.
    pub const NO_DATA: u32 = 0x200;
    /// The filter may skip the rest of the body.
    pub const SKIP: u32 = 0x400;
    /// Rejected recipients are told too.
    pub const REJECTED_RECIPIENTS: u32 = 0x800;
    /// The connection is not answered.
    pub const NO_REPLY_CONNECT: u32 = 0x1000;
    /// HELO is not answered.
    pub const NO_REPLY_HELO: u32 = 0x2000;
    /// MAIL is not answered.
    pub const NO_REPLY_MAIL: u32 = 0x4000;
    /// RCPT is not answered.
    pub const NO_REPLY_RCPT: u32 = 0x8000;
    /// DATA is not answered.
    pub const NO_REPLY_DATA: u32 = 0x1_0000;
    /// Unknown commands are not answered.
    pub const NO_REPLY_UNKNOWN: u32 = 0x2_0000;
    /// The end of headers is not answered.
    pub const NO_REPLY_END_OF_HEADERS: u32 = 0x4_0000;
    /// Body chunks are not answered.
    pub const NO_REPLY_BODY: u32 = 0x8_0000;
    /// Header values keep the blank after the colon.
    pub const HEADER_LEADING_SPACE: u32 = 0x10_0000;

    /// What is offered in a version of the protocol; `None`: there is no such version.
    pub fn offered(version: u32) -> Option<u32> {
        match version {
            2 => Some(0x7f),
            3 => Some(0x7f | NO_UNKNOWN),
            4 => Some(0x7f | NO_UNKNOWN | NO_DATA),
            6 => Some(0x1f_ffff),
            _ => None,
        }
    }
}

/// The longest packet of a filter that is read: a body chunk is at most 64 KB, a list of macros or a reply is shorter.
pub const LONGEST: usize = 1 << 20;
/// Bytes of body in a packet.
pub const CHUNK: usize = 65_535;

/// Steps of a transaction as macros are tied to them; the numbers are those of the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The connection.
    Connect = 0,
    /// HELO or EHLO.
    Helo = 1,
    /// MAIL.
    Mail = 2,
    /// RCPT.
    Rcpt = 3,
    /// DATA.
    Data = 4,
    /// The end of the message.
    EndOfMessage = 5,
    /// The end of the headers.
    EndOfHeaders = 6,
    /// A command the server does not know. Filters cannot choose its macros.
    Unknown = 7,
}

impl Stage {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::EndOfMessage,
        Self::EndOfHeaders,
        Self::Unknown,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().take(7).find(|stage| *stage as u32 == number)
    }
}

/// A packet of the server being put together.
#[derive(Debug)]
pub struct Packet<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Packet<'o> {
    /// Begins one at the end of `out`; it is complete when this is dropped.
    pub fn new(out: &'o mut Vec<u8>, command: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, command]);
        Self { out, start }
    }
    /// Bytes as they are.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }
    /// A text and its end. A NUL within ends the text: nothing behind it could be told from the next.
    pub fn text(self, text: &[u8]) -> Self {
        let end = memchr::memchr(0, text).unwrap_or(text.len());
        self.out.extend_from_slice(&text[..end]);
        self.out.push(0);
        self
    }
    /// A number.
    pub fn number(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }
}

impl Drop for Packet<'_> {
    fn drop(&mut self) {
        let length = u32::try_from(self.out.len() - self.start - 4).unwrap_or(u32::MAX);
        // The four bytes were put there at the beginning.
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// What a filter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Continue,
    /// No more about this message (or connection): it is accepted.
    Accept,
    /// Claim success and keep nothing.
    Discard,
    /// `550 5.7.1 Command rejected`
    Reject,
    /// `451 4.7.1 Service unavailable - try again later`
    TemporaryFailure,
    /// This reply: code 4xx or 5xx, with an enhanced code perhaps; lines are separated by CR LF.
    Reply(String),
    /// `421 4.7.0 Server closing connection`
    Shutdown,
    /// The filter gives up the connection; as a failure.
    ConnectionFailure,
    /// No more of the body is wanted.
    Skip,
    /// It is still working.
    Progress,
    /// The message is to be changed.
    Change(Modification),
    /// Quarantine, with the reason.
    Quarantine(String),
    /// The answer to the negotiation.
    Negotiated {
        /// Version of the protocol.
        version: u32,
        /// What the filter wants to do.
        actions: u32,
        /// What it does not want to hear.
        protocol: u32,
        /// Macros by stage.
        macros: Vec<(Stage, Vec<String>)>,
    },
}

impl Answer {
    /// The byte on the wire, and its name in the protocol.
    fn code(&self) -> (char, &'static str) {
        match self {
            Self::Continue => ('c', "SMFIR_CONTINUE"),
            Self::Accept => ('a', "SMFIR_ACCEPT"),
            Self::Discard => ('d', "SMFIR_DISCARD"),
            Self::Reject => ('r', "SMFIR_REJECT"),
            Self::TemporaryFailure => ('t', "SMFIR_TEMPFAIL"),
            Self::Reply(_) => ('y', "SMFIR_REPLYCODE"),
            Self::Shutdown => ('4', "SMFIR_SHUTDOWN"),
            Self::ConnectionFailure => ('f', "SMFIR_CONN_FAIL"),
            Self::Skip => ('s', "SMFIR_SKIP"),
            Self::Progress => ('p', "SMFIR_PROGRESS"),
            Self::Quarantine(_) => ('q', "SMFIR_QUARANTINE"),
            Self::Negotiated { .. } => ('O', "SMFIC_OPTNEG"),
            Self::Change(Modification::AddHeader(..)) => ('h', "SMFIR_ADDHEADER"),
            Self::Change(Modification::InsertHeader(..)) => ('i', "SMFIR_INSHEADER"),
            Self::Change(Modification::ChangeHeader(..)) => ('m', "SMFIR_CHGHEADER"),
            Self::Change(Modification::AddRecipient(_, words)) if words.is_empty() => ('+', "SMFIR_ADDRCPT"),
            Self::Change(Modification::AddRecipient(..)) => ('2', "SMFIR_ADDRCPT_PAR"),
            Self::Change(Modification::DeleteRecipient(_)) => ('-', "SMFIR_DELRCPT"),
            Self::Change(Modification::Sender(..)) => ('e', "SMFIR_CHGFROM"),
            Self::Change(Modification::Body(_)) => ('b', "SMFIR_REPLBODY"),
        }
    }

    /// The byte on the wire.
    pub fn letter(&self) -> char {
        self.code().0
    }

    /// Its name in the protocol: `SMFIR_CONTINUE`.
    pub fn name(&self) -> &'static str {
        self.code().1
    }
}

/// A change at the end of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// A header field at the end.
    AddHeader(Vec<u8>, Vec<u8>),
    /// A header field before the field of this number (from 1); 0 and 1: before all.
    InsertHeader(u32, Vec<u8>, Vec<u8>),
    /// The n-th field (from 1) of this name gets this value; none: it goes.
    ChangeHeader(u32, Vec<u8>, Vec<u8>),
    /// Another recipient, with ESMTP parameters perhaps.
    AddRecipient(String, String),
    /// This recipient goes.
    DeleteRecipient(String),
    /// The envelope sender, with ESMTP parameters perhaps.
    Sender(String, String),
    /// A piece of the new body, CRLF line ends.
    Body(Vec<u8>),
}

/// Reads a packet's command and data. `None`: it is none, or its data are not right for it.
pub fn answer(command: u8, data: &[u8]) -> Option<Answer> {
    use Answer as A;
    use Modification as M;
    let none = data.is_empty();
    let texts = || -> Option<Vec<&[u8]>> {
        // Each text has an end; what follows the last is nothing.
        let mut texts: Vec<_> = data.split(|byte| *byte == 0).collect();
        texts.pop().filter(|rest| rest.is_empty())?;
        Some(texts)
    };
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let numbered = || -> Option<(u32, &[u8], &[u8])> {
        let (number, rest) = data.split_first_chunk::<4>()?;
        let mut texts = rest.strip_suffix(b"\0")?.splitn(2, |byte| *byte == 0);
        Some((u32::from_be_bytes(*number), texts.next()?, texts.next()?))
    };
    Some(match command {
        b'c' if none => A::Continue,
        b'a' if none => A::Accept,
        b'd' if none => A::Discard,
        b'r' if none => A::Reject,
        b't' if none => A::TemporaryFailure,
        b'4' if none => A::Shutdown,
        b'f' if none => A::ConnectionFailure,
        b's' if none => A::Skip,
        b'p' => A::Progress,
        b'y' => A::Reply(reply(&shown(texts()?.first()?))?),
        b'q' => A::Quarantine(shown(data.split(|byte| *byte == 0).next().unwrap_or_default())),
        b'h' => match texts()?[..] {
            [name, value] => A::Change(M::AddHeader(name.to_vec(), value.to_vec())),
            _ => return None,
        },
        b'i' => {
            let (index, name, value) = numbered()?;
            A::Change(M::InsertHeader(index, name.to_vec(), value.to_vec()))
        }
        b'm' => {
            let (index, name, value) = numbered()?;
            A::Change(M::ChangeHeader(index, name.to_vec(), value.to_vec()))
        }
        b'+' | b'2' => match texts()?[..] {
            [address] => A::Change(M::AddRecipient(shown(address), String::new())),
            [address, parameters] if command == b'2' => A::Change(M::AddRecipient(shown(address), shown(parameters))),
            _ => return None,
        },
        b'-' => match texts()?[..] {
            [address] => A::Change(M::DeleteRecipient(shown(address))),
            _ => return None,
        },
        b'e' => match texts()?[..] {
            [address] => A::Change(M::Sender(shown(address), String::new())),
            [address, parameters] => A::Change(M::Sender(shown(address), shown(parameters))),
            _ => return None,
        },
        b'b' => A::Change(M::Body(data.to_vec())),
        b'O' => negotiated(data)?,
        _ => return None,
    })
}

fn negotiated(data: &[u8]) -> Option<Answer> {
    let number = |at: usize| data.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (version, actions, protocol) = (number(0)?, number(4)?, number(8)?);
    let mut macros = Vec::new();
    let mut rest = data.get(12..).unwrap_or_default();
    while let Some((stage, after)) = rest.split_first_chunk::<4>() {
        let end = memchr::memchr(0, after)?;
        let names = String::from_utf8_lossy(&after[..end]);
        let names = names.split([' ', ',', '\t']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        // A stage that does not exist is nobody's.
        if let Some(stage) = Stage::of(u32::from_be_bytes(*stage)) {
            macros.push((stage, names));
        }
        rest = &after[end + 1..];
    }
    Some(Answer::Negotiated { version, actions, protocol, macros })
}

/// A reply code with text, as a filter may set it: 4xx or 5xx, each line with the same code.
fn reply(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\r', '\n']);
    let code = text.get(..3)?;
    let valid = matches!(code.as_bytes(), [b'4' | b'5', b'0'..=b'5', b'0'..=b'9']);
    let lines = text.split("\r\n").all(|line| {
        line.get(..3) == Some(code)
            && matches!(line.as_bytes().get(3), None | Some(b' ' | b'-'))
            && !line.contains(['\r', '\n', '\0'])
    });
    (valid && lines && text.len() <= 8192).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_their_length() {
        let mut out = b"x".to_vec();
        _ = Packet::new(&mut out, b'H').text(b"name\0more");
        _ = Packet::new(&mut out, b'O').number(6).bytes(&[1]);
        assert_eq!(out, b"x\0\0\0\x06Hname\0\0\0\0\x06O\0\0\0\x06\x01");
    }

    #[test]
    fn answers() {
        use Answer as A;
        use Modification as M;
        let cases: &[(u8, &[u8], Option<Answer>)] = &[
            (b'c', b"", Some(A::Continue)),
            (b'c', b"x", None),
            (b'a', b"", Some(A::Accept)),
            (b'y', b"550 5.7.1 no\0", Some(A::Reply("550 5.7.1 no".into()))),
            (b'y', b"554-a\r\n554 b\0", Some(A::Reply("554-a\r\n554 b".into()))),
            (b'y', b"554-a\r\n555 b\0", None),
            (b'y', b"554 a\nb\0", None),
            (b'y', b"250 ok\0", None),
            (b'y', b"550 no end", None),
            (b'y', b"600 x\0", None),
            (b'h', b"X-A\0b\0", Some(A::Change(M::AddHeader(b"X-A".to_vec(), b"b".to_vec())))),
            (b'h', b"X-A\0", None),
            (b'i', b"\0\0\0\x02N\0v\0", Some(A::Change(M::InsertHeader(2, b"N".to_vec(), b"v".to_vec())))),
            (b'm', b"\0\0\0\x01N\0\0", Some(A::Change(M::ChangeHeader(1, b"N".to_vec(), Vec::new())))),
            (b'm', b"\0\0N\0\0", None),
            (b'+', b"<a@b>\0", Some(A::Change(M::AddRecipient("<a@b>".into(), String::new())))),
            (b'2', b"<a@b>\0NOTIFY=NEVER\0", Some(A::Change(M::AddRecipient("<a@b>".into(), "NOTIFY=NEVER".into())))),
            (b'q', b"why\0", Some(A::Quarantine("why".into()))),
            (b'z', b"", None),
            (
                b'O',
                b"\0\0\0\x06\0\0\0\x01\0\0\0\0\0\0\0\x05i {x}\0\0\0\0\x63no\0",
                Some(A::Negotiated {
                    version: 6,
                    actions: 1,
                    protocol: 0,
                    macros: vec![(Stage::EndOfMessage, vec!["i".into(), "{x}".into()])],
                }),
            ),
            (b'O', b"\0\0\0\x06", None),
            (b'O', b"\0\0\0\x06\0\0\0\x01\0\0\0\0\0\0\0\x05i", None),
        ];
        for (command, data, expected) in cases {
            assert_eq!(answer(*command, data), *expected, "{} {data:?}", char::from(*command));
        }
    }
}

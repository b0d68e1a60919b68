//! The dialogue of the SMTP server, without I/O: bytes in, actions out.
//!
//! A [`Session`] is fed what the client sent ([`Session::advance`]) and says what it wants done next ([`Action`]). What
//! it says to the client collects in its output, so that pipelined commands are answered in one write. Questions that
//! need a lookup, the disk or another part of the program are actions too; the answer comes back by a method and the
//! session goes on with the input that is left. The same input gives the same replies however it is cut up.
//!
//! States ([`Phase`]): greeting, between commands, skipping an overlong line, waiting for an answer ([`Waiting`]), message
//! content after DATA, a BDAT chunk, closed.
//!
//! Memory: a command line is at most `line_length_limit` bytes, content beyond `message_size_limit` is read and dropped,
//! and a driver can take content away from a session ([`Session::take_content`]) while it grows.

mod answers;
mod commands;
mod connection;
mod content;
mod ending;
mod filters;
mod lines;
mod login;
mod secure;
mod speech;
mod verb;
mod xclient;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;
use yamabiko_envelope::{
    BodyType, Client, Events, Origin, QueueId, Recipient, SaslIdentity, SessionEnd, Submission, Timestamp,
};
use yamabiko_sasl::mechanisms::Mechanism;
use yamabiko_smtp::command::{Bdat, MailParameters};
use yamabiko_smtp::data::{DataDecoder, LineEnds};

use crate::admission::Admission;
use crate::filter::FilterStep;
use crate::limits::Limits;
use crate::peer::{Peer, Standing};
use crate::restrict::{Check, CheckState, Record};
use crate::settings::{BareNewline, ErrorClasses, Pressure, Settings};
use crate::transcript::Transcript;
pub use login::AuthStep;
use verb::{VERBS, Verb};

/// What a session wants next.
#[derive(Debug)]
pub enum Action {
    /// Write the output, then read more input.
    Read,
    /// Wait before anything else: the client makes errors.
    Pause(Duration),
    /// Answer this check with [`Session::facts`], [`Session::take_checks`] and [`Session::checked`].
    Check(Check),
    /// The client is somebody else now (XCLIENT): find out its [`Standing`], tell [`Session::stands`].
    Classify,
    /// Submit this message; tell [`Session::submitted`].
    Submit(Box<Submission>),
    /// Write the output, forget what was read in the clear, do the handshake; tell [`Session::secured`].
    Handshake,
    /// Ask which mechanisms there are; tell [`Session::mechanisms`].
    Mechanisms,
    /// Ask whoever decides about logins; tell [`Session::judged`].
    Authenticate(AuthStep),
    /// Start delivery for a domain; tell [`Session::etrn_done`].
    Etrn(String),
    /// Ask the mail filters; tell [`Session::filtered`].
    Filter(FilterStep),
    /// Write the output and close.
    Close,
}

/// Where a BDAT sequence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Chunks {
    /// No BDAT yet.
    #[default]
    None,
    /// Chunks were accepted.
    Open,
    /// One was refused; the rest is read and dropped.
    Failed,
}

/// A mail transaction: from MAIL on.
#[derive(Debug)]
struct Transaction {
    sender: String,
    parameters: MailParameters,
    arrival: Timestamp,
    /// From the first accepted recipient on.
    queue_id: Option<QueueId>,
    recipients: Vec<Recipient>,
    overshoot: u32,
    chunks: Chunks,
}

/// MAIL while its check is out.
#[derive(Debug)]
struct MailRequest {
    sender: String,
    parameters: MailParameters,
    /// Refused already, if only the address is one.
    refused: Option<String>,
}

/// RCPT while its check is out.
#[derive(Debug)]
struct RcptRequest {
    recipient: Recipient,
    refused: Option<(String, bool)>,
}

/// What an answer is waited for.
#[derive(Debug)]
enum Waiting {
    Connect,
    Classify,
    Helo {
        name: String,
        extended: bool,
    },
    Mail(Box<MailRequest>),
    Rcpt(Box<RcptRequest>),
    Vrfy {
        address: String,
        shown: String,
        smtputf8: bool,
    },
    Data,
    Bdat(Bdat),
    EndOfData {
        bdat: bool,
    },
    EtrnCheck(String),
    Etrn(String),
    Submit {
        bdat: bool,
    },
    /// `wrapper`: before the greeting.
    Handshake {
        wrapper: bool,
    },
    /// For EHLO, or for AUTH.
    Mechanisms(Option<AuthStep>),
    Login(AuthStep),
    Filter(Box<Step>),
}

/// What goes on when the mail filters have nothing against it.
#[derive(Debug)]
enum Step {
    Connect,
    Helo {
        name: String,
        extended: bool,
    },
    Mail,
    Rcpt(Recipient),
    /// It is refused already with this reply; filters only hear of it.
    RefusedRcpt(Recipient, String),
    Data,
    Bdat(Bdat),
    Unknown(String),
}

/// Content that is being received.
#[derive(Debug)]
struct Incoming {
    decoder: DataDecoder,
    /// Bytes on the wire so far.
    wire_bytes: u64,
    /// Bytes of content that were taken away by the driver.
    taken: u64,
    /// The limit was passed: what follows is dropped.
    too_big: bool,
    /// The first lines have been looked at.
    begun: bool,
}

/// Where the dialogue stands.
#[derive(Debug)]
enum Phase {
    /// Nothing was said yet.
    Greeting,
    /// The next line is a command.
    Command,
    /// The rest of a line that is too long.
    LongLine,
    /// The next line answers a challenge of AUTH; or the rest of one that is too long.
    Response { too_long: bool },
    /// Asked for with an action; `true` once the action was given out.
    Waiting(Waiting, bool),
    /// Content after DATA.
    Data,
    /// A BDAT chunk: bytes left, whether it is kept, and the command.
    Chunk { left: u64, keep: bool, bdat: Bdat },
    /// Over.
    Closed,
}

/// What a session needs from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// The engine.
    pub admission: Arc<dyn Admission>,
    /// Takes what happens.
    pub events: Events,
    /// Counters per client.
    pub limits: Arc<Limits>,
}

/// One client's conversation with the server.
pub struct Session {
    settings: Arc<Settings>,
    pressure: Pressure,
    around: Surroundings,
    peer: Peer,
    standing: Standing,
    /// Not from the network: `sendmail -bs`, run by this user.
    user: Option<u32>,
    phase: Phase,
    output: Vec<u8>,
    content: Vec<u8>,
    incoming: Option<Incoming>,
    helo: Option<String>,
    protocol: &'static str,
    forwarded: Option<Box<xclient::Forwarded>>,
    transaction: Option<Transaction>,
    /// A chunk came without a transaction, and was not the last one.
    chunks_astray: bool,
    /// Transactions so far, this one included.
    transactions: u32,
    checks: CheckState,
    /// Mail filters are asked.
    filters: bool,
    /// What they said to the connection or to HELO: the answer to most commands from then on.
    filters_refused: Option<String>,
    /// Some of them want to hear of recipients that are refused already.
    filters_hear_refused: bool,
    /// They have begun with a transaction that is over.
    filters_left: bool,
    /// The address and parameters of MAIL or RCPT as they were written.
    filter_words: Vec<String>,
    transcript: Transcript,
    /// The last line was of a login that was not granted.
    after_login: bool,
    began: Timestamp,
    stressed: bool,
    now: Timestamp,
    /// Command as the log names it.
    stage: &'static str,
    verb: Verb,
    counts: [(u32, u32); VERBS.len()],
    errors: u32,
    junk: u32,
    seen: ErrorClasses,
    access_denied: bool,
    bad_pipelining: bool,
    bare_newline_seen: bool,
    pause: Option<Duration>,
    /// After the output is written.
    hang_up: bool,
    end: Option<SessionEnd>,
    /// Notices to the postmaster to be submitted.
    notices: Vec<Submission>,
    /// The reply after a chunk that is not kept.
    chunk_refusal: String,
    client: Client,
    origin: Origin,
    tls: Option<Box<secure::Secured>>,
    sasl: Option<Box<SaslIdentity>>,
    /// What whoever decides about logins has; `None` before it was asked.
    mechanisms: Option<Arc<[Mechanism]>>,
    /// Of the login that is under way.
    mechanism: String,
    /// What the client hears instead of an answer to whatever it says next, because of its handshake.
    refusal: Option<String>,
    /// A limit that the connection is beyond: what, and how many.
    beyond: Option<(&'static str, u32)>,
}

impl Session {
    /// A conversation with `peer`, or with the `user` of this machine who runs `sendmail -bs`. The first
    /// [`Session::advance`] greets.
    pub fn new(
        settings: Arc<Settings>,
        stressed: bool,
        around: Surroundings,
        peer: Peer,
        standing: Standing,
        user: Option<u32>,
        now: Timestamp,
    ) -> Self {
        let origin = Origin::new(&settings.syslog_name, "smtpd");
        let client = peer.client(settings.port_logging);
        let transcript = Transcript::new(!settings.notify_classes.is_empty() && user.is_none());
        let mut session = Self {
            pressure: if stressed { settings.stressed } else { settings.normal },
            settings,
            around,
            peer,
            standing,
            user,
            phase: Phase::Greeting,
            output: Vec::new(),
            content: Vec::new(),
            incoming: None,
            helo: None,
            protocol: "SMTP",
            forwarded: None,
            transaction: None,
            chunks_astray: false,
            transactions: 0,
            checks: CheckState::default(),
            filters: false,
            filters_refused: None,
            filters_hear_refused: false,
            filters_left: false,
            filter_words: Vec::new(),
            transcript,
            after_login: false,
            began: now,
            stressed,
            now,
            stage: "CONNECT",
            verb: Verb::Unknown,
            counts: Default::default(),
            errors: 0,
            junk: 0,
            seen: ErrorClasses::default(),
            access_denied: false,
            bad_pipelining: false,
            bare_newline_seen: false,
            pause: None,
            hang_up: false,
            end: None,
            notices: Vec::new(),
            chunk_refusal: String::new(),
            client,
            origin,
            tls: None,
            sasl: None,
            mechanisms: None,
            mechanism: String::new(),
            refusal: None,
            beyond: None,
        };
        if session.user.is_none() && session.settings.tls.options.wrapper {
            session.wrap();
        }
        session
    }

    /// What to write to the client. The driver takes it at [`Action::Read`] and [`Action::Close`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// How long to wait for input.
    pub fn timeout(&self) -> Duration {
        self.pressure.timeout
    }

    /// The time limit is for a whole command or chunk of content, not for each read.
    pub fn deadline_per_request(&self) -> bool {
        self.pressure.per_request_deadline
    }

    /// Message content is being received.
    pub fn in_content(&self) -> bool {
        matches!(self.phase, Phase::Data | Phase::Chunk { .. })
    }

    /// A command line has begun, is too long, and has not ended.
    pub fn in_long_line(&self) -> bool {
        matches!(self.phase, Phase::LongLine)
    }

    /// Bytes of content in memory.
    pub fn content_len(&self) -> usize {
        self.content.len()
    }

    /// Bytes of this message that were taken with [`Session::take_content`]; 0 when there is no message.
    pub fn content_taken(&self) -> u64 {
        self.incoming.as_ref().map_or(0, |incoming| incoming.taken)
    }

    /// Takes the content received so far; what is taken comes before what [`Action::Submit`] holds.
    pub fn take_content(&mut self) -> Vec<u8> {
        self.begin_content();
        if let Some(incoming) = &mut self.incoming {
            incoming.taken += self.content.len() as u64;
        }
        std::mem::take(&mut self.content)
    }

    /// The driver could not keep what it took: the message is refused with `451 4.3.0`.
    pub fn content_lost(&mut self) {
        self.seen.add(ErrorClasses::RESOURCE);
        self.checks.records.push(Record::Warning("cannot write message content to a temporary file".to_owned()));
        self.flush_records();
        self.phase = Phase::Command;
        self.reply_error("451 4.3.0 Error: queue file write error");
        // Where the message ends is not known any more to a client that is still sending it.
        self.hang_up = true;
        self.end_transaction();
    }

    /// Goes on with `input`, what is left of it from before and what came since. Returns how many of its bytes are done
    /// with, and what to do next.
    pub fn advance(&mut self, input: &[u8], now: Timestamp) -> (usize, Action) {
        self.now = now;
        let mut used = 0;
        loop {
            if let Some(pause) = self.pause.take() {
                return (used, Action::Pause(pause));
            }
            if self.hang_up && !matches!(self.phase, Phase::Waiting(..)) {
                self.phase = Phase::Closed;
            }
            // `used` never passes the end.
            let rest = input.get(used..).unwrap_or_default();
            match &mut self.phase {
                Phase::Greeting => self.greet(rest),
                Phase::Command => {
                    if self.errors >= self.pressure.hard_error_limit {
                        self.end = Some(SessionEnd::TooManyErrors);
                        self.seen.add(ErrorClasses::PROTOCOL);
                        self.reply_own("421 4.7.0", "Error: too many errors");
                        continue;
                    }
                    match memchr(b'\n', rest) {
                        Some(at) if at <= self.settings.line_limit => {
                            used += at + 1;
                            self.line(&rest[..at], &rest[at + 1..]);
                        }
                        None if rest.len() <= self.settings.line_limit => return (used, Action::Read),
                        _ => {
                            self.stage = "UNKNOWN";
                            self.phase = Phase::LongLine;
                        }
                    }
                }
                Phase::LongLine => match memchr(b'\n', rest) {
                    None => return (input.len(), Action::Read),
                    Some(at) => {
                        used += at + 1;
                        self.phase = Phase::Command;
                        self.seen.add(ErrorClasses::PROTOCOL);
                        self.reply_own("500 5.5.2", "Error: command too long");
                        self.errors += 1;
                    }
                },
                Phase::Response { too_long } => {
                    let limit = self.settings.sasl.response_limit;
                    match memchr(b'\n', rest) {
                        Some(at) => {
                            used += at + 1;
                            match *too_long || at > limit {
                                true => self.response_too_long(),
                                false => self.response(&rest[..at]),
                            }
                        }
                        None if !*too_long && rest.len() <= limit => return (used, Action::Read),
                        None => {
                            *too_long = true;
                            return (input.len(), Action::Read);
                        }
                    }
                }
                Phase::Waiting(_, true) => return (used, Action::Read),
                Phase::Waiting(..) => return (used, self.ask()),
                Phase::Data if rest.is_empty() => return (used, Action::Read),
                Phase::Data => used += self.data(rest),
                Phase::Chunk { left: 0, .. } => self.end_of_chunk(),
                Phase::Chunk { .. } if rest.is_empty() => return (used, Action::Read),
                Phase::Chunk { .. } => used += self.chunk(rest),
                Phase::Closed => return (used, Action::Close),
            }
        }
    }

    /// The action of what is waited for.
    fn ask(&mut self) -> Action {
        let Phase::Waiting(waiting, asked) = &mut self.phase else { return Action::Read };
        *asked = true;
        match waiting {
            Waiting::Connect => Action::Check(Check::Connect),
            Waiting::Classify => Action::Classify,
            Waiting::Helo { .. } => Action::Check(Check::Helo),
            Waiting::Mail(request) if request.refused.is_some() => Action::Check(Check::MailAddress),
            Waiting::Mail(_) => Action::Check(Check::Mail),
            Waiting::Rcpt(request) if request.refused.is_some() => Action::Check(Check::RcptAddress),
            Waiting::Rcpt(_) | Waiting::Vrfy { .. } => Action::Check(Check::Rcpt),
            Waiting::Data | Waiting::Bdat(_) => Action::Check(Check::Data),
            Waiting::EndOfData { .. } => Action::Check(Check::EndOfData),
            Waiting::EtrnCheck(_) => Action::Check(Check::Etrn),
            Waiting::Etrn(domain) => Action::Etrn(domain.clone()),
            Waiting::Handshake { .. } => Action::Handshake,
            Waiting::Mechanisms(_) => Action::Mechanisms,
            Waiting::Login(step) => Action::Authenticate(step.clone()),
            Waiting::Filter(step) => Action::Filter(step.told(&mut self.filter_words)),
            Waiting::Submit { .. } => match self.submission() {
                Some(submission) => Action::Submit(Box::new(submission)),
                None => Action::Close,
            },
        }
    }

    fn wait(&mut self, waiting: Waiting) {
        self.phase = Phase::Waiting(waiting, false);
    }

    /// Forgets the transaction.
    fn end_transaction(&mut self) {
        self.filters_left |= self.filters && self.transaction.is_some();
        self.transaction = None;
        // What XFORWARD said is about one message.
        self.forwarded = None;
        self.chunks_astray = false;
        self.checks.reset();
        self.incoming = None;
        self.content = Vec::new();
    }
}

/// The beginning of what a client said, as Postfix shows it.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(100) {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            11 => out.push_str("\\v"),
            12 => out.push_str("\\f"),
            b' '..=b'~' => out.push(char::from(*byte)),
            other => out.push_str(&format!("\\{other:03o}")),
        }
    }
    out
}

/// How a content decoder treats line ends under a policy.
fn line_ends(policy: BareNewline) -> LineEnds {
    match policy {
        BareNewline::Accept => LineEnds::Any,
        BareNewline::Normalize | BareNewline::Note | BareNewline::Reject => LineEnds::Standard,
    }
}

fn body_type(parameters: &MailParameters) -> BodyType {
    match parameters.body {
        yamabiko_smtp::command::Body::Unspecified => BodyType::Unspecified,
        yamabiko_smtp::command::Body::SevenBit => BodyType::SevenBit,
        yamabiko_smtp::command::Body::EightBitMime => BodyType::EightBitMime,
    }
}

/// Appends, for texts made of several parts.
fn push(text: &mut String, parts: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(parts);
}

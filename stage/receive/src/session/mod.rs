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

mod commands;
mod content;
mod filters;
mod login;
mod secure;
mod verb;
mod xclient;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use memchr::memchr;
use yamabiko_envelope::{
    BodyType, Client, ClientAttributes, CommandCount, Decision, DecisionStep, Event, Events, Kind, Origin, QueueId,
    Recipient, SaslIdentity, SessionEnd, Severity, Submission, Timestamp,
};
use yamabiko_sasl::mechanisms::Mechanism;
use yamabiko_smtp::command::{Bdat, MailParameters};
use yamabiko_smtp::data::{DataDecoder, LineEnds};
use yamabiko_smtp::reply;

use crate::admission::{Accepted, Admission, Etrn, Refusal};
use crate::filter::FilterStep;
use crate::limits::{Counted, Limits};
use crate::peer::{Peer, Standing};
use crate::restrict::{Check, CheckState, Facts, Outcome, Record};
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
    /// Transactions so far, this one included.
    transactions: u32,
    checks: CheckState,
    /// Mail filters are asked.
    filters: bool,
    /// Some of them want to hear of recipients that are refused already.
    filters_hear_refused: bool,
    /// They have begun with a transaction that is over.
    filters_left: bool,
    /// The address and parameters of MAIL or RCPT as they were written.
    filter_words: Vec<String>,
    transcript: Transcript,
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
            transactions: 0,
            checks: CheckState::default(),
            filters: false,
            filters_hear_refused: false,
            filters_left: false,
            filter_words: Vec::new(),
            transcript,
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

    /// What the session knows, for a check.
    pub fn facts(&self) -> Facts<'_> {
        let transaction = self.transaction.as_ref();
        let mut facts = Facts {
            stage: self.stage,
            peer: &self.peer,
            helo: self.helo.as_deref(),
            sender: transaction.map(|t| t.sender.as_str()),
            recipient: None,
            etrn: None,
            recipients: transaction.map_or(0, |t| t.recipients.len()),
            smtputf8: transaction.is_some_and(|t| t.parameters.smtputf8),
            bad_pipelining: self.bad_pipelining,
            now: self.now,
            protocol: self.protocol,
            queue_id: transaction.and_then(|t| t.queue_id),
            began: self.began,
            transaction: self.transactions,
            size: self.size(),
            stressed: self.stressed,
            sasl: self.sasl.as_deref(),
            tls: self.tls.as_ref().map(|tls| &tls.facts),
        };
        match &self.phase {
            Phase::Waiting(Waiting::Helo { name, .. }, _) => facts.helo = Some(name),
            Phase::Waiting(Waiting::Mail(request), _) => {
                facts.sender = Some(&request.sender);
                facts.size = request.parameters.size;
                facts.smtputf8 = request.parameters.smtputf8;
            }
            Phase::Waiting(Waiting::Rcpt(request), _) => facts.recipient = Some(&request.recipient.address),
            Phase::Waiting(Waiting::Filter(step), _) => match &**step {
                Step::Helo { name, .. } => facts.helo = Some(name),
                Step::Rcpt(recipient) | Step::RefusedRcpt(recipient, _) => facts.recipient = Some(&recipient.address),
                _ => {}
            },
            Phase::Waiting(Waiting::Vrfy { address, smtputf8, .. }, _) => {
                facts.recipient = Some(address);
                facts.smtputf8 = *smtputf8;
            }
            Phase::Waiting(Waiting::EtrnCheck(domain) | Waiting::Etrn(domain), _) => facts.etrn = Some(domain),
            // About all recipients alike: naming one of several would mislead.
            _ => {
                if let Some(Transaction { recipients, .. }) = transaction
                    && let [only] = &recipients[..]
                {
                    facts.recipient = Some(&only.address);
                }
            }
        }
        facts
    }

    /// Bytes of the message as far as they are known: received, or announced.
    fn size(&self) -> u64 {
        match &self.incoming {
            // As it came, without the dot at its end.
            Some(incoming) if self.transaction.as_ref().is_some_and(|t| t.chunks == Chunks::None) => {
                incoming.wire_bytes.saturating_sub(3)
            }
            Some(incoming) => incoming.wire_bytes,
            None => self.transaction.as_ref().map_or(0, |t| t.parameters.size),
        }
    }

    /// Takes the state that checks change; it comes back with [`Session::checked`].
    pub fn take_checks(&mut self) -> CheckState {
        std::mem::take(&mut self.checks)
    }

    /// The answer to [`Action::Check`].
    pub fn checked(&mut self, state: CheckState, outcome: Outcome) {
        self.checks = state;
        self.flush_records();
        // Decisions that no restriction makes are not theirs.
        self.checks.steps.clear();
        self.seen.add(std::mem::take(&mut self.checks.errors));
        let Phase::Waiting(waiting, _) = std::mem::replace(&mut self.phase, Phase::Command) else { return };
        match waiting {
            Waiting::Connect => self.connect_checked(outcome),
            Waiting::Helo { name, extended } => self.helo_checked(name, extended, outcome),
            Waiting::Mail(request) => self.mail_checked(*request, outcome),
            Waiting::Rcpt(request) => self.rcpt_checked(*request, outcome),
            Waiting::Vrfy { shown, .. } => self.vrfy_checked(&shown, outcome),
            Waiting::Data => self.data_checked(outcome),
            Waiting::Bdat(bdat) => self.bdat_checked(bdat, outcome),
            Waiting::EndOfData { bdat } => self.end_of_data_checked(bdat, outcome),
            Waiting::EtrnCheck(domain) => self.etrn_checked(domain, outcome),
            waiting @ (Waiting::Classify
            | Waiting::Etrn(_)
            | Waiting::Submit { .. }
            | Waiting::Handshake { .. }
            | Waiting::Mechanisms(_)
            | Waiting::Filter(_)
            | Waiting::Login(_)) => {
                self.phase = Phase::Waiting(waiting, true);
            }
        }
    }

    /// The answer to [`Action::Classify`].
    pub fn stands(&mut self, standing: Standing) {
        // Whose headers are completed is decided by who connected, as Postfix does, not by whom XCLIENT names.
        self.standing = Standing { local_rewrite: self.standing.local_rewrite, ..standing };
        self.phase = Phase::Greeting;
    }

    /// The answer to [`Action::Etrn`].
    pub fn etrn_done(&mut self, result: Etrn) {
        if let Phase::Waiting(Waiting::Etrn(domain), _) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.etrn_answered(&domain, result);
        }
    }

    /// The answer to [`Action::Submit`].
    pub fn submitted(&mut self, result: Result<Accepted, Refusal>) {
        if let Phase::Waiting(Waiting::Submit { bdat }, _) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.message_done(bdat, result);
        }
    }

    /// The client sent nothing for too long.
    pub fn timed_out(&mut self) {
        self.end = Some(SessionEnd::Timeout);
        self.reply_own("421 4.4.2", "Error: timeout exceeded");
        self.phase = Phase::Closed;
    }

    /// The connection broke.
    pub fn lost(&mut self) {
        self.end = Some(SessionEnd::Lost);
        self.phase = Phase::Closed;
    }

    /// The client itself has ended the conversation: it has nothing more to say.
    pub fn said_goodbye(&self) -> bool {
        self.hang_up && self.verb == Verb::Quit
    }

    /// The server stops.
    pub fn shut_down(&mut self) {
        if !matches!(self.phase, Phase::Closed) {
            self.reply_own("421 4.3.2", "Service shutting down");
            self.phase = Phase::Closed;
        }
    }

    /// Notices to the postmaster to be submitted, as `notify_classes` asks for them; the client need not wait.
    pub fn take_notices(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.notices)
    }

    /// The session is over, output written or not. Emits its last events and returns the last notices.
    pub fn finish(mut self, now: Timestamp) -> Vec<Submission> {
        self.now = now;
        if let Some(how) = self.end {
            let in_content = matches!(self.stage, "DATA content" | "BDAT content");
            let bytes = self.incoming.as_ref().map_or(0, |incoming| incoming.wire_bytes);
            let after = match self.stage {
                "DATA content" => format!("DATA ({bytes} bytes)"),
                "BDAT content" => format!("BDAT ({bytes} bytes)"),
                stage => stage.to_owned(),
            };
            if in_content || self.stage != "END-OF-MESSAGE" || how != SessionEnd::Lost {
                let client = self.client.clone();
                let queue_id = self.queue_id();
                self.emit(Kind::SessionEnded { how, after, client, queue_id });
            }
        }
        let counts = VERBS
            .iter()
            .zip(self.counts)
            .filter(|(_, (total, _))| *total > 0)
            .map(|((_, _, name), (total, ok))| CommandCount { name, total, ok })
            .collect();
        let notes = if self.bare_newline_seen && self.bare_newline_policy() == BareNewline::Note {
            vec!["bare_lf"]
        } else {
            vec![]
        };
        let client = self.client.clone();
        let reason = match self.end {
            None => None,
            Some(SessionEnd::Lost) => Some("lost connection"),
            Some(SessionEnd::Timeout) => Some("timeout"),
            Some(SessionEnd::TooManyErrors) => Some("too many errors"),
        };
        self.end_transcript(reason);
        self.emit(Kind::Disconnected { client, counts, notes });
        self.notices
    }

    /// The transcript starts again. A notice is written if there was trouble of a kind that `notify_classes` names.
    fn end_transcript(&mut self, reason: Option<&str>) {
        let wanted = self.seen.meets(self.settings.notify_classes);
        let transcript = self.transcript.take();
        if wanted && !transcript.is_empty() {
            self.seen = ErrorClasses::default();
            let queue_id = self.around.admission.next_queue_id();
            let settings = &self.settings;
            self.notices.push(crate::transcript::notice(settings, &self.peer, &transcript, reason, queue_id, self.now));
        }
    }

    /// Long transcripts start again where a new transaction does.
    fn trim_transcript(&mut self) {
        if self.transcript.lines() > self.settings.history_threshold {
            self.end_transcript(None);
        }
    }

    // --- what is said and logged

    fn emit(&self, kind: Kind) {
        self.around.events.emit(Event { at: self.now, origin: self.origin.clone(), kind });
    }

    fn warn(&self, text: impl Into<String>) {
        self.emit(Kind::Text { severity: Severity::Warning, queue_id: None, text: text.into() });
    }

    fn info(&self, text: impl Into<String>) {
        self.emit(Kind::Text { severity: Severity::Info, queue_id: None, text: text.into() });
    }

    fn queue_id(&self) -> Option<QueueId> {
        self.transaction.as_ref().and_then(|t| t.queue_id)
    }

    fn verbose(&self) -> bool {
        self.settings.verbose || self.standing.verbose
    }

    /// Emits what checks have noted.
    fn flush_records(&mut self) {
        for record in std::mem::take(&mut self.checks.records) {
            match record {
                Record::Warning(text) => self.warn(text),
                Record::Decided(word, text) => self.decided(word, text),
            }
        }
    }

    /// How the last check was decided, in words.
    fn steps(&self) -> Vec<DecisionStep> {
        let steps = self.checks.steps.iter().map(|step| DecisionStep {
            parameter: Arc::clone(&step.parameter),
            element: Arc::clone(&step.element),
            place: step.place.as_ref().map(ToString::to_string).unwrap_or_default(),
            matched: step.matched.as_ref().map(ToString::to_string).unwrap_or_default(),
            verdict: step.verdict.word(),
        });
        steps.collect()
    }

    fn decided(&self, word: &'static str, text: String) {
        let facts = self.facts();
        let decision = Decision {
            queue_id: self.queue_id(),
            word,
            stage: self.stage.into(),
            client: self.client.clone(),
            text,
            sender: facts.sender.map(str::to_owned),
            recipient: facts.recipient.map(str::to_owned),
            protocol: self.protocol.to_owned(),
            helo: facts.helo.map(str::to_owned),
            steps: if self.settings.log_steps && word.starts_with("reject") { self.steps() } else { Vec::new() },
        };
        self.emit(Kind::Decided(Box::new(decision)));
    }

    /// Says one line. Refusals get the footer, `soft_bounce` and the pause of a client that makes errors.
    fn reply(&mut self, text: &str) {
        if self.errors >= self.settings.soft_error_limit && !self.settings.error_sleep.is_zero() {
            let pause = self.pause.get_or_insert_default();
            *pause = pause.saturating_add(self.settings.error_sleep);
        }
        let refusal = matches!(text.as_bytes().first(), Some(b'4' | b'5'));
        if refusal {
            let mut text = text.to_owned();
            if self.settings.soft_bounce {
                crate::restrict::soften(&mut text);
            }
            match self.footer(&text) {
                None => self.say(&text),
                Some(footer) => {
                    for line in crate::footer::append(&text, &footer, &self.settings, &self.footer_facts()) {
                        self.say(&line);
                    }
                }
            }
            if text.starts_with("421") || text.starts_with("521") {
                self.hang_up = true;
            }
        } else {
            self.say(text);
        }
    }

    /// The footer for a refusal. A table that does not answer at once is not waited for.
    fn footer(&self, reply: &str) -> Option<String> {
        let maps = &self.settings.reject_footer_maps;
        let special = (!maps.is_empty()).then(|| maps.find(reply).now_or_never()?.ok()?).flatten();
        special.or_else(|| (!self.settings.reject_footer.is_empty()).then(|| self.settings.reject_footer.clone()))
    }

    fn footer_facts(&self) -> crate::footer::FooterFacts<'_> {
        let facts = self.facts();
        crate::footer::FooterFacts {
            client: self.peer.name_and_address.as_ref(),
            client_name: self.peer.name.as_ref(),
            client_address: self.peer.address_text(),
            client_port: self.peer.port,
            helo_name: facts.helo.unwrap_or_default(),
            sender: facts.sender.unwrap_or_default(),
            recipient: facts.recipient.unwrap_or_default(),
            now: self.now,
        }
    }

    /// One line as it is.
    fn say(&mut self, line: &str) {
        reply::put(line, &mut self.output);
        self.transcript.out(line);
        if self.verbose() {
            self.info(format!("> {}: {line}", self.peer.name_and_address));
        }
    }

    /// A reply with our name in it: `421 4.7.0 HOST Error: ...`.
    fn reply_own(&mut self, code: &str, text: &str) {
        let line = format!("{code} {} {text}", self.settings.myhostname);
        self.reply(&line);
    }

    /// A reply to a command that failed.
    fn reply_error(&mut self, text: &str) {
        self.reply(text);
        self.errors += 1;
    }

    /// The client broke the protocol.
    fn protocol_error(&mut self, text: &str) {
        self.seen.add(ErrorClasses::PROTOCOL);
        self.reply_error(text);
    }

    /// The client broke a rule of ours.
    fn policy_error(&mut self, text: &str) {
        self.seen.add(ErrorClasses::POLICY);
        self.reply_error(text);
    }

    /// A command went well.
    fn succeed(&mut self) {
        // The array has an entry per verb.
        self.counts[self.verb as usize].1 += 1;
    }

    fn reply_ok(&mut self, text: &str) {
        self.reply(text);
        self.succeed();
    }

    /// Forgets the transaction.
    fn end_transaction(&mut self) {
        self.filters_left |= self.filters && self.transaction.is_some();
        self.transaction = None;
        self.checks.reset();
        self.incoming = None;
        self.content = Vec::new();
    }

    // --- connection

    fn greet(&mut self, ahead: &[u8]) {
        self.stage = "CONNECT";
        if let Some((what, value)) = self.beyond.take() {
            return self.refuse_beyond(what, value);
        }
        // A client of an encrypted service waits for a greeting, so it is told there.
        if let Some(refusal) = self.refusal.take() {
            return self.refuse_session(&refusal);
        }
        if !ahead.is_empty() && self.user.is_none() && self.settings.forbid_unauth_pipelining {
            self.info(format!(
                "improper command pipelining after CONNECT from {}: {}",
                self.peer.name_and_address,
                escaped(ahead)
            ));
            self.seen.add(ErrorClasses::PROTOCOL);
            self.reply("554 5.5.0 Error: SMTP protocol synchronization");
            self.hang_up = true;
            return;
        }
        for warning in std::mem::take(&mut self.standing.warnings) {
            self.warn(warning);
        }
        if self.user.is_some() || self.settings.delay_reject {
            return self.connect_checked(Outcome::Pass);
        }
        self.wait(Waiting::Connect);
    }

    fn connect_checked(&mut self, outcome: Outcome) {
        self.phase = Phase::Command;
        match outcome {
            Outcome::Refused(reply) => {
                self.access_denied = true;
                self.seen.add(ErrorClasses::POLICY);
                self.reply_error(&reply);
            }
            _ if self.filters => self.wait(Waiting::Filter(Box::new(Step::Connect))),
            _ => self.welcome(),
        }
    }

    fn welcome(&mut self) {
        let banner = format!("220 {}", self.settings.banner);
        self.reply(&banner);
    }

    /// The connection is refused before the greeting because of the client's counters.
    pub fn over_limit(&mut self, what: &'static str, value: u32) {
        self.beyond = Some((what, value));
    }

    fn refuse_beyond(&mut self, what: &str, value: u32) {
        self.seen.add(ErrorClasses::POLICY);
        let text = format!("Error: too many connections from {}", self.peer.address_text());
        self.reply_own("421 4.7.0", &text);
        self.warn(format!(
            "{what} limit exceeded: {value} from {} for service {}",
            self.peer.name_and_address, self.settings.service
        ));
        self.phase = Phase::Closed;
    }

    /// A rate limit is passed. Clients that may say XCLIENT and those in the exceptions have none.
    fn over_rate(&mut self, what: Counted) -> bool {
        let (limit, name) = match what {
            Counted::Messages => (self.settings.message_rate, "Message delivery request rate"),
            Counted::Recipients => (self.settings.recipient_rate, "Recipient address rate"),
            Counted::Auth => (self.settings.sasl.rate, "AUTH command rate"),
            Counted::NewTls => (self.settings.tls.new_session_rate, "New TLS session rate"),
        };
        let Some(address) = self.limited_address(limit) else { return false };
        let range = self.settings.range(address);
        let rate = self.around.limits.count(what, &self.settings.service, range, self.now);
        if rate <= limit {
            return false;
        }
        let subject = match what {
            Counted::Messages => "too much mail",
            Counted::Recipients => "too many recipients",
            Counted::Auth => "too many AUTH commands",
            Counted::NewTls => "too many new TLS sessions",
        };
        let text = format!("450 4.7.1 Error: {subject} from {}", self.peer.address_text());
        self.policy_error(&text);
        self.warn(format!(
            "{name} limit exceeded: {rate} from {} for service {}",
            self.peer.name_and_address, self.settings.service
        ));
        true
    }

    /// The address that a limit counts for. Clients that may say XCLIENT and those in the exceptions have none.
    fn limited_address(&self, limit: u32) -> Option<std::net::IpAddr> {
        let counted = limit > 0 && self.user.is_none() && !self.standing.unlimited && !self.standing.xclient;
        self.peer.address.filter(|_| counted)
    }

    /// What is done about bare newlines from this client.
    fn bare_newline_policy(&self) -> BareNewline {
        if self.standing.bare_newline_excluded || self.user.is_some() {
            BareNewline::Accept
        } else {
            self.settings.bare_newline
        }
    }

    // --- command lines

    /// A line without its LF; `ahead` is what the client has already sent of what follows.
    fn line(&mut self, line: &[u8], ahead: &[u8]) {
        let end = line.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
        if end == line.len() {
            self.bare_newline_seen = true;
            if self.bare_newline_policy() == BareNewline::Reject {
                let code = self.settings.bare_newline_reply();
                self.seen.add(ErrorClasses::PROTOCOL);
                self.reply_own(&format!("{code} 5.5.2"), "Error: bare <LF> received");
                self.hang_up = true;
                return;
            }
        }
        // `end` is at most the length of the line.
        let Ok(line) = std::str::from_utf8(&line[..end]) else {
            self.heard(&String::from_utf8_lossy(&line[..end]));
            return self.protocol_error("500 5.5.2 Error: bad UTF-8 syntax");
        };
        self.heard(line);
        if let Some(refusal) = self.refusal.take() {
            return self.refuse_session(&refusal);
        }
        if line.contains('\0') {
            return self.protocol_error("500 5.5.2 Error: bad syntax");
        }
        self.command(line, ahead);
    }

    /// A line of a login: nobody is to read it in a notice or in the log.
    fn heard_secret(&mut self) {
        self.heard("(response)");
    }

    fn heard(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        if let (Some(verb), Some(mechanism), Some(_)) = (words.next(), words.next(), words.next())
            && verb.eq_ignore_ascii_case("AUTH")
        {
            let shown = format!("{verb} {mechanism} (response)");
            return self.heard_line(&shown);
        }
        self.heard_line(line);
    }

    fn heard_line(&mut self, line: &str) {
        self.transcript.heard(line);
        if self.verbose() {
            self.info(format!("< {}: {line}", self.peer.name_and_address));
        }
    }

    /// A client that sends on where it had to wait for the answer.
    fn talks_out_of_turn(&mut self, verb: Verb, ahead: &[u8]) -> bool {
        let out_of_turn = !ahead.is_empty()
            && self.user.is_none()
            && (self.protocol == "SMTP" || verb.is_last_of_group())
            && !self.bad_pipelining;
        if !out_of_turn {
            return false;
        }
        self.bad_pipelining = true;
        self.info(format!(
            "improper command pipelining after {} from {}: {}",
            verb.upper(),
            self.peer.name_and_address,
            escaped(ahead)
        ));
        self.settings.forbid_unauth_pipelining
    }

    /// The envelope's attributes of the client: what XFORWARD said, where it said something.
    fn client_attributes(&self) -> ClientAttributes {
        let mut attributes = self.peer.attributes(self.helo.as_deref().unwrap_or_default(), self.protocol);
        if let Some(forwarded) = &self.forwarded {
            forwarded.apply(&mut attributes);
        }
        attributes
    }
}

/// The first bytes of what a client sent too early, for the log.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().take(100).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
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

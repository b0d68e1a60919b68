//! The client's side of an SMTP or LMTP conversation, without I/O: replies in, commands out.
//!
//! * [`Session`] is what is known of a connection and stays true from message to message: who the peer is, what it can
//!   do, how often it was used.
//! * [`Job`] is one message for some recipients, ready to be sent.
//! * [`Conversation`] carries one job over one session. Ask [`next`](Conversation::next) what to do: wait for a reply and
//!   hand it to [`take`](Conversation::take), or send the message and say so with [`sent`](Conversation::sent). Commands
//!   to be written are in [`output`](Conversation::output).
//! * [`Report`] is what came of it.
//!
//! There is one state per reply that is expected ([`Expect`]), and one per thing to be said next (`Say`). With
//! PIPELINING several commands go out together, so several replies are expected at once, in order; there is never a
//! command after DATA before its reply has come. Where replies make further commands senseless (sender refused, no
//! recipient left, DATA refused) the course is corrected with RSET when all replies to what was said are in.
//!
//! Whatever the peer says, nothing panics; the number of replies read is bounded by the number of commands.

use std::collections::VecDeque;
use std::time::Duration;

use yamabiko_envelope::{SmtpStage, Timestamp};
use yamabiko_smtp::capability::Capabilities;
use yamabiko_smtp::reply::Reply;
use yamabiko_status::{Class, EnhancedStatus, ReplyCode};

use crate::command;
use crate::login::LoginState;
use crate::settings::{Protocol, Settings};

pub use crate::command::{Addressee, Job};
pub use crate::expect::Expect;
pub use crate::report::{Broken, Bulk, Fate, Report, TlsEnd, Verdict};
pub use crate::session::{Peer, Session};

/// Commands that may be under way before their replies are read: with both sides writing and neither reading, more than
/// the buffers of the network hold would stop them both.
const GROUP_LIMIT: usize = 16 * 1024;

/// What is to be said next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// Nothing before the handshake is over.
    Handshake,
    Probe,
    XforwardName,
    XforwardProtocol,
    Mail,
    Rcpt(usize),
    Data,
    Content,
    Reset,
    Quit,
    Nothing,
}

/// What the driver does next. In every case it writes out [`Conversation::output`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read a reply within this time (zero: no limit) and hand it to [`Conversation::take`].
    Read(Duration),
    /// Send the message with its final dot, then call [`Conversation::sent`].
    Send,
    /// Do a TLS handshake by the session's terms, then call [`Conversation::secured`].
    Handshake,
    /// It is over: take the [`Report`].
    Done,
}

/// One job over one session.
pub struct Conversation<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) session: &'a mut Session,
    pub(crate) job: &'a Job<'a>,
    /// Keep the connection afterwards instead of sending QUIT.
    keep: bool,
    /// Commands that wait to be written.
    pub output: Vec<u8>,
    pub(crate) expected: VecDeque<Expect>,
    say: Say,
    /// Bytes said since every reply was in.
    under_way: usize,
    sender_refused: bool,
    data_refused: bool,
    accepted: usize,
    garbage: usize,
    finished: bool,
    lost_in_body: Option<Broken>,
    /// A handshake comes next.
    pub(crate) handshake: bool,
    pub(crate) login: LoginState,
    pub(crate) report: Report,
}

/// Lines that are no replies, from a server that does not pipeline, before we give up on it.
const GARBAGE_LIMIT: usize = 100;

impl<'a> Conversation<'a> {
    /// Begins: on a new session with the greeting, on one that was kept with a probe. `keep` is the wish to keep the
    /// connection, `buffer` an empty vector to be used for the output.
    pub fn new(
        settings: &'a Settings,
        session: &'a mut Session,
        job: &'a Job<'a>,
        keep: bool,
        buffer: Vec<u8>,
        now: Timestamp,
    ) -> Self {
        session.uses = session.uses.saturating_add(1);
        let greeted = session.greeted;
        let mut conversation = Self {
            settings,
            session,
            job,
            keep,
            output: buffer,
            expected: VecDeque::new(),
            say: Say::Handshake,
            under_way: 0,
            sender_refused: false,
            data_refused: false,
            accepted: 0,
            garbage: 0,
            finished: false,
            lost_in_body: None,
            handshake: false,
            login: LoginState::default(),
            report: Report {
                fates: vec![Fate::Open; job.recipients.len()],
                bulk: None,
                complete: false,
                stale: false,
                keep: false,
                began: None,
                retry_plain: false,
                login_refused: None,
                tls: None,
                warnings: Vec::new(),
                notes: Vec::new(),
                message_notes: Vec::new(),
                trouble: None,
            },
        };
        if greeted {
            conversation.begin_transaction(Some(Say::Probe), now);
        } else if settings.wrappermode {
            conversation.begin_wrapped(now);
        } else {
            conversation.expected.push_back(Expect::Greeting);
        }
        conversation
    }

    /// What to do next.
    pub fn next(&self) -> Step {
        if self.finished {
            return Step::Done;
        }
        if self.handshake {
            return Step::Handshake;
        }
        match self.expected.front() {
            Some(expect) if self.lost_in_body.is_none() => Step::Read(expect.timeout(self.settings)),
            Some(_) => Step::Read(Duration::from_secs(10)),
            None if self.say == Say::Content => Step::Send,
            None => Step::Done,
        }
    }

    /// The session, for what the driver must know of it.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// The reply that is waited for, if any.
    pub fn expects(&self) -> Option<Expect> {
        self.expected.front().copied()
    }

    /// Takes a reply.
    pub fn take(&mut self, reply: &Reply, now: Timestamp) {
        let Some(expect) = self.expected.pop_front() else { return };
        match expect {
            Expect::Greeting => self.take_greeting(reply, now),
            Expect::Ehlo | Expect::Lhlo => self.take_ehlo(expect, reply, now),
            Expect::Helo => self.take_helo(reply, now),
            Expect::StartTls => self.take_starttls(reply, now),
            Expect::Auth => self.take_auth(reply, now),
            Expect::Probe => {
                if !reply.code.is_success() {
                    self.stale();
                }
            }
            Expect::XforwardName | Expect::XforwardProtocol => {
                if !reply.code.is_success() {
                    let warning = format!(
                        "host {} said: {} (in reply to {})",
                        self.session.peer.relay(),
                        reply.one_line(),
                        expect.command()
                    );
                    self.report.warnings.push(warning);
                }
            }
            Expect::Mail => {
                if !reply.code.is_success() {
                    let verdict = self.said(expect, reply, now);
                    self.fail_all(verdict, false);
                    self.sender_refused = true;
                }
            }
            Expect::Rcpt(recipient) => self.take_rcpt(recipient, reply, now),
            Expect::Data => {
                if !reply.code.is_intermediate() {
                    if self.accepted > 0 {
                        let verdict = self.said(expect, reply, now);
                        self.fail_all(verdict, false);
                    }
                    self.data_refused = true;
                } else if self.job.probe {
                    for fate in self.report.fates.iter_mut().filter(|fate| **fate == Fate::Accepted) {
                        let status = EnhancedStatus::success(0, 0);
                        *fate = Fate::Sent { reply: reply.one_line(), code: reply.code, status, at: now };
                    }
                }
            }
            Expect::EndOfData => self.take_end_of_data(reply, now),
            Expect::EndOfDataFor(recipient) => self.take_end_of_data_for(recipient, reply, now),
            Expect::Reset => {
                if !reply.code.is_success() {
                    self.session.reusable = false;
                }
            }
            Expect::Quit => {}
        }
        self.advance(now);
    }

    /// Takes a line that is no reply. Between pipelined commands nobody could say what comes next, so that is the end;
    /// otherwise such lines are passed over.
    pub fn take_garbage(&mut self, line: &str, now: Timestamp) {
        self.garbage += 1;
        self.session.reusable = false;
        let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let warning = format!("{}: non-ESMTP response from {}: {line}", self.job.queue_id, self.session.peer.relay());
        if self.garbage == 1 {
            self.report.warnings.push(warning);
        }
        if !self.session.capabilities.pipelining && self.garbage < GARBAGE_LIMIT {
            return;
        }
        let expect = self.expected.front().copied().unwrap_or(Expect::Quit);
        let verdict = Verdict {
            status: EnhancedStatus::transient(5, 0),
            reason: format!(
                "Protocol error: host {} said: {line} (in reply to {})",
                self.session.peer.named(),
                expect.command()
            ),
            reply: None,
            code: None,
            remote: false,
            stage: expect.stage(),
            at: now,
        };
        self.fail_all(verdict, true);
        self.finish();
    }

    /// A line of the message was too long and was broken on its way out: worth a line in the log.
    pub fn broke_a_line(&mut self) {
        let limit = self.settings.line_length_limit;
        self.report.message_notes.push(format!("breaking line > {limit} bytes with <CR><LF>SPACE"));
    }

    /// The message is out, its final dot too.
    pub fn sent(&mut self, now: Timestamp) {
        if self.settings.protocol == Protocol::Lmtp && self.accepted > 0 {
            let taken = self.report.fates.iter().enumerate();
            let taken = taken.filter(|(_, fate)| **fate == Fate::Accepted).map(|(at, _)| Expect::EndOfDataFor(at));
            self.expected.extend(taken);
        } else {
            self.expected.push_back(Expect::EndOfData);
        }
        self.say = if self.keeps() { Say::Nothing } else { Say::Quit };
        self.advance(now);
    }

    /// The connection is gone, or an answer did not come in time. `in_body`: while the message was being sent; the
    /// server may have said why, so one reply is still waited for.
    pub fn broken(&mut self, how: Broken, in_body: bool, now: Timestamp) {
        self.session.reusable = false;
        self.keep = false;
        if in_body && how == Broken::Lost && self.lost_in_body.is_none() {
            self.lost_in_body = Some(how);
            self.say = Say::Nothing;
            self.expected.clear();
            self.expected.push_back(Expect::EndOfData);
            return;
        }
        let expect = self.expected.front().copied();
        if expect == Some(Expect::Probe) {
            return self.stale();
        }
        // Nothing hangs on these two any more.
        if matches!(expect, Some(Expect::Reset | Expect::Quit)) {
            return self.finish();
        }
        let (activity, stage) = match expect {
            _ if in_body || self.lost_in_body.is_some() => ("sending message body", SmtpStage::Body),
            Some(expect) => (expect.activity(), expect.stage()),
            None => ("sending message body", SmtpStage::Body),
        };
        let named = self.session.peer.named();
        let (status, reason) = match how {
            Broken::Lost => (EnhancedStatus::transient(4, 2), format!("lost connection with {named} while {activity}")),
            Broken::TimedOut => {
                (EnhancedStatus::transient(4, 2), format!("conversation with {named} timed out while {activity}"))
            }
            Broken::LocalData => {
                (EnhancedStatus::transient(3, 0), format!("local data error while talking to {named}"))
            }
        };
        self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, true);
        if how != Broken::LocalData && self.session.tls.is_some() {
            self.consider_plaintext();
        }
        self.finish();
    }

    /// What came of it, and the output buffer for further use.
    pub fn finish_report(mut self) -> (Report, Vec<u8>) {
        self.report.keep = self.report.keep && self.session.reusable;
        self.output.clear();
        (self.report, self.output)
    }

    // Handshake.

    fn take_greeting(&mut self, reply: &Reply, now: Timestamp) {
        if !reply.code.is_success() {
            let mut verdict = self.refused_to_talk(Expect::Greeting, reply, now);
            if reply.code.is_permanent() && self.settings.skip_5xx_greeting {
                verdict.status.class = Class::Transient;
            }
            self.fail_all(verdict, true);
            return self.say_quit();
        }
        let text = reply.text.get(4..).unwrap_or_default();
        let mut words = text.split([' ', '\t', '\n']).filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        let mut esmtp = name.eq_ignore_ascii_case("ESMTP");
        if self.session.detect_loops && name.eq_ignore_ascii_case(&self.settings.myhostname) {
            let warning = format!(
                "host {} greeted me with my own hostname {}",
                self.session.peer.relay(),
                self.settings.myhostname
            );
            self.report.warnings.push(warning);
        }
        esmtp |= words.any(|word| word.eq_ignore_ascii_case("ESMTP"));
        if self.settings.protocol == Protocol::Lmtp {
            return self.command(Expect::Lhlo, &format!("LHLO {}", self.settings.helo_name));
        }
        esmtp |= self.settings.always_send_ehlo;
        esmtp &= !self.settings.never_send_ehlo;
        // The firewall overwrites what it does not know with asterisks.
        let looks_so =
            reply.text.contains('*') && reply.text.chars().all(|c| matches!(c, '2' | '0' | ' ' | '*' | '\t' | '\n'));
        let pix = self.session.quirk.pix.unwrap_or(self.settings.pix);
        self.session.pix = (looks_so && (pix.helo || pix.dot)).then_some(pix);
        if self.session.pix.is_some() {
            let words = [(pix.helo, "disable_esmtp"), (pix.dot, "delay_dotcrlf")];
            let words: Vec<&str> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
            let named = self.session.peer.named();
            self.report.message_notes.push(format!("enabling PIX workarounds: {} for {named}", words.join(" ")));
            esmtp &= !pix.helo;
        }
        if esmtp {
            self.command(Expect::Ehlo, &format!("EHLO {}", self.settings.helo_name));
        } else {
            self.command(Expect::Helo, &format!("HELO {}", self.settings.helo_name));
        }
    }

    fn take_ehlo(&mut self, expect: Expect, reply: &Reply, now: Timestamp) {
        if !reply.code.is_success() {
            if expect == Expect::Ehlo && reply.code != ReplyCode(421) {
                return self.command(Expect::Helo, &format!("HELO {}", self.settings.helo_name));
            }
            let verdict = self.refused_to_talk(expect, reply, now);
            self.fail_all(verdict, true);
            return self.say_quit();
        }
        let discard = self.session.quirk.discard.as_ref().unwrap_or(&self.settings.discard);
        let keywords = &discard.keywords;
        let mut found = Capabilities::parse(reply, keywords);
        if !keywords.is_empty() && !discard.silently && found != Capabilities::parse(reply, &[]) {
            let words = keywords.join(" ").to_ascii_uppercase();
            self.report.notes.push(format!("discarding EHLO keywords: {words}"));
        }
        if self.session.detect_loops && found.name.eq_ignore_ascii_case(&self.settings.myhostname) {
            return self.talking_to_ourselves(expect, now);
        }
        if found.smtputf8 && !found.eight_bit_mime {
            let note = format!("host {} offers SMTPUTF8 support, but not 8BITMIME", self.session.peer.named());
            self.report.notes.push(note);
            found.eight_bit_mime = true;
        }
        self.session.capabilities = found;
        self.greeted(now);
    }

    fn take_helo(&mut self, reply: &Reply, now: Timestamp) {
        if reply.code.is_success() {
            return self.greeted(now);
        }
        let verdict = self.refused_to_talk(Expect::Helo, reply, now);
        self.fail_all(verdict, true);
        self.say_quit();
    }

    fn talking_to_ourselves(&mut self, expect: Expect, now: Timestamp) {
        let warning = format!(
            "host {} replied to HELO/EHLO with my own hostname {}",
            self.session.peer.relay(),
            self.settings.myhostname
        );
        self.report.warnings.push(warning);
        let (status, reason) = if self.session.best_mx {
            (EnhancedStatus::permanent(4, 6), format!("mail for {} loops back to myself", self.job.nexthop))
        } else {
            (EnhancedStatus::transient(4, 4), format!("unable to find primary relay for {}", self.job.nexthop))
        };
        let stage = expect.stage();
        self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, true);
        self.say_quit();
    }

    fn greeted(&mut self, now: Timestamp) {
        self.encrypt(now);
    }

    /// TLS and login are done.
    pub(crate) fn ready(&mut self, now: Timestamp) {
        self.session.greeted = true;
        self.begin_transaction(None, now);
    }

    // The transaction.

    fn begin_transaction(&mut self, probe: Option<Say>, now: Timestamp) {
        if self.job.needs_smtputf8 && !self.session.capabilities.smtputf8 {
            let reason = format!("SMTPUTF8 is required, but was not offered by host {}", self.session.peer.named());
            let (status, stage) = (EnhancedStatus::permanent(6, 7), SmtpStage::Ehlo);
            self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, false);
            return self.say_quit();
        }
        if self.session.terms.require == Some(true) && !self.session.capabilities.requiretls {
            let reason = format!("REQUIRETLS is required, but was not offered by host {}", self.session.peer.named());
            let (status, stage) = (EnhancedStatus::permanent(7, 30), SmtpStage::Ehlo);
            self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, false);
            return self.say_quit();
        }
        let limit = self.session.capabilities.size_limit;
        if limit > 0 && limit < self.job.size {
            let reason = format!(
                "message size {} exceeds size limit {limit} of server {}",
                self.job.size,
                self.session.peer.named()
            );
            let (status, stage) = (EnhancedStatus::permanent(3, 4), SmtpStage::Mail);
            self.fail_all(Verdict { status, reason, reply: None, code: None, remote: false, stage, at: now }, false);
            if self.keeps() {
                return self.complete();
            }
            self.report.complete = true;
            return self.say_quit();
        }
        self.say = probe.unwrap_or_else(|| self.first_command());
        self.advance(now);
    }

    fn first_command(&self) -> Say {
        let offered = self.session.capabilities.xforward;
        let wanted = self.settings.send_xforward;
        if wanted && command::has_xforward_name(self.job, offered) {
            Say::XforwardName
        } else if wanted && command::has_xforward_protocol(self.job, offered) {
            Say::XforwardProtocol
        } else {
            Say::Mail
        }
    }

    fn keeps(&self) -> bool {
        self.keep && self.session.reusable && (self.session.tls.is_none() || self.session.terms.reuse)
    }

    /// Says what can be said now.
    fn advance(&mut self, now: Timestamp) {
        while !self.finished {
            if self.expected.is_empty() {
                self.under_way = 0;
                self.correct_course();
                if self.finished || !self.expected.is_empty() {
                    continue;
                }
            } else if !self.session.capabilities.pipelining
                || self.under_way > GROUP_LIMIT
                || matches!(self.say, Say::Content)
            {
                return;
            }
            let before = self.output.len();
            match self.say {
                Say::Handshake => return,
                Say::Content => return,
                Say::Nothing if self.expected.is_empty() => return self.complete(),
                Say::Nothing => return,
                Say::Quit => {
                    self.say = Say::Nothing;
                    self.session.reusable = false;
                    self.output.extend_from_slice(b"QUIT\r\n");
                    if !self.settings.skip_quit_response {
                        self.expected.push_back(Expect::Quit);
                    }
                }
                Say::Reset => {
                    self.say = if self.keeps() { Say::Nothing } else { Say::Quit };
                    self.output.extend_from_slice(b"RSET\r\n");
                    self.expected.push_back(Expect::Reset);
                }
                say => self.say_command(say, now),
            }
            self.under_way += self.output.len() - before;
        }
    }

    fn say_command(&mut self, say: Say, now: Timestamp) {
        let (capabilities, job, out) = (&self.session.capabilities, self.job, &mut self.output);
        let (expect, next) = match say {
            Say::Probe => {
                out.extend_from_slice(b"RSET\r\n");
                (Expect::Probe, self.first_command())
            }
            Say::XforwardName => {
                command::xforward_name(job, capabilities.xforward, out);
                let more = command::has_xforward_protocol(job, capabilities.xforward);
                (Expect::XforwardName, if more { Say::XforwardProtocol } else { Say::Mail })
            }
            Say::XforwardProtocol => {
                command::xforward_protocol(job, capabilities.xforward, out);
                (Expect::XforwardProtocol, Say::Mail)
            }
            Say::Mail => {
                self.report.began = Some(now);
                let dummy = self.settings.sasl.dummy_mail_auth && !capabilities.auth.is_empty();
                let requires = self.session.terms.require.is_some() && self.session.tls.is_some();
                command::mail(job, capabilities, requires, self.settings, out);
                if dummy && self.session.terms.login.is_some() {
                    // Before the line end. RFC 4954 section 5
                    let end = out.len().saturating_sub(2);
                    out.splice(end..end, b" AUTH=<>".iter().copied());
                }
                (Expect::Mail, Say::Rcpt(0))
            }
            Say::Rcpt(at) => {
                if let Some(addressee) = job.recipients.get(at) {
                    command::rcpt(job, addressee, capabilities, self.settings, out);
                }
                let last = at + 1 >= job.recipients.len();
                let after = if job.probe && !self.settings.probe_data { Say::Reset } else { Say::Data };
                (Expect::Rcpt(at), if last { after } else { Say::Rcpt(at + 1) })
            }
            Say::Data => {
                out.extend_from_slice(b"DATA\r\n");
                (Expect::Data, Say::Content)
            }
            Say::Handshake | Say::Content | Say::Reset | Say::Quit | Say::Nothing => return,
        };
        self.expected.push_back(expect);
        self.say = next;
    }

    /// All replies are in: is what would be said next still worth saying?
    fn correct_course(&mut self) {
        match self.say {
            Say::Rcpt(_) if self.sender_refused => self.say = Say::Reset,
            Say::Data if self.accepted == 0 => self.say = Say::Reset,
            Say::Content if self.data_refused => self.say = Say::Reset,
            // A probe that went as far as DATA can only hang up: RSET would be the message's first line.
            Say::Content if self.job.probe => {
                self.session.reusable = false;
                self.report.complete = true;
                self.finished = true;
            }
            // DATA was accepted though no recipient was: an empty message ends it (RFC 2920 section 3.1).
            Say::Content if self.accepted == 0 => {
                self.output.extend_from_slice(b".\r\n");
                self.expected.push_back(Expect::EndOfData);
                self.say = if self.keeps() { Say::Nothing } else { Say::Quit };
            }
            _ => {}
        }
    }

    fn take_rcpt(&mut self, recipient: usize, reply: &Reply, now: Timestamp) {
        if self.sender_refused {
            return;
        }
        let fate = if !reply.code.is_success() {
            self.report.complete = true;
            Fate::Refused(self.said(Expect::Rcpt(recipient), reply, now))
        } else if self.job.probe && !self.settings.probe_data {
            self.accepted += 1;
            sent(reply, now)
        } else {
            self.accepted += 1;
            Fate::Accepted
        };
        if let Some(slot) = self.report.fates.get_mut(recipient) {
            *slot = fate;
        }
    }

    fn take_end_of_data(&mut self, reply: &Reply, now: Timestamp) {
        if let Some(how) = self.lost_in_body {
            // A refusal explains why the connection broke; anything else before the end of the message is no answer.
            if !reply.code.is_transient() && !reply.code.is_permanent() {
                self.expected.clear();
                return self.broken(how, true, now);
            }
        }
        if self.accepted == 0 {
            return;
        }
        if reply.code.is_success() {
            for fate in &mut self.report.fates {
                if *fate == Fate::Accepted {
                    *fate = sent(reply, now);
                }
            }
        } else {
            let verdict = self.said(Expect::EndOfData, reply, now);
            self.fail_all(verdict, false);
        }
        if self.lost_in_body.is_some() {
            self.finish();
        }
    }

    fn take_end_of_data_for(&mut self, recipient: usize, reply: &Reply, now: Timestamp) {
        let fate = if reply.code.is_success() {
            sent(reply, now)
        } else {
            self.report.complete = true;
            Fate::Refused(self.said(Expect::EndOfDataFor(recipient), reply, now))
        };
        if let Some(slot) = self.report.fates.get_mut(recipient) {
            *slot = fate;
        }
    }

    // Endings.

    pub(crate) fn command(&mut self, expect: Expect, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.expected.push_back(expect);
    }

    /// Says good-bye on a connection that is of no more use.
    pub(crate) fn say_quit(&mut self) {
        self.session.reusable = false;
        self.output.extend_from_slice(b"QUIT\r\n");
        self.say = Say::Nothing;
        self.expected.clear();
        self.finished = true;
    }

    fn complete(&mut self) {
        self.report.complete = true;
        self.report.keep = self.keeps();
        self.finish();
    }

    pub(crate) fn finish(&mut self) {
        self.expected.clear();
        self.finished = true;
    }

    fn stale(&mut self) {
        self.session.reusable = false;
        self.report.stale = true;
        self.output.clear();
        self.finish();
    }

    /// A reason for everyone who has none of his own. The first one stays.
    pub(crate) fn fail_all(&mut self, verdict: Verdict, throttle: bool) {
        if self.report.bulk.is_none() {
            self.report.bulk = Some(Bulk { verdict, throttle });
        }
    }

    fn refused_to_talk(&mut self, expect: Expect, reply: &Reply, now: Timestamp) -> Verdict {
        let text = format!("host {} refused to talk to me: {}", self.session.peer.named(), reply.one_line());
        self.verdict(expect, text, reply, now)
    }

    pub(crate) fn said(&mut self, expect: Expect, reply: &Reply, now: Timestamp) -> Verdict {
        let named = self.session.peer.named();
        let text = format!("host {named} said: {} (in reply to {})", reply.one_line(), expect.command());
        self.verdict(expect, text, reply, now)
    }

    pub(crate) fn verdict(&mut self, expect: Expect, text: String, reply: &Reply, now: Timestamp) -> Verdict {
        // Replies that speak of our syntax say that we and the server do not understand each other.
        // After 421 the server closes the connection.
        if !(400..600).contains(&reply.code.0)
            || matches!(reply.code.0, 421 | 555)
            || (500..510).contains(&reply.code.0)
        {
            self.session.reusable = false;
        }
        // A success where none was asked for says nothing about the recipient, nor about the message.
        let success = reply.code.is_success();
        let status = match reply.code.is_transient() || reply.code.is_permanent() {
            true => reply.status(),
            false => EnhancedStatus::permanent(5, 0),
        };
        let reason = if success { format!("Protocol error: {text}") } else { text };
        let reply_text = Some(reply.one_line());
        let (code, stage) = (Some(reply.code), expect.stage());
        Verdict { status, reason, reply: reply_text, code, remote: !success, stage, at: now }
    }
}

fn sent(reply: &Reply, now: Timestamp) -> Fate {
    Fate::Sent { reply: reply.one_line(), code: reply.code, status: reply.status(), at: now }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;

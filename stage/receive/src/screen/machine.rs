//! One client's way through the tests, without I/O: what it does, what lists say and the time go in; what to do, what to
//! write and what to log come out.
//!
//! Phases: before the greeting, the client is watched and lists in DNS are asked; then it is handed over, or, if it failed
//! or there are tests that need one, it gets a [conversation](super::dialogue) in which all mail is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use yamabiko_envelope::{Severity, Timestamp};

use super::cache::{Stamps, Test};
use super::dialogue::Dialogue;
use super::settings::{Access, Reaction, ScreenSettings};
use super::sites::Score;
use crate::footer::FooterFacts;
use crate::peer::Discard;
use crate::session::escaped;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `postscreen` or `dnsblog`.
    pub program: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The text.
    pub text: String,
}

impl Line {
    pub(super) fn info(text: String) -> Self {
        Self { program: "postscreen", severity: Severity::Info, text }
    }
    pub(super) fn warning(text: String) -> Self {
        Self { program: "postscreen", severity: Severity::Warning, text }
    }
    pub(super) fn dnsblog(text: String) -> Self {
        Self { program: "dnsblog", severity: Severity::Info, text }
    }
}

/// What to do next. Output is written first, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Watch the client, without taking what it says, until this time: then [`Screen::talked`], [`Screen::hung_up`] or
    /// [`Screen::waited`].
    Watch(Timestamp),
    /// Wait without watching; [`Screen::waited`]. The client has talked already.
    Wait(Timestamp),
    /// Read what it says until this time: [`Screen::said`], [`Screen::hung_up`] or [`Screen::waited`].
    Read(Timestamp),
    /// Forget what was read, shake hands: [`Screen::secured`] or [`Screen::hung_up`].
    Handshake,
    /// It gets a server.
    HandOver,
    /// It is over.
    Close,
}

/// What is known when a client connects.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Connections of this client, this one included.
    pub concurrency: u32,
    /// Clients that wait for a server.
    pub waiting: usize,
    /// Clients that are being tested.
    pub tested: usize,
    /// What the access list says.
    pub access: Access,
    /// Results of earlier tests.
    pub known: Option<Stamps>,
    /// `postscreen_allowlist_interfaces` has our address.
    pub may_be_allowed: bool,
    /// Much is going on.
    pub stressed: bool,
    /// EHLO keywords that are not offered.
    pub discard: Discard,
}

/// A client that nobody knows, and that is alone.
impl Default for Circumstances {
    fn default() -> Self {
        Self {
            concurrency: 1,
            waiting: 0,
            tested: 0,
            access: Access::Unknown,
            known: None,
            may_be_allowed: true,
            stressed: false,
            discard: Discard::default(),
        }
    }
}

/// Where a test stands.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    todo: bool,
    passed: bool,
    failed: bool,
}

/// What a client has said, for the footer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) helo: &'a str,
    pub(super) sender: &'a str,
    pub(super) recipient: &'a str,
}

/// Where the client stands.
#[derive(Debug)]
enum Phase {
    Early {
        /// The greeting is due then.
        greet_at: Timestamp,
        /// Lists are waited for until then; `None`: they have answered, or are not asked.
        lists_until: Option<Timestamp>,
        /// It has talked.
        talked: bool,
    },
    Talking(Box<Dialogue>),
    Over,
}

/// One client.
pub struct Screen {
    pub(super) settings: Arc<ScreenSettings>,
    client: IpAddr,
    port: u16,
    /// `[address]:port`
    pub(super) who: String,
    server: String,
    began: Timestamp,
    pub(super) now: Timestamp,
    stressed: bool,
    discard: Discard,
    tests: [Progress; 5],
    stamps: Stamps,
    new: bool,
    /// It failed something that is no test: denied, or connected where nobody is allowed.
    excluded: bool,
    /// It gets no server.
    refused: bool,
    phase: Phase,
    pub(super) output: Vec<u8>,
    lines: Vec<Line>,
    /// What RCPT is answered with.
    pub(super) rcpt_reply: String,
    final_reply: String,
    update: Option<Stamps>,
}

const PROTOCOL_ERROR: &str = "5.5.1 Protocol error";

impl Screen {
    /// A client that has connected.
    pub fn new(settings: Arc<ScreenSettings>, client: SocketAddr, server: SocketAddr, now: Timestamp) -> Self {
        let final_reply = format!("421 {} Service unavailable - try again later", settings.myhostname);
        let show = |address: SocketAddr| format!("[{}]:{}", address.ip().to_canonical(), address.port());
        Self {
            settings,
            client: client.ip().to_canonical(),
            port: client.port(),
            who: show(client),
            server: show(server),
            began: now,
            now,
            stressed: false,
            discard: Discard::default(),
            tests: Default::default(),
            stamps: Stamps::default(),
            new: false,
            excluded: false,
            refused: false,
            phase: Phase::Over,
            output: Vec::new(),
            lines: Vec::new(),
            rcpt_reply: "450 4.3.2 Service currently unavailable".to_owned(),
            final_reply,
            update: None,
        }
    }

    /// What is to be written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What is to be logged.
    pub fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    /// Results to be remembered of the client.
    pub fn take_update(&mut self) -> Option<Stamps> {
        self.update.take()
    }

    /// Lists in DNS are to be asked; [`Screen::listed`] is the answer.
    pub fn wants_lists(&self) -> bool {
        matches!(self.phase, Phase::Early { lists_until: Some(_), .. })
    }

    pub(super) fn log(&mut self, text: String) {
        self.lines.push(Line::info(text));
    }

    /// Decides what there is to test.
    pub fn begin(&mut self, given: &Circumstances) -> Next {
        let settings = Arc::clone(&self.settings);
        self.stressed = given.stressed;
        self.discard = given.discard;
        self.log(format!("CONNECT from {} to {}", self.who, self.server));
        if settings.client_limit > 0 && given.concurrency > settings.client_limit {
            return self.turn_away("too many connections", "421 4.7.0 Error: too many connections");
        }
        if settings.post_queue_limit > 0 && given.waiting >= settings.post_queue_limit {
            return self.turn_away("all server ports busy", "421 4.3.2 All server ports are busy");
        }
        match given.access {
            Access::Allow => {
                let word = if settings.respectful { "ALLOW" } else { "WHITE" };
                self.log(format!("{word}LISTED {}", self.who));
                return self.hand_over();
            }
            Access::Deny => {
                let word = if settings.respectful { "DENY" } else { "BLACK" };
                self.log(format!("{word}LISTED {}", self.who));
                match settings.denylist {
                    Reaction::Ignore => {}
                    Reaction::Drop => return self.drop_with("521 5.3.2 Service currently unavailable"),
                    Reaction::Enforce => {
                        self.excluded = true;
                        self.refused = true;
                        "550 5.3.2 Service currently unavailable".clone_into(&mut self.rcpt_reply);
                    }
                }
            }
            Access::Unknown => {}
        }
        let known = given.known.filter(|_| !self.excluded);
        self.plan(known);
        if known.is_some() && !self.tests.iter().any(|test| test.todo) {
            self.log(format!("PASS OLD {}", self.who));
            return self.hand_over();
        }
        if !given.may_be_allowed {
            self.excluded = true;
            self.refused = true;
            let word = if settings.respectful { "ALLOWLIST" } else { "WHITELIST" };
            self.log(format!("{word} VETO {}", self.who));
        }
        if settings.pre_queue_limit > 0 && given.tested >= settings.pre_queue_limit {
            self.log(format!("reject: connect from {}: all screening ports busy", self.who));
            return self.drop_with("421 4.3.2 All screening ports are busy");
        }
        if self.todo(Test::Pregreet) || self.todo(Test::Dnsbl) { self.watch() } else { self.after_early(true) }
    }

    /// Which tests are to be made: those without a result that holds. When one of a kind is due, all of its kind are, so
    /// that the log says more.
    fn plan(&mut self, known: Option<Stamps>) {
        self.stamps = known.unwrap_or_default();
        self.new = known.is_none();
        let now = self.now.seconds();
        for deep in [false, true] {
            let of_kind = || Test::ALL.into_iter().filter(|test| test.is_deep() == deep);
            let enabled = |test: Test| self.settings.enabled[test as usize];
            let due = of_kind().any(|test| enabled(test) && self.stamps.of(test) <= now);
            for test in of_kind() {
                self.tests[test as usize].todo = due && enabled(test);
            }
        }
    }

    pub(super) fn todo(&self, test: Test) -> bool {
        let test = self.tests[test as usize];
        test.todo && !test.failed && !test.passed
    }

    pub(super) fn pass(&mut self, test: Test, ttl: u64) {
        if self.todo(test) {
            self.tests[test as usize].passed = true;
            self.stamps.set(test, self.now.seconds().saturating_add(ttl));
        }
    }

    /// A test went wrong. `Some`: the connection ends.
    pub(super) fn fail(&mut self, test: Test, drop: &str, enforce: &str) -> Option<Next> {
        match self.settings.reaction(test) {
            Reaction::Ignore => {
                // Made again the next time; nothing more of it now.
                self.tests[test as usize].todo = false;
                None
            }
            Reaction::Enforce => {
                self.tests[test as usize].failed = true;
                self.refused = true;
                enforce.clone_into(&mut self.rcpt_reply);
                None
            }
            Reaction::Drop => {
                self.tests[test as usize].failed = true;
                Some(self.drop_with(drop))
            }
        }
    }

    fn watch(&mut self) -> Next {
        let [normal, stressed] = self.settings.greet_wait;
        let wait = if self.stressed { stressed } else { normal };
        let pregreet = self.todo(Test::Pregreet);
        if pregreet && !self.settings.teaser.is_empty() {
            let line = format!("220-{}\r\n", self.settings.teaser);
            self.output.extend_from_slice(line.as_bytes());
        }
        let lists_until = self.todo(Test::Dnsbl).then(|| self.now + self.settings.dnsbl_timeout);
        let greet_at = if pregreet { self.now + wait } else { self.now };
        self.phase = Phase::Early { greet_at, lists_until, talked: false };
        self.early()
    }

    /// What is still waited for before the greeting.
    fn early(&mut self) -> Next {
        let Phase::Early { greet_at, lists_until, talked } = self.phase else { return Next::Close };
        if self.now >= greet_at && !talked {
            self.pass(Test::Pregreet, self.settings.ttl[Test::Pregreet as usize]);
        }
        if lists_until.is_some_and(|until| self.now < until) {
            // Without lists there would be nothing left to wait for when the client has talked.
            let until = lists_until.unwrap_or(greet_at);
            let until = if self.now < greet_at && !talked { greet_at.min(until) } else { until };
            return if talked { Next::Wait(until) } else { Next::Watch(until) };
        }
        if lists_until.is_some() {
            // They were too slow: nobody is refused or allowed by them.
            self.tests[Test::Dnsbl as usize].todo = false;
        }
        if self.now < greet_at && !talked {
            return Next::Watch(greet_at);
        }
        self.after_early(!talked)
    }

    /// The lists have answered.
    pub fn listed(&mut self, score: Score, now: Timestamp) -> Next {
        self.now = now;
        self.lines.extend(score.lines);
        let Phase::Early { lists_until, .. } = &mut self.phase else { return Next::Close };
        *lists_until = None;
        let [_, longest, ..] = self.settings.ttl;
        let ttl =
            score.ttl.map_or(longest, |ttl| ttl.as_secs().clamp(self.settings.dnsbl_min_ttl.min(longest), longest));
        let allowed = self.settings.dnsbl_allow_threshold;
        if score.rank < self.settings.dnsbl_threshold {
            self.pass(Test::Dnsbl, ttl);
            if allowed < 0 && score.rank <= allowed {
                for test in Test::ALL {
                    self.pass(test, ttl);
                }
                if let Phase::Early { greet_at, .. } = &mut self.phase {
                    *greet_at = now;
                }
            }
        } else {
            self.log(format!("DNSBL rank {} for {}", score.rank, self.who));
            let text = format!("5.7.1 Service unavailable; client [{}] blocked using {}", self.client, score.name);
            if let Some(next) = self.fail(Test::Dnsbl, &format!("521 {text}"), &format!("550 {text}")) {
                return next;
            }
        }
        self.early()
    }

    /// It talks before it was greeted; `heard` is the beginning of what it says.
    pub fn talked(&mut self, heard: &[u8], now: Timestamp) -> Next {
        self.now = now;
        let Phase::Early { talked, .. } = &mut self.phase else { return Next::Close };
        *talked = true;
        if self.todo(Test::Pregreet) {
            let (after, said) = (self.elapsed(), escaped(heard));
            self.log(format!("PREGREET {} after {after} from {}: {said}", heard.len(), self.who));
            let (drop, enforce) = (format!("521 {PROTOCOL_ERROR}"), format!("550 {PROTOCOL_ERROR}"));
            if let Some(next) = self.fail(Test::Pregreet, &drop, &enforce) {
                return next;
            }
        }
        self.early()
    }

    /// The time has come.
    pub fn waited(&mut self, now: Timestamp) -> Next {
        self.now = now;
        match &self.phase {
            Phase::Early { .. } => self.early(),
            Phase::Talking(dialogue) => {
                let place = dialogue.place.clone();
                self.log(format!("COMMAND TIME LIMIT from {} after {place}", self.who));
                let reply = format!("421 4.4.2 {} Error: timeout exceeded", self.settings.myhostname);
                self.drop_with(&reply)
            }
            Phase::Over => Next::Close,
        }
    }

    /// It is gone.
    pub fn hung_up(&mut self, now: Timestamp) -> Next {
        self.now = now;
        let stage = if matches!(self.phase, Phase::Talking(_)) { "after" } else { "before" };
        let after = self.elapsed();
        self.log(format!("HANGUP after {after} from {} in tests {stage} SMTP handshake", self.who));
        self.refused = true;
        self.final_reply.clear();
        self.conclude()
    }

    /// The server stops.
    pub fn shut_down(&mut self) -> Next {
        let reply = format!("421 4.3.2 {} Service shutting down", self.settings.myhostname);
        self.drop_with(&reply)
    }

    /// It goes on with `input` in its conversation. How many bytes were used, and what to do next.
    pub fn said(&mut self, input: &[u8], now: Timestamp) -> (usize, Next) {
        self.now = now;
        // The conversation changes the screen, so it is taken out of it.
        let Phase::Talking(mut dialogue) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return (input.len(), Next::Close);
        };
        let (used, next) = dialogue.advance(self, input);
        if matches!(next, Next::Read(_) | Next::Handshake) {
            self.phase = Phase::Talking(dialogue);
        }
        (used, next)
    }

    /// The connection is encrypted now.
    pub fn secured(&mut self, now: Timestamp) -> Next {
        self.now = now;
        if let Phase::Talking(dialogue) = &mut self.phase {
            dialogue.secured();
        }
        self.read()
    }

    pub(super) fn read(&self) -> Next {
        let [normal, stressed] = self.settings.command_time_limit;
        Next::Read(self.now + if self.stressed { stressed } else { normal })
    }

    /// `greet`: it has not said anything yet.
    fn after_early(&mut self, greet: bool) -> Next {
        let deep = Test::ALL.into_iter().any(|test| test.is_deep() && self.todo(test));
        if !deep && !self.refused {
            return self.conclude();
        }
        // What it did before is no reason to be greeted now.
        if greet || !self.tests[Test::Pregreet as usize].failed {
            let line = format!("220 {}\r\n", self.settings.banner);
            self.output.extend_from_slice(line.as_bytes());
        }
        self.refused = true;
        self.phase = Phase::Talking(Box::new(Dialogue::new(self.discard)));
        self.read()
    }

    fn turn_away(&mut self, why: &str, reply: &str) -> Next {
        self.log(format!("NOQUEUE: reject: CONNECT from {}: {why}", self.who));
        self.drop_with(reply)
    }

    /// The last word.
    pub(super) fn drop_with(&mut self, reply: &str) -> Next {
        self.refused = true;
        reply.clone_into(&mut self.final_reply);
        self.conclude()
    }

    fn hand_over(&mut self) -> Next {
        self.phase = Phase::Over;
        Next::HandOver
    }

    /// All is known that will be.
    fn conclude(&mut self) -> Next {
        self.phase = Phase::Over;
        let failed = self.excluded || self.tests.iter().any(|test| test.failed);
        let passed = self.tests.iter().filter(|test| test.passed).count();
        if !failed && passed > 0 {
            if self.tests.iter().all(|test| test.passed || !test.todo) {
                let word = if self.new { "NEW" } else { "OLD" };
                self.log(format!("PASS {word} {}", self.who));
            }
            self.update = Some(self.stamps);
        }
        if !self.refused {
            return Next::HandOver;
        }
        if !self.final_reply.is_empty() {
            let reply = std::mem::take(&mut self.final_reply);
            self.say(&reply, Said::default());
        }
        self.log(format!("DISCONNECT {}", self.who));
        Next::Close
    }

    /// One reply; a refusal gets the footer.
    pub(super) fn say(&mut self, reply: &str, said: Said<'_>) {
        let refusal = matches!(reply.as_bytes().first(), Some(b'4' | b'5'));
        let footer = refusal.then(|| self.settings.footer_for(reply)).flatten();
        let lines = match footer {
            None => vec![reply.to_owned()],
            Some(footer) => {
                let address = self.client.to_string();
                let client = format!("unknown[{address}]");
                let facts = FooterFacts {
                    client: &client,
                    client_name: "unknown",
                    client_address: address,
                    client_port: self.port,
                    helo_name: said.helo,
                    sender: said.sender,
                    recipient: said.recipient,
                    now: self.now,
                };
                crate::footer::append(reply, &footer, &self.settings.footer, &facts)
            }
        };
        for line in lines {
            self.output.extend_from_slice(line.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
    }

    fn elapsed(&self) -> String {
        let micros = self.now.0.saturating_sub(self.began.0);
        let mut text = String::new();
        yamabiko_log::push_delay(&mut text, Duration::from_micros(micros), 2);
        text
    }
}

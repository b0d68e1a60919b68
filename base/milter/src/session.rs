//! A client's conversation with all filters, in order. The first that does not say "go on" decides.

use std::net::IpAddr;
use std::sync::Arc;

use crate::link::{Event, Failure, Limit, Link, State};
use crate::macros::Macros;
use crate::message::Message;
use crate::packet::{Answer, CHUNK, Modification, Packet, Stage, actions, protocol};
use crate::settings::{DefaultAction, Milters};

const REJECT: &str = "550 5.7.1 Command rejected";
const LATER: &str = "451 4.7.1 Service unavailable - try again later";
const UNAVAILABLE: &str = "550 5.5.0 Service unavailable";
const CLOSING: &str = "421 4.7.0 Server closing connection";
/// Our own trouble, which is no filter's: its default action has no say in it.
const UNREADABLE: &str = "451 4.3.0 Error: queue file read error";

/// What the filters say to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Answer this: a 4xx or 5xx reply. Lines are separated by CR LF. With 421 the connection ends.
    Reply(String),
    /// Claim success and keep nothing.
    Discard,
    /// Hold the message: a filter could not be asked, and `quarantine` is its default action.
    Hold,
}

/// Who connects.
#[derive(Clone, Copy, Debug)]
pub struct Client<'c> {
    /// Its name, or `unknown`.
    pub name: &'c str,
    /// Its address; `None`: not from the network.
    pub address: Option<IpAddr>,
    /// Its port, 0 when not known.
    pub port: u16,
}

/// A conversation.
pub struct Session {
    milters: Arc<Milters>,
    links: Vec<Link>,
    warnings: Vec<String>,
    /// Bytes that a replaced body may have; 0: any.
    body_limit: usize,
}

impl Session {
    /// A conversation with nobody yet. `body_limit`: `message_size_limit`.
    pub fn new(milters: Arc<Milters>, body_limit: u64) -> Self {
        let link = |filter: &crate::settings::Filter| Link::new(filter.clone(), milters.macros.clone());
        let links = milters.filters.iter().map(link).collect();
        let body_limit = usize::try_from(body_limit).unwrap_or(usize::MAX);
        Self { milters, links, warnings: Vec::new(), body_limit }
    }

    /// The settings.
    pub fn shared(&self) -> &Arc<Milters> {
        &self.milters
    }

    /// What went wrong since the last call, for the log.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Some filter wants to hear of recipients that were rejected already.
    pub fn wants_rejected_recipients(&self) -> bool {
        self.links.iter().any(|link| link.state == State::Active && link.agreed(protocol::REJECTED_RECIPIENTS))
    }

    /// The client has connected. Connects to the filters.
    pub async fn connect(&mut self, client: Client<'_>, macros: &dyn Macros) -> Verdict {
        for link in &mut self.links {
            if link.state == State::New
                && let Err(Failure(why)) = link.open().await
            {
                self.warnings.push(why);
                link.fail();
            }
        }
        let event = Event {
            stage: Some(Stage::Connect),
            name: "SMFIC_CONNECT",
            unless: protocol::NO_CONNECT,
            unanswered: protocol::NO_REPLY_CONNECT,
            macros,
            limit: Limit::Command,
        };
        self.all(&event, b'C', |packet| {
            let packet = packet.text(client.name.as_bytes());
            match client.address {
                None => _ = packet.bytes(b"U"),
                Some(address) => {
                    let family = if address.is_ipv4() { b"4" } else { b"6" };
                    let packet = packet.bytes(family).bytes(&client.port.to_be_bytes());
                    _ = packet.text(address.to_string().as_bytes());
                }
            }
        })
        .await
    }

    /// HELO or EHLO.
    pub async fn helo(&mut self, name: &str, macros: &dyn Macros) -> Verdict {
        let event = Event {
            stage: Some(Stage::Helo),
            name: "SMFIC_HELO",
            unless: protocol::NO_HELO,
            unanswered: protocol::NO_REPLY_HELO,
            macros,
            limit: Limit::Command,
        };
        self.all(&event, b'H', |packet| _ = packet.text(name.as_bytes())).await
    }

    /// MAIL: the address in angle brackets, then the ESMTP parameters.
    pub async fn mail(&mut self, words: &[String], macros: &dyn Macros) -> Verdict {
        let event = Event {
            stage: Some(Stage::Mail),
            name: "SMFIC_MAIL",
            unless: protocol::NO_MAIL,
            unanswered: protocol::NO_REPLY_MAIL,
            macros,
            limit: Limit::Command,
        };
        self.all(&event, b'M', |packet| put_words(packet, words)).await
    }

    /// RCPT: the address in angle brackets, then the ESMTP parameters. `rejected`: it is refused already, and only
    /// filters that asked for it hear of it.
    pub async fn rcpt(&mut self, words: &[String], rejected: bool, macros: &dyn Macros) -> Verdict {
        let event = Event {
            stage: Some(Stage::Rcpt),
            name: "SMFIC_RCPT",
            unless: protocol::NO_RCPT,
            unanswered: protocol::NO_REPLY_RCPT,
            macros,
            limit: Limit::Command,
        };
        if !rejected {
            return self.all(&event, b'R', |packet| put_words(packet, words)).await;
        }
        for at in 0..self.links.len() {
            if self.links[at].agreed(protocol::REJECTED_RECIPIENTS) {
                // It is refused whatever they say.
                self.one(at, &event, b'R', |packet| put_words(packet, words)).await;
            }
        }
        Verdict::Continue
    }

    /// DATA.
    pub async fn data(&mut self, macros: &dyn Macros) -> Verdict {
        let event = Event {
            stage: Some(Stage::Data),
            name: "SMFIC_DATA",
            unless: protocol::NO_DATA,
            unanswered: protocol::NO_REPLY_DATA,
            macros,
            limit: Limit::Command,
        };
        self.all(&event, b'T', |packet| drop(packet)).await
    }

    /// A command that the server does not know.
    pub async fn unknown(&mut self, line: &str, macros: &dyn Macros) -> Verdict {
        let event = Event {
            stage: Some(Stage::Unknown),
            name: "SMFIC_UNKNOWN",
            unless: protocol::NO_UNKNOWN,
            unanswered: protocol::NO_REPLY_UNKNOWN,
            macros,
            limit: Limit::Command,
        };
        self.all(&event, b'U', |packet| _ = packet.text(line.as_bytes())).await
    }

    /// The whole message, shown to each filter as the ones before it have left it.
    pub async fn content(&mut self, message: &mut Message, macros: &dyn Macros) -> Verdict {
        for at in 0..self.links.len() {
            let verdict = match self.links[at].state {
                State::MessageAccepted | State::ConnectionAccepted => continue,
                State::New | State::Failed => default_answer(self.links[at].default_action()),
                State::Active => match self.show(at, message, macros).await {
                    Ok(verdict) => verdict,
                    Err(Failure(why)) => self.failed(at, why),
                },
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Hold => message.hold("default action".to_owned()),
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }

    async fn show(&mut self, at: usize, message: &mut Message, macros: &dyn Macros) -> Result<Verdict, Failure> {
        let body_limit = self.body_limit;
        let link = &mut self.links[at];
        let event =
            |stage, name, unless, unanswered| Event { stage, name, unless, unanswered, macros, limit: Limit::Content };
        let keep_blank = link.agreed(protocol::HEADER_LEADING_SPACE);
        let header = event(None, "SMFIC_HEADER", protocol::NO_HEADERS, protocol::NO_REPLY_HEADER);
        for (name, value) in message.shown(keep_blank) {
            let put = |packet: Packet<'_>| _ = packet.text(name).text(value);
            if let Some(answer) = link.tell(&header, put, b'L').await?
                && let Some(verdict) = decided(link, answer, "SMFIC_HEADER")?
            {
                return Ok(verdict);
            }
        }
        let end = event(
            Some(Stage::EndOfHeaders),
            "SMFIC_EOH",
            protocol::NO_END_OF_HEADERS,
            protocol::NO_REPLY_END_OF_HEADERS,
        );
        if let Some(answer) = link.tell(&end, |packet| drop(packet), b'N').await?
            && let Some(verdict) = decided(link, answer, "SMFIC_EOH")?
        {
            return Ok(verdict);
        }
        let chunk = event(None, "SMFIC_BODY", protocol::NO_BODY, protocol::NO_REPLY_BODY);
        let (mut reader, mut waiting) = (message.body(), Vec::new());
        let mut more = !link.agreed(protocol::NO_BODY);
        while more {
            more = match reader.read(&mut waiting) {
                Ok(more) => more,
                Err(error) => {
                    self.warnings.push(format!("cannot read the message for milter {}: {error}", link.name()));
                    return Ok(Verdict::Reply(UNREADABLE.to_owned()));
                }
            };
            while waiting.len() >= CHUNK || (!more && !waiting.is_empty()) {
                let rest = waiting.split_off(waiting.len().min(CHUNK));
                let piece = std::mem::replace(&mut waiting, rest);
                match link.tell(&chunk, |packet| _ = packet.bytes(&piece), b'B').await? {
                    Some(Answer::Skip) => {
                        more = false;
                        waiting.clear();
                    }
                    Some(answer) => {
                        if let Some(verdict) = decided(link, answer, "SMFIC_BODY")? {
                            return Ok(verdict);
                        }
                    }
                    None => {}
                }
            }
        }
        let end = event(Some(Stage::EndOfMessage), "SMFIC_BODYEOB", 0, 0);
        let mut answer = link.tell(&end, |packet| drop(packet), b'E').await?;
        let mut body: Option<Vec<u8>> = None;
        loop {
            match answer {
                Some(Answer::Change(modification)) => {
                    let needed = needed(&modification);
                    if link.actions & needed == 0 {
                        return Err(Failure(format!("milter {}: did not negotiate this change", link.name())));
                    }
                    match modification {
                        Modification::Body(piece) => {
                            let body = body.get_or_insert_default();
                            body.extend_from_slice(&piece);
                            if body_limit > 0 && body.len() / 2 > body_limit {
                                return Err(Failure(format!("milter {}: the new body is too large", link.name())));
                            }
                        }
                        other => {
                            let shown = format!("{other:?}");
                            if !message.change(other, keep_blank) {
                                let text = format!("milter {}: this change makes no sense: {shown:.200}", link.name());
                                self.warnings.push(text);
                            }
                        }
                    }
                    answer = Some(link.more("SMFIC_BODYEOB").await?);
                }
                Some(Answer::Quarantine(why)) => {
                    if link.actions & actions::QUARANTINE == 0 {
                        return Err(Failure(format!("milter {}: did not negotiate quarantine", link.name())));
                    }
                    message.hold(why);
                    answer = Some(link.more("SMFIC_BODYEOB").await?);
                }
                Some(last) => {
                    let verdict = decided(link, last, "SMFIC_BODYEOB")?;
                    if verdict.is_none()
                        && let Some(body) = body
                    {
                        message.replace_body(without_cr(&body));
                    }
                    return Ok(verdict.unwrap_or(Verdict::Continue));
                }
                None => return Err(Failure(format!("milter {}: not connected", link.name()))),
            }
        }
    }

    /// The transaction is over, whatever became of it; filters that had accepted the message are asked again.
    pub async fn abort(&mut self) {
        for link in &mut self.links {
            if matches!(link.state, State::Active | State::MessageAccepted) {
                link.say(b'A').await;
                link.state = State::Active;
            }
        }
    }

    /// The next transaction: filters that had accepted the last message are asked again. After a message that went
    /// through to its end there is nothing to abort.
    pub fn next(&mut self) {
        for link in &mut self.links {
            if link.state == State::MessageAccepted {
                link.state = State::Active;
            }
        }
    }

    /// The client is gone.
    pub async fn quit(mut self) {
        for link in &mut self.links {
            link.say(b'Q').await;
        }
    }

    async fn all(&mut self, event: &Event<'_>, command: u8, put: impl Fn(Packet<'_>)) -> Verdict {
        let mut held = false;
        for at in 0..self.links.len() {
            match self.one(at, event, command, &put).await {
                Verdict::Continue => {}
                Verdict::Hold => held = true,
                verdict => return verdict,
            }
        }
        if held { Verdict::Hold } else { Verdict::Continue }
    }

    async fn one(&mut self, at: usize, event: &Event<'_>, command: u8, put: impl Fn(Packet<'_>)) -> Verdict {
        let link = &mut self.links[at];
        match link.state {
            State::MessageAccepted | State::ConnectionAccepted => Verdict::Continue,
            // One that was never connected to is as good as one that cannot be.
            State::New | State::Failed => default_answer(link.default_action()),
            State::Active => {
                let answered = link.tell(event, put, command).await;
                let decided = answered.and_then(|answer| match answer {
                    None => Ok(None),
                    Some(answer) => decided_at(link, answer, event.name, command),
                });
                match decided {
                    Ok(verdict) => verdict.unwrap_or(Verdict::Continue),
                    Err(Failure(why)) => self.failed(at, why),
                }
            }
        }
    }

    fn failed(&mut self, at: usize, why: String) -> Verdict {
        self.warnings.push(why);
        let link = &mut self.links[at];
        link.fail();
        match link.state {
            State::Failed => default_answer(link.default_action()),
            _ => Verdict::Continue,
        }
    }
}

fn put_words(mut packet: Packet<'_>, words: &[String]) {
    for word in words {
        packet = packet.text(word.as_bytes());
    }
}

fn default_answer(action: DefaultAction) -> Verdict {
    match action {
        DefaultAction::Accept => Verdict::Continue,
        DefaultAction::Reject => Verdict::Reply(UNAVAILABLE.to_owned()),
        DefaultAction::TemporaryFailure => Verdict::Reply(LATER.to_owned()),
        DefaultAction::Quarantine => Verdict::Hold,
        DefaultAction::Shutdown => Verdict::Reply(CLOSING.to_owned()),
    }
}

/// What an answer means in a transaction.
fn decided(link: &mut Link, answer: Answer, event: &'static str) -> Result<Option<Verdict>, Failure> {
    decided_at(link, answer, event, b'L')
}

fn decided_at(link: &mut Link, answer: Answer, event: &'static str, command: u8) -> Result<Option<Verdict>, Failure> {
    let about_connection = matches!(command, b'C' | b'H');
    Ok(Some(match answer {
        Answer::Continue => return Ok(None),
        Answer::Accept => {
            link.state = if about_connection { State::ConnectionAccepted } else { State::MessageAccepted };
            return Ok(None);
        }
        Answer::Reject => Verdict::Reply(REJECT.to_owned()),
        Answer::TemporaryFailure => Verdict::Reply(LATER.to_owned()),
        Answer::Reply(text) => Verdict::Reply(text),
        Answer::Shutdown => Verdict::Reply(CLOSING.to_owned()),
        Answer::Discard if about_connection => {
            let text = "DISCARD action is not allowed for connect or helo";
            return Err(Failure(format!("milter {}: {text}", link.name())));
        }
        Answer::Discard => {
            link.state = State::MessageAccepted;
            Verdict::Discard
        }
        Answer::ConnectionFailure => {
            return Err(Failure(format!("milter {}: gives up the connection", link.name())));
        }
        answer @ (Answer::Skip
        | Answer::Progress
        | Answer::Change(_)
        | Answer::Quarantine(_)
        | Answer::Negotiated { .. }) => {
            return Err(link.nonsense(&answer, event));
        }
    }))
}

/// The right a change needs.
fn needed(modification: &Modification) -> u32 {
    match modification {
        Modification::AddHeader(..) | Modification::InsertHeader(..) => actions::ADD_HEADERS,
        Modification::ChangeHeader(..) => actions::CHANGE_HEADERS,
        Modification::AddRecipient(..) => actions::ADD_RECIPIENTS | actions::ADD_RECIPIENTS_WITH_PARAMETERS,
        Modification::DeleteRecipient(_) => actions::DELETE_RECIPIENTS,
        Modification::Sender(..) => actions::CHANGE_SENDER,
        Modification::Body(_) => actions::CHANGE_BODY,
    }
}

/// A body as it is stored: LF line ends, the last line ended.
fn without_cr(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(line) => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            None => out.extend_from_slice(line),
        }
    }
    if out.last().is_some_and(|last| *last != b'\n') {
        out.push(b'\n');
    }
    out
}

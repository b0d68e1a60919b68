//! One filter: its connection, what was agreed with it, whether it still has a say.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::macros::{MacroLists, Macros};
use crate::packet::{self, Answer, LONGEST, Packet, Stage, actions, protocol};
use crate::settings::{DefaultAction, Endpoint, Filter};

trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

/// Output is collected up to this much before it is written without need.
const OUTPUT: usize = 256 << 10;

/// Where a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected yet.
    New,
    /// It is asked about everything it wants to hear.
    Active,
    /// It accepted the message: asked again from the next one on.
    MessageAccepted,
    /// It accepted the connection, or failed and `accept` is its default action.
    ConnectionAccepted,
    /// It failed: its default action is the answer to everything.
    Failed,
}

/// A filter of a session.
pub(crate) struct Link {
    filter: Filter,
    stream: Option<Box<dyn Connection>>,
    out: Vec<u8>,
    pub(crate) state: State,
    /// What it may do.
    pub(crate) actions: u32,
    /// What it does not want to hear or answer.
    protocol: u32,
    macros: MacroLists,
}

/// Why a filter cannot be asked any more: a text for the log.
pub(crate) struct Failure(pub(crate) String);

/// An event that a filter is told.
pub(crate) struct Event<'e> {
    /// Macros go with it.
    pub(crate) stage: Option<Stage>,
    pub(crate) name: &'static str,
    /// Not told to a filter that said this.
    pub(crate) unless: u32,
    /// Not answered by a filter that said this.
    pub(crate) unanswered: u32,
    pub(crate) macros: &'e dyn Macros,
    pub(crate) limit: Limit,
}

/// Which of a filter's time limits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Command,
    Content,
}

impl Link {
    pub(crate) fn new(filter: Filter, macros: MacroLists) -> Self {
        Self { filter, stream: None, out: Vec::new(), state: State::New, actions: 0, protocol: 0, macros }
    }

    pub(crate) fn name(&self) -> &str {
        &self.filter.name
    }

    pub(crate) fn default_action(&self) -> DefaultAction {
        self.filter.default_action
    }

    /// It has agreed to this (`SMFIP_*`).
    pub(crate) fn agreed(&self, flag: u32) -> bool {
        self.protocol & flag != 0
    }

    /// Connects and negotiates.
    pub(crate) async fn open(&mut self) -> Result<(), Failure> {
        let name = &self.filter.name;
        let failed = |why: &str| Failure(format!("connect to Milter service {name}: {why}"));
        let connect = async {
            Ok::<Box<dyn Connection>, io::Error>(match &self.filter.endpoint {
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Endpoint::Inet(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    // The connection works without it, only slower.
                    let _ = stream.set_nodelay(true);
                    Box::new(stream)
                }
            })
        };
        self.stream = match timeout(self.filter.connect_timeout, connect).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => return Err(failed(&words(&error))),
            Err(_) => return Err(failed("Connection timed out")),
        };
        let version = self.filter.version;
        let offered = protocol::offered(version).unwrap_or(0);
        let can = if version < 6 { 0x3f } else { actions::ALL };
        _ = Packet::new(&mut self.out, b'O').number(version).number(can).number(offered);
        let begun = self.write(self.filter.command_timeout).await;
        begun.map_err(|_| Failure(format!("milter {}: write error in initial handshake", self.filter.name)))?;
        let answer = self.read("SMFIC_OPTNEG", self.filter.command_timeout).await;
        match answer.map_err(|_| Failure(format!("milter {}: read error in initial handshake", self.filter.name)))? {
            Answer::Negotiated { version: theirs, actions, protocol, macros } => {
                let name = &self.filter.name;
                if theirs < 2 || theirs > version {
                    return Err(Failure(format!(
                        "milter {name}: protocol version {theirs} conflict with MTA protocol version {version}"
                    )));
                }
                if actions & !can != 0 {
                    let text = format!("request mask {actions:#x} conflict with MTA request mask {can:#x}");
                    return Err(Failure(format!("milter {name}: {text}")));
                }
                if protocol & !offered != 0 {
                    let text = "includes features not offered in MTA event mask";
                    return Err(Failure(format!("milter {name}: event mask {protocol:#x} {text} {offered:#x}")));
                }
                (self.actions, self.protocol) = (actions, protocol);
                for (stage, names) in macros {
                    self.macros.set(stage, names);
                }
                self.state = State::Active;
                Ok(())
            }
            other => {
                let letter = other.letter();
                Err(Failure(format!("milter {}: unexpected reply \"{letter}\" in initial handshake", self.filter.name)))
            }
        }
    }

    /// Tells of an event and waits for the answer. `None`: it does not want to hear, or does not answer.
    pub(crate) async fn tell(
        &mut self,
        event: &Event<'_>,
        put: impl FnOnce(Packet<'_>),
        command: u8,
    ) -> Result<Option<Answer>, Failure> {
        if self.agreed(event.unless) {
            return Ok(None);
        }
        if let Some(stage) = event.stage {
            self.put_macros(stage, command, event.macros);
        }
        put(Packet::new(&mut self.out, command));
        let limit = match event.limit {
            Limit::Command => self.filter.command_timeout,
            Limit::Content => self.filter.content_timeout,
        };
        if self.agreed(event.unanswered) {
            if self.out.len() > OUTPUT {
                self.write(limit).await?;
            }
            return Ok(None);
        }
        self.read(event.name, limit).await.map(Some)
    }

    fn put_macros(&mut self, stage: Stage, command: u8, macros: &dyn Macros) {
        let values = self.macros.values(stage, macros);
        let mut packet = Packet::new(&mut self.out, b'D').bytes(&[command]);
        for (name, value) in values {
            packet = packet.text(name.as_bytes()).text(value.as_bytes());
        }
        drop(packet);
    }

    /// Says something that has no answer.
    pub(crate) async fn say(&mut self, command: u8) {
        if self.stream.is_none() {
            return;
        }
        _ = Packet::new(&mut self.out, command);
        let limit = self.filter.command_timeout;
        if self.write(limit).await.is_err() {
            self.stream = None;
        }
    }

    async fn write(&mut self, limit: Duration) -> Result<(), Failure> {
        let name = &self.filter.name;
        let failed = |why: &str| Failure(format!("milter {name}: error writing command: {why}"));
        let Some(stream) = &mut self.stream else { return Err(failed("not connected")) };
        let written = timeout(limit, stream.write_all(&self.out)).await;
        let result = match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&words(&error))),
            Err(_) => Err(failed("Connection timed out")),
        };
        self.out.clear();
        result
    }

    /// Writes what there is and reads the answer. A filter that says it is busy gets the whole time again.
    pub(crate) async fn read(&mut self, event: &'static str, limit: Duration) -> Result<Answer, Failure> {
        self.write(limit).await?;
        loop {
            match timeout(limit, self.packet(event)).await {
                Ok(Ok(Answer::Progress)) => {}
                Ok(answer) => return answer,
                Err(_) => {
                    let name = &self.filter.name;
                    return Err(Failure(format!(
                        "milter {name}: can't read {event} reply packet header: Connection timed out"
                    )));
                }
            }
        }
    }

    /// The next packet of an answer that has several.
    pub(crate) async fn more(&mut self, event: &'static str) -> Result<Answer, Failure> {
        self.read(event, self.filter.content_timeout).await
    }

    async fn packet(&mut self, event: &'static str) -> Result<Answer, Failure> {
        let name = &self.filter.name;
        let failed = |error: &io::Error| {
            Failure(format!("milter {name}: can't read {event} reply packet header: {}", words(error)))
        };
        let cut = |error: &io::Error| Failure(format!("milter {name}: EOF while reading data: {}", words(error)));
        let Some(stream) = &mut self.stream else {
            return Err(Failure(format!("milter {name}: not connected")));
        };
        let length = stream.read_u32().await.map_err(|error| failed(&error))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(Failure(format!("milter {name}: bad packet length: {length}")));
        }
        if length > LONGEST {
            return Err(Failure(format!("milter {name}: unreasonable packet length: {length} > {LONGEST}")));
        }
        // Room grows with what comes, not with what is announced.
        let mut data = Vec::new();
        stream.take(length as u64).read_to_end(&mut data).await.map_err(|error| cut(&error))?;
        if data.len() < length {
            return Err(cut(&io::ErrorKind::UnexpectedEof.into()));
        }
        // `length` is at least 1.
        packet::answer(data[0], &data[1..]).ok_or_else(|| {
            let shown: String =
                data.iter().skip(1).take(100).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
            Failure(format!("milter {name}: malformed reply {}: {shown}", char::from(data[0]).escape_default()))
        })
    }

    /// It said something that makes no sense here.
    pub(crate) fn nonsense(&self, answer: &Answer, event: &str) -> Failure {
        let response = answer.name();
        Failure(format!("milter {}: unexpected filter response {response} after event {event}", self.filter.name))
    }

    /// It is not asked any more.
    pub(crate) fn fail(&mut self) {
        self.stream = None;
        self.out = Vec::new();
        self.state = match self.filter.default_action {
            DefaultAction::Accept => State::ConnectionAccepted,
            _ => State::Failed,
        };
    }
}

/// The system's words for an error.
fn words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "Application error".to_owned();
    }
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_owned()
}

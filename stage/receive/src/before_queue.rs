//! `smtpd_proxy_filter`: a content filter that sees a message before anybody has taken it (Postfix: smtpd_proxy). What it
//! answers is what the client hears.
//!
//! The message is received whole before the filter is called, as `smtpd_proxy_options = speed_adjust` asks Postfix for:
//! a slow client then occupies no filter. [`Talk`] is the conversation without I/O: replies in, commands out.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use yamabiko_config::View;
use yamabiko_envelope::{BodyType, Content, RewriteContext, Submission};
use yamabiko_smtp::capability::{Capabilities, Xforward};
use yamabiko_smtp::data::DataEncoder;
use yamabiko_smtp::reply::{Reply, ReplyParser};
use yamabiko_smtp::xtext;

/// Our own trouble, and the filter's, as the client hears it.
pub(crate) const TROUBLE: &str = "451 4.3.0 Error: queue file write error";

/// Where a filter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Endpoint {
    Inet(String, u16),
    Unix(PathBuf),
    /// Not understood: mail waits.
    Nowhere,
}

/// `smtpd_proxy_...` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeforeQueue {
    /// As configured, for the log.
    pub name: String,
    endpoint: Endpoint,
    timeout: Duration,
    ehlo: String,
}

impl BeforeQueue {
    /// `None`: there is no filter.
    pub(crate) fn read(view: &View, notices: &mut Vec<String>) -> Option<Self> {
        let name = view.text("smtpd_proxy_filter");
        if name.is_empty() {
            return None;
        }
        for word in view.list("smtpd_proxy_options") {
            if !word.eq_ignore_ascii_case("speed_adjust") {
                notices.push(format!("smtpd_proxy_options: unknown option \"{word}\""));
            }
        }
        let endpoint = endpoint(&name, view).unwrap_or_else(|why| {
            notices.push(format!("smtpd_proxy_filter: \"{name}\": {why}; mail waits"));
            Endpoint::Nowhere
        });
        let timeout = view.duration("smtpd_proxy_timeout");
        Some(Self { name, endpoint, timeout, ehlo: view.text("smtpd_proxy_ehlo") })
    }

    /// Shows a message to the filter. The reply for the client, and warnings for the log.
    pub(crate) async fn ask(&self, submission: &Submission) -> (Reply, Vec<String>) {
        let mut warnings = Vec::new();
        let asked = match &self.endpoint {
            Endpoint::Inet(host, port) => {
                let connected = timeout(self.timeout, TcpStream::connect((host.as_str(), *port))).await;
                match self.connected(connected) {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        self.talk(stream, submission, &mut warnings).await
                    }
                    Err(why) => Err(why),
                }
            }
            Endpoint::Unix(path) => match self.connected(timeout(self.timeout, UnixStream::connect(path)).await) {
                Ok(stream) => self.talk(stream, submission, &mut warnings).await,
                Err(why) => Err(why),
            },
            Endpoint::Nowhere => Err(format!("connect to proxy filter {}: bad address", self.name)),
        };
        let reply = asked.unwrap_or_else(|why| {
            warnings.push(why);
            trouble()
        });
        (reply, warnings)
    }

    fn connected<S>(&self, done: Result<io::Result<S>, tokio::time::error::Elapsed>) -> Result<S, String> {
        let why = match done {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "Connection timed out".to_owned(),
        };
        let why = why.split(" (os error").next().unwrap_or_default();
        Err(format!("connect to proxy filter {}: {why}", self.name))
    }

    async fn talk<S>(&self, stream: S, submission: &Submission, warnings: &mut Vec<String>) -> Result<Reply, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut link =
            Link { stream, name: &self.name, timeout: self.timeout, parser: ReplyParser::new(), input: Vec::new() };
        let mut talk = Talk::new(&self.ehlo, submission);
        loop {
            let reply = link.reply().await?;
            match talk.heard(&reply) {
                Turn::Say(command) => link.write(command.as_bytes()).await?,
                Turn::Content => {
                    link.content(submission).await?;
                    talk.content_sent();
                }
                Turn::Over(reply, why) => {
                    warnings.extend(why.map(|why| format!("proxy {} {why}", self.name)));
                    // It has answered; whether it hears this does not matter.
                    let _ = link.write(b"QUIT\r\n").await;
                    return Ok(reply);
                }
            }
        }
    }
}

fn trouble() -> Reply {
    let mut parser = ReplyParser::new();
    let mut text: &[u8] = &[TROUBLE.as_bytes(), b"\r\n"].concat();
    match parser.parse(&mut text) {
        Some(Ok(reply)) => reply,
        // It is one.
        _ => Reply { code: yamabiko_status::ReplyCode(451), text: TROUBLE.to_owned() },
    }
}

fn endpoint(name: &str, view: &View) -> Result<Endpoint, &'static str> {
    if let Some(path) = name.strip_prefix("unix:") {
        return Ok(Endpoint::Unix(PathBuf::from(view.text("queue_directory")).join(path)));
    }
    let text = name.strip_prefix("inet:").unwrap_or(name);
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if host.is_empty() { "localhost" } else { host };
    let port = port.parse().map_err(|_| "need host:port, inet:host:port or unix:pathname")?;
    Ok(Endpoint::Inet(host.to_owned(), port))
}

/// A connection to the filter.
struct Link<'f, S> {
    stream: S,
    name: &'f str,
    timeout: Duration,
    parser: ReplyParser,
    input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<'_, S> {
    fn failed(&self, done: Result<io::Error, tokio::time::error::Elapsed>) -> String {
        match done {
            Ok(_) => format!("lost connection with proxy {}", self.name),
            Err(_) => format!("timeout talking to proxy {}", self.name),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        match timeout(self.timeout, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(Ok(error))),
            Err(late) => Err(self.failed(Err(late))),
        }
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        loop {
            let heard = self.input.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let heard: String = String::from_utf8_lossy(heard).trim_end().chars().take(100).collect();
            let mut rest = self.input.as_slice();
            let parsed = self.parser.parse(&mut rest);
            let used = self.input.len() - rest.len();
            self.input.drain(..used);
            match parsed {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(_)) => return Err(format!("received garbage from proxy {}: {heard}", self.name)),
                None => {}
            }
            let mut room = [0; 2048];
            match timeout(self.timeout, self.stream.read(&mut room)).await {
                Ok(Ok(0)) => return Err(self.failed(Ok(io::ErrorKind::UnexpectedEof.into()))),
                Ok(Ok(read)) => self.input.extend_from_slice(&room[..read]),
                Ok(Err(error)) => return Err(self.failed(Ok(error))),
                Err(late) => return Err(self.failed(Err(late))),
            }
        }
    }

    async fn content(&mut self, submission: &Submission) -> Result<(), String> {
        let mut encoder = DataEncoder::new(0);
        let mut out = Vec::new();
        encoder.encode(&submission.trace_fields, &mut out);
        let (mut at, mut piece) = (0, vec![0; 32 << 10]);
        let content: &Content = &submission.content;
        while at < content.len() {
            let read = content.read_at(&mut piece, at).map_err(|error| format!("cannot read the message: {error}"))?;
            at += read as u64;
            encoder.encode(&piece[..read], &mut out);
            self.write(&out).await?;
            out.clear();
        }
        encoder.finish(&mut out);
        self.write(&out).await
    }
}

/// What is said to the filter next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A command.
    Say(String),
    /// The content with its final dot.
    Content,
    /// It is over: the reply for the client, and what the log should warn of.
    Over(Reply, Option<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Greeting,
    Ehlo,
    /// To the command of this number.
    Command(usize),
    Data,
    End,
}

/// The conversation.
#[derive(Debug)]
pub struct Talk<'m> {
    submission: &'m Submission,
    ehlo: String,
    expect: Expect,
    /// What is said before DATA, and whether the client hears a refusal of it.
    commands: Vec<(String, bool)>,
    said: String,
}

impl<'m> Talk<'m> {
    /// Nothing was heard yet.
    pub fn new(ehlo: &str, submission: &'m Submission) -> Self {
        let ehlo = format!("EHLO {ehlo}\r\n");
        Self { submission, ehlo, expect: Expect::Greeting, commands: Vec::new(), said: String::new() }
    }

    fn say(&mut self, expect: Expect, command: String) -> Turn {
        self.expect = expect;
        command.trim_end().clone_into(&mut self.said);
        Turn::Say(command)
    }

    /// A refusal of something that is none of the client's business.
    fn broken(&self, reply: &Reply) -> Turn {
        Turn::Over(trouble(), Some(self.rejected(reply)))
    }

    /// A refusal for the log.
    fn rejected(&self, reply: &Reply) -> String {
        let said = if self.said.is_empty() { "connection" } else { &self.said };
        format!("rejected \"{said}\": \"{}\"", reply.one_line())
    }

    /// A reply.
    pub fn heard(&mut self, reply: &Reply) -> Turn {
        let fine = reply.code.0 / 100 == 2;
        match self.expect {
            Expect::Greeting if fine => {
                let ehlo = self.ehlo.clone();
                self.say(Expect::Ehlo, ehlo)
            }
            Expect::Ehlo if fine => {
                let offered = Capabilities::parse(reply, &[]);
                self.commands = commands(self.submission, &offered);
                self.next(0)
            }
            Expect::Greeting | Expect::Ehlo => self.broken(reply),
            Expect::Command(number) if fine => self.next(number + 1),
            Expect::Command(number) if !self.commands.get(number).is_some_and(|(_, told)| *told) => self.broken(reply),
            Expect::Data if reply.code.0 == 354 => Turn::Content,
            // A filter that takes nothing and says that all is well would lose mail.
            Expect::Data if fine => self.broken(reply),
            Expect::Command(_) | Expect::Data => Turn::Over(reply.clone(), Some(self.rejected(reply))),
            Expect::End => Turn::Over(reply.clone(), None),
        }
    }

    /// The content is with the filter; the next reply is its verdict.
    pub fn content_sent(&mut self) {
        self.expect = Expect::End;
    }

    fn next(&mut self, number: usize) -> Turn {
        match self.commands.get(number) {
            Some((command, _)) => {
                let command = command.clone();
                self.say(Expect::Command(number), command)
            }
            None => self.say(Expect::Data, "DATA\r\n".to_owned()),
        }
    }
}

/// Who the client is and what it said, as far as the filter wants to hear it.
fn commands(submission: &Submission, offered: &Capabilities) -> Vec<(String, bool)> {
    let envelope = &submission.envelope;
    let mut all: Vec<(String, bool)> = xforward(submission, offered.xforward).into_iter().map(|c| (c, false)).collect();
    let mut mail = format!("MAIL FROM:<{}>", yamabiko_address::quote(&envelope.sender));
    if offered.size {
        let size = submission.trace_fields.len() as u64 + submission.content.len();
        mail.push_str(&format!(" SIZE={size}"));
    }
    if offered.eight_bit_mime {
        match envelope.body {
            BodyType::EightBitMime => mail.push_str(" BODY=8BITMIME"),
            BodyType::SevenBit => mail.push_str(" BODY=7BIT"),
            BodyType::Unspecified => {}
        }
    }
    if offered.smtputf8 && envelope.smtputf8 {
        mail.push_str(" SMTPUTF8");
    }
    if offered.dsn {
        match envelope.ret {
            Some(yamabiko_envelope::Ret::Full) => mail.push_str(" RET=FULL"),
            Some(yamabiko_envelope::Ret::Headers) => mail.push_str(" RET=HDRS"),
            None => {}
        }
        if !envelope.envid.is_empty() {
            mail.push_str(" ENVID=");
            push_xtext(&mut mail, &envelope.envid);
        }
    }
    mail.push_str("\r\n");
    all.push((mail, true));
    for recipient in &envelope.recipients {
        let mut rcpt = format!("RCPT TO:<{}>", yamabiko_address::quote(&recipient.address));
        if offered.dsn {
            let notify = recipient.notify;
            let words = [
                (notify.never, "NEVER"),
                (notify.success, "SUCCESS"),
                (notify.failure, "FAILURE"),
                (notify.delay, "DELAY"),
            ];
            let words: Vec<&str> = words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
            if !words.is_empty() {
                rcpt.push_str(&format!(" NOTIFY={}", words.join(",")));
            }
        }
        rcpt.push_str("\r\n");
        all.push((rcpt, true));
    }
    all
}

fn push_xtext(out: &mut String, text: &str) {
    let mut bytes = Vec::new();
    xtext::encode(text, &mut bytes);
    // xtext is ASCII.
    out.push_str(&String::from_utf8_lossy(&bytes));
}

fn xforward(submission: &Submission, offered: Xforward) -> Vec<String> {
    let (envelope, client) = (&submission.envelope, &submission.envelope.client);
    let address = client.address.map(|address| match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("IPv6:{v6}"),
    });
    let local = if envelope.context == RewriteContext::Local { "LOCAL" } else { "REMOTE" };
    let port = if client.port == 0 { String::new() } else { client.port.to_string() };
    let ident = if client.ident.is_empty() { envelope.queue_id.to_string() } else { client.ident.clone() };
    let first = [
        (offered.name, "NAME", if client.name == "unknown" { "[UNAVAILABLE]" } else { &client.name }.to_owned()),
        (offered.addr, "ADDR", address.unwrap_or_default()),
        (offered.port, "PORT", port),
    ];
    let second = [
        (offered.proto, "PROTO", client.protocol.clone()),
        (offered.helo, "HELO", client.helo.clone()),
        (offered.ident, "IDENT", ident),
        (offered.source, "SOURCE", local.to_owned()),
    ];
    [&first[..], &second[..]]
        .into_iter()
        .filter_map(|attributes| {
            let mut command = "XFORWARD".to_owned();
            for (offered, name, value) in attributes {
                if *offered && !value.is_empty() {
                    command.push_str(&format!(" {name}="));
                    push_xtext(&mut command, value);
                }
            }
            (command.len() > "XFORWARD".len()).then(|| command + "\r\n")
        })
        .collect()
}

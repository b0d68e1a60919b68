//! A plain SMTP client, for the source and for mail that is sent back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use yamabiko_smtp::data::DataEncoder;
use yamabiko_smtp::reply::{Reply, ReplyParser};

/// How long a reply is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// A session with a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    parser: ReplyParser,
    input: Vec<u8>,
}

/// What came of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken for these recipients, by number; the others with the reply to each.
    Taken {
        /// Reply to the message.
        reply: String,
        /// Recipients that were refused.
        refused: Vec<(usize, String)>,
    },
    /// Not taken, for this reason.
    Refused(String),
    /// The connection broke after the final dot: nobody knows.
    Unknown(String),
}

impl Connection {
    /// Connects and says EHLO.
    ///
    /// # Errors
    /// The connection, or a greeting or reply that is no success, in the server's words.
    pub async fn open(server: SocketAddr, helo: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, parser: ReplyParser::new(), input: Vec::new() };
        success(connection.reply().await?)?;
        let reply = connection.command(&format!("EHLO {helo}")).await?;
        success(reply)?;
        Ok(connection)
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let mut input = self.input.as_slice();
            let parsed = self.parser.parse(&mut input);
            let used = self.input.len() - input.len();
            self.input.drain(..used);
            match parsed {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(wrong)) => return Err(io::Error::new(io::ErrorKind::InvalidData, wrong.0)),
                None => {}
            }
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await;
            match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&buffer[..n]),
            }
        }
    }

    async fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends a message with LF line ends.
    ///
    /// # Errors
    /// The connection broke before the final dot.
    pub async fn send(&mut self, sender: &str, recipients: &[String], message: &[u8]) -> io::Result<Outcome> {
        let reply = self.command(&format!("MAIL FROM:<{sender}>")).await?;
        if !reply.code.is_success() {
            return Ok(Outcome::Refused(reply.one_line()));
        }
        let mut refused = Vec::new();
        for (number, recipient) in recipients.iter().enumerate() {
            let reply = self.command(&format!("RCPT TO:<{recipient}>")).await?;
            if !reply.code.is_success() {
                refused.push((number, reply.one_line()));
            }
        }
        if refused.len() == recipients.len() {
            let text = refused.pop().map(|(_, text)| text).unwrap_or_default();
            self.command("RSET").await?;
            return Ok(Outcome::Refused(text));
        }
        let reply = self.command("DATA").await?;
        if reply.code.0 != 354 {
            return Ok(Outcome::Refused(reply.one_line()));
        }
        let mut wire = Vec::with_capacity(message.len() + 64);
        let mut encoder = DataEncoder::new(0);
        encoder.encode(message, &mut wire);
        encoder.finish(&mut wire);
        self.stream.write_all(&wire).await?;
        Ok(match self.reply().await {
            Ok(reply) if reply.code.is_success() => Outcome::Taken { reply: reply.one_line(), refused },
            Ok(reply) => Outcome::Refused(reply.one_line()),
            Err(error) => Outcome::Unknown(error.to_string()),
        })
    }

    /// Says QUIT; what comes of it is of no interest.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(5), self.command("QUIT")).await;
    }
}

fn success(reply: Reply) -> io::Result<()> {
    if reply.code.is_success() { Ok(()) } else { Err(io::Error::other(reply.one_line())) }
}

//! The other side of an SMTP session: [`Client`].

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A reply: its code, and its lines without line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

/// An SMTP client. Every error is an `io::Error`, a closed connection too.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// What the server said first.
    pub greeting: Reply,
}

impl Client {
    /// Connects and hears the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::unheard(address)?;
        client.greeting = client.reply()?;
        Ok(client)
    }

    /// Connects; the greeting is still to be read.
    pub fn unheard(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let greeting = Reply { code: 0, lines: Vec::new() };
        Ok(Self { stream: BufReader::new(stream), greeting })
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.ok_or_else(|| io::Error::other(format!("not a reply: {line}")))?;
            let more = line.as_bytes().get(3) == Some(&b'-');
            lines.push(line);
            if !more {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a line and hears the reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends a line; the reply must have that code.
    #[track_caller]
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.command(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// The commands as they are, each of which must be taken, then DATA and the content as it is; the reply to its end,
    /// which must have that code.
    #[track_caller]
    pub fn transaction(&mut self, commands: &[&str], content: &[u8], code: u16) -> Reply {
        for command in commands {
            self.expect(command, 250);
        }
        self.expect("DATA", 354);
        let reply = self.send(content).and_then(|()| self.reply()).unwrap_or_else(|error| panic!("content: {error}"));
        assert_eq!(reply.code, code, "{commands:?}: {reply:?}");
        reply
    }

    /// A whole transaction; the last reply, which is the first bad one if there is a bad one.
    pub fn mail(&mut self, sender: &str, recipients: &[&str], message: &str) -> io::Result<Reply> {
        let reply = self.command(&format!("MAIL FROM:<{sender}>"))?;
        if reply.code != 250 {
            return Ok(reply);
        }
        for recipient in recipients {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"))?;
            if reply.code != 250 {
                return Ok(reply);
            }
        }
        let reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(stuffed(message).as_bytes())?;
        self.reply()
    }
}

/// Lines as they go over the wire, dots doubled, and the dot that ends them.
pub fn stuffed(message: &str) -> String {
    let mut wire: String = message
        .lines()
        .map(|line| if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") })
        .collect();
    wire.push_str(".\r\n");
    wire
}

//! A server asked whether it would take an address, with manners: one connection at a time, a pause after each question,
//! nothing sent, the connection ended with QUIT; a server that asks to be left alone is left alone.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A line of a reply is not longer.
const MAX_LINE: usize = 4096;

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It would take the address.
    Yes,
    /// It takes every address of this domain: a yes says nothing.
    All,
    /// It would not, for good.
    No(String),
    /// It does not want to say now, or could not be asked.
    Later(String),
}

/// Asks servers.
pub struct Probe {
    /// The name to say hello with.
    pub name: String,
    /// `MAIL FROM`.
    pub sender: String,
    /// Between two questions to one domain.
    pub pause: Duration,
    /// For each step of a dialogue.
    pub patience: Duration,
    /// Port of the servers.
    pub port: u16,
    domains: HashMap<String, Domain>,
}

/// What is known of a domain by now.
#[derive(Default)]
struct Domain {
    asked: Option<Instant>,
    takes_all: Option<bool>,
    /// It does not want to be asked.
    gave_up: Option<String>,
}

impl Probe {
    /// Asks as this host, for this sender.
    pub fn new(name: String, sender: String, pause: Duration, port: u16) -> Self {
        Self { name, sender, pause, patience: Duration::from_secs(30), port, domains: HashMap::new() }
    }

    /// Asks the first host that answers about an address. `nobody` is an address of the domain that nobody has.
    pub fn ask(&mut self, domain: &str, hosts: &[IpAddr], address: &str, nobody: &str) -> Said {
        let known = self.domains.entry(domain.to_owned()).or_default();
        if let Some(why) = &known.gave_up {
            return Said::Later(why.clone());
        }
        if known.takes_all == Some(true) {
            return Said::All;
        }
        if let Some(asked) = known.asked {
            std::thread::sleep(self.pause.saturating_sub(asked.elapsed()));
        }
        let first = known.takes_all.is_none();
        let said = self.dialogue(hosts, address, first.then_some(nobody));
        let known = self.domains.entry(domain.to_owned()).or_default();
        known.asked = Some(Instant::now());
        match said {
            Ok((said, takes_all)) => {
                if takes_all.is_some() {
                    known.takes_all = takes_all;
                }
                if takes_all == Some(true) && said == Said::Yes { Said::All } else { said }
            }
            Err(error) => {
                known.gave_up = Some(error.to_string());
                Said::Later(error.to_string())
            }
        }
    }

    /// One connection. The second value says whether the domain takes anything, where that was found out.
    fn dialogue(&self, hosts: &[IpAddr], address: &str, nobody: Option<&str>) -> io::Result<(Said, Option<bool>)> {
        let mut failed = io::Error::other("no host to ask");
        for host in hosts.iter().take(3) {
            let stream = match TcpStream::connect_timeout(&SocketAddr::new(*host, self.port), self.patience) {
                Ok(stream) => stream,
                Err(error) => {
                    failed = io::Error::new(error.kind(), format!("connect to {host}: {error}"));
                    continue;
                }
            };
            stream.set_read_timeout(Some(self.patience))?;
            stream.set_write_timeout(Some(self.patience))?;
            let mut talk = Talk { reader: BufReader::new(stream.try_clone()?), writer: stream };
            talk.expect(None, b'2')?;
            talk.expect(Some(format!("EHLO {}", self.name)), b'2')?;
            talk.expect(Some(format!("MAIL FROM:<{}>", self.sender)), b'2')?;
            let (code, text) = talk.say(Some(format!("RCPT TO:<{}>", yamabiko_address::quote(address))))?;
            let said = match code.first() {
                Some(b'2') => Said::Yes,
                Some(b'5') => Said::No(text),
                _ => Said::Later(text),
            };
            // Only a yes needs to be doubted.
            let takes_all = match (nobody, &said) {
                (Some(nobody), Said::Yes) => {
                    let (code, _) = talk.say(Some(format!("RCPT TO:<{}>", yamabiko_address::quote(nobody))))?;
                    Some(code.starts_with(b"2"))
                }
                _ => None,
            };
            let _ = talk.say(Some("QUIT".to_owned()));
            return Ok((said, takes_all));
        }
        Err(failed)
    }
}

struct Talk {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

/// Lines of a reply, at most.
const LINES: usize = 100;

impl Talk {
    fn expect(&mut self, command: Option<String>, class: u8) -> io::Result<()> {
        let (code, text) = self.say(command)?;
        if code.first() == Some(&class) { Ok(()) } else { Err(io::Error::other(text)) }
    }

    /// Says something and hears the whole reply: its code, and its text with the code.
    fn say(&mut self, command: Option<String>) -> io::Result<(Vec<u8>, String)> {
        if let Some(command) = command {
            self.writer.write_all(format!("{command}\r\n").as_bytes())?;
        }
        let mut text = String::new();
        for _ in 0..LINES {
            let mut line = Vec::new();
            let read = io::Read::take(&mut self.reader, MAX_LINE as u64).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up"));
            }
            let shown = String::from_utf8_lossy(&line);
            let shown = shown.trim_end();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(if text.is_empty() { shown } else { shown.get(4..).unwrap_or_default() });
            let code = line.get(..3).unwrap_or_default().to_vec();
            if line.get(3) != Some(&b'-') {
                return Ok((code, text));
            }
        }
        Err(io::Error::other("a reply without end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that knows `a@b.test`, or takes all.
    fn server(takes_all: bool) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                stream.write_all(b"220 hello\r\n").unwrap();
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 0 {
                    let reply: &[u8] = match &*line {
                        l if l.starts_with("EHLO") => b"250-me\r\n250 SIZE\r\n",
                        l if l.starts_with("RCPT TO:<a@b.test>") || (takes_all && l.starts_with("RCPT")) => {
                            b"250 ok\r\n"
                        }
                        l if l.starts_with("RCPT TO:<grey") => b"450 later\r\n",
                        l if l.starts_with("RCPT") => b"550-5.1.1 no such\r\n550 5.1.1 user\r\n",
                        l if l.starts_with("DATA") => panic!("nothing is sent"),
                        _ => b"250 ok\r\n",
                    };
                    stream.write_all(reply).unwrap();
                    line.clear();
                }
            }
        });
        port
    }

    #[test]
    fn questions() {
        let here: [IpAddr; 1] = ["127.0.0.1".parse().unwrap()];
        let probe = |port| Probe::new("me.test".into(), String::new(), Duration::ZERO, port);
        let mut asked = probe(server(false));
        assert_eq!(asked.ask("b.test", &here, "a@b.test", "x@b.test"), Said::Yes);
        assert_eq!(asked.ask("b.test", &here, "z@b.test", "x@b.test"), Said::No("550-5.1.1 no such 5.1.1 user".into()));
        assert_eq!(asked.ask("b.test", &here, "grey@b.test", "x@b.test"), Said::Later("450 later".into()));
        let mut asked = probe(server(true));
        assert_eq!(asked.ask("b.test", &here, "a@b.test", "x@b.test"), Said::All);
        assert_eq!(asked.ask("b.test", &here, "z@b.test", "x@b.test"), Said::All);
        assert!(matches!(asked.ask("c.test", &[], "z@c.test", "x@c.test"), Said::Later(_)));
    }
}

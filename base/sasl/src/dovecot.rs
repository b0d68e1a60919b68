//! Dovecot's authentication protocol, version 1 (`auth-protocol.txt` of Dovecot), the client's side, without I/O.
//!
//! One connection serves any number of clients at once: each request has a number, and answers name it. [`Line`] is fed
//! what the server sends and gives [`Said`]; [`hello`], [`request`], [`next`] and [`cancel`] are what is sent.

use std::net::SocketAddr;

use crate::mechanisms::Mechanism;

/// Longest line that a server may send.
const MAX_LINE: usize = 32 * 1024;
/// Mechanisms that a server may have.
const MAX_MECHANISMS: usize = 100;

/// Something that the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The handshake is over; these are the mechanisms, in the server's order.
    Ready(Vec<Mechanism>),
    /// A challenge, in base64.
    Challenge {
        /// The request.
        id: u32,
        /// Base64.
        data: String,
    },
    /// Authenticated.
    Done {
        /// The request.
        id: u32,
        /// The login name, as the server has it.
        user: Option<String>,
    },
    /// Refused.
    Failed {
        /// The request.
        id: u32,
        /// The login name, if it came so far.
        user: Option<String>,
        /// Why, if the server says so.
        reason: Option<String>,
        /// Trouble of the server's own.
        temporary: bool,
    },
}

/// The server does not speak this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonsense(pub String);

/// What came from one server and is not used yet.
#[derive(Debug, Default)]
pub struct Line {
    buffer: Vec<u8>,
    version_seen: bool,
    ready: bool,
    mechanisms: Vec<Mechanism>,
}

impl Line {
    /// Takes what the server sent, in any pieces.
    ///
    /// # Errors
    /// It is no server of this protocol: the connection is to be closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Said>, Nonsense> {
        self.buffer.extend_from_slice(bytes);
        let mut said = Vec::new();
        let mut used = 0;
        while let Some(end) = self.buffer.get(used..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            // `used + end` is the place of a line end.
            let line = String::from_utf8_lossy(&self.buffer[used..used + end]).into_owned();
            used += end + 1;
            said.extend(self.line(&line)?);
        }
        self.buffer.drain(..used);
        if self.buffer.len() > MAX_LINE {
            return Err(Nonsense("it sent a line that is too long".to_owned()));
        }
        Ok(said)
    }

    fn line(&mut self, line: &str) -> Result<Option<Said>, Nonsense> {
        let mut words = line.split('\t');
        let command = words.next().unwrap_or_default();
        match command {
            "VERSION" => {
                if words.next() != Some("1") {
                    return Err(Nonsense(format!("it speaks another version of the protocol: {line}")));
                }
                self.version_seen = true;
            }
            "MECH" if self.mechanisms.len() < MAX_MECHANISMS && !self.ready => {
                let name = words.next().unwrap_or_default();
                let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if !name.is_empty() && name.len() <= 20 && name.chars().all(fine) {
                    self.mechanisms.push(Mechanism::new(name, words));
                }
            }
            "DONE" if !self.version_seen => return Err(Nonsense("it did not say its version".to_owned())),
            "DONE" => {
                self.ready = true;
                return Ok(Some(Said::Ready(std::mem::take(&mut self.mechanisms))));
            }
            "OK" | "CONT" | "FAIL" if self.ready => {
                let id = words.next().and_then(|id| id.parse().ok());
                let id = id.ok_or_else(|| Nonsense(format!("it answered without a number: {command}")))?;
                return Ok(Some(answer(command, id, words)));
            }
            // SPID, CUID, COOKIE, and what newer versions say.
            _ => {}
        }
        Ok(None)
    }
}

fn answer<'a>(command: &str, id: u32, mut words: impl Iterator<Item = &'a str>) -> Said {
    if command == "CONT" {
        return Said::Challenge { id, data: words.next().unwrap_or_default().to_owned() };
    }
    let (mut user, mut reason, mut temporary) = (None, None, false);
    for word in words {
        match word.split_once('=') {
            Some(("user", name)) => user = Some(unescaped(name)),
            Some(("reason", why)) if !why.is_empty() => reason = Some(unescaped(why)),
            Some(("code", "temp_fail")) => temporary = true,
            None if word == "temp" => temporary = true,
            _ => {}
        }
    }
    match command {
        "OK" => Said::Done { id, user },
        _ => Said::Failed { id, user, reason, temporary },
    }
}

/// Text with `\001` escapes: NUL, `\001`, tab, newline and carriage return cannot stand for themselves.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1}' => out.extend(chars.next().map(|c| match c {
                '0' => '\0',
                '1' => '\u{1}',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                other => other,
            })),
            c => out.push(c),
        }
    }
    out
}

/// What is sent first.
pub fn hello(process: u32) -> String {
    format!("VERSION\t1\t1\nCPID\t{process}\n")
}

/// Who wants to be authenticated, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `smtpd_sasl_service`
    pub service: String,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The client's end.
    pub remote: Option<SocketAddr>,
    /// The connection is encrypted.
    pub secured: bool,
}

/// Begins an exchange. `initial` is base64 and was checked to be.
pub fn request(id: u32, mechanism: &str, client: &Client, initial: Option<&str>) -> String {
    let mut line = format!("AUTH\t{id}\t{mechanism}\tservice={}\tnologin", client.service);
    if let Some(local) = client.local {
        line.push_str(&format!("\tlip={}\tlport={}", local.ip(), local.port()));
    }
    if let Some(remote) = client.remote {
        line.push_str(&format!("\trip={}\trport={}", remote.ip(), remote.port()));
    }
    if client.secured {
        line.push_str("\tsecured");
    }
    if let Some(initial) = initial {
        // It must be the last word.
        line.push_str(&format!("\tresp={initial}"));
    }
    line.push('\n');
    line
}

/// The answer to a challenge, in base64.
pub fn next(id: u32, response: &str) -> String {
    format!("CONT\t{id}\t{response}\n")
}

/// The client gave up.
pub fn cancel(id: u32) -> String {
    format!("CANCEL\t{id}\n")
}

/// For fuzzing: takes anything in two pieces.
pub fn read_any(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut line = Line::default();
    if line.receive(first).is_ok() {
        let _ = line.receive(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: &str = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tscram-sha-256\tmutual-auth\nMECH\tDOVECOT-TOKEN\t\
                             private\nMECH\tbad name\nSPID\t17\nCUID\t3\nCOOKIE\t00\nDONE\n";

    fn ready() -> Line {
        let mut line = Line::default();
        line.receive(HANDSHAKE.as_bytes()).unwrap();
        line
    }

    #[test]
    fn a_handshake_in_any_pieces() {
        for size in 1..HANDSHAKE.len() {
            let mut line = Line::default();
            let mut said = Vec::new();
            for piece in HANDSHAKE.as_bytes().chunks(size) {
                said.extend(line.receive(piece).unwrap());
            }
            let [Said::Ready(mechanisms)] = &said[..] else { panic!("{said:?}") };
            let names: Vec<&str> = mechanisms.iter().map(|m| m.name.as_str()).collect();
            assert_eq!(names, ["PLAIN", "SCRAM-SHA-256", "DOVECOT-TOKEN"]);
            assert!(mechanisms[0].properties.plaintext && mechanisms[2].properties.private);
        }
    }

    #[test]
    fn answers() {
        for (text, expected) in [
            ("OK\t1\tuser=alice\n", Said::Done { id: 1, user: Some("alice".into()) }),
            ("CONT\t2\tVXNlcm5hbWU6\n", Said::Challenge { id: 2, data: "VXNlcm5hbWU6".into() }),
            ("CONT\t2\t\n", Said::Challenge { id: 2, data: String::new() }),
            ("CONT\t2\n", Said::Challenge { id: 2, data: String::new() }),
            (
                "FAIL\t3\tuser=bob\treason=no\u{1}tway\ttemp\n",
                Said::Failed { id: 3, user: Some("bob".into()), reason: Some("no\tway".into()), temporary: true },
            ),
            ("FAIL\t4\tcode=temp_fail\n", Said::Failed { id: 4, user: None, reason: None, temporary: true }),
            ("FAIL\t5\n", Said::Failed { id: 5, user: None, reason: None, temporary: false }),
        ] {
            assert_eq!(ready().receive(text.as_bytes()).unwrap(), [expected], "{text:?}");
        }
    }

    #[test]
    fn nonsense() {
        for text in ["VERSION\t2\t0\n", "VERSION\n", "DONE\n"] {
            assert!(Line::default().receive(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in ["OK\n", "OK\tx\n", "FAIL\t-1\n", "CONT\t99999999999\n"] {
            assert!(ready().receive(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Line::default().receive(&[b'x'; MAX_LINE + 1]).is_err());
        // Before the handshake is over nothing else is heard.
        assert_eq!(Line::default().receive(b"OK\t1\tuser=root\n"), Ok(Vec::new()));
        let many = "MECH\tX\n".repeat(MAX_MECHANISMS * 3) + "VERSION\t1\t1\nDONE\n";
        let said = Line::default().receive(many.as_bytes()).unwrap();
        assert!(matches!(&said[..], [Said::Ready(all)] if all.len() == MAX_MECHANISMS));
    }

    #[test]
    fn what_is_sent() {
        let client = Client {
            service: "smtp".into(),
            local: Some("192.0.2.1:587".parse().unwrap()),
            remote: Some("[2001:db8::1]:4711".parse().unwrap()),
            secured: true,
        };
        assert_eq!(
            request(7, "PLAIN", &client, Some("AGEAYg==")),
            "AUTH\t7\tPLAIN\tservice=smtp\tnologin\tlip=192.0.2.1\tlport=587\trip=2001:db8::1\trport=4711\tsecured\t\
             resp=AGEAYg==\n"
        );
        let bare = Client { service: "smtp".into(), ..Client::default() };
        assert_eq!(request(8, "LOGIN", &bare, None), "AUTH\t8\tLOGIN\tservice=smtp\tnologin\n");
        assert_eq!(request(8, "LOGIN", &bare, Some("")), "AUTH\t8\tLOGIN\tservice=smtp\tnologin\tresp=\n");
        assert_eq!((next(8, "eA=="), cancel(8)), ("CONT\t8\teA==\n".to_owned(), "CANCEL\t8\n".to_owned()));
        assert_eq!(hello(5), "VERSION\t1\t1\nCPID\t5\n");
    }
}

//! A server asked whether it would take an address, with manners: one connection at a time, a pause after each question, also
//! where many domains have one server, nothing sent, the connection ended with QUIT; a server that asks to be left alone is
//! left alone.
//!
//! What a server says of us, of our sender or of our network says nothing of the address: only an answer about the recipient
//! counts ([`Said::No`]), and the bounce analyzer tells the two apart.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use yamabiko_analyze::{Reason, Reply, Stage};

/// A line of a reply is not longer.
const MAX_LINE: usize = 4096;
/// Lines of a reply, at most.
const LINES: usize = 100;
/// Hosts of a domain that are tried where one cannot be reached.
const HOSTS: usize = 3;

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It would take the address.
    Yes,
    /// It takes every address of this domain: a yes says nothing.
    All,
    /// There is no such address.
    No(String),
    /// There is one, or may be, and it would be refused: full, out of use, filtered, or in words that nobody knows.
    Unwilling(String),
    /// It refuses us and says nothing of the address, does not want to say now, or could not be asked.
    Later(String),
}

/// Asks servers.
pub struct Probe {
    /// The name to say hello with.
    pub name: String,
    /// `MAIL FROM`.
    pub sender: String,
    /// Between two questions to one domain, and to one server.
    pub pause: Duration,
    /// For a connection, and for each reply however slowly it comes.
    pub patience: Duration,
    /// For a whole dialogue.
    pub limit: Duration,
    /// Port of the servers.
    pub port: u16,
    domains: HashMap<String, Domain>,
    /// When servers were asked last.
    servers: HashMap<IpAddr, Instant>,
}

/// What is known of a domain by now.
#[derive(Default)]
struct Domain {
    asked: Option<Instant>,
    takes_all: Option<bool>,
    /// It does not want to be asked.
    gave_up: Option<String>,
}

/// What came of a dialogue.
struct Heard {
    said: Said,
    /// The domain takes anything, or does not, where that was found out.
    takes_all: Option<bool>,
    /// It does not want to be asked more.
    enough: bool,
}

impl Probe {
    /// Asks as this host, for this sender.
    pub fn new(name: String, sender: String, pause: Duration, port: u16) -> Self {
        let (patience, limit) = (Duration::from_secs(30), Duration::from_secs(90));
        Self { name, sender, pause, patience, limit, port, domains: HashMap::new(), servers: HashMap::new() }
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
        let asked = hosts.iter().take(HOSTS).filter_map(|host| self.servers.get(host)).max().copied().max(known.asked);
        if let Some(asked) = asked {
            std::thread::sleep(self.pause.saturating_sub(asked.elapsed()));
        }
        let first = known.takes_all.is_none();
        let heard = self.dialogue(hosts, address, first.then_some(nobody));
        let known = self.domains.entry(domain.to_owned()).or_default();
        known.asked = Some(Instant::now());
        match heard {
            Ok(heard) => {
                if heard.takes_all.is_some() {
                    known.takes_all = heard.takes_all;
                }
                if let (true, Said::Later(why)) = (heard.enough, &heard.said) {
                    known.gave_up = Some(why.clone());
                }
                if heard.takes_all == Some(true) && heard.said == Said::Yes { Said::All } else { heard.said }
            }
            Err(error) => {
                known.gave_up = Some(error.to_string());
                Said::Later(error.to_string())
            }
        }
    }

    /// One connection, to the first host that can be reached.
    fn dialogue(&mut self, hosts: &[IpAddr], address: &str, nobody: Option<&str>) -> io::Result<Heard> {
        let mut failed = io::Error::other("no host to ask");
        for host in hosts.iter().take(HOSTS) {
            let until = Instant::now() + self.limit;
            let connected = TcpStream::connect_timeout(&SocketAddr::new(*host, self.port), self.patience);
            self.servers.insert(*host, Instant::now());
            match connected {
                Ok(stream) => {
                    let mut talk = Talk::new(stream, self.patience, until)?;
                    let heard = self.questions(&mut talk, *host, address, nobody);
                    // Whoever talks with a server says that it is over; nobody waits long for the answer.
                    talk.patience = talk.patience.min(Duration::from_secs(2));
                    let _ = talk.say(Some("QUIT"));
                    self.servers.insert(*host, Instant::now());
                    return heard;
                }
                Err(error) => failed = io::Error::new(error.kind(), format!("connect to {host}: {error}")),
            }
        }
        Err(failed)
    }

    fn questions(&self, talk: &mut Talk, host: IpAddr, address: &str, nobody: Option<&str>) -> io::Result<Heard> {
        talk.expect(None, "2")?;
        self.hello(talk)?;
        // RFC 6531 section 3.5.
        let utf8 = if address.is_ascii() { "" } else { " SMTPUTF8" };
        let from = format!("MAIL FROM:<{}>{utf8}", yamabiko_address::quote(&self.sender));
        let mut reply = talk.say(Some(&from))?;
        // 530: it wants TLS before anything (RFC 3207).
        if reply.code == "530" && talk.offers("STARTTLS") && !talk.is_secure() {
            talk.expect(Some("STARTTLS"), "2")?;
            talk.secure(host)?;
            self.hello(talk)?;
            reply = talk.say(Some(&from))?;
        }
        if !utf8.is_empty() && !talk.offers("SMTPUTF8") {
            let said = Said::Unwilling("it has letters that its server does not know (no SMTPUTF8)".to_owned());
            return Ok(Heard { said, takes_all: None, enough: false });
        }
        if !reply.code.starts_with('2') {
            return Err(io::Error::other(reply.text));
        }
        let recipient = |address: &str| format!("RCPT TO:<{}>", yamabiko_address::quote(address));
        let reply = talk.say(Some(&recipient(address)))?;
        let said = judged(&reply, address);
        // 421: it is closing, and does not want to be called again at once. What refuses us refuses all that we ask.
        let enough = reply.code == "421" || (reply.code.starts_with('5') && matches!(said, Said::Later(_)));
        // Only a yes needs to be doubted. A server that does not want to say now of somebody it cannot know has not said.
        let takes_all = match (nobody, &said) {
            (Some(nobody), Said::Yes) => match talk.say(Some(&recipient(nobody))) {
                Ok(reply) if reply.code.starts_with('2') => Some(true),
                Ok(reply) if reply.code.starts_with('5') => Some(false),
                _ => None,
            },
            _ => None,
        };
        Ok(Heard { said, takes_all, enough })
    }

    fn hello(&self, talk: &mut Talk) -> io::Result<()> {
        let reply = talk.say(Some(&format!("EHLO {}", self.name)))?;
        match reply.code.starts_with('5') && reply.code != "521" && reply.code != "554" {
            true => talk.expect(Some(&format!("HELO {}", self.name)), "2"),
            false => reply.expect("2"),
        }
    }
}

/// What the answer to RCPT says of the address.
fn judged(reply: &Answer, address: &str) -> Said {
    let text = reply.text.clone();
    match reply.code.as_bytes().first() {
        Some(b'2') => return Said::Yes,
        Some(b'5') => {}
        _ => return Said::Later(text),
    }
    let question = Reply { text: &text, stage: Some(Stage::Rcpt), recipient: address, ..Reply::default() };
    match yamabiko_ledger::analyzer().classify(&question).reason {
        reason if reason.is_hard(5) => Said::No(text),
        Reason::MailboxFull | Reason::Suspend | Reason::Filtered | Reason::ExceedLimit => Said::Unwilling(text),
        // Refused for good, at RCPT, in words that nobody knows: most likely the address, and it is not sure.
        Reason::Undefined | Reason::OnHold | Reason::NoRelaying => Said::Unwilling(text),
        _ => Said::Later(text),
    }
}

/// A whole reply.
struct Answer {
    code: String,
    /// With the code, lines joined by blanks.
    text: String,
}

impl Answer {
    fn expect(self, class: &str) -> io::Result<()> {
        if self.code.starts_with(class) { Ok(()) } else { Err(io::Error::other(self.text)) }
    }
}

/// What is talked over.
trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

struct Talk {
    line: Option<BufReader<Box<dyn Line>>>,
    socket: TcpStream,
    patience: Duration,
    until: Instant,
    /// Keywords of the last EHLO.
    offers: Vec<String>,
    is_secure: bool,
}

impl Talk {
    fn new(socket: TcpStream, patience: Duration, until: Instant) -> io::Result<Self> {
        let line: Box<dyn Line> = Box::new(socket.try_clone()?);
        let line = Some(BufReader::with_capacity(MAX_LINE, line));
        Ok(Self { line, socket, patience, until, offers: Vec::new(), is_secure: false })
    }

    fn offers(&self, keyword: &str) -> bool {
        self.offers.iter().any(|known| known == keyword)
    }

    const fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// What follows is encrypted. Nobody's name is proved: nothing is told that would need it.
    fn secure(&mut self, host: IpAddr) -> io::Result<()> {
        let secure = yamabiko_tls::unproved(self.socket.try_clone()?, &host.to_string())?;
        self.line = Some(BufReader::with_capacity(MAX_LINE, Box::new(secure)));
        self.is_secure = true;
        Ok(())
    }

    fn expect(&mut self, command: Option<&str>, class: &str) -> io::Result<()> {
        self.say(command)?.expect(class)
    }

    /// Says something and hears the whole reply.
    fn say(&mut self, command: Option<&str>) -> io::Result<Answer> {
        let until = self.until.min(Instant::now() + self.patience);
        let Some(line) = &mut self.line else { return Err(io::Error::other("the connection is closed")) };
        if let Some(command) = command {
            line.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
            line.get_mut().flush()?;
        }
        let (mut text, mut offers) = (String::new(), Vec::new());
        for _ in 0..LINES {
            let bytes = read_line(line, &self.socket, until)?;
            let shown = String::from_utf8_lossy(&bytes);
            let shown = shown.trim_end();
            let words = shown.get(4..).unwrap_or_default();
            offers.push(words.split_whitespace().next().unwrap_or_default().to_ascii_uppercase());
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(if text.is_empty() { shown } else { words });
            let code = shown.get(..3).unwrap_or_default();
            if code.is_empty() || !code.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(io::Error::other(format!("this is no mail server: {text}")));
            }
            if bytes.get(3) == Some(&b'-') {
                continue;
            }
            if command.is_some_and(|command| command.starts_with("EHLO")) {
                self.offers = offers;
            }
            return Ok(Answer { code: code.to_owned(), text });
        }
        Err(io::Error::other("a reply without end"))
    }
}

/// A line, or what there is of one that is longer than lines are. Whoever sends a byte now and then is not listened to for
/// longer than whoever sends none.
fn read_line(line: &mut BufReader<Box<dyn Line>>, socket: &TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let slow = || io::Error::new(io::ErrorKind::TimedOut, "its server takes too long to answer");
    let mut bytes = Vec::new();
    while bytes.len() < MAX_LINE {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(slow());
        }
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
        let there = match line.fill_buf() {
            Ok([]) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its server hung up")),
            Ok(there) => there,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(slow());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = there.iter().position(|byte| *byte == b'\n').map_or(there.len(), |at| at + 1);
        let part = there.get(..end).unwrap_or_default();
        bytes.extend_from_slice(part);
        let is_whole = part.ends_with(b"\n");
        line.consume(end);
        if is_whole {
            break;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What a server answers: beginning of the command (empty: the greeting) and reply. The first that fits; `250 ok` without.
    type Script = &'static [(&'static str, &'static str)];

    /// A server of this script: its port, and how often it was called and was told goodbye.
    fn server(script: Script) -> (u16, Arc<[AtomicUsize; 2]>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = Arc::clone(&counts);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted[0].fetch_add(1, Ordering::SeqCst);
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let reply = |line: &str| {
                    let fits = script.iter().find(|(begin, _)| match line.is_empty() {
                        true => begin.is_empty(),
                        false => !begin.is_empty() && line.starts_with(begin),
                    });
                    assert!(!line.starts_with("DATA"), "nothing is sent");
                    fits.map_or(if line.is_empty() { "220 hello" } else { "250 ok" }, |(_, reply)| *reply)
                };
                let mut line = String::new();
                loop {
                    let answer = reply(&line);
                    if answer == "silence" {
                        std::thread::sleep(Duration::from_secs(3600));
                    }
                    if answer == "drip" {
                        while stream.write_all(b"2").is_ok() {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        break;
                    }
                    if stream.write_all(format!("{answer}\r\n").as_bytes()).is_err() || answer.starts_with("421") {
                        break;
                    }
                    line.clear();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line.starts_with("QUIT") {
                        counted[1].fetch_add(usize::from(!line.is_empty()), Ordering::SeqCst);
                        break;
                    }
                }
            }
        });
        (port, counts)
    }

    fn probe(port: u16) -> Probe {
        let mut probe = Probe::new("me.test".into(), String::new(), Duration::ZERO, port);
        probe.patience = Duration::from_millis(400);
        probe.limit = Duration::from_secs(4);
        probe
    }

    const HERE: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];
    const NOBODY: (&str, &str) = ("RCPT TO:<x@", "550-5.1.1 no such\r\n550 5.1.1 user");

    #[test]
    fn what_servers_say() {
        // Each is asked for a@b.test twice: what is said first, what then, and how often it was called.
        let later = |text: &str| Said::Later(text.into());
        let table: [(&str, Script, Said, Said, usize); 14] = [
            ("exists", &[NOBODY], Said::Yes, Said::Yes, 2),
            ("takes all", &[], Said::All, Said::All, 1),
            (
                "is not there",
                &[("RCPT", "550 5.1.1 <a@b.test>: Recipient address rejected: User unknown")],
                Said::No("550 5.1.1 <a@b.test>: Recipient address rejected: User unknown".into()),
                Said::No("550 5.1.1 <a@b.test>: Recipient address rejected: User unknown".into()),
                2,
            ),
            ("greylisting", &[("RCPT", "450 4.7.1 later")], later("450 4.7.1 later"), later("450 4.7.1 later"), 2),
            ("greylists nobody", &[("RCPT TO:<x@", "450 4.7.1 later")], Said::Yes, Said::Yes, 2),
            ("leave me alone", &[("", "421 4.7.0 busy")], later("421 4.7.0 busy"), later("421 4.7.0 busy"), 1),
            ("later", &[("RCPT", "421 4.7.0 busy")], later("421 4.7.0 busy"), later("421 4.7.0 busy"), 1),
            (
                "blocks us",
                &[("RCPT", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org")],
                later("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
                later("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
                1,
            ),
            ("not the sender", &[("MAIL", "550 5.7.1 no")], later("550 5.7.1 no"), later("550 5.7.1 no"), 1),
            (
                "is full",
                &[("RCPT", "552 5.2.2 Mailbox full")],
                Said::Unwilling("552 5.2.2 Mailbox full".into()),
                Said::Unwilling("552 5.2.2 Mailbox full".into()),
                2,
            ),
            ("old", &[("EHLO", "502 what"), NOBODY], Said::Yes, Said::Yes, 2),
            (
                "hears nothing",
                &[("MAIL", "silence")],
                later("its server takes too long to answer"),
                later("its server takes too long to answer"),
                1,
            ),
            (
                "tarpit",
                &[("RCPT", "drip")],
                later("its server takes too long to answer"),
                later("its server takes too long to answer"),
                1,
            ),
            (
                "no mail server",
                &[("", "SSH-2.0-x")],
                later("this is no mail server: SSH-2.0-x"),
                later("this is no mail server: SSH-2.0-x"),
                1,
            ),
        ];
        for (name, script, first, second, calls) in table {
            let (port, counts) = server(script);
            let mut probe = probe(port);
            let said = [(); 2].map(|()| probe.ask("b.test", &HERE, "a@b.test", "x@b.test"));
            assert_eq!(said, [first, second], "{name}");
            assert_eq!(counts[0].load(Ordering::SeqCst), calls, "{name}");
        }
    }

    #[test]
    fn hosts_that_cannot_be_reached() {
        let (port, counts) = server(&[NOBODY]);
        let two: [IpAddr; 2] = ["127.255.0.1".parse().unwrap(), HERE[0]];
        // Nobody listens at the first.
        assert_eq!(probe(port).ask("b.test", &two, "a@b.test", "x@b.test"), Said::Yes);
        assert_eq!(counts[0].load(Ordering::SeqCst), 1);
        assert!(
            matches!(probe(port).ask("b.test", &two[..1], "a@b.test", "x@b.test"), Said::Later(why) if why.contains("refused"))
        );
        assert!(matches!(probe(port).ask("c.test", &[], "z@c.test", "x@c.test"), Said::Later(_)));
    }

    #[test]
    fn domains_of_one_server_wait_for_each_other() {
        let (port, counts) = server(&[NOBODY]);
        let mut probe = Probe { pause: Duration::from_millis(300), ..probe(port) };
        let begun = Instant::now();
        for domain in ["a.test", "b.test", "c.test"] {
            probe.ask(domain, &HERE, &format!("a@{domain}"), &format!("x@{domain}"));
        }
        assert!(begun.elapsed() >= Duration::from_millis(600));
        // The goodbye is read after its answer is given up.
        let patience = Instant::now() + Duration::from_secs(60);
        while counts[1].load(Ordering::SeqCst) < 3 {
            assert!(Instant::now() < patience, "{} of 3 servers were told goodbye", counts[1].load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

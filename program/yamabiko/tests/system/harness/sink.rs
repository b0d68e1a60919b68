//! The next hop: an SMTP server whose replies are written by the test, [`Sink`].

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A reply to what would otherwise be accepted.
#[derive(Clone, Debug)]
pub struct Rule {
    /// CONNECT EHLO MAIL RCPT DATA EOD, or another verb.
    pub on: String,
    /// What the line must contain; for EOD, what the message must contain.
    pub contains: String,
    /// The whole reply; empty for hanging up.
    pub reply: String,
}

/// A mail that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The arguments of MAIL FROM: and RCPT TO:.
    pub sender: String,
    pub recipients: Vec<String>,
    /// With LF line ends, dots undone.
    pub content: String,
}

impl Transaction {
    /// Envelope and message as lines.
    pub fn text(&self) -> String {
        let to: String = self.recipients.iter().map(|to| format!("RCPT {to}\n")).collect();
        format!("MAIL {}\n{to}{}", self.sender, self.content)
    }
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    /// Waits for so long before it answers the dot.
    slow: Mutex<Duration>,
    taken: Mutex<Vec<Transaction>>,
    sessions: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

/// Listens until it is dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    /// Accepts everything.
    pub fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is ours alone");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if theirs.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&theirs);
                lock(&theirs.sessions).extend(stream.try_clone());
                std::thread::spawn(move || {
                    let end = stream.try_clone();
                    // A client that went away in the middle is a test's wish.
                    let _ = serve(stream, &shared);
                    let _ = end.map(|stream| stream.shutdown(Shutdown::Both));
                });
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Answers so from now on.
    pub fn rule(&self, on: &str, contains: &str, reply: &str) {
        let rule = Rule { on: on.to_owned(), contains: contains.to_owned(), reply: reply.to_owned() };
        lock(&self.shared.rules).push(rule);
    }

    /// Accepts everything again.
    pub fn accept_all(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Takes that long to answer the end of a message.
    pub fn slow(&self, pause: Duration) {
        *lock(&self.shared.slow) = pause;
    }

    /// What was accepted so far.
    pub fn taken(&self) -> Vec<Transaction> {
        lock(&self.shared.taken).clone()
    }

    /// How many mails were accepted so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.taken).len()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // One more connection wakes the thread, which then sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in lock(&self.shared.sessions).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Session<'a> {
    stream: BufReader<TcpStream>,
    shared: &'a Shared,
}

impl Session<'_> {
    fn line(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        if self.stream.read_until(b'\n', &mut bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&bytes);
        Ok(line.strip_suffix('\n').map_or(&*line, |line| line.strip_suffix('\r').unwrap_or(line)).to_owned())
    }

    /// Answers by the rules; true when the answer was a good one.
    fn answer(&mut self, on: &str, text: &str, usual: &str) -> io::Result<bool> {
        let rules = lock(&self.shared.rules).clone();
        let rule = rules.into_iter().find(|rule| rule.on == on && text.contains(&rule.contains));
        let reply = rule.map_or_else(|| usual.to_owned(), |rule| rule.reply);
        if reply.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.stream.get_mut().write_all(format!("{reply}\r\n").as_bytes())?;
        Ok(reply.starts_with(['2', '3']))
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut session = Session { stream: BufReader::new(stream), shared };
    let nothing = Transaction { sender: String::new(), recipients: Vec::new(), content: String::new() };
    let mut open = nothing.clone();
    if !session.answer("CONNECT", "", "220 sink.example ESMTP")? {
        return Ok(());
    }
    loop {
        let line = session.line()?;
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let argument = line.split_once(':').map_or("", |(_, argument)| argument).to_owned();
        match verb.as_str() {
            "EHLO" => {
                session.answer("EHLO", &line, "250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN")?;
            }
            "MAIL" => {
                if session.answer("MAIL", &line, "250 2.1.0 Ok")? {
                    open = Transaction { sender: argument, ..nothing.clone() };
                }
            }
            "RCPT" => {
                if session.answer("RCPT", &line, "250 2.1.5 Ok")? {
                    open.recipients.push(argument);
                }
            }
            "DATA" if open.recipients.is_empty() => {
                session.answer("DATA", &line, "554 5.5.1 no valid recipients")?;
            }
            "DATA" => {
                if !session.answer("DATA", &line, "354 go on")? {
                    continue;
                }
                loop {
                    let line = session.line()?;
                    if line == "." {
                        break;
                    }
                    open.content.push_str(line.strip_prefix('.').unwrap_or(&line));
                    open.content.push('\n');
                }
                let pause = *lock(&shared.slow);
                std::thread::sleep(pause);
                let whole = std::mem::replace(&mut open, nothing.clone());
                let text = whole.content.clone();
                // Taken before it is said: a server may not forget what it has acknowledged.
                let refused = lock(&shared.rules).iter().any(|rule| rule.on == "EOD" && text.contains(&rule.contains));
                if !refused {
                    lock(&shared.taken).push(whole);
                }
                session.answer("EOD", &text, "250 2.0.0 Ok: taken")?;
            }
            "QUIT" => {
                session.answer("QUIT", &line, "221 2.0.0 Bye")?;
                return Ok(());
            }
            _ => {
                session.answer(&verb, &line, "250 2.0.0 Ok")?;
            }
        }
    }
}

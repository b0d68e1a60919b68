//! Mail through a server that is busy with something else: how long each takes from its beginning to its arrival.
//!
//! A session hands in a mail every 20 ms, or as soon as the one before is answered; a next hop of our own takes them and looks
//! at the time that each says it began.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two mails.
const EVERY: Duration = Duration::from_millis(20);
/// So long the last ones may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// Mails of one session that may be in the queue at one moment, and how long to wait for them.
const FEW: usize = 3;
const ON_THEIR_WAY: Duration = Duration::from_secs(3);

/// The domain that goes to the next hop.
pub const DOMAIN: &str = "beat.example";

/// The next hop.
pub struct NextHop {
    port: u16,
    epoch: Instant,
    arrived: Arc<Mutex<Vec<Duration>>>,
}

impl NextHop {
    /// Listens. Its threads end with the program.
    pub fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let hop = Self { port: listener.local_addr()?.port(), epoch: Instant::now(), arrived: Arc::default() };
        let (epoch, arrived) = (hop.epoch, Arc::clone(&hop.arrived));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let arrived = Arc::clone(&arrived);
                std::thread::spawn(move || {
                    // A mail that is lost with its connection comes again, or is missed at the end.
                    let _ = take(&stream, epoch, &arrived);
                });
            }
        });
        Ok(hop)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn arrived(&self) -> usize {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The server's half of SMTP, for clients that make no mistakes.
fn take(stream: &TcpStream, epoch: Instant, arrived: &Mutex<Vec<Duration>>) -> io::Result<()> {
    let (mut out, mut lines) = (stream, BufReader::new(stream));
    out.write_all(b"220 beat\r\n")?;
    let (mut line, mut begun) = (String::new(), None);
    let mut data = false;
    while {
        line.clear();
        lines.read_line(&mut line)? > 0
    } {
        if data {
            if let Some(text) = line.strip_prefix("X-Begun: ") {
                begun = text.trim_end().parse::<u64>().ok();
            }
            if line != ".\r\n" {
                continue;
            }
            if let Some(begun) = begun.take() {
                let took = epoch.elapsed().saturating_sub(Duration::from_micros(begun));
                arrived.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        data = verb == "DATA";
        out.write_all(match verb.as_str() {
            "EHLO" | "HELO" => b"250 beat\r\n",
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        })?;
        if verb == "QUIT" {
            break;
        }
    }
    Ok(())
}

/// Mail on its way, until it is asked to end.
pub struct Beat {
    ending: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
    before: usize,
}

/// How long they took.
pub struct Waits {
    /// How many there were.
    pub mails: usize,
    /// The median.
    pub median: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Beat {
    /// Begins; the server listens at `port`.
    pub fn begin(hop: &NextHop, port: u16) -> Self {
        let before = hop.arrived();
        let (ending, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count, epoch) = (Arc::clone(&ending), Arc::clone(&sent), hop.epoch);
        let thread = std::thread::spawn(move || send(port, epoch, &told, &count));
        Self { ending, sent, thread, before }
    }

    /// Ends when every mail has arrived; but for a few, which were on their way when all there was was deleted, unless they
    /// are `spared`.
    pub fn end(self, hop: &NextHop, spared: bool) -> Result<Waits, String> {
        self.ending.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("a mail meanwhile was not taken: {error}")),
            Err(_) => return Err("the thread that sends mail failed".to_owned()),
        }
        let sent = usize::try_from(self.sent.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let begin = Instant::now();
        while hop.arrived() < self.before + sent {
            let arrived = hop.arrived() - self.before;
            if !spared && begin.elapsed() > ON_THEIR_WAY && sent - arrived <= FEW {
                break;
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("of {sent} mails meanwhile {arrived} arrived"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let arrived = hop.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let mut took = arrived.get(self.before..).unwrap_or_default().to_vec();
        took.sort_unstable();
        if took.len() > sent {
            return Err(format!("of {sent} mails meanwhile {} arrived: some twice", took.len()));
        }
        let at = |n: usize| took.get(n).copied().unwrap_or_default();
        Ok(Waits { mails: sent, median: at(took.len() / 2), longest: at(took.len().saturating_sub(1)) })
    }
}

fn send(port: u16, epoch: Instant, ending: &AtomicBool, sent: &AtomicU64) -> io::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut out, mut lines) = (&stream, BufReader::new(&stream));
    let mut line = String::new();
    let mut turn = |command: &str| -> io::Result<()> {
        out.write_all(command.as_bytes())?;
        loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match (line.as_bytes().first(), line.as_bytes().get(3)) {
                (_, Some(b'-')) => {}
                (Some(b'2' | b'3'), _) => return Ok(()),
                _ => return Err(io::Error::other(line.trim_end().to_owned())),
            }
        }
    };
    turn("")?;
    turn("EHLO client.beat.example\r\n")?;
    while !ending.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let begun = begin.duration_since(epoch).as_micros();
        turn("MAIL FROM:<me@client.beat.example>\r\n")?;
        turn(&format!("RCPT TO:<you@{DOMAIN}>\r\n"))?;
        turn("DATA\r\n")?;
        turn(&format!("X-Begun: {begun}\r\nSubject: beat\r\n\r\nhello\r\n.\r\n"))?;
        sent.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(EVERY.saturating_sub(begin.elapsed()));
    }
    turn("QUIT\r\n")
}

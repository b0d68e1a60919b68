//! The next hop under load: what it does with a recipient is written in the address, and it keeps of a mail only
//! whether it was whole.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::arrivals::Arrival;
use super::message::read;

/// So often a recipient `later-...` is put off.
const PUT_OFF: usize = 2;

#[derive(Default)]
struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    put_off: Mutex<HashMap<String, usize>>,
    sessions: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

/// Listens until it is dropped.
pub struct Hop {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hop {
    pub fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is ours alone");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if theirs.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || {
                    let Ok(end) = stream.try_clone() else { return };
                    // A client that was killed in the middle is what this is about.
                    let _ = serve(stream, &shared);
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared }
    }

    /// What was taken since this was last asked.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.shared.put_off).clear();
        std::mem::take(&mut lock(&self.shared.arrivals))
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        for stream in lock(&self.shared.sessions).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if stream.read_until(b'\n', &mut bytes)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())
}

/// `<later-w@far.example> NOTIFY=...`
fn local_part(argument: &str) -> &str {
    argument.trim_start_matches('<').split('@').next().unwrap_or_default()
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut recipients: Vec<String> = Vec::new();
    let say =
        |stream: &mut BufReader<TcpStream>, text: &str| stream.get_mut().write_all(format!("{text}\r\n").as_bytes());
    say(&mut stream, "220 hop.example ESMTP")?;
    loop {
        let command = line(&mut stream)?;
        let verb = command.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let argument = command.split_once(':').map_or("", |(_, argument)| argument);
        match verb.as_str() {
            "EHLO" => say(&mut stream, "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN")?,
            "MAIL" => {
                recipients.clear();
                say(&mut stream, "250 2.1.0 Ok")?;
            }
            "RCPT" => {
                let name = local_part(argument);
                let reply = match name.split('-').next().unwrap_or_default() {
                    "gone" => "550 5.1.1 no such user here",
                    "never" => "451 4.2.0 not today",
                    "later" => {
                        let mut known = lock(&shared.put_off);
                        let times = known.entry(name.to_owned()).or_default();
                        *times += 1;
                        if *times <= PUT_OFF { "451 4.2.0 come back later" } else { "250 2.1.5 Ok" }
                    }
                    _ => "250 2.1.5 Ok",
                };
                if reply.starts_with('2') {
                    recipients.push(name.to_owned());
                }
                say(&mut stream, reply)?;
            }
            "DATA" if recipients.is_empty() => say(&mut stream, "554 5.5.1 no valid recipients")?,
            "DATA" => {
                say(&mut stream, "354 go on")?;
                let mut mail = String::new();
                loop {
                    let line = line(&mut stream)?;
                    if line == "." {
                        break;
                    }
                    mail.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.push('\n');
                }
                // Taken before it is said: a server may not forget what it has acknowledged.
                take(shared, &mail, &recipients);
                recipients.clear();
                say(&mut stream, "250 2.0.0 Ok: taken")?;
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 Bye"),
            _ => say(&mut stream, "250 2.0.0 Ok")?,
        }
    }
}

fn take(shared: &Shared, mail: &str, recipients: &[String]) {
    let found = read(mail, false);
    let at = SystemTime::now();
    let place = |name: &str| match (found.notice, name.split('-').next().unwrap_or_default()) {
        (true, "sender") => "notice",
        (false, "far") => "far",
        (false, "later") => "later",
        (false, "twice") => "twice",
        _ => "astray",
    };
    let arrival = |name: &String| Arrival { word: found.word.clone(), place: place(name), at, whole: found.whole };
    lock(&shared.arrivals).extend(recipients.iter().map(arrival));
}

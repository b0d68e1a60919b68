//! `yamabiko stream`: what happens, as lines of JSON, to a file, a program or a web hook.
//!
//! It follows the ledger's files from outside the engine, so that a receiver that hangs holds nobody up. What was delivered
//! is remembered (`--state`); after a break it goes on there. A batch is delivered at least once: a receiver may see it
//! twice, and tells by `batch`. Lines are those of `yamabiko fate --json`'s events; `docs/fate.md` lists their members.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use aws_lc_rs::hmac;
use clap::Parser;
use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Ledger, What, day_of, json};

use crate::context::exit;
use crate::fate::place;

/// What happens, as lines of JSON, to a file, a program or a web hook.
#[derive(Debug, Parser)]
#[command(name = "yamabiko stream", bin_name = "yamabiko stream")]
struct Options {
    /// Where to: `file:PATH`, `command:PROGRAM ARGS` (gets the lines on its standard input, once for each batch), or
    /// `https://HOST[:PORT]/PATH` or `http://...` (a POST for each batch).
    to: String,
    /// The configuration directory of the mail system.
    #[arg(short = 'c', long = "config", value_name = "DIR")]
    config: Option<String>,
    /// The ledger's directory, instead of that of the configuration.
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    /// Where it is remembered what was delivered [default: beside the ledger].
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Only these events, separated by commas: bounced, report, complaint, ...
    #[arg(long, value_delimiter = ',', value_parser = event)]
    event: Vec<What>,
    /// At most so many lines in a batch.
    #[arg(long, default_value_t = 500)]
    batch: usize,
    /// A file with a secret: batches are signed, `X-Yamabiko-Signature: sha256=...` (HMAC over the body).
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// PEM file with the authorities that may certify a web server [default: the system's].
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// From the beginning of today's ledger instead of from now, where nothing is remembered.
    #[arg(long)]
    from_today: bool,
    /// Deliver what is there and end.
    #[arg(long)]
    once: bool,
}

fn event(word: &str) -> Result<What, String> {
    What::ALL.into_iter().find(|what| what.word() == word).ok_or_else(|| {
        let known: Vec<&str> = What::ALL.iter().map(|what| what.word()).collect();
        format!("no such event; there are {}", known.join(", "))
    })
}

/// How often the ledger is looked at.
const PAUSE: Duration = Duration::from_millis(500);
/// Pauses after failures grow from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long a web server may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub fn run(args: &[String]) -> ExitCode {
    let words = std::iter::once("yamabiko stream".to_owned()).chain(args.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match follow(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("yamabiko stream: {text}");
            ExitCode::from(code)
        }
    }
}

/// Where lines go.
enum Receiver {
    File(PathBuf),
    Command(String),
    Web(Web),
}

/// A web server.
struct Web {
    host: String,
    port: u16,
    path: String,
    /// https: the authorities.
    authorities: Option<PathBuf>,
}

/// What a request is written to and its answer read from.
trait Talk: Read + Write {}
impl<T: Read + Write> Talk for T {}

impl Receiver {
    fn parse(text: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File(PathBuf::from(path)));
        }
        if let Some(command) = text.strip_prefix("command:") {
            return Ok(Self::Command(command.to_owned()));
        }
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("where to? file:PATH, command:PROGRAM, or https://HOST/PATH".to_owned()),
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| format!("{host}: no port"))?),
            None => (host, if secure { 443 } else { 80 }),
        };
        let authorities = match (secure, ca_file) {
            (false, _) => None,
            (true, Some(file)) => Some(file.to_owned()),
            (true, None) => {
                let found = yamabiko_tls::AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
                let missing = "https needs authorities: install ca-certificates, or name a PEM file with --ca-file";
                Some(found.ok_or(missing)?.to_owned())
            }
        };
        match name.is_empty() || text.contains(|c: char| c.is_control() || c == ' ') {
            true => Err(format!("{text}: no address of a web server")),
            false => Ok(Self::Web(Web { host: name.to_owned(), port, path: path.to_owned(), authorities })),
        }
    }

    fn deliver(&self, body: &str, batch: &str, secret: Option<&hmac::Key>) -> io::Result<()> {
        match self {
            Self::File(path) => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let mut file = File::options().create(true).append(true).open(path).map_err(named)?;
                file.write_all(body.as_bytes())?;
                file.sync_data()
            }
            Self::Command(command) => {
                let mut child = Command::new("/bin/sh")
                    .args(["-c", command])
                    .env("YAMABIKO_BATCH", batch)
                    .stdin(Stdio::piped())
                    .spawn()?;
                // A program that does not read everything says by its exit status whether that was enough.
                let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(body.as_bytes()));
                let status = child.wait()?;
                match status.success() {
                    true => Ok(()),
                    false => Err(written.err().unwrap_or_else(|| io::Error::other(format!("{command}: {status}")))),
                }
            }
            Self::Web(web) => post(web, body, batch, secret),
        }
    }
}

/// A POST; anything but 2xx is an error, and tried again.
fn post(web: &Web, body: &str, batch: &str, secret: Option<&hmac::Key>) -> io::Result<()> {
    let Web { host, port, path, authorities } = web;
    let name = host.trim_matches(['[', ']']);
    let address =
        (name, *port).to_socket_addrs()?.next().ok_or_else(|| io::Error::other(format!("{host}: no address")))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream: Box<dyn Talk> = match authorities {
        Some(file) => Box::new(yamabiko_tls::web(stream, name, file)?),
        None => Box::new(stream),
    };
    let signature =
        secret.map_or_else(String::new, |key| format!("X-Yamabiko-Signature: {}\r\n", signature(key, body)));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\
         X-Yamabiko-Schema: {}\r\nX-Yamabiko-Batch: {batch}\r\n{signature}Connection: close\r\n\r\n",
        body.len(),
        json::SCHEMA
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()?;
    let mut line = String::new();
    BufReader::new(stream.take(4096)).read_line(&mut line)?;
    match line.split(' ').nth(1) {
        Some(code) if code.len() == 3 && code.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("{host}: {}", line.trim()))),
    }
}

/// `sha256=` and the hexadecimal HMAC of a body.
fn signature(key: &hmac::Key, body: &str) -> String {
    let tag = hmac::sign(key, body.as_bytes());
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

type Mark = BTreeMap<PathBuf, i64>;

fn follow(options: &Options) -> Result<(), (u8, String)> {
    let receiver = Receiver::parse(&options.to, options.ca_file.as_deref()).map_err(|text| (exit::USAGE, text))?;
    let place = place(options.ledger.clone(), options.config.as_deref()).map_err(|text| (exit::USAGE, text))?;
    let secret = match &options.secret_file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| (66, format!("{}: {error}", path.display())))?;
            Some(hmac::Key::new(hmac::HMAC_SHA256, text.trim().as_bytes()))
        }
        None => None,
    };
    let state = options.state.clone().unwrap_or_else(|| place.directory.join("stream.state"));
    let mut ledger = Ledger::open(&place.directory);
    let wrong = |error: yamabiko_ledger::Error| (66, error.to_string());
    let today = || day_of(Timestamp::now().seconds()).saturating_sub(1);
    let mut mark: Mark = match fs::read(&state) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| (65, format!("{}: {error}", state.display())))?,
        Err(_) => {
            let mut mark = Mark::new();
            if !options.from_today && !options.once {
                ledger.after(&mut mark, today(), |_| {}).map_err(wrong)?;
            }
            mark
        }
    };
    loop {
        let mut next = mark.clone();
        let mut lines: Vec<String> = Vec::new();
        ledger
            .after(&mut next, today(), |entry| {
                if options.event.is_empty() || options.event.contains(&entry.what) {
                    lines.push(json::line(&entry));
                }
            })
            .map_err(wrong)?;
        for (number, lines) in lines.chunks(options.batch.max(1)).enumerate() {
            let body = lines.join("\n") + "\n";
            let batch = format!("{}-{number}", next.values().sum::<i64>());
            insist(&receiver, &body, &batch, secret.as_ref());
        }
        if next != mark {
            mark = next;
            // Old days are not looked at again.
            remember(&state, &mark).map_err(|error| (exit::OSERR, format!("{}: {error}", state.display())))?;
        }
        if options.once {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Delivers, however long it takes.
fn insist(receiver: &Receiver, body: &str, batch: &str, secret: Option<&hmac::Key>) {
    let mut pause = BACKOFF.0;
    while let Err(error) = receiver.deliver(body, batch, secret) {
        eprintln!("yamabiko stream: {error}; tried again in {} s", pause.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(BACKOFF.1);
    }
}

fn remember(state: &Path, mark: &Mark) -> io::Result<()> {
    let new = state.with_extension("new");
    let text = serde_json::to_vec(mark).map_err(io::Error::other)?;
    fs::write(&new, text)?;
    fs::rename(&new, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers() {
        for (text, good) in [
            ("file:/tmp/x", true),
            ("command:cat", true),
            ("http://localhost:8080/hook", true),
            ("http://localhost", true),
            ("http://", false),
            ("http://a:x/", false),
            ("http://a/ b", false),
            ("https://a/", true),
            ("https://a:x/", false),
            ("elsewhere", false),
        ] {
            assert_eq!(Receiver::parse(text, Some(Path::new("ca.pem"))).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn signatures() {
        // RFC 4231, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            signature(&key, "what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_batch_arrives_at_a_web_server() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let heard = std::thread::spawn(move || {
            let mut texts = Vec::new();
            for answer in ["HTTP/1.1 503 Busy\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"] {
                let (mut stream, _) = server.accept().unwrap();
                let mut text = Vec::new();
                let mut buffer = [0; 4096];
                while !text.ends_with(b"{}\n") {
                    let got = stream.read(&mut buffer).unwrap();
                    text.extend_from_slice(&buffer[..got]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                texts.push(String::from_utf8(text).unwrap());
            }
            texts
        });
        let receiver = Receiver::parse(&format!("http://127.0.0.1:{port}/hook"), None).unwrap();
        insist(&receiver, "{}\n", "7-0", Some(&hmac::Key::new(hmac::HMAC_SHA256, b"secret")));
        let texts = heard.join().unwrap();
        assert!(texts[1].starts_with("POST /hook HTTP/1.1\r\n"));
        assert!(texts[1].contains("X-Yamabiko-Batch: 7-0\r\n") && texts[1].contains("X-Yamabiko-Signature: sha256="));
    }

    #[test]
    fn a_batch_arrives_over_https_where_the_server_proves_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: openssl makes no certificate here");
            return;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-naccept", "1"])
            .args(["-key", &path("key.pem"), "-cert", &path("cert.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.stdin.as_mut().unwrap().write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let url = format!("https://localhost:{port}/hook");
        let receiver = Receiver::parse(&url, Some(Path::new(&path("cert.pem")))).unwrap();
        let mut sent = Err(io::Error::other("not tried"));
        for _ in 0..100 {
            sent = receiver.deliver("{}\n", "7-0", None);
            match &sent {
                // It does not listen yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                _ => break,
            }
        }
        // It writes what it hears when it comes to it: it is ended after that, and its output ends with it.
        let mut heard = String::new();
        if sent.is_ok() {
            BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut heard).unwrap();
        }
        let _ = server.kill();
        let _ = server.wait();
        sent.unwrap();
        assert_eq!(heard, "POST /hook HTTP/1.1\r\n");
        // Without an authority nothing is trusted.
        let none = dir.path().join("empty.pem");
        fs::write(&none, "").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(yamabiko_tls::web(stream, "localhost", &none).is_err());
    }
}

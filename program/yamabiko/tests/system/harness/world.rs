//! A small world around a mail system: a name server with records of the test's own ([`names`]), an authority that makes
//! certificates ([`Authority`]), a web server with one text ([`web`]).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yamabiko_tls::{Handed, Server, ServerOptions};

/// Records, one a line: `name A 127.0.0.1`, `name MX 10 host`, `name TXT text`, `name SRV 0 0 25 host`. May be changed at any time. Nothing may be
/// remembered: the time to live is 0.
pub type Records = Arc<Mutex<String>>;

/// The name and type of a question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    while *query.get(at)? > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    Some((labels.join("."), kind, at + 5))
}

fn text_data(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect()
}

fn name_data(name: &str) -> Vec<u8> {
    let labels = name
        .split('.')
        .filter(|label| !label.is_empty())
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn reply(query: &[u8], records: &str) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    let lines: Vec<(&str, &str)> = records
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter(|(known, _)| *known == name)
        .filter_map(|(_, rest)| rest.split_once(' '))
        .collect();
    let found = lines.iter().filter_map(|(word, data)| match (*word, kind) {
        ("A", 1) => Some(data.parse::<Ipv4Addr>().expect("an address").octets().to_vec()),
        ("TXT", 16) => Some(text_data(data)),
        ("MX", 15) => {
            let (preference, host) = data.split_once(' ').expect("preference and host");
            Some([&preference.parse::<u16>().expect("a number").to_be_bytes()[..], &name_data(host)].concat())
        }
        ("SRV", 33) => {
            let (numbers, host) = data.rsplit_once(' ').expect("three numbers and a host");
            let numbers = numbers.split(' ').flat_map(|n| n.parse::<u16>().expect("a number").to_be_bytes());
            Some(numbers.chain(name_data(host)).collect())
        }
        _ => None,
    });
    let found: Vec<Vec<u8>> = found.collect();
    let code = if lines.is_empty() { 3 } else { 0 };
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x85, 0x80 | code, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
    reply.extend_from_slice(query.get(12..end)?);
    for data in found {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

/// A name server for as long as the process lives.
pub fn names(records: &Records) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let records = Arc::clone(records);
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let records = records.lock().unwrap().clone();
            if let Some(reply) = reply(&buffer[..length], &records) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    address
}

/// Makes certificates that whoever trusts it believes.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of the test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Key and certificate for a name.
    pub fn certificate(&self, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        key.serialize_pem() + &own.pem()
    }
}

/// A web server that gives the same text to everybody, for as long as the process lives.
pub struct Web {
    pub address: SocketAddr,
    pub text: Arc<Mutex<String>>,
    /// How often it was asked.
    pub asked: Arc<AtomicUsize>,
}

/// `certificate`: key and certificate.
pub fn web(certificate: &str) -> Web {
    let mut files = Handed::default();
    files.0.insert("/web.pem".to_owned(), Ok(certificate.as_bytes().to_vec()));
    let options =
        ServerOptions { chain_files: vec!["/web.pem".to_owned()], digest: "sha256".into(), ..ServerOptions::default() };
    let tls = Server::new(options, &[], &files).unwrap_or_else(|fault| panic!("{fault:?}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (text, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
    let web = Web { address, text: Arc::clone(&text), asked: Arc::clone(&asked) };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok((mut stream, _)) = tls.accept(stream).await else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 2048]).await;
                let text = text.lock().unwrap().clone();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
                let _ = stream.flush().await;
                let _ = stream.shutdown().await;
            }
        });
    });
    web
}

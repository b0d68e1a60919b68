//! `tcp:host:port` and `socketmap:inet:host:port:map` / `socketmap:unix:path:map`: tables behind a socket.
//!
//! Blocking, with a time limit on each step; one connection is kept per table and made again when it breaks. A lookup may
//! wait for the lock of another one: who runs an event loop calls these from a thread that may block.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::file::words;
use crate::set::{OpenError, Options};
use crate::{Answer, LookupError, Table};

/// `tcp_table(5)`: no reply is longer.
const TCP_LIMIT: u64 = 4096;
/// socketmap_table(5) leaves the limit to us; Postfix takes 100000 bytes.
const SOCKETMAP_LIMIT: usize = 100_000;
/// How often a broken connection is made again for one lookup.
const ATTEMPTS: usize = 10;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection of either kind.
trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Where a server listens.
#[derive(Clone, Debug)]
enum Place {
    Inet(String),
    Unix(String),
}

type Connection = BufReader<Box<dyn Stream>>;

impl Place {
    fn connect(&self, timeout: Duration) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Box::new(stream)
            }
            Self::Inet(place) => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                let mut found = None;
                for address in place.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            found = Some(stream);
                            break;
                        }
                        Err(error) => last = error,
                    }
                }
                let stream = found.ok_or(last)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Box::new(stream)
            }
        };
        Ok(BufReader::new(stream))
    }
}

struct Remote {
    name: Arc<str>,
    place: Place,
    options: Options,
    connection: Mutex<Option<Connection>>,
}

impl Remote {
    fn new(spec: &str, place: Place, options: &Options) -> Self {
        Self { name: spec.into(), place, options: options.clone(), connection: Mutex::new(None) }
    }

    fn failed(&self, why: impl Into<String>) -> LookupError {
        LookupError { table: Arc::clone(&self.name), why: why.into() }
    }
}

/// tcp_table(5).
struct Tcp {
    remote: Remote,
    /// As configured, for messages.
    shown: String,
}

pub(crate) fn tcp(spec: &str, name: &str, options: &Options) -> Result<Arc<dyn Table>, OpenError> {
    let place = match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && !host.is_empty() => {
            // `[::1]:10099` is read with its brackets by the resolver, `[127.0.0.1]` is not.
            match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                Some(inner) if !inner.contains(':') => format!("{inner}:{port}"),
                _ => name.to_owned(),
            }
        }
        _ => format!("localhost:{name}"),
    };
    Ok(Arc::new(Tcp { remote: Remote::new(spec, Place::Inet(place), options), shown: name.to_owned() }))
}

/// Control characters, blanks and percent signs as `%xx`.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte <= b' ' || byte >= 0x7f || byte == b'%' {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(byte as char);
        }
    }
    out
}

/// The reverse of [`encode`]; `None` for a broken code.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok().filter(|digits| !digits.starts_with('+'))?.to_owned();
            out.push(u8::from_str_radix(&digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

impl Tcp {
    fn ask(&self, connection: &mut Connection, request: &str) -> io::Result<String> {
        connection.get_mut().write_all(request.as_bytes())?;
        let mut reply = Vec::new();
        connection.by_ref().take(TCP_LIMIT).read_until(b'\n', &mut reply)?;
        if reply.pop() != Some(b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if reply.last() == Some(&b'\r') {
            reply.pop();
        }
        String::from_utf8(reply).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn find(&self, key: &str) -> crate::Found {
        let request = format!("get {}\n", encode(key));
        let options = &self.remote.options;
        let mut kept = self.remote.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match self.remote.place.connect(options.remote_timeout) {
                    Ok(connection) => connection,
                    Err(error) => {
                        why = words(&error);
                        options.warn(format!("connect to TCP map {}: {why}", self.shown));
                        continue;
                    }
                },
            };
            let reply = match self.ask(&mut connection, &request) {
                Ok(reply) => reply,
                Err(error) => {
                    why = words(&error);
                    // A server may close a connection that was idle: that is not worth a word.
                    if attempt > 0 {
                        options.warn(format!("read TCP map reply from {}: {why}", self.shown));
                    }
                    continue;
                }
            };
            let (code, text) = reply.split_once(' ').unwrap_or((&reply, ""));
            let answer = match (code, decode(text)) {
                ("200", Some(value)) => Ok(Some(value)),
                ("500", _) => Ok(None),
                ("400", text) => {
                    let text = text.unwrap_or_default();
                    why = format!("temporary error: {text}");
                    *kept = Some(connection);
                    break;
                }
                _ => {
                    options.warn(format!("read TCP map reply from {}: bad text: {reply:.100}", self.shown));
                    why = "malformed reply".to_owned();
                    continue;
                }
            };
            *kept = Some(connection);
            return answer;
        }
        Err(self.remote.failed(why))
    }
}

impl Table for Tcp {
    fn name(&self) -> &str {
        &self.remote.name
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(self.find(&self.remote.options.fold(key)))
    }
    fn is_pattern(&self) -> bool {
        true
    }
    fn is_remote(&self) -> bool {
        true
    }
}

/// socketmap_table(5).
struct Socketmap {
    remote: Remote,
    map: String,
    /// The server as configured, for messages.
    server: String,
}

pub(crate) fn socketmap(spec: &str, name: &str, options: &Options) -> Result<Arc<dyn Table>, OpenError> {
    let need = || OpenError("socketmap requires server:socketmap argument".to_owned());
    let (server, map) = name.rsplit_once(':').ok_or_else(need)?;
    let Some((kind, place)) = server.split_once(':').filter(|(_, place)| !place.is_empty()) else {
        return Err(OpenError(format!("need service transport:endpoint instead of \"{server}\"")));
    };
    if map.is_empty() {
        return Err(need());
    }
    let place = match kind {
        "unix" => Place::Unix(place.to_owned()),
        "inet" => Place::Inet(place.to_owned()),
        _ => return Err(OpenError(format!("invalid transport name: {kind} in service: {server}"))),
    };
    // Postfix shows the socket without its kind.
    let shown = server.split_once(':').map_or(server, |(_, place)| place).to_owned();
    Ok(Arc::new(Socketmap { remote: Remote::new(spec, place, options), map: map.to_owned(), server: shown }))
}

impl Socketmap {
    fn ask(&self, connection: &mut Connection, request: &str) -> io::Result<String> {
        connection.get_mut().write_all(request.as_bytes())?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "netstring format error");
        let mut length = Vec::new();
        connection.by_ref().take(8).read_until(b':', &mut length)?;
        if length.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let digits = length.strip_suffix(b":").filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let length: usize = digits.and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
        if length > SOCKETMAP_LIMIT {
            return Err(bad());
        }
        let mut reply = vec![0; length + 1];
        connection.read_exact(&mut reply)?;
        if reply.pop() != Some(b',') {
            return Err(bad());
        }
        String::from_utf8(reply).map_err(|_| bad())
    }

    fn exchange(&self, request: &str) -> Result<String, String> {
        let options = &self.remote.options;
        let mut kept = self.remote.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // A kept connection may have been closed by the server: then once more with a new one.
        if let Some(mut connection) = kept.take()
            && let Ok(reply) = self.ask(&mut connection, request)
        {
            *kept = Some(connection);
            return Ok(reply);
        }
        let mut connection = self.remote.place.connect(options.remote_timeout).map_err(|error| {
            let why = words(&error);
            options.warn(format!("connect to {}: {why}", self.server));
            why
        })?;
        let reply = self.ask(&mut connection, request).map_err(|error| words(&error))?;
        *kept = Some(connection);
        Ok(reply)
    }

    fn find(&self, key: &str) -> crate::Found {
        let options = &self.remote.options;
        let query = format!("{} {key}", self.map);
        let request = format!("{}:{query},", query.len());
        let reply = self.exchange(&request).map_err(|why| {
            options.warn(format!("table {} lookup error: {why}", self.remote.name));
            self.remote.failed(why)
        })?;
        let (word, text) = reply.split_once(' ').unwrap_or((&reply, ""));
        let what = match word {
            "OK" if !text.is_empty() => return Ok(Some(text.to_owned())),
            "NOTFOUND" => return Ok(None),
            "TEMP" => "temporary",
            "TIMEOUT" => "timeout",
            "PERM" => "permanent",
            _ => {
                options.warn(format!("{} socketmap server protocol error: bad reply: {reply:.100}", self.remote.name));
                return Err(self.remote.failed("malformed reply"));
            }
        };
        options.warn(format!("{} socketmap server {what} error: {text}", self.remote.name));
        Err(self.remote.failed(format!("{what} error: {text}")))
    }
}

impl Table for Socketmap {
    fn name(&self) -> &str {
        &self.remote.name
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(self.find(&self.remote.options.fold(key)))
    }
    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableSet;
    use pollster::block_on;
    use std::net::TcpListener;

    /// A server that answers each connection's requests with these replies, then closes it.
    fn serve(sessions: Vec<Vec<&'static [u8]>>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for replies in sessions {
                let (mut stream, _) = listener.accept().unwrap();
                for reply in replies {
                    let mut request = [0; 4096];
                    assert!(stream.read(&mut request).unwrap() > 0);
                    stream.write_all(reply).unwrap();
                }
            }
        });
        port
    }

    fn set() -> TableSet {
        TableSet::new(Options { remote_timeout: Duration::from_secs(5), ..Options::default() })
    }

    #[test]
    fn tcp_replies() {
        let port = serve(vec![
            vec![b"200 two%20words\n", b"500 no\n", b"400 try%20later\n"],
            vec![b"junk\n"],
            vec![b"200 again\n"],
        ]);
        let table = set().open(&format!("tcp:127.0.0.1:{port}")).unwrap();
        assert_eq!(block_on(table.lookup("a b")), Ok(Some("two words".into())));
        assert_eq!(block_on(table.lookup("c")), Ok(None));
        assert_eq!(block_on(table.lookup("d")).unwrap_err().why, "temporary error: try later");
        // The server closed, then spoke nonsense, then answered.
        assert_eq!(block_on(table.lookup("e")), Ok(Some("again".into())));
        assert!(table.is_remote() && table.is_pattern());
    }

    #[test]
    fn socketmap_replies() {
        let port = serve(vec![
            vec![b"6:OK uno,", b"9:NOTFOUND ,", b"14:TEMP try later,", b"11:PERM no map,", b"5:WHAT?,"],
            vec![b"99999999:x"],
        ]);
        let table = set().open(&format!("socketmap:inet:127.0.0.1:{port}:map")).unwrap();
        assert_eq!(block_on(table.lookup("a")), Ok(Some("uno".into())));
        assert_eq!(block_on(table.lookup("b")), Ok(None));
        assert_eq!(block_on(table.lookup("c")).unwrap_err().why, "temporary error: try later");
        assert_eq!(block_on(table.lookup("c")).unwrap_err().why, "permanent error: no map");
        assert_eq!(block_on(table.lookup("d")).unwrap_err().why, "malformed reply");
        assert_eq!(block_on(table.lookup("d")).unwrap_err().why, "netstring format error");
        assert!(set().open("socketmap:foo").is_err());
    }

    #[test]
    fn percent_codes() {
        for text in ["", "a b", "100%", "é\n\t", "plain"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
        for text in ["%", "%a", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}

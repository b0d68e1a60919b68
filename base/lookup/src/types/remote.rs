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
            // Every reply has a text, though it may be empty.
            let parts = reply.split_once(' ').and_then(|(code, text)| Some((code, decode(text)?)));
            let known = ["200", "400", "500"].iter().any(|code| reply.starts_with(code));
            let answer = match parts {
                Some(("200", value)) => Ok(Some(value)),
                Some(("500", _)) => Ok(None),
                Some(("400", text)) => {
                    why = format!("temporary error: {text}");
                    *kept = Some(connection);
                    break;
                }
                bad => {
                    let what = if bad.is_some() && !known { "bad status code" } else { "malformed reply" };
                    options.warn(format!("read TCP map reply from {}: {what}: {reply:.100}", self.shown));
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
        Answer::Ready(self.find(key))
    }
    fn folds_case(&self) -> bool {
        false
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
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "input format error");
        let mut length = Vec::new();
        connection.by_ref().take(8).read_until(b':', &mut length)?;
        if length.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let digits = length.strip_suffix(b":").filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let length: usize = digits.and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
        if length > self.remote.options.socketmap_max_reply {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "input exceeds size limit"));
        }
        let mut reply = vec![0; length];
        connection.read_exact(&mut reply)?;
        let mut comma = [0];
        if connection.read(&mut comma)? == 0 || comma != *b"," {
            return Err(bad());
        }
        String::from_utf8(reply).map_err(|_| bad())
    }

    /// Why a conversation broke, in Postfix's words.
    fn why(error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => "unexpected disconnect".to_owned(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "time limit exceeded".to_owned(),
            _ => words(error),
        }
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
        let reply = self.ask(&mut connection, request).map_err(|error| Self::why(&error))?;
        *kept = Some(connection);
        Ok(reply)
    }

    fn find(&self, key: &str) -> crate::Found {
        let options = &self.remote.options;
        let query = format!("{} {key}", self.map);
        let request = format!("{}:{query},", query.len());
        let answer = match options.socketmap_max_query {
            limit if query.len() > limit => Err(format!("query of more than {limit} bytes (socketmap_max_query_size)")),
            _ => self.exchange(&request),
        };
        let reply = answer.map_err(|why| {
            options.warn(format!("table {} lookup error: {why}", self.remote.name));
            self.remote.failed(why)
        })?;
        let (word, text) = reply.split_once(' ').unwrap_or((&reply, ""));
        let what = match word {
            // Without a blank it is no reply; an empty value is one that whoever asks complains of.
            "OK" if reply.len() > word.len() => return Ok(Some(text.to_owned())),
            "NOTFOUND" => return Ok(None),
            "TEMP" => "temporary",
            "TIMEOUT" => "timeout",
            "PERM" => "permanent",
            _ => "unknown",
        };
        let text = if text.is_empty() { String::new() } else { format!(": {text:.200}") };
        options.warn(format!("{} socketmap server {what} error{text}", self.remote.name));
        Err(self.remote.failed(format!("{what} error{text}")))
    }
}

impl Table for Socketmap {
    fn name(&self) -> &str {
        &self.remote.name
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(self.find(key))
    }
    fn folds_case(&self) -> bool {
        false
    }
    fn is_pattern(&self) -> bool {
        true
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

    /// What a table says when its server says this and hangs up.
    fn said(kind: &str, reply: &'static [u8]) -> Result<Option<String>, String> {
        // A server may have closed an idle connection: some are asked again.
        let port = serve(vec![vec![reply]; ATTEMPTS]);
        let spec = match kind {
            "tcp" => format!("tcp:127.0.0.1:{port}"),
            _ => format!("socketmap:inet:127.0.0.1:{port}:map"),
        };
        let table = set().open(&spec).unwrap();
        block_on(table.lookup("key")).map_err(|error| error.why)
    }

    #[test]
    fn each_form_of_a_reply() {
        /// The kind of table, what its server says, and what comes of it: a value or why there is none.
        type Case = (&'static str, &'static [u8], Result<Option<&'static str>, &'static str>);
        let cases: &[Case] = &[
            ("socketmap", b"6:OK uno,", Ok(Some("uno"))),
            ("socketmap", b"5:OK  x,", Ok(Some(" x"))),
            ("socketmap", b"04:OK x,", Ok(Some("x"))),
            ("socketmap", b"3:OK ,", Ok(Some(""))),
            ("socketmap", b"2:OK,", Err("unknown error")),
            ("socketmap", b"9:NOTFOUND ,", Ok(None)),
            ("socketmap", b"8:NOTFOUND,", Ok(None)),
            ("socketmap", b"14:TEMP try later,", Err("temporary error: try later")),
            ("socketmap", b"5:TEMP ,", Err("temporary error")),
            ("socketmap", b"13:TIMEOUT slow!,", Err("timeout error: slow!")),
            ("socketmap", b"8:PERM no!,", Err("permanent error: no!")),
            ("socketmap", b"5:ok xy,", Err("unknown error: xy")),
            ("socketmap", b"0:,", Err("unknown error")),
            ("socketmap", b"4:OK x;", Err("input format error")),
            ("socketmap", b"4:OK x", Err("input format error")),
            ("socketmap", b"4:OK", Err("unexpected disconnect")),
            ("socketmap", b"x", Err("input format error")),
            ("socketmap", b"-1:x,", Err("input format error")),
            ("socketmap", b"100001:x", Err("input exceeds size limit")),
            ("socketmap", b"99999999:x", Err("input format error")),
            ("tcp", b"200 a%20b\n", Ok(Some("a b"))),
            ("tcp", b"200 a b\r\n", Ok(Some("a b"))),
            ("tcp", b"200 \n", Ok(Some(""))),
            ("tcp", b"500 no\n", Ok(None)),
            ("tcp", b"400 bad%3Anews\n", Err("temporary error: bad:news")),
            ("tcp", b"200\n", Err("malformed reply")),
            ("tcp", b"500\n", Err("malformed reply")),
            ("tcp", b"200 %zz\n", Err("malformed reply")),
            ("tcp", b"300 x\n", Err("malformed reply")),
            ("tcp", b"2000 x\n", Err("malformed reply")),
        ];
        for (kind, reply, expected) in cases {
            let expected = expected.map(|value| value.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(said(kind, reply), expected, "{kind} {}", String::from_utf8_lossy(reply));
        }
        assert!(set().open("socketmap:foo").is_err());
    }

    #[test]
    fn sizes_of_queries_and_replies() {
        let port = serve(vec![vec![b"13:OK 0123456789,"], vec![b"13:OK 0123456789,"]]);
        let set = |reply| {
            TableSet::new(Options { socketmap_max_query: 10, socketmap_max_reply: reply, ..Options::default() })
        };
        let spec = format!("socketmap:inet:127.0.0.1:{port}:m");
        let why = |found: crate::Found| found.map_err(|error| error.why);
        let small = set(12).open(&spec).unwrap();
        assert_eq!(why(block_on(small.lookup("12345678"))), Err("input exceeds size limit".to_owned()));
        let large = set(13).open(&spec).unwrap();
        assert_eq!(why(block_on(large.lookup("12345678"))), Ok(Some("0123456789".to_owned())));
        let long = "query of more than 10 bytes (socketmap_max_query_size)".to_owned();
        assert_eq!(why(block_on(large.lookup("123456789"))), Err(long));
    }

    #[test]
    fn keys_keep_their_case_where_it_counts() {
        use crate::Maps;
        for (title, asked) in [
            ("recipient_canonical_maps", "SRS0=AbC@D"),
            ("virtual_alias_maps", "SRS0=AbC@D"),
            ("transport_maps", "srs0=abc@d"),
            ("check_recipient_access", "srs0=abc@d"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = vec![0; 100];
                let read = stream.read(&mut request).unwrap();
                stream.write_all(b"9:NOTFOUND ,").unwrap();
                String::from_utf8_lossy(&request[..read]).into_owned()
            });
            let set = set();
            let maps = Maps::open(&set, title, &format!("socketmap:inet:127.0.0.1:{port}:m"));
            assert_eq!(block_on(maps.find("SRS0=AbC@D")), Ok(None));
            // No parts of an address either (Postfix: DICT_FLAG_PATTERN).
            assert_eq!(block_on(maps.find_partial("@D")).map(|hit| hit.is_some()), Ok(false));
            let request = server.join().unwrap();
            assert!(request.contains(asked), "{title}: {request}");
        }
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

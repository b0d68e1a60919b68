//! One request over HTTPS, for policies (RFC 8461) and reports (RFC 8460): HTTP/1.1, one request to a connection, no
//! redirects, no cookies, an answer of a bounded size, all of it within one time limit, the certificate always verified.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use yamabiko_dns::Resolver;
use yamabiko_tls::{Client, Demand, Failure, Proof};

/// Bytes of the head of an answer.
const MOST_HEAD: usize = 16 * 1024;
/// Bytes of the line before a chunk.
const MOST_LINE: usize = 1024;
/// Addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;

/// What is asked of whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The host, also of the certificate.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The path with its query.
    pub path: &'a str,
    /// Type of what is sent; empty without.
    pub content_type: &'static str,
    /// What is sent.
    pub body: &'a [u8],
    /// Bytes of an answer's body that are taken at most.
    pub most: usize,
    /// For all of it.
    pub limit: Duration,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// `Content-Type`, in small letters, without parameters; empty without.
    pub content_type: String,
    /// What came.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The certificate is not good for the host.
    Certificate(String),
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(why) => write!(f, "server certificate not verified: {why}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

fn other(why: impl std::fmt::Display) -> Trouble {
    Trouble::Other(why.to_string())
}

/// Asks.
pub(crate) async fn ask(client: &Client, dns: &dyn Resolver, request: Request<'_>) -> Result<Answer, Trouble> {
    timeout(request.limit, work(client, dns, request)).await.unwrap_or_else(|_| Err(other("timed out")))
}

async fn work(client: &Client, dns: &dyn Resolver, request: Request<'_>) -> Result<Answer, Trouble> {
    let (v4, v6) = (dns.a(request.host).await, dns.aaaa(request.host).await);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    addresses.extend(v4.records().iter().map(|one| SocketAddr::new((*one).into(), request.port)));
    addresses.extend(v6.records().iter().map(|one| SocketAddr::new((*one).into(), request.port)));
    let mut last = other(format!("host {} has no address", request.host));
    for address in addresses.into_iter().take(MOST_ADDRESSES) {
        // One dead address must not take all of the time.
        match timeout(request.limit / 3, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return talk(client, stream, request).await,
            Ok(Err(error)) => last = other(format!("connect to {address}: {error}")),
            Err(_) => last = other(format!("connect to {address}: timed out")),
        }
    }
    Err(last)
}

async fn talk(client: &Client, stream: TcpStream, request: Request<'_>) -> Result<Answer, Trouble> {
    let host = request.host;
    let demand = Demand {
        protocols: vec![">=TLSv1.2".to_owned()],
        server_name: host.to_owned(),
        peer: format!("{host}:{}", request.port),
        proof: Proof::Names { names: vec![host.to_owned()], anchors: None },
        ..Demand::default()
    };
    let (mut stream, secured) = client.connect(stream, &demand).await.map_err(|failure| match failure {
        Failure::Lost => other("lost connection in the handshake"),
        Failure::Broken(why) | Failure::Protocol(why) => other(format!("handshake: {why}")),
    })?;
    if !secured.proved {
        return Err(Trouble::Certificate(secured.objection.unwrap_or_else(|| "no reason given".to_owned())));
    }
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Yamabiko\r\nAccept: */*\r\nConnection: close\r\n",
        request.method, request.path
    );
    if !request.content_type.is_empty() {
        text.push_str(&format!("Content-Type: {}\r\nContent-Length: {}\r\n", request.content_type, request.body.len()));
    }
    text.push_str("\r\n");
    let sent = async {
        stream.write_all(text.as_bytes()).await?;
        stream.write_all(request.body).await?;
        stream.flush().await
    };
    sent.await.map_err(other)?;
    read_answer(&mut stream, request.most).await
}

/// Reads an answer to its end.
async fn read_answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), most: usize) -> Result<Answer, Trouble> {
    let mut reading = Reading::new(most);
    let mut piece = vec![0; 4096];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(n) => {
                if let Some(answer) = reading.take(piece.get(..n).unwrap_or_default())? {
                    return Ok(answer);
                }
            }
            // A server that just goes away has said all it will say.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(other(error)),
        }
    }
    reading.ended()
}

/// How far the body reaches.
#[derive(Clone, Copy, Debug)]
enum Extent {
    /// So many bytes.
    Length(usize),
    /// Chunks, to one of size 0.
    Chunks,
    /// To the end of the connection.
    End,
}

/// An answer that is being read, in pieces of any size, each byte looked at once: a server that sends it byte by byte costs
/// no more than another.
struct Reading {
    /// Bytes of a body that are taken at most.
    most: usize,
    /// What has come and is not used up.
    all: Vec<u8>,
    /// So far no line end was found in it.
    searched: usize,
    /// The answer with its body so far, once the head is read.
    answer: Option<(Answer, Extent)>,
}

impl Reading {
    fn new(most: usize) -> Self {
        Self { most, all: Vec::new(), searched: 0, answer: None }
    }

    /// One piece more. `None`: more is needed.
    fn take(&mut self, piece: &[u8]) -> Result<Option<Answer>, Trouble> {
        self.all.extend_from_slice(piece);
        if self.answer.is_none() {
            match self.line_end(b"\r\n\r\n") {
                Some(end) => {
                    let head: Vec<u8> = self.all.drain(..end + 4).collect();
                    self.answer = Some(head_of(head.get(..end).unwrap_or_default())?);
                }
                None if self.all.len() > MOST_HEAD => return Err(other("the head of the answer is too long")),
                None => return Ok(None),
            }
        }
        let Some((answer, extent)) = &mut self.answer else { return Ok(None) };
        match *extent {
            Extent::Length(length) if length > self.most => return Err(self.too_long()),
            Extent::Length(length) if self.all.len() < length => return Ok(None),
            Extent::Length(length) => {
                self.all.truncate(length);
                answer.body.append(&mut self.all);
            }
            Extent::Chunks => {
                if !self.chunks()? {
                    return Ok(None);
                }
            }
            Extent::End if self.all.len() > self.most => return Err(self.too_long()),
            Extent::End => return Ok(None),
        }
        Ok(self.answer.take().map(|(answer, _)| answer))
    }

    /// Nothing more will come.
    fn ended(self) -> Result<Answer, Trouble> {
        match self.answer {
            Some((answer, Extent::End)) => Ok(Answer { body: self.all, ..answer }),
            _ => Err(other("the answer is not complete")),
        }
    }

    fn too_long(&self) -> Trouble {
        other(format!("the answer is longer than {} bytes", self.most))
    }

    /// Where this stands first, searched for from where the last search ended.
    fn line_end(&mut self, wanted: &[u8]) -> Option<usize> {
        let from = self.searched;
        let found = self.all.get(from..)?.windows(wanted.len()).position(|bytes| bytes == wanted);
        self.searched = if found.is_some() { 0 } else { (self.all.len() + 1).saturating_sub(wanted.len()) };
        found.map(|at| from + at)
    }

    /// Moves chunks that are complete to the body. True with the last one.
    fn chunks(&mut self) -> Result<bool, Trouble> {
        let mut used = 0;
        let mut last = false;
        while !last {
            let from = used.max(self.searched);
            let rest = self.all.get(from..).unwrap_or_default();
            let Some(end) = rest.windows(2).position(|two| two == b"\r\n").map(|at| from + at) else {
                if self.all.len() - used > MOST_LINE {
                    return Err(other("bad chunk"));
                }
                self.searched = self.all.len().saturating_sub(1).max(used);
                break;
            };
            if end - used > MOST_LINE {
                return Err(other("bad chunk"));
            }
            let line = String::from_utf8_lossy(self.all.get(used..end).unwrap_or_default());
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| other("bad chunk"))?;
            let Some((answer, _)) = &mut self.answer else { break };
            if size > self.most || answer.body.len() + size > self.most {
                return Err(self.too_long());
            }
            last = size == 0;
            // With its line end, which the last one need not have.
            match self.all.get(end + 2..end + 2 + size + if last { 0 } else { 2 }) {
                Some(chunk) => answer.body.extend_from_slice(chunk.get(..size).unwrap_or_default()),
                None => {
                    self.searched = end;
                    break;
                }
            }
            used = end + 2 + size + 2;
            self.searched = 0;
        }
        let used = used.min(self.all.len());
        self.all.drain(..used);
        self.searched = self.searched.saturating_sub(used);
        Ok(last)
    }
}

/// Reads the head of an answer.
fn head_of(head: &[u8]) -> Result<(Answer, Extent), Trouble> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.").and_then(|text| text.get(2..5)).and_then(|text| text.parse().ok());
    let Some(code) = code else { return Err(other("this is not HTTP")) };
    let mut answer = Answer { code, ..Answer::default() };
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| other("bad Content-Length"))?),
            "transfer-encoding" => chunked = value.to_ascii_lowercase().split(',').any(|word| word.trim() == "chunked"),
            "content-type" => {
                let kind = value.split(';').next().unwrap_or_default();
                answer.content_type = kind.trim().to_ascii_lowercase();
            }
            _ => {}
        }
    }
    let extent = match length {
        _ if chunked => Extent::Chunks,
        Some(length) => Extent::Length(length),
        None => Extent::End,
    };
    Ok((answer, extent))
}

/// An answer as it came, read (fuzzing).
#[doc(hidden)]
pub fn read_for_fuzzing(all: &[u8]) -> Option<Answer> {
    read(all, 64 * 1024, all.len().max(1))
}

/// Reads an answer that comes in pieces of this size.
fn read(all: &[u8], most: usize, piece: usize) -> Option<Answer> {
    let mut reading = Reading::new(most);
    for piece in all.chunks(piece) {
        if let Some(answer) = reading.take(piece).ok()? {
            return Some(answer);
        }
    }
    reading.ended().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let table: &[(&str, Option<(u16, &str)>)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", Some((200, "ab"))),
            ("HTTP/1.0 200 OK\r\n\r\nabc", Some((200, "abc"))),
            ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", Some((404, ""))),
            ("HTTP/1.1 301 x\r\nLocation: https://y/\r\nContent-Length: 0\r\n\r\n", Some((301, ""))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n",
                Some((200, "abc")),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\nabc", None),
            ("220 mx ESMTP\r\n\r\n", None),
            ("", None),
        ];
        for (text, wanted) in table {
            for piece in [1, 2, 7, 1000] {
                let read = read(text.as_bytes(), 100, piece);
                let read = read.as_ref().map(|answer| (answer.code, std::str::from_utf8(&answer.body).unwrap()));
                assert_eq!(read, *wanted, "{text:?} in pieces of {piece}");
            }
        }
        let typed = read(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=x\r\n\r\n", 100, 1000);
        assert_eq!(typed.unwrap().content_type, "text/plain");
    }

    /// Thousands of chunks of a byte each, sent byte by byte: reading all of it anew with each piece would take
    /// minutes.
    #[test]
    fn an_answer_in_crumbs_is_read_once() {
        let most = 16 * 1024;
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        text.extend(b"1\r\na\r\n".repeat(most));
        text.extend(b"0\r\n\r\n");
        assert_eq!(read(&text, most, 1).map(|answer| answer.body.len()), Some(most));
        // Chunks without end, lines without end.
        let endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        assert_eq!(read(&[endless.clone(), b"1\r\na\r\n".repeat(most + 1)].concat(), most, 3), None);
        assert_eq!(read(&[endless, b"1;".repeat(most * 2)].concat(), most, 3), None);
        assert_eq!(read(&b"X-Head: more\r\n".repeat(10_000), most, 3), None);
    }
}

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
    let mut all = Vec::new();
    let mut piece = vec![0; 4096];
    loop {
        match parse(&all, most, false)? {
            Some(answer) => return Ok(answer),
            None if all.len() > MOST_HEAD + most * 2 => return Err(other("the answer is too long")),
            None => {}
        }
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(piece.get(..n).unwrap_or_default()),
            // A server that just goes away has said all it will say.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(other(error)),
        }
    }
    parse(&all, most, true)?.ok_or_else(|| other("the answer is not complete"))
}

/// Reads what has come so far; `None` when more is needed. `ended`: nothing more will come.
fn parse(all: &[u8], most: usize, ended: bool) -> Result<Option<Answer>, Trouble> {
    let Some(end) = all.windows(4).take(MOST_HEAD).position(|four| four == b"\r\n\r\n") else {
        return if all.len() > MOST_HEAD { Err(other("the head of the answer is too long")) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(all.get(..end).unwrap_or_default()).into_owned();
    let rest = all.get(end + 4..).unwrap_or_default();
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
    let too_long = || other(format!("the answer is longer than {most} bytes"));
    if chunked {
        let Some(body) = unchunk(rest, most)? else {
            return if ended { Err(other("the answer is not complete")) } else { Ok(None) };
        };
        answer.body = body;
        return Ok(Some(answer));
    }
    if length.unwrap_or(rest.len()) > most {
        return Err(too_long());
    }
    let body = match length {
        Some(length) => match rest.get(..length) {
            Some(body) => body,
            None if ended => return Err(other("the answer is not complete")),
            None => return Ok(None),
        },
        None if ended => rest,
        None => return Ok(None),
    };
    answer.body = body.to_vec();
    Ok(Some(answer))
}

/// The body of a chunked answer, when its last chunk is there.
fn unchunk(mut rest: &[u8], most: usize) -> Result<Option<Vec<u8>>, Trouble> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| other("bad chunk"))?;
        if size > most || body.len() + size > most {
            return Err(other(format!("the answer is longer than {most} bytes")));
        }
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        let Some(after) = rest.get(end + 2 + size + 2..) else { return Ok(None) };
        rest = after;
    }
}

/// An answer as it came, read (fuzzing).
#[doc(hidden)]
pub fn read_for_fuzzing(all: &[u8]) -> Option<Answer> {
    parse(all, 64 * 1024, true).ok().flatten()
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
            let read = parse(text.as_bytes(), 100, true).ok().flatten();
            let read = read.as_ref().map(|answer| (answer.code, std::str::from_utf8(&answer.body).unwrap()));
            assert_eq!(read, *wanted, "{text:?}");
        }
        let typed = parse(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=x\r\n\r\n", 100, true);
        assert_eq!(typed.unwrap().unwrap().content_type, "text/plain");
    }
}

//! The PROXY protocol of HAProxy, versions 1 and 2 (its `proxy-protocol.txt`; Postfix: haproxy_srvr): a proxy before us
//! says who the client is, before the client says anything.
//!
//! [`parse`] is given what has come and says how much more it needs, so that nothing of the client's is read with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use yamabiko_config::View;

use crate::session::escaped;

/// Bytes of a header at most: an ordinary one has 107 (version 1) or 52 (version 2), one with what was seen of TLS more.
pub const LONGEST: usize = 4096;
const LONGEST_LINE: usize = 107;
/// `PROXY UNKNOWN`, CR, LF.
const SHORTEST: usize = 15;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Who a proxy says is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// Where it connected to.
    pub server: SocketAddr,
}

/// How far a header was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So many bytes more are certainly part of it.
    More(usize),
    /// All of it. `None`: the proxy speaks for itself.
    Done(Option<Ends>),
}

/// Reads a header. What is wrong with it, as the log says it.
///
/// # Errors
/// It is none.
pub fn parse(text: &[u8]) -> Result<Parsed, &'static str> {
    if text.is_empty() {
        // Whoever does not begin as a proxy does is not waited for.
        return Ok(Parsed::More(1));
    }
    let begins = text.get(..text.len().min(SIGNATURE.len())).unwrap_or_default();
    if SIGNATURE.starts_with(begins) {
        return binary(text);
    }
    if !b"PROXY ".starts_with(text.get(..text.len().min(6)).unwrap_or_default()) {
        return Err("unrecognized protocol header");
    }
    match text.strip_suffix(b"\n") {
        None if text.len() < SHORTEST => Ok(Parsed::More(SHORTEST - text.len())),
        None if text.len() < LONGEST_LINE => Ok(Parsed::More(1)),
        None => Err("missing protocol header terminator"),
        Some(line) => words(line.strip_suffix(b"\r").unwrap_or(line)).map(Parsed::Done),
    }
}

fn words(line: &[u8]) -> Result<Option<Ends>, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "bad protocol header")?;
    let mut words = line.split_ascii_whitespace().skip(1);
    let six = match words.next() {
        Some("TCP4") => false,
        Some("TCP6") => true,
        Some("UNKNOWN") => return Ok(None),
        _ => return Err("bad or missing protocol type"),
    };
    let address = |word: Option<&str>, why: &'static str| {
        let address = word.and_then(|word| word.parse::<IpAddr>().ok()).filter(|address| address.is_ipv6() == six);
        address.ok_or(why)
    };
    let client = address(words.next(), "bad or missing client address")?;
    let server = address(words.next(), "bad or missing server address")?;
    let port = |word: Option<&str>, why: &'static str| {
        word.filter(|word| word.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|word| word.parse::<u16>().ok())
            .ok_or(why)
    };
    let client = SocketAddr::new(client, port(words.next(), "bad or missing client port")?);
    let server = SocketAddr::new(server, port(words.next(), "bad or missing server port")?);
    Ok(Some(Ends { client, server }))
}

fn binary(text: &[u8]) -> Result<Parsed, &'static str> {
    let [_, _, _, _, _, _, _, _, _, _, _, _, command, family, high, low, rest @ ..] = text else {
        // Less than 16, or it would be one.
        return Ok(Parsed::More(if text.len() < SHORTEST { SHORTEST - text.len() } else { 16 - text.len() }));
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length + 16 > LONGEST {
        return Err("short version 2 protocol header");
    }
    if rest.len() < length {
        return Ok(Parsed::More(length - rest.len()));
    }
    match command {
        0x20 => return Ok(Parsed::Done(None)),
        0x21 => {}
        command if command & 0xf0 == 0x20 => return Err("bad command in proxy header"),
        _ => return Err("unrecognized protocol version"),
    }
    let port = |bytes: &[u8; 2]| u16::from_be_bytes(*bytes);
    let ends = match family {
        0x11 => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = rest else { return Err("short address field") };
            let client = SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), port(&[*i, *j]));
            Ends { client, server: SocketAddr::new(Ipv4Addr::new(*e, *f, *g, *h).into(), port(&[*k, *l])) }
        }
        0x21 => {
            let (addresses, ports) = rest.split_at_checked(32).ok_or("short address field")?;
            let (client, server) = addresses.split_at(16);
            let address = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map_err(|_| "bad address");
            let [a, b, c, d, ..] = ports else { return Err("short address field") };
            let client = SocketAddr::new(address(client)?.into(), port(&[*a, *b]));
            Ends { client, server: SocketAddr::new(address(server)?.into(), port(&[*c, *d])) }
        }
        _ => return Err("unsupported network protocol"),
    };
    Ok(Parsed::Done(Some(ends)))
}

/// Whether a service stands behind a proxy, and how long its header is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// Clients connect to us.
    #[default]
    None,
    /// A proxy says who they are, within this time.
    Haproxy(Duration),
    /// A protocol that we do not know: nobody is served, for nobody could be told apart.
    Unsupported,
}

impl Upstream {
    /// `smtpd_upstream_proxy_...` or `postscreen_upstream_proxy_...`
    pub(crate) fn read(view: &View, program: &str, notices: &mut Vec<String>) -> Self {
        let name = format!("{program}_upstream_proxy_protocol");
        match view.text(&name).trim() {
            "" => Self::None,
            "haproxy" => Self::Haproxy(view.duration(&format!("{program}_upstream_proxy_timeout"))),
            other => {
                notices.push(format!("unsupported {name} value: {other}: clients are turned away"));
                Self::Unsupported
            }
        }
    }

    /// Reads the header, where there has to be one. `None`: the addresses of the connection count.
    pub(crate) async fn ends<S>(self, stream: &mut S) -> Result<Option<Ends>, String>
    where
        S: AsyncRead + Unpin,
    {
        match self {
            Self::None => Ok(None),
            Self::Unsupported => Err("unsupported upstream proxy protocol".to_owned()),
            Self::Haproxy(limit) => match timeout(limit, header(stream)).await {
                Ok(read) => read,
                Err(_) => Err("haproxy read: timeout error".to_owned()),
            },
        }
    }
}

async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Ends>, String> {
    let mut text = Vec::new();
    loop {
        match parse(&text) {
            Ok(Parsed::Done(ends)) => {
                let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
                return Ok(ends.map(|ends| Ends { client: canonical(ends.client), server: canonical(ends.server) }));
            }
            Ok(Parsed::More(more)) => {
                let before = text.len();
                // `parse` asks for no more than `LONGEST`.
                text.resize(before + more, 0);
                let (_, room) = text.split_at_mut(before);
                stream.read_exact(room).await.map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => "haproxy read: EOF".to_owned(),
                    _ => format!("haproxy read: {error}"),
                })?;
            }
            Err(why) => return Err(format!("haproxy read: {why}: {}", escaped(&text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, server: &str) -> Parsed {
        Parsed::Done(Some(Ends { client: client.parse().unwrap(), server: server.parse().unwrap() }))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&[command, family]);
        out.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn headers() {
        let four: Vec<u8> = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25].to_vec();
        let mut with_more = four.clone();
        with_more.extend_from_slice(&[3, 0, 4, 1, 2, 3, 4]);
        let mut six = Vec::new();
        six.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend_from_slice(&"2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        six.extend_from_slice(&[0x30, 0x39, 0, 25]);
        let cases: Vec<(Vec<u8>, Result<Parsed, ()>)> = vec![
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n".to_vec(),
                Ok(ends("192.0.2.7:12345", "198.51.100.1:25")),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 25\r\n".to_vec(),
                Ok(ends("[2001:db8::1]:12345", "[2001:db8::2]:25")),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(Parsed::Done(None))),
            (b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec(), Ok(Parsed::Done(None))),
            (b"".to_vec(), Ok(Parsed::More(1))),
            (b"P".to_vec(), Ok(Parsed::More(14))),
            (b"\r".to_vec(), Ok(Parsed::More(14))),
            (b"E".to_vec(), Err(())),
            (b"PROXY TCP4 192.0.2.7".to_vec(), Ok(Parsed::More(1))),
            (b"PROXY".to_vec(), Ok(Parsed::More(10))),
            (b"PROXY TCP4 192.0.2.7 2001:db8::2 1 2\r\n".to_vec(), Err(())),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n".to_vec(), Err(())),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 25\r\n".to_vec(), Err(())),
            (b"PROXY TCP4\r\n".to_vec(), Err(())),
            (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec(), Err(())),
            (b"EHLO client.example\r\n".to_vec(), Err(())),
            (b"PROXY ".iter().copied().chain(std::iter::repeat_n(b'x', 200)).collect(), Err(())),
            (v2(0x21, 0x11, &four), Ok(ends("192.0.2.7:12345", "198.51.100.1:25"))),
            (v2(0x21, 0x11, &with_more), Ok(ends("192.0.2.7:12345", "198.51.100.1:25"))),
            (v2(0x21, 0x21, &six), Ok(ends("[2001:db8::1]:12345", "[2001:db8::2]:25"))),
            (v2(0x20, 0x00, &[]), Ok(Parsed::Done(None))),
            (v2(0x21, 0x11, &four)[..20].to_vec(), Ok(Parsed::More(8))),
            (v2(0x21, 0x11, &[1, 2, 3]), Err(())),
            (v2(0x21, 0x12, &four), Err(())),
            (v2(0x31, 0x11, &four), Err(())),
            (v2(0x21, 0x11, &[0; 5000]), Err(())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&text).map_err(|_| ()), expected, "{}", escaped(&text));
        }
    }

    #[test]
    fn a_header_piece_by_piece_is_read_exactly() {
        for text in
            [&b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n"[..], b"PROXY UNKNOWN\r\n", &v2(0x21, 0x11, &[1; 12])]
        {
            let mut have = 0;
            while let Parsed::More(more) = parse(&text[..have]).unwrap() {
                have += more;
                assert!(have <= text.len());
            }
            assert_eq!(have, text.len());
        }
    }
}

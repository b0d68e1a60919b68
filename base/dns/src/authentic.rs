//! Questions whose answers must be authentic (DNSSEC): asked of the servers of `resolv.conf` with DO and AD set, and believed
//! when the server says that it has validated them (AD, RFC 4035 section 3.2.3), as Postfix believes its resolver. So the way
//! to that server must be safe: it belongs on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType as Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Turns through the list of servers.
const ROUNDS: usize = 2;
/// The most an answer may have over UDP: what fits in a packet everywhere.
const PAYLOAD: u16 = 1232;
/// CNAMEs that are followed.
const MOST_ALIASES: usize = 10;

/// A TLSA record (RFC 6698 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}

/// What is known of a name by an authentic answer, or by one that is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// The answer is authentic, also when it is that there is nothing.
    pub secure: bool,
    /// There are records of the type that was asked for.
    pub found: bool,
    /// The name at the end of its CNAMEs, without the last dot, in lower case.
    pub canonical: String,
    /// Mail exchangers, where these were asked for; as `canonical`.
    pub exchangers: Vec<String>,
    /// No answer, or one that failed validation: nothing is known. Why.
    pub failed: Option<String>,
}

fn text(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

fn query(name: &Name, kind: Type) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

/// It is the answer to this question.
fn answers(reply: &Message, question: &Message) -> bool {
    let same = |(a, b): (&Query, &Query)| a.query_type() == b.query_type() && a.name() == b.name();
    reply.metadata.id == question.metadata.id
        && reply.queries.len() == question.queries.len()
        && reply.queries.iter().zip(&question.queries).all(same)
}

async fn over_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = Message::from_vec(buffer.get(..length).unwrap_or_default());
        // Whatever else comes there is somebody's try.
        if let Ok(reply) = reply
            && answers(&reply, question)
        {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).unwrap_or(0);
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).await?;
    match Message::from_vec(&reply) {
        Ok(reply) if answers(&reply, question) => Ok(reply),
        _ => Err(std::io::Error::other("the reply makes no sense")),
    }
}

/// Asks the servers in turn. `patience` is for one server.
pub(crate) async fn ask(
    servers: &[SocketAddr],
    patience: Duration,
    name: &Name,
    kind: Type,
) -> Result<Message, String> {
    let question = query(name, kind);
    let bytes = question.to_vec().map_err(|error| error.to_string())?;
    let mut why = "no name server".to_owned();
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        let reply = match timeout(patience, over_udp(*server, &question, &bytes)).await {
            Ok(Ok(reply)) if reply.metadata.truncation => timeout(patience, over_tcp(*server, &question, &bytes)).await,
            other => other,
        };
        match reply {
            Ok(Ok(reply)) => match reply.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(reply),
                code => why = code.to_string(),
            },
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = "request timed out".to_owned(),
        }
    }
    Err(why)
}

/// What a reply says of the security of a name.
pub(crate) fn security(name: &Name, kind: Type, reply: &Message) -> Security {
    let mut canonical = name.clone();
    for _ in 0..MOST_ALIASES {
        let next = reply.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == canonical => Some(target.0.clone()),
            _ => None,
        });
        match next {
            Some(next) => canonical = next,
            None => break,
        }
    }
    let records = || reply.answers.iter().filter(|record| record.record_type() == kind);
    let exchangers = records().filter_map(|record| match &record.data {
        RData::MX(mx) => Some(text(&mx.exchange)),
        _ => None,
    });
    Security {
        secure: reply.metadata.authentic_data,
        found: records().next().is_some(),
        canonical: text(&canonical),
        exchangers: exchangers.collect(),
        failed: None,
    }
}

/// TLSA records of a reply.
pub(crate) fn tlsa(reply: &Message) -> Vec<Tlsa> {
    let records = reply.answers.iter().filter_map(|record| match &record.data {
        RData::TLSA(tlsa) => Some(Tlsa {
            usage: u8::from(tlsa.cert_usage),
            selector: u8::from(tlsa.selector),
            matching: u8::from(tlsa.matching),
            data: tlsa.cert_data.clone(),
        }),
        _ => None,
    });
    records.collect()
}

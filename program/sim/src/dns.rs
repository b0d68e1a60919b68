//! The simulator's name server: MX and addresses of the domains that sites take mail for, and nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX, PTR};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// Seconds that answers may be kept.
const TTL: u32 = 60;

/// What the server knows.
#[derive(Debug, Default)]
pub struct Zone {
    exchangers: HashMap<String, Vec<String>>,
    addresses: HashMap<String, Ipv4Addr>,
    names: HashMap<Ipv4Addr, String>,
}

impl Zone {
    /// A domain with mail exchangers of equal preference.
    pub fn domain(&mut self, domain: &str, exchangers: &[String]) {
        self.exchangers.insert(domain.to_ascii_lowercase(), exchangers.to_vec());
    }

    /// A host.
    pub fn host(&mut self, name: &str, address: Ipv4Addr) {
        self.addresses.insert(name.to_ascii_lowercase(), address);
        self.names.insert(address, name.to_owned());
    }

    /// The answer to a query; `None` to what is no query.
    pub fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.authoritative = true;
        let Some(question) = query.queries.first() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return reply.to_vec().ok();
        };
        reply.add_query(question.clone());
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        match self.records(&name, question.query_type()) {
            Some(records) => {
                for data in records {
                    reply.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
                }
            }
            None => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        reply.to_vec().ok()
    }

    /// `None`: there is no such name.
    fn records(&self, name: &str, kind: RecordType) -> Option<Vec<RData>> {
        let mut known = false;
        let mut records = Vec::new();
        if let Some(exchangers) = self.exchangers.get(name) {
            known = true;
            if kind == RecordType::MX {
                let names = exchangers.iter().filter_map(|host| Name::from_ascii(format!("{host}.")).ok());
                records.extend(names.map(|host| RData::MX(MX::new(10, host))));
            }
        }
        if let Some(address) = self.addresses.get(name) {
            known = true;
            if kind == RecordType::A {
                records.push(RData::A(A(*address)));
            }
        }
        if let Some(host) = reverse(name).and_then(|address| self.names.get(&address)) {
            known = true;
            if kind == RecordType::PTR
                && let Ok(host) = Name::from_ascii(format!("{host}."))
            {
                records.push(RData::PTR(PTR(host)));
            }
        }
        known.then_some(records)
    }
}

/// The address that `1.0.0.127.in-addr.arpa` is about.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let numbers = name.strip_suffix(".in-addr.arpa")?;
    let backwards: Vec<&str> = numbers.split('.').rev().collect();
    match backwards.join(".").parse() {
        Ok(IpAddr::V4(address)) => Some(address),
        _ => None,
    }
}

/// Answers over UDP until the program ends.
pub async fn serve_udp(zone: Arc<Zone>, socket: UdpSocket) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(reply) = zone.answer(&buffer[..length]) {
            // A reply that is lost is asked for again.
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// Answers over TCP until the program ends.
pub async fn serve_tcp(zone: Arc<Zone>, listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let zone = Arc::clone(&zone);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; length.into()];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                let Some(reply) = zone.answer(&query) else { return };
                // Replies are a few hundred bytes.
                let Ok(length) = u16::try_from(reply.len()) else { return };
                if stream.write_u16(length).await.is_err() || stream.write_all(&reply).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::Query;

    #[test]
    fn questions_and_answers() {
        let mut zone = Zone::default();
        zone.domain("Docomo.ne.jp", &["mx1.docomo.sim.test".to_owned()]);
        zone.host("mx1.docomo.sim.test", Ipv4Addr::new(127, 0, 80, 2));
        let cases = [
            ("docomo.ne.jp.", RecordType::MX, ResponseCode::NoError, 1),
            ("DOCOMO.ne.jp.", RecordType::A, ResponseCode::NoError, 0),
            ("mx1.docomo.sim.test.", RecordType::A, ResponseCode::NoError, 1),
            ("mx1.docomo.sim.test.", RecordType::AAAA, ResponseCode::NoError, 0),
            ("2.80.0.127.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, 1),
            ("nowhere.test.", RecordType::MX, ResponseCode::NXDomain, 0),
            ("x.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, 0),
        ];
        for (name, kind, code, records) in cases {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
            let reply = zone.answer(&query.to_vec().expect("a query")).expect("an answer");
            let reply = Message::from_vec(&reply).expect("a message");
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, records), "{name} {kind}");
            assert_eq!(zone.answer(&reply.to_vec().expect("a message")), None);
        }
        assert_eq!(zone.answer(b"nonsense"), None);
    }
}

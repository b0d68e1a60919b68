//! `postcat`: a stored message as the records of a Postfix queue file.
//!
//! Our store has no such files; scripts that read this output find the records, in the order, with the types and at
//! the offsets that a queue file with the same content would have.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;

use jiff::tz::TimeZone;
use yamabiko_envelope::{
    BodyType, Content, Envelope, Notify, Recipient, RecipientState, Ret, RewriteContext, Timestamp,
};

use super::ctime;

/// Longest record of content (`line_length_limit`); longer lines are several records.
const LINE: u64 = 2048;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-e`: envelope.
    pub envelope: bool,
    /// `-h`: message header.
    pub header: bool,
    /// `-b`: message body.
    pub body: bool,
    /// `-d`: the number of each record type.
    pub types: bool,
    /// `-o`: the offset of each record.
    pub offsets: bool,
    /// `-v`: the name of every record type.
    pub verbose: bool,
    /// `-s`: begin at the first record from this offset on.
    pub skip: u64,
}

impl Options {
    /// Everything is shown when nothing is named. `-r` (don't follow pointers) makes no difference: there are none.
    fn completed(self) -> Self {
        match self {
            Self { envelope: false, header: false, body: false, .. } => {
                Self { envelope: true, header: true, body: true, ..self }
            }
            some => some,
        }
    }
}

/// A message to be shown.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Queue and ID, `deferred/4Z0abcd1z1`, or the file's name.
    pub path: &'a str,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Its content.
    pub content: &'a Content,
    /// Our end of the connection it came by, where it is known.
    pub server: Option<(IpAddr, u16)>,
}

/// Writes a message. Times are shown in `zone`.
pub fn write(out: &mut impl Write, message: &Message<'_>, options: Options, zone: &TimeZone) -> io::Result<()> {
    let options = options.completed();
    let mut printer = Printer { out, options, zone, offset: 0 };
    if options.envelope {
        writeln!(printer.out, "*** ENVELOPE RECORDS {} ***", message.path)?;
    }
    let records = envelope_records(message);
    let content_at = stored(SIZE_DATA) + records.iter().map(Record::stored).sum::<u64>() + MARKER;
    let Envelope { size, smtputf8, recipients, .. } = message.envelope;
    let flags = u8::from(*smtputf8);
    let data = format!("{size:15} {content_at:15} {:15} {:15} {size:15} {flags:15}", recipients.len(), 0);
    printer.envelope_record(&Record { kind: b'C', name: "message_size", data })?;
    for record in &records {
        printer.envelope_record(record)?;
    }
    printer.marker(b'M', "MESSAGE CONTENTS", message.path)?;
    // What follows the parts asked for is not read, but for `-v`.
    if options.header || options.body || options.verbose {
        printer.content(message.content)?;
    }
    if !options.body && !options.verbose {
        return Ok(());
    }
    printer.marker(b'X', "HEADER EXTRACTED", message.path)?;
    if message.envelope.body == BodyType::EightBitMime {
        printer.envelope_record(&attribute("encoding", "8bit"))?;
    }
    printer.marker(b'E', "MESSAGE FILE END", message.path)
}

/// Bytes of the data of a size record: six numbers, each 15 wide, with a blank between.
const SIZE_DATA: u64 = 6 * 15 + 5;
/// Bytes of a record without data.
const MARKER: u64 = 2;

struct Record {
    kind: u8,
    name: &'static str,
    data: String,
}

impl Record {
    /// Bytes in a queue file.
    fn stored(&self) -> u64 {
        stored(self.data.len() as u64)
    }
}

/// Bytes of a record in a queue file: type, length in groups of seven bits, data.
fn stored(data: u64) -> u64 {
    let groups = (u64::BITS - data.max(1).leading_zeros()).div_ceil(7);
    1 + u64::from(groups) + data
}

fn attribute(name: &str, value: impl std::fmt::Display) -> Record {
    Record { kind: b'A', name: "named_attribute", data: format!("{name}={value}") }
}

/// The envelope's records between the size and the message, in the order in which smtpd and cleanup write them.
fn envelope_records(message: &Message<'_>) -> Vec<Record> {
    let envelope = message.envelope;
    let seconds = envelope.arrival.seconds();
    let ident = match envelope.client.ident.as_str() {
        "" => envelope.queue_id.to_string(),
        ident => ident.to_owned(),
    };
    let context = match envelope.context {
        RewriteContext::Local => "local",
        RewriteContext::Remote => "remote",
    };
    let arrival = format!("{seconds} {}", envelope.arrival.0 % 1_000_000);
    let mut records =
        vec![Record { kind: b'T', name: "message_arrival_time", data: arrival }, attribute("create_time", seconds)];
    // Mail by sendmail has no client and no name but its queue ID.
    if envelope.client.address.is_some() {
        records.push(attribute("log_ident", ident));
    }
    records.push(attribute("rewrite_context", context));
    if let Some(sasl) = &envelope.sasl {
        let pairs = [("sasl_method", &sasl.method), ("sasl_username", &sasl.username), ("sasl_sender", &sasl.sender)];
        records.extend(pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(n, v)| attribute(n, v)));
    }
    if !envelope.envid.is_empty() {
        records.push(attribute("envelope_id", &envelope.envid));
    }
    if let Some(ret) = envelope.ret {
        records.push(attribute("ret_flags", if ret == Ret::Full { 1 } else { 2 }));
    }
    if !envelope.filter.is_empty() {
        records.push(Record { kind: b'L', name: "content_filter", data: envelope.filter.clone() });
    }
    records.push(Record { kind: b'S', name: "sender", data: envelope.sender.clone() });
    if envelope.body == BodyType::EightBitMime {
        records.push(attribute("encoding", "8bit"));
    }
    push_client(&mut records, message);
    if let Some(verp) = envelope.verp {
        records.push(Record { kind: b'V', name: "verp_delimiters", data: [verp.first, verp.second].iter().collect() });
    }
    envelope.recipients.iter().for_each(|recipient| push_recipient(&mut records, recipient));
    records
}

fn push_client(records: &mut Vec<Record>, message: &Message<'_>) {
    let client = &message.envelope.client;
    let Some(address) = client.address else { return };
    let address = address.to_canonical();
    for (name, value) in [
        ("log_client_name", client.name.clone()),
        ("log_client_address", address.to_string()),
        ("log_client_port", client.port.to_string()),
        ("log_message_origin", format!("{}[{address}]", client.name)),
        ("log_helo_name", client.helo.clone()),
        ("log_protocol_name", client.protocol.clone()),
        ("client_name", client.name.clone()),
        ("reverse_client_name", client.reverse_name.clone()),
        ("client_address", address.to_string()),
        ("client_port", client.port.to_string()),
    ] {
        records.push(attribute(name, value));
    }
    if let Some((address, port)) = message.server {
        records.push(attribute("server_address", address.to_canonical()));
        records.push(attribute("server_port", port));
    }
    records.push(attribute("helo_name", &client.helo));
    records.push(attribute("protocol_name", &client.protocol));
    // The numbers of AF_INET and AF_INET6 on Linux.
    records.push(attribute("client_address_type", if address.is_ipv4() { 2 } else { 10 }));
}

fn push_recipient(records: &mut Vec<Record>, recipient: &Recipient) {
    let Recipient { address, original, orcpt, notify, state } = recipient;
    let Notify { never, success, failure, delay } = *notify;
    let flags = u8::from(never) | u8::from(success) << 1 | u8::from(failure) << 2 | u8::from(delay) << 3;
    if flags != 0 {
        records.push(attribute("notify_flags", flags));
    }
    if !orcpt.is_empty() {
        records.push(attribute("dsn_orig_rcpt", orcpt));
    }
    let original = if original.is_empty() { address } else { original };
    records.push(Record { kind: b'O', name: "original_recipient", data: original.clone() });
    let (kind, name) = match state {
        RecipientState::Done => (b'D', "done_recipient"),
        _ => (b'R', "recipient"),
    };
    records.push(Record { kind, name, data: address.clone() });
}

struct Printer<'a, W> {
    out: &'a mut W,
    options: Options,
    zone: &'a TimeZone,
    /// Where the next record would begin.
    offset: u64,
}

impl<W: Write> Printer<'_, W> {
    /// Goes past a record of so many stored bytes; true when it is to be shown, with what stands before it written.
    fn begin(&mut self, kind: u8, stored: u64, wanted: bool) -> io::Result<bool> {
        let at = self.offset;
        self.offset += stored;
        if !wanted || at < self.options.skip {
            return Ok(false);
        }
        if self.options.offsets {
            write!(self.out, "{at:9} ")?;
        }
        if self.options.types {
            write!(self.out, "{kind:3} ")?;
        }
        Ok(true)
    }

    fn envelope_record(&mut self, record: &Record) -> io::Result<()> {
        if !self.begin(record.kind, record.stored(), self.options.envelope)? {
            return Ok(());
        }
        match record.kind {
            b'T' => {
                let seconds = record.data.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
                writeln!(self.out, "{}: {}", record.name, ctime(Timestamp::from_seconds(seconds), self.zone))
            }
            b'A' => match record.data.strip_prefix("create_time=").map(str::parse) {
                Some(Ok(at)) => {
                    writeln!(self.out, "create_time: {}", ctime(Timestamp::from_seconds(at), self.zone))
                }
                _ => writeln!(self.out, "{}: {}", record.name, super::printable(&record.data)),
            },
            _ => writeln!(self.out, "{}: {}", record.name, super::printable(&record.data)),
        }
    }

    fn marker(&mut self, kind: u8, text: &str, path: &str) -> io::Result<()> {
        if self.begin(kind, MARKER, self.options.envelope)? {
            writeln!(self.out, "*** {text} {path} ***")?;
        }
        Ok(())
    }

    /// The message, line by line, however long it and its lines are.
    fn content(&mut self, content: &Content) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, content.reader());
        let mut line = Vec::new();
        let (mut in_header, mut line_begins) = (true, true);
        loop {
            line.clear();
            if reader.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let whole = line.ends_with(b"\n");
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            in_header = in_header && (!line_begins || is_header_line(text));
            if !in_header && !self.options.body && !self.options.verbose {
                return Ok(());
            }
            line_begins = whole;
            let (kind, name) = if whole { (b'N', "regular_text") } else { (b'L', "unterminated_text") };
            let wanted = if in_header { self.options.header } else { self.options.body };
            if self.begin(kind, stored(text.len() as u64), wanted)? {
                if self.options.verbose {
                    write!(self.out, "{name}: ")?;
                }
                self.out.write_all(text)?;
                if whole || self.options.verbose || self.options.offsets {
                    self.out.write_all(b"\n")?;
                }
            }
        }
    }
}

/// A field name and a colon (RFC 5322 section 2.2), or the continuation of a field.
fn is_header_line(line: &[u8]) -> bool {
    match line {
        [b' ' | b'\t', ..] => true,
        _ => {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            let name = name.trim_ascii_end();
            name.len() < line.len() && !name.is_empty() && name.iter().all(|b| (33..=126).contains(b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::{ClientAttributes, QueueId};

    const TEXT: &[u8] = b"From: a\nSubject: folded\n\tline\n\ntext: x\nmore\n";

    fn envelope() -> Envelope {
        let at = Timestamp::from_seconds(1_795_279_346);
        let recipient = |address: &str, state| Recipient { address: address.into(), state, ..Recipient::default() };
        Envelope {
            envid: "ABC".into(),
            ret: Some(Ret::Headers),
            size: TEXT.len() as u64,
            client: ClientAttributes {
                name: "client.example".into(),
                reverse_name: "client.example".into(),
                address: "192.0.2.7".parse().ok(),
                port: 40000,
                helo: "c".into(),
                protocol: "ESMTP".into(),
                ident: String::new(),
                server: None,
            },
            recipients: vec![
                Recipient {
                    original: "o@b.example".into(),
                    orcpt: "rfc822;o@b.example".into(),
                    notify: Notify { failure: true, delay: true, ..Notify::default() },
                    ..recipient("r@b.example", RecipientState::Pending)
                },
                recipient("d@b.example", RecipientState::Done),
            ],
            ..Envelope::new(QueueId::new(at.0, 1), at, "a@b.example")
        }
    }

    fn shown(options: Options, text: &[u8]) -> String {
        let (envelope, content) = (envelope(), Content::from(text.to_vec()));
        let server = Some(("192.0.2.1".parse().unwrap(), 25));
        let message = Message { path: "deferred/X", envelope: &envelope, content: &content, server };
        let mut out = Vec::new();
        write(&mut out, &message, options, &TimeZone::UTC).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_of_it() {
        let id = envelope().queue_id;
        let wanted = format!(
            "*** ENVELOPE RECORDS deferred/X ***
message_size:              44             711               2               0              44               0
message_arrival_time: Sat Nov 21 16:42:26 2026
create_time: Sat Nov 21 16:42:26 2026
named_attribute: log_ident={id}
named_attribute: rewrite_context=local
named_attribute: envelope_id=ABC
named_attribute: ret_flags=2
sender: a@b.example
named_attribute: log_client_name=client.example
named_attribute: log_client_address=192.0.2.7
named_attribute: log_client_port=40000
named_attribute: log_message_origin=client.example[192.0.2.7]
named_attribute: log_helo_name=c
named_attribute: log_protocol_name=ESMTP
named_attribute: client_name=client.example
named_attribute: reverse_client_name=client.example
named_attribute: client_address=192.0.2.7
named_attribute: client_port=40000
named_attribute: server_address=192.0.2.1
named_attribute: server_port=25
named_attribute: helo_name=c
named_attribute: protocol_name=ESMTP
named_attribute: client_address_type=2
named_attribute: notify_flags=12
named_attribute: dsn_orig_rcpt=rfc822;o@b.example
original_recipient: o@b.example
recipient: r@b.example
original_recipient: d@b.example
done_recipient: d@b.example
*** MESSAGE CONTENTS deferred/X ***
From: a
Subject: folded
\tline

text: x
more
*** HEADER EXTRACTED deferred/X ***
*** MESSAGE FILE END deferred/X ***
"
        );
        assert_eq!(shown(Options::default(), TEXT), wanted);
    }

    #[test]
    fn parts() {
        let none = Options::default();
        let header = Options { header: true, ..none };
        let body = Options { body: true, ..none };
        assert_eq!(shown(header, TEXT), "From: a\nSubject: folded\n\tline\n");
        assert_eq!(shown(body, TEXT), "\ntext: x\nmore\n");
        assert_eq!(shown(Options { header: true, ..body }, TEXT), String::from_utf8_lossy(TEXT));
        let envelope = shown(Options { envelope: true, ..none }, TEXT);
        assert!(envelope.ends_with("done_recipient: d@b.example\n*** MESSAGE CONTENTS deferred/X ***\n"));
        assert_eq!(shown(Options { types: true, ..header }, TEXT), " 78 From: a\n 78 Subject: folded\n 78 \tline\n");
        assert_eq!(shown(Options { verbose: true, ..body }, b"a\n"), "regular_text: a\n");
        let verbose = shown(Options { verbose: true, envelope: true, ..none }, TEXT);
        assert!(verbose.ends_with("*** HEADER EXTRACTED deferred/X ***\n*** MESSAGE FILE END deferred/X ***\n"));
        assert!(!verbose.contains("From: a"));
    }

    #[test]
    fn offsets() {
        let all = shown(Options { offsets: true, ..Options::default() }, TEXT);
        let offsets: Vec<u64> = all.lines().skip(1).map(|line| line[..9].trim().parse().unwrap()).collect();
        assert!(offsets.is_sorted());
        assert_eq!(offsets[..3], [0, 97, 111]);
        // What the size record says is where the first line is.
        assert!(all.contains("\n      711 From: a\n"), "{all}");
        let from = Options { offsets: true, skip: 715, ..Options::default() };
        assert!(shown(from, TEXT).starts_with("*** ENVELOPE RECORDS deferred/X ***\n      720 Subject: folded\n"));
    }

    #[test]
    fn long_lines_and_odd_content() {
        let long = [b"Subject: ".as_slice(), &[b'x'; 5000], b"\n\nend"].concat();
        let both = Options { header: true, body: true, ..Options::default() };
        assert_eq!(shown(both, &long).as_bytes(), long);
        let header = Options { header: true, ..Options::default() };
        assert_eq!(shown(header, &long).len(), 9 + 5000 + 1);
        assert_eq!(shown(header, b"not a header\n\n"), "");
        assert_eq!(shown(both, b""), "");
        for (line, header) in
            [("a:", true), ("a :b", true), (" x", true), (":", false), ("a", false), ("", false), ("a b:", false)]
        {
            assert_eq!(is_header_line(line.as_bytes()), header, "{line}");
        }
    }
}

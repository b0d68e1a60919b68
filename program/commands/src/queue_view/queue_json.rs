//! The listing of `postqueue -j`: one JSON object per line, members in Postfix's order and with its spacing.

use std::io::{self, Write};

use yamabiko_ipc::listing::{Left, Message, Recipients};

use super::{put_name, put_sender};

/// Writes the listing, message by message.
pub struct Printer<W> {
    out: W,
    line: Vec<u8>,
    text: Vec<u8>,
}

impl<W: Write> Printer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::with_capacity(1024), text: Vec::new() }
    }

    /// A message with the recipients that are left: one line.
    pub fn message(&mut self, message: &Message<'_>, recipients: Recipients<'_>) -> io::Result<()> {
        let Message { queue, name, arrival, size, forced_expire, sender } = message;
        let line = &mut self.line;
        line.clear();
        line.extend_from_slice(b"{\"queue_name\": ");
        put_string(line, queue.as_str());
        line.extend_from_slice(b", \"queue_id\": ");
        self.text.clear();
        put_name(&mut self.text, *name);
        put_string(line, &String::from_utf8_lossy(&self.text));
        write!(
            line,
            ", \"arrival_time\": {}, \"message_size\": {size}, \"forced_expire\": {forced_expire}, \"sender\": ",
            arrival.seconds()
        )?;
        self.text.clear();
        put_sender(&mut self.text, sender);
        put_string(line, &String::from_utf8_lossy(&self.text));
        line.extend_from_slice(b", \"recipients\": [");
        let mut first = true;
        for recipient in recipients {
            let (address, left) = recipient?;
            let comma: &[u8] = if std::mem::take(&mut first) { b"" } else { b", " };
            line.extend_from_slice(comma);
            line.extend_from_slice(b"{\"address\": ");
            put_string(line, &yamabiko_address::quote(address));
            let reason = match left {
                Left::Untried => None,
                Left::Delay(reason) => Some(("delay_reason", reason)),
                Left::Bounce(reason) => Some(("bounce_reason", reason)),
            };
            if let Some((name, reason)) = reason {
                line.extend_from_slice(b", \"");
                line.extend_from_slice(name.as_bytes());
                line.extend_from_slice(b"\": ");
                put_string(line, reason);
            }
            line.push(b'}');
        }
        line.extend_from_slice(b"]}\n");
        self.out.write_all(line)
    }

    /// Everything was written.
    pub fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A JSON string (RFC 8259 section 7).
fn put_string(line: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(line, text);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sample, each, sample};
    use super::*;

    fn listing(messages: &[Sample]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out);
        each(messages, |message, recipients| printer.message(message, recipients).unwrap());
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        let out = listing(&sample());
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[1],
            "{\"queue_name\": \"active\", \"queue_id\": \"4Z0abcd2z1\", \"arrival_time\": 1795280034, \"message_size\": \
             700, \"forced_expire\": false, \"sender\": \"MAILER-DAEMON\", \"recipients\": [{\"address\": \"\\\"two \
             words\\\"@y.example\"}]}"
        );
        assert!(lines[0].contains(
            "{\"address\": \"b@x.example\", \"delay_reason\": \"connect to x.example[192.0.2.1]:25: Connection \
             refused\"}, {\"address\": \"c@x.example\"}]}"
        ));
        assert!(lines[2].contains("\"forced_expire\": true"));
        for line in lines {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(listing(&[]).is_empty());
    }
}

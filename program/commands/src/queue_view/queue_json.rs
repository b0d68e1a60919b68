//! The listing of `postqueue -j`: one JSON object per line, members in Postfix's order and with its spacing.

use std::io::{self, Write};

use super::{Listed, ReasonKind, shown_sender};

/// Writes one line per message; nothing for an empty queue.
pub fn write(out: &mut impl Write, messages: &[Listed]) -> io::Result<()> {
    messages.iter().try_for_each(|message| write_message(out, message))
}

fn write_message(out: &mut impl Write, message: &Listed) -> io::Result<()> {
    let Listed { queue, id, arrival, size, forced_expire, sender, recipients } = message;
    write!(
        out,
        "{{\"queue_name\": {}, \"queue_id\": {}, \"arrival_time\": {}, \"message_size\": {size}, \
         \"forced_expire\": {forced_expire}, \"sender\": {}, \"recipients\": [",
        string(queue.as_str()),
        string(id),
        arrival.seconds(),
        string(&shown_sender(sender)),
    )?;
    for (n, recipient) in recipients.iter().enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        write!(out, "{comma}{{\"address\": {}", string(&yamabiko_address::quote(&recipient.address)))?;
        if let Some((kind, text)) = &recipient.reason {
            let name = match kind {
                ReasonKind::Delay => "delay_reason",
                ReasonKind::Bounce => "bounce_reason",
                ReasonKind::Other => "other_reason",
            };
            write!(out, ", \"{name}\": {}", string(text))?;
        }
        write!(out, "}}")?;
    }
    writeln!(out, "]}}")
}

/// A JSON string (RFC 8259 section 7).
fn string(text: &str) -> String {
    // Serialising a string cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut out = Vec::new();
        write(&mut out, &super::super::tests::sample()).unwrap();
        let out = String::from_utf8(out).unwrap();
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
        let mut none = Vec::new();
        write(&mut none, &[]).unwrap();
        assert!(none.is_empty());
    }
}

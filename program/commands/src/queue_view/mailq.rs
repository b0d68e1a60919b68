//! The listing of `mailq`, `sendmail -bp` and `postqueue -p`.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{Listed, QueueName, ctime, printable, shown_sender};

/// Writes the listing. `long_ids` is `enable_long_queue_ids`: it decides the
/// widths of columns; our queue IDs are long in either case.
pub fn write(out: &mut impl Write, messages: &[Listed], long_ids: bool, zone: &TimeZone) -> io::Result<()> {
    if messages.is_empty() {
        return writeln!(out, "Mail queue is empty");
    }
    writeln!(
        out,
        "{}",
        match long_ids {
            true => "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
            false => "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------",
        }
    )?;
    let mut bytes = 0u64;
    for message in messages {
        write_message(out, message, long_ids, zone)?;
        writeln!(out)?;
        bytes = bytes.saturating_add(message.size);
    }
    let plural = if messages.len() == 1 { "" } else { "s" };
    writeln!(out, "-- {} Kbytes in {} Request{plural}.", bytes / 1024, messages.len())
}

fn write_message(out: &mut impl Write, message: &Listed, long_ids: bool, zone: &TimeZone) -> io::Result<()> {
    let place = match message.queue {
        QueueName::Active => "*",
        QueueName::Hold => "!",
        _ => "",
    };
    let forced = if message.forced_expire { "#" } else { "" };
    let id = format!("{}{place}{forced}", message.id);
    let (time, size, sender) = (ctime(message.arrival, zone), message.size, shown_sender(&message.sender));
    match long_ids {
        true => writeln!(out, "{id:<17} {size:>8} {time:.19} {sender}")?,
        false => writeln!(out, "{id:<11} {size:>7} {time:.20} {sender}")?,
    }
    // A reason is shown once for all recipients in a row that have it.
    let mut last = "";
    for recipient in &message.recipients {
        let reason = recipient.reason.as_ref().map_or("", |(_, text)| text);
        if reason != last {
            let text = if reason.is_empty() { "reason unavailable".into() } else { printable(reason) };
            let padding = 76usize.saturating_sub(text.len());
            writeln!(out, "{:padding$}({text})", "")?;
            last = reason;
        }
        let address = printable(&yamabiko_address::quote(&recipient.address));
        let column = if long_ids { 17 + 1 + 8 + 1 + 19 + 1 } else { 11 + 1 + 7 + 1 + 20 + 1 };
        writeln!(out, "{:column$}{address}", "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(messages: &[Listed], long_ids: bool) -> String {
        let mut out = Vec::new();
        write(&mut out, messages, long_ids, &TimeZone::UTC).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_columns() {
        let wanted = "\
-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------
4Z0abcd1z1      335 Sat Nov 21 16:53:54  nobody@example.jp
                      (connect to x.example[192.0.2.1]:25: Connection refused)
                                         a@x.example
                                         b@x.example
                                                          (reason unavailable)
                                         c@x.example

4Z0abcd2z1*     700 Sat Nov 21 16:53:54  MAILER-DAEMON
                                         \"two words\"@y.example

4Z0abcd3z1!#    1100 Sat Nov 21 16:53:54  s@b
                                                                      (\"odd\"?)
                                         \"e?\"@z

-- 2 Kbytes in 3 Requests.
";
        assert_eq!(listing(&super::super::tests::sample(), false), wanted);
    }

    #[test]
    fn long_columns() {
        let mut messages = super::super::tests::sample();
        messages.truncate(2);
        messages.remove(0);
        let wanted = "\
----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
4Z0abcd2z1*            700 Sat Nov 21 16:53:54 MAILER-DAEMON
                                               \"two words\"@y.example

-- 0 Kbytes in 1 Request.
";
        assert_eq!(listing(&messages, true), wanted);
    }

    #[test]
    fn nothing_and_a_long_reason() {
        assert_eq!(listing(&[], false), "Mail queue is empty\n");
        let mut messages = super::super::tests::sample();
        messages.truncate(1);
        messages[0].recipients[0].reason = Some((super::super::ReasonKind::Delay, "x".repeat(100)));
        assert!(listing(&messages, false).contains(&format!("\n({})\n", "x".repeat(100))));
    }
}

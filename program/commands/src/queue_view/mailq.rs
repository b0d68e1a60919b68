//! The listing of `mailq`, `sendmail -bp` and `postqueue -p`.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use yamabiko_ipc::listing::{Left, Message, Recipients};

use super::clock::Clock;
use super::{QueueName, printable, put_name, put_padded, put_sender};

/// Writes the listing, message by message.
pub struct Printer<W> {
    out: W,
    line: Vec<u8>,
    /// `enable_long_queue_ids`: it decides the widths of columns; our queue IDs are long in either case.
    long_ids: bool,
    clock: Clock,
    count: u64,
    bytes: u64,
}

impl<W: Write> Printer<W> {
    /// Times are shown in `zone`.
    pub fn new(out: W, long_ids: bool, zone: TimeZone) -> Self {
        Self { out, line: Vec::with_capacity(512), long_ids, clock: Clock::new(zone), count: 0, bytes: 0 }
    }

    /// A message with the recipients that are left.
    pub fn message(&mut self, message: &Message<'_>, recipients: Recipients<'_>) -> io::Result<()> {
        if self.count == 0 {
            let head = match self.long_ids {
                true => "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
                false => "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------",
            };
            writeln!(self.out, "{head}")?;
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(message.size);
        self.line.clear();
        self.head(message);
        // A reason is shown once for all recipients in a row that have it.
        let mut last = "";
        for recipient in recipients {
            let (address, left) = recipient?;
            let (Left::Delay(reason) | Left::Bounce(reason)) = left else {
                if !last.is_empty() {
                    self.reason("");
                    last = "";
                }
                self.address(address);
                continue;
            };
            if reason != last {
                self.reason(reason);
                last = reason;
            }
            self.address(address);
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    fn head(&mut self, message: &Message<'_>) {
        let start = self.line.len();
        let line = &mut self.line;
        put_name(line, message.name);
        line.extend_from_slice(match message.queue {
            QueueName::Active => b"*",
            QueueName::Hold => b"!",
            _ => b"",
        });
        if message.forced_expire {
            line.push(b'#');
        }
        let (id, size, time) = if self.long_ids { (17, 8, 19) } else { (11, 7, 20) };
        put_padded(line, start, id);
        line.push(b' ');
        put_number(line, message.size, size);
        line.push(b' ');
        // As much of `Sat Nov 21 16:53:54 2026` as there is room for.
        let text = self.clock.ctime(message.arrival).as_bytes();
        line.extend_from_slice(text.get(..time).unwrap_or(text));
        line.push(b' ');
        put_sender(line, message.sender);
        line.push(b'\n');
    }

    fn reason(&mut self, reason: &str) {
        let text = if reason.is_empty() { "reason unavailable".into() } else { printable(reason) };
        let padding = 76usize.saturating_sub(text.len());
        self.line.resize(self.line.len() + padding, b' ');
        self.line.push(b'(');
        self.line.extend_from_slice(text.as_bytes());
        self.line.extend_from_slice(b")\n");
    }

    fn address(&mut self, address: &str) {
        let column = if self.long_ids { 17 + 1 + 8 + 1 + 19 + 1 } else { 11 + 1 + 7 + 1 + 20 + 1 };
        self.line.resize(self.line.len() + column, b' ');
        self.line.extend_from_slice(printable(&yamabiko_address::quote(address)).as_bytes());
        self.line.push(b'\n');
    }

    /// The total; or that there is nothing.
    pub fn end(mut self) -> io::Result<()> {
        if self.count == 0 {
            writeln!(self.out, "Mail queue is empty")?;
        } else {
            let plural = if self.count == 1 { "" } else { "s" };
            writeln!(self.out, "-- {} Kbytes in {} Request{plural}.", self.bytes / 1024, self.count)?;
        }
        self.out.flush()
    }
}

/// To the right of so many columns.
fn put_number(line: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b' '; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A number of 64 bits has at most 20 digits.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at.min(digits.len() - width.min(digits.len()))..]);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sample, sample};
    use super::*;

    fn listing(messages: &[Sample], long_ids: bool) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, long_ids, TimeZone::UTC);
        super::super::tests::each(messages, |message, recipients| printer.message(message, recipients).unwrap());
        printer.end().unwrap();
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
        assert_eq!(listing(&sample(), false), wanted);
    }

    #[test]
    fn long_columns() {
        let wanted = "\
----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
4Z0abcd2z1*            700 Sat Nov 21 16:53:54 MAILER-DAEMON
                                               \"two words\"@y.example

-- 0 Kbytes in 1 Request.
";
        assert_eq!(listing(&sample()[1..2], true), wanted);
    }

    #[test]
    fn nothing_and_a_long_reason() {
        assert_eq!(listing(&[], false), "Mail queue is empty\n");
        let mut messages = sample();
        messages.truncate(1);
        let reason = "x".repeat(100);
        messages[0].recipients[0].1 = Some((false, reason.clone()));
        assert!(listing(&messages, false).contains(&format!("\n({reason})\n")));
    }

    #[test]
    fn numbers() {
        for (number, width, text) in [(0, 7, "      0"), (1234, 3, "1234"), (u64::MAX, 7, "18446744073709551615")] {
            let mut line = Vec::new();
            put_number(&mut line, number, width);
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }
}

//! The fuzz bodies on made-up input, so that every test run has some of it.

mod common;
mod fuzz;

use common::Random;

#[test]
fn what_others_say() {
    let pieces: &[&str] = &[
        "action=", "DUNNO", "\n", "\n\n", "\r", "=", "127", ".", "[", "]", ";", "..", "255", "256", "0", "a@b.test",
        "\t", ":", "2:", "1:5:", "why", "\u{e9}",
    ];
    let mut random = Random(1);
    for _ in 0..50_000 {
        let mut input = Vec::new();
        for _ in 0..random.below(14) {
            match random.below(12) {
                0 => input.push(random.below(256) as u8),
                _ => input.extend_from_slice(pieces[random.below(pieces.len())].as_bytes()),
            }
        }
        fuzz::said_by_others(&input);
    }
}

#[test]
fn headers_of_proxies_and_clients_before_postscreen() {
    let pieces: &[&[u8]] = &[
        b"\r\n\r\n\0\r\nQUIT\n",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        b"PROXY UNKNOWN",
        b"192.0.2.1 ",
        b"::1 ",
        b"25 ",
        b"\r\n",
        b"\n",
        b"\x21",
        b"\x11\0\x0c",
        b"\0\0\0\0",
        b"EHLO c\r\n",
        b"HELO c\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<x@y>\r\n",
        b"RCPT TO:",
        b"DATA\r\n",
        b"BDAT 5\r\n",
        b"STARTTLS\r\n",
        b"RSET\r\n",
        b"Subject: x\r\n",
        b"NOOP\r\n",
        b"\xff\xfe",
        b"<",
        b">",
        b" ",
        b"\\",
        b"$",
        b"\0",
    ];
    let mut random = Random(2);
    for _ in 0..10_000 {
        let mut input = vec![random.below(256) as u8];
        for _ in 0..random.below(16) {
            match random.below(12) {
                0 => input.push(random.below(256) as u8),
                1 => input.extend(std::iter::repeat_n(b'x', random.below(3000))),
                _ => input.extend_from_slice(pieces[random.below(pieces.len())]),
            }
        }
        fuzz::screened(&input);
        fuzz::proxy_header(&input[1..]);
    }
}

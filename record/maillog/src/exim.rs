//! Lines of Exim's main log.

use crate::entry::{Attempt, Client, Outcome, Refusal, What};
use crate::take::{digits, until, word};

/// `1wABCD-0001ab-Cd`, from 4.97 on `1wABCD-0000000012a-Cd3X`.
fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = match bytes.len() {
        16 => (6, 13),
        23 => (6, 18),
        _ => return false,
    };
    bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| if at == shape.0 || at == shape.1 { *byte == b'-' } else { byte.is_ascii_alphanumeric() })
}

/// Is this text one of Exim's? Its own files have no tag to tell.
pub(crate) fn is_text(text: &str) -> bool {
    is_id(word(text).0) || text.starts_with("H=") || !matches!(remark(text), What::Unknown)
}

/// Text of a line. Through syslog there may be a time and an ID of its own before it.
pub(crate) fn parse(text: &str) -> What<'_> {
    let text = match text.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', _, _, b'-', ..] => match crate::head::Head::parse(text) {
            Some(head) => head.text,
            None => text,
        },
        _ => text,
    };
    let (id, rest) = word(text);
    if !is_id(id) {
        return refused("", text).unwrap_or_else(|| remark(text));
    }
    let (flag, rest) = word(rest);
    match flag {
        "<=" => arrival(id, rest),
        "=>" | "->" | ">>" => delivery(id, rest, Outcome::Sent),
        "**" => delivery(id, rest, Outcome::Bounced),
        "==" => delivery(id, rest, Outcome::Deferred),
        // Delivery suppressed by -N: nothing happened.
        "*>" => What::Remark { id },
        "Completed" => What::Removed { id, why: "" },
        _ => other(id, text.get(id.len() + 1..).unwrap_or_default()),
    }
}

fn other<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    if let Some(refusal) = refused(id, rest) {
        return refusal;
    }
    match rest {
        _ if rest.starts_with("removed by ") || rest.starts_with("cancelled by ") => {
            What::Operated { id, what: "removed" }
        }
        _ if rest.starts_with("Frozen") || rest.starts_with("frozen by ") => {
            What::Operated { id, what: "placed on hold" }
        }
        _ if rest.starts_with("Unfrozen") || rest.starts_with("unfrozen") => {
            What::Operated { id, what: "released from hold" }
        }
        _ => What::Remark { id },
    }
}

/// ` NAME=value` fields after an address: the value of one, up to a blank or a quote.
fn field<'a>(rest: &'a str, name: &str) -> Option<&'a str> {
    // `name` comes with its blank and its equals sign.
    let (_, value) = until(rest, name)?;
    match value.strip_prefix('"') {
        Some(quoted) => {
            // Exim escapes quotes inside with a backslash.
            let mut escaped = false;
            let end = quoted.bytes().position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            Some(&quoted[..end.unwrap_or(quoted.len())])
        }
        None => Some(word(value).0),
    }
}

/// `H=name (helo) [192.0.2.1]:port`
fn host(rest: &str) -> Client<'_> {
    let Some((_, value)) = until(rest, "H=") else { return Client::default() };
    let address = until(value, "[").map_or("", |(_, rest)| until(rest, "]").map_or("", |(address, _)| address));
    let name = word(value).0;
    let name = if name.starts_with(['[', '(']) { "" } else { name };
    Client { name, address }
}

/// `sender@x H=h [192.0.2.1] P=esmtp A=plain:bob S=1234 id=m@x`, `<> R=1wABCD-0001ab-Cd U=exim P=local S=99`
fn arrival<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    let (sender, fields) = word(rest);
    let size = field(fields, " S=").or_else(|| fields.strip_prefix("S=").map(|rest| word(rest).0)).and_then(digits);
    let about = fields.strip_prefix("R=").map_or_else(|| field(fields, " R=").unwrap_or(""), |rest| word(rest).0);
    let login = field(fields, " A=").map_or("", |login| login.split_once(':').map_or("", |(_, user)| user));
    let message_id = field(fields, " id=").unwrap_or("");
    What::Queued {
        id,
        sender: if sender == "<>" { "" } else { sender },
        size,
        recipients: None,
        message_id,
        client: host(fields),
        sasl_username: login,
        about: if is_id(about) { about } else { "" },
        begins: true,
    }
}

/// `user@x <orig@y> F=<s@x> R=dnslookup T=remote_smtp H=mx [192.0.2.1] X=TLS1.3:... C="250 OK id=..." QT=1s DT=0s`;
/// failures have `: reason` after the fields, deferrals ` defer (-44): reason`.
fn delivery<'a>(id: &'a str, rest: &'a str, outcome: Outcome) -> What<'a> {
    // A pipe or a file may have blanks in its name; it is followed by its address in brackets.
    let (target, after) = match rest.as_bytes().first() {
        Some(b'|' | b'/') => {
            let at = memchr::memmem::find(rest.as_bytes(), b" <").unwrap_or(word(rest).0.len());
            rest.split_at(at)
        }
        Some(b'"') => {
            let at = rest[1..].find("\"@").map_or(0, |at| at + 1);
            let end = rest[at..].find(' ').map_or(rest.len(), |end| at + end);
            rest.split_at(end)
        }
        _ => rest.split_at(word(rest).0.len()),
    };
    let after = after.strip_prefix(' ').unwrap_or(after);
    let (original, fields) = match after.strip_prefix('<').and_then(|rest| until(rest, ">")) {
        Some((address, rest)) => (address, rest.strip_prefix(' ').unwrap_or(rest)),
        None => ("", after),
    };
    // `** a@b: Unrouteable address`: the colon is not part of the address.
    let target = target.strip_suffix(':').unwrap_or(target);
    let program = target.starts_with(['|', '/']) || target.starts_with(':');
    // Local deliveries show the local part first, and the whole address after it.
    let recipient = if (program || !target.contains('@')) && !original.is_empty() { original } else { target };
    let mut attempt = Attempt {
        id,
        recipient,
        original: if recipient == original { "" } else { original },
        sender: field(fields, "F=").map_or("", |sender| sender.trim_matches(['<', '>'])),
        relay: until(fields, "H=").map_or_else(|| field(fields, "T=").unwrap_or(""), |(_, relay)| relay_of(relay)),
        connection_use: 1,
        delay: field(fields, " QT=").and_then(duration),
        delays: None,
        tls: field(fields, " X=").unwrap_or(""),
        dsn: "",
        outcome,
        reason: "",
    };
    match outcome {
        Outcome::Sent => attempt.reason = field(fields, " C=").unwrap_or(""),
        // The reason follows the first colon that has a blank after it.
        _ => {
            let text = until(rest, ": ").map_or("", |(_, text)| text);
            // `== a@b R=x T=y defer (-44): ...` and `== a@b routing defer (-51): retry time not reached`
            attempt.reason = if text.is_empty() { after } else { text };
            if outcome == Outcome::Bounced && text.contains("retry timeout exceeded") {
                attempt.outcome = Outcome::Expired;
            }
        }
    }
    // What a message was forwarded to comes with a delivery of its own: Exim needs no other entry.
    What::Attempt(attempt)
}

/// `mx.b [192.0.2.1]`, as far as the bracket.
fn relay_of(relay: &str) -> &str {
    match memchr::memchr(b']', relay.as_bytes()) {
        Some(at) => &relay[..=at],
        None => word(relay).0,
    }
}

/// `1s`, `2m3s`, `1h2m3s`, `1.234s`
fn duration(text: &str) -> Option<u64> {
    let (mut total, mut from) = (0u64, 0);
    for (at, byte) in text.bytes().enumerate() {
        let unit = match byte {
            b'w' => 604_800,
            b'd' => 86_400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            b'0'..=b'9' | b'.' => continue,
            _ => return None,
        };
        total = total.checked_add(crate::take::seconds(&text[from..at])?.checked_mul(unit)?)?;
        from = at + 1;
    }
    (from > 0 && from == text.len()).then_some(total)
}

/// `H=h (helo) [192.0.2.1] F=<s@x> rejected RCPT <a@b>: reason`
fn refused<'a>(id: &'a str, text: &'a str) -> Option<What<'a>> {
    let temporarily = until(text, "temporarily rejected ");
    let (before, after) = temporarily.or_else(|| until(text, "rejected "))?;
    if !before.is_empty() && !before.contains('[') && !before.contains("H=") && id.is_empty() {
        return None;
    }
    let (stage, after) = match after {
        _ if after.starts_with("RCPT ") => ("RCPT", &after[5..]),
        _ if after.starts_with("MAIL") => ("MAIL", &after[4..]),
        _ if after.starts_with("EHLO or HELO ") => ("HELO", &after[13..]),
        _ if after.starts_with("connection") => ("CONNECT", &after[10..]),
        _ if after.starts_with("after DATA") => ("END-OF-MESSAGE", &after[10..]),
        _ if after.starts_with("during MIME") => ("END-OF-MESSAGE", &after[11..]),
        _ if after.starts_with("AUTH") => ("AUTH", &after[4..]),
        _ => ("", after),
    };
    let (argument, reason) = until(after, ": ").unwrap_or((after, ""));
    let argument = argument.trim().trim_matches(['<', '>']);
    Some(What::Refused(Refusal {
        id,
        word: if temporarily.is_some() { "delay" } else { "reject" },
        stage,
        client: host(before),
        text: reason,
        sender: field(before, "F=").map(|sender| sender.trim_matches(['<', '>'])),
        recipient: (stage == "RCPT").then_some(argument),
        helo: until(before, "(").map_or("", |(_, helo)| until(helo, ")").map_or("", |(helo, _)| helo)),
    }))
}

fn remark(text: &str) -> What<'_> {
    const KNOWN: [&str; 22] = [
        "Start queue run",
        "End queue run",
        "exim ",
        "SMTP connection from",
        "SMTP command timeout",
        "SMTP data timeout",
        "SMTP protocol",
        "SMTP call from",
        "no host name found",
        "no IP address found",
        "TLS error",
        "TLS client",
        "ident connection",
        "unexpected disconnection",
        "Connection from",
        "refused connection",
        "daemon:",
        "pid ",
        "socket bind",
        "login authenticator",
        "plain authenticator",
        "Warning:",
    ];
    if KNOWN.iter().any(|words| text.starts_with(words)) || text.contains(" authenticator failed for ") {
        What::Remark { id: "" }
    } else {
        What::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt_of(text: &str) -> Attempt<'_> {
        match parse(text) {
            What::Attempt(attempt) => attempt,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn lines() {
        let text =
            "1wABCD-0001ab-Cd <= s@x H=h.x (helo) [192.0.2.1]:5 P=esmtpsa X=TLS1.3:A:256 A=plain:bob S=1234 id=m@x";
        let What::Queued { id, sender, size, message_id, client, sasl_username, about, .. } = parse(text) else {
            panic!()
        };
        assert_eq!((id, sender, size, message_id), ("1wABCD-0001ab-Cd", "s@x", Some(1234), "m@x"));
        assert_eq!((client.name, client.address, sasl_username, about), ("h.x", "192.0.2.1", "bob", ""));
        let What::Queued { sender, about, size, .. } =
            parse("1wABCD-0001ac-Cd <= <> R=1wABCD-0001ab-Cd U=exim P=local S=99")
        else {
            panic!()
        };
        assert_eq!((sender, about, size), ("", "1wABCD-0001ab-Cd", Some(99)));
        let text = "1wABCD-0001ab-Cd => a@b.jp <o@c> F=<s@x> R=dnslookup T=remote_smtp H=mx.b.jp [192.0.2.9] X=TLS1.3:C:256 CV=no C=\"250 2.0.0 Ok: queued as \\\"X\\\" y\" QT=1m2s DT=0s";
        let sent = attempt_of(text);
        assert_eq!(
            (sent.recipient, sent.original, sent.sender, sent.relay),
            ("a@b.jp", "o@c", "s@x", "mx.b.jp [192.0.2.9]")
        );
        assert_eq!(
            (sent.reason, sent.tls, sent.delay),
            ("250 2.0.0 Ok: queued as \\\"X\\\" y", "TLS1.3:C:256", Some(62_000_000))
        );
        let local = attempt_of("1wABCD-0001ab-Cd => bob <bob@here> R=local_user T=mail_spool");
        assert_eq!((local.recipient, local.original, local.relay), ("bob@here", "", "mail_spool"));
        let pipe = attempt_of("1wABCD-0001ab-Cd => |/bin/x y <list@here> R=a T=address_pipe");
        assert_eq!(pipe.recipient, "list@here");
        let failed = attempt_of(
            "1wABCD-0001ab-Cd ** a@b.jp R=dnslookup T=remote_smtp H=mx.b.jp [192.0.2.9]: SMTP error from remote mail server after RCPT TO:<a@b.jp>: 550 5.1.1 no",
        );
        assert_eq!(
            (failed.outcome, failed.reason),
            (Outcome::Bounced, "SMTP error from remote mail server after RCPT TO:<a@b.jp>: 550 5.1.1 no")
        );
        let unrouted = attempt_of("1wABCD-0001ab-Cd ** a@b.jp: Unrouteable address");
        assert_eq!((unrouted.recipient, unrouted.reason), ("a@b.jp", "Unrouteable address"));
        let old = attempt_of("1wABCD-0001ab-Cd ** a@b.jp R=d T=s: retry timeout exceeded");
        assert_eq!(old.outcome, Outcome::Expired);
        let late = attempt_of(
            "1wABCD-0001ab-Cd == a@b.jp R=d T=s defer (-44): SMTP error from remote mail server after RCPT TO:<a@b.jp>: 450 later",
        );
        assert_eq!(
            (late.outcome, late.reason),
            (Outcome::Deferred, "SMTP error from remote mail server after RCPT TO:<a@b.jp>: 450 later")
        );
        assert_eq!(
            parse("1wABCD-0000000012a-Cd3X Completed"),
            What::Removed { id: "1wABCD-0000000012a-Cd3X", why: "" }
        );
        let What::Refused(refusal) = parse("H=h.x (helo) [192.0.2.1] F=<s@x> rejected RCPT <a@b>: relay not permitted")
        else {
            panic!()
        };
        assert_eq!(
            (refusal.stage, refusal.recipient, refusal.sender, refusal.text),
            ("RCPT", Some("a@b"), Some("s@x"), "relay not permitted")
        );
        assert_eq!((refusal.client.address, refusal.helo), ("192.0.2.1", "helo"));
        assert_eq!(parse("Start queue run: pid=5"), What::Remark { id: "" });
        assert_eq!(
            parse("2026-11-21 16:42:26 1wABCD-0001ab-Cd Completed"),
            What::Removed { id: "1wABCD-0001ab-Cd", why: "" }
        );
    }

    #[test]
    fn hostile_lines() {
        for text in [
            "",
            " ",
            "1wABCD-0001ab-Cd",
            "1wABCD-0001ab-Cd ",
            "1wABCD-0001ab-Cd <=",
            "1wABCD-0001ab-Cd =>",
            "1wABCD-0001ab-Cd => |",
            "1wABCD-0001ab-Cd => \"",
            "1wABCD-0001ab-Cd ** 山",
            "1wABCD-0001ab-Cd => 山 <",
            "H=",
            "rejected ",
            "H=[ rejected RCPT",
            "2026-",
        ] {
            parse(text);
        }
    }
}

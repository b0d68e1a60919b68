//! Lines of Postfix, 2.0 to 3.12, and our own.

use crate::entry::{Attempt, Client, Content, Notice, Outcome, Refusal, Severity, Tls, What};
use crate::take::{bracketed, client, digits, number, seconds, until, word};

/// Programs of Postfix: what may stand after the last slash of a tag.
const PROGRAMS: [&str; 42] = [
    "smtpd",
    "smtp",
    "cleanup",
    "qmgr",
    "local",
    "bounce",
    "pickup",
    "lmtp",
    "virtual",
    "pipe",
    "error",
    "retry",
    "discard",
    "postscreen",
    "anvil",
    "scache",
    "trivial-rewrite",
    "tlsmgr",
    "tlsproxy",
    "dnsblog",
    "master",
    "postsuper",
    "postdrop",
    "sendmail",
    "postfix-script",
    "postqueue",
    "postlog",
    "postalias",
    "postmap",
    "proxymap",
    "proxywrite",
    "flush",
    "showq",
    "verify",
    "oqmgr",
    "nqmgr",
    "spawn",
    "qmqpd",
    "defer",
    "trace",
    "postlogd",
    "postmulti",
];

/// Is the last part of a tag a program of Postfix?
pub(crate) fn is_program(program: &str) -> bool {
    PROGRAMS.contains(&program)
}

/// Queue IDs: the short form is hexadecimal, the long one has a `z` and no vowels.
fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 5 || bytes.len() > 20 {
        return false;
    }
    if bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')) {
        return true;
    }
    bytes.len() >= 10
        && bytes.contains(&b'z')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() && !b"aeiouAEIOU".contains(byte))
}

/// Text of a line.
pub(crate) fn parse<'a>(program: &'a str, text: &'a str) -> What<'a> {
    let Some((first, rest)) = until(text, ": ") else { return without_id(program, text, "") };
    if is_id(first) {
        return with_id(program, first, rest);
    }
    let severity = match first {
        "NOQUEUE" => return no_queue(rest),
        "warning" => Severity::Warning,
        "error" => Severity::Error,
        "fatal" => Severity::Fatal,
        "panic" => Severity::Panic,
        _ => return without_id(program, text, first),
    };
    if let Some(what) = trouble_that_tells(rest) {
        return what;
    }
    What::Trouble { severity, text: rest }
}

/// Warnings that decide about a message.
fn trouble_that_tells(text: &str) -> Option<What<'_>> {
    let (id, rest) = until(text, ": ")?;
    if is_id(id) && rest.starts_with("undeliverable postmaster notification discarded") {
        return Some(What::Removed { id, why: "discarded" });
    }
    None
}

fn with_id<'a>(program: &'a str, id: &'a str, rest: &'a str) -> What<'a> {
    let bytes = rest.as_bytes();
    let found = match bytes.first() {
        Some(b't') if rest.starts_with("to=<") => attempt(id, &rest[4..]),
        Some(b'f') if rest.starts_with("from=<") => from(id, &rest[6..]),
        Some(b'c') if rest.starts_with("client=") => Some(accepted(id, &rest[7..])),
        Some(b'm') if rest.starts_with("message-id=") => {
            Some(What::Identified { id, message_id: rest[11..].trim_end(), resent: false })
        }
        Some(b'r') if rest == "removed" && program == "postsuper" => Some(What::Operated { id, what: "removed" }),
        Some(b'r') if rest.starts_with("removed") => Some(What::Removed {
            id,
            why: match &rest[7..] {
                " (canceled)" => "canceled",
                " (discarded)" => "discarded",
                _ => "",
            },
        }),
        Some(b'r') if rest.starts_with("resent-message-id=") => {
            Some(What::Identified { id, message_id: rest[18..].trim_end(), resent: true })
        }
        Some(b'u') if rest.starts_with("uid=") => {
            let (uid, after) = word(&rest[4..]);
            let sender = after.strip_prefix("from=<").map_or("", |after| bracketed(after).0);
            Some(What::PickedUp { id, uid, sender })
        }
        // Before 2.0.
        Some(b's') if rest.starts_with("sender=") && program == "pickup" => {
            Some(What::PickedUp { id, uid: "", sender: rest[7..].trim_matches(['<', '>']) })
        }
        Some(b's' | b'p') if rest.contains("notification: ") => notice(id, rest),
        _ => None,
    };
    if let Some(found) = found {
        return found;
    }
    match rest {
        "requeued" | "placed on hold" | "released from hold" | "expired" => return What::Operated { id, what: rest },
        _ => {}
    }
    if let Some(what) = decision(program, id, rest) {
        return what;
    }
    if let Some(what) = session(rest) {
        return what;
    }
    let known = [
        "host ",
        "lost connection with ",
        "conversation with ",
        "enabling PIX",
        "skipped, still being delivered",
        "Cannot start TLS",
        "TLS is required",
        "Server certificate not",
        "server ",
        "SASL authentication",
        "replace: ",
        "breaking line",
        "Host offered",
        "connect to ",
        "passing <",
        "sender=",
        "filter=",
        "orig_",
        "size=",
        "proxy-",
        "dns",
    ];
    if known.iter().any(|words| rest.starts_with(words)) { What::Remark { id } } else { What::Unknown }
}

/// After `to=<`.
fn attempt<'a>(id: &'a str, rest: &'a str) -> Option<What<'a>> {
    let (recipient, rest) = bracketed(rest);
    let mut rest = rest.strip_prefix(", ")?;
    let mut attempt = Attempt {
        id,
        recipient,
        original: "",
        sender: "",
        relay: "",
        connection_use: 1,
        delay: None,
        delays: None,
        tls: "",
        dsn: "",
        outcome: Outcome::Sent,
        reason: "",
    };
    if let Some(after) = rest.strip_prefix("orig_to=<") {
        let (original, after) = bracketed(after);
        attempt.original = original;
        rest = after.strip_prefix(", ")?;
    }
    // `status=` is the last one: what follows is the peer's text and may contain anything.
    loop {
        let (name, after) = until(rest, "=")?;
        if name == "status" {
            let (state, reason) = word(after);
            attempt.outcome = match state {
                "sent" => Outcome::Sent,
                "deferred" => Outcome::Deferred,
                "bounced" => Outcome::Bounced,
                "SOFTBOUNCE" => Outcome::SoftBounce,
                "deliverable" => Outcome::Deliverable,
                "undeliverable" => Outcome::Undeliverable,
                "expired" => Outcome::Expired,
                _ => return None,
            };
            let reason = reason.strip_prefix('(').unwrap_or(reason);
            // A line that was cut has no closing parenthesis.
            attempt.reason = reason.strip_suffix(')').unwrap_or(reason);
            if attempt.outcome == Outcome::Sent && attempt.reason.starts_with("forwarded as ") {
                attempt.outcome = Outcome::Forwarded;
            }
            return Some(What::Attempt(attempt));
        }
        let (value, after) = until(after, ", ")?;
        match name {
            "relay" => attempt.relay = value,
            "conn_use" => attempt.connection_use = digits(value).and_then(|uses| u32::try_from(uses).ok()).unwrap_or(1),
            "delay" => attempt.delay = seconds(value),
            "delays" => attempt.delays = four(value),
            "tls" => attempt.tls = value,
            "dsn" => attempt.dsn = value,
            // What a later version adds is passed over.
            _ if name.len() < 32 && !name.contains(' ') => {}
            _ => return None,
        }
        rest = after;
    }
}

fn four(text: &str) -> Option<[u64; 4]> {
    let mut parts = text.split('/').map(seconds);
    let four = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(four)
}

/// After `from=<`.
fn from<'a>(id: &'a str, rest: &'a str) -> Option<What<'a>> {
    let (sender, rest) = bracketed(rest);
    let rest = rest.strip_prefix(", ")?;
    if let Some(rest) = rest.strip_prefix("size=") {
        let (size, rest) = number(rest)?;
        let recipients = rest.strip_prefix(", nrcpt=").and_then(number).map(|(count, _)| count as u32);
        return Some(What::Queued {
            id,
            sender,
            size: Some(size),
            recipients,
            message_id: "",
            client: Client::default(),
            sasl_username: "",
            about: "",
            begins: false,
        });
    }
    let forced = rest.starts_with("status=force-expired");
    (forced || rest.starts_with("status=expired")).then_some(What::Expired { id, sender, forced })
}

/// After `client=`.
fn accepted<'a>(id: &'a str, rest: &'a str) -> What<'a> {
    let (who, rest) = until(rest, ", ").unwrap_or((rest, ""));
    let sasl_username =
        until(rest, "sasl_username=").map_or("", |(_, after)| until(after, ", ").map_or(after, |(user, _)| user));
    What::Accepted { id, client: client(who), sasl_username }
}

fn notice<'a>(id: &'a str, rest: &'a str) -> Option<What<'a>> {
    let (kind, notice_id) = until(rest, ": ")?;
    let notice = match kind {
        "sender non-delivery notification" => Notice::Failure,
        "sender delay notification" => Notice::Delay,
        "sender delivery status notification" => Notice::Success,
        "postmaster non-delivery notification" | "postmaster delay notification" => Notice::Postmaster,
        _ => return None,
    };
    Some(What::Noticed { id, notice, notice_id: notice_id.trim_end() })
}

fn no_queue(rest: &str) -> What<'_> {
    decision("", "", rest).or_else(|| session(rest)).unwrap_or(What::Unknown)
}

/// `word: STAGE from CLIENT: text; from=<..> to=<..> proto=.. helo=<..>`, and cleanup's
/// `word: header LINE from CLIENT; from=<..> to=<..> proto=.. helo=<..>: text`.
fn decision<'a>(program: &'a str, id: &'a str, rest: &'a str) -> Option<What<'a>> {
    const WORDS: [&str; 24] = [
        "reject",
        "reject_warning",
        "hold",
        "discard",
        "warn",
        "warning",
        "redirect",
        "filter",
        "bcc",
        "info",
        "permit",
        "prepend",
        "delay",
        "hangup",
        "milter-reject",
        "milter-hold",
        "milter-discard",
        "proxy-reject",
        "proxy-accept",
        "replace",
        "strip",
        "pass",
        "bounce",
        "ignore",
    ];
    let (verb, rest) = until(rest, ": ")?;
    if !WORDS.contains(&verb) {
        return None;
    }
    const CLASSES: [&str; 5] = ["header ", "body ", "mime header ", "nested header ", "milter header "];
    if let Some(class) = CLASSES.iter().find(|class| rest.starts_with(**class))
        && program != "smtpd"
    {
        return Some(What::Content(content(id, verb, &class[..class.len() - 1], &rest[class.len()..])));
    }
    let mut refusal = Refusal { id, word: verb, ..Refusal::default() };
    let (stage, after) = until(rest, " from ").unwrap_or((rest, ""));
    // A stage is one word; some have none: `END-OF-MESSAGE: 250 ...` of a proxy.
    if stage.contains(' ') {
        let (stage, text) = until(rest, ": ").unwrap_or((rest, ""));
        refusal.stage = stage;
        refusal.text = text;
        return Some(What::Refused(refusal));
    }
    refusal.stage = stage;
    let (who, text) = until(after, "]: ")
        .map_or_else(|| until(after, ": ").unwrap_or((after, "")), |(who, text)| (&after[..who.len() + 1], text));
    // With `smtpd_client_port_logging` there is a port before the colon.
    let (who, text) = match until(after, "]:") {
        Some((before, tail)) if before.len() < who.len() && tail.as_bytes().first().is_some_and(u8::is_ascii_digit) => {
            let (_, text) = until(tail, ": ").unwrap_or((tail, ""));
            (&after[..before.len() + 1], text)
        }
        _ => (who, text),
    };
    refusal.client = client(who);
    let (text, envelope) = split_envelope(text);
    refusal.text = text;
    let envelope = envelope_fields(envelope);
    (refusal.sender, refusal.recipient, refusal.helo) = (envelope.sender, envelope.recipient, envelope.helo);
    Some(What::Refused(refusal))
}

fn content<'a>(id: &'a str, verb: &'a str, class: &'a str, rest: &'a str) -> Content<'a> {
    let (line, envelope) = split_envelope(rest);
    let (line, who) = match line.rfind(" from ") {
        Some(at) => (&line[..at], &line[at + 6..]),
        None => (line, ""),
    };
    let fields = envelope_fields(envelope);
    Content {
        id,
        word: verb,
        class,
        content: line,
        client: if who == "local" { Client::default() } else { client(who) },
        sender: fields.sender,
        recipient: fields.recipient,
        text: fields.text,
    }
}

/// The text of a reply may have semicolons; the envelope comes after the last `; from=<` or `; proto=`.
fn split_envelope(text: &str) -> (&str, &str) {
    let at = memchr::memmem::rfind(text.as_bytes(), b"; from=<")
        .or_else(|| memchr::memmem::rfind(text.as_bytes(), b"; proto="))
        .or_else(|| memchr::memmem::rfind(text.as_bytes(), b"; to=<"));
    match at {
        Some(at) => (&text[..at], &text[at + 2..]),
        None => (text.strip_suffix(';').unwrap_or(text), ""),
    }
}

#[derive(Default)]
struct Envelope<'a> {
    sender: Option<&'a str>,
    recipient: Option<&'a str>,
    helo: &'a str,
    text: &'a str,
}

/// `from=<a> to=<b> proto=ESMTP helo=<c>: text`; postscreen puts commas between.
fn envelope_fields(mut rest: &str) -> Envelope<'_> {
    let mut envelope = Envelope::default();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix("from=<") {
            let (value, after) = bracketed(after);
            envelope.sender = Some(value);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("to=<") {
            let (value, after) = bracketed(after);
            envelope.recipient = Some(value);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("helo=<") {
            let (value, after) = bracketed(after);
            envelope.helo = value;
            rest = after;
        } else if let Some(after) = rest.strip_prefix(": ") {
            envelope.text = after;
            return envelope;
        } else if rest.starts_with("proto=") || rest.starts_with("sasl_") {
            let end = rest.find([' ', ',', ':']).unwrap_or(rest.len());
            rest = &rest[end..];
        } else {
            return envelope;
        }
    }
}

/// Lines about a session: they may have a queue ID or `NOQUEUE` before them, or nothing.
fn session(text: &str) -> Option<What<'_>> {
    for (words, how) in [
        ("lost connection after ", "lost connection"),
        ("timeout after ", "timeout"),
        ("too many errors after ", "too many errors"),
    ] {
        if let Some(rest) = text.strip_prefix(words) {
            let (after, who) = until(rest, " from ").unwrap_or((rest, ""));
            return Some(What::SessionEnded { how, after, client: client(who) });
        }
    }
    None
}

fn without_id<'a>(program: &'a str, text: &'a str, first: &'a str) -> What<'a> {
    if let Some(who) = text.strip_prefix("connect from ") {
        return What::Connected(client(who));
    }
    if let Some(rest) = text.strip_prefix("disconnect from ") {
        return What::Disconnected(client(until(rest, "] ").map_or(rest, |(who, _)| who)));
    }
    if let Some(what) = session(text) {
        return what;
    }
    if let Some(rest) = text.strip_prefix("connect to ") {
        // The address of a host may have colons: the reason comes after the last bracket.
        let (who, why) = until(rest, "]").map_or_else(
            || until(rest, ": ").unwrap_or((rest, "")),
            |(who, after)| (who, until(after, ": ").map_or(after, |(_, why)| why)),
        );
        return What::ConnectFailed { peer: client(who), why };
    }
    if let Some(tls) = tls(text) {
        return What::Tls(tls);
    }
    // Before 2.0 a refusal had no NOQUEUE before it.
    if matches!(first, "reject" | "reject_warning" | "hold" | "discard")
        && let Some(what) = decision(program, "", text)
    {
        return what;
    }
    remark(program, text)
}

/// `Untrusted TLS connection established to mx[192.0.2.1]:25: TLSv1.3 with cipher NAME (256/256 bits) ...`
fn tls(text: &str) -> Option<Tls<'_>> {
    let (level, rest) = word(text);
    let rest = rest.strip_prefix("TLS connection ")?;
    let rest = rest.strip_prefix("established ").or_else(|| rest.strip_prefix("reused "))?;
    let (outgoing, rest) = match rest.strip_prefix("to ") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix("from ")?),
    };
    let (peer, rest) = until(rest, ": ")?;
    let (protocol, rest) = word(rest);
    let cipher = rest.strip_prefix("with cipher ").map_or("", |rest| word(rest).0);
    Some(Tls { level, outgoing, peer: client(peer), protocol, cipher })
}

/// What is known and decides nothing.
fn remark<'a>(program: &str, text: &str) -> What<'a> {
    const ANYWHERE: [&str; 32] = [
        "statistics: ",
        "setting up TLS connection ",
        "SSL_accept ",
        "SSL_connect ",
        "initializing the server-side TLS",
        "initializing the client-side TLS",
        "certificate verification failed",
        "improper command pipelining",
        "table ",
        "using backwards-compatible",
        "Host offered STARTTLS",
        "proxy-accept",
        "proxy-reject",
        "cache ",
        "daemon started",
        "terminating on signal",
        "reload ",
        "starting the ",
        "stopping the ",
        "refreshing the ",
        "the Postfix mail system",
        "addr ",
        "rewrite ",
        "name_mask",
        "dict_",
        "Deleted: ",
        "Requeued: ",
        "Placed on hold: ",
        "Released from hold: ",
        "Force-expired: ",
        // `destination_concurrency_feedback_debug`
        "qmgr_queue_throttle: ",
        "qmgr_queue_unthrottle: ",
    ];
    let service = matches!(
        program,
        "anvil"
            | "scache"
            | "tlsmgr"
            | "verify"
            | "master"
            | "postfix-script"
            | "postscreen"
            | "dnsblog"
            | "tlsproxy"
            | "flush"
            | "postmulti"
    );
    // The same: a transport, a parameter, `feedback type 0 value at 5: 1`.
    let feedback = program == "qmgr" && text.contains("_feedback feedback type ");
    if service || feedback || ANYWHERE.iter().any(|words| text.starts_with(words)) {
        What::Remark { id: "" }
    } else {
        What::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt_of(text: &str) -> Attempt<'_> {
        match parse("smtp", text) {
            What::Attempt(attempt) => attempt,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn deliveries_of_all_ages() {
        let old = attempt_of("9C5269BCFE4: to=<a@b.jp>, relay=mx.b.jp[192.0.2.1], delay=95, status=sent (250 ok)");
        assert_eq!((old.id, old.recipient, old.relay), ("9C5269BCFE4", "a@b.jp", "mx.b.jp[192.0.2.1]"));
        assert_eq!((old.delay, old.delays, old.dsn, old.reason), (Some(95_000_000), None, "", "250 ok"));
        let new = attempt_of(
            "4XyZ0123456z1: to=<a@b.jp>, orig_to=<\"x>, y\"@c>, relay=mx.b.jp[192.0.2.1]:25, conn_use=3, delay=1.5, \
             delays=0.1/0/1/0.4, tls=may:none, dsn=5.1.1, status=bounced (host mx.b.jp[192.0.2.1] said: 550 status=sent (ha))",
        );
        assert_eq!((new.original, new.connection_use, new.tls), ("\"x>, y\"@c", 3, "may:none"));
        assert_eq!((new.outcome, new.delays), (Outcome::Bounced, Some([100_000, 0, 1_000_000, 400_000])));
        assert_eq!(new.reason, "host mx.b.jp[192.0.2.1] said: 550 status=sent (ha)");
        let later = attempt_of("9C5269BCFE4: to=<a@b>, relay=x, delay=1, newer=7, dsn=4.0.0, status=deferred (cut off");
        assert_eq!((later.outcome, later.reason), (Outcome::Deferred, "cut off"));
        let forwarded = attempt_of(
            "9C5269BCFE4: to=<a@b>, relay=local, delay=1, dsn=2.0.0, status=sent (forwarded as 9C5269BCFE5)",
        );
        assert_eq!(forwarded.outcome, Outcome::Forwarded);
    }

    #[test]
    fn messages() {
        let id = "9C5269BCFE4";
        let cases: &[(&str, &str, What<'_>)] = &[
            (
                "qmgr",
                "9C5269BCFE4: from=<s@x>, size=1234, nrcpt=2 (queue active)",
                What::Queued {
                    id,
                    sender: "s@x",
                    size: Some(1234),
                    recipients: Some(2),
                    message_id: "",
                    client: Client::default(),
                    sasl_username: "",
                    about: "",
                    begins: false,
                },
            ),
            (
                "qmgr",
                "9C5269BCFE4: from=<s@x>, status=expired, returned to sender",
                What::Expired { id, sender: "s@x", forced: false },
            ),
            (
                "qmgr",
                "9C5269BCFE4: from=<>, status=force-expired, returned to sender",
                What::Expired { id, sender: "", forced: true },
            ),
            ("qmgr", "9C5269BCFE4: removed", What::Removed { id, why: "" }),
            ("cleanup", "9C5269BCFE4: removed (discarded)", What::Removed { id, why: "discarded" }),
            ("postsuper", "9C5269BCFE4: removed", What::Operated { id, what: "removed" }),
            ("postsuper", "9C5269BCFE4: placed on hold", What::Operated { id, what: "placed on hold" }),
            ("cleanup", "9C5269BCFE4: message-id=<m@x>", What::Identified { id, message_id: "<m@x>", resent: false }),
            (
                "cleanup",
                "9C5269BCFE4: resent-message-id=<m@x>",
                What::Identified { id, message_id: "<m@x>", resent: true },
            ),
            ("pickup", "9C5269BCFE4: uid=1000 from=<me>", What::PickedUp { id, uid: "1000", sender: "me" }),
            (
                "smtpd",
                "9C5269BCFE4: client=c.x[192.0.2.7]:4711, sasl_method=PLAIN, sasl_username=bob, sasl_sender=e",
                What::Accepted { id, client: Client { name: "c.x", address: "192.0.2.7" }, sasl_username: "bob" },
            ),
            (
                "bounce",
                "9C5269BCFE4: sender non-delivery notification: 9C5269BCFE5",
                What::Noticed { id, notice: Notice::Failure, notice_id: "9C5269BCFE5" },
            ),
            (
                "bounce",
                "9C5269BCFE4: postmaster delay notification: 9C5269BCFE5",
                What::Noticed { id, notice: Notice::Postmaster, notice_id: "9C5269BCFE5" },
            ),
            (
                "bounce",
                "warning: 9C5269BCFE4: undeliverable postmaster notification discarded",
                What::Removed { id, why: "discarded" },
            ),
            (
                "smtpd",
                "connect from unknown[2001:db8::1]:99",
                What::Connected(Client { name: "unknown", address: "2001:db8::1" }),
            ),
            (
                "smtpd",
                "disconnect from a.b[192.0.2.1] ehlo=1 quit=1 commands=2",
                What::Disconnected(Client { name: "a.b", address: "192.0.2.1" }),
            ),
            (
                "smtpd",
                "NOQUEUE: lost connection after EHLO from a.b[192.0.2.1]",
                What::SessionEnded {
                    how: "lost connection",
                    after: "EHLO",
                    client: Client { name: "a.b", address: "192.0.2.1" },
                },
            ),
            (
                "smtpd",
                "9C5269BCFE4: timeout after DATA (12 bytes) from a.b[192.0.2.1]",
                What::SessionEnded {
                    how: "timeout",
                    after: "DATA (12 bytes)",
                    client: Client { name: "a.b", address: "192.0.2.1" },
                },
            ),
            (
                "smtp",
                "connect to mx.b[2001:db8::1]:25: Connection refused",
                What::ConnectFailed {
                    peer: Client { name: "mx.b", address: "2001:db8::1" },
                    why: "Connection refused",
                },
            ),
            (
                "smtp",
                "Untrusted TLS connection established to mx[192.0.2.1]:25: TLSv1.3 with cipher A_B (256/256 bits)",
                What::Tls(Tls {
                    level: "Untrusted",
                    outgoing: true,
                    peer: Client { name: "mx", address: "192.0.2.1" },
                    protocol: "TLSv1.3",
                    cipher: "A_B",
                }),
            ),
            (
                "smtpd",
                "warning: hostname x does not resolve",
                What::Trouble { severity: Severity::Warning, text: "hostname x does not resolve" },
            ),
            ("anvil", "statistics: max cache size 1 at Apr 30 06:32:00", What::Remark { id: "" }),
            (
                "smtp",
                "9C5269BCFE4: host mx[192.0.2.1] said: 450 later (in reply to RCPT TO command)",
                What::Remark { id },
            ),
            ("smtpd", "what is this", What::Unknown),
            ("qmgr", "qmgr_queue_throttle: feedback 1", What::Remark { id: "" }),
            (
                "qmgr",
                "qmgr_queue_unthrottle: queue [127.0.0.1]:2525: limit 7 window 5 success 0 failure 0 fail_cohorts 0",
                What::Remark { id: "" },
            ),
            (
                "qmgr",
                "relay: relay_destination_concurrency_negative_feedback feedback type 1 value at 5: 0.2",
                What::Remark { id: "" },
            ),
        ];
        for (program, text, wanted) in cases {
            assert_eq!(parse(program, text), *wanted, "{text}");
        }
    }

    #[test]
    fn decisions() {
        let text = "NOQUEUE: reject: RCPT from h.x[192.0.2.1]:99: 550 5.1.1 <u@v>: Recipient address rejected: a; b; \
                    from=<a@b> to=<u@v> proto=ESMTP helo=<c.test>";
        let What::Refused(refusal) = parse("smtpd", text) else { panic!() };
        assert_eq!(
            (refusal.word, refusal.stage, refusal.client.name, refusal.client.address),
            ("reject", "RCPT", "h.x", "192.0.2.1")
        );
        assert_eq!(refusal.text, "550 5.1.1 <u@v>: Recipient address rejected: a; b");
        assert_eq!((refusal.sender, refusal.recipient, refusal.helo), (Some("a@b"), Some("u@v"), "c.test"));
        let text = "NOQUEUE: reject: RCPT from [192.0.2.1]:99: 450 4.3.2 Service currently unavailable; from=<a>, to=<b>, proto=ESMTP, helo=<c>";
        let What::Refused(refusal) = parse("postscreen", text) else { panic!() };
        assert_eq!((refusal.client.address, refusal.recipient, refusal.helo), ("192.0.2.1", Some("b"), "c"));
        assert_eq!(refusal.text, "450 4.3.2 Service currently unavailable");
        let text = "NOQUEUE: reject: CONNECT from x[2001:db8::1]: 554 5.7.1 <x[2001:db8::1]>: Client host rejected: Access denied; proto=SMTP";
        let What::Refused(refusal) = parse("smtpd", text) else { panic!() };
        assert_eq!((refusal.client.address, refusal.stage, refusal.sender), ("2001:db8::1", "CONNECT", None));
        assert_eq!(refusal.text, "554 5.7.1 <x[2001:db8::1]>: Client host rejected: Access denied");
        let text = "9C5269BCFE4: milter-reject: END-OF-MESSAGE from h[192.0.2.1]: 5.7.1 no; from=<a> to=<b> proto=ESMTP helo=<c>";
        let What::Refused(refusal) = parse("cleanup", text) else { panic!() };
        assert_eq!(
            (refusal.id, refusal.word, refusal.stage, refusal.text),
            ("9C5269BCFE4", "milter-reject", "END-OF-MESSAGE", "5.7.1 no")
        );
        let text = "9C5269BCFE4: reject: header Subject: mail from me from h[192.0.2.1]; from=<a> to=<b> proto=ESMTP helo=<c>: 5.7.1 no thanks";
        let What::Content(content) = parse("cleanup", text) else { panic!() };
        assert_eq!(
            (content.class, content.content, content.text),
            ("header", "Subject: mail from me", "5.7.1 no thanks")
        );
        assert_eq!((content.client.address, content.sender, content.recipient), ("192.0.2.1", Some("a"), Some("b")));
        let text = "9C5269BCFE4: discard: body viagra from local; from=<a>";
        let What::Content(content) = parse("cleanup", text) else { panic!() };
        assert_eq!(
            (content.word, content.class, content.content, content.client),
            ("discard", "body", "viagra", Client::default())
        );
        // Before 2.0.
        let text = "reject: RCPT from h[192.0.2.1]: 550 <u@v>: User unknown; from=<a> to=<u@v>";
        assert!(matches!(parse("smtpd", text), What::Refused(Refusal { stage: "RCPT", .. })));
    }

    #[test]
    fn hostile_lines() {
        for text in [
            "",
            ": ",
            "9C5269BCFE4: ",
            "9C5269BCFE4: to=<",
            "9C5269BCFE4: to=<a>",
            "9C5269BCFE4: to=<a>, ",
            "9C5269BCFE4: to=<\"a>, relay=",
            "9C5269BCFE4: to=<a>, relay=x, status=odd (x)",
            "9C5269BCFE4: from=<",
            "9C5269BCFE4: from=<a>, size=",
            "9C5269BCFE4: client=",
            "NOQUEUE: reject: ",
            "NOQUEUE: reject: RCPT from",
            "NOQUEUE: reject: RCPT from ]:",
            "NOQUEUE: reject: RCPT from ]: ",
            "9C5269BCFE4: reject: header ",
            "9C5269BCFE4: uid=",
            "connect from ",
            "connect to ",
            "disconnect from ",
            "Trusted TLS connection established to ",
            "warning: ",
            "warning: 9C5269BCFE4: ",
            "山: 山",
            "9C5269BCFE4: 山",
            "9C5269BCFE4: to=<山>, relay=山",
            "lost connection after ",
        ] {
            for program in ["smtp", "smtpd", "cleanup", "qmgr", "pickup", "postsuper"] {
                parse(program, text);
            }
        }
    }
}

//! Lines of qmail-send, through multilog or splogger.

use crate::entry::{Client, Notice, Outcome, What};
use crate::take::{number, until};

/// Text of a line. Deliveries have numbers of their own: [`crate::join`] puts their beginning and end together.
pub(crate) fn parse(text: &str) -> What<'_> {
    // splogger writes `1795280034.123456 ` before the text.
    let text = match text.split_once(' ') {
        Some((first, rest)) if first.contains('.') && first.bytes().all(|b| b.is_ascii_digit() || b == b'.') => rest,
        _ => text,
    };
    for (words, reader) in READERS {
        if let Some(rest) = text.strip_prefix(words) {
            return reader(rest).unwrap_or(What::Unknown);
        }
    }
    const KNOWN: [&str; 10] = [
        "status: ",
        "running",
        "exiting",
        "alert: ",
        "warning: ",
        "triple bounce: ",
        "internal error",
        "tcpserver: ",
        "cannot start",
        "number of ",
    ];
    if KNOWN.iter().any(|words| text.starts_with(words)) { What::Remark { id: "" } } else { What::Unknown }
}

/// Is this text one of qmail's? Its own files have no tag to tell.
pub(crate) fn is_text(text: &str) -> bool {
    !matches!(parse(text), What::Unknown)
}

type Reader = for<'a> fn(&'a str) -> Option<What<'a>>;

const READERS: [(&str, Reader); 6] = [
    ("new msg ", new),
    ("info msg ", info),
    ("starting delivery ", start),
    ("delivery ", end),
    ("bounce msg ", bounce),
    ("end msg ", gone),
];

/// The digits at the beginning as text, and what follows.
fn id(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = number(text)?;
    Some((&text[..text.len() - rest.len()], rest))
}

fn new(rest: &str) -> Option<What<'_>> {
    // The number is the inode of a file: whatever had it before is over.
    let (id, _) = id(rest)?;
    Some(What::Accepted { id, client: Client::default(), sasl_username: "" })
}

/// `93869: bytes 2343 from <a@b> qp 18695 uid 49491`
fn info(rest: &str) -> Option<What<'_>> {
    let (id, rest) = id(rest)?;
    let (size, rest) = number(rest.strip_prefix(": bytes ")?)?;
    let rest = rest.strip_prefix(" from <")?;
    let end = memchr::memmem::rfind(rest.as_bytes(), b"> qp ").unwrap_or(rest.trim_end_matches('>').len());
    Some(What::Queued {
        id,
        sender: &rest[..end],
        size: Some(size),
        recipients: None,
        message_id: "",
        client: Client::default(),
        sasl_username: "",
        about: "",
        begins: true,
    })
}

/// `392: msg 93869 to remote x@y`
fn start(rest: &str) -> Option<What<'_>> {
    let (delivery, rest) = number(rest)?;
    let (id, rest) = id(rest.strip_prefix(": msg ")?)?;
    let (remote, recipient) = match rest.strip_prefix(" to remote ") {
        Some(recipient) => (true, recipient),
        None => (false, rest.strip_prefix(" to local ")?),
    };
    Some(What::QmailStart { delivery, id, remote, recipient })
}

/// `392: success: 192.0.2.1_accepted_message./Remote_host_said:_250_ok/`
fn end(rest: &str) -> Option<What<'_>> {
    let (delivery, rest) = number(rest)?;
    let (word, text) = until(rest.strip_prefix(": ")?, ": ")?;
    let outcome = match word {
        "success" => Outcome::Sent,
        "failure" => Outcome::Bounced,
        "deferral" => Outcome::Deferred,
        _ => return None,
    };
    Some(What::QmailEnd { delivery, outcome, text })
}

fn bounce(rest: &str) -> Option<What<'_>> {
    let (id, _) = id(rest)?;
    Some(What::Noticed { id, notice: Notice::Failure, notice_id: "" })
}

fn gone(rest: &str) -> Option<What<'_>> {
    let (id, _) = id(rest)?;
    Some(What::Removed { id, why: "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let queued = What::Queued {
            id: "93869",
            sender: "a@b",
            size: Some(2343),
            recipients: None,
            message_id: "",
            client: Client::default(),
            sasl_username: "",
            about: "",
            begins: true,
        };
        for (text, wanted) in [
            ("new msg 93869", What::Accepted { id: "93869", client: Client::default(), sasl_username: "" }),
            ("1795280034.123456 info msg 93869: bytes 2343 from <a@b> qp 18695 uid 49491", queued),
            (
                "starting delivery 392: msg 93869 to remote x@y",
                What::QmailStart { delivery: 392, id: "93869", remote: true, recipient: "x@y" },
            ),
            (
                "delivery 392: success: 192.0.2.1_accepted_message./",
                What::QmailEnd { delivery: 392, outcome: Outcome::Sent, text: "192.0.2.1_accepted_message./" },
            ),
            ("delivery 5: deferral: x: y", What::QmailEnd { delivery: 5, outcome: Outcome::Deferred, text: "x: y" }),
            ("bounce msg 93869 qp 18700", What::Noticed { id: "93869", notice: Notice::Failure, notice_id: "" }),
            ("end msg 93869", What::Removed { id: "93869", why: "" }),
            ("status: local 0/10 remote 1/20", What::Remark { id: "" }),
            ("triple bounce: discarding bounce/93869", What::Remark { id: "" }),
            ("something else", What::Unknown),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
        for text in [
            "",
            "new msg ",
            "new msg x",
            "info msg 1",
            "starting delivery 1: msg 2 to nowhere x",
            "delivery 1: odd: x",
            "delivery 99999999999999999999: success: x",
        ] {
            assert_eq!(parse(text), What::Unknown, "{text}");
        }
    }
}

//! The text of an outcome taken apart: who said what, at which stage.
//!
//! `host mx.b.jp[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command)` is a reply of that host at RCPT;
//! `lost connection with mx.b.jp[192.0.2.1] while sending end of data -- message may be sent more than once` is nobody's
//! reply, and nobody knows what became of the message.

use yamabiko_envelope::SmtpStage;

use crate::entry::{Client, System};
use crate::take::{client, until};

/// What a reason says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'a> {
    /// Who said it; empty where it is our own text.
    pub host: Client<'a>,
    /// The reply, without the words around it; our own text where there was none.
    pub reply: &'a str,
    /// The stage at which it was said, or at which it failed.
    pub stage: Option<SmtpStage>,
    /// It was said by the other side: [`Said::reply`] is theirs to the letter.
    pub remote: bool,
    /// The connection broke after the final dot: the message may have arrived all the same.
    pub uncertain: bool,
    /// Nothing was tried: the destination was known to be down (`delivery temporarily suspended`).
    pub suspended: bool,
}

/// Takes a reason apart, as the system that wrote it means it.
pub fn said(system: System, reason: &str) -> Said<'_> {
    match system {
        System::Postfix => postfix(reason),
        System::Exim => exim(reason),
        System::Qmail => qmail(reason),
        System::Sendmail => {
            let code = reason.bytes().take(3).filter(u8::is_ascii_digit).count() == 3;
            Said { reply: reason, remote: code, ..Said::default() }
        }
    }
}

/// The first word of `in reply to ...`.
fn command(text: &str) -> Option<SmtpStage> {
    Some(match text {
        _ if text.starts_with("MAIL") => SmtpStage::Mail,
        _ if text.starts_with("RCPT") => SmtpStage::Rcpt,
        _ if text.starts_with("DATA") => SmtpStage::Data,
        _ if text.starts_with("BDAT") || text.starts_with("end of DATA") => SmtpStage::EndOfData,
        _ if text.starts_with("EHLO") || text.starts_with("LHLO") => SmtpStage::Ehlo,
        _ if text.starts_with("HELO") => SmtpStage::Helo,
        _ if text.starts_with("STARTTLS") => SmtpStage::StartTls,
        _ if text.starts_with("AUTH") => SmtpStage::Auth,
        _ if text.starts_with("XFORWARD") => SmtpStage::Xforward,
        _ if text.contains("RSET") => SmtpStage::Rset,
        _ if text.starts_with("QUIT") => SmtpStage::Quit,
        _ => return None,
    })
}

/// What was being done when a connection broke.
fn activity(text: &str) -> Option<SmtpStage> {
    Some(match text {
        _ if text.contains("greeting") => SmtpStage::Greeting,
        _ if text.contains("EHLO") || text.contains("LHLO") => SmtpStage::Ehlo,
        _ if text.contains("HELO") => SmtpStage::Helo,
        _ if text.contains("STARTTLS") || text.contains("TLS") => SmtpStage::StartTls,
        _ if text.contains("AUTH") => SmtpStage::Auth,
        _ if text.contains("XFORWARD") => SmtpStage::Xforward,
        _ if text.contains("MAIL FROM") => SmtpStage::Mail,
        _ if text.contains("RCPT TO") => SmtpStage::Rcpt,
        _ if text.contains("end of data") => SmtpStage::EndOfData,
        _ if text.contains("message body") => SmtpStage::Body,
        _ if text.contains("DATA") => SmtpStage::Data,
        _ if text.contains("RSET") => SmtpStage::Rset,
        _ if text.contains("QUIT") => SmtpStage::Quit,
        _ => return None,
    })
}

fn postfix(reason: &str) -> Said<'_> {
    if let Some(rest) = reason.strip_prefix("delivery temporarily suspended: ") {
        return Said { suspended: true, ..postfix(rest) };
    }
    if let Some(rest) = reason.strip_prefix("host ") {
        if let Some((host, reply)) = until(rest, " said: ") {
            let (reply, stage) = match reply.rfind(" (in reply to ") {
                Some(at) => (&reply[..at], command(&reply[at + 14..])),
                None => (reply, None),
            };
            return Said { host: client(host), reply, stage, remote: true, ..Said::default() };
        }
        if let Some((host, reply)) = until(rest, " refused to talk to me: ") {
            return Said {
                host: client(host),
                reply,
                stage: Some(SmtpStage::Greeting),
                remote: true,
                ..Said::default()
            };
        }
    }
    for (words, what) in [("lost connection with ", "while "), ("conversation with ", "timed out while ")] {
        if let Some(rest) = reason.strip_prefix(words)
            && let Some((host, doing)) = until(rest, what)
        {
            let uncertain = doing.contains("end of data");
            return Said { host: client(host), reply: reason, stage: activity(doing), uncertain, ..Said::default() };
        }
    }
    if let Some(rest) = reason.strip_prefix("connect to ") {
        let host = until(rest, "]").map_or_else(|| until(rest, ": ").map_or(rest, |(host, _)| host), |(host, _)| host);
        return Said { host: client(host), reply: reason, stage: Some(SmtpStage::Connect), ..Said::default() };
    }
    if let Some((host, reply)) = until(reason, "; server ").map_or(reason, |(_, rest)| rest).split_once(" said: ")
        && reason.starts_with("SASL authentication failed")
    {
        return Said { host: client(host), reply, stage: Some(SmtpStage::Auth), remote: true, ..Said::default() };
    }
    if reason.starts_with("TLS is required")
        || reason.starts_with("Cannot start TLS")
        || reason.starts_with("Server certificate")
    {
        return Said { reply: reason, stage: Some(SmtpStage::StartTls), ..Said::default() };
    }
    // `250 2.0.0 Ok: queued as X` of a delivery that went well: the reply to the end of the content.
    let code = reason
        .get(..4)
        .is_some_and(|code| code.bytes().take(3).all(|b| b.is_ascii_digit()) && code.ends_with([' ', '-']));
    if code {
        return Said { reply: reason, stage: Some(SmtpStage::EndOfData), remote: true, ..Said::default() };
    }
    let lookup = reason.starts_with("Host or domain name not found")
        || reason.starts_with("Name service error")
        || reason.starts_with("unable to look up");
    Said { reply: reason, stage: lookup.then_some(SmtpStage::Lookup), ..Said::default() }
}

/// `SMTP error from remote mail server after RCPT TO:<a@b>: 550 no`, with `host mx [192.0.2.1]: ` in it (before 4.88), or
/// `Connection refused`.
fn exim(reason: &str) -> Said<'_> {
    let Some((_, rest)) = until(reason, "SMTP error from remote ") else {
        let stage = match reason {
            _ if reason.contains("end of data") || reason.contains("data timeout") => Some(SmtpStage::EndOfData),
            _ if reason.contains("Connection ") || reason.contains("Connection timed out") => Some(SmtpStage::Connect),
            _ if reason.contains("TLS") => Some(SmtpStage::StartTls),
            _ => None,
        };
        let uncertain = stage == Some(SmtpStage::EndOfData);
        return Said { reply: reason, stage, uncertain, ..Said::default() };
    };
    let (after, rest) = until(rest, "after ").map_or((rest, ""), |(_, rest)| (rest, rest));
    let stage = match after {
        _ if after.starts_with("initial connection") => Some(SmtpStage::Greeting),
        _ if after.starts_with("end of data") => Some(SmtpStage::EndOfData),
        _ if after.starts_with("pipelined ") => command(&after[10..]),
        _ => command(after),
    };
    let host = until(rest, "host ").map_or("", |(_, host)| until(host, "]").map_or("", |(host, _)| host));
    // The reply begins at the first code after a colon.
    let bytes = rest.as_bytes();
    let at = bytes
        .windows(5)
        .position(|w| matches!(w, [b':', b' ', b'2'..=b'5', b, c] if b.is_ascii_digit() && c.is_ascii_digit()));
    match at.and_then(|at| rest.get(at + 2..)) {
        Some(reply) => Said { host: client(host), reply, stage, remote: true, ..Said::default() },
        None => Said { host: client(host), reply: reason, stage, ..Said::default() },
    }
}

/// `192.0.2.1 does not like recipient./Remote host said: 550 no/Giving up on 192.0.2.1./`, with blanks already put back.
fn qmail(reason: &str) -> Said<'_> {
    let (before, reply) = match until(reason, "Remote host said: ") {
        Some((before, reply)) => (before, reply.strip_suffix('/').unwrap_or(reply)),
        None => ("", reason),
    };
    let reply = until(reply, "/Giving up on ").map_or(reply, |(reply, _)| reply);
    let host = until(reason, " does not like ")
        .or_else(|| until(reason, " accepted message"))
        .or_else(|| until(reason, " failed after "))
        .or_else(|| until(reason, " sent a message"))
        .map_or("", |(host, _)| host)
        .trim_start_matches("Connected to ")
        .trim_end_matches(" but");
    let host = until(reason, "Connected to ").and_then(|(_, rest)| until(rest, " but ")).map_or(host, |(host, _)| host);
    let uncertain = reason.contains("connection died") && reason.contains("Possible duplicate");
    let stage = match reason {
        _ if reason.contains("does not like recipient") => Some(SmtpStage::Rcpt),
        _ if reason.contains("sender was rejected") => Some(SmtpStage::Mail),
        _ if reason.contains("my name was rejected") => Some(SmtpStage::Helo),
        _ if reason.contains("failed on DATA") => Some(SmtpStage::Data),
        _ if reason.contains("failed after I sent the message") || reason.contains("accepted message") => {
            Some(SmtpStage::EndOfData)
        }
        _ if reason.contains("greylist") || reason.contains("but greeting failed") => Some(SmtpStage::Greeting),
        _ if reason.contains("wasn't able to establish an SMTP connection") => Some(SmtpStage::Connect),
        _ if reason.contains("CNAME lookup failed") || reason.contains("couldn't find any host") => {
            Some(SmtpStage::Lookup)
        }
        _ if uncertain => Some(SmtpStage::EndOfData),
        _ => None,
    };
    Said {
        host: Client { name: "", address: if host.contains(' ') { "" } else { host } },
        reply: reply.trim(),
        stage,
        remote: !before.is_empty(),
        uncertain,
        suspended: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        use SmtpStage as S;
        // System, reason, host, address, reply, stage, remote, uncertain.
        type Case = (System, &'static str, &'static str, &'static str, &'static str, Option<S>, bool, bool);
        let cases: &[Case] = &[
            (
                System::Postfix,
                "host mx.b.jp[192.0.2.1] said: 550 5.1.1 no (a) (in reply to RCPT TO command)",
                "mx.b.jp",
                "192.0.2.1",
                "550 5.1.1 no (a)",
                Some(S::Rcpt),
                true,
                false,
            ),
            (
                System::Postfix,
                "host mx[2001:db8::1] said: 554 no (in reply to end of DATA command)",
                "mx",
                "2001:db8::1",
                "554 no",
                Some(S::EndOfData),
                true,
                false,
            ),
            (
                System::Postfix,
                "host mx[192.0.2.1] refused to talk to me: 421 busy",
                "mx",
                "192.0.2.1",
                "421 busy",
                Some(S::Greeting),
                true,
                false,
            ),
            (
                System::Postfix,
                "lost connection with mx[192.0.2.1] while sending end of data -- message may be sent more than once",
                "mx",
                "192.0.2.1",
                "lost connection with mx[192.0.2.1] while sending end of data -- message may be sent more than once",
                Some(S::EndOfData),
                false,
                true,
            ),
            (
                System::Postfix,
                "conversation with mx[192.0.2.1] timed out while sending RCPT TO",
                "mx",
                "192.0.2.1",
                "conversation with mx[192.0.2.1] timed out while sending RCPT TO",
                Some(S::Rcpt),
                false,
                false,
            ),
            (
                System::Postfix,
                "connect to mx[192.0.2.1]:25: Connection refused",
                "mx",
                "192.0.2.1",
                "connect to mx[192.0.2.1]:25: Connection refused",
                Some(S::Connect),
                false,
                false,
            ),
            (
                System::Postfix,
                "delivery temporarily suspended: connect to mx[192.0.2.1]:25: Connection refused",
                "mx",
                "192.0.2.1",
                "connect to mx[192.0.2.1]:25: Connection refused",
                Some(S::Connect),
                false,
                false,
            ),
            (
                System::Postfix,
                "250 2.0.0 Ok: queued as 9C5269BCFE4",
                "",
                "",
                "250 2.0.0 Ok: queued as 9C5269BCFE4",
                Some(S::EndOfData),
                true,
                false,
            ),
            (
                System::Postfix,
                "Host or domain name not found. Name service error for name=x type=A: Host not found",
                "",
                "",
                "Host or domain name not found. Name service error for name=x type=A: Host not found",
                Some(S::Lookup),
                false,
                false,
            ),
            (System::Postfix, "unknown user: \"x\"", "", "", "unknown user: \"x\"", None, false, false),
            (
                System::Exim,
                "SMTP error from remote mail server after RCPT TO:<a@b>: 550 5.1.1 no",
                "",
                "",
                "550 5.1.1 no",
                Some(S::Rcpt),
                true,
                false,
            ),
            (
                System::Exim,
                "SMTP error from remote mail server after end of data: host mx.b [192.0.2.1]: 554 spam",
                "mx.b",
                "192.0.2.1",
                "554 spam",
                Some(S::EndOfData),
                true,
                false,
            ),
            (
                System::Exim,
                "all hosts for 'b' have been failing for a long time",
                "",
                "",
                "all hosts for 'b' have been failing for a long time",
                None,
                false,
                false,
            ),
            (
                System::Qmail,
                "192.0.2.1 does not like recipient./Remote host said: 550 no/Giving up on 192.0.2.1./",
                "",
                "192.0.2.1",
                "550 no",
                Some(S::Rcpt),
                true,
                false,
            ),
            (
                System::Qmail,
                "192.0.2.1 accepted message./Remote host said: 250 ok 123 qp 5/",
                "",
                "192.0.2.1",
                "250 ok 123 qp 5",
                Some(S::EndOfData),
                true,
                false,
            ),
            (
                System::Qmail,
                "Connected to 192.0.2.1 but connection died. Possible duplicate! (#4.4.2)/",
                "",
                "192.0.2.1",
                "Connected to 192.0.2.1 but connection died. Possible duplicate! (#4.4.2)/",
                Some(S::EndOfData),
                false,
                true,
            ),
        ];
        for (system, reason, host, address, reply, stage, remote, uncertain) in cases {
            let said = said(*system, reason);
            assert_eq!((said.host.name, said.host.address, said.reply), (*host, *address, *reply), "{reason}");
            assert_eq!((said.stage, said.remote, said.uncertain), (*stage, *remote, *uncertain), "{reason}");
        }
    }
}

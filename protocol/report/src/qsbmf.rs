//! qmail's bounce message format (QSBMF): paragraphs instead of MIME. Programs that read qmail's bounces, and people who are
//! used to them, get what they know.
//!
//! The first paragraph begins with `Hi. This is the`; every recipient has a paragraph that begins with `<`; reasons end with
//! a status code, ` (#5.1.1)`; the message follows a line of its own.

use std::fmt::Write as _;

use yamabiko_message::header_block;
use yamabiko_status::Class;

use crate::compose::{Original, RecipientReport, one_line};

/// Before the message, in the notice to its sender.
pub(crate) const COPY_BELOW: &str = "--- Below this line is a copy of the message.";
/// Before the notice that could not be delivered, in the one to the postmaster.
pub(crate) const BOUNCE_BELOW: &str = "--- Below this line is the original bounce.";

/// Everything that stands in one notice.
#[derive(Clone, Copy, Debug)]
pub struct Qsbmf<'a> {
    /// `Date:`, in UTC: `21 Nov 2026 16:53:54 -0000`.
    pub date: &'a str,
    /// Address in `From:`, internal form.
    pub from: &'a str,
    /// To whom it goes, internal form.
    pub to: &'a str,
    /// The host of the first sentence.
    pub host: &'a str,
    /// `Message-Id:` with angle brackets.
    pub message_id: &'a str,
    /// It is about a notice that could not be delivered.
    pub double: bool,
    /// Envelope sender of the message, internal form.
    pub sender: &'a str,
    /// What became of whom.
    pub recipients: &'a [RecipientReport],
    /// The message it is about.
    pub original: Original<'a>,
}

impl Qsbmf<'_> {
    /// The notice: headers from `Date:` on, empty line, body. LF line ends.
    pub fn compose(&self) -> Vec<u8> {
        let quote = |address: &str| one_line(&yamabiko_address::quote(address)).into_owned();
        let paragraphs: Vec<String> = self.recipients.iter().map(paragraph).collect();
        let mut text = format!(
            "Date: {}\nFrom: {}\nTo: {}\nSubject: failure notice\nAuto-Submitted: {}\nMessage-Id: {}\n",
            self.date,
            quote(self.from),
            quote(self.to),
            if self.double { "auto-generated" } else { "auto-replied" },
            self.message_id,
        );
        if !paragraphs.iter().all(|paragraph| paragraph.is_ascii()) {
            // qmail sends bytes without a name; readers have to guess then.
            text.push_str(
                "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n",
            );
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "\nHi. This is the qmail-send program at {}.\n", self.host);
        text.push_str(if self.double {
            "I tried to deliver a bounce message to this address, but the bounce bounced!\n"
        } else {
            "I'm afraid I wasn't able to deliver your message to the following addresses.\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\n"
        });
        for paragraph in &paragraphs {
            text.push('\n');
            text.push_str(paragraph);
        }
        let below = if self.double { BOUNCE_BELOW } else { COPY_BELOW };
        let _ = write!(text, "\n{below}\n\nReturn-Path: <{}>\n", quote(self.sender));
        let mut out = text.into_bytes();
        match self.original {
            Original::Full(message) => out.extend_from_slice(message),
            Original::HeadersOf(message) => out.extend_from_slice(header_block(message)),
            Original::Unavailable => out.extend_from_slice(b"\t--- Undelivered message unavailable ---\n"),
        }
        if !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        out
    }
}

/// What qmail-remote says of a reply, by the command that it was a reply to; the host's address follows or stands in it.
const REMOTE: [(&str, &str, &str); 6] = [
    ("(in reply to RCPT TO command)", "", " does not like recipient."),
    ("(in reply to MAIL FROM command)", "Connected to ", " but sender was rejected."),
    ("(in reply to initial server greeting)", "Connected to ", " but greeting failed."),
    ("(in reply to HELO command)", "Connected to ", " but my name was rejected."),
    ("(in reply to DATA command)", "", " failed on DATA command."),
    ("(in reply to end of DATA command)", "", " failed after I sent the message."),
];

/// A recipient's paragraph, with its last line end.
fn paragraph(recipient: &RecipientReport) -> String {
    let mut text = format!("<{}>:\n", one_line(&yamabiko_address::quote(&recipient.address)));
    let reason = one_line(&recipient.reason);
    let status = format!("(#{})", recipient.status);
    match remote(&reason) {
        Some((host, before, after, reply)) => {
            // Writing to a String cannot fail.
            let _ = write!(text, "{before}{host}{after}\nRemote host said: {reply}\nGiving up on {host}.\n");
        }
        None => {
            let _ = writeln!(text, "{reason} {status}");
        }
    }
    if recipient.status.class == Class::Transient {
        text.push_str("I'm not going to try again; this message has been in the queue too long.\n");
    }
    text
}

/// Address of the host, the words around it, its reply.
fn remote(reason: &str) -> Option<(&str, &'static str, &'static str, &str)> {
    let (host, said) = reason.strip_prefix("host ")?.split_once(" said: ")?;
    let (before, after, reply) = REMOTE
        .iter()
        .find_map(|(command, before, after)| Some((*before, *after, said.strip_suffix(command)?.trim_end())))?;
    let address = host.split_once('[').and_then(|(_, rest)| rest.split(']').next()).unwrap_or(host);
    Some((address, before, after, reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::headers_only;
    use yamabiko_status::EnhancedStatus;

    fn recipient(address: &str, reason: &str, status: EnhancedStatus) -> RecipientReport {
        RecipientReport {
            address: address.into(),
            original: String::new(),
            orcpt: String::new(),
            action: "failed",
            status,
            reason: reason.into(),
            remote_mta: String::new(),
            diagnostic: String::new(),
        }
    }

    #[test]
    fn known_answers() {
        let recipients = [
            recipient("a b@x.test", "unknown user: \"a b\"", EnhancedStatus::permanent(1, 1)),
            recipient(
                "c@d.test",
                "host mx.d.test[192.0.2.9] said: 550 5.1.1 no such user (in reply to RCPT TO command)",
                EnhancedStatus::permanent(1, 1),
            ),
            recipient(
                "e@f.test",
                "connect to f.test[192.0.2.8]:25: Connection refused",
                EnhancedStatus::transient(4, 1),
            ),
        ];
        let single = Qsbmf {
            date: "21 Nov 2026 16:53:54 -0000",
            from: "MAILER-DAEMON@me.test",
            to: "s@x.test",
            host: "me.test",
            message_id: "<1@me.test>",
            double: false,
            sender: "s@x.test",
            recipients: &recipients,
            original: Original::Full(b"Subject: s\n\nbody\n"),
        };
        let text = String::from_utf8(single.compose()).unwrap();
        assert_eq!(
            text,
            "Date: 21 Nov 2026 16:53:54 -0000\nFrom: MAILER-DAEMON@me.test\nTo: s@x.test\nSubject: failure notice\n\
             Auto-Submitted: auto-replied\nMessage-Id: <1@me.test>\n\n\
             Hi. This is the qmail-send program at me.test.\n\
             I'm afraid I wasn't able to deliver your message to the following addresses.\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\n\n\
             <\"a b\"@x.test>:\nunknown user: \"a b\" (#5.1.1)\n\n\
             <c@d.test>:\n192.0.2.9 does not like recipient.\nRemote host said: 550 5.1.1 no such user\nGiving up on 192.0.2.9.\n\n\
             <e@f.test>:\nconnect to f.test[192.0.2.8]:25: Connection refused (#4.4.1)\n\
             I'm not going to try again; this message has been in the queue too long.\n\n\
             --- Below this line is a copy of the message.\n\nReturn-Path: <s@x.test>\nSubject: s\n\nbody\n"
        );
        let small = String::from_utf8(headers_only(text.as_bytes()).unwrap()).unwrap();
        assert!(small.ends_with("Return-Path: <s@x.test>\nSubject: s\n\n") && !small.contains("body"));
        assert_eq!(headers_only(small.as_bytes()), None);
        let double = Qsbmf { double: true, sender: "", recipients: &recipients[..1], ..single };
        let text = String::from_utf8(double.compose()).unwrap();
        assert!(text.contains(
            "Hi. This is the qmail-send program at me.test.\n\
             I tried to deliver a bounce message to this address, but the bounce bounced!\n\n<"
        ));
        assert!(text.contains("\n--- Below this line is the original bounce.\n\nReturn-Path: <>\nSubject: s\n"));
    }

    #[test]
    fn words_in_other_letters_have_a_name() {
        let recipients = [recipient("a@b", "受け取りを拒否します", EnhancedStatus::permanent(7, 1))];
        let notice = Qsbmf {
            date: "d",
            from: "f@x",
            to: "t@x",
            host: "h",
            message_id: "<1>",
            double: false,
            sender: "t@x",
            recipients: &recipients,
            original: Original::Unavailable,
        };
        let text = String::from_utf8(notice.compose()).unwrap();
        assert!(
            text.contains("\nContent-Type: text/plain; charset=utf-8\n")
                && text.contains("受け取りを拒否します (#5.7.1)")
        );
    }
}

//! Mail that receivers send back after they had taken a message: bounces as several systems write them, complaints and
//! automatic replies. What they quote is what they received.

use jiff::Timestamp;

use crate::behaviour::{SYSTEMS, System};
use crate::session::{Return, Returned};

/// How much of a returned message is quoted.
const QUOTED: usize = 16 << 10;

/// A message ready to be sent: its reverse-path, and its content with LF line ends.
#[derive(Debug)]
pub struct Letter {
    /// `""` for everything but complaints.
    pub sender: String,
    /// Header, empty line, body.
    pub content: Vec<u8>,
}

/// Writes what comes back. `turn` counts the letters: it chooses the system where the recipient leaves that open.
pub fn write(letter: &Return, turn: usize, now: Timestamp) -> Letter {
    let content = match letter.kind {
        Returned::Bounce(system) => {
            // The remainder is below the length.
            bounce(letter, system.unwrap_or(SYSTEMS[turn % SYSTEMS.len()]), now)
        }
        Returned::Complaint => complaint(letter, now),
        Returned::Vacation => vacation(letter, now),
    };
    let sender = match letter.kind {
        Returned::Complaint => format!("feedback@{}", letter.host),
        _ => String::new(),
    };
    Letter { sender, content }
}

fn date(now: Timestamp) -> String {
    now.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// The header section of the message, and its body, both cut.
fn parts(letter: &Return) -> (String, String) {
    let text = String::from_utf8_lossy(&letter.message[..letter.message.len().min(QUOTED)]).into_owned();
    match text.split_once("\n\n") {
        Some((header, body)) => (header.to_owned(), body.to_owned()),
        None => (text, String::new()),
    }
}

/// Header of a multipart/report; the parts follow.
fn report(letter: &Return, now: Timestamp, from: &str, subject: &str, human: &str, fields: &str) -> Vec<u8> {
    let (header, body) = parts(letter);
    let (to, id, host) = (&letter.to, &letter.id, &letter.host);
    format!(
        "From: {from}\nTo: {to}\nSubject: {subject}\nDate: {date}\nMessage-ID: <{id}.return@{host}>\n\
         Auto-Submitted: auto-replied\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"={id}=\"\n\n\
         --={id}=\nContent-Type: text/plain; charset=utf-8\n\n{human}\n\
         --={id}=\nContent-Type: message/delivery-status\n\n{fields}\n\
         --={id}=\nContent-Type: message/rfc822\n\n{header}\n\n{body}\n--={id}=--\n",
        date = date(now),
    )
    .into_bytes()
}

fn bounce(letter: &Return, system: System, now: Timestamp) -> Vec<u8> {
    match system {
        System::Postfix => postfix(letter, now),
        System::Sendmail => sendmail(letter, now),
        System::Exchange => exchange(letter, now),
        System::Gmail => gmail(letter, now),
        System::Courier => courier(letter, now),
        System::Exim => exim(letter, now),
        System::Qmail => qmail(letter, now),
        System::Japanese => japanese(letter, now),
        System::Docomo => docomo(letter, now),
        System::Kddi => kddi(letter, now),
        System::Domino => domino(letter, now),
    }
}

/// What a server behind the one that writes has said.
fn unknown(recipient: &str) -> String {
    format!("550 5.1.1 <{recipient}>: User unknown in virtual mailbox table")
}

fn postfix(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, host, .. } = letter;
    let when = date(now);
    let reply = unknown(recipient);
    report(
        letter,
        now,
        &format!("MAILER-DAEMON@{host} (Mail Delivery System)"),
        "Undelivered Mail Returned to Sender",
        &format!(
            "This is the mail system at host {host}.\n\nYour message could not be delivered to one or more\n\
                 recipients.\n\n<{recipient}>: host store.{host}[127.0.0.9] said: {reply} (in reply to RCPT TO command)\n"
        ),
        &format!(
            "Reporting-MTA: dns; {host}\nX-Postfix-Queue-ID: {id}\nX-Postfix-Sender: rfc822; {to}\n\
                 Arrival-Date: {when}\n\nFinal-Recipient: rfc822; {recipient}\nOriginal-Recipient: rfc822;{recipient}\n\
                 Action: failed\nStatus: 5.1.1\nRemote-MTA: dns; store.{host}\nDiagnostic-Code: smtp; {reply}\n"
        ),
    )
}

fn sendmail(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { recipient, host, .. } = letter;
    let when = date(now);
    report(
        letter,
        now,
        &format!("Mail Delivery Subsystem <MAILER-DAEMON@{host}>"),
        "Returned mail: see transcript for details",
        &format!(
            "The original message was received at {when}\nfrom client.example [127.0.0.1]\n\n   \
                 ----- The following addresses had permanent fatal errors -----\n<{recipient}>\n    \
                 (reason: 550 5.1.1 <{recipient}>... User unknown)\n\n   ----- Transcript of session follows -----\n\
                 ... while talking to store.{host}.:\n>>> DATA\n<<< 550 5.1.1 <{recipient}>... User unknown\n\
                 550 5.1.1 <{recipient}>... User unknown\n"
        ),
        &format!(
            "Reporting-MTA: dns; {host}\nReceived-From-MTA: DNS; client.example\nArrival-Date: {when}\n\n\
                 Final-Recipient: RFC822; {recipient}\nAction: failed\nStatus: 5.1.1\nRemote-MTA: DNS; store.{host}\n\
                 Diagnostic-Code: SMTP; 550 5.1.1 <{recipient}>... User unknown\nLast-Attempt-Date: {when}\n"
        ),
    )
}

fn exchange(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { recipient, host, .. } = letter;
    let when = date(now);
    report(
        letter,
        now,
        &format!("Microsoft Outlook <postmaster@{host}>"),
        "Undeliverable: your message",
        &format!(
            "Delivery has failed to these recipients or groups:\n\n{recipient}\nThe e-mail address you entered couldn't \
                 be found.\n\nDiagnostic information for administrators:\n\nGenerating server: {host}\n\n{recipient}\n\
                 #550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n"
        ),
        &format!(
            "Reporting-MTA: dns;{host}\nReceived-From-MTA: dns;client.example\nArrival-Date: {when}\n\n\
                 Final-recipient: RFC822;{recipient}\nAction: failed\nStatus: 5.1.1\n\
                 Diagnostic-code: smtp;550 5.1.1 RESOLVER.ADR.RecipNotFound; not found\n"
        ),
    )
}

fn gmail(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, host, .. } = letter;
    let when = date(now);
    let reply = unknown(recipient);
    report(
        letter,
        now,
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        "Delivery Status Notification (Failure)",
        &format!(
            "** Address not found **\n\nYour message wasn't delivered to {recipient} because the address couldn't be \
                 found, or is unable to receive mail.\n\nThe response from the remote server was:\n{reply}\n"
        ),
        &format!(
            "Reporting-MTA: dns; googlemail.com\nReceived-From-MTA: dns; {to}\nArrival-Date: {when}\n\
                 X-Original-Message-ID: <{id}@{host}>\n\nFinal-Recipient: rfc822; {recipient}\nAction: failed\n\
                 Status: 5.1.1\nRemote-MTA: dns; store.{host}. (127.0.0.9, the server for the domain.)\n\
                 Diagnostic-Code: smtp; {reply}\nLast-Attempt-Date: {when}\n"
        ),
    )
}

fn courier(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { recipient, host, .. } = letter;
    let when = date(now);
    report(
        letter,
        now,
        &format!("\"Courier mail server at {host}\" <@>"),
        "NOTICE: mail delivery status.",
        &format!(
            "This is a delivery status notification from {host},\nrunning the Courier mail server.\n\n\
                 The original message was received on {when}\nfrom client.example\n\n\
                 ---------------------------------------------------------------------------\n\n                           \
                 UNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n\
                 <{recipient}>:\n    store.{host} [127.0.0.9]:\n>>> RCPT TO:<{recipient}>\n<<< 550 User unknown.\n"
        ),
        &format!(
            "Reporting-MTA: dns; {host}\nArrival-Date: {when}\n\nFinal-Recipient: rfc822; {recipient}\n\
                 Action: failed\nStatus: 5.0.0\nRemote-MTA: dns; store.{host} [127.0.0.9]\n\
                 Diagnostic-Code: smtp; 550 User unknown.\n"
        ),
    )
}

fn exim(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, host, .. } = letter;
    let when = date(now);
    let (header, body) = parts(letter);
    format!(
        "From: Mail Delivery System <Mailer-Daemon@{host}>\nTo: {to}\nAuto-Submitted: auto-replied\n\
                 X-Failed-Recipients: {recipient}\nSubject: Mail delivery failed: returning message to sender\n\
                 Message-Id: <E{id}@{host}>\nDate: {when}\n\n\
                 This message was created automatically by mail delivery software.\n\n\
                 A message that you sent could not be delivered to one or more of its\n\
                 recipients. This is a permanent error. The following address(es) failed:\n\n  {recipient}\n    \
                 SMTP error from remote mail server after RCPT TO:<{recipient}>:\n    host store.{host} [127.0.0.9]: \
                 550 5.1.1 User unknown\n\n\
                 ------ This is a copy of the message, including all the headers. ------\n\n{header}\n\n{body}\n"
    )
    .into_bytes()
}

fn qmail(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, host, .. } = letter;
    let when = date(now);
    let (header, body) = parts(letter);
    format!(
        "Date: {when}\nFrom: MAILER-DAEMON@{host}\nTo: {to}\nSubject: failure notice\n\n\
                 Hi. This is the qmail-send program at {host}.\n\
                 I'm afraid I wasn't able to deliver your message to the following addresses.\n\
                 This is a permanent error; I've given up. Sorry it didn't work out.\n\n\
                 <{recipient}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n\
                 --- Below this line is a copy of the message.\n\n{header}\n\n{body}\n"
    )
    .into_bytes()
}

fn japanese(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, host, .. } = letter;
    let when = date(now);
    let (header, _) = parts(letter);
    let mut text = format!(
        "From: MAILER-DAEMON@{host}\nTo: {to}\nSubject: Mail System Error - Returned Mail\nDate: {when}\n\
                 Message-ID: <{id}.return@{host}>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=ISO-2022-JP\n\
                 Content-Transfer-Encoding: 7bit\n\n"
    )
    .into_bytes();
    // "The mail could not be delivered to the following address. The address does not exist."
    for (words, end) in [(NOT_DELIVERED, "\n\n"), (NOT_THERE, "\n")] {
        text.extend_from_slice(words);
        text.extend_from_slice(end.as_bytes());
        if words == NOT_DELIVERED {
            text.extend_from_slice(format!("<{recipient}>\n550 5.1.1 User unknown\n\n").as_bytes());
        }
    }
    text.extend_from_slice(format!("\n----- Original message header -----\n{header}\n").as_bytes());
    text
}

fn docomo(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { recipient, .. } = letter;
    let when = date(now);
    report(
        letter,
        now,
        "Mail Delivery Subsystem <mailer-daemon@docomo.ne.jp>",
        "Mail System Error - Returned Mail",
        &format!(
            "Unknown user {recipient}\n\nThis is a MIME-encapsulated message. The following address could not be \
                 delivered to:\n<{recipient}>\n"
        ),
        &format!(
            "Reporting-MTA: dns; mail.docomo.ne.jp\nArrival-Date: {when}\n\nFinal-Recipient: RFC822; {recipient}\n\
                 Action: failed\nStatus: 5.1.1\nRemote-MTA: DNS; mfsmax.docomo.ne.jp\n\
                 Diagnostic-Code: SMTP; 550 Unknown user {recipient}\n"
        ),
    )
}

fn kddi(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, .. } = letter;
    let when = date(now);
    let (header, _) = parts(letter);
    format!(
        "From: <Postmaster@ezweb.ne.jp>\nTo: <{to}>\nSubject: Mail System Error - Returned Mail\nDate: {when}\n\
                 Message-ID: <{id}@wsmtpr24.ezweb.ne.jp>\nMIME-Version: 1.0\nX-SPASIGN: NG\n\
                 Content-Type: text/plain; charset=iso-2022-jp\n\n\
                 <{recipient}>\n\nEach of the following recipients was rejected by a remote mail server.\n\
                 ---------------------------------------------------\n{header}\n"
    )
    .into_bytes()
}

fn domino(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { recipient, host, .. } = letter;
    report(
        letter,
        now,
        &format!("Postmaster@{host}"),
        "DELIVERY FAILURE: User not listed in Domino Directory",
        &format!(
            "Your message\n\n  Subject: rehearsal\n\nwas not delivered to:\n\n  {recipient}\n\nbecause:\n\n  \
                 User {recipient} not listed in Domino Directory\n"
        ),
        &format!(
            "Reporting-MTA: dns;{host}\n\nFinal-Recipient: rfc822;{recipient}\nAction: failed\nStatus: 5.1.1\n\
                 Diagnostic-Code: X-Notes; User {recipient} not listed in Domino Directory\n"
        ),
    )
}

/// 次のあて先へメールを配送できませんでした。 in ISO-2022-JP.
const NOT_DELIVERED: &[u8] = b"\x1b$B<!$N$\"$F@h$X%a!<%k$rG[Aw$G$-$^$;$s$G$7$?!#\x1b(B";
/// あて先が存在しません。 in ISO-2022-JP.
const NOT_THERE: &[u8] = b"\x1b$B$\"$F@h$,B8:_$7$^$;$s!#\x1b(B";

fn complaint(letter: &Return, now: Timestamp) -> Vec<u8> {
    let (header, body) = parts(letter);
    let Return { to, recipient, id, host, .. } = letter;
    format!(
        "From: <feedback@{host}>\nTo: {to}\nSubject: FW: complaint\nDate: {date}\nMessage-ID: <{id}.arf@{host}>\n\
         MIME-Version: 1.0\nContent-Type: multipart/report; report-type=feedback-report; boundary=\"={id}=\"\n\n\
         --={id}=\nContent-Type: text/plain; charset=us-ascii\n\nThis is an email abuse report for a message of yours.\n\
         --={id}=\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: SomeGenerator/1.0\nVersion: 1\n\
         Original-Mail-From: <{to}>\nOriginal-Rcpt-To: <{recipient}>\nArrival-Date: {date}\n\n\
         --={id}=\nContent-Type: message/rfc822\n\n{header}\n\n{body}\n--={id}=--\n",
        date = date(now),
    )
    .into_bytes()
}

fn vacation(letter: &Return, now: Timestamp) -> Vec<u8> {
    let Return { to, recipient, id, host, message, .. } = letter;
    let header = String::from_utf8_lossy(&message[..message.len().min(QUOTED)]).into_owned();
    let quoted = header.lines().find_map(|line| line.strip_prefix("Message-ID:").or(line.strip_prefix("Message-Id:")));
    let reference = quoted.map(|value| format!("In-Reply-To: {}\n", value.trim())).unwrap_or_default();
    format!(
        "From: <{recipient}>\nTo: {to}\nSubject: Auto: out of office\nDate: {}\nMessage-ID: <{id}.auto@{host}>\n\
         Auto-Submitted: auto-replied\n{reference}\nI am away until Monday.\n",
        date(now)
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_names_its_recipient_and_quotes_the_message() {
        let now = Timestamp::UNIX_EPOCH;
        let kinds = SYSTEMS.map(|system| Returned::Bounce(Some(system))).into_iter();
        for kind in kinds.chain([Returned::Complaint, Returned::Vacation, Returned::Bounce(None)]) {
            let letter = Return {
                to: "sender@x.test".into(),
                recipient: "later-1@y.test".into(),
                kind,
                id: "A1".into(),
                host: "mx.y.test".into(),
                message: b"From: a\nMessage-ID: <77@x.test>\n\nbody\n".as_slice().into(),
            };
            let text = String::from_utf8_lossy(&write(&letter, 3, now).content).into_owned();
            assert!(text.contains("later-1@y.test") && text.contains("<77@x.test>"), "{kind:?}: {text}");
            assert!(text.contains("Thu, 01 Jan 1970 00:00:00 +0000"), "{kind:?}: {text}");
            assert!(!text.contains('\r'));
        }
    }
}

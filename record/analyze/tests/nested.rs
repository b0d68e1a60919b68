//! Notices inside of something else: quoted by a person, enclosed by a gateway, or with a boundary that nobody announced.

use yamabiko_analyze::{Analyzer, Finding};

fn read(message: &str) -> Vec<Finding> {
    Analyzer::embedded().analyze(message.as_bytes()).findings
}

const REPORT: &str = "Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; gone@example.net\nAction: failed\n\
    Status: 5.1.1\nRemote-MTA: dns; mx.example.net\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n";

#[test]
fn quoted_by_a_mail_program_with_its_header() {
    let notice = format!(
        "From: Mail Delivery Subsystem <MAILER-DAEMON>\nReturn-Path: <MAILER-DAEMON>\n\nThe original message was received\n\n\
         ----- The following addresses had permanent fatal errors -----\n<gone@example.net>\n\n{REPORT}\nFrom: a@example.jp\nSubject: Hello\n"
    );
    let quoted: String = notice.lines().map(|line| format!("> {line}\n")).collect();
    let found = read(&format!(
        "From: a@example.jp\nTo: b@example.jp\nSubject: Fwd: Returned mail\n\nBegin forwarded message:\n\n{quoted}"
    ));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].recipient.as_str(), found[0].reason.name()), ("gone@example.net", "userunknown"));
}

#[test]
fn enclosed_by_a_gateway_that_names_nobody() {
    let found = read(&format!(
        "From: Mail Delivery Subsystem <MAILER-DAEMON@gw.example.jp>\nTo: n@gw.example.jp\nSubject: Returned mail: User unknown\n\
         MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=outer\n\n--outer\nContent-Type: text/plain\n\n\
         ----- The following addresses had permanent delivery errors -----\n\n--outer\nContent-Type: message/rfc822\n\n\
         From: MAILER-DAEMON@mx.example.org\nTo: a@example.jp\nSubject: Returned mail\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=inner\n\n\
         --inner\n\n<gone@example.net>\n\n--inner\nContent-Type: message/delivery-status\n\n{REPORT}\n--inner--\n\n--outer--\n"
    ));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].recipient.as_str(), found[0].reason.name()), ("gone@example.net", "userunknown"));
}

#[test]
fn returned_message_behind_another_boundary() {
    let found = read(&format!(
        "From: MAILER-DAEMON@mx.example.org\nTo: a@example.jp\nSubject: Returned mail\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=one\n\n\
         --one\n\n<gone@example.net>\n\n--one\nContent-Type: message/delivery-status\n\n{REPORT}\n\
         --two\nContent-Type: message/rfc822\n\nFrom: a@example.jp\nSubject: Hello\nMessage-Id: <1@example.jp>\n\nx\n--two--\n"
    ));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].subject.as_str(), found[0].message_id.as_str()), ("Hello", "1@example.jp"));
    assert_eq!(found[0].addresser, "a@example.jp");
}

#[test]
fn a_program_answers_for_a_mailbox_that_nobody_reads() {
    let found = read(
        "From: <noreply@example.net>\nReply-To: <gone@example.net>\nTo: a@example.jp\nSubject: AutoResponse: Hello\n\
         Auto-Submitted: auto-replied\n\nThis email inbox gone@example.net is no longer in use.\n",
    );
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].recipient.as_str(), found[0].reason.name()), ("gone@example.net", "suspend"));
}

#[test]
fn what_a_transcript_and_the_header_say_beside_the_report() {
    let found = read(
        "Received: from mx.example.org by mx.example.jp; Mon, 16 Nov 2026 09:00:02 +0900\n\
         Received: by mx.example.org with SMTP id 1; Mon, 16 Nov 2026 09:00:01 +0900\n\
         From: MAILER-DAEMON@mx.example.org\nTo: a@example.jp\nSubject: Returned mail\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=one\n\n\
         --one\n\n<<< 550-5.1.1 The account does\n<<< 550 5.1.1 not exist.\n\n--one\n\
         Content-Type: message/delivery-status\n\nReporting-MTA: dns; localhost\n\n\
         Final-Recipient: rfc822; gone@example.net\nX-Actual-Recipient: X-Unix; |/usr/bin/sort\nAction: failed\n\
         Status: 5.1.1\nDiagnostic-Code: smtp; 550-5.1.1 The account does\n\n--one--\n",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].diagnostic.text, "550-5.1.1 The account does not exist.");
    assert_eq!((found[0].rhost.as_str(), found[0].alias.as_str()), ("mx.example.org", "|/usr/bin/sort"));
}

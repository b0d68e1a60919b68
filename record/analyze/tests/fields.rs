//! Fields beside the reason, where systems write them oddly: the command that was answered, the host that reports, the system
//! that wrote the notice, when it failed, the reply code. Each case is a header, a text, a delivery status and what is to be read.

use yamabiko_analyze::{Analyzer, Finding};

const RETURNED: &str = "Message-ID: <1@example.com>\nFrom: hanako@example.com\nTo: taro@example.net\nSubject: Hello\nDate: Mon, 2 Mar 2026 10:20:30 +0900\n\nbody\n";

/// A report; without fields of a delivery status a notice in one text.
fn notice(header: &str, text: &str, status: &str) -> String {
    let start = format!("Return-Path: <>\n{header}To: hanako@example.com\nDate: Mon, 2 Mar 2026 01:21:00 +0000\n");
    if status.is_empty() {
        return format!("{start}\n{text}\n\n--- Below this line is a copy of the message.\n\n{RETURNED}");
    }
    format!(
        "{start}MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"=_x\"\n\n--=_x\n\n{text}\n\
         --=_x\nContent-Type: message/delivery-status\n\n{status}\n--=_x\nContent-Type: message/rfc822\n\n{RETURNED}\n--=_x--\n"
    )
}

fn read(notice: &str) -> Vec<Finding> {
    Analyzer::embedded().analyze(notice.as_bytes()).findings
}

/// Header, text, delivery status, field, value.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

const SYSTEM: &str =
    "Subject: Undelivered Mail Returned to Sender\nFrom: MAILER-DAEMON@mx.example.org (Mail Delivery System)\n";
const POSTFIX: &str = "Received: by mx.example.org (Postfix) id 1; Mon, 2 Mar 2026 10:21:00 +0900\nSubject: Undelivered Mail Returned to Sender\n\
    From: MAILER-DAEMON@mx.example.org (Mail Delivery System)\n";
const GROUP: &str = "Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.7.1\n\
    Remote-MTA: dns; mx.example.net\nDiagnostic-Code: smtp; 554 5.7.1 go away\n";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Commands.
    (POSTFIX, "This is the mail system at host mx.example.org.\n\n<taro@example.net>: host mx.example.net[192.0.2.7] refused to talk\n    to me: 554 5.7.1 go away\n", GROUP, "command", "HELO"),
    (POSTFIX, "This is the mail system at host mx.example.org.\n\n<taro@example.net>: host mx.example.net[192.0.2.7] said: 554 5.7.1\n    <hanako@example.com>: Sender address rejected: go away (in reply to\n    MAIL FROM command)\n", GROUP, "command", "MAIL"),
    (POSTFIX, "This is the mail system at host mx.example.org.\n\n<taro@example.net>: host mx.example.net[192.0.2.7] said: 554 5.7.1 go away (in\n    reply to HELO command)\n", GROUP, "command", "HELO"),
    (POSTFIX, "This is the mail system at host mx.example.org.\n\n<taro@example.net>: host mx.example.net[192.0.2.7] said: 554 5.7.1 go away (in\n    reply to EHLO command)\n", GROUP, "command", "EHLO"),
    (SYSTEM, "It could not be delivered to one of its recipients.\n\n3:0:<taro@example.net> : 192.0.2.250 : mx.example.net:[192.0.2.7] : 554 5.7.1 go away  in RCPT TO\n", GROUP, "command", "RCPT"),
    (SYSTEM, "Delivery to the following recipient failed permanently:\n\n     taro@example.net\n\nTechnical details of permanent failure:\nThe error that the other server returned was: 554 5.7.1 go away (state 13).\n", "", "command", "EHLO"),
    // Reply codes: what sendmail passes on behind a code of its own.
    ("Received: from a.example (a.example [192.0.2.3]) by b.example; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: Mail Delivery Subsystem <MAILER-DAEMON@a.example>\nSubject: Returned mail: Host unknown\n", "   ----- Transcript of session follows -----\n550 example.net (smtp)... 550 Host unknown\n554 <taro@example.net>... 550 Host unknown (Authoritative answer from name server)\n", "", "replycode", "550"),
    // The host that reports.
    ("Received: from mx1.example.net (mx1.example.net [192.0.2.7]) by mail.example.com; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "No such user.", "Reporting-MTA: dns; 10.1.2.3\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\n", "lhost", "mx1.example.net"),
    ("Received: from mx1.example.net (mx1.example.net [192.0.2.7]) by mail.example.com; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "No such user.", "Reporting-MTA: dns; MAILER-DAEMON@example.net\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\n", "lhost", "mx1.example.net"),
    ("Received: from mx1.example.net (mx1.example.net [192.0.2.7]) by mail.example.com; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "No such user.", "Reporting-MTA: dns; relay\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\n", "lhost", "relay"),
    ("Received: from localhost (mx2.example.net [local]) by mx2.example.net (OpenSMTPD); Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "No such user.", "Reporting-MTA: dns; localhost\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\n", "lhost", "mx2.example.net"),
    ("Received: from localhost (unknown [192.0.2.9]) by mail.example.com; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "<taro@example.net>: 550 5.1.1 no such user", "", "lhost", "192.0.2.9"),
    ("Received: from localhost (localhost [127.0.0.1]) by mail.example.com; Mon, 2 Mar 2026 10:21:00 +0900\nFrom: MAILER-DAEMON@example.net\nSubject: Undelivered Mail\n", "<taro@example.net>: 550 5.1.1 no such user", "", "lhost", "localhost"),
    ("From: postmaster@example.onmicrosoft.com\nSubject: Undeliverable: Hello\n", "Delivery has failed to these recipients or groups:\n\ntaro@example.net\nThe email address you entered couldn't be found.\n\nDiagnostic information for administrators:\n\nGenerating server: EX1.prod.outlook.com\n\ntaro@example.net\nRemote Server returned '550 5.1.1 RESOLVER.ADR.RecipNotFound; not found'\n", "", "lhost", "EX1.prod.outlook.com"),
    ("Received: from MailMarshal.Sender ([127.0.0.1]) by gate.example.net; Mon, 2 Mar 2026 01:21:00 +0000\nFrom: postmaster@example.net\nSubject: Undeliverable Mail: \"Hello\"\n", "Your message:\n   From:    hanako@example.com\n   Subject: Hello\n\nCould not be delivered because of\n\n550 5.1.1 User unknown\n\nThe following recipients were affected: \n    taro@example.net\n\nAdditional Information\n======================\nOriginal Sender:    <hanako@example.com>\nSender-MTA:         <192.0.2.33>\nRemote-MTA:         <192.0.2.44>\n", "", "lhost", "192.0.2.33"),
    // Systems.
    (SYSTEM, "I'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\n<taro@example.net>: 554 5.7.1 go away\n", "X-Some-Gateway-Queue-ID: A-1\nReporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.7.1\nDiagnostic-Code: smtp; 554 5.7.1 go away\n", "decodedby", "RFC3464"),
    (POSTFIX, "I'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\n<taro@example.net>: 554 5.7.1 go away\n", GROUP, "decodedby", "Postfix"),
    ("From: <postmaster@example.net>\nSubject: Undeliverable: Hello\nX-MS-Exchange-Message-Is-Ndr:\n", "Delivery has failed to these recipients or groups:\n\ntaro@example.net\nRemote Server returned '550 5.1.1 not found'\n", "Reporting-MTA: dns;ex1.example.net\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp;550 5.1.1 not found\n", "decodedby", "Exchange2007"),
    ("From: <postmaster@example.net>\nSubject: Undeliverable: Hello\nX-MS-Exchange-Message-Is-Ndr:\n", "Delivery has failed to these recipients or groups:\n\ntaro@example.net\nRemote Server returned '550 5.1.1 not found'\n", "Reporting-MTA: dns;AB1PR01.eurprd01.prod.outlook.com\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp;550 5.1.1 not found\n", "decodedby", "Office365"),
    ("From: \"MAILER-DAEMON\" <MAILER-DAEMON@example.net>\nSubject: FAILURE NOTICE : Hello\nX-AHMAILID: 20260302-0001\n", "  ----- The following addresses had permanent fatal errors -----\n\n>>> taro@example.net <taro@example.net>\n\n  ----- Transcript of session follows -----\n550 <taro@example.net>: User unknown\n", "", "decodedby", "Activehunter"),
    ("From: \"Mail Deliver System\" <MAILER-DAEMON@example.net>\nSubject: Returned Mail: User unknown\n", "The original message was received at Mon, 2 Mar 2026 10:20:45 +0900\nfrom hanako@example.com\n\n---The following addresses had delivery errors---\n\ntaro@example.net [User unknown]\n", "", "decodedby", "X1"),
    ("From: System Administrator <postmaster@example.net>\nSubject: Undeliverable: Hello\nX-Mailer: Microsoft Exchange Server Internet Mail Connector Version 4.0.994.63\n", "Your message did not reach some or all of the intended recipients.\n\nThe following recipient(s) could not be reached:\n\n      taro@example.net on 3/2/26 10:20:30 AM\n            Recipient Not Found\n", "", "decodedby", "Exchange2003"),
    // Dates: of the report, else of the returned message; OpenSMTPD's report has none.
    (POSTFIX, "<taro@example.net>: 554 5.7.1 go away\n", "Reporting-MTA: dns; mx.example.org\nArrival-Date: Mon, 02 Mar 26 01:20:31 UTC\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.7.1\n", "date", "1772414431 -0000"),
    (POSTFIX, "<taro@example.net>: 554 5.7.1 go away\n", GROUP, "date", "1772414430 +0900"),
    ("From: Mailer Daemon <MAILER-DAEMON@example.net>\nSubject: Delivery status notification: failed\n", "    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to deliver a message for\n    the following list of recipients:\n\ntaro@example.net: 554 5.7.1 go away\n", "Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; taro@example.net\nAction: failed\nStatus: 5.0.0\n", "date", "1772414460 +0000"),
];

#[test]
fn fields_beside_the_reason() {
    let mut wrong = Vec::new();
    for (number, (header, text, status, field, wanted)) in CASES.iter().enumerate() {
        let findings = read(&notice(header, text, status));
        let [found] = findings.as_slice() else {
            wrong.push(format!("{number} {field}: {} findings, wanted 1 with {wanted}", findings.len()));
            continue;
        };
        let value = match *field {
            "command" => found.command.to_owned(),
            "lhost" => found.lhost.clone(),
            "decodedby" => found.decoded_by.to_owned(),
            "replycode" => found.reply_code.map(|code| code.to_string()).unwrap_or_default(),
            _ => found.date.map(|date| format!("{} {}", date.seconds, date.offset())).unwrap_or_default(),
        };
        if found.recipient != "taro@example.net" || !value.eq_ignore_ascii_case(wanted) {
            wrong.push(format!("{number} {field}: {value} of {}, wanted {wanted}", found.recipient));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

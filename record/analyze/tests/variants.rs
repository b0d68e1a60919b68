//! Notices of the large systems as they come in other countries, through other gateways and with pieces missing: the system's
//! own layout, varied by hand (translated texts, folded fields, base64, HTML alone, CRLF, no delivery status, no diagnostic, no
//! returned message). Recipient, reason and status must be found all the same.

use std::fmt::Write;

use yamabiko_analyze::Analyzer;

/// Name, recipient, reasons that are right, beginning of the status, the notice.
struct Case {
    name: &'static str,
    recipient: &'static str,
    reasons: &'static str,
    status: &'static str,
    notice: String,
}

fn case(
    name: &'static str,
    recipient: &'static str,
    reasons: &'static str,
    status: &'static str,
    notice: String,
) -> Case {
    Case { name, recipient, reasons, status, notice }
}

const RETURNED: &str = "From: hanako@example.com\nTo: someone@example.org\nSubject: Hello\nMessage-ID: <1@example.com>\nDate: Mon, 2 Mar 2026 10:20:30 +0900\n\nbody\n";

/// A report of three parts.
fn report(from: &str, text: &str, status: &str) -> String {
    format!(
        "Return-Path: <>\nReceived: from mx.example.org (mx.example.org [192.0.2.25]) by mail.example.com with ESMTP id 1; Mon, 2 Mar 2026 10:21:00 +0900\n\
         From: {from}\nTo: hanako@example.com\nSubject: Undelivered Mail\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n boundary=\"=_x\"\nDate: Mon, 2 Mar 2026 10:21:00 +0900\n\n\
         --=_x\nContent-Type: text/plain; charset=utf-8\n\n{text}\n--=_x\nContent-Type: message/delivery-status\n\n{status}\n\
         --=_x\nContent-Type: message/rfc822\n\n{RETURNED}\n--=_x--\n"
    )
}

/// A notice without parts.
fn plain(from: &str, subject: &str, text: &str) -> String {
    format!(
        "Return-Path: <>\nReceived: from mx.example.org (mx.example.org [192.0.2.25]) by mail.example.com with ESMTP id 1; Mon, 2 Mar 2026 10:21:00 +0900\n\
         From: {from}\nTo: hanako@example.com\nSubject: {subject}\nDate: Mon, 2 Mar 2026 10:21:00 +0900\n\n{text}"
    )
}

/// A notice of one part of another type, encoded.
fn encoded(from: &str, subject: &str, kind: &str, text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut lines = String::new();
    for (number, three) in text.as_bytes().chunks(3).enumerate() {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            lines.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
        if number % 19 == 18 {
            lines.push('\n');
        }
    }
    plain(from, subject, "").trim_end().to_owned()
        + &format!(
            "\nMIME-Version: 1.0\nContent-Type: {kind}; charset=utf-8\nContent-Transfer-Encoding: base64\n\n{lines}\n"
        )
}

/// Fields of a status for one recipient.
fn status(recipient: &str, status: &str, diagnostic: &str) -> String {
    let mut fields =
        format!("Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; {recipient}\nAction: failed\n");
    for (name, value) in [("Status", status), ("Diagnostic-Code", diagnostic)] {
        if !value.is_empty() {
            let _ = writeln!(fields, "{name}: {value}");
        }
    }
    fields
}

const DAEMON: &str = "Mail Delivery System <MAILER-DAEMON@mx.example.org>";

fn postfix() -> Vec<Case> {
    let fr = "Ceci est le système de messagerie de l'hôte mx.example.org.\n\nVotre message n'a pas pu être remis à un ou plusieurs destinataires.\n\n";
    vec![
        case(
            "a French template, no diagnostic",
            "jean.dupont@example.org",
            "userunknown",
            "5.1.1",
            report(
                DAEMON,
                &format!("{fr}<jean.dupont@example.org>: host mx2.example.org[192.0.2.3] said: 550 5.1.1\n    <jean.dupont@example.org>: Recipient address rejected: User unknown in\n    virtual mailbox table (in reply to RCPT TO command)\n"),
                &status("jean.dupont@example.org", "5.1.1", ""),
            ),
        ),
        case(
            "a French template, the status part lost on the way",
            "jean.dupont@example.org",
            "mailboxfull",
            "5.2.2",
            plain(
                DAEMON,
                "Undelivered Mail Returned to Sender",
                &format!("{fr}<jean.dupont@example.org>: host mx2.example.org[192.0.2.3] said: 552 5.2.2\n    <jean.dupont@example.org>: Quota exceeded (mailbox for user is full) (in\n    reply to end of DATA command)\n"),
            ),
        ),
        case(
            "a Japanese template",
            "taro@example.org",
            "rejected|blocked|policyviolation",
            "5.7.1",
            report(
                DAEMON,
                "これは mx.example.org のメールシステムです。\n\nお送りになったメールを次の宛先に届けることができませんでした。\n\n<taro@example.org>: host mx2.example.org[192.0.2.3] said: 554 5.7.1\n    <hanako@example.com>: Sender address rejected: Access denied (in reply to\n    RCPT TO command)\n",
                &status("taro@example.org", "5.7.1", "smtp; 554 5.7.1 <hanako@example.com>: Sender address\n    rejected: Access denied"),
            ),
        ),
        case(
            "a connection that timed out, fields folded by a gateway",
            "lee@far.example",
            "expired|networkerror",
            "4.4.1",
            report(
                DAEMON,
                "<lee@far.example>: connect to mx.far.example[192.0.2.9]:25: Connection timed\n    out\n",
                "Reporting-MTA: dns;\n\tmx.example.org\nArrival-Date: Mon, 2 Mar 2026\n\t10:20:30 +0900 (JST)\n\nFinal-Recipient:\n\trfc822; lee@far.example\nAction:\n\tfailed\nStatus:\n\t4.4.1\nDiagnostic-Code: X-Postfix;\n\tconnect to mx.far.example[192.0.2.9]:25:\n\tConnection timed out\n",
            ),
        ),
        case(
            "no returned message, names of fields in small letters",
            "kim@nowhere.invalid",
            "hostunknown",
            "5.4.4",
            report(
                DAEMON,
                "<kim@nowhere.invalid>: Host or domain name not found. Name service error for\n    name=nowhere.invalid type=A: Host not found\n",
                "reporting-mta: dns; mx.example.org\n\nfinal-recipient: rfc822; kim@nowhere.invalid\naction: failed\nstatus: 5.4.4\ndiagnostic-code: X-Postfix; Host or domain name not found. Name service error\n    for name=nowhere.invalid type=A: Host not found\n",
            )
            .replace(RETURNED, ""),
        ),
    ]
}

fn microsoft() -> Vec<Case> {
    let postmaster = "Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@contoso.example>";
    let page = |line: &str, code: &str| {
        format!(
            "<html><head><style>p {{ margin: 0 }}</style></head><body><p>{line}</p><table><tr><td>Remote Server returned &#39;{code}&#39;</td></tr></table></body></html>"
        )
    };
    vec![
        case(
            "a German page in base64 and nothing else",
            "emil@firma.example",
            "userunknown",
            "5.1.10",
            encoded(
                postmaster,
                "Unzustellbar: Angebot",
                "text/html",
                &page(
                    "Ihre Nachricht an <a href=\"mailto:emil@firma.example\">emil@firma.example</a> konnte nicht zugestellt werden.",
                    "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient emil@firma.example not found by SMTP address lookup",
                ),
            ),
        ),
        case(
            "a Japanese text, no diagnostic in the status",
            "goro@kaisha.example",
            "mailboxfull",
            "5.2.2",
            report(
                postmaster,
                "goro@kaisha.example へのメッセージを配信できませんでした。\n\n受信者のメールボックスがいっぱいで、現在メッセージを受信できません。\n\n管理者向けの診断情報:\n\nGenerating server: TYCP.apcprd01.prod.outlook.example\n\ngoro@kaisha.example\nRemote Server returned '554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded'\n",
                &status("goro@kaisha.example", "5.2.2", ""),
            ),
        ),
        case(
            "Spanish, an external sender is not allowed",
            "grupo@empresa.example",
            "rejected|policyviolation|securityerror|norelaying|filtered",
            "5.7.1",
            report(
                postmaster,
                "Error de entrega a los siguientes destinatarios o grupos:\n\ngrupo@empresa.example\nNo tiene permiso para enviar mensajes a este destinatario.\n",
                &status(
                    "grupo@empresa.example",
                    "5.7.1",
                    "smtp;550 5.7.1 RESOLVER.RST.AuthRequired; authentication required [Stage: CreateMessage]",
                ),
            ),
        ),
        case(
            "a message that is too large, CRLF",
            "jan@bedrijf.example",
            "exceedlimit|mesgtoobig",
            "5.2.3",
            report(
                postmaster,
                "Bezorging is mislukt voor deze geadresseerden of groepen:\n\njan@bedrijf.example\nHet bericht is te groot.\n",
                &status("jan@bedrijf.example", "5.2.3", "smtp;550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient"),
            )
            .replace('\n', "\r\n"),
        ),
    ]
}

fn google() -> Vec<Case> {
    let google = "Mail Delivery Subsystem <mailer-daemon@googlemail.com>";
    vec![
        case(
            "a Japanese text",
            "gone.person@gmail.com",
            "userunknown",
            "5.1.1",
            report(
                google,
                "** 宛先不明 **\n\ngone.person@gmail.com 宛のメールは、アドレスが見つからないか、アドレスがメールを受信できないため、配信されませんでした。\n\nリモート サーバーからの応答:\n\n550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces.\n",
                &status(
                    "gone.person@gmail.com",
                    "5.1.1",
                    "smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try\n 550-5.1.1 double-checking the recipient's email address for typos or\n 550 5.1.1 unnecessary spaces.",
                ),
            ),
        ),
        case(
            "an old text with another address and no returned message",
            "some.body+tag@example.net",
            "mailboxfull",
            "5.2.2|4.2.2",
            plain(
                google,
                "Delivery Status Notification (Failure)",
                "Delivery to the following recipient failed permanently:\n\n     some.body+tag@example.net\n\nTechnical details of permanent failure: \nGoogle tried to deliver your message, but it was rejected by the server for the recipient domain example.net by mx.example.net. [192.0.2.7].\n\nThe error that the other server returned was:\n552 5.2.2 <some.body+tag@example.net>: mailbox over quota\n",
            ),
        ),
        case(
            "a German text, a domain that is not there",
            "kim@nosuch.example",
            // With 4.0.0 it goes on trying.
            "hostunknown|networkerror",
            "",
            report(
                google,
                "** Adresse nicht gefunden **\n\nIhre Nachricht wurde nicht an kim@nosuch.example zugestellt, weil die Domain nosuch.example nicht gefunden wurde.\n",
                &status(
                    "kim@nosuch.example",
                    "4.0.0",
                    "smtp; DNS Error: 12345 DNS type 'mx' lookup of nosuch.example responded with code NXDOMAIN\n Domain name not found: nosuch.example",
                ),
            ),
        ),
    ]
}

fn japan() -> Vec<Case> {
    vec![
        case(
            "docomo at RCPT, through Postfix, dots where they are wanted",
            "..moshi..moshi.@docomo.ne.jp",
            "userunknown",
            "5",
            report(
                DAEMON,
                "<..moshi..moshi.@docomo.ne.jp>: host mfsmax.docomo.ne.jp[203.0.113.240] said:\n    550 Unknown user ..moshi..moshi.@docomo.ne.jp (in reply to RCPT TO command)\n",
                &status("..moshi..moshi.@docomo.ne.jp", "5.0.0", "smtp; 550 Unknown user\n    ..moshi..moshi.@docomo.ne.jp").replace("\nFinal", "\nOriginal-Recipient: rfc822;..moshi..moshi.@docomo.ne.jp\nFinal"),
            ),
        ),
        case(
            "docomo after the content, through Postfix",
            "hana-ko@docomo.ne.jp",
            "rejected",
            "5",
            report(
                DAEMON,
                "<hana-ko@docomo.ne.jp>: host mfsmax.docomo.ne.jp[203.0.113.240] said: 550\n    Unknown user hana-ko@docomo.ne.jp (in reply to end of DATA command)\n",
                &status("hana-ko@docomo.ne.jp", "5.0.0", "smtp; 550 Unknown user hana-ko@docomo.ne.jp"),
            ),
        ),
        case(
            "docomo, the mailbox is full, through qmail",
            "mochi@docomo.ne.jp",
            "mailboxfull",
            "5",
            plain(
                "MAILER-DAEMON@mx.example.org",
                "failure notice",
                "Hi. This is the qmail-send program at mx.example.org.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<mochi@docomo.ne.jp>:\n203.0.113.240 failed after I sent the message.\nRemote host said: 552 Too much mail data mochi@docomo.ne.jp\n\n--- Below this line is a copy of the message.\n\nFrom: hanako@example.com\nTo: mochi@docomo.ne.jp\nSubject: x\n\nbody\n",
            ),
        ),
        case(
            "au: an address that is not there, CRLF",
            "yuki.s@ezweb.ne.jp",
            "userunknown|filtered",
            "5",
            report(
                DAEMON,
                "<yuki.s@ezweb.ne.jp>: host lsean.ezweb.ne.jp[203.0.113.11] said: 550\n    <yuki.s@ezweb.ne.jp>: User unknown (in reply to RCPT TO command)\n",
                &status("yuki.s@ezweb.ne.jp", "5.0.0", "smtp; 550 <yuki.s@ezweb.ne.jp>: User unknown"),
            )
            .replace('\n', "\r\n"),
        ),
        case(
            "au: the subscriber's filter",
            "yuki.s@au.com",
            "filtered",
            "5",
            report(
                DAEMON,
                "<yuki.s@au.com>: host mx.au.com[203.0.113.12] said: 550 : User unknown (in\n    reply to end of DATA command)\n",
                &status("yuki.s@au.com", "5.0.0", "smtp; 550 : User unknown"),
            ),
        ),
        case(
            "SoftBank: an address that is not there",
            "kuma@softbank.ne.jp",
            "userunknown",
            "5",
            report(
                DAEMON,
                "<kuma@softbank.ne.jp>: host mx.softbank.ne.jp[203.0.113.20] said: 550 Invalid\n    recipient: <kuma@softbank.ne.jp> (in reply to RCPT TO command)\n",
                &status("kuma@softbank.ne.jp", "5.0.0", "smtp; 550 Invalid recipient: <kuma@softbank.ne.jp>"),
            ),
        ),
        case(
            "SoftBank: not wanted, no words in the status",
            "kuma@i.softbank.jp",
            "filtered|rejected|spamdetected|blocked|policyviolation",
            "5.2.0",
            report(
                DAEMON,
                "<kuma@i.softbank.jp>: host mx.i.softbank.jp[203.0.113.21] said: 554 5.2.0\n    Message rejected (in reply to end of DATA command)\n",
                &status("kuma@i.softbank.jp", "5.2.0", ""),
            ),
        ),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case(
            "Exim in German, no report",
            "olga@example.net",
            "userunknown",
            "5",
            plain(
                DAEMON,
                "Mail delivery failed: returning message to sender",
                "Diese Nachricht wurde vom Mailserver automatisch erzeugt.\n\nEine von Ihnen verschickte Nachricht konnte nicht zugestellt werden an:\n\n  olga@example.net\n    host mx.example.net [192.0.2.8]\n    SMTP error from remote mail server after RCPT TO:<olga@example.net>:\n    550 5.1.1 <olga@example.net>: Recipient address rejected: User unknown\n\n------ This is a copy of your message, including all the headers. ------\n\nFrom: hanako@example.com\nTo: olga@example.net\nSubject: x\n\n",
            ),
        ),
        case(
            "Exim, wrapped at other places, the field that names the recipient lost",
            "pia@example.net",
            "mailboxfull",
            "5|4",
            plain(
                DAEMON,
                "Mail delivery failed: returning message to sender",
                "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  pia@example.net\n    host mx.example.net [192.0.2.8] SMTP error from remote mail\n    server after end of data: 552 5.2.2 Mailbox\n    size limit exceeded\n",
            ),
        ),
        case(
            "qmail in Portuguese",
            "rui@example.net",
            "userunknown",
            "5.1.1",
            plain(
                "MAILER-DAEMON@mx.example.org",
                "failure notice",
                "Ola. Este e o programa qmail-send em mx.example.org.\nNao foi possivel entregar a sua mensagem para os seguintes enderecos.\n\n<rui@example.net>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\nFrom: hanako@example.com\n\n",
            ),
        ),
        case(
            "qmail, the reply on several lines",
            "sa.kana@example.net",
            "spamdetected|rejected|policyviolation",
            "5.7.1",
            plain(
                "MAILER-DAEMON@mx.example.org",
                "failure notice",
                "Hi. This is the qmail-send program at mx.example.org.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n<sa.kana@example.net>:\n192.0.2.50 failed after I sent the message.\nRemote host said: 554-5.7.1 This message looks like spam\n554 5.7.1 and was refused\n\n--- Below this line is a copy of the message.\n\nFrom: hanako@example.com\n\n",
            ),
        ),
        case(
            "sendmail without MIME",
            "zoe@example.net",
            "userunknown",
            "5.1.1",
            plain(
                "Mail Delivery Subsystem <MAILER-DAEMON@mx.example.org>",
                "Returned mail: see transcript for details",
                "The original message was received at Mon, 2 Mar 2026 10:20:30 +0900\nfrom localhost [127.0.0.1]\n\n   ----- The following addresses had permanent fatal errors -----\n<zoe@example.net>\n    (reason: 550 5.1.1 <zoe@example.net>... User unknown)\n\n   ----- Transcript of session follows -----\n... while talking to mx.example.net.:\n>>> DATA\n<<< 550 5.1.1 <zoe@example.net>... User unknown\n550 5.1.1 <zoe@example.net>... User unknown\n<<< 503 5.0.0 Need RCPT (recipient)\n\n   ----- Original message follows -----\n\nFrom: hanako@example.com\nTo: zoe@example.net\n\n",
            ),
        ),
        case(
            "sendmail, the status alone, in base64's place a wrong charset",
            "max@example.net",
            "hostunknown",
            "5.1.2",
            report(
                "Mail Delivery Subsystem <MAILER-DAEMON@mx.example.org>",
                "",
                &status("max@example.net", "5.1.2", "smtp; 550 Host unknown")
                    .replace("Diagnostic-Code", "Remote-MTA: DNS; typo.example\nDiagnostic-Code"),
            )
            .replace("charset=utf-8", "charset=x-unknown"),
        ),
    ]
}

fn wrong(analyzer: &Analyzer, case: &Case) -> Option<String> {
    let analysis = analyzer.analyze(case.notice.as_bytes());
    let [found] = analysis.findings.as_slice() else {
        return Some(format!("{}: {:?}, {} findings", case.name, analysis.kind, analysis.findings.len()));
    };
    let status = found.status.map(|status| status.to_string()).unwrap_or_default();
    let fits = found.recipient == case.recipient
        && case.reasons.split('|').any(|reason| reason == found.reason.name())
        && case.status.split('|').any(|beginning| status.starts_with(beginning));
    (!fits).then(|| {
        format!(
            "{}: {} {} {status}, wanted {} {} {} (it said: {})",
            case.name, found.recipient, found.reason, case.recipient, case.reasons, case.status, found.diagnostic.text
        )
    })
}

#[test]
fn systems_in_other_words_and_with_pieces_missing() {
    let analyzer = Analyzer::embedded();
    let all: Vec<Case> = [postfix(), microsoft(), google(), japan(), others()].into_iter().flatten().collect();
    let wrong: Vec<String> = all.iter().filter_map(|case| wrong(&analyzer, case)).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

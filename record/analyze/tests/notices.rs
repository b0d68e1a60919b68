//! Notices of systems that follow no standard, or whose report was lost on the way: sender, subject and text, in the words
//! of each system, and what is to be read from them. Where a notice does not say at which stage a user was unknown, it may
//! have been a filter (`filtered`).

use yamabiko_analyze::Analyzer;

struct Notice {
    system: &'static str,
    from: &'static str,
    subject: &'static str,
    text: &'static str,
    reasons: &'static str,
}

const GONE: &str = "gone@example.net";

#[rustfmt::skip]
const NOTICES: &[Notice] = &[
    Notice { system: "Microsoft 365, German", from: "postmaster@example.onmicrosoft.com", subject: "Unzustellbar: Angebot", reasons: "userunknown",
        text: "Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:\n\ngone@example.net\nDie eingegebene E-Mail-Adresse konnte nicht gefunden werden. Überprüfen Sie die E-Mail-Adresse des Empfängers.\n\nDiagnoseinformationen für Administratoren:\n\nGenerierender Server: EX1.example.org\n\ngone@example.net\nRemote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup'\n" },
    Notice { system: "Microsoft 365, Japanese", from: "postmaster@example.onmicrosoft.com", subject: "配信不能: お見積もりの件", reasons: "userunknown",
        text: "次の受信者またはグループへの配信に失敗しました:\n\ngone@example.net\n入力したメール アドレスが見つかりませんでした。受信者のメール アドレスを確認し、メッセージを再送信してください。\n\n管理者向けの診断情報:\n\n生成元サーバー: EX1.example.org\n\ngone@example.net\nRemote Server returned '550 5.1.1 RESOLVER.ADR.RecipNotFound; not found'\n" },
    Notice { system: "Microsoft 365, French", from: "postmaster@example.onmicrosoft.com", subject: "Non remis : Devis", reasons: "mailboxfull",
        text: "Échec de la remise pour ces destinataires ou groupes :\n\ngone@example.net\nLa boîte aux lettres du destinataire est pleine et ne peut pas accepter de messages pour le moment.\n\nInformations de diagnostic pour les administrateurs :\n\nServeur de génération : EX1.example.org\n\ngone@example.net\nRemote Server returned '554 5.2.2 mailbox full'\n" },
    Notice { system: "Microsoft 365, Spanish", from: "postmaster@example.onmicrosoft.com", subject: "No se puede entregar: Presupuesto", reasons: "userunknown",
        text: "Error al entregar a estos destinatarios o grupos:\n\ngone@example.net\nNo se encontró la dirección de correo electrónico que especificó.\n\nInformación de diagnóstico para los administradores:\n\nServidor de generación: EX1.example.org\n\ngone@example.net\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n" },
    Notice { system: "Microsoft 365, Italian", from: "postmaster@example.onmicrosoft.com", subject: "Non recapitabile: Preventivo", reasons: "userunknown",
        text: "Recapito non riuscito per i seguenti destinatari o gruppi:\n\ngone@example.net\nImpossibile trovare l'indirizzo di posta elettronica immesso.\n\nInformazioni di diagnostica per gli amministratori:\n\nServer di generazione: EX1.example.org\n\ngone@example.net\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n" },
    Notice { system: "Microsoft 365, Dutch", from: "postmaster@example.onmicrosoft.com", subject: "Onbestelbaar: Offerte", reasons: "userunknown|filtered",
        text: "Bezorging is mislukt voor de volgende geadresseerden of groepen:\n\ngone@example.net\nHet ingevoerde e-mailadres is niet gevonden.\n\nDiagnostische gegevens voor beheerders:\n\ngone@example.net\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n" },
    Notice { system: "Exchange 5.5", from: "System Administrator <postmaster@example.org>", subject: "Undeliverable: Hello", reasons: "userunknown",
        text: "Your message\n\n  To:      gone@example.net\n  Subject: Hello\n  Sent:    Mon, 16 Nov 2026 09:00:00 +0900\n\ndid not reach the following recipient(s):\n\ngone@example.net on Mon, 16 Nov 2026 09:00:10 +0900\n    The recipient name is not recognized\n\tThe MTS-ID of the original message is: c=us;a= ;p=example;l=EX10002\n    MSEXCH:IMS:EXAMPLE:SITE:EX1 0 (000C05A6) Unknown Recipient\n" },
    Notice { system: "hMailServer", from: "mailer-daemon@mx.example.org", subject: "Message undeliverable: Hello", reasons: "userunknown",
        text: "Your message did not reach some or all of the intended recipients.\n\n   Sent: Mon, 16 Nov 2026 09:00:00 +0900\n   Subject: Hello\n\nThe following recipient(s) could not be reached:\n\ngone@example.net\n   Error Type: SMTP\n   Remote server (192.0.2.9) issued an error.\n   hMailServer sent: RCPT TO:<gone@example.net>\n   Remote server replied: 550 5.1.1 <gone@example.net> User unknown\n\nhMailServer\n" },
    Notice { system: "MDaemon", from: "MDaemon@mx.example.org", subject: "Permanent Delivery Failure", reasons: "userunknown",
        text: "The attached message had PERMANENT fatal delivery errors!\n\nAfter one or more unsuccessful delivery attempts the attached message has\nbeen removed from the mail queue on this server.\n\nYOUR MESSAGE WAS NOT DELIVERED TO ONE OR MORE RECIPIENTS!\n\nFailed address: gone@example.net\n\n--- Session Transcript ---\n Mon 2026-11-16 09:00:00: --> RCPT To:<gone@example.net>\n Mon 2026-11-16 09:00:01: <-- 550 <gone@example.net>, Recipient unknown\n Mon 2026-11-16 09:00:01: --> QUIT\n--- End Transcript ---\n" },
    Notice { system: "GroupWise", from: "Mailer-Daemon@gw.example.org", subject: "Message status - undeliverable", reasons: "userunknown|filtered",
        text: "The message that you sent was undeliverable to the following:\n\tgone@example.net (user not found)\n\nPossibly truncated original message follows:\n" },
    Notice { system: "IceWarp", from: "mailer-daemon@mx.example.org", subject: "Undeliverable mail: Hello", reasons: "mailboxfull",
        text: "The following recipient(s) of your message could not be reached:\n\n<gone@example.net>; Reply from mx.example.net: 552 5.2.2 <gone@example.net> Mailbox is full\n" },
    Notice { system: "Kerio Connect", from: "postmaster@mx.example.org", subject: "Delivery Failure", reasons: "userunknown",
        text: "Your message could not be delivered to the following recipients:\n\n<gone@example.net>\n   Reason: 550 5.1.1 <gone@example.net>... User unknown\n   Remote host: mx.example.net\n" },
    Notice { system: "Apache James", from: "postmaster@mx.example.org", subject: "[BOUNCE]", reasons: "userunknown",
        text: "Hi. This is the James mail server at mx.example.org.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out. Below\nI include the list of recipients and the reason why I was unable to deliver\nyour message.\n\nFailed recipient(s):\ngone@example.net\n\nError message:\n550 5.1.1 <gone@example.net>: unknown user\n" },
    Notice { system: "Haraka", from: "MAILER-DAEMON@mx.example.org", subject: "Undelivered Mail Returned to Sender", reasons: "userunknown",
        text: "Hi. This is the Haraka Mailer program at mx.example.org.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\nIntended Recipients: <gone@example.net>\nFailure Reason: 550 5.1.1 no such user\n" },
    Notice { system: "CommuniGate Pro", from: "MAILER-DAEMON@mx.example.org", subject: "Undeliverable mail: Hello", reasons: "userunknown",
        text: "Failed to deliver to '<gone@example.net>'\nSMTP module(domain example.net) reports:\n host mx.example.net says:\n 550 5.1.1 <gone@example.net>: User unknown\n" },
    Notice { system: "SmarterMail", from: "System Administrator <postmaster@mx.example.org>", subject: "Delivery Failure", reasons: "userunknown",
        text: "Could not deliver message to the following recipient(s):\n\nFailed Recipient: gone@example.net\nReason: Remote host said: 550 5.1.1 The email account that you tried to reach does not exist.\n\n   -- The header and top 20 lines of the message follows --\n" },
    Notice { system: "MailEnable", from: "postmaster@mx.example.org", subject: "Message Delivery Failure", reasons: "userunknown|filtered",
        text: "MailEnable: Message delivery has failed.\nMessage could not be delivered to some recipients.\nThe following recipient(s) could not be reached:\n\n\tRecipient: [SMTP:gone@example.net]\n\tReason: Remote SMTP Server Returned: 550 No such user here\n" },
    Notice { system: "vpopmail", from: "MAILER-DAEMON@mx.example.org", subject: "failure notice", reasons: "mailboxfull",
        text: "Hi. This is the qmail-send program at mx.example.org.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<gone@example.net>:\nRecipient's mailbox is full, message returned to sender. (#5.2.2)\n\n--- Below this line is a copy of the message.\n\nReturn-Path: <hanako@example.com>\nSubject: Hello\n" },
    Notice { system: "netqmail, Japanese", from: "MAILER-DAEMON@mx.example.jp", subject: "failure notice", reasons: "userunknown",
        text: "mx.example.jp の qmail-send プログラムです。\n次の宛先にメールを配送できませんでした。\n\n<gone@example.net>:\nこのアドレスのメールボックスはありません。 Sorry, no mailbox here by that name. (#5.1.1)\n" },
    Notice { system: "Gmail, today", from: "Mail Delivery Subsystem <mailer-daemon@googlemail.com>", subject: "Delivery Status Notification (Failure)", reasons: "userunknown",
        text: "** Address not found **\n\nYour message wasn't delivered to gone@example.net because the address couldn't be found, or is unable to receive mail.\n\nLearn more here: https://support.google.com/mail/?p=NoSuchUser\n\nThe response was:\n\n550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address.\n" },
    Notice { system: "Gmail, Japanese", from: "Mail Delivery Subsystem <mailer-daemon@googlemail.com>", subject: "配信ステータス通知（失敗）", reasons: "userunknown",
        text: "** アドレス不明 **\n\nアドレスが見つからないか、メールを受信できないため、gone@example.net にメールを配信できませんでした。\n\nリモート サーバーからの応答:\n\n550 5.1.1 <gone@example.net>: Recipient address rejected: User unknown\n" },
    Notice { system: "QQ", from: "PostMaster@qq.com", subject: "系统退信", reasons: "userunknown|filtered",
        text: "很抱歉您发送的邮件被退回，以下是该邮件的相关信息：\n\n被退回邮件\n主 题：Hello\n\n无法发送到 gone@example.net\n退信原因 收件人邮件地址（gone@example.net）不存在，邮件无法送达。\nhost mx.example.net said: 550 Mailbox not found\n" },
    Notice { system: "NetEase", from: "Postmaster@163.com", subject: "系统退信/Systems bounce", reasons: "userunknown",
        text: "抱歉，您的邮件被退回来了……\n\n原邮件信息：\n收件人：gone@example.net\n\n退信原因：\nSMTP error, RCPT TO: Host mx.example.net said: 550 User not found: gone@example.net\n" },
    Notice { system: "Naver, Korean", from: "postmaster@naver.com", subject: "[발송실패 안내] gone@example.net로 메일이 전송되지 못했습니다.", reasons: "userunknown",
        text: "메일이 전송되지 못했습니다.\n\n받는사람: gone@example.net\n사유: 존재하지 않는 사용자입니다. (550 5.1.1 No such user)\n" },
    Notice { system: "Russian", from: "mailer-daemon@mx.example.ru", subject: "Сообщение не доставлено", reasons: "userunknown",
        text: "Это письмо создано автоматически почтовым сервером.\n\nВаше сообщение не может быть доставлено одному или нескольким получателям:\n\ngone@example.net\n550 5.1.1 Пользователь не найден\n" },
    Notice { system: "Domino, German", from: "Postmaster@example.de", subject: "UNZUSTELLBARE MAIL: Angebot", reasons: "userunknown",
        text: "Ihre Nachricht\n\n  Betreff: Angebot\n\nkonnte nicht zugestellt werden an:\n\n  gone@example.net\n\nweil:\n\n  User gone (gone@example.net) not listed in Domino Directory\n" },
    Notice { system: "a Japanese provider", from: "MAILER-DAEMON@isp.example.jp", subject: "Returned mail: メールを配信できませんでした", reasons: "mailboxfull",
        text: "以下の宛先へのメールは、メールボックスの容量が一杯のため配信できませんでした。\n\n  <gone@example.net>\n\n---------- 元のメール ----------\n" },
    Notice { system: "too large, in words only", from: "Mail Administrator <postmaster@mx.example.org>", subject: "Mail System Error - Returned Mail", reasons: "mesgtoobig|exceedlimit",
        text: "This Message was undeliverable due to the following reason:\n\nThe message is larger than the maximum size that the destination accepts.\n\nThe following recipients did not receive this message:\n\n     <gone@example.net>\n" },
    Notice { system: "waited in vain", from: "Mail Delivery System <MAILER-DAEMON@mx.example.org>", subject: "Warning: message 1abcde-000123-45 delayed 24 hours", reasons: "expired",
        text: "This message was created automatically by mail delivery software.\nA message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue on mx.example.org.\n\nThe address to which the message has not yet been delivered is:\n\n  gone@example.net\n    Delay reason: Connection timed out\n\nNo action is required on your part.\n" },
    Notice { system: "Exchange, no reason given", from: "postmaster@mx.example.org", subject: "Undeliverable: gone@example.net", reasons: "onhold|undefined",
        text: "Your Message\n\nTo:      <gone@example.net>\n\nSubject: Hello\n\nDid not reach the following recipient: gone@example.net\n" },
    Notice { system: "a gateway to telephones that answers like a person", from: "post_master@vtext.com", subject: "Re:Hello", reasons: "userunknown|filtered",
        text: "Error: Invalid user address\n\nError message below:\n550 - Requested action not taken: no such user here\n\nMessage details:\n  Subject: Hello\n  RCPT TO: gone@example.net\n  Size (in bytes): 222\n" },
    Notice { system: "qmail with many exchangers", from: "MAILER-DAEMON@mx.example.org", subject: "failure notice", reasons: "userunknown",
        text: "Hi. This is the qmail-send program at mx.example.org.\n\n<gone@example.net>:\nSorry, no SMTP connection got far enough; most progress was RCPT TO response; remote host 192.0.2.7 said: 550 Unknown user gone@example.net\n" },
    Notice { system: "Exim to a postmaster, the sender named first", from: "Mail Delivery System <Mailer-Daemon@mx.example.org>", subject: "Mail delivery failed", reasons: "expired",
        text: "A message sent by\n\n  <hanako@example.com>\n\ncould not be delivered to one or more of its recipients. The following\naddress(es) failed:\n\n  gone@example.net\n    all hosts have been failing for a long time and were last tried after this message arrived\n" },
];

#[test]
fn notices_in_plain_text() {
    let analyzer = Analyzer::embedded();
    let mut wrong = Vec::new();
    for notice in NOTICES {
        let message = format!(
            "From: {}\nTo: hanako@example.com\nSubject: {}\nDate: Mon, 16 Nov 2026 09:00:00 +0900\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}",
            notice.from, notice.subject, notice.text
        );
        let analysis = analyzer.analyze(message.as_bytes());
        let found: Vec<(&str, &str)> =
            analysis.findings.iter().map(|f| (f.recipient.as_str(), f.reason.name())).collect();
        let right = matches!(found[..], [(recipient, reason)] if recipient == GONE && notice.reasons.split('|').any(|wanted| wanted == reason));
        if !right {
            wrong.push(format!("{}: {found:?}, wanted {} ({:?})", notice.system, notice.reasons, analysis.undecoded));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), NOTICES.len(), wrong.join("\n"));
}

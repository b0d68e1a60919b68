//! What the world's mail servers say, and what it means: replies in their own words, one a line. Where a reply leaves room
//! for more than one reading, the readings stand with `|` between them.

use yamabiko_analyze::{Analyzer, Reply, Stage};

const CONN: Option<Stage> = Some(Stage::Conn);
const MAIL: Option<Stage> = Some(Stage::Mail);
const RCPT: Option<Stage> = Some(Stage::Rcpt);
const DATA: Option<Stage> = Some(Stage::Data);

/// Text, stage, host, reasons, hard.
type Case = (&'static str, Option<Stage>, &'static str, &'static str, bool);

#[rustfmt::skip]
const LARGE_PROVIDERS: &[Case] = &[
    // Google
    ("550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces. x - gsmtp", RCPT, "gmail-smtp-in.l.google.com", "userunknown", true),
    ("452-4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaTemp", RCPT, "gmail-smtp-in.l.google.com", "mailboxfull", false),
    ("550-5.2.1 The email account that you tried to reach is inactive. For more information, go to https://support.google.com/mail/?p=DisabledUser", RCPT, "gmail-smtp-in.l.google.com", "suspend", false),
    ("550-5.7.26 Your email has been blocked because the sender is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM.", DATA, "gmail-smtp-in.l.google.com", "authfailure", false),
    ("421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your SPF domain [example.com 36].", DATA, "gmail-smtp-in.l.google.com", "speeding|toomanyconn|badreputation", false),
    ("550-5.7.25 [192.0.2.1] The IP address sending this message does not have a PTR record setup, or the corresponding forward DNS entry does not match the sending IP.", DATA, "gmail-smtp-in.l.google.com", "requireptr", false),
    ("552-5.7.0 This message was blocked because its content presents a potential security issue.", DATA, "gmail-smtp-in.l.google.com", "virusdetected|securityerror|contenterror|policyviolation", false),
    ("550-5.7.1 Gmail has detected that this message is likely unsolicited mail. To reduce the amount of spam sent to Gmail, this message has been blocked.", DATA, "gmail-smtp-in.l.google.com", "spamdetected", false),
    ("450-4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered.", RCPT, "gmail-smtp-in.l.google.com", "speeding|exceedlimit|toomanyconn", false),
    ("550-5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to", DATA, "smtp.gmail.com", "speeding|exceedlimit|toomanyconn", false),
    ("552 5.3.4 Your message exceeded Google's message size limits. Visit https://support.google.com/mail/?p=MaxSizeError", DATA, "gmail-smtp-in.l.google.com", "mesgtoobig|exceedlimit", false),
    // Microsoft
    ("550 5.4.1 Recipient address rejected: Access denied. [AM5EUR02FT034.eop-EUR02.prod.protection.outlook.com]", RCPT, "example-org.mail.protection.outlook.com", "userunknown|rejected", true),
    ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient someone@example.org not found by SMTP address lookup", RCPT, "example-org.mail.protection.outlook.com", "userunknown", true),
    ("550 5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).", MAIL, "hotmail-com.olc.protection.outlook.com", "blocked|badreputation", false),
    ("550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", RCPT, "hotmail-com.olc.protection.outlook.com", "userunknown", true),
    ("554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded", DATA, "", "mailboxfull", false),
    ("550 5.7.515 Access denied, sending domain example.com does not meet the required authentication level.", DATA, "outlook-com.olc.protection.outlook.com", "authfailure", false),
    ("550 5.7.606 Access denied, banned sending IP [192.0.2.8]. To request removal from this list please visit https://sender.office.com/", RCPT, "example-org.mail.protection.outlook.com", "blocked", false),
    ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.", RCPT, "example-org.mail.protection.outlook.com", "blocked|badreputation|speeding", false),
    ("550 5.7.64 TenantAttribution; Relay Access Denied", RCPT, "example-org.mail.protection.outlook.com", "norelaying", false),
    ("550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required; Delivery restriction check failed because the sender was not authenticated when sending to this group", DATA, "", "rejected|policyviolation|securityerror", false),
    ("550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient", DATA, "", "exceedlimit|mesgtoobig", false),
    ("554 5.4.14 Hop count exceeded - possible mail loop ATTR34", DATA, "", "networkerror", false),
    ("550 5.4.316 Message expired, connection refused(Socket error code 10061)", None, "", "expired|networkerror", false),
    // Yahoo, AOL
    ("554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0] - mta1021.mail.bf1.yahoo.com", DATA, "mta7.am0.yahoodns.net", "userunknown", true),
    ("552 1 Requested mail action aborted, mailbox not found", RCPT, "mta7.am0.yahoodns.net", "userunknown", true),
    ("421 4.7.0 [TSS04] Messages from 192.0.2.9 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1", MAIL, "mta5.am0.yahoodns.net", "badreputation|speeding|blocked|toomanyconn", false),
    ("553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.9, because the ip is in Spamhaus's list; see https://postmaster.yahooinc.com/error-codes", CONN, "mta6.am0.yahoodns.net", "blocked|badreputation", false),
    ("554 5.7.9 Message not accepted for policy reasons. See https://senders.yahooinc.com/error-codes", DATA, "mta6.am0.yahoodns.net", "policyviolation|authfailure", false),
    ("554 30 Sorry, your message to x@yahoo.com cannot be delivered. This mailbox is disabled (554.30).", DATA, "mta6.am0.yahoodns.net", "suspend", false),
    // Apple
    ("550 5.1.1 <x@icloud.com>: user does not exist", RCPT, "mx01.mail.icloud.com", "userunknown", true),
    ("552 5.2.2 <x@icloud.com>: user is over quota", RCPT, "mx02.mail.icloud.com", "mailboxfull", false),
    ("550 5.7.0 Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.4", CONN, "mx01.mail.icloud.com", "blocked|badreputation", false),
    ("554 5.7.1 [CS01] Message rejected due to local policy.", DATA, "mx01.mail.icloud.com", "policyviolation|spamdetected|blocked", false),
];

#[rustfmt::skip]
const JAPAN: &[Case] = &[
    ("550 Unknown user nobody@docomo.ne.jp", RCPT, "mfsmax.docomo.ne.jp", "userunknown", true),
    ("550 Unknown user somebody@docomo.ne.jp", DATA, "mfsmax.docomo.ne.jp", "rejected", false),
    // Nobody says which host it was: the address that the reply names tells.
    ("550 Unknown user nobody@docomo.ne.jp", RCPT, "", "userunknown", true),
    ("550 Unknown user somebody@docomo.ne.jp", DATA, "", "rejected", false),
    ("550 5.2.0 Unknown user somebody@docomo.ne.jp", DATA, "", "filtered", false),
    ("550 5.1.1 <nobody@ezweb.ne.jp>: User unknown", RCPT, "", "userunknown", true),
    // At MAIL the address is the sender's, who may be a customer of docomo anywhere.
    ("550 Unknown user somebody@docomo.ne.jp", MAIL, "", "rejected", false),
    ("550 <nobody@ezweb.ne.jp>: User unknown", RCPT, "lsean.ezweb.ne.jp", "userunknown|filtered", true),
    ("550 Invalid recipient: <nobody@softbank.ne.jp>", RCPT, "mx.softbank.ne.jp", "userunknown", true),
    ("550 Invalid recipient: <nobody@ymobile.ne.jp>", RCPT, "mx.ymobile.ne.jp", "userunknown", true),
    ("550 5.1.1 <nobody@uqmobile.jp>: User unknown", RCPT, "mx.uqmobile.jp", "userunknown", true),
    ("550 5.1.1 User not found", RCPT, "mail.rakumail.jp", "userunknown", true),
    ("550 5.1.1 unknown or illegal alias: nobody@plala.or.jp", RCPT, "mx.plala.or.jp", "userunknown", true),
    ("550 5.1.1 <nobody@nifty.com>... User Unknown", RCPT, "mx.nifty.com", "userunknown", true),
    ("552 5.2.2 <somebody@example.sakura.ne.jp>... Over quota", RCPT, "www1.sakura.ne.jp", "mailboxfull", false),
    ("550 Sorry, no mailbox here by that name. (#5.1.1)", RCPT, "sv1.xserver.jp", "userunknown", true),
    ("550 5.1.1 RCPT TO:<nobody@ocn.ne.jp> User unknown", RCPT, "mx.ocn.ad.jp", "userunknown", true),
    ("550 5.1.1 宛先のメールアドレスは存在しません", RCPT, "", "userunknown", true),
    ("550 宛先が見つかりません", RCPT, "", "userunknown", true),
    ("552 5.2.2 メールボックスの容量が上限に達しているため受信できません", RCPT, "", "mailboxfull", false),
    ("554 5.7.1 迷惑メールと判定されたため、受信を拒否しました", DATA, "", "spamdetected", false),
    ("550 受信者の設定により受信が拒否されました", DATA, "", "filtered|rejected", false),
    ("552 メッセージのサイズが制限を超えています", DATA, "", "mesgtoobig|exceedlimit", false),
];

#[rustfmt::skip]
const ASIA: &[Case] = &[
    ("550 Mailbox not found. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000728", RCPT, "mx3.qq.com", "userunknown", true),
    ("550 The recipient may contain a non-existent account, please check the recipient address.", RCPT, "mx1.qq.com", "userunknown", true),
    ("450 Connection frequency limited. http://service.mail.qq.com/", CONN, "mx3.qq.com", "toomanyconn|speeding", false),
    ("550 Mail content denied. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000726", DATA, "mx3.qq.com", "spamdetected|contenterror", false),
    ("550 User not found: nobody@163.com", RCPT, "163mx01.mxmail.netease.com", "userunknown", true),
    ("550 User suspended: somebody@163.com", RCPT, "163mx01.mxmail.netease.com", "suspend", false),
    ("552 Mailbox limit exceeded: somebody@126.com", RCPT, "126mx00.mxmail.netease.com", "mailboxfull", false),
    ("554 DT:SPM 163 mx12,QsCowAAXd1, please see http://mail.163.com/help/help_spam_16.htm", DATA, "163mx02.mxmail.netease.com", "spamdetected|blocked", false),
    ("554 IP<192.0.2.10> in blacklist", CONN, "163mx02.mxmail.netease.com", "blocked|badreputation", false),
    ("550 5.1.1 No such user nobody@naver.com - nsmtp", RCPT, "mx1.naver.com", "userunknown", true),
    ("421 4.3.2 Your ip blocked from this server 192.0.2.11", CONN, "mx1.naver.com", "blocked", false),
    ("550 用户不存在", RCPT, "", "userunknown", true),
    ("552 收件人邮箱已满", RCPT, "", "mailboxfull", false),
    ("550 使用者不存在", RCPT, "", "userunknown", true),
    ("550 존재하지 않는 사용자입니다", RCPT, "", "userunknown", true),
    ("552 받는 사람의 편지함 용량이 초과되었습니다", RCPT, "", "mailboxfull", false),
];

#[rustfmt::skip]
const EUROPE: &[Case] = &[
    ("554 IP=192.0.2.12 - A problem occurred. Ask your postmaster for help or to contact tobr@rx.t-online.de to clarify.", CONN, "mx00.t-online.de", "blocked|badreputation", false),
    ("550-5.1.1 unknown user", RCPT, "mx01.t-online.de", "userunknown", true),
    ("550 Requested action not taken: mailbox unavailable", RCPT, "mx00.emig.gmx.net", "userunknown", true),
    ("554 gmx.net (mxgmx016) Nemesis ESMTP Service not available. No SMTP service. IP address is block listed.", CONN, "mx00.emig.gmx.net", "blocked|badreputation", false),
    ("552 Requested mail action aborted: exceeded storage allocation. Quota exceeded.", RCPT, "mx01.emig.gmx.net", "mailboxfull", false),
    ("550 Unbekannter Empfänger", RCPT, "", "userunknown", true),
    ("552 Das Postfach des Empfängers ist voll", RCPT, "", "mailboxfull", false),
    ("550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]", RCPT, "smtp-in.orange.fr", "userunknown", true),
    ("552 5.2.2 Boite du destinataire pleine. Recipient overquota. OFR_417 [417]", RCPT, "smtp-in.orange.fr", "mailboxfull", false),
    ("421 4.7.0 Too many spams from your IP (192.0.2.13), please visit http://postmaster.free.fr/", CONN, "mx1.free.fr", "blocked|badreputation|spamdetected|speeding", false),
    ("550 5.5.0 Boite du destinataire archivee. Archived recipient. LPN007_420", RCPT, "smtpz4.laposte.net", "suspend", false),
    ("550 Utilisateur inconnu", RCPT, "", "userunknown", true),
    ("552 Boîte aux lettres pleine", RCPT, "", "mailboxfull", false),
    ("552 RCPT TO:<somebody@libero.it> Mailbox disk quota exceeded", RCPT, "smtp-in.libero.it", "mailboxfull", false),
    ("550 smtp-16.iol.local IP blacklisted by CSI. For remediation please use http://csi.cloudmark.com/reset-request/?ip=192.0.2.14", CONN, "smtp-in.libero.it", "blocked|badreputation", false),
    ("550 Utente sconosciuto", RCPT, "", "userunknown", true),
    ("552 La casella del destinatario è piena", RCPT, "", "mailboxfull", false),
    ("550 El usuario no existe", RCPT, "", "userunknown", true),
    ("552 El buzón del destinatario está lleno", RCPT, "", "mailboxfull", false),
    ("550 Caixa postal inexistente", RCPT, "", "userunknown", true),
    ("552 Caixa de correio do destinatário cheia", RCPT, "mx.uol.com.br", "mailboxfull", false),
    ("550 Onbekende gebruiker", RCPT, "", "userunknown", true),
    ("552 De mailbox van de ontvanger is vol", RCPT, "", "mailboxfull", false),
    ("550 Okänd mottagare", RCPT, "", "userunknown", true),
    ("552 Mottagarens brevlåda är full", RCPT, "", "mailboxfull", false),
    ("550 5.7.1 No such user!", RCPT, "mx.yandex.ru", "userunknown", true),
    ("554 5.7.1 Message rejected under suspicion of SPAM; https://ya.cc/1IrBc 1600000000-abc", DATA, "mx.yandex.ru", "spamdetected", false),
    ("550 5.7.1 Policy rejection on the target address", RCPT, "mx.yandex.ru", "policyviolation|rejected|filtered|blocked", false),
    ("550 Message was not accepted -- invalid mailbox.  Local mailbox nobody@mail.ru is unavailable: user not found", RCPT, "mxs.mail.ru", "userunknown", true),
    ("550 Message was not accepted -- invalid mailbox.  Local mailbox somebody@mail.ru is unavailable: account is disabled", RCPT, "mxs.mail.ru", "suspend", false),
    ("550 spam message rejected. Please visit http://help.mail.ru/notspam-support/id?c=abc or report details to abuse@corp.mail.ru", DATA, "mxs.mail.ru", "spamdetected", false),
    ("550 Пользователь не найден", RCPT, "", "userunknown", true),
    ("552 Почтовый ящик получателя переполнен", RCPT, "", "mailboxfull", false),
];

#[rustfmt::skip]
const FILTERS_AND_HOSTS: &[Case] = &[
    ("554 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.15", CONN, "mx0a-0012.pphosted.com", "blocked|badreputation", false),
    ("550 5.1.1 User Unknown", RCPT, "mx0b-0012.pphosted.com", "userunknown", true),
    ("550 Rejected by header based Anti-Spoofing policy: sender@example.com - https://community.mimecast.com/docs/DOC-1369#550", DATA, "us-smtp-inbound-1.mimecast.com", "authfailure|policyviolation|securityerror", false),
    ("550 Administrative prohibition - envelope blocked", RCPT, "eu-smtp-inbound-1.mimecast.com", "policyviolation|rejected|blocked|filtered", false),
    ("550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550", RCPT, "eu-smtp-inbound-1.mimecast.com", "userunknown", true),
    ("554 Email rejected due to security policies - MCSpamSignature.x.0", DATA, "eu-smtp-inbound-1.mimecast.com", "spamdetected|policyviolation|securityerror|virusdetected", false),
    ("554 Service unavailable; Client host [mail.example.com] blocked using Barracuda Reputation; http://www.barracudanetworks.com/reputation/?r=1&ip=192.0.2.16", CONN, "d1234.ess.barracudanetworks.com", "badreputation|blocked", false),
    ("550 permanent failure for one or more recipients (somebody@example.org:550 5.1.1 User unknown)", DATA, "d1234.ess.barracudanetworks.com", "userunknown", true),
    ("554-esa1.example.org 554 Your access to this mail system has been rejected due to the sending MTA's poor reputation.", CONN, "esa1.iphmx.com", "badreputation|blocked", false),
    ("550 #5.1.0 Address rejected.", RCPT, "esa1.iphmx.com", "userunknown", true),
    ("550 #5.7.1 Your access to submit messages to this e-mail system has been rejected.", CONN, "esa1.iphmx.com", "blocked|badreputation|rejected|policyviolation", false),
    ("552 #5.3.4 message size exceeds limit", MAIL, "esa1.iphmx.com", "mesgtoobig", false),
    ("550 5.7.1 Message blocked by Sophos: sender is listed in zen.spamhaus.org", RCPT, "mx-01.eu-west-1.prod.hydra.sophos.com", "blocked|badreputation", false),
    ("550 5.1.1 <nobody@fastmail.com>: Recipient address rejected: User unknown in virtual mailbox table", RCPT, "in1-smtp.messagingengine.com", "userunknown", true),
    ("550 5.1.1 <nobody@proton.me>: Recipient address rejected: Address does not exist", RCPT, "mail.protonmail.ch", "userunknown", true),
    ("554 5.7.7 Email policy violation detected", DATA, "mx.zoho.com", "policyviolation", false),
    ("550 5.4.6 Unusual sending activity detected. Please try after sometime", DATA, "smtp.zoho.com", "speeding|blocked|toomanyconn|exceedlimit|suspend|securityerror|badreputation|policyviolation|rejected", false),
    ("550 5.1.1 <nobody@example.org>: Email address could not be found, or was misspelled (G8)", RCPT, "route1.mx.cloudflare.net", "userunknown", true),
    ("554 5.7.1 Service unavailable; Client host [192.0.2.17] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.17", RCPT, "", "blocked|badreputation", false),
    ("450 4.7.1 <nobody@example.org>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/example.org.html", RCPT, "", "blocked|onhold|policyviolation|speeding|rejected|filtered|undefined", false),
    ("550 5.7.23 <sender@example.com>: Recipient address rejected: Message rejected due to: SPF fail - not authorized.", RCPT, "", "authfailure", false),
    ("550 5.7.1 rejected by DMARC policy for example.com", DATA, "", "authfailure", false),
    ("550-Verification failed for <sender@example.com> 550 Sender verify failed", RCPT, "", "rejected", false),
    ("553 5.1.8 <sender@nowhere.invalid>: Sender address rejected: Domain not found", RCPT, "", "rejected", false),
    ("550-Mailbox unknown.  Either there is no mailbox associated with this name or you do not have authorization to see it. 550 5.1.1 User unknown", RCPT, "", "userunknown", true),
    ("551 5.1.6 Recipient has moved; please try <new@example.org>", RCPT, "", "hasmoved", true),
    ("521 5.3.2 mail.example.org does not accept mail", CONN, "", "notaccept", true),
    ("556 5.1.10 Recipient address has null MX", None, "", "notaccept|hostunknown", true),
    ("530 5.7.0 Must issue a STARTTLS command first", MAIL, "", "failedstarttls|securityerror", false),
    ("550 5.7.1 virus Eicar-Test-Signature detected by ClamAV - http://www.clamav.net", DATA, "", "virusdetected", false),
    ("501 5.5.4 Invalid HELO name", Some(Stage::Ehlo), "", "blocked|requireptr|syntaxerror|rejected|policyviolation", false),
    ("452 4.3.1 Insufficient system storage", MAIL, "", "systemfull", false),
    ("451 4.3.0 Error: queue file write error", DATA, "", "systemerror", false),
    ("421 4.7.0 mx.example.org Error: too many connections from 192.0.2.18", CONN, "", "toomanyconn", false),
    ("554 5.4.0 Error: too many hops", DATA, "", "networkerror", false),
    ("554 5.7.1 <somebody@example.org>: Relay access denied", RCPT, "", "norelaying", false),
    ("550 relay not permitted", RCPT, "", "norelaying", false),
    ("554 5.6.0 Message contains bare newlines in violation of RFC 5322", DATA, "", "notcompliantrfc|contenterror", false),
    ("550 5.7.1 Messages missing a valid messageId header are not accepted.", DATA, "", "notcompliantrfc|contenterror|policyviolation", false),
    ("550 5.7.25 Client host rejected: cannot find your reverse hostname, [192.0.2.19]", RCPT, "", "requireptr", false),
];

#[test]
fn replies_of_the_world() {
    let analyzer = Analyzer::embedded();
    let (mut all, mut wrong) = (0, Vec::new());
    for (text, stage, remote_host, reasons, hard) in
        [LARGE_PROVIDERS, JAPAN, ASIA, EUROPE, FILTERS_AND_HOSTS].into_iter().flatten().copied()
    {
        all += 1;
        let verdict = analyzer.classify(&Reply { text, stage, remote_host, ..Reply::default() });
        let reason = verdict.reason.name();
        let wanted = reasons.split('|').any(|wanted| wanted == reason);
        // Of several readings each has its own hardness.
        let hard = if reasons.contains('|') { verdict.reason.is_hard(5) } else { hard };
        if !wanted || verdict.hard_bounce != hard {
            wrong.push(format!("{reason} (hard: {}), wanted {reasons} (hard: {hard}): {text}", verdict.hard_bounce));
        }
    }
    assert!(wrong.is_empty(), "{} of {all} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

//! Which system wrote a notice, and how much speaks for its being one.

use crate::Rules;
use crate::decide::LIMIT;
use crate::mail::Mail;
use crate::rules::Scan;
use crate::text;
use aho_corasick::AhoCorasick;
use std::borrow::Cow;
use std::sync::LazyLock;
use yamabiko_report::structure;

/// What is known about the author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct System {
    /// Sisimai's name for it; empty when unknown.
    pub name: &'static str,
    /// How much speaks for a notice of non-delivery: 4 and more is one.
    pub points: u32,
    /// It is about a delay.
    pub delay: bool,
    /// A program sent it, by its header: a mailer daemon, a null return path, `Auto-Submitted`, ...
    pub machine: bool,
}

/// A person who quotes a notice says something before it; a program begins with it. So much of a text is its beginning.
const BEGINNING: usize = 120;

/// Words of notices: the system, and how much they say. Where one system uses another's words, the heavier line wins.
const WORDS: &[(&str, &str, u32)] = &[
    ("this is the qmail-send program", "qmail", 4),
    ("this is the qmail program", "qmail", 4),
    ("i'm afraid i wasn't able to deliver your message", "qmail", 4),
    ("i wasn't able to deliver your message", "qmail", 3),
    ("this is the machine generated message from mail service", "qmail", 4),
    ("the following error occurred during the delivery of the message", "qmail", 3),
    ("this message was created automatically by mail delivery software", "Exim", 3),
    ("this message was created automatically by the smtp relay", "Exim", 4),
    ("a message that you sent could not be delivered", "Exim", 4),
    ("a message that you sent has not yet been delivered", "Exim", 4),
    ("smtp error from remote mail server after", "Exim", 4),
    ("this is the mail system at host", "Postfix", 4),
    ("this is the postfix program at host", "Postfix", 4),
    ("this is the postfix mail system", "Postfix", 4),
    ("this is the yamabiko mail system", "Postfix", 4),
    ("i'm sorry to have to inform you that your message could not", "Postfix", 4),
    ("this is the dragonfly mail agent", "DragonFly", 4),
    ("transcript of session follows", "Sendmail", 4),
    ("the following addresses had permanent fatal errors", "Sendmail", 4),
    ("the following addresses had transient non-fatal errors", "Sendmail", 4),
    ("the following addresses had delivery problems", "Sendmail", 4),
    ("the following addresses have delivery notifications", "Sendmail", 4),
    ("unsent message follows", "V5sendmail", 3),
    ("running the courier mail server", "Courier", 4),
    ("your message to the following recipients cannot be delivered", "Courier", 4),
    ("not listed in domino directory", "Domino", 4),
    ("domino ディレクトリ", "Domino", 4),
    ("was not delivered to:", "Domino", 3),
    ("did not reach the following recipient(s):", "Exchange2003", 4),
    ("delivery has failed to these recipients", "Exchange2007", 4),
    ("generating server:", "Exchange2007", 3),
    ("echec de la remise", "Exchange2007", 4),
    ("mailer-daemon, please do not reply to this email", "OpenSMTPD", 4),
    ("an error has occurred while attempting to deliver a message", "OpenSMTPD", 4),
    ("a message is delayed for more than", "OpenSMTPD", 4),
    ("delivery to the following recipient failed permanently", "Gmail", 4),
    ("delivery to the following recipient has been delayed", "Gmail", 4),
    ("technical details of permanent failure", "Gmail", 4),
    ("technical details of temporary failure", "Gmail", 4),
    ("** message not delivered **", "GSuite", 4),
    ("** message blocked **", "GSuite", 4),
    ("** address not found **", "GSuite", 4),
    ("** delivery incomplete **", "GSuite", 4),
    ("sorry, we were unable to deliver your message to the following address", "Yahoo", 4),
    ("smtp error from remote server", "GMX", 4),
    ("for the following reason:", "", 2),
    ("unable to deliver message to the following address(es)", "X2", 4),
    ("m-filter」が自動的に生成", "mFILTER", 4),
    ("このメールは「m-filter」", "mFILTER", 4),
    ("下記の理由により", "", 2),
    ("each of the following recipients was rejected by a remote mail server", "EZweb", 4),
    ("the user(s) account is disabled", "EZweb", 3),
    ("the following recipients did not receive this message", "", 4),
    ("could not be delivered to: <", "KDDI", 4),
    ("failure reasons", "Notes", 3),
    ("original message follows.", "", 1),
    ("delivery failed for the following reason", "MailFoundry", 4),
    ("unable to deliver message to:", "MailFoundry", 3),
    ("this report relates to a message you sent with the following header fields", "MessagingServer", 4),
    ("your message cannot be delivered to the following recipients", "MessagingServer", 4),
    ("this is a delivery failure notification message", "Mimecast", 4),
    ("included is a copy of the message header", "MXLogic", 4),
    ("************************ end of message", "InterScanMSS", 2),
    ("a transcript of the attempts to send the message follows", "SurfControl", 4),
    ("error_code :", "Zoho", 3),
    ("an error occurred while trying to deliver the mail to the following recipients", "AmazonSES", 4),
    ("technical report:", "AmazonWorkMail", 2),
    (GENERATED, "", 4),
    ("this is an automatically generated message from sendgrid", "SendGrid", 4),
    ("this nondelivery report was generated by the program amavisd-new", "Amavis", 4),
    ("was not relayed to:", "Amavis", 4),
    ("we had trouble delivering your message", "X6", 4),
    ("---the following addresses had delivery errors---", "X1", 4),
    ("the following recipients were affected:", "MailMarshalSMTP", 4),
    ("your message could not be delivered", "", 3),
    ("your mail could not be delivered", "", 3),
    ("could not be delivered to", "", 2),
    ("could not be delivered because", "", 3),
    ("could not deliver your message", "", 3),
    ("could not deliver the following message", "", 4),
    ("could not be delivered for", "", 3),
    ("unable to deliver your message", "", 4),
    ("unable to deliver the following message", "", 4),
    ("unable to deliver mail", "", 3),
    ("undeliverable", "", 2),
    ("undelivered", "", 2),
    ("delivery failed", "", 2),
    ("delivery failure", "", 2),
    ("delivery of the following message", "", 2),
    ("the following address failed", "", 3),
    ("the following address(es) failed", "Exim", 4),
    ("the following recipients", "", 2),
    ("the following message to <", "", 3),
    ("message could not be delivered", "", 3),
    ("message was undeliverable", "", 4),
    ("message was not delivered", "", 3),
    ("mail was not delivered", "", 3),
    ("has been returned to you", "", 2),
    ("this is the james mail server", "James", 4),
    ("no valid recipients for this mm", "Verizon", 4),
    ("error: invalid user address", "Verizon", 4),
    ("did not reach the following recipient", "", 3),
    ("duplicated message-id in", "FML", 4),
    ("could not be delivered to mobile", "Verizon", 4),
    ("your message was automatically rejected by dovecot", "RFC3464", 4),
    ("your message was automatically rejected by sieve", "RFC3464", 3),
    ("送信できませんでした", "", 3),
    ("配信できませんでした", "", 3),
    ("配送できませんでした", "", 3),
    ("お届けできませんでした", "", 3),
    ("届けることができませんでした", "", 3),
    ("宛先が見つかりません", "", 3),
    ("конечному получателю", "", 2),
    ("не может быть доставлено", "MailRu", 4),
    ("не было доставлено", "", 3),
    ("konnte nicht zugestellt werden", "", 3),
    ("n'a pas pu être remis", "", 3),
    ("n'a pas pu etre remis", "", 3),
    ("no se pudo entregar", "", 3),
    ("no se ha podido entregar", "", 3),
    ("não pôde ser entregue", "", 3),
    ("non è stato possibile recapitare", "", 3),
    ("kon niet worden afgeleverd", "", 3),
    ("bezorging is mislukt", "", 4),
    ("bezorging van het bericht", "", 2),
    ("kunde inte levereras", "", 3),
    ("无法投递", "", 3),
    ("退信", "", 3),
    ("無法投遞", "", 3),
    ("전달되지 못했습니다", "", 3),
    ("전송되지 못했습니다", "", 3),
    ("발송되지 못했습니다", "", 3),
    ("전송하지 못", "", 3),
];

/// In the notices of more than one system.
const GENERATED: &str = "this is an automatically generated delivery status notification";

/// Words of notices that are no last word.
const DELAYS: &[&str] =
    &["warning message only", "this is a warning only", "has been delayed", "has not yet been delivered"];

/// Apple Mail's button "unsubscribe"; Microsoft's complaints.
const UNSUBSCRIBE: &str = "apple mail sent this email to unsubscribe from the message";
const ABUSE: &str = "email abuse report for an email message";

/// Marks of a quoted dialogue, and words that tell a stage wherever they stand: where there are none, nobody looks for more.
const QUOTED: &[&str] = &[">>>", "<<<"];
const TOLD: &[&str] = &["(in reply to", "in rcpt to", "in mail from", "-smtp command"];

/// Everything that a text for people is searched for beside the phrases of the rules: [`Signs::of`] knows the order.
pub(crate) fn signs() -> impl Iterator<Item = &'static str> {
    let words = WORDS.iter().map(|(words, ..)| *words).chain(DELAYS.iter().copied());
    words.chain(QUOTED.iter().copied()).chain(TOLD.iter().copied()).chain([UNSUBSCRIBE, ABUSE])
}

/// A text for people, scanned, and what it has of these.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    pub scan: Scan,
    /// The system that the heaviest of [`WORDS`] is of, and its points.
    named: (&'static str, u32),
    /// Points of the heaviest, whoever uses it; and of those with which the text begins.
    heaviest: u32,
    heaviest_at_once: u32,
    delay: bool,
    /// It says of itself what it is, as several systems do: [`GENERATED`].
    generated: bool,
    /// There may be a dialogue in it ([`QUOTED`]), and words that tell a stage ([`TOLD`]).
    pub quoted: bool,
    pub told: bool,
    /// Somebody asks to be taken off a list.
    pub unsubscribe: bool,
    /// Somebody complains.
    pub abuse: bool,
}

impl Signs {
    pub(crate) fn of(rules: &Rules, human: &str) -> Self {
        let scan = rules.scan(human, LIMIT);
        // What comes behind the limit is not known. (Letters may become longer when they are folded, but not twice as long.)
        let unknown = human.len() > LIMIT / 2;
        let mut signs = Self { quoted: unknown, told: unknown, ..Self::default() };
        let mut words = 0;
        let delays = WORDS.len();
        let quoted = delays + DELAYS.len();
        let told = quoted + QUOTED.len();
        let unsubscribe = told + TOLD.len();
        for (sign, start) in rules.signs(&scan) {
            if sign < delays {
                // What a notice is, it says in the beginning.
                let (said, system, points) = WORDS[sign];
                signs.generated |= said == GENERATED;
                if start < 12 * 1024 && words < 60 {
                    words += 1;
                    signs.heaviest = signs.heaviest.max(points);
                    if start < BEGINNING {
                        signs.heaviest_at_once = signs.heaviest_at_once.max(points);
                    }
                    if !system.is_empty() && points > signs.named.1 {
                        signs.named = (system, points);
                    }
                }
            } else if sign < quoted {
                signs.delay |= start < 2048;
            } else if sign < told {
                signs.quoted = true;
            } else if sign < unsubscribe {
                signs.told = true;
            } else if sign == unsubscribe {
                signs.unsubscribe = true;
            } else {
                signs.abuse = true;
            }
        }
        signs.scan = scan;
        signs
    }
}

/// Subjects of notices, in lower case.
const SUBJECTS: &[(&str, u32)] = &[
    ("failure notice", 3),
    ("delivery status notification", 2),
    ("returned mail", 3),
    ("undeliverable", 2),
    ("undelivered mail returned to sender", 3),
    ("undelivered", 2),
    ("mail delivery failed", 3),
    ("mail delivery failure", 2),
    ("mail delivery system", 2),
    ("mail system error", 3),
    ("mail could not be delivered", 3),
    ("mail failure", 2),
    ("delivery failure", 2),
    ("delivery failed", 2),
    ("delivery notification: delivery has failed", 3),
    ("delivery delayed", 2),
    ("delivery report", 1),
    ("delayed mail", 3),
    ("delivery has failed", 2),
    ("message delivery has failed", 3),
    ("message you sent blocked", 2),
    ("non recapitabile", 2),
    ("notice: mail delivery status", 3),
    ("non-delivery", 2),
    ("nondeliverable mail", 3),
    ("warning: message", 1),
    ("warning: could not send message", 3),
    ("could not send message", 2),
    ("loop alert", 2),
    ("failed delivery", 2),
    ("failure delivery", 3),
    ("email delivery failure", 2),
    ("mail not delivered", 2),
    ("unzustellbar", 2),
    ("nicht zugestellt", 2),
    ("non remis", 2),
    ("no se puede entregar", 2),
    ("não entregue", 2),
    ("配信不能", 2),
    ("配信エラー", 2),
    ("送信エラー", 2),
    ("メール配信", 1),
    ("メールを配信できません", 3),
    ("エラーメール", 2),
    ("ваше сообщение не доставлено", 3),
    ("недоставлен", 2),
    ("退信", 2),
    ("onbestelbaar", 2),
    ("발송실패", 2),
    ("전송실패", 2),
    ("발송 실패", 2),
    ("전송 실패", 2),
    ("系统退信", 3),
    ("reenvoi", 1),
    ("bounce", 1),
    ("rejected", 1),
    ("delivery status", 2),
    // Of these it only matters that they are there.
    ("delay", 0),
    ("warning: could not", 0),
];

/// Finds each of [`SUBJECTS`] wherever it stands.
static SUBJECT_FINDER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    AhoCorasick::builder().ascii_case_insensitive(true).build(SUBJECTS.iter().map(|(words, _)| words)).ok()
});

/// Parts of the address or the name of a sender that tell the system.
const SENDERS: &[(&str, &str)] = &[
    ("@ezweb.ne.jp", "EZweb"),
    ("@au.com", "EZweb"),
    (".dion.ne.jp", "KDDI"),
    ("@dion.ne.jp", "KDDI"),
    ("@corp.mail.ru", "MailRu"),
    ("@mail.ru", "MailRu"),
    ("mailer-daemon@yandex", "Yandex"),
    ("mailer-daemon@amazonses.com", "AmazonSES"),
    ("amazonses.com", "AmazonSES"),
    ("@bigfoot.com", "Bigfoot"),
    ("interscan", "InterScanMSS"),
    ("@messagelabs.com", "MessageLABS"),
    ("kundenserver", "EinsUndEins"),
    ("mailer-daemon@mail.gmx", "GMX"),
    ("mailer-daemon@gmx", "GMX"),
    ("@googlemail.com", "Gmail"),
    ("@google.com", "Gmail"),
    ("biglobe.ne.jp", "Biglobe"),
    ("@vtext.com", "Verizon"),
    ("@vzwpix.com", "Verizon"),
    ("content-filter at", "Amavis"),
];

/// Parts of the address or the name of a mailer daemon.
const DAEMONS: &[&str] = &[
    "mailer-daemon",
    "mailer_daemon",
    "postmaster",
    "mail delivery",
    "mail.delivery.system",
    "mail system",
    "mdaemon@",
    "mail-daemon",
    "bounce@",
    "daemon@",
    "system administrator",
];

/// Finds each of both.
static SENDER_FINDER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let all = SENDERS.iter().map(|(words, _)| *words).chain(DAEMONS.iter().copied());
    AhoCorasick::builder().ascii_case_insensitive(true).build(all).ok()
});

/// Those that are found are told by a bit each.
const _: () = assert!(SENDERS.len() + DAEMONS.len() < 64);

pub(crate) fn identify(mail: &Mail<'_>, signs: &Signs) -> System {
    let mut system = System { name: "", points: 0, delay: false, machine: false };
    let header = mail.header();
    let from = &*mail.from;
    let mut name_weight = 0;
    let mut name = |system: &mut System, name: &'static str, weight: u32| {
        if !name.is_empty() && weight > name_weight {
            name_weight = weight;
            system.name = name;
        }
    };
    name(&mut system, signs.named.0, signs.named.1);
    let subject =
        if mail.subject.is_ascii() { Cow::Borrowed(&*mail.subject) } else { Cow::Owned(mail.subject.to_lowercase()) };
    let mut delayed = signs.delay;
    if let Some(finder) = SUBJECT_FINDER.as_ref() {
        // The pattern's number is its place in the table.
        let words = finder.find_overlapping_iter(&*subject).take(100).map(|m| SUBJECTS[m.pattern().as_usize()]);
        let mut points = 0;
        for (words, worth) in words {
            points = points.max(worth);
            delayed |= matches!(words, "delay" | "warning: could not" | "warning: message");
        }
        system.points += points;
    }
    let senders = SENDER_FINDER.as_ref().map_or(0, |finder| {
        // The pattern's number is its place in the tables.
        finder.find_overlapping_iter(from).take(100).fold(0, |all, m| all | 1 << m.pattern().as_usize())
    });
    let daemon = senders >> SENDERS.len() != 0 || from.trim() == "<>";
    let null_path = header.get("Return-Path").is_some_and(|path| {
        let path = path.trim_ascii();
        path == b"<>" || path.is_empty() || path.to_ascii_uppercase().starts_with(b"<MAILER-DAEMON")
    });
    system.points += if daemon { 2 } else { 0 };
    system.points += u32::from(null_path);
    if header.get("X-Failed-Recipients").is_some() {
        system.points += 4;
        name(&mut system, "Exim", 2);
    }
    if mail.has_original && daemon {
        system.points += 1;
    }
    by_header(mail, signs, senders, &mut system, &mut name);
    if mail.unsent && !mail.has_status {
        // What came before the sendmail that writes reports.
        name(&mut system, "V5sendmail", 5);
    }
    let automatic = header.get("Auto-Submitted").is_some_and(|value| !value.trim_ascii().eq_ignore_ascii_case(b"no"));
    system.machine = daemon
        || null_path
        || automatic
        || name_weight >= 9
        || header.get("X-Failed-Recipients").is_some()
        || mail.structure.report_type.is_some();
    system.points += if system.machine { signs.heaviest } else { signs.heaviest_at_once };
    // "Re:" is written by people, and by gateways that are known by their sender.
    let answers = ["re:", "aw:"].iter().any(|mark| text::after_prefix(&subject, mark).is_some());
    if name_weight < 9 && answers {
        system.points = system.points.saturating_sub(4);
    }
    system.delay = delayed;
    system
}

/// What the header of the notice says about the system.
fn by_header(
    mail: &Mail<'_>,
    signs: &Signs,
    senders: u64,
    system: &mut System,
    name: &mut impl FnMut(&mut System, &'static str, u32),
) {
    let header = mail.header();
    let mailer = header.get("X-Mailer").unwrap_or_default();
    for (words, system_name) in [
        ("<SMTP32 v", "IMailServer"),
        ("m-FILTER", "mFILTER"),
        ("SurfControl", "SurfControl"),
        ("Internet Mail Service", "Exchange2003"),
        ("Amazon WorkMail", "AmazonWorkMail"),
        ("Zoho Mail", "Zoho"),
        ("MailMarshal", "MailMarshalSMTP"),
        ("Internet Mail Connector", "Exchange2003"),
    ] {
        if !mailer.is_empty() && memchr::memmem::find(mailer, words.as_bytes()).is_some() {
            system.points += 1;
            name(system, system_name, 9);
        }
    }
    let known = || SENDERS.iter().enumerate().filter(|(place, _)| senders & 1 << place != 0).map(|(_, known)| known);
    let google = known().any(|(words, _)| *words == "@googlemail.com");
    // In the order of the table, as they stand in the address does not matter.
    for (_, system_name) in known() {
        // Google's systems tell themselves apart in their text.
        name(system, system_name, if *system_name == "Gmail" { 3 } else { 9 });
        if *system_name == "Verizon" {
            system.points += 3;
        }
    }
    let mut by_field = None;
    let mut of_microsoft = false;
    for field in &header.fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name.as_bytes());
        // By the length first: most fields are none of these.
        match field.name.len() {
            28 if is("X-MS-Exchange-Message-Is-Ndr") => of_microsoft = true,
            44 if is("X-MS-Exchange-CrossTenant-Network-Message-Id") => of_microsoft = true,
            10 if is("X-AHMAILID") => by_field = Some("Activehunter"),
            12 if is("X-NAI-Header") && structure::starts_with(field.value, "Modified by McAfee") => {
                by_field = Some("McAfee");
            }
            _ => {}
        }
    }
    name(system, by_field.unwrap_or_default(), 9);
    if of_microsoft && system.name.is_empty() | system.name.starts_with("Exchange") {
        name(system, if is_hosted(mail) { "Office365" } else { "Exchange2007" }, 10);
    }
    if google && memchr::memmem::find(mail.human.as_bytes(), b"https://groups.google.com/support/").is_some() {
        name(system, "GoogleGroups", 11);
    }
    if header.get("X-MLServer").is_some() || header.get("X-ML-Info").is_some() {
        name(system, "FML", 5);
    }
    if mail.report.get("X-Postfix-Queue-ID").is_some() {
        name(system, "Postfix", 5);
    } else if system.name == "Postfix" && mail.report.names().any(is_queue_id) {
        // It borrowed Postfix's words.
        system.name = "";
    }
    if system.name.is_empty() && signs.generated && mail.subject.eq_ignore_ascii_case("delivery status notification") {
        name(system, "X3", 1);
    }
}

/// Microsoft's own hosts wrote the notice, and not an Exchange server of somebody's own.
fn is_hosted(mail: &Mail<'_>) -> bool {
    let ours = |host: &str| [".outlook.com", ".office365.com"].iter().any(|domain| text::contains(host, domain));
    const STAMPED: [&str; 2] = ["X-MS-Office365-", "X-MS-Exchange-CrossTenant-"];
    mail.header().fields.iter().any(|field| STAMPED.iter().any(|head| structure::starts_with(field.name, head)))
        || mail.report.get("Reporting-MTA").is_some_and(ours)
        || text::generating_server(&mail.human).is_some_and(ours)
        || mail.header().all("Received").take(20).any(|value| ours(&text::lossy(value)))
}

/// `X-Some-Gateway-Queue-ID`: the field by which a mail system names its own.
fn is_queue_id(name: &str) -> bool {
    let tail = name.len().checked_sub(9).and_then(|at| name.get(at..));
    structure::starts_with(name.as_bytes(), "X-") && tail.is_some_and(|tail| tail.eq_ignore_ascii_case("-Queue-ID"))
}

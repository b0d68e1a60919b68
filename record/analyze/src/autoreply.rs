//! Automatic replies (RFC 3834): somebody is away, a program answered.

use crate::assemble::Shared;
use crate::feedback::empty;
use crate::finding::Finding;
use crate::mail::Mail;
use crate::{Reason, text};

/// Subjects that out-of-office programs put before the subject they answer, in lower case.
const SUBJECTS: &[&str] = &[
    "auto:",
    "auto response:",
    "autoreply:",
    "auto-reply:",
    "auto reply:",
    "automatic reply:",
    "automated reply",
    "automatic response",
    "out of office",
    "out of the office",
    "out-of-office",
    "vacation",
    "away from my mail",
    "i am away",
    "abwesenheitsnotiz",
    "abwesenheit",
    "automatische antwort",
    "réponse automatique",
    "absence du bureau",
    "respuesta automática",
    "fuera de la oficina",
    "resposta automática",
    "risposta automatica",
    "fuori sede",
    "automatisch antwoord",
    "afwezig",
    "autosvar",
    "автоответ",
    "自動返信",
    "自動応答",
    "不在通知",
    "自动回复",
    "自動回覆",
    "자동 응답",
    "부재중",
];

/// The finding of an automatic reply, when the message is one.
pub(crate) fn finding(mail: &Mail<'_>, shared: &Shared) -> Option<Finding> {
    let header = mail.header();
    let value = |name: &str| {
        header.get(name).map(|v| String::from_utf8_lossy(v).trim().to_ascii_lowercase()).unwrap_or_default()
    };
    let submitted = value("Auto-Submitted");
    let replied = submitted.starts_with("auto-replied") || submitted.starts_with("auto-generated (vacation");
    let by_program = replied
        || !value("X-Autoreply").is_empty()
        || !value("X-Autorespond").is_empty()
        || !value("X-Autoresponder").is_empty()
        || value("X-Auto-Response-Suppress").contains("all") && submitted.starts_with("auto")
        || value("Precedence").contains("auto_reply")
        || value("X-Precedence").contains("auto_reply");
    let subject = mail.subject.to_lowercase();
    let by_subject = SUBJECTS.iter().any(|words| subject.starts_with(words));
    if !by_program && !by_subject {
        return None;
    }
    // A notice of another kind that calls itself automatic, or a list's: those are no replies of a person.
    if !value("List-Id").is_empty() || !value("List-Post").is_empty() || mail.has_disposition || mail.has_status {
        return None;
    }
    let from = mail.from.as_str();
    let of_daemon = ["mailer-daemon", "postmaster@", "root@", "no-reply", "noreply", "do-not-reply", "donotreply"]
        .iter()
        .any(|w| text::contains(from, w));
    if of_daemon || subject.starts_with("security information for") || subject.starts_with("mail failure -") {
        return None;
    }
    let recipient = text::one_address(from)
        .or_else(|| header.get("Return-Path").and_then(|p| std::str::from_utf8(p).ok()).and_then(text::one_address))?
        .to_owned();
    let mut finding = empty(recipient, Reason::Vacation, mail, shared);
    finding.diagnostic.text = text::squeeze(&mail.human, 2048);
    finding.subject = original_subject(&mail.subject);
    Some(finding)
}

/// The subject that was answered, without what the program put before it.
fn original_subject(subject: &str) -> String {
    let lower = subject.to_lowercase();
    for prefix in [
        "re:",
        "auto:",
        "auto response:",
        "out of office:",
        "out of office autoreply:",
        "automatic reply:",
        "autoreply:",
    ] {
        if lower.starts_with(prefix) {
            return subject.get(prefix.len()..).unwrap_or("").trim().to_owned();
        }
    }
    subject.to_owned()
}

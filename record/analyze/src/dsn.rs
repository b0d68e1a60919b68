//! Delivery-status groups to drafts (RFC 3464, RFC 6533 and what systems make of them).

use crate::civil;
use crate::draft::Draft;
use crate::finding::{Action, Date};
use crate::mail::{Group, Mail};
use crate::{Reason, text};
use std::borrow::Cow;
use yamabiko_report::structure::find_near;
use yamabiko_status::{Class, EnhancedStatus};

pub(crate) fn action(word: &str) -> Option<Action> {
    let word = word.trim().split([' ', ';', '(']).next().unwrap_or("");
    [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded]
        .into_iter()
        .find(|action| word.eq_ignore_ascii_case(action.name()))
        .or_else(|| match word.to_ascii_lowercase().as_str() {
            "failure" | "fail" | "error" => Some(Action::Failed),
            "delay" | "deferred" | "expired" => Some(Action::Delayed),
            _ => None,
        })
}

/// The address of a recipient field: `rfc822; <a@b>`, `rfc/822;a@b`, `a@b`; an address in UTF-8 or in the escapes of RFC 6533.
pub(crate) fn recipient(value: &str) -> Option<String> {
    let value = text::trim(find_near(b';', value.as_bytes()).map_or(value, |at| &value[at + 1..]));
    let unescaped = unescape(value);
    text::one_address(&unescaped).map(text::plain_address)
}

/// `\x{XXXX}` of RFC 6533 section 3.
fn unescape(text: &str) -> Cow<'_, str> {
    if find_near(b'\\', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x{") {
        let tail = &rest[at + 3..];
        let Some(c) =
            tail.split_once('}').and_then(|(digits, _)| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32)
        else {
            break;
        };
        out.push_str(&rest[..at]);
        out.push(c);
        rest = tail.split_once('}').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Type and text of a `Diagnostic-Code:`.
pub(crate) fn diagnostic(value: &str) -> (String, String) {
    match value.split_once(';') {
        Some((kind, text))
            if kind.trim().len() <= 20
                && kind.trim().bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) =>
        {
            (kind.trim().to_ascii_uppercase(), text::squeeze(text, 8192))
        }
        _ => (String::new(), text::squeeze(value, 8192)),
    }
}

/// `Status:`, comments and text after it left out.
pub(crate) fn status(value: &str) -> Option<EnhancedStatus> {
    text::statuses(value).next().or_else(|| {
        // Systems that write 5.1.2.3 or 5.1.
        let mut numbers = value.trim().split([' ', '(']).next()?.split('.');
        let class = match numbers.next()? {
            "2" => Class::Success,
            "4" => Class::Transient,
            "5" => Class::Permanent,
            _ => return None,
        };
        let mut number = || numbers.next().and_then(|n| n.parse().ok()).filter(|n| *n < 1000);
        Some(EnhancedStatus { class, subject: number()?, detail: number().unwrap_or(0) })
    })
}

pub(crate) fn date(group: &Group) -> Option<Date> {
    ["Arrival-Date", "Last-Attempt-Date"].iter().filter_map(|name| group.get(name)).find_map(civil::parse)
}

/// The host where some write an address of it.
fn host_of(name: &str) -> &str {
    name.rsplit('@').next().unwrap_or(name)
}

/// What PowerMTA takes a refusal for: its own reading of the same words.
fn category(value: &str) -> Option<(Reason, u8, &'static str)> {
    let reason = match value.trim() {
        "bad-mailbox" => Reason::UserUnknown,
        "inactive-mailbox" => Reason::Suspend,
        "bad-domain" => Reason::HostUnknown,
        "quota-issues" => Reason::MailboxFull,
        "message-expired" => Reason::Expired,
        "spam-related" | "content-related" => Reason::SpamDetected,
        "virus-related" => Reason::VirusDetected,
        "relaying-issues" => Reason::NoRelaying,
        "routing-errors" | "no-answer-from-host" | "bad-connection" => Reason::NetworkError,
        "policy-related" => Reason::PolicyViolation,
        _ => return None,
    };
    Some((reason, 30, "field:x-powermta-bouncecategory"))
}

/// A draft for each group.
pub(crate) fn drafts(mail: &Mail<'_>) -> Vec<Draft> {
    let reporting = mail.report.get("Reporting-MTA").map(text::host).unwrap_or_default();
    let received_from = mail.report.get("Received-From-MTA").map(text::host).unwrap_or_default();
    let arrival = date(&mail.report);
    let mut drafts: Vec<Draft> = Vec::with_capacity(mail.recipients.len());
    for group in &mail.recipients {
        let last = group.get("Final-Recipient").and_then(recipient);
        let first = group.get("Original-Recipient").and_then(recipient);
        let actual = group.get("X-Actual-Recipient").and_then(recipient);
        let mut draft = Draft { noted: true, ..Draft::default() };
        match (last, first, actual) {
            (Some(last), first, actual) => {
                draft.recipient = last;
                let other = first.or(actual).filter(|other| !other.eq_ignore_ascii_case(&draft.recipient));
                // A program or a file that the address led to is an alias as well.
                let local = || {
                    let (kind, rest) = group.get("X-Actual-Recipient")?.split_once(';')?;
                    let rest = rest.trim();
                    (kind.trim().eq_ignore_ascii_case("x-unix") && rest.starts_with(['|', '/']))
                        .then(|| rest.to_owned())
                };
                draft.alias = other.or_else(local).unwrap_or_default();
            }
            (None, Some(first), _) => draft.recipient = first,
            (None, None, Some(actual)) => draft.recipient = actual,
            (None, None, None) => {}
        }
        draft.action = group.get("Action").and_then(action);
        draft.hint = group.get("X-PowerMTA-BounceCategory").and_then(category);
        draft.status = group.get("Status").and_then(status);
        for value in group.all("Diagnostic-Code") {
            let (kind, words) = diagnostic(value);
            if draft.diagnostic.is_empty() {
                draft.kind = kind;
                draft.diagnostic = words;
            } else if !draft.diagnostic.contains(&words) {
                draft.diagnostic.push(' ');
                draft.diagnostic.push_str(&words);
            }
        }
        if draft.diagnostic.is_empty()
            && let Some((_, words)) = group.get("Status").and_then(|value| value.split_once('('))
        {
            // Oracle Communications Messaging Server explains itself in a comment.
            draft.diagnostic = text::squeeze(words.trim_end_matches(')'), 1024);
        }
        let remote = group.get("Remote-MTA").map(text::host).unwrap_or_default();
        draft.rhost = host_of(remote).to_owned();
        draft.lhost = if received_from.is_empty() { reporting } else { received_from }.to_owned();
        if draft.rhost.is_empty() && !reporting.eq_ignore_ascii_case("localhost") {
            draft.rhost = host_of(reporting).to_owned();
        }
        draft.date = date(group).or(arrival);
        if let Some(smtp) = group.get("X-Supplementary-Info").or_else(|| group.get("SMTP-Remote-Recipient")) {
            draft.said = text::squeeze(smtp, 2048);
        }
        drafts.push(draft);
    }
    drafts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(recipient("rfc822; <kim@a.jp>").as_deref(), Some("kim@a.jp"));
        assert_eq!(recipient("rfc/822;kim@a.jp").as_deref(), Some("kim@a.jp"));
        assert_eq!(recipient("utf-8; \\x{3042}@a.jp").as_deref(), Some("あ@a.jp"));
        assert_eq!(recipient("rfc822;/var/mail/kim"), None);
        assert_eq!(diagnostic("smtp; 550  no\n user"), ("SMTP".to_owned(), "550 no user".to_owned()));
        assert_eq!(diagnostic("550 no; user"), (String::new(), "550 no; user".to_owned()));
        assert_eq!(status("5.1.1 (bad)").map(|s| s.to_string()).as_deref(), Some("5.1.1"));
        assert_eq!(action("Failed (x)"), Some(Action::Failed));
    }
}

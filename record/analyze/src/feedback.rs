//! Complaints: feedback reports (RFC 5965) and what comes in their place.

use crate::assemble::{Shared, written_on};
use crate::finding::{Diagnostic, Finding};
use crate::mail::{Group, Mail};
use crate::needle::Needle;
use crate::systems::Signs;
use crate::{Reason, civil, text};

/// The findings of a feedback report: one for each recipient it names.
pub(crate) fn findings(mail: &Mail<'_>, group: &Group, shared: &Shared<'_>) -> Vec<Finding> {
    let original = &mail.original;
    let mut recipients: Vec<String> = ["Original-Rcpt-To", "Removal-Recipient", "Removal-Request"]
        .iter()
        .flat_map(|name| group.all(name).filter_map(text::one_address).map(text::plain_address).collect::<Vec<_>>())
        .collect();
    if recipients.is_empty() {
        let header = mail.header();
        let hotmail = header.get("X-HmXmrOriginalRecipient").map(String::from_utf8_lossy);
        let other = [hotmail.as_deref().unwrap_or(""), &original.to, &original.received_for, &original.delivered_to];
        recipients.extend(other.iter().find_map(|t| text::one_address(t)).map(text::plain_address));
    }
    if recipients.is_empty() {
        // Redacted, as many do for the complainant's sake: the complaint is one all the same.
        recipients.push(String::new());
    }
    recipients.dedup();
    let reported = text::one_address(group.get("Original-Mail-From").unwrap_or_default()).unwrap_or_default();
    let addresser = [&*original.from, reported]
        .into_iter()
        .find(|a| !a.is_empty())
        .map_or_else(|| shared.addresser.clone().into_owned(), str::to_owned);
    let date = ["Arrival-Date", "Received-Date"].iter().filter_map(|n| group.get(n)).find_map(civil::parse);
    let rhost = ["Source-IP", "Reporting-MTA", "Source-Host"]
        .iter()
        .filter_map(|name| group.get(name))
        .map(text::host)
        .find(|host| !host.is_empty())
        .map_or_else(|| shared.received_rhost().to_owned(), str::to_owned);
    let first = mail.human.split("\n\n").map(|p| text::squeeze(p, 1024)).find(|p| p.len() > 20).unwrap_or_default();
    let said = match group.get("Authentication-Results") {
        Some(results) if !results.is_empty() => format!("{first} {}", text::squeeze(results, 1024)),
        _ => first,
    };
    recipients
        .into_iter()
        .map(|recipient| {
            let mut finding = empty(recipient, Reason::Feedback, mail, shared);
            finding.addresser.clone_from(&addresser);
            finding.sender_domain = text::domain(&addresser).to_owned();
            finding.date = date.or(shared.date);
            finding.rhost.clone_from(&rhost);
            finding.diagnostic = Diagnostic { kind: String::new(), text: said.clone() };
            finding.feedback_type = group.get("Feedback-Type").unwrap_or("abuse").trim().to_ascii_lowercase();
            finding.decoded_by = "Feedback-Loop";
            finding
        })
        .collect()
}

/// A complaint without a report part: the words of hotmail's and of Apple's unsubscribe mails.
pub(crate) fn without_report(mail: &Mail<'_>, signs: &Signs, shared: &Shared<'_>) -> Option<Vec<Finding>> {
    if signs.unsubscribe {
        let recipient = text::one_address(&mail.from)?.to_owned();
        let mut finding = empty(recipient, Reason::Feedback, mail, shared);
        finding.feedback_type = "opt-out".to_owned();
        finding.diagnostic.text = text::squeeze(&mail.human, 1024);
        finding.decoded_by = "Feedback-Loop";
        return Some(vec![finding]);
    }
    const HOTMAIL: Needle<'_> = Needle::of("staff@hotmail.com");
    let hotmail = HOTMAIL.is_in(&mail.from) && text::contains(&mail.subject, "complaint about message from");
    if (hotmail || signs.abuse) && mail.has_original {
        let mut found = findings(mail, &Group::default(), shared);
        let address = mail.subject.rsplit(' ').next().unwrap_or("");
        for finding in &mut found {
            if finding.diagnostic.text.is_empty() && hotmail {
                finding.diagnostic.text =
                    format!("This is a Microsoft email abuse report for an email message received from IP {address}");
            }
            // Nothing in it says when the complaint was made; it is passed on at once.
            finding.date = written_on(mail.header()).or(finding.date);
            if hotmail && address.parse::<std::net::IpAddr>().is_ok() {
                finding.rhost = address.to_owned();
            }
        }
        return (!found.is_empty()).then_some(found);
    }
    None
}

/// A finding without a status.
pub(crate) fn empty(recipient: String, reason: Reason, mail: &Mail<'_>, shared: &Shared<'_>) -> Finding {
    let original = &mail.original;
    Finding {
        alias: String::new(),
        reason,
        status: None,
        status_is_made_up: false,
        reply_code: None,
        action: None,
        hard_bounce: false,
        addresser: shared.addresser.clone().into_owned(),
        sender_domain: text::domain(&shared.addresser).to_owned(),
        destination: text::domain(&recipient).to_owned(),
        rhost: shared.received_rhost().to_owned(),
        lhost: shared.received_lhost().to_owned(),
        diagnostic: Diagnostic::default(),
        command: "",
        decoded_by: "RFC3834",
        message_id: original.message_id.clone().into_owned(),
        subject: original.subject.clone().into_owned(),
        list_id: original.list_id.clone().into_owned(),
        date: shared.date,
        feedback_type: String::new(),
        feedback_id: original.feedback_id.clone().into_owned(),
        envelope_id: String::new(),
        evidence: Vec::new(),
        confidence: 95,
        recipient,
    }
}

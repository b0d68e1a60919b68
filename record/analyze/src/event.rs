//! What providers post as JSON: Amazon SES (also wrapped by SNS), SendGrid, Mailgun.

use crate::decide::{Facts, decide};
use crate::dsn;
use crate::finding::{Action, Analysis, Date, Diagnostic, Finding, Kind};
use crate::{Reason, Rules, civil, text};
use serde_json::Value;
use yamabiko_status::{Class, ReplyCode};

/// JSON of one or many events: an object, an array, or an object per line. `None` when it is none, or nobody's we know.
pub(crate) fn analyze(rules: &Rules, json: &[u8]) -> Option<Vec<Analysis>> {
    let mut all = Vec::new();
    let values: Vec<Value> = match serde_json::from_slice(json) {
        Ok(Value::Array(values)) => values,
        Ok(value) => vec![value],
        Err(_) => {
            let lines = json.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
            lines.map(serde_json::from_slice).collect::<Result<_, _>>().ok()?
        }
    };
    for value in &values {
        all.push(one(rules, value)?);
    }
    (!all.is_empty()).then_some(all)
}

fn one(rules: &Rules, value: &Value) -> Option<Analysis> {
    // SNS puts the notification into a string.
    if let Some(inner) = value.get("Message").and_then(Value::as_str)
        && value.get("Type").is_some()
    {
        return one(rules, &serde_json::from_str(inner).ok()?);
    }
    if value.get("notificationType").or_else(|| value.get("eventType")).is_some() {
        return ses(rules, value);
    }
    if value.get("sg_event_id").is_some() || (value.get("event").is_some() && value.get("email").is_some()) {
        return sendgrid(rules, value);
    }
    if let Some(data) = value.get("event-data") {
        return mailgun(rules, data);
    }
    if value.get("delivery-status").is_some() && value.get("event").is_some() {
        return mailgun(rules, value);
    }
    None
}

fn string<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    let mut at = value;
    for key in path {
        let Some(next) = at.get(key) else { return "" };
        at = next;
    }
    at.as_str().unwrap_or("")
}

/// What one event says of one recipient.
#[derive(Default)]
struct Event<'v> {
    recipient: &'v str,
    addresser: String,
    diagnostic: String,
    status: &'v str,
    rhost: String,
    lhost: String,
    date: Option<Date>,
    message_id: String,
    subject: &'v str,
    list_id: String,
    action: Option<Action>,
    hint: Option<(Reason, u8, &'static str)>,
    decoded_by: &'static str,
    feedback_type: &'v str,
    reason: Option<Reason>,
}

fn finding(rules: &Rules, event: Event<'_>) -> Finding {
    let (kind, words) = dsn::diagnostic(&event.diagnostic);
    let stated = dsn::status(event.status).or_else(|| text::statuses(&words).next());
    let class = stated.map(|s| s.class.digit());
    let code = text::reply_code(&words, class);
    let destination = text::domain(event.recipient);
    let facts = Facts {
        diagnostic: &words,
        status: stated,
        code,
        stage: text::stage(&words),
        rhost: &event.rhost,
        lhost: &event.lhost,
        destination,
        date: event.date,
        delayed: event.action == Some(Action::Delayed),
        trusting: true,
        hint: event.hint,
        ..Facts::default()
    };
    let (reason, evidence, confidence) = match event.reason {
        Some(reason) => (reason, Vec::new(), 95),
        None => {
            let decision = decide(rules, &facts);
            (decision.reason, decision.evidence, decision.confidence)
        }
    };
    let command = facts.stage.map_or(String::new(), |s| s.name().to_owned());
    let made_up = stated.is_none() && !reason.is_no_failure();
    let class = match (stated, event.action, code) {
        (Some(status), ..) => status.class,
        (None, Some(Action::Delayed), _) => Class::Transient,
        (None, _, Some(code)) if code < 500 => Class::Transient,
        _ => Class::Permanent,
    };
    let kind = if kind.is_empty() && reason != Reason::Feedback { "SMTP".to_owned() } else { kind };
    Finding {
        alias: String::new(),
        reason,
        status: stated.or_else(|| made_up.then(|| reason.made_up_status(class))),
        status_is_made_up: made_up,
        reply_code: code.map(ReplyCode),
        action: if reason == Reason::Feedback { None } else { event.action },
        hard_bounce: reason.is_hard(class.digit()),
        sender_domain: text::domain(&event.addresser).to_owned(),
        addresser: event.addresser,
        destination: destination.to_owned(),
        rhost: event.rhost,
        lhost: event.lhost,
        command,
        diagnostic: Diagnostic { kind, text: words },
        decoded_by: event.decoded_by,
        message_id: event.message_id,
        subject: event.subject.to_owned(),
        list_id: event.list_id,
        date: event.date,
        feedback_type: event.feedback_type.to_owned(),
        feedback_id: String::new(),
        envelope_id: String::new(),
        evidence,
        confidence,
        recipient: event.recipient.to_owned(),
    }
}

fn analysis(findings: Vec<Finding>) -> Analysis {
    let kind = match findings.first().map(|f| f.reason) {
        Some(Reason::Feedback) => Kind::Feedback,
        Some(_) => Kind::Bounce,
        None => Kind::NotABounce("an event that tells of no delivery"),
    };
    Analysis { kind, findings, undecoded: None }
}

/// Amazon SES: notifications and event publishing.
fn ses(rules: &Rules, value: &Value) -> Option<Analysis> {
    let kind =
        [string(value, &["notificationType"]), string(value, &["eventType"])].into_iter().find(|k| !k.is_empty())?;
    let mail = value.get("mail").unwrap_or(&Value::Null);
    let header = |name: &str| {
        let headers = mail.get("headers").and_then(Value::as_array)?;
        let found = headers.iter().find(|h| string(h, &["name"]).eq_ignore_ascii_case(name))?;
        Some(string(found, &["value"]).trim_matches(['<', '>']).to_owned())
    };
    let base = |body: &Value| Event {
        addresser: text::one_address(string(mail, &["source"])).unwrap_or_default().to_owned(),
        date: civil::parse_iso(string(body, &["timestamp"])).or_else(|| civil::parse_iso(string(mail, &["timestamp"]))),
        message_id: header("Message-ID")
            .unwrap_or_else(|| string(mail, &["commonHeaders", "messageId"]).trim_matches(['<', '>']).to_owned()),
        subject: string(mail, &["commonHeaders", "subject"]),
        list_id: header("List-Id").unwrap_or_default(),
        decoded_by: "AmazonSES",
        lhost: string(body, &["reportingMTA"]).rsplit(';').next().unwrap_or("").trim().to_owned(),
        ..Event::default()
    };
    let items = |body: &'_ Value, name: &str| body.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut findings = Vec::new();
    match kind {
        "Bounce" => {
            let body = value.get("bounce")?;
            let hint = match (string(body, &["bounceType"]), string(body, &["bounceSubType"])) {
                (_, "Suppressed" | "OnAccountSuppressionList" | "UnsubscribedRecipient") => {
                    Some((Reason::Suppressed, 90, "ses:suppressed"))
                }
                (_, "MailboxFull") => Some((Reason::MailboxFull, 80, "ses:mailboxfull")),
                (_, "MessageTooLarge") => Some((Reason::MesgTooBig, 80, "ses:messagetoolarge")),
                (_, "ContentRejected") => Some((Reason::ContentError, 60, "ses:contentrejected")),
                (_, "AttachmentRejected") => Some((Reason::SecurityError, 60, "ses:attachmentrejected")),
                (_, "NoEmail") => Some((Reason::UserUnknown, 80, "ses:noemail")),
                ("Permanent", "General") => Some((Reason::UserUnknown, 20, "ses:permanent")),
                _ => None,
            };
            for item in items(body, "bouncedRecipients") {
                let delayed = string(&item, &["action"]).eq_ignore_ascii_case("delayed");
                findings.push(finding(
                    rules,
                    Event {
                        recipient: text::one_address(string(&item, &["emailAddress"])).unwrap_or_default(),
                        diagnostic: string(&item, &["diagnosticCode"]).to_owned(),
                        status: string(&item, &["status"]),
                        action: Some(if delayed { Action::Delayed } else { Action::Failed }),
                        hint,
                        ..base(body)
                    },
                ));
            }
        }
        "Complaint" => {
            let body = value.get("complaint")?;
            for item in items(body, "complainedRecipients") {
                let agent = string(body, &["userAgent"]);
                let id = string(body, &["feedbackId"]);
                findings.push(finding(
                    rules,
                    Event {
                        recipient: text::one_address(string(&item, &["emailAddress"])).unwrap_or_default(),
                        diagnostic: format!("{{\"feedbackid\":\"{id}\", \"useragent\":\"{agent}\"}}"),
                        feedback_type: string(body, &["complaintFeedbackType"]),
                        reason: Some(Reason::Feedback),
                        ..base(body)
                    },
                ));
            }
        }
        "Delivery" => {
            let body = value.get("delivery")?;
            for item in items(body, "recipients") {
                findings.push(finding(
                    rules,
                    Event {
                        recipient: item.as_str().unwrap_or(""),
                        diagnostic: string(body, &["smtpResponse"]).to_owned(),
                        action: Some(Action::Delivered),
                        reason: Some(Reason::Delivered),
                        ..base(body)
                    },
                ));
            }
        }
        "DeliveryDelay" => {
            let body = value.get("deliveryDelay")?;
            for item in items(body, "delayedRecipients") {
                let hint = match string(body, &["delayType"]) {
                    "MailboxFull" => Some((Reason::MailboxFull, 80, "ses:mailboxfull")),
                    "IPFailure" => Some((Reason::Blocked, 50, "ses:ipfailure")),
                    "SpamDetected" => Some((Reason::SpamDetected, 70, "ses:spamdetected")),
                    "RecipientServerError" | "InternalFailure" => Some((Reason::SystemError, 40, "ses:servererror")),
                    "TransientCommunicationFailure" => Some((Reason::NetworkError, 40, "ses:communication")),
                    _ => Some((Reason::Expired, 20, "ses:delay")),
                };
                findings.push(finding(
                    rules,
                    Event {
                        recipient: text::one_address(string(&item, &["emailAddress"])).unwrap_or_default(),
                        diagnostic: string(&item, &["diagnosticCode"]).to_owned(),
                        status: string(&item, &["status"]),
                        action: Some(Action::Delayed),
                        hint,
                        ..base(body)
                    },
                ));
            }
        }
        "Reject" => {
            for item in items(mail, "destination") {
                findings.push(finding(
                    rules,
                    Event {
                        recipient: item.as_str().unwrap_or(""),
                        diagnostic: string(value, &["reject", "reason"]).to_owned(),
                        action: Some(Action::Failed),
                        hint: Some((Reason::VirusDetected, 60, "ses:reject")),
                        ..base(value)
                    },
                ));
            }
        }
        _ => {}
    }
    findings.retain(|f| !f.recipient.is_empty());
    Some(analysis(findings))
}

/// SendGrid's Event Webhook.
fn sendgrid(rules: &Rules, value: &Value) -> Option<Analysis> {
    let event = string(value, &["event"]);
    let said =
        [string(value, &["reason"]), string(value, &["response"])].into_iter().find(|s| !s.is_empty()).unwrap_or("");
    let base = Event {
        recipient: string(value, &["email"]),
        diagnostic: said.to_owned(),
        status: string(value, &["status"]),
        date: value.get("timestamp").and_then(Value::as_i64).map(|seconds| Date { seconds, offset_minutes: 0 }),
        message_id: string(value, &["smtp-id"]).trim_matches(['<', '>']).to_owned(),
        decoded_by: "SendGrid",
        ..Event::default()
    };
    let found = match event {
        "bounce" => {
            let hint = match (string(value, &["type"]), string(value, &["bounce_classification"])) {
                (_, "Invalid Address") => Some((Reason::UserUnknown, 70, "sendgrid:invalid address")),
                (_, "Mailbox Unavailable") => Some((Reason::MailboxFull, 30, "sendgrid:mailbox unavailable")),
                (_, "Reputation") => Some((Reason::BadReputation, 40, "sendgrid:reputation")),
                (_, "Content") => Some((Reason::ContentError, 40, "sendgrid:content")),
                (_, "Frequency or Volume Too High") => Some((Reason::Speeding, 60, "sendgrid:volume")),
                ("blocked", _) => Some((Reason::Blocked, 25, "sendgrid:blocked")),
                _ => None,
            };
            Event { action: Some(Action::Failed), hint, ..base }
        }
        "deferred" => Event { action: Some(Action::Delayed), ..base },
        "dropped" => {
            Event { action: Some(Action::Failed), hint: Some((Reason::Suppressed, 70, "sendgrid:dropped")), ..base }
        }
        "spamreport" => Event { reason: Some(Reason::Feedback), feedback_type: "abuse", ..base },
        "delivered" => Event { reason: Some(Reason::Delivered), action: Some(Action::Delivered), ..base },
        _ => return Some(analysis(Vec::new())),
    };
    let found = finding(rules, found);
    Some(analysis(if found.recipient.is_empty() { Vec::new() } else { vec![found] }))
}

/// Mailgun's event webhooks.
fn mailgun(rules: &Rules, data: &Value) -> Option<Analysis> {
    let status = data.get("delivery-status").unwrap_or(&Value::Null);
    let words = [string(status, &["message"]), string(status, &["description"]), string(data, &["reason"])];
    let said = words.into_iter().find(|s| !s.is_empty()).unwrap_or("");
    let code = status.get("code").and_then(Value::as_u64).filter(|c| (200..600).contains(c));
    let diagnostic = match code {
        Some(code) if text::reply_code(said, None).is_none() => format!("{code} {said}"),
        _ => said.to_owned(),
    };
    // Seconds with a fraction.
    let seconds = data.get("timestamp").and_then(Value::as_f64).filter(|t| t.is_finite() && *t > 0.0 && *t < 1e12);
    let base = Event {
        recipient: string(data, &["recipient"]),
        addresser: text::one_address(string(data, &["envelope", "sender"])).unwrap_or_default().to_owned(),
        diagnostic,
        status: string(status, &["enhanced-code"]),
        rhost: string(status, &["mx-host"]).to_owned(),
        date: seconds.map(|t| Date { seconds: t as i64, offset_minutes: 0 }),
        message_id: string(data, &["message", "headers", "message-id"]).to_owned(),
        subject: string(data, &["message", "headers", "subject"]),
        decoded_by: "Mailgun",
        ..Event::default()
    };
    let found = match string(data, &["event"]) {
        "failed" => {
            let temporary = string(data, &["severity"]) == "temporary";
            let hint = string(data, &["reason"]).starts_with("suppress").then_some((
                Reason::Suppressed,
                90,
                "mailgun:suppress",
            ));
            Event { action: Some(if temporary { Action::Delayed } else { Action::Failed }), hint, ..base }
        }
        "rejected" => Event { action: Some(Action::Failed), ..base },
        "complained" => Event { reason: Some(Reason::Feedback), feedback_type: "abuse", ..base },
        "delivered" => Event { reason: Some(Reason::Delivered), action: Some(Action::Delivered), ..base },
        _ => return Some(analysis(Vec::new())),
    };
    let found = finding(rules, found);
    Some(analysis(if found.recipient.is_empty() { Vec::new() } else { vec![found] }))
}

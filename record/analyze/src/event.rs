//! What providers post as JSON: Amazon SES (also wrapped by SNS), SendGrid, Mailgun.

use crate::analyzer::Stage;
use crate::decide::{Facts, LIMIT, decide};
use crate::dsn;
use crate::finding::{Action, Analysis, Date, Diagnostic, Finding, Kind};
use crate::{Reason, Rules, civil, text};
use serde_json::Value;
use yamabiko_status::{Class, ReplyCode};

/// JSON of one or many events: an object, an array, or an object per line. `None` when it is none, or nobody's we know.
pub(crate) fn analyze(rules: &Rules, json: &[u8]) -> Option<Vec<Analysis>> {
    let values: Vec<Value> = match serde_json::from_slice(json) {
        Ok(value) => vec![value],
        Err(_) => {
            let lines = json.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
            lines.map(serde_json::from_slice).collect::<Result<_, _>>().ok()?
        }
    };
    let mut all = Vec::new();
    for value in &values {
        unwrap(rules, value, 0, &mut all);
    }
    (!all.is_empty()).then_some(all)
}

/// Envelopes within envelopes beyond are not opened: SQS holds SNS holds SES.
const MAX_WRAPS: usize = 6;

/// Opens what events are wrapped in, and reads them: arrays; SNS and EventBridge around SES; queues around SNS
/// (`aws sqs receive-message`, the `Records` of a Lambda function); pages of Mailgun's events.
fn unwrap(rules: &Rules, value: &Value, depth: usize, all: &mut Vec<Analysis>) {
    if depth > MAX_WRAPS {
        return;
    }
    let lists = ["Records", "Messages", "items"].iter().filter_map(|name| value.get(name)).find_map(Value::as_array);
    if let Some(list) = value.as_array().or(lists) {
        list.iter().for_each(|value| unwrap(rules, value, depth + 1, all));
        return;
    }
    let sns = value.get("Sns").filter(|inner| inner.is_object());
    let bridge = value.get("detail").filter(|_| value.get("detail-type").is_some());
    if let Some(inner) = sns.or(bridge) {
        return unwrap(rules, inner, depth + 1, all);
    }
    let text = ["Message", "body", "Body"].iter().filter_map(|name| value.get(name)).find_map(Value::as_str);
    if let Some(text) = text
        && ["Type", "messageId", "MessageId"].iter().any(|name| value.get(name).is_some())
    {
        match serde_json::from_str(text) {
            Ok(inner) => unwrap(rules, &inner, depth + 1, all),
            // SNS asks to confirm a subscription in words.
            Err(_) if string(value, &["Type"]).ends_with("Confirmation") => all.push(analysis(Vec::new())),
            Err(_) => {}
        }
        return;
    }
    all.extend(one(rules, value));
}

fn one(rules: &Rules, value: &Value) -> Option<Analysis> {
    if value.get("notificationType").or_else(|| value.get("eventType")).is_some() {
        return ses(rules, value);
    }
    let has = |name: &str| value.get(name).is_some();
    // An event, or a line of the list of bounces that its API gives.
    if has("sg_event_id") || (has("email") && (has("event") || (has("created") && has("reason")))) {
        return sendgrid(rules, value);
    }
    if let Some(data) = value.get("event-data") {
        return mailgun(rules, data);
    }
    if has("event") && (has("delivery-status") || (has("recipient") && has("timestamp"))) {
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
    /// The provider says that it may pass.
    transient: bool,
}

fn finding(rules: &Rules, event: Event<'_>) -> Finding {
    let (kind, words) = dsn::diagnostic(&event.diagnostic);
    let stated = dsn::status(event.status).or_else(|| text::statuses(&words).next());
    let class = stated.map(|s| s.class.digit());
    let code = text::reply_code(&words, class);
    let destination = text::domain(event.recipient);
    let said = rules.scan(&words, LIMIT);
    let facts = Facts {
        status: stated,
        code,
        stage: rules.stage(&said),
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
            let decision = decide(rules, &said, &facts);
            (decision.reason, decision.evidence, decision.confidence)
        }
    };
    let command = facts.stage.map_or("", Stage::name);
    let made_up = stated.is_none() && !reason.is_no_failure();
    let class = match (stated, event.action, code) {
        (Some(status), ..) => status.class,
        (None, Some(Action::Delayed), _) => Class::Transient,
        (None, ..) if event.transient => Class::Transient,
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
        // Words that sound final do not outweigh a provider that goes on trying.
        hard_bounce: reason.is_hard(class.digit()) && !(stated.is_none() && event.transient),
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
    let Some(event) = SES.iter().find(|event| event.kind == kind) else { return Some(analysis(Vec::new())) };
    let body = if event.body.is_empty() { value } else { value.get(event.body)? };
    let list = if event.recipients == "destination" { mail.get(event.recipients) } else { body.get(event.recipients) };
    let mut findings = Vec::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let address = item.as_str().unwrap_or_else(|| string(item, &["emailAddress"]));
        let Some(recipient) = text::one_address(address) else { continue };
        let delayed = event.reason.is_none() && string(item, &["action"]).eq_ignore_ascii_case("delayed");
        findings.push(finding(
            rules,
            Event {
                recipient,
                diagnostic: (event.said)(body, item),
                status: string(item, &["status"]),
                action: if delayed { Some(Action::Delayed) } else { event.action },
                hint: (event.hint)(body),
                reason: event.reason,
                feedback_type: string(body, &["complaintFeedbackType"]),
                transient: string(body, &["bounceType"]) == "Transient",
                ..base(body)
            },
        ));
    }
    Some(analysis(findings))
}

/// What a kind of event of Amazon SES is made of.
struct SesEvent {
    /// `notificationType`, `eventType`
    kind: &'static str,
    /// Its object; empty: the event itself.
    body: &'static str,
    /// The list of recipients in it; `destination` is that of the mail.
    recipients: &'static str,
    action: Option<Action>,
    /// Where the event says all.
    reason: Option<Reason>,
    /// The words of the failure, from the object and the recipient.
    said: fn(&Value, &Value) -> String,
    hint: fn(&Value) -> Option<Hint>,
}

type Hint = (Reason, u8, &'static str);

const SES: [SesEvent; 6] = [
    SesEvent {
        kind: "Bounce",
        body: "bounce",
        recipients: "bouncedRecipients",
        action: Some(Action::Failed),
        reason: None,
        said: |_, item| string(item, &["diagnosticCode"]).to_owned(),
        hint: ses_bounce,
    },
    SesEvent {
        kind: "Complaint",
        body: "complaint",
        recipients: "complainedRecipients",
        action: None,
        reason: Some(Reason::Feedback),
        said: |body, _| {
            let (id, agent) = (string(body, &["feedbackId"]), string(body, &["userAgent"]));
            format!("{{\"feedbackid\":\"{id}\", \"useragent\":\"{agent}\"}}")
        },
        hint: |_| None,
    },
    SesEvent {
        kind: "Delivery",
        body: "delivery",
        recipients: "recipients",
        action: Some(Action::Delivered),
        reason: Some(Reason::Delivered),
        said: |body, _| string(body, &["smtpResponse"]).to_owned(),
        hint: |_| None,
    },
    SesEvent {
        kind: "DeliveryDelay",
        body: "deliveryDelay",
        recipients: "delayedRecipients",
        action: Some(Action::Delayed),
        reason: None,
        said: |_, item| string(item, &["diagnosticCode"]).to_owned(),
        hint: ses_delay,
    },
    SesEvent {
        kind: "Reject",
        body: "",
        recipients: "destination",
        action: Some(Action::Failed),
        reason: None,
        said: |body, _| string(body, &["reject", "reason"]).to_owned(),
        hint: |_| Some((Reason::VirusDetected, 60, "ses:reject")),
    },
    SesEvent {
        kind: "Rendering Failure",
        body: "",
        recipients: "destination",
        action: Some(Action::Failed),
        reason: None,
        said: |body, _| string(body, &["failure", "errorMessage"]).to_owned(),
        hint: |_| Some((Reason::ContentError, 90, "ses:rendering")),
    },
];

fn ses_bounce(body: &Value) -> Option<Hint> {
    match (string(body, &["bounceType"]), string(body, &["bounceSubType"])) {
        (_, "Suppressed" | "OnAccountSuppressionList" | "UnsubscribedRecipient") => {
            Some((Reason::Suppressed, 90, "ses:suppressed"))
        }
        (_, "MailboxFull") => Some((Reason::MailboxFull, 80, "ses:mailboxfull")),
        (_, "MessageTooLarge") => Some((Reason::MesgTooBig, 80, "ses:messagetoolarge")),
        (_, "ContentRejected") => Some((Reason::ContentError, 60, "ses:contentrejected")),
        (_, "AttachmentRejected") => Some((Reason::SecurityError, 60, "ses:attachmentrejected")),
        (_, "NoEmail") => Some((Reason::UserUnknown, 80, "ses:noemail")),
        (_, "CustomTimeoutExceeded") => Some((Reason::Expired, 60, "ses:timeout")),
        ("Permanent", "General") => Some((Reason::UserUnknown, 20, "ses:permanent")),
        _ => None,
    }
}

fn ses_delay(body: &Value) -> Option<Hint> {
    match string(body, &["delayType"]) {
        "MailboxFull" => Some((Reason::MailboxFull, 80, "ses:mailboxfull")),
        "IPFailure" => Some((Reason::Blocked, 50, "ses:ipfailure")),
        "SpamDetected" => Some((Reason::SpamDetected, 70, "ses:spamdetected")),
        "RecipientServerError" | "InternalFailure" => Some((Reason::SystemError, 40, "ses:servererror")),
        "TransientCommunicationFailure" => Some((Reason::NetworkError, 40, "ses:communication")),
        _ => Some((Reason::Expired, 20, "ses:delay")),
    }
}

/// SendGrid's Event Webhook.
fn sendgrid(rules: &Rules, value: &Value) -> Option<Analysis> {
    let event = if value.get("created").is_some() { "bounce" } else { string(value, &["event"]) };
    let said =
        [string(value, &["reason"]), string(value, &["response"])].into_iter().find(|s| !s.is_empty()).unwrap_or("");
    let base = Event {
        recipient: string(value, &["email"]),
        diagnostic: said.to_owned(),
        status: string(value, &["status"]),
        date: ["timestamp", "created"].iter().find_map(|name| value.get(name)?.as_i64()).map(Date::utc),
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
                (_, "Technical" | "Technical Failure") => Some((Reason::SystemError, 20, "sendgrid:technical")),
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
        date: seconds.map(|t| Date::utc(t as i64)),
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

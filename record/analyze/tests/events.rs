//! What providers post, in the shapes of their documents: alone, in arrays, in lines, and wrapped by what carries them.

use yamabiko_analyze::{Analysis, Analyzer};

const SES_BOUNCE: &str = r#"{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","bounceSubType":"General",
"bouncedRecipients":[{"emailAddress":"gone@example.net","action":"failed","status":"5.1.1","diagnosticCode":"smtp; 550 5.1.1 user unknown"}],
"timestamp":"2026-11-12T01:00:00.000Z","feedbackId":"f-1","remoteMtaIp":"192.0.2.5","reportingMTA":"dns; a8-70.smtp-out.amazonses.com"},
"mail":{"timestamp":"2026-11-12T00:59:58.000Z","source":"news@example.com","messageId":"m-1","destination":["gone@example.net"],
"headersTruncated":false,"headers":[{"name":"Message-ID","value":"<1@example.com>"}],"commonHeaders":{"subject":"Hello"}}}"#;

const SES_SUPPRESSED: &str = r#"{"eventType":"Bounce","bounce":{"bounceType":"Permanent","bounceSubType":"OnAccountSuppressionList",
"bouncedRecipients":[{"emailAddress":"gone@example.net","action":"failed","status":"5.1.1",
"diagnosticCode":"Amazon SES did not send the message to this address because it is on the suppression list for your account."}],
"timestamp":"2026-11-12T01:00:00.000Z"},"mail":{"source":"News <news@example.com>","destination":["gone@example.net"],"tags":{"ses:caller-identity":["x"]}}}"#;

const SES_DELAY: &str = r#"{"eventType":"DeliveryDelay","mail":{"source":"news@example.com","destination":["slow@example.net"]},
"deliveryDelay":{"timestamp":"2026-11-12T01:00:00.000Z","delayType":"TransientCommunicationFailure","expirationTime":"2026-11-12T10:00:00.000Z",
"delayedRecipients":[{"emailAddress":"slow@example.net","status":"4.4.1","diagnosticCode":"smtp; 421 4.4.1 Unable to connect to remote host"}]}}"#;

const SES_COMPLAINT: &str = r#"{"notificationType":"Complaint","complaint":{"userAgent":"Example/1","complainedRecipients":[{"emailAddress":"angry@example.net"}],
"complaintFeedbackType":"abuse","arrivalDate":"2026-11-12T01:00:00.000Z","timestamp":"2026-11-12T01:00:00.000Z","feedbackId":"f-2"},
"mail":{"source":"news@example.com","destination":["angry@example.net"]}}"#;

const SES_RENDERING: &str = r#"{"eventType":"Rendering Failure","mail":{"source":"news@example.com","destination":["kim@example.net"]},
"failure":{"errorMessage":"Attribute 'attributeName' is not present in the rendering data.","templateName":"MyTemplate"}}"#;

const SES_OPEN: &str = r#"{"eventType":"Open","mail":{"source":"news@example.com","destination":["kim@example.net"]},"open":{"ipAddress":"192.0.2.1"}}"#;

const SENDGRID: &str = r#"[{"email":"gone@example.net","timestamp":1794445200,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>","event":"bounce","category":["cat facts"],
"sg_event_id":"e1","sg_message_id":"m1","reason":"500 unknown recipient","status":"5.0.0","type":"bounce","bounce_classification":"Invalid Address"},
{"email":"slow@example.net","timestamp":1794445200,"event":"deferred","sg_event_id":"e2","response":"400 try again later","attempt":"5"},
{"email":"off@example.net","timestamp":1794445200,"event":"dropped","sg_event_id":"e3","reason":"Bounced Address","status":"5.0.0"},
{"email":"angry@example.net","timestamp":1794445200,"event":"spamreport","sg_event_id":"e4"},
{"email":"kim@example.net","timestamp":1794445200,"event":"open","sg_event_id":"e5","useragent":"x"}]"#;

const SENDGRID_LIST: &str = r#"[{"created":1794445200,"email":"gone@example.net","reason":"550 5.1.1 The email account that you tried to reach does not exist.","status":"5.1.1"}]"#;

const MAILGUN: &str = r#"{"signature":{"timestamp":"1794445200","token":"t","signature":"s"},"event-data":{"event":"failed","severity":"permanent","reason":"bounce",
"timestamp":1794445200.95,"id":"i","log-level":"error","recipient":"gone@example.net","recipient-domain":"example.net",
"envelope":{"sender":"news@example.com","transport":"smtp","targets":"gone@example.net"},
"delivery-status":{"attempt-no":1,"message":"5.1.1 The email account that you tried to reach does not exist","code":550,"description":"","mx-host":"mx.example.net","enhanced-code":"5.1.1"},
"message":{"headers":{"to":"gone@example.net","message-id":"1@example.com","from":"news@example.com","subject":"Hello"},"size":111}}}"#;

const MAILGUN_PAGE: &str = r#"{"items":[{"event":"failed","severity":"temporary","reason":"generic","timestamp":1794445200.1,"recipient":"slow@example.net",
"delivery-status":{"code":452,"message":"452 4.2.2 The email account that you tried to reach is over quota"}},
{"event":"failed","severity":"permanent","reason":"suppress-bounce","timestamp":1794445200.1,"recipient":"off@example.net",
"delivery-status":{"code":605,"message":"Not delivering to previously bounced address"}},
{"event":"accepted","timestamp":1794445200.1,"recipient":"kim@example.net"}],"paging":{"next":"https://api.example/next"}}"#;

fn quoted(json: &str) -> String {
    serde_json::to_string(json).unwrap()
}

fn found(json: &str) -> Option<String> {
    let all: Vec<Analysis> = Analyzer::embedded().analyze_event(json.as_bytes())?;
    let findings = all.iter().flat_map(|analysis| &analysis.findings);
    Some(
        findings
            .map(|f| format!("{} {}", f.recipient.split('@').next().unwrap(), f.reason))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

#[test]
fn events_of_providers() {
    let one_line = |json: &str| json.replace('\n', "");
    let sns = format!(
        r#"{{"Type":"Notification","MessageId":"1","TopicArn":"arn:aws:sns:x","Message":{},"Timestamp":"2026-11-12T01:00:00.000Z"}}"#,
        quoted(SES_BOUNCE)
    );
    let sqs = format!(r#"{{"Messages":[{{"MessageId":"1","ReceiptHandle":"r","Body":{}}}]}}"#, quoted(&sns));
    let lambda = format!(
        r#"{{"Records":[{{"EventSource":"aws:sns","Sns":{{"Type":"Notification","MessageId":"1","Message":{}}}}}]}}"#,
        quoted(SES_BOUNCE)
    );
    let queue = format!(r#"{{"Records":[{{"messageId":"1","eventSource":"aws:sqs","body":{}}}]}}"#, quoted(&sns));
    let bridge =
        format!(r#"{{"version":"0","detail-type":"Email Bounced","source":"aws.ses","detail":{SES_SUPPRESSED}}}"#);
    let confirm = r#"{"Type":"SubscriptionConfirmation","MessageId":"1","Token":"t","Message":"You have chosen to subscribe to the topic.","SubscribeURL":"https://x.example"}"#;
    for (json, expected) in [
        (SES_BOUNCE.to_owned(), Some("gone userunknown")),
        (SES_SUPPRESSED.to_owned(), Some("gone suppressed")),
        (SES_DELAY.to_owned(), Some("slow expired|slow networkerror")),
        (SES_COMPLAINT.to_owned(), Some("angry feedback")),
        (SES_RENDERING.to_owned(), Some("kim contenterror")),
        (SES_OPEN.to_owned(), Some("")),
        (sns, Some("gone userunknown")),
        (sqs, Some("gone userunknown")),
        (lambda, Some("gone userunknown")),
        (queue, Some("gone userunknown")),
        (bridge, Some("gone suppressed")),
        (confirm.to_owned(), Some("")),
        (format!("{}\n{}\n", one_line(SES_BOUNCE), one_line(SES_COMPLAINT)), Some("gone userunknown, angry feedback")),
        (format!("[{SES_BOUNCE},{SES_COMPLAINT}]"), Some("gone userunknown, angry feedback")),
        (
            SENDGRID.to_owned(),
            Some(
                "gone userunknown, slow onhold, off suppressed, angry feedback|gone userunknown, slow expired, off suppressed, angry feedback|gone userunknown, slow systemerror, off suppressed, angry feedback",
            ),
        ),
        (SENDGRID_LIST.to_owned(), Some("gone userunknown")),
        (MAILGUN.to_owned(), Some("gone userunknown")),
        (MAILGUN_PAGE.to_owned(), Some("slow mailboxfull, off suppressed")),
        (r#"{"some":"thing"}"#.to_owned(), None),
        ("[1,2]".to_owned(), None),
        ("{".to_owned(), None),
    ] {
        let seen = found(&json);
        let fits = match (&seen, expected) {
            (Some(seen), Some(expected)) => expected.split('|').any(|reading| reading == seen),
            (None, None) => true,
            _ => false,
        };
        assert!(fits, "{seen:?}, wanted {expected:?}: {json}");
    }
}

#[test]
fn fields_of_events() {
    let all = Analyzer::embedded().analyze_event(MAILGUN.as_bytes()).unwrap();
    let found = &all[0].findings[0];
    assert_eq!((found.rhost.as_str(), found.addresser.as_str()), ("mx.example.net", "news@example.com"));
    assert_eq!((found.message_id.as_str(), found.subject.as_str()), ("1@example.com", "Hello"));
    assert!(found.hard_bounce && found.reply_code.is_some());
    let all = Analyzer::embedded().analyze_event(SES_BOUNCE.as_bytes()).unwrap();
    let found = &all[0].findings[0];
    assert_eq!((found.lhost.as_str(), found.message_id.as_str()), ("a8-70.smtp-out.amazonses.com", "1@example.com"));
    assert_eq!(found.date.map(|date| date.seconds), Some(1_794_445_200));
}

/// What SES says of a bounce without a status code: its type decides the class, and what may pass is no hard bounce.
#[test]
fn status_of_bounces_that_have_none() {
    for (kind, subtype, said, class, hard) in [
        ("Transient", "General", "", 4, false),
        ("Transient", "MailboxFull", "", 4, false),
        ("Transient", "MessageTooLarge", "", 4, false),
        ("Transient", "ContentRejected", "", 4, false),
        ("Transient", "General", "smtp; 550 user unknown", 4, false),
        ("Transient", "General", "smtp; 550 5.1.1 user unknown", 5, true),
        ("Permanent", "General", "", 5, true),
        ("Permanent", "NoEmail", "", 5, true),
        ("Undetermined", "Undetermined", "", 5, false),
    ] {
        let recipient = match said {
            "" => r#"{"emailAddress":"kim@example.net"}"#.to_owned(),
            said => format!(r#"{{"emailAddress":"kim@example.net","diagnosticCode":"{said}"}}"#),
        };
        let json = format!(
            r#"{{"notificationType":"Bounce","bounce":{{"bounceType":"{kind}","bounceSubType":"{subtype}","bouncedRecipients":[{recipient}]}},
            "mail":{{"source":"news@example.com"}}}}"#
        );
        let all = Analyzer::embedded().analyze_event(json.as_bytes()).unwrap();
        let found = &all[0].findings[0];
        let status = found.status.unwrap();
        assert_eq!((status.class.digit(), found.hard_bounce), (class, hard), "{kind} {subtype} {said}: {status}");
    }
}

#[test]
fn wrapped_without_end() {
    let mut json = SES_BOUNCE.to_owned();
    for _ in 0..9 {
        json = format!(r#"{{"Type":"Notification","Message":{}}}"#, quoted(&json));
    }
    assert_eq!(found(&json), None);
}

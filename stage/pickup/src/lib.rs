//! Local submissions: what `sendmail` hands in, over the control socket or as a file in `maildrop/`.
//!
//! * [`SubmitEnvelope`] is what a submitter says; [`submission`] makes of it what
//!   cleanup takes, trusting nothing in it but what the kernel says of the submitter.
//! * [`maildrop`] is the file form, written by `postdrop` when the engine is down.

pub mod maildrop;

use yamabiko_address::{path, unquote};
use yamabiko_envelope::{
    Content, Envelope, QueueId, Recipient, RewriteContext, Source, Submission, Timestamp, TlsWish,
};
use yamabiko_ipc::control::SubmitEnvelope;

/// Why a submission cannot be taken: the submitter's mistake, in words for the submitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

/// More recipients than this in one submission are refused; the message is one line of memory each.
const RECIPIENTS: usize = 1_000_000;

/// Longer addresses than this are nobody's (Postfix: `line_length_limit`).
const ADDRESS: usize = 2048;

/// What the engine knows about a submission beside what the submitter said.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its new name.
    pub queue_id: QueueId,
    /// Now.
    pub now: Timestamp,
    /// Who submitted it, from the kernel or the file's owner.
    pub uid: u32,
    /// `$myhostname`, for `Received:`
    pub myhostname: &'a str,
    /// `$mail_name`, for `Received:`
    pub mail_name: &'a str,
    /// The date of now as RFC 5322 writes it.
    pub date: &'a str,
}

/// The submission as cleanup takes it.
pub fn submission(said: SubmitEnvelope, content: Content, facts: &Facts<'_>) -> Result<Submission, Unfit> {
    if said.recipients.is_empty() {
        return Err(Unfit("no recipients".to_owned()));
    }
    if said.recipients.len() > RECIPIENTS {
        return Err(Unfit(format!("more than {RECIPIENTS} recipients")));
    }
    let one_line = |text: &str| !text.contains(|c: char| c.is_ascii_control());
    if !one_line(&said.envid) {
        return Err(Unfit("the envelope ID has control characters".to_owned()));
    }
    let fits = |c: char| c.is_ascii_graphic();
    if said.verp.is_some_and(|verp| !fits(verp.first) || !fits(verp.second)) {
        return Err(Unfit("VERP delimiters must be printable characters".to_owned()));
    }
    if said.recipients.iter().chain([&said.sender, &said.full_name]).any(|text| text.len() > ADDRESS) {
        return Err(Unfit(format!("an address is longer than {ADDRESS} bytes")));
    }
    let sender = if said.sender.is_empty() { String::new() } else { address(&said.sender) };
    let mut envelope = Envelope::new(facts.queue_id, facts.now, sender);
    envelope.envid = said.envid;
    envelope.ret = said.ret;
    envelope.body = said.body;
    envelope.smtputf8 = said.smtputf8;
    if said.requiretls {
        envelope.tls = TlsWish::Required;
    }
    envelope.trace = said.trace;
    envelope.verp = said.verp;
    envelope.context = RewriteContext::Local;
    envelope.size = content.len();
    envelope.recipients = said
        .recipients
        .iter()
        .map(|given| {
            let given = address(given);
            Recipient { original: given.clone(), address: given, notify: said.notify, ..Recipient::default() }
        })
        .collect();
    let mut submission = Submission::new(envelope, content, Source::Local { uid: facts.uid });
    submission.full_name = in_one_line(&said.full_name).into_owned();
    submission.trace_fields = format!(
        "Received: by {} ({}, from userid {})\n\tid {}; {}\n",
        facts.myhostname, facts.mail_name, facts.uid, facts.queue_id, facts.date
    )
    .into_bytes();
    Ok(submission)
}

/// What comes from a command line goes into headers, logs and SMTP commands: a line end in it, or another control
/// character, is as good as a blank there.
fn in_one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(|c: char| c.is_ascii_control()) {
        return text.into();
    }
    text.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }).collect::<String>().into()
}

/// A recipient or sender as people write them on a command line, to internal form.
fn address(given: &str) -> String {
    let given = &*in_one_line(given);
    path::parse_address(given).unwrap_or_else(|_| unquote(given.trim()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_gets_its_received_field() {
        let facts = Facts {
            queue_id: QueueId::new(1_795_280_034_000_000, 1),
            now: Timestamp::from_seconds(1_795_280_034),
            uid: 1000,
            myhostname: "mx.example.jp",
            mail_name: "Yamabiko",
            date: "Sat, 21 Nov 2026 16:53:54 +0000 (UTC)",
        };
        let said = SubmitEnvelope {
            sender: "me".into(),
            recipients: vec!["Some One <one@example.jp>".into(), "two".into()],
            ..SubmitEnvelope::default()
        };
        let submission = submission(said, Content::from(b"x\n".to_vec()), &facts).unwrap();
        assert_eq!(submission.envelope.sender, "me");
        assert_eq!(submission.envelope.recipients[0].address, "one@example.jp");
        assert_eq!(submission.envelope.recipients[1].address, "two");
        let received = String::from_utf8(submission.trace_fields).unwrap();
        assert_eq!(
            received,
            format!(
                "Received: by mx.example.jp (Yamabiko, from userid 1000)\n\tid {}; Sat, 21 Nov 2026 16:53:54 +0000 (UTC)\n",
                facts.queue_id
            )
        );
        assert_eq!(submission.envelope.tls, TlsWish::Policy);
        let secret = SubmitEnvelope { recipients: vec!["two".into()], requiretls: true, ..SubmitEnvelope::default() };
        let secret = super::submission(secret, Content::from(Vec::new()), &facts).unwrap();
        assert_eq!(secret.envelope.tls, TlsWish::Required);
        assert!(super::submission(SubmitEnvelope::default(), Content::from(Vec::new()), &facts).is_err());
        // Nothing that a submitter says makes a line of its own.
        let said = || SubmitEnvelope {
            sender: "me\nX-Evil: 1".into(),
            recipients: vec!["a\r\nb@x.test".into(), "c\0d".into()],
            full_name: "Me\nX: y".into(),
            ..SubmitEnvelope::default()
        };
        let submission = super::submission(said(), Content::from(Vec::new()), &facts).unwrap();
        let recipients = submission.envelope.recipients.iter().flat_map(|r| [&r.address, &r.original]);
        for text in recipients.chain([&submission.envelope.sender, &submission.full_name]) {
            assert!(!text.contains(|c: char| c.is_ascii_control()), "{text:?}");
        }
        let verp = yamabiko_envelope::VerpDelimiters { first: '+', second: '\n' };
        for bad in [
            SubmitEnvelope { envid: "x\nY: z".into(), ..said() },
            SubmitEnvelope { verp: Some(verp), ..said() },
            SubmitEnvelope { sender: "x".repeat(3000), ..said() },
        ] {
            assert!(super::submission(bad, Content::from(Vec::new()), &facts).is_err());
        }
    }
}

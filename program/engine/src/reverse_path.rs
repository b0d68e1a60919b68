//! Reverse-paths of our own making: VERP, and signed tokens (`signed_sender_domains`). On the way out every recipient may get an
//! envelope sender of its own; what comes back to one is told from what does not.

use std::path::Path;
use std::sync::Arc;

use yamabiko_envelope::{
    Attempt, Content, DeliveryRequest, Kind, QueueId, Severity, Source, Submission, Timestamp, VerpDelimiters,
};
use yamabiko_lookup::TableSet;
use yamabiko_receive::Refusal;
use yamabiko_schedule::Feedback;
use yamabiko_status::{EnhancedStatus, ReplyCode};
use yamabiko_token::{Claim, Reading, Signing, recipient_hash};

use crate::accept::Acceptance;
use crate::generation::Current;
use crate::outcome::deferred;

/// The settings of signed reverse-paths, and what an administrator should know. A key file that is not there is made.
pub fn signing(view: &yamabiko_config::View, tables: &TableSet, make: bool) -> (Option<Signing>, Vec<String>) {
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Err(error) if make && error.kind() == std::io::ErrorKind::NotFound => {
            yamabiko_token::make_key_file(path)?;
            std::fs::read_to_string(path)
        }
        // It will be made at start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok("0 0000000000000000\n".to_owned()),
        read => read,
    };
    match Signing::from_view(view, tables, &read) {
        Ok(None) => (None, Vec::new()),
        Ok(Some(_)) if view.text("recipient_delimiter").is_empty() => {
            let why = "signed_sender_domains needs recipient_delimiter: no reverse-path is signed".to_owned();
            (None, vec![why])
        }
        Ok(signing) => (signing, Vec::new()),
        Err(why) => (None, vec![format!("{why}: no reverse-path is signed")]),
    }
}

/// Delivers, every recipient from a sender of its own where that is asked for.
pub async fn deliver(current: &Current, request: &Arc<DeliveryRequest>) -> (Attempt, Feedback) {
    let envelope = &request.envelope;
    if envelope.sender.is_empty() {
        return current.deliver(request).await;
    }
    if let Some(verp) = envelope.verp {
        return one_by_one(current, request, |index, address| {
            let given = envelope.recipients.get(index as usize).map_or("", |known| known.original.as_str());
            let given = if given.is_empty() { address } else { given };
            Some(yamabiko_address::verp_sender(&envelope.sender, given, (verp.first, verp.second)))
        })
        .await;
    }
    let generation = current.get();
    let Some(signing) = &generation.signing else { return current.deliver(request).await };
    if !generation.agents.get(&request.transport).is_some_and(|agent| agent.is_smtp()) {
        return current.deliver(request).await;
    }
    match signing.covers(&envelope.sender).await {
        Ok(false) => current.deliver(request).await,
        Ok(true) if signing.is_per_recipient() => {
            one_by_one(current, request, |_, address| {
                signing.sign(
                    &envelope.sender,
                    Claim { queue_id: envelope.queue_id, recipient: Some(recipient_hash(address)) },
                )
            })
            .await
        }
        Ok(true) => match signing.sign(&envelope.sender, Claim { queue_id: envelope.queue_id, recipient: None }) {
            Some(sender) => {
                current.deliver(&Arc::new(DeliveryRequest { sender: sender.into(), ..(**request).clone() })).await
            }
            None => current.deliver(request).await,
        },
        Err(error) => {
            current.say(Severity::Warning, Some(envelope.queue_id), &error.to_string());
            (deferred(request, EnhancedStatus::transient(3, 0), "table lookup problem"), Feedback::Nothing)
        }
    }
}

async fn one_by_one(
    current: &Current,
    request: &Arc<DeliveryRequest>,
    sender_for: impl Fn(u32, &str) -> Option<String>,
) -> (Attempt, Feedback) {
    let (mut outcomes, mut failure, mut last) = (Vec::new(), None, Feedback::Answered);
    for recipient in &request.recipients {
        let sender =
            sender_for(recipient.index, &recipient.address).map_or_else(|| Arc::clone(&request.sender), Into::into);
        let one = DeliveryRequest { sender, recipients: vec![recipient.clone()], ..(**request).clone() };
        let (mut attempt, feedback) = current.deliver(&Arc::new(one)).await;
        outcomes.append(&mut attempt.outcomes);
        failure = attempt.destination_failure.or(failure);
        last = feedback;
    }
    (Attempt { outcomes, destination_failure: failure }, last)
}

/// qmail's form of VERP, `prefix-@host-@[]`, from a local program (Postfix: qmqpd).
fn read_qmail_verp(submission: &mut Submission) {
    let envelope = &mut submission.envelope;
    if !matches!(submission.source, Source::Local { .. }) || envelope.verp.is_some() {
        return;
    }
    let Some(list) = envelope.sender.strip_suffix("-@[]") else { return };
    let Some((prefix, host)) = list.rsplit_once('@') else { return };
    envelope.sender = format!("{}@{host}", prefix.strip_suffix('-').unwrap_or(prefix));
    envelope.verp = Some(VerpDelimiters { first: '-', second: '=' });
}

/// Mail on its way in: tokens of ours are taken off recipients (which keep them as the address that was given), and mail
/// without a sender is looked at.
///
/// # Errors
/// It is refused: a bounce of mail that is not ours, where `unsigned_bounce_action = reject`, or one too many for its recipient.
pub async fn arrive(engine: &Acceptance, submission: &mut Submission) -> Result<(), Refusal> {
    read_qmail_verp(submission);
    if submission.source != Source::Smtp {
        return Ok(());
    }
    let generation = engine.current().get();
    let now = Timestamp::now();
    let foreign = submission.envelope.client.address.is_some_and(|address| !address.is_loopback())
        && submission.envelope.sasl.is_none();
    let bounce = submission.envelope.sender.is_empty() && foreign;
    let mut unsigned = Vec::new();
    for recipient in &mut submission.envelope.recipients {
        let mut ours = false;
        if let Some(signing) = &generation.signing {
            match signing.read(&recipient.address, now) {
                Reading::Valid { address, .. } => {
                    ours = true;
                    recipient.original = std::mem::replace(&mut recipient.address, address);
                }
                Reading::Expired { address, .. } => {
                    recipient.original = std::mem::replace(&mut recipient.address, address);
                }
                Reading::Plain | Reading::Forged { .. } => {}
            }
            if bounce && !ours && signing.covers(&recipient.address).await.unwrap_or(false) {
                unsigned.push(recipient.address.clone());
            }
        }
        if bounce && !ours && engine.desk().is_flooded(&generation.desk, &recipient.address, now) {
            let text = format!("<{}>: too many messages without a sender, try again later", recipient.address);
            say(engine, submission.envelope.queue_id, &format!("refused: {text} (backscatter_recipient_limit)"));
            return Err(Refusal { code: ReplyCode(450), status: EnhancedStatus::transient(7, 1), text });
        }
    }
    let Some(first) = unsigned.first() else { return Ok(()) };
    let id = submission.envelope.queue_id;
    match generation.unsigned_bounces.as_str() {
        "reject" => {
            let text = format!("<{first}>: this is not about mail of ours: its recipient has no token");
            say(engine, id, &format!("refused: {text} (unsigned_bounce_action)"));
            return Err(Refusal { code: ReplyCode(550), status: EnhancedStatus::permanent(7, 1), text });
        }
        "tag" => {
            submission.content = tagged(&submission.content);
            say(engine, id, &format!("tagged: a message without a sender and token for <{first}>"));
        }
        "hold" => {
            submission.hold = true;
            say(engine, id, &format!("held: a message without a sender and token for <{first}>"));
        }
        _ => {}
    }
    Ok(())
}

/// The message with a header field in front.
fn tagged(content: &Content) -> Content {
    const FIELD: &[u8] = b"X-Unsigned-Bounce: yes\n";
    match content.to_bytes() {
        Ok(bytes) => Content::from([FIELD, &bytes].concat()),
        Err(_) => content.clone(),
    }
}

fn say(engine: &Acceptance, id: QueueId, text: &str) {
    let kind = Kind::Text { severity: Severity::Info, queue_id: Some(id), text: text.to_owned() };
    engine.current().emit("smtpd", Timestamp::now(), kind);
}

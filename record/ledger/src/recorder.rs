//! From what the stages say to entries of the ledger.
//!
//! A message with one recipient that is settled at the first attempt is one entry and not two: the message waits here for
//! a moment, and what became of it takes its sender, Message-ID and client along. [`crate::split`] shows both again.

use std::collections::HashMap;

use yamabiko_envelope::{
    Action, Client, ContentAction, Decision, Delivery, DeliveryStatus, Envelope, Event, Kind, NoticeKind, Recipient,
    Timestamp, Trace,
};

use crate::record::{Record, Role, record, tag, told};
use crate::{Entry, LISTED, What};

/// Something that is to be remembered.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message is in the queue.
    Queued {
        /// Its envelope.
        envelope: &'a Envelope,
        /// It waits for an operator.
        hold: bool,
    },
    /// A stage has said something.
    Event(&'a Event),
    /// An entry as it is.
    Entry(&'a Entry),
}

impl Input<'_> {
    /// Whether an event is one that is remembered.
    pub fn wants(event: &Event) -> bool {
        match &event.kind {
            Kind::Delivered(delivery) => {
                !matches!(delivery.status, DeliveryStatus::Deliverable | DeliveryStatus::Undeliverable)
            }
            Kind::Decided(decision) => decided(decision.word).is_some(),
            Kind::ContentChecked(action) => decided(action.word).is_some(),
            Kind::Expired { .. } | Kind::Noticed { .. } => true,
            _ => false,
        }
    }

    /// Writes down what it means to the ledger: nothing for what is no mail. False when something of it is too long.
    pub(crate) fn write(self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Entry(entry) => record(entry, out),
            Self::Queued { envelope, hold } => queued(envelope, hold, out),
            Self::Event(event) => of_event(event, out),
        }
    }
}

/// What words of decisions mean for a message.
fn decided(word: &str) -> Option<What> {
    match word {
        "reject" | "milter-reject" => Some(What::Rejected),
        "discard" | "milter-discard" => Some(What::Discarded),
        "hold" | "milter-hold" => Some(What::Held),
        _ => None,
    }
}

/// What error(8) says of addresses on the suppression list begins so.
const SUPPRESSED: &str = "recipient is on the suppression list";

/// Puts entries together. One per writer.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Messages that wait for what becomes of them, by queue ID: since this round, and since the one before.
    fresh: HashMap<String, Box<Entry>>,
    older: HashMap<String, Box<Entry>>,
}

impl Recorder {
    /// Gives the entries that follow from an input.
    pub fn take(&mut self, input: Input<'_>, give: &mut dyn FnMut(Entry)) {
        let mut records = Vec::new();
        input.write(&mut records);
        told(&records, |role, entry| self.enter(role, Box::new(entry), &mut |entry| give(*entry)));
    }

    /// Gives the entries that follow from one that was written down.
    pub(crate) fn enter(&mut self, role: Role, mut entry: Box<Entry>, give: &mut dyn FnMut(Box<Entry>)) {
        match role {
            Role::Plain => {}
            Role::Message => {
                self.fresh.insert(entry.queue_id.clone(), entry);
                return;
            }
            Role::Outcome => match self.waiting(&entry.queue_id) {
                Some(message) if is_whole(&message, &entry) => join(*message, &mut entry),
                Some(message) => give(message),
                None => {}
            },
            Role::About => self.waiting(&entry.queue_id).into_iter().for_each(&mut *give),
        }
        give(entry);
    }

    fn waiting(&mut self, queue_id: &str) -> Option<Box<Entry>> {
        self.fresh.remove(queue_id).or_else(|| self.older.remove(queue_id))
    }

    /// Messages are waiting here.
    pub fn is_waiting(&self) -> bool {
        !self.fresh.is_empty() || !self.older.is_empty()
    }

    /// A round has ended: what has waited for a whole one is given.
    pub fn end_round(&mut self, give: &mut dyn FnMut(Entry)) {
        self.end(&mut |entry| give(*entry));
    }

    /// [`Recorder::end_round`], without moving anything.
    pub(crate) fn end(&mut self, give: &mut dyn FnMut(Box<Entry>)) {
        let waited = std::mem::replace(&mut self.older, std::mem::take(&mut self.fresh));
        waited.into_values().for_each(give);
    }
}

fn queued(envelope: &Envelope, hold: bool, out: &mut Vec<u8>) -> bool {
    // Questions about addresses are no mail.
    if matches!(envelope.trace, Trace::Probe | Trace::ProbeReport) {
        return true;
    }
    let role = if envelope.recipients.len() == 1 && !hold { Role::Message } else { Role::Plain };
    let mut lists = envelope.recipients.chunks(LISTED);
    let mut whole = message(envelope, lists.next().unwrap_or_default(), role, out);
    for list in lists {
        whole &= message(envelope, list, role, out);
    }
    if hold {
        let mut record = Record::begin(out, envelope.arrival, What::Held);
        record.shown(tag::QUEUE_ID, &[&envelope.queue_id]);
        whole &= record.end();
    }
    whole
}

fn of_event(event: &Event, out: &mut Vec<u8>) -> bool {
    let at = event.at;
    let checked = match &event.kind {
        Kind::Delivered(delivery) => return delivered(at, &event.origin.program, delivery, out),
        Kind::Expired { queue_id, sender, forced } => {
            let mut record = Record::begin(out, at, What::Expired);
            record.role(Role::About);
            record.shown(tag::QUEUE_ID, &[queue_id]);
            record.bytes(tag::SENDER, sender.as_bytes());
            record.text(tag::PROGRAM, "qmgr");
            record.text(tag::BY, if *forced { "operator" } else { "" });
            return record.end();
        }
        Kind::Noticed { queue_id, kind, notice } => {
            let mut record = Record::begin(out, at, What::Noticed);
            record.role(Role::About);
            record.shown(tag::QUEUE_ID, &[queue_id]);
            record.shown(tag::RELATED, &[notice]);
            record.text(tag::BY, notice_word(*kind));
            return record.end();
        }
        Kind::Decided(decision) => of_decision(at, decision),
        Kind::ContentChecked(action) => of_check(at, action),
        _ => None,
    };
    checked.is_none_or(|entry| record(&entry, out))
}

/// The word for a kind of notice in [`Entry::by`].
fn notice_word(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::SenderNonDelivery => "failure to sender",
        NoticeKind::PostmasterNonDelivery => "failure to postmaster",
        NoticeKind::SenderDelay => "delay to sender",
        NoticeKind::PostmasterDelay => "delay to postmaster",
        NoticeKind::SenderSuccess => "success to sender",
    }
}

fn client_text(client: &Client) -> String {
    match client.address {
        Some(address) => format!("{}[{}]", client.name, address.to_canonical()),
        None => client.name.to_string(),
    }
}

/// The entry of a message with some of its recipients.
pub fn entry_of(envelope: &Envelope, recipients: &[Recipient]) -> Entry {
    let mut records = Vec::new();
    let mut entry = Entry::new(envelope.arrival, What::Queued, envelope.queue_id.to_string(), "");
    message(envelope, recipients, Role::Plain, &mut records);
    told(&records, |_, written| entry = written);
    entry
}

fn message(envelope: &Envelope, recipients: &[Recipient], role: Role, out: &mut Vec<u8>) -> bool {
    let mut record = Record::begin(out, envelope.arrival, What::Queued);
    record.role(role);
    record.shown(tag::QUEUE_ID, &[&envelope.queue_id]);
    record.bytes(tag::SENDER, envelope.sender.as_bytes());
    record.text(tag::MESSAGE_ID, &envelope.message_id);
    record.text(tag::ENVELOPE_ID, &envelope.envid);
    for Recipient { address, original, .. } in recipients {
        record.bytes(tag::ONE_RECIPIENT, address.as_bytes());
        record.text(tag::ITS_ORIGINAL, if original == address { "" } else { original });
    }
    let client = &envelope.client;
    let from = client.address.map(|address| address.to_canonical());
    let login = envelope.sasl.as_ref().map_or("", |sasl| sasl.username.as_str());
    let user = if login.is_empty() { "" } else { " user=" };
    match from {
        Some(address) => record.shown(tag::CLIENT, &[&client.name, &"[", &address, &"]", &user, &login]),
        None => record.shown(tag::CLIENT, &[&"local", &user, &login]),
    }
    record.number(tag::SIZE, envelope.size);
    record.end()
}

fn delivered(at: Timestamp, program: &str, delivery: &Delivery, out: &mut Vec<u8>) -> bool {
    let what = match delivery.status {
        DeliveryStatus::Sent => match delivery.action {
            Some(Action::HandedOn) => What::Relayed,
            Some(Action::Expanded) => What::Expanded,
            _ => in_mailbox(program, &delivery.reason).unwrap_or(What::Sent),
        },
        DeliveryStatus::Deferred | DeliveryStatus::SoftBounce => What::Deferred,
        DeliveryStatus::Bounced if program == "error" && delivery.reason.starts_with(SUPPRESSED) => What::Suppressed,
        DeliveryStatus::Bounced => What::Bounced,
        DeliveryStatus::Deliverable | DeliveryStatus::Undeliverable => What::Note,
    };
    let mut record = Record::begin(out, at, what);
    record.role(Role::Outcome);
    record.shown(tag::QUEUE_ID, &[&delivery.queue_id]);
    record.text(tag::RECIPIENT, &delivery.recipient);
    record.text(tag::ORIGINAL, &delivery.original);
    record.bytes(tag::SENDER, delivery.sender.as_bytes());
    record.text(tag::PROGRAM, program);
    record.text(tag::RELAY, if delivery.relay == "none" { "" } else { &delivery.relay });
    record.stage(delivery.stage);
    record.status(Some(delivery.dsn));
    record.reply(delivery.reply);
    record.text(tag::TEXT, &delivery.reason);
    record.text(tag::TLS, delivery.tls.as_deref().unwrap_or_default());
    record.delay(delivery.delays.total());
    record.end()
}

/// What programs that do not speak SMTP mean by `sent`: the text of a log line tells as much as the event.
fn in_mailbox(program: &str, text: &str) -> Option<What> {
    match program {
        "local" | "virtual" if text.starts_with("forwarded as ") => Some(What::Expanded),
        "local" | "virtual" | "lmtp" => Some(What::Delivered),
        "discard" => Some(What::Discarded),
        _ => None,
    }
}

/// The message had this recipient and no other, and it is settled.
fn is_whole(message: &Entry, entry: &Entry) -> bool {
    let only = match message.recipients.as_slice() {
        [(address, original)] => *address == entry.recipient && *original == entry.original,
        _ => false,
    };
    only && entry.what != What::Deferred
}

/// What is known of the message goes into the entry of its only recipient.
fn join(message: Entry, entry: &mut Entry) {
    entry.message_id = message.message_id;
    entry.envelope_id = message.envelope_id;
    entry.client = message.client;
    entry.size = message.size;
    entry.delay = Some(entry.at.since(message.at));
}

fn of_decision(at: Timestamp, decision: &Decision) -> Option<Entry> {
    let what = decided(decision.word)?;
    let queue_id = decision.queue_id.map(|id| id.to_string()).unwrap_or_default();
    // A refused connection or greeting is nobody's mail.
    let recipient = decision.recipient.clone().unwrap_or_default();
    if recipient.is_empty() && queue_id.is_empty() {
        return None;
    }
    // Recipients that are refused belong to no message: the rest of it may be accepted.
    let queue_id = if what == What::Rejected && !recipient.is_empty() { String::new() } else { queue_id };
    let (reply, status) = reply_of(&decision.text);
    let step = decision.steps.iter().rev().find(|step| step.verdict == "reject");
    Some(Entry {
        sender: decision.sender.clone(),
        client: client_text(&decision.client),
        stage: stage_of(&decision.stage),
        program: "smtpd".to_owned(),
        by: step.map_or_else(|| decision.word.to_owned(), |step| format!("{} ({})", step.element, step.place)),
        reply,
        status,
        text: decision.text.clone(),
        ..Entry::new(at, what, queue_id, recipient)
    })
}

fn of_check(at: Timestamp, action: &ContentAction) -> Option<Entry> {
    let what = decided(action.word)?;
    Some(Entry {
        sender: Some(action.sender.clone()),
        client: action.client.as_ref().map(client_text).unwrap_or_default(),
        program: "cleanup".to_owned(),
        by: format!("{} {}: {}", action.word, action.class, action.content),
        text: action.text.clone(),
        ..Entry::new(at, what, action.queue_id.to_string(), action.recipient.clone().unwrap_or_default())
    })
}

/// Code and status at the beginning of a reply.
pub(crate) fn reply_of(text: &str) -> (Option<yamabiko_status::ReplyCode>, Option<yamabiko_status::EnhancedStatus>) {
    let mut words = text.splitn(3, ' ');
    let code = words.next().and_then(|word| word.parse().ok()).filter(|code| (200..600).contains(code));
    let status = words.next().and_then(|word| word.parse().ok());
    (code.map(yamabiko_status::ReplyCode), code.and(status))
}

fn stage_of(word: &str) -> Option<yamabiko_envelope::SmtpStage> {
    use yamabiko_envelope::SmtpStage;
    Some(match word {
        "CONNECT" => SmtpStage::Connect,
        "HELO" | "EHLO" => SmtpStage::Ehlo,
        "MAIL" => SmtpStage::Mail,
        "RCPT" => SmtpStage::Rcpt,
        "DATA" => SmtpStage::Data,
        "END-OF-MESSAGE" => SmtpStage::EndOfData,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use yamabiko_envelope::{Delays, Origin, QueueId};
    use yamabiko_status::EnhancedStatus;

    fn envelope(recipients: &[&str]) -> Envelope {
        let id = QueueId::new(5_000_000, 1);
        let mut envelope = Envelope::new(id, Timestamp::from_seconds(5), "s@a.test");
        envelope.message_id = "<m@a.test>".into();
        envelope.size = 77;
        envelope.recipients =
            recipients.iter().map(|address| Recipient { address: (*address).into(), ..Recipient::default() }).collect();
        envelope
    }

    fn delivery(recipient: &str, status: DeliveryStatus, program: &'static str, reason: &str) -> Event {
        Event {
            at: Timestamp::from_seconds(6),
            origin: Origin::new(&Arc::from("postfix"), program),
            kind: Kind::Delivered(Box::new(Delivery {
                queue_id: QueueId::new(5_000_000, 1),
                recipient: recipient.into(),
                original: String::new(),
                sender: "s@a.test".into(),
                relay: "mx[192.0.2.1]:25".into(),
                connection_use: 1,
                tls: None,
                tls_status: None,
                delays: Delays::default(),
                dsn: EnhancedStatus::success(0, 0),
                status,
                reason: reason.into(),
                stage: None,
                reply: None,
                remote_mta: None,
                action: None,
            })),
        }
    }

    fn record(envelope: &Envelope, events: &[Event]) -> Vec<Entry> {
        let (mut recorder, mut out) = (Recorder::default(), Vec::new());
        recorder.take(Input::Queued { envelope, hold: false }, &mut |entry| out.push(entry));
        for event in events {
            recorder.take(Input::Event(event), &mut |entry| out.push(entry));
        }
        recorder.end_round(&mut |entry| out.push(entry));
        recorder.end_round(&mut |entry| out.push(entry));
        assert!(!recorder.is_waiting());
        out
    }

    #[test]
    fn a_message_settled_at_once_is_one_entry() {
        let sent = delivery("r@b.test", DeliveryStatus::Sent, "smtp", "250 2.0.0 Ok: queued as 4ABC123");
        let entries = record(&envelope(&["r@b.test"]), &[sent]);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!(
            (entry.what, entry.remote_id.as_str(), entry.message_id.as_str()),
            (What::Sent, "4ABC123", "<m@a.test>")
        );
        // Both are seen again.
        let histories = crate::split(entries);
        let what: Vec<What> = histories[0].entries.iter().map(|entry| entry.what).collect();
        assert_eq!(what, [What::Queued, What::Sent]);
        assert_eq!(histories[0].began(), Timestamp::from_seconds(5));
        assert_eq!(histories[0].message().map(|entry| entry.size), Some(77));
    }

    #[test]
    fn others_are_several() {
        for (recipients, events, expected) in [
            (vec!["a@b"], vec![], vec![What::Queued]),
            (
                vec!["a@b"],
                vec![delivery("a@b", DeliveryStatus::Deferred, "smtp", "x")],
                vec![What::Queued, What::Deferred],
            ),
            (
                vec!["a@b", "c@d"],
                vec![delivery("c@d", DeliveryStatus::Sent, "smtp", "x")],
                vec![What::Queued, What::Sent],
            ),
            (
                vec!["a@b"],
                vec![delivery("z@b", DeliveryStatus::Sent, "local", "delivered to mailbox")],
                vec![What::Queued, What::Delivered],
            ),
            (vec!["a@b"], vec![delivery("a@b", DeliveryStatus::Sent, "discard", "x")], vec![What::Discarded]),
            (vec!["a@b"], vec![delivery("a@b", DeliveryStatus::Bounced, "smtp", "x")], vec![What::Bounced]),
        ] {
            let what: Vec<What> = record(&envelope(&recipients), &events).iter().map(|entry| entry.what).collect();
            assert_eq!(what, expected);
        }
    }

    #[test]
    fn a_message_is_entered_with_all_that_is_known_of_it() {
        let mut envelope = envelope(&["a@b.test", "c@d.test"]);
        envelope.recipients[0].original = "A@b.test".into();
        envelope.recipients[1].original = "c@d.test".into();
        envelope.envid = "env".into();
        let about = |client: &str| Entry {
            sender: Some("s@a.test".into()),
            message_id: "<m@a.test>".into(),
            envelope_id: "env".into(),
            recipients: vec![("a@b.test".into(), "A@b.test".into()), ("c@d.test".into(), String::new())],
            client: client.into(),
            size: 77,
            ..Entry::new(Timestamp::from_seconds(5), What::Queued, QueueId::new(5_000_000, 1).to_string(), "")
        };
        assert_eq!(entry_of(&envelope, &envelope.recipients), about("local"));
        envelope.client.address = Some("::ffff:192.0.2.7".parse().unwrap());
        envelope.client.name = "c.test".into();
        envelope.sasl = Some(yamabiko_envelope::SaslIdentity { username: "u".into(), ..Default::default() });
        assert_eq!(entry_of(&envelope, &envelope.recipients), about("c.test[192.0.2.7] user=u"));
    }

    #[test]
    fn what_sent_means_depends_on_who_says_it() {
        for (program, action, reason, what, remote) in [
            ("smtp", None, "250 2.0.0 Ok: queued as 4ABC123", What::Sent, "4ABC123"),
            ("smtp", Some(Action::HandedOn), "250 2.0.0 Ok: queued as 4ABC123", What::Relayed, "4ABC123"),
            ("lmtp", None, "250 2.0.0 <r@b> 4ABC123 Saved", What::Delivered, ""),
            ("lmtp", None, "250 2.0.0 Ok: queued as 4ABC123", What::Delivered, "4ABC123"),
            ("local", None, "delivered to mailbox", What::Delivered, ""),
            ("local", None, "forwarded as 4ABC123", What::Expanded, ""),
            ("local", Some(Action::Expanded), "alias expanded", What::Expanded, ""),
            ("discard", None, "thrown away", What::Discarded, ""),
            ("pipe", None, "delivered via x service", What::Sent, ""),
        ] {
            let mut event = delivery("r@b", DeliveryStatus::Sent, program, reason);
            let Kind::Delivered(delivery) = &mut event.kind else { unreachable!() };
            delivery.action = action;
            let mut found = Vec::new();
            Recorder::default().take(Input::Event(&event), &mut |entry| found.push(entry));
            assert_eq!((found[0].what, found[0].remote_id.as_str()), (what, remote), "{program} {reason}");
            assert_eq!((found[0].program.as_str(), found[0].text.as_str()), (program, reason));
        }
        let text = "recipient is on the suppression list: mailbox full";
        for (program, what) in [("error", What::Suppressed), ("smtp", What::Bounced)] {
            let event = delivery("r@b", DeliveryStatus::Bounced, program, text);
            let mut found = Vec::new();
            Recorder::default().take(Input::Event(&event), &mut |entry| found.push(entry));
            assert_eq!(found[0].what, what);
        }
    }
}

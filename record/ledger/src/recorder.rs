//! From what the stages say to entries of the ledger.
//!
//! A message with one recipient that is settled at the first attempt is one entry and not two: the message waits here for
//! a moment, and what became of it takes its sender, Message-ID and client along. [`crate::split`] shows both again.

use std::collections::HashMap;
use std::sync::Arc;

use yamabiko_envelope::{
    Action, Client, ContentAction, Decision, Delivery, DeliveryStatus, Envelope, Event, Kind, NoticeKind, QueueId,
    Trace,
};

use crate::{Entry, LISTED, What, remote_id};

/// Something that is to be remembered.
// Events are nearly all of them: boxing them would cost an allocation for each delivery.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Input {
    /// A message is in the queue.
    Queued {
        /// Its envelope.
        envelope: Arc<Envelope>,
        /// It waits for an operator.
        hold: bool,
    },
    /// A stage has said something.
    Event(Event),
    /// An entry as it is.
    Entry(Box<Entry>),
}

impl Input {
    /// Whether an event is one that is remembered: the rest need not be copied.
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

    /// What it means to the ledger; `None` for what is no mail.
    pub(crate) fn told(self) -> Option<Told> {
        match self {
            Self::Entry(entry) => Some(Told::Entry(entry)),
            Self::Queued { envelope, hold } => queued(&envelope, hold),
            Self::Event(event) => of_event(event),
        }
    }
}

/// What the ledger is told, made where it happens: nothing of it is made again later.
#[derive(Debug)]
pub(crate) enum Told {
    /// An entry as it is.
    Entry(Box<Entry>),
    /// Several.
    Entries(Vec<Entry>),
    /// A message with one recipient, which waits a moment for what becomes of it.
    Message(QueueId, Box<Entry>),
    /// What became of a recipient.
    Outcome(QueueId, Box<Entry>),
    /// Something that a message which waits is needed before.
    About(QueueId, Box<Entry>),
}

impl Told {
    /// The entries that it is worth by itself, with nothing put together.
    pub(crate) fn entries(&self) -> &[Entry] {
        match self {
            Self::Entries(entries) => entries,
            Self::Entry(entry) | Self::Message(_, entry) | Self::Outcome(_, entry) | Self::About(_, entry) => {
                std::slice::from_ref(entry)
            }
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

/// Makes entries. One per writer.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Messages that wait for what becomes of them: since this round, and since the one before.
    fresh: HashMap<QueueId, Box<Entry>>,
    older: HashMap<QueueId, Box<Entry>>,
}

impl Recorder {
    /// Gives the entries that follow from an input.
    pub fn take(&mut self, input: Input, give: &mut dyn FnMut(Entry)) {
        if let Some(told) = input.told() {
            self.enter(told, &mut |entry| give(*entry));
        }
    }

    /// Gives the entries that follow from what is told.
    pub(crate) fn enter(&mut self, told: Told, give: &mut dyn FnMut(Box<Entry>)) {
        match told {
            Told::Entry(entry) => give(entry),
            Told::Entries(entries) => entries.into_iter().map(Box::new).for_each(give),
            Told::Message(id, entry) => {
                self.fresh.insert(id, entry);
            }
            Told::Outcome(id, mut entry) => {
                match self.fresh.remove(&id).or_else(|| self.older.remove(&id)) {
                    Some(message) if is_whole(&message, &entry) => join(*message, &mut entry),
                    Some(message) => give(message),
                    None => {}
                }
                give(entry);
            }
            Told::About(id, entry) => {
                if let Some(message) = self.fresh.remove(&id).or_else(|| self.older.remove(&id)) {
                    give(message);
                }
                give(entry);
            }
        }
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

fn queued(envelope: &Envelope, hold: bool) -> Option<Told> {
    // Questions about addresses are no mail.
    if matches!(envelope.trace, Trace::Probe | Trace::ProbeReport) {
        return None;
    }
    let mut lists = envelope.recipients.chunks(LISTED);
    let first = entry_of(envelope, lists.next().unwrap_or_default());
    if envelope.recipients.len() == 1 && !hold {
        return Some(Told::Message(envelope.queue_id, Box::new(first)));
    }
    let mut entries = vec![first];
    entries.extend(lists.map(|list| entry_of(envelope, list)));
    if hold {
        entries.push(Entry::new(envelope.arrival, What::Held, envelope.queue_id.to_string(), ""));
    }
    Some(Told::Entries(entries))
}

fn of_event(event: Event) -> Option<Told> {
    let at = event.at;
    match event.kind {
        Kind::Delivered(delivery) => {
            let id = delivery.queue_id;
            let mut entry = delivered(*delivery);
            entry.at = at;
            entry.program = event.origin.program.into_owned();
            if entry.program == "error" && entry.what == What::Bounced && entry.text.starts_with(SUPPRESSED) {
                entry.what = What::Suppressed;
            }
            if let Some(what) = in_mailbox(&entry) {
                entry.what = what;
            }
            Some(Told::Outcome(id, Box::new(entry)))
        }
        Kind::Expired { queue_id, sender, forced } => {
            let by = if forced { "operator" } else { "" };
            let about = Entry::new(at, What::Expired, queue_id.to_string(), "");
            let entry = Entry { sender: Some(sender), by: by.to_owned(), program: "qmgr".to_owned(), ..about };
            Some(Told::About(queue_id, Box::new(entry)))
        }
        Kind::Noticed { queue_id, kind, notice } => {
            let about = Entry::new(at, What::Noticed, queue_id.to_string(), "");
            let entry = Entry { related: notice.to_string(), by: notice_word(kind).to_owned(), ..about };
            Some(Told::About(queue_id, Box::new(entry)))
        }
        Kind::Decided(decision) => Some(Told::Entry(Box::new(of_decision(at, *decision)?))),
        Kind::ContentChecked(action) => Some(Told::Entry(Box::new(of_check(at, *action)?))),
        _ => None,
    }
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
pub fn entry_of(envelope: &Envelope, recipients: &[yamabiko_envelope::Recipient]) -> Entry {
    let mut client = match envelope.client.address {
        Some(address) => format!("{}[{}]", envelope.client.name, address.to_canonical()),
        None => "local".to_owned(),
    };
    if let Some(sasl) = &envelope.sasl
        && !sasl.username.is_empty()
    {
        client.push_str(" user=");
        client.push_str(&sasl.username);
    }
    let pair = |known: &yamabiko_envelope::Recipient| {
        let original = if known.original == known.address { String::new() } else { known.original.clone() };
        (known.address.clone(), original)
    };
    Entry {
        sender: Some(envelope.sender.clone()),
        message_id: envelope.message_id.clone(),
        envelope_id: envelope.envid.clone(),
        recipients: recipients.iter().map(pair).collect(),
        client,
        size: envelope.size,
        ..Entry::new(envelope.arrival, What::Queued, envelope.queue_id.to_string(), "")
    }
}

fn delivered(delivery: Delivery) -> Entry {
    let what = match delivery.status {
        DeliveryStatus::Sent => match delivery.action {
            Some(Action::HandedOn) => What::Relayed,
            Some(Action::Expanded) => What::Expanded,
            _ => What::Sent,
        },
        DeliveryStatus::Deferred | DeliveryStatus::SoftBounce => What::Deferred,
        DeliveryStatus::Bounced => What::Bounced,
        DeliveryStatus::Deliverable | DeliveryStatus::Undeliverable => What::Note,
    };
    let remote_id = match what {
        What::Sent | What::Relayed => remote_id(&delivery.reason).to_owned(),
        _ => String::new(),
    };
    Entry {
        original: delivery.original,
        sender: Some(delivery.sender),
        relay: if delivery.relay == "none" { String::new() } else { delivery.relay },
        stage: delivery.stage,
        status: Some(delivery.dsn),
        reply: delivery.reply,
        text: delivery.reason,
        remote_id,
        tls: delivery.tls.as_deref().unwrap_or_default().to_owned(),
        delay: Some(delivery.delays.total()),
        ..Entry::new(yamabiko_envelope::Timestamp::default(), what, delivery.queue_id.to_string(), delivery.recipient)
    }
}

/// What programs that do not speak SMTP mean by `sent`: the text of a log line tells as much as the event.
pub fn in_mailbox(entry: &Entry) -> Option<What> {
    if entry.what != What::Sent {
        return None;
    }
    match entry.program.as_str() {
        "local" | "virtual" if entry.text.starts_with("forwarded as ") => Some(What::Expanded),
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

fn of_decision(at: yamabiko_envelope::Timestamp, decision: Decision) -> Option<Entry> {
    let what = decided(decision.word)?;
    let queue_id = decision.queue_id.map(|id| id.to_string()).unwrap_or_default();
    // A refused connection or greeting is nobody's mail.
    let recipient = decision.recipient.unwrap_or_default();
    if recipient.is_empty() && queue_id.is_empty() {
        return None;
    }
    // Recipients that are refused belong to no message: the rest of it may be accepted.
    let queue_id = if what == What::Rejected && !recipient.is_empty() { String::new() } else { queue_id };
    let (reply, status) = reply_of(&decision.text);
    let step = decision.steps.iter().rev().find(|step| step.verdict == "reject");
    Some(Entry {
        sender: decision.sender,
        client: client_text(&decision.client),
        stage: stage_of(&decision.stage),
        program: "smtpd".to_owned(),
        by: step.map_or_else(|| decision.word.to_owned(), |step| format!("{} ({})", step.element, step.place)),
        reply,
        status,
        text: decision.text,
        ..Entry::new(at, what, queue_id, recipient)
    })
}

fn of_check(at: yamabiko_envelope::Timestamp, action: ContentAction) -> Option<Entry> {
    let what = decided(action.word)?;
    Some(Entry {
        sender: Some(action.sender),
        client: action.client.as_ref().map(client_text).unwrap_or_default(),
        program: "cleanup".to_owned(),
        by: format!("{} {}: {}", action.word, action.class, action.content),
        text: action.text,
        ..Entry::new(at, what, action.queue_id.to_string(), action.recipient.unwrap_or_default())
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
    use yamabiko_envelope::{Delays, Origin, Recipient, Timestamp};
    use yamabiko_status::EnhancedStatus;

    fn envelope(recipients: &[&str]) -> Arc<Envelope> {
        let id = QueueId::new(5_000_000, 1);
        let mut envelope = Envelope::new(id, Timestamp::from_seconds(5), "s@a.test");
        envelope.message_id = "<m@a.test>".into();
        envelope.size = 77;
        envelope.recipients =
            recipients.iter().map(|address| Recipient { address: (*address).into(), ..Recipient::default() }).collect();
        Arc::new(envelope)
    }

    fn delivery(recipient: &str, status: DeliveryStatus, program: &'static str, reason: &str) -> Input {
        Input::Event(Event {
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
                delays: Delays::default(),
                dsn: EnhancedStatus::success(0, 0),
                status,
                reason: reason.into(),
                stage: None,
                reply: None,
                remote_mta: None,
                action: None,
            })),
        })
    }

    fn record(inputs: Vec<Input>) -> Vec<Entry> {
        let (mut recorder, mut out) = (Recorder::default(), Vec::new());
        for input in inputs {
            recorder.take(input, &mut |entry| out.push(entry));
        }
        recorder.end_round(&mut |entry| out.push(entry));
        recorder.end_round(&mut |entry| out.push(entry));
        assert!(!recorder.is_waiting());
        out
    }

    #[test]
    fn a_message_settled_at_once_is_one_entry() {
        let sent = delivery("r@b.test", DeliveryStatus::Sent, "smtp", "250 2.0.0 Ok: queued as 4ABC123");
        let entries = record(vec![Input::Queued { envelope: envelope(&["r@b.test"]), hold: false }, sent]);
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
        for (recipients, inputs, expected) in [
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
            let mut all = vec![Input::Queued { envelope: envelope(&recipients), hold: false }];
            all.extend(inputs);
            let what: Vec<What> = record(all).iter().map(|entry| entry.what).collect();
            assert_eq!(what, expected);
        }
    }
}

//! Which message a report is about.

use std::collections::HashMap;
use std::time::Duration;

use yamabiko_analyze::Finding;
use yamabiko_envelope::Timestamp;

use super::names::{header, queue_ids, remote_ids};
use super::{Incoming, Token};
use crate::day::Narrowing;
use crate::query::Named;
use crate::{Entry, Error, FAR, Field, History, Ledger, Origin, Query, State, Trusted, What, split};

/// How far back a message without any name is looked for.
const WINDOW: Duration = Duration::from_secs(5 * 86_400);
/// How far back a message with a name is looked for.
const LONG: Duration = Duration::from_secs(60 * 86_400);
/// Messages of one name, and histories of one recipient, that are looked at.
const CANDIDATES: usize = 50;
/// What a report is worth, at most, that anybody could have written: more than a guess, and nothing to act on.
const ANYBODY: u8 = 60;

/// Where a report belongs.
pub(super) struct Found {
    pub host: String,
    pub queue_id: String,
    pub recipient: String,
    pub original: String,
    /// Whose message it was, where that is known.
    pub sender: Option<String>,
    pub confidence: u8,
    pub by: String,
    /// It is known to have failed here, or to have gone further.
    pub settled: bool,
}

impl Found {
    fn new(history: &History, finding: &Finding, confidence: u8, by: &str) -> Self {
        // A log whose lines are not all there knows a message and not to whom it went.
        let recipient = if history.recipient.is_empty() { &finding.recipient } else { &history.recipient };
        Self {
            host: history.host.clone(),
            queue_id: history.queue_id.clone(),
            recipient: recipient.clone(),
            original: history.original.clone(),
            sender: history.sender().map(str::to_owned),
            confidence,
            by: by.to_owned(),
            settled: history.entries.iter().any(|entry| {
                matches!(
                    entry.what,
                    What::Sent | What::Relayed | What::Delivered | What::Expanded | What::Bounced | What::Expired
                )
            }),
        }
    }

    /// Joined by a name that more than one knows.
    fn by_name(history: &History, finding: &Finding, confidence: u8, by: &str, from: Whence<'_>) -> Self {
        let mut found = Self::new(history, finding, confidence, by);
        if from.is_far(history) {
            found.confidence = found.confidence.min(ANYBODY);
            found.by.push_str(", ");
            found.by.push_str(FAR);
        }
        found
    }
}

/// Where a report came from, and who is believed.
#[derive(Clone, Copy)]
struct Whence<'a> {
    origin: Option<&'a Origin>,
    trusted: &'a Trusted,
}

impl Whence<'_> {
    /// A file that does not say where its mail is from was put there by somebody who knows.
    fn is_far(self, history: &History) -> bool {
        self.origin.is_some_and(|origin| !origin.is_near(history, self.trusted))
    }
}

/// A name by which a message is looked for, and what it is worth.
#[derive(Clone)]
struct Rung {
    field: Field,
    name: String,
    confidence: u8,
    by: &'static str,
}

/// What is told of a message as a whole.
#[derive(Default)]
struct Whole {
    /// Without the recipients that they name: these are many.
    entries: Vec<Entry>,
    /// How many they name; 0 where a log does not tell.
    recipients: usize,
}

/// What is asked of the ledger for one report. A message may have many recipients, a report name many of them, and a recipient
/// have got many messages: what is read is what names both, and what tells of a message as a whole is read once.
pub(super) struct Ladder<'a> {
    ledger: &'a mut Ledger,
    token: Option<&'a Token>,
    from: Whence<'a>,
    at: Timestamp,
    since: Timestamp,
    /// Names of the report itself.
    own: Vec<String>,
    /// Names that may be of the message, ours and those of other hosts.
    queue_ids: Vec<String>,
    remote_ids: Vec<String>,
    messages: HashMap<(Field, String), Vec<Named>>,
    whole: HashMap<Named, Whole>,
    /// The only recipient of what has a name; `None` where there are others, or nobody.
    only: HashMap<(Field, String), Option<History>>,
}

impl<'a> Ladder<'a> {
    pub(super) fn new(
        ledger: &'a mut Ledger,
        incoming: &'a Incoming<'a>,
        token: Option<&'a Token>,
        origin: Option<&'a Origin>,
    ) -> Self {
        // In a mailbox the report has the name of its own delivery on top, and an imported log has that delivery; in the engine
        // the report stands in the ledger too.
        let mut own = queue_ids(header(incoming.message));
        own.push(incoming.queue_id.to_owned());
        Self {
            ledger,
            token,
            from: Whence { origin, trusted: incoming.trusted },
            at: incoming.at,
            since: before(incoming.at, LONG),
            own,
            queue_ids: queue_ids(incoming.message),
            remote_ids: remote_ids(incoming.message),
            messages: HashMap::new(),
            whole: HashMap::new(),
            only: HashMap::new(),
        }
    }

    pub(super) fn climb(&mut self, finding: &Finding) -> Result<Option<Found>, Error> {
        if let Some(token) = self.token
            && let Some(found) = self.by_token(token, finding)?
        {
            return Ok(Some(found));
        }
        let rungs = self.rungs(finding);
        for rung in &rungs {
            for message in self.named(rung)? {
                let found = self.of_one(&message, finding)?;
                let found =
                    found.iter().find(|history| rung.field != Field::RemoteId || has_remote(history, &rung.name));
                if let Some(history) = found {
                    return Ok(Some(Found::by_name(history, finding, rung.confidence, rung.by, self.from)));
                }
            }
        }
        // A forwarded address fails under another name: one recipient can be no other. Only after every name was tried: a
        // report has the names of messages in it that carried it here.
        let from = self.from;
        for rung in &rungs {
            if let Some(history) = self.only(rung)? {
                return Ok(Some(Found::by_name(history, finding, rung.confidence, rung.by, from)));
            }
        }
        self.guess(finding)
    }

    fn by_token(&mut self, token: &Token, finding: &Finding) -> Result<Option<Found>, Error> {
        let fits = |history: &History| match &token.fits {
            Some(fits) => fits(&history.recipient) || fits(&history.original),
            None => true,
        };
        let rung = Rung { field: Field::QueueId, name: token.queue_id.clone(), confidence: 100, by: "signed token" };
        for message in self.named(&rung)? {
            if let Some(history) = self.of_one(&message, finding)?.into_iter().find(fits) {
                return Ok(Some(self.by_this_token(token, &message, &history, finding)?));
            }
            // A forwarded address fails under another name, and the token says which it was.
            let histories: Vec<History> = split(self.ledger.all_of(&message)?).into_iter().filter(fits).collect();
            if let Some(history) = only(&histories) {
                return Ok(Some(self.by_this_token(token, &message, history, finding)?));
            }
        }
        Ok(None)
    }

    /// A token about all recipients of a message is known to all of them.
    fn by_this_token(
        &mut self,
        token: &Token,
        message: &Named,
        history: &History,
        finding: &Finding,
    ) -> Result<Found, Error> {
        let is_secret = token.fits.is_some() || self.whole(message)?.recipients <= 1;
        Ok(match is_secret {
            true => Found::new(history, finding, 100, "signed token"),
            false => Found::by_name(history, finding, 100, "signed token", self.from),
        })
    }

    /// What is looked up, the surest first, with what it is worth.
    fn rungs(&self, finding: &Finding) -> Vec<Rung> {
        let one = |field, name: &String, confidence, by| Rung { field, name: name.clone(), confidence, by };
        let mut rungs = Vec::new();
        if !finding.envelope_id.is_empty() {
            rungs.push(one(Field::EnvelopeId, &finding.envelope_id, 98, "Original-Envelope-Id"));
        }
        // Another machine may have used a short ID too: the recipient must be one of the message's.
        rungs.extend(self.queue_ids.iter().map(|id| one(Field::QueueId, id, 95, "queue ID in the report")));
        if !finding.message_id.is_empty() {
            rungs.push(one(Field::MessageId, &finding.message_id, 92, "Message-ID and recipient"));
        }
        rungs.extend(self.remote_ids.iter().map(|id| one(Field::RemoteId, id, 85, "queue ID at the next hop")));
        rungs
    }

    /// The messages of a name, the newest first, but for the report: it stands in the ledger too, and our own `Received:` line on
    /// top of it names it.
    fn named(&mut self, rung: &Rung) -> Result<Vec<Named>, Error> {
        let key = (rung.field, rung.name.clone());
        if let Some(known) = self.messages.get(&key) {
            return Ok(known.clone());
        }
        let query = Query { since: Some(self.since), ..Query::new(rung.field, rung.name.clone()) };
        // A message with many recipients has many entries under its own name, and few that are about all of it.
        let mut messages = match rung.field {
            Field::QueueId => self.ledger.messages(&query, Narrowing::Whole, |_| ())?,
            _ => Vec::new(),
        };
        if messages.is_empty() {
            messages = self.ledger.messages(&query, Narrowing::No, |_| ())?;
        }
        messages.retain(|message| !self.own.contains(&message.queue_id));
        messages.truncate(CANDIDATES);
        self.messages.insert(key, messages.clone());
        Ok(messages)
    }

    /// What became of one message for those whom a finding names.
    fn of_one(&mut self, message: &Named, finding: &Finding) -> Result<Vec<History>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for name in [&finding.recipient, &finding.alias].into_iter().filter(|name| !name.is_empty()) {
            for mut entry in self.ledger.of_one(message, name)? {
                let is_one = |address: &str| is_named(address, finding);
                entry.recipients.retain(|(address, original)| is_one(address) || is_one(original));
                if !entries.contains(&entry) {
                    entries.push(entry);
                }
            }
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        for entry in &self.whole(message)?.entries {
            if !entries.iter().any(|known| known.what == entry.what && known.recipient.is_empty()) {
                entries.push(entry.clone());
            }
        }
        entries.sort_by_key(|entry| entry.at);
        let mut histories = split(entries);
        histories.retain(|history| is_named(&history.recipient, finding) || is_named(&history.original, finding));
        Ok(histories)
    }

    fn whole(&mut self, message: &Named) -> Result<&Whole, Error> {
        if !self.whole.contains_key(message) {
            let mut entries = self.ledger.whole(message)?;
            let recipients = entries.iter_mut().map(|entry| std::mem::take(&mut entry.recipients).len()).sum();
            self.whole.insert(message.clone(), Whole { entries, recipients });
        }
        // It was put there just now.
        Ok(self.whole.entry(message.clone()).or_default())
    }

    fn only(&mut self, rung: &Rung) -> Result<Option<&History>, Error> {
        let key = (rung.field, rung.name.clone());
        if !self.only.contains_key(&key) {
            let mut found = None;
            if let [message] = self.named(rung)?.as_slice()
                && self.whole(message)?.recipients <= 1
            {
                let histories = split(self.ledger.all_of(message)?);
                found = only(&histories).cloned();
            }
            self.only.insert(key.clone(), found);
        }
        Ok(self.only.get(&key).and_then(Option::as_ref))
    }

    /// One message to this recipient was sent in the last days, and no other: it may be that.
    fn guess(&mut self, finding: &Finding) -> Result<Option<Found>, Error> {
        if finding.recipient.is_empty() {
            return Ok(None);
        }
        let since = before(self.at, WINDOW);
        let query = Query { since: Some(since), limit: CANDIDATES, ..Query::new(Field::Recipient, &finding.recipient) };
        let mut open = self.ledger.histories(&query)?;
        open.retain(|history| {
            history.began() <= self.at
                && matches!(history.verdict(self.at, Duration::MAX).state, State::Sent | State::Relayed)
                && (finding.addresser.is_empty()
                    || history.sender().is_none_or(|sender| sender.eq_ignore_ascii_case(&finding.addresser)))
        });
        Ok(match open.as_slice() {
            // Whoever knows an address could say that of it.
            [only] if !self.from.is_far(only) => Some(Found::new(only, finding, 40, "recipient and time: a guess")),
            _ => None,
        })
    }
}

fn before(at: Timestamp, time: Duration) -> Timestamp {
    Timestamp(at.0.saturating_sub(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

/// The finding speaks of this address.
fn is_named(address: &str, finding: &Finding) -> bool {
    !address.is_empty()
        && [&finding.recipient, &finding.alias].into_iter().any(|name| name.eq_ignore_ascii_case(address))
}

fn has_remote(history: &History, name: &str) -> bool {
    history.entries.iter().any(|entry| entry.remote_id == name)
}

/// The only one there is. Nobody reports to the null sender.
fn only(histories: &[History]) -> Option<&History> {
    match histories {
        [only] if only.sender() != Some("") => Some(only),
        _ => None,
    }
}

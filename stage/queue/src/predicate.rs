//! Which messages are meant: what `yamabiko queue hold`, `delete`, ... are told.
//!
//! Words are `key=value`. Values of the same key are alternatives, different keys must all hold. What says something of
//! a recipient is about one and the same recipient, of those that are left. Text is compared without case.
//!
//! | word | means |
//! | --- | --- |
//! | `all` | every message |
//! | `id=4Zb1Wx3Q2hz1` | this message |
//! | `queue=deferred` | in this queue: incoming, active, deferred, hold |
//! | `sender=a@example.com`, `sender=<>` | envelope sender; null reverse-path |
//! | `sender-domain=example.com`, `.example.com` | domain of it; any domain below it |
//! | `recipient=`, `recipient-domain=` | a recipient, in the same way |
//! | `older=2d`, `newer=90m` | arrived longer ago; not so long ago (s, m, h, d, w) |
//! | `reason=timed out` | a recipient's last reason contains this |
//! | `status=4.4.1`, `4.4`, `4` | its status is or begins with this |
//! | `larger=1M`, `smaller=10K` | bytes of content (K, M, G) |
//!
//! What the index in memory knows is not read from the disk: queue, age, attempts, and of each message a hash of the
//! sender's domain and of the recipients' domain when they have one, so that a bulk hold of one destination among a
//! million messages reads those that go there and hardly any other.

use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_status::EnhancedStatus;

use crate::found::{Found, Seen};
use crate::messages::{Entry, Hints};
use crate::outline::{Outline, OutlineRecipient, OutlineState};
use crate::{Inspection, Meta, Queue, QueueError, State};

/// Messages looked at in one turn under the lock.
const PAGE: usize = 1000;
/// So many are read together, or are known without: what is in memory besides the list of those that were found.
const WINDOW: usize = 8192;
/// So few are read one by one.
const FEW: usize = 64;

/// Which messages are meant. Nothing is set: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Predicate {
    /// Names.
    pub ids: Vec<QueueId>,
    /// Queues.
    pub states: Vec<State>,
    /// Envelope senders, internal form.
    pub senders: Vec<String>,
    /// Domains of senders; with a dot in front, all below.
    pub sender_domains: Vec<String>,
    /// Recipients, internal form.
    pub recipients: Vec<String>,
    /// Domains of recipients; with a dot in front, all below.
    pub recipient_domains: Vec<String>,
    /// Arrived at least so long ago.
    pub older: Option<Duration>,
    /// Arrived less long ago.
    pub newer: Option<Duration>,
    /// Parts of reasons.
    pub reasons: Vec<String>,
    /// Beginnings of status codes.
    pub statuses: Vec<String>,
    /// Content has more bytes.
    pub larger: Option<u64>,
    /// Content has fewer bytes.
    pub smaller: Option<u64>,
}

/// What the index alone can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Yes,
    /// Read the envelope.
    Ask,
}

impl Known {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Known::No, _) | (_, Known::No) => Known::No,
            (Known::Yes, Known::Yes) => Known::Yes,
            _ => Known::Ask,
        }
    }
    fn from(yes: bool) -> Self {
        if yes { Known::Yes } else { Known::No }
    }
}

impl Predicate {
    /// Reads words; the error says which one is wrong and what would be right.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self, String> {
        let mut predicate = Predicate::default();
        for word in words.iter().map(AsRef::as_ref) {
            if word == "all" {
                continue;
            }
            let Some((key, value)) = word.split_once('=') else {
                return Err(format!("{word}: key=value is due, such as queue=deferred, or `all`"));
            };
            let wrong = |what: &str| Err(format!("{word}: {what}"));
            if value.is_empty() {
                return wrong("a value is due");
            }
            let lower = value.to_lowercase();
            match key {
                "id" => match value.parse() {
                    Ok(id) => predicate.ids.push(id),
                    Err(_) => return wrong("a queue ID is due"),
                },
                "queue" => match lower.as_str() {
                    "incoming" => predicate.states.push(State::Incoming),
                    "active" => predicate.states.push(State::Active),
                    "deferred" => predicate.states.push(State::Deferred),
                    "hold" => predicate.states.push(State::Hold),
                    _ => return wrong("a queue is incoming, active, deferred or hold"),
                },
                "sender" => predicate.senders.push(address(&lower)),
                "sender-domain" => predicate.sender_domains.push(lower),
                "recipient" => predicate.recipients.push(address(&lower)),
                "recipient-domain" => predicate.recipient_domains.push(lower),
                "reason" => predicate.reasons.push(lower),
                "status" => match lower.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                    true => predicate.statuses.push(lower),
                    false => return wrong("a status is 4.4.1, or its beginning: 4.4 or 4"),
                },
                "older" | "newer" => {
                    let Some(time) = duration(&lower) else { return wrong("a time is 90s, 15m, 2h, 5d or 1w") };
                    let place = if key == "older" { &mut predicate.older } else { &mut predicate.newer };
                    if place.replace(time).is_some() {
                        return wrong("this was said already");
                    }
                }
                "larger" | "smaller" => {
                    let Some(size) = size(&lower) else { return wrong("a size is 500, 10K, 2M or 1G") };
                    let place = if key == "larger" { &mut predicate.larger } else { &mut predicate.smaller };
                    if place.replace(size).is_some() {
                        return wrong("this was said already");
                    }
                }
                _ => {
                    return wrong(
                        "keys are id, queue, sender, sender-domain, recipient, recipient-domain, older, newer, reason, \
                         status, larger, smaller",
                    );
                }
            }
        }
        Ok(predicate)
    }

    /// What the index says.
    fn known(&self, id: QueueId, entry: &Entry, now: Timestamp) -> Known {
        let meta = entry.meta(id);
        let mut known = Known::from(self.stands(&meta));
        if known == Known::No {
            return known;
        }
        // The name tells when it came, but for one that was requeued under a new name.
        let age = now.since(Timestamp(id.micros()));
        let by_name = |yes: bool| if meta.flags.renamed() { Known::Ask } else { Known::from(yes) };
        if let Some(older) = self.older {
            known = known.and(if age >= older { Known::Yes } else { by_name(false) });
        }
        if let Some(newer) = self.newer {
            known = known.and(if age >= newer { Known::No } else { by_name(true) });
        }
        let room = (!meta.flags.large()).then(|| u64::from(entry.record_len()));
        if let Some(larger) = self.larger {
            known = known.and(if room.is_some_and(|room| room <= larger) { Known::No } else { Known::Ask });
        }
        if let Some(smaller) = self.smaller {
            known = known.and(if room.is_some_and(|room| room <= smaller) { Known::Yes } else { Known::Ask });
        }
        let Hints { sender, recipients } = entry.hints();
        let some = |wanted: &[String], hint: u16, of: fn(&str) -> &str| {
            if wanted.is_empty() {
                return Known::Yes;
            }
            let may = hint == 0 || wanted.iter().any(|w| w.starts_with('.') || Hints::of(of(w)) == hint);
            if may { Known::Ask } else { Known::No }
        };
        known = known.and(some(&self.sender_domains, sender, whole)).and(some(&self.senders, sender, domain_of));
        known = known.and(some(&self.recipient_domains, recipients, whole));
        known = known.and(some(&self.recipients, recipients, domain_of));
        if self.reasons.is_empty() && self.statuses.is_empty() { known } else { known.and(Known::Ask) }
    }

    /// What the envelope says.
    fn holds(&self, outline: &Outline<'_>, now: Timestamp) -> bool {
        let age = now.since(outline.arrival);
        if self.older.is_some_and(|older| age < older) || self.newer.is_some_and(|newer| age >= newer) {
            return false;
        }
        if self.larger.is_some_and(|n| outline.size <= n) || self.smaller.is_some_and(|n| outline.size >= n) {
            return false;
        }
        if !matches_address(&self.senders, &self.sender_domains, outline.sender) {
            return false;
        }
        let left = outline.recipients.iter().filter(|r| r.state != OutlineState::Done);
        !self.asks_recipients() || left.into_iter().any(|recipient| self.recipient(recipient))
    }

    fn asks_recipients(&self) -> bool {
        [&self.recipients, &self.recipient_domains, &self.reasons, &self.statuses].iter().any(|list| !list.is_empty())
    }

    fn recipient(&self, recipient: &OutlineRecipient<'_>) -> bool {
        let reason = match recipient.state {
            OutlineState::Deferred(reason) | OutlineState::Failed(reason) => reason,
            OutlineState::Pending | OutlineState::Done => "",
        };
        matches_address(&self.recipients, &self.recipient_domains, recipient.address)
            && self.reason(reason)
            && self.status(recipient.status)
    }

    fn reason(&self, reason: &str) -> bool {
        self.reasons.is_empty() || {
            let reason = reason.to_lowercase();
            self.reasons.iter().any(|part| reason.contains(part))
        }
    }

    fn status(&self, status: Option<EnhancedStatus>) -> bool {
        self.statuses.is_empty()
            || status.is_some_and(|status| {
                let status = status.to_string();
                let begins = |start: &String| {
                    status.strip_prefix(start.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                };
                self.statuses.iter().any(begins)
            })
    }

    fn select(&self, store: &impl Look, now: Timestamp) -> Found {
        let prints = self.asks_recipients();
        let mut found = Found::new(prints);
        let (mut sure, mut asked, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            after = store.look(after, PAGE, &mut |id, entry, print| {
                let seen = || Seen { queue_id: id, print: if prints { print() } else { 0 } };
                match self.known(id, entry, now) {
                    Known::Yes => sure.push(seen()),
                    Known::Ask => asked.push(seen()),
                    Known::No => {}
                }
            });
            if after.is_none() || sure.len() + asked.len() >= WINDOW {
                if !asked.is_empty() {
                    self.ask(store, &asked, now, &mut sure);
                    sure.sort_unstable_by_key(|seen| seen.queue_id);
                }
                asked.clear();
                sure.drain(..).for_each(|seen| found.push(seen));
            }
            if after.is_none() {
                return found.finish();
            }
        }
    }

    /// Reads messages, and adds those that are meant.
    fn ask(&self, store: &impl Look, asked: &[Seen], now: Timestamp, found: &mut Vec<Seen>) {
        if asked.len() <= FEW {
            found.extend(asked.iter().filter(|seen| self.says(store, seen.queue_id, now).is_some()));
            return;
        }
        // In the order in which the outlines come.
        let mut after =
            asked.first().and_then(|first| first.queue_id.micros().checked_sub(1)).map(|at| QueueId::new(at, 0));
        let end = asked.last().map(|last| last.queue_id);
        let (mut rest, mut next) = (asked, asked);
        let mut wanted = |meta: &Meta| {
            let passed = rest.partition_point(|seen| seen.queue_id < meta.queue_id);
            // Not beyond the end.
            rest = &rest[passed..];
            rest.first().is_some_and(|seen| seen.queue_id == meta.queue_id)
        };
        while let Some(last) = store.outlines(after, &mut wanted, &mut |outline| {
            if self.holds(outline, now) {
                // Wanted, so it is one of them.
                let passed = next.partition_point(|seen| seen.queue_id < outline.meta.queue_id);
                next = &next[passed..];
                found.extend(next.first());
            }
        }) {
            after = Some(last);
            if Some(last) >= end {
                break;
            }
        }
    }

    /// A message that is meant as its envelope is now; none when it cannot be read.
    fn says(&self, store: &impl Look, id: QueueId, now: Timestamp) -> Option<Meta> {
        let (envelope, meta) = store.single(id).ok()?;
        let mut holds = false;
        crate::outline::show_envelope(meta, &envelope, &mut |outline| holds = self.holds(outline, now));
        (holds && self.stands(&meta)).then_some(meta)
    }

    /// What may change of a message and is known without reading it.
    fn stands(&self, meta: &Meta) -> bool {
        (self.ids.is_empty() || self.ids.contains(&meta.queue_id))
            && (self.states.is_empty() || self.states.contains(&meta.state()))
    }
}

/// Is shown a message, what is known of it, and how to tell its print.
type EachEntry<'a> = dyn FnMut(QueueId, &Entry, &dyn Fn() -> u32) + 'a;

/// Where messages are looked at: a running queue, or one that was read.
trait Look {
    /// Shows the next entries; the last ID, none at the end.
    fn look(&self, after: Option<QueueId>, count: usize, each: &mut EachEntry<'_>) -> Option<QueueId>;
    fn outlines(
        &self,
        after: Option<QueueId>,
        wanted: &mut dyn FnMut(&Meta) -> bool,
        each: &mut dyn FnMut(&Outline<'_>),
    ) -> Option<QueueId>;
    fn single(&self, id: QueueId) -> Result<(std::sync::Arc<yamabiko_envelope::Envelope>, Meta), QueueError>;
}

impl Look for Queue {
    fn look(&self, after: Option<QueueId>, count: usize, each: &mut EachEntry<'_>) -> Option<QueueId> {
        self.with_state(|state| {
            let mut show = |id, entry: &Entry| each(id, entry, &|| state.print(id, entry));
            state.index.messages.visit(after, count, &mut show)
        })
    }
    fn outlines(
        &self,
        after: Option<QueueId>,
        wanted: &mut dyn FnMut(&Meta) -> bool,
        each: &mut dyn FnMut(&Outline<'_>),
    ) -> Option<QueueId> {
        self.outline(after, wanted, each)
    }
    fn single(&self, id: QueueId) -> Result<(std::sync::Arc<yamabiko_envelope::Envelope>, Meta), QueueError> {
        self.envelope(id)
    }
}

impl Look for Inspection {
    fn look(&self, after: Option<QueueId>, count: usize, each: &mut EachEntry<'_>) -> Option<QueueId> {
        let messages = &self.index().messages;
        messages.visit(after, count, &mut |id, entry| each(id, entry, &|| messages.print(id, entry, 0)))
    }
    fn outlines(
        &self,
        after: Option<QueueId>,
        wanted: &mut dyn FnMut(&Meta) -> bool,
        each: &mut dyn FnMut(&Outline<'_>),
    ) -> Option<QueueId> {
        self.outline(after, wanted, each)
    }
    fn single(&self, id: QueueId) -> Result<(std::sync::Arc<yamabiko_envelope::Envelope>, Meta), QueueError> {
        self.envelope(id)
    }
}

impl Queue {
    /// The messages that a predicate means, oldest first. Reads envelopes where the index does not know: not for the
    /// threads of an async runtime. What comes and goes meanwhile may or may not be among them.
    pub fn select(&self, predicate: &Predicate, now: Timestamp) -> Found {
        predicate.select(self, now)
    }

    /// Of messages that were found at `then`, by this queue or by an [`Inspection`] of its files, those that are still
    /// meant, as they are now. Only what was recorded of its recipients since is read again. They should be few at a time:
    /// the lock is held for all of them.
    pub fn still(&self, predicate: &Predicate, then: Timestamp, found: &[Seen]) -> Vec<Meta> {
        let mut changed = Vec::new();
        let asks = predicate.asks_recipients();
        let mut metas: Vec<Meta> = self.with_state(|state| {
            let as_it_was = |seen: &Seen| {
                let entry = state.index.messages.get(seen.queue_id)?;
                if asks && state.print(seen.queue_id, entry) != seen.print {
                    changed.push(seen.queue_id);
                    return None;
                }
                Some(entry.meta(seen.queue_id)).filter(|meta| predicate.stands(meta))
            };
            found.iter().filter_map(as_it_was).collect()
        });
        if !changed.is_empty() {
            metas.extend(changed.into_iter().filter_map(|id| predicate.says(self, id, then)));
            metas.sort_unstable_by_key(|meta| meta.queue_id);
        }
        metas
    }
}

impl Inspection {
    /// The messages that a predicate means, oldest first.
    pub fn select(&self, predicate: &Predicate, now: Timestamp) -> Found {
        predicate.select(self, now)
    }
}

fn whole(text: &str) -> &str {
    text
}

/// The domain of an address in internal form; empty when it has none.
pub(crate) fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// `<a@b>` and `a@b` mean the same.
fn address(word: &str) -> String {
    word.strip_prefix('<').and_then(|word| word.strip_suffix('>')).unwrap_or(word).to_owned()
}

fn matches_address(addresses: &[String], domains: &[String], address: &str) -> bool {
    if addresses.is_empty() && domains.is_empty() {
        return true;
    }
    let address = address.to_lowercase();
    let domain = domain_of(&address);
    let within = |wanted: &String| match wanted.strip_prefix('.') {
        Some(_) => domain.ends_with(wanted.as_str()),
        None => domain == wanted,
    };
    (addresses.is_empty() || addresses.contains(&address)) && (domains.is_empty() || domains.iter().any(within))
}

fn number(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let unit = units.iter().find(|(unit, _)| text.ends_with(*unit));
    let (digits, factor) = unit.map_or((text, 1), |(unit, factor)| (text.trim_end_matches(*unit), *factor));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn duration(text: &str) -> Option<Duration> {
    number(text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)]).map(Duration::from_secs)
}

fn size(text: &str) -> Option<u64> {
    number(text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)])
}

//! The ledger in the running engine: what is said about mail goes there too, and nobody waits for it.
//!
//! [`Remembering`] stands in front of the log and gives the ledger its copy. Who accepts, delivers and operates adds what no
//! log line tells. After a crash, and after a time in which the disk was too slow, [`rebuild`] writes what is missing from
//! the queue. A ledger that cannot be opened is said and done without: mail goes on.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use yamabiko_config::{Config, View};
use yamabiko_envelope::{Envelope, Event, EventSink, Events, QueueId, RecipientState, Severity, Timestamp};
use yamabiko_ledger::late::{Fits, Token};
use yamabiko_ledger::{
    Entry, Feed, Field, Input, Journal, Ledger, Options, Retention, Source, Surroundings, What, Writer, analyzer,
    entry_of, may_have_a_reason, reason_of,
};
use yamabiko_log::{Logger, Setup};
use yamabiko_queue::Queue;

use crate::ledger_metrics::Counters;

/// How often old days are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// How much of the ledger a crash may take, generously.
const CRASH: Duration = Duration::from_secs(60);

/// How long the ledger may take to write what a journal had.
const SETTLED: Duration = Duration::from_secs(30);

/// Events that may wait while more are made from the queue: new mail has the greater part of the line.
const ROOM: usize = 500;

/// The ledger as the engine's parts hold it. Without a ledger everything here does nothing.
#[derive(Clone, Default)]
pub struct Remembered {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    feed: Arc<Feed>,
    directory: PathBuf,
    /// Set once there is a queue.
    late: OnceLock<Arc<crate::ledger_late::Reader>>,
    counters: Arc<Counters>,
    keeper: Keeper,
    retention: Mutex<Retention>,
    /// The retention is another one.
    changed: Condvar,
}

/// What keeps the suppression list, where that is wanted.
type Keeper = Arc<Mutex<Option<crate::ledger_suppress::Keeper>>>;

fn retention(main: &View) -> Retention {
    let age = |name: &str| main.duration(name);
    Retention {
        all: age("ledger_retention_time"),
        good: age("ledger_success_retention_time"),
        quiet: age("ledger_quiet_time"),
    }
}

impl Remembered {
    /// Opens the ledger, if there is to be one. What keeps it from being opened is the error.
    pub fn open(config: &Config, logger: &Arc<Logger>, setup: &Setup) -> Result<Self, String> {
        let main = config.main();
        if !main.bool("ledger_enable") {
            return Ok(Self::default());
        }
        let directory = PathBuf::from(main.text("ledger_directory"));
        let uid = yamabiko_sys::users::effective_uid();
        let whose = yamabiko_sys::users::by_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let hint = format!(
            "no ledger is kept; {whose} must be able to write all of {} (ledger_enable = no says that none is wanted)",
            directory.display()
        );
        let mut writer = Writer::open(&directory, Options { source: Source::Live, once: false })
            .map_err(|error| format!("{error}: {hint}"))?;
        for text in writer.set_damaged_aside() {
            crate::say(&(Arc::clone(logger) as Events), setup, Severity::Warning, &text);
        }
        let (journal, left) = Journal::open(&directory).map_err(|error| format!("{error}: {hint}"))?;
        // What cannot be compared now is entered once more rather than not at all.
        let left = writer.unknown(left.clone()).unwrap_or(left);
        let counters = Arc::new(Counters::new());
        let (events, said) = (Arc::clone(logger) as Events, setup.clone());
        let counted = Arc::clone(&counters);
        let keeper: Keeper = Arc::new(Mutex::new(crate::ledger_suppress::keeper(config, &directory, &events, setup)));
        let kept = Arc::clone(&keeper);
        let keeps = move |entry: &Entry| {
            if let Some(keeper) = kept.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                keeper(entry);
            }
        };
        let listeners: Vec<yamabiko_ledger::Listener> =
            vec![Box::new(move |entry| counted.count(entry)), Box::new(keeps)];
        let surroundings = Surroundings {
            classify: Box::new(|entry| match may_have_a_reason(entry) {
                true => reason_of(analyzer(), entry),
                false => String::new(),
            }),
            listeners,
            complain: Box::new(move |text| crate::say(&events, &said, Severity::Warning, text)),
            lost: Box::new(|_| {}),
            journal: Some(journal),
        };
        let capacity = usize::try_from(main.int("ledger_queue_limit")).unwrap_or(100_000);
        let feed = Feed::start(writer, capacity, surroundings).map_err(|error| format!("ledger: {error}"))?;
        feed.push_again(left);
        let (retention, changed) = (Mutex::new(retention(&main)), Condvar::new());
        let inner = Inner { feed, directory, late: OnceLock::new(), counters, keeper, retention, changed };
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// There is one.
    pub fn is_kept(&self) -> bool {
        self.inner.is_some()
    }

    /// The sink that stages speak to.
    pub fn sink(&self, logger: &Arc<Logger>) -> Events {
        match &self.inner {
            Some(inner) => Arc::new(Remembering { logger: Arc::clone(logger), feed: Arc::clone(&inner.feed) }),
            None => Arc::clone(logger) as Events,
        }
    }

    /// A message is on stable storage.
    pub fn queued(&self, envelope: &Envelope, hold: bool) {
        if let Some(inner) = &self.inner {
            inner.feed.push(Input::Queued { envelope, hold });
        }
    }

    /// Something that no event tells.
    pub fn enter(&self, entry: Entry) {
        if let Some(inner) = &self.inner {
            inner.feed.push(Input::Entry(&entry));
        }
    }

    /// An operator has done something to a message; `related` is its new name, where it has one.
    pub fn operated(&self, what: What, id: QueueId, related: Option<QueueId>) {
        if self.inner.is_some() {
            let related = related.map(|id| id.to_string()).unwrap_or_default();
            let entry = Entry::new(Timestamp::now(), what, id.to_string(), "");
            self.enter(Entry { related, by: "operator".to_owned(), program: "postsuper".to_owned(), ..entry });
        }
    }

    /// More waits to be entered than whoever brings very many at once should add to.
    pub fn is_behind(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.feed.is_behind())
    }

    /// What reads mail that comes back.
    pub fn late(&self) -> Option<&Arc<crate::ledger_late::Reader>> {
        self.inner.as_ref()?.late.get()
    }

    /// The counters, and how many inputs were lost and wait.
    pub fn counters(&self) -> Option<(&Arc<Counters>, u64, usize)> {
        let inner = self.inner.as_ref()?;
        Some((&inner.counters, inner.feed.dropped(), inner.feed.waiting()))
    }

    /// Starts what runs beside: the reader of late bounces, the rebuilding, the removal of old days.
    pub fn start(&self, config: &Config, queue: &Arc<Queue>, events: &Events, setup: &Setup) {
        let Some(inner) = &self.inner else { return };
        let main = config.main();
        if main.bool("late_bounce_analysis") {
            let (log, said) = (Arc::clone(events), setup.clone());
            let complain = Box::new(move |text: &str| crate::say(&log, &said, Severity::Warning, text));
            match crate::ledger_late::Reader::start(&main, &inner.directory, Arc::clone(&inner.feed), complain) {
                Ok(reader) => {
                    let _ = inner.late.set(reader);
                }
                Err(error) => {
                    crate::say(events, setup, Severity::Warning, &format!("late bounces are not read: {error}"));
                }
            }
        }
        let (directory, feed, queue) = (inner.directory.clone(), Arc::clone(&inner.feed), Arc::clone(queue));
        let inner = Arc::clone(inner);
        let (events, setup) = (Arc::clone(events), setup.clone());
        let begun = Timestamp::now();
        let run = move || {
            // What the journal had is to be found by then; and what is taken from now on is told by itself.
            feed.flush(SETTLED);
            if let Err(error) = rebuild(&directory, &feed, &queue, begun) {
                crate::say(&events, &setup, Severity::Warning, &format!("{error}: the ledger was not completed"));
            }
            let mut lost = feed.dropped();
            loop {
                let retention = *inner.retention.lock().unwrap_or_else(PoisonError::into_inner);
                match yamabiko_ledger::retire(&directory, Timestamp::now(), &retention) {
                    Ok(gone) if gone > 0 => {
                        let text = format!("ledger: {gone} days are older than ledger_retention_time and were removed");
                        crate::say(&events, &setup, Severity::Info, &text);
                    }
                    Ok(_) => {}
                    Err(error) => crate::say(&events, &setup, Severity::Warning, &error.to_string()),
                }
                let begun = std::time::Instant::now();
                while begun.elapsed() < HOUSEKEEPING {
                    let now = inner.retention.lock().unwrap_or_else(PoisonError::into_inner);
                    let same = |now: &mut Retention| *now == retention;
                    let (now, _) = inner
                        .changed
                        .wait_timeout_while(now, Duration::from_secs(10), same)
                        .unwrap_or_else(PoisonError::into_inner);
                    if *now != retention {
                        break;
                    }
                    drop(now);
                    if feed.dropped() > lost && feed.waiting() == 0 {
                        lost = feed.dropped();
                        // What cannot be read now is missing; it was said when it was lost.
                        let _ = rebuild(&directory, &feed, &queue, Timestamp::now());
                    }
                }
            }
        };
        // It ends with the process: everything that it does may be cut off.
        let _ = std::thread::Builder::new().name("ledger-keeper".into()).spawn(run);
    }

    /// Another configuration. What of it counts from the next start on is said by whoever knows the former one.
    pub fn reconfigure(&self, config: &Config, events: &Events, setup: &Setup) {
        let Some(inner) = &self.inner else { return };
        let main = config.main();
        let keeper = crate::ledger_suppress::keeper(config, &inner.directory, events, setup);
        *inner.keeper.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
        *inner.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention(&main);
        inner.changed.notify_all();
        if let Some(late) = self.late() {
            for fault in late.reconfigure(&main) {
                crate::say(events, setup, Severity::Warning, &fault);
            }
        }
    }

    /// Signed tokens say which message a report is about; the keys are those in force when it comes.
    pub fn read_tokens(&self, current: &crate::generation::Current) {
        let Some(late) = self.late() else { return };
        let current = current.clone();
        late.reads_tokens(Box::new(move |address| {
            let generation = current.get();
            let reading = generation.signing.as_ref()?.read(address, Timestamp::now());
            let yamabiko_token::Reading::Valid { claim, .. } = reading else { return None };
            let queue_id = claim.queue_id.to_string();
            let of_one = claim.recipient.is_some();
            let fits = of_one.then(|| -> Fits { Box::new(move |recipient| claim.fits(recipient)) });
            Some(Token { queue_id, fits })
        }));
    }

    /// Has its thread do `errand` when all is written, and gives back what it needs for a burst only.
    pub fn tidy(&self, errand: fn()) {
        if let Some(inner) = &self.inner {
            inner.feed.tidy(errand);
        }
    }

    /// Writes what is left.
    pub fn close(&self) {
        if let Some(inner) = &self.inner {
            inner.feed.close();
        }
    }
}

/// The log, and the ledger beside it.
struct Remembering {
    logger: Arc<Logger>,
    feed: Arc<Feed>,
}

impl EventSink for Remembering {
    fn emit(&self, event: Event) {
        if Input::wants(&event) {
            self.feed.push(Input::Event(&event));
        }
        self.logger.emit(event);
    }
}

/// Enters messages of the queue that the ledger does not know, and what became of their recipients, as the queue has it.
/// Looks at what arrived since shortly before the newest entry, up to `until`.
fn rebuild(
    directory: &std::path::Path,
    feed: &Feed,
    queue: &Queue,
    until: Timestamp,
) -> Result<u64, yamabiko_ledger::Error> {
    let mut ledger = Ledger::open(directory);
    // A ledger that has nothing yet is to have what is in the queue.
    let newest = ledger.newest()?.unwrap_or_default();
    let from = newest.0.saturating_sub(u64::try_from(CRASH.as_micros()).unwrap_or(0));
    let mut entered = 0;
    let candidates = queue.list(|meta| (from..until.0).contains(&meta.queue_id.micros()));
    for meta in candidates {
        while feed.waiting() > ROOM {
            std::thread::sleep(Duration::from_millis(50));
        }
        let id = meta.queue_id;
        let name = id.to_string();
        let known = ledger.entries(Field::QueueId, &name, Some(Timestamp(id.micros())))?;
        // What is gone by now was delivered meanwhile, and told.
        let Ok((envelope, meta)) = queue.envelope(id) else { continue };
        if !known.iter().any(|entry| entry.what == What::Queued || entry.size > 0) {
            for list in envelope.recipients.chunks(yamabiko_ledger::LISTED) {
                feed.push(Input::Entry(&entry_of(&envelope, list)));
                entered += 1;
            }
            if meta.flags.hold() {
                feed.push(Input::Entry(&Entry::new(envelope.arrival, What::Held, name.clone(), "")));
            }
        }
        for recipient in &envelope.recipients {
            let (what, failure) = match &recipient.state {
                RecipientState::Deferred(failure) => (What::Deferred, failure),
                RecipientState::Failed(failure) => (What::Bounced, failure),
                RecipientState::Pending | RecipientState::Done => continue,
            };
            if known.iter().any(|entry| entry.recipient == recipient.address) {
                continue;
            }
            let entry = Entry::new(envelope.arrival, what, name.clone(), recipient.address.clone());
            feed.push(Input::Entry(&Entry {
                original: if recipient.original == recipient.address {
                    String::new()
                } else {
                    recipient.original.clone()
                },
                sender: Some(envelope.sender.clone()),
                status: Some(failure.status),
                relay: failure.relay.clone(),
                text: failure.reason.clone(),
                by: "rebuilt from the queue".to_owned(),
                ..entry
            }));
            entered += 1;
        }
    }
    Ok(entered)
}

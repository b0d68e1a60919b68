//! Asking: histories by address, domain, queue ID, Message-ID, remote queue ID, sender.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use yamabiko_envelope::{QueueId, Timestamp};

use crate::day::{self, Narrowing, Runs, Tally, TallyKey};
use crate::writer::{Source, parse_name};
use crate::{Entry, Error, Field, State, Verdict, What, judge};

/// Everything that is known of one recipient of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The machine; empty for this one.
    pub host: String,
    /// The message; empty for what was refused before it had a name.
    pub queue_id: String,
    /// The recipient, as it was delivered to.
    pub recipient: String,
    /// As it was given, where that differs.
    pub original: String,
    /// What happened, in the order of time; entries about the whole message are among them.
    pub entries: Vec<Entry>,
}

impl History {
    /// What became of it.
    pub fn verdict(&self, now: Timestamp, quiet: Duration) -> Verdict {
        judge(&self.entries, now, quiet)
    }
    /// The entry that says who sent it.
    pub fn message(&self) -> Option<&Entry> {
        let queued = self.entries.iter().find(|entry| entry.what == What::Queued);
        queued.or_else(|| self.entries.iter().find(|entry| entry.sender.is_some()))
    }
    /// The envelope sender, where it is known.
    pub fn sender(&self) -> Option<&str> {
        self.entries.iter().find_map(|entry| entry.sender.as_deref())
    }
    /// The Message-ID; empty where it is not known.
    pub fn message_id(&self) -> &str {
        self.entries.iter().map(|entry| entry.message_id.as_str()).find(|id| !id.is_empty()).unwrap_or("")
    }
    /// When it begins.
    pub fn began(&self) -> Timestamp {
        self.entries.first().map_or(Timestamp::default(), |entry| entry.at)
    }
    /// When something was heard last.
    pub fn ended(&self) -> Timestamp {
        self.entries.last().map_or(Timestamp::default(), |entry| entry.at)
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Query {
    /// What is asked for, and its value.
    pub field: Field,
    /// The value.
    pub text: String,
    /// Histories in which something happened from then on.
    pub since: Option<Timestamp>,
    /// Histories that began before.
    pub until: Option<Timestamp>,
    /// At most so many, the newest.
    pub limit: usize,
}

impl Query {
    /// Everything about a value, the newest 1000.
    pub fn new(field: Field, text: impl Into<String>) -> Self {
        Self { field, text: text.into(), since: None, until: None, limit: 1000 }
    }
}

/// A message that a question led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Named {
    pub host: String,
    pub queue_id: String,
    /// When it was seen first, among what was asked for.
    pub first: Timestamp,
}

impl Named {
    /// The first day that may have something of it.
    fn began(&self) -> u64 {
        match self.queue_id.parse::<QueueId>() {
            Ok(id) => crate::day_of(id.micros() / 1_000_000),
            Err(_) => crate::day_of(self.first.seconds()).saturating_sub(BACK),
        }
    }
}

/// A file of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Days since the epoch.
    pub day: u64,
    /// Who wrote it.
    pub source: Source,
    /// Where it is.
    pub path: PathBuf,
}

struct Reader {
    conn: Connection,
    inode: u64,
    runs: Runs,
    used: u64,
}

/// A ledger to ask. Sees what others have committed by the time of each question.
pub struct Ledger {
    directory: PathBuf,
    open: HashMap<PathBuf, Reader>,
    clock: u64,
    unreadable: BTreeMap<PathBuf, String>,
}

/// Files that are kept open.
const OPEN: usize = 100;
/// How long before its first known entry a message may have begun, where its queue ID does not tell: days.
const BACK: u64 = 10;

impl Ledger {
    /// The ledger in a directory, which need not be there yet.
    pub fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: HashMap::new(), clock: 0, unreadable: BTreeMap::new() }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Files that were passed over because they are damaged: which, and why. All others were read.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.unreadable.values().map(String::as_str)
    }

    /// Asks one file; damage is remembered, and no answer. A file that retention has just removed has none.
    fn ask<T: Default>(
        &mut self,
        part: &Part,
        question: impl FnOnce(&mut Reader) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let inode = match fs::metadata(&part.path) {
            Ok(file) => file.ino(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.open.remove(&part.path);
                return Ok(T::default());
            }
            Err(error) => return Err(Error::new(&part.path, error)),
        };
        let reader = self.reader(part, inode);
        let asked = reader.and_then(|reader| question(reader).map_err(|error| Error::at(&part.path, error)));
        asked.or_else(|error| {
            if !error.is_damage() {
                return Err(error);
            }
            self.open.remove(&part.path);
            self.unreadable.insert(part.path.clone(), error.to_string());
            Ok(T::default())
        })
    }

    /// Its files, oldest first. A directory that is not there has none.
    pub fn parts(&self) -> Result<Vec<Part>, Error> {
        let files = match fs::read_dir(&self.directory) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::new(&self.directory, error)),
        };
        let mut parts: Vec<Part> = files
            .filter_map(Result::ok)
            .filter_map(|file| {
                let (day, source) = parse_name(&file.file_name().to_string_lossy())?;
                Some(Part { day, source, path: file.path() })
            })
            .collect();
        parts.sort();
        Ok(parts)
    }

    fn reader(&mut self, part: &Part, inode: u64) -> Result<&mut Reader, Error> {
        self.clock += 1;
        // Retention puts another file in the place of one, and a damaged one makes room for the next.
        if self.open.get(&part.path).is_some_and(|reader| reader.inode != inode) {
            self.open.remove(&part.path);
        }
        if !self.open.contains_key(&part.path) {
            if self.open.len() >= OPEN
                && let Some(oldest) =
                    self.open.iter().min_by_key(|(_, reader)| reader.used).map(|(path, _)| path.clone())
            {
                self.open.remove(&oldest);
            }
            let conn = day::open_for_reading(&part.path)?;
            self.open.insert(part.path.clone(), Reader { conn, inode, runs: Runs::default(), used: 0 });
        }
        let clock = self.clock;
        match self.open.get_mut(&part.path) {
            Some(reader) => {
                reader.used = clock;
                Ok(reader)
            }
            None => Err(Error::new(&part.path, "not open")),
        }
    }

    /// Entries with a value, of some days, oldest day first.
    fn find(
        &mut self,
        parts: &[Part],
        (field, text): (Field, &str),
        narrowing: Narrowing<'_>,
        mut give: impl FnMut(Entry),
    ) -> Result<(), Error> {
        for part in parts {
            self.ask(part, |reader| {
                day::find(&reader.conn, &mut reader.runs, (field, text), narrowing, |_, entry| give(entry))
            })?;
        }
        Ok(())
    }

    /// Single entries with a value, in no special order: for those who join reports to messages.
    pub fn entries(&mut self, field: Field, text: &str, since: Option<Timestamp>) -> Result<Vec<Entry>, Error> {
        let parts = self.parts_between(since, None)?;
        let mut found = Vec::new();
        self.find(&parts, (field, text), Narrowing::No, |entry| found.push(entry))?;
        Ok(found)
    }

    /// Everything about one message: the entries of all of its recipients, in the order of time.
    pub fn message(&mut self, host: &str, queue_id: &str) -> Result<Vec<Entry>, Error> {
        self.all_of(&Named { host: host.to_owned(), queue_id: queue_id.to_owned(), first: Timestamp::default() })
    }

    pub(crate) fn all_of(&mut self, message: &Named) -> Result<Vec<Entry>, Error> {
        self.some_of(message, Narrowing::No)
    }

    /// What tells of a message as a whole, and names its recipients.
    pub(crate) fn whole(&mut self, message: &Named) -> Result<Vec<Entry>, Error> {
        self.some_of(message, Narrowing::Whole)
    }

    /// What names one recipient of a message, under the address that it was given or the one that this became.
    pub(crate) fn of_one(&mut self, message: &Named, recipient: &str) -> Result<Vec<Entry>, Error> {
        self.some_of(message, Narrowing::To(Field::Recipient, recipient))
    }

    fn some_of(&mut self, message: &Named, narrowing: Narrowing<'_>) -> Result<Vec<Entry>, Error> {
        let mut parts = self.parts()?;
        parts.drain(..parts.partition_point(|part| part.day < message.began()));
        let mut found = Vec::new();
        self.find(&parts, (Field::QueueId, &message.queue_id), narrowing, |entry| {
            if entry.host == message.host {
                found.push(entry);
            }
        })?;
        found.sort_by_key(|entry| entry.at);
        Ok(found)
    }

    fn parts_between(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Vec<Part>, Error> {
        let first = since.map_or(0, |since| crate::day_of(since.seconds()));
        let last = until.map_or(u64::MAX, |until| crate::day_of(until.seconds()));
        let mut parts = self.parts()?;
        parts.retain(|part| (first..=last).contains(&part.day));
        Ok(parts)
    }

    /// Messages that answer a question, whatever their number, the newest first. Entries of what was refused before it had a name
    /// are given apart.
    pub(crate) fn messages(
        &mut self,
        query: &Query,
        narrowing: Narrowing<'_>,
        mut refused: impl FnMut(Entry),
    ) -> Result<Vec<Named>, Error> {
        let parts = self.parts_between(query.since, query.until)?;
        // For each when it was seen last, and first.
        let mut messages: HashMap<(String, String), (Timestamp, Timestamp)> = HashMap::new();
        self.find(&parts, (query.field, &query.text), narrowing, |entry| {
            if entry.queue_id.is_empty() {
                refused(entry);
                return;
            }
            let times = messages.entry((entry.host, entry.queue_id)).or_insert((entry.at, entry.at));
            *times = (times.0.max(entry.at), times.1.min(entry.at));
        })?;
        let mut newest: Vec<_> = messages.into_iter().map(|(message, times)| (times, message)).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        Ok(newest.into_iter().map(|((_, first), (host, queue_id))| Named { host, queue_id, first }).collect())
    }

    /// Histories that answer a question, the newest first. Each is whole, whatever part of it was asked for.
    pub fn histories(&mut self, query: &Query) -> Result<Vec<History>, Error> {
        let mut out: Vec<History> = Vec::new();
        for message in self.messages(query, Narrowing::No, |entry| out.push(refusal(entry)))? {
            if out.len() >= query.limit {
                break;
            }
            let entries = self.all_of(&message)?;
            out.extend(split(entries).into_iter().filter(|history| asked_for(history, query)));
        }
        out.retain(|history| {
            query.since.is_none_or(|since| history.ended() >= since)
                && query.until.is_none_or(|until| history.began() < until)
        });
        out.sort_by(|a, b| b.began().cmp(&a.began()).then_with(|| a.recipient.cmp(&b.recipient)));
        out.truncate(query.limit);
        Ok(out)
    }

    /// When something was entered last by the engine; `None` when nothing ever was.
    pub fn newest(&mut self) -> Result<Option<Timestamp>, Error> {
        let parts = self.parts()?;
        for part in parts.iter().rev().filter(|part| part.source == Source::Live) {
            let mut newest = None;
            let last = "id > (SELECT coalesce(max(id), 0) - 1000 FROM entry)";
            self.ask(part, |reader| {
                day::each(&reader.conn, last, &[], |_, entry| {
                    newest = newest.max(Some(entry.at));
                    true
                })
            })?;
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    /// Gives every entry of some days in the order of days and rows, until told to stop.
    pub fn each(
        &mut self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        mut give: impl FnMut(Entry) -> bool,
    ) -> Result<(), Error> {
        let mut stopped = false;
        for part in self.parts_between(since, until)? {
            self.ask(&part, |reader| {
                day::each(&reader.conn, "1", &[], |_, entry| {
                    let wanted =
                        since.is_none_or(|since| entry.at >= since) && until.is_none_or(|until| entry.at < until);
                    stopped = wanted && !give(entry);
                    !stopped
                })
            })?;
            if stopped {
                break;
            }
        }
        Ok(())
    }

    /// Entries of the running day behind a mark, and the new mark: what follows a ledger that grows.
    pub fn after(
        &mut self,
        mark: &mut BTreeMap<PathBuf, i64>,
        day: u64,
        mut give: impl FnMut(Entry),
    ) -> Result<(), Error> {
        for part in self.parts()?.into_iter().filter(|part| part.day >= day) {
            let begin = mark.get(&part.path).copied().unwrap_or(0);
            let mut end = begin;
            self.ask(&part, |reader| {
                day::each(&reader.conn, "id > ?1", &[&begin], |id, entry| {
                    end = id;
                    give(entry);
                    true
                })
            })?;
            mark.insert(part.path, end);
        }
        Ok(())
    }

    /// Counts by hour, domain, sender's domain, what and reason.
    pub fn tallies(
        &mut self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        mut give: impl FnMut(TallyKey, Tally),
    ) -> Result<(), Error> {
        let first = since.map_or(0, |since| since.seconds() / 3600);
        let last = until.map_or(u64::MAX, |until| until.seconds() / 3600);
        for part in self.parts()?.into_iter().filter(|part| part.day >= first / 24 && part.day <= last / 24) {
            self.ask(&part, |reader| {
                day::tallies(&reader.conn, |key, tally| {
                    if (first..=last).contains(&key.hour) {
                        give(key, tally);
                    }
                })
            })?;
        }
        Ok(())
    }
}

/// What was refused at the door is a history of its own.
fn refusal(entry: Entry) -> History {
    History {
        host: entry.host.clone(),
        queue_id: String::new(),
        recipient: entry.recipient.clone(),
        original: String::new(),
        entries: vec![entry],
    }
}

fn asked_for(history: &History, query: &Query) -> bool {
    let same = |text: &str| text.eq_ignore_ascii_case(&query.text);
    // Who was written without a domain has got one in the message, which the question has found.
    let local = query.text.split_once('@').map_or("", |(local, _)| local);
    let given = |text: &str| same(text) || (!text.is_empty() && text.eq_ignore_ascii_case(local));
    match query.field {
        Field::Recipient => {
            same(&history.recipient)
                || given(&history.original)
                || history.entries.iter().any(|entry| given(&entry.original))
        }
        Field::Domain => history.recipient.rsplit_once('@').is_some_and(|(_, domain)| same(domain)),
        Field::RemoteId => history.entries.iter().any(|entry| entry.remote_id == query.text),
        _ => true,
    }
}

/// The entries of one message, by recipient. Those about the whole message are in each.
pub fn split(mut entries: Vec<Entry>) -> Vec<History> {
    let Some(first) = entries.first() else { return Vec::new() };
    if !entries.iter().any(|entry| entry.what == What::Queued) {
        // A message that was settled at once is one entry: what it tells of the message is an entry of its own again.
        let whole =
            entries.iter().find(|entry| !entry.queue_id.is_empty() && !entry.client.is_empty() && entry.size > 0);
        if let Some(whole) = whole.filter(|entry| entry.what != What::Rejected) {
            let queued = Entry {
                host: whole.host.clone(),
                sender: whole.sender.clone(),
                message_id: whole.message_id.clone(),
                envelope_id: whole.envelope_id.clone(),
                client: whole.client.clone(),
                size: whole.size,
                ..Entry::new(
                    Timestamp(whole.at.0.saturating_sub(micros(whole.delay.unwrap_or_default()))),
                    What::Queued,
                    whole.queue_id.clone(),
                    "",
                )
            };
            entries.insert(0, queued);
            return split(entries);
        }
    }
    let mut message = Message { host: first.host.clone(), queue_id: first.queue_id.clone(), ..Message::default() };
    for entry in entries.iter().filter(|entry| !entry.recipient.is_empty()) {
        message.add(&entry.recipient, &entry.original, Some(entry));
        if !entry.original.is_empty() {
            message.became.insert(entry.original.to_ascii_lowercase());
        }
    }
    let tried = message.by.len();
    for (recipient, original) in entries.iter().flat_map(|entry| &entry.recipients) {
        let name = recipient.to_ascii_lowercase();
        // Addresses that became others are told under the names of these. Who is written without a domain is so in the log, and
        // has got one here.
        let given = original.to_ascii_lowercase();
        let is_same = name.split_once('@').is_some_and(|(local, _)| local == given);
        let became = message.became.contains(&name) || (is_same && message.became.contains(&given));
        if message.by.contains_key(&name) || !became {
            message.add(recipient, original, None);
        }
    }
    if message.order.is_empty() {
        message.add("", "", None);
    }
    let whole = entries.iter().filter(|entry| entry.recipient.is_empty());
    for entry in whole {
        let named: HashSet<String> = match entry.recipients.len() {
            // Only of a message with more recipients than one entry holds is there a second entry.
            LISTED.. => entry.recipients.iter().map(|(address, _)| address.to_ascii_lowercase()).collect(),
            _ => HashSet::new(),
        };
        // The list of all recipients is not repeated with each of them.
        let about = Entry { recipients: Vec::new(), ..entry.clone() };
        for (position, name) in message.order.iter().enumerate() {
            let wanted = named.is_empty() || position < tried || named.contains(name);
            if wanted && let Some(history) = message.by.get_mut(name) {
                history.entries.push(about.clone());
            }
        }
    }
    let mut histories: Vec<History> = message.order.iter().filter_map(|name| message.by.remove(name)).collect();
    for history in &mut histories {
        history.entries.sort_by_key(|entry| (entry.at, entry.what != What::Queued));
    }
    histories
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A message while it is taken apart.
#[derive(Default)]
struct Message {
    host: String,
    queue_id: String,
    order: Vec<String>,
    by: HashMap<String, History>,
    became: HashSet<String>,
}

impl Message {
    fn add(&mut self, recipient: &str, original: &str, entry: Option<&Entry>) {
        let name = recipient.to_ascii_lowercase();
        let history = self.by.entry(name.clone()).or_insert_with(|| {
            self.order.push(name);
            History {
                host: self.host.clone(),
                queue_id: self.queue_id.clone(),
                recipient: recipient.to_owned(),
                original: String::new(),
                entries: Vec::new(),
            }
        });
        if history.original.is_empty() && !original.eq_ignore_ascii_case(recipient) {
            original.clone_into(&mut history.original);
        }
        history.entries.extend(entry.cloned());
    }
}

/// Recipients in one entry of [`What::Queued`]; a message with more has several.
pub const LISTED: usize = 1000;

/// Histories by state, for tables.
pub fn by_state<'a>(
    histories: impl IntoIterator<Item = &'a History>,
    now: Timestamp,
    quiet: Duration,
) -> BTreeMap<State, u64> {
    let mut out = BTreeMap::new();
    for history in histories {
        *out.entry(history.verdict(now, quiet).state).or_default() += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_for() {
        let at = Timestamp::from_seconds(1_790_000_000);
        let entry = Entry { original: "list".into(), ..Entry::new(at, What::Delivered, "Q", "u@a.test") };
        let history = &split(vec![entry])[0];
        for (text, expected) in [
            ("u@a.test", true),
            ("U@A.test", true),
            ("list", true),
            ("List@a.test", true),
            ("lis@a.test", false),
            ("", false),
        ] {
            assert_eq!(asked_for(history, &Query::new(Field::Recipient, text)), expected, "{text}");
        }
    }

    #[test]
    fn recipients_that_became_others_do_not_wait() {
        let at = Timestamp::from_seconds(1_790_000_000);
        let pair = |(address, original): &(&str, &str)| ((*address).to_owned(), (*original).to_owned());
        type Pairs = &'static [(&'static str, &'static str)];
        // As whom the message was taken, and who got it in whose place; whose histories there are.
        let table: [(Pairs, Pairs, &[&str]); 6] = [
            (&[("list@a.test", "list@a.test")], &[("u@a.test", "list@a.test")], &["u@a.test"]),
            // By a program here, without a domain.
            (&[("list@a.test", "list")], &[("u@a.test", "list")], &["u@a.test"]),
            (&[("List@a.test", "List")], &[("u@a.test", "list"), ("v@a.test", "list")], &["u@a.test", "v@a.test"]),
            // A virtual alias made two of one: who has not got it yet still waits.
            (&[("u@a.test", "list"), ("v@a.test", "list")], &[("u@a.test", "list")], &["u@a.test", "v@a.test"]),
            (&[("list@a.test", "list"), ("v@a.test", "")], &[("u@a.test", "list")], &["u@a.test", "v@a.test"]),
            (&[("list@a.test", "list")], &[], &["list@a.test"]),
        ];
        for (taken, got, expected) in table {
            let queued =
                Entry { recipients: taken.iter().map(pair).collect(), ..Entry::new(at, What::Queued, "Q", "") };
            let delivered = got
                .iter()
                .map(pair)
                .map(|(recipient, original)| Entry { original, ..Entry::new(at, What::Delivered, "Q", recipient) });
            let histories = split(std::iter::once(queued).chain(delivered).collect());
            let found: Vec<&str> = histories.iter().map(|history| history.recipient.as_str()).collect();
            assert_eq!(found, expected, "{taken:?}");
        }
    }
}

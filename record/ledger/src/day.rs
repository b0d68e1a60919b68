//! One file: the entries of one day from one source, and the runs of keys by which they are found.
//!
//! Entries are only ever appended. Their keys gather in memory, and every [`RUN`] rows they are written as a sorted *run* of
//! chunks that fill a page each: no index is touched by an insert. [`MERGED`] small runs become a large one. What is
//! behind the last run is looked at row by row. A lookup is one binary search per run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Statement, params};
use yamabiko_envelope::Timestamp;
use yamabiko_status::ReplyCode;

use crate::entry::{ReportAction, domain_of, stage_from_number, stage_number};
use crate::keys::{self, Field, ROW_BITS};
use crate::verdict::{UNPROVEN, is_doubtful};
use crate::{Entry, Error, What};

/// The form of the files: raised when an older program could not read them.
const VERSION: i64 = 1;
/// Rows of a small run.
const RUN: i64 = 16 << 10;
/// Small runs that become a large one.
const MERGED: i64 = 16;
/// Entries that are put into the file together: so many share what it costs to find the statement.
const BATCH: usize = 64;
/// Keys in a chunk: with eight bytes each they fill a page of the file.
const CHUNK: usize = 500;
/// Keys of a run, whatever its rows: a message may have many recipients.
const RUN_KEYS: usize = 1 << 20;
const ROW_MASK: u64 = (1 << ROW_BITS) - 1;
/// Rows at the end of a file in which what a killed process was about to write is looked for.
const RECENT: i64 = 500_000;
/// How long somebody who writes may keep others waiting.
const BUSY: Duration = Duration::from_secs(10);

/// Pages of SQLite's log beside a file after which it is folded into the file whatever else is going on: 64 MB. That syncs
/// both, and the queue's syncs wait for it, so it is done in a quiet moment before.
const FOLDED_AT: i64 = 16 << 10;
const PAGE: i64 = 4096;
/// Rows that are worth a quiet moment.
const FOLDED_ROWS: i64 = 2000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS entry(
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, what INTEGER NOT NULL, host TEXT, queue_id TEXT, recipient TEXT,
  original TEXT, sender TEXT, message_id TEXT, envelope_id TEXT, recipients TEXT, client TEXT, size INTEGER,
  program TEXT, relay TEXT, stage INTEGER, status TEXT, reply INTEGER, reason TEXT, text TEXT, remote_id TEXT,
  tls TEXT, delay INTEGER, related TEXT, action INTEGER, confidence INTEGER, by_ TEXT);
CREATE TABLE IF NOT EXISTS run(first INTEGER PRIMARY KEY, last INTEGER NOT NULL, fences BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunk(id INTEGER PRIMARY KEY, keys BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tally(
  hour INTEGER, domain TEXT, sender TEXT, what INTEGER, reason TEXT, count INTEGER NOT NULL, delay INTEGER NOT NULL,
  longest INTEGER NOT NULL, PRIMARY KEY(hour, domain, sender, what, reason)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

const COLUMNS: &str = "at, what, host, queue_id, recipient, original, sender, message_id, envelope_id, recipients, \
    client, size, program, relay, stage, status, reply, reason, text, remote_id, tls, delay, related, action, \
    confidence, by_";

/// What is counted together: hour since the epoch, domain of the recipient, domain of the sender, what, reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TallyKey {
    /// Hours since the epoch.
    pub hour: u64,
    /// The recipients' domain, small letters.
    pub domain: String,
    /// The sender's domain, small letters; empty when not known or null.
    pub sender: String,
    /// What.
    pub what: What,
    /// The reason's name; empty without one; [`UNPROVEN`] of reports that anybody could have written.
    pub reason: String,
}

/// How often, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries.
    pub count: u64,
    /// Their delays together.
    pub delay: Duration,
    /// The longest of them.
    pub longest: Duration,
}

impl Tally {
    /// Takes another one in.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.delay += other.delay;
        self.longest = self.longest.max(other.longest);
    }
}

/// Different things that are counted between two flushes; more are written early.
const TALLIES: usize = 50_000;

pub(crate) fn open_for_reading(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).or_else(|_| {
        // Somebody who may only read: that works where nobody else has the file open, or has left its shared memory.
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    });
    let conn = opened.map_err(|error| Error::at(path, error))?;
    prepare(&conn, path)?;
    Ok(conn)
}

fn prepare(conn: &Connection, path: &Path) -> Result<(), Error> {
    conn.busy_timeout(BUSY).map_err(|error| Error::at(path, error))?;
    conn.set_prepared_statement_cache_capacity(16);
    let version: i64 =
        conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| Error::at(path, error))?;
    if version > VERSION {
        return Err(Error::new(path, format!("form {version} is of a newer program; this one knows {VERSION}")));
    }
    // A file that was just made has no table yet.
    if version > 0
        && let Err(error) = conn.prepare_cached(&format!("SELECT id, {COLUMNS} FROM entry LIMIT 0"))
    {
        return Err(match error {
            rusqlite::Error::SqlInputError { msg, .. } => Error::form(path, format!("it is of another form: {msg}")),
            _ => Error::at(path, error),
        });
    }
    Ok(())
}

/// What was counted and is not written yet.
pub(crate) type Tallies = HashMap<TallyKey, Tally>;

/// A file that is appended to. After an error it is of no more use: [`DayWriter::give_up`].
pub(crate) struct DayWriter {
    path: PathBuf,
    conn: Connection,
    next: i64,
    /// First row that is in no run.
    tail: i64,
    /// Keys of the rows from there on, with their rows counted from `tail`.
    keys: Vec<u64>,
    /// Of what was committed.
    tallies: Tallies,
    /// Of what was appended since.
    fresh: Tallies,
    /// What was appended since, where it cannot be had again from elsewhere.
    uncommitted: Vec<Box<Entry>>,
    /// So many of them, the first ones, are in the file's transaction.
    put: usize,
    in_transaction: bool,
    /// First row that came after the log was folded in last.
    folded: i64,
    /// Digests of everything in the file, where an entry may come twice.
    known: Option<std::collections::HashSet<u64>>,
}

impl DayWriter {
    /// Opens a file, or makes it.
    pub(crate) fn open(path: &Path, once: bool) -> Result<Self, Error> {
        let fail = |error| Error::at(path, error);
        let conn = Connection::open(path).map_err(fail)?;
        prepare(&conn, path)?;
        conn.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        conn.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        conn.pragma_update(None, "wal_autocheckpoint", FOLDED_AT).map_err(fail)?;
        conn.pragma_update(None, "journal_size_limit", FOLDED_AT * PAGE).map_err(fail)?;
        conn.execute_batch(SCHEMA).map_err(fail)?;
        conn.pragma_update(None, "user_version", VERSION).map_err(fail)?;
        let next = conn.query_row("SELECT coalesce(max(id), 0) + 1 FROM entry", [], |row| row.get(0)).map_err(fail)?;
        let tail = conn.query_row("SELECT coalesce(max(last), 0) + 1 FROM run", [], |row| row.get(0)).map_err(fail)?;
        let mut writer = Self {
            path: path.to_owned(),
            conn,
            next,
            tail,
            keys: Vec::new(),
            tallies: HashMap::new(),
            fresh: HashMap::new(),
            uncommitted: Vec::new(),
            put: 0,
            in_transaction: false,
            folded: next,
            known: None,
        };
        writer.read_tail()?;
        if once {
            writer.known = Some(writer.digests()?);
        }
        Ok(writer)
    }

    fn fail(&self, error: rusqlite::Error) -> Error {
        Error::at(&self.path, error)
    }

    fn read_tail(&mut self) -> Result<(), Error> {
        let mut keys = Vec::new();
        let tail = self.tail;
        each(&self.conn, "id >= ?1", &[&tail], |id, entry| {
            let row = row_number(id - tail);
            keys::of_entry(&entry, |key| keys.push(key | row));
            true
        })
        .map_err(|error| self.fail(error))?;
        self.keys = keys;
        Ok(())
    }

    fn digests(&self) -> Result<std::collections::HashSet<u64>, Error> {
        let mut known = std::collections::HashSet::new();
        each(&self.conn, "1", &[], |_, entry| {
            known.insert(entry.digest());
            true
        })
        .map_err(|error| self.fail(error))?;
        Ok(known)
    }

    /// Gives the entries of the end of the file that are not older.
    pub(crate) fn recent(&self, since: Timestamp, give: &mut dyn FnMut(Entry)) -> Result<(), Error> {
        let (first, since) = (self.next.saturating_sub(RECENT), i64::try_from(since.0).unwrap_or(i64::MAX));
        each(&self.conn, "id >= ?1 AND at >= ?2", &[&first, &since], |_, entry| {
            give(entry);
            true
        })
        .map_err(|error| self.fail(error))
    }

    /// Appends. False when it was there already, where that is looked at. An error may be about what was appended before: all of
    /// it is in [`DayWriter::give_up`].
    pub(crate) fn append(&mut self, entry: Given<'_>) -> Result<bool, Error> {
        if let Some(known) = &mut self.known {
            if !known.insert(entry.digest()) {
                return Ok(false);
            }
            self.put(&[&*entry])?;
        } else {
            self.uncommitted.push(entry.into_box());
            if self.uncommitted.len() - self.put >= BATCH {
                self.put_all()?;
            }
        }
        if self.fresh.len() + self.tallies.len() >= TALLIES {
            self.commit_all()?;
        }
        Ok(true)
    }

    /// Puts what has gathered into the transaction.
    fn put_all(&mut self) -> Result<(), Error> {
        if self.put == self.uncommitted.len() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.uncommitted);
        let done = self.put(entries.get(self.put..).unwrap_or_default());
        self.put = entries.len();
        self.uncommitted = entries;
        done
    }

    fn put<E: std::ops::Deref<Target = Entry>>(&mut self, entries: &[E]) -> Result<(), Error> {
        if !self.in_transaction {
            self.conn.execute_batch("BEGIN IMMEDIATE").map_err(|error| self.fail(error))?;
            self.in_transaction = true;
        }
        let mut rest = entries;
        while !rest.is_empty() {
            // A run has RUN rows and no more: longer ones would never be merged.
            let room = usize::try_from(RUN - (self.next - self.tail)).unwrap_or(0).max(1);
            let (now, later) = rest.split_at(room.min(rest.len()));
            insert(&self.conn, self.next, now).map_err(|error| self.fail(error))?;
            for entry in now {
                let row = row_number(self.next - self.tail);
                keys::of_entry(entry, |key| self.keys.push(key | row));
                self.next += 1;
                self.tally(entry);
            }
            if self.next - self.tail >= RUN || self.keys.len() >= RUN_KEYS {
                self.write_run()?;
            }
            rest = later;
        }
        Ok(())
    }

    fn tally(&mut self, entry: &Entry) {
        if !counts(entry.what) {
            return;
        }
        let key = TallyKey {
            hour: entry.at.seconds() / 3600,
            domain: entry.domain(),
            sender: entry.sender.as_deref().map_or_else(String::new, domain_of),
            what: entry.what,
            reason: if is_doubtful(entry) { UNPROVEN.to_owned() } else { entry.reason.clone() },
        };
        let delay = entry.delay.unwrap_or_default();
        self.fresh.entry(key).or_default().add(Tally { count: 1, delay, longest: delay });
    }

    fn write_run(&mut self) -> Result<(), Error> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable();
        store_run(&self.conn, self.tail, self.next - 1, &keys).map_err(|error| self.fail(error))?;
        keys.clear();
        self.keys = keys;
        self.tail = self.next;
        merge(&self.conn).map_err(|error| self.fail(error))
    }

    fn fail_or<T>(&self, done: rusqlite::Result<T>) -> Result<T, Error> {
        done.map_err(|error| self.fail(error))
    }

    /// Writes what has gathered. After this others see it.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        self.put_all()?;
        if self.in_transaction {
            self.fail_or(self.conn.execute_batch("COMMIT"))?;
            self.in_transaction = false;
        }
        for (key, tally) in self.fresh.drain() {
            self.tallies.entry(key).or_default().add(tally);
        }
        self.uncommitted.clear();
        self.put = 0;
        Ok(())
    }

    /// Writes the counts too, which others then see.
    pub(crate) fn commit_all(&mut self) -> Result<(), Error> {
        self.put_all()?;
        if !self.tallies.is_empty() || !self.fresh.is_empty() {
            if !self.in_transaction {
                self.fail_or(self.conn.execute_batch("BEGIN IMMEDIATE"))?;
                self.in_transaction = true;
            }
            self.fail_or(write_tallies(&self.conn, &self.tallies))?;
            self.fail_or(write_tallies(&self.conn, &self.fresh))?;
            self.fail_or(self.conn.execute_batch("COMMIT"))?;
            self.in_transaction = false;
            self.forget_tallies();
        }
        self.commit()
    }

    /// Folds SQLite's log into the file where that is worth it. Nobody is waited for: what is still read stays in the log.
    pub(crate) fn fold(&mut self) -> Result<(), Error> {
        if self.next - self.folded < FOLDED_ROWS {
            return Ok(());
        }
        self.folded = self.next;
        self.fail_or(self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
    }

    /// Pages of the file that SQLite keeps are read again from it when they are needed.
    pub(crate) fn tidy(&mut self) {
        if !self.in_transaction {
            // It is only memory.
            let _ = self.conn.execute_batch("PRAGMA shrink_memory");
        }
    }

    /// What is counted in memory is not written.
    pub(crate) fn forget_tallies(&mut self) {
        self.tallies.clear();
        self.fresh.clear();
    }

    /// Closes the file without what was not committed: what was counted of the rest, and what it is without.
    pub(crate) fn give_up(mut self) -> (Tallies, Vec<Box<Entry>>) {
        if self.in_transaction {
            // Where it has ended by itself there is nothing to be undone.
            let _ = self.conn.execute_batch("ROLLBACK");
            self.in_transaction = false;
        }
        self.fresh.clear();
        self.put = 0;
        (std::mem::take(&mut self.tallies), std::mem::take(&mut self.uncommitted))
    }

    /// Goes on with what another one has counted.
    pub(crate) fn count_on(&mut self, tallies: Tallies) {
        for (key, tally) in tallies {
            self.tallies.entry(key).or_default().add(tally);
        }
    }

    /// The next entry does not fit.
    #[cfg(test)]
    pub(crate) fn fill_up(&self) {
        self.conn.query_row("PRAGMA max_page_count = 1", [], |_| Ok(())).unwrap();
    }

    /// Takes the counts of another file over, in place of those written so far.
    pub(crate) fn copy_tallies(&mut self, from: &Connection) -> Result<(), Error> {
        self.conn.execute("DELETE FROM tally", []).map_err(|error| self.fail(error))?;
        let mut all = HashMap::new();
        tallies(from, |key, tally| {
            all.insert(key, tally);
        })
        .and_then(|()| write_tallies(&self.conn, &all))
        .map_err(|error| self.fail(error))
    }

    /// Something to be remembered of the file.
    pub(crate) fn set_fact(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let done = self.conn.execute("INSERT OR REPLACE INTO fact VALUES(?1, ?2)", params![name, value]);
        done.map(|_| ()).map_err(|error| self.fail(error))
    }

    /// Everything is in the one file, which may be renamed.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.commit()?;
        let done = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(|error| self.fail(error))
    }

    /// Entries ever appended.
    pub(crate) fn rows(&self) -> i64 {
        self.next - 1 + i64::try_from(self.uncommitted.len() - self.put).unwrap_or(0)
    }
}

impl Drop for DayWriter {
    fn drop(&mut self) {
        // What cannot be written now is what a crash would have taken.
        let _ = self.commit_all();
    }
}

/// Rows are below 2^24 within a run by [`RUN`] and [`MERGED`].
fn row_number(row: i64) -> u64 {
    u64::try_from(row).unwrap_or(0) & ROW_MASK
}

/// Runs whose chunks are not there, and rows that are in none and should be.
pub(crate) fn check_runs(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut statement = conn.prepare("SELECT first, last, length(fences) / 8 FROM run ORDER BY first")?;
    let mut rows = statement.query([])?;
    let mut next = 1;
    while let Some(row) = rows.next()? {
        let (first, last, chunks): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if first != next {
            wrong.push(format!("rows {next} to {} are not indexed", first - 1));
        }
        next = last + 1;
        let found: i64 = conn.query_row(
            "SELECT count(*) FROM chunk WHERE id >= ?1 AND id < ?2",
            [chunk_id(first, 0), chunk_id(first + 1, 0)],
            |row| row.get(0),
        )?;
        if found != chunks {
            wrong.push(format!("the index of rows {first} to {last} has {found} parts and not {chunks}"));
        }
    }
    Ok(wrong)
}

/// What is counted: what ends or delays something, and what is heard later.
fn counts(what: What) -> bool {
    !matches!(what, What::Noticed | What::Note | What::Removed | What::Released)
}

/// A column of text; NULL when empty. A `str` by itself could not be one of many types.
#[allow(clippy::ptr_arg)]
fn text(value: &String) -> Option<&dyn rusqlite::ToSql> {
    if value.is_empty() { None } else { Some(value) }
}

fn some<T: rusqlite::ToSql>(value: &Option<T>) -> Option<&dyn rusqlite::ToSql> {
    value.as_ref().map(|value| value as &dyn rusqlite::ToSql)
}

/// An entry for the file: somebody's, who may need it again, or the file's to keep.
pub(crate) enum Given<'a> {
    Lent(&'a Entry),
    Own(Box<Entry>),
}

impl Given<'_> {
    pub(crate) fn into_box(self) -> Box<Entry> {
        match self {
            Self::Lent(entry) => Box::new(entry.clone()),
            Self::Own(entry) => entry,
        }
    }
}

impl std::ops::Deref for Given<'_> {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        match self {
            Self::Lent(entry) => entry,
            Self::Own(entry) => entry,
        }
    }
}

/// Entries as rows, the first as row `first`.
fn insert<E: std::ops::Deref<Target = Entry>>(conn: &Connection, first: i64, entries: &[E]) -> rusqlite::Result<()> {
    static INSERT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "INSERT INTO entry(id, {COLUMNS}) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,\
             ?20,?21,?22,?23,?24,?25,?26,?27)"
        )
    });
    let mut statement = conn.prepare_cached(&INSERT)?;
    for (id, entry) in (first..).zip(entries) {
        row(&mut statement, id, entry)?;
    }
    Ok(())
}

/// Most columns of most rows are NULL, which is what a statement has that nothing is bound to.
fn row(statement: &mut Statement<'_>, id: i64, entry: &Entry) -> rusqlite::Result<()> {
    statement.clear_bindings();
    let mut at = 0;
    let mut column = |value: Option<&dyn rusqlite::ToSql>| {
        at += 1;
        value.map_or(Ok(()), |value| statement.raw_bind_parameter(at, value))
    };
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let size = (entry.size > 0).then(|| whole(entry.size));
    let recipients = (!entry.recipients.is_empty()).then(|| pack(&entry.recipients));
    let status = entry.status.map(|status| status.to_string());
    let (stage, reply) = (entry.stage.map(stage_number), entry.reply.map(|reply| reply.0));
    let delay = entry.delay.map(|delay| i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
    let action = entry.action.map(|action| action as u8);
    let confidence = (entry.confidence > 0).then_some(entry.confidence);
    // In the order of COLUMNS.
    column(Some(&id))?;
    column(Some(&whole(entry.at.0)))?;
    column(Some(&(entry.what as u8)))?;
    column(text(&entry.host))?;
    column(text(&entry.queue_id))?;
    column(text(&entry.recipient))?;
    column(text(&entry.original))?;
    column(some(&entry.sender))?;
    column(text(&entry.message_id))?;
    column(text(&entry.envelope_id))?;
    column(some(&recipients))?;
    column(text(&entry.client))?;
    column(some(&size))?;
    column(text(&entry.program))?;
    column(text(&entry.relay))?;
    column(some(&stage))?;
    column(some(&status))?;
    column(some(&reply))?;
    column(text(&entry.reason))?;
    column(text(&entry.text))?;
    column(text(&entry.remote_id))?;
    column(text(&entry.tls))?;
    column(some(&delay))?;
    column(text(&entry.related))?;
    column(some(&action))?;
    column(some(&confidence))?;
    column(text(&entry.by))?;
    statement.raw_execute()?;
    Ok(())
}

/// Addresses have no line ends and no tabs that mean anything: they are one per line, with how they were given behind a
/// tab.
fn pack(recipients: &[(String, String)]) -> String {
    let clean = |address: &str| address.replace(['\n', '\t'], " ");
    let mut out = String::new();
    for (address, original) in recipients {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&clean(address));
        if !original.is_empty() {
            out.push('\t');
            out.push_str(&clean(original));
        }
    }
    out
}

fn unpack(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (address, original) = line.split_once('\t').unwrap_or((line, ""));
        (address.to_owned(), original.to_owned())
    };
    text.lines().map(pair).collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Entry)> {
    let text =
        |index: usize| -> rusqlite::Result<String> { Ok(row.get::<_, Option<String>>(index)?.unwrap_or_default()) };
    let number = |index: usize| -> rusqlite::Result<u64> {
        Ok(row.get::<_, Option<i64>>(index)?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
    };
    let small = |index: usize| -> rusqlite::Result<u8> { Ok(u8::try_from(number(index)?).unwrap_or(0)) };
    let entry = Entry {
        at: Timestamp(number(1)?),
        // A number that this program does not know is of a newer one: it changes nothing here.
        what: What::from_number(small(2)?).unwrap_or(What::Note),
        host: text(3)?,
        queue_id: text(4)?,
        recipient: text(5)?,
        original: text(6)?,
        sender: row.get(7)?,
        message_id: text(8)?,
        envelope_id: text(9)?,
        recipients: row.get::<_, Option<String>>(10)?.map_or_else(Vec::new, |packed| unpack(&packed)),
        client: text(11)?,
        size: number(12)?,
        program: text(13)?,
        relay: text(14)?,
        stage: stage_from_number(small(15)?),
        status: row.get::<_, Option<String>>(16)?.and_then(|status| status.parse().ok()),
        reply: row.get::<_, Option<u16>>(17)?.map(ReplyCode),
        reason: text(18)?,
        text: text(19)?,
        remote_id: text(20)?,
        tls: text(21)?,
        delay: row.get::<_, Option<i64>>(22)?.and_then(|n| u64::try_from(n).ok()).map(Duration::from_micros),
        related: text(23)?,
        action: ReportAction::from_number(small(24)?),
        confidence: small(25)?,
        by: text(26)?,
    };
    Ok((row.get(0)?, entry))
}

/// Gives entries that satisfy a condition, in the order of their rows, until told to stop.
pub(crate) fn each(
    conn: &Connection,
    condition: &str,
    arguments: &[&dyn rusqlite::ToSql],
    mut give: impl FnMut(i64, Entry) -> bool,
) -> rusqlite::Result<()> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT id, {COLUMNS} FROM entry WHERE {condition} ORDER BY id"))?;
    let mut rows = statement.query(arguments)?;
    while let Some(row) = rows.next()? {
        let (id, entry) = read(row)?;
        if !give(id, entry) {
            break;
        }
    }
    Ok(())
}

fn store_run(conn: &Connection, first: i64, last: i64, keys: &[u64]) -> rusqlite::Result<()> {
    let mut fences = Vec::with_capacity(keys.len() / CHUNK * 8 + 8);
    let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO chunk(id, keys) VALUES(?1, ?2)")?;
    let mut bytes = Vec::with_capacity(CHUNK * 8);
    for (number, chunk) in (0i64..).zip(keys.chunks(CHUNK)) {
        bytes.clear();
        chunk.iter().for_each(|key| bytes.extend_from_slice(&key.to_le_bytes()));
        fences.extend_from_slice(&bytes[..8]); // chunks are not empty
        statement.execute(params![chunk_id(first, number), bytes])?;
    }
    conn.prepare_cached("INSERT OR REPLACE INTO run(first, last, fences) VALUES(?1, ?2, ?3)")?
        .execute(params![first, last, fences])?;
    Ok(())
}

/// Chunks of a run have numbers below 2^20 by its keys, and rows stay below 2^43.
fn chunk_id(first: i64, number: i64) -> i64 {
    (first << 20) | number
}

/// Small runs at the end become a large one when there are enough of them.
fn merge(conn: &Connection) -> rusqlite::Result<()> {
    let runs: Vec<(i64, i64)> = conn
        .prepare_cached("SELECT first, last FROM run ORDER BY first DESC LIMIT ?1")?
        .query_map([MERGED], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let small = |(first, last): &(i64, i64)| last - first < RUN;
    if (runs.len() as i64) < MERGED || !runs.iter().all(small) {
        return Ok(());
    }
    // Runs are in falling order, and there is at least one.
    let (Some(&(first, _)), Some(&(_, last))) = (runs.last(), runs.first()) else { return Ok(()) };
    let mut keys = Vec::new();
    for &(run, _) in &runs {
        let from = chunk_id(run, 0);
        let mut statement = conn.prepare_cached("SELECT keys FROM chunk WHERE id >= ?1 AND id < ?2")?;
        let mut rows = statement.query([from, chunk_id(run + 1, 0)])?;
        let shift = u64::try_from(run - first).unwrap_or(0);
        while let Some(row) = rows.next()? {
            keys.extend(numbers(row.get_ref(0)?.as_blob()?).map(|key| key + shift));
        }
    }
    if keys.len() > RUN_KEYS * 16 {
        return Ok(());
    }
    keys.sort_unstable();
    conn.execute("DELETE FROM run WHERE first >= ?1", [first])?;
    conn.execute("DELETE FROM chunk WHERE id >= ?1", [chunk_id(first, 0)])?;
    store_run(conn, first, last, &keys)
}

fn numbers(blob: &[u8]) -> impl Iterator<Item = u64> + '_ {
    // Eight bytes each: the conversion cannot fail.
    blob.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The runs of a file as somebody who looks things up remembers them.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    mark: (i64, i64),
    runs: Vec<(i64, Vec<u64>)>,
    /// Questions so far.
    asked: u32,
    /// Rows behind the runs by their keys, for who asks often: the last row that is among them, and rows by key.
    tail: (i64, HashMap<u64, Vec<i64>>),
}

/// After so many questions it is worth while to read the rows behind the runs once and for all.
const OFTEN: u32 = 4;

impl Runs {
    /// Reads them anew if there are others by now. The last row that is in one.
    fn refresh(&mut self, conn: &Connection) -> rusqlite::Result<i64> {
        let mark = conn
            .prepare_cached("SELECT count(*), coalesce(max(last), 0) FROM run")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if mark != self.mark {
            let mut statement = conn.prepare_cached("SELECT first, fences FROM run ORDER BY first")?;
            let read = |row: &Row<'_>| Ok((row.get(0)?, numbers(row.get_ref(1)?.as_blob()?).collect()));
            self.runs = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            self.mark = mark;
            self.tail = (mark.1, HashMap::new());
        }
        Ok(mark.1)
    }

    /// Reads the rows behind the runs, for who asks often. False for who does not.
    fn knows_tail(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        self.asked = self.asked.saturating_add(1);
        if self.asked <= OFTEN {
            return Ok(false);
        }
        let (last, keys) = &mut self.tail;
        let known = *last;
        each(conn, "id > ?1", &[&known], |id, entry| {
            keys::of_entry(&entry, |key| {
                let rows = keys.entry(key).or_default();
                // An entry that names the same address twice has its key twice.
                if rows.last() != Some(&id) {
                    rows.push(id);
                }
            });
            *last = id;
            true
        })?;
        Ok(true)
    }

    /// Rows with a key, in rising order.
    fn rows_with(&self, conn: &Connection, wanted: u64, with_tail: bool) -> rusqlite::Result<Vec<i64>> {
        let mut ids = Vec::new();
        for (first, fences) in &self.runs {
            in_run(conn, *first, fences, wanted, &mut ids)?;
        }
        if with_tail {
            ids.extend(self.tail.1.get(&wanted).into_iter().flatten());
        }
        Ok(ids)
    }
}

/// Which of the entries with a value are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Narrowing<'a> {
    /// All.
    No,
    /// Those with another value too.
    To(Field, &'a str),
    /// Those that are about no single recipient.
    Whole,
}

impl Narrowing<'_> {
    fn has(self, entry: &Entry) -> bool {
        match self {
            Self::No => true,
            Self::To(field, text) => keys::matches(entry, field, text),
            Self::Whole => entry.recipient.is_empty(),
        }
    }

    /// What the columns of a wanted row satisfy.
    const fn condition(self) -> &'static str {
        match self {
            Self::Whole => " AND recipient IS NULL",
            Self::No | Self::To(..) => "",
        }
    }
}

/// Rows whose key is that of the text, and rows that no run has yet, filtered by their text.
pub(crate) fn find(
    conn: &Connection,
    runs: &mut Runs,
    (field, text): (Field, &str),
    narrowing: Narrowing<'_>,
    mut give: impl FnMut(i64, Entry),
) -> rusqlite::Result<()> {
    // One view of the file for all of this: another program may be writing.
    let view = conn.unchecked_transaction()?;
    let indexed = runs.refresh(conn)?;
    let with_tail = runs.knows_tail(conn)?;
    let mut ids = runs.rows_with(conn, keys::key(field, text), with_tail)?;
    if let Narrowing::To(field, text) = narrowing {
        let others = runs.rows_with(conn, keys::key(field, text), with_tail)?;
        ids.retain(|id| others.binary_search(id).is_ok());
    }
    let condition = narrowing.condition();
    let mut one = conn.prepare_cached(&format!("SELECT id, {COLUMNS} FROM entry WHERE id = ?1{condition}"))?;
    for id in ids {
        if let Some((id, entry)) = one.query_row([id], read).optional()?
            && keys::matches(&entry, field, text)
            && narrowing.has(&entry)
        {
            give(id, entry);
        }
    }
    drop(one);
    if with_tail {
        return view.finish();
    }
    // Few columns decide; the whole row is read only where they do not rule it out.
    let wanted = format!("id > ?1 AND {}{condition}", tail_condition(field));
    each(conn, &wanted, &[&indexed, &text], |id, entry| {
        if keys::matches(&entry, field, text) && narrowing.has(&entry) {
            give(id, entry);
        }
        true
    })?;
    view.finish()
}

/// What rows behind the runs must at least satisfy.
fn tail_condition(field: Field) -> &'static str {
    match field {
        Field::Recipient => {
            "(recipient = ?2 COLLATE NOCASE OR original = ?2 COLLATE NOCASE OR recipients LIKE '%' || ?2 || '%')"
        }
        Field::Domain => "(recipient LIKE '%@' || ?2 OR recipients LIKE '%@' || ?2 || '%')",
        Field::QueueId => "queue_id = ?2",
        Field::MessageId => "trim(message_id, ' <>') = trim(?2, ' <>') COLLATE NOCASE",
        Field::RemoteId => "remote_id = ?2",
        Field::Sender => "sender = ?2 COLLATE NOCASE",
        Field::EnvelopeId => "envelope_id = ?2 COLLATE NOCASE",
        Field::Related => "related = ?2",
    }
}

fn in_run(conn: &Connection, first: i64, fences: &[u64], wanted: u64, ids: &mut Vec<i64>) -> rusqlite::Result<()> {
    // The chunk before the first fence that is not smaller may end with wanted keys.
    let from = fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
    for number in from..fences.len() {
        if fences.get(number).is_none_or(|fence| *fence > wanted | ROW_MASK) {
            break;
        }
        let id = chunk_id(first, i64::try_from(number).unwrap_or(i64::MAX));
        let mut statement = conn.prepare_cached("SELECT keys FROM chunk WHERE id = ?1")?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { continue };
        for key in numbers(row.get_ref(0)?.as_blob()?) {
            if key & !ROW_MASK == wanted {
                ids.push(first + i64::try_from(key & ROW_MASK).unwrap_or(0));
            }
        }
    }
    // An entry that names the same address twice has its key twice.
    ids.dedup();
    Ok(())
}

fn write_tallies(conn: &Connection, tallies: &HashMap<TallyKey, Tally>) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO tally VALUES(?1,?2,?3,?4,?5,?6,?7,?8) ON CONFLICT DO UPDATE SET count = count + excluded.count, \
         delay = delay + excluded.delay, longest = max(longest, excluded.longest)",
    )?;
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    for (key, tally) in tallies {
        statement.execute(params![
            i64::try_from(key.hour).unwrap_or(i64::MAX),
            key.domain,
            key.sender,
            key.what as u8,
            key.reason,
            i64::try_from(tally.count).unwrap_or(i64::MAX),
            micros(tally.delay),
            micros(tally.longest),
        ])?;
    }
    Ok(())
}

/// Gives the counts of a file.
pub(crate) fn tallies(conn: &Connection, mut give: impl FnMut(TallyKey, Tally)) -> rusqlite::Result<()> {
    let mut statement =
        conn.prepare_cached("SELECT hour, domain, sender, what, reason, count, delay, longest FROM tally")?;
    let mut rows = statement.query([])?;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    while let Some(row) = rows.next()? {
        let key = TallyKey {
            hour: number(row.get(0)?),
            domain: row.get(1)?,
            sender: row.get(2)?,
            what: What::from_number(row.get(3)?).unwrap_or(What::Note),
            reason: row.get(4)?,
        };
        let tally = Tally {
            count: number(row.get(5)?),
            delay: Duration::from_micros(number(row.get(6)?)),
            longest: Duration::from_micros(number(row.get(7)?)),
        };
        give(key, tally);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        let mut entry =
            Entry::new(Timestamp(n), What::Sent, format!("Q{n}"), format!("user{}@d{}.test", n % 1000, n % 7));
        entry.remote_id = format!("R{n}");
        entry
    }

    #[test]
    fn found_in_runs_large_runs_and_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day");
        let mut writer = DayWriter::open(&path, false).unwrap();
        // A large run, two small ones, and some rows behind them.
        let rows = (RUN * (MERGED + 2) + 100) as u64;
        for n in 1..=rows {
            writer.append(Given::Own(Box::new(entry(n)))).unwrap();
            // So that batches end where runs do not.
            if n % 5000 == 7 {
                writer.commit().unwrap();
            }
        }
        writer.commit().unwrap();
        let conn = open_for_reading(&path).unwrap();
        let runs: i64 = conn.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap();
        assert_eq!(runs, 3);
        for n in [1, 77, RUN as u64, RUN as u64 + 1, rows - 50, rows] {
            for (field, text) in [(Field::QueueId, format!("Q{n}")), (Field::RemoteId, format!("R{n}"))] {
                let mut found = Vec::new();
                find(&conn, &mut Runs::default(), (field, &text), Narrowing::No, |id, entry| {
                    found.push((id as u64, entry))
                })
                .unwrap();
                assert_eq!(found, [(n, entry(n))], "{text}");
            }
        }
        // Who asks often reads the rows behind the runs once, and sees new ones all the same.
        let mut often = Runs::default();
        for n in rows - 9..=rows + 5 {
            if n > rows {
                writer.append(Given::Own(Box::new(entry(n)))).unwrap();
                writer.commit().unwrap();
            }
            let mut found = Vec::new();
            find(&conn, &mut often, (Field::RemoteId, &format!("R{n}")), Narrowing::No, |id, entry| {
                found.push((id as u64, entry))
            })
            .unwrap();
            assert_eq!(found, [(n, entry(n))]);
        }
        let rows = rows + 5;
        let count = |field, text: &str| {
            let mut count = 0u64;
            find(&conn, &mut Runs::default(), (field, text), Narrowing::No, |_, _| count += 1).unwrap();
            count
        };
        assert_eq!(
            count(Field::Recipient, "USER5@d5.test"),
            (1..=rows).filter(|n| n % 1000 == 5 && n % 7 == 5).count() as u64
        );
        assert_eq!(count(Field::Domain, "d3.test"), (1..=rows).filter(|n| n % 7 == 3).count() as u64);
        assert_eq!(count(Field::QueueId, "nobody"), 0);
    }

    #[test]
    fn a_file_that_is_opened_again_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day");
        for round in 0..5u64 {
            let mut writer = DayWriter::open(&path, false).unwrap();
            for n in 0..5000 {
                writer.append(Given::Own(Box::new(entry(round * 5000 + n + 1)))).unwrap();
            }
        }
        let conn = open_for_reading(&path).unwrap();
        for n in [1u64, 5000, 5001, 16384, 16385, 25000] {
            let mut found = Vec::new();
            find(&conn, &mut Runs::default(), (Field::QueueId, &format!("Q{n}")), Narrowing::No, |_, entry| {
                found.push(entry)
            })
            .unwrap();
            assert_eq!(found, [entry(n)]);
        }
        let mut total = 0;
        tallies(&conn, |_, tally| total += tally.count).unwrap();
        assert_eq!(total, 25000);
    }

    #[test]
    fn nothing_comes_in_twice_where_that_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day");
        for expected in [true, false] {
            let mut writer = DayWriter::open(&path, true).unwrap();
            assert_eq!(writer.append(Given::Own(Box::new(entry(1)))).unwrap(), expected);
            assert!(!writer.append(Given::Own(Box::new(entry(1)))).unwrap());
        }
    }

    #[test]
    fn every_field_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day");
        let full = Entry {
            host: "mx1".into(),
            original: "o@x.test".into(),
            sender: Some(String::new()),
            message_id: "<m@x>".into(),
            envelope_id: "e".into(),
            recipients: vec![("a@b".into(), String::new()), ("c@d".into(), "e@f".into())],
            client: "h[1.2.3.4]".into(),
            size: 5,
            program: "smtp".into(),
            relay: "r".into(),
            stage: Some(yamabiko_envelope::SmtpStage::EndOfData),
            status: "5.1.1".parse().ok(),
            reply: Some(ReplyCode(550)),
            reason: "userunknown".into(),
            text: "no\nsuch".into(),
            remote_id: "x".into(),
            tls: "TLSv1.3".into(),
            delay: Some(Duration::from_micros(1500)),
            related: "n".into(),
            action: Some(ReportAction::Delayed),
            confidence: 80,
            by: "token".into(),
            ..Entry::new(Timestamp(7), What::Report, "Q", "r@s")
        };
        let mut writer = DayWriter::open(&path, false).unwrap();
        writer.append(Given::Lent(&full)).unwrap();
        writer.commit().unwrap();
        let mut found = Vec::new();
        find(&writer.conn, &mut Runs::default(), (Field::QueueId, "Q"), Narrowing::No, |_, entry| found.push(entry))
            .unwrap();
        assert_eq!(found, [full]);
    }
}

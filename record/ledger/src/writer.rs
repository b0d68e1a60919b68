//! Writing: entries go into the file of their day, many in one transaction.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use crate::day::{DayWriter, Given, Tallies};
use crate::journal::same;
use crate::{Entry, Error, What};

/// Who writes. Each has files of its own, so that an import and a running engine do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The engine.
    Live,
    /// `yamabiko import`.
    Import,
}

impl Source {
    /// The word in file names.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Import => "import",
        }
    }
}

/// How a ledger is written to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who writes.
    pub source: Source,
    /// Entries that are there already are left out: for what may be read twice. Costs some 20 bytes of memory for each
    /// entry of the days in work.
    pub once: bool,
}

/// Days that are open at the same time. Entries of others close the one that was not used for longest.
const DAYS: usize = 4;
/// Entries that may wait for files that cannot be written.
const OWED: usize = 100_000;
/// How long nothing is tried after a failure: a try may take as long as a lock is waited for.
const AGAIN: Duration = Duration::from_secs(5);

/// Appends to a ledger. What was appended is seen by others, and survives the process, after [`Writer::commit`].
pub struct Writer {
    directory: PathBuf,
    options: Options,
    /// The day used last is the last one.
    days: Vec<(u64, DayWriter)>,
    /// What could not be written yet, by day.
    owed: BTreeMap<u64, (Tallies, Vec<Box<Entry>>)>,
    /// Until then nothing is tried again.
    not_before: Option<Instant>,
    facts: Option<Connection>,
    /// Held as long as this lives: only one of a source writes.
    _lock: File,
}

impl Writer {
    /// Opens the ledger in a directory, which is made if need be. Fails when somebody else writes there for the same
    /// source.
    pub fn open(directory: &Path, options: Options) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(|error| Error::new(directory, error))?;
        let path = directory.join(format!("{}.lock", options.source.word()));
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| Error::new(&path, error))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::new(&path, "another process is writing to this ledger"),
            fs::TryLockError::Error(error) => Error::new(&path, error),
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            options,
            days: Vec::new(),
            owed: BTreeMap::new(),
            not_before: None,
            facts: None,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Appends an entry to its day. False when [`Options::once`] left it out. What cannot be written now, because the disk is full
    /// or somebody keeps the file locked, waits in memory and is tried again; the error is told once. A file that is
    /// damaged is set aside, and the error says so.
    pub fn append(&mut self, entry: &Entry) -> Result<bool, Error> {
        self.enter(Given::Lent(entry))
    }

    /// [`Writer::append`] for who has no more use for the entry.
    pub(crate) fn take(&mut self, entry: Box<Entry>) -> Result<bool, Error> {
        self.enter(Given::Own(entry))
    }

    /// Something waits in memory for files that cannot be written.
    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    fn enter(&mut self, entry: Given<'_>) -> Result<bool, Error> {
        let day = day_of(entry.at.seconds());
        if self.not_before.is_some_and(|until| Instant::now() < until) {
            return self.owe(day, entry).map(|()| true);
        }
        if let Err(error) = self.day(day).map(|_| ()) {
            // More than that is lost, and that is an error too.
            let _ = self.owe(day, entry);
            return Err(error);
        }
        self.day(day)?.append(entry).map_err(|error| self.after_failure(day, error))
    }

    fn owe(&mut self, day: u64, entry: Given<'_>) -> Result<(), Error> {
        if self.options.once || self.owed.values().map(|(_, entries)| entries.len()).sum::<usize>() >= OWED {
            return Err(Error::new(&self.directory, "it cannot be written, and too much waits for it already"));
        }
        self.owed.entry(day).or_default().1.push(entry.into_box());
        Ok(())
    }

    /// Opens the files of days again for which something waits.
    fn try_again(&mut self, at_once: bool) -> Result<(), Error> {
        if self.owed.is_empty() || (!at_once && self.not_before.is_some_and(|until| Instant::now() < until)) {
            return Ok(());
        }
        self.not_before = None;
        let days: Vec<u64> = self.owed.keys().copied().collect();
        for day in days {
            // One that is open does not know of it.
            if let Some(position) = self.days.iter().position(|(known, _)| *known == day) {
                let file = self.days.remove(position).1;
                self.paid(day, file)?;
            } else {
                self.day(day)?;
            }
        }
        Ok(())
    }

    /// A file of a day is in use, with what waited for it.
    fn paid(&mut self, day: u64, mut file: DayWriter) -> Result<(), Error> {
        let paid = self.pay(day, &mut file);
        self.days.push((day, file));
        paid.map_err(|error| self.after_failure(day, error))
    }

    /// Puts what waited for a file into it.
    fn pay(&mut self, day: u64, file: &mut DayWriter) -> Result<(), Error> {
        let Some((tallies, entries)) = self.owed.remove(&day) else { return Ok(()) };
        file.count_on(tallies);
        let mut entries = entries.into_iter();
        while let Some(entry) = entries.next() {
            if let Err(error) = file.append(Given::Own(entry)) {
                self.owed.entry(day).or_default().1.extend(entries);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sets files aside that cannot be read at all; what was done. The others are read and written as if these were not there.
    pub fn set_damaged_aside(&mut self) -> Vec<String> {
        let parts = crate::Ledger::open(&self.directory).parts().unwrap_or_default();
        let own = parts.into_iter().filter(|part| part.source == self.options.source);
        let looked = own.filter_map(|part| {
            let error = crate::day::open_for_reading(&part.path).err()?;
            error.is_damage().then_some((part.day, error))
        });
        let damaged: Vec<(u64, Error)> = looked.collect();
        damaged.into_iter().map(|(day, error)| self.after_failure(day, error).to_string()).collect()
    }

    /// The file of a day is closed; what was not committed waits. A damaged one makes room for another.
    fn after_failure(&mut self, day: u64, error: Error) -> Error {
        if let Some(position) = self.days.iter().position(|(known, _)| *known == day) {
            let file = self.days.remove(position).1;
            self.gave_up(day, file);
        }
        if !error.is_damage() {
            self.not_before = Some(Instant::now() + AGAIN);
            return error;
        }
        let path = self.directory.join(file_name(day, self.options.source));
        let aside = (1..1000u32)
            .map(|number| PathBuf::from(format!("{}.damaged-{number}", path.display())))
            .find(|aside| !aside.exists());
        let Some(aside) = aside else { return error };
        if let Err(why) = fs::rename(&path, &aside) {
            return error.and(&format!("it cannot be set aside: {why}"));
        }
        for ending in ["-wal", "-shm"] {
            // They belong to that file; where there are none there is nothing to be done.
            let (from, to) = (format!("{}{ending}", path.display()), format!("{}{ending}", aside.display()));
            let _ = fs::rename(from, to);
        }
        error.and(&format!("it was set aside as {}", aside.display()))
    }

    fn day(&mut self, day: u64) -> Result<&mut DayWriter, Error> {
        match self.days.iter().rposition(|(known, _)| *known == day) {
            Some(position) if position + 1 == self.days.len() => {}
            Some(position) => {
                let known = self.days.remove(position);
                self.days.push(known);
            }
            None => {
                if self.days.len() >= DAYS {
                    let (oldest, file) = self.days.remove(0);
                    self.let_go(oldest, file)?;
                }
                let path = self.directory.join(file_name(day, self.options.source));
                match DayWriter::open(&path, self.options.once) {
                    Ok(file) => self.paid(day, file)?,
                    Err(error) => return Err(self.after_failure(day, error)),
                }
            }
        }
        // The branches above have put the day at the end.
        match self.days.last_mut() {
            Some((_, writer)) => Ok(writer),
            None => Err(Error::new(&self.directory, "no day is open")),
        }
    }

    /// Makes what was appended seen by others. A power loss may still take the last of it.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.try_again(false)?;
        self.each_day(DayWriter::commit)
    }

    /// Before what waits already: it is older.
    fn gave_up(&mut self, day: u64, file: DayWriter) {
        let (tallies, mut entries) = file.give_up();
        let owed = self.owed.entry(day).or_default();
        entries.append(&mut owed.1);
        for (key, tally) in tallies {
            owed.0.entry(key).or_default().add(tally);
        }
        owed.1 = entries;
    }

    fn each_day(&mut self, work: impl Fn(&mut DayWriter) -> Result<(), Error>) -> Result<(), Error> {
        let failed = self.days.iter_mut().find_map(|(day, file)| work(file).err().map(|error| (*day, error)));
        failed.map_or(Ok(()), |(day, error)| Err(self.after_failure(day, error)))
    }

    /// As [`Writer::commit`], with the counts that [`crate::Ledger::tallies`] gives: some of these wait in memory until then.
    pub fn commit_all(&mut self) -> Result<(), Error> {
        self.try_again(true)?;
        self.each_day(DayWriter::commit_all)
    }

    /// There is nothing to do: time for what would keep others waiting at another.
    pub(crate) fn is_quiet(&mut self) -> Result<(), Error> {
        self.each_day(DayWriter::fold)
    }

    /// Gives back what is remembered of the files only to be quicker.
    pub(crate) fn tidy(&mut self) {
        self.days.iter_mut().for_each(|(_, file)| file.tidy());
    }

    /// Closes the files of days before this one.
    pub fn close_before(&mut self, day: u64) -> Result<(), Error> {
        let (old, kept) = std::mem::take(&mut self.days).into_iter().partition(|(known, _)| *known < day);
        self.days = kept;
        let failed: Vec<Error> = Vec::into_iter(old).filter_map(|(day, file)| self.let_go(day, file).err()).collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// Closes a file with all that is in it.
    fn let_go(&mut self, day: u64, mut file: DayWriter) -> Result<(), Error> {
        let done = file.commit_all();
        if done.is_err() {
            self.gave_up(day, file);
        }
        done.map_err(|error| self.after_failure(day, error))
    }

    /// Entries in the files that are open now.
    pub fn rows(&self) -> u64 {
        self.days.iter().map(|(_, day)| u64::try_from(day.rows()).unwrap_or(0)).sum()
    }

    /// Of entries that may be here already, as those of a [`crate::Journal`] are, the ones that are not.
    pub fn unknown(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let Some(since) = entries.iter().map(|entry| entry.at).min() else { return Ok(entries) };
        let mut days: Vec<u64> = entries.iter().map(|entry| day_of(entry.at.seconds())).collect();
        days.sort_unstable();
        days.dedup();
        let mut known = std::collections::HashSet::new();
        for day in days {
            self.day(day)?.recent(since, &mut |entry| {
                // A message that was settled at once is one entry and was taken too.
                if entry.what != What::Queued && entry.size > 0 {
                    let queued = Entry { what: What::Queued, ..entry.clone() };
                    known.insert(same(&queued));
                }
                known.insert(same(&entry));
            })?;
        }
        Ok(entries.into_iter().filter(|entry| !known.contains(&same(entry))).collect())
    }

    /// Something to be remembered with the ledger: how far a log was read, when something was done.
    pub fn set_fact(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let path = self.directory.join(facts_name(self.options.source));
        let facts = self.facts()?;
        facts
            .execute(
                "INSERT INTO fact VALUES(?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
                params![name, value],
            )
            .map_err(|error| Error::at(&path, error))?;
        Ok(())
    }

    /// What [`Writer::set_fact`] has kept under a name.
    pub fn fact(&mut self, name: &str) -> Result<Option<String>, Error> {
        let path = self.directory.join(facts_name(self.options.source));
        let facts = self.facts()?;
        let found = facts.query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get(0)).optional();
        found.map_err(|error| Error::at(&path, error))
    }

    fn facts(&mut self) -> Result<&Connection, Error> {
        if self.facts.is_none() {
            let path = self.directory.join(facts_name(self.options.source));
            let open = || {
                let conn = Connection::open(&path)?;
                conn.execute_batch(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                     CREATE TABLE IF NOT EXISTS fact(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
                )?;
                Ok(conn)
            };
            self.facts = Some(open().map_err(|error| Error::at(&path, error))?);
        }
        self.facts.as_ref().ok_or_else(|| Error::new(&self.directory, "no facts"))
    }
}

/// Days since the epoch, UTC.
pub fn day_of(seconds: u64) -> u64 {
    seconds / 86_400
}

fn facts_name(source: Source) -> String {
    format!("{}.facts", source.word())
}

/// `2026-11-22.live.db`
pub(crate) fn file_name(day: u64, source: Source) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}.{}.db", source.word())
}

/// The day and the source of a file's name.
pub(crate) fn parse_name(name: &str) -> Option<(u64, Source)> {
    let (date, source) = name.strip_suffix(".db")?.split_once('.')?;
    let source = [Source::Live, Source::Import].into_iter().find(|known| known.word() == source)?;
    let mut parts = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let day = days_from(year, month, day)?;
    (file_name(day, source) == name).then_some((day, source))
}

/// Year, month, day of a number of days since the epoch (the proleptic Gregorian calendar, eras of 400 years).
pub fn civil(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The reverse of [`civil`]; `None` for what is before the epoch or no date.
pub fn days_from(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let number = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let number = number.checked_sub(719_468)?;
    (civil(number) == (if month <= 2 { year + 1 } else { year }, month, day)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_envelope::Timestamp;

    #[test]
    fn names_and_days() {
        for day in [0, 1, 58, 59, 365, 11_016, 20_779, 100_000] {
            let (year, month, date) = civil(day);
            assert_eq!(days_from(year, month, date), Some(day), "{year}-{month}-{date}");
            assert_eq!(parse_name(&file_name(day, Source::Import)), Some((day, Source::Import)));
        }
        assert_eq!(civil(20_779), (2026, 11, 22));
        assert_eq!(file_name(20_779, Source::Live), "2026-11-22.live.db");
        for bad in
            ["2026-11-22.db", "2026-11-31.live.db", "2026-02-30.live.db", "x", "2026-1-2.live.db", "1969-01-01.live.db"]
        {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_writer_of_a_source() {
        let dir = tempfile::tempdir().unwrap();
        let live = Options { source: Source::Live, once: false };
        let first = Writer::open(dir.path(), live).unwrap();
        assert!(Writer::open(dir.path(), live).err().unwrap().to_string().contains("another process"));
        Writer::open(dir.path(), Options { source: Source::Import, once: true }).unwrap();
        drop(first);
        Writer::open(dir.path(), live).unwrap();
    }

    #[test]
    fn days_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Import, once: true }).unwrap();
        for round in 0..2 {
            for day in 0..10 {
                let entry = Entry::new(Timestamp::from_seconds(day * 86_400), What::Note, "Q", "");
                assert_eq!(writer.append(&entry).unwrap(), round == 0);
            }
        }
        writer.set_fact("a", "1").unwrap();
        writer.set_fact("a", "2").unwrap();
        assert_eq!(writer.fact("a").unwrap().as_deref(), Some("2"));
        assert_eq!(writer.fact("b").unwrap(), None);
        drop(writer);
        let files = fs::read_dir(dir.path()).unwrap().filter_map(Result::ok);
        assert_eq!(files.filter(|f| parse_name(&f.file_name().to_string_lossy()).is_some()).count(), 10);
    }

    /// What is written comes into the file itself when it is quiet, and then only where that is worth it.
    #[test]
    fn the_log_is_folded_in_when_it_is_quiet() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let size = || fs::metadata(dir.path().join(file_name(0, Source::Live))).unwrap().len();
        let write = |writer: &mut Writer, numbers: std::ops::Range<u64>| {
            for n in numbers {
                let entry = Entry::new(Timestamp::from_seconds(1), What::Bounced, format!("Q{n}"), "a@b.test");
                assert!(writer.append(&entry).unwrap());
            }
            writer.commit_all().unwrap();
        };
        write(&mut writer, 0..1000);
        let first = size();
        writer.is_quiet().unwrap();
        assert_eq!(size(), first);
        write(&mut writer, 1000..20_000);
        assert_eq!(size(), first);
        writer.is_quiet().unwrap();
        assert!(size() > first + 19_000 * 20, "{first}, {}", size());
        let folded = size();
        write(&mut writer, 20_000..21_000);
        writer.is_quiet().unwrap();
        assert_eq!(size(), folded);
        let found = crate::Ledger::open(dir.path()).entries(crate::Field::QueueId, "Q20500", None).unwrap();
        assert_eq!(found.len(), 1);
    }

    /// A full disk, or somebody who keeps the file locked: nothing is lost, and nothing twice.
    #[test]
    fn what_cannot_be_written_now_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        let entry = |n: u64| {
            let text = "x".repeat(3000);
            Entry {
                text,
                ..Entry::new(Timestamp::from_seconds(86_400 * 20_000 + n), What::Bounced, format!("Q{n}"), "a@b.test")
            }
        };
        (0..5).for_each(|n| assert!(writer.append(&entry(n)).unwrap()));
        writer.commit().unwrap();
        (5..10).for_each(|n| assert!(writer.append(&entry(n)).unwrap()));
        writer.days.iter().for_each(|(_, file)| file.fill_up());
        let failed = (10..100).find(|n| writer.append(&entry(*n)).is_err()).expect("it is full");
        (failed + 1..failed + 20).for_each(|n| assert!(writer.append(&entry(n)).unwrap()));
        // Not tried before its time.
        writer.commit().unwrap();
        let query = crate::Query { limit: 1000, ..crate::Query::new(crate::Field::Recipient, "a@b.test") };
        assert_eq!(crate::Ledger::open(dir.path()).histories(&query).unwrap().len(), 5);
        writer.commit_all().unwrap();
        let mut ledger = crate::Ledger::open(dir.path());
        let all = usize::try_from(failed).unwrap() + 20;
        assert_eq!(ledger.histories(&query).unwrap().len(), all);
        assert_eq!(ledger.entries(crate::Field::Recipient, "a@b.test", None).unwrap().len(), all);
        let mut counted = 0;
        ledger.tallies(None, None, |_, tally| counted += tally.count).unwrap();
        assert_eq!(counted, all as u64);
        assert_eq!(crate::check(dir.path()).unwrap(), [""; 0]);
    }

    /// One file that is rubbish takes nothing else along, and the next entries go into a new one.
    #[test]
    fn a_damaged_file_is_set_aside() {
        let (first, second) = (Timestamp::from_seconds(86_400 * 20_000), Timestamp::from_seconds(86_400 * 20_001));
        let entry = |at, id: &str| Entry::new(at, What::Bounced, id, "a@b.test");
        let options = Options { source: Source::Live, once: false };
        let rubbish = "no database, whatever it is called ".repeat(2000);
        let other = |path: &Path| {
            let conn = Connection::open(path).unwrap();
            conn.execute_batch("CREATE TABLE entry(id INTEGER PRIMARY KEY, at INTEGER); PRAGMA user_version = 1;")
                .unwrap();
        };
        for of_another_form in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::open(dir.path(), options).unwrap();
            writer.append(&entry(first, "Q1")).unwrap();
            writer.append(&entry(second, "Q2")).unwrap();
            writer.commit_all().unwrap();
            drop(writer);
            let path = dir.path().join(file_name(20_001, Source::Live));
            fs::remove_file(&path).unwrap();
            match of_another_form {
                true => other(&path),
                false => fs::write(&path, &rubbish).unwrap(),
            }
            // Readers have the rest, and say what they have not.
            let mut ledger = crate::Ledger::open(dir.path());
            let query = crate::Query::new(crate::Field::Recipient, "a@b.test");
            assert_eq!(ledger.histories(&query).unwrap().len(), 1);
            assert!(ledger.unreadable().next().is_some_and(|text| text.contains("2024-10-05.live.db: ")));
            assert_eq!(ledger.unreadable().count(), 1);
            // Found at the start, or by whoever writes.
            let mut writer = Writer::open(dir.path(), options).unwrap();
            let said = match of_another_form {
                true => writer.set_damaged_aside().concat(),
                false => writer.append(&entry(second, "Q3")).unwrap_err().to_string(),
            };
            assert!(said.contains("it was set aside as ") && said.ends_with("2024-10-05.live.db.damaged-1"), "{said}");
            assert!(writer.append(&entry(second, "Q4")).unwrap());
            writer.commit_all().unwrap();
            // What met the damage is in the new file too.
            let all = if of_another_form { 2 } else { 3 };
            assert_eq!(crate::Ledger::open(dir.path()).histories(&query).unwrap().len(), all);
            assert!(writer.set_damaged_aside().is_empty());
        }
    }
}

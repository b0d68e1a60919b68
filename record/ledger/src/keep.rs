//! Keeping a ledger: old days go, what went well goes earlier, files are checked and copied.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};
use yamabiko_envelope::Timestamp;

use crate::day::{self, DayWriter};
use crate::query::Part;
use crate::{Entry, Error, Ledger, Source, What, day_of};

/// How long what is kept. Zero keeps for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Everything.
    pub all: Duration,
    /// What went well.
    pub good: Duration,
    /// After so long without bad news it has gone well.
    pub quiet: Duration,
}

/// Removes days that are too old, and out of days that are old enough what went well. How many files went.
pub fn retire(directory: &Path, now: Timestamp, retention: &Retention) -> Result<u64, Error> {
    let ledger = Ledger::open(directory);
    let today = day_of(now.seconds());
    // Files that an import is writing to are left for the next time.
    let importing = File::open(directory.join("import.lock")).is_ok_and(|lock| lock.try_lock().is_err());
    let older = |part: &Part, age: Duration| age > Duration::ZERO && part.day + age.as_secs().div_ceil(86_400) < today;
    let mut gone = 0;
    for part in ledger.parts()? {
        if older(&part, retention.all) {
            remove(&part.path)?;
            gone += 1;
        } else if part.source == Source::Import && importing {
            continue;
        } else if older(&part, retention.good.max(retention.quiet)) && retention.good < retention.all {
            thin(&part.path)?;
        }
    }
    Ok(gone)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|error| Error::new(path, error))?;
    for ending in ["-wal", "-shm"] {
        // Only there while somebody has it open.
        let _ = fs::remove_file(beside(path, ending));
    }
    Ok(())
}

/// Entries of messages of which some recipient has bad news or none stay; the rest goes. Done once to each file.
fn thin(path: &Path) -> Result<(), Error> {
    let fail = |error| Error::at(path, error);
    let conn = day::open_for_reading(path)?;
    let done: i64 =
        conn.query_row("SELECT count(*) FROM fact WHERE name = 'thinned'", [], |row| row.get(0)).map_err(fail)?;
    if done > 0 {
        return Ok(());
    }
    let good = [What::Sent, What::Relayed, What::Delivered, What::Removed, What::Note].map(|what| what as u8);
    // The messages of this file that have more to tell than that they went well.
    let mut interesting = std::collections::HashSet::new();
    day::each(
        &conn,
        "what NOT IN (?1, ?2, ?3, ?4, ?5, 1)",
        &[&good[0], &good[1], &good[2], &good[3], &good[4]],
        |_, entry| {
            if entry.what != What::Expanded {
                interesting.insert((entry.host, entry.queue_id));
            }
            true
        },
    )
    .map_err(fail)?;
    let new = beside(path, ".new");
    let _ = fs::remove_file(&new);
    let mut writer = DayWriter::open(&new, false)?;
    let mut failed = None;
    let mut kept = 0u64;
    day::each(&conn, "1", &[], |_, entry: Entry| {
        if entry.queue_id.is_empty() || interesting.contains(&(entry.host.clone(), entry.queue_id.clone())) {
            failed = writer.append(day::Given::Own(Box::new(entry))).err();
            kept += 1;
            // What is not committed is in memory too.
            if kept.is_multiple_of(10_000) {
                failed = failed.take().or_else(|| writer.commit().err());
            }
        }
        failed.is_none()
    })
    .map_err(fail)?;
    if let Some(error) = failed {
        return Err(error);
    }
    writer.commit()?;
    // The counts stay as they were: what went well is still counted.
    writer.forget_tallies();
    writer.copy_tallies(&conn)?;
    writer.set_fact("thinned", "yes")?;
    writer.commit()?;
    writer.finish()?;
    drop(conn);
    fs::rename(&new, path).map_err(|error| Error::new(path, error))?;
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(path, ending));
        let _ = fs::remove_file(beside(&new, ending));
    }
    Ok(())
}

/// Looks at every file whole. What is wrong, file by file; none when all is well.
pub fn check(directory: &Path) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    for part in Ledger::open(directory).parts()? {
        match look(&part.path) {
            Ok(found) => wrong.extend(found.into_iter().map(|text| format!("{}: {text}", part.path.display()))),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    Ok(wrong)
}

fn look(path: &Path) -> Result<Vec<String>, Error> {
    let conn = day::open_for_reading(path)?;
    let mut wrong = Vec::new();
    let said: Vec<String> = conn
        .prepare("PRAGMA integrity_check")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(|error| Error::at(path, error))?;
    wrong.extend(said.into_iter().filter(|text| text != "ok"));
    if wrong.is_empty() {
        wrong.extend(day::check_runs(&conn).map_err(|error| Error::at(path, error))?);
    }
    Ok(wrong)
}

/// Copies a ledger while it is written to: each file as it is at one moment. How many files.
pub fn backup(directory: &Path, to: &Path) -> Result<u64, Error> {
    fs::create_dir_all(to).map_err(|error| Error::new(to, error))?;
    let mut files: Vec<PathBuf> = Ledger::open(directory).parts()?.into_iter().map(|part| part.path).collect();
    files.extend(["live.facts", "import.facts", "suppression.db"].iter().map(|name| directory.join(name)));
    let mut copied = 0;
    for path in files.into_iter().filter(|path| path.exists()) {
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if target.exists() {
            return Err(Error::new(&target, "there already: name an empty directory"));
        }
        let conn = Connection::open(&path).map_err(|error| Error::at(&path, error))?;
        conn.execute("VACUUM INTO ?1", params![target.to_string_lossy()]).map_err(|error| Error::at(&path, error))?;
        copied += 1;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, Options, Query, Writer};

    const DAY: u64 = 86_400;

    fn ledger() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Options { source: Source::Live, once: false }).unwrap();
        for day in 0..20u64 {
            for (n, what) in [What::Sent, What::Bounced, What::Delivered].into_iter().enumerate() {
                let at = Timestamp::from_seconds(day * DAY + 60);
                let id = format!("Q{day}x{n}");
                writer.append(&Entry::new(at, What::Queued, id.clone(), "")).unwrap();
                writer.append(&Entry::new(at, what, id, format!("r{n}@b.test"))).unwrap();
            }
        }
        writer.commit_all().unwrap();
        dir
    }

    #[test]
    fn old_days_go_and_good_ones_earlier() {
        let dir = ledger();
        let days = |days: u64| Duration::from_secs(days * DAY);
        let retention = Retention { all: days(10), good: days(5), quiet: days(1) };
        let now = Timestamp::from_seconds(20 * DAY);
        let mut asked_before = Ledger::open(dir.path());
        let all = |ledger: &mut Ledger| ledger.histories(&Query::new(Field::Recipient, "r0@b.test")).unwrap().len();
        assert_eq!(all(&mut asked_before), 20);
        for gone in [10, 0] {
            assert_eq!(retire(dir.path(), now, &retention).unwrap(), gone);
        }
        let mut ledger = Ledger::open(dir.path());
        assert_eq!(ledger.parts().unwrap().len(), 10);
        let mut count = |address: &str| ledger.histories(&Query::new(Field::Recipient, address)).unwrap().len();
        assert_eq!(count("r1@b.test"), 10);
        assert_eq!(count("r0@b.test"), 5);
        assert_eq!(all(&mut asked_before), 5, "its files are others now");
        let mut tallied = 0;
        ledger
            .tallies(None, None, |key, tally| tallied += if key.what == What::Sent { tally.count } else { 0 })
            .unwrap();
        assert_eq!(tallied, 10, "what went well is still counted");
        assert_eq!(check(dir.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_copy_is_a_ledger_and_damage_is_found() {
        let dir = ledger();
        let copy = tempfile::tempdir().unwrap();
        assert_eq!(backup(dir.path(), copy.path()).unwrap(), 20);
        assert!(backup(dir.path(), copy.path()).is_err());
        let found = Ledger::open(copy.path()).histories(&Query::new(Field::QueueId, "Q7x1")).unwrap();
        assert_eq!(found.len(), 1);
        let path = Ledger::open(copy.path()).parts().unwrap().remove(3).path;
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        fs::write(&path, bytes).unwrap();
        assert!(!check(copy.path()).unwrap().is_empty());
    }
}

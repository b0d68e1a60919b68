//! The list: one SQLite file beside the ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use yamabiko_envelope::Timestamp;

use super::Rules;
use crate::{Entry, Error, ReportAction, What, domain_of};

/// An address that is not mailed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The address; `@domain` for all of a domain.
    pub address: String,
    /// For mail of this sender domain only; empty for all.
    pub sender: String,
    /// Why: a reason's name, `complaint`, `manual`, ...
    pub reason: String,
    /// By what: the reply, the queue ID.
    pub evidence: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: for ever.
    pub until: Option<Timestamp>,
    /// Who entered it: `rules`, `operator`, `import: SES`, ...
    pub source: String,
}

/// The list.
pub struct List {
    path: PathBuf,
    conn: Connection,
}

/// How long another one's write is waited for.
const BUSY: Duration = Duration::from_secs(10);
/// Strikes of an address that are kept.
const STRIKES: u32 = 1000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS suppressed(
  address TEXT NOT NULL COLLATE NOCASE, sender TEXT NOT NULL COLLATE NOCASE, reason TEXT NOT NULL, evidence TEXT NOT NULL,
  since INTEGER NOT NULL, until INTEGER, source TEXT NOT NULL, PRIMARY KEY(address, sender)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS strike(
  address TEXT NOT NULL COLLATE NOCASE, sender TEXT NOT NULL COLLATE NOCASE, reason TEXT NOT NULL, at INTEGER NOT NULL,
  evidence TEXT NOT NULL, PRIMARY KEY(address, reason, at, evidence)) WITHOUT ROWID;
";

impl List {
    /// Opens the list, or makes it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let conn = Connection::open(path)?;
            conn.busy_timeout(BUSY)?;
            conn.pragma_update(None, "journal_mode", "WAL")?;
            conn.pragma_update(None, "synchronous", "NORMAL")?;
            conn.execute_batch(SCHEMA)?;
            Ok(conn)
        };
        let conn = open().map_err(|error| Error::at(path, error))?;
        Ok(Self { path: path.to_owned(), conn })
    }

    /// Opens a list that is there.
    pub fn open_for_reading(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)
            .or_else(|_| {
                Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            })
            .and_then(|conn| conn.busy_timeout(BUSY).map(|()| conn))
            .map_err(|error| Error::at(path, error))?;
        Ok(Self { path: path.to_owned(), conn })
    }

    fn fail(&self, error: rusqlite::Error) -> Error {
        Error::at(&self.path, error)
    }

    /// A number that changes with the list, for those who remember it.
    pub fn version(&self) -> Result<i64, Error> {
        self.conn.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(|error| self.fail(error))
    }

    /// Enters an address; what is known of it already is replaced, unless that lasts longer. True when something changed.
    pub fn add(&self, entry: &Suppressed) -> Result<bool, Error> {
        let done = self.conn.prepare_cached(
            "INSERT INTO suppressed VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT DO UPDATE SET reason = excluded.reason, \
             evidence = excluded.evidence, since = excluded.since, until = excluded.until, source = excluded.source \
             WHERE suppressed.until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > suppressed.until)",
        );
        let changed = done.and_then(|mut statement| {
            statement.execute(params![
                entry.address,
                entry.sender,
                entry.reason,
                entry.evidence,
                micros(entry.since),
                entry.until.map(micros),
                entry.source
            ])
        });
        changed.map(|rows| rows > 0).map_err(|error| self.fail(error))
    }

    /// Takes an address off, and forgets its strikes. With `sender` only what is for that domain. True when it was there.
    pub fn remove(&self, address: &str, sender: Option<&str>) -> Result<bool, Error> {
        let run = || {
            let rows = match sender {
                Some(sender) => {
                    self.conn.execute("DELETE FROM suppressed WHERE address = ?1 AND sender = ?2", [address, sender])?
                }
                None => self.conn.execute("DELETE FROM suppressed WHERE address = ?1", [address])?,
            };
            self.conn.execute("DELETE FROM strike WHERE address = ?1", [address])?;
            Ok(rows > 0)
        };
        run().map_err(|error| self.fail(error))
    }

    /// What keeps mail of a sender from an address now.
    pub fn find(&self, address: &str, sender: &str, now: Timestamp) -> Result<Option<Suppressed>, Error> {
        let domain = format!("@{}", domain_of(address));
        let run = || {
            self.conn
                .prepare_cached(
                    "SELECT * FROM suppressed WHERE address IN (?1, ?2) AND sender IN ('', ?3) \
                     AND (until IS NULL OR until > ?4) ORDER BY sender DESC LIMIT 1",
                )?
                .query_row(params![address, domain, domain_of(sender), micros(now)], read)
                .optional()
        };
        run().map_err(|error| self.fail(error))
    }

    /// Everything of an address, also what has ended.
    pub fn about(&self, address: &str) -> Result<Vec<Suppressed>, Error> {
        let run = || -> rusqlite::Result<Vec<Suppressed>> {
            let mut statement = self.conn.prepare_cached("SELECT * FROM suppressed WHERE address = ?1")?;
            statement.query_map([address], read)?.collect()
        };
        run().map_err(|error| self.fail(error))
    }

    /// Strikes of an address: reason, when, evidence.
    pub fn strikes(&self, address: &str) -> Result<Vec<(String, Timestamp, String)>, Error> {
        let run = || -> rusqlite::Result<Vec<(String, Timestamp, String)>> {
            let mut statement =
                self.conn.prepare_cached("SELECT reason, at, evidence FROM strike WHERE address = ?1 ORDER BY at")?;
            statement.query_map([address], |row| Ok((row.get(0)?, moment(row.get(1)?), row.get(2)?)))?.collect()
        };
        run().map_err(|error| self.fail(error))
    }

    /// Gives every address that is kept back now.
    pub fn each(&self, now: Timestamp, mut give: impl FnMut(Suppressed)) -> Result<(), Error> {
        let mut run = || {
            let mut statement = self.conn.prepare_cached(
                "SELECT * FROM suppressed WHERE until IS NULL OR until > ?1 ORDER BY address, sender",
            )?;
            let mut rows = statement.query([micros(now)])?;
            while let Some(row) = rows.next()? {
                give(read(row)?);
            }
            Ok(())
        };
        run().map_err(|error| self.fail(error))
    }

    /// Looks at something that happened: enters a strike, and the address when there are enough. What was entered.
    pub fn judge(&self, rules: &Rules, entry: &Entry) -> Result<Option<Suppressed>, Error> {
        let Some(reason) = telling(entry, rules) else { return Ok(None) };
        let sender = entry.sender.as_deref().map(domain_of).unwrap_or_default();
        let Some(rule) = rules.of(reason, &sender) else { return Ok(None) };
        let text: String = entry.text.chars().filter(|c| !c.is_control()).take(300).collect();
        let evidence = format!("{} {text}", entry.queue_id);
        let whose = if rule.sender.is_empty() { "" } else { sender.as_str() };
        let from =
            rule.within.map_or(0, |within| entry.at.0.saturating_sub(u64::try_from(within.as_micros()).unwrap_or(0)));
        let run =
            || -> rusqlite::Result<u32> {
                self.conn
                    .prepare_cached("INSERT OR IGNORE INTO strike VALUES(?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![entry.recipient, sender, reason, micros(entry.at), evidence])?;
                self.conn
                    .prepare_cached(
                        "SELECT count(*) FROM (SELECT 1 FROM strike WHERE address = ?1 AND reason = ?2 AND at >= ?3 \
                     AND (?4 = '' OR sender = ?4) LIMIT ?5)",
                    )?
                    .query_row(params![entry.recipient, reason, micros(Timestamp(from)), whose, STRIKES], |row| {
                        row.get(0)
                    })
            };
        let times = run().map_err(|error| self.fail(error))?;
        if times < rule.times {
            return Ok(None);
        }
        let suppressed = Suppressed {
            address: entry.recipient.clone(),
            sender: whose.to_owned(),
            reason: reason.to_owned(),
            evidence: evidence.trim().to_owned(),
            since: entry.at,
            until: rule.lasts.map(|lasts| entry.at + lasts),
            source: "rules".to_owned(),
        };
        Ok(self.add(&suppressed)?.then_some(suppressed))
    }
}

/// The reason by which an entry speaks against an address; `None` where it does not.
fn telling<'a>(entry: &'a Entry, rules: &Rules) -> Option<&'a str> {
    if entry.recipient.is_empty() || entry.program == "error" {
        return None;
    }
    match entry.what {
        What::Bounced if !entry.reason.is_empty() => Some(&entry.reason),
        What::Report
            if entry.action == Some(ReportAction::Failed)
                && rules.counts(entry.confidence)
                && !entry.reason.is_empty() =>
        {
            Some(&entry.reason)
        }
        What::Complaint if rules.counts(entry.confidence) => Some("complaint"),
        _ => None,
    }
}

fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn moment(micros: i64) -> Timestamp {
    Timestamp(u64::try_from(micros).unwrap_or(0))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Suppressed> {
    Ok(Suppressed {
        address: row.get(0)?,
        sender: row.get(1)?,
        reason: row.get(2)?,
        evidence: row.get(3)?,
        since: moment(row.get(4)?),
        until: row.get::<_, Option<i64>>(5)?.map(moment),
        source: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn bounce(day: u64, reason: &str) -> Entry {
        let mut entry = Entry::new(Timestamp::from_seconds(day * DAY), What::Bounced, format!("Q{day}"), "dead@b.test");
        entry.reason = reason.into();
        entry.sender = Some("news@a.test".into());
        entry.text = "550 5.1.1 no such user".into();
        entry
    }

    #[test]
    fn rules_act_on_what_happens() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::open(&dir.path().join("s.db")).unwrap();
        let rules = Rules::parse("userunknown 1 - forever\nmailboxfull 3 7d 10d\nsuspend 1 - 5d other.test\n").unwrap();
        let day = |day: u64| Timestamp::from_seconds(day * DAY);
        for (at, reason, entered) in [
            (1, "filtered", false),
            (1, "suspend", false),
            (1, "mailboxfull", false),
            (2, "mailboxfull", false),
            // The first is too long ago.
            (9, "mailboxfull", false),
            (9, "mailboxfull", false),
            (10, "mailboxfull", false),
            (11, "mailboxfull", true),
        ] {
            let found = list.judge(&rules, &bounce(at, reason)).unwrap();
            assert_eq!(found.is_some(), entered, "{reason} on day {at}");
        }
        let found = list.find("DEAD@b.test", "news@a.test", day(12)).unwrap().unwrap();
        assert_eq!((found.reason.as_str(), found.until), ("mailboxfull", Some(day(21))));
        assert!(found.evidence.contains("Q11"));
        assert_eq!(list.find("dead@b.test", "", day(21)).unwrap(), None, "it has ended");
        assert!(list.judge(&rules, &bounce(22, "userunknown")).unwrap().is_some());
        assert!(list.find("dead@b.test", "", day(9999)).unwrap().is_some());
        assert_eq!(list.strikes("dead@b.test").unwrap().len(), 6);
        assert!(list.remove("dead@b.test", None).unwrap());
        assert!(!list.remove("dead@b.test", None).unwrap());
    }

    #[test]
    fn reports_count_when_they_are_sure() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::open(&dir.path().join("s.db")).unwrap();
        for (what, action, confidence, entered) in [
            (What::Report, Some(ReportAction::Failed), 40, false),
            (What::Report, Some(ReportAction::Failed), 60, false),
            (What::Complaint, None, 60, false),
            (What::Report, Some(ReportAction::Delayed), 100, false),
            (What::Deferred, None, 0, false),
            (What::Report, Some(ReportAction::Failed), 92, true),
        ] {
            let entry = Entry { what, action, confidence, ..bounce(1, "userunknown") };
            assert_eq!(list.judge(&Rules::default(), &entry).unwrap().is_some(), entered);
        }
        for (confidence, entered) in [(40, false), (60, true)] {
            let entry =
                Entry { recipient: "other@b.test".into(), what: What::Complaint, confidence, ..bounce(1, "abuse") };
            assert_eq!(list.judge(&Rules::default().believing_all(), &entry).unwrap().is_some(), entered);
        }
    }

    #[test]
    fn domains_and_senders() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::open(&dir.path().join("s.db")).unwrap();
        let entry = |address: &str, sender: &str| Suppressed {
            address: address.into(),
            sender: sender.into(),
            reason: "manual".into(),
            evidence: String::new(),
            since: Timestamp(1),
            until: None,
            source: "operator".into(),
        };
        list.add(&entry("@gone.test", "")).unwrap();
        list.add(&entry("a@b.test", "news.test")).unwrap();
        let is = |address: &str, sender: &str| list.find(address, sender, Timestamp(2)).unwrap().is_some();
        assert!(is("x@GONE.test", "s@x.test"));
        assert!(is("a@b.test", "s@news.test"));
        assert!(!is("a@b.test", "s@x.test"));
        assert!(!is("b@b.test", "s@news.test"));
    }
}

//! The list as a lookup table: `check_recipient_access suppression:`.
//!
//! The key is an address; the answer is an action of access(5) with the evidence, `REJECT 5.1.1 ...`, or nothing. Entries for
//! one sender domain only are not seen here: a table is not told who sends. A list that is not there has nobody on it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use yamabiko_envelope::Timestamp;
use yamabiko_lookup::{Answer, LookupError};

use super::{List, Suppressed};
use crate::Error;

/// How often the file is asked whether it has changed.
const FRESH: Duration = Duration::from_secs(1);

/// The list in memory, read anew when it changes.
pub struct Remembered {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    list: Option<List>,
    version: i64,
    asked: Option<Instant>,
    /// By address in small letters.
    known: HashMap<String, Vec<Suppressed>>,
}

impl Remembered {
    /// The list in a file, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: Mutex::default() }
    }

    /// What keeps mail of a sender from an address now.
    pub fn find(&self, address: &str, sender: &str, now: Timestamp) -> Result<Option<Suppressed>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refresh(&self.path)?;
        if state.known.is_empty() {
            return Ok(None);
        }
        let address = address.to_ascii_lowercase();
        let domain = address.rsplit_once('@').map(|(_, domain)| format!("@{domain}")).unwrap_or_default();
        let sender = crate::domain_of(sender);
        let of = |key: &str| {
            let entries = state.known.get(key)?;
            let counts = |entry: &&Suppressed| {
                (entry.sender.is_empty() || entry.sender.eq_ignore_ascii_case(&sender))
                    && entry.until.is_none_or(|until| until > now)
            };
            entries.iter().find(counts).cloned()
        };
        Ok(of(&address).or_else(|| of(&domain)))
    }
}

impl State {
    fn refresh(&mut self, path: &Path) -> Result<(), Error> {
        if self.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        if self.list.is_none() {
            if !path.exists() {
                return Ok(());
            }
            self.list = Some(List::open_for_reading(path)?);
            self.version = -1;
        }
        let Some(list) = &self.list else { return Ok(()) };
        let version = list.version()?;
        if version != self.version {
            let mut known: HashMap<String, Vec<Suppressed>> = HashMap::new();
            list.each(Timestamp::now(), |entry| {
                known.entry(entry.address.to_ascii_lowercase()).or_default().push(entry)
            })?;
            self.known = known;
            self.version = version;
        }
        Ok(())
    }
}

/// What somebody is told who mails an address that is kept back.
pub fn words(entry: &Suppressed) -> String {
    let evidence = if entry.evidence.is_empty() { String::new() } else { format!(": {}", entry.evidence) };
    let since = crate::json::time(entry.since);
    let day = since.get(..10).unwrap_or("");
    format!("recipient is on the suppression list since {day} ({}{evidence})", entry.reason)
}

/// The action of access(5) for an entry.
pub fn action(entry: &Suppressed) -> String {
    format!("REJECT 5.1.1 {}", words(entry))
}

struct Table {
    spec: Arc<str>,
    list: Remembered,
}

impl yamabiko_lookup::Table for Table {
    fn name(&self) -> &str {
        &self.spec
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(match self.list.find(key, "", Timestamp::now()) {
            Ok(found) => Ok(found.map(|entry| action(&entry))),
            Err(error) => Err(LookupError { table: Arc::clone(&self.spec), why: error.to_string() }),
        })
    }
    /// Whole domains are looked at here, so that partial keys make no sense.
    fn is_pattern(&self) -> bool {
        true
    }
}

/// Knows `suppression:` and leaves the other types to whoever is there already. `directory` is the ledger's.
pub fn extension(directory: &Path, others: yamabiko_lookup::Extension) -> yamabiko_lookup::Extension {
    let directory = directory.to_owned();
    Arc::new(move |wanted| {
        if wanted.kind != "suppression" {
            return others(wanted);
        }
        let path = match wanted.name {
            "" => directory.join(super::FILE),
            name => PathBuf::from(name),
        };
        Some(Ok(Arc::new(Table { spec: wanted.spec.into(), list: Remembered::new(&path) })))
    })
}

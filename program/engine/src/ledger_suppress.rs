//! Suppression in the engine: the list is kept from what happens, and acts where `suppression_act_at` says so.
//!
//! Only the ledger's thread writes there. Whoever asks has the list in memory, at most a second old; a list that cannot be
//! read keeps nobody's mail back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use yamabiko_config::{Config, View};
use yamabiko_envelope::{Events, Recipient, Severity, Timestamp};
use yamabiko_ledger::Entry;
use yamabiko_ledger::suppress::table::{Remembered, words};
use yamabiko_ledger::suppress::{FILE, List, Rules};
use yamabiko_log::Setup;

/// Keeps the list from what happens.
pub type Keeper = Box<dyn FnMut(&Entry) + Send>;

/// What puts addresses onto the list, where that is wanted.
pub fn keeper(config: &Config, directory: &Path, events: &Events, setup: &Setup) -> Option<Keeper> {
    let main = config.main();
    if !main.bool("suppression_enable") {
        return None;
    }
    let (events, setup) = (Arc::clone(events), setup.clone());
    let warn = move |text: &str| crate::say(&events, &setup, Severity::Warning, text);
    let rules = match rules(&main) {
        Ok(rules) if main.bool("suppression_report_checks") => rules,
        Ok(rules) => rules.believing_all(),
        Err(why) => {
            warn(&format!("{why}: no address is put onto the suppression list"));
            return None;
        }
    };
    let list = match List::open(&directory.join(FILE)) {
        Ok(list) => list,
        Err(error) => {
            warn(&format!("{error}: no address is put onto the suppression list"));
            return None;
        }
    };
    let mut well = true;
    Some(Box::new(move |entry| match list.judge(&rules, entry) {
        Ok(Some(new)) => {
            let until = new.until.map_or_else(
                || "for ever".to_owned(),
                |until| format!("until {}", yamabiko_ledger::json::time(until).get(..10).unwrap_or_default()),
            );
            warn(&format!("suppressed: <{}> {until}: {} ({})", new.address, new.reason, new.evidence));
            well = true;
        }
        Ok(None) => {}
        Err(error) => {
            if std::mem::replace(&mut well, false) {
                warn(&error.to_string());
            }
        }
    }))
}

/// The rules in force.
fn rules(main: &View) -> Result<Rules, String> {
    let path = main.text("suppression_rules_file");
    if path.is_empty() {
        return Ok(Rules::default());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("suppression_rules_file = {path}: {error}"))?;
    Rules::parse(&text).map_err(|error| format!("suppression_rules_file = {path}, {error}"))
}

/// Where the list acts.
pub struct Suppression {
    list: Remembered,
    submission: bool,
    delivery: bool,
}

impl Suppression {
    /// From main.cf.
    pub fn new(main: &View) -> Self {
        let acts = main.list("suppression_act_at");
        let at = |word: &str| acts.iter().any(|known| known == word);
        let path = PathBuf::from(main.text("ledger_directory")).join(FILE);
        Self { list: Remembered::new(&path), submission: at("submission"), delivery: at("delivery") }
    }

    /// Why a recipient is not tried; `None` when it is.
    pub fn at_delivery(&self, sender: &str, recipient: &str) -> Option<String> {
        // Notices go to whom they are for.
        if !self.delivery || sender.is_empty() {
            return None;
        }
        self.words(sender, recipient)
    }

    /// Why a recipient is refused.
    pub fn at_rcpt(&self, sender: &str, recipient: &str) -> Option<String> {
        if !self.submission || sender.is_empty() {
            return None;
        }
        self.words(sender, recipient)
    }

    /// Why a message is not taken, whose recipients have become others since RCPT: when all of its recipients are on the list.
    pub fn at_submission(&self, sender: &str, recipients: &[Recipient]) -> Option<String> {
        if !self.submission || sender.is_empty() {
            return None;
        }
        let mut first = None;
        for recipient in recipients {
            let found = self.words(sender, &recipient.address)?;
            first.get_or_insert(found);
        }
        first
    }

    fn words(&self, sender: &str, recipient: &str) -> Option<String> {
        self.list.find(recipient, sender, Timestamp::now()).ok().flatten().map(|entry| words(&entry))
    }
}

//! What happens from now on.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_ledger::{Entry, Field, Ledger, day_of, json};

use super::words::Language;
use super::{Options, Trouble, ask, show};

/// How often the ledger is looked at.
const PAUSE: Duration = Duration::from_millis(500);

/// Shows entries as they come, until interrupted.
pub fn run(ledger: &mut Ledger, options: &Options, _language: Language) -> Result<(), Trouble> {
    let asked = ask::understand(&options.query.join(" "));
    let mut mark = BTreeMap::new();
    let today = || day_of(Timestamp::now().seconds()).saturating_sub(1);
    // What is there already was not asked for.
    ledger.after(&mut mark, today(), |_| {})?;
    loop {
        let mut new = Vec::new();
        ledger.after(&mut mark, today(), |entry| {
            if wanted(&entry, &asked, options) {
                new.push(entry);
            }
        })?;
        let mut out = io::stdout().lock();
        for entry in &new {
            if options.json {
                writeln!(out, "{}", json::line(entry))?;
            } else {
                show::entry(entry, true, &mut out)?;
            }
        }
        out.flush()?;
        drop(out);
        std::thread::sleep(PAUSE);
    }
}

fn wanted(entry: &Entry, asked: &[(Field, String)], options: &Options) -> bool {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let is = |(field, text): &(Field, String)| match field {
        // Every line of a sender's mail, not only the first.
        Field::Sender => entry.sender.as_deref().is_some_and(|sender| same(sender, text)),
        field => yamabiko_ledger::matches(entry, *field, text),
    };
    // What the entry by itself would make of a recipient.
    let state = || yamabiko_ledger::judge([entry], entry.at, Duration::MAX).state;
    (asked.is_empty() || asked.iter().any(is))
        && (options.state.is_empty() || options.state.contains(&state()))
        && (options.reason.is_empty() || options.reason.iter().any(|reason| same(reason, &entry.reason)))
        && options
            .sender
            .as_deref()
            .is_none_or(|wanted| entry.sender.as_deref().is_some_and(|known| same(known, wanted)))
}

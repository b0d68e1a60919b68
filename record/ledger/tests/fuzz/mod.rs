//! Bodies of fuzz targets, run as ordinary tests too.

use yamabiko_envelope::Timestamp;
use yamabiko_ledger::remote_id;
use yamabiko_ledger::suppress::{Rules, foreign};

/// A reply, a list of somebody else's, a file of rules.
pub fn ledger_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let id = remote_id(&text);
    assert!(text.contains(id));
    let _ = Rules::parse(&text);
    let found = foreign::read(&text, "fuzz", Timestamp::from_seconds(1));
    for entry in found.entries {
        assert!(entry.address.contains('@') && entry.evidence.chars().count() <= 300);
    }
}

/// A journal of entries that were on their way.
pub fn ledger_journal(data: &[u8]) {
    yamabiko_ledger::record::entries(data, |entry| assert!(entry.recipients.len() <= data.len()));
}

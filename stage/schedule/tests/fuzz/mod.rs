//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_schedule::{Schedule, Settings, profiles, sheet};

/// Profiles of receivers, shipped or an administrator's own.
pub fn sending_profiles(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (rules, remarks) = profiles::rules("all, /x", |_| Ok(text.clone().into_owned()));
    // The shipped ones are there whatever the file says, and half a file is worse than none.
    assert!(rules.len() >= 7 || remarks.is_empty(), "{remarks:?}");
    for rule in rules.iter() {
        assert!(!rule.sites.is_empty());
        assert!(rule.limits.rate_delay <= Duration::from_secs(86_400));
        assert!(rule.limits.session_pause <= Duration::from_secs(86_400));
    }
}

/// The file of learned limits.
pub fn learned_limits(data: &[u8]) {
    if let Some(again) = taken_up(data) {
        // What was taken up and written is taken up again as it is.
        assert_eq!(taken_up(again.as_bytes()).as_deref(), Some(again.as_str()));
    }
}

/// What would be written after a file was taken up.
fn taken_up(text: &[u8]) -> Option<String> {
    let now = Timestamp::from_seconds(1_790_000_000);
    let mut schedule = Schedule::new(Settings::default());
    sheet::teach(&mut schedule, sheet::parse(text).ok()?, now);
    for known in schedule.known_sites() {
        assert!(known.learned.rate_delay <= Duration::from_secs(86_400));
    }
    sheet::sheet(&schedule).to_text().ok()
}

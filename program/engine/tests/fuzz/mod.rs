//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use std::time::Duration;

use yamabiko_engine::fuzzing;

/// Profiles of receivers, shipped or an administrator's own.
pub fn sending_profiles(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (rules, remarks) = yamabiko_engine::profiles::rules("all, /x", |_| Ok(text.clone().into_owned()));
    // The shipped ones are there whatever the file says, and half a file is worse than none.
    assert!(rules.len() >= 7 || remarks.is_empty(), "{remarks:?}");
    for rule in rules.iter() {
        assert!(!rule.sites.is_empty());
        assert!(rule.limits.rate_delay <= Duration::from_secs(86_400));
        assert!(rule.limits.session_pause <= Duration::from_secs(86_400));
    }
}

/// Replies that ask for a wait.
pub fn hinted_wait(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(wait) = fuzzing::hinted_wait(&text) {
        assert!(wait <= Duration::from_secs(86_400));
        assert!(text.bytes().any(|byte| byte.is_ascii_digit()));
    }
    fuzzing::signal(&text);
}

/// The file of learned limits.
pub fn learned_limits(data: &[u8]) {
    if let Ok(again) = fuzzing::learned_limits(data) {
        // What was taken up and written is taken up again as it is.
        assert_eq!(fuzzing::learned_limits(&again).as_deref(), Ok(&again[..]));
    }
}

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_sim::profile::parse;

/// Profiles of receivers for rehearsals, as users write them.
pub fn receivers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut profiles = Vec::new();
    let read = parse(&text, &mut profiles);
    if let Err(bad) = &read {
        assert!(bad.line >= 1 && bad.line <= text.lines().count(), "{bad}");
    }
    for profile in &profiles {
        assert!((1..=9).contains(&profile.hosts));
        for refusal in [&profile.sessions_refusal, &profile.messages_refusal, &profile.recipients_refusal] {
            assert!(refusal.as_bytes()[..3].iter().all(u8::is_ascii_digit) && !refusal.contains(['\r', '\n']));
        }
        for name in ["unknown", "full", "no such name"] {
            assert!(!profile.reply(name).1.is_empty());
        }
    }
    // Read twice nothing changes: later words of the same profile are the same.
    if read.is_ok() {
        let before = format!("{profiles:?}");
        assert!(parse(&text, &mut profiles).is_ok() && format!("{profiles:?}") == before);
    }
}

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_receive::verification::Cache;
use yamabiko_receive::{ListAnswers, policy_action};

/// Answers of policy servers: whole or not, an action is one line of the answer.
pub fn policy_answer(data: &[u8]) {
    if let Ok(Some(action)) = policy_action(data) {
        assert!(!action.contains('\n'));
        assert!(data.ends_with(b"\n\n"));
    }
}

/// Patterns of answers that count: what is read counts something.
pub fn list_answers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(answers) = ListAnswers::parse(text) {
        let counts = |n: u32| answers.contain(std::net::Ipv4Addr::from(n));
        let _ = counts(0) || counts(u32::MAX);
        assert!(text.len() >= "0.0.0.0".len());
    }
}

/// The file of verified addresses: what is read is written and read again.
pub fn verify_cache(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut cache = Cache::default();
    for line in text.lines() {
        let _ = cache.read(line);
    }
    let lines: Vec<_> = cache.lines().collect();
    let mut again = Cache::default();
    for line in &lines {
        assert!(again.read(line).is_some(), "{line:?}");
    }
    assert_eq!(again.len(), lines.len());
}

/// All of them.
pub fn said_by_others(data: &[u8]) {
    policy_answer(data);
    list_answers(data);
    verify_cache(data);
}

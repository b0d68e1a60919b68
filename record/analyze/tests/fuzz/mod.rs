//! Bodies of fuzz targets, run as ordinary tests too.

use std::sync::LazyLock;
use std::time::Duration;
use yamabiko_analyze::{Analyzer, Reply, Rules, hinted_wait as wait_of};

static ANALYZER: LazyLock<Analyzer> = LazyLock::new(Analyzer::embedded);

/// A message, read twice: the same both times.
pub fn analyze_message(data: &[u8]) {
    let once = ANALYZER.analyze(data);
    assert_eq!(once, ANALYZER.analyze(data));
    for finding in once.findings {
        assert!(finding.confidence <= 100);
    }
}

/// A reply, a provider's event and a rule file.
pub fn analyze_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    ANALYZER.classify(&Reply { text: &text, remote_host: &text, recipient: &text, ..Reply::default() });
    ANALYZER.analyze_event(data);
    if data.len() < 4096 {
        let _ = Rules::check("fuzz", &text);
    }
}

/// A reply that may ask for a wait.
pub fn hinted_wait(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(wait) = wait_of(&text) {
        assert!(wait <= Duration::from_secs(86_400));
        assert!(text.bytes().any(|byte| byte.is_ascii_digit()));
    }
}

//! Bodies of fuzz targets, run as ordinary tests too.

use std::sync::LazyLock;
use yamabiko_analyze::{Analyzer, Reply, Rules};

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

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_deliver::{sts, tlsrpt};

/// What strangers publish for secure transport: policies, records, answers of web servers.
pub fn published(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(policy) = sts::StsPolicy::parse(&text) {
        assert_eq!(sts::StsPolicy::parse(&policy.to_text()), Ok(policy.clone()));
        assert!(!policy.covers(""));
        assert!(policy.max_age <= 31_557_600);
    }
    if let Some(id) = sts::record_id([&*text]) {
        assert!(!id.is_empty() && id.len() <= 32);
    }
    for place in tlsrpt::read_record([&*text]).unwrap_or_default() {
        match place {
            tlsrpt::Rua::Mail(address) => assert!(address.contains('@') && !address.contains(['\r', '\n', ' '])),
            tlsrpt::Rua::Https { path, .. } => assert!(path.starts_with('/') && !path.contains(['\r', '\n', ' '])),
        }
    }
    if let Some(answer) = yamabiko_deliver::read_for_fuzzing(data) {
        assert!(answer.body.len() <= data.len());
    }
}

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_sasl::dovecot::Line;
use yamabiko_sasl::{base64, dovecot, exchange, passwords, scram::Verifier};

/// What an authentication server says: cut anywhere, it says the same.
pub fn dovecot_line(data: &[u8]) {
    let whole = Line::default().receive(data);
    let mut cut = Line::default();
    let (first, second) = data.split_at(data.len() / 2);
    if let (Ok(whole), Ok(mut said), second) = (whole, cut.receive(first), second)
        && let Ok(more) = cut.receive(second)
    {
        said.extend(more);
        assert_eq!(said, whole);
    }
    dovecot::read_any(data);
}

/// What a client says, a line each; and what stands in a table of passwords, but for the work of hashing.
pub fn sasl_exchange(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    exchange::run_any(&text);
    if let Some(verifier) = Verifier::parse(&text) {
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier));
    }
    if let Some(bytes) = base64::decode(&text) {
        assert_eq!(base64::encode(&bytes), text);
    }
    let _ = passwords::scram(&text, yamabiko_sasl::scram::Hash::Sha256);
}

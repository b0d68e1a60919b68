//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_mailauth::{Key, parse_identities, with_crlf, without_our_results};

/// The header section of a message of any bytes: what is taken out of it stays out, and the rest stays.
pub fn results_field(data: &[u8]) {
    if let Some(rest) = without_our_results(data, "mx.test") {
        assert!(rest.len() < data.len());
    }
    assert!(with_crlf(&[data]).len() >= data.len());
    let text = String::from_utf8_lossy(data);
    let _ = parse_identities(&text);
    let _ = Key::from_pem(&text);
}

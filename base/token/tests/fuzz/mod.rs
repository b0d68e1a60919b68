//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use std::time::Duration;

use yamabiko_envelope::Timestamp;
use yamabiko_token::{Keys, Reading};

/// An address that somebody writes to: a token that we did not make is never ours. The first line of the input is a key
/// file, the rest the address.
pub fn reverse_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, address) = text.split_once('\0').unwrap_or(("", &text));
    let _ = Keys::parse(file);
    let ours = Keys::parse("k the-secret-of-the-tests-here").expect("a key");
    let week = Duration::from_secs(7 * 86_400);
    match ours.read(address, "+-", Timestamp(1_795_280_034_000_000), week) {
        Reading::Plain => {}
        Reading::Forged { address: stripped } => assert!(stripped.len() < address.len()),
        Reading::Valid { .. } | Reading::Expired { .. } => panic!("nobody has signed {address:?}"),
    }
}

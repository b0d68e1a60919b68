//! What must hold for any input. Run on made-up input by the tests of `certificate.rs`, and on what a fuzzer finds by
//! `fuzz/`.

/// A certificate that a client presents: its names are short, and fit into a line of the log.
pub fn certificate(data: &[u8]) {
    let read = yamabiko_tls::read_any(data);
    for text in [&read.subject, &read.issuer, &read.subject_cn, &read.issuer_cn] {
        assert!(!text.chars().any(char::is_control));
        // The short name of an attribute is at most twelve letters, and it takes eight bytes at least.
        assert!(text.len() <= data.len() * 8 + 16);
    }
}

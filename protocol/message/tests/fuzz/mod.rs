//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_message::downgrade::Downgrade;
use yamabiko_message::{Fields, header_block, mbox, mime};

/// A message.
pub fn headers(data: &[u8]) {
    let fields = Fields::of(data);
    let again: Vec<u8> = fields.iter().flat_map(|field| [field.raw(), b"\n"].concat()).collect();
    let block = header_block(data);
    assert_eq!(again.strip_suffix(b"\n").unwrap_or(&again), block.strip_suffix(b"\n").unwrap_or(block));
    for field in &fields {
        assert!(!field.name().is_empty() && field.name().is_ascii());
        let _ = (field.unfolded(), field.known(), mime::media_type(field.value()));
        let _ = mime::parameter(field.value(), "boundary");
    }
    // However the message is cut, it is converted to the same.
    let whole = converted(data, data.len().max(1));
    assert_eq!(converted(data, 1), whole);
    assert_eq!(converted(data, 7), whole);
    let (mut quoted, mut start) = (Vec::new(), true);
    mbox::quote_from_lines(&mut quoted, data, &mut start);
    assert!(!quoted.starts_with(b"From "));
    assert_eq!(memchr::memmem::find(&quoted, b"\nFrom "), None);
}

fn converted(data: &[u8], step: usize) -> Vec<u8> {
    let (mut downgrade, mut out) = (Downgrade::new(), Vec::new());
    for piece in data.chunks(step) {
        downgrade.push(piece, &mut out);
    }
    downgrade.finish(&mut out);
    out
}

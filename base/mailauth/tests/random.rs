//! The fuzz body on made-up input: pieces of fields, in any order.

mod fuzz;

const PIECES: [&str; 14] = [
    "Authentication-Results:",
    "authentication-results :",
    " mx.test",
    "; spf=pass",
    "\n",
    "\n ",
    "\r\n\t",
    "(",
    ")",
    "\"",
    "From: a@b\n",
    "\n\n",
    "\u{0}\u{fe}",
    "-----BEGIN PRIVATE KEY-----\nAAAA\n",
];

#[test]
fn any_order() {
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.extend_from_slice(PIECES[(state >> 33) as usize % PIECES.len()].as_bytes());
        }
        fuzz::results_field(&text);
    }
}

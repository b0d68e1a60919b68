//! The fuzz bodies on made-up input, so that every test run has some of it.

mod common;
mod fuzz;

use common::Random;

#[test]
fn what_others_say() {
    let pieces: &[&str] = &[
        "action=", "DUNNO", "\n", "\n\n", "\r", "=", "127", ".", "[", "]", ";", "..", "255", "256", "0", "a@b.test",
        "\t", ":", "2:", "1:5:", "why", "\u{e9}",
    ];
    let mut random = Random(1);
    for _ in 0..50_000 {
        let mut input = Vec::new();
        for _ in 0..random.below(14) {
            match random.below(12) {
                0 => input.push(random.below(256) as u8),
                _ => input.extend_from_slice(pieces[random.below(pieces.len())].as_bytes()),
            }
        }
        fuzz::said_by_others(&input);
    }
}

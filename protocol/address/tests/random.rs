//! The fuzz bodies on made-up input, so that every test run has some of it.

mod fuzz;

/// Texts that make trouble next to each other.
const PIECES: &[&str] = &[
    "a",
    "user",
    "lab.test",
    "@",
    "<",
    ">",
    "(",
    ")",
    "\"",
    "\\",
    " ",
    "\t",
    "\n",
    ",",
    ";",
    ":",
    ".",
    "..",
    "[",
    "]",
    "[192.0.2.1]",
    "%",
    "!",
    "|",
    "é",
    "山彦",
    "xn--",
    "SIZE=10",
    "=?utf-8?b?",
    "\r",
    "\u{0}",
    "\u{7f}",
    "-",
    "_",
    "İ",
];

/// A small generator (xorshift): the same run every time.
fn inputs(rounds: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..rounds).map(move |_| {
        let pieces = next() % 24;
        let mut input = Vec::new();
        for _ in 0..pieces {
            match next() % 40 {
                0 => input.push(next() as u8),
                _ => input.extend_from_slice(PIECES[next() as usize % PIECES.len()].as_bytes()),
            }
        }
        input
    })
}

#[test]
fn paths() {
    inputs(50_000).for_each(|input| fuzz::address_path(&input));
}

#[test]
fn header_values() {
    inputs(50_000).for_each(|input| fuzz::header_addresses(&input));
}

#[test]
fn long_input_takes_linear_time() {
    // Quadratic behaviour would take minutes here.
    for piece in ["(", "\"", "<", ">", "a ", "a;", ":", ";:", "@", "\\", "a@b,", "[", "<a (b) ", "\n"] {
        let input = piece.repeat(400_000 / piece.len());
        fuzz::address_path(input.as_bytes());
        fuzz::header_addresses(input.as_bytes());
    }
}

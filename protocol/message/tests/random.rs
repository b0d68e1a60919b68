//! The fuzz bodies on made-up input, so that every test run has some of it.

mod fuzz;

/// Texts that make trouble next to each other.
const PIECES: &[&str] = &[
    "Subject: x\n",
    "Content-Type: multipart/mixed; boundary=",
    "\"b\"",
    "b",
    "\n",
    "\n\n",
    "--b",
    "--b--",
    " ",
    "\t",
    "Content-Type: message/rfc822\n",
    "Content-Transfer-Encoding: 8bit\n",
    "Content-Transfer-Encoding : binary\n",
    ":",
    "A",
    ";",
    "(",
    "\\",
    "\"",
    "é",
    "From ",
    "\nFrom ",
    ">From ",
    "=",
    "\r",
    "\u{0}",
    "; boundary=b\n",
    "multipart/digest",
];

fn inputs(rounds: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..rounds).map(move |_| {
        let pieces = next() % 30;
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
fn messages() {
    inputs(30_000).for_each(|input| fuzz::headers(&input));
}

#[test]
fn long_input_takes_linear_time() {
    for piece in
        ["a", "a:\n", "a: b\n ", "\n", "--b\n", "Content-Type: multipart/x; boundary=b\n\n--b\n", "é", "=\n", "From "]
    {
        fuzz::headers(piece.repeat(300_000 / piece.len()).as_bytes());
    }
}

//! The fuzz bodies on made-up input, so that every test run has some of it.

mod fuzz;

/// Pieces put together at random, the same in every run.
fn inputs(count: usize, pieces: &'static [&'static str]) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 1u64;
    let mut below = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % n
    };
    (0..count).map(move |_| {
        let mut input = Vec::new();
        for _ in 0..below(12) {
            match below(10) {
                0 => input.push(below(256) as u8),
                _ => input.extend_from_slice(pieces[below(pieces.len())].as_bytes()),
            }
        }
        input
    })
}

#[test]
fn commands() {
    let pieces = &[
        " ",
        "MAIL",
        "FROM:",
        "<",
        ">",
        "\"",
        "[",
        "]",
        "\\",
        "a@b",
        "SIZE=",
        "12",
        "BODY=8BITMIME",
        "RET=FULL",
        "ENVID=",
        "+20",
        "NOTIFY=NEVER",
        "ORCPT=",
        "rfc822;",
        "utf-8;",
        "\\x{5C71}",
        "XVERP",
        "=",
        "AUTH=",
        "SMTPUTF8",
        "山",
    ];
    inputs(30_000, pieces).for_each(|input| fuzz::smtp_command(&input));
}

#[test]
fn replies() {
    let pieces = &["250", "550", "-", " ", "\r\n", "\n", "\r", "2.1.0", "5.1.1 ", "SIZE 10", "AUTH PLAIN", "x", "é"];
    inputs(30_000, pieces).for_each(|input| fuzz::smtp_reply(&input));
}

#[test]
fn content() {
    let pieces = &[".", "\r", "\n", "\r\n", "\r\n.\r\n", "text", "..", "\0"];
    inputs(30_000, pieces).for_each(|input| fuzz::smtp_data(&input));
}

#[test]
fn large_input_takes_linear_time() {
    for piece in ["<", "\"", "\\", "\r", ".", "\n", "\r\n", ".\r\n", " ", "250-\r\n", "a"] {
        let input = piece.repeat(200_000 / piece.len());
        fuzz::smtp_command(input.as_bytes());
        fuzz::smtp_data(input.as_bytes());
        fuzz::smtp_reply(input.as_bytes());
    }
}

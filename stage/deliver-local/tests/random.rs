//! The fuzz bodies on made-up input, so that every test run has some of it.

mod fuzz;

/// Texts that make trouble next to each other.
const PIECES: [&[u8]; 16] = [
    b"|",
    b"&",
    b"./",
    b"/",
    b"..",
    b"-",
    b"+list",
    b"#",
    b"\n",
    b" ",
    b"default",
    b"a@b.test",
    b"\r",
    b"\0",
    b"\xff",
    "山".as_bytes(),
];

#[test]
fn made_up_input() {
    // A sequence without a pattern, the same every time (xorshift).
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..20_000 {
        let mut data = Vec::new();
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(PIECES[(state % 16) as usize]);
        }
        fuzz::dot_qmail(&data);
    }
}

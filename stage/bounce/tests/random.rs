//! The fuzz body on made-up input, so that every test run has some of it.

mod fuzz;

#[test]
fn made_up_control_files() {
    let pieces: &[&[u8]] = &[
        b"me\0",
        b"bouncefrom\0",
        b"bouncehost\0",
        b"doublebounceto\0",
        b"doublebouncehost\0",
        b"queuelifetime\0",
        b"bouncemaxbytes\0",
        b"locals\0",
        b"rcpthosts\0",
        b"604800\n\0",
        b"#@[]\n\0",
        b"mx.test\n\0",
        b"-1\0",
        b"\xff\xfe\0",
        b"\0",
        b"99999999999999999999\0",
        b" x y \n",
    ];
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % n
    };
    for _ in 0..20_000 {
        let mut input = Vec::new();
        for _ in 0..below(12) {
            input.extend_from_slice(pieces[below(pieces.len())]);
        }
        fuzz::control_files(&input);
    }
}

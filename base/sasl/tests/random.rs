//! The bodies of the fuzz targets on made-up input: enough to notice at once what a fuzzer would find in its first second.

mod fuzz;

const PIECES: [&str; 22] = [
    "VERSION\t1\t2\n",
    "MECH\tPLAIN\tplaintext\n",
    "DONE\n",
    "OK\t1\tuser=a\n",
    "CONT\t2\t",
    "FAIL\t3\treason=x\u{1}t\n",
    "\t",
    "\n",
    "PLAIN",
    "LOGIN",
    "SCRAM-SHA-256",
    "AGFsaWNlAHNlY3JldA==",
    "bixu=",
    "biwsbj11c2VyLHI9cg==",
    "=",
    "*",
    "SCRAM-SHA-256$1:AA==$",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ":",
    "\0",
    "山",
    "\u{fffd}",
];

#[test]
fn nothing_breaks() {
    let mut state = 7u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for _ in 0..20_000 {
        let text: String = (0..next(12)).map(|_| PIECES[next(PIECES.len())]).collect();
        let mut bytes = text.into_bytes();
        if next(3) == 0 && !bytes.is_empty() {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        fuzz::dovecot_line(&bytes);
        fuzz::sasl_exchange(&bytes);
    }
}

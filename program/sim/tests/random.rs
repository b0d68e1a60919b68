//! The bodies of the fuzz targets on made-up input.

mod fuzz;

const PIECES: &[&str] = &[
    "[a]\n",
    "[docomo]\n",
    "[",
    "]",
    "\n",
    "# x\n",
    "=",
    " = ",
    "sessions = 3\n",
    "hosts = 99999999999\n",
    "hosts = 0\n",
    "rate = 100/60s\n",
    "rate = 0/0s\n",
    "rate = /\n",
    "rate_refusal = MAIL 451 4.7.1 slow\n",
    "unknown = RCPT 550 no\n",
    "unknown = DOT 5\n",
    "full = RCPT 2\u{e9}0 x\n",
    "connect = refuses 421 x\n",
    "connect = refuses \n",
    "connect = dead\n",
    "delay = 5h\n",
    "delay = -1s\n",
    "starttls = works\n",
    "domains = a.test, B.test\n",
    "sessions_refusal = 421-a\\n421 b\n",
    "accepted = 250 ${id}\n",
    "\u{0}",
    "\r",
    "\u{e9}",
    "999999999999999999999999",
];

#[test]
fn receivers() {
    fuzz::receivers(yamabiko_sim::profile::SHIPPED.as_bytes());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap_or(0)
    };
    for _ in 0..20_000 {
        let text: String = (0..next() % 12).map(|_| PIECES[next() % PIECES.len()]).collect();
        fuzz::receivers(text.as_bytes());
    }
}

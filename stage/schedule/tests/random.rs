//! The bodies of the fuzz targets on made-up input.

mod fuzz;

const PROFILES: &[&str] = &[
    "[a]\n",
    "[docomo]\n",
    "[",
    "]\n",
    "\n",
    "# x\n",
    "=",
    "sites = a.test b.test\n",
    "concurrency = 3\n",
    "concurrency = -1\n",
    "messages = 4294967296\n",
    "rate_delay = 200ms\n",
    "rate_delay = 1e9h\n",
    "rate_delay = ..\n",
    "session_pause = 25h\n",
    "recipients = 1\n",
    "recipients = \u{e9}\n",
    "\u{0}",
    "\r\n",
];
const LIMITS: &[&str] = &[
    "{\"version\":1,\"sites\":[",
    "{\"site\":\"docomo.ne.jp\"",
    ",\"concurrency\":1",
    ",\"rate_delay_ms\":18446744073709551615",
    ",\"refused_concurrency\":[4,18446744073709551615]",
    ",\"suspended_until\":18446744073709551615",
    ",\"frozen\":true",
    ",\"reply\":\"421 no\"",
    ",\"source\":\"\u{e9}\"",
    ",\"at\":1",
    ",\"at\":18446744073709551615",
    ",\"refused_delay_ms\":[18446744073709551615,3]",
    ",\"session_messages\":4294967295",
    "}",
    ",",
    "]}",
    "{",
    "null",
    "\u{0}",
];

/// The same numbers each time.
fn numbers() -> impl FnMut() -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap_or(0)
    }
}

fn made_up(pieces: &[&str], times: usize, body: fn(&[u8])) {
    let mut next = numbers();
    for _ in 0..times {
        let text: String = (0..next() % 12).map(|_| pieces[next() % pieces.len()]).collect();
        body(text.as_bytes());
    }
}

#[test]
fn sending_profiles() {
    fuzz::sending_profiles(yamabiko_schedule::profiles::SHIPPED.as_bytes());
    made_up(PROFILES, 3000, fuzz::sending_profiles);
}

#[test]
fn learned_limits() {
    let whole = "{\"version\":1,\"sites\":[{\"site\":\"a.test\",\"concurrency\":3,\"rate_delay_ms\":200}]}";
    fuzz::learned_limits(whole.as_bytes());
    made_up(LIMITS, 5000, fuzz::learned_limits);
}

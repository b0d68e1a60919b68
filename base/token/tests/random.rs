//! The fuzz body on made-up input, so that every test run has some of it.

mod fuzz;

use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_token::{Claim, Keys, Reading};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

#[test]
fn made_up_addresses() {
    let pieces = [
        "you",
        "+",
        "-",
        "yb",
        "ybk",
        "k",
        "@",
        "example.jp",
        "\0",
        "\n",
        "#",
        " ",
        "1k3jd",
        "a2b3c4d5e6f7g2h3",
        "\u{e9}",
        "\"",
    ];
    let mut random = Random(1);
    for _ in 0..20_000 {
        let input: String = (0..random.below(16)).map(|_| pieces[random.below(pieces.len())]).collect();
        fuzz::reverse_path(input.as_bytes());
    }
}

/// One character of a true one changed, dropped or doubled.
#[test]
fn nearly_true_tokens() {
    let keys = Keys::parse("k the-secret-of-the-tests-here").unwrap();
    let now = Timestamp(1_795_280_034_000_000);
    let claim = Claim { queue_id: QueueId::new(now.0, 1), recipient: Some(77) };
    let address = keys.sign("you@example.jp", '+', claim).unwrap();
    let read = |address: &str| keys.read(address, "+", now, Duration::from_secs(86_400));
    assert!(matches!(read(&address), Reading::Valid { .. }));
    for at in 0..address.find('@').unwrap() {
        let (before, after) = (&address[..at], &address[at + 1..]);
        for other in [format!("{before}{after}"), format!("{before}z{after}"), format!("{before}2{after}")] {
            if !other.eq_ignore_ascii_case(&address) {
                assert!(!matches!(read(&other), Reading::Valid { .. } | Reading::Expired { .. }), "{other}");
            }
        }
    }
}

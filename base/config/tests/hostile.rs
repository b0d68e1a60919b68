//! Hostile and damaged files: pseudo-random ones, and those somebody would think of.

mod fuzz;

use std::time::{Duration, Instant};

use yamabiko_config::{Config, Host};

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound
    }
}

/// Pieces of the two grammars, strung together at random.
fn text_of(pieces: &[&str], random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..random.below(60) {
        text.extend_from_slice(pieces[random.below(pieces.len())].as_bytes());
        if random.below(40) == 0 {
            text.push(random.next().to_le_bytes()[0]);
        }
    }
    text
}

#[test]
fn made_up_main_cf() {
    let pieces = [
        "a",
        "b",
        "relayhost",
        "mydestination",
        "queue_run_delay",
        "biff",
        "message_size_limit",
        "myhostname",
        "mydomain",
        "inet_interfaces",
        "mynetworks_style",
        "bounce_queue_lifetime",
        "slow_recipient_limit",
        " = ",
        "=",
        "\n",
        "\n",
        "\n",
        "\n ",
        "#",
        "$",
        "${",
        "}",
        "{",
        "$(",
        ")",
        "?",
        ":",
        "$a",
        "$b",
        "${a?{x}:{y}}",
        "${{$a} == {1} ? {",
        "<level",
        "3.6",
        "86400",
        "5d",
        "yes",
        "no",
        ",",
        "hash:/x",
        "ldap:q",
        "$$",
        "\0",
        "é",
        "-1",
        "99999999999999999999",
        "host",
        "all",
        "domain_to_ascii{",
        "compatibility_level",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..300 {
        fuzz::main_cf(&text_of(&pieces, &mut random));
    }
}

#[test]
fn made_up_master_cf() {
    let pieces = [
        "smtp",
        "slow",
        " inet",
        " unix",
        " n",
        " -",
        " y",
        " n - n - - ",
        " 1?",
        " 100",
        " smtpd",
        " pipe",
        "\n",
        "\n",
        "\n  ",
        "#",
        " -o ",
        "-o",
        "{",
        "}",
        " { a = b }",
        "biff=no",
        "message_size_limit=$x",
        "$",
        "${",
        " -v",
        " -D",
        " -vv",
        "[::1]:25",
        "host:25",
        ":",
        "=",
        " argv=x",
        " slow_destination_concurrency_limit=1",
        "default_destination_rate_delay=1s",
        "é",
        "\0",
    ];
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for _ in 0..1000 {
        fuzz::master_cf(&text_of(&pieces, &mut random));
    }
}

/// Files that were made to hurt: each must be answered, either way, in reasonable time.
#[test]
fn made_to_hurt() {
    let mega = 1024 * 1024;
    let doubling: String =
        (0..60).map(|n| format!("d{n} = $d{}$d{}\n", n + 1, n + 1)).collect::<String>() + "d60 = x\nrelayhost = $d0\n";
    let chain: String = (0..5000).map(|n| format!("c{n} = $c{}\n", n + 1)).collect::<String>() + "relayhost = $c0\n";
    for text in [
        format!("relayhost = {}\n", "x".repeat(mega)),
        format!("{} = x\n", "n".repeat(mega)),
        format!("mydestination = {}\n", "a, ".repeat(mega / 3)),
        format!("relayhost = {}\n", "$".repeat(mega)),
        format!("relayhost = {}\n", "${".repeat(mega / 2)),
        format!("relayhost = {}{}\n", "${a?".repeat(20_000), "}".repeat(20_000)),
        format!("relayhost = {}\n", "{".repeat(mega)),
        format!("relayhost = {}\n", "$myhostname".repeat(50_000)),
        format!("big = {}\nrelayhost = {}\n", "x".repeat(10_000), "$big".repeat(10_000)),
        "a = 1\n".repeat(50_000),
        (0..50_000).map(|n| format!("unused_{n} = 1\n")).collect(),
        format!("a = 1\n{}", " x\n".repeat(100_000)),
        "\n".repeat(mega),
        doubling,
        chain,
        "relayhost = $relayhost\n".to_string(),
        "myhostname = $mydomain\nmydomain = $myhostname\n".to_string(),
    ] {
        let start = Instant::now();
        let _ = Config::from_texts(&text, "", ("main.cf", "master.cf"), &Host::default());
        let _ = Config::from_texts("", &text, ("main.cf", "master.cf"), &Host::default());
        let shown: String = text.chars().take(40).collect();
        // Not a measurement: quadratic time would need hours.
        assert!(start.elapsed() < Duration::from_secs(60), "{shown}: {:?}", start.elapsed());
    }
}

#[test]
fn a_master_cf_of_many_services() {
    let master: String =
        (0..3000).map(|n| format!("s{n} unix - - n - - smtp -o relayhost=$r{n} -o r{n}=x\n")).collect();
    let start = Instant::now();
    assert!(Config::from_texts("", &master, ("main.cf", "master.cf"), &Host::default()).is_ok());
    assert!(start.elapsed() < Duration::from_secs(60));
}

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use yamabiko_config::{Config, Host};
use yamabiko_envelope::Timestamp;
use yamabiko_lookup::TableSet;
use yamabiko_receive::screen::{Circumstances, Next, Screen, ScreenSettings};
use yamabiko_receive::upstream::{Parsed, parse};
use yamabiko_receive::verification::Cache;
use yamabiko_receive::{ListAnswers, policy_action};

/// Answers of policy servers: whole or not, an action is one line of the answer.
pub fn policy_answer(data: &[u8]) {
    if let Ok(Some(action)) = policy_action(data) {
        assert!(!action.contains('\n'));
        assert!(data.ends_with(b"\n\n"));
    }
}

/// Patterns of answers that count: what is read counts something.
pub fn list_answers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(answers) = ListAnswers::parse(text) {
        let counts = |n: u32| answers.contain(std::net::Ipv4Addr::from(n));
        let _ = counts(0) || counts(u32::MAX);
        assert!(text.len() >= "0.0.0.0".len());
    }
}

/// The file of verified addresses: what is read is written and read again.
pub fn verify_cache(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut cache = Cache::default();
    for line in text.lines() {
        let _ = cache.read(line);
    }
    let lines: Vec<_> = cache.lines().collect();
    let mut again = Cache::default();
    for line in &lines {
        assert!(again.read(line).is_some(), "{line:?}");
    }
    assert_eq!(again.len(), lines.len());
}

/// The header of HAProxy's protocol: bounded, and what is whole stays what it is when more follows.
pub fn proxy_header(data: &[u8]) {
    match parse(data) {
        Ok(Parsed::More(more)) => assert!(more > 0 && data.len() + more <= 1 << 16),
        Ok(Parsed::Done(ends)) => {
            let again = parse(data);
            assert_eq!(again, Ok(Parsed::Done(ends)));
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// A client before postscreen: it is told so much as it asks for, all of it is used or waited for, and the log gets a line
/// or two for a command.
pub fn screened(data: &[u8]) {
    static SETTINGS: OnceLock<Arc<ScreenSettings>> = OnceLock::new();
    let settings = SETTINGS.get_or_init(|| {
        let main = "compatibility_level = 3.6\nmyhostname = mx.test\npostscreen_pipelining_enable = yes\n\
                    postscreen_non_smtp_command_enable = yes\npostscreen_bare_newline_enable = yes\n\
                    postscreen_reject_footer = $client $helo_name $sender $recipient\n";
        let config = Config::from_texts(main, "", ("main.cf", "master.cf"), &Host::default());
        Arc::new(ScreenSettings::from(&config.expect("configuration").main(), &TableSet::default()))
    });
    let now = Timestamp(1_795_280_034_000_000);
    let (client, server) = ("192.0.2.7:4711".parse().expect("address"), "192.0.2.1:25".parse().expect("address"));
    let mut screen = Screen::new(Arc::clone(settings), client, server, now);
    screen.begin(&Circumstances::default());
    let later = now + Duration::from_secs(10);
    let mut next = screen.waited(later);
    // The first byte says in which pieces the rest comes.
    let Some((&step, rest)) = data.split_first() else { return };
    let mut heard: Vec<u8> = Vec::new();
    let (mut lines, mut said) = (0, 0);
    for piece in rest.chunks(usize::from(step).max(1)) {
        match next {
            Next::Read(_) => {}
            Next::Handshake => {
                heard.clear();
                next = screen.secured(later);
                continue;
            }
            _ => break,
        }
        heard.extend_from_slice(piece);
        let (used, then) = screen.said(&heard, later);
        assert!(used <= heard.len());
        heard.drain(..used);
        assert!(heard.len() <= 1 << 16, "a line has a limit");
        next = then;
        lines += screen.take_lines().len();
        said += std::mem::take(screen.output()).len();
    }
    let commands = rest.iter().filter(|byte| **byte == b'\n').count() + 2;
    assert!(lines <= 4 * commands && said <= 8192 * commands, "{lines} lines, {said} bytes for {commands}");
}

/// All of them.
pub fn said_by_others(data: &[u8]) {
    proxy_header(data);
    screened(data);
    policy_answer(data);
    list_answers(data);
    verify_cache(data);
}

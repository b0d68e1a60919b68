//! Dialogues as files: `tests/dialogues/*.txt`. Lines before the first `C:` or `S:` are main.cf; `@` names the client's
//! address; `C:` lines up to the next `S:` are sent at once; `S:` is what must come back; `S! closed` that the session
//! ends; `L:` lines at the end must be in the log, `N:` text must not. `#` begins a comment.
//!
//! Each dialogue runs with its input in one piece, byte by byte and in pieces of random size.

mod common;

use common::{Random, World};

struct Script {
    main: String,
    client: String,
    turns: Vec<(Vec<u8>, String)>,
    closed: bool,
    log: Vec<String>,
    not_in_log: Vec<String>,
}

fn parse(text: &str) -> Script {
    let mut script = Script {
        main: String::new(),
        client: "127.0.0.1".into(),
        turns: vec![(Vec::new(), String::new())],
        closed: false,
        log: Vec::new(),
        not_in_log: Vec::new(),
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let turn = script.turns.last_mut().unwrap();
        if let Some(address) = line.strip_prefix("@ ") {
            script.client = address.to_owned();
        } else if line == "S! closed" {
            script.closed = true;
        } else if let Some(sent) = line.strip_prefix("C:") {
            let sent = sent.strip_prefix(' ').unwrap_or(sent);
            let mut bytes = sent.replace("\\n", "\n").replace("\\r", "\r").replace("\\0", "\0").into_bytes();
            // `\` at the end: no line end.
            if bytes.last() == Some(&b'\\') {
                bytes.pop();
            } else {
                bytes.extend_from_slice(b"\r\n");
            }
            if turn.1.is_empty() && !turn.0.is_empty() {
                turn.0.extend_from_slice(&bytes);
            } else {
                script.turns.push((bytes, String::new()));
            }
        } else if let Some(reply) = line.strip_prefix("S: ") {
            turn.1.push_str(reply);
            turn.1.push_str("\r\n");
        } else if let Some(line) = line.strip_prefix("L: ") {
            script.log.push(line.to_owned());
        } else if let Some(line) = line.strip_prefix("N: ") {
            script.not_in_log.push(line.to_owned());
        } else {
            script.main.push_str(line);
            script.main.push('\n');
        }
    }
    script
}

fn run(name: &str, script: &Script, mut piece: impl FnMut(usize) -> usize) {
    let world = World::new(&script.main);
    let mut talk = world.connect(&script.client);
    for (sent, wanted) in &script.turns {
        // A script that does not begin with `S:` has a client that does not wait for the greeting.
        if sent.is_empty() && wanted.is_empty() {
            continue;
        }
        let mut said = String::new();
        let mut rest = &sent[..];
        loop {
            let (now, later) = rest.split_at(piece(rest.len()).clamp(rest.len().min(1), rest.len()));
            said.push_str(&talk.say(now));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        // Queue IDs differ from run to run of the test's own counter, not within one.
        let shown = String::from_utf8_lossy(sent);
        let said = said.split("\r\n").map(mask).collect::<Vec<_>>().join("\r\n");
        assert_eq!(said, *wanted, "{name}: after {shown:?}");
    }
    assert_eq!(talk.closed, script.closed, "{name}: closed");
    if !talk.closed {
        talk.session.lost();
    }
    talk.session.finish(common::NOW);
    let log = world.log.lines();
    for wanted in &script.log {
        assert!(log.iter().any(|line| line == wanted), "{name}: no line {wanted:?} in {log:#?}");
    }
    for unwanted in &script.not_in_log {
        assert!(!log.iter().any(|line| line.contains(unwanted)), "{name}: {unwanted:?} in {log:#?}");
    }
}

fn mask(line: &str) -> String {
    match line.split_once("queued as ") {
        Some((head, _)) => format!("{head}queued as Q"),
        None => line.to_owned(),
    }
}

#[test]
fn dialogues() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let script = parse(&std::fs::read_to_string(&file).unwrap());
        run(&name, &script, |left| left);
        // Whether a client talks out of turn is seen from what has come already, so such dialogues come in one piece.
        if name.starts_with("early") {
            continue;
        }
        run(&name, &script, |_| 1);
        for seed in 0..20 {
            let mut random = Random(seed);
            run(&name, &script, |left| 1 + random.below(left.max(1)));
        }
    }
}

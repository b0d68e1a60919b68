//! Hostile input: nothing panics, nothing hangs, nothing grows beyond the message, and the same bytes give the same answer.

use std::fs;
use std::path::{Path, PathBuf};

use yamabiko_analyze::{Analyzer, Reply, Stage};

/// All fixtures, sorted.
fn samples() -> Vec<(PathBuf, Vec<u8>)> {
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    let mut all = Vec::new();
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "eml") {
                all.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    assert!(all.len() > 90);
    all
}

/// The collection of bounces beside the repository, where it is.
fn collection() -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("YAMABIKO_SHARED").map(PathBuf::from);
    let places = [shared, Some(root.join("../../../shared")), Some(root.join("../../../../shared"))];
    let place =
        places.into_iter().flatten().map(|place| place.join("bounce-corpus/emails/bsd")).find(|place| place.is_dir());
    let Some(place) = place else {
        println!("no collection of bounces beside the repository: only the project's own mails are cut");
        return Vec::new();
    };
    let mut all: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

#[test]
fn cut_at_every_97th_byte() {
    let analyzer = Analyzer::embedded();
    for (path, message) in samples().into_iter().chain(collection()) {
        for end in (0..message.len()).step_by(97) {
            let analysis = analyzer.analyze(&message[..end]);
            assert!(analysis.findings.len() < 200, "{} cut at {end}", path.display());
        }
    }
}

#[test]
fn flipped_bytes() {
    let analyzer = Analyzer::embedded();
    let mut random = Random(20_261_121);
    for (_, message) in samples() {
        for _ in 0..12 {
            let mut broken = message.clone();
            for _ in 0..1 + random.below(40) {
                let at = random.below(broken.len());
                broken[at] = random.below(256) as u8;
            }
            // A piece taken out and put in elsewhere.
            let (from, length) = (random.below(broken.len()), random.below(300));
            let piece: Vec<u8> = broken[from..(from + length).min(broken.len())].to_vec();
            let at = random.below(broken.len());
            broken.splice(at..at, piece);
            let first = analyzer.analyze(&broken);
            assert_eq!(first, analyzer.analyze(&broken));
        }
    }
}

#[test]
fn the_same_answer_every_time() {
    let (one, other) = (Analyzer::embedded(), Analyzer::embedded());
    for (path, message) in samples() {
        assert_eq!(one.analyze(&message), other.analyze(&message), "{}", path.display());
    }
}

fn bounce_with(headers: &str, attachment: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "From: MAILER-DAEMON@mx.example.org\nSubject: Undelivered Mail Returned to Sender\n{headers}MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\n\n<x@example.net>: 550 5.1.1 User unknown\n\n\
         --b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; x@example.net\n\
         Action: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n\n--b\nContent-Type: message/rfc822\n\n\
         From: hanako@example.com\nMessage-ID: <1@example.com>\n\n"
    )
    .into_bytes();
    out.extend_from_slice(attachment);
    out.extend_from_slice(b"\n--b--\n");
    out
}

fn one_unknown_user(message: &[u8]) {
    let analysis = Analyzer::embedded().analyze(message);
    let found: Vec<_> = analysis.findings.iter().map(|f| (f.recipient.as_str(), f.reason.name())).collect();
    assert_eq!(found, [("x@example.net", "userunknown")]);
}

#[test]
fn a_large_attachment() {
    let line = b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3\n";
    one_unknown_user(&bounce_with("", &line.repeat((50 << 20) / line.len())));
}

#[test]
fn a_million_header_lines() {
    one_unknown_user(&bounce_with(&"X-Line: 550 5.1.1 nothing\n".repeat(1_000_000), b""));
    one_unknown_user(&bounce_with("", "X-Line: 550 5.1.1 nothing\n".repeat(1_000_000).as_bytes()));
    // One field in a million lines.
    one_unknown_user(&bounce_with(&format!("X-Line: a\n{}", "\tb\n".repeat(1_000_000)), b""));
}

#[test]
fn endless_lines_and_boundaries() {
    one_unknown_user(&bounce_with("", &b"x".repeat(5 << 20)));
    one_unknown_user(&bounce_with(&format!("X-Long: {}\n", "a=?".repeat(1 << 20)), b""));
    one_unknown_user(&bounce_with("", &b"--b2\n".repeat(1 << 20)));
    for text in [
        "=?utf-8?B?",
        "<",
        "(",
        "\"",
        "\\",
        "550 ",
        "5.1.1 ",
        ">>> RCPT TO:<a@example.net>\n<<< 550 no\n",
        "<a@example.net>: ",
    ] {
        let body = text.repeat((1 << 20) / text.len());
        let message = format!("From: MAILER-DAEMON@example.org\nSubject: Mail delivery failed\n\n{body}");
        let analysis = Analyzer::embedded().analyze(message.as_bytes());
        assert!(analysis.findings.len() < 100_000, "{text}");
        let header = format!("From: {body}\nSubject: {body}\nContent-Type: {body}\n\nx\n");
        let _ = Analyzer::embedded().analyze(header.as_bytes());
    }
}

#[test]
fn nesting() {
    for (before, after) in [
        ("Content-Type: message/rfc822\n\n", ""),
        ("Content-Type: multipart/mixed; boundary=\"b\"\n\n--b\n", "\n--b--\n"),
    ] {
        for depth in [500, 5_000] {
            let inner = "Content-Type: text/plain\n\n<x@example.net>: 550 5.1.1 User unknown\n";
            let message = format!(
                "From: MAILER-DAEMON@example.org\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n{}{inner}{}",
                before.repeat(depth),
                after.repeat(depth)
            );
            let _ = Analyzer::embedded().analyze(message.as_bytes());
        }
    }
    // Each part with a boundary of its own.
    let mut message = String::from("From: MAILER-DAEMON@example.org\nMIME-Version: 1.0\n");
    for n in 0..500 {
        message += &format!("Content-Type: multipart/mixed; boundary=\"b{n}\"\n\n--b{n}\n");
    }
    let _ = Analyzer::embedded().analyze(message.as_bytes());
}

#[test]
fn replies_of_any_kind() {
    let analyzer = Analyzer::embedded();
    let mut random = Random(7);
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
        let text = String::from_utf8_lossy(&bytes);
        let _ = analyzer.classify(&Reply { text: &text, stage: Some(Stage::Rcpt), ..Reply::default() });
    }
    for text in ["", " ", "5", "55", "550", "550 ", "550-", "550-\n550", "999 9.9.9", "5.1.1", "\u{0}", "山彦"] {
        let _ = analyzer.classify(&Reply { text, ..Reply::default() });
    }
    let long = "550 5.1.1 user unknown ".repeat(100_000);
    assert_eq!(analyzer.classify(&Reply { text: &long, ..Reply::default() }).reason.name(), "userunknown");
    let _ = analyzer.analyze_event(b"[[[[[[[[");
    let _ = analyzer.analyze_event("[".repeat(1 << 20).as_bytes());
    let _ = analyzer.analyze_event(format!("{{\"a\":{}", "{\"a\":".repeat(1 << 18)).as_bytes());
}

//! How many messages of a directory are read in a second, from memory, on one core: the best of many rounds, since other
//! work on the machine makes a round slower and never faster.
//!
//!     cargo run --release -p yamabiko-analyze --example speed -- [--rounds N] [--why] DIR...
//!
//! Without `--why` findings come without their evidence, as `yamabiko analyze` reads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use yamabiko_analyze::Analyzer;

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut rounds = 50;
    if arguments.next_if(|word| word == "--rounds").is_some() {
        rounds = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(rounds);
    }
    let started = Instant::now();
    let why = arguments.next_if(|word| word == "--why").is_some();
    let analyzer = if why { Analyzer::embedded() } else { Analyzer::embedded().without_evidence() };
    println!("rules compiled in {:?}", started.elapsed());
    let mut paths = Vec::new();
    for dir in arguments {
        files(Path::new(&dir), &mut paths);
    }
    paths.sort();
    let messages: Vec<Vec<u8>> = paths.iter().filter_map(|p| std::fs::read(p).ok()).collect();
    let bytes: usize = messages.iter().map(Vec::len).sum();
    let mut findings = 0;
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let started = Instant::now();
        findings = messages.iter().map(|m| analyzer.analyze(m).findings.len()).sum();
        best = best.min(started.elapsed());
    }
    let seconds = best.as_secs_f64();
    println!(
        "{} messages, {findings} findings, {:.0} messages/s, {:.0} MB/s",
        messages.len(),
        messages.len() as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
}

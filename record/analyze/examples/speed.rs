//! How many messages of a directory are read in a second, from memory, on one core.

use std::path::{Path, PathBuf};
use std::time::Instant;
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
    let started = Instant::now();
    let analyzer = Analyzer::embedded();
    println!("rules compiled in {:?}", started.elapsed());
    let mut paths = Vec::new();
    for dir in std::env::args().skip(1) {
        files(Path::new(&dir), &mut paths);
    }
    let messages: Vec<Vec<u8>> = paths.iter().filter_map(|p| std::fs::read(p).ok()).collect();
    let bytes: usize = messages.iter().map(Vec::len).sum();
    let rounds = 20;
    let mut findings = 0;
    let started = Instant::now();
    for _ in 0..rounds {
        findings = messages.iter().map(|m| analyzer.analyze(m).findings.len()).sum();
    }
    let seconds = started.elapsed().as_secs_f64() / f64::from(rounds);
    println!(
        "{} messages, {findings} findings, {:.0} messages/s, {:.0} MB/s",
        messages.len(),
        messages.len() as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
}

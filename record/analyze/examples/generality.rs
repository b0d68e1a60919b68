//! How much of what is right rests on a rule that fits one message only: all rules that a single message of a directory
//! uses are taken out, and the messages read again. What is still decided alike is what can be expected of mail that
//! nobody has seen.
//!
//!     cargo run --release -p yamabiko-analyze --example generality -- DIR...

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use yamabiko_analyze::{Analyzer, Rules};

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
    let mut paths = Vec::new();
    for dir in std::env::args().skip(1) {
        files(Path::new(&dir), &mut paths);
    }
    paths.sort();
    // Variants of one message (other line ends) have one name.
    let mut messages: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Ok(bytes) = std::fs::read(&path) {
            messages.entry(name).or_insert(bytes);
        }
    }
    let whole = Analyzer::embedded();
    let reasons = |analyzer: &Analyzer, message: &[u8]| -> Vec<String> {
        analyzer.analyze(message).findings.iter().map(|f| format!("{} {}", f.recipient, f.reason)).collect()
    };
    let mut used: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
    let mut before = BTreeMap::new();
    for (name, message) in &messages {
        for finding in whole.analyze(message).findings {
            for evidence in finding.evidence {
                used.entry(evidence.rule).or_default().insert(name);
            }
        }
        before.insert(name, reasons(&whole, message));
    }
    let single: BTreeSet<&String> = used.iter().filter(|(_, by)| by.len() == 1).map(|(rule, _)| rule).collect();
    let rules = Rules::default().only(|rule| !single.contains(&rule.name));
    let reduced = Analyzer::new(rules);
    let (mut all, mut same) = (0, 0);
    for (name, message) in &messages {
        let (old, new) = (&before[name], reasons(&reduced, message));
        if old.is_empty() && new.is_empty() {
            continue;
        }
        all += 1;
        if *old == new {
            same += 1;
        } else {
            println!("{name}: {} became {}", old.join(", "), new.join(", "));
        }
    }
    println!(
        "{} rules are used, {} of them by one message only; without these {same} of {all} messages ({:.1} %) are decided alike",
        used.len(),
        single.len(),
        100.0 * f64::from(same) / f64::from(all.max(1))
    );
}

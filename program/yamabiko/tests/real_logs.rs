//! Logs of real mail servers, made by `tests/real-logs/make`: what `yamabiko import` finds in them is what the receivers saw,
//! and `yamabiko report` counts what pflogsumm counts. Skipped, with a word, where a server or pflogsumm is not there.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_yamabiko");

/// The log of a server, unless it cannot be made here.
fn made(dir: &Path, server: &str) -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/real-logs/make");
    let said = Command::new("python3").args([script, PROGRAM]).arg(dir).arg(server).output();
    let said = match said {
        Ok(said) => said,
        Err(error) => {
            eprintln!("skipped: python3: {error}");
            return None;
        }
    };
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    if said.status.code() == Some(77) {
        eprintln!("skipped: {words}");
        return None;
    }
    assert!(said.status.success(), "{words}");
    Some(dir.join(format!("{server}.log")))
}

fn yamabiko(args: &[&str]) -> String {
    let said = Command::new(PROGRAM).args(args).env("TZ", "UTC").output().expect("it runs");
    assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// Imports a log; every recipient has the state that its address says.
fn imported(dir: &Path, server: &str, log: &Path) {
    let (ledger, log) = (dir.join("ledger").display().to_string(), log.display().to_string());
    let told = yamabiko(&["import", "--json", "--zone", "UTC", "--ledger", &ledger, &log]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    for trouble in ["unknown", "unreadable"] {
        assert_eq!(told[trouble]["count"].as_u64().unwrap_or(0), 0, "{trouble}: {told:#}");
    }
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for n in 0..20 {
        let domain = format!("d{n:02}.test");
        for line in yamabiko(&["fate", "--json", "--ledger", &ledger, &domain]).lines() {
            let history: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| history[name].as_str().unwrap_or_default().to_owned();
            // Some were sent to twice: by SMTP and by the command. Their end is the same.
            found.insert(text("recipient"), text("state"));
        }
    }
    let sent = std::fs::read_to_string(dir.join(format!("{server}.sent"))).expect("recipients");
    let mut wrong = Vec::new();
    for recipient in sent.lines() {
        let wanted: &[&str] = match recipient.split('-').next().unwrap_or_default() {
            "ok" | "lost" => &["sent"],
            // Mail for a destination that has just refused others waits longer than its life here.
            "grey" => &["sent", "expired", "deferred"],
            "full" | "defer" | "deferdata" => &["expired", "deferred"],
            "dropdot" | "lostreply" => &["expired", "deferred", "uncertain"],
            _ => &["bounced"],
        };
        let state = found.get(recipient).map_or("nothing", String::as_str);
        if !wanted.contains(&state) {
            wrong.push(format!("{recipient}: {state}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Totals at the top of a report: word to number.
fn totals(report: &str) -> BTreeMap<String, String> {
    let rows = report.lines().take(30).filter_map(|line| {
        let (number, word) = line.trim().split_once(char::is_whitespace)?;
        number.starts_with(|c: char| c.is_ascii_digit()).then(|| (word.trim().to_owned(), number.to_owned()))
    });
    rows.take_while(|(word, _)| !word.starts_with("0000")).collect()
}

#[test]
fn postfix_and_pflogsumm() {
    let dir = tempfile::tempdir().unwrap();
    let Some(log) = made(dir.path(), "postfix") else { return };
    imported(dir.path(), "postfix", &log);
    let theirs = Command::new("pflogsumm").arg(&log).env("TZ", "UTC").output();
    let Ok(theirs) = theirs else {
        eprintln!("skipped: pflogsumm is not there");
        return;
    };
    let (ours, theirs) =
        (yamabiko(&["report", &log.display().to_string()]), String::from_utf8_lossy(&theirs.stdout).into_owned());
    let (ours, theirs) = (totals(&ours), totals(&theirs));
    assert!(theirs.len() >= 12, "{theirs:?}");
    assert_eq!(ours, theirs);
}

#[test]
fn exim() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(log) = made(dir.path(), "exim") {
        imported(dir.path(), "exim", &log);
    }
}

#[test]
fn sendmail() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(log) = made(dir.path(), "sendmail") {
        imported(dir.path(), "sendmail", &log);
    }
}

//! Checks on the project itself.
//!
//! `cargo xtask layering`: dependencies between our crates point from `program` down to `protocol` only, stages never
//! depend on each other, and the asynchronous runtime and TLS appear only where network bytes are. The path of a
//! crate is its ring; `cargo metadata` tells the rest.
//!
//! `cargo xtask fuzz`: every target file in `fuzz/fuzz_targets` is listed in `fuzz/Cargo.toml` and the other way round,
//! and the inputs that strangers control each have one. `cargo xtask fuzz SECONDS` runs each for so long.
//!
//! `cargo xtask lab LAB BIN`: runs the laboratory's scenarios on the commands in BIN. Those in `tests/lab-passing.txt`
//! must pass; others that pass are named, to be added there.
//!
//! `cargo xtask crash --rounds 500`: kills, reloads and stops a whole mail system under load and accounts for every
//! message. `--minutes`, `--seed`, `--only kills` (or `storms`, `panics`, `disks`), `--user NAME`.
//!
//! `cargo xtask month --messages 100000`: a month of mail against receivers of many moods, with kills in between, and whether
//! the ledger says of every recipient what really became of it. `--program FILE` takes another build of the program.
//!
//! `cargo xtask scale --count N`: what a long queue costs, on a real mail system with N deferred messages, and what mail waits
//! for meanwhile: a table. `--bytes`, `--destinations`, `--ledger`, `--dir DIR`, `--keep`, `--no-build`.

mod beat;
mod crash;
mod fuzz;
mod lab;
mod month;
mod scale;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use serde_json::Value;

/// Rings from the bottom up. A crate may use crates of lower rings, and of its own ring where that is allowed below.
const RINGS: [&str; 5] = ["protocol", "base", "stage", "record", "program"];

/// Every crate that has a place, made or still to come, and its ring.
const CRATES: &[(&str, &str)] = &[
    ("address", "protocol"),
    ("status", "protocol"),
    ("message", "protocol"),
    ("smtp", "protocol"),
    ("report", "protocol"),
    ("envelope", "base"),
    ("config", "base"),
    ("lookup", "base"),
    ("lookup-remote", "base"),
    ("mailauth", "base"),
    ("checks", "base"),
    ("milter", "base"),
    ("route", "base"),
    ("dns", "base"),
    ("tls", "base"),
    ("sasl", "base"),
    ("token", "base"),
    ("log", "base"),
    ("ipc", "base"),
    ("sys", "base"),
    ("receive", "stage"),
    ("pickup", "stage"),
    ("cleanup", "stage"),
    ("queue", "stage"),
    ("schedule", "stage"),
    ("deliver", "stage"),
    ("deliver-local", "stage"),
    ("bounce", "stage"),
    ("ledger", "record"),
    ("analyze", "record"),
    ("maillog", "record"),
    ("supervisor", "program"),
    ("engine", "program"),
    ("local", "program"),
    ("console", "program"),
    ("sim", "program"),
    ("commands", "program"),
    ("yamabiko", "program"),
    ("xtask", "xtask"),
    ("fuzz", "fuzz"),
    ("tests", "tests"),
];

/// Heavy outside crates and who may name them as an ordinary dependency.
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("tokio", &["dns", "lookup-remote", "mailauth", "tls", "milter", "receive", "deliver", "engine", "console", "sim"]),
    ("rustls", &["tls", "lookup-remote"]),
    ("hickory-resolver", &["dns", "sim"]),
    ("rusqlite", &["ledger", "lookup-remote"]),
];

/// What the privileged program may link, of our own crates: nothing that parses mail.
const SUPERVISOR: [&str; 8] = ["config", "ipc", "sys", "log", "envelope", "address", "status", "lookup"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["layering"] => layering(),
        ["fuzz"] => fuzz::run(),
        ["fuzz", seconds] => fuzz::short(seconds),
        ["lab", lab, bin] => lab::run(lab, bin),
        ["crash", ref args @ ..] => crash::run(args),
        ["month", ref args @ ..] => month::run(args),
        ["scale", ref options @ ..] => scale::run(options),
        _ => {
            eprintln!(
                "usage: cargo xtask layering | fuzz [SECONDS] | lab LAB BIN | crash [--rounds N] ... | month [--messages N] | \
                 scale [--count N]"
            );
            ExitCode::from(2)
        }
    }
}

struct Member {
    ring: String,
    uses: Vec<(String, bool)>,
}

fn layering() -> ExitCode {
    let output = match Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).output() {
        Ok(output) if output.status.success() => output.stdout,
        other => {
            eprintln!("xtask: cargo metadata failed: {other:?}");
            return ExitCode::FAILURE;
        }
    };
    let complaints = match serde_json::from_slice::<Value>(&output) {
        Ok(metadata) => check(&members(&metadata)),
        Err(error) => vec![format!("cargo metadata is not readable: {error}")],
    };
    for complaint in &complaints {
        eprintln!("layering: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Our crates by short name, with what they use (name, true for an ordinary dependency).
fn members(metadata: &Value) -> BTreeMap<String, Member> {
    let mut members = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let path = package["manifest_path"].as_str().unwrap_or_default();
        let mut parts = path.rsplit('/').skip(1);
        let (folder, ring) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let ring = if RINGS.contains(&ring) { ring } else { folder };
        let uses = package["dependencies"].as_array().into_iter().flatten().map(|dependency| {
            let name = dependency["name"].as_str().unwrap_or_default();
            (name.strip_prefix("yamabiko-").unwrap_or(name).to_owned(), dependency["kind"].is_null())
        });
        members.insert(folder.to_owned(), Member { ring: ring.to_owned(), uses: uses.collect() });
    }
    members
}

fn check(members: &BTreeMap<String, Member>) -> Vec<String> {
    let mut complaints = Vec::new();
    let height = |ring: &str| RINGS.iter().position(|r| *r == ring);
    for (name, member) in members {
        match CRATES.iter().find(|(known, _)| known == name) {
            None => complaints.push(format!("crate `{name}` has no place in xtask's list of crates")),
            Some((_, ring)) if *ring != member.ring => {
                complaints.push(format!("crate `{name}` lies in {}/, its place is {ring}/", member.ring));
            }
            Some(_) => {}
        }
        for (used, ordinary) in &member.uses {
            if let Some((_, allowed)) = OUTSIDE.iter().find(|(outside, _)| outside == used)
                && *ordinary
                && !allowed.contains(&name.as_str())
            {
                complaints.push(format!("`{name}` may not use {used}: only {} may", allowed.join(", ")));
            }
            let Some(other) = members.get(used) else { continue };
            let (Some(mine), Some(theirs)) = (height(&member.ring), height(&other.ring)) else { continue };
            if theirs > mine {
                complaints
                    .push(format!("`{name}` ({}) uses `{used}` ({}): arrows point down only", member.ring, other.ring));
            }
            if theirs == mine && member.ring == "stage" {
                complaints.push(format!("stage `{name}` uses stage `{used}`: stages meet in envelope types only"));
            }
            if name == "supervisor" && !SUPERVISOR.contains(&used.as_str()) {
                complaints.push(format!("`supervisor` uses `{used}`: nothing that reads mail runs as root"));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(crates: &[(&str, &str, &[&str])]) -> BTreeMap<String, Member> {
        crates
            .iter()
            .map(|(name, ring, uses)| {
                let uses = uses.iter().map(|u| ((*u).to_owned(), true)).collect();
                ((*name).to_owned(), Member { ring: (*ring).to_owned(), uses })
            })
            .collect()
    }

    #[test]
    fn arrows_that_are_wrong_are_found() {
        let base = [("status", "protocol", &[][..]), ("envelope", "base", &["status"][..])];
        assert!(check(&house(&base)).is_empty());
        for (wrong, words) in [
            (("smtp", "protocol", &["envelope"][..]), "arrows point down only"),
            (("queue", "base", &[][..]), "its place is stage/"),
            (("queue", "stage", &["tokio"][..]), "may not use tokio"),
            (("gadget", "base", &[][..]), "has no place"),
        ] {
            let found = check(&house(&[base[0], base[1], wrong]));
            assert!(found.iter().any(|c| c.contains(words)), "{wrong:?}: {found:?}");
        }
        let two = [base[0], base[1], ("queue", "stage", &[][..]), ("bounce", "stage", &["queue"][..])];
        assert!(check(&house(&two))[0].contains("stages meet"));
        let root = [("message", "protocol", &[][..]), ("supervisor", "program", &["message"][..])];
        assert!(check(&house(&root))[0].contains("as root"));
    }
}

//! `cargo xtask fuzz`: which fuzz targets there are.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

/// What strangers, or files that strangers wrote, hand to us; each is read by a target.
const REQUIRED: [&str; 8] = [
    "smtp_command",
    "smtp_reply",
    "address_path",
    "header_addresses",
    "headers",
    "main_cf",
    "master_cf",
    "queue_record",
];

/// Compares the files, the manifest and the list.
pub fn run() -> ExitCode {
    let names = |directory: &str| -> std::io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".rs").map(str::to_owned));
        }
        Ok(names)
    };
    let complaints = match (names("fuzz/fuzz_targets"), fs::read_to_string("fuzz/Cargo.toml")) {
        (Ok(files), Ok(manifest)) => check(&files, &listed(&manifest)),
        (Err(error), _) | (_, Err(error)) => vec![format!("cannot read fuzz/: {error}")],
    };
    for complaint in &complaints {
        eprintln!("fuzz: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names of the `[[bin]]` sections.
fn listed(manifest: &str) -> BTreeSet<String> {
    manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|section| section.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')))
        .map(str::to_owned)
        .collect()
}

fn check(files: &BTreeSet<String>, listed: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    complaints.extend(files.difference(listed).map(|name| format!("fuzz_targets/{name}.rs is not in Cargo.toml")));
    complaints.extend(listed.difference(files).map(|name| format!("{name} is in Cargo.toml and has no file")));
    let missing = REQUIRED.iter().filter(|name| !files.contains(**name));
    complaints.extend(missing.map(|name| format!("there is no target {name}")));
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert!(check(&set(&REQUIRED), &set(&REQUIRED)).is_empty());
        assert_eq!(check(&set(&REQUIRED), &set(&REQUIRED[1..])), ["fuzz_targets/smtp_command.rs is not in Cargo.toml"]);
        assert_eq!(check(&set(&REQUIRED[1..]), &set(&REQUIRED)).len(), 2);
        assert_eq!(listed("[a]\nname = \"x\"\n[[bin]]\nname = \"y\"\npath = \"z\"\n"), set(&["y"]));
    }
}

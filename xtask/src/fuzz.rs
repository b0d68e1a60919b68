//! `cargo xtask fuzz`: which fuzz targets there are; with a number of seconds, each is run for so long.
//!
//! The build is cargo-fuzz's with `--sanitizer none`, so the stable compiler does; libfuzzer itself wants a C++ compiler.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};

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

/// Coverage that leads libfuzzer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";

/// Builds all targets and runs them one after the other.
pub fn short(seconds: &str) -> ExitCode {
    match build_and_run(seconds) {
        Ok(failed) if failed.is_empty() => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("fuzz: failed: {} (the inputs are in fuzz/artifacts/)", failed.join(" "));
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("fuzz: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build_and_run(seconds: &str) -> Result<Vec<String>, String> {
    let rustc = Command::new("rustc").arg("-vV").output().map_err(trouble("rustc"))?;
    let about = String::from_utf8_lossy(&rustc.stdout);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not say its host")?;
    // With a target named, build scripts are built without the flags.
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "fuzz/target"])
        .args([
            "--target",
            host,
            "--config",
            "profile.dev.opt-level=1",
            "--config",
            "profile.dev.debug=\"line-tables-only\"",
        ])
        .env("RUSTFLAGS", FLAGS)
        .status();
    if !built.map_err(trouble("cargo"))?.success() {
        return Err("the targets do not build".to_owned());
    }
    let mut failed = Vec::new();
    for target in names("fuzz/fuzz_targets").map_err(trouble("fuzz/fuzz_targets"))? {
        let (corpus, artifacts) = (format!("fuzz/corpus/{target}"), format!("fuzz/artifacts/{target}/"));
        for directory in [&corpus, &artifacts] {
            fs::create_dir_all(directory).map_err(trouble(directory))?;
        }
        let mut command = Command::new(format!("fuzz/target/{host}/debug/{target}"));
        command.args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={artifacts}"), corpus]);
        command.args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192"]);
        let output = command.output().map_err(trouble(&target))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            println!("fuzz: {target}: {}", said.lines().rfind(|line| line.starts_with("Done ")).unwrap_or("done"));
        } else {
            eprintln!("{said}");
            failed.push(target);
        }
    }
    Ok(failed)
}

/// An error with what it is about.
fn trouble(what: &str) -> impl FnOnce(std::io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// The files of a directory, without `.rs`.
fn names(directory: &str) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    Ok(names)
}

/// Compares the files, the manifest and the list.
pub fn run() -> ExitCode {
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

//! `cargo xtask month`: the test of the same name of `program/yamabiko` (`tests/system/month.rs`), as large as is wanted.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask month [--messages N] [--program FILE]";

/// Builds and runs it.
pub fn run(args: &[&str]) -> ExitCode {
    match with(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("month: {why}");
            ExitCode::from(2)
        }
    }
}

fn with(args: &[&str]) -> Result<bool, String> {
    let (mut messages, mut named) = (100_000_u64, None);
    for pair in args.chunks(2) {
        match *pair {
            ["--messages", number] => {
                messages = number.parse().map_err(|_| format!("--messages {number}: not a number"))?
            }
            ["--program", path] => named = Some(std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let (test, built): (PathBuf, PathBuf) = crate::crash::build()?;
    let mut command = Command::new(&test);
    command.args(["--exact", "month::the_verdict_is_the_truth_where_there_is_evidence", "--nocapture"]);
    command.env("YAMABIKO_PROGRAM", named.unwrap_or(built)).env("YAMABIKO_MONTH", messages.to_string());
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("{}: {error}", test.display()))?;
    Ok(status.success())
}

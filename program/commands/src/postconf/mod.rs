//! postconf: shows and edits main.cf and master.cf.

use std::process::ExitCode;

/// Runs `postconf`; `program_name` is what it was called by, for messages.
pub fn run(program_name: &str, _args: &[String]) -> ExitCode {
    eprintln!("{program_name}: fatal: not built yet");
    ExitCode::FAILURE
}

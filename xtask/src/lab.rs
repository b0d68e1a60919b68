//! `cargo xtask lab`: the laboratory as a test that only goes forward.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

/// Scenarios that pass, one a line.
const PASSING: &str = "tests/lab-passing.txt";
/// What BIN must have: the laboratory finds a command that is missing there further on in PATH, and would then praise the
/// Postfix of this machine.
const COMMANDS: [&str; 12] = [
    "postfix",
    "sendmail",
    "mailq",
    "newaliases",
    "postqueue",
    "postsuper",
    "postcat",
    "postconf",
    "postmap",
    "postalias",
    "postlog",
    "qshape",
];
/// One that fails is tried again so often, alone: a busy machine is no difference.
const AGAIN: usize = 2;

/// Runs everything, then once more what failed and should not have.
pub fn run(lab: &str, bin: &str) -> ExitCode {
    match compare(lab, bin) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("lab: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Every command is there and is our program.
fn all_ours(bin: &Path) -> Result<(), String> {
    let real = |name: &str| {
        let path = bin.join(name);
        path.canonicalize().map_err(|error| format!("{}: {error}; `yamabiko install --bindir` lays it", path.display()))
    };
    let program = real("yamabiko")?;
    for name in COMMANDS {
        if real(name)? != program {
            return Err(format!("{} is not a name of {}", bin.join(name).display(), program.display()));
        }
    }
    Ok(())
}

fn compare(lab: &str, bin: &str) -> Result<bool, String> {
    all_ours(Path::new(bin))?;
    let text = std::fs::read_to_string(PASSING).map_err(|error| format!("{PASSING}: {error}"))?;
    let wanted = names(&text);
    let passed = passing(lab, bin, &[])?;
    let mut missing: Vec<&str> = wanted.difference(&passed).map(String::as_str).collect();
    for _ in 0..AGAIN {
        if missing.is_empty() {
            break;
        }
        println!("lab: again: {}", missing.join(" "));
        let passed = passing(lab, bin, &missing)?;
        missing.retain(|name| !passed.contains(*name));
    }
    for name in passed.difference(&wanted) {
        println!("lab: passes and is not in {PASSING}: {name}");
    }
    println!("lab: {} pass, {} are to pass", passed.len(), wanted.len());
    if missing.is_empty() {
        return Ok(true);
    }
    eprintln!("lab: these passed before and do not now: {}", missing.join(" "));
    // The differences, for who reads this far.
    let _ = Command::new(lab).args(["diff", "--bin", bin]).args(&missing).status();
    Ok(false)
}

fn names(text: &str) -> BTreeSet<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The scenarios that pass.
fn passing(lab: &str, bin: &str, patterns: &[&str]) -> Result<BTreeSet<String>, String> {
    let summary = std::env::temp_dir().join(format!("yamabiko-lab-{}.json", std::process::id()));
    let result = run_to(lab, bin, patterns, &summary);
    let _ = std::fs::remove_file(&summary);
    result
}

fn run_to(lab: &str, bin: &str, patterns: &[&str], summary: &Path) -> Result<BTreeSet<String>, String> {
    let mut command = Command::new(lab);
    command.args(["run", "--bin", bin, "--json"]).arg(summary).args(patterns);
    let mut running = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{lab}: {error}"))?;
    // What goes well is a number at the end: who looks for what does not shall find it.
    for line in running.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        match line {
            Ok(line) if line.starts_with("ok ") => {}
            Ok(line) => println!("{line}"),
            Err(error) => return Err(format!("{lab}: {error}")),
        }
    }
    // Its exit code says whether all is equal, which is not what is asked here.
    let ended = running.wait().map_err(|error| format!("{lab}: {error}"))?;
    let text = std::fs::read_to_string(summary).map_err(|error| format!("{lab} left no summary ({ended}): {error}"))?;
    let summary: Value =
        serde_json::from_str(&text).map_err(|error| format!("the summary is not readable: {error}"))?;
    let passed = summary["pass"].as_array().ok_or("the summary has no `pass`")?;
    Ok(passed.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_command_is_not_borrowed_from_the_machine() {
        let dir = std::env::temp_dir().join(format!("yamabiko-xtask-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("yamabiko"), "").unwrap();
        let alone = all_ours(&dir);
        for name in COMMANDS {
            std::os::unix::fs::symlink(dir.join("yamabiko"), dir.join(name)).unwrap();
        }
        let whole = all_ours(&dir);
        std::fs::remove_file(dir.join("qshape")).unwrap();
        std::fs::write(dir.join("qshape"), "").unwrap();
        let mixed = all_ours(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(alone.is_err() && whole.is_ok() && mixed.is_err(), "{alone:?} {whole:?} {mixed:?}");
    }

    #[test]
    fn the_list_has_remarks_and_blanks() {
        let found: Vec<String> = names("# why\n\nqueue/mailq\n basic/local-delivery \n").into_iter().collect();
        assert_eq!(found, ["basic/local-delivery", "queue/mailq"]);
    }
}

//! `cargo xtask crash`: the tests that kill, reload and stop a whole mail system under load, for as long as is wanted.
//!
//! They are ordinary tests of `program/yamabiko` (`tests/system/crash`), which a test run makes short. Here they are
//! built, and run with many rounds, as whoever calls or, started by root, as an ordinary user.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

/// The tests, by what they do.
const TESTS: [(&str, &str); 2] =
    [("kills", "crash::what_was_acknowledged_survives_kills"), ("storms", "crash::reloads_and_stops_hurt_nobody")];

const USAGE: &str =
    "usage: cargo xtask crash [--rounds N] [--minutes M] [--seed S] [--only kills|storms] [--user NAME]";

/// What is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    rounds: Option<u64>,
    minutes: Option<u64>,
    seed: Option<u64>,
    only: Option<String>,
    user: Option<String>,
}

impl Wanted {
    fn read(args: &[&str]) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in args.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} wants a value", pair[0])) };
            let number = || value.parse().map(Some).map_err(|_| format!("{name} {value}: not a number"));
            match *name {
                "--rounds" => wanted.rounds = number()?,
                "--minutes" => wanted.minutes = number()?,
                "--seed" => wanted.seed = number()?,
                "--only" if TESTS.iter().any(|(known, _)| known == value) => wanted.only = Some((*value).to_owned()),
                "--user" => wanted.user = Some((*value).to_owned()),
                _ => return Err(format!("{name} {value}: unknown")),
            }
        }
        Ok(wanted)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        // A time alone is not cut short by a number of rounds.
        let rounds = self.rounds.or(self.minutes.map(|_| u64::from(u32::MAX)));
        let all = [("CRASH_ROUNDS", rounds), ("CRASH_MINUTES", self.minutes), ("CRASH_SEED", self.seed)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?.to_string()))).collect()
    }
}

/// Runs them one after the other.
pub fn run(args: &[&str]) -> ExitCode {
    let done = Wanted::read(args).map_err(|why| format!("{why}\n{USAGE}")).and_then(|wanted| all(&wanted));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("crash: {why}");
            ExitCode::from(2)
        }
    }
}

fn all(wanted: &Wanted) -> Result<bool, String> {
    let (test, program) = build()?;
    // Another user may not reach what lies in the target directory, and the next build must not change what runs.
    let place = std::env::temp_dir().join(format!("yamabiko-crash-{}", std::process::id()));
    let (test, program) = (copy(&test, &place)?, copy(&program, &place)?);
    let mut good = true;
    for (name, test_name) in TESTS {
        if wanted.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let mut command = match &wanted.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", &group_of(user)?, "--clear-groups"]).arg(&test);
                command.current_dir(&place);
                command
            }
            None => Command::new(&test),
        };
        command.args(["--exact", test_name, "--nocapture", "--test-threads", "1"]);
        command.env("YAMABIKO_PROGRAM", &program).envs(wanted.environment());
        let status = command.stdin(Stdio::null()).status().map_err(|error| format!("{}: {error}", test.display()))?;
        good &= status.success();
    }
    let _ = std::fs::remove_dir_all(&place);
    Ok(good)
}

/// Builds the tests and the program: where they are.
pub fn build() -> Result<(PathBuf, PathBuf), String> {
    let built = Command::new("cargo")
        .args(["test", "--package", "yamabiko", "--test", "system", "--no-run", "--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.status.success() {
        return Err("the tests do not build".to_owned());
    }
    let said = String::from_utf8_lossy(&built.stdout);
    let made = executables(&said);
    let find = |name: &str| {
        let found = made.iter().find(|(target, _)| target == name).map(|(_, path)| PathBuf::from(path));
        found.ok_or_else(|| format!("cargo does not say where {name} is"))
    };
    Ok((find("system")?, find("yamabiko")?))
}

/// Targets and files in what cargo says.
fn executables(said: &str) -> Vec<(String, String)> {
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.to_owned()))
    });
    made.collect()
}

fn copy(file: &Path, place: &Path) -> Result<PathBuf, String> {
    let trouble = |error: std::io::Error| format!("{}: {error}", place.display());
    let to = place.join(file.file_name().unwrap_or_default());
    std::fs::create_dir_all(place).map_err(trouble)?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).map_err(trouble)?;
    std::fs::copy(file, &to).map_err(trouble)?;
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).map_err(trouble)?;
    Ok(to)
}

/// The group of a user, by number.
fn group_of(user: &str) -> Result<String, String> {
    let said = Command::new("id").args(["-g", user]).output().map_err(|error| format!("id: {error}"))?;
    let group = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if said.status.success() { Ok(group) } else { Err(format!("unknown user {user}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let wanted = Wanted::read(&["--rounds", "500", "--seed", "7", "--only", "kills", "--user", "nobody"]).unwrap();
        assert_eq!(wanted.environment(), [("CRASH_ROUNDS", "500".to_owned()), ("CRASH_SEED", "7".to_owned())]);
        assert_eq!((wanted.only.as_deref(), wanted.user.as_deref()), (Some("kills"), Some("nobody")));
        let timed = Wanted::read(&["--minutes", "5"]).unwrap();
        assert_eq!(timed.environment()[1], ("CRASH_MINUTES", "5".to_owned()));
        assert!(timed.environment()[0].1.parse::<u64>().unwrap() > 1_000_000);
        for wrong in [&["--rounds"][..], &["--rounds", "many"], &["--only", "some"], &["--what", "1"]] {
            assert!(Wanted::read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_cargo_made() {
        let said = "{\"reason\":\"x\"}\nwarning\n{\"target\":{\"name\":\"system\"},\"executable\":\"/t/system-1\"}\n\
                    {\"target\":{\"name\":\"lib\"},\"executable\":null}\n";
        assert_eq!(executables(said), [("system".to_owned(), "/t/system-1".to_owned())]);
    }
}

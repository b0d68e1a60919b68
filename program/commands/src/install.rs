//! `yamabiko install`: lays the names of the commands beside the program, as links to it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::qmail;

/// Every command that this program is, by the name it is called by.
pub const NAMES: [&str; 14] = [
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
    "postdrop",
    "qshape",
    "yamabiko",
];

/// Commands that are called by everybody, in `bin`; the others are in `sbin`.
const FOR_EVERYBODY: [&str; 3] = ["mailq", "newaliases", "yamabiko"];

fn for_everybody(name: &str) -> bool {
    FOR_EVERYBODY.contains(&name) || qmail::NAMES.contains(&name)
}

const USAGE: &str = "usage: yamabiko install --prefix DIR   (DIR/sbin and DIR/bin get the names)\n       \
                     yamabiko install --bindir DIR   (all names in one directory)\n\
                     The names are links to this program. A file of that name that is no such link is never replaced.";

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let (mut prefix, mut bindir) = (None, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), words.next().cloned()),
        };
        match (name, value) {
            ("--prefix", Some(dir)) => prefix = Some(PathBuf::from(dir)),
            ("--bindir", Some(dir)) => bindir = Some(PathBuf::from(dir)),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(64);
            }
        }
    }
    let place = |name: &str| match (&prefix, &bindir) {
        (_, Some(dir)) => Some(dir.join(name)),
        (Some(dir), None) => Some(dir.join(if for_everybody(name) { "bin" } else { "sbin" }).join(name)),
        (None, None) => None,
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("yamabiko: fatal: cannot find my own program: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for name in NAMES.into_iter().chain(qmail::NAMES) {
        let Some(link) = place(name) else {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        };
        match lay(&program, &link) {
            Ok(true) => crate::say!("{} -> {}", link.display(), program.display()),
            Ok(false) => {}
            Err(error) => {
                eprintln!("yamabiko: error: {}: {error}", link.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// True when a link was made or renewed, false when it was right already.
fn lay(program: &Path, link: &Path) -> io::Result<bool> {
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    if link == program {
        return Ok(false);
    }
    match fs::read_link(link) {
        Ok(target) if target == program => return Ok(false),
        Ok(target) if target.file_name() == program.file_name() => fs::remove_file(link)?,
        Ok(target) => {
            let why = format!("is a link to {}; remove it first", target.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "is there and is not a link of ours; remove it first",
            ));
        }
    }
    symlink(program, link)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_renewed_and_never_replace_files() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old/yamabiko"), dir.path().join("new/yamabiko"));
        let link = dir.path().join("bin/postfix");
        assert!(lay(&old, &link).unwrap());
        assert!(!lay(&old, &link).unwrap());
        assert!(lay(&new, &link).unwrap());
        assert_eq!(fs::read_link(&link).unwrap(), new);
        fs::remove_file(&link).unwrap();
        fs::write(&link, "mine").unwrap();
        assert!(lay(&new, &link).is_err());
        assert_eq!(fs::read_to_string(&link).unwrap(), "mine");
    }
}

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
    if prefix.is_none() && bindir.is_none() {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    }
    let links = NAMES.into_iter().chain(qmail::NAMES).filter_map(place);
    let mut code = ExitCode::SUCCESS;
    for outcome in lay_all(&program, links) {
        match outcome {
            Ok(link) => crate::say!("{} -> {}", link.display(), program.display()),
            Err(why) => {
                eprintln!("yamabiko: error: {why}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// The links that were made or renewed, and what went wrong. Of a directory that takes none it is said once.
fn lay_all(program: &Path, links: impl IntoIterator<Item = PathBuf>) -> Vec<Result<PathBuf, String>> {
    let mut outcomes = Vec::new();
    let mut shut: Vec<PathBuf> = Vec::new();
    for link in links {
        let directory = link.parent().unwrap_or(Path::new("/")).to_path_buf();
        if shut.contains(&directory) {
            continue;
        }
        if let Err(error) = fs::create_dir_all(&directory) {
            outcomes.push(Err(format!("{}: {}", directory.display(), of_directory(&error))));
            shut.push(directory);
            continue;
        }
        match lay(program, &link) {
            Ok(true) => outcomes.push(Ok(link)),
            Ok(false) => {}
            // `lay` says itself what is in the way of one name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                outcomes.push(Err(format!("{}: {error}", link.display())));
            }
            Err(error) => {
                outcomes.push(Err(format!("{}: {}", directory.display(), of_directory(&error))));
                shut.push(directory);
            }
        }
    }
    outcomes
}

/// Why a directory takes no links, and what helps.
fn of_directory(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}: run this as root, or name a directory of your own"),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "there is a file in the way: name a directory".to_owned()
        }
        _ => error.to_string(),
    }
}

/// True when a link was made or renewed, false when it was right already.
fn lay(program: &Path, link: &Path) -> io::Result<bool> {
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
        fs::create_dir(dir.path().join("bin")).unwrap();
        assert!(lay(&old, &link).unwrap());
        assert!(!lay(&old, &link).unwrap());
        assert!(lay(&new, &link).unwrap());
        assert_eq!(fs::read_link(&link).unwrap(), new);
        fs::remove_file(&link).unwrap();
        fs::write(&link, "mine").unwrap();
        assert!(lay(&new, &link).is_err());
        assert_eq!(fs::read_to_string(&link).unwrap(), "mine");
    }

    #[test]
    fn a_directory_that_takes_no_links_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("yamabiko");
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        let places = |top: &Path| ["a", "b", "c"].map(|name| top.join(name));
        for top in [file.clone(), file.join("below"), PathBuf::from("/proc/nowhere")] {
            let said = lay_all(&program, places(&top));
            let [Err(said)] = &said[..] else { panic!("{said:?}") };
            assert!(said.starts_with(&format!("{}: ", top.display())), "{said}");
            assert_eq!(
                said.ends_with("there is a file in the way: name a directory"),
                top.starts_with(&file),
                "{said}"
            );
        }
        assert_eq!(
            of_directory(&io::Error::from(io::ErrorKind::PermissionDenied)),
            "permission denied: run this as root, or name a directory of your own"
        );
        // What is in the way of one name is said of that one, and the others are made.
        let bin = dir.path().join("bin/deep");
        fs::create_dir_all(bin.join("b")).unwrap();
        let said = lay_all(&program, places(&bin));
        assert_eq!(said.iter().filter(|outcome| outcome.is_ok()).count(), 2, "{said:?}");
        assert!(said.iter().any(|outcome| outcome.as_ref().is_err_and(|why| why.contains("bin/deep/b: is there"))));
        assert!(lay_all(&program, [bin.join("a"), bin.join("c")]).is_empty());
    }
}

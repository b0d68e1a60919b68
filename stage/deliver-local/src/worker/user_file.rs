//! `.forward` and `:include:` files: opened as the user, read whole, bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;

use super::{output, words};
use crate::job::{Done, QmailFile};

/// One of these is there, or that cannot be known: [`forward`] will know it, and under the right groups.
pub(super) fn may_be_there(paths: &[String]) -> bool {
    let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    paths
        .iter()
        .any(|path| std::fs::symlink_metadata(path).map_or_else(|error| !missing.contains(&error.kind()), |_| true))
}

/// The first candidate that is there decides. One that is not to be trusted is left with a warning, as dotforward does.
pub(super) fn forward(paths: &[String], limit: u64) -> Done {
    for path in paths {
        // The name itself: a link that leads nowhere is there too.
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            // A home that cannot be searched has no .forward as far as this user is concerned.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(error) => return Done::failed("4.3.0", format!("cannot open file {path}: {}", words(&error))),
        }
        let why = match open(path) {
            Ok(file) => match trust(&file, path) {
                Ok(()) => return text(&file, path, limit),
                Err(why) => why,
            },
            Err(error) => format!("cannot open file {path}: {}", words(&error)),
        };
        return Done::Unsafe(vec![why]);
    }
    Done::Text(None)
}

/// The first `.qmail` file of the candidates. What others could have written is not believed: it is tried again later
/// (qmail-local(8), with its words).
pub(super) fn qmail(home: &str, candidates: &[String], base: &str, limit: u64) -> Done {
    let later = |reason: String| Done::failed("4.3.0", reason);
    match std::fs::metadata(home) {
        Err(error) => return later(format!("Unable to switch to {home}: {}. (#4.3.0)", words(&error))),
        Ok(directory) if directory.mode() & 0o022 != 0 => {
            return Done::failed("4.7.0", "Uh-oh: home directory is writable. (#4.7.0)");
        }
        Ok(directory) if directory.mode() & 0o1000 != 0 => {
            return Done::failed("4.2.1", "Home directory is sticky: user is editing his .qmail file. (#4.2.1)");
        }
        Ok(_) => {}
    }
    let unreadable =
        |name: &str, error: &io::Error| later(format!("Unable to open {name}: {}. (#4.3.0)", words(error)));
    for (index, name) in candidates.iter().enumerate() {
        let file = match open(&format!("{home}/{name}")) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            // A name that is too long is nobody's file.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => continue,
            Err(error) => return unreadable(name, &error),
        };
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return unreadable(name, &error),
        };
        if !metadata.is_file() {
            continue;
        }
        if metadata.mode() & 0o002 != 0 {
            return Done::failed("4.7.0", "Uh-oh: .qmail file is writable. (#4.7.0)");
        }
        // Text in the encodings of older systems is what it means, so that what is said in a notice can be read.
        let text = match bytes(&file, name, limit) {
            Ok(bytes) => output::decoded(&bytes),
            Err(done) => return done,
        };
        let there = |suffix: &str| std::fs::metadata(format!("{home}/{base}{suffix}")).is_ok();
        return Done::Qmail(Some(QmailFile {
            index,
            text,
            executable: metadata.mode() & 0o100 != 0,
            has_owner: there("-owner"),
            has_owner_default: there("-owner-default"),
        }));
    }
    Done::Qmail(None)
}

/// No text when the directory is there.
pub(super) fn home(path: &str) -> Done {
    match std::fs::metadata(path) {
        Ok(_) => Done::Text(None),
        Err(error) => Done::failed("4.3.0", format!("cannot access home directory {path}: {}", words(&error))),
    }
}

/// An `:include:` file must be there and readable.
pub(super) fn include(path: &str, limit: u64) -> Done {
    match open(path) {
        Ok(file) => match trust_include(&file, path) {
            Ok(()) => text(&file, path, limit),
            Err(reason) => Done::failed("5.2.0", reason),
        },
        Err(error) => Done::failed("5.3.5", format!("unable to lookup :include: file {path}: {}", words(&error))),
    }
}

fn open(path: &str) -> io::Result<File> {
    // Never wait for a named pipe that somebody put there.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

fn trust(file: &File, path: &str) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| format!("{path}: {}", words(&error)))?;
    let me = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != me {
        return Err(format!("file {path} has bad owner uid {}", metadata.uid()));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(format!("file {path} is world writable"));
    }
    if !metadata.is_file() {
        return Err(format!("file {path} is not a regular file"));
    }
    Ok(())
}

fn trust_include(file: &File, path: &str) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| format!("{path}: {}", words(&error)))?;
    if !metadata.is_file() {
        return Err(format!(":include: file {path} is not a regular file"));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(format!(":include: file {path} is world writable"));
    }
    Ok(())
}

fn text(file: &File, path: &str, limit: u64) -> Done {
    match bytes(file, path, limit) {
        Ok(bytes) => Done::Text(Some((String::from_utf8_lossy(&bytes).into_owned(), path.to_owned()))),
        Err(done) => done,
    }
}

fn bytes(file: &File, path: &str, limit: u64) -> Result<Vec<u8>, Done> {
    let mut bytes = Vec::new();
    let failed = |why: String| Err(Done::failed("4.3.0", format!("cannot read file {path}: {why}")));
    match file.take(limit + 1).read_to_end(&mut bytes) {
        Err(error) => failed(words(&error)),
        Ok(_) if bytes.len() as u64 > limit => failed(format!("longer than {limit} bytes")),
        Ok(_) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn qmail_files_and_what_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let mode = |name: &str, mode: u32| {
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let put = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            mode(name, 0o644);
        };
        mode("", 0o755);
        let names = [".qmail-a".to_owned(), ".qmail-default".to_owned()];
        let look = || qmail(home, &names, ".qmail-a", 100);
        let found = |index, text: &str, executable, has_owner, has_owner_default| {
            Done::Qmail(Some(QmailFile { index, text: text.to_owned(), executable, has_owner, has_owner_default }))
        };
        assert_eq!(look(), Done::Qmail(None));
        put(".qmail-default", "&x\n");
        assert_eq!(look(), found(1, "&x\n", false, false, false));
        put(".qmail-a", "|y\n");
        put(".qmail-a-owner", "");
        mode(".qmail-a", 0o744);
        assert_eq!(look(), found(0, "|y\n", true, true, false));
        for (file, bits, why) in [
            (".qmail-a", 0o646, "file is writable"),
            ("", 0o775, "home directory is writable"),
            ("", 0o757, "home directory is writable"),
            ("", 0o1755, "is sticky"),
        ] {
            mode(file, bits);
            assert!(matches!(look(), Done::Failed { ref reason, .. } if reason.contains(why)), "{why}");
            mode(file, if file.is_empty() { 0o755 } else { 0o644 });
        }
        // A directory or a pipe of that name is nothing; nobody waits for it.
        std::fs::remove_file(dir.path().join(".qmail-a")).unwrap();
        nix::unistd::mkfifo(&dir.path().join(".qmail-a"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(look(), found(1, "&x\n", false, true, false));
        assert!(
            matches!(qmail("/no/such/home", &names, "", 9), Done::Failed { ref reason, .. } if reason.contains("Unable to switch"))
        );
    }

    #[test]
    fn the_first_trusted_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let name = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
        assert!(!may_be_there(&[name("none"), name("good/below"), name("good")]));
        std::fs::write(name("open"), "x").unwrap();
        std::fs::set_permissions(name("open"), std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::write(name("good"), "a, b\n").unwrap();
        assert!(may_be_there(&[name("none"), name("good")]));
        std::os::unix::fs::symlink(name("nowhere"), name("link")).unwrap();
        assert!(may_be_there(&[name("link")]), "a link that leads nowhere is there too");
        assert!(may_be_there(&["x".repeat(300)]), "what cannot be known");
        assert_eq!(forward(&[name("none"), name("good")], 100), Done::Text(Some(("a, b\n".into(), name("good")))));
        assert!(matches!(forward(&[name("open")], 100), Done::Unsafe(ref why) if why[0].contains("world writable")));
        assert_eq!(forward(&[name("none")], 100), Done::Text(None));
        assert!(matches!(forward(&[name("good")], 3), Done::Failed { ref reason, .. } if reason.contains("longer")));
        assert!(matches!(include(&name("none"), 9), Done::Failed { .. }));
        assert!(matches!(forward(&[dir.path().to_str().unwrap().to_owned()], 9), Done::Unsafe(_)));
    }
}

//! `.forward` and `:include:` files: opened as the user, read whole, bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;

use super::words;
use crate::job::Done;

/// The first candidate that is there. One that is not to be trusted is passed over with a warning, as dotforward does.
pub(super) fn forward(paths: &[String], limit: u64) -> Done {
    let mut warnings = Vec::new();
    for path in paths {
        match open(path) {
            Ok(file) => match trust(&file, path) {
                Ok(()) => return text(&file, path, limit),
                Err(why) => warnings.push(why),
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // A home that cannot be searched has no .forward as far as this user is concerned.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => {
                return Done::failed("4.3.0", format!("cannot open file {path}: {}", words(&error)));
            }
        }
    }
    if warnings.is_empty() { Done::Text(None) } else { Done::Unsafe(warnings) }
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
        return Err(format!("file {path} has bad owner: {}", metadata.uid()));
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
        return Err(format!("file {path} is not a regular file"));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(format!("file {path} is world writable"));
    }
    Ok(())
}

fn text(file: &File, path: &str, limit: u64) -> Done {
    let mut bytes = Vec::new();
    let failed = |why: String| Done::failed("4.3.0", format!("cannot read file {path}: {why}"));
    match file.take(limit + 1).read_to_end(&mut bytes) {
        Err(error) => failed(words(&error)),
        Ok(_) if bytes.len() as u64 > limit => failed(format!("longer than {limit} bytes")),
        Ok(_) => Done::Text(Some((String::from_utf8_lossy(&bytes).into_owned(), path.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_trusted_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let name = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
        std::fs::write(name("open"), "x").unwrap();
        std::fs::set_permissions(name("open"), std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::write(name("good"), "a, b\n").unwrap();
        assert_eq!(forward(&[name("none"), name("good")], 100), Done::Text(Some(("a, b\n".into(), name("good")))));
        assert!(matches!(forward(&[name("open")], 100), Done::Unsafe(ref why) if why[0].contains("world writable")));
        assert_eq!(forward(&[name("none")], 100), Done::Text(None));
        assert!(matches!(forward(&[name("good")], 3), Done::Failed { ref reason, .. } if reason.contains("longer")));
        assert!(matches!(include(&name("none"), 9), Done::Failed { .. }));
        assert!(matches!(forward(&[dir.path().to_str().unwrap().to_owned()], 9), Done::Unsafe(_)));
    }
}

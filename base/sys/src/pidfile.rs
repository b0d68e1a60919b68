//! One daemon per pid file: the file is locked as long as the process lives, and holds its number.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A pid file this process holds; the lock ends with the process (or when this is dropped), the file stays.
#[derive(Debug)]
pub struct PidFile {
    file: File,
}

/// Why a pid file could not be taken.
#[derive(Debug)]
pub enum PidFileError {
    /// Another process runs; its number, if the file holds one.
    Running(Option<u32>),
    /// The file could not be opened or locked.
    Io(io::Error),
}

impl std::fmt::Display for PidFileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(Some(pid)) => write!(f, "process {pid} is running"),
            Self::Running(None) => f.write_str("another process is running"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PidFileError {}

impl PidFile {
    /// Takes the pid file and writes this process's number into it, right-aligned as Postfix's master does.
    pub fn take(path: &Path) -> Result<Self, PidFileError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
        let mut file = open.map_err(PidFileError::Io)?;
        if !crate::lock::try_flock(&file).map_err(PidFileError::Io)? {
            return Err(PidFileError::Running(number(&mut file)));
        }
        let mut pid = Self { file };
        pid.write(std::process::id()).map_err(PidFileError::Io)?;
        Ok(pid)
    }

    /// Writes another number: that of a child which goes on with the lock.
    pub fn write(&mut self, pid: u32) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{pid:10}")?;
        self.file.sync_all()
    }

    /// The process that holds the file, if one does.
    pub fn holder(path: &Path) -> io::Result<Option<u32>> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if crate::lock::try_flock(&file)? { Ok(None) } else { Ok(number(&mut file)) }
    }
}

fn number(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.pid");
        assert_eq!(PidFile::holder(&path).unwrap(), None);
        let held = PidFile::take(&path).unwrap();
        let me = std::process::id();
        assert_eq!(PidFile::holder(&path).unwrap(), Some(me));
        assert!(matches!(PidFile::take(&path), Err(PidFileError::Running(Some(pid))) if pid == me));
        drop(held);
        PidFile::take(&path).unwrap();
    }
}

//! A submission as a file in `maildrop/`: one line of JSON with the envelope, then the message.
//!
//! `postdrop` writes it with mode 0644 less the owner's execute bit and makes it executable for its owner when it is
//! whole, as Postfix marks queue files: a file without that bit is still being written, or was given up. Whoever may
//! write into the directory may put anything there, so nothing in a file is believed but its owner.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yamabiko_envelope::Content;
use yamabiko_ipc::control::SubmitEnvelope;

/// The first line is not longer than this.
const HEAD: u64 = 64 << 20;
/// First line of every file, so that another kind of file is known for what it is.
const MAGIC: &str = "yamabiko-maildrop 1 ";

/// A file that is being written.
pub struct Draft {
    path: PathBuf,
    file: File,
    whole: bool,
}

impl Draft {
    /// Begins a file; `name` must be unique in the directory.
    pub fn begin(maildrop: &Path, name: &str, envelope: &SubmitEnvelope) -> io::Result<Self> {
        let path = maildrop.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        let mut draft = Self { path, file, whole: false };
        let mut head = MAGIC.as_bytes().to_vec();
        serde_json_line(envelope, &mut head)?;
        draft.file.write_all(&head)?;
        Ok(draft)
    }

    /// Adds message bytes, LF line ends.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// The message is whole: on stable storage, and marked so.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.file.set_permissions(fs::Permissions::from_mode(0o744))?;
        self.file.sync_all()?;
        if let Some(parent) = self.path.parent() {
            // The directory may be writable for us without being readable.
            let _ = File::open(parent).and_then(|dir| dir.sync_all());
        }
        self.whole = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn serde_json_line(envelope: &SubmitEnvelope, out: &mut Vec<u8>) -> io::Result<()> {
    let encoded = yamabiko_ipc::frame::encode(envelope)?;
    // The frame's own head is five bytes; JSON has no line break in it.
    out.extend_from_slice(&encoded[5..]);
    out.push(b'\n');
    Ok(())
}

/// A file that was read.
#[derive(Debug)]
pub struct Dropped {
    /// What its writer said.
    pub envelope: SubmitEnvelope,
    /// The message, still in the file.
    pub content: Content,
    /// Who owns the file.
    pub uid: u32,
    /// Size of the message in bytes.
    pub size: u64,
    /// Its last change, seconds since the epoch.
    pub changed: u64,
}

/// What a name in `maildrop/` turned out to be.
#[derive(Debug)]
pub enum Found {
    /// A whole submission.
    Whole(Box<Dropped>),
    /// Still being written; its last change in seconds since the epoch.
    Unfinished(u64),
    /// Not one of ours.
    Strange(String),
}

/// Looks at one file. An error is our own trouble.
pub fn read(path: &Path) -> io::Result<Found> {
    // Links and pipes are not followed and not waited for.
    let flags = nix_flags::NOFOLLOW_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Found::Strange("not a regular file".to_owned()));
    }
    let changed = u64::try_from(metadata.mtime()).unwrap_or(0);
    if metadata.mode() & 0o100 == 0 {
        return Ok(Found::Unfinished(changed));
    }
    let mut head = Vec::new();
    let mut reader = BufReader::new(&file).take(HEAD);
    reader.read_until(b'\n', &mut head)?;
    let Some(json) = head.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.strip_suffix(b"\n")) else {
        return Ok(Found::Strange("not a submission of this release".to_owned()));
    };
    let envelope = match yamabiko_ipc::frame::decode(yamabiko_ipc::frame::MESSAGE, json) {
        Ok(envelope) => envelope,
        Err(error) => return Ok(Found::Strange(format!("damaged: {error}"))),
    };
    let offset = head.len() as u64;
    let size = metadata.len().saturating_sub(offset);
    drop(reader);
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let content = Content::File { file: Arc::new(file), offset, len: size };
    Ok(Found::Whole(Box::new(Dropped { envelope, content, uid: metadata.uid(), size, changed })))
}

mod nix_flags {
    /// `O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC`
    pub const NOFOLLOW_NONBLOCK: i32 = (nix::fcntl::OFlag::O_NOFOLLOW.bits())
        | (nix::fcntl::OFlag::O_NONBLOCK.bits())
        | (nix::fcntl::OFlag::O_CLOEXEC.bits());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let envelope =
            SubmitEnvelope { sender: "a\nb".into(), recipients: vec!["x".into()], ..SubmitEnvelope::default() };
        let mut draft = Draft::begin(dir.path(), "one", &envelope).unwrap();
        draft.write(b"Subject: x\n\nbody\n").unwrap();
        assert!(matches!(read(&dir.path().join("one")).unwrap(), Found::Unfinished(_)));
        draft.finish().unwrap();
        let Found::Whole(dropped) = read(&dir.path().join("one")).unwrap() else { panic!("not whole") };
        assert_eq!(dropped.envelope, envelope);
        assert_eq!(&dropped.content.to_bytes().unwrap()[..], b"Subject: x\n\nbody\n");
        drop(Draft::begin(dir.path(), "two", &envelope).unwrap());
        assert!(!dir.path().join("two").exists());
    }

    #[test]
    fn a_file_of_an_older_release_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        let head = r#"{"sender":"a","full_name":"","recipients":["x"],"envid":"","ret":null,"notify":{"never":false,"success":false,"failure":false,"delay":false},"body":"Unspecified","smtputf8":false,"trace":"No","verp":null}"#;
        fs::write(&path, format!("{MAGIC}{head}\nbody\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o744)).unwrap();
        let found = read(&path).unwrap();
        let Found::Whole(dropped) = found else { panic!("{found:?}") };
        assert!(dropped.envelope.sender == "a" && !dropped.envelope.requiretls);
    }

    #[test]
    fn strange_files_are_known_for_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("a", &b"hello\n"[..]), ("b", b"yamabiko-maildrop 1 {]\nx"), ("c", b""), ("d", b"yamabiko-maildrop 1 {}")]
        {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o744)).unwrap();
            assert!(matches!(read(&path).unwrap(), Found::Strange(_)), "{name}");
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(read(&dir.path().join("link")).is_err());
    }
}

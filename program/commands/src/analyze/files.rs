//! From paths to messages: what a file holds is seen from its first bytes, not from its name.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::mbox::{self, HEAD, Mbox, TAIL};

/// Provider events in one piece are read up to this size; beyond it there must be one event in a line.
const EVENTS: usize = 16 << 20;
/// Lines of events are handed on in pieces of about this size.
const EVENT_LINES: usize = 1 << 20;
/// How deep directories are followed.
const DEEPEST: usize = 64;

/// One thing to analyse, cut out of an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A message.
    Message(Vec<u8>),
    /// What a provider posted.
    Events(Vec<u8>),
    /// It could not be read, and why.
    Trouble(String),
}

/// Where pieces go, with their offset in the (uncompressed) input. False: nobody wants more.
pub type Sink<'s> = dyn FnMut(u64, Piece) -> bool + 's;

/// What can be cut: a stream that may be a file.
pub trait Input: Read + Sized {
    /// The file from its beginning, for another program to read; an error for what cannot be read twice.
    fn rewound(self) -> io::Result<File>;
}

impl Input for File {
    fn rewound(mut self) -> io::Result<File> {
        io::Seek::rewind(&mut self)?;
        Ok(self)
    }
}

/// Cuts one input into pieces. False when the sink wanted no more.
pub fn pieces(mut input: impl Input, sink: &mut Sink<'_>) -> bool {
    let mut beginning = [0; 512];
    let length = match fill(&mut input, &mut beginning) {
        Ok(length) => length,
        Err(error) => return sink(0, Piece::Trouble(error.to_string())),
    };
    match kind(&beginning[..length]) {
        Holds::Compressed(program) => unpacked(program, input, sink),
        _ => cut(Cursor::new(&beginning[..length]).chain(input), &beginning[..length], sink),
    }
}

/// Cuts what begins with `beginning` and is not compressed.
fn cut(input: impl Read, beginning: &[u8], sink: &mut Sink<'_>) -> bool {
    match kind(beginning) {
        Holds::Mbox => mbox_pieces(Mbox::new(input), sink),
        Holds::Events => event_pieces(input, sink),
        Holds::Message | Holds::Compressed(_) => match capped(input) {
            Ok(message) => sink(0, Piece::Message(message)),
            Err((offset, error)) => sink(offset, Piece::Trouble(error.to_string())),
        },
    }
}

/// Cuts a compressed file, with the help of the program that is made for it.
fn unpacked(program: &str, packed: impl Input, sink: &mut Sink<'_>) -> bool {
    let Ok(packed) = packed.rewound() else {
        return sink(
            0,
            Piece::Trouble(format!("it is compressed and no file: unpack it on the way ({program} -dc | ...)")),
        );
    };
    let started = Command::new(program).arg("-dc").stdin(packed).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            return sink(0, Piece::Trouble(format!("it is compressed, and {program} cannot be started: {error}")));
        }
    };
    let Some(mut output) = child.stdout.take() else {
        return sink(0, Piece::Trouble(format!("{program} has no output")));
    };
    let mut beginning = [0; 512];
    let length = fill(&mut output, &mut beginning).unwrap_or_default();
    let wanted = length == 0 || cut(Cursor::new(&beginning[..length]).chain(output), &beginning[..length], sink);
    if !wanted {
        // It may still have much to say that nobody wants.
        let _ = child.kill();
    }
    match child.wait() {
        Ok(status) if wanted && !status.success() => {
            sink(0, Piece::Trouble(format!("{program} cannot unpack it ({status}); what it gave until then was read")))
        }
        _ => wanted,
    }
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
enum Holds {
    Message,
    Mbox,
    Events,
    /// Something that this program unpacks.
    Compressed(&'static str),
}

fn kind(beginning: &[u8]) -> Holds {
    const MAGIC: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];
    if let Some((_, program)) = MAGIC.iter().find(|(magic, _)| beginning.starts_with(magic)) {
        return Holds::Compressed(program);
    }
    if mbox::is_mbox(beginning) {
        return Holds::Mbox;
    }
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    match text.first() {
        Some(b'{') => Holds::Events,
        // An array of objects.
        Some(b'[') if matches!(text[1..].trim_ascii_start().first(), Some(b'{' | b']')) => Holds::Events,
        _ => Holds::Message,
    }
}

fn mbox_pieces(mut mbox: Mbox<impl Read>, sink: &mut Sink<'_>) -> bool {
    loop {
        match mbox.next_message() {
            Ok(Some(message)) => {
                if !sink(message.offset, Piece::Message(message.bytes)) {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(error) => return sink(mbox.position(), Piece::Trouble(error.to_string())),
        }
    }
}

fn event_pieces(mut input: impl Read, sink: &mut Sink<'_>) -> bool {
    let mut window = Vec::new();
    let mut offset = 0;
    loop {
        let read = (&mut input).take((EVENTS + 1 - window.len().min(EVENTS)) as u64).read_to_end(&mut window);
        if let Err(error) = read {
            return sink(offset + window.len() as u64, Piece::Trouble(error.to_string()));
        }
        if window.len() <= EVENTS {
            return window.is_empty() || sink(offset, Piece::Events(window));
        }
        // Too much to be one event or array.
        let mut at = 0;
        while let Some(end) = line_near(&window, at) {
            if !sink(offset + at as u64, Piece::Events(window[at..end].to_vec())) {
                return false;
            }
            at = end;
        }
        if at == 0 {
            let why = format!(
                "a JSON text without line ends of more than {} MB; one event in a line is read at any size",
                EVENTS >> 20
            );
            return sink(offset, Piece::Trouble(why));
        }
        window.drain(..at);
        offset += at as u64;
    }
}

/// The last line end within [`EVENT_LINES`] after `at`, or the first one after that.
fn line_near(window: &[u8], at: usize) -> Option<usize> {
    let near = window.len().min(at + EVENT_LINES);
    let end = memchr::memrchr(b'\n', &window[at..near]).map(|end| at + end);
    end.or_else(|| memchr::memchr(b'\n', &window[near..]).map(|end| near + end)).map(|end| end + 1)
}

/// A whole message; of a very long one the middle is left out. An error comes with its offset.
fn capped(mut input: impl Read) -> Result<Vec<u8>, (u64, io::Error)> {
    let mut message = Vec::new();
    let mut offset = 0;
    let mut more = |message: &mut Vec<u8>| {
        let read = (&mut input).take((TAIL * 2) as u64).read_to_end(message);
        read.inspect(|read| offset += *read as u64).map_err(|error| (offset, error))
    };
    while more(&mut message)? > 0 {
        if message.len() > HEAD + TAIL * 4 {
            let to = message.len() - TAIL;
            message.drain(HEAD..to);
        }
    }
    Ok(message)
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// A file to be read.
#[derive(Debug)]
pub struct Found {
    /// The path as it is reported.
    pub path: PathBuf,
    /// Its size in bytes; 0 for what is no regular file.
    pub size: u64,
}

/// All files below the paths that were given, in an order that does not depend on the file system: as given, and within a
/// directory by name. Of a Maildir `cur` and `new` are read; of another directory everything whose name does not begin with
/// a dot.
pub struct Walk {
    todo: Vec<Step>,
    /// Directories above the one that is read, so that a link to one of them does no harm.
    seen: HashSet<(u64, u64)>,
}

enum Step {
    /// What was given on the command line.
    Given(PathBuf),
    /// An entry of a directory, at this depth.
    Entry(PathBuf, usize),
}

impl Walk {
    /// Over these paths.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self { todo: paths.iter().rev().cloned().map(Step::Given).collect(), seen: HashSet::new() }
    }

    fn directory(&mut self, path: &Path, meta: &Metadata, depth: usize) -> Result<(), String> {
        if !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        if depth >= DEEPEST {
            return Err(format!("more than {DEEPEST} directories deep"));
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| error.to_string())? {
            names.push(entry.map_err(|error| error.to_string())?.file_name());
        }
        let maildir = is_maildir(&names);
        names.retain(|name| {
            let text = name.as_encoded_bytes();
            if maildir {
                // Its folders are directories `.name`; `tmp` holds what is not delivered yet, and files are indexes.
                text == b"cur" || text == b"new" || (text.starts_with(b".") && path.join(name).is_dir())
            } else {
                !text.starts_with(b".")
            }
        });
        names.sort_unstable();
        self.todo.extend(names.iter().rev().map(|name| Step::Entry(path.join(name), depth + 1)));
        Ok(())
    }
}

/// Does a directory with these names hold a Maildir?
fn is_maildir(names: &[OsString]) -> bool {
    ["cur", "new"].iter().all(|wanted| names.iter().any(|name| name == wanted))
}

impl Iterator for Walk {
    type Item = Result<Found, (PathBuf, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, depth, given) = match self.todo.pop()? {
                Step::Given(path) => (path, 0, true),
                Step::Entry(path, depth) => (path, depth, false),
            };
            if given && path.as_os_str() == "-" {
                return Some(Ok(Found { path, size: 0 }));
            }
            let meta = match fs::metadata(&path) {
                Ok(meta) => meta,
                // A mail that another program has taken away or marked as read in the meantime.
                Err(error) if !given && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Some(Err((path, error.to_string()))),
            };
            if meta.is_dir() {
                if given {
                    self.seen.clear();
                }
                if let Err(why) = self.directory(&path, &meta, depth) {
                    return Some(Err((path, why)));
                }
            } else if meta.is_file() || given {
                return Some(Ok(Found { size: if meta.is_file() { meta.len() } else { 0 }, path }));
            }
        }
    }
}

/// Opens what was found.
pub fn open(path: &Path) -> io::Result<File> {
    if path.as_os_str() == "-" {
        use std::os::fd::AsFd;
        return Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?));
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(bytes: &[u8]) -> Vec<(u64, Piece)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut out = Vec::new();
        assert!(pieces(file, &mut |offset, piece| {
            out.push((offset, piece));
            true
        }));
        out
    }

    #[test]
    fn what_a_file_holds() {
        for (beginning, wanted) in [
            (&b"Return-Path: <>\n"[..], Holds::Message),
            (b"From MAILER-DAEMON Thu", Holds::Mbox),
            (b"From: a", Holds::Message),
            (b"\n {\"notificationType\":", Holds::Events),
            (b"[{\"event\":", Holds::Events),
            (b"[\n {", Holds::Events),
            (b"[SPAM] x", Holds::Message),
            (b"\x1f\x8b\x08", Holds::Compressed("gzip")),
            (b"", Holds::Message),
        ] {
            assert_eq!(kind(beginning), wanted, "{}", String::from_utf8_lossy(beginning));
        }
    }

    #[test]
    fn messages_events_and_compressed_files() {
        assert_eq!(all(b"A: b\n\nx"), [(0, Piece::Message(b"A: b\n\nx".to_vec()))]);
        assert_eq!(all(b""), [(0, Piece::Message(Vec::new()))]);
        assert_eq!(all(b"{}\n{}\n"), [(0, Piece::Events(b"{}\n{}\n".to_vec()))]);
        // Cut off, so that gzip complains after the text.
        let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x73\xb4\x52\x48\xe2\xe2\xaa\0\0";
        let found = all(packed);
        let [.., (0, Piece::Trouble(why))] = &found[..] else { panic!("{found:?}") };
        assert!(why.contains("gzip"), "{why}");
    }

    #[test]
    fn many_events_come_in_pieces() {
        let line = format!("{{\"x\": \"{}\"}}\n", "y".repeat(1000));
        let text = line.repeat(EVENTS / line.len() + 3000);
        let found = all(text.as_bytes());
        assert!(found.len() > 3);
        let mut next = 0;
        for (offset, piece) in &found {
            let Piece::Events(events) = piece else { panic!() };
            assert_eq!(*offset, next);
            assert!(events.ends_with(b"}\n") && events.len() <= EVENTS);
            next += events.len() as u64;
        }
        assert_eq!(next, text.len() as u64);
        assert!(matches!(&all(&vec![b'{'; EVENTS + 2])[..], [(0, Piece::Trouble(_))]));
    }

    #[test]
    fn of_a_long_message_the_middle_is_left_out() {
        let mut text = b"A: b\n\n".to_vec();
        text.resize(HEAD * 4, b'x');
        text.extend_from_slice(b"the end");
        let [(0, Piece::Message(message))] = &all(&text)[..] else { panic!() };
        assert!(message.len() <= HEAD + 5 * TAIL && message.starts_with(b"A: b") && message.ends_with(b"the end"));
    }

    #[test]
    fn directories_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "b/2.eml",
            "b/1.eml",
            "a.eml",
            "b/.hidden",
            "M/cur/x:2,S",
            "M/new/y",
            "M/tmp/z",
            "M/dovecot.index",
            "M/.F/cur/u",
            "M/.F/new/v",
        ] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
        let found = |paths: &[PathBuf]| -> Vec<String> {
            let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            Walk::new(paths)
                .map(|step| {
                    step.map(|found| relative(&found.path)).unwrap_or_else(|(path, _)| format!("!{}", relative(&path)))
                })
                .collect()
        };
        assert_eq!(
            found(&[root.to_owned()]),
            ["M/.F/cur/u", "M/.F/new/v", "M/cur/x:2,S", "M/new/y", "a.eml", "b/1.eml", "b/2.eml"]
        );
        assert_eq!(
            found(&[root.join("b/2.eml"), root.join("none"), root.join("a.eml"), "-".into()]),
            ["b/2.eml", "!none", "a.eml", "-"]
        );
        assert_eq!(found(&[root.join("b/.hidden")]), ["b/.hidden"], "what is named is read");
    }
}

//! Places a log goes to: a file, standard output, the local syslog socket.
//!
//! A file is appended to, one `write` per batch, and opened anew when it was renamed or removed under us (logrotate
//! without a reload). A process that may not open the file itself is handed the open file by one that may.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Prefix;

/// The local syslog socket.
pub const DEV_LOG: &str = "/dev/log";

/// How often a file is looked at to see whether it still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often sending to a full syslog socket is tried again, with ten milliseconds between.
const SYSLOG_TRIES: u32 = 20;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, appended to; created with mode 0600 (`maillog_file_permissions`).
    File(PathBuf),
    /// Standard output (`maillog_file = /dev/stdout`).
    Stdout,
    /// A syslog socket, with the facility's number.
    Syslog {
        /// [`DEV_LOG`], in tests another.
        path: PathBuf,
        /// 0 to 23; see [`facility`].
        facility: u8,
    },
}

impl Destination {
    /// What `maillog_file` and `syslog_facility` mean: an empty file name is syslog. An unknown facility is `mail`.
    pub fn from_settings(maillog_file: &str, syslog_facility: &str) -> Self {
        match maillog_file {
            "" => Self::Syslog { path: DEV_LOG.into(), facility: facility(syslog_facility).unwrap_or(2) },
            "/dev/stdout" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

/// The number of a syslog facility by its name in syslog.conf (RFC 5424 table 1).
pub fn facility(name: &str) -> Option<u8> {
    const NAMES: [&str; 12] =
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
    if let Some(local) = name.strip_prefix("local") {
        return match local.as_bytes() {
            [digit @ b'0'..=b'7'] => Some(16 + digit - b'0'),
            _ => None,
        };
    }
    // The table has 12 entries.
    NAMES.iter().position(|n| *n == name).map(|n| n as u8)
}

/// An open [`Destination`].
#[derive(Debug)]
pub struct Target {
    destination: Destination,
    state: State,
}

#[derive(Debug)]
enum State {
    File { file: File, identity: (u64, u64), looked: Instant },
    Stdout,
    Syslog(Wire),
}

/// The connection to a syslog socket, or how often and when it was last tried in vain.
#[derive(Debug)]
struct Wire {
    socket: Option<UnixDatagram>,
    failures: u32,
    failed: Instant,
}

/// A syslog socket that nobody listens on is tried with every line at first, for a daemon that is just being started
/// again; then only this often, because trying costs more than the line does.
const CONNECT_EVERY: Duration = Duration::from_millis(500);
const AT_FIRST: u32 = 20;

impl Wire {
    fn new(path: &Path) -> Self {
        Self { socket: connect(path).ok(), failures: 0, failed: Instant::now() }
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Instant::now();
    }

    fn connected(&mut self, path: &Path) -> io::Result<&UnixDatagram> {
        if self.socket.is_none() {
            if self.failures > AT_FIRST && self.failed.elapsed() < CONNECT_EVERY {
                return Err(io::ErrorKind::NotConnected.into());
            }
            match connect(path) {
                Ok(socket) => {
                    self.failures = 0;
                    self.socket = Some(socket);
                }
                Err(error) => {
                    self.fail();
                    return Err(error);
                }
            }
        }
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Target {
    /// Opens the destination. A syslog socket that nobody listens on yet is no error: it is tried again with each
    /// line. A file that cannot be opened is one, with the path in its text.
    pub fn open(destination: Destination) -> io::Result<Self> {
        let state = match &destination {
            Destination::File(path) => Self::file_state(open_append(path)?)?,
            Destination::Stdout => State::Stdout,
            Destination::Syslog { path, .. } => State::Syslog(Wire::new(path)),
        };
        Ok(Self { destination, state })
    }

    /// A file that somebody with more rights has opened, and the path it has. When it is renamed, opening it anew is
    /// tried; where that is not allowed the old one is written on until [`Target`] is replaced.
    pub fn from_file(file: File, path: PathBuf) -> io::Result<Self> {
        Ok(Self { state: Self::file_state(file)?, destination: Destination::File(path) })
    }

    fn file_state(file: File) -> io::Result<State> {
        let meta = file.metadata()?;
        Ok(State::File { identity: (meta.dev(), meta.ino()), file, looked: Instant::now() })
    }

    /// What it is.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The header that lines for it want.
    pub fn prefix(&self) -> Prefix {
        match self.destination {
            Destination::Syslog { facility, .. } => Prefix::Syslog(facility),
            _ => Prefix::File,
        }
    }

    /// Opens a file again by its path (after `postfix reload`, `postfix logrotate`); connects to syslog again.
    pub fn reopen(&mut self) -> io::Result<()> {
        match (&self.destination, &mut self.state) {
            (Destination::File(path), state) => *state = Self::file_state(open_append(path)?)?,
            (Destination::Syslog { path, .. }, state) => *state = State::Syslog(Wire::new(path)),
            (Destination::Stdout, _) => {}
        }
        Ok(())
    }

    /// Writes whole lines, each ending in a line feed.
    pub fn write(&mut self, lines: &str) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.follow_rename();
        match (&mut self.state, &self.destination) {
            (State::File { file, .. }, _) => file.write_all(lines.as_bytes()),
            (State::Syslog(socket), Destination::Syslog { path, .. }) => {
                lines.lines().try_for_each(|line| send(socket, path, line))
            }
            _ => {
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes())?;
                out.flush()
            }
        }
    }

    /// A file that was moved away (and perhaps created anew by whoever moved it) is left for the one with its name.
    fn follow_rename(&mut self) {
        let (State::File { identity, looked, .. }, Destination::File(path)) = (&mut self.state, &self.destination)
        else {
            return;
        };
        if looked.elapsed() < LOOK_EVERY {
            return;
        }
        *looked = Instant::now();
        if std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == *identity) {
            return;
        }
        // Without the right to open it the old file is still better than none.
        if let Ok(state) = open_append(path).and_then(Self::file_state) {
            self.state = state;
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("open log file {}: {error}", path.display())))
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// One line, one datagram. A syslogd that was restarted gets a new connection, a busy one a little time.
fn send(wire: &mut Wire, path: &Path, line: &str) -> io::Result<()> {
    let mut fresh = wire.socket.is_none();
    let mut tries = 0;
    loop {
        let error = match wire.connected(path)?.send(line.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        tries += 1;
        if tries >= SYSLOG_TRIES {
            return Err(error);
        }
        if error.kind() == io::ErrorKind::WouldBlock {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        // Once with a new connection; that one failing too means that nobody listens.
        wire.socket = None;
        if fresh {
            wire.fail();
            return Err(error);
        }
        fresh = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facilities() {
        for (name, number) in
            [("mail", Some(2)), ("local0", Some(16)), ("local7", Some(23)), ("local8", None), ("x", None)]
        {
            assert_eq!(facility(name), number, "{name}");
        }
    }

    #[test]
    fn settings() {
        let syslog = |facility| Destination::Syslog { path: DEV_LOG.into(), facility };
        let cases = [
            ("", "mail", syslog(2)),
            ("", "local3", syslog(19)),
            ("", "nonsense", syslog(2)),
            ("/dev/stdout", "mail", Destination::Stdout),
            ("/var/log/maillog", "mail", Destination::File("/var/log/maillog".into())),
        ];
        for (file, facility, wanted) in cases {
            assert_eq!(Destination::from_settings(file, facility), wanted);
        }
    }

    #[test]
    fn a_renamed_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maillog");
        let mut target = Target::open(Destination::File(path.clone())).unwrap();
        target.write("one\n").unwrap();
        std::fs::rename(&path, dir.path().join("maillog.1")).unwrap();
        if let State::File { looked, .. } = &mut target.state {
            *looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        }
        target.write("two\n").unwrap();
        target.reopen().unwrap();
        target.write("three\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("maillog.1")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
        let missing = Target::open(Destination::File("/nonexistent/maillog".into())).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/maillog"));
    }

    #[test]
    fn syslog_gets_datagrams_and_may_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut target = Target::open(Destination::Syslog { path: path.clone(), facility: 2 }).unwrap();
        assert!(target.write("nobody listens\n").is_err());
        for _ in 0..2 {
            let _ = std::fs::remove_file(&path);
            let server = UnixDatagram::bind(&path).unwrap();
            target.write("one\ntwo\n").unwrap();
            let mut buffer = [0; 100];
            for line in ["one", "two"] {
                let n = server.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..n], line.as_bytes());
            }
        }
    }
}

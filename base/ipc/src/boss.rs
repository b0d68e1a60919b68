//! Supervisor and engine, over a socket pair. Open sockets travel beside the messages.
//!
//! The supervisor is the only one of the two that may be root. What the engine can ask of it is small and every request
//! is checked against the supervisor's own reading of the configuration and of the user database: a worker under a
//! user's ID, or a program that master.cf names, never root's. Nothing that came out of a mail is in these messages but a user name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use yamabiko_sys::fds::MAX_FDS;

/// From the supervisor to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run this configuration. Descriptors come with the message: a file with [`Keys`], the log file if `log_file` says
    /// so, the control socket, then one per entry of `listeners`.
    Configure {
        /// Directory of main.cf and master.cf; empty for the embedded default.
        config_directory: String,
        /// Where the embedded default lives; empty otherwise.
        data_directory: String,
        /// Per listening socket: position of its service in master.cf as written.
        listeners: Vec<u32>,
        /// The log is a file, and it comes open: the engine may not be allowed to open it.
        log_file: bool,
        /// `-v` of the start command.
        verbose: u8,
        /// Engines before this one that did not come up, since the last that did.
        failed: u32,
        /// How the last of these ended, where it could not say so itself; empty otherwise.
        crashed: String,
    },
    /// Processes of ours ended as none should since this was told last: whoever is to know of it is told.
    Crashed(Crashes),
    /// End sessions politely and stop within this many seconds.
    Stop {
        /// Seconds.
        within: u32,
    },
    /// The log file was renamed: its successor comes open.
    ReopenLog,
    /// Answer to [`Wish::Worker`] and [`Wish::Spawn`]: a socket to a new worker comes with it, or the reason why not.
    Worker {
        /// Number of the wish.
        number: u64,
        /// Why there is none.
        refused: Option<String>,
    },
}

/// Processes that ended as none should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    /// How many.
    pub count: u32,
    /// The first of them, at most [`Crashes::SAMPLES`] of a kind.
    pub samples: Vec<Crash>,
}

impl Crashes {
    /// So many are described; the others are counted.
    pub const SAMPLES: usize = 3;
}

/// A process of ours that was ended by a signal or by a bug.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// When it was found, in seconds since 1970.
    pub at: u64,
    /// Which process, and how it ended, in one line.
    pub what: String,
    /// What it said itself; empty where it said nothing.
    pub last_words: String,
    /// Its last lines in the log, where the log is a file.
    pub log: Vec<String>,
}

/// From the engine to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// The configuration is in force.
    Ready,
    /// The configuration could not be taken: file, line and reason. An earlier one stays in force.
    Refused(String),
    /// Why the engine is about to end itself: it has found a bug.
    LastWords(String),
    /// What [`Order::Crashed`] brought was told.
    CrashesTold,
    /// A worker under somebody's user ID.
    Worker {
        /// Number to answer to.
        number: u64,
        /// Whose.
        user: WorkerUser,
    },
    /// A process of a private service of master.cf that runs spawn(8), with a socket as its standard input and output.
    /// Answered as [`Wish::Worker`] is.
    Spawn {
        /// Number to answer to.
        number: u64,
        /// Name of the service; what it runs and as whom is the supervisor's own reading.
        service: String,
    },
}

/// Whose ID a worker gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerUser {
    /// A system user by login name.
    Login {
        /// The name.
        name: String,
        /// Also the group of `mail_spool_directory`, where that group may write there.
        spool_group: bool,
    },
    /// Numbers from `virtual_uid_maps` and `virtual_gid_maps`.
    Virtual {
        /// User ID, at least `virtual_minimum_uid`.
        uid: u32,
        /// Group ID.
        gid: u32,
    },
    /// Who a service of master.cf that runs pipe(8) says in `user=`, below its `chroot=`.
    Service {
        /// Name of the service.
        name: String,
        /// `user=` as the engine read it: only so that workers of before a reload are not taken for those after it. The
        /// supervisor goes by its own reading.
        user: String,
        /// `chroot=`, in the same way.
        chroot: String,
    },
}

/// What only root may read and the engine has to know: keys of TLS, with the certificates beside them. They are read anew
/// for each configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Text by path, or why there is none.
    pub files: HashMap<String, Result<String, String>>,
    /// `tls_server_sni_maps`: names, each with the files of its keys.
    pub sni: Vec<(String, Vec<String>)>,
}

/// Bytes that [`Keys`] may have.
const MOST_KEYS: u64 = 256 << 20;

impl Keys {
    /// As a file without a name, in memory.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn to_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(yamabiko_sys::fds::memory_file("keys")?);
        serde_json::to_writer(io::BufWriter::new(&mut file), self)?;
        file.seek(io::SeekFrom::Start(0))?;
        Ok(file.into())
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It is none.
    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        let mut text = Vec::new();
        File::from(file).take(MOST_KEYS).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Sends a message with descriptors.
pub fn send(socket: &UnixStream, message: &impl Serialize, descriptors: &[OwnedFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message between supervisor and engine is too long"));
    }
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    // Servers with many addresses have more sockets than one packet carries.
    let mut rest = &descriptors[..];
    while let Some((first, more)) = rest.split_at_checked(MAX_FDS).filter(|(_, more)| !more.is_empty()) {
        yamabiko_sys::fds::send(socket, MORE, first)?;
        rest = more;
    }
    yamabiko_sys::fds::send(socket, &bytes, rest).map(|_| ())
}

/// Receives a message and its descriptors; `None` when the other side is gone.
pub fn receive<M: for<'de> Deserialize<'de>>(socket: &UnixStream) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; PACKET];
    let mut descriptors = Vec::new();
    loop {
        let (len, came) = yamabiko_sys::fds::receive(socket, &mut buffer)?;
        if len == 0 {
            return Ok(None);
        }
        descriptors.extend(came);
        // `len` is at most the length of the buffer.
        if &buffer[..len] != MORE {
            return Ok(Some((serde_json::from_slice(&buffer[..len])?, descriptors)));
        }
        if descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many open files before a message"));
        }
    }
}

/// A packet that only brings descriptors of the message that follows; no JSON.
const MORE: &[u8] = b"+";
/// Descriptors of a message, for which there is no need: more than any machine has addresses.
const MOST_DESCRIPTORS: usize = 16 << 10;

/// Largest message; they are packets (SOCK_SEQPACKET), so none is ever cut or joined.
const PACKET: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_sockets_than_a_packet_carries() {
        for many in [0, 1, MAX_FDS, MAX_FDS + 1, 3 * MAX_FDS, 3 * MAX_FDS + 1] {
            let (left, right) = UnixStream::pair().unwrap();
            let files: Vec<OwnedFd> = (0..many).map(|_| File::open("/dev/null").unwrap().into()).collect();
            send(&left, &"order", &files).unwrap();
            let (order, came) = receive::<String>(&right).unwrap().unwrap();
            assert_eq!((order.as_str(), came.len()), ("order", many));
            drop(left);
            assert!(receive::<String>(&right).unwrap().is_none());
        }
    }

    #[test]
    fn keys_travel() {
        let keys = Keys {
            files: [("/a".to_owned(), Ok("-----BEGIN\n".to_owned())), ("/b".to_owned(), Err("no".to_owned()))].into(),
            sni: vec![("a.test".to_owned(), vec!["/a".to_owned()])],
        };
        assert_eq!(Keys::from_file(keys.to_file().unwrap()).unwrap(), keys);
        assert!(Keys::from_file(yamabiko_sys::fds::memory_file("x").unwrap()).is_err());
    }
}

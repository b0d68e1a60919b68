//! Starting the engine and the workers: this binary again, under another ID, with one socket as standard input.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use yamabiko_config::Config;

use crate::identity::Identity;

/// The first argument that makes this binary run as one of its processes instead of as a command.
pub const ROLE: &str = "--role";

/// How long the engine may take to hear what we say.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// What is kept of the environment, besides what `import_environment` names.
const KEEP: [&str; 2] = ["RUST_BACKTRACE", "PATH"];

/// Who a worker becomes. Never root.
#[derive(Debug)]
pub struct WorkerIds {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// The mail spool's group, where the worker needs it.
    pub spool: Option<u32>,
    /// Its root directory, where it is another one.
    pub chroot: Option<String>,
}

/// How our processes are started.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
}

impl Launcher {
    /// With the binary that runs now.
    pub fn new() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()? })
    }

    fn command(&self, role: &str, config: &Config) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0(format!("yamabiko-{role}")).args([ROLE, role]).env_clear().current_dir("/");
        // The allocator gives memory back ten milliseconds after its last use and not a second: under load that is a third
        // less, and costs no time that could be measured.
        command.env("MIMALLOC_PURGE_DELAY", "10");
        let wanted = config.main().list("import_environment");
        command.envs(imported(wanted.iter().map(String::as_str).chain(KEEP), |name| std::env::var_os(name)));
        command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        command
    }

    /// The engine under the mail owner's ID, and our end of the socket between us.
    pub fn engine(&self, identity: &Identity, config: &Config) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = pair(SockType::SeqPacket)?;
        let mut command = self.command("engine", config);
        if identity.privileged {
            // std clears the supplementary groups when root sets a user ID.
            command.uid(identity.owner_uid).gid(identity.owner_gid);
        }
        let process = command.stdin(Stdio::from(theirs)).spawn()?;
        let socket = UnixStream::from(ours);
        // An engine that does not listen must not keep us from the signals.
        socket.set_write_timeout(Some(SEND_PATIENCE))?;
        Ok((process, socket))
    }

    /// A worker under a user's ID, and the socket that the engine will speak to it through.
    pub fn worker(&self, ids: Option<&WorkerIds>, config: &Config) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = pair(SockType::Stream)?;
        let mut command = self.command("local", config);
        match ids {
            // Below its new root this program is not found any more: the worker goes there by itself and gives up
            // root's rights before it reads anything.
            Some(WorkerIds { uid, gid, chroot: Some(chroot), .. }) => {
                command.args(["--chroot", chroot, &uid.to_string(), &gid.to_string()]);
            }
            // A supplementary group cannot be given through std: the spool's group becomes the primary one of this
            // worker, and files it makes get the user's own group by name.
            Some(WorkerIds { uid, gid, spool, .. }) => {
                command.uid(*uid).gid(spool.unwrap_or(*gid));
            }
            None => {}
        }
        Ok((command.stdin(Stdio::from(theirs)).spawn()?, ours))
    }

    /// A program of the administrator's, and the socket that is its standard input, output and error.
    pub fn spawned(&self, words: &[String], directory: &Path, ids: Option<(u32, u32)>) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = pair(SockType::Stream)?;
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(directory);
        command.envs(std::env::vars_os().filter(|(name, _)| KEEP.iter().any(|keep| name == keep)));
        if let Some((uid, gid)) = ids {
            command.uid(uid).gid(gid);
        }
        let output = theirs.try_clone()?;
        let errors = theirs.try_clone()?;
        command.stdin(Stdio::from(theirs)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        yamabiko_sys::daemon::give_all_signals(&mut command);
        Ok((command.spawn()?, ours))
    }
}

/// The variables of `import_environment`: a name means what we have under it, `name=value` is set as it is.
fn imported<'a>(
    wanted: impl Iterator<Item = &'a str>,
    ours: impl Fn(&str) -> Option<OsString>,
) -> Vec<(String, OsString)> {
    let one = |word: &'a str| {
        let word = word.strip_prefix('{').and_then(|word| word.strip_suffix('}')).map_or(word, str::trim);
        match word.split_once('=') {
            Some((name, value)) => Some((name.trim().to_owned(), value.trim().into())),
            None => ours(word).map(|value| (word.to_owned(), value)),
        }
    };
    wanted.filter_map(one).filter(|(name, _)| !name.is_empty()).collect()
}

fn pair(kind: SockType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imported() {
        let ours = |name: &str| (name == "TZ").then(|| OsString::from("Asia/Tokyo"));
        for (word, expected) in [
            ("TZ", Some(("TZ", "Asia/Tokyo"))),
            ("DISPLAY", None),
            ("LANG=C", Some(("LANG", "C"))),
            ("LANG=", Some(("LANG", ""))),
            ("{ NAME = some words }", Some(("NAME", "some words"))),
            ("=x", None),
        ] {
            let found = imported([word].into_iter(), ours);
            let expected = expected.map(|(name, value)| (name.to_owned(), OsString::from(value)));
            assert_eq!(found.into_iter().next(), expected, "{word}");
        }
    }
}

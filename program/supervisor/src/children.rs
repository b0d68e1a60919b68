//! Starting the engine and the workers: this binary again, under another ID, with one socket as standard input.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::identity::Identity;

/// The first argument that makes this binary run as one of its processes instead of as a command.
pub const ROLE: &str = "--role";

/// How long the engine may take to hear what we say.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// What is kept of the environment, besides what `import_environment` names.
const KEEP: [&str; 4] = ["TZ", "LANG", "RUST_BACKTRACE", "PATH"];

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

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0(format!("yamabiko-{role}")).args([ROLE, role]).env_clear().current_dir("/");
        command.envs(std::env::vars_os().filter(|(name, _)| KEEP.iter().any(|keep| name == keep)));
        command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        command
    }

    /// The engine under the mail owner's ID, and our end of the socket between us.
    pub fn engine(&self, identity: &Identity) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = pair(SockType::SeqPacket)?;
        let mut command = self.command("engine");
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
    pub fn worker(&self, ids: Option<(u32, u32, Option<u32>)>) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = pair(SockType::Stream)?;
        let mut command = self.command("local");
        if let Some((uid, gid, spool_group)) = ids {
            command.uid(uid).gid(gid);
            if let Some(group) = spool_group {
                // A supplementary group cannot be given through std: the spool's group becomes the primary one of
                // this worker, and files it makes get the user's own group by name.
                command.gid(group);
            }
        }
        Ok((command.stdin(Stdio::from(theirs)).spawn()?, ours))
    }
}

fn pair(kind: SockType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?)
}

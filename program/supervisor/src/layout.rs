//! The directories of an instance, who owns them, and the pid file that says whether it runs.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid};
use yamabiko_config::{Config, ConfigError, Host, MainCf, MasterCf};

use crate::identity::Identity;

/// Why the mail system did not start. The text says what, where, and what to do.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// One mail system: a configuration directory, or the embedded default with its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instance {
    /// A directory with main.cf and master.cf.
    Directory(PathBuf),
    /// No configuration at all: everything below this directory.
    Embedded(PathBuf),
}

impl Instance {
    /// Reads the configuration, all of it, and checks it.
    pub fn load(&self) -> Result<Arc<Config>, StartError> {
        self.load_with(Config::load)
    }

    /// The same for a command: Postfix's do not look at master.cf, so it may be missing.
    pub fn load_for_command(&self) -> Result<Arc<Config>, StartError> {
        self.load_with(Config::load_for_command)
    }

    fn load_with(
        &self,
        load: impl Fn(&Path, &Host) -> Result<Arc<Config>, ConfigError>,
    ) -> Result<Arc<Config>, StartError> {
        let host = Host::of_this_machine("postfix");
        match self {
            Instance::Directory(dir) => load(dir, &host).map_err(|error| StartError(error.to_string())),
            Instance::Embedded(data) => {
                let texts = crate::identity::embedded(data)?;
                Config::from_texts(&texts.main, &texts.master, ("(embedded) main.cf", "(embedded) master.cf"), &host)
                    .map_err(|error| StartError(error.to_string()))
            }
        }
    }

    /// Reads the configuration as it is written, faulty values and all: for commands that must work on a mail system
    /// whose next configuration is wrong. `None` when main.cf itself cannot be read.
    pub fn load_unchecked(&self) -> Option<Arc<Config>> {
        let Instance::Directory(directory) = self else { return None };
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).ok().map(|text| (path.display().to_string(), text))
        };
        let (main_name, main) = read("main.cf")?;
        let (master_name, master) = read("master.cf").unwrap_or_default();
        let main = MainCf::parse(&main_name, &main).ok()?;
        let master = MasterCf::parse(&master_name, &master).ok()?;
        Some(Arc::new(Config::unchecked(main, master, directory.to_str(), &Host::of_this_machine("postfix"))))
    }
}

/// Makes what is missing below the queue and data directories, with Postfix's owners and modes.
///
/// As an ordinary user everything belongs to that user. Directories that are there are left as they are, but for
/// owner and mode of our own ones when run as root.
pub fn lay_out(config: &Config, identity: &Identity) -> Result<(), StartError> {
    let main = config.main();
    for name in ["queue_directory", "data_directory"] {
        let value = main.text(name);
        if !Path::new(&value).is_absolute() {
            let place = main.place(name).map_or_else(String::new, |place| format!("{place}: "));
            return Err(StartError(format!("{place}parameter {name}: {value} is not an absolute path name")));
        }
    }
    let queue = PathBuf::from(main.text("queue_directory"));
    let data = PathBuf::from(main.text("data_directory"));
    for top in [&queue, &data] {
        make(top, 0o755)?;
    }
    if identity.privileged {
        own(&data, 0o700, identity.owner_uid, identity.owner_gid)?;
    }
    let (root, owner) = ((0, 0), (identity.owner_uid, identity.owner_gid));
    let drop = (identity.owner_uid, identity.drop_gid);
    // name, mode, owner: `maildrop` may be written by postdrop's group, `public` is entered by every command.
    let plan = [
        ("pid", 0o755, root),
        ("queue", 0o700, owner),
        ("public", 0o755, owner),
        ("private", 0o700, owner),
        ("maildrop", 0o1730, drop),
        ("spool", 0o700, owner),
    ];
    for (name, mode, (uid, gid)) in plan {
        let path = queue.join(name);
        make(&path, mode)?;
        if identity.privileged {
            own(&path, mode, uid, gid)?;
        }
    }
    if identity.privileged {
        // What cannot be given says the ledger itself, when it is to be written.
        let _ = hand_over_ledger(config, identity.owner_uid, identity.owner_gid);
    }
    Ok(())
}

fn make(path: &Path, mode: u32) -> Result<(), StartError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| StartError(format!("cannot make directory {}: {error}", path.display())))?;
    // The umask of the caller is not ours to trust.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| StartError(format!("cannot set the mode of {}: {error}", path.display())))
}

fn own(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), StartError> {
    let trouble =
        |error: &dyn fmt::Display| StartError(format!("cannot set owner or mode of {}: {error}", path.display()));
    let now = fs::metadata(path).map_err(|error| trouble(&error))?;
    if (now.uid(), now.gid()) != (uid, gid) {
        nix::unistd::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| trouble(&error))?;
    }
    if now.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| trouble(&error))?;
    }
    Ok(())
}

/// What root has put into the ledger (a copy that is put back, an import) belongs to the mail owner, under whom the engine
/// reads and writes it. Only below the directories that are the mail owner's: a wrong line in main.cf gives nothing else away.
pub fn hand_over_ledger(config: &Config, uid: u32, gid: u32) -> io::Result<()> {
    let main = config.main();
    let ledger = PathBuf::from(main.text("ledger_directory"));
    let ours = ["data_directory", "queue_directory"].map(|name| PathBuf::from(main.text(name)));
    if !ours.iter().any(|top| is_below(&ledger, top)) {
        return Ok(());
    }
    yamabiko_sys::hand_over::hand_over(&ledger, uid, gid)
}

/// Below it, by the names alone, and not the same.
fn is_below(directory: &Path, top: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let rest = directory.strip_prefix(top).ok().filter(|_| top.is_absolute() && top.parent().is_some());
    rest.is_some_and(|rest| rest.components().next().is_some() && rest.components().all(plain))
}

/// `pid/master.pid` below the queue directory, locked for as long as the mail system runs.
#[derive(Debug)]
pub struct PidFile {
    _file: Flock<File>,
}

fn pid_path(queue_directory: &Path) -> PathBuf {
    queue_directory.join("pid/master.pid")
}

impl PidFile {
    /// Takes the lock and writes our process ID, in Postfix's format.
    pub fn take(queue_directory: &Path) -> Result<Self, StartError> {
        let path = pid_path(queue_directory);
        let trouble = |error: &dyn fmt::Display| StartError(format!("cannot write {}: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => trouble(&format!("{error}: {}", whose(&path))),
            _ => trouble(&error),
        })?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StartError("the Postfix mail system is already running".to_owned()),
            errno => trouble(&errno),
        })?;
        file.set_len(0).map_err(|error| trouble(&error))?;
        file.rewind().map_err(|error| trouble(&error))?;
        writeln!(file, "{:>20}", std::process::id()).map_err(|error| trouble(&error))?;
        Ok(Self { _file: file })
    }
}

/// Who may start the mail system that this pid file is of.
fn whose(pid_file: &Path) -> String {
    let about = fs::metadata(pid_file).or_else(|_| fs::metadata(pid_file.parent().unwrap_or(pid_file)));
    let owner = about.ok().map(|about| Uid::from_raw(about.uid())).filter(|uid| !uid.is_root());
    match owner.and_then(|uid| nix::unistd::User::from_uid(uid).ok().flatten()) {
        Some(owner) => format!("only root and {} can start this mail system", owner.name),
        None => "only root can start this mail system".to_owned(),
    }
}

/// The process ID of the mail system that runs on this queue directory, if one does: a pid file that nobody locks is
/// left over from a crash and does not count.
pub fn running_pid(queue_directory: &Path) -> Option<i32> {
    let mut file = File::open(pid_path(queue_directory)).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        Err(_) => text.trim().parse().ok(),
    }
}

/// Makes the directories of an instance that is not running, as `postfix check` does.
pub fn lay_out_instance(config: &Config) -> Result<(), StartError> {
    lay_out(config, &Identity::of(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_mail_system_s_is_given_away() {
        for (directory, top, expected) in [
            ("/var/lib/postfix/ledger", "/var/lib/postfix", true),
            ("/var/lib/postfix/a/b", "/var/lib/postfix/", true),
            ("/var/lib/postfix", "/var/lib/postfix", false),
            ("/var/lib/postfix/../../../etc", "/var/lib/postfix", false),
            ("/var/lib/postfixes/ledger", "/var/lib/postfix", false),
            ("/etc", "/var/lib/postfix", false),
            ("/etc", "/", false),
            ("lib/ledger", "lib", false),
            ("/etc", "", false),
        ] {
            assert_eq!(is_below(Path::new(directory), Path::new(top)), expected, "{directory} {top}");
        }
    }
}

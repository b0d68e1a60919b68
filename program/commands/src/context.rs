//! What every command begins with: which mail system, its configuration, its log, and how to fail.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use yamabiko_config::{Config, View};
use yamabiko_envelope::{Event, Kind, Origin, QueueId, Severity, Timestamp};
use yamabiko_log::Setup;
use yamabiko_supervisor::{Instance, StartError};

/// Exit codes of sysexits(3) as Postfix's commands use them.
pub mod exit {
    /// Wrong usage.
    pub const USAGE: u8 = 64;
    /// A service is not there.
    pub const UNAVAILABLE: u8 = 69;
    /// An internal error.
    pub const SOFTWARE: u8 = 70;
    /// An operating system error.
    pub const OSERR: u8 = 71;
    /// Try again later.
    pub const TEMPFAIL: u8 = 75;
    /// Not allowed.
    pub const NOPERM: u8 = 77;
    /// Wrong configuration.
    pub const CONFIG: u8 = 78;
}

/// The folder that `yamabiko start` makes where there is no configuration.
pub const DATA_FOLDER: &str = "yamabiko-data";
/// Where a configuration is looked for when nobody says.
pub const DEFAULT_DIRECTORY: &str = "/etc/postfix";

/// A command's surroundings.
pub struct Context {
    /// Name for messages: `postqueue`.
    pub program: &'static str,
    /// Which mail system.
    pub instance: Instance,
    /// Its configuration.
    pub config: Arc<Config>,
    log: Setup,
}

/// This process has more rights than whoever called it: `postdrop` is installed setgid.
pub fn is_set_id() -> bool {
    nix::unistd::getuid() != nix::unistd::geteuid() || nix::unistd::getgid() != nix::unistd::getegid()
}

/// The mail system for a process with more rights than its caller: the default directory, or one that root has listed
/// in the default main.cf (`alternate_config_directories`, `multi_instance_directories`). The caller's environment does
/// not count.
pub fn guarded_instance(option: Option<&str>) -> Result<Instance, String> {
    guarded(option, || {
        let config = Instance::Directory(PathBuf::from(DEFAULT_DIRECTORY)).load().map_err(|error| error.to_string())?;
        let main = config.main();
        let mut listed = main.list("alternate_config_directories");
        listed.extend(main.list("multi_instance_directories"));
        Ok(listed)
    })
}

fn guarded(option: Option<&str>, listed: impl Fn() -> Result<Vec<String>, String>) -> Result<Instance, String> {
    let named = option.unwrap_or(DEFAULT_DIRECTORY);
    if named == DEFAULT_DIRECTORY || listed()?.iter().any(|directory| directory == named) {
        return Ok(Instance::Directory(PathBuf::from(named)));
    }
    Err(format!("unauthorized configuration directory name: {named}"))
}

/// The mail system that is meant: `-c`, then `MAIL_CONFIG`, then the data folder of the working directory if the
/// command was called as `yamabiko NAME`, then the default directory.
pub fn instance(option: Option<&str>, called_as_yamabiko: bool) -> Instance {
    let named = option
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("MAIL_CONFIG").filter(|value: &OsString| !value.is_empty()).map(PathBuf::from));
    match named {
        Some(dir) => Instance::Directory(dir),
        None if called_as_yamabiko && Path::new(DATA_FOLDER).is_dir() => embedded_here(),
        None => Instance::Directory(PathBuf::from(DEFAULT_DIRECTORY)),
    }
}

/// The embedded default in the working directory.
pub fn embedded_here() -> Instance {
    let path = std::path::absolute(DATA_FOLDER).unwrap_or_else(|_| PathBuf::from(DATA_FOLDER));
    Instance::Embedded(path)
}

impl Context {
    /// Loads the configuration, or says why not and gives the exit code.
    pub fn open(program: &'static str, instance: Instance) -> Result<Self, ExitCode> {
        Self::made(program, instance.load_for_command(), instance)
    }

    /// As [`Context::open`], for what makes or checks a mail system: it has services.
    pub fn open_to_start(program: &'static str, instance: Instance) -> Result<Self, ExitCode> {
        Self::made(program, instance.load(), instance)
    }

    /// As [`Context::open`], for what is done with a mail system that runs: a fault in a configuration that is not in
    /// force yet must not keep anybody from stopping it, or mail from coming in. The fault is said all the same.
    pub fn open_running(program: &'static str, instance: Instance) -> Result<Self, ExitCode> {
        let loaded = instance.load_for_command().or_else(|error| match instance.load_unchecked() {
            Some(config) => {
                eprintln!("{program}: warning: {error}");
                Ok(config)
            }
            None => Err(error),
        });
        Self::made(program, loaded, instance)
    }

    fn made(
        program: &'static str,
        loaded: Result<Arc<Config>, StartError>,
        instance: Instance,
    ) -> Result<Self, ExitCode> {
        match loaded {
            Ok(config) => {
                let log = Setup::from_view(&config.main());
                Ok(Self { program, instance, config, log })
            }
            Err(error) => {
                eprintln!("{program}: fatal: {error}");
                Err(ExitCode::from(1))
            }
        }
    }

    /// main.cf
    pub fn main(&self) -> View {
        self.config.main()
    }

    /// `queue_directory`
    pub fn queue_directory(&self) -> PathBuf {
        PathBuf::from(self.main().text("queue_directory"))
    }

    /// Writes a line into the mail log, if this user may.
    pub fn log(&mut self, severity: Severity, queue_id: Option<QueueId>, text: &str) {
        self.log_as(self.program, severity, queue_id, text);
    }

    /// The same under another program's name.
    pub fn log_as(&mut self, program: &str, severity: Severity, queue_id: Option<QueueId>, text: &str) {
        let origin = Origin { syslog_name: Arc::clone(&self.log.syslog_name), program: program.to_owned().into() };
        self.append(origin, severity, queue_id, text);
    }

    /// The same under a tag of which nothing is ours.
    pub fn log_tagged(&mut self, tag: &str, severity: Severity, text: &str) {
        let origin = Origin { syslog_name: Arc::from(""), program: tag.to_owned().into() };
        self.append(origin, severity, None, text);
    }

    fn append(&self, origin: Origin, severity: Severity, queue_id: Option<QueueId>, text: &str) {
        let kind = Kind::Text { severity, queue_id, text: text.to_owned() };
        // Not everybody may write there, and a command does its work all the same.
        let _ = self.log.append(&[Event { at: Timestamp::now(), origin, kind }]);
    }

    /// `program: warning: text` on standard error and in the log.
    pub fn warn(&mut self, text: &str) {
        eprintln!("{}: warning: {text}", self.program);
        self.log(Severity::Warning, None, text);
    }

    /// `program: fatal: text` on standard error and in the log.
    pub fn fatal(&mut self, code: u8, text: &str) -> ExitCode {
        eprintln!("{}: fatal: {text}", self.program);
        self.log(Severity::Fatal, None, text);
        ExitCode::from(code)
    }
}

/// Who runs the command, as Postfix writes it: `labuser1(5001)`.
pub fn caller() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| "unknown".to_owned(), |user| user.name);
    format!("{name}({uid})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rights_read_only_what_root_has_listed() {
        let listed = || Ok(vec!["/etc/postfix-out".to_owned()]);
        for (option, allowed) in [
            (None, true),
            (Some(DEFAULT_DIRECTORY), true),
            (Some("/etc/postfix-out"), true),
            (Some("/etc/postfix-out/"), false),
            (Some("/etc/postfix/"), false),
            (Some("/tmp/mine"), false),
            (Some("/etc/postfix-out/../../tmp"), false),
            (Some(""), false),
        ] {
            assert_eq!(guarded(option, listed).is_ok(), allowed, "{option:?}");
        }
        assert!(guarded(Some("/x"), || Err("no main.cf".to_owned())).is_err());
        assert!(guarded(None, || Err("not looked at".to_owned())).is_ok());
    }
}

//! postfix(1): start, stop, reload, check and look at the mail system. Also `yamabiko start`, `yamabiko stop`, ...
//!
//! Texts in the log are postfix-script's, exit codes too.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use yamabiko_envelope::Severity;
use yamabiko_ipc::control::{Caller, Flush, Reply, Request};
use yamabiko_supervisor::{Instance, Start, running_pid};

use crate::context::{Context, instance};
use crate::getopt::{Flag, parse};

const USAGE: &str = "postfix start (or stop, reload, abort, flush, check, status, set-permissions, \
                     upgrade-configuration, logrotate)";
/// `postfix stop` waits this long for the last process.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Runs `postfix [-c dir] [-Dv] command`.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let (flags, words) = match parse("c:Dv", args) {
        Ok(parsed) => parsed,
        Err(bad) => {
            eprintln!("postfix: {bad}");
            eprintln!("postfix: fatal: usage: postfix [-c config_dir] [-Dv] command");
            return ExitCode::from(1);
        }
    };
    let directory = flags.iter().rev().find_map(|flag| match flag {
        Flag::Value('c', dir) => Some(dir.as_str()),
        _ => None,
    });
    let verbose = flags.iter().filter(|flag| **flag == Flag::Plain('v')).count().min(9) as u8;
    let Some(verb) = words.first() else {
        eprintln!("postfix: fatal: usage: postfix [-c config_dir] [-Dv] command");
        return ExitCode::from(1);
    };
    let mut which = instance(directory, called_as_yamabiko);
    let starts = matches!(verb.as_str(), "start" | "start-fg" | "check");
    if called_as_yamabiko && starts && directory.is_none() && std::env::var_os("MAIL_CONFIG").is_none() {
        which = crate::context::embedded_here();
    }
    if let Err(code) = prepare(&which, starts) {
        return code;
    }
    // What begins something wants a sound configuration; what looks at it or ends it does not.
    let opened = match verb.as_str() {
        "stop" | "abort" | "status" | "flush" | "logrotate" => Context::open_running("postfix", which),
        _ => Context::open_to_start("postfix", which),
    };
    let mut script = match opened {
        Ok(context) => Script { context, verbose, ours: called_as_yamabiko },
        Err(code) => return code,
    };
    match verb.as_str() {
        "start" => script.start(),
        "start-fg" => script.start_in_foreground(),
        "stop" => script.stop(Signal::SIGTERM, "stopping the Postfix mail system"),
        "abort" => script.stop(Signal::SIGKILL, "aborting the Postfix mail system"),
        "reload" => script.reload(),
        "flush" => script.flush(),
        "check" => script.check(),
        "status" => script.status(),
        "logrotate" => script.rotate(),
        "set-permissions" | "upgrade-configuration" => script.lay_out_only(),
        other => script.fatal(&format!("unknown command: '{other}'. Usage: {USAGE}")),
    }
}

/// The data folder of the embedded default is made here, before anything is looked up in it.
fn prepare(which: &Instance, starts: bool) -> Result<(), ExitCode> {
    let Instance::Embedded(data) = which else { return Ok(()) };
    if !starts {
        return Ok(());
    }
    for name in ["", "log", "mail"] {
        let path = data.join(name);
        if let Err(error) = std::fs::create_dir_all(&path) {
            let path = path.display();
            eprintln!(
                "yamabiko: fatal: cannot make {path}: {error}: go to a folder where you may write, or name a configuration \
                 (yamabiko start -c DIR)"
            );
            return Err(ExitCode::from(1));
        }
    }
    if nix::unistd::geteuid().is_root() {
        // Everybody's mailbox is made below it, each under its user's own ID.
        let mode = std::fs::Permissions::from_mode(0o1777);
        let _ = std::fs::set_permissions(data.join("mail"), mode);
    }
    Ok(())
}

struct Script {
    context: Context,
    verbose: u8,
    /// Called as `yamabiko status`, not as `postfix status`.
    ours: bool,
}

impl Script {
    /// Into the log, and to the person who looks on.
    fn say(&mut self, severity: Severity, text: &str) {
        self.context.log_as("postfix-script", severity, None, text);
        if self.ours || std::io::stderr().is_terminal() {
            let word = if severity == Severity::Fatal { "fatal: " } else { "" };
            eprintln!("postfix/postfix-script: {word}{text}");
        }
    }

    fn fatal(&mut self, text: &str) -> ExitCode {
        self.context.log_as("postfix-script", Severity::Fatal, None, text);
        eprintln!("postfix/postfix-script: fatal: {text}");
        ExitCode::from(1)
    }

    fn unreachable(&mut self, pid: i32, error: nix::errno::Errno) -> ExitCode {
        match error {
            nix::errno::Errno::EPERM => self.fatal(&format!(
                "cannot signal process {pid}: the mail system belongs to another user; only root and that user may do this"
            )),
            error => self.fatal(&format!("cannot signal process {pid}: {}", error.desc())),
        }
    }

    fn not_running(&mut self) -> ExitCode {
        let code = self.fatal("the Postfix mail system is not running");
        self.say_which();
        code
    }

    /// Called as `yamabiko` it may be about a folder that is not this one.
    fn say_which(&self) {
        if let (true, Instance::Directory(dir)) = (self.ours, &self.context.instance)
            && dir == Path::new(crate::context::DEFAULT_DIRECTORY)
        {
            let folder = crate::context::DATA_FOLDER;
            eprintln!("yamabiko: this is about {}; there is no {folder} in this folder", dir.display());
        }
    }

    fn pid(&self) -> Option<i32> {
        running_pid(&self.context.queue_directory())
    }

    fn start(&mut self) -> ExitCode {
        if self.pid().is_some() {
            return self.fatal("the Postfix mail system is already running");
        }
        self.say(Severity::Info, "starting the Postfix mail system");
        let _ = nix::sys::prctl::set_thp_disable(true);
        let spawned = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            command.args(["--role", "supervisor"]);
            match &self.context.instance {
                Instance::Directory(dir) => command.arg("--config").arg(absolute(dir)),
                Instance::Embedded(data) => command.arg("--data").arg(data),
            };
            command.args(std::iter::repeat_n("-v", usize::from(self.verbose)));
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            // What the daemon has to say after the start goes to the log.
            command.stderr(Stdio::null()).spawn()
        });
        let mut answer = String::new();
        let mut child = match spawned {
            Ok(mut child) => {
                if let Some(mut pipe) = child.stdout.take()
                    && let Err(error) = pipe.read_to_string(&mut answer)
                {
                    answer = format!("the supervisor could not be heard: {error}");
                }
                child
            }
            Err(error) => return self.fatal(&format!("cannot start the supervisor: {error}")),
        };
        if answer == "ok" {
            self.tell_of_postmaster();
            self.welcome();
            return ExitCode::SUCCESS;
        }
        // It holds the lock until its end, and the next start may follow at once.
        let _ = child.wait();
        if answer.is_empty() {
            answer = format!("the supervisor (process {}) ended without a word", child.id());
        }
        self.fatal(&answer)
    }

    /// Notices that nobody gets are found out when they are needed. The log has this too; who looks on need not read it.
    fn tell_of_postmaster(&self) {
        if self.ours || std::io::stderr().is_terminal() {
            for remark in yamabiko_engine::unheard(&self.context.config) {
                eprintln!("postfix/postfix-script: warning: {remark}");
            }
        }
    }

    /// For the newcomer: what listens where, and three things to try.
    fn welcome(&self) {
        let Instance::Embedded(data) = &self.context.instance else { return };
        let main = self.context.main();
        let me = std::env::args().next().unwrap_or_else(|| "yamabiko".to_owned());
        crate::say!("Yamabiko is running, without any configuration of yours.");
        crate::say!("  SMTP        127.0.0.1:2525   (submission 127.0.0.1:2587)");
        crate::say!("  everything  {}", data.display());
        crate::say!("  mail        {}USER/new/", main.text("mail_spool_directory"));
        crate::say!("  log         {}", main.text("maillog_file"));
        crate::say!("Try:");
        crate::say!("  printf 'Subject: hello\\n\\nfirst mail\\n' | {me} sendmail postmaster@localhost");
        crate::say!("  {me} mailq");
        crate::say!("  {me} stop");
    }

    fn start_in_foreground(&mut self) -> ExitCode {
        if self.pid().is_some() {
            return self.fatal("the Postfix mail system is already running");
        }
        self.say(Severity::Info, "starting the Postfix mail system");
        let _ = nix::sys::prctl::set_thp_disable(true);
        self.welcome();
        let instance = match &self.context.instance {
            Instance::Directory(dir) => Instance::Directory(absolute(dir)),
            embedded => embedded.clone(),
        };
        yamabiko_sys::daemon::keep_inherited_from_children();
        yamabiko_supervisor::run(Start { instance, ready: None, foreground: true, verbose: self.verbose })
    }

    fn stop(&mut self, signal: Signal, text: &str) -> ExitCode {
        let Some(pid) = self.pid() else {
            return self.not_running();
        };
        self.say(Severity::Info, text);
        let master = Pid::from_raw(pid);
        // `abort` is for all of it: an engine left behind would hold the ports for a while.
        let whole = signal == Signal::SIGKILL && nix::unistd::getpgid(Some(master)) == Ok(master);
        if let Err(error) = if whole { killpg(master, signal) } else { kill(master, signal) } {
            return self.unreachable(pid, error);
        }
        let end = Instant::now() + STOP_PATIENCE;
        while self.pid().is_some() {
            if Instant::now() > end {
                return self.fatal(&format!("process {pid} did not end within {} s", STOP_PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        ExitCode::SUCCESS
    }

    /// What is wrong is said here, before the running system is disturbed at all.
    fn reload(&mut self) -> ExitCode {
        let Some(pid) = self.pid() else {
            return self.not_running();
        };
        self.say(Severity::Info, "refreshing the Postfix mail system");
        match kill(Pid::from_raw(pid), Signal::SIGHUP) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => self.unreachable(pid, error),
        }
    }

    fn rotate(&mut self) -> ExitCode {
        let file = self.context.main().text("maillog_file");
        if file.is_empty() || file.starts_with("/dev/") {
            return self.fatal("maillog_file does not name a file: there is nothing to rotate");
        }
        let suffix = self.context.main().text("maillog_file_rotate_suffix");
        let stamp = jiff::Zoned::now().strftime(&suffix).to_string();
        if let Err(error) = std::fs::rename(&file, format!("{file}.{stamp}")) {
            return self.fatal(&format!("cannot rename {file}: {error}"));
        }
        match self.pid() {
            Some(pid) => match kill(Pid::from_raw(pid), Signal::SIGUSR1) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => self.unreachable(pid, error),
            },
            None => ExitCode::SUCCESS,
        }
    }

    fn flush(&mut self) -> ExitCode {
        let queue = self.context.queue_directory();
        match Caller::ask(&queue, Request::Flush(Flush::All)).and_then(|mut caller| caller.reply()) {
            Ok(Reply::Done) => ExitCode::SUCCESS,
            Ok(Reply::Refused(why) | Reply::TryLater(why)) => self.fatal(&why),
            Ok(other) => self.fatal(&format!("unexpected answer: {other:?}")),
            Err(_) => self.fatal("Cannot flush mail queue - mail system is down"),
        }
    }

    fn status(&mut self) -> ExitCode {
        match self.pid() {
            Some(pid) => {
                self.say(Severity::Info, &format!("the Postfix mail system is running: PID: {pid}"));
                ExitCode::SUCCESS
            }
            None => {
                self.say(Severity::Info, "the Postfix mail system is not running");
                self.say_which();
                ExitCode::from(1)
            }
        }
    }

    /// Silent when all is well: what is wrong was said when the configuration was loaded, what is odd is said here.
    fn check(&mut self) -> ExitCode {
        let notices: Vec<String> = self.context.config.notices().iter().map(ToString::to_string).collect();
        let findings = yamabiko_engine::examine(&self.context.config);
        for notice in notices.iter().chain(&findings.warnings) {
            eprintln!("postfix: warning: {notice}");
            self.context.log_as("postfix", Severity::Warning, None, notice);
        }
        for fault in &findings.faults {
            eprintln!("postfix: fatal: {fault}");
            self.context.log_as("postfix", Severity::Fatal, None, fault);
        }
        if let Err(error) = yamabiko_supervisor::addresses(&self.context.config) {
            return self.fatal(&error.to_string());
        }
        let laid_out = self.lay_out_only();
        if findings.faults.is_empty() { laid_out } else { ExitCode::from(1) }
    }

    fn lay_out_only(&mut self) -> ExitCode {
        match yamabiko_supervisor::lay_out_instance(&self.context.config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => self.fatal(&error.to_string()),
        }
    }
}

fn absolute(dir: &Path) -> std::path::PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf())
}

/// The supervisor as `postfix start` starts it: its standard output is told how it went.
pub fn supervisor_role(args: &[String]) -> ExitCode {
    let mut words = args.iter();
    let (mut which, mut verbose) = (None, 0u8);
    while let Some(word) = words.next() {
        match (word.as_str(), words.as_slice().first()) {
            ("-v", _) => verbose = verbose.saturating_add(1),
            ("--config", Some(dir)) => which = Some(Instance::Directory(dir.into())),
            ("--data", Some(dir)) => which = Some(Instance::Embedded(dir.into())),
            _ => continue,
        }
        if word != "-v" {
            words.next();
        }
    }
    // Small processes stay small: huge pages would give each of them megabytes that it never uses. Children inherit it.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let Some(instance) = which else {
        eprintln!("yamabiko: fatal: --role supervisor is started by `postfix start`");
        return ExitCode::from(64);
    };
    yamabiko_sys::daemon::close_inherited();
    let ready = std::io::stdout().as_fd().try_clone_to_owned().map(File::from).ok();
    // Nobody after us may hold the pipe open: its end is what `postfix start` waits for.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
    yamabiko_supervisor::run(Start { instance, ready, foreground: false, verbose })
}

//! A mail system of one's own, in a temporary directory: [`Instance`].

mod client;
mod sink;
pub mod world;

pub use client::Client;
pub use sink::{Sink, Transaction};

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A log that did not grow for so long has what was said before.
const SETTLED: Duration = Duration::from_millis(40);

/// Names that the program is called by.
const COMMANDS: [&str; 15] = [
    "postfix",
    "sendmail",
    "mailq",
    "newaliases",
    "postqueue",
    "postsuper",
    "postcat",
    "postconf",
    "postlog",
    "yamabiko",
    "bouncesaying",
    "condredirect",
    "except",
    "forward",
    "preline",
];

const MASTER: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
";

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A message as `postqueue -j` shows it.
#[derive(Clone, Debug)]
pub struct Queued {
    pub queue: String,
    pub id: String,
    pub sender: String,
    pub recipients: Vec<String>,
}

/// A mail system in a temporary directory. Mail for `NAME@box.example`, for a few names, goes to the Maildir `box/NAME`, all else to the
/// [`Sink`] whose address was taken beforehand. Dropping it kills everything that it started.
pub struct Instance {
    root: tempfile::TempDir,
    /// Where SMTP is spoken.
    pub smtp: SocketAddr,
    /// Where the next hop is; nobody listens there yet.
    pub next_hop: SocketAddr,
    main: Vec<(String, String)>,
    /// Services besides the usual ones.
    pub services: Vec<String>,
    kept: AtomicBool,
}

/// An address and port that nobody else on this machine uses: the address is this process's own.
pub fn address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(10_000);
    let [_, b, c, d] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 + (b & 63), c, d);
    SocketAddr::new(IpAddr::V4(ip), PORT.fetch_add(1, Ordering::Relaxed))
}

/// Whether the tests run as root; then the parts run under different users.
pub fn as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The user whom everything belongs to: `nobody` for root, otherwise whoever runs the tests.
fn owner() -> User {
    let found = if as_root() { User::from_name("nobody") } else { User::from_uid(nix::unistd::geteuid()) };
    found.expect("the user database can be read").expect("the user exists")
}

/// True when everybody can reach the file.
fn reachable(path: &Path) -> bool {
    path.ancestors().skip(1).all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

impl Instance {
    /// Prepared, not started.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("yamabiko-test-").tempdir().expect("temporary directory");
        let path = root.path().to_owned();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["bin", "etc", "box"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Run by another user than the one who built it, the program is elsewhere.
        let mut program = std::env::var_os("YAMABIKO_PROGRAM")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_yamabiko")), PathBuf::from);
        if as_root() && !reachable(&program) {
            // The engine runs under another user, who must be able to execute it.
            let copy = path.join("bin/program");
            fs::copy(&program, &copy).expect("copy of the program");
            program = copy;
        }
        for name in COMMANDS {
            symlink(&program, path.join("bin").join(name)).unwrap();
        }
        let owner = owner();
        let (uid, gid) = (owner.uid.as_raw(), owner.gid.as_raw());
        if as_root() {
            chown(path.join("box"), Some(uid), Some(gid)).unwrap();
        }
        let group = nix::unistd::Group::from_gid(owner.gid).ok().flatten().map_or("nogroup".to_owned(), |g| g.name);
        let (smtp, next_hop) = (address(), address());
        let dir = path.display();
        let main = [
            ("compatibility_level", "3.6".to_owned()),
            ("queue_directory", format!("{dir}/queue")),
            ("data_directory", format!("{dir}/lib")),
            ("maillog_file", format!("{dir}/mail.log")),
            ("maillog_file_prefixes", dir.to_string()),
            ("mail_owner", owner.name.clone()),
            ("setgid_group", group),
            ("default_privs", owner.name),
            ("myhostname", "mx.test.example".to_owned()),
            ("mydomain", "test.example".to_owned()),
            ("myorigin", "test.example".to_owned()),
            ("mydestination", String::new()),
            ("inet_interfaces", smtp.ip().to_string()),
            ("inet_protocols", "ipv4".to_owned()),
            ("mynetworks", "127.0.0.0/8".to_owned()),
            ("relayhost", format!("[{}]:{}", next_hop.ip(), next_hop.port())),
            ("smtp_dns_support_level", "disabled".to_owned()),
            ("virtual_mailbox_domains", "box.example".to_owned()),
            ("virtual_mailbox_base", format!("{dir}/box")),
            ("virtual_mailbox_maps", format!("texthash:{dir}/etc/boxes")),
            ("virtual_uid_maps", format!("static:{uid}")),
            ("virtual_gid_maps", format!("static:{gid}")),
            ("virtual_minimum_uid", "1".to_owned()),
            ("alias_maps", String::new()),
        ];
        let main = main.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let instance = Self { root, smtp, next_hop, main, services: Vec::new(), kept: AtomicBool::new(false) };
        // No part of an address may become part of a file name through a pattern, so the boxes are listed.
        let boxes = ["me", "one", "two", "three", "four", "both", "box"];
        let boxes: String = boxes.iter().map(|name| format!("{name}@box.example {name}/\n")).collect();
        instance.file("boxes", &boxes);
        instance.write();
        instance
    }

    /// Started.
    pub fn started() -> Self {
        let instance = Self::new();
        instance.start();
        instance
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The configuration directory.
    pub fn etc(&self) -> PathBuf {
        self.path().join("etc")
    }

    /// Sets a parameter of main.cf, for the next start or reload.
    pub fn set(&mut self, name: &str, value: &str) {
        self.main.retain(|(known, _)| known != name);
        self.main.push((name.to_owned(), value.to_owned()));
        self.write();
    }

    /// Writes a file beside main.cf.
    pub fn file(&self, name: &str, text: &str) {
        fs::write(self.etc().join(name), text).unwrap();
    }

    /// Writes main.cf and master.cf.
    pub fn write(&self) {
        let main: String = self.main.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let mut master = format!("{} inet n - n - - smtpd\n", self.smtp);
        master.extend(self.services.iter().map(|line| format!("{line}\n")));
        master.push_str(MASTER);
        self.file("main.cf", &main);
        self.file("master.cf", &master);
    }

    /// The line of main.cf at which a parameter stands.
    pub fn line_of(&self, name: &str) -> usize {
        1 + self.main.iter().position(|(known, _)| known == name).expect("the parameter is set")
    }

    // ---- commands

    /// A command of the mail system, ready to be run.
    pub fn command(&self, name: &str) -> Command {
        self.surrounded(self.path().join("bin").join(name))
    }

    fn surrounded(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(self.path().join("bin")).chain(std::env::split_paths(&path)));
        command.env("MAIL_CONFIG", self.etc()).env("PATH", path.unwrap()).current_dir(self.path());
        command
    }

    /// Runs a command with that on its standard input.
    pub fn run_with(&self, name: &str, args: &[&str], input: &str) -> Said {
        let mut command = self.command(name);
        command.args(args);
        finish(command, input)
    }

    /// Runs a command.
    pub fn run(&self, name: &str, args: &[&str]) -> Said {
        self.run_with(name, args, "")
    }

    /// Runs a command that must succeed; its output.
    #[track_caller]
    pub fn ok(&self, name: &str, args: &[&str]) -> String {
        let said = self.run(name, args);
        assert_eq!(said.code, 0, "{name} {args:?}: {said:?}\n{}", self.log());
        said.out
    }

    /// Runs a line of shell, with our commands first in the path.
    pub fn shell(&self, line: &str) -> Said {
        let mut shell = self.surrounded("/bin/sh".into());
        shell.args(["-c", line]);
        finish(shell, "")
    }

    /// `postfix -c DIR VERB`
    pub fn postfix(&self, verb: &str) -> Said {
        let etc = self.etc();
        self.run("postfix", &["-c", etc.to_str().unwrap(), verb])
    }

    #[track_caller]
    pub fn start(&self) {
        let said = self.postfix("start");
        assert_eq!(said.code, 0, "start: {said:?}\n{}", self.log());
    }

    #[track_caller]
    pub fn stop(&self) {
        let said = self.postfix("stop");
        assert_eq!(said.code, 0, "stop: {said:?}\n{}", self.log());
    }

    /// Reloads, and waits until the new configuration is in force or refused.
    #[track_caller]
    pub fn reload(&self) {
        let count = |log: &str| log.matches("]: reload").count();
        let before = count(&self.log());
        let said = self.postfix("reload");
        assert_eq!(said.code, 0, "reload: {said:?}\n{}", self.log());
        self.until("the reload", || count(&self.log()) > before);
    }

    // ---- looking

    /// The file of the mail log.
    pub fn log_file(&self) -> PathBuf {
        let known = self.main.iter().find(|(name, _)| name == "maillog_file");
        PathBuf::from(&known.expect("it is set").1)
    }

    /// The mail log so far. Lines gather for a moment before they are written: it is read when no more come, or when they go
    /// on coming.
    pub fn log(&self) -> String {
        let length = || fs::metadata(self.log_file()).map_or(0, |meta| meta.len());
        let end = Instant::now() + Duration::from_secs(1);
        let mut before = length();
        loop {
            std::thread::sleep(SETTLED);
            let now = length();
            if now == before || Instant::now() >= end {
                break;
            }
            before = now;
        }
        fs::read(self.log_file()).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// What is in the queue.
    #[track_caller]
    pub fn queue(&self) -> Vec<Queued> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = self.ok("postqueue", &["-j"]);
        let entry = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("a JSON object a line");
            let recipients = value["recipients"].as_array().into_iter().flatten();
            Queued {
                queue: text(&value["queue_name"]),
                id: text(&value["queue_id"]),
                sender: text(&value["sender"]),
                recipients: recipients.map(|recipient| text(&recipient["address"])).collect(),
            }
        };
        lines.lines().map(entry).collect()
    }

    /// Waits until that many messages are in that queue.
    #[track_caller]
    pub fn until_queued(&self, queue: &str, number: usize) {
        let count = || self.queue().iter().filter(|entry| entry.queue == queue).count();
        self.until(&format!("{number} messages in {queue}"), || count() == number);
    }

    /// Waits until the queue is empty.
    #[track_caller]
    pub fn until_empty(&self) {
        self.until("an empty queue", || self.queue().is_empty());
    }

    /// The mails of a Maildir, in the order of their names.
    pub fn mails(&self, name: &str) -> Vec<String> {
        let Ok(found) = fs::read_dir(self.path().join("box").join(name).join("new")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
    }

    /// Waits until a Maildir has that many mails.
    #[track_caller]
    pub fn until_mails(&self, name: &str, number: usize) -> Vec<String> {
        self.until(&format!("{number} mails for {name}"), || self.mails(name).len() >= number);
        let mails = self.mails(name);
        assert_eq!(mails.len(), number, "mails for {name}: {mails:#?}");
        mails
    }

    /// Waits until something is so; fails with the log otherwise.
    #[track_caller]
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so() {
            assert!(Instant::now() < end, "waited in vain for {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A new SMTP session.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.smtp).unwrap_or_else(|error| panic!("connect: {error}\n{}", self.log()))
    }

    // ---- processes

    /// The supervisor's process ID, if it runs.
    pub fn supervisor(&self) -> Option<i32> {
        let text = fs::read_to_string(self.path().join("queue/pid/master.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        // A number that was given to another process meanwhile is not ours to kill.
        let etc = self.etc();
        arguments(pid)?.contains(etc.to_str()?).then_some(pid)
    }

    /// The engine's process ID, if it runs.
    pub fn engine(&self) -> Option<i32> {
        let supervisor = self.supervisor()?;
        children(supervisor).into_iter().find(|pid| arguments(*pid).is_some_and(|args| args.contains("engine")))
    }

    /// The processes that deliver to mailboxes.
    pub fn workers(&self) -> Vec<i32> {
        let Some(supervisor) = self.supervisor() else { return Vec::new() };
        let mut found = children(supervisor);
        found.retain(|pid| arguments(*pid).is_some_and(|args| args.contains("--role local")));
        found
    }

    /// The directory is not removed when this is dropped.
    pub fn keep(&self) -> PathBuf {
        self.kept.store(true, Ordering::SeqCst);
        self.path().to_owned()
    }

    /// Kills the engine; the supervisor starts another.
    pub fn kill_engine(&self) -> Option<i32> {
        let pid = self.engine()?;
        slay(pid);
        Some(pid)
    }

    /// Kills everything that runs here.
    pub fn kill_all(&self) {
        let Some(supervisor) = self.supervisor() else { return };
        let below = children(supervisor);
        slay(supervisor);
        below.iter().for_each(|pid| slay(*pid));
        let end = Instant::now() + PATIENCE;
        while below.iter().chain([&supervisor]).any(|pid| alive(*pid)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- mail log of {}\n{}----", self.path().display(), self.log());
        }
        self.kill_all();
        // What a failed test has left is looked at afterwards, where that is asked.
        let asked = std::thread::panicking() && std::env::var_os("YAMABIKO_KEEP").is_some();
        if asked || self.kept.load(Ordering::SeqCst) {
            self.root.disable_cleanup(true);
        }
    }
}

/// Kills a process.
pub fn slay(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The command line of a process, blanks between the words.
fn arguments(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
}

/// State and parent of a process.
fn status(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn alive(pid: i32) -> bool {
    status(pid).is_some_and(|(state, _)| state != 'Z')
}

fn children(parent: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| status(*pid).is_some_and(|(_, above)| above == parent))
        .collect()
}

/// Runs a command to its end, which must come in time.
pub fn finish(mut command: Command, input: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = i32::try_from(child.id()).expect("process IDs are small");
    // A command that does not read all of its input is no trouble of ours.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE).is_err_and(|why| why == std::sync::mpsc::RecvTimeoutError::Timeout) {
            slay(pid);
        }
    });
    let output = child.wait_with_output().expect("the command can be waited for");
    drop(done);
    let _ = watch.join();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether a text fits a pattern in which `*` stands for anything.
pub fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn patterns() {
    for (pattern, text, so) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acd", false),
        ("*b*", "abc", true),
        ("a*a", "a", false),
        ("250-*", "250-SIZE 10", true),
    ] {
        assert_eq!(fits(pattern, text), so, "{pattern} {text}");
    }
}

//! The supervisor's life: start, serve wishes, reload, stop.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, User};
use yamabiko_config::{Config, Host};
use yamabiko_envelope::{Event, EventSink, Origin, Severity, Timestamp};
use yamabiko_ipc::boss::{self, Crash, Order, Wish, WorkerUser};
use yamabiko_log::{Destination, Logger, Setup, Target};

use crate::children::{Launcher, WorkerIds};
use crate::crashes::{self, Untold};
use crate::identity::Identity;
use crate::keys;
use crate::layout::{Instance, PidFile, StartError, lay_out};
use crate::listeners::{Listeners, Wanted, wanted};
use crate::piped;
use crate::spawned::Spawned;

/// How long the engine may take to end its sessions before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A dead engine is started again, not more often than this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long the engine may take to come up (a million messages take some seconds).
const READY_WITHIN: Duration = Duration::from_secs(600);
/// How long an engine without a supervisor may take to end: it gives its sessions and deliveries 5 s.
const ANOTHER_WITHIN: Duration = Duration::from_secs(12);
/// How often files of keys are looked at: certificates are renewed by programs that tell nobody.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// Workers that may run at once. The engine keeps itself to far fewer; one that was taken over is kept to this.
const WORKERS: usize = 1000;
/// How long the last lines may take to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// What to start and how.
#[derive(Debug)]
pub struct Start {
    /// Which mail system.
    pub instance: Instance,
    /// Told `ok` or the reason why not, then closed: `postfix start` waits for it.
    pub ready: Option<File>,
    /// `start-fg`: stay in the session of the caller.
    pub foreground: bool,
    /// `-v`
    pub verbose: u8,
}

/// Runs until the mail system is stopped.
pub fn run(start: Start) -> ExitCode {
    let Start { instance, mut ready, foreground, verbose } = start;
    if !foreground {
        // Fails only for a process group leader, which `postfix start` never makes us.
        let _ = nix::unistd::setsid();
    }
    let tell = |ready: &mut Option<File>, text: &str| {
        if let Some(mut file) = ready.take() {
            let _ = file.write_all(text.as_bytes());
        }
    };
    let mut supervisor = match Supervisor::new(instance, verbose) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            tell(&mut ready, &error.0);
            if foreground {
                eprintln!("postfix/master: fatal: {error}");
            }
            return ExitCode::FAILURE;
        }
    };
    match supervisor.bring_up() {
        Ok(()) => tell(&mut ready, "ok"),
        Err(error) => {
            supervisor.say(Severity::Fatal, &error.0);
            tell(&mut ready, &error.0);
            if foreground {
                eprintln!("postfix/master: fatal: {error}");
            }
            supervisor.kill_engine();
            supervisor.logger.flush(LOG_PATIENCE);
            return ExitCode::FAILURE;
        }
    }
    let code = supervisor.serve();
    supervisor.logger.flush(LOG_PATIENCE);
    code
}

struct Engine {
    process: Child,
    socket: UnixStream,
    /// Its configuration is in force.
    ready: bool,
    /// Why it is about to end itself; empty while it is not.
    last_words: String,
}

struct Supervisor {
    instance: Instance,
    verbose: u8,
    config: Arc<Config>,
    identity: Identity,
    launcher: Launcher,
    listeners: Listeners,
    /// In force; and, while a reload is under way, the one that is to be.
    wanted: Vec<Wanted>,
    pending: Option<(Arc<Config>, Vec<Wanted>)>,
    engine: Option<Engine>,
    /// With whom each of them works for.
    workers: HashMap<u32, (Child, String)>,
    /// Of them, processes of services that run spawn(8), with the service.
    spawned: HashMap<u32, String>,
    signals: SignalFd,
    logger: Arc<Logger>,
    _pid: PidFile,
    /// The time by which everything has to be gone.
    stopping: Option<Instant>,
    restart_at: Option<Instant>,
    /// Engines that did not come up, since the last that did.
    failed: u32,
    /// How the last of them ended, where it could not say so itself.
    crashed: String,
    /// Processes that ended as none should.
    untold: Untold,
    /// Files of keys as they were when they were handed over, and when they are looked at again.
    key_stamps: keys::Stamps,
    keys_at: Instant,
}

impl Supervisor {
    fn new(instance: Instance, verbose: u8) -> Result<Self, StartError> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1] {
            set.add(signal);
        }
        let own = |what: &str, error: &dyn std::fmt::Display| StartError(format!("cannot {what}: {error}"));
        set.thread_block().map_err(|error| own("block signals", &error))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(|error| own("watch signals", &error))?;
        let config = instance.load()?;
        let identity = Identity::of(&config)?;
        lay_out(&config, &identity)?;
        let pid = PidFile::take(&PathBuf::from(config.main().text("queue_directory")))?;
        let launcher = Launcher::new().map_err(|error| own("find my own program", &error))?;
        let logger = open_log(&config)?;
        Ok(Self {
            instance,
            verbose,
            config,
            identity,
            launcher,
            listeners: Listeners::default(),
            wanted: Vec::new(),
            pending: None,
            engine: None,
            workers: HashMap::new(),
            spawned: HashMap::new(),
            signals,
            logger,
            _pid: pid,
            stopping: None,
            restart_at: None,
            failed: 0,
            crashed: String::new(),
            untold: Untold::default(),
            key_stamps: keys::Stamps::new(),
            keys_at: Instant::now() + KEYS_EVERY,
        })
    }

    fn say(&self, severity: Severity, text: &str) {
        let name: Arc<str> = self.config.main().text("syslog_name").into();
        self.logger.emit(Event::text(Timestamp::now(), Origin::new(&name, "master"), severity, text));
    }

    fn named(&self, what: &str) -> String {
        let directory = match &self.instance {
            Instance::Directory(dir) => dir.display().to_string(),
            Instance::Embedded(data) => format!("(embedded), data in {}", data.display()),
        };
        format!("{what} -- version {}, configuration {directory}", self.config.main().text("mail_version"))
    }

    /// Ports, engine, first configuration.
    fn bring_up(&mut self) -> Result<(), StartError> {
        let config = Arc::clone(&self.config);
        let wanted = wanted(&config, &Host::of_this_machine("master"))?;
        let queue = PathBuf::from(config.main().text("queue_directory"));
        self.wait_for_another_engine(&queue);
        self.listeners.open(&config, &queue, (self.identity.owner_uid, self.identity.owner_gid), &wanted)?;
        self.wanted = wanted;
        self.say(Severity::Info, &self.named("daemon started"));
        self.start_engine()?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let Some(engine) = &self.engine else {
                return Err(StartError("the engine ended while it came up; see the mail log".to_owned()));
            };
            let mut ready = [PollFd::new(engine.socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ready, PollTimeout::from(500u16));
            if ready[0].any() == Some(true) {
                match boss::receive::<Wish>(&engine.socket) {
                    Ok(Some((Wish::Ready, _))) => {
                        self.is_ready();
                        return Ok(());
                    }
                    Ok(Some((Wish::Refused(why), _))) => return Err(StartError(why)),
                    Ok(Some((Wish::Worker { number, user }, _))) => self.start_worker(number, &user),
                    Ok(Some((Wish::Spawn { number, service }, _))) => self.start_spawned(number, &service),
                    // It has said so in the log, and is about to be gone.
                    Ok(Some((Wish::LastWords(_) | Wish::CrashesTold, _))) => {}
                    Ok(None) | Err(_) => {
                        self.reap();
                        return Err(StartError("the engine ended while it came up; see the mail log".to_owned()));
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(StartError(format!("the engine did not come up within {} s", READY_WITHIN.as_secs())));
            }
        }
    }

    /// An engine whose supervisor was killed ends by itself, with good manners, which takes it a moment; until then it has
    /// the queue and the ports. Others who hold the queue (`postsuper` on a stopped mail system) are waited for alike.
    fn wait_for_another_engine(&self, queue: &Path) {
        let Ok(lock) = File::open(queue.join("queue/lock")) else { return };
        let deadline = Instant::now() + ANOTHER_WITHIN;
        let mut lock = lock;
        let mut said = false;
        loop {
            match Flock::lock(lock, FlockArg::LockSharedNonblock) {
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => lock = file,
                // Whatever is wrong with it, the engine will find it and say so.
                Ok(_) | Err(_) => return,
            }
            if !std::mem::replace(&mut said, true) {
                self.say(Severity::Warning, "another process holds the queue; waiting for its end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn start_engine(&mut self) -> Result<(), StartError> {
        let (process, socket) = self
            .launcher
            .engine(&self.identity, &self.config)
            .map_err(|error| StartError(format!("cannot start the engine: {error}")))?;
        self.engine = Some(Engine { process, socket, ready: false, last_words: String::new() });
        let (config, wanted) = (Arc::clone(&self.config), self.wanted.clone());
        self.configure(&config, &wanted)
    }

    fn configure(&mut self, config: &Config, wanted: &[Wanted]) -> Result<(), StartError> {
        let (keys, stamps) = keys::gather(config);
        self.key_stamps = stamps;
        let Some(engine) = &self.engine else { return Ok(()) };
        let (config_directory, data_directory) = match &self.instance {
            Instance::Directory(dir) => (dir.display().to_string(), String::new()),
            Instance::Embedded(data) => (String::new(), data.display().to_string()),
        };
        let listeners = wanted.iter().map(|w| w.service).collect();
        let keys = keys.to_file().map_err(|error| StartError(format!("cannot hand TLS keys over: {error}")))?;
        let log = log_file(config).map_err(|error| StartError(format!("cannot open the mail log: {error}")))?;
        let log_file = log.is_some();
        let (verbose, failed, crashed) = (self.verbose, self.failed, self.crashed.clone());
        let order =
            Order::Configure { config_directory, data_directory, listeners, log_file, verbose, failed, crashed };
        self.listeners
            .copies(wanted)
            .and_then(|sockets| {
                boss::send(&engine.socket, &order, &[keys].into_iter().chain(log).chain(sockets).collect::<Vec<_>>())
            })
            .map_err(|error| StartError(format!("cannot hand the sockets to the engine: {error}")))
    }

    fn serve(&mut self) -> ExitCode {
        loop {
            let now = Instant::now();
            if self.engine.is_none() && self.stopping.is_some() {
                return ExitCode::SUCCESS;
            }
            if let Some(end) = self.stopping
                && now >= end
            {
                self.say(Severity::Warning, "the engine did not stop in time and is killed; nothing accepted is lost");
                self.kill_engine();
                return ExitCode::SUCCESS;
            }
            if self.restart_at.is_some_and(|at| now >= at) && self.stopping.is_none() {
                self.restart_at = None;
                if let Err(error) = self.start_engine() {
                    self.say(Severity::Error, &error.0);
                    self.restart_at = Some(now + RESTART_PAUSE);
                }
            }
            self.look_at_keys(now);
            self.tell_of_crashes(now, false);
            let (signalled, wished) = self.wait();
            if signalled {
                self.take_signals();
            }
            if wished {
                self.take_wish();
            }
        }
    }

    fn wait(&self) -> (bool, bool) {
        let now = Instant::now();
        let untold = self.untold.next(now).filter(|_| self.engine.as_ref().is_some_and(|engine| engine.ready));
        let next = [self.stopping, self.restart_at, untold].into_iter().flatten().min();
        let pause = next.map_or(KEYS_EVERY, |at| at.saturating_duration_since(now).min(KEYS_EVERY));
        let timeout = PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        match &self.engine {
            Some(engine) => {
                let mut fds = [signals, PollFd::new(engine.socket.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, timeout);
                (fds[0].any() == Some(true), fds[1].any() == Some(true))
            }
            None => {
                let mut fds = [signals];
                let _ = poll(&mut fds, timeout);
                (fds[0].any() == Some(true), false)
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                Some(Signal::SIGHUP) => self.reload(),
                Some(Signal::SIGUSR1) => {
                    self.logger.reopen();
                    match log_file(&self.config) {
                        Ok(file) => self.order(&Order::ReopenLog, file),
                        Err(error) => self.say(Severity::Error, &format!("cannot open the mail log: {error}")),
                    }
                }
                Some(signal @ (Signal::SIGTERM | Signal::SIGINT)) => {
                    if self.stopping.is_none() {
                        self.say(Severity::Info, &format!("terminating on signal {}", signal as i32));
                        self.tell_of_crashes(Instant::now(), true);
                        self.order(&Order::Stop { within: STOP_WITHIN.as_secs() as u32 }, None);
                        self.stopping = Some(Instant::now() + STOP_WITHIN + Duration::from_secs(1));
                    }
                }
                _ => self.reap(),
            }
        }
    }

    fn order(&self, order: &Order, file: Option<OwnedFd>) {
        if let Some(engine) = &self.engine
            && let Err(error) = boss::send(&engine.socket, order, &file.into_iter().collect::<Vec<_>>())
        {
            self.say(Severity::Error, &format!("cannot reach the engine: {error}"));
        }
    }

    /// An engine's configuration came into force.
    fn is_ready(&mut self) {
        self.failed = 0;
        self.crashed.clear();
        if let Some(engine) = &mut self.engine {
            engine.ready = true;
        }
        // From here on it mostly waits. Nobody could do anything about a failure, and nothing is lost by it but tidiness.
        let _ = yamabiko_sys::memory::forget_code();
    }

    /// An engine does not take a configuration.
    fn was_refused(&mut self, why: &str) {
        if self.pending.take().is_some() {
            self.listeners.retain(&self.wanted);
            self.say(Severity::Error, &format!("reload refused, the old configuration stays in force: {why}"));
        } else {
            // Its end is heard too, and another one is started.
            self.failed = self.failed.saturating_add(1);
            self.say(Severity::Fatal, &format!("the engine cannot be started: {why}"));
        }
    }

    /// Has the engine tell of processes that crashed; before the end (`last`) whatever was told shortly before.
    fn tell_of_crashes(&mut self, now: Instant, last: bool) {
        if self.engine.as_ref().is_some_and(|engine| engine.ready)
            && let Some(crashes) = self.untold.take(now, last)
        {
            self.order(&Order::Crashed(crashes), None);
        }
    }

    /// New keys come into force by a reload, as an administrator would order it.
    fn look_at_keys(&mut self, now: Instant) {
        if now < self.keys_at || self.pending.is_some() || self.stopping.is_some() {
            return;
        }
        self.keys_at = now + KEYS_EVERY;
        if keys::changed(&self.key_stamps) {
            self.say(Severity::Info, "files of TLS keys or certificates have changed: reload");
            self.reload();
        }
    }

    /// A configuration that is wrong changes nothing: the old one stays in force, and the log says why.
    fn reload(&mut self) {
        let prepared = self.instance.load().and_then(|config| {
            let wanted = wanted(&config, &Host::of_this_machine("master"))?;
            let before = PathBuf::from(self.config.main().text("queue_directory"));
            if config.main().text("queue_directory") != self.config.main().text("queue_directory") {
                return Err(StartError(
                    "queue_directory changed: stop and start, a reload cannot move the queue".to_owned(),
                ));
            }
            lay_out(&config, &self.identity)?;
            self.listeners.open(&config, &before, (self.identity.owner_uid, self.identity.owner_gid), &wanted)?;
            self.configure(&config, &wanted)?;
            Ok((config, wanted))
        });
        match prepared {
            Ok(pending) => self.pending = Some(pending),
            Err(error) => {
                self.say(Severity::Error, &format!("reload refused, the old configuration stays in force: {error}"));
            }
        }
    }

    /// The log as the new configuration wants it.
    fn relog(&self) {
        let setup = Setup::from_view(&self.config.main());
        self.logger.reconfigure(setup.form, setup.style);
        match Target::open(setup.destination) {
            Ok(target) => self.logger.replace(vec![target]),
            Err(error) => self.say(Severity::Error, &format!("cannot open the mail log: {error}")),
        }
    }

    fn take_wish(&mut self) {
        let Some(engine) = &self.engine else { return };
        match boss::receive::<Wish>(&engine.socket) {
            Ok(Some((Wish::Ready, _))) => {
                self.is_ready();
                if let Some((config, wanted)) = self.pending.take() {
                    self.config = config;
                    self.relog();
                    self.listeners.retain(&wanted);
                    self.wanted = wanted;
                    self.say(Severity::Info, &self.named("reload"));
                }
            }
            Ok(Some((Wish::Refused(why), _))) => self.was_refused(&why),
            Ok(Some((Wish::LastWords(words), _))) => {
                if let Some(engine) = &mut self.engine {
                    engine.last_words = words;
                }
            }
            Ok(Some((Wish::CrashesTold, _))) => self.untold.told(Instant::now()),
            Ok(Some((Wish::Worker { number, user }, _))) => self.start_worker(number, &user),
            Ok(Some((Wish::Spawn { number, service }, _))) => self.start_spawned(number, &service),
            Ok(None) => self.reap(),
            // It ended before it had read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.reap(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted || error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // What the engine says cannot be understood: it is broken or taken over. Either way a fresh one.
                self.say(Severity::Error, &format!("the engine sent nonsense ({error}); it is started again"));
                self.kill_engine();
            }
        }
    }

    fn start_worker(&mut self, number: u64, user: &WorkerUser) {
        let room = if self.workers.len() < WORKERS { Ok(()) } else { Err("too many workers run already".to_owned()) };
        let started = room.and_then(|()| self.ids_for(user)).and_then(|ids| {
            self.launcher.worker(ids.as_ref(), &self.config).map_err(|error| format!("cannot start a worker: {error}"))
        });
        self.answer(number, whose(user), started);
    }

    /// A process for a private service that runs spawn(8): its program and user are what master.cf says.
    fn start_spawned(&mut self, number: u64, name: &str) {
        let started = Spawned::of(&self.config, name).and_then(|spawned| {
            let running = self.spawned.values().filter(|service| *service == name).count();
            if self.workers.len() >= WORKERS || spawned.limit.is_some_and(|limit| running >= limit) {
                return Err(format!("too many processes of service {name} run already"));
            }
            let ids = if self.identity.privileged { Some(spawned.ids()?) } else { None };
            let started = self.launcher.spawned(&spawned.command, &spawned.directory, ids);
            started.map_err(|error| format!("service {name}: cannot run {}: {error}", spawned.command.join(" ")))
        });
        match &started {
            Ok((child, _)) => {
                self.spawned.insert(child.id(), name.to_owned());
            }
            Err(why) => self.say(Severity::Warning, why),
        }
        self.answer(number, format!("service {name}"), started);
    }

    /// Hands a socket to a new process to the engine, or the reason why there is none.
    fn answer(&mut self, number: u64, whose: String, started: Result<(Child, OwnedFd), String>) {
        let (refused, sockets) = match started {
            Ok((child, socket)) => {
                self.workers.insert(child.id(), (child, whose));
                (None, vec![socket])
            }
            Err(why) => (Some(why), Vec::new()),
        };
        if let Some(engine) = &self.engine
            && let Err(error) = boss::send(&engine.socket, &Order::Worker { number, refused }, &sockets)
        {
            // It does not listen to us any more, and must not make us wait for it.
            self.say(Severity::Error, &format!("cannot hand a worker to the engine ({error}); it is started again"));
            self.kill_engine();
        }
    }

    /// Who a worker is to be; `None` when we cannot change IDs anyway. Never root.
    fn ids_for(&self, user: &WorkerUser) -> Result<Option<WorkerIds>, String> {
        if !self.identity.privileged {
            return match user {
                WorkerUser::Service { chroot, .. } if !chroot.is_empty() => {
                    Err(format!("chroot={chroot}: only root can change the root directory"))
                }
                _ => Ok(None),
            };
        }
        let (uid, gid, spool) = match user {
            WorkerUser::Login { name, spool_group } => {
                let user = User::from_name(name).map_err(|error| format!("cannot look up user {name}: {error}"))?;
                let user = user.ok_or_else(|| format!("unknown user: {name}"))?;
                let spool = if *spool_group { self.spool_group() } else { None };
                (user.uid.as_raw(), user.gid.as_raw(), spool)
            }
            WorkerUser::Virtual { uid, gid } => {
                let least = self.config.main().int("virtual_minimum_uid").max(1);
                if i64::from(*uid) < least {
                    return Err(format!("user ID {uid} is below virtual_minimum_uid {least}"));
                }
                (*uid, *gid, None)
            }
            WorkerUser::Service { name, .. } => return piped::ids(&self.config, &self.identity, name).map(Some),
        };
        if uid == 0 || gid == 0 {
            return Err(format!(
                "root gets no mail of its own (user ID {uid}, group ID {gid}): write who reads it into the aliases, \"root: name\""
            ));
        }
        Ok(Some(WorkerIds { uid, gid, spool, chroot: None }))
    }

    /// The group of the mail spool where its members may make mailboxes and others may not.
    fn spool_group(&self) -> Option<u32> {
        let directory = self.config.main().text("mail_spool_directory");
        let found = std::fs::metadata(directory).ok()?;
        (found.mode() & 0o020 != 0 && found.mode() & 0o002 == 0 && found.gid() != 0).then(|| found.gid())
    }

    fn reap(&mut self) {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let Some(pid) = status.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok()) else { continue };
                    let worker = self.workers.remove(&pid);
                    let spawned = self.spawned.remove(&pid).is_some();
                    let crash = crashes::is_crash(status).filter(|_| self.stopping.is_none());
                    if let (Some((_, whose)), Some(how)) = (worker, &crash) {
                        // Programs of the administrator's are not our software.
                        self.worker_crashed(pid, &whose, how, !spawned);
                    }
                    if self.engine.as_ref().is_some_and(|engine| engine.process.id() == pid) {
                        self.engine_ended(pid, status, crash);
                    }
                }
            }
        }
    }

    fn worker_crashed(&mut self, pid: u32, whose: &str, how: &str, ours: bool) {
        self.say(Severity::Warning, &format!("process {pid} for {whose} {how}"));
        if ours {
            let what = format!("a process of local delivery for {whose} ({pid}) {how}");
            // One bug that meets the mail of many users is told once.
            let crash = Crash { at: Timestamp::now().seconds(), what, ..Crash::default() };
            self.untold.add(&format!("local delivery {how}"), crash, 0, Instant::now());
        }
    }

    fn engine_ended(&mut self, pid: u32, status: WaitStatus, crash: Option<String>) {
        let Some(mut engine) = self.engine.take() else { return };
        if self.stopping.is_some() {
            return;
        }
        self.say(Severity::Fatal, &format!("the engine (process {pid}) ended: {status:?}; it is started again"));
        self.restart_at = Some(Instant::now() + RESTART_PAUSE);
        // What it said before it ended waits in the socket still.
        let _ = engine.socket.set_nonblocking(true);
        while let Ok(Some((wish, _))) = boss::receive::<Wish>(&engine.socket) {
            match wish {
                Wish::LastWords(words) => engine.last_words = words,
                Wish::CrashesTold => self.untold.told(Instant::now()),
                Wish::Refused(why) => self.was_refused(&why),
                // It did come up, and nobody had looked yet.
                Wish::Ready if !engine.ready => {
                    engine.ready = true;
                    self.failed = 0;
                    self.crashed.clear();
                }
                Wish::Ready | Wish::Worker { .. } | Wish::Spawn { .. } => {}
            }
        }
        self.untold.ask_again();
        if self.pending.take().is_some() {
            // The next engine begins with the old one.
            self.listeners.retain(&self.wanted);
            self.say(Severity::Error, "the engine ended during a reload: the old configuration stays in force");
        }
        let Some(how) = crash else { return };
        let what = format!("the engine (process {pid}) {how}");
        if !engine.ready {
            self.failed = self.failed.saturating_add(1);
            self.crashed.clone_from(&what);
        }
        let log = match Setup::from_view(&self.config.main()).destination {
            Destination::File(path) => crashes::last_lines(&path, pid),
            Destination::Stdout | Destination::Syslog { .. } => Vec::new(),
        };
        let last_words = engine.last_words;
        let kind = format!("engine {how} {}", crashes::place_of(&last_words));
        let crash = Crash { at: Timestamp::now().seconds(), what, last_words, log };
        self.untold.add(&kind, crash, 0, Instant::now());
    }

    fn kill_engine(&mut self) {
        if let Some(engine) = &self.engine
            && let Ok(pid) = i32::try_from(engine.process.id())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// In the words of a notice.
fn whose(user: &WorkerUser) -> String {
    match user {
        WorkerUser::Login { name, .. } => format!("user {name}"),
        WorkerUser::Virtual { uid, gid } => format!("user ID {uid}, group ID {gid}"),
        WorkerUser::Service { name, .. } => format!("service {name}"),
    }
}

/// The open log file in another hand, where the log is a file.
fn log_file(config: &Config) -> io::Result<Option<OwnedFd>> {
    match Setup::from_view(&config.main()).destination {
        Destination::File(path) => {
            let file = File::options().append(true).create(true).mode(0o600).open(path)?;
            Ok(Some(file.into()))
        }
        Destination::Stdout | Destination::Syslog { .. } => Ok(None),
    }
}

fn open_log(config: &Config) -> Result<Arc<Logger>, StartError> {
    let setup = Setup::from_view(&config.main());
    setup.start("master").map_err(|error| StartError(format!("cannot open the mail log: {error}")))
}

//! The engine: all stages wired together in one unprivileged process.
//!
//! ```text
//! receive ---+
//! control ---+--> Acceptance (cleanup, queue) --> Manager (schedule) --> Agents --> outcomes --> report
//! pickup  ---+                                        ^                                |
//!            +----------------------------------------+--------- notices, forwards <---+
//! ```
//!
//! * [`generation::Generation`] is everything made from one configuration; a reload makes another and swaps them.
//! * [`accept::Acceptance`] is the only way into the queue.
//! * [`manager::Task`] owns the schedule and what is known of active messages.
//! * [`report`] ends an attempt: notices, next attempt, removal.
//!
//! It runs under `mail_owner`, cannot change its ID, has been handed every socket and the log by the supervisor, and
//! asks it for one thing only: workers under users' IDs. What it can reach if taken over: the queue, the network, and
//! through workers the mailboxes of all users but root.

pub mod accept;
mod agents;
mod around;
mod blocking;
mod boss;
mod bulk;
mod channel;
mod clog;
mod control;
mod crashes;
mod desk;
mod examine;
mod feedback_debug;
mod filter;
mod flush;
mod gate;
pub mod generation;
mod ledger;
mod ledger_late;
mod ledger_metrics;
mod ledger_suppress;
mod limits;
pub mod listing;
mod login_sender;
pub mod manager;
mod meaning;
mod mend;
pub mod operate;
mod orders;
mod ours;
mod outcome;
mod pickup;
mod postmaster;
mod proofs;
mod qmail;
mod report;
mod rest;
mod reverse_path;
mod routing;
mod sandbox;
mod schedule_settings;
mod secure;
mod service;
mod spawning;
mod stall;
mod status_filter;
mod trip;
mod verify;
mod visit;
mod workers;

pub use examine::{Findings, examine, unheard};
pub use ours::Ours;
pub use yamabiko_schedule::profiles;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use yamabiko_config::{Config, View};
use yamabiko_envelope::{Event, Events, Origin, QueueIdSource, Severity, Timestamp, TroubleClass};
use yamabiko_ipc::boss::{Keys, Order, Wish};
use yamabiko_log::{Destination, Logger, Setup, Target};
use yamabiko_lookup::TableSet;
use yamabiko_queue::{Queue, Recovered, fs::RealFileSystem, watch::Watched};
use yamabiko_tls::Handed;

use crate::accept::Acceptance;
use crate::agents::{AgentParts, Agents};
use crate::around::Around;
use crate::boss::{Boss, Received};
use crate::control::Control;
use crate::gate::Gate;
use crate::generation::{Current, Generation, Parts};
use crate::ledger::Remembered;
use crate::orders::Manager;
use crate::service::Services;
use crate::workers::Workers;

/// Threads of the runtime; more do not make mail faster on the machines that mail servers run on.
const THREADS: usize = 4;
/// How long the last log lines may take.
const LOG_PATIENCE: Duration = Duration::from_secs(3);
/// The same notice of a table is worth another line after this time.
const SAID_AGAIN: Duration = Duration::from_secs(10);
/// Notices of tables that are remembered for that.
const SAID_MAX: usize = 1000;

/// Runs the engine: the supervisor started it with a socket to itself as standard input.
pub fn run() -> ExitCode {
    let socket = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(error) => {
            eprintln!("yamabiko-engine: fatal: standard input is not the supervisor's socket: {error}");
            return ExitCode::FAILURE;
        }
    };
    // The first order is heard before there is a second thread: what is given up is then given up by all of them.
    let first = match yamabiko_ipc::boss::receive::<Order>(&socket) {
        Ok(Some((order, descriptors))) => match order {
            Order::Configure { config_directory, data_directory, listeners, log_file, failed, crashed, .. } => {
                let sockets = Sockets::sort(&listeners, log_file, descriptors);
                (load(&config_directory, &data_directory), sockets, Before { failed, crashed })
            }
            _ => return ExitCode::FAILURE,
        },
        Ok(None) | Err(_) => return ExitCode::FAILURE,
    };
    let (config, sockets, before) = match first {
        (Ok(config), sockets, before) => (config, sockets, before),
        (Err(why), ..) => {
            let _ = yamabiko_ipc::boss::send(&socket, &Wish::Refused(why), &[]);
            return ExitCode::FAILURE;
        }
    };
    more_files();
    let unrestricted = sandbox::enter(&config);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads);
    let runtime = runtime.thread_keep_alive(rest::IDLE_THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("yamabiko-engine: fatal: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match Boss::listen(socket) {
            Ok((boss, orders)) => {
                let engine = come_up(&boss, config, sockets, before).await;
                match engine {
                    Ok(engine) => live(engine, &boss, orders, &unrestricted).await,
                    Err(why) => {
                        let _ = boss.tell(&Wish::Refused(why));
                        ExitCode::FAILURE
                    }
                }
            }
            Err(_) => ExitCode::FAILURE,
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// Bytes, where the kernel tells.
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// As many open files as we may have: each session, delivery and command is at least one, and the usual soft limit is
/// meant for programs that use select(2).
fn more_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // What cannot be had makes clients wait in the listen queue.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The name servers of `dns_servers`, or the system's.
///
/// # Errors
/// A name of `dns_servers` is no address.
pub fn resolver(config: &Config) -> Result<yamabiko_dns::HickoryResolver, String> {
    let view = config.main();
    let named = view.list("dns_servers");
    if named.is_empty() {
        return Ok(yamabiko_dns::HickoryResolver::system());
    }
    let servers: Result<Vec<_>, _> = named.iter().map(|name| server_address(name)).collect();
    Ok(yamabiko_dns::HickoryResolver::with_servers(&servers?))
}

/// `192.0.2.53`, `2001:db8::53`, `192.0.2.53:5353` or `[2001:db8::53]:5353`.
fn server_address(name: &str) -> Result<std::net::SocketAddr, String> {
    let alone = name.parse::<std::net::IpAddr>().map(|address| (address, 53).into());
    alone
        .or_else(|_| name.parse())
        .map_err(|_| format!("dns_servers: \"{name}\" is no address: write 192.0.2.53, or with a port 192.0.2.53:5353"))
}

/// The configuration that an order names.
fn load(config_directory: &str, data_directory: &str) -> Result<Arc<Config>, String> {
    let instance = if config_directory.is_empty() {
        yamabiko_supervisor::Instance::Embedded(PathBuf::from(data_directory))
    } else {
        yamabiko_supervisor::Instance::Directory(PathBuf::from(config_directory))
    };
    instance.load().map_err(|error| {
        let why = error.to_string();
        if !why.ends_with("Permission denied") {
            return why;
        }
        let uid = nix::unistd::geteuid();
        let name = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        format!("{why}: the engine runs as user {name}, who must be able to read the configuration")
    })
}

/// The sockets that come with a configuration.
struct Sockets {
    keys: Keys,
    log: Option<OwnedFd>,
    control: Option<OwnedFd>,
    inet: Vec<(u32, OwnedFd)>,
}

impl Sockets {
    fn sort(listeners: &[u32], log_file: bool, descriptors: Vec<OwnedFd>) -> Self {
        let mut descriptors = descriptors.into_iter();
        // Without them the services that need them say so.
        let keys = descriptors.next().and_then(|file| Keys::from_file(file).ok()).unwrap_or_default();
        let log = if log_file { descriptors.next() } else { None };
        let control = descriptors.next();
        Self { keys, log, control, inet: listeners.iter().copied().zip(descriptors).collect() }
    }
}

/// Engines before this one that did not come up.
struct Before {
    failed: u32,
    /// How the last of them ended, where it could not say so itself.
    crashed: String,
}

/// The engine, or why there is none. Then mail can tell nobody: the second way does, at the first that fails and once an hour.
async fn come_up(boss: &Boss, config: Arc<Config>, sockets: Sockets, before: Before) -> Result<Engine, String> {
    // The supervisor tries once a second.
    const TOLD_AGAIN: u32 = 3600;
    let main = config.main();
    let Before { failed, crashed } = before;
    // Those that crash are told of by the next one, which may have the same end: so before it begins.
    if !crashed.is_empty() && failed % TOLD_AGAIN == 1 {
        let text = format!("the mail system cannot be started: {crashed}");
        for remark in desk::alarm_without_engine(&main, boss, TroubleClass::Software, &text).await {
            eprintln!("yamabiko-engine: {remark}");
        }
    }
    let mut why = match Engine::start(boss, Arc::clone(&config), sockets) {
        Ok(engine) => return Ok(engine),
        Err(why) => why,
    };
    if failed.is_multiple_of(TOLD_AGAIN) {
        let text = format!("the mail system cannot be started: {why}");
        for remark in desk::alarm_without_engine(&main, boss, TroubleClass::Resource, &text).await {
            why.push_str(&format!("; {remark}"));
        }
    }
    Err(why)
}

async fn live(
    mut engine: Engine,
    boss: &Boss,
    mut orders: mpsc::UnboundedReceiver<Received>,
    unrestricted: &[String],
) -> ExitCode {
    for remark in unrestricted {
        engine.acceptance.current().say(Severity::Warning, None, remark);
    }
    if boss.tell(&Wish::Ready).is_err() {
        return ExitCode::FAILURE;
    }
    let queue_directory = PathBuf::from(engine.acceptance.current().get().config.main().text("queue_directory"));
    let mut well_again =
        pin!(mend::is_well_again(Arc::clone(engine.acceptance.queue()), queue_directory.join("queue")));
    let (tidied, logger) = (engine.acceptance.clone(), Arc::clone(&engine.logger));
    let mut tidy = pin!(rest::keep(&tidied, &logger));
    loop {
        let received = tokio::select! {
            received = orders.recv() => received,
            () = &mut tidy => continue,
            () = &mut well_again => {
                let text = "the queue's disk can be written again: the engine ends, to be started anew";
                engine.acceptance.current().say(Severity::Warning, None, text);
                if let Some(told) = engine.acceptance.desk().alarm(TroubleClass::Resource, text) {
                    let _ = told.await;
                }
                engine.stop(Duration::from_secs(5)).await;
                return ExitCode::FAILURE;
            }
        };
        let Some((order, descriptors)) = received else { break };
        match order {
            Order::Configure { config_directory, data_directory, listeners, log_file, .. } => {
                let sockets = Sockets::sort(&listeners, log_file, descriptors);
                let changed =
                    load(&config_directory, &data_directory).and_then(|config| engine.reconfigure(config, sockets));
                let _ = boss.tell(&match changed {
                    Ok(()) => Wish::Ready,
                    Err(why) => Wish::Refused(why),
                });
            }
            Order::ReopenLog => engine.reopen_log(descriptors.into_iter().next()),
            Order::Stop { within } => {
                engine.stop(Duration::from_secs(u64::from(within))).await;
                return ExitCode::SUCCESS;
            }
            Order::Crashed(crashes) => {
                crashes::tell(&engine.acceptance, &crashes).await;
                let _ = boss.tell(&Wish::CrashesTold);
            }
            // Answered where they are heard.
            Order::Worker { .. } => {}
        }
    }
    // The supervisor is gone: nobody could ever stop or reconfigure us again.
    engine.stop(Duration::from_secs(5)).await;
    ExitCode::FAILURE
}

/// Parameters that count from the start on: what they name is open.
const FROM_THE_START: [&str; 5] =
    ["ledger_enable", "ledger_directory", "ledger_queue_limit", "late_bounce_analysis", "metrics_listen_address"];

struct Engine {
    acceptance: Acceptance,
    parts: AgentParts,
    services: Services,
    logger: Arc<Logger>,
    remembered: Remembered,
    setup: Setup,
    gate: Gate,
    bugs: crashes::Bugs,
    /// The values of [`FROM_THE_START`].
    from_the_start: [String; FROM_THE_START.len()],
}

impl Engine {
    fn start(boss: &Boss, config: Arc<Config>, sockets: Sockets) -> Result<Self, String> {
        trip::trip("start");
        let main = config.main();
        let setup = Setup::from_view(&main);
        let logger = open_log(&setup, sockets.log)?;
        let remembered = Remembered::open(&config, &logger, &setup);
        let (remembered, no_ledger) =
            remembered.map_or_else(|why| (Remembered::default(), Some(why)), |kept| (kept, None));
        let events = remembered.sink(&logger);
        let (mouth, ear) = crashes::line();
        tell_panics(&events, &setup, boss, mouth);
        if let Some(why) = no_ledger {
            say(&events, &setup, Severity::Warning, &why);
        }
        let queue_directory = PathBuf::from(main.text("queue_directory"));
        let stall = Arc::new(stall::Stall::default());
        let (queue, recovered) = open_queue(&main, &stall)?;
        for damage in &recovered.damaged {
            let what = if damage.torn { "cut off by a crash" } else { "damaged record set aside" };
            say(&events, &setup, Severity::Error, &format!("queue: {what}: {damage}"));
        }
        let workers = Workers::new(boss.clone());
        let around = Around::new(workers);
        let parts = AgentParts {
            surroundings: Arc::clone(&around) as Arc<dyn yamabiko_deliver_local::agent::Surroundings>,
            resolver: Arc::new(resolver(&config)?),
            hosts: Arc::new(yamabiko_dns::Hosts::system()),
            events: Arc::clone(&events),
            desk: desk::Desk::new(&main),
            memory: Arc::new(yamabiko_deliver::Memory::open(Path::new(&main.text("data_directory")))),
        };
        let mut generation = build(&config, &parts, &sockets.keys, &events, &setup);
        generation.proofs.hand(&sockets.keys);
        let current = Current::new(generation, Arc::clone(&events), remembered.clone());
        let line = Manager::line();
        // Node 1: a cluster numbers its nodes.
        let ids = QueueIdSource::new(1, recovered.newest);
        let spool = queue_directory.join("spool");
        let (desk, watch) = (Arc::clone(&parts.desk), Arc::clone(&stall));
        let acceptance = Acceptance::new(ids, queue, current.clone(), line.0, spool.clone(), desk, stall);
        around.complete(acceptance.clone());
        parts.desk.complete(acceptance.clone());
        let bugs = crashes::Bugs::default();
        tokio::spawn(ear.run(acceptance.clone(), bugs.clone()));
        watch.watch_over(&acceptance).map_err(|error| format!("cannot start a thread: {error}"))?;
        tokio::spawn(Arc::clone(&parts.desk).run(acceptance.clone()));
        remembered.start(&config, acceptance.queue(), &events, &setup);
        remembered.read_tokens(acceptance.current());
        serve_metrics(&config, &acceptance, &events, &setup);
        let task = manager::Task::new(schedule_settings::from_config(&config), acceptance.clone(), line.1);
        run_manager(task, &logger);
        acceptance.complete(boss.clone());
        tokio::spawn(verify::keep(acceptance.clone()));
        let memory = Arc::clone(&parts.memory);
        tokio::spawn(secure::keep(acceptance.clone(), memory, Arc::clone(&parts.resolver)));
        let services = Services::start(&acceptance, &parts, &config, &sockets.keys, sockets.inet, spool)?;
        let wake = Arc::new(Notify::new());
        let gate = Gate::new();
        let smtp = services.stdin_smtp();
        let control = Control::new(acceptance.clone(), &queue_directory, Arc::clone(&wake), smtp, gate.clone());
        serve_control(sockets.control, control.clone())?;
        tokio::spawn(pickup::run(queue_directory.join("maildrop"), control, current, wake));
        notices(&config, &events, &setup);
        tokio::spawn(tell_of_postmaster(acceptance.clone()));
        for remark in leftovers(&queue_directory) {
            say(&events, &setup, Severity::Warning, &remark);
        }
        let from_the_start = FROM_THE_START.map(|name| main.text(name));
        Ok(Self { acceptance, parts, services, logger, remembered, setup, gate, bugs, from_the_start })
    }

    /// Everything new is made first; only when all of it is there is anything replaced.
    fn reconfigure(&mut self, config: Arc<Config>, sockets: Sockets) -> Result<(), String> {
        let setup = Setup::from_view(&config.main());
        let events = self.remembered.sink(&self.logger);
        let target = open_target(&setup, sockets.log)?;
        let mut generation = build(&config, &self.parts, &sockets.keys, &events, &setup);
        generation.proofs.hand(&sockets.keys);
        self.services.reconfigure(
            &self.acceptance,
            &self.parts,
            &config,
            &generation.tables,
            &sockets.keys,
            sockets.inet,
        )?;
        self.acceptance.desk().reconfigure(&generation.desk);
        self.acceptance.current().swap(generation);
        let schedule = Box::new(schedule_settings::from_config(&config));
        self.acceptance.manager().send(orders::Order::Reconfigure(schedule));
        self.logger.reconfigure(setup.form, setup.style);
        self.logger.replace(vec![target]);
        self.remembered.reconfigure(&config, &events, &setup);
        for (name, was) in FROM_THE_START.iter().zip(&self.from_the_start) {
            let now = config.main().text(name);
            if now != *was {
                let text = format!("{name} = {now} counts from the next start on (postfix stop, postfix start)");
                say(&events, &setup, Severity::Warning, &text);
            }
        }
        self.setup = setup;
        notices(&config, &events, &self.setup);
        tokio::spawn(tell_of_postmaster(self.acceptance.clone()));
        Ok(())
    }

    fn reopen_log(&self, file: Option<OwnedFd>) {
        match open_target(&self.setup, file) {
            Ok(target) => self.logger.replace(vec![target]),
            Err(_) => self.logger.reopen(),
        }
    }

    /// Sessions end politely, deliveries that run may end, then the queue is closed. What is not finished is found
    /// again at the next start.
    async fn stop(self, within: Duration) {
        let patience = within.saturating_sub(Duration::from_secs(2));
        let (drained, all) = tokio::sync::oneshot::channel();
        self.acceptance.manager().send(orders::Order::Drain(drained));
        // A delivery that takes longer is cut off: then it may be made once more after the next start.
        let drained = tokio::time::timeout(patience, all);
        let _ = tokio::join!(self.services.stop(patience), drained, self.gate.close(patience));
        // What was counted so far is told by the next start's first delivery.
        self.bugs.tell_rest(&self.acceptance).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.acceptance.desk().flush(&self.acceptance)).await;
        let _ = self.parts.memory.reports.save();
        let queue = Arc::clone(self.acceptance.queue());
        let _ = tokio::task::spawn_blocking(move || queue.close()).await;
        let (logger, remembered) = (Arc::clone(&self.logger), self.remembered.clone());
        let last = move || {
            remembered.close();
            logger.flush(LOG_PATIENCE)
        };
        let _ = tokio::task::spawn_blocking(last).await;
    }
}

fn open_target(setup: &Setup, file: Option<OwnedFd>) -> Result<Target, String> {
    let opened = match (&setup.destination, file) {
        (Destination::File(path), Some(file)) => Target::from_file(file.into(), path.clone()),
        (destination, _) => Target::open(destination.clone()),
    };
    opened.map_err(|error| format!("cannot open the mail log: {error}"))
}

fn open_log(setup: &Setup, file: Option<OwnedFd>) -> Result<Arc<Logger>, String> {
    let target = open_target(setup, file)?;
    setup.start_with("qmgr", target).map_err(|error| format!("cannot start the log: {error}"))
}

/// Counters for whoever collects them. An address that cannot be had is said, and mail goes on.
fn serve_metrics(config: &Config, engine: &Acceptance, events: &Events, setup: &Setup) {
    let address = config.main().text("metrics_listen_address");
    if address.is_empty() {
        return;
    }
    let (engine, events, setup) = (engine.clone(), Arc::clone(events), setup.clone());
    tokio::spawn(async move {
        match tokio::net::TcpListener::bind(&address).await {
            Ok(listener) => ledger_metrics::serve(listener, engine).await,
            Err(error) => {
                let text = format!("metrics_listen_address = {address}: {error}: no counters are served");
                say(&events, &setup, Severity::Warning, &text);
            }
        }
    });
}

/// The queue, as it was left.
fn open_queue(main: &View, stall: &stall::Stall) -> Result<(Arc<Queue>, Recovered), String> {
    let options = yamabiko_queue::Options {
        min_free: u64::try_from(main.int("queue_minfree")).unwrap_or(0),
        // Half of the machine's memory, before the kernel has to choose whom to end.
        max_memory: memory_of_machine().map_or(4 << 30, |all| all / 2),
        ..yamabiko_queue::Options::default()
    };
    let disk = Watched::new(Arc::new(RealFileSystem), Arc::clone(&stall.watch));
    let directory = PathBuf::from(main.text("queue_directory")).join("queue");
    Queue::open(Arc::new(disk), &directory, options)
        .map_err(|error| format!("cannot open the queue in {}: {error}", directory.display()))
}

/// The task that decides what is delivered when.
fn run_manager(task: manager::Task, logger: &Arc<Logger>) {
    let (watched, last_words) = (task.run(), Arc::clone(logger));
    tokio::spawn(async move {
        if AssertUnwindSafe(watched).catch_unwind().await.is_err() {
            // Without it nothing is delivered. The supervisor starts us again, and the queue has everything.
            let _ = tokio::task::spawn_blocking(move || last_words.flush(LOG_PATIENCE)).await;
            std::process::abort();
        }
    });
}

/// Answers `postqueue` and its kin.
fn serve_control(socket: Option<OwnedFd>, control: Control) -> Result<(), String> {
    let listener = std::os::unix::net::UnixListener::from(socket.ok_or("the supervisor sent no control socket")?);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(|error| format!("control socket: {error}"))?;
    tokio::spawn(control.serve(listener));
    Ok(())
}

fn say(events: &Events, setup: &Setup, severity: Severity, text: &str) {
    events.emit(Event::text(Timestamp::now(), Origin::new(&setup.syslog_name, "master"), severity, text));
}

/// Threads without which there is no mail system: when one of them fails the supervisor starts everything again.
const INDISPENSABLE: [&str; 5] = ["queue-log", "queue-pool", "queue-large", "boss", "log"];

/// A panic is a bug of ours. Whoever is near it defers the mail it was working on; the log says where it was.
fn tell_panics(events: &Events, setup: &Setup, boss: &Boss, mouth: crashes::Mouth) {
    let (events, name, boss) = (Arc::clone(events), Arc::clone(&setup.syslog_name), boss.clone());
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let text = format!("thread {thread}: {}", panic.to_string().replace('\n', " "));
        eprintln!("yamabiko-engine: {text}");
        events.emit(Event::text(Timestamp::now(), Origin::new(&name, "qmgr"), Severity::Panic, text.clone()));
        if INDISPENSABLE.contains(&thread) {
            let _ = boss.tell(&Wish::LastWords(crashes::clipped(&text)));
            // Time for the line to be written, if there is anybody to write it.
            std::thread::sleep(Duration::from_millis(200));
            std::process::abort();
        }
        mouth.say(&text);
    }));
}

/// What is set and does not act yet, what is misspelt: once, at start and reload.
fn notices(config: &Config, events: &Events, setup: &Setup) {
    for notice in config.notices() {
        say(events, setup, Severity::Warning, &notice.to_string());
    }
    for remark in schedule_settings::remarks(config) {
        say(events, setup, Severity::Warning, &remark);
    }
}

/// Notices that nobody gets, said at start and reload.
async fn tell_of_postmaster(engine: Acceptance) {
    let generation = engine.current().get();
    let check = postmaster::check(&generation.config, &generation.tables, &generation.router);
    let remote = generation.router.is_remote();
    for remark in blocking::where_it_may_block(remote, Box::pin(check)).await {
        engine.current().say(Severity::Warning, None, &remark);
    }
}

fn build(config: &Arc<Config>, parts: &AgentParts, keys: &Keys, events: &Events, setup: &Setup) -> Generation {
    let handed = crate::service::handed(keys);
    let tables = tables(config, events, setup, &handed);
    let (agents, one_recipient, remarks) = Agents::new(config, &tables, parts, &handed);
    for remark in remarks {
        say(events, setup, Severity::Warning, &remark);
    }
    let (bounce, warnings) = bouncer(config);
    let (signing, said) = reverse_path::signing(&config.main(), &tables, true);
    for warning in warnings.into_iter().chain(said) {
        say(events, setup, Severity::Warning, &warning);
    }
    for warning in desk::DeskSettings::from_view(&config.main()).1 {
        say(events, setup, Severity::Warning, &warning);
    }
    Generation::new(Parts {
        bounce,
        signing,
        config: Arc::clone(config),
        tables,
        agents,
        one_recipient,
        events: Arc::clone(events),
    })
}

/// Mail that another Postfix left in its own queue. It is not read here, and nobody may take that for lost.
fn leftovers(queue_directory: &Path) -> Vec<String> {
    const QUEUES: [&str; 4] = ["incoming", "active", "deferred", "hold"];
    // Deferred mail lies one or two letters deeper (hash_queue_depth). So many are enough to say "many".
    const ENOUGH: usize = 1000;
    fn count(directory: &Path, depth: usize) -> usize {
        let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).take(ENOUGH);
        entries
            .map(|entry| match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => count(&entry.path(), depth - 1),
                Ok(kind) => usize::from(kind.is_file()),
                Err(_) => 0,
            })
            .sum()
    }
    let found = QUEUES.map(|queue| (queue, count(&queue_directory.join(queue), 2)));
    let remark = |(queue, files): (&str, usize)| {
        let many = if files >= ENOUGH { "at least " } else { "" };
        format!(
            "{many}{files} queue files of another Postfix in {}: they are left alone; start that Postfix once more to deliver \
             them before it is removed",
            queue_directory.join(queue).display()
        )
    };
    found.into_iter().filter(|(_, files)| *files > 0).map(remark).collect()
}

/// What writes notices, with the templates of `bounce_template_file` and qmail's control files.
fn bouncer(config: &Config) -> (yamabiko_bounce::Bouncer, Vec<String>) {
    let main = config.main();
    let file = main.text("bounce_template_file");
    let mut unread = None;
    let text = (!file.is_empty()).then(|| std::fs::read(&file)).and_then(|read| match read {
        Ok(text) => Some(text),
        Err(error) => {
            unread = Some(format!("open bounce_template_file {file}: {error}; the built-in templates are used"));
            None
        }
    });
    let template = text.as_deref().map(|text| (file.as_str(), text));
    let (bouncer, mut warnings) = yamabiko_bounce::Bouncer::new(&main, template);
    warnings.extend(unread);
    let (files, said) = language_files(&main.text("bounce_language_directory"));
    warnings.extend(said);
    let (bouncer, said) = bouncer.with_languages(&files);
    warnings.extend(said);
    let (controls, said) = qmail::controls(config);
    warnings.extend(said);
    let Some(controls) = controls else { return (bouncer, warnings) };
    let (bouncer, said) = bouncer.with_controls(&controls);
    warnings.extend(said);
    (bouncer, warnings)
}

/// A size of main.cf.
fn size(config: &Config, name: &str) -> usize {
    usize::try_from(config.main().int(name)).unwrap_or(0)
}

/// Tables in databases and directories; their settings may be in main.cf.
fn remote_tables(config: &Config) -> yamabiko_lookup::Extension {
    let main = config.main();
    let directory = PathBuf::from(main.text("ledger_directory"));
    let others = yamabiko_lookup_remote::extension(Arc::new(move |name| main.find(name)));
    yamabiko_ledger::suppress::table::extension(&directory, others)
}

/// A file of templates: language, name, text.
type LanguageFile = (String, String, Vec<u8>);

/// Files `LANGUAGE.cf` of `bounce_language_directory`, and what is wrong with others.
fn language_files(directory: &str) -> (Vec<LanguageFile>, Vec<String>) {
    if directory.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return (Vec::new(), vec![format!("open bounce_language_directory {directory}: {error}")]),
    };
    let (mut files, mut warnings) = (Vec::new(), Vec::new());
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()).take(1000) {
        let (Some(stem), Some("cf")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) else { continue };
        let name = path.display().to_string();
        match std::fs::read(&path) {
            Ok(text) => files.push((stem.to_string_lossy().into_owned(), name, text)),
            Err(error) => warnings.push(format!("open {name}: {error}")),
        }
    }
    files.sort();
    (files, warnings)
}

/// Opens files with our own rights, and what was handed to us where these are not enough.
fn opener(handed: &Handed) -> yamabiko_lookup::Opener {
    let texts: HashMap<PathBuf, Vec<u8>> =
        handed.0.iter().filter_map(|(path, text)| Some((PathBuf::from(path), text.as_ref().ok()?.clone()))).collect();
    Arc::new(move |path| {
        let opened = File::open(path);
        match (&opened, texts.get(path)) {
            (Err(error), Some(text)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let mut file = File::from(yamabiko_sys::fds::memory_file("table")?);
                file.write_all(text)?;
                file.seek(std::io::SeekFrom::Start(0))?;
                Ok(file)
            }
            _ => opened,
        }
    })
}

/// Tables that speak into the log; those that only root may read are as the supervisor read them. What is said of a table
/// again within some seconds is left out: several parameters may name it.
fn tables(config: &Config, events: &Events, setup: &Setup, handed: &Handed) -> TableSet {
    let mut aliases = config.main().list("alias_maps");
    aliases.extend(config.main().list("alias_database"));
    let (events, name) = (Arc::clone(events), Arc::clone(&setup.syslog_name));
    let said: Mutex<HashMap<String, Instant>> = Mutex::default();
    let options = yamabiko_lookup::Options {
        notify: Arc::new(move |notice: yamabiko_lookup::Notice| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.get(&notice.text).is_some_and(|at| at.elapsed() < SAID_AGAIN) {
                return;
            }
            if said.len() >= SAID_MAX {
                said.clear();
            }
            said.insert(notice.text.clone(), Instant::now());
            drop(said);
            let severity = match notice.kind {
                yamabiko_lookup::NoticeKind::Warning => Severity::Warning,
                yamabiko_lookup::NoticeKind::Info => Severity::Info,
                yamabiko_lookup::NoticeKind::Error => Severity::Error,
            };
            events.emit(Event::text(Timestamp::now(), Origin::new(&name, "proxymap"), severity, notice.text));
        }),
        aliases,
        extension: Some(remote_tables(config)),
        open_file: opener(handed),
        socketmap_max_query: size(config, "socketmap_max_query_size"),
        socketmap_max_reply: size(config, "socketmap_max_reply_size"),
        ..yamabiko_lookup::Options::default()
    };
    TableSet::new(options)
}

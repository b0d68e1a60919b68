//! The SMTP services of master.cf, each on its sockets.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use yamabiko_config::{Config, ServiceType};
use yamabiko_envelope::Severity;
use yamabiko_ipc::boss::Keys;
use yamabiko_lookup::TableSet;
use yamabiko_receive::screen::{ScreenSettings, Screener, ScreenerParts, serve_screened};
use yamabiko_receive::{Admission, Limits, Service, ServiceParts, Settings, TlsSource, converse, report_limits, serve};
use yamabiko_tls::{Handed, SniKeys};

use crate::accept::Acceptance;
use crate::agents::AgentParts;
use crate::spawning::{self, Door, Program, serve_programs};

/// Content beyond this many bytes waits on disk while it is received.
const SPILL: usize = 1 << 20;

/// A listening socket and the task that accepts on it.
struct Listening {
    service: String,
    task: JoinHandle<()>,
}

/// What the supervisor read with its rights.
struct KeySource {
    files: Handed,
    sni: Vec<(String, SniKeys)>,
}

/// Files that the supervisor read.
pub(crate) fn handed(keys: &Keys) -> Handed {
    let text = |text: &Result<String, String>| text.clone().map(String::into_bytes);
    Handed(keys.files.iter().map(|(path, found)| (path.clone(), text(found))).collect())
}

impl KeySource {
    fn new(keys: &Keys) -> Self {
        Self {
            files: handed(keys),
            sni: keys.sni.iter().map(|(name, files)| (name.clone(), SniKeys::Files(files.clone()))).collect(),
        }
    }
}

/// What a configuration wants, made and not yet in its place. Keys are positions in master.cf; with settings stands the
/// service's name.
#[derive(Default)]
struct Made {
    sessions: HashMap<u32, (String, Arc<Settings>)>,
    screens: HashMap<u32, (String, Arc<ScreenSettings>)>,
    /// Services that run spawn(8).
    programs: HashSet<u32>,
    listeners: Vec<(u32, SocketAddr, TcpListener)>,
}

/// All SMTP services.
pub struct Services {
    by_id: HashMap<String, Arc<Service>>,
    /// postscreen services.
    screeners: HashMap<String, Arc<Screener>>,
    listening: HashMap<SocketAddr, Listening>,
    /// Services of type `unix` that run spawn(8), by the paths of their sockets.
    doors: HashMap<PathBuf, Listening>,
    /// For `sendmail -bs`; a reload changes it where it is used.
    stdin: Arc<RwLock<Arc<Service>>>,
    stop: watch::Sender<bool>,
    limits: Arc<Limits>,
    spool: PathBuf,
}

/// Settings of a service; faults of the configuration are told with the service's place.
fn settings(
    config: &Config,
    tables: &TableSet,
    keys: &KeySource,
    position: Option<u32>,
    before: &HashMap<String, Arc<Service>>,
) -> Result<(String, Settings), String> {
    let Some(position) = position else {
        let settings = Settings::from(&config.main(), tables).map_err(|error| error.0)?;
        return Ok(("stdin".to_owned(), settings));
    };
    let service = config.services().get(position as usize).ok_or("the supervisor named a service that is not there")?;
    let view = config.service_view(service);
    let mut settings = Settings::from(&view, tables)
        .map_err(|error| format!("{}: service {}: {}", service.place, service.id(), error.0))?;
    let before = before.get(&service.id()).and_then(|service| service.settings().tls.server.clone());
    settings.open_tls(&TlsSource { files: &keys.files, sni: &keys.sni, before });
    Ok((service.id(), settings))
}

/// The times of the counters: as the service anvil has them, whose `-o max_idle` is a well-known way to fewer reports.
fn count_as(limits: &Limits, config: &Config) {
    let anvil = config.services().iter().find(|service| service.command == "anvil");
    let view = anvil.map_or_else(|| config.main(), |service| config.service_view(service));
    let time = |name: &str| view.duration(name);
    limits.configure(time("anvil_rate_time_unit"), time("anvil_status_update_time"), time("max_idle"));
}

impl Services {
    /// Makes the services and begins to accept.
    pub fn start(
        acceptance: &Acceptance,
        parts: &AgentParts,
        config: &Config,
        keys: &Keys,
        sockets: Vec<(u32, OwnedFd)>,
        spool: PathBuf,
    ) -> Result<Self, String> {
        let generation = acceptance.current().get();
        let limits = Limits::new(config.main().duration("anvil_rate_time_unit"));
        count_as(&limits, config);
        let (_, stdin) = settings(config, &generation.tables, &KeySource::new(keys), None, &HashMap::new())?;
        let (stop, _) = watch::channel(false);
        let view = config.main();
        tokio::spawn(report_limits(
            Arc::clone(&limits),
            Arc::clone(&parts.events),
            view.text("syslog_name").into(),
            stop.subscribe(),
        ));
        let stdin = service(acceptance, parts, &limits, &spool, Arc::new(stdin));
        let mut services = Self {
            by_id: HashMap::new(),
            screeners: HashMap::new(),
            listening: HashMap::new(),
            doors: HashMap::new(),
            stdin: Arc::new(RwLock::new(stdin)),
            stop,
            limits,
            spool,
        };
        services.put(acceptance, parts, config, &generation.tables, keys, sockets)?;
        Ok(services)
    }

    /// Services of a new configuration. Sessions that run keep the settings they began with, and sockets that stay are
    /// not touched.
    pub fn reconfigure(
        &mut self,
        acceptance: &Acceptance,
        parts: &AgentParts,
        config: &Config,
        tables: &TableSet,
        keys: &Keys,
        sockets: Vec<(u32, OwnedFd)>,
    ) -> Result<(), String> {
        let (_, stdin) = settings(config, tables, &KeySource::new(keys), None, &HashMap::new())?;
        self.put(acceptance, parts, config, tables, keys, sockets)?;
        count_as(&self.limits, config);
        let stdin = service(acceptance, parts, &self.limits, &self.spool, Arc::new(stdin));
        *self.stdin.write().unwrap_or_else(std::sync::PoisonError::into_inner) = stdin;
        Ok(())
    }

    fn put(
        &mut self,
        acceptance: &Acceptance,
        parts: &AgentParts,
        config: &Config,
        tables: &TableSet,
        keys: &Keys,
        sockets: Vec<(u32, OwnedFd)>,
    ) -> Result<(), String> {
        // All of it is made before anything is changed: a fault in one service leaves everything as it was.
        let made = self.make(config, tables, &KeySource::new(keys), sockets)?;
        self.take_sessions(acceptance, parts, &made);
        self.take_screens(parts, &made);
        self.listen(acceptance, parts, config, made);
        self.open_doors(acceptance, parts, config);
        Ok(())
    }

    /// What a configuration wants on the sockets that the supervisor opened for it.
    fn make(
        &self,
        config: &Config,
        tables: &TableSet,
        keys: &KeySource,
        sockets: Vec<(u32, OwnedFd)>,
    ) -> Result<Made, String> {
        let mut made = Made::default();
        for (position, socket) in sockets {
            let service = config.services().get(position as usize);
            let named = service.filter(|service| service.command == "postscreen");
            if service.is_some_and(|service| service.command == "spawn") {
                made.programs.insert(position);
            } else if let Some(named) = named {
                made.screens.entry(position).or_insert_with(|| {
                    let mut settings = ScreenSettings::from(&config.service_view(named), tables);
                    let before = self.screeners.get(&named.id());
                    let before = before.and_then(|screener| screener.settings().tls.server.clone());
                    settings.open_tls(&TlsSource { files: &keys.files, sni: &keys.sni, before });
                    (named.id(), Arc::new(settings))
                });
            } else if let Entry::Vacant(entry) = made.sessions.entry(position) {
                let (id, settings) = settings(config, tables, keys, Some(position), &self.by_id)?;
                entry.insert((id, Arc::new(settings)));
            }
            let listener = std::net::TcpListener::from(socket);
            let trouble = |error: std::io::Error| format!("a listening socket cannot be used: {error}");
            listener.set_nonblocking(true).map_err(trouble)?;
            let address = listener.local_addr().map_err(trouble)?;
            made.listeners.push((position, address, TcpListener::from_std(listener).map_err(trouble)?));
        }
        // Whom postscreen hands clients to.
        for (position, service) in config.services().iter().enumerate() {
            let passed = |(_, settings): &(String, Arc<ScreenSettings>)| settings.pass_to == service.name;
            if service.kind == ServiceType::Pass && service.command == "smtpd" && made.screens.values().any(passed) {
                // The number of services is bounded by the size of a file.
                let position = position as u32;
                let (id, settings) = settings(config, tables, keys, Some(position), &self.by_id)?;
                made.sessions.insert(position, (id, Arc::new(settings)));
            }
        }
        Ok(made)
    }

    /// Services that stay get their new settings, which sessions from now on have.
    fn take_sessions(&mut self, acceptance: &Acceptance, parts: &AgentParts, made: &Made) {
        let mut by_id = HashMap::new();
        for (id, settings) in made.sessions.values() {
            let service = match self.by_id.remove(id) {
                Some(service) => {
                    service.reload(Arc::clone(settings));
                    service
                }
                None => service(acceptance, parts, &self.limits, &self.spool, Arc::clone(settings)),
            };
            by_id.insert(id.clone(), service);
        }
        self.by_id = by_id;
    }

    fn take_screens(&mut self, parts: &AgentParts, made: &Made) {
        let mut screeners = HashMap::new();
        for (id, settings) in made.screens.values() {
            let screener = match self.screeners.remove(id) {
                Some(screener) => {
                    screener.reload(Arc::clone(settings));
                    screener
                }
                None => {
                    let (events, resolver) = (Arc::clone(&parts.events), Arc::clone(&parts.resolver));
                    let screener = Screener::new(ScreenerParts { settings: Arc::clone(settings), events, resolver });
                    tokio::spawn(Screener::keep(Arc::downgrade(&screener), self.stop.subscribe()));
                    screener
                }
            };
            screener.pass_to(self.by_id.get(&format!("{}/pass", settings.pass_to)).cloned());
            screeners.insert(id.clone(), screener);
        }
        self.screeners = screeners;
    }

    /// Begins to accept where that is new, and ends where it is not wanted any more.
    fn listen(&mut self, acceptance: &Acceptance, parts: &AgentParts, config: &Config, made: Made) {
        let mut listening = HashMap::new();
        for (position, address, listener) in made.listeners {
            if made.programs.contains(&position)
                && let Some(service) = config.services().get(position as usize)
            {
                // Made anew: its settings may be others. Its sockets stay, programs that run go on.
                let program = Program::of(config, service, acceptance, &parts.events);
                let task = tokio::spawn(serve_programs(Door::Inet(listener), program, self.stop.subscribe()));
                listening.insert(address, Listening { service: service.id(), task });
                continue;
            }
            // Each position is one of the two by [`Services::make`], and both were taken before.
            let id = made.screens.get(&position).map_or_else(|| &made.sessions[&position].0, |(id, _)| id);
            let kept = self.listening.remove(&address).filter(|old| old.service == *id);
            let entry = kept.unwrap_or_else(|| {
                let stop = self.stop.subscribe();
                let task = match self.screeners.get(id) {
                    Some(screener) => tokio::spawn(serve_screened(listener, Arc::clone(screener), stop)),
                    None => tokio::spawn(serve(listener, Arc::clone(&self.by_id[id]), stop)),
                };
                Listening { service: id.clone(), task }
            });
            listening.insert(address, entry);
        }
        // What is left is not wanted any more: no new sessions there, the old ones go on.
        for (_, old) in std::mem::replace(&mut self.listening, listening) {
            old.task.abort();
        }
    }

    /// Sockets below the queue directory for programs of the administrator's. One that cannot be made is told in the log:
    /// all else works without it.
    fn open_doors(&mut self, acceptance: &Acceptance, parts: &AgentParts, config: &Config) {
        for (_, old) in self.doors.drain() {
            old.task.abort();
        }
        for (path, position) in spawning::sockets(config) {
            let Some(service) = config.services().get(position) else { continue };
            match spawning::bind(&path) {
                Ok(listener) => {
                    let program = Program::of(config, service, acceptance, &parts.events);
                    let task = tokio::spawn(serve_programs(Door::Unix(listener), program, self.stop.subscribe()));
                    self.doors.insert(path, Listening { service: service.id(), task });
                }
                Err(error) => {
                    let text = format!("service {}: cannot listen on {}: {error}", service.id(), path.display());
                    acceptance.current().say(Severity::Warning, None, &text);
                }
            }
        }
    }

    /// Takes connections over from the control socket for `sendmail -bs`.
    pub fn stdin_smtp(&self) -> Arc<dyn Fn(UnixStream, u32) -> JoinHandle<()> + Send + Sync> {
        let (stdin, stop) = (Arc::clone(&self.stdin), self.stop.subscribe());
        Arc::new(move |stream, uid| {
            let service = Arc::clone(&stdin.read().unwrap_or_else(std::sync::PoisonError::into_inner));
            let stop = stop.clone();
            tokio::spawn(async move { converse(stream, &service, uid, stop).await })
        })
    }

    /// Ends: sessions between commands hear `421`, those in the middle of a message may finish it in the time there is.
    pub async fn stop(self, within: Duration) {
        let _ = self.stop.send(true);
        let all = async {
            for (_, listening) in self.listening {
                let _ = listening.task.await;
            }
        };
        let _ = tokio::time::timeout(within, all).await;
        for screener in self.screeners.values() {
            screener.finish().await;
        }
    }
}

fn service(
    acceptance: &Acceptance,
    parts: &AgentParts,
    limits: &Arc<Limits>,
    spool: &std::path::Path,
    settings: Arc<Settings>,
) -> Arc<Service> {
    Service::new(ServiceParts {
        settings,
        admission: Arc::new(acceptance.clone()) as Arc<dyn Admission>,
        events: Arc::clone(&parts.events),
        limits: Arc::clone(limits),
        resolver: Arc::clone(&parts.resolver),
        hosts: Arc::clone(&parts.hosts),
        spill_directory: spool.to_path_buf(),
        spill_threshold: SPILL,
    })
}

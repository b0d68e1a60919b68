//! Screening over tokio.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};
use yamabiko_dns::Resolver;
use yamabiko_envelope::{Event, Events, Origin, Severity, Timestamp};
use yamabiko_tls::Stream;

use super::cache::Stamps;
use super::machine::{Circumstances, Line, Next, Screen};
use super::settings::ScreenSettings;
use super::sites::Score;
use super::store::{self, Store};
use crate::driver::{Service, Shutdown, hand_over};

/// Bytes that are looked at of a client that talks too early.
const PEEKED: usize = 1024;
/// How often results are written down.
const ROUND: Duration = Duration::from_secs(5);
/// How long a client's last reply may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a [`Screener`] is made of.
pub struct ScreenerParts {
    /// As configured now.
    pub settings: Arc<ScreenSettings>,
    /// Takes what happens.
    pub events: Events,
    /// DNS.
    pub resolver: Arc<dyn Resolver>,
}

/// A postscreen service of master.cf.
pub struct Screener {
    settings: RwLock<Arc<ScreenSettings>>,
    /// Who gets the clients that pass.
    server: RwLock<Option<Arc<Service>>>,
    events: Events,
    resolver: Arc<dyn Resolver>,
    store: Mutex<Store>,
    clients: Mutex<HashMap<IpAddr, u32>>,
    tested: AtomicUsize,
    waiting: Arc<AtomicUsize>,
    stressed: AtomicBool,
}

impl Screener {
    /// Reads its cache.
    pub fn new(parts: ScreenerParts) -> Arc<Self> {
        let (store, fault) = Store::open(parts.settings.cache_file.as_deref());
        let screener = Self {
            settings: RwLock::new(Arc::clone(&parts.settings)),
            server: RwLock::new(None),
            events: parts.events,
            resolver: parts.resolver,
            store: Mutex::new(store),
            clients: Mutex::default(),
            tested: AtomicUsize::new(0),
            waiting: Arc::default(),
            stressed: AtomicBool::new(false),
        };
        if let Some(fault) = fault {
            screener.log(&parts.settings, Line::warning(fault));
        }
        screener.tell(&parts.settings);
        Arc::new(screener)
    }

    /// Settings in force for new clients.
    pub fn settings(&self) -> Arc<ScreenSettings> {
        // Only ever replaced whole.
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// New clients get these.
    pub fn reload(&self, settings: Arc<ScreenSettings>) {
        self.tell(&settings);
        let moved = self.store().path() != settings.cache_file.as_deref();
        if moved {
            let (store, fault) = Store::open(settings.cache_file.as_deref());
            *self.store() = store;
            fault.into_iter().for_each(|fault| self.log(&settings, Line::warning(fault)));
        }
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Who gets the clients that pass; `None`: nobody, and they are told to come again.
    pub fn pass_to(&self, server: Option<Arc<Service>>) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    fn tell(&self, settings: &ScreenSettings) {
        for notice in &settings.notices {
            self.log(settings, Line::warning(notice.clone()));
        }
    }

    fn log(&self, settings: &ScreenSettings, line: Line) {
        let origin = Origin::new(&settings.syslog_name, line.program);
        self.events.emit(Event::text(Timestamp::now(), origin, line.severity, line.text));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // It is whole whatever a thread was doing when it panicked.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Much is going on: from nine tenths of the limit on, until it is below seven.
    fn stressed(&self, tested: usize, settings: &ScreenSettings) -> bool {
        let limit = settings.pre_queue_limit;
        let (low, high) = (limit * 7 / 10, limit * 9 / 10);
        let was = self.stressed.load(Ordering::Relaxed);
        let is = limit > 0 && (tested >= high.max(1) || (was && tested >= low.max(1)));
        if is != was && self.stressed.swap(is, Ordering::Relaxed) == was {
            let text = if is { "entering STRESS mode with" } else { "leaving STRESS mode with" };
            self.log(settings, Line::info(format!("{text} {tested} connections")));
        }
        is
    }

    /// Writes results down, forgets old ones. Until `shutdown`; [`Screener::finish`] comes after it.
    pub async fn keep(screener: Weak<Self>, mut shutdown: Shutdown) {
        let mut cleaned: Option<Instant> = None;
        // A service that a reload took away is kept by nobody.
        while let Some(screener) = screener.upgrade() {
            let settings = screener.settings();
            let interval = settings.cache_cleanup;
            let due = !settings.cache_map.is_empty()
                && match cleaned {
                    None => true,
                    Some(at) => !interval.is_zero() && at.elapsed() >= interval,
                };
            if due {
                cleaned = Some(Instant::now());
                let now = Timestamp::now().seconds();
                let (retained, dropped) = screener.store().cache.clean(now, settings.cache_retention);
                let map = &settings.cache_map;
                let text = format!("cache {map} full cleanup: retained={retained} dropped={dropped} entries");
                screener.log(&settings, Line::info(text));
            }
            screener.write(&settings, due).await;
            drop(screener);
            if timeout(ROUND, shutdown.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
        }
    }

    /// Writes what is to be written at once, for the end.
    pub async fn finish(&self) {
        let settings = self.settings();
        self.write(&settings, false).await;
    }

    async fn write(&self, settings: &ScreenSettings, cleaned: bool) {
        let Some((path, text, whole)) = self.store().due(cleaned) else { return };
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || store::write(&path, &text, whole)).await;
        if let Ok(Err(error)) = written {
            self.log(settings, Line::warning(format!("write {shown}: {error}")));
        }
    }

    fn remember(&self, client: IpAddr, stamps: Stamps) {
        self.store().put(client, stamps);
    }
}

/// A client's place among those that are connected.
struct Seat {
    screener: Arc<Screener>,
    client: IpAddr,
}

impl Seat {
    /// With the connections that the client has, this one included.
    fn take(screener: &Arc<Screener>, client: IpAddr) -> (Self, u32) {
        let mut clients = screener.clients();
        let count = clients.entry(client).or_default();
        *count += 1;
        let count = *count;
        drop(clients);
        (Self { screener: Arc::clone(screener), client }, count)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.screener.clients();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Counts a client that is being tested.
struct Tested<'s>(&'s AtomicUsize);

impl Drop for Tested<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts clients until `shutdown`.
pub async fn serve_screened(listener: TcpListener, screener: Arc<Screener>, shutdown: Shutdown) {
    let mut stop = shutdown.clone();
    let mut stop = pin!(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let _ = SockRef::from(&listener).set_tcp_nodelay(true);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let settings = screener.settings();
                screener.log(&settings, Line::warning(format!("accept connection: {error}")));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Beyond what is tested and what is told so, connections cost memory and serve nobody.
        let settings = screener.settings();
        let most = settings.pre_queue_limit.saturating_mul(4).max(1000);
        if screener.tested.load(Ordering::Relaxed) >= most {
            continue;
        }
        let Ok(server) = stream.local_addr() else { continue };
        let (screener, shutdown) = (Arc::clone(&screener), shutdown.clone());
        tokio::spawn(async move { Box::pin(screen(stream, client, server, screener, shutdown)).await });
    }
    drop(listener);
    let server = screener.server.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(server) = server {
        server.drained().await;
    }
}

/// One client.
async fn screen(
    mut stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    screener: Arc<Screener>,
    mut shutdown: Shutdown,
) {
    let settings = screener.settings();
    let (client, server) = match settings.upstream.ends(&mut stream).await {
        Ok(None) => (client, server),
        Ok(Some(ends)) => (ends.client, ends.server),
        Err(why) => return screener.log(&settings, Line::warning(why)),
    };
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, server) = (canonical(client), canonical(server));
    let address = client.ip();
    let (seat, concurrency) = Seat::take(&screener, address);
    let others = screener.tested.fetch_add(1, Ordering::Relaxed);
    let tested = Tested(&screener.tested);
    let (access, warning) = settings.access(address).await;
    if let Some(warning) = warning {
        screener.log(&settings, Line::warning(warning));
    }
    let known = screener.store().cache.get(address);
    let given = Circumstances {
        concurrency,
        waiting: screener.waiting.load(Ordering::Relaxed),
        tested: others,
        access,
        known,
        may_be_allowed: settings.allows_at(server.ip()).await,
        stressed: screener.stressed(others + 1, &settings),
        discard: settings.discard_for(address).await,
    };
    let mut machine = Screen::new(Arc::clone(&settings), client, server, Timestamp::now());
    let mut next = machine.begin(&given);
    let mut asked = machine.wants_lists().then(|| {
        let (resolver, sites) = (Arc::clone(&screener.resolver), Arc::clone(&settings.sites));
        tokio::spawn(async move { sites.ask(address, &*resolver, Timestamp::now()).await })
    });
    let mut stream = Stream::Plain(stream);
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        for line in machine.take_lines() {
            screener.log(&settings, line);
        }
        if let Some(stamps) = machine.take_update() {
            screener.remember(address, stamps);
        }
        let output = std::mem::take(machine.output());
        if !output.is_empty() {
            let limit = if next == Next::Close { FAREWELL } else { Duration::from_secs(60) };
            let written = timeout(limit, async {
                stream.write_all(&output).await?;
                stream.flush().await
            });
            if !matches!(written.await, Ok(Ok(()))) && !matches!(next, Next::Close) {
                next = machine.hung_up(Timestamp::now());
                continue;
            }
        }
        next = match next {
            Next::Close => break,
            Next::HandOver => {
                drop(tested);
                let Some(plain) = stream.take_plain() else { break };
                return pass(plain, client, server, &screener, &settings, shutdown, seat).await;
            }
            Next::Watch(until) => {
                let Some(plain) = stream.below() else { break };
                let mut peeked = [0; PEEKED];
                tokio::select! {
                    biased;
                    score = answer(&mut asked) => { asked = None; machine.listed(score, Timestamp::now()) }
                    heard = plain.peek(&mut peeked) => match heard {
                        Ok(0) | Err(_) => machine.hung_up(Timestamp::now()),
                        // No more than there is room for.
                        Ok(heard) => machine.talked(&peeked[..heard], Timestamp::now()),
                    },
                    () = sleep_until(instant(until)) => machine.waited(Timestamp::now()),
                    _ = shutdown.wait_for(|stop| *stop) => machine.shut_down(),
                }
            }
            Next::Wait(until) => tokio::select! {
                biased;
                score = answer(&mut asked) => { asked = None; machine.listed(score, Timestamp::now()) }
                () = sleep_until(instant(until)) => machine.waited(Timestamp::now()),
                _ = shutdown.wait_for(|stop| *stop) => machine.shut_down(),
            },
            Next::Read(until) => {
                let mut room = [0; 4096];
                let read = tokio::select! {
                    biased;
                    read = stream.read(&mut room) => Some(read),
                    () = sleep_until(instant(until)) => None,
                    _ = shutdown.wait_for(|stop| *stop) => { next = machine.shut_down(); continue }
                };
                match read {
                    None => machine.waited(Timestamp::now()),
                    Some(Ok(0) | Err(_)) => machine.hung_up(Timestamp::now()),
                    Some(Ok(read)) => {
                        // A line at most stays in it, and that has a limit.
                        buffer.extend_from_slice(&room[..read]);
                        let (used, next) = machine.said(&buffer, Timestamp::now());
                        buffer.drain(..used);
                        next
                    }
                }
            }
            Next::Handshake => {
                // What was read in the clear is not from whoever shakes hands.
                buffer.clear();
                let (normal, stressed) = settings.tls.timeout;
                let limit = if given.stressed { stressed } else { normal };
                match (settings.tls.server.as_ref(), stream.take_plain()) {
                    (Some(tls), Some(plain)) => match Box::pin(timeout(limit, tls.accept(plain))).await {
                        Ok(Ok((encrypted, _))) => {
                            stream = encrypted;
                            machine.secured(Timestamp::now())
                        }
                        _ => machine.hung_up(Timestamp::now()),
                    },
                    _ => machine.hung_up(Timestamp::now()),
                }
            }
        };
    }
    if let Some(asked) = asked {
        asked.abort();
    }
    let _ = timeout(FAREWELL, stream.shutdown()).await;
}

/// The answer of the lists; never, when they are not asked.
async fn answer(asked: &mut Option<tokio::task::JoinHandle<Score>>) -> Score {
    match asked {
        // A panic there: they said nothing.
        Some(task) => task.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

fn instant(until: Timestamp) -> Instant {
    let micros = until.0.saturating_sub(Timestamp::now().0);
    // A little late rather than early: the machine compares with the clock.
    Instant::now() + Duration::from_micros(micros) + Duration::from_millis(1)
}

/// A client that passed gets its server.
async fn pass(
    mut stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    screener: &Arc<Screener>,
    settings: &ScreenSettings,
    shutdown: Shutdown,
    seat: Seat,
) {
    let service = screener.server.read().unwrap_or_else(PoisonError::into_inner).clone();
    match service {
        Some(service) => {
            let waiting = Arc::clone(&screener.waiting);
            hand_over(stream, client, server, service, shutdown, &waiting).await;
            drop(seat);
        }
        None => {
            let text =
                format!("connect to private/{}: there is no such service of type pass in master.cf", settings.pass_to);
            screener.log(settings, Line { program: "postscreen", severity: Severity::Warning, text });
            let reply = b"421 4.3.2 No system resources\r\n";
            let _ = timeout(FAREWELL, stream.write_all(reply)).await;
        }
    }
}

//! Sessions over tokio: accept loop, one task per client, one write and one read per turn of the dialogue.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};
use yamabiko_dns::{Hosts, Native, Resolver};
use yamabiko_envelope::{Content, Event, Events, Kind, Origin, Severity, Submission, Timestamp};
use yamabiko_tls::{Clock, Stream};

use crate::admission::{Admission, on_disk};
use crate::filter::{FilterStep, Filtering, SessionMacros};
use crate::limits::Limits;
use crate::peer::{Peer, look_up, unmapped};
use crate::restrict::Facts;
use crate::sasl::{Exchange, Verdict};
use crate::session::{Action, AuthStep, Session, Surroundings};
use crate::settings::Settings;
use crate::upstream::Upstream;

/// Room for what is read while content comes in.
const CONTENT_ROOM: usize = 16 * 1024;
/// Room between messages: a session that waits costs little.
const COMMAND_ROOM: usize = 1024;

/// How long the end of an encrypted connection may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Becomes true when the server is to stop.
pub type Shutdown = watch::Receiver<bool>;

/// What a [`Service`] is made of.
pub struct ServiceParts {
    /// As configured now.
    pub settings: Arc<Settings>,
    /// The engine.
    pub admission: Arc<dyn Admission>,
    /// Takes what happens.
    pub events: Events,
    /// Counters per client, shared by all services.
    pub limits: Arc<Limits>,
    /// DNS.
    pub resolver: Arc<dyn Resolver>,
    /// The hosts file.
    pub hosts: Arc<Hosts>,
    /// Where messages that are too large for memory are kept while they are received. On the disk that the queue is on.
    pub spill_directory: PathBuf,
    /// Content beyond so many bytes goes there.
    pub spill_threshold: usize,
}

/// An SMTP service of master.cf: settings, which a reload replaces, and what its sessions share.
pub struct Service {
    settings: RwLock<Arc<Settings>>,
    around: Surroundings,
    resolver: Arc<dyn Resolver>,
    native: Native,
    spill_directory: PathBuf,
    spill_threshold: usize,
    sessions: AtomicUsize,
    session_ended: Notify,
}

impl Service {
    /// Logs what the settings have to say and is ready to [`serve`].
    pub fn new(parts: ServiceParts) -> Arc<Self> {
        let service = Self {
            settings: RwLock::new(Arc::clone(&parts.settings)),
            around: Surroundings { admission: parts.admission, events: parts.events, limits: parts.limits },
            native: Native::new(parts.hosts, Arc::clone(&parts.resolver)),
            resolver: parts.resolver,
            spill_directory: parts.spill_directory,
            spill_threshold: parts.spill_threshold.max(CONTENT_ROOM),
            sessions: AtomicUsize::new(0),
            session_ended: Notify::new(),
        };
        service.tell(&parts.settings);
        Arc::new(service)
    }

    /// The settings for a new session.
    pub fn settings(&self) -> Arc<Settings> {
        // Only ever replaced whole, so it is right even after a panic elsewhere.
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// New sessions get these; running ones keep theirs.
    pub fn reload(&self, settings: Arc<Settings>) {
        self.tell(&settings);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Waits until all sessions have ended.
    pub async fn drained(&self) {
        while self.sessions() > 0 {
            self.session_ended.notified().await;
        }
    }

    fn tell(&self, settings: &Settings) {
        for notice in &settings.notices {
            self.log(settings, Severity::Warning, notice.clone());
        }
    }

    fn log(&self, settings: &Settings, severity: Severity, text: String) {
        let origin = Origin::new(&settings.syslog_name, "smtpd");
        self.around.events.emit(Event::text(Timestamp::now(), origin, severity, text));
    }
}

/// Counts a session for as long as it lives.
struct Seat(Arc<Service>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
        self.0.session_ended.notify_one();
    }
}

/// Accepts clients until `shutdown`, then waits for the sessions that are open; those between commands end at once with
/// `421`. When all sessions of the service are in use, new clients wait in the listen queue, as with Postfix.
pub async fn serve(listener: TcpListener, service: Arc<Service>, shutdown: Shutdown) {
    let mut stop = shutdown.clone();
    let mut stop = pin!(async move {
        // An error means that whoever could say so is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    // Connections inherit it. Without it the client's acknowledgement delays every second reply; the session works all
    // the same.
    let _ = SockRef::from(&listener).set_tcp_nodelay(true);
    // With a socket for one address there is no need to ask each connection which one it is.
    let bound = listener.local_addr().ok().filter(|bound| !bound.ip().is_unspecified());
    loop {
        let settings = service.settings();
        let limit = settings.session_limit;
        if limit > 0 && service.sessions() >= limit {
            tokio::select! {
                () = service.session_ended.notified() => continue,
                () = &mut stop => break,
            }
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory: others need time to give some back.
                service.log(&settings, Severity::Warning, format!("accept connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let open = service.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let seat = Seat(Arc::clone(&service));
        let stressed = limit > 0 && open >= limit;
        let ours = bound.or_else(|| stream.local_addr().ok());
        begin(stream, address, ours, seat, stressed, shutdown.clone(), settings.upstream);
    }
    drop(listener);
    service.drained().await;
}

/// A session with a client.
fn begin(
    mut stream: TcpStream,
    client: SocketAddr,
    ours: Option<SocketAddr>,
    seat: Seat,
    stressed: bool,
    shutdown: Shutdown,
    upstream: Upstream,
) {
    tokio::spawn(async move {
        let service = Arc::clone(&seat.0);
        let (mut client, mut ours) = (client, ours);
        if upstream != Upstream::None {
            match Box::pin(upstream.ends(&mut stream)).await {
                Ok(None) => {}
                Ok(Some(ends)) => (client, ours) = (ends.client, Some(ends.server)),
                Err(why) => {
                    let settings = service.settings();
                    service.log(&settings, Severity::Warning, why);
                    let words = format!("421 4.3.0 {} Server local error\r\n", settings.myhostname);
                    // Fits into the socket's buffer; whoever is there may have gone.
                    let _ = timeout(FAREWELL, stream.write_all(words.as_bytes())).await;
                    return;
                }
            }
        }
        let (ip, port) = unmapped(client);
        let ours = ours.map(|ours| SocketAddr::new(ours.ip().to_canonical(), ours.port()));
        // The last reply and the end of the connection then go in one segment.
        let last_words = |stream: &TcpStream| _ = SockRef::from(stream).set_tcp_cork(true);
        run(stream, &service, From::Network(ip, port), ours, stressed, shutdown, last_words).await;
    });
}

/// A client that postscreen has looked at gets a session as soon as there is one. `waiting` counts those that wait.
pub(crate) async fn hand_over(
    stream: TcpStream,
    client: SocketAddr,
    ours: SocketAddr,
    service: Arc<Service>,
    mut shutdown: Shutdown,
    waiting: &AtomicUsize,
) {
    let limit = service.settings().session_limit;
    let room = |open: usize| (limit == 0 || open < limit).then_some(open + 1);
    waiting.fetch_add(1, Ordering::Relaxed);
    let taken = loop {
        if let Ok(before) = service.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            break Some(before + 1);
        }
        tokio::select! {
            () = service.session_ended.notified() => {}
            _ = shutdown.wait_for(|stop| *stop) => break None,
        }
    };
    waiting.fetch_sub(1, Ordering::Relaxed);
    if let Some(open) = taken {
        let stressed = limit > 0 && open >= limit;
        begin(stream, client, Some(ours), Seat(service), stressed, shutdown, Upstream::None);
    }
}

/// Writes what [`Limits`] have seen to the log: every `anvil_status_update_time`, when there was no client for
/// `max_idle`, and at the end. Runs until `shutdown`.
pub async fn report_limits(limits: Arc<Limits>, events: Events, syslog_name: Arc<str>, mut shutdown: Shutdown) {
    let zone = yamabiko_message::date::Zone::system();
    let mut reported = Instant::now();
    loop {
        let (interval, max_idle) = limits.intervals();
        // A reload may have shortened both.
        let nap = max_idle.min(interval).clamp(Duration::from_secs(1), Duration::from_secs(100));
        let stopped = timeout(nap, shutdown.wait_for(|stop| *stop)).await.is_ok();
        let now = Timestamp::now();
        let idle = limits.idle_since(Timestamp(now.0.saturating_sub(max_idle.as_micros() as u64)));
        if stopped || idle || reported.elapsed() >= interval {
            reported = Instant::now();
            for (text, at) in limits.report() {
                // `Sat Nov 21 16:53:54 2026` without weekday and year.
                let at = yamabiko_message::date::ctime(at.seconds(), &zone);
                let text = format!("{text} at {}", at.get(4..19).unwrap_or_default());
                events.emit(Event::text(now, Origin::new(&syslog_name, "anvil"), Severity::Info, text));
            }
        }
        if stopped {
            return;
        }
    }
}

/// One session with a user of this machine who runs `sendmail -bs`. Restrictions and limits do not apply; messages come
/// in as any other that the user submits.
pub async fn converse<S>(stream: S, service: &Service, user: u32, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    run(stream, service, From::User(user), None, false, shutdown, |_| {}).await;
}

/// Where a session comes from.
enum From {
    Network(IpAddr, u16),
    User(u32),
}

async fn run<S>(
    stream: S,
    service: &Service,
    from: From,
    server: Option<SocketAddr>,
    stressed: bool,
    shutdown: Shutdown,
    last_words: fn(&S),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let settings = service.settings();
    let mut peer = match from {
        From::User(_) => Peer::local(),
        From::Network(address, port) if !settings.peername_lookup => Peer::unnamed(address, port),
        From::Network(address, port) => {
            let (peer, warning) = Box::pin(look_up(&service.native, address, port)).await;
            if let Some(warning) = warning {
                service.log(&settings, Severity::Warning, warning);
            }
            peer
        }
    };
    peer.server = server;
    let now = Timestamp::now();
    let client = peer.client(settings.port_logging);
    let origin = Origin::new(&settings.syslog_name, "smtpd");
    service.around.events.emit(Event { at: now, origin, kind: Kind::Connected { client } });
    let standing = {
        let mut asked = Box::pin(settings.policy.standing(&peer));
        where_it_may_block(settings.policy.is_remote(), asked.as_mut()).await
    };
    let (user, counted) = match from {
        From::User(user) => (Some(user), None),
        From::Network(address, _) => (None, (!standing.unlimited && !standing.xclient).then_some(address)),
    };
    let ticket = counted.map(|address| service.around.limits.connect(&settings.service, settings.range(address), now));
    let around = service.around.clone();
    let mut session = Session::new(Arc::clone(&settings), stressed, around, peer, standing, user, now);
    if let Some((_, open, rate)) = &ticket {
        let over = |value: u32, limit: u32| limit > 0 && value > limit;
        if over(*open, settings.connection_limit) {
            session.over_limit("Connection concurrency", *open);
        } else if over(*rate, settings.connection_rate) {
            session.over_limit("Connection rate", *rate);
        }
    }
    let mut conversation = Conversation {
        stream: Stream::Plain(stream),
        service,
        settings: &settings,
        session,
        buffer: Vec::new(),
        start: 0,
        spill: None,
        deadline: None,
        clock: Clock::default(),
        exchange: None,
        filters: None,
        milters: None,
        connections: ticket.as_ref().map_or(0, |(_, open, _)| *open),
        last_words,
    };
    if let From::Network(address, _) = from {
        let (milters, warnings) = settings.milters_for(address).await;
        for warning in warnings {
            service.log(&settings, Severity::Warning, warning);
        }
        if milters.is_some() {
            conversation.session.with_filters();
        }
        conversation.milters = milters;
    }
    conversation.run(shutdown).await;
    let Conversation { session, stream, filters, .. } = conversation;
    let notices = session.finish(Timestamp::now());
    // The client has waited long enough: what it was told last may only leave with the end of the connection.
    drop(stream);
    if let Some(filters) = filters {
        filters.quit().await;
    }
    for notice in notices {
        Box::pin(submit_notice(&service.around, &settings, notice)).await;
    }
}

/// A notice that cannot be taken is lost; the log has said the same.
async fn submit_notice(around: &Surroundings, settings: &Settings, notice: Submission) {
    if let Err(refusal) = around.admission.submit(notice).await {
        let origin = Origin::new(&settings.syslog_name, "smtpd");
        let text = format!("postmaster notify: {}", refusal.text);
        around.events.emit(Event::text(Timestamp::now(), origin, Severity::Warning, text));
    }
}

struct Conversation<'s, S> {
    /// STARTTLS changes what it is.
    stream: Stream<S>,
    service: &'s Service,
    settings: &'s Arc<Settings>,
    session: Session,
    /// What was read; from `start` on it is not used yet.
    buffer: Vec<u8>,
    start: usize,
    spill: Option<Spill>,
    deadline: Option<Instant>,
    clock: Clock,
    /// A login that is under way.
    exchange: Option<Exchange>,
    /// The mail filters of this client.
    milters: Option<Arc<yamabiko_milter::Milters>>,
    /// Connections that this client has, for mail filters; 0 where it is not counted.
    connections: u32,
    /// The conversation with mail filters.
    filters: Option<yamabiko_milter::Session>,
    /// What is done to the connection before the last words are written.
    last_words: fn(&S),
}

/// Why a conversation ends early.
enum Broken {
    Lost,
    Timeout,
    Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Conversation<'_, S> {
    async fn run(&mut self, mut shutdown: Shutdown) {
        let mut stop = pin!(async move {
            // An error means that whoever could say so is gone.
            let _ = shutdown.wait_for(|stop| *stop).await;
        });
        self.listen_first();
        // What ends the session is an answer to the client.
        let mut answers = true;
        loop {
            // `start` never passes the end.
            let (used, action) = self.session.advance(&self.buffer[self.start..], Timestamp::now());
            self.start += used;
            for notice in self.session.take_notices() {
                let (around, settings) = (self.service.around.clone(), Arc::clone(self.settings));
                tokio::spawn(async move { submit_notice(&around, &settings, notice).await });
            }
            let step = match action {
                Action::Close => break,
                Action::Read => self.turn(stop.as_mut()).await,
                Action::Pause(pause) => {
                    tokio::time::sleep(pause).await;
                    Ok(())
                }
                Action::Handshake => self.shake_hands().await,
                action => {
                    self.answer(action).await;
                    Ok(())
                }
            };
            match step {
                Ok(()) => {}
                Err(why) => {
                    answers = false;
                    match why {
                        Broken::Lost => self.session.lost(),
                        Broken::Timeout => self.session.timed_out(),
                        Broken::Shutdown => self.session.shut_down(),
                    }
                }
            }
        }
        // Only then: closing while something of the client's is not read yet throws away what has not left us; and a client
        // that is told of our own end may just be saying something.
        if (self.session.said_goodbye() || (answers && self.is_silent()))
            && let Some(connection) = self.stream.below()
        {
            (self.last_words)(connection);
        }
        // The client may be gone; what it was told does not matter then. Dropping the stream closes it.
        let _ = self.write().await;
        if self.stream.is_encrypted() {
            // A peer that is told of the end knows that nothing was cut off.
            let _ = timeout(FAREWELL, self.stream.shutdown()).await;
        }
    }

    /// Whoever talks before the greeting is heard.
    fn listen_first(&mut self) {
        // There a handshake comes first, and it is read elsewhere.
        if self.settings.tls.options.wrapper {
            return;
        }
        self.make_room();
        let _ = self.stream.read_buf(&mut self.buffer).now_or_never();
    }

    /// Nothing more has come from the client: it waits for an answer. When that is the last one, the end of the connection
    /// goes with it, and the client cannot say something in between.
    fn is_silent(&mut self) -> bool {
        self.make_room();
        self.start == self.buffer.len() && self.stream.read_buf(&mut self.buffer).now_or_never().is_none()
    }

    /// The futures of lookups are large: boxed, they are there while they are needed and not as long as the session.
    async fn answer(&mut self, action: Action) {
        let policy = &self.settings.policy;
        match action {
            Action::Check(check) => {
                let mut state = self.session.take_checks();
                let outcome = {
                    let facts = self.session.facts();
                    let mut asked = Box::pin(policy.check(
                        check,
                        &facts,
                        &mut state,
                        &*self.service.resolver,
                        Some(&*self.service.around.admission),
                    ));
                    where_it_may_block(policy.is_remote(), asked.as_mut()).await
                };
                self.session.checked(state, outcome);
            }
            Action::Classify => {
                let standing = {
                    let facts = self.session.facts();
                    let mut asked = Box::pin(policy.standing(facts.peer));
                    where_it_may_block(policy.is_remote(), asked.as_mut()).await
                };
                self.session.stands(standing);
            }
            Action::Etrn(domain) => {
                let result = self.service.around.admission.etrn(&domain).await;
                self.session.etrn_done(result);
            }
            Action::Submit(mut submission) => {
                if let Some(spill) = self.spill.take() {
                    let admission = &*self.service.around.admission;
                    match Box::pin(spill.finish(admission, &submission.content)).await {
                        Ok(content) => submission.content = content,
                        Err(error) => return self.spill_failed(&error),
                    }
                }
                if let Some(filter) = &self.settings.before_queue {
                    let (reply, warnings) = Box::pin(filter.ask(&submission)).await;
                    for warning in warnings {
                        self.service.log(self.settings, Severity::Warning, warning);
                    }
                    return self.session.proxied(&submission, &reply);
                }
                let result = match &mut self.filters {
                    None => self.service.around.admission.submit(*submission).await,
                    Some(filters) => {
                        let mut facts = self.session.facts();
                        // The session has handed these over.
                        facts.sender = Some(&submission.envelope.sender);
                        let macros = SessionMacros {
                            connections: self.connections,
                            ..macros_of(facts, self.settings, filters, None)
                        };
                        let admission = &self.service.around.admission;
                        let copy = (*submission).clone();
                        admission.submit_filtered(copy, Filtering { session: filters, macros: &macros }).await
                    }
                };
                self.session.submitted(result);
            }
            Action::Filter(step) => {
                let verdict = Box::pin(self.filter(step)).await;
                self.session.filtered(verdict);
            }
            Action::Mechanisms => {
                let mechanisms = Box::pin(self.settings.sasl.backend.mechanisms()).await;
                self.session.mechanisms(mechanisms);
            }
            Action::Authenticate(step) => {
                let backend = &self.settings.sasl.backend;
                let exchange = &mut self.exchange;
                let client = self.session.login_client();
                let verdict = {
                    let mut asked = Box::pin(async {
                        match (step, exchange) {
                            (AuthStep::Begin { mechanism, initial }, exchange) => {
                                let (begun, verdict) = backend.begin(&mechanism, &client, initial.as_deref()).await;
                                *exchange = begun;
                                verdict
                            }
                            (AuthStep::Respond(text), Some(exchange)) => exchange.respond(&text).await,
                            // The session only answers challenges.
                            (AuthStep::Respond(_), None) => Verdict::Trouble("SASL: nothing was asked".to_owned()),
                        }
                    });
                    where_it_may_block(backend.is_remote(), asked.as_mut()).await
                };
                self.session.judged(verdict);
            }
            Action::Read | Action::Pause(_) | Action::Close | Action::Handshake => {}
        }
    }

    /// From here on the connection is encrypted. What was read in the clear is forgotten: it is not from the client that
    /// shakes hands, but from whoever is between.
    async fn shake_hands(&mut self) -> Result<(), Broken> {
        self.write().await?;
        self.buffer.clear();
        self.start = 0;
        let server = self.settings.tls.server.as_ref();
        let (Some(server), Some(plain)) = (server, self.stream.take_plain()) else {
            return Err(Broken::Lost);
        };
        let limit = self.session.handshake_timeout();
        // A handshake is large and soon over: it does not belong into every session's memory.
        let done = Box::pin(timeout(limit, server.accept(plain))).await;
        self.session.secured(match done {
            Err(_) => None,
            Ok(Err(failure)) => Some(Err(failure)),
            Ok(Ok((stream, session))) => {
                self.stream = stream;
                Some(Ok(session))
            }
        });
        Ok(())
    }

    /// Asks the mail filters about a step.
    async fn filter(&mut self, step: FilterStep) -> yamabiko_milter::Verdict {
        let Some(milters) = &self.milters else { return yamabiko_milter::Verdict::Continue };
        let left = self.session.filters_left();
        if step == FilterStep::Connect {
            // After XCLIENT it is another client.
            if let Some(filters) = self.filters.take() {
                filters.quit().await;
            }
        }
        let filters = self.filters.get_or_insert_with(|| {
            yamabiko_milter::Session::new(Arc::clone(milters), self.settings.message_size_limit)
        });
        if left {
            filters.abort().await;
        }
        let facts = self.session.facts();
        let refused = match &step {
            FilterStep::Rcpt(_, refused) => refused.as_deref(),
            _ => None,
        };
        let policy = &self.settings.policy;
        let route = match &step {
            FilterStep::Mail(_) => facts.sender.map(|sender| (sender, "")),
            FilterStep::Rcpt(_, None) => facts.recipient.map(|recipient| (recipient, facts.sender.unwrap_or_default())),
            _ => None,
        };
        let route = match route {
            None => None,
            Some((address, other)) => {
                let mut asked = Box::pin(policy.delivery_of(address, other));
                where_it_may_block(policy.is_remote(), asked.as_mut()).await
            }
        };
        let connections = self.connections;
        let macros = SessionMacros { route, connections, ..macros_of(facts, self.settings, filters, refused) };
        let verdict = match &step {
            FilterStep::Connect => {
                let bracketed = format!("[{}]", facts.peer.address_text());
                filters.connect(crate::filter::client(&facts, &bracketed), &macros).await
            }
            FilterStep::Helo(name) => filters.helo(name, &macros).await,
            FilterStep::Mail(words) => filters.mail(words, &macros).await,
            FilterStep::Rcpt(words, refused) => filters.rcpt(words, refused.is_some(), &macros).await,
            FilterStep::Data => filters.data(&macros).await,
            FilterStep::Unknown(line) => filters.unknown(line, &macros).await,
        };
        for warning in filters.take_warnings() {
            self.service.log(self.settings, Severity::Warning, warning);
        }
        let hears = filters.wants_rejected_recipients();
        self.session.filters_hear_refused(hears);
        verdict
    }

    /// Writes the replies and reads what comes next.
    async fn turn(&mut self, stop: Pin<&mut impl Future<Output = ()>>) -> Result<(), Broken> {
        self.write().await?;
        if !self.session.is_authenticating() {
            self.exchange = None;
        }
        self.store().await;
        self.make_room();
        let in_content = self.session.in_content();
        let limit = self.session.timeout();
        // What has begun has one deadline, however many pieces it comes in; content earns more time by coming.
        let per_request = self.session.deadline_per_request();
        let begun = in_content || self.session.in_long_line() || self.start < self.buffer.len();
        let mut deadline = self.deadline.take().filter(|_| per_request && begun);
        let until = || *deadline.get_or_insert_with(|| Instant::now() + limit);
        let read = self.clock.within(until, async {
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.buffer) => Some(read),
                () = stop, if !in_content => None,
            }
        });
        match read.await {
            None => Err(Broken::Timeout),
            Some(None) => Err(Broken::Shutdown),
            Some(Some(Ok(0) | Err(_))) => Err(Broken::Lost),
            Some(Some(Ok(read))) => {
                if per_request {
                    let rate = if in_content { self.settings.min_data_rate as f64 } else { f64::INFINITY };
                    let (earned, whole) = (Duration::from_secs_f64(read as f64 / rate), Instant::now() + limit);
                    self.deadline = Some(deadline.map_or(whole, |deadline| (deadline + earned).min(whole)));
                }
                Ok(())
            }
        }
    }

    /// Room in the buffer for what comes next. What is left in it is a line that is not whole yet: the session uses
    /// everything else, and refuses a line beyond its limit, so the buffer stays near that.
    fn make_room(&mut self) {
        let wanted = if self.session.in_content() { CONTENT_ROOM } else { COMMAND_ROOM };
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
            if self.buffer.capacity() > wanted * 4 {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.capacity() - self.buffer.len() < wanted / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(wanted);
        }
    }

    async fn write(&mut self) -> Result<(), Broken> {
        let limit = self.session.timeout();
        let output = self.session.output();
        if output.is_empty() {
            return Ok(());
        }
        let encrypted = self.stream.is_encrypted();
        let stream = &mut self.stream;
        let written = self.clock.within(|| Instant::now() + limit, async {
            stream.write_all(output).await?;
            if encrypted { stream.flush().await } else { Ok(()) }
        });
        let written = written.await;
        output.clear();
        match written {
            None => Err(Broken::Timeout),
            Some(Err(_)) => Err(Broken::Lost),
            Some(Ok(())) => Ok(()),
        }
    }

    /// Moves content out of memory when there is much of it.
    async fn store(&mut self) {
        if self.session.content_taken() == 0 {
            self.spill = None;
        }
        if self.session.content_len() <= self.service.spill_threshold {
            return;
        }
        let piece = self.session.take_content();
        let (spill, directory) = (self.spill.take(), self.service.spill_directory.clone());
        let append = move || spill.map_or_else(|| Spill::new(&directory), Ok)?.append(&piece);
        match Box::pin(on_disk(&*self.service.around.admission, append)).await {
            Ok(spill) => self.spill = Some(spill),
            Err(error) => self.spill_failed(&error),
        }
    }

    fn spill_failed(&mut self, error: &io::Error) {
        let directory = self.service.spill_directory.display();
        self.service.log(self.settings, Severity::Error, format!("write file in {directory}: {error}"));
        self.session.content_lost();
    }
}

/// Sessions that wait for a table with blocking calls at a time. Each takes a thread of the runtime, which has 512 of them;
/// without any left nothing would go on at all until a server that hangs lets go.
static BLOCKING: Semaphore = Semaphore::const_new(256);

/// A future that may wait for a socket with blocking calls, where that does not hold up other sessions.
async fn where_it_may_block<T>(blocks: bool, future: Pin<&mut impl Future<Output = T>>) -> T {
    if blocks && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        // Never closed.
        let _seat = BLOCKING.acquire().await;
        return tokio::task::block_in_place(|| Handle::current().block_on(future));
    }
    future.await
}

/// What mail filters are told beside a step.
fn macros_of<'f>(
    facts: Facts<'f>,
    settings: &'f Settings,
    filters: &yamabiko_milter::Session,
    refused: Option<&'f str>,
) -> SessionMacros<'f> {
    let (milters, server) = (Arc::clone(filters.shared()), facts.peer.server);
    SessionMacros { facts, milters, myhostname: &settings.myhostname, server, refused, route: None, connections: 0 }
}

/// A large message in a file without a name: gone with the last descriptor.
struct Spill {
    file: File,
    len: u64,
}

static SPILL_NUMBER: AtomicUsize = AtomicUsize::new(0);

impl Spill {
    fn new(directory: &Path) -> io::Result<Self> {
        let number = SPILL_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = directory.join(format!("receive-{}-{number}", std::process::id()));
        // Left from a process that had our number and died between the next two lines.
        let _ = std::fs::remove_file(&name);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&name)?;
        std::fs::remove_file(&name)?;
        Ok(Self { file, len: 0 })
    }

    fn append(mut self, piece: &[u8]) -> io::Result<Self> {
        self.file.write_all(piece)?;
        self.len += piece.len() as u64;
        Ok(self)
    }

    async fn finish(self, admission: &dyn Admission, rest: &Content) -> io::Result<Content> {
        let rest = rest.to_bytes()?.to_vec();
        let spill = on_disk(admission, move || self.append(&rest)).await?;
        Ok(Content::File { file: Arc::new(spill.file), offset: 0, len: spill.len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F, G, Task>(_: impl Fn(A, B, C, D, E, F, G) -> Task) -> usize {
        size_of::<Task>()
    }

    /// More sessions ask a table that hangs than the runtime has threads: others go on.
    #[test]
    fn a_table_that_hangs_leaves_threads_to_others() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (open, gate) = watch::channel(false);
            let ask = |mut gate: watch::Receiver<bool>| async move {
                let mut answer = pin!(async move { _ = gate.wait_for(|open| *open).await });
                where_it_may_block(true, answer.as_mut()).await;
            };
            let waiting: Vec<_> = (0..1000).map(|_| tokio::spawn(ask(gate.clone()))).collect();
            for _ in 0..1000 {
                timeout(Duration::from_secs(60), tokio::spawn(tokio::task::yield_now())).await.unwrap().unwrap();
            }
            open.send(true).unwrap();
            for one in waiting {
                one.await.unwrap();
            }
        });
    }

    /// Ten thousand silent clients have ten thousand of these.
    #[test]
    fn an_open_session_is_small() {
        let size = size_of_future(run::<TcpStream>);
        assert!(size <= 8 << 10, "{size} bytes: some step's future wants a box");
    }
}

//! The delivery agent: one delivery from its next-hop destination to an outcome for every recipient.
//!
//! Follows Postfix's `smtp_connect`: for each destination of the list and then of the fallback relays, find addresses,
//! use kept connections or make new ones, talk. A soft refusal is kept back as long as there is another host to try; what
//! is left at the end gets the last reason. An [`Attempt`] always has an outcome for every recipient.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;
use yamabiko_address::split_domain;
use yamabiko_checks::Checks;
use yamabiko_config::View;
use yamabiko_dns::{Hosts, Native, Resolver, Told};
use yamabiko_envelope::{
    Action, Attempt, DeliveryRequest, DiagnosticType, Event, Events, Kind, Origin, Outcome, QueueId, Result as Fated,
    Reuse, Severity, SmtpStage, Timestamp, TlsWish, Trace,
};
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{LookupError, Maps, TableSet};
use yamabiko_route::{LocalDomains, Mapper, Rewriter};
use yamabiko_status::{Class, EnhancedStatus};
use yamabiko_tls::{ClientLevel, Files};

use crate::command::{Addressee, Job};
use crate::connection::{ConnectError, Connection, FAREWELL, connect_tcp, connect_unix, error_text};
use crate::content::{Source, Text};
use crate::conversation::{Fate, Peer, Report, Session, TlsEnd, Verdict};
use crate::filter::{Filter, Log, Trouble};
use crate::generic::Generic;
use crate::hosts::{Candidate, Lookup, Wanted};
use crate::names;
use crate::nexthop::{Destination, split_list};
use crate::policy::{Logins, Policy, Site, Terms, Tls, Wish};
use crate::pool::{Pool, endpoint};
use crate::quirks::Quirks;
use crate::requiretls::RequireTls;
use crate::secure::Memory;
use crate::settings::{Protocol, Settings};
use crate::talk::talk;
use crate::tlsrpt::Failed;
use crate::transcript::{ClientTrouble, TellTrouble};
use crate::visit::{Heard, Visitor, visitor};

/// Tells the log of records that a filter leaves out.
fn teller(events: &Events, origin: &Origin) -> impl Fn(Told) + Send + Sync + use<> {
    let (events, origin) = (Arc::clone(events), origin.clone());
    move |told| {
        let (severity, text) = match told {
            Told::Ignored(text) => (Severity::Info, text),
            Told::Unknown(text) => (Severity::Warning, text),
        };
        let kind = Kind::Text { severity, queue_id: None, text };
        events.emit(Event { at: Timestamp::now(), origin: origin.clone(), kind });
    }
}

/// Gives evenly distributed numbers.
pub type RandomSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Hands one recipient of a request (by its place there) to a transport with a next hop; the outcomes are that one's.
pub type PassOn = Arc<
    dyn for<'a> Fn(
            &'a DeliveryRequest,
            usize,
            &'a str,
            &'a str,
        ) -> Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>
        + Send
        + Sync,
>;

/// What an agent is made with besides its configuration.
pub struct Around {
    /// DNS.
    pub resolver: Arc<dyn Resolver>,
    /// The hosts file.
    pub hosts: Arc<Hosts>,
    /// The log.
    pub events: Events,
    /// Its name there (`postfix/smtp`, `postfix/relay/smtp`, `postfix/lmtp`).
    pub origin: Origin,
}

/// smtp(8) or lmtp(8) for one transport. Shared by all deliveries of the transport; cheap to call.
pub struct SmtpAgent {
    settings: Settings,
    resolver: Arc<dyn Resolver>,
    native: Native,
    events: Events,
    origin: Origin,
    random: RandomSource,
    generic: Option<Generic>,
    filter: Option<Filter>,
    policy: Policy,
    /// `smtp_connection_cache_destinations`
    cached: Option<StringList>,
    pool: Arc<Pool>,
    memory: Option<Arc<Memory>>,
    /// Who hears of servers that do not understand us.
    troubles: Option<TellTrouble>,
    /// Where REQUIRETLS is insisted upon.
    requiretls: RequireTls,
    /// `smtp_reply_filter`
    replies: Option<Maps>,
    quirks: Quirks,
    /// Other transports.
    pass: Option<PassOn>,
}

/// Recipients are named to a server by domain and then by address, as Postfix's queue manager sorts them.
fn order_of(address: &str) -> (bool, String, String) {
    let domain = split_domain(address).1.map(str::to_ascii_lowercase);
    (domain.is_none(), domain.unwrap_or_default(), address.to_owned())
}

/// Numbers that nobody outside can guess, from the hasher keys of the standard library.
fn system_random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}

impl SmtpAgent {
    /// An agent. `origin` names it in the log (`postfix/smtp`, `postfix/relay/smtp`, `postfix/lmtp`).
    pub fn new(
        settings: Settings,
        resolver: Arc<dyn Resolver>,
        hosts: Arc<Hosts>,
        events: Events,
        origin: Origin,
    ) -> Self {
        let pool = Pool::new(settings.cache.idle_limit, (settings.bind_address, settings.bind_address6));
        let native = Native::new(hosts, Arc::clone(&resolver));
        let random = Arc::new(system_random);
        let (generic, policy, cached) = (None, Policy::default(), None);
        Self {
            settings,
            resolver,
            native,
            events,
            origin,
            random,
            generic,
            filter: None,
            policy,
            cached,
            pool,
            memory: None,
            troubles: None,
            requiretls: RequireTls::default(),
            replies: None,
            quirks: Quirks::default(),
            pass: None,
        }
    }

    /// An agent for a service of master.cf, with everything its view says: settings, tables, and keys from `files`.
    pub fn from_view(view: &View, protocol: Protocol, tables: &TableSet, files: &dyn Files, around: Around) -> Self {
        let Around { resolver, hosts, events, origin } = around;
        let prefix = match protocol {
            Protocol::Smtp => "smtp_",
            Protocol::Lmtp => "lmtp_",
        };
        let maps = |suffix: &str| {
            let name = format!("{prefix}{suffix}");
            let maps = Maps::open(tables, &name, &view.text(&name));
            (!maps.is_empty()).then_some(maps)
        };
        let mut notices = Vec::new();
        let tell = teller(&events, &origin);
        let resolver = names::resolver(view, prefix, tables, resolver, tell, &mut notices);
        let mut agent = Self::new(Settings::from_view(view, protocol), resolver, hosts, events, origin);
        let authenticates = view.bool(&format!("{prefix}sasl_auth_enable"));
        let passwords = if authenticates { maps("sasl_password_maps") } else { None };
        if authenticates && passwords.is_none() && agent.settings.refusal.is_none() {
            let why = format!("{prefix}sasl_auth_enable = yes needs {prefix}sasl_password_maps");
            agent.settings.refusal = Some(format!("mail system configuration error: {why}"));
        }
        agent.policy = Policy {
            tls: Tls::read(view, protocol, tables, files, &mut notices),
            logins: Logins {
                passwords,
                sender_dependent: view.bool(&format!("{prefix}sender_dependent_authentication")),
                delimiter: view.text("recipient_delimiter"),
                separator: view.text(&format!("{prefix}sasl_password_result_delimiter")).chars().next().unwrap_or(':'),
                remember: agent.settings.sasl.remember_refusals,
                ..Logins::default()
            },
        };
        for notice in notices {
            agent.log(Severity::Warning, None, notice);
        }
        agent.requiretls = RequireTls::read(view, prefix, tables);
        agent.replies = maps("reply_filter");
        agent.quirks = Quirks::read(view, protocol, tables);
        if let Some(maps) = maps("generic_maps") {
            let mapper =
                Mapper::new(Rewriter::new(view), LocalDomains::new(view, tables), view.text("recipient_delimiter"));
            let propagate = view.list("propagate_unmatched_extensions").iter().any(|class| class == "generic");
            agent.generic = Generic::new(maps, mapper, propagate);
        }
        let checks = Checks::outgoing(view, tables, prefix);
        agent.filter = (!checks.is_empty()).then_some(Filter { checks });
        let name = format!("{prefix}connection_cache_destinations");
        let destinations = view.text(&name);
        if !destinations.is_empty() {
            agent.cached = Some(StringList::new(tables, &name, &destinations, false));
        }
        agent
    }

    /// With `smtp_connection_cache_destinations`: connections to these are always kept.
    pub fn with_cached_destinations(mut self, destinations: StringList) -> Self {
        self.cached = Some(destinations);
        self
    }

    /// With another source of randomness (tests: one that is not random).
    pub fn with_random(mut self, random: RandomSource) -> Self {
        self.random = random;
        self
    }

    /// With `smtp_generic_maps`.
    pub fn with_generic(mut self, generic: Generic) -> Self {
        self.generic = Some(generic);
        self
    }

    /// With tables that demand TLS or authentication for some destinations.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The same, with what is known of secure transport beyond this configuration. Without, there is neither MTA-STS nor
    /// counting for reports.
    #[must_use]
    pub fn with_memory(mut self, memory: Arc<Memory>) -> Self {
        memory.pools.join(&self.pool);
        self.memory = Some(Arc::clone(&memory));
        self.policy.remember_in(memory);
        self
    }

    /// The same, with somebody who hears of servers that do not understand us (`notify_classes = protocol`).
    #[must_use]
    pub fn with_troubles(mut self, troubles: TellTrouble) -> Self {
        self.troubles = Some(troubles);
        self
    }

    /// The same, with a way to other transports (`best_mx_transport`).
    #[must_use]
    pub fn with_other_transports(mut self, pass: PassOn) -> Self {
        self.pass = Some(pass);
        self
    }

    /// Delivers a message to the recipients of the request.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        let mut left: Vec<usize> = (0..request.recipients.len()).collect();
        left.sort_by_cached_key(|at| request.recipients.get(*at).map(|to| order_of(&to.address)));
        let mut delivery = Delivery {
            agent: self,
            request,
            outcomes: Vec::with_capacity(request.recipients.len()),
            left,
            why: None,
            tls_status: None,
            complete: false,
            destination_failure: None,
            final_server: false,
            keep: false,
            take: false,
            bind_destination: false,
            tried: Vec::new(),
            wish: Wish::Policy,
            visitor: visitor(),
            session_messages: 0,
            receiver: None,
            postponed: false,
        };
        delivery.run().await;
        Attempt { outcomes: delivery.outcomes, destination_failure: delivery.destination_failure }
    }

    /// Ends idle sessions with a receiving site, whichever transport from our address they belong to.
    async fn end_idle(&self, receiver: &str) {
        let alone = || vec![Arc::clone(&self.pool)];
        for pool in self.memory.as_ref().map_or_else(alone, |memory| memory.pools.beside(&self.pool)) {
            pool.end_all(receiver);
            pool.none_leaves(receiver).await;
        }
    }

    fn log(&self, severity: Severity, queue_id: Option<QueueId>, text: String) {
        let kind = Kind::Text { severity, queue_id, text };
        self.events.emit(Event { at: Timestamp::now(), origin: self.origin.clone(), kind });
    }
}

/// Why the recipients that are left have not been delivered.
#[derive(Clone, Debug)]
struct Why {
    verdict: Verdict,
    /// Host of the server that said so.
    host: Option<String>,
}

/// A message with its addresses as they are sent.
struct Prepared<'a> {
    job: Job<'a>,
    text: Text<'a>,
}

struct Delivery<'a> {
    agent: &'a SmtpAgent,
    request: &'a DeliveryRequest,
    outcomes: Vec<Outcome>,
    /// Recipients of the request that are not settled.
    left: Vec<usize>,
    why: Option<Why>,
    /// What the log says of TLS for those who get no further.
    tls_status: Option<Arc<str>>,
    /// Some server of the destination could be talked to.
    complete: bool,
    destination_failure: Option<(EnhancedStatus, String)>,
    /// No other server will be tried after this one.
    final_server: bool,
    /// Connections are kept for later, and taken from those that were.
    keep: bool,
    take: bool,
    /// The first good connection is remembered for the destination.
    bind_destination: bool,
    /// Endpoints whose kept connections were used in this delivery.
    tried: Vec<String>,
    /// What the message wants of TLS.
    wish: Wish,
    /// Who is asked before a connection is made.
    visitor: Option<Arc<dyn Visitor>>,
    /// Messages that one session may have; 0 is any number.
    session_messages: u32,
    /// The receiving site's name.
    receiver: Option<Arc<str>>,
    /// There is no room at the receiving site: nothing was done.
    postponed: bool,
}

impl<'a> Delivery<'a> {
    async fn run(&mut self) {
        let settings = &self.agent.settings;
        let nexthop: &str = &self.request.nexthop;
        if let Some(refusal) = &settings.refusal {
            self.own_trouble(EnhancedStatus::transient(7, 5), refusal.clone());
        } else {
            match self.prepare().await {
                Err((status, reason)) => self.own_trouble(status, reason),
                Ok(mut prepared) => match (settings.protocol, nexthop.strip_prefix("unix:")) {
                    (Protocol::Lmtp, Some(path)) => self.unix(path, &mut prepared).await,
                    (Protocol::Lmtp, None) => {
                        self.inet(nexthop.strip_prefix("inet:").unwrap_or(nexthop), &mut prepared).await;
                    }
                    (Protocol::Smtp, _) => self.inet(nexthop, &mut prepared).await,
                },
            }
        }
        self.settle_rest();
    }

    /// A reason of ours for everyone who is left.
    fn own_trouble(&mut self, status: EnhancedStatus, reason: String) {
        let (stage, at) = (SmtpStage::Lookup, Timestamp::now());
        self.blame(Verdict { status, reason, reply: None, code: None, remote: false, stage, at });
    }

    fn blame(&mut self, verdict: Verdict) {
        self.why = Some(Why { verdict, host: None });
    }

    /// Envelope and headers as they are sent.
    async fn prepare(&self) -> Result<Prepared<'a>, (EnhancedStatus, String)> {
        let request = self.request;
        let envelope = &*request.envelope;
        let trouble = |error: LookupError| {
            (EnhancedStatus::transient(3, 0), format!("generic mapping: table lookup problem: {error}"))
        };
        let generic = self.agent.generic.as_ref();
        let map = async |address: &str| match generic {
            Some(generic) => generic.address(address).await.map_err(trouble),
            None => Ok(address.to_owned()),
        };
        let sender = map(&request.sender).await?;
        let mut recipients = Vec::with_capacity(request.recipients.len());
        for recipient in self.left.iter().filter_map(|at| request.recipients.get(*at)) {
            let full = envelope.recipients.get(recipient.index as usize);
            let original =
                full.map_or("", |full| if full.original.is_empty() { &full.address } else { &full.original });
            recipients.push(Addressee {
                address: map(&recipient.address).await?,
                original,
                orcpt: full.map_or("", |full| &full.orcpt),
                notify: full.map(|full| full.notify).unwrap_or_default(),
            });
        }
        let unreadable =
            |_: std::io::Error| (EnhancedStatus::transient(3, 0), "unreadable mail queue entry".to_owned());
        let mut source = Source::Stored(&request.content);
        if let Some(filter) = &self.agent.filter {
            let log = Log { events: &self.agent.events, origin: &self.agent.origin, queue_id: envelope.queue_id };
            match filter.apply(&request.content, &log).await {
                Ok(None) => {}
                Ok(Some(parts)) => source = Source::Parts(parts),
                Err(Trouble::Content(error)) => return Err(unreadable(error)),
                Err(Trouble::Table(error)) => {
                    let status = EnhancedStatus::transient(3, 0);
                    return Err((status, format!("content checks: table lookup problem: {error}")));
                }
            }
        }
        let mut text = Text::plain(source);
        let mut ascii_header = true;
        if generic.is_some() || envelope.smtputf8 {
            let start = text.beginning().map_err(unreadable)?;
            let fields = yamabiko_message::Fields::of(&start);
            ascii_header = fields.bytes().is_ascii();
            if let Some(generic) = generic
                && let Some(head) = generic.header(fields.bytes()).await.map_err(trouble)?
            {
                text = text.with_head(head, fields.bytes().len() as u64);
            }
        }
        let ascii = ascii_header && sender.is_ascii() && recipients.iter().all(|one| one.address.is_ascii());
        let job = Job {
            queue_id: envelope.queue_id,
            nexthop: &request.nexthop,
            sender,
            recipients,
            size: text.wire_size(),
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            needs_smtputf8: envelope.smtputf8 && !ascii,
            envid: &envelope.envid,
            ret: envelope.ret,
            client: &envelope.client,
            context: envelope.context,
            delayed: request.activated.0.saturating_sub(envelope.arrival.0)
                >= u64::try_from(self.agent.settings.minimal_backoff.as_micros()).unwrap_or(u64::MAX),
            waits_for_pix: request.activated.since(envelope.arrival) >= self.agent.settings.pix.threshold,
            probe: matches!(envelope.trace, Trace::Probe | Trace::ProbeReport),
        };
        Ok(Prepared { job, text })
    }

    /// Whether connections are kept and taken for this destination.
    async fn cache_policy(&mut self, name: &str) {
        let cache = &self.agent.settings.cache;
        let listed = match &self.agent.cached {
            Some(list) => match list.contains(name).await {
                Ok(listed) => listed,
                Err(error) => {
                    // A connection less is no reason not to deliver.
                    self.agent.log(Severity::Warning, None, error.to_string());
                    false
                }
            },
            None => false,
        };
        let Reuse { load, store } = match (listed, cache.on_demand) {
            _ if cache.idle_limit.is_zero() => Reuse::default(),
            (true, _) => Reuse { load: true, store: true },
            (false, true) => self.request.reuse,
            (false, false) => Reuse::default(),
        };
        self.keep = store;
        // Where sessions are counted, one that is open is used before another is made.
        self.take = load || self.visitor.is_some();
        self.bind_destination = store;
    }

    /// LMTP over a UNIX-domain socket.
    async fn unix(&mut self, path: &str, prepared: &mut Prepared<'a>) {
        let settings = &self.agent.settings;
        let peer = Peer { host: settings.myhostname.clone(), address: path.to_owned(), port: 0 };
        self.cache_policy(path).await;
        self.final_server = true;
        let name = endpoint(&peer);
        let text = format!("unix:{path}");
        let (host, service) = (settings.myhostname.clone(), String::new());
        let destination = Destination { text, host, port: 0, service, bracketed: true };
        let Some(site) = self.policy_of(&destination).await else { return };
        let Some(mut terms) = self.terms(&site, &peer).await else { return };
        if self.take
            && let Some(connection) = self.agent.pool.take(&name, &terms)
            && !matches!(self.converse(connection, prepared).await, Used::Stale)
        {
            return;
        }
        let full = settings.queue_directory.join(path);
        // The limit of sockaddr_un.
        if full.as_os_str().len() > 107 {
            self.agent.log(Severity::Warning, None, format!("unix-domain name too long: {path}"));
            return self.own_trouble(EnhancedStatus::transient(3, 0), "Server configuration error".to_owned());
        }
        let named = peer.named();
        loop {
            let session = Session::new(peer.clone(), false, false).under(Arc::clone(&terms));
            match connect_unix(&full, settings, session).await {
                Ok(connection) => {
                    if matches!(self.converse(connection, prepared).await, Used::RetryPlain) {
                        terms = Arc::new(terms.in_the_clear());
                        continue;
                    }
                }
                Err(error) => self.connect_failed(format!("connect to {named}: {}", error_text(&error))),
            }
            return;
        }
    }

    /// What holds for a destination. `None`: a reason is noted for those who are left.
    async fn policy_of(&mut self, destination: &Destination) -> Option<Site> {
        let mut notes = Vec::new();
        let settings = &self.agent.settings;
        self.wish = match self.request.envelope.tls {
            TlsWish::NotRequired if settings.tls_required => Wish::NotRequired,
            TlsWish::Required if settings.requiretls => {
                let found = self.agent.requiretls.strict(&destination.host).await;
                let found = found.map_err(|error| (EnhancedStatus::transient(3, 0), error.to_string()));
                Wish::Required { strict: self.accept(found, Vec::new())? }
            }
            _ => Wish::Policy,
        };
        let found = self.agent.policy.site(destination, &*self.agent.resolver, &mut notes).await;
        self.accept(found, notes)
    }

    /// What holds for a server. `None`: a reason is noted for those who are left.
    async fn terms(&mut self, site: &Site, peer: &Peer) -> Option<Arc<Terms>> {
        let mut notes = Vec::new();
        let whose = (&*self.request.sender, self.wish);
        let found = self.agent.policy.terms(site, peer, whose, &*self.agent.resolver, &mut notes).await;
        let terms = self.accept(found, notes);
        if self.agent.settings.log_tls_status {
            self.tls_status = terms.as_ref().map(|terms| format!("{}?", terms.wanted.word()).into());
        }
        terms
    }

    fn accept<T>(&mut self, found: Result<T, (EnhancedStatus, String)>, notes: Vec<String>) -> Option<T> {
        for note in notes {
            match note.strip_prefix("info: ") {
                Some(note) => self.agent.log(Severity::Info, None, note.to_owned()),
                None => self.agent.log(Severity::Warning, None, note),
            }
        }
        match found {
            Ok(found) => Some(found),
            Err((status, reason)) => {
                self.own_trouble(status, reason);
                None
            }
        }
    }

    fn connect_failed(&mut self, reason: String) {
        self.agent.log(Severity::Info, None, reason.clone());
        let (status, stage, at) = (EnhancedStatus::transient(4, 1), SmtpStage::Connect, Timestamp::now());
        if let Some(visitor) = &self.visitor {
            visitor.heard(Heard { host: String::new(), stage, code: None, text: reason.clone(), uses: 0 });
        }
        self.blame(Verdict { status, reason, reply: None, code: None, remote: false, stage, at });
    }

    /// Asks whether these hosts may be connected to. False: everything waits for another time.
    async fn enter(&mut self, addresses: &[Candidate], first: bool) -> bool {
        let Some(visitor) = &self.visitor else { return true };
        let mut hosts: Vec<String> = addresses.iter().map(|one| one.host.clone()).collect();
        hosts.dedup();
        let pass = visitor.enter(hosts).await;
        self.session_messages = pass.session_messages;
        self.receiver = Some(pass.site);
        // What waits for another time waits as a whole. A relay to fall back on is the administrator's own.
        self.postponed = !pass.go && first;
        !self.postponed
    }

    /// The destinations of the list, then the fallback relays.
    async fn inet(&mut self, nexthop: &str, prepared: &mut Prepared<'a>) {
        let settings = &self.agent.settings;
        if !settings.ipv4 && !settings.ipv6 {
            let reason = "all network protocols are disabled".to_owned();
            return self.own_trouble(EnhancedStatus::transient(4, 4), reason);
        }
        let mut sites: Vec<&str> = split_list(nexthop).collect();
        let own_sites = sites.len();
        sites.extend(settings.fallback_relay.iter().map(String::as_str));
        if own_sites == 0 {
            let reason = format!("null destination: \"{nexthop}\"");
            return self.own_trouble(EnhancedStatus::transient(3, 5), reason);
        }
        let mut at_fallback = false;
        for (at, site) in sites.iter().enumerate() {
            if self.left.is_empty() {
                return;
            }
            at_fallback = at >= own_sites;
            let last = at + 1 == sites.len();
            if self.site(site, at == 0, last, prepared).await {
                break;
            }
        }
        if !self.left.is_empty() && !self.pass_on(at_fallback).await {
            self.soften(at_fallback);
        }
    }

    /// One destination. True when no other may be tried.
    async fn site(&mut self, site: &str, first: bool, last: bool, prepared: &mut Prepared<'a>) -> bool {
        let agent = self.agent;
        let settings = &agent.settings;
        let smtp = settings.protocol == Protocol::Smtp;
        let site = if smtp { site } else { site.strip_prefix("inet:").unwrap_or(site) };
        let destination = match Destination::parse(site, &settings.tcp_port, &settings.known_ports) {
            Ok(destination) => destination,
            Err(error) => {
                agent.log(Severity::Warning, None, format!("bad next-hop destination: {error}"));
                self.own_trouble(EnhancedStatus::transient(3, 5), format!("mail system configuration error: {error}"));
                return last;
            }
        };
        let detect_loops = smtp && destination.port == 25;
        let by_srv = smtp
            && !settings.dns_disabled
            && !destination.bracketed
            && settings.srv_services.iter().any(|name| name.eq_ignore_ascii_case(&destination.service));
        let wanted = Wanted {
            name: &destination.host,
            mail_exchangers: smtp && !settings.dns_disabled && !destination.bracketed,
            service: by_srv.then_some(destination.service.as_str()),
            detect_loops,
        };
        let lookup = Lookup { resolver: &*agent.resolver, native: &agent.native, settings };
        let mut random = || (agent.random)();
        self.why = None;
        let (mut addresses, last) = match lookup.find(wanted, &mut random).await {
            // A mail exchanger of the destination does not send its mail to hosts that are none.
            Ok(found) => (found.candidates, last || found.ours),
            Err(trouble) => {
                for warning in &trouble.warnings {
                    agent.log(Severity::Warning, None, warning.clone());
                }
                if let Some(why) = agent.resolver.trouble() {
                    agent.log(Severity::Warning, None, format!("name service: {why}"));
                }
                let loops = trouble.ours || trouble.is_loop();
                if let Some((status, reason)) = trouble.why {
                    self.own_trouble(status, reason);
                }
                return last || loops;
            }
        };
        if !self.enter(&addresses, first).await {
            return true;
        }
        if first {
            self.cache_policy(&destination.host).await;
        }
        let Some(policy) = self.policy_of(&destination).await else { return last };
        let target = Target {
            destination: &destination,
            policy: &policy,
            best: addresses.first().map_or(0, |one| one.preference),
            first,
            last,
        };
        let mut sessions = 0;
        if self.take {
            sessions = self.reuse(&target, &mut addresses, prepared).await;
        }
        self.connect_all(&target, sessions, addresses, prepared).await;
        last
    }

    /// Uses kept connections: that of the destination, then those to its best mail exchangers. Returns how many were
    /// used; what was used is taken off the list.
    async fn reuse(
        &mut self,
        target: &Target<'_>,
        addresses: &mut Vec<Candidate>,
        prepared: &mut Prepared<'a>,
    ) -> usize {
        let Target { destination, best, last, .. } = *target;
        let agent = self.agent;
        let limit = agent.settings.mx_session_limit;
        let tried = &self.tried;
        addresses.retain(|one| !tried.contains(&endpoint_of(one, destination.port)));
        let mut used = 0;
        let mut bound = target.first.then(|| agent.pool.last_for(&destination.text)).flatten();
        loop {
            if self.left.is_empty() || (limit > 0 && used >= limit) {
                break;
            }
            let hosts = addresses.iter().take_while(|one| one.preference == best);
            let peers: Vec<Peer> =
                bound.take().into_iter().chain(hosts.map(|one| peer_of(one, destination.port))).collect();
            let mut kept = None;
            for peer in peers {
                let name = endpoint(&peer);
                if kept.is_none()
                    && agent.pool.has(&name)
                    && let Some(terms) = self.terms(target.policy, &peer).await
                {
                    kept = agent.pool.take(&name, &terms);
                }
            }
            let Some(connection) = kept else { break };
            let name = endpoint(&connection.session.peer);
            let rest = addresses.iter().filter(|one| endpoint_of(one, destination.port) != name).count();
            self.final_server = last && (rest == 0 || (limit > 0 && used + 1 >= limit));
            match self.converse(connection, prepared).await {
                // Then a new connection is made to it, in the clear if that is how it has to be.
                Used::Stale | Used::RetryPlain => continue,
                Used::Yes => used += 1,
            }
            addresses.retain(|one| endpoint_of(one, destination.port) != name);
            self.tried.push(name);
        }
        if limit > 0 && used >= limit {
            addresses.clear();
        }
        used
    }

    /// Connects to one address after another until everyone is settled.
    async fn connect_all(
        &mut self,
        target: &Target<'_>,
        mut sessions: usize,
        mut addresses: Vec<Candidate>,
        prepared: &mut Prepared<'a>,
    ) {
        let Target { destination, best, last, .. } = *target;
        let agent = self.agent;
        let settings = &agent.settings;
        if settings.mx_address_limit > 0 {
            addresses.truncate(settings.mx_address_limit.saturating_sub(sessions));
        }
        let count = addresses.len();
        for (at, candidate) in addresses.into_iter().enumerate() {
            if self.left.is_empty() {
                return;
            }
            let peer = peer_of(&candidate, destination.port);
            let Some(terms) = self.terms(target.policy, &peer).await else { continue };
            let limited = settings.mx_session_limit > 0 && sessions + 1 >= settings.mx_session_limit;
            let final_server = last && (at + 1 == count || limited);
            // The best ones were looked for among the kept connections already.
            let kept = self.take && candidate.preference != best;
            if kept && let Some(connection) = agent.pool.take(&endpoint(&peer), &terms) {
                self.final_server = final_server;
                if matches!(self.converse(connection, prepared).await, Used::Yes) {
                    sessions += 1;
                    if limited {
                        return;
                    }
                    continue;
                }
            }
            let detect_loops = settings.protocol == Protocol::Smtp && destination.port == 25;
            let session = Session::new(peer, candidate.preference == best, detect_loops);
            let mut session = session.under(Arc::clone(&terms));
            if let Some(receiver) = &self.receiver {
                agent.end_idle(receiver).await;
            }
            let port = candidate.port.unwrap_or(destination.port);
            let to = SocketAddr::new(candidate.address, port);
            if destination.port == 465 && !settings.wrappermode && settings.protocol == Protocol::Smtp {
                let (mode, level) = ("smtp_tls_wrappermode", "smtp_tls_security_level");
                let text = format!(
                    "SMTPS wrappermode (TCP port 465) requires setting \"{mode} = yes\", and \"{level} = encrypt\" (or stronger)"
                );
                agent.log(Severity::Info, None, text);
            }
            loop {
                let warn = |text: String| agent.log(Severity::Warning, None, text);
                match connect_tcp(to, settings, session.clone(), warn).await {
                    Ok(connection) => {
                        self.final_server = final_server;
                        if matches!(self.converse(connection, prepared).await, Used::RetryPlain) {
                            session = session.under(Arc::new(terms.in_the_clear()));
                            continue;
                        }
                        sessions += 1;
                        if limited {
                            return;
                        }
                    }
                    Err(ConnectError::System(error)) => {
                        let Peer { host, address, port } = &session.peer;
                        self.connect_failed(format!("connect to {host}[{address}]:{port}: {}", error_text(&error)));
                    }
                    Err(ConnectError::Source) => {
                        self.own_trouble(EnhancedStatus::transient(4, 0), "server configuration error".to_owned());
                    }
                }
                break;
            }
        }
    }

    /// Carries the recipients that are left over a connection.
    async fn converse(&mut self, mut connection: Connection, prepared: &mut Prepared<'a>) -> Used {
        let agent = self.agent;
        let settings = &agent.settings;
        let cache = &settings.cache;
        let queue_id = self.request.envelope.queue_id;
        if !connection.session.greeted {
            match agent.quirks.of(&connection.session.peer.address, settings).await {
                Ok(quirk) => connection.session.quirk = quirk,
                Err(why) => {
                    agent.log(Severity::Warning, None, format!("{queue_id}: {why}"));
                    let named = connection.session.peer.named();
                    let reason = format!("local data error while talking to {named}");
                    self.own_trouble(EnhancedStatus::transient(3, 0), reason);
                    return Used::Yes;
                }
            }
        }
        let fresh = connection.opened + cache.time_limit > Instant::now()
            && (cache.count_limit == 0 || connection.session.uses < cache.count_limit)
            && (self.session_messages == 0 || connection.session.uses + 1 < self.session_messages);
        let report = {
            let keep = self.keep && fresh;
            let filter = agent.replies.as_ref();
            talk(settings, filter, &mut connection, &prepared.job, &prepared.text, keep).await
        };
        for note in &report.notes {
            agent.log(Severity::Info, None, note.clone());
        }
        for note in &report.message_notes {
            agent.log(Severity::Info, Some(queue_id), note.clone());
        }
        for warning in &report.warnings {
            agent.log(Severity::Warning, None, warning.clone());
        }
        if report.stale {
            return Used::Stale;
        }
        if let (Some((transcript, reply)), Some(tell)) = (&report.trouble, &agent.troubles) {
            tell(ClientTrouble {
                protocol: if settings.protocol == Protocol::Smtp { "SMTP" } else { "LMTP" },
                peer: connection.session.peer.relay(),
                transcript: transcript.clone(),
                reply: reply.clone(),
                destination: self.request.nexthop.to_string(),
                sender: self.request.sender.to_string(),
            });
        }
        let terms = &connection.session.terms;
        if let Some(end) = &report.tls {
            agent.policy.count(terms, failed_tls(end, &connection.session));
        }
        if let (Some(refused), Some(login)) = (&report.login_refused, &terms.login) {
            agent.policy.logins.remember(&connection.session.peer.host, login, refused.clone());
        }
        if report.retry_plain {
            self.final_server = false;
        }
        self.apply(&report, &connection.session, prepared, queue_id);
        if let (false, Some(visitor)) = (report.keep, &self.visitor) {
            let ended = connection.socket.ended(FAREWELL).await;
            visitor.session_ended();
            if let (false, Some(receiver)) = (ended, &self.receiver) {
                agent.pool.linger(connection, receiver);
            }
        } else if report.keep {
            let throttled = report.bulk.as_ref().is_some_and(|bulk| bulk.throttle);
            let bind = self.bind_destination && !throttled;
            let first = split_list(&self.request.nexthop).next().filter(|_| bind);
            let first = first.map(|first| first.strip_prefix("inet:").unwrap_or(first));
            agent.pool.put(connection, first, self.receiver.as_ref());
            self.bind_destination = self.bind_destination && throttled;
        }
        if report.retry_plain { Used::RetryPlain } else { Used::Yes }
    }

    /// Makes outcomes of a report; keeps back those for whom another server may be tried.
    fn apply(&mut self, report: &Report, session: &Session, prepared: &mut Prepared<'a>, queue_id: QueueId) {
        let agent = self.agent;
        let relay = session.peer.relay();
        let host = &session.peer.host;
        let encrypted: Option<Arc<str>> = session.tls.as_ref().map(|secured| {
            let yamabiko_tls::Session { protocol, cipher, .. } = &secured.session;
            format!("{protocol} with cipher {} ({} bits)", cipher.name, cipher.bits).into()
        });
        let [good, blocked] = match agent.settings.log_tls_status {
            true => [Some(tls_status(session).into()), Some(format!("!{}", session.terms.wanted.word()).into())],
            false => [None::<Arc<str>>, None],
        };
        self.tls_status.clone_from(&good);
        let mut kept = Vec::new();
        let mut keep_recipients = Vec::new();
        let left = std::mem::take(&mut self.left);
        let addressees = std::mem::take(&mut prepared.job.recipients);
        let soft = |verdict: &Verdict| {
            verdict.status.class == Class::Transient
                || is_about_tls(verdict)
                || (verdict.status.class == Class::Permanent && agent.settings.soft_bounce)
        };
        let mut refused = None;
        let mut bulk_noted = false;
        let mut failed_in_bulk = false;
        for ((fate, recipient), addressee) in report.fates.iter().zip(left).zip(addressees) {
            let unexplained;
            let verdict = match (fate, &report.bulk) {
                (Fate::Sent { reply, code, status, at }, _) => {
                    let mut outcome = self.outcome(recipient, self.sent_result(session), *status, reply.clone(), *at);
                    outcome.diagnostic = Some((DiagnosticType::Smtp, reply.clone()));
                    outcome.remote_mta = Some(host.clone());
                    outcome.relay = relay.clone();
                    outcome.stage = Some(if prepared.job.probe { SmtpStage::Rcpt } else { SmtpStage::EndOfData });
                    outcome.reply = Some(*code);
                    outcome.connection_use = session.uses;
                    outcome.tls.clone_from(&encrypted);
                    outcome.tls_status.clone_from(&good);
                    outcome.connected = report.began;
                    self.outcomes.push(outcome);
                    continue;
                }
                (Fate::Refused(verdict), _) => {
                    refused = Some(verdict);
                    if soft(verdict) && !self.final_server {
                        agent.log(Severity::Info, Some(queue_id), verdict.reason.clone());
                    }
                    verdict
                }
                (Fate::Open | Fate::Accepted, Some(bulk)) => {
                    if soft(&bulk.verdict) && !self.final_server && !bulk_noted {
                        bulk_noted = true;
                        agent.log(Severity::Info, Some(queue_id), bulk.verdict.reason.clone());
                    }
                    failed_in_bulk = true;
                    &bulk.verdict
                }
                (Fate::Open | Fate::Accepted, None) => {
                    unexplained = unavailable();
                    &unexplained
                }
            };
            if soft(verdict) && !self.final_server {
                kept.push(recipient);
                keep_recipients.push(addressee);
                continue;
            }
            let mut outcome = self.failure(recipient, verdict, Some(host), &relay, session.uses, report.began);
            outcome.tls.clone_from(&encrypted);
            outcome.tls_status.clone_from(if is_blocked(verdict, session) { &blocked } else { &good });
            self.outcomes.push(outcome);
        }
        self.complete |= report.complete;
        self.tell_visitor(report, session);
        let last = report.bulk.as_ref().map(|bulk| &bulk.verdict).or(refused);
        if let Some(verdict) = last {
            self.why = Some(Why { verdict: verdict.clone(), host: Some(host.clone()) });
        }
        if let Some(bulk) =
            report.bulk.as_ref().filter(|bulk| bulk.throttle && failed_in_bulk && !is_about_tls(&bulk.verdict))
        {
            let verdict = &bulk.verdict;
            self.throttle(soft(verdict) && self.final_server, verdict.status, &verdict.reason);
        }
        self.left = kept;
        prepared.job.recipients = keep_recipients;
    }

    /// What the server has refused, for whoever looks after its site.
    fn tell_visitor(&self, report: &Report, session: &Session) {
        let Some(visitor) = &self.visitor else { return };
        let refusals = report.fates.iter().filter_map(|fate| match fate {
            Fate::Refused(verdict) => Some(verdict),
            _ => None,
        });
        // A few are as good as all: a message may have thousands of recipients.
        for verdict in report.bulk.iter().map(|bulk| &bulk.verdict).chain(refusals).take(8) {
            visitor.heard(Heard {
                host: session.peer.host.clone(),
                stage: verdict.stage,
                code: verdict.code,
                text: verdict.reply.clone().unwrap_or_else(|| verdict.reason.clone()),
                uses: session.uses,
            });
        }
    }

    fn throttle(&mut self, deferred: bool, status: EnhancedStatus, reason: &str) {
        if deferred && !self.complete && self.destination_failure.is_none() {
            self.destination_failure = Some((status, reason.to_owned()));
        }
    }

    fn sent_result(&self, session: &Session) -> Fated {
        let settings = &self.agent.settings;
        Fated::Sent(if session.capabilities.dsn {
            Action::HandedOn
        } else if settings.assume_final {
            Action::Delivered
        } else {
            Action::Relayed
        })
    }

    fn outcome(
        &self,
        recipient: usize,
        result: Fated,
        status: EnhancedStatus,
        reason: String,
        ended: Timestamp,
    ) -> Outcome {
        let recipient = self.request.recipients.get(recipient).map_or(0, |one| one.index);
        Outcome { connection_use: 0, ..Outcome::of_our_own(recipient, result, status, reason, ended) }
    }

    fn failure(
        &self,
        recipient: usize,
        verdict: &Verdict,
        host: Option<&String>,
        relay: &str,
        uses: u32,
        began: Option<Timestamp>,
    ) -> Outcome {
        let result = if verdict.status.class == Class::Transient { Fated::Deferred } else { Fated::Failed };
        let mut outcome = self.outcome(recipient, result, verdict.status, verdict.reason.clone(), verdict.at);
        outcome.diagnostic = verdict.reply.clone().map(|reply| (DiagnosticType::Smtp, reply));
        outcome.remote_mta = host.filter(|_| verdict.remote).cloned();
        outcome.relay = relay.to_owned();
        outcome.stage = Some(verdict.stage);
        outcome.reply = verdict.code;
        outcome.connection_use = uses;
        outcome.connected = began.or(Some(verdict.at));
        outcome
    }

    /// `relayhost` is where this goes.
    fn goes_to_relayhost(&self) -> bool {
        let settings = &self.agent.settings;
        settings.protocol == Protocol::Smtp
            && !settings.relayhost.is_empty()
            && *self.request.nexthop == settings.relayhost
    }

    /// Mail for a domain whose best mail exchanger we are goes to `best_mx_transport`, where that is set. False: it was
    /// none.
    async fn pass_on(&mut self, at_fallback: bool) -> bool {
        let transport = &self.agent.settings.best_mx_transport;
        let loops = self.why.as_ref().is_some_and(|why| why.verdict.is_loop());
        let Some(pass) = self.agent.pass.as_ref().filter(|_| loops && !transport.is_empty()) else { return false };
        if at_fallback || self.goes_to_relayhost() {
            return false;
        }
        let (transport, nexthop) = transport.split_once(':').unwrap_or((transport, ""));
        let nexthop = if nexthop.is_empty() { &self.request.nexthop } else { nexthop };
        for recipient in std::mem::take(&mut self.left) {
            self.outcomes.extend(pass(self.request, recipient, transport, nexthop).await);
        }
        true
    }

    /// What could be a mistake in the configuration does not bounce mail.
    fn soften(&mut self, at_fallback: bool) {
        let settings = &self.agent.settings;
        let agent = self.agent;
        let is_relayhost = self.goes_to_relayhost();
        let Some(why) = &mut self.why else { return };
        let status = &mut why.verdict.status;
        if status.class != Class::Permanent {
            return;
        }
        let warning = if at_fallback {
            let prefix = if settings.protocol == Protocol::Smtp { "smtp" } else { "lmtp" };
            format!("{prefix}_fallback_relay configuration problem")
        } else if is_relayhost {
            "relayhost configuration problem".to_owned()
        } else {
            return;
        };
        *status = EnhancedStatus::transient(3, 5);
        agent.log(Severity::Warning, None, warning);
    }

    /// Everyone who is left gets the last reason.
    fn settle_rest(&mut self) {
        let left = std::mem::take(&mut self.left);
        if left.is_empty() || self.postponed {
            return;
        }
        let mut why = self.why.take().unwrap_or_else(|| Why { verdict: unavailable(), host: None });
        why.verdict.at = Timestamp::now();
        let soft = why.verdict.status.class == Class::Transient || self.agent.settings.soft_bounce;
        for recipient in left {
            let mut outcome = self.failure(recipient, &why.verdict, why.host.as_ref(), "none", 0, None);
            outcome.tls_status.clone_from(&self.tls_status);
            self.outcomes.push(outcome);
        }
        self.throttle(soft, why.verdict.status, &why.verdict.reason);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Yes,
    /// The connection was dead: nothing has happened.
    Stale,
    /// TLS did not work and need not: the same server may be tried without.
    RetryPlain,
}

/// Where a delivery has got to: one destination of the list.
#[derive(Clone, Copy)]
struct Target<'a> {
    destination: &'a Destination,
    /// What holds for it.
    policy: &'a Site,
    /// The best preference of its mail exchangers.
    best: u16,
    /// It is the first one.
    first: bool,
    /// No other one will be tried.
    last: bool,
}

/// REQUIRETLS cannot be had of this server; of another one perhaps. RFC 8689 section 4.2.1
fn is_about_tls(verdict: &Verdict) -> bool {
    let status = verdict.status;
    !verdict.remote && verdict.reply.is_none() && status.subject == 7 && matches!(status.detail, 10 | 30)
}

/// `tls=` of a delivery line, as Postfix 3.11 has it: the level that was wanted, and what there was where that is less. With a
/// question mark where it had not come to that yet.
fn tls_status(session: &Session) -> String {
    let wanted = session.terms.wanted;
    let there = match &session.tls {
        Some(secured) if secured.proved => session.terms.level.max(ClientLevel::Encrypt),
        Some(_) => ClientLevel::Encrypt,
        None if session.greeted || wanted == ClientLevel::None => ClientLevel::None,
        None => return format!("{}?", wanted.word()),
    };
    if there < wanted { format!("{}:{}", wanted.word(), there.word()) } else { wanted.word().to_owned() }
}

/// For want of TLS nothing went out.
fn is_blocked(verdict: &Verdict, session: &Session) -> bool {
    let status = verdict.status;
    let of_ours = !verdict.remote && status.subject == 7 && matches!(status.detail, 4 | 5 | 10 | 30);
    let must = session.terms.level.is_mandatory() || session.terms.require == Some(true);
    must && (of_ours || verdict.stage == SmtpStage::StartTls)
}

/// What failed, for reports; `None` when nothing did.
fn failed_tls(end: &TlsEnd, session: &Session) -> Option<Failed> {
    let TlsEnd::Failed(kind, reason) = end else { return None };
    Some(Failed {
        kind: (*kind).to_owned(),
        ours: session.local.map(|address| address.to_string()).unwrap_or_default(),
        host: session.peer.host.clone(),
        address: session.peer.address.clone(),
        reason: reason.clone(),
        count: 1,
    })
}

fn peer_of(candidate: &Candidate, port: u16) -> Peer {
    Peer { host: candidate.host.clone(), address: candidate.address.to_string(), port: candidate.port.unwrap_or(port) }
}

fn unavailable() -> Verdict {
    Verdict {
        status: EnhancedStatus::transient(3, 0),
        reason: "server unavailable or unable to receive mail".to_owned(),
        reply: None,
        code: None,
        remote: false,
        stage: SmtpStage::Lookup,
        at: Timestamp::now(),
    }
}

fn endpoint_of(candidate: &Candidate, port: u16) -> String {
    endpoint(&peer_of(candidate, port))
}

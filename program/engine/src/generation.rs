//! Everything that is made from one configuration, and the handle to the one in force.
//!
//! A reload makes a new [`Generation`] whole, beside the old one, and swaps them. Sessions and deliveries that run keep
//! the one they began with; nothing is changed under anybody's feet.

use std::borrow::Cow;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::FutureExt;
use yamabiko_config::Config;
use yamabiko_envelope::{
    Attempt, Delays, Delivery, DeliveryRequest, DeliveryStatus, Envelope, Event, Events, Kind, Origin, Outcome,
    QueueId, Recipient, Result as Ended, Severity, Timestamp, Trace,
};
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_milter::Milters;
use yamabiko_route::Router;
use yamabiko_schedule::{Feedback, Route, destination_name};
use yamabiko_status::EnhancedStatus;

use crate::agents::Agents;
use crate::blocking::where_it_may_block;
use crate::ledger::Remembered;
use crate::outcome::{deferred, feedback_of, soften};

/// One configuration, built out.
pub struct Generation {
    /// As loaded.
    pub config: Arc<Config>,
    /// Its tables.
    pub tables: TableSet,
    /// Where recipients go.
    pub router: Router,
    /// Where probes go, which may differ.
    verify_router: Router,
    /// How addresses are verified.
    pub verify: crate::verify::Settings,
    /// What makes messages complete.
    pub cleanup: yamabiko_cleanup::Cleanup,

    /// What writes notices.
    pub bounce: yamabiko_bounce::Bouncer,
    /// Addresses that are not mailed.
    pub suppression: crate::ledger_suppress::Suppression,
    /// Delivery agents by transport.
    pub agents: Agents,
    /// `syslog_name` of main.cf.
    pub syslog_name: Arc<str>,
    /// `recipient_delimiter`, for names of destinations.
    delimiters: String,
    /// `double_bounce_sender`
    double_bounce: String,
    /// `soft_bounce`
    soft_bounce: bool,
    /// Transports that take one recipient at a time.
    one_recipient: Vec<String>,
    /// Warnings that were given already.
    said: Mutex<HashSet<String>>,
    /// What the pickup service does to local submissions.
    pub pickup: Pickup,
    /// `myhostname`
    pub myhostname: String,
    /// `default_filter_nexthop`; empty: the recipient's domain.
    filter_nexthop: String,
    /// `local_login_sender_maps`
    pub login_senders: crate::login_sender::LoginSenders,
    /// `mail_name`
    pub mail_name: String,
    /// Calm: digests, budgets, the second way.
    pub desk: crate::desk::DeskSettings,
    /// Signed reverse-paths.
    pub signing: Option<yamabiko_token::Signing>,
    /// `unsigned_bounce_action`
    pub unsigned_bounces: String,
    /// `bounce_language_maps`
    language_maps: Maps,
    /// `message_size_limit`; no limit is the largest number.
    pub message_size_limit: u64,
    /// Mail filters for mail that does not come over the network (`non_smtpd_milters`), and the limit of what they may
    /// make of a body.
    pub own_filters: Option<(Arc<Milters>, u64)>,
    /// `milter_header_checks`
    pub made_checks: yamabiko_checks::Checks,
    /// `internal_mail_filter_classes` names notices.
    pub filters_notices: bool,
    /// What senders prove, and what we sign.
    pub proofs: crate::proofs::Proofs,
}

/// The generation in force, and the log: what nearly everybody needs. Cheap to clone.
#[derive(Clone)]
pub struct Current {
    generation: Arc<RwLock<Arc<Generation>>>,
    events: Events,
    remembered: Remembered,
}

impl Current {
    /// With a first generation.
    pub fn new(generation: Generation, events: Events, remembered: Remembered) -> Self {
        Self { generation: Arc::new(RwLock::new(Arc::new(generation))), events, remembered }
    }

    /// The ledger.
    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// The one in force now.
    pub fn get(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one in force.
    pub fn swap(&self, generation: Generation) {
        *self.generation.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(generation);
    }

    /// Where events go.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// An event of one of our programs.
    pub fn emit(&self, program: &'static str, at: Timestamp, kind: Kind) {
        let origin = Origin::new(&self.get().syslog_name, program);
        self.events.emit(Event { at, origin, kind });
    }

    /// A line for the log.
    pub fn say(&self, severity: Severity, queue_id: Option<QueueId>, text: &str) {
        let kind = Kind::Text { severity, queue_id, text: text.to_owned() };
        self.emit("qmgr", Timestamp::now(), kind);
    }

    /// Trouble of our own that mail has to wait for.
    pub fn complain(&self, queue_id: Option<QueueId>, error: &dyn std::fmt::Display) {
        self.say(Severity::Error, queue_id, &error.to_string());
    }

    /// Has an agent deliver. A transport that does not exist defers, as an agent that breaks does.
    pub async fn deliver(&self, request: &Arc<DeliveryRequest>) -> (Attempt, Feedback) {
        let generation = self.get();
        let Some(agent) = generation.agents.get(&request.transport) else {
            let reason = "mail transport unavailable";
            let attempt = deferred(request, EnhancedStatus::transient(3, 0), reason);
            let feedback =
                Feedback::TransportFailure { status: EnhancedStatus::transient(3, 0), reason: reason.to_owned() };
            return (attempt, feedback);
        };
        // A panic in an agent is a bug of ours, and bugs of ours defer mail. The future is large, so it is made where it
        // stays.
        let delivery = where_it_may_block(agent.blocks, Box::pin(agent.deliver(request)));
        let mut attempt = match AssertUnwindSafe(delivery).catch_unwind().await {
            Ok(attempt) => attempt,
            Err(_) => {
                self.say(Severity::Panic, Some(request.envelope.queue_id), "delivery agent: panic");
                let reason = "unknown mail transport error";
                let attempt = deferred(request, EnhancedStatus::transient(3, 0), reason);
                let feedback =
                    Feedback::TransportFailure { status: EnhancedStatus::transient(3, 0), reason: reason.to_owned() };
                return (attempt, feedback);
            }
        };
        if generation.soft_bounce {
            attempt.outcomes.iter_mut().for_each(soften);
        }
        let feedback = feedback_of(&attempt);
        (attempt, feedback)
    }

    /// The log line (and whatever else reads events) of one outcome.
    pub fn emit_outcome(&self, request: &DeliveryRequest, outcome: &Outcome) {
        if outcome.logged {
            return;
        }
        let generation = self.get();
        let envelope = &request.envelope;
        let Some(known) = envelope.recipients.get(outcome.recipient as usize) else { return };
        let resolved = request.recipients.iter().find(|r| r.index == outcome.recipient);
        let address = match (&outcome.expanded, resolved) {
            (Some(leaf), _) => leaf.as_str(),
            (None, Some(resolved)) => resolved.address.as_str(),
            (None, None) => known.address.as_str(),
        };
        let agent = generation.agents.get(&request.transport);
        let (program, syslog_name) = match agent {
            Some(agent) => (agent.program, Arc::clone(&agent.syslog_name)),
            None => ("qmgr", Arc::clone(&generation.syslog_name)),
        };
        let soft = generation.soft_bounce && outcome.soft;
        let delivery = delivery_event(envelope, known, address, outcome, Delays::of(request, outcome), soft);
        self.events.emit(Event {
            at: outcome.ended,
            origin: Origin { syslog_name, program: program.into() },
            kind: delivery,
        });
    }

    /// The log line of a recipient that was deferred without an attempt: Postfix has error(8) write it.
    pub fn emit_suspended(
        &self,
        envelope: &Envelope,
        known: &Recipient,
        address: &str,
        activated: Timestamp,
        outcome: &Outcome,
    ) {
        let delays = Delays {
            before_queue: activated.since(envelope.arrival),
            in_queue: outcome.ended.since(activated),
            ..Delays::default()
        };
        let kind = delivery_event(envelope, known, address, outcome, delays, false);
        self.emit("error", outcome.ended, kind);
    }
}

/// The log line of a recipient whose message was refused when it was taken up, as Postfix's cleanup writes it.
pub fn returned_event(envelope: &Envelope, known: &Recipient, outcome: &Outcome) -> Kind {
    let delays = Delays { before_queue: outcome.ended.since(envelope.arrival), ..Delays::default() };
    delivery_event(envelope, known, &known.address, outcome, delays, false)
}

fn delivery_event(
    envelope: &Envelope,
    known: &Recipient,
    address: &str,
    outcome: &Outcome,
    delays: Delays,
    soft: bool,
) -> Kind {
    let probe = matches!(envelope.trace, Trace::Probe | Trace::ProbeReport);
    let status = match outcome.result {
        Ended::Sent(_) if probe => DeliveryStatus::Deliverable,
        _ if probe => DeliveryStatus::Undeliverable,
        Ended::Sent(_) => DeliveryStatus::Sent,
        Ended::Deferred if soft => DeliveryStatus::SoftBounce,
        Ended::Deferred => DeliveryStatus::Deferred,
        Ended::Failed => DeliveryStatus::Bounced,
    };
    let original =
        if known.original.is_empty() || known.original == address { String::new() } else { known.original.clone() };
    Kind::Delivered(Box::new(Delivery {
        queue_id: envelope.queue_id,
        recipient: address.to_owned(),
        original,
        sender: envelope.sender.clone(),
        relay: outcome.relay.clone(),
        connection_use: outcome.connection_use,
        tls: outcome.tls.clone(),
        tls_status: outcome.tls_status.clone(),
        delays,
        dsn: outcome.status,
        status,
        reason: outcome.reason.clone(),
        stage: outcome.stage,
        reply: outcome.reply,
        remote_mta: outcome.remote_mta.clone(),
        action: match outcome.result {
            Ended::Sent(action) => Some(action),
            Ended::Deferred | Ended::Failed => None,
        },
    }))
}

impl Generation {
    /// Where a recipient of a message goes, and its address as resolved. An error is temporary; its text is for the log.
    pub async fn route(
        &self,
        envelope: &Envelope,
        recipient: &Recipient,
        events: &Events,
    ) -> Result<(Route, String), String> {
        let (local, domain) = yamabiko_address::split_domain(&recipient.address);
        let own = local.eq_ignore_ascii_case(&self.double_bounce) || self.verify.is_sender(local, Timestamp::now());
        if own && self.router.local().contains(domain.unwrap_or_default()).await.map_err(|error| error.to_string())? {
            // A notice that nobody wants must not make another one.
            let nexthop: Arc<str> = "undeliverable postmaster notification discarded".into();
            let route = Route {
                recipient: 0,
                transport: Agents::DISCARD_NOTICE.into(),
                destination: Arc::clone(&nexthop),
                nexthop,
            };
            return Ok((route, recipient.address.clone()));
        }
        if envelope.trace == Trace::No
            && let Some(why) = self.suppression.at_delivery(&envelope.sender, &recipient.address)
        {
            let route = self.to("error", &format!("5.1.1 {why}"), &recipient.address);
            return Ok((route, recipient.address.clone()));
        }
        if !envelope.filter.is_empty() && envelope.trace == Trace::No {
            let (transport, nexthop) = envelope.filter.split_once(':').unwrap_or((&envelope.filter, ""));
            let nexthop = match (nexthop, self.filter_nexthop.as_str()) {
                ("", "") => domain.unwrap_or(&self.myhostname),
                ("", usual) => usual,
                (named, _) => named,
            };
            return Ok((self.to(transport, nexthop, &recipient.address), recipient.address.clone()));
        }
        let router = if envelope.trace == Trace::Probe { &self.verify_router } else { &self.router };
        let resolved = router.resolve(&envelope.sender, &recipient.address).await.map_err(|error| error.to_string())?;
        self.warn_of(&resolved.warnings, events);
        let route = self.to(&resolved.transport, &resolved.nexthop, &resolved.recipient);
        Ok((route, resolved.recipient))
    }

    /// The languages of notices to a sender (`bounce_language_maps`); empty where nothing is said of it. A table that does not
    /// answer is no reason to wait.
    pub async fn languages_for(&self, sender: &str) -> Vec<String> {
        if self.language_maps.is_empty() || sender.is_empty() {
            return Vec::new();
        }
        let found = self.router.mapper().find(&self.language_maps, sender).await;
        let value = found.ok().flatten().map(|hit| hit.value).unwrap_or_default();
        value.split([',', ' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Faults of the configuration that an address has shown, each said once.
    fn warn_of(&self, warnings: &[String], events: &Events) {
        for warning in warnings {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() < SAID && said.insert(warning.clone()) {
                let origin = Origin::new(&self.syslog_name, "trivial-rewrite");
                events.emit(Event::text(Timestamp::now(), origin, Severity::Warning, warning.clone()));
            }
        }
    }

    fn to(&self, transport: &str, nexthop: &str, address: &str) -> Route {
        let local = self.one_recipient.iter().any(|name| name == transport).then(|| {
            let local = yamabiko_address::split_domain(address).0;
            yamabiko_address::split_extension(local, &self.delimiters).0
        });
        let nexthop: Arc<str> = nexthop.into();
        let destination = match destination_name(&nexthop, local) {
            Cow::Borrowed(_) => Arc::clone(&nexthop),
            Cow::Owned(name) => name.into(),
        };
        Route { recipient: 0, transport: transport.into(), nexthop, destination }
    }
}

/// Warnings of one kind that are said before they are enough.
const SAID: usize = 1000;

/// Settings of the pickup service for what `sendmail` brings.
pub struct Pickup {
    /// `content_filter`
    pub filter: String,
    /// `receive_override_options = no_address_mappings`
    pub no_address_mappings: bool,
    /// `receive_override_options = no_header_body_checks`
    pub no_header_body_checks: bool,
}

impl Pickup {
    fn of(config: &Config) -> Self {
        let service = config.services().iter().find(|service| service.command == "pickup");
        let view = service.map_or_else(|| config.main(), |service| config.service_view(service));
        let options = view.list("receive_override_options");
        let has = |word: &str| options.iter().any(|option| option == word);
        Self {
            filter: view.text("content_filter"),
            no_address_mappings: has("no_address_mappings"),
            no_header_body_checks: has("no_header_body_checks"),
        }
    }
}

/// The parts of a generation, put together by [`crate::build`].
pub struct Parts {
    /// As loaded.
    pub config: Arc<Config>,
    /// Its tables.
    pub tables: TableSet,
    /// Delivery agents.
    pub agents: Agents,
    /// Transports that take one recipient at a time.
    pub one_recipient: Vec<String>,
    /// The log.
    pub events: Events,
    /// What writes notices.
    pub bounce: yamabiko_bounce::Bouncer,
    /// Signed reverse-paths.
    pub signing: Option<yamabiko_token::Signing>,
}

impl Generation {
    /// From a configuration and the agents made from it.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, tables, agents, one_recipient, events, bounce, signing } = parts;
        let main = config.main();
        let router = Router::new(&main, &tables);
        let verify = crate::verify::Settings::from_view(&main);
        if let Some(remark) = &verify.remark {
            let origin = Origin::new(&main.text("syslog_name").into(), "verify");
            events.emit(Event::text(Timestamp::now(), origin, Severity::Warning, remark.clone()));
        }
        let pickup = Pickup::of(&config);
        // What is wrong with it has been said when the configuration was examined.
        let milters = Milters::new(&main, "non_smtpd_milters", &mut |_| {});
        let size_limit = u64::try_from(main.int("message_size_limit")).unwrap_or(0);
        Self {
            desk: crate::desk::DeskSettings::from_view(&main).0,
            signing,
            language_maps: Maps::open(&tables, "bounce_language_maps", &main.text("bounce_language_maps")),
            unsigned_bounces: main.text("unsigned_bounce_action"),
            message_size_limit: if size_limit == 0 { u64::MAX } else { size_limit },
            made_checks: yamabiko_checks::Checks::of_filters(&main, &tables),
            own_filters: milters.map(|milters| (Arc::new(milters), size_limit)),
            filters_notices: main.list("internal_mail_filter_classes").iter().any(|class| class == "bounce"),
            cleanup: yamabiko_cleanup::Cleanup::new(&main, &tables, router.mapper().clone(), events),
            proofs: crate::proofs::Proofs::new(&main, &tables),
            suppression: crate::ledger_suppress::Suppression::new(&main),
            verify_router: Router::for_purpose(yamabiko_route::Purpose::Verify, &main, &tables),
            verify,
            router,
            bounce,

            syslog_name: main.text("syslog_name").into(),
            delimiters: main.text("recipient_delimiter"),
            double_bounce: main.text("double_bounce_sender"),
            soft_bounce: main.bool("soft_bounce"),
            myhostname: main.text("myhostname"),
            filter_nexthop: main.text("default_filter_nexthop"),
            login_senders: crate::login_sender::LoginSenders::new(&main, &tables),
            mail_name: main.text("mail_name"),
            config,
            tables,
            agents,
            one_recipient,
            said: Mutex::default(),
            pickup,
        }
    }
}

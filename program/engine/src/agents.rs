//! Delivery agents by transport: which program of master.cf is which agent of ours.

use std::collections::HashMap;
use std::sync::Arc;

use yamabiko_config::{Config, ServiceType, View};
use yamabiko_deliver::{Around, PassOn, Protocol, Simple, SmtpAgent};
use yamabiko_deliver_local::agent::{
    LocalAgent, PipeAgent, PipeSettings, Settings as LocalSettings, Surroundings, VirtualAgent, VirtualSettings,
};
use yamabiko_dns::{Hosts, Resolver};
use yamabiko_envelope::{Attempt, DeliveryRequest, Event, Events, Origin, Severity, Timestamp};
use yamabiko_lookup::TableSet;
use yamabiko_status::EnhancedStatus;
use yamabiko_tls::Handed;

use crate::outcome::deferred;
use crate::status_filter::StatusFilter;

/// What delivers.
pub enum Means {
    /// smtp(8) and lmtp(8)
    Client(Box<SmtpAgent>),
    /// local(8)
    Local(Box<LocalAgent>),
    /// virtual(8)
    Virtual(Box<VirtualAgent>),
    /// pipe(8)
    Pipe(Box<PipeAgent>),
    /// error(8), retry and discard(8)
    Simple(Simple),
    /// A service that cannot do its work: mail for it waits. With the reason.
    Broken(String),
}

/// A transport's agent.
pub struct Agent {
    /// What delivers.
    pub means: Means,
    /// Program name in the log.
    pub program: &'static str,
    /// `syslog_name` of the service.
    pub syslog_name: Arc<str>,
    /// It looks things up with calls that may block.
    pub blocks: bool,
    /// `smtp_delivery_status_filter` and its kin.
    filter: Option<StatusFilter>,
    events: Events,
}

/// All of them.
pub struct Agents {
    by_name: HashMap<String, Arc<Agent>>,
}

impl Agents {
    /// A transport of our own for notices that must not make notices; no service of master.cf can have this name.
    pub const DISCARD_NOTICE: &str = "(discard notice)";

    /// The agent of a transport.
    pub fn get(&self, transport: &str) -> Option<&Arc<Agent>> {
        self.by_name.get(transport)
    }

    /// One for every delivery service of master.cf. Also: names of transports that take one recipient at a time, and
    /// what an admin should know.
    pub fn new(
        config: &Config,
        tables: &TableSet,
        parts: &AgentParts,
        keys: &Handed,
    ) -> (Self, Vec<String>, Vec<String>) {
        let mut by_name = HashMap::new();
        let (mut one_recipient, mut notices) = (Vec::new(), Vec::new());
        for service in config.services() {
            if service.kind != ServiceType::Unix {
                continue;
            }
            let view = config.service_view(service);
            let name = service.name.as_str();
            let (means, program) = match service.command.as_str() {
                "smtp" => (parts.client(&view, Protocol::Smtp, tables, keys), "smtp"),
                "lmtp" => (parts.client(&view, Protocol::Lmtp, tables, keys), "lmtp"),
                "local" => {
                    let settings = LocalSettings::from_view(&view, tables, name);
                    notices.extend(settings.remark());
                    (Means::Local(Box::new(LocalAgent::new(settings, Arc::clone(&parts.surroundings)))), "local")
                }
                "virtual" => {
                    let settings = VirtualSettings::from_view(&view, tables, name);
                    (Means::Virtual(Box::new(VirtualAgent::new(settings, Arc::clone(&parts.surroundings)))), "virtual")
                }
                "error" if name == "retry" => (Means::Simple(Simple::Retry), "error"),
                "error" => (Means::Simple(Simple::Error), "error"),
                "discard" => (Means::Simple(Simple::Discard), "discard"),
                "pipe" => match PipeSettings::from_view(&view, service) {
                    Ok(settings) => {
                        let agent = PipeAgent::new(settings, Arc::clone(&parts.surroundings));
                        (Means::Pipe(Box::new(agent)), "pipe")
                    }
                    Err(why) => {
                        notices.push(why);
                        (Means::Broken("mail system configuration error".to_owned()), "pipe")
                    }
                },
                _ => continue,
            };
            if view.transport_int(name, "destination_recipient_limit") == 1 {
                one_recipient.push(name.to_owned());
            }
            let syslog_name = view.text("syslog_name").into();
            by_name.insert(
                name.to_owned(),
                Arc::new(Agent {
                    means,
                    program,
                    syslog_name,
                    blocks: blocks(&view),
                    filter: match service.command.as_str() {
                        command @ ("smtp" | "lmtp" | "local" | "virtual" | "pipe") => {
                            StatusFilter::read(&view, command, tables)
                        }
                        _ => None,
                    },
                    events: Arc::clone(&parts.events),
                }),
            );
        }
        let syslog_name = config.main().text("syslog_name").into();
        let notice = Agent {
            means: Means::Simple(Simple::Discard),
            program: "qmgr",
            syslog_name,
            blocks: false,
            filter: None,
            events: Arc::clone(&parts.events),
        };
        by_name.insert(Self::DISCARD_NOTICE.to_owned(), Arc::new(notice));
        (Self { by_name }, one_recipient, notices)
    }
}

/// Tables that agents look things up in while they deliver.
const TABLES: [&str; 15] = [
    "alias_maps",
    "mailbox_transport_maps",
    "mailbox_command_maps",
    "fallback_transport_maps",
    "virtual_mailbox_maps",
    "virtual_uid_maps",
    "virtual_gid_maps",
    "smtp_generic_maps",
    "lmtp_generic_maps",
    "smtp_tls_policy_maps",
    "lmtp_tls_policy_maps",
    "smtp_tls_per_site",
    "lmtp_tls_per_site",
    "smtp_sasl_password_maps",
    "lmtp_sasl_password_maps",
];

/// Some table of an agent may be behind a socket, which is waited for with blocking calls.
fn blocks(view: &View) -> bool {
    TABLES.iter().any(|name| {
        let text = view.text(name);
        text.contains("tcp:") || text.contains("socketmap:")
    })
}

/// What agents are made with besides the configuration.
pub struct AgentParts {
    /// For local and virtual delivery.
    pub surroundings: Arc<dyn Surroundings>,
    /// For the clients.
    pub resolver: Arc<dyn Resolver>,
    /// `/etc/hosts`
    pub hosts: Arc<Hosts>,
    /// The log.
    pub events: Events,
    /// Who hears of trouble.
    pub desk: Arc<crate::desk::Desk>,
    /// What the clients know beyond one configuration.
    pub memory: Arc<yamabiko_deliver::Memory>,
}

impl AgentParts {
    fn client(&self, view: &View, protocol: Protocol, tables: &TableSet, keys: &Handed) -> Means {
        let program = if protocol == Protocol::Smtp { "smtp" } else { "lmtp" };
        let origin = Origin::new(&view.text("syslog_name").into(), program);
        let (resolver, hosts, events) = (Arc::clone(&self.resolver), Arc::clone(&self.hosts), Arc::clone(&self.events));
        let agent = SmtpAgent::from_view(view, protocol, tables, keys, Around { resolver, hosts, events, origin });
        let agent = agent.with_memory(Arc::clone(&self.memory)).with_troubles(self.desk.ear());
        let surroundings = Arc::clone(&self.surroundings);
        let pass: PassOn = Arc::new(move |request, recipient, transport, nexthop| {
            let surroundings = Arc::clone(&surroundings);
            Box::pin(async move {
                let address = request.recipients.get(recipient).map_or("", |known| &known.address);
                surroundings.pass(request, recipient, address, transport, nexthop).await
            })
        });
        Means::Client(Box::new(agent.with_other_transports(pass)))
    }
}

impl Agent {
    /// It speaks SMTP to other hosts.
    pub fn is_smtp(&self) -> bool {
        matches!(self.means, Means::Client(_)) && self.program == "smtp"
    }

    /// Delivers.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        let mut attempt = self.attempt(request).await;
        if let Some(filter) = &self.filter {
            for text in filter.apply(&mut attempt).await {
                let origin = Origin { syslog_name: Arc::clone(&self.syslog_name), program: self.program.into() };
                self.events.emit(Event::text(Timestamp::now(), origin, Severity::Warning, text));
            }
        }
        attempt
    }

    async fn attempt(&self, request: &DeliveryRequest) -> Attempt {
        match &self.means {
            Means::Client(agent) => agent.deliver(request).await,
            // The client's future is the one that is made most; the others are not to make it larger.
            Means::Local(agent) => Box::pin(agent.deliver(request)).await,
            Means::Virtual(agent) => Box::pin(agent.deliver(request)).await,
            Means::Simple(simple) => {
                let origin = Origin { syslog_name: Arc::clone(&self.syslog_name), program: self.program.into() };
                simple.deliver(request, &self.events, &origin, Timestamp::now())
            }
            Means::Pipe(agent) => Box::pin(agent.deliver(request)).await,
            Means::Broken(why) => deferred(request, EnhancedStatus::transient(3, 5), why),
        }
    }
}

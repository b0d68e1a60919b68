//! Delivery agents by transport: which program of master.cf is which agent of ours.

use std::collections::HashMap;
use std::sync::Arc;

use yamabiko_config::{Config, ServiceType};
use yamabiko_deliver_local::agent::{LocalAgent, Settings as LocalSettings, Surroundings, VirtualAgent, VirtualSettings};
use yamabiko_envelope::{Action, Attempt, DeliveryRequest};
use yamabiko_lookup::TableSet;
use yamabiko_status::EnhancedStatus;

use crate::generation::deferred;

/// What delivers.
pub enum Means {
    /// smtp(8) and lmtp(8)
    Client(yamabiko_deliver::SmtpAgent),
    /// local(8)
    Local(Box<LocalAgent>),
    /// virtual(8)
    Virtual(VirtualAgent),
    /// error(8), under either of its names: the next hop is the text.
    Error,
    /// discard(8): the next hop is the text.
    Discard,
    /// A program that is not there yet: mail for it waits. With the reason.
    NotYet(String),
}

/// A transport's agent.
pub struct Agent {
    /// What delivers.
    pub means: Means,
    /// Program name in the log.
    pub program: &'static str,
    /// `syslog_name` of the service.
    pub syslog_name: Arc<str>,
    /// Name of the service.
    pub transport: String,
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
    pub fn new(config: &Config, tables: &TableSet, parts: &AgentParts) -> (Self, Vec<String>, Vec<String>) {
        let mut by_name = HashMap::new();
        let (mut one_recipient, mut notices) = (Vec::new(), Vec::new());
        for service in config.services() {
            if service.kind != ServiceType::Unix {
                continue;
            }
            let view = config.service_view(service);
            let name = service.name.as_str();
            let (means, program) = match service.command.as_str() {
                "smtp" => (Means::Client(parts.client(&view, name, yamabiko_deliver::Protocol::Smtp)), "smtp"),
                "lmtp" => (Means::Client(parts.client(&view, name, yamabiko_deliver::Protocol::Lmtp)), "lmtp"),
                "local" => {
                    let settings = LocalSettings::from_view(&view, tables, name);
                    (Means::Local(Box::new(LocalAgent::new(settings, Arc::clone(&parts.surroundings)))), "local")
                }
                "virtual" => {
                    let settings = VirtualSettings::from_view(&view, tables, name);
                    (Means::Virtual(VirtualAgent::new(settings, Arc::clone(&parts.surroundings))), "virtual")
                }
                "error" => (Means::Error, "error"),
                "discard" => (Means::Discard, "discard"),
                "pipe" => {
                    let why = format!("{}: transport {name}: pipe(8) is not there yet; mail for it waits in the queue", service.place);
                    notices.push(why);
                    (Means::NotYet("pipe(8) delivery is not available in this release".to_owned()), "pipe")
                }
                _ => continue,
            };
            if view.transport_int(name, "_destination_recipient_limit") == 1 {
                one_recipient.push(name.to_owned());
            }
            let syslog_name = view.text("syslog_name").into();
            by_name.insert(name.to_owned(), Arc::new(Agent { means, program, syslog_name, transport: name.to_owned() }));
        }
        let syslog_name = config.main().text("syslog_name").into();
        let notice = Agent { means: Means::Discard, program: "qmgr", syslog_name, transport: "none".to_owned() };
        by_name.insert(Self::DISCARD_NOTICE.to_owned(), Arc::new(notice));
        (Self { by_name }, one_recipient, notices)
    }
}

/// What agents are made with besides the configuration.
pub struct AgentParts {
    /// For local and virtual delivery.
    pub surroundings: Arc<dyn Surroundings>,
    /// For the clients.
    pub resolver: Arc<dyn yamabiko_dns::Resolver>,
    /// The log.
    pub events: yamabiko_envelope::Events,
    /// Tables, for smtp_generic_maps.
    pub tables: TableSet,
}

impl Agent {
    /// Delivers.
    pub async fn deliver(&self, request: &DeliveryRequest) -> Attempt {
        match &self.means {
            Means::Client(agent) => agent.deliver(request).await,
            Means::Local(agent) => agent.deliver(request).await,
            Means::Virtual(agent) => agent.deliver(request).await,
            Means::Error => {
                // `5.1.1 mailbox gone`: the code decides between failing and waiting; without one the name does.
                let default = if self.transport == "retry" { EnhancedStatus::transient(0, 0) } else { EnhancedStatus::permanent(0, 0) };
                let (status, text) = EnhancedStatus::split(&request.nexthop).unwrap_or((default, &request.nexthop));
                deferred(request, status, text)
            }
            Means::Discard => {
                let (status, text) = EnhancedStatus::split(&request.nexthop).unwrap_or((EnhancedStatus::success(0, 0), &request.nexthop));
                let mut attempt = deferred(request, status, text);
                for outcome in &mut attempt.outcomes {
                    outcome.relay = "none".to_owned();
                    outcome.result = yamabiko_envelope::Result::Sent(Action::Delivered);
                }
                attempt
            }
            Means::NotYet(why) => deferred(request, EnhancedStatus::transient(3, 5), why),
        }
    }
}

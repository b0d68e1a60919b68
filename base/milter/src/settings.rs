//! What the parameters say: `smtpd_milters`, `non_smtpd_milters`, `milter_*`.

use std::path::PathBuf;
use std::time::Duration;

use yamabiko_config::View;
use yamabiko_lookup::{Braced, braced, split_list};

use crate::macros::{MacroLists, bare};
use crate::packet::{Stage, protocol};

/// What is done in place of a filter that cannot be asked (`milter_default_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// As if the filter were not there.
    Accept,
    /// `550 5.5.0 Service unavailable`
    Reject,
    /// `451 4.7.1 Service unavailable - try again later`
    TemporaryFailure,
    /// The message is held.
    Quarantine,
    /// `421 4.7.0 Server closing connection`
    Shutdown,
}

impl DefaultAction {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "accept" => Self::Accept,
            "reject" => Self::Reject,
            "tempfail" => Self::TemporaryFailure,
            "quarantine" => Self::Quarantine,
            "shutdown" => Self::Shutdown,
            _ => return None,
        })
    }
}

/// Where a filter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Inet(String, u16),
    Unix(PathBuf),
}

/// One filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// As configured, for the log.
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) version: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) content_timeout: Duration,
    pub(crate) default_action: DefaultAction,
}

/// The filters of a service, in order.
#[derive(Clone, Debug)]
pub struct Milters {
    pub(crate) filters: Vec<Filter>,
    pub(crate) macros: MacroLists,
    /// `milter_macro_daemon_name`
    pub daemon_name: String,
    /// `milter_macro_v`
    pub version: String,
}

impl Milters {
    /// What `parameter` (`smtpd_milters` or `non_smtpd_milters`) names; `None` when it names nothing. What is wrong with
    /// a setting is told to `warn`; a filter that cannot be understood is asked in vain, so that its default action
    /// takes its place and nothing passes unfiltered.
    pub fn new(view: &View, parameter: &str, warn: &mut dyn FnMut(String)) -> Option<Self> {
        Self::of_text(view, &view.text(parameter), parameter, warn)
    }

    /// As [`Milters::new`] for a text: what `smtpd_milter_maps` says for a client.
    pub fn of_text(view: &View, text: &str, parameter: &str, warn: &mut dyn FnMut(String)) -> Option<Self> {
        let mut filters = Vec::new();
        for element in split_list(text) {
            filters.push(filter(view, element, parameter, warn));
        }
        if filters.is_empty() {
            return None;
        }
        let mut macros = MacroLists::default();
        for (stage, name) in [
            (Stage::Connect, "milter_connect_macros"),
            (Stage::Helo, "milter_helo_macros"),
            (Stage::Mail, "milter_mail_macros"),
            (Stage::Rcpt, "milter_rcpt_macros"),
            (Stage::Data, "milter_data_macros"),
            (Stage::EndOfHeaders, "milter_end_of_header_macros"),
            (Stage::EndOfMessage, "milter_end_of_data_macros"),
            (Stage::Unknown, "milter_unknown_command_macros"),
        ] {
            let text = view.text(name);
            macros
                .set(stage, text.split([' ', ',', '\t', '\n']).filter(|n| !n.is_empty()).map(str::to_owned).collect());
        }
        for element in split_list(&view.text("milter_macro_defaults")) {
            let inside = match braced(element) {
                Braced::Inside(inside) => inside.trim(),
                _ => element,
            };
            match inside.split_once('=') {
                Some((name, value)) => {
                    macros.defaults.insert(bare(name.trim()).to_owned(), value.trim().to_owned());
                }
                None => warn(format!("milter_macro_defaults: \"{element}\": need name=value")),
            }
        }
        Some(Self {
            filters,
            macros,
            daemon_name: view.text("milter_macro_daemon_name"),
            version: view.text("milter_macro_v"),
        })
    }
}

/// One element of the list: `inet:host:port`, `unix:path`, or in braces with settings of its own.
fn filter(view: &View, element: &str, parameter: &str, warn: &mut dyn FnMut(String)) -> Filter {
    let mut settings: Vec<(String, String)> = Vec::new();
    let endpoint = match braced(element) {
        Braced::Inside(inside) => {
            let mut words = split_list(inside).into_iter();
            let endpoint = words.next().unwrap_or_default();
            for word in words {
                let word = match braced(word) {
                    Braced::Inside(inside) => inside.trim(),
                    _ => word,
                };
                match word.split_once('=') {
                    Some((name, value)) => settings.push((name.trim().to_owned(), value.trim().to_owned())),
                    None => warn(format!("{parameter}: \"{word}\" in \"{element}\": need name=value")),
                }
            }
            endpoint.to_owned()
        }
        _ => element.to_owned(),
    };
    let duration = |name: &str| view.duration(name);
    let action = view.text("milter_default_action");
    let version = |text: &str| {
        // A name may stand behind the number, as in `6` or `4 +...`; Postfix ignores what follows.
        text.split_whitespace().next()?.parse::<u32>().ok().filter(|version| protocol::offered(*version).is_some())
    };
    let mut filter = Filter {
        name: endpoint.clone(),
        endpoint: place(&endpoint, view).unwrap_or_else(|why| {
            warn(format!("{parameter}: \"{endpoint}\": {why}"));
            Endpoint::Unix(PathBuf::new())
        }),
        version: version(&view.text("milter_protocol")).unwrap_or_else(|| {
            warn(format!("milter_protocol: \"{}\": need 2, 3, 4 or 6", view.text("milter_protocol")));
            6
        }),
        connect_timeout: duration("milter_connect_timeout"),
        command_timeout: duration("milter_command_timeout"),
        content_timeout: duration("milter_content_timeout"),
        default_action: DefaultAction::parse(&action).unwrap_or_else(|| {
            warn(format!("milter_default_action: unrecognized default action: {action}"));
            DefaultAction::TemporaryFailure
        }),
    };
    for (name, value) in settings {
        let known = match name.as_str() {
            "connect_timeout" | "command_timeout" | "content_timeout" => {
                let place = match name.as_str() {
                    "connect_timeout" => &mut filter.connect_timeout,
                    "command_timeout" => &mut filter.command_timeout,
                    _ => &mut filter.content_timeout,
                };
                seconds(&value).map(|time| *place = time)
            }
            "protocol" => version(&value).map(|version| filter.version = version),
            "default_action" => DefaultAction::parse(&value).map(|action| filter.default_action = action),
            _ => None,
        };
        if known.is_none() {
            warn(format!("{parameter}: \"{name}={value}\" in \"{element}\": bad name or value"));
        }
    }
    filter
}

fn place(text: &str, view: &View) -> Result<Endpoint, &'static str> {
    let (kind, rest) = text.split_once(':').ok_or("need inet:host:port or unix:pathname")?;
    match kind {
        "unix" | "local" => {
            if rest.is_empty() {
                return Err("need a pathname");
            }
            // Relative names are below the queue directory, as with Postfix.
            Ok(Endpoint::Unix(PathBuf::from(view.text("queue_directory")).join(rest)))
        }
        "inet" => {
            let (host, port) = rest.rsplit_once(':').unwrap_or(("localhost", rest));
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let host = if host.is_empty() { "localhost" } else { host };
            let port = port.parse().map_err(|_| "need a port number")?;
            Ok(Endpoint::Inet(host.to_owned(), port))
        }
        _ => Err("need inet:host:port or unix:pathname"),
    }
}

/// A time as main.cf writes it: seconds, or with `s`, `m`, `h`, `d`, `w`.
fn seconds(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    Some(Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(factor)?))
}

//! What the administrator should know about a configuration that works.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::expand;
use crate::main_cf::{Fault, Place};
use crate::master_cf::Service;
use crate::table::{self, Kind, Status};
use crate::used::Usage;
use crate::view::{Shared, View};

/// Misspelt names looked up at most: each costs a walk over the table.
const SUGGESTIONS_MAX: usize = 100;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A parameter is set that does not act yet.
    NotYet,
    /// A parameter is set that has no effect here.
    Ignored,
    /// Nothing uses the name.
    Unused,
    /// Nothing uses the name, and it looks like another one.
    Misspelt,
    /// Newer Postfix has another name for it.
    Deprecated,
    /// A default of an older Postfix is in force because of `compatibility_level`.
    OldDefault,
    /// The reader of the files has something to say: an entry is overridden, a line cannot be understood.
    Written,
    /// A value was understood in another way than Postfix would.
    Understood,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// Where; `None` for defaults.
    pub place: Option<Place>,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Everything there is to say, in the order: what the reader said, main.cf, master.cf, defaults.
pub(crate) fn collect(shared: &Arc<Shared>, master_remarks: &[Fault]) -> Vec<Notice> {
    let mut collector =
        Collector { notices: Vec::new(), usage: Usage::of(&shared.main, &shared.services), suggestions: 0 };
    for remark in shared.main.remarks.iter().chain(master_remarks) {
        collector.add(NoticeKind::Written, remark.place.clone(), remark.text.clone());
    }
    let main = View { shared: Arc::clone(shared), service: None };
    for entry in shared.main.entries() {
        let used = collector.usage.uses_main(&entry.name, &shared.services);
        collector.setting(&main, &entry.name, &entry.value, &entry.place, used);
    }
    for (index, service) in shared.services.iter().enumerate() {
        collector.program(service);
        let view = View { shared: Arc::clone(shared), service: Some(index) };
        let mut seen = HashSet::new();
        for setting in &service.overrides {
            if !seen.insert(setting.name.as_str()) {
                continue;
            }
            let used = is_a_transport_setting(&setting.name, &service.command)
                || collector.usage.uses_service(&setting.name, index, &shared.services);
            collector.setting(&view, &setting.name, &setting.value, &service.place, used);
        }
    }
    let (mailbox, message) = (main.int("mailbox_size_limit"), main.int("message_size_limit"));
    if mailbox > 0 && (message == 0 || mailbox < message) {
        let text = format!("mailbox_size_limit={mailbox} is smaller than message_size_limit={message}");
        let advice = "messages between the two are taken and then returned";
        let place = main.place("mailbox_size_limit").or_else(|| main.place("message_size_limit"));
        collector.add(NoticeKind::Understood, place, format!("{text}: {advice}"));
    }
    let ttl = main.duration("connection_cache_ttl_limit");
    for name in ["smtp_connection_cache_time_limit", "lmtp_connection_cache_time_limit"] {
        let wanted = main.duration(name);
        if main.is_set(name) && wanted > ttl {
            let (wanted, ttl) = (wanted.as_secs(), ttl.as_secs());
            let text = format!("{name}={wanted}s is cut to connection_cache_ttl_limit={ttl}s");
            collector.add(NoticeKind::Understood, main.place(name), text);
        }
    }
    collector.old_defaults(&main);
    collector.notices
}

/// `-o smtp_destination_concurrency_limit=1` in a service that runs smtp: Postfix would not see it, we do.
fn is_a_transport_setting(name: &str, command: &str) -> bool {
    table::transport_parameters()
        .iter()
        .any(|parameter| name.strip_suffix(parameter.suffix).and_then(|rest| rest.strip_suffix('_')) == Some(command))
}

/// Programs of services: those that do their work or whose work is done by another part.
const PROGRAMS: [&str; 24] = [
    "anvil",
    "bounce",
    "cleanup",
    "discard",
    "error",
    "flush",
    "lmtp",
    "local",
    "nqmgr",
    "oqmgr",
    "pickup",
    "pipe",
    "postlogd",
    "proxymap",
    "qmgr",
    "scache",
    "showq",
    "smtp",
    "smtpd",
    "spawn",
    "tlsmgr",
    "trivial-rewrite",
    "verify",
    "virtual",
];

/// Programs of Postfix that are not there yet: their services do nothing.
const PROGRAMS_NOT_YET: [&str; 1] = ["qmqpd"];

struct Collector {
    notices: Vec<Notice>,
    usage: Usage,
    suggestions: usize,
}

impl Collector {
    fn add(&mut self, kind: NoticeKind, place: Option<Place>, text: String) {
        self.notices.push(Notice { kind, place, text });
    }

    /// A service that nobody answers.
    fn program(&mut self, service: &Service) {
        let (id, program) = (service.id(), service.command.as_str());
        if PROGRAMS_NOT_YET.contains(&program) {
            let text = format!("service {id}: {program} is not there yet: nothing answers there");
            self.add(NoticeKind::NotYet, Some(service.place.clone()), text);
        } else if !PROGRAMS.contains(&program) {
            let text = format!("service {id}: there is no program \"{program}\": nothing answers there");
            self.add(NoticeKind::Unused, Some(service.place.clone()), text);
        }
    }

    /// One `name = value` that somebody wrote.
    fn setting(&mut self, view: &View, name: &str, value: &str, place: &Place, used: bool) {
        let place = Some(place.clone());
        if let Some(instead) = table::replacement(name) {
            let advice =
                if instead.is_empty() { "leave it unset".to_string() } else { format!("specify \"{instead}\"") };
            let text = format!("support for parameter \"{name}\" will be removed; instead, {advice}");
            self.add(NoticeKind::Deprecated, place.clone(), text);
        }
        if table::is_read_only(name) {
            self.add(NoticeKind::Ignored, place, format!("read-only parameter assignment: {name}={value}"));
            return;
        }
        let parameter = table::parameter(name);
        let of_transport = || used.then(|| table::transport_status(name)).flatten();
        match parameter.map(|parameter| parameter.status()).or_else(of_transport) {
            // Setting a parameter to its default promises nothing that is not kept.
            Some(Status::NotYet(work))
                if parameter.is_some_and(|parameter| view.expand(value) != view.expand(parameter.default)) =>
            {
                self.add(NoticeKind::NotYet, place.clone(), format!("{name} has no effect yet: it needs {work}"));
            }
            Some(Status::Ignored(reason)) => {
                self.add(NoticeKind::Ignored, place.clone(), format!("{name} has no effect: {reason}"));
            }
            _ => {}
        }
        if !used {
            match self.suggest(name) {
                Some(nearest) => {
                    let text = format!("unused parameter: {name}={value}; is \"{nearest}\" meant?");
                    self.add(NoticeKind::Misspelt, place, text);
                }
                None => self.add(NoticeKind::Unused, place, format!("unused parameter: {name}={value}")),
            }
            return;
        }
        if let Some(text) = misunderstanding(view, name, value) {
            self.add(NoticeKind::Understood, place, text);
        } else if parameter.is_some_and(|p| p.status() != Status::Honoured && p.status() != Status::Obsolete)
            && let Some(parameter) = parameter
            && let Err(fault) = view.check_parameter(parameter)
        {
            self.add(NoticeKind::Written, place, fault.text);
        }
    }

    fn suggest(&mut self, name: &str) -> Option<&'static str> {
        self.suggestions += 1;
        if self.suggestions > SUGGESTIONS_MAX {
            return None;
        }
        nearest(name)
    }

    /// Defaults that are what they are because of an old compatibility level.
    fn old_defaults(&mut self, view: &View) {
        for parameter in table::parameters() {
            let depends = parameter.default.contains("$compatibility_level}");
            if !depends || view.is_set(parameter.name) || parameter.status() != Status::Honoured {
                continue;
            }
            let newest = expand::expand(parameter.default, &|name| match name {
                "compatibility_level" => Some(NEWEST_LEVEL.to_string()),
                other => view.unexpanded(other),
            });
            let now = view.text(parameter.name);
            if newest.is_ok_and(|newest| newest != now) {
                let text = format!("using backwards-compatible default setting {}={now}", parameter.name);
                self.add(NoticeKind::OldDefault, None, text);
            }
        }
    }
}

/// The compatibility level of Postfix 3.7's own defaults.
const NEWEST_LEVEL: &str = "3.6";

/// A time without a unit that is taken as seconds.
fn misunderstanding(view: &View, name: &str, value: &str) -> Option<String> {
    let (default, kind) = match table::parameter(name) {
        Some(parameter) => (parameter.default, parameter.kind),
        None => view.transport_of_name(name).map(|(_, parameter)| (parameter.default, parameter.kind))?,
    };
    if !matches!(kind, Kind::Time { .. }) {
        return None;
    }
    let text = view.expand(value);
    let understood = view.seconds(name, &text, default, kind).ok()?;
    understood.taken_as_seconds.then(|| {
        let default = view.expand(default);
        let unit = default.chars().last().unwrap_or('s');
        format!(
            "{name}={text} is beyond every limit in this parameter's default unit ({unit}): taken as {text} seconds; \
             write {text}s"
        )
    })
}

/// The parameter whose name is nearest to a misspelt one, if any is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    const LONGEST_NAME: usize = 64;
    if name.len() > LONGEST_NAME || name.len() < 4 {
        return None;
    }
    let allowed = if name.len() < 8 { 1 } else { 2 };
    table::parameters()
        .iter()
        .filter(|parameter| !parameter.is_obsolete && parameter.name.len().abs_diff(name.len()) <= allowed)
        .map(|parameter| (distance(name.as_bytes(), parameter.name.as_bytes()), parameter.name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Letters to add, drop, change or swap (neighbours) to get from one to the other.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before_last: Vec<usize> = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    // Every index below is at most the length of `from` or `to`, and the rows are one longer than `to`.
    for i in 1..=from.len() {
        let mut row = vec![i; to.len() + 1];
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = last;
        last = row;
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        for (name, expected) in [
            ("mydestinaton", Some("mydestination")),
            ("mydestiantion", Some("mydestination")),
            ("smtpd_recipient_restriction", Some("smtpd_recipient_restrictions")),
            ("relayhosts", Some("relayhost")),
            ("completely_different", None),
            ("foo", None),
        ] {
            assert_eq!(nearest(name), expected, "{name}");
        }
    }
}

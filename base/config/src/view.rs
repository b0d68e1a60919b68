//! A typed view of the settings in force: the whole configuration, or as one service of master.cf sees it.
//!
//! A [`View`] is cheap to clone and immutable. Values were checked when the configuration was read, so getters do not
//! fail: asking a parameter for what it is not (a number of a list) is a bug, caught by an assertion in debug builds and
//! answered with the default or zero otherwise.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::expand::{ExpandError, expand};
use crate::host::Interface;
use crate::main_cf::{Fault, MainCf, Place};
use crate::master_cf::Service;
use crate::table::{self, Kind, Parameter};
use crate::value;

/// What all views of one configuration share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) main: MainCf,
    pub(crate) services: Vec<Service>,
    /// Values that the machine or the process decide: myhostname, mydomain, mynetworks, process_id, ...
    pub(crate) computed: HashMap<&'static str, String>,
    pub(crate) own_addresses: Vec<Interface>,
    /// First lines of the files that `myorigin` names (`/etc/mailname`), by file.
    pub(crate) origins: HashMap<String, String>,
    /// Names in `inet_interfaces` that have no address.
    pub(crate) unresolved: Vec<String>,
}

/// Settings as one reader sees them.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) shared: Arc<Shared>,
    /// Index of the service whose `-o` settings count here.
    pub(crate) service: Option<usize>,
}

/// How a time was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds {
    pub(crate) seconds: i64,
    /// It has no unit and makes sense only as seconds, not in the parameter's default unit.
    pub(crate) taken_as_seconds: bool,
}

impl View {
    /// The service whose view this is; `None` for the view of main.cf.
    pub fn service(&self) -> Option<&Service> {
        self.service.and_then(|index| self.shared.services.get(index))
    }

    /// What is written for `name`: the service's `-o`, else main.cf. `None` when it is nowhere set.
    pub fn written(&self, name: &str) -> Option<&str> {
        if let Some(value) = self.service().and_then(|service| service.override_of(name)) {
            return Some(value);
        }
        self.shared.main.get(name).map(|entry| entry.value.as_str())
    }

    /// True when `name` is set in this view, even if to nothing.
    pub fn is_set(&self, name: &str) -> bool {
        self.written(name).is_some()
    }

    /// The unexpanded value: as written, else the default. `None` for a name that is neither written nor in the table.
    pub fn unexpanded(&self, name: &str) -> Option<String> {
        match name {
            // Names are no expressions: a dollar in them is a dollar.
            "service_name" => return Some(self.service().map(|s| s.name.replace('$', "$$")).unwrap_or_default()),
            "process_name" if self.service.is_some() => return self.service().map(|s| s.command.replace('$', "$$")),
            _ => {}
        }
        if let Some(value) = self.written(name).filter(|_| !table::is_read_only(name)) {
            return Some(value.to_string());
        }
        if let Some(value) = self.shared.computed.get(name) {
            return Some(value.clone());
        }
        if let Some(parameter) = table::parameter(name) {
            return Some(parameter.default.to_string());
        }
        self.transport_of_name(name).map(|(_, parameter)| parameter.default.to_string())
    }

    /// The unexpanded value of a parameter: for those whose `$name` are filled at use (`mailbox_command`, `forward_path`,
    /// `luser_relay`, `default_rbl_reply`, ...). Empty when there is no such parameter.
    pub fn raw(&self, name: &str) -> String {
        self.known(name);
        self.unexpanded(name).unwrap_or_default()
    }

    /// The value with `$name` expanded.
    pub fn text(&self, name: &str) -> String {
        self.known(name);
        self.find(name).unwrap_or_default()
    }

    /// The expanded value of any name, also one the administrator has invented (restriction classes); `None` when there
    /// is no such name.
    pub fn find(&self, name: &str) -> Option<String> {
        // Everything written was expanded once when the configuration was read, so this cannot fail.
        let value = self.unexpanded(name).map(|value| self.expand(&value))?;
        match self.shared.origins.get(&value) {
            Some(origin) if name == "myorigin" => Some(origin.clone()),
            _ => Some(value),
        }
    }

    /// Expands a text with the settings of this view. What cannot be expanded comes back as it is.
    pub fn expand(&self, text: &str) -> String {
        self.try_expand(text).unwrap_or_else(|_| text.to_string())
    }

    /// Expands a text with the settings of this view.
    ///
    /// # Errors
    /// Bad syntax, names that need themselves, results without bound.
    pub fn try_expand(&self, text: &str) -> Result<String, ExpandError> {
        expand(text, &|name| self.unexpanded(name))
    }

    /// A yes/no parameter.
    pub fn bool(&self, name: &str) -> bool {
        let parameter = self.known(name);
        debug_assert!(parameter.is_none_or(|p| p.kind == Kind::Bool), "{name} is not a yes/no parameter");
        value::parse_bool(name, &self.text(name)).unwrap_or(false)
    }

    /// A number or a size.
    pub fn int(&self, name: &str) -> i64 {
        self.known(name);
        value::parse_size(name, &self.text(name)).unwrap_or(0)
    }

    /// A time.
    pub fn duration(&self, name: &str) -> Duration {
        let Some(parameter) = self.known(name) else { return Duration::ZERO };
        debug_assert!(matches!(parameter.kind, Kind::Time { .. }), "{name} is not a time");
        let seconds = self.seconds(name, &self.text(name), parameter.default, parameter.kind).map_or(0, |s| s.seconds);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// The words of a list, separated by commas and blanks; `{ ... }` keeps a word together, with its braces.
    pub fn list(&self, name: &str) -> Vec<String> {
        value::split_list(&self.text(name))
    }

    /// A number of a transport: `transport_int("smtp", "destination_concurrency_limit")`.
    ///
    /// Looked for in this order: `-o` of the service with the transport's name in master.cf, under the name of the
    /// transport, of its program (`smtp_...` in a service `slow unix ... smtp`) or `default_...`; then
    /// `TRANSPORT_suffix` in main.cf; then the default.
    pub fn transport_int(&self, transport: &str, suffix: &str) -> i64 {
        value::parse_size(suffix, &self.transport_text(transport, suffix)).unwrap_or(0)
    }

    /// Whether a transport's value is written anywhere where `transport_int` looks, its default among them.
    pub fn transport_is_set(&self, transport: &str, suffix: &str) -> bool {
        let names = [format!("{transport}_{suffix}"), format!("default_{suffix}")];
        let named =
            |service: &Service| service.name == transport && service.kind != crate::master_cf::ServiceType::Inet;
        let service = self.shared.services.iter().find(|service| named(service));
        names.iter().any(|name| self.is_set(name))
            || service.is_some_and(|service| {
                let of_command = format!("{}_{suffix}", service.command);
                names.iter().chain([&of_command]).any(|name| service.override_of(name).is_some())
            })
    }

    /// A time of a transport: `transport_duration("smtp", "destination_rate_delay")`. Looked for as in `transport_int`.
    pub fn transport_duration(&self, transport: &str, suffix: &str) -> Duration {
        let default = table::transport_parameter(suffix).map_or("", |parameter| parameter.default);
        let kind = table::transport_parameter(suffix).map_or(Kind::Time { min: 0, max: 0 }, |parameter| parameter.kind);
        let text = self.transport_text(transport, suffix);
        let seconds = self.seconds(suffix, &text, default, kind).map_or(0, |s| s.seconds);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// A value of a transport, expanded. Looked for as in `transport_int`.
    pub fn transport_text(&self, transport: &str, suffix: &str) -> String {
        debug_assert!(table::transport_parameter(suffix).is_some(), "no transport parameter ends in {suffix}");
        let name = format!("{transport}_{suffix}");
        let position = self
            .shared
            .services
            .iter()
            .position(|service| service.name == transport && service.kind != crate::master_cf::ServiceType::Inet);
        if let Some(index) = position {
            let of_service = View { shared: Arc::clone(&self.shared), service: Some(index) };
            // The index was found above.
            if let Some(service) = of_service.service() {
                let names = [name.clone(), format!("{}_{suffix}", service.command), format!("default_{suffix}")];
                if let Some(value) = names.iter().find_map(|name| service.override_of(name)) {
                    return of_service.expand(value);
                }
            }
        }
        self.unexpanded(&name)
            .or_else(|| table::transport_parameter(suffix).map(|parameter| parameter.default.to_string()))
            .map(|value| self.expand(&value))
            .unwrap_or_default()
    }

    /// Where `name` is set: the service's place in master.cf, or the line of main.cf. `None` when the default is in force.
    pub fn place(&self, name: &str) -> Option<Place> {
        if let Some(service) = self.service()
            && service.override_of(name).is_some()
        {
            return Some(service.place.clone());
        }
        self.shared.main.get(name).map(|entry| entry.place.clone())
    }

    /// Names of the `unix` services of master.cf that run `program`.
    pub fn private_services(&self, program: &str) -> Vec<String> {
        let runs = |service: &&Service| service.kind == crate::ServiceType::Unix && service.command == program;
        self.shared.services.iter().filter(runs).map(|service| service.name.clone()).collect()
    }

    /// The machine's addresses that are this mail system's own, by `inet_interfaces` and `inet_protocols`, in order.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.shared.own_addresses.iter().map(|interface| interface.address)
    }

    /// The same with the prefix lengths of their networks.
    pub fn own_interfaces(&self) -> &[Interface] {
        &self.shared.own_addresses
    }

    /// The compatibility level in force.
    pub fn compatibility_level(&self) -> (u32, u32, u32) {
        crate::expand::level_of(&self.text("compatibility_level")).unwrap_or((0, 0, 0))
    }

    /// The transport of this configuration that a name like `relay_destination_rate_delay` speaks of.
    pub(crate) fn transport_of_name<'a>(&self, name: &'a str) -> Option<(&'a str, &'static table::TransportParameter)> {
        table::transport_parameters().iter().find_map(|parameter| {
            let transport = name.strip_suffix(parameter.suffix)?.strip_suffix('_')?;
            self.shared.services.iter().any(|service| service.name == transport).then_some((transport, parameter))
        })
    }

    fn known(&self, name: &str) -> Option<&'static Parameter> {
        let found = table::parameter(name);
        debug_assert!(found.is_some() || self.unexpanded(name).is_some(), "{name} is not in the parameter table");
        found
    }

    /// Understands a time. The default unit is the unit of the default value.
    pub(crate) fn seconds(&self, name: &str, text: &str, default: &str, kind: Kind) -> Result<Seconds, String> {
        let written = value::parse_time(name, text)?;
        let (min, max) = if let Kind::Time { min, max } = kind { (min, max) } else { (0, 0) };
        let unit = if written.unit.is_some() {
            's'
        } else {
            let default = self.expand(default);
            default.chars().last().filter(|unit| value::unit_seconds(*unit).is_some()).unwrap_or('s')
        };
        let in_range = |seconds: &i64| *seconds >= min && (max == 0 || *seconds <= max);
        match written.seconds(unit) {
            Some(seconds) if in_range(&seconds) => Ok(Seconds { seconds, taken_as_seconds: false }),
            // `bounce_queue_lifetime = 86400` is found in many files: days in Postfix, beyond every limit. A bare number
            // that is absurd in the default unit can only have been meant in seconds.
            other if written.unit.is_none() && unit != 's' => match written.seconds('s') {
                Some(seconds) if in_range(&seconds) => Ok(Seconds { seconds, taken_as_seconds: true }),
                _ => Err(time_range(name, text, other, min, max)),
            },
            other => Err(time_range(name, text, other, min, max)),
        }
    }

    /// Checks that `text` is a value of this kind.
    pub(crate) fn check(&self, name: &str, text: &str, default: &str, kind: Kind) -> Result<(), String> {
        match kind {
            Kind::Bool => value::parse_bool(name, text).map(drop),
            Kind::Int { min, max } => number_range(name, value::parse_int(name, text)?, min, max),
            Kind::Size { min, max } => number_range(name, value::parse_size(name, text)?, min, max),
            Kind::Time { .. } => self.seconds(name, text, default, kind).map(drop),
            Kind::Text { min, max } => length_range(name, text, min, max),
            Kind::Path { min } | Kind::List { min } | Kind::Tables { min } => length_range(name, text, min, 0),
            Kind::Choice { words, min } => {
                length_range(name, text, min, 0)?;
                if words.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
                    Ok(())
                } else {
                    Err(format!("bad {name} value: {text} (one of: {})", words.join(", ")))
                }
            }
            Kind::Raw | Kind::Restrictions => Ok(()),
        }
    }

    /// Checks a value of the family of parameters named after transports; other names pass.
    pub(crate) fn check_transport_parameter(
        &self,
        name: &str,
        value: &str,
        place: Option<&Place>,
    ) -> Result<(), Fault> {
        if table::parameter(name).is_some() {
            return Ok(());
        }
        let Some((_, parameter)) = self.transport_of_name(name) else { return Ok(()) };
        self.try_expand(value)
            .map_err(|error| format!("{name}: {error}"))
            .and_then(|text| self.check(name, &text, parameter.default, parameter.kind))
            .map_err(|text| Fault { place: place.cloned(), text })
    }

    /// Expands and checks the value of a parameter in this view.
    pub(crate) fn check_parameter(&self, parameter: &Parameter) -> Result<(), Fault> {
        let name = parameter.name;
        let blame = |text: String| Fault { place: self.place(name), text };
        if parameter.kind == Kind::Raw {
            return Ok(());
        }
        let Some(value) = self.unexpanded(name) else { return Ok(()) };
        let text = self.try_expand(&value).map_err(|error| blame(format!("{name}: {error}")))?;
        // Some parameters must be set only where something reads them: virtual_mailbox_base is empty by default.
        if text.is_empty()
            && !self.is_set(name)
            && !matches!(parameter.kind, Kind::Bool | Kind::Int { .. } | Kind::Size { .. } | Kind::Time { .. })
        {
            return Ok(());
        }
        self.check(name, &text, parameter.default, parameter.kind).map_err(blame)
    }
}

fn number_range(name: &str, number: i64, min: i64, max: i64) -> Result<(), String> {
    if number < min {
        Err(format!("invalid {name} parameter value {number} < {min}"))
    } else if max != 0 && number > max {
        Err(format!("invalid {name} parameter value {number} > {max}"))
    } else {
        Ok(())
    }
}

fn time_range(name: &str, text: &str, seconds: Option<i64>, min: i64, max: i64) -> String {
    match seconds {
        None => format!("parameter {name}: bad time value or unit: {text}"),
        Some(seconds) => number_range(name, seconds, min, max).err().unwrap_or_default(),
    }
}

fn length_range(name: &str, text: &str, min: usize, max: usize) -> Result<(), String> {
    let length = text.len();
    if length < min {
        Err(format!("bad string length {length} < {min}: {name} = {text}"))
    } else if max != 0 && length > max {
        Err(format!("bad string length {length} > {max}: {name} = {text}"))
    } else {
        Ok(())
    }
}

//! main.cf and master.cf: grammar, expansion, the one parameter table, a typed view.
//!
//! Two steps. *As written*: [`main_cf`] and [`master_cf`] read the files; every value keeps file and line. *In force*:
//! [`Config`] puts defaults and the machine's own values under them, checks everything, and is immutable from then on;
//! a reload makes a new one and swaps it whole, or keeps the old one when the new one has an error.
//!
//! * [`Config::load`] reads a directory, [`Config::from_texts`] two texts.
//! * [`View`] answers by name and type: `view.int("message_size_limit")`, `view.duration("queue_run_delay")`,
//!   `view.list("mydestination")`. `config.main()` is main.cf, `config.service_view(service)` what a service of
//!   master.cf sees with its `-o` settings.
//! * [`Config::notices`] are things worth telling the administrator: what is set but does not act (yet), what nothing
//!   uses, what is misspelt, what is deprecated.
//! * [`table`] is the one table of parameters.
//! * [`Host`] is the machine, an argument so that tests can make one up.
//!
//! No text makes it panic, recurse without end or grow without bound.

pub mod expand;
mod host;
pub mod main_cf;
pub mod master_cf;
mod notices;
mod pipe;
mod sanity;
pub mod table;
pub mod used;
pub mod value;
mod view;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use host::{Host, Interface};
pub use main_cf::{Entry, Fault, MainCf, Place};
pub use master_cf::{Listen, MasterCf, Override, Service, ServiceType, Wakeup};
pub use notices::{Notice, NoticeKind, nearest};
pub use pipe::PipeService;
pub use view::View;

/// A configuration in force. Immutable.
#[derive(Debug)]
pub struct Config {
    shared: Arc<view::Shared>,
    notices: Vec<Notice>,
}

/// Why a configuration cannot be used: every fault that was found, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> ConfigError {
        ConfigError { faults: vec![fault] }
    }
}

impl Config {
    /// Reads `main.cf` and `master.cf` of a directory.
    ///
    /// # Errors
    /// Files that cannot be read, lines that are no entries, values that cannot be expanded or are no values of their
    /// parameter. All faulty values are reported at once.
    pub fn load(directory: &Path, host: &Host) -> Result<Arc<Config>, ConfigError> {
        Config::in_directory(directory, read_file, host)
    }

    /// The same for programs that are no mail system: without a `master.cf` there are no services.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for_command(directory: &Path, host: &Host) -> Result<Arc<Config>, ConfigError> {
        let if_there = |path: &Path| if path.exists() { read_file(path) } else { Ok(String::new()) };
        Config::in_directory(directory, if_there, host)
    }

    fn in_directory(
        directory: &Path,
        read_master: impl Fn(&Path) -> Result<String, ConfigError>,
        host: &Host,
    ) -> Result<Arc<Config>, ConfigError> {
        let (main_name, master_name) = (directory.join("main.cf"), directory.join("master.cf"));
        let (main, master) = (read_file(&main_name)?, read_master(&master_name)?);
        let names = (main_name.to_string_lossy(), master_name.to_string_lossy());
        Config::build(&main, &master, (&names.0, &names.1), directory.to_str(), host)
    }

    /// The same from texts; `names` are the names of main.cf and master.cf in messages and places.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_texts(
        main_text: &str,
        master_text: &str,
        names: (&str, &str),
        host: &Host,
    ) -> Result<Arc<Config>, ConfigError> {
        Config::build(main_text, master_text, names, None, host)
    }

    fn build(
        main_text: &str,
        master_text: &str,
        names: (&str, &str),
        directory: Option<&str>,
        host: &Host,
    ) -> Result<Arc<Config>, ConfigError> {
        let main = MainCf::parse(names.0, main_text)?;
        let master = MasterCf::parse(names.1, master_text)?;
        let mut computed = HashMap::new();
        if let Some(directory) = directory {
            computed.insert("config_directory", directory.to_string());
        }
        let services = master.services();
        let shared = compute(view::Shared { main, services, computed, ..view::Shared::default() }, host);
        let (shared, mut faults) = with_origins(shared);
        faults.extend(self::faults(&shared));
        if !faults.is_empty() {
            return Err(ConfigError { faults });
        }
        let notices = notices::collect(&shared, &master.remarks);
        Ok(Arc::new(Config { shared, notices }))
    }

    /// A configuration whose values are not checked, for programs that show and edit what is written. Getters of its
    /// views answer with what can be made of faulty values; every entry of master.cf is a service, repeated ones too.
    pub fn unchecked(main: MainCf, master: MasterCf, directory: Option<&str>, host: &Host) -> Config {
        let mut computed = HashMap::new();
        if let Some(directory) = directory {
            computed.insert("config_directory", directory.to_string());
        }
        let shared = view::Shared { main, services: master.entries, computed, ..view::Shared::default() };
        Config { shared: Arc::new(compute(shared, host)), notices: Vec::new() }
    }

    /// The settings as the service at a position of `services()` sees them.
    pub fn view_at(&self, index: usize) -> View {
        View { shared: Arc::clone(&self.shared), service: (index < self.shared.services.len()).then_some(index) }
    }

    /// main.cf as written.
    pub fn written(&self) -> &MainCf {
        &self.shared.main
    }

    /// The settings of main.cf.
    pub fn main(&self) -> View {
        View { shared: Arc::clone(&self.shared), service: None }
    }

    /// The services of master.cf, in its order; of repeated entries the last one.
    pub fn services(&self) -> &[Service] {
        &self.shared.services
    }

    /// The service with this name and type.
    pub fn service(&self, name: &str, kind: ServiceType) -> Option<&Service> {
        self.shared.services.iter().find(|service| service.name == name && service.kind == kind)
    }

    /// The settings as a service sees them: its `-o` settings count before main.cf, in every `$name` too. A service of
    /// another configuration sees main.cf alone.
    pub fn service_view(&self, service: &Service) -> View {
        let index = self.shared.services.iter().position(|own| own.name == service.name && own.kind == service.kind);
        View { shared: Arc::clone(&self.shared), service: index }
    }

    /// What the administrator should know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

fn read_file(name: &Path) -> Result<String, ConfigError> {
    match std::fs::read(name) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            // As Postfix prints it, without "(os error 2)".
            let why = error.to_string();
            let why = why.split_once(" (os error ").map_or(&*why, |(words, _)| words);
            Err(Fault { place: None, text: format!("open {}: {why}", name.display()) }.into())
        }
    }
}

/// Fills in what the machine decides. The order matters: each step may use the values of those before it.
fn compute(mut shared: view::Shared, host: &Host) -> view::Shared {
    shared.computed.insert("process_id", host.process_id.to_string());
    shared.computed.insert("process_name", host.process_name.clone());
    shared.computed.insert("service_name", String::new());
    let domain_of = |name: &str| name.split_once('.').map(|(_, domain)| domain.to_string());
    let view = View { shared: Arc::new(shared), service: None };
    let mut found: Vec<(&'static str, String)> = Vec::new();

    // myhostname: the machine's name, with mydomain when it has no domain.
    let machine_domain = domain_of(&host.hostname).unwrap_or_else(|| "localdomain".to_string());
    let mydomain = if view.is_set("mydomain") { view.expand("$mydomain") } else { machine_domain };
    let hostname =
        if host.hostname.contains('.') { host.hostname.clone() } else { format!("{}.{mydomain}", host.hostname) };
    let (view, myhostname) =
        with_computed(view, &[("mydomain", mydomain), ("myhostname", hostname.clone())], "$myhostname");
    // mydomain: myhostname without its first label.
    found.push(("myhostname", hostname));
    found.push(("mydomain", domain_of(&myhostname).unwrap_or_else(|| "localdomain".to_string())));
    // Bad values of these are reported with all others later; here they just choose nothing.
    let (view, interfaces) = with_computed(view, &found, "$inet_interfaces");
    let (own, unresolved) =
        host::own_addresses(&value::split_list(&interfaces), &value::split_list(&view.expand("$inet_protocols")), host);
    let networks = host::mynetworks(&view.expand("$mynetworks_style"), &own);
    let (view, _) = with_computed(view, &[("mynetworks", networks)], "");
    // The only reference: no copy of the view has been made.
    let mut shared = Arc::into_inner(view.shared).unwrap_or_default();
    shared.own_addresses = own;
    shared.unresolved = unresolved;
    shared
}

/// Reads the files that `myorigin` names: Debian's and Ubuntu's `myorigin = /etc/mailname`, of which the first line counts.
fn with_origins(shared: view::Shared) -> (Arc<view::Shared>, Vec<Fault>) {
    let shared = Arc::new(shared);
    let (mut origins, mut faults) = (HashMap::new(), Vec::new());
    for service in std::iter::once(None).chain((0..shared.services.len()).map(Some)) {
        let view = View { shared: Arc::clone(&shared), service };
        let name = view.text("myorigin");
        if !name.starts_with('/') || origins.contains_key(&name) {
            continue;
        }
        let read = read_file(Path::new(&name));
        let origin = read.as_ref().map_or("", |text| text.lines().next().unwrap_or_default().trim());
        origins.insert(name, origin.to_string());
        if let Err(error) = read {
            let place = view.place("myorigin");
            faults.extend(error.faults.into_iter().map(|fault| Fault { place: place.clone(), ..fault }));
        }
    }
    // The only reference: the views are gone.
    let mut shared = Arc::into_inner(shared).unwrap_or_default();
    shared.origins = origins;
    (Arc::new(shared), faults)
}

/// The view with more computed values, and what a text expands to then.
fn with_computed(view: View, values: &[(&'static str, String)], text: &str) -> (View, String) {
    // The only reference: no copy of the view has been made.
    let mut shared = Arc::into_inner(view.shared).unwrap_or_default();
    shared.computed.extend(values.iter().cloned());
    let view = View { shared: Arc::new(shared), service: None };
    let expanded = view.expand(text);
    (view, expanded)
}

/// Every parameter that acts whose value is not one, in main.cf and in what services see.
fn faults(shared: &Arc<view::Shared>) -> Vec<Fault> {
    let acting = || table::parameters().iter().filter(|parameter| parameter.status() == table::Status::Honoured);
    let main = View { shared: Arc::clone(shared), service: None };
    let mut faults: Vec<Fault> = acting().filter_map(|parameter| main.check_parameter(parameter).err()).collect();
    for entry in shared.main.entries() {
        if let Err(fault) = main.check_transport_parameter(&entry.name, &entry.value, Some(&entry.place)) {
            faults.push(fault);
        }
    }
    faults.extend(sanity::faults(&main));
    let dependents = dependents(&main, acting());
    for (index, service) in shared.services.iter().enumerate() {
        let view = View { shared: Arc::clone(shared), service: Some(index) };
        let mut seen = HashSet::new();
        for setting in &service.overrides {
            let own = table::parameter(&setting.name).filter(|p| p.status() == table::Status::Honoured);
            let others = dependents.get(&setting.name).into_iter().flatten().copied();
            for parameter in own.into_iter().chain(others).filter(|parameter| seen.insert(parameter.name)) {
                faults.extend(view.check_parameter(parameter).err());
            }
            faults.extend(view.check_transport_parameter(&setting.name, &setting.value, Some(&service.place)).err());
        }
    }
    let mut seen = HashSet::new();
    faults.retain(|fault| seen.insert(fault.clone()));
    // Defaults that refer to a value that is wrong: that is named where it is written, with the same words.
    let words = |fault: &Fault| fault.text.split_once(": ").map_or(fault.text.clone(), |(_, words)| words.to_owned());
    let written: std::collections::HashSet<String> =
        faults.iter().filter(|fault| fault.place.is_some()).map(words).collect();
    let endless = |fault: &Fault| fault.text.contains("unreasonable macro call nesting");
    let any_endless = faults.iter().any(|fault| fault.place.is_some() && endless(fault));
    faults.retain(|fault| fault.place.is_some() || !(written.contains(&words(fault)) || any_endless && endless(fault)));
    faults
}

/// For each name the parameters whose value refers to it, over any number of steps: what an `-o` of that name can change.
fn dependents(
    view: &View,
    parameters: impl Iterator<Item = &'static &'static table::Parameter>,
) -> HashMap<String, Vec<&'static table::Parameter>> {
    let mut dependents: HashMap<String, Vec<&'static table::Parameter>> = HashMap::new();
    for parameter in parameters {
        let mut reached = HashSet::new();
        let mut waiting = vec![parameter.name.to_string()];
        while let Some(name) = waiting.pop() {
            for name in view.unexpanded(&name).map(|value| expand::references(&value)).unwrap_or_default() {
                if reached.insert(name.clone()) {
                    dependents.entry(name.clone()).or_default().push(parameter);
                    waiting.push(name);
                }
            }
        }
    }
    dependents
}

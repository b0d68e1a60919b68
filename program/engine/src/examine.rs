//! A configuration looked at before it runs, for `postfix check`: what would keep the mail system from starting, and what
//! is not what it seems. Nothing is started, no port is opened, no mail is touched.

use std::sync::{Arc, Mutex, PoisonError};

use yamabiko_cleanup::Cleanup;
use yamabiko_config::{Config, ServiceType};
use yamabiko_deliver_local::agent::{Settings as LocalSettings, VirtualSettings};
use yamabiko_envelope::{Event, EventSink, Events};
use yamabiko_lookup::{Notice, NoticeKind, TableSet};
use yamabiko_receive::Settings;
use yamabiko_route::Router;

/// What was found, each with file and line where there is one.
#[derive(Debug, Default)]
pub struct Findings {
    /// The mail system would not start.
    pub faults: Vec<String>,
    /// It would, and an administrator should know.
    pub warnings: Vec<String>,
}

/// Nobody listens.
struct Nobody;

impl EventSink for Nobody {
    fn emit(&self, _event: Event) {}
}

/// Opens every table and compiles every restriction list, as a start would.
pub fn examine(config: &Config) -> Findings {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let main = config.main();
    let mut aliases = main.list("alias_maps");
    aliases.extend(main.list("alias_database"));
    let hear = Arc::clone(&said);
    let tables = TableSet::new(yamabiko_lookup::Options {
        notify: Arc::new(move |notice: Notice| {
            if notice.kind != NoticeKind::Info {
                hear.lock().unwrap_or_else(PoisonError::into_inner).push(notice.text);
            }
        }),
        aliases,
        ..yamabiko_lookup::Options::default()
    });
    let mut found = Findings::default();
    let router = Router::new(&main, &tables);
    let events: Events = Arc::new(Nobody);
    Cleanup::new(&main, &tables, router.mapper().clone(), events);
    found.warnings.extend(crate::bouncer(config).1);
    for service in config.services() {
        let view = config.service_view(service);
        match (service.kind, service.command.as_str()) {
            (ServiceType::Inet, "smtpd") => match Settings::from(&view, &tables) {
                Ok(settings) => found.warnings.extend(settings.notices),
                Err(error) => found.faults.push(format!("{}: service {}: {error}", service.place, service.id())),
            },
            (ServiceType::Unix, "local") => drop(LocalSettings::from_view(&view, &tables, &service.name)),
            (ServiceType::Unix, "virtual") => drop(VirtualSettings::from_view(&view, &tables, &service.name)),
            (ServiceType::Unix, "pipe") => found.warnings.push(crate::agents::pipe_not_yet(service)),
            _ => {}
        }
    }
    found.warnings.append(&mut said.lock().unwrap_or_else(PoisonError::into_inner));
    let mut seen = std::collections::HashSet::new();
    found.warnings.retain(|text| seen.insert(text.clone()));
    found.faults.retain(|text| seen.insert(text.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    #[test]
    fn what_an_administrator_hears() {
        let smtpd = "smtp inet n - n - - smtpd\n";
        let relay = "smtpd_relay_restrictions = reject_unauth_destination\n";
        for (main, master, faults, warnings) in [
            (relay, smtpd, &[][..], &[][..]),
            (
                "smtpd_relay_restrictions =\n",
                smtpd,
                &["master.cf, line 1: service smtp/inet: in parameter smtpd_relay_restrictions or"][..],
                &[],
            ),
            (
                "smtpd_relay_restrictions = permit_mynetwork, reject\n",
                smtpd,
                &[],
                &[
                    "main.cf, line 1: smtpd_relay_restrictions: unknown smtpd restriction: \"permit_mynetwork\"; clients",
                ],
            ),
            (
                "virtual_alias_maps = hash:/no/such/file\n",
                "",
                &[],
                &["open database /no/such/file.db: No such file or directory"],
            ),
            ("", "x unix - n n - - pipe\n", &[], &["master.cf, line 1: transport x: pipe(8) is not there yet"]),
        ] {
            let main = format!("{main}alias_maps =\nalias_database =\ncompatibility_level = 3.6\n");
            let host = Host::of_this_machine("postfix");
            let config = Config::from_texts(&main, master, ("main.cf", "master.cf"), &host).unwrap();
            let found = examine(&config);
            let begin = |found: &[String], expected: &[&str]| {
                found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e))
            };
            assert!(begin(&found.faults, faults) && begin(&found.warnings, warnings), "{main:?}: {found:?}");
        }
    }
}

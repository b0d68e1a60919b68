//! What postconf reports: parameters of main.cf, services, columns and settings of master.cf, and what nothing uses.

use std::collections::HashSet;
use std::path::Path;

use yamabiko_config::table::{self, Kind};
use yamabiko_config::used::{Usage, references_of, service_has};
use yamabiko_config::value::split_list;
use yamabiko_config::{Config, MainCf, MasterCf, Place, View, main_cf, master_cf};

use super::options::{Mode, Options};
use super::{Fatal, Program, Report, open_error, print};

/// The files as they are written.
struct Files {
    main: MainCf,
    main_name: String,
    master: MasterCf,
    master_name: String,
}

/// What a parameter's class is, for `-C`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Builtin,
    /// Named after a service of master.cf.
    Service,
    /// Invented by the administrator.
    User,
}

pub(super) fn show(program: &Program<'_>, options: &Options, report: &mut Report<'_>) -> Result<(), Fatal> {
    let files = read(program, options, report)?;
    let directory = if options.defaults { None } else { given_directory(program, options) };
    let usage = Usage::of(&files.main, &files.master.entries);
    let config = Config::unchecked(files.main.clone(), files.master.clone(), directory.as_deref(), program.host);
    let shower = Shower { options, config: &config, usage: &usage, directory_given: directory.is_some() };
    if !options.defaults {
        shower.warn_read_only(&files, report);
        shower.warn_undefined(&files, report);
    }
    match options.mode {
        Mode::Services => shower.services(report)?,
        Mode::Columns => shower.columns(report)?,
        Mode::ServiceParameters => shower.service_parameters(report)?,
        _ => shower.parameters(report)?,
    }
    if !options.defaults {
        shower.warn_unused(&files, report);
    }
    Ok(())
}

/// The configuration for reports that say nothing about the files themselves.
pub(super) fn load_quietly(program: &Program<'_>, options: &Options) -> Result<Config, Fatal> {
    let main_name = program.directory(options).join("main.cf");
    let text = match program.texts(options) {
        Some(texts) => texts.main.clone(),
        None => read_text(&main_name).map_err(|error| Fatal(open_error(&main_name, &error)))?,
    };
    let main = MainCf::parse(&main_name.to_string_lossy(), &text).map_err(|fault| Fatal(fault.to_string()))?;
    Ok(Config::unchecked(main, MasterCf::default(), given_directory(program, options).as_deref(), program.host))
}

fn given_directory(program: &Program<'_>, options: &Options) -> Option<String> {
    options.config_directory.clone().or_else(|| program.environment_directory.clone())
}

fn read_text(path: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

/// Reads both files; which of them must be there depends on what is asked.
fn read(program: &Program<'_>, options: &Options, report: &mut Report<'_>) -> Result<Files, Fatal> {
    let directory = program.directory(options);
    let (main_path, master_path) = (directory.join("main.cf"), directory.join("master.cf"));
    let (main_name, master_name) =
        (main_path.to_string_lossy().into_owned(), master_path.to_string_lossy().into_owned());
    let wants_master = options.mode != Mode::Main;
    let mut master = MasterCf::default();
    let texts = program.texts(options);
    match texts.map_or_else(|| read_text(&master_path), |texts| Ok(texts.master.clone())) {
        Ok(text) => {
            master = MasterCf::parse(&master_name, &text).map_err(|fault| Fatal(master_fault(&fault)))?;
            for remark in &master.remarks {
                report.warn(&format!("master.cf: {}", remark.text));
            }
        }
        Err(error) if wants_master => return Err(Fatal(open_error(&master_path, &error))),
        Err(error) => report.warn(&open_error(&master_path, &error)),
    }
    let mut main = MainCf::default();
    if !options.defaults {
        let text = texts.map_or_else(|| read_text(&main_path), |texts| Ok(texts.main.clone()));
        let text = text.map_err(|error| Fatal(open_error(&main_path, &error)))?;
        main = MainCf::parse(&main_name, &text).map_err(|fault| Fatal(fault.to_string()))?;
        for remark in &main.remarks {
            report.warn(&remark.to_string());
        }
        let place = Place::new(&"command line".into(), 1);
        for setting in &options.overrides {
            let (name, value) = main_cf::split_name_value(setting).map_err(|text| {
                let reason = text.split(": ").next().unwrap_or("").to_string();
                Fatal(format!("invalid parameter override: {setting}: {reason}"))
            })?;
            main.set_over(name, value, place.clone());
        }
    }
    Ok(Files { main, main_name, master, master_name })
}

/// A bad line of master.cf in postconf's words.
pub(super) fn master_fault(fault: &yamabiko_config::Fault) -> String {
    match &fault.place {
        Some(place) if !fault.text.starts_with("invalid ") => {
            format!("file {}: line {}: {}", place.file, place.line, fault.text)
        }
        _ => fault.text.clone(),
    }
}

struct Shower<'a> {
    options: &'a Options,
    config: &'a Config,
    usage: &'a Usage,
    /// The configuration's directory was named by `-c` or the environment.
    directory_given: bool,
}

impl Shower<'_> {
    fn main(&self) -> &MainCf {
        self.config.written()
    }

    /// The class of a name, `None` when postconf does not know it.
    fn class(&self, name: &str) -> Option<Class> {
        if table::parameter(name).is_some_and(|parameter| !parameter.is_obsolete) {
            Some(Class::Builtin)
        } else if table::parameters_refer_to(name) {
            // An old name that a default still refers to is listed with the administrator's own.
            Some(Class::User)
        } else if self.usage.is_of_transport(name, self.config.services()) {
            Some(Class::Service)
        } else if self.main().get(name).is_some() && self.usage.uses_main(name, self.config.services()) {
            Some(Class::User)
        } else {
            None
        }
    }

    /// Every name there is to list, sorted.
    fn names(&self) -> Vec<String> {
        let classes = self.options.classes;
        let mut names: Vec<String> = Vec::new();
        if classes.builtin {
            names.extend(table::parameters().iter().filter(|p| !p.is_obsolete).map(|p| p.name.to_string()));
        }
        if classes.service {
            for service in self.config.services() {
                for parameter in table::transport_parameters() {
                    if service_has(service, parameter.of) {
                        names.push(format!("{}_{}", service.name, parameter.suffix));
                    }
                }
            }
        }
        let written = self.main().entries().map(|entry| entry.name.as_str());
        names.extend(
            written
                .filter(|name| match self.class(name) {
                    Some(Class::Builtin) => classes.builtin,
                    Some(Class::User) => classes.user,
                    _ => false,
                })
                .map(str::to_string),
        );
        names.sort();
        names.dedup();
        names
    }

    fn parameters(&self, report: &mut Report<'_>) -> Result<(), Fatal> {
        if self.options.arguments.is_empty() {
            for name in self.names() {
                self.parameter(&name, report)?;
            }
            return Ok(());
        }
        for name in &self.options.arguments {
            match self.class(name) {
                Some(_) => self.parameter(name, report)?,
                None => report.warn(&format!("{name}: unknown parameter")),
            }
        }
        Ok(())
    }

    fn parameter(&self, name: &str, report: &mut Report<'_>) -> Result<(), Fatal> {
        let view = self.config.main();
        let is_written = match name {
            "config_directory" => view.is_set(name) || self.directory_given,
            _ => view.is_set(name) && !table::is_read_only(name),
        };
        if self.options.set_only && !is_written {
            return Ok(());
        }
        let value = view.unexpanded(name).unwrap_or_default();
        let is_raw = table::parameter(name).is_some_and(|parameter| parameter.kind == Kind::Raw);
        let value = if self.options.expand && !is_raw { self.expand(&view, &value, report)? } else { value };
        let text = print::parameter(name, &value, self.options.hide_name, self.options.hide_value, self.options.fold);
        report.out.write_all(text.as_bytes())?;
        Ok(())
    }

    fn expand(&self, view: &View, value: &str, report: &mut Report<'_>) -> Result<String, Fatal> {
        view.try_expand(value).map_err(|error| {
            report.warn(&error.to_string());
            Fatal("macro processing error".to_string())
        })
    }

    fn services(&self, report: &mut Report<'_>) -> Result<(), Fatal> {
        let patterns = self.patterns(1, 2, "-M option requires service_name[/type]")?;
        self.each_match(&patterns, report, |shower, index, pattern, report| {
            let _ = pattern;
            let text = shower.service_line(index, report)?;
            report.out.write_all(text.as_bytes())?;
            Ok(true)
        })
    }

    fn service_line(&self, index: usize, report: &mut Report<'_>) -> Result<String, Fatal> {
        // `each_match` counts through the services.
        let Some(service) = self.config.services().get(index) else { return Ok(String::new()) };
        let words = self.command_words(index, report)?;
        let [private, unprivileged, chroot, wakeup, limit] = &service.columns;
        let columns = [
            &service.name,
            service.kind.word(),
            private,
            unprivileged,
            chroot,
            wakeup,
            limit,
            service.command.as_str(),
        ];
        Ok(print::service(columns, &words, self.options.fold))
    }

    fn command_words(&self, index: usize, report: &mut Report<'_>) -> Result<Vec<print::CommandWord>, Fatal> {
        let Some(service) = self.config.services().get(index) else { return Ok(Vec::new()) };
        let view = self.config.view_at(index);
        let mut failed = None;
        let words = print::command_words(&service.words, &mut |value| {
            if !self.options.expand || failed.is_some() {
                return value.to_string();
            }
            self.expand(&view, value, report).unwrap_or_else(|fatal| {
                failed = Some(fatal);
                String::new()
            })
        });
        failed.map_or(Ok(words), Err)
    }

    fn columns(&self, report: &mut Report<'_>) -> Result<(), Fatal> {
        let patterns = self.patterns(1, 3, "-F option requires service_name[/type[/field]]")?;
        for pattern in &patterns {
            if let Some(field) = pattern.part(2)
                && field != "*"
                && !master_cf::COLUMN_NAMES.contains(&field)
            {
                return Err(Fatal(format!("invalid service attribute name: \"{field}\"")));
            }
        }
        self.each_match(&patterns, report, |shower, index, pattern, report| {
            let Some(service) = shower.config.services().get(index) else { return Ok(false) };
            let id = service.id();
            let [private, unprivileged, chroot, wakeup, limit] = &service.columns;
            let values = [
                &service.name,
                service.kind.word(),
                private,
                unprivileged,
                chroot,
                wakeup,
                limit,
                service.command.as_str(),
            ];
            for (field, value) in master_cf::COLUMN_NAMES.iter().zip(values) {
                if !pattern.is_none_or(|pattern| pattern.takes(2, field)) {
                    continue;
                }
                let options = shower.options;
                let head = match (options.hide_value, options.hide_name) {
                    (true, _) => format!("{id}/{field}"),
                    (_, true) => value.to_string(),
                    _ => format!("{id}/{field} = {value}"),
                };
                let words = if *field == "command" && !options.hide_value {
                    shower.command_words(index, report)?
                } else {
                    Vec::new()
                };
                report.out.write_all(print::command(&head, &words, options.fold).as_bytes())?;
            }
            Ok(true)
        })
    }

    fn service_parameters(&self, report: &mut Report<'_>) -> Result<(), Fatal> {
        let patterns = self.patterns(1, 3, "-P option requires service_name[/type[/parameter]]")?;
        self.each_match(&patterns, report, |shower, index, pattern, report| {
            let Some(service) = shower.config.services().get(index) else { return Ok(false) };
            let view = shower.config.view_at(index);
            let mut names: Vec<&str> = service.overrides.iter().map(|setting| setting.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let mut found = false;
            for name in names.into_iter().filter(|name| pattern.is_none_or(|pattern| pattern.takes(2, name))) {
                found = true;
                let mut value = service.override_of(name).unwrap_or("").to_string();
                if shower.options.expand {
                    value = shower.expand(&view, &value, report)?;
                }
                let name = format!("{}/{name}", service.id());
                let options = shower.options;
                let text = print::parameter(&name, &value, options.hide_name, options.hide_value, options.fold);
                report.out.write_all(text.as_bytes())?;
            }
            Ok(found)
        })
    }

    fn patterns(&self, least: usize, most: usize, complaint: &str) -> Result<Vec<Pattern>, Fatal> {
        self.options
            .arguments
            .iter()
            .map(|argument| Pattern::parse(argument, least, most).ok_or_else(|| Fatal(complaint.to_string())))
            .collect()
    }

    /// Calls `act` for each service, in the file's order, that a pattern names (once for each service and pattern), and
    /// complains about patterns for which it found nothing.
    fn each_match(
        &self,
        patterns: &[Pattern],
        report: &mut Report<'_>,
        mut act: impl FnMut(&Self, usize, Option<&Pattern>, &mut Report<'_>) -> Result<bool, Fatal>,
    ) -> Result<(), Fatal> {
        let mut matched = vec![false; patterns.len()];
        for (index, service) in self.config.services().iter().enumerate() {
            if patterns.is_empty() {
                act(self, index, None, report)?;
                continue;
            }
            for (pattern, matched) in patterns.iter().zip(&mut matched) {
                if pattern.takes(0, &service.name) && pattern.takes(1, service.kind.word()) {
                    *matched |= act(self, index, Some(pattern), report)?;
                }
            }
        }
        for (pattern, _) in patterns.iter().zip(matched).filter(|(_, matched)| !matched) {
            report.warn(&format!("unmatched request: \"{}\"", pattern.text));
        }
        Ok(())
    }

    fn warn_read_only(&self, files: &Files, report: &mut Report<'_>) {
        for entry in self.main().entries() {
            if table::is_read_only(&entry.name) {
                let text =
                    format!("{}: read-only parameter assignment: {}={}", files.main_name, entry.name, entry.value);
                report.warn(&text);
            }
        }
    }

    /// Names that values refer to and that are nowhere.
    fn warn_undefined(&self, files: &Files, report: &mut Report<'_>) {
        let services = self.config.services();
        let is_known = |name: &str| {
            table::parameter(name).is_some_and(|parameter| !parameter.is_obsolete)
                || table::parameters_refer_to(name)
                || self.main().get(name).is_some()
                || self.usage.is_of_transport(name, services)
        };
        for service in services {
            let mut seen = HashSet::new();
            for setting in &service.overrides {
                for name in references_of(&setting.name, &setting.value) {
                    if !is_known(&name) && service.override_of(&name).is_none() && seen.insert(name.clone()) {
                        report.warn(&format!("{}: undefined parameter: {name}", files.master_name));
                    }
                }
            }
        }
        let mut seen = HashSet::new();
        for entry in self.main().entries() {
            let mut names = references_of(&entry.name, &entry.value);
            if entry.name == "smtpd_restriction_classes" {
                names.extend(split_list(&entry.value).into_iter().filter(|name| !name.contains(['$', '{'])));
            }
            for name in names {
                if !is_known(&name) && seen.insert(name.clone()) {
                    report.warn(&format!("{}: undefined parameter: {name}", files.main_name));
                }
            }
        }
    }

    fn warn_unused(&self, files: &Files, report: &mut Report<'_>) {
        let services = self.config.services();
        if self.options.mode == Mode::Main {
            for entry in self.main().entries().filter(|entry| !self.usage.uses_main(&entry.name, services)) {
                let text = format!("{}: unused parameter: {}={}", files.main_name, entry.name, entry.value);
                report.warn(&text);
            }
        }
        for (index, service) in services.iter().enumerate() {
            for setting in &service.overrides {
                if !self.usage.uses_service(&setting.name, index, services) {
                    let text = format!("{}: unused parameter: {}={}", files.master_name, setting.name, setting.value);
                    report.warn(&text);
                }
            }
        }
    }
}

/// `name[/type[/what]]`, where each part may be `*`.
pub(super) struct Pattern {
    text: String,
    parts: Vec<String>,
}

impl Pattern {
    pub(super) fn parse(text: &str, least: usize, most: usize) -> Option<Pattern> {
        // A service's name may hold a slash only as part of an address, which has none: the parts are what slashes part.
        let parts: Vec<String> = text.split('/').filter(|part| !part.is_empty()).map(str::to_string).collect();
        let sound = parts.iter().all(|part| part == "*" || !part.contains('*'));
        let in_range = (least..=most).contains(&parts.len());
        (sound && in_range && is_service_type(parts.get(1))).then(|| Pattern { text: text.to_string(), parts })
    }

    pub(super) fn part(&self, index: usize) -> Option<&str> {
        self.parts.get(index).map(String::as_str)
    }

    pub(super) fn takes(&self, index: usize, word: &str) -> bool {
        self.part(index).is_none_or(|part| part == "*" || part == word)
    }
}

fn is_service_type(word: Option<&String>) -> bool {
    word.is_none_or(|word| word == "*" || yamabiko_config::ServiceType::of_word(word).is_some())
}

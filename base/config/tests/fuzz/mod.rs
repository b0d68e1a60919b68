//! What must hold for any input. Run on made-up input by `hostile.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_config::{Config, Host, MainCf, MasterCf, table};

const NAMES: (&str, &str) = ("main.cf", "master.cf");

/// A main.cf of any bytes.
pub fn main_cf(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let written = MainCf::parse("main.cf", &text);
    let master = "smtp inet n - n - - smtpd -o relayhost=$myhostname\nslow unix - - n - - smtp\n";
    match Config::from_texts(&text, master, NAMES, &Host::default()) {
        Ok(config) => {
            let view = config.main();
            // Everything was checked, so every parameter can be read as what it is, in every view.
            for view in [&view, &config.view_at(0)] {
                for parameter in table::parameters() {
                    read(view, parameter);
                }
            }
            for entry in config.written().entries() {
                assert!(entry.place.line >= 1);
                let _ = view.find(&entry.name);
            }
            for notice in config.notices() {
                assert!(!notice.text.is_empty());
            }
        }
        Err(error) => {
            assert!(!error.faults.is_empty());
            for place in error.faults.iter().filter_map(|fault| fault.place.as_ref()) {
                let lines = if *place.file == *NAMES.0 { text.split('\n').count() } else { 2 };
                assert!((1..=lines).contains(&(place.line as usize)), "{place} of {lines} lines");
            }
        }
    }
    if let Ok(written) = written {
        // What was read can be written down and read again.
        let again: String = written.entries().map(|entry| format!("{} = {}\n", entry.name, entry.value)).collect();
        let again = MainCf::parse("main.cf", &again).expect("entries are entries");
        assert!(written.entries().map(|e| (&e.name, &e.value)).eq(again.entries().map(|e| (&e.name, &e.value))));
    }
}

fn read(view: &yamabiko_config::View, parameter: &table::Parameter) {
    let name = parameter.name;
    if parameter.status() != table::Status::Honoured {
        let _ = view.text(name);
        return;
    }
    match parameter.kind {
        table::Kind::Bool => drop(view.bool(name)),
        table::Kind::Int { min, .. } | table::Kind::Size { min, .. } => assert!(view.int(name) >= min, "{name}"),
        table::Kind::Time { .. } => drop(view.duration(name)),
        table::Kind::List { .. } | table::Kind::Tables { .. } | table::Kind::Restrictions => drop(view.list(name)),
        _ => drop(view.text(name)),
    }
}

/// A master.cf of any bytes.
pub fn master_cf(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let main = "own = 1\n";
    if let Ok(config) = Config::from_texts(main, &text, NAMES, &Host::default()) {
        for service in config.services() {
            let view = config.service_view(service);
            let _ = yamabiko_config::PipeService::of(service);
            assert_eq!(view.text("service_name"), service.name);
            let _ = (view.int("message_size_limit"), view.list("smtpd_recipient_restrictions"));
            let _ = (service.wakeup(), service.process_limit(), service.is_private(), service.is_chroot(false));
            if let Some(listen) = service.listen() {
                let _ = listen.port_number("# none\nsmtp 25/tcp mail\n");
            }
            if service.kind != yamabiko_config::ServiceType::Inet {
                let _ = view.transport_int(&service.name, "destination_concurrency_limit");
                let _ = view.transport_duration(&service.name, "destination_rate_delay");
            }
        }
    }
    let _ = MasterCf::parse("master.cf", &text);
}

//! The schedule's settings out of main.cf and master.cf.
//!
//! `<transport>_destination_...` counts wherever it is written: in main.cf, as Postfix documents, and as `-o` in
//! master.cf, where Postfix ignores it silently and many recipes have it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::{Config, ServiceType, View};
use yamabiko_schedule::{ConcurrencyFeedback, Settings, SiteRule, Slots, TransportSettings};

fn count(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Everything from a configuration that scheduling depends on.
pub fn from_config(config: &Config) -> Settings {
    let main = config.main();
    let default_limit = count(main.int("default_process_limit"));
    let mut settings = Settings {
        queue_run_delay: main.duration("queue_run_delay"),
        minimal_backoff_time: main.duration("minimal_backoff_time"),
        maximal_backoff_time: main.duration("maximal_backoff_time"),
        maximal_queue_lifetime: main.duration("maximal_queue_lifetime"),
        bounce_queue_lifetime: main.duration("bounce_queue_lifetime"),
        delay_warning_time: main.duration("delay_warning_time"),
        transport_retry_time: main.duration("transport_retry_time"),
        active_limit: count(main.int("qmgr_message_active_limit")),
        recipient_limit: count(main.int("qmgr_message_recipient_limit")),
        recipient_minimum: count(main.int("qmgr_message_recipient_minimum")),
        clog_warn_time: if main.bool("helpful_warnings") {
            main.duration("qmgr_clog_warn_time")
        } else {
            Duration::ZERO
        },
        feedback_debug: main.bool("destination_concurrency_feedback_debug"),
        defer_transports: main.list("defer_transports").into_iter().collect(),
        ..Settings::default()
    };
    // qmail's queuelifetime, where main.cf does not say better.
    if let Some(lifetime) = crate::qmail::controls(config).0.and_then(|controls| controls.lifetime) {
        if !main.is_set("maximal_queue_lifetime") {
            settings.maximal_queue_lifetime = lifetime;
        }
        if !main.is_set("bounce_queue_lifetime") {
            settings.bounce_queue_lifetime = lifetime;
        }
    }
    for service in config.services() {
        if service.kind != ServiceType::Unix {
            continue;
        }
        let view = config.service_view(service);
        let limit = service.process_limit().map_or(default_limit, |limit| limit as usize);
        let client = matches!(service.command.as_str(), "smtp" | "lmtp").then_some(service.command.as_str());
        settings.transports.insert(service.name.clone(), transport(&view, &service.name, limit, client));
    }
    settings
}

/// What cannot be obeyed, in Postfix's words.
pub fn remarks(config: &Config) -> Vec<String> {
    let mut remarks = Vec::new();
    for service in config.services().iter().filter(|service| service.kind == ServiceType::Unix) {
        let view = config.service_view(service);
        for sign in ["negative", "positive"] {
            let suffix = format!("destination_concurrency_{sign}_feedback");
            let text = view.transport_text(&service.name, &suffix);
            if let Err(why) = ConcurrencyFeedback::from_str(&text) {
                let name = format!("{}_{suffix}", service.name);
                remarks.push(format!("{name}: ignoring malformed or unreasonable feedback: {text} ({why}); 1 is used"));
            }
        }
        for why in sending_profiles(&view, &service.name).1 {
            remarks.push(format!("{}_sending_profiles: {why}", service.name));
        }
    }
    // A faulty default is the same fault for every transport.
    remarks.truncate(10);
    remarks
}

/// The limits of known receivers that a transport keeps to, and what is wrong with what it asks for.
fn sending_profiles(view: &View, name: &str) -> (Arc<[SiteRule]>, Vec<String>) {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
    yamabiko_schedule::profiles::rules(&view.transport_text(name, "sending_profiles"), read)
}

/// `client`: it is the SMTP or the LMTP client, whose servers are receiving sites.
fn transport(view: &View, name: &str, process_limit: usize, client: Option<&str>) -> TransportSettings {
    let feedback = |suffix: &str| {
        let text = view.transport_text(name, suffix);
        // What is none was said by `remarks`.
        ConcurrencyFeedback::from_str(&text).unwrap_or(ConcurrencyFeedback::ONE)
    };
    let number = |suffix: &str| view.transport_int(name, suffix);
    let small = |suffix: &str| u32::try_from(number(suffix)).unwrap_or(0);
    TransportSettings {
        process_limit,
        destination_concurrency_limit: small("destination_concurrency_limit"),
        destination_recipient_limit: count(number("destination_recipient_limit")),
        recipient_limit: count(number("recipient_limit")),
        extra_recipient_limit: count(number("extra_recipient_limit")),
        recipient_refill_limit: count(number("recipient_refill_limit")),
        recipient_refill_delay: view.transport_duration(name, "recipient_refill_delay"),
        initial_destination_concurrency: small("initial_destination_concurrency"),
        positive_feedback: feedback("destination_concurrency_positive_feedback"),
        negative_feedback: feedback("destination_concurrency_negative_feedback"),
        failed_cohort_limit: small("destination_concurrency_failed_cohort_limit"),
        destination_rate_delay: view.transport_duration(name, "destination_rate_delay"),
        transport_rate_delay: view.transport_duration(name, "transport_rate_delay"),
        one_session: client.is_some() && process_limit == 1,
        slots: slots(view, name),
        ..sites(view, name, client)
    }
}

/// The parameters of delivery slots.
const SLOTS: [&str; 4] =
    ["delivery_slot_cost", "delivery_slot_discount", "delivery_slot_loan", "minimum_delivery_slots"];

/// Who writes one of them asks for Postfix's order; else messages take turns.
fn slots(view: &View, name: &str) -> Option<Slots> {
    if !SLOTS.iter().any(|suffix| view.transport_is_set(name, suffix)) {
        return None;
    }
    let [cost, discount, loan, minimum] =
        SLOTS.map(|suffix| u32::try_from(view.transport_int(name, suffix)).unwrap_or(0));
    Some(Slots { cost, discount, loan, minimum })
}

/// What is about receiving sites: for the clients only, which know them.
fn sites(view: &View, name: &str, client: Option<&str>) -> TransportSettings {
    let Some(program) = client else { return TransportSettings::default() };
    let small = |suffix: &str| u32::try_from(view.transport_int(name, suffix)).unwrap_or(0);
    // Receivers count by the address that they see. Where several are possible it is the system's choice.
    let addresses = ["bind_address", "bind_address6"].map(|suffix| view.text(&format!("{program}_{suffix}")));
    let source = addresses.iter().filter(|address| !address.is_empty()).cloned().collect::<Vec<_>>().join(",");
    TransportSettings {
        site_concurrency_limit: small("site_concurrency_limit"),
        site_rate_delay: view.transport_duration(name, "site_rate_delay"),
        site_session_pause: view.transport_duration(name, "site_session_pause"),
        session_message_limit: small("session_message_limit"),
        site_adaptive: view.transport_text(name, "site_adaptive_limits") == "yes",
        site_rules: sending_profiles(view, name).0,
        source: source.into(),
        ..TransportSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One process of a client in master.cf is one session at a time.
    #[test]
    fn one_process_of_a_client_is_one_session() {
        for (service, expected) in [
            ("docomo unix - - n - 1 smtp", true),
            ("docomo unix - - n - 2 smtp", false),
            ("docomo unix - - n - - smtp", false),
            ("docomo unix - - n - 0 smtp", false),
            ("docomo unix - - n - 1 lmtp", true),
            ("docomo unix - n n - 1 pipe argv=/bin/true", false),
        ] {
            let (master, host) = (format!("{service}\n"), yamabiko_config::Host::default());
            let config = Config::from_texts("", &master, ("main.cf", "master.cf"), &host).unwrap();
            assert_eq!(from_config(&config).transport("docomo").one_session, expected, "{service}");
        }
    }

    /// How many recipients of a message come into memory, and when the next do, wherever that is written.
    #[test]
    fn portions_of_recipients() {
        let plain = "smtp unix - - n - - smtp\nother unix - - n - - smtp\n";
        for (main, master, smtp, other) in [
            ("", plain, (1000, 100, 5), (1000, 100, 5)),
            (
                "default_extra_recipient_limit = 7\ndefault_recipient_refill_limit = 8\ndefault_recipient_refill_delay = 9",
                plain,
                (7, 8, 9),
                (7, 8, 9),
            ),
            ("smtp_extra_recipient_limit = 0\nother_recipient_refill_delay = 1m", plain, (0, 100, 5), (1000, 100, 60)),
            (
                "",
                "smtp unix - - n - - smtp\nother unix - - n - - smtp\n  -o other_recipient_refill_limit=3\n",
                (1000, 100, 5),
                (1000, 3, 5),
            ),
        ] {
            let host = yamabiko_config::Host::default();
            let config = Config::from_texts(main, master, ("main.cf", "master.cf"), &host).unwrap();
            let settings = from_config(&config);
            let of = |name: &str| {
                let of = settings.transport(name);
                (of.extra_recipient_limit, of.recipient_refill_limit, of.recipient_refill_delay.as_secs())
            };
            assert_eq!((of("smtp"), of("other")), (smtp, other), "{main} {master}");
            assert!(!settings.feedback_debug);
        }
    }

    /// Who writes one of the parameters of delivery slots, anywhere, has Postfix's order for that transport.
    #[test]
    fn delivery_slots_are_asked_for() {
        let slots = |cost, discount, loan, minimum| Some(Slots { cost, discount, loan, minimum });
        let plain = "smtp unix - - n - - smtp\nother unix - - n - - smtp\n";
        for (main, master, smtp, other) in [
            ("", plain, None, None),
            ("default_minimum_delivery_slots = 3", plain, slots(5, 50, 3, 3), slots(5, 50, 3, 3)),
            ("smtp_delivery_slot_cost = 0", plain, slots(0, 50, 3, 3), None),
            (
                "other_delivery_slot_loan = 7\ndefault_delivery_slot_discount = 9",
                plain,
                slots(5, 9, 3, 3),
                slots(5, 9, 7, 3),
            ),
            ("", "smtp unix - - n - - smtp\n  -o smtp_minimum_delivery_slots=8\n", slots(5, 50, 3, 8), None),
            (
                "",
                "smtp unix - - n - - smtp\nother unix - - n - - smtp\n  -o smtp_delivery_slot_cost=2\n",
                None,
                slots(2, 50, 3, 3),
            ),
        ] {
            let host = yamabiko_config::Host::default();
            let config = Config::from_texts(main, master, ("main.cf", "master.cf"), &host).unwrap();
            let settings = from_config(&config);
            assert_eq!(
                (settings.transport("smtp").slots, settings.transport("other").slots),
                (smtp, other),
                "{main} {master}"
            );
        }
    }
}

//! The schedule's settings out of main.cf and master.cf.
//!
//! `<transport>_destination_...` counts wherever it is written: in main.cf, as Postfix documents, and as `-o` in
//! master.cf, where Postfix ignores it silently and many recipes have it.

use std::str::FromStr;
use std::time::Duration;

use yamabiko_config::{Config, ServiceType, View};
use yamabiko_schedule::{ConcurrencyFeedback, Settings, TransportSettings};

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
        settings.transports.insert(service.name.clone(), transport(&view, &service.name, limit));
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
    }
    // A faulty default is the same fault for every transport.
    remarks.truncate(10);
    remarks
}

fn transport(view: &View, name: &str, process_limit: usize) -> TransportSettings {
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
        initial_destination_concurrency: small("initial_destination_concurrency"),
        positive_feedback: feedback("destination_concurrency_positive_feedback"),
        negative_feedback: feedback("destination_concurrency_negative_feedback"),
        failed_cohort_limit: small("destination_concurrency_failed_cohort_limit"),
        destination_rate_delay: view.transport_duration(name, "destination_rate_delay"),
        transport_rate_delay: view.transport_duration(name, "transport_rate_delay"),
    }
}

//! The schedule's settings out of main.cf and master.cf.
//!
//! `<transport>_destination_...` counts wherever it is written: in main.cf, as Postfix documents, and as `-o` in
//! master.cf, where Postfix ignores it silently and many recipes have it.

use std::str::FromStr;

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
        defer_transports: main.list("defer_transports").into_iter().collect(),
        ..Settings::default()
    };
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

fn transport(view: &View, name: &str, process_limit: usize) -> TransportSettings {
    let feedback = |suffix: &str| {
        let text = view.transport_text(name, suffix);
        ConcurrencyFeedback::from_str(&text).unwrap_or(ConcurrencyFeedback::ONE)
    };
    let number = |suffix: &str| view.transport_int(name, suffix);
    let small = |suffix: &str| u32::try_from(number(suffix)).unwrap_or(0);
    TransportSettings {
        process_limit,
        destination_concurrency_limit: small("destination_concurrency_limit"),
        destination_recipient_limit: count(number("destination_recipient_limit")),
        initial_destination_concurrency: small("initial_destination_concurrency"),
        positive_feedback: feedback("destination_concurrency_positive_feedback"),
        negative_feedback: feedback("destination_concurrency_negative_feedback"),
        failed_cohort_limit: small("destination_concurrency_failed_cohort_limit"),
        destination_rate_delay: view.transport_duration(name, "destination_rate_delay"),
        transport_rate_delay: view.transport_duration(name, "transport_rate_delay"),
    }
}

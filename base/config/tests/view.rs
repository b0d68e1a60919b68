//! The view of small configurations.

use std::time::Duration;

use yamabiko_config::{Config, Host, ServiceType};

const MASTER: &str = "\
smtp inet n - n - - smtpd
submission inet n - n - - smtpd
  -o smtpd_client_restrictions=$my_clients -o { smtpd_banner = $myhostname $service_name }
  -o message_size_limit=99
smtp unix - - n - - smtp
docomo unix - - n - 1 smtp -o smtp_destination_concurrency_limit=1
slow unix - - n - - smtp
local unix - n n - - local
";

fn host() -> Host {
    Host { hostname: "mx.lab.test".into(), ..Host::default() }
}

#[test]
fn values_of_main_and_of_a_service() {
    let main = "compatibility_level = 3.6\nmy_clients = permit_mynetworks, reject\nmydestination = $myhostname, localhost.$mydomain\n\
                slow_destination_rate_delay = 3\nslow_destination_concurrency_limit = 7\nqueue_run_delay = 5m\n";
    let config = Config::from_texts(main, MASTER, ("main.cf", "master.cf"), &host()).unwrap();
    let view = config.main();
    assert_eq!(view.text("myhostname"), "mx.lab.test");
    assert_eq!(view.text("mydomain"), "lab.test");
    assert_eq!(view.text("myorigin"), "mx.lab.test");
    assert_eq!(view.list("mydestination"), ["mx.lab.test", "localhost.lab.test"]);
    assert_eq!(view.text("mynetworks"), "127.0.0.1/32 [::1]/128");
    assert!(!view.bool("append_dot_mydomain"));
    assert_eq!(view.int("message_size_limit"), 10_240_000);
    assert_eq!(view.duration("queue_run_delay"), Duration::from_secs(300));
    assert_eq!(view.duration("maximal_queue_lifetime"), Duration::from_secs(432_000));
    assert_eq!(view.transport_int("smtp", "destination_concurrency_limit"), 20);
    assert_eq!(view.transport_int("local", "destination_concurrency_limit"), 2);
    assert_eq!(view.transport_int("docomo", "destination_concurrency_limit"), 1);
    assert_eq!(view.transport_int("slow", "destination_concurrency_limit"), 7);
    assert_eq!(view.transport_duration("slow", "destination_rate_delay"), Duration::from_secs(3));
    assert_eq!(view.place("queue_run_delay").unwrap().to_string(), "main.cf, line 6");

    let submission = config.service("submission", ServiceType::Inet).unwrap();
    let view = config.service_view(submission);
    assert_eq!(view.int("message_size_limit"), 99);
    assert_eq!(view.list("smtpd_client_restrictions"), ["permit_mynetworks", "reject"]);
    assert_eq!(view.text("smtpd_banner"), "mx.lab.test submission");
    assert_eq!(view.place("smtpd_banner").unwrap().to_string(), "master.cf, line 2");
}

#[test]
fn no_level_means_the_old_defaults() {
    let config = Config::from_texts("", "", ("main.cf", "master.cf"), &host()).unwrap();
    let view = config.main();
    assert!(view.bool("append_dot_mydomain"));
    assert_eq!(view.text("mynetworks"), "127.0.0.0/8 [::1]/128");
    assert_eq!(view.text("relay_domains"), "mx.lab.test, localhost.lab.test, localhost");
}

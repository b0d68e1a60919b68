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

fn notices(main: &str, master: &str) -> Vec<String> {
    let config = Config::from_texts(main, master, ("main.cf", "master.cf"), &host()).unwrap();
    config.notices().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_worth_telling() {
    let level = "compatibility_level = 3.6\n";
    for (main, master, expected) in [
        ("relayhost = a\nrelayhost = b\n", "", &["main.cf, line 3: overriding earlier entry: relayhost=a"][..]),
        ("foo_bar = 1\n", "", &["main.cf, line 2: unused parameter: foo_bar=1"]),
        ("mydestinaton = 1\n", "", &["main.cf, line 2: unused parameter: mydestinaton=1; is \"mydestination\" meant?"]),
        ("own = 1\nrelayhost = ${x?$own}\n", "", &[]),
        ("own = 1\n", "smtp inet n - n - - smtpd -o relayhost=$own", &[]),
        ("", "smtp inet n - n - - smtpd -o zz=1", &["master.cf, line 1: unused parameter: zz=1"]),
        ("", "d unix - - n - 1 smtp -o smtp_destination_recipient_limit=1", &[]),
        ("d_time_limit = 5\nd_recipient_limit = 5\n", "d unix - - n - - pipe", &[]),
        ("nosuch_recipient_limit = 5\n", "", &["main.cf, line 2: unused parameter: nosuch_recipient_limit=5"]),
        (
            "bounce_queue_lifetime = 86400\n",
            "",
            &[
                "main.cf, line 2: bounce_queue_lifetime=86400 is beyond every limit in this parameter's default unit (d): \
               taken as 86400 seconds; write 86400s",
            ],
        ),
        (
            "enable_idna2003_compatibility = yes\n",
            "",
            &["main.cf, line 2: enable_idna2003_compatibility has no effect yet: it needs later work"],
        ),
        ("smtpd_tls_security_level =\n", "", &[]),
        // It is the default of limits that others have to keep above.
        ("default_process_limit = 2\n", "", &[]),
        ("max_use = 5\n", "", &["main.cf, line 2: max_use has no effect: daemon processes need no replacement"]),
        (
            "d_extra_recipient_limit = 5\nd_recipient_refill_delay = 9\nd_delivery_slot_cost = 5\n\
             default_recipient_refill_limit = 7\ndestination_concurrency_feedback_debug = yes\n",
            "d unix - - n - - smtp\n",
            &[],
        ),
        (
            "virtual_maps = hash:/x\n",
            "",
            &[
                "main.cf, line 2: support for parameter \"virtual_maps\" will be removed; instead, specify \"virtual_alias_maps\"",
            ],
        ),
        (
            "mailbox_size_limit = 5000\nmessage_size_limit = 6000\n",
            "",
            &[
                "main.cf, line 2: mailbox_size_limit=5000 is smaller than message_size_limit=6000: messages between the \
               two are taken and then returned",
            ],
        ),
        (
            "smtp_connection_cache_time_limit = 30s\nlmtp_connection_cache_time_limit = 2s\n",
            "",
            &["main.cf, line 2: smtp_connection_cache_time_limit=30s is cut to connection_cache_ttl_limit=2s"],
        ),
        ("smtp_connection_cache_time_limit = 30s\nconnection_cache_ttl_limit = 1m\n", "", &[]),
        ("mailbox_size_limit = 0\nmessage_size_limit = 60000000\n", "", &[]),
        ("virtual_alias_maps = ldap:vv\nvv_server_host = x\n", "", &[]),
        ("content_filter = scan:x\nsmtpd_authorized_xclient_hosts = 127.0.0.1\n", "", &[]),
        (
            "",
            "smtp inet n - n - - smptd",
            &["master.cf, line 1: service smtp/inet: there is no program \"smptd\": nothing answers there"],
        ),
        (
            "",
            "smtp inet n - n - 1 qmqpd",
            &["master.cf, line 1: service smtp/inet: qmqpd is not there yet: nothing answers there"],
        ),
    ] {
        assert_eq!(notices(&format!("{level}{main}"), master), expected, "{main:?} {master:?}");
    }
    assert!(
        notices("", "").contains(&"using backwards-compatible default setting append_dot_mydomain=yes".to_string()),
        "{:?}",
        notices("", "")
    );
}

#[test]
fn faults_are_named_with_their_place() {
    for (main, master, expected) in [
        ("queue_run_delay = soon\n", "", "main.cf, line 1: parameter queue_run_delay: bad time value or unit: soon"),
        ("message_size_limit = 1M\n", "", "main.cf, line 1: bad numerical configuration: message_size_limit = 1M"),
        ("biff = maybe\n", "", "main.cf, line 1: bad boolean configuration: biff = maybe"),
        ("bounce_size_limit = 0\n", "", "main.cf, line 1: invalid bounce_size_limit parameter value 0 < 1"),
        ("default_process_limit = 0\n", "", "main.cf, line 1: invalid default_process_limit parameter value 0 < 1"),
        (
            "maximal_queue_lifetime = 101d\n",
            "",
            "main.cf, line 1: invalid maximal_queue_lifetime parameter value 8726400 > 8640000",
        ),
        (
            "relayhost = $a\na = $relayhost\n",
            "",
            "main.cf, line 1: relayhost: unreasonable macro call nesting: \"a\" needs itself",
        ),
        ("relayhost = ${x\n", "", "main.cf, line 1: relayhost: truncated macro reference: \"${x\""),
        (
            "relayhost = MX.lab.test\nmyhostname = mx.lab.test\n",
            "",
            "main.cf, line 1: myhostname and relayhost parameter settings must not be identical: mx.lab.test",
        ),
        (
            "relayhost = x\nmyorigin = a, b\n",
            "",
            "main.cf, line 2: myorigin parameter setting must not contain multiple values: a, b",
        ),
        ("mail_name =\n", "", "main.cf, line 1: bad string length 0 < 1: mail_name = "),
        ("", "smtp inet n - n - - smtpd -o biff=2\n", "master.cf, line 1: bad boolean configuration: biff = 2"),
        (
            "x_recipient_limit = y\n",
            "x unix - - n - - smtp\n",
            "main.cf, line 1: bad numerical configuration: x_recipient_limit = y",
        ),
        (
            "relayhost = mx.lab.test\n",
            "",
            "main.cf, line 1: myhostname and relayhost parameter settings must not be identical: mx.lab.test",
        ),
        ("myorigin = a b\n", "", "main.cf, line 1: myorigin parameter setting must not contain multiple values: a b"),
        (
            "myhostname = foo..b\nmydomain = b\n",
            "",
            "main.cf, line 1: parameter myhostname: bad parameter value: foo..b",
        ),
        ("mynetworks_style = net\n", "", "main.cf, line 1: unknown mynetworks mask style value \"net\" in \"net\""),
        ("inet_protocols = ipv4, x\n", "", "main.cf, line 1: unknown inet_protocols value \"x\" in \"ipv4, x\""),
        (
            "inet_interfaces = mx.test\n",
            "",
            "main.cf, line 1: config variable inet_interfaces: host not found: mx.test",
        ),
        ("", "smtp inet n - n -\n", "master.cf, line 1: bad field count"),
        (
            "",
            "smtp foo n - n - - smtpd\n",
            "master.cf, line 1: invalid type field \"foo\" in \"smtp foo n - n - - smtpd\"",
        ),
    ] {
        let error = Config::from_texts(main, master, ("main.cf", "master.cf"), &host()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn an_origin_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mailname");
    std::fs::write(&file, "example.jp\nmore\n").unwrap();
    let main = format!("myorigin = {}\nmydestination = $myorigin\n", file.display());
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host()).unwrap();
    assert_eq!(config.main().text("myorigin"), "example.jp");
    assert_eq!(config.main().raw("myorigin"), file.display().to_string());
    std::fs::remove_file(&file).unwrap();
    let error = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host()).unwrap_err();
    assert_eq!(error.to_string(), format!("main.cf, line 1: open {}: No such file or directory", file.display()));
}

/// A mail system has services; a command asks main.cf alone.
#[test]
fn a_command_needs_no_master_cf() {
    let dir = tempfile::tempdir().unwrap();
    let both = || {
        let why = |loaded: Result<_, yamabiko_config::ConfigError>| loaded.err().map(|error| error.to_string());
        let host = Host::default();
        [why(Config::load(dir.path(), &host)), why(Config::load_for_command(dir.path(), &host))]
    };
    let missing = |name: &str| Some(format!("open {}: No such file or directory", dir.path().join(name).display()));
    assert_eq!(both(), [missing("main.cf"), missing("main.cf")]);
    std::fs::write(dir.path().join("main.cf"), "mail_name = X\n").unwrap();
    assert_eq!(both(), [missing("master.cf"), None]);
    std::fs::write(dir.path().join("master.cf"), "smtp inet\n").unwrap();
    assert!(both().iter().all(Option::is_some));
}

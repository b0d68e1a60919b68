//! Receivers with limits: the recipe that everybody copies, profiles, and limits that are learned, through the real program.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Instance, Sink, address};

/// Ended with the test, however that ends.
struct Simulator(Child);

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mail system whose mail all goes to a simulator.
struct Rehearsal {
    instance: Instance,
    /// The simulator's first address, and the port of its hosts.
    hosts: SocketAddr,
    dns_port: String,
    _simulator: Option<Simulator>,
}

impl Rehearsal {
    fn new() -> Self {
        let mut instance = Instance::new();
        let (mut hosts, dns_port) = (address(), address().port().to_string());
        // Nobody else's: other processes' tests are at these ports of other addresses.
        hosts.set_port(hosts.port() + 30_000);
        for (name, value) in [
            ("relayhost", String::new()),
            ("smtp_dns_support_level", "enabled".to_owned()),
            ("dns_servers", format!("{}:{dns_port}", hosts.ip())),
            ("smtp_tcp_port", hosts.port().to_string()),
            ("minimal_backoff_time", "2s".to_owned()),
            ("maximal_backoff_time", "3s".to_owned()),
            ("queue_run_delay", "1s".to_owned()),
        ] {
            instance.set(name, &value);
        }
        Self { instance, hosts, dns_port, _simulator: None }
    }

    fn start(&mut self, profiles: &[&str]) {
        let mut simulator = self.instance.command("yamabiko");
        simulator.arg("sim").args(profiles);
        simulator.args(["--address", &self.hosts.ip().to_string(), "--port", &self.hosts.port().to_string()]);
        simulator.args(["--dns-port", &self.dns_port, "--greylisting", "1s", "--for", "300s"]).stdout(Stdio::null());
        self._simulator = Some(Simulator(simulator.spawn().expect("the simulator starts")));
        self.instance.start();
    }

    fn send(&self, recipients: &str, messages: usize) {
        self.instance.file("recipients", recipients);
        let file = self.instance.etc().join("recipients").display().to_string();
        let (smtp, number) = (self.instance.smtp.to_string(), messages.to_string());
        let said = self.instance.ok(
            "yamabiko",
            &["source", "--to", &smtp, "--messages", &number, "--recipients-file", &file, "--from", "me@box.example"],
        );
        assert!(said.starts_with(&format!("{messages} of {messages} messages taken")), "{said}");
    }

    /// What a site has seen when the queue is empty.
    fn end(&self, site: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(120);
        while !self.instance.queue().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        // The report is a second old at most.
        std::thread::sleep(Duration::from_millis(1500));
        let said = self.instance.run("yamabiko", &["sim", "--verdict", "source.jsonl"]);
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        let report = fs::read(self.instance.path().join("sim.json")).expect("a report");
        let report: Value = serde_json::from_slice(&report).expect("JSON");
        report["sites"][site].clone()
    }
}

fn most(seen: &Value) -> u64 {
    let clients = seen["sessions_at_once"].as_object().expect("an object");
    clients.values().filter_map(Value::as_u64).max().unwrap_or(0)
}

fn recipients(number: usize, domains: &[&str]) -> String {
    (0..number).map(|n| format!("user-{n}@{}\n", domains[n % domains.len()])).collect()
}

#[test]
fn the_docomo_recipe_does_what_its_author_meant() {
    let mut rehearsal = Rehearsal::new();
    let recipe =
        "docomo-smtp unix - - n - 1 smtp -o smtp_destination_concurrency_limit=1 -o smtp_destination_recipient_limit=1";
    rehearsal.instance.services.push(recipe.to_owned());
    rehearsal.instance.set("transport_maps", "inline:{docomo.ne.jp=docomo-smtp:}");
    rehearsal.start(&["docomo"]);
    rehearsal.send(&recipients(40, &["docomo.ne.jp"]), 40);
    let seen = rehearsal.end("docomo");
    assert_eq!(
        (most(&seen), seen["sessions_refused"].as_u64(), seen["messages"].as_u64()),
        (1, Some(0), Some(40)),
        "{seen}"
    );
}

/// One process means one session, whichever of the domains of the same exchangers the mail is for: none is kept open for the
/// next message while another is made, and the end of each is waited for.
#[test]
fn one_process_is_one_session() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.instance.services.push("docomo-smtp unix - - n - 1 smtp".to_owned());
    let domains = ["docomo.ne.jp", "company.example", "shop.example"];
    let table: String = domains.iter().map(|domain| format!("{{{domain}=docomo-smtp:}} ")).collect();
    rehearsal.instance.set("transport_maps", &format!("inline:{{{table}}}"));
    rehearsal.start(&[&format!("docomo={}", domains.join(","))]);
    rehearsal.send(&recipients(150, &domains), 150);
    let seen = rehearsal.end("docomo");
    assert_eq!(
        (most(&seen), seen["sessions_refused"].as_u64(), seen["messages"].as_u64()),
        (1, Some(0), Some(150)),
        "{seen}"
    );
}

/// An old note: two messages in a session, then a pause. In main.cf, and as `-o`.
#[test]
fn two_messages_in_a_session_then_a_pause() {
    for (main, service) in [
        (&["docomo-smtp_session_message_limit = 2", "docomo-smtp_site_session_pause = 1s"][..], ""),
        (&[], " -o smtp_session_message_limit=2 -o smtp_site_session_pause=1s"),
    ] {
        let mut rehearsal = Rehearsal::new();
        rehearsal.instance.services.push(format!("docomo-smtp unix - - n - 1 smtp{service}"));
        rehearsal.instance.set("transport_maps", "inline:{docomo.ne.jp=docomo-smtp:}");
        for (name, value) in main.iter().filter_map(|line| line.split_once(" = ")) {
            rehearsal.instance.set(name, value);
        }
        rehearsal.start(&["docomo"]);
        rehearsal.send(&recipients(12, &["docomo.ne.jp"]), 12);
        let seen = rehearsal.end("docomo");
        let number = |name: &str| seen[name].as_u64().unwrap_or(0);
        assert_eq!((most(&seen), number("messages_in_session"), number("messages")), (1, 2, 12), "{main:?}: {seen}");
        // The first may be alone when it comes.
        assert!((6..=8).contains(&number("sessions")), "{main:?}: {seen}");
    }
}

#[test]
fn a_profile_is_one_line() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.instance.set("smtp_sending_profiles", "docomo");
    // Other domains of the same exchangers count too.
    rehearsal.start(&["docomo=docomo.ne.jp,company.example,shop.example", "plain"]);
    rehearsal.send(&recipients(60, &["docomo.ne.jp", "company.example", "plain.sim.test", "shop.example"]), 60);
    let seen = rehearsal.end("docomo");
    assert_eq!(
        (most(&seen), seen["sessions_refused"].as_u64(), seen["messages"].as_u64()),
        (1, Some(0), Some(45)),
        "{seen}"
    );
}

#[test]
fn a_limit_is_learned_shown_and_kept_over_a_restart() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.instance.set("smtp_site_adaptive_limits", "yes");
    rehearsal.start(&["docomo"]);
    rehearsal.send(&recipients(40, &["docomo.ne.jp"]), 40);
    let first = rehearsal.end("docomo");
    let refused = first["sessions_refused"].as_u64();
    assert!(refused > Some(0), "{first}");
    let shown = rehearsal.instance.ok("yamabiko", &["limits", "-c", &rehearsal.instance.etc().display().to_string()]);
    assert!(shown.contains("docomo.ne.jp") && shown.contains(": 421 4.3.2 mfsmax"), "{shown}");
    rehearsal.instance.stop();
    rehearsal.instance.start();
    rehearsal.send(&recipients(40, &["docomo.ne.jp"]), 40);
    let second = rehearsal.end("docomo");
    assert_eq!(second["sessions_refused"].as_u64(), refused, "refused again after it was learned: {second}");
}

/// Limits count for each address that mail comes from, and transports that share one share them.
#[test]
fn each_source_address_has_limits_of_its_own() {
    let mut rehearsal = Rehearsal::new();
    let [a, b, c, _] = match rehearsal.hosts.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("an address of the loopback network"),
    };
    let sources = [251, 252].map(|d| format!("{a}.{b}.{c}.{d}"));
    for (name, source) in [("one", &sources[0]), ("two", &sources[1]), ("three", &sources[1])] {
        rehearsal.instance.services.push(format!("{name} unix - - n - - smtp -o smtp_bind_address={source}"));
    }
    rehearsal.instance.set("transport_maps", "inline:{{a.example=one:} {b.example=two:} {c.example=three:}}");
    rehearsal.instance.set("default_sending_profiles", "docomo");
    rehearsal.start(&["docomo=a.example,b.example,c.example"]);
    rehearsal.send(&recipients(45, &["a.example", "b.example", "c.example"]), 45);
    let seen = rehearsal.end("docomo");
    let at_once = seen["sessions_at_once"].as_object().expect("an object");
    let of = |source: &str| at_once.get(source).and_then(Value::as_u64);
    assert_eq!((of(&sources[0]), of(&sources[1]), at_once.len()), (Some(1), Some(1), 2), "{seen}");
    assert_eq!((seen["sessions_refused"].as_u64(), seen["messages"].as_u64()), (Some(0), Some(45)), "{seen}");
}

#[test]
fn operators_freeze_and_forget_what_was_learned() {
    let mut rehearsal = Rehearsal::new();
    rehearsal.instance.set("smtp_site_adaptive_limits", "yes");
    rehearsal.start(&["docomo"]);
    rehearsal.send(&recipients(20, &["docomo.ne.jp"]), 20);
    rehearsal.end("docomo");
    let etc = rehearsal.instance.etc().display().to_string();
    let limits = |words: &[&str]| rehearsal.instance.ok("yamabiko", &[&["limits", "-c", &etc][..], words].concat());
    let is_frozen = || limits(&[]).lines().any(|line| line.starts_with("docomo.ne.jp") && line.contains("frozen"));
    assert!(!is_frozen());
    assert_eq!(limits(&["freeze", "docomo.ne.jp"]), "docomo.ne.jp: frozen\n");
    assert!(is_frozen());
    // Over a restart, too.
    rehearsal.instance.stop();
    rehearsal.instance.start();
    assert!(is_frozen(), "{}", limits(&[]));
    assert_eq!(limits(&["thaw", "docomo.ne.jp"]), "docomo.ne.jp: learns again\n");
    assert!(!is_frozen());
    assert_eq!(limits(&["forget", "docomo.ne.jp"]), "docomo.ne.jp: forgotten\n");
    assert!(!limits(&[]).contains("docomo.ne.jp"), "{}", limits(&[]));
    let said = rehearsal.instance.run("yamabiko", &["limits", "-c", &etc, "forget", "docomo.ne.jp"]);
    assert_ne!(said.code, 0, "{said:?}");
}

/// Who says that we are blocked is left alone, and somebody hears of it by a way that needs no mail.
#[test]
fn a_block_suspends_with_a_notice() {
    let mut rehearsal = Rehearsal::new();
    let notices = rehearsal.instance.path().join("lib/notices.json");
    for (name, value) in [
        ("smtp_site_adaptive_limits", "yes"),
        ("notify_channel_classes", "policy"),
        ("notify_channel_file", notices.to_str().expect("a name in ASCII")),
    ] {
        rehearsal.instance.set(name, value);
    }
    rehearsal.instance.file(
        "mine.conf",
        "[blocker]\ndomains = blocker.example\nexchangers = blocker.example\n\
         connect = refuses 554 5.7.1 Service unavailable; Client host blocked using list.example\n",
    );
    let file = rehearsal.instance.etc().join("mine.conf").display().to_string();
    rehearsal.start(&["--profiles", &file, "blocker", "plain"]);
    // The null sender: no notice comes in between.
    let instance = &rehearsal.instance;
    instance.client().mail("", &["x@blocker.example"], "Subject: x\n\ntext\n").unwrap();
    instance.until("the block", || instance.log().contains("limits for blocker.example: "));
    instance.until("the notice", || fs::read_to_string(&notices).is_ok_and(|text| text.contains("blocker.example")));
    let notice = fs::read_to_string(&notices).unwrap();
    assert!(notice.contains("\"policy\"") && notice.contains("Client host blocked"), "{notice}");
    // What comes later waits without a connection.
    instance.client().mail("", &["y@blocker.example"], "Subject: y\n\ntext\n").unwrap();
    instance.until("the second mail to wait", || {
        instance.log().lines().any(|line| line.contains("to=<y@blocker.example>") && line.contains("status=deferred"))
    });
    std::thread::sleep(Duration::from_millis(1500));
    let report: Value = serde_json::from_slice(&fs::read(instance.path().join("sim.json")).unwrap()).expect("JSON");
    // Two addresses of one delivery at most.
    assert!(report["sites"]["blocker"]["sessions"].as_u64() <= Some(2), "{report}");
}

/// `destination_concurrency_feedback_debug` in Postfix's words, and a mailing that comes into memory in small portions.
#[test]
fn windows_are_logged_and_portions_may_be_small() {
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    instance.set("destination_concurrency_feedback_debug", "yes");
    instance.set("default_extra_recipient_limit", "12");
    instance.set("default_recipient_refill_limit", "3");
    instance.set("smtp_destination_recipient_limit", "2");
    instance.set("smtp_tls_security_level", "may");
    instance.set("smtp_log_tls_feature_status", "yes");
    instance.start();
    let recipients: Vec<String> = (0..100).map(|n| format!("r{n}@far.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    instance.client().mail("me@box.example", &recipients, "Subject: x\n\ntext\n").unwrap();
    instance.until("the mailing to arrive", || sink.count() == 50);
    instance.until_empty();
    let mut arrived: Vec<String> = sink.taken().into_iter().flat_map(|taken| taken.recipients).collect();
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived.len(), 100);
    let (log, hop) = (instance.log(), instance.next_hop);
    for line in [
        "qmgr[".to_owned(),
        ": smtp: default_destination_concurrency_positive_feedback feedback type 0 value at 5: 1".to_owned(),
        ": smtp: default_destination_concurrency_negative_feedback feedback type 0 value at 5: 1".to_owned(),
        ": qmgr_queue_unthrottle: feedback 1".to_owned(),
        format!(
            ": qmgr_queue_unthrottle: queue [{}]:{}: limit 20 window 6 success 0 failure 0 fail_cohorts 0",
            hop.ip(),
            hop.port()
        ),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    // The client's lines have one field more, and our own readers read them.
    assert_eq!(log.matches(", tls=may:none, dsn=2.0.0, status=sent (").count(), 100, "{log}");
    let report = instance.ok("yamabiko", &["report", &instance.log_file().display().to_string()]);
    assert!(report.lines().any(|line| line.split_whitespace().eq(["100", "delivered"])), "{report}");
    assert!(!instance.postfix("check").err.contains("has no effect"), "{:?}", instance.postfix("check"));
}

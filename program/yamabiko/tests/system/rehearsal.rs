//! Receivers of many moods behind many domains: in the end every recipient has what its address says.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Instance, address};

/// Ended with the test, however that ends.
struct Simulator(Child);

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_recipient_ends_as_its_address_says() {
    let mut instance = Instance::new();
    let (here, dns) = (address(), address());
    // Nobody else's: other processes' tests are at these ports of other addresses.
    let port = here.port() + 30_000;
    let base = here.ip().to_string();
    let (port_text, dns_text) = (port.to_string(), dns.port().to_string());
    for (name, value) in [
        ("relayhost", String::new()),
        ("smtp_dns_support_level", "enabled".to_owned()),
        ("dns_servers", format!("{base}:{}", dns.port())),
        ("smtp_tcp_port", port_text.clone()),
        ("minimal_backoff_time", "1s".to_owned()),
        ("maximal_backoff_time", "2s".to_owned()),
        ("queue_run_delay", "1s".to_owned()),
    ] {
        instance.set(name, &value);
    }
    let back = instance.smtp.to_string();
    let mut simulator = instance.command("yamabiko");
    simulator.args(["sim", "plain", "docomo", "gmail", "dead", "--domains", "40", "--address", &base]);
    simulator.args(["--port", &port_text, "--dns-port", &dns_text, "--return", &back, "--later", "1s"]);
    simulator.args(["--greylisting", "1s", "--for", "300s"]).stdout(Stdio::null());
    let _simulator = Simulator(simulator.spawn().expect("the simulator starts"));
    instance.start();

    // Recipients that are refused for ever with 4xx would wait for days: they are not among these.
    let words = ["ok", "unknown", "filtered", "grey", "later", "ok", "complaint", "overquota", "vacation", "lost"];
    let recipients: String =
        (0..200).map(|n| format!("{}-{n}@d{:04}.sim.test\n", words[n % words.len()], 1 + n % 40)).collect();
    instance.file("recipients", &recipients);
    let file = instance.etc().join("recipients").display().to_string();
    let smtp = instance.smtp.to_string();
    let args = ["source", "--to", &smtp, "--messages", "200", "--recipients-file", &file, "--from", "me@box.example"];
    let said = instance.ok("yamabiko", &args);
    assert!(said.starts_with("200 of 200 messages taken"), "{said}");

    // A quarter of the domains is dead; what is for them waits, and nothing else does.
    let verdict = || instance.run("yamabiko", &["sim", "--verdict", "source.jsonl"]);
    let until = Instant::now() + Duration::from_secs(120);
    while instance.queue().iter().any(|one| !one.recipients.iter().all(|to| is_dead(to))) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
    }
    // The report is a second old at most.
    std::thread::sleep(Duration::from_millis(1500));
    let said = verdict();
    assert_eq!((said.code, said.out.as_str()), (0, "200 promised, 200 right, 0 doubled, 0 missing, 0 impossible\n"));

    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(instance.path().join("sim.json")).unwrap()).expect("JSON");
    let returned = |word: &str| {
        let all = report["recipients"].as_object().expect("an object").iter();
        all.filter(|(address, of)| address.starts_with(word) && of["returned"] == 1).count()
    };
    assert_eq!((returned("later-"), returned("complaint-"), returned("vacation-")), (20, 20, 20), "{report}");
}

/// Every fourth domain belongs to the profile that nobody reaches.
fn is_dead(recipient: &str) -> bool {
    let domain = recipient.rsplit_once("@d").and_then(|(_, rest)| rest.get(..4)?.parse::<u32>().ok());
    domain.is_some_and(|number| number % 4 == 0)
}

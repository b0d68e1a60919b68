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

/// Addresses looked at one by one, in a table, by the name servers that mail goes by.
#[test]
fn a_list_of_addresses_is_verified_by_asking() {
    let mut instance = Instance::new();
    let (here, dns) = (address(), address());
    let (port, base) = ((here.port() + 30_000).to_string(), here.ip().to_string());
    let dns_port = dns.port().to_string();
    instance.set("dns_servers", &format!("{base}:{dns_port}"));
    instance.write();
    let mut simulator = instance.command("yamabiko");
    simulator.args(["sim", "docomo", "tls", "dead", "closed=shut.example", "--address", &base]);
    simulator.args(["--port", &port, "--dns-port", &dns_port, "--for", "300s"]).stdout(Stdio::null());
    let _simulator = Simulator(simulator.spawn().expect("the simulator starts"));
    let table = "id,mail\n1,unknown-1@docomo.ne.jp\n2,taro@docomo.ne.jp\n3,ok@tls.sim.test\n4,x@dead.sim.test\n\
                 5,x@nowhere.example\n6,taro@docmo.ne.jp\n7,x@shut.example\n";
    instance.file("list.csv", table);
    let list = instance.etc().join("list.csv");
    let verified = || {
        let mut command = instance.command("yamabiko");
        command.args(["verify", "-q", "--probe", "--pause", "0", "--port", &port, "--helo", "me.example", "-"]);
        let said = command.stdin(fs::File::open(&list).expect("the list")).output().expect("it runs");
        (said.status.code(), String::from_utf8_lossy(&said.stdout).into_owned())
    };
    // The name server of the rehearsal takes a moment to be there.
    let until = Instant::now() + Duration::from_secs(60);
    let (code, said) = loop {
        let (code, said) = verified();
        if !said.contains("DNS gives no answer") || Instant::now() >= until {
            break (code, said);
        }
    };
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.first().copied()), (Some(1), Some("id,mail,verdict,meant,why,history")), "{said}");
    for (number, begins, has) in [
        (1, "1,unknown-1@docomo.ne.jp,bad,,", "550 Unknown user"),
        (2, "2,taro@docomo.ne.jp,ok,,", "takes every address"),
        (3, "3,ok@tls.sim.test,ok,,", "takes every address"),
        (4, "4,x@dead.sim.test,unknown,,", "refused"),
        (5, "5,x@nowhere.example,bad,,", "no domain"),
        (6, "6,taro@docmo.ne.jp,bad,taro@docomo.ne.jp,", "no domain"),
        (7, "7,x@shut.example,unknown,,", "did not say"),
    ] {
        let line = lines.get(number).copied().unwrap_or_default();
        assert!(line.starts_with(begins) && line.contains(has), "{line}\n{said}");
    }
}

/// Every fourth domain belongs to the profile that nobody reaches.
fn is_dead(recipient: &str) -> bool {
    let domain = recipient.rsplit_once("@d").and_then(|(_, rest)| rest.get(..4)?.parse::<u32>().ok());
    domain.is_some_and(|number| number % 4 == 0)
}

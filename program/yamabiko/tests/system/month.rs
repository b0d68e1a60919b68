//! A month in a minute: two senders, 300 destinations of many moods, bounces that come back later in eleven systems'
//! forms, complaints, automatic replies, connections lost after the final dot, stops and kills in between. What the
//! receivers saw is the truth; the ledger says the same for every recipient for whom there is evidence, and nothing where
//! there is none. Then the log and the mailboxes alone, in an empty ledger.
//!
//! `cargo xtask month --messages 100000` runs it whole; a test run has some hundreds.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Instance, address};

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What recipients do, in turns: the words of `yamabiko sim`.
const WORDS: [&str; 31] = [
    "ok",
    "unknown",
    "ok",
    "laterpostfix",
    "grey",
    "laterqmail",
    "ok",
    "laterexim",
    "complaint",
    "latersendmail",
    "filtered",
    "laterexchange",
    "ok",
    "latergmail",
    "vacation",
    "latercourier",
    "overquota",
    "laterjapanese",
    "ok",
    "laterdocomo",
    "lost",
    "laterkddi",
    "spam",
    "laterdomino",
    "ok",
    "lostreply",
    "suspended",
    "full",
    "dropdot",
    "deferdata",
    "ok",
];

/// Receivers without limits of speed, each in its own words.
const PROFILES: &str = "
[east]
domains = east.sim.test
[keitai]
domains = keitai.sim.test
unknown = RCPT 550 Unknown user ${recipient}
filtered = DOT 550 Unknown user ${recipient}
accepted = 250 2.0.0 ${id} Message accepted for delivery
[google]
domains = google.sim.test
unknown = RCPT 550-5.1.1 The email account that you tried to reach does not exist. Please try\\n550 5.1.1 double-checking the recipient's email address. gsmtp
accepted = 250 2.0.0 OK  1700000000 ${id} - gsmtp
[office]
domains = office.sim.test
unknown = RCPT 550 5.4.1 Recipient address rejected: Access denied.
accepted = 250 2.6.0 <${id}@sim.test> [InternalId=4711] Queued mail for delivery
";

const SENDERS: [&str; 2] = ["me", "one"];
const DESTINATIONS: usize = 300;

/// How many, and how long everything may take.
fn size() -> (usize, Duration) {
    let messages = std::env::var("YAMABIKO_MONTH").ok().and_then(|text| text.parse().ok()).unwrap_or(620);
    (messages, Duration::from_secs(240) + Duration::from_millis(40) * u32::try_from(messages).unwrap_or(u32::MAX))
}

fn word(recipient: &str) -> &str {
    recipient.split('-').next().unwrap_or_default()
}

/// Two domains are of a receiver that is not there.
fn is_dead(recipient: &str) -> bool {
    recipient.ends_with("@d0299.sim.test") || recipient.ends_with("@d0300.sim.test")
}

/// The states that the truth allows: one, mostly.
fn expected(recipient: &str, of: &Value) -> &'static [&'static str] {
    let (taken, returned) = (of["taken"].as_object().is_some_and(|taken| !taken.is_empty()), &of["returned"]);
    let heard = returned.as_u64().is_some_and(|returned| returned > 0);
    match word(recipient) {
        _ if is_dead(recipient) => &["deferred"],
        "lostreply" | "dropdot" => &["uncertain"],
        "full" | "deferdata" => &["deferred"],
        "complaint" if heard => &["complained"],
        later if later.starts_with("later") && heard => &["late-bounced"],
        _ if taken => &["sent"],
        _ => &["bounced"],
    }
}

/// States of a sender's recipients: address to state and reason.
fn verdicts(instance: &Instance, ledger: &[&str], sender: &str) -> BTreeMap<String, (String, String)> {
    let sender = format!("{sender}@box.example");
    let args = [&["fate", "--json", "--limit", "10000000", "--sender", &sender][..], ledger].concat();
    let out = instance.command("yamabiko").args(args).output().expect("fate runs").stdout;
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&out).lines() {
        let history: Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| history[name].as_str().unwrap_or_default().to_owned();
        // A log that ends too early has messages of which it does not say whom they were for.
        if text("recipient").is_empty() {
            continue;
        }
        let before = found.insert(text("recipient"), (text("state"), text("reason")));
        assert!(before.is_none(), "two histories: {before:?} and {line}");
    }
    found
}

struct Month {
    instance: Instance,
    simulator: Running,
    deadline: Instant,
    messages: usize,
}

impl Month {
    fn prepared() -> Self {
        let (messages, patience) = size();
        let mut instance = Instance::new();
        let (here, dns) = (address(), address());
        // Nobody else's: other processes' tests are at these ports of other addresses.
        let port = (here.port() + 30_000).to_string();
        let base = here.ip().to_string();
        let wait = if messages > 5000 { "30s" } else { "2s" };
        for (name, value) in [
            ("relayhost", String::new()),
            ("smtp_dns_support_level", "enabled".to_owned()),
            ("dns_servers", format!("{base}:{}", dns.port())),
            ("smtp_tcp_port", port.clone()),
            ("minimal_backoff_time", wait.to_owned()),
            ("maximal_backoff_time", "300s".to_owned()),
            ("queue_run_delay", "1s".to_owned()),
            ("smtp_connect_timeout", "3s".to_owned()),
        ] {
            instance.set(name, &value);
        }
        instance.file("profiles", PROFILES);
        let domains = |which: usize| {
            let mine = (1..=DESTINATIONS - 2).filter(|n| n % 4 == which).map(|n| format!("d{n:04}.sim.test"));
            mine.collect::<Vec<_>>().join(",")
        };
        let mut command = instance.command("yamabiko");
        command.args(["sim", "--profiles", &instance.etc().join("profiles").display().to_string()]);
        for (which, name) in ["east", "keitai", "google", "office"].into_iter().enumerate() {
            command.arg(format!("{name}={}", domains(which)));
        }
        command.args(["dead=d0299.sim.test,d0300.sim.test", "--address", &base, "--port", &port]);
        command.args(["--dns-port", &dns.port().to_string(), "--return", &instance.smtp.to_string(), "--later", "2s"]);
        command.args(["--greylisting", "1s", "--for", "36000s"]).stdout(Stdio::null());
        let simulator = Running(command.spawn().expect("the simulator starts"));
        instance.start();
        Self { instance, simulator, deadline: Instant::now() + patience, messages }
    }

    /// Half of the messages from each sender, while the mail system is killed, stopped and started.
    fn send(&self) {
        let half = self.messages / 2;
        let sources = SENDERS.map(|sender| {
            let recipient = |n: usize| {
                let (word, domain) = (WORDS[n % WORDS.len()], 1 + (n * 7 + n / WORDS.len()) % DESTINATIONS);
                format!("{word}-{sender}{n}@d{domain:04}.sim.test\n")
            };
            self.instance.file(&format!("to-{sender}"), &(0..half).map(recipient).collect::<String>());
            let mut command: Command = self.instance.command("yamabiko");
            command.args(["source", "--to", &self.instance.smtp.to_string(), "--messages", &half.to_string()]);
            command
                .args(["--recipients-file", &self.instance.etc().join(format!("to-{sender}")).display().to_string()]);
            command.args(["--from", &format!("{sender}@box.example"), "--report", &format!("{sender}.jsonl")]);
            command.args(["--size", "1000", "--sessions", "4", "--patient"]).stdout(Stdio::null());
            Running(command.spawn().expect("the source starts"))
        });
        let taken = || {
            let lines = |sender| fs::read(self.instance.path().join(format!("{sender}.jsonl"))).unwrap_or_default();
            SENDERS.iter().map(|sender| lines(sender).iter().filter(|byte| **byte == b'\n').count()).sum::<usize>()
        };
        // The report of a source is buffered: how far it is is known roughly.
        for (part, what) in ["kill", "stop", "kill", "kill all"].into_iter().enumerate() {
            let goal = self.messages * (part + 1) / 6;
            self.until("messages are sent", || taken() >= goal || self.log_lines() > goal * 8);
            match what {
                "kill" => drop(self.instance.kill_engine()),
                "stop" => {
                    self.instance.stop();
                    self.instance.start();
                }
                _ => {
                    self.instance.kill_all();
                    self.instance.start();
                }
            }
        }
        for mut source in sources {
            self.until("the source ends", || source.0.try_wait().is_ok_and(|ended| ended.is_some()));
        }
    }

    fn log_lines(&self) -> usize {
        fs::metadata(self.instance.log_file()).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0) / 200)
    }

    fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        while !so() {
            assert!(Instant::now() < self.deadline, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn seen(&self) -> Value {
        serde_json::from_slice(&fs::read(self.instance.path().join("sim.json")).unwrap_or_default()).unwrap_or_default()
    }

    /// Recipients of messages for which the client read 250, and those of which it does not know.
    fn accepted(&self) -> (Vec<String>, Vec<String>) {
        let (mut taken, mut unknown) = (Vec::new(), Vec::new());
        for sender in SENDERS {
            let text = fs::read_to_string(self.instance.path().join(format!("{sender}.jsonl"))).expect("a report");
            for line in text.lines() {
                let sent: Value = serde_json::from_str(line).expect("JSON");
                let into = if sent["outcome"] == "unknown" { &mut unknown } else { &mut taken };
                let addresses = sent["taken"].as_array().into_iter().flatten();
                into.extend(addresses.filter_map(Value::as_str).map(str::to_owned));
            }
        }
        (taken, unknown)
    }

    /// Everything has been tried, and everything that comes back has come.
    fn settle(&self) {
        let waits =
            |address: &str| is_dead(address) || ["lostreply", "dropdot", "full", "deferdata"].contains(&word(address));
        let quiet = |recipients: &[String]| recipients.iter().all(|address| waits(address));
        let queue = || {
            let out = self.instance.command("postqueue").arg("-j").output().expect("postqueue runs").stdout;
            let text = String::from_utf8_lossy(&out).into_owned();
            text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>()
        };
        self.until("the queue settles", || {
            std::thread::sleep(Duration::from_millis(500));
            queue().iter().all(|message| {
                let addresses = message["recipients"].as_array().into_iter().flatten();
                let addresses: Vec<String> =
                    addresses.filter_map(|recipient| Some(recipient["address"].as_str()?.to_owned())).collect();
                // Tried once at least, and nothing else is under way.
                quiet(&addresses) && message["recipients"][0]["delay_reason"].is_string()
            })
        });
        let returned = || {
            let seen = self.seen();
            let all = seen["recipients"].as_object().cloned().unwrap_or_default();
            all.values().filter_map(|of| of["returned"].as_u64()).sum::<u64>()
        };
        let mut last = u64::MAX;
        self.until("no more comes back", || {
            std::thread::sleep(Duration::from_secs(4));
            let now = returned();
            std::mem::replace(&mut last, now) == now
        });
    }
}

#[test]
fn the_verdict_is_the_truth_where_there_is_evidence() {
    let month = Month::prepared();
    month.send();
    month.settle();
    let (seen, (taken, unknown)) = (month.seen(), month.accepted());
    let instance = &month.instance;
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for sender in SENDERS {
        found.extend(verdicts(instance, &[], sender));
    }
    let nothing = Value::Null;
    let truth =
        |address: &str| expected(address, seen["recipients"].get(address.to_ascii_lowercase()).unwrap_or(&nothing));
    let mut wrong = Vec::new();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for address in &taken {
        let (state, reason) = found.get(address).cloned().unwrap_or_default();
        let wanted = truth(address);
        let why = match word(address) {
            "laterkddi" => "filtered",
            _ => "userunknown",
        };
        *states.entry(wanted[0]).or_default() += 1;
        if !wanted.contains(&state.as_str()) || (state == "late-bounced" && reason != why) {
            wrong.push(format!("{address}: {state} ({reason}), and it is {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), taken.len(), &wrong[..wrong.len().min(30)]);
    // Nothing is claimed of anybody else.
    let known: std::collections::HashSet<&String> = taken.iter().chain(&unknown).collect();
    let strangers: Vec<_> = found.keys().filter(|address| !known.contains(address)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    println!("the ledger: {} recipients right, {} the client was not told of; {states:?}", taken.len(), unknown.len());
    drop(month.simulator);
    instance.stop();

    // The log and the mailboxes alone.
    let log = instance.log_file().display().to_string();
    let boxes = SENDERS.map(|sender| instance.path().join("box").join(sender).display().to_string());
    let mut command = instance.command("yamabiko");
    command.args(["import", "--ledger", "imported", "--bounces", &boxes[0], "--bounces", &boxes[1], &log]);
    let said = command.output().expect("import runs");
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{out} {}", String::from_utf8_lossy(&said.stderr));
    let mut imported = BTreeMap::new();
    for sender in SENDERS {
        imported.extend(verdicts(instance, &["--ledger", "imported"], sender));
    }
    // A killed engine takes the last lines of the log along: of those recipients the log knows less, and never something else.
    let (mut less, mut wrong) = (Vec::new(), Vec::new());
    for address in &taken {
        let state = imported.get(address).map_or("", |(state, _)| state.as_str());
        match truth(address) {
            wanted if wanted.contains(&state) => {}
            _ if ["", "queued", "deferred", "unknown"].contains(&state) => less.push(address),
            wanted => wrong.push(format!("{address}: {state}, and it is {wanted:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), taken.len(), &wrong[..wrong.len().min(30)]);
    assert!(less.len() <= 100 + taken.len() / 100, "{} of {}: {less:?}\n{out}", less.len(), taken.len());
    println!("the log: {} recipients right, of {} it lost the lines\n{out}", taken.len() - less.len(), less.len());
}

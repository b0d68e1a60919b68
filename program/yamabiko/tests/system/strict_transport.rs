//! MTA-STS, REQUIRETLS and hosts found by SRV records through the real program: DNS, a web server with a policy, and another mail
//! system as the receiver.

use std::fs;
use std::sync::atomic::Ordering;

use crate::harness::Instance;
use crate::harness::world::{Authority, Records, Web, names, web};

struct World {
    sender: Instance,
    receiver: Instance,
    records: Records,
    web: Web,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let web = web(&authority.certificate("mta-sts.far.example"));
        let mut receiver = Instance::new();
        receiver.set("virtual_mailbox_domains", "far.example");
        receiver.set("virtual_mailbox_maps", "static:me/");
        let keys = receiver.etc().join("keys.pem").display().to_string();
        receiver.set("smtpd_tls_chain_files", &keys);
        receiver.set("smtpd_tls_security_level", "may");
        receiver.file("keys.pem", &authority.certificate("other.example"));
        receiver.start();
        let records = Records::default();
        let mut sender = Instance::new();
        sender.file("ca.pem", &authority.pem());
        let ca = sender.etc().join("ca.pem").display().to_string();
        for (name, value) in [
            ("relayhost", String::new()),
            ("smtp_dns_support_level", "enabled".to_owned()),
            ("dns_servers", names(&records).to_string()),
            ("smtp_tcp_port", receiver.smtp.port().to_string()),
            ("smtp_tls_security_level", "may".to_owned()),
            ("smtp_tls_CAfile", ca),
            ("smtp_tls_loglevel", "1".to_owned()),
            ("smtp_tls_mta_sts", "yes".to_owned()),
            ("smtp_tls_mta_sts_port", web.address.port().to_string()),
            ("smtp_tlsrpt_enable", "yes".to_owned()),
            ("tls_report_contact", "postmaster@test.example".to_owned()),
        ] {
            sender.set(name, &value);
        }
        let world = Self { sender, receiver, records, web, authority };
        world.announce(Some("1"));
        world
    }

    /// The zone, with the record of this `id`.
    fn announce(&self, id: Option<&str>) {
        let host = self.receiver.smtp.ip();
        let mut zone =
            format!("far.example MX 10 mx1.far.example\nmx1.far.example A {host}\nmta-sts.far.example A 127.0.0.1\n");
        if let Some(id) = id {
            zone.push_str(&format!("_mta-sts.far.example TXT v=STSv1; id={id};\n"));
        }
        *self.records.lock().unwrap() = zone;
    }

    fn policy(&self, mode: &str, max_age: u64) {
        let text = format!("version: STSv1\r\nmode: {mode}\r\nmx: mx1.far.example\r\nmax_age: {max_age}\r\n");
        *self.web.text.lock().unwrap() = text;
    }

    fn send(&self) {
        self.sender.client().mail("me@box.example", &["x@far.example"], "Subject: x\n\ntext\n").unwrap();
    }

    /// The receiver shows a certificate for this name from now on.
    fn present(&self, name: &str) {
        self.receiver.file("keys.pem", &self.authority.certificate(name));
        self.receiver.reload();
    }

    fn deferred(&self) -> usize {
        let why = "status=deferred (Server certificate not verified (MTA-STS policy of far.example, mode=enforce";
        self.sender.log().matches(why).count()
    }
}

#[test]
fn a_policy_is_tested_enforced_and_kept_over_a_restart() {
    let world = World::new();
    let sender = &world.sender;
    world.policy("testing", 86_400);
    sender.start();
    // The certificate is another host's: that is told, and the mail goes.
    world.send();
    world.receiver.until_mails("me", 1);
    let log = sender.log();
    assert!(log.contains("MTA-STS policy of far.example fetched: mode=testing, id=1, max_age=86400"), "{log}");
    assert!(log.contains("MTA-STS policy of far.example, mode=testing, id=1: is not met"), "{log}");
    // A new `id` counts at once, and what is enforced is enforced.
    world.policy("enforce", 86_400);
    world.announce(Some("2"));
    world.send();
    sender.until("the mail to wait", || world.deferred() == 1);
    assert_eq!(world.web.asked.load(Ordering::SeqCst), 2);

    // Record and policy are gone, as by somebody in between: what is known holds, over a restart too.
    sender.stop();
    let file = fs::read_to_string(sender.path().join("lib/mta-sts/far.example.policy")).unwrap();
    let report = sender.ok("yamabiko", &["tls-report", "-c", &sender.etc().display().to_string()]);
    assert_eq!(report.matches("far.example sts: 0 well, 1 failed").count(), 2, "{report}");
    assert!(report.contains("certificate-host-mismatch"), "{report}");
    assert!(file.starts_with("id: 2\n") && file.contains("mode: enforce\n"), "{file}");
    world.announce(None);
    world.web.text.lock().unwrap().clear();
    sender.start();
    world.send();
    sender.until("the second mail to wait", || world.deferred() >= 2);
    assert_eq!(world.receiver.mails("me").len(), 1);

    // The right certificate lets both through.
    world.present("mx1.far.example");
    sender.ok("postqueue", &["-f"]);
    world.receiver.until_mails("me", 3);
    sender.until_empty();
    let log = sender.log();
    assert!(log.contains("Verified TLS connection established to mx1.far.example["), "{log}");
    assert!(log.contains("MTA-STS policy of far.example, mode=enforce, id=2: is met"), "{log}");
    assert_eq!(world.web.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn a_policy_that_is_over_is_fetched_again() {
    let world = World::new();
    world.policy("testing", 0);
    world.sender.start();
    for asked in 1..=3 {
        world.send();
        world.receiver.until_mails("me", asked);
        world.sender.until_empty();
        assert_eq!(world.web.asked.load(Ordering::SeqCst), asked, "{}", world.sender.log());
    }
}

#[test]
fn a_policy_in_use_is_fetched_again_without_mail() {
    let world = World::new();
    let sender = &world.sender;
    world.policy("testing", 604_800);
    sender.start();
    world.send();
    world.receiver.until_mails("me", 1);
    sender.until_empty();
    sender.stop();
    // As two days later.
    let path = sender.path().join("lib/mta-sts/far.example.policy");
    let file = fs::read_to_string(&path).unwrap();
    let aged = |line: &str| match line.strip_prefix("fetched: ") {
        Some(at) => format!("fetched: {}\n", at.parse::<u64>().unwrap() - 172_800),
        None => format!("{line}\n"),
    };
    fs::write(&path, file.lines().map(aged).collect::<String>()).unwrap();
    world.policy("enforce", 604_800);
    sender.start();
    sender.until("the new policy", || fs::read_to_string(&path).is_ok_and(|file| file.contains("mode: enforce\n")));
    assert_eq!(world.web.asked.load(Ordering::SeqCst), 2);
    world.send();
    sender.until("the mail to wait", || world.deferred() == 1);
}

/// What was counted yesterday goes out by both ways that the domain asks for.
#[test]
fn reports_are_sent_when_the_day_is_over() {
    let mut world = World::new();
    world.sender.set("tls_report_delay", "0s");
    world.sender.set("tls_report_organization", "Test");
    world.policy("testing", 604_800);
    let port = world.web.address.port();
    let rua = format!("mailto:reports@far.example,https://mta-sts.far.example:{port}/report");
    world.records.lock().unwrap().push_str(&format!("_smtp._tls.far.example TXT v=TLSRPTv1; rua={rua}\n"));
    world.sender.start();
    world.send();
    world.receiver.until_mails("me", 1);
    world.sender.until_empty();
    world.sender.stop();
    let directory = world.sender.path().join("lib/tls-reports");
    let counted: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // A test that runs over midnight has two days.
    let today = counted.iter().max().unwrap();
    let date = std::process::Command::new("date").args(["-u", "-d", "yesterday", "+%F"]).output().unwrap();
    let yesterday = String::from_utf8(date.stdout).unwrap().trim().to_owned();
    fs::rename(today, directory.join(format!("{yesterday}.json"))).unwrap();
    world.sender.start();
    let mails = world.receiver.until_mails("me", 2);
    let report = mails.iter().find(|mail| mail.contains("TLS-Report-Domain: far.example")).expect("a report");
    for line in ["TLS-Report-Submitter: test.example", "report-type=\"tlsrpt\"", "application/tlsrpt+gzip"] {
        assert!(report.contains(line), "{line}: {report}");
    }
    let text = unpacked(report);
    for part in [
        "\"organization-name\":\"Test\"".to_owned(),
        format!("\"start-datetime\":\"{yesterday}T00:00:00Z\""),
        "\"policy-type\":\"sts\"".to_owned(),
        "\"total-failure-session-count\":1".to_owned(),
        "\"result-type\":\"certificate-host-mismatch\"".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let said = format!(
        "about far.example: posted to https://mta-sts.far.example:{port}/report; mailed to reports@far.example"
    );
    world.sender.until("the log to tell", || world.sender.log().contains(&said));
    assert_eq!(world.web.asked.load(Ordering::SeqCst), 2);
    // Once: the day is settled and forgotten.
    world.sender.until("the day to be forgotten", || !directory.join(format!("{yesterday}.json")).exists());
}

/// The report in a mail.
fn unpacked(mail: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let packed = mail.split("application/tlsrpt+gzip").last().unwrap().split("\n\n").nth(1).unwrap();
    let mut gzip = Command::new("sh")
        .args(["-c", "base64 -d | gzip -dc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(packed.as_bytes()).unwrap();
    String::from_utf8(gzip.wait_with_output().unwrap().stdout)
        .unwrap()
        .replace(": ", ":")
        .replace(char::is_whitespace, "")
}

#[test]
fn a_web_server_that_does_not_prove_its_name_has_no_policy() {
    let mut world = World::new();
    world.web = web(&world.authority.certificate("far.example"));
    world.sender.set("smtp_tls_mta_sts_port", &world.web.address.port().to_string());
    world.policy("enforce", 86_400);
    world.sender.start();
    world.send();
    world.receiver.until_mails("me", 1);
    let log = world.sender.log();
    assert!(log.contains("warning: MTA-STS policy of far.example: https://mta-sts.far.example/.well-known/"), "{log}");
    assert!(!world.sender.path().join("lib/mta-sts/far.example.policy").exists());
}

/// REQUIRETLS: only to a server whose name is known for sure, that proves it, and that offers to keep the promise.
#[test]
fn mail_that_requires_tls_goes_to_whom_can_be_believed() {
    // Name in the certificate, mode of the policy, whether the receiver offers it, and what becomes of the mail.
    let table = [
        ("mx1.far.example", "enforce", true, ""),
        (
            "mx1.far.example",
            "enforce",
            false,
            "dsn=5.7.30, status=bounced (REQUIRETLS is required, but was not offered by host",
        ),
        ("mx1.far.example", "testing", true, "dsn=5.7.10, status=bounced ("),
        ("other.example", "enforce", true, "dsn=5.7.10, status=bounced ("),
    ];
    for (certificate, mode, offered, why) in table {
        let case = format!("{certificate}, {mode}, offered: {offered}");
        let mut world = World::new();
        world.receiver.set("requiretls_enable", if offered { "yes" } else { "no" });
        world.present(certificate);
        world.policy(mode, 86_400);
        world.sender.start();
        let text = "Require-TLS-ESMTP: yes\nSubject: secret\n\nthe secret itself\n";
        world.sender.client().mail("me@box.example", &["x@far.example"], text).unwrap();
        if why.is_empty() {
            world.receiver.until_mails("me", 1);
            world.sender.until_empty();
            continue;
        }
        let notice = world.sender.until_mails("me", 1).remove(0);
        let log = world.sender.log();
        assert!(log.contains(why), "{case}: {log}");
        assert!(!notice.contains("the secret itself"), "{case}: {notice}");
        assert_eq!(world.receiver.mails("me").len(), 0, "{case}");
        // Mail that requires nothing goes as ever, where the policy lets it.
        if certificate == "mx1.far.example" {
            world.send();
            world.receiver.until_mails("me", 1);
        }
    }
}

/// `sendmail -O requiretls=yes` asks for the same as REQUIRETLS in MAIL, whether the mail system runs at that moment or not.
#[test]
fn sendmail_asks_for_requiretls() {
    const REFUSED: &str = "dsn=5.7.30, status=bounced (REQUIRETLS is required, but was not offered by host";
    for offered in [true, false] {
        let mut world = World::new();
        world.receiver.set("requiretls_enable", if offered { "yes" } else { "no" });
        world.present("mx1.far.example");
        world.policy("enforce", 86_400);
        world.sender.start();
        let hand_in = |word: &str| {
            let text = format!("Subject: {word}\n\nthe secret itself\n");
            world.sender.run_with("sendmail", &["-f", "me@box.example", "-O", word, "x@far.example"], &text)
        };
        for (down, number) in [(false, 1), (true, 2)] {
            if down {
                world.sender.stop();
            }
            let said = hand_in("requiretls=yes");
            assert_eq!(said.code, 0, "{said:?}");
            if down {
                world.sender.start();
            }
            if offered {
                let mails = world.receiver.until_mails("me", number);
                assert!(mails[number - 1].contains("Require-TLS-ESMTP: yes\n"), "{mails:?}");
                world.sender.until_empty();
                continue;
            }
            let notice = world.sender.until_mails("me", number).remove(number - 1);
            assert_eq!(world.sender.log().matches(REFUSED).count(), number, "{}", world.sender.log());
            assert!(!notice.contains("the secret itself"), "{notice}");
            assert_eq!(world.receiver.mails("me").len(), 0);
        }
        let mails = world.receiver.mails("me").len();
        assert_eq!(hand_in("requiretls=no").code, 0);
        let mails = world.receiver.until_mails("me", mails + 1);
        assert!(mails.iter().any(|mail| mail.contains("Subject: requiretls=no\n")), "{mails:?}");
    }
}

/// What cannot be promised is not taken.
#[test]
fn sendmail_refuses_what_it_cannot_promise() {
    let mut sender = Instance::new();
    sender.set("requiretls_enable", "no");
    sender.start();
    for (word, why) in [
        ("requiretls=yes", "-O requiretls=yes: REQUIRETLS is disabled (requiretls_enable = no)"),
        ("requiretls=true", "specify -O requiretls=yes or -O requiretls=no"),
    ] {
        let said = sender.run_with("sendmail", &["-O", word, "one@box.example"], "Subject: x\n\ntext\n");
        assert!(said.code == 75 && said.err.contains(why), "{said:?}");
    }
    let said = sender.run_with("sendmail", &["-bs", "-O", "requiretls=yes"], "QUIT\r\n");
    assert!(said.code == 64 && said.err.contains("-O requiretls=yes does not go with -bs"), "{said:?}");
    sender.run_with("sendmail", &["-O", "requiretls=no", "one@box.example"], "Subject: x\n\ntext\n");
    assert_eq!(sender.until_mails("one", 1).len(), 1);
}

/// More settings, the records (`PORT` is where the receiver is), and what becomes of the mail.
type Service<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

/// `use_srv_lookup`: hosts and ports of a service by SRV records.
#[test]
fn a_service_is_found_by_its_records() {
    let table: &[Service<'_>] = &[
        (&[], &["SRV 0 0 PORT mx1.far.example"], "status=sent"),
        (&[], &["SRV 0 0 1 mx1.far.example", "SRV 10 0 PORT mx1.far.example"], "status=sent"),
        (&[], &["SRV 0 0 PORT nowhere.far.example", "SRV 10 0 PORT mx1.far.example"], "status=sent"),
        (&[], &["SRV 0 0 0 ."], "dsn=4.3.5, status=deferred (Service submission is not available for far.example)"),
        (&[], &[], "status=deferred"),
        // To the mail exchangers, and there is nobody at that port.
        (&[("allow_srv_lookup_fallback", "yes")], &[], "status=deferred (connect to mx1.far.example["),
    ];
    for (settings, records, outcome) in table {
        let mut world = World::new();
        let port = world.receiver.smtp.port().to_string();
        world.sender.set("use_srv_lookup", "submission");
        world.sender.set("relayhost", "far.example:submission");
        world.sender.set("smtp_tls_mta_sts", "no");
        for (name, value) in *settings {
            world.sender.set(name, value);
        }
        for record in *records {
            let line = format!("_submission._tcp.far.example {}\n", record.replace("PORT", &port));
            world.records.lock().unwrap().push_str(&line);
        }
        world.sender.start();
        world.send();
        let of_it = |line: &&str| line.contains("to=<x@far.example>") && line.contains("status=");
        world.sender.until("an attempt", || world.sender.log().lines().any(|line| of_it(&line)));
        let log = world.sender.log();
        let line = log.lines().find(of_it).unwrap_or_default();
        assert!(line.contains(outcome), "{settings:?} {records:?}: {line}\n{log}");
        if *outcome == "status=sent" {
            world.receiver.until_mails("me", 1);
        }
    }
}

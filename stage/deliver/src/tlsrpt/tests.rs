use super::*;

fn session(domain: &str, failure: Option<&str>) -> Session {
    let policy = Applied { kind: "sts".into(), domain: domain.into(), ..Applied::default() };
    let failure = failure.map(|kind| Failed { kind: kind.into(), host: format!("mx.{domain}"), ..Failed::default() });
    Session { domain: domain.into(), policy, failure }
}

const NOON: u64 = 20_000 * DAY + DAY / 2;

#[test]
fn counts_reports_and_forgets() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::open(dir.path());
    for failure in
        [None, None, Some("certificate-expired"), Some("certificate-expired"), Some("starttls-not-supported")]
    {
        collector.count(session("a.example", failure), NOON);
    }
    collector.save().unwrap();
    // A restart.
    let collector = Collector::open(dir.path());
    assert!(collector.due(NOON, 0).is_empty(), "the day is not over");
    let due = collector.due(NOON + DAY, 4 * 3600);
    let [(day, domain, policies)] = &due[..] else { panic!("{due:?}") };
    assert_eq!((*day, domain.as_str()), (20_000, "a.example"));
    let reporter =
        Reporter { organization: "Us".into(), contact: "tls@us.example".into(), domain: "us.example".into() };
    let value = report(*day, domain, policies, &reporter);
    let policy = &value["policies"][0];
    assert_eq!(policy["policy"]["policy-type"], "sts");
    assert_eq!(policy["summary"]["total-successful-session-count"], 2);
    assert_eq!(policy["summary"]["total-failure-session-count"], 3);
    assert_eq!(policy["failure-details"][0]["failed-session-count"], 2);
    assert_eq!(policy["failure-details"][0]["result-type"], "certificate-expired");
    assert_eq!(value["date-range"]["start-datetime"], "2024-10-04T00:00:00Z");
    assert_eq!(value["date-range"]["end-datetime"], "2024-10-04T23:59:59Z");
    let mail = message(*day, domain, &reporter, &["r@a.example".into()], "now", &compressed(&value));
    let mail = String::from_utf8(mail).unwrap();
    for line in [
        "TLS-Report-Domain: a.example\n",
        "TLS-Report-Submitter: us.example\n",
        "Content-Type: application/tlsrpt+gzip\n",
        "filename=\"us.example!a.example!1728000000!1728086399!20241004.json.gz\"",
    ] {
        assert!(mail.contains(line), "{line}: {mail}");
    }
    assert!(mail.lines().all(|line| line.len() < 200));
    collector.settle(*day, domain);
    assert!(collector.due(NOON + DAY, 0).is_empty());
    collector.forget(NOON + DAY);
    collector.save().unwrap();
    assert!(read_days(dir.path()).is_empty());
}

#[test]
fn is_bounded() {
    let collector = Collector::in_memory();
    for at in 0..MOST_DOMAINS + 5 {
        collector.count(session(&format!("d{at}.example"), None), NOON);
    }
    for at in 0..MOST_FAILURES + 5 {
        let mut one = session("d1.example", Some("validation-failure"));
        one.failure.as_mut().unwrap().reason = format!("reason {at}");
        collector.count(one, NOON);
    }
    let days = collector.lock();
    let day = &days[&20_000];
    assert_eq!((day.domains.len(), day.passed_over), (MOST_DOMAINS, 5));
    let counted = &day.domains["d1.example"][0];
    assert_eq!((counted.failures.len(), counted.unlisted), (MOST_FAILURES, 5));
}

#[test]
fn dates() {
    assert_eq!(date_of(20_000), "2024-10-04");
    assert_eq!(day_of("2024-10-04"), Some(20_000));
    assert_eq!(day_of("new"), None);
}

#[test]
fn what_strangers_write_has_its_bounds() {
    let collector = Collector::in_memory();
    let long = "é".repeat(20_000);
    for number in 0..3 {
        let mut session = session("a.example", Some("validation-failure"));
        session.policy.strings = vec![long.clone(); 60];
        session.policy.patterns = vec![long.clone(); 60];
        session.failure.as_mut().unwrap().reason = format!("{number}{long}");
        collector.count(session, NOON);
    }
    let due = collector.due(NOON + 2 * DAY, 0);
    let [(_, _, policies)] = &due[..] else { panic!("{}", due.len()) };
    assert_eq!(policies.len(), 1);
    let size = serde_json::to_string(policies).unwrap().len();
    assert!(size < 100_000, "{size}");
    assert_eq!(policies[0].failures.len(), 3);
    // A day that is full counts what it knows, and nothing else.
    collector.lock().get_mut(&(NOON / DAY)).unwrap().bytes = MOST_BYTES;
    collector.count(session("b.example", None), NOON);
    let days = collector.lock();
    let day = &days[&(NOON / DAY)];
    assert_eq!((day.domains.len(), day.passed_over), (1, 1));
}

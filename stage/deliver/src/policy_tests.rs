//! Policies of destinations, and what they make of words that make no sense.

use pollster::block_on;
use yamabiko_config::{Config, Host};
use yamabiko_dns::FakeResolver;
use yamabiko_tls::Disk;

use super::*;
use crate::session::Peer;

fn policy(main: &str) -> Policy {
    let config = Config::from_texts(main, "", ("main.cf", "master.cf"), &Host::default()).unwrap();
    let (view, tables) = (config.main(), TableSet::default());
    let mut notices = Vec::new();
    let tls = Tls::read(&view, Protocol::Smtp, &tables, &Disk, &mut notices);
    assert!(notices.is_empty(), "{notices:?}");
    Policy { tls, ..Policy::default() }
}

const ZONE: &str = "
    safe.test SECURE
    safe.test MX 10 mx.safe.test
    mx.safe.test A 192.0.2.1
    _25._tcp.mx.safe.test TLSA 3 1 1 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f
    none.safe.test MX 10 mx2.safe.test
    mx2.safe.test A 192.0.2.2
    odd.safe.test MX 10 mx3.safe.test
    mx3.safe.test A 192.0.2.3
    _25._tcp.mx3.safe.test TLSA 1 1 1 0011
    alias.safe.test CNAME mx.safe.test
    broken.safe.test MX 10 mx4.safe.test
    mx4.safe.test A 192.0.2.4
    _25._tcp.mx4.safe.test SERVFAIL
    open.test MX 10 mx.safe.test
    lost.test SERVFAIL
    plain.test MX 10 mx.plain.test
    mx.plain.test A 192.0.2.5
    _25._tcp.mx.plain.test TLSA 3 1 1 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f
";

fn terms_of(policy: &Policy, destination: &str, host: &str) -> Result<Arc<Terms>, (Refusal, Vec<String>)> {
    let destination = Destination::parse(destination, "smtp", &[]).unwrap();
    let mut notes = Vec::new();
    let peer = Peer { host: host.to_owned(), address: "192.0.2.1".to_owned(), port: 25 };
    let dns = FakeResolver::parse(ZONE).unwrap();
    let found = block_on(async {
        let site = policy.site(&destination, &dns, &mut notes).await?;
        policy.terms(&site, &peer, ("a@b.test", Wish::Policy), &dns, &mut notes).await
    });
    found.map_err(|refusal| (refusal, notes))
}

#[test]
fn levels() {
    let maps = "smtp_tls_policy_maps = inline:{ {a.test = encrypt}, {.b.test = none}, {[c.test]:26 = secure}, {d.test = may} }\n";
    for (main, destination, level) in [
        ("", "x.test", ClientLevel::None),
        ("smtp_use_tls = yes\n", "x.test", ClientLevel::May),
        ("smtp_enforce_tls = yes\n", "x.test", ClientLevel::Verify),
        ("smtp_enforce_tls = yes\nsmtp_tls_enforce_peername = no\n", "x.test", ClientLevel::Encrypt),
        ("smtp_use_tls = yes\nsmtp_tls_security_level = none\n", "x.test", ClientLevel::None),
        ("smtp_tls_security_level = encrypt\n", "x.test", ClientLevel::Encrypt),
        (maps, "a.test", ClientLevel::Encrypt),
        (maps, "x.test", ClientLevel::None),
        (maps, "x.b.test", ClientLevel::None),
        (maps, "c.test", ClientLevel::None),
        (maps, "[c.test]:26", ClientLevel::Secure),
        (maps, "[a.test]", ClientLevel::None),
        (maps, "a.test:26", ClientLevel::None),
        (maps, "d.test", ClientLevel::May),
        ("smtp_tls_security_level = may\nsmtp_tls_per_site = inline:{mx.test=NONE}\n", "x.test", ClientLevel::None),
        ("smtp_tls_security_level = verify\nsmtp_tls_per_site = inline:{mx.test=MAY}\n", "x.test", ClientLevel::Verify),
        ("smtp_tls_per_site = inline:{x.test=MUST}\n", "x.test", ClientLevel::Verify),
        ("smtp_tls_per_site = inline:{x.test=MUST_NOPEERMATCH}\n", "x.test", ClientLevel::Encrypt),
        ("smtp_tls_per_site = inline:{{x.test=NONE},{mx.test=MAY}}\n", "x.test", ClientLevel::None),
    ] {
        let terms = terms_of(&policy(main), destination, "mx.test").unwrap_or_else(|e| panic!("{main}: {e:?}"));
        assert_eq!(terms.level, level, "{main} {destination}");
    }
}

#[test]
fn a_resolver_that_does_not_validate_is_told_of_once() {
    let main = "smtp_dns_support_level = dnssec\nsmtp_tls_security_level = dane\n";
    // dnssec_probe, what is authentic besides, the lines of the log.
    let reason = "reason: dnssec_probe 'ns:.' received a response that is not DNSSEC validated";
    let table: [(&str, &str, &[&str]); 4] = [
        ("", "", &["DNSSEC validation may be unavailable", reason]),
        ("", " SECURE", &[]),
        ("dnssec_probe =\n", "", &[]),
        ("dnssec_probe = nonsense\n", "", &[]),
    ];
    for (probe, root, wanted) in table {
        let policy = policy(&format!("{main}{probe}"));
        let dns =
            FakeResolver::parse(&format!("{ZONE}\n.{}\n", if root.is_empty() { " EMPTY" } else { root })).unwrap();
        for lines in [wanted, &[]] {
            let mut notes = Vec::new();
            let destination = Destination::parse("plain.test", "smtp", &[]).unwrap();
            let peer = Peer { host: "mx.plain.test".to_owned(), address: "192.0.2.5".to_owned(), port: 25 };
            block_on(async {
                let site = policy.site(&destination, &dns, &mut notes).await.unwrap();
                policy.terms(&site, &peer, ("a@b.test", Wish::Policy), &dns, &mut notes).await.unwrap()
            });
            assert_eq!(notes, lines, "{probe:?} {root:?}");
        }
    }
}

#[test]
fn dane() {
    let dnssec = "smtp_dns_support_level = dnssec\n";
    for (main, destination, host, expected) in [
        ("dane", "safe.test", "mx.safe.test", Ok((ClientLevel::Dane, "mx.safe.test"))),
        ("dane-only", "safe.test", "mx.safe.test", Ok((ClientLevel::DaneOnly, "mx.safe.test"))),
        ("dane-only", "[mx.safe.test]", "mx.safe.test", Ok((ClientLevel::DaneOnly, "mx.safe.test"))),
        ("dane", "[alias.safe.test]", "alias.safe.test", Ok((ClientLevel::Dane, "mx.safe.test"))),
        // A host that the authentic answer does not have.
        ("dane-only", "safe.test", "mx3.safe.test", Err("non DNSSEC destination")),
        ("dane", "none.safe.test", "mx2.safe.test", Ok((ClientLevel::May, ""))),
        ("dane-only", "none.safe.test", "mx2.safe.test", Err("no TLSA records found")),
        ("dane", "odd.safe.test", "mx3.safe.test", Ok((ClientLevel::Encrypt, ""))),
        ("dane-only", "odd.safe.test", "mx3.safe.test", Err("TLSA records unusable")),
        ("dane", "broken.safe.test", "mx4.safe.test", Err("TLSA lookup error for mx4.safe.test:25")),
        ("dane", "lost.test", "mx.lost.test", Err("TLSA lookup error for mx.lost.test:25")),
        ("dane", "open.test", "mx.safe.test", Ok((ClientLevel::HalfDane, "mx.safe.test"))),
        ("dane-only", "open.test", "mx.safe.test", Err("non DNSSEC destination")),
        ("dane", "plain.test", "mx.plain.test", Ok((ClientLevel::May, ""))),
    ] {
        let policy = policy(&format!("{dnssec}smtp_tls_security_level = {main}\n"));
        let found = terms_of(&policy, destination, host);
        let found = found.as_ref().map(|terms| (terms.level, terms.demand.server_name.as_str()));
        let found = found.map_err(|((status, why), _)| {
            assert_eq!(status.to_string(), "4.7.5");
            why.as_str()
        });
        assert_eq!(found, expected, "{main} {destination} {host}");
    }
    let table = "smtp_tls_security_level = may\nsmtp_tls_policy_maps = inline:{ {open.test=dane} }\n";
    let terms = terms_of(&policy(&format!("{dnssec}{table}")), "open.test", "mx.safe.test").unwrap();
    assert_eq!(terms.level, ClientLevel::May);
    let without = policy("smtp_tls_security_level = dane\n");
    assert_eq!(terms_of(&without, "safe.test", "mx.safe.test").unwrap().level, ClientLevel::May);
    let (refusal, notes) =
        terms_of(&policy("smtp_tls_security_level = dane-only\n"), "safe.test", "mx.safe.test").unwrap_err();
    assert_eq!(refusal, misconfigured());
    assert_eq!(notes, ["safe.test: dane-only configured with dnssec lookups disabled"]);
}

#[test]
fn attributes() {
    for (entry, names) in [
        ("secure", &["x.test", ".x.test"][..]),
        ("secure match=nexthop:hostname match=.y.test", &["x.test", "mx.test", ".y.test"]),
        ("verify", &["mx.test"]),
        ("verify ciphers=high protocols=>=TLSv1.2:<=TLSv1.3 servername=hostname enable_rpk=yes", &["mx.test"]),
    ] {
        let terms = terms_of(
            &policy(&format!("smtp_tls_policy_maps = inline:{{ {{ x.test = {entry} }} }}\n")),
            "x.test",
            "mx.test",
        );
        let terms = terms.unwrap_or_else(|e| panic!("{entry}: {e:?}"));
        let Proof::Names { names: found, .. } = &terms.demand.proof else { panic!("{entry}") };
        assert_eq!(found, names, "{entry}");
    }
    let terms = terms_of(
        &policy(
            "smtp_tls_policy_maps = inline:{ { x.test = fingerprint match=AA:BB|CC:DD match=EE connection_reuse=yes } }\n",
        ),
        "x.test",
        "mx.test",
    );
    let terms = terms.unwrap();
    assert!(terms.reuse);
    assert!(matches!(&terms.demand.proof, Proof::Fingerprint(prints) if prints == &["AA:BB", "CC:DD", "EE"]));
}

#[test]
fn what_cannot_be_obeyed_defers() {
    let title = "smtp_tls_policy_maps, next-hop destination \"x.test\": ";
    for (entry, why) in [
        (",", "invalid empty policy"),
        ("encript", "invalid security level \"encript\""),
        ("encrypt match", "malformed attribute/value pair \"match\": missing '=' after attribute name"),
        ("encrypt match=x", "attribute \"match\" invalid at security level \"encrypt\""),
        ("secure match=", "attribute \"match\" has empty value"),
        ("may protocols=TLSv1.3 protocols=TLSv1.2", "attribute \"protocols\" is specified multiple times"),
        ("may connection_reuse=perhaps", "attribute \"connection_reuse\" has bad value: \"perhaps\""),
        ("may tafile=/x", "attribute \"tafile\" invalid at security level \"may\""),
        ("secure servername=-", "\"servername=-\" specifies an invalid hostname"),
        ("may wings=yes", "invalid attribute name: \"wings\""),
    ] {
        let policy = policy(&format!("smtp_tls_policy_maps = inline:{{ {{ x.test = {entry} }} }}\n"));
        let (refusal, notes) = terms_of(&policy, "x.test", "mx.test").unwrap_err();
        assert_eq!(refusal, misconfigured(), "{entry}");
        assert_eq!(notes, [format!("{title}{why}")], "{entry}");
    }
    for (main, note) in [
        ("smtp_tls_security_level = strong\n", "invalid tls security level: \"strong\""),
        (
            "smtp_tls_per_site = inline:{x.test=WELL}\n",
            "smtp_tls_per_site: unknown TLS policy 'WELL' for next-hop destination x.test",
        ),
        (
            "smtp_tls_security_level = fingerprint\n",
            "nexthop domain x.test: configured at fingerprint security level, but with no fingerprints to match.",
        ),
        (
            "smtp_tls_security_level = encrypt\nsmtp_tls_mandatory_protocols = TLSv1\n",
            "smtp_tls_mandatory_protocols: neither TLSv1.2 nor TLSv1.3 is allowed, and no other protocol is there",
        ),
    ] {
        let (refusal, notes) = terms_of(&policy(main), "x.test", "mx.test").unwrap_err();
        assert_eq!((refusal, notes), (misconfigured(), vec![note.to_owned()]), "{main}");
    }
}

#[test]
fn logins() {
    let tables = TableSet::default();
    let table = "inline:{ {[relay.test]:587 = u1:p:1}, {mx.test = u2:p2}, {a@b.test = u3:p3}, {@c.test = u4}, {x.test = u5:p5} }";
    for (sender_dependent, destination, host, sender, expected) in [
        (false, "[relay.test]:587", "relay.test", "a@b.test", Some(("u1", "p:1"))),
        (false, "x.test", "mx.test", "a@b.test", Some(("u2", "p2"))),
        (false, "x.test", "other.test", "a@b.test", Some(("u5", "p5"))),
        (true, "x.test", "mx.test", "a@b.test", Some(("u3", "p3"))),
        (true, "x.test", "mx.test", "a+x@b.test", Some(("u3", "p3"))),
        (true, "x.test", "mx.test", "z@c.test", Some(("u4", ""))),
        (true, "x.test", "mx.test", "", Some(("u2", "p2"))),
        (false, "y.test", "other.test", "", None),
    ] {
        let logins = Logins {
            passwords: Some(Maps::open(&tables, "smtp_sasl_password_maps", table)),
            sender_dependent,
            delimiter: "+".to_owned(),
            remember: Some(Duration::from_secs(60)),
            ..Logins::default()
        };
        let site = Site { destination: destination.to_owned(), ..Site::default() };
        let found = block_on(logins.find(&site, host, sender, &mut Vec::new())).unwrap();
        let plain = found.as_ref().map(|login| (login.user.as_str(), login.password.as_str()));
        assert_eq!(plain, expected, "{destination} {host} {sender}");
        let Some(login) = found else { continue };
        assert_eq!(logins.refused(host, &login), None);
        let refusal = (EnhancedStatus::permanent(7, 8), "535 5.7.8 no".to_owned());
        logins.remember(host, &login, refusal.clone());
        assert_eq!(logins.refused(host, &login), Some(refusal));
        let other = Login { password: "another".to_owned(), ..login.clone() };
        assert_eq!(logins.refused(host, &other), None);
        assert_eq!(logins.refused(host, &login), None);
    }
}

//! Destinations against zones.

use std::sync::Arc;

use pollster::block_on;
use yamabiko_dns::{FakeResolver, Hosts};

use super::*;

const ZONE: &str = "
    remote.test MX 20 mx2.remote.test
    remote.test MX 10 mx1.remote.test
    mx1.remote.test A 192.0.2.25
    mx2.remote.test A 192.0.2.26
    mx2.remote.test AAAA 2001:db8::26
    aonly.test A 192.0.2.27
    cname.test CNAME aonly.test
    nullmx.test MX 0 .
    soft.test SERVFAIL
    halfsoft.test MX 10 soft.test
    halfsoft.test MX 20 mx1.remote.test
    allsoft.test MX 10 soft.test
    allsoft.test MX 20 missing.test
    bare.test EMPTY
    nohost.test MX 10 missing.nohost.test
    ours.test MX 10 mx.lab.test
    ours.test MX 20 mx1.remote.test
    backup.test MX 10 mx1.remote.test
    backup.test MX 20 mx.lab.test
    backup.test MX 20 mx2.remote.test
    lame.test MX 10 missing.test
    lame.test MX 20 mx.lab.test
    literal.test MX 10 192.0.2.25
    mx.lab.test A 192.0.2.1
    two.test A 192.0.2.41
    two.test A 192.0.2.42
    many.test A 192.0.2.61
    many.test A 192.0.2.62
    many.test A 192.0.2.63
    many.test A 192.0.2.64
    many.test AAAA 2001:db8::61
    many.test AAAA 2001:db8::62
    many.test AAAA 2001:db8::63
    many.test AAAA 2001:db8::64
";

fn settings() -> Settings {
    Settings {
        own_addresses: vec!["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
        randomize_addresses: false,
        ..Settings::default()
    }
}

fn find(settings: &Settings, name: &str, mail_exchangers: bool) -> Result<Vec<Candidate>, Trouble> {
    let resolver: Arc<dyn Resolver> = Arc::new(FakeResolver::parse(ZONE).unwrap());
    let hosts = Arc::new(Hosts::from_text("192.0.2.77 inhosts\n127.0.0.1 localhost\n"));
    let native = Native::new(hosts, Arc::clone(&resolver));
    let lookup = Lookup { resolver: &*resolver, native: &native, settings };
    let wanted = Wanted { name, mail_exchangers, service: None, detect_loops: true };
    let mut number = 0u64;
    let mut random = || {
        number += 1;
        number
    };
    block_on(lookup.find(wanted, &mut random)).map(|found| found.candidates)
}

/// `host/address@preference ...`, or the status and the reason.
fn told(found: Result<Vec<Candidate>, Trouble>) -> String {
    match found {
        Ok(list) => {
            let one = |c: &Candidate| format!("{}/{}@{}", c.host, c.address, c.preference);
            list.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        Err(trouble) => match trouble.why {
            Some((status, reason)) => format!("{status} {reason}"),
            None => "nothing".to_owned(),
        },
    }
}

const NOT_FOUND: &str = "Host or domain name not found. Name service error for name=";

#[test]
fn mail_exchangers() {
    let table: &[(&str, &str)] = &[
        ("remote.test", "mx1.remote.test/192.0.2.25@10 mx2.remote.test/192.0.2.26@20 mx2.remote.test/2001:db8::26@20"),
        ("aonly.test", "aonly.test/192.0.2.27@0"),
        ("cname.test", "cname.test/192.0.2.27@0"),
        ("nullmx.test", "5.1.0 Domain nullmx.test does not accept mail (nullMX)"),
        ("soft.test", "4.4.3 {}soft.test type=MX: Host not found, try again"),
        ("halfsoft.test", "mx1.remote.test/192.0.2.25@20"),
        ("allsoft.test", "4.4.3 {}soft.test type=A: Host not found, try again"),
        ("missing.test", "5.4.4 {}missing.test type=AAAA: Host not found"),
        ("bare.test", "5.4.4 {}bare.test type=AAAA: Host found but no data record of requested type"),
        ("nohost.test", "5.4.4 {}missing.nohost.test type=AAAA: Host not found"),
        ("ours.test", "5.4.6 mail for ours.test loops back to myself"),
        ("backup.test", "mx1.remote.test/192.0.2.25@10"),
        ("lame.test", "4.4.4 unable to find primary relay for lame.test"),
        (
            "literal.test",
            "5.4.4 Name service error for name=literal.test type=MX: Malformed or unexpected name server reply",
        ),
        ("mx.lab.test", "5.4.6 mail for mx.lab.test loops back to myself"),
        ("no_such..name", "5.4.4 Name service error for no_such..name: invalid host or domain name"),
        // `content_filter = scan:127.0.0.1:10025`, as many how-tos have it.
        ("192.0.2.27", "192.0.2.27/192.0.2.27@0"),
        ("999.1.1.1", "5.4.4 Name service error for 999.1.1.1: invalid host or domain name"),
    ];
    for (name, wanted) in table {
        assert_eq!(told(find(&settings(), name, true)), wanted.replace("{}", NOT_FOUND), "{name}");
    }
}

#[test]
fn settings_that_change_the_answer() {
    let ipv4 = Settings { ipv6: false, ..settings() };
    let wanted = format!("5.4.4 {NOT_FOUND}missing.test type=A: Host not found");
    assert_eq!(told(find(&ipv4, "missing.test", true)), wanted);
    let ipv6 = Settings { ipv4: false, ..settings() };
    assert_eq!(told(find(&ipv6, "remote.test", true)), "mx2.remote.test/2001:db8::26@20");
    assert_eq!(told(find(&ipv6, "192.0.2.1", false)), "nothing");
    let defer = Settings { defer_if_no_mx_address_found: true, ..settings() };
    assert!(told(find(&defer, "nohost.test", true)).starts_with("4.4.4 "));
    let ignore = Settings { ignore_mx_lookup_error: true, ..settings() };
    assert!(told(find(&ignore, "soft.test", true)).contains("type=A"));
    let prefer = |address_preference| Settings { address_preference, ..settings() };
    assert!(told(find(&prefer(Preference::Ipv6), "mx2.remote.test", false)).starts_with("mx2.remote.test/2001"));
    assert!(told(find(&prefer(Preference::Ipv4), "mx2.remote.test", false)).starts_with("mx2.remote.test/192"));
    let native = Settings { lookup_dns: false, lookup_native: true, ..settings() };
    assert_eq!(told(find(&native, "inhosts", false)), "inhosts/192.0.2.77@0");
    let wanted = "5.4.4 unable to look up host missing.test: Name or service not known";
    assert_eq!(told(find(&native, "missing.test", false)), wanted);
    let both = Settings { lookup_native: true, ..settings() };
    assert_eq!(told(find(&both, "inhosts", false)), "inhosts/192.0.2.77@0");
}

#[test]
fn families_share_the_limit_and_chance_decides() {
    let count = |list: &[Candidate]| list.iter().filter(|one| one.address.is_ipv4()).count();
    let found = find(&settings(), "many.test", false).unwrap();
    assert_eq!((found.len(), count(&found)), (5, 3));
    let unbalanced = Settings { balance_inet_protocols: false, ..settings() };
    assert_eq!(find(&unbalanced, "many.test", false).unwrap().len(), 8);
    let random = Settings { randomize_addresses: true, ..settings() };
    let order = told(find(&random, "two.test", false));
    assert!(order.contains("192.0.2.41") && order.contains("192.0.2.42"));
    // Chance does not overrule preference.
    assert!(told(find(&random, "remote.test", true)).starts_with("mx1.remote.test/192.0.2.25@10"));
}

#[test]
fn services() {
    let zone = "
        _submission._tcp.s.test SRV 20 0 587 b.s.test
        _submission._tcp.s.test SRV 10 1 1587 c.s.test
        _submission._tcp.s.test SRV 10 9 2587 a.s.test
        a.s.test A 192.0.2.11
        b.s.test A 192.0.2.12
        c.s.test A 192.0.2.13
        s.test MX 10 b.s.test
        t.test A 192.0.2.14
        _submission._tcp.none.test SRV 0 0 0 .
        _submission._tcp.soft.test SERVFAIL
        soft.test A 192.0.2.15
    ";
    let find = |name: &str, settings: &Settings| {
        let resolver: Arc<dyn Resolver> = Arc::new(FakeResolver::parse(zone).unwrap());
        let native = Native::new(Arc::new(Hosts::from_text("")), Arc::clone(&resolver));
        let lookup = Lookup { resolver: &*resolver, native: &native, settings };
        let wanted = Wanted { name, mail_exchangers: true, service: Some("submission"), detect_loops: false };
        match block_on(lookup.find(wanted, &mut || 0)) {
            Ok(found) => {
                let one = |c: &Candidate| format!("{}:{}", c.address, c.port.unwrap_or(0));
                found.candidates.iter().map(one).collect::<Vec<_>>().join(" ")
            }
            Err(trouble) => trouble.why.map_or_else(String::new, |(status, _)| status.to_string()),
        }
    };
    let strict = settings();
    let lenient = Settings { srv_fallback: true, ignore_srv_lookup_error: true, ..settings() };
    let table = [
        ("s.test", "192.0.2.11:2587 192.0.2.13:1587 192.0.2.12:587", "192.0.2.11:2587 192.0.2.13:1587 192.0.2.12:587"),
        ("t.test", "5.4.4", "192.0.2.14:0"),
        ("none.test", "5.1.0", "5.1.0"),
        ("soft.test", "4.4.3", "192.0.2.15:0"),
    ];
    for (name, first, second) in table {
        assert_eq!(find(name, &strict), first, "{name}");
        assert_eq!(find(name, &lenient), second, "{name}, lenient");
    }
}

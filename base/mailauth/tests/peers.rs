//! The same cases as Debian's programs: opendkim verifies our signatures and we verify its; SPF as policyd-spf's library has
//! it. Results by table, over a name server of the test's own. Skipped with a message where a program is not installed.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use yamabiko_mailauth::{
    Algorithm, Authenticator, Client, Identity, Key, Policy, Sealer, Signer, Verdict, Wants, generate, with_crlf,
};

/// Names with types and values; `!` in place of a value: SERVFAIL.
type Zone = Vec<(String, &'static str, String)>;

/// A name server for as long as the test lives.
fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = answer(&zone, &buffer[..length]) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    address
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn answer(zone: &Zone, query: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *query.get(at)? > 0 {
        let length = query[at] as usize;
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += length + 1;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(12..at + 5)?;
    let known: Vec<_> = zone.iter().filter(|(known, ..)| *known == name).collect();
    let word = match kind {
        1 => "A",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        _ => "",
    };
    let values: Vec<_> = known.iter().filter(|(_, kind, _)| *kind == word).map(|(.., value)| value.as_str()).collect();
    let code = if values.contains(&"!") {
        2
    } else if known.is_empty() {
        3
    } else {
        0
    };
    let mut records = Vec::new();
    for value in values.iter().filter(|value| **value != "!") {
        let data = match word {
            "A" => value.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
            "PTR" => wire_name(value),
            "MX" => [&[0, 10], &wire_name(value)[..]].concat(),
            _ => value.as_bytes().chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect(),
        };
        records.push(
            [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 1, 0], &(data.len() as u16).to_be_bytes(), &data]
                .concat(),
        );
    }
    let mut reply = query.get(..2)?.to_vec();
    reply.extend_from_slice(&[0x85, 0x80 | code, 0, 1]);
    reply.extend_from_slice(&(records.len() as u16).to_be_bytes());
    reply.extend_from_slice(&[0, 0, 0, 0]);
    reply.extend_from_slice(question);
    records.iter().for_each(|record| reply.extend_from_slice(record));
    Some(reply)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn there(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        eprintln!("SKIPPED: {path} is not installed");
    }
    there
}

fn zone(entries: &[(&str, &'static str, &str)]) -> Zone {
    entries.iter().map(|(name, kind, value)| ((*name).to_owned(), *kind, (*value).to_owned())).collect()
}

const SPF_ZONE: &[(&str, &str, &str)] = &[
    ("pass.test", "TXT", "v=spf1 ip4:192.0.2.0/24 -all"),
    ("soft.test", "TXT", "v=spf1 ip4:198.51.100.1 ~all"),
    ("neutral.test", "TXT", "v=spf1 ?all"),
    ("a.test", "TXT", "v=spf1 a -all"),
    ("a.test", "A", "192.0.2.1"),
    ("mx.test", "TXT", "v=spf1 mx -all"),
    ("mx.test", "MX", "a.test"),
    ("inc.test", "TXT", "v=spf1 include:pass.test -all"),
    ("redirect.test", "TXT", "v=spf1 redirect=pass.test"),
    ("macro.test", "TXT", "v=spf1 exists:%{ir}.%{l}.list.test -all"),
    ("1.2.0.192.joe.list.test", "A", "127.0.0.2"),
    ("loop.test", "TXT", "v=spf1 include:loop.test -all"),
    ("bad.test", "TXT", "v=spf1 nonsense:x -all"),
    ("none.test", "TXT", "something else"),
    ("two.test", "TXT", "v=spf1 -all"),
    ("two.test", "TXT", "v=spf1 +all"),
    ("noinc.test", "TXT", "v=spf1 include:nowhere.test -all"),
    ("trouble.test", "TXT", "!"),
    ("inctrouble.test", "TXT", "v=spf1 include:trouble.test -all"),
    ("exp.test", "TXT", "v=spf1 -all exp=why.exp.test"),
    ("why.exp.test", "TXT", "%{i} is not one of ours"),
    ("helo.test", "TXT", "v=spf1 -all"),
];

/// Address, HELO, sender, verdict, and what policyd-spf's library says.
const SPF_CASES: &[(&str, &str, &str, Verdict, &str)] = &[
    ("192.0.2.1", "h.test", "joe@pass.test", Verdict::Pass, "pass"),
    ("203.0.113.1", "h.test", "joe@pass.test", Verdict::Fail, "fail"),
    ("203.0.113.1", "h.test", "joe@soft.test", Verdict::SoftFail, "softfail"),
    ("203.0.113.1", "h.test", "joe@neutral.test", Verdict::Neutral, "neutral"),
    ("192.0.2.1", "h.test", "joe@a.test", Verdict::Pass, "pass"),
    ("192.0.2.2", "h.test", "joe@a.test", Verdict::Fail, "fail"),
    ("192.0.2.1", "h.test", "joe@mx.test", Verdict::Pass, "pass"),
    ("192.0.2.1", "h.test", "joe@inc.test", Verdict::Pass, "pass"),
    ("203.0.113.1", "h.test", "joe@inc.test", Verdict::Fail, "fail"),
    ("192.0.2.9", "h.test", "joe@redirect.test", Verdict::Pass, "pass"),
    ("192.0.2.1", "h.test", "joe@macro.test", Verdict::Pass, "pass"),
    ("192.0.2.1", "h.test", "jim@macro.test", Verdict::Fail, "fail"),
    ("192.0.2.1", "h.test", "joe@loop.test", Verdict::PermError, "permerror"),
    ("192.0.2.1", "h.test", "joe@bad.test", Verdict::PermError, "permerror"),
    ("192.0.2.1", "h.test", "joe@two.test", Verdict::PermError, "permerror"),
    ("192.0.2.1", "h.test", "joe@none.test", Verdict::None, "none"),
    ("192.0.2.1", "h.test", "joe@unknown.test", Verdict::None, "none"),
    ("192.0.2.1", "h.test", "joe@noinc.test", Verdict::PermError, "permerror"),
    ("192.0.2.1", "h.test", "joe@trouble.test", Verdict::TempError, "temperror"),
    ("192.0.2.1", "h.test", "joe@inctrouble.test", Verdict::TempError, "temperror"),
    ("192.0.2.1", "helo.test", "", Verdict::Fail, "fail"),
];

#[test]
fn spf_by_table() {
    let authenticator = Authenticator::with_servers(&[name_server(zone(SPF_ZONE))]).unwrap();
    run(async {
        for (address, helo, sender, expected, _) in SPF_CASES {
            let client = Client { address: address.parse().unwrap(), helo, myhostname: "mx.example" };
            assert_eq!(authenticator.spf(client, sender).await.verdict, *expected, "{address} {sender}");
        }
        let client = Client { address: "192.0.2.1".parse().unwrap(), helo: "h.test", myhostname: "mx.example" };
        assert_eq!(authenticator.spf(client, "joe@exp.test").await.explanation, "192.0.2.1 is not one of ours");
    });
}

#[test]
fn spf_as_policyd_spf_has_it() {
    let script = r#"
import sys, json
try:
    import spf
except ImportError:
    print("SKIP"); sys.exit()
data = json.load(sys.stdin)
def lookup(name, kind, tcpfallback=True, timeout=30, *rest, **more):
    name = name.lower().rstrip('.')
    found = []
    for known, of, value in data["zone"]:
        if known == name and of == kind:
            if value == "!":
                raise spf.TempError("DNS SERVFAIL")
            if kind == "TXT": value = (value.encode(),)
            if kind == "MX": value = (10, value)
            if kind == "A":
                import ipaddress; value = value
            found.append(((name, kind), value))
    return found
spf.DNSLookup = lookup
for address, helo, sender in data["cases"]:
    print(spf.check2(i=address, s=sender or "postmaster@" + helo, h=helo)[0])
"#;
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let list = |words: &[&str]| format!("[{}]", words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(","));
    let zone: Vec<String> = SPF_ZONE.iter().map(|(name, kind, value)| list(&[name, kind, value])).collect();
    let cases: Vec<String> =
        SPF_CASES.iter().map(|(address, helo, sender, ..)| list(&[address, helo, sender])).collect();
    let Ok(mut python) =
        Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    else {
        eprintln!("SKIPPED: python3 is not installed");
        return;
    };
    let input = format!("{{\"zone\":[{}],\"cases\":[{}]}}", zone.join(","), cases.join(","));
    python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    if said.starts_with("SKIP") {
        eprintln!("SKIPPED: policyd-spf's library is not installed");
        return;
    }
    let said: Vec<&str> = said.lines().collect();
    let expected: Vec<&str> = SPF_CASES.iter().map(|(.., theirs)| *theirs).collect();
    assert_eq!(said, expected);
}

const MESSAGE: &str = "Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\nFrom: Joe <joe@x.test>\nTo: b@y.test\n\
                       Subject: a  folded\n\tsubject\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x.test>\n\n\
                       Hello,\n\n  two  blanks \t and a trailing one \n.\n\n\n";

fn identity(selector: &str) -> Identity {
    Identity { selector: selector.to_owned(), domain: "x.test".to_owned(), file: String::new() }
}

#[test]
fn opendkim_verifies_ours_and_we_verify_its() {
    if !there("/usr/sbin/opendkim") || !there("/usr/sbin/opendkim-testmsg") {
        return;
    }
    let pem = generate(Algorithm::Rsa).unwrap();
    let key = Key::from_pem(&pem).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();

    // Ours, read by opendkim.
    let field = Signer::new(&identity("s1"), &key).unwrap().sign(&with_crlf(&[MESSAGE.as_bytes()])).unwrap();
    write("ours.eml", &format!("{field}{MESSAGE}"));
    write("bad.eml", &format!("{field}{}", MESSAGE.replace("Hello", "Hallo")));
    write("keys", &format!("s1._domainkey.x.test {}\n", key.record()));
    write("conf", &format!("Mode v\nTestPublicKeys {}\n", path("keys").display()));
    let verify = |name: &str| {
        let out = Command::new("/usr/sbin/opendkim")
            .args(["-v", "-v", "-x"])
            .arg(path("conf"))
            .arg("-t")
            .arg(path(name))
            .output()
            .unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    let said = verify("ours.eml");
    assert!(said.contains("succeeded") || said.contains("verification (s=s1 d=x.test, 2048-bit key"), "{said}");
    let said = verify("bad.eml");
    assert!(!said.contains("succeeded"), "{said}");

    // Its own, read by us.
    write("key.pem", &pem);
    let mut signer = Command::new("/usr/sbin/opendkim-testmsg")
        .args(["-C", "-d", "x.test", "-s", "s1", "-k"])
        .arg(path("key.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    signer.stdin.take().unwrap().write_all(&with_crlf(&[MESSAGE.as_bytes()])).unwrap();
    let theirs = signer.wait_with_output().unwrap().stdout;
    let theirs = String::from_utf8(theirs).unwrap().replace("\r\n", "\n");
    assert!(theirs.contains("DKIM-Signature:"), "{theirs}");
    let dns = zone(&[("s1._domainkey.x.test", "TXT", key.record())]);
    let authenticator = Authenticator::with_servers(&[name_server(dns)]).unwrap();
    let wants = Wants { dkim: true, ..Wants::default() };
    run(async {
        for (message, expected) in [
            (theirs.clone(), "dkim=pass"),
            (theirs.replace("Hello", "Hallo"), "dkim=neutral (body hash did not verify)"),
            (theirs.replace("From: Joe", "From: Jim"), "dkim=fail (verification failed)"),
            (format!("{field}{MESSAGE}"), "dkim=pass"),
            (MESSAGE.to_owned(), "dkim=none"),
        ] {
            let message = with_crlf(&[message.as_bytes()]);
            let findings = authenticator.verify(&message, client(), "joe@x.test", "mx.example", wants).await;
            assert!(findings.results.contains(expected), "{expected}: {}", findings.results);
            assert!(findings.results.starts_with("mx.example;\n\t"), "{}", findings.results);
        }
    });
}

fn client() -> Client<'static> {
    Client { address: "203.0.113.5".parse().unwrap(), helo: "h.test", myhostname: "mx.example" }
}

#[test]
fn dmarc_and_arc() {
    let rsa = Arc::new(Key::from_pem(&generate(Algorithm::Rsa).unwrap()).unwrap());
    let ed = Key::from_pem(&generate(Algorithm::Ed25519).unwrap()).unwrap();
    let record = rsa.record().to_owned();
    let dns = |dmarc: &'static str, key: &str| {
        zone(&[
            ("s1._domainkey.x.test", "TXT", key),
            ("s2._domainkey.x.test", "TXT", ed.record()),
            ("_dmarc.x.test", "TXT", dmarc),
            ("x.test", "TXT", "v=spf1 ip4:192.0.2.1 -all"),
        ])
    };
    let plain = with_crlf(&[MESSAGE.as_bytes()]);
    let sign = |selector: &str, key: &Key| {
        let field = Signer::new(&identity(selector), key).unwrap().sign(&plain).unwrap();
        with_crlf(&[field.as_bytes(), MESSAGE.as_bytes()])
    };
    let (signed, signed_ed) = (sign("s1", &rsa), sign("s2", &ed));
    let all = Wants { spf: true, dkim: true, dmarc: true, arc: true };
    let find = |dmarc: &'static str, key: &str, message: &[u8]| {
        let authenticator = Authenticator::with_servers(&[name_server(dns(dmarc, key))]).unwrap();
        run(authenticator.verify(message, client(), "joe@x.test", "mx.example", all))
    };
    for (dmarc, key, message, failed, unknown, policy, words) in [
        ("v=DMARC1; p=reject", &*record, &plain, true, false, Policy::Reject, "dmarc=fail"),
        ("v=DMARC1; p=quarantine", &record, &plain, true, false, Policy::Quarantine, "policy.dmarc=quarantine"),
        ("v=DMARC1; p=reject", &record, &signed, false, false, Policy::Reject, "dmarc=pass"),
        ("v=DMARC1; p=reject", &record, &signed_ed, false, false, Policy::Reject, "dmarc=pass"),
        ("v=DMARC1; p=none", &record, &plain, true, false, Policy::None, "policy.dmarc=none"),
        // The key cannot be asked for: nothing is known, and nothing is refused.
        ("v=DMARC1; p=reject", "!", &signed, false, true, Policy::Reject, "dkim=temperror"),
        ("!", &record, &plain, false, true, Policy::None, "dmarc=temperror"),
        ("nothing", &record, &plain, false, false, Policy::None, "dmarc=none"),
    ] {
        let findings = find(dmarc, key, message);
        let got = findings.dmarc.clone().unwrap();
        assert_eq!((got.failed, got.unknown, got.policy), (failed, unknown, policy), "{dmarc}: {}", findings.results);
        assert!(findings.results.contains(words), "{words}: {}", findings.results);
        assert!(findings.results.contains("spf=fail") && findings.results.contains("arc=none"), "{}", findings.results);
    }

    // Sealed by us, read again, sealed again; broken.
    let authenticator = Authenticator::with_servers(&[name_server(dns("v=DMARC1; p=reject", &record))]).unwrap();
    let sealer = Sealer::new(&identity("s1"), &rsa).unwrap();
    run(async {
        let findings = authenticator.verify(&plain, client(), "joe@x.test", "mx.example", all).await;
        let set = sealer.seal(&authenticator, &plain, &findings.results).await.unwrap().unwrap();
        assert!(set.contains("ARC-Seal: i=1") && set.contains("cv=none") && !set.contains('\r'), "{set}");
        let once = with_crlf(&[set.as_bytes(), MESSAGE.as_bytes()]);
        let found = authenticator.verify(&once, client(), "joe@x.test", "mx.example", all).await;
        assert_eq!(found.sealed_by.as_deref(), Some("x.test"), "{}", found.results);
        let second = sealer.seal(&authenticator, &once, &found.results).await.unwrap().unwrap();
        assert!(second.contains("ARC-Seal: i=2") && second.contains("cv=pass"), "{second}");
        let twice = with_crlf(&[second.as_bytes(), set.as_bytes(), MESSAGE.as_bytes()]);
        let found = authenticator.verify(&twice, client(), "joe@x.test", "mx.example", all).await;
        assert_eq!(found.sealed_by.as_deref(), Some("x.test"), "{}", found.results);
        let broken = String::from_utf8(twice).unwrap().replace("Hello", "Hallo");
        let found = authenticator.verify(broken.as_bytes(), client(), "joe@x.test", "mx.example", all).await;
        assert_eq!(found.sealed_by, None, "{}", found.results);
    });
}

/// Nobody answers: everything is open, within the time limit.
#[test]
fn silence() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let authenticator = Authenticator::with_servers(&[silent.local_addr().unwrap()]).unwrap();
    let all = Wants { spf: true, dkim: true, dmarc: true, arc: true };
    let message = with_crlf(&[MESSAGE.as_bytes()]);
    let findings = run(authenticator.verify(&message, client(), "joe@x.test", "mx.example", all));
    assert!(findings.results.contains("spf=temperror"), "{}", findings.results);
    assert!(!findings.dmarc.is_some_and(|dmarc| dmarc.failed));
}

/// What is no message, or one made to hurt.
#[test]
fn hostile() {
    let authenticator = Authenticator::with_servers(&[name_server(Vec::new())]).unwrap();
    let all = Wants { spf: false, dkim: true, dmarc: true, arc: true };
    let many = "DKIM-Signature: v=1; a=rsa-sha256; d=x.test; s=s; h=From; bh=AAAA; b=AAAA\r\n".repeat(5000);
    let lengths: String = (0..2000)
        .map(|n| {
            format!(
                "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; l={n}; d=x.test; s=s; h=From; bh=AA==; b=AA==\r\n"
            )
        })
        .collect();
    let arcs: String =
        (0..200).map(|n| format!("ARC-Seal: i={n}; a=rsa-sha256; cv=pass; d=x; s=s; b=AA==\r\n")).collect();
    let body = "x\r\n".repeat(100_000);
    run(async {
        for message in [
            String::new(),
            "\r\n".to_owned(),
            "\0\u{7f}: \r\n\r\n".to_owned(),
            format!("{many}From: a@x.test\r\n\r\n{body}"),
            format!("{lengths}From: a@x.test\r\n\r\n{body}"),
            format!("{arcs}From: a@x.test\r\n\r\n"),
            format!("From: {}\r\n\r\n", "a@x.test,".repeat(20_000)),
            format!("From: a@{}test\r\n\r\n", "x.".repeat(5000)),
            "DKIM-Signature: ;;;===\r\nARC-Message-Signature:\r\nFrom: \u{5c71}@x.test\r\n\r\n".to_owned(),
        ] {
            let _ = authenticator.verify(message.as_bytes(), client(), "a@x.test", "mx.example", all).await;
        }
    });
}

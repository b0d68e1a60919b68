//! Restrictions that ask DNS, over whole sessions: a line per case.

mod common;

use std::sync::Arc;

use common::World;
use yamabiko_dns::FakeResolver;

/// A client, what it says of itself, and what comes of it.
struct Case {
    main: &'static str,
    zone: &'static str,
    client: &'static str,
    helo: &'static str,
    sender: &'static str,
    recipient: &'static str,
    /// The reply to RCPT.
    reply: &'static str,
    /// Texts of warnings, in order.
    warnings: &'static [&'static str],
}

const CASE: Case = Case {
    main: "",
    zone: "",
    client: "198.51.100.8",
    helo: "client.outside.test",
    sender: "a@remote.test",
    recipient: "user1@lab.test",
    reply: OK,
    warnings: &[],
};
const OK: &str = "250 2.1.5 Ok";
const BROKEN: &str = "451 4.3.5 Server configuration error";
const FORBIDDEN: [&str; 2] =
    ["this is not allowed for security reasons", "use DUNNO instead of OK if you want to make an exception"];

fn run(case: &Case) {
    let mut world = World::new(case.main);
    let zone = format!("{}{}", common::ZONE, case.zone);
    world.resolver = Arc::new(FakeResolver::parse(&zone).expect("zone"));
    let mut talk = world.connect(case.client);
    talk.say(b"");
    talk.line(&format!("EHLO {}", case.helo));
    assert_eq!(talk.line(&format!("MAIL FROM:<{}>", case.sender)), "250 2.1.0 Ok", "{}", case.main);
    let reply = talk.line(&format!("RCPT TO:<{}>", case.recipient));
    assert_eq!(reply, case.reply, "{} {}", case.main, case.zone);
    let lines = world.log.lines();
    let warnings: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("warning: ")).collect();
    let warnings: Vec<_> = warnings.into_iter().filter(|line| !line.starts_with("hostname ")).collect();
    assert_eq!(warnings, case.warnings, "{} {}", case.main, case.zone);
}

#[test]
fn lists_of_addresses() {
    const MAIN: &str = "smtpd_client_restrictions = reject_rbl_client rbl.test\n";
    const LISTED: &str = "8.100.51.198.rbl.test A 127.0.0.2\n";
    const BLOCKED: &str = "554 5.7.1 Service unavailable; Client host [198.51.100.8] blocked using rbl.test";
    for case in [
        Case { main: MAIN, ..CASE },
        Case { main: MAIN, zone: LISTED, reply: BLOCKED, ..CASE },
        Case { main: "smtpd_client_restrictions = reject_rbl rbl.test\n", zone: LISTED, reply: BLOCKED, ..CASE },
        Case {
            main: MAIN,
            zone: "8.100.51.198.rbl.test A 127.0.0.2\n8.100.51.198.rbl.test TXT \"see rbl.test\"\n8.100.51.198.rbl.test TXT \"two $x\"\n",
            reply: "554 5.7.1 Service unavailable; Client host [198.51.100.8] blocked using rbl.test; see rbl.test / two $x",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rbl_client rbl.test=127.0.0.[3;5..7]\n",
            zone: LISTED,
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rbl_client rbl.test=127.0.0.[2;5..7]\n",
            zone: LISTED,
            reply: BLOCKED,
            ..CASE
        },
        Case {
            main: MAIN,
            zone: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.rbl.test A 127.0.0.4\n",
            client: "2001:db8::1",
            reply: "554 5.7.1 Service unavailable; Client host [2001:db8::1] blocked using rbl.test",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_maps_rbl\nmaps_rbl_domains = one.test, rbl.test\n",
            zone: LISTED,
            reply: BLOCKED,
            warnings: &["support for restriction \"reject_maps_rbl\" will be removed from Postfix; use \
                         \"reject_rbl_client domain-name\" instead"],
            ..CASE
        },
        Case {
            main: MAIN,
            zone: "8.100.51.198.rbl.test SERVFAIL\n",
            warnings: &[
                "8.100.51.198.rbl.test: RBL lookup error: Host or domain name not found. Name service error for \
                         name=8.100.51.198.rbl.test type=A: Host not found, try again",
            ],
            ..CASE
        },
        // It lists everything.
        Case {
            main: MAIN,
            zone: "8.100.51.198.rbl.test A 127.0.0.2\n1.0.0.127.rbl.test A 127.0.0.2\n",
            warnings: &[
                "DNS list rbl.test lists 1.0.0.127.rbl.test, which is never listed: it lists everything; it is \
                         not asked, and nobody is refused by it, for some time",
            ],
            ..CASE
        },
        // Its domain was sold.
        Case {
            main: MAIN,
            zone: "8.100.51.198.rbl.test A 203.0.113.80\n",
            warnings: &[
                "DNS list rbl.test answers 203.0.113.80 to 8.100.51.198.rbl.test, which is not in 127.0.0.0/8: \
                         nothing is served there any more; it is not asked, and nobody is refused by it, for some time",
            ],
            ..CASE
        },
        // It does not serve us.
        Case {
            main: MAIN,
            zone: "8.100.51.198.rbl.test A 127.255.255.254\n",
            warnings: &[
                "DNS list rbl.test answers 127.255.255.254 to 8.100.51.198.rbl.test: it does not serve public \
                         resolvers: use one of your own; it is not asked, and nobody is refused by it, for some time",
            ],
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rbl_client rbl.test=127.0\n",
            reply: BROKEN,
            warnings: &[
                "restriction reject_rbl_client: bad answer pattern \"127.0\": four numbers with dots between are \
                         wanted",
            ],
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rbl_client\n",
            reply: BROKEN,
            warnings: &["restriction reject_rbl_client requires domain name argument"],
            ..CASE
        },
        Case {
            main: "maps_rbl_reject_code = 450\nsmtpd_client_restrictions = warn_if_reject reject_rbl_client rbl.test\n",
            zone: LISTED,
            ..CASE
        },
    ] {
        run(&case);
    }
}

#[test]
fn lists_of_names() {
    for case in [
        Case {
            main: "smtpd_sender_restrictions = reject_rhsbl_sender dbl.test\n",
            zone: "remote.test.dbl.test A 127.0.1.2\n",
            reply: "554 5.7.1 Service unavailable; Sender address [a@remote.test] blocked using dbl.test",
            ..CASE
        },
        Case {
            main: "smtpd_sender_restrictions = reject_rhsbl_sender dbl.test\n",
            zone: "remote.test.dbl.test A 127.0.1.2\n",
            sender: "",
            ..CASE
        },
        Case {
            main: "smtpd_sender_restrictions = reject_rhsbl_sender dbl.test\n",
            zone: "remote.test.dbl.test A 127.0.1.2\n",
            sender: "a@[192.0.2.1]",
            ..CASE
        },
        Case {
            main: "smtpd_sender_restrictions = reject_rhsbl_helo dbl.test\n",
            zone: "spam.test.dbl.test A 127.0.1.2\n",
            helo: "spam.test",
            reply: "554 5.7.1 Service unavailable; Helo command [spam.test] blocked using dbl.test",
            ..CASE
        },
        Case {
            main: "smtpd_recipient_restrictions = reject_rhsbl_recipient dbl.test, permit\n",
            zone: "lab.test.dbl.test A 127.0.1.2\n",
            reply: "554 5.7.1 Service unavailable; Recipient address [user1@lab.test] blocked using dbl.test",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rhsbl_client dbl.test\n",
            zone: "client.outside.test.dbl.test A 127.0.1.2\n",
            client: "198.51.100.7",
            reply: "554 5.7.1 Service unavailable; Client host [client.outside.test] blocked using dbl.test",
            ..CASE
        },
        // No name, or one that is not proved.
        Case {
            main: "smtpd_client_restrictions = reject_rhsbl_client dbl.test\n",
            zone: "unknown.dbl.test A 127.0.1.2\nforged.outside.test.dbl.test A 127.0.1.2\n",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = reject_rhsbl_reverse_client dbl.test\n",
            zone: "forged.outside.test.dbl.test A 127.0.1.2\n",
            reply: "554 5.7.1 Service unavailable; Unverified Client host [forged.outside.test] blocked using dbl.test",
            ..CASE
        },
        Case {
            main: "smtpd_sender_restrictions = reject_rhsbl_sender dbl.test\n",
            zone: "remote.test.dbl.test A 127.0.1.2\ninvalid.dbl.test A 127.0.1.2\n",
            warnings: &[
                "DNS list dbl.test lists invalid.dbl.test, which is never listed: it lists everything; it is not \
                         asked, and nobody is refused by it, for some time",
            ],
            ..CASE
        },
    ] {
        run(&case);
    }
}

#[test]
fn lists_that_permit() {
    const MAIN: &str = "smtpd_recipient_restrictions = permit_dnswl_client wl.test=127.0.[0..255].[1..3], reject\n";
    const REJECTED: &str = "554 5.7.1 <user1@lab.test>: Recipient address rejected: Access denied";
    for case in [
        Case { main: MAIN, reply: REJECTED, ..CASE },
        Case { main: MAIN, zone: "8.100.51.198.wl.test A 127.0.5.1\n", ..CASE },
        Case { main: MAIN, zone: "8.100.51.198.wl.test A 127.0.5.0\n", reply: REJECTED, ..CASE },
        // A list that lists everybody lets nobody in.
        Case {
            main: MAIN,
            zone: "8.100.51.198.wl.test A 127.0.5.1\n1.0.0.127.wl.test A 127.0.5.1\n",
            reply: REJECTED,
            warnings: &[
                "DNS list wl.test lists 1.0.0.127.wl.test, which is never listed: it lists everything; it is not \
                         asked, and nobody is refused by it, for some time",
            ],
            ..CASE
        },
        // Not a relay, whoever lists the client.
        Case {
            main: "smtpd_relay_restrictions = permit_dnswl_client wl.test, reject_unauth_destination\n",
            zone: "8.100.51.198.wl.test A 127.0.5.1\n",
            recipient: "x@other.test",
            reply: "554 5.7.1 <x@other.test>: Relay access denied",
            ..CASE
        },
        // No answer: not for good, as it might have been listed.
        Case {
            main: MAIN,
            zone: "8.100.51.198.wl.test SERVFAIL\n",
            reply: "450 4.7.1 <198.51.100.8>: Client host rejected: Service unavailable",
            warnings: &[
                "8.100.51.198.wl.test: RBL lookup error: Host or domain name not found. Name service error for \
                         name=8.100.51.198.wl.test type=A: Host not found, try again",
            ],
            ..CASE
        },
        Case {
            main: "smtpd_recipient_restrictions = permit_rhswl_client nwl.test, reject\n",
            zone: "client.outside.test.nwl.test A 127.0.0.2\n",
            client: "198.51.100.7",
            ..CASE
        },
    ] {
        run(&case);
    }
}

#[test]
fn templates_of_replies() {
    const ZONE: &str = "8.100.51.198.rbl.test A 127.0.0.2\n8.100.51.198.rbl.test TXT \"why $$ not\"\n";
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("replies");
    let run_with = |text: &str, reply: &'static str, warnings: &'static [&'static str]| {
        std::fs::write(&map, text).unwrap();
        let main = format!(
            "smtpd_client_restrictions = reject_rbl_client rbl.test\nrbl_reply_maps = texthash:{}\n",
            map.display()
        );
        let case = Case { main: Box::leak(main.into_boxed_str()), zone: ZONE, reply, warnings, ..CASE };
        run(&case);
    };
    run_with(
        "rbl.test 521 4.7.9 $rbl_class|$rbl_what|$rbl_domain|$rbl_reason|$client|$client_name|$client_address|$helo_name|$sender|$sender_name|$sender_domain|$recipient|$recipient_name|$recipient_domain|$rbl_code|${rbl_txt?yes}\n",
        "521 5.7.9 Client host|198.51.100.8|rbl.test|why $$ not|unknown[198.51.100.8]|unknown|198.51.100.8|client.outside.test|a@remote.test|a|remote.test|user1@lab.test|user1|lab.test|554|yes",
        &[],
    );
    run_with("rbl.test 450\n", "450 4.7.1 Service unavailable", &[]);
    run_with("rbl.test busy\n", "450 4.7.1 Service unavailable", &["rbl response code configuration error: busy"]);
    run_with(
        "rbl.test 550 ${unclosed\n",
        "554 5.7.1 Service unavailable; Client host [198.51.100.8] blocked using rbl.test; why $$ not",
        &["rbl_reject_reply: bad rbl reply template for domain rbl.test: 550 ${unclosed"],
    );
    run_with(
        "rbl.test 550 5.7.1 $rbl_waht\n",
        "554 5.7.1 Service unavailable; Client host [198.51.100.8] blocked using rbl.test; why $$ not",
        &[
            "unknown macro name \"rbl_waht\" in expansion request",
            "rbl_reject_reply: bad rbl reply template for domain rbl.test: 550 5.7.1 $rbl_waht",
        ],
    );
}

#[test]
fn servers_of_domains() {
    const MX: &str = "smtpd_sender_restrictions = check_sender_mx_access inline:{ {mx.bad.test=REJECT bad mx} {203.0.113=REJECT bad net} {mx.ok.test=OK} {192.0.2.99=REJECT literal} {mx.hold.test=HOLD} }\n";
    const NS: &str = "smtpd_sender_restrictions = check_sender_ns_access inline:{ {ns.bad.test=REJECT bad ns} {192.0.2.63=REJECT ns address} }\n";
    const A: &str = "smtpd_sender_restrictions = check_sender_a_access inline:{ {203.0.113.6=554 5.1.2 bad a} {192.0.2.99=REJECT literal a} }\n";
    for case in [
        Case {
            main: MX,
            zone: "m.test MX 10 mx.bad.test\nmx.bad.test A 192.0.2.60\n",
            sender: "a@m.test",
            reply: "554 5.7.1 <a@m.test>: Sender address rejected: bad mx",
            ..CASE
        },
        Case {
            main: MX,
            zone: "m.test MX 10 mx.m.test\nmx.m.test A 203.0.113.9\n",
            sender: "a@m.test",
            reply: "554 5.7.1 <a@m.test>: Sender address rejected: bad net",
            ..CASE
        },
        // Without MX the domain itself.
        Case {
            main: MX,
            zone: "m.test A 203.0.113.9\n",
            sender: "a@m.test",
            reply: "554 5.7.1 <a@m.test>: Sender address rejected: bad net",
            ..CASE
        },
        Case {
            main: MX,
            zone: "m.test MX 10 mx.ok.test\n",
            sender: "a@m.test",
            reply: BROKEN,
            warnings: &["restriction check_sender_mx_access returns OK for a@m.test", FORBIDDEN[0], FORBIDDEN[1]],
            ..CASE
        },
        Case { main: MX, zone: "m.test MX 0 .\n", sender: "a@m.test", ..CASE },
        Case { main: MX, sender: "", ..CASE },
        Case {
            main: MX,
            zone: "m.test MX 10 gone.m.test\n",
            sender: "a@m.test",
            warnings: &["Unable to look up MX host gone.m.test for Sender address a@m.test: Name or service not known"],
            ..CASE
        },
        Case {
            main: MX,
            sender: "a@soft.test",
            warnings: &["Unable to look up MX host for soft.test: Host not found, try again"],
            ..CASE
        },
        Case {
            main: MX,
            sender: "a@[192.0.2.99]",
            reply: "554 5.7.1 <a@[192.0.2.99]>: Sender address rejected: literal",
            ..CASE
        },
        Case {
            main: NS,
            zone: "m.test NS ns.bad.test\nns.bad.test A 192.0.2.64\n",
            sender: "a@deep.sub.m.test",
            reply: "554 5.7.1 <a@deep.sub.m.test>: Sender address rejected: bad ns",
            ..CASE
        },
        Case {
            main: NS,
            zone: "m.test NS ns.m.test\nns.m.test A 192.0.2.63\n",
            sender: "a@m.test",
            reply: "554 5.7.1 <a@m.test>: Sender address rejected: ns address",
            ..CASE
        },
        Case {
            main: NS,
            sender: "a@nowhere.test",
            warnings: &["Unable to look up NS host for a@nowhere.test: Host not found"],
            ..CASE
        },
        Case { main: NS, sender: "a@[192.0.2.63]", ..CASE },
        Case {
            main: A,
            zone: "m.test A 203.0.113.6\n",
            sender: "a@m.test",
            reply: "554 5.1.8 <a@m.test>: Sender address rejected: bad a",
            ..CASE
        },
        Case { main: A, sender: "a@nowhere.test", ..CASE },
        Case {
            main: "smtpd_helo_restrictions = check_helo_a_access inline:{203.0.113.5=REJECT}\n",
            helo: "[203.0.113.5]",
            reply: "554 5.7.1 <[203.0.113.5]>: Helo command rejected: Access denied",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = check_client_ns_access inline:{ns.bad.test=REJECT}\n",
            zone: "outside.test NS ns.bad.test\n",
            client: "198.51.100.7",
            reply: "554 5.7.1 <client.outside.test[198.51.100.7]>: Client host rejected: Access denied",
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = check_reverse_client_hostname_a_access inline:{198.51.100.99=REJECT}\n",
            reply: "554 5.7.1 <forged.outside.test>: Unverified Client host rejected: Access denied",
            ..CASE
        },
        Case {
            main: "smtpd_recipient_restrictions = check_recipient_a_access inline:{203.0.113.6=REJECT}, permit\n",
            zone: "lab.test A 203.0.113.6\n",
            reply: "554 5.7.1 <user1@lab.test>: Recipient address rejected: Access denied",
            ..CASE
        },
        // The name by reverse lookup alone proves nothing.
        Case {
            main: "smtpd_client_restrictions = check_reverse_client_hostname_access inline:{forged.outside.test=OK}\n",
            reply: BROKEN,
            warnings: &[
                "restriction check_reverse_client_hostname_access returns OK for forged.outside.test",
                FORBIDDEN[0],
                FORBIDDEN[1],
            ],
            ..CASE
        },
        Case {
            main: "smtpd_client_restrictions = check_reverse_client_hostname_access inline:{198.51.100.8=REJECT}\n",
            reply: "554 5.7.1 <forged.outside.test>: Unverified Client host rejected: Access denied",
            ..CASE
        },
    ] {
        run(&case);
    }
}

#[test]
fn backup_mail_exchangers() {
    const MAIN: &str =
        "smtpd_relay_restrictions = permit_mx_backup, reject_unauth_destination\nproxy_interfaces = 192.0.2.77\n";
    const NEAR: &str = "smtpd_relay_restrictions = permit_mx_backup, reject_unauth_destination\npermit_mx_backup_networks = 192.0.2.0/28\n";
    const DENIED: &str = "554 5.7.1 <x@backed.test>: Relay access denied";
    let to = "x@backed.test";
    for case in [
        Case { main: MAIN, recipient: to, reply: DENIED, ..CASE },
        Case { main: MAIN, zone: "backed.test MX 10 mx1.remote.test\n", recipient: to, reply: DENIED, ..CASE },
        Case {
            main: MAIN,
            zone: "backed.test MX 10 mx1.remote.test\nbacked.test MX 20 mx.lab.test\n",
            recipient: to,
            ..CASE
        },
        Case {
            main: MAIN,
            zone: "backed.test MX 10 mx1.remote.test\nbacked.test MX 20 mx.lab.test\n",
            recipient: "x%other.test@backed.test",
            reply: "554 5.7.1 <x%other.test@backed.test>: Relay access denied",
            ..CASE
        },
        Case {
            main: NEAR,
            zone: "backed.test MX 10 mx1.remote.test\nbacked.test MX 20 mx.lab.test\n",
            recipient: to,
            reply: DENIED,
            ..CASE
        },
        Case {
            main: NEAR,
            zone: "backed.test MX 10 near.test\nbacked.test MX 20 mx.lab.test\nnear.test A 192.0.2.7\n",
            recipient: to,
            ..CASE
        },
        Case {
            main: "smtpd_relay_restrictions = permit_mx_backup, permit\nsmtpd_recipient_restrictions = reject_unauth_destination\n",
            recipient: "x@soft.test",
            reply: "554 5.7.1 <x@soft.test>: Relay access denied",
            ..CASE
        },
        Case {
            main: "smtpd_relay_restrictions = permit_mx_backup, permit_auth_destination\nsmtpd_recipient_restrictions = permit_auth_destination, defer_if_reject, reject_unauth_destination\n",
            recipient: "x@soft.test",
            reply: "450 4.4.4 <x@soft.test>: Recipient address rejected: Unable to look up mail exchanger information",
            ..CASE
        },
    ] {
        run(&case);
    }
}

/// A resolver for which a list gives what the test wants, and that counts the questions.
struct Moody {
    answer: std::sync::Mutex<Option<&'static str>>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Moody {
    fn ask(&self, name: &str) -> FakeResolver {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let zone = match *self.answer.lock().unwrap() {
            None => format!("{name} TIMEOUT\n"),
            Some("") => String::new(),
            // Everybody but whom no list has.
            Some(address) if name.starts_with("1.0.0.127.") => format!("other{name} A {address}\n"),
            Some(address) => format!("{name} A {address}\n"),
        };
        FakeResolver::parse(&zone).unwrap()
    }
}

impl yamabiko_dns::Resolver for Moody {
    fn mx<'a>(&'a self, name: &'a str) -> yamabiko_dns::Pending<'a, yamabiko_dns::Mx> {
        let fake = self.ask(name);
        Box::pin(async move { fake.mx(name).await })
    }
    fn a<'a>(&'a self, name: &'a str) -> yamabiko_dns::Pending<'a, std::net::Ipv4Addr> {
        let fake = self.ask(name);
        Box::pin(async move { fake.a(name).await })
    }
    fn aaaa<'a>(&'a self, name: &'a str) -> yamabiko_dns::Pending<'a, std::net::Ipv6Addr> {
        let fake = self.ask(name);
        Box::pin(async move { fake.aaaa(name).await })
    }
    fn ptr(&self, address: std::net::IpAddr) -> yamabiko_dns::Pending<'_, String> {
        let fake = self.ask("ptr.test");
        Box::pin(async move { fake.ptr(address).await })
    }
    fn txt<'a>(&'a self, _name: &'a str) -> yamabiko_dns::Pending<'a, String> {
        Box::pin(async { yamabiko_dns::Answer::NoData })
    }
    fn ns<'a>(&'a self, name: &'a str) -> yamabiko_dns::Pending<'a, String> {
        let fake = self.ask(name);
        Box::pin(async move { fake.ns(name).await })
    }
}

/// A day of mail, a message every ten seconds, each from another client: what a list does to it.
#[test]
fn a_list_that_fails_for_a_day_refuses_nobody() {
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use yamabiko_receive::{Check, CheckState, Facts, Outcome, Record};
    // What it answers, how many are refused, questions and lines at most.
    for (answer, refused, most_asked, most_lines) in [
        (Some("127.0.0.2"), true, 8_640 + 50, 0),
        (Some(""), false, 8_640, 0),
        (None, false, 110, 30),
        (Some("203.0.113.80"), false, 150, 26),
        (Some("127.255.255.255"), false, 150, 26),
    ] {
        let world = World::new("smtpd_client_restrictions = reject_rbl_client rbl.test\n");
        let resolver = Moody { answer: std::sync::Mutex::new(answer), asked: Default::default() };
        let mut lines = Vec::new();
        let pass = |second: u32, resolver: &Moody, lines: &mut Vec<String>| {
            let client = yamabiko_receive::Peer::unnamed(std::net::Ipv4Addr::from(0xC633_0000 + second).into(), 0);
            let now = common::NOW + Duration::from_secs(u64::from(second));
            let facts = Facts {
                sender: Some("a@x.test"),
                recipient: Some("user1@lab.test"),
                ..Facts::new("RCPT", &client, now)
            };
            let mut state = CheckState::default();
            let asked = world.settings.policy.check(Check::Rcpt, &facts, &mut state, resolver, None);
            let outcome = pollster::block_on(asked);
            lines.extend(state.records.into_iter().filter_map(|record| match record {
                Record::Warning(text) => Some(text),
                Record::Decided(..) | Record::Info(_) => None,
            }));
            outcome
        };
        for second in (0..86_400).step_by(10) {
            let outcome = pass(second, &resolver, &mut lines);
            assert_eq!(matches!(outcome, Outcome::Refused(_)), refused, "{answer:?} after {second} s: {outcome:?}");
        }
        let asked = resolver.asked.load(Ordering::Relaxed);
        assert!(asked <= most_asked, "{answer:?}: {asked}");
        assert!(lines.len() <= most_lines, "{answer:?}: {} {:?}", lines.len(), lines.first());
        // It comes back to its senses: within a quarter of an hour it counts again.
        *resolver.answer.lock().unwrap() = Some("127.0.0.2");
        let outcome = pass(86_400 + 901, &resolver, &mut lines);
        assert!(matches!(outcome, Outcome::Refused(_)), "{answer:?}: {outcome:?}");
    }
}

#[test]
fn what_postfix_removed_is_named_with_its_place() {
    let world = World::new(
        "smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks, check_relay_domains\n\
         smtpd_client_restrictions = reject_maps_rbl, reject_unknown_client\n",
    );
    let remarks = world.settings.policy.remarks();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(
        remarks[0].starts_with("main.cf")
            && remarks[0].contains("smtpd_client_restrictions: reject_maps_rbl was removed")
    );
    assert!(remarks[1].contains("smtpd_recipient_restrictions: check_relay_domains was removed from Postfix 3.9"));
    // The log hears Postfix's own words when a client gets there, once; nothing before.
    assert!(world.settings.notices.is_empty(), "{:?}", world.settings.notices);
}

#[test]
fn answers_of_dns_are_filtered() {
    const HOSTS: &str = "real.test MX 10 mx.real.test\nparked.test MX 10 mail.parked.example\nmix.test MX 5 mail.parked.example\n\
                         mix.test MX 10 mx.mix.test\nold.test A 192.0.2.80\n8.100.51.198.rbl.test A 127.0.0.2\n";
    const FILTER: &str = "smtpd_dns_reply_filter = regexp:{{/ MX [0-9]+ mail\\.parked\\.example\\.$$/ IGNORE} \
                          {/^8\\.100.* IN A 127/ ignore} {/^old\\.test\\. [0-9]+ IN A / DROP}}\n\
                          smtpd_sender_restrictions = reject_unknown_sender_domain, reject_rbl_client rbl.test\n";
    for (sender, expected, logged) in [
        ("a@real.test", "250 2.1.5 Ok", ""),
        ("a@mix.test", "250 2.1.5 Ok", "ignoring DNS RR: mix.test. "),
        (
            "a@parked.test",
            "450 4.1.8 <a@parked.test>: Sender address rejected: Domain not found",
            "ignoring DNS RR: parked.test. ",
        ),
        ("a@old.test", "250 2.1.5 Ok", "smtpd_dns_reply_filter: unknown DNS filter action: \"DROP\""),
    ] {
        let zone = format!("{}{HOSTS}", common::ZONE);
        let resolver = Arc::new(FakeResolver::parse(&zone).expect("zone"));
        let world = World { resolver, ..World::new(FILTER) };
        let mut talk = world.connect("198.51.100.8");
        talk.say(b"");
        talk.line("EHLO c.test");
        talk.line(&format!("MAIL FROM:<{sender}>"));
        assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), expected, "{sender}");
        let log = world.log.lines();
        assert!(log.iter().any(|line| line.contains(logged)), "{sender}: {log:?}");
        if expected.starts_with("250") {
            let rbl = "8.100.51.198.rbl.test: RBL lookup error: DNS reply filter drops all results";
            assert!(log.iter().any(|line| line.contains(rbl)), "{sender}: {log:?}");
        }
    }
}

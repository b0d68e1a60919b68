//! Nobody relays through us: the tricks of relay testers, and messages hidden in messages. A line per case.

mod common;

use common::World;

/// Recipients that are nobody's here, however they are dressed up.
const TRICKS: &[&str] = &[
    "user@other.test",
    "user@other.test.",
    "user%other.test",
    "user%other.test@lab.test",
    "user%other.test@[192.0.2.1]",
    "user%other.test@localhost",
    "user%other.test%lab.test@lab.test",
    "user%other.test@mx.lab.test",
    "\"user%other.test\"",
    "\"user%other.test\"@lab.test",
    "\"user%other.test\"@[192.0.2.1]",
    "\"user@other.test\"",
    "\"user@other.test\"@lab.test",
    "\"user@other.test\"@[192.0.2.1]",
    "\"user\"@other.test",
    "user@other.test@lab.test",
    "user@other.test@[192.0.2.1]",
    "user@lab.test@other.test",
    "user%lab.test@other.test",
    "@lab.test:user@other.test",
    "@[192.0.2.1]:user@other.test",
    "@lab.test,@mx.lab.test:user@other.test",
    "@lab.test:user%other.test@lab.test",
    "@other.test:user@other.test",
    "other.test!user",
    "other.test!user@lab.test",
    "other.test!user@[192.0.2.1]",
    "lab.test!other.test!user",
    "lab.test!user%other.test",
    "\"other.test!user\"@lab.test",
    "user@[192.0.2.99]",
    "user@[IPv6:2001:db8::99]",
    "user@192.0.2.99",
    "user@lab.test.other.test",
    "user@lab.test%other.test",
    "postmaster@other.test",
    "postmaster%other.test@lab.test",
    "\"postmaster@other.test\"",
    "user@other.test(@lab.test)",
    "(@lab.test)user@other.test",
    "x@lab.test <user@other.test>",
    "user\\@other.test@lab.test",
    "user1@lab.test,user@other.test",
    "user1@lab.test user@other.test",
    "user1@lab.test\tuser@other.test",
    "user1@lab.test;user@other.test",
    "user1@\u{43b}\u{430}\u{431}.test",
    "user1@l\u{430}b.test",
    "user1@\u{ff4c}\u{ff41}\u{ff42}.test.other.test",
    "user1@lab\u{3002}test\u{3002}other\u{3002}test",
];

/// Users of ours by these names there are none; where every user is known they are just odd names of local users.
const ODD_USERS: &[&str] =
    &["user\u{ff20}other.test", "user\u{ff05}other.test@lab.test", "user\u{fe6b}other.test@lab.test"];

const SENDERS: &[&str] =
    &["", "spam@other.test", "spam@lab.test", "spam", "spam@localhost", "spam@[192.0.2.1]", "\"spam@other.test\""];

fn try_all(main: &str) {
    let world = World::new(&format!("proxy_interfaces = 192.0.2.1\nsmtpd_hard_error_limit = 100000\n{main}"));
    for sender in SENDERS {
        for options in ["", " SMTPUTF8"] {
            let mut talk = world.connect("198.51.100.7");
            talk.say(b"");
            talk.line("EHLO client.outside.test");
            assert_eq!(talk.line(&format!("MAIL FROM:<{sender}>{options}")), "250 2.1.0 Ok", "{sender}");
            let odd = if main.contains("local_recipient_maps =\n") { &[] } else { ODD_USERS };
            for trick in TRICKS.iter().chain(odd) {
                for command in [format!("RCPT TO:<{trick}>"), format!("RCPT TO: {trick}")] {
                    let reply = talk.line(&command);
                    assert!(reply.starts_with(['4', '5']), "{main}{sender:?} {command}: {reply}");
                }
            }
            assert_eq!(talk.line("DATA"), "554 5.5.1 Error: no valid recipients");
            assert_eq!(talk.line("RCPT TO:<user1@lab.test>"), "250 2.1.5 Ok", "our own are welcome");
        }
    }
    assert!(world.engine.submissions.lock().unwrap().is_empty());
}

#[test]
fn no_trick_relays() {
    for main in [
        "",
        "allow_percent_hack = no\nswap_bangpath = no\n",
        // Every user is known: the address alone must give it away.
        "local_recipient_maps =\n",
        "local_recipient_maps =\nallow_percent_hack = no\nswap_bangpath = no\nresolve_dequoted_address = no\n",
        "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n",
        "smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks, check_relay_domains\n",
        "smtpd_relay_restrictions = permit_mx_backup, permit_dnswl_client wl.test, reject_unauth_destination\n",
        "smtpd_relay_restrictions = permit_auth_destination, reject\n",
        "recipient_delimiter = +%!\n",
    ] {
        try_all(main);
    }
}

#[test]
fn etrn_is_restricted() {
    for (main, domain, reply) in [
        ("", "backup.test", "250 Queuing started"),
        ("", "other.test", "459 <other.test>: service unavailable"),
        (
            "smtpd_etrn_restrictions = permit_mynetworks, reject\n",
            "backup.test",
            "554 5.7.1 <backup.test>: Etrn command rejected: Access denied",
        ),
        (
            "smtpd_etrn_restrictions = check_etrn_access inline:{{backup.test=450 4.7.0 not now}}\n",
            "backup.test",
            "450 4.7.0 <backup.test>: Etrn command rejected: not now",
        ),
        ("smtpd_etrn_restrictions = inline:{backup.test=OK}, reject\n", "backup.test", "250 Queuing started"),
        (
            "smtpd_client_restrictions = check_client_access cidr:{{198.51.100.0/24 REJECT you}}\n",
            "backup.test",
            "554 5.7.1 <client.outside.test[198.51.100.7]>: Client host rejected: you",
        ),
        (
            "smtpd_helo_restrictions = check_helo_access inline:{c.test=DEFER}\n",
            "backup.test",
            "450 4.7.1 <c.test>: Helo command rejected: Access denied",
        ),
    ] {
        let world = World::new(main);
        let mut talk = world.connect("198.51.100.7");
        talk.say(b"");
        talk.line("EHLO c.test");
        assert_eq!(talk.line(&format!("ETRN {domain}")), reply, "{main}");
    }
}

/// What stands where only `CRLF . CRLF` may end a message.
const ENDS: &[&str] = &[
    "\r\n", "\n", "\r", "\n\r", "\r\r\n", "\r\n\r", "\0\r\n", "\x0b\r\n", "\x0c\n", "\u{85}", "\u{2028}", " \r\n",
    "\t\n",
];

#[test]
fn no_other_line_end_ends_a_message() {
    let hidden = "MAIL FROM:<smuggled@lab.test>\r\nRCPT TO:<user1@lab.test>\r\nDATA\r\nSubject: hidden\r\n\r\nx";
    for policy in ["normalize", "yes", "note", "reject"] {
        let world =
            World::new(&format!("smtpd_forbid_bare_newline = {policy}\nsmtpd_forbid_bare_newline_exclusions =\n"));
        for before in ENDS {
            for after in ENDS {
                if (*before, *after) == ("\r\n", "\r\n") {
                    continue;
                }
                for whole in [true, false] {
                    world.engine.submissions.lock().unwrap().clear();
                    let mut talk = world.connect("198.51.100.7");
                    talk.say(b"");
                    talk.line("EHLO client.outside.test");
                    talk.line("MAIL FROM:<a@remote.test>");
                    talk.line("RCPT TO:<user2@lab.test>");
                    assert!(talk.line("DATA").starts_with("354"));
                    // What comes before the dot may end its line properly, with more before.
                    let text = format!("Subject: outer\r\n\r\nouter{before}.{after}{hidden}\r\n.\r\n");
                    let mut said = String::new();
                    if whole {
                        said = talk.say(text.as_bytes());
                    } else {
                        for byte in text.bytes() {
                            said.push_str(&talk.say(&[byte]));
                        }
                    }
                    let case = format!("{policy} {before:?} {after:?}: {said:?}");
                    // CR LF . before something else: the dot is content. Lines that end in CR LF on both sides end it.
                    let ends = before.ends_with("\r\n") && *after == "\r\n";
                    let messages = world.engine.submissions.lock().unwrap();
                    if ends {
                        continue;
                    }
                    assert!(messages.len() <= 1, "{case}");
                    assert!(messages.iter().all(|m| m.envelope.sender == "a@remote.test"), "{case}");
                    assert!(said.matches("354").count() == 0, "{case}");
                }
            }
        }
    }
}

//! Clients before postscreen: what they meet, what the log says, what is remembered. No clock and no network: each case is
//! a list of things that happen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::{Config, Host};
use yamabiko_envelope::Timestamp;
use yamabiko_lookup::TableSet;
use yamabiko_receive::screen::{Access, Circumstances, Next, Score, Screen, ScreenSettings, Stamps};

/// Something that happens, so many seconds after the client has connected.
enum Happens {
    /// It talks before the greeting.
    Talks(&'static str),
    /// Lists say so much.
    Rank(i64),
    /// Nothing, until the time that was waited for has come.
    Time,
    /// It says this.
    Says(&'static str),
    /// It is gone.
    Leaves,
}
use Happens::{Leaves, Rank, Says, Talks, Time};

const DEEP: &str = "postscreen_pipelining_enable = yes\npostscreen_non_smtp_command_enable = yes\npostscreen_bare_newline_enable = yes\n";
const LISTS: &str = "postscreen_dnsbl_sites = bl.test*2\npostscreen_dnsbl_threshold = 2\n";
const NOW: Timestamp = Timestamp(1_795_280_034_000_000);
const TODAY: u64 = 1_795_280_034;

fn settings(lines: &str) -> Arc<ScreenSettings> {
    let main = format!("compatibility_level = 3.6\nmyhostname = mx.test\nmail_name = Postfix\n{lines}\n");
    let host = Host::default();
    let config = Config::from_texts(&main, "", ("main.cf", "master.cf"), &host).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(ScreenSettings::from(&config.main(), &TableSet::default()))
}

/// Everything that the client saw and the log got, and how it ended.
fn run(lines: &str, given: &Circumstances, happens: &[Happens]) -> (String, Vec<String>, Next, Option<Stamps>) {
    let client: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let server: SocketAddr = "198.51.100.1:25".parse().unwrap();
    let mut screen = Screen::new(settings(lines), client, server, NOW);
    let mut next = screen.begin(given);
    let mut now = NOW;
    let mut heard: Vec<u8> = Vec::new();
    let (mut seen, mut log, mut update) = (Vec::new(), Vec::new(), None);
    let mut note = |screen: &mut Screen| {
        seen.append(screen.output());
        log.extend(screen.take_lines().into_iter().map(|line| line.text));
        update = screen.take_update().or(update);
    };
    note(&mut screen);
    for what in happens {
        next = match what {
            Talks(text) => screen.talked(text.as_bytes(), now),
            Rank(rank) => {
                let score = Score { rank: *rank, name: "bl.test".to_owned(), ttl: None, lines: Vec::new() };
                screen.listed(score, now)
            }
            Time => {
                now = match next {
                    Next::Watch(until) | Next::Wait(until) | Next::Read(until) => until,
                    next => panic!("nothing is waited for: {next:?}"),
                };
                screen.waited(now)
            }
            Says(text) => {
                heard.extend_from_slice(text.as_bytes());
                let (used, next) = screen.said(&heard, now);
                heard.drain(..used);
                next
            }
            Leaves => screen.hung_up(now + Duration::from_secs(2)),
        };
        note(&mut screen);
    }
    (String::from_utf8(seen).unwrap(), log, next, update)
}

/// The replies and log lines without the client's address.
fn check(name: &str, lines: &str, given: &Circumstances, happens: &[Happens], seen: &str, logged: &[&str], over: Next) {
    let (said, log, next, _) = run(lines, given, happens);
    assert_eq!(said.replace("\r\n", "|"), seen, "{name}");
    let log: Vec<String> = log.iter().skip(1).map(|line| line.replace("[192.0.2.7]:4711", "C")).collect();
    assert_eq!(log, logged, "{name}");
    assert_eq!(next, over, "{name}");
}

const TEASER: &str = "220-mx.test ESMTP Postfix|";
const GREETING: &str = "220 mx.test ESMTP Postfix|";

#[test]
fn who_waits_gets_a_server() {
    check("quiet", "", &Circumstances::default(), &[Time], TEASER, &["PASS NEW C"], Next::HandOver);
    check(
        "no teaser",
        "postscreen_greet_banner =",
        &Circumstances::default(),
        &[Time],
        "",
        &["PASS NEW C"],
        Next::HandOver,
    );
    check("not listed", LISTS, &Circumstances::default(), &[Rank(1), Time], TEASER, &["PASS NEW C"], Next::HandOver);
    check("lists last", LISTS, &Circumstances::default(), &[Time, Rank(1)], TEASER, &["PASS NEW C"], Next::HandOver);
    let allowed = Circumstances { access: Access::Allow, ..Circumstances::default() };
    check("allowed", LISTS, &allowed, &[], "", &["ALLOWLISTED C"], Next::HandOver);
    let known = |stamps| Circumstances { known: Some(Stamps(stamps)), ..Circumstances::default() };
    check("known", LISTS, &known([TODAY + 1, TODAY + 1, 0, 0, 0]), &[], "", &["PASS OLD C"], Next::HandOver);
    let again = known([TODAY - 1, TODAY + 9, 0, 0, 0]);
    check("once more", LISTS, &again, &[Rank(0), Time], TEASER, &["PASS OLD C"], Next::HandOver);
    // Slow lists decide nothing, and nothing is remembered of them.
    check("slow lists", LISTS, &Circumstances::default(), &[Time, Time], TEASER, &["PASS NEW C"], Next::HandOver);
    let welcome = format!("{LISTS}postscreen_dnsbl_allowlist_threshold = -3\n{DEEP}");
    check("well known", &welcome, &Circumstances::default(), &[Rank(-3)], TEASER, &["PASS NEW C"], Next::HandOver);
}

#[test]
fn who_talks_first_is_found_out() {
    let logged = "PREGREET 8 after 0 from C: EHLO x\\r\\n";
    let talks = || Talks("EHLO x\r\n");
    check("ignored", "", &Circumstances::default(), &[talks()], TEASER, &[logged], Next::HandOver);
    let drop = "postscreen_greet_action = drop";
    let seen = format!("{TEASER}521 5.5.1 Protocol error|");
    check("dropped", drop, &Circumstances::default(), &[talks()], &seen, &[logged, "DISCONNECT C"], Next::Close);
    let enforce = "postscreen_greet_action = enforce\nmessage_size_limit = 1000";
    let rest = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nQUIT\r\n";
    let seen = format!(
        "{TEASER}250-mx.test|250-SIZE 1000|250-VRFY|250-ETRN|250-ENHANCEDSTATUSCODES|250-8BITMIME|250-DSN|250-SMTPUTF8|\
         250 CHUNKING|250 2.1.0 Ok|550 5.5.1 Protocol error|221 2.0.0 Bye|"
    );
    let reject = "NOQUEUE: reject: RCPT from C: 550 5.5.1 Protocol error; from=<a@b>, to=<c@d>, proto=ESMTP, helo=<x>";
    check(
        "enforced",
        enforce,
        &Circumstances::default(),
        &[talks(), Says(rest)],
        &seen,
        &[logged, reject, "DISCONNECT C"],
        Next::Close,
    );
    let both = format!("postscreen_greet_action = enforce\npostscreen_dnsbl_action = drop\n{LISTS}");
    let seen = format!("{TEASER}521 5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.test|");
    let logged = [logged, "DNSBL rank 2 for C", "DISCONNECT C"];
    check("and listed", &both, &Circumstances::default(), &[talks(), Rank(2)], &seen, &logged, Next::Close);
}

#[test]
fn who_is_not_wanted() {
    let seen = format!(
        "{TEASER}{GREETING}250 2.1.0 Ok|550 5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.test|"
    );
    let lines = format!("{LISTS}postscreen_dnsbl_action = enforce\n");
    let reject = "NOQUEUE: reject: RCPT from C: 550 5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.test; \
                  from=<>, to=<x>, proto=SMTP, helo=<>";
    let hangup = "HANGUP after 8 from C in tests after SMTP handshake";
    let happens = [Rank(3), Time, Says("MAIL FROM:<>\r\nRCPT TO:<x>\r\n"), Leaves];
    let logged = ["DNSBL rank 3 for C", reject, hangup, "DISCONNECT C"];
    check("listed", &lines, &Circumstances::default(), &happens, &seen, &logged, Next::Close);

    let denied = Circumstances { access: Access::Deny, ..Circumstances::default() };
    let drop = "postscreen_denylist_action = drop";
    let seen = "521 5.3.2 Service currently unavailable|";
    check("denied", drop, &denied, &[], seen, &["DENYLISTED C", "DISCONNECT C"], Next::Close);
    let old_words = "respectful_logging = no\npostscreen_blacklist_action = drop";
    check("denied", old_words, &denied, &[], seen, &["BLACKLISTED C", "DISCONNECT C"], Next::Close);
    check("ignored", "", &denied, &[Time], TEASER, &["DENYLISTED C", "PASS NEW C"], Next::HandOver);

    let cases: [(Circumstances, &str, &str); 3] = [
        (
            Circumstances { concurrency: 51, ..Circumstances::default() },
            "too many connections",
            "421 4.7.0 Error: too many connections|",
        ),
        (
            Circumstances { waiting: 100, ..Circumstances::default() },
            "all server ports busy",
            "421 4.3.2 All server ports are busy|",
        ),
        (
            Circumstances { tested: 100, ..Circumstances::default() },
            "all screening ports busy",
            "421 4.3.2 All screening ports are busy|",
        ),
    ];
    for (given, why, seen) in cases {
        let logged = match why {
            "all screening ports busy" => format!("reject: connect from C: {why}"),
            _ => format!("NOQUEUE: reject: CONNECT from C: {why}"),
        };
        check(why, "", &given, &[], seen, &[&logged, "DISCONNECT C"], Next::Close);
    }
    let backup = Circumstances { may_be_allowed: false, ..Circumstances::default() };
    let seen = format!("{TEASER}{GREETING}250 2.1.0 Ok|450 4.3.2 Service currently unavailable|221 2.0.0 Bye|");
    let reject =
        "NOQUEUE: reject: RCPT from C: 450 4.3.2 Service currently unavailable; from=<>, to=<x>, proto=SMTP, helo=<>";
    let happens = [Time, Says("MAIL FROM:<>\r\nRCPT TO:<x>\r\nQUIT\r\n")];
    check("backup MX", "", &backup, &happens, &seen, &["ALLOWLIST VETO C", reject, "DISCONNECT C"], Next::Close);
    let hangup = "HANGUP after 2 from C in tests before SMTP handshake";
    check("impatient", "", &Circumstances::default(), &[Leaves], TEASER, &[hangup, "DISCONNECT C"], Next::Close);
}

/// What Postfix 3.7 answers and logs, seen from it.
#[test]
fn content_is_not_waited_for() {
    let answers = "220-mx.test ESMTP Postfix|220 mx.test ESMTP Postfix|250 mx.test|";
    for (says, seen, logged) in [
        ("DATA", "503 5.5.1 Error: need RCPT command", "DATA without valid RCPT from C"),
        ("DATA x", "501 5.5.4 Syntax: DATA", "DATA without valid RCPT from C"),
        (
            "MAIL FROM:<a@b>\r\nDATA",
            "250 2.1.0 Ok|554 5.5.1 Error: no valid recipients",
            "DATA without valid RCPT from C",
        ),
        ("BDAT 5 LAST", "554 5.5.1 Error: need MAIL command", "BDAT without valid RCPT from C"),
        (
            "MAIL FROM:<a@b>\r\nBDAT",
            "250 2.1.0 Ok|501 5.5.4 Syntax: BDAT count [LAST]",
            "BDAT without valid RCPT from C",
        ),
        (
            "MAIL FROM:<a@b>\r\nBDAT 5",
            "250 2.1.0 Ok|554 5.5.1 Error: no valid recipients",
            "BDAT without valid RCPT from C",
        ),
    ] {
        let text: &'static str = format!("HELO x\r\n{says}\r\nNOOP\r\n").leak();
        let lists = format!("{LISTS}postscreen_dnsbl_action = enforce\n");
        let (said, log, next, _) = run(&lists, &Circumstances::default(), &[Rank(9), Time, Says(text)]);
        assert_eq!(said.replace("\r\n", "|"), format!("{answers}{seen}|"), "{says}");
        let log: Vec<String> = log.iter().map(|line| line.replace("[192.0.2.7]:4711", "C")).collect();
        assert!(log.ends_with(&[logged.to_owned(), "DISCONNECT C".to_owned()]), "{says}: {log:?}");
        assert_eq!(next, Next::Close);
    }
    let others = "AUTH PLAIN\r\nHELP\r\nETRN\r\nETRN x\r\nVRFY\r\nRSET x\r\nXCLIENT NAME=x\r\n";
    let lists = format!("{LISTS}postscreen_dnsbl_action = enforce\n");
    let (said, ..) = run(&lists, &Circumstances::default(), &[Rank(9), Time, Says("HELO x\r\n"), Says(others)]);
    let expected = "502 5.5.2 Error: command not recognized|502 5.5.2 Error: command not recognized|500 Syntax: ETRN domain|\
                    458 Unable to queue messages|501 5.5.4 Syntax: VRFY address|250 2.0.0 Ok|\
                    502 5.5.2 Error: command not recognized|";
    assert_eq!(said.replace("\r\n", "|"), format!("{answers}{expected}"));
}

#[test]
fn deep_tests() {
    let mail = "HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nQUIT\r\n";
    // One after the other, it passes, and is told to come again.
    let each = [Time, Says("HELO x\r\n"), Says("MAIL FROM:<a@b>\r\n"), Says("RCPT TO:<c@d>\r\n"), Says("QUIT\r\n")];
    let (_, log, next, update) = run(DEEP, &Circumstances::default(), &each);
    assert!(log.iter().any(|line| line.starts_with("PASS NEW ")) && next == Next::Close, "{log:?}");
    let month = TODAY + 6 + 30 * 86_400;
    assert_eq!(update, Some(Stamps([TODAY + 6 + 86_400, 0, month, month, month])));
    // What it does wrong, and the line about it.
    let cases: [(&str, &str, &str); 8] = [
        ("", mail, "COMMAND PIPELINING from C after HELO: MAIL FROM:<a@b>\\r\\nRCPT TO:<c@d>\\r\\nQUIT\\r\\n"),
        ("", "HELO x\n", "BARE NEWLINE from C after HELO x"),
        ("", "Subject: x\r\n", "NON-SMTP COMMAND from C after CONNECT: Subject: x"),
        ("", "GET / HTTP/1.1\r\n", "NON-SMTP COMMAND from C after CONNECT: GET / HTTP/1.1"),
        ("", "CONNECT 1.2.3.4:25\r\n", "NON-SMTP COMMAND from C after CONNECT: CONNECT 1.2.3.4:25"),
        ("postscreen_command_count_limit = 1", "NOOP\r\nNOOP\r\n", "COMMAND COUNT LIMIT from C after NOOP"),
        ("line_length_limit = 600", LONG, "COMMAND LENGTH LIMIT from C after CONNECT"),
        ("", "", "COMMAND TIME LIMIT from C after CONNECT"),
    ];
    for (lines, says, logged) in cases {
        let lines =
            format!("{DEEP}{lines}\npostscreen_pipelining_action = drop\npostscreen_bare_newline_action = drop\n");
        let lines = if lines.contains("count") {
            lines.replace("pipelining_enable = yes", "pipelining_enable = no")
        } else {
            lines
        };
        let then = if says.is_empty() { Time } else { Says(says) };
        let (seen, log, next, update) = run(&lines, &Circumstances::default(), &[Time, then]);
        let log: Vec<String> = log.iter().map(|line| line.replace("[192.0.2.7]:4711", "C")).collect();
        assert!(log.iter().any(|line| line == logged), "{logged}: {log:?}");
        assert_eq!(next, Next::Close, "{logged}: {seen}");
        let failed = !logged.contains("LIMIT");
        assert_eq!(update.is_none(), failed, "{logged}");
    }
}

const LONG: &str = "NOOP xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// What a client says makes nothing panic or grow, however it is cut up.
#[test]
fn noise() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    const PIECES: [&str; 12] = [
        "EHLO x\r\n",
        "MAIL FROM:<",
        ">\r\n",
        "RCPT TO:",
        "\n",
        "\0\r\n",
        "é",
        "BDAT 1 LAST\r\n",
        "STARTTLS\r\n",
        ":",
        " ",
        "RSET\r\n",
    ];
    for _ in 0..500 {
        let settings = settings(DEEP);
        let address: SocketAddr = "192.0.2.7:1".parse().unwrap();
        let mut screen = Screen::new(settings, address, address, NOW);
        let mut next = screen.begin(&Circumstances::default());
        if let Next::Watch(until) = next {
            next = screen.waited(until);
        }
        let mut heard: Vec<u8> = Vec::new();
        for _ in 0..200 {
            if !matches!(next, Next::Read(_)) {
                break;
            }
            heard.extend_from_slice(PIECES[(random() % 12) as usize].as_bytes());
            let (used, then) = screen.said(&heard, NOW);
            heard.drain(..used);
            assert!(heard.len() <= 4096);
            next = then;
        }
    }
}

#[test]
fn refusals_have_a_footer() {
    let footer = "postscreen_reject_footer = see http://help.test/?ip=$client_address&from=$sender\n\
                  postscreen_dnsbl_action = enforce\n";
    let refused = [Rank(9), Time, Says("EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n"), Says("RCPT TO:<x@y.test>\r\n")];
    let (said, ..) = run(&format!("{LISTS}{footer}"), &Circumstances::default(), &refused);
    let expected = "550-5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.test\r\n\
                    550 5.7.1 see http://help.test/?ip=192.0.2.7&from=a@b.test\r\n";
    assert!(said.ends_with(expected), "{said}");
    // What smtpd says is what postscreen says, unless it has its own; the last word has it too.
    let (said, ..) = run(
        &format!("{LISTS}postscreen_dnsbl_action = drop\nsmtpd_reject_footer = \\c; call $recipient.us\n"),
        &Circumstances::default(),
        &[Rank(9)],
    );
    assert!(
        said.ends_with("521 5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.test; call .us\r\n"),
        "{said}"
    );
    let (said, ..) = run(
        &format!("{LISTS}postscreen_dnsbl_action = drop\npostscreen_reject_footer_maps = regexp:{{{{/^521/ ask}}}}\n"),
        &Circumstances::default(),
        &[Rank(9)],
    );
    assert!(said.ends_with("bl.test\r\n521 5.7.1 ask\r\n"), "{said}");
}

//! `yamabiko import` on a rotated set as it lies in `/var/log`: packed in three ways, over the turn of the year, of two hosts
//! with the same queue IDs, with damage of every kind between; read again, read on, and from the journal.

#![allow(missing_docs)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn run(args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_yamabiko"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let said = child.wait_with_output().expect("it ends");
    assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("UTF-8")
}

/// The lines of one message at a time of a day, as a host writes them.
fn message(day: &str, minute: usize, host: &str, n: usize) -> String {
    let time = format!("{day} {:02}:{:02}:", minute / 60, minute % 60);
    let id = format!("{:011X}", 0x10_0000_0000_u64 + n as u64);
    let (status, dsn, text) = match n % 4 {
        0 => {
            ("bounced", "5.1.1", "host mx.b.test[192.0.2.9] said: 550 5.1.1 User unknown (in reply to RCPT TO command)")
        }
        1 => ("deferred", "4.4.1", "connect to mx.b.test[192.0.2.9]:25: Connection timed out"),
        _ => ("sent", "2.0.0", "250 2.0.0 Ok: queued as 4REMOTE"),
    };
    let end =
        if status == "deferred" { String::new() } else { format!("{time}02 {host} postfix/qmgr[9]: {id}: removed\n") };
    format!(
        "{time}00 {host} postfix/smtpd[7]: {id}: client=c.test[192.0.2.1]\n\
         {time}00 {host} postfix/cleanup[8]: {id}: message-id=<{n}.{host}@a.test>\n\
         {time}00 {host} postfix/qmgr[9]: {id}: from=<s@a.test>, size=100, nrcpt=1 (queue active)\n\
         {time}01 {host} postfix/smtp[6]: {id}: to=<u{n}@b.test>, relay=mx.b.test[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn={dsn}, status={status} ({text})\n\
         {end}"
    )
}

fn day(name: &str, host: &str, first: usize) -> String {
    (0..40).map(|n| message(name, 10 + n, host, first + n)).collect()
}

/// Packs a file; false where the packer is not there.
fn pack(with: &str, path: &Path) -> bool {
    let done = Command::new(with).arg("-q").arg(path).status();
    let well = done.is_ok_and(|status| status.success());
    if !well {
        eprintln!("{with} is not there: {} stays as it is", path.display());
    } else {
        let _ = fs::remove_file(path);
    }
    well
}

fn states(ledger: &str, address: &str) -> Vec<(String, String)> {
    let histories = run(&["fate", "--json", "--ledger", ledger, address], b"");
    let mut found: Vec<_> = histories
        .lines()
        .map(|line| {
            let history: Value = serde_json::from_str(line).expect("JSON");
            let began =
                history["began"].as_str().or(history["events"][0]["time"].as_str()).unwrap_or_default().to_owned();
            (history["state"].as_str().unwrap_or_default().to_owned(), began)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_rotated_set_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ledger = at("ledger").display().to_string();
    fs::create_dir(at("log")).unwrap();
    let log = |name: &str| at("log").join(name);
    fs::write(log("mail.log.3"), day("Dec 30", "mx1", 0)).unwrap();
    // Two hosts with the same queue IDs, and the end of the year in one file.
    let turn = day("Dec 31", "mx1", 40) + &day("Dec 31", "mx2", 40) + &day("Jan  1", "mx1", 80);
    fs::write(log("mail.log.2"), turn).unwrap();
    let mut damaged = day("Jan  2", "mx1", 120).into_bytes();
    for (line, times) in [
        (&b"\x00\x01\xff\xfe rubbish \x80\n"[..], 3),
        (b"Jan  2 01:00:00 mx1 sshd[5]: Accepted publickey for root\n", 2),
        (b"Jan  2 01:00:00 mx1 last message repeated 4 times\n", 1),
        (b"Jan  2 01:00:00 mx1 postfix/smtpd[7]: warning: \xa4\xb3\xa4\xec in EUC-JP\n", 1),
        (b"Jan  2 01:00:00 mx1 postfix/smtp[7]: words that nobody knows\n", 1),
        (b"\n", 2),
        (b"Jan  1 20:00:00 mx1 postfix/smtpd[7]: warning: the clock was set back\n", 1),
    ] {
        (0..times).for_each(|_| damaged.extend_from_slice(line));
    }
    damaged.extend_from_slice(b"Jan  2 01:00:00 mx1 postfix/smtpd[7]: warning: ");
    damaged.extend_from_slice(&vec![b'x'; 300_000]);
    damaged.push(b'\n');
    fs::write(log("mail.log.1"), &damaged).unwrap();
    let growing = day("Jan  3", "mx1", 160);
    fs::write(log("mail.log"), growing.clone() + "Jan  3 02:00:00 mx1 postfix/qmgr[9]: unfini").unwrap();
    pack("gzip", &log("mail.log.3"));
    pack("xz", &log("mail.log.2"));
    pack("zstd", &log("mail.log.1"));

    let paths = at("log").display().to_string();
    let import = |more: &[&str]| -> Value {
        let args = [&["import", "--json", "--zone", "UTC", "--ledger", &ledger, &paths][..], more].concat();
        serde_json::from_str(&run(&args, b"")).expect("JSON")
    };
    let told = import(&[]);
    // 240 messages, of each an entry for the message and one for the attempt.
    assert_eq!((&told["files"], &told["entered"], &told["known"]), (&4.into(), &480.into(), &0.into()), "{told:#}");
    assert_eq!((&told["attempts"]["sent"], &told["attempts"]["bounced"]), (&120.into(), &60.into()), "{told:#}");
    for (name, count) in [("unreadable", 3), ("unknown", 1), ("too_long", 1), ("binary", 3), ("not_utf8", 4)] {
        assert_eq!(told[name]["count"], count, "{name}: {told:#}");
    }
    for (name, count) in [("repeated", 4), ("blank", 2), ("unfinished", 1), ("future", 0)] {
        assert_eq!(told[name], count, "{name}: {told:#}");
    }
    assert!(told["clock_backwards"].as_u64() >= Some(1), "{told:#}");
    assert_eq!(told["other_programs"]["sshd"], 2);

    // The year turned between them, and both hosts have their own history under the same queue ID.
    let year =
        |address: &str| states(&ledger, address).iter().map(|(_, began)| began[..4].to_owned()).collect::<Vec<_>>();
    let (old, new) = (year("u39@b.test"), year("u80@b.test"));
    assert_eq!(old[0].parse::<u16>().unwrap() + 1, new[0].parse::<u16>().unwrap());
    let both: Vec<String> = states(&ledger, "u44@b.test").into_iter().map(|(state, _)| state).collect();
    assert_eq!(both, ["bounced", "bounced"]);

    // Nothing has changed; then everything once more; then the log grows and is rotated.
    let again = import(&[]);
    assert_eq!((&again["entered"], &again["files_unchanged"]), (&0.into(), &3.into()), "{again:#}");
    let anew = import(&["--again"]);
    assert_eq!((&anew["entered"], &anew["known"]), (&0.into(), &480.into()), "{anew:#}");
    let rest = "shed\n".to_owned() + &day("Jan  4", "mx1", 200);
    let mut file = fs::File::options().append(true).open(log("mail.log")).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    fs::rename(log("mail.log"), log("mail.log.0")).unwrap();
    fs::write(log("mail.log"), day("Jan  5", "mx1", 240)).unwrap();
    let grown = import(&[]);
    assert_eq!((&grown["entered"], &grown["lines"]), (&160.into(), &(190 * 2 + 1).into()), "{grown:#}");
}

#[test]
fn from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger").display().to_string();
    let lines: String = [
        ("smtpd", "9C5269BCFE4: client=c.test[192.0.2.1]"),
        ("qmgr", "9C5269BCFE4: from=<s@a.test>, size=100, nrcpt=1 (queue active)"),
        ("smtp", "9C5269BCFE4: to=<u@b.test>, relay=none, delay=1, dsn=5.4.4, status=bounced (Host or domain name not found)"),
        ("qmgr", "9C5269BCFE4: removed"),
    ]
    .iter()
    .enumerate()
    .map(|(n, (program, text))| {
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"179528003400000{n}\",\"_HOSTNAME\":\"mx\",\
             \"SYSLOG_IDENTIFIER\":\"postfix/{program}\",\"_PID\":\"7\",\"MESSAGE\":\"{text}\"}}\n"
        )
    })
    .collect();
    for entered in [2, 0] {
        let told = run(&["import", "--json", "--ledger", &ledger, "-"], lines.as_bytes());
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["entered"], entered, "{told:#}");
    }
    assert_eq!(states(&ledger, "u@b.test")[0].0, "bounced");
}

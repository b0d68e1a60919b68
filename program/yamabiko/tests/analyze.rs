//! `yamabiko analyze` and `yamabiko classify` as a program that is called: inputs, formats, exit codes, the watched Maildir.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../record/analyze/tests/fixtures")
}

fn call(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_yamabiko"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end without reading everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A bounce in Postfix's form.
fn bounce(recipient: &str, status: &str, reply: &str) -> String {
    format!(
        "Date: Sat, 21 Nov 2026 16:53:54 +0900\nFrom: MAILER-DAEMON@mx.example.org (Mail Delivery System)\n\
         Subject: Undelivered Mail Returned to Sender\nTo: hanako@example.com\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\nContent-Type: text/plain\n\n\
         <{recipient}>: host mx.example.net[192.0.2.1] said: {reply} (in reply to RCPT TO command)\n\n--b\n\
         Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\n\
         Final-Recipient: rfc822; {recipient}\nAction: failed\nStatus: {status}\nRemote-MTA: dns; mx.example.net\n\
         Diagnostic-Code: smtp; {reply}\n\n--b\nContent-Type: message/rfc822\n\nFrom: hanako@example.com\nTo: {recipient}\n\
         Subject: hello\nMessage-ID: <1@example.com>\n\nx\n\n--b--\n"
    )
}

fn unknown(recipient: &str) -> String {
    bounce(recipient, "5.1.1", &format!("550 5.1.1 <{recipient}>: Recipient address rejected: User unknown"))
}

fn full(recipient: &str) -> String {
    bounce(recipient, "5.2.2", "552 5.2.2 Mailbox full")
}

const FROM: &str = "From MAILER-DAEMON Sat Nov 21 16:53:54 2026\n";

#[test]
fn one_message_on_standard_input() {
    let output = call(&["analyze"], unknown("x@example.net").as_bytes());
    assert!(output.status.success());
    let [found] = &objects(&output)[..] else { panic!("{}", text(&output)) };
    for (name, value) in [
        ("recipient", "x@example.net"),
        ("reason", "userunknown"),
        ("deliverystatus", "5.1.1"),
        ("replycode", "550"),
        ("origin", "-"),
        ("destination", "example.net"),
        ("addresser", "hanako@example.com"),
        ("rhost", "mx.example.net"),
        ("messageid", "1@example.com"),
        ("timezoneoffset", "+0900"),
        ("action", "failed"),
    ] {
        assert_eq!(found[name], value, "{name}");
    }
    assert_eq!(found["hardbounce"], true);
    assert_eq!(found["softbounce"], 0);
    assert_eq!(found["timestamp"], 1_795_247_634);
    assert_eq!(found["smtpagent"], found["decodedby"]);
    assert_eq!(found["smtpcommand"], found["command"]);
}

#[test]
fn the_keys_of_either_version() {
    let keys = |version: &str| -> Vec<String> {
        let output = call(&["analyze", "--keys", version], unknown("x@example.net").as_bytes());
        objects(&output)[0].as_object().unwrap().keys().cloned().collect()
    };
    let (four, five) = (keys("4"), keys("5"));
    for (name, in_four, in_five) in [
        ("softbounce", true, false),
        ("smtpagent", true, false),
        ("hardbounce", false, true),
        ("decodedby", false, true),
        ("origin", true, true),
    ] {
        assert_eq!(
            (four.iter().any(|key| key == name), five.iter().any(|key| key == name)),
            (in_four, in_five),
            "{name}"
        );
    }
}

#[test]
fn files_mbox_and_directories_say_the_same_with_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (mut mbox, mut count) = (String::new(), 0);
    for n in 0..700 {
        let recipient = format!("user{n:04}@example.net");
        let message = if n % 3 == 0 { full(&recipient) } else { unknown(&recipient) };
        mbox += &format!("{FROM}{}\n", message.replace("\nFrom ", "\n>From "));
        fs::write(dir.path().join(format!("{n:04}.eml")), message).unwrap();
        count += 1;
    }
    let folder = dir.path().to_str().unwrap();
    let one = call(&["analyze", "--jobs", "1", folder], b"");
    let many = call(&["analyze", "--jobs", "7", folder], b"");
    assert_eq!(text(&one), text(&many));
    let recipients = |output: &Output| -> Vec<String> {
        objects(output).iter().map(|found| found["recipient"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(recipients(&one).len(), count);
    assert!(recipients(&one).is_sorted());
    let from_mbox = call(&["analyze", "--jobs", "3", "-"], mbox.as_bytes());
    assert_eq!(recipients(&from_mbox), recipients(&one));
    let crlf = call(&["analyze"], mbox.replace('\n', "\r\n").as_bytes());
    assert_eq!(recipients(&crlf), recipients(&one));
    let cr = call(&["analyze"], mbox.replace('\n', "\r").as_bytes());
    assert_eq!(recipients(&cr), recipients(&one));
}

#[test]
fn formats() {
    let mbox = format!("{FROM}{}\n{FROM}{}\n", unknown("x@example.net"), full("宛先@example.jp"));
    let json: Value = serde_json::from_slice(&call(&["analyze", "-f", "json"], mbox.as_bytes()).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    let none: Value =
        serde_json::from_slice(&call(&["analyze", "-f", "json"], b"Subject: hello\n\nhello\n").stdout).unwrap();
    assert_eq!(none, Value::Array(Vec::new()));
    let csv = text(&call(&["analyze", "-f", "csv"], mbox.as_bytes()));
    assert_eq!(csv.lines().count(), 3);
    assert!(csv.starts_with("action,addresser,"));
    let table = text(&call(&["analyze", "-f", "table", "--why"], mbox.as_bytes()));
    for line in [
        "2 messages, 2 recipients reported",
        "userunknown             1        -",
        "mailboxfull             -        1",
    ] {
        assert!(table.lines().any(|found| found == line), "{line}\n{table}");
    }
    assert!(table.contains("x@example.net") && table.contains(" % sure"), "{table}");
}

#[test]
fn choices() {
    let mbox = format!("{FROM}{}\n{FROM}{}\n", unknown("x@example.net"), full("y@example.net"));
    let reasons = |args: &[&str]| -> Vec<String> {
        let mut all = vec!["analyze"];
        all.extend_from_slice(args);
        objects(&call(&all, mbox.as_bytes())).iter().map(|found| found["reason"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(reasons(&["--only", "hard"]), ["userunknown"]);
    assert_eq!(reasons(&["--only", "soft"]), ["mailboxfull"]);
    assert_eq!(reasons(&["--reason", "mailboxfull,expired"]), ["mailboxfull"]);
    assert_eq!(reasons(&["--since", "2026-11-21T00:00:00Z"]).len(), 2);
    assert_eq!(reasons(&["--since", "2026-11-22T00:00:00Z"]).len(), 0);
}

#[test]
fn exit_codes() {
    let code = |args: &[&str], input: &str| call(args, input.as_bytes()).status.code();
    assert_eq!(code(&["analyze"], "Subject: hello\n\nhello\n"), Some(0));
    assert_eq!(code(&["analyze", "--exit-code"], "Subject: hello\n\nhello\n"), Some(1));
    assert_eq!(code(&["analyze", "-e"], &unknown("x@example.net")), Some(0));
    assert_eq!(code(&["analyze", "/nowhere/at/all"], ""), Some(2));
    assert_eq!(code(&["analyze", "--reason", "nonsense"], ""), Some(64));
    assert_eq!(code(&["analyze", "--since", "nonsense"], ""), Some(64));
    assert_eq!(code(&["analyze", "--rules", "/nowhere"], ""), Some(65));
    assert_eq!(code(&["analyze", "--help"], ""), Some(0));
    assert_eq!(code(&["classify", "--stage", "nonsense", "550"], ""), Some(64));
    let output = call(&["analyze", "/nowhere/at/all"], b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all: No such file"));
}

#[test]
fn a_watched_maildir_reports_each_message_once() {
    let dir = tempfile::tempdir().unwrap();
    let maildir = dir.path().join("Maildir");
    for name in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(name)).unwrap();
    }
    fs::write(maildir.join("new/1.a.host"), unknown("one@example.net")).unwrap();
    fs::write(maildir.join("tmp/9.z.host"), unknown("nine@example.net")).unwrap();
    let state = dir.path().join("state");
    let look = || -> Vec<String> {
        let args = ["analyze", "--once", "--watch", maildir.to_str().unwrap(), "--state", state.to_str().unwrap()];
        let output = call(&args, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        objects(&output).iter().map(|found| found["recipient"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(look(), ["one@example.net"]);
    assert!(look().is_empty());
    fs::rename(maildir.join("new/1.a.host"), maildir.join("cur/1.a.host:2,S")).unwrap();
    fs::write(maildir.join("new/2.b.host"), full("two@example.net")).unwrap();
    assert_eq!(look(), ["two@example.net"]);
    fs::remove_file(maildir.join("cur/1.a.host:2,S")).unwrap();
    assert!(look().is_empty());
    assert!(!fs::read_to_string(&state).unwrap().contains("1.a.host"), "what is gone is forgotten");
}

#[test]
fn classify() {
    let output = call(&["classify", "--stage", "rcpt", "550", "5.1.1", "User unknown"], b"");
    assert_eq!(text(&output), "userunknown\thard\t5.1.1\t550 5.1.1 User unknown\n");
    let lines = call(&["classify", "--json"], b"552 5.2.2 Mailbox full\n\n550 5.1.1 User unknown\n");
    let reasons: Vec<Value> = objects(&lines).iter().map(|found| found["reason"].clone()).collect();
    assert_eq!(reasons, ["mailboxfull", "userunknown"]);
    assert!(text(&call(&["classify", "--why", "550 5.1.1 User unknown"], b"")).contains(" % sure"));
}

/// Whatever is cut off or mixed up in an mbox: the command ends well, and says the same each time.
#[test]
fn broken_mbox_files() {
    let mut mbox = Vec::new();
    for system in ["postfix", "exim", "sendmail"] {
        for name in ["unknown", "full", "expired"] {
            mbox.extend_from_slice(FROM.as_bytes());
            mbox.extend_from_slice(&fs::read(fixtures().join(system).join(format!("{name}.eml"))).unwrap());
            mbox.push(b'\n');
        }
    }
    for end in (0..mbox.len()).step_by(mbox.len() / 11) {
        let one = call(&["analyze", "-j", "1"], &mbox[..end]);
        let two = call(&["analyze", "-j", "2"], &mbox[..end]);
        assert!(one.status.success());
        assert_eq!(text(&one), text(&two));
    }
}

//! Mail filters that exist: OpenDKIM signs what leaves and verifies what comes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::harness::{Instance, PATIENCE, address};

/// Where Debian's opendkim is; `None` where it is not installed.
fn opendkim() -> Option<PathBuf> {
    let found = ["/usr/sbin/opendkim", "/usr/bin/opendkim"].iter().map(Path::new).find(|path| path.exists());
    if found.is_none() {
        println!("SKIPPED: opendkim is not installed");
    }
    found.map(Path::to_owned)
}

/// A filter that runs; it ends with the test.
struct Filter {
    child: Child,
    milter: String,
    _home: tempfile::TempDir,
}

impl Drop for Filter {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Filter {
    /// With lines of opendkim.conf; `HOME` in them is its directory, which has a key `key.private` and its public half
    /// as DNS would have it in `key.txt`.
    fn start(program: &Path, lines: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key.private");
        let openssl = |arguments: &[&str]| {
            let done = Command::new("openssl").args(arguments).stderr(Stdio::null()).output().unwrap();
            assert!(done.status.success());
            String::from_utf8(done.stdout).unwrap()
        };
        let key_name = key.display().to_string();
        openssl(&["genrsa", "-out", &key_name, "2048"]);
        let public = openssl(&["rsa", "-in", &key_name, "-pubout"]);
        let public: String = public.lines().filter(|line| !line.starts_with('-')).collect();
        let record = format!("sel._domainkey.test.example v=DKIM1; k=rsa; p={public}\n");
        std::fs::write(home.path().join("key.txt"), record).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let listen = address();
        let socket = format!("inet:{}@{}", listen.port(), listen.ip());
        let text = lines.replace("HOME", &home.path().display().to_string());
        let settings = home.path().join("opendkim.conf");
        std::fs::write(&settings, format!("Socket {socket}\nBackground no\nUMask 077\n{text}")).unwrap();
        let child = Command::new(program).arg("-f").arg("-x").arg(&settings).stderr(Stdio::inherit()).spawn().unwrap();
        let began = Instant::now();
        while std::net::TcpStream::connect(listen).is_err() {
            assert!(began.elapsed() < PATIENCE, "opendkim does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { child, milter: format!("inet:{}:{}", listen.ip(), listen.port()), _home: home }
    }
}

const SIGN: &str = "RequireSafeKeys no\nMode s\nDomain test.example\nSelector sel\nKeyFile HOME/key.private\nInternalHosts 127.0.0.0/8\n\
                    Canonicalization relaxed/relaxed\nOversignHeaders From\n";

fn send(instance: &Instance, recipient: &str, text: &str) {
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example>", 250);
    client.expect(&format!("RCPT TO:<{recipient}>"), 250);
    client.expect("DATA", 354);
    client.send(text.as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
}

#[test]
fn opendkim_signs_and_verifies() {
    let Some(program) = opendkim() else { return };
    let signer = Filter::start(&program, SIGN);
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &signer.milter);
    instance.set("non_smtpd_milters", &signer.milter);
    instance.start();
    let text = "From: a@test.example\r\nSubject: signed\r\nDate: Sat, 21 Nov 2026 12:00:00 +0900\r\n\
                Message-Id: <1@test.example>\r\nTo: one@box.example\r\n\r\n.dots\r\nand text\r\n.\r\n";
    send(&instance, "one@box.example", text);
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nDKIM-Signature: v=1; a=rsa-sha256;"), "{mails:?}");
    // The signature holds for what was delivered, by the other half of the filter.
    let home = signer._home.path().display().to_string();
    let keys = format!(
        "RequireSafeKeys no\nMode v\nTestPublicKeys {home}/key.txt\nAlwaysAddARHeader yes\nAuthservID mx.example\n"
    );
    let verifier = Filter::start(&program, &keys);
    let mut receiver = Instance::new();
    receiver.set("smtpd_milters", &verifier.milter);
    receiver.start();
    // From the signature on it is the message as it left.
    let begin = mails[0].find("DKIM-Signature:").unwrap();
    let signed = mails[0][begin..].replace('\n', "\r\n");
    let on_wire = signed.replace("\r\n.", "\r\n..");
    send(&receiver, "two@box.example", &format!("{on_wire}.\r\n"));
    let seen = receiver.until_mails("two", 1);
    assert!(seen[0].contains("dkim=pass"), "{seen:?}");
    send(&receiver, "three@box.example", &format!("{}.\r\n", on_wire.replace("and text", "another text")));
    let seen = receiver.until_mails("three", 1);
    assert!(seen[0].contains("dkim=fail"), "{seen:?}");
}

#[test]
fn a_filter_that_is_gone_makes_mail_wait() {
    let nobody = address();
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &format!("inet:{}:{}", nobody.ip(), nobody.port()));
    instance.set("milter_default_action", "tempfail");
    instance.start();
    // As Postfix: the greeting is the usual one, and whatever the client wants is put off.
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    for command in ["VRFY one", "FROB", "MAIL FROM:<a@test.example>"] {
        let said = client.expect(command, 451);
        assert!(said.lines[0].ends_with("4.7.1 Service unavailable - try again later"), "{command}: {said:?}");
    }
    client.expect("NOOP", 250);
    instance.until("the log", || instance.log().contains("milter-reject: CONNECT from "));
    assert!(instance.log().contains("warning: connect to Milter service inet:"), "{}", instance.log());
}

#[test]
fn what_users_hand_in_waits_for_a_filter_or_table_that_is_gone() {
    let nobody = address();
    for (name, value) in [
        ("non_smtpd_milters", format!("inet:{}:{}", nobody.ip(), nobody.port())),
        ("virtual_alias_maps", format!("socketmap:inet:{}:{}:x", nobody.ip(), nobody.port())),
    ] {
        let mut instance = Instance::new();
        instance.set(name, &value);
        instance.start();
        // Whoever called sendmail is told that all is well, as behind Postfix's pickup.
        let said = instance.run_with("sendmail", &["one@box.example"], "Subject: hello\n\nwaits\n");
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{name}: {said:?}");
        assert!(instance.ok("mailq", &[]).contains("one@box.example"), "{name}");
        assert!(instance.mails("one").is_empty(), "{name}");
        instance.set(name, "");
        instance.reload();
        instance.ok("postqueue", &["-f"]);
        assert!(instance.until_mails("one", 1)[0].contains("waits"), "{name}");
        instance.until_empty();
    }
}

/// A filter that refuses every message at its end, in two lines.
fn refuser() -> String {
    double(&[b"y550-5.7.1 not\r\n550 5.7.1 this one\0"])
}

/// A filter that says this at the end of a message.
fn double(end: &'static [&'static [u8]]) -> String {
    let listen = address();
    let listener = TcpListener::bind(listen).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut length = [0; 4];
                while stream.read_exact(&mut length).is_ok() {
                    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
                    stream.read_exact(&mut packet).unwrap();
                    let answers: &[&[u8]] = match packet[0] {
                        // It may add fields.
                        b'O' => &[b"O\0\0\0\x06\0\0\0\x01\0\0\0\0"],
                        b'E' => end,
                        b'D' | b'A' | b'Q' => continue,
                        _ => &[b"c"],
                    };
                    for answer in answers {
                        let mut out = (answer.len() as u32).to_be_bytes().to_vec();
                        out.extend_from_slice(answer);
                        stream.write_all(&out).unwrap();
                    }
                }
            });
        }
    });
    format!("inet:{}:{}", listen.ip(), listen.port())
}

#[test]
fn a_refusal_reaches_whoever_sent() {
    let filter = refuser();
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &filter);
    instance.set("non_smtpd_milters", &filter);
    instance.start();
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@test.example>", 250);
    client.expect("RCPT TO:<one@box.example>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: a\r\n\r\ntext\r\n.\r\n").unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.lines, ["550-5.7.1 not", "550 5.7.1 this one"]);
    drop(client);
    // Who has sent it here gets it back, as with Postfix.
    let said = instance.run_with("sendmail", &["-f", "two@box.example", "one@box.example"], "Subject: b\n\ntext\n");
    assert_eq!(said.code, 0, "{said:?}");
    let back = instance.until_mails("two", 1);
    assert!(back[0].contains("not this one") && back[0].contains("Subject: b"), "{back:?}");
    let line = "milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 not this one";
    instance.until("the log", || instance.log().contains(line));
}

#[test]
fn filters_by_client() {
    let filter = refuser();
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &filter);
    instance.set("smtpd_milter_maps", "inline:{127.0.0.1=DISABLE}");
    instance.start();
    send(&instance, "one@box.example", "Subject: a\r\n\r\ntext\r\n.\r\n");
    instance.until_mails("one", 1);
    let mut other = Instance::new();
    other.set("smtpd_milter_maps", &format!("inline:{{127.0.0.1={filter}}}"));
    other.start();
    let mut client = other.client();
    client.transaction(
        &["EHLO c.example", "MAIL FROM:<a@test.example>", "RCPT TO:<one@box.example>"],
        b"Subject: a\r\n\r\ntext\r\n.\r\n",
        550,
    );
}

#[test]
fn what_filters_write_into_the_header_is_checked() {
    let filter = double(&[b"hX-Spam\0yes\0", b"hX-Score\x009\0", b"hX-Secret\0x\0", b"c"]);
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &filter);
    let rules = "{/^X-Score: (.*)/ REPLACE X-Points: $$1}, {/^X-Secret:/ IGNORE}, {/^X-Spam: yes/ WARN it is spam}, {/^Subject/ REJECT}";
    instance.set("milter_header_checks", &format!("pcre:{{{rules}}}"));
    instance.start();
    send(&instance, "one@box.example", "Subject: a\r\n\r\ntext\r\n.\r\n");
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nX-Spam: yes\nX-Points: 9\n") && !mails[0].contains("X-Secret"), "{mails:?}");
    let line = ": milter-header-warning: header X-Spam: yes from ";
    instance.until("the log", || instance.log().contains(line) && instance.log().contains(": it is spam"));
}

//! Mail filters that look for spam, viruses and policies: Debian's rspamd and OpenDMARC, and a double that does what
//! clamav-milter does (signatures of viruses are not at hand everywhere). What they are told of every recipient.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::harness::{Instance, PATIENCE, address, as_root};

/// A filter that runs; it ends with the test, and the processes that it has made with it.
struct Filter(Child);

impl Drop for Filter {
    fn drop(&mut self) {
        // Politely first: rspamd has children.
        let _ = Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status();
        let began = Instant::now();
        while self.0.try_wait().is_ok_and(|status| status.is_none()) && began.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it and waits until it listens; what it says is shown where it does not.
fn start(mut command: Command, home: &Path, at: SocketAddr) -> Filter {
    let log = fs::File::create(home.join("filter.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut filter = Filter(command.spawn().unwrap());
    let began = Instant::now();
    while TcpStream::connect(at).is_err() {
        let ended = filter.0.try_wait().unwrap();
        let said = || fs::read_to_string(home.join("filter.log")).unwrap_or_default();
        assert!(ended.is_none() && began.elapsed() < PATIENCE * 2, "it does not listen: {}", said());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    filter
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    home
}

/// Sends a message to two recipients; the last reply.
fn send(instance: &Instance, text: &str) -> String {
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.mail("a@test.example", &["one@box.example", "two@box.example"], text).unwrap().lines.join("|")
}

#[test]
fn rspamd_refuses_marks_and_renames() {
    let program = Path::new("/usr/bin/rspamd");
    if !program.exists() || !as_root() {
        eprintln!("skipped: rspamd is not installed, or nobody could start it here");
        return;
    }
    let (home, at) = (home(), address());
    let directory = home.path().display();
    fs::write(home.path().join("tld.dat"), "com\nexample\n").unwrap();
    let settings = home.path().join("rspamd.conf");
    let text = format!(
        "options {{ pidfile = \"{directory}/pid\"; dbdir = \"{directory}\"; tempdir = \"{directory}\"; filters = \"\"; \
         url_tld = \"{directory}/tld.dat\"; control_socket = \"{directory}/ctl mode=0600\"; disable_hyperscan = true; \
         gtube_patterns = \"all\"; enable_test_patterns = true; dns {{ nameserver = [\"127.0.0.1:1\"]; timeout = 0.1s; retransmits = 1; }} }}\n\
         logging {{ type = \"console\"; }}\n\
         worker \"rspamd_proxy\" {{ bind_socket = \"{at}\"; milter = yes; timeout = 30s; count = 1; \
         upstream \"local\" {{ default = yes; self_scan = yes; }} }}\n\
         actions {{ reject = 15; add_header = 6; greylist = 4; }}\n"
    );
    fs::write(&settings, text).unwrap();
    let mut command = Command::new(program);
    command.args(["-f", "-i", "-c"]).arg(&settings);
    let _rspamd = start(command, home.path(), at);
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &format!("inet:{}:{}", at.ip(), at.port()));
    instance.set("milter_default_action", "tempfail");
    instance.start();
    // The pattern that every scanner takes for spam, and its two milder forms.
    let pattern = "JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
    let message = |letter: &str| format!("From: a@test.example\nSubject: hello\n\n{letter}{pattern}\n");
    assert_eq!(send(&instance, &message("X")), "554 5.7.1 Gtube pattern");
    let line = "milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Gtube pattern; ";
    instance.until("the log", || instance.log().contains(line));
    assert!(send(&instance, &message("Y")).starts_with("250 "));
    let mails = instance.until_mails("one", 1);
    assert!(mails[0].contains("\nX-Spam: Yes\n"), "{mails:?}");
    assert!(send(&instance, &message("Z")).starts_with("250 "));
    let mails = instance.until_mails("two", 2);
    assert!(mails.iter().any(|mail| mail.contains("\nSubject: *** SPAM *** hello\n")), "{mails:?}");
    assert!(send(&instance, "From: a@test.example\nSubject: harmless\n\nhello\n").starts_with("250 "));
    let mails = instance.until_mails("two", 3);
    assert!(mails.iter().any(|mail| mail.contains("\nSubject: harmless\n") && !mail.contains("X-Spam")), "{mails:?}");
}

#[test]
fn opendmarc_says_what_it_found() {
    let program = Path::new("/usr/sbin/opendmarc");
    if !program.exists() {
        eprintln!("skipped: opendmarc is not installed");
        return;
    }
    let (home, at) = (home(), address());
    // By default it does not look at mail of this machine.
    fs::write(home.path().join("ignored"), "192.0.2.1\n").unwrap();
    let settings = home.path().join("opendmarc.conf");
    let text = format!(
        "Socket inet:{}@{}\nBackground false\nAuthservID mx.test.example\nTrustedAuthservIDs mx.test.example\n\
         IgnoreHosts {}/ignored\nSPFIgnoreResults true\nSoftwareHeader true\n",
        at.port(),
        at.ip(),
        home.path().display()
    );
    fs::write(&settings, text).unwrap();
    let mut command = Command::new(program);
    command.args(["-f", "-c"]).arg(&settings);
    let _opendmarc = start(command, home.path(), at);
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &format!("inet:{}:{}", at.ip(), at.port()));
    instance.set("milter_default_action", "tempfail");
    instance.start();
    let reply = send(&instance, "From: a@test.example\nSubject: hello\n\nhello\n");
    assert!(reply.starts_with("250 "), "{reply}\n{}", instance.log());
    let mail = instance.until_mails("one", 1).remove(0);
    assert!(mail.contains("\nDMARC-Filter: OpenDMARC Filter v") && mail.contains(" mx.test.example "), "{mail}");
    // Two From: fields are what it refuses where it can.
    let reply = send(&instance, "Subject: nobody\n\nhello\n");
    assert!(reply.starts_with("250 ") || reply.starts_with("550 "), "{reply}");
}

/// What a double heard: macros by command, in order.
type Heard = Arc<Mutex<Vec<(u8, Vec<String>)>>>;

/// Does what clamav-milter does: it takes the body, and at its end refuses a virus or says that there is none.
fn clamav() -> (String, Heard) {
    let listen = address();
    let listener = TcpListener::bind(listen).unwrap();
    let heard: Heard = Arc::default();
    let log = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), log) = (stream, Arc::clone(&log)) else { return };
            std::thread::spawn(move || {
                let (mut length, mut body) = ([0; 4], Vec::new());
                while stream.read_exact(&mut length).is_ok() {
                    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
                    stream.read_exact(&mut packet).unwrap();
                    let answers: Vec<Vec<u8>> = match packet[0] {
                        // Fields may be added, recipients refused by others are told too.
                        b'O' => vec![b"O\0\0\0\x06\0\0\0\x01\0\0\x08\0".to_vec()],
                        b'D' => {
                            let text = String::from_utf8_lossy(&packet[2..]).into_owned();
                            log.lock().unwrap().push((packet[1], text.split('\0').map(str::to_owned).collect()));
                            continue;
                        }
                        b'A' | b'Q' => continue,
                        b'B' => {
                            body.extend_from_slice(&packet[1..]);
                            vec![b"c".to_vec()]
                        }
                        b'E' => match String::from_utf8_lossy(&std::mem::take(&mut body)).contains("EICAR-STANDARD") {
                            true => vec![b"y550 5.7.1 Infected with Eicar-Test-Signature\0".to_vec()],
                            false => vec![b"hX-Virus-Status\0Clean\0".to_vec(), b"a".to_vec()],
                        },
                        _ => vec![b"c".to_vec()],
                    };
                    for answer in answers {
                        let mut out = (answer.len() as u32).to_be_bytes().to_vec();
                        out.extend_from_slice(&answer);
                        stream.write_all(&out).unwrap();
                    }
                }
            });
        }
    });
    (format!("inet:{}:{}", listen.ip(), listen.port()), heard)
}

#[test]
fn a_virus_is_refused_and_every_recipient_is_told_of() {
    let (filter, heard) = clamav();
    let mut instance = Instance::new();
    instance.set("smtpd_milters", &filter);
    instance.set("milter_connect_macros", "j {client_connections} {daemon_addr} {if_addr}");
    instance.start();
    let virus = "Subject: v\n\nX5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*\n";
    assert_eq!(send(&instance, virus), "550 5.7.1 Infected with Eicar-Test-Signature");
    heard.lock().unwrap().clear();
    let mut client = instance.client();
    client.expect("EHLO c.example", 250);
    client.expect("MAIL FROM:<a@far.example>", 250);
    client.expect("RCPT TO:<one@box.example>", 250);
    client.expect("RCPT TO:<nobody@box.example>", 550);
    client.expect("RCPT TO:<x@far.example>", 250);
    client.expect("RSET", 250);
    let told = heard.lock().unwrap().clone();
    let of = |command: u8| -> Vec<Vec<String>> {
        told.iter().filter(|(stage, _)| *stage == command).map(|(_, words)| words.clone()).collect()
    };
    let value = |words: &[String], name: &str| {
        words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap_or_else(|| "-".to_owned())
    };
    let connect = of(b'C').remove(0);
    assert_eq!(value(&connect, "{daemon_addr}"), instance.smtp.ip().to_string());
    assert_eq!(value(&connect, "{if_addr}"), "-", "it does not exist in Postfix");
    assert!(value(&connect, "{client_connections}").parse::<u32>().is_ok(), "{connect:?}");
    let relay = format!("[{}]:{}", instance.next_hop.ip(), instance.next_hop.port());
    let mail = of(b'M').remove(0);
    let seen = ["{mail_addr}", "{mail_host}", "{mail_mailer}"].map(|name| value(&mail, name));
    assert_eq!(seen, ["a@far.example".to_owned(), relay.clone(), "smtp".to_owned()], "{mail:?}");
    let recipients = of(b'R');
    let expected: [[&str; 3]; 3] = [
        ["one@box.example", "box.example", "virtual"],
        ["<nobody@box.example>: Recipient address rejected: User unknown in virtual mailbox table", "5.1.1", "error"],
        ["x@far.example", &relay, "smtp"],
    ];
    assert_eq!(recipients.len(), expected.len(), "{recipients:?}");
    for (words, expected) in recipients.iter().zip(expected) {
        assert_eq!(["{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"].map(|name| value(words, name)), expected);
    }
}

//! Commands of master.cf, a filter that hands mail back, and real Dovecot as the place where mail ends: by LMTP over both
//! kinds of sockets, and as a command.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Client, Instance, address, as_root, slay};

/// A user that is on every system, is not root and not the one whom everything here belongs to.
fn other_user() -> String {
    if as_root() { "daemon".to_owned() } else { std::env::var("USER").unwrap_or_else(|_| "nobody".to_owned()) }
}

fn script(instance: &Instance, name: &str, text: &str) -> PathBuf {
    let path = instance.etc().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_filter_hands_mail_back_through_sendmail() {
    let mut instance = Instance::new();
    let filtered = SocketAddr::new(instance.smtp.ip(), address().port());
    let bin = instance.path().join("bin").display().to_string();
    let etc = instance.etc().display().to_string();
    let filter = script(
        &instance,
        "filter.sh",
        &format!(
            "message=$(cat; echo x)\ncase $message in *'Subject: bad'*) echo 'this is spam'; exit 69;; esac\n\
             printf 'X-Filtered: yes\\n%s' \"${{message%x}}\" | MAIL_CONFIG={etc} {bin}/sendmail -G -i \"$@\"\n"
        ),
    );
    instance.services.push(format!("{filtered} inet n - n - - smtpd -o content_filter=filter:dummy"));
    instance.services.push(format!(
        "filter unix - n n - 10 pipe\n  flags=Rq user={} null_sender=\n  argv={} -f ${{sender}} -- ${{recipient}}",
        other_user(),
        filter.display()
    ));
    instance.write();
    instance.start();
    let mut client = Client::connect(filtered).unwrap();
    client.expect("EHLO x.example", 250);
    client.mail("a@test.example", &["one@box.example", "two@box.example"], "Subject: good\n\ntext\n.dot\n").unwrap();
    for name in ["one", "two"] {
        let mail = instance.until_mails(name, 1).remove(0);
        for line in ["X-Filtered: yes\n", "Return-Path: <a@test.example>\n", "\ntext\n.dot\n"] {
            assert!(mail.contains(line), "{line}: {mail}");
        }
    }
    client.mail("me@box.example", &["one@box.example"], "Subject: bad\n\ntext\n").unwrap();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("service unavailable. Command output: this is spam"), "{notice}");
    assert!(notice.contains("Diagnostic-Code: x-unix; this is spam\n"), "{notice}");
    let log = instance.log();
    assert!(log.contains("relay=filter") && log.contains("status=sent (delivered via filter service)"), "{log}");
    instance.until_empty();
}

#[test]
fn a_pipe_service_is_never_root_nor_the_mail_owner() {
    if !as_root() {
        eprintln!("skipped: only root can be asked for other users");
        return;
    }
    let mut instance = Instance::new();
    instance
        .set("transport_maps", "inline:{ {root.example=asroot:} {owner.example=asowner:} {good.example=asother:} }");
    let out = instance.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o1777)).unwrap();
    let who = script(&instance, "who.sh", &format!("cat >/dev/null; id > {}/$1\n", out.display()));
    for (name, user) in [("asroot", "root"), ("asowner", "nobody"), ("asother", "daemon")] {
        instance.services.push(format!("{name} unix - n n - - pipe user={user} argv={} ${{domain}}", who.display()));
    }
    instance.write();
    instance.start();
    let recipients = ["a@root.example", "b@owner.example", "c@good.example"];
    instance.client().mail("a@test.example", &recipients, "Subject: x\n\ntext\n").unwrap();
    instance.until("the command", || out.join("good.example").exists());
    instance.until_queued("deferred", 1);
    let id = fs::read_to_string(out.join("good.example")).unwrap();
    assert!(id.contains("(daemon)") && !id.contains("root") && !id.contains("nogroup"), "{id}");
    let log = instance.log();
    for why in ["specifies root privileges (root)", "specifies mail system owner nobody (nobody)"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    assert!(!out.join("root.example").exists() && !out.join("owner.example").exists());
}

/// Ends with the test.
struct Dovecot(Child);

impl Drop for Dovecot {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            let _ = self.0.wait();
            slay(pid);
        }
    }
}

/// Real Dovecot with the users `alice` and, with almost no room, `full`.
fn dovecot(instance: &Instance, tcp: SocketAddr) -> Option<Dovecot> {
    if !std::path::Path::new("/usr/sbin/dovecot").exists() || !std::path::Path::new("/usr/lib/dovecot/lmtp").exists() {
        eprintln!("skipped: Dovecot with LMTP is not installed");
        return None;
    }
    if !as_root() {
        eprintln!("skipped: Dovecot wants to be started by root");
        return None;
    }
    let directory = instance.path().display().to_string();
    let homes = instance.path().join("homes");
    fs::create_dir(&homes).unwrap();
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    chown(&homes, Some(daemon.uid.as_raw()), Some(daemon.gid.as_raw())).unwrap();
    let ids = format!("{}:{}", daemon.uid, daemon.gid);
    instance.file(
        "dovecot-users",
        &format!(
            "alice@imap.example:{{PLAIN}}x:{ids}::{directory}/homes/alice::\n\
             full@imap.example:{{PLAIN}}x:{ids}::{directory}/homes/full::userdb_quota_rule=*:storage=1K\n"
        ),
    );
    instance.file(
        "dovecot.conf",
        &format!(
            "base_dir = {directory}/dovecot\nstate_dir = {directory}/dovecot\nlog_path = {directory}/dovecot.log\n\
             protocols = lmtp\nssl = no\nfirst_valid_uid = 1\nfirst_valid_gid = 1\nmail_location = maildir:~/Maildir\n\
             postmaster_address = postmaster@imap.example\nmail_plugins = quota\nauth_username_format = %Lu\n\
             passdb {{\n  driver = passwd-file\n  args = {directory}/etc/dovecot-users\n}}\n\
             userdb {{\n  driver = passwd-file\n  args = {directory}/etc/dovecot-users\n}}\n\
             plugin {{\n  quota = maildir:User quota\n}}\n\
             service lmtp {{\n  unix_listener {directory}/lmtp {{\n    mode = 0666\n  }}\n  \
             inet_listener lmtp {{\n    address = {}\n    port = {}\n  }}\n}}\n\
             service auth {{\n  unix_listener auth-userdb {{\n    mode = 0666\n  }}\n}}\n\
             service stats {{\n  unix_listener stats-writer {{\n    mode = 0666\n  }}\n}}\n",
            tcp.ip(),
            tcp.port()
        ),
    );
    let log = instance.path().join("dovecot.log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
    let conf = instance.etc().join("dovecot.conf");
    let child = Command::new("/usr/sbin/dovecot").arg("-F").arg("-c").arg(conf).stdin(Stdio::null()).spawn().unwrap();
    let running = Dovecot(child);
    instance.until("Dovecot's sockets", || {
        UnixStream::connect(instance.path().join("lmtp")).is_ok() && TcpStream::connect(tcp).is_ok()
    });
    Some(running)
}

/// How many mails a user of Dovecot's has.
fn kept(instance: &Instance, name: &str) -> usize {
    fs::read_dir(instance.path().join("homes").join(name).join("Maildir/new")).map_or(0, Iterator::count)
}

#[test]
fn dovecot_takes_mail_by_lmtp() {
    let mut instance = Instance::new();
    let tcp = SocketAddr::new(instance.smtp.ip(), address().port());
    let Some(_dovecot) = dovecot(&instance, tcp) else { return };
    let socket = instance.path().join("lmtp").display().to_string();
    let ways = [format!("lmtp:unix:{socket}"), format!("lmtp:inet:{}:{}", tcp.ip(), tcp.port())];
    for (expected, next) in (1..).zip(ways) {
        instance.set("virtual_transport", &next);
        instance.set("virtual_mailbox_domains", "imap.example, box.example");
        instance.set("virtual_mailbox_maps", "");
        instance.set("transport_maps", "inline:{ {box.example=virtual:} }");
        if expected == 1 {
            instance.start()
        } else {
            instance.reload()
        }
        let recipients = ["alice@imap.example", "nobody@imap.example", "full@imap.example"];
        let text = "Subject: x\n\n".to_owned() + &"0123456789\n".repeat(300);
        instance.client().mail("them@far.example", &recipients, &text).unwrap();
        instance.until("the mail", || kept(&instance, "alice") == expected);
        let unknown = "to=<nobody@imap.example>";
        instance.until("both refusals", || {
            instance.log().lines().filter(|line| line.contains("status=bounced")).count() == 2 * expected
        });
        let log = instance.log();
        let line = |of: &str| log.lines().rfind(|line| line.contains(of)).unwrap_or_default().to_owned();
        let unknown = line(unknown);
        assert!(unknown.contains("dsn=5.1.1") && unknown.contains("User doesn't exist"), "{next}: {unknown}");
        let full = line("to=<full@imap.example>");
        assert!(full.contains("dsn=5.2.2") && full.contains("Quota exceeded"), "{next}: {full}");
        assert!(line("to=<alice@imap.example>").contains("dsn=2.0.0, status=sent (250 2.0.0"), "{next}: {log}");
    }
}

#[test]
fn dovecot_takes_mail_as_a_command() {
    let mut instance = Instance::new();
    let tcp = SocketAddr::new(instance.smtp.ip(), address().port());
    let Some(_dovecot) = dovecot(&instance, tcp) else { return };
    let conf = instance.etc().join("dovecot.conf").display().to_string();
    // As the how-tos have it, with the name of the configuration.
    instance.services.push(format!(
        "dovecot unix - n n - - pipe\n  flags=DRhu user=daemon:daemon argv=/usr/lib/dovecot/deliver -c {conf} -f ${{sender}} -d ${{recipient}}"
    ));
    instance.set("virtual_transport", "dovecot");
    instance.set("virtual_mailbox_domains", "imap.example");
    instance.set("virtual_mailbox_maps", "");
    // No dovecot_destination_recipient_limit: `D` has one recipient for each command all the same.
    instance.start();
    let recipients = ["Alice@imap.example", "nobody@imap.example"];
    instance.client().mail("them@far.example", &recipients, "Subject: x\n\ntext\n").unwrap();
    instance.until("the mail", || kept(&instance, "alice") == 1);
    instance.until("the refusal", || instance.log().contains("status=bounced"));
    let log = instance.log();
    assert!(log.contains("relay=dovecot") && log.contains("status=sent (delivered via dovecot service)"), "{log}");
    assert!(log.contains("dsn=5.1.1, status=bounced (user unknown"), "{log}");
}

/// A program of master.cf for each connection, on a port and on a socket (spawn(8)).
#[test]
fn programs_answer_connections() {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut instance = Instance::new();
    let port = SocketAddr::new(instance.smtp.ip(), address().port());
    let script = script(&instance, "program", "while read line; do echo \"$1 says $line\"; done\n");
    let (script, user) = (script.display().to_string(), other_user());
    let line =
        |name: &str, kind: &str, word: &str| format!("{name} {kind} n n n - 5 spawn user={user} argv={script} {word}");
    instance.services = vec![line(&port.to_string(), "inet", "port"), line("echo", "unix", "socket")];
    instance.write();
    instance.start();
    fn talk(mut stream: impl Read + Write) -> String {
        stream.write_all(b"hello\n").unwrap();
        let mut said = String::new();
        BufReader::new(stream).read_line(&mut said).unwrap();
        said
    }
    for _ in 0..2 {
        assert_eq!(talk(TcpStream::connect(port).unwrap()), "port says hello\n", "{}", instance.log());
        let socket = instance.path().join("queue/public/echo");
        assert_eq!(talk(UnixStream::connect(socket).unwrap()), "socket says hello\n", "{}", instance.log());
        instance.reload();
    }
}

/// The supervisor blocks the signals that it waits for; what it starts in the end must not.
#[test]
fn a_signal_ends_a_command() {
    let mut instance = Instance::new();
    let user = other_user();
    instance.set("transport_maps", "inline:{ {term.example=term:} {int.example=int:} {hup.example=hup:} }");
    for name in ["term", "int", "hup"] {
        let signal = name.to_uppercase();
        let command = format!("{name} unix - n n - - pipe user={user} argv=/bin/sh -c {{kill -{signal} $$$$}}");
        instance.services.push(command);
    }
    instance.write();
    instance.start();
    let recipients = ["a@term.example", "a@int.example", "a@hup.example"];
    instance.client().mail("a@test.example", &recipients, "Subject: x\n\ntext\n").unwrap();
    instance.until_queued("deferred", 1);
    let log = instance.log();
    for signal in [15, 2, 1] {
        let reason = format!("status=deferred (Command died with signal {signal}: \"/bin/sh\")");
        assert!(log.contains(&reason), "{reason}: {log}");
    }
}

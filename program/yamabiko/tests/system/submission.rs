//! The submission services of Debian's master.cf, with the programs that people send mail with, and with real Dovecot.
//! Each is skipped with a message where it is not installed.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Instance, address, as_root, slay};

/// As Debian's master.cf has it, without the comment signs.
const OPTIONS: &str = "
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_reject_unlisted_recipient=no
  -o smtpd_client_restrictions=$mua_client_restrictions
  -o smtpd_helo_restrictions=$mua_helo_restrictions
  -o smtpd_sender_restrictions=$mua_sender_restrictions
  -o smtpd_recipient_restrictions=
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
  -o milter_macro_daemon_name=ORIGINATING";

struct Site {
    instance: Instance,
    submission: SocketAddr,
    submissions: SocketAddr,
}

fn there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn made(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())
}

/// A file that only root, or whoever runs the tests, can read.
fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn site(settings: &[(&str, String)]) -> Site {
    let mut instance = Instance::new();
    let (submission, submissions) =
        (SocketAddr::new(instance.smtp.ip(), address().port()), SocketAddr::new(instance.smtp.ip(), address().port()));
    secret(&instance.etc().join("key.pem"), &made("mx.test.example"));
    let services = [
        format!(
            "{submission} inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n  -o smtpd_tls_security_level=encrypt{OPTIONS}"
        ),
        format!(
            "{submissions} inet n - y - - smtpd\n  -o syslog_name=postfix/smtps\n  -o smtpd_tls_wrappermode=yes{OPTIONS}"
        ),
    ];
    instance.services = services.to_vec();
    instance.set("smtpd_tls_chain_files", instance.etc().join("key.pem").to_str().unwrap());
    instance.set("smtpd_tls_loglevel", "1");
    instance.set("smtpd_tls_received_header", "yes");
    instance.set("smtpd_sasl_authenticated_header", "yes");
    for (name, value) in settings {
        instance.set(name, value);
    }
    Site { instance, submission, submissions }
}

/// A site with logins of its own: alice, with a hash of each kind in turn.
fn stored(scheme: &str) -> Site {
    let site = site(&[("smtpd_sasl_type", "yamabiko".to_owned())]);
    let Site { mut instance, submission, submissions } = site;
    let users = instance.etc().join("users");
    instance.set("smtpd_sasl_path", users.to_str().unwrap());
    let said = instance.run_with("yamabiko", &["passwd", "-s", scheme, "alice"], "secret\n");
    assert_eq!(said.code, 0, "{said:?}");
    for (password, code) in [("secret\n", 0), ("Secret\n", 1)] {
        assert_eq!(instance.run_with("yamabiko", &["passwd", "-t", "alice"], password).code, code);
    }
    instance.start();
    Site { instance, submission, submissions }
}

#[test]
fn programs_that_people_send_with() {
    let site = stored("argon2id");
    let Site { instance, submission, submissions } = &site;
    let (host, port, wrapped) = (submission.ip(), submission.port(), submissions.port());
    let mail = "printf 'From: a@test.example\\nTo: one@box.example\\nSubject: hello\\n\\ntext\\n'";
    let python = format!(
        "import smtplib, ssl\n\
         c = ssl._create_unverified_context()\n\
         m = 'Subject: python\\n\\ntext\\n'\n\
         s = smtplib.SMTP('{host}', {port}); s.starttls(context=c); s.login('alice', 'secret'); \
         s.sendmail('a@test.example', ['one@box.example'], m); s.quit()\n\
         s = smtplib.SMTP_SSL('{host}', {wrapped}, context=c); s.login('alice', 'secret'); \
         s.sendmail('a@test.example', ['one@box.example'], m); s.quit()\n"
    );
    instance.file("send.py", &python);
    let swaks = "swaks --from a@test.example --to one@box.example --auth-user alice --auth-password secret --silent 3";
    let msmtp = format!(
        "{mail} | msmtp --file=/dev/null --host={host} --auth=plain --user=alice --passwordeval='echo secret' --tls=on \
         --tls-certcheck=off --from=a@test.example"
    );
    let s_nail =
        "echo text | s-nail -:/ -S v15-compat -S smtp-auth=login -S tls-verify=ignore -S from=a@test.example -s hello";
    let openssl = |flags: &str| {
        format!(
            "(printf 'EHLO c.test\\r\\n'; sleep 1; printf 'AUTH PLAIN AGFsaWNlAHNlY3JldA==\\r\\n'; sleep 2; printf 'MAIL \
             FROM:<a@test.example>\\r\\n'; sleep 0.3; printf 'RCPT TO:<one@box.example>\\r\\n'; sleep 0.3; printf \
             'DATA\\r\\n'; sleep 0.3; printf 'Subject: x\\r\\n\\r\\nx\\r\\n.\\r\\n'; sleep 1; printf 'QUIT\\r\\n'; sleep 0.3) | \
             openssl s_client -quiet {flags}"
        )
    };
    let mut expected = 0;
    for (program, line, messages) in [
        ("python3", "python3 etc/send.py".to_owned(), 2),
        ("swaks", format!("{swaks} --server {host}:{port} -tls --auth PLAIN"), 1),
        ("swaks", format!("{swaks} --server {host}:{wrapped} --tls-on-connect --auth LOGIN"), 1),
        ("msmtp", format!("{msmtp} --port={port} one@box.example"), 1),
        ("msmtp", format!("{msmtp} --port={wrapped} --tls-starttls=off one@box.example"), 1),
        (
            "s-nail",
            format!("{s_nail} -S smtp-use-starttls -S mta=smtp://alice:secret@{host}:{port} one@box.example"),
            1,
        ),
        ("openssl", openssl(&format!("-starttls smtp -connect {host}:{port}")), 1),
        ("openssl", openssl(&format!("-tls1_2 -connect {host}:{wrapped}")), 1),
    ] {
        if !there(program) {
            continue;
        }
        let said = instance.shell(&line);
        assert_eq!(said.code, 0, "{line}: {said:?}\n{}", instance.log());
        expected += messages;
        let mails = instance.until_mails("one", expected);
        let newest = mails.iter().filter(|mail| mail.contains("(Authenticated sender: alice)\n")).count();
        assert_eq!(newest, expected, "{program}: {mails:#?}");
        assert!(
            mails.iter().all(|mail| mail.contains("with ESMTPSA id ") && mail.contains("(using TLSv1.")),
            "{mails:#?}"
        );
    }
    let log = instance.log();
    assert!(log.contains("sasl_username=alice"), "{log}");
    assert!(log.contains("postfix/smtps/smtpd[") && log.contains("Anonymous TLS connection established from"), "{log}");
    assert!(!log.contains("AGFsaWNlAHNlY3JldA"), "{log}");
}

#[test]
fn strangers_and_wrong_passwords() {
    if !there("swaks") {
        return;
    }
    let site = stored("sha512-crypt");
    let (host, port) = (site.submission.ip(), site.submission.port());
    let swaks = format!("swaks --server {host}:{port} --from a@test.example --to one@box.example");
    for (line, expected) in [
        ("", "530 5.7.0 Must issue a STARTTLS command first"),
        ("-tls", "554 5.7.1 <one@box.example>: Recipient address rejected: Access denied"),
        ("-tls --auth PLAIN -au alice -ap wrong", "535 5.7.8 Error: authentication failed: (reason unavailable)"),
        ("-tls --auth PLAIN -au nobody -ap secret", "535 5.7.8 Error: authentication failed: (reason unavailable)"),
    ] {
        let said = site.instance.shell(&format!("{swaks} {line}"));
        assert!(said.code != 0 && said.out.contains(expected), "{line}: {said:?}");
    }
    let line = "SASL PLAIN authentication failed: (reason unavailable), sasl_username=alice";
    assert!(site.instance.log().contains(line), "{}", site.instance.log());
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

#[test]
fn dovecot_decides() {
    if !there("dovecot") || !there("swaks") {
        return;
    }
    if !as_root() {
        eprintln!("skipped: Dovecot wants to be started by root");
        return;
    }
    let site = site(&[("smtpd_sasl_type", "dovecot".to_owned()), ("smtpd_sasl_path", "private/auth".to_owned())]);
    let Site { instance, submission, .. } = &site;
    let directory = instance.path().display().to_string();
    fs::create_dir_all(instance.path().join("queue/private")).unwrap();
    fs::set_permissions(instance.path().join("queue"), fs::Permissions::from_mode(0o755)).unwrap();
    instance.file("dovecot-users", "alice:{PLAIN}secret\n");
    instance.file(
        "dovecot.conf",
        &format!(
            "base_dir = {directory}/dovecot\nstate_dir = {directory}/dovecot\nlog_path = {directory}/dovecot.log\nprotocols =\n\
             ssl = no\nauth_mechanisms = plain login cram-md5 scram-sha-256\n\
             passdb {{\n  driver = passwd-file\n  args = {directory}/etc/dovecot-users\n}}\n\
             userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home=/nonexistent\n}}\n\
             service auth {{\n  unix_listener {directory}/queue/private/auth {{\n    mode = 0666\n  }}\n}}\n"
        ),
    );
    let start = || {
        let conf = instance.etc().join("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        let child = command.arg("-F").arg("-c").arg(conf).stdin(Stdio::null()).spawn().unwrap();
        instance.until("Dovecot's socket", || {
            std::os::unix::net::UnixStream::connect(instance.path().join("queue/private/auth")).is_ok()
        });
        Dovecot(child)
    };
    instance.start();
    let dovecot = start();
    let swaks = format!(
        "swaks --server {}:{} -tls --from a@test.example --to one@box.example --auth-user alice",
        submission.ip(),
        submission.port()
    );
    let mut expected = 0;
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        let said = instance.shell(&format!("{swaks} --auth {mechanism} --auth-password secret"));
        if said.code == 28 || said.err.contains("not available") {
            eprintln!("skipped: swaks lacks a module for {mechanism}: {}", said.err);
            continue;
        }
        assert_eq!(said.code, 0, "{mechanism}: {said:?}\n{}", instance.log());
        expected += 1;
        instance.until_mails("one", expected);
    }
    assert!(instance.log().contains("sasl_method=CRAM-MD5, sasl_username=alice") || expected < 3, "{}", instance.log());
    let said = instance.shell(&format!("{swaks} --auth PLAIN --auth-password wrong"));
    assert!(said.out.contains("535 5.7.8 Error: authentication failed: (reason unavailable)"), "{said:?}");
    // A server that is gone means "try again later", and one that is back is found without a restart.
    drop(dovecot);
    instance.until("Dovecot's end", || {
        std::os::unix::net::UnixStream::connect(instance.path().join("queue/private/auth")).is_err()
    });
    // Its processes end by themselves, some time after the first of them.
    let tried = || instance.shell(&format!("{swaks} --auth PLAIN --auth-password secret")).code;
    instance.until("a login that fails", || tried() != 0);
    assert!(instance.log().contains("SASL: Connect to Dovecot auth socket"), "{}", instance.log());
    let _dovecot = start();
    let said = instance.shell(&format!("{swaks} --auth PLAIN --auth-password secret"));
    assert_eq!(said.code, 0, "{said:?}\n{}", instance.log());
}

#[test]
fn certificates_are_renewed_by_a_reload() {
    if !there("openssl") {
        return;
    }
    let site = stored("scram-sha-256");
    let Site { instance, submissions, .. } = &site;
    let key = instance.etc().join("key.pem");
    let name = || {
        let said = instance.shell(&format!(
            "openssl s_client -connect {submissions} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
        ));
        said.out
    };
    assert!(name().contains("DNS:mx.test.example"), "{}", name());
    secret(&key, &made("new.test.example"));
    instance.reload();
    assert!(name().contains("DNS:new.test.example"), "{}", name());
    // One that cannot be used changes nothing, and the log says why.
    secret(&key, "no key at all\n");
    instance.reload();
    assert!(name().contains("DNS:new.test.example"), "{}", name());
    assert!(instance.log().contains("it has no private key"), "{}", instance.log());
}

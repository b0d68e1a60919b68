//! Real mail systems as next hops: Postfix with logins by Dovecot, Exim, Dovecot's submission server, a mailing list manager as
//! a command. What is not installed is skipped, and so is what only root can start.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::world::Authority;
use crate::harness::{Client, Instance, Sink, address, as_root};

/// A program that ends with the test: one that runs in the foreground, and what its file names.
struct Peer(Child, Option<PathBuf>);

fn end(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
}

impl Drop for Peer {
    fn drop(&mut self) {
        let file = self.1.as_ref().and_then(|path| fs::read_to_string(path).ok());
        if let Some(pid) = file.and_then(|text| text.trim().parse().ok()) {
            end(pid);
        }
        if let Ok(pid) = i32::try_from(self.0.id()) {
            end(pid);
            let _ = self.0.wait();
        }
    }
}

/// Where Debian packages were unpacked (`dpkg -x PACKAGE DIR`) that cannot be installed beside each other.
fn unpacked() -> Option<PathBuf> {
    std::env::var_os("YAMABIKO_PEERS").map(PathBuf::from)
}

/// Where a program is: installed or unpacked.
fn place(program: &str) -> PathBuf {
    let below = unpacked().map(|dir| dir.join(program.trim_start_matches('/')));
    let installed = PathBuf::from(program);
    if installed.exists() { installed } else { below.unwrap_or(installed) }
}

/// All of these are there, installed or unpacked; tells which is not.
fn there(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !place(program).exists());
    match missing {
        Some(program) => eprintln!("skipped: {program} is neither installed nor unpacked below YAMABIKO_PEERS"),
        None if !as_root() => eprintln!("skipped: these are started by root"),
        None => return true,
    }
    false
}

/// The number of the first user of an unpacked package.
const FIRST_USER: u32 = 64_900;

/// A command that sees unpacked packages as if they were installed, with these users, in a namespace of its own; what is
/// installed is run as it is.
fn as_installed(instance: &Instance, program: &str, users: &[&str]) -> Command {
    let Some(packages) = unpacked().filter(|_| !Path::new(program).exists()) else { return Command::new(program) };
    let extra = instance.path().join("extra");
    for name in ["etc", "spool", "lib/opensmtpd/empty"] {
        fs::create_dir_all(extra.join(name)).unwrap();
    }
    for (file, rest) in [("passwd", "::/nonexistent:/usr/sbin/nologin"), ("group", "")] {
        let mut text = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
        for (number, user) in users.iter().enumerate() {
            let id = FIRST_USER as usize + number;
            let middle = if file == "passwd" { format!("{id}:{id}{rest}") } else { format!("{id}:") };
            text.push_str(&format!("{user}:x:{middle}\n"));
        }
        fs::write(extra.join("etc").join(file), text).unwrap();
    }
    let (packages, extra) = (packages.display(), extra.display());
    let script = format!(
        "mount --make-rprivate / && mount -t overlay -o lowerdir={packages}/usr:/usr o /usr && \
         mount -t overlay -o lowerdir={extra}/etc:/etc o /etc && mount --bind {extra}/spool /var/spool && \
         mount --bind {extra}/lib /var/lib && exec \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, program]);
    command
}

/// A certificate and key for `peer.example`, and the authority that made it.
fn certificates(instance: &Instance) -> (String, String) {
    let authority = Authority::new();
    instance.file("ca.pem", &authority.pem());
    instance.file("peer.pem", &authority.certificate("peer.example"));
    let path = |name: &str| instance.etc().join(name).display().to_string();
    (path("ca.pem"), path("peer.pem"))
}

/// Mail goes to `peer`, and only if it can prove to be `peer.example`.
fn send_to(instance: &mut Instance, peer: SocketAddr, authority: &str) {
    instance.set("relayhost", &format!("[{}]:{}", peer.ip(), peer.port()));
    instance.set("smtp_tls_security_level", "secure");
    instance.set("smtp_tls_secure_cert_match", "peer.example");
    instance.set("smtp_tls_CAfile", authority);
    instance.set("smtp_tls_loglevel", "1");
}

/// A directory that somebody else may use.
fn directory(instance: &Instance, name: &str, user: &str) -> PathBuf {
    let path = instance.path().join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    if let Ok(Some(user)) = nix::unistd::User::from_name(user) {
        chown(&path, Some(user.uid.as_raw()), None).unwrap();
    }
    path
}

/// One message to a user who is there and one who is not, through a server that proved who it is.
fn one_taken_one_refused(instance: &Instance, refusal: &str) {
    let recipients = ["alice@peer.example", "nobody@peer.example"];
    let text = "Subject: x\n\n.dot\n".to_owned() + &"0123456789\n".repeat(3000);
    instance.client().mail("me@box.example", &recipients, &text).unwrap();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("<nobody@peer.example>") && notice.contains(refusal), "{notice}");
    instance.until_empty();
    let log = instance.log();
    assert!(log.contains("Verified TLS connection established to"), "{log}");
    let line = log.lines().find(|line| line.contains("to=<alice@peer.example>")).expect("a line for alice");
    assert!(line.contains("status=sent (250 "), "{line}");
}

const LOGIN: [&str; 5] = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"];

/// Dovecot as somebody who knows passwords, at `auth`; with `submission` as a server that takes mail for the `relay`.
fn dovecot(instance: &Instance, certificate: &str, submission: Option<(SocketAddr, SocketAddr)>) -> Peer {
    let directory = instance.path().display().to_string();
    instance.file("passwords", "taro:{PLAIN}himitsu:65534:65534::/nonexistent::\n");
    // A test of tokens fills it.
    instance.file("oauth2.conf", "introspection_url = http://127.0.0.1:1/\n");
    let server = submission.map_or(String::new(), |(listen, relay)| {
        format!(
            "submission_relay_host = {}\nsubmission_relay_port = {}\nsubmission_relay_trusted = no\nhostname = peer.example\n\
             service submission-login {{\n  chroot =\n  inet_listener submission {{\n    address = {}\n    port = {}\n  }}\n}}\n",
            relay.ip(),
            relay.port(),
            listen.ip(),
            listen.port()
        )
    });
    let protocols = if submission.is_some() { "submission" } else { "none" };
    instance.file(
        "dovecot.conf",
        &format!(
            "base_dir = {directory}/dovecot\nstate_dir = {directory}/dovecot\nlog_path = {directory}/dovecot.log\n\
             protocols = {protocols}\nssl = yes\nssl_cert = <{certificate}\nssl_key = <{certificate}\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmail_location = maildir:{directory}/dovecot/mail\n\
             auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 xoauth2 oauthbearer\n\
             passdb {{\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = {directory}/etc/oauth2.conf\n}}\n\
             passdb {{\n  driver = passwd-file\n  args = {directory}/etc/passwords\n}}\n\
             userdb {{\n  driver = passwd-file\n  args = {directory}/etc/passwords\n}}\n\
             service auth {{\n  unix_listener {directory}/auth {{\n    mode = 0666\n  }}\n}}\n\
             service stats {{\n  unix_listener stats-writer {{\n    mode = 0666\n  }}\n}}\n{server}"
        ),
    );
    let log = instance.path().join("dovecot.log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
    let conf = instance.etc().join("dovecot.conf");
    let child = Command::new("/usr/sbin/dovecot").arg("-F").arg("-c").arg(conf).stdin(Stdio::null()).spawn().unwrap();
    let peer = Peer(child, None);
    instance.until("Dovecot's socket", || UnixStream::connect(instance.path().join("auth")).is_ok());
    peer
}

/// A web server that knows one access token, taro's, for as long as the process lives.
fn issuer(token: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let first = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
            let good = first.starts_with(&format!("GET /?token={token} "));
            let body = if good { r#"{"active":true,"username":"taro"}"# } else { r#"{"active":false}"# };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    });
    address
}

/// Logs in by each mechanism in turn; `seen` says what shows that it was used.
fn each_mechanism(instance: &mut Instance, seen: impl Fn(&Instance, &str) -> bool) {
    instance.set("smtp_sasl_auth_enable", "yes");
    instance.set("smtp_sasl_password_maps", "static:taro:himitsu");
    instance.set("smtp_sasl_tls_security_options", "noanonymous");
    // Each message has a session of its own, so each logs in.
    instance.set("smtp_connection_cache_on_demand", "no");
    for mechanism in LOGIN {
        instance.set("smtp_sasl_mechanism_filter", mechanism);
        if instance.supervisor().is_some() {
            instance.reload()
        } else {
            instance.start()
        }
        instance.client().mail("me@box.example", &["alice@peer.example"], "Subject: x\n\ntext\n").unwrap();
        instance.until(mechanism, || seen(instance, mechanism));
    }
    instance.until_empty();
}

#[test]
fn postfix_takes_mail_after_each_kind_of_login() {
    if !there(&["/usr/sbin/postfix", "/usr/lib/postfix/sbin/master", "/usr/sbin/dovecot"]) {
        return;
    }
    let mut instance = Instance::new();
    let peer = SocketAddr::new(instance.smtp.ip(), address().port());
    let (authority, certificate) = certificates(&instance);
    let _dovecot = dovecot(&instance, &certificate, None);
    let etc = instance.etc().join("postfix");
    fs::create_dir(&etc).unwrap();
    directory(&instance, "postfix-queue", "root");
    directory(&instance, "postfix-data", "postfix");
    let dir = instance.path().display();
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {dir}/postfix-queue\ndata_directory = {dir}/postfix-data\n\
         maillog_file = {dir}/postfix.log\nmaillog_file_prefixes = {dir}\nmyhostname = peer.example\n\
         mydestination = peer.example\nlocal_recipient_maps = inline:{{alice=x}}\nlocal_transport = discard\n\
         alias_maps =\nalias_database =\nmynetworks = 192.0.2.1\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
         smtpd_tls_chain_files = {certificate}\nsmtpd_tls_security_level = encrypt\nsmtpd_sasl_auth_enable = yes\n\
         smtpd_sasl_type = dovecot\nsmtpd_sasl_path = {dir}/auth\nsmtpd_sasl_security_options = noanonymous\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
    );
    fs::write(etc.join("main.cf"), main).unwrap();
    let services = [
        "pickup unix n - n 60 1 pickup",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "tlsmgr unix - - n 1000? 1 tlsmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "discard unix - - n - - discard",
        "postlog unix-dgram n - n - 1 postlogd",
        "anvil unix - - n - 1 anvil",
        "proxymap unix - - n - - proxymap",
    ];
    fs::write(etc.join("master.cf"), format!("{peer} inet n - n - - smtpd\n{}\n", services.join("\n"))).unwrap();
    let mut postfix = Command::new("/usr/sbin/postfix");
    postfix.arg("-c").arg(&etc).arg("start-fg").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let pid_file = instance.path().join("postfix-queue/pid/master.pid");
    let _postfix = Peer(postfix.spawn().unwrap(), Some(pid_file));
    instance.until("Postfix's port", || TcpStream::connect(peer).is_ok());
    send_to(&mut instance, peer, &authority);
    let log = instance.path().join("postfix.log");
    each_mechanism(&mut instance, |_, mechanism| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains(&format!("sasl_method={mechanism}, sasl_username=taro"))
    });
    one_taken_one_refused(&instance, "550 5.1.1 <nobody@peer.example>");
    // A password that is wrong leaves mail waiting.
    instance.set("smtp_sasl_password_maps", "static:taro:wrong");
    instance.reload();
    instance.client().mail("me@box.example", &["alice@peer.example"], "Subject: x\n\ntext\n").unwrap();
    instance.until("the refusal", || instance.log().contains("status=deferred (SASL authentication failed; server"));
}

/// An instance that sends through Dovecot's submission server, which sends to the sink. `None`: there is no Dovecot.
fn before_dovecot_submission() -> Option<(Instance, Sink, Peer)> {
    if !there(&["/usr/sbin/dovecot", "/usr/lib/dovecot/submission-login"]) {
        return None;
    }
    let mut instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    let peer = SocketAddr::new(instance.smtp.ip(), address().port());
    let (authority, certificate) = certificates(&instance);
    let dovecot = dovecot(&instance, &certificate, Some((peer, instance.next_hop)));
    instance.until("Dovecot's port", || TcpStream::connect(peer).is_ok());
    send_to(&mut instance, peer, &authority);
    Some((instance, sink, dovecot))
}

#[test]
fn dovecot_submission_takes_mail_after_each_kind_of_login() {
    let Some((mut instance, sink, _dovecot)) = before_dovecot_submission() else { return };
    each_mechanism(&mut instance, |instance, mechanism| {
        let log = fs::read_to_string(instance.path().join("dovecot.log")).unwrap_or_default();
        log.contains(&format!("user=<taro>, method={mechanism}"))
    });
    assert_eq!(sink.taken().len(), LOGIN.len());
}

/// Access tokens: Dovecot asks a web server whose they are.
#[test]
fn dovecot_takes_mail_after_a_login_with_a_token() {
    let Some((mut instance, sink, _dovecot)) = before_dovecot_submission() else { return };
    let issuer = issuer("ya29.good");
    instance.file(
        "oauth2.conf",
        &format!(
            "introspection_url = http://{issuer}/?token=\nintrospection_mode = get\nusername_attribute = username\n\
             active_attribute = active\nactive_value = true\nforce_introspection = yes\ntimeout_msecs = 5000\n"
        ),
    );
    instance.set("smtp_sasl_auth_enable", "yes");
    instance.set("smtp_sasl_tls_security_options", "noanonymous");
    instance.set("smtp_connection_cache_on_demand", "no");
    for (mechanism, taken) in [("XOAUTH2", 1), ("OAUTHBEARER", 2)] {
        instance.set("smtp_sasl_mechanism_filter", mechanism);
        instance.set("smtp_sasl_password_maps", "static:taro:ya29.good");
        if taken == 1 {
            instance.start()
        } else {
            instance.reload()
        }
        instance.client().mail("me@box.example", &["alice@peer.example"], "Subject: x\n\ntext\n").unwrap();
        instance.until(mechanism, || {
            let log = fs::read_to_string(instance.path().join("dovecot.log")).unwrap_or_default();
            log.contains(&format!("user=<taro>, method={mechanism}")) && sink.taken().len() == taken
        });
    }
    instance.until_empty();
    // One that has expired: mail waits, and the reply is told.
    for mechanism in ["XOAUTH2", "OAUTHBEARER"] {
        instance.set("smtp_sasl_mechanism_filter", mechanism);
        instance.set("smtp_sasl_password_maps", "static:taro:ya29.expired");
        instance.reload();
        let to = format!("{}@peer.example", mechanism.to_lowercase());
        instance.client().mail("me@box.example", &[&to], "Subject: x\n\ntext\n").unwrap();
        instance.until("the refusal", || {
            let log = instance.log();
            let mut lines = log.lines().filter(|line| line.contains(&format!("to=<{to}>")));
            lines.any(|line| {
                line.contains("status=deferred (SASL authentication failed; server") && line.contains("535")
            })
        });
    }
    assert_eq!(sink.taken().len(), 2);
}

#[test]
fn exim_takes_mail_over_tls() {
    if !there(&["/usr/sbin/exim4"]) {
        return;
    }
    let mut instance = Instance::new();
    let peer = SocketAddr::new(instance.smtp.ip(), address().port());
    let (authority, certificate) = certificates(&instance);
    let spool = directory(&instance, "exim", "Debian-exim");
    if !Path::new("/usr/sbin/exim4").exists() {
        chown(&spool, Some(FIRST_USER), None).unwrap();
    }
    let spool = spool.display().to_string();
    let conf = instance.etc().join("exim.conf");
    instance.file(
        "exim.conf",
        &format!(
            "primary_hostname = peer.example\nspool_directory = {spool}\nlog_file_path = {spool}/%slog\n\
             pid_file_path = {spool}/pid\ndaemon_smtp_ports = {}\nlocal_interfaces = {}\ntls_advertise_hosts = *\n\
             tls_certificate = {certificate}\nchunking_advertise_hosts =\nacl_smtp_rcpt = rcpt\nacl_smtp_data = data\n\
             domainlist ours = peer.example\nbegin acl\nrcpt:\n  require message = encryption first\n          encrypted = *\n  \
             require message = Unknown user\n          local_parts = alice\n  accept domains = +ours\ndata:\n  accept\n\
             begin routers\nall:\n  driver = redirect\n  data = :blackhole:\n",
            peer.port(),
            peer.ip()
        ),
    );
    // What its key may be read by: root starts it and it reads the key as its own user.
    let mut exim = as_installed(&instance, "/usr/sbin/exim4", &["Debian-exim"]);
    exim.arg("-bdf").arg("-C").arg(&conf).stdin(Stdio::null());
    let _exim = Peer(exim.spawn().unwrap(), None);
    instance.until("Exim's port", || Client::connect(peer).is_ok());
    send_to(&mut instance, peer, &authority);
    instance.start();
    one_taken_one_refused(&instance, "550 Unknown user");
}

/// OpenSMTPD, over TLS where it can: the one of Debian 12 offers STARTTLS and fails in every handshake, with any client
/// (its keys lie in another process, by a way that OpenSSL 3 has no more). Mail goes in the clear then, after a while.
#[test]
fn opensmtpd_takes_mail() {
    if !there(&["/usr/sbin/smtpd", "/usr/libexec/opensmtpd/mail.maildir"]) {
        return;
    }
    let mut instance = Instance::new();
    let peer = SocketAddr::new(instance.smtp.ip(), address().port());
    let (authority, certificate) = certificates(&instance);
    fs::set_permissions(&certificate, fs::Permissions::from_mode(0o600)).unwrap();
    let boxes = directory(&instance, "boxes", "nobody").display().to_string();
    instance.file(
        "smtpd.conf",
        &format!(
            "pki peer.example cert \"{certificate}\"\npki peer.example key \"{certificate}\"\n\
             table users {{ \"alice\" = \"nobody\" }}\n\
             listen on {} port {} tls pki peer.example hostname peer.example\n\
             action \"keep\" maildir \"{boxes}/mail\" virtual <users>\n\
             match from any for rcpt-to \"alice@peer.example\" action \"keep\"\n",
            peer.ip(),
            peer.port()
        ),
    );
    let mut smtpd = as_installed(&instance, "/usr/sbin/smtpd", &["opensmtpd", "opensmtpq"]);
    smtpd.arg("-d").arg("-f").arg(instance.etc().join("smtpd.conf"));
    let _smtpd = Peer(smtpd.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), None);
    instance.until("OpenSMTPD's port", || Client::connect(peer).is_ok());
    send_to(&mut instance, peer, &authority);
    for (name, value) in [
        ("smtp_tls_security_level", "may"),
        ("minimal_backoff_time", "1s"),
        ("maximal_backoff_time", "2s"),
        ("queue_run_delay", "1s"),
    ] {
        instance.set(name, value);
    }
    instance.start();
    let text = "Subject: x\n\n.dot\n".to_owned() + &"0123456789\n".repeat(3000);
    instance.client().mail("me@box.example", &["alice@peer.example", "nobody@peer.example"], &text).unwrap();
    let notice = instance.until_mails("me", 1).remove(0);
    assert!(notice.contains("<nobody@peer.example>") && notice.contains("550 Invalid recipient"), "{notice}");
    instance.until_empty();
    let log = instance.log();
    let sent = log.lines().find(|line| line.contains("to=<alice@peer.example>") && line.contains("status=sent"));
    assert!(sent.is_some_and(|line| line.contains("Message accepted for delivery")), "{log}");
    let secured = log.contains("TLS connection established to");
    assert!(secured || log.contains("status=deferred (Cannot start TLS: handshake failure)"), "{log}");
}

/// mlmmj: mail for the list goes into a command under its user, and comes back by SMTP to each subscriber.
#[test]
fn a_mailing_list_is_a_command() {
    if !there(&["/usr/bin/mlmmj-receive", "/usr/bin/mlmmj-process"]) {
        return;
    }
    let mut instance = Instance::new();
    let list = directory(&instance, "list", "daemon");
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    for name in [
        "incoming",
        "queue",
        "queue/discarded",
        "archive",
        "text",
        "subconf",
        "unsubconf",
        "bounce",
        "control",
        "moderation",
        "subscribers.d",
        "digesters.d",
        "requeue",
        "nomailsubs.d",
    ] {
        fs::create_dir(list.join(name)).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(list.join(name), text).unwrap();
    write("control/listaddress", "people@list.example\n");
    write("control/relayhost", &format!("{}\n", instance.smtp.ip()));
    write("control/smtpport", &format!("{}\n", instance.smtp.port()));
    write("control/subonlypost", "");
    write("subscribers.d/b", "");
    write("subscribers.d/o", "one@box.example\n");
    write("subscribers.d/t", "two@box.example\n");
    write("index", "0\n");
    let all = Command::new("chown").arg("-R").arg("daemon").arg(&list).status().unwrap();
    assert!(all.success() && !daemon.uid.is_root());
    instance.services.push(format!(
        "mlmmj unix - n n - - pipe\n  flags=ORhu user=daemon argv={} -F -L {}",
        place("/usr/bin/mlmmj-receive").display(),
        list.display()
    ));
    instance.set("mlmmj_destination_recipient_limit", "1");
    instance.set("transport_maps", "inline:{ {list.example=mlmmj:} }");
    instance.set("relay_domains", "list.example");
    instance.start();
    instance
        .client()
        .mail(
            "one@box.example",
            &["people@list.example"],
            "From: one@box.example\nTo: people@list.example\nSubject: hello\n\neverybody\n",
        )
        .unwrap();
    for name in ["one", "two"] {
        let mail = instance.until_mails(name, 1).remove(0);
        assert!(mail.contains("\neverybody\n") && mail.contains("Return-Path: <people+bounces-1-"), "{mail}");
    }
    let log = instance.log();
    assert!(log.contains("relay=mlmmj") && log.contains("status=sent (delivered via mlmmj service)"), "{log}");
}

/// `chroot=` of pipe(8): the command sees nothing but what is below.
#[test]
fn a_command_sees_nothing_but_its_root() {
    if !there(&["/bin/sh", "/usr/bin/ldd"]) {
        return;
    }
    let mut instance = Instance::new();
    let root = directory(&instance, "cell", "root");
    let said = Command::new("/usr/bin/ldd").arg("/bin/sh").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    for file in libraries.chain(["/bin/sh".to_owned()]) {
        let copy = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&file, &copy).unwrap();
    }
    let out = root.join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o1777)).unwrap();
    instance.services.push(format!(
        "cell unix - n n - - pipe\n  flags=R user=daemon chroot={} directory=/out\n  \
         argv=/bin/sh -c {{while read -r line; do echo \"$$line\"; done > mail; for f in /*; do echo $$f; done > seen; \
         test ! -e /etc/passwd}}",
        root.display()
    ));
    instance.set("transport_maps", "inline:{ {cell.example=cell:} }");
    instance.set("relay_domains", "cell.example");
    instance.start();
    instance.client().mail("a@test.example", &["x@cell.example"], "Subject: x\n\ntext\n").unwrap();
    instance.until_empty();
    let log = instance.log();
    assert!(log.contains("status=sent (delivered via cell service)"), "{log}");
    assert!(fs::read_to_string(out.join("mail")).unwrap().contains("\ntext\n"));
    let seen = fs::read_to_string(out.join("seen")).unwrap();
    assert!(seen.contains("/out") && !seen.contains("/etc") && !seen.contains("/home"), "{seen}");
}

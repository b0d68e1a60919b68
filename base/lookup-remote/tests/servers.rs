//! The real servers of the distribution, each a private instance in a directory of its own: answers, quoting, refusal,
//! death and return. Skipped with a message where a server is not installed.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollster::block_on;
use yamabiko_lookup::{Found, Options, TableSet};

/// The first of these programs that is there.
fn program(candidates: &[&str]) -> Option<PathBuf> {
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: none of {candidates:?} is installed");
    }
    found
}

/// PostgreSQL's programs are in a directory for their version.
fn postgres(name: &str) -> Option<PathBuf> {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().collect();
    versions.sort_by_key(|entry| entry.file_name());
    versions.pop().map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn id(user: &str) -> Option<u32> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The command as a user; as ourselves where we are not root.
fn as_user(user: &str, program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A directory that belongs to `user`.
fn directory(user: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("tables").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        let id = id(user).unwrap();
        chown(directory.path(), Some(id), Some(id)).unwrap();
    }
    directory
}

/// A server, and the signal that ends it.
struct Running(Child, &'static str);

impl Running {
    /// Starts it; what it says goes to `server.log` in its directory, for [`wait_for`] to show.
    fn start(command: &mut Command, home: &Path, signal: &'static str) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(home.join("server.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap(), signal)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", self.1, &self.0.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.0.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A CA of our own, a certificate from it for `127.0.0.1`, and another CA that has nothing to do with it: `ca.pem`,
/// `server.pem`, `server.key`, `other.pem` in `home`, which `user` can read.
fn certificates(home: &Path, user: &str) {
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), rcgen::Issuer::new(params, key))
    };
    let ((ca, issuer), (other, _)) = (authority("Ours"), authority("Others"));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "database");
    let own = params.signed_by(&key, &issuer).unwrap().pem();
    for (name, text) in [("ca.pem", ca), ("other.pem", other), ("server.pem", own), ("server.key", key.serialize_pem())]
    {
        let path = home.join(name);
        std::fs::write(&path, text).unwrap();
        let mode = if name.ends_with("key") { 0o600 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        if is_root() {
            let id = id(user);
            chown(&path, id, id).unwrap();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks until there is no error any more; what the server said is shown where that does not happen.
fn wait_for(home: &Path, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !ready() {
        if Instant::now() > deadline {
            let said = std::fs::read_to_string(home.join("server.log")).unwrap_or_default();
            panic!("the server does not come up; it said:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Settings, key, and the answer or a part of the error.
type Case<'a> = (&'a str, &'a str, Result<Option<&'a str>, &'a str>);

struct Bench {
    set: TableSet,
    directory: tempfile::TempDir,
    said: Arc<Mutex<Vec<String>>>,
    count: std::cell::Cell<u32>,
}

impl Bench {
    fn new() -> Self {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = Arc::clone(&said);
        let set = TableSet::new(Options {
            notify: Arc::new(move |notice| hear.lock().unwrap().push(notice.text)),
            extension: Some(yamabiko_lookup_remote::extension(Arc::new(|_| None))),
            ..Options::default()
        });
        Self { set, directory: tempfile::tempdir().unwrap(), said, count: Default::default() }
    }

    fn open(&self, kind: &str, settings: &str) -> Arc<dyn yamabiko_lookup::Table> {
        self.count.set(self.count.get() + 1);
        let file = self.directory.path().join(format!("{}.cf", self.count.get()));
        std::fs::write(&file, settings).unwrap();
        self.set.open(&format!("proxy:{kind}:{}", file.display())).unwrap()
    }

    fn ask(&self, kind: &str, settings: &str, key: &str) -> Found {
        block_on(self.open(kind, settings).lookup(key))
    }

    /// Each case: settings besides `base`, key, and the answer or a part of the error.
    fn check(&self, kind: &str, base: &str, cases: &[Case<'_>]) {
        for (settings, key, expected) in cases {
            match (self.ask(kind, &format!("{base}\n{settings}\n"), key), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), *expected, "{kind} {settings} {key}"),
                (Err(error), Err(expected)) => {
                    assert!(error.why.contains(expected), "{kind} {settings} {key}: {error}")
                }
                (found, expected) => panic!("{kind} {settings} {key}: {found:?}, not {expected:?}"),
            }
        }
    }

    /// The answer is there, the server dies, the answer is an error, the server comes back, the answer is there.
    fn dies_and_returns(
        &self,
        kind: &str,
        settings: &str,
        key: &str,
        home: &Path,
        start: impl Fn() -> Running,
        running: Running,
    ) {
        let table = self.open(kind, settings);
        let before = block_on(table.lookup(key)).unwrap();
        assert!(before.is_some());
        drop(running);
        for _ in 0..3 {
            assert!(block_on(table.lookup(key)).is_err(), "{kind}: a dead server is trouble, not an answer");
        }
        let mut running = start();
        wait_for(home, || {
            // Somebody's outgoing connection may have had the port for a moment.
            if running.has_ended() {
                running = start();
            }
            block_on(table.lookup(key)).is_ok()
        });
        assert_eq!(block_on(table.lookup(key)).unwrap(), before);
        drop(running);
        let said = self.said.lock().unwrap().join("\n");
        assert!(!said.contains("hidden"), "a password in the log: {said}");
    }
}

const TABLES: &str = "
create table alias (address varchar(100), goto varchar(100), active int, n int);
insert into alias values ('a@x.test', 'one@y.test', 1, 3);
insert into alias values ('m@x.test', 'p@y.test', 1, null);
insert into alias values ('m@x.test', 'q@y.test', 1, null);
insert into alias values ('o''b@x.test', 'it', 1, null);
insert into alias values ('back\\slash@x.test', 'slash', 1, null);
insert into alias values ('off@x.test', 'none', 0, null);
insert into alias values ('山@x.test', '彦', 1, null);
";

/// What MySQL and PostgreSQL must both answer.
const CASES: &[Case<'_>] = &[
    ("query = SELECT goto FROM alias WHERE address='%s' AND active = '1'", "A@x.test", Ok(Some("one@y.test"))),
    ("query = SELECT goto FROM alias WHERE address='%s' AND active = '1'", "off@x.test", Ok(None)),
    ("query = SELECT goto FROM alias WHERE address='%s'", "m@x.test", Ok(Some("p@y.test,q@y.test"))),
    ("query = SELECT goto FROM alias WHERE address='%s'", "o'b@x.test", Ok(Some("it"))),
    ("query = SELECT goto FROM alias WHERE address='%s'", "back\\slash@x.test", Ok(Some("slash"))),
    ("query = SELECT goto FROM alias WHERE address='%s'", "x' OR '1'='1", Ok(None)),
    ("query = SELECT goto FROM alias WHERE address='%s'", "x\\' OR 1=1 -- ", Ok(None)),
    ("query = SELECT goto FROM alias WHERE address='%s'", "山@x.test", Ok(Some("彦"))),
    ("query = SELECT goto, n FROM alias WHERE address='%u@%d'", "a@x.test", Ok(Some("one@y.test,3"))),
    ("query = SELECT goto FROM alias WHERE address='%u@%d'", "a", Ok(None)),
    (
        "query = SELECT goto FROM alias WHERE address='%s'\nresult_format = smtp:[%d]",
        "a@x.test",
        Ok(Some("smtp:[y.test]")),
    ),
    ("query = SELECT goto FROM alias WHERE address='%s'\ndomain = other.test", "a@x.test", Ok(None)),
    (
        "query = SELECT goto FROM alias WHERE address='%s'\nexpansion_limit = 1",
        "m@x.test",
        Err("Expansion limit exceeded"),
    ),
    (
        "select_field = goto\ntable = alias\nwhere_field = address\nadditional_conditions = and active = 1",
        "a@x.test",
        Ok(Some("one@y.test")),
    ),
    ("query = SELECT nocolumn FROM alias", "k", Err("nocolumn")),
];

#[test]
fn mysql() {
    let Some(server) = program(&["/usr/sbin/mariadbd", "/usr/sbin/mysqld"]) else { return };
    let Some(install) = program(&["/usr/bin/mariadb-install-db", "/usr/bin/mysql_install_db"]) else { return };
    let home = directory("mysql");
    let (data, socket) = (home.path().join("data"), home.path().join("s.sock"));
    let made = as_user("mysql", &install)
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .status()
        .unwrap();
    assert!(made.success());
    let port = free_port();
    certificates(home.path(), "mysql");
    let file = |name: &str| home.path().join(name).display().to_string();
    let start = || {
        Running::start(
            as_user("mysql", &server)
                .arg("--no-defaults")
                .arg(format!("--ssl-ca={}", file("ca.pem")))
                .arg(format!("--ssl-cert={}", file("server.pem")))
                .arg(format!("--ssl-key={}", file("server.key")))
                .args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=8M", "--character-set-server=utf8mb4"])
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--socket={}", socket.display()))
                .arg(format!("--port={port}"))
                .arg(format!("--pid-file={}", home.path().join("pid").display())),
            home.path(),
            "TERM",
        )
    };
    let running = start();
    let client = || {
        let mut command = Command::new("mysql");
        command.args(["--no-defaults", "--default-character-set=utf8mb4", "-uroot", "-S"]).arg(&socket);
        command.stderr(Stdio::null());
        command
    };
    wait_for(home.path(), || {
        client().args(["-e", "select 1"]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    let text = format!(
        "create database d; use d; {}
         create user 'mail'@'%' identified by 'hidden'; grant select, execute on d.* to 'mail'@'%';
         create user 'mail'@'localhost' identified by 'hidden'; grant select, execute on d.* to 'mail'@'localhost';
         create user 'secure'@'%' identified by 'hidden' require ssl; grant select on d.* to 'secure'@'%';
         create user 'secure'@'localhost' identified by 'hidden' require ssl; grant select on d.* to 'secure'@'localhost';
         delimiter //
         create procedure find(in k varchar(100)) begin select goto from alias where address = k; end//
         create procedure twice(in k varchar(100)) begin select 1; select 2; end//
         create procedure nothing(in k varchar(100)) begin set @x = k; end//",
        TABLES.replace('\\', "\\\\")
    );
    let script = home.path().join("setup.sql");
    std::fs::write(&script, text).unwrap();
    assert!(client().stdin(std::fs::File::open(&script).unwrap()).status().unwrap().success());

    let bench = Bench::new();
    let user = "user = mail\npassword = hidden\ndbname = d";
    for host in [format!("hosts = inet:127.0.0.1:{port}"), format!("hosts = unix:{}", socket.display())] {
        bench.check("mysql", &format!("{host}\n{user}"), CASES);
    }
    let base = format!("hosts = 127.0.0.1:{port}\n{user}");
    bench.check(
        "mysql",
        &base,
        &[
            ("query = CALL find('%s')", "m@x.test", Ok(Some("p@y.test,q@y.test"))),
            ("query = CALL find('%s')", "no@x.test", Ok(None)),
            ("query = CALL twice('%s')", "k", Err("multiple result sets")),
            ("query = CALL nothing('%s')", "k", Err("no result set")),
            ("query = CALL nothing('%s')\nrequire_result_set = no", "k", Ok(None)),
        ],
    );
    let directory_of = |name: &str| hashed(home.path(), name);
    // Who must come encrypted does, to a server that our own CA vouches for; with another's it is trouble.
    let secure = format!(
        "hosts = 127.0.0.1:{port}\nuser = secure\npassword = hidden\ndbname = d\nquery = SELECT goto FROM alias WHERE address='%s'"
    );
    bench.check(
        "mysql",
        &secure,
        &[
            ("", "a@x.test", Err("Access denied")),
            (&format!("tls_CAfile = {}", file("ca.pem")), "a@x.test", Ok(Some("one@y.test"))),
            (&format!("tls_CAfile = {}\ntls_verify_cert = yes", file("ca.pem")), "a@x.test", Ok(Some("one@y.test"))),
            (&format!("tls_CAfile = {}\ntls_verify_cert = yes", file("other.pem")), "a@x.test", Err("certificate")),
            (
                &format!("tls_CApath = {}\ntls_verify_cert = yes", directory_of("ca.pem")),
                "a@x.test",
                Ok(Some("one@y.test")),
            ),
            (
                &format!("tls_CApath = {}\ntls_verify_cert = yes", directory_of("other.pem")),
                "a@x.test",
                Err("certificate"),
            ),
        ],
    );
    // A wrong password is trouble and is not shown; a dead server besides a living one does no harm.
    let query = "query = SELECT goto FROM alias WHERE address='%s'";
    let wrong = format!("hosts = 127.0.0.1:{port}\nuser = mail\npassword = hidden-wrong\ndbname = d\n{query}\n");
    assert!(bench.ask("mysql", &wrong, "a@x.test").unwrap_err().why.contains("Access denied"));
    let two = format!("hosts = 127.0.0.1:1 127.0.0.1:{port}\n{user}\n{query}\n");
    let table = bench.open("mysql", &two);
    for _ in 0..20 {
        assert_eq!(block_on(table.lookup("a@x.test")).unwrap().as_deref(), Some("one@y.test"));
    }
    // An options file gives what the settings do not.
    let options = bench.directory.path().join("my.cnf");
    std::fs::write(&options, "[client]\nuser = nobody\n[mail]\nuser = mail\npassword = hidden\n").unwrap();
    let from_file = format!(
        "hosts = 127.0.0.1:{port}\ndbname = d\noption_group = mail\noption_file = {}\n{query}\n",
        options.display()
    );
    assert_eq!(bench.ask("mysql", &from_file, "a@x.test").unwrap().as_deref(), Some("one@y.test"));
    // The server's own way to write strings.
    assert!(client().args(["-e", "set global sql_mode = 'NO_BACKSLASH_ESCAPES'"]).status().unwrap().success());
    bench.check("mysql", &base, CASES);
    bench.dies_and_returns("mysql", &format!("{base}\n{query}\n"), "a@x.test", home.path(), start, running);
}

#[test]
fn pgsql() {
    let (Some(initdb), Some(server)) = (postgres("initdb"), postgres("postgres")) else {
        eprintln!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let home = directory("postgres");
    let data = home.path().join("data");
    let password = home.path().join("pw");
    std::fs::write(&password, "hidden\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let made = as_user("postgres", &initdb)
        .args(["--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-A", "scram-sha-256", "-U", "mail"])
        .arg(format!("--pwfile={}", password.display()))
        .arg("-D")
        .arg(&data)
        .status()
        .unwrap();
    assert!(made.success());
    let port = free_port();
    certificates(home.path(), "postgres");
    let file = |name: &str| home.path().join(name).display().to_string();
    // Asked politely (TERM), it waits for its clients, and the table keeps its connection: INT means now, in good order.
    let start = || {
        Running::start(
            as_user("postgres", &server)
                .arg("-D")
                .arg(&data)
                .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
                .args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", file("server.pem"))])
                .args(["-c", &format!("ssl_key_file={}", file("server.key"))])
                .arg("-c")
                .arg(format!("unix_socket_directories={}", home.path().display())),
            home.path(),
            "INT",
        )
    };
    let running = start();
    let client = || {
        let mut command = Command::new("psql");
        command.env("PGPASSWORD", "hidden").args(["-q", "-v", "ON_ERROR_STOP=1", "-U", "mail", "-d", "postgres", "-p"]);
        command.arg(port.to_string()).arg("-h").arg(home.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    wait_for(home.path(), || client().args(["-c", "select 1"]).status().is_ok_and(|status| status.success()));
    let text = format!(
        "{TABLES}
         create function find(k text) returns setof text as 'select goto::text from alias where address = k' language sql;"
    );
    assert!(client().args(["-c", &text]).status().unwrap().success());

    let bench = Bench::new();
    let user = "user = mail\npassword = hidden\ndbname = postgres";
    for host in [
        format!("hosts = inet:127.0.0.1:{port}"),
        format!("hosts = unix:{}/.s.PGSQL.{port}", home.path().display()),
        format!("hosts = postgresql://mail:hidden@127.0.0.1:{port}/postgres?sslmode=prefer"),
    ] {
        bench.check("pgsql", &format!("{host}\n{user}"), CASES);
    }
    let base = format!("hosts = 127.0.0.1:{port}\n{user}");
    bench.check(
        "pgsql",
        &base,
        &[
            ("select_function = find", "m@x.test", Ok(Some("p@y.test,q@y.test"))),
            ("query = SELECT * FROM find('%s')", "a@x.test", Ok(Some("one@y.test"))),
        ],
    );
    let query = "query = SELECT goto FROM alias WHERE address='%s'";
    let of_ssl = "query = SELECT CASE WHEN ssl THEN goto ELSE 'in the clear' END FROM alias, pg_stat_ssl \
                  WHERE pid = pg_backend_pid() AND address='%s'";
    let uri = |more: &str| format!("hosts = postgresql://mail:hidden@127.0.0.1:{port}/postgres?{more}\n{of_ssl}");
    let full = |name: &str| uri(&format!("sslmode=verify-full&sslrootcert={}", file(name)));
    for (settings, expected) in [
        (uri("sslmode=disable"), Ok("in the clear")),
        (uri("sslmode=require"), Ok("one@y.test")),
        (full("ca.pem"), Ok("one@y.test")),
        (full("other.pem"), Err("certificate")),
    ] {
        match (bench.ask("pgsql", &format!("{settings}\n"), "a@x.test"), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), Some(expected), "{settings}"),
            (Err(error), Err(expected)) => assert!(error.why.contains(expected), "{settings}: {error}"),
            (found, expected) => panic!("{settings}: {found:?}, not {expected:?}"),
        }
    }
    let wrong = format!("hosts = 127.0.0.1:{port}\nuser = mail\npassword = hidden-wrong\ndbname = postgres\n{query}\n");
    assert!(bench.ask("pgsql", &wrong, "a@x.test").unwrap_err().why.contains("password authentication failed"));
    assert!(client().args(["-c", "alter user mail set standard_conforming_strings = off"]).status().unwrap().success());
    bench.check("pgsql", &base, CASES);
    bench.dies_and_returns("pgsql", &format!("{base}\n{query}\n"), "a@x.test", home.path(), start, running);
}

/// A directory of authorities, as OpenSSL has them.
fn hashed(home: &Path, certificate: &str) -> String {
    let directory = home.join(format!("{certificate}.d"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(home.join(certificate), directory.join("0a1b2c3d.0")).unwrap();
    std::fs::write(directory.join("README"), "no certificate").unwrap();
    directory.display().to_string()
}

#[test]
fn ldap() {
    let Some(server) = program(&["/usr/sbin/slapd"]) else { return };
    let Some(add) = program(&["/usr/sbin/slapadd"]) else { return };
    if !Path::new("/etc/ldap/schema/inetorgperson.schema").exists()
        && !Path::new("/etc/ldap/schema/core.schema").exists()
    {
        eprintln!("SKIPPED: slapd's schemas are not there");
        return;
    }
    let home = directory("openldap");
    certificates(home.path(), "openldap");
    let configuration = |name: &str, suffix: &str, password: &str, access: &str| {
        let file = home.path().join(format!("{name}.conf"));
        let data = home.path().join(format!("{name}.data"));
        std::fs::create_dir(&data).unwrap();
        if is_root() {
            let id = id("openldap").unwrap();
            chown(&data, Some(id), Some(id)).unwrap();
        }
        let text = format!(
            "modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\n\
             attributetype ( 1.3.6.1.4.1.99999.1.1 NAME 'maildrop' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )\n\
             attributetype ( 1.3.6.1.4.1.99999.1.2 NAME 'memberdn' EQUALITY distinguishedNameMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.12 )\n\
             attributetype ( 1.3.6.1.4.1.99999.1.3 NAME 'memberurl' EQUALITY caseExactMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )\n\
             objectclass ( 1.3.6.1.4.1.99999.2.1 NAME 'mailthing' SUP top AUXILIARY MAY ( maildrop $ memberdn $ memberurl $ mail ) )\n\
             TLSCACertificateFile {home}/ca.pem\nTLSCertificateFile {home}/server.pem\nTLSCertificateKeyFile {home}/server.key\n\
             database mdb\nmaxsize 10485760\nsuffix {suffix}\nrootdn cn=admin,{suffix}\nrootpw {password}\n\
             directory {}\naccess to * {access}\n",
            data.display(),
            home = home.path().display()
        );
        std::fs::write(&file, text).unwrap();
        file
    };
    let fill = |configuration: &Path, ldif: &str| {
        let file = home.path().join("data.ldif");
        std::fs::write(&file, ldif).unwrap();
        let mut add = as_user("openldap", &add);
        assert!(add.arg("-q").arg("-f").arg(configuration).arg("-l").arg(&file).status().unwrap().success());
    };
    let (port, second) = (free_port(), free_port());
    let entry = |cn: &str, more: &str| {
        format!("dn: cn={cn},dc=x,dc=test\nobjectClass: person\nobjectClass: mailthing\ncn: {cn}\nsn: s\n{more}\n")
    };
    let referral = |ou: &str, refs: &str| {
        format!("dn: ou={ou},dc=x,dc=test\nobjectClass: referral\nobjectClass: extensibleObject\nou: {ou}\n{refs}\n")
    };
    let ldif = [
        "dn: dc=x,dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: x\no: x\n\n".to_owned(),
        entry("a", "mail: a@x.test\nmaildrop: one@y.test\n"),
        entry("m", "mail: m@x.test\nmaildrop: p@y.test\nmaildrop: q@y.test\n"),
        entry("star", "mail: *@x.test\nmaildrop: star\n"),
        entry("group", "mail: group@x.test\nmemberdn: cn=a,dc=x,dc=test\nmemberdn: cn=m,dc=x,dc=test\nmemberdn: cn=gone,dc=x,dc=test\n"),
        entry("ends", "mail: ends@x.test\nmaildrop: there@h.test\nmemberdn: cn=a,dc=x,dc=test\n"),
        entry("loop", "mail: loop@x.test\nmemberdn: cn=loop,dc=x,dc=test\n"),
        referral("far", "ref: ldap://far.test/ou=far,dc=x,dc=test\n"),
        referral("near", &format!("ref: ldap://127.0.0.1:{second}/dc=z,dc=test\n")),
        referral("either", &format!("ref: ldap://127.0.0.1:1/dc=z,dc=test\nref: ldap://127.0.0.1:{second}/dc=z,dc=test\n")),
        referral("round", &format!("ref: ldap://127.0.0.1:{port}/ou=round,dc=x,dc=test\n")),
        entry("urls", "mail: urls@x.test\nmemberurl: ldap:///dc=x,dc=test??sub?(cn=m)\n"),
    ]
    .join("\n");
    let first = configuration("first", "dc=x,dc=test", "hidden", "by users read by anonymous auth");
    fill(&first, &ldif);
    let there = configuration("second", "dc=z,dc=test", "another", "by * read");
    let ldif = "dn: dc=z,dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: z\no: z\n\n\
                dn: cn=t,dc=z,dc=test\nobjectClass: person\nobjectClass: mailthing\ncn: t\nsn: s\n\
                mail: only-there@x.test\nmaildrop: there@z.test\n";
    fill(&there, ldif);
    let other = home.path().join("ldapi");
    let socket = other.display().to_string().replace('/', "%2F");
    let wrapped = free_port();
    let urls = format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{wrapped}/ ldapi://{socket}/");
    let start = || {
        Running::start(
            as_user("openldap", &server).arg("-f").arg(&first).args(["-d", "0", "-h", &urls]),
            home.path(),
            "TERM",
        )
    };
    let running = start();
    let elsewhere = Running::start(
        as_user("openldap", &server).arg("-f").arg(&there).args([
            "-d",
            "0",
            "-h",
            &format!("ldap://127.0.0.1:{second}/"),
        ]),
        home.path(),
        "TERM",
    );
    wait_for(home.path(), || std::net::TcpStream::connect(("127.0.0.1", second)).is_ok());
    wait_for(home.path(), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let bench = Bench::new();
    let user =
        "bind_dn = cn=admin,dc=x,dc=test\nbind_pw = hidden\nsearch_base = dc=x,dc=test\nquery_filter = (mail=%s)";
    let groups = "special_result_attribute = memberdn, memberurl";
    for host in [
        format!("server_host = ldap://127.0.0.1:{port}"),
        format!("server_host = 127.0.0.1\nserver_port = {port}"),
        format!("server_host = ldapi://{socket}"),
        format!("server_host = ldap://127.0.0.1:1 ldap://127.0.0.1:{port}"),
    ] {
        bench.check(
            "ldap",
            &format!("{host}\n{user}"),
            &[
                ("", "A@x.test", Ok(Some("one@y.test"))),
                ("", "m@x.test", Ok(Some("p@y.test,q@y.test"))),
                ("", "none@x.test", Ok(None)),
                ("", "*@x.test", Ok(Some("star"))),
                ("", "a@x.test)(cn=*", Ok(None)),
                ("result_format = <%u>", "a@x.test", Ok(Some("<one>"))),
                ("domain = y.test", "a@x.test", Ok(None)),
                ("expansion_limit = 1\nsize_limit = 0", "m@x.test", Err("Expansion limit exceeded")),
                ("query_filter = (objectclass=*)\nsize_limit = 2", "k", Err("size_limit")),
                ("search_base = cn=%u,dc=%2,dc=%1\nscope = base", "a@x.test", Ok(Some("one@y.test"))),
                ("search_base = cn=%u,dc=%2,dc=%1\nscope = base", "none@x.test", Ok(None)),
                ("search_base = dc=none,dc=test", "a@x.test", Err("not found")),
                ("result_attribute = sn", "a@x.test", Ok(Some("s"))),
            ],
        );
        let leaves = format!("{groups}\nresult_attribute =\nleaf_result_attribute = mail");
        let ends =
            format!("{groups}\nresult_attribute =\nterminal_result_attribute = maildrop\nleaf_result_attribute = mail");
        bench.check(
            "ldap",
            &format!("{host}\n{user}"),
            &[
                (groups, "group@x.test", Ok(Some("one@y.test,p@y.test,q@y.test"))),
                (groups, "urls@x.test", Ok(Some("p@y.test,q@y.test"))),
                (&leaves, "group@x.test", Ok(Some("a@x.test,m@x.test"))),
                (&ends, "ends@x.test", Ok(Some("there@h.test"))),
                (&format!("{groups}\nrecursion_limit = 20"), "loop@x.test", Err("Recursion limit exceeded")),
            ],
        );
    }
    let base = format!("server_host = ldap://127.0.0.1:{port}\n{user}");
    // Encrypted, from the beginning or on the way, with a CA of our own.
    let file = |name: &str| home.path().join(name).display().to_string();
    for host in [
        format!("server_host = ldaps://127.0.0.1:{wrapped}"),
        format!("server_host = ldap://127.0.0.1:{port}\nstart_tls = yes"),
    ] {
        bench.check(
            "ldap",
            &format!("{host}\n{user}"),
            &[
                (
                    &format!("tls_require_cert = yes\ntls_ca_cert_file = {}", file("ca.pem")),
                    "a@x.test",
                    Ok(Some("one@y.test")),
                ),
                (
                    &format!("tls_require_cert = yes\ntls_ca_cert_file = {}", file("other.pem")),
                    "a@x.test",
                    Err("certificate"),
                ),
            ],
        );
    }
    for (name, expected) in [("ca.pem", Ok(Some("one@y.test"))), ("other.pem", Err("certificate"))] {
        let directory = hashed(home.path(), name);
        let host = format!("server_host = ldaps://127.0.0.1:{wrapped}\n{user}\ntls_require_cert = yes");
        bench.check("ldap", &host, &[(&format!("tls_ca_cert_dir = {}", directory), "a@x.test", expected)]);
    }
    // Parts of the tree that are elsewhere: left out, or, where referrals are to be followed, asked for there; where that
    // cannot be, trouble that says where.
    let chase = "chase_referrals = 1";
    let part = |ou: &str| format!("search_base = ou={ou},dc=x,dc=test");
    bench.check(
        "ldap",
        &base,
        &[
            (&part("near"), "a@x.test", Err("chase_referrals is not set")),
            ("", "only-there@x.test", Ok(None)),
            // The whole tree has continuation references, one of them to a server that is not there.
            (chase, "a@x.test", Err("ldap://far.test/ou=far,dc=x,dc=test")),
            (&format!("{}\n{chase}", part("far")), "a@x.test", Err("ldap://far.test/ou=far,dc=x,dc=test")),
            // Nobody's password is shown to a server that is not ours: it answers what it answers to anybody.
            (&format!("{}\n{chase}", part("near")), "only-there@x.test", Ok(Some("there@z.test"))),
            (&format!("{}\n{chase}", part("near")), "a@x.test", Ok(None)),
            // The first server that is named for the same part is not there, the second is.
            (&format!("{}\n{chase}", part("either")), "only-there@x.test", Ok(Some("there@z.test"))),
            // Round and round.
            (&format!("{}\n{chase}", part("round")), "a@x.test", Err("more than 5 referrals")),
        ],
    );
    // The other server has another password; with ours it would have been refused.
    let named = format!("server_host = ldap://127.0.0.1:{port} ldap://127.0.0.1:{second}\n{user}");
    bench.check("ldap", &named, &[(&format!("{}\n{chase}", part("near")), "only-there@x.test", Err("Unable to bind"))]);
    drop(elsewhere);
    // Who does not bind may not look; a wrong password is trouble.
    let none = format!("{base}\nbind = no\n");
    assert!(!matches!(bench.ask("ldap", &none, "a@x.test"), Ok(Some(_))));
    let wrong = base.replace("hidden", "hidden-wrong") + "\n";
    assert!(bench.ask("ldap", &wrong, "a@x.test").unwrap_err().why.contains("Unable to bind: 49"));
    bench.dies_and_returns("ldap", &format!("{base}\n"), "a@x.test", home.path(), start, running);
}

#[test]
fn memcache() {
    let Some(server) = program(&["/usr/bin/memcached"]) else { return };
    let home = directory("memcache");
    let (port, socket) = (free_port(), home.path().join("mc"));
    let start = || {
        Running::start(
            as_user("memcache", &server).args(["-l", "127.0.0.1", "-p", &port.to_string()]),
            home.path(),
            "TERM",
        )
    };
    let running = start();
    let on_socket = Running::start(as_user("memcache", &server).arg("-s").arg(&socket), home.path(), "TERM");
    wait_for(home.path(), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && socket.exists());
    let bench = Bench::new();
    let backup = "backup = inline:{{ a@x.test = behind the cache }}";
    for host in [format!("memcache = inet:127.0.0.1:{port}"), format!("memcache = unix:{}", socket.display())] {
        bench.check(
            "memcache",
            &format!("{host}\nkey_format = t:%s"),
            &[
                ("", "a@x.test", Ok(None)),
                (backup, "a@x.test", Ok(Some("behind the cache"))),
                // Now it is in the cache.
                ("", "a@x.test", Ok(Some("behind the cache"))),
                ("backup = fail:x", "a@x.test", Ok(Some("behind the cache"))),
                ("backup = fail:x", "other", Err("")),
                ("data_size_limit = 3", "a@x.test", Err("data_size_limit")),
                ("key_format = other:%s", "a@x.test", Ok(None)),
                ("key_format = t:%u@%d", "a", Ok(None)),
                ("domain = y.test", "a@x.test", Ok(None)),
                ("", "with blank", Ok(None)),
            ],
        );
    }
    drop(on_socket);
    drop(running);
    // Dead: without a table behind it trouble, with one its answer.
    let base = format!("memcache = inet:127.0.0.1:{port}\nretry_pause = 1");
    bench.check(
        "memcache",
        &base,
        &[("", "a@x.test", Err("no server can be used")), (backup, "a@x.test", Ok(Some("behind the cache")))],
    );
    let table = bench.open("memcache", &format!("{base}\n"));
    assert!(block_on(table.lookup("k")).is_err());
    let _running = start();
    wait_for(home.path(), || block_on(table.lookup("k")).is_ok());
    assert_eq!(block_on(table.lookup("k")).unwrap(), None);
}

//! Whole runs of postconf on files of a private directory: a table of commands and what they print.

use std::path::Path;

use super::*;

const MAIN: &str = "\
# leading comment
compatibility_level = 3.6
relayhost = [relay.test]
mynetworks = 127.0.0.0/8,
    10.0.0.0/8
# trailing comment
own = 1
smtpd_client_restrictions = $own  permit
extra = $nowhere
";

const MASTER: &str = "\
# services
smtp      inet  n       -       n       -       -       smtpd
submission inet n - n - - smtpd
  -o smtpd_tls_auth_only=yes
  # inner
  -o { smtpd_client_restrictions = permit_sasl_authenticated, reject }
slow unix - - n 60? 3 smtp -v -o odd=2
";

struct Run {
    code: u8,
    out: String,
    messages: String,
}

fn run_in(directory: &Path, args: &[&str]) -> Run {
    let host = Host { hostname: "mx.example".into(), ..Host::default() };
    let program = Program {
        name: "postconf",
        environment_directory: Some(directory.to_string_lossy().into_owned()),
        host: &host,
        embedded: None,
    };
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let code = program.main(&args, &mut out, &mut messages);
    let directory = directory.to_string_lossy().into_owned();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(&directory, "DIR");
    Run { code, out: text(out), messages: text(messages) }
}

fn directory(main: &str, master: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("main.cf"), main).unwrap();
    std::fs::write(directory.path().join("master.cf"), master).unwrap();
    directory
}

#[test]
fn reports() {
    let directory = directory(MAIN, MASTER);
    let master_unused = "postconf: warning: DIR/master.cf: unused parameter: odd=2\n";
    let undefined = "postconf: warning: DIR/main.cf: undefined parameter: nowhere\n";
    let unused = format!("postconf: warning: DIR/main.cf: unused parameter: extra=$nowhere\n{master_unused}");
    let main_messages = format!("{undefined}{unused}");
    let master_messages = format!("{undefined}{master_unused}");
    let submission = "submission inet  n       -       n       -       -       smtpd";
    for (args, out, messages) in [
        (
            &["-n"][..],
            "compatibility_level = 3.6\nconfig_directory = DIR\nmynetworks = 127.0.0.0/8, 10.0.0.0/8\nown = 1\n\
             relayhost = [relay.test]\nsmtpd_client_restrictions = $own permit\n"
                .to_string(),
            &main_messages,
        ),
        (&["-C", "user"], "own = 1\n".into(), &main_messages),
        (&["-h", "relayhost", "biff"], "[relay.test]\nyes\n".into(), &main_messages),
        (&["-H", "relayhost"], "relayhost\n".into(), &main_messages),
        (
            &["-x", "smtpd_client_restrictions", "myorigin"],
            "smtpd_client_restrictions = 1 permit\nmyorigin = mx.example\n".into(),
            &main_messages,
        ),
        (&["-d", "relayhost", "queue_run_delay"], "relayhost =\nqueue_run_delay = 300s\n".into(), &String::new()),
        (&["-o", "relayhost=other", "-n", "relayhost"], "relayhost = other\n".into(), &main_messages),
        (&["slow_recipient_limit"], "slow_recipient_limit = $default_recipient_limit\n".into(), &main_messages),
        (&["nosuch"], String::new(), &format!("{undefined}postconf: warning: nosuch: unknown parameter\n{unused}")),
        (
            &["-M", "submission"],
            format!(
                "{submission} -o smtpd_tls_auth_only=yes -o {{smtpd_client_restrictions=permit_sasl_authenticated, reject}}\n"
            ),
            &master_messages,
        ),
        (
            &["-Mf", "submission/inet"],
            format!(
                "{submission}\n    -o smtpd_tls_auth_only=yes\n    -o {{smtpd_client_restrictions=permit_sasl_authenticated, reject}}\n"
            ),
            &master_messages,
        ),
        (
            &["-P"],
            "submission/inet/smtpd_client_restrictions = permit_sasl_authenticated, reject\n\
             submission/inet/smtpd_tls_auth_only = yes\nslow/unix/odd = 2\n"
                .into(),
            &master_messages,
        ),
        (
            &["-F", "slow/*/wakeup", "smtp/inet/chroot"],
            "smtp/inet/chroot = n\nslow/unix/wakeup = 60?\n".into(),
            &master_messages,
        ),
        (&["-Fh", "slow/unix/command"], "smtp -v -o odd=2\n".into(), &master_messages),
        (
            &["-M", "none/unix"],
            String::new(),
            &format!("{undefined}postconf: warning: unmatched request: \"none/unix\"\n{master_unused}"),
        ),
        (&["-l"], "flock\nfcntl\ndotlock\n".into(), &String::new()),
        (&["-T", "compile-version"], format!("{}\n", yamabiko_tls::LIBRARY), &String::new()),
        (&["-T", "run-version"], format!("{}\n", yamabiko_tls::LIBRARY), &String::new()),
        (&["-T", "public-key-algorithms"], "ec\ned25519\nrsa\n".into(), &String::new()),
    ] {
        let run = run_in(directory.path(), args);
        assert_eq!((run.code, &run.out, &run.messages), (0, &out, messages), "{args:?}");
    }
}

#[test]
fn refusals() {
    let directory = directory(MAIN, MASTER);
    for (args, expected) in [
        (&["-dn"][..], "specify one of -d -n"),
        (&["-hH"], "specify one of -h -H"),
        (&["-MP"], "specify one of -M -P"),
        (&["-Mn"], "with option -M, do not specify -n"),
        (&["-lx"], "with option -l, do not specify -x"),
        (&["-C", "foo"], "unknown -C option value \"foo\" in \"foo\""),
        (&["-o", "relayhost", "biff"], "invalid parameter override: relayhost: missing '=' after attribute name"),
        (&["-M", "a/b/c"], "-M option requires service_name[/type]"),
        (&["-F", "smtp/inet/colour"], "invalid service attribute name: \"colour\""),
        (&["-e"], "-e requires name=value argument"),
        (&["-e", "relayhost"], "missing '=' after attribute name: \"relayhost\""),
        (&["-e", "#a=b"], "-e, -X, or -# accepts no comment input"),
        (&["-e", "a=b\nc=d"], "-e, -X, or -# accepts no multi-line input"),
        (&["-Me", "x=y"], "-Me, -MX or -M# requires service_name/type"),
        (&["-M#", "smtp"], "-Me, -MX or -M# requires service_name/type"),
        (&["-F", "smtp/inet/chroot=q"], "invalid chroot field \"q\" in \"q\""),
        (&["-Pe", "smtp/inet/a=b c"], "-Pe does not accept whitespace in parameter value"),
    ] {
        let run = run_in(directory.path(), args);
        let fatal = run.messages.lines().find(|line| line.contains("fatal")).unwrap_or("");
        assert_eq!((run.code, fatal), (1, format!("postconf: fatal: {expected}").as_str()), "{args:?}");
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("main.cf")).unwrap(), MAIN);
    assert_eq!(std::fs::read_to_string(directory.path().join("master.cf")).unwrap(), MASTER);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside the files");
}

#[test]
fn a_file_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let run = run_in(directory.path(), &["relayhost"]);
    assert!(
        run.messages.ends_with("postconf: fatal: open DIR/main.cf: No such file or directory\n"),
        "{}",
        run.messages
    );
    assert_eq!(run.code, 1);
}

/// Each edit starts from the same small files.
#[test]
fn edits_of_main_cf() {
    let main = "# top\na = 1\nb = 2\n  3\n# mid\n\nc=4";
    for (args, expected) in [
        (&["-e", "b = x  y"][..], "# top\na = 1\nb = x  y\n# mid\n\nc=4\n"),
        (&["a="], "# top\na = \nb = 2\n  3\n# mid\n\nc=4\n"),
        (&["-e", "new=5", "c=6"], "# top\na = 1\nb = 2\n  3\n# mid\n\nc = 6\nnew = 5\n"),
        (&["-#", "b"], "# top\na = 1\n#b = 2\n#  3\n# mid\n\nc=4"),
        (&["-X", "b", "c", "nosuch"], "# top\na = 1\n# mid\n\n"),
        (&["-X", "nosuch"], main),
    ] {
        let directory = directory(main, "");
        let run = run_in(directory.path(), args);
        assert_eq!((run.code, run.messages.as_str()), (0, ""), "{args:?}");
        assert_eq!(std::fs::read_to_string(directory.path().join("main.cf")).unwrap(), expected, "{args:?}");
    }
}

#[test]
fn edits_of_master_cf() {
    let smtp = "smtp      inet  n       -       n       -       -       smtpd\n";
    let slow = "slow unix - - n 60? 3 smtp -v\n  # inner\n  -o odd=2\n";
    let master = format!("# top\n{smtp}{slow}");
    let column = "slow       unix  -       -       n       60?     3       smtp";
    for (args, expected) in [
        (&["-MX", "smtp/inet"][..], format!("# top\n{slow}")),
        (&["-M#", "slow/unix"], format!("# top\n{smtp}#slow unix - - n 60? 3 smtp -v\n  # inner\n#  -o odd=2\n")),
        (&["-Pe", "slow/unix/odd=3"], format!("# top\n{smtp}  # inner\n{column} -v\n    -o odd=3\n")),
        (&["-Pe", "slow/unix/new=3"], format!("# top\n{smtp}  # inner\n{column} -v\n    -o odd=2\n    -o new=3\n")),
        (&["-PX", "slow/unix/odd"], format!("# top\n{smtp}  # inner\n{column} -v\n")),
        (
            &["-F", "slow/unix/command=lmtp -o a=b"],
            format!(
                "# top\n{smtp}  # inner\nslow       unix  -       -       n       60?     3       lmtp\n    -o a=b\n"
            ),
        ),
        (
            &["-F", "slow/unix/chroot=y"],
            format!(
                "# top\n{smtp}  # inner\nslow       unix  -       -       y       60?     3       smtp -v\n    -o odd=2\n"
            ),
        ),
        (
            &["-F", "smtp/inet/process_limit=5"],
            format!("# top\nsmtp       inet  n       -       n       -       5       smtpd\n{slow}"),
        ),
        (
            &["-Me", "new/unix=new unix - - n - 1 smtp -o a=b -o {c=d e}"],
            format!(
                "# top\n{smtp}{slow}new        unix  -       -       n       -       1       smtp\n    -o a=b\n    -o {{c=d e}}\n"
            ),
        ),
    ] {
        let directory = directory("", &master);
        let run = run_in(directory.path(), args);
        assert_eq!((run.code, run.messages.as_str()), (0, ""), "{args:?}");
        assert_eq!(std::fs::read_to_string(directory.path().join("master.cf")).unwrap(), expected, "{args:?}");
    }
}

#[test]
fn an_edit_keeps_permissions_and_bytes_that_are_no_text() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory("", "");
    let path = directory.path().join("main.cf");
    std::fs::write(&path, b"caf\xe9 = 1\na = 2\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(run_in(directory.path(), &["-e", "a=3"]).code, 0);
    assert_eq!(std::fs::read(&path).unwrap(), b"caf\xe9 = 1\na = 3\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn templates_of_notices() {
    let directory = directory("myhostname = mx.example\n", "");
    let built_in = run_in(directory.path(), &["-t"]);
    assert_eq!((built_in.code, built_in.messages.as_str()), (0, ""));
    assert!(built_in.out.starts_with("failure_template = <<EOF\n"), "{}", built_in.out);
    let filled = run_in(directory.path(), &["-b"]);
    assert_eq!(filled.code, 0);
    assert!(
        filled.out.contains("mx.example") && filled.out.starts_with("expanded_failure_text = <<EOF\n"),
        "{}",
        filled.out
    );
    let missing = run_in(directory.path(), &["-b", "/no/such/file"]);
    assert_eq!(
        (missing.code, missing.messages.as_str()),
        (1, "postconf: fatal: open /no/such/file: No such file or directory\n")
    );
    let file = directory.path().join("templates");
    std::fs::write(&file, "failure_template = <<EOF\nFrom: me\nSubject: no\n\nSorry from $myhostname.\nEOF\n").unwrap();
    let own = run_in(directory.path(), &["-b", file.to_str().unwrap_or_default()]);
    assert!(own.out.contains("Sorry from mx.example."), "{}{}", own.out, own.messages);
    assert_eq!(own.code, 0);
    // Whoever tries a file out before it is used hears of its faults, and so does a script.
    for (word, said) in [("$no_such_name", "undefined $no_such_name in failure template"), ("${", "bad $name syntax")] {
        let text = format!("failure_template = <<EOF\nFrom: me\nSubject: no\n\nSorry {word}.\nEOF\n");
        std::fs::write(&file, text).unwrap();
        let own = run_in(directory.path(), &["-b", file.to_str().unwrap_or_default()]);
        assert_eq!(own.code, 1, "{word}");
        assert!(own.messages.contains(said), "{}", own.messages);
    }
}

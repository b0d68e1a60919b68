//! postlog(1) by its program: a tag is what a line begins with, and nothing of ours stands before it.

use std::process::Command;

#[test]
fn tags() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let settings = format!(
        "compatibility_level = 3.6\nsyslog_name = mx1\nmaillog_file = {}\nmaillog_file_prefixes = {}\n",
        log.display(),
        dir.path().display()
    );
    std::fs::write(dir.path().join("main.cf"), settings).unwrap();
    std::fs::write(dir.path().join("master.cf"), "").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["text"], "mx1/postlog[PID]: text"),
        (&["-t", "backup", "text"], "backup[PID]: text"),
        (&["-t", "site/backup", "-p", "warn", "two", "words"], "site/backup[PID]: warning: two words"),
        (&["-p", "error", "-t", "x", "text"], "x[PID]: error: text"),
        (&["-t", "x\nNov 23 00:00:00 mx forged", "text"], "x?Nov 23 00:00:00 mx forged[PID]: text"),
    ];
    for (arguments, expected) in cases {
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_yamabiko"));
        let program = command.args(["postlog", "-c"]).arg(dir.path()).args(*arguments).spawn().unwrap();
        let pid = program.id();
        assert!(program.wait_with_output().unwrap().status.success(), "{arguments:?}");
        let line = std::fs::read_to_string(&log).unwrap();
        let expected = expected.replace("PID", &pid.to_string());
        assert!(line.ends_with(&format!(" {expected}\n")), "{line:?}, not {expected:?}");
    }
}

//! Commands whose output nobody reads (`| head`): what they do they do to the end, and none of them panics.

use std::process::{Command, Stdio};

#[test]
fn nobody_reads_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let links = dir.path().join("bin");
    std::fs::create_dir(&links).unwrap();
    let links = links.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["--help"],
        &["--version"],
        &["install", "--bindir", links],
        &["postconf", "-d"],
        &["postconf", "-b"],
        &["limits", "--help"],
        &["limits", "profiles"],
        &["analyze", "--help"],
    ];
    for command in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let program = Command::new(env!("CARGO_BIN_EXE_yamabiko"))
            .args(*command)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&program.stderr);
        assert!(
            program.status.code().is_some_and(|code| code != 101) && !said.contains("panicked"),
            "{command:?}: {said}"
        );
    }
    let made = std::fs::read_dir(links).unwrap().count();
    assert!(made > 10, "{made} commands were installed");
}

//! Running a command with the message on its standard input: `|command`, `mailbox_command`, pipe(8).

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use yamabiko_status::EnhancedStatus;

use super::words;
use crate::job::Done;

/// A command and what it wants.
pub(super) struct Spec<'a> {
    pub command: &'a str,
    pub shell: &'a str,
    pub argv: &'a [String],
    pub environment: &'a [(String, String)],
    pub directory: &'a str,
    pub time_limit_s: u64,
    pub eol: &'a str,
}

/// How much of a command's output is kept for log and notice, bytes (Postfix: 10240 in `pipe_command`).
const OUTPUT: usize = 10 << 10;

/// Characters that mean something to the shell; a command without them is run directly (Postfix: `exec_command`).
const SHELL_CHARACTERS: &[char] = &[
    '\'', '"', '|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '*', '?', '[', ']', '{', '}', '~', '#', '=', '%',
    '!', '^', '\n',
];
/// Words of the shell itself.
const SHELL_WORDS: [&str; 11] = ["exit", "set", "export", "exec", "eval", "trap", "cd", "umask", "if", "while", "for"];

/// Runs it and says what came of it.
pub(super) fn run(spec: &Spec<'_>, prepend: &[u8], message: &mut impl Read) -> Done {
    let shown = if spec.argv.is_empty() { spec.command } else { &spec.argv[0] };
    let mut child = match start(spec) {
        Ok(child) => child,
        Err(error) => {
            // What cannot be executed is reported as the shell would: status 127 or 126 is a permanent failure for
            // sendmail and so for Postfix, but our own trouble (no more processes) is not.
            let status = if error.kind() == ErrorKind::NotFound { "5.3.5" } else { "4.3.0" };
            return Done::Failed {
                status: status.to_owned(),
                reason: format!("cannot execute {shown}: {}", words(&error)),
            };
        }
    };
    let deadline = Instant::now() + Duration::from_secs(spec.time_limit_s.max(1));
    let mut feeding = Feeding::new(spec.eol, prepend);
    let talked = feeding.talk(&mut child, message, deadline);
    let status = match talked {
        Ok(()) => wait(&mut child, deadline),
        Err(error) => Err(error),
    };
    let output = printable(&feeding.output);
    match status {
        Ok(status) => verdict(shown, status, &output),
        Err(error) => {
            stop(&mut child);
            let reason = if error.kind() == ErrorKind::TimedOut {
                return Done::Failed {
                    status: "5.3.0".to_owned(),
                    reason: with_output(format!("Command time limit exceeded: \"{shown}\""), &output),
                };
            } else {
                format!("cannot talk to command \"{shown}\": {}", words(&error))
            };
            Done::Failed { status: "4.3.0".to_owned(), reason }
        }
    }
}

fn start(spec: &Spec<'_>) -> io::Result<Child> {
    let simple = spec.shell.is_empty()
        && !spec.command.contains(SHELL_CHARACTERS)
        && !spec.command.split_ascii_whitespace().next().is_none_or(|first| SHELL_WORDS.contains(&first));
    let mut command = if let Some((program, arguments)) = spec.argv.split_first() {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    } else if simple {
        let mut parts = spec.command.split_ascii_whitespace();
        let mut command = Command::new(parts.next().unwrap_or("/bin/false"));
        command.args(parts);
        command
    } else if spec.shell.is_empty() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", spec.command]);
        command
    } else {
        let mut parts = spec.shell.split_ascii_whitespace();
        let mut command = Command::new(parts.next().unwrap_or("/bin/sh"));
        command.args(parts).arg(spec.command);
        command
    };
    command.env_clear().envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if !spec.directory.is_empty() {
        command.current_dir(spec.directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn()
}

/// Feeds the message and collects the output, neither waiting for the other.
struct Feeding<'a> {
    eol: &'a str,
    pending: Vec<u8>,
    at: usize,
    ended: bool,
    output: Vec<u8>,
}

impl<'a> Feeding<'a> {
    fn new(eol: &'a str, prepend: &[u8]) -> Self {
        let mut feeding = Self { eol, pending: Vec::new(), at: 0, ended: false, output: Vec::new() };
        feeding.push(prepend);
        feeding
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.eol == "\n" || self.eol.is_empty() {
            self.pending.extend_from_slice(bytes);
            return;
        }
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(line) => {
                    self.pending.extend_from_slice(line);
                    self.pending.extend_from_slice(self.eol.as_bytes());
                }
                None => self.pending.extend_from_slice(piece),
            }
        }
    }

    fn talk(&mut self, child: &mut Child, message: &mut impl Read, deadline: Instant) -> io::Result<()> {
        let mut stdin = child.stdin.take();
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let pipes =
            [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        for fd in pipes.into_iter().flatten() {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let mut buffer = vec![0; 1 << 15];
        while stdin.is_some() || stdout.is_some() || stderr.is_some() {
            if self.at == self.pending.len() && !self.ended && stdin.is_some() {
                self.pending.clear();
                self.at = 0;
                match message.read(&mut buffer)? {
                    0 => self.ended = true,
                    n => self.push(&buffer[..n]),
                }
            }
            if self.at == self.pending.len() && self.ended {
                // End of the message: the command sees end of file.
                stdin = None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut fds = Vec::with_capacity(3);
            fds.extend(stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
            fds.extend(stdout.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(stderr.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            if fds.is_empty() {
                break;
            }
            let timeout =
                PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::from(1000u16));
            if let Err(errno) = poll(&mut fds, timeout)
                && errno != nix::errno::Errno::EINTR
            {
                return Err(errno.into());
            }
            if let Some(pipe) = &mut stdin {
                match pipe.write(&self.pending[self.at..]) {
                    Ok(n) => self.at += n,
                    // The command has read enough: its exit status decides, not the broken pipe.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => stdin = None,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(error) => return Err(error),
                }
            }
            collect(&mut stdout, &mut self.output, &mut buffer)?;
            collect(&mut stderr, &mut self.output, &mut buffer)?;
        }
        Ok(())
    }
}

fn collect<R: Read>(pipe: &mut Option<R>, output: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    match open.read(buffer) {
        Ok(0) => *pipe = None,
        Ok(n) => output.extend_from_slice(&buffer[..n.min(OUTPUT.saturating_sub(output.len()))]),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stop(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// One line, nothing that a log could not take.
fn printable(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let clean: String = text
        .trim_end()
        .chars()
        .map(|c| {
            if c == '\n' || c == '\t' {
                ' '
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect();
    clean
}

fn with_output(reason: String, output: &str) -> String {
    if output.is_empty() { reason } else { format!("{reason}. Command output: {output}") }
}

/// sysexits(3) as sendmail and Postfix read them: code, enhanced status, text.
const EXITS: [(i32, &str, &str); 15] = [
    (64, "5.3.0", "command line usage error"),
    (65, "5.6.0", "data format error"),
    (66, "5.3.0", "cannot open input"),
    (67, "5.1.1", "user unknown"),
    (68, "5.1.2", "host name unknown"),
    (69, "5.3.0", "service unavailable"),
    (70, "5.3.0", "internal software error"),
    (71, "4.3.0", "system resource problem"),
    (72, "5.3.0", "critical OS file missing"),
    (73, "5.2.0", "can't create user output file"),
    (74, "5.3.0", "input/output error"),
    (75, "4.3.0", "temporary failure"),
    (76, "5.5.0", "remote error in protocol"),
    (77, "5.7.0", "permission denied"),
    (78, "5.3.5", "local configuration error"),
];

/// Enhanced status and text of a sysexits code.
pub fn exit_status(code: i32) -> Option<(&'static str, &'static str)> {
    EXITS.iter().find(|(number, _, _)| *number == code).map(|(_, status, text)| (*status, *text))
}

fn verdict(shown: &str, status: ExitStatus, output: &str) -> Done {
    if status.success() {
        return Done::Delivered(output.to_owned());
    }
    if let Some(signal) = status.signal() {
        let reason = format!("Command died with signal {signal}: \"{shown}\"");
        return Done::Failed { status: "4.3.0".to_owned(), reason: with_output(reason, output) };
    }
    let code = status.code().unwrap_or(-1);
    // Output that begins with an enhanced status code says better what happened than the exit status.
    if let Some((said, rest)) = EnhancedStatus::split(output)
        && said.class != yamabiko_status::Class::Success
    {
        let reason = if rest.is_empty() { output } else { rest };
        return Done::Failed { status: said.to_string(), reason: reason.to_owned() };
    }
    match exit_status(code) {
        Some((status, text)) => {
            let reason = if output.is_empty() { text.to_owned() } else { with_output(text.to_owned(), output) };
            Done::Failed { status: status.to_owned(), reason }
        }
        None => {
            let reason = format!("Command died with status {code}: \"{shown}\"");
            Done::Failed { status: "5.3.0".to_owned(), reason: with_output(reason, output) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(command: &str, message: &[u8], limit: u64) -> Done {
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let spec = Spec {
            command,
            shell: "",
            argv: &[],
            environment: &environment,
            directory: "",
            time_limit_s: limit,
            eol: "\n",
        };
        run(&spec, b"X: y\n", &mut &*message)
    }

    #[test]
    fn exits_become_statuses() {
        let failed = |status: &str, reason: &str| Done::Failed { status: status.into(), reason: reason.into() };
        for (command, expected) in [
            ("exit 0", Done::Delivered(String::new())),
            ("cat >/dev/null; echo done", Done::Delivered("done".into())),
            ("exit 67", failed("5.1.1", "user unknown")),
            ("exit 75", failed("4.3.0", "temporary failure")),
            ("echo full; exit 73", failed("5.2.0", "can't create user output file. Command output: full")),
            ("echo 4.2.2 box is full; exit 69", failed("4.2.2", "box is full")),
            ("exit 100", failed("5.3.0", "Command died with status 100: \"exit 100\"")),
            ("kill -9 $$", failed("4.3.0", "Command died with signal 9: \"kill -9 $$\"")),
        ] {
            assert_eq!(sh(command, b"body\n", 20), expected, "{command}");
        }
        assert!(matches!(sh("/does/not/exist", b"", 9), Done::Failed { ref status, .. } if status == "5.3.5"));
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_one_that_does_not_read_is_no_trouble() {
        assert!(
            matches!(sh("sleep 60; true", b"x\n", 1), Done::Failed { ref reason, .. } if reason.starts_with("Command time limit exceeded"))
        );
        assert_eq!(sh("true", &vec![b'x'; 1 << 20], 20), Done::Delivered(String::new()));
        assert_eq!(
            sh("cat; true", &vec![b'x'; 1 << 20], 20),
            Done::Delivered(format!("X: y {}", "x".repeat(OUTPUT - 5)))
        );
    }
}

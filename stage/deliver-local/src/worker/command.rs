//! Running a command with the message on its standard input: `|command`, `mailbox_command`, pipe(8).

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{exits, output, words};
use crate::job::{Done, Exits, Form};

/// A command and what it wants.
pub(super) struct Spec<'a> {
    pub command: &'a str,
    pub shell: &'a str,
    pub argv: &'a [String],
    pub environment: &'a [(String, String)],
    pub directory: &'a str,
    pub time_limit_s: u64,
    pub form: &'a Form,
    pub exits: Exits,
    pub agent: &'a str,
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
        // As Postfix has it: a program that is not there, or not there yet, is no reason to return mail.
        Err(why) => {
            let said = format!("{}: fatal: {why} ", spec.agent);
            let reason = format!("temporary failure. Command output: {said}");
            return Done::Failed { status: "4.3.0".to_owned(), reason, diagnostic: Some(said) };
        }
    };
    let deadline = Instant::now() + Duration::from_secs(spec.time_limit_s.max(1));
    let mut feeding = Feeding::new(spec.form, prepend);
    let talked = feeding.talk(&mut child, message, deadline);
    let status = match talked {
        Ok(()) => wait(&mut child, deadline),
        Err(error) => Err(error),
    };
    let output = output::printable(&feeding.output);
    match status {
        Ok(status) => match spec.exits {
            Exits::Sysexits => exits::sysexits(shown, status, &output),
            Exits::Qmail => exits::qmail(shown, status, &output),
        },
        Err(error) => {
            stop(&mut child);
            if error.kind() == ErrorKind::TimedOut {
                return exits::timed_out(shown, spec.exits, &output);
            }
            Done::failed("4.3.0", format!("cannot talk to command \"{shown}\": {}", words(&error)))
        }
    }
}

/// Starts it, in a process group of its own. The error says what was tried.
fn start(spec: &Spec<'_>) -> Result<Child, String> {
    if !spec.directory.is_empty() {
        use nix::unistd::{AccessFlags, access, getegid, geteuid};
        let there = std::fs::read_dir(spec.directory).map(drop).or_else(|error| {
            // A directory may be entered without being readable.
            if error.kind() == ErrorKind::PermissionDenied {
                Ok(access(spec.directory, AccessFlags::X_OK)?)
            } else {
                Err(error)
            }
        });
        there.map_err(|error| {
            let (uid, gid) = (geteuid(), getegid());
            format!("cannot change directory to \"{}\" for uid={uid} gid={gid}: {}", spec.directory, words(&error))
        })?;
    }
    let execute = |mut command: Command| {
        command.env_clear().envs(spec.environment.iter().map(|(name, value)| (name, value)));
        if !spec.directory.is_empty() {
            command.current_dir(spec.directory);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        yamabiko_sys::daemon::give_all_signals(&mut command);
        // qmail-local's programs are ended by a broken pipe.
        if matches!(spec.exits, Exits::Sysexits) {
            yamabiko_sys::daemon::writes_may_fail(&mut command);
        }
        command.spawn()
    };
    let of_words = |words: &[&str]| {
        let mut command = Command::new(words.first().copied().unwrap_or("/bin/false"));
        command.args(words.get(1..).unwrap_or_default());
        command
    };
    let shell = || {
        let mut command = of_words(&["/bin/sh", "-c", spec.command]);
        command.arg0("sh");
        command
    };
    let failed = |program: &str, error: io::Error| format!("execvp {program}: {}", words(&error));
    if let Some(program) = spec.argv.first() {
        let words: Vec<&str> = spec.argv.iter().map(String::as_str).collect();
        return execute(of_words(&words)).map_err(|error| format!("pipe_command: {}", failed(program, error)));
    }
    if !spec.shell.is_empty() {
        let words: Vec<&str> = spec.shell.split_ascii_whitespace().chain([spec.command]).collect();
        return execute(of_words(&words)).map_err(|error| failed(words[0], error));
    }
    let words: Vec<&str> = spec.command.split_ascii_whitespace().collect();
    let program = words.first().copied().unwrap_or_default();
    if program.is_empty() || spec.command.contains(SHELL_CHARACTERS) || SHELL_WORDS.contains(&program) {
        return execute(shell()).map_err(|error| failed("/bin/sh", error));
    }
    match execute(of_words(&words)) {
        // The shell says it better, and may know it as a word of its own.
        Err(error) if error.kind() == ErrorKind::NotFound && !program.contains('/') => {
            execute(shell()).map_err(|error| failed("/bin/sh", error))
        }
        other => other.map_err(|error| failed(program, error)),
    }
}

/// Feeds the message and collects the output, neither waiting for the other.
struct Feeding<'a> {
    form: &'a Form,
    pending: Vec<u8>,
    at: usize,
    ended: bool,
    /// The next byte of the message begins a line.
    line_start: bool,
    /// A line's first bytes, as long as they may still become `From `.
    held: Vec<u8>,
    output: Vec<u8>,
}

const FROM: &[u8] = b"From ";

impl<'a> Feeding<'a> {
    fn new(form: &'a Form, prepend: &[u8]) -> Self {
        let (pending, held, output) = (Vec::new(), Vec::new(), Vec::new());
        let mut feeding = Self { form, pending, at: 0, ended: false, line_start: true, held, output };
        feeding.push(prepend);
        feeding
    }

    /// Bytes of ours or of the message with the line ends that are wanted.
    fn push(&mut self, bytes: &[u8]) {
        if self.form.eol == "\n" || self.form.eol.is_empty() {
            self.pending.extend_from_slice(bytes);
            return;
        }
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(line) => {
                    self.pending.extend_from_slice(line);
                    self.pending.extend_from_slice(self.form.eol.as_bytes());
                }
                None => self.pending.extend_from_slice(piece),
            }
        }
    }

    /// Bytes of the message, with what its lines need before them.
    fn message(&mut self, bytes: &[u8]) {
        if !self.form.dot && !self.form.from {
            return self.push(bytes);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        for piece in all.split_inclusive(|b| *b == b'\n') {
            if self.line_start {
                if piece.len() < FROM.len() && FROM.starts_with(piece) {
                    self.held = piece.to_vec();
                    return;
                }
                if self.form.from && piece.starts_with(FROM) {
                    self.pending.push(b'>');
                }
                if self.form.dot && piece.starts_with(b".") {
                    self.pending.push(b'.');
                }
            }
            self.push(piece);
            self.line_start = piece.ends_with(b"\n");
        }
    }

    fn end(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.push(&held);
        if self.form.blank {
            self.push(b"\n");
        }
        self.ended = true;
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
                    0 => self.end(),
                    n => self.message(&buffer[..n]),
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
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn stop(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_as(command: &str, message: &[u8], limit: u64, form: &Form, exits: Exits) -> Done {
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let (shell, argv, directory, agent) = ("", &[][..], "", "local");
        let spec = Spec {
            command,
            shell,
            argv,
            environment: &environment,
            directory,
            time_limit_s: limit,
            form,
            exits,
            agent,
        };
        run(&spec, b"X: y\n", &mut &*message)
    }

    fn sh(command: &str, message: &[u8], limit: u64) -> Done {
        run_as(command, message, limit, &Form::default(), Exits::Sysexits)
    }

    fn failed(status: &str, reason: &str, diagnostic: &str) -> Done {
        Done::Failed { status: status.into(), reason: reason.into(), diagnostic: Some(diagnostic.into()) }
    }

    #[test]
    fn exits_become_statuses() {
        let not_there = "local: fatal: execvp /does/not/exist: No such file or directory ";
        for (command, expected) in [
            ("exit 0", Done::Delivered(String::new())),
            ("cat >/dev/null; echo done", Done::Delivered("done".into())),
            ("exit 67", failed("5.1.1", "user unknown", "user unknown")),
            ("exit 75", failed("4.3.0", "temporary failure", "temporary failure")),
            ("echo full; exit 73", failed("5.2.0", "can't create user output file. Command output: full ", "full")),
            ("echo 4.2.2 box is full; exit 69", failed("4.2.2", "box is full ", "box is full")),
            (
                "exit 100",
                failed("5.3.0", "Command died with status 100: \"exit 100\"", "unknown mail system error 100"),
            ),
            ("kill -9 $$", failed("4.3.0", "Command died with signal 9: \"kill -9 $$\"", "internal software error")),
            ("/does/not/exist", failed("4.3.0", &format!("temporary failure. Command output: {not_there}"), not_there)),
        ] {
            assert_eq!(sh(command, b"body\n", 20), expected, "{command}");
        }
        assert!(matches!(sh("no-such-program", b"", 9), Done::Failed { ref reason, .. } if reason.starts_with(
            "Command died with status 127: \"no-such-program\". Command output: ")));
    }

    /// The worker has the signals blocked that the supervisor waits for, and a mask is inherited.
    #[test]
    fn a_command_gets_signals_that_are_blocked_here() {
        use nix::sys::signal::SigSet;
        // As a worker does when it starts: whoever runs the tests may ignore signals (`nohup`, a job in the background).
        yamabiko_sys::daemon::default_signals();
        for (name, signal) in [("TERM", Signal::SIGTERM), ("INT", Signal::SIGINT), ("HUP", Signal::SIGHUP)] {
            let command = format!("kill -{name} $$");
            let mut set = SigSet::empty();
            set.add(signal);
            let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).unwrap();
            let done = sh(&command, b"body\n", 20);
            before.thread_set_mask().unwrap();
            let reason = format!("Command died with signal {}: \"{command}\"", signal as i32);
            assert_eq!(done, failed("4.3.0", &reason, "internal software error"), "{name}");
        }
    }

    /// Postfix's agents ignore SIGPIPE and SIGXFSZ, and what they start does so too; qmail-local's programs have the default.
    #[test]
    fn a_broken_pipe_ends_programs_of_qmail_only() {
        for (exits, mask, expected) in [(Exits::Sysexits, 0x1001000, 0x1001000), (Exits::Qmail, 0x1000, 0)] {
            let ignored = "$((0x$(grep SigIgn /proc/self/status | cut -f 2)";
            let command = format!("test {ignored} & {mask})) = {expected}");
            let done = run_as(&command, b"", 20, &Form::default(), exits);
            assert_eq!(done, Done::Delivered(String::new()), "{command}");
        }
    }

    #[test]
    fn exits_as_qmail_reads_them() {
        let plain = |status: &str, reason: &str| failed(status, reason, reason);
        for (command, expected) in [
            ("exit 0", Done::Delivered(String::new())),
            ("echo x; exit 99", Done::Enough("x".into())),
            ("echo no mail please; exit 100", plain("5.3.0", "no mail please")),
            ("echo 'Go away. (#5.7.1)'; exit 100", plain("5.7.1", "Go away. (#5.7.1)")),
            ("echo 'Go away. (#4.7.1)'; exit 100", plain("5.3.0", "Go away. (#4.7.1)")),
            ("echo busy; exit 111", plain("4.3.0", "busy")),
            ("echo odd; exit 67", plain("4.3.0", "odd")),
            ("echo odd; exit 64", plain("5.3.0", "odd")),
            ("echo odd; exit 112", plain("5.3.0", "odd")),
        ] {
            assert_eq!(run_as(command, b"body\n", 20, &Form::default(), Exits::Qmail), expected, "{command}");
        }
        for (command, status) in [("exit 100", "5.3.0"), ("exit 1", "4.3.0"), ("kill -9 $$", "4.3.0")] {
            let done = run_as(command, b"", 20, &Form::default(), Exits::Qmail);
            assert!(
                matches!(done, Done::Failed { status: ref s, ref reason, .. } if s == status && !reason.is_empty())
            );
        }
    }

    #[test]
    fn forms_of_a_message() {
        let text = b"a\n.b\nFrom c\n>From d\nFromage\n..\nFro";
        for (form, expected) in [
            (Form::default(), &b"X: y\na\n.b\nFrom c\n>From d\nFromage\n..\nFro"[..]),
            (
                Form { eol: "\r\n".into(), blank: true, ..Form::default() },
                b"X: y\r\na\r\n.b\r\nFrom c\r\n>From d\r\nFromage\r\n..\r\nFro\r\n",
            ),
            (Form { dot: true, from: true, ..Form::default() }, b"X: y\na\n..b\n>From c\n>From d\nFromage\n...\nFro"),
        ] {
            for chunk in 1..9 {
                let mut feeding = Feeding::new(&form, b"X: y\n");
                text.chunks(chunk).for_each(|piece| feeding.message(piece));
                feeding.end();
                assert_eq!(feeding.pending, expected, "{form:?} by {chunk}");
            }
        }
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

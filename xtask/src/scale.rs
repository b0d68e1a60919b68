//! `cargo xtask scale`: what a long queue costs, measured on a real mail system in a folder of its own.
//!
//! Builds the release binary, fills a queue (`stage/queue/examples/fill.rs`), starts the mail system on it and takes the
//! time of what an operator does. Everything is checked as it is measured: a listing must have as many messages as the
//! queue, a deletion must leave none.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take.
const START: Duration = Duration::from_secs(120);

struct Options {
    messages: u64,
    bytes: u64,
    destinations: u64,
    dir: PathBuf,
    keep: bool,
    build: bool,
}

fn options(args: &[&str]) -> Result<Options, String> {
    let dir = std::env::temp_dir().join(format!("yamabiko-scale-{}", std::process::id()));
    let mut options = Options { messages: 100_000, bytes: 4096, destinations: 1000, dir, keep: false, build: true };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: a value is missing"));
        let number = |text: &&str| text.parse::<u64>().map_err(|_| format!("{arg}: {text} is not a number"));
        match *arg {
            "--messages" => options.messages = number(value()?)?.max(1),
            "--bytes" => options.bytes = number(value()?)?,
            "--destinations" => options.destinations = number(value()?)?.max(1),
            "--dir" => options.dir = PathBuf::from(value()?).join("scale"),
            "--keep" => options.keep = true,
            "--no-build" => options.build = false,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

/// Runs it.
pub fn run(args: &[&str]) -> ExitCode {
    let options = match options(args) {
        Ok(options) => options,
        Err(why) => {
            eprintln!(
                "scale: {why}\nusage: cargo xtask scale [--messages N] [--bytes N] [--destinations N] [--dir DIR] [--keep] \
                 [--no-build]"
            );
            return ExitCode::from(2);
        }
    };
    let result = measure(&options);
    if !options.keep {
        // A leftover in the folder for temporary files is all that can come of it.
        let _ = fs::remove_dir_all(&options.dir);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scale: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), String> {
    let target = PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join("release");
    if options.build {
        succeed(Command::new("cargo").args(["build", "--release", "-p", "yamabiko"]))?;
        succeed(Command::new("cargo").args(["build", "--release", "-p", "yamabiko-queue", "--example", "fill"]))?;
    }
    let target = target.canonicalize().map_err(|error| format!("{}: {error}", target.display()))?;
    let system = System::make(options, &target)?;
    let n = options.messages;
    println!("{n} messages of {} bytes for {} destinations", options.bytes, options.destinations);
    // Empty, for comparison; and so that the directories are there.
    let started = system.start()?;
    std::thread::sleep(Duration::from_secs(1));
    let idle = system.memory()?;
    report("start to banner, empty", started, None);
    println!("  memory, empty: {}", idle.text());
    system.stop()?;
    let begin = Instant::now();
    let counts = [n.to_string(), options.bytes.to_string(), options.destinations.to_string()];
    succeed(Command::new(target.join("examples/fill")).arg(system.queue()).args(&counts).stdout(Stdio::null()))?;
    system.give_to_owner()?;
    report("filling", begin.elapsed(), Some(n));
    report("start to banner", system.start()?, Some(n));
    std::thread::sleep(Duration::from_secs(1));
    let full = system.memory()?;
    println!("  memory after the start: {}, {} bytes a message", full.text(), full.anonymous_beyond(&idle) / n);
    for _ in 0..3 {
        system.listing("mailq", &["postqueue", "-p"], n, |line| line.first().is_some_and(u8::is_ascii_alphanumeric))?;
    }
    for _ in 0..3 {
        system.listing("postqueue -j", &["postqueue", "-j"], n, |line| line.starts_with(b"{"))?;
    }
    system
        .listing("qshape deferred", &["qshape", "deferred"], 1, |line| line.trim_ascii_start().starts_with(b"TOTAL"))?;
    let listed = system.memory()?;
    println!("  memory after the listings: {}, {} bytes a message", listed.text(), listed.anonymous_beyond(&idle) / n);
    let slow = system.slow_readers(20)?;
    println!("  memory with 20 listings that nobody reads: {}", slow.text());
    system.operate("postsuper -h ALL (bulk hold)", &["-h", "ALL"], &format!("Placed on hold: {n} message"))?;
    let held = system.memory()?;
    println!("  memory after the hold: {}, {} bytes a message", held.text(), held.anonymous_beyond(&idle) / n);
    report("stop", system.stop()?, None);
    report("start to banner, all held", system.start()?, Some(n));
    system.operate("postsuper -d ALL", &["-d", "ALL"], &format!("Deleted: {n} message"))?;
    std::thread::sleep(Duration::from_secs(2));
    println!("  memory after the deletion: {}", system.memory()?.text());
    system.listing("mailq, empty", &["postqueue", "-p"], 1, |line| line == b"Mail queue is empty\n")?;
    system.stop()?;
    Ok(())
}

fn report(what: &str, time: Duration, messages: Option<u64>) {
    let each =
        messages.map_or(String::new(), |n| format!(", {:.2} us each", time.as_secs_f64() * 1e6 / n.max(1) as f64));
    println!("  {what}: {:.3} s{each}", time.as_secs_f64());
}

fn succeed(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// Kilobytes of all processes of the mail system.
struct Memory {
    pss: u64,
    anonymous: u64,
    peak: u64,
}

impl Memory {
    fn text(&self) -> String {
        let mb = |kb: u64| kb as f64 / 1024.0;
        format!("{:.1} MB PSS, {:.1} MB anonymous, peak {:.1} MB", mb(self.pss), mb(self.anonymous), mb(self.peak))
    }

    /// Bytes.
    fn anonymous_beyond(&self, other: &Self) -> u64 {
        self.anonymous.saturating_sub(other.anonymous) * 1024
    }
}

/// A mail system in a folder of its own.
struct System {
    bin: PathBuf,
    conf: PathBuf,
    spool: PathBuf,
    port: u16,
}

impl System {
    fn make(options: &Options, target: &Path) -> Result<Self, String> {
        let root = &options.dir;
        let told = |error: std::io::Error| format!("{}: {error}", root.display());
        let (bin, conf) = (root.join("bin"), root.join("conf"));
        let (spool, data) = (root.join("spool"), root.join("data"));
        for dir in [root, &bin, &conf, &spool, &data] {
            fs::create_dir_all(dir).map_err(told)?;
        }
        fs::copy(target.join("yamabiko"), bin.join("yamabiko")).map_err(told)?;
        succeed(Command::new(bin.join("yamabiko")).args(["install", "--bindir"]).arg(&bin).stdout(Stdio::null()))?;
        // The port is free again when this is dropped.
        let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
        let port = listener.local_addr().map_err(told)?.port();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmaillog_file = {}\n\
             maillog_file_prefixes = {}\nmyhostname = mx.scale.example\nmydestination =\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nrelayhost = [127.0.0.1]:1\nalias_maps =\nalias_database =\n",
            spool.display(),
            data.display(),
            root.join("maillog").display(),
            root.display()
        );
        let master = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
             qmgr unix n - n 300 1 qmgr\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\nerror unix - - n - - error\n\
             retry unix - - n - - error\ndiscard unix - - n - - discard\nlocal unix - n n - - local\n"
        );
        fs::write(conf.join("main.cf"), main).map_err(told)?;
        fs::write(conf.join("master.cf"), master).map_err(told)?;
        let system = Self { bin, conf, spool, port };
        if system.owner().is_some() {
            succeed(Command::new("chown").arg("postfix").arg(&data))?;
        }
        Ok(system)
    }

    fn queue(&self) -> PathBuf {
        self.spool.join("queue")
    }

    /// Started by root the engine runs under another name.
    fn owner(&self) -> Option<&'static str> {
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        root.then_some("postfix")
    }

    fn give_to_owner(&self) -> Result<(), String> {
        match self.owner() {
            Some(owner) => succeed(Command::new("chown").arg("-R").arg(format!("{owner}:")).arg(self.queue())),
            None => Ok(()),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let (name, rest) = words.split_first().unwrap_or((&"yamabiko", &[]));
        let mut command = Command::new(self.bin.join(name));
        command.arg("-c").arg(&self.conf).args(rest);
        command
    }

    /// Until somebody who connects is greeted.
    fn start(&self) -> Result<Duration, String> {
        let begin = Instant::now();
        succeed(self.command(&["postfix", "start"]).stderr(Stdio::null()))?;
        while begin.elapsed() < START {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let mut line = String::new();
                let read = BufReader::new(&stream).read_line(&mut line);
                if read.is_ok() && line.starts_with("220 ") {
                    let time = begin.elapsed();
                    let _ = (&stream).write_all(b"QUIT\r\n");
                    return Ok(time);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("the mail system does not answer; its log is maillog in --dir with --keep".to_owned())
    }

    fn stop(&self) -> Result<Duration, String> {
        let begin = Instant::now();
        let pids = self.pids()?;
        succeed(self.command(&["postfix", "stop"]).stderr(Stdio::null()))?;
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            if begin.elapsed() > START {
                return Err("the mail system does not stop".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(begin.elapsed())
    }

    /// The supervisor and everything below it.
    fn pids(&self) -> Result<Vec<u32>, String> {
        let path = self.spool.join("pid/master.pid");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut pids = vec![text.trim().parse::<u32>().map_err(|_| format!("{}: no number", path.display()))?];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            next += 1;
        }
        Ok(pids)
    }

    /// CPU time of the mail system and of the commands that have ended.
    fn cpu(&self) -> Result<Duration, String> {
        let ticks = |path: &str, fields: [usize; 2]| {
            let text = fs::read_to_string(path).unwrap_or_default();
            // The name of the program is in parentheses and may be anything.
            let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
            let words: Vec<&str> = rest.split_whitespace().collect();
            fields.iter().filter_map(|n| words.get(*n)?.parse::<u64>().ok()).sum::<u64>()
        };
        let own = self.pids()?.iter().map(|pid| ticks(&format!("/proc/{pid}/stat"), [11, 12])).sum::<u64>();
        // Linux counts in hundredths of a second.
        Ok(Duration::from_millis(10 * (own + ticks("/proc/self/stat", [13, 14]))))
    }

    fn memory(&self) -> Result<Memory, String> {
        let mut memory = Memory { pss: 0, anonymous: 0, peak: 0 };
        for pid in self.pids()? {
            let of = |file: &str, name: &str| {
                let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            memory.pss += of("smaps_rollup", "Pss:");
            memory.anonymous += of("smaps_rollup", "Pss_Anon:");
            memory.peak += of("status", "VmHWM:");
        }
        Ok(memory)
    }

    /// Runs a command to its end and counts lines.
    fn listing(&self, what: &str, words: &[&str], wanted: u64, is: fn(&[u8]) -> bool) -> Result<(), String> {
        let (begin, cpu) = (Instant::now(), self.cpu()?);
        let mut child = self.spawn(words)?;
        let (mut lines, mut bytes) = (0, 0);
        if let Some(out) = child.stdout.take() {
            let mut out = BufReader::with_capacity(1 << 20, out);
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                lines += u64::from(is(&line));
                bytes += line.len();
                line.clear();
            }
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        report(what, begin.elapsed(), (wanted > 1).then_some(wanted));
        println!("    CPU {:.2} s, {bytes} bytes", (self.cpu()?.saturating_sub(cpu)).as_secs_f64());
        match status.success() && lines == wanted {
            true => Ok(()),
            false => Err(format!("{what}: {status}, {lines} of {wanted} messages in {bytes} bytes")),
        }
    }

    fn spawn(&self, words: &[&str]) -> Result<Child, String> {
        let child = self.command(words).stdout(Stdio::piped()).spawn();
        child.map_err(|error| format!("{words:?}: {error}"))
    }

    /// Listings whose output nobody reads, and what the engine holds meanwhile.
    fn slow_readers(&self, count: usize) -> Result<Memory, String> {
        let mut children = Vec::new();
        for _ in 0..count {
            children.push(self.spawn(&["postqueue", "-p"])?);
        }
        std::thread::sleep(Duration::from_secs(2));
        let memory = self.memory();
        for mut child in children {
            // They are our own, and wait for a reader.
            let _ = child.kill();
            let _ = child.wait();
        }
        memory
    }

    fn operate(&self, what: &str, words: &[&str], wanted: &str) -> Result<(), String> {
        let (begin, cpu) = (Instant::now(), self.cpu()?);
        let words: Vec<&str> = std::iter::once("postsuper").chain(words.iter().copied()).collect();
        let child = self.command(&words).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("{what}: {error}"))?;
        let mut said = String::new();
        if let Some(mut err) = child.stderr.take() {
            // What is no text is not what is looked for.
            let _ = err.read_to_string(&mut said);
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        report(what, begin.elapsed(), None);
        println!("    CPU {:.2} s", (self.cpu()?.saturating_sub(cpu)).as_secs_f64());
        match status.success() && said.contains(wanted) {
            true => Ok(()),
            false => Err(format!("{what}: {status}: {said}")),
        }
    }
}

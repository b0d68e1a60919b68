//! `cargo xtask scale`: what a long queue costs, measured on a real mail system in a folder of its own.
//!
//! Builds the release binary, fills a queue (`stage/queue/examples/fill.rs`), starts the mail system on it and takes the
//! time of what an operator does, while mail goes through the same server to a next hop that answers. Everything is checked
//! as it is measured: a listing must have as many messages as the queue, a predicate must mean as many as it should, every
//! mail must arrive once, a deletion must leave none. What comes out is a table.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::beat::{self, Beat, NextHop};

/// How long a start may take.
const START: Duration = Duration::from_secs(120);
/// Before memory is looked at: what is left of a burst has been given back by then.
const REST: Duration = Duration::from_secs(3);
/// How long the mail system may be busy with mail that was released.
const UNREST: Duration = Duration::from_secs(900);

struct Options {
    messages: u64,
    bytes: u64,
    destinations: u64,
    dir: PathBuf,
    ledger: bool,
    keep: bool,
    build: bool,
}

fn options(args: &[&str]) -> Result<Options, String> {
    let dir = std::env::temp_dir().join(format!("yamabiko-scale-{}", std::process::id()));
    let (messages, bytes, destinations) = (100_000, 1024, 10_000);
    let mut options = Options { messages, bytes, destinations, dir, ledger: false, keep: false, build: true };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: a value is missing"));
        let number = |text: &&str| text.parse::<u64>().map_err(|_| format!("{arg}: {text} is not a number"));
        match *arg {
            "--count" => options.messages = number(value()?)?.max(1000),
            "--bytes" => options.bytes = number(value()?)?,
            "--destinations" => options.destinations = number(value()?)?.max(1),
            "--dir" => options.dir = PathBuf::from(value()?).join("scale"),
            "--ledger" => options.ledger = true,
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
                "scale: {why}\nusage: cargo xtask scale [--count N] [--bytes N] [--destinations N] [--ledger] [--dir DIR] \
                 [--keep] [--no-build]"
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
    let (n, kind) = (options.messages, if options.ledger { "with the ledger" } else { "without a ledger" });
    println!("{n} messages of {} bytes for {} destinations, {kind}\n", options.bytes, options.destinations);
    // Empty, for comparison; and so that the directories are there.
    let started = system.start()?;
    std::thread::sleep(REST);
    let idle = system.memory()?;
    println!("start to banner, empty: {:.2} s; memory: {}", started.as_secs_f64(), idle.text());
    system.stop()?;
    let begin = Instant::now();
    let counts = [n.to_string(), options.bytes.to_string(), options.destinations.to_string()];
    succeed(Command::new(target.join("examples/fill")).arg(system.queue()).args(&counts).stdout(Stdio::null()))?;
    system.give_to_owner()?;
    println!("filling: {:.1} s", begin.elapsed().as_secs_f64());
    let started = system.start()?;
    system.quiet()?;
    std::thread::sleep(REST);
    let full = system.memory()?;
    println!("start to banner: {:.2} s; memory: {}", started.as_secs_f64(), full.text());
    println!("memory a message: {} bytes\n", full.anonymous_beyond(&idle) / n);
    println!("| | messages | time | client's memory | server's most | a mail meanwhile: median, longest |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let is_message = |line: &[u8]| line.first().is_some_and(u8::is_ascii_alphanumeric);
    let is_total = |line: &[u8]| line.trim_ascii_start().starts_with(b"TOTAL");
    system.listing("`mailq`", &["postqueue", "-p"], n, is_message)?;
    system.listing("`postqueue -j`", &["postqueue", "-j"], n, |line| line.starts_with(b"{"))?;
    system.listing("`qshape deferred`", &["qshape", "deferred"], 1, is_total)?;
    system.listing("`qshape -s deferred`", &["qshape", "-s", "deferred"], 1, is_total)?;
    // What the filled queue is known to hold: a hundred senders, each destination as often as another.
    let evenly = |of: u64, which: u64| n / of + u64::from(n % of > which);
    let domain = |kind: &str| format!("{kind}=d{}.example", 7 % options.destinations);
    let here = evenly(options.destinations, 7 % options.destinations);
    let larger = format!("larger={}", options.bytes.saturating_sub(24));
    let reason = format!("reason=mx.d{}.example", 7 % options.destinations);
    let predicates = [
        // First: what was released is tried, and then there is another reason.
        (reason, Some(here)),
        ("sender=bench@src7.example".to_owned(), Some(evenly(100, 7))),
        ("sender-domain=src8.example".to_owned(), Some(evenly(100, 8))),
        (domain("recipient-domain"), Some(here)),
        ("status=4.4".to_owned(), Some(n)),
        // The time of the filling decides which are the older half.
        ("older=36h".to_owned(), None),
        (larger, Some(n)),
    ];
    for (predicate, wanted) in &predicates {
        system.select("count", predicate, *wanted)?;
        let held = system.select("hold", predicate, *wanted)?;
        let released = system.select("release", predicate, None)?;
        if held != released {
            return Err(format!("{predicate}: {held} held, {released} released"));
        }
        // Released mail is tried.
        system.quiet()?;
    }
    system.select("hold", "queue=deferred", Some(n))?;
    let mut notes = Vec::new();
    system.quiet()?;
    notes.push(format!("memory, all held: {}", system.memory()?.text()));
    notes.push(format!("memory with 20 listings that nobody reads: {}", system.slow_readers(20)?.text()));
    notes.push(format!("stop: {:.2} s", system.stop()?.as_secs_f64()));
    notes.push(format!("start to banner, after all of this: {:.2} s", system.start()?.as_secs_f64()));
    system.quiet()?;
    system.select("release", "all", Some(n))?;
    system.quiet()?;
    system.operate("`postsuper -d ALL`", &["-d", "ALL"], "Deleted: ")?;
    system.quiet()?;
    std::thread::sleep(REST);
    notes.push(format!("memory after the deletion: {}", system.memory()?.text()));
    println!();
    notes.iter().for_each(|note| println!("{note}"));
    let mut left = system.spawn(system.command(&["postqueue", "-p"]))?;
    let said = left.stdout.take().map(io::read_to_string).transpose().map_err(|error| error.to_string())?;
    let status = left.wait().map_err(|error| error.to_string())?;
    if said.as_deref() != Some("Mail queue is empty\n") {
        return Err(format!("after the deletion mailq says ({status}): {}", said.unwrap_or_default()));
    }
    system.stop()?;
    Ok(())
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
    hop: NextHop,
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
        let hop = NextHop::listen().map_err(told)?;
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmaillog_file = {}\n\
             maillog_file_prefixes = {}\nmyhostname = mx.scale.example\nmydestination =\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nrelayhost = [127.0.0.1]:1\nalias_maps =\nalias_database =\n\
             transport_maps = inline:{{{}=relay:[127.0.0.1]:{}}}\nledger_enable = {}\n\
             minimal_backoff_time = 1d\nmaximal_backoff_time = 2d\nmaximal_queue_lifetime = 30d\n",
            spool.display(),
            data.display(),
            root.join("maillog").display(),
            root.display(),
            beat::DOMAIN,
            hop.port(),
            if options.ledger { "yes" } else { "no" }
        );
        let master = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
             qmgr unix n - n 300 1 qmgr\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\nerror unix - - n - - error\n\
             retry unix - - n - - error\ndiscard unix - - n - - discard\nlocal unix - n n - - local\n"
        );
        fs::write(conf.join("main.cf"), main).map_err(told)?;
        fs::write(conf.join("master.cf"), master).map_err(told)?;
        let system = Self { bin, conf, spool, port, hop };
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

    /// CPU time of the mail system.
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
        Ok(Duration::from_millis(10 * own))
    }

    fn memory(&self) -> Result<Memory, String> {
        let mut memory = Memory { pss: 0, anonymous: 0, peak: 0 };
        for pid in self.pids()? {
            memory.pss += kilobytes(pid, "smaps_rollup", "Pss:");
            memory.anonymous += kilobytes(pid, "smaps_rollup", "Pss_Anon:");
            memory.peak += kilobytes(pid, "status", "VmHWM:");
        }
        Ok(memory)
    }

    /// Runs a command to its end while mail goes through, and prints a line of the table. `read` is given its output.
    fn step<T>(
        &self,
        what: &str,
        command: Command,
        read: impl FnOnce(&mut Child) -> io::Result<(T, Option<u64>)>,
    ) -> Result<T, String> {
        self.forget_peaks()?;
        let beat = Beat::begin(&self.hop, self.port);
        std::thread::sleep(Duration::from_millis(300));
        let begin = Instant::now();
        let mut child = self.spawn(command)?;
        let peak = Peak::of(child.id());
        let read = read(&mut child);
        let status = child.wait();
        let (time, client) = (begin.elapsed(), peak.end());
        std::thread::sleep(Duration::from_millis(200));
        let waits = beat.end(&self.hop, !what.contains("-d ALL")).map_err(|why| format!("{what}: {why}"))?;
        let status = status.map_err(|error| format!("{what}: {error}"))?;
        let (value, messages) = read.map_err(|error| format!("{what}: {error}"))?;
        if !status.success() {
            return Err(format!("{what}: {status}"));
        }
        let messages = messages.map_or(String::new(), |n| n.to_string());
        println!(
            "| {what} | {messages} | {:.2} s | {} MB | {} MB | {:.1}, {:.0} ms of {} |",
            time.as_secs_f64(),
            client / 1024,
            self.memory()?.peak / 1024,
            waits.median.as_secs_f64() * 1e3,
            waits.longest.as_secs_f64() * 1e3,
            waits.mails
        );
        // Whoever waits for the table sees it grow.
        let _ = io::stdout().flush();
        Ok(value)
    }

    /// A listing; counts its lines.
    fn listing(&self, what: &str, words: &[&str], wanted: u64, is: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        let read = |child: &mut Child| {
            let mut lines = 0;
            if let Some(out) = child.stdout.take() {
                let mut out = BufReader::with_capacity(1 << 20, out);
                let mut line = Vec::new();
                while out.read_until(b'\n', &mut line)? > 0 {
                    lines += u64::from(is(&line));
                    line.clear();
                }
            }
            Ok((lines, (wanted > 1).then_some(lines)))
        };
        let lines = self.step(what, self.command(words), read)?;
        // Mail that goes through meanwhile may be listed too.
        let right = if wanted > 1 { (wanted..wanted + 100).contains(&lines) } else { lines == wanted };
        if right { Ok(()) } else { Err(format!("{what}: {lines} of {wanted} messages")) }
    }

    /// `yamabiko queue`; how many messages it counted or changed. `wanted` is without the mail that goes through meanwhile.
    fn select(&self, what: &str, predicate: &str, wanted: Option<u64>) -> Result<u64, String> {
        let mut command = Command::new(self.bin.join("yamabiko"));
        command.args(["queue", "-c"]).arg(&self.conf).arg(what);
        if what != "count" {
            command.arg("--yes");
        }
        command.arg(predicate);
        let read = |child: &mut Child| {
            let said = child.stdout.take().map(io::read_to_string).transpose()?.unwrap_or_default();
            let number = |line: &str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok());
            let count = said.lines().last().and_then(number);
            Ok((count, count))
        };
        let name = format!("`queue {what} {predicate}`");
        let Some(count) = self.step(&name, command, read)? else { return Err(format!("{name}: no number")) };
        match wanted {
            Some(wanted) if !(wanted..wanted + 100).contains(&count) => Err(format!("{name}: {count} of {wanted}")),
            _ => Ok(count),
        }
    }

    fn operate(&self, what: &str, words: &[&str], wanted: &str) -> Result<(), String> {
        let words: Vec<&str> = std::iter::once("postsuper").chain(words.iter().copied()).collect();
        let mut command = self.command(&words);
        command.stderr(Stdio::piped());
        let read = |child: &mut Child| {
            let said = child.stderr.take().map(io::read_to_string).transpose()?.unwrap_or_default();
            let number = said.split_whitespace().find_map(|word| word.parse::<u64>().ok());
            Ok((said, number))
        };
        let said = self.step(what, command, read)?;
        if said.contains(wanted) { Ok(()) } else { Err(format!("{what}: {said}")) }
    }

    fn spawn(&self, mut command: Command) -> Result<Child, String> {
        let child = command.stdout(Stdio::piped()).spawn();
        child.map_err(|error| format!("{command:?}: {error}"))
    }

    /// Waits until the mail system has nothing to do.
    fn quiet(&self) -> Result<(), String> {
        let begin = Instant::now();
        let mut still = 0;
        let mut before = self.cpu()?;
        while still < 3 {
            if begin.elapsed() > UNREST {
                return Err("the mail system does not come to rest".to_owned());
            }
            std::thread::sleep(Duration::from_millis(500));
            let now = self.cpu()?;
            // A twenty-fifth of a processor.
            still = if now.saturating_sub(before) <= Duration::from_millis(20) { still + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }

    /// The most memory is counted from here on; only root may say so, and otherwise it is the most since the start.
    fn forget_peaks(&self) -> Result<(), String> {
        for pid in self.pids()? {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        Ok(())
    }

    /// Listings whose output nobody reads, and what the engine holds meanwhile.
    fn slow_readers(&self, count: usize) -> Result<Memory, String> {
        let mut children = Vec::new();
        for _ in 0..count {
            children.push(self.spawn(self.command(&["postqueue", "-p"]))?);
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
}

impl Drop for System {
    /// Whatever went wrong, nothing is left running.
    fn drop(&mut self) {
        if self.pids().is_ok_and(|pids| pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists())) {
            let _ = self.stop();
        }
    }
}

/// The most memory that a command takes, looked at while it runs.
struct Peak {
    ending: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !told.load(Ordering::Relaxed) {
                most = most.max(kilobytes(pid, "status", "VmHWM:"));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Self { ending, thread }
    }

    /// Kilobytes.
    fn end(self) -> u64 {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// A number that the kernel tells of a process; 0 when it has ended.
fn kilobytes(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

//! Runs the files in `tests/scripts/`, each with a mail system of its own.
//!
//! One thing a line, in order:
//!
//! | line | what |
//! | --- | --- |
//! | `# text` | a remark; the first says what is shown |
//! | `set NAME = VALUE` | a parameter of main.cf; `@ETC@` is the configuration directory, `@HOP@` the sink's address |
//! | `file NAME` | a file beside main.cf, its lines follow with `\|` and a blank before them |
//! | `sink VERB WORD REPLY` | the sink answers so when the line has the word (`-`: any; an empty reply hangs up) |
//! | `sink ok` | the sink accepts everything again |
//! | `connect` | a new SMTP session; the mail system is started at the first need |
//! | `C: LINE` | the client says; `C:` alone is an empty line |
//! | `S: PATTERN` | the server says; `*` stands for anything |
//! | `closed` | the server has hung up |
//! | `$ LINE` | a line of shell; what it prints, standard error too, follows with `>`, as patterns |
//! | `exit N` | the exit code of the last `$`, if it is not to be 0 |
//! | `wait empty`, `wait deferred 2` | the state of the queue |
//! | `mails NAME N` | so many mails in a Maildir; lines with `\|` follow, patterns of lines of the last one, in order |
//! | `sent N` | so many mails at the sink; the same, of envelope and message |
//! | `log PATTERN` | a line of the mail log, without its time and host |

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use crate::harness::{Client, Instance, Said, Sink, fits};

/// How many at once: most of the time is spent waiting.
const AT_ONCE: usize = 4;

#[test]
fn scripts() {
    let mut names: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts"))
        .expect("the directory of scripts")
        .map(|entry| entry.expect("a directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    if let Ok(wanted) = std::env::var("SCRIPT") {
        names.retain(|path| path.to_string_lossy().contains(&wanted));
    }
    let (waiting, failed) = (Mutex::new(names.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(path) = waiting.lock().unwrap().next() else { return };
                    let run = std::panic::catch_unwind(|| run(&path));
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let why = match run {
                        Ok(Ok(())) => continue,
                        Ok(Err(why)) => why,
                        Err(_) => "panicked, see above".to_owned(),
                    };
                    failed.lock().unwrap().push(format!("{name}:{why}"));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// What has become of the script so far.
struct Run {
    instance: Instance,
    sink: Sink,
    client: Option<Client>,
    running: bool,
    said: Option<Said>,
}

fn run(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| format!(" {error}"))?;
    let instance = Instance::new();
    let sink = Sink::start(instance.next_hop);
    let mut run = Run { instance, sink, client: None, running: false, said: None };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let below = |line: &&str, mark: char| line.starts_with(mark);
        let mut following = Vec::new();
        let mark = if line.starts_with('$') { '>' } else { '|' };
        while let Some((_, line)) = lines.next_if(|(_, line)| below(line, mark)) {
            let line = &line[1..];
            following.push(line.strip_prefix(' ').unwrap_or(line));
        }
        let code = lines.peek().and_then(|(_, line)| line.strip_prefix("exit ")).unwrap_or("0");
        run.step(line, &following, code)
            .map_err(|why| format!("{}: {line}\n  {why}\n{}", number + 1, run.instance.log()))?;
    }
    Ok(())
}

impl Run {
    fn step(&mut self, line: &str, following: &[&str], code: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "exit" => {}
            _ if word.starts_with('#') => {}
            "set" => {
                let (name, value) = rest.split_once('=').ok_or("set NAME = VALUE")?;
                let value = self.filled(value.trim());
                self.instance.set(name.trim(), &value);
            }
            "file" => {
                let text: String = following.iter().map(|line| format!("{}\n", self.filled(line))).collect();
                self.instance.file(rest, &text);
            }
            "sink" if rest == "ok" => self.sink.accept_all(),
            "sink" => {
                let mut words = rest.splitn(3, ' ');
                let (on, contains) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let contains = if contains == "-" { "" } else { contains };
                self.sink.rule(on, contains, words.next().unwrap_or_default());
            }
            "connect" => {
                self.start();
                // The greeting is checked as any reply.
                let client = Client::unheard(self.instance.smtp).map_err(|error| error.to_string())?;
                self.client = Some(client);
            }
            "C:" => self.client()?.send(format!("{rest}\r\n").as_bytes()).map_err(|error| error.to_string())?,
            "S:" => {
                let line = self.client()?.line().map_err(|error| error.to_string())?;
                check(rest, &line)?;
            }
            "closed" => {
                if let Ok(line) = self.client()?.line() {
                    return Err(format!("the server says {line:?}"));
                }
            }
            "$" => {
                self.start();
                let said = self.instance.shell(&format!("exec 2>&1; {}", self.filled(rest)));
                if said.code.to_string() != code {
                    return Err(format!("exit {}: {}", said.code, said.out));
                }
                let lines: Vec<&str> = said.out.lines().collect();
                if lines.len() != following.len() {
                    return Err(format!("{} lines: {}", lines.len(), said.out));
                }
                for (pattern, line) in following.iter().zip(lines) {
                    check(pattern, line)?;
                }
                self.said = Some(said);
            }
            "wait" if rest == "empty" => self.instance.until_empty(),
            "wait" => {
                let (queue, number) = rest.split_once(' ').ok_or("wait QUEUE NUMBER")?;
                self.instance.until_queued(queue, number.parse().map_err(|_| "not a number")?);
            }
            "mails" => {
                let (name, number) = rest.split_once(' ').ok_or("mails NAME NUMBER")?;
                let mails = self.instance.until_mails(name, number.parse().map_err(|_| "not a number")?);
                in_order(following, mails.last().map_or("", String::as_str))?;
            }
            "sent" => {
                let number: usize = rest.parse().map_err(|_| "not a number")?;
                let sink = &self.sink;
                self.instance.until("mails at the sink", || sink.count() >= number);
                let taken = sink.taken();
                let last = taken.last().map(crate::harness::Transaction::text).unwrap_or_default();
                if taken.len() != number {
                    return Err(format!("{} mails, the last is\n{last}", taken.len()));
                }
                in_order(following, &last)?;
            }
            "log" => {
                let pattern = format!("* {rest}");
                let instance = &self.instance;
                instance.until("a line of the log", || instance.log().lines().any(|line| fits(&pattern, line)));
            }
            _ => return Err("not a step".to_owned()),
        }
        Ok(())
    }

    fn start(&mut self) {
        if !self.running {
            self.running = true;
            self.instance.start();
        }
    }

    fn client(&mut self) -> Result<&mut Client, String> {
        self.client.as_mut().ok_or_else(|| "no session: connect first".to_owned())
    }

    fn filled(&self, text: &str) -> String {
        let hop = self.instance.next_hop;
        text.replace("@ETC@", &self.instance.etc().display().to_string())
            .replace("@HOP@", &format!("[{}]:{}", hop.ip(), hop.port()))
    }
}

fn check(pattern: &str, line: &str) -> Result<(), String> {
    if fits(pattern, line) { Ok(()) } else { Err(format!("expected {pattern:?}\n  got      {line:?}")) }
}

fn in_order(patterns: &[&str], text: &str) -> Result<(), String> {
    let mut lines = text.lines();
    for pattern in patterns {
        if !lines.any(|line| fits(pattern, line)) {
            return Err(format!("no line {pattern:?} (any more) in\n{text}"));
        }
    }
    Ok(())
}

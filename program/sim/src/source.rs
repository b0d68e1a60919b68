//! `yamabiko source`: messages with unique numbers, and what became of each at the door.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::client::{Connection, Outcome};
use crate::tally::NUMBER;

/// How long a server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends messages with unique numbers and writes down, a line of JSON each, what became of them.
#[derive(Parser, Debug)]
#[command(name = "yamabiko source", no_binary_name = true)]
pub struct Args {
    /// Where to send them
    #[arg(long, default_value = "127.0.0.1:2525")]
    to: SocketAddr,
    /// How many
    #[arg(long, default_value_t = 100)]
    messages: u64,
    /// Sessions at once
    #[arg(long, default_value_t = 10)]
    sessions: u32,
    /// Messages in one session; 0: all
    #[arg(long, default_value_t = 10)]
    per_session: u32,
    /// Messages a second at most; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Reverse-path; %d is the number of the message
    #[arg(long, default_value = "sender@sim.test")]
    from: String,
    /// Recipients; each message takes the next one. %d is the number of the message
    #[arg(long = "recipient", value_name = "ADDRESS")]
    recipients: Vec<String>,
    /// Recipients from a file, a line each
    #[arg(long, value_name = "FILE")]
    recipients_file: Option<PathBuf>,
    /// Recipients of one message
    #[arg(long, default_value_t = 1)]
    recipients_each: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Wait up to two minutes for a server that does not answer, instead of giving the message up
    #[arg(long)]
    patient: bool,
    /// What the numbers begin with; another one for every run that is to be told apart
    #[arg(long)]
    run: Option<String>,
    /// Where to write
    #[arg(long, default_value = "source.jsonl")]
    report: PathBuf,
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Number of the message.
    pub number: String,
    /// Reverse-path.
    pub from: String,
    /// Recipients the server took.
    pub taken: Vec<String>,
    /// Recipients the server refused, with its reply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, String)>,
    /// `taken`, `refused` or `unknown` (the connection broke after the final dot).
    pub outcome: String,
    /// The reply to the message, or what went wrong.
    pub reply: String,
}

/// The command. Exit status 0 when every message was taken; 1 when not; 64 for wrong usage.
pub fn run(args: &[String]) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let mut recipients = args.recipients.clone();
    if let Some(path) = &args.recipients_file {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                recipients.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned))
            }
            Err(error) => {
                eprintln!("yamabiko source: {}: {error}", path.display());
                return ExitCode::from(66);
            }
        }
    }
    if recipients.is_empty() {
        eprintln!("yamabiko source: to whom? (--recipient ADDRESS, --recipients-file FILE)");
        return ExitCode::from(64);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("yamabiko source: {error}");
            return ExitCode::from(71);
        }
    };
    let begun = Instant::now();
    match runtime.block_on(send_all(args, recipients)) {
        Ok((taken, all)) => {
            let seconds = begun.elapsed().as_secs_f64();
            println!("{taken} of {all} messages taken in {seconds:.1} s ({:.0} a second)", all as f64 / seconds);
            ExitCode::from(u8::from(taken != all))
        }
        Err(why) => {
            eprintln!("yamabiko source: {why}");
            ExitCode::from(73)
        }
    }
}

/// What the sessions share.
struct Work {
    args: Args,
    recipients: Vec<String>,
    run: String,
    next: AtomicU64,
    taken: AtomicU64,
    out: Mutex<std::io::BufWriter<std::fs::File>>,
    begun: Instant,
}

async fn send_all(args: Args, recipients: Vec<String>) -> Result<(u64, u64), String> {
    let file = std::fs::File::create(&args.report).map_err(|error| format!("{}: {error}", args.report.display()))?;
    let run = args.run.clone().unwrap_or_else(|| format!("{:x}", jiff::Timestamp::now().as_microsecond()));
    let (all, sessions) = (args.messages, args.sessions.max(1));
    let work = Arc::new(Work {
        args,
        recipients,
        run,
        next: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        out: Mutex::new(std::io::BufWriter::new(file)),
        begun: Instant::now(),
    });
    let tasks: Vec<_> = (0..sessions).map(|_| tokio::spawn(session(Arc::clone(&work)))).collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    let mut out = work.out.lock().await;
    out.flush().map_err(|error| format!("{}: {error}", work.args.report.display()))?;
    Ok((work.taken.load(Ordering::Relaxed), all))
}

async fn session(work: Arc<Work>) -> Result<(), String> {
    let mut connection: Option<(Connection, u32)> = None;
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.args.messages {
            break;
        }
        if work.args.rate > 0 {
            let due = Duration::from_secs_f64(number as f64 / f64::from(work.args.rate));
            tokio::time::sleep(due.saturating_sub(work.begun.elapsed())).await;
        }
        let (sender, recipients) = work.envelope(number);
        let name = format!("{}.{number}", work.run);
        let message = message(&name, &sender, &recipients, work.args.size);
        let result = match connection.take() {
            Some(open) => Ok(open),
            None => work.open().await.map(|open| (open, 0)),
        };
        let outcome = match result {
            Err(error) => Outcome::Refused(error.to_string()),
            Ok((mut open, sent)) => match open.send(&sender, &recipients, &message).await {
                Err(error) => Outcome::Refused(error.to_string()),
                Ok(outcome) => {
                    let full = work.args.per_session > 0 && sent + 1 >= work.args.per_session;
                    match &outcome {
                        Outcome::Unknown(_) => {}
                        _ if full => open.close().await,
                        // After a refusal the session's state is of no interest.
                        Outcome::Refused(_) => open.close().await,
                        Outcome::Taken { .. } => connection = Some((open, sent + 1)),
                    }
                    outcome
                }
            },
        };
        work.write(name, sender, recipients, outcome).await?;
    }
    if let Some((open, _)) = connection {
        open.close().await;
    }
    Ok(())
}

impl Work {
    async fn open(&self) -> std::io::Result<Connection> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Connection::open(self.args.to, "source.sim.test").await {
                Err(_) if self.args.patient && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                result => return result,
            }
        }
    }

    fn envelope(&self, number: u64) -> (String, Vec<String>) {
        let fill = |text: &str| text.replace("%d", &number.to_string());
        let each = u64::from(self.args.recipients_each.max(1));
        let all = self.recipients.len() as u64;
        // The remainder is below the length.
        let chosen = (0..each).map(|at| fill(&self.recipients[((number * each + at) % all) as usize]));
        (fill(&self.args.from), chosen.collect())
    }

    async fn write(
        &self,
        number: String,
        from: String,
        recipients: Vec<String>,
        outcome: Outcome,
    ) -> Result<(), String> {
        let line = match outcome {
            Outcome::Taken { reply, refused } => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                let is_refused = |at: usize| refused.iter().any(|(which, _)| *which == at);
                let taken = recipients.iter().enumerate().filter(|(at, _)| !is_refused(*at));
                Sent {
                    taken: taken.map(|(_, recipient)| recipient.clone()).collect(),
                    refused: refused
                        .iter()
                        .filter_map(|(at, reply)| Some((recipients.get(*at)?.clone(), reply.clone())))
                        .collect(),
                    outcome: "taken".into(),
                    number,
                    from,
                    reply,
                }
            }
            Outcome::Refused(reply) => {
                let refused = recipients.into_iter().map(|recipient| (recipient, reply.clone())).collect();
                Sent { number, from, taken: Vec::new(), refused, outcome: "refused".into(), reply }
            }
            Outcome::Unknown(reply) => {
                Sent { number, from, taken: recipients, refused: Vec::new(), outcome: "unknown".into(), reply }
            }
        };
        let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        let written = writeln!(self.out.lock().await, "{text}");
        written.map_err(|error| format!("{}: {error}", self.args.report.display()))
    }
}

/// A message of about `size` bytes.
fn message(number: &str, sender: &str, recipients: &[String], size: usize) -> Vec<u8> {
    let mut text = format!(
        "From: <{sender}>\nTo: {}\nSubject: rehearsal {number}\nMessage-ID: <{number}@source.sim.test>\n{NUMBER}: {number}\n\n",
        recipients.first().map_or("undisclosed-recipients:;", String::as_str),
    )
    .into_bytes();
    while text.len() < size {
        let line = b"The quick brown fox jumps over the lazy dog, again and again and again.\n";
        text.extend_from_slice(&line[..line.len().min((size - text.len()).max(2))]);
    }
    if text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_size_and_number() {
        for size in [0, 500, 501, 4096] {
            let text = message("r.7", "a@x", &["b@x".to_owned()], size);
            assert!(size < 300 || text.len().abs_diff(size) <= 2, "{}", text.len());
            assert_eq!(crate::tally::number_of(&text), "r.7");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}

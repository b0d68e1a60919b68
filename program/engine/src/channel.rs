//! The second way to tell of trouble (`notify_channel_...`): a file, a service or a web address, because mail about a dead queue
//! dies in the queue. One JSON object each; nothing here waits for it, and nothing piles up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use yamabiko_config::View;
use yamabiko_envelope::TroubleClass;

use crate::boss::Boss;

/// Messages on their way at once; more are dropped, and that is said.
const UNDER_WAY: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// A place among those that are under way.
struct Seat;

impl Seat {
    fn take() -> Option<Self> {
        let room =
            TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < UNDER_WAY).then_some(taken + 1));
        room.is_ok().then_some(Self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What telling needs of the rest of the engine.
#[derive(Clone)]
pub struct Means {
    /// Who starts the service.
    pub boss: Option<Boss>,
    /// Says in the log what went wrong.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
}

/// The settings.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    classes: Vec<TroubleClass>,
    file: Option<PathBuf>,
    service: Option<String>,
    url: Option<Url>,
}

#[derive(Clone, Debug)]
struct Url {
    host: String,
    path: String,
}

impl Channel {
    /// From main.cf. What cannot be is told.
    pub fn from_view(view: &View) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut classes = Vec::new();
        for word in view.list("notify_channel_classes") {
            match TroubleClass::of(&word) {
                Some(class) => classes.push(class),
                None => warnings.push(format!("notify_channel_classes: unknown class: {word}")),
            }
        }
        let given = |name: &str| Some(view.text(name)).filter(|text| !text.is_empty());
        let url = given("notify_channel_url").and_then(|text| {
            let rest = text.strip_prefix("http://")?;
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let clean = !host.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace());
            clean.then(|| Url { host: host.to_owned(), path: format!("/{path}") })
        });
        if let Some(text) = given("notify_channel_url").filter(|_| url.is_none()) {
            warnings.push(format!(
                "notify_channel_url: {text}: only http:// addresses are there; for https: name a program with \
                 notify_channel_service"
            ));
        }
        let (file, service) = (given("notify_channel_file").map(PathBuf::from), given("notify_channel_service"));
        if !classes.is_empty() && file.is_none() && service.is_none() && url.is_none() {
            warnings.push("notify_channel_classes is set without notify_channel_file, _service or _url".to_owned());
        }
        (Self { classes, file, service, url }, warnings)
    }

    /// Trouble of this class is told.
    pub fn covers(&self, class: TroubleClass) -> bool {
        self.classes.contains(&class)
    }

    /// Tells, in the background and in all ways at once: one that is dead itself keeps no other waiting. `object` is one
    /// JSON object. `None` when so much is under way already that this was left out.
    pub fn tell(&self, means: Means, object: String) -> Option<JoinHandle<()>> {
        let Some(seat) = Seat::take() else {
            (means.say)("notify_channel: too much at once, one was left out");
            return None;
        };
        let (channel, seat) = (self.clone(), Arc::new(seat));
        Some(tokio::spawn(async move {
            // A disk that hangs keeps its thread, and its seat with it, so that there are never many of them.
            let (file, line, writing) = (channel.file.clone(), format!("{object}\n"), Arc::clone(&seat));
            let written = tokio::task::spawn_blocking(move || {
                let result = file.map_or(Ok(()), |file| write(&file, &line));
                drop(writing);
                result
            });
            let written = async { written.await.unwrap_or_else(|error| Err(error.to_string())) };
            let (file, service, url) = tokio::join!(
                timeout(PATIENCE, written),
                timeout(PATIENCE, channel.run(&means, &object)),
                timeout(PATIENCE, channel.post(&object)),
            );
            for (name, result) in [("file", file), ("service", service), ("url", url)] {
                if let Err(why) = result.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                    (means.say)(&format!("notify_channel_{name}: {why}"));
                }
            }
            drop(seat);
        }))
    }

    async fn run(&self, means: &Means, object: &str) -> Result<(), String> {
        let Some(service) = &self.service else { return Ok(()) };
        let boss = means.boss.as_ref().ok_or_else(|| format!("{service}: the engine is not complete yet"))?;
        let socket = boss.spawn(service).await.map_err(|error| format!("{service}: {error}"))?;
        let trouble = |error: std::io::Error| format!("{service}: {error}");
        socket.set_nonblocking(true).map_err(trouble)?;
        let mut socket = tokio::net::UnixStream::from_std(socket).map_err(trouble)?;
        socket.write_all(format!("{object}\n").as_bytes()).await.map_err(trouble)?;
        socket.shutdown().await.map_err(trouble)
    }

    async fn post(&self, object: &str) -> Result<(), String> {
        let Some(Url { host, path }) = &self.url else { return Ok(()) };
        let trouble = |error: std::io::Error| format!("http://{host}: {error}");
        let has_port = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let to = if has_port { host.clone() } else { format!("{host}:80") };
        let mut stream = tokio::net::TcpStream::connect(&to).await.map_err(trouble)?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{object}",
            object.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(trouble)?;
        let mut answer = [0u8; 16];
        let mut filled = 0;
        while filled < answer.len() {
            match stream.read(&mut answer[filled..]).await.map_err(trouble)? {
                0 => break,
                more => filled += more,
            }
        }
        // `HTTP/1.1 204 ...`
        match answer.get(9) {
            Some(b'2') => Ok(()),
            _ => Err(format!("http://{host}: {}", String::from_utf8_lossy(&answer[..filled]).escape_default())),
        }
    }
}

fn write(file: &Path, line: &str) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    opened
        .and_then(|mut opened| opened.write_all(line.as_bytes()))
        .map_err(|error| format!("{}: {error}", file.display()))
}

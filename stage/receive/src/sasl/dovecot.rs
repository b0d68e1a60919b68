//! Dovecot's authentication service over its socket: one connection that all clients share, made when it is needed and
//! again when it broke.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use yamabiko_sasl::dovecot::{self, Client, Line, Said};
use yamabiko_sasl::mechanisms::Mechanism;

use super::Verdict;

/// How long the server may take for its greeting.
const GREETING: Duration = Duration::from_secs(10);
/// How long it may take for an answer: it delays refusals on purpose, the more the longer somebody keeps guessing.
const ANSWER: Duration = Duration::from_secs(60);
/// Answers that may wait for one client: there is never more than one.
const ANSWERS: usize = 4;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}
type Connection = Pin<Box<dyn Stream>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Endpoint {
    Inet(String),
    Unix(PathBuf),
}

/// A server and the connection to it.
pub struct Server {
    endpoint: Endpoint,
    /// As main.cf has it.
    path: String,
    line: tokio::sync::Mutex<Option<Arc<Open>>>,
}

/// A connection whose greeting is done.
struct Open {
    mechanisms: Arc<[Mechanism]>,
    wishes: mpsc::UnboundedSender<Wish>,
    next: AtomicU32,
}

enum Wish {
    /// Sends, and hears the answers to a number.
    Ask { id: u32, text: String, answers: mpsc::Sender<Said> },
    /// Sends.
    Tell(String),
    /// Sends, and does not hear any more.
    Forget { id: u32, text: String },
}

/// A question that the server works on.
pub struct Request {
    open: Arc<Open>,
    id: u32,
    answers: mpsc::Receiver<Said>,
    over: bool,
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.over {
            // Nobody waits any more; the connection may be gone.
            let _ = self.open.wishes.send(Wish::Forget { id: self.id, text: dovecot::cancel(self.id) });
        }
    }
}

/// All servers that are in use: a reload, and services with the same path, share the connection.
static SERVERS: Mutex<Vec<(Endpoint, Weak<Server>)>> = Mutex::new(Vec::new());

impl Server {
    /// `smtpd_sasl_path`: a socket below the queue directory, or `inet:host:port`.
    pub(super) fn at(path: &str, queue_directory: &str) -> Arc<Self> {
        let endpoint = match path.split_once(':') {
            Some(("inet", address)) => Endpoint::Inet(address.to_owned()),
            Some(("unix", path)) => Endpoint::Unix(PathBuf::from(queue_directory).join(path)),
            _ => Endpoint::Unix(PathBuf::from(queue_directory).join(path)),
        };
        let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|(_, server)| server.strong_count() > 0);
        let known = servers.iter().find(|(known, _)| *known == endpoint).and_then(|(_, server)| server.upgrade());
        known.unwrap_or_else(|| {
            let server = Arc::new(Self {
                endpoint: endpoint.clone(),
                path: path.to_owned(),
                line: tokio::sync::Mutex::default(),
            });
            servers.push((endpoint, Arc::downgrade(&server)));
            server
        })
    }

    async fn open(&self) -> Result<Arc<Open>, String> {
        let mut line = self.line.lock().await;
        if let Some(open) = line.as_ref().filter(|open| !open.wishes.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let failed = |error: &dyn std::fmt::Display| {
            format!("SASL: Connect to Dovecot auth socket '{}' failed: {error}", self.path)
        };
        let opened = timeout(GREETING, self.greet()).await;
        let opened = opened.map_err(|_| failed(&"Connection timed out"))?.map_err(|error| failed(&error))?;
        Ok(Arc::clone(line.insert(opened)))
    }

    async fn greet(&self) -> io::Result<Arc<Open>> {
        let mut stream: Connection = match &self.endpoint {
            Endpoint::Inet(address) => Box::pin(TcpStream::connect(address).await.map_err(plain)?),
            Endpoint::Unix(path) => Box::pin(UnixStream::connect(path).await.map_err(plain)?),
        };
        stream.write_all(dovecot::hello(std::process::id()).as_bytes()).await?;
        let mut line = Line::default();
        let mechanisms = loop {
            let said = hear(&mut stream, &mut line).await?;
            let ready = said.into_iter().find_map(|said| match said {
                Said::Ready(mechanisms) => Some(mechanisms),
                _ => None,
            });
            if let Some(mechanisms) = ready {
                break mechanisms;
            }
        };
        let (wishes, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(stream, line, receiver));
        Ok(Arc::new(Open { mechanisms: mechanisms.into(), wishes, next: AtomicU32::new(1) }))
    }

    pub(super) async fn mechanisms(&self) -> Result<Arc<[Mechanism]>, String> {
        self.open().await.map(|open| Arc::clone(&open.mechanisms))
    }

    pub(super) async fn begin(
        &self,
        mechanism: &str,
        client: &Client,
        initial: Option<&str>,
    ) -> (Option<Request>, Verdict) {
        if initial.is_some_and(|text| yamabiko_sasl::base64::decode(if text == "=" { "" } else { text }).is_none()) {
            return (None, Verdict::failed("Invalid base64 data in initial response"));
        }
        let open = match self.open().await {
            Ok(open) => open,
            Err(why) => return (None, Verdict::Trouble(why)),
        };
        let id = open.next.fetch_add(1, Ordering::Relaxed);
        let text = dovecot::request(id, mechanism, client, initial);
        let (sender, answers) = mpsc::channel(ANSWERS);
        let lost = open.wishes.send(Wish::Ask { id, text, answers: sender }).is_err();
        let mut request = Request { open, id, answers, over: lost };
        let verdict = request.answer().await;
        (Some(request), verdict)
    }
}

/// The system's words alone.
#[allow(clippy::needless_pass_by_value)]
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => {
            let text = io::Error::from_raw_os_error(code).to_string();
            io::Error::other(text.split(" (os error").next().unwrap_or_default().to_owned())
        }
        None => error,
    }
}

impl Request {
    pub(super) async fn respond(&mut self, response: &str) -> Verdict {
        let response = if response == "=" { "" } else { response };
        if yamabiko_sasl::base64::decode(response).is_none() {
            return Verdict::failed("Invalid base64 data in continued response");
        }
        if self.open.wishes.send(Wish::Tell(dovecot::next(self.id, response))).is_err() {
            self.over = true;
        }
        self.answer().await
    }

    async fn answer(&mut self) -> Verdict {
        let said = if self.over { Ok(None) } else { timeout(ANSWER, self.answers.recv()).await };
        match said {
            Err(_) => Verdict::trouble("Authentication server does not answer"),
            Ok(None) => {
                self.over = true;
                Verdict::trouble("Connection lost to authentication server")
            }
            Ok(Some(Said::Challenge { data, .. })) => Verdict::Challenge(data),
            Ok(Some(Said::Done { user: Some(user), .. })) => {
                self.over = true;
                Verdict::Done(user)
            }
            Ok(Some(Said::Done { user: None, .. } | Said::Ready(_))) => {
                self.over = true;
                Verdict::trouble("Authentication server named no user")
            }
            Ok(Some(Said::Failed { user, reason, temporary, .. })) => {
                self.over = true;
                Verdict::Failed { user, reason, temporary }
            }
        }
    }
}

async fn hear(stream: &mut Connection, line: &mut Line) -> io::Result<Vec<Said>> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await? {
        0 => Err(io::Error::other("Connection lost to authentication server")),
        // At most the length of the buffer.
        read => line.receive(&buffer[..read]).map_err(|nonsense| io::Error::other(nonsense.0)),
    }
}

/// Passes questions and answers until either side ends. Whoever waits then hears that the connection is lost.
async fn serve(mut stream: Connection, mut line: Line, mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let mut waiting: HashMap<u32, mpsc::Sender<Said>> = HashMap::new();
    loop {
        tokio::select! {
            wish = wishes.recv() => {
                let text = match wish {
                    None => return,
                    Some(Wish::Ask { id, text, answers }) => {
                        waiting.insert(id, answers);
                        text
                    }
                    Some(Wish::Tell(text)) => text,
                    Some(Wish::Forget { id, text }) => match waiting.remove(&id) {
                        Some(_) => text,
                        None => continue,
                    },
                };
                if !matches!(timeout(GREETING, stream.write_all(text.as_bytes())).await, Ok(Ok(()))) {
                    return;
                }
            }
            said = hear(&mut stream, &mut line) => {
                let Ok(said) = said else { return };
                for said in said {
                    let (id, last) = match &said {
                        Said::Challenge { id, .. } => (*id, false),
                        Said::Done { id, .. } | Said::Failed { id, .. } => (*id, true),
                        Said::Ready(_) => continue,
                    };
                    let Some(answers) = waiting.get(&id) else { continue };
                    // A client that is gone has no use for it; a server that says more than it was asked is cut short.
                    if answers.try_send(said).is_err() || last {
                        waiting.remove(&id);
                    }
                }
            }
        }
    }
}

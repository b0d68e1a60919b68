//! Policy delegation: `check_policy_service` asks a server of the administrator's (Postfix: SMTPD_POLICY_README,
//! attr_clnt).
//!
//! * [`PolicyService`] is one server with its connections: each is used by one question at a time and kept for the next.
//! * [`PolicyServices`] opens them, once per endpoint and settings.
//!
//! A server that cannot be asked is asked again (`smtpd_policy_service_try_limit`), and then `..._default_action`
//! counts, which is "try again later" unless set.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use yamabiko_config::View;

use super::eval::{About, Evaluation, Ruled};
use super::rule::Node;
use super::{Facts, Record, Said};
use crate::admission::Admission;

/// Bytes of an answer.
const MOST_ANSWER: usize = 64 * 1024;
/// Connections to one server that are kept for later.
const MOST_IDLE: usize = 100;

/// `smtpd_policy_service_...`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Options {
    timeout: Duration,
    max_idle: Duration,
    max_ttl: Duration,
    request_limit: u64,
    try_limit: u32,
    retry_delay: Duration,
    default_action: String,
    context: String,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Endpoint {
    /// `host:port`
    Inet(String),
    Unix(PathBuf),
    /// A service of master.cf that runs spawn(8): a process per connection, started for us.
    Spawn(String),
}

/// The policy servers that a configuration names.
pub(crate) struct PolicyServices {
    defaults: Options,
    queue_directory: PathBuf,
    /// Names of private services that run spawn(8).
    spawned: Vec<String>,
    stress: String,
    open: Mutex<HashMap<(Endpoint, Options), Arc<PolicyService>>>,
}

/// One policy server.
pub(crate) struct PolicyService {
    endpoint: Endpoint,
    options: Options,
    /// As the log names it.
    name: String,
    idle: Mutex<Vec<Connection>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    made: Instant,
    used: Instant,
    requests: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever a thread did when it panicked, what is in here is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PolicyServices {
    /// With the settings of a service of master.cf.
    pub(crate) fn new(view: &View) -> Self {
        let number = |name: &str| u64::try_from(view.int(name)).unwrap_or(0);
        let defaults = Options {
            timeout: view.duration("smtpd_policy_service_timeout"),
            max_idle: view.duration("smtpd_policy_service_max_idle"),
            max_ttl: view.duration("smtpd_policy_service_max_ttl"),
            request_limit: number("smtpd_policy_service_request_limit"),
            try_limit: u32::try_from(number("smtpd_policy_service_try_limit")).unwrap_or(u32::MAX).max(1),
            retry_delay: view.duration("smtpd_policy_service_retry_delay"),
            default_action: view.text("smtpd_policy_service_default_action"),
            context: view.text("smtpd_policy_service_policy_context"),
        };
        Self {
            defaults,
            queue_directory: PathBuf::from(view.text("queue_directory")),
            spawned: view.private_services("spawn"),
            stress: view.text("stress"),
            open: Mutex::default(),
        }
    }

    /// `inet:host:port` or `unix:path`, and `name=value` settings of its own.
    pub(crate) fn open(&self, endpoint: &str, settings: &[&str]) -> Result<Arc<PolicyService>, String> {
        let (endpoint, name) = match endpoint.split_once(':') {
            Some(("inet", rest)) if rest.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && !p.is_empty()) => {
                (Endpoint::Inet(rest.to_owned()), rest.to_owned())
            }
            Some(("unix" | "local", path)) if !path.is_empty() => {
                let service = path.strip_prefix("private/").or_else(|| private_name(path, &self.queue_directory));
                match service.filter(|service| self.spawned.iter().any(|name| name == service)) {
                    Some(service) => (Endpoint::Spawn(service.to_owned()), path.to_owned()),
                    // A relative path is below the queue directory.
                    None => (Endpoint::Unix(self.queue_directory.join(path)), path.to_owned()),
                }
            }
            _ => return Err(format!("need service transport:endpoint instead of \"{endpoint}\"")),
        };
        let mut options = self.defaults.clone();
        for setting in settings {
            // In braces where the value has blanks.
            let bare = setting.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(setting);
            let (key, value) = bare.split_once('=').ok_or_else(|| format!("missing '=' after \"{bare}\""))?;
            options.set(key.trim(), value.trim())?;
        }
        let key = (endpoint, options);
        if let Some(known) = lock(&self.open).get(&key) {
            return Ok(Arc::clone(known));
        }
        let (endpoint, options) = key.clone();
        let service = Arc::new(PolicyService { endpoint, options, name, idle: Mutex::default() });
        lock(&self.open).insert(key, Arc::clone(&service));
        Ok(service)
    }

    /// The question as the protocol has it.
    fn request(&self, facts: &Facts<'_>, context: &str) -> String {
        let peer = facts.peer;
        let mut out = String::with_capacity(1024);
        let mut put = |name: &str, value: &str| {
            out.push_str(name);
            out.push('=');
            // One line each, whatever a client said.
            out.extend(value.chars().map(|c| if c.is_control() { '?' } else { c }));
            out.push('\n');
        };
        let counted = matches!(facts.stage, "DATA" | "BDAT" | "END-OF-MESSAGE");
        let (server_address, server_port) =
            peer.server.map_or_else(Default::default, |server| (server.ip().to_string(), server.port().to_string()));
        let tls = facts.tls.cloned().unwrap_or_default();
        let (method, user, sasl_sender) =
            facts.sasl.map_or(("", "", ""), |sasl| (&*sasl.method, &*sasl.username, &*sasl.sender));
        put("request", "smtpd_access_policy");
        put("protocol_state", if facts.stage == "BDAT" { "DATA" } else { facts.stage });
        put("protocol_name", facts.protocol);
        put("client_address", &peer.address_text());
        put("client_name", &peer.name);
        put("client_port", &if peer.port == 0 { "unknown".to_owned() } else { peer.port.to_string() });
        put("reverse_client_name", &peer.reverse_name);
        put("server_address", &server_address);
        put("server_port", &server_port);
        put("helo_name", facts.helo.unwrap_or_default());
        put("sender", facts.sender.unwrap_or_default());
        put("recipient", facts.recipient.unwrap_or_default());
        put("recipient_count", &if counted { facts.recipients } else { 0 }.to_string());
        put("queue_id", &facts.queue_id.map(|id| id.to_string()).unwrap_or_default());
        let mut instance = String::new();
        // Writing to a String cannot fail.
        let (seconds, micros) = (facts.began.seconds(), facts.began.0 % 1_000_000);
        let _ = write!(instance, "{:x}.{seconds:x}.{micros:x}.{:x}", std::process::id(), facts.transaction);
        put("instance", &instance);
        put("size", &facts.size.to_string());
        put("etrn_domain", facts.etrn.unwrap_or_default());
        put("stress", if facts.stressed { "yes" } else { &self.stress });
        put("sasl_method", method);
        put("sasl_username", user);
        put("sasl_sender", sasl_sender);
        put("ccert_subject", &xtext(&tls.subject));
        put("ccert_issuer", &xtext(&tls.issuer));
        put("ccert_fingerprint", &tls.fingerprint);
        put("ccert_pubkey_fingerprint", &tls.public_key_fingerprint);
        put("encryption_protocol", &tls.protocol);
        put("encryption_cipher", &tls.cipher);
        put("encryption_keysize", &tls.key_size.to_string());
        put("policy_context", context);
        out.push('\n');
        out
    }
}

fn xtext(text: &str) -> String {
    let mut out = Vec::new();
    yamabiko_smtp::xtext::encode(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The name of a service whose socket an absolute path means.
fn private_name<'p>(path: &'p str, queue_directory: &Path) -> Option<&'p str> {
    let below = Path::new(path).strip_prefix(queue_directory).ok()?.strip_prefix("private").ok()?;
    below.to_str()
}

impl Options {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = || format!("bad value for {name}: \"{value}\"");
        let time = || {
            let written = yamabiko_config::value::parse_time(name, value).map_err(|_| bad())?;
            let seconds = written.seconds('s').and_then(|seconds| u64::try_from(seconds).ok());
            seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(bad)
        };
        match name {
            "timeout" => self.timeout = time()?,
            "max_idle" => self.max_idle = time()?,
            "max_ttl" => self.max_ttl = time()?,
            "retry_delay" => self.retry_delay = time()?,
            "request_limit" => self.request_limit = value.parse().map_err(|_| bad())?,
            "try_limit" => self.try_limit = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?,
            "default_action" => value.clone_into(&mut self.default_action),
            "policy_context" => value.clone_into(&mut self.context),
            _ => return Err(format!("unknown option: \"{name} = {value}\"")),
        }
        Ok(())
    }
}

impl PolicyService {
    /// `None` when the server could not be asked. What went wrong on the way is added to `warnings`.
    async fn ask(&self, request: &str, engine: Option<&dyn Admission>, warnings: &mut Vec<String>) -> Option<String> {
        let mut tries = 0;
        loop {
            let asked = tokio::time::timeout(self.options.timeout, self.converse(request, engine, warnings)).await;
            let error = match asked {
                Ok(Ok(action)) => return Some(action),
                Ok(Err(error)) => error,
                Err(_) => io::Error::new(io::ErrorKind::TimedOut, "Connection timed out"),
            };
            warnings.push(format!("problem talking to server {}: {}", self.name, plain(&error)));
            tries += 1;
            if tries >= self.options.try_limit {
                return None;
            }
            tokio::time::sleep(self.options.retry_delay).await;
        }
    }

    async fn converse(
        &self,
        request: &str,
        engine: Option<&dyn Admission>,
        warnings: &mut Vec<String>,
    ) -> io::Result<String> {
        if let Some(mut kept) = self.kept() {
            // A server may have gone since: that is no reason to complain, a new connection tells.
            if let Ok(action) = exchange(&mut kept.stream, request).await {
                self.keep(kept);
                return Ok(action);
            }
        }
        let mut connection = match self.connect(engine).await {
            Ok(connection) => connection,
            Err(error) => {
                warnings.push(format!("connect to {}: {}", self.name, plain(&error)));
                return Err(error);
            }
        };
        let action = exchange(&mut connection.stream, request).await?;
        self.keep(connection);
        Ok(action)
    }

    async fn connect(&self, engine: Option<&dyn Admission>) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match &self.endpoint {
            Endpoint::Inet(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                // Without it answers may come later, that is all.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Endpoint::Spawn(service) => {
                let engine = engine.ok_or_else(|| io::Error::other("no engine to start it"))?;
                let socket = engine.spawn(service).await?;
                socket.set_nonblocking(true)?;
                Box::new(UnixStream::from_std(socket)?)
            }
        };
        let now = Instant::now();
        Ok(Connection { stream, made: now, used: now, requests: 0 })
    }

    fn kept(&self) -> Option<Connection> {
        let now = Instant::now();
        let fresh = |c: &Connection| {
            now.duration_since(c.used) < self.options.max_idle && now.duration_since(c.made) < self.options.max_ttl
        };
        let mut idle = lock(&self.idle);
        idle.retain(fresh);
        idle.pop()
    }

    fn keep(&self, mut connection: Connection) {
        connection.requests += 1;
        connection.used = Instant::now();
        let limit = self.options.request_limit;
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE && (limit == 0 || connection.requests < limit) {
            idle.push(connection);
        }
    }
}

/// The system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// One question and its answer.
async fn exchange(stream: &mut Box<dyn Stream>, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        if let Some(action) = parse(&answer)? {
            return Ok(action);
        }
        if answer.len() > MOST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer"));
        }
    }
}

/// The action in the answer of a policy server; `None` as long as the answer is not whole.
///
/// # Errors
/// It is whole, and there is none in it.
pub fn parse(answer: &[u8]) -> io::Result<Option<String>> {
    let whole = answer == b"\n" || answer.ends_with(b"\n\n");
    if !whole {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(answer);
    let action = text.lines().find_map(|line| line.strip_prefix("action="));
    match action {
        Some(action) => Ok(Some(action.trim_end_matches('\r').to_owned())),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "missing attribute action in the answer")),
    }
}

impl<'a> Evaluation<'a> {
    pub(super) async fn delegate(&mut self, node: &Node, service: &PolicyService, about: About<'a>) -> Ruled<'a> {
        let services = &self.policy.shared.policy_services;
        let request = services.request(self.facts, &service.options.context);
        let mut warnings = Vec::new();
        let action = service.ask(&request, self.engine, &mut warnings).await;
        self.state.records.extend(warnings.into_iter().map(Record::Warning));
        let action = action.as_deref().unwrap_or(&service.options.default_action);
        if action.is_empty() {
            // Postfix takes it for OK; a server that has nothing to say should not let everything in.
            let text = format!("access table {} entry policy query has empty value", service.name);
            self.state.records.push(Record::Warning(text));
            return Said::Dunno.into();
        }
        self.obey_text(node, &service.name, action, about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (answer, expected) in [
            ("action=DUNNO\n\n", Some("DUNNO")),
            ("request=x\naction=PREPEND X-Greylist: delayed 5 = 5\n\n", Some("PREPEND X-Greylist: delayed 5 = 5")),
            ("action=DUNNO\r\n\n", Some("DUNNO")),
            ("action=\n\n", Some("")),
            ("action=DUNNO\n", None),
            ("", None),
        ] {
            assert_eq!(parse(answer.as_bytes()).unwrap().as_deref(), expected, "{answer:?}");
        }
        assert!(parse(b"\n").is_err() && parse(b"act=x\n\n").is_err());
        assert_eq!(parse(b"action=\xff\n\n").unwrap().as_deref(), Some("\u{fffd}"));
    }
}

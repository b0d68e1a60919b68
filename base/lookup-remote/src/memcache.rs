//! memcache_table(5): a cache, and optionally the table that it is a cache of.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Answer, LookupError, OpenError, Options, Table, Wanted};

use crate::pool::{Backend, Limits, Pool, Trouble};
use crate::settings::{Parameter, Settings, wanted_domain};
use crate::template::Template;

/// The server's own limit.
const LONGEST_KEY: usize = 250;

trait Both: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Both for T {}

enum Place {
    Unix(String),
    Inet(String),
}

struct Server {
    place: Place,
    line_limit: u64,
    data_limit: usize,
    flags: u32,
    ttl: u32,
}

enum Question {
    Get(String),
    Set(String, String),
}

struct Memcache {
    spec: Arc<str>,
    options: Options,
    format: Template,
    domains: Option<StringList>,
    backup: Option<Arc<dyn Table>>,
    tries: u32,
    pause: Duration,
    pool: Pool<Server>,
}

pub(crate) fn open(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Arc<dyn Table>, OpenError> {
    let settings = Settings::read(wanted, parameter)?;
    let spec = Arc::clone(&settings.spec);
    let server = settings.text_or("memcache", "inet:localhost:11211");
    let place = match server.split_once(':') {
        Some(("unix", path)) if !path.is_empty() => Place::Unix(path.to_owned()),
        Some(("inet", place)) if !place.is_empty() => {
            let bare = place.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
            Place::Inet(match bare {
                Some((host, port)) if !host.contains(':') => format!("{host}:{port}"),
                _ if !place.contains(':') => format!("{place}:11211"),
                _ => place.to_owned(),
            })
        }
        _ => return Err(OpenError(format!("{spec}: bad memcache server: {server} (inet:host:port or unix:path)"))),
    };
    let format = Template::question(&spec, "key_format", &settings.text_or("key_format", "%s"))?;
    let backend = Server {
        place,
        line_limit: settings.number("line_size_limit", 1024, 1)?.into(),
        data_limit: settings.number("data_size_limit", 10240, 1)? as usize,
        flags: settings.number("flags", 0, 0)?,
        ttl: settings.number("ttl", 3600, 0)?,
    };
    let timeout = settings.seconds("timeout", 2)?;
    let second = Duration::from_secs(1);
    let limits = Limits { connect: timeout, ask: timeout, idle: second * 60, retry: second };
    let backup = settings.filled("backup").map(|backup| (wanted.open)(&backup)).transpose()?;
    let (notices, name) = (wanted.options.clone(), Arc::clone(&spec));
    Ok(Arc::new(Memcache {
        options: wanted.options.clone(),
        format,
        domains: settings.domains(wanted),
        backup,
        tries: settings.number("max_try", 2, 1)?,
        pause: settings.seconds("retry_pause", 1)?,
        pool: Pool::new(backend, limits, Box::new(move |text| notices.warn(format!("{name}: {text}")))),
        spec,
    }))
}

impl Server {
    async fn line(&self, link: &mut BufReader<Box<dyn Both>>) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut *link).take(self.line_limit).read_until(b'\n', &mut line).await?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::other("the server closed the connection or wrote too long a line"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(io::Error::other)
    }

    async fn get(&self, link: &mut BufReader<Box<dyn Both>>, key: &str) -> io::Result<Result<Option<String>, String>> {
        link.get_mut().write_all(format!("get {key}\r\n").as_bytes()).await?;
        let first = self.line(link).await?;
        if first == "END" {
            return Ok(Ok(None));
        }
        if first.starts_with("SERVER_ERROR") {
            return Ok(Err(first));
        }
        let mut words = first.split(' ');
        let told =
            (words.next(), words.next(), words.next(), words.next().and_then(|length| length.parse::<usize>().ok()));
        let (Some("VALUE"), Some(name), Some(_), Some(length)) = told else {
            return Err(io::Error::other(format!("unexpected reply: {first:.80}")));
        };
        if name != key {
            return Err(io::Error::other("the answer is about another key"));
        }
        if length > self.data_limit {
            return Err(io::Error::other(format!("{length} bytes are more than data_size_limit")));
        }
        let mut data = vec![0; length + 2];
        link.read_exact(&mut data).await?;
        if data.split_off(length) != b"\r\n" || self.line(link).await? != "END" {
            return Err(io::Error::other("unexpected end of data"));
        }
        Ok(String::from_utf8(data).map(Some).map_err(|_| "the value is no UTF-8".to_owned()))
    }

    async fn set(&self, link: &mut BufReader<Box<dyn Both>>, key: &str, value: &str) -> io::Result<Result<(), String>> {
        let request = format!("set {key} {} {} {}\r\n{value}\r\n", self.flags, self.ttl, value.len());
        link.get_mut().write_all(request.as_bytes()).await?;
        let reply = self.line(link).await?;
        Ok(if reply == "STORED" { Ok(()) } else { Err(format!("update failed: {reply:.80}")) })
    }
}

impl Backend for Server {
    type Link = BufReader<Box<dyn Both>>;
    type Question = Question;
    type Reply = Option<String>;

    fn servers(&self) -> usize {
        1
    }

    fn shown(&self, _: usize) -> String {
        match &self.place {
            Place::Unix(path) => format!("unix:{path}"),
            Place::Inet(place) => format!("inet:{place}"),
        }
    }

    fn is_local(&self, _: usize) -> bool {
        matches!(self.place, Place::Unix(_))
    }

    async fn connect(&self, _: usize) -> Result<Self::Link, String> {
        let words = |error: io::Error| error.to_string();
        let stream: Box<dyn Both> = match &self.place {
            Place::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(words)?),
            Place::Inet(place) => {
                let stream = TcpStream::connect(place.as_str()).await.map_err(words)?;
                stream.set_nodelay(true).map_err(words)?;
                Box::new(stream)
            }
        };
        Ok(BufReader::new(stream))
    }

    async fn ask(&self, link: &mut Self::Link, question: &Question) -> Result<Option<String>, Trouble> {
        let result = match question {
            Question::Get(key) => self.get(link, key).await,
            Question::Set(key, value) => self.set(link, key, value).await.map(|stored| stored.map(|()| None)),
        };
        match result {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(why)) => Err(Trouble::Refused(why)),
            Err(error) => Err(Trouble::Lost(error.to_string())),
        }
    }
}

impl Memcache {
    fn failed(&self, why: String) -> LookupError {
        LookupError { table: Arc::clone(&self.spec), why }
    }

    /// The key that the server knows it by.
    fn stored_as(&self, key: &str) -> Option<String> {
        if !self.format.needs().met_by(key) {
            return None;
        }
        let stored = self.format.ask(key, |text, out| out.push_str(text))?;
        let fits =
            stored.len() <= LONGEST_KEY && !stored.contains(|char: char| char.is_whitespace() || char.is_control());
        fits.then_some(stored)
    }

    async fn get(&self, key: &str) -> Result<Option<String>, String> {
        let (pool, key, tries, pause) = (self.pool.clone(), key.to_owned(), self.tries, self.pause);
        crate::elsewhere(async move {
            let question = Question::Get(key);
            let mut last = pool.ask(&question).await;
            for _ in 1..tries {
                if last.is_ok() {
                    break;
                }
                tokio::time::sleep(pause).await;
                last = pool.ask(&question).await;
            }
            last
        })
        .await
    }

    async fn find(&self, key: &str) -> yamabiko_lookup::Found {
        let key = self.options.fold(key);
        if !wanted_domain(self.domains.as_ref(), &key).await? {
            return Ok(None);
        }
        let Some(stored) = self.stored_as(&key) else {
            // Not for the cache: the table behind it may have it.
            return match &self.backup {
                Some(backup) if self.format.needs().met_by(&key) => backup.lookup(&key).await,
                _ => Ok(None),
            };
        };
        let cached = self.get(&stored).await;
        match (&self.backup, cached) {
            (_, Ok(Some(value))) => Ok(Some(value)),
            (None, Ok(None)) => Ok(None),
            (None, Err(why)) => Err(self.failed(why)),
            (Some(backup), cached) => {
                let found = backup.lookup(&key).await?;
                if let (Some(value), Ok(_)) = (&found, &cached) {
                    let (pool, question) = (self.pool.clone(), Question::Set(stored, value.clone()));
                    if let Err(why) = crate::elsewhere(async move { pool.ask(&question).await }).await {
                        self.options.warn(format!("{}: {why}", self.spec));
                    }
                }
                Ok(found)
            }
        }
    }
}

impl Table for Memcache {
    fn name(&self) -> &str {
        &self.spec
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Later(Box::pin(self.find(key)))
    }
    fn is_remote(&self) -> bool {
        true
    }
}

//! pgsql_table(5).

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, SimpleQueryMessage, Socket};
use tokio_rustls::TlsConnector;
use yamabiko_lookup::{Answer, OpenError, Table, Wanted};

use crate::pool::{Backend, Limits, Pool, Trouble};
use crate::settings::{Parameter, Settings};
use crate::sql::{Rows, Shape, double_quotes};
use crate::tls::{Files, Trust, client};

struct Place {
    shown: String,
    local: bool,
    config: Config,
    tls: Arc<ClientConfig>,
}

struct Server {
    places: Vec<Place>,
}

/// A connection and whether a backslash stands for itself in its strings.
struct Link {
    client: Client,
    standard: bool,
}

struct Pgsql {
    shape: Shape,
    pool: Pool<Server>,
}

pub(crate) fn open(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Arc<dyn Table>, OpenError> {
    let settings = Settings::read(wanted, parameter)?;
    let shape = Shape::read(&settings, wanted)?;
    let hosts = settings.list("hosts", "");
    let hosts = if hosts.is_empty() { vec!["localhost".to_owned()] } else { hosts };
    let places = hosts.iter().map(|host| place(&settings, host)).collect::<Result<_, _>>()?;
    let encoding = settings.text_or("encoding", "UTF8");
    if !encoding.eq_ignore_ascii_case("UTF8") && !encoding.eq_ignore_ascii_case("UTF-8") {
        wanted.options.warn(format!("{}: encoding = {encoding}: UTF8 is used, the server converts", settings.spec));
    }
    let limits = Limits {
        connect: settings.seconds("timeout", 10)?,
        ask: settings.seconds("timeout", 30)?,
        idle: settings.seconds("idle_interval", 60)?,
        retry: settings.seconds("retry_interval", 60)?,
    };
    let (notices, spec) = (wanted.options.clone(), Arc::clone(&settings.spec));
    let warn = Box::new(move |text| notices.warn(format!("{spec}: {text}")));
    Ok(Arc::new(Pgsql { shape, pool: Pool::new(Server { places }, limits, warn) }))
}

fn place(settings: &Settings, host: &str) -> Result<Place, OpenError> {
    let bad = |why: String| OpenError(format!("{}: hosts: {why}", settings.spec));
    let (mut config, shown, trust, files) = if host.starts_with("postgresql://") || host.starts_with("postgres://") {
        let (url, trust, files) = without_tls(host);
        // What the parser says may have the password in it.
        let config = Config::from_str(&url).map_err(|_| bad("a connection URI that cannot be read".to_owned()))?;
        let shown =
            host.rsplit_once('@').map_or_else(|| "postgresql:".to_owned(), |(_, rest)| format!("postgresql://{rest}"));
        (config, shown, trust, files)
    } else {
        let mut config = Config::new();
        if let Some(path) = host.strip_prefix("unix:").or(Some(host).filter(|host| host.starts_with('/'))) {
            let path = Path::new(path);
            let socket =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".s.PGSQL."));
            match socket {
                Some(port) => {
                    config.host_path(path.parent().unwrap_or(path));
                    config.port(port.parse().map_err(|_| bad(format!("bad port in {host}")))?);
                }
                None => drop(config.host_path(path)),
            }
        } else {
            let plain = host.strip_prefix("inet:").unwrap_or(host);
            let (name, port) = match plain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((name, port)) => (name, port.strip_prefix(':')),
                None => plain.rsplit_once(':').map_or((plain, None), |(name, port)| (name, Some(port))),
            };
            config.host(name);
            if let Some(port) = port {
                config.port(port.parse().map_err(|_| bad(format!("bad port in {host}")))?);
            }
        }
        (config, host.to_owned(), Trust::Any, Files::default())
    };
    if config.get_dbname().is_none() {
        config.dbname(settings.needed("dbname")?);
    }
    if config.get_user().is_none()
        && let Some(user) = settings.filled("user")
    {
        config.user(user);
    }
    if config.get_password().is_none()
        && let Some(password) = settings.filled("password")
    {
        config.password(password);
    }
    config.application_name("postfix");
    let local = config.get_hosts().iter().any(|host| matches!(host, tokio_postgres::config::Host::Unix(_)));
    if trust != Trust::Any {
        config.ssl_mode(SslMode::Require);
    }
    let tls = client(trust, &files).map_err(bad)?;
    Ok(Place { shown, local, config, tls })
}

/// Takes the parameters of TLS out of a connection URI, except for `sslmode` values that the client knows itself.
fn without_tls(url: &str) -> (String, Trust, Files) {
    let Some((start, parameters)) = url.split_once('?') else { return (url.to_owned(), Trust::Any, Files::default()) };
    let (mut trust, mut files, mut rest) = (Trust::Any, Files::default(), Vec::new());
    for parameter in parameters.split('&') {
        match parameter.split_once('=') {
            Some(("sslmode", "verify-ca")) => trust = Trust::Signed,
            Some(("sslmode", "verify-full")) => trust = Trust::Named,
            Some(("sslmode", "allow")) => rest.push("sslmode=prefer"),
            Some(("sslrootcert", file)) => files.authorities = Some(file.replace("%2F", "/")),
            Some(("sslcert", file)) => files.certificate = Some(file.replace("%2F", "/")),
            Some(("sslkey", file)) => files.key = Some(file.replace("%2F", "/")),
            _ => rest.push(parameter),
        }
    }
    let url = if rest.is_empty() { start.to_owned() } else { format!("{start}?{}", rest.join("&")) };
    (url, trust, files)
}

/// Errors of this client say little at the top.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        return format!("{}: {}", server.severity(), server.message());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Backend for Server {
    type Link = Link;
    /// The question twice: for strings in which a backslash is one, and for others.
    type Question = [String; 2];
    type Reply = Rows;

    fn servers(&self) -> usize {
        self.places.len()
    }

    fn shown(&self, server: usize) -> String {
        self.places.get(server).map(|place| place.shown.clone()).unwrap_or_default()
    }

    fn is_local(&self, server: usize) -> bool {
        self.places.get(server).is_some_and(|place| place.local)
    }

    async fn connect(&self, server: usize) -> Result<Link, String> {
        let place = self.places.get(server).ok_or("no such server")?;
        let (client, connection) =
            place.config.connect(Tls(Arc::clone(&place.tls))).await.map_err(|error| words(&error))?;
        // Ends when the client is dropped.
        tokio::spawn(async move { drop(connection.await) });
        let answer = client.simple_query("SHOW standard_conforming_strings").await.map_err(|error| words(&error))?;
        let standard = answer.iter().any(
            |message| matches!(message, SimpleQueryMessage::Row(row) if row.try_get(0).ok().flatten() == Some("on")),
        );
        Ok(Link { client, standard })
    }

    async fn ask(&self, link: &mut Link, question: &[String; 2]) -> Result<Rows, Trouble> {
        let [standard, with_backslashes] = question;
        let text = if link.standard { standard } else { with_backslashes };
        let messages = link.client.simple_query(text).await.map_err(|error| match error.as_db_error() {
            // Classes 57 (shutdown, cancelled) and 08 (connection) end the conversation.
            Some(server) if !server.code().code().starts_with("57P") && !server.code().code().starts_with("08") => {
                Trouble::Refused(words(&error))
            }
            _ => Trouble::Lost(words(&error)),
        })?;
        let mut rows = Rows::new();
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                let values = (0..row.len()).map(|column| row.try_get(column).map(|value| value.map(str::to_owned)));
                let values = values.collect::<Result<_, _>>().map_err(|error| Trouble::Refused(words(&error)))?;
                rows.push(values);
            }
        }
        Ok(rows)
    }
}

/// Apostrophes and backslashes twice.
fn both(text: &str, out: &mut String) {
    for char in text.chars() {
        if matches!(char, '\'' | '\\') {
            out.push(char);
        }
        out.push(char);
    }
}

impl Pgsql {
    async fn find(&self, key: &str) -> yamabiko_lookup::Found {
        let key = self.shape.options.fold(key);
        if !self.shape.wants(&key).await? {
            return Ok(None);
        }
        let questions = (self.shape.question(&key, double_quotes), self.shape.question(&key, both));
        let (Some(first), Some(second)) = questions else { return Ok(None) };
        let pool = self.pool.clone();
        let rows = crate::elsewhere(async move { pool.ask(&[first, second]).await }).await;
        rows.and_then(|rows| self.shape.answer(&key, &rows)).map_err(|why| self.shape.failed(why))
    }
}

impl Table for Pgsql {
    fn name(&self) -> &str {
        &self.shape.spec
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Later(Box::pin(self.find(key)))
    }
    fn is_remote(&self) -> bool {
        true
    }
}

/// TLS for the client.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

struct TlsFor(Arc<ClientConfig>, ServerName<'static>);

struct Stream(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = TlsFor;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<TlsFor, io::Error> {
        // A UNIX socket has no name, and no TLS.
        let name = ServerName::try_from(if domain.is_empty() { "localhost" } else { domain }.to_owned());
        Ok(TlsFor(Arc::clone(&self.0), name.map_err(io::Error::other)?))
    }
}

impl TlsConnect<Socket> for TlsFor {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, io::Error>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { TlsConnector::from(self.0).connect(self.1, stream).await.map(Stream) })
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

//! mysql_table(5), for MySQL and MariaDB.

use std::path::PathBuf;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Error, OptsBuilder, Row, SslOpts, Value};
use yamabiko_config::main_cf::split_name_value;
use yamabiko_lookup::{Answer, OpenError, Table, Wanted};

use crate::pool::{Backend, Limits, Pool, Trouble};
use crate::settings::{Parameter, Settings};
use crate::sql::{Rows, Shape, double_quotes};
use crate::tls::authorities_in;

/// The socket that `localhost` means.
const SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];
const OPTION_FILES: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Unix(String),
    Inet(String, u16),
}

struct Server {
    places: Vec<Place>,
    options: OptsBuilder,
    needs_result: bool,
}

/// A connection and how apostrophes are written on it.
struct Link {
    connection: Conn,
    backslashes: bool,
}

struct Mysql {
    shape: Shape,
    pool: Pool<Server>,
}

pub(crate) fn open(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Arc<dyn Table>, OpenError> {
    let settings = Settings::read(wanted, parameter)?;
    let database = settings.needed("dbname")?;
    let shape = Shape::read(&settings, wanted)?;
    let from_file = option_file(&settings, wanted)?;
    let option = |name: &str| from_file.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let places =
        settings.list("hosts", "localhost").iter().map(|host| place(&settings, host)).collect::<Result<_, _>>()?;
    let options = OptsBuilder::default()
        .user(settings.filled("user").or_else(|| option("user")))
        .pass(settings.filled("password").or_else(|| option("password")))
        .db_name(Some(database))
        .prefer_socket(false)
        .stmt_cache_size(0)
        .ssl_opts(tls(&settings, option)?);
    settings.without_effect(wanted, &[("tls_ciphers", "rustls offers good ones only")]);
    let charset = settings.text_or("charset", "utf8mb4").to_ascii_lowercase();
    if !charset.starts_with("utf8") {
        wanted.options.warn(format!("{}: charset = {charset}: utf8mb4 is used, the server converts", settings.spec));
    }
    let limits = Limits {
        connect: settings.seconds("timeout", 10)?,
        ask: settings.seconds("timeout", 30)?,
        idle: settings.seconds("idle_interval", 60)?,
        retry: settings.seconds("retry_interval", 60)?,
    };
    let server = Server { places, options, needs_result: settings.bool("require_result_set", true)? };
    let (notices, spec) = (wanted.options.clone(), Arc::clone(&settings.spec));
    let pool = Pool::new(server, limits, Box::new(move |text| notices.warn(format!("{spec}: {text}"))));
    Ok(Arc::new(Mysql { shape, pool }))
}

fn place(settings: &Settings, host: &str) -> Result<Place, OpenError> {
    if let Some(path) = host.strip_prefix("unix:") {
        return Ok(Place::Unix(path.to_owned()));
    }
    let host = host.strip_prefix("inet:").unwrap_or(host);
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (name, port.strip_prefix(':')),
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    // As the client library of MySQL reads it.
    if name.eq_ignore_ascii_case("localhost") {
        let there = SOCKETS.iter().find(|path| std::path::Path::new(path).exists());
        return Ok(Place::Unix((*there.unwrap_or(&SOCKETS[0])).to_owned()));
    }
    let port = port.map_or(Ok(3306), str::parse);
    let port = port.map_err(|_| OpenError(format!("{}: bad port in hosts: {host}", settings.spec)))?;
    Ok(Place::Inet(name.to_owned(), port))
}

/// Names and values of `[client]` and of the group that is asked for.
fn option_file(settings: &Settings, wanted: &Wanted<'_>) -> Result<Vec<(String, String)>, OpenError> {
    let group = settings.text_or("option_group", "client");
    let file = settings.filled("option_file");
    if group.is_empty() && file.is_none() {
        return Ok(Vec::new());
    }
    let read = |path: &str| (wanted.options.open_file)(std::path::Path::new(path)).and_then(std::io::read_to_string);
    let text = match &file {
        Some(path) => {
            read(path).map_err(|error| OpenError(format!("{}: option_file {path}: {error}", settings.spec)))?
        }
        // The usual places: one that is not there or not for us is none.
        None => OPTION_FILES.iter().filter_map(|path| read(path).ok()).collect::<Vec<_>>().join("\n"),
    };
    Ok(options_of(&text, &group))
}

fn options_of(text: &str, group: &str) -> Vec<(String, String)> {
    let (mut inside, mut found) = (false, Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = name == "client" || name == group;
        } else if inside && let Ok((name, value)) = split_name_value(line) {
            let value = value.trim_matches(|char| char == '"' || char == '\'');
            found.push((name.replace('_', "-"), value.to_owned()));
        }
    }
    found
}

fn tls(settings: &Settings, option: impl Fn(&str) -> Option<String>) -> Result<Option<SslOpts>, OpenError> {
    let either = |name: &str, other: &str| settings.filled(name).or_else(|| option(other));
    let mut authorities: Vec<_> = either("tls_CAfile", "ssl-ca").into_iter().map(PathBuf::from).collect();
    if let Some(directory) = either("tls_CApath", "ssl-capath") {
        let files = authorities_in(&directory).map_err(|why| OpenError(format!("{}: {why}", settings.spec)))?;
        authorities.extend(files);
    }
    let (certificate, key) = (either("tls_cert_file", "ssl-cert"), either("tls_key_file", "ssl-key"));
    let verify = settings.bool("tls_verify_cert", false)?;
    if authorities.is_empty() && certificate.is_none() && key.is_none() && !verify {
        return Ok(None);
    }
    let path = PathBuf::from;
    let mut opts = SslOpts::default()
        .with_danger_accept_invalid_certs(authorities.is_empty() && !verify)
        .with_danger_skip_domain_validation(!verify);
    if !authorities.is_empty() {
        let files = authorities.into_iter().map(Into::into).collect();
        opts = opts.with_root_certs(files).with_disable_built_in_roots(true);
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            opts = opts.with_client_identity(Some(ClientIdentity::new(path(certificate).into(), path(key).into())));
        }
        (None, None) => {}
        _ => return Err(OpenError(format!("{}: tls_cert_file and tls_key_file go together", settings.spec))),
    }
    Ok(Some(opts))
}

/// Whether the connection can go on after `error`.
fn trouble(error: Error) -> Trouble {
    match error {
        Error::Server(error) => Trouble::Refused(error.to_string()),
        error => Trouble::Lost(error.to_string()),
    }
}

impl Backend for Server {
    type Link = Link;
    /// The question twice: with backslashes and with doubled apostrophes.
    type Question = [String; 2];
    type Reply = Rows;

    fn servers(&self) -> usize {
        self.places.len()
    }

    fn shown(&self, server: usize) -> String {
        match self.places.get(server) {
            Some(Place::Unix(path)) => format!("unix:{path}"),
            Some(Place::Inet(host, port)) => format!("inet:{host}:{port}"),
            None => String::new(),
        }
    }

    fn is_local(&self, server: usize) -> bool {
        matches!(self.places.get(server), Some(Place::Unix(_)))
    }

    async fn connect(&self, server: usize) -> Result<Link, String> {
        let options = match self.places.get(server) {
            Some(Place::Unix(path)) => self.options.clone().socket(Some(path.clone())).ssl_opts(None),
            Some(Place::Inet(host, port)) => self.options.clone().ip_or_hostname(host.clone()).tcp_port(*port),
            None => return Err("no such server".to_owned()),
        };
        let mut connection = Conn::new(options).await.map_err(|error| error.to_string())?;
        let mode: Option<String> =
            connection.query_first("SELECT @@SESSION.sql_mode").await.map_err(|error| error.to_string())?;
        connection.query_drop("SET NAMES utf8mb4").await.map_err(|error| error.to_string())?;
        let backslashes = !mode.unwrap_or_default().contains("NO_BACKSLASH_ESCAPES");
        Ok(Link { connection, backslashes })
    }

    async fn ask(&self, link: &mut Link, question: &[String; 2]) -> Result<Rows, Trouble> {
        let [with_backslashes, doubled] = question;
        let text = if link.backslashes { with_backslashes } else { doubled };
        let mut result = link.connection.query_iter(text.as_str()).await.map_err(trouble)?;
        let mut rows: Option<Rows> = None;
        let mut several = false;
        // A procedure gives its result sets and then a last one without columns.
        loop {
            if result.columns_ref().is_empty() {
                if result.is_empty() {
                    break;
                }
                result.next().await.map_err(trouble)?;
                continue;
            }
            let set: Vec<Row> = result.collect().await.map_err(trouble)?;
            let set =
                set.into_iter().map(|row| row.unwrap().into_iter().map(text_of).collect()).collect::<Result<_, _>>();
            several |= rows.is_some();
            rows = Some(set?);
        }
        result.drop_result().await.map_err(trouble)?;
        if several {
            return Err(Trouble::Refused("multiple result sets are not supported".to_owned()));
        }
        match rows {
            Some(rows) => Ok(rows),
            None if self.needs_result => {
                Err(Trouble::Refused("query failed: no result set (require_result_set)".to_owned()))
            }
            None => Ok(Rows::new()),
        }
    }
}

fn text_of(value: Value) -> Result<Option<String>, Trouble> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Trouble::Refused("a value of the answer is no UTF-8".to_owned())),
        },
        Value::Int(number) => Ok(Some(number.to_string())),
        Value::UInt(number) => Ok(Some(number.to_string())),
        other => Ok(Some(other.as_sql(true).trim_matches('\'').to_owned())),
    }
}

fn backslashes(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\x1a' => out.push_str("\\Z"),
            '\\' | '\'' | '"' => out.extend(['\\', char]),
            _ => out.push(char),
        }
    }
}

impl Mysql {
    async fn find(&self, key: &str) -> yamabiko_lookup::Found {
        let key = self.shape.options.fold(key);
        if !self.shape.wants(&key).await? {
            return Ok(None);
        }
        let questions = (self.shape.question(&key, backslashes), self.shape.question(&key, double_quotes));
        let (Some(first), Some(second)) = questions else { return Ok(None) };
        let pool = self.pool.clone();
        let rows = crate::elsewhere(async move { pool.ask(&[first, second]).await }).await;
        rows.and_then(|rows| self.shape.answer(&key, &rows)).map_err(|why| self.shape.failed(why))
    }
}

impl Table for Mysql {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_and_option_files() {
        let mut out = String::new();
        backslashes("a'b\\c\"\n\r\x1a", &mut out);
        assert_eq!(out, "a\\'b\\\\c\\\"\\n\\r\\Z");
        let text =
            "[mysqld]\nuser = no\n[client]\nuser=one\npassword = \"se cret\"\n# x\n[mail]\nssl_ca = /ca\nuser = two\n";
        assert_eq!(
            options_of(text, "mail"),
            [("user", "one"), ("password", "se cret"), ("ssl-ca", "/ca"), ("user", "two")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(options_of(text, "client").len(), 2);
    }

    /// Nothing listens: an error within the time limit, and no word about the password.
    #[test]
    fn no_server() {
        let (_kept, table) = crate::settings::tests::open(
            "mysql",
            "hosts = inet:127.0.0.1:1 unix:/no/such/socket\nuser = u\npassword = hidden\ndbname = d\nquery = SELECT '%s'\n",
        )
        .unwrap();
        for _ in 0..2 {
            let error = pollster::block_on(table.lookup("k")).unwrap_err();
            assert!(error.why.starts_with("no server can be used now: ") && !error.why.contains("hidden"), "{error}");
        }
    }
}

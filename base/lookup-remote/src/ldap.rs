//! ldap_table(5). Protocol version 3 is spoken, whatever `version` says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{DerefAliases, Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions};
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Answer, LookupError, OpenError, Options, Table, Wanted};

use crate::pool::{Backend, Limits, Pool, Trouble};
use crate::settings::{Parameter, Settings, wanted_domain};
use crate::template::{Joiner, Needs, Template};
use crate::tls::{Files, Trust, client};

/// Result codes of RFC 4511 section 4.1.9.
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const REFERRAL: u32 = 10;
const NO_SUCH_OBJECT: u32 = 32;
/// Codes after which the connection or the server is of no use: busy, unavailable, unwilling.
const OTHER_SERVER: [u32; 3] = [51, 52, 53];

/// Searches for one lookup, whatever the limits say.
const MOST_SEARCHES: u32 = 10_000;

enum Bind {
    None,
    Simple(String, String),
    External,
}

struct Server {
    urls: Vec<String>,
    settings: LdapConnSettings,
    bind: Bind,
    search: Search,
}

/// How answers are read.
struct Search {
    filter_scope: Scope,
    timeout: Duration,
    dereference: DerefAliases,
    size_limit: u32,
    recursion_limit: u32,
    chase: bool,
    dynamic_base: bool,
    result: Template,
    expansion_limit: u32,
    ordinary: Vec<String>,
    special: Vec<String>,
    terminal: Vec<String>,
    leaf: Vec<String>,
    /// The servers that are asked, `host` or `host:port`: a referral to another one cannot be followed.
    hosts: Vec<String>,
}

struct Question {
    key: String,
    base: String,
    filter: String,
}

struct Table5 {
    spec: Arc<str>,
    options: Options,
    base: Template,
    filter: Template,
    needs: Needs,
    domains: Option<StringList>,
    pool: Pool<Server>,
}

pub(crate) fn open(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Arc<dyn Table>, OpenError> {
    let settings = Settings::read(wanted, parameter)?;
    let spec = Arc::clone(&settings.spec);
    let bad = |name: &str, value: &str| OpenError(format!("{spec}: bad value in {name}: {value}"));
    let base = Template::question(&spec, "search_base", &settings.needed("search_base")?)?;
    let filter = settings.text_or("query_filter", "(mailacceptinggeneralid=%s)");
    let filter = if filter.starts_with('(') { filter } else { format!("({filter})") };
    let filter = Template::question(&spec, "query_filter", &filter)?;
    let format = settings.text("result_format").or_else(|| settings.text("result_filter"));
    let result = Template::result(&spec, "result_format", format.as_deref().unwrap_or("%s"))?;
    let expansion_limit = settings.number("expansion_limit", 0, 0)?;
    let scope = match settings.text_or("scope", "sub").to_ascii_lowercase().as_str() {
        "sub" => Scope::Subtree,
        "one" => Scope::OneLevel,
        "base" => Scope::Base,
        other => return Err(bad("scope", other)),
    };
    let dereference = match settings.number("dereference", 0, 0)? {
        0 => DerefAliases::Never,
        1 => DerefAliases::Searching,
        2 => DerefAliases::Finding,
        3 => DerefAliases::Always,
        other => return Err(bad("dereference", &other.to_string())),
    };
    let timeout = settings.seconds("timeout", 10)?;
    let search = Search {
        filter_scope: scope,
        timeout,
        dereference,
        size_limit: settings.number("size_limit", expansion_limit, 0)?,
        recursion_limit: settings.number("recursion_limit", 1000, 1)?,
        chase: matches!(settings.text_or("chase_referrals", "0").as_str(), "1" | "yes"),
        dynamic_base: base.depends_on_key(),
        result,
        expansion_limit,
        ordinary: settings.list("result_attribute", "maildrop"),
        special: settings.list("special_result_attribute", ""),
        terminal: settings.list("terminal_result_attribute", ""),
        leaf: settings.list("leaf_result_attribute", ""),
        hosts: urls(&settings)?.iter().filter_map(|url| host_of(url)).collect(),
    };
    let needs = base.needs().and(filter.needs()).and(search.result.needs());
    settings.without_effect(
        wanted,
        &[
            ("cache", "OpenLDAP has none any more"),
            ("cache_expiry", "OpenLDAP has no cache any more"),
            ("cache_size", "OpenLDAP has no cache any more"),
            ("debuglevel", "it is about OpenLDAP's library"),
            ("tls_random_file", "random numbers come from the system"),
            ("tls_cipher_suite", "rustls offers good ones only"),
            ("tls_ca_cert_dir", "name a file with all of them in tls_ca_cert_file"),
            ("sasl_realm", "only EXTERNAL is there"),
            ("sasl_minssf", "only EXTERNAL is there"),
        ],
    );
    let server =
        Server { urls: urls(&settings)?, settings: connection(&settings, timeout)?, bind: bind(&settings)?, search };
    // A lookup may be several searches; each has its own limit.
    let limits = Limits {
        connect: timeout,
        ask: timeout.saturating_mul(10),
        idle: settings.seconds("idle_interval", 60)?,
        retry: settings.seconds("retry_interval", 60)?,
    };
    let (notices, name) = (wanted.options.clone(), Arc::clone(&spec));
    let pool = Pool::new(server, limits, Box::new(move |text| notices.warn(format!("{name}: {text}"))));
    let (options, domains) = (wanted.options.clone(), settings.domains(wanted));
    Ok(Arc::new(Table5 { spec, options, base, filter, needs, domains, pool }))
}

fn urls(settings: &Settings) -> Result<Vec<String>, OpenError> {
    let port = settings.number("server_port", 389, 1)?;
    let hosts = settings.list("server_host", "localhost");
    Ok(hosts
        .into_iter()
        .map(|host| match host.split_once("://") {
            Some(_) => host,
            None if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                format!("ldap://{host}")
            }
            None => format!("ldap://{host}:{port}"),
        })
        .collect())
}

fn connection(settings: &Settings, timeout: Duration) -> Result<LdapConnSettings, OpenError> {
    // ldap_table(5): without tls_require_cert the server's certificate is not looked at.
    let trust = match settings.text_or("tls_require_cert", "no").to_ascii_lowercase().as_str() {
        "no" | "never" | "allow" => Trust::Any,
        _ => Trust::Named,
    };
    let files = Files {
        authorities: settings.filled("tls_ca_cert_file"),
        certificate: settings.filled("tls_cert"),
        key: settings.filled("tls_key"),
    };
    let start_tls = settings.bool("start_tls", false)?;
    let mut connection = LdapConnSettings::new().set_conn_timeout(timeout).set_starttls(start_tls);
    if start_tls || settings.text_or("server_host", "").contains("ldaps:") {
        let config = client(trust, &files).map_err(|why| OpenError(format!("{}: {why}", settings.spec)))?;
        connection = connection.set_config(config);
    }
    Ok(connection)
}

fn bind(settings: &Settings) -> Result<Bind, OpenError> {
    let kind = settings.text_or("bind", "yes").to_ascii_lowercase();
    match kind.as_str() {
        "no" | "none" => Ok(Bind::None),
        "yes" | "simple" => Ok(Bind::Simple(settings.text_or("bind_dn", ""), settings.text_or("bind_pw", ""))),
        "sasl" => match settings.text_or("sasl_mechs", "EXTERNAL").to_ascii_uppercase().as_str() {
            "EXTERNAL" => Ok(Bind::External),
            other => Err(OpenError(format!("{}: sasl_mechs = {other}: only EXTERNAL is there", settings.spec))),
        },
        other => Err(OpenError(format!("{}: bad value in bind: {other}", settings.spec))),
    }
}

/// One search that is still to do.
struct Step {
    base: String,
    scope: Scope,
    filter: String,
    attributes: Vec<String>,
    depth: u32,
    /// The first search of a lookup, whose base must be there.
    first: bool,
}

fn trouble(error: LdapError) -> Trouble {
    match error {
        LdapError::FilterParsing => Trouble::Refused("query_filter cannot be read by the server's rules".to_owned()),
        LdapError::Timeout { .. } => Trouble::Lost("no answer in time".to_owned()),
        other => Trouble::Lost(other.to_string()),
    }
}

impl Search {
    fn attributes(&self) -> Vec<String> {
        [&self.ordinary, &self.leaf, &self.terminal, &self.special].into_iter().flatten().cloned().collect()
    }

    /// Runs the search of a lookup and those that its answers ask for.
    async fn run(&self, ldap: &mut Ldap, question: &Question) -> Result<Option<String>, Trouble> {
        let mut joiner = Joiner::new(&self.result, &question.key, self.expansion_limit);
        let mut steps = VecDeque::from([Step {
            base: question.base.clone(),
            scope: self.filter_scope,
            filter: question.filter.clone(),
            attributes: self.attributes(),
            depth: 1,
            first: true,
        }]);
        let mut searches = 0;
        while let Some(step) = steps.pop_front() {
            searches += 1;
            if step.depth > self.recursion_limit || searches > MOST_SEARCHES {
                return Err(Trouble::Refused(format!("Recursion limit exceeded for key '{}'", question.key)));
            }
            let mut next = Vec::new();
            for entry in self.search(ldap, &step, &mut next).await? {
                self.read(&entry, &step, &mut joiner, &mut next).map_err(Trouble::Refused)?;
            }
            // What an entry refers to comes right behind it.
            for step in next.into_iter().rev() {
                steps.push_front(step);
            }
        }
        Ok(joiner.finish())
    }

    async fn search(&self, ldap: &mut Ldap, step: &Step, next: &mut Vec<Step>) -> Result<Vec<SearchEntry>, Trouble> {
        let limit = i32::try_from(self.size_limit).unwrap_or(i32::MAX);
        let options = SearchOptions::new().deref(self.dereference).sizelimit(limit);
        let found = ldap
            .with_search_options(options)
            .with_timeout(self.timeout)
            .search(&step.base, step.scope, &step.filter, &step.attributes)
            .await
            .map_err(trouble)?;
        let (raw, result) = (found.0, found.1);
        match result.rc {
            SUCCESS => {}
            REFERRAL if self.chase => self.follow(&result.refs, step.depth, next)?,
            REFERRAL => {
                return Err(Trouble::Refused(
                    "the server refers to another one (chase_referrals is not set)".to_owned(),
                ));
            }
            NO_SUCH_OBJECT if !step.first || self.dynamic_base => return Ok(Vec::new()),
            NO_SUCH_OBJECT => return Err(Trouble::Refused(format!("Search base '{}' not found", step.base))),
            SIZE_LIMIT_EXCEEDED => {
                return Err(Trouble::Refused(
                    "more entries than size_limit, or the server's own limit, allows".to_owned(),
                ));
            }
            code if OTHER_SERVER.contains(&code) => {
                return Err(Trouble::Lost(format!("the server answers {code} ({})", result.text)));
            }
            code => return Err(Trouble::Refused(format!("Search error {code} ({})", result.text))),
        }
        let mut entries = Vec::new();
        for entry in raw {
            if entry.is_ref() && self.chase {
                return Err(Trouble::Refused(
                    "the server has parts of the answer elsewhere (continuation references), which are not followed: \
                     name that server in server_host, or set chase_referrals = 0 to leave them out"
                        .to_owned(),
                ));
            }
            if !entry.is_ref() && !entry.is_intermediate() {
                entries.push(SearchEntry::construct(entry));
            }
        }
        if self.size_limit > 0 && entries.len() > self.size_limit as usize {
            return Err(Trouble::Refused("more entries than size_limit allows".to_owned()));
        }
        Ok(entries)
    }

    /// Takes an entry's values, and what it refers to.
    fn read(
        &self,
        entry: &SearchEntry,
        step: &Step,
        joiner: &mut Joiner<'_>,
        next: &mut Vec<Step>,
    ) -> Result<(), String> {
        let asked = |name: &String| step.attributes.iter().any(|asked| asked.eq_ignore_ascii_case(name));
        let values = |name: &String| -> Result<&[String], String> {
            if entry.bin_attrs.keys().any(|known| known.eq_ignore_ascii_case(name)) {
                return Err(format!("{}: {name} is no UTF-8", entry.dn));
            }
            let found = entry.attrs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            Ok(found.map_or(&[][..], |(_, values)| values))
        };
        let filled = |names: &[String]| -> Result<bool, String> {
            for name in names.iter().filter(|name| asked(name)) {
                if values(name)?.iter().any(|value| !value.is_empty()) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        if filled(&self.terminal)? {
            for value in self.terminal.iter().map(values).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
                joiner.add(value)?;
            }
            return Ok(());
        }
        let leaf = !filled(&self.special)?;
        let lists = [&self.ordinary[..], if leaf { &self.leaf[..] } else { &[] }];
        for name in lists.into_iter().flatten().filter(|name| asked(name)) {
            for value in values(name)? {
                joiner.add(value)?;
            }
        }
        for name in self.special.iter().filter(|name| asked(name)) {
            for value in values(name)?.iter().filter(|value| !value.is_empty()) {
                let depth = step.depth + 1;
                let is_url = ["ldap:", "ldaps:", "ldapi:"]
                    .iter()
                    .any(|start| value.get(..start.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(start)));
                if is_url {
                    match self.step_of_url(value, step.depth) {
                        Some(step) => next.push(step),
                        None => return Err(format!("{}: bad URL in {name}: {value}", entry.dn)),
                    }
                } else {
                    let attributes = self.attributes();
                    let (filter, base) = ("(objectclass=*)".to_owned(), value.clone());
                    next.push(Step { base, scope: Scope::Base, filter, attributes, depth, first: false });
                }
            }
        }
        Ok(())
    }

    /// Referrals to a server that is asked anyway become further steps.
    fn follow(&self, urls: &[String], depth: u32, next: &mut Vec<Step>) -> Result<(), Trouble> {
        let ours: Vec<&String> = urls
            .iter()
            .filter(|url| host_of(url).is_none_or(|host| host.is_empty() || self.hosts.contains(&host)))
            .collect();
        if ours.is_empty() {
            let named = urls.join(" ");
            return Err(Trouble::Refused(format!(
                "the server refers to {named:.200}, which is not asked: name that server in server_host"
            )));
        }
        next.extend(ours.into_iter().take(1).filter_map(|url| self.step_of_url(url, depth)));
        Ok(())
    }

    /// RFC 4516; asked of the same server, as Postfix does.
    fn step_of_url(&self, url: &str, depth: u32) -> Option<Step> {
        let rest = url.split_once("://")?.1;
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let mut parts = path.split('?');
        let base = percent(parts.next()?)?;
        let names = percent(parts.next().unwrap_or_default())?;
        let scope = match parts.next().unwrap_or_default() {
            "" | "base" => Scope::Base,
            "one" => Scope::OneLevel,
            "sub" => Scope::Subtree,
            _ => return None,
        };
        let filter = percent(parts.next().unwrap_or_default())?;
        let filter = if filter.is_empty() { "(objectclass=*)".to_owned() } else { filter };
        let ours = self.attributes();
        let named: Vec<&str> = names.split(',').filter(|name| !name.is_empty() && *name != "*").collect();
        let attributes = match named.is_empty() {
            true => ours,
            false => {
                ours.into_iter().filter(|name| named.iter().any(|named| named.eq_ignore_ascii_case(name))).collect()
            }
        };
        Some(Step { base, scope, filter, attributes, depth: depth + 1, first: false })
    }
}

/// `host` or `host:port` of a URL, in lower case and without the usual ports.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let host = rest.split(['/', '?']).next().unwrap_or_default().to_ascii_lowercase();
    let plain = host.strip_suffix(":389").or_else(|| host.strip_suffix(":636"));
    Some(plain.map_or(host.clone(), str::to_owned))
}

fn percent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let value = |digit: u8| char::from(digit).to_digit(16);
            out.push(u8::try_from(value(digits[0])? * 16 + value(digits[1])?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

impl Backend for Server {
    type Link = Ldap;
    type Question = Question;
    type Reply = Option<String>;

    fn servers(&self) -> usize {
        self.urls.len()
    }

    fn shown(&self, server: usize) -> String {
        self.urls.get(server).cloned().unwrap_or_default()
    }

    fn is_local(&self, server: usize) -> bool {
        self.urls.get(server).is_some_and(|url| url.starts_with("ldapi:"))
    }

    async fn connect(&self, server: usize) -> Result<Ldap, String> {
        let url = self.urls.get(server).ok_or("no such server")?;
        let made = LdapConnAsync::with_settings(self.settings.clone(), url).await;
        let (connection, mut ldap) = made.map_err(|error| format!("Unable to connect: {error}"))?;
        // Ends with the last handle.
        tokio::spawn(async move { drop(connection.drive().await) });
        let bound = match &self.bind {
            Bind::None => return Ok(ldap),
            Bind::Simple(name, password) => ldap.simple_bind(name, password).await,
            Bind::External => ldap.sasl_external_bind().await,
        };
        let bound = bound.map_err(|error| format!("Unable to bind: {error}"))?;
        match bound.rc {
            SUCCESS => Ok(ldap),
            code => Err(format!("Unable to bind: {code} ({})", bound.text)),
        }
    }

    async fn ask(&self, link: &mut Ldap, question: &Question) -> Result<Option<String>, Trouble> {
        if link.is_closed() {
            return Err(Trouble::Lost("the connection was closed".to_owned()));
        }
        self.search.run(link, question).await
    }
}

/// RFC 4515 section 3.
fn quote_filter(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '*' | '(' | ')' | '\\' | '\0' => out.push_str(&format!("\\{:02x}", u32::from(char))),
            _ => out.push(char),
        }
    }
}

/// RFC 4514 section 2.4.
fn quote_name(text: &str, out: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (place, char) in text.chars().enumerate() {
        let blank = char == ' ' && (place == 0 || place == last);
        if blank || (place == 0 && char == '#') || matches!(char, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            out.push('\\');
            out.push(char);
        } else if char == '\0' {
            out.push_str("\\00");
        } else {
            out.push(char);
        }
    }
}

impl Table5 {
    async fn find(&self, key: &str) -> yamabiko_lookup::Found {
        let key = self.options.fold(key);
        if !self.needs.met_by(&key) || !wanted_domain(self.domains.as_ref(), &key).await? {
            return Ok(None);
        }
        let filled = (self.base.ask(&key, quote_name), self.filter.ask(&key, quote_filter));
        let (Some(base), Some(filter)) = filled else { return Ok(None) };
        let question = Question { key: key.into_owned(), base, filter };
        let pool = self.pool.clone();
        crate::elsewhere(async move { pool.ask(&question).await })
            .await
            .map_err(|why| LookupError { table: Arc::clone(&self.spec), why })
    }
}

impl Table for Table5 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (text, filter, name) in [
            ("a*b(c)\\", "a\\2ab\\28c\\29\\5c", "a*b(c)\\\\"),
            (" #a,b=c ", " #a,b=c ", "\\ #a\\,b\\=c\\ "),
            ("#x", "#x", "\\#x"),
            ("é", "é", "é"),
        ] {
            let (mut first, mut second) = (String::new(), String::new());
            quote_filter(text, &mut first);
            quote_name(text, &mut second);
            assert_eq!((first.as_str(), second.as_str()), (filter, name));
        }
        assert_eq!(percent("a%2Cb").as_deref(), Some("a,b"));
        assert_eq!(percent("a%2"), None);
        assert_eq!(percent("%ff"), None);
    }
}

//! ldap_table(5). Protocol version 3 is spoken, whatever `version` says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{DerefAliases, Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions};
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{Answer, LookupError, OpenError, Options, Table, Wanted};

use crate::ldap_url::{self, Url};
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
/// Referrals one after the other, as OpenLDAP's library has it.
const MOST_REFERRALS: u32 = 5;
/// Servers for one lookup.
const MOST_SERVERS: usize = 16;

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
        chase: chases(&settings),
        dynamic_base: base.depends_on_key(),
        result,
        expansion_limit,
        ordinary: settings.list("result_attribute", "maildrop"),
        special: settings.list("special_result_attribute", ""),
        terminal: settings.list("terminal_result_attribute", ""),
        leaf: settings.list("leaf_result_attribute", ""),
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
            ("sasl_realm", "only EXTERNAL is there"),
            ("sasl_authz_id", "only EXTERNAL is there"),
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

fn chases(settings: &Settings) -> bool {
    matches!(settings.text_or("chase_referrals", "0").as_str(), "1" | "yes")
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
        directory: settings.filled("tls_ca_cert_dir"),
        certificate: settings.filled("tls_cert"),
        key: settings.filled("tls_key"),
    };
    let start_tls = settings.bool("start_tls", false)?;
    let mut connection = LdapConnSettings::new().set_conn_timeout(timeout).set_starttls(start_tls);
    // A referral may lead to such a server.
    let chases = chases(settings);
    if start_tls || chases || settings.text_or("server_host", "").to_ascii_lowercase().contains("ldaps:") {
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
    /// Which of the connections is asked.
    link: usize,
    base: String,
    scope: Scope,
    filter: String,
    attributes: Vec<String>,
    depth: u32,
    /// Referrals on the way here.
    referrals: u32,
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

/// A lookup under way.
struct Run<'a> {
    server: &'a Server,
    search: &'a Search,
    /// The table's own connection, then those to servers that it referred to, with their URLs.
    links: Vec<(String, Ldap)>,
}

impl Run<'_> {
    /// Runs the search of a lookup and those that its answers ask for.
    async fn whole(&mut self, question: &Question) -> Result<Option<String>, Trouble> {
        let mut joiner = Joiner::new(&self.search.result, &question.key, self.search.expansion_limit);
        let mut steps = VecDeque::from([Step {
            link: 0,
            base: question.base.clone(),
            scope: self.search.filter_scope,
            filter: question.filter.clone(),
            attributes: self.search.attributes(),
            depth: 1,
            referrals: 0,
            first: true,
        }]);
        let mut searches = 0;
        while let Some(step) = steps.pop_front() {
            searches += 1;
            if step.depth > self.search.recursion_limit || searches > MOST_SEARCHES {
                return Err(Trouble::Refused(format!("Recursion limit exceeded for key '{}'", question.key)));
            }
            let mut next = Vec::new();
            let entries = match self.search(&step, &mut next).await {
                // The connection of the table is all right when another one is not.
                Err(Trouble::Lost(why)) if step.link > 0 => return Err(self.elsewhere(step.link, &why)),
                entries => entries?,
            };
            for entry in entries {
                self.search.read(&entry, &step, &mut joiner, &mut next).map_err(Trouble::Refused)?;
            }
            // What an entry refers to comes right behind it.
            for step in next.into_iter().rev() {
                steps.push_front(step);
            }
        }
        Ok(joiner.finish())
    }

    fn elsewhere(&self, link: usize, why: &str) -> Trouble {
        let url = self.links.get(link).map_or("", |(url, _)| url);
        Trouble::Refused(format!("{url}, which the server refers to: {why}"))
    }

    async fn search(&mut self, step: &Step, next: &mut Vec<Step>) -> Result<Vec<SearchEntry>, Trouble> {
        let search = self.search;
        let limit = i32::try_from(search.size_limit).unwrap_or(i32::MAX);
        let options = SearchOptions::new().deref(search.dereference).sizelimit(limit);
        let Some((_, link)) = self.links.get_mut(step.link) else {
            return Err(Trouble::Lost("no such connection".to_owned()));
        };
        let found = link
            .with_search_options(options)
            .with_timeout(search.timeout)
            .search(&step.base, step.scope, &step.filter, &step.attributes)
            .await
            .map_err(trouble)?;
        let (raw, result) = (found.0, found.1);
        match result.rc {
            // What is elsewhere of the answer (continuation references); without chase_referrals it is left out.
            SUCCESS => {
                for url in result.refs.iter().filter(|_| search.chase) {
                    next.push(self.follow(std::slice::from_ref(url), step).await?);
                }
            }
            REFERRAL if search.chase => next.push(self.follow(&result.refs, step).await?),
            REFERRAL => {
                return Err(Trouble::Refused(
                    "the server refers to another one (chase_referrals is not set)".to_owned(),
                ));
            }
            NO_SUCH_OBJECT if !step.first || search.dynamic_base => return Ok(Vec::new()),
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
        let entries: Vec<_> =
            raw.into_iter().filter(|entry| !entry.is_intermediate()).map(SearchEntry::construct).collect();
        if search.size_limit > 0 && entries.len() > search.size_limit as usize {
            return Err(Trouble::Refused("more entries than size_limit allows".to_owned()));
        }
        Ok(entries)
    }

    /// The search goes on at the first of `urls` that can be reached (RFC 4511 section 4.1.10: they are equal).
    async fn follow(&mut self, urls: &[String], step: &Step) -> Result<Step, Trouble> {
        let shown = urls.join(" ");
        if step.referrals >= MOST_REFERRALS {
            return Err(Trouble::Refused(format!("more than {MOST_REFERRALS} referrals, the last to {shown:.200}")));
        }
        let mut why = "it cannot be read".to_owned();
        for url in urls {
            let Some(read) = Url::read(url) else { continue };
            let link = match &read.server {
                None => step.link,
                Some(server) => match self.link_to(server).await {
                    Ok(link) => link,
                    Err(error) => {
                        why = error;
                        continue;
                    }
                },
            };
            return Ok(Step {
                link,
                base: read.base.unwrap_or_else(|| step.base.clone()),
                scope: read.scope.unwrap_or(step.scope),
                filter: read.filter.unwrap_or_else(|| step.filter.clone()),
                attributes: step.attributes.clone(),
                depth: step.depth,
                referrals: step.referrals + 1,
                first: false,
            });
        }
        Err(Trouble::Refused(format!("the server refers to {shown:.200}: {why}")))
    }

    /// The connection to a server that was referred to. Only servers that the table names get its password; others are
    /// asked as anybody may ask them, which is what OpenLDAP's library does.
    async fn link_to(&mut self, server: &str) -> Result<usize, String> {
        if let Some(known) = self.links.iter().position(|(url, _)| url == server) {
            return Ok(known);
        }
        if self.links.len() >= MOST_SERVERS {
            return Err("too many servers for one lookup".to_owned());
        }
        let host = |url: &str| url.split_once("://").map(|(_, host)| host.to_owned());
        let ours =
            self.server.urls.iter().find(|url| ldap_url::server(url).is_some_and(|url| host(&url) == host(server)));
        // By our own URL: a referral must not talk us out of encryption.
        let (url, bind) = match ours {
            Some(url) => (url.as_str(), &self.server.bind),
            None if server.starts_with("ldap://") || server.starts_with("ldaps://") => (server, &Bind::None),
            None => return Err("not a server of the network".to_owned()),
        };
        let link = self.server.dial(url, bind);
        let made = tokio::time::timeout(self.search.timeout, link).await;
        let link = made.unwrap_or_else(|_| Err("no connection in time".to_owned()))?;
        self.links.push((server.to_owned(), link));
        Ok(self.links.len() - 1)
    }
}

impl Search {
    fn attributes(&self) -> Vec<String> {
        [&self.ordinary, &self.leaf, &self.terminal, &self.special].into_iter().flatten().cloned().collect()
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
                if Url::is(value) {
                    match self.step_of_url(value, step) {
                        Some(step) => next.push(step),
                        None => return Err(format!("{}: bad URL in {name}: {value}", entry.dn)),
                    }
                } else {
                    let attributes = self.attributes();
                    let (filter, base) = ("(objectclass=*)".to_owned(), value.clone());
                    let (link, referrals) = (step.link, step.referrals);
                    next.push(Step {
                        link,
                        base,
                        scope: Scope::Base,
                        filter,
                        attributes,
                        depth,
                        referrals,
                        first: false,
                    });
                }
            }
        }
        Ok(())
    }

    /// Asked of the same server, as Postfix does.
    fn step_of_url(&self, url: &str, from: &Step) -> Option<Step> {
        let url = Url::read(url)?;
        let named = |name: &String| url.attributes.iter().any(|named| named.eq_ignore_ascii_case(name));
        let ours = self.attributes();
        Some(Step {
            link: from.link,
            base: url.base.unwrap_or_default(),
            scope: url.scope.unwrap_or(Scope::Base),
            filter: url.filter.unwrap_or_else(|| "(objectclass=*)".to_owned()),
            attributes: if url.attributes.is_empty() { ours } else { ours.into_iter().filter(named).collect() },
            depth: from.depth + 1,
            referrals: from.referrals,
            first: false,
        })
    }
}

impl Server {
    /// A connection that is ready for questions.
    async fn dial(&self, url: &str, bind: &Bind) -> Result<Ldap, String> {
        let made = LdapConnAsync::with_settings(self.settings.clone(), url).await;
        let (connection, mut ldap) = made.map_err(|error| format!("Unable to connect: {error}"))?;
        // Ends with the last handle.
        tokio::spawn(async move { drop(connection.drive().await) });
        let bound = match bind {
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
        self.dial(self.urls.get(server).ok_or("no such server")?, &self.bind).await
    }

    async fn ask(&self, link: &mut Ldap, question: &Question) -> Result<Option<String>, Trouble> {
        if link.is_closed() {
            return Err(Trouble::Lost("the connection was closed".to_owned()));
        }
        Run { server: self, search: &self.search, links: vec![(String::new(), link.clone())] }.whole(question).await
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
    }
}

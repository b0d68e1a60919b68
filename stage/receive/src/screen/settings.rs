//! `postscreen_...` of a service, read once per configuration.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use yamabiko_config::View;
use yamabiko_lookup::matchlist::{AddressList, StringList};
use yamabiko_lookup::{Maps, TableSet};
use yamabiko_message::date::Zone;
use yamabiko_tls::Level;

use super::cache::Test;
use super::sites::{SharedSites, Sites};
use crate::footer::Footer;
use crate::peer::Discard;
use crate::settings::{under_stress, unescaped};
use crate::tls::{TlsSettings, TlsSource, screened};
use crate::upstream::Upstream;

/// What is done about a client that fails a test (`postscreen_..._action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing; the test is made again the next time.
    Ignore,
    /// All its mail is refused, so that the log knows it; the other tests are made.
    Enforce,
    /// The connection ends at once.
    Drop,
}

/// What `postscreen_access_list` says of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Unknown,
    /// It needs no tests.
    Allow,
    /// It is not wanted.
    Deny,
}

/// An element of the access list.
enum Rule {
    Mynetworks,
    Always(Access),
    Table(Maps),
}

/// Everything that a screened client meets.
#[allow(missing_docs)]
pub struct ScreenSettings {
    pub syslog_name: Arc<str>,
    pub myhostname: String,
    /// Before the wait; empty: nothing is said.
    pub teaser: String,
    pub banner: String,
    /// What `postscreen_reject_footer` is made with.
    pub footer: Footer,
    /// `postscreen_reject_footer`, unexpanded.
    pub reject_footer: String,
    /// `postscreen_reject_footer_maps`: a footer for a reply, in place of the usual one.
    pub reject_footer_maps: Maps,
    /// Normal, and under stress.
    pub greet_wait: [Duration; 2],
    pub command_time_limit: [Duration; 2],
    pub command_count_limit: u32,
    pub line_limit: usize,
    pub helo_required: bool,
    pub disable_vrfy: bool,
    pub smtputf8: bool,
    pub size_limit: u64,
    pub reactions: [Reaction; 5],
    /// Which tests are made at all.
    pub enabled: [bool; 5],
    /// How long a result holds, in seconds; lists in DNS: at most.
    pub ttl: [u64; 5],
    pub dnsbl_min_ttl: u64,
    pub dnsbl_timeout: Duration,
    pub dnsbl_threshold: i64,
    /// A negative rank up to which a client needs no other test.
    pub dnsbl_allow_threshold: i64,
    pub sites: SharedSites,
    pub denylist: Reaction,
    access: Vec<Rule>,
    mynetworks: AddressList,
    allow_interfaces: AddressList,
    pub respectful: bool,
    pub client_limit: u32,
    pub pre_queue_limit: usize,
    pub post_queue_limit: usize,
    pub forbidden_commands: StringList,
    pub command_filter: Maps,
    discard: Discard,
    discard_maps: Maps,
    pub tls: TlsSettings,
    /// As configured, for the log; empty: nothing is remembered.
    pub cache_map: String,
    /// Where it is kept.
    pub cache_file: Option<PathBuf>,
    pub cache_cleanup: Duration,
    pub cache_retention: u64,
    /// A proxy before us says who the client is.
    pub upstream: Upstream,
    /// The service of type `pass` that clients are handed to.
    pub pass_to: String,
    /// For the log, once.
    pub notices: Vec<String>,
}

fn time(name: &str, text: &str, default: u64) -> Duration {
    let seconds = yamabiko_config::value::parse_time(name, text).ok().and_then(|written| written.seconds('s'));
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default))
}

/// The tests in the order of [`Test`]: how parameters name them, and their time to live.
const TESTS: [(&str, &str); 5] = [
    ("greet", "greet_ttl"),
    ("dnsbl", "dnsbl_max_ttl"),
    ("pipelining", "pipelining_ttl"),
    ("non_smtp_command", "non_smtp_command_ttl"),
    ("bare_newline", "bare_newline_ttl"),
];

fn footer(view: &View) -> Footer {
    Footer {
        myhostname: view.text("myhostname"),
        mail_name: view.text("mail_name"),
        filter: unescaped(&unexpanded(view, "expansion_filter")),
        zone: Zone::system(),
    }
}

/// The value of a parameter that says what to do with a client that fails.
fn reaction(view: &View, test: &str, notices: &mut Vec<String>) -> Reaction {
    let name = format!("postscreen_{test}_action");
    let text = view.text(&name);
    match text.to_ascii_lowercase().as_str() {
        "ignore" => Reaction::Ignore,
        "enforce" => Reaction::Enforce,
        "drop" => Reaction::Drop,
        _ => {
            notices.push(format!("{name}: \"{text}\": need ignore, enforce or drop; ignore is used"));
            Reaction::Ignore
        }
    }
}

impl ScreenSettings {
    /// As a service of master.cf has them. Tables are opened in `tables`.
    pub fn from(view: &View, tables: &TableSet) -> Self {
        let mut notices = Vec::new();
        let both = |name: &str, default: u64| {
            [time(name, &view.text(name), default), time(name, &under_stress(view, name), default)]
        };
        let maps = |name: &str| Maps::open(tables, name, &view.text(name));
        let reactions = TESTS.map(|(test, _)| reaction(view, test, &mut notices));
        let denylist = reaction(view, "denylist", &mut notices);
        let reply_map = maps("postscreen_dnsbl_reply_map");
        let sites = Sites::read(&view.list("postscreen_dnsbl_sites"), reply_map, &mut notices);
        let access = access_rules(&view.text("postscreen_access_list"), tables, &mut notices);
        let (discard, unknown) = Discard::parse(&view.text("postscreen_discard_ehlo_keywords"));
        notices
            .extend(unknown.iter().map(|word| format!("postscreen_discard_ehlo_keywords: unknown keyword \"{word}\"")));
        let tls = screened_tls(view, tables, &mut notices);
        let upstream = Upstream::read(view, "postscreen", &mut notices);
        let cache_map = view.text("postscreen_cache_map");
        let cache_file = cache_file(&cache_map, &mut notices);
        let parents = |feature: &str| {
            view.list("parent_domain_matches_subdomains").iter().any(|word| word.eq_ignore_ascii_case(feature))
        };
        let hosts = |name: &str| AddressList::new(tables, name, &view.text(name), parents(name));
        let words = |name: &str| StringList::new(tables, name, &view.text(name), false);
        let count = |name: &str| usize::try_from(view.int(name)).unwrap_or(0);
        let seconds = |name: &str| view.duration(name).as_secs();
        let switched_on = |test: &str| view.bool(&format!("postscreen_{test}_enable"));
        Self {
            syslog_name: view.text("syslog_name").into(),
            myhostname: view.text("myhostname"),
            teaser: view.text("postscreen_greet_banner"),
            banner: view.text("smtpd_banner"),
            footer: footer(view),
            reject_footer: unexpanded(view, "reject_footer"),
            reject_footer_maps: maps("postscreen_reject_footer_maps"),
            greet_wait: both("postscreen_greet_wait", 6),
            command_time_limit: both("postscreen_command_time_limit", 300),
            command_count_limit: u32::try_from(view.int("postscreen_command_count_limit")).unwrap_or(20),
            line_limit: count("line_length_limit").clamp(512, 1 << 16),
            helo_required: view.bool("postscreen_helo_required"),
            disable_vrfy: view.bool("postscreen_disable_vrfy_command"),
            smtputf8: view.bool("smtputf8_enable"),
            size_limit: u64::try_from(view.int("message_size_limit")).unwrap_or(0),
            reactions,
            enabled: [
                true,
                !sites.is_empty(),
                switched_on("pipelining"),
                switched_on("non_smtp_command"),
                switched_on("bare_newline"),
            ],
            ttl: TESTS.map(|(_, ttl)| seconds(&format!("postscreen_{ttl}"))),
            dnsbl_min_ttl: seconds("postscreen_dnsbl_min_ttl"),
            dnsbl_timeout: view.duration("postscreen_dnsbl_timeout"),
            dnsbl_threshold: view.int("postscreen_dnsbl_threshold"),
            dnsbl_allow_threshold: view.int("postscreen_dnsbl_allowlist_threshold"),
            sites: Arc::new(sites),
            denylist,
            access,
            mynetworks: hosts("mynetworks"),
            allow_interfaces: hosts("postscreen_allowlist_interfaces"),
            respectful: view.bool("respectful_logging"),
            client_limit: u32::try_from(view.int("postscreen_client_connection_count_limit")).unwrap_or(0),
            // Postfix's postscreen ends when a small default_process_limit brings these below their least values.
            pre_queue_limit: count("postscreen_pre_queue_limit").max(10),
            post_queue_limit: count("postscreen_post_queue_limit").max(5),
            forbidden_commands: words("postscreen_forbidden_commands"),
            command_filter: maps("postscreen_command_filter"),
            discard,
            discard_maps: maps("postscreen_discard_ehlo_keyword_address_maps"),
            tls,
            cache_map,
            cache_file,
            cache_cleanup: view.duration("postscreen_cache_cleanup_interval"),
            cache_retention: seconds("postscreen_cache_retention_time"),
            upstream,
            pass_to: view.text("smtpd_service_name"),
            notices,
        }
    }

    /// The footer for a refusal. A table that does not answer at once is not waited for.
    pub fn footer_for(&self, reply: &str) -> Option<String> {
        let maps = &self.reject_footer_maps;
        let special = (!maps.is_empty()).then(|| maps.find(reply).now_or_never()?.ok()?).flatten();
        special.or_else(|| (!self.reject_footer.is_empty()).then(|| self.reject_footer.clone()))
    }

    /// Makes STARTTLS ready; until then it answers `454`.
    pub fn open_tls(&mut self, source: &TlsSource<'_>) {
        let said = self.tls.open(source);
        self.notices.extend(said);
    }

    /// What is done about a client that fails `test`.
    pub fn reaction(&self, test: Test) -> Reaction {
        // An entry per test.
        self.reactions[test as usize]
    }

    /// What the access list says. The second value is what the log should warn of: a table that does not answer says
    /// nothing.
    pub async fn access(&self, client: IpAddr) -> (Access, Option<String>) {
        for rule in &self.access {
            let said = match rule {
                Rule::Always(access) => return (*access, None),
                Rule::Mynetworks => match self.mynetworks.contains("unknown", client).await {
                    Ok(true) => Ok(Access::Allow),
                    Ok(false) => Ok(Access::Unknown),
                    Err(error) => Err(error.to_string()),
                },
                Rule::Table(maps) => match maps.find(&client.to_string()).await {
                    Ok(None) => continue,
                    Ok(Some(text)) => match word(&text) {
                        // The end of the list, as in Postfix.
                        Some(Access::Unknown) => return (Access::Unknown, None),
                        Some(access) => Ok(access),
                        None => Err(format!("{}: \"{text:.100}\": need permit, reject or dunno", maps.title())),
                    },
                    Err(error) => Err(error.to_string()),
                },
            };
            match said {
                Ok(Access::Unknown) => {}
                Ok(access) => return (access, None),
                Err(why) => return (Access::Unknown, Some(why)),
            }
        }
        (Access::Unknown, None)
    }

    /// Clients of this address of ours can come to be allowed. An error counts as no.
    pub async fn allows_at(&self, server: IpAddr) -> bool {
        self.allow_interfaces.contains("unknown", server).await.unwrap_or(false)
    }

    /// EHLO keywords that this client is not told.
    pub async fn discard_for(&self, client: IpAddr) -> Discard {
        match self.discard_maps.find(&client.to_string()).await {
            Ok(Some(words)) => Discard::parse(&words).0,
            _ => self.discard,
        }
    }

    /// An element asks a table with blocking calls.
    pub fn is_remote(&self) -> bool {
        let access = self.access.iter().any(|rule| matches!(rule, Rule::Table(maps) if maps.is_remote()));
        access || self.discard_maps.is_remote() || self.mynetworks.is_remote() || self.allow_interfaces.is_remote()
    }
}

/// `postscreen_NAME` as written; by default that is `$smtpd_NAME`, which is not expanded either.
fn unexpanded(view: &View, name: &str) -> String {
    let own = view.raw(&format!("postscreen_{name}"));
    if own == format!("$smtpd_{name}") { view.raw(&format!("smtpd_{name}")) } else { own }
}

/// TLS in the conversation: the settings of postscreen's own, with a level of its own.
fn screened_tls(view: &View, tables: &TableSet, notices: &mut Vec<String>) -> TlsSettings {
    let mut tls = TlsSettings::read_for_postscreen(view, tables);
    tls.options.wrapper = false;
    let timeout = |text: String| time("postscreen_starttls_timeout", &text, 300);
    tls.timeout =
        (timeout(view.text("postscreen_starttls_timeout")), timeout(under_stress(view, "postscreen_starttls_timeout")));
    tls.options.level = match view.text("postscreen_tls_security_level").as_str() {
        "" if view.bool("postscreen_enforce_tls") => Level::Encrypt,
        "" if view.bool("postscreen_use_tls") => Level::May,
        "" | "none" => Level::None,
        "may" => Level::May,
        "encrypt" => Level::Encrypt,
        other => {
            notices
                .push(format!("postscreen_tls_security_level: unsupported TLS level \"{other}\", using \"encrypt\""));
            Level::Encrypt
        }
    };
    tls.options.demand(view, &|name| screened(view, name));
    tls
}

fn word(text: &str) -> Option<Access> {
    Some(match text.trim().to_ascii_lowercase().as_str() {
        "permit" => Access::Allow,
        "reject" => Access::Deny,
        "dunno" => Access::Unknown,
        _ => return None,
    })
}

fn access_rules(text: &str, tables: &TableSet, notices: &mut Vec<String>) -> Vec<Rule> {
    const NAME: &str = "postscreen_access_list";
    let mut rules = Vec::new();
    for element in yamabiko_lookup::split_list(text) {
        match element.to_ascii_lowercase().as_str() {
            "permit_mynetworks" => rules.push(Rule::Mynetworks),
            "static:all" | "permit" => rules.push(Rule::Always(Access::Allow)),
            "reject" => rules.push(Rule::Always(Access::Deny)),
            "dunno" => rules.push(Rule::Always(Access::Unknown)),
            _ if element.contains(':') => rules.push(Rule::Table(Maps::open(tables, NAME, element))),
            _ => notices.push(format!("{NAME}: unknown command: {element}")),
        }
    }
    rules
}

/// Our own form of the cache lies beside Postfix's.
fn cache_file(map: &str, notices: &mut Vec<String>) -> Option<PathBuf> {
    if map.is_empty() {
        return None;
    }
    let spec = map.strip_prefix("proxy:").unwrap_or(map);
    match spec.split_once(':') {
        Some(("btree" | "hash" | "lmdb" | "dbm" | "sdbm" | "cdb", path)) if path.starts_with('/') => {
            Some(PathBuf::from(format!("{path}.txt")))
        }
        _ => {
            notices
                .push(format!("postscreen_cache_map = {map}: results cannot be kept there; they are kept in memory"));
            None
        }
    }
}

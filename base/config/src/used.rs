//! Which written names something uses: the table, transports, restriction classes, and references from other values.
//!
//! A name that an administrator has invented is in use when any value refers to it: in main.cf, in an `-o` of master.cf,
//! or in a default. Values of parameters whose `$name` are filled at use do not count. Names made from a database's name
//! (`ldap:foo` reads `foo_server_host`) are in use with the tables that name them.

use std::collections::HashSet;

use crate::expand::references;
use crate::main_cf::MainCf;
use crate::master_cf::Service;
use crate::table::{self, Kind, Of};
use crate::value::split_list;

/// What is used of main.cf and of each service's `-o` settings.
#[derive(Debug, Default)]
pub struct Usage {
    /// Names that values of main.cf and defaults refer to.
    referenced: HashSet<String>,
    /// Names that `-o` settings of any service refer to.
    referenced_by_any_service: HashSet<String>,
    /// For each service the names that its own `-o` values refer to.
    referenced_by_service: Vec<HashSet<String>>,
    transports: HashSet<String>,
    /// Names that are parameters of a database table.
    of_databases: Vec<Database>,
}

#[derive(Debug)]
struct Database {
    prefix: String,
    suffixes: &'static [&'static str],
}

/// Database table types whose parameters may stand in main.cf under the table's name, and the names they read.
static DATABASES: &[(&str, &[&str])] = &[
    (
        "ldap",
        &[
            "bind",
            "bind_dn",
            "bind_pw",
            "cache",
            "cache_expiry",
            "cache_size",
            "chase_referrals",
            "debuglevel",
            "dereference",
            "domain",
            "expansion_limit",
            "leaf_result_attribute",
            "query_filter",
            "recursion_limit",
            "result_attribute",
            "result_filter",
            "result_format",
            "sasl_authz_id",
            "sasl_mechs",
            "sasl_minssf",
            "sasl_realm",
            "scope",
            "search_base",
            "server_host",
            "server_port",
            "size_limit",
            "special_result_attribute",
            "start_tls",
            "terminal_result_attribute",
            "timeout",
            "tls_ca_cert_dir",
            "tls_ca_cert_file",
            "tls_cert",
            "tls_cipher_suite",
            "tls_key",
            "tls_random_file",
            "tls_require_cert",
            "version",
        ],
    ),
    ("mysql", SQL),
    ("pgsql", SQL),
    ("sqlite", SQL),
    (
        "memcache",
        &[
            "backup",
            "data_size_limit",
            "key_format",
            "line_size_limit",
            "max_try",
            "memcache",
            "retry_pause",
            "timeout",
            "ttl",
        ],
    ),
];

static SQL: &[&str] = &[
    "additional_conditions",
    "dbname",
    "dbpath",
    "domain",
    "encoding",
    "expansion_limit",
    "hosts",
    "idle_interval",
    "option_file",
    "option_group",
    "password",
    "query",
    "require_result_set",
    "result_format",
    "retry_interval",
    "select_field",
    "select_function",
    "table",
    "tls_CAfile",
    "tls_CApath",
    "tls_cert_file",
    "tls_ciphers",
    "tls_key_file",
    "tls_verify_cert",
    "user",
    "where_field",
];

impl Usage {
    /// Looks at everything that is written, and at the defaults.
    pub fn of(main: &MainCf, services: &[Service]) -> Usage {
        let mut usage =
            Usage { transports: services.iter().map(|service| service.name.clone()).collect(), ..Usage::default() };
        for parameter in table::parameters() {
            usage.referenced.extend(references(parameter.default));
        }
        for entry in main.entries() {
            usage.read_value(&entry.name, &entry.value);
        }
        for service in services {
            let mut of_service = HashSet::new();
            for setting in &service.overrides {
                of_service.extend(references_of(&setting.name, &setting.value));
                usage.read_tables(&setting.value);
            }
            usage.referenced_by_any_service.extend(of_service.iter().cloned());
            usage.referenced_by_service.push(of_service);
        }
        usage
    }

    fn read_value(&mut self, name: &str, value: &str) {
        self.referenced.extend(references_of(name, value));
        if name == "smtpd_restriction_classes" {
            self.referenced.extend(split_list(value));
        }
        self.read_tables(value);
    }

    fn read_tables(&mut self, value: &str) {
        if value.contains(':') {
            for word in split_list(value) {
                self.read_table_name(word.strip_prefix("proxy:").unwrap_or(&word));
            }
        }
    }

    fn read_table_name(&mut self, word: &str) {
        if let Some((kind, name)) = word.split_once(':')
            && !name.contains('/')
            && let Some((_, suffixes)) = DATABASES.iter().find(|(database, _)| *database == kind)
            && self.of_databases.len() < 1000
        {
            self.of_databases.push(Database { prefix: format!("{name}_"), suffixes });
        }
    }

    /// True when something uses what main.cf says for `name`.
    pub fn uses_main(&self, name: &str, services: &[Service]) -> bool {
        table::parameter(name).is_some_and(|parameter| !parameter.is_obsolete)
            || self.referenced.contains(name)
            || self.referenced_by_any_service.contains(name)
            || self.is_of_transport(name, services)
            || self.is_of_database(name)
    }

    /// True when something uses what the service with this index says for `name`.
    pub fn uses_service(&self, name: &str, index: usize, services: &[Service]) -> bool {
        table::parameter(name).is_some_and(|parameter| !parameter.is_obsolete)
            || self.referenced_by_service.get(index).is_some_and(|names| names.contains(name))
            || self.referenced.contains(name)
            || self.is_of_transport(name, services)
            || self.is_of_database(name)
    }

    /// True for names like `smtp_recipient_limit` when master.cf has a service that such a name speaks of.
    pub fn is_of_transport(&self, name: &str, services: &[Service]) -> bool {
        table::transport_parameters().iter().any(|parameter| {
            let transport = name.strip_suffix(parameter.suffix).and_then(|rest| rest.strip_suffix('_'));
            transport.is_some_and(|transport| {
                self.transports.contains(transport)
                    && services.iter().any(|service| service.name == transport && service_has(service, parameter.of))
            })
        })
    }

    fn is_of_database(&self, name: &str) -> bool {
        self.of_databases.iter().any(|database| {
            name.strip_prefix(&database.prefix).is_some_and(|suffix| database.suffixes.contains(&suffix))
        })
    }
}

/// The names that a value of `name` refers to when it is read; none for values whose `$name` are filled at use.
pub fn references_of(name: &str, value: &str) -> Vec<String> {
    match table::parameter(name) {
        Some(parameter) if parameter.kind == Kind::Raw => Vec::new(),
        _ => references(value),
    }
}

/// True when parameters of this family exist for a service: delivery agents, or services that run commands.
pub fn service_has(service: &Service, of: Of) -> bool {
    let command = service.command.rsplit('/').next().unwrap_or("");
    match of {
        Of::Transports => matches!(command, "smtp" | "lmtp" | "local" | "virtual" | "pipe" | "error"),
        Of::Commands => matches!(command, "pipe" | "spawn"),
    }
}

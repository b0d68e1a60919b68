//! The one table of parameters: name, kind, default expression, range, since, who reads it, status.
//!
//! Everything that knows parameters reads this table: the view and its checks, `postconf`, the notices. The lines stand by
//! subject in the files of this module; parameters that later work brings to life are listed in `later`, names that newer
//! Postfix calls deprecated in `deprecated`, parameters named after a transport in `transport`.
//!
//! Defaults are those of Postfix 3.7 as Debian builds it, except: `mail_name`, `mail_version`, `alias_maps` (no NIS),
//! `smtpd_forbid_bare_newline` and `smtpd_forbid_unauth_pipelining` (the safer ones of 3.10). Names that came after 3.7 have
//! the defaults of the release that brought them.

mod about;
mod addresses;
mod anvil;
mod bounces;
mod cleanup;
mod deprecated;
mod later;
mod ledger;
mod local;
mod logging;
mod mailauth;
mod milter;
mod postscreen;
mod queue;
mod resolver;
mod resources;
mod sasl;
mod smtp;
mod smtpd;
mod system;
mod tables;
mod tls_client;
mod tls_common;
mod tls_server;
mod tlsproxy;
mod transport;
mod verify;

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

pub use deprecated::replacement;
pub use later::{IGNORED, LATER};
pub(crate) use transport::transport_status;
pub use transport::{Of, TransportParameter, transport_parameter, transport_parameters};

/// What kind of value a parameter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A number below 2^31 with least and greatest value; a greatest of 0 means none.
    Int {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed, 0 when there is none.
        max: i64,
    },
    /// As `Int`, for sizes, which may be larger than 2^31.
    Size {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed, 0 when there is none.
        max: i64,
    },
    /// A time; range in seconds.
    Time {
        /// Smallest value allowed, in seconds.
        min: i64,
        /// Largest value allowed in seconds, 0 when there is none.
        max: i64,
    },
    /// One text, or words in a form of its own; range is its length in bytes.
    Text {
        /// Shortest length allowed.
        min: usize,
        /// Longest length allowed, 0 when there is none.
        max: usize,
    },
    /// A text whose `$name` are filled when it is used (per delivery, per reply), not when it is read.
    Raw,
    /// A file or directory.
    Path {
        /// Shortest length allowed.
        min: usize,
    },
    /// One of some words; when `words` is empty any are taken.
    Choice {
        /// The words allowed.
        words: &'static [&'static str],
        /// Shortest length allowed.
        min: usize,
    },
    /// Words separated by commas and blanks.
    List {
        /// Shortest length allowed.
        min: usize,
    },
    /// Lookup tables `type:name`, and where lists allow it patterns and file names.
    Tables {
        /// Shortest length allowed.
        min: usize,
    },
    /// Access restrictions, in order.
    Restrictions,
}

/// What the program does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does what it says.
    Honoured,
    /// Known, without effect here; the text says why that is right.
    Ignored(&'static str),
    /// It will do what it says when the named work is done; until then setting it is reported.
    NotYet(&'static str),
    /// Postfix itself has dropped it.
    Obsolete,
}

/// One parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name in main.cf.
    pub name: &'static str,
    /// Kind of value and range.
    pub kind: Kind,
    /// Default, unexpanded. Empty for computed ones.
    pub default: &'static str,
    /// The default is computed from the machine or the process (myhostname, mynetworks, ...).
    pub is_computed: bool,
    /// The first Postfix series with this name.
    pub since: &'static str,
    /// The programs that read it, comma separated; `all` for all of them.
    pub readers: &'static str,
    /// No longer in Postfix.
    pub is_obsolete: bool,
}

impl Parameter {
    const fn new(name: &'static str, default: &'static str, kind: Kind) -> Parameter {
        Parameter { name, kind, default, is_computed: false, since: "1.0", readers: "", is_obsolete: false }
    }

    const fn computed(self) -> Parameter {
        Parameter { is_computed: true, ..self }
    }

    const fn since(self, since: &'static str) -> Parameter {
        Parameter { since, ..self }
    }

    const fn used_by(self, readers: &'static str) -> Parameter {
        Parameter { readers, ..self }
    }

    const fn obsolete(self) -> Parameter {
        Parameter { is_obsolete: true, ..self }
    }

    const fn at_least(self, least: i64) -> Parameter {
        self.between(least, 0)
    }

    const fn between(self, min: i64, max: i64) -> Parameter {
        let kind = match self.kind {
            Kind::Int { .. } => Kind::Int { min, max },
            Kind::Size { .. } => Kind::Size { min, max },
            Kind::Time { .. } => Kind::Time { min, max },
            other => other,
        };
        Parameter { kind, ..self }
    }

    const fn length(self, min: usize, max: usize) -> Parameter {
        let kind = match self.kind {
            Kind::Text { .. } => Kind::Text { min, max },
            Kind::Path { .. } => Kind::Path { min },
            Kind::Choice { words, .. } => Kind::Choice { words, min },
            Kind::List { .. } => Kind::List { min },
            Kind::Tables { .. } => Kind::Tables { min },
            other => other,
        };
        Parameter { kind, ..self }
    }

    const fn required(self) -> Parameter {
        self.length(1, 0)
    }

    const fn one_of(self, words: &'static [&'static str]) -> Parameter {
        let kind = match self.kind {
            Kind::Choice { min, .. } => Kind::Choice { words, min },
            other => other,
        };
        Parameter { kind, ..self }
    }

    /// What the program does with it.
    pub fn status(&self) -> Status {
        if self.is_obsolete { Status::Obsolete } else { later::status(self.name) }
    }

    /// One sentence of explanation; empty where none is written yet.
    pub fn about(&self) -> &'static str {
        about::about(self.name)
    }
}

const fn bool(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Bool)
}

const fn int(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Int { min: 0, max: 0 })
}

const fn size(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Size { min: 0, max: 0 })
}

const fn time(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Time { min: 0, max: 0 })
}

const fn text(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Text { min: 0, max: 0 })
}

const fn raw(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Raw)
}

const fn path(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Path { min: 0 })
}

const fn choice(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Choice { words: &[], min: 0 })
}

const fn list(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::List { min: 0 })
}

const fn tables(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Tables { min: 0 })
}

const fn restrictions(name: &'static str, default: &'static str) -> Parameter {
    Parameter::new(name, default, Kind::Restrictions)
}

static SORTED: LazyLock<Vec<&'static Parameter>> = LazyLock::new(|| {
    let mut all: Vec<&'static Parameter> = [
        addresses::PARAMETERS,
        anvil::PARAMETERS,
        bounces::PARAMETERS,
        cleanup::PARAMETERS,
        ledger::PARAMETERS,
        local::PARAMETERS,
        logging::PARAMETERS,
        mailauth::PARAMETERS,
        milter::PARAMETERS,
        postscreen::PARAMETERS,
        queue::PARAMETERS,
        resolver::PARAMETERS,
        resources::PARAMETERS,
        sasl::PARAMETERS,
        smtp::PARAMETERS,
        smtpd::PARAMETERS,
        system::PARAMETERS,
        tables::PARAMETERS,
        tls_client::PARAMETERS,
        tls_common::PARAMETERS,
        tls_server::PARAMETERS,
        tlsproxy::PARAMETERS,
        verify::PARAMETERS,
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|parameter| parameter.name);
    all
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Parameter>> =
    LazyLock::new(|| SORTED.iter().map(|parameter| (parameter.name, *parameter)).collect());

/// Every parameter, sorted by name as `postconf` prints them.
pub fn parameters() -> &'static [&'static Parameter] {
    &SORTED
}

/// The parameter with this name.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    BY_NAME.get(name).copied()
}

/// True when the default of some parameter refers to `name`.
pub fn parameters_refer_to(name: &str) -> bool {
    REFERENCED.contains(name)
}

static REFERENCED: LazyLock<HashSet<String>> =
    LazyLock::new(|| SORTED.iter().flat_map(|parameter| crate::expand::references(parameter.default)).collect());

/// True for the names that tell about the process and cannot be set.
pub fn is_read_only(name: &str) -> bool {
    matches!(name, "process_id" | "process_name" | "service_name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_once() {
        assert!(parameters().windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    /// Whatever the level, a default must be a value of its own parameter.
    #[test]
    fn every_default_is_a_value() {
        for level in ["", "compatibility_level = 0\n", "compatibility_level = 2\n", "compatibility_level = 3.11\n"] {
            let config =
                crate::Config::from_texts(level, "", ("main.cf", "master.cf"), &crate::Host::default()).unwrap();
            for parameter in parameters().iter().filter(|parameter| !parameter.is_obsolete) {
                assert_eq!(config.main().check_parameter(parameter), Ok(()), "{}", parameter.name);
            }
        }
    }

    #[test]
    fn every_reference_of_a_default_is_a_name() {
        for parameter in parameters().iter().filter(|parameter| parameter.kind != Kind::Raw) {
            for name in crate::expand::references(parameter.default) {
                let known = super::parameter(&name).is_some();
                assert!(known, "{} refers to {name}", parameter.name);
            }
        }
    }

    #[test]
    fn the_lists_of_statuses_name_parameters() {
        let groups = LATER.iter().flat_map(|group| group.patterns.iter().copied());
        for pattern in groups.chain(IGNORED.iter().map(|(pattern, _)| *pattern)) {
            assert!(parameters().iter().any(|p| later::matches(pattern, p.name)), "{pattern} matches nothing");
        }
    }
}

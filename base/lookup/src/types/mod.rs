//! The types of tables, a file per type.

mod cidr;
mod combined;
mod expression;
pub(crate) mod file;
mod fixed;
mod inline;
mod keyed;
mod lmdb;
mod prefilter;
mod remote;
mod replace;
mod rules;

use std::sync::Arc;

use crate::Table;
use crate::set::{OpenError, Options, TableSet, Usage, Wanted};

/// One request to open a table.
pub(crate) struct Opening<'a> {
    pub set: &'a TableSet,
    /// `type:name` as written.
    pub spec: &'a str,
    pub usage: Usage,
    /// How many tables this one is inside of.
    pub depth: u32,
}

impl Opening<'_> {
    pub fn options(&self) -> &Options {
        self.set.options()
    }

    /// Opens a table that this one names.
    pub fn open(&self, spec: &str) -> Result<Arc<dyn Table>, OpenError> {
        self.set.open_nested(spec, self.usage, self.depth + 1)
    }
}

/// Opens any table.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Table>, OpenError> {
    let spec = opening.spec;
    let (kind, name) = match spec.split_once(':') {
        // The suppression list has one place, and needs no name.
        Some((kind, name)) if !kind.is_empty() && (!name.is_empty() || kind == "suppression") => (kind, name),
        _ => return Err(OpenError(format!("open dictionary: expecting \"type:name\" form instead of \"{spec}\""))),
    };
    match kind {
        "proxy" => opening.open(name),
        "hash" | "btree" => keyed::open(opening, kind, name, keyed::Index::Db),
        "cdb" => keyed::open(opening, kind, name, keyed::Index::Cdb),
        "lmdb" => keyed::open(opening, kind, name, keyed::Index::Lmdb),
        "texthash" => keyed::open(opening, kind, name, keyed::Index::None),
        "regexp" => rules::open::<expression::Posix>(opening, name),
        "pcre" => rules::open::<expression::Perl>(opening, name),
        "cidr" => rules::open::<cidr::Cidr>(opening, name),
        "unionmap" => combined::union(opening, spec, name),
        "pipemap" => combined::pipe(opening, spec, name),
        "randmap" => combined::random(spec, name),
        "unix" => combined::accounts(spec, name, opening.options()),
        "tcp" => remote::tcp(spec, name, opening.options()),
        "socketmap" => remote::socketmap(spec, name, opening.options()),
        "inline" => inline::open(opening, spec, name),
        "static" => fixed::constant(spec, name),
        "environ" => Ok(fixed::environ(spec, opening.options())),
        "fail" => Ok(fixed::fail(spec)),
        "internal" => Ok(fixed::internal(spec)),
        _ => extended(opening, kind, name),
    }
}

/// A type that somebody else opens, or nobody.
fn extended(opening: &Opening<'_>, kind: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    let open = |spec: &str| opening.open(spec);
    let wanted = Wanted { kind, name, spec: opening.spec, open: &open, options: opening.options() };
    if let Some(table) = opening.options().extension.as_ref().and_then(|extension| extension(&wanted)) {
        return table;
    }
    Err(OpenError(match kind {
        "mysql" | "pgsql" | "ldap" | "sqlite" | "memcache" | "mongodb" | "nis" | "nisplus" | "dbm" | "sdbm" => {
            format!("table type \"{kind}\" is not built into this program: {}", opening.spec)
        }
        _ => format!("unsupported dictionary type: {kind}"),
    }))
}

//! [`Maps`]: the tables of one parameter in order, and Postfix's query orders over them.
//!
//! For addresses each form of the key is tried in all tables before the next form; partial forms (without extension,
//! without domain, the domain alone) are never tried in pattern tables, which get the full key only.

use std::sync::Arc;

use crate::set::{Notice, NoticeKind, Options, TableSet, Usage};
use crate::{Answer, LookupError, Table, fold_case, split_list};

/// The tables of one parameter, in order.
#[derive(Clone)]
pub struct Maps {
    title: Arc<str>,
    tables: Vec<Arc<dyn Table>>,
    options: Arc<Options>,
    /// Servers behind a socket are asked for keys as they were written: they may be codes where case counts (SRS).
    keeps_case: bool,
}

/// Parameters whose tables are about addresses that are rewritten, by the ends of their names.
const REWRITING: [&str; 4] = ["canonical_maps", "virtual_alias_maps", "generic_maps", "bcc_maps"];

/// A value, and how it was found: for explanations.
#[derive(Clone)]
pub struct Hit {
    /// The value, as the table gave it.
    pub value: String,
    /// The key that was found.
    pub key: String,
    /// The extension (with its delimiter) that was taken off the address to find it.
    pub extension: Option<String>,
    /// The table.
    pub table: Arc<dyn Table>,
}

impl Hit {
    /// `file:line` where the table knows it, else `type:name`.
    pub fn source(&self) -> String {
        self.table.source_of(&self.key).unwrap_or_else(|| self.table.name().to_owned())
    }
}

impl std::fmt::Debug for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.value, self.table.name())
    }
}

/// How parent domains are asked for: with or without a leading dot (`parent_domain_matches_subdomains`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentStyle {
    /// Only the domain itself.
    None,
    /// `example.com` also stands for its subdomains.
    Plain,
    /// `.example.com` stands for the subdomains of `example.com`.
    Dot,
}

/// Says whether a domain is one of ours: `$myorigin`, in `$mydestination`, or an address literal of an interface.
pub trait IsLocal: Send + Sync {
    /// The domain is given without `@`.
    fn is_local<'a>(&'a self, domain: &'a str) -> Answer<'a, bool>;
}

/// Whether the domain of the address is local; asked only when a form depends on it.
#[derive(Clone, Copy)]
pub enum Locality<'a> {
    /// Known already.
    Known(bool),
    /// Ask.
    Ask(&'a dyn IsLocal),
}

/// Which forms of an address are tried, always in this order.
#[derive(Clone, Copy)]
pub struct AddressForms<'a> {
    /// `user+ext@domain`
    pub full: bool,
    /// `user@domain`, when `delimiters` split an extension off.
    pub without_extension: bool,
    /// `user+ext` and `user`, when the domain is local.
    pub localpart_if_local: bool,
    /// `user+ext@` and `user@`, when the domain is local.
    pub localpart_at_if_local: bool,
    /// `@domain`
    pub at_domain: bool,
    /// `domain` and its parents.
    pub domain: Option<ParentStyle>,
    /// `user+ext@` and `user@`, whatever the domain.
    pub localpart_at: bool,
    /// `*`, when nothing else was found.
    pub wildcard: bool,
    /// `recipient_delimiter`; empty: no extensions.
    pub delimiters: &'a str,
    /// Whether the domain is local.
    pub locality: Locality<'a>,
}

impl<'a> AddressForms<'a> {
    const NONE: Self = Self {
        full: true,
        without_extension: true,
        localpart_if_local: false,
        localpart_at_if_local: false,
        at_domain: false,
        domain: None,
        localpart_at: false,
        wildcard: false,
        delimiters: "",
        locality: Locality::Known(false),
    };

    /// canonical(5), virtual(5), generic(5), relocated(5), bcc and the `sender_dependent_` maps: `user+ext@domain`,
    /// `user@domain`, `user+ext`, `user` (local domains only), `@domain`.
    pub const fn mapping(delimiters: &'a str, locality: Locality<'a>) -> Self {
        Self { localpart_if_local: true, at_domain: true, delimiters, locality, ..Self::NONE }
    }

    /// virtual mailbox maps: `user+ext@domain`, `user@domain`, `@domain`.
    pub const fn mailbox(delimiters: &'a str) -> Self {
        Self { at_domain: true, delimiters, ..Self::NONE }
    }

    /// access(5) mail addresses: `user+ext@domain`, `user@domain`, `domain` and parents, `user+ext@`, `user@`.
    pub const fn access(delimiters: &'a str, parents: ParentStyle) -> Self {
        Self { domain: Some(parents), localpart_at: true, delimiters, ..Self::NONE }
    }

    /// transport(5): `user+ext@domain`, `user@domain`, `domain` and parents, `*`.
    pub const fn transport(delimiters: &'a str, parents: ParentStyle) -> Self {
        Self { domain: Some(parents), wildcard: true, delimiters, ..Self::NONE }
    }
}

/// Which tables take a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The whole address or name: all tables.
    Full,
    /// A part of it: not the pattern tables.
    Partial,
}

impl Maps {
    /// Opens the tables of a parameter; `title` is its name, for messages. Tables that cannot be opened make lookups
    /// fail (so that mail waits) and are tried again later.
    pub fn open(set: &TableSet, title: &str, list: &str) -> Self {
        Self::open_as(set, title, list, Usage::MAP)
    }

    /// As [`Maps::open`] for tables whose source is in aliases(5) format: `alias_maps`.
    pub fn open_aliases(set: &TableSet, title: &str, list: &str) -> Self {
        Self::open_as(set, title, list, Usage::ALIASES)
    }

    /// As [`Maps::open`], for tables used in a particular way.
    pub fn open_as(set: &TableSet, title: &str, list: &str, usage: Usage) -> Self {
        let tables = split_list(list).into_iter().map(|spec| set.open_or_defer(spec, usage)).collect();
        Self::new(set, title, tables)
    }

    /// Of one table that is open already.
    pub fn of(set: &TableSet, title: &str, table: Arc<dyn Table>) -> Self {
        Self::new(set, title, vec![table])
    }

    fn new(set: &TableSet, title: &str, tables: Vec<Arc<dyn Table>>) -> Self {
        let keeps_case = REWRITING.iter().any(|end| title.ends_with(end));
        Self { title: title.into(), tables, options: Arc::new(set.options().clone()), keeps_case }
    }

    /// The parameter's name.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// No tables at all: nothing is ever found.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The tables, in order.
    pub fn tables(&self) -> &[Arc<dyn Table>] {
        &self.tables
    }

    /// One of the tables answers from a socket, with blocking calls.
    pub fn is_remote(&self) -> bool {
        self.tables.iter().any(|table| table.is_remote())
    }

    /// Looks one key up in all tables, in order.
    pub async fn find(&self, key: &str) -> Result<Option<String>, LookupError> {
        Ok(self.find_hit(key).await?.map(|hit| hit.value))
    }

    /// As [`Maps::find`], and says where.
    pub async fn find_hit(&self, key: &str) -> Result<Option<Hit>, LookupError> {
        self.ask(key, Form::Full).await
    }

    /// As [`Maps::find_hit`] for a key that is only a part of what is asked about: pattern tables are passed over.
    pub async fn find_partial(&self, key: &str) -> Result<Option<Hit>, LookupError> {
        self.ask(key, Form::Partial).await
    }

    async fn ask(&self, key: &str, form: Form) -> Result<Option<Hit>, LookupError> {
        if key.is_empty() {
            return Ok(None);
        }
        for table in &self.tables {
            if form == Form::Partial && table.is_pattern() {
                continue;
            }
            // Other tables fold keys, or take them as they are, whoever asks.
            let folded = (table.is_remote() && !self.keeps_case).then(|| fold_case(key));
            match table.lookup(folded.as_deref().unwrap_or(key)).await {
                Ok(Some(value)) if value.is_empty() => {
                    let name = table.name();
                    self.warn(format!("{}: {name} lookup of {key} returns an empty string result", self.title));
                    self.warn(format!("{}: {name} should return NO RESULT in case of NOT FOUND", self.title));
                    return Err(LookupError { table: name.into(), why: format!("empty result for \"{key}\"") });
                }
                Ok(Some(value)) => {
                    return Ok(Some(Hit { value, key: key.to_owned(), extension: None, table: Arc::clone(table) }));
                }
                Ok(None) => {}
                Err(error) => {
                    self.warn(format!("{} lookup error for \"{key:.100}\"", table.name()));
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// As [`Maps::find`] for bytes that need not be text; with the table that gave the value.
    pub async fn find_bytes(&self, key: &[u8]) -> Result<Option<(Vec<u8>, &Arc<dyn Table>)>, LookupError> {
        if key.is_empty() {
            return Ok(None);
        }
        for table in &self.tables {
            match table.lookup_bytes(key).await {
                Ok(Some(value)) if value.is_empty() => {
                    let (name, title) = (table.name(), &self.title);
                    let shown = String::from_utf8_lossy(&key[..key.len().min(100)]);
                    self.warn(format!("{title}: {name} lookup of {shown} returns an empty string result"));
                    self.warn(format!("{title}: {name} should return NO RESULT in case of NOT FOUND"));
                    return Err(LookupError { table: name.into(), why: format!("empty result for \"{shown}\"") });
                }
                Ok(Some(value)) => return Ok(Some((value, table))),
                Ok(None) => {}
                Err(error) => {
                    let shown = String::from_utf8_lossy(&key[..key.len().min(100)]);
                    self.warn(format!("{} lookup error for \"{shown}\"", table.name()));
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn warn(&self, text: String) {
        (self.options.notify)(Notice { kind: NoticeKind::Warning, text });
    }

    /// An address in internal form is asked for as it would be written (quoted where it must be), then, if that is
    /// different, as it is.
    async fn ask_address(&self, address: &str, form: Form) -> Result<Option<Hit>, LookupError> {
        let quoted = quote_for_query(address);
        if let Some(quoted) = &quoted
            && let Some(hit) = self.ask(quoted, form).await?
        {
            return Ok(Some(hit));
        }
        self.ask(address, form).await
    }

    /// Looks an address (internal form) up: Postfix's `mail_addr_find` with the strategy of `forms`.
    pub async fn find_address(&self, address: &str, forms: &AddressForms<'_>) -> Result<Option<Hit>, LookupError> {
        if self.tables.is_empty() {
            return Ok(None);
        }
        if forms.full
            && let Some(hit) = self.ask_address(address, Form::Full).await?
        {
            return Ok(Some(hit));
        }
        let (local, domain) = match address.rfind('@') {
            Some(at) => (&address[..at], Some(&address[at + 1..])),
            None => (address, None),
        };
        let bare = split_extension(local, forms.delimiters);
        if forms.without_extension
            && let Some((base, extension)) = bare
        {
            let key = match domain {
                Some(domain) => format!("{base}@{domain}"),
                None => base.to_owned(),
            };
            if let Some(hit) = self.ask_address(&key, Form::Partial).await? {
                return Ok(Some(Hit { extension: Some(extension.to_owned()), ..hit }));
            }
        }
        if let Some(domain) = domain {
            if (forms.localpart_if_local || forms.localpart_at_if_local)
                && match forms.locality {
                    Locality::Known(known) => known,
                    Locality::Ask(judge) => judge.is_local(domain).await?,
                }
            {
                for (wanted, suffix) in [(forms.localpart_if_local, ""), (forms.localpart_at_if_local, "@")] {
                    if wanted && let Some(hit) = self.find_localpart(local, bare, suffix).await? {
                        return Ok(Some(hit));
                    }
                }
            }
            if forms.at_domain
                && let Some(hit) = self.ask(&format!("@{domain}"), Form::Partial).await?
            {
                return Ok(Some(hit));
            }
            if let Some(style) = forms.domain
                && let Some(hit) = self.ask_domain(domain, style, Form::Partial).await?
            {
                return Ok(Some(hit));
            }
            if forms.localpart_at
                && let Some(hit) = self.find_localpart(local, bare, "@").await?
            {
                return Ok(Some(hit));
            }
        }
        if forms.wildcard {
            return self.ask("*", Form::Partial).await;
        }
        Ok(None)
    }

    async fn find_localpart(
        &self,
        local: &str,
        bare: Option<(&str, &str)>,
        suffix: &str,
    ) -> Result<Option<Hit>, LookupError> {
        if let Some(hit) = self.ask_address(&format!("{local}{suffix}"), Form::Partial).await? {
            return Ok(Some(hit));
        }
        let Some((base, extension)) = bare else { return Ok(None) };
        let hit = self.ask_address(&format!("{base}{suffix}"), Form::Partial).await?;
        Ok(hit.map(|hit| Hit { extension: Some(extension.to_owned()), ..hit }))
    }

    /// Looks a host or domain name up as access(5) does: the name, then its parents.
    pub async fn find_domain(&self, name: &str, parents: ParentStyle) -> Result<Option<Hit>, LookupError> {
        self.ask_domain(name, parents, Form::Full).await
    }

    async fn ask_domain(&self, name: &str, parents: ParentStyle, form: Form) -> Result<Option<Hit>, LookupError> {
        let (mut name, mut form) = (name, form);
        while !name.is_empty() {
            if let Some(hit) = self.ask(name, form).await? {
                return Ok(Some(hit));
            }
            form = Form::Partial;
            // Past the first character: ".example.com" goes on at ".com".
            let mut places = name.char_indices().skip(1);
            let Some((dot, _)) = places.find(|(_, c)| *c == '.') else { break };
            name = match parents {
                ParentStyle::None => break,
                ParentStyle::Plain => &name[dot + 1..],
                ParentStyle::Dot => &name[dot..],
            };
        }
        Ok(None)
    }

    /// Looks a network address up as access(5) does: `1.2.3.4`, `1.2.3`, `1.2`, `1`; IPv6 likewise at each colon.
    pub async fn find_network(&self, address: &str) -> Result<Option<Hit>, LookupError> {
        let delimiter = if address.contains(':') { ':' } else { '.' };
        let (mut key, mut form) = (address, Form::Full);
        loop {
            if let Some(hit) = self.ask(key, form).await? {
                return Ok(Some(hit));
            }
            form = Form::Partial;
            let Some(cut) = key.rfind(delimiter) else { return Ok(None) };
            key = &key[..cut];
        }
    }
}

/// Postfix's split_addr: the local part before the first delimiter, and the extension with its delimiter. Addresses
/// that have special meaning (`owner-x` when `-` delimits, `mailer-daemon`, `double-bounce`) are left whole.
fn split_extension<'a>(local: &'a str, delimiters: &str) -> Option<(&'a str, &'a str)> {
    if delimiters.is_empty() {
        return None;
    }
    for whole in ["mailer-daemon", "postmaster", "double-bounce"] {
        if local.eq_ignore_ascii_case(whole) {
            return None;
        }
    }
    let lower = local.get(..6).unwrap_or_default();
    if delimiters.contains('-') && (lower.eq_ignore_ascii_case("owner-") || ends_with_request(local)) {
        return None;
    }
    let (at, _) = local.char_indices().find(|(_, c)| delimiters.contains(*c))?;
    if at == 0 {
        return None;
    }
    Some(local.split_at(at))
}

fn ends_with_request(local: &str) -> bool {
    let start = local.len().checked_sub("-request".len());
    start.and_then(|start| local.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case("-request"))
}

/// The address with its local part quoted, if it must be.
fn quote_for_query(address: &str) -> Option<String> {
    let (local, rest) = match address.rfind('@') {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    if is_dot_string(local) {
        return None;
    }
    let mut quoted = String::with_capacity(address.len() + 4);
    quoted.push('"');
    for c in local.chars() {
        if matches!(c, '"' | '\\' | '\r') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted.push_str(rest);
    Some(quoted)
}

/// RFC 5321 Dot-string (with RFC 6531's letters): needs no quotes.
fn is_dot_string(local: &str) -> bool {
    let atext = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    !local.is_empty() && local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(atext))
}

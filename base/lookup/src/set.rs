//! [`TableSet`]: opens tables by `type:name`, once each, and keeps them.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::types;
use crate::{Answer, LookupError, Table};

/// How deep tables may name tables (`unionmap:{pipemap:{...}}`).
const NESTING: u32 = 20;

/// A table could not be opened; the text is Postfix's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError(pub String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// How grave a [`Notice`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Worth a line in the log.
    Info,
    /// Postfix's `warning: `.
    Warning,
    /// Postfix's `error: `.
    Error,
}

/// Something about a table that an admin should read, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How grave.
    pub kind: NoticeKind,
    /// The text, without severity word.
    pub text: String,
}

/// The text format of a table's source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `key whitespace value`, as for postmap.
    Map,
    /// `name: value`, as for postalias: the tables of `alias_maps` and `alias_database`.
    Alias,
}

/// How a table is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Usage {
    /// The text format of the source, where the table has one.
    pub format: Format,
    /// Rules of `regexp:` and `pcre:` may use `$1`. Not where the key comes from outside and the value names files or
    /// users: alias_maps, virtual_mailbox_maps and their kin pass over such rules, with a warning.
    pub substitution: bool,
}

impl Usage {
    /// An ordinary table.
    pub const MAP: Self = Self { format: Format::Map, substitution: true };
    /// A table of `virtual_mailbox_maps`, `virtual_uid_maps`, `virtual_gid_maps`, `mailbox_command_maps` and the like.
    pub const SENSITIVE: Self = Self { format: Format::Map, substitution: false };
    /// A table of `alias_maps`.
    pub const ALIASES: Self = Self { format: Format::Alias, substitution: false };
}

/// Opens a file for reading.
pub type Opener = Arc<dyn Fn(&Path) -> io::Result<File> + Send + Sync>;

/// Opens a table of a type that this crate does not have: of a database, of a directory. `None`: not its type.
pub type Extension = Arc<dyn Fn(&Wanted<'_>) -> Option<Result<Arc<dyn Table>, OpenError>> + Send + Sync>;

/// Opens a table by its `type:name`.
pub type OpensTables<'a> = dyn Fn(&str) -> Result<Arc<dyn Table>, OpenError> + 'a;

/// A table that an [`Extension`] is asked for.
pub struct Wanted<'a> {
    /// The type: `mysql`.
    pub kind: &'a str,
    /// What stands behind it: a file with the table's settings, or the first part of the names of parameters.
    pub name: &'a str,
    /// Both, as written.
    pub spec: &'a str,
    /// Opens a table that this one names.
    pub open: &'a OpensTables<'a>,
    /// How the set behaves.
    pub options: &'a Options,
}

/// How a [`TableSet`] behaves.
#[derive(Clone)]
pub struct Options {
    /// Is told what an admin should read. Must not block for long.
    pub notify: Arc<dyn Fn(Notice) + Send + Sync>,
    /// Opens a file for reading; a process without the rights can have another open it.
    pub open_file: Opener,
    /// Changed files are looked for at most this often. Postfix has no such setting.
    pub check_every: Duration,
    /// Keys of tables with fixed strings are folded to lower case; `postmap -f` wants them as they are.
    pub fold_case: bool,
    /// Limit on each step of a conversation with a remote table. Postfix: 100 s.
    pub remote_timeout: Duration,
    /// `socketmap_max_query_size`, bytes of a netstring; longer ones are not sent.
    pub socketmap_max_query: usize,
    /// `socketmap_max_reply_size`, bytes of a netstring.
    pub socketmap_max_reply: usize,
    /// Tables whose source is in aliases(5) format wherever they are named (`alias_maps`, `alias_database`).
    pub aliases: Vec<String>,
    /// Opens tables of further types.
    pub extension: Option<Extension>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            notify: Arc::new(|_| {}),
            open_file: Arc::new(|path| File::open(path)),
            check_every: Duration::from_secs(1),
            fold_case: true,
            remote_timeout: Duration::from_secs(100),
            socketmap_max_query: 10_000,
            socketmap_max_reply: 100_000,
            aliases: Vec::new(),
            extension: None,
        }
    }
}

impl Options {
    /// Tells `notify` of trouble.
    pub fn warn(&self, text: impl Into<String>) {
        (self.notify)(Notice { kind: NoticeKind::Warning, text: text.into() });
    }

    /// The key as tables with fixed strings want it.
    pub fn fold<'a>(&self, key: &'a str) -> std::borrow::Cow<'a, str> {
        if self.fold_case { crate::fold_case(key) } else { key.into() }
    }

    pub(crate) fn info(&self, text: impl Into<String>) {
        (self.notify)(Notice { kind: NoticeKind::Info, text: text.into() });
    }
}

type Open = HashMap<(Usage, String), Arc<dyn Table>>;

/// Opens tables, once per `type:name`, and keeps them. Cloning shares.
#[derive(Clone)]
pub struct TableSet {
    options: Arc<Options>,
    tables: Arc<Mutex<Open>>,
}

impl Default for TableSet {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl TableSet {
    /// An empty set.
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), tables: Arc::default() }
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Opens `type:name`. `proxy:type:name` is `type:name`: there is no process to ask.
    ///
    /// Fails where Postfix's programs say `fatal:`; a daemon uses [`TableSet::open_or_defer`].
    pub fn open(&self, spec: &str) -> Result<Arc<dyn Table>, OpenError> {
        self.open_nested(spec, Usage::MAP, 0)
    }

    /// As [`TableSet::open`], for a table whose source is in aliases(5) format.
    pub fn open_aliases(&self, spec: &str) -> Result<Arc<dyn Table>, OpenError> {
        self.open_nested(spec, Usage::ALIASES, 0)
    }

    /// As [`TableSet::open`]; a table that cannot be opened is one whose lookups fail (so that mail waits), and is tried
    /// again later. The reason is told to `notify` as an error.
    pub fn open_or_defer(&self, spec: &str, usage: Usage) -> Arc<dyn Table> {
        match self.open_nested(spec, usage, 0) {
            Ok(table) => table,
            Err(error) => {
                (self.options.notify)(Notice { kind: NoticeKind::Error, text: error.0.clone() });
                let last = Mutex::new((Instant::now(), error));
                Arc::new(Unavailable { set: self.clone(), spec: spec.into(), usage, table: OnceLock::new(), last })
            }
        }
    }

    pub(crate) fn open_nested(&self, spec: &str, usage: Usage, depth: u32) -> Result<Arc<dyn Table>, OpenError> {
        if depth > NESTING {
            return Err(OpenError(format!("table nested more than {NESTING} levels deep: \"{spec:.100}...\"")));
        }
        let plain = spec.strip_prefix("proxy:").unwrap_or(spec);
        let aliases = self.options.aliases.iter().any(|name| name == plain);
        let usage = if aliases { Usage { format: Format::Alias, ..usage } } else { usage };
        let key = (usage, spec.to_owned());
        if let Some(table) = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(table));
        }
        // Opened without the lock: tables open tables. Two threads may open the same one; the first to arrive is kept.
        let table = types::open(&types::Opening { set: self, spec, usage, depth })?;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(tables.entry(key).or_insert(table)))
    }
}

/// Stands for a table that could not be opened, and opens it when that works.
struct Unavailable {
    set: TableSet,
    spec: Arc<str>,
    usage: Usage,
    table: OnceLock<Arc<dyn Table>>,
    last: Mutex<(Instant, OpenError)>,
}

impl Unavailable {
    fn table(&self) -> Result<&dyn Table, LookupError> {
        if let Some(table) = self.table.get() {
            return Ok(&**table);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() >= self.set.options.check_every {
            match self.set.open_nested(&self.spec, self.usage, 0) {
                Ok(table) => return Ok(&**self.table.get_or_init(|| table)),
                Err(error) => *last = (Instant::now(), error),
            }
        }
        Err(LookupError { table: Arc::clone(&self.spec), why: format!("is unavailable. {}", last.1) })
    }
}

impl Table for Unavailable {
    fn name(&self) -> &str {
        &self.spec
    }

    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        match self.table() {
            Ok(table) => table.lookup(key),
            Err(error) => Answer::Ready(Err(error)),
        }
    }

    fn source_of(&self, key: &str) -> Option<String> {
        self.table.get()?.source_of(key)
    }

    fn folds_case(&self) -> bool {
        self.table.get().is_none_or(|table| table.folds_case())
    }

    fn is_pattern(&self) -> bool {
        self.table.get().is_some_and(|table| table.is_pattern())
    }

    fn is_remote(&self) -> bool {
        self.table.get().is_some_and(|table| table.is_remote())
    }
}

//! Building an index from a text, adding to one, deleting from one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{Gid, Uid, setegid, seteuid};
use yamabiko_lookup::text::{Entry, read};
use yamabiko_lookup::{CdbWriter, Format, Table, fold_case};
use yamabiko_sys::durable::Replacement;

use super::query::{contents_of_files, words};
use super::{Command, Exit, Task};

/// A type of table that has an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    /// hash and btree: `name.cdb`
    Db,
    /// cdb: `name.cdb`
    Cdb,
    /// lmdb: `name.lmdb`
    Lmdb,
}

impl Index {
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "hash" | "btree" => Some(Self::Db),
            "cdb" => Some(Self::Cdb),
            "lmdb" => Some(Self::Lmdb),
            _ => None,
        }
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("{name}{}", if self == Self::Lmdb { ".lmdb" } else { ".cdb" }))
    }

    /// The table's name in messages of Postfix.
    pub fn shown(self, name: &str) -> String {
        match self {
            Self::Db => format!("{name}.db"),
            Self::Cdb => name.to_owned(),
            Self::Lmdb => format!("lmdb:{name}"),
        }
    }
}

/// Types that exist and cannot be built.
const READ_ONLY: &[&str] = &[
    "cidr",
    "environ",
    "fail",
    "inline",
    "internal",
    "pcre",
    "pipemap",
    "proxy",
    "randmap",
    "regexp",
    "socketmap",
    "static",
    "tcp",
    "texthash",
    "unionmap",
    "unix",
];

/// Pairs in order, and where each key is.
#[derive(Default)]
struct Pairs {
    list: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Pairs {
    /// Adds a pair; `false`: the key is there already and its value stays.
    fn add(&mut self, key: &str, value: String, replace: bool) -> bool {
        match self.places.get(key).and_then(|&place| self.list.get_mut(place)) {
            Some((_, old)) if replace => *old = value,
            Some(_) => return false,
            None => {
                self.places.insert(key.to_owned(), self.list.len());
                self.list.push((key.to_owned(), value));
            }
        }
        true
    }
}

impl Command {
    /// Builds one table from its text, or (`-i`) adds standard input to it.
    pub(super) fn build(&mut self, argument: &str) -> Result<(), Exit> {
        let (kind, name) = self.spec(argument);
        let adding = self.settings.task == Task::Add;
        let source = if adding {
            None
        } else {
            Some(File::open(&name).map_err(|error| self.fatal(&format!("open {name}: {}", words(&error))))?)
        };
        let Some(index) = Index::of(&kind) else {
            return Err(self.cannot_build(&kind, &name));
        };
        if adding && index == Index::Cdb {
            return Err(self.fatal(CDB_FLAGS));
        }
        let mut pairs = if adding { self.present(&kind, &name)? } else { Pairs::default() };
        let (text, shown) = match &source {
            Some(source) => (read_all(source), name.as_str()),
            None => (read_all(io::stdin().lock()), "stdin"),
        };
        let text = text.map_err(|error| self.fatal(&format!("read {shown}: {}", words(&error))))?;
        self.collect(&text, shown, &index.shown(&name), &mut pairs);
        if self.settings.format == Format::Alias {
            // What sendmail and NIS put into alias files.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let host = self.context.main().text("myhostname");
            for (key, value) in [
                ("@", "@".to_owned()),
                ("YP_LAST_MODIFIED", format!("{:010}", now.as_secs())),
                ("YP_MASTER_NAME", host),
            ] {
                pairs.add(key, value, true);
            }
        }
        self.write(index, &name, source.as_ref(), &pairs.list)
    }

    fn cannot_build(&mut self, kind: &str, name: &str) -> Exit {
        if kind == "fail" {
            self.fatal(&format!("table fail:{name}: write error: Application error"))
        } else if READ_ONLY.contains(&kind) {
            self.fatal(&format!("unsupported dictionary type: {kind} does not support bulk-mode creation."))
        } else {
            self.fatal(&format!("unsupported dictionary type: {kind}. Is the postfix-{kind} package installed?"))
        }
    }

    /// Reads a text into `pairs` and warns as Postfix does; `shown` is the text's name, `table` the table's.
    fn collect(&mut self, text: &[u8], shown: &str, table: &str, pairs: &mut Pairs) {
        let settings = self.settings.clone();
        let mut warnings = Vec::new();
        read(text, settings.format, |entry| match entry {
            Entry::Warning { line: 0, text } => warnings.push(format!("{shown}: {text}")),
            Entry::Warning { line, text } => warnings.push(format!("{shown}, line {line}: {text}")),
            Entry::Pair(pair) => {
                let key = if settings.fold_case { fold_case(&pair.key) } else { pair.key.as_str().into() };
                let value = if settings.values_are_files {
                    match contents_of_files(&pair.value) {
                        Ok(content) => base64(&content),
                        Err(why) => {
                            warnings.push(format!("{shown}, line {}: {why}: skipping this entry", pair.line));
                            return;
                        }
                    }
                } else {
                    pair.value
                };
                if !pairs.add(&key, value, settings.replace) && !settings.ignore_duplicates {
                    warnings.push(format!("{table}: duplicate entry: \"{key}\""));
                }
            }
        });
        for warning in warnings {
            self.context.warn(&warning);
        }
    }

    /// What a table holds now; nothing where there is none yet.
    fn present(&mut self, kind: &str, name: &str) -> Result<Pairs, Exit> {
        let index = Index::of(kind).map(|index| index.path(name));
        let exists = [Some(PathBuf::from(name)), index, Some(PathBuf::from(format!("{name}.db")))];
        if !exists.iter().flatten().any(|path| path.exists()) {
            return Ok(Pairs::default());
        }
        let table = self.open(kind, name)?;
        self.entries(&*table)
    }

    fn entries(&mut self, table: &dyn Table) -> Result<Pairs, Exit> {
        match table.entries() {
            Some(Ok(entries)) => {
                let mut pairs = Pairs::default();
                for (key, value) in entries {
                    pairs.add(&key, value, false);
                }
                Ok(pairs)
            }
            Some(Err(error)) => Err(self.fatal(&format!("table {}: read error: {}", table.name(), error.why))),
            None => Err(self.fatal(&format!("table {}: sequence operation is not supported", table.name()))),
        }
    }

    /// Deletes keys from all the tables; the exit code is 0 when something was deleted.
    pub(super) fn delete(&mut self, arguments: &[String], key: &str) -> Result<ExitCode, Exit> {
        let keys: Vec<String> =
            if key == "-" { io::stdin().lines().map_while(Result::ok).collect() } else { vec![key.to_owned()] };
        let mut deleted = false;
        for argument in arguments {
            let (kind, name) = self.spec(argument);
            let index = match (Index::of(&kind), kind.as_str()) {
                (Some(Index::Cdb), _) => return Err(self.fatal(CDB_FLAGS)),
                (Some(index), _) => index,
                (None, "static" | "environ") => {
                    return Err(self.fatal(&format!("table {kind}:{name}: delete operation is not supported")));
                }
                (None, "fail") => {
                    return Err(self.fatal(&format!("table {kind}:{name}: delete error: Application error")));
                }
                // Nothing is in it.
                (None, "internal") => continue,
                (None, known) if READ_ONLY.contains(&known) || yamabiko_lookup_remote::types().contains(&known) => {
                    return Err(self.fatal(&format!("{kind}:{name} map requires O_RDONLY access mode")));
                }
                (None, _) => return Err(self.fatal(&format!("unsupported dictionary type: {kind}"))),
            };
            let table = self.open(&kind, &name)?;
            let mut pairs = self.entries(&*table)?;
            let before = pairs.list.len();
            for key in &keys {
                let key = if self.settings.fold_case { fold_case(key) } else { key.as_str().into() };
                pairs.list.retain(|(other, _)| *other != *key);
            }
            if pairs.list.len() != before {
                deleted = true;
                let source = File::open(&name).ok();
                self.write(index, &name, source.as_ref(), &pairs.list)?;
            }
        }
        Ok(if deleted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Writes an index: owner and permissions follow the source file.
    fn write(
        &mut self,
        index: Index,
        name: &str,
        source: Option<&File>,
        pairs: &[(String, String)],
    ) -> Result<(), Exit> {
        let path = index.path(name);
        let owner = source.and_then(|source| source.metadata().ok()).or_else(|| path.metadata().ok());
        let mode = match &owner {
            Some(metadata) if !self.settings.plain_mode => metadata.permissions().mode() & 0o644,
            _ => {
                let mask = yamabiko_sys::daemon::umask(0o022);
                yamabiko_sys::daemon::umask(mask);
                0o644 & !mask
            }
        };
        let other = owner.filter(|metadata| {
            !self.settings.keep_root && metadata.uid() != 0 && yamabiko_sys::users::effective_uid() == 0
        });
        // A user who owns the source could put links in the way of root: so root writes as that user.
        let become_owner = |uid: u32, gid: u32| {
            setegid(Gid::from_raw(gid)).and_then(|()| seteuid(Uid::from_raw(uid))).map_err(io::Error::from)
        };
        let written = match &other {
            Some(metadata) => become_owner(metadata.uid(), metadata.gid())
                .and_then(|()| write_index(index, &path, mode, self.settings.nulls, pairs))
                .and_then(|()| {
                    seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0))).map_err(io::Error::from)
                }),
            None => write_index(index, &path, mode, self.settings.nulls, pairs),
        };
        if let Err(error) = written {
            // The log is written as root.
            let _ = seteuid(Uid::from_raw(0));
            let shown = if index == Index::Db { format!("{name}.db") } else { path.display().to_string() };
            return Err(self.fatal(&format!("open database {shown}: {}", words(&error))));
        }
        Ok(())
    }
}

const CDB_FLAGS: &str =
    "dict_cdb_open: inappropriate open flags for cdb database - specify O_RDONLY or O_WRONLY|O_CREAT|O_TRUNC";

fn write_index(index: Index, path: &Path, mode: u32, nulls: bool, pairs: &[(String, String)]) -> io::Result<()> {
    let stored = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        if nulls {
            bytes.push(0);
        }
        bytes
    };
    if index == Index::Lmdb {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let _ = std::fs::remove_file(&temporary);
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (stored(key), stored(value))).collect();
        let done = yamabiko_sys::lmdb::write(&temporary, &pairs)
            .map_err(io::Error::other)
            .and_then(|()| std::fs::set_permissions(&temporary, PermissionsExt::from_mode(mode)))
            .and_then(|()| yamabiko_sys::durable::rename(&temporary, path));
        if done.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        return done;
    }
    let mut writer = CdbWriter::new();
    for (key, value) in pairs {
        writer.add(&stored(key), &stored(value))?;
    }
    let mut new = Replacement::create(path, mode)?;
    writer.finish(io::BufWriter::new(new.file()))?;
    new.commit()
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.read_to_end(&mut text)?;
    Ok(text)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                // Six bits: below 64.
                out.push(BASE64[(bits >> (18 - 6 * place)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// The reverse of [`base64`]; `None` for anything else.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = text.get(..text.len() - padding).filter(|_| padding <= 2)?;
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.chunks(4) {
        let mut bits = 0u32;
        for place in 0..4 {
            let value = match chunk.get(place) {
                Some(digit) => BASE64.iter().position(|known| known == digit)? as u32,
                None => 0,
            };
            bits = bits << 6 | value;
        }
        out.extend_from_slice(bits.to_be_bytes().get(1..chunk.len())?);
    }
    Some(out)
}

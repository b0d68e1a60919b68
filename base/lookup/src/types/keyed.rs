//! `hash:`, `btree:`, `cdb:`, `lmdb:` and `texthash:`: pairs in a text file, with or without an index made by `postmap`.
//!
//! `hash:x` and `btree:x` mean "the indexed form of the text file x": our index is `x.cdb`. An index that is not older
//! than its text answers; a text that is newer is read into memory instead (and said so), so a change is never missed;
//! a Berkeley DB file `x.db` is read where there is neither text nor `x.cdb`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Opening;
use super::file::{Content, FileTable, Keys, Loaded, Stamp, read_text, words};
use super::lmdb::LmdbContent;
use crate::Table;
use crate::berkeley;
use crate::cdb::CdbReader;
use crate::set::{Format, OpenError, Options};
use crate::text::{self, Entry};

/// Which index a type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// hash, btree: ours (`.cdb`), or one that Postfix left (`.db`).
    Db,
    /// cdb.
    Cdb,
    /// lmdb.
    Lmdb,
    /// texthash: none.
    None,
}

pub(crate) fn open(opening: &Opening<'_>, kind: &str, name: &str, index: Index) -> Result<Arc<dyn Table>, OpenError> {
    let path = PathBuf::from(name);
    let format = opening.usage.format;
    let kind = kind.to_owned();
    let load = Box::new(move |options: &Options| load(options, &kind, &path, format, index));
    FileTable::open(opening.spec, Keys::Folded, opening.options(), load)
}

/// The command that writes the index.
fn program(format: Format) -> &'static str {
    if format == Format::Alias { "postalias" } else { "postmap" }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn load(options: &Options, kind: &str, path: &Path, format: Format, index: Index) -> Result<Loaded, OpenError> {
    let text = (path.to_owned(), Stamp::of(path));
    if index == Index::None {
        let content = read_keyed_text(options, path, format, index)
            .map_err(|error| OpenError(format!("open database {}: {}", path.display(), words(&error))))?;
        return Ok(Loaded { content, files: vec![text] });
    }
    let index_path = with_suffix(path, if index == Index::Lmdb { ".lmdb" } else { ".cdb" });
    let made = (index_path.clone(), Stamp::of(&index_path));
    // Postfix's own index: asked for only where there is nothing better.
    let db_path = with_suffix(path, ".db");
    let db_stamp = if index == Index::Db && text.1.is_none() && made.1.is_none() { Stamp::of(&db_path) } else { None };
    let db = (db_path, db_stamp);
    let open_index = || -> Result<Box<dyn Content>, OpenError> {
        let failed = |why: String| OpenError(format!("open database {}: {why}", index_path.display()));
        if index == Index::Lmdb {
            return Ok(Box::new(LmdbContent::open(&index_path).map_err(failed)?));
        }
        let open = (options.open_file)(&index_path).and_then(CdbReader::new);
        Ok(Box::new(CdbContent(open.map_err(|error| failed(words(&error)))?)))
    };
    let content: Box<dyn Content> = match (&text.1, &made.1) {
        (Some(text), Some(made)) if made.at_least_as_new_as(text) => match open_index() {
            Ok(index) => index,
            // An index that only root may read, and a text that somebody with root's rights has handed to us.
            Err(error) => read_keyed_text(options, path, format, index).map_err(|_| error)?,
        },
        (None, Some(_)) => open_index()?,
        (Some(_), stale) => match read_keyed_text(options, path, format, index) {
            Ok(content) => {
                let why = if stale.is_some() { "is newer than its index" } else { "has no index" };
                options.info(format!(
                    "{kind}:{0} {why} {1}: indexed anew in memory; \"{2} {kind}:{0}\" writes the index",
                    path.display(),
                    index_path.display(),
                    program(format),
                ));
                content
            }
            Err(error) if stale.is_some() => {
                options.warn(format!(
                    "database {} is older than source file {}, which cannot be read: {}",
                    index_path.display(),
                    path.display(),
                    words(&error)
                ));
                open_index()?
            }
            Err(error) => return Err(OpenError(format!("open {}: {}", path.display(), words(&error)))),
        },
        (None, None) if db.1.is_some() => Box::new(read_berkeley(options, kind, path, &db.0, format)?),
        (None, None) => {
            let shown = with_suffix(
                path,
                match index {
                    Index::Cdb => ".cdb",
                    Index::Lmdb => ".lmdb",
                    Index::Db | Index::None => ".db",
                },
            );
            return Err(OpenError(format!("open database {}: No such file or directory", shown.display())));
        }
    };
    let mut files = vec![text, made];
    if db.1.is_some() {
        files.push(db);
    }
    Ok(Loaded { content, files })
}

/// A Berkeley DB file in memory, when neither the text it was made from nor our index is there.
fn read_berkeley(
    options: &Options,
    kind: &str,
    path: &Path,
    db: &Path,
    format: Format,
) -> Result<TextContent, OpenError> {
    let failed = |why: String| OpenError(format!("open database {}: {why}", db.display()));
    let bytes = read_text(options, db).map_err(|error| failed(words(&error)))?;
    let pairs = berkeley::read(&bytes).map_err(failed)?;
    options.warn(format!(
        "{kind}:{0} is read from the Berkeley DB file {1}: there is neither a text {0} nor an index {0}.cdb. \"{2} -s \
         {kind}:{0} > {0}.text\" writes its content as text; name that {0} and run \"{2} {kind}:{0}\"",
        path.display(),
        db.display(),
        program(format)
    ));
    let pairs = pairs.into_iter().map(|(key, value)| (to_text(key).into(), (to_text(value).into(), 0))).collect();
    Ok(TextContent { path: db.to_owned(), pairs })
}

/// A cdb file as table content.
struct CdbContent(CdbReader);

impl Content for CdbContent {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        let mut found = self.0.get(key.as_bytes());
        if let Ok(None) = found {
            // Files made for sendmail hold keys and values with their terminating null byte (postmap -N).
            found = self.0.get(&[key.as_bytes(), b"\0"].concat());
        }
        found.map(|value| value.map(to_text)).map_err(|error| words(&error))
    }

    fn entries(&self) -> Option<Result<Vec<(String, String)>, String>> {
        let entries = self.0.entries().map_err(|error| words(&error));
        Some(entries.map(|entries| entries.into_iter().map(|(key, value)| (to_text(key), to_text(value))).collect()))
    }
}

/// Text of an index file, without the terminating null byte that some have.
pub(crate) fn to_text(mut bytes: Vec<u8>) -> String {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A text table (or a Berkeley DB file, with lines 0) in memory.
struct TextContent {
    path: PathBuf,
    pairs: HashMap<Box<str>, (Box<str>, u32)>,
}

fn read_keyed_text(options: &Options, path: &Path, format: Format, index: Index) -> std::io::Result<Box<dyn Content>> {
    let bytes = read_text(options, path)?;
    let mut pairs: HashMap<Box<str>, (Box<str>, u32)> = HashMap::new();
    text::read(&bytes, format, |entry| match entry {
        Entry::Pair(pair) => {
            let key: Box<str> = options.fold(&pair.key).into();
            match pairs.entry(key) {
                Slot::Occupied(slot) => {
                    let (file, key) = (path.display(), slot.key());
                    options.warn(format!("{file}, line {}: duplicate entry: \"{key}\"", pair.line));
                }
                Slot::Vacant(slot) => {
                    slot.insert((pair.value.into(), pair.line));
                }
            }
        }
        Entry::Warning { line: 0, text } => options.warn(format!("{}: {text}", path.display())),
        Entry::Warning { line, text } => {
            // texthash says what becomes of the line, postmap does not.
            let ignored = index == Index::None && text.starts_with("expected format");
            let end = if ignored { " -- ignoring this line" } else { "" };
            options.warn(format!("{}, line {line}: {text}{end}", path.display()));
        }
    });
    Ok(Box::new(TextContent { path: path.to_owned(), pairs }))
}

impl Content for TextContent {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        Ok(self.pairs.get(key).map(|(value, _)| value.to_string()))
    }

    fn line_of(&self, key: &str) -> Option<(PathBuf, u32)> {
        // Line 0: it does not come from a text.
        self.pairs.get(key).filter(|(_, line)| *line > 0).map(|(_, line)| (self.path.clone(), *line))
    }

    fn entries(&self) -> Option<Result<Vec<(String, String)>, String>> {
        let mut pairs: Vec<_> = self.pairs.iter().map(|(key, (value, line))| (*line, key, value)).collect();
        pairs.sort();
        Some(Ok(pairs.into_iter().map(|(_, key, value)| (key.to_string(), value.to_string())).collect()))
    }
}

//! `hash:`, `btree:`, `cdb:` and `texthash:`: pairs in a text file, with or without an index made by `postmap`.
//!
//! `hash:x` and `btree:x` mean "the indexed form of the text file x": our index is `x.cdb`. An index that is not older
//! than its text answers; a text that is newer is read into memory instead (and said so), so a change is never missed;
//! a Berkeley DB file `x.db` is read where there is neither text nor `x.cdb`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Opening;
use super::file::{Content, FileTable, Keys, Loaded, Stamp, read_text, words};
use crate::cdb::CdbReader;
use crate::set::{Format, OpenError, Options};
use crate::text::{self, Entry};
use crate::{Table, fold_case};

/// Which index a type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// hash, btree: ours (`.cdb`), or one that Postfix left (`.db`).
    Db,
    /// cdb.
    Cdb,
    /// texthash: none.
    None,
}

pub(crate) fn open(opening: &Opening<'_>, kind: &str, name: &str, index: Index) -> Result<Arc<dyn Table>, OpenError> {
    let path = PathBuf::from(name);
    let format = opening.format;
    let kind = kind.to_owned();
    let load = Box::new(move |options: &Options| load(options, &kind, &path, format, index));
    FileTable::open(crate::lines::trim_str(opening.spec), Keys::Folded, opening.options(), load)
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
    let cdb_path = with_suffix(path, ".cdb");
    let cdb = (cdb_path.clone(), Stamp::of(&cdb_path));
    let open_cdb = || {
        let open = (options.open_file)(&cdb_path).and_then(CdbReader::new);
        open.map_err(|error| OpenError(format!("open database {}: {}", cdb_path.display(), words(&error))))
    };
    let content: Box<dyn Content> = match (&text.1, &cdb.1) {
        (Some(text), Some(cdb)) if cdb.at_least_as_new_as(text) => Box::new(CdbContent(open_cdb()?)),
        (None, Some(_)) => Box::new(CdbContent(open_cdb()?)),
        (Some(_), stale) => match read_keyed_text(options, path, format, index) {
            Ok(content) => {
                let why = if stale.is_some() { "is newer than its index" } else { "has no index" };
                options.info(format!(
                    "{kind}:{0} {why} {1}: indexed anew in memory; \"{2} {kind}:{0}\" writes the index",
                    path.display(),
                    cdb_path.display(),
                    if format == Format::Alias { "postalias" } else { "postmap" },
                ));
                content
            }
            Err(error) if stale.is_some() => {
                options.warn(format!(
                    "database {} is older than source file {}, which cannot be read: {}",
                    cdb_path.display(),
                    path.display(),
                    words(&error)
                ));
                Box::new(CdbContent(open_cdb()?))
            }
            Err(error) => return Err(OpenError(format!("open {}: {}", path.display(), words(&error)))),
        },
        (None, None) => {
            let shown = with_suffix(path, if index == Index::Cdb { ".cdb" } else { ".db" });
            return Err(OpenError(format!("open database {}: No such file or directory", shown.display())));
        }
    };
    Ok(Loaded { content, files: vec![text, cdb] })
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

/// A text table in memory.
struct TextContent {
    path: PathBuf,
    pairs: HashMap<Box<str>, (Box<str>, u32)>,
}

fn read_keyed_text(options: &Options, path: &Path, format: Format, index: Index) -> std::io::Result<Box<dyn Content>> {
    let bytes = read_text(options, path)?;
    let mut pairs: HashMap<Box<str>, (Box<str>, u32)> = HashMap::new();
    text::read(&bytes, format, |entry| match entry {
        Entry::Pair(pair) => {
            let key: Box<str> = fold_case(&pair.key).into();
            if pairs.contains_key(&key) {
                options.warn(format!("{}, line {}: duplicate entry: \"{key}\"", path.display(), pair.line));
            } else {
                pairs.insert(key, (pair.value.into(), pair.line));
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
        self.pairs.get(key).map(|(_, line)| (self.path.clone(), *line))
    }

    fn entries(&self) -> Option<Result<Vec<(String, String)>, String>> {
        let mut pairs: Vec<_> = self.pairs.iter().map(|(key, (value, line))| (*line, key, value)).collect();
        pairs.sort();
        Some(Ok(pairs.into_iter().map(|(_, key, value)| (key.to_string(), value.to_string())).collect()))
    }
}

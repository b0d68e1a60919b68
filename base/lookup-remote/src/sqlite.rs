//! sqlite_table(5). The file is read only; one that was replaced by another is opened anew.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use yamabiko_lookup::{Answer, OpenError, Table, Wanted};

use crate::settings::{Parameter, Settings};
use crate::sql::{Rows, Shape, double_quotes};

/// How long another one's write is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that are kept.
const KEPT: usize = 4;

/// Which file a connection reads.
type Identity = (u64, u64);

struct Sqlite {
    shape: Shape,
    path: String,
    kept: Mutex<Vec<(Identity, Connection)>>,
}

pub(crate) fn open(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Arc<dyn Table>, OpenError> {
    let settings = Settings::read(wanted, parameter)?;
    let path = settings.needed("dbpath")?;
    Ok(Arc::new(Sqlite { shape: Shape::read(&settings, wanted)?, path, kept: Mutex::default() }))
}

fn read(connection: &Connection, question: &str) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare_cached(question)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut all = Rows::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => None,
                ValueRef::Integer(number) => Some(number.to_string()),
                ValueRef::Real(number) => Some(number.to_string()),
                ValueRef::Text(text) | ValueRef::Blob(text) => Some(
                    std::str::from_utf8(text)
                        .map(str::to_owned)
                        .map_err(|error| rusqlite::Error::Utf8Error(column, error))?,
                ),
            });
        }
        all.push(values);
    }
    Ok(all)
}

impl Sqlite {
    fn identity(&self) -> Result<Identity, String> {
        let found = std::fs::metadata(&self.path).map_err(|error| format!("{}: {error}", self.path))?;
        Ok((found.dev(), found.ino()))
    }

    fn ask(&self, question: &str) -> Result<Rows, String> {
        let identity = self.identity()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(file, _)| *file == identity);
        let connection = kept.pop();
        drop(kept);
        let connection = match connection {
            Some((_, connection)) => connection,
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(&self.path, flags).map_err(|error| error.to_string())?;
                connection.busy_timeout(BUSY).map_err(|error| error.to_string())?;
                connection
            }
        };
        let rows = read(&connection, question).map_err(|error| error.to_string())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push((identity, connection));
        }
        Ok(rows)
    }

    async fn find(&self, key: &str) -> yamabiko_lookup::Found {
        let key = self.shape.options.fold(key);
        if !self.shape.wants(&key).await? {
            return Ok(None);
        }
        let Some(question) = self.shape.question(&key, double_quotes) else { return Ok(None) };
        let answer = self.ask(&question).and_then(|rows| self.shape.answer(&key, &rows));
        answer.map_err(|why| self.shape.failed(why))
    }
}

impl Table for Sqlite {
    fn name(&self) -> &str {
        &self.shape.spec
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
    use crate::settings::tests::{open, with_parameters};
    use pollster::block_on;

    fn database(path: &std::path::Path, goto: &str) {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("create table v(addr text, goto text, n int)").unwrap();
        for (addr, goto) in [("a@x.test", goto), ("m@x.test", "p"), ("m@x.test", "q"), ("o'b@x.test", "it")] {
            connection.execute("insert into v values(?,?,7)", [addr, goto]).unwrap();
        }
        connection.execute("insert into v values('null@x.test', null, 8)", []).unwrap();
    }

    #[test]
    fn answers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("d.sqlite");
        database(&file, "one");
        let base = format!("dbpath = {}\n", file.display());
        for (settings, key, expected) in [
            ("query = SELECT goto FROM v WHERE addr = '%s'", "A@x.test", Ok(Some("one"))),
            ("query = SELECT goto FROM v WHERE addr = '%s'", "m@x.test", Ok(Some("p,q"))),
            ("query = SELECT goto FROM v WHERE addr = '%s'", "o'b@x.test", Ok(Some("it"))),
            ("query = SELECT goto FROM v WHERE addr = '%s'", "null@x.test", Ok(None)),
            ("query = SELECT goto, n FROM v WHERE addr = '%s'", "null@x.test", Ok(Some("8"))),
            ("query = SELECT goto FROM v WHERE addr = '%s'", "x' OR '1'='1", Ok(None)),
            ("query = SELECT goto FROM v WHERE addr = '%u@%d'\ndomain = x.test", "a@x.test", Ok(Some("one"))),
            ("query = SELECT 'any' FROM v LIMIT 1\ndomain = x.test", "a@y.test", Ok(None)),
            ("query = SELECT 'any' FROM v LIMIT 1\ndomain = x.test", "@x.test", Ok(None)),
            ("select_field = goto\ntable = v\nwhere_field = addr", "a@x.test", Ok(Some("one"))),
            (
                "select_field = goto\ntable = v\nwhere_field = addr\nadditional_conditions = and goto like 'z%'",
                "a@x.test",
                Ok(None),
            ),
            ("query = SELECT goto FROM v WHERE addr = '%s'\nexpansion_limit = 1", "m@x.test", Err("Expansion limit")),
            ("query = SELECT nocolumn FROM v", "k", Err("no such column")),
        ] {
            let (_kept, table) = open("sqlite", &format!("{base}{settings}\n")).unwrap();
            assert!(table.is_remote());
            match (block_on(table.lookup(key)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{settings} {key}"),
                (Err(error), Err(expected)) => assert!(error.why.contains(expected), "{settings} {key}: {error}"),
                (found, expected) => panic!("{settings} {key}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn replaced_gone_and_in_main_cf() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("d.sqlite");
        database(&file, "one");
        let set = with_parameters(vec![
            ("old_dbpath", file.display().to_string()),
            ("old_query", "SELECT goto FROM v WHERE addr = '%s'".to_owned()),
        ]);
        let table = set.open("proxy:sqlite:old").unwrap();
        let ask = || block_on(table.lookup("a@x.test"));
        assert_eq!(ask().unwrap().as_deref(), Some("one"));
        let other = directory.path().join("new");
        database(&other, "two");
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(ask().unwrap().as_deref(), Some("two"));
        std::fs::remove_file(&file).unwrap();
        assert!(ask().is_err());
    }
}

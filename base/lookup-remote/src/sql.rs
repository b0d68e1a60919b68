//! What the SQL tables share: the question, the old way to write it, the result.

use std::sync::Arc;

use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{LookupError, OpenError, Options, Wanted};

use crate::settings::{Settings, wanted_domain};
use crate::template::{Joiner, Needs, Template};

/// The question and the shape of the answer.
pub(crate) struct Shape {
    pub(crate) spec: Arc<str>,
    pub(crate) options: Options,
    query: Template,
    result: Template,
    needs: Needs,
    limit: u32,
    domains: Option<StringList>,
}

/// Rows of an answer.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

impl Shape {
    pub(crate) fn read(settings: &Settings, wanted: &Wanted<'_>) -> Result<Self, OpenError> {
        let spec = &settings.spec;
        let text = match settings.filled("query") {
            Some(query) => query,
            None => old_query(settings, wanted.kind)?,
        };
        let query = Template::question(spec, "query", &text)?;
        let result = Template::result(spec, "result_format", &settings.text_or("result_format", "%s"))?;
        Ok(Self {
            spec: Arc::clone(spec),
            options: wanted.options.clone(),
            needs: query.needs().and(result.needs()),
            query,
            result,
            limit: settings.number("expansion_limit", 0, 0)?,
            domains: settings.domains(wanted),
        })
    }

    /// Whether `key` is looked up at all.
    pub(crate) async fn wants(&self, key: &str) -> Result<bool, LookupError> {
        if !self.needs.met_by(key) || key.contains('\0') {
            return Ok(false);
        }
        wanted_domain(self.domains.as_ref(), key).await
    }

    /// The question for `key`.
    pub(crate) fn question(&self, key: &str, quote: impl Fn(&str, &mut String)) -> Option<String> {
        self.query.ask(key, quote)
    }

    /// The answer: all values of all rows.
    pub(crate) fn answer(&self, key: &str, rows: &Rows) -> Result<Option<String>, String> {
        let mut joiner = Joiner::new(&self.result, key, self.limit);
        for value in rows.iter().flatten().flatten() {
            joiner.add(value)?;
        }
        Ok(joiner.finish())
    }

    /// Trouble, told to the log once here.
    pub(crate) fn failed(&self, why: String) -> LookupError {
        LookupError { table: Arc::clone(&self.spec), why }
    }
}

/// `select_field`, `table`, `where_field`, `additional_conditions`; PostgreSQL's `select_function`.
fn old_query(settings: &Settings, kind: &str) -> Result<String, OpenError> {
    if kind == "pgsql"
        && let Some(function) = settings.filled("select_function")
    {
        return Ok(format!("SELECT {function}('%s')"));
    }
    let more = settings.text_or("additional_conditions", "");
    // A percent sign had no meaning in these.
    let plain = |text: String| text.replace('%', "%%");
    let part = |name: &str| match settings.filled(name) {
        Some(text) => Ok(plain(text)),
        None => Err(OpenError(format!("{}: neither query nor {name} is set", settings.spec))),
    };
    let (field, table, key) = (part("select_field")?, part("table")?, part("where_field")?);
    Ok(format!("SELECT {field} FROM {table} WHERE {key} = '%s' {}", plain(more)))
}

/// An apostrophe is written twice.
pub(crate) fn double_quotes(text: &str, out: &mut String) {
    for char in text.chars() {
        if char == '\'' {
            out.push('\'');
        }
        out.push(char);
    }
}

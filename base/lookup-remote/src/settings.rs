//! The settings of one table: `name = value` in a file of its own, or main.cf parameters with the table's name and an
//! underscore before them (`mysql:users` with `users_hosts`, `users_query`).

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use yamabiko_config::main_cf::MainCf;
use yamabiko_lookup::matchlist::StringList;
use yamabiko_lookup::{LookupError, OpenError, TableSet, Wanted};

/// Gives the value of a main.cf parameter; `None`: not set.
pub type Parameter = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A file with settings has this many bytes at most.
const MAX_FILE: u64 = 1 << 20;

enum Source {
    File(MainCf),
    Main(String, Parameter),
}

/// The settings of one table.
pub(crate) struct Settings {
    /// `type:name` of the table, for messages.
    pub(crate) spec: Arc<str>,
    source: Source,
}

impl Settings {
    /// Reads them. A name that begins with a slash or a dot is that of a file.
    pub(crate) fn read(wanted: &Wanted<'_>, parameter: &Parameter) -> Result<Self, OpenError> {
        let spec: Arc<str> = wanted.spec.into();
        if !wanted.name.starts_with(['/', '.']) {
            return Ok(Self { spec, source: Source::Main(wanted.name.to_owned(), Arc::clone(parameter)) });
        }
        let failed = |error: std::io::Error| {
            let text = error.to_string();
            OpenError(format!("open {}: {}", wanted.name, text.split(" (os error").next().unwrap_or_default()))
        };
        let file = (wanted.options.open_file)(Path::new(wanted.name)).map_err(failed)?;
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        let main = MainCf::parse(wanted.name, &text).map_err(|fault| OpenError(fault.to_string()))?;
        for remark in &main.remarks {
            wanted.options.warn(remark.to_string());
        }
        Ok(Self { spec, source: Source::File(main) })
    }

    /// The value as written.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match &self.source {
            Source::File(main) => main.get(name).map(|entry| entry.value.clone()),
            Source::Main(prefix, parameter) => parameter(&format!("{prefix}_{name}")),
        }
    }

    /// The value, or what counts without one.
    pub(crate) fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    /// The value, where it is not empty.
    pub(crate) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// A value that must be there.
    pub(crate) fn needed(&self, name: &str) -> Result<String, OpenError> {
        self.filled(name).ok_or_else(|| OpenError(format!("{}: {} is not set", self.spec, self.full(name))))
    }

    /// Words between commas and white space.
    pub(crate) fn list(&self, name: &str, default: &str) -> Vec<String> {
        let text = self.text_or(name, default);
        let words = text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    }

    /// A number that is at least `least`.
    pub(crate) fn number(&self, name: &str, default: u32, least: u32) -> Result<u32, OpenError> {
        let Some(text) = self.filled(name) else { return Ok(default) };
        match text.parse::<u32>() {
            Ok(number) if number >= least => Ok(number),
            _ => Err(OpenError(format!(
                "{}: bad numerical value in {}: {text} (a number from {least})",
                self.spec,
                self.full(name)
            ))),
        }
    }

    /// Seconds; a trailing `s` is allowed.
    pub(crate) fn seconds(&self, name: &str, default: u32) -> Result<Duration, OpenError> {
        let Some(text) = self.filled(name) else { return Ok(Duration::from_secs(default.into())) };
        match text.strip_suffix('s').unwrap_or(&text).parse::<u32>() {
            Ok(number) if number > 0 => Ok(Duration::from_secs(number.into())),
            _ => Err(OpenError(format!("{}: bad time value in {}: {text} (seconds)", self.spec, self.full(name)))),
        }
    }

    /// `yes` or `no`.
    pub(crate) fn bool(&self, name: &str, default: bool) -> Result<bool, OpenError> {
        match self.filled(name) {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("yes") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("no") => Ok(false),
            Some(text) => {
                Err(OpenError(format!("{}: bad boolean configuration: {} = {text}", self.spec, self.full(name))))
            }
        }
    }

    /// The list of `domain`; `None` when there is none.
    pub(crate) fn domains(&self, wanted: &Wanted<'_>) -> Option<StringList> {
        let text = self.filled("domain")?;
        let set = TableSet::new(wanted.options.clone());
        Some(StringList::new(&set, &format!("{}: domain", self.spec), &text, false))
    }

    /// Warns of settings that have no effect.
    pub(crate) fn without_effect(&self, wanted: &Wanted<'_>, names: &[(&str, &str)]) {
        for (name, why) in names {
            if self.filled(name).is_some() {
                wanted.options.warn(format!("{}: {} has no effect: {why}", self.spec, self.full(name)));
            }
        }
    }

    /// What the setting is called where it was written.
    fn full(&self, name: &str) -> String {
        match &self.source {
            Source::File(main) => {
                main.get(name).map_or_else(|| name.to_owned(), |entry| format!("{} ({})", name, entry.place))
            }
            Source::Main(prefix, _) => format!("{prefix}_{name}"),
        }
    }
}

/// `domain`: only full addresses in one of these domains.
pub(crate) async fn wanted_domain(domains: Option<&StringList>, key: &str) -> Result<bool, LookupError> {
    let Some(domains) = domains else { return Ok(true) };
    match key.rsplit_once('@') {
        Some((user, domain)) if !user.is_empty() => domains.contains(domain).await,
        _ => Ok(false),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use yamabiko_lookup::{Options, Table};

    /// A set that knows the types of this crate, without main.cf.
    pub(crate) fn set() -> TableSet {
        with_parameters(Vec::new())
    }

    pub(crate) fn with_parameters(parameters: Vec<(&'static str, String)>) -> TableSet {
        let parameter: Parameter =
            Arc::new(move |name| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()));
        TableSet::new(Options { extension: Some(crate::extension(parameter)), ..Options::default() })
    }

    /// Writes the settings of a table and opens it.
    pub(crate) fn open(kind: &str, text: &str) -> Result<(tempfile::TempDir, Arc<dyn Table>), OpenError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("t.cf");
        std::fs::write(&file, text).unwrap();
        let table = set().open(&format!("{kind}:{}", file.display()))?;
        Ok((directory, table))
    }

    #[test]
    fn faults_are_named() {
        for (kind, text, expected) in [
            ("memcache", "ttl = x\n", "ttl (FILE, line 1): x"),
            ("memcache", "no equal sign\n", "FILE, line 1: missing '=' after attribute name"),
            ("memcache", "key_format = %x\n", "\"%x\""),
            ("sqlite", "query = x\n", "dbpath is not set"),
            ("sqlite", "dbpath = /x\n", "neither query nor select_field is set"),
            ("mysql", "query = SELECT 1\n", "dbname is not set"),
            ("mysql", "dbname = a\nquery = SELECT '%z'\n", "\"%z\""),
            ("mysql", "dbname = a\nquery = x\nrequire_result_set = maybe\n", "(FILE, line 3) = maybe"),
            ("pgsql", "dbname = a\nquery = x\nhosts = postgresql://u@h:port/d\n", "connection URI"),
            ("ldap", "query_filter = x\n", "search_base is not set"),
            ("ldap", "search_base = x\nscope = tree\n", "scope"),
            ("ldap", "search_base = x\nbind = sasl\nsasl_mechs = GSSAPI\n", "GSSAPI"),
        ] {
            if !crate::types().contains(&kind) {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("t.cf");
            std::fs::write(&file, text).unwrap();
            let file = file.display().to_string();
            let said = set().open(&format!("{kind}:{file}")).err().map(|error| error.0).unwrap_or_default();
            assert!(said.contains(&expected.replace("FILE", &file)), "{kind}: {text}: {said}");
        }
        assert!(set().open("memcache:/no/such.cf").err().unwrap().0.starts_with("open /no/such.cf: No such file"));
    }
}

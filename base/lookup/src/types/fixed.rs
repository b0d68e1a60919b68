//! `static:value`, `environ:`, `fail:` and `internal:`.

use std::sync::Arc;

use crate::set::{OpenError, Options};
use crate::{Answer, Braced, LookupError, Table, braced};

/// Always the same value.
struct Constant {
    name: String,
    value: String,
}

/// `static:value` or `static:{ text }`.
pub(crate) fn constant(spec: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    let value = match braced(name) {
        _ if !name.starts_with('{') => name.to_owned(),
        Braced::Inside(value) | Braced::Plain(value) => value.to_owned(),
        Braced::Unclosed => {
            return Err(OpenError(format!("bad static:name syntax: missing '}}' in \"{name}\"")));
        }
        Braced::Trailing => {
            return Err(OpenError(format!("bad static:name syntax: syntax error after '}}' in \"{name}\"")));
        }
    };
    Ok(Arc::new(Constant { name: spec.to_owned(), value }))
}

impl Table for Constant {
    fn name(&self) -> &str {
        &self.name
    }
    fn lookup<'a>(&'a self, _key: &'a str) -> Answer<'a> {
        Answer::Ready(Ok(Some(self.value.clone())))
    }
    fn folds_case(&self) -> bool {
        false
    }
}

/// The environment of the process; for tests, as in Postfix.
struct Environ(String, Options);

pub(crate) fn environ(spec: &str, options: &Options) -> Arc<dyn Table> {
    Arc::new(Environ(spec.to_owned(), options.clone()))
}

impl Table for Environ {
    fn name(&self) -> &str {
        &self.0
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        // A name with these makes the standard library panic.
        let key = self.1.fold(key);
        let possible = !key.is_empty() && !key.contains(['=', '\0']);
        Answer::Ready(Ok(if possible { std::env::var(&*key).ok() } else { None }))
    }
}

/// Every lookup fails; for tests, as in Postfix.
struct Fail(Arc<str>);

pub(crate) fn fail(spec: &str) -> Arc<dyn Table> {
    Arc::new(Fail(spec.into()))
}

impl Table for Fail {
    fn name(&self) -> &str {
        &self.0
    }
    fn lookup<'a>(&'a self, _key: &'a str) -> Answer<'a> {
        Answer::Ready(Err(LookupError { table: Arc::clone(&self.0), why: "Application error".into() }))
    }
    fn is_pattern(&self) -> bool {
        true
    }
}

/// A table in the memory of the process: nothing outside can put anything in.
struct Internal(String);

pub(crate) fn internal(spec: &str) -> Arc<dyn Table> {
    Arc::new(Internal(spec.to_owned()))
}

impl Table for Internal {
    fn name(&self) -> &str {
        &self.0
    }
    fn lookup<'a>(&'a self, _key: &'a str) -> Answer<'a> {
        Answer::Ready(Ok(None))
    }
}

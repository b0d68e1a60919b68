//! `inline:{ key=value, { key = text with blanks } }`.

use std::collections::HashMap;
use std::sync::Arc;

use super::Opening;
use crate::lines::trim_str;
use crate::set::OpenError;
use crate::{Answer, Braced, Options, Table, braced, split_list};

struct Inline {
    name: String,
    pairs: HashMap<String, String>,
    options: Options,
}

pub(crate) fn open(opening: &Opening<'_>, spec: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    let bad = |what: &str| OpenError(format!("{what}: \"{spec}\"; need \"inline:{{name=value...}}\""));
    // A blank before the brace is no part of a name.
    if !name.starts_with('{') {
        return Err(bad("bad syntax"));
    }
    let Braced::Inside(inside) = braced(name) else { return Err(bad("bad syntax")) };
    let mut pairs = HashMap::new();
    for element in split_list(inside) {
        let element = match braced(element) {
            Braced::Inside(element) | Braced::Plain(element) => element,
            Braced::Unclosed => return Err(bad(&format!("missing '}}' in \"{element}\""))),
            Braced::Trailing => return Err(bad(&format!("syntax error after '}}' in \"{element}\""))),
        };
        let Some((key, value)) = element.split_once('=') else {
            return Err(bad("missing '=' after attribute name"));
        };
        let (key, value) = (trim_str(key), trim_str(value));
        // As in Postfix, the last of several entries stays.
        pairs.insert(opening.options().fold(key).into_owned(), value.to_owned());
    }
    if pairs.is_empty() {
        return Err(bad("bad syntax"));
    }
    Ok(Arc::new(Inline { name: spec.to_owned(), pairs, options: opening.options().clone() }))
}

impl Table for Inline {
    fn name(&self) -> &str {
        &self.name
    }
    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        Answer::Ready(Ok(self.pairs.get(&*self.options.fold(key)).cloned()))
    }
    fn entries(&self) -> Option<Result<Vec<(String, String)>, crate::LookupError>> {
        let mut entries: Vec<_> = self.pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        entries.sort();
        Some(Ok(entries))
    }
}

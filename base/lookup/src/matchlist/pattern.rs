//! The elements of a match list and how each kind of list compares them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::Match;
use crate::lines::Lines;
use crate::net::Network;
use crate::set::{Options, TableSet, Usage};
use crate::types::file::{read_text, words};
use crate::{LookupError, Table, split_list};

/// How deep files may name files.
const FILE_NESTING: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Domain,
    Host,
    String,
}

/// What is looked for.
pub(super) struct Subject<'a> {
    pub name: &'a str,
    pub address: Option<IpAddr>,
}

enum Pattern {
    /// A name, or a string.
    Text(String),
    /// A network or an address.
    Network(Network),
    Table(Arc<dyn Table>),
    /// An element that cannot be understood or read: whoever reaches it must wait.
    Broken(String),
}

struct Element {
    listed: bool,
    pattern: Pattern,
    written: String,
    source: Arc<str>,
}

pub(super) struct List {
    title: Arc<str>,
    kind: Kind,
    parents: bool,
    elements: Vec<Element>,
}

impl List {
    pub fn new(set: &TableSet, title: &str, list: &str, kind: Kind, parents: bool) -> Self {
        let mut new = Self { title: title.into(), kind, parents, elements: Vec::new() };
        let source = Arc::clone(&new.title);
        new.add(set, list, true, &source, 0);
        new
    }

    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub fn is_remote(&self) -> bool {
        self.elements.iter().any(|element| matches!(&element.pattern, Pattern::Table(table) if table.is_remote()))
    }

    fn add(&mut self, set: &TableSet, list: &str, outer: bool, source: &Arc<str>, depth: u32) {
        for written in split_list(list) {
            let text = written.trim_start_matches('!');
            let listed = outer ^ ((written.len() - text.len()) % 2 == 1);
            let pattern = if text.starts_with('/') {
                match self.add_file(set, Path::new(text), listed, depth) {
                    Ok(()) => continue,
                    Err(why) => broken(set.options(), &self.title, why),
                }
            } else if text.is_empty() {
                broken(set.options(), &self.title, "no pattern after '!'".to_owned())
            } else if !text.starts_with('[') && text.contains(':') {
                Pattern::Table(set.open_or_defer(text, Usage::MAP))
            } else if self.kind == Kind::Host && (text.starts_with('[') || text.contains('/')) {
                match Network::parse(text) {
                    Ok(network) => Pattern::Network(network),
                    Err(why) => broken(set.options(), &self.title, why),
                }
            } else if let (Kind::Host, Ok(address)) = (self.kind, Network::parse(text)) {
                Pattern::Network(address)
            } else {
                Pattern::Text(crate::fold_case(text).into_owned())
            };
            self.elements.push(Element { listed, pattern, written: written.to_owned(), source: Arc::clone(source) });
        }
    }

    /// Adds the patterns in a file; each line is a list.
    fn add_file(&mut self, set: &TableSet, path: &Path, listed: bool, depth: u32) -> Result<(), String> {
        if depth >= FILE_NESTING {
            return Err(format!("{}: files nested more than {FILE_NESTING} levels deep", path.display()));
        }
        let content = read_text(set.options(), path)
            .map_err(|error| format!("open file {}: {}", path.display(), words(&error)))?;
        for line in Lines::new(&content) {
            let source: Arc<str> = format!("{}:{}", path.display(), line.first).into();
            self.add(set, &String::from_utf8_lossy(&line.text), listed, &source, depth + 1);
        }
        Ok(())
    }

    pub async fn contains(&self, subject: &Subject<'_>) -> Result<bool, LookupError> {
        Ok(self.find(subject).await?.is_some_and(|element| element.listed))
    }

    pub async fn explain(&self, subject: &Subject<'_>) -> Result<Option<Match>, LookupError> {
        Ok(self.find(subject).await?.map(|element| Match {
            listed: element.listed,
            element: element.written.clone(),
            source: element.source.to_string(),
        }))
    }

    /// The first element that matches.
    async fn find(&self, subject: &Subject<'_>) -> Result<Option<&Element>, LookupError> {
        let name = crate::fold_case(subject.name);
        for element in &self.elements {
            let matches = match &element.pattern {
                Pattern::Text(text) => self.text_matches(text, &name),
                Pattern::Network(network) => subject.address.is_some_and(|address| network.contains(address)),
                Pattern::Table(table) => self.table_matches(&**table, &name, subject.address).await?,
                Pattern::Broken(why) => {
                    return Err(LookupError { table: Arc::clone(&self.title), why: why.clone() });
                }
            };
            if matches {
                return Ok(Some(element));
            }
        }
        Ok(None)
    }

    fn text_matches(&self, text: &str, name: &str) -> bool {
        if text == name {
            return true;
        }
        if self.kind == Kind::String {
            return false;
        }
        match name.strip_suffix(text) {
            Some(before) if self.parents => before.ends_with('.'),
            Some(before) => text.starts_with('.') && !before.is_empty(),
            None => false,
        }
    }

    async fn table_matches(&self, table: &dyn Table, name: &str, address: Option<IpAddr>) -> Result<bool, LookupError> {
        let folded = crate::fold_case(name);
        let mut key = &*folded;
        while !key.is_empty() {
            if table.lookup(key).await?.is_some() {
                return Ok(true);
            }
            if self.kind == Kind::String || table.is_pattern() {
                break;
            }
            let Some((dot, _)) = key.char_indices().skip(1).find(|(_, c)| *c == '.') else { break };
            // `dot` is where a '.' stands, so both cuts are character boundaries.
            key = if self.parents { &key[dot + 1..] } else { &key[dot..] };
        }
        match address {
            Some(address) => Ok(table.lookup(&address.to_string()).await?.is_some()),
            None => Ok(false),
        }
    }
}

fn broken(options: &Options, title: &str, why: String) -> Pattern {
    options.warn(format!("{title}: {why}"));
    Pattern::Broken(why)
}

#[cfg(test)]
mod tests {
    use super::super::{AddressList, DomainList, StringList};
    use super::*;
    use pollster::block_on;

    #[test]
    fn domains() {
        let cases = [
            ("example.com", false, "example.com", true),
            ("example.com", false, "EXAMPLE.com", true),
            ("example.com", false, "a.example.com", false),
            ("example.com", true, "a.example.com", true),
            ("example.com", true, "aexample.com", false),
            (".example.com", false, "a.example.com", true),
            (".example.com", false, "example.com", false),
            ("!a.example.com, example.com", true, "a.example.com", false),
            ("!a.example.com, example.com", true, "b.example.com", true),
            ("inline:{example.com=x}", true, "b.example.com", true),
            ("inline:{example.com=x}", false, "b.example.com", false),
            ("inline:{.example.com=x}", false, "b.example.com", true),
            ("static:all", false, "anything", true),
            ("", false, "x", false),
            ("!!x", false, "x", true),
        ];
        let set = TableSet::default();
        for (list, parents, domain, expected) in cases {
            let list_of = DomainList::new(&set, "t", list, parents);
            assert_eq!(block_on(list_of.contains(domain)), Ok(expected), "{list} {domain}");
        }
    }

    #[test]
    fn hosts() {
        let cases = [
            ("127.0.0.0/8 [::1]/128", "unknown", "127.0.0.1", true),
            ("127.0.0.0/8 [::1]/128", "unknown", "::1", true),
            ("127.0.0.0/8 [::1]/128", "unknown", "10.0.0.1", false),
            ("!10.0.0.1, 10.0.0.0/8", "unknown", "10.0.0.1", false),
            ("!10.0.0.1, 10.0.0.0/8", "unknown", "10.0.0.2", true),
            ("mx.example.com", "mx.example.com", "10.0.0.2", true),
            ("inline:{10.0.0.2=x}", "unknown", "10.0.0.2", true),
        ];
        let set = TableSet::default();
        for (list, name, address, expected) in cases {
            let list_of = AddressList::new(&set, "t", list, false);
            assert_eq!(block_on(list_of.contains(name, address.parse().unwrap())), Ok(expected), "{list} {address}");
        }
    }

    #[test]
    fn strings_and_trouble() {
        let set = TableSet::default();
        let list = StringList::new(&set, "t", "a, B", true);
        assert_eq!(block_on(list.contains("b")), Ok(true));
        assert_eq!(block_on(list.contains("x.b")), Ok(false));
        // Trouble is met only by who reaches it.
        let list = AddressList::new(&set, "mynetworks", "10.0.0.1, 10.0.0.1/8", false);
        assert_eq!(block_on(list.contains("unknown", "10.0.0.1".parse().unwrap())), Ok(true));
        assert!(block_on(list.contains("unknown", "10.0.0.2".parse().unwrap())).is_err());
        let list = DomainList::new(&set, "t", "fail:x", false);
        assert!(block_on(list.contains("a")).is_err());
        let list = DomainList::new(&set, "t", "/no/such/file", false);
        assert!(block_on(list.contains("a")).is_err());
    }

    #[test]
    fn files_and_explanations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("networks");
        std::fs::write(&path, "# ours\n10.0.0.0/8\n!192.0.2.1 192.0.2.0/24\n").unwrap();
        let set = TableSet::default();
        let list = AddressList::new(&set, "mynetworks", &format!("{}, [::1]", path.display()), false);
        let explain = |address: &str| block_on(list.explain("unknown", address.parse().unwrap())).unwrap();
        let found = explain("192.0.2.1").unwrap();
        assert!(!found.listed);
        assert_eq!(found.element, "!192.0.2.1");
        assert_eq!(found.source, format!("{}:3", path.display()));
        assert!(explain("192.0.2.2").unwrap().listed);
        assert_eq!(explain("198.51.100.1"), None);
        // A file that is negated turns its elements round.
        let list = AddressList::new(&set, "mynetworks", &format!("!{}, static:x", path.display()), false);
        assert_eq!(block_on(list.contains("unknown", "10.1.1.1".parse().unwrap())), Ok(false));
        assert_eq!(block_on(list.contains("unknown", "192.0.2.1".parse().unwrap())), Ok(true));
    }
}

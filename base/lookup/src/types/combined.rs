//! Tables made of tables: `unionmap:{t1:n1, t2:n2}` joins what they give, `pipemap:{t1:n1, t2:n2}` looks what one gives
//! up in the next; and `randmap:{a, b}`, one of its values at random.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::Opening;
use crate::set::{OpenError, Options};
use crate::{Answer, Braced, LookupError, Table, braced, split_list};

/// The elements between the braces of the name.
fn elements<'a>(spec: &str, name: &'a str, need: &str) -> Result<Vec<&'a str>, OpenError> {
    let bad = || OpenError(format!("bad syntax: \"{spec}\"; need \"{need}\""));
    if !name.starts_with('{') {
        return Err(bad());
    }
    let Braced::Inside(inside) = braced(name) else { return Err(bad()) };
    let elements = split_list(inside);
    if elements.is_empty() { Err(bad()) } else { Ok(elements) }
}

/// One table of several, without the braces that may be around it.
fn tables(opening: &Opening<'_>, spec: &str, name: &str, kind: &str) -> Result<Vec<Arc<dyn Table>>, OpenError> {
    let need = format!("{kind}:{{type:name...}}");
    let mut tables = Vec::new();
    for element in elements(spec, name, &need)? {
        if !element.contains(':') {
            return Err(OpenError(format!("bad syntax: \"{spec}\"; need \"{need}\"")));
        }
        tables.push(opening.open(element)?);
    }
    Ok(tables)
}

struct Union {
    name: String,
    tables: Vec<Arc<dyn Table>>,
}

struct Pipe {
    name: String,
    tables: Vec<Arc<dyn Table>>,
}

pub(crate) fn union(opening: &Opening<'_>, spec: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    Ok(Arc::new(Union { name: spec.to_owned(), tables: tables(opening, spec, name, "unionmap")? }))
}

pub(crate) fn pipe(opening: &Opening<'_>, spec: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    Ok(Arc::new(Pipe { name: spec.to_owned(), tables: tables(opening, spec, name, "pipemap")? }))
}

impl Table for Union {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        if self.is_remote() {
            return Answer::Later(Box::pin(self.join(key)));
        }
        // All parts answer at once, so the future is ready when it is first asked.
        Answer::Ready(pollster::block_on(self.join(key)))
    }

    fn source_of(&self, key: &str) -> Option<String> {
        let sources: Vec<String> = self.tables.iter().filter_map(|table| table.source_of(key)).collect();
        (!sources.is_empty()).then(|| sources.join(", "))
    }

    fn is_pattern(&self) -> bool {
        self.tables.iter().all(|table| table.is_pattern())
    }

    fn is_remote(&self) -> bool {
        self.tables.iter().any(|table| table.is_remote())
    }
}

impl Union {
    async fn join(&self, key: &str) -> crate::Found {
        let mut joined: Option<String> = None;
        for table in &self.tables {
            if let Some(value) = table.lookup(key).await? {
                match &mut joined {
                    Some(joined) => {
                        joined.push(',');
                        joined.push_str(&value);
                    }
                    None => joined = Some(value),
                }
            }
        }
        Ok(joined)
    }
}

impl Table for Pipe {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        if self.is_remote() {
            return Answer::Later(Box::pin(self.follow(key)));
        }
        Answer::Ready(pollster::block_on(self.follow(key)))
    }

    fn source_of(&self, key: &str) -> Option<String> {
        self.tables.first()?.source_of(key)
    }

    fn is_pattern(&self) -> bool {
        self.tables.iter().all(|table| table.is_pattern())
    }

    fn is_remote(&self) -> bool {
        self.tables.iter().any(|table| table.is_remote())
    }
}

impl Pipe {
    async fn follow(&self, key: &str) -> crate::Found {
        let mut value = key.to_owned();
        for table in &self.tables {
            match table.lookup(&value).await? {
                Some(next) => value = next,
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }
}

/// `randmap:{a, b, c}`.
struct Random {
    name: String,
    values: Vec<String>,
    seed: RandomState,
    count: std::sync::atomic::AtomicU64,
}

pub(crate) fn random(spec: &str, name: &str) -> Result<Arc<dyn Table>, OpenError> {
    let need = "randmap:{value...}";
    let values = elements(spec, name, need)?.into_iter().map(str::to_owned).collect();
    Ok(Arc::new(Random { name: spec.to_owned(), values, seed: RandomState::new(), count: Default::default() }))
}

impl Table for Random {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup<'a>(&'a self, _key: &'a str) -> Answer<'a> {
        // A keyed hash of a counter: spread evenly, and nobody outside can tell what comes next.
        let count = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let index = self.seed.hash_one(count) % self.values.len().max(1) as u64;
        Answer::Ready(Ok(self.values.get(index as usize).cloned()))
    }

    fn is_pattern(&self) -> bool {
        true
    }
}

/// `unix:passwd.byname` and `unix:group.byname`.
struct Accounts {
    name: Arc<str>,
    groups: bool,
    options: Options,
}

pub(crate) fn accounts(spec: &str, name: &str, options: &Options) -> Result<Arc<dyn Table>, OpenError> {
    let groups = match name {
        "passwd.byname" => false,
        "group.byname" => true,
        _ => return Err(OpenError(format!("unknown table: {spec}"))),
    };
    Ok(Arc::new(Accounts { name: spec.into(), groups, options: options.clone() }))
}

impl Table for Accounts {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup<'a>(&'a self, key: &'a str) -> Answer<'a> {
        let key = self.options.fold(key);
        let found = if self.groups {
            yamabiko_sys::users::group_by_name(&key).map(|group| group.map(|group| group.group_line()))
        } else {
            yamabiko_sys::users::by_name(&key).map(|user| user.map(|user| user.passwd_line()))
        };
        Answer::Ready(
            found.map_err(|error| LookupError { table: Arc::clone(&self.name), why: super::file::words(&error) }),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::TableSet;
    use pollster::block_on;

    #[test]
    fn values() {
        let cases = [
            ("unionmap:{static:one,inline:{x=two},static:three}", "x", Some("one,two,three")),
            ("unionmap:{inline:{x=two}, inline:{x=3}}", "y", None),
            ("pipemap:{inline:{a=b},inline:{b=c}}", "a", Some("c")),
            ("pipemap:{inline:{a=b},inline:{b=c}}", "z", None),
            ("pipemap:{pcre:{{/^(.)/ $1}}, inline:{b=c}}", "bx", Some("c")),
            ("randmap:{only}", "x", Some("only")),
            ("randmap:{{two words}}", "x", Some("{two words}")),
            ("unix:group.byname", "root", Some("root:x:0:")),
            ("unix:passwd.byname", "no-such-user", None),
            ("proxy:static:{a b}", "x", Some("a b")),
        ];
        let set = TableSet::default();
        for (spec, key, expected) in cases {
            let table = set.open(spec).unwrap();
            assert_eq!(block_on(table.lookup(key)).unwrap().as_deref(), expected, "{spec}");
        }
        assert!(block_on(set.open("unionmap:{static:a,fail:x}").unwrap().lookup("k")).is_err());
    }

    #[test]
    fn open_errors() {
        let cases = [
            ("inline:{a b}", "missing '=' after attribute name: \"inline:{a b}\"; need \"inline:{name=value...}\""),
            ("inline:{a=b", "bad syntax: \"inline:{a=b\"; need \"inline:{name=value...}\""),
            ("inline:{}", "bad syntax: \"inline:{}\"; need \"inline:{name=value...}\""),
            ("static:{a", "bad static:name syntax: missing '}' in \"{a\""),
            ("static:", "open dictionary: expecting \"type:name\" form instead of \"static:\""),
            ("unionmap:{a}", "bad syntax: \"unionmap:{a}\"; need \"unionmap:{type:name...}\""),
            ("unionmap:a", "bad syntax: \"unionmap:a\"; need \"unionmap:{type:name...}\""),
            ("randmap:{}", "bad syntax: \"randmap:{}\"; need \"randmap:{value...}\""),
            ("pipemap:{nosuch:x,static:a}", "unsupported dictionary type: nosuch"),
            ("unix:foo", "unknown table: unix:foo"),
            ("hash:/no/such", "open database /no/such.db: No such file or directory"),
            ("lmdb:/no/such", "open database /no/such.lmdb: No such file or directory"),
            ("texthash:/no/such", "open database /no/such: No such file or directory"),
        ];
        let set = TableSet::default();
        for (spec, expected) in cases {
            assert_eq!(set.open(spec).err().unwrap().0, expected);
        }
        let deep = format!("{}static:x{}", "unionmap:{".repeat(10_000), "}".repeat(10_000));
        assert!(set.open(&deep).err().unwrap().0.contains("nested more than"));
    }

    #[test]
    fn random_gives_all() {
        let table = TableSet::default().open("randmap:{a,b,c}").unwrap();
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| block_on(table.lookup("x")).unwrap()).collect();
        assert_eq!(seen.len(), 3);
    }
}

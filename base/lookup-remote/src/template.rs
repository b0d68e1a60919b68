//! `%s %u %d %S %U %D %1..%9 %%` in questions and results, as *_table(5) describe them.
//!
//! What a template needs of the key (a domain, a local part, so many labels) is known beforehand: a key that lacks it is
//! not looked up at all.

use yamabiko_lookup::OpenError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The value: in a question the key.
    Whole,
    User,
    Domain,
    Key,
    KeyUser,
    KeyDomain,
    /// From the right, the first is 1.
    Label(usize),
}

/// A template that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

/// What a key must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    user: bool,
    domain: bool,
    labels: usize,
}

impl Needs {
    /// What both need.
    pub(crate) fn and(self, other: Needs) -> Needs {
        Needs {
            user: self.user || other.user,
            domain: self.domain || other.domain,
            labels: self.labels.max(other.labels),
        }
    }

    /// Whether `key` has it.
    pub(crate) fn met_by(self, key: &str) -> bool {
        let (user, domain) = halves(key);
        if key.is_empty() || domain.is_none() && self.domain || user.is_some_and(str::is_empty) && self.user {
            return false;
        }
        self.labels == 0 || domain.is_some_and(|domain| domain.split('.').count() >= self.labels)
    }
}

/// Local part and domain; an address without either has `None` or an empty one for it.
fn halves(text: &str) -> (Option<&str>, Option<&str>) {
    match text.rsplit_once('@') {
        Some((user, domain)) => (Some(user), Some(domain).filter(|domain| !domain.is_empty())),
        None => (None, None),
    }
}

impl Template {
    /// Reads the template of a question.
    pub(crate) fn question(spec: &str, name: &str, text: &str) -> Result<Self, OpenError> {
        Self::parse(spec, name, text, true)
    }

    /// Reads the template of a result.
    pub(crate) fn result(spec: &str, name: &str, text: &str) -> Result<Self, OpenError> {
        Self::parse(spec, name, text, false)
    }

    fn parse(spec: &str, name: &str, text: &str, question: bool) -> Result<Self, OpenError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            if char != '%' {
                plain.push(char);
                continue;
            }
            let next = rest.next();
            let part = match next {
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                Some('s') if question => Part::Key,
                Some('u') if question => Part::KeyUser,
                Some('d') if question => Part::KeyDomain,
                Some('s') => Part::Whole,
                Some('u') => Part::User,
                Some('d') => Part::Domain,
                Some('S') => Part::Key,
                Some('U') => Part::KeyUser,
                Some('D') => Part::KeyDomain,
                Some(digit @ '1'..='9') => Part::Label(digit as usize - '0' as usize),
                other => {
                    let shown = other.map_or_else(|| "%".to_owned(), |char| format!("%{char}"));
                    return Err(OpenError(format!("{spec}: invalid {name} template: {text}: \"{shown}\"")));
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// What a key must have to be looked up.
    pub(crate) fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for part in &self.parts {
            match part {
                Part::KeyUser => needs.user = true,
                Part::KeyDomain => needs.domain = true,
                Part::Label(count) => {
                    needs.domain = true;
                    needs.labels = needs.labels.max(*count);
                }
                Part::Text(_) | Part::Whole | Part::User | Part::Domain | Part::Key => {}
            }
        }
        needs
    }

    /// Something of the key goes into it.
    pub(crate) fn depends_on_key(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// Fills in `key`, which meets what is needed, and `value`; everything but the template's own text goes through
    /// `quote`. `None`: the value is empty or has not what the template wants of it.
    pub(crate) fn fill(&self, key: &str, value: &str, quote: impl Fn(&str, &mut String)) -> Option<String> {
        if value.is_empty() {
            return None;
        }
        let (key_user, key_domain) = halves(key);
        let (user, domain) = halves(value);
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Whole => quote(value, &mut out),
                Part::User => {
                    quote(user.map_or(Some(value), |user| Some(user).filter(|user| !user.is_empty()))?, &mut out)
                }
                Part::Domain => quote(domain?, &mut out),
                Part::Key => quote(key, &mut out),
                Part::KeyUser => quote(key_user.unwrap_or(key), &mut out),
                Part::KeyDomain => quote(key_domain?, &mut out),
                Part::Label(count) => quote(key_domain?.rsplit('.').nth(count - 1)?, &mut out),
            }
        }
        Some(out)
    }

    /// Fills in a key only.
    pub(crate) fn ask(&self, key: &str, quote: impl Fn(&str, &mut String)) -> Option<String> {
        self.fill(key, key, quote)
    }
}

/// Joins the values of an answer: each through `format`, with commas between them, not more than `limit` (0: any number).
pub(crate) struct Joiner<'a> {
    format: &'a Template,
    key: &'a str,
    limit: u32,
    count: u32,
    joined: String,
}

impl<'a> Joiner<'a> {
    pub(crate) fn new(format: &'a Template, key: &'a str, limit: u32) -> Self {
        Self { format, key, limit, count: 0, joined: String::new() }
    }

    /// Adds a value; an error when there are too many.
    pub(crate) fn add(&mut self, value: &str) -> Result<(), String> {
        let Some(text) = self.format.fill(self.key, value, |text, out| out.push_str(text)) else { return Ok(()) };
        if self.limit > 0 && self.count >= self.limit {
            return Err(format!("Expansion limit exceeded for key '{}'", self.key));
        }
        if self.count > 0 {
            self.joined.push(',');
        }
        self.count += 1;
        self.joined.push_str(&text);
        Ok(())
    }

    /// The answer; `None` when nothing was added.
    pub(crate) fn finish(self) -> Option<String> {
        Some(self.joined).filter(|joined| !joined.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(text: &str, out: &mut String) {
        out.push_str(&text.replace('\'', "''"));
    }

    #[test]
    fn questions() {
        for (template, key, expected) in [
            ("x = '%s'", "o'b@x.test", Some("x = 'o''b@x.test'")),
            ("%u at %d, 100%%", "a@x.test", Some("a at x.test, 100%")),
            ("%u", "a", Some("a")),
            ("%u", "@x.test", None),
            ("%s", "@x.test", Some("@x.test")),
            ("%d", "@x.test", Some("x.test")),
            ("%d", "a", None),
            ("%d", "a@", None),
            ("%s", "", None),
            ("%D %U %S", "a@b@x.test", Some("x.test a@b a@b@x.test")),
            ("%3.%2.%1", "u@mail.example.com", Some("mail.example.com")),
            ("%3", "u@example.com", None),
            ("%1", "example.com", None),
            ("no key", "k", Some("no key")),
        ] {
            let read = Template::question("t", "query", template).unwrap();
            let got = read.needs().met_by(key).then(|| read.ask(key, double)).flatten();
            assert_eq!(got.as_deref(), expected, "{template} {key}");
        }
        assert!(Template::question("t", "query", "%").is_err());
    }

    #[test]
    fn results() {
        for (template, key, value, expected) in [
            ("%s", "k", "v", Some("v")),
            ("%s", "k", "", None),
            ("<%u@%d>", "k", "a@b", Some("<a@b>")),
            ("%d", "k", "a", None),
            ("%u", "k", "a", Some("a")),
            ("%u", "k", "@b", None),
            ("smtp:[%s]", "k", "h", Some("smtp:[h]")),
            ("%s %U %D %1", "u@x.test", "v", Some("v u x.test test")),
        ] {
            let read = Template::result("t", "result_format", template).unwrap();
            assert_eq!(
                read.fill(key, value, |text, out| out.push_str(text)).as_deref(),
                expected,
                "{template} {value}"
            );
        }
        let format = Template::result("t", "r", "%s").unwrap();
        let mut joiner = Joiner::new(&format, "k", 2);
        assert!(joiner.add("a").is_ok() && joiner.add("").is_ok() && joiner.add("b").is_ok());
        assert_eq!(joiner.add("c"), Err("Expansion limit exceeded for key 'k'".to_owned()));
        assert_eq!(joiner.finish().as_deref(), Some("a,b"));
    }
}

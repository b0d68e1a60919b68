//! What `regexp:`, `pcre:` and `cidr:` tables share: rules in order, the first that matches gives the value; `if` and
//! `endif` nest; `!` negates; the rules stand in a file or inline in the table's name.

use std::path::{Path, PathBuf};

use super::Opening;
use super::file::{Content, FileTable, Keys, Loaded, Stamp, read_text, words};
use super::prefilter::Prefilter;
use super::replace::Replacement;
use crate::lines::{Lines, trim_str};
use crate::set::{OpenError, Options};
use crate::{Braced, Table, braced, split_list};

/// Start and end of a group in the key, in bytes.
pub(crate) type Group = Option<(usize, usize)>;

/// A compiled pattern.
pub(crate) trait Matcher: Send + Sync {
    /// Whether it matches.
    fn is_match(&self, key: &[u8]) -> Result<bool, String>;
    /// The groups of the match: the whole match first.
    fn groups(&self, key: &[u8]) -> Result<Option<Vec<Group>>, String>;
    /// The pattern in the prefilter's language: it matches at least where this matches. `None`: it cannot be said.
    fn approximation(&self) -> Option<&str> {
        None
    }
}

/// What a rule does.
pub(crate) enum Action {
    /// Gives a value.
    Value(Replacement),
    /// Stands before rules that count only when it matches; they end at this index.
    If(usize),
}

/// One rule.
pub(crate) struct Rule {
    pub line: u32,
    pub matcher: Box<dyn Matcher>,
    /// `false` after `!`.
    pub positive: bool,
    pub action: Action,
}

/// One line of a table, understood.
pub(crate) enum Statement {
    Rule {
        matcher: Box<dyn Matcher>,
        positive: bool,
        replacement: Replacement,
    },
    If {
        matcher: Box<dyn Matcher>,
        positive: bool,
    },
    EndIf,
    /// Nothing: the reason has been told.
    Skip,
}

/// The language of one type of table.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// `regexp`, `pcre`, `cidr`.
    const KIND: &'static str;
    /// What is said about an `endif` too many.
    const LONELY_ENDIF: &'static str;
    /// Reads one line; `warn` is told what is wrong with it.
    fn read(line: &str, warn: &mut dyn FnMut(Warning)) -> Statement;
}

/// A warning about a line: with its place before it, or without (as Postfix's macro parser gives them).
pub(crate) enum Warning {
    Placed(String),
    Bare(String),
}

/// The rules of a table.
struct Rules {
    /// For messages: file name, or the inline rules.
    name: String,
    path: Option<PathBuf>,
    kind: &'static str,
    rules: Vec<Rule>,
    prefilter: Prefilter,
    options: Options,
}

/// Opens a table of rules.
pub(crate) fn open<D: Dialect>(opening: &Opening<'_>, name: &str) -> Result<std::sync::Arc<dyn Table>, OpenError> {
    let (name, substitution) = (name.to_owned(), opening.usage.substitution);
    let load: super::file::Loader = if name.starts_with('{') {
        let text = inline::<D>(&name)?;
        Box::new(move |options| {
            let content = read::<D>(options, &name, None, &text, substitution);
            Ok(Loaded { content, files: Vec::new() })
        })
    } else {
        Box::new(move |options| {
            let path = Path::new(&name);
            let stamp = Stamp::of(path);
            let text =
                read_text(options, path).map_err(|error| OpenError(format!("open {name}: {}", words(&error))))?;
            let content = read::<D>(options, &name, Some(path), &text, substitution);
            Ok(Loaded { content, files: vec![(path.to_owned(), stamp)] })
        })
    };
    FileTable::open(opening.spec, Keys::Pattern, opening.options(), load)
}

/// The rules of `{ {rule}, {rule} }` as lines of a file.
fn inline<D: Dialect>(name: &str) -> Result<Vec<u8>, OpenError> {
    let bad = |what: &str, text: &str| OpenError(format!("{} map: {what} in \"{text}\"", D::KIND));
    let one = |text| match braced(text) {
        Braced::Inside(inside) => Ok(inside),
        Braced::Plain(text) => Err(bad("no '{' at start of text", text)),
        Braced::Unclosed => Err(bad("missing '}'", text)),
        Braced::Trailing => Err(bad("syntax error after '}'", text)),
    };
    let mut lines = String::new();
    for element in split_list(one(name)?) {
        // A line end in a rule would begin another line.
        lines.push_str(&one(element)?.replace('\n', " "));
        lines.push('\n');
    }
    Ok(lines.into_bytes())
}

fn read<D: Dialect>(
    options: &Options,
    name: &str,
    path: Option<&Path>,
    text: &[u8],
    substitution: bool,
) -> Box<dyn Content> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let at = |line: u32| format!("{} map {name}, line {line}: ", D::KIND);
    for line in Lines::new(text) {
        let number = line.first;
        let line = String::from_utf8_lossy(&line.text);
        let statement = D::read(trim_str(&line), &mut |warning| match warning {
            Warning::Placed(text) => options.warn(at(number) + &text),
            Warning::Bare(text) => options.warn(text),
        });
        match statement {
            Statement::Rule { replacement, .. } if replacement.wants_groups() && !substitution => {
                options.warn(at(number) + "regular expression substitution is not allowed: skipping this rule");
            }
            Statement::Rule { matcher, positive, replacement } => {
                rules.push(Rule { line: number, matcher, positive, action: Action::Value(replacement) });
            }
            Statement::If { matcher, positive } => {
                open.push(rules.len());
                rules.push(Rule { line: number, matcher, positive, action: Action::If(usize::MAX) });
            }
            Statement::EndIf => {
                let end = rules.len();
                match open.pop().and_then(|index| rules.get_mut(index)) {
                    Some(rule) => rule.action = Action::If(end),
                    None => options.warn(at(number) + D::LONELY_ENDIF),
                }
            }
            Statement::Skip => {}
        }
    }
    // What is left open reaches to the end of the table.
    while let Some(rule) = open.pop().and_then(|index| rules.get(index)) {
        options.warn(at(rule.line) + "IF has no matching ENDIF");
    }
    let path = path.map(Path::to_owned);
    let prefilter = Prefilter::new(rules.iter().map(|rule| rule.matcher.approximation()));
    Box::new(Rules { name: name.to_owned(), path, kind: D::KIND, rules, prefilter, options: options.clone() })
}

impl Rules {
    /// The first rule that matches, and its value.
    fn find(&self, key: &[u8]) -> Option<(&Rule, Vec<u8>)> {
        let candidates = self.prefilter.candidates(key);
        let mut index = 0;
        while let Some(rule) = self.rules.get(index) {
            let possible = candidates.has(index);
            index += 1;
            if !possible {
                // It does not match, for certain.
                match &rule.action {
                    Action::If(end) if rule.positive => index = *end,
                    Action::Value(replacement) if !rule.positive => return Some((rule, replacement.expand(key, &[]))),
                    _ => {}
                }
                continue;
            }
            match &rule.action {
                Action::If(end) => {
                    let matches = self.told(rule, rule.matcher.is_match(key)).unwrap_or(false);
                    if matches != rule.positive {
                        index = *end;
                    }
                }
                Action::Value(replacement) if rule.positive && replacement.wants_groups() => {
                    if let Some(Some(groups)) = self.told(rule, rule.matcher.groups(key)) {
                        return Some((rule, replacement.expand(key, &groups)));
                    }
                }
                Action::Value(replacement) => {
                    let Some(matches) = self.told(rule, rule.matcher.is_match(key)) else { continue };
                    if matches == rule.positive {
                        return Some((rule, replacement.expand(key, &[])));
                    }
                }
            }
        }
        None
    }

    /// A pattern that gives up matches nothing (as in Postfix), and says so.
    fn told<T>(&self, rule: &Rule, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|why| self.options.warn(format!("{} map {}, line {}: {why}", self.kind, self.name, rule.line)))
            .ok()
    }
}

impl Content for Rules {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        // A group may end within a character.
        Ok(self.find(key.as_bytes()).map(|(_, value)| match String::from_utf8(value) {
            Ok(value) => value,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }

    fn get_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.find(key).map(|(_, value)| value))
    }

    fn line_of(&self, key: &str) -> Option<(PathBuf, u32)> {
        let (rule, _) = self.find(key.as_bytes())?;
        Some((self.path.clone()?, rule.line))
    }

    fn results(&self) -> Vec<(String, String)> {
        let place = |line: u32| match &self.path {
            Some(path) => format!("{}:{line}", path.display()),
            None => format!("{}:{}", self.kind, self.name),
        };
        let value = |rule: &Rule| match &rule.action {
            Action::Value(replacement) => Some((place(rule.line), replacement.text())),
            Action::If(_) => None,
        };
        self.rules.iter().filter_map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::{Options, TableSet};
    use pollster::block_on;

    /// Opens a table of these lines, gives the answers to the keys and what was said.
    fn ask(kind: &str, text: &str, keys: &[&str]) -> (Vec<Option<String>>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, text).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&said);
        let notify = Arc::new(move |notice: crate::Notice| ear.lock().unwrap().push(notice.text));
        let set = TableSet::new(Options { notify, ..Options::default() });
        let table = set.open(&format!("{kind}:{}", path.display())).unwrap();
        let answers = keys.iter().map(|key| block_on(table.lookup(key)).unwrap()).collect();
        let place = path.display().to_string();
        let said = said.lock().unwrap().iter().map(|text| text.replace(&place, "T")).collect();
        (answers, said)
    }

    fn values(kind: &str, text: &str, cases: &[(&str, Option<&str>)]) {
        let keys: Vec<&str> = cases.iter().map(|(key, _)| *key).collect();
        let (answers, said) = ask(kind, text, &keys);
        for ((key, expected), answer) in cases.iter().zip(answers) {
            assert_eq!(answer.as_deref(), *expected, "{kind} {key}: {said:?}");
        }
    }

    #[test]
    fn regexp_and_pcre_values() {
        let text = "/^user([0-9]+)@(.*)$/ num=$1 dom=${2} $(1)$$\n\
            !/@/ no at sign\n\
            # comment\n\
            if /special/\n\
            if !/x/\n\
            /very/ very special\n\
            endif\n\
            /^s/ starts\n\
            ENDIF\n\
            /CASE/ insensitive\n\
            /UPPER/i sensitive\n\
            |pipe| delimiter\n\
            !!/double/ double\n\
            /folded/ over\n   two lines\n\
            /esc\\/aped/ escaped\n\
            /opt(x)?ional/ [$1]\n";
        for kind in ["regexp", "pcre"] {
            values(
                kind,
                text,
                &[
                    ("user12@dom.test", Some("num=12 dom=dom.test 12$")),
                    ("nothing", Some("no at sign")),
                    ("very special@", Some("very special")),
                    ("very special@x", None),
                    ("special@x", Some("starts")),
                    ("very@", None),
                    ("a case@", Some("insensitive")),
                    ("upper@", None),
                    ("UPPER@", Some("sensitive")),
                    ("@pipe", Some("delimiter")),
                    ("@double", Some("double")),
                    ("@folded", Some("over   two lines")),
                    ("@esc/aped", Some("escaped")),
                    ("@optional", Some("[]")),
                    ("@optXional", Some("[X]")),
                ],
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = "/a/\n/b/R x\n/d\nx/d/ y\nif\nif /p/ more\nendif junk\nendif\n!/n/ neg $1\n/g(a)/ $2\n/g/ ${1\n\
            /g/ $x\n/g/ $ end\n/(e/ bad\nif /open/\n";
        let common = |closing: &str, bad: &str| {
            vec![
                "line 1: no replacement text: using empty string".to_owned(),
                "line 2: unknown regexp option \"R\": skipping this rule".to_owned(),
                format!("line 3: no closing regexp delimiter \"/\": {closing} this rule"),
                "line 4: ignoring unrecognized request".to_owned(),
                "line 5: no regexp: skipping this rule".to_owned(),
                "line 6: ignoring extra text after IF statement: \"more\"".to_owned(),
                "line 6: do not prepend whitespace to statements between IF and ENDIF".to_owned(),
                "line 7: ignoring extra text after ENDIF".to_owned(),
                "line 8: ignoring ENDIF without matching IF".to_owned(),
                "line 9: $number found in negative match replacement text: skipping this rule".to_owned(),
                "line 10: out of range replacement index \"2\": skipping this rule".to_owned(),
                "truncated macro reference: \"${1\"".to_owned(),
                "line 11: bad replacement syntax: skipping this rule".to_owned(),
                "line 12: non-numeric replacement index \"x\"".to_owned(),
                "line 12: bad replacement syntax: skipping this rule".to_owned(),
                "empty macro name: \"$ end\"".to_owned(),
                "line 13: bad replacement syntax: skipping this rule".to_owned(),
                format!("line 14: {bad}"),
                "line 15: IF has no matching ENDIF".to_owned(),
            ]
        };
        for (kind, expected) in [
            ("regexp", common("skipping", "Unmatched ( or \\(")),
            ("pcre", common("ignoring", "error in regex at offset 2: missing closing parenthesis")),
        ] {
            let (_, said) = ask(kind, text, &[]);
            let said: Vec<String> = said.into_iter().map(|text| text.replace(&format!("{kind} map T, "), "")).collect();
            assert_eq!(said, expected, "{kind}");
        }
    }

    #[test]
    fn cidr_values_and_warnings() {
        let text = "192.0.2.0/24 block\n10.1.2.3 exact\n2001:db8::/32 six\nif 172.16.0.0/12\n172.16.5.0/24 inner\n\
            !172.16.0.0/13 outer\nendif\n[198.51.100.1]/32 br\n!::2 not six two\n!10.0.0.0/7 not ten\n";
        values(
            "cidr",
            text,
            &[
                ("192.0.2.77", Some("block")),
                ("10.1.2.3", Some("exact")),
                ("2001:DB8::5", Some("six")),
                ("172.16.5.9", Some("inner")),
                ("172.31.5.9", Some("outer")),
                ("172.16.6.9", Some("not ten")),
                ("198.51.100.1", Some("br")),
                ("::1", Some("not six two")),
                ("::2", None),
                ("12.1.1.1", Some("not ten")),
                ("11.1.1.1", None),
                ("name.example.com", None),
                ("", None),
            ],
        );
        let (_, said) = ask(
            "cidr",
            "1.2.3.4\n1.2.3/24 x\n1.2.3.0/33 x\na.b x\n[::1 x\n[::1]x y\nif\nif 1.2.3.4 junk\nendif\nendif x\n\
             1.2.3.4/ x\n192.0.2.128/24 x\nif ::1\n1.2.3.4/x y\n",
            &[],
        );
        let expected = [
            "line 1: no lookup result: skipping this rule",
            "line 2: bad network value in \"1.2.3/24\": skipping this rule",
            "line 3: bad mask length in \"1.2.3.0/33\": skipping this rule",
            "line 4: bad address pattern: \"a.b\": skipping this rule",
            "line 5: missing ']' character after \"[::1\": skipping this rule",
            "line 6: garbage after \"[::1]\": skipping this rule",
            "line 7: no address pattern: skipping this rule",
            "line 8: bad address pattern: \"1.2.3.4 junk\": skipping this rule",
            "line 9: ENDIF without IF: skipping this rule",
            "line 10: garbage after ENDIF: skipping this rule",
            "line 11: bad mask value in \"1.2.3.4/\": skipping this rule",
            "line 12: non-null host address bits in \"192.0.2.128/24\", perhaps you should use \"192.0.2.0/24\" \
             instead: skipping this rule",
            "line 14: bad mask value in \"1.2.3.4/x\": skipping this rule",
            "line 13: IF has no matching ENDIF",
        ];
        assert_eq!(said, expected.map(|text| format!("cidr map T, {text}")));
    }

    #[test]
    fn inline_rules() {
        let set = TableSet::default();
        for (spec, key, expected) in [
            ("cidr:{{1.2.3.4 a}, {5.6.7.8 b}}", "5.6.7.8", Some("b")),
            ("pcre:{{/^a(.)/ x$1} {/b/ y}}", "ab", Some("xb")),
            ("regexp:{ { /b{2}/ y } }", "abb", Some("y")),
            ("pcre:{}", "x", None),
        ] {
            let table = set.open(spec).unwrap();
            assert_eq!(block_on(table.lookup(key)).unwrap().as_deref(), expected, "{spec}");
        }
        for (spec, expected) in [
            ("cidr:{1.2.3.4 a}", "cidr map: no '{' at start of text in \"1.2.3.4\""),
            ("cidr:{{1.2.3.4 a}x}", "cidr map: syntax error after '}' in \"{1.2.3.4 a}x\""),
            ("pcre:{{a}", "pcre map: missing '}' in \"{{a}\""),
            ("pcre:/no/such", "open /no/such: No such file or directory"),
        ] {
            assert_eq!(set.open(spec).err().unwrap().0, expected);
        }
    }

    #[test]
    fn substitution_can_be_refused() {
        let set = TableSet::default();
        let spec = "pcre:{{/^(.)x/ $1}, {/x/ plain}}";
        let find = |usage| block_on(set.open_or_defer(spec, usage).lookup("ax")).unwrap();
        assert_eq!(find(crate::Usage::MAP).as_deref(), Some("a"));
        assert_eq!(find(crate::Usage::SENSITIVE).as_deref(), Some("plain"));
        assert_eq!(find(crate::Usage::ALIASES).as_deref(), Some("plain"));
    }

    #[test]
    fn hostile_tables_and_keys() {
        // A hundred thousand ifs inside each other cost neither stack nor more than linear time.
        let deep = "if /a/\n".repeat(100_000) + "/a/ deep\n";
        let (answers, _) = ask("regexp", &deep, &["b"]);
        assert_eq!(answers, [None]);
        // A pattern that backtracks for ever is given up, and said.
        let (answers, said) = ask("pcre", "/^(a+)+$/ x\n/a/ y\n", &[&("a".repeat(60) + "!")]);
        assert_eq!(answers, [Some("y".to_owned())]);
        assert_eq!(said, ["pcre map T, line 1: match limit exceeded"]);
        let long = "x".repeat(1_000_000);
        for kind in ["regexp", "pcre", "cidr"] {
            let (answers, _) = ask(kind, &format!("/^{long}$/ a\n/y(.)/ $1\n{long}\n"), &[&long, "yé", "\0"]);
            assert_eq!(answers[2], None);
        }
    }
}

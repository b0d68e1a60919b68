//! Tests of the text forms of tables.

use crate::Format;
use crate::text::{Entry, read};

fn pairs(text: &str, format: Format) -> (Vec<(String, String)>, Vec<String>) {
    let (mut pairs, mut said) = (Vec::new(), Vec::new());
    read(text.as_bytes(), format, |entry| match entry {
        Entry::Pair(pair) => pairs.push((pair.key, pair.value)),
        Entry::Warning { line, text } => said.push(format!("{line}: {text}")),
    });
    (pairs, said)
}

#[test]
fn map_lines() {
    let cases = [
        ("key value", "key", "value"),
        ("key\t two  words  ", "key", "two  words"),
        ("\"quoted key\" v", "\"quoted key\"", "v"),
        ("\"a \\\" b\" c", "\"a \\\" b\"", "c"),
        ("back\\ slash v", "back\\ slash", "v"),
        ("key\n  value\n# comment\n  more", "key", "value  more"),
    ];
    for (text, key, value) in cases {
        let (found, said) = pairs(text, Format::Map);
        assert_eq!(found, [(key.to_owned(), value.to_owned())], "{text}: {said:?}");
    }
}

#[test]
fn alias_lines() {
    let cases = [
        ("root: a,\n\tb", "root", "a, b"),
        ("\"quoted name\": x", "quoted name", "x"),
        ("two words: z", "two words", "z"),
        ("back\\slash: b", "backslash", "b"),
        ("\"a:b\": c", "a:b", "c"),
        ("<angle>: d", "<angle>", "d"),
        ("a.b.c: e, \"|cmd x\", :include:/x,   f", "a.b.c", "e, \"|cmd x\", :include:/x, f"),
        ("\"q@l\": z", "q@l", "z"),
        ("w: v : u", "w", "v:u"),
        ("last: one two\tthree  ", "last", "one two three"),
        ("(comment) name : x (c2), y", "(comment) name", "x (c2), y"),
        ("\"back\\\"sl\": \"c\\\"d\"", "back\"sl", "\"c\\\"d\""),
        ("x: user@[1.2.3.4]", "x", "user@[1.2.3.4]"),
    ];
    for (text, key, value) in cases {
        let (found, said) = pairs(text, Format::Alias);
        assert_eq!(found, [(key.to_owned(), value.to_owned())], "{text}: {said:?}");
    }
}

#[test]
fn alias_warnings() {
    for text in ["nocolon x", "empty:", ": nokey", "\"unbal: u", ":include:/x: d", "a, b: c"] {
        assert_eq!(pairs(text, Format::Alias), (Vec::new(), vec!["1: need name:value pair".to_owned()]), "{text}");
    }
    for text in ["user@dom: a", "@dom: c", "dom@: c"] {
        assert_eq!(pairs(text, Format::Alias), (Vec::new(), vec!["1: name must be local".to_owned()]), "{text}");
    }
}

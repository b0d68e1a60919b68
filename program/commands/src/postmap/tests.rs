//! Tests of options and of what building writes.

use yamabiko_lookup::Format;

use super::build::{base64, unbase64};
use super::{Task, settings};
use crate::getopt::parse;

fn read(line: &str) -> Result<Task, &'static str> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let (flags, _) = parse("bc:d:fFhimnNopq:rsuUvw", &words).unwrap();
    settings(false, &flags).map(|(_, settings, _)| settings.task)
}

#[test]
fn tasks() {
    let cases = [
        ("", Ok(Task::Build)),
        ("-i", Ok(Task::Add)),
        ("-q a", Ok(Task::Query("a".into()))),
        ("-i -q a", Ok(Task::Query("a".into()))),
        ("-d a", Ok(Task::Delete("a".into()))),
        ("-s", Ok(Task::List)),
        ("-hq -", Ok(Task::Query("-".into()))),
        ("-q a -d b", Err("specify only one of -s -q or -d")),
        ("-q a -s", Err("specify only one of -s or -q or -d")),
        ("-h", Err("specify -b -h or -m only with \"-q -\"")),
        ("-m -d -", Err("specify -b -h or -m only with \"-q -\"")),
    ];
    for (line, expected) in cases {
        assert_eq!(read(line), expected, "{line}");
    }
    assert_eq!(settings(true, &[]).unwrap().1.format, Format::Alias);
}

#[test]
fn base64_round_trips() {
    for (plain, coded) in
        [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("a b\n", "YSBiCg=="), ("\u{ff}?", "w78/")]
    {
        assert_eq!(base64(plain.as_bytes()), coded);
        assert_eq!(unbase64(coded).as_deref(), Some(plain.as_bytes()));
    }
    for bad in ["a", "====", "a===", "YQ=a", "Y Q=", "é==="] {
        assert_eq!(unbase64(bad), None, "{bad}");
    }
}

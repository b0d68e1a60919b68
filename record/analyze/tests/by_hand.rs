//! Bounces written by hand (`fixtures/by-hand`): the forms that the systems of the world use, in other words, languages,
//! character sets and with other addresses than any mail that was at hand when the rules were written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use yamabiko_analyze::Analyzer;

#[test]
fn forms_of_many_systems() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/by-hand");
    let table = fs::read_to_string(folder.join("expected.tsv")).unwrap();
    // Of each mail: recipient, reasons, hard or soft, beginnings of the status.
    let mut expected: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('\t').unwrap();
        expected.entry(name).or_default().push(rest.split('\t').collect());
    }
    assert!(expected.len() > 80);
    let analyzer = Analyzer::embedded();
    let mut wrong = Vec::new();
    for (name, mut wanted) in expected {
        let mut findings = analyzer.analyze(&fs::read(folder.join(format!("{name}.eml"))).unwrap()).findings;
        wanted.sort();
        findings.sort_by(|a, b| a.recipient.cmp(&b.recipient));
        if findings.len() != wanted.len() {
            wrong.push(format!("{name}: {} findings, wanted {}", findings.len(), wanted.len()));
            continue;
        }
        for (found, wanted) in findings.iter().zip(wanted) {
            let [recipient, reasons, hard, status] = wanted[..] else { panic!("{name}: five columns") };
            let hardness = if found.hard_bounce { "hard" } else { "soft" };
            let code = found.status.map(|s| s.to_string()).unwrap_or_default();
            let right = found.recipient.eq_ignore_ascii_case(recipient)
                && reasons.split('|').any(|reason| reason == found.reason.name())
                && hard.split('|').any(|hard| hard == hardness)
                && status.split('|').any(|status| code.starts_with(status));
            if !right {
                let got = format!("{} {} {hardness} {code} ({})", found.recipient, found.reason, found.diagnostic.text);
                wrong.push(format!("{name}: wanted {wanted:?}, got {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! Every rule of the embedded files: none is dead, and its examples lead to its reason.

use yamabiko_analyze::{Analyzer, Reply, Rule};

/// What a rule is tried on: its examples, or its own phrase with something in the gaps.
fn texts(rule: &Rule) -> Vec<String> {
    let (_, _, words, _) = rule.sample_circumstances();
    if rule.phrase == "*" {
        return vec![words];
    }
    if rule.examples.is_empty() {
        return vec![format!("{words} {}", rule.phrase.replace(" .. ", " 1 ")).trim().to_owned()];
    }
    rule.examples.clone()
}

#[test]
fn no_rule_is_dead() {
    let analyzer = Analyzer::embedded();
    let mut dead = Vec::new();
    for rule in analyzer.rules().iter() {
        let (host, stage, _, date) = rule.sample_circumstances();
        for text in texts(rule) {
            let verdict =
                analyzer.classify(&Reply { text: &text, stage, remote_host: &host, date, ..Reply::default() });
            if !verdict.evidence.iter().any(|e| e.rule == rule.name) {
                dead.push(format!("{} \"{}\" is not seen in: {text}", rule.name, rule.phrase));
            }
        }
    }
    assert!(dead.is_empty(), "{} rules:\n{}", dead.len(), dead.join("\n"));
}

#[test]
fn examples_lead_to_their_reason() {
    let analyzer = Analyzer::embedded();
    let (mut all, mut astray) = (0, Vec::new());
    for rule in analyzer.rules().iter() {
        let (host, stage, _, date) = rule.sample_circumstances();
        for text in &rule.examples {
            all += 1;
            let verdict = analyzer.classify(&Reply { text, stage, remote_host: &host, date, ..Reply::default() });
            if verdict.reason != rule.reason {
                let by = verdict.evidence.first().map_or("", |e| e.rule.as_str());
                astray.push(format!("{} is {}, not {} (by {by}): {text}", rule.name, verdict.reason, rule.reason));
            }
        }
    }
    assert!(all > 200 && astray.is_empty(), "{} of {all}:\n{}", astray.len(), astray.join("\n"));
}

#[test]
fn every_rule_has_a_language_and_a_source() {
    for rule in Analyzer::embedded().rules().iter() {
        assert!(!rule.language.is_empty(), "{}", rule.name);
    }
}

//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_report::{Templates, parse};

/// A delivery status notification.
pub fn report(data: &[u8]) {
    let Some(parsed) = parse::parse(data) else { return };
    assert!(parsed.text.len() + parsed.original.len() <= data.len());
    for group in parsed.recipients.iter().chain([&parsed.message]) {
        let _ = (group.final_recipient(), group.status(), group.action(), group.typed("Remote-MTA"));
    }
}

/// A template file: what is read can be written and read again.
pub fn template_file(data: &[u8]) {
    let Ok((templates, _)) = Templates::read(data, "file", false) else { return };
    let dump = templates.dump();
    // A text that holds the end mark cannot be written with it.
    if templates_hold(&templates, b"EOF") {
        return;
    }
    let (again, warnings) = Templates::read(&dump, "file", false).expect("a dump is a template file");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(again.dump(), dump);
}

fn templates_hold(templates: &Templates, line: &[u8]) -> bool {
    yamabiko_report::TemplateKind::ALL
        .into_iter()
        .any(|kind| templates.get(kind).text.split(|b| *b == b'\n').any(|found| found == line))
}

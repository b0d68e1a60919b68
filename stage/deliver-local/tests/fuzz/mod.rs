//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_deliver_local::dot_qmail::{Instruction, candidates, instructions};

/// A `.qmail` file, and the names of files for an extension.
pub fn dot_qmail(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (plain, executable) = (instructions(&text, false), instructions(&text, true));
    assert_eq!(plain.len(), executable.len());
    assert!(plain.len() <= text.split('\n').count());
    assert!(executable.iter().all(|line| matches!(line, Instruction::Forward(_) | Instruction::Refused(_))));
    let names = candidates("-", &text);
    assert!(names.len() <= text.len().min(255) + 2);
    for (name, matched) in names {
        // No name leads to another directory.
        assert!(name.starts_with(".qmail-") && !name.split('/').any(|part| part == ".."), "{name}");
        assert!(matched.is_none_or(|matched| text.ends_with(&matched)));
    }
}

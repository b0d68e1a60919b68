//! What must hold for any input. Run on made-up input by `random.rs`, and on what a fuzzer finds by `fuzz/`.

use yamabiko_bounce::Controls;

/// Files of qmail's control directory: `NAME NUL content NUL NAME ...`.
pub fn control_files(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let mut files = Vec::new();
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        files.push((String::from_utf8_lossy(name).into_owned(), content.to_vec()));
    }
    let (_, warnings) = Controls::read(&files);
    assert!(warnings.len() <= 4 * files.len() + 4, "{warnings:?}");
    assert!(warnings.iter().all(|warning| warning.len() < 4096));
}

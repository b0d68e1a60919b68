//! What the documentation says to write can be written: people copy its lines into main.cf.

use std::fs;
use std::path::{Path, PathBuf};

use yamabiko_config::{Config, Host};

const MASTER: &str = "smtp inet n - n - - smtpd\nsmtp unix - - n - - smtp\nlocal unix - n n - - local\n";
/// What stands there for the reader's own words.
const PLACEHOLDERS: [&str; 2] = ["...", "…"];

fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found: Vec<PathBuf> = [top.clone(), top.join("docs")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).expect("the directory can be read"))
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.sort();
    assert!(found.len() > 20, "{found:?}");
    found
}

/// Settings of main.cf in blocks of code, with the lines that continue them: number of the first line, and text.
fn settings(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut fenced, mut open) = (None, false);
    for (number, line) in page.lines().enumerate() {
        let begin = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("```") {
            fenced = if fenced.is_some() { None } else { Some(begin) };
            open = false;
            continue;
        }
        let indent = fenced.unwrap_or(4);
        let Some(code) = line.get(indent..).filter(|_| begin >= indent) else {
            open = false;
            continue;
        };
        let name = code.split_once(" =").map(|(name, _)| name).filter(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        });
        if name.is_some() {
            found.push((number + 1, format!("{code}\n")));
            open = true;
        } else if open && code.starts_with([' ', '\t']) {
            let (_, text) = found.last_mut().expect("a setting is open");
            text.push_str(code);
            text.push('\n');
        } else {
            open = false;
        }
    }
    found
}

#[test]
fn every_line_for_main_cf_can_be_copied() {
    let host = Host::of_this_machine("postfix");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).expect("the page can be read");
        for (line, setting) in settings(&text) {
            seen += 1;
            let place = format!("{}:{line}: {}", page.file_name().unwrap_or_default().display(), setting.trim_end());
            // A comment behind a value is part of the value.
            if setting.lines().any(|line| line.contains(" # ") && !line.trim_start().starts_with('#')) {
                wrong.push(format!("{place}: a comment needs a line of its own"));
            } else if !PLACEHOLDERS.iter().any(|word| setting.contains(word))
                && let Err(error) = Config::from_texts(&setting, MASTER, ("main.cf", "master.cf"), &host)
            {
                wrong.push(format!("{place}: {error}"));
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! Reading qmail's control directory (`qmail_control_directory`): files to bytes; what they mean is known in `bounce`.

use std::fs::File;
use std::io::Read as _;

use yamabiko_bounce::Controls;
use yamabiko_config::Config;

/// More files than a control directory ever has.
const FILES: usize = 1000;
/// The first line is read, so that this is plenty.
const BYTES: u64 = 4096;

/// What the control files say, and warnings with the directory's name; `None` where no directory is set.
pub fn controls(config: &Config) -> (Option<Controls>, Vec<String>) {
    let directory = config.main().text("qmail_control_directory");
    if directory.is_empty() {
        return (None, Vec::new());
    }
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => return (None, vec![format!("open qmail_control_directory {directory}: {error}")]),
    };
    let mut warnings = Vec::new();
    let mut files = Vec::new();
    for entry in entries.filter_map(Result::ok).take(FILES) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_file() {
            // Of a FIFO, a directory, or a link to nowhere nothing can be read; other names for them are none of ours.
            if Controls::is_control(&name) {
                warnings.push(format!("{directory}/{name}: it is not a file and has no effect"));
            }
            continue;
        }
        let mut content = Vec::new();
        match File::open(entry.path()).and_then(|file| file.take(BYTES).read_to_end(&mut content)) {
            Ok(_) => files.push((name, content)),
            Err(error) => warnings.push(format!("{directory}/{name}: {error}")),
        }
    }
    files.sort();
    let (controls, said) = Controls::read(&files);
    warnings.extend(said.into_iter().map(|said| format!("{directory}: {said}")));
    (Some(controls), warnings)
}

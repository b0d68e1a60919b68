//! Changing main.cf and master.cf in place: `-e`, `-#`, `-X` alone and with `-M`, `-F`, `-P`.
//!
//! What is not asked for stays byte for byte. The new text goes into a file beside the old one, which is on stable storage
//! before it takes the old one's name; owner and permissions are kept.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use yamabiko_config::main_cf::{Place, split_name_value};
use yamabiko_config::master_cf::{COLUMN_NAMES, parse_service};
use yamabiko_config::{Override, Service, ServiceType};

use super::options::{Edit, Mode, Options};
use super::show::{Pattern, master_fault};
use super::{Fatal, Program, Report, open_error, print};

pub(super) fn edit(program: &Program<'_>, options: &Options, kind: Edit, report: &mut Report<'_>) -> Result<(), Fatal> {
    let directory = program.directory(options);
    if options.arguments.is_empty() {
        return Err(Fatal(match kind {
            Edit::Set => "-e requires name=value argument".to_string(),
            Edit::CommentOut | Edit::Exclude => "missing service argument".to_string(),
        }));
    }
    for argument in &options.arguments {
        if argument.contains('\n') {
            return Err(Fatal("-e, -X, or -# accepts no multi-line input".to_string()));
        }
        if argument.trim_start().starts_with('#') {
            return Err(Fatal("-e, -X, or -# accepts no comment input".to_string()));
        }
    }
    if options.mode == Mode::Main {
        let requests = main_requests(options, kind, report)?;
        let file = EditedFile::open(&directory.join("main.cf"))?;
        let text = edit_main(&file, &requests, kind, report);
        file.replace(&text)
    } else {
        let requests = master_requests(options, kind)?;
        let file = EditedFile::open(&directory.join("master.cf"))?;
        let text = edit_master(&file, requests, report)?;
        file.replace(&text)
    }
}

/// A change of one parameter of main.cf.
struct MainRequest {
    name: String,
    value: String,
}

impl MainRequest {
    /// The entry as it is written: blanks within the value stay as they were asked for.
    fn line(&self) -> String {
        format!("{} = {}\n", self.name, self.value)
    }
}

fn main_requests(options: &Options, kind: Edit, report: &mut Report<'_>) -> Result<Vec<MainRequest>, Fatal> {
    let mut requests: Vec<MainRequest> = Vec::new();
    for argument in &options.arguments {
        let (name, value) = if kind == Edit::Set {
            split_name_value(argument).map_err(Fatal)?
        } else {
            let name = argument.trim();
            if name.contains([' ', '\t']) {
                return Err(Fatal("-X or -# requires names without white space".to_string()));
            }
            (name, "")
        };
        if let Some(earlier) = requests.iter_mut().find(|request| request.name == name) {
            report.warn(&format!("ignoring earlier request: '{} = {}'", earlier.name, earlier.value));
            earlier.value = value.to_string();
        } else {
            requests.push(MainRequest { name: name.to_string(), value: value.to_string() });
        }
    }
    Ok(requests)
}

/// The text of main.cf with the changes made.
fn edit_main(file: &EditedFile, requests: &[MainRequest], kind: Edit, report: &mut Report<'_>) -> Vec<u8> {
    let mut found = vec![0u32; requests.len()];
    let mut out = Vec::with_capacity(file.text.len() + 256);
    // The request that the current logical line belongs to.
    let mut current: Option<usize> = None;
    for line in physical_lines(&file.text) {
        if is_comment(line) {
            out.extend_from_slice(line);
            continue;
        }
        if trim_start(line).len() == line.len() {
            let end = line.iter().position(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'=')).unwrap_or(line.len());
            let name = line.get(..end).unwrap_or(line);
            current = requests.iter().position(|request| request.name.as_bytes() == name);
            if let Some(index) = current
                && let (Some(count), Some(request)) = (found.get_mut(index), requests.get(index))
            {
                *count += 1;
                if *count == 2 {
                    report.warn(&format!("{}: multiple entries for \"{}\"", file.path.display(), request.name));
                }
                if kind == Edit::Set {
                    out.extend_from_slice(request.line().as_bytes());
                }
            }
        }
        match (current, kind) {
            (None, _) => out.extend_from_slice(line),
            (Some(_), Edit::CommentOut) => {
                out.push(b'#');
                out.extend_from_slice(line);
            }
            (Some(_), Edit::Set | Edit::Exclude) => {}
        }
    }
    if kind == Edit::Set {
        end_last_line(&mut out);
        for (request, _) in requests.iter().zip(found).filter(|(_, count)| *count == 0) {
            out.extend_from_slice(request.line().as_bytes());
        }
    }
    out
}

/// A file that does not end in a line end must not have its last line grow.
fn end_last_line(out: &mut Vec<u8>) {
    if out.last().is_some_and(|last| *last != b'\n') {
        out.push(b'\n');
    }
}

fn physical_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// A comment or a blank line.
fn is_comment(line: &[u8]) -> bool {
    let content = trim_start(line);
    content.is_empty() || content.starts_with(b"#")
}

fn trim_start(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    line.get(blanks..).unwrap_or(&[])
}

/// A change of services of master.cf.
struct MasterRequest {
    pattern: Pattern,
    text: String,
    change: Change,
    matched: bool,
}

enum Change {
    /// `-Me`: the whole entry.
    Replace(Box<Service>),
    /// `-M#`.
    CommentOut,
    /// `-MX`.
    Remove,
    /// `-Fe`: a column by its position, its new value.
    Column(usize, String),
    /// `-Pe`: an `-o` setting.
    Set(String, String),
    /// `-PX`.
    Unset(String),
}

fn master_requests(options: &Options, kind: Edit) -> Result<Vec<MasterRequest>, Fatal> {
    options.arguments.iter().map(|argument| master_request(options.mode, kind, argument)).collect()
}

fn master_request(mode: Mode, kind: Edit, argument: &str) -> Result<MasterRequest, Fatal> {
    let (target, value) = match kind {
        Edit::Set => split_name_value(argument).map_err(Fatal)?,
        Edit::CommentOut | Edit::Exclude => (argument.trim(), ""),
    };
    let (parts, complaint) = match mode {
        Mode::Columns => (3, "-Fe requires service_name/type/field_name"),
        Mode::ServiceParameters => (3, "-Pe or -PX requires service_name/type/parameter"),
        _ => (2, "-Me, -MX or -M# requires service_name/type"),
    };
    let pattern = Pattern::parse(target, parts, parts).ok_or_else(|| Fatal(complaint.to_string()))?;
    let what = pattern.part(2).unwrap_or("").to_string();
    let change = match (mode, kind) {
        (Mode::Columns, _) => {
            let index = COLUMN_NAMES
                .iter()
                .position(|name| *name == what)
                .ok_or_else(|| Fatal(format!("invalid service attribute name: \"{what}\"")))?;
            Change::Column(index, value.to_string())
        }
        (Mode::ServiceParameters, Edit::Set) => {
            if value.contains([' ', '\t', '\r']) {
                return Err(Fatal("-Pe does not accept whitespace in parameter value".to_string()));
            }
            Change::Set(what, value.to_string())
        }
        (Mode::ServiceParameters, _) => Change::Unset(what),
        (_, Edit::Set) => Change::Replace(Box::new(parse_entry(value).map_err(|Fatal(text)| {
            Fatal(if text.starts_with("invalid ") { text } else { format!("{text}: \"{argument}\"") })
        })?)),
        (_, Edit::CommentOut) => Change::CommentOut,
        (_, Edit::Exclude) => Change::Remove,
    };
    Ok(MasterRequest { pattern, text: argument.to_string(), change, matched: false })
}

fn parse_entry(line: &str) -> Result<Service, Fatal> {
    let place = Place::new(&"command line".into(), 1);
    parse_service(line, place, &mut Vec::new()).map_err(|fault| Fatal(fault.text))
}

/// The text of master.cf with the changes made.
fn edit_master(file: &EditedFile, mut requests: Vec<MasterRequest>, report: &mut Report<'_>) -> Result<Vec<u8>, Fatal> {
    let mut out = Vec::with_capacity(file.text.len() + 256);
    let name: std::sync::Arc<str> = file.path.to_string_lossy().into();
    for entry in master_entries(&file.text) {
        let logical: String = String::from_utf8_lossy(&entry.text).replace('\n', "");
        if logical.is_empty() || logical.starts_with([' ', '\t']) {
            out.extend_from_slice(&entry.whole);
            continue;
        }
        let place = Place::new(&name, entry.line);
        let mut service =
            parse_service(&logical, place, &mut Vec::new()).map_err(|fault| Fatal(master_fault(&fault)))?;
        let mut outcome = Outcome::Same;
        for request in &mut requests {
            if request.pattern.takes(0, &service.name) && request.pattern.takes(1, service.kind.word()) {
                request.matched = true;
                outcome = outcome.max(apply(&mut service, &request.change)?);
            }
        }
        if outcome == Outcome::Changed {
            out.extend_from_slice(&entry.comments);
        }
        match outcome {
            Outcome::Same => out.extend_from_slice(&entry.whole),
            Outcome::Changed => out.extend_from_slice(entry_text(&service).as_bytes()),
            Outcome::CommentedOut => {
                for line in physical_lines(&entry.whole) {
                    if !is_comment(line) {
                        out.push(b'#');
                    }
                    out.extend_from_slice(line);
                }
            }
            Outcome::Removed => out.extend_from_slice(&entry.comments),
        }
    }
    for request in requests.iter().filter(|request| !request.matched) {
        match &request.change {
            Change::Replace(service) => {
                end_last_line(&mut out);
                out.extend_from_slice(entry_text(service).as_bytes());
            }
            Change::Unset(_) | Change::Set(..) | Change::Column(..) => {
                report.warn(&format!("unmatched service_name/type: \"{}\"", request.text))
            }
            Change::CommentOut | Change::Remove => {}
        }
    }
    Ok(out)
}

/// What became of an entry; the greatest of several changes counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    Changed,
    CommentedOut,
    Removed,
}

fn apply(service: &mut Service, change: &Change) -> Result<Outcome, Fatal> {
    match change {
        Change::Replace(new) => *service = (**new).clone(),
        Change::CommentOut => return Ok(Outcome::CommentedOut),
        Change::Remove => return Ok(Outcome::Removed),
        Change::Column(index, value) => set_column(service, *index, value)?,
        Change::Set(name, value) => {
            let setting = format!("{name}={value}");
            if !replace_setting(service, name, Some(&setting)) {
                // Behind the last option, before the command's own arguments.
                let position = service.words.len() - service.arguments.len().min(service.words.len());
                service.words.splice(position..position, ["-o".to_string(), setting]);
            }
            service.overrides.push(Override { name: name.clone(), value: value.clone() });
        }
        Change::Unset(name) => {
            if !replace_setting(service, name, None) {
                return Ok(Outcome::Same);
            }
        }
    }
    Ok(Outcome::Changed)
}

/// Replaces, or with `None` removes, every `-o name=...`; tells whether there was one.
fn replace_setting(service: &mut Service, name: &str, setting: Option<&str>) -> bool {
    let options = service.words.len() - service.arguments.len().min(service.words.len());
    let words = std::mem::take(&mut service.words);
    let mut found = false;
    let mut position = 0;
    while let Some(word) = words.get(position) {
        let next = words.get(position + 1).filter(|_| word == "-o" && position + 1 < options);
        let is_it = next.is_some_and(|next| next.split_once('=').is_some_and(|(own, _)| own == name));
        if is_it {
            if let Some(setting) = setting {
                service.words.extend(["-o".to_string(), setting.to_string()]);
            }
            found = true;
            position += 2;
        } else {
            service.words.push(word.clone());
            position += 1;
        }
    }
    service.overrides.retain(|own| own.name != name);
    found
}

fn set_column(service: &mut Service, index: usize, value: &str) -> Result<(), Fatal> {
    let bad = || Fatal(format!("invalid {} field \"{value}\" in \"{value}\"", COLUMN_NAMES.get(index).unwrap_or(&"")));
    let as_line = |columns: [&str; 8]| parse_entry(&columns.join(" ")).map_err(|_| bad());
    if index != 7 && (value.is_empty() || value.contains([' ', '\t'])) {
        return Err(bad());
    }
    match index {
        0 => service.name = value.to_string(),
        1 => service.kind = ServiceType::of_word(value).ok_or_else(bad)?,
        7 => {
            let new = parse_entry(&format!("x unix - - - - - {value}"))?;
            service.command = new.command;
            service.words = new.words;
            service.arguments = new.arguments;
            service.overrides = new.overrides;
        }
        _ => {
            let mut columns = ["x", "unix", "-", "-", "-", "-", "-", "x"];
            if let Some(column) = columns.get_mut(index) {
                *column = value;
            }
            let checked = as_line(columns)?;
            if let (Some(own), Some(new)) = (service.columns.get_mut(index - 2), checked.columns.get(index - 2)) {
                own.clone_from(new);
            }
        }
    }
    Ok(())
}

fn entry_text(service: &Service) -> String {
    let [private, unprivileged, chroot, wakeup, limit] = &service.columns;
    let columns =
        [&service.name, service.kind.word(), private, unprivileged, chroot, wakeup, limit, service.command.as_str()];
    let words = print::command_words(&service.words, &mut |value| value.to_string());
    print::service(columns, &words, true)
}

/// An entry of master.cf, or the comments and blank lines between two.
#[derive(Default)]
struct MasterEntry {
    /// Everything, byte for byte.
    whole: Vec<u8>,
    /// The entry's own lines; empty when there is no entry.
    text: Vec<u8>,
    /// The comments and blank lines within the entry.
    comments: Vec<u8>,
    line: u32,
}

/// Splits a file into entries and what is between them.
fn master_entries(text: &[u8]) -> Vec<MasterEntry> {
    let mut entries: Vec<MasterEntry> = Vec::new();
    // Comments of which it is not known yet whether the entry before them goes on.
    let mut waiting: Vec<u8> = Vec::new();
    for (index, line) in physical_lines(text).enumerate() {
        if is_comment(line) {
            waiting.extend_from_slice(line);
        } else if trim_start(line).len() < line.len()
            && let Some(open) = entries.last_mut()
        {
            open.whole.extend_from_slice(&waiting);
            open.whole.extend_from_slice(line);
            open.comments.append(&mut waiting);
            open.text.extend_from_slice(line);
        } else {
            let between = std::mem::take(&mut waiting);
            entries.push(MasterEntry { whole: between, ..MasterEntry::default() });
            let line_number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            entries.push(MasterEntry {
                whole: line.to_vec(),
                text: line.to_vec(),
                comments: Vec::new(),
                line: line_number,
            });
        }
    }
    entries.push(MasterEntry { whole: waiting, ..MasterEntry::default() });
    entries
}

/// A file being edited: its text, and a locked file beside it that will take its place.
struct EditedFile {
    path: PathBuf,
    new_path: PathBuf,
    new: File,
    text: Vec<u8>,
    is_replaced: bool,
}

impl Drop for EditedFile {
    fn drop(&mut self) {
        if !self.is_replaced {
            // The old file is untouched; what was written beside it is of no use. Nothing more can be done if this fails.
            let _ = std::fs::remove_file(&self.new_path);
        }
    }
}

impl EditedFile {
    fn open(path: &Path) -> Result<EditedFile, Fatal> {
        let open = || File::open(path).map_err(|error| Fatal(format!("{} for reading", open_error(path, &error))));
        // Nothing is made beside a file that is not there.
        drop(open()?);
        let mut new_name = path.as_os_str().to_os_string();
        new_name.push(".tmp");
        let new_path = PathBuf::from(new_name);
        let new = lock_new(&new_path).map_err(|error| Fatal(open_error(&new_path, &error)))?;
        let mut file = EditedFile { path: path.to_path_buf(), new_path, new, text: Vec::new(), is_replaced: false };
        // Read under the lock: what another editor has just written is there.
        let mut old = open()?;
        old.read_to_end(&mut file.text).map_err(|error| Fatal(format!("read {}: {error}", path.display())))?;
        Ok(file)
    }

    fn replace(mut self, text: &[u8]) -> Result<(), Fatal> {
        self.write(text).map_err(|error| Fatal(format!("close {}: {error}", self.new_path.display())))
    }

    fn write(&mut self, text: &[u8]) -> std::io::Result<()> {
        let old = std::fs::metadata(&self.path)?;
        self.new.set_len(0)?;
        self.new.write_all(text)?;
        self.new.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))?;
        let new = self.new.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(&self.new, Some(old.uid()), Some(old.gid()))?;
        }
        self.new.sync_all()?;
        std::fs::rename(&self.new_path, &self.path)?;
        self.is_replaced = true;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

/// Opens the new file and locks it. When another editor finished while we waited, the file we locked is no longer the one
/// of that name, and we begin anew.
fn lock_new(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        let ours = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

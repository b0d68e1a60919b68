//! Asking tables: one key, the lines of standard input, the headers and body lines of a message, everything.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use yamabiko_lookup::{Format, LookupError, Table};
use yamabiko_message::FieldName;
use yamabiko_message::mime::{HeaderClass, MimeState, Options, Sink};

use super::build::{Index, unbase64};
use super::{Command, Exit};

/// The words of the C library for an error, as Postfix prints them: without `(os error 2)`.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(cut) => text.get(..cut).unwrap_or(&text).to_owned(),
        None => text,
    }
}

/// `-F`: the content of the files that a value names, each on its own lines.
pub(super) fn contents_of_files(value: &str) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    for (count, name) in yamabiko_lookup::split_list(value).into_iter().enumerate() {
        if count > 0 {
            content.push(b'\n');
        }
        let bytes = std::fs::read(name).map_err(|error| format!("open {name}: {}", words(&error)))?;
        content.extend_from_slice(&bytes);
    }
    if content.is_empty() { Err("empty pathname list".to_owned()) } else { Ok(content) }
}

/// Tables of the command line, with how each is named in messages.
struct Tables {
    tables: Vec<(String, String, Arc<dyn Table>)>,
}

impl Command {
    /// `-q key`: the first value found.
    pub(super) fn query(&mut self, arguments: &[String], key: &str) -> Result<ExitCode, Exit> {
        for argument in arguments {
            let (kind, name) = self.spec(argument);
            let table = self.open(&kind, &name)?;
            if let Some(value) = self.ask(&kind, &name, &*table, key)? {
                let mut out = io::stdout().lock();
                // Nobody reads: nothing to do about it.
                let _ = out.write_all(&value).and_then(|()| out.write_all(b"\n"));
                return Ok(ExitCode::SUCCESS);
            }
        }
        Ok(ExitCode::FAILURE)
    }

    fn ask(&mut self, kind: &str, name: &str, table: &dyn Table, key: &str) -> Result<Option<Vec<u8>>, Exit> {
        // No file table has an empty key.
        if key.is_empty() && Index::of(kind).is_some() {
            return Ok(None);
        }
        let value = match pollster::block_on(table.lookup(key)) {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(None),
            Err(error) => {
                let why = query_error(&error);
                return Err(self.fatal(&format!("table {kind}:{name}: query error{why}")));
            }
        };
        if value.is_empty() {
            self.context.warn(&format!("table {kind}:{name}: key {key}: empty string result is not allowed"));
            let text = "should return NO RESULT in case of NOT FOUND";
            self.context.warn(&format!("table {kind}:{name} {text}"));
        }
        if !self.settings.values_are_files {
            return Ok(Some(value.into_bytes()));
        }
        // An index holds the files' content, a text their names.
        let stored = if Index::of(kind).is_some() { unbase64(&value) } else { None };
        let content = match stored {
            Some(content) => Ok(content),
            None => contents_of_files(&value),
        };
        content.map(Some).map_err(|why| self.fatal(&why))
    }

    fn open_all(&mut self, arguments: &[String]) -> Result<Tables, Exit> {
        let mut tables = Vec::new();
        for argument in arguments {
            let (kind, name) = self.spec(argument);
            let table = self.open(&kind, &name)?;
            tables.push((kind, name, table));
        }
        Ok(Tables { tables })
    }

    /// `-q -`: each line of standard input is a key; with `-h` and `-b`, each header and body line of a message.
    pub(super) fn query_stdin(&mut self, arguments: &[String]) -> Result<ExitCode, Exit> {
        let tables = self.open_all(arguments)?;
        let mut keys = Vec::new();
        let mut input = io::stdin().lock();
        if self.settings.headers || self.settings.bodies {
            let mut message = Vec::new();
            let _ = input.read_to_end(&mut message);
            let mut picker = Picker { headers: self.settings.headers, bodies: self.settings.bodies, keys: Vec::new() };
            let mut machine = MimeState::new(Options { parse_mime: self.settings.mime, ..Options::default() });
            for line in message.split_inclusive(|&byte| byte == b'\n') {
                machine.line(line.strip_suffix(b"\n").unwrap_or(line), true, &mut picker);
            }
            machine.finish(&mut picker);
            keys = picker.keys;
        }
        let mut found = false;
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.settings.headers || self.settings.bodies {
            for key in keys {
                found |= self.answer(&tables, key, &mut out)?;
            }
        } else {
            let mut line = Vec::new();
            while input.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                found |= self.answer(&tables, std::mem::take(&mut line), &mut out)?;
            }
        }
        let _ = out.flush();
        Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Looks one key up in all the tables, prints it with the first value.
    fn answer(&mut self, tables: &Tables, key: Vec<u8>, out: &mut impl Write) -> Result<bool, Exit> {
        let colon = if self.settings.format == Format::Alias { ":" } else { "" };
        for (kind, name, table) in &tables.tables {
            let Ok(key) = std::str::from_utf8(&key) else {
                let shown = Index::of(kind).map_or_else(|| name.clone(), |index| index.shown(name));
                let printable: String =
                    key.iter().map(|&byte| if (32..127).contains(&byte) { byte as char } else { '?' }).collect();
                let text = "malformed UTF-8 or invalid codepoint";
                self.context.warn(&format!("{kind}:{shown}: non-UTF-8 key \"{printable}\": {text}"));
                continue;
            };
            match self.ask(kind, name, &**table, key) {
                Ok(Some(value)) => {
                    let _ = write!(out, "{key}{colon}\t").and_then(|()| out.write_all(&value));
                    let _ = out.write_all(b"\n");
                    return Ok(true);
                }
                Ok(None) => {}
                Err(exit) => {
                    // What was found before is shown before the command ends.
                    let _ = out.flush();
                    return Err(exit);
                }
            }
        }
        Ok(false)
    }

    /// `-s`: all of the first table, as Postfix does.
    pub(super) fn list(&mut self, arguments: &[String]) -> Result<ExitCode, Exit> {
        let Some(argument) = arguments.first() else { return Ok(ExitCode::FAILURE) };
        let (kind, name) = self.spec(argument);
        let table = self.open(&kind, &name)?;
        let colon = if self.settings.format == Format::Alias { ":" } else { "" };
        let entries = match table.entries() {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                return Err(self.fatal(&format!("table {kind}:{name}: sequence error: {}", error.why)));
            }
            None if kind == "internal" => Vec::new(),
            None if kind == "fail" => {
                return Err(self.fatal(&format!("table {kind}:{name}: sequence error: Application error")));
            }
            None => return Err(self.fatal(&format!("table {kind}:{name}: sequence operation is not supported"))),
        };
        let mut out = io::BufWriter::new(io::stdout().lock());
        for (key, value) in entries {
            let value = match self.settings.values_are_files.then(|| unbase64(&value)).flatten() {
                Some(content) => content,
                None => value.into_bytes(),
            };
            let _ = write!(out, "{key}{colon}\t").and_then(|()| out.write_all(&value));
            let _ = out.write_all(b"\n");
        }
        let _ = out.flush();
        Ok(ExitCode::SUCCESS)
    }
}

/// What stands after `query error`. Postfix prints the last error number of the C library; for an answer that a remote
/// server gave, that is what the connection attempt left there, and nothing for what the server calls permanent.
fn query_error(error: &LookupError) -> String {
    if error.why.starts_with("permanent error") {
        String::new()
    } else if error.why.starts_with("temporary error") || error.why.starts_with("timeout error") {
        ": Operation now in progress".to_owned()
    } else {
        format!(": {}", error.why)
    }
}

/// Picks the headers and body lines of a message that are asked for.
struct Picker {
    headers: bool,
    bodies: bool,
    keys: Vec<Vec<u8>>,
}

impl Sink for Picker {
    fn header(&mut self, _class: HeaderClass, _name: Option<FieldName>, header: &[u8]) {
        if self.headers {
            self.keys.push(header.to_vec());
        }
    }

    fn body(&mut self, line: &[u8], _complete: bool) {
        if self.bodies {
            self.keys.push(line.to_vec());
        }
    }
}

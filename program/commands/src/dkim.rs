//! `yamabiko dkim genkey` makes a key and says what DNS must say of it; `yamabiko dkim check` asks whether it does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use yamabiko_mailauth::{Algorithm, Key, Published, generate, published};

use crate::context::exit;
use crate::getopt::{Flag, parse};

const USAGE: &str = "usage: yamabiko dkim genkey [-a rsa|ed25519] [-o file] domain selector   make a key, print its DNS record\n       \
                     yamabiko dkim check [-f file] domain selector                     ask DNS for the record\n\
                     Without -o the key is written to SELECTOR.DOMAIN.private in the current directory.";

/// Bytes of one string of a TXT record (RFC 1035 section 3.3).
const STRING: usize = 255;

/// Runs it.
pub fn run(args: &[String]) -> ExitCode {
    let fail = |code: u8, text: &str| {
        eprintln!("yamabiko dkim: {text}");
        ExitCode::from(code)
    };
    let Some((task, rest)) = args.split_first() else { return fail(exit::USAGE, USAGE) };
    let (flags, words) = match parse(if task == "genkey" { "a:o:" } else { "f:" }, rest) {
        Ok(parsed) => parsed,
        Err(bad) => return fail(exit::USAGE, &format!("{bad}\n{USAGE}")),
    };
    let [domain, selector] = &words[..] else { return fail(exit::USAGE, USAGE) };
    let named = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    if !named(domain) || !named(selector) {
        return fail(exit::USAGE, "a domain or selector has letters, digits, dots, hyphens and underscores");
    }
    let (mut algorithm, mut file) = (Algorithm::Rsa, None);
    for flag in &flags {
        match flag {
            Flag::Value('a', name) => match name.as_str() {
                "rsa" => algorithm = Algorithm::Rsa,
                "ed25519" => algorithm = Algorithm::Ed25519,
                _ => return fail(exit::USAGE, &format!("unknown algorithm: {name}\n{USAGE}")),
            },
            Flag::Value(_, path) => file = Some(path.clone()),
            Flag::Plain(_) => {}
        }
    }
    let done = match task.as_str() {
        "genkey" => genkey(domain, selector, algorithm, file),
        "check" => check(domain, selector, file),
        _ => return fail(exit::USAGE, USAGE),
    };
    match done {
        Ok(code) => code,
        Err(text) => fail(1, &text),
    }
}

fn genkey(domain: &str, selector: &str, algorithm: Algorithm, file: Option<String>) -> Result<ExitCode, String> {
    let file = file.unwrap_or_else(|| format!("{selector}.{domain}.private"));
    let pem = generate(algorithm)?;
    let record = Key::from_pem(&pem)?.record().to_owned();
    // Only for root; a key that is there is not written over.
    let mut opened = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(|error| format!("{file}: {error}"))?;
    opened.write_all(pem.as_bytes()).and_then(|()| opened.sync_all()).map_err(|error| format!("{file}: {error}"))?;
    let path = fs::canonicalize(&file).map_or(file, |path| path.display().to_string());
    crate::say!("; private key: {path}");
    crate::say!("; dkim_signing_table: {domain} {selector} {domain} {path}");
    crate::say!("{}", zone_line(domain, selector, &record));
    Ok(ExitCode::SUCCESS)
}

/// The record as a line of a zone file, in strings that are short enough.
fn zone_line(domain: &str, selector: &str, record: &str) -> String {
    let mut strings = Vec::new();
    let mut rest = record;
    while !rest.is_empty() {
        // ASCII: any place is a boundary.
        let (string, tail) = rest.split_at(rest.len().min(STRING));
        strings.push(format!("\"{string}\""));
        rest = tail;
    }
    format!("{selector}._domainkey.{domain}. IN TXT ( {} )", strings.join(" "))
}

fn check(domain: &str, selector: &str, file: Option<String>) -> Result<ExitCode, String> {
    let key = match &file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            Some(Key::from_pem(&text).map_err(|why| format!("{path}: {why}"))?)
        }
        None => None,
    };
    let found = published(domain, selector, key.as_ref())?;
    let name = format!("{selector}._domainkey.{domain}");
    match found {
        Published::Matches(text) => {
            crate::say!("{name}: {text}");
            crate::say!("{}", if key.is_some() { "it is the record of this key" } else { "it has a public key" });
            Ok(ExitCode::SUCCESS)
        }
        Published::Differs(text) => {
            crate::say!("{name}: {text}");
            Err(match &key {
                Some(key) => format!("this is not the record of the key; it should be: {}", key.record()),
                None => "there is no public key in it: signatures with this selector are void".to_owned(),
            })
        }
        Published::Missing => Err(format!("{name}: no TXT record")),
        Published::TryAgain(why) => Err(format!("{name}: cannot be asked now: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_records_are_split() {
        let line = zone_line("x.test", "s", &"a".repeat(300));
        assert_eq!(line, format!("s._domainkey.x.test. IN TXT ( \"{}\" \"{}\" )", "a".repeat(255), "a".repeat(45)));
    }
}

//! Keys of TLS and tables of passwords of the SMTP client, read with root's rights and handed to the engine, which has none
//! (Postfix opens them before it drops root's rights).
//!
//! Which files these are is read from main.cf and master.cf alone, and from the source text of `tls_server_sni_maps`: the
//! engine cannot ask for any. Contents are passed on as they are; only the engine looks into them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;
use yamabiko_config::{Config, View};
use yamabiko_ipc::boss::Keys;

/// A file of keys has this many bytes at most; the text of `tls_server_sni_maps` ten times as many.
const MAX_FILE: u64 = 1 << 20;
/// Names in `tls_server_sni_maps`.
const MAX_NAMES: usize = 100_000;

/// Table types with a text file as their source.
const WITH_SOURCE: [&str; 6] = ["hash", "btree", "lmdb", "cdb", "dbm", "texthash"];

/// What tells that a file is another than before.
pub(crate) type Stamps = BTreeMap<String, Option<(u64, u64, i64, i64)>>;

fn stamp(path: &str) -> Option<(u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Files of a list of [`gather`] that are others now.
pub(crate) fn changed(stamps: &Stamps) -> bool {
    stamps.iter().any(|(path, before)| stamp(path) != *before)
}

/// The keys that the services of a configuration name.
pub(crate) fn gather(config: &Config) -> (Keys, Stamps) {
    let mut paths = BTreeSet::new();
    of_view(&config.main(), &["smtpd_"], &mut paths);
    for service in config.services() {
        let view = config.service_view(service);
        match service.command.as_str() {
            "smtpd" => of_view(&view, &["smtpd_"], &mut paths),
            "postscreen" => of_view(&view, &["smtpd_", "tlsproxy_", "postscreen_"], &mut paths),
            "smtp" => of_client(&view, "smtp_", &mut paths),
            "lmtp" => of_client(&view, "lmtp_", &mut paths),
            _ => {}
        }
    }
    let mut keys = Keys::default();
    let mut stamps = Stamps::new();
    for table in config.main().list("tls_server_sni_maps") {
        let Some((_, source)) = table.split_once(':').filter(|(kind, _)| WITH_SOURCE.contains(kind)) else {
            continue;
        };
        stamps.insert(source.to_owned(), stamp(source));
        match read(source, MAX_FILE * 10) {
            Ok(text) => keys.sni.extend(names(&text)),
            // Said by whoever wanted to use it.
            Err(error) => drop(keys.files.insert(source.to_owned(), Err(error.to_string()))),
        }
    }
    let signing = signing_keys(&config.main(), &mut stamps);
    paths.extend(signing);
    paths.extend(keys.sni.iter().flat_map(|(_, files)| files.iter().cloned()));
    for path in paths {
        stamps.insert(path.clone(), stamp(&path));
        let text = read(&path, MAX_FILE).map_err(|error| reason(&error));
        keys.files.insert(path, text);
    }
    (keys, stamps)
}

/// Files with the keys of signatures: what `dkim_signing_table` and `arc_sealing_identity` name.
fn signing_keys(main: &View, stamps: &mut Stamps) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut take = |text: &str| {
        let words = text.split([',', ' ', '\t', '\n', '{', '}']).filter(|word| word.starts_with('/'));
        paths.extend(words.take(MAX_NAMES).map(str::to_owned));
    };
    take(&main.text("arc_sealing_identity"));
    for table in main.list("dkim_signing_table") {
        let Some((kind, source)) = table.split_once(':') else { continue };
        if kind == "inline" {
            take(source);
        } else if WITH_SOURCE.contains(&kind) {
            stamps.insert(source.to_owned(), stamp(source));
            // What is wrong with it is said by whoever wants to use it.
            let text = read(source, MAX_FILE * 10).unwrap_or_default();
            for (_, words) in names(&text) {
                take(&words.join(" "));
            }
        }
    }
    paths
}

/// Without the number that nobody needs.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn of_view(view: &View, prefixes: &[&str], paths: &mut BTreeSet<String>) {
    for prefix in prefixes {
        let files = ["cert_file", "key_file", "eccert_file", "eckey_file"];
        let named = files.iter().map(|name| view.text(&format!("{prefix}tls_{name}")));
        let named = named.chain(view.list(&format!("{prefix}tls_chain_files")));
        paths.extend(named.map(|path| path.trim().to_owned()).filter(|path| path.starts_with('/')));
    }
}

/// A client's keys and certificates, and the tables of its passwords: those are for root's eyes alone nearly everywhere.
fn of_client(view: &View, prefix: &str, paths: &mut BTreeSet<String>) {
    let text = |suffix: &str| view.text(&format!("{prefix}{suffix}"));
    let list = |suffix: &str| view.list(&format!("{prefix}{suffix}"));
    let files = ["tls_cert_file", "tls_key_file", "tls_eccert_file", "tls_eckey_file"].map(text);
    let named = files.into_iter().chain(list("tls_chain_files"));
    let tables = if view.bool(&format!("{prefix}sasl_auth_enable")) { list("sasl_password_maps") } else { Vec::new() };
    let tables = tables.into_iter().filter_map(|table| {
        let table = table.strip_prefix("proxy:").unwrap_or(&table);
        table.split_once(':').map(|(_, path)| path.to_owned())
    });
    paths.extend(named.chain(tables).map(|path| path.trim().to_owned()).filter(|path| path.starts_with('/')));
}

/// A regular file's text. Anything else could make root wait.
fn read(path: &str, most: u64) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other("the file is too long"));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `name file, file ...`: logical lines as in every table of Postfix's (postmap(1)).
fn names(text: &str) -> Vec<(String, Vec<String>)> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    let entry = |line: String| {
        let (name, files) = line.trim().split_once([' ', '\t'])?;
        let files: Vec<String> =
            files.split([',', ' ', '\t']).filter(|file| !file.is_empty()).map(str::to_owned).collect();
        Some((name.to_ascii_lowercase(), files))
    };
    lines.into_iter().take(MAX_NAMES).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yamabiko_config::Host;

    #[test]
    fn names_of_a_table() {
        let text = "# comment\n\nOne.test /a.pem, /b.pem\n.two.test\t/c.pem\n  /d.pem\n  # in between\nalone\n";
        let expected = [("one.test", vec!["/a.pem", "/b.pem"]), (".two.test", vec!["/c.pem", "/d.pem"])];
        let expected: Vec<(String, Vec<String>)> = expected
            .into_iter()
            .map(|(name, files)| (name.to_owned(), files.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(names(text), expected);
    }

    #[test]
    fn files_that_are_named_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["cert", "key", "chain", "sni.pem", "secret"] {
            std::fs::write(path(name), name).unwrap();
        }
        std::fs::write(path("sni"), format!("a.test {}\n", path("sni.pem"))).unwrap();
        let main = format!(
            "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\ntls_server_sni_maps = texthash:{}\nsmtpd_tls_CAfile = {}\n",
            path("cert"),
            path("missing"),
            path("sni"),
            path("secret")
        );
        let master = format!("smtps inet n - n - - smtpd\n  -o smtpd_tls_chain_files={}\n", path("chain"));
        let config = Config::from_texts(&main, &master, ("main.cf", "master.cf"), &Host::default()).unwrap();
        let (keys, stamps) = gather(&config);
        let mut found: Vec<_> = keys.files.iter().map(|(path, text)| (path.clone(), text.is_ok())).collect();
        found.sort();
        let mut expected =
            vec![(path("cert"), true), (path("missing"), false), (path("chain"), true), (path("sni.pem"), true)];
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(keys.files[&path("missing")], Err("No such file or directory".to_owned()));
        assert!(!changed(&stamps));
        std::fs::write(path("missing"), "there now").unwrap();
        assert!(changed(&stamps));
    }

    #[test]
    fn what_is_no_file() {
        assert!(read("/", 10).is_err() && read("/dev/zero", 10).is_err() && read("/nonexistent", 10).is_err());
    }
}

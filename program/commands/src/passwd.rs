//! `yamabiko passwd`: the file of logins for `smtpd_sasl_type = yamabiko`.
//!
//! A line per user: the name, blanks, the hash. The file is replaced whole; it is readable for root and for the group of
//! `mail_owner`, under whom the server reads it, and for nobody else. A new password counts from the next login on.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use yamabiko_config::View;
use yamabiko_sasl::passwords::{self, Scheme};

use crate::context::{exit, instance};
use crate::getopt::{Flag, parse};

const USAGE: &str = "usage: yamabiko passwd [-c config_dir] [-f file] [-s scheme] user     set a password\n       \
                     yamabiko passwd [-c config_dir] [-f file] -t user               try a password\n       \
                     yamabiko passwd [-c config_dir] [-f file] -d user               delete a user\n\
                     schemes: argon2id (default), scram-sha-256, sha512-crypt, bcrypt\n\
                     The password is asked for, or read from standard input. The file is that of smtpd_sasl_path.";

/// What is to be done.
enum Wish {
    Set(Scheme),
    Try,
    Delete,
}

/// Runs it.
pub fn run(args: &[String], called_as_yamabiko: bool) -> ExitCode {
    let fail = |code: u8, text: &str| {
        eprintln!("yamabiko passwd: {text}");
        ExitCode::from(code)
    };
    let (flags, words) = match parse("c:df:s:t", args) {
        Ok(parsed) => parsed,
        Err(bad) => return fail(exit::USAGE, &format!("{bad}\n{USAGE}")),
    };
    let (mut directory, mut file, mut wish) = (None, None, Wish::Set(Scheme::Argon2id));
    for flag in &flags {
        match flag {
            Flag::Value('c', dir) => directory = Some(dir.as_str()),
            Flag::Value('f', path) => file = Some(PathBuf::from(path)),
            Flag::Value('s', name) => match Scheme::of(name) {
                Some(scheme) => wish = Wish::Set(scheme),
                None => return fail(exit::USAGE, &format!("unknown scheme: {name}\n{USAGE}")),
            },
            Flag::Plain('t') => wish = Wish::Try,
            Flag::Plain('d') => wish = Wish::Delete,
            _ => {}
        }
    }
    let [user] = &words[..] else { return fail(exit::USAGE, USAGE) };
    if user.is_empty() || user.starts_with('#') || user.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return fail(exit::USAGE, "a user's name has no blanks, and does not begin with #");
    }
    let config = match instance(directory, called_as_yamabiko).load() {
        Ok(config) => config,
        Err(error) => return fail(exit::CONFIG, &format!("fatal: {error}")),
    };
    let main = config.main();
    let path = match file.map_or_else(|| path_of(&main), Ok) {
        Ok(path) => path,
        Err(why) => return fail(exit::CONFIG, &format!("fatal: {why}")),
    };
    let done = match wish {
        Wish::Set(scheme) => set(&path, &main, user, scheme),
        Wish::Delete => replace(&path, &main, user, None),
        Wish::Try => attempt(&path, user),
    };
    match done {
        Ok(Done::Said(text)) => {
            crate::say!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Done::No(text)) => fail(1, &text),
        Err(error) => fail(exit::OSERR, &format!("fatal: {}: {error}", path.display())),
    }
}

enum Done {
    Said(String),
    No(String),
}

/// The file that the server reads.
fn path_of(main: &View) -> Result<PathBuf, String> {
    let path = main.text("smtpd_sasl_path");
    let bare = match path.split_once(':') {
        None => path.as_str(),
        Some(("texthash" | "hash", bare)) => bare,
        Some((kind, _)) => return Err(format!("smtpd_sasl_path is a table of type {kind}: name a file with -f")),
    };
    match Path::new(bare).is_absolute() {
        true => Ok(PathBuf::from(bare)),
        false => Err(format!("smtpd_sasl_path = {path} names no file: set it, or name a file with -f")),
    }
}

fn password(prompts: &[&str]) -> io::Result<Vec<String>> {
    let mut answers = Vec::new();
    for prompt in prompts {
        if io::stdin().is_terminal() {
            answers.push(yamabiko_sys::terminal::ask(prompt)?);
        } else if answers.is_empty() {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line)?;
            answers.push(line.trim_end_matches(['\r', '\n']).to_owned());
        }
    }
    Ok(answers)
}

fn set(path: &Path, main: &View, user: &str, scheme: Scheme) -> io::Result<Done> {
    let answers = password(&["New password: ", "The same again: "])?;
    let Some(first) = answers.first() else { return Ok(Done::No("no password".to_owned())) };
    if answers.iter().any(|answer| answer != first) {
        return Ok(Done::No("these are two different passwords; nothing was changed".to_owned()));
    }
    match passwords::hash(scheme, first) {
        Ok(hash) => replace(path, main, user, Some(&hash)),
        Err(why) => Ok(Done::No(why.to_string())),
    }
}

fn attempt(path: &Path, user: &str) -> io::Result<Done> {
    let text = fs::read_to_string(path)?;
    let stored = text.lines().find_map(|line| entry(line).filter(|(name, _)| name.eq_ignore_ascii_case(user)));
    let Some((_, stored)) = stored else { return Ok(Done::No(format!("{user}: no such user"))) };
    let answers = password(&["Password: "])?;
    Ok(match passwords::verify(answers.first().map_or("", String::as_str), stored) {
        Ok(true) => Done::Said(format!("{user}: the password is right")),
        Ok(false) => Done::No(format!("{user}: the password is wrong")),
        Err(why) => Done::No(format!("{user}: {why}")),
    })
}

/// User and hash of a line; `None` for comments and blank lines.
fn entry(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    line.split_once([' ', '\t']).map(|(user, hash)| (user, hash.trim()))
}

/// The file's text with the user's line set anew, taken out, or put at the end. `None`: there was nothing to take out.
fn edited(text: &str, user: &str, hash: Option<&str>) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 128);
    let mut found = false;
    let new = |out: &mut String| {
        if let Some(hash) = hash {
            out.push_str(&format!("{user} {hash}\n"));
        }
    };
    for line in text.lines() {
        let own = entry(line).is_some_and(|(name, _)| name.eq_ignore_ascii_case(user));
        if !own {
            out.push_str(line);
            out.push('\n');
        } else if !std::mem::replace(&mut found, true) {
            new(&mut out);
        }
    }
    if !found {
        hash?;
        new(&mut out);
    }
    Some(out)
}

fn replace(path: &Path, main: &View, user: &str, hash: Option<&str>) -> io::Result<Done> {
    let (before, old) = match fs::read_to_string(path) {
        Ok(text) => (text, fs::metadata(path).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(error),
    };
    let Some(text) = edited(&before, user, hash) else { return Ok(Done::No(format!("{user}: no such user"))) };
    let name = format!("{}.new", path.display());
    // Left behind by somebody who was interrupted.
    let _ = fs::remove_file(&name);
    let mode = old.as_ref().map_or(0o640, |old| old.mode() & 0o777);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&name)?;
    let group = old.map_or_else(|| group_of(&main.text("mail_owner")), |old| Some(old.gid()));
    // Who is not root makes a file of his own, which the server reads if it runs under the same user.
    let _ = fchown(&file, None, group);
    // Whatever the umask took away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&name, path)?;
    Ok(Done::Said(format!("{user}: {}", if hash.is_some() { "password set" } else { "deleted" })))
}

fn group_of(user: &str) -> Option<u32> {
    nix::unistd::User::from_name(user).ok().flatten().map(|user| user.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_changed_and_nothing_else() {
        let text = "# users\nalice $6$old\n\nbob\t$6$bob\n";
        for (user, hash, expected) in [
            ("alice", Some("$6$new"), Some("# users\nalice $6$new\n\nbob\t$6$bob\n")),
            ("ALICE", Some("$6$new"), Some("# users\nALICE $6$new\n\nbob\t$6$bob\n")),
            ("carol", Some("$6$c"), Some("# users\nalice $6$old\n\nbob\t$6$bob\ncarol $6$c\n")),
            ("bob", None, Some("# users\nalice $6$old\n\n")),
            ("carol", None, None),
            ("#", None, None),
        ] {
            assert_eq!(edited(text, user, hash).as_deref(), expected, "{user}");
        }
        assert_eq!(edited("", "a", Some("h")).as_deref(), Some("a h\n"));
        assert_eq!(edited("x y", "a", Some("h")).as_deref(), Some("x y\na h\n"));
    }
}

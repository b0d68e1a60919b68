//! The life of notices in the running program: the lines of the docs (`asked`); whoever makes loops, set against each other (`pairs`); a client that forges
//! senders (`storm`); qmail's controls and `.qmail` (`qmail`); what main.cf has for calm, languages and a second way
//! (`controls`), and who is told when the queue is what is broken (`dead_queue`); the reports that people ask for (`reports`); whether anybody reads the postmaster's mail (`postmaster`).

mod asked;
mod controls;
mod dead_queue;
mod pairs;
mod postmaster;
mod qmail;
mod reports;
mod storm;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use crate::harness::Instance;

/// A command that everybody may run.
fn script(instance: &Instance, name: &str, text: &str) -> PathBuf {
    let path = instance.etc().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// In a mount name space of our own: these are the users of the machine, beside those that it has, with homes below `homes/`.
fn users(instance: &Instance, names: &[&str]) {
    let homes = instance.path().join("homes");
    fs::create_dir(&homes).unwrap();
    fs::set_permissions(&homes, fs::Permissions::from_mode(0o755)).unwrap();
    let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
    for (uid, name) in (30_001u32..).zip(names) {
        let home = homes.join(name);
        fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(65_534)).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        passwd.push_str(&format!("{name}:x:{uid}:65534:{name}:{}:/bin/sh\n", home.display()));
    }
    instance.file("passwd", &passwd);
    crate::disk::shell(&format!("mount --bind {}/passwd /etc/passwd", instance.etc().display()));
}

/// A file of a user's home.
fn at_home(instance: &Instance, user: &str, name: &str, text: &str) {
    let home = instance.path().join("homes").join(user);
    let path = home.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&home).unwrap());
    chown(&path, Some(uid), Some(65_534)).unwrap();
}

/// How many messages were taken so far, notices and forwards too.
fn taken(instance: &Instance) -> usize {
    instance.log().matches(": message-id=").count()
}

/// The one mail that came since those were there. (The names of a Maildir's files are in no order within a second.)
#[track_caller]
fn new_mail(instance: &Instance, name: &str, before: &[String]) -> String {
    let mails = instance.until_mails(name, before.len() + 1);
    mails.into_iter().find(|mail| !before.contains(mail)).expect("one is new")
}

//! The life of notices in the running program: the lines of the docs (`asked`); whoever makes loops, set against each other (`pairs`); a client that forges
//! senders (`storm`); qmail's controls and `.qmail` (`qmail`); what main.cf has for calm, languages and a second way
//! (`controls`), and who is told when the queue is what is broken (`dead_queue`); the reports that people ask for (`reports`); who hears of crashes and bugs (`software`); whether anybody reads the postmaster's mail (`postmaster`).

mod asked;
mod controls;
mod dead_queue;
mod pairs;
mod postmaster;
mod qmail;
mod reports;
mod software;
mod storm;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::harness::{Instance, address, as_root};

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

/// A web server that takes everything and keeps it.
fn web() -> (String, Arc<Mutex<Vec<String>>>) {
    let address = address();
    let listener = TcpListener::bind(address).unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap_or(0);
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            kept.lock().unwrap().push(head + &String::from_utf8_lossy(&body));
            let _ = reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    (format!("http://{address}/hook"), taken)
}

/// The private service `pager`, whose program puts what it is told into this file.
fn pager(instance: &mut Instance) -> PathBuf {
    let file = instance.path().join("box/told");
    let program = script(instance, "pager.sh", &format!("cat >> {}\n", file.display()));
    let user = if as_root() { "daemon".to_owned() } else { std::env::var("USER").unwrap_or_default() };
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    instance.services.push(format!("pager unix - n n - 0 spawn user={user} argv={}", program.display()));
    file
}

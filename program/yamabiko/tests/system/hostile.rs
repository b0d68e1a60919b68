//! Users who lay traps for the worker that delivers their mail: links, pipes, directories, other people's files, devices,
//! a race. Whatever they do, it can neither read nor write what they could not, and it comes back.
//!
//! The worker itself is spoken to, under the ID of an ordinary user, as the supervisor starts it. Only root can do that.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::Mode;
use nix::unistd::{User, mkfifo};
use serde_json::{Value, json};

use crate::harness::{Instance, as_root};

const SECRET: &str = "nobody else may read this\n";

/// A worker under somebody's ID, and our end of the conversation.
struct Worker {
    child: Child,
    socket: UnixStream,
}

impl Worker {
    fn start(program: &Path, user: &User) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
        let child = Command::new(program)
            .arg0("yamabiko-local")
            .args(["--role", "local"])
            .env_clear()
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self { child, socket: ours }
    }

    /// Gives it a job, with a message if it is a delivery; what it answers.
    fn job(&mut self, job: &Value) -> Value {
        use std::io::{Read, Write};
        let frame = |kind: u8, bytes: &[u8]| {
            let mut all = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            all.push(kind);
            all.extend_from_slice(bytes);
            all
        };
        let mut all = frame(b'J', job.to_string().as_bytes());
        if job.get("Deliver").is_some() {
            all.extend(frame(b'B', b"Subject: x\n\ntext\n"));
            all.extend(frame(b'B', b""));
        }
        self.socket.write_all(&all).unwrap();
        let mut reader = BufReader::new(&self.socket);
        let mut head = [0; 5];
        reader.read_exact(&mut head).unwrap_or_else(|error| panic!("no answer to {job}: {error}"));
        let mut text = vec![0; u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize];
        reader.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mailbox(path: &Path, strict: bool) -> Value {
    json!({ "Deliver": { "prepend": "A: b\n", "place": { "Mailbox": {
        "path": path, "from_line": "From x", "limit": 0, "strict_owner": strict, "trouble": "4.2.0",
        "locking": { "styles": ["Fcntl", "Flock", "Dotlock"], "attempts": 1, "delay_ms": 1, "stale_s": 500 },
    } } } })
}

fn maildir(path: &Path) -> Value {
    json!({ "Deliver": { "prepend": "A: b\n", "place": { "Maildir": { "path": path, "limit": 0, "trouble": "4.2.0" } } } })
}

fn forward(path: &Path) -> Value {
    json!({ "Forward": { "paths": [path], "limit": 100_000 } })
}

fn include(path: &Path) -> Value {
    json!({ "Include": { "path": path, "limit": 100_000 } })
}

fn dot_qmail(home: &Path, name: &str) -> Value {
    json!({ "DotQmail": { "home": home, "candidates": [name], "base": name, "limit": 100_000 } })
}

/// A home with a victim's things beside it.
struct Place {
    home: PathBuf,
    /// Root's, for root alone.
    secret: PathBuf,
    /// Root's, in a directory that only root may enter.
    vault: PathBuf,
    /// Another user's mailbox.
    other: PathBuf,
}

fn place(root: &Path, user: &User) -> Place {
    let home = root.join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    let put = |path: PathBuf, owner: u32| {
        fs::write(&path, SECRET).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path
    };
    fs::create_dir(root.join("closed")).unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let (secret, vault) = (put(root.join("secret"), 0), put(root.join("closed/vault"), 0));
    Place { home, secret, vault, other: put(root.join("other"), 65_123) }
}

#[test]
fn traps_give_nothing() {
    if !as_root() {
        eprintln!("skipped: only root can start a worker for another user");
        return;
    }
    let instance = Instance::new();
    let program = fs::canonicalize(instance.path().join("bin/yamabiko")).unwrap();
    let user = User::from_name("daemon").unwrap().unwrap();
    let Place { home, secret, vault, other } = place(instance.path(), &user);
    let own = |path: &Path| {
        nix::unistd::fchownat(
            nix::fcntl::AT_FDCWD,
            path,
            Some(user.uid),
            Some(user.gid),
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .unwrap();
    };
    let link = |name: &str, target: &Path| {
        let path = home.join(name);
        symlink(target, &path).unwrap();
        own(&path);
        path
    };
    let file = |name: &str, mode: u32| {
        let path = home.join(name);
        fs::write(&path, "&x@y.test\n").unwrap();
        own(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let pipe = home.join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    own(&pipe);
    let hard = home.join("hard");
    fs::hard_link(&secret, &hard).unwrap();
    let directory = home.join("directory");
    fs::create_dir(&directory).unwrap();
    own(&directory);
    let closed_maildir = home.join("maildir");
    symlink(instance.path().join("closed"), &closed_maildir).unwrap();
    let half = home.join("half");
    fs::create_dir(&half).unwrap();
    symlink("/etc", half.join("tmp")).unwrap();
    // Each of these must fail, and say so without a word of what is in the files.
    let traps: Vec<(&str, Value)> = vec![
        ("a .forward that is a link to a secret", forward(&link(".forward", &secret))),
        ("a .forward that is a link into a closed directory", forward(&link("f2", &vault))),
        ("a .forward that is a pipe", forward(&pipe)),
        ("a .forward that is a directory", forward(&directory)),
        ("a .forward that is a device", forward(Path::new("/dev/zero"))),
        ("a .forward that everybody can write", forward(&file("f3", 0o666))),
        ("a .forward that is another user's", forward(&other)),
        ("a .forward that is a hard link to a secret", forward(&hard)),
        (
            ".qmail that is a link to a secret",
            dot_qmail(&home, link(".qmail-a", &secret).file_name().unwrap().to_str().unwrap()),
        ),
        (".qmail outside", dot_qmail(&home, "../secret")),
        (".qmail that is a pipe", dot_qmail(&home, "pipe")),
        (".qmail that everybody can write", dot_qmail(&home, "f3")),
        (".qmail that is a directory", dot_qmail(&home, "directory")),
        (".qmail that is a hard link to a secret", dot_qmail(&home, "hard")),
        (".qmail that is a link into a closed directory", dot_qmail(&home, "f2")),
        (
            ".qmail that is a link to a device",
            dot_qmail(&home, link("q2", Path::new("/dev/zero")).file_name().unwrap().to_str().unwrap()),
        ),
        ("a list that is a secret", include(&secret)),
        ("a list that is a pipe", include(&pipe)),
        ("a list that is another user's", include(&other)),
        ("a list that is a directory", include(&directory)),
        ("a list that is a link into a closed directory", include(&home.join("f2"))),
        ("a list that is a device", include(Path::new("/dev/zero"))),
        ("a mailbox that is a link to a secret", mailbox(&link("m1", &secret), true)),
        ("a mailbox that is a link to another's", mailbox(&link("m2", &other), true)),
        ("a file that is a link to a secret", mailbox(&link("m3", &secret), false)),
        ("a file that is a link into a closed directory", mailbox(&link("m4", &vault), false)),
        ("a file in a closed directory", mailbox(&instance.path().join("closed/new"), false)),
        ("a mailbox that is a hard link", mailbox(&hard, true)),
        ("a file that is a hard link", mailbox(&hard, false)),
        ("another user's mailbox", mailbox(&other, false)),
        ("a mailbox that is a directory", mailbox(&directory, true)),
        ("a mailbox that is a pipe without a reader", mailbox(&pipe, true)),
        ("a file that is a pipe without a reader", mailbox(&pipe, false)),
        ("a mailbox that is a device", mailbox(Path::new("/dev/null"), true)),
        ("a full device", mailbox(Path::new("/dev/full"), false)),
        ("a system file", mailbox(Path::new("/etc/passwd"), false)),
        ("a maildir in a closed directory", maildir(&closed_maildir)),
        ("a maildir whose tmp leads away", maildir(&half)),
        ("a maildir that is a file", maildir(&secret)),
        ("a maildir that is a device", maildir(Path::new("/dev/null"))),
    ];
    let mut worker = Worker::start(&program, &user);
    for (what, job) in traps {
        let answer = worker.job(&job);
        let text = answer.to_string();
        let nothing = answer.get("Failed").is_some()
            || answer.get("Unsafe").is_some()
            || answer == json!({ "Text": null })
            || answer == json!({ "Qmail": null });
        assert!(nothing && !text.contains("nobody else") && !text.contains("x@y"), "{what}: {text}");
    }
    for path in [&secret, &vault, &other] {
        assert_eq!(fs::read_to_string(path).unwrap(), SECRET, "{}", path.display());
    }
    assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o777, 0o666);
    // And after all that it still does its work.
    let good = home.join("good");
    assert!(worker.job(&mailbox(&good, true)).get("Delivered").is_some());
    assert_eq!(fs::metadata(&good).unwrap().uid(), user.uid.as_raw());
}

#[test]
fn a_mailbox_that_changes_while_it_is_opened() {
    if !as_root() {
        eprintln!("skipped: only root can start a worker for another user");
        return;
    }
    let instance = Instance::new();
    let program = fs::canonicalize(instance.path().join("bin/yamabiko")).unwrap();
    let user = User::from_name("daemon").unwrap().unwrap();
    let Place { home, secret, other, .. } = place(instance.path(), &user);
    let path = home.join("box");
    let stop = Arc::new(AtomicBool::new(false));
    // Somebody swaps the mailbox for links to what is not theirs, all the time.
    let swapper = std::thread::spawn({
        let (stop, path, targets) = (Arc::clone(&stop), path.clone(), [secret.clone(), other.clone()]);
        move || {
            let next = path.with_extension("next");
            for target in targets.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                symlink(target, &next).unwrap();
                let _ = fs::rename(&next, &path);
                File::create(&next).unwrap();
                let _ = fs::rename(&next, &path);
            }
        }
    });
    let mut worker = Worker::start(&program, &user);
    for turn in 0..300 {
        let jobs =
            [mailbox(&path, turn % 2 == 0), forward(&path), include(&path), dot_qmail(&home, "box"), maildir(&path)];
        for job in jobs {
            let answer = worker.job(&job).to_string();
            assert!(!answer.contains("nobody else"), "{job}: {answer}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    for path in [&secret, &other] {
        assert_eq!(fs::read_to_string(path).unwrap(), SECRET);
    }
}
